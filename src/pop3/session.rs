//! The states of a session (RFC 1939 section 3) and what each command does in them. No I/O: sizes and verdicts come
//! in as arguments, and what is to be done goes out as a [`Step`].

use super::command::{Command, LanguageRange, MessageNumber, Mistake};
use super::reply::{Capabilities, Reply};
use crate::sasl::{MOST_FAILURES, Mechanism, Offered};
use crate::wire::secret::Secret;

/// Bad commands before the connection is closed.
pub const MOST_MISTAKES: u32 = 20;

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Say it and read the next command.
    Say(Reply),
    /// Say it and close; nothing is removed.
    Close(Reply),
    /// Say what we can do.
    Capabilities(Capabilities),
    /// Go through an exchange of SASL, check what comes of it, and tell as for `Check`; or [`Session::gave_up`].
    Authenticate(Mechanism, Option<Vec<u8>>),
    /// List the mechanisms there are.
    Mechanisms,
    /// List the languages that replies may be in.
    Languages,
    /// Answer, begin TLS, and tell [`Session::under_tls`]; or say that there is none.
    StartTls,
    /// Check name and password, and tell [`Session::refused`], [`Session::unchecked`] or [`Session::entered`].
    Check(Vec<u8>, Secret),
    /// The same for a name and what the client made of password and stamp.
    CheckApop(Vec<u8>, [u8; 16]),
    /// List all messages that are not marked.
    List,
    /// Say the size of a message (from 0).
    Size(usize),
    /// Find the size of a message (from 0), and tell it [`Session::deleted`].
    Delete(usize),
    /// Say the unique-id of a message (from 0).
    UniqueId(usize),
    /// List the unique-ids of all messages that are not marked.
    UniqueIds,
    /// Send a message (from 0).
    Retrieve(usize),
    /// Send the header of a message (from 0) and so many lines.
    Top(usize, u32),
    /// Remove what is marked, release the maildrop, say goodbye and close.
    Update,
}

/// One client's session.
#[derive(Debug)]
pub struct Session {
    state: State,
    passwords_allowed: bool,
    tls: Tls,
    /// There are passwords stored in clear.
    secrets: bool,
    /// The greeting has a stamp.
    stamped: bool,
    utf8: bool,
    mistakes: u32,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    Never,
    Offered,
    On,
}

#[derive(Debug)]
enum State {
    /// With the name that USER gave, if it was the last command.
    Authorization(Option<Vec<u8>>),
    Transaction(Marks),
    /// QUIT was said.
    Update(Marks),
}

#[derive(Debug)]
struct Marks {
    deleted: Vec<bool>,
    /// Octets of all messages, and messages and octets that are marked.
    octets: u64,
    marked: (u64, u64),
    last: u64,
}

impl Session {
    /// A session that begins. Passwords are allowed under TLS, from this machine, or where `tls_auth_only` is no.
    pub fn new(passwords_allowed: bool) -> Session {
        Session {
            state: State::Authorization(None),
            passwords_allowed,
            tls: Tls::Never,
            secrets: false,
            stamped: false,
            utf8: false,
            mistakes: 0,
            failures: 0,
        }
    }

    /// STLS is there.
    pub fn offer_tls(&mut self) {
        self.tls = Tls::Offered;
    }

    /// There are passwords stored in clear, for mechanisms that need that.
    pub fn with_secrets(mut self, secrets: bool) -> Session {
        self.secrets = secrets;
        self
    }

    /// Whether the greeting is to have a stamp: there APOP works. Clients that see one use it and nothing else.
    pub fn stamp(&mut self) -> bool {
        self.stamped = self.secrets && self.passwords_allowed;
        self.stamped
    }

    /// Whether the client understands UTF-8 in the headers of messages.
    pub fn speaks_utf8(&self) -> bool {
        self.utf8
    }

    /// The mechanisms there are now.
    pub fn mechanisms(&self) -> Offered {
        let allowed = self.passwords_allowed;
        Offered { plain: allowed, secrets: allowed && self.secrets }
    }

    /// An exchange of SASL came to nothing.
    pub fn gave_up(&mut self, reply: Reply) -> Step {
        self.bad(reply)
    }

    /// TLS has begun: passwords are safe, and what was said before may have been anybody's (RFC 2595 section 4). Mistakes
    /// stay counted.
    pub fn under_tls(&mut self) {
        self.state = State::Authorization(None);
        self.utf8 = false;
        self.tls = Tls::On;
        self.passwords_allowed = true;
    }

    /// What is going on, for the log.
    pub fn phase(&self) -> &'static str {
        match self.state {
            State::Authorization(_) => "authorization",
            State::Transaction(_) => "transaction",
            State::Update(_) => "update",
        }
    }

    /// The password was right and the maildrop is open; it has so many messages, and octets in all.
    pub fn entered(&mut self, messages: usize, octets: u64) -> Reply {
        self.state = State::Transaction(Marks { deleted: vec![false; messages], octets, marked: (0, 0), last: 0 });
        Reply::welcome(messages, octets)
    }

    /// The message that is to be marked (from 0) has so many octets.
    pub fn deleted(&mut self, index: usize, octets: u64) -> Reply {
        if let State::Transaction(marks) = &mut self.state {
            marks.mark(index, octets);
        }
        Reply::DELETED
    }

    /// Name or password was wrong.
    pub fn refused(&mut self) -> Step {
        self.failed(Reply::WRONG)
    }

    /// Nobody could say whether the password was right.
    pub fn unchecked(&mut self) -> Step {
        self.failed(Reply::CANNOT_CHECK)
    }

    fn failed(&mut self, reply: Reply) -> Step {
        self.failures = self.failures.saturating_add(1);
        match (self.failures < MOST_FAILURES, reply == Reply::WRONG) {
            (true, _) => Step::Say(reply),
            (false, true) => Step::Close(Reply::WRONG_TOO_OFTEN),
            (false, false) => Step::Close(reply),
        }
    }

    /// A line that is no command.
    pub fn mistake(&mut self, mistake: Mistake) -> Step {
        if let State::Authorization(name) = &mut self.state {
            *name = None;
        }
        self.bad(mistake.into())
    }

    /// A command.
    pub fn command(&mut self, command: Command) -> Step {
        match &mut self.state {
            State::Authorization(name) => {
                // PASS counts only directly behind USER (RFC 1939 section 7).
                let name = name.take();
                self.authorization(command, name)
            }
            State::Transaction(marks) => match marks.command(command, self.secrets) {
                Ok(Step::Update) => {
                    self.update();
                    Step::Update
                }
                Ok(step) => step,
                Err(reply) => self.bad(reply),
            },
            State::Update(_) => Step::Close(Reply::GOODBYE),
        }
    }

    /// The messages that are marked, from 0; only after QUIT.
    pub fn to_remove(&self) -> Vec<usize> {
        match &self.state {
            State::Authorization(_) | State::Transaction(_) => Vec::new(),
            State::Update(marks) => (0..).zip(&marks.deleted).filter(|(_, d)| **d).map(|(index, _)| index).collect(),
        }
    }

    /// The messages that are not marked, from 0.
    pub fn listed(&self) -> impl Iterator<Item = usize> {
        let marks = match &self.state {
            State::Authorization(_) | State::Update(_) => None,
            State::Transaction(marks) => Some(marks),
        };
        marks.into_iter().flat_map(Marks::listed)
    }

    fn authorization(&mut self, command: Command, name: Option<Vec<u8>>) -> Step {
        match (command, name) {
            (Command::User(_) | Command::Pass(_), _) if !self.passwords_allowed => self.bad(Reply::TLS_FIRST),
            (Command::User(name), _) => {
                self.state = State::Authorization(Some(name));
                Step::Say(Reply::SEND_PASSWORD)
            }
            (Command::Pass(secret), Some(name)) => Step::Check(name, secret),
            (Command::Pass(_), None) => self.bad(Reply::USER_FIRST),
            (Command::Apop(name, digest), _) if self.stamped => Step::CheckApop(name, digest),
            (Command::Apop(..), _) => self.bad(Reply::UNKNOWN_COMMAND),
            // Names and passwords are octets, before and after it.
            (Command::Utf8, _) => {
                self.utf8 = true;
                Step::Say(Reply::UTF8)
            }
            (Command::Lang(range), _) => language(range),
            (Command::Auth(_), _) if !self.passwords_allowed => self.bad(Reply::TLS_FIRST),
            (Command::Auth(None), _) => Step::Mechanisms,
            (Command::Auth(Some((name, initial))), _) => match Mechanism::named(&name) {
                Some(mechanism) if self.mechanisms().has(mechanism) => Step::Authenticate(mechanism, initial),
                Some(_) | None => self.bad(Reply::UNKNOWN_MECHANISM),
            },
            (Command::Capa, _) => {
                let sasl = self.mechanisms();
                Step::Capabilities(Capabilities { user: self.passwords_allowed, stls: self.tls == Tls::Offered, sasl })
            }
            (Command::Stls, _) => match self.tls {
                Tls::Never => self.bad(Reply::UNKNOWN_COMMAND),
                Tls::Offered => Step::StartTls,
                Tls::On => self.bad(Reply::UNDER_TLS),
            },
            (Command::Quit, _) => Step::Close(Reply::GOODBYE),
            (
                Command::Stat
                | Command::List(_)
                | Command::Retr(_)
                | Command::Dele(_)
                | Command::Noop
                | Command::Rset
                | Command::Top(..)
                | Command::Uidl(_)
                | Command::Last,
                _,
            ) => self.bad(Reply::LOG_IN_FIRST),
        }
    }

    fn update(&mut self) {
        let before = std::mem::replace(&mut self.state, State::Authorization(None));
        self.state = match before {
            State::Transaction(marks) | State::Update(marks) => State::Update(marks),
            State::Authorization(name) => State::Authorization(name),
        };
    }

    fn bad(&mut self, reply: Reply) -> Step {
        self.mistakes = self.mistakes.saturating_add(1);
        if self.mistakes < MOST_MISTAKES { Step::Say(reply) } else { Step::Close(Reply::TOO_MANY_MISTAKES) }
    }
}

impl Marks {
    /// The error is a command that has no place here. That a message is not there is no bad command: clients that
    /// lost count ask so.
    fn command(&mut self, command: Command, secrets: bool) -> Result<Step, Reply> {
        Ok(match command {
            Command::User(_)
            | Command::Pass(_)
            | Command::Apop(..)
            | Command::Stls
            | Command::Auth(_)
            | Command::Utf8 => {
                return Err(Reply::LOGGED_IN);
            }
            Command::Quit => Step::Update,
            Command::Stat => {
                let messages = (self.deleted.len() as u64).saturating_sub(self.marked.0);
                Step::Say(Reply::numbers(messages, self.octets.saturating_sub(self.marked.1)))
            }
            Command::List(None) => Step::List,
            Command::List(Some(number)) => self.with(number, Step::Size),
            Command::Retr(number) => {
                let step = self.with(number, Step::Retrieve);
                self.used(&step);
                step
            }
            Command::Dele(number) => {
                let step = self.with(number, Step::Delete);
                self.used(&step);
                step
            }
            Command::Noop => Step::Say(Reply::DONE),
            Command::Lang(range) => language(range),
            Command::Rset => {
                self.deleted.fill(false);
                (self.marked, self.last) = ((0, 0), 0);
                Step::Say(Reply::UNDELETED)
            }
            Command::Top(number, lines) => self.with(number, |index| Step::Top(index, lines)),
            Command::Uidl(None) => Step::UniqueIds,
            Command::Uidl(Some(number)) => self.with(number, Step::UniqueId),
            Command::Last => Step::Say(Reply::number(self.last)),
            // Whoever is logged in could do so, and will again.
            Command::Capa => {
                let sasl = Offered { plain: true, secrets };
                Step::Capabilities(Capabilities { user: true, stls: false, sasl })
            }
        })
    }

    fn listed(&self) -> impl Iterator<Item = usize> {
        (0..).zip(&self.deleted).filter(|(_, deleted)| !**deleted).map(|(index, _)| index)
    }

    fn mark(&mut self, index: usize, octets: u64) {
        if let Some(deleted) = self.deleted.get_mut(index).filter(|deleted| !**deleted) {
            *deleted = true;
            self.marked = (self.marked.0.saturating_add(1), self.marked.1.saturating_add(octets));
        }
    }

    /// Notes the highest number used, for LAST.
    fn used(&mut self, step: &Step) {
        if let Step::Retrieve(index) | Step::Delete(index) = step {
            self.last = self.last.max((*index as u64).saturating_add(1));
        }
    }

    /// What is to be done with a message that is there and not marked.
    fn with(&self, number: MessageNumber, step: impl FnOnce(usize) -> Step) -> Step {
        let index = number.index();
        match self.deleted.get(index) {
            Some(false) => step(index),
            Some(true) => Step::Say(Reply::IS_DELETED),
            None => Step::Say(Reply::NO_SUCH_MESSAGE),
        }
    }
}

/// All we say is English, and plain enough for everybody; what is asked for changes nothing but the name it has.
fn language(range: Option<LanguageRange>) -> Step {
    match range {
        None => Step::Languages,
        Some(LanguageRange::Any | LanguageRange::English) => Step::Say(Reply::ENGLISH),
        Some(LanguageRange::International) => Step::Say(Reply::INTERNATIONAL),
        Some(LanguageRange::Other) => Step::Say(Reply::NO_SUCH_LANGUAGE),
    }
}

#[cfg(test)]
mod tests;
