//! qmqpd from the outside: its transcripts, and what only a real socket shows.

mod common;

use common::processes::peak;
use common::{Scratch, feed, transcript};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

#[test]
fn transcripts() {
    transcript::play_all("qmqpd", 30);
}

/// qmqpd on an inet socket, and the client's end of it.
fn on_socket(scratch: &Scratch) -> (Child, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("its number")).expect("a connection");
    let server = OwnedFd::from(listener.accept().expect("a client").0);
    let mut command = scratch.command("qmqpd");
    command.stdin(Stdio::from(server.try_clone().expect("a descriptor"))).stdout(Stdio::from(server));
    let child = command.stderr(Stdio::piped()).spawn().expect("qmqpd");
    (child, client)
}

fn package(content: &[u8]) -> Vec<u8> {
    let mut inside = Vec::new();
    for part in [content, b"alice@client.example", b"bob@mx.example"] {
        doorpost::wire::netstring::put(&mut inside, part);
    }
    let mut whole = Vec::new();
    doorpost::wire::netstring::put(&mut whole, &inside);
    whole
}

fn log_of(child: Child) -> String {
    let output = child.wait_with_output().expect("the end of qmqpd");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).expect("printable records")
}

#[test]
fn the_peer_of_the_socket_is_the_client_whatever_the_environment_says() {
    let scratch = Scratch::with("qmqpd_authorized_clients = 192.0.2.1, stdin");
    let (child, mut client) = on_socket(&scratch);
    client.write_all(&package(b"x\n")).expect("sent");
    let mut reply = String::new();
    client.read_to_string(&mut reply).expect("a reply");
    assert_eq!(reply, "50:DError: you are not authorized to use this service,");
    assert!(log_of(child).contains("client=127.0.0.1 "));
    assert!(scratch.queued().is_empty());
}

#[test]
fn a_sender_cannot_pretend_to_be_another_field_of_a_record() {
    let scratch = Scratch::with("qmqpd_authorized_clients = 127.0.0.0/8");
    let (child, mut client) = on_socket(&scratch);
    let inside = b"2:x\n,26:x> client=me @evil.example,14:bob@mx.example,";
    client.write_all(&[format!("{}:", inside.len()).as_bytes(), inside, b","].concat()).expect("sent");
    client.read_to_string(&mut String::new()).expect("a reply");
    let log = log_of(child);
    let record = log.lines().find(|line| line.contains("event=queued")).expect("a record");
    assert_eq!(record.matches(" client=").count(), 1, "{record}");
}

/// The kernel still gives out what came before the reset, but not whose it was. The others have no business with it either.
#[test]
fn a_client_that_has_reset_the_connection_is_not_unknown_but_gone() {
    let scratch = Scratch::with("qmqpd_authorized_clients = unknown");
    scratch.write("channels", "local unknown mx.example mailbox: *\n");
    for program in ["qmqpd", "qmtpd", "smtpsrvr", "pop3d"] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("its number")).expect("a connection");
        let mut server = listener.accept().expect("a client").0;
        match program {
            "qmqpd" => client.write_all(&package(b"x\n")),
            "qmtpd" => client.write_all(b"3:\nx\n,20:alice@client.example,18:14:bob@mx.example,,"),
            _ => client.write_all(b"QUIT\r\n"),
        }
        .expect("sent");
        // A close with octets unread is a reset.
        server.write_all(b"x").expect("sent");
        client.peek(&mut [0]).expect("there");
        drop(client);
        let server = OwnedFd::from(server);
        let mut command = scratch.command(program);
        command.stdin(Stdio::from(server.try_clone().expect("a descriptor"))).stdout(Stdio::from(server));
        let log = log_of(command.stderr(Stdio::piped()).spawn().expect("a server"));
        assert!(
            log.contains("client=unknown event=end reason=\"lost connection before the session\""),
            "{program}: {log}"
        );
        assert!(scratch.queued().is_empty(), "{program}: {log}");
    }
}

#[test]
fn a_refusal_before_the_client_has_sent_all_is_not_lost() {
    let scratch = Scratch::with("qmqpd_authorized_clients = 127.0.0.0/8\nmessage_size_limit = 1000");
    let (child, mut client) = on_socket(&scratch);
    let mut reply = String::new();
    // Far more than the buffers of both ends hold would block; this much is in them, unread, when the reply comes.
    client.write_all(&package(&[b'x'; 100_000])).expect("sent");
    client.shutdown(Shutdown::Write).expect("half-closed");
    client.read_to_string(&mut reply).expect("no reset");
    assert_eq!(reply, "25:DError: message too large,");
    log_of(child);
}

#[test]
fn a_message_of_the_largest_size_is_queued_octet_for_octet() {
    let scratch = Scratch::with("qmqpd_authorized_clients = 127.0.0.0/8");
    let content: Vec<u8> = (0..9_000_000_u32).map(|number| number.to_le_bytes()[(number % 3) as usize]).collect();
    let (child, mut client) = on_socket(&scratch);
    client.write_all(&package(&content)).expect("sent");
    let mut reply = String::new();
    client.read_to_string(&mut reply).expect("a reply");
    assert!(reply.contains(":KOk: queued as "), "{reply}");
    log_of(child);
    let queued = scratch.queued();
    assert_eq!(queued.len(), 1);
    assert!(queued[0].content() == content, "the content differs");
}

#[test]
fn a_client_gone_at_any_octet_leaves_nothing_and_a_clean_log() {
    let scratch = Scratch::with("qmqpd_authorized_clients = stdin");
    let whole = package(b"Subject: x\n\nhello\n");
    for length in 0..whole.len() {
        let output = feed(&mut scratch.command("qmqpd"), &whole[..length]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(output.stdout, b"");
        let log = String::from_utf8(output.stderr).expect("printable records");
        assert!(log.contains("lost connection while receiving "), "{log}");
        assert!(!log.contains("error") && !log.contains("warning"), "{log}");
    }
    assert!(scratch.queued().is_empty());
}

/// One package through qmqpd on a pipe; its reply and its log.
fn sent(scratch: &Scratch, arguments: &[&str], from: &str) -> (String, String) {
    let mut inside = Vec::new();
    for part in ["Subject: x\n\nhello\n", from, "bob@mx.example"] {
        doorpost::wire::netstring::put(&mut inside, part.as_bytes());
    }
    let mut whole = Vec::new();
    doorpost::wire::netstring::put(&mut whole, &inside);
    let output = scratch.run("qmqpd", arguments, &whole);
    let text = |octets: Vec<u8>| String::from_utf8(octets).expect("printable");
    (text(output.stdout), text(output.stderr))
}

#[test]
fn content_filter_is_recorded_and_decides_where_the_message_goes() {
    let main_cf = "qmqpd_authorized_clients = stdin\ncontent_filter = scan:[127.0.0.1]:10025";
    let scratch = Scratch::with(main_cf);
    let (reply, log) = sent(&scratch, &[], "alice@client.example");
    assert!(reply.contains(":KOk"), "{reply} {log}");
    let log = scratch.deliver();
    assert!(log.contains("status=deferred") && log.contains("content_filter scan:[127.0.0.1]:10025: no such"), "{log}");
    assert_eq!(scratch.mail("bob").len(), 0);

    // The way back from the filter has none; a channel's name is one too.
    for arguments in [["-o", "content_filter="], ["-o", "content_filter=here:"]] {
        let scratch = Scratch::with(main_cf);
        scratch.write("channels", "here stdin - mailbox: *\nelsewhere - mx.example discard: *\n");
        let (reply, log) = sent(&scratch, &arguments, "alice@client.example");
        assert!(reply.contains(":KOk"), "{reply} {log}");
        let log = scratch.deliver();
        let filtered = arguments[1].ends_with("here:");
        assert_eq!(scratch.mail("bob").len(), usize::from(filtered), "{log}");
        assert!(scratch.queued().is_empty(), "{log}");
    }
}

#[test]
fn each_recipient_has_a_sender_of_its_own_and_returns_go_to_it() {
    let scratch = Scratch::with("qmqpd_authorized_clients = stdin");
    let recipients: String =
        ["alice", "bob", "nobody"].iter().map(|name| netstring(&format!("{name}@mx.example"))).collect();
    let inside = [netstring("Subject: x\n\nhello\n"), netstring("carol+@mx.example-@[]"), recipients].concat();
    let output = scratch.run("qmqpd", &[], netstring(&inside).as_bytes());
    assert!(output.stdout.starts_with(b"30:KOk"), "{output:?}");
    let log = scratch.deliver();
    for name in ["alice", "bob"] {
        let mail = String::from_utf8_lossy(&scratch.mail(name)[0]).into_owned();
        assert!(mail.starts_with(&format!("Return-Path: <carol+{name}=mx.example@mx.example>\n")), "{mail}");
    }
    assert!(log.contains(" to=<carol+nobody=mx.example@mx.example> recipients=1"), "{log}");
}

fn netstring(text: &str) -> String {
    format!("{}:{text},", text.len())
}

#[test]
fn more_is_logged_of_listed_clients_only() {
    for (list, level, verbose, steps, pieces) in [
        ("stdin", 1, &[][..], true, false),
        ("10.0.0.0/8, stdin", 2, &[], true, true),
        ("!stdin, *", 2, &[], false, false),
        // More than the command line asks for already.
        ("stdin", 1, &["-v"], true, true),
    ] {
        let main_cf = format!("qmqpd_authorized_clients = stdin\ndebug_peer_list = {list}\ndebug_peer_level = {level}");
        let log = sent(&Scratch::with(&main_cf), verbose, "alice@client.example").1;
        assert_eq!(log.contains("event=sender from=<alice@client.example>"), steps, "{list} {level}: {log}");
        assert_eq!(log.contains("event=recipient to=<bob@mx.example>"), steps, "{log}");
        assert_eq!(log.contains("event=content octets="), pieces, "{list} {level}: {log}");
    }
}

#[test]
fn a_table_says_who_may_and_one_that_cannot_be_read_means_later() {
    let scratch = Scratch::new();
    let table = scratch.path().join("clients").display().to_string();
    scratch.configure(&format!("qmqpd_authorized_clients = !hash:{table}.never, cidr:{table}"));
    scratch.write("clients.never", "192.0.2.9 quarrel\n");
    let reply_to = |client: &str| {
        let mut command = scratch.command("qmqpd");
        command.env("PROTO", "TCP").env("TCPREMOTEIP", client);
        let output = feed(&mut command, &package(b"x\n"));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = |octets: Vec<u8>| String::from_utf8(octets).expect("printable");
        (text(output.stdout), text(output.stderr))
    };
    let (reply, log) = reply_to("192.0.2.1");
    assert!(reply.contains(":ZError: cannot tell now"), "{reply}");
    assert!(log.contains("warning: client=192.0.2.1 qmqpd_authorized_clients: expected a file"), "{log}");
    scratch.write("clients", "192.0.2.0/24 ok\n");
    assert!(reply_to("192.0.2.1").0.contains(":KOk"));
    assert!(reply_to("192.0.2.9").0.contains(":DError: you are not authorized"));
    assert!(reply_to("192.0.3.1").0.contains(":DError: you are not authorized"));
    scratch.write("clients", "192.0.2.0/24 ok\n10.0.0.1/8 ok\n");
    let (reply, log) = reply_to("192.0.2.1");
    assert!(reply.contains(":ZError: cannot tell now") && log.contains("clients:2: expected 10.0.0.0/8"), "{log}");
}

#[test]
fn the_port_is_logged_if_that_is_wanted() {
    for wanted in ["yes", "no"] {
        let authorized = "qmqpd_authorized_clients = 127.0.0.1";
        let scratch = Scratch::with(&format!("{authorized}\nqmqpd_client_port_logging = {wanted}"));
        let (child, mut client) = on_socket(&scratch);
        let port = client.local_addr().expect("its address").port();
        client.write_all(&package(b"x\n")).expect("sent");
        client.read_to_string(&mut String::new()).expect("a reply");
        let log = log_of(child);
        assert_eq!(log.contains(&format!("client=127.0.0.1 port={port} event=end reply=K")), wanted == "yes", "{log}");
    }
}

#[test]
fn a_session_ends_with_daemon_timeout_however_it_is_stretched() {
    let scratch = Scratch::with("qmqpd_authorized_clients = 127.0.0.1\ndaemon_timeout = 1s");
    let (child, mut client) = on_socket(&scratch);
    let mut writer = client.try_clone().expect("a descriptor");
    let trickle = std::thread::spawn(move || {
        let begin = writer.write_all(b"1000000:900000:");
        while begin.is_ok() && writer.write_all(b"x").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    let mut reply = String::new();
    client.read_to_string(&mut reply).expect("a reply");
    assert!(reply.contains(":ZError: timed out while receiving message content,"), "{reply}");
    log_of(child);
    drop(client);
    trickle.join().expect("the end of the client");
}

#[test]
fn a_submit_that_never_answers_is_given_up_after_ipc_timeout() {
    for (ipc, daemon) in [("1s", "100s"), ("100s", "1s")] {
        let scratch = Scratch::new();
        let stuck = scratch.path().join("submit");
        common::write_program(&stuck, "#!/bin/sh\nexec cat >/dev/null 2>&1\n");
        scratch.configure(&format!(
            "qmqpd_authorized_clients = stdin\nipc_timeout = {ipc}\ndaemon_timeout = {daemon}\ndaemon_directory = {}",
            scratch.path().display()
        ));
        let (reply, log) = sent(&scratch, &[], "alice@client.example");
        assert!(reply.contains(":ZError: "), "{reply} {log}");
        assert!(log.contains("submit"), "{log}");
    }
}

#[test]
fn stand_alone_a_pipe_or_unix_socket_is_localhost_and_an_inet_socket_is_not() {
    let scratch = Scratch::with("qmqpd_authorized_clients = 127.0.0.1");
    for (arguments, kind) in
        [(&["-S"][..], ":KOk"), (&[], ":DError"), (&["-S", "-o", "qmqpd_authorized_clients="], ":D")]
    {
        let (reply, log) = sent(&scratch, arguments, "alice@client.example");
        assert!(reply.contains(kind), "{arguments:?}: {reply} {log}");
        let (ours, mut client) = std::os::unix::net::UnixStream::pair().expect("a socketpair");
        let mut command = scratch.command("qmqpd");
        let ours = OwnedFd::from(ours);
        command.args(arguments).stdin(ours.try_clone().expect("a descriptor")).stdout(ours).stderr(Stdio::null());
        let mut child = command.spawn().expect("qmqpd");
        drop(command);
        client.write_all(&package(b"x\n")).expect("sent");
        let mut reply = String::new();
        client.read_to_string(&mut reply).expect("a reply");
        assert!(reply.contains(kind), "{arguments:?} on a unix socket: {reply}");
        child.wait().expect("its end");
    }
    let scratch = Scratch::with("qmqpd_authorized_clients = localhost, !127.0.0.0/8");
    assert!(sent(&scratch, &["-S"], "alice@client.example").0.contains(":KOk"));
    let scratch = Scratch::with("qmqpd_authorized_clients = 127.0.0.9");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut client = TcpStream::connect(listener.local_addr().expect("its number")).expect("a connection");
    let server = OwnedFd::from(listener.accept().expect("a client").0);
    let mut command = scratch.command("qmqpd");
    command.arg("-S").stdin(server.try_clone().expect("a descriptor")).stdout(server).stderr(Stdio::null());
    let mut child = command.spawn().expect("qmqpd");
    drop(command);
    let mut reply = String::new();
    client.read_to_string(&mut reply).expect("a reply");
    assert!(reply.contains(":DError"), "{reply}");
    child.wait().expect("its end");
}

#[test]
fn the_generic_options_of_postfix_are_taken() {
    let scratch = Scratch::with("qmqpd_authorized_clients = stdin\nsyslog_name = $service_name");
    let all = [
        "-d", "-l", "-u", "-V", "-z", "-v", "-v", "-n", "628", "-i", "5", "-m", "7", "-r", "9", "-s", "1", "-t", "inet",
    ];
    let (reply, log) = sent(&scratch, &all, "alice@client.example");
    assert!(reply.contains(":KOk"), "{reply} {log}");
    assert!(log.contains("628/qmqpd[") && log.contains("event=content"), "{log}");
    let shown = scratch.run("qmqpd", &[&all[..], &["-o", "max_use=8", "--show-config=expanded"]].concat(), b"");
    let shown = String::from_utf8(shown.stdout).expect("text");
    for line in ["max_idle = 5\n", "max_use = 8\n", "children = 1\n"] {
        assert!(shown.contains(line), "{shown}");
    }
    for option in ["-c", "-D"] {
        let (reply, log) = sent(&scratch, &[option], "alice@client.example");
        assert!(reply.contains(":KOk") && log.contains(&format!("warning: option {option}")), "{reply} {log}");
    }
    for (wrong, status) in [(&["-t", "tcp"][..], 64), (&["leftover"], 64), (&["-i", "x"], 78), (&["-r", "x"], 64)] {
        let output = scratch.run("qmqpd", wrong, b"");
        assert_eq!(output.status.code(), Some(status), "{wrong:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(":ZError"), "{output:?}");
    }
}

#[test]
fn memory_stays_bounded_whatever_is_sent() {
    let recipients = "12:b@mx.example,".repeat(2000);
    for (beginning, block) in [("100000000:99999900:", "x".repeat(1 << 20)), ("100000000:1:x,1:a,", recipients)] {
        let scratch = Scratch::with("qmqpd_authorized_clients = stdin\nmessage_size_limit = 0");
        let mut command = scratch.command("qmqpd");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("qmqpd");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(beginning.as_bytes()).expect("a server that reads");
        for _ in 0..50 {
            input.write_all(block.as_bytes()).expect("a server that reads");
        }
        let most = peak(&child).expect("a live process");
        drop(input);
        assert!(most < 2 * 1024, "{beginning:?} and 50 blocks: {most} kB");
        assert_eq!(child.wait().expect("its end").code(), Some(0), "{beginning:?}");
        assert!(scratch.queued().is_empty(), "a message that never ended was queued");
    }
}

#[test]
fn wrong_arguments_are_a_usage_error_and_a_temporary_failure_for_the_client() {
    let scratch = Scratch::new();
    let output = scratch.run("qmqpd", &["--no-such-option"], b"");
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(output.stdout, b"34:ZError: server configuration error,", "{output:?}");
}

#[test]
fn a_recorded_session_plays_again() {
    let scratch = Scratch::with("qmqpd_authorized_clients = stdin");
    let file = tempfile::tempdir().expect("a folder");
    scratch.hand_over(file.path());
    let record = file.path().join("session.qmqp");
    let output = scratch.run("qmqpd", &["--record", record.to_str().expect("a path")], &package(b"x\n\xff\n"));
    assert!(output.stdout.starts_with(b"30:KOk: queued as "), "{output:?}");
    let text = std::fs::read_to_string(&record).expect("the record");
    let authorized = "# config: qmqpd_authorized_clients = stdin\n";
    std::fs::write(&record, text.replacen('\n', &format!("\n{authorized}"), 1)).expect("the record");
    transcript::play("qmqpd", &record, transcript::Writes::Octets).expect("the same again");
}

#[test]
fn a_silent_client_is_told_after_qmqpd_timeout() {
    let scratch = Scratch::with("qmqpd_authorized_clients = 127.0.0.1\nqmqpd_timeout = 1s");
    let (child, mut client) = on_socket(&scratch);
    client.write_all(b"1000:900:x").expect("sent");
    let mut reply = String::new();
    client.read_to_string(&mut reply).expect("a reply");
    assert!(reply.contains(":ZError: timed out while receiving message content,"), "{reply}");
    log_of(child);
}

#[test]
fn a_refused_client_on_a_network_waits_for_qmqpd_error_delay() {
    let scratch = Scratch::with("qmqpd_error_delay = 1s");
    let begin = std::time::Instant::now();
    let (child, mut client) = on_socket(&scratch);
    let mut reply = String::new();
    client.read_to_string(&mut reply).expect("a reply");
    assert!(reply.contains(":DError: you are not authorized"), "{reply}");
    assert!(begin.elapsed() >= std::time::Duration::from_secs(1), "{:?}", begin.elapsed());
    log_of(child);
}

#[test]
fn the_process_can_be_named_in_values() {
    let scratch = Scratch::with("qmqpd_authorized_clients = stdin\nsyslog_name = ${process_name}-${process_id}");
    let mut command = scratch.command("qmqpd");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("qmqpd");
    let number = child.id();
    let log = log_of(child);
    assert!(log.starts_with(&format!("qmqpd-{number}/qmqpd[{number}]: ")), "{log}");
}
