//! Taking queued messages on: to mailboxes here, to programs, and to other hosts.
//!
//! This process gives out the work and touches no mail. `backlog.rs` says in which order, `schedule.rs` when, `tried.rs` what
//! is not tried again, `looks.rs` when the whole queue is looked at, `crew.rs` has the processes and counts who uses what,
//! `permits.rs` is what they say to each other. A `worker.rs` takes one message at a time and all its recipients
//! (`attempt.rs`): `local.rs` finds whose it is here, `expand.rs` sends it on where an alias or a `~/.forward` says so,
//! `task.rs` (as root by way of `helper.rs`) does what needs the recipient's rights, `piped.rs` gives it to a program of a
//! channel, `crate::relay` to another host, in a process without any right on the queue; `report.rs` tells senders,
//! `origin.rs` lets no report go before it is noted. Several delivers may run at once: a message is locked by whoever works
//! on it, and others pass it by.

mod appended;
mod attempt;
mod backlog;
mod copy;
mod crew;
mod expand;
mod forward;
mod helper;
mod local;
mod looks;
mod origin;
mod permits;
mod piped;
mod program;
mod report;
mod schedule;
mod settings;
mod task;
mod tried;
mod worker;

use crate::cli::Common;
use crate::config::Config;
use crate::exit::{Ended, Error};
use crate::privilege::{self, Owner};
use crate::queue::{Id, Queue};
pub use crate::relay::Outcome;
use crate::submit::drop_folder::{self, Collector};
use attempt::Attempt;
use backlog::Backlog;
use crew::{Base, Crew, News};
use helper::Helper;
use looks::{BREATH, Look, Looks};
use schedule::{Alarms, Waker};
use settings::Settings;
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime};
use tried::Tried;

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
pub fn run(common: &Common, config: Box<Config>, work: &Work) -> Result<Ended, Error> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let settings = Settings::new(common, config)?;
    let mut helper = None;
    if privilege::is_root() {
        privilege::owner_of(&settings.config, Owner::Mail)?;
        helper = Some(Helper::start(settings.clone())?);
        privilege::become_owner(&settings.config, Owner::Mail)?;
    }
    let queue = Queue::open(&settings.config.queue_directory)?;
    let waker = Waker::open(&queue, drop_folder::trigger(&settings.config))?;
    let mut deliver = Deliver {
        queue,
        settings,
        helper,
        waker,
        collector: Collector::default(),
        crew: Crew::default(),
        backlog: Backlog::default(),
        alarms: Alarms::default(),
        tried: Tried::default(),
        watches: *work == Work::Watch,
        tells: false,
        not_tried: None,
        looks: Looks::new(Instant::now()),
        done: 0,
        came_to_something: false,
        told_to_stop: None,
    };
    let ended = match work {
        Work::These(ids) => deliver.these(ids),
        Work::Sweep => deliver.until_nothing_is_new(),
        Work::Watch => deliver.watch(),
    };
    deliver.crew.farewell(FAREWELL);
    if deliver.has_lost_helper() {
        return Err(Error::Temporary("the child that stays root is gone".to_owned()));
    }
    ended
}

/// How long agents may take to say goodbye to their hosts at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// How soon a message is tried that somebody else had locked.
const PASSED_BY: Duration = Duration::from_secs(5);

struct Deliver {
    queue: Queue,
    settings: Settings,
    helper: Option<Helper>,
    waker: Waker,
    collector: Collector,
    crew: Crew,
    backlog: Backlog,
    alarms: Alarms,
    tried: Tried,
    /// This is to stay.
    watches: bool,
    /// Whether a message that is not ours is worth a line.
    tells: bool,
    /// Why the last one of those that were named was not tried.
    not_tried: Option<Error>,
    /// When the whole queue is looked at.
    looks: Looks,
    /// Messages that were tried in this run, for who watches.
    done: usize,
    /// Whether one was ours to try since the last look.
    came_to_something: bool,
    /// Since when this is to end.
    told_to_stop: Option<Instant>,
}

impl Deliver {
    fn these(&mut self, ids: &[Id]) -> Result<Ended, Error> {
        self.waker.leave();
        self.tells = true;
        let now = SystemTime::now();
        self.backlog.add(ids.iter().map(|id| (now, *id)).collect(), |id| origin::of(&self.queue, id));
        self.work_off()?;
        self.not_tried.take().map_or(Ok(Ended::Done), Err)
    }

    fn until_nothing_is_new(&mut self) -> Result<Ended, Error> {
        loop {
            self.came_to_something = false;
            let has_work = self.sweep()? || self.collector.is_under_way();
            if !has_work || self.work_off()? == Ending::Stopped {
                return self.last_look();
            }
            // Messages that are being written, or whose writer died, are due at every look.
            if !self.came_to_something && !self.collector.is_under_way() {
                return self.last_look();
            }
        }
    }

    fn watch(&mut self) -> Result<Ended, Error> {
        log::info!("watching {}", self.queue.path.display());
        self.sweep()?;
        loop {
            if self.work_off()? == Ending::Stopped {
                break;
            }
            let left = self.looks.left(Instant::now(), self.settings.config.queue_run_delay.0);
            let cache = self.settings.config.smtp_connection_cache_time_limit.0;
            let idle = if self.crew.has_idle_agents() { cache } else { left };
            let idle = if self.crew.has_spare_workers() { idle.min(crew::KEPT) } else { idle };
            // Sooner for what this process has put off itself.
            let wait =
                self.alarms.until_next(SystemTime::now(), left.min(idle.max(BREATH))).max(Duration::from_millis(20));
            self.waker.wait(self.helper.iter().map(AsFd::as_fd), wait);
            if self.is_told_to_stop() {
                break;
            }
            self.tidy();
            self.look_for_more()?;
        }
        self.last_look()
    }

    /// Nobody can write to the mailboxes of other users any more, and this process cannot start another who could.
    fn has_lost_helper(&self) -> bool {
        self.helper.as_ref().is_some_and(|helper| !helper.is_there())
    }

    /// A signal came, since the last time this was asked, or there is no helper any more: whoever started us starts another.
    fn is_told_to_stop(&mut self) -> bool {
        let is_told = self.waker.is_told_to_stop() || self.has_lost_helper();
        if is_told {
            self.told_to_stop.get_or_insert_with(Instant::now);
        }
        is_told
    }

    /// What is at hand has been given its time. The rest is as a crash leaves it: no worker outlives this process.
    fn is_out_of_time(&self) -> bool {
        let limit = self.settings.config.deliver_stop_timeout.0;
        self.told_to_stop.is_some_and(|since| since.elapsed() >= limit)
    }

    /// A `submit` may have relied on us until we closed the FIFO: whatever it queued by then is seen by one look more.
    fn last_look(&mut self) -> Result<Ended, Error> {
        self.waker.leave();
        if self.is_out_of_time() {
            return Ok(Ended::Done);
        }
        self.sweep()?;
        self.work_off()?;
        Ok(Ended::Done)
    }

    /// Looks at the whole queue. Gives whether there is anything to do.
    fn sweep(&mut self) -> Result<bool, Error> {
        // What was tried when it was no message yet is one now.
        let woken = self.waker.take();
        for id in woken.ids {
            self.tried.forget(&id);
        }
        if woken.drop {
            self.collector.call();
        }
        self.refresh();
        self.looks.begin(Look::Early, Instant::now());
        self.collect();
        let due = self.queue.due(SystemTime::now());
        let mut due = due.map_err(|error| Error::Temporary(format!("looking at the queue: {error}")))?;
        let is_flushed = |(time, id): &&(SystemTime, Id)| self.watches && self.tried.is_flushed(id, *time);
        let flushed: Vec<Id> = due.iter().filter(is_flushed).map(|(_, id)| *id).collect();
        if !flushed.is_empty() {
            // Who asks for a try wants no answer from memory.
            self.crew.forget_silent();
        }
        for id in flushed {
            self.tried.forget(&id);
        }
        due.retain(|(_, id)| !self.tried.has(id));
        log::debug!("event=looked due={}", due.len());
        self.looks.has_more = !self.backlog.add(due, |id| origin::of(&self.queue, id));
        Ok(!self.backlog.is_empty())
    }

    /// Gives out work until there is none, and everybody is idle; or until told to stop, and everybody is done.
    fn work_off(&mut self) -> Result<Ending, Error> {
        let mut ending = Ending::Idle;
        let mut tidied = Instant::now();
        loop {
            if tidied.elapsed() >= BREATH {
                tidied = Instant::now();
                self.refresh();
                self.tidy();
            }
            if self.is_out_of_time() {
                log::warn!("event=stopped unfinished={} reason=\"deliver_stop_timeout\"", self.crew.busy());
                return Ok(Ending::Stopped);
            }
            if ending == Ending::Idle && self.is_told_to_stop() {
                ending = Ending::Stopped;
                // These are not new: they wait for whoever comes after us.
                let left = [self.backlog.clear(), self.crew.forget_waiting()].concat();
                left.into_iter().for_each(|id| self.tried.note(id, None));
            }
            self.give_out()?;
            if self.crew.busy() == 0 && self.backlog.is_empty() {
                self.call_the_stranded();
                if self.backlog.is_empty() {
                    return Ok(ending);
                }
                continue;
            }
            let limit = self.alarms.until_next(SystemTime::now(), Duration::from_secs(1));
            // What waits for a worker that was thought to be free at once may need another.
            let limit = if self.backlog.is_empty() { limit } else { limit.min(crew::QUICK) };
            // One whose end is known has nothing more to say.
            let helper = self.helper.iter().filter(|_| ending == Ending::Idle).map(AsFd::as_fd);
            let heard = self.waker.wait(self.crew.sockets().chain(helper), limit.max(Duration::from_millis(20)));
            // From behind, for one that is gone leaves its place to the last.
            for number in heard.into_iter().rev() {
                self.hear(number)?;
            }
            self.look_for_more()?;
        }
    }

    fn tidy(&mut self) {
        self.crew.tidy(self.settings.config.smtp_connection_cache_time_limit.0);
        self.call_the_stranded();
    }

    fn refresh(&mut self) {
        if self.settings.refresh() {
            self.crew.renew_agents();
        }
    }

    /// Whoever waits for what is free is tried, unless this is to end.
    fn call_the_stranded(&mut self) {
        if self.told_to_stop.is_none() {
            self.crew.stranded().into_iter().for_each(|id| self.backlog.again(id));
        }
    }

    /// What came meanwhile, and what the look at everything finds that is due: also while one slow host keeps somebody busy.
    fn look_for_more(&mut self) -> Result<(), Error> {
        let now = SystemTime::now();
        let mut come = self.alarms.take(now);
        let woken = self.waker.take();
        come.extend(woken.ids.iter().map(|id| (id.time(), *id)));
        for (_, id) in &come {
            self.tried.forget(id);
        }
        self.looks.has_more |= !self.backlog.add(come, |id| origin::of(&self.queue, id));
        self.looks.is_wanted |= woken.all;
        if woken.drop {
            self.looks.has_drop = true;
            self.collector.call();
        }
        let (now, has_room) = (Instant::now(), self.backlog.has_room());
        // Only who stays comes by itself; and who is to end begins nothing that can be left to others.
        let stays = self.watches && self.told_to_stop.is_none();
        if self.told_to_stop.is_some() {
            (self.looks.has_more, self.looks.has_drop) = (false, false);
        }
        let delay = if stays { self.settings.config.queue_run_delay.0 } else { Duration::MAX };
        match self.looks.due(now, delay, has_room) {
            Some(Look::Regular) => {
                self.looks.begin(Look::Regular, now);
                // What could not even be noted as tried waits for this, and not for the end of this process.
                self.tried.clear();
                self.sweep()?;
            }
            Some(Look::Early) => _ = self.sweep()?,
            Some(Look::Drop) => {
                self.looks.begin(Look::Drop, now);
                if self.collect() > 0 {
                    self.sweep()?;
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Takes what is in the drop folder, and what is more than can be taken at once a breath later. Gives how many.
    fn collect(&mut self) -> usize {
        let (taken, has_more) = self.collector.collect(&self.settings.config, self.settings.common(), &self.queue);
        self.looks.has_drop |= has_more;
        taken
    }

    fn give_out(&mut self) -> Result<(), Error> {
        while let Some(id) = self.backlog.next() {
            let (waker, collector, queue) = (&mut self.waker, &mut self.collector, &self.queue);
            let mut close = || (waker.forget(), collector.forget()).0;
            let mut base = Base { queue, settings: &self.settings, helper: self.helper.as_mut() };
            match self.crew.give(id, &mut base, &mut close) {
                Ok(true) => {}
                Ok(false) => {
                    self.backlog.put_back(id);
                    return Ok(());
                }
                // Some more processes may come to their end; without any there is no help.
                Err(error) if self.crew.busy() > 0 => {
                    log::warn!("event=no-worker reason={:?}", error.to_string());
                    self.backlog.put_back(id);
                    return Ok(());
                }
                Err(error) => return Err(Error::Temporary(format!("starting a process for delivery: {error}"))),
            }
        }
        Ok(())
    }

    fn hear(&mut self, number: usize) -> Result<(), Error> {
        let (waker, collector, queue) = (&mut self.waker, &mut self.collector, &self.queue);
        let mut close = || (waker.forget(), collector.forget()).0;
        let mut base = Base { queue, settings: &self.settings, helper: self.helper.as_mut() };
        for news in self.crew.hear(number, &mut base, &mut close) {
            match news {
                News::Free(id) => self.backlog.again(id),
                News::Noted(id) => self.backlog.has_noted(&id),
                News::Over(id, ended) => self.over(id, ended),
            }
        }
        Ok(())
    }

    fn over(&mut self, id: Id, ended: Attempt) {
        self.backlog.finish(&id);
        self.done = self.done.saturating_add(1);
        self.came_to_something |= !matches!(ended, Attempt::NotOurs | Attempt::Damaged);
        log::debug!("id={id} event=over came-to={} done={} left={}", ended.word(), self.done, self.backlog.len());
        if matches!(ended, Attempt::Finished | Attempt::Deferred(_)) {
            let now = SystemTime::now();
            let orphans = self.tried.adopt(&id).into_iter().map(|orphan| (now, orphan)).collect();
            self.looks.has_more |= !self.backlog.add(orphans, |_| None);
        }
        let parent = if ended == Attempt::NotOurs { self.broken_parent_of(&id) } else { None };
        match ended {
            // A submit may be writing it, and rely on us when it is done: it was not tried.
            Attempt::NotOurs if self.tells => self.tell_why_not(&id),
            // Neither is tried before the next look at everything, unless somebody asks for it.
            Attempt::NotOurs if let Some(parent) = parent => self.tried.note_orphan(id, parent),
            // Or somebody lists the queue just now: it must not wait for the next look at everything.
            Attempt::NotOurs if self.queue.has(&id) => self.alarms.set(SystemTime::now() + PASSED_BY, id),
            Attempt::NotOurs => {}
            Attempt::Deferred(next) => {
                self.tried.note(id, Some(next));
                self.alarms.set(next, id);
            }
            // What is damaged was read whole to find that, and will be no better soon.
            Attempt::Broken | Attempt::Waits(_) | Attempt::Damaged => self.tried.note(id, None),
            Attempt::Finished => {}
        }
    }

    /// A message that was named is not tried.
    fn tell_why_not(&mut self, id: &Id) {
        let trouble = match self.queue.look(id) {
            Ok(Some(message)) if message.is_held => Error::Data(format!("{id} is held (doorpost-queue release)")),
            Ok(None) if !self.queue.has(id) => Error::Data(format!("{id} is not in the queue")),
            Ok(None) => Error::Temporary(format!("{id} is incomplete or damaged")),
            Ok(Some(_)) | Err(_) => Error::Temporary(format!("{id} is at work in another process, or cannot be read")),
        };
        if let Some(before) = self.not_tried.replace(trouble) {
            log::error!("{before}");
        }
    }

    /// The message that gave rise to this one, if the try of that was broken off, perhaps before it was noted.
    fn broken_parent_of(&self, id: &Id) -> Option<Id> {
        let origin = || origin::of(&self.queue, id).filter(|parent| self.tried.is_broken(parent));
        if self.tried.is_empty() { None } else { origin() }
    }
}

/// How a stretch of work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Nothing is left to do.
    Idle,
    /// A signal ended it.
    Stopped,
}
