//! With `net_owner`, whoever reads what a client says is a user that owns nothing, and mail comes in and out all the same.

mod common;

use common::connections::{PATIENCE, Server, line};
use common::processes::{children, only, rights};
use common::{Scratch, binary, feed, needs, until};
use nix::unistd::User;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

const NET_OWNER: &str = "net_owner = news\nqmqpd_authorized_clients = stdin, 127.0.0.1\n\
    smtpd_forbid_unauth_pipelining = no\n";

/// One message by each way.
const BY_SMTP: &str =
    "EHLO c.example\r\nMAIL FROM:<alice@c.example>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n";
const BY_QMQP: &str = "42:2:x\n,15:alice@c.example,14:bob@mx.example,,";

fn user(name: &str) -> User {
    User::from_name(name).expect("users").expect("a user of every system")
}

/// What the rights of who parses must be.
fn of_net_owner() -> [Vec<u32>; 3] {
    let news = user("news");
    only(news.uid.as_raw(), news.gid.as_raw())
}

fn start(scratch: &Scratch, program: &str) -> Child {
    let mut command = scratch.command(program);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a server")
}

/// What it says to this, up to its end.
fn tell(mut server: Child, said: &str) -> String {
    server.stdin.take().expect("a pipe").write_all(said.as_bytes()).expect("sending");
    String::from_utf8(server.wait_with_output().expect("its end").stdout).expect("text")
}

/// A pool of one child that root has started, on a socket of its own.
fn pool(scratch: &Scratch, program: &str) -> (Server, SocketAddr) {
    scratch.configure("idle_children = 1\nchildren = 1\nmax_use = 5");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut command = Command::new(binary(program));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", scratch.path());
    (Server::start_as_it_is(command.stdin(OwnedFd::from(listener))), address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).expect("a connection");
    client.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    client
}

#[test]
fn smtpsrvr_and_qmqpd_are_net_owner_before_an_octet_is_read_and_hand_mail_in() {
    if !needs::root() {
        return;
    }
    for (program, message, taken) in
        [("smtpsrvr", BY_SMTP, "\r\n250 2.0.0 Ok: queued as "), ("qmqpd", BY_QMQP, "Ok: queued as ")]
    {
        let scratch = Scratch::with(NET_OWNER);
        let server = start(&scratch, program);
        until("the user that parses", || rights(server.id()) == of_net_owner());
        let said = tell(server, message);
        assert!(said.contains(taken), "{program}: {said}");
        let queued = scratch.queued();
        assert_eq!((queued.len(), &queued[0].recipients[..]), (1, &[b"bob@mx.example".to_vec()][..]), "{program}");
        let id = &queued[0].id;
        let file = fs::metadata(scratch.queue().join("message").join(&id[14..]).join(id)).expect("a message");
        assert_eq!(file.uid(), common::NOBODY, "{program}: the queue stays mail_owner's");
    }
}

#[test]
fn of_pop3d_the_child_that_reads_up_to_the_login_is_net_owner() {
    if !needs::root() {
        return;
    }
    let scratch = Scratch::with(NET_OWNER);
    scratch.put_mail("bob", "1700000000.M0.mx", b"Subject: one\n\n1\n");
    let server = start(&scratch, "pop3d");
    until("the user that parses", || matches!(children(server.id())[..], [parser] if rights(parser) == of_net_owner()));
    let said = tell(server, "USER bob\r\nPASS secret\r\nDELE 1\r\nQUIT\r\n");
    assert!(said.contains("\r\n+OK 1 messages, ") && said.ends_with("+OK Goodbye\r\n"), "{said}");
    assert_eq!(scratch.mail("bob").len(), 0);
}

/// Who has become net_owner cannot start submit for the next client, so `max_use` is 1 there, whatever it says.
#[test]
fn a_child_of_a_pool_that_hands_mail_in_as_net_owner_serves_one_client() {
    if !needs::root() {
        return;
    }
    for (program, message, taken) in [("smtpsrvr", BY_SMTP, "250 2.0.0 Ok: queued"), ("qmqpd", BY_QMQP, "Ok: queued")] {
        let scratch = Scratch::with(NET_OWNER);
        let (server, address) = pool(&scratch, program);
        let mut seen = Vec::new();
        for _ in 0..2 {
            let mut client = connect(address);
            until("the user that parses", || {
                let child = children(server.process.id()).into_iter().find(|child| rights(*child) == of_net_owner());
                seen.extend(child);
                child.is_some()
            });
            client.write_all(message.as_bytes()).expect("sending");
            let mut said = String::new();
            client.read_to_string(&mut said).expect("replies");
            assert!(said.contains(taken), "{program}: {said}");
            until("its end", || !children(server.process.id()).contains(&seen[seen.len() - 1]));
        }
        assert!(seen[0] != seen[1], "{program}: {seen:?}");
        assert_eq!(scratch.queued().len(), 2, "{program}");
    }
}

/// It has its rights from the process that checks, so it stays.
#[test]
fn in_a_pool_of_pop3d_net_owner_serves_one_client_after_another() {
    if !needs::root() {
        return;
    }
    let scratch = Scratch::with(NET_OWNER);
    let (server, address) = pool(&scratch, "pop3d");
    let parsers = || -> Vec<u32> {
        let checkers = children(server.process.id());
        checkers.into_iter().flat_map(children).filter(|child| rights(*child) == of_net_owner()).collect()
    };
    let mut seen = Vec::new();
    for user in ["bob", "carol"] {
        let mut client = connect(address);
        assert!(line(&mut client).starts_with("+OK doorpost"));
        seen.push(parsers());
        for (command, reply) in
            [(format!("USER {user}"), "+OK"), ("PASS secret".into(), "+OK 0 messages"), ("QUIT".into(), "+OK Goodbye")]
        {
            client.write_all(format!("{command}\r\n").as_bytes()).expect("sending");
            let said = line(&mut client);
            assert!(said.starts_with(reply), "{command}: {said}");
        }
    }
    assert!(seen[0].len() == 1 && seen[0] == seen[1], "{seen:?}");
}

/// Started as that user, by a superserver that is not root's, smtpsrvr connects as it.
#[test]
fn submit_hears_net_owner_and_no_other_user() {
    if !needs::root() {
        return;
    }
    for (main_cf, name, answer) in [
        (NET_OWNER, "news", "\r\n250 2.0.0 Ok: queued as "),
        (NET_OWNER, "daemon", "\r\n451 4.3.0 "),
        ("", "news", "\r\n451 4.3.0 "),
    ] {
        let scratch = Scratch::with(main_cf);
        let socket = scratch.queue().join("submit");
        let listener = UnixListener::bind(&socket).expect("a socket");
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("its mode");
        fs::set_permissions(scratch.queue(), fs::Permissions::from_mode(0o711)).expect("mode of the queue");
        let _submit = Server::start_as_it_is(scratch.command("submit").stdin(OwnedFd::from(listener)));
        let user = user(name);
        let mut smtpsrvr = scratch.command("smtpsrvr");
        let output = feed(smtpsrvr.uid(user.uid.as_raw()).gid(user.gid.as_raw()), BY_SMTP.as_bytes());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(answer), "{name} with {main_cf:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(scratch.queued().len(), usize::from(answer.contains("250")), "{name} with {main_cf:?}");
    }
}
