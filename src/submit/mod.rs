//! Submission into the queue: what servers and `submit` say to each other, its two ends, and the one oracle that
//! says whether a recipient is taken.

pub mod before_queue;
pub mod client;
pub mod closed;
pub mod drop_folder;
pub mod frames;
pub(crate) mod receiver;
pub mod server;
pub mod verify;
pub mod wake;

use self::closed::Closed;
use crate::channel::Incoming;
use crate::config::Config;
use crate::config::value::QueueFilter;
use crate::exit::Error;
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::message::trace::{Client, Protocol};
use crate::queue::Message;

/// Whether an address is taken, and if not, why not. Each protocol's `reply.rs` finds the words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is taken; mail for it stays here or may go there.
    Accepted,
    /// It is a local address, and nobody has it (550 5.1.1).
    UnknownUser,
    /// No channel lists its domain (550 5.1.2).
    UnknownHost,
    /// Mail of this channel may not go to that one (550 5.7.1).
    NotAllowed,
    /// It is not an address we can use (501 5.1.3).
    BadAddress,
    /// The administrator has no mail taken for its domain, in these words (550 5.3.2, 450 4.3.2, or as the words say).
    Closed(Closed),
    /// Nobody can say now (451 4.4.3).
    CannotTell,
    /// The message has as many recipients as it may have (452 4.5.3).
    TooMany,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is on disk, file and directory both; this is its queue id.
    Queued(String),
    /// It is not.
    Refused(Refusal),
}

/// Why a message was not queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is larger than message_size_limit, its envelope counted (552 5.3.4).
    TooLarge,
    /// It has hopcount_limit Received fields or more (554 5.4.6).
    TooManyHops,
    /// The disk is full (452 4.3.1).
    NoRoom,
    /// No recipient was taken (554 5.5.1).
    NoRecipients,
    /// One that had to be taken was not, and why ([`AllOrNothing`]).
    Recipient(Verdict),
    /// The filter before the queue will not have it (554 5.7.1).
    Filtered,
    /// Anything else that may be better later; the log says what (451 4.3.0).
    Trouble,
}

/// For the log and the command line.
impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Refusal::TooLarge => "the message is larger than message_size_limit",
            Refusal::TooManyHops => "the message has hopcount_limit Received fields",
            Refusal::NoRoom => "the disk is full",
            Refusal::NoRecipients => "no recipients",
            Refusal::Recipient(_) => "a recipient is not taken",
            Refusal::Filtered => "before_queue_filter refuses the message",
            Refusal::Trouble => "the queue cannot be written now",
        })
    }
}

/// How recipients are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// By the channels file and the users there are.
    Channels,
    /// By the same, and only what stays on this machine is taken: from a client that no channel lists.
    Unlisted,
    /// Everything that is an address is taken, and unknown users are found at delivery: authorised QMQP clients, for
    /// whom no single recipient can be refused, and mail from this machine.
    Anywhere,
}

impl Policy {
    /// How the recipients of a client are judged that is on this channel.
    pub fn of(incoming: Incoming<'_>) -> Policy {
        if incoming.is_listed { Policy::Channels } else { Policy::Unlisted }
    }
}

/// Who hands a message in, and how; said once, before the first message of a connection, and again when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// The channel mail comes in on.
    pub channel: String,
    /// How recipients are judged.
    pub policy: Policy,
    /// For the Received field.
    pub protocol: Protocol,
    /// For the Received field; none for local submission without one.
    pub client: Client,
}

/// What a server has written into the queue file besides the envelope.
pub fn attributes(config: &Config) -> Vec<(String, String)> {
    let filter = &config.content_filter.0;
    if filter.is_empty() { Vec::new() } else { vec![(FILTER.to_owned(), filter.clone())] }
}

/// The attribute of a message that its server has been told to filter: where it goes first.
pub const FILTER: &str = "content_filter";

/// The filter of a message that is queued anew: the one in force now. What never had one, or came back from it, has none; and
/// what `before_queue_filter` left goes to that, while it is a server.
pub fn filter_now<'a>(config: &'a Config, message: &'a Message) -> Option<&'a str> {
    let filter = message.attribute(FILTER)?;
    let now = match (message.attribute(BEFORE_QUEUE), &config.before_queue_filter) {
        (Some(_), QueueFilter::Host(host)) => host,
        // No program takes it from the queue.
        (Some(_), QueueFilter::Program(_)) => filter,
        (Some(_), QueueFilter::None) | (None, _) => &config.content_filter.0,
    };
    Some(now).filter(|now| !now.is_empty())
}

/// The attribute by which a server has its messages handed to the filter before the queue; submit knows which that is. Also of
/// one that is queued because that has taken it for others only.
pub const BEFORE_QUEUE: &str = "before_queue_filter";

/// What a server tells submit with each introduction.
pub fn told_to_submit(config: &Config) -> Vec<(String, String)> {
    let before = (!config.before_queue_filter.is_none()).then(|| (BEFORE_QUEUE.to_owned(), "yes".to_owned()));
    attributes(config).into_iter().chain(before).collect()
}

/// The way into the queue, as the protocol servers see it. [`client::Submitter`] is the real one.
///
/// Calls of one message: `introduce`, then `reverse_path`, `recipient` and `content` in the order of SMTP (content
/// last) or of QMQP (content first), then `commit`, or `reset` to abandon it. `verify` at any time outside content.
pub trait Submit {
    /// Says who hands mail in.
    fn introduce(&mut self, introduction: &Introduction) -> Result<(), Error>;
    /// Judges an address without taking it (VRFY).
    fn verify(&mut self, address: &Address) -> Result<Verdict, Error>;
    /// Sets the reverse-path, and what was said with it.
    fn reverse_path_with(&mut self, path: &ReversePath, parameters: &MailParameters) -> Result<(), Error>;
    /// Adds a recipient, and what was said with it, if the verdict is `Accepted`.
    fn recipient_with(&mut self, address: &Address, parameters: &RecipientParameters) -> Result<Verdict, Error>;
    /// Sets the reverse-path, with which nothing was said.
    fn reverse_path(&mut self, path: &ReversePath) -> Result<(), Error> {
        self.reverse_path_with(path, &MailParameters::default())
    }
    /// Adds a recipient with which nothing was said, if the verdict is `Accepted`.
    fn recipient(&mut self, address: &Address) -> Result<Verdict, Error> {
        self.recipient_with(address, &RecipientParameters::default())
    }
    /// Adds octets to the content; line ends are LF where they came as lines. Trouble is told by `commit`.
    fn content(&mut self, octets: &[u8]) -> Result<(), Error>;
    /// Asks for the message to be put on disk, and waits until it is.
    fn commit(&mut self) -> Result<Outcome, Error>;
    /// Abandons the message.
    fn reset(&mut self) -> Result<(), Error>;
}

/// The same for a protocol that has one answer for all recipients: nobody waits for a verdict about each.
pub trait AllOrNothing: Submit {
    /// Adds a recipient without whom nobody is to get the message: that it is not taken is told by `commit`.
    fn require(&mut self, address: &Address) -> Result<(), Error>;
}
