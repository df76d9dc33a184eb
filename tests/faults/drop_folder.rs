//! Messages that users leave in the drop folder, and deliver takes from there: killed or failing anywhere, each is there once.

use super::super::*;
use super::plan::Share;

/// A message that a user has left in the drop folder.
fn dropped() -> Scratch {
    let scratch = receiving();
    make_drop_folder(&scratch);
    let frame = |text: &str| format!("{}:{text},", text.len());
    let frames = [frame("Falice@mx.example"), frame("Rbob@mx.example"), frame(&format!("C{BODY}")), frame("E")];
    let path = scratch.path().join("drop").join("5".repeat(32));
    fs::write(&path, frames.concat()).expect("a message");
    scratch.hand_over(&path);
    scratch
}

pub fn make_drop_folder(scratch: &Scratch) {
    let folder = scratch.path().join("drop");
    fs::create_dir(&folder).expect("a drop folder");
    scratch.hand_over(&folder);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1733)).expect("its mode");
}

#[test]
fn deliver_killed_anywhere_takes_a_message_from_the_drop_folder_once() {
    deliver(Traced::Family).kill(Share::Whole(430), &dropped, &|scratch, _, what| {
        delivered_once(scratch, 1, what);
        let left = files(&scratch.path().join("drop")).into_iter().filter(|path| !path.ends_with("trigger"));
        assert_eq!(left.count(), 0, "{what}: left in the drop folder");
    });
}

/// A deliver that cannot remove the file of the drop folder. Nobody can write one again that is the same to the next: its id
/// comes from the time of its last change.
fn deliver_without_removing(scratch: &Scratch, path: &Path) {
    let mut strace = Command::new("strace");
    strace.args([
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=unlink,unlinkat",
        "-e",
        "inject=unlink,unlinkat:error=EIO",
        "-P",
    ]);
    strace.arg(path).arg(common::binary("deliver")).env("MAIL_CONFIG", scratch.path());
    let output = feed(&mut strace, b"");
    assert!(path.exists() && output.status.success(), "{output:?}");
}

/// Its removal is not on disk when that of its message is: a power cut brings it back.
#[test]
fn a_message_that_is_in_the_drop_folder_again_is_known_in_the_mailbox() {
    let scratch = dropped();
    let path = scratch.path().join("drop").join("5".repeat(32));
    deliver_without_removing(&scratch, &path);
    delivered_once(&scratch, 1, "first");
    assert!(!path.exists());
    delivered_once(&scratch, 1, "again");
}

/// And as long as it waits, in the queue.
#[test]
fn a_message_that_is_in_the_drop_folder_again_is_known_in_the_queue() {
    let scratch = dropped();
    let path = scratch.path().join("drop").join("5".repeat(32));
    fs::write(scratch.maildir("bob"), "in the way").expect("no mailbox");
    for _ in 0..2 {
        deliver_without_removing(&scratch, &path);
        assert_eq!(scratch.queued().len(), 1);
    }
    scratch.deliver();
    assert!(scratch.queued().len() == 1 && !path.exists());
}

#[test]
fn an_error_of_any_file_call_keeps_a_message_of_the_drop_folder() {
    deliver(Traced::Family).fail(Share::Whole(280), &dropped, &|scratch, _, what| {
        scratch.deliver();
        due_again(scratch);
        delivered_once(scratch, 1, what);
    });
}

/// As a user whom the queue is not for: what ends with 0 arrives once, and anything else leaves nothing or the whole.
#[test]
fn sendmail_killed_anywhere_leaves_a_whole_message_in_the_drop_folder_or_none() {
    if !common::needs::root() {
        return;
    }
    let prepare = || {
        let scratch = receiving();
        make_drop_folder(&scratch);
        // The queue is a file: it cannot be used now, so everybody is as good as a stranger.
        fs::remove_dir_all(scratch.queue()).expect("the queue");
        fs::write(scratch.queue(), "").expect("a file in its place");
        scratch
    };
    let check = |scratch: &Scratch, output: &Output, what: &str| {
        fs::remove_file(scratch.queue()).expect("the file");
        fs::create_dir(scratch.queue()).expect("the queue");
        fs::set_permissions(scratch.queue(), fs::Permissions::from_mode(0o700)).expect("its mode");
        scratch.hand_over(&scratch.queue());
        scratch.deliver();
        let count = scratch.mail("bob").len();
        assert!(count == 1 || (count == 0 && output.status.code() != Some(0)), "{what}: {count}: {output:?}");
        assert!(scratch.mail("bob").iter().all(|mail| mail.ends_with(BODY.as_bytes())), "{what}: torn");
    };
    let program = "submit -f alice@mx.example bob@mx.example";
    let case = Case { program, traced: Traced::Itself, input: BODY.into() };
    case.kill_and_fail(Share::Whole, [95, 45], &prepare, &check);
}
