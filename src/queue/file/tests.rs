//! What is written is read; what is incomplete, torn, cut or flipped is refused.

use super::*;
use crate::message::parameters::{MailParameters, Orcpt, RecipientParameters};
use crate::message::path::{Address, LONGEST_ADDRESS, ReversePath};
use crate::queue::layout::{self, CONTENT, HEADER, Lines, SLOT};
use crate::queue::{EARLY_ROOM, Error, Head, Id, Queue};
use crc32fast::Hasher;
use proptest::prelude::*;
use std::fs::{self, File};
use std::io;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

fn queue() -> (tempfile::TempDir, Queue) {
    let folder = tempfile::tempdir().unwrap();
    let queue = Queue::open(&folder.path().join("queue")).unwrap();
    (folder, queue)
}

fn address(text: &str) -> Address {
    Address::from_internal(text.as_bytes()).unwrap()
}

fn head() -> Head {
    Head {
        reverse_path: ReversePath(Some(address("alice@client.example"))),
        trace: b"Received: by mx.example; now\n".to_vec(),
        channel: "local".to_owned(),
    }
}

fn path_of(queue: &Queue, id: &Id) -> PathBuf {
    queue.path.join("message").join(id.folder()).join(id.as_str())
}

fn content_of(message: &Message) -> Vec<u8> {
    let mut content = Vec::new();
    message.content().read_to_end(&mut content).unwrap();
    content
}

fn put(queue: &Queue, content: &[u8], recipients: &[&str]) -> Id {
    let mut draft = queue.begin().unwrap();
    recipients.iter().for_each(|recipient| draft.recipient(&address(recipient)).unwrap());
    draft.content(content).unwrap();
    draft.commit(&head()).unwrap()
}

#[test]
fn a_committed_message_is_read_back() {
    let (_folder, queue) = queue();
    let id = put(&queue, b"Subject: hi\n\nbody\n", &["bob@mx.example", "carol@mx.example"]);
    let message = queue.take_at_last(&id);
    assert_eq!(content_of(&message), b"Received: by mx.example; now\nSubject: hi\n\nbody\n");
    assert_eq!(message.size, 47);
    assert_eq!((message.reverse_path.clone(), message.channel.as_str()), (head().reverse_path, "local"));
    assert_eq!(message.lines, Lines::Lf);
    let recipients: Vec<_> = message.recipients.iter().map(|r| (r.address.clone(), r.state, r.attempts)).collect();
    let waiting = RecipientState::Waiting;
    assert_eq!(recipients, [(address("bob@mx.example"), waiting, 0), (address("carol@mx.example"), waiting, 0)]);
    assert!(message.created.elapsed().unwrap() < Duration::from_secs(60));
}

#[test]
fn content_that_has_shrunk_ends_in_an_error_that_says_so() {
    let (_folder, queue) = queue();
    let id = put(&queue, b"Subject: x\n\nhello\n", &["bob@mx.example"]);
    let message = queue.take_at_last(&id);
    let beginning = message.beginning(9).unwrap();
    assert_eq!(beginning, b"Received:");
    assert_eq!(message.beginning(1000).unwrap(), content_of(&message));
    File::options().write(true).open(path_of(&queue, &id)).unwrap().set_len(CONTENT + 3).unwrap();
    let mut read = Vec::new();
    let error = message.content().read_to_end(&mut read).unwrap_err();
    assert_eq!((error.kind(), read.ends_with(b"Sub")), (io::ErrorKind::UnexpectedEof, true));
    assert!(message.beginning(1000).is_err());
    assert_eq!(message.beginning(9).unwrap(), beginning);
}

#[test]
fn attributes_come_back() {
    let (_folder, queue) = queue();
    let plain = put(&queue, b"x\n", &["bob@mx.example"]);
    let mut draft = queue.begin().unwrap();
    draft.recipient(&address("bob@mx.example")).unwrap();
    draft.content(b"x\n").unwrap();
    let before = draft.size();
    draft.attribute("content_filter", "smtp:[127.0.0.1]:10025").unwrap();
    draft.attribute("empty", "").unwrap();
    assert_eq!(draft.size(), before + 2 + 37 + 2 + 6);
    assert!(draft.attribute("long", &"x".repeat(5000)).is_err());
    let attributed = draft.commit(&head()).unwrap();
    let message = queue.take_at_last(&attributed);
    assert_eq!(message.attribute("content_filter"), Some("smtp:[127.0.0.1]:10025"));
    assert_eq!((message.attribute("empty"), message.attribute("other")), (Some(""), None));
    assert_eq!(queue.take_at_last(&plain).attributes, []);
}

#[test]
fn parameters_come_back_with_recipients_before_and_after_the_content() {
    let (_folder, queue) = queue();
    let mail = MailParameters::from_text(b"BODY=8BITMIME SMTPUTF8 REQUIRETLS RET=HDRS ENVID=a+2Bb").unwrap();
    let said = |text: &str| RecipientParameters::from_text(text.as_bytes()).unwrap();
    let mut draft = queue.begin().unwrap();
    draft.recipient_with(&address("bob@mx.example"), &said("NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bx@c")).unwrap();
    draft.recipient(&address("carol@mx.example")).unwrap();
    draft.content(b"x\n").unwrap();
    draft.end_content().unwrap();
    draft.recipient_with(&address("dave@mx.example"), &said("NOTIFY=NEVER")).unwrap();
    draft.parameters(&mail).unwrap();
    let id = draft.commit(&head()).unwrap();
    let mut message = queue.take_at_last(&id);
    message.mark(1, RecipientState::Delivered, "2.0.0 there", false).unwrap();
    drop(message);
    let message = queue.take_at_last(&id);
    assert_eq!(message.parameters, mail);
    let found: Vec<_> = message.recipients.iter().map(|r| r.parameters.to_string()).collect();
    assert_eq!(found, ["NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bx@c", "", "NOTIFY=NEVER"]);
    assert_eq!(message.recipients[1].state, RecipientState::Delivered);
}

/// Turns a file without parameters into one of an older version, which has no place for them.
fn as_older(file: &[u8], version: u8) -> Vec<u8> {
    let number = |at: usize| u64::from_be_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    let (trace_at, recipients_at, envelope_at) = (number(24), number(32), number(40));
    let (mut older, mut rest) = (file[..recipients_at].to_vec(), &file[recipients_at..envelope_at]);
    let mut covered = file[trace_at..recipients_at].to_vec();
    while let Some((address, behind)) = layout::take_counted(rest) {
        let address = [&(address.len() as u16).to_be_bytes()[..], address].concat();
        let slot = &behind[2..2 + SLOT];
        older.extend([&address[..], slot].concat());
        covered.extend(address);
        rest = &behind[2 + SLOT..];
    }
    let (envelope, missing) = (&file[envelope_at..file.len() - 4], file.len() - envelope_at);
    let new_envelope_at = older.len();
    older.extend(envelope);
    covered.extend(envelope);
    older[8] = version;
    older[40..48].copy_from_slice(&(new_envelope_at as u64).to_be_bytes());
    older[48..56].copy_from_slice(&((new_envelope_at + missing) as u64).to_be_bytes());
    let mut sum = Hasher::new();
    sum.combine(&layout::begin_checksum(older[..HEADER].try_into().unwrap()));
    sum.update(&covered);
    older.extend(sum.finalize().to_be_bytes());
    older
}

#[test]
fn files_of_older_versions_are_read() {
    let (_folder, queue) = queue();
    for version in [1, 2] {
        let id = put(&queue, b"x\n", &["bob@mx.example", "carol@mx.example"]);
        let path = path_of(&queue, &id);
        fs::write(&path, as_older(&fs::read(&path).unwrap(), version)).unwrap();
        let mut message = queue.take_at_last(&id);
        assert_eq!(message.recipients.len(), 2);
        assert!(message.recipients.iter().all(|recipient| recipient.parameters.is_empty()));
        message.mark(1, RecipientState::Failed, "5.1.1 nobody", true).unwrap();
        drop(message);
        assert_eq!(queue.take_at_last(&id).recipients[1].state, RecipientState::Failed);
    }
}

#[test]
fn recipients_before_and_after_the_content_give_the_same_file() {
    let (_folder, queue) = queue();
    let big = vec![b'x'; 3 * BUFFER + 7];
    let mut draft = queue.begin().unwrap();
    draft.content(&big).unwrap();
    draft.end_content().unwrap();
    draft.recipient(&address("bob@mx.example")).unwrap();
    let late_size = draft.size();
    let late = draft.commit(&head()).unwrap();

    let mut draft = queue.begin().unwrap();
    draft.recipient(&address("bob@mx.example")).unwrap();
    draft.content(&big).unwrap();
    assert_eq!(draft.size(), late_size);
    let early = draft.commit(&head()).unwrap();

    let after = CONTENT as usize;
    let [late, early] = [late, early].map(|id| fs::read(path_of(&queue, &id)).unwrap());
    // All but the checksum, which covers the time too.
    assert_eq!(late[after..late.len() - 4], early[after..early.len() - 4]);
}

#[test]
fn content_in_pieces_of_any_size_is_the_same_content() {
    let (_folder, queue) = queue();
    let first = BUFFER - CONTENT as usize;
    let whole: Vec<u8> = (0..5 * BUFFER as u32).map(|number| (number % 251) as u8).collect();
    for size in [1000, first - 1, first, first + 1, BUFFER, BUFFER + 1, 3 * BUFFER, whole.len()] {
        let mut draft = queue.begin().unwrap();
        draft.recipient(&address("bob@mx.example")).unwrap();
        whole.chunks(size).for_each(|piece| draft.content(piece).unwrap());
        let id = draft.commit(&head()).unwrap();
        let content = content_of(&queue.take_at_last(&id));
        assert!(content.strip_prefix(&head().trace[..]) == Some(&whole[..]), "pieces of {size}");
    }
}

#[test]
fn a_draft_that_is_dropped_leaves_nothing() {
    let (_folder, queue) = queue();
    let mut draft = queue.begin().unwrap();
    draft.content(b"x\n").unwrap();
    let path = path_of(&queue, draft.id());
    assert!(path.exists());
    drop(draft);
    assert!(!path.exists());
}

#[test]
fn a_message_being_written_or_delivered_is_not_taken() {
    let (_folder, queue) = queue();
    let mut draft = queue.begin().unwrap();
    assert!(queue.take(&draft.id().clone()).unwrap().is_none());
    draft.recipient(&address("bob")).unwrap();
    let id = draft.commit(&head()).unwrap();
    let taken = queue.take_at_last(&id);
    assert!(queue.take(&id).unwrap().is_none());
    drop(taken);
    drop(queue.take_at_last(&id));
}

#[test]
fn an_incomplete_file_is_removed_when_an_hour_old_and_not_before() {
    let (_folder, queue) = queue();
    for octets in [&b""[..], &[0; 40], &[0; 5000], b"\0\0\0\0body\n"] {
        let id = put(&queue, b"x\n", &["bob"]);
        let path = path_of(&queue, &id);
        let blank = if octets.starts_with(b"\0\0\0\0b") { [&[0; 2112][..], octets].concat() } else { octets.to_vec() };
        fs::write(&path, blank).unwrap();
        assert!(queue.try_take_at_last(&id).is_err());
        assert!(path.exists());
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(3601)).unwrap();
        file.lock().unwrap();
        assert!(queue.take(&id).unwrap().is_none());
        assert!(path.exists(), "somebody still writes it");
        drop(file);
        assert!(queue.try_take_at_last(&id).is_err());
        assert!(!path.exists());
    }
}

#[test]
fn a_file_whose_name_went_away_is_not_acknowledged() {
    let (_folder, queue) = queue();
    let mut draft = queue.begin().unwrap();
    draft.recipient(&address("bob")).unwrap();
    fs::remove_file(path_of(&queue, draft.id())).unwrap();
    assert!(draft.commit(&head()).is_err());
}

#[test]
fn every_truncation_is_refused() {
    let (_folder, queue) = queue();
    let id = put(&queue, b"Subject: hi\n\nbody\n", &["bob@mx.example"]);
    let path = path_of(&queue, &id);
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).rev() {
        File::options().write(true).open(&path).unwrap().set_len(length as u64).unwrap();
        assert!(queue.try_take_at_last(&id).is_err(), "{length}");
        assert!(path.exists());
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert!(queue.try_take_at_last(&id).is_err());
    fs::write(&path, &whole).unwrap();
    drop(queue.take_at_last(&id));
}

/// Outside the room in front of the trace field and what a status slot holds besides its state, each bit counts.
#[test]
fn every_flipped_bit_is_refused() {
    let (_folder, queue) = queue();
    let id = put(&queue, b"Subject: hi\n\nbody\n", &["bob@mx.example"]);
    let path = path_of(&queue, &id);
    let mut octets = fs::read(&path).unwrap();
    let trace = CONTENT as usize - head().trace.len();
    let slot = CONTENT as usize + 18 + 2 + 14 + 2;
    for at in (0..octets.len()).filter(|at| !(HEADER..trace).contains(at) && !(slot + 1..slot + SLOT).contains(at)) {
        for bit in 0..8 {
            octets[at] ^= 1 << bit;
            fs::write(&path, &octets).unwrap();
            assert!(queue.try_take_at_last(&id).is_err(), "bit {bit} of octet {at}");
            octets[at] ^= 1 << bit;
        }
    }
    fs::write(&path, &octets).unwrap();
    drop(queue.take_at_last(&id));
}

#[test]
fn links_folders_and_foreign_files_are_left_alone() {
    let (folder, queue) = queue();
    let id = put(&queue, b"x\n", &["bob"]);
    let path = path_of(&queue, &id);
    fs::hard_link(&path, folder.path().join("second")).unwrap();
    assert!(queue.try_take_at_last(&id).is_err(), "a second name");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(folder.path().join("second"), &path).unwrap();
    assert!(queue.try_take_at_last(&id).is_err(), "a symbolic link");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(queue.try_take_at_last(&id).is_err(), "a folder");
    fs::remove_dir(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(queue.try_take_at_last(&id).is_err(), "a FIFO");
    fs::remove_file(&path).unwrap();
    fs::write(&path, vec![b'x'; 5000]).unwrap();
    assert!(queue.try_take_at_last(&id).is_err(), "something else");
    assert_eq!(fs::metadata(&path).unwrap().len(), 5000);
}

#[test]
fn marks_survive_and_count_tries() {
    let (_folder, queue) = queue();
    let id = put(&queue, b"x\n", &["bob", "carol"]);
    let mut message = queue.take_at_last(&id);
    message.mark(1, RecipientState::Trying, "", false).unwrap();
    message.mark(1, RecipientState::Failed, "5.1.1 no such\nuser", true).unwrap();
    assert!(message.mark(2, RecipientState::Failed, "", true).is_err());
    drop(message);
    let message = queue.take_at_last(&id);
    let carol = &message.recipients[1];
    assert_eq!((carol.state, carol.attempts), (RecipientState::Failed, 1));
    assert_eq!(carol.report, "5.1.1 no such\\x0auser");
    assert_eq!(message.recipients[0].state, RecipientState::Waiting);
    message.remove().unwrap();
    assert!(queue.try_take_at_last(&id).is_err());
}

#[test]
fn recipients_before_the_content_are_bounded() {
    let (_folder, queue) = queue();
    let mut draft = queue.begin().unwrap();
    let long = address(&"x".repeat(1000));
    let taken = (0..2000).take_while(|_| draft.recipient(&long).is_ok()).count();
    assert_eq!(taken, EARLY_ROOM / 1004);
    assert!(matches!(draft.recipient(&long), Err(Error::TooMany)));
    draft.end_content().unwrap();
    assert!(draft.recipient(&long).is_ok());
}

#[test]
fn any_line_end_but_lf_makes_the_content_exact() {
    let (_folder, queue) = queue();
    for (content, lines) in [
        (&b""[..], Lines::Lf),
        (b"x\n", Lines::Lf),
        (b"x", Lines::Exact),
        (b"x\r\n", Lines::Exact),
        (b"a\rb\n", Lines::Exact),
    ] {
        let id = put(&queue, content, &["bob"]);
        assert_eq!(queue.take_at_last(&id).lines, lines);
    }
}

fn any_address() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>().prop_filter("no line end", |o| !matches!(o, 0 | b'\r' | b'\n')), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_draft_commits_is_taken_again(
        lengths in proptest::collection::vec(980..=LONGEST_ADDRESS, 1..4),
        orcpt in 0..1200_usize,
        is_early: bool,
        sender in 980..=LONGEST_ADDRESS,
        channel in 0..300_usize,
        value in 0..5000_usize,
        trace in TRACE_ROOM - 2..TRACE_ROOM + 2,
    ) {
        let (_folder, queue) = queue();
        let long = |length| Address::from_internal(&vec![b'a'; length]).unwrap().or_at("mx.example");
        let write = || {
            let mut draft = queue.begin()?;
            draft.content(b"x\n")?;
            if !is_early {
                draft.end_content()?;
            }
            let said = RecipientParameters { orcpt: Orcpt::of_address(&vec![b'a'; orcpt]), ..RecipientParameters::default() };
            lengths.iter().try_for_each(|length| draft.recipient_with(&long(*length), &said))?;
            draft.attribute("name", &"x".repeat(value))?;
            let reverse_path = ReversePath(Some(long(sender)));
            draft.commit(&Head { reverse_path, trace: vec![b'x'; trace], channel: "c".repeat(channel) })
        };
        if let Ok(id) = write() {
            drop(queue.take_at_last(&id));
        }
    }

    #[test]
    fn any_content_and_addresses_come_back(
        content in proptest::collection::vec(any::<u8>(), 0..5000),
        repeat in 1..30_usize,
        early in proptest::collection::vec(any_address(), 0..5),
        late in proptest::collection::vec(any_address(), 0..5),
        reverse_path in proptest::option::of(any_address()),
        trace in proptest::collection::vec(any::<u8>(), 0..TRACE_ROOM),
        channel in ".{0,20}",
    ) {
        let (_folder, queue) = queue();
        let mut draft = queue.begin().unwrap();
        for octets in &early {
            draft.recipient(&Address::from_internal(octets).unwrap()).unwrap();
        }
        for _ in 0..repeat {
            draft.content(&content).unwrap();
        }
        draft.end_content().unwrap();
        for octets in &late {
            draft.recipient(&Address::from_internal(octets).unwrap()).unwrap();
        }
        let reverse_path = ReversePath::from_internal(&reverse_path.unwrap_or_default()).unwrap();
        let id = draft.commit(&Head { reverse_path: reverse_path.clone(), trace: trace.clone(), channel: channel.clone() });
        let message = queue.take_at_last(&id.unwrap());
        prop_assert_eq!(content_of(&message), [trace, content.repeat(repeat)].concat());
        let sent: Vec<_> = early.iter().chain(&late).map(Vec::as_slice).collect();
        let found: Vec<_> = message.recipients.iter().map(|r| r.address.as_bytes()).collect();
        prop_assert_eq!(found, sent);
        prop_assert_eq!((message.reverse_path.clone(), message.channel.clone()), (reverse_path, channel));
    }
}
