//! What one client may have, what all may have, and what those hear that may not: before any program is started.

mod common;

use common::connections::*;
use common::{Scratch, binary, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

/// A program that says that it serves, under the name of one of ours, and stays until the client goes.
fn server_named(folder: &Path, name: &str) -> String {
    script(folder, name, "echo served; exec cat >/dev/null")
}

fn from(source: &str, address: SocketAddr) -> TcpStream {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
    use std::os::fd::AsRawFd;
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source.parse().unwrap(), 0))).unwrap();
    connect(fd.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    let client = TcpStream::from(fd);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// What a client hears that is not served.
fn refusal(client: &mut TcpStream) -> String {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    all(client)
}

#[test]
fn an_address_has_so_many_connections_and_the_next_one_hears_it_in_its_protocol() {
    let folder = folder();
    for (name, words) in [
        ("smtpsrvr", "421 4.3.2 Too many connections, try again later\r\n"),
        ("rsmtpsrvr", "421 4.3.2 Too many connections, try again later\r\n"),
        ("pop3d", "-ERR [SYS/TEMP] Too many connections, try again later\r\n"),
        ("qmqpd", "28:ZError: too many connections,"),
        ("stranger", ""),
    ] {
        let program = server_named(folder.path(), name);
        let mut server = Server::start(on_loopback(folder.path()).args(["-n", "9", "--max-from-ip", "2", &program]));
        let address = server.address("0");
        let mut served = [server.connect("0"), server.connect("0")];
        served.iter_mut().for_each(|client| assert_eq!(line(client), "served\n"));
        for _ in 0..3 {
            let mut client = server.connect("0");
            // QMQP's clients do not wait.
            let _ = client.write_all(b"10:too early,");
            assert_eq!(refusal(&mut client), words, "{name}");
        }
        server.record("refused client=127.0.0.1 ");
        assert_eq!(line(&mut from("127.0.0.9", address)), "served\n", "another address");
        drop(served);
        until("a place", || line(&mut server.connect("0")) == "served\n");
    }
}

#[test]
fn the_limits_hold_under_the_names_of_qpsmtpd_and_for_both_families() {
    if !common::needs::ipv6() {
        return;
    }
    use std::os::unix::process::CommandExt;
    let scratch = Scratch::new();
    for mode in [&[][..], &["--mode", "exec"]] {
        let mut command = scratch.command("smtpd");
        // The wildcard takes both, and there IPv4 comes as IPv6.
        command.arg0("qpsmtpd-forkserver").args(["-p", "0", "-m", "1", "-c", "2"]).args(mode);
        let mut server = Server::start(&mut command);
        let port = server.address("0").port();
        for address in [SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port))] {
            let served = |mut client: TcpStream| {
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                line(&mut client).starts_with("220 ").then_some(client)
            };
            let first = served(TcpStream::connect(address).unwrap()).expect("a greeting");
            let second = refusal(&mut TcpStream::connect(address).unwrap());
            assert!(second.starts_with("421 "), "{address}");
            drop(first);
            until("a place", || TcpStream::connect(address).is_ok_and(|client| served(client).is_some()));
        }
    }
}

#[test]
fn so_many_connections_a_minute_also_when_they_are_short() {
    let folder = folder();
    let program = script(folder.path(), "smtpsrvr", "echo served");
    let mut server = Server::start(on_loopback(folder.path()).args(["--max-per-minute", "3", &program]));
    (0..3).for_each(|_| assert_eq!(all(&mut server.connect("0")), "served\n"));
    assert!(all(&mut server.connect("0")).starts_with("421 4.3.2 "));
    let address = server.address("0");
    assert_eq!(all(&mut from("127.0.0.9", address)), "served\n");
}

#[test]
fn exempt_networks_have_no_limit() {
    let folder = folder();
    let program = server_named(folder.path(), "smtpsrvr");
    let mut command = on_loopback(folder.path());
    command.args(["-n", "9", "--max-from-ip", "1", "--max-per-minute", "1", "--exempt", "127.0.0.8/30"]);
    command.args(["--exempt", "127.0.0.16/30,::1", &program]);
    let mut server = Server::start(&mut command);
    let address = server.address("0");
    let mut exempt: Vec<_> = ["127.0.0.9", "127.0.0.17"].repeat(2).iter().map(|source| from(source, address)).collect();
    exempt.iter_mut().for_each(|client| assert_eq!(line(client), "served\n"));
    let mut one = server.connect("0");
    assert_eq!(line(&mut one), "served\n");
    assert!(all(&mut server.connect("0")).starts_with("421 "));
}

#[test]
fn when_full_clients_are_told_and_hold_nothing() {
    let folder = folder();
    let program = server_named(folder.path(), "smtpsrvr");
    let mut server = Server::start(on_loopback(folder.path()).args(["-n", "1", "--when-full", "refuse", &program]));
    let mut served = server.connect("0");
    assert_eq!(line(&mut served), "served\n");
    // They stay, and still others are told.
    let mut told = Vec::new();
    for _ in 0..300 {
        let mut client = server.connect("0");
        assert!(line(&mut client).starts_with("421 4.3.2 "));
        told.push(client);
    }
    let descriptors = fs::read_dir(format!("/proc/{}/fd", server.process.id())).unwrap().count();
    assert!(descriptors < 280, "{descriptors} descriptors are open");
    drop(served);
    until("a place", || line(&mut server.connect("0")) == "served\n");
}

#[test]
fn all_services_together_have_a_limit() {
    let folder = folder();
    let program = server_named(folder.path(), "smtpsrvr");
    let lines = format!("127.0.0.1:0 stream tcp nowait - {program}\n127.0.0.1:00 stream tcp nowait - {program}\n");
    let mut command = with_services(folder.path(), &lines);
    let mut server = Server::start(command.args(["--limit-connections", "2", "--when-full", "refuse"]));
    let mut served = [server.connect("127.0.0.1:00")];
    server.seen.retain(|record| !record.contains("127.0.0.1:00"));
    let mut other = server.connect("127.0.0.1:0");
    assert_eq!((line(&mut served[0]), line(&mut other)), ("served\n".to_owned(), "served\n".to_owned()));
    assert!(all(&mut server.connect("127.0.0.1:0")).starts_with("421 "));
}

#[test]
fn the_count_is_exact_after_kills_and_failed_starts() {
    let folder = folder();
    let program = script(folder.path(), "smtpsrvr", "echo $$; exec cat >/dev/null");
    let hidden = folder.path().join("hidden");
    let mut server = Server::start(on_loopback(folder.path()).args(["-n", "5", "--max-from-ip", "1", &program]));
    for _ in 0..20 {
        let mut client = server.connect("0");
        let mut pid = line(&mut client);
        // The one before may not have been reaped yet.
        while pid.starts_with("421") {
            client = server.connect("0");
            pid = line(&mut client);
        }
        kill(Pid::from_raw(pid.trim().parse().expect("a process id")), Signal::SIGKILL).unwrap();
        let _ = client.read(&mut [0]);
    }
    fs::rename(&program, &hidden).unwrap();
    until("the last to be reaped", || {
        let mut client = server.connect("0");
        let said = all(&mut client);
        assert!(said.starts_with("421 4.3.2 "), "tried twice, and told: {said}");
        server.seen.iter().any(|record| record.contains("cannot serve")) || {
            while let Ok(record) = server.records.try_recv() {
                server.seen.push(record);
            }
            server.seen.iter().any(|record| record.contains("cannot serve"))
        }
    });
    fs::rename(&hidden, &program).unwrap();
    let mut client = server.connect("0");
    while line(&mut client).starts_with("421") {
        client = server.connect("0");
    }
    assert!(all(&mut server.connect("0")).starts_with("421 "), "one is there");
}

#[test]
fn programs_of_ours_on_a_listening_socket_have_the_same_limits() {
    let scratch = Scratch::with("smtpd_client_connection_count_limit = 1\nchildren = 2\nwhen_full = refuse");
    let folder = folder();
    let lines = format!("127.0.0.1:0 stream tcp wait - {}\n", binary("smtpsrvr").display());
    let mut command = with_services(folder.path(), &lines);
    let mut server = Server::start(command.env("MAIL_CONFIG", scratch.path()));
    let address = server.address("127.0.0.1:0");
    let mut first = server.connect("127.0.0.1:0");
    assert!(line(&mut first).starts_with("220 "));
    assert!(all(&mut server.connect("127.0.0.1:0")).starts_with("421 4.3.2 "), "the second of this address");
    assert!(line(&mut from("127.0.0.9", address)).starts_with("220 "), "another one's first");
    let mut third = from("127.0.0.10", address);
    assert!(line(&mut third).starts_with("220 ") || all(&mut third).is_empty(), "full, or the one before has left");
}

#[test]
fn wrong_limits_are_usage_errors() {
    let folder = folder();
    for wrong in [
        ["--max-from-ip", "-1"],
        ["--max-from-ip", "some"],
        ["--max-per-minute", "4294967296"],
        ["--exempt", "127.0.0.1/33"],
        ["--exempt", ""],
        ["--exempt", "host.example"],
        ["--when-full", "wait"],
    ] {
        let (status, text) = refused(smtpd(folder.path()).args(wrong).arg("/bin/cat"));
        assert_eq!(status, Some(64), "{wrong:?}: {text}");
    }
}

#[test]
fn ipv6_is_counted_by_network() {
    // A network of its own, which only root or a user namespace can have.
    let folder = folder();
    let program = server_named(folder.path(), "smtpsrvr");
    let inside = format!(
        "ip link set lo up && for a in 2001:db8::1 2001:db8::2 2001:db8:0:1::1; do ip addr add $a/64 dev lo nodad; done
         {} --listen-address ::1 --port 2525 -n 9 --max-from-ip 1 {program} 2>{}/log & server=$!
         until grep -q listening {}/log; do :; done
         python3 - <<'END'
import socket
def connect(source):
    s = socket.create_connection(('::1', 2525), source_address=(source, 0), timeout=20)
    return s, s.recv(100).decode()
held = [connect('2001:db8::1')]
print(held[0][1].strip())
print(connect('2001:db8::2')[1].strip())
held.append(connect('2001:db8:0:1::1'))
print(held[1][1].strip())
END
         kill -KILL $server",
        binary("smtpd").display(),
        folder.path().display(),
        folder.path().display()
    );
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "sh", "-c", &inside]).env("MAIL_CONFIG", folder.path());
    let output = command.output().expect("unshare of util-linux");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    let refused = "421 4.3.2 Too many connections, try again later";
    assert_eq!(lines, ["served", refused, "served"], "{}", String::from_utf8_lossy(&output.stderr));
}
