//! Giving a message to a program: on its standard input, by exec with a list of arguments, never through a shell.
//!
//! The content lies whole in a file without a name before the program starts, so that a message cut off is never taken for
//! one. The exit status is what sysexits.h and qmail say: 0 is done; 71 to 75, 111 and from 126 on may be better later, and
//! so is a program that a signal ended something to try again; others are a failure.

use super::appended::Appended;
use super::task::Task;
use crate::aliases::{defers_failures, split_command};
use crate::config::Config;
use crate::logging::clean;
use crate::mailbox::mbox;
use crate::users::User;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Runs the command of a target for a user whose rights this process has, and waits for its end.
pub fn run(config: &Config, task: &Task, command: &str, user: &User, content: &mut dyn Read) -> Appended {
    let words = match split_command(command) {
        Ok(words) => words,
        Err(problem) => {
            log::warn!("user={}: {problem}", user.name);
            return Appended::ProgramTrouble;
        }
    };
    let Some((program, arguments)) = words.split_first() else { return Appended::ProgramTrouble };
    let (local, domain) = task.recipient.rsplit_once('@').unwrap_or((&task.recipient, ""));
    let home = if user.home.is_dir() { user.home.as_path() } else { std::path::Path::new("/") };
    let mut prepared = Command::new(program);
    prepared
        .args(arguments)
        .stdout(Stdio::null())
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("SHELL", "/bin/sh");
    prepared.env("HOME", home).env("USER", &user.name).env("LOGNAME", &user.name).current_dir(home);
    let sender = task.sender.trim_start_matches('<').trim_end_matches('>');
    prepared.env("SENDER", sender).env("RECIPIENT", &task.recipient).env("LOCAL", local).env("DOMAIN", domain);
    // vacation, procmail and the like look there for the sender.
    let separator = mbox::separator(sender.as_bytes(), now());
    let result = start(&mut prepared, &mut separator.chain(content))
        .and_then(|started| finish(started, config.command_time_limit.0));
    match result {
        Ok(status) => match of_status(status, program) {
            Appended::ProgramFailed if defers_failures(command) => Appended::ProgramTemporary,
            appended => appended,
        },
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Appended::Incomplete,
        Err(error) => {
            log::warn!("user={} program={program}: {error}", user.name);
            if error.kind() == io::ErrorKind::StorageFull { Appended::NoRoom } else { Appended::ProgramTrouble }
        }
    }
}

/// Now, in seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A program that runs, and the file its complaints go to.
pub struct Started {
    child: Child,
    complaints: File,
}

/// Starts it in a session of its own, with nothing of ours open but its standard output, once all the content is there.
pub fn start(command: &mut Command, content: &mut dyn Read) -> io::Result<Started> {
    let mut spool = nameless()?;
    let mut buffer = [0; 32 * 1024];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => spool.write_all(buffer.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    spool.rewind()?;
    let complaints = nameless()?;
    command.stdin(spool).stderr(complaints.try_clone()?).process_group(0);
    // A signal that this process blocks or ignores is none of the program's affairs.
    crate::sys::start_as_we_were(command, nix::sys::signal::SigSet::empty(), 0);
    Ok(Started { child: command.spawn()?, complaints })
}

/// Waits for its end; after `limit` it and all it started are killed, which is an error.
pub fn finish(mut started: Started, limit: Duration) -> io::Result<ExitStatus> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = started.child.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            if let Ok(group) = i32::try_from(started.child.id()) {
                let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), nix::sys::signal::Signal::SIGKILL);
            }
            started.child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it ran longer than command_time_limit"));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    };
    if !status.success() {
        let mut said = Vec::new();
        let _ = started.complaints.rewind();
        let _ = started.complaints.take(300).read_to_end(&mut said);
        log::warn!("event=program-failed status=\"{status}\" said=\"{}\"", clean(said.trim_ascii(), 300));
    }
    Ok(status)
}

/// What an exit status means.
pub fn of_status(status: ExitStatus, program: &str) -> Appended {
    match status.code() {
        Some(0) => Appended::Done,
        // From 128 on a shell tells of a signal that ended its last command: the machine may be going down.
        Some(71..=75 | 111 | 126..) => Appended::ProgramTemporary,
        Some(_) => Appended::ProgramFailed,
        None => {
            log::warn!("program={program} event=killed signal={}", status.signal().unwrap_or(0));
            Appended::ProgramTemporary
        }
    }
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

    fn status_of(script: &str, limit: Duration) -> io::Result<Appended> {
        let mut command = Command::new("/bin/sh");
        let started = start(command.stdout(Stdio::null()).args(["-c", script]), &mut &b"text\n"[..])?;
        finish(started, limit).map(|status| of_status(status, "sh"))
    }

    #[test]
    fn exit_statuses_mean_what_sysexits_and_qmail_say() {
        let long = Duration::from_secs(20);
        let statuses = [
            ("cat >/dev/null", Appended::Done),
            ("exit 75", Appended::ProgramTemporary),
            ("exit 111", Appended::ProgramTemporary),
            ("exit 77", Appended::ProgramFailed),
            ("exit 1", Appended::ProgramFailed),
            ("kill -9 $$", Appended::ProgramTemporary),
            ("sh -c 'kill -9 $$'; exit $?", Appended::ProgramTemporary),
        ];
        for (script, expected) in statuses {
            assert_eq!(status_of(script, long).unwrap(), expected, "{script}");
        }
    }

    #[test]
    fn a_program_that_never_ends_is_ended_with_all_it_started() {
        let error = status_of("sleep 1000 & sleep 1000", Duration::from_millis(10)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
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
