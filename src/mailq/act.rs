//! Holding, releasing, deleting, requeueing and flushing messages, each under its lock, so that no deliver is at it.

use super::{Selection, names};
use crate::queue::{Error, Head, Message, Queue, RecipientState};
use std::io;
use std::time::SystemTime;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nobody tries it until it is released.
    Hold,
    /// It is due now, held before or not.
    Release,
    /// It is gone, and nobody is told.
    Delete,
    /// It is queued anew, with a new id and a lifetime that begins now, for those who do not have it.
    Requeue,
    /// What waits is due now; what is held stays.
    Flush,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// So many messages it was done to.
    pub done: usize,
    /// So many are being delivered at this moment.
    pub busy: usize,
}

/// Does it to every message of a selection.
pub fn act(queue: &Queue, act: Act, selection: &Selection) -> io::Result<Done> {
    let mut done = Done::default();
    for name in names(queue, selection)? {
        let trouble = |error: Error| io::Error::other(error.to_string());
        match queue.look(&name.id).map_err(trouble)? {
            Some(message) if selection.has(&message) => {}
            _ => continue,
        }
        let Some(message) = queue.take(&name.id).map_err(trouble)? else {
            done.busy += 1;
            continue;
        };
        if one(queue, act, message).map_err(trouble)? {
            log::info!("id={} event={}", name.id, word(act));
            done.done += 1;
        }
    }
    if done.done > 0 && matches!(act, Act::Release | Act::Requeue | Act::Flush) {
        queue.wake();
    }
    Ok(done)
}

fn word(act: Act) -> &'static str {
    match act {
        Act::Hold => "held",
        Act::Release => "released",
        Act::Delete => "deleted",
        Act::Requeue => "requeued",
        Act::Flush => "flushed",
    }
}

fn one(queue: &Queue, act: Act, mut message: Message) -> Result<bool, Error> {
    match act {
        Act::Hold => message.hold(true)?,
        Act::Release => {
            message.hold(false)?;
            message.defer_until(SystemTime::now())?;
        }
        Act::Delete => message.remove()?,
        Act::Requeue => requeue(queue, message)?,
        Act::Flush if message.is_held => return Ok(false),
        Act::Flush => message.defer_until(SystemTime::now())?,
    }
    Ok(true)
}

/// The new one is on disk before the old one goes, and has an id of its making, so that a repeat after a crash finds it. The
/// old one is held meanwhile: a crash that leaves both must not have both delivered (deliver/origin.rs).
fn requeue(queue: &Queue, mut message: Message) -> Result<(), Error> {
    message.hold(true)?;
    if let Some(mut draft) = queue.begin_derived(&message.id, "requeued")? {
        message.copy_to(&mut draft)?;
        let is_done = |state| matches!(state, RecipientState::Delivered | RecipientState::Returned);
        for recipient in message.recipients.iter().filter(|recipient| !is_done(recipient.state)) {
            draft.recipient_with(&recipient.address, &recipient.parameters)?;
        }
        for (name, value) in message.attributes.iter().filter(|(name, _)| name != crate::queue::ORIGIN) {
            draft.attribute(name, value)?;
        }
        let (reverse_path, channel) = (message.reverse_path.clone(), message.channel.clone());
        let id = draft.commit(&Head { reverse_path, trace: Vec::new(), channel })?;
        log::info!("id={} event=requeued into={id}", message.id);
    }
    message.remove()
}
