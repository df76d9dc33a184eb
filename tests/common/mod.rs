//! A scratch installation (configuration, queue, mailboxes, users) and the player of transcripts.
//!
//! Everything lies in a temporary folder and goes with it. As root the servers become `mail_owner`, which is `nobody`
//! here, so the folder is made nobody's; as anybody else all stays with that user.
#![allow(dead_code, clippy::print_stderr, missing_docs)]

pub mod chance;
pub mod connections;
pub mod delivering;
pub mod enqueue;
pub mod filter;
pub mod hops;
pub mod local;
pub mod login;
pub mod manual;
pub mod names;
pub mod needs;
pub mod postfix;
pub mod processes;
pub mod relaying;
pub mod syslog;
pub mod tls;
pub mod transcript;
pub mod watching;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirEntryExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// uid and gid of nobody, whom the servers become when the tests run as root.
pub const NOBODY: u32 = 65534;

/// The password of every user of a scratch installation.
pub const PASSWORD: &str = "secret";

/// An installation of its own in a temporary folder: users alice, bob and carol with Maildirs, host mx.example.
pub struct Scratch {
    folder: tempfile::TempDir,
    /// Keeps the queue's FIFO open, so that nobody starts deliver behind the test's back; dropped by `let_deliver_start`.
    trigger: Option<fs::File>,
}

/// A message, unless somebody keeps it locked: the child of another test may have a copy of our own lock until it has begun
/// its program.
fn unless_kept(queue: &doorpost::queue::Queue, id: &doorpost::queue::Id) -> Option<doorpost::queue::Message> {
    let begun = std::time::Instant::now();
    loop {
        match queue.try_take(id).expect("a readable message") {
            Err(doorpost::queue::NotTaken::Locked) if begun.elapsed() < Duration::from_secs(1) => {
                std::thread::yield_now();
            }
            taken => return taken.ok(),
        }
    }
}

impl Scratch {
    /// A fresh installation.
    pub fn new() -> Scratch {
        Scratch::with("")
    }

    /// A fresh installation with more lines in main.cf; later lines win.
    pub fn with(main_cf: &str) -> Scratch {
        usual_umask();
        let folder = tempfile::Builder::new().prefix("doorpost-test-").tempdir().expect("a temporary folder");
        let mut scratch = Scratch { folder, trigger: None };
        let path = scratch.path().to_owned();
        fs::create_dir(scratch.queue()).expect("queue folder");
        fs::set_permissions(scratch.queue(), fs::Permissions::from_mode(0o700)).expect("mode of the queue");
        fs::create_dir(path.join("mail")).expect("mail folder");
        nix::unistd::mkfifo(&scratch.queue().join("trigger"), nix::sys::stat::Mode::from_bits_truncate(0o600))
            .expect("trigger");
        fs::write(
            path.join("main.cf"),
            format!(
                "myhostname = mx.example\nmail_owner = nobody\nqueue_directory = {0}/queue\nusers = passwd-file:{0}/passwd\n\
                 mailbox = maildir:{0}/mail/%u\nalias_maps = {0}/aliases\ndrop_directory = {0}/drop\n\
                 qmqpd_error_delay = 0\nsmtpd_error_sleep_time = 0\ndaemon_directory = {1}\n{main_cf}\n",
                path.display(),
                bin_folder().display(),
            ),
        )
        .expect("main.cf");
        fs::write(path.join("aliases"), "# none\n").expect("the alias file");
        let users: String = ["alice", "bob", "carol"]
            .iter()
            .map(|user| format!("{user}:{{PLAIN}}{PASSWORD}::::{}/home/{user}::\n", path.display()))
            .collect();
        fs::write(path.join("passwd"), users).expect("passwd-file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode of the folder");
        scratch.hand_over(&path);
        scratch.trigger = Some(
            fs::OpenOptions::new()
                .read(true)
                .custom_flags(nix::libc::O_NONBLOCK)
                .open(scratch.queue().join("trigger"))
                .expect("opening the trigger"),
        );
        scratch
    }

    /// Where it all lies; also the folder for `--config`.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// queue_directory.
    pub fn queue(&self) -> PathBuf {
        self.path().join("queue")
    }

    /// A user's Maildir.
    pub fn maildir(&self, user: &str) -> PathBuf {
        self.path().join("mail").join(user)
    }

    /// Adds lines to main.cf.
    pub fn configure(&self, lines: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(self.path().join("main.cf")).expect("main.cf");
        writeln!(file, "{lines}").expect("main.cf");
    }

    /// Writes a file of the installation (`channels`, `passwd`, ...).
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("a file of the installation");
        self.hand_over(&self.path().join(name));
    }

    /// The same for one that nobody has touched for a minute: deliver waits for what is being written.
    pub fn write_long_ago(&self, name: &str, text: &str) {
        self.write(name, text);
        let file = fs::OpenOptions::new().write(true).open(self.path().join(name)).expect("it");
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).expect("its time");
    }

    /// From now on `submit` finds nobody reading the FIFO and starts deliver.
    pub fn let_deliver_start(&mut self) {
        self.trigger = None;
    }

    /// Puts a message into new/ of a user's Maildir, which is made where it is missing. Gives its path.
    pub fn put_mail(&self, user: &str, name: &str, content: &[u8]) -> PathBuf {
        let maildir = self.maildir(user);
        for part in ["tmp", "new", "cur"] {
            fs::create_dir_all(maildir.join(part)).expect("Maildir");
        }
        let file = maildir.join("new").join(name);
        fs::write(&file, content).expect("a message");
        for path in [&maildir, &maildir.join("tmp"), &maildir.join("new"), &maildir.join("cur"), &file] {
            self.hand_over(path);
        }
        file
    }

    /// The messages in a user's Maildir (new/ and cur/), in the order of their names.
    pub fn mail(&self, user: &str) -> Vec<Vec<u8>> {
        let mut files = Vec::new();
        for part in ["new", "cur"] {
            let Ok(entries) = fs::read_dir(self.maildir(user).join(part)) else { continue };
            files.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
        files.sort_by_key(|path| path.file_name().map(OsStr::to_owned));
        files.iter().map(|path| fs::read(path).expect("a message")).collect()
    }

    /// One of our programs, told to use this installation and nothing else of the environment.
    pub fn command(&self, program: &str) -> Command {
        let file = NAMES.iter().find(|(name, _)| *name == program).map_or(program, |(_, file)| file);
        let mut command = Command::new(binary(file));
        command.arg0(program).env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", self.path());
        command
    }

    /// Runs a program to its end with `input` on standard input.
    pub fn run(&self, program: &str, arguments: &[&str], input: &[u8]) -> Output {
        feed(self.command(program).args(arguments), input)
    }

    /// Waits until nobody has a message locked. A program that another test starts at this moment may hold a copy of a
    /// lock of ours until its exec, and the next deliver would pass the message by.
    pub fn settle(&self) {
        let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = || entries(&self.queue().join("message"));
        let inodes = || folders().flat_map(|folder| entries(&folder.path())).map(|file| file.ino());
        // On another file system files of others have the same numbers, above all where it is small.
        let device = device_of(&self.queue());
        until("the end of all locks", || {
            let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
            !inodes().any(|inode| locks.contains(&format!(" {device}:{inode} ")))
        });
    }

    /// One sweep of deliver, which must succeed; gives its log.
    pub fn deliver(&self) -> String {
        self.settle();
        let output = self.run("deliver", &[], b"");
        assert!(output.status.success(), "deliver: {output:?}");
        String::from_utf8(output.stderr).expect("printable records")
    }

    /// The messages in a user's Maildir as text.
    pub fn texts(&self, user: &str) -> Vec<String> {
        self.mail(user).into_iter().map(|mail| String::from_utf8_lossy(&mail).into_owned()).collect()
    }

    /// What is queued, oldest first: reverse-path, recipients and content behind our Received field. Taken apart by
    /// the library, so nothing incomplete is ever seen here.
    pub fn queued(&self) -> Vec<Queued> {
        let queue = doorpost::queue::Queue::at(&self.queue());
        let future = std::time::SystemTime::now() + Duration::from_secs(86_400 * 365);
        let mut due = queue.due(future).unwrap_or_default();
        due.sort_by_key(|(_, id)| *id);
        due.iter().filter_map(|(_, id)| unless_kept(&queue, id)).map(|message| Queued::read(&message)).collect()
    }

    /// Gives a path, and what is below it, to the user that the servers become.
    pub fn hand_over(&self, path: &Path) {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        self.hand_over_alone(path);
        if path.is_dir() {
            for entry in fs::read_dir(path).expect("a folder") {
                self.hand_over(&entry.expect("an entry").path());
            }
        }
    }

    /// The same without what is below it.
    fn hand_over_alone(&self, path: &Path) {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        // A deliver that runs may remove a message just now.
        match chown(path, Some(NOBODY), Some(NOBODY)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            changed => changed.expect("chown"),
        }
    }
}

/// What a test writes others can read, whatever whoever runs it has in his profile.
pub fn usual_umask() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
}

/// A message of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    pub id: String,
    pub reverse_path: Vec<u8>,
    pub recipients: Vec<Vec<u8>>,
    /// What was said with MAIL, and behind a `|` each what was said with RCPT.
    pub parameters: String,
    /// Trace field and content.
    pub whole: Vec<u8>,
}

impl Queued {
    fn read(message: &doorpost::queue::Message) -> Queued {
        let mut whole = Vec::new();
        message.content().read_to_end(&mut whole).expect("reading a message");
        assert_eq!(whole.len() as u64, message.size, "a message shorter than its size");
        let of_recipients = message.recipients.iter().map(|r| format!("|{}", r.parameters));
        Queued {
            id: message.id.to_string(),
            parameters: format!("{}{}", message.parameters, of_recipients.collect::<String>()),
            reverse_path: message.reverse_path.as_bytes().to_vec(),
            recipients: message.recipients.iter().map(|r| r.address.as_bytes().to_vec()).collect(),
            whole,
        }
    }

    /// The content as the client sent it: without the one Received field in front.
    pub fn content(&self) -> &[u8] {
        assert!(self.whole.starts_with(b"Received: "), "no Received field: {:?}", String::from_utf8_lossy(&self.whole));
        let mut at = 0;
        loop {
            at += self.whole[at..].iter().position(|octet| *octet == b'\n').expect("an end of the Received field") + 1;
            if !matches!(self.whole.get(at), Some(b' ' | b'\t')) {
                return &self.whole[at..];
            }
        }
    }
}

/// The device of a folder's file system, as /proc/locks has it. For some file systems stat(2) gives another one.
fn device_of(folder: &Path) -> String {
    let folder = fs::canonicalize(folder).expect("a folder");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    // Of those on one point the last is on top.
    let device = mounts.filter(|fields| folder.starts_with(fields[4])).max_by_key(|fields| fields[4].len());
    let device = device.expect("a root")[2].to_owned();
    let (major, minor) = device.split_once(':').expect("two numbers");
    let [major, minor] = [major, minor].map(|number| number.parse::<u32>().expect("a number"));
    format!("{major:02x}:{minor:02x}")
}

/// Runs a command to its end with `input` on standard input; a child that does not read all of it is no error.
pub fn feed(command: &mut Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a program of ours");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("the end of a program");
    let _ = writer.join();
    output
}

/// Runs a command as inetd does, with one TCP connection on descriptors 0, 1 and 2. The client sends `input`, closes
/// its half, and reads to the end.
pub fn under_inetd(command: &mut Command, input: &[u8]) -> (String, ExitStatus) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let mut client = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    let server = OwnedFd::from(listener.accept().expect("the other end").0);
    let end = || Stdio::from(server.try_clone().expect("a descriptor"));
    let mut child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("the program");
    // The builder keeps its own copies of the descriptors.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    drop(server);
    client.write_all(input).expect("sending");
    let _ = client.shutdown(Shutdown::Write);
    let mut seen = Vec::new();
    // A server that dies with octets unread resets the connection; what it said before is here all the same.
    if let Err(error) = client.read_to_end(&mut seen) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "reading to the end");
    }
    (seen.escape_ascii().to_string(), child.wait().expect("its end"))
}

/// Writes a program. Another process does: what a test beside this one starts at that moment has for a while what we have open,
/// and the system runs nothing that somebody has open for writing (ETXTBSY).
pub fn write_program(path: &Path, text: &str) {
    let mut command = Command::new("/bin/sh");
    let output = feed(command.args(["-c", "cat >\"$0\" && chmod 755 \"$0\""]).arg(path), text.as_bytes());
    assert!(output.status.success(), "{output:?}");
}

/// Waits for something that another process does, at most 20 s; polling, because there is nothing to wait on.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port of 127.0.0.1 that nobody has, for programs that cannot be given a listening socket, and for those who are to find
/// nobody there. It is below those that the kernel gives to clients, so that none of them takes it, nor a connection to it
/// finds itself.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Far from those of another process of tests that was started with this one.
    let start = u16::try_from(std::process::id() * 97 % 20_000).expect("a small number");
    loop {
        let port = 12_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed) % 20_000) % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// The same as an address.
pub fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// Names under which a program is another, and its file.
const NAMES: [(&str, &str); 3] = [("lmtpsrvr", "smtpsrvr"), ("qmtpd", "qmqpd"), ("rsmtpsrvr", "smtpsrvr")];

/// The path of one of our programs.
pub fn binary(name: &str) -> PathBuf {
    bin_folder().join(name)
}

/// The folder of our programs. Where nobody could not reach the build folder, they are copied to one that can.
pub fn bin_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_submit")).parent().expect("a folder").to_owned();
        let open = |path: &Path| fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o001 != 0);
        if !nix::unistd::geteuid().is_root() || built.ancestors().all(open) {
            return built;
        }
        let copy = std::env::temp_dir().join(format!("doorpost-bin-{}", std::process::id()));
        fs::create_dir_all(&copy).expect("a folder for the programs");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("its mode");
        let programs = ["smtpsrvr", "qmqpd", "pop3d", "smtpd", "submit", "deliver"];
        let programs = programs.into_iter().chain(["doorpost-queue", "doorpost-check", "checkaddr"]);
        // Not by ourselves, as with `write_program`.
        let copied = Command::new("cp").args(programs.map(|program| built.join(program))).arg(&copy).status();
        assert!(copied.expect("cp").success(), "copies of the programs");
        copy
    })
}
