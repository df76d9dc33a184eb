//! A process that works on one message after another, as its master gives them out.

use super::attempt::{Attempt, Tools, attempt};
use super::helper::Helper;
use super::permits::{Desk, Word};
use super::settings::Settings;
use crate::queue::Queue;
use nix::sys::signal::SigSet;

/// The worker's life: until its master has no more for it.
pub fn serve(desk: &Desk, queue: &Queue, mut settings: Settings, mut helper: Option<Helper>) -> u8 {
    // A signal to the whole group (a service being stopped) lets us finish the message at hand.
    let _ = SigSet::all().thread_block();
    loop {
        let id = match desk.next() {
            Ok(Some(id)) => id,
            Ok(None) => return 0,
            Err(error) => {
                log::error!("a worker ends: {error}");
                return 75;
            }
        };
        settings.refresh_for(id.time());
        let mut tools = Tools { queue, settings: &settings, helper: helper.as_mut(), desk };
        let ended = attempt(&mut tools, &id).unwrap_or_else(|error| {
            log::error!("id={id}: {error}");
            Attempt::Broken
        });
        let lost_helper = helper.as_ref().is_some_and(|helper| helper.is_gone);
        if desk.say(&Word::End(ended)).is_err() || lost_helper {
            return 75;
        }
    }
}
