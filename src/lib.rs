//! doorpost: small Unix mail servers, one process per connection, the protocol on standard input and output.
//!
//! The layers, and which may use which (use goes downwards only):
//!
//! ```text
//! src/bin/*                                  one page a program
//! local                                      front ends for people and programs of this machine; only programs use it
//! smtp::server  pop3::server  qmqp::server   read, ask the session, do what it says
//! deliver                                    takes queued mail on
//! submit                                     puts mail into the queue, and says who may receive any
//! relay  queue  mailbox  mailq               other hosts; what keeps the mail, and what shows it
//! smtpd                                      the connection server, which knows no protocol but how each says "later"
//! auth                                       who a client is
//! aliases  channel  config  net  users       tables, accounts, the connection
//! smtp::session  pop3::session               state machines: no clock, file, socket or environment from here down
//! */command  */reply  qmqp::request
//! sasl                                       mechanisms by which clients show who they are
//! message  wire                              addresses, trace, dates; lines, dots, netstrings
//! ```
//!
//! Beside them: `exit` (outcome to exit status), `flocked` (a file under a lock), `logging`, `record` (a session as a
//! transcript), `clock` (which can be made to stand), `cli`, `privilege`, `kept` (what was made of a file), `lookup` (an
//! answer, or none for now), `again` (a call that a signal interrupted), `port` (by number and name), `program` (a message on
//! a program's standard input, its envelope for qmail-queue), `check` (all of the configuration), `write_out` (large files),
//! and `sys`, the one room where `unsafe` may stand.

pub mod again;
pub mod aliases;
pub mod auth;
pub mod channel;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod deliver;
pub mod exit;
pub mod flocked;
pub mod kept;
pub mod local;
pub mod logging;
pub mod lookup;
pub mod mailbox;
pub mod mailq;
pub mod message;
#[cfg(test)]
#[path = "../tests/common/needs.rs"]
mod needs;
pub mod net;
pub mod pop3;
pub mod port;
pub mod privilege;
pub mod program;
pub mod qmqp;
pub mod queue;
pub mod record;
pub mod relay;
pub mod sasl;
pub mod smtp;
pub mod smtpd;
pub mod submit;
pub mod sys;
pub mod users;
pub mod wire;
pub mod write_out;
