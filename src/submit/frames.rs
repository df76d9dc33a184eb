//! What servers and submit say to each other: bounded netstring frames, the first octet of each its kind.
//!
//! ```text
//! request           I introduction   A attribute   V address   F reverse-path   R address   N address   C content   E      X
//! is answered by    -                -             v verdict   -                v verdict   -           -           q or n -
//! ```
//!
//! `I` may come again on the same connection, for another client: it forgets all that came before it, a message that is not
//! committed too. `A` (`name=value`) is written into the queue file of every message that follows.
//! `N` is a recipient that must be taken: if it is not, the refusal brings the verdict. Behind the letter of a channel `error:`
//! stand the administrator's words. `q` brings the queue id, `n` a
//! refusal. `F` (no octets: the null one) begins a message, `E` asks for it to be committed, `X` abandons it, and so
//! does the end of input. Recipients may come before the content or after it; the first `F`, `R` or `N` behind content
//! ends that. Behind the path of `F` and `R` may stand an octet 0 and the parameters that came with it, in the text
//! form of `message::parameters`; no address has that octet in it. What is not answered may be sent together with what
//! follows. Addresses are in internal form. Inside an introduction each text is counted by two octets, most significant
//! first, and a text that may be missing has an octet 1 or 0 in front. The letters of verdicts, refusals, policies and
//! protocols are in the tables below; both ends are of one release, and yet letters are never used again for something
//! else.

use super::closed::Closed;
use super::{Introduction, Outcome, Policy, Refusal, Verdict};
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::message::trace::{Client, Protocol};
use crate::wire::netstring::{self, LengthReader};
use std::borrow::Cow;

/// Most octets of content in a frame.
pub const LONGEST_CONTENT: usize = 64 * 1024;

/// Most octets of a frame: its kind and the content.
pub const LONGEST_FRAME: usize = LONGEST_CONTENT + 1;

/// Most octets of each text of an introduction; longer ones are cut.
pub const LONGEST_TEXT: usize = 1000;

/// What a server asks of submit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// Who hands mail in.
    Introduce(Introduction),
    /// What else the queue files of the messages to come are to say: a name and a value.
    Attribute(String, String),
    /// Judge an address.
    Verify(Address),
    /// Begin a message.
    ReversePath(ReversePath, MailParameters),
    /// Judge an address and take it.
    Recipient(Address, RecipientParameters),
    /// Judge an address and take it; without it nobody gets the message.
    Required(Address),
    /// More of the content.
    Content(&'a [u8]),
    /// Put the message on disk.
    Commit,
    /// Abandon it.
    Reset,
}

/// What submit answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To `Verify` and `Recipient`.
    Verdict(Verdict),
    /// To `Commit`.
    Outcome(Outcome),
}

/// The octets are nothing the other end may say; the connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault;

const VERDICTS: [(Verdict, u8); 7] = [
    (Verdict::Accepted, b'a'),
    (Verdict::UnknownUser, b'u'),
    (Verdict::UnknownHost, b'h'),
    (Verdict::NotAllowed, b'p'),
    (Verdict::BadAddress, b'b'),
    (Verdict::CannotTell, b't'),
    (Verdict::TooMany, b'm'),
];

/// The verdict that has a text behind its letter.
const CLOSED: u8 = b'c';

const REFUSALS: [(Refusal, u8); 6] = [
    (Refusal::TooLarge, b'l'),
    (Refusal::TooManyHops, b'h'),
    (Refusal::NoRoom, b'f'),
    (Refusal::NoRecipients, b'r'),
    (Refusal::Filtered, b'g'),
    (Refusal::Trouble, b't'),
];

const POLICIES: [(Policy, u8); 3] = [(Policy::Channels, b'c'), (Policy::Unlisted, b'u'), (Policy::Anywhere, b'a')];

const PROTOCOLS: [(Protocol, u8); 12] = [
    (Protocol::Smtp, b's'),
    (Protocol::Esmtp, b'e'),
    (Protocol::Esmtps, b't'),
    (Protocol::Esmtpa, b'a'),
    (Protocol::Esmtpsa, b'b'),
    (Protocol::Lmtp, b'j'),
    (Protocol::Lmtps, b'k'),
    (Protocol::Lmtpa, b'v'),
    (Protocol::Lmtpsa, b'w'),
    (Protocol::Qmqp, b'q'),
    (Protocol::Qmtp, b'm'),
    (Protocol::Local, b'l'),
];

impl Request<'_> {
    /// Appends it as a frame.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Request::Introduce(introduction) => put_frame(out, b'I', &introduction_octets(introduction)),
            Request::Attribute(name, value) => put_frame(out, b'A', format!("{name}={value}").as_bytes()),
            Request::Verify(address) => put_frame(out, b'V', address.as_bytes()),
            Request::ReversePath(path, parameters) => {
                put_frame(out, b'F', &with(path.as_bytes(), parameters.is_empty(), parameters));
            }
            Request::Recipient(address, parameters) => {
                put_frame(out, b'R', &with(address.as_bytes(), parameters.is_empty(), parameters));
            }
            Request::Required(address) => put_frame(out, b'N', address.as_bytes()),
            Request::Content(octets) => put_frame(out, b'C', octets),
            Request::Commit => put_frame(out, b'E', b""),
            Request::Reset => put_frame(out, b'X', b""),
        }
    }

    /// Reads the payload of a frame.
    pub fn decode(payload: &[u8]) -> Result<Request<'_>, Fault> {
        match payload.split_first().ok_or(Fault)? {
            (b'I', rest) => read_introduction(rest).map(Request::Introduce).ok_or(Fault),
            (b'A', rest) => attribute(rest).ok_or(Fault),
            (b'V', rest) => Address::from_internal(rest).map(Request::Verify).map_err(|_| Fault),
            (b'F', rest) => {
                let (path, parameters) = apart(rest);
                let path = ReversePath::from_internal(path).map_err(|_| Fault)?;
                Ok(Request::ReversePath(path, MailParameters::from_text(parameters).map_err(|_| Fault)?))
            }
            (b'R', rest) => {
                let (address, parameters) = apart(rest);
                let address = Address::from_internal(address).map_err(|_| Fault)?;
                Ok(Request::Recipient(address, RecipientParameters::from_text(parameters).map_err(|_| Fault)?))
            }
            (b'N', rest) => Address::from_internal(rest).map(Request::Required).map_err(|_| Fault),
            (b'C', rest) => Ok(Request::Content(rest)),
            (b'E', []) => Ok(Request::Commit),
            (b'X', []) => Ok(Request::Reset),
            _ => Err(Fault),
        }
    }
}

impl Reply {
    /// Appends it as a frame.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Verdict(verdict) => put_frame(out, b'v', &verdict_octets(verdict)),
            Reply::Outcome(Outcome::Queued(id)) => put_frame(out, b'q', id.as_bytes()),
            Reply::Outcome(Outcome::Refused(Refusal::Recipient(verdict))) => {
                put_frame(out, b'n', &[b"x", verdict_octets(verdict).as_slice()].concat());
            }
            Reply::Outcome(Outcome::Refused(refusal)) => put_frame(out, b'n', &[letter(&REFUSALS, refusal)]),
        }
    }

    /// Reads the payload of a frame.
    pub fn decode(payload: &[u8]) -> Result<Reply, Fault> {
        match payload.split_first().ok_or(Fault)? {
            (b'v', octets) => Ok(Reply::Verdict(read_verdict(octets).ok_or(Fault)?)),
            (b'n', [octet]) => Ok(Reply::Outcome(Outcome::Refused(meaning(&REFUSALS, *octet).ok_or(Fault)?))),
            (b'n', [b'x', octets @ ..]) => {
                let verdict = read_verdict(octets).ok_or(Fault)?;
                Ok(Reply::Outcome(Outcome::Refused(Refusal::Recipient(verdict))))
            }
            (b'q', id) if !id.is_empty() && id.iter().all(u8::is_ascii_alphanumeric) => {
                Ok(Reply::Outcome(Outcome::Queued(String::from_utf8_lossy(id).into_owned())))
            }
            _ => Err(Fault),
        }
    }
}

/// Collects frames out of pushed octets.
#[derive(Debug)]
pub struct FrameReader {
    length: LengthReader,
    expected: Option<usize>,
    payload: Vec<u8>,
    given_out: bool,
}

impl Default for FrameReader {
    fn default() -> Self {
        let length = LengthReader::new(LONGEST_FRAME as u64);
        FrameReader { length, expected: None, payload: Vec::new(), given_out: false }
    }
}

impl FrameReader {
    /// Takes octets up to the end of a frame. Gives how many were taken, and the payload if one ended with them;
    /// without one all were taken.
    pub fn push<'a>(&'a mut self, input: &'a [u8]) -> Result<(usize, Option<&'a [u8]>), Fault> {
        if self.given_out {
            self.payload.clear();
            self.given_out = false;
        }
        let mut taken = 0;
        while let Some(&octet) = input.get(taken) {
            let Some(expected) = self.expected else {
                self.expected = self.length.push(octet).map_err(|_| Fault)?.map(|length| length as usize);
                taken += 1;
                continue;
            };
            let missing = expected.saturating_sub(self.payload.len());
            if missing == 0 {
                if octet != b',' {
                    return Err(Fault);
                }
                (self.expected, self.length, self.given_out) = (None, LengthReader::new(LONGEST_FRAME as u64), true);
                return Ok((taken + 1, Some(&self.payload)));
            }
            let rest = &input[taken..];
            if self.payload.is_empty() && rest.get(expected) == Some(&b',') {
                // It is all there, and need not be collected.
                (self.expected, self.length) = (None, LengthReader::new(LONGEST_FRAME as u64));
                return Ok((taken + expected + 1, Some(&rest[..expected])));
            }
            let more = &rest[..rest.len().min(missing)];
            self.payload.extend_from_slice(more);
            taken += more.len();
        }
        Ok((taken, None))
    }
}

/// What stands before the octets of a content frame, which may be sent without having been copied; [`END`] follows them.
pub fn put_content_head(length: usize, out: &mut Vec<u8>) {
    netstring::put_length(out, length.saturating_add(1));
    out.push(b'C');
}

/// The end of a frame.
pub const END: &[u8] = b",";

fn put_frame(out: &mut Vec<u8>, kind: u8, rest: &[u8]) {
    out.reserve(rest.len() + 10);
    netstring::put_length(out, rest.len() + 1);
    out.push(kind);
    out.extend_from_slice(rest);
    out.extend_from_slice(END);
}

/// A path, and if there are any the parameters behind an octet 0.
fn with<'a>(path: &'a [u8], alone: bool, parameters: &impl std::fmt::Display) -> Cow<'a, [u8]> {
    match alone {
        true => Cow::Borrowed(path),
        false => Cow::Owned([path, b"\0", parameters.to_string().as_bytes()].concat()),
    }
}

fn apart(octets: &[u8]) -> (&[u8], &[u8]) {
    match octets.iter().position(|octet| *octet == 0) {
        Some(at) => (&octets[..at], &octets[at + 1..]),
        None => (octets, b""),
    }
}

fn verdict_octets(verdict: &Verdict) -> Vec<u8> {
    match verdict {
        Verdict::Closed(closed) => [&[CLOSED], closed.as_str().as_bytes()].concat(),
        verdict => vec![letter(&VERDICTS, verdict)],
    }
}

fn read_verdict(octets: &[u8]) -> Option<Verdict> {
    match octets {
        [CLOSED, text @ ..] => {
            let text = std::str::from_utf8(text).ok()?;
            Some(Closed::new(text)).filter(|closed| closed.as_str() == text).map(Verdict::Closed)
        }
        [octet] => meaning(&VERDICTS, *octet),
        _ => None,
    }
}

fn letter<T: PartialEq>(table: &[(T, u8)], value: &T) -> u8 {
    table.iter().find(|(known, _)| known == value).map_or(b'?', |(_, letter)| *letter)
}

fn meaning<T: Clone>(table: &[(T, u8)], letter: u8) -> Option<T> {
    table.iter().find(|(_, known)| *known == letter).map(|(value, _)| value.clone())
}

fn introduction_octets(introduction: &Introduction) -> Vec<u8> {
    let client = &introduction.client;
    let mut out = vec![letter(&POLICIES, &introduction.policy), letter(&PROTOCOLS, &introduction.protocol)];
    put_text(&mut out, introduction.channel.as_bytes());
    for text in [client.helo.as_deref(), client.name.as_deref().map(str::as_bytes)] {
        out.push(u8::from(text.is_some()));
        put_text(&mut out, text.unwrap_or_default());
    }
    put_text(&mut out, client.address.as_bytes());
    out.push(u8::from(client.tls.is_some()));
    put_text(&mut out, client.tls.as_deref().unwrap_or_default().as_bytes());
    out
}

fn read_introduction(octets: &[u8]) -> Option<Introduction> {
    let ([policy, protocol], rest) = octets.split_first_chunk::<2>()?;
    let (channel, rest) = take_text(rest)?;
    let (helo, rest) = take_optional(rest)?;
    let (name, rest) = take_optional(rest)?;
    let (address, rest) = take_text(rest)?;
    let (tls, rest) = take_optional(rest)?;
    let text = |octets: &[u8]| std::str::from_utf8(octets).map(str::to_owned).ok();
    let optional = |octets: Option<&[u8]>| match octets {
        Some(octets) => text(octets).map(Some),
        None => Some(None),
    };
    let (name, tls) = (optional(name)?, optional(tls)?);
    let client = Client { helo: helo.map(<[u8]>::to_vec), name, address: text(address)?, tls };
    let (policy, protocol) = (meaning(&POLICIES, *policy)?, meaning(&PROTOCOLS, *protocol)?);
    rest.is_empty().then_some(Introduction { channel: text(channel)?, policy, protocol, client })
}

fn attribute(octets: &[u8]) -> Option<Request<'static>> {
    let (name, value) = std::str::from_utf8(octets).ok()?.split_once('=')?;
    (octets.len() <= LONGEST_TEXT).then(|| Request::Attribute(name.to_owned(), value.to_owned()))
}

/// Cut at a length that two octets count. A UTF-8 text is cut between characters, for the reader is strict.
fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len().min(LONGEST_TEXT);
    while length < text.len() && length > 0 && text[length] & 0xC0 == 0x80 {
        length -= 1;
    }
    out.extend_from_slice(&(length as u16).to_be_bytes());
    out.extend_from_slice(&text[..length]);
}

fn take_text(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = octets.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    if length > LONGEST_TEXT { None } else { rest.split_at_checked(length) }
}

fn take_optional(octets: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (present, rest) = octets.split_first()?;
    let (text, rest) = take_text(rest)?;
    match (present, text) {
        (1, text) => Some((Some(text), rest)),
        (0, []) => Some((None, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn any_address() -> impl Strategy<Value = Address> {
        vec(any::<u8>().prop_filter("no line end", |o| !matches!(o, 0 | b'\r' | b'\n')), 1..1000)
            .prop_map(|octets| Address::from_internal(&octets).unwrap())
    }

    fn any_introduction() -> impl Strategy<Value = Introduction> {
        let client = (option::of(vec(any::<u8>(), 0..1000)), option::of(".{0,200}"), ".{0,200}", option::of(".{0,99}"));
        let letters = (0..POLICIES.len(), 0..PROTOCOLS.len());
        (".{0,200}", letters, client).prop_map(|(channel, (policy, protocol), (helo, name, address, tls))| {
            Introduction {
                channel,
                policy: POLICIES[policy].0,
                protocol: PROTOCOLS[protocol].0,
                client: Client { helo, name, address, tls },
            }
        })
    }

    #[derive(Debug, Clone)]
    enum Sent {
        Introduce(Introduction),
        Verify(Address),
        ReversePath(Option<Address>, MailParameters),
        Recipient(Address, RecipientParameters),
        Required(Address),
        Content(Vec<u8>),
        Commit,
        Reset,
    }

    impl Sent {
        fn request(&self) -> Request<'_> {
            match self {
                Sent::Introduce(introduction) => Request::Introduce(introduction.clone()),
                Sent::Verify(address) => Request::Verify(address.clone()),
                Sent::ReversePath(path, said) => Request::ReversePath(ReversePath(path.clone()), said.clone()),
                Sent::Recipient(address, said) => Request::Recipient(address.clone(), said.clone()),
                Sent::Required(address) => Request::Required(address.clone()),
                Sent::Content(octets) => Request::Content(octets),
                Sent::Commit => Request::Commit,
                Sent::Reset => Request::Reset,
            }
        }
    }

    fn any_text(texts: &'static [&'static str]) -> impl Strategy<Value = &'static [u8]> {
        (0..texts.len()).prop_map(|which| texts[which].as_bytes())
    }

    fn any_request() -> impl Strategy<Value = Sent> {
        prop_oneof![
            any_introduction().prop_map(Sent::Introduce),
            any_address().prop_map(Sent::Verify),
            (option::of(any_address()), any_text(&["", "ENVID=a+20b RET=HDRS", "BODY=BINARYMIME SMTPUTF8 REQUIRETLS"]))
                .prop_map(|(path, said)| Sent::ReversePath(path, MailParameters::from_text(said).unwrap())),
            (any_address(), any_text(&["", "NOTIFY=NEVER", "NOTIFY=DELAY ORCPT=rfc822;a+40b"]))
                .prop_map(|(address, said)| Sent::Recipient(address, RecipientParameters::from_text(said).unwrap())),
            any_address().prop_map(Sent::Required),
            vec(any::<u8>(), 0..3000).prop_map(Sent::Content),
            Just(Sent::Commit),
            Just(Sent::Reset),
        ]
    }

    fn payloads(octets: &[u8], chunk: usize) -> Result<Vec<Vec<u8>>, Fault> {
        let (mut reader, mut found) = (FrameReader::default(), Vec::new());
        for mut piece in octets.chunks(chunk) {
            while !piece.is_empty() {
                let (taken, payload) = reader.push(piece)?;
                found.extend(payload.map(<[u8]>::to_vec));
                piece = &piece[taken..];
            }
        }
        Ok(found)
    }

    proptest! {
        #[test]
        fn what_is_put_is_decoded_however_it_is_split(sent in vec(any_request(), 1..5), chunk in 1..4000_usize) {
            let mut octets = Vec::new();
            sent.iter().for_each(|one| one.request().put(&mut octets));
            let found = payloads(&octets, chunk).unwrap();
            let decoded: Vec<_> = found.iter().map(|payload| Request::decode(payload).unwrap()).collect();
            let wanted: Vec<_> = sent.iter().map(Sent::request).collect();
            prop_assert_eq!(decoded, wanted);
        }

        #[test]
        fn any_octets_are_decoded_without_panic(octets in vec(any::<u8>(), 0..200), kind in 0..9_usize) {
            let _ = Request::decode(&octets);
            let _ = Reply::decode(&octets);
            let _ = Request::decode(&[&b"IVFRNCEXz"[kind..=kind], &octets].concat());
            let _ = payloads(&octets, 7);
        }
    }

    #[test]
    fn every_reply_is_decoded() {
        let refusals = REFUSALS.iter().map(|(refusal, _)| refusal.clone());
        let closed = ["", "5.1.2 gone away"].map(|text| Verdict::Closed(Closed::new(text)));
        let verdicts = || VERDICTS.iter().map(|(verdict, _)| verdict.clone()).chain(closed.clone());
        let of_recipients = verdicts().map(Refusal::Recipient);
        let outcomes = refusals.chain(of_recipients).map(Outcome::Refused);
        let queued = Outcome::Queued("0123456789abcde".to_owned());
        let replies = verdicts().map(Reply::Verdict);
        for reply in replies.chain(outcomes.chain([queued]).map(Reply::Outcome)) {
            let mut octets = Vec::new();
            reply.put(&mut octets);
            assert_eq!(Reply::decode(&payloads(&octets, 1).unwrap()[0]), Ok(reply));
        }
    }

    #[test]
    fn words_that_no_channel_has_are_a_fault() {
        let long = [b"vc", [b'x'; 101].as_slice()].concat();
        for payload in [&b"vc\r\n"[..], "vc\u{fc}".as_bytes(), b"vc\xff", b"vax", b"v", b"nxaa", &long] {
            assert_eq!(Reply::decode(payload), Err(Fault), "{payload:?}");
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_a_fault_before_it_is_read() {
        assert!(payloads(b"65538:", 1).is_err());
        assert!(payloads(b"65537:", 1).is_ok());
        assert!(payloads(b"99999999999999999999999:", 1).is_err());
        assert!(payloads(b"1:Ex", 1).is_err());
    }

    #[test]
    fn texts_that_are_too_long_are_cut_between_characters() {
        let (name, address) = (Some("ü".repeat(700)), "1".repeat(1001));
        let long = Client { helo: Some(vec![b'x'; 5000]), name, address, tls: None };
        let introduction = Introduction {
            channel: "local".to_owned(),
            policy: Policy::Channels,
            protocol: Protocol::Smtp,
            client: long,
        };
        let read = read_introduction(&introduction_octets(&introduction)).unwrap();
        assert_eq!(read.client.helo.unwrap().len(), LONGEST_TEXT);
        assert_eq!(read.client.name.unwrap(), "ü".repeat(500));
        assert_eq!(read.client.address.len(), LONGEST_TEXT);
    }
}
