//! The front ends for people and programs of this machine: `submit` with operands, `sendmail`, `mailq`, `newaliases` and
//! `qmail-queue`, which are one program by its names (`command_line.rs`), and `checkaddr`.
//!
//! What they take they hand to `submit`, which knows nothing of them, as the protocol servers do (`hand_in.rs`).

pub mod checkaddr;
pub mod command_line;
mod hand_in;
mod qmail_queue;
pub mod sendmail;
