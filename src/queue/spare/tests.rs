use super::*;
use crate::message::path::{Address, ReversePath};
use crate::queue::layout::{self, CONTENT, HEADER};
use crate::queue::{Head, RecipientState};
use nix::sys::time::TimeVal;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};

fn queue() -> (tempfile::TempDir, Queue) {
    let folder = tempfile::tempdir().unwrap();
    let queue = Queue::open(&folder.path().join("queue")).unwrap();
    (folder, queue)
}

fn stock(queue: &Queue) -> Vec<Id> {
    let drafts = queue.make_spares().unwrap().0;
    let ids = drafts.iter().map(|draft| *draft.id()).collect();
    queue.spares.lock().unwrap().drafts = drafts;
    ids
}

fn put(queue: &Queue, content: &[u8]) -> Id {
    let mut draft = queue.begin().unwrap();
    draft.recipient(&Address::from_internal(b"bob@mx.example").unwrap()).unwrap();
    draft.content(content).unwrap();
    let head =
        Head { reverse_path: ReversePath(None), trace: b"Received: now\n".to_vec(), channel: "local".to_owned() };
    draft.commit(&head).unwrap()
}

fn content(queue: &Queue, id: &Id) -> Vec<u8> {
    let mut octets = Vec::new();
    queue.take_at_last(id).content().read_to_end(&mut octets).unwrap();
    octets[b"Received: now\n".len()..].to_vec()
}

fn make_old(queue: &Queue, id: &Id) {
    let hours_ago = SystemTime::now() - Duration::from_secs(7200);
    let seconds = hours_ago.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let time = TimeVal::new(i64::try_from(seconds).unwrap(), 0);
    nix::sys::stat::utimes(&queue.path_of(id), &time, &time).unwrap();
}

#[test]
fn messages_of_every_length_go_into_prepared_files_and_come_back() {
    let (_folder, queue) = queue();
    // What is in a small one, what just fits or just does not, what is written in pieces.
    let envelope = 2000;
    for length in [0, 1, 2000, OCTETS - 2112 - envelope, OCTETS - 2112, OCTETS, 70_000, 300_000] {
        let ids = stock(&queue);
        assert_eq!(ids.iter().map(Id::folder).collect::<std::collections::BTreeSet<_>>().len(), 1);
        let text: Vec<u8> = (0..length).map(|at| b"mail and \n"[at % 10]).collect();
        let id = put(&queue, &text);
        assert!(ids.contains(&id), "{length}");
        assert_eq!(content(&queue, &id), text);
        // It is a message like any other: seen without its lock, marked, removed.
        assert!(queue.look(&id).unwrap().is_some());
        let mut message = queue.take_at_last(&id);
        message.mark(0, RecipientState::Delivered, "", true).unwrap();
        drop(message);
        let message = queue.take_at_last(&id);
        assert_eq!(message.recipients[0].state, RecipientState::Delivered);
        message.remove().unwrap();
        assert!(!queue.path_of(&id).exists());
    }
}

#[test]
fn a_prepared_file_is_no_message_and_goes_with_its_queue() {
    let (_folder, queue) = queue();
    let ids = stock(&queue);
    let other = Queue::at(&queue.path);
    for id in &ids {
        assert!(other.take(id).unwrap().is_none());
        assert!(other.look(id).unwrap().is_none());
        // Nobody takes away what its owner still has, however old.
        make_old(&queue, id);
        assert!(other.take(id).unwrap().is_none());
    }
    assert_eq!(other.names().unwrap().len(), COUNT);
    drop(queue);
    assert_eq!(other.names().unwrap(), []);
}

/// Mailboxes and lists of the queue sort by them.
#[test]
fn names_ascend_as_messages_come() {
    let (_folder, queue) = queue();
    let prepared = stock(&queue);
    let ids: Vec<Id> = (0..COUNT).map(|_| put(&queue, b"x\n")).collect();
    assert_eq!(ids, prepared);
    assert!(ids.is_sorted() && put(&queue, b"x\n") > ids[COUNT - 1]);
}

/// deliver looks again soon at what is being written, and not at what may never be.
#[test]
fn what_is_only_prepared_is_not_there_yet() {
    let (_folder, queue) = queue();
    let ids = stock(&queue);
    assert!(!queue.has(&ids[0]));
    assert!(put(&queue, b"x\n") == ids[0] && queue.has(&ids[0]));
}

#[test]
fn one_that_is_old_or_gone_is_not_used() {
    let (_folder, queue) = queue();
    let ids = stock(&queue);
    for id in &ids[..COUNT - 1] {
        fs::remove_file(queue.path_of(id)).unwrap();
    }
    assert_eq!(put(&queue, b"x\n"), ids[COUNT - 1]);
    let ids = stock(&queue);
    assert!(queue.spare(SystemTime::now() + OLDEST).is_none());
    assert!(ids.iter().all(|id| !queue.path_of(id).exists()));
    // Nor one of a time that has not come.
    stock(&queue);
    assert!(queue.spare(SystemTime::now() - OLDEST).is_none());
    assert_eq!(content(&queue, &put(&queue, b"x\n")), b"x\n");
}

/// A power cut between the first sector on disk and the last: nobody was told that the message is taken.
#[test]
fn a_message_that_did_not_reach_all_its_sectors_is_incomplete_and_a_damaged_one_is_not() {
    let (_folder, queue) = queue();
    let text: Vec<u8> = (0..5000).map(|at| b"mail and \n"[at % 10]).collect();
    for sector in [0, 4, 7, 11, 13, 14] {
        stock(&queue);
        let id = put(&queue, &text);
        let file = fs::OpenOptions::new().write(true).open(queue.path_of(&id)).unwrap();
        let (begin, end) = (u64::max(sector * 512, HEADER as u64), (sector + 1) * 512);
        let mut octets = vec![0; usize::try_from(end - begin).unwrap()];
        layout::blank(&id, begin, &mut octets);
        file.write_all_at(&octets, begin).unwrap();
        let is_content = end > CONTENT - 14;
        assert_eq!(queue.try_take_at_last(&id).is_err(), is_content, "{sector}");
        assert!(queue.path_of(&id).exists(), "{sector}");
        make_old(&queue, &id);
        assert_eq!(queue.try_take_at_last(&id).is_err(), is_content);
        assert_eq!(queue.path_of(&id).exists(), !is_content, "{sector}");
    }
    stock(&queue);
    let id = put(&queue, &text);
    let file = fs::OpenOptions::new().write(true).open(queue.path_of(&id)).unwrap();
    file.write_all_at(b"X", CONTENT + 100).unwrap();
    make_old(&queue, &id);
    assert!(queue.try_take_at_last(&id).is_err());
    assert!(queue.path_of(&id).exists(), "somebody may still want to read it");
}

#[test]
fn what_was_prepared_goes_when_no_message_comes() {
    let (_folder, queue) = queue();
    stock(&queue);
    assert_eq!(queue.names().unwrap().len(), COUNT);
    queue.unprepare();
    assert_eq!(queue.names().unwrap(), []);
}

#[test]
fn files_are_prepared_where_messages_come_fast() {
    let (_folder, queue) = queue();
    queue.prepare();
    assert_eq!(queue.names().unwrap(), [], "one message says nothing of the next");
    queue.prepare();
    let inodes = |queue: &Queue| queue.names().unwrap().iter().map(|name| name.inode).collect::<Vec<_>>();
    let prepared = inodes(&queue);
    assert_eq!(prepared.len(), COUNT);
    queue.prepare();
    assert_eq!(inodes(&queue), prepared, "as long as one is left");
    for _ in 0..COUNT {
        assert!(prepared.contains(&fs::metadata(queue.path_of(&put(&queue, b"x\n"))).unwrap().ino()));
    }
    assert!(!prepared.contains(&fs::metadata(queue.path_of(&put(&queue, b"x\n"))).unwrap().ino()));
    queue.spares.lock().unwrap().gains_nothing = true;
    queue.prepare();
    assert_eq!(queue.names().unwrap().len(), COUNT + 1);
}

/// In a process of its own, for the limit is that of a whole process.
#[test]
fn a_batch_that_cannot_be_made_to_its_end_leaves_nothing() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::sys::wait::{WaitStatus, waitpid};
    let (_folder, queue) = queue();
    let child = crate::sys::fork(|| {
        // Locks of other tests among them, which would find their messages locked while this one works.
        crate::sys::close_between(3, u32::MAX);
        let limited = getrlimit(Resource::RLIMIT_NOFILE)
            .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard.min(512), hard));
        if limited.is_err() {
            return 1;
        }
        // So many descriptors are free as a part of the batch needs.
        let mut open: Vec<_> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
        open.truncate(open.len().saturating_sub(6));
        let (before, made) = (queue.names().map(|names| names.len()), queue.make_spares().map(|_| ()));
        let left = queue.names().map(|names| names.len());
        match (before, made.map_err(|error| error.raw_os_error()), left) {
            (Ok(0), Err(Some(libc::EMFILE)), Ok(0)) => 0,
            _ => 2,
        }
    });
    let ended = waitpid(child.unwrap(), None).unwrap();
    assert!(matches!(ended, WaitStatus::Exited(_, 0)), "{ended:?}");
    assert!(stock(&queue).len() == COUNT);
}

#[test]
fn what_could_not_be_prepared_is_tried_again_later() {
    let (_folder, queue) = queue();
    fs::remove_dir_all(queue.path.join("message")).unwrap();
    fs::write(queue.path.join("message"), "").unwrap();
    queue.prepare();
    queue.prepare();
    assert!(queue.spares.lock().unwrap().drafts.is_empty());
    assert!(queue.spares.lock().unwrap().last.is_none(), "it is tried again when two more messages have come");
}
