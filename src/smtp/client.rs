//! SMTP and LMTP as a client (RFC 5321, RFC 2033): one connection, any number of messages. No clock, socket or file:
//! whoever connects gives a [`Wire`], and is told for every recipient what became of it.
//!
//! Spoken where it is offered: PIPELINING (RFC 2920), SIZE (RFC 1870), 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531), DSN
//! (RFC 3461), STARTTLS (RFC 3207), AUTH (RFC 4954), REQUIRETLS (RFC 8689), BINARYMIME with CHUNKING (RFC 3030). What a
//! message needs and a server does not offer is a failure that says so: nothing is sent in a form that was not agreed.
//!
//! `answer` reads replies, `offers` the answer to EHLO, `login` is AUTH.

pub mod answer;
pub mod login;
pub mod offers;

use crate::message::parameters::{LONGEST_ORCPT, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use answer::{Answer, Answers};
use offers::Offers;
use std::collections::VecDeque;
use std::fmt;

/// What a connection is doing; each has its own time limit, and stands in the reason if it breaks there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for the greeting.
    Greeting,
    /// EHLO, HELO, LHLO.
    Hello,
    /// STARTTLS and the handshake.
    StartTls,
    /// AUTH.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The message is on its way.
    Content,
    /// The message was sent, and no answer has come: it may have been taken.
    End,
    /// RSET.
    Rset,
    /// QUIT.
    Quit,
    /// Any of a transaction, where the answer is to who has not logged in.
    WithoutLogin,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Greeting => "the greeting",
            Stage::Hello => "EHLO",
            Stage::StartTls => "STARTTLS",
            Stage::Auth => "AUTH",
            Stage::Mail => "MAIL",
            Stage::Rcpt => "RCPT",
            Stage::Data => "DATA",
            Stage::Content => "the message",
            Stage::End => "the end of the message",
            Stage::Rset => "RSET",
            Stage::Quit => "QUIT",
            Stage::WithoutLogin => "mail without a login",
        })
    }
}

/// Why a connection is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// The other side was silent too long, or does not read.
    TimedOut,
    /// It is gone.
    HungUp,
    /// It does not speak SMTP.
    Nonsense,
    /// The message could not be read here.
    Unreadable,
}

/// Octets to and from the server.
pub trait Wire {
    /// Sends all of it, for as long as the stage may take.
    fn send(&mut self, stage: Stage, octets: &[u8]) -> Result<(), Lost>;
    /// From now on an answer is waited for: the time that the stage may take is for all of it, in however many pieces it comes.
    fn expect(&mut self, stage: Stage);
    /// Waits for octets; 0: there will be no more.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Lost>;
}

/// Where the octets of a message come from.
pub trait Content {
    /// Appends the next piece, dot-stuffed and with CR LF, at the end with the line that has a dot; false: that was all.
    fn text(&mut self, out: &mut Vec<u8>) -> Result<bool, Lost>;
    /// Appends the next piece as it is; false: that was all.
    fn binary(&mut self, out: &mut Vec<u8>) -> Result<bool, Lost>;
}

/// REQUIRETLS is asked for, and this server does not have it.
const NO_PROMISE: &str = "5.7.30 the sender requires TLS all the way, and the next hop does not promise it";

/// REQUIRETLS is asked for, and this server does not offer TLS. As for the promise, another of the domain may (RFC 8689 section
/// 4.2.1).
pub const NO_TLS: &str = "5.7.10 the sender requires TLS, and the next hop does not offer it";

/// REQUIRETLS is asked for, and nobody knows whether this server is the right one.
pub const NO_CERTIFICATE: &str =
    "5.7.10 the sender requires TLS, and the certificate of the next hop cannot be verified";

/// An address or the header cannot be said without SMTPUTF8.
const NEEDS_SMTPUTF8: &str = "5.6.7 an address or the header needs SMTPUTF8, which the next hop does not know";

/// The content cannot be sent without BINARYMIME.
const NEEDS_BINARYMIME: &str = "5.6.1 the message is binary, and the next hop takes only text";

/// The content cannot be sent without 8BITMIME.
const NEEDS_8BITMIME: &str = "5.6.3 the message has octets above 127, and the next hop does not know 8BITMIME";

/// What this server does not offer, and another of the domain may.
pub const LACKING: [&str; 6] = [NO_PROMISE, NO_TLS, NO_CERTIFICATE, NEEDS_SMTPUTF8, NEEDS_BINARYMIME, NEEDS_8BITMIME];

/// An address cannot be said at all.
const NOT_UTF8: &str = "5.6.7 an address has octets that are no UTF-8, and SMTP carries no others";

/// Why something did not go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The connection broke.
    Lost(Lost, Stage),
    /// The server said no.
    Said(Answer, Stage),
    /// The server cannot do what is needed: status code and text, ours.
    Cannot(&'static str),
}

impl Trouble {
    /// Whether it will never be better.
    pub fn is_never(&self) -> bool {
        match self {
            Trouble::Lost(..) => false,
            // That is about us or about the server, and no reason to return a message.
            Trouble::Said(_, Stage::Greeting | Stage::Hello | Stage::StartTls | Stage::Auth | Stage::Rset) => false,
            Trouble::Said(_, Stage::WithoutLogin) => false,
            // RFC 5321 section 4.5.3.1.10: too many recipients, said in the old way.
            Trouble::Said(answer, Stage::Rcpt) if answer.code == 552 => false,
            Trouble::Said(answer, _) => answer.is_never(),
            Trouble::Cannot(text) => text.starts_with('5'),
        }
    }

    /// Status code and reason for a recipient's report, about a host.
    pub fn report(&self, host: &str) -> String {
        match self {
            Trouble::Lost(Lost::TimedOut, stage) => format!("4.4.2 {host} took too long at {stage}"),
            Trouble::Lost(Lost::HungUp, stage) => format!("4.4.2 lost the connection to {host} at {stage}"),
            Trouble::Lost(Lost::Nonsense, stage) => {
                format!("4.5.0 {host} answered {stage} with something else than a reply")
            }
            Trouble::Lost(Lost::Unreadable, _) => "4.3.0 the message could not be read".to_owned(),
            Trouble::Said(answer, stage) => {
                let status = match (self.is_never(), answer.status()) {
                    (true, status) => status.to_owned(),
                    (false, status) if status.starts_with('5') => format!("4{}", status.get(1..).unwrap_or(".0.0")),
                    (false, status) if status.starts_with('4') => status.to_owned(),
                    // A 2yz or 3yz where it has no meaning.
                    (false, _) => "4.5.0".to_owned(),
                };
                format!("{status} {host} said: {} (to {stage})", answer.said())
            }
            Trouble::Cannot(text) => format!("{text} ({host})"),
        }
    }
}

/// Who a message is for, and what the next hop is told about that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct To {
    /// The address.
    pub address: Address,
    /// NOTIFY and ORCPT as they came (RFC 3461): ` NOTIFY=NEVER ORCPT=rfc822;a@b.example`, or empty.
    pub dsn: String,
}

impl To {
    /// A recipient with what was said with it.
    pub fn new(address: &Address, said: &RecipientParameters) -> To {
        To { address: address.clone(), dsn: behind(said) }
    }
}

/// Parameters as they stand behind an address: with a blank in front, if there are any.
pub fn behind(parameters: &impl fmt::Display) -> String {
    let text = parameters.to_string();
    if text.is_empty() { text } else { format!(" {text}") }
}

/// What a message is, for its transaction.
#[derive(Debug, Clone)]
pub struct Envelope<'a> {
    /// The sender.
    pub sender: &'a ReversePath,
    /// Recipients of this transaction.
    pub to: &'a [To],
    /// Octets with CR LF line ends (RFC 1870 section 5).
    pub size: u64,
    /// Octets above 127 are in it.
    pub eight_bit: bool,
    /// It came with SMTPUTF8, and its header or that of a part has some.
    pub utf8_header: bool,
    /// It is to be announced as BODY=BINARYMIME.
    pub binary: bool,
    /// It came with SMTPUTF8.
    pub smtputf8: bool,
    /// Whether it is to stay under TLS.
    pub requiretls: Requiretls,
    /// RET and ENVID as they came, like [`To::dsn`].
    pub dsn: String,
}

/// What REQUIRETLS asks of a next hop (RFC 8689).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requiretls {
    /// Nothing: it was not said.
    Unsaid,
    /// It is said to whoever knows it: a report that finds no other way back is not to be lost (section 5), and the end of the
    /// way needs no promise.
    Wished,
    /// Without it the message does not go there.
    Required,
}

/// What became of one recipient; the answer is the last that was about it.
pub type Verdict = Result<Answer, Trouble>;

/// SMTP, or LMTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 5321.
    Smtp,
    /// RFC 2033: LHLO, and an answer for each recipient at the end.
    Lmtp,
}

/// One connection.
#[derive(Debug)]
pub struct Session<W> {
    /// What carries the octets.
    pub wire: W,
    /// What the server offers, after [`Session::hello`].
    pub offers: Offers,
    /// Whether it can be used for another message.
    pub is_alive: bool,
    /// Whether it is under TLS.
    pub is_encrypted: bool,
    /// The same, and the certificate was checked: what REQUIRETLS needs.
    pub is_verified: bool,
    protocol: Protocol,
    answers: Answers,
    /// What was received and not yet read.
    pending: VecDeque<u8>,
    needs_rset: bool,
}

impl<W: Wire> Session<W> {
    /// Over a connection that was just made.
    pub fn new(wire: W, protocol: Protocol) -> Session<W> {
        Session {
            wire,
            offers: Offers::default(),
            is_alive: true,
            is_encrypted: false,
            is_verified: false,
            protocol,
            answers: Answers::default(),
            pending: VecDeque::new(),
            needs_rset: false,
        }
    }

    /// Waits for the greeting.
    pub fn greeting(&mut self) -> Result<(), Trouble> {
        let answer = self.receive(Stage::Greeting)?;
        self.expect(answer, Stage::Greeting).map(|_| ())
    }

    /// Says who we are, and learns what is offered. A server that does not know EHLO is asked with HELO.
    pub fn hello(&mut self, own_name: &str) -> Result<(), Trouble> {
        let word = if self.protocol == Protocol::Lmtp { "LHLO" } else { "EHLO" };
        let answer = self.command(Stage::Hello, &format!("{word} {own_name}"))?;
        if answer.is_yes() {
            self.offers = Offers::of(&answer);
            return Ok(());
        }
        self.offers = Offers::default();
        if self.protocol == Protocol::Lmtp || !answer.is_never() {
            return self.expect(answer, Stage::Hello).map(|_| ());
        }
        let answer = self.command(Stage::Hello, &format!("HELO {own_name}"))?;
        self.expect(answer, Stage::Hello).map(|_| ())
    }

    /// Asks for TLS. After `Ok` the handshake must follow, then [`Session::hello`] again.
    pub fn ask_for_tls(&mut self) -> Result<(), Trouble> {
        let answer = self.command(Stage::StartTls, "STARTTLS")?;
        self.expect(answer, Stage::StartTls)?;
        // What came before the handshake was not sent under TLS (response injection), and what was offered is void.
        self.pending.clear();
        self.answers = Answers::default();
        self.offers = Offers::default();
        Ok(())
    }

    /// One message to all recipients of the envelope; a verdict for each, in their order. An address that cannot be said here
    /// keeps the message from nobody else.
    pub fn send(&mut self, envelope: &Envelope<'_>, content: &mut dyn Content) -> Vec<Verdict> {
        let cannot = |to: &To| match &to.address {
            // Then it goes to nobody here, and another host may be asked.
            _ if !self.promises(envelope) => None,
            address if !address.is_utf8() => Some(NOT_UTF8),
            address if !address.is_ascii() && !self.offers.smtputf8 => Some(NEEDS_SMTPUTF8),
            _ => None,
        };
        let cannot: Vec<Option<&str>> = envelope.to.iter().map(cannot).collect();
        let can = envelope.to.iter().zip(&cannot).filter(|(_, cannot)| cannot.is_none());
        let to: Vec<To> = can.map(|(to, _)| to.clone()).collect();
        let sent = if to.is_empty() {
            Vec::new()
        } else {
            self.send_to_all(&Envelope { to: &to, ..envelope.clone() }, content)
        };
        let mut sent = sent.into_iter();
        let verdict = |cannot: Option<&'static str>| match cannot {
            Some(why) => Err(Trouble::Cannot(why)),
            None => sent.next().unwrap_or(Err(Trouble::Lost(Lost::HungUp, Stage::End))),
        };
        cannot.into_iter().map(verdict).collect()
    }

    fn send_to_all(&mut self, envelope: &Envelope<'_>, content: &mut dyn Content) -> Vec<Verdict> {
        let mut verdicts: Vec<Option<Verdict>> = vec![None; envelope.to.len()];
        if let Err(trouble) = self.fits(envelope).and_then(|()| self.transact(envelope, content, &mut verdicts)) {
            self.is_alive &= !matches!(trouble, Trouble::Lost(..));
            verdicts.iter_mut().filter(|verdict| verdict.is_none()).for_each(|v| *v = Some(Err(trouble.clone())));
        }
        let unheard = || Err(Trouble::Lost(Lost::HungUp, Stage::End));
        verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(unheard)).collect()
    }

    /// Takes leave. What the server says to that matters to nobody, and is not waited for: the next message or the next host
    /// would wait too.
    pub fn quit(&mut self) {
        if std::mem::take(&mut self.is_alive) {
            let _ = self.wire.send(Stage::Quit, b"QUIT\r\n");
        }
    }

    /// Whether the message stays under TLS behind the server, if it has to.
    fn promises(&self, envelope: &Envelope<'_>) -> bool {
        envelope.requiretls != Requiretls::Required || (self.offers.requiretls && self.is_verified)
    }

    /// What keeps MAIL from being said at all.
    fn fits(&self, envelope: &Envelope<'_>) -> Result<(), Trouble> {
        let offers = &self.offers;
        let has_utf8 = !envelope.sender.as_bytes().is_ascii() || !envelope.to.iter().all(|to| to.address.is_ascii());
        let cannot = if !self.promises(envelope) {
            NO_PROMISE
        } else if offers.size.is_some_and(|limit| limit > 0 && envelope.size > limit) {
            "5.3.4 the message is larger than the next hop takes"
        } else if has_utf8 && !offers.smtputf8 {
            NEEDS_SMTPUTF8
        } else if envelope.sender.0.as_ref().is_some_and(|sender| !sender.is_utf8()) {
            NOT_UTF8
        } else {
            return Ok(());
        };
        Err(Trouble::Cannot(cannot))
    }

    /// What keeps the content from being sent. It is no reason to return mail before MAIL and RCPT are answered: what answers
    /// EHLO with a bare line may be a greylister, and the host behind it have everything.
    fn lacks(&self, envelope: &Envelope<'_>) -> Option<&'static str> {
        let offers = &self.offers;
        // What came with SMTPUTF8 needs it no more than other mail but for addresses and headers (RFC 6531 section 3.6).
        if envelope.utf8_header && !offers.smtputf8 {
            Some(NEEDS_SMTPUTF8)
        } else if envelope.binary && !(offers.binary && offers.chunking) {
            Some(NEEDS_BINARYMIME)
        } else if envelope.eight_bit && !envelope.binary && !offers.eight_bit && !self.says_utf8(envelope) {
            Some(NEEDS_8BITMIME)
        } else {
            None
        }
    }

    fn transact(
        &mut self,
        envelope: &Envelope<'_>,
        content: &mut dyn Content,
        verdicts: &mut [Option<Verdict>],
    ) -> Result<(), Trouble> {
        if self.needs_rset {
            let answer = self.command(Stage::Rset, "RSET")?;
            self.expect(answer, Stage::Rset)?;
        }
        self.needs_rset = true;
        let lack = self.lacks(envelope);
        let has_data = lack.is_none() && !envelope.binary;
        let mail = self.mail(envelope);
        let utf8 = self.says_utf8(envelope);
        let dsn = |to: &To| match self.offers.dsn {
            true if utf8 || to.dsn.is_ascii() => to.dsn.clone(),
            true => dsn_in_ascii(&to.dsn),
            false => String::new(),
        };
        let rcpt = |to: &To| format!("RCPT TO:<{}>{}", to.address, dsn(to));
        let rcpts: Vec<String> = envelope.to.iter().map(rcpt).collect();
        if self.offers.pipelining {
            let data = if has_data { "DATA\r\n" } else { "" };
            let group = format!("{mail}\r\n{}\r\n{data}", rcpts.join("\r\n"));
            self.out(Stage::Mail, group.as_bytes())?;
        }
        let answer = self.next(Stage::Mail, &mail)?;
        if let Err(refused) = self.expect(answer, Stage::Mail) {
            // That stands, whatever becomes of the group's other answers: a server may close behind it.
            let _ = self.hear_out(rcpts.len(), has_data);
            return Err(refused);
        }
        for (rcpt, verdict) in rcpts.iter().zip(verdicts.iter_mut()) {
            let answer = self.next(Stage::Rcpt, rcpt)?;
            *verdict = self.expect(answer, Stage::Rcpt).err().map(Err);
        }
        if verdicts.iter().all(Option::is_some) {
            return self.hear_out(0, has_data);
        }
        if let Some(lack) = lack {
            return Err(Trouble::Cannot(lack));
        }
        if envelope.binary {
            return self.chunk(content).and_then(|()| self.last_words(verdicts));
        }
        let answer = self.next(Stage::Data, "DATA")?;
        if answer.code != 354 {
            return Err(self.refusal(answer, Stage::Data));
        }
        self.text(content).and_then(|()| self.last_words(verdicts))
    }

    /// Reads what is still to come to a group of commands that has become of no use: so many answers to RCPT, and one to DATA.
    /// None comes from a server that has said goodbye.
    fn hear_out(&mut self, rcpts: usize, data: bool) -> Result<(), Trouble> {
        if !self.offers.pipelining || !self.is_alive {
            return Ok(());
        }
        let stages = std::iter::repeat_n(Stage::Rcpt, rcpts).chain(data.then_some(Stage::Data));
        for stage in stages {
            let answer = self.receive(stage)?;
            if answer.code == 421 {
                self.is_alive = false;
                break;
            }
            // RFC 2920 section 3.1: who pipelined DATA and has no recipient ends an empty message.
            if answer.code == 354 && stage == Stage::Data {
                self.out(Stage::Data, b".\r\n")?;
                self.receive(Stage::Data)?;
            }
        }
        Ok(())
    }

    /// Whether MAIL says SMTPUTF8.
    fn says_utf8(&self, envelope: &Envelope<'_>) -> bool {
        let is_ascii = envelope.sender.as_bytes().is_ascii() && envelope.to.iter().all(|to| to.address.is_ascii());
        self.offers.smtputf8 && (envelope.smtputf8 || !is_ascii)
    }

    fn mail(&self, envelope: &Envelope<'_>) -> String {
        let mut mail = format!("MAIL FROM:{}", envelope.sender);
        let offers = &self.offers;
        if offers.size.is_some() {
            mail.push_str(&format!(" SIZE={}", envelope.size));
        }
        if envelope.binary && offers.binary && offers.chunking {
            mail.push_str(" BODY=BINARYMIME");
        } else if envelope.eight_bit && offers.eight_bit {
            mail.push_str(" BODY=8BITMIME");
        }
        if self.says_utf8(envelope) {
            mail.push_str(" SMTPUTF8");
        }
        let is_promised = offers.requiretls && self.is_encrypted;
        if envelope.requiretls == Requiretls::Required || (envelope.requiretls == Requiretls::Wished && is_promised) {
            mail.push_str(" REQUIRETLS");
        }
        if offers.dsn {
            mail.push_str(&envelope.dsn);
        }
        mail
    }

    fn text(&mut self, content: &mut dyn Content) -> Result<(), Trouble> {
        let mut piece = Vec::new();
        loop {
            piece.clear();
            let goes_on = content.text(&mut piece).map_err(|lost| Trouble::Lost(lost, Stage::Content))?;
            self.piece(&piece)?;
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// All of it as one chunk, whose size must be known first.
    fn chunk(&mut self, content: &mut dyn Content) -> Result<(), Trouble> {
        let mut piece = Vec::new();
        loop {
            piece.clear();
            let goes_on = content.binary(&mut piece).map_err(|lost| Trouble::Lost(lost, Stage::Content))?;
            let last = if goes_on { "" } else { " LAST" };
            let mut out = format!("BDAT {}{last}\r\n", piece.len()).into_bytes();
            out.append(&mut piece);
            self.piece(&out)?;
            if !goes_on {
                return Ok(());
            }
            let answer = self.receive(Stage::Content)?;
            self.expect(answer, Stage::Content)?;
        }
    }

    fn piece(&mut self, octets: &[u8]) -> Result<(), Trouble> {
        match self.wire.send(Stage::Content, octets) {
            Ok(()) => Ok(()),
            Err(lost) => {
                self.is_alive = false;
                // A server that wants no more of it may have said why before it closed.
                match self.receive(Stage::Content) {
                    Ok(answer) if answer.code >= 400 => Err(Trouble::Said(answer, Stage::Content)),
                    _ => Err(Trouble::Lost(lost, Stage::Content)),
                }
            }
        }
    }

    /// The answers to the message itself: one, or with LMTP one for each recipient that was taken.
    fn last_words(&mut self, verdicts: &mut [Option<Verdict>]) -> Result<(), Trouble> {
        let mut one = None;
        for verdict in verdicts.iter_mut().filter(|verdict| verdict.is_none()) {
            let said: Verdict = match (&one, self.protocol) {
                (Some(said), Protocol::Smtp) => Verdict::clone(said),
                _ => {
                    let answer = self.receive(Stage::End)?;
                    self.expect(answer, Stage::End)
                }
            };
            one = Some(said.clone());
            *verdict = Some(said);
        }
        self.needs_rset = false;
        Ok(())
    }

    /// Sends a command and waits for its answer.
    pub(super) fn command(&mut self, stage: Stage, line: &str) -> Result<Answer, Trouble> {
        self.out(stage, format!("{line}\r\n").as_bytes())?;
        self.receive(stage)
    }

    /// The same for a command that is on its way already where the server takes several at once.
    fn next(&mut self, stage: Stage, line: &str) -> Result<Answer, Trouble> {
        if self.offers.pipelining { self.receive(stage) } else { self.command(stage, line) }
    }

    /// Only a 2yz is good.
    fn expect(&mut self, answer: Answer, stage: Stage) -> Verdict {
        if answer.is_yes() { Ok(answer) } else { Err(self.refusal(answer, stage)) }
    }

    /// A server that says 421 closes (RFC 5321 section 3.8).
    fn refusal(&mut self, answer: Answer, stage: Stage) -> Trouble {
        self.is_alive &= answer.code != 421;
        Trouble::Said(answer, stage)
    }

    fn out(&mut self, stage: Stage, octets: &[u8]) -> Result<(), Trouble> {
        self.wire.send(stage, octets).map_err(|lost| {
            self.is_alive = false;
            Trouble::Lost(lost, stage)
        })
    }

    fn receive(&mut self, stage: Stage) -> Result<Answer, Trouble> {
        let lost = |lost| Trouble::Lost(lost, stage);
        self.wire.expect(stage);
        loop {
            let (pending, _) = self.pending.as_slices();
            if !pending.is_empty() {
                let pushed = self.answers.push(pending);
                let (taken, answer) = pushed.map_err(|_| {
                    self.is_alive = false;
                    lost(Lost::Nonsense)
                })?;
                self.pending.drain(..taken);
                match answer {
                    Some(answer) => return Ok(answer),
                    None => continue,
                }
            }
            let mut buffer = [0; 4096];
            match self.wire.receive(&mut buffer) {
                Ok(count @ 1..) => self.pending.extend(buffer.get(..count).unwrap_or_default()),
                other => {
                    self.is_alive = false;
                    return Err(lost(other.err().unwrap_or(Lost::HungUp)));
                }
            }
        }
    }
}

/// NOTIFY and ORCPT for a transaction without SMTPUTF8: an original recipient in UTF-8 is written as `utf-8-addr-xtext`
/// (RFC 6533 section 3), and left out where it gets longer than RFC 3461 section 4.2 has it.
fn dsn_in_ascii(dsn: &str) -> String {
    let escape = |letter: char| match letter {
        // In xtext, which a host reads that knows nothing of this type, it begins an octet.
        letter if letter.is_ascii() && letter != '+' => letter.to_string(),
        letter => format!("\\x{{{:X}}}", u32::from(letter)),
    };
    let words = dsn.split(' ').map(|word| word.chars().map(escape).collect::<String>());
    let fits = |word: &String| word.len() <= "ORCPT=".len() + LONGEST_ORCPT;
    words.filter(fits).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
