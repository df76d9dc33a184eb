//! Programs and clients that do not do their part: what they cost smtpd is one place, and never a second one, nor its end.

mod common;

use common::connections::*;
use common::processes::children;
use common::{Scratch, binary, until, write_program};
use nix::pty::openpty;
use nix::sys::signal::killpg;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn pid(server: &Server) -> i32 {
    server.process.id().try_into().unwrap()
}

/// Whether it has ended; nobody may have reaped it where process 1 does not.
fn is_gone(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Takes the records that are there; gives how many begin programs.
fn started(server: &mut Server) -> usize {
    // What is there before the answer to this is there by then.
    server.seen.retain(|record| !record.contains("state children="));
    server.signal(Signal::SIGUSR1);
    server.record("state children=");
    server.seen.iter().filter(|record| record.contains("started program=")).count()
}

fn pools(scratch: &Scratch, options: &[&str]) -> Command {
    let mut command = scratch.command("smtpd");
    command.args(ON_LOOPBACK).args(["--mode", "pool"]).args(options).arg("smtpsrvr");
    command
}

/// What pool and sessions there are.
fn pool_of(server: &Server) -> Option<(i32, Vec<i32>)> {
    let is_pool = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "smtpsrvr\n");
    children(pid(server)).into_iter().find(is_pool).map(|pool| (pool, children(pool)))
}

fn greeted(server: &mut Server) -> TcpStream {
    let mut client = server.connect("0");
    assert!(line(&mut client).starts_with("220 "));
    client
}

#[test]
fn a_program_that_ignores_term_ends_with_the_second_one() {
    ends_with_the_second(Signal::SIGTERM);
    ends_with_the_second(Signal::SIGINT);
}

fn ends_with_the_second(stop: Signal) {
    let folder = folder();
    let program = script(folder.path(), "smtpsrvr", "trap '' TERM INT; echo $$; exec sleep 1000");
    let mut server = Server::start(on_loopback(folder.path()).args(["-n", "1", "--when-full", "refuse", &program]));
    let mut client = server.connect("0");
    let deaf: i32 = line(&mut client).trim().parse().unwrap();
    // TERM to it alone is nothing, and it is one client all the same.
    signal(deaf, Signal::SIGTERM);
    assert!(all(&mut server.connect("0")).starts_with("421 "));
    server.signal(stop);
    server.record("stopping children=1");
    assert!(!is_gone(deaf), "the first one lets it be");
    server.signal(stop);
    assert_eq!(server.end().code(), Some(0));
    server.record("ended at once children=1");
    server.record("killed children=1");
    until("its end", || is_gone(deaf));
    assert_eq!(all(&mut client), "");
}

#[test]
fn a_wait_service_that_ignores_term_ends_with_the_second_one() {
    let folder = folder();
    let program = script(folder.path(), "deaf", "trap '' TERM; echo $$ >\"$1\"; exec sleep 1000");
    let file = folder.path().join("pid");
    let lines = format!("127.0.0.1:0 stream tcp wait - {program} deaf {}\n", file.display());
    let mut server = Server::start(&mut with_services(folder.path(), &lines));
    let _client = server.connect("127.0.0.1:0");
    let read = || fs::read_to_string(&file).ok()?.trim().parse::<i32>().ok();
    until("the program", || read().is_some());
    let deaf = read().unwrap();
    server.signal(Signal::SIGTERM);
    server.record("stopping children=1");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
    until("its end", || is_gone(deaf));
}

#[test]
fn a_pool_whose_sessions_hear_nothing_ends_with_the_second_term() {
    let scratch = Scratch::new();
    let mut server = Server::start(&mut pools(&scratch, &["--idle-children", "1", "-o", "max_use=5"]));
    let mut client = greeted(&mut server);
    let (pool, sessions) = pool_of(&server).unwrap();
    // A stopped process is deaf to everything but KILL.
    sessions.iter().for_each(|session| signal(*session, Signal::SIGSTOP));
    let others: Vec<i32> = children(pid(&server));
    server.signal(Signal::SIGTERM);
    server.record("stopping children=");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
    until("the end of all", || sessions.iter().chain([&pool]).chain(&others).all(|pid| is_gone(*pid)));
    assert_eq!(all(&mut client), "");
}

/// Something is said and heard.
fn talk(client: &mut TcpStream, said: &str, heard: &str) {
    client.write_all(said.as_bytes()).unwrap();
    let text = line(client);
    assert!(text.starts_with(heard), "{said:?}: {text:?}");
}

/// In a group of its own, as a shell starts it, for whoever runs this is in ours.
#[test]
fn what_a_program_does_to_its_process_group_is_done_to_nobody_else() {
    let folder = folder();
    let words = ["/bin/sh", "-c", "trap 'kill 0' EXIT; cat"];
    let mut server = Server::start(on_loopback(folder.path()).process_group(0).args(words));
    let mut clients = [server.connect("0"), server.connect("0")];
    clients.iter_mut().for_each(|client| talk(client, "x\n", "x\n"));
    let [first, mut second] = clients;
    drop(first);
    until("its end", || children(pid(&server)).len() == 1);
    talk(&mut second, "y\n", "y\n");
    talk(&mut server.connect("0"), "z\n", "z\n");
    drop(second);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
}

/// INT as from a terminal, to the whole group; and again.
fn is_interrupted(mut server: Server, address: SocketAddr) {
    let connect = || {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(line(&mut client).starts_with("220 "));
        client
    };
    let interrupt = |server: &Server| killpg(Pid::from_raw(pid(server)), Signal::SIGINT).unwrap();
    let (mut first, mut second) = (connect(), connect());
    interrupt(&server);
    server.record("stopping children=");
    talk(&mut first, "QUIT\r\n", "221 ");
    talk(&mut second, "NOOP\r\n", "250 ");
    interrupt(&server);
    assert_eq!(server.end().code(), Some(0));
    assert_eq!(all(&mut second), "");
}

#[test]
fn int_from_the_terminal_lets_sessions_finish_and_the_second_ends_them() {
    let scratch = Scratch::new();
    for mode in [&["exec"][..], &["pool"], &["pool", "--idle-children", "1", "-o", "max_use=9"]] {
        let mut command = scratch.command("smtpd");
        command.args(ON_LOOPBACK).arg("--mode").args(mode).arg("smtpsrvr").process_group(0);
        let mut server = Server::start(&mut command);
        let address = server.address("0");
        is_interrupted(server, address);
    }
    for main_cf in ["idle_children = 0", "idle_children = 1\nmax_use = 9"] {
        scratch.configure(main_cf);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut command = scratch.command("smtpsrvr");
        let server = Server::start_as_it_is(command.stdin(OwnedFd::from(listener)).process_group(0));
        is_interrupted(server, address);
    }
}

/// The shell that is a program tells nobody itself.
#[test]
fn the_second_signal_ends_what_a_program_has_started_too() {
    let folder = folder();
    let words = ["/bin/sh", "-c", "sleep 1000 & echo $!; cat"];
    let mut server = Server::start(on_loopback(folder.path()).args(words));
    let mut client = server.connect("0");
    let below: i32 = line(&mut client).trim().parse().unwrap();
    server.signal(Signal::SIGTERM);
    server.record("stopping children=1");
    talk(&mut client, "x\n", "x\n");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
    until("the end of all", || is_gone(below));
    assert_eq!(all(&mut client), "");
}

/// In the background of a terminal with `stty tostop`, where whoever writes to it is stopped.
#[test]
fn at_a_terminal_programs_write_records_and_its_int_lets_them_finish() {
    let folder = folder();
    let pty = openpty(None, None).unwrap();
    let mut modes = tcgetattr(&pty.slave).unwrap();
    modes.local_flags.insert(LocalFlags::TOSTOP);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &modes).unwrap();
    let terminal = || Stdio::from(pty.slave.try_clone().unwrap());
    // setsid(1) becomes smtpd, with the terminal that is its standard input.
    let mut command = Command::new("setsid");
    command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", folder.path());
    command.arg("--ctty").arg(binary("smtpd")).args(ON_LOOPBACK);
    command.args(["/bin/sh", "-c", "echo a record >&2; echo served; cat"]);
    let process = command.stdin(terminal()).stdout(terminal()).stderr(terminal()).spawn().unwrap();
    let (mut keyboard, screen) = (fs::File::from(pty.master.try_clone().unwrap()), fs::File::from(pty.master));
    let (sender, records) = std::sync::mpsc::channel();
    let lines = BufReader::new(screen).lines();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let mut server = Server { process, records, seen: Vec::new() };
    let mut client = server.connect("0");
    assert_eq!(line(&mut client), "served\n");
    server.record("a record");
    talk(&mut client, "w\n", "w\n");
    keyboard.write_all(b"\x03").unwrap();
    server.record("stopping children=1");
    talk(&mut client, "x\n", "x\n");
    drop(client);
    assert_eq!(server.end().code(), Some(0));
}

/// A client that sends much, reads nothing and leaves.
fn pour(client: &mut TcpStream) {
    client.set_nonblocking(true).unwrap();
    while client.write(&[b'x'; 65_536]).is_ok() {}
}

#[test]
fn a_program_that_does_not_read_or_does_not_write_has_its_place_and_no_other() {
    let folder = folder();
    for (what, text, ends_alone) in [
        ("writes and never reads", "exec yes", true),
        ("reads and never writes", "exec cat >/dev/null", true),
        ("does neither", "exec sleep 1000", false),
        ("does neither and ignores TERM", "trap '' TERM; exec sleep 1000", false),
        ("closes the connection and stays", "exec sleep 1000 <&- >&-", false),
    ] {
        let program = script(folder.path(), "smtpsrvr", text);
        let mut server =
            Server::start(on_loopback(folder.path()).args(["-d", "-n", "1", "--when-full", "refuse", &program]));
        for turn in 1..4 {
            let mut client = server.connect("0");
            until("its program", || children(pid(&server)).len() == 1 && started(&mut server) == turn);
            assert!(all(&mut server.connect("0")).starts_with("421 "), "{what}: a place for two");
            pour(&mut client);
            drop(client);
            if !ends_alone {
                assert!(all(&mut server.connect("0")).starts_with("421 "), "{what}: its place is gone before it is");
                children(pid(&server)).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
            }
            until("its place", || children(pid(&server)).is_empty());
        }
        server.record("state service=0 children=1 limit=1");
        server.seen.clear();
        server.signal(Signal::SIGUSR1);
        server.record("state service=0 children=0 limit=1");
    }
}

#[test]
fn a_client_is_refused_by_who_is_there_without_a_process_or_an_octet_of_his() {
    let folder = folder();
    let program = script(folder.path(), "smtpsrvr", "echo served; exec cat >/dev/null");
    for limits in [&["-n", "1", "--when-full", "refuse"][..], &["-n", "9", "--max-from-ip", "1"]] {
        let mut server = Server::start(on_loopback(folder.path()).args(limits).args(["-d", &program]));
        let mut client = server.connect("0");
        assert_eq!(line(&mut client), "served\n");
        // Nobody else does anything now, so it is smtpd itself that answers.
        children(pid(&server)).into_iter().for_each(|pid| signal(pid, Signal::SIGSTOP));
        for _ in 0..50 {
            assert_eq!(all(&mut server.connect("0")), "421 4.3.2 Too many connections, try again later\r\n");
        }
        assert_eq!(started(&mut server), 1, "{limits:?}: a program was started for who was refused");
        children(pid(&server)).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    }
}

#[test]
fn a_client_of_a_pool_is_refused_without_a_process_or_an_octet_of_his() {
    let scratch = Scratch::new();
    for limits in [
        &["-n", "1", "--when-full", "refuse"][..],
        &["-n", "1", "--idle-children", "1", "-o", "max_use=9", "--when-full", "refuse"],
        &["-n", "9", "--idle-children", "1", "--max-from-ip", "1", "-o", "max_use=9"],
    ] {
        let mut server = Server::start(&mut pools(&scratch, limits));
        let _client = greeted(&mut server);
        let is_full = limits.starts_with(&["-n", "1"]);
        // By the parent if all are busy, else by the child that waits.
        until("who waits", || is_full || pool_of(&server).is_some_and(|(_, children)| children.len() == 2));
        let (pool, before) = pool_of(&server).unwrap();
        if is_full {
            before.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
        }
        for _ in 0..50 {
            assert_eq!(all(&mut server.connect("0")), "421 4.3.2 Too many connections, try again later\r\n");
        }
        assert_eq!(children(pool), before, "{limits:?}: a process was made for who was refused");
        before.into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    }
}

/// What an administrator may get wrong: said at once with the right status, or to each client, and mended without a start.
#[test]
fn a_program_that_dies_at_its_start_costs_no_place() {
    let scratch = Scratch::new();
    // Not looked at by smtpd itself.
    let [certificate, key] = ["crt", "key"].map(|end| scratch.path().join(end));
    scratch.configure(&format!("tls_cert_file = {}\ntls_key_file = {}", certificate.display(), key.display()));
    let mut command = scratch.command("smtpd");
    command.args(ON_LOOPBACK).args(["-n", "1", "smtpsrvr"]);
    let mut server = Server::start(&mut command);
    for _ in 0..5 {
        let said = all(&mut server.connect("0"));
        assert!(said.starts_with("421 4.3.0 ") && !said.contains("PEM"), "{said}");
    }
    assert!(server.record("expected a PEM file that can be read").contains("smtpsrvr"));
    server.record("child ended service=0");
    assert!(server.record("status=78").contains("smtpd"));
    for (end, path) in [("crt", &certificate), ("key", &key)] {
        fs::copy(format!("{}/tests/tls/mx.{end}.pem", env!("CARGO_MANIFEST_DIR")), path).unwrap();
    }
    until("it to be mended", || line(&mut server.connect("0")).starts_with("220 "));
    let folder = folder();
    let crash = script(folder.path(), "smtpsrvr", "kill -SEGV $$");
    let mut server = Server::start(on_loopback(folder.path()).args(["-n", "1", &crash]));
    for _ in 0..5 {
        assert_eq!(all(&mut server.connect("0")), "");
    }
    server.record("child killed service=0");
    until("no child", || children(pid(&server)).is_empty());
}

#[test]
fn what_cannot_be_served_at_all_is_said_at_once() {
    let folder = folder();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    fs::write(folder.path().join("main.cf"), "mail_owner = nobody\n").unwrap();
    let no_program = folder.path().join("text");
    fs::write(&no_program, "nothing").unwrap();
    let no_program = no_program.to_str().unwrap().to_owned();
    for mode in ["exec", "pool"] {
        let refused = |more: &[&str]| {
            let mut command = smtpd(folder.path());
            refused(command.args(["--mode", mode, "--listen-address", "127.0.0.1"]).args(more))
        };
        for (more, status, words) in [
            (&["--port", &port, "smtpsrvr"][..], 75, format!("cannot listen on 127.0.0.1:{port}")),
            (&["--port", "0", "/nosuch/smtpsrvr"], 64, "/nosuch/smtpsrvr: expected a program".to_owned()),
            (&["--port", "0", &no_program], 64, "expected a file that can be executed".to_owned()),
            (&["--port", "0", "/"], 64, "expected a file that can be executed".to_owned()),
        ] {
            let (given, text) = refused(more);
            assert_eq!(given, Some(status), "{mode} {more:?}: {text}");
            assert!(text.contains(&words) && text.lines().count() == 1, "{mode} {more:?}: {text}");
        }
    }
    assert!(Path::new(&no_program).exists());
}

/// A smtpsrvr that does this first, in a folder that it may not be found in by name.
fn slow_smtpsrvr(scratch: &Scratch, first: &str) -> String {
    let real = binary("smtpsrvr");
    let program = scratch.path().join("smtpsrvr");
    // Not sh, which may unblock what was blocked when it was started.
    write_program(&program, &format!("#!/bin/bash\n{first}\nexec {} \"$@\"\n", real.display()));
    program.to_str().expect("a name").to_owned()
}

fn pool_of_script(scratch: &Scratch, program: &str) -> Server {
    let mut command = scratch.command("smtpd");
    Server::start(command.args(ON_LOOPBACK).args(["--mode", "pool", "--idle-children", "1", program]))
}

#[test]
fn a_pool_that_is_not_ready_yet_reads_hup_and_usr1_when_it_is() {
    let scratch = Scratch::new();
    let mut server = pool_of_script(&scratch, &slow_smtpsrvr(&scratch, "sleep 0.5"));
    until("the pool to begin", || !children(pid(&server)).is_empty());
    server.signal(Signal::SIGUSR1);
    server.signal(Signal::SIGHUP);
    greeted(&mut server);
    server.record("signal HUP, the configuration was read again");
    let lost = server.seen.iter().find(|record| record.contains("killed") || record.contains("cannot serve"));
    assert_eq!(lost, None);
}

#[test]
fn a_pool_that_was_killed_as_it_began_is_there_again_at_once() {
    let scratch = Scratch::new();
    let been = scratch.path().join("been");
    let first = format!("test -e {0} || {{ : >{0}; kill -9 $$; }}", been.display());
    let mut server = pool_of_script(&scratch, &slow_smtpsrvr(&scratch, &first));
    greeted(&mut server);
    server.record("child killed");
    let rests = server.seen.iter().find(|record| record.contains("ended as soon as it began"));
    assert_eq!(rests, None);
}

#[test]
fn a_client_that_waits_for_a_second_try_is_told_when_there_will_be_none() {
    for (name, answer) in [("smtpsrvr", "421 4.3.2 "), ("pop3d", "-ERR [SYS/TEMP] "), ("qmqpd", "Z"), ("cat", "")] {
        for signal in [Signal::SIGTERM, Signal::SIGHUP] {
            let folder = folder();
            let program = script(folder.path(), name, "cat");
            let line = |port: u16, program: &str| format!("127.0.0.1:{port} stream tcp nowait - {program}\n");
            let mut server = Server::start(&mut with_services(folder.path(), &line(0, &program)));
            server.address("127.0.0.1:0");
            fs::remove_file(&program).unwrap();
            let mut client = server.connect("127.0.0.1:0");
            // A client of QMQP sends at once, and a close with that unread would destroy the answer.
            client.write_all(b"100:x").unwrap();
            server.record("cannot serve");
            fs::write(folder.path().join("services"), line(0, "/bin/true").replace(":0", ":00")).unwrap();
            server.signal(signal);
            let said = all(&mut client);
            let said = said.split_once(':').map_or(said.as_str(), |(length, rest)| {
                if length.parse::<u32>().is_ok() { rest } else { said.as_str() }
            });
            assert!(said.starts_with(answer) && said.is_empty() == answer.is_empty(), "{name} {signal}: {said:?}");
            server.record("refused client=127.0.0.1");
            if signal == Signal::SIGTERM {
                drop(client);
                assert_eq!(server.end().code(), Some(0));
            }
        }
    }
}
