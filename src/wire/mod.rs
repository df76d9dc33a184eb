//! Framing: octets to lines, dot-stuffed text and netstrings, all pushed in and bounded. No I/O.

pub mod chunk;
pub mod dot;
pub mod fold;
pub mod line;
pub mod netstring;
pub mod secret;
