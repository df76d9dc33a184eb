//! smtpsrvr for users: AUTH with every mechanism, `--submission`, whose mail may go where, and LMTP by name.

mod common;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::tls::{Client, configure};
use common::{PASSWORD, Scratch, feed};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

const LOGIN: &str = "smtpd_sasl_auth_enable = yes\nauth_failure_delay = 0";

fn encoded(octets: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(octets)
}

fn decoded(line: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(line.strip_prefix("334 ").expect("a challenge")).expect("base64")
}

fn plain(user: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", encoded(format!("\0{user}\0{password}")))
}

/// What EHLO lists, joined.
fn extensions(client: &mut Client) -> String {
    client.say("EHLO c.example");
    client.reply().iter().skip(1).map(|line| format!("{}|", &line[4..])).collect()
}

/// A client that has had the greeting.
fn greeted(mut client: Client) -> Client {
    assert_eq!(client.line(), "220 mx.example ESMTP doorpost");
    client
}

/// The same from another machine and under TLS.
fn under_tls(command: &mut Command) -> Client {
    let mut client = greeted(Client::from_afar(command));
    assert!(client.ask("STARTTLS").starts_with("220 "));
    client.start_tls();
    client
}

fn submission(scratch: &Scratch) -> Command {
    let mut command = scratch.command("smtpsrvr");
    command.arg("--submission");
    command
}

/// Sends a message, and gives the replies to MAIL, RCPT, DATA and the end.
fn send(client: &mut Client, from: &str, to: &str, text: &str) -> Vec<String> {
    let mut replies = Vec::new();
    for line in [format!("MAIL FROM:<{from}>"), format!("RCPT TO:<{to}>"), "DATA".to_owned(), format!("{text}\r\n.")] {
        replies.push(client.ask(&line));
        if !replies.last().is_some_and(|reply| reply.starts_with(['2', '3'])) {
            break;
        }
    }
    replies
}

#[test]
fn a_login_under_tls_may_send_anywhere_and_the_received_field_says_so() {
    let scratch = Scratch::with(LOGIN);
    configure(&scratch);
    let mut client = under_tls(&mut scratch.command("smtpsrvr"));
    let listed = extensions(&mut client);
    assert!(listed.contains("AUTH SCRAM-SHA-256 CRAM-MD5 PLAIN LOGIN|"), "{listed}");
    assert!(send(&mut client, "bob@mx.example", "x@far.example", "").pop().is_some_and(|r| r.starts_with("550 5.7.1")));
    client.ask("RSET");
    assert_eq!(client.ask(&plain("bob", PASSWORD)), "235 2.7.0 Logged in");
    assert!(client.ask(&plain("bob", PASSWORD)).starts_with("503 "), "once is enough");
    assert!(!extensions(&mut client).contains("AUTH"), "nor is it offered again");
    let replies = send(&mut client, "bob@mx.example", "x@far.example", "Subject: x\r\n");
    assert!(replies.last().is_some_and(|reply| reply.starts_with("250 2.0.0 Ok: queued as ")), "{replies:?}");
    client.ask("QUIT");
    let (_, log, status) = client.end();
    assert_eq!(status, Some(0));
    assert!(log.contains("event=login user=bob mechanism=PLAIN") && log.contains(" user=bob"), "{log}");
    let queued = scratch.queued();
    let trace = String::from_utf8_lossy(&queued[0].whole).into_owned();
    assert!(trace.contains(" with ESMTPSA id ") && trace.contains("\ttls TLS_"), "{trace}");
}

#[test]
fn every_mechanism_lets_in_who_knows_the_password_and_nobody_else() {
    let scratch = Scratch::with(LOGIN);
    for (password, code) in [(PASSWORD, "235 2.7.0"), ("wrong", "535 5.7.8")] {
        for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"] {
            let mut client = greeted(Client::from_here(&mut scratch.command("smtpsrvr")));
            assert!(extensions(&mut client).contains("AUTH SCRAM-SHA-256 CRAM-MD5 PLAIN LOGIN|"));
            let reply = match mechanism {
                "PLAIN" => {
                    assert_eq!(client.ask("auth plain"), "334");
                    client.ask(&encoded(format!("bob\0bob\0{password}")))
                }
                "LOGIN" => {
                    assert_eq!(client.ask("AUTH LOGIN"), format!("334 {}", encoded("Username:")));
                    assert_eq!(client.ask(&encoded("bob")), format!("334 {}", encoded("Password:")));
                    client.ask(&encoded(password))
                }
                "CRAM-MD5" => cram_md5(&mut client, password),
                _ => scram(&mut client, password),
            };
            assert!(reply.starts_with(code), "{mechanism} with {password}: {reply}");
        }
    }
}

fn cram_md5(client: &mut Client, password: &str) -> String {
    let challenge = decoded(&client.ask("AUTH CRAM-MD5"));
    let mut mac = Hmac::<md5::Md5>::new_from_slice(password.as_bytes()).expect("a key");
    mac.update(&challenge);
    let digest: String = mac.finalize().into_bytes().iter().map(|octet| format!("{octet:02x}")).collect();
    client.ask(&encoded(format!("bob {digest}")))
}

fn hmac_sha256(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// RFC 7677, and the server's own proof at the end.
fn scram(client: &mut Client, password: &str) -> String {
    let first = "n=bob,r=abc";
    let challenge = client.ask(&format!("AUTH SCRAM-SHA-256 {}", encoded(format!("n,,{first}"))));
    let challenge = String::from_utf8(decoded(&challenge)).expect("text");
    let part = |name: &str| {
        let found = challenge.split(',').find_map(|part| part.strip_prefix(name));
        found.unwrap_or_else(|| panic!("{challenge}")).to_owned()
    };
    let (nonce, salt, rounds) = (part("r="), part("s="), part("i="));
    let mut salted = [0; 32];
    let salt = BASE64_STANDARD.decode(salt).expect("base64");
    pbkdf2::pbkdf2::<Hmac<Sha256>>(password.as_bytes(), &salt, rounds.parse().expect("a number"), &mut salted)
        .expect("a key");
    let last = format!("c=biws,r={nonce}");
    let said = format!("{first},{challenge},{last}");
    let key = hmac_sha256(&salted, "Client Key");
    let signature = hmac_sha256(&Sha256::digest(&key), &said);
    let proof: Vec<u8> = key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
    let reply = client.ask(&encoded(format!("{last},p={}", encoded(proof))));
    if !reply.starts_with("334 ") {
        return reply;
    }
    let expected = format!("v={}", encoded(hmac_sha256(&hmac_sha256(&salted, "Server Key"), &said)));
    assert_eq!(String::from_utf8_lossy(&decoded(&reply)), expected, "the server knows the password too");
    client.ask("")
}

#[test]
fn before_tls_nobody_logs_in_from_afar() {
    let scratch = Scratch::with(LOGIN);
    configure(&scratch);
    let mut client = greeted(Client::from_afar(&mut scratch.command("smtpsrvr")));
    assert!(!extensions(&mut client).contains("AUTH"));
    assert_eq!(client.ask(&plain("bob", PASSWORD)), "530 5.7.0 Begin TLS first");
    scratch.configure("tls_auth_only = no");
    let mut client = greeted(Client::from_afar(&mut scratch.command("smtpsrvr")));
    assert!(extensions(&mut client).contains("AUTH "));
    assert_eq!(client.ask(&plain("bob", PASSWORD)), "235 2.7.0 Logged in");
    assert!(client.ask("STARTTLS").starts_with("220 "));
    client.start_tls();
    assert!(extensions(&mut client).contains("AUTH "), "what was shown in clear is forgotten");
}

#[test]
fn without_the_parameter_there_is_no_auth() {
    let scratch = Scratch::new();
    let mut client = greeted(Client::from_here(&mut scratch.command("smtpsrvr")));
    assert!(!extensions(&mut client).contains("AUTH"));
    assert_eq!(client.ask(&plain("bob", PASSWORD)), "502 5.5.1 That command is not implemented here");
}

#[test]
fn wrong_logins_are_answered_alike_and_end_the_session_at_the_third() {
    let scratch = Scratch::with(LOGIN);
    let mut client = greeted(Client::from_here(&mut scratch.command("smtpsrvr")));
    let wrong = client.ask(&plain("bob", "wrong"));
    assert_eq!(wrong, "535 5.7.8 Name or password is wrong");
    assert_eq!(client.ask(&plain("nobody-of-that-name", "wrong")), wrong);
    client.say(&plain("bob", "wrong again"));
    let (said, log, status) = client.end();
    assert_eq!((said.as_str(), status), ("421 4.7.0 Too many errors, closing the connection\r\n", Some(0)), "{log}");
    assert_eq!(log.matches("event=login-failed").count(), 3, "{log}");
}

#[test]
fn responses_that_are_none_are_told_and_the_session_goes_on() {
    let scratch = Scratch::with(LOGIN);
    let mut client = greeted(Client::from_here(&mut scratch.command("smtpsrvr")));
    assert_eq!(client.ask("AUTH GSSAPI"), "504 5.5.4 That mechanism is not offered");
    assert_eq!(client.ask("AUTH PLAIN !!!"), "501 5.5.2 The response does not follow the mechanism");
    assert_eq!(client.ask("AUTH PLAIN ="), "501 5.5.2 The response does not follow the mechanism");
    assert_eq!(client.ask("AUTH LOGIN"), "334 VXNlcm5hbWU6");
    assert_eq!(client.ask("*"), "501 5.7.0 Login cancelled");
    assert_eq!(client.ask("AUTH PLAIN"), "334");
    assert_eq!(client.ask(&"A".repeat(20_000)), "500 5.5.6 The response is too long");
    assert_eq!(client.ask("MAIL FROM:<a@b>"), "250 2.1.0 Ok");
    assert_eq!(client.ask(&plain("bob", PASSWORD)), "503 5.5.1 A message is begun already");
    client.ask("RSET");
    assert_eq!(client.ask(&plain("bob", PASSWORD)), "235 2.7.0 Logged in");
}

#[test]
fn passwords_that_only_root_can_read_are_checked_by_a_process_of_roots() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let scratch = Scratch::with(&format!("{LOGIN}\nusers = system"));
    fs::write(scratch.path().join("secrets"), format!("bob:{{PLAIN}}{PASSWORD}\n")).expect("a file");
    fs::set_permissions(scratch.path().join("secrets"), fs::Permissions::from_mode(0o600)).expect("its mode");
    scratch.configure(&format!("authentication = passwd-file:{}/secrets", scratch.path().display()));
    scratch.configure(&format!("users = passwd-file:{}/passwd", scratch.path().display()));
    let mut client = greeted(Client::from_here(&mut scratch.command("smtpsrvr")));
    let status = fs::read_to_string(format!("/proc/{}/status", client.pid())).expect("a process");
    assert!(status.contains(&format!("Uid:\t{0}\t{0}\t{0}", common::NOBODY)), "the parser has no rights: {status}");
    assert!(extensions(&mut client).contains("AUTH SCRAM"));
    assert_eq!(client.ask(&plain("bob", "wrong")), "535 5.7.8 Name or password is wrong");
    assert_eq!(client.ask(&plain("bob", PASSWORD)), "235 2.7.0 Logged in");
}

/// Under smtpd's pool the session begins with the rights that smtpd has.
#[test]
fn in_a_pool_of_roots_passwords_of_root_alone_are_checked_and_in_one_of_another_user_that_is_told() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let scratch = Scratch::with("auth_failure_delay = 0\nidle_children = 1\nmax_use = 5");
    fs::write(scratch.path().join("secrets"), format!("bob:{{PLAIN}}{PASSWORD}\n")).expect("a file");
    fs::set_permissions(scratch.path().join("secrets"), fs::Permissions::from_mode(0o600)).expect("its mode");
    scratch.configure(&format!("authentication = passwd-file:{}/secrets", scratch.path().display()));
    let start = |more: &[&str]| {
        let log = scratch.path().join("log");
        let mut command = scratch.command("smtpd");
        command.args(["--mode", "pool", "--port", "0", "--listen-address", "127.0.0.1"]).args(more);
        command.args(["smtpsrvr", "--submission"]).stdin(std::process::Stdio::null());
        let child = command.stderr(fs::File::create(&log).expect("a log")).spawn().expect("smtpd");
        let said = || fs::read_to_string(&log).expect("a log");
        let mut port = None;
        common::until("smtpd to listen", || {
            port = said()
                .split_once("listening on=127.0.0.1:")
                .and_then(|(_, rest)| rest.split(' ').next()?.parse::<u16>().ok());
            port.is_some()
        });
        (child, port.expect("a port"), log)
    };
    let heard = |port: u16| {
        use std::io::{BufRead, BufReader, Write};
        let mut writer = std::net::TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        let mut lines = BufReader::new(writer.try_clone().expect("a socket")).lines().map(|line| line.expect("a line"));
        let mut ask = |line: &str| {
            writer.write_all(line.as_bytes()).expect("sending");
            lines.by_ref().find(|line| line.as_bytes().get(3) == Some(&b' ')).expect("a reply")
        };
        ask("");
        ask("EHLO c.example\r\n");
        ask(&format!("{}\r\n", plain("bob", PASSWORD)))
    };
    let end = |mut child: std::process::Child| {
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a signal");
        child.wait().expect("its end");
    };
    let (child, port, _) = start(&[]);
    for _ in 0..2 {
        assert_eq!(heard(port), "235 2.7.0 Logged in");
    }
    end(child);
    // As a user who cannot read them; the same with the file of system passwords.
    for (authentication, told) in [
        (format!("passwd-file:{}/secrets", scratch.path().display()), "Permission denied".to_owned()),
        (
            "shadow".to_owned(),
            "expected to be started as root, who alone can read /etc/shadow: Permission denied".to_owned(),
        ),
    ] {
        scratch.configure(&format!("authentication = {authentication}"));
        let (child, port, log) = start(&["--user", "nobody"]);
        assert!(heard(port).starts_with("454 4.7.0 "));
        end(child);
        // The process that checks passwords says it by itself, and nobody waits for that.
        let said = || fs::read_to_string(&log).expect("a log");
        common::until(&format!("{authentication}: {told}"), || said().contains(&told));
    }
}

#[test]
fn submission_is_for_users_alone() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    configure(&scratch);
    let mut client = greeted(Client::from_afar(&mut submission(&scratch)));
    assert_eq!(client.ask("MAIL FROM:<bob@mx.example>"), "530 5.7.0 Begin TLS first");
    assert!(client.ask("STARTTLS").starts_with("220 "));
    client.start_tls();
    extensions(&mut client);
    for line in ["MAIL FROM:<bob@mx.example>", "VRFY bob"] {
        assert_eq!(client.ask(line), "530 5.7.0 Log in first", "{line}");
    }
    assert_eq!(client.ask("RCPT TO:<bob@mx.example>"), "503 5.5.1 MAIL first");
    client.send(b"BDAT 6 LAST\r\nRSET\r\n");
    assert_eq!(client.line(), "503 5.5.1 MAIL first");
    assert_eq!(client.ask(&plain("bob", PASSWORD)), "235 2.7.0 Logged in");
    assert_eq!(client.ask("MAIL FROM:<bob@mx.example>"), "250 2.1.0 Ok");
}

#[test]
fn submission_completes_the_header_and_changes_nothing_in_it() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    let mut client = greeted(Client::from_here(&mut submission(&scratch)));
    client.ask(&plain("bob", PASSWORD));
    let whole = "Date: today\r\nMessage-ID: <1@c>\r\nFrom: Bob <bob@mx.example>\r\n\r\nx";
    for text in [whole, "Subject: x\r\n\r\nDate: no", "no header at all"] {
        let replies = send(&mut client, "bob@mx.example", "alice@mx.example", text);
        assert!(replies.last().is_some_and(|reply| reply.starts_with("250 ")), "{replies:?}");
    }
    // The same in chunks that end anywhere.
    client.ask("MAIL FROM:<bob@mx.example>");
    client.ask("RCPT TO:<alice@mx.example>");
    client.send(b"BDAT 5\r\nSubjeBDAT 6\r\nct: y\rBDAT 5 LAST\r\n\n\r\nz\r");
    for code in ["250 ", "250 ", "550 5.6.11"] {
        let line = client.line();
        assert!(line.starts_with(code), "{line}");
    }
    client.ask("MAIL FROM:<bob@mx.example>");
    client.ask("RCPT TO:<alice@mx.example>");
    client.send(b"BDAT 5\r\nSubjeBDAT 6\r\nct: y\rBDAT 4 LAST\r\n\n\r\nz");
    for code in ["250 ", "250 ", "250 2.0.0 Ok: queued"] {
        let line = client.line();
        assert!(line.starts_with(code), "{line}");
    }
    let queued: Vec<String> =
        scratch.queued().iter().map(|m| String::from_utf8(m.content().to_vec()).expect("text")).collect();
    assert_eq!(queued[0], whole.replace("\r\n", "\n") + "\n");
    for (text, rest) in
        queued[1..].iter().zip(["\nSubject: x\n\nDate: no\n", "\n\nno header at all\n", "\nSubject: y\n\nz\n"])
    {
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("Date: ") && lines[0].ends_with("00"), "{text}");
        assert!(lines[1].starts_with("Message-ID: <") && lines[1].ends_with("@mx.example>"), "{text}");
        assert_eq!(lines[2], "From: <bob@mx.example>");
        assert!(text.ends_with(rest), "{text}");
    }
}

/// Whom a blind copy goes to is for nobody else to know (RFC 5322 section 3.6.3).
#[test]
fn fields_that_are_for_nobody_else_are_taken_out_of_what_users_submit_and_of_nothing_else() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    let text = "bcc: carol@mx.example,\r\n eve@far.example\r\nTo: alice@mx.example\r\nReturn-Path: <x@y>\r\n\
        Content-Length: 7\r\nSubject: x\r\nResent-Bcc: z@y\r\n\r\nBcc: of the body";
    let sent = |command: &mut Command| {
        let mut client = greeted(Client::from_here(command));
        client.ask(&plain("bob", PASSWORD));
        let replies = send(&mut client, "bob@mx.example", "alice@mx.example", text);
        assert!(replies.last().is_some_and(|reply| reply.starts_with("250 ")), "{replies:?}");
        String::from_utf8(scratch.queued().pop().expect("a message").content().to_vec()).expect("text")
    };
    let submitted = sent(&mut submission(&scratch));
    let rest = "To: alice@mx.example\nSubject: x\n\nBcc: of the body\n";
    assert!(submitted.starts_with("Date: ") && submitted.ends_with(rest), "{submitted}");
    assert_eq!(submitted.lines().count(), 7, "{submitted}");
    assert_eq!(sent(&mut scratch.command("smtpsrvr")), text.replace("\r\n", "\n") + "\n", "that of others is theirs");
    scratch.configure("message_drop_headers = SUBJECT");
    let submitted = sent(&mut submission(&scratch));
    assert!(submitted.contains("\nbcc: carol@mx.example,\n eve@") && !submitted.contains("Subject"), "{submitted}");
    scratch.configure("message_drop_headers = subject:");
    let output = feed(&mut submission(&scratch), b"QUIT\r\n");
    assert_eq!(output.status.code(), Some(78), "{output:?}");
}

#[test]
fn a_login_sends_as_itself_where_that_is_configured() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    scratch.write("senders", "bob@mx.example bob\n@team.example alice, bob\n");
    scratch.configure(&format!("smtpd_sender_login_maps = hash:{}/senders", scratch.path().display()));
    let mut client = greeted(Client::from_here(&mut submission(&scratch)));
    // Who logs in is the user as the table spells him, whatever was typed.
    client.ask(&plain("BOB", PASSWORD));
    for (from, header, last) in [
        ("bob@mx.example", "From: bob@mx.example", "250 2.0.0"),
        ("BOB@MX.example", "From: x@team.example", "250 2.0.0"),
        ("any@team.example", "From: bob@mx.example, any@team.example", "250 2.0.0"),
        ("alice@mx.example", "", "553 5.7.1"),
        ("x@far.example", "", "553 5.7.1"),
        ("bob@mx.example", "From: alice@mx.example", "550 5.7.1"),
        ("bob@mx.example", "From: bob@mx.example, \"bob@mx.example\" <alice@mx.example>", "550 5.7.1"),
        ("bob@mx.example", "From: bob@mx.example\r\nFrom: alice@mx.example", "550 5.6.0"),
        ("bob@mx.example", "From: nonsense", "550 5.6.0"),
        // Nothing that hides behind a header of any length.
        ("bob@mx.example", &format!("{}From: alice@mx.example", "X: y\r\n".repeat(80_000)), "552 5.3.4"),
        ("bob@mx.example", &format!("{}From: alice@mx.example", "X: y\r\n".repeat(20_000)), "550 5.7.1"),
        ("bob@mx.example", "From: bob@mx.example\r\nnonsense\r\nFrom: alice@mx.example", "250 2.0.0"),
        ("", "Subject: from nobody", "550 5.6.0"),
        ("", "From: bob@mx.example", "250 2.0.0"),
        ("bob@mx.example", "Sender: bob@mx.example\r\nResent-From: x@team.example, bob@mx.example", "250 2.0.0"),
        ("bob@mx.example", "sender : Bob <alice@mx.example>", "550 5.7.1"),
        ("bob@mx.example", "Sender: bob@mx.example\r\nSENDER: bob@mx.example", "550 5.6.0"),
        ("bob@mx.example", "Sender: bob@mx.example, x@team.example", "550 5.6.0"),
        ("bob@mx.example", "Sender: Bob", "550 5.6.0"),
        ("bob@mx.example", "Resent-From: bob@mx.example, alice@mx.example", "550 5.7.1"),
        ("bob@mx.example", "Resent-From: bob@mx.example\r\nX: y\r\nresent-from:\r\n alice@mx.example", "550 5.7.1"),
        ("bob@mx.example", "Resent-From: bob@mx.example\r\nResent-Sender: alice@mx.example", "550 5.7.1"),
        ("bob@mx.example", "Resent-Sender: bob@mx.example, x@team.example", "550 5.6.0"),
        ("bob@mx.example", "Resent-From: <>", "550 5.6.0"),
        ("bob@mx.example", &format!("{}Sender: alice@mx.example", "X: y\r\n".repeat(20_000)), "550 5.7.1"),
        ("bob@mx.example", "nonsense\r\nSender: alice@mx.example", "250 2.0.0"),
    ] {
        let replies = send(&mut client, from, "alice@mx.example", &format!("{header}\r\n"));
        assert!(replies.last().is_some_and(|reply| reply.starts_with(last)), "{from} {header}: {replies:?}");
    }
    let queued = scratch.queued();
    for hidden in [
        "From: bob@mx.example\n\nnonsense\nFrom: alice@mx.example\n",
        "From: <bob@mx.example>\n\nnonsense\nSender: alice@mx.example\n",
    ] {
        let is_parted = |message: &&common::Queued| String::from_utf8_lossy(message.content()).contains(hidden);
        assert_eq!(queued.iter().filter(is_parted).count(), 1, "what is no field ends the header for all: {hidden}");
    }
    fs::remove_file(scratch.path().join("senders")).expect("the table");
    assert!(client.ask("MAIL FROM:<bob@mx.example>").starts_with("451 "), "what cannot be told is no refusal for good");
    client.ask("QUIT");
    let (_, log, _) = client.end();
    assert!(log.contains("event=login user=bob mechanism=PLAIN") && !log.contains("=BOB"), "{log}");
}

#[test]
fn lmtp_answers_for_each_recipient() {
    let scratch = Scratch::new();
    let mut command = scratch.command("smtpsrvr");
    command.arg0("/usr/local/sbin/lmtpsrvr");
    let output = feed(
        &mut command,
        b"EHLO c.example\r\nHELO c.example\r\nLHLO c.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<alice@mx.example>\r\n\
          RCPT TO:<nobody@mx.example>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\nx\r\n.\r\n\
          MAIL FROM:<a@b>\r\nRCPT TO:<alice@mx.example>\r\nRCPT TO:<bob@mx.example>\r\nBDAT 1\r\nxBDAT 3 LAST\r\ny\r\n\
          MAIL FROM:<a@b>\r\nRCPT TO:<alice@mx.example>\r\nRCPT TO:<bob@mx.example>\r\nBDAT 2\r\n\n\nBDAT 1 LAST\r\n\n\
          MAIL FROM:<a@b>\r\nRCPT TO:<nobody@mx.example>\r\nDATA\r\nQUIT\r\n",
    );
    let said = String::from_utf8(output.stdout).expect("ASCII");
    let codes: Vec<&str> = said.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect();
    let expected =
        "220 500 500 250 250 250 550 250 354 250 250 250 250 250 250 250 250 250 250 250 550 503 503 250 550 503 221";
    assert_eq!(codes.join(" "), expected, "{said}");
    assert!(said.starts_with("220 mx.example LMTP doorpost\r\n"), "{said}");
    let queued = scratch.queued();
    assert_eq!(queued.len(), 2);
    assert!(String::from_utf8_lossy(&queued[0].whole).contains(" with LMTP id "));
}

#[test]
fn a_message_refused_for_each_of_many_recipients_is_one_mistake() {
    let scratch = Scratch::with("message_size_limit = 100\nsmtpd_hard_error_limit = 3");
    let rcpt = "RCPT TO:<bob@mx.example>\r\n".repeat(30);
    let text = "x".repeat(200);
    let session = format!("LHLO c\r\nMAIL FROM:<a@b>\r\n{rcpt}DATA\r\n{text}\r\n.\r\nNOOP\r\nQUIT\r\n");
    let mut command = scratch.command("smtpsrvr");
    command.arg0("lmtpsrvr");
    let said = String::from_utf8(feed(&mut command, session.as_bytes()).stdout).expect("ASCII");
    assert_eq!(said.matches("552 5.3.4 ").count(), 30, "{said}");
    assert!(said.ends_with("250 2.0.0 Ok\r\n221 2.0.0 Goodbye\r\n"), "{said}");
    // What is only for users has no business there, and must not be forgotten in silence.
    let output = feed(command.arg("--submission"), b"QUIT\r\n");
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(output.stdout.starts_with(b"421 "), "{output:?}");
}

#[test]
fn wrong_logins_are_logged_with_the_client_that_a_balancer_or_proxy_names() {
    let wrong = plain("bob", "wrong");
    for (parameter, begin) in [
        ("smtpd_upstream_proxy_hosts", "PROXY TCP4 198.51.100.7 192.0.2.1 8080 25\r\n"),
        ("smtpd_authorized_xclient_hosts", "XCLIENT ADDR=198.51.100.7\r\n"),
    ] {
        let scratch = Scratch::with(&format!("{LOGIN}\ntls_auth_only = no\n{parameter} = stdin"));
        let session = format!("{begin}EHLO c.example\r\n{wrong}\r\nQUIT\r\n");
        let output = feed(&mut scratch.command("smtpsrvr"), session.as_bytes());
        let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("535 5.7.8 "), "{said}");
        let failures: Vec<&str> = log.lines().filter(|line| line.contains("event=login-failed")).collect();
        assert_eq!(failures.len(), 1, "{log}");
        assert!(failures[0].contains(" client=198.51.100.7 event=login-failed user=\"bob\""), "{log}");
    }
}

/// What is said to bob, who submits this as BODY=BINARYMIME, in one chunk.
fn submitted_as_binary(scratch: &Scratch, text: &str) -> String {
    let session = format!(
        "EHLO c.example\r\n{}\r\nMAIL FROM:<bob@mx.example> BODY=BINARYMIME\r\nRCPT TO:<x@far.example>\r\n\
         BDAT {} LAST\r\n{text}QUIT\r\n",
        plain("bob", PASSWORD),
        text.len()
    );
    let said = feed(&mut submission(scratch), session.as_bytes()).stdout;
    let said = String::from_utf8(said).expect("ASCII");
    assert!(said.ends_with("221 2.0.0 Goodbye\r\n"), "{text:?}: {said}");
    said
}

#[test]
fn what_is_added_to_a_binary_message_ends_its_lines_as_the_message_does() {
    let scratch = Scratch::with(LOGIN);
    submitted_as_binary(&scratch, "Subject: x\r\n\r\n\0\n\r");
    let whole = String::from_utf8_lossy(&scratch.queued()[0].whole).into_owned();
    let (_, message) = whole.split_once("Received: ").expect("a trace field");
    let (header, body) = message.split_once("\r\n\r\n").expect("a header");
    assert!(header.contains("\r\nDate: ") && header.contains("\r\nFrom: <bob@mx.example>\r\n"), "{header}");
    assert!(header.split("\r\n").all(|line| !line.contains('\n')), "{header:?}");
    assert!(body.starts_with("\0\n\r"), "{body:?}");
}

/// Some readers take CR or LF alone for a line end, and would see another From, or another end of the header.
#[test]
fn a_binary_message_hides_no_from_behind_a_bare_line_end() {
    for text in [
        "X: y\rFrom: alice@mx.example\r\nFrom: bob@mx.example\r\n\r\nx",
        "From: bob@mx.example\r\nX: y\n\n\r\nFrom: alice@mx.example\r\n",
        "From: bob@mx.example\r\n\nFrom: alice@mx.example\r\n\r\nx",
        "From: bob@mx.example\nX: y\r\n\r\nx",
        "From: bob@mx.example\r\nX: y\rSender: alice@mx.example\r\n\r\nx",
    ] {
        let scratch = Scratch::with(LOGIN);
        let said = submitted_as_binary(&scratch, text);
        assert!(said.contains("\r\n550 5.6.0 "), "{text:?}: {said}");
        assert!(scratch.queued().is_empty(), "{text:?}");
    }
}

/// smtpsrvr on a TCP connection of ours.
fn over_tcp(scratch: &Scratch, at_once: &[u8]) -> (std::process::Child, std::net::TcpStream) {
    use std::io::Write;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut client = std::net::TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    client.write_all(at_once).expect("sending");
    let server = std::os::fd::OwnedFd::from(listener.accept().expect("a connection").0);
    // What was sent is there before the program is.
    let mut waiting = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&server), nix::poll::PollFlags::POLLIN)];
    let time = if at_once.is_empty() { 0_u16 } else { 10_000 };
    nix::poll::poll(&mut waiting, time).expect("poll");
    let mut command = scratch.command("smtpsrvr");
    command.stdin(server.try_clone().expect("a descriptor")).stdout(server).stderr(std::process::Stdio::piped());
    (command.spawn().expect("smtpsrvr"), client)
}

fn all_said(mut client: std::net::TcpStream) -> String {
    use std::io::Read;
    let mut said = String::new();
    client.read_to_string(&mut said).expect("replies");
    said
}

#[test]
fn who_talks_before_the_greeting_is_turned_away_where_that_is_not_switched_off() {
    let early = b"EHLO c.example\r\n";
    let scratch = Scratch::new();
    let (mut child, client) = over_tcp(&scratch, early);
    assert!(all_said(client).starts_with("554 5.5.0 "));
    assert_eq!(child.wait().expect("its end").code(), Some(0));
    scratch.configure("smtpd_forbid_unauth_pipelining = no");
    let (mut child, client) = over_tcp(&scratch, early);
    client.shutdown(std::net::Shutdown::Write).expect("half a close");
    assert!(all_said(client).starts_with("220 mx.example "));
    assert_eq!(child.wait().expect("its end").code(), Some(0));
}

#[test]
fn a_client_that_waits_as_long_as_it_is_to_gets_the_greeting() {
    let begun = std::time::Instant::now();
    let scratch = Scratch::with("smtpd_greet_wait = 1s");
    let (mut child, client) = over_tcp(&scratch, b"");
    let mut first = [0; 4];
    std::io::Read::read_exact(&mut &client, &mut first).expect("a greeting");
    assert_eq!(&first, b"220 ");
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1));
    drop(client);
    assert_eq!(child.wait().expect("its end").code(), Some(0));
    // A pipe cannot wait, and need not.
    let output = feed(&mut scratch.command("smtpsrvr"), b"EHLO x\r\nQUIT\r\n");
    assert!(output.stdout.starts_with(b"220 "));
}

#[test]
fn a_balancer_says_whose_connection_it_is() {
    let scratch = Scratch::with("smtpd_upstream_proxy_hosts = 127.0.0.1");
    scratch.write("channels", "local 127.0.0.1 mx.example mailbox: *\nsmtp * - - local\n");
    let session = "EHLO c.example\r\n";
    let (mut child, client) = over_tcp(&scratch, b"PROXY TCP4 198.51.100.7 192.0.2.1 8080 25\r\n");
    let mut reader = std::io::BufReader::new(client.try_clone().expect("a socket"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut reader, &mut line).expect("a greeting");
    assert!(line.starts_with("220 "), "{line}");
    for (command, code) in [
        (session, "250"),
        ("MAIL FROM:<a@b>\r\n", "250"),
        ("RCPT TO:<bob@mx.example>\r\n", "250"),
        ("DATA\r\n", "354"),
        ("x\r\n.\r\nQUIT\r\n", "250"),
    ] {
        std::io::Write::write_all(&mut &client, command.as_bytes()).expect("sending");
        loop {
            line.clear();
            std::io::BufRead::read_line(&mut reader, &mut line).expect("a reply");
            if line.as_bytes().get(3) == Some(&b' ') {
                break;
            }
        }
        assert!(line.starts_with(code), "{command}: {line}");
    }
    assert_eq!(child.wait().expect("its end").code(), Some(0));
    assert!(String::from_utf8_lossy(&scratch.queued()[0].whole).contains("[198.51.100.7]"));
    // Without its header the balancer is turned away.
    let (mut child, client) = over_tcp(&scratch, b"EHLO c.example\r\n");
    assert!(all_said(client).starts_with("421 "));
    assert_eq!(child.wait().expect("its end").code(), Some(0));
    // And who is no balancer cannot say so.
    scratch.configure("smtpd_upstream_proxy_hosts =\nsmtpd_forbid_unauth_pipelining = no");
    let (mut child, client) = over_tcp(&scratch, b"PROXY TCP4 198.51.100.7 192.0.2.1 8080 25\r\nQUIT\r\n");
    let said = all_said(client);
    assert!(said.starts_with("220 ") && said.contains("\r\n500 5.5.1 "), "{said}");
    assert_eq!(child.wait().expect("its end").code(), Some(0));
}

#[test]
fn xclient_is_for_listed_peers() {
    let scratch = Scratch::with("smtpd_authorized_xclient_hosts = stdin\nsmtpd_sasl_auth_enable = yes");
    let session = b"EHLO proxy.example\r\nXCLIENT ADDR=198.51.100.7 NAME=client.example PORT=1234\r\nEHLO c.example\r\n\
        MAIL FROM:<a@b>\r\nXCLIENT ADDR=1.2.3.4\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\nx\r\n.\r\n\
        XCLIENT ADDR=IPv6:2001:db8::1 LOGIN=bob HELO=x PROTO=ESMTP\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@far.example>\r\nDATA\r\n.\r\n";
    let output = feed(&mut scratch.command("smtpsrvr"), session);
    let said = String::from_utf8(output.stdout).expect("ASCII");
    let codes: Vec<&str> = said.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect();
    assert_eq!(codes.join(" "), "220 250 220 250 250 503 250 354 250 220 250 250 354 250", "{said}");
    let announced = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";
    assert!(said.contains(announced), "{said}");
    let before = said.find("AUTH ").expect("on a pipe it is offered");
    assert!(said[before + 5..].find("AUTH ").is_none(), "not to a client from afar: {said}");
    let traces: Vec<String> = scratch.queued().iter().map(|m| String::from_utf8_lossy(&m.whole).into_owned()).collect();
    assert!(traces[0].contains("from c.example (client.example [198.51.100.7])"), "{}", traces[0]);
    assert!(traces[1].contains("[IPv6:2001:db8::1]") && traces[1].contains("with ESMTPA"), "{}", traces[1]);
    scratch.configure("smtpd_authorized_xclient_hosts =");
    let output = feed(&mut scratch.command("smtpsrvr"), b"EHLO x\r\nXCLIENT ADDR=198.51.100.7\r\nQUIT\r\n");
    let said = String::from_utf8(output.stdout).expect("ASCII");
    assert!(!said.contains("XCLIENT") && said.contains("550 5.7.0 "), "{said}");
}

/// All that depends on the address of a client holds for the one that XCLIENT names, as if that had connected.
#[test]
fn what_hangs_on_the_client_hangs_on_whom_xclient_names() {
    let scratch = Scratch::with(
        "smtpd_authorized_xclient_hosts = stdin\nsmtpd_forbid_bare_newline_exclusions = 198.51.100.7\n\
         debug_peer_list = 198.51.100.9\nmynetworks = 198.51.100.7",
    );
    scratch.write("channels", "local stdin mx.example mailbox: *\npartner 198.51.100.7,198.51.100.9 - - *\n");
    let mail = "EHLO c.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@mx.example>\r\n";
    let heard = |lines: &str, finicky: &str| {
        let output = feed(&mut scratch.command(finicky), lines.as_bytes());
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let said = text(&output.stdout);
        let codes: Vec<&str> = said.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect();
        (codes.join(" "), text(&output.stderr))
    };
    let named = |address: &str| format!("XCLIENT ADDR={address}\r\n{mail}DATA\r\na\nb\r\n.\r\n");
    // The one may end lines with LF; whoever comes next on the same connection may not, nor may that in commands.
    let (codes, log) = heard(&format!("{}{}QUIT\r\n", named("198.51.100.7"), named("198.51.100.9")), "smtpsrvr");
    assert_eq!(codes, "220 220 250 250 250 354 250 220 250 250 250 354 550", "{log}");
    let (before, behind) = log.split_once("is=198.51.100.9").expect("a second client");
    assert!(!before.contains("event=said") && behind.contains("event=said"), "{log}");
    let (_, log) = heard("XCLIENT ADDR=198.51.100.9\r\nNOOP\r\nXCLIENT ADDR=198.51.100.7\r\nNOOP\r\n", "smtpsrvr");
    let (before, behind) = log.split_once("is=198.51.100.7").expect("a second client");
    assert!(before.contains("event=said") && !behind.contains("event=said"), "{log}");
    let (codes, log) =
        heard("XCLIENT ADDR=198.51.100.7\r\nNOOP\nXCLIENT ADDR=198.51.100.9\r\nNOOP\nQUIT\r\n", "smtpsrvr");
    assert_eq!(codes, "220 220 250 220 500", "{log}");
    // Whom no channel lists is told so at once where that is wanted.
    let (codes, log) = heard(&format!("XCLIENT ADDR=192.0.2.1\r\n{mail}"), "rsmtpsrvr");
    assert_eq!(codes.split(' ').next_back(), Some("421"), "{log}");
    assert_eq!(codes.split(' ').count(), 2, "{codes}: {log}");
}

#[test]
fn errors_over_the_soft_limit_are_answered_late() {
    let run = |lines: &str| {
        let scratch = Scratch::with("smtpd_soft_error_limit = 2\nsmtpd_error_sleep_time = 1s");
        let begun = std::time::Instant::now();
        feed(&mut scratch.command("smtpsrvr"), lines.as_bytes());
        begun.elapsed()
    };
    assert!(run(&"FOO\r\n".repeat(3)) >= std::time::Duration::from_secs(1));
    assert!(run(&"NOOP\r\n".repeat(3)) < std::time::Duration::from_secs(1));
}

/// Each keyword EHLO lists stands with the test that drives it; a new one without a test fails here.
#[test]
fn what_ehlo_lists_is_what_tests_drive() {
    let scratch = Scratch::with(&format!(
        "{LOGIN}\nsmtpd_authorized_xclient_hosts = 127.0.0.1, stdin\nsmtpd_transaction_limit = 9"
    ));
    configure(&scratch);
    let mut listed: Vec<String> = Vec::new();
    let mut client = greeted(Client::from_here(&mut scratch.command("smtpsrvr")));
    listed.extend(extensions(&mut client).split('|').map(str::to_owned));
    client.ask("STARTTLS");
    client.start_tls();
    listed.extend(extensions(&mut client).split('|').map(str::to_owned));
    let mut keywords: Vec<&str> =
        listed.iter().filter_map(|line| line.split(' ').next()).filter(|k| !k.is_empty()).collect();
    keywords.sort_unstable();
    keywords.dedup();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let driven = [
        ("8BITMIME", "transcripts/smtpsrvr/8bit.smtp", "BODY=8BITMIME"),
        ("AUTH", "submission.rs", "AUTH CRAM-MD5"),
        ("BINARYMIME", "transcripts/smtpsrvr/binarymime.smtp", "BODY=BINARYMIME"),
        ("CHUNKING", "transcripts/smtpsrvr/bdat.smtp", "BDAT 7 LAST"),
        ("DSN", "transcripts/smtpsrvr/dsn.smtp", "NOTIFY=SUCCESS,DELAY ORCPT="),
        ("ENHANCEDSTATUSCODES", "transcripts/smtpsrvr/message.smtp", "250 2.1.0"),
        ("HELP", "transcripts/smtpsrvr/help.smtp", "C: HELP"),
        ("LIMITS", "transcripts/smtpsrvr/recipient-limit.smtp", "452 4.5.3"),
        ("PIPELINING", "transcripts/smtpsrvr/pipelining.smtp", "C: RCPT"),
        ("REQUIRETLS", "tls.rs", "REQUIRETLS"),
        ("SIZE", "transcripts/smtpsrvr/size.smtp", "SIZE="),
        ("SMTPUTF8", "transcripts/smtpsrvr/smtputf8.smtp", "SMTPUTF8"),
        ("STARTTLS", "tls.rs", "STARTTLS"),
        ("VRFY", "transcripts/smtpsrvr/vrfy.smtp", "C: VRFY"),
        ("XCLIENT", "submission.rs", "XCLIENT ADDR="),
    ];
    assert_eq!(keywords, driven.map(|(keyword, ..)| keyword));
    for (keyword, file, text) in driven {
        let found = fs::read_to_string(root.join(file)).expect("a test").contains(text);
        assert!(found, "{keyword}: {file} has no {text}");
    }
}

/// What a client hears that has begun a message, or not, and then sends these octets again and again, more often than
/// anybody who only waits for the next one would notice, for so long at the most.
fn trickled(scratch: &Scratch, begin: &str, octets: &[u8], most: std::time::Duration, end: &str) -> String {
    use std::io::Write;
    let (mut child, mut client) = over_tcp(scratch, b"");
    client.write_all(begin.as_bytes()).expect("sending");
    let reader = client.try_clone().expect("a socket");
    // Up to its last words: until the client is gone too, or for ten seconds, it reads what else there is.
    let said = std::thread::spawn(move || {
        let lines = std::io::BufRead::lines(std::io::BufReader::new(reader)).map_while(Result::ok);
        let mut said = String::new();
        for line in lines {
            said += &format!("{line}\r\n");
            if line.starts_with("421 ") || line.starts_with("221 ") {
                break;
            }
        }
        said
    });
    let begun = std::time::Instant::now();
    while begun.elapsed() < most && !said.is_finished() && client.write_all(octets).is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let _ = client.write_all(end.as_bytes());
    let said = said.join().expect("what it said");
    drop(client);
    assert_eq!(child.wait().expect("its end").code(), Some(0));
    said
}

#[test]
fn whoever_sends_too_slowly_or_stays_too_long_is_told_421_and_nothing_is_queued() {
    let scratch = Scratch::with("smtpd_timeout = 1s\nsmtpd_forbid_unauth_pipelining = no");
    let begin = "EHLO c.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\n";
    let (long, short) = (std::time::Duration::from_secs(15), std::time::Duration::from_millis(1500));
    // 50 octets a second, where 500 are asked for; a line that never ends; and commands for ever.
    let said = trickled(&scratch, begin, b"x", long, "");
    assert!(said.contains("\r\n354 ") && said.contains("\r\n421 4.4.2 "), "{said}");
    let said = trickled(&scratch, "", b"N", long, "");
    assert!(said.contains("\r\n421 4.4.2 "), "{said}");
    assert_eq!(scratch.queued().len(), 0);
    scratch.configure("smtpd_min_data_rate = 0");
    let said = trickled(&scratch, begin, b"x", short, "\r\n.\r\nQUIT\r\n");
    assert!(said.contains("\r\n250 2.0.0 Ok: queued"), "{said}");
    scratch.configure("daemon_timeout = 1s");
    let said = trickled(&scratch, "", b"NOOP\r\n", long, "");
    assert!(said.contains("\r\n421 4.4.2 "), "{said}");
}

#[test]
fn a_program_with_the_interface_of_checkpassword_lets_users_log_in() {
    let scratch = Scratch::with(LOGIN);
    let program = scratch.path().join("checker");
    // It becomes the user, who is never root.
    let user = if nix::unistd::geteuid().is_root() { "setpriv --reuid=65534 --regid=65534 --clear-groups" } else { "" };
    let script = format!(
        "#!/bin/sh\ncase $(tr '\\0' '\\n' <&3 | head -n 2 | tr '\\n' ' ') in\n\
         'bob other ') HOME=/ exec {user} \"$@\" 3<&- ;;\n'slow '*) exit 111 ;;\nesac\nexit 1\n"
    );
    fs::write(&program, script).expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
    scratch.configure(&format!("authentication = checkpassword:{}", program.display()));
    let mut client = greeted(Client::from_here(&mut scratch.command("smtpsrvr")));
    assert!(extensions(&mut client).contains("AUTH PLAIN LOGIN|"), "no secrets are known");
    assert_eq!(client.ask(&plain("bob", PASSWORD)), "535 5.7.8 Name or password is wrong");
    assert_eq!(client.ask(&plain("slow", "x")), "454 4.7.0 That cannot be checked now, try again later");
    let reply = client.ask(&plain("bob", "other"));
    assert_eq!(reply, "235 2.7.0 Logged in", "{:?}", client.end());
}
