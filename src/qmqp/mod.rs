//! QMQP, the Quick Mail Queueing Protocol (cr.yp.to/proto/qmqp.html): one package in, one reply out.
//!
//! The package is a netstring that holds netstrings: content, sender, and one or more recipients. The reply is a
//! netstring that begins with `K` (queued, for all recipients), `Z` (not now) or `D` (never). As there is one request
//! and one reply, there is no session: `request.rs` reads the package, `reply.rs` has every answer, `server.rs` does
//! the rest.
//!
//! Where the specification is silent or servers differ, we are strict: the outer length must fit what is inside to
//! the octet, no length begins with a zero, addresses hold no NUL, CR or LF, and no recipient is empty. Octets behind
//! the package are ignored. Content is taken as it comes, octet for octet.
//!
//! QMTP, the Quick Mail Transfer Protocol (cr.yp.to/proto/qmtp.txt), differs in three things: a connection carries many
//! packages, each recipient has a reply, and the content's first octet says how its lines end. `qmtp.rs` serves it.
//!
//! A sender `prefix-@host-@[]` (a variable envelope return path) is queued as it is written; deliver expands it.

pub mod command_line;
pub mod qmtp;
pub mod reply;
pub mod request;
pub mod server;
