//! deliver to other hosts, by its program: what it says to them, what each of their answers means, and what becomes of a
//! message when they break off.

mod common;

use common::delivering::{reports, take};
use common::hops::{Act, Hop, Taken};
use common::relaying::*;
use common::until;

#[test]
fn a_message_goes_to_all_its_recipients_in_one_transaction() {
    let hop = Hop::friendly();
    let scratch = to(&hop);
    scratch.enqueue(&["bob@b.example", "a b@c.example"], TEXT);
    let log = scratch.deliver();
    assert_eq!(log.matches("status=relayed").count(), 2, "{log}");
    let rcpts = vec!["RCPT TO:<bob@b.example>".to_owned(), "RCPT TO:<\"a b\"@c.example>".to_owned()];
    let mail = format!("MAIL FROM:<alice@mx.example> SIZE={}", ARRIVED.len());
    assert_eq!(hop.taken(), [Taken { mail, rcpts, content: ARRIVED.to_owned() }]);
    assert_eq!(scratch.queued(), []);
    // Its answer is not waited for.
    until("QUIT", || hop.seen().last().is_some_and(|line| line == "QUIT"));
}

#[test]
fn messages_to_one_host_share_a_connection() {
    let hop = Hop::friendly();
    // Kept longer than a busy machine takes from one message to the next.
    let limits = "default_destination_concurrency_limit = 1\nsmtp_connection_cache_time_limit = 60s";
    let scratch = site(&format!("smtp:{}", hop.name()), limits);
    for number in 0..20 {
        scratch.enqueue(&[&format!("user{number}@b.example")], TEXT);
    }
    scratch.deliver();
    assert_eq!((hop.taken().len(), hop.sessions()), (20, 1));
    assert_eq!(scratch.queued(), []);
}

#[test]
fn each_recipient_is_done_deferred_or_returned_by_its_own_answer() {
    let hop = Hop::start(|word, line, _| match word {
        "RCPT" if line.contains("never") => Some(Act::Say("550 5.1.1 no such user")),
        "RCPT" if line.contains("later") => Some(Act::Say("450 4.2.1 mailbox busy")),
        _ => None,
    });
    let scratch = to(&hop);
    let id = scratch.enqueue(&["now@b.example", "never@b.example", "later@b.example"], TEXT);
    scratch.deliver();
    assert_eq!(hop.taken()[0].rcpts, ["RCPT TO:<now@b.example>"]);
    let back = String::from_utf8(scratch.mail("alice").concat()).expect("a report");
    assert!(back.contains("never@b.example") && back.contains("550 5.1.1 no such user"), "{back}");
    assert!(!back.contains("now@b.example"), "{back}");
    assert_eq!(reports(&scratch, &id)[2], "4.2.1 127.0.0.1 said: 450 4.2.1 mailbox busy (to RCPT)");
    scratch.deliver();
    assert_eq!((hop.taken().len(), scratch.mail("alice").len()), (1, 1), "nothing is tried or told twice");
}

/// RFC 3464: who reports, of whom, what the other host is and said.
#[test]
fn a_return_message_names_the_host_that_refused_and_what_it_said() {
    let hop = Hop::start(|word, line, _| match word {
        "RCPT" if line.contains("never") => Some(Act::Say("550-5.1.1 no such\r\n550 5.1.1 user")),
        _ => None,
    });
    let scratch = to(&hop);
    scratch.enqueue_with(
        ("alice@mx.example", "ENVID=x+2By"),
        &[("never@b.example", "ORCPT=rfc822;old@c.example")],
        TEXT,
    );
    scratch.deliver();
    let back = String::from_utf8(scratch.mail("alice").concat()).expect("a report");
    let type_of = "Content-Type: multipart/report; report-type=delivery-status;";
    assert!(back.contains(type_of) && back.contains("\nAuto-Submitted: auto-replied\n"), "{back}");
    let status = back.split("Content-Type: message/delivery-status\n\n").nth(1).expect("the report for programs");
    let status = status.split("\n--").next().expect("its end");
    for field in [
        "Original-Envelope-Id: x+y",
        "Reporting-MTA: dns; mx.example",
        "Arrival-Date: ",
        "Original-Recipient: rfc822; old@c.example",
        "Final-Recipient: rfc822; never@b.example",
        "Action: failed",
        "Status: 5.1.1",
        "Remote-MTA: dns; [127.0.0.1]",
        "Diagnostic-Code: smtp; 550 5.1.1 ",
    ] {
        assert_eq!(
            status.matches(&format!("\n{field}")).count() + usize::from(status.starts_with(field)),
            1,
            "{field}: {status}"
        );
    }
    // Of a message as a whole, then of each recipient, with an empty line between.
    assert_eq!(status.trim_end().split("\n\n").count(), 2, "{status}");
}

/// RFC 3464 section 2.3.6. The remedy stands at the end of what many hosts say.
#[test]
fn a_return_message_has_all_that_the_host_said() {
    const SAID: &str = "550-5.7.26 Your email has been blocked because the sender is unauthenticated.\r\n\
                        550-5.7.26 Senders must authenticate with either SPF or DKIM. For instructions\r\n\
                        550-5.7.26 on setting up authentication, go to\r\n\
                        550 5.7.26 https://support.example/mail/answer/81126#authentication";
    let hop = Hop::start(|word, _, _| (word == ".").then_some(Act::Say(SAID)));
    let scratch = to(&hop);
    scratch.enqueue(&["bob@b.example"], TEXT);
    scratch.deliver();
    let back = String::from_utf8(scratch.mail("alice").concat()).expect("a report");
    let remedy = "go to https://support.example/mail/answer/81126#authentication";
    assert_eq!(back.matches(remedy).count(), 2, "{back}");
    let diagnostic = "\nDiagnostic-Code: smtp; 550 5.7.26 Your email has been blocked because the sender is unauth";
    assert!(back.contains(diagnostic), "{back}");
    assert!(back.lines().all(|line| line.len() <= 998), "{back}");
}

/// What is said or done at a stage, and what becomes of the message: `deferred`, `failed`.
const ODD: [(&str, Act, &str); 25] = [
    ("greeting", Act::Say("554 5.7.1 go away"), "deferred"),
    ("greeting", Act::Drop, "deferred"),
    ("greeting", Act::Half("220-hop"), "deferred"),
    ("greeting", Act::Say("+OK POP3"), "deferred"),
    ("EHLO", Act::Drop, "deferred"),
    ("EHLO", Act::Say("421 4.3.2 closing"), "deferred"),
    ("MAIL", Act::Say("550 5.1.8 bad sender"), "failed"),
    ("MAIL", Act::Say("451 4.3.0 later"), "deferred"),
    ("MAIL", Act::Drop, "deferred"),
    ("MAIL", Act::Leave("550 5.7.1 go away"), "failed"),
    ("MAIL", Act::Leave("421 4.3.2 closing"), "deferred"),
    ("RCPT", Act::Say("550 5.1.1 no"), "failed"),
    ("RCPT", Act::Say("421 4.3.2 closing"), "deferred"),
    ("RCPT", Act::Half("250 2.1"), "deferred"),
    ("RCPT", Act::Leave("550 5.1.1 no"), "failed"),
    ("DATA", Act::Say("550 5.7.1 no"), "failed"),
    ("DATA", Act::Say("451 4.3.0 later"), "deferred"),
    ("DATA", Act::Drop, "deferred"),
    ("content", Act::Drop, "deferred"),
    (".", Act::Say("554 5.6.0 no"), "failed"),
    (".", Act::Say("452 4.3.1 full"), "deferred"),
    (".", Act::Say("999 what"), "deferred"),
    (".", Act::Drop, "deferred"),
    (".", Act::Half("250 2."), "deferred"),
    ("QUIT", Act::Drop, "relayed"),
];

/// Whoever reads records for what became of a message must not be told so by its sender, nor by the next hop.
#[test]
fn neither_an_address_nor_an_answer_can_pretend_to_be_another_field_of_a_record() {
    let hop = Hop::start(|word, _, _| {
        (word == "RCPT").then_some(Act::Say("550 5.1.1 no\" status=delivered reason=\"2.0.0 ok"))
    });
    let scratch = to(&hop);
    scratch.enqueue_from("x> to=<boss@mx.example> status=failed @evil.example", &["y> status=lost @b.example"], TEXT);
    let log = scratch.deliver();
    let tried = log.lines().find(|line| line.contains(" delay=")).expect("a record");
    let fields = tried.replace("\\\"", "");
    let outside = fields.split('"').step_by(2).collect::<String>();
    assert_eq!((outside.matches(" to=").count(), outside.matches(" status=").count()), (1, 1), "{tried}");
    let said = "said: 550 5.1.1 no\\\" status=delivered reason=\\\"2.0.0 ok (to RCPT)\"";
    assert!(tried.ends_with(said), "{tried}");
}

#[test]
fn every_answer_at_every_stage_is_one_of_three_ends_and_never_two() {
    for (stage, act, status) in ODD {
        let doing = act.clone();
        let hop = Hop::start(move |word, _, _| (word == stage).then(|| doing.clone()));
        let scratch = to(&hop);
        scratch.enqueue(&["bob@b.example"], TEXT);
        let log = scratch.deliver();
        let what = format!("{stage} {act:?}: {log}");
        assert!(log.contains(&format!("to=<bob@b.example> status={status} ")), "{what}");
        let (queued, back) = (scratch.queued().len(), scratch.mail("alice").len());
        assert_eq!((queued, back), (usize::from(status == "deferred"), usize::from(status == "failed")), "{what}");
    }
}

/// RFC 5321 section 4.1.1.10.
#[test]
fn a_host_that_says_no_before_the_message_is_left_with_quit() {
    for (stage, level) in [("greeting", "may"), ("HLO", "may"), ("none", "encrypt")] {
        let hop = Hop::start(move |word, _, _| match word {
            "EHLO" | "HELO" if stage == "HLO" => Some(Act::Say("550 5.7.1 no")),
            word => (word == stage).then_some(Act::Say("554 5.7.1 no")),
        });
        let scratch = site(&format!("smtp:{}", hop.name()), &format!("smtp_tls_security_level = {level}"));
        scratch.enqueue(&["bob@b.example"], TEXT);
        let log = scratch.deliver();
        assert!(log.contains("status=deferred"), "{stage}: {log}");
        until("QUIT", || hop.seen().last().is_some_and(|line| line == "QUIT"));
    }
}

#[test]
fn a_message_whose_answer_was_lost_is_there_twice_and_not_more() {
    let hop = Hop::start(|word, _, session| (word == "." && session == 0).then_some(Act::Drop));
    let scratch = to(&hop);
    let id = scratch.enqueue(&["bob@b.example"], TEXT);
    scratch.deliver();
    assert_eq!((hop.taken().len(), scratch.queued().len()), (1, 1));
    scratch.run("deliver", &[id.as_str()], b"");
    scratch.deliver();
    assert_eq!((hop.taken().len(), scratch.queued().len()), (2, 0));
}

#[test]
fn what_a_message_said_about_itself_goes_on_where_the_host_knows_it() {
    let offers = "250-hop\r\n250-PIPELINING\r\n250-DSN\r\n250-8BITMIME\r\n250-SIZE\r\n250 SMTPUTF8";
    let hop = Hop::start(move |word, _, _| (word == "EHLO").then_some(Act::Say(offers)));
    let scratch = to(&hop);
    let (mail, rcpt) = ("BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+20x", "NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@c");
    scratch.enqueue_with(
        ("al\u{ef}ce@mx.example", mail),
        &[("bob@b.example", rcpt)],
        "Subject: \u{e4}\n\nx\n".as_bytes(),
    );
    scratch.deliver();
    let taken = hop.taken();
    assert!(taken[0].mail.ends_with(" BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+20x"), "{taken:?}");
    assert_eq!(taken[0].rcpts, ["RCPT TO:<bob@b.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@c"]);
    assert_eq!((scratch.queued(), scratch.mail("alice").len()), (vec![], 0), "who knows DSN tells the sender");

    let plain = Hop::start(|word, _, _| (word == "EHLO").then_some(Act::Say("250 hop")));
    let scratch = to(&plain);
    scratch.enqueue_with(("alice@mx.example", "RET=HDRS"), &[("bob@b.example", "NOTIFY=SUCCESS")], TEXT);
    scratch.deliver();
    assert_eq!(
        (plain.taken()[0].mail.as_str(), plain.taken()[0].rcpts[0].as_str()),
        ("MAIL FROM:<alice@mx.example>", "RCPT TO:<bob@b.example>")
    );
    // RFC 3461 section 6.3 (h) and (i).
    let told = String::from_utf8_lossy(&scratch.mail("alice").concat()).into_owned();
    let fields = "Action: relayed\nStatus: 2.0.0\nRemote-MTA: dns; [127.0.0.1]\nDiagnostic-Code: smtp; 250 ";
    assert!(told.contains(fields), "success is told by us: {told}");
}

/// RFC 5321 section 4.5.3.1.6. A header's line is folded by that; LMTP ends at a mailbox.
#[test]
fn a_line_too_long_for_smtp_is_broken() {
    let long = format!("Subject: {}\n\n{}\nend\n", "x".repeat(989), "y".repeat(2000));
    let whole = long.replace('\n', "\r\n");
    let broken = whole.replace(&"y".repeat(2000), &format!("{}\r\n {}\r\n yyyyy", "y".repeat(998), "y".repeat(997)));
    for (transport, more, expected) in [
        ("smtp", "", &broken),
        ("smtp", "smtp_line_length_limit = 0", &whole),
        ("smtp", "smtp_line_length_limit = 3000", &whole),
        ("lmtp", "", &whole),
    ] {
        let hop = Hop::friendly();
        let scratch = site(&format!("{transport}:{}", hop.name()), more);
        scratch.enqueue(&["bob@b.example"], long.as_bytes());
        let log = scratch.deliver();
        let taken = hop.taken();
        assert_eq!(taken.len(), 1, "{log}");
        assert!(taken[0].content.ends_with(expected.as_str()), "{transport} {more}: {}", taken[0].content);
        let size = format!(" SIZE={}", taken[0].content.len());
        assert!(taken[0].mail.contains(&size), "{transport} {more}: {}", taken[0].mail);
    }
}

#[test]
fn what_a_host_cannot_take_is_returned_and_not_bent() {
    for (mail, content, status) in [
        ("", "Subject: \u{e4}\n\nx\n", "5.6.3"),
        ("SMTPUTF8", "Subject: \u{e4}\n\nx\n", "5.6.7"),
        ("BODY=BINARYMIME", "a\0b", "5.6.1"),
        ("REQUIRETLS", "Subject: x\n\nx\n", "5.7.10"),
    ] {
        let hop = Hop::start(|word, _, _| (word == "EHLO").then_some(Act::Say("250 hop")));
        let scratch = site(&format!("smtp:{}", hop.name()), "smtp_tls_security_level = none");
        scratch.enqueue_with(("alice@mx.example", mail), &[("bob@b.example", "")], content.as_bytes());
        let log = scratch.deliver();
        let expected = if status == "5.7.30" { "status=deferred" } else { "status=failed" };
        assert!(log.contains(expected) && (log.contains(status) || status == "5.7.30"), "{mail}: {log}");
        assert_eq!(hop.taken(), []);
    }
}

/// RFC 6531 section 3.6 and RFC 6532 section 3.7: of the text, only headers do.
#[test]
fn what_came_with_smtputf8_and_needs_it_nowhere_goes_to_any_host_that_takes_eight_bits() {
    let parts = "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain";
    for (content, is_taken) in [
        ("Subject: x\n\ngr\u{fc}n\n", true),
        (&format!("{parts}\n\ngr\u{fc}n\n--b--\n"), true),
        ("Subject: gr\u{fc}n\n\nx\n", false),
        (&format!("{parts}; name=\"gr\u{fc}n\"\n\nx\n--b--\n"), false),
    ] {
        let hop = Hop::start(|word, _, _| (word == "EHLO").then_some(Act::Say("250-hop\r\n250 8BITMIME")));
        let scratch = to(&hop);
        let from = ("alice@mx.example", "BODY=8BITMIME SMTPUTF8");
        scratch.enqueue_with(from, &[("bob@b.example", "")], content.as_bytes());
        let log = scratch.deliver();
        let said: Vec<String> = hop.taken().into_iter().map(|taken| taken.mail).collect();
        let expected = ["MAIL FROM:<alice@mx.example> BODY=8BITMIME"];
        assert_eq!(said, expected[..usize::from(is_taken)], "{content}: {log}");
        assert_eq!(log.contains("reason=\"5.6.7 "), !is_taken, "{content}: {log}");
    }
}

/// It names an address of UTF-8 in its text, and brings a header with another.
#[test]
fn a_report_of_an_address_beyond_ascii_goes_home_by_a_host_without_smtputf8() {
    let hop = Hop::start(|word, _, _| (word == "EHLO").then_some(Act::Say("250-hop\r\n250 8BITMIME")));
    let scratch = to(&hop);
    let text = "Subject: gr\u{fc}n\n\nx\n";
    scratch.enqueue_with(("alice@b.example", "SMTPUTF8"), &[("jos\u{e9}@mx.example", "")], text.as_bytes());
    let log = scratch.deliver() + &scratch.deliver();
    let taken = hop.taken();
    assert_eq!(taken.len(), 1, "{log}");
    assert_eq!(taken[0].mail, "MAIL FROM:<> BODY=8BITMIME");
    for part in
        ["Final-Recipient: utf-8; jos\u{e9}@mx.example\r\n", "\r\nContent-Type: message/global\r\n", "gr\u{fc}n"]
    {
        assert!(taken[0].content.contains(part), "{}", taken[0].content);
    }
}

/// RFC 2046 section 5.2.1: an attached message may not be encoded. Its header may, as text.
#[test]
fn a_report_comes_home_by_a_host_without_8bitmime_too() {
    let hop = Hop::start(|word, line, _| match word {
        "EHLO" => Some(Act::Say("250-hop\r\n250 PIPELINING")),
        _ if line.starts_with("RCPT TO:<gone@") => Some(Act::Say("550 5.1.1 no such user")),
        _ => None,
    });
    let scratch = to(&hop);
    let text = "Subject: gr\u{fc}n\n\ngr\u{fc}n\n";
    let global = ("alice@b.example", "BODY=8BITMIME SMTPUTF8");
    scratch.enqueue_with(("alice@b.example", "BODY=8BITMIME"), &[("nobody-here@mx.example", "")], text.as_bytes());
    scratch.enqueue_with(global, &[("jos\u{e9}@mx.example", "")], text.as_bytes());
    // Nothing is told of a report to nobody but postmaster.
    scratch.enqueue_with(("gone@b.example", "BODY=8BITMIME"), &[("nobody-here@mx.example", "")], text.as_bytes());
    scratch.write("aliases", "postmaster: alice\n");
    let log: String = (0..4).map(|_| scratch.deliver()).collect();
    let mut taken = hop.taken();
    taken.sort_by_key(|taken| taken.content.contains("global"));
    assert_eq!(taken.len(), 2, "{log}");
    assert!(taken.iter().all(|taken| taken.mail == "MAIL FROM:<>" && taken.content.is_ascii()), "{taken:#?}");
    assert!(taken.iter().all(|taken| !taken.content.contains("8bit")), "{taken:#?}");
    let part = "Content-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n";
    let header = format!("{part}Received: by mx.example\r\nSubject: gr=C3=BCn\r\n\r\n--");
    assert!(taken[0].content.contains(&header) && taken[0].content.contains("Action: failed"), "{}", taken[0].content);
    assert!(taken[0].content.contains(" The header of what was sent follows below.\r\n"), "{}", taken[0].content);
    for part in ["Final-Recipient: utf-8; jos=C3=A9@mx.example\r\n", "\r\n\r\ngr=C3=BCn\r\n", " What was sent follows"]
    {
        assert!(taken[1].content.contains(part), "{part}: {}", taken[1].content);
    }
    let double = scratch.texts("alice");
    assert_eq!((double.len(), scratch.queued().len()), (1, 0), "{double:#?}");
    assert!(double[0].contains("Final-Recipient: rfc822; gone@b.example\n"), "{double:#?}");
}

/// A sender may be an alias for several, and their host know no 8BITMIME.
#[test]
fn each_whom_a_report_goes_to_by_an_alias_has_it_without_8bitmime_too() {
    let hop = Hop::start(|word, _, _| (word == "EHLO").then_some(Act::Say("250-hop\r\n250 PIPELINING")));
    let scratch = to(&hop);
    scratch.write("aliases", "team: alice@b.example, carol@b.example\n");
    let text = "Subject: gr\u{fc}n\n\ngr\u{fc}n\n";
    scratch.enqueue_with(("team@mx.example", "BODY=8BITMIME"), &[("nobody-here@mx.example", "")], text.as_bytes());
    let log: String = (0..4).map(|_| scratch.deliver()).collect();
    let mut taken = hop.taken();
    taken.sort_by_key(|taken| taken.rcpts.clone());
    let rcpts: Vec<String> = taken.iter().flat_map(|taken| taken.rcpts.clone()).collect();
    assert_eq!(rcpts, ["RCPT TO:<alice@b.example>", "RCPT TO:<carol@b.example>"], "{log}");
    let is_whole = |content: &str| content.is_ascii() && content.contains("Subject: gr=C3=BCn\r\n");
    assert!(taken.iter().all(|taken| is_whole(&taken.content)), "{taken:#?}");
    assert_eq!(scratch.queued(), [], "{log}");
}

/// RFC 3030 section 3: only what is binary needs a host that knows that.
#[test]
fn what_came_as_binary_and_is_text_leaves_as_text() {
    for (text, body) in [("hello", ""), ("h\u{e9}llo", " BODY=8BITMIME")] {
        let hop = Hop::start(|word, _, _| (word == "EHLO").then_some(Act::Say("250-hop\r\n250 8BITMIME")));
        let scratch = to(&hop);
        let content = format!("Subject: x\r\n\r\n.dot\r\n{text}\r\n");
        let from = ("alice@mx.example", "BODY=BINARYMIME");
        scratch.enqueue_with(from, &[("bob@b.example", "")], content.as_bytes());
        let log = scratch.deliver();
        let taken = hop.taken();
        assert_eq!(taken.len(), 1, "{log}");
        assert_eq!(taken[0].mail, format!("MAIL FROM:<alice@mx.example>{body}"));
        assert_eq!(taken[0].content, ARRIVED.replace("hello", text));
        // So does what an alias sends on.
        scratch.write("aliases", "far: bob@b.example\n");
        scratch.enqueue_with(from, &[("far@mx.example", "")], content.as_bytes());
        scratch.deliver();
        let log = scratch.deliver();
        let taken = hop.taken();
        assert_eq!(taken.len(), 2, "{log}");
        assert!(taken[1].content.starts_with("Delivered-To: far@mx.example\r\n"), "{:?}", taken[1].content);
        assert!(taken[1].content.ends_with(&ARRIVED.replace("hello", text)), "{:?}", taken[1].content);
    }
}

#[test]
fn bare_line_ends_never_leave_by_smtp() {
    let hop = Hop::friendly();
    let scratch = to(&hop);
    scratch.enqueue(&["bob@b.example"], b"Subject: x\n\na\r.\rb\r\n.\r\n.\n..\nend");
    scratch.deliver();
    let content = &hop.taken()[0].content;
    assert!(content.ends_with("\r\n\r\na . b\r\n.\r\n.\r\n..\r\nend\r\n"), "{content:?}");
    assert_eq!(hop.taken().len(), 1);
}

#[test]
fn lmtp_over_tcp_has_an_answer_for_each_recipient() {
    let hop =
        Hop::start(|word, line, _| (word == "." && line.contains("full")).then_some(Act::Say("452 4.2.2 over quota")));
    let scratch = site(&format!("lmtp:{}", hop.name()), "");
    let id = scratch.enqueue(&["bob@b.example", "full@b.example"], TEXT);
    let log = scratch.deliver();
    assert!(
        log.contains("to=<bob@b.example> status=relayed") && log.contains("to=<full@b.example> status=deferred"),
        "{log}"
    );
    assert!(hop.seen().iter().any(|line| line.starts_with("LHLO ")), "{:?}", hop.seen());
    assert_eq!(take(&scratch, &id).recipients[1].attempts, 1);
}
