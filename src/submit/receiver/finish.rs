//! The end of a message: all that is known of it now is written, and it is put on disk, or there is none.

use super::{Receiver, TooMany};
use crate::clock;
use crate::logging::field;
use crate::message::header;
use crate::message::parameters::Body;
use crate::message::trace::Received;
use crate::queue::{self, Draft, Head};
use crate::submit::Refusal;

impl Receiver<'_> {
    pub(super) fn end_content(&mut self) -> Result<(), TooMany> {
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
        if message.hops.hops().saturating_add(1) >= self.config.hopcount_limit {
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

    pub(super) fn put_on_disk(&mut self) -> Result<String, Refusal> {
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
                let client = self.introduction.as_ref().map_or("", |introduction| &introduction.client.address);
                let (from, client, channel) = (field(&head.reverse_path), field(&client), field(&head.channel));
                log::info!(
                    "event=queued id={id} from={from} nrcpt={recipients} size={size} client={client} channel={channel}"
                );
                Ok(id.to_string())
            }
            Err(error) => Err(refusal(&error)),
        }
    }
}

/// What the client is told of trouble in the queue; the log has the rest.
pub(super) fn refusal(error: &queue::Error) -> Refusal {
    log::error!("queue: {error}");
    match error {
        queue::Error::Full => Refusal::NoRoom,
        queue::Error::TooMany | queue::Error::Io(_) => Refusal::Trouble,
    }
}
