//! With whose rights deliver works: for users as themselves, with other hosts with none, and never where somebody else has
//! laid the way.

mod common;

use common::delivering::*;
use common::enqueue::TRACE;
use common::hops::Hop;
use common::processes::children;
use common::relaying::{self, TEXT};
use common::{NOBODY, Scratch, binary, until};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Gives a folder and all below to a user.
fn give(path: &Path, uid: u32) {
    chown(path, Some(uid), Some(uid)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path(), uid));
    }
}

/// A mailbox of a user that only root can become; nothing where the tests do not run as root.
fn of_another(uid: u32) -> Option<Scratch> {
    if !nix::unistd::geteuid().is_root() {
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
    let Some(scratch) = of_another(4242) else { return };
    // More than a pipe holds.
    let content = "a line of the content\n".repeat(20_000);
    scratch.enqueue_from("a@mx.example", &["dave@mx.example", "nobody-here@mx.example"], content.as_bytes());
    scratch.enqueue_from("", &["dave@mx.example"], b"second\n");
    scratch.deliver();
    let files = dave(&scratch);
    assert_eq!(files.len(), 2);
    for file in &files {
        let status = file.metadata().unwrap();
        assert_eq!((status.uid(), status.gid(), status.mode() & 0o777), (4242, 4242, 0o600));
    }
    let large = files.iter().map(|file| fs::read_to_string(file.path()).unwrap()).find(|text| text.len() > 1000);
    assert_eq!(large.unwrap(), format!("Return-Path: <a@mx.example>\n{TRACE}{content}"));
}

#[test]
fn a_user_whose_home_is_closed_to_us_waits() {
    let Some(scratch) = of_another(4242) else { return };
    fs::set_permissions(scratch.path().join("dave"), fs::Permissions::from_mode(0o500)).unwrap();
    let id = scratch.enqueue_from("", &["dave@mx.example"], b"text\n");
    scratch.deliver();
    assert_eq!(reports(&scratch, &id), ["4.2.0 the mailbox cannot be written now"]);
}

/// What a neighbour can do who may write the folder above a mailbox, as everybody may /tmp: each of the ways gets no mail.
#[test]
fn no_mail_goes_where_a_neighbour_has_laid_the_way_or_the_mailbox() {
    const NEIGHBOUR: u32 = 4343;
    let Some(scratch) = of_another(4242) else { return };
    let path = |name: &str| scratch.path().join(name);
    let open_to_all = |path: &Path, is_folder: bool| {
        if is_folder {
            for name in ["", "tmp", "new", "cur"] {
                fs::create_dir(path.join(name)).unwrap();
                fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o777)).unwrap();
            }
        } else {
            fs::write(path, "").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        }
        give(path, NEIGHBOUR);
    };
    open_to_all(&path("neighbour"), true);
    open_to_all(&path("dave/made"), true);
    open_to_all(&path("dave/box"), false);
    let link = |target: &Path, name: &str, owner: u32| {
        std::os::unix::fs::symlink(target, path(name)).unwrap();
        std::os::unix::fs::lchown(path(name), Some(owner), None).unwrap();
    };
    link(&path("neighbour"), "dave/foreign", NEIGHBOUR);
    link(&path("dave"), "way", NEIGHBOUR);
    link(&path("dave/own-box"), "dave/to-a-box", 4242);
    let dave = |place: &str| {
        let line = format!("dave:{{PLAIN}}x:4242:4242::{}::mailbox={place}\n", path("dave").display());
        scratch.write("passwd", &line);
        scratch.enqueue_from("", &["dave@mx.example"], b"text\n")
    };
    for (format, place) in [
        ("maildir", "dave/foreign"),
        ("maildir", "way/Maildir"),
        ("maildir", "dave/made"),
        ("mbox", "way/mbox"),
        ("mbox", "dave/box"),
        ("mmdf", "dave/box"),
        ("mbox", "dave/to-a-box"),
    ] {
        let id = dave(&format!("{format}:{}", path(place).display()));
        scratch.deliver();
        assert_eq!(reports(&scratch, &id), ["4.2.0 the mailbox cannot be written now"], "{format} {place}");
        scratch.run("doorpost-queue", &["delete", id.as_str()], b"");
    }
    assert_eq!(fs::read_dir(path("neighbour/new")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(path("dave/made/new")).unwrap().count(), 0);
    assert_eq!(fs::metadata(path("dave/box")).unwrap().len(), 0);
    // His own links and root's are his own affair.
    fs::create_dir(path("dave/elsewhere")).unwrap();
    give(&path("dave/elsewhere"), 4242);
    link(&path("dave/elsewhere"), "dave/own", 4242);
    link(&path("dave"), "home", 0);
    dave(&format!("maildir:{}", path("home/own/Maildir").display()));
    scratch.deliver();
    assert_eq!(fs::read_dir(path("dave/elsewhere/Maildir/new")).unwrap().count(), 1);
    scratch.configure("strict_mailbox_ownership = no");
    for place in ["maildir:dave/made", "mbox:dave/box"] {
        dave(&place.replace("dave", &path("dave").display().to_string()));
        scratch.deliver();
    }
    assert_eq!(scratch.queued(), []);
    assert_eq!(fs::read_dir(path("dave/made/new")).unwrap().count(), 1);
    assert!(fs::metadata(path("dave/box")).unwrap().len() > 0);
}

#[test]
fn not_started_as_root_another_users_mailbox_waits_with_a_clear_reason() {
    let Some(scratch) = of_another(4242) else { return };
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

/// Where the accounts are as usual: uid 1 is no person, and nobody is not below 1000.
#[test]
fn users_of_the_system_get_mail_and_its_accounts_do_not() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let name = |uid| nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).unwrap().map(|user| user.name);
    let (Some(owner), Some(account), Some(person)) = (name(1), name(2), name(NOBODY)) else { return };
    let scratch = Scratch::with(&format!("users = system\nmail_owner = {owner}"));
    give(&scratch.queue(), 1);
    let to = [person.as_str(), account.as_str(), "root"];
    scratch.enqueue_from("", &to, b"text\n");
    give(&scratch.queue(), 1);
    let log = scratch.deliver();
    assert_eq!(scratch.mail(&person).len(), 1);
    let file = fs::read_dir(scratch.maildir(&person).join("new")).unwrap().next().unwrap().unwrap();
    assert_eq!(file.metadata().unwrap().uid(), NOBODY);
    for account in [account.as_str(), "root"] {
        assert!(log.contains(&format!("to=<{account}@mx.example> status=failed")), "{log}");
        assert!(!scratch.maildir(account).exists());
    }
}

#[test]
fn a_killed_deliver_leaves_no_process_behind() {
    if !nix::unistd::geteuid().is_root() {
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

fn runs_deliver(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program == binary("deliver"))
}

#[test]
fn the_process_that_speaks_with_a_host_holds_no_right_on_the_queue() {
    let hop = Hop::start(|word, _, _| {
        if word == "MAIL" {
            std::thread::sleep(Duration::from_millis(1500));
        }
        None
    });
    let scratch = relaying::to(&hop);
    scratch.enqueue(&["bob@b.example"], TEXT);
    let mut child = scratch.command("deliver").stderr(Stdio::null()).spawn().expect("deliver");
    until("the host to be spoken with", || hop.seen().iter().any(|line| line.starts_with("MAIL")));
    let agent = with_socket_to(&scratch, child.id());
    let status = fs::read_to_string(format!("/proc/{agent}/status")).expect("its status");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let links = fs::read_dir(format!("/proc/{agent}/fd")).expect("its files").filter_map(|entry| {
        let path = entry.ok()?.path();
        Some((path.file_name()?.to_string_lossy().into_owned(), fs::read_link(&path).ok()?))
    });
    let of_queue: Vec<(String, std::path::PathBuf)> =
        links.filter(|(_, link)| link.starts_with(scratch.queue())).collect();
    assert_eq!(of_queue.len(), 1, "the one open message: {of_queue:?}");
    let info = fs::read_to_string(format!("/proc/{agent}/fdinfo/{}", of_queue[0].0)).expect("its flags");
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim().to_owned();
    assert!(flags.ends_with('0') || flags.ends_with('4'), "read only: {flags}");
    assert!(child.wait().expect("its end").success());
}

/// The descendant of a process that holds an open TCP connection.
fn with_socket_to(_scratch: &Scratch, parent: u32) -> u32 {
    let output = Command::new("ps").args(["-o", "pid=", "--ppid", &parent.to_string()]).output().expect("ps");
    let children: Vec<u32> =
        String::from_utf8_lossy(&output.stdout).split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let confined = |pid: &&u32| {
        fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("NoNewPrivs:\t1"))
    };
    *children.iter().find(confined).expect("a confined child")
}
