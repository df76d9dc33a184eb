//! The same generated sessions to ours and to live Postfix, Dovecot and Mailutils: classes of replies, numbers of messages
//! and stored octets are compared. A difference is one of those that doc/pitfalls.md explains, or it fails here.
//!
//! `DIFFERENTIAL_SESSIONS=10000 DIFFERENTIAL_SEED=7 cargo test --features interop --test differential` makes more of them.
//! Malformed QMQP is compared in qmqp_postfix.rs.

mod common;
mod differential {
    pub mod extensions;
    pub mod generate;
    pub mod known;
    pub mod peers;
    pub mod pop3;
    pub mod smtp;
}

use common::chance::Chance;
use common::postfix::Postfix;
use common::{Scratch, binary};
use differential::extensions;
use differential::generate::{self, Session};
use differential::known;
use differential::peers::{Dovecot, Mailutils};
use differential::pop3::{self, Answer};
use differential::smtp::{self, Kept, Trace};
use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
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

/// Of Postfix: it adds no fields, and what it has to tell of others' mail goes nowhere.
const QUIET: &str = "local_header_rewrite_clients =\nvirtual_mailbox_limit = 0\ndefault_transport = discard\n\
    relay_transport = discard\n";

/// Ours relays for nobody, as Postfix with `reject_unauth_destination`, not for who has logged in either.
const CHANNELS: &str = "local - mx.example mailbox: local\nauthenticated - - - local\nsmtp * * smtp: local\n";

#[test]
fn smtp_sessions_go_as_with_postfix() {
    let (sessions, seed) = size(250);
    let logins = Dovecot::start("maildir");
    let postfix = Postfix::start(
        in_memory(),
        "smtpd",
        &format!(
            "{QUIET}smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {}\n\
         mynetworks =\nsmtpd_relay_restrictions = reject_unauth_destination\nsmtpd_peername_lookup = no\n\
         message_size_limit = 200000\n\
         smtpd_error_sleep_time = 0\nsmtpd_soft_error_limit = 1000\nsmtpd_client_connection_count_limit = 0",
            logins.logins().display()
        ),
    );
    let scratch = Scratch::with("message_size_limit = 200000\nsmtpd_sasl_auth_enable = yes\nauth_failure_delay = 0");
    scratch.write("channels", CHANNELS);
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

#[test]
fn qmqp_packages_are_queued_as_by_postfix() {
    let (packages, seed) = size(300);
    let settings = format!("{QUIET}qmqpd_authorized_clients = 127.0.0.0/8\nqmqpd_error_delay = 0");
    let postfix = Postfix::start(in_memory(), "qmqpd", &settings);
    let scratch = Scratch::with("qmqpd_authorized_clients = 127.0.0.0/8");
    let ours = Ours::start(&scratch, "qmqpd");
    let mut chance = Chance(seed);
    let mut count = known::Count::default();
    let mut done = 0;
    while done < packages {
        let numbers = done..packages.min(done + BATCH);
        done = numbers.end;
        let batch: Vec<_> = numbers.map(|number| extensions::package(&mut chance, &number.to_string())).collect();
        let answers: Vec<(String, String)> = batch
            .iter()
            .map(|(_, content, sender, recipients)| {
                let package = package(content, sender, recipients);
                (smtp::hand_over(ours.address, &package), smtp::hand_over(postfix.address, &package))
            })
            .collect();
        let (mut mine, mut other) = (smtp::ours(&scratch), smtp::theirs(&postfix));
        for ((shape, content, ..), (here, there)) in batch.iter().zip(&answers) {
            let class = |answer: &str| answer.chars().next().map_or("closed".to_owned(), String::from);
            count.step(shape);
            let id = |answer: &str| answer.split_once("queued as ").map(|(_, id)| id.to_owned());
            let kept = (id(here).and_then(|id| mine.remove(&id)), id(there).and_then(|id| other.remove(&id)));
            if class(here) != class(there) {
                let what = format!("{} / {}", class(here), class(there));
                count.differs("Postfix", shape, &what, || format!("ours {here}\ntheirs {there}\n"));
            } else if let (Some(mine), Some(other)) = &kept {
                count.message(shape, content, mine, &without_additions(other));
            } else {
                assert!(kept == (None, None) && !here.starts_with('K'), "{shape}: a message is missing: {kept:?}");
            }
        }
        assert!(mine.is_empty(), "queued, and nobody was told: {mine:?}");
    }
    count.report("QMQP", packages, seed);
}

/// Without the fields that Postfix adds to what comes by QMQP, as to mail from its own machine. No message here has them.
fn without_additions(kept: &Kept) -> Kept {
    let added = [&b"Message-Id: <"[..], b"Date: ", b"From: ", b"To: undisclosed-recipients:;"];
    let mut is_header = true;
    let mut content = Vec::new();
    for line in kept.content.split_inclusive(|octet| *octet == b'\n') {
        is_header &= line != b"\n";
        if !is_header || !added.iter().any(|field| line.starts_with(field)) {
            content.extend(line);
        }
    }
    Kept { reverse_path: kept.reverse_path.clone(), recipients: kept.recipients.clone(), content }
}

fn package(content: &[u8], sender: &str, recipients: &[&str]) -> Vec<u8> {
    let netstring = |octets: &[u8]| [format!("{}:", octets.len()).as_bytes(), octets, b","].concat();
    let parts = [content, sender.as_bytes()].into_iter().chain(recipients.iter().map(|to| to.as_bytes()));
    netstring(&parts.map(netstring).collect::<Vec<_>>().concat())
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
                let rest = session.steps[number + 1..].iter().map(|step| step.shape).collect::<Vec<_>>().join(" ");
                let together = if session.is_pipelined { ", pipelined" } else { "" };
                format!("{}behind it{together}: {rest}\n", (0..=number).map(line).collect::<String>())
            };
            let closed = mine == '0' || other == '0';
            // It has lost its connection to Dovecot, and nothing that follows can be compared.
            if other == '4' && step.shape.starts_with("auth") {
                differs = true;
                continue;
            }
            let shape = if closed { session.steps[number.saturating_sub(1)].shape } else { step.shape };
            // Postfix remembers a size that was too large for the next MAIL.
            let too_large = |step: &generate::Step| ["mail-size-over", "mail-size-huge"].contains(&step.shape);
            let remembers = shape.starts_with("mail") && session.steps[..number].iter().any(too_large);
            let shape = if remembers { "mail-behind-size-over" } else { shape };
            // Where it closes with octets unread, replies to what came before in the same group are lost too.
            let is_refused = |step: &generate::Step| ["bdat-too-large", "bdat-null"].contains(&step.shape);
            let is_closed = other == '0' && session.steps.iter().any(is_refused);
            let shape = if is_closed { "closed-for-a-refused-chunk" } else { shape };
            let shape = if !is_closed && is_behind_a_refused_chunk(session, there, number) {
                "behind-a-refused-chunk"
            } else {
                shape
            };
            count.differs("Postfix", shape, &format!("{} / {}", class(mine), class(other)), dialogue);
            // A transaction that only one of them began goes on otherwise in all that follows.
            differs = closed || !generate::is_aside(step.shape);
            continue;
        }
        count.step(step.shape);
        match kept {
            (Some(mine), Some(other)) => {
                count.message(step.shape, &step.kept, &mine, &other);
            }
            (None, None) => {}
            (mine, other) => panic!("{}: a message is missing: ours {mine:?}, theirs {other:?}", step.shape),
        }
    }
}

/// Postfix remembers that a chunk was refused until RSET, EHLO or the last chunk.
fn is_behind_a_refused_chunk(session: &Session, there: &Trace, number: usize) -> bool {
    let before = session.steps[..number].iter().zip(&there.classes).rev();
    let ends = |step: &generate::Step| {
        !step.kept.is_empty() || [&b"RSET\r"[..], b"EHLO ", b"HELO ", b"ehlo "].contains(&&step.octets[..5])
    };
    before
        .take_while(|(step, _)| step.octets.len() < 5 || !ends(step))
        .any(|(step, class)| step.is_chunk() && *class == '5')
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
    let (sessions, seed) = size(150);
    let (maildirs, mboxes) = (Scratch::new(), Scratch::new());
    mboxes.configure(&format!("mailbox = mbox:{}/mail/%u", mboxes.path().display()));
    let ours = [&maildirs, &mboxes].map(|scratch| Ours::start(scratch, "pop3d"));
    let dovecots = ["maildir", "mbox"].map(Dovecot::start);
    let mailutils = Mailutils::new();
    let mut chance = Chance(seed);
    let mut count = known::Count::default();
    let connected = |address: SocketAddr| TcpStream::connect(address).expect("a connection");
    for _ in 0..sessions {
        let session = pop3::session(&mut chance);
        if chance.percent(50) {
            let [theirs, mine] = [dovecots[0].mailbox(), maildirs.maildir("bob")];
            put_maildir(&mine, &session);
            let here = pop3::play(connected(ours[0].address), &session);
            put_maildir(&theirs, &session);
            let there = pop3::play(connected(dovecots[0].address), &session);
            let left = [&mine, &theirs].map(|maildir| in_maildir(maildir));
            compare_pop3("Dovecot", &session, &here, &there, [&left[0], &left[1]], &mut count);
            continue;
        }
        let mine = mboxes.maildir("bob");
        put_mbox((mine.clone(), common::NOBODY), &session);
        let here = pop3::play(connected(ours[1].address), &session);
        dovecots[1].forget();
        put_mbox((dovecots[1].mailbox(), common::NOBODY), &session);
        let there = pop3::play(connected(dovecots[1].address), &session);
        let left = [mine, dovecots[1].mailbox()].map(|mbox| in_mbox(&mbox));
        compare_pop3("Dovecot", &session, &here, &there, [&left[0], &left[1]], &mut count);
        // Behind a header without an end, or one that ends in CR LF, Mailutils does not see the next "From " line.
        if session.messages.iter().any(|(shape, _)| ["crlf-stored", "header-only"].contains(shape)) {
            continue;
        }
        put_mbox(mailutils.mailbox(), &session);
        let there = mailutils.play(&session);
        compare_pop3("Mailutils", &session, &here, &there, [&left[0], &in_mbox(&mailutils.mailbox().0)], &mut count);
    }
    count.report("POP3", sessions, seed);
}

/// Compares up to the first difference that changes what comes behind it; what is left in the mailbox if there is none.
fn compare_pop3(
    server: &str,
    session: &pop3::Session,
    here: &[Answer],
    there: &[Answer],
    [ours, theirs]: [&[String]; 2],
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
                || ["dele", "rset", "user", "pass", "quit", "last", "early", "auth"]
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
    let dialogue = || format!("left: ours {ours:#?}, theirs {theirs:#?}\n{:?}\n{here:?}\n", session.steps);
    if ours != theirs {
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

/// As deliver writes an mbox (mboxrd).
fn put_mbox((path, owner): (PathBuf, u32), session: &pop3::Session) {
    let mut mbox = Vec::new();
    for (_, text) in &session.messages {
        mbox.extend(b"From alice@client.example Sun Nov 22 04:27:00 2026\n");
        for line in text.split_inclusive(|octet| *octet == b'\n') {
            if line.iter().skip_while(|octet| **octet == b'>').copied().take(5).eq(*b"From ") {
                mbox.push(b'>');
            }
            mbox.extend(line);
        }
        mbox.extend(if text.ends_with(b"\n") { &b"\n"[..] } else { b"\n\n" });
    }
    // A new one, so that nothing is known of it.
    let _ = fs::remove_file(&path);
    fs::write(&path, mbox).expect("a mailbox");
    chown(&path, Some(owner), Some(owner)).expect("chown");
}

/// The messages that are left, each by the line that tells its number: a server may write into the header of an mbox.
fn in_mbox(mbox: &Path) -> Vec<String> {
    let text = format!("\n{}", String::from_utf8_lossy(&fs::read(mbox).unwrap_or_default()));
    let messages = text.split("\nFrom alice@client.example Sun").skip(1);
    let number =
        |message: &str| message.lines().find(|line| line.starts_with("Subject: number ")).unwrap_or("").to_owned();
    messages.map(number).collect()
}

/// The messages that are left, octet by octet.
fn in_maildir(maildir: &Path) -> Vec<String> {
    let files = ["new", "cur"].map(|part| fs::read_dir(maildir.join(part)).expect("a folder"));
    let text = |path: PathBuf| String::from_utf8_lossy(&fs::read(path).expect("a message")).into_owned();
    let mut messages: Vec<_> = files.into_iter().flatten().map(|entry| text(entry.expect("an entry").path())).collect();
    messages.sort();
    messages
}
