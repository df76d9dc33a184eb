//! What the tests of deliver do to a queue, and see of it.

use super::Scratch;
use super::watching::Watching;
use doorpost::message::path::{Address, ReversePath};
use doorpost::queue::{Head, Id, Message, Queue};
use std::fs;
use std::time::SystemTime;

pub const TRACE: &str = "Received: from client.example by mx.example; Thu, 1 Jan 2026 00:00:00 +0000\n";

pub fn queue_of(scratch: &Scratch) -> Queue {
    Queue::at(&scratch.queue())
}

/// Queues a message as submit does, without waking anybody.
pub fn enqueue(scratch: &Scratch, from: &str, to: &[&str], content: &[u8]) -> Id {
    fs::create_dir_all(scratch.queue().join("message")).unwrap();
    let mut draft = queue_of(scratch).begin().unwrap();
    draft.content(content).unwrap();
    draft.end_content().unwrap();
    for address in to {
        draft.recipient(&Address::from_internal(address.as_bytes()).unwrap()).unwrap();
    }
    let reverse_path = ReversePath::from_internal(from.as_bytes()).unwrap();
    let id = draft.commit(&Head { reverse_path, trace: TRACE.into(), channel: "local".into() }).unwrap();
    scratch.hand_over(&scratch.queue());
    scratch.settle();
    id
}

/// Takes a message.
pub fn take(scratch: &Scratch, id: &Id) -> Message {
    scratch.settle();
    queue_of(scratch).take(id).unwrap().expect("a message in the queue")
}

/// The files in the queue.
pub fn files(scratch: &Scratch) -> Vec<fs::DirEntry> {
    let folders = fs::read_dir(scratch.queue().join("message")).unwrap();
    folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap().map(Result::unwrap)).collect()
}

/// One sweep; gives its log.
pub fn deliver(scratch: &Scratch) -> String {
    scratch.settle();
    String::from_utf8_lossy(&scratch.deliver().stderr).into_owned()
}

pub fn reports(scratch: &Scratch, id: &Id) -> Vec<String> {
    take(scratch, id).recipients.into_iter().map(|recipient| recipient.report).collect()
}

pub fn next_try(scratch: &Scratch, id: &Id) -> SystemTime {
    let path = scratch.queue().join("message").join(&id.as_str()[14..]).join(id.as_str());
    fs::metadata(path).unwrap().modified().unwrap()
}

pub fn texts(scratch: &Scratch, user: &str) -> Vec<String> {
    scratch.mail(user).into_iter().map(|mail| String::from_utf8_lossy(&mail).into_owned()).collect()
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
