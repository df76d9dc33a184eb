//! See oracle::qmtp_session.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::qmtp_session(input));
