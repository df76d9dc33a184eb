//! Files of ours beside mailboxes: the times of last sessions, what was fetched and when, unique-ids of another server, the
//! index. Killed or failing at any call, a session or an import leaves a file that the next one can work with, and nothing
//! else.

use super::super::*;
use super::plan::Share;
use std::cell::RefCell;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

/// bob's session with these commands.
fn session(traced: Traced, commands: &str) -> Case {
    let input = format!("USER bob\r\nPASS {}\r\n{commands}QUIT\r\n", common::PASSWORD);
    Case { program: "pop3d", traced, input: input.into() }
}

/// What the next session is told; it must come to its end.
fn next(scratch: &Scratch, commands: &str, what: &str) -> String {
    let output = feed(&mut scratch.command("pop3d"), &session(Traced::Itself, commands).input);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.ends_with("+OK Goodbye\r\n"), "{what}: the next session: {output:?}");
    said
}

fn matrix(commands: &str, least: [usize; 2], prepare: &dyn Fn() -> Scratch, check: &dyn Fn(&Scratch, &Output, &str)) {
    session(Traced::Family, commands).kill_and_fail(Share::Part, least, prepare, check);
}

fn with_login_delay() -> Scratch {
    let scratch = mailbox();
    scratch.configure(&format!("pop3d_login_delay = 60\npop3d_stat_file = {}/last", scratch.path().display()));
    scratch
}

/// Who was let in has to wait, also behind a session that was killed; who was not, or has waited, is let in.
#[test]
fn a_login_is_noted_before_it_is_answered_and_no_note_keeps_anybody_out() {
    matrix("DELE 1\r\n", [240, 155], &with_login_delay, &|scratch, output, what| {
        let is_let_in = |output: &Output| String::from_utf8_lossy(&output.stdout).contains(" messages, ");
        let again = feed(&mut scratch.command("pop3d"), &session(Traced::Itself, "").input);
        assert!(!(is_let_in(output) && is_let_in(&again)), "{what}: let in at once: {again:?}");
        // Where neither was let in there may be none.
        let notes = files(&scratch.path().join("last"));
        assert_eq!(notes, [scratch.path().join("last/bob")], "{what}");
        let note = fs::File::options().write(true).open(&notes[0]).expect("the note");
        note.set_modified(SystemTime::now() - Duration::from_secs(61)).expect("its time");
        let mail = scratch.mail("bob");
        next(scratch, "", what);
        assert_eq!(scratch.mail("bob"), mail, "{what}");
        assert!(mail.iter().any(|message| message.ends_with(b"to be kept\n")), "{what}: the unmarked message is gone");
    });
}

/// The unique-ids of `mailbox`'s two messages.
fn unique_ids() -> &'static [String] {
    static IDS: OnceLock<Vec<String>> = OnceLock::new();
    IDS.get_or_init(|| listed(&next(&mailbox(), "UIDL\r\n", "a plain session")))
}

/// The unique-ids that UIDL gave, in order.
fn listed(said: &str) -> Vec<String> {
    let lines = said.lines().filter_map(|line| line.split_once(' '));
    lines.filter(|(number, _)| number.parse::<u32>().is_ok()).map(|(_, id)| id.to_owned()).collect()
}

/// The first was fetched long ago and is to go; of one that is gone there is a line still.
fn with_fetched() -> Scratch {
    let scratch = mailbox();
    scratch.configure("pop3d_expire = 3\npop3d_delete_expired = yes");
    let lines = format!("1700000005 {}\n1700000005 long-gone\n", unique_ids()[0]);
    let path = scratch.maildir("bob").join("doorpost-read");
    fs::write(&path, lines).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    scratch.hand_over(&path);
    scratch
}

#[test]
fn what_is_known_of_fetched_messages_makes_none_go_too_soon() {
    matrix("RETR 2\r\n", [250, 165], &with_fetched, &|scratch, output, what| {
        let is_there = |text: &[u8]| scratch.mail("bob").iter().any(|message| message.ends_with(text));
        let removed = output.stdout.ends_with(b"+OK Goodbye\r\n") && !what.contains("error=");
        assert!(!removed || !is_there(b"to be removed\n") || !said_all(output), "{what}: not removed: {output:?}");
        for _ in 0..2 {
            assert!(is_there(b"to be kept\n"), "{what}: gone on the day it was fetched");
            next(scratch, "", what);
        }
        assert!(!is_there(b"to be removed\n"), "{what}: not removed in time");
        let left = files(&scratch.maildir("bob"));
        assert!(!left.iter().any(|path| path.ends_with("doorpost-read.new")), "{what}: left behind: {left:?}");
    });
}

/// A session that got to its commands, each of which was answered with +OK.
fn said_all(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stdout).matches("\r\n+OK").count() == 4
}

fn with_other_ids(format: &str) -> Scratch {
    let scratch = Scratch::with(AT_ONCE);
    let texts = ["Subject: one\nX-UIDL: other-1\n\nx\n", "Subject: two\nX-UIDL: other-2\n\ny\n"];
    if format == "maildir" {
        for (number, text) in texts.iter().enumerate() {
            scratch.put_mail("bob", &format!("170000000{number}.M{number}.mx"), text.as_bytes());
        }
    } else {
        scratch.configure(&format!("mailbox = {format}:{}/mail/%u", scratch.path().display()));
        let mbox = texts.map(|text| format!("From a Sun Nov 22 04:27:00 2026\n{text}\n")).concat();
        fs::write(scratch.maildir("bob"), mbox).expect("a mailbox");
        scratch.hand_over(&scratch.maildir("bob"));
    }
    scratch
}

#[test]
fn unique_ids_are_taken_over_all_or_none_and_for_good_once_that_was_said() {
    let program = "pop3d --import-unique-ids=x-uidl --user=bob";
    for format in ["maildir", "mbox"] {
        let native = listed(&next(&with_other_ids(format), "UIDL\r\n", "a plain session"));
        assert_eq!(native.len(), 2, "{native:?}");
        let check = |scratch: &Scratch, output: &Output, what: &str| {
            let ids = listed(&next(scratch, "UIDL\r\n", what));
            let is_taken_over = ids == ["other-1", "other-2"];
            // An error that stays leaves out the message that cannot be read, and says so.
            let is_one_left_out = String::from_utf8_lossy(&output.stderr).contains("its fields cannot be read");
            let others = native.iter().zip(["other-1", "other-2"]).zip(&ids);
            let is_in_part = is_one_left_out && others.into_iter().all(|((own, other), id)| id == own || id == other);
            let is_none = ids == native && output.status.code() != Some(0);
            assert!(is_taken_over || is_in_part && ids.len() == 2 || is_none, "{what}: {ids:?}: {output:?}");
            let again = scratch.run("pop3d", &["--import-unique-ids=x-uidl", "--user=bob"], b"");
            assert!(again.status.success(), "{what}: {again:?}");
            assert_eq!(listed(&next(scratch, "UIDL\r\n", what)), ["other-1", "other-2"], "{what}");
            for folder in [scratch.path().join("mail"), scratch.maildir("bob")] {
                let left = files(&folder).into_iter().filter(|path| path.extension().is_some_and(|end| end == "new"));
                assert_eq!(left.count(), 0, "{what}: left behind");
            }
        };
        let case = Case { program, traced: Traced::Family, input: Vec::new() };
        case.kill_and_fail(Share::Part, [150, 90], &|| with_other_ids(format), &check);
    }
}

/// The folder is synced behind the last change in it.
#[test]
fn unique_ids_are_on_disk_when_they_are_said_to_be_taken_over() {
    let scratch = with_other_ids("maildir");
    let trace = scratch.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-e", "trace=rename,unlinkat,fsync", "-o"]).arg(&trace).arg(common::binary("pop3d"));
    strace.args(["--import-unique-ids=x-uidl", "--user=bob"]).env("MAIL_CONFIG", scratch.path());
    let output = feed(&mut strace, b"");
    assert!(output.status.success(), "{output:?}");
    let trace = fs::read_to_string(trace).expect("a trace");
    let at = |part: &str| trace.rfind(part).unwrap_or_else(|| panic!("no {part} in {trace}"));
    let folder = format!("{}>", scratch.maildir("bob").display());
    let synced =
        trace.rfind(&folder).filter(|end| trace[..*end].lines().last().is_some_and(|line| line.contains("fsync(")));
    assert!(synced.is_some_and(|synced| synced > at("doorpost-ids\"") && synced > at("doorpost-index\"")), "{trace}");
}

#[test]
fn a_size_that_could_not_be_read_once_is_read_the_next_time() {
    let scratch = mailbox();
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-o",
        "/dev/null",
        "-P",
        "1700000000.M0.mx",
        "-e",
        "trace=openat",
        "-e",
        "inject=openat:error=EIO",
    ]);
    strace.arg(common::binary("pop3d")).env("MAIL_CONFIG", scratch.path());
    let output = feed(&mut strace, &session(Traced::Itself, "LIST\r\n").input);
    assert!(String::from_utf8_lossy(&output.stdout).contains("\r\n1 0\r\n"), "it could be read: {output:?}");
    for _ in 0..2 {
        let (now, right) = (next(&scratch, "LIST\r\n", "later"), next(&mailbox(), "LIST\r\n", "a plain session"));
        assert_eq!(now.split_once("\r\n").map(|(_, rest)| rest), right.split_once("\r\n").map(|(_, rest)| rest));
    }
}

/// Mailboxes that have not been changed for long enough to have an index.
struct Settled<'a> {
    make: &'a dyn Fn() -> Scratch,
    ready: RefCell<Vec<Scratch>>,
}

impl Settled<'_> {
    fn next(&self) -> Scratch {
        let mut ready = self.ready.borrow_mut();
        if ready.is_empty() {
            ready.extend((0..40).map(|_| (self.make)()));
            // No clock of the kernel's can be set, and an index counts only for what was left alone for two seconds.
            std::thread::sleep(Duration::from_millis(2100));
        }
        ready.pop().expect("a mailbox")
    }
}

fn many(format: &str) -> Scratch {
    let scratch = Scratch::with(AT_ONCE);
    let text = |number: usize| format!("Subject: {number}\n\n{}", "a line of it\n".repeat(100 + number));
    if format == "maildir" {
        (0..3).for_each(|number| {
            scratch.put_mail("bob", &format!("170000000{number}.M{number}.mx"), text(number).as_bytes());
        });
    } else {
        scratch.configure(&format!("mailbox = {format}:{}/mail/%u", scratch.path().display()));
        let message = |number| format!("From a Sun Nov 22 04:27:00 2026\n{}\n", text(number));
        fs::write(scratch.maildir("bob"), (0..50).map(message).collect::<String>()).expect("a mailbox");
        scratch.hand_over(&scratch.maildir("bob"));
    }
    scratch
}

#[test]
fn an_index_that_was_half_written_tells_nobody_anything() {
    const COMMANDS: &str = "STAT\r\nLIST\r\nUIDL\r\nRETR 2\r\n";
    let what_changed = "bob/doorpost-index.delta";
    for (format, name) in
        [("maildir", "bob/doorpost-index"), ("maildir", what_changed), ("mbox", ".bob.doorpost-index")]
    {
        // Without the greeting, which is another one every time.
        let answers = |said: &str| said.split_once("\r\n").map(|(_, rest)| rest.to_owned());
        let brief = |said: &Option<String>| said.iter().flat_map(|said| said.chars().take(300)).collect::<String>();
        let make = || {
            let scratch = many(format);
            if name == what_changed {
                // Sizes that had to be counted are written down at once.
                next(&scratch, "STAT\r\n", "a session before the change");
                scratch.put_mail("bob", "1700000001.N.mx", b"Subject: between\n\nthe others\n");
            }
            scratch
        };
        let plain = make();
        let _ = fs::remove_file(plain.path().join("mail").join("bob/doorpost-index"));
        let right = answers(&next(&plain, COMMANDS, "a plain session"));
        let settled = Settled { make: &make, ready: RefCell::default() };
        let written = RefCell::new(0);
        matrix("STAT\r\n", [230, 145], &|| settled.next(), &|scratch, _, what| {
            let index = scratch.path().join("mail").join(name);
            *written.borrow_mut() += usize::from(index.exists());
            for _ in 0..2 {
                let now = answers(&next(scratch, COMMANDS, what));
                assert!(now == right, "{what}: {} and not {}", brief(&now), brief(&right));
            }
            let draft = scratch.path().join("mail").join(format!("{name}.new"));
            assert!(!draft.exists(), "{what}: left behind: {:?}", fs::read(&index).map(|index| index.len()));
        });
        assert!(*written.borrow() > 0, "{format}: no session wrote an index");
    }
}
