//! What `mailq`, `sendmail -bp` and `doorpost-queue` show, field by field, and for whom they do something; and what may be
//! done to the queue's files by hand.

mod common;

use common::delivering::take;
use common::local::{as_user, drop_folder, named, said, sendmail};
use common::{Scratch, feed};
use doorpost::queue::{Head, Id, Queue, RecipientState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a program says under a name that submit has.
fn said_by(scratch: &Scratch, name: &str, arguments: &[&str]) -> String {
    said(&feed(&mut named(scratch, name, arguments), b""))
}

fn tool(scratch: &Scratch, arguments: &[&str]) -> (Option<i32>, String) {
    let output = scratch.run("doorpost-queue", arguments, b"");
    (output.status.code(), said(&output))
}

/// Notes what a try came to, and when the next one is.
fn note(scratch: &Scratch, id: &Id, notes: &[(usize, RecipientState, &str)], next: Option<SystemTime>) {
    let mut message = take(scratch, id);
    for (number, state, report) in notes {
        message.mark(*number, RecipientState::Trying, "", false).expect("a mark");
        message.mark(*number, *state, report, true).expect("a mark");
    }
    next.into_iter().for_each(|next| message.defer_until(next).expect("its time"));
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).expect("later").as_secs()
}

const LATER: &str = "4.2.1 [192.0.2.1] said: 450 \"busy\" (to RCPT)";

/// One of each state: deferred, with a recipient that is done and two that are not; held; incoming; and being delivered.
fn site() -> (Scratch, [Id; 4], SystemTime) {
    let scratch = Scratch::new();
    let to = ["done@b.example", "bob@b.example", "c\u{e4}rol@b.example"];
    let deferred = scratch.enqueue(&to, b"Subject: one\n\nbody\n");
    let (held, incoming) = (scratch.enqueue(&["dave@c.example"], b"x\n"), scratch.enqueue(&["x@d.example"], b"x\n"));
    let active = scratch.enqueue(&["y@d.example"], b"x\n");
    let next = SystemTime::now() + Duration::from_secs(30 * 60 + 30);
    let waiting = RecipientState::Waiting;
    let notes = [(0, RecipientState::Delivered, "2.0.0 delivered"), (1, waiting, LATER), (2, waiting, LATER)];
    note(&scratch, &deferred, &notes, Some(next));
    assert_eq!(tool(&scratch, &["hold", held.as_str()]), (Some(0), "1 message\n".to_owned()));
    scratch.settle();
    (scratch, [deferred, held, incoming, active], next)
}

#[test]
fn every_member_of_an_object_of_json_is_what_the_page_says() {
    let (scratch, [deferred, held, incoming, active], next) = site();
    let queue = Queue::at(&scratch.queue());
    let lock = take(&scratch, &active);
    let (_, json) = tool(&scratch, &["--json"]);
    assert_eq!(said_by(&scratch, "mailq", &["--json"]).lines().count(), 4);
    let mut lines = json.lines();
    for (id, state, recipients) in [
        (
            deferred,
            "deferred",
            "{\"address\": \"bob@b.example\", \"delay_reason\": \"4.2.1 [192.0.2.1] said: 450 \\\"busy\\\" (to RCPT)\", \
             \"tries\": 1}, {\"address\": \"c\\u00e4rol@b.example\", \"delay_reason\": \"4.2.1 [192.0.2.1] said: 450 \
             \\\"busy\\\" (to RCPT)\", \"tries\": 1}",
        ),
        (held, "hold", "{\"address\": \"dave@c.example\", \"delay_reason\": \"\", \"tries\": 0}"),
        (incoming, "incoming", "{\"address\": \"x@d.example\", \"delay_reason\": \"\", \"tries\": 0}"),
        (active, "active", "{\"address\": \"y@d.example\", \"delay_reason\": \"\", \"tries\": 0}"),
    ] {
        let line = lines.next().unwrap_or_else(|| panic!("one more: {json}"));
        let message = queue.look(&id).expect("the queue").expect("a message");
        let file = scratch.queue().join("message").join(id.folder()).join(id.as_str());
        let time = seconds(fs::metadata(file).and_then(|file| file.modified()).expect("its time"));
        let due = if state == "hold" { "null".to_owned() } else { time.to_string() };
        assert!(state != "deferred" || time == seconds(next), "{line}");
        let age = line.split_once("\"age\": ").and_then(|(_, rest)| rest.split(',').next()).expect("an age");
        assert!(age.parse::<u64>().expect("a number") <= 20, "{line}");
        let (arrived, size) = (seconds(message.created), message.size);
        assert_eq!(
            line,
            format!(
                "{{\"queue_name\": \"{state}\", \"queue_id\": \"{id}\", \"arrival_time\": {arrived}, \"message_size\": {size}, \
                 \"age\": {age}, \"next_try\": {due}, \"channel\": \"local\", \"sender\": \"alice@mx.example\", \
                 \"recipients\": [{recipients}]}}"
            )
        );
    }
    assert_eq!(lines.next(), None);
    drop(lock);
}

#[test]
fn a_list_for_people_has_id_size_age_next_try_sender_reasons_and_recipients() {
    let (scratch, [deferred, held, incoming, active], _) = site();
    let queue = Queue::at(&scratch.queue());
    let size = |id: &Id| queue.look(id).expect("the queue").expect("a message").size;
    let total: u64 = [&deferred, &held, &incoming, &active].map(size).iter().sum();
    let lock = take(&scratch, &active);
    let text = said_by(&scratch, "mailq", &[]);
    // Seconds pass while it is written.
    let got: Vec<String> = text.lines().map(masked).collect();
    let line = |id: &Id, next: &str| format!("{:<16} {:>9} AGE  {next:<10} <alice@mx.example>", id.as_str(), size(id));
    let expected = [
        "Queue id              Size   Age  Next try   Sender".to_owned(),
        line(&deferred, "in 30m"),
        format!("    ({LATER}; 1 tries)"),
        "    to <bob@b.example>".to_owned(),
        "    to <c\\xc3\\xa4rol@b.example>".to_owned(),
        line(&held, "held"),
        "    to <dave@c.example>".to_owned(),
        line(&incoming, "due"),
        "    to <x@d.example>".to_owned(),
        line(&active, "now trying"),
        "    to <y@d.example>".to_owned(),
        format!("-- 4 messages, {total} octets"),
    ];
    let shown = |line: &String| line.replace(char::is_whitespace, " ");
    for (got, wanted) in got.iter().map(shown).zip(expected.iter().map(shown)) {
        // How octets that are not ASCII are shown is the log's affair.
        assert!(
            got == wanted || (got.contains("rol@b.example") && got.starts_with("    to <c")),
            "{got}\n{wanted}\n{text}"
        );
    }
    assert_eq!(got.len(), expected.len(), "{text}");
    drop(lock);
    scratch.settle();
    let same = |other: String| other.lines().map(masked).eq(said_by(&scratch, "mailq", &[]).lines().map(masked));
    assert!(
        same(said_by(&scratch, "sendmail", &["-bp"]))
            && same(tool(&scratch, &["list"]).1)
            && same(tool(&scratch, &[]).1)
    );
    let some = said_by(&scratch, "mailq", &["*@c.example"]);
    assert!(
        some.contains("dave@c.example") && some.contains("-- 1 message, ") && !some.contains("b.example>"),
        "{some}"
    );
    assert_eq!(said_by(&scratch, "mailq", &["nobody@*"]), "No message is like that\n");
}

/// The age of a line about a message, which changes, in one form.
fn masked(line: &str) -> String {
    let mut words: Vec<&str> = line.split_inclusive(' ').collect();
    let is_age = |word: &&str| word.trim_end().strip_suffix('s').is_some_and(|digits| digits.parse::<u64>().is_ok());
    if line.ends_with("<alice@mx.example>")
        && let Some(at) = words.iter().position(is_age)
    {
        let blanks = words[..at].iter().rev().take_while(|word| word.trim().is_empty()).count();
        words.splice(at - blanks..=at, ["AGE "]);
    }
    words.concat()
}

#[test]
fn flush_and_release_make_due_what_is_like_a_pattern_and_nothing_else() {
    let scratch = Scratch::new();
    scratch.write("channels", "local - mx.example mailbox: *\nb - b.example discard: -\nc - c.example discard: -\n");
    let later = SystemTime::now() + Duration::from_secs(3600);
    let ids = ["bob@b.example", "bob@c.example"].map(|to| scratch.enqueue(&[to], b"x\n"));
    ids.iter().for_each(|id| note(&scratch, id, &[(0, RecipientState::Waiting, LATER)], Some(later)));
    let left = || {
        let mut left: Vec<String> = scratch.queued().into_iter().map(|message| message.id).collect();
        left.sort();
        left
    };
    scratch.deliver();
    assert_eq!(left().len(), 2, "both wait");
    assert_eq!(tool(&scratch, &["flush", "*@b.example"]), (Some(0), "1 message\n".to_owned()));
    scratch.deliver();
    assert_eq!(left(), [ids[1].to_string()], "the other one waits still");
    assert_eq!(tool(&scratch, &["flush", "*@b.example"]).0, Some(65));
    assert_eq!(tool(&scratch, &["hold", "alice@*"]), (Some(0), "1 message\n".to_owned()));
    assert_eq!(tool(&scratch, &["flush", "*@c.example"]).0, Some(65), "what is held stays");
    scratch.deliver();
    assert_eq!(tool(&scratch, &["--json"]).1.lines().count(), 1, "and is there");
    assert_eq!(tool(&scratch, &["release", ids[1].as_str()]), (Some(0), "1 message\n".to_owned()));
    scratch.deliver();
    assert_eq!(left().len(), 0);
}

/// Whoever is not mail_owner may look at his own mail and change none, not even that.
#[test]
fn an_ordinary_user_holds_releases_requeues_flushes_and_deletes_nothing() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::new();
    let id = scratch.enqueue(&["bob@b.example"], b"x\n");
    let before = scratch.queued();
    for action in ["hold", "release", "requeue", "flush", "delete", "list"] {
        for pattern in ["ALL", "alice@mx.example", id.as_str()] {
            let mut command = scratch.command("doorpost-queue");
            let output = feed(command.args([action, pattern]).uid(12_345).gid(12_345), b"");
            assert_eq!((output.status.code(), output.stdout.len()), (Some(77), 0), "{action} {pattern}: {output:?}");
        }
    }
    assert_eq!(scratch.queued(), before);
    let file = scratch.queue().join("message").join(id.folder()).join(id.as_str());
    let mode = fs::metadata(file).expect("the message").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "not held");
}

/// What queue(5) says an administrator may do by hand, and what becomes of it.
#[test]
fn files_of_the_queue_may_be_moved_copied_and_removed_and_not_changed() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    for number in 0..5 {
        let content = format!("Subject: {number}\n\nhello\n");
        assert!(
            scratch.run("submit", &["-f", "alice@mx.example", "bob@mx.example"], content.as_bytes()).status.success()
        );
    }
    let place = |scratch: &Scratch, id: &str| scratch.queue().join("message").join(&id[14..]).join(id);
    let ids: Vec<String> = scratch.queued().into_iter().map(|message| message.id).collect();
    // Moved to another machine, and left here in a backup; removed; changed; with two names.
    let (there, here) = (place(&other, &ids[0]), place(&scratch, &ids[0]));
    fs::create_dir_all(there.parent().expect("a folder")).expect("a folder");
    for folder in there.ancestors().skip(1).take(2) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("its mode");
    }
    fs::copy(&here, &there).expect("a copy");
    fs::rename(&here, scratch.path().join("backup")).expect("a backup");
    other.hand_over(&other.queue());
    fs::remove_file(place(&scratch, &ids[1])).expect("removed");
    let changed = place(&scratch, &ids[2]);
    let octets = fs::read(&changed).expect("a message");
    let at = octets.windows(5).position(|five| five == b"hello").expect("its content");
    fs::write(&changed, [&octets[..at], b"HELLO", &octets[at + 5..]].concat()).expect("changed");
    fs::hard_link(place(&scratch, &ids[3]), scratch.path().join("second-name")).expect("a second name");
    let log = scratch.deliver();
    assert!(log.contains("its checksum does not agree") && log.contains("it has more than one name"), "{log}");
    other.deliver();
    let subjects = |scratch: &Scratch| -> Vec<String> {
        let mail = scratch.mail("bob").into_iter().map(|mail| String::from_utf8_lossy(&mail).into_owned());
        mail.map(|mail| mail.lines().find(|line| line.starts_with("Subject: ")).expect("one").to_owned()).collect()
    };
    assert_eq!((subjects(&scratch), subjects(&other)), (vec!["Subject: 4".to_owned()], vec!["Subject: 0".to_owned()]));
    assert!(changed.exists() && place(&scratch, &ids[3]).exists());
    // Put back from the backup: what is in the mailbox already is found there.
    fs::copy(scratch.path().join("backup"), &there).expect("a copy");
    other.hand_over(&other.queue());
    other.deliver();
    assert_eq!((subjects(&other).len(), other.queued().len()), (1, 0));
}

/// What a requeueing leaves that was killed behind the new message and before the end of the old one, and an administrator
/// who is faster than deliver.
#[test]
fn what_was_queued_anew_is_not_released_beside_it() {
    let scratch = Scratch::new();
    let old = scratch.enqueue(&["bob@mx.example"], b"x\n");
    assert_eq!(tool(&scratch, &["hold", "ALL"]).0, Some(0));
    let queue = Queue::at(&scratch.queue());
    let parent = take(&scratch, &old);
    let mut draft = queue.begin_derived(&old, "requeued").expect("the queue").expect("a draft");
    parent.copy_to(&mut draft).expect("its content");
    draft.recipient(&parent.recipients[0].address).expect("room");
    let (reverse_path, channel) = (parent.reverse_path.clone(), parent.channel.clone());
    draft.commit(&Head { reverse_path, trace: Vec::new(), channel }).expect("a message");
    drop(parent);
    scratch.hand_over(&scratch.queue());
    scratch.settle();
    assert_eq!(tool(&scratch, &["release", "ALL"]), (Some(0), "2 messages\n".to_owned()));
    scratch.deliver();
    assert_eq!((scratch.mail("bob").len(), scratch.queued().len()), (1, 0));
}

#[test]
fn a_requeueing_that_is_interrupted_leaves_no_message_held() {
    let scratch = Scratch::new();
    for _ in 0..40 {
        scratch.enqueue(&["bob@mx.example"], b"x\n");
    }
    let queue = Queue::at(&scratch.queue());
    let held = || queue.names().expect("the queue").into_iter().filter(|name| name.is_held).count();
    let mut sightings = 0;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        scratch.settle();
        let mut child = scratch.command("doorpost-queue").args(["requeue", "ALL"]).spawn().expect("the tool");
        // At the moment that matters; a file may be renamed while the folder is read.
        while child.try_wait().expect("its status").is_none() && held() == 0 {}
        // Whoever is gone has left its id to another.
        if child.try_wait().expect("its status").is_none() {
            let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
            sightings += 1;
        }
        let status = child.wait().expect("its end");
        assert_eq!((held(), queue.names().expect("the queue").len()), (0, 40), "{signal}: {status:?}");
    }
    assert!(sightings > 0, "the tool was never seen at work");
}

#[test]
fn a_queue_that_cannot_be_read_is_not_called_empty() {
    let scratch = Scratch::new();
    let [first, second] = [(); 2].map(|()| scratch.enqueue(&["bob@mx.example"], b"x\n"));
    let lock_away = |id: &Id| {
        let file = scratch.queue().join("message").join(id.folder()).join(id.as_str());
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(file, Some(0), Some(0)).expect("another's");
        } else {
            fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o000)).expect("its mode");
        }
    };
    lock_away(&first);
    let (status, text) = tool(&scratch, &["list"]);
    assert!(status == Some(75) && text.contains("-- 1 message, ") && text.contains("-- 1 file that cannot"), "{text}");
    lock_away(&second);
    let (status, text) = tool(&scratch, &["list"]);
    assert!(
        status == Some(75) && text.contains("-- 2 files that cannot be read\n") && !text.contains("empty"),
        "{text}"
    );
    let (status, text) = tool(&scratch, &["--json"]);
    assert!(status == Some(75) && text.contains("not of all messages"), "{text}");
}

/// As a queue that root has put back in part.
#[test]
fn a_folder_that_cannot_be_read_is_told_and_keeps_the_tool_from_no_other() {
    let scratch = Scratch::new();
    let first = scratch.enqueue(&["bob@mx.example"], b"x\n");
    let other = loop {
        let id = scratch.enqueue(&["bob@mx.example"], b"x\n");
        if id.folder() != first.folder() {
            break id;
        }
        tool(&scratch, &["delete", id.as_str()]);
    };
    let folder = scratch.queue().join("message").join(first.folder());
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&folder, Some(0), Some(0)).expect("another's");
    } else {
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o000)).expect("its mode");
    }
    let (status, text) = tool(&scratch, &["list"]);
    assert!(status == Some(75) && text.contains("-- 1 message, "), "{text}");
    assert!(text.contains("-- 1 folder of messages that cannot be read\n"), "{text}");
    let (status, text) = tool(&scratch, &["hold", first.as_str()]);
    assert!(status == Some(75) && text.contains("other messages: 1 folder that cannot be read"), "{text}");
    // What is asked for by its id is elsewhere.
    assert_eq!(tool(&scratch, &["list", other.as_str()]).0, Some(0));
    let (status, text) = tool(&scratch, &["delete", "ALL"]);
    assert!(status == Some(75) && text.starts_with("1 message\n"), "{text}");
    let (status, text) = tool(&scratch, &["list"]);
    assert!(status == Some(75) && !text.contains("empty"), "{text}");
    fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("its mode");
}

#[test]
fn without_an_action_the_first_word_may_be_a_pattern_and_no_misspelt_action() {
    let scratch = Scratch::new();
    let id = scratch.enqueue(&["bob@mx.example"], b"x\n");
    for (pattern, is_found) in [("bob@*", true), (id.as_str(), true), ("ALL", true), ("carol@*", false)] {
        let (status, text) = tool(&scratch, &[pattern]);
        assert!(status == Some(0) && text.contains(id.as_str()) == is_found, "{pattern}: {text}");
    }
    let (status, text) = tool(&scratch, &["delet", "ALL"]);
    assert!(status == Some(64) && text.contains("'delet'") && text.contains("requeue"), "{text}");
}

#[test]
fn mailq_lists_text_and_json_and_the_tool_holds_releases_requeues_and_deletes() {
    let scratch = Scratch::new();
    let empty = feed(&mut named(&scratch, "mailq", &[]), b"");
    assert_eq!(said(&empty), "Mail queue is empty\n");
    fs::write(scratch.maildir("bob"), "in the way").unwrap();
    sendmail(&scratch, &["-f", "alice@mx.example", "bob"], "Subject: x\n\nbody\n");
    sendmail(&scratch, &["-f", "", "carol@mx.example"], "Subject: y\n\nbody\n");
    let tool = |arguments: &[&str]| {
        let output = scratch.run("doorpost-queue", arguments, b"");
        (output.status.code(), said(&output))
    };
    assert_eq!(tool(&["hold", "carol@*"]).0, Some(0));
    scratch.deliver();
    assert_eq!(scratch.mail("carol").len(), 0, "it is held");
    let text = said(&feed(&mut named(&scratch, "mailq", &[]), b""));
    assert!(
        text.contains(
            " <alice@mx.example>\n    (4.2.0 the mailbox cannot be written now; 1 tries)\n    to <bob@mx.example>\n"
        ),
        "{text}"
    );
    assert!(text.contains(" held       <>\n    to <carol@mx.example>\n") && text.contains("-- 2 messages, "), "{text}");
    let json = tool(&["--json"]).1;
    let lines: Vec<&str> = json.lines().collect();
    assert_eq!(lines.len(), 2, "{json}");
    assert!(
        lines[0].starts_with("{\"queue_name\": \"deferred\", \"queue_id\": \"")
            && lines[0].ends_with("\"delay_reason\": \"4.2.0 the mailbox cannot be written now\", \"tries\": 1}]}"),
        "{json}"
    );
    assert!(lines[1].starts_with("{\"queue_name\": \"hold\", ") && lines[1].contains("\"next_try\": null, "), "{json}");
    assert_eq!(tool(&["release", "carol@*"]).0, Some(0));
    fs::remove_file(scratch.maildir("bob")).unwrap();
    scratch.deliver();
    assert_eq!((scratch.mail("carol").len(), scratch.mail("bob").len()), (1, 0), "bob's waits for its next try");
    let before = scratch.queued()[0].clone();
    assert_eq!(tool(&["requeue", &before.id]).0, Some(0));
    let after = scratch.queued()[0].clone();
    assert_ne!(before.id, after.id);
    assert_eq!((&before.whole, &before.recipients), (&after.whole, &after.recipients));
    assert_eq!(tool(&["hold", "ALL"]).0, Some(0));
    assert_eq!(tool(&["flush", "ALL"]).0, Some(65), "what is held stays");
    assert_eq!(tool(&["delete", "nobody@*"]).0, Some(65));
    assert_eq!(tool(&["delete"]).0, Some(64));
    assert_eq!(tool(&["delete", "alice@mx.example"]), (Some(0), "1 message\n".to_owned()));
    assert!(scratch.queued().is_empty());
    if nix::unistd::geteuid().is_root() {
        let output = feed(as_user(scratch.command("doorpost-queue")).args(["delete", "ALL"]), b"");
        assert_eq!(output.status.code(), Some(77));
    }
}

#[test]
fn flushing_makes_what_waits_due_now() {
    let scratch = Scratch::with("minimal_backoff_time = 1h");
    fs::write(scratch.maildir("bob"), "in the way").unwrap();
    for to in ["bob", "x@elsewhere.example"] {
        sendmail(&scratch, &[to], "Subject: x\n\nbody\n");
    }
    scratch.deliver();
    fs::remove_file(scratch.maildir("bob")).unwrap();
    scratch.deliver();
    assert_eq!(scratch.mail("bob").len(), 0);
    let output = sendmail(&scratch, &["-qRmx.example"], "");
    assert_eq!((output.status.code(), said(&output)), (Some(0), String::new()));
    scratch.deliver();
    assert_eq!(scratch.mail("bob").len(), 1);
    assert_eq!(sendmail(&scratch, &["-q"], "").status.code(), Some(0));
}

#[test]
fn a_queue_that_is_not_there_is_told_and_not_made() {
    let scratch = Scratch::with("queue_directory = $config_directory/elsewhere");
    let folder = scratch.path().join("elsewhere");
    let told = format!("queue_directory {}: there is none\n", folder.display());
    for arguments in [&["list"][..], &["--json"], &["hold", "ALL"], &["requeue", "ALL"], &["flush", "ALL"]] {
        let (status, said) = tool(&scratch, arguments);
        assert!(status == Some(75) && said.ends_with(&told), "{arguments:?}: {status:?} {said}");
    }
    let listed = sendmail(&scratch, &["-bp"], "");
    assert!(listed.status.code() == Some(75) && said(&listed).ends_with(&told), "{listed:?}");
    let flushed = sendmail(&scratch, &["-q"], "");
    assert!(flushed.status.success() && !said(&flushed).contains("there is none"), "{flushed:?}");
    assert!(!folder.exists());
}

#[test]
fn a_flush_may_be_of_one_message_or_of_those_from_somebody() {
    let scratch = Scratch::with("minimal_backoff_time = 1h");
    fs::write(scratch.maildir("bob"), "in the way").unwrap();
    for from in ["alice@one.example", "alice@two.example", "alice@three.example"] {
        sendmail(&scratch, &["-f", from, "bob"], "Subject: x\n\nbody\n");
    }
    scratch.deliver();
    fs::remove_file(scratch.maildir("bob")).unwrap();
    let queued = scratch.queued();
    let first = queued.iter().find(|message| message.reverse_path.ends_with(b"@one.example")).unwrap();
    let mut arrived = vec![];
    for word in [format!("-qI{}", first.id), "-qStwo.example".to_owned(), "-qSnowhere.example".to_owned()] {
        assert!(sendmail(&scratch, &[&word], "").status.success());
        scratch.deliver();
        arrived.push(scratch.queued().iter().map(|left| left.reverse_path.len()).collect::<Vec<_>>());
    }
    let [two, three] = ["alice@two.example", "alice@three.example"].map(str::len);
    assert_eq!(arrived, [vec![two, three], vec![three], vec![three]]);
    assert_eq!(scratch.mail("bob").len(), 2);
}

#[test]
fn a_user_sees_his_own_mail_and_no_other() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::new();
    let folder = drop_folder(&scratch);
    for user in ["bob", "carol"] {
        fs::write(scratch.maildir(user), "in the way").unwrap();
    }
    sendmail(&scratch, &["carol"], "Subject: another's\n\n");
    feed(&mut as_user(named(&scratch, "sendmail", &["bob"])), b"Subject: mine\n\n");
    scratch.deliver();
    let output = feed(&mut as_user(named(&scratch, "mailq", &[])), b"");
    assert_eq!(output.status.code(), Some(77), "nobody answers: {output:?}");
    let listener = UnixListener::bind(folder.join("status")).unwrap();
    fs::set_permissions(folder.join("status"), fs::Permissions::from_mode(0o666)).unwrap();
    let mut serving = scratch.command("submit");
    serving.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    let mut serving = serving.spawn().unwrap();
    let mine = said(&feed(&mut as_user(named(&scratch, "mailq", &[])), b""));
    let json = said(&feed(&mut as_user(named(&scratch, "mailq", &["--json"])), b""));
    let mut other = named(&scratch, "mailq", &[]);
    let nothing = said(&feed(other.uid(4242).gid(4242), b""));
    let _ = serving.kill();
    let _ = serving.wait();
    assert!(mine.contains("to <bob@mx.example>") && !mine.contains("carol") && mine.contains("-- 1 message"), "{mine}");
    assert!(json.lines().count() == 1 && json.contains("\"address\": \"bob@mx.example\""), "{json}");
    assert_eq!(nothing, "Mail queue is empty\n");
    let all = said(&feed(&mut named(&scratch, "mailq", &[]), b""));
    assert!(all.contains("-- 2 messages"), "{all}");
}

#[test]
fn who_listens_at_the_status_socket_without_being_one_of_ours_is_not_heard() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::new();
    let folder = drop_folder(&scratch);
    let at = folder.join("status");
    let mut forger = Command::new("perl");
    let script = "use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un($ARGV[0])); listen(S, 5); \
                  chmod 0666, $ARGV[0]; while (accept(C, S)) { syswrite(C, \"forged\\e[31m\\n\"); close(C); }";
    let mut forger = forger.args(["-e", script]).arg(&at).uid(4242).gid(4242).spawn().unwrap();
    common::until("a socket that listens", || at.metadata().is_ok_and(|file| file.mode() & 0o777 == 0o666));
    let output = feed(&mut as_user(named(&scratch, "mailq", &[])), b"");
    let _ = forger.kill();
    let _ = forger.wait();
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    assert!(!said(&output).contains("forged"), "{output:?}");
    // What one of ours says cannot steer a terminal either.
    fs::remove_file(&at).unwrap();
    let listener = UnixListener::bind(&at).unwrap();
    fs::set_permissions(&at, fs::Permissions::from_mode(0o666)).unwrap();
    let answering = std::thread::spawn(move || {
        let mut client = listener.accept().unwrap().0;
        client.read_exact(&mut [0; 5]).unwrap();
        client.write_all(b"a\x1b[31mb\xc2\x9bc\n")
    });
    let output = feed(&mut as_user(named(&scratch, "mailq", &[])), b"");
    answering.join().unwrap().unwrap();
    assert_eq!(said(&output), "a?[31mb??c\n");
}

/// A requeueing that found no room must not keep the message from everybody for ever.
#[test]
fn what_could_not_be_queued_anew_waits_as_before() {
    let scratch = Scratch::new();
    fs::write(scratch.maildir("bob"), "in the way").unwrap();
    sendmail(&scratch, &["bob"], &format!("Subject: x\n\n{}", "a line\n".repeat(50_000)));
    let requeue = |limit: &str| {
        let tool = scratch.command("doorpost-queue");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -f {limit}; exec \"$0\" requeue ALL")]).arg(tool.get_program());
        command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", scratch.path());
        feed(&mut command, b"")
    };
    let held = || said(&feed(&mut named(&scratch, "mailq", &[]), b"")).contains(" held ");
    let output = requeue("100");
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    assert!(!held() && scratch.queued().len() == 1, "{output:?}");
    scratch.run("doorpost-queue", &["hold", "ALL"], b"");
    assert_eq!(requeue("100").status.code(), Some(75));
    assert!(held(), "it was held before");
    let output = requeue("unlimited");
    assert!(output.status.success() && scratch.queued().len() == 1, "{output:?}");
}

#[test]
fn one_file_that_cannot_be_read_keeps_the_tool_from_no_other() {
    let scratch = Scratch::new();
    let [first, _, third] = [(); 3].map(|()| scratch.enqueue(&["bob@mx.example"], b"Subject: x\n\n"));
    let at = |id: &doorpost::queue::Id| scratch.queue().join("message").join(id.folder()).join(id.as_str());
    let octets = fs::read(at(&first)).unwrap();
    fs::write(at(&first), [&octets[..octets.len() - 1], b"?"].concat()).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(at(&third), Some(0), Some(0)).unwrap();
    } else {
        fs::set_permissions(at(&third), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let output = scratch.run("doorpost-queue", &["hold", "ALL"], b"");
    assert_eq!((output.status.code(), &*output.stdout), (Some(75), &b"1 message\n"[..]), "{output:?}");
    assert!(said(&output).contains("other messages: 1 in trouble, 1 damaged"), "{output:?}");
    // Of one that is cut off nobody knows more than its name, and need not.
    fs::write(at(&first), &octets[..octets.len() - 1]).unwrap();
    for what in ["ALL", first.as_str()] {
        let output = scratch.run("doorpost-queue", &["flush", what], b"");
        assert!(output.status.code() == Some(75) && said(&output).contains("1 damaged"), "{what}: {output:?}");
    }
    // One that is being written is not there yet.
    let writing = doorpost::queue::Queue::at(&scratch.queue()).begin().unwrap();
    scratch.hand_over(&scratch.queue());
    let _ = fs::remove_file(at(&first)).and_then(|()| fs::remove_file(at(&third)));
    let output = scratch.run("doorpost-queue", &["hold", "ALL"], b"");
    assert!(output.status.success(), "{output:?}");
    drop(writing);
}
