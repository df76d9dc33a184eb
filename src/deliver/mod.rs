//! Taking queued messages on: to mailboxes here, later to other hosts.
//!
//! `schedule.rs` says when, `attempt.rs` takes one message and all its recipients, `local.rs` finds whose it is here,
//! `expand.rs` sends it on where an alias or a `~/.forward` says so, `task.rs` (as root by way of `helper.rs`) does what
//! needs the recipient's rights, `qmqp.rs` to another host, `report.rs` returns what failed. Several may run at once: a message is
//! locked by whoever works on it, and others pass it by.

mod attempt;
mod expand;
mod forward;
mod helper;
mod local;
mod program;
mod qmqp;
mod report;
mod schedule;
mod settings;
mod task;

use crate::cli::Common;
use crate::config::Config;
use crate::exit::{Ended, Error};
use crate::privilege::{self, Owner};
use crate::queue::{Id, Queue};
use crate::submit::drop_folder;
use attempt::{Attempt, attempt};
use helper::Helper;
use schedule::{Alarms, Waker};
use settings::Settings;
use std::collections::HashSet;
use std::time::{Duration, SystemTime};

/// What a try at a recipient came to. The texts begin with an enhanced status code (RFC 3463) and may be shown to
/// anybody: they name no path and repeat no error of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the mailbox, on disk.
    Delivered,
    /// Another host has it, and will not report success; what that host said.
    Relayed(String),
    /// Another host has it, or another message of ours, and with it what the sender wants to hear.
    PassedOn(String),
    /// Others stand for this recipient, and have the message.
    Expanded(String),
    /// It may be better later.
    Deferred(String),
    /// It will never be better.
    Failed(String),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Sweep until nothing new is due.
    Sweep,
    /// The same, then wait for more until a signal comes.
    Watch,
    /// Try these now, due or not.
    These(Vec<Id>),
}

/// Runs deliver: gives up rights, opens the queue, and works.
pub fn run(common: &Common, config: Config, work: &Work) -> Result<Ended, Error> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let settings = Settings::new(common, config)?;
    let mut helper = None;
    if privilege::is_root() {
        privilege::owner_of(&settings.config, Owner::Mail)?;
        helper = Some(Helper::start(settings.clone())?);
        privilege::become_owner(&settings.config, Owner::Mail)?;
    }
    let queue = Queue::open(&settings.config.queue_directory)?;
    let waker = Waker::open(&queue)?;
    let mut deliver = Deliver { queue, settings, helper, waker, alarms: Alarms::default(), tried: HashSet::new() };
    match work {
        Work::These(ids) => deliver.these(ids),
        Work::Sweep => deliver.until_nothing_is_new(),
        Work::Watch => deliver.watch(),
    }
}

struct Deliver {
    queue: Queue,
    settings: Settings,
    helper: Option<Helper>,
    waker: Waker,
    alarms: Alarms,
    /// Messages not to be tried again in this run, or before the next look at everything.
    tried: HashSet<Id>,
}

impl Deliver {
    fn these(&mut self, ids: &[Id]) -> Result<Ended, Error> {
        self.waker.leave();
        for id in ids {
            if self.one(id) == Some(Attempt::NotOurs) {
                log::warn!("id={id}: not in the queue, or another deliver has it");
            }
            self.check_helper()?;
        }
        Ok(Ended::Done)
    }

    fn until_nothing_is_new(&mut self) -> Result<Ended, Error> {
        while self.sweep()? == Swept::Some {}
        self.last_look()
    }

    fn watch(&mut self) -> Result<Ended, Error> {
        log::info!("watching {}", self.queue.path.display());
        loop {
            // What could not even be noted as tried waits for the next sweep, not for the end of this process.
            self.tried.clear();
            if self.sweep()? == Swept::Stopped {
                break;
            }
            let limit = self.settings.config.queue_run_delay.0;
            let until_next = self.alarms.until_next(SystemTime::now(), limit);
            // However short backoff times are, there is time to breathe.
            self.waker.wait(until_next.max(Duration::from_secs(1)));
            if self.waker.is_told_to_stop() {
                break;
            }
        }
        self.last_look()
    }

    /// A `submit` may have relied on us until we closed the FIFO: whatever it queued by then is seen by one look more.
    fn last_look(&mut self) -> Result<Ended, Error> {
        self.waker.leave();
        self.sweep()?;
        Ok(Ended::Done)
    }

    /// Tries every message that is due and was not tried in this run.
    fn sweep(&mut self) -> Result<Swept, Error> {
        self.waker.forget();
        drop_folder::collect(&self.settings.config, self.settings.common(), &self.queue);
        let due = self.queue.due(SystemTime::now());
        let mut due = due.map_err(|error| Error::Temporary(format!("looking at the queue: {error}")))?;
        due.retain(|id| !self.tried.contains(id));
        let mut swept = Swept::Nothing;
        for (at, id) in due.iter().enumerate() {
            if self.waker.is_told_to_stop() {
                // These are not new: they wait for whoever comes after us.
                self.tried.extend(due.iter().skip(at));
                return Ok(Swept::Stopped);
            }
            self.settings.refresh();
            if self.one(id) != Some(Attempt::NotOurs) {
                swept = Swept::Some;
            }
            self.check_helper()?;
        }
        Ok(swept)
    }

    fn one(&mut self, id: &Id) -> Option<Attempt> {
        self.tried.insert(*id);
        match attempt(&self.queue, &self.settings, self.helper.as_mut(), id) {
            Ok(attempt) => {
                match attempt {
                    // A submit may be writing it, and rely on us when it is done: it was not tried.
                    Attempt::NotOurs => drop(self.tried.remove(id)),
                    Attempt::Deferred(next) => self.alarms.set(next),
                    Attempt::Finished => {}
                }
                Some(attempt)
            }
            Err(error) => {
                log::error!("id={id}: {error}");
                None
            }
        }
    }

    /// Nobody but root can start another.
    fn check_helper(&self) -> Result<(), Error> {
        match &self.helper {
            Some(helper) if helper.is_gone => Err(Error::Temporary("the helper for local delivery is gone".to_owned())),
            _ => Ok(()),
        }
    }
}

/// What a sweep came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Swept {
    /// Nothing was due.
    Nothing,
    /// Something was tried.
    Some,
    /// A signal ended it.
    Stopped,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::path::{Address, ReversePath};
    use crate::queue::Head;

    #[test]
    fn a_message_that_was_still_being_written_at_one_look_is_tried_at_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let text = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(text("passwd"), "").unwrap();
        let config = Config::with(&[
            ("queue_directory", &text("queue")),
            ("users", &format!("passwd-file:{}", text("passwd"))),
            ("channels", &text("channels")),
            ("myhostname", "mx.example"),
            ("double_bounce_recipient", ""),
        ]);
        let queue = Queue::open(&config.queue_directory).unwrap();
        let waker = Waker::open(&queue).unwrap();
        let settings = Settings::new(&Common::default(), config).unwrap();
        let (alarms, tried) = (Alarms::default(), HashSet::new());
        let mut deliver = Deliver { queue, settings, helper: None, waker, alarms, tried };
        let mut draft = deliver.queue.begin().unwrap();
        draft.content(b"Subject: x\n\nhello\n").unwrap();

        assert_eq!(deliver.sweep().unwrap(), Swept::Nothing, "it is locked and not whole");

        draft.recipient(&Address::from_internal(b"nobody-of-that-name@mx.example").unwrap()).unwrap();
        let head =
            Head { reverse_path: ReversePath::NULL, trace: b"Received: by mx\n".to_vec(), channel: "local".into() };
        draft.commit(&head).unwrap();
        assert_eq!(deliver.sweep().unwrap(), Swept::Some);
        let far = SystemTime::now() + Duration::from_secs(86_400);
        assert!(deliver.queue.due(far).unwrap().is_empty(), "a message from nobody to nobody is done");
    }
}
