//! What the tests of deliver do to a queue, and see of it.

use super::Scratch;
use super::watching::Watching;
use doorpost::queue::{Id, Message, Queue};
use std::fs;
use std::time::SystemTime;

pub fn queue_of(scratch: &Scratch) -> Queue {
    Queue::at(&scratch.queue())
}

/// Takes a message.
pub fn take(scratch: &Scratch, id: &Id) -> Message {
    scratch.settle();
    super::unless_kept(&queue_of(scratch), id).expect("a message in the queue")
}

pub fn reports(scratch: &Scratch, id: &Id) -> Vec<String> {
    take(scratch, id).recipients.into_iter().map(|recipient| recipient.report).collect()
}

pub fn next_try(scratch: &Scratch, id: &Id) -> SystemTime {
    let path = scratch.queue().join("message").join(&id.as_str()[14..]).join(id.as_str());
    fs::metadata(path).unwrap().modified().unwrap()
}

pub fn deliver_these(scratch: &Scratch, ids: &[&Id]) {
    scratch.settle();
    let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    let output = scratch.run("deliver", &ids, b"");
    assert!(output.status.success(), "{output:?}");
}

/// In the way of a user's mailbox, so that it cannot be written.
pub fn block(scratch: &Scratch, user: &str) {
    fs::write(scratch.maildir(user), "no folder").unwrap();
}

pub fn unblock(scratch: &Scratch, user: &str) {
    fs::remove_file(scratch.maildir(user)).unwrap();
}

pub fn start_watching(scratch: &Scratch) -> Watching {
    scratch.settle();
    Watching::start(scratch)
}
