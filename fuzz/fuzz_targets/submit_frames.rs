//! See oracle::submit_frames.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::submit_frames(input));
