//! qmtpd, which is qmqpd under another name: its transcripts, and a session on a socket.

mod common;

use common::{Scratch, transcript};
use doorpost::wire::netstring::put;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

#[test]
fn transcripts() {
    transcript::play_all("qmtpd", 16);
}

fn package(content: &[u8], recipients: &[&[u8]]) -> Vec<u8> {
    let (mut whole, mut list) = (Vec::new(), Vec::new());
    put(&mut whole, content);
    put(&mut whole, b"alice@client.example");
    recipients.iter().for_each(|recipient| put(&mut list, recipient));
    put(&mut whole, &list);
    whole
}

#[test]
fn a_client_may_wait_for_each_reply_and_its_message_says_how_it_came() {
    let scratch = Scratch::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut client = TcpStream::connect(listener.local_addr().expect("its number")).expect("a connection");
    let server = OwnedFd::from(listener.accept().expect("a client").0);
    let mut command = scratch.command("qmtpd");
    command.stdin(server.try_clone().expect("a descriptor")).stdout(server).stderr(std::process::Stdio::piped());
    let child = command.spawn().expect("qmtpd");
    drop(command);

    for number in 0..3 {
        client.write_all(&package(format!("\n{number}\n").as_bytes(), &[b"bob@mx.example"])).expect("sent");
        let mut reply = [0; 6];
        client.read_exact(&mut reply).expect("a reply");
        assert_eq!(&reply, b"30:KOk");
        client.read_exact(&mut [0; 28]).expect("the rest of it");
    }
    client.shutdown(Shutdown::Write).expect("half-closed");
    assert_eq!(client.read_to_end(&mut Vec::new()).expect("the end"), 0);

    let output = child.wait_with_output().expect("the end of qmtpd");
    let log = String::from_utf8(output.stderr).expect("printable records");
    assert!(output.status.success() && log.contains("K=1 Z=0 D=0"), "{log}");
    assert_eq!(scratch.queued().len(), 3);
    scratch.deliver();
    let mail = scratch.mail("bob");
    assert_eq!(mail.len(), 3);
    assert!(String::from_utf8_lossy(&mail[0]).contains("with QMTP"), "{mail:?}");
}
