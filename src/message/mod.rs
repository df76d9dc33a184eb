//! What a message is outside any protocol: its addresses, what is said beside them, the trace field we add. No I/O.

pub mod address_list;
pub mod date;
pub mod header;
pub mod idna;
pub mod parameters;
pub mod parts;
pub mod path;
pub mod trace;
pub mod verp;
