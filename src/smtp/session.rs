//! Command to [`Step`]: the state machine of a session (RFC 5321 section 4.1.4). No I/O, no clock.
//!
//! What needs the world (is this recipient ours? is it on disk?) is a step for the server, which tells what came of it
//! by [`Session::begun`], [`Session::judged`], [`Session::broken`] and [`Session::message_over`]. `rules.rs` has what each
//! command comes to.

mod rules;
mod settings;

use super::command::{Command, Fault, Xclient};
use super::extensions::Extensions;
use super::reply::Reply;
use crate::message::parameters::{Body, MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::message::trace::Protocol;
use crate::sasl::{MOST_FAILURES, Mechanism, Offered};
use crate::wire::secret::Secret;
pub use settings::{Dialect, Login, Settings, Tls};

/// Recipients over the limit that are only put off; more of them are mistakes, so that nobody sends them for ever.
const OVERSHOOT: u32 = 1000;

/// What the server is to do for a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Answer.
    Say(Reply),
    /// Have submit forget the message, if there is one, and answer.
    Reset(Reply),
    /// Begin a message, if there is room for what it says of its size.
    Begin(ReversePath, MailParameters, Option<u64>),
    /// Ask about a recipient and add it.
    Judge(Address, RecipientParameters),
    /// Ask about an address for VRFY or EXPN.
    Verify(Address),
    /// Take the message.
    TakeMessage,
    /// Take so many octets of the message, which are the last or are not.
    TakeChunk(u64, bool),
    /// Read so many octets, forget them, and answer so many times. There may be no transaction any more.
    SkipChunk(u64, Reply, u32),
    /// Find out who the client is, and tell [`Session::logged_in`] or [`Session::not_logged_in`].
    Authenticate(Mechanism, Option<Secret>),
    /// Take the word of a proxy for who the client is, and tell [`Session::is_another`].
    Become(Box<Xclient>),
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
    smtputf8: bool,
    binary: bool,
    /// A chunk of it has come.
    in_chunks: bool,
}

/// Where a session is.
#[derive(Debug)]
pub struct Session<'a> {
    settings: Settings<'a>,
    /// Whether extensions were asked for, and what the client calls itself.
    hello: Option<(bool, Vec<u8>)>,
    transaction: Option<Transaction>,
    in_message: bool,
    /// Who the client has shown to be.
    login: Option<Vec<u8>>,
    login_failures: u32,
    /// Whether there are passwords stored in clear, for mechanisms that need that.
    secrets: bool,
    messages: u32,
    errors: u32,
    junk: u32,
    /// Recipients of a message of which a chunk was refused: by LMTP each is to hear of its last chunk.
    owed: u32,
}

impl<'a> Session<'a> {
    /// At the greeting.
    pub fn new(settings: Settings<'a>) -> Self {
        Session {
            settings,
            hello: None,
            transaction: None,
            in_message: false,
            login: None,
            login_failures: 0,
            secrets: false,
            messages: 0,
            errors: 0,
            junk: 0,
            owed: 0,
        }
    }

    /// The first line.
    pub fn greeting(&self) -> Reply {
        Reply::greeting(self.settings.hostname, self.settings.dialect == Dialect::Lmtp)
    }

    /// Whether the answer to this command lists mechanisms, so that [`Session::has_secrets`] must have been told.
    pub fn lists_mechanisms(&self, command: &Command) -> bool {
        matches!(command, Command::Ehlo(_) | Command::Lhlo(_) | Command::Auth { .. }) && self.may_log_in()
    }

    /// There are passwords stored in clear, so that mechanisms that need that can be offered; or not.
    pub fn has_secrets(&mut self, secrets: bool) {
        self.secrets = secrets;
    }

    /// Takes a command. What each comes to is in `rules.rs`.
    pub fn command(&mut self, command: Command) -> Step {
        self.count_junk(&command);
        // Another command than BDAT is the end of the message they are about.
        let owed = std::mem::take(&mut self.owed);
        match command {
            Command::Ehlo(name) => self.ehlo(name),
            Command::Helo(name) => self.helo(name),
            Command::Lhlo(name) => self.lhlo(name),
            Command::Mail { reverse_path, parameters, size } => self.mail(reverse_path, parameters, size),
            Command::Rcpt { forward_path, parameters } => self.rcpt(forward_path, parameters),
            Command::Data => self.data(),
            Command::Bdat { size, last } => self.bdat(size, last, owed),
            Command::UnreadableBdat => Step::Refuse(Reply::unreadable_bdat()),
            Command::Rset => self.rset(),
            Command::Vrfy(address, utf8) => self.vrfy(address, utf8),
            Command::Help => Step::Say(self.extensions().help()),
            Command::Noop => Step::Say(Reply::ok()),
            Command::Quit => Step::Quit(Reply::goodbye()),
            Command::StartTls => self.starttls(),
            Command::Auth { mechanism, initial } => self.auth(mechanism, initial),
            Command::Xclient(said) => self.xclient(said),
            Command::NotImplemented => Step::Say(Reply::not_implemented()),
            Command::Stranger => Step::Refuse(Reply::stranger()),
        }
    }

    /// Commands that move no mail are mistakes when there are too many of them.
    fn count_junk(&mut self, command: &Command) {
        if let Command::Ehlo(_)
        | Command::Helo(_)
        | Command::Lhlo(_)
        | Command::Rset
        | Command::Vrfy(..)
        | Command::Help
        | Command::Noop
        | Command::Bdat { size: 0, last: false } = command
        {
            self.junk = self.junk.saturating_add(1);
            self.errors = self.errors.saturating_add(u32::from(self.junk > self.settings.junk_limit));
        }
    }

    /// What there is, as things stand.
    fn extensions(&self) -> Extensions<'_> {
        Extensions { settings: &self.settings, mechanisms: self.offered() }
    }

    /// The mechanisms that can be used now.
    fn offered(&self) -> Offered {
        if self.may_log_in() { Offered { plain: true, secrets: self.secrets } } else { Offered::default() }
    }

    fn may_log_in(&self) -> bool {
        let safe = match self.settings.login {
            Login::Never => false,
            Login::UnderTls => self.settings.tls == Tls::On,
            Login::Always => true,
        };
        safe && self.login.is_none() && !self.settings.discards("AUTH")
    }

    /// Takes a line that is no command.
    pub fn mistake(&self, fault: Fault) -> Step {
        Step::Say(Reply::fault(fault))
    }

    /// After [`Step::Begin`]: submit has begun the message.
    pub fn begun(&mut self, reverse_path: ReversePath, parameters: &MailParameters) {
        self.transaction = Some(Transaction {
            reverse_path,
            accepted: 0,
            asked: false,
            over_limit: 0,
            broken: false,
            smtputf8: parameters.smtputf8,
            binary: parameters.body == Body::BinaryMime,
            in_chunks: false,
        });
    }

    /// Whether the message at hand is any octets, and not lines.
    pub fn is_binary(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.binary)
    }

    /// After [`Step::TakeChunk`]: more of it are to come.
    pub fn chunk_over(&mut self) {
        self.in_message = false;
    }

    /// After [`Step::TakeChunk`]: one that is not the last was refused, and the message is over; but the client may have sent
    /// the others already, and in LMTP counts the replies to the last (RFC 2033 section 4.2).
    pub fn chunk_refused(&mut self) {
        if self.settings.dialect == Dialect::Lmtp {
            self.owed = self.transaction.as_ref().map_or(0, |transaction| transaction.accepted);
        }
        self.message_over(false);
    }

    /// After [`Step::Authenticate`]: who the client is.
    pub fn logged_in(&mut self, login: Vec<u8>) -> Step {
        self.login = Some(login);
        Step::Say(Reply::logged_in())
    }

    /// The same: it did not show who it is; `reply` says what was wrong, the last time too, for clients try later what is
    /// answered 421.
    pub fn not_logged_in(&mut self, reply: Reply) -> Step {
        self.login_failures = self.login_failures.saturating_add(1);
        Step::Say(reply)
    }

    /// Who the client has logged in as.
    pub fn login(&self) -> Option<&[u8]> {
        self.login.as_deref()
    }

    /// What is spoken.
    pub fn dialect(&self) -> Dialect {
        self.settings.dialect
    }

    /// After [`Step::Become`]: what there is for the client as it is now. It has said nothing yet.
    pub fn is_another(&mut self, said: &Xclient, login: Login) -> Reply {
        use super::command::Said;
        self.settings.login = login;
        (self.hello, self.transaction) = (None, None);
        if let Said::Value(name) = &said.helo {
            self.hello = Some((said.esmtp != Said::Value(false), name.clone()));
        }
        self.login = if let Said::Value(login) = &said.login { Some(login.clone()) } else { None };
        self.greeting()
    }

    /// After [`Step::Judge`]: the recipient is in the message, or is not.
    pub fn judged(&mut self, accepted: bool) {
        if let Some(transaction) = &mut self.transaction {
            transaction.accepted += u32::from(accepted);
        }
    }

    /// The same: there is no room for it, as over the limit.
    pub fn over_limit(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.over_limit = transaction.over_limit.saturating_add(1);
            self.errors = self.errors.saturating_add(u32::from(transaction.over_limit > OVERSHOOT));
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
        self.messages = self.messages.saturating_add(1);
        if queued {
            (self.errors, self.junk) = (0, 0);
        }
    }

    /// After [`Step::StartTls`], or at the start: everything before it was said by anybody, and is forgotten (RFC 3207
    /// section 4.2). Mistakes stay counted.
    pub fn under_tls(&mut self) {
        self.settings.tls = Tls::On;
        (self.hello, self.transaction, self.login) = (None, None, None);
    }

    /// Counts a reply that is about to be sent, if it tells of a mistake.
    pub fn count(&mut self, reply: &Reply) {
        self.errors = self.errors.saturating_add(u32::from(reply.is_mistake()));
    }

    /// Mistakes so far.
    pub fn errors(&self) -> u32 {
        self.errors
    }

    /// Whether there were too many mistakes, or wrong logins.
    pub fn is_worn_out(&self) -> bool {
        self.errors >= self.settings.error_limit || self.login_failures >= MOST_FAILURES
    }

    /// Whether a message of so many octets is too large.
    pub fn is_too_large(&self, size: u64) -> bool {
        self.settings.is_too_large(size)
    }

    /// What the client called itself, and by which command.
    pub fn hello(&self) -> (Protocol, Option<&[u8]>) {
        let (tls, login) = (self.settings.tls == Tls::On, self.login.is_some());
        let protocol = match (self.settings.dialect, &self.hello) {
            (Dialect::Lmtp, _) => Protocol::lmtp(tls, login),
            (_, Some((true, _))) => Protocol::esmtp(tls, login),
            (_, Some((false, _)) | None) => Protocol::Smtp,
        };
        (protocol, self.hello.as_ref().map(|(_, name)| &name[..]))
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
}

#[cfg(test)]
pub(super) mod tests;
