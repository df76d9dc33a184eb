//! Running a program with a message on its standard input: by exec with a list of arguments, never through a shell.
//!
//! The content lies whole in a file without a name before the program starts, so that a message cut off is never taken for
//! one. What it says goes into a pipe (`output.rs`). What its end means is for whoever ran it to say.

pub mod arguments;
pub mod end;
pub mod envelope;
mod output;

use crate::logging::{clean, quoted};
use nix::unistd::Pid;
use output::Output;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A program that runs, and what it says.
pub struct Started {
    child: Child,
    output: Output,
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
    let (heard, said) = Output::new()?;
    let output = match output {
        Some(output) => output,
        None => said.try_clone()?.into(),
    };
    command.stdin(spool).stdout(output).stderr(said).process_group(0);
    // A signal that this process blocks or ignores is none of the program's affairs.
    crate::sys::start_as_we_were(command, nix::sys::signal::SigSet::empty(), 0);
    end::leave(None);
    let child = command.spawn()?;
    // It has them now; and only while nobody else has, its last words have an end.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(Started { child, output: heard })
}

/// Waits for its end; after `limit` it and all it started are killed, which is an error unless it has ended with 0 all the
/// same: then it has the message. Nobody hears what is said by those whom it leaves behind: they get SIGPIPE. `whose` stands
/// in the record of one that ends otherwise: fields that name the message and the program.
pub fn finish(mut started: Started, limit: Duration, whose: &str) -> io::Result<Over> {
    let leader = Pid::from_raw(i32::try_from(started.child.id()).map_err(io::Error::other)?);
    let (look, hear) = (|| started.child.try_wait(), |time| started.output.hear(time));
    let (status, in_time) = end::wait_and(leader, Instant::now() + limit, end::ENDING, look, hear)?;
    // Another status may be that of a shell whose command was killed.
    if !in_time && !status.success() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it ran longer than command_time_limit"));
    }
    let said = if status.success() { String::new() } else { first_lines(&started.output.beginning()) };
    if !status.success() {
        log::warn!("{whose} event=program-failed status=\"{status}\" said={}", quoted(&said));
    }
    Ok(Over { status, said })
}

/// As one line.
fn first_lines(octets: &[u8]) -> String {
    let lines = octets.split(|octet| *octet == b'\n').map(<[u8]>::trim_ascii);
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
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;

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
        for script in ["sleep 1000 & sleep 1000", "yes"] {
            let error = run(script, Duration::from_millis(10)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{script}");
        }
    }

    /// However much it says, and whether it takes the message before, behind it or not at all.
    #[test]
    fn a_program_may_say_much_before_it_reads_and_need_not_say_anything_to_its_end() {
        for (script, expected) in [
            ("head -c 1000000 /dev/zero; test \"$(cat)\" = text", 0),
            ("exec >&- 2>&-; test \"$(cat)\" = text && sleep 0.1 && exit 3", 3),
            ("head -c 1000000 /dev/zero >&2; exit 3", 3),
        ] {
            let over = run(script, Duration::from_secs(20)).unwrap();
            assert_eq!(over.status.code(), Some(expected), "{script}");
        }
    }

    /// It would fill a disk, or a worker would wait for it.
    #[test]
    fn what_a_program_leaves_behind_is_neither_waited_for_nor_heard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alive");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // It has the other end as long as it lives.
        let alive = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let chatter = "i=0; while test $((i += 1)) -lt 6000; do echo more; sleep 0.01; done";
        let script = format!("echo said; exec 3>{}; ({chatter}) & exit 1", path.display());
        let said = run(&script, Duration::from_secs(20)).unwrap().said;
        assert!(said.starts_with("said"), "{said}");
        let mut end = [PollFd::new(alive.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut end, PollTimeout::from(20_000_u16)), Ok(1), "it goes on");
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
