//! What another message gave rise to: a return, what an alias stands for, what was queued anew.
//!
//! Whoever queues such a message notes it in the other one next. Were it delivered and gone before that is noted, and the
//! first killed in between, the repeat would not find it and queue it again: two reports of one failure. Within one deliver
//! `backlog.rs` mostly gives the other message out first; this holds for several delivers too, of which one may be killed.

use crate::queue::{Error, Id, Message, Queue, RecipientState};

/// Which message gave rise to this one.
pub fn of(queue: &Queue, id: &Id) -> Option<Id> {
    let message = queue.look(id).ok()??;
    message.attribute(crate::queue::ORIGIN).and_then(taken_apart).map(|(parent, ..)| parent)
}

/// Whether the message that gave rise to this one has noted it, or is gone.
pub fn is_noted(queue: &Queue, message: &Message) -> Result<bool, Error> {
    let Some((parent, kind, number)) = message.attribute(crate::queue::ORIGIN).and_then(taken_apart) else {
        return Ok(true);
    };
    // Without its lock: a mark that says so stays.
    let Some(parent) = queue.look(&parent)? else { return Ok(true) };
    if kind == "requeued" {
        return finish_requeueing(queue, &parent.id, message);
    }
    let Some(recipient) = parent.recipients.get(number) else { return Ok(true) };
    Ok(match kind {
        "failure" | "success" | "double" => recipient.state == RecipientState::Returned,
        "delay" => recipient.is_warned,
        "expansion" => !matches!(recipient.state, RecipientState::Waiting | RecipientState::Trying),
        _ => true,
    })
}

/// The message itself is held while another is made of it, and removed then: a crash may have left both.
fn finish_requeueing(queue: &Queue, parent: &Id, message: &Message) -> Result<bool, Error> {
    let Some(parent) = queue.take(parent)? else { return Ok(false) };
    log::info!("id={} event=removed reason=\"queued anew as {}\"", parent.id, message.id);
    parent.remove()?;
    Ok(true)
}

/// `PARENT failure/3`.
fn taken_apart(origin: &str) -> Option<(Id, &str, usize)> {
    let (parent, what) = origin.split_once(' ')?;
    let (kind, number) = what.split_once('/').unwrap_or((what, "0"));
    Some((parent.parse().ok()?, kind, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn an_origin_is_taken_apart() {
        let id = Id::new(SystemTime::now());
        assert_eq!(taken_apart(&format!("{id} failure/12")), Some((id, "failure", 12)));
        assert_eq!(taken_apart(&format!("{id} requeued")), Some((id, "requeued", 0)));
        for odd in ["", "x failure/1", "failure/1"] {
            assert_eq!(taken_apart(odd), None);
        }
        assert_eq!(taken_apart(&format!("{id} failure/x")), None);
    }
}
