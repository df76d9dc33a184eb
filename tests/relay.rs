//! deliver to other hosts, by its program: what it says to them, what each of their answers means, and what becomes of a
//! message when they break off.

mod common;

use common::hops::{Act, Deaf, Hop, Taken};
use common::names::Names;
use common::watching::Watching;
use common::{Scratch, until};
use doorpost::message::parameters::{MailParameters, RecipientParameters};
use doorpost::message::path::{Address, ReversePath};
use doorpost::queue::{Draft, Head, Id, Queue};
use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An installation that sends everything but its own mail by this transport.
fn site(transport: &str, more: &str) -> Scratch {
    let scratch = Scratch::with(&format!("smtp_connect_timeout = 5s\nsmtp_helo_timeout = 5s\n{more}"));
    scratch.write("channels", &format!("local - mx.example mailbox: *\nout * * \"{transport}\" *\n"));
    scratch
}

fn to(hop: &Hop) -> Scratch {
    site(&format!("smtp:{}", hop.name()), "")
}

/// Queues a message as submit does.
fn enqueue(scratch: &Scratch, to: &[&str], content: &[u8]) -> Id {
    enqueue_with(scratch, "alice@mx.example", to, content, "", "")
}

fn enqueue_with(scratch: &Scratch, from: &str, to: &[&str], content: &[u8], mail: &str, rcpt: &str) -> Id {
    commit(scratch, draft(scratch), from, to, content, mail, rcpt)
}

/// One of alice's with a fact noted about it.
fn enqueue_as(scratch: &Scratch, (name, value): (&str, &str), to: &[&str], mail: &str) -> Id {
    let mut draft = draft(scratch);
    draft.attribute(name, value).expect("room");
    commit(scratch, draft, "alice@mx.example", to, TEXT, mail, "")
}

fn draft(scratch: &Scratch) -> Draft {
    fs::create_dir_all(scratch.queue().join("message")).expect("a folder");
    Queue::at(&scratch.queue()).begin().expect("a draft")
}

fn commit(scratch: &Scratch, mut draft: Draft, from: &str, to: &[&str], content: &[u8], mail: &str, rcpt: &str) -> Id {
    draft.content(content).expect("content");
    draft.end_content().expect("its end");
    let parameters = RecipientParameters::from_text(rcpt.as_bytes()).expect("parameters");
    for address in to {
        draft
            .recipient_with(&Address::from_internal(address.as_bytes()).expect("an address"), &parameters)
            .expect("a recipient");
    }
    draft.parameters(&MailParameters::from_text(mail.as_bytes()).expect("parameters")).expect("parameters");
    let reverse_path = ReversePath::from_internal(from.as_bytes()).expect("a sender");
    let head = Head { reverse_path, trace: b"Received: by mx.example\n".to_vec(), channel: "local".into() };
    let id = draft.commit(&head).expect("a message");
    scratch.hand_over(&scratch.queue());
    id
}

fn deliver(scratch: &Scratch) -> String {
    String::from_utf8(scratch.deliver().stderr).expect("printable records")
}

const TEXT: &[u8] = b"Subject: x\n\n.dot\nhello\n";

/// What arrived of TEXT, as the hops keep it.
const ARRIVED: &str = "Received: by mx.example\r\nSubject: x\r\n\r\n.dot\r\nhello\r\n";

#[test]
fn a_message_goes_to_all_its_recipients_in_one_transaction() {
    let hop = Hop::friendly();
    let scratch = to(&hop);
    enqueue(&scratch, &["bob@b.example", "a b@c.example"], TEXT);
    let log = deliver(&scratch);
    assert_eq!(log.matches("status=relayed").count(), 2, "{log}");
    let rcpts = vec!["RCPT TO:<bob@b.example>".to_owned(), "RCPT TO:<\"a b\"@c.example>".to_owned()];
    let mail = format!("MAIL FROM:<alice@mx.example> SIZE={}", ARRIVED.len());
    assert_eq!(hop.taken(), [Taken { mail, rcpts, content: ARRIVED.to_owned() }]);
    assert_eq!(scratch.queued(), []);
    assert_eq!(hop.seen().last().map(String::as_str), Some("QUIT"), "{:?}", hop.seen());
}

#[test]
fn messages_to_one_host_share_a_connection() {
    let hop = Hop::friendly();
    let scratch = site(&format!("smtp:{}", hop.name()), "default_destination_concurrency_limit = 1");
    for number in 0..20 {
        enqueue(&scratch, &[&format!("user{number}@b.example")], TEXT);
    }
    deliver(&scratch);
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
    let id = enqueue(&scratch, &["now@b.example", "never@b.example", "later@b.example"], TEXT);
    deliver(&scratch);
    assert_eq!(hop.taken()[0].rcpts, ["RCPT TO:<now@b.example>"]);
    let back = String::from_utf8(scratch.mail("alice").concat()).expect("a report");
    assert!(back.contains("never@b.example") && back.contains("550 5.1.1 no such user"), "{back}");
    assert!(!back.contains("now@b.example"), "{back}");
    let message = Queue::at(&scratch.queue()).take(&id).expect("the queue").expect("the message");
    let reports: Vec<&str> = message.recipients.iter().map(|recipient| recipient.report.as_str()).collect();
    assert_eq!(reports[2], "4.2.1 127.0.0.1 said: 450 4.2.1 mailbox busy (to RCPT)");
    drop(message);
    deliver(&scratch);
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
    enqueue_with(&scratch, "alice@mx.example", &["never@b.example"], TEXT, "ENVID=x+2By", "ORCPT=rfc822;old@c.example");
    deliver(&scratch);
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

#[test]
fn a_next_hop_may_be_reached_over_ipv6() {
    let scratch = Scratch::new();
    scratch.write("channels", "out [::1] mx2.example discard: *\n");
    let listener = TcpListener::bind("[::1]:0").expect("a port of ::1");
    let port = listener.local_addr().expect("its number").port();
    let mut command = scratch.command("smtpsrvr");
    let command = command.stdin(std::os::fd::OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Smtpsrvr(command.spawn().expect("smtpsrvr"), scratch, port);
    let scratch = &server.1;
    for next_hop in [format!("[::1]:{port}"), format!("[IPv6:::1]:{port}")] {
        let client = site(&format!("smtp:{next_hop}"), "");
        enqueue(&client, &["bob@mx2.example"], TEXT);
        let log = deliver(&client);
        assert!(log.contains("status=relayed"), "{log}");
        let whole = scratch.queued().pop().expect("the message").whole;
        assert!(String::from_utf8_lossy(&whole).contains("[IPv6:::1]"), "{}", String::from_utf8_lossy(&whole));
    }
}

/// By MX and AAAA; where IPv6 is refused, or says "later" at once, the host's A is asked.
#[test]
fn a_mail_host_is_reached_over_ipv6_and_over_ipv4_where_that_is_refused() {
    const BOTH: common::names::Table = &[
        ("both.example", "MX", "10 mx.both.example"),
        ("mx.both.example", "AAAA", "::1"),
        ("mx.both.example", "A", "127.0.0.1"),
        ("six.example", "AAAA", "::1"),
    ];
    let names = Names::start(BOTH);
    let run = |port: u16| {
        let more = format!("name_servers = {}\nsmtp_tcp_port = {port}\ndefault_process_limit = 1", names.address);
        let scratch = site("smtp:", &more);
        enqueue(&scratch, &["bob@both.example"], TEXT);
        enqueue(&scratch, &["bob@six.example"], TEXT);
        (deliver(&scratch), scratch)
    };
    let six = Hop::on(TcpListener::bind("[::1]:0").expect("a port of ::1"), |_, _, _| None);
    let (log, _scratch) = run(six.address.port());
    assert_eq!((six.taken().len(), log.matches("status=relayed").count()), (2, 2), "{log}");
    let four = Hop::friendly();
    let port = four.address.port();
    for is_there in [false, true] {
        let later = |word: &str, _: &str, _| (word == "greeting").then_some(Act::Say("421 4.3.2 not now"));
        let six = is_there.then(|| Hop::on(TcpListener::bind(("::1", port)).expect("the same port"), later));
        let (log, _scratch) = run(port);
        assert_eq!(four.taken().len(), 1 + usize::from(is_there), "{log}");
        assert!(log.contains("to=<bob@both.example> status=relayed"), "{log}");
        assert!(log.contains("to=<bob@six.example> status=deferred"), "{log}");
        assert!(log.contains("host=mx.both.example place=Net([::1]:"), "IPv6 was asked first: {log}");
        assert_eq!(six.map(|six| six.sessions() > 0), is_there.then_some(true));
    }
}

/// RFC 8689, from a client that asks for it to a host that promises it, and to one that does not.
#[test]
fn what_came_in_with_requiretls_leaves_with_it_or_not_at_all() {
    for promises in [true, false] {
        let more = if promises { "" } else { "smtpd_discard_ehlo_keywords = requiretls" };
        let server = Smtpsrvr::with(more, "local - mx.example mailbox: -\nall * * discard: *\n");
        let names = Names::start(ZONE);
        let hop = format!("smtp:[mx.example]:{}", server.2);
        let client = site(&hop, &format!("name_servers = {}", names.address));
        client.configure(&format!("smtp_tls_CAfile = {}", common::tls::file("mx.crt.pem").display()));
        enqueue_with(&client, "alice@mx.example", &["bob@b.example"], TEXT, "REQUIRETLS", "");
        let log = deliver(&client);
        let queued = server.1.queued();
        assert_eq!(queued.len(), usize::from(promises), "{log}");
        if promises {
            assert_eq!(queued[0].parameters, "REQUIRETLS|", "{log}");
        } else {
            assert!(log.contains("status=failed") && log.contains("5.7.30"), "{log}");
            let back = String::from_utf8(client.mail("alice").concat()).expect("a report");
            assert!(back.contains("Status: 5.7.30"), "{back}");
            // Section 5: a report brings the header alone, and is not lost because nobody promises the same for it.
            enqueue_with(&client, "carol@b.example", &["bob@b.example"], TEXT, "REQUIRETLS RET=FULL", "");
            let log = deliver(&client);
            let back = server.1.queued().pop().unwrap_or_else(|| panic!("{log}"));
            assert_eq!(back.parameters, "|", "{log}");
            let text = String::from_utf8_lossy(&back.whole);
            assert!(text.contains("Subject: ") && !text.contains("\nhello\n"), "{text}");
        }
    }
}

/// RFC 8689 section 4.2.1: the promise may be another host's.
#[test]
fn each_host_of_a_domain_is_asked_for_requiretls() {
    const TWO: common::names::Table =
        &[("two.example", "MX", "10 mx.example"), ("mx.example", "A", "127.0.0.2"), ("mx.example", "A", "127.0.0.1")];
    const ALL: &str = "local - mx.example mailbox: -\nall * * discard: *\n";
    let names = Names::start(TWO);
    let good = Smtpsrvr::with("", ALL);
    let port = good.2;
    let listener = TcpListener::bind(("127.0.0.2", port)).expect("the same port");
    let bad = Smtpsrvr::on(listener, "smtpd_discard_ehlo_keywords = requiretls", ALL);
    let client = site("smtp:", &format!("name_servers = {}\nsmtp_tcp_port = {port}", names.address));
    client.configure(&format!(
        "smtp_mx_session_limit = 1\nmyhostname = client.example\nsmtp_tls_CAfile = {}",
        common::tls::file("mx.crt.pem").display()
    ));
    enqueue_with(&client, "alice@mx.example", &["bob@two.example"], TEXT, "REQUIRETLS", "");
    let log = deliver(&client);
    assert_eq!((good.1.queued().len(), bad.1.queued().len()), (1, 0), "{log}");
    assert_eq!(good.1.queued()[0].parameters, "REQUIRETLS|", "{log}");
}

/// Who makes no promise comes before one that is not there, and behind it.
#[test]
fn mail_with_requiretls_waits_for_a_host_that_could_not_be_asked() {
    for preference in ["10 gone.example", "90 gone.example"] {
        let names = Names::start(match preference {
            "10 gone.example" => &[
                ("two.example", "MX", "10 gone.example"),
                ("two.example", "MX", "50 mx.example"),
                ("mx.example", "A", "127.0.0.1"),
                ("gone.example", "A", "127.0.0.2"),
            ],
            _ => &[
                ("two.example", "MX", "90 gone.example"),
                ("two.example", "MX", "50 mx.example"),
                ("mx.example", "A", "127.0.0.1"),
                ("gone.example", "A", "127.0.0.2"),
            ],
        });
        let server = Smtpsrvr::with("smtpd_discard_ehlo_keywords = requiretls", "all * * discard: *\n");
        let client = site("smtp:", &format!("name_servers = {}\nsmtp_tcp_port = {}", names.address, server.2));
        client.configure(&format!(
            "myhostname = client.example\nsmtp_tls_CAfile = {}",
            common::tls::file("mx.crt.pem").display()
        ));
        enqueue_with(&client, "alice@mx.example", &["bob@two.example"], TEXT, "REQUIRETLS", "");
        let log = deliver(&client);
        assert!(log.contains("status=deferred") && log.contains("4.7.30 "), "{preference}: {log}");
        assert_eq!((client.queued().len(), server.1.queued().len()), (1, 0), "{preference}: {log}");
    }
}

/// Which is never asked keeps no mail waiting for all its life.
#[test]
fn mail_with_requiretls_goes_back_when_all_that_are_asked_have_promised_nothing() {
    let names = Names::start(&[
        ("two.example", "MX", "50 mx.example"),
        ("two.example", "MX", "90 gone.example"),
        ("mx.example", "A", "127.0.0.1"),
        ("gone.example", "A", "127.0.0.2"),
    ]);
    let server = Smtpsrvr::with("smtpd_discard_ehlo_keywords = requiretls", "all * * discard: *\n");
    let client = site("smtp:", &format!("name_servers = {}\nsmtp_tcp_port = {}", names.address, server.2));
    client.configure(&format!(
        "myhostname = client.example\nsmtp_mx_address_limit = 1\nsmtp_tls_CAfile = {}",
        common::tls::file("mx.crt.pem").display()
    ));
    enqueue_with(&client, "", &["bob@two.example"], TEXT, "", "");
    enqueue_with(&client, "alice@mx.example", &["bob@two.example"], TEXT, "REQUIRETLS", "");
    let log = deliver(&client);
    assert!(log.contains("status=failed") && log.contains("5.7.30 ") && !log.contains("deferred"), "{log}");
}

/// RFC 8689 section 5.
#[test]
fn a_report_is_to_arrive_as_the_message_was() {
    for (text, mail, expected) in [
        ("TLS-Required: no\nSubject: x\n\nx\n", "", true),
        ("Subject: x\n\nTLS-Required: No\n", "", false),
        ("Subject: x\nTLS-Required: No\n\nx\n", "RET=HDRS", true),
        ("TLS-Required: No\n\nx\n", "REQUIRETLS", false),
    ] {
        let scratch = site("error:5.1.1 nobody is there", "");
        enqueue_with(&scratch, "alice@mx.example", &["bob@b.example"], text.as_bytes(), mail, "");
        deliver(&scratch);
        deliver(&scratch);
        let back = String::from_utf8(scratch.mail("alice").concat()).expect("a report");
        let (header, _) = back.split_once("\n\n").expect("a header");
        assert_eq!(header.contains("\nTLS-Required: No\n"), expected, "{text:?} {mail}: {back}");
    }
}

/// A message that ends its way there, and one that only comes by: what holds for the one is not kept for the other.
#[test]
fn a_connection_to_a_filter_is_not_one_to_the_end_of_the_way() {
    let hop = Hop::friendly();
    let lmtp = format!("lmtp:{}", hop.name());
    let one_by_one = "default_process_limit = 1\ndefault_destination_concurrency_limit = 1";
    let scratch = site(&lmtp, one_by_one);
    for _ in 0..2 {
        enqueue_with(&scratch, "alice@mx.example", &["bob@b.example"], TEXT, "REQUIRETLS", "");
        enqueue_as(&scratch, ("content_filter", &lmtp), &["carol@b.example"], "REQUIRETLS");
    }
    let log = deliver(&scratch);
    let taken = hop.taken();
    assert_eq!(taken.len(), 2, "{log}");
    assert!(!hop.seen().iter().any(|line| line.contains("carol@")), "{log}");
}

/// There the message does not leave the machine any more; but a filter hands it on.
#[test]
fn mail_with_requiretls_is_delivered_by_lmtp_on_this_machine() {
    for (level, filter, is_taken) in
        [("may", false, true), ("encrypt", false, true), ("verify", false, true), ("may", true, false)]
    {
        let hop = Hop::friendly();
        let lmtp = format!("lmtp:{}", hop.name());
        let scratch = site(&lmtp, &format!("smtp_tls_security_level = {level}"));
        if filter {
            enqueue_as(&scratch, ("content_filter", &lmtp), &["bob@b.example"], "REQUIRETLS");
        } else {
            enqueue_with(&scratch, "alice@mx.example", &["bob@b.example"], TEXT, "REQUIRETLS", "");
        }
        let log = deliver(&scratch);
        let taken = hop.taken();
        assert_eq!(taken.len(), usize::from(is_taken), "{level}: {log}");
        assert!(taken.iter().all(|taken| !taken.mail.contains("REQUIRETLS")), "{taken:?}");
    }
}

/// RFC 8689 section 4.2.2.
#[test]
fn a_header_may_ask_for_delivery_without_tls() {
    const ASKS: &str = "From: a@b.example\ntls-required:\n NO \nSubject: your certificate\n\nis too old\n";
    const BEHIND: &str = "Subject: x\n\nTLS-Required: No\n";
    for (level, more, mail, text, is_taken) in [
        ("encrypt", "", "", ASKS, true),
        ("secure", "", "", ASKS, true),
        ("encrypt", "", "", BEHIND, false),
        ("encrypt", "tls_required_enable = no", "", ASKS, false),
        ("encrypt", "", "REQUIRETLS", ASKS, false),
    ] {
        let hop = Hop::friendly();
        let scratch = site(&format!("smtp:{}", hop.name()), &format!("smtp_tls_security_level = {level}\n{more}"));
        enqueue_with(&scratch, "alice@mx.example", &["bob@b.example"], text.as_bytes(), mail, "");
        let log = deliver(&scratch);
        assert_eq!(hop.taken().len(), usize::from(is_taken), "{level} {more} {mail}: {log}");
    }
}

/// One that a message without TLS has used is none for the next, and no password goes there.
#[test]
fn what_a_header_asks_for_is_for_its_message_alone() {
    const ASKS: &str = "TLS-Required: No\n\nx\n";
    let hop = Hop::friendly();
    let one_by_one = "default_process_limit = 1\ndefault_destination_concurrency_limit = 1";
    let scratch = site(&format!("smtp:{}", hop.name()), &format!("smtp_tls_security_level = encrypt\n{one_by_one}"));
    for text in [ASKS, "Subject: x\n\nsecret\n", ASKS, "Subject: x\n\nsecret\n"] {
        enqueue(&scratch, &["bob@b.example"], text.as_bytes());
    }
    let log = deliver(&scratch);
    assert_eq!(hop.taken().len(), 2, "{log}");
    assert!(hop.taken().iter().all(|taken| !taken.content.contains("secret")), "{log}");
    let hop = Hop::start(|word, _, _| (word == "EHLO").then_some(Act::Say("250-hop\r\n250 AUTH CRAM-MD5")));
    let scratch = site(
        &format!("smtp:{}", hop.name()),
        "smtp_tls_security_level = encrypt\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = $config_directory/pw",
    );
    scratch.write("pw", &format!("{} alice:secret\n", hop.name()));
    enqueue(&scratch, &["bob@b.example"], ASKS.as_bytes());
    let log = deliver(&scratch);
    assert!(hop.taken().is_empty() && hop.seen().iter().all(|line| !line.starts_with("AUTH")), "{log}");
}

/// The same host is good enough for mail that asks for less, before it and behind it.
#[test]
fn a_message_that_finds_no_tls_keeps_no_other_back() {
    let without = |_: &str, _: &str, _: usize| None;
    let broken = |word: &str, _: &str, _: usize| match word {
        "EHLO" => Some(Act::Say("250-hop\r\n250 STARTTLS")),
        "STARTTLS" => Some(Act::Say("220 go\r\nnonsense")),
        _ => None,
    };
    for hop in [Hop::start(without), Hop::start(broken)] {
        let one_by_one = "default_process_limit = 1\ndefault_destination_concurrency_limit = 1";
        let scratch = site(&format!("smtp:{}", hop.name()), one_by_one);
        scratch.configure(&format!("smtp_tls_CAfile = {}", common::tls::file("mx.crt.pem").display()));
        for sweep in 1..=2 {
            for parameters in ["REQUIRETLS", "", "REQUIRETLS", "", "REQUIRETLS"] {
                enqueue_with(&scratch, "alice@mx.example", &["bob@b.example"], TEXT, parameters, "");
            }
            let log = deliver(&scratch);
            let count = |what: &str| log.matches(&format!("status={what}")).count();
            assert_eq!((count("relayed"), count("deferred"), count("failed")), (2, 3, 0), "{sweep}: {log}");
            assert_eq!((hop.taken().len(), scratch.queued().len()), (2 * sweep, 3 * sweep), "{log}");
        }
    }
}

/// A host that takes its time for an answer does not keep a service from being stopped.
#[test]
fn told_to_stop_deliver_ends_in_time_whatever_its_next_hop_does() {
    let hop = Hop::start(|word, _, session| (word == "." && session == 0).then_some(Act::Silence));
    let scratch = site(&format!("smtp:{}", hop.name()), "deliver_stop_timeout = 1s");
    let id = enqueue(&scratch, &["bob@b.example"], TEXT);
    let mut child = scratch.command("deliver").arg("--watch").stderr(Stdio::piped()).spawn().expect("deliver");
    until("the end of the message", || hop.seen().iter().any(|line| line == "DATA") && !hop.taken().is_empty());
    let told = Instant::now();
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a signal");
    assert!(child.wait().expect("its end").success());
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
    let mut log = String::new();
    let stderr = child.stderr.as_mut().expect("a pipe");
    std::io::Read::read_to_string(stderr, &mut log).expect("its records");
    assert!(log.contains("event=stopped unfinished=1 "), "{log}");
    assert_eq!(scratch.queued().len(), 1, "nothing is lost");
    scratch.settle();
    scratch.run("deliver", &[id.as_str()], b"");
    assert_eq!((hop.taken().len(), scratch.queued().len()), (2, 0), "the one in flight, once more");
}

/// What is said or done at a stage, and what becomes of the message: `deferred`, `failed`.
const ODD: [(&str, Act, &str); 22] = [
    ("greeting", Act::Say("554 5.7.1 go away"), "deferred"),
    ("greeting", Act::Drop, "deferred"),
    ("greeting", Act::Half("220-hop"), "deferred"),
    ("greeting", Act::Say("+OK POP3"), "deferred"),
    ("EHLO", Act::Drop, "deferred"),
    ("EHLO", Act::Say("421 4.3.2 closing"), "deferred"),
    ("MAIL", Act::Say("550 5.1.8 bad sender"), "failed"),
    ("MAIL", Act::Say("451 4.3.0 later"), "deferred"),
    ("MAIL", Act::Drop, "deferred"),
    ("RCPT", Act::Say("550 5.1.1 no"), "failed"),
    ("RCPT", Act::Say("421 4.3.2 closing"), "deferred"),
    ("RCPT", Act::Half("250 2.1"), "deferred"),
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

#[test]
fn every_answer_at_every_stage_is_one_of_three_ends_and_never_two() {
    for (stage, act, status) in ODD {
        let doing = act.clone();
        let hop = Hop::start(move |word, _, _| (word == stage).then(|| doing.clone()));
        let scratch = to(&hop);
        enqueue(&scratch, &["bob@b.example"], TEXT);
        let log = deliver(&scratch);
        let what = format!("{stage} {act:?}: {log}");
        assert!(log.contains(&format!("to=<bob@b.example> status={status} ")), "{what}");
        let (queued, back) = (scratch.queued().len(), scratch.mail("alice").len());
        assert_eq!((queued, back), (usize::from(status == "deferred"), usize::from(status == "failed")), "{what}");
    }
}

#[test]
fn silence_ends_with_the_time_for_each_stage() {
    let stages = [
        ("greeting", "smtp_helo_timeout"),
        ("EHLO", "smtp_helo_timeout"),
        ("MAIL", "smtp_mail_timeout"),
        ("RCPT", "smtp_rcpt_timeout"),
        ("DATA", "smtp_data_init_timeout"),
        (".", "smtp_data_done_timeout"),
    ];
    for (stage, parameter) in stages {
        let hop = Hop::start(move |word, _, _| (word == stage).then_some(Act::Silence));
        let scratch = site(&format!("smtp:{}", hop.name()), &format!("{parameter} = 1s"));
        enqueue(&scratch, &["bob@b.example"], TEXT);
        let start = Instant::now();
        let log = deliver(&scratch);
        assert!(log.contains("status=deferred") && log.contains("took too long"), "{stage}: {log}");
        assert!(start.elapsed() < Duration::from_secs(15), "{stage}: {:?}", start.elapsed());
    }
}

#[test]
fn a_message_whose_answer_was_lost_is_there_twice_and_not_more() {
    let hop = Hop::start(|word, _, session| (word == "." && session == 0).then_some(Act::Drop));
    let scratch = to(&hop);
    let id = enqueue(&scratch, &["bob@b.example"], TEXT);
    deliver(&scratch);
    assert_eq!((hop.taken().len(), scratch.queued().len()), (1, 1));
    scratch.run("deliver", &[id.as_str()], b"");
    deliver(&scratch);
    assert_eq!((hop.taken().len(), scratch.queued().len()), (2, 0));
}

#[test]
fn what_a_message_said_about_itself_goes_on_where_the_host_knows_it() {
    let offers = "250-hop\r\n250-PIPELINING\r\n250-DSN\r\n250-8BITMIME\r\n250-SIZE\r\n250 SMTPUTF8";
    let hop = Hop::start(move |word, _, _| (word == "EHLO").then_some(Act::Say(offers)));
    let scratch = to(&hop);
    let (mail, rcpt) = ("BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+20x", "NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@c");
    enqueue_with(
        &scratch,
        "al\u{ef}ce@mx.example",
        &["bob@b.example"],
        "Subject: \u{e4}\n\nx\n".as_bytes(),
        mail,
        rcpt,
    );
    deliver(&scratch);
    let taken = hop.taken();
    assert!(taken[0].mail.ends_with(" BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+20x"), "{taken:?}");
    assert_eq!(taken[0].rcpts, ["RCPT TO:<bob@b.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@c"]);
    assert_eq!((scratch.queued(), scratch.mail("alice").len()), (vec![], 0), "who knows DSN tells the sender");

    let plain = Hop::start(|word, _, _| (word == "EHLO").then_some(Act::Say("250 hop")));
    let scratch = to(&plain);
    enqueue_with(&scratch, "alice@mx.example", &["bob@b.example"], TEXT, "RET=HDRS", "NOTIFY=SUCCESS");
    deliver(&scratch);
    assert_eq!(
        (plain.taken()[0].mail.as_str(), plain.taken()[0].rcpts[0].as_str()),
        ("MAIL FROM:<alice@mx.example>", "RCPT TO:<bob@b.example>")
    );
    assert!(
        String::from_utf8_lossy(&scratch.mail("alice").concat()).contains("Action: relayed"),
        "success is told by us"
    );
}

#[test]
fn what_a_host_cannot_take_is_returned_and_not_bent() {
    for (mail, content, status) in [
        ("", "Subject: \u{e4}\n\nx\n", "5.6.3"),
        ("SMTPUTF8", "Subject: \u{e4}\n\nx\n", "5.6.7"),
        ("BODY=BINARYMIME", "a\0b", "5.6.1"),
        ("REQUIRETLS", "Subject: x\n\nx\n", "5.7.30"),
    ] {
        let hop = Hop::start(|word, _, _| (word == "EHLO").then_some(Act::Say("250 hop")));
        let scratch = site(&format!("smtp:{}", hop.name()), "smtp_tls_security_level = none");
        enqueue_with(&scratch, "alice@mx.example", &["bob@b.example"], content.as_bytes(), mail, "");
        let log = deliver(&scratch);
        let expected = if status == "5.7.30" { "status=deferred" } else { "status=failed" };
        assert!(log.contains(expected) && (log.contains(status) || status == "5.7.30"), "{mail}: {log}");
        assert_eq!(hop.taken(), []);
    }
}

#[test]
fn mail_with_requiretls_does_not_leave_by_a_protocol_without_tls() {
    for protocol in ["qmqp", "qmtp"] {
        // Nobody listens there any more: who tries all the same is put off.
        let place = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let scratch = site(&format!("{protocol}:{place}"), "");
        enqueue_with(&scratch, "alice@mx.example", &["bob@b.example"], TEXT, "REQUIRETLS", "");
        let log = deliver(&scratch);
        assert!(log.contains("status=failed") && log.contains("5.7.30"), "{protocol}: {log}");
    }
}

#[test]
fn bare_line_ends_never_leave_by_smtp() {
    let hop = Hop::friendly();
    let scratch = to(&hop);
    enqueue(&scratch, &["bob@b.example"], b"Subject: x\n\na\r.\rb\r\n.\r\n.\n..\nend");
    deliver(&scratch);
    let content = &hop.taken()[0].content;
    assert!(content.ends_with("\r\n\r\na . b\r\n.\r\n.\r\n..\r\nend\r\n"), "{content:?}");
    assert_eq!(hop.taken().len(), 1);
}

#[test]
fn lmtp_over_tcp_has_an_answer_for_each_recipient() {
    let hop =
        Hop::start(|word, line, _| (word == "." && line.contains("full")).then_some(Act::Say("452 4.2.2 over quota")));
    let scratch = site(&format!("lmtp:{}", hop.name()), "");
    let id = enqueue(&scratch, &["bob@b.example", "full@b.example"], TEXT);
    let log = deliver(&scratch);
    assert!(
        log.contains("to=<bob@b.example> status=relayed") && log.contains("to=<full@b.example> status=deferred"),
        "{log}"
    );
    assert!(hop.seen().iter().any(|line| line.starts_with("LHLO ")), "{:?}", hop.seen());
    assert_eq!(Queue::at(&scratch.queue()).take(&id).expect("the queue").expect("a message").recipients[1].attempts, 1);
}

#[test]
fn a_host_that_does_not_answer_is_left_in_peace_for_a_while() {
    let dead = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port();
    let scratch = site(&format!("smtp:[127.0.0.1]:{dead}"), "default_destination_concurrency_limit = 1");
    for number in 0..10 {
        enqueue(&scratch, &[&format!("user{number}@b.example")], TEXT);
    }
    let log = deliver(&scratch);
    assert_eq!(log.matches("status=deferred").count(), 10, "{log}");
    assert_eq!(log.matches(" host=127.0.0.1 ").count(), 1, "one connection is tried: {log}");
    assert_eq!(scratch.queued().len(), 10);
}

/// What a name server says for good is no silence: nothing waits, and a sender hears once of all his recipients.
#[test]
fn mail_to_domains_without_a_host_goes_back_at_once_however_much_there_is() {
    let names = Names::start(ZONE);
    let more = format!("name_servers = {}\ndefault_destination_concurrency_limit = 1", names.address);
    let scratch = site("smtp:", &more);
    let domains = ["null", "loop", "empty", "unknown", "number"];
    for domain in domains {
        for number in 0..4 {
            enqueue(&scratch, &[&format!("user{number}@{domain}.example")], TEXT);
        }
        let many: Vec<String> = (0..120).map(|number| format!("many{number}@{domain}.example")).collect();
        enqueue(&scratch, &many.iter().map(String::as_str).collect::<Vec<_>>(), TEXT);
    }
    let log = deliver(&scratch);
    assert_eq!(log.matches("status=failed").count(), domains.len() * (4 + 120), "{log}");
    assert!(!log.contains("status=deferred") && log.contains("5.4.4 no mail host"), "{log}");
    assert_eq!((scratch.queued(), scratch.mail("alice").len()), (vec![], domains.len() * 5));
}

/// A mistyped smart host, or one that its zone has lost, is not the senders' affair.
#[test]
fn a_next_hop_that_the_administrator_named_and_is_not_there_returns_nothing() {
    let names = Names::start(ZONE);
    for transport in ["smtp:unknown.example", "smtp:[unknown.example]", "smtp:loop.example", "lmtp:unknown.example"] {
        let scratch = site(transport, &format!("name_servers = {}", names.address));
        for number in 0..3 {
            enqueue(&scratch, &[&format!("user{number}@b.example")], TEXT);
        }
        let log = deliver(&scratch);
        assert_eq!(log.matches("status=deferred").count(), 3, "{transport}: {log}");
        assert!(log.contains("reason=\"4."), "{transport}: {log}");
        assert_eq!((scratch.queued().len(), scratch.mail("alice").len()), (3, 0), "{transport}");
    }
}

#[test]
fn one_next_hop_never_has_more_connections_than_its_limit_and_does_not_hold_up_others() {
    let slow = Hop::start(|word, _, _| {
        if word == "." {
            std::thread::sleep(Duration::from_millis(300));
        }
        None
    });
    let scratch = Scratch::with("default_destination_concurrency_limit = 2\ndefault_process_limit = 4");
    scratch.write("channels", &format!("local - mx.example mailbox: *\nout * * smtp:{} *\n", slow.name()));
    for number in 0..12 {
        enqueue(&scratch, &[&format!("user{number}@b.example")], TEXT);
    }
    enqueue(&scratch, &["bob@mx.example"], TEXT);
    let mut child = scratch.command("deliver").stderr(Stdio::null()).spawn().expect("deliver");
    until("the message for somebody here", || scratch.mail("bob").len() == 1);
    assert!(slow.taken().len() < 10, "it did not wait for the flood: {}", slow.taken().len());
    assert!(child.wait().expect("its end").success());
    assert_eq!((slow.taken().len(), scratch.queued().len()), (12, 0));
    assert!(slow.sessions() <= 2, "{}", slow.sessions());
}

/// The next in line is somebody else's when its turn comes, and so nobody calls the one behind it.
#[test]
fn who_waits_for_a_busy_host_behind_one_that_does_not_come_is_called() {
    let (go, wait) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(Some(wait));
    let hop = Hop::start(move |word, _, _| {
        if word == "."
            && let Some(wait) = wait.lock().expect("the signal").take()
        {
            let _ = wait.recv_timeout(Duration::from_secs(60));
        }
        None
    });
    let scratch = site(
        &format!("smtp:{}", hop.name()),
        "default_destination_concurrency_limit = 1\nqueue_run_delay = 1h\nsmtp_data_done_timeout = 60s",
    );
    let (queue, path) = (Queue::at(&scratch.queue()), scratch.path().join("log"));
    enqueue(&scratch, &["first@b.example"], TEXT);
    let log = fs::File::create(&path).expect("a log");
    let watching = Watching::by(scratch.command("deliver").arg("-w").stderr(log));
    until("the first to be at its host", || hop.seen().contains(&"DATA".to_owned()));
    let waiting = ["second", "third"].map(|user| {
        let id = enqueue(&scratch, &[&format!("{user}@b.example")], TEXT);
        assert!(queue.wake_for(&id));
        let tried = format!("id={id} to=<{user}@b.example> event=trying");
        until("a try", || fs::read_to_string(&path).expect("the log").contains(&tried));
        let mut message = None;
        until("its end", || {
            message = queue.take(&id).expect("a message");
            message.is_some()
        });
        message
    });
    let [second, third] = waiting;
    drop(third);
    go.send(()).expect("a host that waits");
    until("the last in line", || hop.taken().len() == 2);
    assert!(hop.taken()[1].rcpts[0].contains("third@"), "{:?}", hop.taken());
    drop(second);
    watching.terminate();
    assert_eq!((hop.taken().len(), scratch.queued()), (3, vec![]));
}

/// Where a busy host takes a message in many pieces, its sender still hears once of all who failed.
#[test]
fn a_message_that_goes_to_a_busy_host_in_pieces_comes_back_in_one() {
    let hop = Hop::start(|word, line, _| match word {
        "RCPT" if line.contains("never") => {
            std::thread::sleep(Duration::from_millis(5));
            Some(Act::Say("550 5.1.1 no such user"))
        }
        _ => None,
    });
    let more =
        "default_destination_concurrency_limit = 1\ndefault_process_limit = 8\nsmtp_destination_recipient_limit = 2";
    let scratch = site(&format!("smtp:{}", hop.name()), more);
    let to: Vec<String> = (0..40).map(|number| format!("never{number}@b.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let id = enqueue(&scratch, &to, TEXT);
    for number in 0..60 {
        enqueue(&scratch, &[&format!("user{number}@b.example")], TEXT);
    }
    let log = deliver(&scratch);
    assert_eq!((hop.taken().len(), scratch.queued()), (60, vec![]), "{log}");
    let tries = log.matches(&format!("id={id} from=")).count();
    assert_eq!(tries, 40, "each recipient once: {log}");
    let back = scratch.mail("alice");
    assert_eq!(back.len(), 1, "{log}");
    assert_eq!(String::from_utf8_lossy(&back[0]).matches("Final-Recipient: ").count(), 40);
}

#[test]
fn a_flood_is_delivered_once_each() {
    let hop = Hop::friendly();
    let scratch = to(&hop);
    for number in 0..300 {
        enqueue(&scratch, &[&format!("user{number}@b.example")], TEXT);
    }
    deliver(&scratch);
    let mut count: HashMap<String, usize> = HashMap::new();
    hop.taken().iter().flat_map(|taken| taken.rcpts.clone()).for_each(|rcpt| *count.entry(rcpt).or_default() += 1);
    assert_eq!((count.len(), count.values().max()), (300, Some(&1)));
    assert_eq!(scratch.queued().len(), 0);
}

#[test]
fn channels_can_discard_refuse_store_and_pipe() {
    let scratch = Scratch::new();
    let path = scratch.path().display().to_string();
    let program = scratch.path().join("program");
    fs::write(&program, format!("#!/bin/sh\ncat >{path}/mail/$1\n")).expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
    scratch.hand_over(&program);
    scratch.write(
        "channels",
        &format!(
            "local - mx.example mailbox: *\nhole - hole.example discard: -\nno - no.example \"error:5.7.1 not here\" -\n\
             all - all.example maildir:{path}/mail/all -\nprog - prog.example \"pipe:{path}/program %n\" -\n"
        ),
    );
    enqueue(&scratch, &["a@hole.example", "b@no.example", "c@all.example", "piped@prog.example"], TEXT);
    let log = deliver(&scratch);
    assert_eq!(log.matches("status=delivered").count(), 4, "three, and the report: {log}");
    assert!(log.contains("to=<b@no.example> status=failed") && log.contains("5.7.1 not here"), "{log}");
    assert!(String::from_utf8_lossy(&scratch.mail("all").concat()).ends_with("\n\n.dot\nhello\n"));
    let piped = fs::read_to_string(scratch.path().join("mail/piped")).expect("what was piped");
    assert!(piped.starts_with("Return-Path: <alice@mx.example>\nReceived: by mx.example\n"), "{piped}");
    assert_eq!((scratch.queued().len(), scratch.mail("alice").len()), (0, 1));
}

#[test]
fn a_channel_can_lead_into_one_mbox_or_mmdf_file() {
    let scratch = Scratch::new();
    let mail = scratch.path().join("mail");
    let folder = mail.display();
    scratch.write(
        "channels",
        &format!(
            "local - mx.example mailbox: *\nm - mbox.example mbox:{folder}/box.mbox -\n\
             f - mmdf.example mmdf:{folder}/box.mmdf -\n"
        ),
    );
    let content = b"Subject: x\n\nFrom here\n\x01\x01\x01\x01\nend\n";
    for format in ["mbox", "mmdf"] {
        for number in 0..3 {
            let (one, other) = (format!("a{number}@{format}.example"), format!("b{number}@{format}.example"));
            enqueue(&scratch, &[&one, &other], content);
        }
    }
    let log = deliver(&scratch);
    assert_eq!((log.matches("status=delivered").count(), scratch.queued().len()), (12, 0), "{log}");
    for (format, begin, body, end) in [
        ("mbox", "From alice@mx.example ", "\n>From here\n\x01\x01\x01\x01\nend\n", "\nend\n\n"),
        (
            "mmdf",
            "\x01\x01\x01\x01\nReturn-Path: <alice@mx.example>\n",
            "\nFrom here\n \x01\x01\x01\nend\n",
            "\nend\n\x01\x01\x01\x01\n",
        ),
    ] {
        let file = mail.join(format!("box.{format}"));
        let text = fs::read_to_string(&file).expect("a mailbox");
        assert!(text.starts_with(begin) && text.ends_with(end), "{format}: {text:?}");
        for each in ["Return-Path: <alice@mx.example>\n", " whole  \n", "Subject: x\n", body] {
            assert_eq!(text.matches(each).count(), 6, "{format} {each:?}: {text:?}");
        }
        let facts = fs::metadata(&file).expect("a mailbox");
        assert_eq!(facts.permissions().mode() & 0o777, 0o600, "{format}");
        if nix::unistd::geteuid().is_root() {
            assert_eq!(facts.uid(), common::NOBODY, "{format}: it belongs to mail_owner");
        }
    }
}

/// What is due and nobody told of: of before a restart, and what was held back.
#[test]
fn the_look_at_the_whole_queue_comes_in_time_while_a_host_takes_its_time() {
    let slow = Hop::start(|word, _, _| (word == ".").then_some(Act::Silence));
    let scratch = site(&format!("smtp:{}", slow.name()), "queue_run_delay = 1s\ndeliver_stop_timeout = 1s");
    enqueue(&scratch, &["bob@b.example"], TEXT);
    scratch.settle();
    let _watching = Watching::start(&scratch);
    until("the slow host to have it", || !slow.taken().is_empty());
    enqueue(&scratch, &["alice@mx.example"], TEXT);
    until("what nobody was told of", || scratch.mail("alice").len() == 1);
    assert_eq!(slow.sessions(), 1, "what is being worked on is not given out again");
}

/// Without a binary of strace this would be blind; `interop` has it.
#[test]
fn a_watching_deliver_takes_a_new_message_without_looking_at_the_others() {
    let hop = Hop::friendly();
    let scratch = to(&hop);
    let watching = Watching::start(&scratch);
    until("the watch to begin", || {
        enqueue(&scratch, &["bob@b.example"], TEXT);
        Queue::at(&scratch.queue()).wake();
        std::thread::sleep(Duration::from_millis(50));
        !hop.taken().is_empty()
    });
    until("an empty queue", || scratch.queued().is_empty());
    let before = hop.taken().len();
    let id = enqueue(&scratch, &["bob@b.example"], TEXT);
    assert!(Queue::at(&scratch.queue()).wake_for(&id));
    until("the message that was named", || hop.taken().len() == before + 1);
    watching.terminate();
}

#[test]
fn the_process_that_speaks_with_a_host_holds_no_right_on_the_queue() {
    let hop = Hop::start(|word, _, _| {
        if word == "MAIL" {
            std::thread::sleep(Duration::from_millis(1500));
        }
        None
    });
    let scratch = to(&hop);
    enqueue(&scratch, &["bob@b.example"], TEXT);
    let mut child = scratch.command("deliver").stderr(Stdio::null()).spawn().expect("deliver");
    until("the host to be spoken with", || hop.seen().iter().any(|line| line.starts_with("MAIL")));
    let agent = with_socket_to(&scratch, child.id());
    let status = fs::read_to_string(format!("/proc/{agent}/status")).expect("its status");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let links = fs::read_dir(format!("/proc/{agent}/fd")).expect("its files").filter_map(|entry| {
        let path = entry.ok()?.path();
        Some((path.file_name()?.to_string_lossy().into_owned(), fs::read_link(&path).ok()?))
    });
    let of_queue: Vec<(String, std::path::PathBuf)> =
        links.filter(|(_, link)| link.starts_with(scratch.queue())).collect();
    assert_eq!(of_queue.len(), 1, "the one open message: {of_queue:?}");
    let info = fs::read_to_string(format!("/proc/{agent}/fdinfo/{}", of_queue[0].0)).expect("its flags");
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim().to_owned();
    assert!(flags.ends_with('0') || flags.ends_with('4'), "read only: {flags}");
    assert!(child.wait().expect("its end").success());
}

/// The descendant of a process that holds an open TCP connection.
fn with_socket_to(_scratch: &Scratch, parent: u32) -> u32 {
    let output = Command::new("ps").args(["-o", "pid=", "--ppid", &parent.to_string()]).output().expect("ps");
    let children: Vec<u32> =
        String::from_utf8_lossy(&output.stdout).split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let confined = |pid: &&u32| {
        fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("NoNewPrivs:\t1"))
    };
    *children.iter().find(confined).expect("a confined child")
}

const ZONE: common::names::Table = &[
    ("b.example", "MX", "20 backup.b.example"),
    ("b.example", "MX", "10 dead.b.example"),
    ("dead.b.example", "A", "127.0.0.2"),
    ("backup.b.example", "A", "127.0.0.1"),
    ("plain.example", "A", "127.0.0.1"),
    ("null.example", "MX", "0 ."),
    ("loop.example", "MX", "10 mx.example"),
    ("loop.example", "MX", "20 backup.b.example"),
    ("empty.example", "MX", "10 nowhere.example"),
    ("number.example", "MX", "10 127.0.0.1"),
    ("number.example", "A", "127.0.0.1"),
    ("mx.example", "A", "127.0.0.1"),
    ("xn--bcher-kva.example", "MX", "10 backup.b.example"),
];

/// Two domains with the same mail host, one that is its own, and one with another host besides.
const ONE_HOST: common::names::Table = &[
    ("a.example", "MX", "10 mx.example.net"),
    ("b.example", "MX", "0 mx.example.net"),
    ("mx.example.net", "A", "127.0.0.1"),
    ("c.example", "A", "127.0.0.1"),
    ("two.example", "MX", "10 mx.example.net"),
    ("two.example", "MX", "20 other.example"),
    ("other.example", "A", "127.0.0.2"),
];

#[test]
fn domains_with_the_same_hosts_share_a_connection_where_no_login_is_theirs_alone() {
    let names = Names::start(ONE_HOST);
    for (more, sessions) in [
        ("", 3),
        ("smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = FOLDER/passwords", 4),
        ("smtp_tls_security_level = none", 3),
    ] {
        let hop = Hop::friendly();
        let port = hop.address.port();
        let scratch = site("smtp:", &format!("name_servers = {}\nsmtp_tcp_port = {port}", names.address));
        scratch.write("passwords", "elsewhere.example bob:secret\n");
        scratch.configure("default_process_limit = 1\nsmtp_connection_cache_time_limit = 60s");
        scratch.configure(&more.replace("FOLDER", &scratch.path().display().to_string()));
        for number in 0..12 {
            let domain = ["a", "b", "c", "two"][number % 4];
            enqueue(&scratch, &[&format!("user{number}@{domain}.example")], TEXT);
        }
        let log = deliver(&scratch);
        assert_eq!((hop.taken().len(), hop.sessions()), (12, sessions), "{more}: {log}");
        assert_eq!(scratch.queued(), []);
    }
}

#[test]
fn a_silent_host_is_left_in_peace_for_all_domains_it_serves() {
    let names = Names::start(ONE_HOST);
    let deaf = Deaf::on("127.0.0.1:0".parse().expect("an address"));
    let refusing = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port();
    // Also where they share no connections. A refusal takes no time, and counts for its domain alone.
    for (port, login, tried) in
        [(deaf.address.port(), "no", 1), (deaf.address.port(), "yes", 1), (refusing, "no", 3), (refusing, "yes", 3)]
    {
        let scratch = site("smtp:", &format!("name_servers = {}\nsmtp_tcp_port = {port}", names.address));
        scratch.configure("default_process_limit = 1\nsmtp_connect_timeout = 1s");
        scratch.configure(&format!("smtp_sasl_auth_enable = {login}"));
        for number in 0..12 {
            enqueue(&scratch, &[&format!("user{number}@{}.example", ["a", "b", "c"][number % 3])], TEXT);
        }
        let log = deliver(&scratch);
        assert_eq!(log.matches("status=deferred").count(), 12, "{log}");
        assert_eq!(log.matches(" place=").count(), tried, "{log}");
        let told = log.matches(&format!("4.4.1 no answer to a connection (127.0.0.1:{port})")).count();
        assert_eq!(told > 0, tried == 1, "of an address that another domain's agent tried: {log}");
        assert_eq!(scratch.queued().len(), 12);
    }
}

#[test]
fn a_silent_host_is_passed_over_while_another_one_takes_the_mail() {
    const ZONE: common::names::Table = &[
        ("a.example", "MX", "10 dead.example"),
        ("a.example", "MX", "20 one.example"),
        ("b.example", "MX", "10 dead.example"),
        ("b.example", "MX", "20 two.example"),
        ("dead.example", "A", "127.0.0.2"),
        ("one.example", "A", "127.0.0.1"),
        ("two.example", "A", "127.0.0.1"),
    ];
    let (hop, names) = (Hop::friendly(), Names::start(ZONE));
    let _deaf = Deaf::on(([127, 0, 0, 2], hop.address.port()).into());
    let more = format!("name_servers = {}\nsmtp_tcp_port = {}", names.address, hop.address.port());
    let scratch = site("smtp:", &format!("{more}\ndefault_process_limit = 1\nsmtp_connection_reuse_time_limit = 0s"));
    scratch.configure("smtp_connect_timeout = 1s");
    for number in 0..8 {
        enqueue(&scratch, &[&format!("user{number}@{}.example", ["a", "b"][number % 2])], TEXT);
    }
    let log = deliver(&scratch);
    assert_eq!((hop.taken().len(), hop.sessions()), (8, 8), "{log}");
    assert_eq!(log.matches("host=dead.example").count(), 1, "one connection is tried: {log}");
}

#[test]
fn a_domain_that_moves_away_takes_no_mail_of_others_with_it() {
    // Hangs up at the second message of a session, so that everybody connects anew.
    let begun = std::sync::Mutex::new(std::collections::HashSet::new());
    let hop = Hop::start(move |word, _, session| {
        (word == "MAIL" && !begun.lock().expect("the sessions").insert(session)).then_some(Act::Drop)
    });
    let port = hop.address.port();
    let elsewhere = Hop::on(TcpListener::bind(("127.0.0.3", port)).expect("the same port"), |_, _, _| None);
    const HERE: common::names::Table = &[
        ("a.example", "MX", "10 mx.example.net"),
        ("b.example", "MX", "10 mx.example.net"),
        ("mx.example.net", "A", "127.0.0.1"),
    ];
    const MOVED: common::names::Table = &[
        ("a.example", "MX", "10 mx.a.example"),
        ("mx.a.example", "A", "127.0.0.3"),
        ("b.example", "MX", "10 mx.example.net"),
        ("mx.example.net", "A", "127.0.0.1"),
    ];
    let names = Names::turning(HERE, MOVED);
    let more = format!("name_servers = {}\nsmtp_tcp_port = {port}\ndefault_process_limit = 1", names.address);
    let scratch = site("smtp:", &format!("{more}\nsmtp_connection_cache_time_limit = 60s"));
    for number in 0..9 {
        enqueue(&scratch, &[&format!("user{number}@{}.example", ["a", "a", "b"][number % 3])], TEXT);
    }
    let log = deliver(&scratch);
    let at = |hop: &Hop, domain: &str| hop.taken().iter().filter(|taken| taken.rcpts[0].contains(domain)).count();
    assert_eq!((at(&hop, "@a.") + at(&elsewhere, "@a."), at(&hop, "@b."), at(&elsewhere, "@b.")), (6, 3, 0), "{log}");
}

#[test]
fn the_mail_exchangers_of_a_domain_are_asked_best_first() {
    let (hop, names) = (Hop::friendly(), Names::start(ZONE));
    let more = format!("name_servers = {}\nsmtp_tcp_port = {}", names.address, hop.address.port());
    let scratch = site("smtp:", &more);
    for domain in ["b", "plain", "null", "loop", "empty", "unknown"] {
        enqueue(&scratch, &[&format!("bob@{domain}.example")], TEXT);
    }
    let log = deliver(&scratch);
    for (domain, expected) in [
        ("b", "status=relayed"),
        ("plain", "status=relayed"),
        ("null", "status=failed"),
        ("loop", "status=failed"),
        ("empty", "status=failed"),
        ("unknown", "status=failed"),
    ] {
        assert!(log.contains(&format!("to=<bob@{domain}.example> {expected}")), "{domain}: {log}");
    }
    for reason in ["5.1.10 null.example takes no mail", "5.4.6 mail for this domain comes back", "5.4.4 ", "5.1.2 "] {
        assert!(log.contains(reason), "{reason}: {log}");
    }
    assert!(log.contains("host=dead.b.example"), "the better one was tried: {log}");
    assert_eq!((hop.taken().len(), scratch.queued().len()), (2, 0));
}

#[test]
fn a_domain_beyond_ascii_is_looked_up_as_dns_has_it_and_told_as_it_was_written() {
    let offers = "250-hop\r\n250-8BITMIME\r\n250 SMTPUTF8";
    let hop = Hop::start(move |word, _, _| (word == "EHLO").then_some(Act::Say(offers)));
    let names = Names::start(ZONE);
    let more = format!("name_servers = {}\nsmtp_tcp_port = {}", names.address, hop.address.port());
    let scratch = site("smtp:", &more);
    for domain in ["bücher.example", "BÜCHER.example", "xn--bcher-kva.example", "ü.example", "ü..example"] {
        let Ok(_) = doorpost::message::path::Address::from_internal(format!("bob@{domain}").as_bytes()) else {
            continue;
        };
        enqueue_with(&scratch, "alice@mx.example", &[&format!("bob@{domain}")], TEXT, "SMTPUTF8", "");
    }
    let log = deliver(&scratch);
    let mut rcpts: Vec<String> = hop.taken().iter().flat_map(|taken| taken.rcpts.clone()).collect();
    rcpts.sort();
    let told = ["BÜCHER.example", "bücher.example", "xn--bcher-kva.example"];
    assert_eq!(rcpts, told.map(|domain| format!("RCPT TO:<bob@{domain}>")), "{log}");
    assert!(log.contains("5.1.2 there is no host"), "{log}");
}

/// One of ours that takes mail from who has logged in, under TLS; ended when dropped.
struct Smtpsrvr(std::process::Child, Scratch, u16);

impl Smtpsrvr {
    fn start() -> Smtpsrvr {
        let more = "smtpd_sasl_auth_enable = yes\nauthentication = passwd-file";
        Smtpsrvr::with(more, "local - mx.example mailbox: -\nauthenticated - - - *\n")
    }

    fn with(main_cf: &str, channels: &str) -> Smtpsrvr {
        Smtpsrvr::on(TcpListener::bind("127.0.0.1:0").expect("a port"), main_cf, channels)
    }

    fn on(listener: TcpListener, main_cf: &str, channels: &str) -> Smtpsrvr {
        let scratch = Scratch::with(main_cf);
        common::tls::configure(&scratch);
        scratch.write("channels", channels);
        let port = listener.local_addr().expect("its number").port();
        let mut command = scratch.command("smtpsrvr");
        let command = command.stdin(std::os::fd::OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("smtpsrvr");
        Smtpsrvr(child, scratch, port)
    }
}

impl Drop for Smtpsrvr {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.0.id().cast_signed()),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.0.wait();
    }
}

#[test]
fn a_smart_host_is_logged_in_at_under_tls() {
    for (level, authorities, name, expected) in [
        ("may", "mx.crt.pem", "mx.example", "relayed"),
        ("verify", "mx.crt.pem", "mx.example", "relayed"),
        ("secure", "mx.crt.pem", "mx.example", "relayed"),
        ("verify", "other.crt.pem", "mx.example", "deferred"),
        ("verify", "mx.crt.pem", "plain.example", "deferred"),
    ] {
        let (server, names) = (Smtpsrvr::start(), Names::start(ZONE));
        let hop = format!("[{name}]:{}", server.2);
        let client = site(
            &format!("smtp:{hop}"),
            &format!("name_servers = {}\nsmtp_tls_security_level = {level}", names.address),
        );
        client.configure(&format!("smtp_tls_CAfile = {}", common::tls::file(authorities).display()));
        client.configure(&format!(
            "smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = {}/passwords",
            client.path().display()
        ));
        client.write("passwords", &format!("{hop} alice:{}\n", common::PASSWORD));
        enqueue(&client, &["bob@elsewhere.example", "carol@mx2.example"], TEXT);
        server.1.write("channels", "local - mx.example mailbox: -\nout - * discard: -\nauthenticated - - - *\n");
        let log = deliver(&client);
        assert!(
            log.contains(&format!("to=<bob@elsewhere.example> status={expected}")),
            "{level} {authorities} {name}: {log}"
        );
        let queued = server.1.queued();
        assert_eq!(queued.len(), usize::from(expected == "relayed"), "{log}");
        for message in queued {
            let text = String::from_utf8_lossy(&message.whole).into_owned();
            assert!(text.contains("with ESMTPSA"), "{text}");
        }
    }
}

/// A configuration whose table of policies says this, {HOP} being the next hop.
fn with_policy(scratch: &Scratch, hop: &str, policy: &str) {
    scratch.write("policy", &policy.replace("{HOP}", hop));
    scratch.configure(&format!("smtp_tls_policy_maps = hash:{}/policy", scratch.path().display()));
}

#[test]
fn a_policy_says_whose_certificate_a_next_hop_must_have_and_which_tls() {
    let server = Smtpsrvr::with("", "local - mx.example mailbox: -\nall * * discard: *\n");
    let names = Names::start(ZONE);
    let hop = format!("[mx.example]:{}", server.2);
    for (level, policy, expected) in [
        ("may", "{HOP} secure", Some("TLS_")),
        ("none", "{HOP} verify", Some("TLS_")),
        ("may", "{HOP} secure match=other.example", None),
        ("may", "{HOP} secure match=other.example:hostname", Some("TLS_")),
        ("may", "{HOP} verify match=.example", Some("TLS_")),
        ("may", "{HOP} verify match=.mx.example", None),
        ("may", "{HOP} secure match=dot-nexthop", None),
        ("may", "{HOP} encrypt protocols=TLSv1.2", Some("TLS_ECDHE_")),
        ("may", "{HOP} encrypt protocols=>=TLSv1.3 ciphers=high", Some("TLS_AES_")),
        ("secure", "{HOP} none", Some("")),
        // Another next hop.
        ("may", "[mx.example] secure match=other.example\nmx.example secure match=other.example", Some("TLS_")),
    ] {
        let client = site(
            &format!("smtp:{hop}"),
            &format!("name_servers = {}\nsmtp_tls_security_level = {level}", names.address),
        );
        client.configure(&format!("smtp_tls_CAfile = {}", common::tls::file("mx.crt.pem").display()));
        with_policy(&client, &hop, policy);
        enqueue(&client, &["bob@elsewhere.example"], TEXT);
        let before = server.1.queued().len();
        let log = deliver(&client);
        let queued = server.1.queued();
        assert_eq!(queued.len() - before, usize::from(expected.is_some()), "{level} {policy}: {log}");
        let Some(expected) = expected else { continue };
        let trace = String::from_utf8_lossy(&queued.last().expect("a message").whole).into_owned();
        let suite = trace.split_once("\ttls ").map_or("", |(_, suite)| suite);
        assert!(suite.starts_with(expected) && suite.is_empty() == expected.is_empty(), "{level} {policy}: {trace}");
    }
}

#[test]
fn what_a_policy_asks_for_is_never_less_and_what_is_not_offered_is_told() {
    const ASKS: &[u8] = b"TLS-Required: No\n\nx\n";
    for (level, policy, mail, text, is_taken) in [
        ("encrypt", "{HOP} may", "", TEXT, true),
        ("secure", "{HOP} none", "", TEXT, true),
        ("may", "{HOP} encrypt", "", TEXT, false),
        ("may", "{HOP} encrypt", "", ASKS, false),
        ("encrypt", "other.example encrypt", "", ASKS, true),
        ("may", "{HOP} none", "REQUIRETLS", TEXT, false),
    ] {
        let hop = Hop::friendly();
        let scratch = site(&format!("smtp:{}", hop.name()), &format!("smtp_tls_security_level = {level}"));
        with_policy(&scratch, &hop.name(), policy);
        enqueue_with(&scratch, "alice@mx.example", &["bob@b.example"], text, mail, "");
        let log = deliver(&scratch);
        assert_eq!(hop.taken().len(), usize::from(is_taken), "{level} {policy} {mail}: {log}");
    }
    let scratch = site("smtp:[192.0.2.1]", "");
    for (policy, told) in [
        ("a.example may\nb.example dane\n", "/policy:2: smtp_tls_policy_maps, b.example: expected the level"),
        ("a.example secure tafile=/x\n", "tafile=/x is not offered here"),
    ] {
        with_policy(&scratch, "", policy);
        let output = scratch.run("deliver", &[], b"");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(78) && log.contains(told), "{log}");
    }
    fs::remove_file(scratch.path().join("policy")).expect("the table");
    assert_eq!(scratch.run("deliver", &[], b"").status.code(), Some(78), "no table is no empty one");
}

#[test]
fn tls_that_is_required_is_never_left_out() {
    let hop = Hop::friendly();
    let scratch = site(&format!("smtp:{}", hop.name()), "smtp_tls_security_level = encrypt");
    enqueue(&scratch, &["bob@b.example"], TEXT);
    let log = deliver(&scratch);
    assert!(log.contains("status=deferred") && log.contains("4.7.4 "), "{log}");
    assert_eq!(hop.taken(), []);
    // Offered, and broken: with "may" the message goes in the clear, over another connection.
    let liar = Hop::start(|word, _, _| match word {
        "EHLO" => Some(Act::Say("250-hop\r\n250 STARTTLS")),
        "STARTTLS" => Some(Act::Say("220 go\r\nnonsense")),
        _ => None,
    });
    let scratch = to(&liar);
    enqueue(&scratch, &["bob@b.example"], TEXT);
    deliver(&scratch);
    assert_eq!((liar.taken().len(), liar.sessions()), (1, 2));
}
