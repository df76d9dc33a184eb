//! What is allowed in a channels file and hardly meant: each finding with its place and what mends it.
//!
//! What is not allowed is an error when the file is read (`parse.rs`); open relays are told at every start.

use super::{AUTHENTICATED, Channel, Channels, MayGo};
use crate::config::Origin;

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The line.
    pub origin: Origin,
    /// What is strange there.
    pub problem: String,
    /// What to do.
    pub mend: String,
}

impl Channels {
    /// Everything that is strange, in the order of the lines.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |channel: &Channel, problem: String, mend: String| {
            findings.push(Finding { origin: channel.origin.clone(), problem, mend });
        };
        let mut above: Vec<&Channel> = Vec::new();
        for channel in self.0.iter().filter(|channel| channel.name != AUTHENTICATED) {
            let (name, before) = (&channel.name, "put this line before that one");
            // Below one net another may be meant for a server that searches this channel only (`smtpsrvr campus`).
            let takes_all =
                |earlier: &&&Channel| earlier.clients.takes_all() && earlier.clients.covers(&channel.clients);
            if let Some(earlier) = above.iter().find(takes_all) {
                let problem = format!("no client is ever on channel {name}: {earlier} takes all of them");
                add(channel, problem, before.to_owned());
            }
            if let Some(earlier) = above.iter().find(|earlier| earlier.domains.covers(&channel.domains)) {
                let problem = format!("no mail ever leaves by channel {name}: {earlier} takes all its domains");
                add(channel, problem, before.to_owned());
            }
            if channel.may_go == MayGo::To(Vec::new()) && !channel.clients.0.is_empty() {
                let problem = format!("clients of channel {name} can send nothing to anybody");
                add(channel, problem, "name channels in its last column, or no clients".to_owned());
            }
            above.push(channel);
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn findings(text: &str) -> Vec<String> {
        let config = Config::with(&[("myhostname", "mx.example"), ("channels", "/x/channels")]);
        let channels = Channels::parse(text.as_bytes(), &config).unwrap();
        let text = |f: &Finding| format!("{}: {}; {}", f.origin, f.problem, f.mend).replace("/x/channels", "F");
        channels.findings().iter().map(text).collect()
    }

    #[test]
    fn what_is_built_in_and_what_the_manual_shows_is_not_strange() {
        assert_eq!(
            findings("local 127.0.0.0/8,[::1] $myhostname,localhost mailbox: *\nsmtp * * smtp: local\n"),
            [""; 0]
        );
    }

    #[test]
    fn lines_that_nobody_reaches_are_found() {
        let found = findings("a * mx.example mailbox: a\nb 10.0.0.0/8 * smtp: a\nc - example.net smtp: a\n");
        assert_eq!(
            found,
            [
                "F:2: no client is ever on channel b: channel a (F:1) takes all of them; put this line before that one",
                "F:3: no mail ever leaves by channel c: channel b (F:2) takes all its domains; put this line before that one",
            ]
        );
        for [above, below] in [["*", "a.example,10.0.0.0/8"], ["0.0.0.0/0,[::]/0", "!192.0.2.1,192.0.2.0/24"]] {
            let found = findings(&format!("a {above} mx.example mailbox: a\nb {below} - - a\n"));
            assert!(found.len() == 1 && found[0].contains("no client is ever on channel b"), "{below}: {found:?}");
        }
        // Who has no address is nobody to `*`, and who has only a name is in no net.
        for [above, below] in [
            ["!10.0.0.0/8,*", "10.0.0.0/8"],
            ["*", "stdin,unknown"],
            ["*", "10.0.0.0/8,stdin"],
            ["static:all", "unknown"],
            ["0.0.0.0/0,[::]/0", "a.example"],
            ["0.0.0.0/0,[::]/0", "*"],
            ["10.0.0.0/8", "10.1.0.0/16"],
        ] {
            assert_eq!(findings(&format!("a {above} mx.example mailbox: a\nb {below} - - a\n")), [""; 0]);
        }
    }

    #[test]
    fn clients_that_can_send_nothing_are_found() {
        let found = findings("a 10.0.0.0/8 mx.example mailbox: -\nb - - - -\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("F:1: clients of channel a can send nothing"), "{found:?}");
    }
}
