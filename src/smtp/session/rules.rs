//! What each command comes to, as things stand: one function for each.

use super::{Dialect, Login, Session, Step, Tls, Transaction};
use crate::lookup::Listed;
use crate::message::parameters::{Body, MailParameters, RecipientParameters};
use crate::message::path::{self, Address, ReversePath};
use crate::sasl::Mechanism;
use crate::smtp::command::{Fault, Which, Xclient};
use crate::smtp::reply::Reply;
use crate::wire::secret::Secret;

impl Session<'_> {
    pub(super) fn ehlo(&mut self, name: Vec<u8>) -> Step {
        if self.is_lmtp() { Step::Say(Reply::lhlo_first()) } else { self.greeted(true, name) }
    }

    pub(super) fn helo(&mut self, name: Vec<u8>) -> Step {
        if self.is_lmtp() { Step::Say(Reply::lhlo_first()) } else { self.greeted(false, name) }
    }

    pub(super) fn lhlo(&mut self, name: Vec<u8>) -> Step {
        if self.is_lmtp() { self.greeted(true, name) } else { Step::Say(Reply::fault(Fault::Unknown)) }
    }

    /// Each is a RSET too (RFC 5321 section 4.1.4).
    fn greeted(&mut self, extended: bool, name: Vec<u8>) -> Step {
        let reply = if extended { self.extensions().reply() } else { Reply::hello(self.settings.hostname) };
        self.hello = Some((extended, name));
        self.transaction = None;
        Step::Reset(reply)
    }

    pub(super) fn mail(&mut self, reverse_path: ReversePath, parameters: MailParameters, size: Option<u64>) -> Step {
        let limit = self.settings.transaction_limit;
        let in_ascii = reverse_path.0.as_ref().is_none_or(Address::is_ascii);
        if self.transaction.is_some() {
            Step::Say(Reply::nested_mail())
        } else if self.must_log_in() {
            Step::Say(self.login_first())
        } else if limit > 0 && self.messages >= limit {
            Step::Refuse(Reply::too_many_messages())
        } else if !in_ascii && !parameters.smtputf8 {
            Step::Say(not_ascii(Which::Reverse))
        } else if let Some(reply) = self.discarded(&parameters) {
            Step::Say(reply)
        } else if parameters.requiretls && self.settings.tls != Tls::On {
            Step::Say(Reply::requiretls_needs_tls())
        } else if self.settings.is_too_large(size.unwrap_or(0)) {
            Step::Say(Reply::too_large())
        } else {
            Step::Begin(reverse_path, parameters, size)
        }
    }

    /// What parameters of MAIL are answered whose keyword EHLO does not list. SIZE and BODY=8BITMIME are taken, as in Postfix:
    /// they promise nothing that is not kept.
    fn discarded(&self, said: &MailParameters) -> Option<Reply> {
        let discards = |keyword| self.settings.discards(keyword);
        // Without CHUNKING there is no BDAT to send it by.
        let no_binary = discards("CHUNKING") || discards("BINARYMIME");
        if (said.ret.is_some() || said.envid.is_some()) && discards("DSN") {
            Some(Reply::no_dsn())
        } else if said.smtputf8 && discards("SMTPUTF8") || said.requiretls && discards("REQUIRETLS") {
            Some(Reply::fault(Fault::UnknownParameter))
        } else {
            (said.body == Body::BinaryMime && no_binary).then(|| Reply::fault(Fault::BadParameter))
        }
    }

    pub(super) fn rcpt(&mut self, forward_path: Address, parameters: RecipientParameters) -> Step {
        let no_dsn = self.settings.discards("DSN");
        let Some(transaction) = &mut self.transaction else { return Step::Say(Reply::mail_first()) };
        if let Some(reply) = transaction.closed() {
            Step::Say(reply)
        } else if transaction.accepted >= self.settings.recipient_limit {
            self.over_limit();
            Step::Say(Reply::too_many_recipients())
        } else if !transaction.smtputf8 && !forward_path.is_ascii() {
            Step::Say(not_ascii(Which::Forward))
        } else if !transaction.smtputf8 && !parameters.is_ascii() {
            Step::Say(Reply::fault(Fault::BadParameter))
        } else if no_dsn && !parameters.is_empty() {
            Step::Say(Reply::no_dsn())
        } else {
            transaction.asked = true;
            Step::Judge(forward_path, parameters)
        }
    }

    pub(super) fn data(&mut self) -> Step {
        let Some(transaction) = &self.transaction else { return Step::Say(Reply::mail_first()) };
        if let Some(reply) = transaction.closed() {
            Step::Say(reply)
        } else if transaction.accepted == 0 {
            Step::Say(transaction.no_recipients(self.is_lmtp()))
        } else if transaction.binary {
            Step::Say(Reply::binary_needs_bdat())
        } else {
            self.in_message = true;
            Step::TakeMessage
        }
    }

    /// Whatever it is answered, its octets are read (RFC 3030 section 2). `owed`: the replies to the last chunk of a message
    /// that is over.
    pub(super) fn bdat(&mut self, size: u64, last: bool, owed: u32) -> Step {
        let is_lmtp = self.is_lmtp();
        if self.settings.discards("CHUNKING") {
            if last {
                self.transaction = None;
            }
            return Step::SkipChunk(size, Reply::not_implemented(), 1);
        }
        let Some(transaction) = &mut self.transaction else {
            self.owed = if last { 0 } else { owed };
            return Step::SkipChunk(size, Reply::mail_first(), if last { owed.max(1) } else { 1 });
        };
        transaction.in_chunks = true;
        let reply = if transaction.broken {
            Reply::trouble()
        } else if transaction.accepted == 0 {
            transaction.no_recipients(is_lmtp)
        } else {
            self.in_message = true;
            return Step::TakeChunk(size, last);
        };
        let replies = if is_lmtp && last { transaction.accepted.max(1) } else { 1 };
        if last {
            // The client has sent all of this message: what it says next is about another, which must not become one with
            // the sender of this.
            self.transaction = None;
        }
        Step::SkipChunk(size, reply, replies)
    }

    pub(super) fn rset(&mut self) -> Step {
        self.transaction = None;
        Step::Reset(Reply::ok())
    }

    /// `utf8`: the answer may have octets above 127.
    pub(super) fn vrfy(&self, address: Address, utf8: bool) -> Step {
        if !self.settings.vrfy {
            Step::Say(Reply::not_implemented())
        } else if self.must_log_in() {
            Step::Say(self.login_first())
        } else if utf8 && self.settings.discards("SMTPUTF8") {
            Step::Say(Reply::fault(Fault::UnknownParameter))
        } else if !utf8 && !address.is_ascii() {
            Step::Say(not_ascii(Which::Forward))
        } else {
            Step::Verify(address)
        }
    }

    pub(super) fn starttls(&self) -> Step {
        match self.settings.tls {
            Tls::Offered if !self.settings.discards("STARTTLS") => Step::StartTls,
            Tls::Offered | Tls::Never => Step::Say(Reply::not_implemented()),
            Tls::On => Step::Say(Reply::under_tls()),
        }
    }

    pub(super) fn auth(&mut self, mechanism: Option<Mechanism>, initial: Option<Secret>) -> Step {
        match mechanism {
            _ if self.transaction.is_some() => Step::Say(Reply::auth_in_message()),
            _ if self.settings.login == Login::Never || self.settings.discards("AUTH") => {
                Step::Say(Reply::not_implemented())
            }
            _ if self.login.is_some() => Step::Say(Reply::logged_in_already()),
            _ if !self.may_log_in() => Step::Say(Reply::tls_first()),
            Some(mechanism) if self.offered().has(mechanism) => Step::Authenticate(mechanism, initial),
            Some(_) | None => Step::Say(Reply::unknown_mechanism()),
        }
    }

    pub(super) fn xclient(&self, said: Box<Xclient>) -> Step {
        match self.settings.xclient {
            Listed::No => Step::Say(Reply::no_xclient()),
            Listed::CannotTell => Step::Say(Reply::cannot_tell_client()),
            Listed::Yes if self.transaction.is_some() => Step::Say(Reply::xclient_in_message()),
            Listed::Yes => Step::Become(said),
        }
    }

    fn must_log_in(&self) -> bool {
        self.settings.dialect == Dialect::Submission && self.login.is_none()
    }

    fn login_first(&self) -> Reply {
        if self.may_log_in() || self.settings.tls == Tls::Never { Reply::login_first() } else { Reply::tls_first() }
    }

    fn is_lmtp(&self) -> bool {
        self.settings.dialect == Dialect::Lmtp
    }
}

impl Transaction {
    /// What RCPT and DATA are answered where neither can be any more.
    fn closed(&self) -> Option<Reply> {
        if self.in_chunks { Some(Reply::bdat_has_begun()) } else { self.broken.then_some(Reply::trouble()) }
    }

    /// LMTP has one answer only (RFC 2033 section 4.2).
    fn no_recipients(&self, lmtp: bool) -> Reply {
        if self.asked && !lmtp { Reply::no_recipients() } else { Reply::rcpt_first() }
    }
}

/// What an address beyond ASCII is told where SMTPUTF8 was not asked for.
fn not_ascii(which: Which) -> Reply {
    Reply::fault(Fault::Path(which, path::Fault::NotAscii))
}
