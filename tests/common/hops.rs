//! Next hops of our own: SMTP and LMTP servers in threads, that answer what a test says, and keep what they take.

use nix::sys::socket::{setsockopt, sockopt};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// One transaction that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub mail: String,
    pub rcpts: Vec<String>,
    pub content: String,
}

/// What a server does at a point instead of the usual answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Says this (lines without their ends).
    Say(&'static str),
    /// Closes the connection.
    Drop,
    /// Says half an answer and closes.
    Half(&'static str),
    /// Says this and closes.
    Leave(&'static str),
    /// Says nothing any more, and takes nothing if it comes in the middle of a message.
    Silence,
    /// Says this, and nothing any more.
    Last(&'static str),
    /// Says an octet every half second, and never all of an answer.
    Drip,
}

/// How a server answers: command word (`greeting`, `EHLO`, `MAIL`, `RCPT`, `DATA`, `content` in the middle of it, `.`,
/// ...), the whole line, and how many sessions there were before.
pub type Behaviour = dyn Fn(&str, &str, usize) -> Option<Act> + Send + Sync;

/// A server on loopback; gone when dropped.
pub struct Hop {
    pub address: SocketAddr,
    pub taken: Arc<Mutex<Vec<Taken>>>,
    /// Every line of every session, with `(new)` in front of each.
    pub seen: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A port that takes no connection and refuses none: whoever comes waits.
pub struct Deaf {
    pub address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Deaf {
    pub fn on(address: SocketAddr) -> Deaf {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().expect("its number");
        let none = nix::sys::socket::Backlog::new(0).expect("a number");
        nix::sys::socket::listen(&listener, none).expect("a shorter queue");
        // The system takes some for it, whom it never hears.
        let come = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let queued = std::iter::from_fn(come).collect();
        Deaf { address, _listener: listener, _queued: queued }
    }
}

/// What most servers offer.
pub const OFFERS: &str = "250-hop.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 1000000";

impl Hop {
    /// One that takes everything.
    pub fn friendly() -> Hop {
        Hop::start(|_, _, _| None)
    }

    /// One with a behaviour.
    pub fn start(behaviour: impl Fn(&str, &str, usize) -> Option<Act> + Send + Sync + 'static) -> Hop {
        Hop::on(TcpListener::bind("127.0.0.1:0").expect("a port"), behaviour)
    }

    /// One on a socket that listens.
    pub fn on(
        listener: TcpListener,
        behaviour: impl Fn(&str, &str, usize) -> Option<Act> + Send + Sync + 'static,
    ) -> Hop {
        let address = listener.local_addr().expect("its address");
        let (taken, seen, over) = (Arc::default(), Arc::default(), Arc::new(AtomicBool::new(false)));
        let (taken_by, seen_by, stop) = (Arc::clone(&taken), Arc::clone(&seen), Arc::clone(&over));
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let thread = std::thread::spawn(move || {
            let mut sessions = Vec::new();
            for (number, stream) in listener.incoming().enumerate() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let session = Session {
                    taken: Arc::clone(&taken_by),
                    seen: Arc::clone(&seen_by),
                    behaviour: behaviour.clone(),
                    number,
                };
                sessions.push(std::thread::spawn(move || session.run(&stream)));
            }
        });
        Hop { address, taken, seen, over, thread: Some(thread) }
    }

    /// As it stands in a channels file.
    pub fn name(&self) -> String {
        format!("[127.0.0.1]:{}", self.address.port())
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().expect("the list").clone()
    }

    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("the lines").clone()
    }

    pub fn sessions(&self) -> usize {
        self.seen().iter().filter(|line| *line == "(new)").count()
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads nothing, and waits for the other side to close.
fn until_it_leaves(stream: &TcpStream) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut ends = [PollFd::new(stream.as_fd(), PollFlags::from_bits_retain(nix::libc::POLLRDHUP))];
    let _ = poll(&mut ends, PollTimeout::from(30_000_u16));
}

struct Session {
    taken: Arc<Mutex<Vec<Taken>>>,
    seen: Arc<Mutex<Vec<String>>>,
    behaviour: Arc<Behaviour>,
    number: usize,
}

/// The session goes on.
struct Goes;

impl Session {
    fn run(&self, stream: &TcpStream) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
        let _ = self.talk(stream);
    }

    /// Answers; nothing: the session is over. Gives whether the answer was a good one.
    fn act(&self, mut stream: &TcpStream, word: &str, line: &str, usual: &str) -> Option<bool> {
        match (self.behaviour)(word, line, self.number).unwrap_or(Act::Say("")) {
            Act::Say(text) => {
                let text = if text.is_empty() { usual } else { text };
                stream.write_all(format!("{text}\r\n").as_bytes()).ok()?;
                Some(text.starts_with('2') || text.starts_with('3'))
            }
            Act::Drop => None,
            Act::Half(text) => {
                let _ = stream.write_all(text.as_bytes());
                None
            }
            Act::Leave(text) => {
                let _ = stream.write_all(format!("{text}\r\n").as_bytes());
                None
            }
            Act::Last(text) => {
                stream.write_all(format!("{text}\r\n").as_bytes()).ok()?;
                until_it_leaves(stream);
                None
            }
            Act::Drip => {
                while stream.write_all(b"2").is_ok() {
                    std::thread::sleep(Duration::from_millis(500));
                }
                None
            }
            Act::Silence => {
                // Until the other side has had enough.
                let mut rest = String::new();
                while BufReader::new(stream).read_line(&mut rest).is_ok_and(|count| count > 0) {}
                None
            }
        }
    }

    fn talk(&self, stream: &TcpStream) -> Option<Goes> {
        let mut reader = BufReader::new(stream);
        let note = |line: &str| self.seen.lock().expect("the lines").push(line.to_owned());
        note("(new)");
        self.act(stream, "greeting", "", "220 hop.example ESMTP")?;
        let (mut mail, mut rcpts, mut is_lmtp) = (String::new(), Vec::new(), false);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.strip_suffix("\r\n")?.to_owned();
            note(&line);
            let word = line.split(' ').next().unwrap_or_default().to_owned();
            match word.as_str() {
                "EHLO" | "LHLO" => {
                    is_lmtp = word == "LHLO";
                    self.act(stream, &word, &line, OFFERS)?;
                }
                "MAIL" => {
                    rcpts.clear();
                    mail = if self.act(stream, &word, &line, "250 2.1.0 ok")? { line } else { String::new() };
                }
                "RCPT" => {
                    let usual = if mail.is_empty() { "503 5.5.1 MAIL first" } else { "250 2.1.5 ok" };
                    if self.act(stream, &word, &line, usual)? && !mail.is_empty() {
                        rcpts.push(line);
                    }
                }
                "DATA" => {
                    let usual = if rcpts.is_empty() { "554 5.5.1 no recipients" } else { "354 go" };
                    if !self.act(stream, &word, &line, usual)? {
                        continue;
                    }
                    let mut content = String::new();
                    match (self.behaviour)("content", "", self.number) {
                        Some(Act::Drop | Act::Half(_) | Act::Leave(_)) => return None,
                        Some(Act::Silence) => {
                            // A few octets more, and the other side has to wait.
                            let _ = setsockopt(stream, sockopt::RcvBuf, &4096);
                            until_it_leaves(stream);
                            return None;
                        }
                        _ => {}
                    }
                    loop {
                        let mut line = String::new();
                        if reader.read_line(&mut line).ok()? == 0 {
                            return None;
                        }
                        if line == ".\r\n" {
                            break;
                        }
                        content.push_str(line.strip_prefix('.').unwrap_or(&line));
                    }
                    let taken = Taken { mail: std::mem::take(&mut mail), rcpts: std::mem::take(&mut rcpts), content };
                    // Taken before it is answered, as by a server that loses its connection then.
                    let answers = if is_lmtp { taken.rcpts.clone() } else { vec![String::new()] };
                    let is_refused = matches!(
                        (self.behaviour)(".", "", self.number),
                        Some(Act::Say(_) | Act::Half(_) | Act::Leave(_))
                    );
                    if !is_refused && !taken.rcpts.is_empty() {
                        self.taken.lock().expect("the list").push(taken);
                    }
                    for rcpt in answers {
                        self.act(stream, ".", &rcpt, "250 2.0.0 taken")?;
                    }
                }
                "QUIT" => {
                    self.act(stream, &word, &line, "221 bye")?;
                    return None;
                }
                _ => {
                    self.act(stream, &word, &line, "250 ok")?;
                }
            }
        }
    }
}
