//! See oracle::netstrings.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::netstrings(input));
