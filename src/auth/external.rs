//! Passwords checked by another program: with the interface of checkpassword (D. J. Bernstein), and by PAM through a
//! helper of ours that is spoken to in the same way.
//!
//! The program reads name, password and a time from descriptor 3, each with a NUL behind it, and ends with 1 if the
//! password is wrong, with 111 if it cannot tell. If it is right the program becomes the user, sets HOME, and runs the
//! program that its arguments name. That is `pop3d --report-account`, which only says on its standard output who it
//! is and where HOME is: the mailbox is opened by the process that asked, which knows what is to be done there.

use crate::clock::since_1970;
use crate::config::Config;
use crate::config::value::AuthMethod;
use crate::exit::{Ended, Error};
use crate::lookup::Lookup;
use crate::program::end;
use crate::sys;
use crate::users::{self, User};
use crate::wire::secret::Secret;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{access, dup2_stdin, dup2_stdout, setsid};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

/// The argument that makes pop3d report who it is.
pub const REPORT: &str = "--report-account";
/// A program that takes longer is ended. PAM modules wait some seconds by themselves.
const LONGEST: Duration = Duration::from_secs(60);
/// What a program is told at the most; the interface says 512 octets.
const MOST_OCTETS: usize = 512;
/// A report is two numbers and a path.
const LONGEST_REPORT: usize = 8192;

/// Who a program became.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    owner: (u32, u32),
    home: PathBuf,
}

/// Whether the program of a method is there; else what was expected.
pub fn is_usable(config: &Config, method: &AuthMethod) -> Result<(), String> {
    let program = program(config, method).0;
    match access(&program, nix::unistd::AccessFlags::X_OK) {
        Ok(()) if program.is_file() => Ok(()),
        _ => Err(format!("a program at {}", program.display())),
    }
}

/// The program and its first arguments.
fn program(config: &Config, method: &AuthMethod) -> (PathBuf, Vec<OsString>) {
    match method {
        AuthMethod::Checkpassword(path) => (path.clone(), Vec::new()),
        _ => (config.program("doorpost-pam"), vec![config.pam_service.clone().into()]),
    }
}

/// Asks the program of a method. `user` is what `users` says of the name. What checkpassword says of uid, gid and home
/// holds, also for names that `users` does not know; PAM is only asked about passwords of users.
pub fn check(config: &Config, method: &AuthMethod, name: &[u8], password: &[u8], user: Option<&User>) -> Lookup<User> {
    let (program, mut arguments) = program(config, method);
    arguments.extend([config.program("pop3d").into(), REPORT.into()]);
    let is_pam = *method == AuthMethod::Pam;
    let asked = match user {
        Some(user) => user.name.clone(),
        None => match std::str::from_utf8(name) {
            Ok(name) if users::is_possible_name(name.as_bytes()) => name.to_owned(),
            // Nobody has such a name, which is no secret.
            Ok(_) | Err(_) => return Lookup::No,
        },
    };
    let ask = |name: &str| match ask(&program, &arguments, (name.as_bytes(), password), LONGEST) {
        Lookup::CannotTell(why) => Lookup::CannotTell(format!("{}: {why}", program.display())),
        answer => answer,
    };
    let account = match ask(&asked) {
        Lookup::Yes(account) => account,
        Lookup::No => return Lookup::No,
        Lookup::CannotTell(why) => return Lookup::CannotTell(why),
    };
    // A client that spells a name in its own way has the same mailbox: where the program knows the same account by both.
    let folded = asked.to_ascii_lowercase();
    let name = if user.is_some() || folded == asked {
        asked
    } else {
        match ask(&folded) {
            Lookup::Yes(same) if (same.owner, &same.home) == (account.owner, &account.home) => folded,
            Lookup::Yes(_) | Lookup::No => asked,
            Lookup::CannotTell(why) => return Lookup::CannotTell(why),
        }
    };
    match user {
        Some(user) if is_pam => Lookup::Yes(user.clone()),
        None if is_pam => Lookup::No,
        _ if account.owner.0 == 0 && nix::unistd::geteuid().is_root() => {
            log::warn!("event=root-refused program={:?}", program.display().to_string());
            Lookup::No
        }
        known => Lookup::Yes(User {
            name,
            owner: Some(account.owner),
            home: account.home,
            mailbox: known.and_then(|user| user.mailbox.clone()),
            password: None,
            is_of_system: known.is_some_and(|user| user.is_of_system),
        }),
    }
}

/// Asks about name and password, for so long at the most.
fn ask(program: &Path, arguments: &[OsString], (name, password): (&[u8], &[u8]), longest: Duration) -> Lookup<Account> {
    let time = since_1970(SystemTime::now()).as_secs();
    let told = Secret([name, b"\0", password, b"\0", time.to_string().as_bytes(), b"\0"].concat());
    if password.contains(&0) || name.contains(&0) || told.0.len() > MOST_OCTETS {
        return Lookup::No;
    }
    match run(program, arguments, &told, longest) {
        Ok((WaitStatus::Exited(_, 0), report)) => match parse(&report) {
            Some(account) => Lookup::Yes(account),
            None => Lookup::CannotTell("ended with 0 and did not run its argument".to_owned()),
        },
        Ok((WaitStatus::Exited(_, status @ (2 | 111 | 127)), _)) => {
            Lookup::CannotTell(format!("ended with status {status}"))
        }
        Ok((WaitStatus::Exited(..), _)) => Lookup::No,
        Ok((status, _)) => Lookup::CannotTell(format!("{status:?}")),
        Err(error) => Lookup::CannotTell(error.to_string()),
    }
}

/// Runs it, and gives how it ended and what was said on its standard output.
fn run(program: &Path, arguments: &[OsString], told: &Secret, longest: Duration) -> io::Result<(WaitStatus, Vec<u8>)> {
    let (secret, mut teller) = io::pipe()?;
    let (mut report, reporter) = io::pipe()?;
    // So little always fits into a pipe.
    teller.write_all(&told.0)?;
    drop(teller);
    let (secret, reporter) = (OwnedFd::from(secret), OwnedFd::from(reporter));
    let child = sys::fork(|| become_program(program, arguments, &secret, &reporter))?;
    drop((secret, reporter));
    let last = Instant::now() + longest;
    let heard = hear(&mut report, last);
    let look = || match waitpid(child, Some(WaitPidFlag::WNOHANG))? {
        WaitStatus::StillAlive => Ok(None),
        status => Ok(Some(status)),
    };
    let status = end::wait(child, if heard.is_ok() { last } else { Instant::now() }, end::ENDING, look);
    Ok((status?.0, heard?))
}

fn become_program(program: &Path, arguments: &[OsString], secret: &OwnedFd, reporter: &OwnedFd) -> u8 {
    let _ = setsid();
    let placed = || -> io::Result<()> {
        dup2_stdin(secret)?;
        dup2_stdout(reporter)?;
        // Nothing else of ours is for that program; 3 is the first that is free then.
        sys::close_between(3, u32::MAX);
        fcntl(sys::stdio()[0], FcntlArg::F_DUPFD(3))?;
        dup2_stdin(File::open("/dev/null")?)?;
        Ok(())
    };
    if placed().is_err() {
        return 111;
    }
    let mut command = Command::new(program);
    for ours in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET"] {
        command.env_remove(ours);
    }
    let error = command.args(arguments).exec();
    log::error!("{}: {error}", program.display());
    111
}

/// Everything up to the end, in time.
fn hear(report: &mut PipeReader, end: Instant) -> io::Result<Vec<u8>> {
    let mut heard = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut ready = [PollFd::new(report.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Err(nix::errno::Errno::EINTR) => continue,
            Ok(0) => return Err(io::Error::other("took too long")),
            answer => answer?,
        };
        match report.read(&mut buffer) {
            Ok(0) => return Ok(heard),
            Ok(count) => heard.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if heard.len() > LONGEST_REPORT {
            return Err(io::Error::other("said too much"));
        }
    }
}

/// What `--report-account` does: it says who this process is.
pub fn report() -> Result<Ended, Error> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let home = std::env::var_os("HOME").unwrap_or_default();
    let mut text = format!("doorpost {uid} {gid} ").into_bytes();
    text.extend_from_slice(home.as_encoded_bytes());
    text.push(0);
    let said = io::stdout().write_all(&text).and_then(|()| io::stdout().flush());
    said.map(|()| Ended::Done).map_err(|error| Error::Connection(format!("standard output: {error}")))
}

/// Other programs may have said something before.
fn parse(report: &[u8]) -> Option<Account> {
    let report = std::str::from_utf8(report.strip_suffix(b"\0")?).ok()?;
    let mut fields = report.get(report.rfind("doorpost ")?..)?.splitn(4, ' ').skip(1);
    let mut number = || fields.next().and_then(|field| field.parse().ok());
    let owner = (number()?, number()?);
    let home = PathBuf::from(fields.next()?);
    (home.is_absolute() || home.as_os_str().is_empty()).then_some(Account { owner, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks a program that is a shell script, and has the arguments that show what it runs.
    fn ask_script(script: &str, password: &[u8]) -> Lookup<Account> {
        ask_for(script, password, LONGEST)
    }

    fn ask_for(script: &str, password: &[u8], longest: Duration) -> Lookup<Account> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checker");
        // Not by ourselves: a program forked meanwhile by another test would hold it open for writing (ETXTBSY).
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\" && chmod 755 \"$0\"";
        assert!(Command::new("/bin/sh").args(["-c", write]).arg(&path).arg(script).status().unwrap().success());
        let report = r"printf 'doorpost 1000 100 %s\0' $HOME".to_owned();
        ask(&path, &["/bin/sh".into(), "-c".into(), report.into()], (b"bob", password), longest)
    }

    #[test]
    fn a_program_that_runs_its_argument_says_yes() {
        let script = r#"test "$(tr '\0' : <&3 | cut -d: -f1,2)" = bob:sesame || exit 1; HOME=/home/bob exec "$@" 3<&-"#;
        let expected = Account { owner: (1000, 100), home: "/home/bob".into() };
        assert_eq!(ask_script(script, b"sesame"), Lookup::Yes(expected));
        assert_eq!(ask_script(script, b"Sesame"), Lookup::No);
        assert_eq!(ask_script(script, b"sesame\0"), Lookup::No);
        assert_eq!(ask_script(script, &[b'x'; 600]), Lookup::No);
    }

    #[test]
    fn what_is_neither_yes_nor_no_is_trouble() {
        for script in ["exit 111", "exit 2", "exit 0", "kill -9 $$", "echo hello", "exec /nonexistent"] {
            assert!(matches!(ask_script(script, b"x"), Lookup::CannotTell(_)), "{script}");
        }
        assert_eq!(ask_script("exit 3", b"x"), Lookup::No);
    }

    /// One that says nothing, and one that says who it is and does not end: each with what it has started.
    #[test]
    fn a_program_that_takes_too_long_is_ended_and_its_answer_is_none() {
        for script in ["sleep 100", r#"HOME=/ "$@"; exec >&-; sleep 100"#] {
            let folder = tempfile::tempdir().unwrap();
            let pid = folder.path().join("pid");
            let begun = Instant::now();
            let said = ask_for(&format!("echo $$ >{}; {script}", pid.display()), b"x", Duration::from_secs(1));
            assert!(matches!(said, Lookup::CannotTell(_)), "{script}: {said:?}");
            assert!((1..50).contains(&begun.elapsed().as_secs()), "{script}: {:?}", begun.elapsed());
            let pid = std::fs::read_to_string(&pid).unwrap();
            assert!(!Path::new("/proc").join(pid.trim()).exists(), "{script} is still there");
        }
    }

    #[test]
    fn a_report_is_read_strictly() {
        let account = |home: &str| Some(Account { owner: (1, 2), home: home.into() });
        assert_eq!(parse(b"doorpost 1 2 /a b\0"), account("/a b"));
        assert_eq!(parse(b"noise\ndoorpost 1 2 \0"), account(""));
        for wrong in ["", "\0", "doorpost 1 2 /a", "doorpost 1 /a\0", "doorpost -1 2 /a\0", "doorpost 1 2 a\0"] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong:?}");
        }
    }
}
