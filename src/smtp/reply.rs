//! Every reply there is, and faults, verdicts, outcomes and our own trouble to replies (RFC 5321 section 4.2, RFC 3463).
//!
//! No text of the client comes back in a reply, except an address that VRFY or EXPN found, and nothing of ours that an
//! attacker could use: the log has the cause.

use super::command::{Fault, Which};
use crate::message::path::{self, Address};
use crate::submit::{Outcome, Refusal, Verdict};
use std::borrow::Cow;

/// Class, subject and detail of an enhanced status code (RFC 3463 section 2): `[5, 7, 1]` is 5.7.1. No text, for that would be
/// one more address in each reply, and the loader has to write those down anew in each process.
pub type Status = [u8; 3];

/// One reply, of one or more lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// The enhanced status code (RFC 2034); none in greeting, EHLO, 354.
    pub status: Option<Status>,
    /// Printable ASCII, lines separated by LF.
    pub text: Cow<'static, str>,
}

const fn fixed(code: u16, status: Status, text: &'static str) -> Reply {
    Reply { code, status: Some(status), text: Cow::Borrowed(text) }
}

impl Reply {
    /// RSET and NOOP.
    pub const OK: Reply = fixed(250, [2, 0, 0], "Ok");
    /// The reverse-path is taken.
    pub const SENDER: Reply = fixed(250, [2, 1, 0], "Ok");
    /// The recipient is taken.
    pub const RECIPIENT: Reply = fixed(250, [2, 1, 5], "Ok");
    /// VRFY: mail for it would be taken, and goes elsewhere (RFC 5321 section 3.5.3).
    pub const CANNOT_VERIFY: Reply = fixed(252, [2, 0, 0], "Cannot verify that here, but mail for it is taken");
    /// DATA: go on.
    pub const START: Reply =
        Reply { code: 354, status: None, text: Cow::Borrowed("End the message with <CR><LF>.<CR><LF>") };
    /// QUIT.
    pub const GOODBYE: Reply = fixed(221, [2, 0, 0], "Goodbye");
    /// To whoever speaks HTTP, TLS or a message at us.
    pub const STRANGER: Reply = fixed(221, [2, 7, 0], "This is SMTP, and you are not speaking it. Goodbye");
    /// STARTTLS: the handshake may begin (RFC 3207 section 4).
    pub const START_TLS: Reply = fixed(220, [2, 0, 0], "Begin TLS now");
    /// STARTTLS when certificate or key cannot be used.
    pub const NO_TLS: Reply = fixed(454, [4, 7, 0], "TLS cannot be used now");
    /// STARTTLS under TLS.
    pub const UNDER_TLS: Reply = fixed(503, [5, 5, 1], "This is TLS already");
    /// SEND, TURN and others.
    pub const NOT_IMPLEMENTED: Reply = fixed(502, [5, 5, 1], "That command is not implemented here");
    /// BDAT whose size cannot be read: what follows might be commands or not; the connection is closed.
    pub const UNREADABLE_BDAT: Reply = fixed(501, [5, 5, 4], "Expected BDAT size [LAST], closing the connection");
    /// EHLO or HELO where LMTP is spoken (RFC 2033 section 4.1).
    pub const LHLO_FIRST: Reply = fixed(500, [5, 5, 1], "This is LMTP, say LHLO");
    /// AUTH: it is who it says.
    pub const LOGGED_IN: Reply = fixed(235, [2, 7, 0], "Logged in");
    /// AUTH: it is not, and nothing tells whether there is such a user.
    pub const WRONG_LOGIN: Reply = fixed(535, [5, 7, 8], "Name or password is wrong");
    /// AUTH: nobody can say now.
    pub const LOGIN_NOT_CHECKED: Reply = fixed(454, [4, 7, 0], "That cannot be checked now, try again later");
    /// AUTH: `*` instead of a response (RFC 4954 section 4).
    pub const LOGIN_CANCELLED: Reply = fixed(501, [5, 7, 0], "Login cancelled");
    /// AUTH: a response that is no base64, or does not follow the mechanism.
    pub const MALFORMED_RESPONSE: Reply = fixed(501, [5, 5, 2], "The response does not follow the mechanism");
    /// AUTH: a response longer than any may be.
    pub const RESPONSE_TOO_LONG: Reply = fixed(500, [5, 5, 6], "The response is too long");
    /// AUTH with a mechanism that is not offered.
    pub const UNKNOWN_MECHANISM: Reply = fixed(504, [5, 5, 4], "That mechanism is not offered");
    /// A second AUTH.
    pub const LOGGED_IN_ALREADY: Reply = fixed(503, [5, 5, 1], "You have logged in already");
    /// AUTH in a message (RFC 4954 section 4).
    pub const AUTH_IN_MESSAGE: Reply = fixed(503, [5, 5, 1], "A message is begun already");
    /// MAIL where only users may send.
    pub const LOGIN_FIRST: Reply = fixed(530, [5, 7, 0], "Log in first");
    /// The same where that cannot be before TLS.
    pub const TLS_FIRST: Reply = fixed(530, [5, 7, 0], "Begin TLS first");
    /// MAIL with a reverse-path that is another's.
    pub const NOT_YOUR_ADDRESS: Reply = fixed(553, [5, 7, 1], "That sender address is not yours");
    /// The same of the From field.
    pub const NOT_YOUR_FROM: Reply = fixed(550, [5, 7, 1], "The address in the From field is not yours");
    /// More of them than anybody has.
    pub const TOO_MANY_SENDERS: Reply = fixed(550, [5, 6, 0], "Too many addresses in fields that say who sends");
    /// A header without From field, or with one that cannot be read, or with several.
    pub const BAD_FROM: Reply = fixed(550, [5, 6, 0], "Expected one From field with mail addresses");
    /// The same for Sender (RFC 5322 section 3.6.2) and for Resent-From and Resent-Sender (section 3.6.6).
    pub const NOT_YOUR_SENDER: Reply = fixed(550, [5, 7, 1], "The address in the Sender field is not yours");
    /// See [`Reply::NOT_YOUR_SENDER`].
    pub const NOT_YOUR_RESENT: Reply = fixed(550, [5, 7, 1], "The address in a Resent field is not yours");
    /// Sender where it counts whose it is, and cannot be read, or there are several.
    pub const BAD_SENDER: Reply = fixed(550, [5, 6, 0], "Expected one Sender field with one mail address");
    /// The same for Resent-From and Resent-Sender.
    pub const BAD_RESENT: Reply =
        fixed(550, [5, 6, 0], "Expected mail addresses in Resent-From, and one in Resent-Sender");
    /// A header that ends elsewhere for readers who take CR or LF alone for a line end.
    pub const BARE_LINE_END_IN_HEADER: Reply = fixed(550, [5, 6, 0], "<CR> or <LF> alone in the header");
    /// Whose a sender address is cannot be told now.
    pub const CANNOT_TELL_SENDER: Reply = fixed(451, [4, 3, 0], "Cannot check that sender now, try again later");
    /// RET, ENVID, NOTIFY or ORCPT where EHLO does not list DSN; Postfix has the same words.
    pub const NO_DSN: Reply = fixed(501, [5, 7, 1], "DSN support is disabled");
    /// REQUIRETLS without TLS (RFC 8689 section 4).
    pub const REQUIRETLS_NEEDS_TLS: Reply = fixed(530, [5, 7, 10], "REQUIRETLS needs TLS");
    /// MAIL where no more messages are taken; the connection is closed.
    pub const TOO_MANY_MESSAGES: Reply = fixed(421, [4, 7, 0], "Enough messages for one session, connect again");
    /// DATA or RCPT behind BDAT.
    pub const BDAT_HAS_BEGUN: Reply = fixed(503, [5, 5, 1], "BDAT has begun, and only BDAT or RSET may follow");
    /// DATA for BODY=BINARYMIME (RFC 3030 section 3).
    pub const BINARY_NEEDS_BDAT: Reply = fixed(503, [5, 5, 1], "BINARYMIME needs BDAT");
    /// A CR or LF alone in a chunk, all of which has been read.
    pub const BARE_LINE_END_IN_CHUNK: Reply = fixed(550, [5, 6, 11], "<CR> or <LF> alone in the message");
    /// XCLIENT of who may not.
    pub const NO_XCLIENT: Reply = fixed(550, [5, 7, 0], "You may not speak for others");
    /// XCLIENT in a message.
    pub const XCLIENT_IN_MESSAGE: Reply = fixed(503, [5, 5, 1], "A message is begun already");
    /// MAIL with a SIZE there is no room for, or without any room at all.
    pub const NO_ROOM: Reply = fixed(452, [4, 3, 1], "No room for the message now, try again later");
    /// A client without a name that leads back to it.
    pub const NO_CLIENT_NAME: Reply = fixed(450, [4, 7, 25], "Your address has no name that leads back to it");
    /// The same cannot be told now.
    pub const CANNOT_TELL_NAME: Reply = fixed(450, [4, 7, 1], "The name of your address cannot be found now");
    /// A list refuses the client, and whether another exempts it cannot be told now.
    pub const CANNOT_TELL_CLIENT: Reply = fixed(450, [4, 7, 1], "Cannot tell now who you are, try again later");
    /// RCPT or DATA without MAIL.
    pub const MAIL_FIRST: Reply = fixed(503, [5, 5, 1], "MAIL first");
    /// A second MAIL.
    pub const NESTED_MAIL: Reply = fixed(503, [5, 5, 1], "A message is begun already");
    /// DATA without RCPT.
    pub const RCPT_FIRST: Reply = fixed(503, [5, 5, 1], "RCPT first");
    /// DATA after nothing but refused recipients.
    pub const NO_RECIPIENTS: Reply = fixed(554, [5, 5, 1], "No recipient was taken");
    /// More recipients than a message may have.
    pub const TOO_MANY_RECIPIENTS: Reply = fixed(452, [4, 5, 3], "Too many recipients, send again to the others");
    /// A message, or what SIZE says of it, is too large.
    pub const TOO_LARGE: Reply = fixed(552, [5, 3, 4], "The message is larger than what is taken here");
    /// A submitted message whose header does not end.
    pub const HEADER_TOO_LARGE: Reply = fixed(552, [5, 3, 4], "The header is larger than what is taken here");
    /// A line over line_length_limit.
    pub const LINE_TOO_LONG: Reply = fixed(500, [5, 5, 2], "The line is too long");
    /// A CR or LF alone in a command; the connection is closed.
    pub const BARE_LINE_END: Reply =
        fixed(500, [5, 5, 2], "A line ends with <CR><LF> and nothing else, closing the connection");
    /// A CR or LF alone in a message; the connection is closed.
    pub const BARE_LINE_END_IN_MESSAGE: Reply =
        fixed(550, [5, 6, 11], "<CR> or <LF> alone in the message, closing the connection");
    /// The client sent more than it may before it had the reply; the connection is closed.
    pub const EARLY: Reply = fixed(554, [5, 5, 0], "You did not wait for the reply, closing the connection");
    /// Our own trouble, whatever it is.
    pub const TROUBLE: Reply = fixed(451, [4, 3, 0], "Trouble here, try again later");
    /// We cannot go on at all; the connection is closed.
    pub const CLOSING: Reply = fixed(421, [4, 3, 0], "Trouble here, closing the connection, try again later");
    /// More connections than there may be; the connection is closed before a word is said.
    pub const TOO_MANY_CONNECTIONS: Reply = fixed(421, [4, 3, 2], "Too many connections, try again later");
    /// The client took too long; the connection is closed.
    pub const TIMED_OUT: Reply = fixed(421, [4, 4, 2], "Timed out, closing the connection");
    /// The client made too many mistakes; the connection is closed.
    pub const TOO_MANY_ERRORS: Reply = fixed(421, [4, 7, 0], "Too many errors, closing the connection");
    /// Whether and how the client may send mail cannot be told now.
    pub const CANNOT_TELL_CHANNEL: Reply = fixed(451, [4, 4, 3], "Cannot tell now who you are, try again later");
    /// The same before the greeting (finicky); the connection is closed.
    pub const CANNOT_TELL_YET: Reply = fixed(421, [4, 4, 3], "Cannot tell now who you are, try again later");
    /// A client that no channel lists (finicky); the connection is closed.
    pub const NOT_LISTED: Reply = fixed(421, [4, 7, 1], "Your host is not listed here, closing the connection");
    /// The same at MAIL, where there is no channel at all.
    pub const NO_CHANNEL: Reply = fixed(550, [5, 7, 1], "Your host may not send mail here");

    /// The first line of a session.
    pub fn greeting(hostname: &str, lmtp: bool) -> Reply {
        let protocol = if lmtp { "LMTP" } else { "ESMTP" };
        Reply { code: 220, status: None, text: Cow::Owned([hostname, protocol, "doorpost"].join(" ")) }
    }

    /// AUTH: what the mechanism says to the client, in base64.
    pub fn challenge(octets: &[u8]) -> Reply {
        Reply { code: 334, status: None, text: Cow::Owned(crate::sasl::encode(octets)) }
    }

    /// BDAT: a chunk is taken, and more may come.
    pub fn chunk(size: u64) -> Reply {
        Reply { code: 250, status: Some([2, 0, 0]), text: Cow::Owned(format!("{size} octets taken")) }
    }

    /// A client whose address is in a list of those nobody wants mail from.
    pub fn blocked(list: &str) -> Reply {
        let text = format!("Your address is blocked, see {list}");
        Reply { code: 554, status: Some([5, 7, 1]), text: Cow::Owned(text) }
    }

    /// HELO.
    pub fn hello(hostname: &str) -> Reply {
        Reply { code: 250, status: None, text: Cow::Owned(hostname.to_owned()) }
    }

    /// VRFY: there is such a mailbox here. An address that fits into no line of a reply (RFC 5321 section 4.5.3.1.5), or
    /// that only UTF-8 can write, is not said.
    pub fn mailbox(address: &Address) -> Reply {
        const MOST: usize = 512 - "250 2.1.5 \r\n".len();
        let text = format!("<{address}>");
        if text.len() > MOST || !text.is_ascii() {
            return Reply::CANNOT_VERIFY;
        }
        Reply { code: 250, status: Some([2, 1, 5]), text: Cow::Owned(text) }
    }

    /// A line that is no command.
    pub fn fault(fault: Fault) -> Reply {
        match fault {
            Fault::Empty => fixed(500, [5, 5, 2], "A command was expected"),
            Fault::Controls => fixed(500, [5, 5, 2], "There are control characters in the command"),
            Fault::Unknown => fixed(500, [5, 5, 1], "That command is not known"),
            Fault::NoArgument => fixed(501, [5, 5, 4], "An argument is missing"),
            Fault::NeedlessArgument => fixed(501, [5, 5, 4], "The command takes no argument"),
            Fault::BadArgument => fixed(501, [5, 5, 4], "The argument is not right"),
            Fault::Path(which, fault) => Reply::path(which, fault),
            Fault::UnknownParameter => fixed(555, [5, 5, 4], "That parameter is not known"),
            Fault::BadParameter => fixed(501, [5, 5, 4], "That parameter is not right"),
        }
    }

    fn path(which: Which, fault: path::Fault) -> Reply {
        match (fault, which) {
            (path::Fault::NotAscii, _) => fixed(553, [5, 6, 7], "That address needs SMTPUTF8, which was not asked for"),
            (path::Fault::NotUtf8, _) => fixed(553, [5, 6, 7], "The address is neither ASCII nor UTF-8"),
            (path::Fault::TooLong, Which::Reverse) => fixed(501, [5, 1, 7], "The address is too long"),
            (path::Fault::TooLong, Which::Forward) => fixed(501, [5, 1, 3], "The address is too long"),
            (path::Fault::Syntax, Which::Reverse) => fixed(501, [5, 1, 7], "Expected <local-part@domain> or <>"),
            (path::Fault::Syntax, Which::Forward) => fixed(501, [5, 1, 3], "Expected <local-part@domain>"),
        }
    }

    /// RCPT: may this recipient?
    pub fn verdict(verdict: Verdict) -> Reply {
        match verdict {
            Verdict::Accepted => Reply::RECIPIENT,
            Verdict::UnknownUser => fixed(550, [5, 1, 1], "No such user here"),
            Verdict::UnknownHost => fixed(550, [5, 1, 2], "No way to that domain from here"),
            Verdict::NotAllowed => fixed(550, [5, 7, 1], "You may not send mail there through this host"),
            Verdict::BadAddress => fixed(501, [5, 1, 3], "That address cannot be used"),
            Verdict::Closed => fixed(550, [5, 3, 2], "No mail is taken for that domain"),
            Verdict::ClosedNow => fixed(450, [4, 3, 2], "No mail is taken for that domain now, try again later"),
            Verdict::CannotTell => fixed(451, [4, 4, 3], "Cannot check that address now, try again later"),
            Verdict::TooMany => Reply::TOO_MANY_RECIPIENTS,
        }
    }

    /// The end of DATA: what became of the message.
    pub fn outcome(outcome: &Outcome) -> Reply {
        match outcome {
            Outcome::Queued(id) => {
                Reply { code: 250, status: Some([2, 0, 0]), text: Cow::Owned(format!("Ok: queued as {id}")) }
            }
            Outcome::Refused(Refusal::TooLarge) => Reply::TOO_LARGE,
            Outcome::Refused(Refusal::TooManyHops) => fixed(554, [5, 4, 6], "Too many hops, the message is in a loop"),
            Outcome::Refused(Refusal::NoRoom) => Reply::NO_ROOM,
            Outcome::Refused(Refusal::NoRecipients) => Reply::NO_RECIPIENTS,
            Outcome::Refused(Refusal::Recipient(verdict)) => Reply::verdict(*verdict),
            Outcome::Refused(Refusal::Filtered) => fixed(554, [5, 7, 1], "Message refused by the filter here"),
            Outcome::Refused(Refusal::Trouble) => Reply::TROUBLE,
        }
    }

    /// Whether it tells of a mistake of the client, to be counted. Our own trouble (subject 3, but for the size of a
    /// message) is none, nor are recipients beyond the limit, which RFC 5321 section 4.5.3.1.10 asks clients to risk.
    pub fn is_mistake(&self) -> bool {
        match self.code {
            500.. => true,
            400.. => !matches!(self.status, Some([4, 3, 0 | 1] | [4, 5, 3])),
            _ => false,
        }
    }

    /// Appends the octets to send. `soft_bounce` makes every "never" a "later".
    pub fn put(&self, out: &mut Vec<u8>, soft_bounce: bool) {
        let softened = soft_bounce && self.code >= 500;
        let code = if softened { self.code - 100 } else { self.code };
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            put_number(out, code);
            out.push(if lines.peek().is_some() { b'-' } else { b' ' });
            // Its class is the first digit of the code, also of a softened one.
            if let Some([_, subject, detail]) = self.status {
                for (number, behind) in [(code / 100, b'.'), (subject.into(), b'.'), (detail.into(), b' ')] {
                    put_number(out, number);
                    out.push(behind);
                }
            }
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn put_number(out: &mut Vec<u8>, number: u16) {
    if number > 9 {
        put_number(out, number / 10);
    }
    out.push(b'0' + (number % 10) as u8);
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
        let reply = Reply { code: 250, status: None, text: "a\nb\nc".into() };
        assert_eq!(sent(&reply, false), "250-a\r\n250-b\r\n250 c\r\n");
        let reply = Reply { code: 214, status: Some([2, 0, 0]), text: "a\nb".into() };
        assert_eq!(sent(&reply, false), "214-2.0.0 a\r\n214 2.0.0 b\r\n");
    }

    #[test]
    fn the_enhanced_code_agrees_with_the_code() {
        for reply in every_reply() {
            let class = reply.code / 100;
            assert!(reply.status.is_none_or(|status| u16::from(status[0]) == class), "{reply:?}");
            assert!(reply.status.is_some() || [220, 250, 334, 354].contains(&reply.code), "{reply:?}");
            for line in sent(&reply, false).split_terminator("\r\n") {
                assert!(line.len() <= 510 && line.bytes().all(|octet| matches!(octet, b' '..=b'~')), "{line:?}");
            }
        }
    }

    /// Found by fuzzing: VRFY repeated an address of any length. 512 octets with CR LF: RFC 5321 section 4.5.3.1.5.
    #[test]
    fn an_address_that_vrfy_cannot_say_in_512_octets_is_not_said() {
        let length = |octets: usize| {
            let address = [&vec![b'x'; octets], b"@mx.example".as_slice()].concat();
            sent(&Reply::mailbox(&Address::from_internal(&address).unwrap()), false)
        };
        let fits = 512 - "250 2.1.5 <@mx.example>\r\n".len();
        assert_eq!(length(fits).len(), 512);
        assert_eq!(length(fits + 1), sent(&Reply::CANNOT_VERIFY, false));
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
            R::NOT_IMPLEMENTED,
            R::UNREADABLE_BDAT,
            R::LHLO_FIRST,
            R::LOGGED_IN,
            R::WRONG_LOGIN,
            R::LOGIN_NOT_CHECKED,
            R::LOGIN_CANCELLED,
            R::MALFORMED_RESPONSE,
            R::RESPONSE_TOO_LONG,
            R::UNKNOWN_MECHANISM,
            R::LOGGED_IN_ALREADY,
            R::AUTH_IN_MESSAGE,
            R::LOGIN_FIRST,
            R::TLS_FIRST,
            R::NOT_YOUR_ADDRESS,
            R::NOT_YOUR_FROM,
            R::TOO_MANY_SENDERS,
            R::BAD_FROM,
            R::NOT_YOUR_SENDER,
            R::NOT_YOUR_RESENT,
            R::BAD_SENDER,
            R::BAD_RESENT,
            R::BARE_LINE_END_IN_HEADER,
            R::CANNOT_TELL_SENDER,
            R::NO_DSN,
            R::REQUIRETLS_NEEDS_TLS,
            R::TOO_MANY_MESSAGES,
            R::BDAT_HAS_BEGUN,
            R::BINARY_NEEDS_BDAT,
            R::BARE_LINE_END_IN_CHUNK,
            R::NO_XCLIENT,
            R::XCLIENT_IN_MESSAGE,
            R::NO_ROOM,
            R::NO_CLIENT_NAME,
            R::CANNOT_TELL_NAME,
            R::CANNOT_TELL_CLIENT,
            R::MAIL_FIRST,
            R::NESTED_MAIL,
            R::RCPT_FIRST,
            R::NO_RECIPIENTS,
            R::TOO_MANY_RECIPIENTS,
            R::TOO_LARGE,
            R::HEADER_TOO_LARGE,
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
        all.push(R::greeting("mx.example", false));
        all.push(R::challenge(b"?"));
        all.push(R::chunk(u64::MAX));
        all.push(R::blocked("zen.example"));
        all.push(R::hello("mx.example"));
        all.push(R::mailbox(&Address::from_internal(b"b o@mx.example").unwrap()));
        for which in [Which::Reverse, Which::Forward] {
            for fault in [path::Fault::Syntax, path::Fault::TooLong, path::Fault::NotAscii, path::Fault::NotUtf8] {
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
        all.push(R::outcome(&Outcome::Refused(Refusal::Filtered)));
        all.extend(refusals.map(|refusal| R::outcome(&Outcome::Refused(refusal))));
        all.push(R::outcome(&Outcome::Queued("4xyz".to_owned())));
        all
    }
}
