//! Every reply there is, and outcomes, verdicts and faults to replies.
//!
//! A reply is one netstring; its first octet is what a client acts on, the text behind it is for people. The crate
//! `netstring` writes it.

use super::request::Fault;
use crate::submit::{Outcome, Refusal, Verdict};
use netstring::WriteNetstring;
use std::borrow::Cow;

/// What a client is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `K`: the message is ours now, for all recipients.
    Queued,
    /// `Z`: try again later.
    Later,
    /// `D`: never; tell the sender.
    Never,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Queued => "K",
            Kind::Later => "Z",
            Kind::Never => "D",
        })
    }
}

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What a client is to do.
    pub kind: Kind,
    /// For people; printable ASCII.
    pub text: Cow<'static, str>,
}

impl Reply {
    /// Our own trouble, whatever it is: the log says.
    pub const TROUBLE: Reply = Reply::new(Kind::Later, "Error: queue file write error");
    /// The configuration cannot be used.
    pub const CONFIGURATION: Reply = Reply::new(Kind::Later, "Error: server configuration error");
    /// More connections than there may be; nothing is read.
    pub const TOO_MANY_CONNECTIONS: Reply = Reply::new(Kind::Later, "Error: too many connections");
    /// Whether the client is authorised cannot be told now.
    pub const CANNOT_TELL: Reply = Reply::new(Kind::Later, "Error: cannot tell now whether you may use this service");
    /// The client is not in qmqpd_authorized_clients.
    pub const NOT_AUTHORIZED: Reply = Reply::new(Kind::Never, "Error: you are not authorized to use this service");

    /// In QMTP: the sender is no address.
    pub const BAD_SENDER: Reply = Reply::new(Kind::Never, "Error: sender is not an address");
    /// In QMTP: the message has as many recipients as it may have; the rest can be sent again by themselves.
    pub const TOO_MANY_RECIPIENTS_NOW: Reply = Reply::new(Kind::Later, "Error: too many recipients at once");
    /// Nobody is left to whom the message would go.
    pub const NO_RECIPIENTS: Reply = Reply::new(Kind::Never, "Error: no recipients specified");

    const fn new(kind: Kind, text: &'static str) -> Reply {
        Reply { kind, text: Cow::Borrowed(text) }
    }

    fn while_in(kind: Kind, what: &str, phase: &str) -> Reply {
        Reply { kind, text: Cow::Owned(format!("{what} while {phase}")) }
    }

    /// The client was silent, or took longer than a session may.
    pub fn timed_out(phase: &str) -> Reply {
        Reply::while_in(Kind::Later, "Error: timed out", phase)
    }

    /// A package that cannot be taken.
    pub fn fault(fault: Fault, phase: &str) -> Reply {
        match fault {
            Fault::Format => Reply::while_in(Kind::Never, "netstring format error", phase),
            Fault::Lengths => Reply::while_in(Kind::Never, "netstring lengths do not match", phase),
            Fault::AddressTooLong => Reply::while_in(Kind::Never, "netstring length exceeds storage limit", phase),
            Fault::TooLarge => Reply::refusal(&Refusal::TooLarge),
            Fault::BadAddress => Reply::while_in(Kind::Never, "Error: not an address", phase),
            Fault::NoRecipients => Reply::refusal(&Refusal::NoRecipients),
        }
    }

    /// A sender that asks for variable envelope return paths with delimiters that are not allowed. Postfix's words.
    pub fn bad_delimiters(first: u8, allowed: &str) -> Reply {
        let shown = |text: &str| text.bytes().filter(u8::is_ascii_graphic).map(char::from).collect::<String>();
        let first = if first.is_ascii_graphic() { char::from(first) } else { '?' };
        let need = format!("Need two characters from \"{}\"", shown(allowed));
        Reply { kind: Kind::Never, text: Cow::Owned(format!("Error: Invalid VERP delimiters: \"{first}=\". {need}")) }
    }

    /// A recipient that is not taken, and with it the message; nothing for one that is.
    pub fn verdict(verdict: &Verdict) -> Option<Reply> {
        let reply = match verdict {
            Verdict::Accepted => return None,
            Verdict::UnknownUser => Reply::new(Kind::Never, "Error: no such user"),
            Verdict::UnknownHost => Reply::new(Kind::Never, "Error: no way to that domain"),
            Verdict::NotAllowed => Reply::new(Kind::Never, "Error: mail may not go there"),
            Verdict::BadAddress => Reply::new(Kind::Never, "Error: not an address while receiving recipient address"),
            Verdict::Closed(closed) => {
                let kind = if closed.is_for_now() { Kind::Later } else { Kind::Never };
                let words = match closed.as_str() {
                    "" => "Error: no mail is taken for that domain".to_owned(),
                    said => format!("Error: no mail is taken for that domain: {said}"),
                };
                Reply { kind, text: Cow::Owned(words) }
            }
            Verdict::CannotTell => Reply::new(Kind::Later, "Error: cannot check a recipient now"),
            // "Later" would be for ever: the client cannot send the rest by itself.
            Verdict::TooMany => Reply::new(Kind::Never, "Error: too many recipients"),
        };
        Some(reply)
    }

    /// What became of a whole package.
    pub fn outcome(outcome: Outcome) -> Reply {
        match outcome {
            Outcome::Queued(id) => Reply { kind: Kind::Queued, text: Cow::Owned(format!("Ok: queued as {id}")) },
            Outcome::Refused(refusal) => Reply::refusal(&refusal),
        }
    }

    fn refusal(refusal: &Refusal) -> Reply {
        match refusal {
            Refusal::TooLarge => Reply::new(Kind::Never, "Error: message too large"),
            Refusal::TooManyHops => Reply::new(Kind::Never, "Error: too many hops"),
            Refusal::NoRoom => Reply::new(Kind::Later, "Error: no room for the message now"),
            Refusal::NoRecipients => Reply::NO_RECIPIENTS,
            Refusal::Recipient(verdict) => Reply::verdict(verdict).unwrap_or(Reply::TROUBLE),
            Refusal::Filtered => Reply::new(Kind::Never, "Error: message refused by the filter here"),
            Refusal::Trouble => Reply::TROUBLE,
        }
    }

    /// The same, but "later" where it was "never" (soft_bounce).
    pub fn softened(self) -> Reply {
        match self.kind {
            Kind::Never => Reply { kind: Kind::Later, ..self },
            Kind::Queued | Kind::Later => self,
        }
    }

    /// The octets to send.
    pub fn octets(&self) -> Vec<u8> {
        let mut octets = Vec::new();
        // A write into memory does not fail.
        let _ = octets.write_netstring(format!("{}{}", self.kind, self.text));
        octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(reply: &Reply) -> String {
        String::from_utf8(reply.octets()).expect("ASCII")
    }

    #[test]
    fn a_queued_message_is_k_and_its_id() {
        assert_eq!(sent(&Reply::outcome(Outcome::Queued("4xyz".to_owned()))), "19:KOk: queued as 4xyz,");
    }

    #[test]
    fn what_may_be_better_later_is_z_and_all_else_d() {
        let kind = |refusal| Reply::outcome(Outcome::Refused(refusal)).kind;
        assert_eq!(kind(Refusal::NoRoom), Kind::Later);
        assert_eq!(kind(Refusal::Trouble), Kind::Later);
        for never in [Refusal::TooLarge, Refusal::TooManyHops, Refusal::NoRecipients, Refusal::Filtered] {
            assert_eq!(kind(never), Kind::Never);
        }
        assert_eq!(Reply::verdict(&Verdict::Accepted), None);
        assert_eq!(Reply::verdict(&Verdict::CannotTell).map(|reply| reply.kind), Some(Kind::Later));
        assert_eq!(Reply::verdict(&Verdict::BadAddress).map(|reply| reply.kind), Some(Kind::Never));
    }

    #[test]
    fn a_fault_says_what_was_going_on() {
        let reply = Reply::fault(Fault::Format, "receiving sender address");
        assert_eq!(sent(&reply), "54:Dnetstring format error while receiving sender address,");
    }

    #[test]
    fn soft_bounce_turns_d_into_z_and_nothing_else() {
        assert_eq!(sent(&Reply::NOT_AUTHORIZED.softened()).as_bytes()[3], b'Z');
        assert_eq!(Reply::TROUBLE.softened(), Reply::TROUBLE);
        let queued = Reply::outcome(Outcome::Queued("4xyz".to_owned()));
        assert_eq!(queued.clone().softened(), queued);
    }
}
