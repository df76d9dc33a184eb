//! smtpd's two modes: a program for each connection, or a server of ours that accepts by itself. What a client and an
//! administrator see is the same; what the second has besides is seen here too: spares, names, and a warm submit.

mod common;

use common::connections::*;
use common::processes::children;
use common::{Scratch, binary, free_address, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// smtpd in front of our smtpsrvr, on a free port of loopback.
fn command(scratch: &Scratch, options: &[&str]) -> Command {
    let mut command = scratch.command("smtpd");
    command.args(ON_LOOPBACK).args(options);
    command
}

fn pool(scratch: &Scratch, options: &[&str]) -> Server {
    Server::start(command(scratch, &["--mode", "pool"]).args(options).arg("smtpsrvr"))
}

fn greeted(server: &mut Server) -> TcpStream {
    let mut client = server.connect("0");
    let said = line(&mut client);
    assert!(said.starts_with("220 "), "{said:?}");
    client
}

fn ask(client: &mut TcpStream, command: &str) -> String {
    client.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    line(client)
}

fn quit(mut client: TcpStream) {
    client.write_all(b"QUIT\r\n").unwrap();
    assert!(all(&mut client).starts_with("221 "));
}

/// Hands in a message up to its end; gives what is said to that.
fn mail(client: &mut TcpStream) -> String {
    for (command, answer) in
        [("HELO client.example", "250"), ("MAIL FROM:<a@client.example>", "250"), ("RCPT TO:<bob@mx.example>", "250")]
    {
        let said = ask(client, command);
        assert!(said.starts_with(answer), "{command}: {said}");
    }
    assert!(ask(client, "DATA").starts_with("354 "));
    ask(client, "Subject: x\r\n\r\nx\r\n.")
}

fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn pid(server: &Server) -> i32 {
    server.process.id().try_into().unwrap()
}

/// The child of smtpd that is this program.
fn child_named(server: &Server, program: &str) -> Option<i32> {
    children(pid(server)).into_iter().find(|pid| name(*pid) == program)
}

#[test]
fn both_modes_have_the_same_limits_and_say_the_same() {
    let scratch = Scratch::new();
    let mut records = [Vec::new(), Vec::new()];
    // What stands behind the program's name and number.
    let refused = |server: &mut Server| {
        let record = server.record("refused client=127.0.0.1 ");
        record.split_once("refused ").expect("a record").1.to_owned()
    };
    for mode in ["exec", "pool"] {
        let options = ["--mode", mode, "-n", "2", "--when-full", "refuse", "smtpsrvr"];
        let mut server = Server::start(&mut command(&scratch, &options));
        let (first, second) = (greeted(&mut server), greeted(&mut server));
        assert_eq!(all(&mut server.connect("0")), "421 4.3.2 Too many connections, try again later\r\n", "{mode}");
        records[0].push(refused(&mut server));
        quit(first);
        until("a place", || line(&mut server.connect("0")).starts_with("220 "));
        quit(second);
        server.signal(Signal::SIGTERM);
        assert_eq!(server.end().code(), Some(0), "{mode}");
    }
    for mode in ["exec", "pool"] {
        let options = ["--mode", mode, "-n", "9", "--max-from-ip", "1", "smtpsrvr"];
        let mut server = Server::start(&mut command(&scratch, &options));
        let _first = greeted(&mut server);
        assert!(all(&mut server.connect("0")).starts_with("421 4.3.2 "), "{mode}");
        records[1].push(refused(&mut server));
    }
    let said = |cause: &str| vec![format!("client=127.0.0.1 service=0 reason=\"{cause}\""); 2];
    assert_eq!(records, [said("too many connections"), said("too many connections from this address")]);
}

#[test]
fn a_pool_without_spares_starts_when_somebody_comes_and_is_gone_after_max_idle() {
    let scratch = Scratch::new();
    // So long that it is still there when it is looked for.
    let mut server = pool(&scratch, &["-o", "max_idle=4"]);
    server.address("0");
    assert_eq!(child_named(&server, "smtpsrvr"), None, "nothing is needed yet");
    for _ in 0..2 {
        quit(greeted(&mut server));
        assert!(child_named(&server, "smtpsrvr").is_some());
        until("the pool to end", || children(pid(&server)).is_empty());
    }
}

#[test]
fn a_pool_grows_at_once_and_shrinks_to_its_spares() {
    let scratch = Scratch::new();
    let mut server = pool(&scratch, &["-n", "30", "--idle-children", "2", "-o", "max_use=0", "-o", "max_idle=1"]);
    server.address("0");
    record_of(&mut server, "submit", "ready service=submit ");
    let mut parent = None;
    until("the pool before anybody comes", || {
        parent = child_named(&server, "smtpsrvr");
        parent.is_some_and(|parent| children(parent).len() == 2)
    });
    let parent = parent.unwrap();
    let since = Instant::now();
    let mut clients: Vec<_> = (0..30).map(|_| server.connect("0")).collect();
    clients.iter_mut().for_each(|client| assert!(line(client).starts_with("220 ")));
    // One by one, a second each, would take longer.
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    let most = || children(parent).into_iter().filter(|pid| name(*pid) == "smtpsrvr").count();
    assert_eq!(most(), 30);
    clients.into_iter().for_each(quit);
    until("what is too much to go", || most() == 2);
    quit(greeted(&mut server));
}

#[test]
fn prefork_has_its_children_and_0_spares_is_no_preforking() {
    let scratch = Scratch::new();
    let start = |options: &[&str]| {
        let mut command = command(&scratch, options);
        Server::start(command.arg0("/usr/bin/qpsmtpd-prefork"))
    };
    let mut server = start(&["--children", "3", "--idle-children", "2"]);
    server.address("0");
    until("two spares", || child_named(&server, "smtpsrvr").is_some_and(|parent| children(parent).len() == 2));
    let clients: Vec<_> = (0..3).map(|_| greeted(&mut server)).collect();
    let parent = child_named(&server, "smtpsrvr").unwrap();
    assert_eq!(children(parent).len(), 3, "no more than --children");
    let mut waits = server.connect("0");
    waits.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(std::io::Read::read(&mut waits, &mut [0]).is_err(), "deferred");
    clients.into_iter().for_each(quit);
    let mut server = start(&["--idle-children", "0"]);
    quit(greeted(&mut server));
    let parent = child_named(&server, "smtpsrvr").unwrap();
    until("nobody to be left", || children(parent).is_empty());
    let mut server = start(&["--idle-children", "1", "--limit-connections", "1", "--when-full", "refuse"]);
    let _client = greeted(&mut server);
    assert!(
        all(&mut server.connect("0")).starts_with("421 "),
        "the limit of connections holds beside that of children"
    );
}

/// The 17th field behind the name, which is in parentheses (proc(5)).
fn niceness(pid: i32) -> i32 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    text.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse().unwrap()
}

#[test]
fn the_parent_yields_the_processor_and_its_children_do_not() {
    let scratch = Scratch::new();
    let own = niceness(std::process::id().try_into().unwrap());
    for (options, more) in [(&[][..], 5), (&["--renice-parent", "2"], 2), (&["--user", "nobody"], 5)] {
        let mut command = command(&scratch, options);
        let mut server = Server::start(command.arg0("qpsmtpd-prefork"));
        let client = greeted(&mut server);
        assert_eq!(niceness(pid(&server)), own + more, "{options:?}");
        // Only root can take from its niceness, or who was root.
        if geteuid().is_root() {
            let parent = child_named(&server, "smtpsrvr").unwrap();
            assert_eq!(niceness(parent), own, "{options:?}");
            assert!(children(parent).iter().all(|pid| niceness(*pid) == own), "{options:?}");
        }
        quit(client);
    }
}

#[test]
fn pretty_children_show_their_client() {
    let scratch = Scratch::new();
    for options in [&["--idle-children", "1", "--children", "1"][..], &["--idle-children", "0"]] {
        let mut command = command(&scratch, &["--pretty-child"]);
        let mut server = Server::start(command.args(options).arg0("qpsmtpd-prefork"));
        // Without spares nobody waits.
        let waiting = if options.contains(&"1") { vec!["child, idle"] } else { vec![] };
        let names = |parent| children(parent).into_iter().map(name).collect::<Vec<_>>();
        if !waiting.is_empty() {
            until("the name of one who waits for the first client", || {
                child_named(&server, "smtpsrvr").is_some_and(|parent| names(parent) == waiting)
            });
        }
        let client = greeted(&mut server);
        let parent = child_named(&server, "smtpsrvr").unwrap();
        assert!(children(parent).iter().any(|pid| name(*pid) == "127.0.0.1"), "{options:?}");
        quit(client);
        until("the name of one who waits, or its end", || names(parent) == waiting);
    }
}

/// Waits for a record of one program; submit says the same as the others.
fn record_of(server: &mut Server, program: &str, words: &str) {
    let is_it = |record: &String| record.contains(&format!("/{program}[")) && record.contains(words);
    while !server.seen.iter().any(is_it) {
        let record = server.records.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {words} of {program}"));
        server.seen.push(record);
    }
}

#[test]
fn hup_reads_again_and_keeps_sessions_and_their_count() {
    let scratch = Scratch::new();
    for options in [&["-o", "max_use=5", "--idle-children", "1"][..], &[]] {
        scratch.configure("myhostname = mx.example");
        let mut server = pool(&scratch, &[&["-n", "2", "--when-full", "refuse"], options].concat());
        let mut client = greeted(&mut server);
        scratch.configure("myhostname = other.example");
        server.signal(Signal::SIGHUP);
        record_of(&mut server, "smtpsrvr", "the configuration was read again");
        let mut second = server.connect("0");
        assert!(line(&mut second).starts_with("220 other.example "), "{options:?}");
        assert!(all(&mut server.connect("0")).starts_with("421 "), "the first one counts {options:?}");
        assert!(ask(&mut client, "NOOP").starts_with("250 "));
        scratch.configure("myhostname = not a name");
        server.signal(Signal::SIGHUP);
        record_of(&mut server, "smtpd", "everything stays as it was");
        scratch.configure("myhostname = other.example");
        quit(client);
        quit(second);
        until("the next one", || line(&mut server.connect("0")).starts_with("220 other.example "));
    }
}

/// By the defaults it would be another host, and refuse mail for everybody here for good.
#[test]
fn hup_while_a_file_is_gone_that_was_there_changes_nothing() {
    for options in [&["-o", "max_use=5", "--idle-children", "1"][..], &[]] {
        for name in ["main.cf", "channels"] {
            let scratch = Scratch::new();
            scratch.write("channels", "local 127.0.0.0/8 hosted.example mailbox: *\n");
            let mut server = pool(&scratch, options);
            if !options.is_empty() {
                record_of(&mut server, "submit", "ready service=submit ");
            }
            quit(greeted(&mut server));
            fs::rename(scratch.path().join(name), scratch.path().join("away")).unwrap();
            server.signal(Signal::SIGHUP);
            record_of(&mut server, "smtpd", &format!("/{name}: this file, which was there, is gone"));
            let own = child_named(&server, "smtpsrvr").expect("a pool");
            kill(Pid::from_raw(own), Signal::SIGHUP).unwrap();
            record_of(&mut server, "smtpsrvr", "is gone (start anew to do without it); everything stays as it was");
            let mut client = greeted(&mut server);
            assert!(ask(&mut client, "MAIL FROM:<a@client.example>").starts_with("250 "));
            // A submit that is started for the session cannot read what is gone, and does not make do without it; each
            // reads channels with the first client.
            let expected = if options.is_empty() || name == "channels" { "451 " } else { "250 " };
            let said = ask(&mut client, "RCPT TO:<bob@hosted.example>");
            assert!(said.starts_with(expected), "{name} {options:?}: {said}");
            drop(client);
            fs::rename(scratch.path().join("away"), scratch.path().join(name)).unwrap();
            server.signal(Signal::SIGHUP);
            record_of(&mut server, "smtpsrvr", "the configuration was read again");
        }
    }
}

#[test]
fn hup_with_another_command_for_the_pool_replaces_it_without_losing_anybody() {
    let scratch = Scratch::new();
    let file = scratch.path().join("services");
    let program = binary("smtpsrvr").display().to_string();
    let write =
        |number: u32| fs::write(&file, format!("127.0.0.1:0 stream tcp nowait/{number} - {program}\n")).unwrap();
    write(1);
    let mut command = scratch.command("smtpd");
    command.args(["--mode", "pool", "--when-full", "refuse", "--services"]).arg(&file);
    let mut server = Server::start(&mut command);
    let service = "127.0.0.1:0";
    let connect = |server: &mut Server| {
        let mut client = server.connect(service);
        (line(&mut client), client)
    };
    let (said, mut client) = connect(&mut server);
    assert!(said.starts_with("220 "));
    assert!(connect(&mut server).0.starts_with("421 "));
    let old = child_named(&server, "smtpsrvr").unwrap();
    write(3);
    server.signal(Signal::SIGHUP);
    until("the new one", || connect(&mut server).0.starts_with("220 "));
    assert_ne!(children(pid(&server)).iter().filter(|pid| name(**pid) == "smtpsrvr").count(), 0);
    assert!(ask(&mut client, "NOOP").starts_with("250 "), "a session of the old one");
    quit(client);
    until("the old one's end", || !children(pid(&server)).contains(&old));
}

fn socket(scratch: &Scratch) -> std::path::PathBuf {
    scratch.queue().join("submit")
}

#[test]
fn mail_goes_to_a_submit_that_is_there_already_and_that_ends_last() {
    let scratch = Scratch::new();
    let mut server = pool(&scratch, &["--idle-children", "1", "-o", "max_use=10"]);
    server.address("0");
    until("the warm ones", || child_named(&server, "submit").is_some_and(|submit| children(submit).len() == 2));
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let metadata = fs::metadata(socket(&scratch)).unwrap();
    let owner = fs::metadata(scratch.queue()).unwrap().uid();
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.uid()), (0o600, owner));
    let mut client = greeted(&mut server);
    assert!(mail(&mut client).starts_with("250 2.0.0 "));
    let parent = child_named(&server, "smtpsrvr").unwrap();
    assert!(children(parent).iter().all(|pid| children(*pid).is_empty()), "nobody started a submit of his own");
    server.signal(Signal::SIGTERM);
    server.record("stopping");
    assert!(mail(&mut client).starts_with("250 2.0.0 "), "submit is there as long as a session is");
    quit(client);
    assert_eq!(server.end().code(), Some(0));
    assert!(!socket(&scratch).exists());
    assert_eq!(scratch.queued().len(), 2);
}

/// Submits beside the pools that serve somebody, each with its end of the connection.
fn serving(server: &Server) -> Vec<(i32, String)> {
    let submits = child_named(server, "submit").map(children).unwrap_or_default();
    let end = |pid| fs::read_link(format!("/proc/{pid}/fd/0")).map(|end| (pid, end.display().to_string()));
    submits.into_iter().filter_map(|pid| end(pid).ok()).filter(|(_, end)| end.starts_with("socket:")).collect()
}

fn one_message(server: &mut Server) {
    let mut client = greeted(server);
    let said = mail(&mut client);
    assert!(said.starts_with("250 2.0.0 "), "{said}");
    quit(client);
}

#[test]
fn a_session_has_the_submit_of_the_one_before_and_another_where_that_is_gone() {
    let scratch = Scratch::new();
    let mut server = pool(&scratch, &["--idle-children", "1", "-n", "1", "-o", "max_use=10"]);
    one_message(&mut server);
    let first = serving(&server);
    assert_eq!(first.len(), 1, "kept behind the session");
    // Of a message that was not finished nothing is left.
    let mut client = greeted(&mut server);
    assert!(ask(&mut client, "MAIL FROM:<a@client.example>").starts_with("250 "));
    assert!(ask(&mut client, "RCPT TO:<bob@mx.example>").starts_with("250 "));
    drop(client);
    one_message(&mut server);
    assert_eq!(serving(&server), first);
    assert_eq!(scratch.queued().len(), 2);
    kill(Pid::from_raw(first[0].0), Signal::SIGKILL).unwrap();
    until("its end", || serving(&server).is_empty());
    one_message(&mut server);
    let second = serving(&server);
    assert_eq!(second.len(), 1);
    // Another configuration is another submit's.
    server.signal(Signal::SIGHUP);
    until("the end of those of before", || !serving(&server).contains(&second[0]));
    one_message(&mut server);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0), "nobody waits for a connection that is kept");
}

#[test]
fn a_submit_is_not_kept_for_clients_that_do_not_come() {
    let scratch = Scratch::with("max_idle = 1s");
    let mut server = pool(&scratch, &["--idle-children", "1", "-n", "1", "-o", "max_use=10"]);
    one_message(&mut server);
    let child = child_named(&server, "smtpsrvr").map(children);
    until("nobody to be kept", || serving(&server).is_empty());
    assert_eq!(child_named(&server, "smtpsrvr").map(children), child, "who kept it is still there");
}

#[test]
fn beside_one_that_stops_the_next_smtpd_has_a_submit_that_stays() {
    let scratch = Scratch::new();
    let options = ["--idle-children", "1", "-o", "max_use=10"];
    let mut old = pool(&scratch, &options);
    let (mut told, mut silent) = (greeted(&mut old), greeted(&mut old));
    assert!(mail(&mut told).starts_with("250 2.0.0 "));
    old.signal(Signal::SIGTERM);
    old.record("stopping");
    until("the place of the socket", || !socket(&scratch).exists());
    let mut new = pool(&scratch, &options);
    until("the warm ones", || child_named(&new, "submit").is_some_and(|submit| children(submit).len() == 2));
    // Who has a way to submit keeps it, who has none yet finds the new one.
    for client in [&mut told, &mut silent] {
        assert!(mail(client).starts_with("250 2.0.0 "));
    }
    quit(told);
    quit(silent);
    assert_eq!(old.end().code(), Some(0));
    assert!(socket(&scratch).exists());
    let mut client = greeted(&mut new);
    assert!(mail(&mut client).starts_with("250 2.0.0 "));
    quit(client);
    let parent = child_named(&new, "smtpsrvr").unwrap();
    assert!(children(parent).iter().all(|pid| children(*pid).is_empty()), "nobody started a submit of his own");
}

#[test]
fn a_lost_submit_costs_a_transaction_at_the_most_and_a_lost_socket_nothing() {
    let scratch = Scratch::new();
    let mut server = pool(&scratch, &["--idle-children", "1", "-o", "max_use=10"]);
    let mut client = greeted(&mut server);
    assert!(mail(&mut client).starts_with("250 2.0.0 "));
    let submit = child_named(&server, "submit").unwrap();
    for pid in children(submit).into_iter().chain([submit]) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    // The session hears of it when it asks; the next transaction has another submit.
    assert!(ask(&mut client, "RSET").starts_with("250 "));
    assert!(ask(&mut client, "MAIL FROM:<a@client.example>").starts_with("250 "));
    let said = ask(&mut client, "RCPT TO:<bob@mx.example>");
    assert!(said.starts_with("451 "), "{said}");
    let is_taken = |client: &mut TcpStream| {
        let _ = ask(client, "RSET");
        let _ = ask(client, "MAIL FROM:<a@client.example>");
        ask(client, "RCPT TO:<bob@mx.example>").starts_with("250 ")
    };
    // It had only just begun, so smtpd lets it rest, and hangs up on who asks: too often, and a session is over.
    until("mail to be taken again", || {
        let mut other = greeted(&mut server);
        let taken = is_taken(&mut other);
        quit(other);
        taken
    });
    assert!(is_taken(&mut client));
    quit(client);
    server.signal(Signal::SIGKILL);
    server.end();
    assert!(socket(&scratch).exists(), "left behind");
    // Without smtpd the socket leads nowhere, and the next smtpd takes its place.
    let mut server = Server::start(&mut command(&scratch, &["--mode", "exec", "smtpsrvr"]));
    let mut client = greeted(&mut server);
    assert!(mail(&mut client).starts_with("250 2.0.0 "));
    quit(client);
    let mut server = pool(&scratch, &["--idle-children", "1"]);
    let mut client = greeted(&mut server);
    assert!(mail(&mut client).starts_with("250 2.0.0 "));
    quit(client);
    assert_eq!(scratch.queued().len(), 3);
    assert!(server.seen.iter().all(|record| !record.contains("no socket")), "{:?}", server.seen);
}

/// A session of another smtpd holds the last submit behind a socket whose own smtpd has gone.
#[test]
fn a_busy_submit_of_an_smtpd_that_is_gone_keeps_nobody_waiting() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let scratch = Scratch::with("ipc_timeout = 60s\n");
        let options = ["--idle-children", "1", "-o", "max_use=10"];
        let mut gone = pool(&scratch, &options);
        gone.address("0");
        until("the socket", || socket(&scratch).exists());
        let mut server = pool(&scratch, &options);
        server.record("of our own: Address already in use");
        let mut busy = greeted(&mut server);
        assert!(mail(&mut busy).starts_with("250 2.0.0 "));
        let submit = child_named(&gone, "submit").unwrap();
        let workers = children(submit);
        gone.signal(signal);
        // The one that our session has stays.
        until("the idle ones' end", || {
            let is_there = |pid: &&i32| !name(**pid).is_empty();
            workers.iter().filter(is_there).count() == 1
        });
        let since = Instant::now();
        let mut client = greeted(&mut server);
        assert!(mail(&mut client).starts_with("250 2.0.0 "));
        assert!(since.elapsed() < Duration::from_secs(30), "{signal}");
        quit(client);
        let mut next = pool(&scratch, &options);
        let mut client = greeted(&mut next);
        assert!(mail(&mut client).starts_with("250 2.0.0 "));
        quit(client);
        assert!(next.seen.iter().all(|record| !record.contains("of our own")), "{:?}", next.seen);
        // Whose socket it is not leaves it alone at its end.
        quit(busy);
        gone.end();
        assert!(socket(&scratch).exists());
    }
}

#[test]
fn hup_without_a_pools_service_closes_its_port_and_not_its_sessions() {
    let scratch = Scratch::new();
    let file = scratch.path().join("services");
    let program = binary("smtpsrvr").display().to_string();
    let free = free_address().to_string();
    let line_of = |address: &str| format!("{address} stream tcp nowait - {program}\n");
    let both = [line_of("127.0.0.1:0"), line_of(&free)].concat();
    fs::write(&file, &both).unwrap();
    let mut command = scratch.command("smtpd");
    command.args(["--mode", "pool", "--idle-children", "1", "-o", "max_use=10", "--services"]).arg(&file);
    let mut server = Server::start(&mut command);
    let mut client = server.connect(&free);
    assert!(line(&mut client).starts_with("220 "));
    fs::write(&file, line_of("127.0.0.1:0")).unwrap();
    server.signal(Signal::SIGHUP);
    until("the port to be closed", || TcpStream::connect(&free).is_err());
    assert!(ask(&mut client, "NOOP").starts_with("250 "));
    assert!(line(&mut server.connect("127.0.0.1:0")).starts_with("220 "));
    fs::write(&file, both).unwrap();
    server.signal(Signal::SIGHUP);
    until("it to be served again", || {
        TcpStream::connect(&free).is_ok_and(|mut client| line(&mut client).starts_with("220 "))
    });
    quit(client);
}

#[test]
fn a_stranger_may_not_hand_mail_to_the_socket() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::new();
    let mut server = pool(&scratch, &["--idle-children", "1"]);
    until("the socket", || socket(&scratch).exists());
    // Somebody who could reach it all the same, and may not by who he is.
    fs::set_permissions(scratch.queue(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    fs::set_permissions(socket(&scratch), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let folder = folder();
    let own = folder.path().join("connect");
    fs::write(
        &own,
        "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\ns.sendall(b'1:x,')\n\
         s.shutdown(1)\nprint(len(s.recv(9)))\n",
    )
    .unwrap();
    let mut python = Command::new("python3");
    let output = python.arg(&own).arg(socket(&scratch)).uid(12345).gid(12345).output();
    match output {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{output:?}"),
        Err(_) => return,
    }
    server.record("uid 12345 may not speak to submit");
}

#[test]
fn pools_end_with_an_smtpd_that_was_killed() {
    let scratch = Scratch::new();
    let mut server = pool(&scratch, &["--idle-children", "2", "-o", "max_use=10"]);
    let mut client = greeted(&mut server);
    let all_of_them: Vec<i32> =
        children(pid(&server)).into_iter().flat_map(|pool| [children(pool), vec![pool]].concat()).collect();
    let address = server.address("0");
    server.signal(Signal::SIGKILL);
    server.end();
    until("the port to be free", || std::net::TcpListener::bind(address).is_ok());
    assert!(ask(&mut client, "NOOP").starts_with("250 "), "who is served is served to the end");
    quit(client);
    until("their end", || all_of_them.iter().all(|pid| !Path::new(&format!("/proc/{pid}/fd/0")).exists()));
}

/// It would be counted by nobody, and the pool that is started next would let in one too many for it.
#[test]
fn no_session_outlives_a_pool_that_was_killed_and_the_next_one_keeps_the_same_limits() {
    let scratch = Scratch::new();
    let smtp = |_: &str| ["HELO client.example".to_owned(), "MAIL FROM:<a@client.example>".to_owned()];
    let pop3 = |user: &str| [format!("USER {user}"), "PASS secret".to_owned()];
    for (program, well, begin) in [("smtpsrvr", "2", smtp as fn(&str) -> [String; 2]), ("pop3d", "+OK ", pop3)] {
        // A process for each client, which of pop3d becomes the user where root has started it, and processes that stay.
        for stay in [&[][..], &["--idle-children", "1", "-o", "max_use=9"]] {
            let limits = ["--mode", "pool", "-n", "3", "--max-from-ip", "2", "--when-full", "refuse"];
            let mut server = Server::start(command(&scratch, &limits).args(stay).arg(program));
            let SocketAddr::V4(address) = server.address("0") else { panic!("IPv6") };
            let connect = |host| from_address(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, host), 0), address);
            let is_served = |client: &mut TcpStream| line(client).starts_with(well);
            let fill = || {
                let mut first = connect(1);
                // One that has ended too soon rests.
                until("the pool", || {
                    let is_there = is_served(&mut first);
                    if !is_there {
                        first = connect(1);
                    }
                    is_there
                });
                let mut second = connect(1);
                assert!(is_served(&mut second), "{program} {stay:?}: the second of an address");
                assert!(!is_served(&mut connect(1)), "{program} {stay:?}: the third of an address");
                let mut third = connect(2);
                assert!(is_served(&mut third), "{program} {stay:?}: the last place");
                assert!(!is_served(&mut connect(3)), "{program} {stay:?}: one more than there are places");
                [first, second, third]
            };
            let mut held = fill();
            // The last one has said nothing yet.
            for (client, user) in held.iter_mut().zip(["alice", "bob"]) {
                begin(user).iter().for_each(|command| assert!(ask(client, command).starts_with(well), "{command}"));
            }
            kill(Pid::from_raw(child_named(&server, program).unwrap()), Signal::SIGKILL).unwrap();
            held.iter_mut().for_each(|client| assert_eq!(all(client), "", "{program} {stay:?}: served to the end"));
            fill();
        }
    }
}

#[test]
fn a_pool_that_does_not_start_is_told_to_everybody_and_tried_again() {
    let scratch = Scratch::new();
    // Not looked at by smtpd itself.
    let [certificate, key] = ["crt", "key"].map(|end| scratch.path().join(end));
    scratch.configure(&format!("tls_cert_file = {}\ntls_key_file = {}", certificate.display(), key.display()));
    let put =
        |end: &str, path| fs::copy(format!("{}/tests/tls/mx.{end}.pem", env!("CARGO_MANIFEST_DIR")), path).unwrap();
    for options in [&["--idle-children", "1"][..], &[]] {
        let mut server = pool(&scratch, options);
        for _ in 0..3 {
            let said = all(&mut server.connect("0"));
            assert!(said.starts_with("421 "), "{said:?}");
        }
        server.record("expected a PEM file that can be read");
        server.record("ended as soon as it began");
        put("crt", &certificate);
        put("key", &key);
        until("it to be mended", || line(&mut server.connect("0")).starts_with("220 "));
        fs::remove_file(&certificate).unwrap();
        server.signal(Signal::SIGTERM);
        assert_eq!(server.end().code(), Some(0));
    }
}

#[test]
fn a_submit_that_does_not_start_is_told_to_clients_and_not_waited_for() {
    let scratch = Scratch::new();
    let programs = scratch.path().join("programs");
    fs::create_dir(&programs).unwrap();
    std::os::unix::fs::symlink(binary("smtpsrvr"), programs.join("smtpsrvr")).unwrap();
    std::os::unix::fs::symlink("/bin/false", programs.join("submit")).unwrap();
    scratch.configure(&format!("daemon_directory = {}\nipc_timeout = 60s", programs.display()));
    let mut server = pool(&scratch, &["--idle-children", "1"]);
    server.record("cannot serve service=submit");
    let mut client = greeted(&mut server);
    let since = Instant::now();
    assert!(ask(&mut client, "HELO client.example").starts_with("250 "));
    assert!(ask(&mut client, "MAIL FROM:<a@client.example>").starts_with("250 "));
    let said = ask(&mut client, "RCPT TO:<bob@mx.example>");
    assert!(said.starts_with("451 ") && since.elapsed() < Duration::from_secs(20), "{said}");
}

#[test]
fn hup_without_pools_leaves_no_socket_of_submit_behind_and_with_them_there_is_one_again() {
    let scratch = Scratch::new();
    let file = scratch.path().join("services");
    let program = binary("smtpsrvr").display().to_string();
    let write = |waits: &str| fs::write(&file, format!("127.0.0.1:0 stream tcp {waits} - {program}\n")).unwrap();
    write("nowait");
    let mut command = scratch.command("smtpd");
    command.args(["--mode", "pool", "--idle-children", "1", "--services"]).arg(&file);
    let mut server = Server::start(&mut command);
    server.address("127.0.0.1:0");
    until("the socket", || socket(&scratch).exists());
    let takes_mail = |server: &mut Server| {
        let mut client = server.connect("127.0.0.1:0");
        assert!(line(&mut client).starts_with("220 "));
        let said = mail(&mut client);
        assert!(said.starts_with("250 2.0.0 "), "{said}");
        quit(client);
    };
    takes_mail(&mut server);
    write("wait");
    server.signal(Signal::SIGHUP);
    until("its end", || !socket(&scratch).exists());
    takes_mail(&mut server);
    write("nowait");
    server.signal(Signal::SIGHUP);
    until("the socket", || socket(&scratch).exists());
    takes_mail(&mut server);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
    assert!(!socket(&scratch).exists());
}

/// The user a process is, by its real uid.
fn user(pid: i32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

#[test]
fn hup_with_another_mail_owner_and_nothing_else_gives_pools_and_socket_to_that_one() {
    use std::os::unix::fs::MetadataExt;
    if !common::needs::root() {
        return;
    }
    let daemon = nix::unistd::User::from_name("daemon").unwrap().unwrap();
    let (uid, gid) = (daemon.uid.as_raw(), daemon.gid.as_raw());
    let scratch = Scratch::new();
    let mut server = pool(&scratch, &["--idle-children", "1"]);
    quit(greeted(&mut server));
    until("the socket", || socket(&scratch).exists());
    let owners = format!("{uid}:{gid}");
    assert!(Command::new("chown").arg("-R").arg(owners).arg(scratch.queue()).status().unwrap().success());
    scratch.configure("mail_owner = daemon");
    server.signal(Signal::SIGHUP);
    let is_of_daemon = |program: &str| child_named(&server, program).and_then(user) == Some(uid);
    until("the new pools", || is_of_daemon("smtpsrvr") && is_of_daemon("submit"));
    // A child of the old one may still take a client, and finds a queue that is not its any more.
    until("the end of the old ones", || children(pid(&server)).into_iter().all(|pid| user(pid) == Some(uid)));
    let found = fs::symlink_metadata(socket(&scratch)).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (uid, 0o600));
    // Whoever came in the moment of the change may have been told to come later.
    until("mail to be taken", || {
        let mut client = greeted(&mut server);
        let commands = ["HELO client.example", "MAIL FROM:<a@client.example>", "RCPT TO:<bob@mx.example>"];
        let is_taken = commands.iter().all(|command| ask(&mut client, command).starts_with("250 "));
        quit(client);
        is_taken
    });
    std::os::unix::net::UnixStream::connect(socket(&scratch)).unwrap();
    let files: Vec<_> = fs::read_dir(scratch.queue()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(files.iter().all(|name| !name.to_string_lossy().contains("new")), "{files:?}");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
    assert!(!socket(&scratch).exists());
}

#[test]
fn several_sockets_are_one_pool_with_one_limit() {
    let scratch = Scratch::new();
    let mut command = scratch.command("smtpd");
    command.args(["--mode", "pool", "-n", "2", "--when-full", "refuse", "--port", "0"]);
    command.args(["--listen-address", "127.0.0.1", "--listen-address", "127.0.0.2", "smtpsrvr"]);
    let mut server = Server::start(&mut command);
    let address = |server: &mut Server, host: &str| {
        let record = server.record(&format!("listening on={host}:"));
        record.split("on=").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    };
    let (one, two) = (address(&mut server, "127.0.0.1"), address(&mut server, "127.0.0.2"));
    let mut clients = [TcpStream::connect(&one).unwrap(), TcpStream::connect(&two).unwrap()];
    clients.iter_mut().for_each(|client| assert!(line(client).starts_with("220 ")));
    for address in [one, two] {
        assert!(all(&mut TcpStream::connect(address).unwrap()).starts_with("421 "));
    }
}

#[test]
fn what_cannot_be_a_pool_is_refused_or_started_for_each_connection() {
    let scratch = Scratch::new();
    let (status, text) = refused(&mut command(&scratch, &["--mode", "pool", "/bin/cat"]));
    assert_eq!(status, Some(64));
    assert!(text.contains("expected smtpsrvr, qmqpd or pop3d instead of /bin/cat"), "{text}");
    for wrong in
        [&["--mode", "thread"][..], &["--children", "0"], &["--idle-children", "-1"], &["--renice-parent", "-40"]]
    {
        let (status, text) = refused(command(&scratch, wrong).arg("smtpsrvr"));
        assert_eq!(status, Some(64), "{wrong:?}: {text}");
    }
    for name in ["smtpd", "qpsmtpd-prefork"] {
        for idle in [&["--idle-children", "2"][..], &["--pretty-child"]] {
            let mut command = command(&scratch, idle);
            let (status, text) = refused(command.args(["--mode", "exec", "smtpsrvr"]).arg0(name));
            assert_eq!(status, Some(64), "{name} {idle:?}: {text}");
            assert!(text.contains(&format!("{}: expected --mode pool and smtpsrvr, ", idle[0])), "{text}");
        }
    }
    let (status, text) = refused(command(&scratch, &["--idle-children", "2"]).arg("smtpsrvr"));
    assert_eq!(status, Some(64), "{text}");
    let services = scratch.path().join("services");
    let smtpsrvr = binary("smtpsrvr");
    let lines = format!(
        "127.0.0.1:0 stream tcp nowait - /bin/echo echo hello\n127.0.0.1:00 stream tcp nowait - {}\n",
        smtpsrvr.display()
    );
    fs::write(&services, lines).unwrap();
    let start = |more: &[&str]| {
        let mut command = scratch.command("smtpd");
        command.args(["--mode", "pool", "--services"]).arg(&services).args(more);
        command
    };
    let mut server = Server::start(&mut start(&[]));
    assert!(line(&mut server.connect("127.0.0.1:00")).starts_with("220 "));
    server.seen.retain(|record| !record.contains("127.0.0.1:00"));
    assert_eq!(server.listen_to("127.0.0.1:0"), "hello\n");
    let (status, text) = refused(&mut start(&["--limit-connections", "3"]));
    assert_eq!(status, Some(64), "{text}");
}
