//! What EHLO lists and HELP names. Only what works is in here, from MAIL to the last hop.

use super::reply::Reply;
use super::session::{Dialect, Settings, Tls};
use crate::lookup::Listed;
use crate::sasl::Offered;
use std::borrow::Cow;

/// What there is, at one moment of a session.
#[derive(Debug)]
pub struct Extensions<'a> {
    /// What the session was told, and TLS as it is now.
    pub settings: &'a Settings<'a>,
    /// By what mechanisms the client can log in now.
    pub mechanisms: Offered,
}

impl Extensions<'_> {
    /// The keywords with their arguments.
    pub fn keywords(&self) -> Vec<String> {
        let settings = self.settings;
        let mut list = vec!["PIPELINING".to_owned(), format!("SIZE {}", settings.message_size_limit)];
        let mut add = |wanted: bool, line: &str| list.extend(wanted.then(|| line.to_owned()));
        add(settings.vrfy, "VRFY");
        // RFC 5321 section 3.5.2: it must be listed where it is there.
        add(settings.vrfy, "EXPN");
        add(settings.tls == Tls::Offered, "STARTTLS");
        let mechanisms = self.mechanisms.names();
        add(!mechanisms.is_empty(), &format!("AUTH {mechanisms}"));
        add(true, "ENHANCEDSTATUSCODES");
        add(true, "8BITMIME");
        add(true, "DSN");
        add(true, "SMTPUTF8");
        add(true, "CHUNKING");
        add(true, "BINARYMIME");
        // RFC 8689 section 2: not before the way to us is safe.
        add(settings.tls == Tls::On, "REQUIRETLS");
        let most = if settings.transaction_limit > 0 {
            format!(" MAILMAX={}", settings.transaction_limit)
        } else {
            String::new()
        };
        add(true, &format!("LIMITS RCPTMAX={}{most}", settings.announced_recipients));
        add(settings.xclient != Listed::No, "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT");
        add(true, "HELP");
        list.retain(|line| {
            let keyword = line.split(' ').next().unwrap_or_default();
            // RFC 3030 section 3: BINARYMIME comes with CHUNKING or not at all.
            !(settings.discards(keyword) || keyword == "BINARYMIME" && settings.discards("CHUNKING"))
        });
        list
    }

    /// The reply to EHLO or LHLO.
    pub fn reply(&self) -> Reply {
        let lines: Vec<String> = [self.settings.hostname.to_owned()].into_iter().chain(self.keywords()).collect();
        Reply { code: 250, status: None, text: Cow::Owned(lines.join("\n")) }
    }

    /// The reply to HELP.
    pub fn help(&self) -> Reply {
        let settings = self.settings;
        let hello = if settings.dialect == Dialect::Lmtp { "LHLO" } else { "EHLO HELO" };
        let bdat = if settings.discards("CHUNKING") { "" } else { " BDAT" };
        let vrfy = if settings.vrfy { " VRFY EXPN" } else { "" };
        let mut commands = format!("{hello} MAIL RCPT DATA{bdat} RSET{vrfy} HELP NOOP QUIT");
        for (wanted, command) in [
            (settings.tls == Tls::Offered && !settings.discards("STARTTLS"), " STARTTLS"),
            (!self.mechanisms.names().is_empty(), " AUTH"),
            (settings.xclient != Listed::No, " XCLIENT"),
        ] {
            commands.push_str(if wanted { command } else { "" });
        }
        let parameters = |keyword, words| if settings.discards(keyword) { "" } else { words };
        let (of_mail, of_rcpt) = (parameters("DSN", " RET= ENVID="), parameters("DSN", ", RCPT takes NOTIFY= ORCPT="));
        let utf8 = parameters("SMTPUTF8", " SMTPUTF8");
        let tls = if settings.tls == Tls::On { parameters("REQUIRETLS", " REQUIRETLS") } else { "" };
        let text = format!(
            "Commands: {commands}\nMAIL takes SIZE= BODY= AUTH={of_mail}{utf8}{tls}{of_rcpt}\nRFC 5321 says the rest"
        );
        Reply { code: 214, status: Some([2, 0, 0]), text: Cow::Owned(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::session::tests::settings;

    /// What is listed, and what HELP says.
    fn said(tls: Tls, discarded: &[&str]) -> (Vec<String>, String) {
        let discarded: Vec<String> = discarded.iter().map(|word| (*word).to_owned()).collect();
        let (message_size_limit, announced_recipients, transaction_limit) = (5, 7, 9);
        let settings = Settings {
            message_size_limit,
            announced_recipients,
            transaction_limit,
            tls,
            discarded: &discarded,
            ..settings()
        };
        let mechanisms = Offered { plain: tls == Tls::On, secrets: false };
        let extensions = Extensions { settings: &settings, mechanisms };
        (extensions.keywords(), extensions.help().text.into_owned())
    }

    #[test]
    fn what_needs_tls_is_listed_under_it_only() {
        let has = |tls, line: &str| said(tls, &[]).0.iter().any(|listed| listed == line);
        assert!(has(Tls::Offered, "STARTTLS") && !has(Tls::On, "STARTTLS") && !has(Tls::Never, "STARTTLS"));
        assert!(has(Tls::On, "REQUIRETLS") && !has(Tls::Offered, "REQUIRETLS"));
        assert!(has(Tls::On, "AUTH PLAIN LOGIN") && !has(Tls::Never, "AUTH PLAIN LOGIN"));
        assert!(has(Tls::Never, "LIMITS RCPTMAX=7 MAILMAX=9") && has(Tls::Never, "SIZE 5"));
    }

    #[test]
    fn discarded_keywords_are_not_listed() {
        let (listed, _) = said(Tls::Never, &["chunking", "SIZE"]);
        assert!(!listed.iter().any(|line| line.starts_with("SIZE") || line == "CHUNKING"), "{listed:?}");
        assert!(!listed.contains(&"BINARYMIME".to_owned()) && listed.contains(&"DSN".to_owned()));
    }

    #[test]
    fn help_names_no_parameters_of_what_is_discarded() {
        let named = |discarded: &[&str]| said(Tls::On, discarded).1.lines().nth(1).map(str::to_owned).unwrap();
        let all = "MAIL takes SIZE= BODY= AUTH= RET= ENVID= SMTPUTF8 REQUIRETLS, RCPT takes NOTIFY= ORCPT=";
        assert_eq!(named(&[]), all);
        assert_eq!(named(&["dsn"]), "MAIL takes SIZE= BODY= AUTH= SMTPUTF8 REQUIRETLS");
        assert_eq!(named(&["smtputf8", "RequireTLS", "dsn"]), "MAIL takes SIZE= BODY= AUTH=");
    }
}
