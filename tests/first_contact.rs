//! smtpsrvr and clients it does not know yet: who talks too soon or too slowly, and who says whom he speaks for.

mod common;

use common::{Scratch, feed};

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
    // So is one that says nothing, in the time that it has.
    scratch.configure("smtpd_upstream_proxy_timeout = 1s\nsmtpd_timeout = 100s");
    let begun = std::time::Instant::now();
    let (mut child, client) = over_tcp(&scratch, b"");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut &client, &mut said).expect("last words");
    assert!(said.starts_with("421 ") && (1..50).contains(&begun.elapsed().as_secs()), "{said} {:?}", begun.elapsed());
    drop(client);
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
    let session = b"EHLO proxy.example\r\nXCLIENT ADDR=198.51.100.7 NAME=client.example PORT=1234 \
        DESTADDR=192.0.2.99 DESTPORT=2525\r\nEHLO c.example\r\n\
        MAIL FROM:<a@b>\r\nXCLIENT ADDR=1.2.3.4\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\nx\r\n.\r\n\
        XCLIENT ADDR=IPv6:2001:db8::1 LOGIN=bob HELO=x PROTO=ESMTP\r\nMAIL FROM:<a@b>\r\n\
        RCPT TO:<x@far.example>\r\nDATA\r\n.\r\n";
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
    assert!(traces[0].contains("\tby mx.example (doorpost)") && !traces[0].contains("192.0.2.99"), "{}", traces[0]);
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
    let (long, short) = (std::time::Duration::from_secs(15), std::time::Duration::from_secs(6));
    // 50 octets a second, where 500 are asked for; a line that never ends; and commands for ever.
    let said = trickled(&scratch, begin, b"x", long, "");
    assert!(said.contains("\r\n354 ") && said.contains("\r\n421 4.4.2 "), "{said}");
    let said = trickled(&scratch, "", b"N", long, "");
    assert!(said.contains("\r\n421 4.4.2 "), "{said}");
    assert_eq!(scratch.queued().len(), 0);
    // More time than a busy machine keeps a client from sending the next octet.
    scratch.configure("smtpd_min_data_rate = 0\nsmtpd_timeout = 4s");
    let said = trickled(&scratch, begin, b"x", short, "\r\n.\r\nQUIT\r\n");
    assert!(said.contains("\r\n250 2.0.0 Ok: queued"), "{said}");
    scratch.configure("daemon_timeout = 1s");
    let said = trickled(&scratch, "", b"NOOP\r\n", long, "");
    assert!(said.contains("\r\n421 4.4.2 "), "{said}");
}
