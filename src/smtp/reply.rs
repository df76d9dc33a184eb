//! Every reply there is, and faults, verdicts, outcomes and our own trouble to replies (RFC 5321 section 4.2, RFC 3463).
//!
//! No text of the client comes back in a reply, except an address that VRFY found, and nothing of ours that an
//! attacker could use: the log has the cause.

use super::command::{Fault, Which};
use crate::message::path::{self, Address};
use crate::submit::{Outcome, Refusal, Verdict};
use std::borrow::Cow;

/// One reply, of one or more lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// The enhanced status code (RFC 2034); empty where there is none: greeting, EHLO, 354.
    pub status: &'static str,
    /// Printable ASCII, lines separated by LF.
    pub text: Cow<'static, str>,
}

const fn fixed(code: u16, status: &'static str, text: &'static str) -> Reply {
    Reply { code, status, text: Cow::Borrowed(text) }
}

impl Reply {
    /// RSET and NOOP.
    pub const OK: Reply = fixed(250, "2.0.0", "Ok");
    /// The reverse-path is taken.
    pub const SENDER: Reply = fixed(250, "2.1.0", "Ok");
    /// The recipient is taken.
    pub const RECIPIENT: Reply = fixed(250, "2.1.5", "Ok");
    /// VRFY: mail for it would be taken, and goes elsewhere (RFC 5321 section 3.5.3).
    pub const CANNOT_VERIFY: Reply = fixed(252, "2.0.0", "Cannot verify that here, but mail for it is taken");
    /// DATA: go on.
    pub const START: Reply = fixed(354, "", "End the message with <CR><LF>.<CR><LF>");
    /// QUIT.
    pub const GOODBYE: Reply = fixed(221, "2.0.0", "Goodbye");
    /// To whoever speaks HTTP, TLS or a message at us.
    pub const STRANGER: Reply = fixed(221, "2.7.0", "This is SMTP, and you are not speaking it. Goodbye");
    /// HELP.
    pub const HELP: Reply = fixed(
        214,
        "2.0.0",
        "Commands: EHLO HELO MAIL RCPT DATA RSET VRFY HELP NOOP QUIT\nMAIL takes SIZE= and BODY=7BIT or 8BITMIME\n\
         RFC 5321 says the rest",
    );
    /// STARTTLS: the handshake may begin (RFC 3207 section 4).
    pub const START_TLS: Reply = fixed(220, "2.0.0", "Begin TLS now");
    /// STARTTLS when certificate or key cannot be used.
    pub const NO_TLS: Reply = fixed(454, "4.7.0", "TLS cannot be used now");
    /// STARTTLS under TLS.
    pub const UNDER_TLS: Reply = fixed(503, "5.5.1", "This is TLS already");
    /// SEND, TURN and others.
    pub const NOT_IMPLEMENTED: Reply = fixed(502, "5.5.1", "That command is not implemented here");
    /// BDAT; the connection is closed.
    pub const NO_BDAT: Reply = fixed(502, "5.5.1", "CHUNKING was not offered, closing the connection");
    /// RCPT or DATA without MAIL.
    pub const MAIL_FIRST: Reply = fixed(503, "5.5.1", "MAIL first");
    /// A second MAIL.
    pub const NESTED_MAIL: Reply = fixed(503, "5.5.1", "A message is begun already");
    /// DATA without RCPT.
    pub const RCPT_FIRST: Reply = fixed(503, "5.5.1", "RCPT first");
    /// DATA after nothing but refused recipients.
    pub const NO_RECIPIENTS: Reply = fixed(554, "5.5.1", "No recipient was taken");
    /// More recipients than a message may have.
    pub const TOO_MANY_RECIPIENTS: Reply = fixed(452, "4.5.3", "Too many recipients, send again to the others");
    /// A message, or what SIZE says of it, is too large.
    pub const TOO_LARGE: Reply = fixed(552, "5.3.4", "The message is larger than what is taken here");
    /// A line over line_length_limit.
    pub const LINE_TOO_LONG: Reply = fixed(500, "5.5.2", "The line is too long");
    /// A CR or LF alone in a command; the connection is closed.
    pub const BARE_LINE_END: Reply =
        fixed(500, "5.5.2", "A line ends with <CR><LF> and nothing else, closing the connection");
    /// A CR or LF alone in a message; the connection is closed.
    pub const BARE_LINE_END_IN_MESSAGE: Reply =
        fixed(550, "5.6.11", "<CR> or <LF> alone in the message, closing the connection");
    /// The client sent more than it may before it had the reply; the connection is closed.
    pub const EARLY: Reply = fixed(554, "5.5.0", "You did not wait for the reply, closing the connection");
    /// Our own trouble, whatever it is.
    pub const TROUBLE: Reply = fixed(451, "4.3.0", "Trouble here, try again later");
    /// We cannot go on at all; the connection is closed.
    pub const CLOSING: Reply = fixed(421, "4.3.0", "Trouble here, closing the connection, try again later");
    /// More connections than there may be; the connection is closed before a word is said.
    pub const TOO_MANY_CONNECTIONS: Reply = fixed(421, "4.3.2", "Too many connections, try again later");
    /// The client took too long; the connection is closed.
    pub const TIMED_OUT: Reply = fixed(421, "4.4.2", "Timed out, closing the connection");
    /// The client made too many mistakes; the connection is closed.
    pub const TOO_MANY_ERRORS: Reply = fixed(421, "4.7.0", "Too many errors, closing the connection");
    /// Whether and how the client may send mail cannot be told now.
    pub const CANNOT_TELL_CHANNEL: Reply = fixed(451, "4.4.3", "Cannot tell now who you are, try again later");
    /// The same before the greeting (finicky); the connection is closed.
    pub const CANNOT_TELL_YET: Reply = fixed(421, "4.4.3", "Cannot tell now who you are, try again later");
    /// A client that no channel lists (finicky); the connection is closed.
    pub const NOT_LISTED: Reply = fixed(421, "4.7.1", "Your host is not listed here, closing the connection");
    /// The same at MAIL, where there is no channel at all.
    pub const NO_CHANNEL: Reply = fixed(550, "5.7.1", "Your host may not send mail here");

    /// The first line of a session.
    pub fn greeting(hostname: &str) -> Reply {
        Reply { code: 220, status: "", text: Cow::Owned(format!("{hostname} ESMTP doorpost")) }
    }

    /// HELO.
    pub fn hello(hostname: &str) -> Reply {
        Reply { code: 250, status: "", text: Cow::Owned(hostname.to_owned()) }
    }

    /// EHLO: what there is. A SIZE of 0 is no limit (RFC 1870 section 4).
    pub fn extensions(hostname: &str, message_size_limit: u64, with_tls: bool) -> Reply {
        let tls = if with_tls { "STARTTLS\n" } else { "" };
        let text = format!(
            "{hostname}\nPIPELINING\nSIZE {message_size_limit}\nVRFY\n{tls}8BITMIME\nENHANCEDSTATUSCODES\nHELP"
        );
        Reply { code: 250, status: "", text: Cow::Owned(text) }
    }

    /// VRFY: there is such a mailbox here.
    pub fn mailbox(address: &Address) -> Reply {
        Reply { code: 250, status: "2.1.5", text: Cow::Owned(format!("<{address}>")) }
    }

    /// A line that is no command.
    pub fn fault(fault: Fault) -> Reply {
        match fault {
            Fault::Empty => fixed(500, "5.5.2", "A command was expected"),
            Fault::Controls => fixed(500, "5.5.2", "There are control characters in the command"),
            Fault::Unknown => fixed(500, "5.5.1", "That command is not known"),
            Fault::NoArgument => fixed(501, "5.5.4", "An argument is missing"),
            Fault::NeedlessArgument => fixed(501, "5.5.4", "The command takes no argument"),
            Fault::BadArgument => fixed(501, "5.5.4", "The argument is not right"),
            Fault::Path(which, fault) => Reply::path(which, fault),
            Fault::UnknownParameter => fixed(555, "5.5.4", "That parameter is not known"),
            Fault::BadParameter => fixed(501, "5.5.4", "That parameter is not right"),
        }
    }

    fn path(which: Which, fault: path::Fault) -> Reply {
        match (fault, which) {
            (path::Fault::NotAscii, _) => fixed(553, "5.6.7", "SMTPUTF8 is not spoken here, addresses must be ASCII"),
            (path::Fault::TooLong, Which::Reverse) => fixed(501, "5.1.7", "The address is too long"),
            (path::Fault::TooLong, Which::Forward) => fixed(501, "5.1.3", "The address is too long"),
            (path::Fault::Syntax, Which::Reverse) => fixed(501, "5.1.7", "Expected <local-part@domain> or <>"),
            (path::Fault::Syntax, Which::Forward) => fixed(501, "5.1.3", "Expected <local-part@domain>"),
        }
    }

    /// RCPT: may this recipient?
    pub fn verdict(verdict: Verdict) -> Reply {
        match verdict {
            Verdict::Accepted => Reply::RECIPIENT,
            Verdict::UnknownUser => fixed(550, "5.1.1", "No such user here"),
            Verdict::UnknownHost => fixed(550, "5.1.2", "No way to that domain from here"),
            Verdict::NotAllowed => fixed(550, "5.7.1", "You may not send mail there through this host"),
            Verdict::BadAddress => fixed(501, "5.1.3", "That address cannot be used"),
            Verdict::CannotTell => fixed(451, "4.4.3", "Cannot check that address now, try again later"),
            Verdict::TooMany => Reply::TOO_MANY_RECIPIENTS,
        }
    }

    /// The end of DATA: what became of the message.
    pub fn outcome(outcome: &Outcome) -> Reply {
        match outcome {
            Outcome::Queued(id) => {
                Reply { code: 250, status: "2.0.0", text: Cow::Owned(format!("Ok: queued as {id}")) }
            }
            Outcome::Refused(Refusal::TooLarge) => Reply::TOO_LARGE,
            Outcome::Refused(Refusal::TooManyHops) => fixed(554, "5.4.6", "Too many hops, the message is in a loop"),
            Outcome::Refused(Refusal::NoRoom) => fixed(452, "4.3.1", "No room for the message now, try again later"),
            Outcome::Refused(Refusal::NoRecipients) => Reply::NO_RECIPIENTS,
            Outcome::Refused(Refusal::Trouble) => Reply::TROUBLE,
        }
    }

    /// Whether it tells of a mistake of the client, to be counted. Our own trouble (subject 3, but for the size of a
    /// message) is none, nor are recipients beyond the limit, which RFC 5321 section 4.5.3.1.10 asks clients to risk.
    pub fn is_mistake(&self) -> bool {
        match self.code {
            500.. => true,
            400.. => !matches!(self.status, "4.3.0" | "4.3.1" | "4.5.3"),
            _ => false,
        }
    }

    /// Appends the octets to send. `soft_bounce` makes every "never" a "later".
    pub fn put(&self, out: &mut Vec<u8>, soft_bounce: bool) {
        let softened = soft_bounce && self.code >= 500;
        let code = if softened { self.code - 100 } else { self.code };
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            let separator = if lines.peek().is_some() { '-' } else { ' ' };
            out.extend_from_slice(format!("{code}{separator}").as_bytes());
            if !self.status.is_empty() {
                let class = if softened { "4" } else { &self.status[..1] };
                out.extend_from_slice(format!("{class}{} ", &self.status[1..]).as_bytes());
            }
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(reply: &Reply, soft_bounce: bool) -> String {
        let mut out = Vec::new();
        reply.put(&mut out, soft_bounce);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_line_but_the_last_has_a_hyphen() {
        assert_eq!(
            sent(&Reply::extensions("mx.example", 5, false), false),
            "250-mx.example\r\n250-PIPELINING\r\n250-SIZE 5\r\n250-VRFY\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n\
             250 HELP\r\n"
        );
        let help = sent(&Reply::HELP, false);
        assert!(help.starts_with("214-2.0.0 ") && help.lines().last().unwrap().starts_with("214 2.0.0 "), "{help}");
    }

    #[test]
    fn the_enhanced_code_agrees_with_the_code() {
        for reply in every_reply() {
            let class = reply.code / 100;
            assert!(reply.status.is_empty() || reply.status.starts_with(&class.to_string()), "{reply:?}");
            assert!(!reply.status.is_empty() || [220, 250, 354].contains(&reply.code), "{reply:?}");
            for line in sent(&reply, false).split_terminator("\r\n") {
                assert!(line.len() <= 510 && line.bytes().all(|octet| matches!(octet, b' '..=b'~')), "{line:?}");
            }
        }
    }

    #[test]
    fn soft_bounce_makes_every_never_a_later() {
        assert_eq!(sent(&Reply::verdict(Verdict::UnknownUser), true), "450 4.1.1 No such user here\r\n");
        for reply in every_reply() {
            assert!(!sent(&reply, true).starts_with('5'), "{reply:?}");
            assert_eq!(sent(&reply, true) == sent(&reply, false), reply.code < 500, "{reply:?}");
        }
    }

    #[test]
    fn our_own_trouble_is_no_mistake_of_the_client() {
        assert!(Reply::fault(Fault::Unknown).is_mistake() && Reply::TOO_LARGE.is_mistake());
        assert!(Reply::verdict(Verdict::CannotTell).is_mistake());
        for reply in [Reply::TROUBLE, Reply::TOO_MANY_RECIPIENTS, Reply::outcome(&Outcome::Refused(Refusal::NoRoom))] {
            assert!(!reply.is_mistake(), "{reply:?}");
        }
    }

    fn every_reply() -> Vec<Reply> {
        use Reply as R;
        let mut all = vec![
            R::OK,
            R::SENDER,
            R::RECIPIENT,
            R::CANNOT_VERIFY,
            R::START,
            R::GOODBYE,
            R::STRANGER,
            R::HELP,
            R::NOT_IMPLEMENTED,
            R::NO_BDAT,
            R::MAIL_FIRST,
            R::NESTED_MAIL,
            R::RCPT_FIRST,
            R::NO_RECIPIENTS,
            R::TOO_MANY_RECIPIENTS,
            R::TOO_LARGE,
            R::LINE_TOO_LONG,
            R::BARE_LINE_END,
            R::BARE_LINE_END_IN_MESSAGE,
            R::TROUBLE,
            R::CLOSING,
            R::TIMED_OUT,
            R::TOO_MANY_ERRORS,
            R::CANNOT_TELL_CHANNEL,
            R::CANNOT_TELL_YET,
            R::NOT_LISTED,
            R::NO_CHANNEL,
            R::EARLY,
            R::START_TLS,
            R::NO_TLS,
            R::UNDER_TLS,
        ];
        all.push(R::greeting("mx.example"));
        all.push(R::hello("mx.example"));
        all.push(R::extensions("mx.example", 0, true));
        all.push(R::mailbox(&Address::from_internal(b"b o@mx.example").unwrap()));
        for which in [Which::Reverse, Which::Forward] {
            for fault in [path::Fault::Syntax, path::Fault::TooLong, path::Fault::NotAscii] {
                all.push(R::fault(Fault::Path(which, fault)));
            }
        }
        let faults = [
            Fault::Empty,
            Fault::Controls,
            Fault::Unknown,
            Fault::NoArgument,
            Fault::NeedlessArgument,
            Fault::BadArgument,
            Fault::UnknownParameter,
            Fault::BadParameter,
        ];
        all.extend(faults.map(R::fault));
        let verdicts =
            [Verdict::UnknownUser, Verdict::UnknownHost, Verdict::NotAllowed, Verdict::BadAddress, Verdict::CannotTell];
        all.extend(verdicts.map(R::verdict));
        let refusals =
            [Refusal::TooLarge, Refusal::TooManyHops, Refusal::NoRoom, Refusal::NoRecipients, Refusal::Trouble];
        all.extend(refusals.map(|refusal| R::outcome(&Outcome::Refused(refusal))));
        all.push(R::outcome(&Outcome::Queued("4xyz".to_owned())));
        all
    }
}
