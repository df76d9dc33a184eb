//! With whose rights deliver works: for users as themselves, with other hosts with none, and never where somebody else has
//! laid the way.

mod common;

use common::delivering::*;
use common::enqueue::TRACE;
use common::hops::Hop;
use common::processes::children;
use common::relaying::{self, TEXT};
use common::{NOBODY, Scratch, binary, until};
use doorpost::queue::Id;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const DAVE: u32 = 4242;
const NEIGHBOUR: u32 = 4343;

/// Gives a folder and all below to a user.
fn give(path: &Path, uid: u32) {
    chown(path, Some(uid), Some(uid)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path(), uid));
    }
}

/// A mailbox of a user that only root can become; nothing where the tests do not run as root.
fn of_another(uid: u32) -> Option<Scratch> {
    if !common::needs::root() {
        return None;
    }
    let scratch = Scratch::new();
    let home = scratch.path().join("dave");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(uid), Some(uid)).unwrap();
    scratch
        .write("passwd", &format!("dave:{{PLAIN}}x:{uid}:{uid}::{0}::mailbox=maildir:{0}/Maildir\n", home.display()));
    Some(scratch)
}

fn dave(scratch: &Scratch) -> Vec<fs::DirEntry> {
    let new = fs::read_dir(scratch.path().join("dave/Maildir/new"));
    new.map(|entries| entries.map(Result::unwrap).collect()).unwrap_or_default()
}

#[test]
fn started_as_root_it_delivers_to_users_as_themselves() {
    let Some(scratch) = of_another(DAVE) else { return };
    // More than a pipe holds.
    let content = "a line of the content\n".repeat(20_000);
    scratch.enqueue_from("a@mx.example", &["dave@mx.example", "nobody-here@mx.example"], content.as_bytes());
    scratch.enqueue_from("", &["dave@mx.example"], b"second\n");
    let in_crlf = content.replace('\n', "\r\n");
    scratch.enqueue_with(("a@mx.example", "BODY=BINARYMIME"), &[("dave@mx.example", "")], in_crlf.as_bytes());
    scratch.deliver();
    let files = dave(&scratch);
    assert_eq!(files.len(), 3);
    for file in &files {
        let status = file.metadata().unwrap();
        assert_eq!((status.uid(), status.gid(), status.mode() & 0o777), (DAVE, DAVE, 0o600));
    }
    let large = files.iter().map(|file| fs::read_to_string(file.path()).unwrap()).filter(|text| text.len() > 1000);
    let expected = format!("Return-Path: <a@mx.example>\n{TRACE}{content}");
    assert!(large.collect::<Vec<_>>() == [expected.clone(), expected]);
}

#[test]
fn a_user_whose_home_is_closed_to_us_waits() {
    let Some(scratch) = of_another(DAVE) else { return };
    fs::set_permissions(scratch.path().join("dave"), fs::Permissions::from_mode(0o500)).unwrap();
    let id = scratch.enqueue_from("", &["dave@mx.example"], b"text\n");
    scratch.deliver();
    assert_eq!(reports(&scratch, &id), ["4.2.0 the mailbox cannot be written now"]);
}

/// What a neighbour can do who may write the folder above a mailbox, as everybody may /tmp: a Maildir and a file of his are
/// where dave's mail may go.
fn beside_a_neighbour() -> Option<Scratch> {
    let scratch = of_another(DAVE)?;
    let path = |name: &str| scratch.path().join(name);
    for maildir in ["neighbour", "dave/made"].map(path) {
        for folder in ["", "tmp", "new", "cur"] {
            fs::create_dir(maildir.join(folder)).unwrap();
            fs::set_permissions(maildir.join(folder), fs::Permissions::from_mode(0o777)).unwrap();
        }
        give(&maildir, NEIGHBOUR);
    }
    let file = path("dave/box");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    give(&file, NEIGHBOUR);
    Some(scratch)
}

/// Makes a symbolic link of somebody's in the installation.
fn link(scratch: &Scratch, target: &str, name: &str, owner: u32) {
    symlink(scratch.path().join(target), scratch.path().join(name)).unwrap();
    lchown(scratch.path().join(name), Some(owner), None).unwrap();
}

/// Queues a message for dave, whose mailbox is from now on there.
fn to_dave_at(scratch: &Scratch, format: &str, place: &str) -> Id {
    let (home, mailbox) = (scratch.path().join("dave"), scratch.path().join(place));
    let (home, mailbox) = (home.display(), mailbox.display());
    scratch.write("passwd", &format!("dave:{{PLAIN}}x:{DAVE}:{DAVE}::{home}::mailbox={format}:{mailbox}\n"));
    scratch.enqueue_from("", &["dave@mx.example"], b"text\n")
}

#[test]
fn no_mail_goes_where_a_neighbour_has_laid_the_way_or_the_mailbox() {
    let Some(scratch) = beside_a_neighbour() else { return };
    link(&scratch, "neighbour", "dave/foreign", NEIGHBOUR);
    link(&scratch, "dave", "way", NEIGHBOUR);
    link(&scratch, "dave/own-box", "dave/to-a-box", DAVE);
    for (format, place) in [
        ("maildir", "dave/foreign"),
        ("maildir", "way/Maildir"),
        ("maildir", "dave/made"),
        ("mbox", "way/mbox"),
        ("mbox", "dave/box"),
        ("mmdf", "dave/box"),
        ("mbox", "dave/to-a-box"),
    ] {
        let id = to_dave_at(&scratch, format, place);
        scratch.deliver();
        assert_eq!(reports(&scratch, &id), ["4.2.0 the mailbox cannot be written now"], "{format} {place}");
        scratch.run("doorpost-queue", &["delete", id.as_str()], b"");
    }
    for maildir in ["neighbour", "dave/made"] {
        assert_eq!(fs::read_dir(scratch.path().join(maildir).join("new")).unwrap().count(), 0, "{maildir}");
    }
    assert_eq!(fs::metadata(scratch.path().join("dave/box")).unwrap().len(), 0);
}

#[test]
fn a_users_own_links_and_roots_are_followed() {
    let Some(scratch) = of_another(DAVE) else { return };
    fs::create_dir(scratch.path().join("dave/elsewhere")).unwrap();
    give(&scratch.path().join("dave/elsewhere"), DAVE);
    link(&scratch, "dave/elsewhere", "dave/own", DAVE);
    link(&scratch, "dave", "home", 0);
    to_dave_at(&scratch, "maildir", "home/own/Maildir");
    scratch.deliver();
    assert_eq!(scratch.queued(), []);
    assert_eq!(fs::read_dir(scratch.path().join("dave/elsewhere/Maildir/new")).unwrap().count(), 1);
}

#[test]
fn without_strict_mailbox_ownership_mail_goes_where_a_neighbour_has_made_the_mailbox() {
    let Some(scratch) = beside_a_neighbour() else { return };
    scratch.configure("strict_mailbox_ownership = no");
    for (format, place) in [("maildir", "dave/made"), ("mbox", "dave/box")] {
        to_dave_at(&scratch, format, place);
        scratch.deliver();
    }
    assert_eq!(scratch.queued(), []);
    assert_eq!(fs::read_dir(scratch.path().join("dave/made/new")).unwrap().count(), 1);
    assert!(fs::metadata(scratch.path().join("dave/box")).unwrap().len() > 0);
}

#[test]
fn not_started_as_root_another_users_mailbox_waits_with_a_clear_reason() {
    let Some(scratch) = of_another(DAVE) else { return };
    let id = scratch.enqueue_from("", &["dave@mx.example"], b"text\n");
    scratch.settle();
    let status = scratch.command("deliver").uid(NOBODY).gid(NOBODY).status().unwrap();
    assert!(status.success());
    assert_eq!(reports(&scratch, &id), ["4.3.5 the mailbox is another user's, and deliver was not started as root"]);
    assert_eq!(dave(&scratch).len(), 0);
}

#[test]
fn nobody_becomes_root_to_deliver() {
    let Some(scratch) = of_another(0) else { return };
    scratch.enqueue_from("", &["dave@mx.example"], b"text\n");
    let log = scratch.deliver();
    assert!(log.contains("to=<dave@mx.example> status=failed"), "{log}");
    assert!(!scratch.path().join("dave/Maildir").exists());
}

/// Where the accounts are as usual: uid 1 is no person, and neither is nobody, who is not below 1000.
#[test]
fn users_of_the_system_get_mail_and_its_accounts_do_not() {
    if !common::needs::root() {
        return;
    }
    let name = |uid| nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).unwrap().map(|user| user.name);
    let (Some(owner), Some(account), Some(nobody)) = (name(1), name(2), name(NOBODY)) else { return };
    let scratch = Scratch::with(&format!("users = system\nmail_owner = {owner}"));
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    scratch.write("accounts", &format!("dave:x:{DAVE}:{DAVE}::/nonexistent:/bin/sh\n{accounts}"));
    fs::set_permissions(scratch.path().join("accounts"), fs::Permissions::from_mode(0o644)).unwrap();
    give(&scratch.queue(), 1);
    fs::create_dir(scratch.maildir("dave")).unwrap();
    give(&scratch.maildir("dave"), DAVE);
    scratch.enqueue_from("", &["dave", &account, &nobody, "root"], b"text\n");
    give(&scratch.queue(), 1);
    scratch.settle();
    // The accounts are those of a machine that only this deliver sees.
    let mut deliver = Command::new("unshare");
    deliver.args(["--mount", "sh", "-c", "mount --bind \"$1\" /etc/passwd && exec \"$2\" --config \"$3\"", "sh"]);
    deliver.arg(scratch.path().join("accounts")).arg(binary("deliver")).arg(scratch.path());
    let log = String::from_utf8(deliver.output().unwrap().stderr).unwrap();
    assert_eq!(scratch.mail("dave").len(), 1, "{log}");
    let file = fs::read_dir(scratch.maildir("dave").join("new")).unwrap().next().unwrap().unwrap();
    assert_eq!(file.metadata().unwrap().uid(), DAVE);
    for account in [account.as_str(), &nobody, "root"] {
        assert!(log.contains(&format!("to=<{account}@mx.example> status=failed")), "{log}");
        assert!(!scratch.maildir(account).exists());
    }
}

#[test]
fn a_killed_deliver_leaves_no_process_behind() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::with("queue_run_delay = 1h");
    scratch.enqueue_from("", &["alice@mx.example"], b"text\n");
    let mut watch = start_watching(&scratch);
    until("the first sweep", || scratch.mail("alice").len() == 1);
    let helper = children(watch.0.id());
    watch.0.kill().unwrap();
    until("the end of the helper", || helper.iter().all(|pid| !runs_deliver(*pid)));
}

#[test]
fn without_the_child_that_stays_root_it_finishes_and_ends_with_75() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::with("queue_run_delay = 1h");
    let mut watch = start_watching(&scratch);
    until("the helper", || !children(watch.0.id()).is_empty());
    let [helper] = children(watch.0.id())[..] else { panic!("no message, and more than one child") };
    kill(Pid::from_raw(helper as i32), Signal::SIGKILL).unwrap();
    assert_eq!(watch.0.wait().unwrap().code(), Some(75));
    scratch.enqueue_from("", &["alice@mx.example"], b"text\n");
    scratch.deliver();
    assert_eq!(scratch.mail("alice").len(), 1);
}

fn runs_deliver(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program == binary("deliver"))
}

#[test]
fn the_process_that_speaks_with_a_host_holds_no_right_on_the_queue() {
    let (go, wait) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let hop = Hop::start(move |word, _, _| {
        if word == "MAIL" {
            let _ = wait.lock().expect("the signal").recv_timeout(Duration::from_secs(60));
        }
        None
    });
    let scratch = relaying::to(&hop);
    scratch.enqueue(&["bob@b.example"], TEXT);
    let mut child = scratch.command("deliver").stderr(Stdio::null()).spawn().expect("deliver");
    until("the host to be spoken with", || hop.seen().iter().any(|line| line.starts_with("MAIL")));
    let agent = child_connected_to(child.id(), hop.address);
    let status = fs::read_to_string(format!("/proc/{agent}/status")).expect("its status");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let of_queue: Vec<(String, PathBuf)> =
        open_files(agent).into_iter().filter(|(_, link)| link.starts_with(scratch.queue())).collect();
    assert_eq!(of_queue.len(), 1, "the one open message: {of_queue:?}");
    let info = fs::read_to_string(format!("/proc/{agent}/fdinfo/{}", of_queue[0].0)).expect("its flags");
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim().to_owned();
    assert!(flags.ends_with('0') || flags.ends_with('4'), "read only: {flags}");
    go.send(()).expect("a host that waits");
    assert!(child.wait().expect("its end").success());
}

/// The one child of a process that has a connection to this address.
fn child_connected_to(parent: u32, address: SocketAddr) -> u32 {
    // Of each socket there is a line: its number, both ends in hexadecimal, and as the tenth field its inode.
    let table = fs::read_to_string("/proc/net/tcp").expect("the sockets");
    let remote = format!(":{:04X}", address.port());
    let sockets = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[2].ends_with(&remote).then(|| PathBuf::from(format!("socket:[{}]", fields[9])))
    });
    let sockets: Vec<PathBuf> = sockets.collect();
    let is_connected = |pid: &u32| open_files(*pid).iter().any(|(_, link)| sockets.contains(link));
    let connected: Vec<u32> = children(parent).into_iter().filter(is_connected).collect();
    let [agent] = connected[..] else { panic!("connected are {connected:?}") };
    agent
}

/// What a process has open: the numbers of the descriptors, and what they lead to.
fn open_files(pid: u32) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let open =
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, fs::read_link(entry.path()).ok()?)));
    open.collect()
}
