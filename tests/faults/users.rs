//! The same matrix for users with uids of their own, as every install has them: root's helper, and the process that becomes
//! the user and writes the mailbox. They are only where the tests run as root.
//!
//! Of each a part is made in every run; see plan.rs for the whole.

use super::super::*;
use super::one_file::MBOX;
use super::plan::Share;
use std::os::unix::fs::{MetadataExt, chown};

const BOB: u32 = 2002;

/// Makes alice, bob and carol somebody each, who may make a mailbox of their own beside those of the others.
fn of_users(scratch: Scratch) -> Scratch {
    let user = |(name, uid)| {
        format!("{name}:{{PLAIN}}{}:{uid}:{uid}::{}/home/{name}::\n", common::PASSWORD, scratch.path().display())
    };
    scratch.write("passwd", &[("alice", BOB - 1), ("bob", BOB), ("carol", BOB + 1)].map(user).concat());
    let folder = scratch.path().join("mail");
    chown(&folder, Some(0), Some(0)).expect("chown");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777)).expect("its mode");
    if scratch.maildir("bob").exists() {
        chown(scratch.maildir("bob"), Some(BOB), Some(BOB)).expect("chown");
    }
    scratch
}

fn matrix(prepare: &dyn Fn() -> Scratch, check: &dyn Fn(&Scratch, &str)) {
    let (followed, output) = deliver(Traced::Family).run(&prepare(), None);
    let processes: BTreeSet<String> = followed.calls.into_keys().map(|call| call.process).collect();
    let all = ["0 deliver", "0.1 deliver", "0.1.1 deliver", "0.1.1.1 deliver"];
    assert!(all.iter().all(|process| processes.contains(*process)), "{processes:?}: {output:?}");
    deliver(Traced::Family).kill_and_fail(Share::Part, [400, 240], prepare, &|scratch, _, what| {
        due_again(scratch);
        check(scratch, what);
        let mailbox = scratch.maildir("bob");
        let mail = if mailbox.is_dir() { files(&mailbox.join("new")) } else { vec![mailbox] };
        let owners: Vec<u32> = mail.iter().map(|path| fs::metadata(path).expect("a message").uid()).collect();
        assert_eq!(owners, [BOB], "{what}: whose it is");
    });
}

#[test]
fn deliver_killed_or_failing_anywhere_writes_into_a_users_own_maildir_once() {
    if common::needs::root() {
        matrix(&|| of_users(queued()), &|scratch, what| delivered_once(scratch, 1, what));
    }
}

#[test]
fn deliver_killed_or_failing_anywhere_writes_a_users_own_mbox_once() {
    if common::needs::root() {
        matrix(&|| of_users(MBOX.queued()), &|scratch, what| MBOX.once(scratch, what));
    }
}
