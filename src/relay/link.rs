//! A connection to a next hop, with a time limit for each stage of SMTP.

use super::route::Place;
use crate::config::Config;
use crate::net::connection::{Connection, Fault, Stream};
use crate::net::tls::Failure;
use crate::net::trust::Trust;
use crate::smtp::client::{Lost, Stage, Trouble, Wire};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// One message to one next hop takes no longer than this, and a second for so many octets: whoever gives each answer just in
/// time must not hold for days what others wait for.
const MESSAGE: Duration = Duration::from_secs(3600);
const OCTETS_A_SECOND: u64 = 1000;

/// Until when a message of this size may be on its way, from now on.
pub fn end_of(size: u64) -> Instant {
    let now = Instant::now();
    let time = MESSAGE.saturating_add(Duration::from_secs(size / OCTETS_A_SECOND));
    now.checked_add(time).unwrap_or(now + MESSAGE)
}

/// Nobody answers there.
const NO_ANSWER: &str = "4.4.1 no answer to a connection";

/// No way leads there.
const UNREACHABLE: &str = "4.4.1 the host cannot be reached";

/// Whether an address was silent: others need not wait for it too. A refusal takes no time, and may be over in a second;
/// other trouble may be this machine's own.
pub fn is_silence(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Cannot(NO_ANSWER | UNREACHABLE))
}

/// How long each stage may take: Postfix's parameters.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    connect: Duration,
    hello: Duration,
    starttls: Duration,
    mail: Duration,
    rcpt: Duration,
    data: Duration,
    content: Duration,
    end: Duration,
    rset: Duration,
    quit: Duration,
}

impl Times {
    /// As configured.
    pub fn of(config: &Config) -> Times {
        Times {
            connect: config.smtp_connect_timeout.0,
            hello: config.smtp_helo_timeout.0,
            starttls: config.smtp_starttls_timeout.0,
            mail: config.smtp_mail_timeout.0,
            rcpt: config.smtp_rcpt_timeout.0,
            data: config.smtp_data_init_timeout.0,
            content: config.smtp_data_xfer_timeout.0,
            end: config.smtp_data_done_timeout.0,
            rset: config.smtp_rset_timeout.0,
            quit: config.smtp_quit_timeout.0,
        }
    }

    /// One limit to connect, and one for everything else: protocols without stages.
    pub fn all(connect: Duration, all: Duration) -> Times {
        Times {
            connect,
            hello: all,
            starttls: all,
            mail: all,
            rcpt: all,
            data: all,
            content: all,
            end: all,
            rset: all,
            quit: all,
        }
    }

    fn at(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Greeting | Stage::Hello | Stage::Auth => self.hello,
            Stage::StartTls => self.starttls,
            Stage::Mail | Stage::WithoutLogin => self.mail,
            Stage::Rcpt => self.rcpt,
            Stage::Data => self.data,
            Stage::Content => self.content,
            Stage::End => self.end,
            Stage::Rset => self.rset,
            Stage::Quit => self.quit,
        }
    }
}

/// The connection.
#[derive(Debug)]
pub struct Line {
    connection: Connection,
    times: Times,
    /// See [`end_of`]; of the message at hand.
    pub until: Instant,
    /// When the last of the answers behind its end must have come, once the first is waited for.
    answers_until: Option<Instant>,
}

impl Line {
    /// Makes it, for a message that may be on its way until then.
    pub fn connect(place: &Place, times: Times, until: Instant) -> Result<Line, Trouble> {
        // Nought is no time limit for the system, and an error for std.
        let limit = times.connect.min(left(until)).max(Duration::from_millis(1));
        let connected = match place {
            Place::Net(address) => TcpStream::connect_timeout(address, limit).map(OwnedFd::from),
            Place::Unix(path) => unix(path, limit),
        };
        let connected = connected.and_then(|socket| Ok((socket.try_clone()?, socket)));
        let (input, output) = connected.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Trouble::Cannot(NO_ANSWER),
            io::ErrorKind::ConnectionRefused => Trouble::Cannot("4.4.1 the connection was refused"),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Trouble::Cannot(UNREACHABLE),
            _ => {
                log::debug!("place={place:?} reason={:?}", error.to_string());
                Trouble::Cannot("4.4.1 no way to connect")
            }
        })?;
        // It outlives a message; what bounds it is the time of each.
        Ok(Line { connection: Connection::new(input, output, Duration::MAX), times, until, answers_until: None })
    }

    /// Becomes TLS in place.
    pub fn start_tls(&mut self, trust: &Trust, name: &str) -> Result<String, Failure> {
        self.allow(Stage::StartTls);
        self.connection.start_tls_as_client(trust, name)
    }

    /// The answer behind the end of a message has its time however late it is: the message may have been taken, and whoever
    /// does not hear that sends it once more. Where there is one for each recipient, all of them together get no more time
    /// than that beyond `until`.
    fn allow(&mut self, stage: Stage) {
        let time = self.times.at(stage);
        if stage != Stage::End {
            self.answers_until = None;
            return self.connection.allow(time.min(left(self.until)));
        }
        let latest = || Instant::now().checked_add(time).map_or(self.until, |end| end.max(self.until));
        let until = *self.answers_until.get_or_insert_with(latest);
        self.connection.allow(time.min(left(until)));
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

impl Wire for Line {
    fn send(&mut self, stage: Stage, octets: &[u8]) -> Result<(), Lost> {
        self.allow(stage);
        self.connection.send(octets).map_err(lost)
    }

    fn expect(&mut self, stage: Stage) {
        self.allow(stage);
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Lost> {
        self.connection.receive(buffer).map_err(lost)
    }
}

fn lost(fault: Fault) -> Lost {
    match fault {
        Fault::TimedOut => Lost::TimedOut,
        Fault::HungUp | Fault::Io(_) => Lost::HungUp,
    }
}

/// A socket of this machine; a server that does not accept must not hold us for ever either.
fn unix(path: &Path, limit: Duration) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = TimeVal::milliseconds(i64::try_from(limit.as_millis()).unwrap_or(i64::MAX));
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::milliseconds(0))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    #[test]
    fn the_time_of_a_message_does_not_cut_short_the_answer_that_says_it_was_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place::Net(listener.local_addr().unwrap());
        let times = Times::all(Duration::from_secs(5), Duration::from_secs(5));
        let mut line = Line::connect(&place, times, end_of(0)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        line.until = Instant::now();
        let mut room = [0; 3];
        line.expect(Stage::Rcpt);
        assert_eq!(line.receive(&mut room), Err(Lost::TimedOut));
        let answer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            server.write_all(b"250").unwrap();
            server
        });
        line.expect(Stage::End);
        assert_eq!((line.receive(&mut room), &room), (Ok(3), b"250"));
        let _server = answer.join().unwrap();
        // The answers for other recipients share that time, up to the next message.
        line.answers_until = Some(Instant::now());
        line.expect(Stage::End);
        assert_eq!(line.receive(&mut room), Err(Lost::TimedOut));
        line.expect(Stage::Mail);
        assert_eq!(line.answers_until, None);
    }

    #[test]
    fn each_stage_has_the_time_of_its_own_parameter() {
        let stages = [
            ("smtp_helo_timeout", &[Stage::Greeting, Stage::Hello, Stage::Auth][..]),
            ("smtp_starttls_timeout", &[Stage::StartTls]),
            ("smtp_mail_timeout", &[Stage::Mail]),
            ("smtp_rcpt_timeout", &[Stage::Rcpt]),
            ("smtp_data_init_timeout", &[Stage::Data]),
            ("smtp_data_xfer_timeout", &[Stage::Content]),
            ("smtp_data_done_timeout", &[Stage::End]),
            ("smtp_rset_timeout", &[Stage::Rset]),
            ("smtp_quit_timeout", &[Stage::Quit]),
        ];
        for (parameter, these) in stages {
            let (times, usual) = (Times::of(&Config::with(&[(parameter, "7s")])), Times::of(&Config::with(&[])));
            for stage in stages.iter().flat_map(|(_, stages)| stages.iter().copied()) {
                let expected = if these.contains(&stage) { Duration::from_secs(7) } else { usual.at(stage) };
                assert_eq!(times.at(stage), expected, "{parameter} at {stage:?}");
            }
        }
        let times = Times::of(&Config::with(&[("smtp_connect_timeout", "7s")]));
        assert_eq!(times.connect, Duration::from_secs(7));
    }
}
