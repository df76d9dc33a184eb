//! What is made of an outcome: whether a failure is for good, and when waiting is over.

use crate::config::Config;
use crate::deliver::{Outcome, schedule};
use std::time::SystemTime;

/// `soft_bounce` lets nothing fail at once; nothing waits longer than `maximal_queue_lifetime`.
pub(super) fn judge(config: &Config, outcome: Outcome, created: SystemTime, now: SystemTime, attempts: u32) -> Outcome {
    let outcome = match outcome {
        Outcome::Failed(why) if config.soft_bounce => {
            Outcome::Deferred(why.strip_prefix('5').map_or(why.clone(), |rest| format!("4{rest}")))
        }
        outcome => outcome,
    };
    match outcome {
        Outcome::Deferred(why) if schedule::is_expired(config, created, now, attempts) => {
            Outcome::Failed(format!("5.4.7 given up after {}: {why}", waited(schedule::age(created, now).as_secs())))
        }
        outcome => outcome,
    }
}

/// A length of time for people.
fn waited(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn judged(settings: &[(&str, &str)], outcome: Outcome, age: u64) -> Outcome {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        judge(&Config::with(settings), outcome, now - Duration::from_secs(age), now, 100)
    }

    #[test]
    fn what_waits_too_long_fails_with_its_last_reason() {
        let deferred = || Outcome::Deferred("4.2.2 the mailbox is full".to_owned());
        assert_eq!(judged(&[], deferred(), 4 * 86_400), deferred());
        let given_up = "5.4.7 given up after 5 days: 4.2.2 the mailbox is full";
        assert_eq!(judged(&[], deferred(), 5 * 86_400), Outcome::Failed(given_up.to_owned()));
        let delivered = || Outcome::Delivered("delivered to mailbox");
        assert_eq!(judged(&[], delivered(), 9 * 86_400), delivered());
    }

    #[test]
    fn soft_bounce_defers_what_would_fail_until_it_expires() {
        let failed = || Outcome::Failed("5.1.1 no such user here".to_owned());
        assert_eq!(judged(&[], failed(), 0), failed());
        let soft = [("soft_bounce", "yes")];
        assert_eq!(judged(&soft, failed(), 0), Outcome::Deferred("4.1.1 no such user here".to_owned()));
        assert!(matches!(judged(&soft, failed(), 6 * 86_400), Outcome::Failed(_)));
    }
}
