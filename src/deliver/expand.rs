//! Where an alias or a `~/.forward` sends mail on: the message is queued once more, for those who stand for the
//! recipient, and then the recipient is done.
//!
//! Its id comes from the message and the recipient's number, so a repeat after a crash finds it and queues no second one.
//! Its field Delivered-To says for whom it was taken apart; what has that of its own recipient goes in a circle. A
//! recipient that is no plain address is marked by its first character: `\user` the mailbox, `~user` a user whose alias
//! was followed already, `|command`, `/file`. These marks mean something only in a message with the attribute that is
//! set here, which no client can set.

use super::Outcome;
use super::copy::{Copy, public_address};
use super::report::REPORT;
use super::task::as_text;
use crate::aliases::Place;
use crate::clock;
use crate::config::Config;
use crate::config::value::MailSource;
use crate::logging::clean;
use crate::message::header;
use crate::message::parameters::{Body, MailParameters, Notify, Orcpt, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::message::trace::{Client, HopCounter, Protocol, Received};
use crate::message::verp;
use crate::queue::{Error, Head, Message, ORIGIN, Queue};
use crate::submit::verify;
use std::time::{Duration, SystemTime};

/// The attribute of a message that an alias or a `~/.forward` sent on.
const EXPANDED: &str = "expanded";

/// The attribute of one that was expanded to a single recipient: whoever it was for has it nowhere else.
const ALONE: &str = "alone";

/// The attribute that says when the message came that was sent on, in microseconds since 1970.
const ARRIVED: &str = "arrived";

/// When mail came to this machine, for records. What lay in the drop folder has its id from that time.
pub fn arrived(message: &Message) -> SystemTime {
    let sent_on = message.attribute(ARRIVED).and_then(|text| text.parse().ok());
    let sent_on = sent_on.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(since)));
    let is_from_drop = || message.attribute(ORIGIN).is_some_and(|origin| origin.contains(" drop "));
    sent_on.unwrap_or_else(|| if is_from_drop() { message.created.min(message.id.time()) } else { message.created })
}

/// Why what has the field Delivered-To of its own recipient is returned.
pub const IN_A_CIRCLE: &str = "mail for this address goes in a circle";

/// Most octets of a header that are looked through for Delivered-To.
const LOOKED_AT: usize = 256 * 1024;

/// What a message was taken apart for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    is_alias: bool,
    /// The alias, or the user.
    pub name: String,
    /// Of a user: what stood behind the delimiter.
    pub extension: String,
    /// The recipient it was.
    pub address: Address,
}

impl Route {
    /// By an alias.
    pub fn alias(name: &str, address: &Address) -> Route {
        Route { is_alias: true, name: name.to_owned(), extension: String::new(), address: address.clone() }
    }

    /// By a user's `~/.forward`.
    pub fn forward(user: &str, extension: &str, address: &Address) -> Route {
        Route { is_alias: false, name: user.to_owned(), extension: extension.to_owned(), address: address.clone() }
    }

    /// That of a message; nothing for one that came in as it is.
    pub fn of(message: &Message) -> Option<Route> {
        let mut fields = message.attribute(EXPANDED)?.splitn(4, '\t');
        let is_alias = fields.next()? == "alias";
        let (name, extension) = (fields.next()?.to_owned(), fields.next()?.to_owned());
        let address = Address::from_internal(fields.next()?.as_bytes()).ok()?;
        Some(Route { is_alias, name, extension, address })
    }

    fn to_text(&self) -> String {
        let kind = if self.is_alias { "alias" } else { "forward" };
        let fields = [kind.to_owned(), self.name.clone(), self.extension.clone(), self.of_address()];
        fields.map(|field| field.replace('\t', " ")).join("\t")
    }

    fn of_address(&self) -> String {
        String::from_utf8_lossy(self.address.as_bytes()).into_owned()
    }

    /// Where its targets stand.
    pub fn source(&self) -> MailSource {
        if self.is_alias { MailSource::Alias } else { MailSource::Forward }
    }

    /// Whether a message has nothing but the only target that its alias or `~/.forward` had: that can be expanded anew, and
    /// nobody gets it twice.
    pub fn is_all_of(message: &Message) -> bool {
        message.attribute(ALONE).is_some()
    }

    /// Whether mail for postmaster came this way.
    pub fn is_postmaster(&self) -> bool {
        verify::is_of_postmaster(&self.address)
    }

    /// The address of the user whose `~/.forward` it was.
    pub fn user_address(&self) -> Address {
        let domain = String::from_utf8_lossy(self.address.domain().unwrap_or_default()).into_owned();
        let name = if self.name.contains('@') { self.name.clone() } else { format!("{}@{domain}", self.name) };
        Address::from_internal(name.as_bytes()).unwrap_or_else(|_| self.address.clone())
    }
}

/// Queues the message for those who stand for its recipient. With an owner failures go there.
pub fn send_on(config: &Config, copy: &Copy<'_>, route: &Route, places: &[Place], owner: Option<Address>) -> Outcome {
    let message = copy.message;
    let on_its_way = match look(message, copy.address) {
        Ok(on_its_way) => on_its_way,
        Err(error) => return trouble(message, &error),
    };
    // What is expanded anew has our own field of the first time, and is counted by its hops.
    let is_anew = Route::is_all_of(message) && Route::of(message).is_some_and(|route| route.address == *copy.address);
    if on_its_way.was_here && !is_anew {
        return Outcome::Failed(format!("5.4.6 {IN_A_CIRCLE}"));
    }
    if on_its_way.hops.saturating_add(1) >= config.hopcount_limit {
        return Outcome::Failed("5.4.6 the message has been through too many hosts".to_owned());
    }
    let queue = Queue::at(&config.queue_directory);
    let child = Child { config, copy, route, places, owner };
    let origin = format!("expansion/{}", copy.number);
    let queued = queue.begin_derived(&message.id, &origin).and_then(|draft| match draft {
        Some(draft) => child.write(draft).map(Some),
        None => Ok(None),
    });
    match queued {
        Ok(id) => {
            // A look at everything for each of many would leave time for nothing else.
            _ = id.map_or_else(|| queue.wake(), |id| queue.wake_for(&id));
            let (id, name) = (id.map_or_else(|| "queued-before".to_owned(), |id| id.to_string()), &route.name);
            let source = if route.is_alias { "alias" } else { "forward" };
            log::info!("id={} event=expanded by={source} name={name} into={id} nrcpt={}", message.id, places.len());
        }
        Err(error) => return trouble(message, &error),
    }
    match (&child.owner, places) {
        // A list is where mail for it ends (RFC 3461 section 5.2.7.1).
        (Some(_), _) => Outcome::Listed,
        (None, [_]) => Outcome::Replaced(format!("as {}", route.name)),
        (None, _) => Outcome::Expanded(format!("into {} recipients", places.len())),
    }
}

fn trouble(message: &Message, error: &Error) -> Outcome {
    log::error!("id={}: {error}", message.id);
    match error {
        Error::Full => Outcome::Deferred("4.3.1 no room in the queue".to_owned()),
        Error::TooMany | Error::Io(_) => Outcome::Deferred("4.3.0 the queue cannot be written now".to_owned()),
    }
}

/// What the header says of the message's way.
struct OnItsWay {
    was_here: bool,
    hops: u32,
}

fn look(message: &Message, address: &Address) -> Result<OnItsWay, Error> {
    let octets = message.beginning(LOOKED_AT)?;
    let mut counter = HopCounter::default();
    counter.push(&octets);
    let own = shown(address);
    let was_here = super::report::header_of(&octets).split(|octet| *octet == b'\n').any(|line| {
        let field = line.split_at_checked(13).filter(|(name, _)| name.eq_ignore_ascii_case(b"delivered-to:"));
        field.is_some_and(|(_, value)| value.trim_ascii().eq_ignore_ascii_case(own.as_bytes()))
    });
    Ok(OnItsWay { was_here, hops: counter.hops() })
}

/// An address in the field Delivered-To.
fn shown(address: &Address) -> String {
    clean(address.as_bytes(), 900)
}

/// The message to be queued.
struct Child<'a> {
    config: &'a Config,
    copy: &'a Copy<'a>,
    route: &'a Route,
    places: &'a [Place],
    owner: Option<Address>,
}

impl Child<'_> {
    fn write(&self, mut draft: crate::queue::Draft) -> Result<crate::queue::Id, Error> {
        let message = self.copy.message;
        message.copy_to(&mut draft)?;
        // What came as lines of CR LF has no others in front, or it were no text any more.
        let is_crlf = message.parameters.body == Body::BinaryMime && draft.has_cr();
        let (mail, recipient) = self.parameters();
        for place in self.places {
            draft.recipient_with(&self.encoded(place)?, &recipient)?;
        }
        draft.parameters(&mail)?;
        draft.attribute(EXPANDED, &self.route.to_text())?;
        let arrived = arrived(message).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        draft.attribute(ARRIVED, &arrived.as_micros().to_string())?;
        if self.places.len() == 1 {
            draft.attribute(ALONE, "1")?;
        }
        // A report stays one whoever stands for its recipient: else each that fails would make another, without end.
        if let Some(kind) = message.attribute(REPORT) {
            draft.attribute(REPORT, kind)?;
        }
        let id = *draft.id();
        let received = Received {
            client: &Client { address: "local".to_owned(), ..Client::default() },
            utf8: false,
            protocol: Protocol::Local,
            by: &self.config.myhostname,
            id: id.as_str(),
            only_recipient: None,
            date: &clock::field_date(SystemTime::now()),
        };
        let mut trace = format!("Delivered-To: {}\n", shown(self.copy.address)).into_bytes();
        trace.extend(received.field());
        let trace = if is_crlf { header::in_crlf(&trace) } else { trace };
        draft.commit(&Head { reverse_path: self.reverse_path(), trace, channel: message.channel.clone() })
    }

    /// A report stays from nobody, whoever owns the list.
    fn reverse_path(&self) -> ReversePath {
        let message = self.copy.message;
        match (&self.owner, &message.reverse_path.0) {
            (Some(owner), Some(_)) => ReversePath(Some(owner.clone())),
            _ => verp::expand(&message.reverse_path, self.copy.address),
        }
    }

    /// What the sender said goes on to those who stand for the recipient (RFC 3461 section 5.2.7.3); a list is where it
    /// ends. One success is told of one recipient only.
    fn parameters(&self) -> (MailParameters, RecipientParameters) {
        let message = self.copy.message;
        let mail = message.parameters.clone();
        if self.owner.is_some() {
            return (MailParameters { ret: None, envid: None, ..mail }, RecipientParameters::default());
        }
        let said = message.recipients.get(self.copy.number).map(|recipient| recipient.parameters.clone());
        let mut said = said.unwrap_or_default();
        if self.places.len() != 1 {
            said.notify = said.notify.map(|notify| Notify { success: false, ..notify });
        }
        let public = public_address(message, self.copy.address);
        said.orcpt = said.orcpt.or_else(|| Orcpt::of_address(public.as_bytes()));
        (mail, said)
    }

    fn encoded(&self, place: &Place) -> Result<Address, Error> {
        let marked = |text: String| {
            let domain = self.copy.address.domain().unwrap_or_default();
            let octets = [text.as_bytes(), b"@", domain].concat();
            Address::from_internal(&octets).map_err(|_| Error::Io(format!("a target too long: {text:.60}")))
        };
        match place {
            Place::Address(address) => Ok(address.clone()),
            Place::User(user) => marked(format!("~{user}")),
            Place::Mailbox(user) => marked(format!("\\{user}")),
            Place::Own(target) => marked(as_text(target)),
        }
    }
}
