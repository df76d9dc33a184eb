//! Taking a message: from the 354 to the reply for it.
//!
//! Whatever becomes of it, a message is read to its end, or the rest would be taken for commands; only a line end that
//! is none, or the end of the connection, ends it early.

use super::{PIECE, Server, field};
use crate::exit::Ended;
use crate::lookup::Listed;
use crate::net::FIRST_ROOM;
use crate::net::connection::Fault;
use crate::smtp::reply::Reply;
use crate::smtp::session::Dialect;
use crate::submit::Outcome;
use crate::wire::dot::{Text, Unstuffer};

/// What becomes of the message that is being received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Submitted,
    Refused(Reply),
}

impl Server<'_> {
    pub(super) fn take_message(&mut self) -> Result<Option<Ended>, Fault> {
        self.say(Reply::start());
        self.begin_content();
        let mut text = if self.bare_newline == Listed::Yes { Unstuffer::lenient() } else { Unstuffer::new() };
        // As much as is read at once at first; most messages are no larger.
        let mut piece = Vec::with_capacity(FIRST_ROOM);
        let mut fate = Fate::Submitted;
        let mut budget = 0;
        loop {
            if self.input.is_empty() {
                budget = self.renew(budget);
                if self.fill()? == 0 {
                    return Err(Fault::HungUp);
                }
                budget = budget.saturating_sub(self.input.octets().len() as u64);
            }
            let (taken, found) = text.push(self.input.octets(), &mut piece);
            self.input.advance(taken);
            if fate == Fate::Submitted && self.session.is_too_large(text.size()) {
                self.abandon();
                fate = Fate::Refused(Reply::too_large());
            }
            if piece.len() >= PIECE || found == Text::End {
                fate = self.pass_on(&mut piece, fate, found == Text::End);
            }
            match found {
                Text::More => {}
                Text::End => break,
                Text::BareLineEnd => {
                    let reply = self.of_bare(Reply::bare_line_end_in_message(), Reply::cannot_tell_yet());
                    return Ok(Some(self.refuse_message(&reply)));
                }
            }
        }
        self.conclude(fate, text.size(), false);
        Ok(None)
    }

    /// A client may be silent for `timeout`, and must send `min_data_rate` times that much in it. Gives how many octets
    /// it is to send before its time is renewed.
    pub(super) fn renew(&mut self, budget: u64) -> u64 {
        if budget > 0 {
            return budget;
        }
        self.stream.allow(self.settings.timeout);
        self.settings.min_data_rate.saturating_mul(self.settings.timeout.as_secs())
    }

    /// Hands a piece of the message to submit, or drops it if the message is refused already. `last`: the end of the
    /// message is in it.
    pub(super) fn pass_on(&mut self, piece: &mut Vec<u8>, fate: Fate, last: bool) -> Fate {
        let mut fate = fate;
        if fate == Fate::Submitted
            && let Err(reply) = self.look_at_header(piece, last)
        {
            fate = Fate::Refused(reply);
        }
        if fate == Fate::Submitted
            && !piece.is_empty()
            && let Err(error) = self.submit.content(piece)
        {
            fate = Fate::Refused(self.trouble_with_message(&error));
        }
        piece.clear();
        fate
    }

    /// Asks for the message to be put on disk, and answers; in LMTP once for each recipient (RFC 2033 section 4.2), but
    /// for a chunk that is not the last one (`once`).
    pub(super) fn conclude(&mut self, fate: Fate, size: u64, once: bool) {
        let reply = match fate {
            Fate::Refused(reply) => {
                self.abandon();
                reply
            }
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
        let count = if once { 1 } else { self.replies() };
        if once {
            self.session.chunk_refused();
        } else {
            self.session.message_over(queued);
        }
        (self.chunks, self.header) = (None, None);
        self.say_to_each(&reply, count);
    }

    /// The same for one that is not read to its end: the client hears of all its recipients before we close, but for a 421,
    /// which is about the connection.
    fn refuse_message(&mut self, reply: &Reply) -> Ended {
        self.log_refusal(reply);
        let count = if reply.code == 421 { 1 } else { self.replies() };
        self.say_to_each(reply, count);
        Ended::Refused
    }

    /// How many replies there are to the message at hand.
    fn replies(&self) -> u32 {
        let is_lmtp = self.session.dialect() == Dialect::Lmtp;
        self.session.envelope().filter(|_| is_lmtp).map_or(1, |(_, count)| count)
    }

    fn log_outcome(&mut self, outcome: &Outcome, size: u64) {
        if let (Outcome::Queued(id), Some((reverse_path, count))) = (outcome, self.session.envelope()) {
            self.queued = self.queued.saturating_add(1);
            if !log::log_enabled!(log::Level::Info) {
                return;
            }
            let (client, from, user) = (&self.client, reverse_path, self.user());
            log::info!("client={client} event=queued id={id} from={} size={size} nrcpt={count}{user}", field(from));
        }
    }
}
