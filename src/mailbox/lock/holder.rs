//! Whose a dot lock is: what we write into ours, and whether the process that wrote it lives still.

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs::File;
use std::io::Read;

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
    pub fn of(lock: File) -> Holder {
        let mut text = String::new();
        if lock.take(256).read_to_string(&mut text).is_err() {
            return Holder::Unknown;
        }
        let number = text.lines().next().and_then(|line| line.parse::<i32>().ok()).filter(|number| *number > 0);
        let Some((number, began)) = number.and_then(|number| Some((number, text.strip_prefix(&holder(number))?)))
        else {
            return Holder::Unknown;
        };
        if kill(Pid::from_raw(number), None) == Err(Errno::ESRCH) {
            return Holder::Gone;
        }
        // Who could not tell when it began wrote nothing there.
        match (began.trim_end(), Life::of(number)) {
            (_, Some(life)) if !life.goes_on => Holder::Gone,
            ("", _) | (_, None) => Holder::Unknown,
            (began, Some(life)) if began == life.began => Holder::Lives,
            _ => Holder::Gone,
        }
    }
}

/// What stands in a lock of a process of ours: its number, which numbers those are, and when it began.
pub fn contents(process: u32) -> String {
    let number = i32::try_from(process).unwrap_or_default();
    format!("{}{}\n", holder(number), Life::of(number).unwrap_or_default().began)
}

fn holder(number: i32) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let numbers = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{number}\ndoorpost {} {} ", boot.trim(), numbers.display())
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
    use crate::mailbox::lock::{Held, LOCKING};
    use std::time::{Duration, SystemTime};

    fn own() -> i32 {
        i32::try_from(std::process::id()).unwrap()
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
        let of_its_successor = format!("{}1\n", holder(own()));
        for text in [of_the_dead, of_its_successor] {
            std::fs::write(&lock, &text).unwrap();
            assert!(Held::take(&place, &file, &LOCKING, true, true).is_ok(), "{text:?}");
        }
        let unknown = format!("{}\n", holder(own()));
        for text in [contents(std::process::id()), unknown, format!("{}\n", dead.id()), "0".to_owned(), String::new()] {
            std::fs::write(&lock, &text).unwrap();
            assert_eq!(Held::take(&place, &file, &LOCKING, true, true).err(), Some(Errno::EWOULDBLOCK), "{text:?}");
        }
    }

    #[test]
    fn an_old_lock_is_removed_unless_its_holder_is_seen_to_live() {
        let (folder, place, file) = mailbox();
        let path = folder.path().join("bob.lock");
        let old = format!("{}\n", holder(own()));
        for (text, is_removed) in [("", true), ("1\n", true), (&old, true), (&*contents(std::process::id()), false)] {
            std::fs::write(&path, text).unwrap();
            let lock = File::options().write(true).open(&path).unwrap();
            lock.set_modified(SystemTime::now() - Duration::from_secs(600)).unwrap();
            assert_eq!(Held::take(&place, &file, &LOCKING, true, true).is_ok(), is_removed, "{text:?}");
        }
    }
}
