//! See oracle::mbox_splitter.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::mbox_splitter(input));
