//! submit's end: one client after another, never two on one connection; end of input abandons.
//!
//! A [`Receiver`] makes messages of what it is told and is [`Submit`] itself, so the command line uses it as the
//! servers use submit. [`serve`] reads requests off a socket and hands them to one.

use super::frames::{FrameReader, LONGEST_CONTENT, Reply, Request};
use super::{BEFORE_QUEUE, Introduction, Outcome, Policy, Refusal, Submit, Verdict, before_queue, verify, wake};
use crate::channel::Channels;
use crate::cli::Common;
use crate::clock;
use crate::config::{Config, pattern};
use crate::exit::{Ended, Error};
use crate::kept::Kept;
use crate::logging::clean;
use crate::message::header;
use crate::message::parameters::{Body, MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::message::trace::{HopCounter, Received};
use crate::net::{FIRST_ROOM, make_room};
use crate::privilege::{self, Owner};
use crate::queue::{self, Draft, Head, Queue};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::geteuid;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// What is read at once: several frames of a large message, most of which need not be put together then.
const MOST_READ: usize = 4 * LONGEST_CONTENT;

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

/// What a process that serves one client after another keeps in between: the queue, which it has opened, and the channels
/// for as long as their file is the same.
#[derive(Debug, Default)]
pub struct Premises {
    queue: Option<Arc<Queue>>,
    channels: Kept<Channels>,
    /// This process serves one client after another.
    is_kept: bool,
}

impl Premises {
    /// Opens the queue before there is a client. Trouble is met with again, and told then.
    pub fn prepare(&mut self, config: &Config) {
        let _ = self.queue(config);
    }

    /// From now on one client follows the other, and what comes next may be prepared for.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }

    fn queue(&mut self, config: &Config) -> Result<Arc<Queue>, Error> {
        if let Some(queue) = &self.queue {
            return Ok(queue.clone());
        }
        Ok(self.queue.insert(Arc::new(Queue::open(&config.queue_directory)?)).clone())
    }

    fn channels(&self, config: &Config) -> Result<Arc<Channels>, Error> {
        let before = pattern::files_read();
        let channels = self.channels.get(&config.channels, || Channels::load(config));
        if pattern::files_read() != before {
            self.channels.forget(&config.channels);
        }
        Ok(channels?)
    }
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
    /// Who gets it, as far as remembered, the domain in lower case: who is named twice gets one copy.
    named: BTreeSet<(Vec<u8>, Vec<u8>)>,
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
        Receiver::at(config, common, &mut Premises::default())
    }

    fn at(config: &'a Config, common: &'a Common, premises: &mut Premises) -> Result<Receiver<'a>, Error> {
        Ok(Receiver {
            config,
            common,
            channels: OnceCell::new(),
            queue: premises.queue(config)?,
            introduction: None,
            attributes: Vec::new(),
            is_filtered: false,
            is_served: false,
            is_handed_over: false,
            prepares: premises.is_kept,
            is_troubled: false,
            message: Message::default(),
        })
    }

    /// One for servers.
    fn serving(config: &'a Config, common: &'a Common, premises: &mut Premises) -> Result<Receiver<'a>, Error> {
        let receiver = Receiver::at(config, common, premises)?;
        let channels = OnceCell::from(premises.channels(config)?);
        Ok(Receiver { is_served: true, channels, ..receiver })
    }

    /// What the next one has to know.
    fn leave(&self, premises: &mut Premises) {
        if self.is_troubled {
            // Its folders may have been taken away.
            premises.queue = None;
        }
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
        self.message.refusal
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

    /// Who hands mail in; without an introduction nobody is trusted with anything.
    fn introduction(&self) -> Result<&Introduction, Error> {
        self.introduction.as_ref().ok_or_else(|| Error::Connection("a message without an introduction".to_owned()))
    }

    fn judge(&self, address: &Address) -> Result<Verdict, Error> {
        let introduction = self.introduction()?;
        let judge = |channels: &Channels| {
            verify::judge(self.config, channels, &introduction.channel, introduction.policy, address)
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

    fn end_content(&mut self) -> Result<(), TooMany> {
        if !self.message.content_has_begun || self.message.content_has_ended {
            return Ok(());
        }
        self.message.content_has_ended = true;
        self.write(Draft::end_content)
    }

    /// The message, if there is one to put on disk.
    fn finished(&mut self) -> Result<(Draft, Head), Refusal> {
        let message = std::mem::take(&mut self.message);
        if let Some(refusal) = message.refusal {
            return Err(refusal);
        }
        if message.recipients == 0 {
            return Err(Refusal::NoRecipients);
        }
        // Ours counts too.
        if message.hops.hops() + 1 >= self.config.hopcount_limit {
            return Err(Refusal::TooManyHops);
        }
        let (Some(mut draft), Some(reverse_path), Some(introduction)) =
            (message.draft, message.reverse_path, &self.introduction)
        else {
            return Err(Refusal::Trouble);
        };
        let trace = Received {
            client: &introduction.client,
            protocol: introduction.protocol,
            utf8: message.parameters.smtputf8,
            by: &self.config.myhostname,
            id: draft.id().as_str(),
            only_recipient: message.first_recipient.as_ref().filter(|_| message.recipients == 1),
            date: &clock::field_date(clock::now()),
        }
        .field();
        // BDAT will carry all of it as it lies here.
        let is_crlf = message.parameters.body == Body::BinaryMime && draft.has_cr();
        let trace = if is_crlf { header::in_crlf(&trace) } else { trace };
        let head = Head { reverse_path, trace, channel: introduction.channel.clone() };
        draft.parameters(&message.parameters).map_err(|error| refusal(&error))?;
        for (name, value) in &self.attributes {
            draft.attribute(name, value).map_err(|error| refusal(&error))?;
        }
        let envelope = head.reverse_path.as_bytes().len() + head.channel.len();
        let limit = self.largest();
        if limit > 0 && draft.size() + envelope as u64 > limit {
            return Err(Refusal::TooLarge);
        }
        Ok((draft, head))
    }

    fn put_on_disk(&mut self) -> Result<String, Refusal> {
        let recipients = self.message.recipients;
        let (handed_over, parameters) =
            (std::mem::take(&mut self.message.handed_over), self.message.parameters.clone());
        let (draft, head) = self.finished()?;
        if self.is_handed_over {
            return self.hand_over(draft, &head, handed_over, &parameters);
        }
        let size = draft.size();
        match draft.commit(&head) {
            Ok(id) if !log::log_enabled!(log::Level::Info) => Ok(id.to_string()),
            Ok(id) => {
                let from = clean(head.reverse_path.to_string().as_bytes(), 300);
                let client = self.introduction.as_ref().map_or("", |introduction| &introduction.client.address);
                let (client, channel) = (clean(client.as_bytes(), 100), clean(head.channel.as_bytes(), 100));
                log::info!(
                    "event=queued id={id} from={from} nrcpt={recipients} size={size} client={client} channel={channel}"
                );
                Ok(id.to_string())
            }
            Err(error) => Err(refusal(&error)),
        }
    }

    /// Has `before_queue_filter` take the message. The draft is only where it lay meanwhile, and never queued.
    fn hand_over(
        &self,
        mut draft: Draft,
        head: &Head,
        recipients: before_queue::Recipients,
        parameters: &MailParameters,
    ) -> Result<String, Refusal> {
        let id = *draft.id();
        let Some(introduction) = self.introduction.as_ref().filter(|_| !self.config.before_queue_filter.is_none())
        else {
            log::error!("before_queue_filter: the server has one, and submit has none");
            return Err(Refusal::Trouble);
        };
        draft.end_content().map_err(|error| refusal(&error))?;
        let content = draft.written().map_err(|error| refusal(&error))?;
        let (reverse_path, client) = (&head.reverse_path, &introduction.client);
        let handed = before_queue::Handed { id: &id, reverse_path, parameters, recipients, client };
        let left = before_queue::hand_over(self.config, &handed, &mut head.trace.chain(content))?;
        if !left.is_empty() {
            let of = |number: &usize| handed.recipients.list.get(*number).cloned();
            let recipients: Vec<_> = left.iter().filter_map(of).collect();
            self.keep(draft, head, &recipients, parameters).map_err(|error| refusal(&error))?;
        }
        Ok(id.to_string())
    }

    /// A server took the message for some, and the client can only be told one thing: for the others it is queued, and
    /// goes to the same filter again, which says who waits and who fails.
    fn keep(
        &self,
        mut draft: Draft,
        head: &Head,
        recipients: &[(Address, RecipientParameters)],
        parameters: &MailParameters,
    ) -> Result<(), queue::Error> {
        let mut kept = self.queue.begin()?;
        let mut content = draft.written()?;
        let mut buffer = vec![0; LONGEST_CONTENT];
        loop {
            match content.read(&mut buffer).map_err(|error| queue::Error::Io(format!("a draft: {error}")))? {
                0 => break,
                count => kept.content(buffer.get(..count).unwrap_or_default())?,
            }
        }
        kept.end_content()?;
        for (address, said) in recipients {
            kept.recipient_with(address, said)?;
        }
        kept.parameters(parameters)?;
        kept.attribute("content_filter", self.config.before_queue_filter.host())?;
        let id = kept.commit(head)?;
        log::info!("id={} event=kept into={id} nrcpt={}", draft.id(), recipients.len());
        self.wake_for(id.as_str());
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
        let key = (complete.local_part().to_vec(), domain);
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
                log::info!("event=refused reason=\"{refusal}\"");
                Outcome::Refused(refusal)
            }
        })
    }

    fn reset(&mut self) -> Result<(), Error> {
        self.message = Message::default();
        Ok(())
    }
}

/// Serves one client on a unix socket until its end.
///
/// Whoever may speak here may put anything into the queue, so the other end must be one of ours, by the kernel's word:
/// this process's user, root, `mail_owner` or `net_owner`. Of an inet socket the kernel cannot say that.
pub fn serve(config: &Config, common: &Common, premises: &mut Premises, stream: UnixStream) -> Result<Ended, Error> {
    if let Some(uid) = stranger(config, &stream)? {
        // Nobody else may hand in mail here; but everybody may ask for the mail that is his.
        let queue = Queue::open(&config.queue_directory)?;
        log::info!("event=status uid={uid}");
        return crate::mailq::status::answer(&queue, stream, uid)
            .map(|()| Ended::Done)
            .map_err(|error| Error::Permission(format!("uid {uid} may not speak to submit: {error}")));
    }
    let mut receiver = Receiver::serving(config, common, premises)?;
    let ended = listen(&mut receiver, premises, stream);
    receiver.leave(premises);
    ended
}

/// Obeys until the end of input. Who introduces himself again is another client of the server, of whom nothing is known: a
/// server keeps its connection from one to the next.
fn listen(receiver: &mut Receiver<'_>, premises: &mut Premises, mut stream: UnixStream) -> Result<Ended, Error> {
    let config = receiver.config;
    let broken = |error: io::Error| Error::Connection(format!("connection to submit: {error}"));
    // The client may think as long as its own session may last.
    let patience = config.daemon_timeout.0.max(config.ipc_timeout.0);
    stream.set_read_timeout(Some(patience)).map_err(broken)?;
    stream.set_write_timeout(Some(config.ipc_timeout.0)).map_err(broken)?;
    let (mut reader, mut input, mut count) = (FrameReader::default(), vec![0; FIRST_ROOM], 0);
    loop {
        make_room(&mut input, count, MOST_READ);
        count = match stream.read(&mut input) {
            Ok(0) => return Ok(Ended::Done),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Ended::TimedOut),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Ended::HungUp),
            Err(error) => return Err(broken(error)),
        };
        let mut rest = &input[..count];
        while !rest.is_empty() {
            let (taken, payload) = reader.push(rest).map_err(|_| nonsense())?;
            rest = &rest[taken..];
            let Some(payload) = payload else { continue };
            let request = Request::decode(payload).map_err(|_| nonsense())?;
            if matches!(request, Request::Introduce(_)) && receiver.introduction.is_some() {
                receiver.leave(premises);
                *receiver = Receiver::serving(config, receiver.common, premises)?;
            }
            let reply = obey(receiver, &request)?;
            let Some(reply) = reply else { continue };
            let mut out = Vec::new();
            reply.put(&mut out);
            let sent = stream.write_all(&out);
            if let Reply::Outcome(Outcome::Queued(id)) = &reply {
                // Behind the answer: the client need not wait for it.
                receiver.wake_for(id);
                if receiver.prepares && !receiver.is_handed_over {
                    receiver.queue.prepare();
                }
            }
            if let Err(error) = sent {
                log::info!("the client left before it had its answer: {error}");
                return Ok(Ended::HungUp);
            }
        }
    }
}

/// Who is at the other end, if that is nobody of ours.
fn stranger(config: &Config, stream: &UnixStream) -> Result<Option<u32>, Error> {
    let refused = |who: &str| Error::Permission(format!("{who} may not speak to submit"));
    let credentials = getsockopt(stream, PeerCredentials).map_err(|_| refused("who is on no unix socket"))?;
    let uid = credentials.uid();
    if uid == 0 || uid == geteuid().as_raw() {
        return Ok(None);
    }
    let is_that = |owner| privilege::owner_of(config, owner).is_ok_and(|user| user.uid.as_raw() == uid);
    let is_ours = is_that(Owner::Mail) || (!config.net_owner.is_empty() && is_that(Owner::Net));
    Ok(Some(uid).filter(|_| !is_ours))
}

fn obey(receiver: &mut Receiver<'_>, request: &Request<'_>) -> Result<Option<Reply>, Error> {
    match request {
        Request::Introduce(introduction) => receiver.introduce(introduction).map(|()| None),
        // Others are deliver's own: whoever speaks with the network must not be able to say that an alias was followed.
        Request::Attribute(name, value) if name == "content_filter" => {
            receiver.attribute(name, value);
            Ok(None)
        }
        // Whether, not which: a program's path is not to come from who speaks with the network.
        Request::Attribute(name, _) if name == BEFORE_QUEUE => {
            receiver.is_handed_over = true;
            Ok(None)
        }
        Request::Attribute(name, _) => {
            log::warn!("event=attribute-ignored name={}", clean(name.as_bytes(), 100));
            Ok(None)
        }
        Request::Verify(address) => receiver.verify(address).map(Reply::Verdict).map(Some),
        Request::ReversePath(path, parameters) => receiver.reverse_path_with(path, parameters).map(|()| None),
        Request::Recipient(address, parameters) => {
            receiver.recipient_with(address, parameters).map(Reply::Verdict).map(Some)
        }
        Request::Required(address) => receiver.require(address).map(|()| None),
        Request::Content(octets) => receiver.content(octets).map(|()| None),
        Request::Commit => receiver.commit().map(Reply::Outcome).map(Some),
        Request::Reset => receiver.reset().map(|()| None),
    }
}

fn nonsense() -> Error {
    Error::Connection("what came is no request to submit".to_owned())
}

/// What the client is told of trouble in the queue; the log has the rest.
fn refusal(error: &queue::Error) -> Refusal {
    log::error!("queue: {error}");
    match error {
        queue::Error::Full => Refusal::NoRoom,
        queue::Error::TooMany | queue::Error::Io(_) => Refusal::Trouble,
    }
}

#[cfg(test)]
mod tests;
