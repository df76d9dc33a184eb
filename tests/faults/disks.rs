//! Disks that are full, out of inodes or read-only: what is told, and how soon; what is kept; and that all is well again
//! when there is room.
//!
//! That the answer comes within a second of the command that there is no room for is asked of the software, on a disk that is
//! memory; it is measured once and not tried again.

use super::super::*;
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(1);

/// A file system of its own for a folder, small and soon full or read-only. Only root can mount one.
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    pub fn on(scratch: &Scratch, folder: &Path, options: &str) -> SmallDisk {
        mount(&["-t", "tmpfs", "-o", options, "tmpfs"], folder);
        let disk = SmallDisk(folder.to_owned());
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("mode of the folder");
        scratch.hand_over(folder);
        disk
    }

    /// One with a journal, so that a flush takes its time. Of 8 MB, and with so many inodes.
    pub fn ext4(scratch: &Scratch, folder: &Path, inodes: u32) -> SmallDisk {
        let image = scratch.path().join("image");
        fs::File::create(&image).and_then(|file| file.set_len(8 << 20)).expect("an image");
        let made = Command::new("mkfs.ext4").args(["-q", "-N", &inodes.to_string()]).arg(&image).status();
        assert!(made.expect("mkfs.ext4").success());
        // What is written takes its place at once.
        mount(&["-o", "loop,nodelalloc", image.to_str().expect("a path")], folder);
        let disk = SmallDisk(folder.to_owned());
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("mode of the folder");
        scratch.hand_over(folder);
        disk
    }

    pub fn remount(&self, option: &str) {
        mount(&["-o", &format!("remount,{option}")], &self.0);
    }

    /// The same where somebody may be writing.
    pub fn can_remount(&self, option: &str) -> bool {
        let mut command = Command::new("mount");
        command.args(["-o", &format!("remount,{option}")]).arg(&self.0);
        command.stderr(Stdio::null()).status().expect("mount(8)").success()
    }
}

fn mount(arguments: &[&str], folder: &Path) {
    let mounted = Command::new("mount").args(arguments).arg(folder).status().expect("mount(8)");
    assert!(mounted.success(), "mounting a small tmpfs needs root");
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// One session of a program, a command at a time.
struct Talk {
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    process: std::process::Child,
    /// The longest time from a command to the end of its answer.
    slowest: Duration,
    said: String,
}

impl Talk {
    fn with(scratch: &Scratch, program: &str) -> Talk {
        let mut command = scratch.command(program);
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect(program);
        let (to, from) = (process.stdin.take(), BufReader::new(process.stdout.take().expect("a pipe")));
        Talk { to, from, process, slowest: Duration::ZERO, said: String::new() }
    }

    /// Sends something and reads lines until `is_last`; what was said then.
    fn say(&mut self, octets: &[u8], is_last: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        // Who has answered already need not read on.
        let _ = self.to.as_mut().expect("a pipe").write_all(octets);
        let mut answer = String::new();
        loop {
            let mut line = String::new();
            let octets = self.from.read_line(&mut line).expect("an answer");
            answer.push_str(&line);
            if octets == 0 || is_last(&line) {
                break;
            }
        }
        self.slowest = self.slowest.max(begun.elapsed());
        self.said.push_str(&answer);
        answer
    }

    /// Lets go; everything that was said.
    fn end(mut self, what: &str) -> String {
        drop(self.to.take());
        std::io::Read::read_to_string(&mut self.from, &mut self.said).expect("an answer");
        let status = self.process.wait().expect("its end");
        assert!(status.code().is_some(), "{what}: ended by a signal");
        assert!(self.slowest < SOON, "{what}: {:?} to an answer: {}", self.slowest, self.said);
        self.said
    }
}

/// A message by SMTP: everything that was said.
fn by_smtp(scratch: &Scratch, content: &str, what: &str) -> String {
    let mut talk = Talk::with(scratch, "smtpsrvr");
    let is_last = |line: &str| line.as_bytes().get(3) != Some(&b'-');
    talk.say(b"", is_last);
    for command in ["EHLO c", "MAIL FROM:<alice@mx.example>", "RCPT TO:<bob@mx.example>"] {
        talk.say(format!("{command}\r\n").as_bytes(), is_last);
    }
    if talk.say(b"DATA\r\n", is_last).starts_with("354") {
        talk.say(format!("{}.\r\n", content.replace("\n.", "\n..").replace('\n', "\r\n")).as_bytes(), is_last);
    }
    talk.say(b"QUIT\r\n", is_last);
    talk.end(what)
}

/// The same by QMQP.
fn by_qmqp(scratch: &Scratch, content: &str, what: &str) -> String {
    let netstring = |text: &str| format!("{}:{text},", text.len());
    let mut talk = Talk::with(scratch, "qmqpd");
    let package = netstring(&[content, "alice@mx.example", "bob@mx.example"].map(netstring).concat());
    // The answer has no line end: it is all up to the end.
    talk.say(package.as_bytes(), |_| false);
    talk.end(what)
}

/// The same by submit, as a user does; what it ended with.
fn by_submit(scratch: &Scratch, content: &str, what: &str) -> Option<i32> {
    let begun = Instant::now();
    let output = scratch.run("submit", &["-f", "alice@mx.example", "bob@mx.example"], content.as_bytes());
    assert!(begun.elapsed() < SOON, "{what}: submit took {:?}", begun.elapsed());
    output.status.code()
}

fn is_taken(said: &str) -> bool {
    said.contains("\r\n250 2.0.0 Ok: queued as ") || said.contains(":KOk: queued as ")
}

/// Every way in says that it is for later, soon, and the queue is as it was.
fn all_put_off(scratch: &Scratch, content: &str, what: &str) {
    // On a read-only disk none can be opened as deliver opens them.
    let queue = || files(&scratch.queue().join("message")).iter().flat_map(|folder| files(folder)).collect::<Vec<_>>();
    let before = queue();
    let said = by_smtp(scratch, content, what);
    assert!(said.contains("\r\n452 4.3.1") || said.contains("\r\n451 4.3.0"), "{what}: {said}");
    let said = by_qmqp(scratch, content, what);
    assert!(said.contains(":Z"), "{what}: {said}");
    assert_eq!(by_submit(scratch, content, what), Some(75), "{what}: submit");
    assert_eq!(queue(), before, "{what}: the queue changed");
}

fn all_taken(scratch: &Scratch, what: &str) {
    assert!(is_taken(&by_smtp(scratch, BODY, what)), "{what}: SMTP");
    assert!(is_taken(&by_qmqp(scratch, BODY, what)), "{what}: QMQP");
    assert_eq!(by_submit(scratch, BODY, what), Some(0), "{what}: submit");
}

#[test]
fn a_read_only_queue_is_told_as_temporary_within_a_second_and_is_well_again() {
    let mut scratch = receiving();
    scratch.let_deliver_start();
    let disk = SmallDisk::on(&scratch, &scratch.queue(), "size=1m");
    let reader = hold_trigger(&scratch);
    all_taken(&scratch, "before");
    disk.remount("ro");
    all_put_off(&scratch, BODY, "read-only");
    let output = scratch.run("deliver", &[], b"");
    assert!(output.status.code().is_some(), "{output:?}");
    disk.remount("rw");
    all_taken(&scratch, "writable again");
    due_again(&scratch);
    scratch.deliver();
    // What cannot be marked as delivered may come again, under the same name, so not twice.
    assert_eq!((scratch.queued().len(), scratch.mail("bob").len()), (0, 6));
    drop((reader, disk));
}

#[test]
fn read_only_mailboxes_defer_deliveries_and_refuse_to_remove() {
    let scratch = queued();
    let disk = SmallDisk::on(&scratch, &scratch.path().join("mail"), "size=1m");
    scratch.put_mail("bob", "1700000000.M0.mx", b"Subject: one\n\nto be removed\n");
    scratch.put_mail("bob", "1700000001.M1.mx", b"Subject: two\n\nto be kept\n");
    disk.remount("ro");
    scratch.deliver();
    assert_eq!((scratch.queued().len(), scratch.mail("bob").len()), (1, 2), "deferred");
    let case = pop3(Traced::Itself);
    let output = feed(&mut scratch.command(case.program), &case.input);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.lines().last().is_some_and(|line| line.starts_with("-ERR")), "{said}");
    assert_eq!(scratch.mail("bob").len(), 2, "removed from a read-only mailbox");
    disk.remount("rw");
    let output = feed(&mut scratch.command(case.program), &case.input);
    assert!(output.stdout.ends_with(b"+OK Goodbye\r\n"), "{output:?}");
    due_again(&scratch);
    scratch.deliver();
    assert_eq!((scratch.queued().len(), scratch.mail("bob").len()), (0, 2), "one removed, one delivered");
    drop(disk);
}

#[test]
fn a_full_disk_is_told_as_temporary_within_a_second_and_is_well_again_when_space_returns() {
    let big = format!("Subject: big\n\n{}", format!("{}\n", "x".repeat(900)).repeat(60));
    for options in ["size=64k", "size=1m,nr_inodes=24"] {
        let mut scratch = receiving();
        scratch.let_deliver_start();
        let disk = SmallDisk::on(&scratch, &scratch.queue(), options);
        let reader = hold_trigger(&scratch);
        let refused =
            [BODY, &big].into_iter().cycle().take(80).any(|text| !is_taken(&by_smtp(&scratch, text, options)));
        assert!(refused, "{options}: the disk never filled");
        let before = scratch.queued().len();
        assert!(before > 0, "{options}: nothing was taken before the disk filled");
        all_put_off(&scratch, &big, options);
        scratch.deliver();
        assert_eq!((scratch.queued().len(), scratch.mail("bob").len()), (0, before), "{options}: delivered");
        all_taken(&scratch, options);
        drop((reader, disk));
    }
}

pub fn hold_trigger(scratch: &Scratch) -> fs::File {
    use std::os::unix::fs::OpenOptionsExt;
    let path = scratch.queue().join("trigger");
    let _ = nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600));
    scratch.hand_over(&path);
    fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).expect("the trigger")
}

/// Files in a folder until there is room for nothing.
pub fn fill(folder: &Path) -> Vec<PathBuf> {
    let mut fillers = Vec::new();
    for number in 0.. {
        let path = folder.join(format!("filler{number}"));
        let Ok(mut file) = fs::File::create(&path) else { break };
        let written = (0..10_000).try_for_each(|_| file.write_all(&[b'f'; 4096]));
        assert!(number < 10_000, "the disk never fills");
        fillers.push(path);
        if written.is_err() && number > 100 {
            break;
        }
    }
    fillers
}

/// Two messages, of which a session removes the first.
fn put_two(scratch: &Scratch, format: &str) {
    let folder = scratch.path().join("mail");
    if format == "maildir" {
        scratch.put_mail("bob", "1700000000.M0.mx", b"Subject: one\n\nto be removed\n");
        scratch.put_mail("bob", "1700000001.M1.mx", b"Subject: two\n\nto be kept\n");
        return;
    }
    scratch.configure(&format!("mailbox = {format}:{}/%u", folder.display()));
    let texts = ["Subject: one\n\nto be removed\n", "Subject: two\n\nto be kept\n"];
    let whole = texts.map(|text| match format {
        "mbox" => format!("From a Sun Nov 22 04:27:00 2026\n{text}\n"),
        _ => format!("\x01\x01\x01\x01\n{text}\x01\x01\x01\x01\n"),
    });
    fs::write(folder.join("bob"), whole.concat()).expect("a mailbox");
    scratch.hand_over(&folder.join("bob"));
}

/// Everything in the mailbox, and nothing else of the folder.
fn contents(scratch: &Scratch) -> String {
    match scratch.maildir("bob").is_dir() {
        true => String::from_utf8(scratch.mail("bob").concat()).expect("text"),
        false => fs::read_to_string(scratch.maildir("bob")).expect("the mailbox"),
    }
}

/// A session that fetches messages and marks them. `meanwhile` is done before QUIT. Gives what was said.
fn remove(scratch: &Scratch, numbers: &[usize], what: &str, meanwhile: impl FnOnce()) -> String {
    let mut talk = Talk::with(scratch, "pop3d");
    let one = |_: &str| true;
    talk.say(b"", one);
    talk.say(b"USER bob\r\n", one);
    let login = format!("PASS {}\r\n", common::PASSWORD);
    assert!(talk.say(login.as_bytes(), one).starts_with("+OK"), "{what}: {}", talk.said);
    for number in numbers {
        let command = format!("RETR {number}\r\n");
        let message = talk.say(command.as_bytes(), |line| line == ".\r\n" || line.starts_with("-ERR"));
        assert!(message.contains("\r\n\r\nto be "), "{what}: {message}");
        talk.say(format!("DELE {number}\r\n").as_bytes(), one);
    }
    meanwhile();
    talk.say(b"QUIT\r\n", one);
    talk.end(what)
}

#[test]
fn what_pop3d_says_on_a_full_disk_is_true_and_soon_and_all_is_well_when_space_returns() {
    for format in ["maildir", "mbox", "mmdf"] {
        for options in ["size=128k", "size=1m,nr_inodes=16"] {
            for is_full_before in [false, true] {
                let scratch = Scratch::with(AT_ONCE);
                let disk = SmallDisk::on(&scratch, &scratch.path().join("mail"), options);
                put_two(&scratch, format);
                if !options.contains("nr_inodes") {
                    // Which needs a file, and no room for what stands in it.
                    scratch.configure("mailbox_delivery_lock = dotlock");
                }
                let before = contents(&scratch);
                let what = format!("{format}, {options}, full before login: {is_full_before}");
                let fillers = RefCell::new(Vec::new());
                let fill = || fillers.borrow_mut().extend(fill(&scratch.path().join("mail")));
                if is_full_before {
                    fill();
                }
                let said = remove(&scratch, &[1], &what, || {
                    if !is_full_before {
                        fill()
                    }
                });
                let last = said.lines().last().unwrap_or_default();
                let now = contents(&scratch);
                assert!(now.contains("to be kept\n"), "{what}: the unmarked message is gone: {said}");
                if format == "maildir" {
                    // To remove a file takes no room.
                    assert!(last.starts_with("+OK") && !now.contains("to be removed"), "{what}: {said}");
                } else {
                    // What stays is written anew.
                    assert!(last.starts_with("-ERR [SYS/TEMP]") && now == before, "{what}: {said}");
                    if !options.contains("nr_inodes") {
                        // Nothing stays: who removes all makes room.
                        let said = remove(&scratch, &[1, 2], &what, || ());
                        assert!(said.ends_with("+OK Goodbye\r\n") && contents(&scratch).is_empty(), "{what}: {said}");
                        put_two(&scratch, format);
                    }
                }
                fillers.take().iter().for_each(|path| fs::remove_file(path).expect("a filler"));
                let said = remove(&scratch, &[1], &what, || ());
                assert!(said.ends_with("+OK Goodbye\r\n"), "{what}: not well again: {said}");
                assert_eq!(contents(&scratch).contains("to be kept\n"), format != "maildir", "{what}");
                assert!(!contents(&scratch).contains("to be removed"), "{what}");
                drop(disk);
            }
        }
    }
}
