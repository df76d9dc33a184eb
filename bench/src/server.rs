//! A server that listens: ours in each way it can be started, or a peer by the peers' scripts. Dropped, it is stopped.

use crate::load::Greeting;
use crate::process;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time from start to listening.
const PATIENCE: Duration = Duration::from_secs(15);
/// Connections at once that everybody is told to allow.
pub const MOST: usize = 1200;

/// Whose figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// doorpost.
    Ours,
    /// Another mail server.
    Peer,
    /// A program that only shows what the machine can do.
    Limit,
}

/// How ours are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// smtpd in pool mode: children that accept by themselves, each for 100 connections.
    Pool,
    /// The same as the user whom queue and mailboxes belong to, and not as root.
    PoolOfOne,
    /// As root, with a fresh child for each connection.
    Fork,
    /// smtpd starts the program for each connection.
    Smtpd,
    /// The program has the listening socket on descriptor 0 (`wait`) and forks for each connection.
    Wait,
    /// openbsd-inetd, `nowait`.
    Inetd,
    /// ucspi-tcp.
    Tcpserver,
}

/// All there are.
pub const MODES: [Mode; 7] =
    [Mode::Pool, Mode::PoolOfOne, Mode::Fork, Mode::Smtpd, Mode::Wait, Mode::Inetd, Mode::Tcpserver];

impl Mode {
    /// As the table names it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Pool => "doorpost, smtpd (pool)",
            Mode::PoolOfOne => "doorpost, smtpd (pool, --user)",
            Mode::Fork => "doorpost, smtpd (pool, a fork each)",
            Mode::Smtpd => "doorpost, smtpd (exec)",
            Mode::Wait => "doorpost, accept loop (fork)",
            Mode::Inetd => "doorpost, openbsd-inetd",
            Mode::Tcpserver => "doorpost, tcpserver",
        }
    }
}

/// A running server.
pub struct Server {
    /// As the table names it.
    pub name: String,
    /// Whose it is.
    pub kind: Kind,
    /// Where it listens.
    pub port: u16,
    /// Where it listens for QMQP, if that is another port.
    pub qmqp: u16,
    /// The process that all others descend from.
    pub pid: u32,
    /// Where mail for box@peer.test goes.
    pub maildir: Option<PathBuf>,
    /// What it says first.
    pub greeting: Greeting,
    /// Its state folder.
    pub folder: PathBuf,
    stop: Stop,
}

enum Stop {
    /// With the deliver of a queue of its own.
    Process(Child, Option<Child>),
    Script(PathBuf),
}

impl Drop for Server {
    fn drop(&mut self) {
        match &mut self.stop {
            Stop::Process(child, deliver) => {
                process::end(child);
                deliver.iter_mut().for_each(process::end);
            }
            Stop::Script(script) => {
                let _ = quiet(Command::new(script).arg(&self.folder).arg("--wipe")).status();
            }
        }
    }
}

impl Server {
    /// Has Postfix offer STARTTLS with the certificate of a site of ours.
    pub fn give_tls(&self, site: &Site) -> io::Result<()> {
        let (etc, certificate) = (self.folder.join("etc"), site.folder.display());
        let more = format!(
            "smtpd_tls_security_level = may\nsmtpd_tls_cert_file = {certificate}/cert.pem\n\
             smtpd_tls_key_file = {certificate}/key.pem\n"
        );
        append(&etc.join("main.cf"), &more)?;
        append(&etc.join("master.cf"), "tlsmgr unix - - n 1000? 1 tlsmgr\n")?;
        let status = quiet(Command::new("postfix").arg("-c").arg(&etc).arg("reload")).status()?;
        // Its children read it one after another.
        std::thread::sleep(Duration::from_secs(1));
        if status.success() { Ok(()) } else { Err(io::Error::other("postfix reload failed")) }
    }
}

fn append(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new().append(true).open(path)?.write_all(text.as_bytes())
}

/// Servers that are stopped together, for some take a while.
#[derive(Default)]
pub struct Servers(pub Vec<Server>);

impl Drop for Servers {
    fn drop(&mut self) {
        std::thread::scope(|scope| {
            for server in self.0.drain(..) {
                scope.spawn(move || drop(server));
            }
        });
    }
}

/// An installation of ours in a folder of its own: programs, configuration, queue, mailboxes.
pub struct Site {
    /// That folder.
    pub folder: PathBuf,
    maildirs: PathBuf,
    /// Who owns queue and mailboxes, where that is not who runs this.
    owner: Option<Owner>,
    /// What else stands in main.cf.
    more: String,
    /// Delivers what comes in.
    deliver: Child,
}

impl Site {
    /// Makes one, with users box, peerbox and peerbox0 to peerbox15 whose password is `secret`.
    pub fn new(folder: &Path, programs: &Path, maildirs: &Path) -> io::Result<Site> {
        Site::with(folder, programs, maildirs, String::new())
    }

    /// The same with a new certificate.
    pub fn with_tls(folder: &Path, programs: &Path, maildirs: &Path) -> io::Result<Site> {
        fs::create_dir_all(folder)?;
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.join(name));
        let options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=mx.peer.test";
        let mut openssl = Command::new("openssl");
        openssl.args(options.split(' ')).arg("-out").arg(&certificate).arg("-keyout").arg(&key);
        if !quiet(&mut openssl).status()?.success() {
            return Err(io::Error::other("openssl req failed"));
        }
        let more = format!("tls_cert_file = {}\ntls_key_file = {}\n", certificate.display(), key.display());
        Site::with(folder, programs, maildirs, more)
    }

    fn with(folder: &Path, programs: &Path, maildirs: &Path, more: String) -> io::Result<Site> {
        let owner = owner()?;
        for part in ["bin", "queue", "mail", "etc"] {
            fs::create_dir_all(folder.join(part))?;
        }
        for program in ["smtpsrvr", "qmqpd", "pop3d", "smtpd", "submit", "deliver"] {
            fs::copy(programs.join(program), folder.join("bin").join(program))?;
        }
        let settings = Settings { folder, maildirs, owner: owner.map(|(name, ..)| name), more: &more };
        settings.write("etc", "queue")?;
        fs::write(folder.join("etc/channels"), "local * peer.test,$myhostname mailbox: local\n")?;
        let mut users = String::new();
        for user in ["box".to_owned(), "peerbox".to_owned()].into_iter().chain((0..16).map(|n| format!("peerbox{n}"))) {
            users += &format!("{user}:{{PLAIN}}secret::::{}/mail::\n", folder.display());
        }
        fs::write(folder.join("etc/passwd"), users)?;
        let ids = owner.map(|(_, uid, gid)| (uid, gid));
        for part in ["queue", "mail"] {
            crate::mail::give(&folder.join(part), ids)?;
        }
        let mut deliver = command(folder, &folder.join("bin/deliver"));
        let deliver = deliver.arg("--watch").spawn()?;
        Ok(Site { folder: folder.to_owned(), maildirs: maildirs.to_owned(), owner, more, deliver })
    }

    /// Starts a program of ours behind a port.
    pub fn start(&self, program: &str, mode: Mode) -> io::Result<Server> {
        let path = self.folder.join("bin").join(program);
        let mut port = free_port()?;
        let mut deliver = None;
        let text = |path: &Path| path.display().to_string();
        let mut command = match mode {
            Mode::Pool | Mode::PoolOfOne | Mode::Fork | Mode::Smtpd => {
                let mut command = command(&self.folder, &self.folder.join("bin/smtpd"));
                if mode != Mode::Smtpd {
                    deliver = Some(self.queue_of(mode, &mut command)?);
                }
                match mode {
                    Mode::Pool | Mode::PoolOfOne => {
                        command.args(["--mode", "pool", "--idle-children", "16", "-o", "max_use=100"])
                    }
                    Mode::Fork => command.args(["--mode", "pool", "--idle-children", "0", "-o", "max_use=1"]),
                    _ => command.args(["--mode", "exec"]),
                };
                if let (Mode::PoolOfOne, Some((name, ..))) = (mode, self.owner) {
                    command.args(["--user", name]);
                }
                command.args(["--listen-address", "127.0.0.1", "--port", &port.to_string(), "-n", &MOST.to_string()]);
                command.arg(program);
                command
            }
            Mode::Wait => {
                let mut command = command(&self.folder, &path);
                let listener = doorpost::net::listener::Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), false)?;
                listener.set_blocking(true)?;
                port = listener.port();
                let fd = std::os::fd::AsFd::as_fd(&listener).try_clone_to_owned()?;
                command.stdin(Stdio::from(fd));
                command
            }
            Mode::Inetd => {
                let user =
                    nix::unistd::User::from_uid(nix::unistd::geteuid())?.map_or("root".to_owned(), |user| user.name);
                let conf = self.folder.join(format!("etc/inetd.{program}"));
                fs::write(
                    &conf,
                    format!("127.0.0.1:{port} stream tcp nowait.60000 {user} {} {program}\n", text(&path)),
                )?;
                let mut command = command(&self.folder, Path::new("/usr/sbin/inetd"));
                command.arg("-i").arg(conf);
                command
            }
            Mode::Tcpserver => {
                let mut command = command(&self.folder, Path::new("/usr/bin/tcpserver"));
                let (most, port) = (MOST.to_string(), port.to_string());
                command.args(["-H", "-R", "-l0", "-b", "1024", "-c", &most, "127.0.0.1", &port, &text(&path)]);
                command
            }
        };
        let child = command.spawn().map_err(|error| io::Error::other(format!("{}: {error}", mode.name())))?;
        drop(command);
        let greeting = if program == "pop3d" { Greeting::Pop3 } else { Greeting::Smtp };
        let server = Server {
            name: mode.name().to_owned(),
            kind: Kind::Ours,
            port,
            qmqp: port,
            pid: child.id(),
            maildir: Some(self.folder.join("mail/box")),
            greeting,
            folder: self.folder.clone(),
            stop: Stop::Process(child, deliver),
        };
        wait_for(port)?;
        Ok(server)
    }
}

impl Site {
    /// The user and group that queue and mailboxes belong to, where that is not who runs this.
    pub fn ids(&self) -> Option<(u32, u32)> {
        self.owner.map(|(_, uid, gid)| (uid, gid))
    }

    /// A configuration and queue of its own for a mode that keeps a submit at it, for everybody else at that queue would
    /// use it too. Gives what delivers from there.
    fn queue_of(&self, mode: Mode, smtpd: &mut Command) -> io::Result<Child> {
        let (etc, queue) = (format!("etc-{mode:?}"), format!("queue-{mode:?}"));
        for part in [&etc, &queue] {
            fs::create_dir_all(self.folder.join(part))?;
        }
        crate::mail::give(&self.folder.join(&queue), self.ids())?;
        let owner = self.owner.map(|(name, ..)| name);
        Settings { folder: &self.folder, maildirs: &self.maildirs, owner, more: &self.more }.write(&etc, &queue)?;
        fs::copy(self.folder.join("etc/channels"), self.folder.join(&etc).join("channels"))?;
        smtpd.env("MAIL_CONFIG", self.folder.join(&etc));
        let mut deliver = command(&self.folder, &self.folder.join("bin/deliver"));
        deliver.arg("--watch").env("MAIL_CONFIG", self.folder.join(&etc)).spawn()
    }
}

/// What stands in a main.cf.
struct Settings<'a> {
    folder: &'a Path,
    maildirs: &'a Path,
    owner: Option<&'static str>,
    more: &'a str,
}

impl Settings<'_> {
    fn write(&self, etc: &str, queue: &str) -> io::Result<()> {
        let (folder, maildirs, more) = (self.folder.display(), self.maildirs.display(), self.more);
        let mail_owner = self.owner.map_or(String::new(), |name| format!("mail_owner = {name}\n"));
        let main_cf = format!(
            "myhostname = mx.peer.test\n{mail_owner}queue_directory = {folder}/{queue}\n\
             users = passwd-file:{folder}/etc/passwd\nmailbox = maildir:{maildirs}/%u\n\
             qmqpd_authorized_clients = 127.0.0.0/8\nmessage_size_limit = 52428800\nchildren = {MOST}\nmax_idle = 0\n{more}"
        );
        fs::write(self.folder.join(etc).join("main.cf"), main_cf)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        process::end(&mut self.deliver);
    }
}

/// A program with our configuration and nothing on its standard streams: records go to a syslog that is not there, as the
/// peers' do.
pub fn command(folder: &Path, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin").env("MAIL_CONFIG", folder.join("etc"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A user's name, number and group.
type Owner = (&'static str, u32, u32);

/// Whom the mail belongs to when started as root: a user of the peers, so that both can read it, or nobody.
fn owner() -> io::Result<Option<Owner>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    for name in ["peerbox", "nobody"] {
        if let Some(user) = nix::unistd::User::from_name(name)? {
            return Ok(Some((name, user.uid.as_raw(), user.gid.as_raw())));
        }
    }
    Err(io::Error::other("there is no user nobody"))
}

/// The folder with the peers' scripts, and where their limit programs were built.
pub struct Peers {
    /// up.sh and down.sh are there.
    pub scripts: PathBuf,
    /// `LOAD_BIN` for up.sh.
    pub limits: PathBuf,
}

impl Peers {
    /// Builds the limit programs, if that was not done before.
    pub fn find(scripts: &Path, target: &Path) -> io::Result<Peers> {
        let limits = target.join("bench-limits");
        if !limits.join("minisrv-raw").exists() {
            let built = quiet(Command::new(scripts.join("load/build.sh")).arg(&limits)).status()?;
            if !built.success() {
                return Err(io::Error::other("the peers' load/build.sh failed"));
            }
        }
        Ok(Peers { scripts: scripts.to_owned(), limits })
    }

    /// Starts a peer.
    pub fn start(&self, name: &str, folder: &Path) -> io::Result<Server> {
        let mut command = Command::new(self.scripts.join("up.sh"));
        command.arg(name).arg(folder).env("LOAD_BIN", &self.limits).env("PEER_MAX", MOST.to_string());
        let output = command.stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let value = |key: &str| -> Option<u32> {
            text.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
        };
        let (Some(port), Some(pid)) = (value("port"), value("pid")) else {
            return Err(io::Error::other(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())));
        };
        let port = u16::try_from(port).map_err(io::Error::other)?;
        let is_limit = name.starts_with("limit-") || name.starts_with("noop-");
        let is_pop3 = ["dovecot", "mailutils", "popa3d"].iter().any(|known| name.starts_with(known));
        let greeting = match name {
            "limit-accept" | "limit-fork-noop" | "limit-spawn-noop" => Greeting::Nothing,
            _ if name.starts_with("noop-") => Greeting::Nothing,
            _ if is_pop3 => Greeting::Pop3,
            _ => Greeting::Smtp,
        };
        Ok(Server {
            name: name.to_owned(),
            kind: if is_limit { Kind::Limit } else { Kind::Peer },
            port,
            qmqp: value("qmqp").and_then(|port| u16::try_from(port).ok()).unwrap_or(port),
            pid,
            maildir: Some(folder.join("mail/box")).filter(|folder| folder.is_dir()),
            greeting,
            folder: folder.to_owned(),
            stop: Stop::Script(self.scripts.join("down.sh")),
        })
    }
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn wait_for(port: u16) -> io::Result<()> {
    let start = Instant::now();
    while TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_err() {
        if start.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("nobody listens on port {port}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Both ends of a TCP connection on this machine: the server's for a program's standard input and output, and the client's.
pub fn connection() -> io::Result<(OwnedFd, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    Ok((listener.accept()?.0.into(), client))
}
