//! See oracle::queue_file.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::queue_file(input));
