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

fn fixed(code: u16, status: Status, text: &'static str) -> Reply {
    Reply { code, status: Some(status), text: Cow::Borrowed(text) }
}

/// Replies whose words never change: functions and not constants, for each constant would hold an address, which the loader
/// has to write down anew in each process.
macro_rules! replies {
    ($($(#[$doc:meta])* $name:ident = $code:literal $status:tt $text:literal;)*) => {
        impl Reply {$(
            $(#[$doc])*
            pub fn $name() -> Reply {
                fixed($code, $status, $text)
            }
        )*}
    };
}

replies! {
    /// RSET and NOOP.
    ok = 250 [2, 0, 0] "Ok";
    /// The reverse-path is taken.
    sender = 250 [2, 1, 0] "Ok";
    /// The recipient is taken.
    recipient = 250 [2, 1, 5] "Ok";
    /// VRFY: mail for it would be taken, and goes elsewhere (RFC 5321 section 3.5.3).
    cannot_verify = 252 [2, 0, 0] "Cannot verify that here, but mail for it is taken";
    /// QUIT.
    goodbye = 221 [2, 0, 0] "Goodbye";
    /// To whoever speaks HTTP, TLS or a message at us.
    stranger = 221 [2, 7, 0] "This is SMTP, and you are not speaking it. Goodbye";
    /// STARTTLS: the handshake may begin (RFC 3207 section 4).
    start_tls = 220 [2, 0, 0] "Begin TLS now";
    /// STARTTLS when certificate or key cannot be used.
    no_tls = 454 [4, 7, 0] "TLS cannot be used now";
    /// STARTTLS under TLS.
    under_tls = 503 [5, 5, 1] "This is TLS already";
    /// SEND, TURN and others.
    not_implemented = 502 [5, 5, 1] "That command is not implemented here";
    /// BDAT whose size cannot be read: what follows might be commands or not; the connection is closed.
    unreadable_bdat = 501 [5, 5, 4] "Expected BDAT size [LAST], closing the connection";
    /// EHLO or HELO where LMTP is spoken (RFC 2033 section 4.1).
    lhlo_first = 500 [5, 5, 1] "This is LMTP, say LHLO";
    /// AUTH: it is who it says.
    logged_in = 235 [2, 7, 0] "Logged in";
    /// AUTH: it is not, and nothing tells whether there is such a user.
    wrong_login = 535 [5, 7, 8] "Name or password is wrong";
    /// AUTH: nobody can say now.
    login_not_checked = 454 [4, 7, 0] "That cannot be checked now, try again later";
    /// AUTH: `*` instead of a response (RFC 4954 section 4).
    login_cancelled = 501 [5, 7, 0] "Login cancelled";
    /// AUTH: a response that is no base64, or does not follow the mechanism.
    malformed_response = 501 [5, 5, 2] "The response does not follow the mechanism";
    /// AUTH: a response longer than any may be.
    response_too_long = 500 [5, 5, 6] "The response is too long";
    /// AUTH with a mechanism that is not offered.
    unknown_mechanism = 504 [5, 5, 4] "That mechanism is not offered";
    /// A second AUTH.
    logged_in_already = 503 [5, 5, 1] "You have logged in already";
    /// AUTH in a message (RFC 4954 section 4).
    auth_in_message = 503 [5, 5, 1] "A message is begun already";
    /// MAIL where only users may send.
    login_first = 530 [5, 7, 0] "Log in first";
    /// The same where that cannot be before TLS.
    tls_first = 530 [5, 7, 0] "Begin TLS first";
    /// MAIL with a reverse-path that is another's.
    not_your_address = 553 [5, 7, 1] "That sender address is not yours";
    /// The same of the From field.
    not_your_from = 550 [5, 7, 1] "The address in the From field is not yours";
    /// More of them than anybody has.
    too_many_senders = 550 [5, 6, 0] "Too many addresses in fields that say who sends";
    /// A header without From field, or with one that cannot be read, or with several.
    bad_from = 550 [5, 6, 0] "Expected one From field with mail addresses";
    /// The same for Sender (RFC 5322 section 3.6.2) and for Resent-From and Resent-Sender (section 3.6.6).
    not_your_sender = 550 [5, 7, 1] "The address in the Sender field is not yours";
    /// See [`Reply::not_your_sender`].
    not_your_resent = 550 [5, 7, 1] "The address in a Resent field is not yours";
    /// Sender where it counts whose it is, and cannot be read, or there are several.
    bad_sender = 550 [5, 6, 0] "Expected one Sender field with one mail address";
    /// The same for Resent-From and Resent-Sender.
    bad_resent = 550 [5, 6, 0] "Expected mail addresses in Resent-From, and one in Resent-Sender";
    /// A header that ends elsewhere for readers who take CR or LF alone for a line end.
    bare_line_end_in_header = 550 [5, 6, 0] "<CR> or <LF> alone in the header";
    /// Whose a sender address is cannot be told now.
    cannot_tell_sender = 451 [4, 3, 0] "Cannot check that sender now, try again later";
    /// RET, ENVID, NOTIFY or ORCPT where EHLO does not list DSN; Postfix has the same words.
    no_dsn = 501 [5, 7, 1] "DSN support is disabled";
    /// REQUIRETLS without TLS (RFC 8689 section 4).
    requiretls_needs_tls = 530 [5, 7, 10] "REQUIRETLS needs TLS";
    /// MAIL where no more messages are taken; the connection is closed.
    too_many_messages = 421 [4, 7, 0] "Enough messages for one session, connect again";
    /// DATA or RCPT behind BDAT.
    bdat_has_begun = 503 [5, 5, 1] "BDAT has begun, and only BDAT or RSET may follow";
    /// DATA for BODY=BINARYMIME (RFC 3030 section 3).
    binary_needs_bdat = 503 [5, 5, 1] "BINARYMIME needs BDAT";
    /// A CR or LF alone in a chunk, all of which has been read.
    bare_line_end_in_chunk = 550 [5, 6, 11] "<CR> or <LF> alone in the message";
    /// XCLIENT of who may not.
    no_xclient = 550 [5, 7, 0] "You may not speak for others";
    /// XCLIENT in a message.
    xclient_in_message = 503 [5, 5, 1] "A message is begun already";
    /// MAIL with a SIZE there is no room for, or without any room at all.
    no_room = 452 [4, 3, 1] "No room for the message now, try again later";
    /// A client without a name that leads back to it.
    no_client_name = 450 [4, 7, 25] "Your address has no name that leads back to it";
    /// The same cannot be told now.
    cannot_tell_name = 450 [4, 7, 1] "The name of your address cannot be found now";
    /// A list refuses the client, and whether another exempts it cannot be told now.
    cannot_tell_client = 450 [4, 7, 1] "Cannot tell now who you are, try again later";
    /// RCPT or DATA without MAIL.
    mail_first = 503 [5, 5, 1] "MAIL first";
    /// A second MAIL.
    nested_mail = 503 [5, 5, 1] "A message is begun already";
    /// DATA without RCPT.
    rcpt_first = 503 [5, 5, 1] "RCPT first";
    /// DATA after nothing but refused recipients.
    no_recipients = 554 [5, 5, 1] "No recipient was taken";
    /// More recipients than a message may have.
    too_many_recipients = 452 [4, 5, 3] "Too many recipients, send again to the others";
    /// A message, or what SIZE says of it, is too large.
    too_large = 552 [5, 3, 4] "The message is larger than what is taken here";
    /// A submitted message whose header does not end.
    header_too_large = 552 [5, 3, 4] "The header is larger than what is taken here";
    /// A line over line_length_limit.
    line_too_long = 500 [5, 5, 2] "The line is too long";
    /// A CR or LF alone in a command; the connection is closed.
    bare_line_end = 500 [5, 5, 2] "A line ends with <CR><LF> and nothing else, closing the connection";
    /// A CR or LF alone in a message; the connection is closed.
    bare_line_end_in_message = 550 [5, 6, 11] "<CR> or <LF> alone in the message, closing the connection";
    /// The client sent more than it may before it had the reply; the connection is closed.
    early = 554 [5, 5, 0] "You did not wait for the reply, closing the connection";
    /// Our own trouble, whatever it is.
    trouble = 451 [4, 3, 0] "Trouble here, try again later";
    /// We cannot go on at all; the connection is closed.
    closing = 421 [4, 3, 0] "Trouble here, closing the connection, try again later";
    /// More connections than there may be; the connection is closed before a word is said.
    too_many_connections = 421 [4, 3, 2] "Too many connections, try again later";
    /// The client took too long; the connection is closed.
    timed_out = 421 [4, 4, 2] "Timed out, closing the connection";
    /// The client made too many mistakes; the connection is closed.
    too_many_errors = 421 [4, 7, 0] "Too many errors, closing the connection";
    /// Whether and how the client may send mail cannot be told now.
    cannot_tell_channel = 451 [4, 4, 3] "Cannot tell now who you are, try again later";
    /// The same before the greeting (finicky); the connection is closed.
    cannot_tell_yet = 421 [4, 4, 3] "Cannot tell now who you are, try again later";
    /// A client that no channel lists (finicky); the connection is closed.
    not_listed = 421 [4, 7, 1] "Your host is not listed here, closing the connection";
    /// The same at MAIL, where there is no channel at all.
    no_channel = 550 [5, 7, 1] "Your host may not send mail here";
}

impl Reply {
    /// DATA: go on.
    pub fn start() -> Reply {
        Reply { code: 354, status: None, text: Cow::Borrowed("End the message with <CR><LF>.<CR><LF>") }
    }

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
            return Reply::cannot_verify();
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
    pub fn verdict(verdict: &Verdict) -> Reply {
        match verdict {
            Verdict::Accepted => Reply::recipient(),
            Verdict::UnknownUser => fixed(550, [5, 1, 1], "No such user here"),
            Verdict::UnknownHost => fixed(550, [5, 1, 2], "No way to that domain from here"),
            Verdict::NotAllowed => fixed(550, [5, 7, 1], "You may not send mail there through this host"),
            Verdict::BadAddress => fixed(501, [5, 1, 3], "That address cannot be used"),
            Verdict::Closed(closed) => {
                let (status, words) = closed.parts();
                let (code, usual) = match closed.is_for_now() {
                    true => (450, "No mail is taken for that domain now, try again later"),
                    false => (550, "No mail is taken for that domain"),
                };
                let words = if words.is_empty() { usual } else { words };
                Reply { code, status: Some(status), text: Cow::Owned(words.to_owned()) }
            }
            Verdict::CannotTell => fixed(451, [4, 4, 3], "Cannot check that address now, try again later"),
            Verdict::TooMany => Reply::too_many_recipients(),
        }
    }

    /// The end of DATA: what became of the message.
    pub fn outcome(outcome: &Outcome) -> Reply {
        match outcome {
            Outcome::Queued(id) => {
                Reply { code: 250, status: Some([2, 0, 0]), text: Cow::Owned(format!("Ok: queued as {id}")) }
            }
            Outcome::Refused(Refusal::TooLarge) => Reply::too_large(),
            Outcome::Refused(Refusal::TooManyHops) => fixed(554, [5, 4, 6], "Too many hops, the message is in a loop"),
            Outcome::Refused(Refusal::NoRoom) => Reply::no_room(),
            Outcome::Refused(Refusal::NoRecipients) => Reply::no_recipients(),
            Outcome::Refused(Refusal::Recipient(verdict)) => Reply::verdict(verdict),
            Outcome::Refused(Refusal::Filtered) => fixed(554, [5, 7, 1], "Message refused by the filter here"),
            Outcome::Refused(Refusal::Trouble) => Reply::trouble(),
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
    use crate::submit::closed::Closed;

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
        assert_eq!(length(fits + 1), sent(&Reply::cannot_verify(), false));
    }

    #[test]
    fn soft_bounce_makes_every_never_a_later() {
        assert_eq!(sent(&Reply::verdict(&Verdict::UnknownUser), true), "450 4.1.1 No such user here\r\n");
        for reply in every_reply() {
            assert!(!sent(&reply, true).starts_with('5'), "{reply:?}");
            assert_eq!(sent(&reply, true) == sent(&reply, false), reply.code < 500, "{reply:?}");
        }
    }

    #[test]
    fn our_own_trouble_is_no_mistake_of_the_client() {
        assert!(Reply::fault(Fault::Unknown).is_mistake() && Reply::too_large().is_mistake());
        assert!(Reply::verdict(&Verdict::CannotTell).is_mistake());
        for reply in
            [Reply::trouble(), Reply::too_many_recipients(), Reply::outcome(&Outcome::Refused(Refusal::NoRoom))]
        {
            assert!(!reply.is_mistake(), "{reply:?}");
        }
    }

    fn every_reply() -> Vec<Reply> {
        use Reply as R;
        let mut all = vec![
            R::ok(),
            R::sender(),
            R::recipient(),
            R::cannot_verify(),
            R::start(),
            R::goodbye(),
            R::stranger(),
            R::not_implemented(),
            R::unreadable_bdat(),
            R::lhlo_first(),
            R::logged_in(),
            R::wrong_login(),
            R::login_not_checked(),
            R::login_cancelled(),
            R::malformed_response(),
            R::response_too_long(),
            R::unknown_mechanism(),
            R::logged_in_already(),
            R::auth_in_message(),
            R::login_first(),
            R::tls_first(),
            R::not_your_address(),
            R::not_your_from(),
            R::too_many_senders(),
            R::bad_from(),
            R::not_your_sender(),
            R::not_your_resent(),
            R::bad_sender(),
            R::bad_resent(),
            R::bare_line_end_in_header(),
            R::cannot_tell_sender(),
            R::no_dsn(),
            R::requiretls_needs_tls(),
            R::too_many_messages(),
            R::bdat_has_begun(),
            R::binary_needs_bdat(),
            R::bare_line_end_in_chunk(),
            R::no_xclient(),
            R::xclient_in_message(),
            R::no_room(),
            R::no_client_name(),
            R::cannot_tell_name(),
            R::cannot_tell_client(),
            R::mail_first(),
            R::nested_mail(),
            R::rcpt_first(),
            R::no_recipients(),
            R::too_many_recipients(),
            R::too_large(),
            R::header_too_large(),
            R::line_too_long(),
            R::bare_line_end(),
            R::bare_line_end_in_message(),
            R::trouble(),
            R::closing(),
            R::timed_out(),
            R::too_many_errors(),
            R::cannot_tell_channel(),
            R::cannot_tell_yet(),
            R::not_listed(),
            R::no_channel(),
            R::early(),
            R::start_tls(),
            R::no_tls(),
            R::under_tls(),
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
        all.extend(verdicts.each_ref().map(R::verdict));
        let closed = ["", "gone", "4.3.2", "5.1.2 gone \u{fc}", "5.255.255 x"].map(Closed::new);
        all.extend(closed.map(Verdict::Closed).each_ref().map(R::verdict));
        let refusals =
            [Refusal::TooLarge, Refusal::TooManyHops, Refusal::NoRoom, Refusal::NoRecipients, Refusal::Trouble];
        all.push(R::outcome(&Outcome::Refused(Refusal::Filtered)));
        all.extend(refusals.map(|refusal| R::outcome(&Outcome::Refused(refusal))));
        all.push(R::outcome(&Outcome::Queued("4xyz".to_owned())));
        all
    }
}
