//! smtpd where the machine gives it little or a client asks for much: no processes left, thousands of connections, clients
//! of many networks. The long ones are for `cargo test --test hardships -- --ignored`.

mod common;

use common::connections::*;
use common::{Scratch, until};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// A user who runs nothing else here.
const USER: &str = "games";

/// As the user himself: root need not be allowed to in a container.
fn limit_processes(server: &Server, number: &str) {
    let user = nix::unistd::User::from_name(USER).unwrap().expect("a user that Debian has");
    let mut command = Command::new("prlimit");
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    command.arg(format!("--pid={}", server.process.id())).arg(format!("--nproc={number}:"));
    assert!(command.status().expect("prlimit of util-linux").success());
}

/// The system refuses processes to users, and not to root.
#[test]
fn a_machine_without_processes_costs_time_and_no_place() {
    if !common::needs::root() {
        return;
    }
    let folder = folder();
    let program = script(folder.path(), "smtpsrvr", "echo served; exec cat >/dev/null");
    let mut command = on_loopback(folder.path());
    command.args(["--user", USER, "-n", "3", "--max-from-ip", "2", &program]);
    let mut server = Server::start(&mut command);
    // Who is served is served by the user.
    assert_eq!(line(&mut server.connect("0")), "served\n");
    for _ in 0..2 {
        limit_processes(&server, "1");
        let mut waits = server.connect("0");
        server.record("cannot serve");
        let since = Instant::now();
        assert!(all(&mut waits).starts_with("421 4.3.2 "), "tried twice, and told");
        assert!(since.elapsed() < Duration::from_secs(5));
        limit_processes(&server, "500");
        let mut clients = [server.connect("0"), server.connect("0")];
        clients.iter_mut().for_each(|client| assert_eq!(line(client), "served\n"));
        let third = all(&mut server.connect("0"));
        assert!(third.starts_with("421 4.3.2 "), "two places, no more and no less: {third:?}");
        drop(clients);
        until("the places", || line(&mut server.connect("0")) == "served\n");
        server.seen.retain(|record| record.contains("listening"));
    }
}

#[test]
fn a_pool_without_processes_goes_on_when_there_are_some() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::new();
    scratch.hand_over(scratch.path());
    let mut command = Command::new("/usr/bin/setpriv");
    command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", scratch.path());
    let mut server = {
        // smtpsrvr as games needs no queue as long as nobody sends mail.
        command.args(["--reuid=games", "--regid=games", "--init-groups"]).arg(common::binary("smtpsrvr"));
        command.args(["-o", "idle_children=1", "-o", "max_use=1", "-o", "children=3"]);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::start_as_it_is(command.stdin(std::os::fd::OwnedFd::from(listener)));
        (server, address)
    };
    let connect = |address: SocketAddr| {
        let client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    };
    assert!(line(&mut connect(server.1)).starts_with("220 "));
    limit_processes(&server.0, "1");
    let mut clients: Vec<TcpStream> = (0..4).map(|_| connect(server.1)).collect();
    server.0.record("cannot start a child");
    limit_processes(&server.0, "500");
    for client in &mut clients {
        assert!(line(client).starts_with("220 "));
        client.write_all(b"QUIT\r\n").unwrap();
    }
}

fn ip(words: &str) {
    assert!(Command::new("ip").args(words.split(' ')).status().expect("ip of iproute2").success(), "{words}");
}

fn from(source: &str, address: SocketAddr) -> TcpStream {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
    use std::os::fd::AsRawFd;
    let mut connected = None;
    // A route is there a little later than its address.
    until("a route", || {
        let fd = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let source = SockaddrStorage::from(SocketAddr::new(source.parse().unwrap(), 0));
        let bound = bind(fd.as_raw_fd(), &source);
        let done = bound.and_then(|()| connect(fd.as_raw_fd(), &SockaddrStorage::from(address)));
        connected = done.is_ok().then_some(fd);
        connected.is_some()
    });
    let client = TcpStream::from(connected.unwrap());
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// In a network of its own, which has addresses of several networks. The threads of other tests stay where they are.
#[test]
fn clients_of_one_ipv6_network_are_one_client() {
    if !common::needs::there("a network of its own", unshare(CloneFlags::CLONE_NEWNET).is_ok()) {
        return;
    }
    ip("link set lo up");
    for address in ["2001:db8:1::1/64", "2001:db8:1::2/64", "2001:db8:1:0:ffff::3/64", "2001:db8:2::1/64"] {
        ip(&format!("-6 addr add {address} dev lo nodad"));
    }
    let scratch = Scratch::new();
    // By another length the same addresses are other clients, or one.
    for (mode, length, third, elsewhere) in
        [("exec", 128, "220 ", "220 "), ("exec", 24, "421 ", "421 "), ("pool", 128, "220 ", "220 ")]
    {
        let mut command = scratch.command("smtpd");
        command.args(["--mode", mode, "--listen-address", "::", "--port", "0", "-n", "9", "--max-from-ip", "2"]);
        command.args(["-o", &format!("smtpd_client_ipv6_prefix_length={length}")]);
        let mut server = Server::start(command.arg("smtpsrvr"));
        let address = SocketAddr::new("2001:db8:2::1".parse().unwrap(), server.address("0").port());
        let mut clients = Vec::new();
        for (source, expected) in [
            ("2001:db8:1::1", "220 "),
            ("2001:db8:1:0:ffff::3", "220 "),
            ("2001:db8:1::2", third),
            ("2001:db8:2::1", elsewhere),
        ] {
            let mut client = from(source, address);
            let said = line(&mut client);
            assert!(said.starts_with(expected), "{mode} {length} {source}: {said}");
            clients.push(client);
        }
    }
    for mode in ["exec", "pool"] {
        let mut command = scratch.command("smtpd");
        command.args(["--mode", mode, "--listen-address", "::", "--port", "0", "-n", "9", "--max-from-ip", "2"]);
        let mut server = Server::start(command.arg("smtpsrvr"));
        let address = SocketAddr::new("2001:db8:2::1".parse().unwrap(), server.address("0").port());
        let greeted = |source: &str| {
            let mut client = from(source, address);
            (line(&mut client), client)
        };
        let (first, one) = greeted("2001:db8:1::1");
        let (second, _two) = greeted("2001:db8:1:0:ffff::3");
        assert!(first.starts_with("220 ") && second.starts_with("220 "), "{mode}");
        assert!(greeted("2001:db8:1::2").0.starts_with("421 4.3.2 "), "{mode}: a third of the same network");
        assert!(server.record("refused client=2001:db8:1::2").contains("from this address"));
        assert!(greeted("2001:db8:2::1").0.starts_with("220 "), "{mode}: another network");
        assert!(greeted("::1").0.starts_with("220 "), "{mode}: and another one");
        drop(one);
        until("a place", || greeted("2001:db8:1::2").0.starts_with("220 "));
        server.signal(Signal::SIGTERM);
    }
}

/// As few as smtpd can live with: those who are turned away have no more than a part of them.
#[test]
fn with_few_descriptors_all_are_served_or_told() {
    const FEW: &str = "--nofile=48";
    let scratch = Scratch::new();
    let pool = ["--mode", "pool"].as_slice();
    let kept = ["--mode", "pool", "--idle-children", "2", "-o", "max_use=10"].as_slice();
    for mode in [&["--mode", "exec"], pool, kept] {
        let mut command = Command::new("prlimit");
        command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", scratch.path());
        command.arg(FEW).arg(common::binary("smtpd"));
        command.args(ON_LOOPBACK).args(mode).args(["-n", "100", "--max-from-ip", "6", "smtpsrvr"]);
        let mut server = Server::start(&mut command);
        // None of them leaves by itself.
        let mut clients: Vec<TcpStream> = (0..40).map(|_| server.connect("0")).collect();
        let served = clients.iter_mut().map(line).filter(|said| said.starts_with("220 ")).count();
        assert_eq!(served, 6, "{mode:?}");
        clients.clear();
        until("a place", || line(&mut server.connect("0")).starts_with("220 "));
        server.signal(Signal::SIGTERM);
        assert_eq!(server.end().code(), Some(0), "{mode:?}");
        server.seen.extend(server.records.iter());
        assert_eq!(server.seen.iter().find(|record| record.contains("error: ")), None, "{mode:?}");
    }
}

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// DOORPOST_CONNECTIONS says how many.
#[test]
#[ignore = "minutes"]
fn the_count_is_exact_after_a_hundred_thousand_connections() {
    let scratch = Scratch::new();
    let all_of_them = number("DOORPOST_CONNECTIONS", 100_000);
    for options in [&["--mode", "pool", "--idle-children", "4", "-o", "max_use=50"][..], &["--mode", "exec"]] {
        let mut command = scratch.command("smtpd");
        command.args(ON_LOOPBACK).args(["-n", "9", "--max-from-ip", "8"]);
        let mut server = Server::start(command.args(options).args(["--quiet", "smtpsrvr"]));
        // Quiet, so where it listens is found by who it is.
        let address = listening(server.process.id());
        let clients: Vec<_> = (0..8)
            .map(|which| {
                std::thread::spawn(move || {
                    for turn in 0..all_of_them / 16 {
                        let mut client = TcpStream::connect(address).unwrap();
                        client.set_read_timeout(Some(PATIENCE)).unwrap();
                        match (turn + which) % 3 {
                            // Leaves at once, so that the server finds nobody.
                            0 => drop(client),
                            1 => drop(line(&mut client)),
                            _ => {
                                let _ = client.write_all(b"QUIT\r\n");
                                let _ = all(&mut client);
                            }
                        }
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().expect("all connected"));
        let mut held = Vec::new();
        until("all places to be free", || {
            let mut client = TcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            if line(&mut client).starts_with("220 ") {
                held.push(client);
            }
            held.len() == 8
        });
        let mut one_more = TcpStream::connect(address).unwrap();
        one_more.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(line(&mut one_more).starts_with("421 "), "and one more is one too many");
        server.signal(Signal::SIGTERM);
        drop(held);
        assert_eq!(server.end().code(), Some(0));
    }
}

/// The address on which a process listens, from /proc/net/tcp and its descriptors.
fn listening(pid: u32) -> SocketAddr {
    let mut found = None;
    until("a listening socket", || {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let names: Vec<String> =
            entries.filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.display().to_string())).collect();
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        found = table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_it = fields[3] == "0A" && names.contains(&format!("socket:[{}]", fields[9]));
            is_it.then(|| u16::from_str_radix(fields[1].split_once(':')?.1, 16).ok()).flatten()
        });
        found.is_some()
    });
    SocketAddr::from(([127, 0, 0, 1], found.unwrap()))
}

/// Proportional set size of a process and all below it, in kB.
fn memory(pid: u32) -> u64 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let own = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<u64>().ok());
    own.unwrap_or(0) + children.split_whitespace().map(|child| memory(child.parse().unwrap())).sum::<u64>()
}

/// DOORPOST_HELD says how many.
#[test]
#[ignore = "ten thousand processes"]
fn ten_thousand_idle_connections_are_held_and_one_more_is_told_in_time() {
    let scratch = Scratch::new();
    let many = number("DOORPOST_HELD", 10_000);
    let mut command = scratch.command("smtpd");
    command.args(ON_LOOPBACK).args(["--mode", "pool", "--when-full", "refuse", "-n"]);
    let mut server = Server::start(command.arg(many.to_string()).arg("smtpsrvr"));
    let address = server.address("0");
    let before = memory(server.process.id());
    let mut held = Vec::new();
    for _ in 0..many {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(line(&mut client).starts_with("220 "), "after {}", held.len());
        held.push(client);
    }
    for _ in 0..5 {
        let since = Instant::now();
        assert!(all(&mut TcpStream::connect(address).unwrap()).starts_with("421 4.3.2 "));
        assert!(since.elapsed() < Duration::from_millis(100), "{:?}", since.elapsed());
    }
    let each = (memory(server.process.id()) - before) / many as u64;
    assert!(each * 10_000 < 1_500_000, "{each} kB for each connection");
    let client = held.first_mut().unwrap();
    client.write_all(b"NOOP\r\n").unwrap();
    assert!(line(client).starts_with("250 "));
}
