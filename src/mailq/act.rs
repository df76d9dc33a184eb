//! Holding, releasing, deleting, requeueing and flushing messages, each under its lock, so that no deliver is at it.

use super::{Selection, names};
use crate::config::Config;
use crate::queue::{Error, Head, Id, Message, NotTaken, ORIGIN, Queue};
use crate::submit::{FILTER, filter_now};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
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
    /// With so many there was trouble; the log has it.
    pub failed: usize,
    /// So many files are no messages any more, and are left alone.
    pub damaged: usize,
    /// So many folders could not be looked into.
    pub closed: usize,
}

/// Does it to every message of a selection. One that makes trouble keeps none of the others from it.
pub fn act(queue: &Queue, config: &Config, act: Act, selection: &Selection) -> io::Result<Done> {
    let (names, closed) = names(queue, selection)?;
    let mut done = Done { closed, ..Done::default() };
    for name in names {
        match try_one(queue, config, act, selection, &name.id) {
            Ok(Some(count)) => *count(&mut done) += 1,
            Ok(None) => {}
            Err(error) => {
                log::error!("id={} event=not-{} reason={:?}", name.id, word(act), error.to_string());
                done.failed += 1;
            }
        }
    }
    if done.done > 0 && matches!(act, Act::Release | Act::Requeue | Act::Flush) {
        queue.wake();
    }
    Ok(done)
}

/// What a message counts as.
type Count = fn(&mut Done) -> &mut usize;

fn try_one(queue: &Queue, config: &Config, act: Act, selection: &Selection, id: &Id) -> Result<Option<Count>, Error> {
    let seen = queue.look(id)?;
    if !seen.as_ref().map_or_else(|| selection.has_any(id), |message| selection.has(message)) {
        return Ok(None);
    }
    let message = match queue.try_take(id)? {
        Ok(message) => message,
        Err(NotTaken::Gone) => return Ok(None),
        // Nobody delivers what is no message yet: it is being written.
        Err(NotTaken::Locked) if seen.is_none() => return Ok(None),
        Err(NotTaken::Locked) => return Ok(Some(|done| &mut done.busy)),
        Err(NotTaken::Damaged) => return Ok(Some(|done| &mut done.damaged)),
    };
    do_to(queue, config, act, selection, message)
}

fn do_to(
    queue: &Queue,
    config: &Config,
    act: Act,
    selection: &Selection,
    message: Message,
) -> Result<Option<Count>, Error> {
    let id = message.id;
    // Between the look and the lock a recipient that the pattern meant may have got it.
    if !selection.has(&message) {
        return Ok(None);
    }
    let Some(event) = one(queue, config, act, message)? else { return Ok(None) };
    log::info!("id={id} event={event}");
    Ok(Some(|done| &mut done.done))
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

/// Gives what the log is to say that was done, if anything was.
fn one(queue: &Queue, config: &Config, act: Act, mut message: Message) -> Result<Option<&'static str>, Error> {
    match act {
        Act::Hold => message.hold(true)?,
        // Both would be delivered: this one is left over of a requeueing that did not come to its end.
        Act::Release if queue.has_derived(&message.id, REQUEUED)? => {
            message.remove()?;
            return Ok(Some("removed reason=\"it was queued anew\""));
        }
        Act::Release => {
            message.hold(false)?;
            message.defer_until(SystemTime::now())?;
        }
        Act::Delete => message.remove()?,
        Act::Requeue => uninterrupted(|| requeue(queue, config, message))?,
        Act::Flush if message.is_held => return Ok(None),
        Act::Flush => message.defer_until(SystemTime::now())?,
    }
    Ok(Some(word(act)))
}

/// What the id of a message is made of that was queued anew (deliver/origin.rs).
const REQUEUED: &str = "requeued";

/// Whoever has seen enough (^C), or is logged out, is heard between two messages: one that is only held yet would be so for
/// ever.
fn uninterrupted<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let mut signals = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT].into_iter().for_each(|one| signals.add(one));
    let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let done = work();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    done
}

/// The new one is on disk before the old one goes, and has an id of its making, so that a repeat after a crash finds it. The
/// old one is held meanwhile: a crash that leaves both must not have both delivered (deliver/origin.rs).
fn requeue(queue: &Queue, config: &Config, mut message: Message) -> Result<(), Error> {
    let was_held = message.is_held;
    message.hold(true)?;
    if let Err(error) = anew(queue, config, &message) {
        // It waits as before, unless there is another after all.
        let is_alone = queue.has_derived(&message.id, REQUEUED).is_ok_and(|is_there| !is_there);
        let is_as_before = was_held || (is_alone && message.hold(false).is_ok());
        if !is_as_before {
            log::error!("id={} event=left-held reason=\"it could not be queued anew\"", message.id);
        }
        return Err(error);
    }
    message.remove()
}

fn anew(queue: &Queue, config: &Config, message: &Message) -> Result<(), Error> {
    let Some(mut draft) = queue.begin_derived(&message.id, REQUEUED)? else { return Ok(()) };
    message.copy_to(&mut draft)?;
    for recipient in super::waiting(message) {
        draft.recipient_with(&recipient.address, &recipient.parameters)?;
    }
    let filter = filter_now(config, message);
    for (name, value) in &message.attributes {
        match (name.as_str(), filter) {
            (ORIGIN, _) | (FILTER, None) => {}
            (FILTER, Some(filter)) => draft.attribute(name, filter)?,
            _ => draft.attribute(name, value)?,
        }
    }
    let (reverse_path, channel) = (message.reverse_path.clone(), message.channel.clone());
    let id = draft.commit(&Head { reverse_path, trace: Vec::new(), channel })?;
    log::info!("id={} event=requeued into={id}", message.id);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::path::{Address, ReversePath};
    use crate::queue::RecipientState;
    use crate::submit::BEFORE_QUEUE;

    #[test]
    fn a_message_that_is_not_meant_any_more_once_it_is_locked_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::open(&folder.path().join("queue")).unwrap();
        let mut draft = queue.begin().unwrap();
        for address in ["bob@mx.example", "carol@mx.example"] {
            draft.recipient(&Address::from_internal(address.as_bytes()).unwrap()).unwrap();
        }
        let head = Head { reverse_path: ReversePath::NULL, trace: Vec::new(), channel: "local".to_owned() };
        let id = draft.commit(&head).unwrap();
        let selection = Selection::Matching(vec!["bob@*".to_owned()]);
        assert!(selection.has(&queue.look(&id).unwrap().unwrap()));
        let mut message = queue.take_at_last(&id);
        message.mark(0, RecipientState::Trying, "", false).unwrap();
        message.mark(0, RecipientState::Delivered, "2.0.0 delivered", true).unwrap();
        assert!(do_to(&queue, &Config::with(&[]), Act::Delete, &selection, message).unwrap().is_none());
        assert!(queue.look(&id).unwrap().is_some());
    }

    #[test]
    fn what_was_queued_anew_is_said_to_be_removed_and_not_released() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::open(&folder.path().join("queue")).unwrap();
        let head = || Head { reverse_path: ReversePath::NULL, trace: Vec::new(), channel: "local".to_owned() };
        let mut draft = queue.begin().unwrap();
        draft.recipient(&Address::from_internal(b"bob@mx.example").unwrap()).unwrap();
        let id = draft.commit(&head()).unwrap();
        let released = |id| one(&queue, &Config::with(&[]), Act::Release, queue.take_at_last(id)).unwrap();
        assert_eq!(released(&id), Some("released"));
        let parent = queue.take_at_last(&id);
        anew(&queue, &Config::with(&[]), &parent).unwrap();
        drop(parent);
        assert_eq!(released(&id), Some("removed reason=\"it was queued anew\""));
        assert!(queue.look(&id).unwrap().is_none());
    }

    /// As in Postfix `content_filter =` and queueing anew free what waits for a filter that is gone.
    #[test]
    fn what_is_queued_anew_goes_to_the_filter_in_force_and_what_has_none_to_none() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::open(&folder.path().join("queue")).unwrap();
        let (old, new) = ("smtp:[127.0.0.1]:1", "smtp:[127.0.0.1]:2");
        for (filter, is_left, settings, expected) in [
            (Some(old), false, &[][..], None),
            (Some(old), false, &[("content_filter", new)], Some(new)),
            (Some(old), false, &[("before_queue_filter", new)], None),
            (None, false, &[("content_filter", new)], None),
            (Some(old), true, &[("before_queue_filter", new)], Some(new)),
            (Some(old), true, &[("before_queue_filter", "qmail-queue:/bin/true")], Some(old)),
            (Some(old), true, &[], None),
            (Some(old), true, &[("content_filter", new)], Some(new)),
        ] {
            let mut draft = queue.begin().unwrap();
            draft.recipient(&Address::from_internal(b"bob@mx.example").unwrap()).unwrap();
            filter.iter().for_each(|filter| draft.attribute(FILTER, filter).unwrap());
            if is_left {
                draft.attribute(BEFORE_QUEUE, "yes").unwrap();
            }
            draft.attribute("uid", "1000").unwrap();
            let head = Head { reverse_path: ReversePath::NULL, trace: Vec::new(), channel: "local".to_owned() };
            let message = queue.take_at_last(&draft.commit(&head).unwrap());
            requeue(&queue, &Config::with(settings), message).unwrap();
            let message = queue.take_at_last(&queue.names().unwrap()[0].id);
            assert_eq!(message.attribute(FILTER), expected, "{filter:?} {is_left} {settings:?}");
            assert_eq!(message.attribute("uid"), Some("1000"));
            message.remove().unwrap();
        }
    }
}
