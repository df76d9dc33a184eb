//! See oracle::pop3_session.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::pop3_session(input));
