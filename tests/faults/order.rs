//! The order of calls: what somebody is told is on disk was put there before, by an fsync of the file behind its last octet
//! and one of the folder behind the last change of its names.
//!
//! No power cut on ext4 shows a missing fsync of a folder, for that of a new file puts its name on disk there too; POSIX does
//! not promise it. So the calls themselves are looked at. Each test looks at its own trace once more as if there had been
//! no fsync of files, and none of folders, and must then find that missing.

use super::super::*;
use super::drop_folder::make_drop_folder;
use crate::common::connections::{Server, smtp_one_by_one as send};
use common::until;
use nix::sys::statfs::{EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, statfs};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt;
use std::process::Stdio;

const CALLS: &str = "trace=openat,mkdir,mkdirat,link,linkat,rename,renameat,renameat2,unlink,unlinkat,close,write,pwrite64,\
    writev,pwritev,pwritev2,ftruncate,fallocate,copy_file_range,sendto,sendmsg,fsync,fdatasync,syncfs,exit_group";

/// One call: what strace says of it, and the lines of its beginning and its end.
struct Event {
    name: String,
    text: String,
    begin: usize,
    end: usize,
}

/// What puts something on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sync {
    Files,
    Folders,
}

struct Trace(Vec<Event>);

impl Trace {
    /// Calls that were interrupted by those of other processes are put together again.
    fn read(path: &Path) -> Trace {
        let text = fs::read_to_string(path).expect("a trace");
        let mut events: Vec<Event> = Vec::new();
        let mut open: BTreeMap<&str, usize> = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let Some((process, call)) = line.split_once(char::is_whitespace) else { continue };
            let call = call.trim_start();
            if let Some((_, rest)) = call.split_once(" resumed>") {
                if let Some(event) = open.remove(process).and_then(|at| events.get_mut(at)) {
                    event.text.push_str(rest);
                    event.end = number;
                }
            } else if let Some((name, _)) = call.split_once('(').filter(|_| !call.starts_with(['+', '-'])) {
                let text = call.trim_end_matches("<unfinished ...>").to_owned();
                if call.ends_with("<unfinished ...>") {
                    open.insert(process, events.len());
                }
                events.push(Event { name: name.to_owned(), text, begin: number, end: number });
            }
        }
        Trace(events)
    }

    /// What below `root` is not on disk for certain when a call begins of which `is_told` holds, as if there were no such
    /// syncs as `without` says.
    fn owed(&self, root: &Path, is_told: &dyn Fn(&Event) -> bool, without: Option<Sync>) -> BTreeSet<PathBuf> {
        let told = self.0.iter().find(|event| is_told(event)).expect("the moment when it is told");
        let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
        let mut owed: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for event in self.0.iter().filter(|event| event.begin < told.begin) {
            if event.name.contains("sync") {
                // One that has not come back yet, or that began before the last change, is none.
                let is_in_time = event.end < told.begin && event.text.ends_with(") = 0");
                let path = event.descriptor();
                let is_all = event.name == "syncfs";
                let kind = if folders.contains(&path) { Sync::Folders } else { Sync::Files };
                if is_in_time && !(without == Some(kind) || is_all && without.is_some()) {
                    owed.retain(|owing, since| !(is_all || *owing == path) || *since > event.begin);
                }
                continue;
            }
            let Some(changed) = event.changed(&mut owed) else { continue };
            for path in changed.names.iter().filter(|path| !is_passing(path)) {
                let folder = path.parent().expect("a folder").to_owned();
                folders.insert(folder.clone());
                owed.insert(folder, event.end);
            }
            owed.extend(changed.content.map(|path| (path, event.end)));
        }
        owed.into_keys().filter(|path| path.starts_with(root) && !is_passing(path)).collect()
    }

    /// Nothing is owed, and would be without any of these syncs.
    fn keeps_its_word(&self, what: &str, root: &Path, is_told: &dyn Fn(&Event) -> bool, needed: &[Sync]) {
        assert_eq!(self.owed(root, is_told, None), BTreeSet::new(), "{what}: said to be on disk too early");
        for sync in needed {
            let owed = self.owed(root, is_told, Some(*sync));
            assert!(
                !owed.is_empty(),
                "{what}: nothing is missed without the fsync of {sync:?}, so this proves nothing"
            );
        }
    }
}

/// What need not last: tmp/ and what is in it, locks, and the index, which is made anew.
fn is_passing(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_in_tmp = path.parent().is_some_and(|folder| folder.ends_with("tmp"));
    is_in_tmp || name == "tmp" || name.ends_with(".lock") || name.contains("doorpost-index")
}

/// What a call changed.
#[derive(Default)]
struct Changed {
    /// These came, or went, in their folders.
    names: Vec<PathBuf>,
    content: Option<PathBuf>,
}

impl Event {
    /// The path of the first descriptor.
    fn descriptor(&self) -> PathBuf {
        between(&self.text, "<", ">").next().unwrap_or_default().into()
    }

    /// Names among the arguments, behind those of the descriptors in front of them.
    fn names(&self) -> Vec<PathBuf> {
        let names = between(&self.text, "\"", "\"");
        if !self.name.ends_with("at") && !self.name.ends_with("at2") {
            return names.map(PathBuf::from).collect();
        }
        between(&self.text, "<", ">").zip(names).map(|(folder, name)| Path::new(folder).join(name)).collect()
    }

    /// None where it failed or changes nothing. What is owed of a file goes with it to its new name.
    fn changed(&self, owed: &mut BTreeMap<PathBuf, usize>) -> Option<Changed> {
        let (_, result) = self.text.rsplit_once(") = ")?;
        let opened = || between(result, "<", ">").next().map(PathBuf::from);
        if result.starts_with('-') {
            return None;
        }
        let names = self.names();
        match self.name.as_str() {
            "openat" if !self.text.contains("O_CREAT") => None,
            "openat" => Some(Changed { names: opened().into_iter().collect(), content: opened() }),
            "link" | "linkat" | "rename" | "renameat" | "renameat2" => {
                let [from, to] = <[PathBuf; 2]>::try_from(names).ok()?;
                if let Some(since) = owed.get(&from).copied() {
                    owed.insert(to.clone(), since);
                }
                Some(Changed {
                    names: if self.name.starts_with("link") { vec![to] } else { vec![from, to] },
                    content: None,
                })
            }
            "unlink" | "unlinkat" => {
                owed.retain(|path, _| !names.contains(path));
                Some(Changed { names, content: None })
            }
            "mkdir" | "mkdirat" => Some(Changed { names, content: None }),
            "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" | "ftruncate" | "fallocate" => {
                let path =
                    Some(self.descriptor()).filter(|path| path.is_absolute() && !self.text.contains("(deleted)"));
                Some(Changed { names: Vec::new(), content: path })
            }
            "copy_file_range" => {
                Some(Changed { content: between(&self.text, "<", ">").nth(1).map(PathBuf::from), ..Changed::default() })
            }
            _ => None,
        }
    }
}

/// What stands between these, one after the other.
fn between<'a>(text: &'a str, begin: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, behind) = rest.split_once(begin)?;
        let (found, behind) = behind.split_once(end)?;
        rest = behind;
        Some(found)
    })
}

/// A program of ours under strace, called `name`, and where its trace will be, which any user may write.
fn traced(scratch: &Scratch, name: &str) -> (Command, PathBuf) {
    let trace = scratch.path().join("trace");
    fs::write(&trace, "").expect("a file");
    fs::set_permissions(&trace, fs::Permissions::from_mode(0o666)).expect("its mode");
    let link = scratch.path().join(name);
    let program = ["sendmail", "qmail-queue"].into_iter().find(|other| *other == name).map_or(name, |_| "submit");
    std::os::unix::fs::symlink(common::binary(program), &link).expect("a link");
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-y", "-qq", "-s", "2000", "-e", CALLS, "-e", "signal=none", "-o"]).arg(&trace).arg(link);
    strace.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", scratch.path());
    (strace, trace)
}

/// The trace, when `is_told` has come.
fn read(path: &Path, is_told: &dyn Fn(&Event) -> bool) -> Trace {
    until("the trace", || Trace::read(path).0.iter().any(is_told));
    Trace::read(path)
}

fn says(words: &'static str) -> impl Fn(&Event) -> bool {
    move |event| matches!(event.name.as_str(), "write" | "writev" | "sendto" | "sendmsg") && event.text.contains(words)
}

fn ends_well(event: &Event) -> bool {
    event.text.starts_with("exit_group(0)")
}

const BOTH: [Sync; 2] = [Sync::Files, Sync::Folders];

#[test]
fn a_message_and_its_name_are_on_disk_before_the_reply() {
    let (smtp, qmqp) = (smtp(Traced::Itself), qmqp(Traced::Itself));
    let cases: [(&str, &[&str], &Case, &'static str); 3] = [
        ("smtpsrvr", &[], &smtp, "250 2.0.0 Ok: queued as "),
        ("sendmail", &["-bs"], &smtp, "250 2.0.0 Ok: queued as "),
        ("qmqpd", &[], &qmqp, ":KOk: queued as "),
    ];
    for (name, arguments, case, words) in cases {
        let (scratch, is_told) = (receiving(), says(words));
        let (mut command, trace) = traced(&scratch, name);
        let output = feed(command.args(arguments), &case.input);
        assert!(acknowledged(&output), "{name}: {output:?}");
        read(&trace, &is_told).keeps_its_word(name, &scratch.queue().join("message"), &is_told, &BOTH);
    }
}

#[test]
fn a_message_and_its_name_are_on_disk_before_a_command_ends() {
    for (name, arguments) in [("submit", &["-f", "alice@mx.example", "bob@mx.example"][..]), ("qmail-queue", &[])] {
        let scratch = receiving();
        let (mut command, trace) = traced(&scratch, name);
        command.args(arguments);
        if name == "qmail-queue" {
            // Its envelope comes on descriptor 1.
            let envelope = scratch.path().join("envelope");
            fs::write(&envelope, b"Falice@mx.example\0Tbob@mx.example\0\0").expect("an envelope");
            command.stdout(fs::File::open(&envelope).expect("it")).stdin(Stdio::piped());
            let mut child = command.spawn().expect("strace");
            std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), BODY.as_bytes()).expect("input");
            assert!(child.wait().expect("its end").success());
        } else {
            let output = feed(&mut command, BODY.as_bytes());
            assert!(output.status.success(), "{output:?}");
        }
        assert_eq!(scratch.queued().len(), 1, "{name}");
        read(&trace, &ends_well).keeps_its_word(name, &scratch.queue().join("message"), &ends_well, &BOTH);
    }
}

/// Through a pool's child and the submit that is kept beside it.
#[test]
fn a_message_and_its_name_are_on_disk_before_the_reply_of_a_pool() {
    let scratch = receiving();
    let (mut command, trace) = traced(&scratch, "smtpd");
    let (mut server, address) = Server::pool(&mut command, &["-o", "idle_children=1"], &scratch.queue());
    let answers = send(address, &["Subject: x\r\n\r\nhi\r\n"; 16], "250 2.0.0");
    let ids: Vec<&str> = answers.iter().filter_map(|answer| answer.trim_end().rsplit(' ').next()).collect();
    let is_told = |id: &str| {
        let words = format!("250 2.0.0 Ok: queued as {id}");
        move |event: &Event| says("queued as")(event) && event.text.contains(&words)
    };
    let (first, last) = (is_told(ids[0]), is_told(ids[15]));
    let trace = read(&trace, &last);
    trace.keeps_its_word("pool", &scratch.queue().join("message"), &first, &BOTH);
    // Files that were there when the message before was answered were prepared.
    let place = |is_it: &dyn Fn(&Event) -> bool| trace.0.iter().position(is_it).expect("such a call");
    let is_made = |id: &str| {
        let id = id.to_owned();
        move |event: &Event| event.name == "openat" && event.text.contains("O_CREAT") && event.text.contains(&id)
    };
    let is_prepared = |pair: &&[&str]| place(&is_made(pair[1])) < place(&is_told(pair[0]));
    let prepared: Vec<&str> = ids.windows(2).filter(is_prepared).map(|pair| pair[1]).collect();
    assert!(!prepared.is_empty(), "none of these was prepared: {ids:?}");
    for id in prepared {
        let folder = scratch.queue().join("message").join(&id[id.len() - 1..]);
        // Of the others in it that were prepared nothing but their names was promised.
        let owed = |without| {
            let mut owed = trace.owed(&folder, &is_told(id), without);
            owed.retain(|path| *path == folder || path.ends_with(id));
            owed
        };
        assert_eq!(owed(None), BTreeSet::new(), "{id}: said to be on disk too early");
        assert_eq!(owed(Some(Sync::Files)), BTreeSet::from([folder.join(id)]));
        assert_eq!(owed(Some(Sync::Folders)), BTreeSet::from([folder.clone()]));
    }
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.end();
    let names = doorpost::queue::Queue::at(&scratch.queue()).names().expect("the queue");
    assert_eq!(names.len(), ids.len(), "files are left that were prepared");
}

/// Left by a user who may not open the folder, then taken from there by deliver.
#[test]
fn a_message_of_the_drop_folder_is_on_disk_in_each_place_before_it_is_told_or_removed() {
    if !crate::common::needs::root() {
        return;
    }
    let scratch = receiving();
    make_drop_folder(&scratch);
    let (mut command, trace) = traced(&scratch, "submit");
    command.args(["-f", "alice@mx.example", "bob@mx.example"]).uid(5).gid(60);
    let output = feed(&mut command, BODY.as_bytes());
    assert!(output.status.success(), "{output:?}");
    let drop = scratch.path().join("drop");
    let trace = read(&trace, &ends_well);
    // There fsync of a new file is enough: see submit/drop_folder/disk.rs. `.ci/run` has the folder in memory, where it is not.
    let kind = statfs(&drop).expect("a file system").filesystem_type();
    if kind != EXT4_SUPER_MAGIC && kind != XFS_SUPER_MAGIC {
        trace.keeps_its_word("left", &drop, &ends_well, &BOTH);
    }
    // deliver passes by what is locked, and nobody wakes it twice.
    let is_closed = |event: &Event| event.name == "close" && event.descriptor().parent() == Some(&drop);
    let is_woken = |event: &Event| event.name == "openat" && event.text.contains("/drop/trigger\"");
    let place = |is_it: &dyn Fn(&Event) -> bool| trace.0.iter().position(is_it).expect("such a call");
    assert!(place(&is_closed) < place(&is_woken), "deliver is woken before the message is unlocked");
    let (mut command, trace) = traced(&scratch, "deliver");
    let output = feed(&mut command, b"");
    assert!(output.status.success(), "{output:?}");
    let is_removed = |event: &Event| event.name == "unlink" && event.names()[0].starts_with(&drop);
    read(&trace, &is_removed).keeps_its_word("taken", &scratch.queue().join("message"), &is_removed, &BOTH);
}

/// The mailboxes of everybody in this format; an mbox is there already.
fn delivering(format: &str) -> Scratch {
    let scratch = queued();
    scratch.configure(&format!("mailbox = {format}:{}/mail/%u", scratch.path().display()));
    scratch
}

#[test]
fn a_delivery_is_on_disk_before_its_recipient_is_marked() {
    for format in ["maildir", "mbox", "mmdf"] {
        let scratch = delivering(format);
        let (mut command, trace) = traced(&scratch, "deliver");
        let output = feed(&mut command, b"");
        assert!(output.status.success() && scratch.queued().is_empty(), "{format}: {output:?}");
        let is_marked = |event: &Event| {
            event.name == "pwrite64"
                && event.descriptor().starts_with(scratch.queue())
                && event.text.contains("delivered")
        };
        read(&trace, &is_marked).keeps_its_word(format, &scratch.path().join("mail"), &is_marked, &BOTH);
    }
}

/// A repeat finds what a Maildir has. What a list with an owner made of a message it does not, so nobody may expand it twice.
#[test]
fn the_last_mark_is_on_disk_before_a_message_is_gone_unless_a_maildir_has_it() {
    for (to, is_on_disk) in [("list@mx.example", true), ("bob@mx.example", false)] {
        let scratch = receiving();
        scratch.write("aliases", "list: bob\nowner-list: alice\n");
        let output = scratch.run("submit", &["-f", "alice@mx.example", to], BODY.as_bytes());
        assert!(output.status.success(), "{output:?}");
        let id = scratch.queued().pop().expect("a message").id;
        let (mut command, trace) = traced(&scratch, "deliver");
        let output = feed(&mut command, b"");
        assert!(output.status.success() && scratch.mail("bob").len() == 1, "{to}: {output:?}");
        let is_gone = |event: &Event| event.name == "unlink" && event.names()[0].ends_with(&id);
        let trace = read(&trace, &is_gone);
        let gone = trace.0.iter().find(|event| is_gone(event)).expect("its end");
        let of_it = || trace.0.iter().filter(|event| event.descriptor().ends_with(&id));
        let is_mark = |event: &&Event| event.name == "pwrite64" && event.text.contains("delivered");
        let mark = of_it().find(is_mark).expect("a mark");
        let is_between = |event: &Event| event.begin > mark.end && event.end < gone.begin;
        assert_eq!(of_it().any(|event| event.name == "fdatasync" && is_between(event)), is_on_disk, "{to}");
    }
}

#[test]
fn a_removal_is_on_disk_before_goodbye() {
    let mmdf = || {
        let scratch = Scratch::with(&format!("{AT_ONCE}\n"));
        scratch.configure(&format!("mailbox = mmdf:{}/mail/%u", scratch.path().display()));
        let message = |number: usize| format!("\x01\x01\x01\x01\nSubject: {number}\n\nx\n\x01\x01\x01\x01\n");
        fs::write(scratch.maildir("bob"), [message(1), message(2)].concat()).expect("a mailbox");
        scratch.hand_over(&scratch.maildir("bob"));
        scratch
    };
    let cases: [(&str, Scratch, &[Sync]); 3] =
        [("maildir", mailbox(), &[Sync::Folders]), ("mbox", mbox(), &BOTH), ("mmdf", mmdf(), &BOTH)];
    for (format, scratch, needed) in cases {
        let (mut command, trace) = traced(&scratch, "pop3d");
        let output = feed(&mut command, &pop3(Traced::Itself).input);
        assert!(output.stdout.ends_with(b"+OK Goodbye\r\n"), "{format}: {output:?}");
        let is_told = says("+OK Goodbye");
        read(&trace, &is_told).keeps_its_word(format, &scratch.path().join("mail"), &is_told, needed);
    }
}
