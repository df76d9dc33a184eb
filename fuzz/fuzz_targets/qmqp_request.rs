//! See oracle::qmqp_request.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::qmqp_request(input));
