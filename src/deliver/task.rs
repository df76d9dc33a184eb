//! What is done with the rights of a recipient: appending to the mailbox, reading `~/.forward`, and for the targets of
//! that and of the alias file, running a program or appending to a file.
//!
//! A task is text, for the helper gets it over a socket. Whoever does it looks by himself whether the alias file or the
//! `~/.forward` names the target: nobody's word that it does is enough to run a program.

use super::appended::Appended;
use super::local;
use super::{forward, program};
use crate::aliases::{self, Target};
use crate::config::Config;
use crate::config::value::{MailboxFormat, MailboxSpec};
use crate::lookup::Lookup;
use crate::mailbox;
use crate::users::User;
use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, SystemTime};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// What.
    pub act: Act,
    /// Whose mailbox or `~/.forward`; empty for the alias file.
    pub user: String,
    /// The unique part of the message's file name.
    pub base: String,
    /// An earlier try may have come to its end.
    pub search: bool,
    /// When the message was accepted: what it is judged by is no older.
    pub accepted: SystemTime,
    /// The reverse-path, for programs; printable ASCII.
    pub sender: String,
    /// The recipient, for programs; printable ASCII.
    pub recipient: String,
}

/// The kinds of tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Append to the user's mailbox.
    Mailbox,
    /// The same if there is no `~/.forward` for this extension; else say so.
    MailboxOrForward(String),
    /// Give what the `~/.forward` for this extension holds.
    ReadForward(String),
    /// Serve a target of the `~/.forward` for this extension.
    ForwardTarget(String, String),
    /// Serve a target of the alias that stands for this address.
    AliasTarget(String, String),
}

/// What text of a task divides its fields; nothing in them has it, for they are checked for control characters.
const BETWEEN: char = '\n';

impl Task {
    /// As text.
    pub fn to_text(&self) -> String {
        let (kind, one, two) = match &self.act {
            Act::Mailbox => ("mailbox", "", ""),
            Act::MailboxOrForward(extension) => ("mailbox-or-forward", extension.as_str(), ""),
            Act::ReadForward(extension) => ("read-forward", extension.as_str(), ""),
            Act::ForwardTarget(extension, target) => ("forward-target", extension.as_str(), target.as_str()),
            Act::AliasTarget(name, target) => ("alias-target", name.as_str(), target.as_str()),
        };
        let search = if self.search { "1" } else { "0" };
        let accepted = self.accepted.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros().to_string();
        let fields = [kind, one, two, &self.user, &self.base, search, &accepted, &self.sender, &self.recipient];
        fields.map(|field| field.replace(BETWEEN, " ")).join("\n")
    }

    /// The queue id, for the log; a part of the file name (`Copy::base`).
    pub fn id(&self) -> &str {
        let behind = self.base.split_once(".Q").and_then(|(_, behind)| behind.split_once('R'));
        behind.map_or("-", |(id, _)| id)
    }

    /// From text; strict. What base and user may look like is checked where they are used.
    pub fn from_text(text: &str) -> Option<Task> {
        let fields: Vec<String> = text.split(BETWEEN).map(str::to_owned).collect();
        let [kind, one, two, user, base, search, accepted, sender, recipient] = <[String; 9]>::try_from(fields).ok()?;
        let act = match kind.as_str() {
            "mailbox" => Act::Mailbox,
            "mailbox-or-forward" => Act::MailboxOrForward(one),
            "read-forward" => Act::ReadForward(one),
            "forward-target" => Act::ForwardTarget(one, two),
            "alias-target" => Act::AliasTarget(one, two),
            _ => return None,
        };
        let search = match search.as_str() {
            "0" => false,
            "1" => true,
            _ => return None,
        };
        let accepted = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(accepted.parse().ok()?))?;
        Some(Task { act, user, base, search, accepted, sender, recipient })
    }
}

/// Does it, with the rights this process has. `user` is that of the task, or for a target of the alias file whoever it
/// is done as. What a program said that failed is put into `said`.
pub fn perform(config: &Config, task: &Task, user: &User, content: &mut dyn Read, said: &mut String) -> Appended {
    match &task.act {
        Act::Mailbox => local::append(config, user, &task.base, task.search, content),
        Act::MailboxOrForward(extension) => match forward::is_there(user, extension) {
            Ok(true) => Appended::HasForward,
            Ok(false) => local::append(config, user, &task.base, task.search, content),
            Err(error) => {
                log::warn!("user={}: looking for ~/.forward: {error}", user.name);
                Appended::ForwardUnreadable
            }
        },
        // That needs somewhere to put it.
        Act::ReadForward(_) => Appended::Broken,
        Act::ForwardTarget(extension, target) => match forward::read(user, extension) {
            Ok(text) if forward::targets(&user.name, &text).targets.iter().any(|known| as_text(known) == *target) => {
                serve(config, task, target, user, content, said)
            }
            Ok(_) => Appended::NotListed,
            Err(error) => {
                log::warn!("user={}: reading ~/.forward: {error}", user.name);
                Appended::ForwardUnreadable
            }
        },
        Act::AliasTarget(name, target) => {
            let wanted = match target.strip_prefix('|') {
                Some(command) => Target::Program(command.to_owned()),
                None => Target::File(target.clone()),
            };
            match aliases::lists(config, name, &wanted) {
                Lookup::Yes(()) => serve(config, task, target, user, content, said),
                Lookup::No => Appended::NotListed,
                Lookup::CannotTell(why) => {
                    log::warn!("alias={name}: {why}");
                    Appended::CannotTell
                }
            }
        }
    }
}

/// Writes what a `~/.forward` holds into `out`, which somebody reads.
pub fn read_forward(user: &User, extension: &str, out: &mut File) -> Appended {
    match forward::read(user, extension) {
        Ok(text) if out.write_all(&text).is_ok() => Appended::Done,
        Ok(_) => Appended::Broken,
        Err(error) => {
            log::warn!("user={}: reading ~/.forward: {error}", user.name);
            Appended::ForwardUnreadable
        }
    }
}

/// A target that is no address, as it stands in the queue file: `|command` or `/path`.
pub fn as_text(target: &Target) -> String {
    match target {
        Target::Program(command) => format!("|{command}"),
        Target::File(path) => path.clone(),
        Target::Address(text) => text.clone(),
        Target::Mailbox(user) => format!("\\{user}"),
        Target::Include(path) => format!(":include:{}", path.display()),
    }
}

fn serve(
    config: &Config,
    task: &Task,
    target: &str,
    user: &User,
    content: &mut dyn Read,
    said: &mut String,
) -> Appended {
    if let Some(command) = target.strip_prefix('|') {
        return program::run(config, task, command, user, content, said);
    }
    let (format, path) = match target.strip_suffix('/') {
        Some(folder) => (MailboxFormat::Maildir, folder),
        None => (MailboxFormat::Mbox, target),
    };
    let spec = MailboxSpec { format, path: path.to_owned() };
    match mailbox::deliver(config, &spec, &task.base, task.search, content) {
        Ok(()) => Appended::Done,
        Err(error) => Appended::of(&user.name, path, &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(act: Act) -> Task {
        let (user, base) = ("bob".to_owned(), "1.Q2R0.mx".to_owned());
        let (sender, recipient) = ("<a@b>".to_owned(), "bob@mx".to_owned());
        let accepted = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_001);
        Task { act, user, base, search: true, accepted, sender, recipient }
    }

    #[test]
    fn a_task_comes_back_as_it_was_and_others_are_none() {
        let text = String::from;
        for act in [
            Act::Mailbox,
            Act::MailboxOrForward(text("x")),
            Act::ReadForward(text("")),
            Act::ForwardTarget(text("x"), text("|/bin/x a@b")),
            Act::AliasTarget(text("list"), text("/var/mail/list/")),
        ] {
            assert_eq!(Task::from_text(&task(act.clone()).to_text()), Some(task(act)));
        }
        let good = task(Act::Mailbox).to_text();
        for wrong in [
            "",
            "mailbox",
            &good.replace("mailbox", "other"),
            &good.replace("\n1\n", "\n2\n"),
            &format!("{good}\n"),
            &good.replace("\n17", "\n-17"),
        ] {
            assert_eq!(Task::from_text(wrong), None, "{wrong:?}");
        }
    }
}
