//! What a message is outside any protocol: its addresses, the trace field we add. No I/O.

pub mod date;
pub mod path;
pub mod trace;
pub mod verp;
