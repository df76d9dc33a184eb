//! How smtpd starts, is watched, re-reads, hands over and ends.

mod common;

use common::connections::*;
use common::processes::children;
use common::syslog::Syslog;
use common::{Scratch, binary, free_port, until};
use doorpost::net::listener::Listener;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

#[test]
fn hup_reads_the_services_file_again_and_live_sessions_go_on() {
    let folder = folder();
    let line_of = |name: &str, program: &str| format!("127.0.0.1:{name} stream tcp nowait/1 - {program}\n");
    let before = script(folder.path(), "before", "echo before; cat");
    let after = script(folder.path(), "after", "echo after");
    let lines = line_of("0", &before);
    let mut server = Server::start(&mut with_services(folder.path(), &lines));
    let mut live = server.connect("127.0.0.1:0");
    assert_eq!(line(&mut live), "before\n");
    let address = server.address("127.0.0.1:0");
    // The old socket stays, a new one comes.
    fs::write(folder.path().join("services"), line_of("0", &after) + &line_of("00", &after)).unwrap();
    server.signal(Signal::SIGHUP);
    assert_eq!(server.listen_to("127.0.0.1:00"), "after\n");
    let mut waits = TcpStream::connect(address).unwrap();
    live.write_all(b"still there\n").unwrap();
    assert_eq!(line(&mut live), "still there\n", "and it still counts");
    drop(live);
    assert_eq!(all(&mut waits), "after\n");
    // What is wrong changes nothing.
    fs::write(folder.path().join("services"), "nonsense\n").unwrap();
    server.signal(Signal::SIGHUP);
    server.record("everything stays as it was");
    assert_eq!(all(&mut TcpStream::connect(address).unwrap()), "after\n");
    // What is gone is closed.
    fs::write(folder.path().join("services"), line_of("00", &after)).unwrap();
    server.signal(Signal::SIGHUP);
    until("the socket to be closed", || TcpStream::connect(address).is_err());
}

#[test]
fn usr1_logs_the_state() {
    let folder = folder();
    let mut server = Server::start(on_loopback(folder.path()).args(["-n", "3", "/bin/sh", "-c", "echo served; cat"]));
    let mut client = server.connect("0");
    line(&mut client);
    server.signal(Signal::SIGUSR1);
    server.record("state children=1 refused=0");
    server.record("state service=0 children=1 limit=3");
}

#[test]
fn the_state_is_in_a_file_too_and_that_goes_with_smtpd() {
    let folder = folder();
    let file = folder.path().join("state");
    fs::write(&file, "left by one that was killed\n".repeat(100)).unwrap();
    let mut command = on_loopback(folder.path());
    command.arg("--status-file").arg(&file).args(["-n", "3", "/bin/sh", "-c", "echo served; cat"]);
    if nix::unistd::geteuid().is_root() {
        // Who may not write there any more.
        command = {
            let mut of_nobody = on_loopback(folder.path());
            of_nobody.args(["--user", "nobody"]).args(command.get_args().skip(4));
            of_nobody
        };
    }
    let mut server = Server::start(&mut command);
    let mut client = server.connect("0");
    let state = |children: usize, stopping: bool| {
        let limit = "limit=3 resting=false";
        format!(
            "state children={children} refused=0 idle=0s stopping={stopping}\nstate service=0 children={children} {limit}\n"
        )
    };
    // It is made anew: for a moment there is none.
    let read = || fs::read_to_string(&file).unwrap_or_default();
    until("the state", || read() == state(0, false));
    assert_eq!(line(&mut client), "served\n");
    server.signal(Signal::SIGUSR1);
    until("the state", || read() == state(1, false));
    server.signal(Signal::SIGTERM);
    until("the state", || read() == state(1, true));
    drop(client);
    assert_eq!(server.end().code(), Some(0));
    // In a folder of somebody else it can only be emptied.
    assert!(!file.exists() || read().is_empty());
    std::os::unix::fs::symlink("elsewhere", folder.path().join("link")).unwrap();
    for wrong in ["", &"x".repeat(256), "/nosuch/state", "/dev/null", folder.path().join("link").to_str().unwrap()] {
        let (status, text) = refused(on_loopback(folder.path()).args(["--status-file", wrong, "/bin/cat"]));
        assert_eq!(status, Some(64), "{wrong}: {text}");
        assert!(
            text.contains(if wrong.is_empty() { "a value is required" } else { ": expected a " }),
            "{wrong}: {text}"
        );
    }
}

#[test]
fn who_ends_takes_no_file_away_that_another_one_has_put_in_its_place() {
    let folder = folder();
    let (pid, state) = (folder.path().join("pid"), folder.path().join("state"));
    let start = || {
        let mut command = on_loopback(folder.path());
        command.arg("--pid-file").arg(&pid).arg("--status-file").arg(&state);
        let mut server = Server::start(command.args(["/bin/sh", "-c", "echo served; cat"]));
        assert_eq!(line(&mut server.connect("0")), "served\n");
        server
    };
    let mut first = start();
    let mut client = first.connect("0");
    assert_eq!(line(&mut client), "served\n");
    // Somebody thinks that it has ended, and it has not.
    fs::remove_file(&pid).unwrap();
    let mut second = start();
    first.signal(Signal::SIGTERM);
    first.record("stopping children=1");
    drop(client);
    assert_eq!(first.end().code(), Some(0));
    assert_eq!(fs::read_to_string(&pid).unwrap(), format!("{}\n", second.process.id()));
    assert!(fs::read_to_string(&state).unwrap().contains("stopping=false"));
    second.signal(Signal::SIGTERM);
    assert_eq!(second.end().code(), Some(0));
    assert!(!pid.exists() && !state.exists());
}

/// smtpd on a port of loopback, with both files in a folder and a program that says a word and then stays.
fn with_files(folder: &std::path::Path, port: &str, word: &str) -> Command {
    let mut command = smtpd(folder);
    command.args(["--listen-address", "127.0.0.1", "--port", port]);
    command.arg("--pid-file").arg(folder.join("pid")).arg("--status-file").arg(folder.join("state"));
    command.args(["/bin/sh", "-c", &format!("echo {word}; cat")]);
    command
}

#[test]
fn who_stops_gives_address_and_pid_file_to_the_next_one_at_once_however_it_ends_itself() {
    let folder = folder();
    let (pid, state) = (folder.path().join("pid"), folder.path().join("state"));
    type End = dyn Fn(&mut Server, TcpStream);
    let ends: [&End; 3] = [&|_, client| drop(client), &|old, _client| old.signal(Signal::SIGTERM), &|old, _client| {
        old.signal(Signal::SIGKILL)
    }];
    for end in ends {
        let mut old = Server::start(&mut with_files(folder.path(), "0", "old"));
        let mut client = old.connect("0");
        assert_eq!(line(&mut client), "old\n");
        let port = client.peer_addr().unwrap().port().to_string();
        old.signal(Signal::SIGTERM);
        until("the pid file to go", || !pid.exists());
        // Whoever saw that need not try twice.
        let mut new = Server::start(&mut with_files(folder.path(), &port, "new"));
        assert_eq!(line(&mut new.connect(&port)), "new\n");
        client.write_all(b"still there\n").unwrap();
        assert_eq!(line(&mut client), "still there\n");
        let is_whole = || {
            assert_eq!(fs::read_to_string(&pid).unwrap(), format!("{}\n", new.process.id()));
            assert!(fs::read_to_string(&state).unwrap().contains("stopping=false"));
        };
        is_whole();
        end(&mut old, client);
        old.end();
        is_whole();
        let (status, text) = refused(&mut with_files(folder.path(), "0", "third"));
        assert_eq!(status, Some(75), "{text}");
        assert!(text.contains(&format!("running already, pid {}", new.process.id())), "{text}");
        new.signal(Signal::SIGTERM);
        until("the pid file to go", || !pid.exists());
    }
}

#[test]
fn whoever_could_bind_the_address_of_one_that_stops_gets_its_pid_file() {
    let folder = folder();
    let mut old = Server::start(&mut with_files(folder.path(), "0", "old"));
    let port = old.address("0").port().to_string();
    for _ in 0..10 {
        old.signal(Signal::SIGTERM);
        old = loop {
            let mut new = Server::start(&mut with_files(folder.path(), &port, "new"));
            let number = format!("{}\n", new.process.id());
            let mut has_ended = false;
            until("its begin or its end", || {
                has_ended = new.process.try_wait().unwrap().is_some();
                has_ended || fs::read_to_string(folder.path().join("pid")).is_ok_and(|text| text == number)
            });
            if !has_ended {
                break new;
            }
            let said: Vec<String> = new.records.iter().collect();
            assert!(said.iter().all(|record| !record.contains("running already")), "{said:?}");
        };
    }
}

#[test]
fn the_pid_file_is_locked_for_a_life_and_a_stale_one_locks_nobody_out() {
    let folder = folder();
    let file = folder.path().join("pid");
    // The number of somebody who lives, left by an smtpd that was killed.
    fs::write(&file, format!("{}\n", std::process::id())).unwrap();
    let command = || {
        let mut command = on_loopback(folder.path());
        command.arg("--pid-file").arg(&file).args(["/bin/echo", "served"]);
        command
    };
    let mut server = Server::start(&mut command());
    assert_eq!(server.listen_to("0"), "served\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{}\n", server.process.id()));
    let (status, text) = refused(&mut command());
    assert_eq!(status, Some(75), "{text}");
    assert!(text.contains(&format!("running already, pid {}", server.process.id())), "{text}");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
    assert!(!file.exists());
    // Killed, it leaves the file, and the next one starts.
    let mut server = Server::start(&mut command());
    assert_eq!(server.listen_to("0"), "served\n");
    server.signal(Signal::SIGKILL);
    server.end();
    assert!(file.exists());
    assert_eq!(Server::start(&mut command()).listen_to("0"), "served\n");
    std::os::unix::fs::symlink("elsewhere", folder.path().join("link")).unwrap();
    for wrong in ["", &"x".repeat(256), "/dev/null", folder.path().join("link").to_str().unwrap()] {
        let (status, text) = refused(on_loopback(folder.path()).args(["--pid-file", wrong, "/bin/cat"]));
        assert_eq!(status, Some(64), "{wrong}: {text}");
        assert!(
            text.contains(if wrong.is_empty() { "a value is required" } else { ": expected a " }),
            "{wrong}: {text}"
        );
    }
}

#[test]
fn detached_it_is_ready_when_the_foreground_returns() {
    let folder = folder();
    let file = folder.path().join("pid");
    let port = free_port().to_string();
    let arguments = ["--listen-address", "127.0.0.1", "--port", &port, "--detach", "--pid-file"];
    let mut command = smtpd(folder.path());
    command.args(arguments).arg(&file).args(["/bin/sh", "-c", "ps -o sid= -p $PPID; readlink /proc/$PPID/fd/2"]);
    let (status, text) = refused(&mut command);
    assert_eq!(status, Some(0), "{text}");
    let pid: i32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    let said = all(&mut TcpStream::connect(format!("127.0.0.1:{port}")).unwrap());
    let again = refused(&mut command);
    // On another port it is the file alone that tells.
    let mut elsewhere = on_loopback(folder.path());
    let elsewhere = refused(elsewhere.arg("--detach").arg("--pid-file").arg(&file).arg("/bin/cat"));
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{pid}\n"));
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    until("its end", || !file.exists());
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), [pid.to_string().as_str(), "/dev/null"]);
    assert_eq!(again.0, Some(75), "what is wrong is said in the foreground: {}", again.1);
    assert_eq!(elsewhere.0, Some(75), "{}", elsewhere.1);
    assert!(elsewhere.1.contains(&format!("running already, pid {pid}")), "{}", elsewhere.1);
}

/// The path of a program is that from where smtpd was started, and no other folder is gone to.
#[test]
fn a_relative_path_finds_its_program_in_the_background_too() {
    let folder = folder();
    script(folder.path(), "program", "echo served");
    let mut server = Server::start(on_loopback(folder.path()).current_dir(folder.path()).arg("./program"));
    assert_eq!(server.listen_to("0"), "served\n");
    let port = free_port().to_string();
    let mut command = smtpd(folder.path());
    command.args(["--listen-address", "127.0.0.1", "--port", &port, "--detach", "--pid-file", "pid", "./program"]);
    let (status, text) = refused(command.current_dir(folder.path()));
    assert_eq!(status, Some(0), "{text}");
    let said = all(&mut TcpStream::connect(format!("127.0.0.1:{port}")).unwrap());
    let file = folder.path().join("pid");
    let pid: i32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    until("its end", || !file.exists());
    assert_eq!(said, "served\n");
}

/// What syslog hears of a server in the background, whose client is killed at once; as root only, for it needs a /dev of
/// its own.
fn in_the_background(filter: Option<&str>) -> Vec<String> {
    let folder = folder();
    let (syslog, pid) = (Syslog::new(folder.path()), folder.path().join("pid"));
    let port = free_port();
    let mut command = syslog.command(&binary("smtpd"));
    command.env("MAIL_CONFIG", folder.path()).envs(filter.map(|filter| ("RUST_LOG", filter)));
    command.args(["--listen-address", "127.0.0.1", "--port", &port.to_string(), "--detach", "--pid-file"]).arg(&pid);
    let (status, text) = refused(command.args(["/bin/sh", "-c", "kill -9 $$"]));
    assert_eq!(status, Some(0), "{text}");
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert_eq!(all(&mut client), "");
    let mut heard = Vec::new();
    while !heard.iter().any(|record: &String| record.contains("child killed")) {
        heard.push(syslog.next());
    }
    let number: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(number), Signal::SIGTERM).unwrap();
    until("its end", || !pid.exists());
    heard
}

#[test]
fn in_the_background_syslog_has_what_was_asked_for() {
    if !common::needs::root() {
        return;
    }
    let has = |heard: &[String], words: &str| heard.iter().any(|record| record.contains(words));
    let (more, usual, less) =
        (in_the_background(Some("debug")), in_the_background(None), in_the_background(Some("warn")));
    assert!(has(&more, "started program="), "{more:?}");
    assert!(!has(&usual, "started program="), "{usual:?}");
    assert!(less.len() == 1 && !has(&less, "started program="), "{less:?}");
    assert!(more.iter().chain(&usual).chain(&less).all(|record| record.starts_with('<')));
}

#[test]
fn a_user_without_the_queue_is_told_at_the_start() {
    let scratch = Scratch::new();
    let is_root = nix::unistd::geteuid().is_root();
    let mut command = scratch.command("smtpd");
    command.args(ON_LOOPBACK);
    if is_root {
        command.args(["--user", "daemon"]);
        // Other programs have no queue.
        let mut other = on_loopback(scratch.path());
        assert_eq!(Server::start(other.args(["--user", "daemon", "/bin/echo", "served"])).listen_to("0"), "served\n");
    } else {
        scratch.configure("queue_directory = /");
    }
    let (status, text) = refused(command.arg("smtpsrvr"));
    assert_eq!(status, Some(77), "{text}");
    assert!(text.contains("may not use queue_directory"), "{text}");
}

#[test]
fn the_user_has_all_its_groups_and_no_way_back() {
    let folder = folder();
    if !nix::unistd::geteuid().is_root() {
        let mut command = on_loopback(folder.path());
        let mut server = Server::start(command.args(["--user", "root", "/bin/echo", "served"]));
        server.record("has no effect");
        return;
    }
    let mut command = on_loopback(folder.path());
    let mut server = Server::start(command.args(["--user", "nobody", "/bin/sh", "-c", "id -u; id -ru; id -G"]));
    let expected = Command::new("id").args(["-G", "nobody"]).output().unwrap().stdout;
    assert_eq!(server.listen_to("0"), format!("65534\n65534\n{}", String::from_utf8(expected).unwrap()));
    let status = fs::read_to_string(format!("/proc/{}/status", server.process.id())).unwrap();
    assert!(status.contains("Uid:\t65534\t65534\t65534\t65534\n"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000000\n"), "{status}");
    let (status, text) = refused(on_loopback(folder.path()).args(["--user", "nosuchuser", "/bin/cat"]));
    assert_eq!(status, Some(64), "{text}");
}

#[test]
fn a_pid_file_that_cannot_be_removed_any_more_is_emptied_and_given_up_all_the_same() {
    if !common::needs::root() {
        return;
    }
    let folder = folder();
    let pid = folder.path().join("pid");
    let start = || {
        let mut command = on_loopback(folder.path());
        command.args(["--user", "nobody", "--pid-file"]).arg(&pid);
        Server::start(command.args(["/bin/sh", "-c", "echo served; cat"]))
    };
    let mut old = start();
    let mut client = old.connect("0");
    assert_eq!(line(&mut client), "served\n");
    old.signal(Signal::SIGTERM);
    until("the pid file to be empty", || fs::read(&pid).unwrap().is_empty());
    let mut new = start();
    assert_eq!(new.listen_to("0"), "served\n");
    drop(client);
    assert_eq!(old.end().code(), Some(0));
    assert_eq!(fs::read_to_string(&pid).unwrap(), format!("{}\n", new.process.id()));
}

#[test]
fn who_cannot_begin_leaves_no_files() {
    let folder = folder();
    let mut command = with_services(folder.path(), "127.0.0.1:0 stream tcp nowait nobody /bin/cat\n");
    command.args(["--user", "root", "--pid-file"]).arg(folder.path().join("pid"));
    let (status, text) = refused(command.arg("--status-file").arg(folder.path().join("state")));
    assert_eq!(status, Some(64), "{text}");
    let mut command = on_loopback(folder.path());
    command.arg("--pid-file").arg(folder.path().join("pid")).args(["--status-file", "/nosuch/state", "/bin/cat"]);
    assert_eq!(refused(&mut command).0, Some(64));
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["services"]);
}

#[test]
fn it_says_when_it_is_ready_to_systemd_and_to_s6() {
    let folder = folder();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut outer = Command::new("/bin/sh");
    outer.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", folder.path()).env("NOTIFY_SOCKET", &path);
    outer.args(["-c", "exec 7<&0 0</dev/null; exec \"$@\"", "sh"]).arg(binary("smtpd"));
    outer.args(ON_LOOPBACK).args(["--notification-fd", "7", "/bin/cat"]);
    let mut server = Server::start_as_it_is(outer.stdin(OwnedFd::from(writer)));
    drop(outer);
    let mut octets = [0; 100];
    let count = socket.recv(&mut octets).unwrap();
    let said = String::from_utf8_lossy(&octets[..count]).into_owned();
    assert_eq!(said, format!("READY=1\nMAINPID={}", server.process.id()));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "\n", "one line, and closed");
    let mut client = server.connect("0");
    client.write_all(b"there\n").unwrap();
    assert_eq!(line(&mut client), "there\n");
    server.signal(Signal::SIGTERM);
    let count = socket.recv(&mut octets).unwrap();
    assert_eq!(&octets[..count], b"STOPPING=1", "as soon as nobody is accepted");
    client.write_all(b"still there\n").unwrap();
    assert_eq!(line(&mut client), "still there\n");
    drop(client);
    assert_eq!(server.end().code(), Some(0));
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut octets).is_err(), "said twice");
    let (status, text) = refused(on_loopback(folder.path()).args(["--notification-fd", "99", "/bin/cat"]));
    assert_eq!(status, Some(64), "{text}");
}

/// smtpd with a listening socket on descriptor 3, as systemd and other parents hand them over.
fn with_socket(folder: &std::path::Path, listener: &TcpListener, arguments: &[&str]) -> Command {
    let mut outer = Command::new("/bin/sh");
    outer.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", folder);
    outer.args(["-c", "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", "sh"]);
    outer.arg(binary("smtpd")).args(arguments);
    outer.stdin(OwnedFd::from(listener.try_clone().unwrap()));
    outer
}

/// The same with the wildcard sockets of both families, or of one of them, on the descriptors from 3 on.
fn with_wildcards(folder: &std::path::Path, sockets: &[&Listener], arguments: &[&str]) -> Command {
    let mut outer = Command::new("/bin/sh");
    outer.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", folder);
    outer.args(["-c", "exec 3<&0 4<&1 0</dev/null 1>/dev/null; LISTEN_PID=$$ exec \"$@\"", "sh"]);
    outer.arg(binary("smtpd")).args(arguments).env("LISTEN_FDS", sockets.len().to_string());
    let copy = |at: usize| sockets.get(at).map(|socket| socket.as_fd().try_clone_to_owned().unwrap());
    outer.stdin(copy(0).unwrap()).stdout(copy(1).map_or_else(Stdio::null, Stdio::from));
    outer
}

/// Who is served at this port, by both families.
fn both_are_served(port: &str) {
    for host in ["127.0.0.1", "[::1]"] {
        let mut client = TcpStream::connect(format!("{host}:{port}")).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(all(&mut client), "served\n", "{host}");
    }
}

#[test]
fn wildcard_sockets_of_both_families_are_taken_and_the_missing_one_is_bound() {
    if !common::needs::ipv6() {
        return;
    }
    let folder = folder();
    for handed in [&[0, 1][..], &[1, 0], &[0], &[1]] {
        let (sockets, port) = both_wildcards();
        // Those that are not handed over are closed.
        let sockets: Vec<Listener> =
            sockets.into_iter().enumerate().filter(|(at, _)| handed.contains(at)).map(|(_, s)| s).collect();
        let in_order: Vec<&Listener> =
            if handed == [1, 0] { sockets.iter().rev().collect() } else { sockets.iter().collect() };
        let arguments = ["--port", &port, "/bin/echo", "served"];
        let mut server = Server::start_as_it_is(&mut with_wildcards(folder.path(), &in_order, &arguments));
        for (at, wild) in ["0.0.0.0", "[::]"].iter().enumerate() {
            let record = server.record(&format!("listening on={wild}:{port} service={port}"));
            assert_eq!(record.ends_with(" taken-over=yes"), handed.contains(&at), "{record}");
        }
        both_are_served(&port);
        server.signal(Signal::SIGHUP);
        server.record("signal HUP");
        both_are_served(&port);
        server.signal(Signal::SIGTERM);
        assert_eq!(server.end().code(), Some(0));
    }
}

#[test]
fn a_wait_service_has_a_program_for_each_wildcard_socket_that_is_handed_over() {
    if !common::needs::ipv6() {
        return;
    }
    let folder = folder();
    let ([ipv4, ipv6], port) = both_wildcards();
    let file = folder.path().join("services");
    let program = script(folder.path(), "program", "exec sleep 60");
    fs::write(&file, format!("{port} stream tcp wait - {program}\n")).unwrap();
    let arguments = ["--services", file.to_str().unwrap()];
    let mut server = Server::start_as_it_is(&mut with_wildcards(folder.path(), &[&ipv4, &ipv6], &arguments));
    server.record(&format!("listening on=[::]:{port} "));
    let _clients = ["127.0.0.1", "[::1]"].map(|host| TcpStream::connect(format!("{host}:{port}")).unwrap());
    until("a program for each", || children(server.process.id()).len() == 2);
    // They go on, and are not started once more.
    server.signal(Signal::SIGHUP);
    server.record("reading the configuration again");
    server.signal(Signal::SIGUSR1);
    server.record("state children=2 ");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
}

#[test]
fn five_operands_say_where_to_listen_whatever_is_handed_over() {
    let folder = folder();
    let program = script(folder.path(), "smtpsrvr", "echo served");
    let arguments = [&program, "local,smtp", "0", "2", "mx.example"];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut on_0 = smtpd(folder.path());
    on_0.args(arguments).stdin(OwnedFd::from(listener.try_clone().unwrap()));
    let mut of_a_client = smtpd(folder.path());
    of_a_client.args(arguments).stdin(OwnedFd::from(client));
    for command in [&mut with_socket(folder.path(), &listener, &arguments), &mut on_0, &mut of_a_client] {
        let mut server = Server::start_as_it_is(command);
        let port = server.address("0").port();
        assert_ne!(port, listener.local_addr().unwrap().port());
        assert_eq!(all(&mut TcpStream::connect(("127.0.0.1", port)).unwrap()), "served\n");
        server.signal(Signal::SIGTERM);
        assert_eq!(server.end().code(), Some(0));
    }
}

/// Starts one smtpd after another on a socket, while clients come without a pause; `start` gives one that answers by a
/// word, `talk` is what a client hears in a whole session.
fn replaced(
    listener: &TcpListener,
    start: impl Fn(&str) -> std::process::Child,
    talk: impl Fn(TcpStream) -> String + Copy + Send + Sync,
) {
    let address = listener.local_addr().unwrap();
    // A word of its own, so that it is this one that has answered and the one before can be told to end.
    let start = |word: &str| {
        let mut process = start(word);
        until("the new one", || {
            assert!(process.try_wait().unwrap().is_none());
            TcpStream::connect(address).is_ok_and(|client| talk(client).starts_with(word))
        });
        process
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    let mut old = start("old");
    std::thread::scope(|scope| {
        let clients = [(); 3].map(|()| {
            scope.spawn(|| {
                let mut served = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let said = talk(TcpStream::connect(address).expect("never refused"));
                    assert!(said.starts_with("old") || said.starts_with("new"), "{said:?}");
                    served += 1;
                }
                served
            })
        });
        for turn in 0..5 {
            let mut new = start(&format!("new{turn}"));
            kill(Pid::from_raw(old.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
            assert_eq!(old.wait().unwrap().code(), Some(0));
            std::mem::swap(&mut old, &mut new);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for client in clients {
            assert!(client.join().expect("everybody was served") > 5);
        }
    });
    kill(Pid::from_raw(old.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(old.wait().unwrap().code(), Some(0));
}

#[test]
fn a_replaced_smtpd_drops_no_connection() {
    let folder = folder();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let start = |word: &str| {
        let mut command = with_socket(folder.path(), &listener, &["-n", "50", "/bin/echo", word]);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    replaced(&listener, start, |mut client| all(&mut client));
}

#[test]
fn a_replaced_pool_drops_no_connection() {
    let scratch = Scratch::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let start = |word: &str| {
        // Who is there has read it already.
        scratch.configure(&format!("myhostname = {word}.example\nmax_use = 9\nidle_children = 2"));
        let arguments = ["--mode", "pool", "-n", "50", "smtpsrvr"];
        with_socket(scratch.path(), &listener, &arguments).stderr(Stdio::null()).spawn().unwrap()
    };
    let talk = |mut client: TcpStream| {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let greeting = line(&mut client);
        client.write_all(b"QUIT\r\n").unwrap();
        assert!(all(&mut client).starts_with("221 "), "greeted by {greeting:?} and dropped");
        greeting.strip_prefix("220 ").unwrap_or_default().to_owned()
    };
    replaced(&listener, start, talk);
}

#[test]
fn a_socket_that_is_handed_over_is_taken_where_its_address_is_wanted() {
    let folder = folder();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let arguments = ["--listen-address", "127.0.0.1", "--port", &port, "/bin/echo", "served"];
    let mut server = Server::start_as_it_is(&mut with_socket(folder.path(), &listener, &arguments));
    assert_eq!(server.listen_to(&port), "served\n", "the port is taken, by what is handed over");
    let own = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
    assert_eq!(fs::read_link(format!("/proc/{}/fd/3", server.process.id())).unwrap(), own);
}
