//! Giving a message to a program for a user (`crate::program` runs it).
//!
//! The exit status is what sysexits.h and qmail say: 0 is done; 71 to 75, 111 and from 126 on may be better later, and
//! so is a program that a signal ended something to try again; others are a failure.

use super::appended::Appended;
use super::task::Task;
use crate::aliases::{defers_failures, split_command};
use crate::clock;
use crate::config::Config;
use crate::mailbox::mbox;
use crate::program::{finish, start};
use crate::users::User;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::SystemTime;

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
    let separator = mbox::separator(sender.as_bytes(), clock::seconds(SystemTime::now()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_mean_what_sysexits_and_qmail_say() {
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
            let mut command = Command::new("/bin/sh");
            let started = start(command.stdout(Stdio::null()).args(["-c", script]), &mut &b"text\n"[..]).unwrap();
            let status = finish(started, std::time::Duration::from_secs(20)).unwrap();
            assert_eq!(of_status(status, "sh"), expected, "{script}");
        }
    }
}
