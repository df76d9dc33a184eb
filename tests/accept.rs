//! The accept loop of our servers, seen through pop3d: a listening socket on descriptor 0 or under LISTEN_FDS.

mod common;

use common::{Scratch, binary, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a listening socket that the test holds too, as a superserver does; killed when the test is over.
struct Server {
    process: Child,
    address: SocketAddr,
    listener: TcpListener,
}

impl Server {
    /// Started with the listener on 0 and 1, as by inetd's `wait`.
    fn on_stdin(scratch: &Scratch, options: &[&str]) -> Server {
        Server::start(scratch.command("pop3d").args(options))
    }

    fn start(command: &mut Command) -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let fd = |listener: &TcpListener| Stdio::from(OwnedFd::from(listener.try_clone().unwrap()));
        let command = command.stdin(fd(&listener)).stdout(fd(&listener)).stderr(Stdio::null());
        Server { process: command.spawn().expect("a server"), address: listener.local_addr().unwrap(), listener }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).expect("a connection");
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        until("the end of the server", || self.process.try_wait().unwrap().is_some());
        self.process.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn line(client: &mut impl Read) -> String {
    let mut text = String::new();
    BufReader::with_capacity(1, client).read_line(&mut text).expect("a line");
    text
}

fn greeted(client: &mut impl Read) {
    let greeting = line(client);
    assert!(greeting.starts_with("+OK"), "{greeting:?}");
}

/// Says goodbye and closes; a server waits some seconds for that.
fn quit(mut client: impl Read + Write) {
    client.write_all(b"QUIT\r\n").unwrap();
    greeted(&mut client);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}

#[test]
fn a_listening_socket_on_0_is_served_by_a_child_for_each_connection() {
    let scratch = Scratch::new();
    let server = Server::on_stdin(&scratch, &[]);
    let mut clients: Vec<TcpStream> = (0..5).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(greeted);
    clients.into_iter().for_each(quit);
    (0..50).for_each(|_| {
        let mut client = server.connect();
        greeted(&mut client);
        quit(client);
    });
}

#[test]
fn no_more_children_than_allowed_and_the_next_client_is_served_when_one_leaves() {
    let scratch = Scratch::new();
    let server = Server::on_stdin(&scratch, &["-o", "children=2"]);
    let mut clients: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
    clients[..2].iter_mut().for_each(greeted);
    // Nothing can be seen of a client that waits; a server without the limit would have greeted it by now, mostly.
    clients[2].set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(clients[2].read(&mut [0]).is_err(), "the third was served beside two others");
    clients[2].set_read_timeout(Some(PATIENCE)).unwrap();
    quit(clients.swap_remove(0));
    greeted(&mut clients[0]);
}

#[test]
fn term_lets_sessions_finish_and_leaves_the_socket_to_its_owner() {
    let scratch = Scratch::new();
    let mut server = Server::on_stdin(&scratch, &[]);
    let mut client = server.connect();
    greeted(&mut client);
    server.signal(Signal::SIGTERM);
    client.write_all(b"NOOP\r\n").unwrap();
    let _ = line(&mut client);
    assert!(server.process.try_wait().unwrap().is_none(), "left before its child");
    quit(client);
    assert_eq!(server.end().code(), Some(0));
    let _waits_for_the_next_server = server.connect();
}

#[test]
fn it_leaves_when_nobody_came_for_max_idle() {
    let scratch = Scratch::new();
    let mut server = Server::on_stdin(&scratch, &["-o", "max_idle=1"]);
    let mut client = server.connect();
    greeted(&mut client);
    // A session is no idleness, however long it is.
    std::thread::sleep(Duration::from_millis(1200));
    assert!(server.process.try_wait().unwrap().is_none(), "left although it had a child");
    quit(client);
    assert_eq!(server.end().code(), Some(0));
    server.listener.set_nonblocking(true).unwrap();
    assert!(server.listener.accept().is_err(), "a client was left behind");
}

#[test]
fn the_descriptors_of_listen_fds_are_served_and_their_variables_removed() {
    let scratch = Scratch::new();
    let mut command = Command::new("/bin/sh");
    command.env_clear().env("MAIL_CONFIG", scratch.path());
    let script = "exec 3<&0 </dev/null >/dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=pop3 exec \"$0\"";
    let server = Server::start(command.args(["-c", script]).arg(binary("pop3d")));
    let mut clients = [server.connect(), server.connect()];
    clients.iter_mut().for_each(greeted);
    clients.into_iter().for_each(quit);
}

#[test]
fn listen_fds_for_another_process_are_not_ours() {
    let scratch = Scratch::new();
    let mut command = scratch.command("pop3d");
    let server = Server::start(command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1"));
    greeted(&mut server.connect());
}

#[test]
fn a_connection_under_listen_fds_is_served_once() {
    let scratch = Scratch::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let connection = OwnedFd::from(listener.accept().unwrap().0);
    let mut command = Command::new("/bin/sh");
    command.env_clear().env("MAIL_CONFIG", scratch.path());
    let script = "exec 3<&0 </dev/null >/dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\"";
    command.args(["-c", script]).arg(binary("pop3d")).stdin(connection).stderr(Stdio::null());
    let mut process = command.spawn().unwrap();
    // Drops our copy of the connection.
    drop(command);
    greeted(&mut client);
    quit(client);
    assert_eq!(process.wait().unwrap().code(), Some(0));
}

#[test]
fn a_unix_socket_is_served_too() {
    let scratch = Scratch::new();
    let path = scratch.path().join("pop3");
    let listener = OwnedFd::from(UnixListener::bind(&path).unwrap());
    let mut process = scratch
        .command("pop3d")
        .stdin(listener.try_clone().unwrap())
        .stdout(listener)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..2 {
        let mut client = UnixStream::connect(&path).unwrap();
        greeted(&mut client);
        quit(client);
    }
    process.kill().unwrap();
    process.wait().unwrap();
}

#[test]
fn a_child_holds_nothing_of_the_loop() {
    let scratch = Scratch::new();
    let server = Server::on_stdin(&scratch, &[]);
    let own = std::fs::read_link(format!("/proc/self/fd/{}", server.listener.as_raw_fd())).unwrap();
    let mut client = server.connect();
    greeted(&mut client);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.process.id())).unwrap();
    let open = |pid: &str| {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()).collect::<Vec<_>>()
    };
    for child in children.split_whitespace() {
        let open = open(child);
        assert!(!open.is_empty() && !open.contains(&own), "{open:?}");
        assert!(!open.iter().any(|file| file.ends_with("anon_inode:[signalfd]")), "{open:?}");
    }
}

#[test]
fn a_child_that_is_killed_takes_nobody_along() {
    let scratch = Scratch::new();
    let server = Server::on_stdin(&scratch, &["-o", "children=1"]);
    let children = format!("/proc/{0}/task/{0}/children", server.process.id());
    for _ in 0..3 {
        let mut client = server.connect();
        greeted(&mut client);
        let child = std::fs::read_to_string(&children).unwrap();
        kill(Pid::from_raw(child.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
    }
    greeted(&mut server.connect());
}

#[test]
fn a_wrong_configuration_is_told_to_the_client_that_waits() {
    let scratch = Scratch::with("children = many");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let fd = || OwnedFd::from(listener.try_clone().unwrap());
    let mut process = scratch.command("pop3d").stdin(fd()).stdout(fd()).stderr(Stdio::null()).spawn().unwrap();
    assert!(line(&mut client).starts_with("-ERR "));
    drop(client);
    assert_eq!(process.wait().unwrap().code(), Some(78));
}
