//! `mailq` and `doorpost-queue`: who may, and what is said of what was done.

use super::{Format, Selection, act, status};
use crate::cli::Common;
use crate::config::Config;
use crate::exit::{Ended, Error};
use crate::privilege::{self, Owner};
use crate::queue::{Id, Queue};
use clap::ValueEnum;
use clap::builder::{EnumValueParser, PossibleValue, TypedValueParser};
use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};

/// What is asked for; `--help` shows these lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Show messages
    List,
    /// Keep messages from being tried
    Hold,
    /// Let held messages go
    Release,
    /// Remove messages, and tell nobody
    Delete,
    /// Queue messages anew, with a new id and lifetime
    Requeue,
    /// Try messages now
    Flush,
    /// The same; that there is nothing to flush is no error.
    #[value(skip)]
    FlushIfAny,
}

/// The first operand: what to do, or already what is to be listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First {
    /// What to do.
    Action(Action),
    /// A pattern.
    Pattern(String),
}

/// Reads a [`First`]. No action looks like a pattern, and a misspelt one is not taken for such.
#[derive(Debug, Clone, Copy)]
pub struct FirstWord;

impl TypedValueParser for FirstWord {
    type Value = First;

    fn parse_ref(&self, command: &clap::Command, arg: Option<&clap::Arg>, value: &OsStr) -> Result<First, clap::Error> {
        let is_pattern = |word: &&str| word.contains(['@', '*', '<']) || *word == "ALL" || word.parse::<Id>().is_ok();
        match value.to_str().filter(is_pattern) {
            Some(pattern) => Ok(First::Pattern(pattern.to_owned())),
            None => EnumValueParser::new().parse_ref(command, arg, value).map(First::Action),
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Action::value_variants().iter().filter_map(ValueEnum::to_possible_value)))
    }
}

/// Does it. Users who may not read the queue are shown their own mail.
pub fn run(common: &Common, action: Action, patterns: &[String], format: Format) -> Result<Ended, Error> {
    let config = Config::load(common)?;
    privilege::become_owner(&config, Owner::Mail)?;
    let selection = Selection::of(patterns);
    let act = match action {
        Action::List => return list(&config, &selection, format),
        Action::Hold => act::Act::Hold,
        Action::Release => act::Act::Release,
        Action::Delete => act::Act::Delete,
        Action::Requeue => act::Act::Requeue,
        Action::Flush | Action::FlushIfAny => act::Act::Flush,
    };
    if patterns.is_empty() {
        return Err(Error::Usage("expected queue ids, addresses or ALL".to_owned()));
    }
    let queue = match Queue::open_existing(&config.queue_directory)? {
        None if action == Action::FlushIfAny => return Ok(Ended::Done),
        queue => queue.ok_or_else(|| missing(&config))?,
    };
    let done = act::act(&queue, &config, act, &selection).map_err(|error| Error::Temporary(error.to_string()))?;
    if action != Action::FlushIfAny {
        let plural = if done.done == 1 { "" } else { "s" };
        let _ = writeln!(io::stdout(), "{} message{plural}", done.done);
    }
    let act::Done { done, busy, failed, damaged, closed } = done;
    let folders = if closed == 1 { "folder that cannot be read" } else { "folders that cannot be read" };
    let troubles: Vec<String> =
        [(busy, "being delivered now"), (failed, "in trouble"), (damaged, "damaged"), (closed, folders)]
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
    match (done, troubles.join(", ")) {
        (0, trouble) if trouble.is_empty() && action != Action::FlushIfAny => {
            Err(Error::Data("no message in the queue is like that".to_owned()))
        }
        (_, trouble) if trouble.is_empty() => Ok(Ended::Done),
        (_, trouble) if action == Action::FlushIfAny => {
            log::debug!("messages not flushed: {trouble}");
            Ok(Ended::Done)
        }
        (_, trouble) => Err(Error::Temporary(format!("other messages: {trouble}"))),
    }
}

fn missing(config: &Config) -> Error {
    Error::Temporary(format!("queue_directory {}: there is none", config.queue_directory.display()))
}

fn list(config: &Config, selection: &Selection, format: Format) -> Result<Ended, Error> {
    let mut out = BufWriter::new(io::stdout());
    let result = match Queue::open_existing(&config.queue_directory) {
        Ok(Some(queue)) => super::list(&queue, &mut out, format, selection),
        Ok(None) => return Err(missing(config)),
        Err(Error::Permission(_)) => return status::ask(config, format, &mut out).map(|()| Ended::Done),
        Err(error) => return Err(error),
    };
    match result.and_then(|unread| out.flush().map(|()| unread)) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Ended::Done),
        Err(error) => Err(Error::Temporary(error.to_string())),
        Ok(0) => Ok(Ended::Done),
        Ok(_) => Err(Error::Temporary("the list is not of all messages".to_owned())),
    }
}
