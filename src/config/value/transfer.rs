//! Mail on its way: which clients may hand it in, what filters it, and under how much TLS it leaves.

use super::{Value, digits, words};
use crate::config::shown;
use crate::message::header::FieldName;
use crate::message::path::is_host_name;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// `when_full`: what becomes of clients that come while all is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WhenFull {
    /// They are told to come again later, and not left to wait.
    pub refuses: bool,
}

impl Value for WhenFull {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "defer" => Ok(WhenFull { refuses: false }),
            "refuse" => Ok(WhenFull { refuses: true }),
            _ => Err("defer or refuse".to_owned()),
        }
    }
}

/// The first word of a line, letters only, in upper case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandWord(pub String);

impl AsRef<str> for CommandWord {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Value for CommandWord {
    fn parse(text: &str) -> Result<Self, String> {
        let is_word = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_alphabetic());
        // Postfix has tables there as well, which would be a rule that never matches.
        is_word.then(|| CommandWord(text.to_ascii_uppercase())).ok_or("words of letters, and no table".to_owned())
    }
}

impl Value for FieldName {
    fn parse(text: &str) -> Result<Self, String> {
        FieldName::parse(text).ok_or_else(|| "names of header fields, without colons".to_owned())
    }
}

/// All of them, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRestrictions(pub Vec<ClientRestriction>);

impl Value for ClientRestrictions {
    fn parse(text: &str) -> Result<Self, String> {
        let mut words = words(text);
        let mut restrictions = Vec::new();
        while let Some(word) = words.next() {
            restrictions.push(match word.to_ascii_lowercase().as_str() {
                "permit_mynetworks" => ClientRestriction::PermitMynetworks,
                // Who has logged in is never asked.
                "permit_sasl_authenticated" => continue,
                "reject_unknown_client_hostname" => ClientRestriction::UnknownHostname,
                "reject_rbl_client" => block_list(words.next())?,
                _ => {
                    return Err(format!(
                        "permit_mynetworks, permit_sasl_authenticated, reject_unknown_client_hostname or \
                         reject_rbl_client DOMAIN instead of {}",
                        shown(word)
                    ));
                }
            });
        }
        Ok(ClientRestrictions(restrictions))
    }
}

/// `smtpd_client_restrictions`: one thing that is asked of a client before its mail is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientRestriction {
    /// `permit_mynetworks`: who is in mynetworks is asked no more.
    PermitMynetworks,
    /// `reject_unknown_client_hostname`: it must have a name that leads back to it.
    UnknownHostname,
    /// `reject_rbl_client domain[=answers]`: it must not be in a list; with answers, not with one of those.
    BlockList(String, Option<ListAnswers>),
}

/// ListAnswers of a block list, as Postfix writes them: four octets, each a number or, in brackets, numbers and ranges, as in
/// `127.0.0.[2..11;255]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListAnswers([Vec<RangeInclusive<u8>>; 4]);

impl ListAnswers {
    /// Whether this is one of them.
    pub fn have(&self, answer: Ipv4Addr) -> bool {
        self.0.iter().zip(answer.octets()).all(|(ranges, octet)| ranges.iter().any(|range| range.contains(&octet)))
    }

    fn parse(text: &str) -> Option<ListAnswers> {
        let octet = |text: &str| digits(text).and_then(|number| u8::try_from(number).ok());
        let range = |text: &str| match text.split_once("..") {
            Some((first, last)) => Some(octet(first)?..=octet(last)?).filter(|range| !range.is_empty()),
            None => octet(text).map(|octet| octet..=octet),
        };
        let (mut answers, mut rest) = (ListAnswers(Default::default()), text);
        for (number, ranges) in answers.0.iter_mut().enumerate() {
            let field = if number == 0 { rest } else { rest.strip_prefix('.')? };
            (*ranges, rest) = match field.strip_prefix('[') {
                Some(inside) => {
                    let (members, behind) = inside.split_once(']')?;
                    (members.split(';').map(range).collect::<Option<_>>()?, behind)
                }
                None => {
                    let (number, behind) = field.split_at(field.find('.').unwrap_or(field.len()));
                    (vec![octet(number).map(|octet| octet..=octet)?], behind)
                }
            };
        }
        rest.is_empty().then_some(answers)
    }
}

fn block_list(word: Option<&str>) -> Result<ClientRestriction, String> {
    let expected = || {
        let found = word.map_or(String::new(), |word| format!(" instead of {}", shown(word)));
        format!("reject_rbl_client DOMAIN, or DOMAIN=ANSWERS as in DOMAIN=127.0.0.[2..11;255]{found}")
    };
    let (domain, answers) =
        word.ok_or_else(expected)?.split_once('=').map_or((word, None), |(d, a)| (Some(d), Some(a)));
    let domain = domain.filter(|domain| is_host_name(domain)).ok_or_else(expected)?;
    let answers = answers.map(|answers| ListAnswers::parse(answers).ok_or_else(expected)).transpose()?;
    Ok(ClientRestriction::BlockList(domain.to_owned(), answers))
}

/// `smtpd_forbid_bare_newline`: what an LF without CR is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BareNewline {
    /// It is a line end, though never one of those around the dot that ends a message.
    pub is_taken: bool,
}

impl Value for BareNewline {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "yes" | "reject" => Ok(BareNewline { is_taken: false }),
            "no" | "normalize" => Ok(BareNewline { is_taken: true }),
            _ => Err("reject (or yes) or normalize (or no)".to_owned()),
        }
    }
}

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

/// `content_filter`: what carries a message before anything else does, and where to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentFilter(pub String);

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

impl Value for TlsLevel {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "none" | "" => Ok(TlsLevel::None),
            "may" => Ok(TlsLevel::May),
            "encrypt" => Ok(TlsLevel::Encrypt),
            "verify" => Ok(TlsLevel::Verify),
            "secure" => Ok(TlsLevel::Secure),
            _ => Err("none, may, encrypt, verify or secure".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_in_any_case() {
        assert_eq!(BareNewline::parse("No"), BareNewline::parse("no"));
        assert_eq!(TlsLevel::parse("Encrypt"), Ok(TlsLevel::Encrypt));
        assert_eq!(WhenFull::parse("DEFER"), Ok(WhenFull { refuses: false }));
        let restrictions = ClientRestrictions::parse("Permit_Mynetworks, REJECT_UNKNOWN_CLIENT_HOSTNAME").unwrap();
        assert_eq!(restrictions.0, [ClientRestriction::PermitMynetworks, ClientRestriction::UnknownHostname]);
    }

    #[test]
    fn of_a_long_list_the_word_is_named_that_is_wrong() {
        let list = "permit_mynetworks, permit_sasl_authenticated, reject_rbl_client zen.spamhaus.org";
        for (word, told) in [
            ("permit", "reject_rbl_client DOMAIN instead of permit"),
            ("reject_rbl_client a..b", "127.0.0.[2..11;255] instead of a..b"),
            ("reject_rbl_client", "127.0.0.[2..11;255]"),
        ] {
            let error = ClientRestrictions::parse(&format!("{list}, {word}")).unwrap_err();
            assert!(error.ends_with(told), "{error}");
        }
    }

    #[test]
    fn answers_of_block_lists_are_written_as_in_postfix() {
        let answers = |text: &str| match ClientRestrictions::parse(&format!("reject_rbl_client bl.example={text}")) {
            Ok(ClientRestrictions(all)) => match &all[..] {
                [ClientRestriction::BlockList(_, Some(answers))] => Some(answers.clone()),
                _ => panic!("{all:?}"),
            },
            Err(_) => None,
        };
        for (text, octets, holds) in [
            ("127.0.0.4", [127, 0, 0, 4], true),
            ("127.0.0.4", [127, 0, 0, 5], false),
            ("127.0.0.[2..11]", [127, 0, 0, 2], true),
            ("127.0.0.[2..11]", [127, 0, 0, 11], true),
            ("127.0.0.[2..11]", [127, 0, 0, 12], false),
            ("127.0.0.[2..11]", [127, 0, 1, 2], false),
            ("127.0.[0;2..3;9].[1]", [127, 0, 9, 1], true),
            ("127.0.[0;2..3;9].[1]", [127, 0, 1, 1], false),
            ("[0..255].[0..255].[0..255].[0..255]", [255, 0, 255, 0], true),
        ] {
            let found = answers(text).expect(text);
            assert_eq!(found.have(octets.into()), holds, "{text} {octets:?}");
        }
        for text in [
            "",
            "127",
            "127.0.0",
            "127.0.0.",
            "127.0.0.1.2",
            "127.0.0.256",
            "127.0.0.x",
            "127.0.0.+1",
            "127.0.0.2..11",
            "127.0.0.2;3",
            "127.0.0.[]",
            "127.0.0.[2;]",
            "127.0.0.[2..]",
            "127.0.0.[11..2]",
            "127.0.0.[2...4]",
            "127.0.0.[2-4]",
            "127.0.0.[2",
            "127.0.0.2]",
            "127.0.0.3[2]",
            "127.0.0.[2]3",
            "127.0.[0.2]",
            "127.0.0.[[2]]",
        ] {
            assert_eq!(answers(text), None, "{text}");
        }
    }
}
