//! Disks that have no room, no inodes or take no writes under what runs for long: a deliver that watches the queue, and a
//! pool of servers with the submit that is kept beside it. Nothing is lost, nothing comes twice, and when the disk takes
//! writes again all goes on with the processes that are there.

use super::super::*;
use super::disks::{SmallDisk, fill};
use common::connections::{PATIENCE, Server};
use common::until;
use common::watching::Watching;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    Room,
    Inodes,
    Rights,
}

impl Lack {
    fn disk(self, scratch: &Scratch, folder: &Path) -> SmallDisk {
        SmallDisk::on(scratch, folder, if self == Lack::Inodes { "size=1m,nr_inodes=48" } else { "size=256k" })
    }

    /// Gives what must be removed.
    fn begin(self, disk: &SmallDisk) -> Vec<PathBuf> {
        if self == Lack::Rights {
            // Not while anybody writes.
            until("a read-only disk", || disk.can_remount("ro"));
            return Vec::new();
        }
        let fillers = fill(&disk.0);
        if self == Lack::Room {
            // So much that a message begins well.
            let last = fillers.iter().rfind(|path| path.metadata().is_ok_and(|file| file.len() > 8192));
            let last = fs::File::options().write(true).open(last.expect("a filler")).expect("a filler");
            last.set_len(last.metadata().expect("its length").len() - 8192).expect("room for two blocks");
        }
        fillers
    }

    fn end(self, disk: &SmallDisk, fillers: &[PathBuf]) {
        if self == Lack::Rights {
            disk.remount("rw");
        }
        fillers.iter().for_each(|path| fs::remove_file(path).expect("a filler"));
    }
}

/// An installation whose mbox.example has one mbox, and whose mail is tried each second.
fn site() -> Scratch {
    let scratch = Scratch::with("minimal_backoff_time = 1s\nmaximal_backoff_time = 1s\nqueue_run_delay = 1s");
    let mbox = mbox_of(&scratch);
    scratch.write("channels", &format!("m - mbox.example mbox:{} -\nlocal * mx.example mailbox: *\n", mbox.display()));
    scratch
}

fn mbox_of(scratch: &Scratch) -> PathBuf {
    scratch.path().join("mail/mbox")
}

fn watching(scratch: &Scratch) -> (Watching, PathBuf) {
    scratch.settle();
    let log = scratch.path().join("log");
    (Watching::by(scratch.command("deliver").arg("-w").stderr(fs::File::create(&log).expect("a log"))), log)
}

/// 20 kB: more than there is room for.
fn text(number: usize) -> String {
    format!("Subject: number {number}.\n\n{}", format!("{}\n", "x".repeat(99)).repeat(200))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn mailboxes_lack(lack: Lack) {
    // Who mounts.
    if !crate::common::needs::root() {
        return;
    }
    let scratch = site();
    let disk = lack.disk(&scratch, &scratch.path().join("mail"));
    let (watching, log) = watching(&scratch);
    let enqueue = |number| {
        scratch.enqueue(&["bob@mx.example", "x@mbox.example"], text(number).as_bytes());
        assert!(common::delivering::queue_of(&scratch).wake());
    };
    until("the FIFO", || common::delivering::queue_of(&scratch).wake());
    enqueue(0);
    until("the first message", || scratch.files().is_empty());
    let fillers = lack.begin(&disk);
    (1..4).for_each(enqueue);
    // An mbox that is there needs no inode.
    let deferred = if lack == Lack::Inodes { 1 } else { 2 };
    until("all to wait", || read(&log).matches("status=deferred").count() >= 3 * deferred);
    assert_eq!(scratch.queued().len(), 3, "{}", read(&log));
    assert!(!read(&log).contains("status=failed"), "{}", read(&log));
    lack.end(&disk, &fillers);
    until("the end of all", || scratch.files().is_empty());
    watching.terminate();
    let (mail, mbox) = (scratch.mail("bob").concat(), fs::read(mbox_of(&scratch)).expect("the mbox"));
    for (name, octets) in [("Maildir", mail), ("mbox", mbox)] {
        let octets = String::from_utf8(octets).expect("text");
        assert_eq!(octets.matches("Return-Path: ").count(), 4, "{name}: {octets}");
        for number in 0..4 {
            assert_eq!(octets.matches(&text(number)).count(), 1, "{name}, {number}: {octets}");
        }
    }
    assert_eq!(files(&scratch.maildir("bob").join("tmp")), Vec::<PathBuf>::new());
    drop(disk);
}

#[test]
fn a_watching_deliver_delivers_once_when_full_mailboxes_have_room_again() {
    mailboxes_lack(Lack::Room);
}

#[test]
fn a_watching_deliver_delivers_once_when_mailboxes_have_inodes_again() {
    mailboxes_lack(Lack::Inodes);
}

#[test]
fn a_watching_deliver_delivers_once_when_mailboxes_are_read_only_no_more() {
    mailboxes_lack(Lack::Rights);
}

/// Half of the recipients are nobody, so that the sender has to hear of them, by a file that the queue has no room for.
fn queue_lacks(lack: Lack) {
    // Who mounts.
    if !crate::common::needs::root() {
        return;
    }
    let scratch = site();
    let disk = lack.disk(&scratch, &scratch.queue());
    let (watching, log) = watching(&scratch);
    let queue = || common::delivering::queue_of(&scratch);
    until("the FIFO", || queue().wake());
    let process = Pid::from_raw(watching.0.id().cast_signed());
    // Nothing is given out until the disk is as it is to be.
    kill(process, Signal::SIGSTOP).expect("a signal");
    for number in 0..3 {
        let nobody = format!("nobody{number}@mx.example");
        scratch.enqueue(&["bob@mx.example", &nobody], text(number).as_bytes());
    }
    let fillers = lack.begin(&disk);
    kill(process, Signal::SIGCONT).expect("a signal");
    until("all to be tried", || read(&log).matches("event=over").count() >= 3);
    assert_eq!((scratch.files().len(), scratch.mail("alice").len()), (3, 0), "{}", read(&log));
    lack.end(&disk, &fillers);
    until("the end of all", || scratch.files().is_empty());
    watching.terminate();
    let (of_bob, of_alice) = (scratch.texts("bob").concat(), scratch.texts("alice").concat());
    assert_eq!((scratch.mail("bob").len(), scratch.mail("alice").len()), (3, 3), "{of_alice}: {}", read(&log));
    for number in 0..3 {
        assert_eq!(of_bob.matches(&text(number)).count(), 1, "{number}: {of_bob}");
        let nobody = format!("Final-Recipient: rfc822; nobody{number}@");
        assert_eq!(of_alice.matches(&nobody).count(), 1, "{number}: {of_alice}");
    }
    drop(disk);
}

#[test]
fn a_watching_deliver_tells_once_when_a_full_queue_has_room_again() {
    queue_lacks(Lack::Room);
}

#[test]
fn a_watching_deliver_tells_once_when_the_queue_has_inodes_again() {
    queue_lacks(Lack::Inodes);
}

#[test]
fn a_watching_deliver_delivers_and_tells_once_when_the_queue_is_read_only_no_more() {
    queue_lacks(Lack::Rights);
}

/// A session with one message, which ends where something is refused: the last answer before QUIT.
fn answer(address: SocketAddr, number: usize, content: &str) -> String {
    let mut client = TcpStream::connect(address).expect("a connection");
    client.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let mut reader = BufReader::new(client.try_clone().expect("a copy"));
    let mut hear = || {
        let mut line = String::new();
        while reader.read_line(&mut line).expect("an answer in time") > 0 && line.as_bytes().get(3) == Some(&b'-') {
            line.clear();
        }
        line
    };
    let mut last = hear();
    let message = format!("X-Number: {number}.\r\n{}.\r\n", content.replace('\n', "\r\n"));
    for command in
        ["EHLO c\r\n", "MAIL FROM:<alice@mx.example>\r\n", "RCPT TO:<bob@mx.example>\r\n", "DATA\r\n", &message]
    {
        if !last.starts_with(['2', '3']) {
            break;
        }
        client.write_all(command.as_bytes()).expect("a server that listens");
        last = hear();
    }
    last
}

fn pool_on(kind: &str, lack: Lack) {
    // Who mounts.
    if !crate::common::needs::root() {
        return;
    }
    let scratch = receiving();
    let disk = match kind {
        "ext4" => SmallDisk::ext4(&scratch, &scratch.queue(), if lack == Lack::Inodes { 64 } else { 512 }),
        _ => lack.disk(&scratch, &scratch.queue()),
    };
    let mut command = scratch.command("smtpd");
    let (server, address) =
        Server::pool(&mut command, &["-n", "4", "-o", "idle_children=1", "-o", "max_idle=1s"], &scratch.queue());
    // Somebody reads the FIFO, or each message would start deliver.
    let reader = super::disks::hold_trigger(&scratch);
    let mut taken = Vec::new();
    let mut send = |number: usize, content: &str| {
        let answer = answer(address, number, content);
        let is_taken = answer.starts_with("250 2.0.0 Ok: queued as ");
        taken.extend(is_taken.then_some(number));
        assert!(is_taken || answer.starts_with("452 4.3.1") || answer.starts_with("451 4.3.0"), "{number}: {answer}");
        is_taken
    };
    // So fast that files are prepared for those to come, where that gains something.
    assert!((0..4).all(|number| send(number, BODY)), "not all were taken before the disk was full");
    let fillers = lack.begin(&disk);
    let refused = (4..100).filter(|number| !send(*number, &text(*number))).take(3).count();
    assert_eq!(refused, 3, "{lack:?}: it takes mail for ever");
    lack.end(&disk, &fillers);
    assert!((100..104).all(|number| send(number, &text(number))), "{lack:?}: not well again");
    drop(reader);
    drop(server);
    scratch.deliver();
    let mail = scratch.texts("bob").concat();
    for number in 0..104 {
        let expected = usize::from(taken.contains(&number));
        assert_eq!(
            mail.matches(&format!("\nX-Number: {number}.\n")).count(),
            expected,
            "{lack:?}, {number}: {taken:?}"
        );
    }
    assert_eq!((scratch.mail("bob").len(), scratch.queued().len()), (taken.len(), 0));
    nothing_left_over(&scratch, kind);
    drop(disk);
}

#[test]
fn a_pool_tells_clients_that_the_queue_is_full_and_takes_mail_when_it_has_room_again() {
    pool_on("tmpfs", Lack::Room);
    pool_on("ext4", Lack::Room);
}

#[test]
fn a_pool_tells_clients_that_the_queue_has_no_inodes_and_takes_mail_when_it_has_some_again() {
    pool_on("tmpfs", Lack::Inodes);
    pool_on("ext4", Lack::Inodes);
}

#[test]
fn a_pool_tells_clients_that_the_queue_is_read_only_and_takes_mail_when_it_is_no_more() {
    pool_on("tmpfs", Lack::Rights);
}
