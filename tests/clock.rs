//! Clocks that jump by ten years, forward and back, while a message waits and while deliver watches: nothing is lost,
//! nothing comes back because of it, and what waits goes on within a time that does not depend on the clock.
//!
//! The programs see a clock that libfaketime shows them. Its file is read at every look, so that the clock of a running
//! program can be changed.

mod common;

use common::hops::{Act, Hop};
use common::watching::Watching;
use common::{Scratch, until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

const AHEAD: &str = "+3652d";
const BEHIND: &str = "-3652d";
const RIGHT: &str = "+0";

const TEXT: &[u8] = b"Subject: x\n\nhello\n";

/// The library that the package libfaketime has.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("/usr/lib").flatten().map(|folder| folder.path());
    let file = folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|file| file.exists());
    file.expect("libfaketime of the package of that name")
}

/// libfaketime gives what it keeps in memory the names of the process that begins it, and who becomes another user, as a
/// program of ours that root has started does, cannot remove these.
fn tidy() {
    let names = fs::read_dir("/dev/shm").into_iter().flatten().flatten().map(|entry| entry.path());
    for path in names {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let of = ["faketime_shm_", "sem.faketime_sem_"].into_iter().find_map(|begin| name.strip_prefix(begin));
        if of.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// The program sees the clock that the file says.
fn by_clock<'a>(command: &'a mut Command, clock: &Path) -> &'a mut Command {
    command.env("LD_PRELOAD", library()).env("FAKETIME_TIMESTAMP_FILE", clock).env("FAKETIME_NO_CACHE", "1");
    // A machine's clock that is set leaves alone what counts since it was started, and so it is here.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1")
}

fn set(clock: &Path, offset: &str) {
    // In one step, for it may be read at any time.
    let draft = clock.with_extension("new");
    fs::write(&draft, format!("{offset}\n")).expect("the clock");
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o644)).expect("its mode");
    fs::rename(&draft, clock).expect("the clock");
}

/// An installation whose foreign mail goes to a hop that is busy while the flag says so, and its clock.
struct Site {
    scratch: Scratch,
    hop: Hop,
    is_busy: Arc<AtomicBool>,
    clock: PathBuf,
}

fn site() -> Site {
    let is_busy = Arc::new(AtomicBool::new(false));
    let busy = Arc::clone(&is_busy);
    let hop = Hop::start(move |word, _, _| {
        (word == "RCPT" && busy.load(Ordering::SeqCst)).then_some(Act::Say("450 4.2.1 busy"))
    });
    let scratch = Scratch::with("minimal_backoff_time = 1s\nmaximal_backoff_time = 2s\nqueue_run_delay = 2s");
    scratch.write("channels", &format!("local * mx.example mailbox: *\nout - * smtp:{} *\n", hop.name()));
    let clock = scratch.path().join("clock");
    set(&clock, RIGHT);
    Site { scratch, hop, is_busy, clock }
}

impl Drop for Site {
    fn drop(&mut self) {
        tidy();
    }
}

impl Site {
    fn run(&self, program: &str, arguments: &[&str], input: &[u8]) -> String {
        let output = common::feed(by_clock(self.scratch.command(program).args(arguments), &self.clock), input);
        assert!(output.status.success(), "{program}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn submit(&self, to: &str) {
        self.run("submit", &["-f", "alice@mx.example", to], TEXT);
    }

    fn deliver(&self) -> String {
        self.scratch.settle();
        self.run("deliver", &[], b"")
    }

    fn watch(&self) -> Watching {
        let mut command = self.scratch.command("deliver");
        Watching::by(by_clock(&mut command, &self.clock).stderr(Stdio::null()))
    }
}

/// Else the rest proves nothing.
#[test]
fn the_programs_see_the_clock_that_is_set() {
    let site = site();
    for (offset, is_as_expected) in
        [(AHEAD, (|year| year >= 9) as fn(i64) -> bool), (BEHIND, |year| year <= -9), (RIGHT, |year| year == 0)]
    {
        set(&site.clock, offset);
        site.submit("bob@b.example");
        let id: doorpost::queue::Id = site.scratch.queued()[0].id.parse().expect("an id");
        let seconds =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).expect("later").as_secs().cast_signed();
        let years = (seconds(id.time()) - seconds(SystemTime::now())) / (365 * 86_400);
        assert!(is_as_expected(years), "{offset}: {years}");
        site.scratch.run("doorpost-queue", &["delete", id.as_str()], b"");
    }
}

#[test]
fn what_was_queued_under_one_clock_goes_out_under_another() {
    for (queued, delivered) in [(RIGHT, AHEAD), (RIGHT, BEHIND), (AHEAD, RIGHT), (BEHIND, RIGHT), (AHEAD, BEHIND)] {
        let site = site();
        set(&site.clock, queued);
        site.submit("bob@mx.example");
        site.submit("bob@b.example");
        set(&site.clock, delivered);
        let log = site.deliver();
        let arrived = (site.scratch.mail("bob").len(), site.hop.taken().len());
        assert_eq!((arrived, site.scratch.queued()), ((1, 1), vec![]), "{queued} {delivered}: {log}");
        assert_eq!(site.scratch.mail("alice").len(), 0, "{log}");
    }
}

#[test]
fn what_was_deferred_under_one_clock_is_tried_under_another_and_not_returned() {
    for (tried, then) in [(RIGHT, AHEAD), (AHEAD, RIGHT), (RIGHT, BEHIND), (BEHIND, RIGHT)] {
        let site = site();
        site.is_busy.store(true, Ordering::SeqCst);
        site.submit("bob@b.example");
        set(&site.clock, tried);
        let log = site.deliver();
        assert!(log.contains("status=deferred") && !log.contains("status=failed"), "{tried}: {log}");
        set(&site.clock, then);
        let log = site.deliver();
        assert!(log.contains("status=deferred") && !log.contains("status=failed"), "{tried} {then}: {log}");
        site.is_busy.store(false, Ordering::SeqCst);
        set(&site.clock, RIGHT);
        // At most as long as the longest time between two tries.
        until("the message at the hop", || {
            site.deliver();
            site.hop.taken().len() == 1
        });
        assert_eq!((site.scratch.queued(), site.scratch.mail("alice").len()), (vec![], 0), "{tried} {then}");
    }
}

#[test]
fn a_deliver_that_watches_goes_on_when_its_clock_jumps() {
    for jump in [AHEAD, BEHIND] {
        let site = site();
        site.is_busy.store(true, Ordering::SeqCst);
        site.submit("bob@b.example");
        let watching = site.watch();
        let tries = || site.hop.seen().iter().filter(|line| line.starts_with("RCPT")).count();
        until("the first try", || tries() == 1);
        set(&site.clock, jump);
        // Noted before the jump, and after it.
        for number in [2, 3] {
            until("another try", || tries() >= number);
        }
        site.submit("carol@b.example");
        until("a try of the new one", || site.hop.seen().iter().any(|line| line.contains("carol")));
        set(&site.clock, RIGHT);
        site.is_busy.store(false, Ordering::SeqCst);
        until("both at the hop", || site.hop.taken().len() == 2);
        drop(watching);
        assert_eq!((site.scratch.queued(), site.scratch.mail("alice").len()), (vec![], 0), "{jump}");
    }
}
