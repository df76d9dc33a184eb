//! deliver as a QMQP client: two of ours as a null-client pair, and what becomes of each answer of a server.

mod common;

use common::relaying::site;
use common::{Scratch, bin_folder, feed, free_address};
use doorpost::wire::netstring;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

/// An installation whose mail for others leaves by QMQP to these hosts.
fn null_client(hosts: &str) -> Scratch {
    let scratch = Scratch::with("myhostname = null.example\nqmqpd_authorized_clients = stdin");
    scratch.write("channels", &format!("local - null.example mailbox: *\nout stdin * qmqp:{hosts} *\n"));
    scratch
}

/// Hands one message to a null client's own qmqpd.
fn submit(scratch: &Scratch, content: &[u8], sender: &str, recipients: &[&str]) {
    let mut inside = Vec::new();
    let parts = [content, sender.as_bytes()].into_iter().chain(recipients.iter().map(|text| text.as_bytes()));
    parts.for_each(|part| netstring::put(&mut inside, part));
    let mut whole = Vec::new();
    netstring::put(&mut whole, &inside);
    let output = feed(&mut scratch.command("qmqpd"), &whole);
    assert!(output.stdout.starts_with(b"30:KOk"), "{output:?}");
}

/// One sweep; what it logged.
fn swept(scratch: &Scratch) -> String {
    scratch.deliver()
}

/// A qmqpd that accepts by itself; ended when dropped.
struct Server(Child);

impl Server {
    fn start(scratch: &Scratch) -> (Server, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its number").to_string();
        let mut command = Command::new(bin_folder().join("qmqpd"));
        command.env_clear().arg("--config").arg(scratch.path());
        let command = command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
        (Server(command.spawn().expect("qmqpd")), address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
fn two_of_ours_make_a_null_client_pair() {
    let main = Scratch::with("qmqpd_authorized_clients = 127.0.0.0/8");
    let (_server, address) = Server::start(&main);
    // Nobody listens on the first: it is passed over.
    let dead = free_address();
    let null = null_client(&format!("{dead},{address}"));
    let content: Vec<u8> = (0..200_000_u32).flat_map(|n| [b"Subject: x\n\n\r\0\xff"[(n % 15) as usize]]).collect();
    submit(&null, &content, "list-@null.example-@[]", &["alice@mx.example", "bob@mx.example"]);
    let log = swept(&null);
    assert_eq!(log.matches("status=relayed").count(), 2, "{log}");
    assert_eq!(null.queued(), []);
    main.deliver();
    for user in ["alice", "bob"] {
        let mail = &main.mail(user)[0];
        let return_path = format!("Return-Path: <list-{user}=mx.example@null.example>\nReceived: from ");
        assert!(mail.starts_with(return_path.as_bytes()), "{}", mail[..200].escape_ascii());
        assert!(mail.ends_with(&content), "the content changed");
    }
}

/// A server that takes one connection, reads `octets` of it, and answers that; gives what it read.
fn one_answer(octets: usize, answer: &'static [u8]) -> (String, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its number").to_string();
    let server = std::thread::spawn(move || {
        let (mut client, _): (TcpStream, _) = listener.accept().expect("a client");
        let mut seen = vec![0; octets];
        client.read_exact(&mut seen).expect("the package");
        client.write_all(answer).expect("the answer");
        // Unread octets would make the close a reset, and that may destroy the answer.
        client.shutdown(Shutdown::Write).expect("half-closed");
        let _ = client.read_to_end(&mut Vec::new());
        seen
    });
    (address, server)
}

const LONG: &str =
    "103:Dthis message is refused, and what is to be done about it stands at https://support.example/mail/remedy,";

#[test]
fn each_answer_has_its_meaning_and_none_or_nonsense_means_later() {
    for (octets, answer, status, told) in [
        (90, &b"3:Kok,"[..], "relayed", ""),
        (90, b"9:Dno, never,", "failed", "said: no, neve"),
        (90, LONG.as_bytes(), "failed", &LONG[5..LONG.len() - 1]),
        (90, b"13:Znot just now,", "deferred", "said: not just now"),
        (90, b"", "deferred", "was lost"),
        (90, b"220 mx ESMTP\r\n", "deferred", "was lost"),
        (90, b"3:Xok,", "deferred", "something else than an answer"),
        (10, b"4:Dno!,", "failed", "said: no!"),
    ] {
        let (address, server) = one_answer(octets, answer);
        let null = null_client(&address);
        // More than both sockets hold, where the server does not read on.
        let content = if octets < 90 { vec![b'x'; 9_000_000] } else { b"Subject: x\n\nhello\n".to_vec() };
        submit(&null, &content, "carol@null.example", &["bob@mx.example"]);
        let log = swept(&null);
        server.join().expect("the server");
        let status = format!("to=<bob@mx.example> status={status} ");
        assert!(log.contains(&status) && log.contains(told), "{}: {log}", answer.escape_ascii());
    }
}

#[test]
fn a_package_is_one_netstring_with_the_queued_message_in_it() {
    let (address, server) = one_answer(150, b"3:Kok,");
    let null = null_client(&address);
    submit(&null, b"Subject: x\n\nhello\n", "", &["bob@mx.example"]);
    swept(&null);
    let seen = String::from_utf8(server.join().expect("the server")).expect("text");
    let (outer, inside) = seen.split_once(':').expect("a length");
    let (content, rest) = inside.split_once(':').expect("a length");
    assert!(rest.starts_with("Received: from stdin (stdin)\n\tby null.example (doorpost) with QMQP id "), "{seen}");
    // Content, its length and two octets around it; the null sender; the recipient; in that order nothing else.
    let expected = content.len() + 1 + content.parse::<usize>().expect("digits") + 1 + "0:,14:bob@mx.example,".len();
    assert_eq!(outer.parse::<usize>().expect("digits"), expected, "{seen}");
}

#[test]
fn without_a_connection_the_message_waits() {
    let dead = free_address().to_string();
    let null = null_client(&dead);
    submit(&null, b"x\n", "", &["bob@mx.example"]);
    let log = swept(&null);
    assert!(log.contains("status=deferred") && log.contains("4.4.1 no connection"), "{log}");
    assert_eq!(null.queued().len(), 1);
}

#[test]
fn a_wrong_host_is_a_wrong_line_of_channels() {
    for wrong in ["", "a b", "host:0", "::1", "host,", "[::1"] {
        let null = null_client(wrong);
        let output = null.run("deliver", &[], b"");
        assert_eq!(output.status.code(), Some(78), "{wrong}: {output:?}");
    }
}

#[test]
fn what_came_as_binary_leaves_with_the_line_ends_of_the_protocol_or_not_at_all() {
    let [alice, bob] = ["alice@mx.example", "bob@b.example"];
    let submitted = |scratch: &Scratch, content: &[u8]| {
        scratch.enqueue_with((alice, "BODY=BINARYMIME"), &[(bob, "")], content);
        swept(scratch)
    };
    for (protocol, first) in [("qmqp", ""), ("qmtp", "\n")] {
        let content = format!("{first}Received: by mx.example\nSubject: x\n\n{}", "hello\n".repeat(30_000));
        let (mut inside, mut to, mut package) = (Vec::new(), Vec::new(), Vec::new());
        netstring::put(&mut inside, content.as_bytes());
        netstring::put(&mut inside, alice.as_bytes());
        netstring::put(&mut to, bob.as_bytes());
        if protocol == "qmqp" {
            netstring::put(&mut package, &[inside, to].concat());
        } else {
            netstring::put(&mut inside, &to);
            package = inside;
        }
        let (address, server) = one_answer(package.len(), b"3:Kok,");
        let scratch = site(&format!("{protocol}:{address}"), "");
        let log = submitted(&scratch, format!("Subject: x\r\n\r\n{}", "hello\r\n".repeat(30_000)).as_bytes());
        assert!(log.contains("status=relayed"), "{protocol}: {log}");
        assert!(server.join().expect("the server") == package, "{protocol}");
        // Nobody is asked.
        let scratch = site(&format!("{protocol}:{address}"), "");
        let log = submitted(&scratch, b"Subject: x\r\n\r\na\0b\r\n");
        assert!(log.contains("status=failed") && log.contains("5.6.1"), "{protocol}: {log}");
    }
}
