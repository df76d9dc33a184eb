//! Text to value, one type a kind of parameter; the error says what was expected.
//!
//! Times are Postfix's: a whole number and at most one letter `s m h d w`; without it the parameter's own unit.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Something a parameter can be.
pub trait Value: Sized {
    /// Reads it; the error is what was expected, for a sentence that begins with "expected".
    fn parse(text: &str) -> Result<Self, String>;
}

/// A time whose unit is the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(pub Duration);

/// A time whose unit is the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days(pub Duration);

/// A time whose unit is the hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours(pub Duration);

/// Where a target other than an address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailSource {
    /// In the alias file.
    Alias,
    /// In a user's `~/.forward`.
    Forward,
}

/// `pop3d_expire`: days, or none, which is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expire(pub Option<u32>);

/// A path, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionalPath(pub Option<PathBuf>);

/// Words separated by commas or blanks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

/// The first word of a line, letters only, in upper case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandWord(pub String);

/// One place where those are listed who have a mailbox here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserSource {
    /// The users of this system, getpwnam(3).
    System,
    /// The users of a password file in Dovecot's layout.
    PasswdFile(PathBuf),
}

/// One way to check a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthMethod {
    /// A PAM helper program.
    Pam,
    /// The shadow file; Mailutils calls this `system` or `generic`.
    Shadow,
    /// A password file; without a path the one of `users`.
    PasswdFile(Option<PathBuf>),
    /// A program with DJB's checkpassword interface.
    Checkpassword(PathBuf),
}

/// The format of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailboxFormat {
    /// A folder with tmp, new and cur; a file a message.
    Maildir,
    /// One file; messages begin with a `From ` line.
    Mbox,
    /// One file; messages stand between lines of four ^A.
    Mmdf,
}

/// `mailbox_delivery_lock`: a way to lock a mailbox that is one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// fcntl(2).
    Fcntl,
    /// flock(2).
    Flock,
    /// The file NAME.lock.
    Dotlock,
}

/// `mailbox`: format and path, the path still with `~`, `%u`, `%n` and `%d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxSpec {
    /// The format.
    pub format: MailboxFormat,
    /// The path before anything is put in.
    pub path: String,
}

/// `content_filter`: what carries a message before anything else does, and where to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentFilter(pub String);

/// `before_queue_filter`: who is asked before a message is taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum QueueFilter {
    /// Nobody.
    #[default]
    None,
    /// A program of qmail-queue's interface, with its arguments.
    Program(String),
    /// A server, as transport and next hop: `smtp:[host]:port`, `lmtp:[host]:port`, `lmtp:unix:/path`.
    Host(String),
}

impl QueueFilter {
    /// The server; nothing where it is none.
    pub fn host(&self) -> &str {
        match self {
            QueueFilter::Host(host) => host,
            QueueFilter::None | QueueFilter::Program(_) => "",
        }
    }

    /// Nobody is asked.
    pub fn is_none(&self) -> bool {
        *self == QueueFilter::None
    }
}

/// A word of `receive_override_options`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiveOverride {
    /// Local recipients are taken without a look at who has a mailbox.
    NoUnknownRecipientChecks,
    /// Addresses are not rewritten; none is here.
    NoAddressMappings,
    /// The content is not looked into; it never is here.
    NoHeaderBodyChecks,
    /// No milter is asked; none ever is here.
    NoMilters,
}

/// `smtp_tls_security_level`: how much TLS there must be towards next hops, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsLevel {
    /// Never.
    None,
    /// Where it is offered, with any certificate.
    May,
    /// Always, with any certificate.
    Encrypt,
    /// Always, with a certificate for the host's name.
    Verify,
    /// Always, with a certificate for the name of the next hop or domain.
    Secure,
}

/// A TCP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(pub u16);

/// An address with a port, 53 where none is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameServer(pub std::net::SocketAddr);

/// A syslog facility, already shifted (mail is 16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facility(pub u8);

impl Value for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Value for CommandWord {
    fn parse(text: &str) -> Result<Self, String> {
        let is_word = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_alphabetic());
        // Postfix has tables there as well, which would be a rule that never matches.
        is_word.then(|| CommandWord(text.to_ascii_uppercase())).ok_or("words of letters, and no table".to_owned())
    }
}

impl Value for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('/') { Ok(PathBuf::from(text)) } else { Err("an absolute path".to_owned()) }
    }
}

impl Value for OptionalPath {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(OptionalPath(None));
        }
        let path = text.strip_prefix("hash:").unwrap_or(text);
        PathBuf::parse(path).map(|path| OptionalPath(Some(path))).map_err(|_| "an absolute path or nothing".to_owned())
    }
}

impl Value for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err("yes or no".to_owned()),
        }
    }
}

macro_rules! whole_number {
    ($($type:ty),+) => { $(
        impl Value for $type {
            fn parse(text: &str) -> Result<Self, String> {
                digits(text).and_then(|number| <$type>::try_from(number).ok())
                    .ok_or_else(|| format!("a whole number up to {}", <$type>::MAX))
            }
        }
    )+ };
}
whole_number!(u32, u64);

impl Value for Seconds {
    fn parse(text: &str) -> Result<Self, String> {
        time(text, 's').map(Seconds)
    }
}

impl Value for Days {
    fn parse(text: &str) -> Result<Self, String> {
        time(text, 'd').map(Days)
    }
}

impl Value for Hours {
    fn parse(text: &str) -> Result<Self, String> {
        time(text, 'h').map(Hours)
    }
}

impl Value for MailSource {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "alias" => Ok(MailSource::Alias),
            "forward" => Ok(MailSource::Forward),
            _ => Err("words out of alias, forward".to_owned()),
        }
    }
}

/// `when_full`: what becomes of clients that come while all is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WhenFull {
    /// They are told to come again later, and not left to wait.
    pub refuses: bool,
}

impl Value for WhenFull {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "defer" => Ok(WhenFull { refuses: false }),
            "refuse" => Ok(WhenFull { refuses: true }),
            _ => Err("defer or refuse".to_owned()),
        }
    }
}

/// A table, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionalTable(pub Option<super::table::Table>);

impl Value for OptionalTable {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Ok(OptionalTable(None))
        } else {
            super::table::Table::parse(text).map(|t| OptionalTable(Some(t)))
        }
    }
}

/// `smtpd_client_restrictions`: one thing that is asked of a client before its mail is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientRestriction {
    /// `permit_mynetworks`: who is in mynetworks is asked no more.
    PermitMynetworks,
    /// `reject_unknown_client_hostname`: it must have a name that leads back to it.
    UnknownHostname,
    /// `reject_rbl_client domain[=address]`: it must not be in a list; with an address, not with that answer.
    BlockList(String, Option<std::net::Ipv4Addr>),
}

/// All of them, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRestrictions(pub Vec<ClientRestriction>);

impl Value for ClientRestrictions {
    fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split([',', ' ', '\t', '\r', '\n']).filter(|word| !word.is_empty());
        let mut restrictions = Vec::new();
        while let Some(word) = words.next() {
            restrictions.push(match word {
                "permit_mynetworks" => ClientRestriction::PermitMynetworks,
                // Who has logged in is never asked.
                "permit_sasl_authenticated" => continue,
                "reject_unknown_client_hostname" => ClientRestriction::UnknownHostname,
                "reject_rbl_client" => block_list(words.next())?,
                _ => {
                    return Err("permit_mynetworks, permit_sasl_authenticated, reject_unknown_client_hostname or \
                                reject_rbl_client DOMAIN"
                        .to_owned());
                }
            });
        }
        Ok(ClientRestrictions(restrictions))
    }
}

fn block_list(word: Option<&str>) -> Result<ClientRestriction, String> {
    let expected = || "reject_rbl_client DOMAIN or DOMAIN=ADDRESS".to_owned();
    let (domain, address) =
        word.ok_or_else(expected)?.split_once('=').map_or((word, None), |(d, a)| (Some(d), Some(a)));
    let domain = domain.filter(|domain| crate::message::path::is_host_name(domain)).ok_or_else(expected)?;
    let address = address.map(|address| address.parse().map_err(|_| expected())).transpose()?;
    Ok(ClientRestriction::BlockList(domain.to_owned(), address))
}

/// `smtpd_forbid_bare_newline`: what an LF without CR is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BareNewline {
    /// It is a line end, though never one of those around the dot that ends a message.
    pub is_taken: bool,
}

impl Value for BareNewline {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "yes" | "reject" => Ok(BareNewline { is_taken: false }),
            "no" | "normalize" => Ok(BareNewline { is_taken: true }),
            _ => Err("reject (or yes) or normalize (or no)".to_owned()),
        }
    }
}

/// How many bits of an IPv6 address count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixLength(pub u8);

impl Value for PrefixLength {
    fn parse(text: &str) -> Result<Self, String> {
        let length = digits(text).and_then(|number| u8::try_from(number).ok()).filter(|length| *length <= 128);
        length.map(PrefixLength).ok_or_else(|| "a whole number up to 128".to_owned())
    }
}

/// An address or a net.
impl Value for ipnet::IpNet {
    fn parse(text: &str) -> Result<Self, String> {
        // As in all our tables an IPv6 address may stand in brackets: [2001:db8::]/32.
        let bare: String = text.chars().filter(|letter| !matches!(letter, '[' | ']')).collect();
        let net = bare.parse().ok().or_else(|| bare.parse::<std::net::IpAddr>().ok().map(ipnet::IpNet::from));
        net.ok_or_else(|| format!("addresses and nets, and not {}", super::shown(text)))
    }
}

impl<T: Value> Value for List<T> {
    fn parse(text: &str) -> Result<Self, String> {
        let words = text.split([',', ' ', '\t', '\r', '\n']).filter(|word| !word.is_empty());
        words.map(T::parse).collect::<Result<_, _>>().map(List)
    }
}

/// `users`: one source, or several in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Users(pub Vec<UserSource>);

impl Users {
    /// The files among them.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter_map(|source| match source {
            UserSource::PasswdFile(path) => Some(path.as_path()),
            UserSource::System => None,
        })
    }
}

impl Value for Users {
    fn parse(text: &str) -> Result<Self, String> {
        match List::parse(text)? {
            List(sources) if sources.is_empty() => Err("system, or passwd-file: and an absolute path".to_owned()),
            List(sources) => Ok(Users(sources)),
        }
    }
}

impl Value for UserSource {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "system" => Ok(UserSource::System),
            Some(("passwd-file", path)) if path.starts_with('/') => Ok(UserSource::PasswdFile(PathBuf::from(path))),
            _ => Err("system, or passwd-file: and an absolute path".to_owned()),
        }
    }
}

impl Value for AuthMethod {
    fn parse(text: &str) -> Result<Self, String> {
        let (kind, path) = match text.split_once(':') {
            None => (text, None),
            Some((kind, path)) => (kind, Some(PathBuf::from(path))),
        };
        match (kind, path) {
            ("pam", None) => Ok(AuthMethod::Pam),
            ("shadow" | "system" | "generic", None) => Ok(AuthMethod::Shadow),
            ("passwd-file", None) => Ok(AuthMethod::PasswdFile(None)),
            ("passwd-file", Some(path)) if path.is_absolute() => Ok(AuthMethod::PasswdFile(Some(path))),
            ("checkpassword", Some(path)) if path.is_absolute() => Ok(AuthMethod::Checkpassword(path)),
            _ => Err("pam, shadow, system, generic, passwd-file[:/path] or checkpassword:/path".to_owned()),
        }
    }
}

impl Value for Expire {
    fn parse(text: &str) -> Result<Self, String> {
        let is_number = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
        match text.parse() {
            _ if text == "never" => Ok(Expire(None)),
            // A century and more is more than any client can make of it.
            Ok(days) if is_number && days <= 65_535 => Ok(Expire(Some(days))),
            _ => Err("never, or a number of days up to 65535".to_owned()),
        }
    }
}

impl Value for LockKind {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "fcntl" => Ok(LockKind::Fcntl),
            "flock" => Ok(LockKind::Flock),
            "dotlock" => Ok(LockKind::Dotlock),
            _ => Err("fcntl, flock or dotlock".to_owned()),
        }
    }
}

impl Value for TlsLevel {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" | "" => Ok(TlsLevel::None),
            "may" => Ok(TlsLevel::May),
            "encrypt" => Ok(TlsLevel::Encrypt),
            "verify" => Ok(TlsLevel::Verify),
            "secure" => Ok(TlsLevel::Secure),
            _ => Err("none, may, encrypt, verify or secure".to_owned()),
        }
    }
}

impl Value for Port {
    fn parse(text: &str) -> Result<Self, String> {
        let port = digits(text).and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0);
        port.map(Port).ok_or_else(|| "a port number".to_owned())
    }
}

impl Value for NameServer {
    fn parse(text: &str) -> Result<Self, String> {
        let address = |text: &str| text.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().ok();
        let server = text.parse().ok().or_else(|| address(text).map(|address| (address, 53).into()));
        server.map(NameServer).ok_or_else(|| format!("addresses, maybe with ports, and not {}", super::shown(text)))
    }
}

impl Value for MailboxSpec {
    fn parse(text: &str) -> Result<Self, String> {
        let format = match text.split_once(':').map(|(format, _)| format) {
            Some("maildir") => MailboxFormat::Maildir,
            Some("mbox") => MailboxFormat::Mbox,
            Some("mmdf") => MailboxFormat::Mmdf,
            _ => return Err("maildir:, mbox: or mmdf: and a path".to_owned()),
        };
        let path = text.split_once(':').map_or("", |(_, path)| path);
        if !path.starts_with("~/") && !path.starts_with('/') {
            return Err("a path that begins with / or ~/ behind the mailbox format".to_owned());
        }
        Ok(MailboxSpec { format, path: path.to_owned() })
    }
}

impl Value for ContentFilter {
    fn parse(text: &str) -> Result<Self, String> {
        let name = text.split_once(':').map_or(text, |(name, _)| name);
        let is_name = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.');
        let fits = text.is_empty() || (!name.is_empty() && name.bytes().all(is_name));
        // It is written into each queue file.
        if fits && text.len() <= 500 && text.bytes().all(|octet| (b' '..=b'~').contains(&octet)) {
            Ok(ContentFilter(text.to_owned()))
        } else {
            Err("transport:nexthop, as in smtp:[127.0.0.1]:10025, or nothing".to_owned())
        }
    }
}

impl Value for QueueFilter {
    fn parse(text: &str) -> Result<Self, String> {
        let expected =
            "qmail-queue:/PATH of a program, smtp:[HOST]:PORT, lmtp:[HOST]:PORT, lmtp:unix:/PATH, or nothing";
        // In brackets: whom MX records name is no filter of ours.
        let is_host = |place: &str| place.strip_prefix('[').is_some_and(|rest| rest.contains("]:"));
        match text.split_once(':').map(|(kind, rest)| (kind, rest.trim())) {
            _ if text.is_empty() => Ok(QueueFilter::None),
            _ if text.len() > 500 => Err(expected.to_owned()),
            Some(("qmail-queue", line)) if line.starts_with('/') => Ok(QueueFilter::Program(line.to_owned())),
            Some((kind @ ("smtp" | "lmtp"), place)) if is_host(place) => {
                Ok(QueueFilter::Host(format!("{kind}:{place}")))
            }
            Some(("lmtp", place)) if place.starts_with("unix:/") => Ok(QueueFilter::Host(format!("lmtp:{place}"))),
            _ => Err(expected.to_owned()),
        }
    }
}

impl Value for ReceiveOverride {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "no_unknown_recipient_checks" => Ok(ReceiveOverride::NoUnknownRecipientChecks),
            "no_address_mappings" => Ok(ReceiveOverride::NoAddressMappings),
            "no_header_body_checks" => Ok(ReceiveOverride::NoHeaderBodyChecks),
            "no_milters" => Ok(ReceiveOverride::NoMilters),
            _ => {
                Err("words out of no_unknown_recipient_checks, no_address_mappings, no_header_body_checks, no_milters"
                    .to_owned())
            }
        }
    }
}

impl Value for Facility {
    fn parse(text: &str) -> Result<Self, String> {
        const NAMES: [&str; 12] =
            ["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"];
        let name = text.to_ascii_lowercase();
        let name = name.strip_prefix("log_").unwrap_or(&name);
        let local = name.strip_prefix("local").and_then(|digit| digit.parse::<u8>().ok()).filter(|&n| n < 8);
        let number = match local {
            Some(n) => Some(16 + n),
            None => NAMES.iter().position(|known| *known == name).and_then(|n| u8::try_from(n).ok()),
        };
        number.map(|n| Facility(n << 3)).ok_or_else(|| "a syslog facility such as mail, daemon or local0".to_owned())
    }
}

/// Digits only: `str::parse` alone would also take a sign.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|octet| octet.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn time(text: &str, unit: char) -> Result<Duration, String> {
    let expected = || "a whole number and at most one of the letters s, m, h, d, w".to_owned();
    let (number, unit) = match text.chars().last() {
        Some(letter @ ('s' | 'm' | 'h' | 'd' | 'w')) => (&text[..text.len() - 1], letter),
        _ => (text, unit),
    };
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => 604_800,
    };
    let seconds = digits(number).and_then(|n| n.checked_mul(factor)).ok_or_else(expected)?;
    // More than an i64 of seconds cannot be added to a clock.
    if seconds > u64::from(u32::MAX) { Err(expected()) } else { Ok(Duration::from_secs(seconds)) }
}
