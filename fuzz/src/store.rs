//! A queue made of memory, which holds the servers to the order of calls that `doorpost::submit` asks for.
//!
//! What an address begins with says what becomes of it, so that a fuzzer can find each answer: `u` unknown user, `h`
//! unknown host, `p` not allowed, `b` bad, `t` cannot tell, `m` too many, `x` trouble. A reverse-path that begins with `x` is
//! trouble, with `l` too large, with `n` no room, with `y` trouble at the end. Content with `!trouble!` in it is.

use doorpost::exit::Error;
use doorpost::message::parameters::{MailParameters, RecipientParameters};
use doorpost::message::path::{Address, ReversePath};
use doorpost::submit::{AllOrNothing, Introduction, Outcome, Refusal, Submit, Verdict};

/// A message that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    pub introduction: Introduction,
    pub reverse_path: Vec<u8>,
    pub recipients: Vec<Vec<u8>>,
    pub content: Vec<u8>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    reverse_path: Option<Vec<u8>>,
    recipients: Vec<Vec<u8>>,
    content: Vec<u8>,
}

/// The queue, and what one client has handed in of a message.
#[derive(Debug, Default)]
pub struct Store {
    pub queued: Vec<Queued>,
    introduction: Option<Introduction>,
    message: Message,
    /// After trouble nothing is known any more, until an introduction.
    broken: bool,
    /// Why one that had to be taken was not.
    rejected: Option<Verdict>,
    /// QMQP sends the content first.
    content_first: bool,
}

impl Store {
    pub fn with_content_first() -> Store {
        Store { content_first: true, ..Store::default() }
    }

    /// The id of a queued message.
    pub fn id(number: usize) -> String {
        format!("id{number}")
    }

    /// Whether a message has been begun and not ended.
    pub fn is_waiting(&self) -> bool {
        self.message != Message::default()
    }

    fn trouble<T>(&mut self) -> Result<T, Error> {
        self.broken = true;
        self.message = Message::default();
        Err(Error::Temporary("as ordered".to_owned()))
    }
}

fn verdict(address: &Address) -> Option<Verdict> {
    Some(match address.as_bytes().first().map(u8::to_ascii_lowercase) {
        Some(b'u') => Verdict::UnknownUser,
        Some(b'h') => Verdict::UnknownHost,
        Some(b'p') => Verdict::NotAllowed,
        Some(b'b') => Verdict::BadAddress,
        Some(b't') => Verdict::CannotTell,
        Some(b'm') => Verdict::TooMany,
        Some(b'x') => return None,
        _ => Verdict::Accepted,
    })
}

impl AllOrNothing for &mut Store {
    fn require(&mut self, address: &Address) -> Result<(), Error> {
        let verdict = self.recipient(address)?;
        self.rejected = self.rejected.take().or(Some(verdict).filter(|verdict| *verdict != Verdict::Accepted));
        Ok(())
    }
}

impl Submit for &mut Store {
    fn introduce(&mut self, introduction: &Introduction) -> Result<(), Error> {
        assert!(!self.is_waiting(), "an introduction in a message");
        self.introduction = Some(introduction.clone());
        self.broken = false;
        Ok(())
    }

    fn verify(&mut self, address: &Address) -> Result<Verdict, Error> {
        assert!(self.introduction.is_some(), "asked before it said who asks");
        match verdict(address) {
            Some(verdict) if !self.broken => Ok(verdict),
            _ => self.trouble(),
        }
    }

    fn reverse_path_with(&mut self, path: &ReversePath, _said: &MailParameters) -> Result<(), Error> {
        assert!(self.introduction.is_some(), "a message before it said who sends it");
        assert!(self.message.reverse_path.is_none(), "two reverse-paths");
        if self.broken || path.as_bytes().starts_with(b"x") {
            return self.trouble();
        }
        self.message.reverse_path = Some(path.as_bytes().to_vec());
        Ok(())
    }

    fn recipient_with(&mut self, address: &Address, _said: &RecipientParameters) -> Result<Verdict, Error> {
        if self.broken {
            return self.trouble();
        }
        assert!(self.message.reverse_path.is_some(), "a recipient without a reverse-path");
        let Some(verdict) = verdict(address) else { return self.trouble() };
        if verdict == Verdict::Accepted {
            self.message.recipients.push(address.as_bytes().to_vec());
        }
        Ok(verdict)
    }

    fn content(&mut self, octets: &[u8]) -> Result<(), Error> {
        if self.broken {
            return self.trouble();
        }
        assert!(self.content_first != self.message.reverse_path.is_some(), "content at the wrong place");
        assert!(self.content_first || !self.message.recipients.is_empty(), "content for nobody");
        self.message.content.extend_from_slice(octets);
        if self.message.content.windows(9).any(|window| window == b"!trouble!") {
            return self.trouble();
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<Outcome, Error> {
        if self.broken {
            return self.trouble();
        }
        let message = std::mem::take(&mut self.message);
        let reverse_path = message.reverse_path.expect("committed with a reverse-path");
        let rejected = self.rejected.take().map(Refusal::Recipient);
        let refusal = match reverse_path.first() {
            _ if rejected.is_some() => rejected,
            _ if message.recipients.is_empty() => Some(Refusal::NoRecipients),
            Some(b'l') => Some(Refusal::TooLarge),
            Some(b'n') => Some(Refusal::NoRoom),
            Some(b'y') => return self.trouble(),
            _ => None,
        };
        if let Some(refusal) = refusal {
            return Ok(Outcome::Refused(refusal));
        }
        let introduction = self.introduction.clone().expect("committed after an introduction");
        let (recipients, content) = (message.recipients, message.content);
        self.queued.push(Queued { introduction, reverse_path, recipients, content });
        Ok(Outcome::Queued(Store::id(self.queued.len())))
    }

    fn reset(&mut self) -> Result<(), Error> {
        self.message = Message::default();
        Ok(())
    }
}
