//! Logging in by SASL as clients do it, against the real programs: each mechanism, under TLS and on this machine, and
//! with passwords that are stored hashed.

mod common;

use common::connections::Server;
use common::tls::{Client, configure};
use common::{NOBODY, Scratch};
use doorpost::sasl::credentials::ITERATIONS;
use doorpost::sasl::{decode, encode};
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha2::{Digest, Sha256};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// As root, and where tests run as root, as somebody else, too: the two forms of every program.
fn both_forms(scratch: &Scratch, program: &str) -> Vec<Command> {
    let mut commands = vec![scratch.command(program)];
    if nix::unistd::geteuid().is_root() {
        let mut command = scratch.command(program);
        command.uid(NOBODY).gid(NOBODY);
        commands.push(command);
    }
    commands
}

fn text(line: &str, prompt: &str) -> String {
    let octets = decode(line.strip_prefix(prompt).unwrap_or_else(|| panic!("{line}")).as_bytes()).expect("base64");
    String::from_utf8(octets.0.clone()).expect("ASCII")
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Goes through CRAM-MD5; gives the last line.
fn cram_md5(client: &mut Client, prompt: &str, name: &str, password: &str) -> String {
    let challenge = text(&client.ask("AUTH CRAM-MD5"), prompt);
    assert!(challenge.starts_with('<') && challenge.ends_with("@mx.example>"), "{challenge}");
    let mut mac = Hmac::<Md5>::new_from_slice(password.as_bytes()).expect("a key");
    mac.update(challenge.as_bytes());
    client.ask(&encode(format!("{name} {}", hexadecimal(&mac.finalize().into_bytes())).as_bytes()))
}

fn hmac_sha256(key: &[u8], text: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

/// Goes through SCRAM-SHA-256 as RFC 5802 section 3 has it, and checks that the server knows the password, too; gives the
/// last line.
fn scram(client: &mut Client, prompt: &str, name: &str, password: &str) -> String {
    let bare = format!("n={name},r=rOprNGfwEbeRWgbNEkqO");
    let line = client.ask(&format!("AUTH SCRAM-SHA-256 {}", encode(format!("n,,{bare}").as_bytes())));
    let first = text(&line, prompt);
    let value =
        |name: &str| first.split(',').find_map(|part| part.strip_prefix(name)).expect("an attribute").to_owned();
    assert_eq!(value("i="), ITERATIONS.to_string());
    let salt = decode(value("s=").as_bytes()).expect("base64");
    let mut salted = [0; 32];
    pbkdf2::pbkdf2::<Hmac<Sha256>>(password.as_bytes(), &salt.0, ITERATIONS, &mut salted).expect("a key");
    let without_proof = format!("c=biws,r={}", value("r="));
    let auth_message = format!("{bare},{first},{without_proof}");
    let client_key = hmac_sha256(&salted, "Client Key");
    let signature = hmac_sha256(&Sha256::digest(client_key), &auth_message);
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
    let line = client.ask(&encode(format!("{without_proof},p={}", encode(&proof)).as_bytes()));
    if !line.starts_with(prompt) {
        return line;
    }
    let expected = hmac_sha256(&hmac_sha256(&salted, "Server Key"), &auth_message);
    assert_eq!(text(&line, prompt), format!("v={}", encode(&expected)));
    client.ask("")
}

/// `tim` is unknown to everybody.
const STRANGERS: [(&str, &str); 3] = [("bob", "wrong"), ("tim", "secret"), ("root", "secret")];

#[test]
fn pop3_by_secrets_stored_in_clear() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    scratch.put_mail("bob", "1700000000.M0.mx", b"Subject: x\n\nx\n");
    for log_in in [cram_md5, scram] {
        for mut command in both_forms(&scratch, "pop3d") {
            for (name, password) in STRANGERS {
                let mut client = Client::from_here(&mut command);
                client.line();
                assert_eq!(log_in(&mut client, "+ ", name, password), "-ERR [AUTH] Wrong name or password");
                assert_eq!(log_in(&mut client, "+ ", "bob", "secret"), "+OK 1 messages, 17 octets");
                assert_eq!(client.ask("STAT"), "+OK 1 17");
                assert_eq!(client.ask("QUIT"), "+OK Goodbye");
                assert_eq!(client.end().2, Some(0));
                command = scratch.command("pop3d");
            }
        }
    }
}

/// RFC 4616 section 2 and RFC 5802 section 5.1: both prepare what they have (RFC 4013), so it does not matter how a keyboard
/// composes letters; and what nobody may have is a wrong password.
#[test]
fn names_and_passwords_beyond_ascii_are_prepared_by_pop3_and_smtp_alike() {
    let scratch = Scratch::with("auth_failure_delay = 0\nsmtpd_sasl_auth_enable = yes");
    let home = scratch.path().join("home");
    scratch.write(
        "passwd",
        &format!("j\u{f6}rg:{{PLAIN}}cafe\u{301}::::{0}::\nodd:{{PLAIN}}a\u{e000}::::{0}::\n", home.display()),
    );
    let plain = |client: &mut Client, _: &str, name: &str, password: &str| {
        client.ask(&format!("AUTH PLAIN {}", encode(format!("\0{name}\0{password}").as_bytes())))
    };
    type LogIn<'a> = &'a dyn Fn(&mut Client, &str, &str, &str) -> String;
    // A client of SCRAM has prepared the password.
    for (log_in, password) in [(&plain as LogIn<'_>, "cafe\u{301}"), (&plain, "caf\u{e9}"), (&scram, "caf\u{e9}")] {
        for name in ["j\u{f6}rg", "jo\u{308}r\u{ad}g"] {
            for (program, prompt, right, wrong) in [
                ("pop3d", "+ ", "+OK 0 messages", "-ERR [AUTH] Wrong name or password"),
                ("smtpsrvr", "334 ", "235 2.7.0 Logged in", "535 5.7.8 Name or password is wrong"),
            ] {
                let mut client = Client::from_here(&mut scratch.command(program));
                client.line();
                if program == "smtpsrvr" {
                    client.say("EHLO c.example");
                    client.reply();
                }
                assert_eq!(log_in(&mut client, prompt, "odd", "a\u{e000}"), wrong);
                assert_eq!(log_in(&mut client, prompt, name, "cafe"), wrong);
                let said = log_in(&mut client, prompt, name, password);
                assert!(said.starts_with(right), "{program} {name:?} {password:?}: {said}");
                client.ask("QUIT");
                let (_, log, status) = client.end();
                assert_eq!(status, Some(0), "{log}");
                assert!(program == "pop3d" || log.contains("event=login user=j\\xc3\\xb6rg "), "{log}");
            }
        }
    }
}

#[test]
fn three_wrong_answers_of_any_kind_close_the_connection() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    for mut command in both_forms(&scratch, "pop3d") {
        let mut client = Client::from_here(&mut command);
        client.line();
        assert!(scram(&mut client, "+ ", "bob", "wrong").starts_with("-ERR [AUTH] "));
        assert!(client.ask("AUTH PLAIN AGJvYgB3cm9uZw==").starts_with("-ERR [AUTH] "));
        assert!(client.ask("USER bob").starts_with("+OK"));
        assert_eq!(client.ask("PASS wrong"), "-ERR [AUTH] Wrong name or password too often, goodbye");
        let (said, log, status) = client.end();
        assert_eq!((said.as_str(), status), ("", Some(0)), "{log}");
        assert_eq!(log.matches("event=login-failed").count(), 3, "{log}");
    }
}

#[test]
fn hashed_passwords_and_other_machines_have_fewer_mechanisms() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    configure(&scratch);
    scratch.write("passwd", "bob:$6$salt$x:::::\nalice:{PLAIN}secret:::::\n");
    let capabilities = |client: &mut Client| {
        client.say("CAPA");
        std::iter::from_fn(|| Some(client.line()).filter(|line| line != ".")).collect::<Vec<_>>()
    };
    for mut command in both_forms(&scratch, "pop3d") {
        let mut client = Client::from_afar(&mut command);
        client.line();
        assert!(!capabilities(&mut client).iter().any(|line| line.starts_with("SASL")));
        assert!(client.ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==").starts_with("-ERR [AUTH] No passwords without TLS"));
        assert!(client.ask("STLS").starts_with("+OK"));
        client.start_tls();
        assert!(capabilities(&mut client).contains(&"SASL PLAIN LOGIN".to_owned()));
        assert!(client.ask("AUTH SCRAM-SHA-256").starts_with("-ERR That mechanism"));
        assert!(client.ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==").starts_with("+OK 0 messages"));
        assert_eq!(client.ask("QUIT"), "+OK Goodbye");
        let (_, log, status) = client.end();
        assert_eq!(status, Some(0), "{log}");
    }
}

#[test]
fn a_pool_that_root_has_started_lets_in_by_each_mechanism_in_clear_and_under_tls() {
    if !common::needs::root() {
        return;
    }
    // To whoever is on a unix socket of which nobody says anything this is another machine.
    let scratch =
        Scratch::with("auth_failure_delay = 0\nmax_use = 0\nidle_children = 1\nchildren = 1\ntls_auth_only = no");
    configure(&scratch);
    scratch.put_mail("bob", "1700000000.M0.mx", b"Subject: x\n\nx\n");
    let path = scratch.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a listener");
    let mut command = scratch.command("pop3d");
    let mut server = Server::start_as_it_is(command.stdin(std::os::fd::OwnedFd::from(listener)));
    for log_in in [cram_md5, scram] {
        for under_tls in [false, true] {
            let nobody = Command::new("true").stderr(std::process::Stdio::piped()).spawn().expect("true");
            let mut client = Client::connected(&path, nobody);
            client.line();
            if under_tls {
                assert!(client.ask("STLS").starts_with("+OK"));
                client.start_tls();
            }
            assert_eq!(log_in(&mut client, "+ ", "bob", "wrong"), "-ERR [AUTH] Wrong name or password");
            assert_eq!(log_in(&mut client, "+ ", "bob", "secret"), "+OK 1 messages, 17 octets");
            assert_eq!(client.ask("STAT"), "+OK 1 17");
            assert_eq!(client.ask("QUIT"), "+OK Goodbye");
            client.end();
        }
    }
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
}
