//! TLS towards other hosts: what must leave under it, what may leave without, and whom to believe. RFC 8689.

mod common;

use common::hops::{Act, Hop};
use common::names::Names;
use common::relaying::*;
use common::{Scratch, free_port};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

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
        client.enqueue_with(("alice@mx.example", "REQUIRETLS"), &[("bob@b.example", "")], TEXT);
        let log = client.deliver();
        let queued = server.1.queued();
        assert_eq!(queued.len(), usize::from(promises), "{log}");
        if promises {
            assert_eq!(queued[0].parameters, "REQUIRETLS|", "{log}");
        } else {
            assert!(log.contains("status=failed") && log.contains("5.7.30"), "{log}");
            let back = String::from_utf8(client.mail("alice").concat()).expect("a report");
            assert!(back.contains("Status: 5.7.30"), "{back}");
            // Section 5: a report brings the header alone, and is not lost because nobody promises the same for it.
            client.enqueue_with(("carol@b.example", "REQUIRETLS RET=FULL"), &[("bob@b.example", "")], TEXT);
            let log = client.deliver();
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
    with_policy(&client, "", "two.example verify");
    client.enqueue_with(("alice@mx.example", "REQUIRETLS"), &[("bob@two.example", "")], TEXT);
    let log = client.deliver();
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
        with_policy(&client, "", "two.example verify");
        client.enqueue_with(("alice@mx.example", "REQUIRETLS"), &[("bob@two.example", "")], TEXT);
        let log = client.deliver();
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
    with_policy(&client, "", "two.example verify");
    client.enqueue_with(("", ""), &[("bob@two.example", "")], TEXT);
    client.enqueue_with(("alice@mx.example", "REQUIRETLS"), &[("bob@two.example", "")], TEXT);
    let log = client.deliver();
    assert!(log.contains("status=failed") && log.contains("5.7.30 ") && !log.contains("deferred"), "{log}");
}

/// RFC 8689 section 4.2.1: that an unsigned name server gave it is no reason to believe a host, and no TLS is as bad as no
/// promise.
#[test]
fn mail_with_requiretls_goes_back_where_there_is_no_tls_with_a_certificate_for_the_domain() {
    let names = Names::start(&[
        ("two.example", "MX", "10 mx.example"),
        ("mx.example", "MX", "10 mx.example"),
        ("mx.example", "A", "127.0.0.1"),
    ]);
    let server = Smtpsrvr::with("", "all * * discard: *\n");
    let plain = Hop::start(|_: &str, _: &str, _: usize| None);
    for (hop, domain, policy, status) in [
        ("smtp:", "two.example", "x.example may", Some("5.7.10 ")),
        ("smtp:", "two.example", "two.example may", Some("5.7.10 ")),
        ("smtp:", "two.example", "two.example verify", None),
        ("smtp:", "mx.example", "x.example may", None),
        (&format!("smtp:{}", plain.name()), "two.example", "x.example may", Some("5.7.10 ")),
    ] {
        let client = site(hop, &format!("name_servers = {}\nsmtp_tcp_port = {}", names.address, server.2));
        let authorities = common::tls::file("mx.crt.pem");
        client.configure(&format!("myhostname = client.example\nsmtp_tls_CAfile = {}", authorities.display()));
        client.write("channels", &format!("out * * \"{hop}\" *\n"));
        with_policy(&client, "", policy);
        let before = server.1.queued().len();
        client.enqueue_with(("alice@c.example", "REQUIRETLS"), &[(&format!("bob@{domain}"), "")], TEXT);
        let log = client.deliver();
        assert_eq!(server.1.queued().len() - before, usize::from(status.is_none()), "{domain} {policy}: {log}");
        let is_told = status.is_none_or(|status| log.contains("status=failed") && log.contains(status));
        assert!(is_told, "{domain} {policy}: {log}");
    }
}

/// It is no lost connection, and not the message's fault.
#[test]
fn a_certificate_that_is_not_trusted_is_called_so() {
    let server = Smtpsrvr::with("", "all * * discard: *\n");
    let names = Names::start(ZONE);
    let hop = format!("smtp:[mx.example]:{}", server.2);
    for (authorities, told) in
        [("other.crt.pem", "4.7.5 the certificate of the next hop cannot be verified"), ("none", "4.3.5 ")]
    {
        let client = site(&hop, &format!("name_servers = {}\nsmtp_tls_security_level = verify", names.address));
        client.configure(&format!("smtp_tls_CAfile = {}", common::tls::file(authorities).display()));
        client.enqueue(&["bob@b.example"], TEXT);
        let log = client.deliver();
        assert!(log.contains("status=deferred") && log.contains(told), "{log}");
    }
}

#[test]
fn mail_with_requiretls_does_not_leave_by_a_protocol_without_tls() {
    for protocol in ["qmqp", "qmtp"] {
        // Nobody listens there: who tries all the same is put off.
        let scratch = site(&format!("{protocol}:127.0.0.1:{}", free_port()), "");
        scratch.enqueue_with(("alice@mx.example", "REQUIRETLS"), &[("bob@b.example", "")], TEXT);
        let log = scratch.deliver();
        assert!(log.contains("status=failed") && log.contains("5.7.30"), "{protocol}: {log}");
    }
}

/// A message with REQUIRETLS that goes through this filter first.
fn enqueue_for_filter(scratch: &Scratch, filter: &str, to: &str) {
    let mut draft = scratch.draft();
    draft.attribute("content_filter", filter).expect("room");
    scratch.enqueue_draft(draft, ("alice@mx.example", "REQUIRETLS"), &[(to, "")], TEXT);
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
            enqueue_for_filter(&scratch, &lmtp, "bob@b.example");
        } else {
            scratch.enqueue_with(("alice@mx.example", "REQUIRETLS"), &[("bob@b.example", "")], TEXT);
        }
        let log = scratch.deliver();
        let taken = hop.taken();
        assert_eq!(taken.len(), usize::from(is_taken), "{level}: {log}");
        assert!(taken.iter().all(|taken| !taken.mail.contains("REQUIRETLS")), "{taken:?}");
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
        scratch.enqueue_with(("alice@mx.example", "REQUIRETLS"), &[("bob@b.example", "")], TEXT);
        enqueue_for_filter(&scratch, &lmtp, "carol@b.example");
    }
    let log = scratch.deliver();
    let taken = hop.taken();
    assert_eq!(taken.len(), 2, "{log}");
    assert!(!hop.seen().iter().any(|line| line.contains("carol@")), "{log}");
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
    for (hop, goes_back) in [(Hop::start(without), 3), (Hop::start(broken), 0)] {
        let one_by_one = "default_process_limit = 1\ndefault_destination_concurrency_limit = 1";
        let scratch = site(&format!("smtp:{}", hop.name()), one_by_one);
        scratch.configure(&format!("smtp_tls_CAfile = {}", common::tls::file("mx.crt.pem").display()));
        for sweep in 1..=2 {
            for parameters in ["REQUIRETLS", "", "REQUIRETLS", "", "REQUIRETLS"] {
                scratch.enqueue_with(("alice@mx.example", parameters), &[("bob@b.example", "")], TEXT);
            }
            let log = scratch.deliver();
            let count = |what: &str| log.matches(&format!("status={what}")).count();
            let waiting = 3 - goes_back;
            let counts = (count("relayed"), count("deferred"), count("failed"));
            assert_eq!(counts, (2, waiting, goes_back), "{sweep}: {log}");
            assert_eq!((hop.taken().len(), scratch.queued().len()), (2 * sweep, waiting * sweep), "{log}");
        }
    }
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
        scratch.enqueue_with(("alice@mx.example", mail), &[("bob@b.example", "")], text.as_bytes());
        scratch.deliver();
        scratch.deliver();
        let back = String::from_utf8(scratch.mail("alice").concat()).expect("a report");
        let (header, _) = back.split_once("\n\n").expect("a header");
        assert_eq!(header.contains("\nTLS-Required: No\n"), expected, "{text:?} {mail}: {back}");
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
        scratch.enqueue_with(("alice@mx.example", mail), &[("bob@b.example", "")], text.as_bytes());
        let log = scratch.deliver();
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
        scratch.enqueue(&["bob@b.example"], text.as_bytes());
    }
    let log = scratch.deliver();
    assert_eq!(hop.taken().len(), 2, "{log}");
    assert!(hop.taken().iter().all(|taken| !taken.content.contains("secret")), "{log}");
    let hop = Hop::start(|word, _, _| (word == "EHLO").then_some(Act::Say("250-hop\r\n250 AUTH CRAM-MD5")));
    let scratch = site(
        &format!("smtp:{}", hop.name()),
        "smtp_tls_security_level = encrypt\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = $config_directory/pw",
    );
    scratch.write("pw", &format!("{} alice:secret\n", hop.name()));
    scratch.enqueue(&["bob@b.example"], ASKS.as_bytes());
    let log = scratch.deliver();
    assert!(hop.taken().is_empty() && hop.seen().iter().all(|line| !line.starts_with("AUTH")), "{log}");
}

#[test]
fn tls_that_is_required_is_never_left_out() {
    let hop = Hop::friendly();
    let scratch = site(&format!("smtp:{}", hop.name()), "smtp_tls_security_level = encrypt");
    scratch.enqueue(&["bob@b.example"], TEXT);
    let log = scratch.deliver();
    assert!(log.contains("status=deferred") && log.contains("4.7.4 "), "{log}");
    assert_eq!(hop.taken(), []);
    // Offered, and broken: with "may" the message goes in the clear, over another connection.
    let liar = Hop::start(|word, _, _| match word {
        "EHLO" => Some(Act::Say("250-hop\r\n250 STARTTLS")),
        "STARTTLS" => Some(Act::Say("220 go\r\nnonsense")),
        _ => None,
    });
    let scratch = to(&liar);
    scratch.enqueue(&["bob@b.example"], TEXT);
    scratch.deliver();
    assert_eq!((liar.taken().len(), liar.sessions()), (1, 2));
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
        client.enqueue(&["bob@elsewhere.example", "carol@mx2.example"], TEXT);
        server.1.write("channels", "local - mx.example mailbox: -\nout - * discard: -\nauthenticated - - - *\n");
        let log = client.deliver();
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

/// RFC 4954 section 6: a next hop that wants a login refuses for good whoever shows none, and so it would refuse the return.
#[test]
fn mail_waits_while_it_is_not_known_how_we_log_in() {
    let strict = Hop::start(|word, _, _| (word == "MAIL").then_some(Act::Say("530 5.7.0 Authentication required")));
    let right = format!("{} alice:secret\n", strict.name());
    for (text, mode, told) in [
        (right.as_str(), 0o600, "4.3.5 it is not known where we log in"),
        ("", 0o644, "4.3.5 it is not known where we log in"),
        (&right.replace(':', " "), 0o644, "4.3.5 it is not known where we log in"),
        ("other.example alice:secret\n", 0o644, "said: 530 5.7.0 Authentication required (to mail without a login)"),
    ] {
        let scratch = site(
            &format!("smtp:{}", strict.name()),
            "smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = $config_directory/passwords",
        );
        let file = scratch.path().join("passwords");
        fs::write(&file, text).expect("the file");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("its mode");
        if mode == 0o600 && !nix::unistd::geteuid().is_root() {
            continue;
        }
        scratch.enqueue(&["bob@b.example"], TEXT);
        let log = scratch.deliver();
        assert!(log.contains("status=deferred") && log.contains(told) && !log.contains("secret"), "{told}: {log}");
        assert_eq!(scratch.queued().len(), 1, "{log}");
    }
    // RFC 3207 section 4: the same code may ask for something else, which both log and report tell.
    let tls =
        Hop::start(|word, _, _| (word == "MAIL").then_some(Act::Say("530 5.7.0 Must issue a STARTTLS command first")));
    let scratch = site(
        &format!("smtp:{}", tls.name()),
        "smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = $config_directory/passwords\nmaximal_queue_lifetime = 0",
    );
    scratch.write("passwords", "other.example alice:secret\n");
    scratch.enqueue(&["bob@b.example"], TEXT);
    let (log, told) = (scratch.deliver(), "530 5.7.0 Must issue a STARTTLS command first");
    assert!(log.contains(told), "{log}");
    let report = scratch.texts("alice").concat();
    assert!(report.contains(told), "{report}");
    // Where nobody means to log in, the answer is for good.
    let scratch = to(&strict);
    scratch.enqueue(&["bob@b.example"], TEXT);
    let log = scratch.deliver();
    assert!(log.contains("status=failed") && log.contains("530 5.7.0"), "{log}");
}

/// RFC 8314 section 3.3. Neither a header nor a lower level makes it go in the clear to a server that hears TLS alone.
#[test]
fn with_wrappermode_tls_begins_with_the_connection_and_is_never_left_out() {
    const ASKS: &[u8] = b"TLS-Required: No\n\nx\n";
    let server = Smtpsrvr::at_once("", "local - mx.example mailbox: -\nall * * discard: *\n");
    let names = Names::start(ZONE);
    let hop = format!("[mx.example]:{}", server.2);
    for (level, authorities, text, expected) in [
        ("encrypt", "other.crt.pem", TEXT, "status=relayed"),
        ("verify", "mx.crt.pem", TEXT, "status=relayed"),
        ("verify", "other.crt.pem", TEXT, "status=deferred"),
        ("verify", "other.crt.pem", ASKS, "status=relayed"),
        ("may", "mx.crt.pem", TEXT, "4.7.5 smtp_tls_wrappermode needs smtp_tls_security_level = encrypt or more"),
    ] {
        let client = site(
            &format!("smtp:{hop}"),
            &format!("name_servers = {}\nsmtp_tls_wrappermode = yes\nsmtp_tls_security_level = {level}", names.address),
        );
        client.configure(&format!("smtp_tls_CAfile = {}", common::tls::file(authorities).display()));
        client.enqueue(&["bob@elsewhere.example"], text);
        let before = server.1.queued().len();
        let log = client.deliver();
        assert!(log.contains(expected), "{level} {authorities}: {log}");
        let queued = server.1.queued();
        assert_eq!(queued.len() - before, usize::from(expected == "status=relayed"), "{log}");
        if expected == "status=relayed" {
            let text = String::from_utf8_lossy(&queued.last().expect("a message").whole).into_owned();
            assert!(text.contains("with ESMTPS id"), "{text}");
        }
    }
    // A server that speaks first is no such one, and gets nothing in the clear; but for where the table has it so.
    for (policy, is_taken) in [("other.example may", false), ("{HOP} none", true)] {
        let hop = Hop::friendly();
        let client =
            site(&format!("smtp:{}", hop.name()), "smtp_tls_wrappermode = yes\nsmtp_tls_security_level = encrypt");
        with_policy(&client, &hop.name(), policy);
        client.enqueue(&["bob@b.example"], TEXT);
        let log = client.deliver();
        assert_eq!(hop.taken().len(), usize::from(is_taken), "{policy}: {log}");
    }
}

/// TLS 1.3 lets it do so because of what it was shown in the handshake, and the next message may show something else.
#[test]
fn with_wrappermode_too_a_server_that_leaves_behind_the_handshake_keeps_no_other_mail_back() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its number").port();
    let server = common::tls::Leaving::start(listener);
    let one_by_one = "default_process_limit = 1\ndefault_destination_concurrency_limit = 1";
    for (level, sessions) in [("encrypt", 2), ("encrypt\ntls_required_enable = no", 1)] {
        let scratch = site(
            &format!("smtp:[127.0.0.1]:{port}"),
            &format!("smtp_tls_wrappermode = yes\n{one_by_one}\nsmtp_tls_security_level = {level}"),
        );
        scratch.enqueue(&["bob@b.example"], TEXT);
        scratch.enqueue(&["bob@b.example"], TEXT);
        let before = server.sessions();
        let log = scratch.deliver();
        assert_eq!((log.matches("status=deferred").count(), server.sessions() - before), (2, sessions), "{log}");
    }
}

/// A configuration whose table of policies says this, {HOP} being the next hop.
fn with_policy(scratch: &Scratch, hop: &str, policy: &str) {
    scratch.write("policy", &policy.replace("{HOP}", hop));
    scratch.configure(&format!("smtp_tls_policy_maps = hash:{}/policy", scratch.path().display()));
}

/// SHA-256 of tests/tls/mx.crt.pem, and of the key in it.
const CERT: &str = "78:C0:47:B9:92:9A:21:AA:2A:A0:EA:84:DD:BE:C4:65:2F:1E:24:DC:62:D3:9D:48:33:67:A6:F7:D4:AB:AB:EF";
const KEY: &str = "4000f6690e6c0caaaf8bb8dd9b0e03a74708b86d088e9ed081d1c8b102fbc8c2";

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
        ("may", "{HOP} fingerprint match={OTHER}|{CERT}", Some("TLS_")),
        ("may", "{HOP} fingerprint match={KEY}", Some("TLS_")),
        ("may", "{HOP} fingerprint match={OTHER}", None),
        ("may", "{HOP} fingerprint match={CERT} servername=other.example", None),
        ("may", "{HOP} fingerprint match={CERT} servername=nexthop", Some("TLS_")),
        // Another next hop.
        ("may", "[mx.example] secure match=other.example\nmx.example secure match=other.example", Some("TLS_")),
    ] {
        let client = site(
            &format!("smtp:{hop}"),
            &format!("name_servers = {}\nsmtp_tls_security_level = {level}", names.address),
        );
        client.configure(&format!("smtp_tls_CAfile = {}", common::tls::file("mx.crt.pem").display()));
        let policy = policy.replace("{OTHER}", &"00".repeat(32)).replace("{CERT}", CERT).replace("{KEY}", KEY);
        with_policy(&client, &hop, &policy);
        client.enqueue(&["bob@elsewhere.example"], TEXT);
        let before = server.1.queued().len();
        let log = client.deliver();
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
        scratch.enqueue_with(("alice@mx.example", mail), &[("bob@b.example", "")], text);
        let log = scratch.deliver();
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
    // One that somebody may be writing keeps no mail that stays here from its mailbox, and lets none leave.
    with_policy(&scratch, "", "");
    scratch.enqueue(&["bob@b.example"], TEXT);
    let output = scratch.run("deliver", &[], b"");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(0) && log.contains("it is not known how much TLS there must be"), "{log}");
    fs::remove_file(scratch.path().join("policy")).expect("the table");
    assert_eq!(scratch.run("deliver", &[], b"").status.code(), Some(78), "no table is no empty one");
}

/// What the table says of one next hop makes nobody ask another, or that one, again and again.
#[test]
fn a_next_hop_with_which_no_session_comes_about_is_left_in_peace_whatever_a_policy_says() {
    const AUTH: &str = "smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = $config_directory/passwords";
    let closing = || Hop::start(|word, _, _| (word == "EHLO").then_some(Act::Say("421 4.3.2 closing")));
    let refusing = || {
        Hop::start(|word, _, _| match word {
            "EHLO" => Some(Act::Say("250-hop\r\n250 AUTH CRAM-MD5")),
            "AUTH" => Some(Act::Say("535 5.7.8 no")),
            _ => None,
        })
    };
    for (hop, more, policy) in [
        (closing(), "", "other.example encrypt"),
        (refusing(), AUTH, "other.example encrypt"),
        (refusing(), AUTH, "{HOP} may"),
        (Hop::friendly(), "", "{HOP} encrypt"),
    ] {
        let scratch = site(&format!("smtp:{}", hop.name()), "default_destination_concurrency_limit = 1");
        scratch.configure(more);
        scratch.write("passwords", &format!("{} alice:secret\n", hop.name()));
        with_policy(&scratch, &hop.name(), policy);
        for number in 0..5 {
            scratch.enqueue(&[&format!("user{number}@b.example")], TEXT);
        }
        let log = scratch.deliver();
        assert_eq!((log.matches("status=deferred").count(), hop.sessions()), (5, 1), "{more} {policy}: {log}");
        assert_eq!(hop.taken(), []);
    }
}
