//! smtpsrvr's AUTH: every mechanism, who is let in and who is not, and where passwords come from.

mod common;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::connections::{ON_LOOPBACK, PATIENCE, Server};
use common::login::*;
use common::tls::{Client, configure};
use common::{PASSWORD, Scratch, feed};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;

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

fn decoded(line: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(line.strip_prefix("334 ").expect("a challenge")).expect("base64")
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
    // Without it a wrong password would look like something that passes.
    let last = format!("{wrong}\r\n421 4.7.0 Too many errors, closing the connection\r\n");
    assert_eq!((said, status), (last, Some(0)), "{log}");
    assert_eq!(log.matches("event=login-failed").count(), 3, "{log}");
}

/// Another answer would tell who is there, and whoever guesses there could not be seen.
#[test]
fn who_cannot_log_in_is_answered_and_logged_like_a_wrong_password() {
    let scratch = Scratch::with(LOGIN);
    let users = scratch.path().join("users");
    fs::write(
        &users,
        "nets:{PLAIN}sesame::::/tmp::allow_nets=192.0.2.0/24\nscheme:{NOSUCH}sesame:::::\nempty:{PLAIN}:::::\n",
    )
    .expect("users");
    scratch.configure(&format!("users = passwd-file:{}", users.display()));
    for (name, reason) in [("nets", "allow_nets= is not"), ("scheme", "{NOSUCH} cannot"), ("empty", ""), ("nobody", "")]
    {
        let mut client = greeted(Client::from_here(&mut scratch.command("smtpsrvr")));
        assert_eq!(client.ask(&plain(name, "sesame")), "535 5.7.8 Name or password is wrong", "{name}");
        client.ask("QUIT");
        let (_, log, _) = client.end();
        assert_eq!(log.matches(&format!("event=login-failed user=\"{name}\"")).count(), 1, "{log}");
        assert_eq!(log.matches("event=cannot-log-in").count(), usize::from(!reason.is_empty()), "{log}");
        assert!(log.contains(reason) && !log.contains("event=login-not-checked"), "{log}");
    }
}

#[test]
fn a_login_that_nobody_can_check_is_recorded_once() {
    let scratch = Scratch::with(LOGIN);
    let users = scratch.path().join("users");
    fs::write(&users, "bob:{PLAIN}sesame:::::\n").expect("users");
    scratch.configure(&format!("users = passwd-file:{}", users.display()));
    let mut client = greeted(Client::from_here(&mut scratch.command("smtpsrvr")));
    assert!(extensions(&mut client).contains("AUTH "));
    fs::remove_file(&users).expect("removed");
    assert!(client.ask(&plain("bob", "sesame")).starts_with("454 4.7.0 "));
    client.ask("QUIT");
    let (_, log, _) = client.end();
    assert_eq!(log.matches("event=login-not-checked").count(), 1, "{log}");
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

/// RFC 4616 section 2: the syntax is right, and nobody may.
#[test]
fn who_would_act_for_another_user_is_refused_as_with_a_wrong_password() {
    let scratch = Scratch::with(LOGIN);
    let mut client = greeted(Client::from_here(&mut scratch.command("smtpsrvr")));
    let wrong = client.ask(&plain("bob", "wrong"));
    assert!(wrong.starts_with("535 5.7.8 "), "{wrong}");
    let for_another = format!("AUTH PLAIN {}", encoded(format!("alice\0bob\0{PASSWORD}")));
    assert_eq!(client.ask(&for_another), wrong);
    // It counts.
    assert_eq!(client.ask(&for_another), wrong);
    assert_eq!(client.end().0, "421 4.7.0 Too many errors, closing the connection\r\n");
}

#[test]
fn responses_that_are_none_are_told_and_the_session_goes_on() {
    let scratch = Scratch::with(LOGIN);
    let mut client = greeted(Client::from_here(&mut scratch.command("smtpsrvr")));
    assert_eq!(client.ask("AUTH GSSAPI"), "504 5.5.4 That mechanism is not offered");
    assert_eq!(client.ask("AUTH PLAIN !!!"), "501 5.5.2 The response does not follow the mechanism");
    assert_eq!(client.ask("AUTH PLAIN ="), "501 5.5.2 The response does not follow the mechanism");
    let unpadded = plain("bob", PASSWORD);
    assert!(unpadded.ends_with('='), "{unpadded}");
    let unpadded = unpadded.trim_end_matches('=');
    assert_eq!(client.ask(unpadded), "501 5.5.2 The response does not follow the mechanism");
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
    if !common::needs::root() {
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

/// An installation where bob's password is in a file that root alone can read, and smtpd with a pool of sessions.
fn pool_with_secrets(options: &[&str], authentication: Option<&str>) -> (Scratch, Server, SocketAddr) {
    let scratch = Scratch::with("auth_failure_delay = 0\nidle_children = 1\nmax_use = 5");
    let secrets = scratch.path().join("secrets");
    fs::write(&secrets, format!("bob:{{PLAIN}}{PASSWORD}\n")).expect("a file");
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).expect("its mode");
    let secrets = format!("passwd-file:{}", secrets.display());
    scratch.configure(&format!("authentication = {}", authentication.unwrap_or(&secrets)));
    let mut command = scratch.command("smtpd");
    command.args(["--mode", "pool"]).args(ON_LOOPBACK).args(options).args(["smtpsrvr", "--submission"]);
    let mut server = Server::start(&mut command);
    let address = server.address("0");
    (scratch, server, address)
}

/// The reply to bob's login, in a session of its own.
fn logged_in(address: SocketAddr) -> String {
    let mut client = TcpStream::connect(address).expect("a connection");
    client.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let mut reader = BufReader::new(client.try_clone().expect("a socket"));
    let mut reply = String::new();
    for command in ["", "EHLO c.example\r\n", &format!("{}\r\n", plain("bob", PASSWORD))] {
        client.write_all(command.as_bytes()).expect("sending");
        reply.clear();
        while reply.as_bytes().get(3) != Some(&b' ') {
            reply.clear();
            assert!(reader.read_line(&mut reply).expect("a reply") > 0, "closed behind {command:?}");
        }
    }
    reply
}

/// Under smtpd's pool the session begins with the rights that smtpd has.
#[test]
fn in_a_pool_of_roots_passwords_that_only_root_can_read_are_checked() {
    if !common::needs::root() {
        return;
    }
    let (_scratch, _server, address) = pool_with_secrets(&[], None);
    for _ in 0..2 {
        assert_eq!(logged_in(address), "235 2.7.0 Logged in\r\n");
    }
}

/// The process that checks passwords says why by itself, and nobody waits for that.
#[test]
fn in_a_pool_of_another_user_it_is_told_that_only_root_can_read_the_passwords() {
    if !common::needs::root() {
        return;
    }
    let of_system = "expected to be started as root, who alone can read /etc/shadow: Permission denied";
    for (authentication, told) in [(None, "Permission denied"), (Some("shadow"), of_system)] {
        let (_scratch, mut server, address) = pool_with_secrets(&["--user", "nobody"], authentication);
        assert!(logged_in(address).starts_with("454 4.7.0 "), "{authentication:?}");
        server.record(told);
    }
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
    common::write_program(&program, &script);
    scratch.configure(&format!("authentication = checkpassword:{}", program.display()));
    let mut client = greeted(Client::from_here(&mut scratch.command("smtpsrvr")));
    assert!(extensions(&mut client).contains("AUTH PLAIN LOGIN|"), "no secrets are known");
    assert_eq!(client.ask(&plain("bob", PASSWORD)), "535 5.7.8 Name or password is wrong");
    assert_eq!(client.ask(&plain("slow", "x")), "454 4.7.0 That cannot be checked now, try again later");
    let reply = client.ask(&plain("bob", "other"));
    assert_eq!(reply, "235 2.7.0 Logged in", "{:?}", client.end());
}
