//! The form with three processes that stay, in a pool that was started by root: what `split` does for one client, done for
//! one after another without a fork for each.
//!
//! ```text
//! parser    net_owner (or mail_owner), for good: accepts, and speaks with the client until it has a name and a password
//! checker   root: hears one bounded packet at a time, checks passwords, passes the connection on and reads nothing of it
//! owner     the user, for good: TRANSACTION, for users of one uid one after another; another uid gets a process of its own
//! ```
//!
//! The parser serves `max_use` clients, as other children of a pool do; who wants a fresh process for each leaves that at
//! 1 and gets `split`. It never hears what was checked before, and the checker keeps nothing of a client. Under TLS the
//! parser stays between the client and the owner, and relays.
//!
//! ```text
//! parser to checker   ?  what of the files that passwords are in
//!                     ! and the number of an owner: it has ended; and the same question
//!                     C, failures so far, D or R, four octets that say how many milliseconds the session may last still,
//!                        two that count, the low ones first, and as many that the client sent behind the password, then
//!                        the frame of `auth::gate`; with the connection
//!                     G, D or R, time and octets of the client as above: after Y; with R the end that the owner is to serve
//! checker to parser   R or S (ready; S: passwords are stored in clear), P (configuration), T (trouble)
//!                     N (no), U (nobody can say); Y, and what the mechanism has to say at its end
//!                     O and the number of another owner, with the end at which that is heard from now on
//! owner to parser     a dot (the session is over), T (there was none: it could not become the user, or not take the
//!                     session over)
//! ```
//!
//! d and r stand for D and R where the client said UTF8. D: the owner is to serve the connection itself; after C with D,
//! where the mechanism has nothing to say, it does so at once. The parser waits for the owner's dot, and if that is gone
//! tells the checker: what it hears is O, or nothing before the answer to `!`. An owner that had nothing to do for `max_idle`,
//! 10 s at the most, ends by itself; first it lets nobody send to it any more, so that no session gets lost.
//!
//! Who cannot be served behind a right password hears so from the parser, and where that only relays from whoever failed,
//! on the end that it relays from: `turn_away`. An owner that had no room for that end has none to say it on: the connection
//! then ends without a word.
//!
//! Whatever a parser says, and in whatever order, what it gets is what one client with those credentials gets.

mod checker;
mod owner;
pub mod packet;

pub use checker::run as check;

use super::dialogue::Dialogue;
use super::reply::Reply;
use super::server::{self, Access, Entered};
use super::split;
use crate::again::again;
use crate::auth::gate::{self, Answer};
use crate::config::Config;
use crate::exit::{self, Ended, Error};
use crate::lookup::Lookup;
use crate::net::connection::{Connection, Fault, Stream};
use crate::net::packets::Packets;
use crate::net::peer::Peer;
use crate::net::signals;
use crate::net::tls::Offer;
use crate::privilege::{self, Account};
use crate::record::Recorder;
use crate::sasl::Credentials;
use crate::sys;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::{Pid, getpid};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Room for any packet: a frame, and what a parser may have read behind it.
const LARGEST: usize = 32 * 1024;
/// For so long the parser believes what it heard of the files that passwords are in.
const FRESH: Duration = Duration::from_secs(1);

/// A parser that serves one client after another.
#[derive(Debug)]
pub struct Parser {
    checker: Packets,
    /// Where the owner is heard who is there.
    owner: Option<(Packets, u8)>,
    tls: Offer,
    /// What was heard last of the files, and when.
    ready: Option<(Instant, bool)>,
    /// How often the checker was told that an owner has ended, and has not said yet that it has heard it.
    told: u32,
    /// The checker has ended, and nobody can be served any more.
    is_lost: bool,
}

/// Runs `accept` in a parser whose parent is the checker, where `config` says of `server` that processes are to stay and
/// this one could become anybody; else, or where that fails, in this process and without a parser. Who parses has what
/// `offer` gives, and nobody else.
pub fn stay<S>(
    server: &mut S,
    config: impl Fn(&S) -> &Config,
    offer: impl FnOnce(&mut S) -> Result<Offer, Error>,
    mut accept: impl FnMut(&mut S, Option<Parser>) -> u8,
) -> u8 {
    if !privilege::is_root() || config(server).max_use == 1 {
        return accept(server, None);
    }
    // Keys may be for root's eyes alone.
    let begun = split::parser(config(server)).and_then(|account| {
        let tls = offer(server)?;
        let ends = Packets::pair().map_err(|errno| Error::Temporary(format!("socketpair: {errno}")))?;
        Ok((account, tls, ends))
    });
    // Each client will hear of it.
    let Ok((account, tls, (ours, theirs))) = begun else { return accept(server, None) };
    let (mut ours, checker) = (Some(ours), getpid());
    let parser = || {
        drop(ours.take());
        match Parser::begin(&account, checker, theirs, tls) {
            Ok(parser) => accept(server, Some(parser)),
            Err(error) => {
                log::error!("{error}");
                exit::code(&Err(error))
            }
        }
    };
    match (sys::fork(parser), ours) {
        (Ok(child), Some(ours)) => checker::run(config(server), ours, child),
        _ => accept(server, None),
    }
}

/// Ends this process with the checker.
fn end_with(checker: Pid) -> Result<(), Error> {
    signals::end_with(checker).map_err(|errno| Error::Temporary(format!("prctl: {errno}")))
}

impl Parser {
    fn begin(account: &Account, checker: Pid, ours: Packets, tls: Offer) -> Result<Parser, Error> {
        privilege::become_user(account.uid, account.gid)?;
        end_with(checker)?;
        Ok(Parser { checker: ours, owner: None, tls, ready: None, told: 0, is_lost: false })
    }

    /// Serves the client on standard input and output.
    pub fn session(&mut self, config: &Config) -> Result<Ended, Error> {
        let Some(peer) = Peer::of_stdio(None, None) else { return Ok(Ended::HungUp) };
        let peer = peer.asking(config);
        peer.debug_if_listed(config);
        let connection = Connection::from_stdio(config.daemon_timeout.0).map_err(server::no_connection)?;
        let mut stream = Recorder::new(connection, None, &server::HEAD);
        let mut dialogue = Dialogue::new(&mut stream, config.pop3d_timeout.0).set_up(config);
        let secrets = match self.ready() {
            Answer::Ready(secrets) => secrets,
            answer => {
                let is_wrong = matches!(answer, Answer::Misconfigured);
                dialogue.close(if is_wrong { &Reply::MISCONFIGURED } else { &Reply::TROUBLE });
                return Ok(Ended::Refused);
            }
        };
        let access = Access::new(config, &peer, secrets, self.tls.clone());
        let mut is_over = false;
        let entered = server::authorize(&mut dialogue, &peer, access, |dialogue, credentials, failures| {
            // What is still to be said the client must have before the owner speaks.
            let direct = dialogue.stream().stream().is_clear() && dialogue.flush().is_ok();
            let left = dialogue.stream().stream().session_left();
            let way = Way { speaks_utf8: dialogue.speaks_utf8, left, input: direct.then(|| dialogue.unused()) };
            Ok(match self.ask(credentials, failures, way)? {
                Heard::Over => {
                    is_over = true;
                    Lookup::Yes(((), Vec::new()))
                }
                Heard::Gate(Answer::Right(right)) => Lookup::Yes(((), right.last_words)),
                Heard::Gate(Answer::Wrong) => Lookup::No,
                Heard::Gate(_) => Lookup::CannotTell(String::new()),
            })
        });
        match entered {
            Ok(Entered::In(())) if is_over => return Ok(Ended::Done),
            Ok(Entered::In(())) => {}
            Ok(Entered::Out(ended)) => return Ok(ended),
            Err(error) => return Err(error),
        }
        if let Err(fault) = dialogue.flush() {
            // The checker waits for how to go on, and understands whatever the next client makes us say.
            return Ok(if matches!(fault, Fault::TimedOut) { Ended::TimedOut } else { Ended::HungUp });
        }
        let speaks_utf8 = dialogue.speaks_utf8;
        let (input, output) = dialogue.into_rest();
        let left = stream.stream().session_left();
        let is_clear = stream.stream().is_clear();
        let way = Way { speaks_utf8, left, input: is_clear.then_some(&input) };
        let relayed =
            if is_clear { self.go_on(&way).map(|()| None) } else { self.go_on_behind(config, &way).map(Some) };
        let heard = match relayed {
            Ok(None) => self.hear_of_session()?,
            Ok(Some(socket)) => {
                let ended = split::speak_for(config, &mut stream, (input, output), socket);
                return match self.hear_of_session()? {
                    Heard::Over => ended,
                    // The client has been told so, where there was an end to do that on.
                    Heard::Gate(_) => Err(gate::gone()),
                };
            }
            Err(error) => {
                Dialogue::new(&mut stream, config.pop3d_timeout.0).close(&Reply::TROUBLE);
                return Err(error);
            }
        };
        match heard {
            Heard::Over => Ok(Ended::Done),
            Heard::Gate(_) => {
                Dialogue::new(&mut stream, config.pop3d_timeout.0).close(&Reply::TROUBLE);
                Err(gate::gone())
            }
        }
    }

    /// Lets the owner serve the connection itself.
    fn go_on(&mut self, way: &Way<'_>) -> Result<(), Error> {
        self.say(&[b"G", &way.head()?, way.input.unwrap_or_default()], &[])
    }

    /// Lets the owner serve the client at the other end of what this gives.
    fn go_on_behind(&mut self, config: &Config, way: &Way<'_>) -> Result<Connection, Error> {
        let (ours, theirs) = gate::pair()?;
        let ours = gate::connect(config, ours)?;
        self.say(&[b"G", &way.head()?], &[theirs.as_fd()])?;
        Ok(ours)
    }

    /// What the checker has to say of the files now, or a moment ago.
    fn ready(&mut self) -> Answer {
        if let Some((heard, secrets)) = self.ready
            && heard.elapsed() < FRESH
        {
            return Answer::Ready(secrets);
        }
        if self.say(&[b"?"], &[]).is_err() {
            return Answer::Trouble;
        }
        loop {
            match self.hear() {
                Told::Owner | Told::Heard => {}
                Told::Gone => return Answer::Trouble,
                Told::Answer(answer) => {
                    self.note(&answer);
                    return answer;
                }
            }
        }
    }

    fn note(&mut self, answer: &Answer) {
        self.ready = if let Answer::Ready(secrets) = answer { Some((Instant::now(), *secrets)) } else { None };
    }

    fn ask(&mut self, credentials: &Credentials, failures: u32, way: Way<'_>) -> Result<Heard, Error> {
        let failures = [u8::try_from(failures).unwrap_or(u8::MAX)];
        let frame = gate::frame(credentials);
        let input = way.input.unwrap_or_default();
        self.say(&[b"C", &failures, &way.head()?, input, &frame.0], &[sys::stdio()[0]])?;
        match self.hear_of_session()? {
            Heard::Gate(Answer::Trouble) => Err(gate::gone()),
            heard => Ok(heard),
        }
    }

    /// Waits for the end of a session, or for what the checker has to say before it begins.
    fn hear_of_session(&mut self) -> Result<Heard, Error> {
        let mut has_told = false;
        loop {
            if self.owner.as_ref().is_none_or(|(owner, _)| is_first(&self.checker, owner)) {
                match self.hear() {
                    Told::Owner => {}
                    // What was asked before has had no answer: the owner that has ended had the client. With another one
                    // the session is still going on.
                    Told::Heard if has_told && self.told == 0 && self.owner.is_none() => return Ok(Heard::Over),
                    Told::Heard => {}
                    // We end with it; the owner may have spoken, so that we may not.
                    Told::Gone => return Ok(Heard::Over),
                    Told::Answer(answer) => return Ok(Heard::Gate(answer)),
                }
                continue;
            }
            let mut octet = [0];
            let Some((owner, number)) = &self.owner else { continue };
            match owner.receive(&mut octet) {
                Ok(Some(_)) if octet == *b"." => return Ok(Heard::Over),
                Ok(Some(_)) => return Ok(Heard::Gate(Answer::Trouble)),
                // It has ended: in this session, or before and is being replaced.
                Ok(None) | Err(_) => {
                    let number = [*number];
                    self.say(&[b"!", &number], &[])?;
                    self.owner = None;
                    self.told = self.told.saturating_add(1);
                    has_told = true;
                }
            }
        }
    }

    /// Whether another client can be served.
    pub fn is_able(&self) -> bool {
        !self.is_lost
    }

    fn say(&mut self, octets: &[&[u8]], descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let sent = self.checker.send(octets, descriptors);
        self.is_lost |= sent.is_err();
        sent.map_err(|_| gate::gone())
    }

    fn hear(&mut self) -> Told {
        let mut buffer = [0; 1 + gate::LONGEST_ANSWER];
        let Ok(Some((count, descriptors))) = self.checker.receive(&mut buffer) else {
            self.is_lost = true;
            return Told::Gone;
        };
        let octets = buffer.get(..count).unwrap_or_default();
        if let [b'O', number] = octets {
            let Some(end) = descriptors.into_iter().next() else {
                // Nobody would ever hear that owner.
                self.is_lost = true;
                return Told::Gone;
            };
            self.owner = Some((Packets::from_descriptor(end), *number));
            return Told::Owner;
        }
        if let [b'!', answer @ ..] = octets {
            self.told = self.told.saturating_sub(1);
            self.note(&Answer::of(answer).unwrap_or(Answer::Trouble));
            return Told::Heard;
        }
        Told::Answer(Answer::of(octets).unwrap_or(Answer::Trouble))
    }
}

/// Tells a client whom a parser speaks for, on the end that it relays from, that nobody can serve it: the parser can say
/// nothing there any more. Waits for nothing, for what end a parser gives is its own affair.
fn turn_away(relayed: BorrowedFd<'_>) {
    let mut words = Vec::new();
    Reply::TROUBLE.put(&mut words);
    let _ = send(relayed.as_raw_fd(), &words, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
}

/// Waits for either; whether the first has something to say.
fn is_first(one: &Packets, other: &Packets) -> bool {
    let mut both = [one, other].map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
    let _ = again(|| poll(&mut both, PollTimeout::NONE));
    both[0].any().unwrap_or(true)
}

/// A packet of the checker.
enum Told {
    /// There is another owner; it is noted.
    Owner,
    Answer(Answer),
    /// It has heard that an owner has ended; what it says of the files is noted. What was asked before that it has answered,
    /// or has an owner do.
    Heard,
    /// It has ended.
    Gone,
}

/// What becomes of credentials.
enum Heard {
    /// They are right, and the session is over.
    Over,
    /// As `auth::gate` has it.
    Gate(Answer),
}

/// How the owner comes by what the client says.
struct Way<'a> {
    speaks_utf8: bool,
    /// How long the session may last still.
    left: Duration,
    /// What the client sent behind the password, where the owner is to serve the connection itself.
    input: Option<&'a [u8]>,
}

impl Way<'_> {
    fn head(&self) -> Result<[u8; 7], Error> {
        let letter = if self.input.is_some() { b'D' } else { b'R' };
        let letter = if self.speaks_utf8 { letter.to_ascii_lowercase() } else { letter };
        let count = u16::try_from(self.input.unwrap_or_default().len());
        let [low, high] = count.map_err(|_| Error::Temporary("too much was read".to_owned()))?.to_le_bytes();
        let [a, b, c, d] = u32::try_from(self.left.as_millis()).unwrap_or(u32::MAX).to_le_bytes();
        Ok([letter, a, b, c, d, low, high])
    }
}
