//! The queue as a whole: folders, what is due, waking, ids given by others.

use super::*;
use std::fs;
use std::io::Read;

fn queue() -> (tempfile::TempDir, Queue) {
    let folder = tempfile::tempdir().unwrap();
    let queue = Queue::open(&folder.path().join("queue")).unwrap();
    (folder, queue)
}

fn head() -> Head {
    Head { reverse_path: ReversePath::NULL, trace: Vec::new(), channel: "local".to_owned() }
}

fn begin_as(queue: &Queue, id: &Id) -> Option<Draft> {
    match queue.begin_as(id).unwrap() {
        Begun::Draft(draft) => Some(*draft),
        Begun::There(_) | Begun::Garbage(_) => None,
    }
}

fn put(queue: &Queue) -> Id {
    queue.begin().unwrap().commit(&head()).unwrap()
}

fn set_time(queue: &Queue, id: &Id, time: SystemTime) {
    File::options().write(true).open(queue.path_of(id)).unwrap().set_modified(time).unwrap();
}

fn due(queue: &Queue, now: SystemTime) -> Vec<Id> {
    queue.due(now).unwrap().into_iter().map(|(_, id)| id).collect()
}

#[test]
fn a_new_queue_is_for_its_owner_alone() {
    let (_folder, queue) = queue();
    let id = put(&queue);
    let path = queue.path_of(&id);
    for (path, mode) in [(&queue.path, 0o700), (&queue.path.join("message"), 0o700), (&path, 0o600)] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, mode, "{}", path.display());
    }
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn a_queue_of_another_or_open_to_all_is_refused() {
    let (_folder, queue) = queue();
    fs::set_permissions(&queue.path, Permissions::from_mode(0o707)).unwrap();
    assert!(matches!(Queue::open(&queue.path), Err(exit::Error::Permission(_))));
    fs::set_permissions(&queue.path, Permissions::from_mode(0o700)).unwrap();
    assert!(Queue::open(&queue.path).is_ok());
    let ours = nix::unistd::geteuid().is_root();
    if ours {
        std::os::unix::fs::chown(&queue.path, Some(65534), None).unwrap();
        assert!(matches!(Queue::open(&queue.path), Err(exit::Error::Permission(_))));
    } else {
        assert!(matches!(Queue::open(Path::new("/")), Err(exit::Error::Permission(_))));
    }
    assert!(matches!(Queue::open(Path::new("/nonexistent/queue")), Err(exit::Error::Temporary(_))));
}

#[test]
fn who_only_looks_makes_no_queue() {
    let (folder, queue) = queue();
    assert!(matches!(Queue::open_existing(&queue.path), Ok(Some(_))));
    let elsewhere = folder.path().join("elsewhere");
    assert!(matches!(Queue::open_existing(&elsewhere), Ok(None)) && !elsewhere.exists());
    fs::write(&elsewhere, "").unwrap();
    assert!(matches!(Queue::open_existing(&elsewhere), Err(exit::Error::Temporary(_))));
}

/// What a crash between mkdir and fsync leaves: a folder that nobody but root could write to.
#[test]
fn a_folder_whose_name_may_not_be_on_disk_is_seen_to() {
    let (_folder, queue) = queue();
    let id = Id::new(SystemTime::now());
    let path = queue.path_of(&id);
    DirBuilder::new().mode(0o500).create(path.parent().unwrap()).unwrap();
    begin_as(&queue, &id).unwrap().commit(&head()).unwrap();
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
}

/// The same folder after a power cut that kept the message in it and lost the change of its mode.
#[test]
fn a_message_in_a_folder_that_lost_its_write_permission_is_removed() {
    let (top, queue) = queue();
    let id = put(&queue);
    let path = queue.path_of(&id);
    let message = queue.take_at_last(&id);
    fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o500)).unwrap();
    let removed = std::thread::scope(|scope| {
        let remove = || {
            if nix::unistd::geteuid().is_root() {
                // Root needs no permission, so this thread alone becomes the owner of the queue.
                fs::set_permissions(top.path(), Permissions::from_mode(0o755)).unwrap();
                for folder in [&queue.path, &queue.path.join("message"), path.parent().unwrap()] {
                    std::os::unix::fs::chown(folder, Some(65534), None).unwrap();
                }
                nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
            }
            message.remove()
        };
        scope.spawn(remove).join().unwrap()
    });
    removed.unwrap();
    assert!(!path.exists());
}

/// Who finds one that is not to be taken asks whether to come back soon.
#[test]
fn a_damaged_file_and_a_held_message_are_none_that_is_there_and_a_locked_one_is() {
    let (_folder, queue) = queue();
    let [free, held, damaged, foreign] = [(); 4].map(|()| put(&queue));
    let mut message = queue.take_at_last(&held);
    message.hold(true).unwrap();
    let path = queue.path_of(&damaged);
    let octets = fs::read(&path).unwrap();
    fs::write(&path, &octets[..octets.len() - 1]).unwrap();
    fs::write(queue.path_of(&foreign), "a file of somebody else's\n").unwrap();
    let _locked = queue.take_at_last(&free);
    assert!(queue.take(&free).unwrap().is_none());
    assert_eq!([free, held, damaged, foreign].map(|id| queue.has(&id)), [true, false, false, false]);
}

#[test]
fn what_is_due_comes_oldest_first_and_nothing_else() {
    let (_folder, queue) = queue();
    let now = SystemTime::now();
    let minute = Duration::from_secs(60);
    let [late, early, later, wrong] = [(); 4].map(|()| put(&queue));
    set_time(&queue, &late, now - minute);
    set_time(&queue, &early, now - 2 * minute);
    set_time(&queue, &later, now + minute);
    // Set while the clock was ten years ahead.
    set_time(&queue, &wrong, now + Duration::from_secs(3650 * 86_400));
    fs::write(queue.path.join("message/README"), "x").unwrap();
    fs::write(queue.path_of(&late).with_file_name("core"), "x").unwrap();
    assert_eq!(due(&queue, now), [early, late, wrong]);
    assert_eq!(due(&queue, now + minute), [early, late, later, wrong]);
}

#[test]
fn marks_make_a_message_due_until_it_is_deferred() {
    let (_folder, queue) = queue();
    let mut draft = queue.begin().unwrap();
    draft.recipient(&Address::from_internal(b"bob").unwrap()).unwrap();
    let id = draft.commit(&head()).unwrap();
    let hour = SystemTime::now() + Duration::from_secs(3600);
    let mut message = queue.take_at_last(&id);
    message.defer_until(hour).unwrap();
    message.mark(0, RecipientState::Trying, "", true).unwrap();
    assert_eq!(due(&queue, SystemTime::now()), [id]);
    message.defer_until(hour).unwrap();
    assert_eq!(due(&queue, SystemTime::now()), []);
}

#[test]
fn a_given_id_is_written_once() {
    let (_folder, queue) = queue();
    let child = put(&queue).derived("return/0", 0);
    let draft = begin_as(&queue, &child).unwrap();
    assert!(queue.begin_as(&child).is_err(), "somebody writes it");
    drop(draft);
    begin_as(&queue, &child).unwrap().commit(&head()).unwrap();
    assert!(begin_as(&queue, &child).is_none());
}

#[test]
fn what_a_crash_left_of_a_given_id_is_written_again() {
    let (_folder, queue) = queue();
    let child = put(&queue).derived("return/0", 0);
    begin_as(&queue, &child).unwrap().commit(&head()).unwrap();
    fs::write(queue.path_of(&child), [0; 3000]).unwrap();
    begin_as(&queue, &child).unwrap().commit(&head()).unwrap();
    drop(queue.take_at_last(&child));
}

/// A power cut may leave a complete header over content that never reached the disk, or before an end that did not.
#[test]
fn what_a_power_cut_spoilt_under_a_derived_id_is_passed_by_and_written_again() {
    let (_folder, queue) = queue();
    let parent = put(&queue);
    let begin = || queue.begin_derived(&parent, "return/0").unwrap();
    let write = |mut draft: Draft| {
        draft.content(&b"a line\n".repeat(1000)).unwrap();
        draft.commit(&head()).unwrap()
    };
    let first = write(begin().unwrap());
    assert!(queue.has_derived(&parent, "return/0").unwrap());
    let whole = fs::read(queue.path_of(&first)).unwrap();
    let mut torn = whole.clone();
    torn[4096..8192].fill(0);
    let mut second = None;
    for spoilt in [&torn[..], &whole[..5000]] {
        fs::write(queue.path_of(&first), spoilt).unwrap();
        second.iter().for_each(|id| fs::remove_file(queue.path_of(id)).unwrap());
        assert!(!queue.has_derived(&parent, "return/0").unwrap());
        // Whoever looks at what is spoilt has its lock meanwhile.
        let locked = File::open(queue.path_of(&first)).unwrap();
        locked.lock().unwrap();
        let draft = begin().unwrap();
        drop(locked);
        let id = write(draft);
        assert_ne!(id, first);
        assert!(queue.has_derived(&parent, "return/0").unwrap() && begin().is_none());
        let locked = queue.take_at_last(&id);
        assert!(queue.has_derived(&parent, "return/0").unwrap() && begin().is_none());
        drop(locked);
        second = Some(id);
    }
}

/// Who asks whether it is there must find what who wrote it passed by.
#[test]
fn what_is_no_file_under_a_derived_id_is_passed_by() {
    let (_folder, queue) = queue();
    let parent = put(&queue);
    for (number, kind) in ["folder", "link", "socket", "fifo"].into_iter().enumerate() {
        let origin = format!("return/{number}");
        let path = queue.path_of(&parent.derived(&format!("{parent} {origin}"), 0));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match kind {
            "folder" => fs::create_dir(&path).unwrap(),
            "link" => std::os::unix::fs::symlink("x", &path).unwrap(),
            "socket" => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
            _ => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap(),
        }
        assert!(!queue.has_derived(&parent, &origin).unwrap(), "{kind}");
        queue.begin_derived(&parent, &origin).unwrap().unwrap().commit(&head()).unwrap();
        assert!(queue.has_derived(&parent, &origin).unwrap(), "{kind}");
        assert!(queue.begin_derived(&parent, &origin).unwrap().is_none(), "{kind}");
    }
}

#[test]
fn a_derived_message_is_queued_once_and_never_mistaken_for_anothers() {
    let (_folder, queue) = queue();
    let parent = put(&queue);
    let begin = |origin: &str| queue.begin_derived(&parent, origin).unwrap();
    // Somebody else's message under the very id: it is left alone, and another id is found.
    let taken = parent.derived(&format!("{parent} return/0"), 0);
    begin_as(&queue, &taken).unwrap().commit(&head()).unwrap();
    let id = begin("return/0").unwrap().commit(&head()).unwrap();
    assert_ne!(id, taken);
    assert!(begin("return/0").is_none());
    let locked = queue.take_at_last(&id);
    assert!(begin("return/0").is_none(), "another deliver is busy with it");
    drop(locked);
    assert!(begin("return/1").is_some());
}

#[test]
fn a_held_message_is_never_due_until_it_is_released() {
    let (_folder, queue) = queue();
    let id = put(&queue);
    let far = SystemTime::now() + Duration::from_secs(1000);
    queue.take_at_last(&id).hold(true).unwrap();
    assert_eq!(due(&queue, far), []);
    let names = queue.names().unwrap();
    assert!(names.len() == 1 && names[0].is_held && names[0].id == id, "{names:?}");
    assert!(queue.look(&id).unwrap().unwrap().is_held);
    let mut message = queue.take_at_last(&id);
    message.hold(false).unwrap();
    assert_eq!(due(&queue, far), [id]);
}

#[test]
fn a_look_sees_a_locked_message_and_what_is_marked_in_it() {
    let (_folder, queue) = queue();
    let mut draft = queue.begin().unwrap();
    draft.content(b"x\n").unwrap();
    draft.recipient(&Address::from_internal(b"bob@mx.example").unwrap()).unwrap();
    let id = draft.commit(&head()).unwrap();
    let mut message = queue.take_at_last(&id);
    message.mark(0, RecipientState::Waiting, "4.2.2 full", false).unwrap();
    message.mark_warned(0, true).unwrap();
    let seen = queue.look(&id).unwrap().unwrap();
    assert_eq!((seen.recipients[0].report.as_str(), seen.recipients[0].is_warned), ("4.2.2 full", true));
    message.mark(0, RecipientState::Trying, "", false).unwrap();
    drop(message);
    let message = queue.take_at_last(&id);
    assert_eq!((message.recipients[0].attempts, message.recipients[0].is_warned), (1, true));
}

#[test]
fn waking_finds_out_whether_anybody_reads() {
    let (_folder, queue) = queue();
    assert!(!queue.wake());
    let mut flags = OpenOptions::new();
    flags.read(true).custom_flags(libc::O_NONBLOCK);
    let mut reader = flags.open(queue.path.join("trigger")).unwrap();
    assert!(queue.wake());
    // A full one must neither block nor count as nobody.
    let mut writer = OpenOptions::new();
    let mut writer = writer.write(true).custom_flags(libc::O_NONBLOCK).open(queue.path.join("trigger")).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok_and(|count| count > 0) {}
    while writer.write(b"x").is_ok_and(|count| count > 0) {}
    assert!(queue.wake());
    assert_eq!(reader.read(&mut [0; 10]).unwrap(), 10);
    drop((reader, writer));
    assert!(!queue.wake());
    fs::remove_file(queue.path.join("trigger")).unwrap();
    fs::write(queue.path.join("trigger"), "").unwrap();
    assert!(!queue.wake());
    assert_eq!(fs::read(queue.path.join("trigger")).unwrap(), b"");
}
