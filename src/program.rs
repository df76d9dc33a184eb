//! Running a program with a message on its standard input: by exec with a list of arguments, never through a shell.
//!
//! The content lies whole in a file without a name before the program starts, so that a message cut off is never taken for
//! one. What the program's end means is for whoever ran it to say.

pub mod arguments;
pub mod end;
pub mod envelope;

use crate::logging::clean;
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// A program that runs, and the file its complaints go to.
pub struct Started {
    child: Child,
    complaints: File,
}

/// Starts it in a process group of its own, with nothing of ours open but its standard output, once all the content is there.
pub fn start(command: &mut Command, content: &mut dyn Read) -> io::Result<Started> {
    let mut spool = nameless()?;
    io::copy(content, &mut spool)?;
    spool.rewind()?;
    let complaints = nameless()?;
    command.stdin(spool).stderr(complaints.try_clone()?).process_group(0);
    // A signal that this process blocks or ignores is none of the program's affairs.
    crate::sys::start_as_we_were(command, nix::sys::signal::SigSet::empty(), 0);
    end::leave(None);
    Ok(Started { child: command.spawn()?, complaints })
}

/// Waits for its end; after `limit` it and all it started are killed, which is an error unless it has ended with 0 all the
/// same: then it has the message.
pub fn finish(mut started: Started, limit: Duration) -> io::Result<ExitStatus> {
    let leader = Pid::from_raw(i32::try_from(started.child.id()).map_err(io::Error::other)?);
    let (status, in_time) = end::wait(leader, Instant::now() + limit, end::ENDING, || started.child.try_wait())?;
    // Another status may be that of a shell whose command was killed.
    if !in_time && !status.success() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it ran longer than command_time_limit"));
    }
    if !status.success() {
        let mut said = Vec::new();
        let _ = started.complaints.rewind();
        let _ = started.complaints.take(300).read_to_end(&mut said);
        log::warn!("event=program-failed status=\"{status}\" said={:?}", clean(said.trim_ascii(), 300));
    }
    Ok(status)
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
    use std::process::Stdio;

    #[test]
    fn a_program_that_never_ends_is_ended_with_all_it_started() {
        let mut command = Command::new("/bin/sh");
        command.stdout(Stdio::null()).args(["-c", "sleep 1000 & sleep 1000"]);
        let started = start(&mut command, &mut &b"text\n"[..]).unwrap();
        let error = finish(started, Duration::from_millis(10)).unwrap_err();
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
                command.stdout(Stdio::null()).uid(1).args(["-c", script]);
                let started = start(&mut command, &mut &b"text\n"[..]).unwrap();
                nix::unistd::setuid(nix::unistd::Uid::from_raw(65_534)).unwrap();
                u8::from(finish(started, Duration::from_millis(10)).ok().and_then(|status| status.code()) == expected)
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
        assert!(start(Command::new("/usr/bin/touch").arg(&path), &mut Torn).is_err());
        assert!(!path.exists());
    }
}
