//! What a message is outside any protocol: its envelope, its addresses, the trace field we add. No I/O.

pub mod date;
pub mod envelope;
pub mod path;
pub mod trace;
