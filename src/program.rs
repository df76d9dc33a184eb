//! Running a program with a message on its standard input: by exec with a list of arguments, never through a shell.
//!
//! The content lies whole in a file without a name before the program starts, so that a message cut off is never taken for
//! one. What the program's end means is for whoever ran it to say.

pub mod arguments;
pub mod end;
pub mod envelope;

use crate::logging::clean;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A program that runs, and the file that what it says goes to.
pub struct Started {
    child: Child,
    said: File,
}

/// How a program ended.
#[derive(Debug)]
pub struct Over {
    /// Its status.
    pub status: ExitStatus,
    /// What it said, if the status is another than 0: its first lines in one, printable ASCII of at most [`LONGEST_SAID`]
    /// octets.
    pub said: String,
}

/// Octets of what a program says that are told.
pub const LONGEST_SAID: usize = 300;

/// Octets of it that are looked at, and that may lie on disk for longer than a moment.
const KEPT: u64 = 2000;
const ON_DISK: u64 = 64 * 1024;

/// Exit statuses of sysexits.h that mean never, with what they mean: as Postfix's pipe(8) and local(8) have it.
pub const NEVER: [(i32, &str); 10] = [
    (64, "5.3.5 usage error"),
    (65, "5.6.0 data format error"),
    (66, "5.3.0 no input"),
    (67, "5.1.1 no such user"),
    (68, "5.1.2 no such host"),
    (69, "5.3.0 service unavailable"),
    (70, "5.3.0 internal software error"),
    (76, "5.5.0 protocol error"),
    (77, "5.7.0 permission denied"),
    (78, "5.3.5 configuration error"),
];

/// A reason with what the program said behind it, which may be nothing.
pub fn with_words(reason: &str, said: &str) -> String {
    if said.is_empty() { reason.to_owned() } else { format!("{reason}: {said}") }
}

/// Starts it in a process group of its own, with nothing of ours open, once all the content is there. What it says on standard
/// output counts as what it says on standard error, unless `output` is there.
pub fn start(command: &mut Command, output: Option<Stdio>, content: &mut dyn Read) -> io::Result<Started> {
    let mut spool = nameless()?;
    io::copy(content, &mut spool)?;
    spool.rewind()?;
    let said = nameless()?;
    // So that it can be cut while it is written.
    fcntl(&said, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    let output = match output {
        Some(output) => output,
        None => said.try_clone()?.into(),
    };
    command.stdin(spool).stdout(output).stderr(said.try_clone()?).process_group(0);
    // A signal that this process blocks or ignores is none of the program's affairs.
    crate::sys::start_as_we_were(command, nix::sys::signal::SigSet::empty(), 0);
    end::leave(None);
    Ok(Started { child: command.spawn()?, said })
}

/// Waits for its end; after `limit` it and all it started are killed, which is an error unless it has ended with 0 all the
/// same: then it has the message. `whose` stands in the record of one that ends otherwise: fields that name the message and
/// the program.
pub fn finish(mut started: Started, limit: Duration, whose: &str) -> io::Result<Over> {
    let leader = Pid::from_raw(i32::try_from(started.child.id()).map_err(io::Error::other)?);
    let said = started.said;
    let look = || {
        // It may say as much as it likes, and nobody has a use for that.
        if said.metadata().is_ok_and(|metadata| metadata.len() > ON_DISK) {
            let _ = said.set_len(KEPT);
        }
        started.child.try_wait()
    };
    let (status, in_time) = end::wait(leader, Instant::now() + limit, end::ENDING, look)?;
    // Another status may be that of a shell whose command was killed.
    if !in_time && !status.success() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it ran longer than command_time_limit"));
    }
    let said = if status.success() { String::new() } else { first_lines(&said) };
    if !status.success() {
        log::warn!("{whose} event=program-failed status=\"{status}\" said={said:?}");
    }
    Ok(Over { status, said })
}

/// What is in the file, as one line. Somebody may still be writing, so its position is left alone.
fn first_lines(file: &File) -> String {
    let mut octets = [0; KEPT as usize];
    let count = file.read_at(&mut octets, 0).unwrap_or(0);
    let lines = octets.get(..count).unwrap_or_default().split(|octet| *octet == b'\n').map(<[u8]>::trim_ascii);
    let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
    clean(&lines.join(&b" / "[..]), LONGEST_SAID)
}

/// A file that nobody can find, and that goes with its last descriptor.
pub fn nameless() -> io::Result<File> {
    let flags = libc::O_TMPFILE | libc::O_CLOEXEC;
    let in_tmp = File::options().read(true).write(true).mode(0o600).custom_flags(flags).open("/tmp");
    in_tmp.or_else(|_| File::options().read(true).write(true).mode(0o600).custom_flags(flags).open("/var/tmp"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, limit: Duration) -> io::Result<Over> {
        let started = start(Command::new("/bin/sh").args(["-c", script]), None, &mut &b"text\n"[..])?;
        finish(started, limit, "id=1")
    }

    /// A program may be somebody else's, and a stranger's message is what it speaks of.
    #[test]
    fn what_a_failed_program_says_is_told_in_one_line_whatever_it_is() {
        let said = |script: &str| run(script, Duration::from_secs(20)).unwrap().said;
        assert_eq!(said("echo out; echo err >&2; exit 75"), "out / err");
        assert_eq!(said("echo; echo '  no room  '; echo; exit 1"), "no room");
        assert_eq!(said("printf 'a\\r\\n\\033[2J\"b\\000'; exit 1"), "a / \\x1b[2J\"b\\x00");
        assert_eq!(said("exit 1"), "");
        assert_eq!(said("echo fine"), "");
        let much = said("head -c 1000000 /dev/zero | tr '\\0' x; exit 1");
        assert!(much.len() == LONGEST_SAID && much.ends_with("xxx..."), "{much}");
    }

    #[test]
    fn a_program_that_never_ends_is_ended_with_all_it_started() {
        let error = run("sleep 1000 & sleep 1000", Duration::from_millis(10)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    /// As by set-uid or sudo: here it is we who become somebody else than root, in a process of its own.
    #[test]
    fn what_a_program_says_that_cannot_be_killed_is_heard() {
        if !crate::needs::root() {
            return;
        }
        for (script, expected) in [("sleep 1; exit 0", Some(0)), ("sleep 1; exit 67", None)] {
            let alone = || {
                let mut command = Command::new("/bin/sh");
                command.uid(1).args(["-c", script]);
                let started = start(&mut command, None, &mut &b"text\n"[..]).unwrap();
                nix::unistd::setuid(nix::unistd::Uid::from_raw(65_534)).unwrap();
                let over = finish(started, Duration::from_millis(10), "id=1").ok();
                u8::from(over.and_then(|over| over.status.code()) == expected)
            };
            let child = crate::sys::fork(alone).unwrap();
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 1), "{script}");
        }
    }

    #[test]
    fn content_that_ends_in_an_error_starts_nothing() {
        struct Torn;
        impl Read for Torn {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
        let mark = tempfile::tempdir().unwrap();
        let path = mark.path().join("started");
        assert!(start(Command::new("/usr/bin/touch").arg(&path), None, &mut Torn).is_err());
        assert!(!path.exists());
    }
}
