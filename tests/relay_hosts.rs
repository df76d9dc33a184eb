//! Which hosts deliver asks for a domain, in what order, and which of them it leaves in peace.

mod common;

use common::hops::{Act, Deaf, Hop};
use common::names::Names;
use common::relaying::*;
use common::{Scratch, free_port};
use std::net::TcpListener;
use std::process::Stdio;

#[test]
fn a_next_hop_may_be_reached_over_ipv6() {
    if !common::needs::ipv6() {
        return;
    }
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
        client.enqueue(&["bob@mx2.example"], TEXT);
        let log = client.deliver();
        assert!(log.contains("status=relayed"), "{log}");
        let whole = scratch.queued().pop().expect("the message").whole;
        assert!(String::from_utf8_lossy(&whole).contains("[IPv6:::1]"), "{}", String::from_utf8_lossy(&whole));
    }
}

/// By MX and AAAA; where IPv6 is refused, or says "later" at once, the host's A is asked.
#[test]
fn a_mail_host_is_reached_over_ipv6_and_over_ipv4_where_that_is_refused() {
    if !common::needs::ipv6() {
        return;
    }
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
        scratch.enqueue(&["bob@both.example"], TEXT);
        scratch.enqueue(&["bob@six.example"], TEXT);
        (scratch.deliver(), scratch)
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

#[test]
fn the_mail_exchangers_of_a_domain_are_asked_best_first() {
    let (hop, names) = (Hop::friendly(), Names::start(ZONE));
    let more = format!("name_servers = {}\nsmtp_tcp_port = {}", names.address, hop.address.port());
    let scratch = site("smtp:", &more);
    for domain in ["b", "plain", "null", "loop", "empty", "unknown"] {
        scratch.enqueue(&[&format!("bob@{domain}.example")], TEXT);
    }
    let log = scratch.deliver();
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
        scratch.enqueue_with(("alice@mx.example", "SMTPUTF8"), &[(&format!("bob@{domain}"), "")], TEXT);
    }
    let log = scratch.deliver();
    let mut rcpts: Vec<String> = hop.taken().iter().flat_map(|taken| taken.rcpts.clone()).collect();
    rcpts.sort();
    let told = ["BÜCHER.example", "bücher.example", "xn--bcher-kva.example"];
    assert_eq!(rcpts, told.map(|domain| format!("RCPT TO:<bob@{domain}>")), "{log}");
    assert!(log.contains("5.1.2 there is no host"), "{log}");
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
            scratch.enqueue(&[&format!("user{number}@{domain}.example")], TEXT);
        }
        let many: Vec<String> = (0..120).map(|number| format!("many{number}@{domain}.example")).collect();
        scratch.enqueue(&many.iter().map(String::as_str).collect::<Vec<_>>(), TEXT);
    }
    let log = scratch.deliver();
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
            scratch.enqueue(&[&format!("user{number}@b.example")], TEXT);
        }
        let log = scratch.deliver();
        assert_eq!(log.matches("status=deferred").count(), 3, "{transport}: {log}");
        assert!(log.contains("reason=\"4."), "{transport}: {log}");
        assert_eq!((scratch.queued().len(), scratch.mail("alice").len()), (3, 0), "{transport}");
    }
}

#[test]
fn a_host_that_does_not_answer_is_left_in_peace_for_a_while() {
    let dead = free_port();
    let scratch = site(&format!("smtp:[127.0.0.1]:{dead}"), "default_destination_concurrency_limit = 1");
    for number in 0..10 {
        scratch.enqueue(&[&format!("user{number}@b.example")], TEXT);
    }
    let log = scratch.deliver();
    assert_eq!(log.matches("status=deferred").count(), 10, "{log}");
    assert_eq!(log.matches(" host=127.0.0.1 ").count(), 1, "one connection is tried: {log}");
    assert_eq!(scratch.queued().len(), 10);
}

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
            scratch.enqueue(&[&format!("user{number}@{domain}.example")], TEXT);
        }
        let log = scratch.deliver();
        assert_eq!((hop.taken().len(), hop.sessions()), (12, sessions), "{more}: {log}");
        assert_eq!(scratch.queued(), []);
    }
}

#[test]
fn a_silent_host_is_left_in_peace_for_all_domains_it_serves() {
    let names = Names::start(ONE_HOST);
    let deaf = Deaf::on("127.0.0.1:0".parse().expect("an address"));
    let refusing = free_port();
    // Also where they share no connections. A refusal takes no time, and counts for its domain alone.
    for (port, login, tried) in
        [(deaf.address.port(), "no", 1), (deaf.address.port(), "yes", 1), (refusing, "no", 3), (refusing, "yes", 3)]
    {
        let scratch = site("smtp:", &format!("name_servers = {}\nsmtp_tcp_port = {port}", names.address));
        scratch.configure("default_process_limit = 1\nsmtp_connect_timeout = 1s");
        scratch.configure(&format!("smtp_sasl_auth_enable = {login}"));
        for number in 0..12 {
            scratch.enqueue(&[&format!("user{number}@{}.example", ["a", "b", "c"][number % 3])], TEXT);
        }
        let log = scratch.deliver();
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
        scratch.enqueue(&[&format!("user{number}@{}.example", ["a", "b"][number % 2])], TEXT);
    }
    let log = scratch.deliver();
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
        scratch.enqueue(&[&format!("user{number}@{}.example", ["a", "a", "b"][number % 3])], TEXT);
    }
    let log = scratch.deliver();
    let at = |hop: &Hop, domain: &str| hop.taken().iter().filter(|taken| taken.rcpts[0].contains(domain)).count();
    assert_eq!((at(&hop, "@a.") + at(&elsewhere, "@a."), at(&hop, "@b."), at(&elsewhere, "@b.")), (6, 3, 0), "{log}");
}

/// What a host offers it has said once, over a connection that is used again as well.
#[test]
fn a_host_that_lacks_what_a_message_needs_is_asked_once() {
    const EIGHT: &str = "Subject: x\n\ngr\u{fc}n\n";
    let names = Names::start(ONE_HOST);
    let hop = Hop::start(|word, _, _| (word == "EHLO").then_some(Act::Say("250 hop")));
    let more = format!("name_servers = {}\nsmtp_tcp_port = {}", names.address, hop.address.port());
    let scratch = site("smtp:", &format!("{more}\ndefault_process_limit = 1\nsmtp_connection_cache_time_limit = 60s"));
    for text in [TEXT, EIGHT.as_bytes(), TEXT] {
        scratch.enqueue_with(("alice@mx.example", "BODY=8BITMIME"), &[("bob@a.example", "")], text);
    }
    let log = scratch.deliver();
    let asked = hop.seen().iter().filter(|line| line.starts_with("RCPT")).count();
    assert_eq!((hop.taken().len(), asked), (2, 3), "{log}");
    assert!(log.contains("to=<bob@a.example> status=failed") && log.contains("reason=\"5.6.3 "), "{log}");
}

/// One of several may not have what a message needs, and a greylister answers EHLO with a bare line.
#[test]
fn each_host_of_a_domain_is_asked_for_what_a_message_needs() {
    const TWO: common::names::Table = &[
        ("two.example", "MX", "10 bare.example"),
        ("two.example", "MX", "20 other.example"),
        ("bare.example", "A", "127.0.0.2"),
        ("other.example", "A", "127.0.0.1"),
    ];
    const ONE: common::names::Table = &[
        ("two.example", "MX", "10 host.example"),
        ("host.example", "A", "127.0.0.1"),
        ("host.example", "A", "127.0.0.2"),
    ];
    const EIGHT: &str = "Subject: x\n\ngr\u{fc}n\n";
    let later = || Some(Act::Say("451 4.7.1 greylisted"));
    for (table, other, other_rcpt, bare_rcpt, expected) in [
        // The other one has it.
        (TWO, Some("250-hop\r\n250 8BITMIME"), None, None, "status=relayed"),
        // Neither has.
        (TWO, Some("250 hop"), None, None, "status=failed reason=\"5.6.3 "),
        // The other one is not there.
        (TWO, None, None, None, "status=deferred reason=\"4.6.3 "),
        // One of them, or both, put it off.
        (TWO, Some("250 hop"), later(), later(), "status=deferred reason=\"4.7.1 "),
        (TWO, Some("250 hop"), None, later(), "status=deferred reason=\"4.6.3 "),
        (TWO, Some("250 hop"), later(), None, "status=deferred reason=\"4.7.1 "),
        (TWO, None, None, Some(Act::Say("550 5.1.1 no")), "status=failed reason=\"5.1.1 "),
        // Two addresses of one name: the first puts it off, or is not there.
        (ONE, Some("250 hop"), later(), None, "status=deferred reason=\"4.6.3 "),
        (ONE, None, None, None, "status=failed reason=\"5.6.3 "),
    ] {
        let names = Names::start(table);
        let bare = Hop::on(TcpListener::bind("127.0.0.2:0").expect("a port"), move |word, _, _| match word {
            "EHLO" => Some(Act::Say("250 hop")),
            "RCPT" => bare_rcpt.clone(),
            _ => None,
        });
        let port = bare.address.port();
        let other = other.map(|offers| {
            Hop::on(TcpListener::bind(("127.0.0.1", port)).expect("the same port"), move |word, _, _| match word {
                "EHLO" => Some(Act::Say(offers)),
                "RCPT" => other_rcpt.clone(),
                _ => None,
            })
        });
        let more = format!("name_servers = {}\nsmtp_tcp_port = {port}\nsmtp_mx_session_limit = 2", names.address);
        let scratch = site("smtp:", &more);
        scratch.enqueue_with(("alice@mx.example", "BODY=8BITMIME"), &[("bob@two.example", "")], EIGHT.as_bytes());
        let log = scratch.deliver();
        let (status, reason) = expected.split_once(' ').unwrap_or((expected, ""));
        let line = log.lines().find(|line| line.contains(&format!("to=<bob@two.example> {status} ")));
        assert!(line.is_some_and(|line| line.contains(reason)), "{expected}: {log}");
        let taken = other.map_or(0, |other| other.taken().len());
        assert_eq!((bare.taken().len(), taken), (0, usize::from(expected == "status=relayed")), "{log}");
    }
}
