//! What EHLO lists and HELP names. Only what works is in here, from MAIL to the last hop.

use super::reply::Reply;
use super::session::{Dialect, Tls};
use crate::sasl::Offered;
use std::borrow::Cow;

/// What there is, at one moment of a session.
#[derive(Debug)]
pub struct Extensions<'a> {
    /// What is spoken.
    pub dialect: Dialect,
    /// Largest message, in octets; 0: no limit.
    pub message_size_limit: u64,
    /// Recipients of a message that there surely may be.
    pub recipient_limit: u32,
    /// Most messages of a session; 0: no limit.
    pub transaction_limit: u32,
    /// TLS.
    pub tls: Tls,
    /// By what mechanisms the client can log in now.
    pub mechanisms: Offered,
    /// Whether there are VRFY and EXPN.
    pub vrfy: bool,
    /// Whether XCLIENT is for this client.
    pub xclient: bool,
    /// Keywords that are not listed.
    pub discarded: &'a [String],
}

impl Extensions<'_> {
    /// The keywords with their arguments.
    pub fn keywords(&self) -> Vec<String> {
        let mut list = vec!["PIPELINING".to_owned(), format!("SIZE {}", self.message_size_limit)];
        let mut add = |wanted: bool, line: &str| list.extend(wanted.then(|| line.to_owned()));
        add(self.vrfy, "VRFY");
        // RFC 5321 section 3.5.2: it must be listed where it is there.
        add(self.vrfy, "EXPN");
        add(self.tls == Tls::Offered, "STARTTLS");
        let mechanisms = self.mechanisms.names();
        add(!mechanisms.is_empty(), &format!("AUTH {mechanisms}"));
        add(true, "ENHANCEDSTATUSCODES");
        add(true, "8BITMIME");
        add(true, "DSN");
        add(true, "SMTPUTF8");
        add(true, "CHUNKING");
        add(true, "BINARYMIME");
        // RFC 8689 section 2: not before the way to us is safe.
        add(self.tls == Tls::On, "REQUIRETLS");
        let most =
            if self.transaction_limit > 0 { format!(" MAILMAX={}", self.transaction_limit) } else { String::new() };
        add(true, &format!("LIMITS RCPTMAX={}{most}", self.recipient_limit));
        add(self.xclient, "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT");
        add(true, "HELP");
        list.retain(|line| {
            let keyword = line.split(' ').next().unwrap_or_default();
            // RFC 3030 section 3: BINARYMIME comes with CHUNKING or not at all.
            !(self.discards(keyword) || keyword == "BINARYMIME" && self.discards("CHUNKING"))
        });
        list
    }

    fn discards(&self, keyword: &str) -> bool {
        self.discarded.iter().any(|word| word.eq_ignore_ascii_case(keyword))
    }

    /// The reply to EHLO or LHLO.
    pub fn reply(&self, hostname: &str) -> Reply {
        let lines: Vec<String> = [hostname.to_owned()].into_iter().chain(self.keywords()).collect();
        Reply { code: 250, status: "", text: Cow::Owned(lines.join("\n")) }
    }

    /// The reply to HELP.
    pub fn help(&self) -> Reply {
        let hello = if self.dialect == Dialect::Lmtp { "LHLO" } else { "EHLO HELO" };
        let bdat = if self.discards("CHUNKING") { "" } else { " BDAT" };
        let vrfy = if self.vrfy { " VRFY EXPN" } else { "" };
        let mut commands = format!("{hello} MAIL RCPT DATA{bdat} RSET{vrfy} HELP NOOP QUIT");
        for (wanted, command) in [
            (self.tls == Tls::Offered && !self.discards("STARTTLS"), " STARTTLS"),
            (!self.mechanisms.names().is_empty(), " AUTH"),
            (self.xclient, " XCLIENT"),
        ] {
            commands.push_str(if wanted { command } else { "" });
        }
        let parameters = |keyword, words| if self.discards(keyword) { "" } else { words };
        let (of_mail, of_rcpt) = (parameters("DSN", " RET= ENVID="), parameters("DSN", ", RCPT takes NOTIFY= ORCPT="));
        let utf8 = parameters("SMTPUTF8", " SMTPUTF8");
        let tls = if self.tls == Tls::On { parameters("REQUIRETLS", " REQUIRETLS") } else { "" };
        let text = format!(
            "Commands: {commands}\nMAIL takes SIZE= BODY={of_mail}{utf8}{tls}{of_rcpt}\nRFC 5321 says the rest"
        );
        Reply { code: 214, status: "2.0.0", text: Cow::Owned(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extensions(tls: Tls, discarded: &[String]) -> Extensions<'_> {
        let mechanisms = Offered { plain: tls == Tls::On, secrets: false };
        let (dialect, vrfy, xclient) = (Dialect::Smtp, true, false);
        let (message_size_limit, recipient_limit, transaction_limit) = (5, 7, 9);
        Extensions {
            dialect,
            message_size_limit,
            recipient_limit,
            transaction_limit,
            tls,
            mechanisms,
            vrfy,
            xclient,
            discarded,
        }
    }

    #[test]
    fn what_needs_tls_is_listed_under_it_only() {
        let has = |tls, line: &str| extensions(tls, &[]).keywords().iter().any(|listed| listed == line);
        assert!(has(Tls::Offered, "STARTTLS") && !has(Tls::On, "STARTTLS") && !has(Tls::Never, "STARTTLS"));
        assert!(has(Tls::On, "REQUIRETLS") && !has(Tls::Offered, "REQUIRETLS"));
        assert!(has(Tls::On, "AUTH PLAIN LOGIN") && !has(Tls::Never, "AUTH PLAIN LOGIN"));
        assert!(has(Tls::Never, "LIMITS RCPTMAX=7 MAILMAX=9") && has(Tls::Never, "SIZE 5"));
    }

    #[test]
    fn discarded_keywords_are_not_listed() {
        let discarded = ["chunking".to_owned(), "SIZE".to_owned()];
        let listed = extensions(Tls::Never, &discarded).keywords();
        assert!(!listed.iter().any(|line| line.starts_with("SIZE") || line == "CHUNKING"), "{listed:?}");
        assert!(!listed.contains(&"BINARYMIME".to_owned()) && listed.contains(&"DSN".to_owned()));
    }

    #[test]
    fn help_names_no_parameters_of_what_is_discarded() {
        let named = |discarded: &[&str]| {
            let discarded: Vec<String> = discarded.iter().map(|word| (*word).to_owned()).collect();
            extensions(Tls::On, &discarded).help().text.lines().nth(1).map(str::to_owned).unwrap()
        };
        let all = "MAIL takes SIZE= BODY= RET= ENVID= SMTPUTF8 REQUIRETLS, RCPT takes NOTIFY= ORCPT=";
        assert_eq!(named(&[]), all);
        assert_eq!(named(&["dsn"]), "MAIL takes SIZE= BODY= SMTPUTF8 REQUIRETLS");
        assert_eq!(named(&["smtputf8", "RequireTLS", "dsn"]), "MAIL takes SIZE= BODY=");
    }
}
