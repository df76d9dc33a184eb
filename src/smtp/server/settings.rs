//! What the configuration and the name of the program make of a server of SMTP.

use crate::config::Config;
use crate::config::value::CommandWord;
use crate::lookup::Listed;
use crate::message::header::FieldName;
use crate::net::peer::Peer;
use crate::queue::EARLY_ROOM;
use crate::smtp::session;
use crate::smtp::site::Terms;
use std::time::Duration;

/// Recipients that the queue has room for before the content, if none is longer than the standards have it: an address of
/// 256 octets (RFC 5321 section 4.5.3.1.3) and an ORCPT of 500 (RFC 3461 section 4.2) are less than a kilobyte. Longer ones
/// are taken too, and of those there may be fewer.
const SURE_RECIPIENTS: u32 = (EARLY_ROOM / 1024) as u32;

/// What a server is told at its start.
#[derive(Debug, Clone)]
pub struct Settings<'a> {
    /// The session's part.
    pub session: session::Settings<'a>,
    /// How long a command may take, and how long a client may be silent in a message.
    pub timeout: Duration,
    /// Octets a second a client must send of a message, over each `timeout`; 0: any.
    pub min_data_rate: u64,
    /// Longest command line.
    pub line_length_limit: usize,
    /// Whether every "never" is said as "later".
    pub soft_bounce: bool,
    /// Whether a client that does not wait where it must is turned away. Not for pipes, which cannot wait.
    pub forbid_early: bool,
    /// How long such a client must be silent before the greeting.
    pub greet_wait: Duration,
    /// Whether an LF without CR is a line end, though never one of those around the dot that ends a message; for the client
    /// of the beginning.
    pub bare_newline: Listed,
    /// Errors after which each more is answered late, and how late.
    pub soft_errors: (u32, Duration),
    /// Whether a client that no channel lists is turned away before the greeting.
    pub finicky: bool,
    /// Fields that are taken out of what users submit.
    pub dropped: &'a [FieldName],
    /// Words at which the connection is closed: those of other protocols.
    pub forbidden: &'a [CommandWord],
}

/// What kind of server this is, by name, options and parameters.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kind {
    /// What is spoken.
    pub dialect: session::Dialect,
    /// Whether clients that no channel lists are turned away.
    pub finicky: bool,
    /// Whether the client may speak for others.
    pub xclient: Listed,
    /// What holds for this client.
    pub terms: Terms,
}

impl<'a> Settings<'a> {
    /// What the configuration says; `hostname` replaces myhostname.
    pub fn new(config: &'a Config, peer: &Peer, hostname: Option<&'a str>, kind: Kind) -> Settings<'a> {
        Settings {
            session: session::Settings {
                hostname: hostname.unwrap_or(&config.myhostname),
                message_size_limit: config.message_size_limit,
                recipient_limit: config.smtpd_recipient_limit,
                announced_recipients: config.smtpd_recipient_limit.min(SURE_RECIPIENTS),
                error_limit: config.smtpd_hard_error_limit,
                junk_limit: config.smtpd_junk_command_limit,
                transaction_limit: config.smtpd_transaction_limit,
                tls: session::Tls::Never,
                dialect: kind.dialect,
                login: kind.terms.login,
                vrfy: !config.disable_vrfy_command,
                xclient: kind.xclient,
                discarded: &config.smtpd_discard_ehlo_keywords.0,
            },
            timeout: config.smtpd_timeout.0,
            min_data_rate: config.smtpd_min_data_rate,
            line_length_limit: usize::try_from(config.line_length_limit).unwrap_or(usize::MAX),
            soft_bounce: config.soft_bounce,
            forbid_early: config.smtpd_forbid_unauth_pipelining && peer.on_inet_socket,
            greet_wait: config.smtpd_greet_wait.0,
            bare_newline: kind.terms.bare_newline,
            soft_errors: (config.smtpd_soft_error_limit, config.smtpd_error_sleep_time.0),
            finicky: kind.finicky,
            dropped: &config.message_drop_headers.0,
            forbidden: &config.smtpd_forbidden_commands.0,
        }
    }
}
