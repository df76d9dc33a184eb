//! A running smtpd: started, listened to by its records, talked to, signalled, killed when the test is over.

use super::{binary, free_port, until, write_program};
use doorpost::net::listener::Listener;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

pub const PATIENCE: Duration = Duration::from_secs(20);

/// Options of smtpd: a free port of loopback.
pub const ON_LOOPBACK: [&str; 4] = ["--listen-address", "127.0.0.1", "--port", "0"];

/// A running smtpd; killed when the test is over.
pub struct Server {
    pub process: Child,
    pub records: Receiver<String>,
    pub seen: Vec<String>,
}

impl Server {
    pub fn start(command: &mut Command) -> Server {
        Server::start_as_it_is(command.stdin(Stdio::null()))
    }

    /// smtpd as a pool of smtpsrvr, and its address, once the submit that is kept beside it for this queue is there.
    pub fn pool(command: &mut Command, options: &[&str], queue: &Path) -> (Server, SocketAddr) {
        command.args(["--mode", "pool"]).args(ON_LOOPBACK).args(options).arg("smtpsrvr");
        let mut server = Server::start(command);
        let address = server.address("0");
        until("submit behind its socket", || queue.join("submit").exists());
        (server, address)
    }

    /// `start` with whatever is on its standard input.
    pub fn start_as_it_is(command: &mut Command) -> Server {
        let mut process = command.stderr(Stdio::piped()).spawn().expect("smtpd");
        let stderr = BufReader::new(process.stderr.take().expect("a pipe"));
        let (sender, records) = channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Server { process, records, seen: Vec::new() }
    }

    /// Waits for a record with these words, and gives the first one.
    pub fn record(&mut self, words: &str) -> String {
        loop {
            if let Some(found) = self.seen.iter().find(|record| record.contains(words)) {
                return found.clone();
            }
            match self.records.recv_timeout(PATIENCE) {
                Ok(record) => self.seen.push(record),
                Err(_) => panic!("no record with {words:?} among {:?}", self.seen),
            }
        }
    }

    /// Where a service listens.
    pub fn address(&mut self, service: &str) -> SocketAddr {
        let record = self.record(&format!("service={service}"));
        let (_, rest) = record.split_once("listening on=").expect("a record about listening");
        rest.split(' ').next().expect("an address").parse().expect("an address")
    }

    pub fn connect(&mut self, service: &str) -> TcpStream {
        let client = TcpStream::connect(self.address(service)).expect("a connection");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client
    }

    /// What a program says to a client that says nothing.
    pub fn listen_to(&mut self, service: &str) -> String {
        let mut client = self.connect(service);
        client.shutdown(Shutdown::Write).expect("an end of input");
        all(&mut client)
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().expect("a process id")), signal).expect("a signal");
    }

    pub fn end(&mut self) -> ExitStatus {
        until("the end of smtpd", || self.process.try_wait().expect("waiting").is_some());
        self.process.wait().expect("waiting")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The sockets of both wildcards, IPv4 and IPv6 alone, on a port that both have free, and that.
pub fn both_wildcards() -> ([Listener; 2], String) {
    loop {
        let port = free_port();
        let bind = |ip: IpAddr| Listener::bind((ip, port).into(), true);
        if let (Ok(ipv4), Ok(ipv6)) = (bind(Ipv4Addr::UNSPECIFIED.into()), bind(Ipv6Addr::UNSPECIFIED.into())) {
            return ([ipv4, ipv6], port.to_string());
        }
    }
}

/// A client with an address of its own on loopback.
pub fn from_address(from: SocketAddrV4, to: SocketAddrV4) -> TcpStream {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
    use std::os::fd::AsRawFd;
    let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(client.as_raw_fd(), &SockaddrIn::from(from)).expect("an address");
    connect(client.as_raw_fd(), &SockaddrIn::from(to)).expect("a connection");
    let client = TcpStream::from(client);
    client.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    client
}

pub fn all(client: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A program that is killed with octets unread resets the connection; what came before counts.
    if let Err(error) = client.read_to_end(&mut text) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    String::from_utf8(text).expect("text")
}

pub fn line(client: &mut TcpStream) -> String {
    let mut text = String::new();
    BufReader::with_capacity(1, client).read_line(&mut text).expect("a line");
    text
}

/// smtpd with an empty configuration and environment.
pub fn smtpd(folder: &Path) -> Command {
    let mut command = Command::new(binary("smtpd"));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", folder);
    command
}

/// smtpd in its everyday form, on a free port of loopback.
pub fn on_loopback(folder: &Path) -> Command {
    let mut command = smtpd(folder);
    command.args(ON_LOOPBACK);
    command
}

pub fn with_services(folder: &Path, lines: &str) -> Command {
    let file = folder.join("services");
    fs::write(&file, lines).expect("a services file");
    let mut command = smtpd(folder);
    command.arg("--services").arg(file);
    command
}

pub fn script(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    write_program(&path, &format!("#!/bin/sh\n{text}\n"));
    path.to_str().expect("a name").to_owned()
}

pub fn folder() -> tempfile::TempDir {
    super::usual_umask();
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("its mode");
    folder
}

/// What is said by one that must not begin to serve, and its status.
pub fn refused(command: &mut Command) -> (Option<i32>, String) {
    let mut server = Server::start(command.stdout(Stdio::null()));
    let status = server.end();
    (status.code(), server.records.iter().map(|line| line + "\n").collect())
}

/// One session of SMTP with one message from alice to bob; `answer` is how that to the message must begin.
pub fn smtp(address: SocketAddr, message: &str, answer: &str) {
    smtp_one_by_one(address, &[message], answer);
}

/// The same with several messages, each step behind the answer to the one before. Gives the answers to the messages.
pub fn smtp_one_by_one(address: SocketAddr, messages: &[&str], answer: &str) -> Vec<String> {
    let mut client = TcpStream::connect(address).expect("a connection");
    client.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let mut reader = BufReader::new(client.try_clone().expect("a copy"));
    let mut hear = |expected: &str| {
        let mut line = String::from("-");
        while line.as_bytes().get(3) != Some(&b' ') {
            line.clear();
            assert!(reader.read_line(&mut line).expect("an answer") > 0, "closed instead of {expected}");
        }
        assert!(line.starts_with(expected), "{expected}: {line}");
        line
    };
    hear("220");
    let mut say = |command: &str, code: &str| {
        client.write_all(command.as_bytes()).expect("sending");
        hear(code)
    };
    say("EHLO client.example\r\n", "250");
    let mut transact = |message: &&str| {
        say("MAIL FROM:<alice@client.example>\r\n", "250");
        say("RCPT TO:<bob@mx.example>\r\n", "250");
        say("DATA\r\n", "354");
        say(&format!("{message}.\r\n"), answer)
    };
    let answers = messages.iter().map(&mut transact).collect();
    say("QUIT\r\n", "221");
    answers
}
