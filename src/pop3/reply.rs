//! Every reply there is (RFC 1939 section 3), with the response codes of RFC 2449 section 8 and RFC 3206.
//!
//! A code is given only where a client should act on it: `[AUTH]` asks for another password, `[UTF8]` (RFC 6856 section
//! 5) for that command, `[IN-USE]` and `[SYS/TEMP]` say that later will do, `[SYS/PERM]` that somebody must mend
//! something. Nothing tells of paths or errors of the system, and a wrong name reads like a wrong password.

use super::command::Mistake;
use crate::exit::Error;
use crate::sasl::Offered;
use std::borrow::Cow;

/// The status line of a reply, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply(Cow<'static, str>);

macro_rules! replies {
    ($( $name:ident = $text:literal, $help:literal; )+) => {
        impl Reply {
            $( #[doc = $help] pub const $name: Reply = Reply(Cow::Borrowed($text)); )+
        }
    };
}

replies! {
    // No angle brackets: clients take them for the stamp of APOP.
    GREETING = "+OK doorpost POP3 ready", "The first line of all.";
    SEND_PASSWORD = "+OK Send the password", "To USER, whoever it is.";
    DONE = "+OK", "Where nothing else is to be said.";
    CAPABILITIES = "+OK What this server can do", "Before the capabilities.";
    LISTING = "+OK Listing follows", "Before a listing.";
    MESSAGE = "+OK Message follows", "Before a message.";
    DELETED = "+OK Marked as deleted", "To DELE.";
    UNDELETED = "+OK No message is marked as deleted", "To RSET.";
    GOODBYE = "+OK Goodbye", "To QUIT.";
    UNKNOWN_COMMAND = "-ERR Unknown command", "No command we know.";
    MISSING_ARGUMENT = "-ERR An argument is missing", "Too few arguments.";
    EXTRA_ARGUMENT = "-ERR Too many arguments", "Too many arguments.";
    NOT_A_NUMBER = "-ERR Not a number that can be used here", "Not digits, zero, or too large.";
    NOT_A_DIGEST = "-ERR Not the digest of APOP", "Not 32 hexadecimal digits.";
    UTF8 = "+OK UTF-8 it is", "To UTF8.";
    // The tag is the first word (RFC 6856 section 3).
    ENGLISH = "+OK en Replies are in English", "To LANG.";
    INTERNATIONAL = "+OK i-default Replies are in English", "To LANG i-default.";
    NO_SUCH_LANGUAGE = "-ERR That language is not there", "To LANG with another.";
    LANGUAGES = "+OK Languages follow", "To LANG without a language.";
    NEEDS_UTF8 = "-ERR [UTF8] That message is for clients that say UTF8 before login", "Its header has more than ASCII.";
    TOO_LONG = "-ERR Line too long", "Over 255 octets.";
    TOO_MANY_MISTAKES = "-ERR Too many bad commands, goodbye", "Before closing.";
    LOG_IN_FIRST = "-ERR Log in first", "A command of the TRANSACTION state too early.";
    USER_FIRST = "-ERR USER first", "PASS that does not follow USER.";
    LOGGED_IN = "-ERR You are logged in already", "USER or PASS too late.";
    TLS_FIRST = "-ERR [AUTH] No passwords without TLS here", "The password would be readable on its way.";
    WRONG = "-ERR [AUTH] Wrong name or password", "One of the two; not which.";
    WRONG_TOO_OFTEN = "-ERR [AUTH] Wrong name or password too often, goodbye", "Before closing.";
    CANNOT_CHECK = "-ERR [SYS/TEMP] Passwords cannot be checked now, try again later", "A table cannot be read.";
    IN_USE = "-ERR [IN-USE] Another session has this maildrop", "The maildrop is locked.";
    NO_MAILDROP = "-ERR [SYS/TEMP] The maildrop cannot be opened now, try again later", "It could not be opened.";
    UNUSABLE_MAILDROP = "-ERR [SYS/PERM] The maildrop cannot be opened, ask whoever runs this server", "Nor next time.";
    LOGIN_DELAY = "-ERR [LOGIN-DELAY] Your last session was too short a time ago, try again later", "To PASS.";
    NO_SUCH_MESSAGE = "-ERR No such message", "The number is too high.";
    IS_DELETED = "-ERR That message is marked as deleted", "Only RSET brings it back.";
    IS_GONE = "-ERR Another program has removed that message", "Its file is not there any more.";
    UNREADABLE = "-ERR [SYS/TEMP] That message cannot be read now", "Its file could not be opened.";
    UNUSABLE_MESSAGE = "-ERR [SYS/PERM] That message cannot be read, ask whoever runs this server", "Nor next time.";
    NOT_ALL_REMOVED = "-ERR [SYS/TEMP] Some deleted messages were not removed", "To QUIT.";
    CANNOT_REMOVE = "-ERR [SYS/PERM] Deleted messages cannot be removed, ask whoever runs this server", "To QUIT.";
    TIMED_OUT = "-ERR Silent for too long, nothing was deleted, goodbye", "Before closing.";
    TROUBLE = "-ERR [SYS/TEMP] Not possible now, try again later", "Anything of ours.";
    MECHANISMS = "+OK Mechanisms follow", "To AUTH without a mechanism.";
    UNKNOWN_MECHANISM = "-ERR That mechanism is not there", "To AUTH.";
    CANCELLED = "-ERR Cancelled", "The client gave up an exchange of SASL.";
    MALFORMED = "-ERR That does not follow the mechanism", "Base64 or its content is wrong.";
    START_TLS = "+OK Begin TLS now", "To STLS.";
    NO_TLS = "-ERR [SYS/PERM] TLS cannot be used now", "To STLS, when certificate or key cannot be used.";
    UNDER_TLS = "-ERR This is TLS already", "To STLS under TLS.";
    TOO_MANY_CONNECTIONS = "-ERR [SYS/TEMP] Too many connections, try again later", "Instead of the greeting.";
    MISCONFIGURED = "-ERR [SYS/PERM] This server is not set up properly", "A configuration error.";
}

impl Reply {
    /// The first line of all, with a stamp for APOP (RFC 1939 section 7).
    pub fn stamped_greeting(stamp: &str) -> Reply {
        Reply(Cow::Owned(format!("+OK doorpost POP3 ready {stamp}")))
    }

    /// To PASS.
    pub fn welcome(messages: usize, octets: u64) -> Reply {
        Reply(Cow::Owned(format!("+OK {messages} messages, {octets} octets")))
    }

    /// To STAT and to LIST of one message: two numbers (RFC 1939 section 5).
    pub fn numbers(first: u64, second: u64) -> Reply {
        Reply(Cow::Owned(format!("+OK {first} {second}")))
    }

    /// To LAST.
    pub fn number(number: u64) -> Reply {
        Reply(Cow::Owned(format!("+OK {number}")))
    }

    /// To UIDL of one message.
    pub fn unique_id(number: usize, unique_id: &str) -> Reply {
        Reply(Cow::Owned(format!("+OK {number} {unique_id}")))
    }

    /// A challenge of SASL (RFC 5034 section 4).
    pub fn challenge(octets: &[u8]) -> Reply {
        Reply(Cow::Owned(format!("+ {}", crate::sasl::encode(octets))))
    }

    /// Appends the line with its end.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// As it is on the wire.
impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Mistake> for Reply {
    fn from(mistake: Mistake) -> Reply {
        match mistake {
            Mistake::TooLong => Reply::TOO_LONG,
            Mistake::UnknownCommand => Reply::UNKNOWN_COMMAND,
            Mistake::MissingArgument => Reply::MISSING_ARGUMENT,
            Mistake::ExtraArgument => Reply::EXTRA_ARGUMENT,
            Mistake::NotADigest => Reply::NOT_A_DIGEST,
            Mistake::NotANumber => Reply::NOT_A_NUMBER,
        }
    }
}

impl From<&Error> for Reply {
    fn from(error: &Error) -> Reply {
        match error {
            // A wrong command line stands in a configuration file of the superserver.
            Error::Usage(_) | Error::Permission(_) | Error::Config(_) => Reply::MISCONFIGURED,
            Error::Data(_) | Error::Unavailable(_) | Error::Connection(_) | Error::Temporary(_) => Reply::TROUBLE,
        }
    }
}

/// What depends on the session in the answer to CAPA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// USER and PASS.
    pub user: bool,
    /// STLS (RFC 2595 section 4): only before login.
    pub stls: bool,
    /// Mechanisms of AUTH (RFC 5034 section 3).
    pub sasl: Offered,
}

/// What the administrator wants clients to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Announced {
    /// Seconds from a session to the next of the same user; 0: none (RFC 2449 section 6.5).
    pub login_delay: u64,
    /// Days that a fetched message stays; none: for ever (RFC 2449 section 6.7).
    pub expire: Option<u32>,
}

/// Appends the lines of CAPA (RFC 2449 section 6): only what works now, and the same in both states but for USER, for
/// clients decide before they log in whether they can work with us.
pub fn put_capabilities(capabilities: Capabilities, announced: Announced, out: &mut Vec<u8>) {
    Reply::CAPABILITIES.put(out);
    if capabilities.user {
        out.extend_from_slice(b"USER\r\n");
    }
    let mechanisms = capabilities.sasl.names();
    if !mechanisms.is_empty() {
        out.extend_from_slice(format!("SASL {mechanisms}\r\n").as_bytes());
    }
    if capabilities.stls {
        out.extend_from_slice(b"STLS\r\n");
    }
    out.extend_from_slice(b"TOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\nUTF8 USER\r\nLANG\r\n");
    match announced.expire {
        None => out.extend_from_slice(b"EXPIRE NEVER\r\n"),
        Some(days) => out.extend_from_slice(format!("EXPIRE {days}\r\n").as_bytes()),
    }
    if announced.login_delay > 0 {
        out.extend_from_slice(format!("LOGIN-DELAY {}\r\n", announced.login_delay).as_bytes());
    }
    out.extend_from_slice(concat!("IMPLEMENTATION doorpost-", env!("CARGO_PKG_VERSION"), "\r\n.\r\n").as_bytes());
}
