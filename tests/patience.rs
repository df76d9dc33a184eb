//! How many hosts, sessions, recipients and seconds deliver gives a next hop, a program or a report: one test for each
//! parameter that says so, with a value under which a test would fail if nobody read it.

mod common;

use common::hops::{Act, Hop};
use common::names::{Names, Table};
use common::watching::Watching;
use common::{Scratch, until};
use doorpost::queue::Queue;
use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime};

const TEXT: &[u8] = b"Subject: x\n\nhello\n";

/// Less than any time limit that was not set, more than any that was.
const SOON: Duration = Duration::from_secs(20);

/// One that hands all its foreign mail to this host.
fn to(hop: &Hop, more: &str) -> Scratch {
    let scratch = Scratch::with(more);
    scratch.write("channels", &format!("local - mx.example mailbox: *\nout * * smtp:{} *\n", hop.name()));
    scratch
}

/// One that goes by MX; all hosts have the port of this one.
fn by_mx(hop: &Hop, names: &Names, more: &str) -> Scratch {
    let port = hop.address.port();
    let scratch = Scratch::with(&format!("name_servers = {}\nsmtp_tcp_port = {port}\n{more}", names.address));
    scratch.write("channels", "local - mx.example mailbox: *\nout * * smtp: *\n");
    scratch
}

/// Four mail hosts, which are one; and four of which only the last is there.
const ZONE: Table = &[
    ("b.example", "MX", "10 one.example"),
    ("b.example", "MX", "20 two.example"),
    ("b.example", "MX", "30 three.example"),
    ("b.example", "MX", "40 four.example"),
    ("one.example", "A", "127.0.0.1"),
    ("two.example", "A", "127.0.0.1"),
    ("three.example", "A", "127.0.0.1"),
    ("four.example", "A", "127.0.0.1"),
    ("late.example", "MX", "10 dead.example"),
    ("late.example", "MX", "20 deader.example"),
    ("late.example", "MX", "30 four.example"),
    ("dead.example", "A", "127.0.0.2"),
    ("dead.example", "A", "127.0.0.3"),
    ("deader.example", "A", "127.0.0.4"),
];

#[test]
fn as_many_hosts_have_a_session_as_smtp_mx_session_limit_says() {
    let names = Names::start(ZONE);
    let none = "smtp_mx_session_limit = 0";
    for (setting, sessions) in [("", 2), ("smtp_mx_session_limit = 1", 1), ("smtp_mx_session_limit = 3", 3), (none, 4)]
    {
        let hop = Hop::start(|word, _, _| (word == "RCPT").then_some(Act::Say("450 4.2.1 busy")));
        let scratch = by_mx(&hop, &names, setting);
        scratch.enqueue(&["bob@b.example"], TEXT);
        let log = scratch.deliver();
        assert!(log.contains("status=deferred"), "{log}");
        assert_eq!((hop.sessions(), scratch.queued().len()), (sessions, 1), "{setting}: {log}");
    }
}

#[test]
fn where_a_host_defers_some_recipients_the_next_one_is_asked_for_those_alone() {
    let names = Names::start(ZONE);
    let hop = Hop::start(|word, line, session| match word {
        "RCPT" if session == 0 && line.contains("busy") => Some(Act::Say("450 4.2.1 busy")),
        "RCPT" if session == 0 && line.contains("never") => Some(Act::Say("550 5.1.1 nobody")),
        _ => None,
    });
    let scratch = by_mx(&hop, &names, "");
    scratch.enqueue(&["bob@b.example", "busy@b.example", "never@b.example", "busy2@b.example"], TEXT);
    let log = scratch.deliver();
    let rcpts: Vec<Vec<String>> = hop.taken().into_iter().map(|taken| taken.rcpts).collect();
    let rcpt = |names: &[&str]| names.iter().map(|name| format!("RCPT TO:<{name}@b.example>")).collect::<Vec<_>>();
    assert_eq!(rcpts, [rcpt(&["bob"]), rcpt(&["busy", "busy2"])], "{log}");
    assert_eq!((hop.sessions(), scratch.queued()), (2, vec![]), "{log}");
    assert_eq!(scratch.mail("alice").len(), 1, "the refusal was for good");
}

#[test]
fn as_many_addresses_are_tried_as_smtp_mx_address_limit_says() {
    let names = Names::start(ZONE);
    for (setting, addresses, is_reached) in
        [("", 4, true), ("smtp_mx_address_limit = 3", 3, false), ("smtp_mx_address_limit = 1", 1, false)]
    {
        let hop = Hop::friendly();
        let scratch = by_mx(&hop, &names, setting);
        scratch.enqueue(&["bob@late.example"], TEXT);
        let log = scratch.deliver();
        let failed = addresses - usize::from(is_reached);
        assert_eq!(log.matches(" place=Net(").count(), failed, "{setting}: {log}");
        assert_eq!((hop.taken().len(), scratch.queued().len()), (usize::from(is_reached), usize::from(!is_reached)));
    }
}

#[test]
fn a_transaction_has_as_many_recipients_as_smtp_destination_recipient_limit_says() {
    for (setting, sizes) in [("", vec![5]), ("smtp_destination_recipient_limit = 2", vec![2, 2, 1])] {
        let hop = Hop::friendly();
        let scratch = to(&hop, setting);
        let to: Vec<String> = (0..5).map(|number| format!("user{number}@b.example")).collect();
        scratch.enqueue(&to.iter().map(String::as_str).collect::<Vec<_>>(), TEXT);
        scratch.deliver();
        assert_eq!(hop.taken().iter().map(|taken| taken.rcpts.len()).collect::<Vec<_>>(), sizes);
        assert_eq!((hop.sessions(), scratch.queued()), (1, vec![]), "one connection is enough");
    }
}

/// A next hop that did not answer is left in peace, but not when somebody asks for a try.
#[test]
fn what_is_flushed_is_tried_at_once_though_its_next_hop_did_not_answer() {
    let hop =
        Hop::start(|word, _, before| (word == "greeting" && before == 0).then_some(Act::Say("421 4.3.2 not now")));
    let scratch = to(&hop, "queue_run_delay = 1h\nminimal_backoff_time = 1h");
    let id = scratch.enqueue(&["bob@b.example"], TEXT);
    let _watching = Watching::start(&scratch);
    until("a first try", || {
        let message = Queue::at(&scratch.queue()).look(&id).ok().flatten();
        message.is_some_and(|message| message.recipients[0].report.starts_with('4'))
    });
    // Another to the same place learns what is remembered.
    scratch.enqueue(&["carol@b.example"], TEXT);
    Queue::at(&scratch.queue()).wake();
    until("a message that was not tried", || {
        let due = Queue::at(&scratch.queue()).due(std::time::SystemTime::now());
        scratch.queued().len() == 2 && due.is_ok_and(|due| due.is_empty())
    });
    assert_eq!(hop.sessions(), 1);
    assert!(scratch.run("doorpost-queue", &["flush", "ALL"], b"").status.success());
    until("both at the next hop", || hop.taken().len() == 2);
}

/// Queues one, wakes who watches, and waits until the hop has it.
fn send_one(scratch: &Scratch, hop: &Hop) {
    let before = hop.taken().len();
    scratch.enqueue(&["bob@b.example"], TEXT);
    until("the message at the hop", || {
        Queue::at(&scratch.queue()).wake();
        hop.taken().len() > before
    });
}

#[test]
fn a_connection_is_kept_for_smtp_connection_cache_time_limit() {
    let is_over = |hop: &Hop| hop.seen().last().is_some_and(|line| line == "QUIT");
    let hop = Hop::friendly();
    let scratch = to(&hop, "smtp_connection_cache_time_limit = 60s");
    let watching = Watching::start(&scratch);
    send_one(&scratch, &hop);
    // Longer than the default, so that it would be over if that held.
    std::thread::sleep(Duration::from_millis(3500));
    send_one(&scratch, &hop);
    assert_eq!((hop.taken().len(), hop.sessions()), (2, 1));
    drop(watching);
    until("the farewell", || is_over(&hop));

    let hop = Hop::friendly();
    let scratch = to(&hop, "smtp_connection_cache_time_limit = 1s");
    let _watching = Watching::start(&scratch);
    send_one(&scratch, &hop);
    until("the farewell", || is_over(&hop));
    send_one(&scratch, &hop);
    assert_eq!(hop.sessions(), 2);
}

#[test]
fn a_connection_is_used_for_smtp_connection_reuse_time_limit() {
    for (setting, sessions) in [("", 1), ("smtp_connection_reuse_time_limit = 1s", 3)] {
        let hop = Hop::start(|word, _, _| {
            if word == "." {
                std::thread::sleep(Duration::from_millis(1010));
            }
            None
        });
        // Kept longer than a busy machine takes from one message to the next.
        let limits = "default_destination_concurrency_limit = 1\nsmtp_connection_cache_time_limit = 60s";
        let scratch = to(&hop, &format!("{limits}\n{setting}"));
        for _ in 0..3 {
            scratch.enqueue(&["bob@b.example"], TEXT);
        }
        scratch.deliver();
        assert_eq!((hop.taken().len(), hop.sessions()), (3, sessions), "{setting}");
        // Nobody waits for the answer to that.
        let quits = || hop.seen().iter().filter(|line| *line == "QUIT").count();
        until("each host to be told that it is over", || quits() == sessions);
    }
}

#[test]
fn an_answer_that_comes_octet_by_octet_has_no_more_time_than_another() {
    let hop = Hop::start(|word, _, _| (word == "greeting").then_some(Act::Drip));
    let scratch = to(&hop, "smtp_helo_timeout = 1s");
    scratch.enqueue(&["bob@b.example"], TEXT);
    let start = Instant::now();
    let log = scratch.deliver();
    // It goes on for ever.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(log.contains("status=deferred") && log.contains("took too long at the greeting"), "{log}");
}

/// A part of default_process_limit is for what stays here.
#[test]
fn next_hops_that_are_silent_do_not_hold_up_mail_for_mailboxes_here() {
    let hops: Vec<Hop> = (0..4).map(|_| Hop::start(|_, _, _| Some(Act::Silence))).collect();
    let scratch = Scratch::with("default_process_limit = 4\ndeliver_stop_timeout = 1s\nqueue_run_delay = 1h");
    let out =
        hops.iter().enumerate().map(|(number, hop)| format!("o{number} - d{number}.example smtp:{} *\n", hop.name()));
    scratch.write("channels", &format!("local - mx.example mailbox: *\n{}", out.collect::<String>()));
    for number in 0..4 {
        scratch.enqueue(&[&format!("bob@d{number}.example")], TEXT);
    }
    scratch.settle();
    let _watching = Watching::start(&scratch);
    until("all agents there may be", || hops.iter().filter(|hop| hop.sessions() == 1).count() == 3);
    scratch.enqueue(&["alice@mx.example"], TEXT);
    Queue::at(&scratch.queue()).wake();
    until("the message that stays here", || scratch.mail("alice").len() == 1);
    assert_eq!(hops.iter().map(Hop::sessions).sum::<usize>(), 3);
}

/// Where a report goes whoever wrote to us has chosen: to hosts, perhaps, that take their time, or to many domains of one.
#[test]
fn reports_to_hosts_that_are_silent_hold_up_neither_other_mail_nor_all_other_reports() {
    const DOMAINS: Table = &[
        ("a.slow.example", "MX", "10 mx.slow.example"),
        ("b.slow.example", "MX", "10 mx.slow.example"),
        ("c.slow.example", "MX", "10 mx.slow.example"),
        ("d.slow.example", "MX", "10 mx.slow.example"),
        ("mx.slow.example", "A", "127.0.0.1"),
        ("slower.example", "A", "127.0.0.2"),
        ("quick.example", "A", "127.0.0.3"),
    ];
    let names = Names::start(DOMAINS);
    let slow = Hop::start(|_, _, _| Some(Act::Silence));
    let on = |address: &str| TcpListener::bind((address, slow.address.port())).expect("the same port");
    let slower = Hop::on(on("127.0.0.2"), |_, _, _| Some(Act::Silence));
    let quick = Hop::on(on("127.0.0.3"), |_, _, _| None);
    // Four agents, two for reports, one of them at one host.
    let limits = "default_process_limit = 5\ndeliver_stop_timeout = 1s\nqueue_run_delay = 1h";
    let scratch = by_mx(&slow, &names, limits);
    let send = |from: &str, to: &str| {
        scratch.enqueue_from(from, &[to], TEXT);
        Queue::at(&scratch.queue()).wake();
    };
    let unknown = "nobody-here@mx.example";
    let _watching = Watching::start(&scratch);
    for domain in ["a", "b", "c", "d", "a", "b"] {
        send(&format!("forged@{domain}.slow.example"), unknown);
    }
    until("a report at the slow host", || slow.sessions() == 1);
    send("bob@quick.example", unknown);
    until("another report", || quick.taken().len() == 1);
    send("forged@slower.example", unknown);
    until("a report at another slow host", || slower.sessions() == 1);
    send("bob@quick.example", unknown);
    send("alice@mx.example", "bob@quick.example");
    until("other mail", || quick.taken().len() == 2);
    let from: Vec<String> = quick.taken().into_iter().map(|taken| taken.mail).collect();
    assert!(from[0].starts_with("MAIL FROM:<>") && from[1].starts_with("MAIL FROM:<alice@mx.example>"), "{from:?}");
    assert_eq!((slow.sessions(), slower.sessions()), (1, 1));
}

/// A message for here and for there: what an alias made of it waits neither while another is with that host nor while it is
/// there itself.
#[test]
fn mail_that_stays_here_by_an_alias_does_not_wait_for_a_host_that_is_silent() {
    let hop = Hop::start(|_, _, _| Some(Act::Silence));
    let limits = "default_destination_concurrency_limit = 1\ndeliver_stop_timeout = 1s\nqueue_run_delay = 1h";
    let scratch = to(&hop, limits);
    scratch.write("aliases", "all: alice, carol\n");
    let _watching = Watching::start(&scratch);
    for count in 1..=3 {
        scratch.enqueue(&["bob@b.example", "all@mx.example"], TEXT);
        Queue::at(&scratch.queue()).wake();
        until("the copies that stay here", || scratch.mail("alice").len() == count);
    }
    assert_eq!(hop.sessions(), 1);
}

/// Else it would be due at once where the try took longer than the wait.
#[test]
fn the_wait_for_the_next_try_begins_when_the_try_is_over() {
    let hop = Hop::start(|word, _, _| (word == ".").then_some(Act::Silence));
    let scratch = to(&hop, "smtp_data_done_timeout = 2s\nminimal_backoff_time = 10s\nmaximal_backoff_time = 10s");
    scratch.enqueue(&["bob@b.example"], TEXT);
    let start = SystemTime::now();
    let log = scratch.deliver();
    assert!(log.contains("status=deferred"), "{log}");
    let next = Queue::at(&scratch.queue()).names().expect("the queue").pop().expect("the message").next_try;
    assert!(next >= start + Duration::from_secs(12), "{:?}", next.duration_since(start));
}

/// Behind a transaction that came to nothing the next one begins with RSET.
#[test]
fn a_host_that_is_silent_at_rset_is_left_after_smtp_rset_timeout() {
    let hop = Hop::start(|word, line, session| match word {
        "RCPT" if line.contains("never") => Some(Act::Say("550 5.1.1 nobody")),
        "RSET" if session == 0 => Some(Act::Silence),
        _ => None,
    });
    // One message is one agent's, and so its transactions come in this order.
    let scratch = to(&hop, "smtp_rset_timeout = 1s\nsmtp_destination_recipient_limit = 1");
    scratch.enqueue(&["never@b.example", "bob@b.example"], TEXT);
    let start = Instant::now();
    let log = scratch.deliver();
    until("RSET", || hop.seen().contains(&"RSET".to_owned()));
    assert!(start.elapsed() > Duration::from_secs(1) && start.elapsed() < SOON, "{:?}: {log}", start.elapsed());
    assert_eq!(hop.taken().len() + scratch.queued().len(), 1, "taken elsewhere or waiting: {log}");
}

#[test]
fn lmtp_has_a_port_of_its_own() {
    let (lmtp, smtp) = (Hop::friendly(), Hop::friendly());
    let ports = (lmtp.address.port(), smtp.address.port());
    let scratch = Scratch::with(&format!("lmtp_tcp_port = {}\nsmtp_tcp_port = {}", ports.0, ports.1));
    let channels =
        "local - mx.example mailbox: *\nl - l.example lmtp:[127.0.0.1] *\ns - s.example smtp:[127.0.0.1] *\n";
    scratch.write("channels", channels);
    scratch.enqueue(&["bob@l.example"], TEXT);
    scratch.enqueue(&["bob@s.example"], TEXT);
    let log = scratch.deliver();
    for (hop, hello) in [(&lmtp, "LHLO "), (&smtp, "EHLO ")] {
        assert!(hop.taken().len() == 1 && hop.seen()[1].starts_with(hello), "{hello}: {log}");
    }
}

/// A host that goes silent at a point does not hold the message longer than the parameter says.
fn is_given_up(parameter: &str, hop: &Hop, level: &str, content: &[u8]) {
    let scratch = to(hop, &format!("{parameter} = 1s\nsmtp_tls_security_level = {level}"));
    scratch.enqueue(&["bob@b.example"], content);
    let start = Instant::now();
    let log = scratch.deliver();
    assert!(start.elapsed() > Duration::from_secs(1) && start.elapsed() < SOON, "{parameter}: {:?}", start.elapsed());
    assert!(log.contains("status=deferred"), "{parameter}: {log}");
    assert_eq!((hop.taken().len(), scratch.queued().len()), (0, 1));
}

#[test]
fn silence_at_starttls_and_in_the_handshake_ends_with_smtp_starttls_timeout() {
    for act in [Act::Silence, Act::Last("220 go")] {
        let hop = Hop::start(move |word, _, _| match word {
            "EHLO" => Some(Act::Say("250-hop\r\n250 STARTTLS")),
            "STARTTLS" => Some(act.clone()),
            _ => None,
        });
        is_given_up("smtp_starttls_timeout", &hop, "encrypt", TEXT);
    }
}

#[test]
fn a_host_that_takes_no_more_of_a_message_is_left_after_smtp_data_xfer_timeout() {
    let hop = Hop::start(|word, _, _| match word {
        "EHLO" => Some(Act::Say("250 hop")),
        "content" => Some(Act::Silence),
        _ => None,
    });
    // More than the system keeps for a socket: of what is sent as much as this says, and little of what is received.
    let kept = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").expect("Linux");
    let kept: usize = kept.split_whitespace().last().and_then(|most| most.parse().ok()).expect("three numbers");
    let large = [TEXT, "a line of the body\n".repeat((kept + (1 << 20)) / 19).as_bytes()].concat();
    is_given_up("smtp_data_xfer_timeout", &hop, "none", &large);
}

#[test]
fn a_message_is_returned_whole_up_to_bounce_size_limit() {
    for (setting, octets, is_whole) in [
        ("", 40_000, true),
        ("", 60_000, false),
        ("bounce_size_limit = 1000", 500, true),
        ("bounce_size_limit = 1000", 1500, false),
        ("bounce_size_limit = 70000", 60_000, true),
    ] {
        let scratch = Scratch::with(setting);
        let content = format!("Subject: large\n\n{}\n", "the body\n".repeat(octets / 9));
        scratch.enqueue(&["nobody-here@mx.example"], content.as_bytes());
        let log = scratch.deliver();
        let report = String::from_utf8_lossy(&scratch.mail("alice").concat()).into_owned();
        assert!(report.contains("\nSubject: large\n"), "{log}");
        assert_eq!(report.contains("the body"), is_whole, "{setting} {octets}");
    }
}

/// Of the alias file, of a channel, and of qmail-queue's interface.
#[test]
fn a_program_runs_as_long_as_command_time_limit_says() {
    let scratch = Scratch::with("allow_mail_to_commands = alias\ncommand_time_limit = 1s");
    let program = scratch.path().join("slow");
    common::write_program(&program, "#!/bin/sh\nsleep 1000\n");
    let path = program.display();
    scratch.write("aliases", &format!("slow: |{path}\n"));
    scratch.write(
        "channels",
        &format!(
            "local - mx.example mailbox: *\np - pipe.example pipe:{path} -\nq - queue.example qmail-queue:{path} -\n"
        ),
    );
    let start = Instant::now();
    for to in ["slow@mx.example", "bob@pipe.example", "bob@queue.example"] {
        scratch.enqueue(&[to], TEXT);
    }
    let mut log = String::new();
    for _ in 0..2 {
        log.push_str(&scratch.deliver());
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    for to in [&format!("|{path}@mx.example"), "bob@pipe.example", "bob@queue.example"] {
        assert!(log.contains(&format!("to=<{to}> status=deferred")), "{to}: {log}");
    }
    assert_eq!(log.matches("ran longer than command_time_limit").count(), 3, "{log}");
    assert_eq!((scratch.queued().len(), scratch.mail("alice").len()), (3, 0), "{log}");
    let list = std::process::Command::new("ps").args(["-eo", "args="]).output().expect("ps");
    let running = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(!running.contains(&program.display().to_string()), "{running}");
}
