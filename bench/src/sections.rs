//! The rows of the table: which servers, which load, how often.
//!
//! Within a row the servers take turns, run after run, so that whatever else the machine does meets all of them. The
//! first run of each is for warming up and is not counted.

use crate::load::{self, Greeting, Load, Outcome, Retrieve};
use crate::mail::{self, Names};
use crate::process;
use crate::server::{Kind, MODES, Mode, Peers, Server, Servers, Site};
use crate::table::{Cell, Row};
use clap::ValueEnum;
use doorpost::net::trust::{Trust, Versions};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The parts of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    Connect,
    Mail,
    #[value(name = "pop3 stat")]
    Stat,
    #[value(name = "pop3 retr")]
    Retr,
    Memory,
    Costs,
}

/// What rows of mail are about: how it comes, and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RowKind {
    Smtp,
    Many,
    Large,
    Qmqp,
    Tls,
    Disk,
    Tmpfs,
}

/// What the table is made with.
pub struct Plan {
    /// Counted runs.
    pub runs: usize,
    /// Of rows of mail.
    pub mail_runs: usize,
    /// How long one is.
    pub time: Duration,
    /// Less of everything.
    pub quick: bool,
    /// Only this part.
    pub only: Option<Part>,
    /// Only these kinds of mail and of media, if any are named.
    pub rows: Vec<RowKind>,
    /// Only servers with one of these words in their names, if there are some.
    pub servers: Vec<String>,
    /// Programs of ours.
    pub programs: PathBuf,
    /// The peers, if there are some.
    pub peers: Option<Peers>,
    /// A folder on disk and one in memory, with what the table calls them.
    pub states: Vec<(&'static str, PathBuf)>,
    /// Somebody wants us to stop.
    pub stop: Arc<AtomicBool>,
    /// What has not begun by then is left out.
    pub deadline: Option<Instant>,
    /// Where progress is told.
    pub say: Box<dyn Fn(&str)>,
}

/// How long after a run its mail is waited for, so that it does not burden the next.
const DELIVERY: Duration = Duration::from_secs(4);

type Rows = io::Result<Vec<Row>>;
type Section = fn(&Plan) -> Rows;

/// The whole table.
pub fn all(plan: &Plan) -> Rows {
    let sections: [(Part, Section); 5] = [
        (Part::Connect, connect),
        (Part::Mail, mail_in),
        (Part::Stat, pop3),
        (Part::Retr, retrieve),
        (Part::Memory, memory),
    ];
    let mut rows = Vec::new();
    for (part, section) in sections {
        if plan.only.is_none_or(|only| only == part) && !plan.stopped() {
            rows.extend(section(plan)?);
        }
    }
    Ok(rows)
}

impl Plan {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.deadline.is_some_and(|deadline| Instant::now() > deadline)
    }

    /// Whether one of these kinds of rows is to be measured: of those that exclude each other all are given.
    fn wants(&self, kind: RowKind, kinds: &[RowKind]) -> bool {
        !kinds.iter().any(|kind| self.rows.contains(kind)) || self.rows.contains(&kind)
    }

    fn has(&self, name: &str) -> bool {
        self.servers.is_empty() || self.servers.iter().any(|word| name.contains(word.as_str()))
    }

    fn memory(&self) -> &Path {
        &self.states[1].1
    }

    /// In a short table a few ways to start ours must do where each costs time of its own.
    fn modes(&self) -> &'static [Mode] {
        if self.quick { &[Mode::Pool, Mode::PoolOfOne, Mode::Smtpd] } else { &MODES }
    }

    fn disk(&self) -> &Path {
        &self.states[0].1
    }

    /// Starts peers, several at a time; one that does not come up is named and left out.
    fn peers(&self, names: &[&str], state: &Path) -> Servers {
        let Some(peers) = &self.peers else { return Servers::default() };
        let started = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for (place, name) in names.iter().enumerate().filter(|(_, name)| self.has(name)) {
                let started = &started;
                scope.spawn(move || {
                    let server = peers.start(name, &state.join(name));
                    started.lock().expect("no panic").push((place, server));
                });
            }
        });
        let mut started = started.into_inner().expect("no panic");
        started.sort_by_key(|(place, _)| *place);
        let came_up =
            |(_, server): (usize, io::Result<Server>)| server.inspect_err(|error| (self.say)(&error.to_string())).ok();
        Servers(started.into_iter().filter_map(came_up).collect())
    }

    fn ours(&self, site: &Site, program: &str, modes: &[Mode]) -> Servers {
        // By SMTP and QMQP nobody becomes a user, so that a pool of root's does nothing else.
        let modes = modes.iter().filter(|mode| **mode != Mode::PoolOfOne || program == "pop3d");
        let modes = modes.filter(|mode| self.has(mode.name()));
        let started = modes.map(|mode| site.start(program, *mode));
        Servers(started.filter_map(|server| server.inspect_err(|error| (self.say)(&error.to_string())).ok()).collect())
    }

    /// In a short table nobody waits for those whose backlog of 5 makes clients stall for seconds.
    fn can_take<'a>(&self, servers: &[&'a Server], clients: usize) -> Vec<&'a Server> {
        let stalls = |server: &Server| self.quick && clients > 4 && server.name == "opensmtpd";
        servers.iter().copied().filter(|server| !stalls(server)).collect()
    }

    fn load(&self, clients: usize) -> Load {
        // A message that was taken is waited for until it is delivered.
        Load { clients, time: self.time, most: if self.quick { 10.max(2 * clients) } else { usize::MAX } }
    }

    /// Not more than can be delivered in a second or two.
    fn mail(&self, clients: usize) -> Load {
        Load { most: self.load(clients).most.min(1500), ..self.load(clients) }
    }

    /// Runs a load against each server in turn; `sample` gives a figure for each of `rows`.
    fn measure(
        &self,
        mut rows: Vec<Row>,
        servers: &[&Server],
        sample: impl Fn(&Server) -> (Vec<f64>, Outcome),
    ) -> Vec<Row> {
        for row in &mut rows {
            let cell = |server: &&Server| Cell {
                server: server.name.clone(),
                kind: server.kind,
                runs: Vec::new(),
                errors: 0,
                first_error: None,
            };
            row.cells = servers.iter().map(cell).collect();
        }
        let is_mail = rows.iter().any(|row| SECTIONS.contains(&row.section));
        let runs = if is_mail { self.mail_runs } else { self.runs };
        for run in 0..=runs {
            for (number, server) in servers.iter().enumerate() {
                if self.stopped() {
                    return rows;
                }
                let (figures, outcome) = sample(server);
                for (row, figure) in rows.iter_mut().zip(figures) {
                    let cell = &mut row.cells[number];
                    if run > 0 && outcome.sessions > 0 {
                        cell.runs.push(figure);
                    }
                    cell.errors += outcome.errors;
                    cell.first_error = cell.first_error.take().or(outcome.first_error.clone());
                }
            }
        }
        for row in &rows {
            let show =
                |cell: &Cell| format!("{} {}", cell.server, cell.median().map_or("-".to_owned(), crate::table::number));
            let figures: Vec<String> = row.cells.iter().map(show).collect();
            (self.say)(&format!("{}: {}: {}", row.section, row.title, figures.join("; ")));
        }
        rows
    }
}

fn row(section: &'static str, title: String, unit: &'static str, goal: Option<f64>) -> Row {
    Row { section, title, unit, more_is_better: !matches!(unit, "kB" | "µs"), goal, cells: Vec::new() }
}

fn connect(plan: &Plan) -> Rows {
    const SECTION: &str = "Connect, greeting, QUIT";
    let state = plan.disk();
    let site = Site::new(&state.join("ours"), &plan.programs, &state.join("ours/mail"))?;
    let mut servers = plan.peers(
        &[
            "postfix",
            "opensmtpd",
            "qpsmtpd-prefork",
            "qpsmtpd-forkserver",
            "limit-prefork",
            "limit-forkonly",
            "limit-fork-static",
            "limit-fork-noop",
            "noop-tcpserver",
            "noop-inetd",
        ],
        state,
    );
    servers.0.append(&mut plan.ours(&site, "smtpsrvr", &MODES).0);
    let servers: Vec<&Server> = servers.0.iter().collect();
    let mut rows = Vec::new();
    for (clients, goal) in [(1, 1.5), (16, 2.0)] {
        rows.extend(plan.measure(
            vec![row(SECTION, format!("C={clients}"), "sessions/s", Some(goal))],
            &plan.can_take(&servers, clients),
            |server| {
                let outcome = load::run(Load { most: usize::MAX, ..plan.load(clients) }, |_| {
                    load::connect(server.port, server.greeting)
                });
                (vec![outcome.rate(outcome.sessions)], outcome)
            },
        ));
    }
    Ok(rows)
}

/// Runs sessions that send mail, then waits until it is in the mailbox: how fast it was taken, and how fast delivered.
fn deliver(load: Load, server: &Server, session: impl Fn(usize) -> io::Result<load::Moved> + Sync) -> (Outcome, f64) {
    let Some(maildir) = &server.maildir else { return (load::run(load, session), f64::NAN) };
    let before = mail::delivered(maildir);
    let start = Instant::now();
    let outcome = load::run(load, session);
    let mut done = mail::delivered(maildir) - before;
    while done < outcome.moved.messages && start.elapsed() < outcome.time + DELIVERY {
        std::thread::sleep(Duration::from_millis(10));
        done = mail::delivered(maildir) - before;
    }
    let rate = done as f64 / start.elapsed().as_secs_f64();
    (outcome, rate)
}

fn mail_in(plan: &Plan) -> Rows {
    use RowKind::{Disk, Large, Many, Qmqp, Smtp, Tls, Tmpfs};
    let mut rows = Vec::new();
    let media = [Disk, Tmpfs].into_iter().zip(&plan.states);
    for (_, (medium, state)) in media.filter(|(medium, _)| plan.wants(*medium, &[Disk, Tmpfs])) {
        let wants = |kind| plan.wants(kind, &[Smtp, Many, Large, Qmqp, Tls]);
        let site = Site::new(&state.join("ours"), &plan.programs, &state.join("ours/mail"))?;
        let peers = plan.peers(&["postfix", "opensmtpd"], state);
        let is_postfix = |server: &&Server| server.name == "postfix";
        let is_pool = |server: &&Server| server.name == Mode::Pool.name();
        if wants(Smtp) || wants(Many) || wants(Large) {
            let smtp = plan.ours(&site, "smtpsrvr", plan.modes());
            let all = || peers.0.iter().chain(&smtp.0);
            if wants(Smtp) {
                rows.extend(small(plan, medium, &all().collect::<Vec<_>>()));
            }
            if wants(Many) {
                let few = all().filter(|server| is_postfix(server) || is_pool(server));
                rows.extend(many(plan, medium, &few.collect::<Vec<_>>()));
            }
            if wants(Large) {
                rows.extend(large(plan, medium, &all().collect::<Vec<_>>()));
            }
        }
        if wants(Qmqp) {
            let qmqp = plan.ours(&site, "qmqpd", plan.modes());
            let postfix = peers.0.iter().filter(is_postfix);
            rows.extend(by_qmqp(plan, medium, &postfix.chain(&qmqp.0).collect::<Vec<_>>()));
        }
        if wants(Tls) {
            drop(site);
            let site = Site::with_tls(&state.join("tls"), &plan.programs, &state.join("tls/mail"))?;
            let ours = plan.ours(&site, "smtpsrvr", &[Mode::Pool]);
            let postfix: Vec<&Server> = peers.0.iter().filter(is_postfix).collect();
            postfix.iter().try_for_each(|postfix| postfix.give_tls(&site))?;
            rows.extend(with_tls(plan, medium, &postfix.into_iter().chain(&ours.0).collect::<Vec<_>>()));
        }
    }
    rows.sort_by_key(|row| SECTIONS.iter().position(|section| *section == row.section));
    Ok(rows)
}

const SECTIONS: [&str; 10] = [
    "SMTP, one 2 kB message a session, on disk",
    "SMTP, one 2 kB message a session, in memory (tmpfs)",
    "QMQP, one 2 kB message a session, on disk",
    "QMQP, one 2 kB message a session, in memory (tmpfs)",
    "SMTP, 10 MB messages, on disk",
    "SMTP, 10 MB messages, in memory (tmpfs)",
    "SMTP, 100 messages of 2 kB a session, on disk",
    "SMTP, 100 messages of 2 kB a session, in memory (tmpfs)",
    "SMTP, what STARTTLS costs a session with one message, on disk",
    "SMTP, what STARTTLS costs a session with one message, in memory (tmpfs)",
];

fn section(protocol: usize, medium: &str) -> &'static str {
    SECTIONS[protocol * 2 + usize::from(medium != "disk")]
}

fn small(plan: &Plan, medium: &str, servers: &[&Server]) -> Vec<Row> {
    let section = section(0, medium);
    let data = mail::data(2048);
    let goal = Some(if medium == "disk" { 1.5 } else { 3.0 });
    let mut rows = Vec::new();
    for clients in [1, 16, 64] {
        let kinds = vec![
            row(section, format!("C={clients}"), "messages/s", goal),
            row(section, format!("C={clients}, until in the mailbox"), "messages/s", None),
        ];
        rows.extend(plan.measure(kinds, &plan.can_take(servers, clients), |server| {
            let (outcome, delivered) = deliver(plan.mail(clients), server, |_| load::smtp(server.port, &data, 1));
            (vec![outcome.rate(outcome.sessions), delivered], outcome)
        }));
    }
    rows
}

fn many(plan: &Plan, medium: &str, servers: &[&Server]) -> Vec<Row> {
    const EACH: usize = 100;
    let data = mail::data(2048);
    let goal = Some(if medium == "disk" { 1.5 } else { 3.0 });
    let mut rows = Vec::new();
    for clients in [1, 16] {
        let kinds = vec![row(section(3, medium), format!("C={clients}"), "messages/s", goal)];
        let load = Load { most: if plan.quick { clients } else { 2 * clients }, ..plan.load(clients) };
        rows.extend(plan.measure(kinds, servers, |server| {
            let (outcome, _) = deliver(load, server, |_| load::smtp(server.port, &data, EACH));
            (vec![outcome.rate(outcome.moved.messages)], outcome)
        }));
    }
    rows
}

/// The same sessions without and with STARTTLS, and the difference: what all processors were busy with for a session
/// where many clients are there, and where there is one how much longer it waited.
fn with_tls(plan: &Plan, medium: &str, servers: &[&Server]) -> Vec<Row> {
    let section = section(4, medium);
    let (data, trust) = (mail::data(2048), Trust::anybody(&[], Versions::default()).expect("ring").config());
    let mut rows = Vec::new();
    for clients in [1, 16] {
        let title = |what: &str| format!("C={clients}, {what}");
        let kinds = vec![
            row(section, title("without"), "messages/s", None),
            row(section, title("STARTTLS"), "messages/s", None),
            row(section, title("more a session"), "µs", Some(1.0)),
        ];
        rows.extend(plan.measure(kinds, servers, |server| {
            let (clear, _) = deliver(plan.mail(clients), server, |_| load::smtp(server.port, &data, 1));
            let (outcome, _) = deliver(plan.mail(clients), server, |_| load::smtp_with_tls(server.port, &data, &trust));
            let rates = [&clear, &outcome].map(|outcome| outcome.rate(outcome.sessions));
            (vec![rates[0], rates[1], 1e6 / rates[1] - 1e6 / rates[0]], outcome)
        }));
    }
    rows
}

fn by_qmqp(plan: &Plan, medium: &str, servers: &[&Server]) -> Vec<Row> {
    let package = mail::package(2048);
    let mut rows = Vec::new();
    for clients in [1, 16, 64] {
        let kinds = vec![row(section(1, medium), format!("C={clients}"), "messages/s", Some(2.0))];
        rows.extend(plan.measure(kinds, servers, |server| {
            let (outcome, _) = deliver(plan.mail(clients), server, |_| load::qmqp(server.qmqp, &package));
            (vec![outcome.rate(outcome.sessions)], outcome)
        }));
    }
    rows
}

fn large(plan: &Plan, medium: &str, servers: &[&Server]) -> Vec<Row> {
    let data = mail::data(10_000_000);
    let mut rows = Vec::new();
    for clients in [1, 4] {
        let kinds = vec![row(section(2, medium), format!("C={clients}"), "MB/s", Some(2.0))];
        // By number: what is written must fit on the disk.
        let load = Load { most: if plan.quick { clients } else { 2 + clients }, ..plan.load(clients) };
        rows.extend(plan.measure(kinds, servers, |server| {
            let (outcome, _) = deliver(load, server, |_| load::smtp(server.port, &data, 1));
            (vec![outcome.rate(outcome.moved.octets) / 1e6], outcome)
        }));
        // Nothing is timed now, and the next row needs the room.
        for server in servers {
            let new = server.maildir.as_ref().and_then(|maildir| fs::read_dir(maildir.join("new")).ok());
            for entry in new
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.metadata().is_ok_and(|file| file.len() > 1 << 20))
            {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    rows
}

const POP3: [&str; 5] = ["dovecot", "dovecot-fast", "mailutils-standalone", "popa3d-tcpserver", "popa3d-tcpsvd"];

/// Servers of POP3 that all have the same mailboxes, though not all in the same format.
struct Mailboxes<'a> {
    plan: &'a Plan,
    folder: PathBuf,
    servers: Servers,
    site: Site,
    made: usize,
}

impl<'a> Mailboxes<'a> {
    fn new(plan: &'a Plan, name: &str, peers: &[&str]) -> io::Result<Mailboxes<'a>> {
        // All of it is read from the page cache; but to remove 100,000 files from a disk can take minutes.
        let state = if plan.quick { plan.memory() } else { plan.disk() };
        let folder = state.join(name);
        fs::create_dir_all(&folder)?;
        let site = Site::new(&state.join("ours"), &plan.programs, &folder.join("now"))?;
        let mut servers = plan.peers(peers, state);
        for server in servers.0.iter().filter(|server| server.name.starts_with("dovecot")) {
            fs::remove_dir_all(server.folder.join("mail"))?;
            std::os::unix::fs::symlink(folder.join("now"), server.folder.join("mail"))?;
        }
        servers.0.append(&mut plan.ours(&site, "pop3d", plan.modes()).0);
        Ok(Mailboxes { plan, folder, servers, site, made: 0 })
    }

    /// Gives everybody new mailboxes. The old ones stay where they are: to remove many files makes a disk slow.
    fn fill(&mut self, mail: mail::Box, users: &[String]) -> io::Result<()> {
        self.made += 1;
        let folder = self.folder.join(self.made.to_string());
        fs::create_dir(&folder)?;
        for user in users {
            mail::maildir(&folder.join(user), mail, self.site.ids())?;
            for server in &self.servers.0 {
                let spool = server.folder.join("spool");
                if server.kind == Kind::Peer && spool.is_dir() {
                    let ids = nix::unistd::User::from_name(user)?.map(|user| (user.uid.as_raw(), user.gid.as_raw()));
                    mail::mbox(&spool.join(user), mail, ids)?;
                }
            }
        }
        mail::give(&folder, self.site.ids())?;
        let _ = fs::remove_file(self.folder.join("now"));
        std::os::unix::fs::symlink(&folder, self.folder.join("now"))
    }

    fn measure(
        &self,
        row: Row,
        load: Load,
        users: &[String],
        retrieve: Retrieve,
        figure: fn(&Outcome) -> f64,
    ) -> Vec<Row> {
        let servers: Vec<&Server> = self.servers.0.iter().collect();
        self.plan.measure(vec![row], &servers, |server| {
            let outcome = load::run(load, |client| load::pop3(server.port, &users[client % users.len()], retrieve));
            (vec![figure(&outcome)], outcome)
        })
    }
}

impl Mailboxes<'_> {
    /// Each session finds a message that came since the one before it, and must say so.
    fn measure_changed(&self, row: Row, load: Load, user: &str) -> Vec<Row> {
        let servers: Vec<&Server> = self.servers.0.iter().collect();
        let (arrived, owner) = (AtomicUsize::new(0), self.site.ids());
        let maildir = self.folder.join("now").join(user);
        self.plan.measure(vec![row], &servers, |server| {
            let spool = server.folder.join("spool").join(user);
            let outcome = load::run(load, |_| {
                let number = arrived.fetch_add(1, Ordering::Relaxed);
                if server.kind == Kind::Peer && spool.is_file() {
                    mail::append(&spool, number)?;
                } else {
                    mail::arrive(&maildir, number, owner)?;
                }
                load::pop3(server.port, user, Retrieve::Nothing)
            });
            (vec![outcome.rate(outcome.sessions)], outcome)
        })
    }
}

fn peerboxes() -> Vec<String> {
    (0..16).map(|number| format!("peerbox{number}")).collect()
}

fn pop3(plan: &Plan) -> Rows {
    const SECTION: &str = "POP3: login, STAT, QUIT";
    let mut boxes = Mailboxes::new(plan, "stat", &POP3[..4])?;
    let mut rows = Vec::new();
    let rate = |outcome: &Outcome| outcome.rate(outcome.sessions);
    for count in [0, 100] {
        let users = peerboxes();
        boxes.fill(mail::Box { count, size: 1024, names: Names::WithSizes }, &users)?;
        let row = row(SECTION, format!("{count} messages, C=16"), "sessions/s", Some(4.0));
        rows.extend(boxes.measure(row, plan.load(16), &users, Retrieve::Nothing, rate));
    }
    for (count, names) in [(10_000, Names::WithSizes), (10_000, Names::Bare), (100_000, Names::WithSizes)] {
        let user = ["peerbox".to_owned()];
        // An octet or so each: what lies in them is not looked at, and the folder is what costs.
        boxes.fill(mail::Box { count, size: 0, names }, &user)?;
        let what = if names == Names::Bare { " whose names tell no size" } else { "" };
        let row = row(SECTION, format!("{count} messages{what}, C=1"), "sessions/s", Some(10.0));
        rows.extend(boxes.measure(row, plan.load(1), &user, Retrieve::Nothing, rate));
        if names == Names::WithSizes {
            let row = self::row(SECTION, format!("{count} messages, one came since, C=1"), "sessions/s", Some(10.0));
            rows.extend(boxes.measure_changed(row, plan.load(1), &user[0]));
        }
    }
    // Of the largest mailbox, which is still there.
    let mut memory = row("POP3: memory of a session", "one logged in, 100000 messages".to_owned(), "kB", None);
    for server in &boxes.servers.0 {
        held(plan, server, std::slice::from_mut(&mut memory), &["peerbox".to_owned()], 1);
    }
    rows.push(memory);
    Ok(rows)
}

fn retrieve(plan: &Plan) -> Rows {
    const SECTION: &str = "POP3: RETR";
    let mut boxes = Mailboxes::new(plan, "retr", &POP3[..4])?;
    let user = ["peerbox".to_owned()];
    let few = if plan.quick { 10 } else { 40 };
    let mut rows = Vec::new();
    boxes.fill(mail::Box { count: few, size: 1_000_000, names: Names::WithSizes }, &user)?;
    let large = row(SECTION, format!("{few} of 1 MB, C=1"), "MB/s", Some(3.0));
    rows.extend(boxes.measure(large, plan.load(1), &user, Retrieve::InTurn(few), |outcome| {
        outcome.rate(outcome.moved.octets) / 1e6
    }));
    let many = if plan.quick { 20 } else { 100 };
    boxes.fill(mail::Box { count: many, size: 1024, names: Names::WithSizes }, &user)?;
    let small = row(SECTION, format!("{many} of 1 kB, C=1"), "messages/s", Some(3.0));
    let rate = |outcome: &Outcome| outcome.rate(outcome.moved.messages);
    rows.extend(boxes.measure(small, plan.load(1), &user, Retrieve::InTurn(many), rate));
    let pipelined = row(SECTION, format!("{many} of 1 kB pipelined, C=1"), "messages/s", Some(3.0));
    rows.extend(boxes.measure(pipelined, plan.load(1), &user, Retrieve::Pipelined(many), rate));
    Ok(rows)
}

fn memory(plan: &Plan) -> Rows {
    const SMTP: &str = "Memory, SMTP";
    const LOGIN: &str = "Memory, POP3";
    let count = if plan.quick { 100 } else { 1000 };
    let state = plan.disk();
    let mut rows = vec![
        row(SMTP, "at rest".to_owned(), "kB", None),
        row(SMTP, format!("each of {count} connections"), "kB", None),
    ];
    {
        let site = Site::new(&state.join("ours"), &plan.programs, &state.join("ours/mail"))?;
        let mut servers = plan.peers(&["postfix", "opensmtpd", "qpsmtpd-prefork", "limit-forkonly"], state);
        servers.0.append(&mut plan.ours(&site, "smtpsrvr", &MODES).0);
        for server in &servers.0 {
            held(plan, server, &mut rows, &[], count);
        }
    }
    let mut of_pop3 = vec![
        row(LOGIN, "at rest".to_owned(), "kB", None),
        row(LOGIN, format!("each of {count} connections"), "kB", None),
        row(LOGIN, "each of 16 logged in, 100 messages".to_owned(), "kB", None),
    ];
    let mut boxes = Mailboxes::new(plan, "memory", &POP3)?;
    let users = peerboxes();
    boxes.fill(mail::Box { count: 100, size: 1024, names: Names::WithSizes }, &users)?;
    for server in &boxes.servers.0 {
        held(plan, server, &mut of_pop3[..2], &[], count);
        held(plan, server, &mut of_pop3[2..], &users, users.len());
    }
    rows.extend(of_pop3);
    Ok(rows)
}

/// One row: memory for each held connection; two: before that, memory at rest.
fn held(plan: &Plan, server: &Server, rows: &mut [Row], users: &[String], count: usize) {
    if plan.stopped() {
        return;
    }
    let cell = |runs: Vec<f64>, first_error: Option<String>| Cell {
        server: server.name.clone(),
        kind: server.kind,
        runs,
        errors: 0,
        first_error,
    };
    settle();
    let before = process::memory(server.pid).pss;
    let greeting = if server.greeting == Greeting::Pop3 { Greeting::Pop3 } else { Greeting::Smtp };
    let (figure, trouble) = match load::hold(server.port, greeting, users, count) {
        Ok(connections) => {
            settle();
            let more = process::memory(server.pid).pss.saturating_sub(before);
            drop(connections);
            // Where what went meanwhile was more than what came nobody knows how much that was.
            (Vec::from_iter((more > 0).then(|| more as f64 / count as f64)), None)
        }
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    (plan.say)(&format!("{}: {}: at rest {before} kB, each {figure:?} kB", rows[0].section, server.name));
    if let [at_rest, _] = rows {
        at_rest.cells.push(cell(vec![before as f64], None));
    }
    if let Some(each) = rows.last_mut() {
        each.cells.push(cell(figure, trouble));
    }
}

/// Sessions end, and servers tidy up, shortly after their clients.
fn settle() {
    std::thread::sleep(Duration::from_millis(700));
}
