//! Giving a message to a program for a user (`crate::program` runs it).
//!
//! The exit status is what sysexits.h and qmail say: 0 is done; 71 to 75, 111 and from 126 on may be better later, and
//! so is a program that a signal ended something to try again; others are a failure, which sysexits.h may have a name for.

use super::appended::Appended;
use super::task::Task;
use crate::aliases::{defers_failures, split_command};
use crate::clock;
use crate::config::Config;
use crate::logging::field;
use crate::mailbox::mbox;
use crate::program::{NEVER, finish, start};
use crate::users::User;
use std::io::{self, Read};
use std::process::{Command, ExitStatus};
use std::time::SystemTime;

/// Runs the command of a target for a user whose rights this process has, and waits for its end. What it says is put into
/// `said` if it fails.
pub fn run(
    config: &Config,
    task: &Task,
    command: &str,
    user: &User,
    content: &mut dyn Read,
    said: &mut String,
) -> Appended {
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
    prepared.args(arguments).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("SHELL", "/bin/sh");
    prepared.env("HOME", home).env("USER", &user.name).env("LOGNAME", &user.name).current_dir(home);
    let sender = task.sender.trim_start_matches('<').trim_end_matches('>');
    prepared.env("SENDER", sender).env("RECIPIENT", &task.recipient).env("LOCAL", local).env("DOMAIN", domain);
    // vacation, procmail and the like look there for the sender.
    let separator = mbox::separator(sender.as_bytes(), clock::seconds(SystemTime::now()));
    let whose = format!("id={} to=<{}> user={} program={program:?}", task.id(), field(&task.recipient), user.name);
    let result = start(&mut prepared, None, &mut separator.chain(content))
        .and_then(|started| finish(started, config.command_time_limit.0, &whose));
    match result {
        Ok(over) => {
            *said = over.said;
            match of_status(over.status) {
                Appended::ProgramFailed | Appended::ProgramNever(_) if defers_failures(command) => {
                    Appended::ProgramTemporary
                }
                appended => appended,
            }
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Appended::Incomplete,
        Err(error) => {
            log::warn!("{whose} event=program-failed reason={:?}", error.to_string());
            if error.kind() == io::ErrorKind::StorageFull { Appended::NoRoom } else { Appended::ProgramTrouble }
        }
    }
}

/// What an exit status means.
pub fn of_status(status: ExitStatus) -> Appended {
    match status.code() {
        Some(0) => Appended::Done,
        // From 128 on a shell tells of a signal that ended its last command: the machine may be going down.
        Some(71..=75 | 111 | 126..) | None => Appended::ProgramTemporary,
        Some(code) => match NEVER.iter().position(|(known, _)| *known == code).map(u8::try_from) {
            Some(Ok(place)) => Appended::ProgramNever(place),
            _ => Appended::ProgramFailed,
        },
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
            ("exit 77", Appended::ProgramNever(8)),
            ("exit 1", Appended::ProgramFailed),
            ("kill -9 $$", Appended::ProgramTemporary),
            ("sh -c 'kill -9 $$'; exit $?", Appended::ProgramTemporary),
        ];
        for (script, expected) in statuses {
            let mut command = Command::new("/bin/sh");
            let started = start(command.args(["-c", script]), None, &mut &b"text\n"[..]).unwrap();
            let over = finish(started, std::time::Duration::from_secs(20), "id=1").unwrap();
            assert_eq!(of_status(over.status), expected, "{script}");
        }
    }
}
