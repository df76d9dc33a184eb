//! The connection server through its binary: what a program finds, limits, signals, and everything that must not end it.
//! Small programs of the system stand in for the mail servers.

mod common;

use common::connections::*;
use common::{binary, free_port, until};
use nix::sys::signal::Signal;
use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Child, Command};

#[test]
fn the_connection_is_on_0_and_1_and_the_log_on_2_and_nothing_else_is_open() {
    let folder = folder();
    let look = "cd /proc/$$/fd; for n in 0 1; do readlink $n; done; \
                for n in 3 4 5 6 7 8 9 10 11 12; do test -e $n && echo stray $n; done; echo to the log >&2; cat";
    // Descriptor 9 is what a careless shell leaves open.
    let mut outer = Command::new("/bin/sh");
    outer.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", folder.path());
    outer.args(["-c", "exec 9</dev/null; exec \"$@\"", "sh"]).arg(binary("smtpd"));
    outer.args(ON_LOOPBACK).args(["/bin/sh", "-c", look]);
    let mut server = Server::start(&mut outer);
    let mut client = server.connect("0");
    client.write_all(b"hello\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let said = all(&mut client);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("socket:") && lines[0] == lines[1], "{said}");
    assert_eq!(lines[2..], ["hello"]);
    server.record("to the log");
    let own = fs::read_link(format!("/proc/{}/fd/9", server.process.id()));
    assert!(own.is_err() || own.is_ok_and(|file| file != Path::new("/dev/null")), "smtpd kept a stray descriptor");
}

#[test]
fn the_environment_names_both_ends_as_ucspi_does() {
    let folder = folder();
    let mut command = on_loopback(folder.path());
    command.env("TCPREMOTEHOST", "of.another.client").env("TCPREMOTEINFO", "x").env("KEPT", "yes");
    let mut server = Server::start(command.arg("/usr/bin/env"));
    let mut client = server.connect("0");
    let (ours, theirs) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    let said = all(&mut client);
    let has = |setting: String| assert!(said.lines().any(|line| line == setting), "{setting} is not in {said}");
    has("PROTO=TCP".to_owned());
    has("TCPLOCALIP=127.0.0.1".to_owned());
    has(format!("TCPLOCALPORT={}", theirs.port()));
    has("TCPREMOTEIP=127.0.0.1".to_owned());
    has(format!("TCPREMOTEPORT={}", ours.port()));
    has("KEPT=yes".to_owned());
    assert!(!said.contains("TCPREMOTEHOST") && !said.contains("TCPREMOTEINFO"), "{said}");
}

/// Nothing there has an address, and what the environment says is about whoever started smtpd.
#[test]
fn a_unix_socket_is_served_by_programs_that_are_told_nothing_of_their_clients() {
    let folder = folder();
    let path = folder.path().join("socket");
    let program = script(folder.path(), "smtpsrvr", "echo \"$@\"; exec env");
    fs::write(folder.path().join("main.cf"), "myhostname = mx.example\n").unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut command = smtpd(folder.path());
    let said =
        ["TCPREMOTEIP", "TCPREMOTEHOST", "PROTO", "REMOTE_ADDR", "REMOTE_PORT", "SOCAT_PEERADDR", "SOCAT_SOCKPORT"];
    command.envs(said.map(|name| (name, "192.0.2.1"))).env("KEPT", "yes");
    let _server = Server::start_as_it_is(command.args([&program, "local"]).stdin(std::os::fd::OwnedFd::from(listener)));
    for _ in 0..2 {
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        std::io::Read::read_to_string(&mut client, &mut heard).unwrap();
        assert!(heard.starts_with("- mx.example local\n") && heard.contains("\nKEPT=yes\n"), "{heard}");
        assert!(!heard.contains("192.0.2.1"), "{heard}");
    }
}

#[test]
fn the_folder_given_by_option_is_handed_on_as_mail_config() {
    let (folder, other) = (folder(), folder());
    let mut command = on_loopback(folder.path());
    command.current_dir(other.path().parent().unwrap());
    command.arg("--config").arg(other.path().file_name().unwrap()).arg("/usr/bin/env");
    let said = Server::start(&mut command).listen_to("0");
    assert!(said.lines().any(|line| line == format!("MAIL_CONFIG={}", other.path().display())), "{said}");
}

#[test]
fn no_more_clients_are_served_at_once_than_allowed_and_the_next_comes_in_as_one_leaves() {
    let folder = folder();
    // Who finds the folder there was let in while somebody else was being served.
    let lock = folder.path().join("lock");
    let program = format!("mkdir {0} && echo alone || echo crowded; cat; rmdir {0}", lock.display());
    let mut server = Server::start(on_loopback(folder.path()).args(["-n", "1", "/bin/sh", "-c", &program]));
    let mut clients: Vec<TcpStream> = (0..4).map(|_| server.connect("0")).collect();
    for client in &mut clients {
        assert_eq!(line(client), "alone\n");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(all(client), "");
    }
}

#[test]
fn as_many_clients_as_allowed_are_served_at_once() {
    let folder = folder();
    let mut server = Server::start(on_loopback(folder.path()).args(["-n", "3", "/bin/sh", "-c", "echo served; cat"]));
    let mut clients: Vec<TcpStream> = (0..3).map(|_| server.connect("0")).collect();
    clients.iter_mut().for_each(|client| assert_eq!(line(client), "served\n"));
}

#[test]
fn hundreds_of_short_connections_leave_the_count_exact() {
    let folder = folder();
    let mut server = Server::start(on_loopback(folder.path()).args(["-n", "2", "/bin/echo", "served"]));
    let address = server.address("0");
    let clients: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..40 {
                    let mut client = TcpStream::connect(address).unwrap();
                    client.set_read_timeout(Some(PATIENCE)).unwrap();
                    assert_eq!(all(&mut client), "served\n");
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("all served"));
    assert_eq!(server.listen_to("0"), "served\n");
}

#[test]
fn children_that_are_not_its_own_are_reaped_and_not_counted() {
    let folder = folder();
    let left_behind = folder.path().join("pid");
    let mut outer = Command::new("/bin/sh");
    outer.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", folder.path());
    outer.args(["-c", "true & echo $! >\"$0\"; exec \"$@\""]).arg(&left_behind).arg(binary("smtpd"));
    outer.args(ON_LOOPBACK).args(["-n", "1", "/bin/echo", "served"]);
    let mut server = Server::start(&mut outer);
    assert_eq!(server.listen_to("0"), "served\n");
    let pid = fs::read_to_string(left_behind).unwrap();
    until("the stranger to be reaped", || !Path::new(&format!("/proc/{}", pid.trim())).exists());
    (0..3).for_each(|_| assert_eq!(server.listen_to("0"), "served\n"));
}

#[test]
fn whoever_ignored_the_end_of_children_does_not_spoil_the_count() {
    let folder = folder();
    let mut outer = Command::new("/usr/bin/env");
    outer.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", folder.path());
    outer.arg("--ignore-signal=CHLD").arg(binary("smtpd"));
    outer.args(ON_LOOPBACK).args(["-n", "1", "/bin/echo", "served"]);
    let mut server = Server::start(&mut outer);
    (0..3).for_each(|_| assert_eq!(server.listen_to("0"), "served\n"));
}

#[test]
fn children_that_fail_or_are_killed_end_nobody_else() {
    let folder = folder();
    let program = "read word; case $word in fail) exit 78;; die) kill -KILL $$;; esac; echo served";
    let mut server = Server::start(on_loopback(folder.path()).args(["-n", "1", "/bin/sh", "-c", program]));
    for (word, answer) in [("fail\n", ""), ("die\n", ""), ("live\n", "served\n")] {
        let mut client = server.connect("0");
        client.write_all(word.as_bytes()).unwrap();
        assert_eq!(all(&mut client), answer);
    }
    server.record("status=78");
    server.record("signal=SIGKILL");
}

#[test]
fn a_program_that_cannot_be_started_costs_time_and_then_the_connection_but_not_the_server() {
    let folder = folder();
    let program = script(folder.path(), "program", "echo served");
    let hidden = folder.path().join("hidden");
    let mut server = Server::start(on_loopback(folder.path()).args(["-n", "1", &program]));
    server.address("0");
    fs::rename(&program, &hidden).unwrap();
    assert_eq!(server.listen_to("0"), "", "tried twice, and closed");
    server.record("cannot serve");
    let mut client = server.connect("0");
    fs::rename(&hidden, &program).unwrap();
    assert_eq!(all(&mut client), "served\n");
}

#[test]
fn being_out_of_descriptors_costs_time_and_nothing_else() {
    let folder = folder();
    let mut server = Server::start(on_loopback(folder.path()).args(["/bin/echo", "served"]));
    let address = server.address("0");
    let limit = |process: &Child, number: u32| {
        let mut command = Command::new("prlimit");
        command.arg(format!("--pid={}", process.id())).arg(format!("--nofile={number}:"));
        assert!(command.status().expect("prlimit of util-linux").success());
    };
    assert_eq!(server.listen_to("0"), "served\n");
    let numbers = fs::read_dir(format!("/proc/{}/fd", server.process.id())).expect("descriptors");
    let numbers = numbers.map(|entry| entry.expect("one").file_name().to_str().expect("a number").parse::<u32>());
    let highest = numbers.map(|number| number.expect("a number")).max().expect("descriptors");
    limit(&server.process, highest + 1);
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    server.record("cannot serve");
    limit(&server.process, 1024);
    assert_eq!(all(&mut client), "served\n");
}

#[test]
fn term_stops_accepting_and_lets_sessions_finish() {
    let folder = folder();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = Server::start(on_loopback(folder.path()).args(["/bin/sh", "-c", "echo served; cat"]));
        let mut client = server.connect("0");
        assert_eq!(line(&mut client), "served\n");
        server.signal(signal);
        server.record("stopping children=1");
        assert!(TcpStream::connect(client.peer_addr().unwrap()).is_err(), "the socket is still open");
        client.write_all(b"still there\n").unwrap();
        assert_eq!(line(&mut client), "still there\n");
        assert!(server.process.try_wait().unwrap().is_none(), "left before its child");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.end().code(), Some(0));
    }
}

#[test]
fn the_second_term_ends_at_once_and_reaches_the_children() {
    let folder = folder();
    let mut server = Server::start(on_loopback(folder.path()).args(["/bin/sh", "-c", "echo served; read word"]));
    let mut client = server.connect("0");
    assert_eq!(line(&mut client), "served\n");
    server.signal(Signal::SIGTERM);
    server.record("stopping children=1");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
    assert_eq!(all(&mut client), "");
}

#[test]
fn signals_reach_programs_as_if_nobody_had_touched_them() {
    let folder = folder();
    let mut command = on_loopback(folder.path());
    let said = Server::start(command.args(["/bin/cat", "/proc/self/status"])).listen_to("0");
    let set = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name)).expect("a set of signals");
        u64::from_str_radix(line.trim(), 16).expect("a set of signals")
    };
    assert_eq!(set("SigBlk:"), 0);
    assert_eq!(set("SigCgt:"), 0);
    for signal in [Signal::SIGPIPE, Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        assert_eq!(set("SigIgn:") & 1 << (signal as u32 - 1), 0, "{signal} is ignored");
    }
}

#[test]
fn a_services_file_serves_several_programs_with_their_own_arguments_and_limits() {
    let folder = folder();
    let lines = "# name type protocol wait user program argv\n\
                 127.0.0.1:0 stream tcp nowait/1 - /bin/cat cat /proc/self/cmdline\n\
                 127.0.0.1:00 stream tcp4 nowait.6000 - /bin/echo echo second service\n";
    let mut server = Server::start(&mut with_services(folder.path(), lines));
    assert_eq!(server.listen_to("127.0.0.1:00"), "second service\n");
    server.seen.retain(|record| !record.contains("127.0.0.1:00"));
    assert_eq!(server.listen_to("127.0.0.1:0"), "cat\0/proc/self/cmdline\0");
}

#[test]
fn services_of_one_name_and_address_have_a_socket_and_a_program_each() {
    let folder = folder();
    let lines = "127.0.0.1:0 stream tcp nowait - /bin/echo echo first\n\
                 127.0.0.1:0 stream tcp nowait - /bin/echo echo second\n";
    let mut server = Server::start(&mut with_services(folder.path(), lines));
    let first = server.listen_to("127.0.0.1:0");
    let used = server.seen.iter().position(|record| record.contains("service=127.0.0.1:0")).expect("a record");
    server.seen.remove(used);
    assert_eq!((first.as_str(), server.listen_to("127.0.0.1:0").as_str()), ("first\n", "second\n"));
}

#[test]
fn a_wait_service_gets_the_listening_socket_and_is_left_alone_until_it_ends() {
    let folder = folder();
    let [starts, gate, flags] = ["starts", "gate", "flags"].map(|name| folder.path().join(name));
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let program = format!(
        "grep flags: /proc/$$/fdinfo/0 >{}
         test \"$(readlink /proc/$$/fd/0)\" = \"$(readlink /proc/$$/fd/1)\" && echo $TCPREMOTEIP start >>{}; read word <{}",
        flags.display(),
        starts.display(),
        gate.display()
    );
    let program = script(folder.path(), "program", &program);
    let lines = format!("127.0.0.1:0 stream tcp wait - {program}\n");
    let mut server = Server::start(&mut with_services(folder.path(), &lines));
    // Nobody ever accepts these, so the socket stays readable all the time.
    let _clients = [server.connect("127.0.0.1:0"), server.connect("127.0.0.1:0")];
    for count in 1..4 {
        until("the program to be started", || fs::read_to_string(&starts).unwrap_or_default().lines().count() >= count);
        assert_eq!(fs::read_to_string(&starts).unwrap(), "start\n".repeat(count), "one at a time, and no client in it");
        fs::write(&gate, "end\n").unwrap();
    }
    let flags = fs::read_to_string(flags).unwrap();
    let flags = u32::from_str_radix(flags.trim_start_matches("flags:").trim(), 8).expect("an octal number");
    assert_eq!(flags & 0o4000, 0, "O_NONBLOCK is nothing that a program for inetd expects");
    // The one that runs now would wait for ever.
    until("the program to be started", || fs::read_to_string(&starts).unwrap().lines().count() >= 4);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
}

#[test]
fn each_address_of_a_wait_service_has_a_program_of_its_own() {
    let folder = folder();
    let program = script(folder.path(), "program", "exec sleep 60");
    let lines = format!("127.0.0.1,127.0.0.2:0 stream tcp wait - {program}\n");
    let mut server = Server::start(&mut with_services(folder.path(), &lines));
    let count = |server: &Server| {
        let pid = server.process.id();
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().count()
    };
    let _clients = [server.connect("127.0.0.1:0"), server.connect("127.0.0.2:0")];
    until("a program for each", || count(&server) == 2);
    // They go on, and are not started once more.
    server.signal(Signal::SIGHUP);
    server.record("reading the configuration again");
    server.signal(Signal::SIGUSR1);
    server.record("state service=127.0.0.1:0 children=1 ");
    server.record("state service=127.0.0.2:0 children=1 ");
    assert_eq!(count(&server), 2);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
}

#[test]
fn services_of_one_name_are_counted_apart_after_hup() {
    let folder = folder();
    let line = "127.0.0.1:0 stream tcp nowait/1 - /bin/cat\n";
    let mut server = Server::start(&mut with_services(folder.path(), &line.repeat(2)));
    let next = |server: &mut Server, words: &str| {
        let record = server.record(words);
        server.seen.retain(|seen| *seen != record);
        record
    };
    let address = |server: &mut Server| {
        let record = next(server, "listening on=");
        record.split("on=").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    };
    let (first, second) = (address(&mut server), address(&mut server));
    let served = |address: &str| {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"x\n").unwrap();
        assert_eq!(common::connections::line(&mut client), "x\n");
        client
    };
    let _clients = [served(&first), served(&second)];
    server.signal(Signal::SIGHUP);
    server.record("reading the configuration again");
    server.signal(Signal::SIGUSR1);
    server.record("state children=2 ");
    // Both records are the same words.
    for _ in 0..2 {
        let record = server.record("state service=127.0.0.1:0 ");
        assert!(record.contains("children=1 limit=1 "), "{record}");
        let at = server.seen.iter().position(|seen| *seen == record).unwrap();
        server.seen.remove(at);
    }
}

#[test]
fn words_that_are_no_text_are_a_usage_error_and_nothing_else() {
    use std::os::unix::ffi::OsStrExt;
    let folder = folder();
    let (status, text) = refused(on_loopback(folder.path()).arg("--mode").arg(std::ffi::OsStr::from_bytes(b"\xff")));
    assert_eq!(status, Some(64), "{text}");
    assert!(text.lines().count() == 1 && !text.contains("panicked"), "{text}");
}

#[test]
fn a_user_column_decides_who_the_program_runs_as() {
    let folder = folder();
    let root = nix::unistd::geteuid().is_root();
    let user = if root { "65534:65533" } else { "-" };
    let lines = format!("127.0.0.1:0 stream tcp nowait {user} /bin/sh sh -c id${{IFS}}-u;id${{IFS}}-g;id${{IFS}}-G\n");
    let said = Server::start(&mut with_services(folder.path(), &lines)).listen_to("127.0.0.1:0");
    if root {
        assert_eq!(said, "65534\n65533\n65533\n", "uid, gid, and no group of root's");
    } else {
        assert_eq!(said.lines().next(), Some(nix::unistd::geteuid().to_string().as_str()));
    }
}

#[test]
fn smtpsrvr_with_channels_gets_the_operands_of_its_manual_page() {
    let folder = folder();
    fs::write(folder.path().join("main.cf"), "myhostname = mx.example\n").unwrap();
    let program = folder.path().join("smtpsrvr");
    // cat complains about operands that are no files, and shows its own command line.
    std::os::unix::fs::symlink("/bin/cat", &program).unwrap();
    let arguments = |options: &[&str], words: &[&str]| {
        let mut command = on_loopback(folder.path());
        command.args(options).arg(&program).args(words);
        let said = Server::start(&mut command).listen_to("0");
        said.split_terminator('\0').map(str::to_owned).collect::<Vec<_>>()
    };
    let shown = "/proc/self/cmdline";
    assert_eq!(arguments(&[], &[shown]), ["smtpsrvr", "127.0.0.1", "mx.example", shown]);
    assert_eq!(arguments(&["-d", "-f"], &[shown]), ["rsmtpsrvr", "127.0.0.1", "mx.example", shown]);
    assert_eq!(arguments(&["-f"], &["-u", shown]), ["rsmtpsrvr", "-u", shown], "its own arguments stay as they are");
}

#[test]
fn wrong_command_lines_are_usage_errors() {
    let folder = folder();
    let cases: [&[&str]; 9] = [
        &[],
        &["-n", "0", "/bin/cat"],
        &["-n", "x", "/bin/cat"],
        &["--port", "nosuch", "/bin/cat"],
        &["--port", "65536", "/bin/cat"],
        &["--listen-address", "[::1", "/bin/cat"],
        &["--nosuch", "/bin/cat"],
        &["-f", "/bin/cat"],
        &["/nosuch/program"],
    ];
    for arguments in cases {
        let (status, text) = refused(smtpd(folder.path()).args(arguments));
        assert_eq!(status, Some(64), "{arguments:?}: {text}");
    }
    let service = "127.0.0.1:0 stream tcp nowait - /bin/cat\n";
    for beside in [&["/bin/cat"][..], &["-f"], &["-n", "3"], &["--port", "0"], &["--listen-address", "127.0.0.1"]] {
        let (status, text) = refused(with_services(folder.path(), service).args(beside));
        assert_eq!(status, Some(64), "a file and {beside:?}: {text}");
    }
}

/// Whoever starts smtpd again at 75 would do so for ever.
#[test]
fn what_will_never_be_is_no_temporary_trouble() {
    let folder = folder();
    let at = folder.path().display().to_string();
    for (options, said) in [
        (["--pid-file", "/nosuch/x"], "expected a file in a folder that is there"),
        (["--pid-file", &at], "expected a file in a folder that is there"),
        (["--listen-address", "fe80::1"], "as in fe80::1%eth0"),
        (["--listen-address", "[::1"], "expected an address"),
    ] {
        let (status, text) = refused(smtpd(folder.path()).args(["--port", "0"]).args(options).arg("/bin/cat"));
        assert!(status == Some(64) && text.contains(said), "{options:?}: {text}");
    }
    // What is said in the other family's words is listened on all the same.
    let mut command = smtpd(folder.path());
    command.args(["--port", "0", "--listen-address", "::ffff:127.0.0.1", "/bin/echo", "served"]);
    assert_eq!(Server::start(&mut command).listen_to("0"), "served\n");
}

/// And not as that of --user, to whom root is somebody else at each HUP from then on.
#[test]
fn root_in_a_services_file_is_root() {
    use std::os::unix::fs::PermissionsExt;
    if !common::needs::root() {
        return;
    }
    let folder = folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let line = |user: &str| format!("127.0.0.1:0 stream tcp nowait {user} /bin/sh sh -c id\n");
    for user in ["root", "nobody:daemon", "daemon"] {
        let (status, text) = refused(with_services(folder.path(), &line(user)).args(["--user", "nobody"]));
        assert!(status == Some(64) && text.contains("names other users"), "{user}: {text}");
    }
    let mut server = Server::start(with_services(folder.path(), &line("nobody")).args(["--user", "nobody"]));
    assert!(server.listen_to("127.0.0.1:0").contains("(nobody)"));
    server.signal(Signal::SIGHUP);
    server.record("reading the configuration again");
    server.signal(Signal::SIGUSR1);
    server.record("state ");
    assert!(!server.seen.iter().any(|record| record.contains("stays as it was")), "{:?}", server.seen);
}

#[test]
fn each_address_is_listened_on_at_each_port() {
    let folder = folder();
    let ports = [(); 2].map(|()| free_port().to_string());
    let mut command = smtpd(folder.path());
    command.args(["--port", &ports[0], "--listen-address", "127.0.0.1", "--port", &ports[1]]);
    let mut server = Server::start(command.args(["--listen-address", "127.0.0.2", "/bin/echo", "served"]));
    for host in ["127.0.0.1", "127.0.0.2"] {
        for port in &ports {
            let address = format!("{host}:{port}");
            server.record(&format!("listening on={address} "));
            assert_eq!(all(&mut TcpStream::connect(&address).unwrap()), "served\n", "{address}");
        }
    }
}

/// The last channel of a list is often a trusted one.
#[test]
fn a_list_of_channels_lets_no_stranger_send_mail_on() {
    let scratch = common::Scratch::new();
    scratch.write(
        "channels",
        "local 192.0.2.0/24 $myhostname mailbox: *\ncampus 198.51.100.0/24 - - *\nsmtp * * smtp: local\n",
    );
    for mode in ["exec", "pool"] {
        let mut command = scratch.command("smtpd");
        let mut server = Server::start(command.args(ON_LOOPBACK).args(["--mode", mode, "smtpsrvr", "local,campus"]));
        let mut client = server.connect("0");
        let mut ask = |command: &str| {
            client.write_all(command.as_bytes()).unwrap();
            line(&mut client)
        };
        assert!(ask("").starts_with("220 "));
        assert!(ask("MAIL FROM:<a@client.example>\r\n").starts_with("250 "));
        assert!(ask("RCPT TO:<x@far.example>\r\n").starts_with("550 5.7.1 "), "{mode}");
        assert!(ask("RCPT TO:<bob@mx.example>\r\n").starts_with("250 "), "{mode}");
    }
}

/// It would greet nobody: each client would be told to come later.
#[test]
fn a_channel_that_is_not_there_ends_smtpd_at_the_start_and_changes_nothing_at_hup() {
    let scratch = common::Scratch::new();
    let listening = |words: &[&str]| {
        let mut command = scratch.command("smtpd");
        command.args(ON_LOOPBACK).args(words);
        command
    };
    scratch.write("channels", "local - $myhostname mailbox: -\nsmtp * * smtp: *\n");
    let (_, text) = refused(&mut listening(&["smtpsrvr", "nosuch"]));
    assert!(text.contains("nosuch") && !text.contains("OPEN RELAY"), "smtpsrvr says that: {text}");
    scratch.write("channels", "local 127.0.0.0/8 $myhostname mailbox: *\nrest * - - local\n");
    for (words, name) in [
        (&["smtpsrvr", "nosuch"][..], "nosuch"),
        (&["-f", "smtpsrvr", "local, nosuch"], "nosuch"),
        (&["--mode", "pool", "smtpsrvr", "local,"], ""),
        (&["smtpsrvr", "-", "mx.example", "local,nosuch"], "nosuch"),
        (&["smtpsrvr", "--submission", "-omax_use=1", "-o", "x=y", "--", "-", "mx.example", "nosuch"], "nosuch"),
    ] {
        let (status, text) = refused(&mut listening(words));
        assert_eq!(status, Some(78), "{words:?}: {text}");
        assert!(
            text.contains("expected the name of a channel instead of ") && text.contains(name),
            "{words:?}: {text}"
        );
        assert!(text.contains("command line: expected"), "{words:?}: {text}");
    }
    // What another program makes of its words nobody knows.
    let program = script(scratch.path(), "smtpsrvr", "echo served");
    assert_eq!(Server::start(&mut listening(&[&program, "-", "x", "nosuch"])).listen_to("0"), "served\n");
    // It may have its own configuration.
    scratch.write("others", "friends 127.0.0.0/8 $myhostname mailbox: *\n");
    let others = format!("channels={}/others", scratch.path().display());
    let mut server = Server::start(&mut listening(&["smtpsrvr", "-o", &others, "-", "mx.example", "friends"]));
    assert!(line(&mut server.connect("0")).starts_with("220 "));
    let mut server = Server::start(&mut listening(&["smtpsrvr", "rest,local"]));
    assert!(line(&mut server.connect("0")).starts_with("220 "));
    scratch.write("channels", "local 127.0.0.0/8 $myhostname mailbox: *\n");
    server.signal(Signal::SIGHUP);
    server.record("everything stays as it was");
    assert!(line(&mut server.connect("0")).starts_with("421 "), "smtpsrvr reads it for each client");
}

#[test]
fn a_channel_that_is_not_there_is_named_with_its_line_of_the_services_file() {
    let scratch = common::Scratch::new();
    let program = common::binary("smtpsrvr").display().to_string();
    for kind in ["nowait", "wait"] {
        let line = |list: &str| {
            format!("127.0.0.1:0 stream tcp {kind} - {program} rsmtpsrvr --submission - mx.example {list}\n")
        };
        let lines = format!("# comment\n{}{}", line("smtp,local"), line("local,nosuch"));
        let (status, text) = refused(&mut with_services(scratch.path(), &lines));
        assert_eq!(status, Some(78), "{text}");
        let named = "/services:3: expected the name of a channel instead of nosuch";
        assert!(text.contains(named), "{text}");
    }
}

/// Each client would be told to come later, and with a blank in a list of channels it would be worse: that would be no list,
/// and all channels open.
#[test]
fn what_a_server_would_refuse_ends_smtpd_at_the_start() {
    let scratch = common::Scratch::new();
    for (words, status, said) in [
        (&["-f", "smtpsrvr", "local,", "smtp"][..], 64, "without a blank behind the comma"),
        (&["smtpsrvr", "local", ",smtp"], 64, "expected a host name"),
        (&["smtpsrvr", "local", ",", "smtp"], 64, "expected a host name"),
        (&["smtpsrvr", "--finicky", "local,smtp"], 64, "or - in front of localhost and channels"),
        (&["smtpsrvr", "--finicky", "smtp"], 64, "expected channels alone"),
        (&["-f", "smtpsrvr", "local", "smtp"], 64, "smtpsrvr: expected channels alone"),
        (&["smtpsrvr", "local", "smtp"], 64, "expected channels alone"),
        (&["--mode", "pool", "smtpsrvr", "local", "smtp"], 64, "expected channels alone"),
        (&["smtpsrvr", "local,", "smtp", "0", "4", "mx.example"], 64, "smtpsrvr: "),
        (&["smtpsrvr", "local", "0", "3", "mx.example", "extra"], 64, "smtpsrvr: "),
        (&["smtpsrvr", "--nosuch"], 64, "smtpsrvr: unexpected argument '--nosuch'"),
        (&["smtpsrvr", "--help"], 64, "smtpsrvr: expected options of a server"),
        (&["smtpsrvr", "--tls"], 78, "tls_cert_file"),
        (&["pop3d", "--nosuch"], 64, "pop3d: unexpected argument '--nosuch'"),
        (&["pop3d", "-d", "5"], 64, "pop3d: expected the number next to -d"),
        (&["pop3d", "--expire=soon"], 64, "pop3d: --expire soon"),
        (&["pop3d", "-d"], 64, "without -d and -p"),
        (&["pop3d", "--port=0"], 64, "without -d and -p"),
        (&["--mode", "pool", "pop3d", "--tls"], 78, "tls_cert_file"),
        (&["qmqpd", "-i", "soon"], 78, "max_idle"),
        (&["qmqpd", "-o", "qmqpd_timeout=xx"], 78, "qmqpd_timeout"),
        (&["qmqpd", "extra"], 64, "qmqpd: unexpected argument 'extra'"),
    ] {
        let (ended, text) = refused(scratch.command("smtpd").args(ON_LOOPBACK).args(words));
        assert_eq!(ended, Some(status), "{words:?}: {text}");
        assert!(text.contains(said), "{words:?}: {text}");
    }
    let programs = binary("smtpd");
    let folder = programs.parent().unwrap();
    for network in ["mx example", "mx\nexample"] {
        let operands = ["--listen-address", "127.0.0.1", "smtpsrvr", "local,smtp", "0", "4", network];
        let (ended, text) = refused(scratch.command("smtpd").args(operands));
        assert!(ended == Some(64) && text.contains("expected a host name"), "{network:?}: {text}");
    }
    for (line, said) in [
        ("smtpsrvr rsmtpsrvr local, smtp", "without a blank behind the comma"),
        ("smtpsrvr smtpsrvr local smtp", "smtpsrvr: expected channels alone"),
        (
            "smtpsrvr local,smtp",
            "expected argument 0, which is smtpsrvr or rsmtpsrvr or lmtpsrvr, in front of the others",
        ),
        ("smtpsrvr local", "local: expected argument 0"),
        ("pop3d -t 60", "-t: expected argument 0, which is pop3d, "),
        ("qmqpd smtpsrvr", "expected argument 0"),
        ("pop3d pop3d -d", "pop3d: expected a server for the client it is given"),
        ("pop3d pop3d --nosuch", "unexpected argument '--nosuch'"),
        ("qmqpd qmtpd -o qmqpd_timeout=xx", "qmqpd_timeout"),
    ] {
        let line = format!("127.0.0.1:0 stream tcp nowait - {}/{line}\n", folder.display());
        let (ended, text) = refused(&mut with_services(scratch.path(), &line));
        assert!(ended == Some(78) && text.contains("/services:1: ") && text.contains(said), "{line}: {text}");
    }
    // The client may come from elsewhere than from us, where its name is in place.
    for words in [&["smtpsrvr", "-", "mx.example"][..], &["smtpsrvr", "-"], &["pop3d", "-t", "60"], &["qmqpd", "-v"]] {
        let mut server = Server::start(scratch.command("smtpd").args(ON_LOOPBACK).args(words));
        server.connect("0");
    }
    // Argument 0 may have a path, and be the name by which the program is found.
    let link = scratch.path().join("in.smtpd");
    std::os::unix::fs::symlink(folder.join("smtpsrvr"), &link).unwrap();
    for line in [format!("{0}/smtpsrvr {0}/rsmtpsrvr", folder.display()), format!("{0} in.smtpd", link.display())] {
        let line = format!("127.0.0.1:0 stream tcp nowait - {line} - mx.example local\n");
        Server::start(&mut with_services(scratch.path(), &line)).connect("127.0.0.1:0");
    }
}

/// Each client would be told to come later, and a pool would end as soon as it began.
#[test]
fn a_configuration_that_no_server_could_read_ends_smtpd_at_the_start_and_is_told_at_hup() {
    use std::os::unix::process::CommandExt;
    let scratch = common::Scratch::new();
    scratch.write("channels", "# comment\nlocal 127.0.0.0/8 $myhostname\n");
    let starts = [
        ("smtpd", &["smtpsrvr"][..]),
        ("smtpd", &["--mode", "pool", "smtpsrvr"]),
        ("smtpd", &["qmqpd"]),
        ("qpsmtpd-forkserver", &[]),
        ("smtpd", &["pop3d"]),
    ];
    let command = |(name, words): (&str, &[&str])| {
        let mut command = scratch.command("smtpd");
        command.arg0(name).args(ON_LOOPBACK).args(words);
        command
    };
    for start in &starts[..4] {
        let (status, text) = refused(&mut command(*start));
        assert!(status == Some(78) && text.contains("/channels:2: expected five columns"), "{start:?}: {text}");
    }
    assert!(line(&mut Server::start(&mut command(starts[4])).connect("0")).starts_with("+OK"), "it has no channels");
    let program = script(scratch.path(), "smtpsrvr", "echo served");
    assert_eq!(Server::start(&mut command(("smtpd", &[&program]))).listen_to("0"), "served\n");
    // A mistake that comes later.
    scratch.write("channels", "local 127.0.0.0/8 $myhostname mailbox: *\n");
    let mut server = Server::start(&mut command(starts[0]));
    assert!(line(&mut server.connect("0")).starts_with("220 "));
    scratch.write("channels", "local\n");
    server.signal(Signal::SIGHUP);
    let told = server.record("everything stays as it was, but programs that are started for each client read");
    assert!(told.contains("/channels:1: expected five columns"), "{told}");
    assert!(line(&mut server.connect("0")).starts_with("421 "));
    scratch.write("channels", "local 127.0.0.0/8 $myhostname mailbox: *\n");
    let lines = fs::read_to_string(scratch.path().join("main.cf")).unwrap().lines().count();
    scratch.configure("mail_owner = nosuch");
    if common::needs::root() {
        for start in starts {
            let (status, text) = refused(&mut command(start));
            let named = format!("/main.cf:{}: mail_owner = nosuch: expected a user of this system", lines + 1);
            assert!(status == Some(78) && text.contains(&named), "{start:?}: {text}");
        }
    }
}

/// It would greet, and put each recipient off.
#[test]
fn a_user_column_without_the_queue_is_told_at_the_start() {
    if !common::needs::root() {
        return;
    }
    let scratch = common::Scratch::new();
    let line = |user: &str, words: &str| format!("127.0.0.1:0 stream tcp nowait {user} {words}\n");
    for mode in ["exec", "pool"] {
        let services = line("root", "smtpsrvr") + &line("daemon", "smtpsrvr smtpsrvr - mx.example");
        let (status, text) = refused(with_services(scratch.path(), &services).args(["--mode", mode]));
        assert_eq!(status, Some(77), "{text}");
        let named = "/services:2: user daemon may not use queue_directory ";
        assert!(text.contains(named) && text.contains(": expected nobody or root, or mail_owner = daemon"), "{text}");
    }
    // Neither pop3d nor a stranger has to do with the queue.
    let program = script(scratch.path(), "smtpsrvr", "echo served");
    for (user, words, greeting) in
        [("nobody", "smtpsrvr", "220 "), ("daemon", "pop3d", "+OK"), ("daemon", &program, "served")]
    {
        let mut server = Server::start(&mut with_services(scratch.path(), &line(user, words)));
        assert!(common::connections::line(&mut server.connect("127.0.0.1:0")).starts_with(greeting), "{user} {words}");
    }
}

#[test]
fn a_wrong_services_file_is_named_with_its_line() {
    let folder = folder();
    let (status, text) =
        refused(&mut with_services(folder.path(), "# comment\n127.0.0.1:0 dgram udp wait - /bin/cat\n"));
    assert_eq!(status, Some(78), "{text}");
    assert!(text.contains("/services:2: socket type dgram: expected stream"), "{text}");
}

#[test]
fn an_address_that_is_taken_is_temporary_trouble() {
    let folder = folder();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (status, text) =
        refused(smtpd(folder.path()).args(["--listen-address", "127.0.0.1", "--port", &port, "/bin/cat"]));
    assert_eq!(status, Some(75), "{text}");
}
