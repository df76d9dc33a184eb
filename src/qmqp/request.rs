//! The package of a QMQP client, out of pushed octets: one netstring around netstrings, every length bounded. And that
//! of a QMTP client (cr.yp.to/proto/qmtp.txt), which has the same parts, but a netstring around the recipients only.
//!
//! Content is handed on in pieces as it comes and never held; an address is held until it is whole. Each inner length
//! is checked against what is left of the outer one before anything is believed, so the package ends where its first
//! length says, or it is refused.

use crate::message::path::{Address, LONGEST_ADDRESS, ReversePath};
use crate::wire::netstring::{self, LengthReader};

/// What one push yielded.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The next octets of the content, at least one; an empty content yields none.
    Content(&'a [u8]),
    /// Where failures go; follows the content.
    ReversePath(ReversePath),
    /// One recipient; follows the reverse-path.
    Recipient(Address),
    /// In QMTP, where each recipient has a reply: what stands for the reverse-path or a recipient is no address.
    NotAnAddress,
    /// The package is whole and has at least one recipient. What comes behind it is nobody's.
    End,
}

/// Why a package is refused, wherever it is noticed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A netstring is malformed.
    Format,
    /// The lengths inside do not add up to the length outside.
    Lengths,
    /// Content and addresses together are over the limit.
    TooLarge,
    /// An address is over the limit.
    AddressTooLong,
    /// In QMQP: an address holds NUL, CR or LF, or a recipient is empty.
    BadAddress,
    /// The package ends before the first recipient.
    NoRecipients,
}

/// The parts of a package, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Content,
    ReversePath,
    Recipient,
}

/// What the next octet belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    PackageLength,
    Length(Part),
    Payload(Part),
    Comma(Part),
    PackageComma,
    Done,
}

/// What holds the parts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Qmqp,
    Qmtp,
}

/// Most octets of a QMTP package's recipients: each verdict is kept until the package is whole.
const RECIPIENTS: u64 = 1 << 20;

/// More octets no package has whose content and addresses are within the limit: length and comma cost an address of one
/// octet three more, and a longer one less.
fn longest_package(largest: u64) -> u64 {
    if largest == 0 { u64::MAX } else { largest.saturating_mul(4).saturating_add(FRAMES) }
}

/// What stands around the content, and a reverse-path that is empty, at most.
const FRAMES: u64 = 32;

/// Reads one package.
#[derive(Debug)]
pub struct Request {
    framing: Framing,
    place: Place,
    length: LengthReader,
    /// Octets of the outer netstring's payload that are still to come; without an outer netstring no bound.
    inside: u64,
    /// Octets of the current netstring's payload that are still to come.
    payload: u64,
    /// Octets that content and addresses may still have.
    room: u64,
    longest_address: u64,
    address: Vec<u8>,
    has_recipient: bool,
}

impl Request {
    /// A reader of one package. `largest`: octets of content and addresses together, 0 for no limit; `longest_address`:
    /// octets of one address, and never more than [`LONGEST_ADDRESS`].
    pub fn new(largest: u64, longest_address: u64) -> Self {
        Request {
            framing: Framing::Qmqp,
            place: Place::PackageLength,
            length: LengthReader::new(longest_package(largest)),
            inside: 0,
            payload: 0,
            room: if largest == 0 { u64::MAX } else { largest },
            longest_address: longest_address.min(LONGEST_ADDRESS as u64),
            address: Vec::new(),
            has_recipient: false,
        }
    }

    /// A reader of one QMTP package. Its content is as long as it says: whoever puts it on disk says when it is too
    /// large, and the recipients behind it are to hear that.
    pub fn qmtp(longest_address: u64) -> Self {
        Request {
            framing: Framing::Qmtp,
            place: Place::Length(Part::Content),
            inside: u64::MAX,
            ..Request::new(0, longest_address)
        }
    }

    /// Whether an octet of the package has been taken.
    pub fn has_begun(&self) -> bool {
        self.place != Place::Length(Part::Content) || self.length.has_begun()
    }

    /// Takes octets up to the next event. Gives how many were taken, and the event; without one all were taken.
    /// After a fault or the end nothing more may be pushed.
    pub fn push<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Event<'a>>), Fault> {
        let mut taken = 0;
        while let Some(&octet) = input.get(taken) {
            let event = match self.place {
                Place::Done => return Ok((taken, None)),
                Place::Payload(part) => {
                    let rest = &input[taken..];
                    let count = usize::try_from(self.payload).map_or(rest.len(), |payload| payload.min(rest.len()));
                    taken += count;
                    self.pay(part, &rest[..count])
                }
                _ => {
                    taken += 1;
                    self.take(octet)?
                }
            };
            if event.is_some() {
                return Ok((taken, event));
            }
        }
        Ok((taken, None))
    }

    /// What is going on, for the log and for replies.
    pub fn phase(&self) -> &'static str {
        match self.place {
            Place::PackageLength if self.framing == Framing::Qmtp => "receiving recipients",
            Place::PackageLength => "receiving QMQP packet header",
            Place::Length(Part::Content) | Place::Payload(Part::Content) | Place::Comma(Part::Content) => {
                "receiving message content"
            }
            Place::Length(Part::ReversePath) | Place::Payload(Part::ReversePath) | Place::Comma(Part::ReversePath) => {
                "receiving sender address"
            }
            Place::Length(Part::Recipient) | Place::Payload(Part::Recipient) | Place::Comma(Part::Recipient) => {
                "receiving recipient address"
            }
            Place::PackageComma => "receiving end of packet",
            Place::Done => "sending completion status",
        }
    }

    /// Takes octets of a payload, as many as there are or fewer.
    fn pay<'a>(&mut self, part: Part, piece: &'a [u8]) -> Option<Event<'a>> {
        let count = piece.len() as u64;
        self.payload -= count;
        self.inside -= count;
        if self.payload == 0 {
            self.place = Place::Comma(part);
        }
        if part == Part::Content {
            return Some(Event::Content(piece));
        }
        self.address.extend_from_slice(piece);
        None
    }

    /// Takes one octet of the framing.
    fn take(&mut self, octet: u8) -> Result<Option<Event<'static>>, Fault> {
        match self.place {
            Place::PackageLength => {
                if let Some(length) = self.length.push(octet).map_err(|fault| of(fault, Fault::TooLarge))? {
                    self.inside = length;
                    self.begin(if self.framing == Framing::Qmqp { Part::Content } else { Part::Recipient })?;
                }
                Ok(None)
            }
            Place::Length(part) => self.take_length(part, octet).map(|()| None),
            Place::Comma(part) => {
                self.inside -= 1;
                if octet != b',' {
                    return Err(Fault::Format);
                }
                self.end(part)
            }
            Place::PackageComma if octet != b',' => Err(Fault::Lengths),
            Place::PackageComma if !self.has_recipient => Err(Fault::NoRecipients),
            Place::PackageComma => {
                self.place = Place::Done;
                Ok(Some(Event::End))
            }
            Place::Payload(_) | Place::Done => Ok(None),
        }
    }

    fn take_length(&mut self, part: Part, octet: u8) -> Result<(), Fault> {
        let over = if part == Part::Content { Fault::TooLarge } else { Fault::AddressTooLong };
        self.inside -= 1;
        match self.length.push(octet).map_err(|fault| of(fault, over))? {
            // The comma behind the payload is inside too.
            Some(length) if length >= self.inside => Err(Fault::Lengths),
            // Its first octet would say how lines end.
            Some(0) if part == Part::Content && self.framing == Framing::Qmtp => Err(Fault::Format),
            Some(length) => {
                self.room = self.room.checked_sub(length).ok_or(Fault::TooLarge)?;
                self.payload = length;
                self.place = if length == 0 { Place::Comma(part) } else { Place::Payload(part) };
                Ok(())
            }
            None if self.inside == 0 => Err(Fault::Lengths),
            None => Ok(()),
        }
    }

    /// Makes ready for the next netstring, if there is room for one.
    fn begin(&mut self, part: Part) -> Result<(), Fault> {
        self.address.clear();
        let limit = if part == Part::Content { self.room } else { self.longest_address };
        self.length = LengthReader::new(limit);
        self.place = Place::Length(part);
        match (self.inside, part) {
            (0, Part::Recipient) => self.place = Place::PackageComma,
            (0, Part::Content | Part::ReversePath) => return Err(Fault::Lengths),
            (_, _) => {}
        }
        Ok(())
    }

    /// A netstring is whole.
    fn end(&mut self, part: Part) -> Result<Option<Event<'static>>, Fault> {
        let event = match part {
            Part::Content => None,
            // It goes into commands to others as it is; recipients are judged with the rest of what is to know of them.
            Part::ReversePath => {
                let path = ReversePath::from_internal(&self.address).ok().filter(ReversePath::is_usable);
                Some(path.map(Event::ReversePath))
            }
            Part::Recipient => {
                self.has_recipient = true;
                Some(Address::from_internal(&self.address).map(Event::Recipient).ok())
            }
        };
        let event = match (event, self.framing) {
            (Some(None), Framing::Qmqp) => return Err(Fault::BadAddress),
            (Some(None), Framing::Qmtp) => Some(Event::NotAnAddress),
            (Some(event), _) => event,
            (None, _) => None,
        };
        match (part, self.framing) {
            (Part::Content, _) => self.begin(Part::ReversePath)?,
            (Part::ReversePath, Framing::Qmtp) => {
                self.length = LengthReader::new(RECIPIENTS);
                self.place = Place::PackageLength;
            }
            (Part::ReversePath | Part::Recipient, _) => self.begin(Part::Recipient)?,
        }
        Ok(event)
    }
}

/// A length that is no length is one fault, a length over the limit another.
fn of(fault: netstring::Fault, over: Fault) -> Fault {
    match fault {
        netstring::Fault::TooLong => over,
        netstring::Fault::NotALength => Fault::Format,
    }
}

#[cfg(test)]
mod tests;
