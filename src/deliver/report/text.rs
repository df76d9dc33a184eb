//! The words and fields of a return message; no I/O.

use super::{DISCARDED, EXPANDED, Kind, RELAYED, Told, shown};
use crate::clock::field_date;
use crate::config::Config;
use crate::message::path::{self, Address};
use crate::queue::{Id, Message};
use std::net::IpAddr;
use std::time::SystemTime;

/// The words in front of a message that comes with a report, and of a header.
pub(super) const WHOLE_FOLLOWS: &str = "What was sent follows below.";
pub(super) const HEADER_FOLLOWS: &str = "The header of what was sent follows below.";

/// A return message in the making.
pub(super) struct Report<'a> {
    config: &'a Config,
    message: &'a Message,
    kind: Kind,
    told: &'a [Told],
    id: Id,
    boundary: String,
    /// It names an address that is not ASCII (RFC 6533).
    pub is_global: bool,
    /// It is to arrive rather than to be hidden, as the message was (RFC 8689 section 3).
    pub is_for_any_eyes: bool,
    /// All of the original comes with it, not only the header.
    pub is_whole: bool,
}

impl<'a> Report<'a> {
    pub fn new(config: &'a Config, message: &'a Message, kind: Kind, told: &'a [Told], id: Id) -> Self {
        // At most 70 characters (RFC 2046 section 5.1.1), and nobody knows it who wrote what is returned.
        let boundary = id.to_string();
        let is_global = told.iter().any(|one| utf8(&one.address).is_some());
        Report { config, message, kind, told, id, boundary, is_global, is_for_any_eyes: false, is_whole: false }
    }

    /// All before the original, which is ASCII or not.
    pub fn head(&self, to: &Address, is_ascii: bool) -> String {
        let host = &self.config.myhostname;
        // RFC 2045 section 6.4: what has a part of 8bit is 8bit.
        let is_8bit = self.is_global || !is_ascii;
        let subject = match self.kind {
            Kind::Failure => "Your message could not be delivered",
            Kind::Delay => "Your message is not delivered yet",
            Kind::Success => "Your message was delivered",
            Kind::Double => "A message could neither be delivered nor returned",
        };
        format!(
            "From: \"Mail delivery at {host}\" <MAILER-DAEMON@{host}>\nTo: <{}>\nSubject: {subject}\n\
             Date: {}\nMessage-ID: <{}@{host}>\nAuto-Submitted: auto-replied\n{}MIME-Version: 1.0\n{}\
             Content-Type: multipart/report; report-type={};\n\tboundary=\"{}\"\n\n\
             This is a delivery report in MIME format.\n\n{}{}",
            self.address(to),
            field_date(SystemTime::now()),
            self.id,
            if self.is_for_any_eyes { "TLS-Required: No\n" } else { "" },
            if is_8bit { "Content-Transfer-Encoding: 8bit\n" } else { "" },
            if self.is_global { "global-delivery-status" } else { "delivery-status" },
            self.boundary,
            self.text(),
            self.status(),
        )
    }

    /// The head of the last part, in which the original or its header comes.
    pub fn part_of_the_original(&self, is_ascii: bool) -> String {
        let is_global = self.is_global || (self.message.parameters.smtputf8 && !is_ascii);
        let kind = match (self.is_whole, is_global) {
            (true, false) => "message/rfc822",
            (true, true) => "message/global",
            (false, false) => "text/rfc822-headers",
            (false, true) => "message/global-headers",
        };
        let encoding = if is_ascii { "7bit" } else { "8bit" };
        format!("--{}\nContent-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n", self.boundary)
    }

    /// What closes the last part.
    pub fn end(&self) -> String {
        format!("\n--{}--\n", self.boundary)
    }

    fn text(&self) -> String {
        let charset = if self.is_global { "utf-8" } else { "us-ascii" };
        let encoding = if self.is_global { "Content-Transfer-Encoding: 8bit\n" } else { "" };
        let what = match self.kind {
            Kind::Failure => "Your message could not be delivered to:",
            Kind::Delay => "Your message could not be delivered yet to:",
            Kind::Success => "Your message was delivered, or handed on, to:",
            Kind::Double => "A message that came from nobody, and so cannot be returned, could not be delivered to:",
        };
        let mut text = format!(
            "--{}\nContent-Type: text/plain; charset={charset}\n{encoding}\nThis is the mail system at {}. {what}\n\n",
            self.boundary, self.config.myhostname
        );
        for one in self.told {
            text.push_str(&format!("  <{}>\n    {}\n", self.address(&one.address), self.reason(one)));
        }
        let what = if self.is_whole { WHOLE_FOLLOWS } else { HEADER_FOLLOWS };
        text.push_str(&match self.kind {
            Kind::Failure => format!("\nIt will not be tried again. {what}\n\n"),
            Kind::Delay => format!(
                "\nIt is tried again, until {}. You need not send it again.\n\n",
                self.until().map_or_else(|| "it arrives".to_owned(), field_date)
            ),
            Kind::Success => format!("\n{what}\n\n"),
            Kind::Double => format!("\nNobody else is told. {what}\n\n"),
        });
        text
    }

    fn status(&self) -> String {
        let kind = if self.is_global { "message/global-delivery-status" } else { "message/delivery-status" };
        let encoding = if self.is_global { "Content-Transfer-Encoding: 8bit\n" } else { "" };
        let mut text = format!("--{}\nContent-Type: {kind}\n{encoding}\n", self.boundary);
        if let Some(envid) = &self.message.parameters.envid {
            let envid = crate::logging::clean(&envid.decoded(), 400);
            text.push_str(&format!("Original-Envelope-Id: {envid}\n"));
        }
        text.push_str(&format!(
            "Reporting-MTA: dns; {}\nArrival-Date: {}\nX-Doorpost-Queue-Id: {}\n",
            self.config.myhostname,
            field_date(self.message.created),
            self.message.id
        ));
        for one in self.told {
            text.push('\n');
            if let Some(orcpt) = &one.parameters.orcpt {
                let (kind, address) = orcpt.decoded();
                let address = match kind.eq_ignore_ascii_case("utf-8") {
                    true if self.is_global => in_utf8(&address),
                    true => in_ascii(&address),
                    false => crate::logging::clean(address.as_bytes(), 800),
                };
                text.push_str(&format!("Original-Recipient: {kind}; {address}\n"));
            }
            let kind = if utf8(&one.address).is_some() { "utf-8" } else { "rfc822" };
            let (action, status) = self.action(one);
            text.push_str(&format!(
                "Final-Recipient: {kind}; {}\nAction: {action}\nStatus: {status}\n",
                self.address(&one.address)
            ));
            if let Some(host) = host(&one.report) {
                text.push_str(&format!("Remote-MTA: dns; {}\n", mta(host)));
            }
            match said(&one.report) {
                Some((_, Some(reply))) => text.push_str(&format!("Diagnostic-Code: smtp; {reply}\n")),
                _ if self.kind == Kind::Success => {}
                _ => text.push_str(&format!("Diagnostic-Code: x-doorpost; {}\n", parts(&one.report).1)),
            }
            if let (Kind::Delay, Some(until)) = (self.kind, self.until()) {
                text.push_str(&format!("Will-Retry-Until: {}\n", field_date(until)));
            }
        }
        text.push('\n');
        text
    }

    fn action(&self, one: &Told) -> (&'static str, String) {
        let (status, _) = parts(&one.report);
        let status = |class: char, general: &str| match status {
            Some(status) if status.starts_with(class) => status.to_owned(),
            _ => general.to_owned(),
        };
        match self.kind {
            Kind::Failure | Kind::Double => ("failed", status('5', "5.0.0")),
            Kind::Delay => ("delayed", status('4', "4.0.0")),
            Kind::Success if one.report.starts_with(RELAYED) => ("relayed", "2.0.0".to_owned()),
            Kind::Success if one.report.starts_with(EXPANDED) => ("expanded", "2.0.0".to_owned()),
            Kind::Success => ("delivered", "2.0.0".to_owned()),
        }
    }

    fn reason<'b>(&self, one: &'b Told) -> &'b str {
        match self.kind {
            Kind::Success if one.report.starts_with(RELAYED) => "is with another mail system, which tells no more",
            Kind::Success if one.report.starts_with(EXPANDED) => "stands for others, to whom it goes on",
            Kind::Success if one.report.ends_with(DISCARDED) => "was discarded, as mail for this address is",
            Kind::Success => "was delivered",
            Kind::Failure | Kind::Delay | Kind::Double => &one.report,
        }
    }

    fn address(&self, address: &Address) -> String {
        utf8(address).unwrap_or_else(|| shown(address))
    }

    fn until(&self) -> Option<SystemTime> {
        self.message.created.checked_add(self.config.maximal_queue_lifetime.0)
    }
}

/// An address that is not ASCII and can stand in a field in UTF-8; nothing otherwise.
fn utf8(address: &Address) -> Option<String> {
    let text = std::str::from_utf8(address.as_bytes()).ok().filter(|text| !text.is_ascii())?;
    let fits = !text.chars().any(|letter| letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}'));
    // With its quoting it may be twice as long.
    fits.then(|| address.to_string()).filter(|shown| shown.len() <= 900)
}

/// An address of the type `utf-8` for a report that is ASCII (RFC 6533 section 3, `utf-8-addr-xtext`).
fn in_ascii(address: &str) -> String {
    let mut text = String::new();
    for letter in address.chars() {
        if text.len() > 800 {
            text.push_str("...");
            break;
        }
        match letter {
            '!'..='~' => text.push(letter),
            _ => text.push_str(&format!("\\x{{{:X}}}", u32::from(letter))),
        }
    }
    text
}

/// An address of the type `utf-8` for a report in UTF-8 (RFC 6533 section 3, `utf-8-addr-unitext`); as it is where that is
/// none.
fn in_utf8(address: &str) -> String {
    let mut parts = address.split("\\x{");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_once('}').unwrap_or_default();
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        match u32::from_str_radix(digits, 16).ok().filter(|_| is_hex).and_then(char::from_u32) {
            Some(letter) => text.extend([letter].into_iter().chain(rest.chars())),
            None => return address.to_owned(),
        }
    }
    match path::parse_mailbox(text.as_bytes()).ok().and_then(|parsed| utf8(&parsed)) {
        Some(_) => text,
        None => address.to_owned(),
    }
}

/// The enhanced status code the report begins with, and the text behind it.
fn parts(report: &str) -> (Option<&str>, &str) {
    match report.split_once(' ') {
        Some((status, text)) if is_status(status) => (Some(status), text),
        _ => (None, report),
    }
}

/// The host that a report quotes (`HOST said: ...`), and its reply if that is one of SMTP or LMTP, without the command
/// that it answered.
fn said(report: &str) -> Option<(&str, Option<&str>)> {
    let (before, text) = report.split_once(" said: ").filter(|_| !is_of_program(report))?;
    let host = before.rsplit(' ').next().filter(|host| !host.is_empty())?;
    let reply = text.rsplit_once(" (to ").map_or(text, |(reply, _)| reply);
    let is_code = |code: &str| code.len() == 3 && code.bytes().all(|octet| octet.is_ascii_digit());
    let is_smtp = reply.split([' ', '-']).next().is_some_and(is_code);
    Some((host, is_smtp.then_some(reply)))
}

/// The host that a report names: one that answered, one that did not (`Trouble::report`, `relay/qmqp.rs`), or one that lacks
/// what is needed.
fn host(report: &str) -> Option<&str> {
    let between = |before: &str, after: &str| report.split_once(before)?.1.split_once(after).map(|(host, _)| host);
    let lacks = || report.strip_suffix(')').filter(|report| report.contains("the next hop"))?.rsplit_once(" (");
    let found = said(report)
        .map(|(host, _)| host)
        .or_else(|| between("4.4.2 lost the connection to ", " at "))
        .or_else(|| between("4.4.2 the connection to ", " was lost"))
        .or_else(|| between("4.4.2 ", " took too long "))
        .or_else(|| between("4.5.0 ", " answered "))
        .or_else(|| between("4.5.0 ", " said something else "))
        .or_else(|| lacks().map(|(_, host)| host));
    found.filter(|host| !host.contains(' ') && !is_of_program(report))
}

/// Whether it quotes a program of this machine (`Appended::outcome`, `piped.rs`), which may speak as another host would.
fn is_of_program(report: &str) -> bool {
    let before = report.split_once(" said: ").map_or(report, |(before, _)| before);
    ["the program for this address", "the program of this channel", "qmail-queue "].iter().any(|of| before.contains(of))
}

/// A host as RFC 3464 section 2.3.5 names it: an address stands in brackets.
fn mta(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => format!("[{address}]"),
        Ok(IpAddr::V6(address)) => format!("[IPv6:{address}]"),
        Err(_) => host.to_owned(),
    }
}

fn is_status(text: &str) -> bool {
    let number = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|octet| octet.is_ascii_digit());
    let mut parts = text.split('.');
    matches!(parts.next(), Some("2" | "4" | "5"))
        && parts.next().is_some_and(number)
        && parts.next().is_some_and(number)
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::Outcome;
    use crate::deliver::appended::Appended;
    use crate::smtp::client::{Lost, Stage, Trouble};

    #[test]
    fn a_report_is_taken_apart_into_status_and_text() {
        assert_eq!(parts("5.1.1 no such user"), (Some("5.1.1"), "no such user"));
        assert_eq!(parts("4.1.100 x"), (Some("4.1.100"), "x"));
        for odd in ["no such user", "3.1.1 x", "5.1 x", "5.1.1.1 x", "5..1 x", "5.1.1234 x", "5.1.a x", ""] {
            assert_eq!(parts(odd), (None, odd));
        }
    }

    #[test]
    fn a_program_that_speaks_as_a_host_is_none() {
        for words in
            ["mx.b said: 550 5.1.1 no (to RCPT)", "4.4.2 lost the connection to mx.b at MAIL", "the next hop (mx.b)"]
        {
            for before in [
                "5.7.0 permission denied, says the program for this address",
                "5.4.7 given up after 5 days: 4.3.0 the program of this channel ended with status 75",
                "5.3.0 qmail-queue refused it with status 31",
            ] {
                let report = crate::program::with_words(before, words);
                assert_eq!((said(&report), host(&report)), (None, None), "{report}");
            }
            for program in [Appended::ProgramTemporary, Appended::ProgramFailed, Appended::ProgramNever(1)] {
                let (Outcome::Deferred(report) | Outcome::Failed(report)) = program.outcome_with("", words) else {
                    panic!("{program:?}")
                };
                assert!(report.ends_with(words) && host(&report).is_none(), "{report}");
            }
        }
        assert_eq!(host("5.1.1 mx.b said: 550 the program for this address is gone"), Some("mx.b"));
    }

    #[test]
    fn the_host_and_its_reply_are_found_in_a_report() {
        for (report, expected) in [
            ("5.1.1 mx.b said: 550 5.1.1 no (to RCPT)", Some(("mx.b", Some("550 5.1.1 no")))),
            ("5.4.7 given up after 5 days: 4.2.1 ::1 said: 450 busy (to RC...", Some(("::1", Some("450 busy")))),
            ("relayed: mx.b said: 250 2.0.0 ok", Some(("mx.b", Some("250 2.0.0 ok")))),
            ("5.0.0 mx.b said: no such user", Some(("mx.b", None))),
            ("5.1.1 no such user", None),
        ] {
            assert_eq!(said(report), expected, "{report}");
        }
        let lost = |lost| Trouble::Lost(lost, Stage::Rcpt).report("mx.b");
        for report in [
            "5.1.1 mx.b said: 550 5.1.1 no (to RCPT)".to_owned(),
            lost(Lost::HungUp),
            lost(Lost::TimedOut),
            format!("5.4.7 given up after 5 days: {}", lost(Lost::Nonsense)),
            Trouble::Cannot("5.3.4 the message is larger than the next hop takes").report("mx.b"),
            "4.4.2 the connection to mx.b was lost".to_owned(),
            "4.4.2 mx.b took too long to answer".to_owned(),
            "4.5.0 mx.b said something else than an answer".to_owned(),
        ] {
            assert_eq!(host(&report), Some("mx.b"), "{report}");
        }
        for report in
            ["5.1.1 no such user here (mx.b)", "4.4.1 no connection to the QMQP server", "5.3.0 it answered x y"]
        {
            assert_eq!(host(report), None, "{report}");
        }
        assert_eq!(["192.0.2.1", "::1", "mx.b"].map(mta), ["[192.0.2.1]", "[IPv6:::1]", "mx.b"]);
    }

    #[test]
    fn only_whole_utf_8_without_controls_is_shown_as_it_is() {
        let address = |octets: &[u8]| Address::from_internal(octets).unwrap();
        assert!(utf8(&address("jos\u{e9}@mx.example".as_bytes())).is_some_and(|text| text.contains("jos\u{e9}")));
        assert_eq!(utf8(&address(b"bob@mx.example")), None);
        assert_eq!(utf8(&address(b"b\xffb@mx.example")), None);
        assert_eq!(utf8(&address("b\u{85}\u{e9}@mx.example".as_bytes())), None);
        // No line is longer than 998 octets as it is printed.
        assert_eq!(utf8(&address(format!("{}\u{e9}@mx.example", "\"".repeat(450)).as_bytes())), None);
    }

    #[test]
    fn an_address_of_utf_8_is_told_in_ascii() {
        assert_eq!(in_ascii("jos\u{e9}\u{4e2d}+\\x{20}@b.example"), "jos\\x{E9}\\x{4E2D}+\\x{20}@b.example");
        assert!(in_ascii(&"\u{e9}".repeat(250)).len() < 900);
    }

    /// RFC 6533 sections 3 and 4.1.
    #[test]
    fn an_address_of_utf_8_is_told_as_it_is_written_where_it_is_one() {
        assert_eq!(in_utf8("jos\\x{E9}\\x{2B}\\x{4e2d}\u{fc}@b.example"), "jos\u{e9}+\u{4e2d}\u{fc}@b.example");
        for kept in [
            "jos\\x{E9@b",
            "jos\\x{+E9}@b",
            "jos\\x{}@b",
            "x\\x{D800}@b",
            "x\\x{A}@b",
            "x\\x{85}@b",
            "x\\x{20}y@b",
            "\u{e9}",
            "\\x{E9}",
        ] {
            assert_eq!(in_utf8(kept), kept);
        }
    }
}
