//! When `deliver` looks at the whole queue: by itself each `queue_run_delay`, and sooner where somebody asked for it or not
//! all that was due had room in memory. Anybody may ask, and each look reads every name in the queue: so never more often
//! than each [`BREATH`].

use std::time::{Duration, Instant};

/// Shortest time between two looks, however short queue_run_delay and backoff times are.
pub const BREATH: Duration = Duration::from_secs(1);

/// Which look it is time for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The one that comes by itself, at everything, whatever is known of it.
    Regular,
    /// At what was not tried in this run.
    Early,
    /// At the drop folder alone.
    Drop,
}

/// The looks so far, and what is asked for.
#[derive(Debug)]
pub struct Looks {
    /// The last one of any kind.
    last: Instant,
    /// The last that came by itself.
    regular: Instant,
    /// Not all that was due had room.
    pub has_more: bool,
    /// Somebody asked for one.
    pub is_wanted: bool,
    /// Somebody left something in the drop folder, or says so.
    pub has_drop: bool,
}

impl Looks {
    /// The first one is now.
    pub fn new(now: Instant) -> Looks {
        Looks { last: now, regular: now, has_more: false, is_wanted: false, has_drop: false }
    }

    /// Which look is due, where one by itself comes each `delay`. `has_room`: what had none in memory would have it now.
    pub fn due(&self, now: Instant, delay: Duration, has_room: bool) -> Option<Look> {
        if now < self.last + BREATH {
            None
        } else if now.saturating_duration_since(self.regular) >= delay {
            Some(Look::Regular)
        } else if self.is_wanted || (self.has_more && has_room) {
            Some(Look::Early)
        } else {
            self.has_drop.then_some(Look::Drop)
        }
    }

    /// How long until one is due.
    pub fn left(&self, now: Instant, delay: Duration) -> Duration {
        let is_asked_for = self.has_more || self.is_wanted || self.has_drop;
        let regular = delay.saturating_sub(now.saturating_duration_since(self.regular));
        let breath = (self.last + BREATH).saturating_duration_since(now);
        if is_asked_for { breath } else { regular.max(breath) }
    }

    /// It is begun: what is asked for from now on is for the next.
    pub fn begin(&mut self, look: Look, now: Instant) {
        self.last = now;
        self.has_drop = false;
        if look != Look::Drop {
            (self.is_wanted, self.has_more) = (false, false);
        }
        if look == Look::Regular {
            self.regular = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(300);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_look_comes_by_itself_each_queue_run_delay_and_never_twice_in_a_breath() {
        let start = Instant::now();
        let mut looks = Looks::new(start);
        assert_eq!((looks.due(start + seconds(299), DELAY, true), looks.left(start, DELAY)), (None, DELAY));
        assert_eq!(looks.due(start + DELAY, DELAY, true), Some(Look::Regular));
        looks.begin(Look::Regular, start + DELAY);
        assert_eq!(looks.left(start + DELAY, DELAY), DELAY);
        // Without any delay.
        assert_eq!(looks.left(start + DELAY, Duration::ZERO), BREATH);
        assert_eq!(looks.due(start + DELAY + BREATH / 2, Duration::ZERO, true), None);
        assert_eq!(looks.due(start + DELAY + BREATH, Duration::ZERO, true), Some(Look::Regular));
    }

    #[test]
    fn who_asks_for_looks_gets_one_each_breath_and_does_not_put_off_those_that_come_by_themselves() {
        let start = Instant::now();
        let mut looks = Looks::new(start);
        (looks.is_wanted, looks.has_drop) = (true, true);
        assert_eq!((looks.due(start + BREATH / 2, DELAY, true), looks.left(start, DELAY)), (None, BREATH));
        assert_eq!(looks.due(start + BREATH, DELAY, true), Some(Look::Early));
        looks.begin(Look::Early, start + BREATH);
        assert_eq!(looks.due(start + 2 * BREATH, DELAY, true), None);
        looks.has_drop = true;
        assert_eq!(looks.due(start + 2 * BREATH, DELAY, true), Some(Look::Drop));
        looks.begin(Look::Drop, start + 2 * BREATH);
        looks.is_wanted = true;
        assert_eq!(looks.due(start + DELAY, DELAY, true), Some(Look::Regular));
    }

    #[test]
    fn what_had_no_room_is_looked_for_when_there_is_some() {
        let start = Instant::now();
        let looks = Looks { has_more: true, ..Looks::new(start) };
        assert_eq!(looks.due(start + BREATH, DELAY, false), None);
        assert_eq!(looks.due(start + BREATH, DELAY, true), Some(Look::Early));
    }
}
