//! The loop of a session: read, ask the session, do what it says.
//!
//! Replies are collected and sent in one write when no whole command is left in the input (RFC 2920 section 3.2).
//! Memory does not depend on what the client sends: an input buffer, a line of bounded length, and a piece of the
//! message on its way to submit (`server/message.rs`).

use super::command::{self, Command};
use super::reply::Reply;
use super::session::{self, Session, Step};
use super::site::Site;
use crate::channel::AUTHENTICATED;
use crate::config::Config;
use crate::exit::{Ended, Error};
use crate::logging;
use crate::lookup::Lookup;
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::message::trace::Client;
use crate::net::connection::{Fault, Stream};
use crate::net::peer::Peer;
use crate::net::tls::Offer;
use crate::net::{FIRST_ROOM, make_room};
use crate::submit::{Introduction, Policy, Submit, Verdict};
use crate::wire::line::{Line, LineEnd, LineReader};
use std::time::Duration;

mod auth;
mod chunks;
mod message;
mod submission;
mod tls;

/// What is read at once, and about what is handed to submit at once.
const PIECE: usize = 64 * 1024;
/// Collected replies are sent at this size even if more commands are there.
const MOST_REPLIES: usize = 16 * 1024;
/// How long a client may take to read the last reply of a connection that we close.
const FAREWELL: Duration = Duration::from_secs(10);

/// What a server is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The session's part.
    pub session: session::Settings,
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
    /// Whether an LF without CR is a line end, though never one of those around the dot that ends a message.
    pub bare_newline: bool,
    /// Errors after which each more is answered late, and how late.
    pub soft_errors: (u32, Duration),
    /// Whether a client that no channel lists is turned away before the greeting.
    pub finicky: bool,
    /// Words at which the connection is closed: those of other protocols.
    pub forbidden: Vec<String>,
}

/// What kind of server this is, by name, options and parameters.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kind {
    /// What is spoken.
    pub dialect: session::Dialect,
    /// Whether clients that no channel lists are turned away.
    pub finicky: bool,
    /// Whether clients can log in.
    pub login: session::Login,
    /// Whether the client may speak for others.
    pub xclient: bool,
    /// Whether the client may end lines with LF alone.
    pub bare_newline: bool,
}

impl Settings {
    /// What the configuration says; `hostname` replaces myhostname.
    pub fn new(config: &Config, peer: &Peer, hostname: Option<&str>, kind: Kind) -> Settings {
        Settings {
            session: session::Settings {
                hostname: hostname.unwrap_or(&config.myhostname).to_owned(),
                message_size_limit: config.message_size_limit,
                recipient_limit: config.smtpd_recipient_limit,
                error_limit: config.smtpd_hard_error_limit,
                junk_limit: config.smtpd_junk_command_limit,
                transaction_limit: config.smtpd_transaction_limit,
                tls: session::Tls::Never,
                dialect: kind.dialect,
                login: kind.login,
                xclient: kind.xclient,
                discarded: config.smtpd_discard_ehlo_keywords.0.clone(),
            },
            timeout: config.smtpd_timeout.0,
            min_data_rate: config.smtpd_min_data_rate,
            line_length_limit: usize::try_from(config.line_length_limit).unwrap_or(usize::MAX),
            soft_bounce: config.soft_bounce,
            forbid_early: config.smtpd_forbid_unauth_pipelining && peer.on_inet_socket,
            greet_wait: config.smtpd_greet_wait.0,
            bare_newline: kind.bare_newline,
            soft_errors: (config.smtpd_soft_error_limit, config.smtpd_error_sleep_time.0),
            finicky: kind.finicky,
            forbidden: config.smtpd_forbidden_commands.0.iter().map(|word| word.0.clone()).collect(),
        }
    }
}

impl Settings {
    fn line_end(&self) -> LineEnd {
        if self.bare_newline { LineEnd::Lenient } else { LineEnd::Strict }
    }
}

/// Serves one session to its end. How the client leaves is logged and no error.
pub fn serve(
    stream: &mut impl Stream,
    submit: &mut impl Submit,
    site: &impl Site,
    settings: &Settings,
    tls: Offer,
) -> Result<Ended, Error> {
    let offered = if tls.is_on_request() { session::Tls::Offered } else { session::Tls::Never };
    let at_once = matches!(tls, Offer::AtOnce(_));
    let mut server = Server {
        stream,
        submit,
        site,
        settings,
        client: site.client().1,
        session: Session::new(session::Settings { tls: offered, ..settings.session.clone() }),
        lines: LineReader::new(settings.line_length_limit, settings.line_end()),
        input: vec![0; FIRST_ROOM],
        start: 0,
        end: 0,
        out: Vec::new(),
        channel: None,
        introduced: None,
        begun: false,
        queued: 0,
        tls,
        cipher_suite: None,
        chunks: None,
        header: None,
    };
    log::info!("client={} event=connect", server.client);
    let begun = if at_once { server.begin_with_tls()? } else { Ok(()) };
    let ended = begun.and_then(|()| server.run());
    server.leave(ended)
}

/// Tells a client that we cannot serve it at all, and never why: that stands in the log.
pub fn refuse(stream: &mut impl Stream) {
    let mut octets = Vec::new();
    Reply::CLOSING.put(&mut octets, false);
    stream.allow_last_words(FAREWELL);
    let _ = stream.send(&octets);
    stream.finish();
}

struct Server<'a, S, M, W> {
    stream: &'a mut S,
    submit: &'a mut M,
    site: &'a W,
    settings: &'a Settings,
    client: String,
    session: Session,
    lines: LineReader,
    input: Vec<u8>,
    start: usize,
    end: usize,
    out: Vec<u8>,
    channel: Option<String>,
    introduced: Option<Introduction>,
    /// Whether submit holds a message of ours.
    begun: bool,
    queued: u32,
    tls: Offer,
    /// What TLS came to, for the Received field.
    cipher_suite: Option<String>,
    /// The message that comes by BDAT, as far as it has come.
    chunks: Option<chunks::Chunks>,
    /// The header of a message that is submitted, until it is whole.
    header: Option<Vec<u8>>,
}

/// A line of input, or the lack of one.
enum Input {
    Command(Result<Command, command::Fault>),
    TooLong,
    BareLineEnd,
    End,
}

impl<S: Stream, M: Submit, W: Site> Server<'_, S, M, W> {
    fn run(&mut self) -> Result<Ended, Fault> {
        if self.settings.finicky
            && let Err(reply) = self.find_channel()
        {
            let reply = if reply == Reply::NO_CHANNEL { Reply::NOT_LISTED } else { Reply::CANNOT_TELL_YET };
            return Ok(self.refuse(reply));
        }
        // Who begins before the greeting has not been told that this is SMTP. Under TLS there are no such octets.
        if self.settings.forbid_early && self.cipher_suite.is_none() && self.stream.is_waiting(self.settings.greet_wait)
        {
            return Ok(self.refuse(Reply::EARLY));
        }
        self.say(self.session.greeting());
        loop {
            let errors = self.session.errors();
            let step = match self.next_line()? {
                Input::Command(Ok(command)) if self.is_early(&command) => Step::Refuse(Reply::EARLY),
                Input::Command(Ok(command)) => {
                    if self.session.lists_mechanisms(&command) {
                        self.session.has_secrets(self.site.has_secrets());
                    }
                    self.session.command(command)
                }
                Input::Command(Err(fault)) => self.session.mistake(fault),
                Input::TooLong => Step::Say(Reply::LINE_TOO_LONG),
                Input::BareLineEnd => Step::Refuse(Reply::BARE_LINE_END),
                Input::End => return Err(Fault::HungUp),
            };
            if let Some(ended) = self.act(step)? {
                return Ok(ended);
            }
            if self.session.errors() > errors.max(self.settings.soft_errors.0) {
                std::thread::sleep(self.settings.soft_errors.1);
            }
            if self.session.is_worn_out() {
                return Ok(self.refuse(Reply::TOO_MANY_ERRORS));
            }
            if self.out.len() >= MOST_REPLIES {
                self.flush()?;
            }
        }
    }

    fn is_early(&self, command: &Command) -> bool {
        self.settings.forbid_early && self.start < self.end && command.must_be_last()
    }

    fn act(&mut self, step: Step) -> Result<Option<Ended>, Fault> {
        let step = match step {
            Step::Authenticate(mechanism, initial) => self.authenticate(mechanism, initial)?,
            step => step,
        };
        match step {
            Step::Say(reply) => self.say(reply),
            Step::Reset(reply) => {
                self.abandon();
                self.say(reply);
            }
            Step::Begin(reverse_path, parameters, size) => {
                let reply = self.begin(reverse_path, &parameters, size);
                if reply.code != 250 {
                    self.log_refusal(&reply);
                }
                self.say(reply);
            }
            Step::Judge(address, parameters) => {
                let reply = self.judge(&address, &parameters);
                self.say(reply);
            }
            Step::Verify(address) => {
                let reply = self.verify(&address);
                self.say(reply);
            }
            Step::TakeMessage => return self.take_message(),
            Step::TakeChunk(size, last) => self.take_chunk(size, last)?,
            Step::SkipChunk(size, reply, count) => {
                self.skip(size)?;
                if self.session.envelope().is_none() {
                    self.abandon();
                }
                self.say_to_each(&reply, count);
            }
            Step::Become(said) => {
                let login = self.site.becomes(&said);
                let reply = self.session.is_another(&said, login);
                log::info!("client={} event=xclient is={}", self.client, self.site.client().1);
                (self.client, self.channel) = (self.site.client().1, None);
                self.say(reply);
            }
            // Taken care of above.
            Step::Authenticate(..) => self.say(Reply::LOGIN_NOT_CHECKED),
            Step::StartTls => self.start_tls()?,
            Step::Quit(reply) => {
                self.say(reply);
                return Ok(Some(Ended::Done));
            }
            Step::Refuse(reply) => return Ok(Some(self.refuse(reply))),
        }
        Ok(None)
    }

    fn say(&mut self, reply: Reply) {
        self.session.count(&reply);
        reply.put(&mut self.out, self.settings.soft_bounce);
    }

    /// The same words for each recipient of one message. What was wrong with it was one mistake.
    fn say_to_each(&mut self, reply: &Reply, count: u32) {
        for number in 0..count {
            if number == 0 {
                self.session.count(reply);
            }
            reply.put(&mut self.out, self.settings.soft_bounce);
        }
    }

    fn refuse(&mut self, reply: Reply) -> Ended {
        self.log_refusal(&reply);
        self.say(reply);
        Ended::Refused
    }

    fn log_refusal(&self, reply: &Reply) {
        let (client, phase) = (&self.client, self.session.phase());
        log::info!("client={client} event=refused while=\"{phase}\" reply=\"{}\"", brief(reply));
    }

    fn begin(&mut self, reverse_path: ReversePath, parameters: &MailParameters, size: Option<u64>) -> Reply {
        let may = self.check_sender(&reverse_path).and_then(|()| self.check_room(size));
        if let Err(reply) = may.and_then(|()| self.introduce()) {
            return reply;
        }
        self.begun = true;
        match self.submit.reverse_path_with(&reverse_path, parameters) {
            Ok(()) => {
                self.session.begun(reverse_path, parameters);
                Reply::SENDER
            }
            Err(error) => self.trouble_with_message(&error),
        }
    }

    /// Whether the client may send mail at all, and mail from this address.
    fn check_sender(&self, reverse_path: &ReversePath) -> Result<(), Reply> {
        let Some(login) = self.session.login() else {
            return self.site.refusal().map_or(Ok(()), Err);
        };
        let Some(address) = &reverse_path.0 else { return Ok(()) };
        match self.site.may_send_as(login, address) {
            Lookup::Yes(()) => Ok(()),
            Lookup::No => Err(Reply::NOT_YOUR_ADDRESS),
            Lookup::CannotTell(why) => {
                log::warn!("client={} event=trouble with=smtpd_sender_login_maps problem=\"{why}\"", self.client);
                Err(Reply::CANNOT_TELL_SENDER)
            }
        }
    }

    /// Whether there is room for what the client says its message has.
    fn check_room(&self, size: Option<u64>) -> Result<(), Reply> {
        match self.site.room() {
            Some(room) if room == 0 || size.is_some_and(|size| size > room) => {
                log::warn!("client={} event=trouble with=queue problem=\"room for {room} octets\"", self.client);
                Err(Reply::NO_ROOM)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn judge(&mut self, address: &Address, parameters: &RecipientParameters) -> Reply {
        let verdict = match self.submit.recipient_with(address, parameters) {
            Ok(verdict) => verdict,
            Err(error) => return self.trouble(&error),
        };
        self.session.judged(verdict == Verdict::Accepted);
        let reply = Reply::verdict(verdict);
        if verdict != Verdict::Accepted {
            let from = self.session.envelope().map_or_else(String::new, |(path, _)| path.to_string());
            let to = format!("<{address}>");
            let (client, from, to) = (&self.client, field(&from), field(&to));
            log::info!("client={client} event=refused from={from} to={to} reply=\"{}\"", brief(&reply));
        }
        reply
    }

    fn verify(&mut self, address: &Address) -> Reply {
        if let Err(reply) = self.introduce() {
            return reply;
        }
        match self.submit.verify(address) {
            // 250 is for what was really looked up (RFC 5321 section 3.5.3).
            Ok(Verdict::Accepted) => {
                self.site.here(address).map_or(Reply::CANNOT_VERIFY, |mailbox| Reply::mailbox(&mailbox))
            }
            Ok(verdict) => Reply::verdict(verdict),
            Err(error) => self.trouble(&error),
        }
    }

    /// Tells submit who hands mail in, if it has not heard that yet.
    fn introduce(&mut self) -> Result<(), Reply> {
        let channel = match self.session.login() {
            Some(_) => AUTHENTICATED.to_owned(),
            None => self.find_channel()?,
        };
        let (protocol, helo) = self.session.hello();
        let (name, address) = self.site.client();
        let client = Client { helo: helo.map(<[u8]>::to_vec), name, address, tls: self.cipher_suite.clone() };
        let introduction = Introduction { channel, policy: Policy::Channels, protocol, client };
        if self.introduced.as_ref() != Some(&introduction) {
            self.submit.introduce(&introduction).map_err(|error| self.trouble(&error))?;
            self.introduced = Some(introduction);
        }
        Ok(())
    }

    fn find_channel(&mut self) -> Result<String, Reply> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        match self.site.channel() {
            Lookup::Yes(channel) => Ok(self.channel.insert(channel).clone()),
            Lookup::No => Err(Reply::NO_CHANNEL),
            Lookup::CannotTell(why) => {
                log::warn!("client={} event=trouble with=channels problem=\"{why}\"", self.client);
                Err(Reply::CANNOT_TELL_CHANNEL)
            }
        }
    }

    /// submit failed. The session goes on; whatever submit knew is said again with the next message.
    fn trouble(&mut self, error: &Error) -> Reply {
        let phase = self.session.phase();
        log::error!("client={} event=trouble with=submit while=\"{phase}\" problem=\"{error}\"", self.client);
        self.introduced = None;
        self.session.broken();
        Reply::TROUBLE
    }

    fn trouble_with_message(&mut self, error: &Error) -> Reply {
        let reply = self.trouble(error);
        self.abandon();
        reply
    }

    fn abandon(&mut self) {
        (self.chunks, self.header) = (None, None);
        if std::mem::take(&mut self.begun)
            && let Err(error) = self.submit.reset()
        {
            self.trouble(&error);
        }
    }

    /// The next line. It must be there within `timeout`, however many octets of it come at a time.
    fn next_line(&mut self) -> Result<Input, Fault> {
        let mut waiting = false;
        loop {
            if self.start == self.end {
                if !std::mem::replace(&mut waiting, true) {
                    self.stream.allow(self.settings.timeout);
                }
                if self.fill()? == 0 {
                    return Ok(Input::End);
                }
            }
            // A TLS handshake need not have a line end, and its client would wait for an answer.
            if !self.lines.in_line() && command::is_tls(self.input[self.start]) {
                return Ok(Input::Command(Ok(Command::Stranger)));
            }
            let (taken, line) = self.lines.push(&self.input[self.start..self.end]);
            self.start += taken;
            match line {
                Some(Line::Whole(line)) if command::begins_with(line, &self.settings.forbidden) => {
                    return Ok(Input::Command(Ok(Command::Stranger)));
                }
                Some(Line::Whole(line)) => return Ok(Input::Command(command::parse(line))),
                // What follows a BDAT is no command.
                Some(Line::TooLong) => {
                    let is_bdat = command::is_bdat(self.lines.kept());
                    return Ok(if is_bdat { Input::Command(Ok(Command::UnreadableBdat)) } else { Input::TooLong });
                }
                Some(Line::BareLineEnd) => return Ok(Input::BareLineEnd),
                None => {}
            }
        }
    }

    /// Sends what is to be said, then waits for more input. 0: there will be none.
    fn fill(&mut self) -> Result<usize, Fault> {
        self.flush()?;
        make_room(&mut self.input, self.end, PIECE);
        (self.start, self.end) = (0, 0);
        self.end = self.stream.receive(&mut self.input)?;
        Ok(self.end)
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.flush_within(self.settings.timeout)
    }

    fn flush_within(&mut self, time: Duration) -> Result<(), Fault> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.stream.allow(time);
        self.stream.send(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// The last reply, the end of an unfinished message, and the last line in the log.
    fn leave(mut self, ended: Result<Ended, Fault>) -> Result<Ended, Error> {
        let phase = self.session.phase();
        let (ended, reason) = match ended {
            Ok(Ended::Done) => (Ended::Done, "quit".to_owned()),
            Ok(ended) => (ended, "refused".to_owned()),
            Err(Fault::HungUp) => (Ended::HungUp, format!("lost connection while {phase}")),
            Err(Fault::TimedOut) => {
                self.say(Reply::TIMED_OUT);
                (Ended::TimedOut, format!("timed out while {phase}"))
            }
            Err(Fault::Io(error)) => {
                self.abandon();
                return Err(Error::Connection(format!("client={} while {phase}: {error}", self.client)));
            }
        };
        self.abandon();
        if ended != Ended::HungUp {
            self.stream.allow_last_words(FAREWELL);
            // Whoever does not wait for the answer has asked for the connection to be closed all the same. Octets that
            // are left unread would have the kernel destroy the answer.
            if self.flush_within(FAREWELL).is_ok() && (ended != Ended::Done || self.start < self.end) {
                self.stream.finish();
            }
        }
        log::info!("client={} event=end queued={} reason=\"{reason}\"", self.client, self.queued);
        Ok(ended)
    }
}

/// A text of the client as the value of a field in a record: without blanks, so that it cannot pretend to be another.
fn field(text: &str) -> String {
    logging::clean(text.as_bytes(), 300).replace(' ', "\\x20")
}

fn brief(reply: &Reply) -> String {
    format!("{} {} {}", reply.code, reply.status, reply.text)
}

#[cfg(test)]
mod tests;
