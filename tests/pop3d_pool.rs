//! pop3d in a pool that root has started: three processes that stay, and serve one client after another.
//!
//! As anybody else a child of a pool is one process, which tests/pool.rs is about; here these tests do nothing then.

mod common;

use common::connections::{PATIENCE, Server, all, line};
use common::processes::{children, only, rights};
use common::{NOBODY, Scratch, binary, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const DAVE: u32 = 65_533;

struct Pool {
    server: Server,
    address: SocketAddr,
    scratch: Scratch,
}

/// A slot of the pool: the one that checks passwords, the one that parses, and the one that is the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trio {
    checker: u32,
    parser: u32,
    owner: Option<u32>,
}

impl Pool {
    /// With one slot, unless more lines say otherwise; none where these tests are not root's.
    fn start(main_cf: &str) -> Option<Pool> {
        if !common::needs::root() {
            return None;
        }
        let scratch =
            Scratch::with(&format!("children = 1\nidle_children = 1\nmax_use = 0\nauth_failure_delay = 0\n{main_cf}"));
        let dave = format!("dave:{{PLAIN}}secret:{DAVE}:{DAVE}:::\n");
        let users = fs::read_to_string(scratch.path().join("passwd")).expect("users") + &dave;
        scratch.write("passwd", &users);
        fs::set_permissions(scratch.path().join("mail"), fs::Permissions::from_mode(0o1777)).expect("its mode");
        for user in ["bob", "carol", "dave"] {
            scratch.put_mail(user, "1700000000.M0.mx", format!("Subject: {user}\n\nx\n").as_bytes());
        }
        for part in ["", "tmp", "new", "cur", "new/1700000000.M0.mx"] {
            chown(scratch.maildir("dave").join(part), Some(DAVE), Some(DAVE)).expect("chown");
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let mut command = Command::new(binary("pop3d"));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", scratch.path());
        let server = Server::start_as_it_is(command.stdin(OwnedFd::from(listener)));
        Some(Pool { server, address, scratch })
    }

    fn greeted(&self) -> TcpStream {
        let mut client = TcpStream::connect(self.address).expect("a connection");
        client.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        assert!(line(&mut client).starts_with("+OK doorpost"));
        client
    }

    fn logged_in(&self, user: &str) -> TcpStream {
        let mut client = self.greeted();
        ask(&mut client, &format!("USER {user}"));
        assert_eq!(ask(&mut client, "PASS secret"), format!("+OK 1 messages, {} octets", 16 + user.len()));
        client
    }

    fn trio(&self) -> Trio {
        let [checker] = children(self.server.process.id())[..] else { panic!("another number of children") };
        // One that is not needed any more may be about to end.
        let mut below = children(checker);
        until("two below", || {
            below = children(checker);
            below.len() <= 2
        });
        Trio { checker, parser: below[0], owner: below.get(1).copied() }
    }
}

fn ask(client: &mut TcpStream, command: &str) -> String {
    client.write_all(format!("{command}\r\n").as_bytes()).expect("sending");
    line(client).trim_end().to_owned()
}

fn quit(mut client: TcpStream) {
    assert_eq!(ask(&mut client, "QUIT"), "+OK Goodbye");
    assert_eq!(all(&mut client), "");
}

fn is_there(pid: u32) -> bool {
    // A zombie has no command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn end(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().expect("a process id")), signal).expect("a signal");
}

#[test]
fn processes_stay_for_users_of_one_uid_and_another_uid_has_a_process_of_its_own() {
    let Some(pool) = Pool::start("") else { return };
    let client = pool.logged_in("bob");
    let first = pool.trio();
    assert_eq!(rights(first.checker)[0], [0; 4]);
    assert_eq!(rights(first.parser), only(NOBODY, NOBODY));
    assert_eq!(rights(first.owner.expect("an owner")), only(NOBODY, NOBODY));
    // Whoever has rights has nothing of the client on its standard descriptors.
    let end = |fd: u32| fs::read_link(format!("/proc/{}/fd/{fd}", first.checker)).expect("a descriptor");
    assert_eq!([0, 1].map(end), ["/dev/null", "/dev/null"].map(Path::new));
    quit(client);
    let client = pool.logged_in("carol");
    assert_eq!(pool.trio(), first, "the same three serve the next one");
    quit(client);
    let client = pool.logged_in("dave");
    let other = pool.trio();
    assert_eq!((other.checker, other.parser), (first.checker, first.parser));
    assert_ne!(other.owner, first.owner);
    assert_eq!(rights(other.owner.expect("an owner")), only(DAVE, DAVE));
    assert!(!is_there(first.owner.expect("an owner")));
    quit(client);
    quit(pool.logged_in("bob"));
    assert_eq!(rights(pool.trio().owner.expect("an owner")), only(NOBODY, NOBODY));
    let mut server = pool.server;
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
    until("the end of all", || {
        ![Some(first.checker), Some(first.parser), other.owner].into_iter().flatten().any(is_there)
    });
}

/// The process that is the user, too, serves one client after another.
#[test]
fn more_is_logged_of_a_listed_client_by_no_process_about_the_one_after_it() {
    let Some(mut pool) = Pool::start("debug_peer_list = 127.0.0.2\ntls_auth_only = no") else { return };
    let SocketAddr::V4(to) = pool.address else { panic!("IPv4") };
    for from in ["127.0.0.2:0", "127.0.0.1:0", "127.0.0.2:0"] {
        let mut client = common::connections::from_address(from.parse().expect("an address"), to);
        client.write_all(b"USER bob\r\nPASS secret\r\nSTAT\r\nQUIT\r\n").expect("sending");
        assert!(all(&mut client).contains("+OK 1 "));
    }
    pool.server.signal(Signal::SIGTERM);
    pool.server.process.wait().expect("its end");
    let records: Vec<String> = pool.server.records.iter().collect();
    for command in ["USER bob", "STAT"] {
        let said = format!("event=said line={command:?}");
        assert_eq!(records.iter().filter(|record| record.contains(&said)).count(), 2, "{command}: {records:?}");
    }
    assert!(!records.iter().any(|record| record.contains("secret")), "{records:?}");
}

#[test]
fn no_process_keeps_the_connection_of_a_client_that_has_gone() {
    let Some(pool) = Pool::start("") else { return };
    // The inodes of our ends of connections, from a table whose second column is address:port and fourth the state.
    let connections = || -> Vec<String> {
        let table = fs::read_to_string("/proc/net/tcp").expect("the table of connections");
        let local = format!(":{:04X}", pool.address.port());
        let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
        let ours = rows.filter(|row| row.len() > 9 && row[1].ends_with(&local) && row[3] != "0A");
        ours.map(|row| format!("socket:[{}]", row[9])).collect()
    };
    let holds_one = |pid: u32| {
        let connections = connections();
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        links.any(|link| connections.contains(&link.display().to_string()))
    };
    let client = pool.logged_in("bob");
    assert!(holds_one(pool.trio().owner.expect("an owner")));
    quit(client);
    for _ in 0..3 {
        quit(pool.logged_in("carol"));
        drop(pool.logged_in("bob"));
        drop(pool.greeted());
    }
    let trio = pool.trio();
    until("the connections' end", || {
        ![trio.checker, trio.parser, trio.owner.expect("an owner")].into_iter().any(holds_one)
    });
}

#[test]
fn the_users_process_has_nothing_of_the_pool_open() {
    let Some(pool) = Pool::start("pop3d_login_delay = 1\npop3d_stat_file = $config_directory/last") else { return };
    let client = pool.logged_in("bob");
    let trio = pool.trio();
    let open = |pid: u32| -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten();
        let above_2 = entries.filter(|entry| !["0", "1", "2"].contains(&entry.file_name().to_str().unwrap_or("0")));
        above_2.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string())).collect()
    };
    let table = fs::read_to_string("/proc/net/tcp").expect("the table of connections");
    let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let local = format!(":{:04X}", pool.address.port());
    let row = rows.filter(|row| row.len() > 9 && row[3] == "0A").find(|row| row[1].ends_with(&local));
    let listening = format!("socket:[{}]", row.expect("a listening socket")[9]);
    assert!(open(trio.parser).contains(&listening));
    let open = open(trio.owner.expect("an owner"));
    assert!(!open.contains(&listening), "{open:?}");
    // The connection, two ends to the others, and of files the mailbox's lock and the one of the last session.
    let is_its =
        |what: &&String| !what.starts_with("socket:") && !what.contains("/mail/bob") && !what.ends_with("last/bob");
    assert_eq!(open.iter().filter(is_its).count(), 0, "{open:?}");
    let sockets: std::collections::HashSet<_> = open.iter().filter(|what| what.starts_with("socket:")).collect();
    assert_eq!(sockets.len(), 3, "{open:?}");
    quit(client);
}

#[test]
fn what_is_pipelined_over_wrong_and_right_passwords_is_answered_in_order() {
    let Some(pool) = Pool::start("") else { return };
    for _ in 0..2 {
        let mut client = pool.greeted();
        client
            .write_all(
                b"USER bob\r\nPASS wrong\r\nUSER bob\r\nPASS secret\r\nSTAT\r\nRETR 1\r\nDELE 1\r\nRSET\r\nQUIT\r\n",
            )
            .expect("sending");
        assert_eq!(
            all(&mut client),
            "+OK Send the password\r\n-ERR [AUTH] Wrong name or password\r\n+OK Send the password\r\n\
             +OK 1 messages, 19 octets\r\n+OK 1 19\r\n+OK Message follows\r\nSubject: bob\r\n\r\nx\r\n.\r\n\
             +OK Marked as deleted\r\n+OK No message is marked as deleted\r\n+OK Goodbye\r\n"
        );
        // Else the server waits for what it may still say.
        drop(client);
        let mut client = pool.greeted();
        client
            .write_all(b"USER root\r\nPASS x\r\nUSER bob\r\nPASS y\r\nUSER z\r\nPASS z\r\nNOOP\r\n")
            .expect("sending");
        assert!(all(&mut client).ends_with("-ERR [AUTH] Wrong name or password too often, goodbye\r\n"));
    }
}

#[test]
fn who_is_killed_takes_nobody_with_him_but_the_client_and_nothing_is_removed() {
    let Some(pool) = Pool::start("") else { return };
    for which in 0..3 {
        let mut client = pool.logged_in("bob");
        assert!(ask(&mut client, "DELE 1").starts_with("+OK"));
        let trio = pool.trio();
        let owner = trio.owner.expect("an owner");
        end([owner, trio.checker, trio.parser][which], Signal::SIGKILL);
        if which < 2 {
            assert_eq!(all(&mut client), "", "{which}");
        } else {
            // Who has parsed is not needed any more.
            assert_eq!(ask(&mut client, "NOOP"), "+OK");
            drop(client);
        }
        if which == 1 {
            until("the end of those below", || !is_there(trio.parser) && !is_there(owner));
        }
        assert_eq!(pool.scratch.mail("bob").len(), 1);
        until("a free maildrop", || {
            let mut client = pool.greeted();
            ask(&mut client, "USER bob");
            let is_in = ask(&mut client, "PASS secret").starts_with("+OK");
            if is_in {
                quit(client);
            }
            is_in
        });
    }
}

#[test]
fn so_many_clients_and_no_more_have_the_same_parser() {
    let Some(pool) = Pool::start("max_use = 3") else { return };
    let mut parsers = Vec::new();
    for number in 0..6 {
        if number % 2 == 0 {
            quit(pool.logged_in("bob"))
        } else {
            quit(pool.greeted())
        }
        let client = pool.greeted();
        parsers.push(pool.trio().parser);
        quit(client);
    }
    // Two clients a turn, three a parser.
    let mut others = parsers.clone();
    others.dedup();
    assert!((4..=6).contains(&others.len()), "{parsers:?}");
    assert_eq!(others.iter().collect::<std::collections::HashSet<_>>().len(), others.len(), "{parsers:?}");
}

#[test]
fn what_becomes_of_the_passwd_file_is_seen_by_the_next_clients() {
    let Some(pool) = Pool::start("") else { return };
    let mechanisms = || {
        let mut client = pool.greeted();
        ask(&mut client, "CAPA");
        let lines: Vec<String> =
            std::iter::from_fn(|| Some(line(&mut client).trim_end().to_owned()).filter(|line| line != ".")).collect();
        quit(client);
        lines.into_iter().find(|line| line.starts_with("SASL")).expect("mechanisms")
    };
    assert_eq!(mechanisms(), "SASL SCRAM-SHA-256 CRAM-MD5 PLAIN LOGIN");
    pool.scratch.write("passwd", "bob:$6$salt$x:::::\ncarol:{PLAIN}new:::::\n");
    until("fewer mechanisms", || mechanisms() == "SASL PLAIN LOGIN");
    let mut client = pool.greeted();
    ask(&mut client, "USER carol");
    assert!(ask(&mut client, "PASS new").starts_with("+OK 1 messages"));
    quit(client);
    pool.scratch.write("passwd", "../bob:{PLAIN}x\n");
    until("a refusal", || {
        let mut client = TcpStream::connect(pool.address).expect("a connection");
        client.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let said = line(&mut client);
        let _ = client.write_all(b"QUIT\r\n");
        said.starts_with("-ERR [SYS/PERM] ")
    });
}

#[test]
fn the_time_of_the_last_session_is_kept_with_roots_rights() {
    let Some(pool) = Pool::start("pop3d_login_delay = 1h") else { return };
    // It is there, and has its handlers.
    quit(pool.greeted());
    let folder = pool.scratch.path().join("last");
    pool.scratch.configure(&format!("pop3d_stat_file = {}", folder.display()));
    pool.server.signal(Signal::SIGHUP);
    let mut pool = pool;
    pool.server.record("the configuration was read again");
    quit(pool.logged_in("bob"));
    let mut client = pool.greeted();
    ask(&mut client, "USER bob");
    assert!(ask(&mut client, "PASS secret").starts_with("-ERR [LOGIN-DELAY] "));
    drop(client);
    quit(pool.logged_in("carol"));
    assert_eq!(fs::metadata(folder).expect("the folder").permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_session_longer_than_processes_are_kept_for_ends_none_of_them() {
    // So long that nobody has ended when the next client is there.
    let Some(pool) = Pool::start("max_idle = 4") else { return };
    let mut client = pool.logged_in("bob");
    let before = pool.trio();
    std::thread::sleep(Duration::from_millis(5500));
    assert_eq!(ask(&mut client, "NOOP"), "+OK");
    quit(client);
    quit(pool.logged_in("bob"));
    assert_eq!(pool.trio(), before);
    until("the end of a process that nobody needs", || !is_there(before.owner.expect("an owner")));
    // Nobody waits for it either.
    until("two processes", || pool.trio().owner.is_none());
    for _ in 0..3 {
        quit(pool.logged_in("bob"));
    }
    assert_eq!(pool.trio().parser, before.parser);
}

/// It has ended while nobody was there, and the one that parses hears so when it asks for the next client.
#[test]
fn behind_an_end_of_the_users_process_each_client_has_its_own_answers() {
    let Some(pool) = Pool::start("max_idle = 1") else { return };
    for _ in 0..2 {
        quit(pool.logged_in("bob"));
        until("two processes", || pool.trio().owner.is_none());
        let mut client = pool.greeted();
        for (password, answer) in [("wrong", "-ERR [AUTH]"), ("Secret", "-ERR [AUTH]"), ("secret", "+OK 1 messages")] {
            ask(&mut client, "USER bob");
            let said = ask(&mut client, &format!("PASS {password}"));
            assert!(said.starts_with(answer), "{password}: {said}");
        }
        assert_eq!(ask(&mut client, "STAT"), "+OK 1 19");
        quit(client);
    }
}

#[test]
fn the_longest_session_is_counted_from_the_connection_and_not_from_the_login() {
    let Some(pool) = Pool::start("daemon_timeout = 10") else { return };
    let start = Instant::now();
    let mut client = pool.greeted();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(ask(&mut client, "USER bob"), "+OK Send the password");
    let login = Instant::now();
    assert!(ask(&mut client, "PASS secret").starts_with("+OK 1 messages"));
    assert!(all(&mut client).starts_with("-ERR Silent for too long"));
    assert!(start.elapsed() >= Duration::from_millis(9900), "{:?}", start.elapsed());
    assert!(login.elapsed() < Duration::from_millis(9900), "{:?}", login.elapsed());
}
