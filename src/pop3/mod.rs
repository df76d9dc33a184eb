//! POP3: what of RFC 1939 and its extensions we speak, what we leave out, and why.
//!
//! USER, PASS, STAT, LIST, RETR, DELE, NOOP, RSET, QUIT, TOP and UIDL of RFC 1939; CAPA, response codes and pipelining of
//! RFC 2449 and RFC 3206; LAST of RFC 1460, for clients older than UIDL; STLS of RFC 2595; AUTH of RFC 5034; UTF8 of RFC 6856,
//! before and after which octets are octets, and its LANG, for English. APOP is there, and its stamp in the greeting, only
//! where every password is stored in clear: a stamp that cannot be used locks clients out.
//!
//! Numbers, sizes and unique-ids are those of the moment the maildrop was opened. Nothing is ever written into a
//! message, and nothing is removed but at QUIT.
//!
//! `command` turns octets into commands, `session` is the state machine, `reply` holds every word we say, `content`
//! puts messages on the wire; `dialogue` reads and writes, `server` does what the session says; `split` is the form with
//! two processes in which nothing from the network is parsed with rights, `reuse` the same with processes that stay for the
//! next client, and `relay` carries octets between them.

pub mod command;
pub mod command_line;
pub mod content;
mod dialogue;
mod expiry;
pub mod import;
mod login_delay;
pub mod relay;
pub mod reply;
pub mod reuse;
pub mod server;
pub mod session;
pub mod split;
pub mod standalone;

pub use server::{refuse, serve};
