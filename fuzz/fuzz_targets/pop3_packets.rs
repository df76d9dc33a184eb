//! See oracle::pop3_packets.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::pop3_packets(input));
