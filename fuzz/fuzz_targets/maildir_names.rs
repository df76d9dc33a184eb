//! See oracle::maildir_names.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::maildir_names(input));
