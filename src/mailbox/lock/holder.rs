//! Whose a dot lock is: what we write into ours, and whether the process that wrote it lives still.
//!
//! ```text
//! 1234                                    its number, which other programs ask for
//! doorpost MACHINE BOOT NUMBERS BEGAN     which machine, started when; whose numbers; when the process began
//! ```
//!
//! The machine is a hash of its name and of /etc/machine-id, which machine-id(5) wants to stay on it.

use crate::clock::since_1970;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::sys::stat::FileStat;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, gethostname};
use sha2::{Digest, Sha256};
use std::fs::{File, read_to_string};
use std::io::Read;
use std::time::{Duration, SystemTime};

/// No lock is longer, ours or another program's.
pub const LONGEST: u64 = 256;

/// Whose a lock is, where it is one of our own and of this system, with these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody's any more: a process that was ended and is not collected yet holds nothing, nor does a later one of its
    /// number.
    Gone,
    /// A process that is seen to be the one that made it.
    Lives,
    /// Nobody here can tell.
    Unknown,
}

impl Holder {
    /// Reads it.
    pub fn of(lock: File, status: &FileStat) -> Holder {
        let mut text = String::new();
        if lock.take(LONGEST).read_to_string(&mut text).is_err() {
            return Holder::Unknown;
        }
        let Some(Words { number, at: [machine, boot, numbers], began }) = words(&text) else {
            return Holder::Unknown;
        };
        match here() {
            [this, ..] if this != machine => return Holder::Unknown,
            [_, now, _] if now.is_empty() || boot.is_empty() => return Holder::Unknown,
            [_, now, _] if now != boot => {
                let is_of_before = !machine.is_empty() && is_older_than_this_boot(status);
                return if is_of_before { Holder::Gone } else { Holder::Unknown };
            }
            [.., ours] if ours != numbers => return Holder::Unknown,
            _ => {}
        }
        if kill(Pid::from_raw(number), None) == Err(Errno::ESRCH) {
            return Holder::Gone;
        }
        // Who could not tell when it began wrote nothing there.
        match (began, Life::of(number)) {
            (_, Some(life)) if !life.goes_on => Holder::Gone,
            ("", _) | (_, None) => Holder::Unknown,
            // Anybody can write of a process that is not his.
            (began, Some(life)) if began == life.began => match has_rights_of(number, status.st_uid) {
                true => Holder::Lives,
                false => Holder::Unknown,
            },
            _ => Holder::Gone,
        }
    }
}

/// What stands in a lock of a process of ours.
pub fn contents(process: u32) -> String {
    let number = i32::try_from(process).unwrap_or_default();
    let [machine, boot, numbers] = here();
    format!("{number}\ndoorpost {machine} {boot} {numbers} {}\n", Life::of(number).unwrap_or_default().began)
}

struct Words<'a> {
    number: i32,
    at: [&'a str; 3],
    began: &'a str,
}

/// Takes a lock apart, if it is whole and one of ours.
fn words(text: &str) -> Option<Words<'_>> {
    let (number, rest) = text.strip_suffix('\n')?.split_once('\n')?;
    let number = number.parse().ok().filter(|number| *number > 0)?;
    let mut words = rest.strip_prefix("doorpost ")?.split(' ');
    let at = [words.next()?, words.next()?, words.next()?];
    let began = words.next()?;
    words.next().is_none().then_some(Words { number, at, began })
}

/// This machine, when it was started, and the space of numbers that this process is in; empty where that is not known.
fn here() -> [String; 3] {
    let text = |path| read_to_string(path).unwrap_or_default().trim().to_owned();
    let machine = match text("/etc/machine-id") {
        // Machines are copied with it; not often with the name, too.
        id if !id.is_empty() => hash(&[id.as_bytes(), gethostname().unwrap_or_default().as_encoded_bytes()]),
        id => id,
    };
    let numbers = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    [machine, text("/proc/sys/kernel/random/boot_id"), numbers.display().to_string()]
}

fn hash(parts: &[&[u8]]) -> String {
    let digest = Sha256::digest([b"doorpost dot lock".as_slice(), &parts.join(&0)].concat());
    digest.iter().take(16).map(|octet| format!("{octet:02x}")).collect()
}

/// A copy of this machine may be up, too, and share the folder: what it has locked since is not ours of before.
fn is_older_than_this_boot(lock: &FileStat) -> bool {
    let made = u64::try_from(lock.st_mtime).unwrap_or(0);
    let now = since_1970(SystemTime::now());
    let up = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from);
    now.checked_sub(up).is_some_and(|started| made < started.as_secs())
}

/// Whether a process has, or had, the rights of a user.
fn has_rights_of(number: i32, user: u32) -> bool {
    let status = read_to_string(format!("/proc/{number}/status")).unwrap_or_default();
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    users.split_ascii_whitespace().any(|one| one.parse() == Ok(user))
}

/// What proc(5) says of a process.
#[derive(Debug, Default)]
struct Life {
    /// It has not been ended.
    goes_on: bool,
    /// When it began, in ticks since the system was started.
    began: String,
}

impl Life {
    /// Nothing of a process that is not there, or where there is no /proc.
    fn of(number: i32) -> Option<Life> {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        // Behind the name, which may hold anything: state is the third field, the beginning the 22nd.
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
        let goes_on = !matches!(fields.next()?, "Z" | "X");
        Some(Life { goes_on, began: fields.nth(18)?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::lock::tests::mailbox;
    use crate::mailbox::lock::{Held, LOCKING, Locking};

    fn own() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    /// The lock of a process here that began then.
    fn holder(number: i32, began: &str) -> String {
        let [machine, boot, numbers] = here();
        format!("{number}\ndoorpost {machine} {boot} {numbers} {began}\n")
    }

    fn put(path: &std::path::Path, text: &str, age: Duration) {
        std::fs::write(path, text).unwrap();
        File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn a_lock_of_a_dead_process_of_ours_is_removed_and_a_living_ones_is_not() {
        let (folder, place, file) = mailbox();
        let lock = folder.path().join("bob.lock");
        let mut dead = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let of_the_dead = contents(dead.id());
        std::fs::write(&lock, &of_the_dead).unwrap();
        assert_eq!(Held::take(&place, &file, &LOCKING, true, true).err(), Some(Errno::EWOULDBLOCK));
        drop(dead.stdin.take());
        nix::sys::wait::waitid(
            nix::sys::wait::Id::Pid(Pid::from_raw(i32::try_from(dead.id()).unwrap())),
            nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT,
        )
        .unwrap();
        assert!(Held::take(&place, &file, &LOCKING, true, true).is_ok(), "ended, and not collected");
        dead.wait().unwrap();
        let of_its_successor = holder(own(), "1");
        for text in [of_the_dead, of_its_successor] {
            std::fs::write(&lock, &text).unwrap();
            assert!(Held::take(&place, &file, &LOCKING, true, true).is_ok(), "{text:?}");
        }
        let unknown = holder(own(), "");
        for text in [contents(std::process::id()), unknown, format!("{}\n", dead.id()), "0".to_owned(), String::new()] {
            std::fs::write(&lock, &text).unwrap();
            assert_eq!(Held::take(&place, &file, &LOCKING, true, true).err(), Some(Errno::EWOULDBLOCK), "{text:?}");
        }
    }

    #[test]
    fn an_old_lock_is_removed_unless_its_holder_is_seen_to_live() {
        let (folder, place, file) = mailbox();
        let path = folder.path().join("bob.lock");
        let old = holder(own(), "");
        for (text, is_removed) in [("", true), ("1\n", true), (&old, true), (&*contents(std::process::id()), false)] {
            put(&path, text, Duration::from_secs(600));
            assert_eq!(Held::take(&place, &file, &LOCKING, true, true).is_ok(), is_removed, "{text:?}");
        }
        // Nor does a clock of somebody's own keep one.
        for (ahead, is_removed) in [(86_000, false), (87_000, true)] {
            std::fs::write(&path, "1\n").unwrap();
            let time = SystemTime::now() + Duration::from_secs(ahead);
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            assert_eq!(Held::take(&place, &file, &LOCKING, true, true).is_ok(), is_removed, "{ahead}");
        }
        if crate::needs::root() {
            put(&path, &contents(std::process::id()), Duration::from_secs(600));
            std::os::unix::fs::chown(&path, Some(1), None).unwrap();
            assert!(
                Held::take(&place, &file, &LOCKING, true, true).is_ok(),
                "who wrote it is not the process it names"
            );
        }
    }

    #[test]
    fn where_age_does_not_count_a_lock_of_the_boot_before_is_removed_and_no_other() {
        let (folder, place, file) = mailbox();
        let path = folder.path().join("bob.lock");
        let locking = Locking { stale: Duration::ZERO, ..LOCKING };
        let [machine, boot, numbers] = here();
        let text = |machine: &str, boot: &str| format!("1\ndoorpost {machine} {boot} {numbers} 5\n");
        let before_this_boot =
            Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap()) + Duration::from_secs(60);
        let is_known = !machine.is_empty();
        for (text, age, is_removed) in [
            (text(&machine, "another"), before_this_boot, is_known),
            (text(&machine, "another"), Duration::ZERO, false),
            (text("another", "another"), before_this_boot, false),
            (text("", "another"), before_this_boot, false),
            (text(&machine, ""), before_this_boot, false),
            // It was cut off.
            (text(&machine, "another").trim_end().to_owned(), before_this_boot, false),
            (text(&machine, &boot).replace("1\n", "2147483647\n"), Duration::ZERO, true),
            ("1\n".to_owned(), before_this_boot, false),
            (String::new(), before_this_boot, false),
        ] {
            put(&path, &text, age);
            assert_eq!(Held::take(&place, &file, &locking, true, true).is_ok(), is_removed, "{text:?} {age:?}");
            assert_eq!(path.exists(), !is_removed, "{text:?} {age:?}");
        }
    }

    /// Mutt's and Postfix's have no mode, and a mailbox may be called so.
    #[test]
    fn an_old_lock_that_is_not_to_be_read_is_removed_and_what_is_no_lock_is_not() {
        let (folder, place, file) = mailbox();
        let path = folder.path().join("bob.lock");
        let is_locked = || Held::take(&place, &file, &LOCKING, true, true).err() == Some(Errno::EWOULDBLOCK);
        let old = Duration::from_secs(600);
        for (age, is_removed) in [(Duration::ZERO, false), (old, true)] {
            let _ = std::fs::remove_file(&path);
            std::os::unix::fs::symlink("bob@mx:1", &path).unwrap();
            let time = (SystemTime::now() - age).duration_since(SystemTime::UNIX_EPOCH).unwrap();
            let time = nix::sys::time::TimeSpec::from_duration(time);
            let how = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
            nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, &path, &time, &time, how).unwrap();
            assert_eq!(is_locked(), !is_removed, "a symbolic link of {age:?}");
        }
        put(&path, &"x".repeat(257), old);
        assert!(is_locked() && path.exists());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        File::open(&path).unwrap().set_modified(SystemTime::now() - old).unwrap();
        assert!(is_locked() && path.exists());
    }
}
