//! The client against a server in memory: every kind of answer at every stage, and what is sent to it.

use super::*;

/// A server: what it answers to each line, by its first word, in order; then the usual.
#[derive(Debug, Default)]
struct Fake {
    offers: &'static str,
    answers: Vec<(&'static str, &'static str)>,
    /// Everything that was sent.
    seen: String,
    line: String,
    in_data: bool,
    left_of_chunk: usize,
    out: VecDeque<u8>,
    /// Recipients taken, for LMTP.
    taken: usize,
    lmtp: bool,
    sends: usize,
}

impl Fake {
    fn say(&mut self, text: &str) {
        match text {
            // Nothing comes any more.
            "silence" => self.out.push_back(0),
            text => self.out.extend(format!("{text}\r\n").bytes()),
        }
    }

    fn scripted(&mut self, word: &str) -> Option<&'static str> {
        let at = self.answers.iter().position(|(known, _)| *known == word)?;
        Some(self.answers.remove(at).1)
    }

    fn line(&mut self, line: &str) {
        if self.in_data {
            if line == "." {
                self.in_data = false;
                for _ in 0..if self.lmtp { self.taken } else { 1 } {
                    let text = self.scripted(".").unwrap_or("250 2.0.0 taken as 17");
                    self.say(text);
                }
                self.taken = 0;
            }
            return;
        }
        let word = line.split(' ').next().unwrap_or_default().to_owned();
        let usual = match word.as_str() {
            "EHLO" | "LHLO" => self.offers,
            "DATA" if self.taken == 0 => "554 5.5.1 no recipients",
            "DATA" => "354 go",
            "BDAT" => "250 ok",
            "QUIT" => "221 bye",
            _ => "250 2.1.0 ok",
        };
        let text = self.scripted(&word).unwrap_or(usual);
        self.taken += usize::from(word == "RCPT" && text.starts_with('2'));
        self.in_data = word == "DATA" && text.starts_with("354");
        if word == "BDAT" {
            self.left_of_chunk = line.split(' ').nth(1).unwrap().parse().unwrap();
        }
        self.say(text);
    }
}

impl Wire for Fake {
    fn send(&mut self, _: Stage, octets: &[u8]) -> Result<(), Lost> {
        self.sends += 1;
        self.seen.push_str(&String::from_utf8_lossy(octets));
        for octet in octets {
            if self.left_of_chunk > 0 {
                self.left_of_chunk -= 1;
                continue;
            }
            self.line.push(char::from(*octet));
            if self.line.ends_with("\r\n") {
                let line = std::mem::take(&mut self.line);
                self.line(&line[..line.len() - 2]);
            }
        }
        Ok(())
    }

    fn expect(&mut self, _: Stage) {}

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Lost> {
        // One octet at a time, so that every reply is split everywhere.
        match self.out.pop_front() {
            Some(0) | None => Err(Lost::TimedOut),
            Some(octet) => {
                buffer[0] = octet;
                Ok(1)
            }
        }
    }
}

/// A short message.
struct Hello(bool);

impl Content for Hello {
    fn text(&mut self, out: &mut Vec<u8>) -> Result<bool, Lost> {
        out.extend_from_slice(if self.0 { b".\r\n" } else { b"Subject: x\r\n\r\n..hello\r\n" });
        self.0 = !self.0;
        Ok(self.0)
    }

    fn binary(&mut self, out: &mut Vec<u8>) -> Result<bool, Lost> {
        out.extend_from_slice(b"a\r\n.\r\n\0");
        Ok(false)
    }
}

const ALL: &str =
    "250-mx.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 X";

fn to(addresses: &[&str]) -> Vec<To> {
    let to =
        |text: &&str| To { address: Address::from_internal(text.as_bytes()).unwrap(), dsn: " NOTIFY=NEVER".into() };
    addresses.iter().map(to).collect()
}

fn envelope<'a>(sender: &'a ReversePath, to: &'a [To]) -> Envelope<'a> {
    Envelope {
        sender,
        to,
        size: 100,
        eight_bit: false,
        utf8_header: false,
        binary: false,
        smtputf8: false,
        requiretls: Requiretls::Unsaid,
        dsn: " RET=HDRS".into(),
    }
}

fn session(offers: &'static str, answers: &[(&'static str, &'static str)]) -> Session<Fake> {
    let mut fake = Fake { offers, answers: answers.to_vec(), ..Fake::default() };
    fake.say("220 mx.example ESMTP");
    let mut session = Session::new(fake, Protocol::Smtp);
    session.greeting().unwrap();
    session.hello("client.example").unwrap();
    session
}

/// What became of each recipient: `+`, or the report.
fn sent(session: &mut Session<Fake>, change: impl Fn(&mut Envelope<'_>), addresses: &[&str]) -> Vec<String> {
    let (sender, to) = (ReversePath::from_internal(b"alice@a.example").unwrap(), to(addresses));
    let mut envelope = envelope(&sender, &to);
    change(&mut envelope);
    let verdicts = session.send(&envelope, &mut Hello(false));
    verdicts
        .iter()
        .map(|verdict| verdict.as_ref().map_or_else(|trouble| trouble.report("mx"), |_| "+".to_owned()))
        .collect()
}

#[test]
fn what_is_offered_is_used_and_commands_go_in_one_write() {
    let mut session = session(ALL, &[]);
    let before = session.wire.sends;
    assert_eq!(sent(&mut session, |_| {}, &["bob@b.example", "a b@b.example"]), ["+", "+"]);
    assert_eq!(session.wire.sends - before, 3, "commands, content, and its end");
    let expected = "EHLO client.example\r\nMAIL FROM:<alice@a.example> SIZE=100 RET=HDRS\r\n\
                    RCPT TO:<bob@b.example> NOTIFY=NEVER\r\n\
                    RCPT TO:<\"a b\"@b.example> NOTIFY=NEVER\r\nDATA\r\nSubject: x\r\n\r\n..hello\r\n.\r\n";
    assert_eq!(session.wire.seen, expected);
    assert_eq!(sent(&mut session, |_| {}, &["bob@b.example"]), ["+"]);
    assert!(!session.wire.seen.contains("RSET"), "a message that was taken leaves nothing behind");
    session.quit();
    assert!(session.wire.seen.ends_with("QUIT\r\n"));
}

#[test]
fn without_extensions_nothing_but_the_plain_commands_is_sent() {
    let mut session = session("502 what", &[]);
    assert_eq!(sent(&mut session, |_| {}, &["bob@b.example"]), ["+"]);
    let expected = "EHLO client.example\r\nHELO client.example\r\nMAIL FROM:<alice@a.example>\r\n\
                    RCPT TO:<bob@b.example>\r\nDATA\r\n";
    assert!(session.wire.seen.starts_with(expected), "{}", session.wire.seen);
}

#[test]
fn each_recipient_has_its_own_answer() {
    let answers = [("RCPT", "250 ok"), ("RCPT", "550 5.1.1 no"), ("RCPT", "450 4.2.1 full"), ("RCPT", "552 too many")];
    for offers in [ALL, "250 mx"] {
        let mut session = session(offers, &answers);
        let got = sent(&mut session, |_| {}, &["a@b.example", "b@b.example", "c@b.example", "d@b.example"]);
        let expected = [
            "+",
            "5.1.1 mx said: 550 5.1.1 no (to RCPT)",
            "4.2.1 mx said: 450 4.2.1 full (to RCPT)",
            "4.0.0 mx said: 552 too many (to RCPT)",
        ];
        assert_eq!(got, expected, "{offers}");
        assert!(session.is_alive);
    }
}

#[test]
fn every_class_of_answer_at_every_stage_means_what_it_means() {
    for offers in [ALL, "250 mx"] {
        for (stage, name) in [("MAIL", "MAIL"), ("RCPT", "RCPT"), ("DATA", "DATA"), (".", "the end of the message")] {
            for (answer, status) in
                [("451 4.3.0 x", "4.3.0"), ("550 5.7.1 x", "5.7.1"), ("550 x", "5.0.0"), ("421 x", "4.0.0")]
            {
                let mut session = session(offers, &[(stage, answer)]);
                let got = sent(&mut session, |_| {}, &["bob@b.example"]);
                assert_eq!(got, [format!("{status} mx said: {answer} (to {name})")], "{stage} {answer}");
                assert_eq!(session.is_alive, !answer.starts_with("421"), "{stage} {answer}");
                if session.is_alive {
                    assert_eq!(
                        sent(&mut session, |_| {}, &["bob@b.example"]),
                        ["+"],
                        "the next message: {stage} {answer}"
                    );
                }
            }
            let mut session = session(offers, &[(stage, "silence")]);
            let got = sent(&mut session, |_| {}, &["bob@b.example"]);
            assert_eq!(got, [format!("4.4.2 mx took too long at {name}")]);
            assert!(!session.is_alive);
            for odd in ["+OK", "250-x\r\n251 y", "999 x"] {
                let mut session = self::session(offers, &[(stage, odd)]);
                let got = sent(&mut session, |_| {}, &["bob@b.example"]);
                assert!(got[0].starts_with("4.5.0 "), "{stage} {odd}: {got:?}");
            }
        }
    }
}

#[test]
fn a_refusal_of_mail_stands_where_nothing_comes_behind_it() {
    for offers in [ALL, "250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 BINARYMIME"] {
        for (answer, behind, is_alive) in [
            ("550 5.7.1 no", "silence", false),
            ("550 5.7.1 no", "+OK", false),
            ("550 5.7.1 no", "421 4.3.2 bye", false),
            ("550 5.7.1 no", "503 5.5.1 what", true),
            ("421 4.3.2 bye", "silence", false),
        ] {
            let mut session = session(offers, &[("MAIL", answer), ("RCPT", behind), ("RCPT", behind)]);
            let got = sent(&mut session, |e| e.binary = offers != ALL, &["a@b.example", "b@b.example"]);
            let status = answer.split(' ').nth(1).unwrap();
            let expected = format!("{status} mx said: {answer} (to MAIL)");
            assert_eq!((got, session.is_alive), (vec![expected.clone(), expected], is_alive), "{answer}, {behind}");
        }
    }
}

#[test]
fn data_that_was_pipelined_for_nobody_is_ended_and_the_session_goes_on() {
    for data in ["354 go", "554 5.5.1 no recipients"] {
        let mut session = session(ALL, &[("RCPT", "550 5.1.1 no"), ("DATA", data)]);
        let got = sent(&mut session, |_| {}, &["bob@b.example"]);
        assert_eq!(got, ["5.1.1 mx said: 550 5.1.1 no (to RCPT)"]);
        assert!(!session.wire.seen.contains("hello"), "nothing of the message is sent");
        assert_eq!(sent(&mut session, |_| {}, &["bob@b.example"]), ["+"]);
        assert!(session.wire.seen.contains("RSET\r\n"));
    }
}

#[test]
fn a_message_is_sent_only_as_the_server_can_take_it() {
    let none = "250 mx";
    type Change = fn(&mut Envelope<'_>);
    let with_utf8_header: Change = |e| (e.smtputf8, e.eight_bit, e.utf8_header) = (true, true, true);
    let cases: [(&str, Change, &str, &str); 8] = [
        (ALL, |e| e.size = 1001, "bob@b.example", "5.3.4"),
        (none, |e| e.eight_bit = true, "bob@b.example", "5.6.3"),
        (none, |e| (e.smtputf8, e.eight_bit) = (true, true), "bob@b.example", "5.6.3"),
        ("250-mx\r\n250 8BITMIME", with_utf8_header, "bob@b.example", "5.6.7"),
        (none, |_| {}, "b\u{f6}b@b.example", "5.6.7"),
        (ALL, |e| e.binary = true, "bob@b.example", "5.6.1"),
        (ALL, |e| e.requiretls = Requiretls::Required, "bob@b.example", "5.7.30"),
        ("250-mx\r\n250 REQUIRETLS", |e| e.requiretls = Requiretls::Required, "bob@b.example", "5.7.30"),
    ];
    for (offers, change, address, status) in cases {
        let mut session = session(offers, &[]);
        let got = sent(&mut session, change, &[address]);
        assert!(got[0].starts_with(&format!("{status} ")), "{got:?}");
        // Only what is said in MAIL and RCPT itself keeps them from being said.
        let is_said = address.is_ascii() && status.starts_with("5.6.");
        let seen = &session.wire.seen;
        assert_eq!((seen.contains("MAIL"), seen.contains("RCPT")), (is_said, is_said), "{seen}");
        assert!(
            session.is_alive && !["DATA", "BDAT", "BODY=BINARYMIME"].iter().any(|word| seen.contains(word)),
            "{seen}"
        );
        if is_said {
            assert_eq!(sent(&mut session, |_| {}, &["carol@b.example"]), ["+"], "{status}");
            assert_eq!(session.wire.seen.matches("RSET\r\n").count(), 1);
        }
    }
    // SMTPUTF8 that nothing in it needs.
    let mut plain = session(none, &[]);
    assert_eq!(sent(&mut plain, |e| e.smtputf8 = true, &["bob@b.example"]), ["+"]);
    assert!(!plain.wire.seen.contains("SMTPUTF8"), "{}", plain.wire.seen);
    for (offers, expected) in
        [("250-mx\r\n250 8BITMIME", " BODY=8BITMIME\r\n"), ("250-mx\r\n250 SMTPUTF8", " SMTPUTF8\r\n")]
    {
        let mut session = session(offers, &[]);
        assert_eq!(sent(&mut session, |e| (e.smtputf8, e.eight_bit) = (true, true), &["bob@b.example"]), ["+"]);
        assert!(session.wire.seen.contains(&format!("MAIL FROM:<alice@a.example>{expected}")), "{}", session.wire.seen);
    }
    let mut session = session(ALL, &[]);
    assert_eq!(sent(&mut session, with_utf8_header, &["bob@b.example"]), ["+"]);
    let mut session = self::session(ALL, &[]);
    assert_eq!(sent(&mut session, |e| e.eight_bit = true, &["b\u{f6}b@b.example"]), ["+"]);
    assert!(session.wire.seen.contains(" BODY=8BITMIME SMTPUTF8 RET=HDRS\r\n"), "{}", session.wire.seen);
}

#[test]
fn an_address_that_cannot_be_said_goes_to_nobody_else_and_keeps_the_message_from_nobody() {
    let all = [&b"a@b.example"[..], b"b\xff@b.example", "b\u{f6}b@b.example".as_bytes()];
    let all = all.map(|address| To { address: Address::from_internal(address).unwrap(), dsn: String::new() });
    for (offers, utf8) in [(ALL, true), ("250 mx", false)] {
        let mut session = session(offers, &[]);
        let sender = ReversePath::from_internal(b"alice@a.example").unwrap();
        let taken: Vec<_> =
            session.send(&envelope(&sender, &all), &mut Hello(false)).iter().map(Verdict::is_ok).collect();
        assert_eq!(taken, [true, false, utf8]);
        let seen = &session.wire.seen;
        assert_eq!((seen.contains('\u{fffd}'), seen.contains(" SMTPUTF8")), (false, utf8), "{seen}");
        assert!(seen.contains("b\u{f6}b@") == utf8 && seen.matches("RCPT").count() == 1 + usize::from(utf8), "{seen}");
        // A sender that cannot be said leaves nobody.
        let sender = ReversePath::from_internal(b"al\xefce@a.example").unwrap();
        let verdicts = session.send(&envelope(&sender, &all), &mut Hello(false));
        assert!(
            verdicts
                .iter()
                .all(|verdict| verdict.as_ref().is_err_and(|trouble| trouble.report("").starts_with("5.6.7 ")))
        );
    }
}

/// RFC 6533 section 3.
#[test]
fn an_original_recipient_in_utf_8_keeps_the_message_from_nobody() {
    let long = "\u{e9}".repeat(200);
    let orcpts = ["jos\u{e9}+\u{4e2d}\\x{20}", &long].map(|orcpt| format!(" NOTIFY=NEVER ORCPT=utf-8;{orcpt}@c"));
    let mut all = to(&["a@b.example", "b@b.example"]);
    all.iter_mut().zip(orcpts).for_each(|(to, orcpt)| to.dsn = orcpt);
    let sender = ReversePath::from_internal(b"alice@a.example").unwrap();
    for (offers, smtputf8, raw) in [("250-mx\r\n250 DSN", true, false), (ALL, false, false), (ALL, true, true)] {
        let mut session = session(offers, &[]);
        let envelope = Envelope { smtputf8, ..envelope(&sender, &all) };
        assert!(session.send(&envelope, &mut Hello(false)).iter().all(Verdict::is_ok));
        let seen = &session.wire.seen;
        let [first, second] = if raw {
            [all[0].dsn.as_str(), &all[1].dsn]
        } else {
            [" NOTIFY=NEVER ORCPT=utf-8;jos\\x{E9}\\x{2B}\\x{4E2D}\\x{20}@c", " NOTIFY=NEVER"]
        };
        let rcpts = [format!("RCPT TO:<a@b.example>{first}\r\n"), format!("RCPT TO:<b@b.example>{second}\r\n")];
        assert!(rcpts.iter().all(|rcpt| seen.contains(rcpt)) && seen.contains(" SMTPUTF8") == raw, "{seen}");
    }
}

#[test]
fn binary_goes_in_a_chunk() {
    let mut session = session("250-mx\r\n250-CHUNKING\r\n250-PIPELINING\r\n250 BINARYMIME", &[]);
    assert_eq!(sent(&mut session, |e| e.binary = true, &["bob@b.example"]), ["+"]);
    assert!(session.wire.seen.contains(" BODY=BINARYMIME\r\n"));
    assert!(
        session.wire.seen.ends_with("RCPT TO:<bob@b.example>\r\nBDAT 7 LAST\r\na\r\n.\r\n\0"),
        "{}",
        session.wire.seen
    );
}

#[test]
fn lmtp_answers_for_each_recipient_that_was_taken() {
    let answers = vec![("RCPT", "250 ok"), ("RCPT", "550 5.1.1 no"), (".", "250 ok"), (".", "452 4.2.2 full")];
    let mut fake = Fake { offers: ALL, answers, lmtp: true, ..Fake::default() };
    fake.say("220 mx LMTP");
    let mut session = Session::new(fake, Protocol::Lmtp);
    session.greeting().unwrap();
    session.hello("client.example").unwrap();
    let got = sent(&mut session, |_| {}, &["a@b.example", "b@b.example", "c@b.example"]);
    let full = "4.2.2 mx said: 452 4.2.2 full (to the end of the message)";
    assert_eq!(got, ["+", "5.1.1 mx said: 550 5.1.1 no (to RCPT)", full]);
    assert!(session.wire.seen.starts_with("LHLO "));
}

#[test]
fn greeting_and_hello_are_no_reason_to_return_mail() {
    for greeting in ["554 5.7.1 go away", "421 busy", "354 what", "354 3.0.0 what"] {
        let mut fake = Fake::default();
        fake.say(greeting);
        let trouble = Session::new(fake, Protocol::Smtp).greeting().unwrap_err();
        assert!(!trouble.is_never() && trouble.report("mx").starts_with('4'), "{greeting}");
    }
    let mut fake = Fake { offers: "550 5.7.1 no", answers: vec![("HELO", "550 5.7.1 no")], ..Fake::default() };
    fake.say("220 mx");
    let mut session = Session::new(fake, Protocol::Smtp);
    session.greeting().unwrap();
    assert!(session.hello("x").unwrap_err().report("mx").starts_with("4.7.1 "));
}

#[test]
fn what_comes_before_tls_is_forgotten_after_it() {
    let mut session = session("250-mx\r\n250 STARTTLS", &[("STARTTLS", "220 go\r\n250-mx\r\n250 AUTH PLAIN")]);
    session.ask_for_tls().unwrap();
    assert_eq!(session.offers, Offers::default());
    assert!(session.pending.is_empty());
}

#[test]
fn logging_in_takes_the_strongest_mechanism_and_shows_no_password_in_the_clear() {
    let login =
        login::Login { user: "tim".into(), password: crate::wire::secret::Secret(b"tanstaaftanstaaf".to_vec()) };
    let challenge = "334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+";
    let mut cram = session(
        "250-mx\r\n250 AUTH PLAIN CRAM-MD5",
        &[("AUTH", challenge), ("dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw", "235 ok")],
    );
    // RFC 2195 section 2.
    assert_eq!(cram.log_in(&login, false), Ok(()));
    let mut plain = session("250-mx\r\n250 AUTH PLAIN LOGIN", &[("AUTH", "235 ok")]);
    assert!(plain.log_in(&login, false).is_err());
    assert!(!plain.wire.seen.contains("AUTH"));
    assert_eq!(plain.log_in(&login, true), Ok(()));
    assert!(plain.wire.seen.ends_with("AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm\r\n"), "{}", plain.wire.seen);
    let answers = [("AUTH", "334 x"), ("dGlt", "334 y"), ("dGFuc3RhYWZ0YW5zdGFhZg==", "535 5.7.8 no")];
    let mut refused = session("250-mx\r\n250 AUTH LOGIN", &answers);
    assert_eq!(refused.log_in(&login, true).unwrap_err().report("mx"), "4.7.8 mx said: 535 5.7.8 no (to AUTH)");
    // A challenge that cannot be read is not answered by QUIT.
    let mut odd = session("250-mx\r\n250 AUTH CRAM-MD5", &[("AUTH", "334 ?"), ("*", "501 5.7.0 so be it")]);
    assert_eq!(odd.log_in(&login, true).unwrap_err().report("mx"), "4.0.0 mx said: 334 ? (to AUTH)");
    odd.quit();
    assert!(odd.wire.seen.ends_with("AUTH CRAM-MD5\r\n*\r\nQUIT\r\n"), "{}", odd.wire.seen);
}

#[test]
fn a_mechanism_that_the_server_only_offers_is_followed_by_the_next() {
    const OFFERS: &str = "250-mx\r\n250 AUTH CRAM-MD5 PLAIN LOGIN";
    let login = login::Login { user: "tim".into(), password: crate::wire::secret::Secret(b"x".to_vec()) };
    let words = |session: &Session<Fake>| session.wire.seen.matches("AUTH ").count();
    let refusals = ["504 5.5.4 what", "534 5.7.9 too weak", "535 5.7.8 no"];
    for refusal in refusals {
        let mut session = session(OFFERS, &[("AUTH", refusal), ("AUTH", "235 ok")]);
        assert_eq!(session.log_in(&login, true), Ok(()), "{refusal}");
        assert!(session.wire.seen.ends_with("AUTH CRAM-MD5\r\nAUTH PLAIN AHRpbQB4\r\n"), "{}", session.wire.seen);
        // No password where others read along.
        let mut session = self::session(OFFERS, &[("AUTH", refusal), ("AUTH", "235 ok")]);
        assert!(session.log_in(&login, false).is_err() && words(&session) == 1, "{}", session.wire.seen);
    }
    let answers = refusals.map(|refusal| ("AUTH", refusal));
    let mut refused = session(OFFERS, &answers);
    assert_eq!(refused.log_in(&login, true).unwrap_err().report("mx"), "4.7.8 mx said: 535 5.7.8 no (to AUTH)");
    assert_eq!(words(&refused), 3);
    for (answers, told) in [
        (&[("AUTH", "454 4.7.0 later")][..], "4.7.0 mx said: 454 4.7.0 later (to AUTH)"),
        (&[("AUTH", "421 4.3.2 bye")], "4.3.2 mx said: 421 4.3.2 bye (to AUTH)"),
        // A password that was seen is not shown again.
        (&[("AUTH", "535 5.7.8 cram"), ("AUTH", "535 5.7.8 plain")], "4.7.8 mx said: 535 5.7.8 plain (to AUTH)"),
        (&[("AUTH", "504 5.5.4 what"), ("AUTH", "535 5.7.8 no")], "4.7.8 mx said: 535 5.7.8 no (to AUTH)"),
        (&[("AUTH", "535 5.7.8 no"), ("AUTH", "silence")], "4.7.8 mx said: 535 5.7.8 no (to AUTH)"),
        (&[("AUTH", "silence")], "4.4.2 mx took too long at AUTH"),
    ] {
        let mut session = session(OFFERS, answers);
        assert_eq!(session.log_in(&login, true).unwrap_err().report("mx"), told);
        assert_eq!(words(&session), answers.len());
    }
}

#[test]
fn what_does_not_take_the_content_is_heard_out_about_sender_and_recipients() {
    type Change = fn(&mut Envelope<'_>);
    let changes: [(Change, &str); 3] = [
        (|e| e.eight_bit = true, "5.6.3"),
        (|e| (e.smtputf8, e.eight_bit, e.utf8_header) = (true, true, true), "5.6.7"),
        (|e| e.binary = true, "5.6.1"),
    ];
    for offers in ["250 mx", "250-mx\r\n250 PIPELINING"] {
        for (change, status) in changes {
            let mut put_off = session(offers, &[("MAIL", "451 4.7.1 greylisted")]);
            assert!(sent(&mut put_off, change, &["a@b.example"])[0].starts_with("4.7.1 mx said"), "{status}");
            let answers = [("RCPT", "451 4.7.1 greylisted"), ("RCPT", "550 5.1.1 no"), ("RCPT", "250 ok")];
            let mut each = session(offers, &answers);
            let got = sent(&mut each, change, &["a@b.example", "b@b.example", "c@b.example"]);
            let begins: Vec<&str> = got.iter().filter_map(|report| report.split(' ').next()).collect();
            assert_eq!(begins, ["4.7.1", "5.1.1", status]);
            assert!(!each.wire.seen.contains("DATA") && !each.wire.seen.contains("BDAT"), "{}", each.wire.seen);
        }
    }
}
