//! `--show-config`: every parameter, its value and where it came from.
