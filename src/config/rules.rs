//! What values mean beside others, and what of them a type alone cannot say.

use super::parameters::Config;
use super::{Error, Origin, shown};
use crate::message::path::is_host_name;
use std::time::Duration;

/// The longest time between two tries, which the queue believes though clocks are set.
const LONGEST_BACKOFF: Duration = Duration::from_secs(7 * 86_400);

/// The system gives up long before.
const NO_LIMIT_OF_OURS: Duration = Duration::from_secs(86_400);

impl Config {
    /// Takes values for what they mean: Postfix's parameter may name more lists than there are here, and no time at all to
    /// connect is as long as the system tries.
    pub(super) fn widen(&mut self) {
        if self.smtp_connect_timeout.0.is_zero() {
            self.smtp_connect_timeout.0 = NO_LIMIT_OF_OURS;
        }
        let named = |name: &str| self.parent_domain_matches_subdomains.0.iter().any(|word| word == name);
        let (debug, qmqpd) = (named("debug_peer_list"), named("qmqpd_authorized_clients"));
        for (list, wanted) in [(&mut self.debug_peer_list, debug), (&mut self.qmqpd_authorized_clients, qmqpd)] {
            if wanted {
                list.with_subdomains();
            }
        }
    }

    /// What a type alone cannot say.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.expect("myhostname", is_host_name(&self.myhostname), "a host name of letters, digits, - and dots")?;
        let zero = [
            ("smtpd_timeout", self.smtpd_timeout.0.is_zero()),
            ("qmqpd_timeout", self.qmqpd_timeout.0.is_zero()),
            ("pop3d_timeout", self.pop3d_timeout.0.is_zero()),
            ("daemon_timeout", self.daemon_timeout.0.is_zero()),
            ("ipc_timeout", self.ipc_timeout.0.is_zero()),
            ("smtpd_upstream_proxy_timeout", self.smtpd_upstream_proxy_timeout.0.is_zero()),
            ("command_time_limit", self.command_time_limit.0.is_zero()),
            ("before_queue_filter_timeout", self.before_queue_filter_timeout.0.is_zero()),
            ("smtp_helo_timeout", self.smtp_helo_timeout.0.is_zero()),
            ("smtp_starttls_timeout", self.smtp_starttls_timeout.0.is_zero()),
            ("smtp_mail_timeout", self.smtp_mail_timeout.0.is_zero()),
            ("smtp_rcpt_timeout", self.smtp_rcpt_timeout.0.is_zero()),
            ("smtp_data_init_timeout", self.smtp_data_init_timeout.0.is_zero()),
            ("smtp_data_xfer_timeout", self.smtp_data_xfer_timeout.0.is_zero()),
            ("smtp_data_done_timeout", self.smtp_data_done_timeout.0.is_zero()),
            ("minimal_backoff_time", self.minimal_backoff_time.0.is_zero()),
            ("maximal_backoff_time", self.maximal_backoff_time.0.is_zero()),
            ("queue_run_delay", self.queue_run_delay.0.is_zero()),
            ("children", self.children == 0),
            ("line_length_limit", self.line_length_limit == 0),
            ("hopcount_limit", self.hopcount_limit == 0),
            ("smtpd_recipient_limit", self.smtpd_recipient_limit == 0),
            ("smtpd_hard_error_limit", self.smtpd_hard_error_limit == 0),
            ("debug_peer_level", self.debug_peer_level == 0),
        ];
        for (name, is_zero) in zero {
            self.expect(name, !is_zero, "something above 0")?;
        }
        // A next try that is further away counts as set by a wrong clock, and is due.
        let backoff = [
            ("minimal_backoff_time", self.minimal_backoff_time.0),
            ("maximal_backoff_time", self.maximal_backoff_time.0),
        ];
        for (name, time) in backoff {
            self.expect(name, time <= LONGEST_BACKOFF, "7d at the most")?;
        }
        self.expect("authentication", !self.authentication.0.is_empty(), "at least one way to check a password")
    }

    fn expect(&self, name: &str, holds: bool, expected: &str) -> Result<(), Error> {
        if holds { Ok(()) } else { Err(self.wrong(name, expected)) }
    }

    /// Says of a parameter that is right by itself but cannot be used where it was set, and what was expected there.
    pub fn wrong(&self, name: &str, expected: &str) -> Error {
        let (value, lacking) = self.setting(name).map_or((String::new(), String::new()), |setting| {
            (format!(" = {}", shown(&setting.expanded)), setting.lacking())
        });
        Error { origin: self.origin(name), problem: format!("{name}{value}: expected {expected}{lacking}") }
    }

    /// Where a parameter was set.
    pub fn origin(&self, name: &str) -> Origin {
        let setting = self.settings.iter().find(|setting| setting.name == name);
        setting.map_or(Origin::Default, |setting| setting.origin.clone())
    }
}
