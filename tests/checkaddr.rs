//! checkaddr says what RCPT and VRFY say, step by step.

mod common;

use common::login::{LOGIN, plain};
use common::names::{Names, Table};
use common::{PASSWORD, Scratch, feed};
use std::fs;

/// Channels, aliases and users with something of each kind in them.
fn site() -> Scratch {
    let scratch = Scratch::with(
        "smtpd_hard_error_limit = 100000\nsmtpd_junk_command_limit = 100000\nrecipient_delimiter = +\n\
         alias_maps = $config_directory/aliases",
    );
    // Names behind the net that has all addresses: nobody asks a name server here.
    let channels = "local 127.0.0.0/8,stdin $myhostname,other.example,.sub.example mailbox: *\n\
                    partner 198.51.100.0/24 example.net,192.0.2.7 smtp: local,partner\n\
                    odd unknown - - -\n\
                    inet 0.0.0.0/0 - - local\n\
                    friends friend.example - - local,partner\n\
                    rest * - - local\n";
    scratch.write("channels", channels);
    scratch.write("aliases", "sales: bob, carol\nloop: loop\nAbuse: \\\\alice\n");
    scratch
}

const LOCAL_PARTS: [&str; 14] = [
    "bob",
    "BOB",
    "carol+news",
    "nobody",
    "sales",
    "Sales+x",
    "loop",
    "abuse",
    "postmaster",
    "root",
    "b.ob",
    "x%example.net",
    "example.net!x",
    "\"b ob\"",
];
const DOMAINS: [&str; 13] = [
    "mx.example",
    "MX.EXAMPLE",
    "other.example",
    "a.sub.example",
    "sub.example",
    "example.net",
    "example.net.",
    "far.example",
    "nowhere.example",
    "[192.0.2.7]",
    "[IPv6:::1]",
    "a..b",
    "-",
];
const CLIENTS: [&str; 5] = ["127.0.0.1", "192.0.2.1", "198.51.100.9", "friend.example", "stranger.example"];

/// 0 taken, 1 refused, 75 cannot tell, by the first digit of a reply.
fn status(reply: &str) -> i32 {
    match reply.as_bytes().first() {
        Some(b'2') => 0,
        Some(b'4') => 75,
        Some(b'5') => 1,
        _ => panic!("no reply: {reply:?}"),
    }
}

/// What a session of this client says to RCPT and to VRFY for each address.
fn by_smtp(scratch: &Scratch, client: &str, addresses: &[String]) -> Vec<(String, String)> {
    by_smtp_on(scratch, &[client, "mx.example"], addresses)
}

fn by_smtp_on(scratch: &Scratch, operands: &[&str], addresses: &[String]) -> Vec<(String, String)> {
    let mut input = "HELO client.example\r\nMAIL FROM:<a@client.example>\r\n".to_owned();
    for address in addresses {
        input.push_str(&format!("RCPT TO:<{address}>\r\nVRFY <{address}>\r\n"));
    }
    input.push_str("QUIT\r\n");
    let output = feed(scratch.command("smtpsrvr").args(operands), input.as_bytes());
    let said = String::from_utf8(output.stdout).expect("text");
    let replies: Vec<String> = said.lines().skip(3).map(str::to_owned).collect();
    assert_eq!(replies.len(), 2 * addresses.len() + 1, "{said}");
    replies.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

#[test]
fn rcpt_vrfy_and_checkaddr_agree_on_every_address_and_client() {
    let scratch = site();
    let mut addresses: Vec<String> =
        LOCAL_PARTS.iter().flat_map(|local| DOMAINS.iter().map(move |domain| format!("{local}@{domain}"))).collect();
    addresses.push("postmaster".to_owned());
    addresses.extend(["a b@mx.example", "@mx.example", "bob@", "b\u{e4}r@mx.example"].map(str::to_owned));
    let mut seen = [0; 2];
    for client in CLIENTS {
        for (address, (rcpt, vrfy)) in addresses.iter().zip(by_smtp(&scratch, client, &addresses)) {
            let output = scratch.run("checkaddr", &["--from", client, &format!("<{address}>")], b"");
            let trace = String::from_utf8_lossy(&output.stdout).into_owned();
            // Beyond ASCII it takes an extension that these sessions do not ask for.
            if address.is_ascii() {
                let expected = Some(status(&rcpt));
                assert_eq!(output.status.code(), expected, "{client} {address}: {rcpt}\n{trace}");
                assert_eq!(Some(status(&vrfy)), expected, "{client} {address}: {rcpt} {vrfy}");
            }
            let verdict = trace.lines().last().unwrap_or_default();
            assert!(verdict.starts_with("verdict: "), "{trace}");
            if !rcpt.starts_with("501") && address.is_ascii() {
                assert!(verdict.ends_with(&rcpt), "{client} {address}: {rcpt}\n{trace}");
            }
            seen[usize::from(status(&rcpt) == 0)] += 1;
        }
    }
    assert!(seen[0] > 100 && seen[1] > 30, "refused and taken: {seen:?}");
}

/// On `authenticated` nobody else is, whether it has a line or not, and wherever the client comes from.
#[test]
fn they_agree_on_a_client_that_has_logged_in() {
    let scratch = site();
    scratch.configure(LOGIN);
    let addresses = ["bob@mx.example", "nobody@mx.example", "x@example.net", "x@far.example", "x@[192.0.2.7]"];
    let mut input = format!("EHLO client.example\r\n{}\r\nMAIL FROM:<a@client.example>\r\n", plain("bob", PASSWORD));
    addresses.iter().for_each(|address| input.push_str(&format!("RCPT TO:<{address}>\r\nVRFY <{address}>\r\n")));
    let compare = |line: &str, expected: [i32; 5]| {
        let output = feed(scratch.command("smtpsrvr").args(["127.0.0.1", "mx.example"]), input.as_bytes());
        let said = String::from_utf8(output.stdout).unwrap();
        let (_, replies) = said.split_once("\r\n250 2.1.0 ").expect("a transaction");
        let replies: Vec<&str> = replies.lines().skip(1).collect();
        for ((address, expected), replies) in addresses.iter().zip(expected).zip(replies.chunks(2)) {
            let output = scratch.run("checkaddr", &["--login", "--from", "192.0.2.1", address], b"");
            let trace = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!((status(replies[0]), status(replies[1])), (expected, expected), "{line} {address}: {said}");
            assert_eq!(output.status.code(), Some(expected), "{line} {address}: {trace}");
            assert!(trace.trim_end().ends_with(replies[0]), "{address}: {trace}");
            assert!(trace.starts_with("channel authenticated ("), "{trace}");
        }
    };
    compare("none", [0, 1, 0, 1, 0]);
    let channels = fs::read_to_string(scratch.path().join("channels")).unwrap();
    scratch.write("channels", &format!("{channels}authenticated - - - local\n"));
    compare("local", [0, 1, 1, 1, 1]);
    // A finicky server wants the client to be listed before that.
    let finicky = |from: &str| {
        let options = ["--login", "--finicky", "--channels", "partner", "--from", from, "bob"];
        scratch.run("checkaddr", &options, b"").status.code()
    };
    assert_eq!((finicky("198.51.100.9"), finicky("192.0.2.1")), (Some(0), Some(1)));
}

/// RCPT says only whether there is the alias; where its mail goes says deliver, and so does this.
#[test]
fn each_member_of_an_alias_is_told_with_what_becomes_of_its_copy() {
    let scratch = site();
    let folder = scratch.path().display().to_string();
    scratch.write("names", "carol\nx@example.net\n");
    let aliases = "sales: bob, nobody, staff, x@far.example, list\nstaff: :include:DIR/names, bob\n\
                   list: alice\nowner-list: bob\nodd: \\carol, \"|/bin/x y\", /dev/null, /var/mail/x, :include:DIR/gone\n\
                   run: \\carol, \"|/bin/x y\", /dev/null, /var/mail/x\nempty: :include:DIR/none\nloop: loop\n";
    scratch.write("aliases", &aliases.replace("DIR", &folder));
    scratch.write("none", "# nobody\n");
    let addresses = ["sales", "run", "odd", "empty", "loop"].map(|local| format!("{local}@mx.example"));
    let traces: Vec<String> = addresses
        .iter()
        .zip(by_smtp(&scratch, "192.0.2.1", &addresses))
        .map(|(address, (rcpt, vrfy))| {
            let output = scratch.run("checkaddr", &["--from", "192.0.2.1", address], b"");
            let trace = String::from_utf8(output.stdout).unwrap().replace(&folder, "DIR");
            assert_eq!(output.status.code(), Some(status(&rcpt)), "{trace}");
            assert_eq!(status(&vrfy), status(&rcpt), "{address}");
            let (_, members) = trace.split_once("\nalias ").expect("an alias");
            members.lines().skip(1).take_while(|line| !line.starts_with("verdict: ")).collect::<Vec<_>>().join("\n")
        })
        .collect();
    let returned = "no user and no alias has this local part: its mail is returned";
    let expected = [
        format!(
            "member bob@mx.example: user bob\nmember nobody@mx.example: {returned}\n\
             member carol@mx.example: user carol\nmember x@example.net: leaves by channel partner (DIR/channels:2)\n\
             member x@far.example: mail for it leaves by no channel and is returned\n\
             member list@mx.example: alias list, with mail of its own\nmember alice@mx.example: user alice"
        ),
        "member \\carol: user carol\n\
         member |/bin/x y: main.cf does not allow this (allow_mail_to_commands): its mail waits\n\
         member /dev/null: thrown away\n\
         member /var/mail/x: main.cf does not allow this (allow_mail_to_files): its mail waits"
            .to_owned(),
        String::new(),
        "alias empty leads to nobody: its mail is returned".to_owned(),
        "member loop: goes in a circle, and no user has this name: its mail is returned".to_owned(),
    ];
    for (which, (trace, expected)) in traces.iter().zip(&expected).enumerate() {
        match which {
            2 => assert!(trace.starts_with("alias odd cannot be followed: DIR/gone: "), "{trace}"),
            _ => assert_eq!(trace, expected),
        }
    }
}

/// `partner`, the last one that it is looked up in, does not list it, and may send to itself.
#[test]
fn they_agree_on_a_client_that_no_channel_lists_and_it_stays_here() {
    let scratch = site();
    let addresses = ["bob@mx.example", "nobody@mx.example", "x@example.net", "x@far.example"].map(str::to_owned);
    let statuses = |client: &str, list: &str| {
        let heard = by_smtp_on(&scratch, &[client, "mx.example", list], &addresses);
        let asked = addresses.iter().zip(heard).map(|(address, (rcpt, vrfy))| {
            let output = scratch.run("checkaddr", &["--from", client, "--channels", list, address], b"");
            let trace = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(trace.trim_end().ends_with(&rcpt), "{client} {address}: {rcpt}\n{trace}");
            assert_eq!(status(&vrfy), status(&rcpt), "{client} {address}: {vrfy}");
            (output.status.code(), trace)
        });
        asked.unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let (listed, _) = statuses("198.51.100.9", "local,partner");
    assert_eq!(listed, [0, 1, 0, 1].map(Some));
    let (unlisted, traces) = statuses("192.0.2.1", "local,partner");
    assert_eq!(unlisted, [0, 1, 1, 1].map(Some));
    assert!(traces[2].contains("who is on no channel is on the last one\n"), "{}", traces[2]);
    let why = "\nmail of a client that no channel lists may not leave this machine, as it does by partner\n";
    assert!(traces[2].contains(why), "{}", traces[2]);
    assert!(!traces[2].contains("may go to channel partner"), "{}", traces[2]);
}

const OF_FRIENDS: Table = &[
    ("1.2.0.192.in-addr.arpa", "PTR", "client.friend.example"),
    ("client.friend.example", "A", "192.0.2.1"),
    ("2.2.0.192.in-addr.arpa", "PTR", "client.friend.example"),
];

/// Who is a friend says the name server of main.cf, and no other.
#[test]
fn a_client_known_by_its_name_is_looked_up_where_rcpt_looks() {
    let scratch = site();
    let names = Names::start(OF_FRIENDS);
    scratch.configure(&format!("name_servers = {}", names.address));
    let channels = "local 127.0.0.0/8 $myhostname mailbox: *\n\
                    friends .friend.example - - *\n\
                    rest * * smtp: local\n";
    scratch.write("channels", channels);
    let addresses = ["x@far.example".to_owned()];
    for (client, expected) in [("192.0.2.1", 0), ("192.0.2.2", 1)] {
        let (rcpt, _) = by_smtp(&scratch, client, &addresses).remove(0);
        assert_eq!(status(&rcpt), expected, "{client}: {rcpt}");
        let output = scratch.run("checkaddr", &["--from", client, &addresses[0]], b"");
        assert_eq!(output.status.code(), Some(expected), "{client}: {output:?}");
    }
}

/// Then deliver finds out, and the sender hears of it later.
#[test]
fn whether_a_user_is_known_is_not_asked_where_that_is_left_out_and_all_else_is() {
    let scratch = site();
    let addresses = ["nobody-here@mx.example".to_owned(), "x@example.net".to_owned()];
    let ask = |expected: [i32; 2]| {
        for ((address, (rcpt, _)), expected) in
            addresses.iter().zip(by_smtp(&scratch, "192.0.2.1", &addresses)).zip(expected)
        {
            assert_eq!(status(&rcpt), expected, "{address}: {rcpt}");
            let output = scratch.run("checkaddr", &["--from", "192.0.2.1", address], b"");
            assert_eq!(output.status.code(), Some(expected), "{address}: {output:?}");
        }
    };
    ask([1, 1]);
    scratch.configure("receive_override_options = no_address_mappings, no_header_body_checks, no_milters");
    ask([1, 1]);
    scratch.configure("receive_override_options = no_milters, no_unknown_recipient_checks");
    ask([0, 1]);
    let mail =
        "HELO c.example\r\nMAIL FROM:<alice@mx.example>\r\nRCPT TO:<nobody-here@mx.example>\r\nDATA\r\nx\r\n.\r\n";
    scratch.run("smtpsrvr", &["192.0.2.1"], mail.as_bytes());
    scratch.deliver();
    let back = scratch.mail("alice").concat();
    assert!(String::from_utf8_lossy(&back).contains("nobody-here@mx.example"), "{:?}", scratch.queued());
}

#[test]
fn what_cannot_be_told_is_75_and_never_a_no() {
    let scratch = site();
    fs::remove_file(scratch.path().join("passwd")).unwrap();
    let addresses = ["bob@mx.example".to_owned(), "x@far.example".to_owned(), "sales@mx.example".to_owned()];
    for (address, (rcpt, vrfy)) in addresses.iter().zip(by_smtp(&scratch, "192.0.2.1", &addresses)) {
        let output = scratch.run("checkaddr", &["--from", "192.0.2.1", address], b"");
        assert_eq!(output.status.code(), Some(status(&rcpt)), "{address}: {rcpt} {output:?}");
        assert_eq!(status(&rcpt), status(&vrfy));
    }
    let output = scratch.run("checkaddr", &["bob@mx.example"], b"");
    assert_eq!(output.status.code(), Some(75));
    assert!(String::from_utf8_lossy(&output.stdout).contains("\ncannot tell who has this local part: "));
}

#[test]
fn each_step_is_told() {
    let scratch = site();
    let ask = |words: &[&str]| {
        let output = scratch.run("checkaddr", words, b"");
        let file = scratch.path().join("channels").display().to_string();
        (String::from_utf8(output.stdout).unwrap().replace(&file, "F"), output.status.code())
    };
    assert_eq!(
        ask(&["--from", "192.0.2.1", "sales@other.example"]),
        (
            "channel local (F:1): client 192.0.2.1 is not on it\n\
             channel partner (F:2): client 192.0.2.1 is not on it\n\
             channel odd (F:3): client 192.0.2.1 is not on it\n\
             channel inet (F:4): client 192.0.2.1 is on it\n\
             address sales@other.example\n\
             channel local (F:1): domain other.example is on it\n\
             mail from channel inet may go to channel local\n\
             alias sales: bob carol\n\
             member bob@other.example: user bob\n\
             member carol@other.example: user carol\n\
             verdict: taken: 250 2.1.5 Ok\n"
                .to_owned(),
            Some(0)
        )
    );
    let (said, status) = ask(&["--from", "friend.example", "--channels", "friends,inet", "bob+x@mx.example"]);
    assert!(said.starts_with("channel friends (F:5): client friend.example is on it\n"), "{said}");
    assert!(said.contains("\nuser bob, extension x\n"), "{said}");
    assert_eq!(status, Some(0));
    let (said, status) = ask(&["--from", "unknown", "--channels", "partner", "--finicky", "bob"]);
    let verdict = "verdict: refused: 421 4.7.1 Your host is not listed here, closing the connection\n";
    assert!(said.ends_with(&format!("\nclient unknown is on no channel\n{verdict}")), "{said}");
    assert_eq!(status, Some(1));
    let (said, status) = ask(&["--from", "192.0.2.1", "x@example.net"]);
    assert!(said.contains("\nmail from channel inet may not go to channel partner\n"), "{said}");
    assert_eq!(status, Some(1));
}

/// A server says that it is taken, as it does of mail that somebody gets.
#[test]
fn that_mail_is_thrown_away_is_told() {
    let scratch = site();
    let channels = fs::read_to_string(scratch.path().join("channels")).unwrap();
    scratch.write("channels", &format!("noreply - noreply.example discard: -\n{channels}"));
    scratch.write("aliases", "sales: bob, x@noreply.example\n");
    let ask = |address: &str| {
        let output = scratch.run("checkaddr", &[address], b"");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = ask("x@noreply.example");
    let end = "\nmail from channel local may go to channel noreply\nchannel noreply throws it away\n\
               verdict: taken: 250 2.1.5 Ok\n";
    assert!(said.ends_with(end), "{said}");
    let said = ask("sales@mx.example");
    let place = scratch.path().join("channels").display().to_string();
    let member = format!("\nmember x@noreply.example: channel noreply ({place}:1) throws it away\n");
    assert!(said.contains(&member) && said.contains("\nmember bob@mx.example: user bob\n"), "{said}");
}

#[test]
fn wrong_questions_are_usage_and_wrong_configuration_names_file_and_line() {
    let scratch = site();
    let no_channel = &["--channels", "nosuch", "a"];
    for wrong in [&[][..], &["a", "b"], &["--from", "no host", "a"], &["--from", "", "a"], &["--x"], no_channel] {
        assert_eq!(scratch.run("checkaddr", wrong, b"").status.code(), Some(64), "{wrong:?}");
    }
    scratch.write("channels", "local 127.0.0.0/8 $myhostname mailbox: *\nsmtp * * smtq: local\n");
    let output = scratch.run("checkaddr", &["bob"], b"");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{log}");
    assert!(log.contains("channels:2: expected mailbox:, "), "{log}");
}

#[test]
fn the_check_of_all_the_configuration_finds_lines_that_nobody_reaches() {
    let scratch = site();
    scratch.write("channels", "smtp * * smtp: local\nlocal 127.0.0.0/8 $myhostname mailbox: *\n");
    let output = scratch.run("doorpost-check", &[], b"");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("channels:2: no client is ever on channel local: channel smtp ("), "{said}");
    assert!(said.contains("; put this line before that one\n"), "{said}");
}
