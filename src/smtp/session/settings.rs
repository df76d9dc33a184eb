//! What a session is told at its start, and of TLS on its way.

use crate::lookup::Listed;

/// What a session is told at its start.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// Our name in the greeting and in replies.
    pub hostname: &'a str,
    /// Largest message, in octets; 0: no limit.
    pub message_size_limit: u64,
    /// Most recipients of a message.
    pub recipient_limit: u32,
    /// The number of them that EHLO tells: as many as have room, too.
    pub announced_recipients: u32,
    /// Mistakes after which the session ends; at least 1.
    pub error_limit: u32,
    /// Commands that move no mail, after which each one more is a mistake.
    pub junk_limit: u32,
    /// Messages after which the session ends; 0: no limit.
    pub transaction_limit: u32,
    /// Whether there is TLS, or may be.
    pub tls: Tls,
    /// What is spoken.
    pub dialect: Dialect,
    /// Whether clients can log in.
    pub login: Login,
    /// Whether there are VRFY and EXPN.
    pub vrfy: bool,
    /// Whether the client may say that it is another.
    pub xclient: Listed,
    /// Keywords that EHLO does not list. Commands that came with one of them, BDAT, STARTTLS and AUTH, are not there then,
    /// nor are parameters that mean anything.
    pub discarded: &'a [String],
}

impl Settings<'_> {
    /// Whether EHLO is not to list this keyword.
    pub fn discards(&self, keyword: &str) -> bool {
        self.discarded.iter().any(|word| word.eq_ignore_ascii_case(keyword))
    }

    /// Whether a message of so many octets is too large.
    pub fn is_too_large(&self, size: u64) -> bool {
        self.message_size_limit > 0 && size > self.message_size_limit
    }
}

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// SMTP, as between servers.
    #[default]
    Smtp,
    /// The same for users (RFC 6409): who has not logged in sends nothing.
    Submission,
    /// LMTP (RFC 2033): a reply for each recipient.
    Lmtp,
}

/// Whether clients can log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Login {
    /// They cannot.
    #[default]
    Never,
    /// Under TLS.
    UnderTls,
    /// Always: the way is safe, or need not be.
    Always,
}

/// How a session stands to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// There is none.
    Never,
    /// STARTTLS is offered.
    Offered,
    /// It is under TLS.
    On,
}
