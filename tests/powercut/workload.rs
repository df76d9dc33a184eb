//! Mail through the real programs onto logged disks, and when each message was acknowledged.

use super::disk::{Kind, LoggedDisk};
use super::log::Log;
use super::pool::Pool;
use super::pop3::Maildrop;
use crate::common::hops::Hop;
use crate::common::{NOBODY, Scratch, feed};
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

const USERS: [&str; 3] = ["alice", "bob", "carol"];

/// Who leaves messages in the drop folder.
const USER: u32 = 12_345;

/// Messages that a next hop has had the end of, and how long the logs were then, before it answered.
type TakenBy = Arc<Mutex<Vec<(usize, Vec<u64>)>>>;

/// An installation whose queue and drop folder are on the first disk and whose mailboxes are on the last. What is for
/// smtp.example and lmtp.example goes to a next hop, which loses nothing when the power goes here; mbox.example and
/// mmdf.example have one file each.
pub struct Site {
    pub scratch: Scratch,
    disks: usize,
    pub hop: Hop,
    taken: TakenBy,
    logs: Arc<OnceLock<Vec<PathBuf>>>,
}

/// A next hop that notes what it has had the end of.
fn next_hop(taken: TakenBy, logs: Arc<OnceLock<Vec<PathBuf>>>) -> Hop {
    let numbers: Mutex<HashMap<usize, usize>> = Mutex::default();
    Hop::start(move |word, line, session| {
        match word {
            "RCPT" => {
                let number = line.split_once("message-").and_then(|(_, rest)| rest.split('@').next()?.parse().ok());
                numbers.lock().expect("numbers").insert(session, number.expect("a number"));
            }
            "." => {
                let number = numbers.lock().expect("numbers").remove(&session);
                let at = logs.get().map(|logs| positions(logs));
                taken.lock().expect("the list").extend(number.zip(at));
            }
            _ => {}
        }
        None
    })
}

impl Site {
    pub fn new(disks: usize) -> Site {
        let scratch = Scratch::with("qmqpd_authorized_clients = stdin\nipc_timeout = 60s");
        let (taken, logs) = (TakenBy::default(), Arc::default());
        let hop = next_hop(Arc::clone(&taken), Arc::clone(&logs));
        let site = Site { scratch, disks, hop, taken, logs };
        let [queue, mail, drop] = [site.queue(), site.mail(), site.drop_folder()];
        site.scratch.configure(&format!(
            "queue_directory = {}\nmailbox = maildir:{}/%u\ndrop_directory = {}",
            queue.display(),
            mail.display(),
            drop.display()
        ));
        let name = site.hop.name();
        let channels = format!(
            "local stdin,127.0.0.0/8 mx.example mailbox: *\nby-smtp - smtp.example smtp:{name} -\n\
             by-lmtp - lmtp.example lmtp:{name} -\n\
             by-mbox - mbox.example mbox:{} -\nby-mmdf - mmdf.example mmdf:{} -\n",
            site.mbox().display(),
            site.mmdf().display()
        );
        site.scratch.write("channels", &channels);
        site.scratch.write("aliases", "large: bob\n");
        for disk in 0..disks {
            fs::create_dir(site.mount_point(disk)).expect("a mount point");
        }
        site
    }

    pub fn mount_point(&self, disk: usize) -> PathBuf {
        self.scratch.path().join(format!("disk{disk}"))
    }

    pub fn queue(&self) -> PathBuf {
        self.mount_point(0).join("queue")
    }

    fn drop_folder(&self) -> PathBuf {
        self.mount_point(0).join("drop")
    }

    /// One of our programs, or what is planted in its place.
    pub fn command(&self, program: &str) -> Command {
        let real = self.scratch.command(program);
        let planted = self.scratch.path().join("planted").join(program);
        if !planted.exists() {
            return real;
        }
        let mut command = Command::new(planted);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", self.scratch.path());
        command
    }

    pub fn mail(&self) -> PathBuf {
        self.mount_point(self.disks - 1).join("mail")
    }

    /// The mailbox of all of mbox.example.
    pub fn mbox(&self) -> PathBuf {
        self.mail().join("mbox")
    }

    /// The mailbox of all of mmdf.example.
    pub fn mmdf(&self) -> PathBuf {
        self.mail().join("mmdf")
    }

    /// Where the mailboxes are from which POP3 removes.
    pub fn read_folder(&self) -> PathBuf {
        self.mount_point(self.disks - 1).join("read")
    }

    /// Where messages are seen in everybody's mailbox.
    pub fn folders_of_mail(&self) -> Vec<PathBuf> {
        USERS.iter().flat_map(|user| ["new", "cur"].map(|part| self.mail().join(user).join(part))).collect()
    }

    /// Every file there.
    pub fn messages(&self) -> Vec<PathBuf> {
        let folders = self.folders_of_mail();
        let files = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
        files.map(|entry| entry.expect("an entry").path()).collect()
    }

    /// Makes the folders that whoever installs makes, and mailboxes for POP3, all of it on disk; the FIFO's reader keeps
    /// submit from starting deliver itself.
    fn furnish(&self, maildrops: &[Maildrop]) -> fs::File {
        fs::DirBuilder::new().mode(0o700).create(self.queue()).expect("the queue");
        fs::DirBuilder::new().mode(0o755).create(self.mail()).expect("the mail folder");
        let trigger = self.queue().join("trigger");
        nix::unistd::mkfifo(&trigger, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("the trigger");
        fs::create_dir(self.drop_folder()).expect("the drop folder");
        fs::create_dir(self.read_folder()).expect("a folder of mailboxes");
        maildrops.iter().for_each(|maildrop| maildrop.make(&self.read_folder()));
        for folder in [self.queue(), self.mail(), self.drop_folder(), self.read_folder()] {
            self.scratch.hand_over(&folder);
        }
        fs::set_permissions(self.drop_folder(), fs::Permissions::from_mode(0o1733)).expect("its mode");
        nix::unistd::sync();
        fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(trigger).expect("the trigger")
    }
}

/// Left in the drop folder and sent to an alias: messages so large that the disk begins with them before they are complete.
const LARGE: [usize; 2] = [8, 10];

/// The content of message `number`: its own, of any size from a line to 36 kB, or of 1.5 MB, with leading dots.
pub fn content(number: usize) -> Vec<u8> {
    let lines = match number % 8 {
        _ if LARGE.contains(&number) => 42_000,
        0..4 => 1 + number % 20,
        4..7 => 100 + number % 200,
        _ => 900 + number % 700,
    };
    let mut text = format!("Subject: message {number}\n\n");
    for line in 0..lines {
        let dots = if line % 9 == 0 { "." } else { "" };
        text.push_str(&format!("{dots}line {line} of message {number} {:x}\n", (line + 1) * (number + 7919) * 104_729));
    }
    text.into_bytes()
}

/// An acknowledged message.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    pub number: usize,
    /// How long the logs were before the client had sent all: a reply then would have been a lie.
    pub early: Vec<u64>,
    /// How long the logs were when the client had read the reply.
    pub position: Vec<u64>,
}

/// What is done while a recording is made.
pub struct Load {
    /// Messages that are sent.
    pub messages: usize,
    /// Mailboxes of which a session of POP3 removes some of the messages.
    pub maildrops: Vec<Maildrop>,
    /// At the end one more message goes into a Maildir; then the file system of the queue puts all on disk that it knows, as it
    /// does by itself every few seconds, and that of the mail on another disk not yet.
    pub settles_queue: bool,
}

impl Load {
    /// Messages, and after every third of them a session of POP3.
    pub fn mixed(messages: usize) -> Load {
        Load { messages, maildrops: (0..messages.div_ceil(3)).map(Maildrop).collect(), settles_queue: false }
    }
}

/// What a recording gives.
pub struct Recording {
    /// The folders of the recorders.
    pub disks: Vec<PathBuf>,
    pub acknowledged: Vec<Acknowledged>,
    pub messages: usize,
    /// What the next hop had the end of, and how long the logs were then.
    pub taken: Vec<(usize, Vec<u64>)>,
    /// The mailboxes of POP3, and how long the logs were when QUIT had been answered.
    pub emptied: Vec<(Maildrop, Vec<u64>)>,
    /// Lengths that the logs had at one moment, from the first message on.
    pub moments: Vec<Vec<u64>>,
}

/// A fault to plant: replaces a program by a script that runs it differently.
pub type Plant<'a> = dyn Fn(&Site) + 'a;

/// Sends messages by SMTP (to servers of their own and through a pool), by QMQP and through the drop folder, and removes
/// others by POP3; one after another and then several at once, with deliver running after the first part and throughout
/// the second.
pub fn record(kind: Kind, disks: usize, load: &Load, folder: &Path, plant: &Plant<'_>) -> Recording {
    let site = Site::new(disks);
    let logged: Vec<LoggedDisk> = (0..disks)
        .map(|number| LoggedDisk::new(kind, &folder.join(number.to_string()), &site.mount_point(number)))
        .collect();
    let logs: Vec<PathBuf> = logged.iter().map(LoggedDisk::log).collect();
    let _ = site.logs.set(logs.clone());
    let trigger = site.furnish(&load.maildrops);
    plant(&site);
    let pool = Pool::start(&site);
    let done = AtomicBool::new(false);
    let (acknowledged, emptied) = (Mutex::default(), Mutex::default());
    let mut moments = Vec::new();
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch(&logs, &done));
        let work = scope.spawn(|| work(&site, &pool, &logs, load, &acknowledged, &emptied));
        let worked = work.join();
        done.store(true, Ordering::Release);
        moments = watch.join().expect("the watch");
        worked.expect("the work");
    });
    drop((pool, trigger));
    let disks: Vec<PathBuf> = logged.into_iter().map(LoggedDisk::finish).collect();
    if let ([disk], Some(first), Some(last)) = (&disks[..], moments.first(), moments.last()) {
        let ends = Log::open(&disk.join("log")).expect("a log").entries.into_iter().map(|entry| vec![entry.end]);
        moments = ends.filter(|end| first <= end && end <= last).collect();
    }
    let acknowledged = acknowledged.into_inner().expect("acknowledgements");
    let taken = std::mem::take(&mut *site.taken.lock().expect("the list"));
    let emptied = emptied.into_inner().expect("sessions");
    Recording { disks, acknowledged, messages: load.messages, taken, emptied, moments }
}

/// The lengths of all logs.
pub fn positions(logs: &[PathBuf]) -> Vec<u64> {
    logs.iter().map(|log| fs::metadata(log).expect("a log").len()).collect()
}

/// Sees every length that two logs have together, and of one log the first and the last. Of two one may grow between two
/// looks: what is seen twice running stood at one moment.
fn watch(logs: &[PathBuf], done: &AtomicBool) -> Vec<Vec<u64>> {
    let mut moments: Vec<Vec<u64>> = Vec::new();
    loop {
        let last = done.load(Ordering::Acquire);
        let now = positions(logs);
        if moments.last() != Some(&now) && positions(logs) == now {
            moments.push(now);
        }
        match logs {
            _ if last => return moments,
            [_] => std::thread::sleep(Duration::from_millis(1)),
            _ => std::thread::yield_now(),
        }
    }
}

fn work(
    site: &Site,
    pool: &Pool,
    logs: &[PathBuf],
    load: &Load,
    acknowledged: &Mutex<Vec<Acknowledged>>,
    emptied: &Mutex<Vec<(Maildrop, Vec<u64>)>>,
) {
    let messages = load.messages;
    let quit = |maildrop: &Maildrop| {
        let position = maildrop.quit(site, logs);
        emptied.lock().expect("sessions").push((*maildrop, position));
    };
    let together: Vec<usize> = (0..messages).filter(|number| is_pooled(*number)).take(4).collect();
    if together.len() == 4 {
        let client = pool.connect();
        let from = client.try_clone().expect("a copy");
        acknowledged.lock().expect("acknowledgements").extend(smtp_session(client, from, logs, &together));
        assert!(has_prepared(site), "no file was prepared for messages to come");
    }
    let send = |number: usize| {
        let ack = match number % 9 {
            _ if together.len() == 4 && together.contains(&number) => None,
            2 | 5 => qmqp(site, logs, number),
            8 => Some(left(site, logs, number)),
            _ => Some(smtp(site, pool, logs, number)),
        };
        acknowledged.lock().expect("acknowledgements").extend(ack);
        if number.is_multiple_of(3) {
            load.maildrops.get(number / 3).into_iter().for_each(quit);
        }
    };
    let first_part = messages / 2;
    (0..first_part).for_each(send);
    sweep(site);
    let next = AtomicUsize::new(first_part);
    let sending = AtomicUsize::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let _ended = Ended(&sending);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= messages {
                        break;
                    }
                    send(number);
                }
            });
        }
        while sending.load(Ordering::Acquire) > 0 {
            sweep(site);
        }
    });
    sweep(site);
    load.maildrops.iter().skip(messages.div_ceil(3)).for_each(quit);
    if load.settles_queue {
        send(messages.next_multiple_of(9) + 1);
        sweep(site);
        let queue = fs::File::open(site.queue()).expect("the queue");
        nix::unistd::syncfs(&queue).expect("syncfs");
    }
}

/// Whether there are files in the queue that are no messages yet.
fn has_prepared(site: &Site) -> bool {
    let queue = doorpost::queue::Queue::at(&site.queue());
    let names = queue.names().expect("the queue");
    names.iter().any(|name| queue.look(&name.id).expect("a file of the queue").is_none())
}

/// Counts a thread down even when it panics.
struct Ended<'a>(&'a AtomicUsize);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

fn sweep(site: &Site) {
    let output = feed(&mut site.command("deliver"), b"");
    assert!(output.status.success(), "deliver: {output:?}");
}

/// Who gets message `number`: somebody here, or at the next hop.
fn recipient(number: usize) -> String {
    match number % 9 {
        _ if number == LARGE[1] => "large@mx.example".to_owned(),
        0 | 2 => format!("message-{number}@mbox.example"),
        3 => format!("message-{number}@mmdf.example"),
        4 => format!("message-{number}@smtp.example"),
        7 => format!("message-{number}@lmtp.example"),
        _ => format!("{}@mx.example", USERS[number % USERS.len()]),
    }
}

/// Whether it goes to the next hop.
pub fn is_far(number: usize) -> bool {
    matches!(number % 9, 4 | 7)
}

/// A message that a user leaves in the drop folder.
fn left(site: &Site, logs: &[PathBuf], number: usize) -> Acknowledged {
    let mut command = site.command("submit");
    let command = command.args(["-f", "alice@mx.example", &recipient(number)]).uid(USER).gid(USER);
    let early = positions(logs);
    let output = feed(command, &content(number));
    assert!(output.status.success(), "message {number}: {output:?}");
    assert_ne!(USER, NOBODY);
    Acknowledged { number, early, position: positions(logs) }
}

/// Whether it comes through the pool. The first four do in one session, so that files are prepared for two of them.
fn is_pooled(number: usize) -> bool {
    number.is_multiple_of(2) && !matches!(number % 9, 2 | 5 | 8)
}

/// One SMTP session with one message: with a server of its own, or through the pool.
fn smtp(site: &Site, pool: &Pool, logs: &[PathBuf], number: usize) -> Acknowledged {
    let only = |acknowledged: Vec<Acknowledged>| acknowledged.into_iter().next().expect("one message");
    if is_pooled(number) {
        let client = pool.connect();
        let from = client.try_clone().expect("a copy");
        return only(smtp_session(client, from, logs, &[number]));
    }
    let mut server = site
        .command("smtpsrvr")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("smtpsrvr");
    let (to, from) = (server.stdin.take().expect("a pipe"), server.stdout.take().expect("a pipe"));
    let acknowledged = smtp_session(to, from, logs, &[number]);
    let _ = server.wait();
    only(acknowledged)
}

fn smtp_session(mut to: impl Write, from: impl Read, logs: &[PathBuf], numbers: &[usize]) -> Vec<Acknowledged> {
    let mut from = BufReader::new(from);
    let mut reply = move || {
        let mut line = String::new();
        while from.read_line(&mut line).is_ok_and(|octets| octets > 0) && line.as_bytes().get(3) == Some(&b'-') {
            line.clear();
        }
        line
    };
    let mut say = |octets: &[u8]| to.write_all(octets).expect("a server that listens");
    assert!(reply().starts_with("220 "), "no greeting");
    say(b"EHLO client.example\r\n");
    assert!(reply().starts_with("250 "), "EHLO is refused");
    let mut send = |number: &usize| {
        for (command, expected) in [
            ("MAIL FROM:<alice@mx.example>".to_owned(), "250 "),
            (format!("RCPT TO:<{}>", recipient(*number)), "250 "),
            ("DATA".to_owned(), "354 "),
        ] {
            say(format!("{command}\r\n").as_bytes());
            let answer = reply();
            assert!(answer.starts_with(expected), "{command}: {answer}");
        }
        let text = String::from_utf8(content(*number)).expect("text");
        say(text.replace("\n.", "\n..").replace('\n', "\r\n").as_bytes());
        let early = positions(logs);
        say(b".\r\n");
        let answer = reply();
        let position = positions(logs);
        assert!(answer.starts_with("250 2.0.0 "), "message {number}: {answer}");
        Acknowledged { number: *number, early, position }
    };
    let acknowledged = numbers.iter().map(&mut send).collect();
    say(b"QUIT\r\n");
    let _ = reply();
    acknowledged
}

/// One QMQP package.
fn qmqp(site: &Site, logs: &[PathBuf], number: usize) -> Option<Acknowledged> {
    let netstring = |octets: &[u8]| [format!("{}:", octets.len()).as_bytes(), octets, b","].concat();
    let parts = [netstring(&content(number)), netstring(b"alice@mx.example"), netstring(recipient(number).as_bytes())];
    let package = netstring(&parts.concat());
    let mut server = site
        .command("qmqpd")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("qmqpd");
    let mut to = server.stdin.take().expect("a pipe");
    let early = positions(logs);
    to.write_all(&package).expect("a server that listens");
    let mut answer = Vec::new();
    BufReader::new(server.stdout.take().expect("a pipe")).read_until(b',', &mut answer).expect("an answer");
    let position = positions(logs);
    drop(to);
    let _ = server.wait();
    assert!(answer.windows(2).any(|two| two == b":K"), "message {number}: {}", answer.escape_ascii());
    Some(Acknowledged { number, early, position })
}
