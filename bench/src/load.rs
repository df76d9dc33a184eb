//! The load: clients in threads over blocking sockets, each session on a connection of its own.
//!
//! A session that does not come to its end as it should is an error and counts for nothing else. Whoever waits longer
//! than [`PATIENCE`] gives up.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for a server.
const PATIENCE: Duration = Duration::from_secs(20);
/// Threads do next to nothing, and there may be many.
const STACK: usize = 128 * 1024;

/// How much of a load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Sessions at once.
    pub clients: usize,
    /// No session begins after this time.
    pub time: Duration,
    /// Nor after so many.
    pub most: usize,
}

/// What one session moved.
#[derive(Debug, Default, Clone, Copy)]
pub struct Moved {
    /// Messages sent or fetched.
    pub messages: usize,
    /// Their octets.
    pub octets: usize,
}

/// What a load came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Sessions that went well.
    pub sessions: usize,
    /// What they moved in all.
    pub moved: Moved,
    /// Sessions that did not.
    pub errors: usize,
    /// What the first of them met with.
    pub first_error: Option<String>,
    /// From the start to the end of the last session.
    pub time: Duration,
}

impl Outcome {
    /// So many of something a second.
    pub fn rate(&self, count: usize) -> f64 {
        count as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// Runs sessions, which are told the number of their client, until time or number is used up; at least one.
pub fn run(load: Load, session: impl Fn(usize) -> io::Result<Moved> + Sync) -> Outcome {
    let begun = AtomicUsize::new(0);
    let total = Mutex::new(Outcome::default());
    let start = Instant::now();
    let client = |number: usize| {
        let mut own = Outcome::default();
        while begun.fetch_add(1, Ordering::Relaxed) < load.most
            && (own.sessions + own.errors == 0 || start.elapsed() < load.time)
        {
            match session(number) {
                Ok(moved) => {
                    own.sessions += 1;
                    own.moved.messages += moved.messages;
                    own.moved.octets += moved.octets;
                }
                Err(error) => {
                    own.errors += 1;
                    own.first_error.get_or_insert(error.to_string());
                }
            }
        }
        let mut total = total.lock().expect("no client panics");
        total.sessions += own.sessions;
        total.moved.messages += own.moved.messages;
        total.moved.octets += own.moved.octets;
        total.errors += own.errors;
        total.first_error = total.first_error.take().or(own.first_error);
    };
    std::thread::scope(|scope| {
        for number in 0..load.clients {
            let thread = std::thread::Builder::new().stack_size(STACK);
            thread.spawn_scoped(scope, move || client_of(&client, number)).expect("a thread");
        }
    });
    let mut outcome = total.into_inner().expect("no client panics");
    outcome.time = start.elapsed();
    outcome
}

fn client_of(client: &dyn Fn(usize), number: usize) {
    client(number);
}

/// What a dialogue goes over.
pub trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

/// One end of a dialogue.
pub struct Talk {
    reader: BufReader<Box<dyn Wire>>,
    line: Vec<u8>,
}

fn connection(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

impl Talk {
    /// Connects to a port of this machine.
    pub fn to(port: u16) -> io::Result<Talk> {
        Ok(Talk::over(Box::new(connection(port)?)))
    }

    fn over(wire: Box<dyn Wire>) -> Talk {
        Talk { reader: BufReader::with_capacity(64 * 1024, wire), line: Vec::new() }
    }

    fn say(&mut self, octets: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(octets)
    }

    fn hear(&mut self) -> io::Result<&[u8]> {
        self.line.clear();
        match self.reader.read_until(b'\n', &mut self.line)? {
            0 => Err(io::Error::other("the server hung up")),
            _ => Ok(&self.line),
        }
    }

    /// A reply of SMTP, of one or more lines, whose code begins with `digit`.
    fn reply(&mut self, digit: u8) -> io::Result<()> {
        loop {
            let line = self.hear()?;
            if line.first() != Some(&digit) {
                return Err(unexpected(line));
            }
            if line.get(3) != Some(&b'-') {
                return Ok(());
            }
        }
    }

    /// `+OK` of POP3.
    fn ok(&mut self) -> io::Result<()> {
        let line = self.hear()?;
        if line.starts_with(b"+OK") { Ok(()) } else { Err(unexpected(line)) }
    }

    /// So many answers of several lines, of which only the ends are looked at; their length. Nothing may follow them.
    fn listings(&mut self, count: usize) -> io::Result<usize> {
        const END: &[u8] = b"\r\n.\r\n";
        let finder = memchr::memmem::Finder::new(END);
        self.ok()?;
        let (mut ends, mut length, mut tail) = (0, 0, b"\r\n".to_vec());
        while ends < count {
            let piece = self.reader.fill_buf()?;
            if piece.is_empty() {
                return Err(io::Error::other("the server hung up in a message"));
            }
            let octets = piece.len();
            tail.extend_from_slice(piece);
            self.reader.consume(octets);
            length += octets;
            let mut behind = 0;
            for at in finder.find_iter(&tail) {
                (ends, behind) = (ends + 1, at + END.len());
            }
            // An end may come in two pieces.
            tail.drain(..behind.max(tail.len().saturating_sub(END.len() - 1)));
        }
        Ok(length)
    }

    fn log_in(&mut self, user: &str) -> io::Result<()> {
        self.ok()?;
        self.say(format!("USER {user}\r\n").as_bytes())?;
        self.ok()?;
        self.say(b"PASS secret\r\n")?;
        self.ok()
    }
}

fn unexpected(line: &[u8]) -> io::Error {
    io::Error::other(format!("unexpected reply: {}", String::from_utf8_lossy(line).trim_end()))
}

/// The protocols of a greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// `220 ...`
    Smtp,
    /// `+OK ...`
    Pop3,
    /// None: the server closes.
    Nothing,
}

/// Connects and waits for the greeting.
pub fn greeted(port: u16, greeting: Greeting) -> io::Result<Talk> {
    let mut talk = Talk::to(port)?;
    match greeting {
        Greeting::Smtp => talk.reply(b'2')?,
        Greeting::Pop3 => talk.ok()?,
        Greeting::Nothing => drop(talk.reader.read_to_end(&mut Vec::new())?),
    }
    Ok(talk)
}

/// Connect, greeting, QUIT.
pub fn connect(port: u16, greeting: Greeting) -> io::Result<Moved> {
    let mut talk = greeted(port, greeting)?;
    match greeting {
        Greeting::Smtp => {
            talk.say(b"QUIT\r\n")?;
            talk.reply(b'2')?;
        }
        Greeting::Pop3 => {
            talk.say(b"QUIT\r\n")?;
            talk.ok()?;
        }
        Greeting::Nothing => {}
    }
    Ok(Moved::default())
}

/// So many messages by SMTP to box@peer.test; `message` has CRLF line ends, no line that begins with a dot, and the final
/// dot.
pub fn smtp(port: u16, message: &[u8], count: usize) -> io::Result<Moved> {
    let mut talk = greeted(port, Greeting::Smtp)?;
    talk.send_mail(message, count)
}

/// One message, by a session that begins TLS before it.
pub fn smtp_with_tls(port: u16, message: &[u8], trust: &Arc<ClientConfig>) -> io::Result<Moved> {
    let stream = connection(port)?;
    let mut talk = Talk::over(Box::new(stream.try_clone()?));
    talk.reply(b'2')?;
    for command in ["EHLO client.test\r\n", "STARTTLS\r\n"] {
        talk.say(command.as_bytes())?;
        talk.reply(b'2')?;
    }
    drop(talk);
    let name = ServerName::try_from("mx.peer.test").map_err(io::Error::other)?;
    let tls = ClientConnection::new(trust.clone(), name).map_err(io::Error::other)?;
    Talk::over(Box::new(StreamOwned::new(tls, stream))).send_mail(message, 1)
}

impl Talk {
    /// Behind the greeting, to QUIT.
    fn send_mail(&mut self, message: &[u8], count: usize) -> io::Result<Moved> {
        let transaction: [(&[u8], u8); 4] = [
            (b"MAIL FROM:<load@client.test>\r\n", b'2'),
            (b"RCPT TO:<box@peer.test>\r\n", b'2'),
            (b"DATA\r\n", b'3'),
            (message, b'2'),
        ];
        self.say(b"EHLO client.test\r\n")?;
        self.reply(b'2')?;
        for (command, digit) in (0..count).flat_map(|_| transaction) {
            self.say(command)?;
            self.reply(digit)?;
        }
        self.say(b"QUIT\r\n")?;
        self.reply(b'2')?;
        Ok(Moved { messages: count, octets: count * message.len() })
    }
}

/// One message by QMQP; `package` is the whole of what is sent.
pub fn qmqp(port: u16, package: &[u8]) -> io::Result<Moved> {
    let mut talk = Talk::to(port)?;
    talk.say(package)?;
    let mut answer = Vec::new();
    talk.reader.read_to_end(&mut answer)?;
    match answer.iter().position(|octet| *octet == b':') {
        Some(colon) if answer.get(colon + 1) == Some(&b'K') => Ok(Moved { messages: 1, octets: package.len() }),
        _ => Err(unexpected(&answer)),
    }
}

/// What a session fetches.
#[derive(Debug, Clone, Copy)]
pub enum Retrieve {
    /// No message.
    Nothing,
    /// The first so many, each asked for when the one before it is there.
    InTurn(usize),
    /// The same, all asked for at once (RFC 2449 section 6.6).
    Pipelined(usize),
}

/// Login, STAT, the first `retrieve` messages, QUIT.
pub fn pop3(port: u16, user: &str, retrieve: Retrieve) -> io::Result<Moved> {
    let mut talk = Talk::to(port)?;
    talk.log_in(user)?;
    talk.say(b"STAT\r\n")?;
    talk.ok()?;
    let moved = match retrieve {
        Retrieve::Nothing => Moved::default(),
        Retrieve::InTurn(count) => {
            let mut moved = Moved { messages: count, octets: 0 };
            for number in 1..=count {
                talk.say(format!("RETR {number}\r\n").as_bytes())?;
                moved.octets += talk.listings(1)?;
            }
            moved
        }
        Retrieve::Pipelined(count) => {
            let commands: String = (1..=count).map(|number| format!("RETR {number}\r\n")).collect();
            talk.say(commands.as_bytes())?;
            Moved { messages: count, octets: talk.listings(count)? }
        }
    };
    talk.say(b"QUIT\r\n")?;
    talk.ok()?;
    Ok(moved)
}

/// Opens connections and waits for their greetings, and for the login of user after user if there are some. Twenty at a
/// time, so that no backlog overflows.
pub fn hold(port: u16, greeting: Greeting, users: &[String], count: usize) -> io::Result<Vec<Talk>> {
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        let batch = (count - held.len()).min(20);
        let mut talks = (0..batch).map(|_| Talk::to(port)).collect::<io::Result<Vec<_>>>()?;
        for (number, talk) in talks.iter_mut().enumerate() {
            match greeting {
                Greeting::Smtp => talk.reply(b'2')?,
                _ if users.is_empty() => talk.ok()?,
                _ => talk.log_in(&users[(held.len() + number) % users.len()])?,
            }
        }
        held.append(&mut talks);
    }
    Ok(held)
}
