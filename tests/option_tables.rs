//! Every option of the three manual pages that smtpd stands in for, in each spelling they give, by what it does; and what
//! holds where it is not given. (Letters that a name does not have, and forms without options: personalities.rs.)

mod common;

use common::connections::*;
use common::processes::children;
use common::{NOBODY, Scratch, free_port, until};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

const FORKSERVER: &str = "qpsmtpd-forkserver";
const PREFORK: &str = "qpsmtpd-prefork";

/// An option: whose, how it may be written with the value in place of `%`, the value, and what shows that it holds.
struct Row {
    name: &'static str,
    spellings: &'static [&'static str],
    value: &'static str,
    holds: fn(&Site, &[String]),
}

/// smtpd under a name, in front of our smtpsrvr.
struct Site {
    scratch: Scratch,
    name: &'static str,
}

impl Site {
    fn of(name: &'static str) -> Site {
        Site { scratch: Scratch::new(), name }
    }

    /// As it is called without the options that every test needs.
    fn bare(&self) -> Command {
        let mut command = self.scratch.command("smtpd");
        command.arg0(format!("/usr/bin/{}", self.name));
        command
    }

    fn command(&self, options: &[&str], more: &[String]) -> Command {
        let mut command = self.bare();
        command.args(options).args(more);
        if self.name == "smtpd" {
            command.arg("smtpsrvr");
        }
        command
    }

    /// On a free port of loopback.
    fn start(&self, more: &[String]) -> Server {
        Server::start(&mut self.command(&ON_LOOPBACK, more))
    }
}

fn pid(server: &Server) -> i32 {
    server.process.id().try_into().unwrap()
}

fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// The processes of the pool below smtpd.
fn pool(server: &Server) -> Vec<i32> {
    let parent = children(pid(server)).into_iter().find(|pid| name(*pid) == "smtpsrvr");
    parent.map(children).unwrap_or_default()
}

/// How many are served at once, at most so many; of the next one it is said that it is refused.
fn served(address: std::net::SocketAddr, most: usize) -> usize {
    let mut held = Vec::new();
    while held.len() < most {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let said = line(&mut client);
        if said.starts_with("421 4.3.2 ") {
            break;
        }
        assert!(said.starts_with("220 "), "{said:?}");
        held.push(client);
    }
    held.len()
}

const REFUSE: [&str; 2] = ["--when-full", "refuse"];

fn refusing(options: &[String]) -> Vec<String> {
    options.iter().cloned().chain(REFUSE.map(str::to_owned)).collect()
}

/// The third is one too many.
fn two_are_served(site: &Site, options: &[String]) {
    let mut server = site.start(&refusing(options));
    assert_eq!(served(server.address("0"), 9), 2, "{options:?}");
}

/// More than the default of any name.
fn many_are_served(site: &Site, options: &[String]) {
    let mut options = refusing(options);
    if site.name == PREFORK {
        options.extend(["--children", "20"].map(str::to_owned));
    }
    let mut server = site.start(&options);
    assert_eq!(served(server.address("0"), 18), 18, "{options:?}");
}

fn one_of_an_address_is_served(site: &Site, options: &[String]) {
    let mut server = site.start(options);
    assert_eq!(served(server.address("0"), 9), 1, "{options:?}");
    assert!(server.record("refused client=127.0.0.1").contains("from this address"));
}

/// The value stands for a port that is free.
fn it_listens_on_the_port(site: &Site, options: &[String]) {
    let port = free_port().to_string();
    let options: Vec<String> = options.iter().map(|word| word.replace("PORT", &port)).collect();
    let mut server = Server::start(&mut site.command(&["--listen-address", "127.0.0.1"], &options));
    server.record(&format!("listening on=127.0.0.1:{port} "));
}

fn it_listens_on_the_address(site: &Site, options: &[String]) {
    let mut server = Server::start(&mut site.command(&["--port", "0"], options));
    server.record("listening on=127.0.0.2:");
    assert!(server.seen.iter().all(|record| !record.contains("on=[::]:")), "{:?}", server.seen);
}

fn it_listens_on_both(site: &Site, options: &[String]) {
    if !common::needs::ipv6() {
        return;
    }
    let mut server = Server::start(&mut site.command(&["--port", "0"], options));
    server.record("listening on=127.0.0.2:");
    server.record("listening on=[::1]:");
}

fn one_socket_takes_both_families(site: &Site, options: &[String]) {
    if !common::needs::ipv6() {
        return;
    }
    let mut server = Server::start(&mut site.command(&["--port", "0"], options));
    let port = server.address("0").port();
    for host in ["127.0.0.1", "::1"] {
        assert!(line(&mut TcpStream::connect((host, port)).unwrap()).starts_with("220 "), "{host}");
    }
}

fn it_becomes_nobody(site: &Site, options: &[String]) {
    if !common::needs::root() {
        return;
    }
    let mut server = site.start(options);
    assert_eq!(served(server.address("0"), 1), 1);
    let status = fs::read_to_string(format!("/proc/{}/status", pid(&server))).unwrap();
    assert!(status.contains("Uid:\t65534\t65534\t65534\t65534\n"), "{status}");
}

/// Also shows that the process id is that of the one in the background.
fn it_is_in_the_background(site: &Site, options: &[String]) {
    let file = site.scratch.path().join("pid");
    let _ = fs::remove_file(&file);
    let port = free_port().to_string();
    let mut command = site.command(&["--listen-address", "127.0.0.1", "--port", &port], options);
    if !options.iter().any(|word| word.contains("pid-file")) {
        command.arg("--pid-file").arg(&file);
    } else {
        command.arg("--detach").current_dir(site.scratch.path());
    }
    let status = command.stdin(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{options:?}");
    let pid: i32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    let said = line(&mut TcpStream::connect(format!("127.0.0.1:{port}")).unwrap());
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    until("its end", || !file.exists());
    assert!(said.starts_with("220 "), "{options:?}");
}

fn three_processes_wait(site: &Site, options: &[String]) {
    let mut server = site.start(options);
    server.address("0");
    until("three to wait", || pool(&server).len() == 3);
}

/// Each client has a process that is made for it and ends with it.
fn nobody_waits(site: &Site, options: &[String]) {
    let mut server = site.start(options);
    let address = server.address("0");
    for _ in 0..2 {
        let mut clients = [TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap()];
        clients.iter_mut().for_each(|client| assert!(line(client).starts_with("220 ")));
        assert_eq!(pool(&server).len(), 2, "{options:?}");
        drop(clients);
        until("nobody", || pool(&server).is_empty());
    }
}

/// The 17th field behind the name, which is in parentheses (proc(5)).
fn niceness(pid: i32) -> i32 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    text.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse().unwrap()
}

fn it_yields_by(site: &Site, options: &[String], delta: i32) {
    let own = niceness(std::process::id().try_into().unwrap());
    its_niceness_is(site, options, own + delta);
}

fn its_niceness_is(site: &Site, options: &[String], expected: i32) {
    let own = niceness(std::process::id().try_into().unwrap());
    let mut server = site.start(options);
    let address = server.address("0");
    let mut client = TcpStream::connect(address).unwrap();
    assert!(line(&mut client).starts_with("220 "));
    assert_eq!(niceness(pid(&server)), expected, "{options:?}");
    // What cannot be given back is not taken.
    if geteuid().is_root() || expected <= own {
        assert!(pool(&server).into_iter().all(|pid| niceness(pid) == own), "{options:?}");
    }
}

/// As far as whoever runs this may.
fn it_yields_less(site: &Site, options: &[String], by: i32) {
    let nice = Command::new("nice").args(["-n", &(-by).to_string(), "nice"]).output().unwrap();
    let expected = String::from_utf8(nice.stdout).unwrap().trim().parse().unwrap();
    its_niceness_is(site, options, expected);
}

fn children_have_the_name_of_their_client(site: &Site, options: &[String]) {
    let mut server = site.start(options);
    let mut client = server.connect("0");
    line(&mut client);
    assert!(pool(&server).into_iter().any(|pid| name(pid) == "127.0.0.1"), "{options:?}");
}

fn said(site: &Site, options: &[String]) -> String {
    let output = site.bare().args(options).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn it_says_its_version(site: &Site, options: &[String]) {
    assert!(said(site, options).contains(env!("CARGO_PKG_VERSION")));
}

fn it_shows_its_options(site: &Site, options: &[String]) {
    let said = said(site, options);
    assert!(said.contains("Usage: ") && said.contains("--max-from-ip"), "{said}");
}

fn it_tells_more(site: &Site, options: &[String]) {
    let mut server = site.start(options);
    assert_eq!(served(server.address("0"), 1), 1);
    server.record("started p");
}

fn it_tells_trouble_only(site: &Site, options: &[String]) {
    let port = free_port().to_string();
    let mut server = Server::start(&mut site.command(&["--listen-address", "127.0.0.1", "--port", &port], options));
    until("it to listen", || TcpStream::connect(format!("127.0.0.1:{port}")).is_ok());
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
    // Of the programs' own records trouble would be seen.
    let is_told = |record: &String| ["smtpd[", "error: ", "warning: "].iter().any(|word| record.contains(word));
    let records: Vec<String> = server.records.iter().filter(is_told).collect();
    assert_eq!(records, Vec::<String>::new());
}

/// No channel lists the client, so who is finicky turns it away.
fn strangers_are_turned_away(site: &Site, options: &[String]) {
    site.scratch.write("channels", "local 192.0.2.0/24 $myhostname mailbox: *\n");
    let mut command = site.bare();
    command.args(ON_LOOPBACK).args(options).args(["smtpsrvr", "local"]);
    let mut server = Server::start(&mut command);
    let said = all(&mut server.connect("0"));
    assert!(said.starts_with("421 ") || said.starts_with("554 "), "{said}");
}

const fn row(
    name: &'static str,
    spellings: &'static [&'static str],
    value: &'static str,
    holds: fn(&Site, &[String]),
) -> Row {
    Row { name, spellings, value, holds }
}

/// In the order of the pages.
const TABLE: &[Row] = &[
    // smtpd(8) of MMDF
    row("smtpd", &["-d", "--debug", "-d -d", "-dd"], "", it_tells_more),
    row("smtpd", &["-f", "--finicky", "-df", "-f -f"], "", strangers_are_turned_away),
    row("smtpd", &["-n 20 -n %", "--maxconnects=4 -n%"], "2", two_are_served),
    row("smtpd", &["-n %", "-n%", "-dn %", "--maxconnects %", "--maxconnects=%"], "2", two_are_served),
    // qpsmtpd-forkserver(8)
    row(FORKSERVER, &["--port %", "--port=%", "-p %", "-p%"], "PORT", it_listens_on_the_port),
    row(FORKSERVER, &["-port %", "-port=%", "-po %", "-Port=%", "--pORT %", "-P %"], "PORT", it_listens_on_the_port),
    row(FORKSERVER, &["--user %", "--user=%", "-u %", "-u%", "-user %"], "nobody", it_becomes_nobody),
    row(FORKSERVER, &["--limit-connections %", "--limit-connections=%", "-c %", "-c%"], "2", two_are_served),
    row(FORKSERVER, &["-limit-connections %", "-limit-connections=% -max-from-ip 1500"], "2", two_are_served),
    row(FORKSERVER, &["--limit-connections %", "-c%"], "0", many_are_served),
    row(FORKSERVER, &["-c 40 -H -c % -H", "--limit-connections=1 -m 0 -c40 -m 9 -c%"], "2", two_are_served),
    row(FORKSERVER, &["--max-from-ip %", "--max-from-ip=%", "-m %", "-m%"], "1", one_of_an_address_is_served),
    row(FORKSERVER, &["-max-from-ip %", "-max-from-ip=%", "-max %"], "1", one_of_an_address_is_served),
    row(FORKSERVER, &["--max-from-ip % -c 20", "-m% -c20"], "0", many_are_served),
    row(FORKSERVER, &["--max-from-ip % -c 2"], "9", two_are_served),
    row(
        FORKSERVER,
        &["--listen-address %", "--listen-address=%", "-l %", "-l%", "-l %:0"],
        "127.0.0.2",
        it_listens_on_the_address,
    ),
    row(
        FORKSERVER,
        &["-l % -l ::1", "--listen-address=% --listen-address=[::1]", "-l% --listen-address ::1", "-l [::1]:0 -l %"],
        "127.0.0.2",
        it_listens_on_both,
    ),
    row(FORKSERVER, &["-l %", "--listen-address=%", "-l [%]"], "::", one_socket_takes_both_families),
    row(FORKSERVER, &["--detach", "-d", "-detach"], "", it_is_in_the_background),
    row(FORKSERVER, &["--pid-file %", "--pid-file=%", "-pid-file %"], "pid", it_is_in_the_background),
    // qpsmtpd-prefork(8)
    row(PREFORK, &["--port %", "--port=%"], "PORT", it_listens_on_the_port),
    row(PREFORK, &["--user %", "--user=%"], "nobody", it_becomes_nobody),
    row(PREFORK, &["--limit-connections %", "--limit-connections=%"], "2", two_are_served),
    row(PREFORK, &["--limit-connections %"], "0", many_are_served),
    row(PREFORK, &["--max-from-ip %", "--max-from-ip=%"], "1", one_of_an_address_is_served),
    row(PREFORK, &["--max-from-ip % --limit-connections 2"], "9", two_are_served),
    row(PREFORK, &["--children %", "--children=%", "-children %", "-Child=%"], "2", two_are_served),
    row(PREFORK, &["--idle-children %", "--idle-children=%"], "3", three_processes_wait),
    row(PREFORK, &["--idle-children % --children 3"], "9", three_processes_wait),
    row(PREFORK, &["--idle-children %", "--idle-children=%"], "0", nobody_waits),
    row(PREFORK, &["--interface %", "--interface=%", "-interface %"], "127.0.0.2", it_listens_on_the_address),
    row(
        PREFORK,
        &["--interface % --interface ::1", "--interface=[::1] --interface=%"],
        "127.0.0.2",
        it_listens_on_both,
    ),
    row(PREFORK, &["--renice-parent %", "--renice-parent=%"], "3", |site, options| it_yields_by(site, options, 3)),
    row(PREFORK, &["--renice-parent %", "--renice=%"], "-4", |site, options| it_yields_less(site, options, 4)),
    row(PREFORK, &["--renice-parent 3 --renice-parent %"], "0", |site, options| it_yields_by(site, options, 0)),
    row(PREFORK, &["--detach"], "", it_is_in_the_background),
    row(PREFORK, &["--pid-file %", "--pid-file=%"], "pid", it_is_in_the_background),
    row(PREFORK, &["--pretty-child"], "", children_have_the_name_of_their_client),
    row(PREFORK, &["--version"], "", it_says_its_version),
    row(PREFORK, &["--debug", "--verbose", "--debug --verbose"], "", it_tells_more),
    row(PREFORK, &["--quiet", "--quiet --quiet"], "", it_tells_trouble_only),
    row(PREFORK, &["--help"], "", it_shows_its_options),
];

#[test]
fn every_option_of_the_pages_holds_in_every_spelling() {
    std::thread::scope(|scope| {
        // They wait more than they work.
        for which in 0..8 {
            scope.spawn(move || {
                for row in TABLE.iter().skip(which).step_by(8) {
                    for spelling in row.spellings {
                        let options: Vec<String> =
                            spelling.split(' ').map(|word| word.replace('%', row.value)).collect();
                        let site = Site::of(row.name);
                        let name = std::panic::AssertUnwindSafe(|| (row.holds)(&site, &options));
                        assert!(std::panic::catch_unwind(name).is_ok(), "{} {options:?}", row.name);
                    }
                }
            });
        }
    });
}

/// getopt and argp take the last one, and who has written a start script relies on that.
#[test]
fn of_an_option_that_is_repeated_the_last_one_holds_in_other_programs_too() {
    let scratch = Scratch::new();
    let set = |program: &str, words: &[&str]| {
        let output = scratch.run(program, &[words, &["--show-config=values"]].concat(), b"");
        assert!(output.status.success(), "{program} {words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = set("pop3d", &["-t", "60", "-i", "-x", "-t90", "-i", "-x", "--undelete", "--undelete", "-m/a", "-m/b"]);
    for line in ["pop3d_timeout = 90", "pop3d_transcript = yes", "mailbox = mbox:/b/%u"] {
        assert!(said.lines().any(|known| known.starts_with(line)), "{line} is not in {said}");
    }
    set("pop3d", &["-d5", "-d", "-d6", "-p", "110", "-p", "1110"]);
    let said =
        set("qmqpd", &["-c", "-c", "-i", "5", "-m1", "-i7", "-m", "2", "-n", "a", "-n", "b", "-l", "-l", "-u", "-u"]);
    for line in ["max_idle = 7", "max_use = 2", "children = 1"] {
        assert!(said.lines().any(|known| known.starts_with(line)), "{line} is not in {said}");
    }
    let said = set("smtpsrvr", &["--finicky", "--finicky", "-o", "max_use=1", "-o", "children=7"]);
    for line in ["max_use = 1", "children = 7"] {
        assert!(said.lines().any(|known| known.starts_with(line)), "what is collected: {line} is not in {said}");
    }
}

#[test]
fn the_options_of_the_pages_are_all_in_the_table() {
    for (name, options) in [
        ("smtpd", &["-d", "-f", "-n"][..]),
        (FORKSERVER, &["--port", "-p", "--user", "-u", "--limit-connections", "-c", "--max-from-ip", "-m"]),
        (FORKSERVER, &["--listen-address", "-l", "--detach", "-d", "--pid-file"]),
        (PREFORK, &["--port", "--user", "--limit-connections", "--max-from-ip", "--children", "--idle-children"]),
        (PREFORK, &["--interface", "--renice-parent", "--detach", "--pid-file", "--pretty-child", "--version"]),
        (PREFORK, &["--debug", "--quiet", "--help"]),
    ] {
        for option in options {
            let has = |row: &Row| row.name == name && row.spellings.iter().any(|spelling| spelling.starts_with(option));
            assert!(TABLE.iter().any(has), "{name} {option}");
        }
    }
}

/// With a program that is no pool of ours there is no other limit.
#[test]
fn the_children_of_prefork_are_limited_in_exec_mode_too() {
    let site = Site::of(PREFORK);
    let exec = |more: &[&str]| ["--mode", "exec"].iter().chain(more).map(|word| (*word).to_owned()).collect::<Vec<_>>();
    for (more, most) in [(&[][..], 15), (&["--children", "17"], 17), (&["--limit-connections", "3"], 3)] {
        let mut server = site.start(&refusing(&exec(more)));
        assert_eq!(served(server.address("0"), 20), most, "{more:?}");
    }
}

#[test]
fn without_options_the_defaults_of_the_pages_hold() {
    // Their ports are taken elsewhere; in a network of its own they are free.
    if !common::needs::there("a network of its own", unshare(CloneFlags::CLONE_NEWNET).is_ok()) {
        return;
    }
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    for (name, service, port, most) in
        [("smtpd", "smtp", 25, 4), (FORKSERVER, "2525", 2525, 15), (PREFORK, "2525", 2525, 15)]
    {
        let site = Site::of(name);
        let mut server = Server::start(&mut site.command(&REFUSE, &[]));
        let address = server.address(service);
        assert_eq!((address.port(), address.ip().is_unspecified()), (port, true), "{name}");
        if name == PREFORK {
            until("five to wait", || pool(&server).len() == 5);
        }
        assert_eq!(served(([127, 0, 0, 1], port).into(), 30), most, "{name}: none for one address beside that of all");
        let own = niceness(std::process::id().try_into().unwrap());
        let status = fs::read_to_string(format!("/proc/{}/status", pid(&server))).unwrap();
        assert!(status.contains("Uid:\t0\t0\t0\t0\n"), "{name}: nobody else without --user");
        assert_eq!(niceness(pid(&server)) - own, if name == PREFORK { 5 } else { 0 }, "{name}");
        if name != PREFORK {
            until("nobody to wait", || pool(&server).is_empty());
        }
        assert!(server.process.try_wait().unwrap().is_none(), "{name}: in the foreground");
        server.signal(Signal::SIGTERM);
        assert_eq!(server.end().code(), Some(0), "{name}");
    }
    let folder = folder();
    let mut of_nobody = smtpd(folder.path());
    let (status, text) = refused(of_nobody.uid(NOBODY).gid(NOBODY).arg("/bin/cat"));
    assert_eq!(status, Some(77), "port 25 is for root: {text}");
}
