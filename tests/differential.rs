//! The same generated sessions to ours and to live Postfix, Dovecot and Mailutils: classes of replies, numbers of messages
//! and stored octets are compared. A difference is one of those that doc/pitfalls.md explains, or it fails here.
//!
//! `DIFFERENTIAL_SESSIONS=10000 DIFFERENTIAL_SEED=7 cargo test --features interop --test differential` makes more of them.
//! QMQP is compared in qmqp_postfix.rs.

mod common;
mod differential {
    #[path = "../powercut/chance.rs"]
    pub mod chance;
    pub mod generate;
    pub mod known;
    pub mod pop3;
    pub mod smtp;
}

use common::postfix::Postfix;
use common::{Scratch, binary};
use differential::chance::Chance;
use differential::generate::{self, Session};
use differential::known;
use differential::pop3::{self, Answer};
use differential::smtp::{self, Kept, Trace};
use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How many sessions, and from which seed.
pub fn size(usual: usize) -> (usize, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let sessions = number("DIFFERENTIAL_SESSIONS").and_then(|count| usize::try_from(count).ok());
    (sessions.unwrap_or(usual), number("DIFFERENTIAL_SEED").unwrap_or(20_261_122))
}

/// A program of ours that accepts by itself; killed when dropped.
pub struct Ours {
    /// Where it listens.
    pub address: SocketAddr,
    process: Child,
}

impl Ours {
    /// One on a free port.
    pub fn start(scratch: &Scratch, program: &str) -> Ours {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its number");
        let mut command = Command::new(binary(program));
        command.env_clear().arg("--config").arg(scratch.path());
        let command = command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
        Ours { address, process: command.spawn().expect("a program of ours") }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where both keep what is not worth a disk's time.
pub fn in_memory() -> &'static std::path::Path {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { memory } else { std::path::Path::new("/tmp") }
}

const BATCH: usize = 100;

#[test]
fn smtp_sessions_go_as_with_postfix() {
    let (sessions, seed) = size(400);
    let postfix = Postfix::start(
        in_memory(),
        "smtpd",
        "mynetworks =\nsmtpd_relay_restrictions = reject_unauth_destination\nsmtpd_peername_lookup = no\n\
         local_header_rewrite_clients =\nmessage_size_limit = 200000\nvirtual_mailbox_limit = 0\n\
         smtpd_error_sleep_time = 0\nsmtpd_soft_error_limit = 1000\nsmtpd_client_connection_count_limit = 0",
    );
    let scratch = Scratch::with("message_size_limit = 200000");
    scratch.write("channels", "local - mx.example mailbox: local\nsmtp * * smtp: local\n");
    let ours = Ours::start(&scratch, "smtpsrvr");
    let mut chance = Chance(seed);
    let mut count = known::Count::default();
    let mut done = 0;
    while done < sessions {
        let batch: Vec<Session> =
            (0..BATCH.min(sessions - done)).map(|number| generate::session(&mut chance, done + number)).collect();
        done += batch.len();
        let traces: Vec<(Trace, Trace)> = batch
            .iter()
            .map(|session| (smtp::play(ours.address, session), smtp::play(postfix.address, session)))
            .collect();
        let (mut mine, mut other) = (smtp::ours(&scratch), smtp::theirs(&postfix));
        for (session, (here, there)) in batch.iter().zip(&traces) {
            compare(session, here, there, (&mut mine, &mut other), &mut count);
        }
        assert!(mine.is_empty(), "queued, and nobody was told: {mine:?}");
    }
    count.report("SMTP", sessions, seed);
}

type Stored = BTreeMap<String, Kept>;

/// Compares up to the first difference that changes what comes behind it.
fn compare(
    session: &Session,
    here: &Trace,
    there: &Trace,
    stored: (&mut Stored, &mut Stored),
    count: &mut known::Count,
) {
    let mut differs = false;
    for (number, step) in session.steps.iter().enumerate() {
        let kept = (
            here.taken.get(&number).and_then(|id| stored.0.remove(id)),
            there.taken.get(&number).and_then(|id| stored.1.remove(id)),
        );
        if differs {
            continue;
        }
        let (mine, other) = (here.classes[number], there.classes[number]);
        if mine != other {
            let dialogue = || {
                let line = |n: usize| {
                    let said: String = String::from_utf8_lossy(&session.steps[n].octets).chars().take(120).collect();
                    format!("{said:?}\n   ours   {}\n   theirs {}\n", here.texts[n], there.texts[n])
                };
                (0..=number).map(line).collect::<String>()
            };
            let closed = mine == '0' || other == '0';
            let shape = if closed { session.steps[number.saturating_sub(1)].shape } else { step.shape };
            // Postfix remembers a size that was too large for the next MAIL.
            let too_large = |step: &generate::Step| ["mail-size-over", "mail-size-huge"].contains(&step.shape);
            let remembers = shape.starts_with("mail") && session.steps[..number].iter().any(too_large);
            let shape = if remembers { "mail-behind-size-over" } else { shape };
            count.differs("Postfix", shape, &format!("{} / {}", class(mine), class(other)), dialogue);
            // A transaction that only one of them began goes on otherwise in all that follows.
            differs = closed || !generate::is_aside(step.shape);
            continue;
        }
        count.step(step.shape);
        match kept {
            (Some(mine), Some(other)) => {
                count.message(step.shape, &step.octets, &mine, &other);
            }
            (None, None) => {}
            (mine, other) => panic!("{}: a message is missing: ours {mine:?}, theirs {other:?}", step.shape),
        }
    }
}

/// How the tables name a class of replies.
fn class(digit: char) -> String {
    match digit {
        '0' => "closed".to_owned(),
        '-' => "not sent".to_owned(),
        digit => format!("{digit}xx"),
    }
}

#[test]
fn pop3_sessions_go_as_with_dovecot_and_mailutils() {
    let (sessions, seed) = size(200);
    let scratch = Scratch::new();
    let ours = Ours::start(&scratch, "pop3d");
    let (dovecot, mailutils) = (Dovecot::start(), Mailutils::new());
    let mut chance = Chance(seed);
    let mut count = known::Count::default();
    for _ in 0..sessions {
        let session = pop3::session(&mut chance);
        put_maildir(&scratch.maildir("bob"), &session);
        let here = pop3::play(TcpStream::connect(ours.address).expect("a connection"), &session);
        let left = files_in(&scratch.maildir("bob"));
        put_maildir(&dovecot.maildir(), &session);
        let there = pop3::play(TcpStream::connect(dovecot.address).expect("a connection"), &session);
        compare_pop3("Dovecot", &session, &here, &there, (left, files_in(&dovecot.maildir())), &mut count);
        // Behind a header without an end, or one that ends in CR LF, Mailutils does not see the next "From " line.
        if session.messages.iter().any(|(shape, _)| ["crlf-stored", "header-only"].contains(shape)) {
            continue;
        }
        mailutils.put(&session);
        let there = mailutils.play(&session);
        compare_pop3("Mailutils", &session, &here, &there, (left, mailutils.left()), &mut count);
    }
    count.report("POP3", sessions, seed);
}

/// Compares up to the first difference that changes what comes behind it; what is left in the mailbox if there is none.
fn compare_pop3(
    server: &str,
    session: &pop3::Session,
    here: &[Answer],
    there: &[Answer],
    left: (usize, usize),
    count: &mut known::Count,
) {
    let special = session.messages.iter().map(|(shape, _)| *shape).find(|shape| *shape != "plain").unwrap_or("plain");
    for (number, step) in session.steps.iter().enumerate() {
        let (mine, other) = (&here[number], &there[number]);
        let dialogue = || {
            let line =
                |n: usize| format!("{:?}\n   ours   {:?}\n   theirs {:?}\n", session.steps[n].line, here[n], there[n]);
            (number.saturating_sub(1)..=number).map(line).collect::<String>()
        };
        count.step(step.shape);
        if mine.class != other.class {
            let closed = mine.class == '0' || other.class == '0';
            let shape = if closed { session.steps[number.saturating_sub(1)].shape } else { step.shape };
            let class = |answer: &Answer| match answer.class {
                '+' => "+OK",
                '-' => "-ERR",
                _ => "closed",
            };
            count.differs(server, shape, &format!("{} / {}", class(mine), class(other)), dialogue);
            if closed
                || ["dele", "rset", "user", "pass", "quit", "last", "early"]
                    .iter()
                    .any(|word| step.shape.starts_with(word))
            {
                return;
            }
        } else if pop3::essence(step, mine) != pop3::essence(step, other) {
            let shape = step.message.map_or(special, |message| session.messages[message - 1].0);
            // Mailutils writes unique-ids into the messages as soon as one is asked for, and doubles a line in TOP.
            let shape = match (server, step.shape) {
                ("Mailutils", _) if session.steps[..number].iter().any(|step| step.shape.starts_with("uidl")) => {
                    "behind-uidl"
                }
                ("Mailutils", "top") => "top",
                _ => shape,
            };
            let what = if ["retr", "top"].contains(&step.shape) { "octets" } else { "sizes" };
            count.differs(server, shape, what, dialogue);
        }
    }
    let dialogue = || format!("left: ours {}, theirs {}\n{:?}\n{here:?}\n", left.0, left.1, session.steps);
    if left.0 != left.1 {
        let last = session.steps.last().map_or("", |step| step.shape);
        count.differs(server, last, "messages left", dialogue);
    }
}

fn put_maildir(folder: &Path, session: &pop3::Session) {
    let _ = fs::remove_dir_all(folder);
    for part in ["tmp", "new", "cur"] {
        fs::create_dir_all(folder.join(part)).expect("Maildir");
    }
    for (number, (_, text)) in session.messages.iter().enumerate() {
        fs::write(folder.join("new").join(format!("17000000{number:02}.M{number}.mx")), text).expect("a message");
    }
    for path in [folder.to_owned(), folder.join("tmp"), folder.join("new"), folder.join("cur")] {
        let inside = fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path());
        for path in inside.chain([path]) {
            chown(path, Some(common::NOBODY), Some(common::NOBODY)).expect("chown");
        }
    }
}

fn files_in(maildir: &Path) -> usize {
    ["new", "cur"].iter().map(|part| fs::read_dir(maildir.join(part)).expect("a folder").count()).sum()
}

/// A private Dovecot that serves POP3; ended when dropped.
struct Dovecot {
    folder: tempfile::TempDir,
    address: SocketAddr,
    process: Child,
}

impl Dovecot {
    fn start() -> Dovecot {
        let folder = tempfile::Builder::new().prefix("doorpost-dovecot-").tempdir_in(in_memory()).expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        fs::create_dir(folder.path().join("run")).expect("a folder");
        let address = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
        let top = folder.path().display();
        let configuration = format!(
            "base_dir = {top}/run\nstate_dir = {top}/run\nprotocols = pop3\nlisten = 127.0.0.1\nssl = no\n\
             disable_plaintext_auth = no\nlog_path = {top}/log\nmail_location = maildir:{top}/mail/%n\n\
             first_valid_uid = 1\nmail_max_userip_connections = 0\nauth_mechanisms = plain\nauth_failure_delay = 0\n\
             passdb {{\n driver = static\n args = password=secret\n}}\n\
             userdb {{\n driver = static\n args = uid={0} gid={0} home={top}/home/%n\n}}\n\
             service pop3-login {{\n inet_listener pop3 {{\n  port = {1}\n }}\n inet_listener pop3s {{\n  port = 0\n }}\n}}\n",
            common::NOBODY,
            address.port()
        );
        fs::write(folder.path().join("dovecot.conf"), configuration).expect("dovecot.conf");
        let mut command = Command::new("/usr/sbin/dovecot");
        command.arg("-F").arg("-c").arg(folder.path().join("dovecot.conf"));
        let process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("dovecot");
        common::until("Dovecot to listen", || TcpStream::connect(address).is_ok());
        Dovecot { folder, address, process }
    }

    fn maildir(&self) -> PathBuf {
        self.folder.path().join("mail/bob")
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).expect("a pid"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

/// GNU Mailutils' pop3d, started for each session with a password file of its own in a mount namespace of its own.
struct Mailutils {
    folder: tempfile::TempDir,
}

impl Mailutils {
    fn new() -> Mailutils {
        let folder = tempfile::Builder::new().prefix("doorpost-mailutils-").tempdir_in(in_memory()).expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("its mode");
        let top = folder.path().display();
        let configuration = format!(
            "mailbox {{\n mail-spool \"{top}\";\n mailbox-type mbox;\n}};\nauth {{\n authentication generic:system;\n \
             authorization system;\n}};\nlogging {{\n syslog yes;\n}};\n"
        );
        fs::write(folder.path().join("pop3d.conf"), configuration).expect("pop3d.conf");
        let mut passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
        // "secret" by MD5.
        passwd += &format!("bob:$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1:{0}:{0}::{top}:/bin/sh\n", common::NOBODY - 1);
        fs::write(folder.path().join("passwd"), passwd).expect("passwd");
        Mailutils { folder }
    }

    fn put(&self, session: &pop3::Session) {
        let mut mbox = Vec::new();
        for (_, text) in &session.messages {
            mbox.extend(b"From alice@client.example Sun Nov 22 04:27:00 2026\n");
            for line in text.split_inclusive(|octet| *octet == b'\n') {
                // As deliver writes an mbox (mboxrd).
                if line.iter().skip_while(|octet| **octet == b'>').copied().take(5).eq(*b"From ") {
                    mbox.push(b'>');
                }
                mbox.extend(line);
            }
            mbox.extend(if text.ends_with(b"\n") { &b"\n"[..] } else { b"\n\n" });
        }
        let path = self.folder.path().join("bob");
        fs::write(&path, mbox).expect("a mailbox");
        chown(&path, Some(common::NOBODY - 1), Some(common::NOBODY - 1)).expect("chown");
    }

    fn play(&self, session: &pop3::Session) -> Vec<Answer> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("its number")).expect("a connection");
        let server = OwnedFd::from(listener.accept().expect("the other end").0);
        let mut command = Command::new("unshare");
        let script =
            "mount --bind \"$0/passwd\" /etc/passwd && exec /usr/sbin/pop3d --inetd --config-file=\"$0/pop3d.conf\"";
        command.args(["-m", "--propagation", "private", "sh", "-c", script]).arg(self.folder.path());
        command.stdin(Stdio::from(server.try_clone().expect("a descriptor"))).stdout(Stdio::from(server));
        let mut process = command.stderr(Stdio::null()).spawn().expect("unshare");
        drop(command);
        let answers = pop3::play(client, session);
        process.wait().expect("its end");
        answers
    }

    fn left(&self) -> usize {
        let text = fs::read(self.folder.path().join("bob")).unwrap_or_default();
        text.split(|octet| *octet == b'\n').filter(|line| line.starts_with(b"From alice@client.example Sun")).count()
    }
}
