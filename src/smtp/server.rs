//! The loop of a session: read, ask the session, do what it says.
//!
//! Replies are collected and sent in one write when no whole command is left in the input (RFC 2920 section 3.2).
//! Memory does not depend on what the client sends: an input buffer, a line of bounded length, and a piece of the
//! message on its way to submit (`server/message.rs`).

use super::command::{Command, Xclient};
use super::reply::{Reply, Status};
use super::session::{self, Session, Step};
use super::site::Site;
use crate::exit::{Ended, Error};
use crate::logging::field;
use crate::lookup::Listed;
use crate::message::header::Coming;
use crate::message::path::{Address, ReversePath};
use crate::net::connection::{Fault, Stream};
use crate::net::tls::Offer;
use crate::submit::{Introduction, Policy, Submit};
use crate::wire::line::{LineEnd, LineReader};
use lines::{Input, Next};
use std::time::Duration;

mod auth;
mod chunks;
mod lines;
mod message;
mod settings;
mod submission;
mod tls;
mod transaction;

pub use settings::{Kind, Settings};

/// What is read at once, and about what is handed to submit at once.
const PIECE: usize = 64 * 1024;
/// Room for the commands of most sessions: what lies in pages of its own here each waiting session has once.
const FIRST_LINES: usize = 1024;
/// Room for the replies of most sessions.
const FIRST_REPLIES: usize = 512;
/// Collected replies are sent at this size even if more commands are there.
const MOST_REPLIES: usize = 16 * 1024;
/// How long a client may take to read the last reply of a connection that we close.
const FAREWELL: Duration = Duration::from_secs(10);

/// Serves one session to its end. How the client leaves is logged and no error.
pub fn serve(
    stream: &mut dyn Stream,
    submit: &mut dyn Submit,
    site: &dyn Site,
    settings: &Settings<'_>,
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
        session: Session::new(session::Settings { tls: offered, ..settings.session }),
        lines: LineReader::new(settings.line_length_limit, line_end(settings.bare_newline)),
        bare_newline: settings.bare_newline,
        input: Input::with_room(FIRST_LINES),
        out: Vec::with_capacity(FIRST_REPLIES),
        channel: None,
        introduced: None,
        begun: false,
        queued: 0,
        is_login_wanted: false,
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
    Reply::closing().put(&mut octets, false);
    stream.allow_last_words(FAREWELL);
    let _ = stream.send(&octets);
    stream.finish();
}

struct Server<'a> {
    stream: &'a mut dyn Stream,
    submit: &'a mut dyn Submit,
    site: &'a dyn Site,
    settings: &'a Settings<'a>,
    client: String,
    session: Session<'a>,
    lines: LineReader,
    /// Whether an LF without CR is a line end for this client.
    bare_newline: Listed,
    input: Input,
    out: Vec<u8>,
    channel: Option<(String, Policy)>,
    introduced: Option<Introduction>,
    /// Whether submit holds a message of ours.
    begun: bool,
    queued: u32,
    /// The log has heard that the client has to log in, or to begin TLS for that.
    is_login_wanted: bool,
    tls: Offer,
    /// What TLS came to, for the Received field.
    cipher_suite: Option<String>,
    /// The message that comes by BDAT, as far as it has come.
    chunks: Option<chunks::Chunks>,
    /// The header of a message that is submitted, until it is whole.
    header: Option<Coming>,
}

impl Server<'_> {
    fn run(&mut self) -> Result<Ended, Fault> {
        if let Some(ended) = self.refuse_unlisted() {
            return Ok(ended);
        }
        // Who begins before the greeting has not been told that this is SMTP. Under TLS there are no such octets.
        if self.settings.forbid_early && self.cipher_suite.is_none() && self.stream.is_waiting(self.settings.greet_wait)
        {
            return Ok(self.refuse(Reply::early()));
        }
        self.say(self.session.greeting());
        loop {
            let errors = self.session.errors();
            let step = match self.next_line()? {
                Next::Command(Ok(command)) if self.is_early(&command) => Step::Refuse(Reply::early()),
                Next::Command(Ok(command)) => {
                    if self.session.lists_mechanisms(&command) {
                        self.session.has_secrets(self.site.has_secrets());
                    }
                    self.session.command(command)
                }
                Next::Command(Err(fault)) => self.session.mistake(fault),
                Next::TooLong => Step::Say(Reply::line_too_long()),
                Next::BareLineEnd => Step::Refuse(self.of_bare(Reply::bare_line_end(), Reply::cannot_tell_yet())),
                Next::End => return Err(Fault::HungUp),
            };
            if let Some(ended) = self.act(step)? {
                return Ok(ended);
            }
            if self.session.errors() > errors.max(self.settings.soft_errors.0) {
                std::thread::sleep(self.settings.soft_errors.1);
            }
            if self.session.is_worn_out() {
                return Ok(self.refuse(Reply::too_many_errors()));
            }
            if self.out.len() >= MOST_REPLIES {
                self.flush()?;
            }
        }
    }

    /// The end of a session with a client that no channel lists, where that counts before all else.
    fn refuse_unlisted(&mut self) -> Option<Ended> {
        if !self.settings.finicky {
            return None;
        }
        let reply = self.find_channel().err()?;
        Some(self.refuse(if reply == Reply::no_channel() { Reply::not_listed() } else { Reply::cannot_tell_yet() }))
    }

    /// Takes the word of a proxy for who the client is; the session begins anew, as for a client of that address.
    fn become_another(&mut self, said: &Xclient) -> Option<Ended> {
        let terms = self.site.becomes(said);
        log::info!("client={} event=xclient is={}", self.client, self.site.client().1);
        (self.client, self.channel, self.is_login_wanted) = (self.site.client().1, None, false);
        if self.bare_newline != terms.bare_newline {
            self.bare_newline = terms.bare_newline;
            self.lines = LineReader::new(self.settings.line_length_limit, line_end(self.bare_newline));
        }
        let reply = self.session.is_another(said, terms.login);
        let ended = self.refuse_unlisted();
        if ended.is_none() {
            self.say(reply);
        }
        ended
    }

    /// What a CR or LF alone is answered: `later` where nobody can tell whether this client may send one.
    fn of_bare(&self, never: Reply, later: Reply) -> Reply {
        if self.bare_newline == Listed::CannotTell { later } else { never }
    }

    fn is_early(&self, command: &Command) -> bool {
        self.settings.forbid_early && !self.input.is_empty() && command.must_be_last()
    }

    fn act(&mut self, step: Step) -> Result<Option<Ended>, Fault> {
        match step {
            Step::Say(reply) => {
                self.log_declined(&reply);
                self.say(reply);
            }
            Step::Reset(reply) => {
                self.abandon();
                self.say(reply);
            }
            Step::Begin(reverse_path, parameters, size) => {
                let reply = self.begin(reverse_path, &parameters, size);
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
            Step::Become(said) => return Ok(self.become_another(&said)),
            Step::Authenticate(mechanism, initial) => {
                let step = self.authenticate(mechanism, initial)?;
                return self.act(step);
            }
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
        // What is asked of a client that logs in is nobody else's.
        if reply.code != 334 {
            let (client, phase) = (&self.client, self.session.phase());
            log::debug!("client={client} event=said while=\"{phase}\" reply={:?}", brief(&reply));
        }
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
        self.log_refusal_of(reply, self.session.envelope().map(|(path, _)| path), None);
    }

    /// With the sender and the recipient that it is about.
    fn log_refusal_of(&self, reply: &Reply, from: Option<&ReversePath>, to: Option<&Address>) {
        let (client, phase, user) = (&self.client, self.session.phase(), self.user());
        let from = from.map_or_else(String::new, |path| format!(" from={}", field(path)));
        let to = to.map_or_else(String::new, |address| format!(" to={}", field(&format!("<{address}>"))));
        log::info!("client={client} event=refused{from}{to}{user} while=\"{phase}\" reply={:?}", brief(reply));
    }

    /// Who has logged in, as a field of a record.
    fn user(&self) -> String {
        let login = self.session.login().map(|login| field(&String::from_utf8_lossy(login)));
        login.map_or_else(String::new, |login| format!(" user={login}"))
    }

    /// Of what the session answers by itself the refusals that are no mistakes in a command. Who is to log in first is told so
    /// as often as he asks, and the log once.
    fn log_declined(&mut self, reply: &Reply) {
        let wants_login = [Reply::login_first(), Reply::tls_first()].contains(reply);
        if wants_login && !std::mem::replace(&mut self.is_login_wanted, true) || *reply == Reply::too_large() {
            self.log_refusal(reply);
        }
    }

    /// submit failed. The session goes on; whatever submit knew is said again with the next message.
    fn trouble(&mut self, error: &Error) -> Reply {
        let phase = self.session.phase();
        log::error!(
            "client={} event=trouble with=submit while=\"{phase}\" reason={:?}",
            self.client,
            error.to_string()
        );
        self.introduced = None;
        self.session.broken();
        Reply::trouble()
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

    /// The last reply, the end of an unfinished message, and the last line in the log.
    fn leave(mut self, ended: Result<Ended, Fault>) -> Result<Ended, Error> {
        let phase = self.session.phase();
        let (ended, reason) = match ended {
            Ok(Ended::Done) => (Ended::Done, "quit".to_owned()),
            Ok(ended) => (ended, "refused".to_owned()),
            Err(Fault::HungUp) => (Ended::HungUp, format!("lost connection while {phase}")),
            Err(Fault::TimedOut) => {
                self.say(Reply::timed_out());
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
            if self.flush_within(FAREWELL).is_ok() && (ended != Ended::Done || !self.input.is_empty()) {
                self.stream.finish();
            }
        }
        log::info!("client={} event=end queued={} reason={reason:?}", self.client, self.queued);
        Ok(ended)
    }
}

fn line_end(bare_newline: Listed) -> LineEnd {
    if bare_newline == Listed::Yes { LineEnd::Lenient } else { LineEnd::Strict }
}

fn brief(reply: &Reply) -> String {
    let status = |[class, subject, detail]: Status| format!("{class}.{subject}.{detail} ");
    format!("{} {}{}", reply.code, reply.status.map_or_else(String::new, status), reply.text)
}

#[cfg(test)]
mod tests;
