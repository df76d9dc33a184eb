//! See oracle::smtp_session.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::smtp_session(input));
