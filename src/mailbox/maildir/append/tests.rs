use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

fn scratch() -> (tempfile::TempDir, std::path::PathBuf, Folders) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Maildir");
    let folders = Folders::open(&path).unwrap();
    (folder, path, folders)
}

/// Dovecot and isync give a file the date of its message while it is in tmp/ still.
#[test]
fn only_the_youngest_of_its_times_says_how_old_a_file_in_tmp_is() {
    let (_scratch, path, folders) = scratch();
    let file = fs::File::create(path.join("tmp/1.a")).unwrap();
    let years_ago = SystemTime::now() - Duration::from_secs(3 * 365 * 86_400);
    file.set_times(fs::FileTimes::new().set_accessed(years_ago).set_modified(years_ago)).unwrap();
    let now = fstat(&file).unwrap().st_ctime;
    for (hours, is_there) in [(0, true), (35, true), (37, false)] {
        forget_old(&folders.tmp, now + hours * 3600);
        assert_eq!(path.join("tmp/1.a").exists(), is_there, "{hours}");
    }
}

#[test]
fn tmp_is_looked_through_by_the_first_delivery_in_a_while_and_by_few_others() {
    assert!(is_time_to_look("1.a", 1000, 1600));
    let looks = |changed| (0..6400).filter(|number| is_time_to_look(&format!("{number}.a"), changed, 1599)).count();
    assert!((50..200).contains(&looks(1000)) && (50..200).contains(&looks(2000)), "{}", looks(1000));
}

/// Over NFS a lock that keeps others out needs a file that is open for writing.
#[test]
fn what_a_crash_left_is_opened_for_writing() {
    let (_scratch, path, folders) = scratch();
    let stale = path.join("tmp/1.a");
    fs::write(&stale, "half").unwrap();
    fs::set_permissions(&stale, fs::Permissions::from_mode(0o200)).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(path.join("tmp"), Some(65_534), None).unwrap();
        std::os::unix::fs::chown(&stale, Some(65_534), None).unwrap();
    }
    // Root may read everything, so this is done with the rights of nobody, which one thread alone can have.
    let removed = std::thread::spawn(move || {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534));
        remove_stale(&folders.tmp, "1.a")
    });
    removed.join().unwrap().unwrap();
    assert!(!stale.exists());
}

/// A change in the tick of the one before leaves the time as it was.
#[test]
fn a_folder_is_believed_only_when_its_time_is_over() {
    let (_scratch, path, folders) = scratch();
    let look = |cur: SystemTime| {
        for folder in ["new", "cur"] {
            fs::File::open(path.join(folder)).unwrap().set_modified(cur).unwrap();
        }
        let begin = std::time::Instant::now();
        assert!(!is_there(&folders, "1700000000.Q1R0.mx").unwrap());
        begin.elapsed()
    };
    let hour = Duration::from_secs(3600);
    let all = Duration::from_nanos(TICK) * u32::try_from(SEARCHES).unwrap();
    look(SystemTime::now() - hour);
    assert!(look(SystemTime::now() + hour) >= all, "it never is");
    assert_eq!(fs::read_dir(path.join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_repeat_finds_a_message_that_another_program_renames_all_the_time() {
    let (_scratch, path, folders) = scratch();
    for number in 0..3000 {
        fs::write(path.join(format!("cur/{number}.message-of-some-length.mx.example,S=1000,W=1010:2,S")), "").unwrap();
    }
    let name =
        |number: u32| path.join(format!("cur/1700000000.Q1R0.mx,S=4,W=5:2,{}", "F".repeat(number as usize % 40)));
    fs::write(name(0), "one\n").unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..u32::MAX {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                fs::rename(name(number), name(number + 1)).unwrap();
            }
        });
        let missed = (0..300).filter(|_| !is_there(&folders, "1700000000.Q1R0.mx").unwrap()).count();
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(missed, 0);
    });
}
