//! Command to [`Step`]: the state machine of a session (RFC 5321 section 4.1.4). No I/O, no clock.
//!
//! What needs the world (is this recipient ours? is it on disk?) is a step for the server, which tells what came of it
//! by [`Session::begun`], [`Session::judged`], [`Session::broken`] and [`Session::message_over`].

use super::command::{Command, Fault};
use super::reply::Reply;
use crate::message::path::{Address, ReversePath};
use crate::message::trace::Protocol;

/// Recipients over the limit that are only put off; more of them are mistakes, so that nobody sends them for ever.
const OVERSHOOT: u32 = 1000;

/// What a session is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Our name in the greeting and in replies.
    pub hostname: String,
    /// Largest message, in octets; 0: no limit.
    pub message_size_limit: u64,
    /// Most recipients of a message.
    pub recipient_limit: u32,
    /// Mistakes after which the session ends; at least 1.
    pub error_limit: u32,
    /// Commands that move no mail, after which each one more is a mistake.
    pub junk_limit: u32,
    /// Whether there is TLS, or may be.
    pub tls: Tls,
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

/// What the server is to do for a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Answer.
    Say(Reply),
    /// Have submit forget the message, if there is one, and answer.
    Reset(Reply),
    /// Begin a message.
    Begin(ReversePath),
    /// Ask about a recipient and add it.
    Judge(Address),
    /// Ask about an address for VRFY.
    Verify(Address),
    /// Take the message.
    TakeMessage,
    /// Answer, begin TLS, and tell [`Session::under_tls`]; or say that there is none.
    StartTls,
    /// Answer; the client has said goodbye.
    Quit(Reply),
    /// Answer and close.
    Refuse(Reply),
}

/// The message being handed in.
#[derive(Debug)]
struct Transaction {
    reverse_path: ReversePath,
    accepted: u32,
    asked: bool,
    over_limit: u32,
    /// submit failed and knows no more of the message: everything is put off until it is begun anew.
    broken: bool,
}

/// Where a session is.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    hello: Option<(Protocol, Vec<u8>)>,
    transaction: Option<Transaction>,
    in_message: bool,
    errors: u32,
    junk: u32,
}

impl Session {
    /// At the greeting.
    pub fn new(settings: Settings) -> Self {
        Session { settings, hello: None, transaction: None, in_message: false, errors: 0, junk: 0 }
    }

    /// The first line.
    pub fn greeting(&self) -> Reply {
        Reply::greeting(&self.settings.hostname)
    }

    /// Takes a command.
    pub fn command(&mut self, command: Command) -> Step {
        if let Command::Ehlo(_)
        | Command::Helo(_)
        | Command::Rset
        | Command::Vrfy(_)
        | Command::Expn
        | Command::Help
        | Command::Noop = command
        {
            self.junk = self.junk.saturating_add(1);
            self.errors = self.errors.saturating_add(u32::from(self.junk > self.settings.junk_limit));
        }
        match (command, &mut self.transaction) {
            (Command::Ehlo(name), _) => {
                let with_tls = self.settings.tls == Tls::Offered;
                let reply = Reply::extensions(&self.settings.hostname, self.settings.message_size_limit, with_tls);
                self.reset(Some((Protocol::Esmtp, name)), reply)
            }
            (Command::Helo(name), _) => {
                let reply = Reply::hello(&self.settings.hostname);
                self.reset(Some((Protocol::Smtp, name)), reply)
            }
            (Command::Mail { .. }, Some(_)) => Step::Say(Reply::NESTED_MAIL),
            (Command::Mail { size, .. }, None) if self.settings.is_too_large(size.unwrap_or(0)) => {
                Step::Say(Reply::TOO_LARGE)
            }
            (Command::Mail { reverse_path, .. }, None) => Step::Begin(reverse_path),
            (Command::Rcpt(_) | Command::Data, None) => Step::Say(Reply::MAIL_FIRST),
            (Command::Rcpt(_) | Command::Data, Some(transaction)) if transaction.broken => Step::Say(Reply::TROUBLE),
            (Command::Rcpt(_), Some(transaction)) if transaction.accepted >= self.settings.recipient_limit => {
                transaction.over_limit = transaction.over_limit.saturating_add(1);
                self.errors = self.errors.saturating_add(u32::from(transaction.over_limit > OVERSHOOT));
                Step::Say(Reply::TOO_MANY_RECIPIENTS)
            }
            (Command::Rcpt(forward_path), Some(transaction)) => {
                transaction.asked = true;
                Step::Judge(forward_path)
            }
            (Command::Data, Some(transaction)) if transaction.accepted == 0 => {
                Step::Say(if transaction.asked { Reply::NO_RECIPIENTS } else { Reply::RCPT_FIRST })
            }
            (Command::Data, Some(_)) => {
                self.in_message = true;
                Step::TakeMessage
            }
            (Command::Rset, _) => self.reset(self.hello.clone(), Reply::OK),
            (Command::Vrfy(address), _) => Step::Verify(address),
            (Command::Help, _) => Step::Say(Reply::HELP),
            (Command::Noop, _) => Step::Say(Reply::OK),
            (Command::Quit, _) => Step::Quit(Reply::GOODBYE),
            (Command::StartTls, _) => match self.settings.tls {
                Tls::Never => Step::Say(Reply::NOT_IMPLEMENTED),
                Tls::Offered => Step::StartTls,
                Tls::On => Step::Say(Reply::UNDER_TLS),
            },
            (Command::Expn | Command::NotImplemented, _) => Step::Say(Reply::NOT_IMPLEMENTED),
            (Command::Bdat, _) => Step::Refuse(Reply::NO_BDAT),
            (Command::Stranger, _) => Step::Refuse(Reply::STRANGER),
        }
    }

    /// Takes a line that is no command.
    pub fn mistake(&self, fault: Fault) -> Step {
        Step::Say(Reply::fault(fault))
    }

    /// After [`Step::Begin`]: submit has begun the message.
    pub fn begun(&mut self, reverse_path: ReversePath) {
        self.transaction = Some(Transaction { reverse_path, accepted: 0, asked: false, over_limit: 0, broken: false });
    }

    /// After [`Step::Judge`]: the recipient is in the message, or is not.
    pub fn judged(&mut self, accepted: bool) {
        if let Some(transaction) = &mut self.transaction {
            transaction.accepted += u32::from(accepted);
        }
    }

    /// submit failed: nothing that was added to the message is certain any more.
    pub fn broken(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.broken = true;
        }
    }

    /// After [`Step::TakeMessage`]: the message is queued or refused; either way it is over. Whoever hands in mail has
    /// made good for mistakes.
    pub fn message_over(&mut self, queued: bool) {
        self.transaction = None;
        self.in_message = false;
        if queued {
            (self.errors, self.junk) = (0, 0);
        }
    }

    /// After [`Step::StartTls`], or at the start: everything before it was said by anybody, and is forgotten (RFC 3207
    /// section 4.2). Mistakes stay counted.
    pub fn under_tls(&mut self) {
        self.settings.tls = Tls::On;
        self.hello = None;
        self.transaction = None;
    }

    /// Counts a reply that is about to be sent, if it tells of a mistake.
    pub fn count(&mut self, reply: &Reply) {
        self.errors = self.errors.saturating_add(u32::from(reply.is_mistake()));
    }

    /// Whether there were too many mistakes.
    pub fn is_worn_out(&self) -> bool {
        self.errors >= self.settings.error_limit
    }

    /// Whether a message of so many octets is too large.
    pub fn is_too_large(&self, size: u64) -> bool {
        self.settings.is_too_large(size)
    }

    /// What the client called itself, and by which command.
    pub fn hello(&self) -> (Protocol, Option<&[u8]>) {
        let Some((protocol, name)) = &self.hello else { return (Protocol::Smtp, None) };
        let protocol = match (protocol, self.settings.tls) {
            (Protocol::Esmtp, Tls::On) => Protocol::Esmtps,
            (protocol, _) => *protocol,
        };
        (protocol, Some(name))
    }

    /// Reverse-path and number of recipients of the message at hand.
    pub fn envelope(&self) -> Option<(&ReversePath, u32)> {
        self.transaction.as_ref().map(|transaction| (&transaction.reverse_path, transaction.accepted))
    }

    /// What is going on, for the log: "lost connection while ...".
    pub fn phase(&self) -> &'static str {
        match (&self.transaction, &self.hello) {
            _ if self.in_message => "receiving the message",
            (Some(transaction), _) if transaction.asked => "waiting for RCPT or DATA",
            (Some(_), _) => "waiting for RCPT",
            (None, Some(_)) => "waiting for MAIL",
            (None, None) => "waiting for EHLO",
        }
    }

    fn reset(&mut self, hello: Option<(Protocol, Vec<u8>)>, reply: Reply) -> Step {
        self.hello = hello;
        self.transaction = None;
        Step::Reset(reply)
    }
}

impl Settings {
    fn is_too_large(&self, size: u64) -> bool {
        self.message_size_limit > 0 && size > self.message_size_limit
    }
}

#[cfg(test)]
mod tests;
