//! MAIL, RCPT and VRFY: what submit and the site are asked before a message, and the replies made of what they say.

use super::Server;
use crate::channel::AUTHENTICATED;
use crate::lookup::Lookup;
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::message::trace::Client;
use crate::smtp::reply::Reply;
use crate::submit::{Introduction, Policy, Verdict};

impl Server<'_> {
    pub(super) fn begin(&mut self, reverse_path: ReversePath, parameters: &MailParameters, size: Option<u64>) -> Reply {
        let may = self.check_sender(&reverse_path).and_then(|()| self.check_room(size));
        let begun = may.and_then(|()| self.introduce()).and_then(|()| {
            self.begun = true;
            self.submit.reverse_path_with(&reverse_path, parameters).map_err(|error| self.trouble_with_message(&error))
        });
        match begun {
            Ok(()) => {
                self.session.begun(reverse_path, parameters);
                Reply::sender()
            }
            Err(reply) => {
                self.log_refusal_of(&reply, Some(&reverse_path), None);
                reply
            }
        }
    }

    /// Whether the client may ask for anything here.
    fn check_client(&self) -> Result<(), Reply> {
        if self.session.login().is_some() { Ok(()) } else { self.site.refusal().map_or(Ok(()), Err) }
    }

    /// Whether the client may send mail at all, and mail from this address.
    fn check_sender(&self, reverse_path: &ReversePath) -> Result<(), Reply> {
        self.check_client()?;
        let Some(login) = self.session.login() else { return Ok(()) };
        let Some(address) = &reverse_path.0 else { return Ok(()) };
        match self.site.may_send_as(login, address) {
            Lookup::Yes(()) => Ok(()),
            Lookup::No => Err(Reply::not_your_address()),
            Lookup::CannotTell(why) => {
                log::warn!("client={} event=trouble with=smtpd_sender_login_maps reason={why:?}", self.client);
                Err(Reply::cannot_tell_sender())
            }
        }
    }

    /// Whether there is room for what the client says its message has.
    fn check_room(&self, size: Option<u64>) -> Result<(), Reply> {
        match self.site.room() {
            Some(room) if room == 0 || size.is_some_and(|size| size > room) => {
                log::warn!("client={} event=trouble with=queue reason=\"room for {room} octets\"", self.client);
                Err(Reply::no_room())
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn judge(&mut self, address: &Address, parameters: &RecipientParameters) -> Reply {
        let verdict = match self.submit.recipient_with(address, parameters) {
            Ok(verdict) => verdict,
            Err(error) => return self.trouble(&error),
        };
        self.session.judged(verdict == Verdict::Accepted);
        if verdict == Verdict::TooMany {
            self.session.over_limit();
        }
        let reply = Reply::verdict(&verdict);
        if verdict != Verdict::Accepted {
            self.log_refusal_of(&reply, self.session.envelope().map(|(path, _)| path), Some(address));
        }
        reply
    }

    pub(super) fn verify(&mut self, address: &Address) -> Reply {
        // Whose mail is not taken has no use for addresses but to gather them.
        if let Err(reply) = self.check_client() {
            self.log_refusal(&reply);
            return reply;
        }
        if let Err(reply) = self.introduce() {
            return reply;
        }
        match self.submit.verify(address) {
            // 250 is for what was really looked up (RFC 5321 section 3.5.3).
            Ok(Verdict::Accepted) => {
                self.site.here(address).map_or(Reply::cannot_verify(), |mailbox| Reply::mailbox(&mailbox))
            }
            Ok(verdict) => Reply::verdict(&verdict),
            Err(error) => self.trouble(&error),
        }
    }

    /// Tells submit who hands mail in, if it has not heard that yet.
    fn introduce(&mut self) -> Result<(), Reply> {
        let (channel, policy) = match self.session.login() {
            Some(_) => (AUTHENTICATED.to_owned(), Policy::Channels),
            None => self.find_channel()?,
        };
        let (protocol, helo) = self.session.hello();
        let (name, address) = self.site.client();
        let client = Client { helo: helo.map(<[u8]>::to_vec), name, address, tls: self.cipher_suite.clone() };
        let introduction = Introduction { channel, policy, protocol, client };
        if self.introduced.as_ref() != Some(&introduction) {
            self.submit.introduce(&introduction).map_err(|error| self.trouble(&error))?;
            self.introduced = Some(introduction);
        }
        Ok(())
    }

    pub(super) fn find_channel(&mut self) -> Result<(String, Policy), Reply> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        match self.site.channel() {
            Lookup::Yes(channel) => Ok(self.channel.insert(channel).clone()),
            Lookup::No => Err(Reply::no_channel()),
            Lookup::CannotTell(why) => {
                log::warn!("client={} event=trouble with=channels reason={why:?}", self.client);
                Err(Reply::cannot_tell_channel())
            }
        }
    }
}
