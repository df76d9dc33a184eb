//! Handing a message to a program that a channel names: `pipe:` and `qmail-queue:`. Run by exec with a list of arguments,
//! as deliver's own user, never through a shell; the message lies whole in a file before the program starts.

use super::Outcome;
use super::appended::TO_COMMAND;
use super::copy::{Content, Copy};
use crate::config::Config;
use crate::logging::field;
use crate::message::path::{Address, ReversePath};
use crate::message::verp;
use crate::program::arguments::Values;
use crate::program::{self, NEVER, Over, envelope, with_words};
use crate::queue::{Error, Message};
use crate::submit::before_queue;
use std::io;
use std::process::{Command, Stdio};

/// `pipe:/path/of/program argument ...`: the message on standard input, with `Return-Path` in front; the exit status is
/// one of sysexits.h. In an argument `%s` is the sender, `%r` the recipient, `%n` its local part, `%d` its domain, `%i`
/// the queue id, `%%` a percent sign.
pub fn pipe(config: &Config, line: &str, copy: &Copy<'_>) -> Outcome {
    let sender = verp::expand(&copy.message.reverse_path, copy.address);
    let mut words = line.split_ascii_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    let values = Values { sender: sender.as_bytes(), recipient: copy.address, id: copy.message.id.as_str() };
    match values.put_into(words) {
        Some(arguments) => command.args(arguments),
        None => return Outcome::Failed("5.1.3 a program cannot be given an address like this".to_owned()),
    };
    let (message, whose) = (copy.message, format!(" to=<{}>", field(copy.address)));
    let over = match run(config, &mut command, None, message, (line, &whose), copy.content()) {
        Ok(over) => over,
        Err(error) => return not_run(message, line, &error),
    };
    let why = |why: &str| with_words(why, &over.said);
    match over.status.code() {
        Some(0) => Outcome::Delivered(TO_COMMAND),
        Some(code) => match NEVER.iter().find(|(known, _)| *known == code) {
            Some((_, meaning)) => Outcome::Failed(why(&format!("{meaning}, says the program of this channel"))),
            None => Outcome::Deferred(why(&format!("4.3.0 the program of this channel ended with status {code}"))),
        },
        None => Outcome::Deferred(why("4.3.0 the program of this channel was ended by a signal")),
    }
}

/// `qmail-queue:/path/of/program`: message on descriptor 0, envelope on descriptor 1 (qmail-queue(8)), once for all these
/// recipients. Gives an outcome for each.
pub fn qmail_queue(
    config: &Config,
    line: &str,
    message: &Message,
    sender: &ReversePath,
    to: &[&Address],
) -> Vec<Outcome> {
    let ran = envelope::written(sender, to.iter().copied()).and_then(|envelope| {
        let mut words = line.split_ascii_whitespace();
        let mut command = Command::new(words.next().unwrap_or_default());
        run(config, command.args(words), Some(Stdio::from(envelope)), message, (line, ""), Content::alone(message))
    });
    let said = ran.as_ref().map_or_else(|_| String::new(), |over| over.said.clone());
    let why = |why: &str| with_words(why, &said);
    let outcome = match ran.map(|over| over.status.code()) {
        Ok(Some(0)) => Outcome::Relayed("2.0.0 qmail-queue took it".to_owned()),
        // It does not say which.
        Ok(Some(11)) if to.len() > 1 => {
            return to.iter().flat_map(|one| qmail_queue(config, line, message, sender, &[one])).collect();
        }
        Ok(Some(11)) => Outcome::Failed("5.1.3 qmail-queue: the address is too long".to_owned()),
        Ok(Some(code @ 12..=40)) => Outcome::Failed(why(&format!("5.3.0 qmail-queue refused it with status {code}"))),
        Ok(Some(code)) => Outcome::Deferred(why(&format!("4.3.0 qmail-queue cannot now: status {code}"))),
        Ok(None) => Outcome::Deferred("4.3.0 qmail-queue was ended by a signal".to_owned()),
        Err(error) => not_run(message, line, &error),
    };
    vec![outcome; to.len()]
}

fn run(
    config: &Config,
    command: &mut Command,
    output: Option<Stdio>,
    message: &Message,
    (line, whose): (&str, &str),
    content: Result<Content<'_>, Error>,
) -> io::Result<Over> {
    let mut content = content.map_err(|error| io::Error::other(error.to_string()))?;
    before_queue::surroundings(config, command, &message.id, &message.parameters);
    let whose = format!("id={}{whose} program={line:?}", message.id);
    program::finish(program::start(command, output, &mut content)?, config.command_time_limit.0, &whose)
}

fn not_run(message: &Message, line: &str, error: &io::Error) -> Outcome {
    log::warn!("id={} program={line:?}: {error}", message.id);
    match error.kind() {
        io::ErrorKind::TimedOut => Outcome::Deferred("4.3.0 the program of this channel took too long".to_owned()),
        _ => Outcome::Deferred("4.3.5 the program of this channel cannot be run".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Head, Queue};

    fn message(folder: &tempfile::TempDir) -> Message {
        let path = folder.path().join("queue");
        std::fs::create_dir_all(path.join("message")).unwrap();
        let queue = Queue::at(&path);
        let mut draft = queue.begin().unwrap();
        draft.content(b"Subject: x\n\nhello\n").unwrap();
        draft.recipient(&Address::from_internal(b"bob@mx.example").unwrap()).unwrap();
        let reverse_path = ReversePath::from_internal(b"alice@mx.example").unwrap();
        let id = draft.commit(&Head { reverse_path, trace: Vec::new(), channel: "local".into() }).unwrap();
        queue.take_at_last(&id)
    }

    /// What became of it, and what the script wrote to `$out`.
    fn run_by(
        carry: fn(&Config, &str, &Copy<'_>) -> Outcome,
        script: &str,
        arguments: &str,
        recipient: &str,
        settings: &[(&str, &str)],
    ) -> (Outcome, String) {
        let folder = tempfile::tempdir().unwrap();
        let (program, out) = (folder.path().join("program"), folder.path().join("out"));
        std::fs::write(&program, format!("out={}\n{script}\n", out.display())).unwrap();
        let line = format!("/bin/sh {} {arguments}", program.display());
        let address = Address::from_internal(recipient.as_bytes()).unwrap();
        let copy = Copy { message: &message(&folder), number: 0, address: &address, search: false };
        let outcome = carry(&Config::with(settings), &line, &copy);
        (outcome, std::fs::read_to_string(out).unwrap_or_default())
    }

    #[test]
    fn a_program_gets_the_message_and_its_arguments() {
        let script = "{ echo \"$1|$2|$3|$4\"; cat; } >$out";
        let (outcome, out) = run_by(pipe, script, "%s to=%r %n%%%d %x", "a b;$(x)@mx.example", &[]);
        assert_eq!(outcome, Outcome::Delivered("delivered to command"));
        let first = "alice@mx.example|to=a b;$(x)@mx.example|a b;$(x)%mx.example|%x\n";
        assert_eq!(out, format!("{first}Return-Path: <alice@mx.example>\nSubject: x\n\nhello\n"));
    }

    #[test]
    fn its_status_decides() {
        for (script, expected) in
            [("exit 67", "5.1.1 "), ("exit 77", "5.7.0 "), ("exit 75", "4.3.0 "), ("exit 1", "4.3.0 ")]
        {
            match run_by(pipe, &format!("echo no; {script}"), "", "bob@mx.example", &[]).0 {
                Outcome::Failed(why) | Outcome::Deferred(why) => {
                    assert!(why.starts_with(expected) && why.ends_with(": no"), "{script}: {why}");
                }
                other => panic!("{script}: {other:?}"),
            }
        }
        let (outcome, out) = run_by(pipe, "echo ran >$out", "%n", "-f@mx.example", &[]);
        assert!(matches!(outcome, Outcome::Failed(why) if why.starts_with("5.1.3 ")) && out.is_empty());
        let (outcome, _) =
            run_by(pipe, "sleep 1000 & sleep 1000", "", "bob@mx.example", &[("command_time_limit", "1s")]);
        assert!(matches!(outcome, Outcome::Deferred(why) if why.contains("took too long")));
    }

    fn queue_two(config: &Config, line: &str, copy: &Copy<'_>) -> Outcome {
        let carol = Address::from_internal(b"carol@mx.example").unwrap();
        let mut all = qmail_queue(config, line, copy.message, &copy.message.reverse_path, &[copy.address, &carol]);
        assert_eq!((all.len(), &all[0]), (2, &all[1]));
        all.remove(0)
    }

    #[test]
    fn qmail_queue_gets_message_and_envelope() {
        for (status, expected) in [(0, '2'), (31, '5'), (71, '4')] {
            let script = "cat >$out; cat <&1 >>$out; exit $1";
            let (outcome, out) = run_by(queue_two, script, &status.to_string(), "bob@mx.example", &[]);
            let (Outcome::Relayed(why) | Outcome::Failed(why) | Outcome::Deferred(why)) = outcome else { panic!() };
            assert!(why.starts_with(expected), "{status}: {why}");
            assert_eq!(out, "Subject: x\n\nhello\nFalice@mx.example\0Tbob@mx.example\0Tcarol@mx.example\0\0");
        }
    }
}
