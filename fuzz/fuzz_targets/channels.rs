//! See oracle::channels.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::channels(input));
