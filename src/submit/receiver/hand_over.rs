//! A message for the filter before the queue (`before_queue.rs`): given to it, and queued for those whom it left.

use super::{Receiver, refusal};
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::Address;
use crate::queue::{self, Draft, Head};
use crate::submit::frames::LONGEST_CONTENT;
use crate::submit::{BEFORE_QUEUE, FILTER, Refusal, before_queue};
use std::io::Read;

impl Receiver<'_> {
    /// Has `before_queue_filter` take the message. The draft is only where it lay meanwhile, and never queued.
    pub(super) fn hand_over(
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
        kept.attribute(FILTER, self.config.before_queue_filter.host())?;
        kept.attribute(BEFORE_QUEUE, "yes")?;
        let id = kept.commit(head)?;
        log::info!("id={} event=kept into={id} nrcpt={}", draft.id(), recipients.len());
        self.wake_for(id.as_str());
        Ok(())
    }
}
