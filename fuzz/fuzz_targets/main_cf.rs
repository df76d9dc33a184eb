//! See oracle::main_cf.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::main_cf(input));
