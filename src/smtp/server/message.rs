//! Taking a message: from the 354 to the reply for it.
//!
//! Whatever becomes of it, a message is read to its end, or the rest would be taken for commands; only a line end that
//! is none, or the end of the connection, ends it early.

use super::{PIECE, Server, field};
use crate::exit::Ended;
use crate::net::connection::{Fault, Stream};
use crate::smtp::reply::Reply;
use crate::smtp::site::Site;
use crate::submit::{Outcome, Submit};
use crate::wire::dot::{Text, Unstuffer};

/// What becomes of the message that is being received.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Submitted,
    TooLarge,
    Trouble,
}

impl<S: Stream, M: Submit, W: Site> Server<'_, S, M, W> {
    pub(super) fn take_message(&mut self) -> Result<Option<Ended>, Fault> {
        self.say(Reply::START);
        let mut text = Unstuffer::new();
        let mut piece = Vec::with_capacity(2 * PIECE);
        let mut fate = Fate::Submitted;
        let mut budget = 0;
        loop {
            if self.start == self.end {
                budget = self.renew(budget);
                if self.fill()? == 0 {
                    return Err(Fault::HungUp);
                }
                budget = budget.saturating_sub((self.end - self.start) as u64);
            }
            let (taken, found) = text.push(&self.input[self.start..self.end], &mut piece);
            self.start += taken;
            if fate == Fate::Submitted && self.session.is_too_large(text.size()) {
                self.abandon();
                fate = Fate::TooLarge;
            }
            if piece.len() >= PIECE || found == Text::End {
                fate = self.pass_on(&mut piece, fate);
            }
            match found {
                Text::More => {}
                Text::End => break,
                Text::BareLineEnd => return Ok(Some(self.refuse(Reply::BARE_LINE_END_IN_MESSAGE))),
            }
        }
        let reply = self.conclude(fate, text.size());
        self.say(reply);
        Ok(None)
    }

    /// A client may be silent for `timeout`, and must send `min_data_rate` times that much in it. Gives how many octets
    /// it is to send before its time is renewed.
    fn renew(&mut self, budget: u64) -> u64 {
        if budget > 0 {
            return budget;
        }
        self.stream.allow(self.settings.timeout);
        self.settings.min_data_rate.saturating_mul(self.settings.timeout.as_secs())
    }

    /// Hands a piece of the message to submit, or drops it if the message is refused already.
    fn pass_on(&mut self, piece: &mut Vec<u8>, fate: Fate) -> Fate {
        let mut fate = fate;
        if fate == Fate::Submitted
            && !piece.is_empty()
            && let Err(error) = self.submit.content(piece)
        {
            self.trouble_with_message(&error);
            fate = Fate::Trouble;
        }
        piece.clear();
        fate
    }

    fn conclude(&mut self, fate: Fate, size: u64) -> Reply {
        let reply = match fate {
            Fate::TooLarge => Reply::TOO_LARGE,
            Fate::Trouble => Reply::TROUBLE,
            Fate::Submitted => match self.submit.commit() {
                Ok(outcome) => {
                    self.begun = false;
                    self.log_outcome(&outcome, size);
                    Reply::outcome(&outcome)
                }
                Err(error) => self.trouble_with_message(&error),
            },
        };
        let queued = reply.code == 250;
        if !queued {
            self.log_refusal(&reply);
        }
        self.session.message_over(queued);
        reply
    }

    fn log_outcome(&mut self, outcome: &Outcome, size: u64) {
        if let (Outcome::Queued(id), Some((reverse_path, count))) = (outcome, self.session.envelope()) {
            self.queued = self.queued.saturating_add(1);
            let (client, from) = (&self.client, reverse_path.to_string());
            log::info!("client={client} event=queued id={id} from={} size={size} nrcpt={count}", field(&from));
        }
    }
}
