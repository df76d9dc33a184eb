//! What becomes of requests: a message in the queue, or with the filter before it, or none.
//!
//! A [`Receiver`] makes messages of what it is told and is [`Submit`] itself, so the command line uses it as the servers use
//! submit. Where the requests come from is `server.rs`'s affair.

mod finish;
mod hand_over;

use super::frames::{Reply, Request};
use super::verify::Judge;
use super::{BEFORE_QUEUE, Introduction, Outcome, Policy, Refusal, Submit, Verdict, before_queue, wake};
use crate::channel::Channels;
use crate::cli::Common;
use crate::config::Config;
use crate::exit::Error;
use crate::logging::field;
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::message::trace::HopCounter;
use crate::queue::{self, Draft, Queue};
use finish::refusal;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::Arc;

/// So many recipients of a message are remembered; memory must not grow with what a client sends.
const MOST_NAMED: usize = 1000;

/// However small a message must be, so many octets of envelope may come with it.
const LEAST_ENVELOPE: u64 = 1 << 20;

/// Makes messages of what one client hands in.
#[derive(Debug)]
pub struct Receiver<'a> {
    config: &'a Config,
    common: &'a Common,
    /// Read when they are first needed, or before for servers: a typo there must not lose what cron hands in, which may go
    /// anywhere.
    channels: OnceCell<Arc<Channels>>,
    queue: Arc<Queue>,
    introduction: Option<Introduction>,
    /// Belong to the introduction.
    attributes: Vec<(String, String)>,
    /// What comes has been through the content_filter.
    is_filtered: bool,
    /// Whoever hands it in says what filters it goes through: a server, which has a configuration of its own.
    is_served: bool,
    /// What comes goes to `before_queue_filter` in place of the queue; belongs to the introduction.
    is_handed_over: bool,
    /// Files for messages to come are worth their while.
    prepares: bool,
    /// There was trouble with the queue.
    is_troubled: bool,
    message: Message,
}

/// The message at hand.
#[derive(Debug, Default)]
struct Message {
    reverse_path: Option<ReversePath>,
    parameters: MailParameters,
    /// From the first recipient or octet of content on.
    draft: Option<Draft>,
    hops: HopCounter,
    recipients: u32,
    /// Who gets it, as far as remembered, the domain in lower case, and what was said with it: who is named twice gets one
    /// copy, but each wish is kept (RFC 3461 section 5.2.6).
    named: BTreeSet<(Vec<u8>, Vec<u8>, String)>,
    first_recipient: Option<Address>,
    /// The same recipients, for the filter before the queue.
    handed_over: before_queue::Recipients,
    content_has_begun: bool,
    content_has_ended: bool,
    /// Why it will not be taken; told at the end, so that whoever sends can finish.
    refusal: Option<Refusal>,
}

impl<'a> Receiver<'a> {
    /// One that writes into the queue of a configuration.
    pub fn new(config: &'a Config, common: &'a Common) -> Result<Receiver<'a>, Error> {
        Ok(Receiver::at(config, common, Arc::new(Queue::open(&config.queue_directory)?)))
    }

    fn at(config: &'a Config, common: &'a Common, queue: Arc<Queue>) -> Receiver<'a> {
        Receiver {
            config,
            common,
            channels: OnceCell::new(),
            queue,
            introduction: None,
            attributes: Vec::new(),
            is_filtered: false,
            is_served: false,
            is_handed_over: false,
            prepares: false,
            is_troubled: false,
            message: Message::default(),
        }
    }

    /// One for servers, which prepares files for messages to come or does not.
    pub(super) fn serving(
        config: &'a Config,
        common: &'a Common,
        queue: Arc<Queue>,
        channels: Arc<Channels>,
        prepares: bool,
    ) -> Receiver<'a> {
        let channels = OnceCell::from(channels);
        Receiver { is_served: true, channels, prepares, ..Receiver::at(config, common, queue) }
    }

    /// It has been told who hands mail in.
    pub(super) fn is_introduced(&self) -> bool {
        self.introduction.is_some()
    }

    /// There was trouble with the queue.
    pub(super) fn is_troubled(&self) -> bool {
        self.is_troubled
    }

    /// Tells whoever delivers that there is something to deliver.
    pub fn wake(&self) {
        wake::wake(self.config, self.common, &self.queue, None);
    }

    /// The same of one message.
    fn wake_for(&self, id: &str) {
        wake::wake(self.config, self.common, &self.queue, id.parse().ok().as_ref());
    }

    /// Why the message at hand will not be taken, if that is known already.
    pub fn refusal(&self) -> Option<Refusal> {
        self.message.refusal.clone()
    }

    /// Makes the next message of this draft, which nothing has been written into.
    pub fn begin_with(&mut self, draft: Draft) {
        self.message.draft = Some(draft);
    }

    /// What comes is on its way back from the content_filter, and must not go there again.
    pub fn come_from_filter(&mut self) {
        self.is_filtered = true;
    }

    /// Has something more written into the queue files to come, until the next introduction.
    pub fn attribute(&mut self, name: &str, value: &str) {
        // Each once: whoever speaks with the network must not fill this memory.
        self.attributes.retain(|(known, _)| known != name);
        self.attributes.push((name.to_owned(), value.to_owned()));
    }

    /// Does what a server asks for, and gives the answer if it waits for one.
    pub(super) fn obey(&mut self, request: &Request<'_>) -> Result<Option<Reply>, Error> {
        match request {
            Request::Introduce(introduction) => self.introduce(introduction).map(|()| None),
            // Others are deliver's own: whoever speaks with the network must not be able to say that an alias was followed.
            Request::Attribute(name, value) if name == "content_filter" => {
                self.attribute(name, value);
                Ok(None)
            }
            // Whether, not which: a program's path is not to come from who speaks with the network.
            Request::Attribute(name, _) if name == BEFORE_QUEUE => {
                self.is_handed_over = true;
                Ok(None)
            }
            Request::Attribute(name, _) => {
                log::warn!("event=attribute-ignored name={}", field(&name));
                Ok(None)
            }
            Request::Verify(address) => self.verify(address).map(Reply::Verdict).map(Some),
            Request::ReversePath(path, parameters) => self.reverse_path_with(path, parameters).map(|()| None),
            Request::Recipient(address, parameters) => {
                self.recipient_with(address, parameters).map(Reply::Verdict).map(Some)
            }
            Request::Required(address) => self.require(address).map(|()| None),
            Request::Content(octets) => self.content(octets).map(|()| None),
            Request::Commit => self.commit().map(Reply::Outcome).map(Some),
            Request::Reset => self.reset().map(|()| None),
        }
    }

    /// Does what the client of a message that is queued need not wait for.
    pub(super) fn follow_up(&self, id: &str) {
        self.wake_for(id);
        if self.prepares && !self.is_handed_over {
            self.queue.prepare();
        }
    }

    /// Who hands mail in; without an introduction nobody is trusted with anything.
    fn introduction(&self) -> Result<&Introduction, Error> {
        self.introduction.as_ref().ok_or_else(|| Error::Connection("a message without an introduction".to_owned()))
    }

    fn judge(&self, address: &Address) -> Result<Verdict, Error> {
        let introduction = self.introduction()?;
        let judge = |channels: &Channels| {
            let sender = self.message.reverse_path.as_ref().unwrap_or(&ReversePath::NULL);
            let (from, policy) = (introduction.channel.as_str(), introduction.policy);
            Judge { config: self.config, channels, from, policy, sender }.of(address)
        };
        match (introduction.policy, self.channels.get()) {
            (Policy::Anywhere, _) => Ok(judge(&Channels(Vec::new()))),
            (Policy::Channels | Policy::Unlisted, Some(channels)) => Ok(judge(channels)),
            (Policy::Channels | Policy::Unlisted, None) => {
                let channels = Arc::new(Channels::load(self.config)?);
                Ok(judge(self.channels.get_or_init(|| channels)))
            }
        }
    }

    /// Does something with the draft, which it begins if need be. Trouble ends the draft and is kept for the end; only
    /// `TooMany` leaves what is there as it is.
    fn write(&mut self, act: impl FnOnce(&mut Draft) -> Result<(), queue::Error>) -> Result<(), TooMany> {
        if self.message.refusal.is_some() {
            return Ok(());
        }
        let mut draft = match self.message.draft.take().map_or_else(|| self.queue.begin(), Ok) {
            Ok(draft) => draft,
            Err(error) => return self.give_up(&error),
        };
        let limit = self.largest();
        match act(&mut draft) {
            Ok(()) if limit > 0 && draft.size() > limit => self.message.refusal = Some(Refusal::TooLarge),
            Ok(()) => self.message.draft = Some(draft),
            Err(queue::Error::TooMany) => {
                self.message.draft = Some(draft);
                return Err(TooMany);
            }
            Err(error) => return self.give_up(&error),
        }
        Ok(())
    }

    /// Most octets of content and envelope together; 0: any. SMTP tells its clients how large a message may be, and counts
    /// content alone, as they do (RFC 1870 section 5): of theirs the envelope only must not grow without end.
    fn largest(&self) -> u64 {
        let limit = self.config.message_size_limit;
        let is_counted = self.is_served && self.introduction.as_ref().is_some_and(|client| client.protocol.is_smtp());
        if limit > 0 && is_counted { limit.saturating_add(limit.max(LEAST_ENVELOPE)) } else { limit }
    }

    fn give_up(&mut self, error: &queue::Error) -> Result<(), TooMany> {
        self.message.refusal = Some(refusal(error));
        self.is_troubled = true;
        Ok(())
    }

    /// A recipient without whom nobody gets the message.
    fn require(&mut self, address: &Address) -> Result<(), Error> {
        if self.message.refusal.is_some() {
            return Ok(());
        }
        let verdict = self.recipient(address)?;
        if verdict != Verdict::Accepted {
            (self.message.draft, self.message.refusal) = (None, Some(Refusal::Recipient(verdict)));
        }
        Ok(())
    }
}

/// No more recipients fit.
struct TooMany;

impl Submit for Receiver<'_> {
    fn introduce(&mut self, introduction: &Introduction) -> Result<(), Error> {
        self.introduction = Some(introduction.clone());
        let is_first = !self.is_served && !self.is_filtered;
        self.attributes = if is_first { super::attributes(self.config) } else { Vec::new() };
        self.is_handed_over = false;
        Ok(())
    }

    fn verify(&mut self, address: &Address) -> Result<Verdict, Error> {
        self.judge(address)
    }

    fn reverse_path_with(&mut self, path: &ReversePath, parameters: &MailParameters) -> Result<(), Error> {
        self.introduction()?;
        // Whoever reads for a client has told it so: what stands between angle brackets in another host's MAIL, and in
        // the records of the log, must not get out of them.
        if !path.is_usable() {
            return Err(Error::Connection("a reverse-path that no mail can have".to_owned()));
        }
        // Behind the content (QMQP) it belongs to that; a second one begins another message.
        if self.message.reverse_path.is_some() {
            self.reset()?;
        }
        self.message.reverse_path = Some(path.clone());
        self.message.parameters = parameters.clone();
        let _ = self.end_content();
        Ok(())
    }

    fn recipient_with(&mut self, address: &Address, parameters: &RecipientParameters) -> Result<Verdict, Error> {
        let verdict = self.judge(address)?;
        if verdict != Verdict::Accepted {
            return Ok(verdict);
        }
        let Ok(complete) = address.completed(&self.config.myhostname) else { return Ok(Verdict::BadAddress) };
        let domain = complete.domain().unwrap_or_default().to_ascii_lowercase();
        let key = (complete.local_part().to_vec(), domain, parameters.to_string());
        if self.message.named.contains(&key) {
            return Ok(verdict);
        }
        if self.is_handed_over && !self.message.handed_over.add(&complete, parameters) {
            return Ok(Verdict::TooMany);
        }
        let write = |draft: &mut Draft| draft.recipient_with(&complete, parameters);
        if self.end_content().and_then(|()| self.write(write)).is_err() {
            return Ok(Verdict::TooMany);
        }
        if self.message.named.len() < MOST_NAMED {
            self.message.named.insert(key);
        }
        self.message.recipients = self.message.recipients.saturating_add(1);
        self.message.first_recipient.get_or_insert(complete);
        Ok(verdict)
    }

    fn content(&mut self, octets: &[u8]) -> Result<(), Error> {
        if self.message.content_has_ended {
            return Err(Error::Connection("content behind its end".to_owned()));
        }
        self.message.content_has_begun = true;
        self.message.hops.push(octets);
        let _ = self.write(|draft| draft.content(octets));
        Ok(())
    }

    fn commit(&mut self) -> Result<Outcome, Error> {
        self.introduction()?;
        Ok(match self.put_on_disk() {
            Ok(id) => Outcome::Queued(id),
            Err(refusal) => {
                log::info!("event=refused reason={:?}", refusal.to_string());
                Outcome::Refused(refusal)
            }
        })
    }

    fn reset(&mut self) -> Result<(), Error> {
        self.message = Message::default();
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
