//! SMTP: what of RFC 5321 and its extensions we speak, what we leave out, and why.
//!
//! Commands HELO EHLO MAIL RCPT DATA BDAT RSET VRFY EXPN HELP NOOP QUIT; extensions PIPELINING (RFC 2920), SIZE (RFC
//! 1870), 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531), DSN (RFC 3461), CHUNKING and BINARYMIME (RFC 3030),
//! ENHANCEDSTATUSCODES (RFC 2034), LIMITS (RFC 9422), REQUIRETLS (RFC 8689), STARTTLS (RFC 3207) where there is a
//! certificate, AUTH (RFC 4954), XCLIENT for who may. The same as LMTP (RFC 2033) and for submission (RFC 6409). EXPN is
//! answered as VRFY is, so that nothing tells a list from a mailbox, nor who is on it. TURN, SEND, SOML, SAML and ETRN are
//! known and answered 502. Clients may skip HELO, as they may with Postfix.
//!
//! Stricter than others, on purpose:
//! - Only CR LF ends a line and only CR LF `.` CR LF ends a message. A CR or LF by itself, in a command or in a
//!   message, is answered and the connection closed: taking it lets one message hide another (smuggling).
//! - Paths stand in angle brackets and follow the grammar; only a recipient `<postmaster>` lacks a domain; source routes are
//!   dropped, `%` and `!` are octets like others. Octets above 127 need SMTPUTF8.
//! - Nothing a client sent comes back in a reply, except an address that VRFY or EXPN found.
//!
//! More lenient: blanks after `FROM:` and `TO:` and at the end of a line; ESMTP parameters after HELO; text lines of any
//! length, which are stored as they came; NUL and octets above 127 in text, likewise.
//!
//! `client` is the other side, for deliver.
//!
//! `command_line` is that of smtpsrvr.
//!
//! `command` reads a line, `reply` has every answer, `session` decides, `server` reads, asks and does it.

pub mod client;
pub mod command;
pub mod command_line;
pub mod extensions;
pub mod reply;
pub mod server;
pub mod session;
pub mod site;
