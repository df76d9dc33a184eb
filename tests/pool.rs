//! The pool of our servers on a listening socket: children that accept by themselves, counted, reused, replaced.

mod common;

use common::connections::*;
use common::processes::children;
use common::{NOBODY, Scratch, binary, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

struct Pool {
    server: Server,
    address: std::net::SocketAddr,
    scratch: Scratch,
}

impl Pool {
    /// smtpsrvr on a listening socket, as inetd's `wait` starts it.
    fn start(main_cf: &str) -> Pool {
        Pool::start_program("smtpsrvr", main_cf)
    }

    fn start_program(name: &str, main_cf: &str) -> Pool {
        let scratch = Scratch::with(main_cf);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut command = Command::new(binary(name));
        command.env("MAIL_CONFIG", scratch.path()).stdin(OwnedFd::from(listener));
        Pool { server: Server::start_as_it_is(&mut command), address, scratch }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    fn greeted(&self) -> TcpStream {
        let mut client = self.connect();
        let said = line(&mut client);
        assert!(said.starts_with("220 "), "{said:?}");
        client
    }

    /// Processes that are children of the pool itself; submit's are children of those.
    fn children(&self) -> Vec<i32> {
        children(self.server.process.id().try_into().unwrap())
    }
}

fn quit(mut client: TcpStream) {
    client.write_all(b"QUIT\r\n").unwrap();
    assert!(all(&mut client).starts_with("221 "));
}

#[test]
fn so_many_children_wait_before_anybody_comes() {
    let pool = Pool::start("idle_children = 3\nchildren = 5");
    until("three to wait", || pool.children().len() == 3);
    let clients: Vec<_> = (0..2).map(|_| pool.greeted()).collect();
    until("three to wait again", || pool.children().len() == 5);
    clients.into_iter().for_each(quit);
}

#[test]
fn a_child_serves_so_many_connections_and_no_more() {
    let mut pool = Pool::start("idle_children = 1\nchildren = 1\nmax_use = 3");
    let mut seen = Vec::new();
    for _ in 0..6 {
        let client = pool.greeted();
        seen.extend(pool.children());
        quit(client);
    }
    assert_eq!(seen.len(), 6);
    assert!(seen[0] == seen[1] && seen[1] == seen[2], "{seen:?}");
    assert!(seen[3] != seen[2] && seen[3] == seen[4] && seen[4] == seen[5], "{seen:?}");
    pool.server.signal(Signal::SIGTERM);
    assert_eq!(pool.server.end().code(), Some(0));
}

#[test]
fn who_is_told_to_end_does_not_read_the_configuration_again() {
    let mut pool = Pool::start_program("pop3d", "idle_children = 0\nmax_use = 1");
    let mut client = pool.connect();
    assert!(line(&mut client).starts_with("+OK "));
    // It would become a pool, which knows nothing of the end.
    let main_cf = pool.scratch.path().join("main.cf");
    let lines = fs::read_to_string(&main_cf).unwrap().replace("idle_children = 0", "idle_children = 1");
    fs::write(&main_cf, lines).unwrap();
    pool.server.signal(Signal::SIGTERM);
    pool.server.record("stopping children=1");
    client.write_all(b"QUIT\r\n").unwrap();
    assert!(all(&mut client).starts_with("+OK "));
    assert_eq!(pool.server.end().code(), Some(0));
    while let Ok(record) = pool.server.records.recv_timeout(PATIENCE) {
        pool.server.seen.push(record);
    }
    let read = pool.server.seen.iter().find(|record| record.contains("signal HUP"));
    assert_eq!(read, None);
}

#[test]
fn a_burst_is_met_at_once_up_to_the_bound_and_the_rest_waits() {
    let pool = Pool::start("idle_children = 0\nmax_use = 100\nchildren = 8");
    let mut clients: Vec<_> = (0..8).map(|_| pool.connect()).collect();
    clients.iter_mut().for_each(|client| assert!(line(client).starts_with("220 ")));
    assert_eq!(pool.children().len(), 8);
    let mut waits = pool.connect();
    quit(clients.pop().unwrap());
    assert!(line(&mut waits).starts_with("220 "));
    assert_eq!(pool.children().len(), 8, "one of them serves twice");
}

#[test]
fn limits_hold_in_the_pool_and_who_was_killed_has_no_place() {
    let mut pool = Pool::start(
        "idle_children = 2\nmax_use = 0\nchildren = 4\nsmtpd_client_connection_count_limit = 2\nwhen_full = refuse",
    );
    let clients = [pool.greeted(), pool.greeted()];
    for _ in 0..5 {
        let mut third = pool.connect();
        assert!(line(&mut third).starts_with("421 4.3.2 "));
    }
    pool.server.signal(Signal::SIGUSR1);
    pool.server.record(" busy=2 limit=4 refused=5");
    for pid in pool.children() {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    drop(clients);
    let mut client = pool.connect();
    until("a place", || {
        let is_served = line(&mut client).starts_with("220 ");
        if !is_served {
            client = pool.connect();
        }
        is_served
    });
    quit(client);
}

/// Clients wait for it, and it does not ask for them again and again meanwhile.
#[test]
fn a_child_that_cannot_accept_says_so_once_a_second_and_serves_when_it_can() {
    let mut pool = Pool::start("idle_children = 1\nchildren = 1\nmax_use = 0");
    quit(pool.greeted());
    let child = pool.children();
    let may_open = |descriptors: u32| {
        let mut command = Command::new("prlimit");
        command.args([format!("--nofile={descriptors}:"), format!("--pid={}", child[0])]);
        if nix::unistd::geteuid().is_root() {
            // Whose process it is: root may lack the capability for those of others.
            command.uid(NOBODY).gid(NOBODY);
        }
        assert!(command.status().expect("prlimit(1)").success());
    };
    let begun = Instant::now();
    // Those that every process has: what it waits on with poll(2) may be no more than it may open.
    may_open(3);
    let mut client = pool.connect();
    for _ in 0..2 {
        let record = pool.server.record("cannot accept reason=");
        assert!(record.contains("Too many open files"), "{record}");
        pool.server.seen.clear();
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "twice in {:?}", begun.elapsed());
    may_open(500);
    assert!(line(&mut client).starts_with("220 "));
    quit(client);
    assert_eq!(pool.children(), child);
}

#[test]
fn when_all_are_busy_the_parent_tells_clients() {
    let mut pool = Pool::start("idle_children = 1\nmax_use = 10\nchildren = 2\nwhen_full = refuse");
    let clients = [pool.greeted(), pool.greeted()];
    for _ in 0..3 {
        assert_eq!(all(&mut pool.connect()), "421 4.3.2 Too many connections, try again later\r\n");
    }
    pool.server.signal(Signal::SIGUSR1);
    pool.server.record("state service=session children=2 idle=0 busy=2 limit=2 refused=3");
    clients.into_iter().for_each(quit);
    until("a place", || {
        let mut client = pool.connect();
        line(&mut client).starts_with("220 ")
    });
}

#[test]
fn more_is_logged_of_a_listed_client_and_not_of_the_one_after_it() {
    use std::net::SocketAddrV4;
    let mut pool =
        Pool::start_program("qmqpd", "idle_children = 1\nchildren = 1\nmax_use = 0\ndebug_peer_list = 127.0.0.2");
    let to = pool.address.to_string().parse::<SocketAddrV4>().unwrap();
    let serve = |from: &str| {
        let mut client = from_address(format!("{from}:0").parse().unwrap(), to);
        client.write_all(b"x").unwrap();
        all(&mut client);
    };
    serve("127.0.0.2");
    let child = pool.children();
    serve("127.0.0.1");
    serve("127.0.0.2");
    assert_eq!(pool.children(), child);
    pool.server.signal(Signal::SIGTERM);
    pool.server.process.wait().unwrap();
    let records: Vec<String> = pool.server.records.iter().collect();
    let count = |client: &str| {
        let text = format!("client={client} event=connect");
        records.iter().filter(|record| record.contains(&text)).count()
    };
    assert_eq!((count("127.0.0.2"), count("127.0.0.1")), (2, 0), "{records:?}");
}

#[test]
fn term_lets_sessions_finish_and_the_idle_go() {
    let mut pool = Pool::start("idle_children = 2\nmax_use = 10\nchildren = 4");
    let client = pool.greeted();
    pool.server.signal(Signal::SIGTERM);
    pool.server.record("stopping");
    until("the idle to go", || pool.children().len() == 1);
    assert!(TcpStream::connect(pool.address).is_ok(), "what is open is the busy child's and ends with it");
    quit(client);
    assert_eq!(pool.server.end().code(), Some(0));
}

#[test]
fn a_loop_that_forks_for_each_becomes_a_pool_at_hup_and_back_and_everybody_counts() {
    let limit = "smtpd_client_connection_count_limit = 2\nwhen_full = refuse\nchildren = 4";
    let mut pool = Pool::start(limit);
    let held = pool.greeted();
    let other = pool.greeted();
    assert!(line(&mut pool.connect()).starts_with("421 4.3.2 "));
    quit(other);
    until("one to be left", || pool.children().len() == 1);
    let of_before = pool.children();
    let read_again = |pool: &mut Pool, main_cf: &str| {
        pool.scratch.configure(main_cf);
        pool.server.seen.clear();
        pool.server.signal(Signal::SIGHUP);
        pool.server.record("the configuration was read again");
    };
    read_again(&mut pool, &format!("{limit}\nidle_children = 2\nmax_use = 3"));
    until("two to wait", || pool.children().len() == 3);
    assert!(of_before.iter().all(|pid| pool.children().contains(pid)), "a session ended");
    let second = pool.greeted();
    assert!(line(&mut pool.connect()).starts_with("421 4.3.2 "), "the one of before counts");
    pool.server.signal(Signal::SIGUSR1);
    pool.server.record(" refused=2");
    quit(held);
    until("its place", || line(&mut pool.connect()).starts_with("220 "));
    read_again(&mut pool, "idle_children = 0\nmax_use = 1");
    quit(second);
    until("nobody to wait", || pool.children().is_empty());
    let third = pool.greeted();
    pool.server.signal(Signal::SIGTERM);
    quit(third);
    assert_eq!(pool.server.end().code(), Some(0));
}

#[test]
fn no_child_outlives_a_parent_that_was_killed() {
    let mut pool = Pool::start("idle_children = 3\nmax_use = 10\nchildren = 4");
    let mut client = pool.greeted();
    until("three to wait beside the one who serves", || pool.children().len() == 4);
    let children = pool.children();
    pool.server.signal(Signal::SIGKILL);
    pool.server.end();
    until("their end", || children.iter().all(|pid| kill(Pid::from_raw(*pid), None).is_err()));
    assert_eq!(all(&mut client), "");
}

#[test]
fn hundreds_of_connections_at_once_all_are_served_and_the_count_stays_exact() {
    let pool = Pool::start("idle_children = 1\nmax_use = 7\nchildren = 6\nsmtpd_client_connection_count_limit = 6");
    let address = pool.address;
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(move || {
                for _ in 0..50 {
                    let mut client = TcpStream::connect(address).unwrap();
                    client.set_read_timeout(Some(PATIENCE)).unwrap();
                    let said = line(&mut client);
                    assert!(said.starts_with("220 ") || said.starts_with("421 "), "{said:?}");
                    if said.starts_with("220 ") {
                        quit(client);
                    }
                }
            });
        }
    });
    // A client may see the end of its session before its place is free.
    let mut held = Vec::new();
    until("all places to be free", || {
        let mut client = pool.connect();
        if line(&mut client).starts_with("220 ") {
            held.push(client);
        }
        held.len() == 6
    });
    assert_eq!(pool.children().len(), 6);
}

/// What smtpd is told for itself is not told to what it starts, and so moves no part of that either.
#[test]
fn a_queue_that_smtpd_alone_is_told_of_leaves_submit_and_sessions_where_main_cf_has_them() {
    let scratch = Scratch::new();
    let elsewhere = scratch.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    scratch.hand_over(&elsewhere);
    let mut command = scratch.command("smtpd");
    command.arg("-o").arg(format!("queue_directory={}", elsewhere.display()));
    let options = ["-n", "5", "--idle-children", "1"];
    let (_server, address) = Server::pool(&mut command, &options, &scratch.queue());
    smtp(address, "Subject: x\r\n\r\nx\r\n", "250 2.0.0");
    assert_eq!(scratch.queued().len(), 1);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}
