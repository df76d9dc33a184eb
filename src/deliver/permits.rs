//! What a worker and its master say to each other, in packets of text: which message to try, whether a next hop may be
//! used now, and what became of it.

use super::attempt::Attempt;
use crate::clock::since_1970;
use crate::net::packets::Packets;
use crate::queue::Id;
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest packet: a key has an address or two names in it.
const LONGEST: usize = 4096;

/// A worker's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// May this be used now? At most so many may use it at once; `agent`: with a process to carry mail there.
    Want {
        /// Names a next hop, a domain or a mailbox.
        key: String,
        /// How many may.
        limit: u32,
        /// What for.
        errand: Errand,
    },
    /// Which hosts what is used leads to, as the agent that came with it has found: see `relay::route::home`. Answered as
    /// [`Word::Want`] is: with an agent that is connected there, or without one, which means that the one at hand will do.
    Home {
        /// The hosts.
        hosts: String,
    },
    /// An address of the hosts takes no connection.
    Silent {
        /// Address and port.
        address: String,
        /// What of it is known.
        why: String,
    },
    /// It is used no more.
    Done {
        /// As it was wanted.
        key: String,
        /// The agent can take another message.
        reusable: bool,
        /// Why nobody is there.
        silent: Option<String>,
    },
    /// The attempt at the message is over.
    End(Attempt),
}

/// What something is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    /// For mail that is not given to an agent.
    Here,
    /// To carry mail there: an agent is needed.
    Mail,
    /// The same, for a report to a domain that somebody outside may have chosen.
    Report,
}

/// The master's answer to [`Word::Want`].
#[derive(Debug)]
pub enum Permit {
    /// Yes, with an agent if one was asked for.
    Go(Lent),
    /// As many as may use it already.
    Busy,
    /// Nobody was there a moment ago, and why.
    Dead(String),
}

/// What comes with a permit.
#[derive(Debug, Default)]
pub struct Lent {
    /// The agent.
    pub agent: Option<UnixStream>,
    /// It has had no job yet.
    pub is_new: bool,
    /// Addresses of the hosts that took no connection a moment ago, parted by blanks.
    pub silent: String,
}

/// One end of the socket between the two.
#[derive(Debug)]
pub struct Socket(Packets);

impl Socket {
    /// Both ends.
    pub fn pair() -> io::Result<(Socket, Socket)> {
        let (one, other) = Packets::pair()?;
        Ok((Socket(one), Socket(other)))
    }

    /// As if nobody had this end any more: children of other tests may have it too, for a moment.
    #[cfg(test)]
    pub fn shut(&self) {
        nix::sys::socket::shutdown(std::os::fd::AsRawFd::as_raw_fd(&self.as_fd()), nix::sys::socket::Shutdown::Both)
            .unwrap();
    }

    /// Sends one packet.
    pub fn send(&self, text: &str, with: Option<BorrowedFd<'_>>) -> io::Result<()> {
        Ok(self.0.send(&[text.as_bytes()], with.as_slice())?)
    }

    /// Waits for one; none: the other end is gone.
    pub fn receive(&self) -> io::Result<Option<(String, Option<OwnedFd>)>> {
        let mut octets = [0; LONGEST];
        let Some((length, descriptors)) = self.0.receive(&mut octets)? else { return Ok(None) };
        let text = octets.get(..length).and_then(|octets| std::str::from_utf8(octets).ok());
        Ok(Some((text.ok_or(io::ErrorKind::InvalidData)?.to_owned(), descriptors.into_iter().next())))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a master gives a worker: a message, and if this is not 0 a pass with it (see [`Desk::has_pass`]).
pub fn job(id: &Id, pass: u32) -> String {
    if pass == 0 { id.to_string() } else { format!("{id}\n{pass}") }
}

/// A worker's way to its master.
#[derive(Debug)]
pub struct Desk {
    socket: Socket,
    /// What so many may use at once can be used without asking; 0: nothing.
    pass: Cell<u32>,
}

impl Desk {
    /// At a socket.
    pub fn at(socket: Socket) -> Desk {
        Desk { socket, pass: Cell::new(0) }
    }

    /// The next message to try; none: no more.
    pub fn next(&self) -> io::Result<Option<Id>> {
        let Some((text, _)) = self.socket.receive()? else { return Ok(None) };
        let (id, pass) = text.split_once('\n').unwrap_or((&text, "0"));
        self.pass.set(pass.parse().map_err(|_| io::ErrorKind::InvalidData)?);
        id.parse().map(Some).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Whether something that so many may use at once can be used without a permit: the master counts whoever has a pass
    /// as one who uses all such things. It came with the message, and is gone when a permit is asked for.
    pub fn has_pass(&self, limit: u32) -> bool {
        self.pass.get() > 0 && limit >= self.pass.get()
    }

    /// Asks for a permit.
    pub fn want(&self, key: &str, limit: u32, errand: Errand) -> io::Result<Permit> {
        self.pass.set(0);
        self.say(&Word::Want { key: key.to_owned(), limit, errand })?;
        self.permit()
    }

    /// Tells where what was permitted leads to, and asks whether that changes something.
    pub fn home(&self, hosts: &str) -> io::Result<Permit> {
        self.say(&Word::Home { hosts: hosts.to_owned() })?;
        self.permit()
    }

    fn permit(&self) -> io::Result<Permit> {
        let Some((text, descriptor)) = self.socket.receive()? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        match text.split_once('\n').unwrap_or((&text, "")) {
            ("go", rest) => {
                let (kind, silent) = rest.split_once('\n').unwrap_or((rest, ""));
                let agent = descriptor.map(UnixStream::from);
                Ok(Permit::Go(Lent { agent, is_new: kind == "new", silent: silent.to_owned() }))
            }
            ("busy", _) => Ok(Permit::Busy),
            ("dead", why) => Ok(Permit::Dead(why.to_owned())),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Tells something.
    pub fn say(&self, word: &Word) -> io::Result<()> {
        self.socket.send(&word.to_text(), None)
    }
}

impl Permit {
    /// Sends it.
    pub fn send(&self, socket: &Socket) -> io::Result<()> {
        match self {
            Permit::Go(lent) => {
                let kind = if lent.is_new { "new" } else { "used" };
                socket.send(&format!("go\n{kind}\n{}", lent.silent), lent.agent.as_ref().map(AsFd::as_fd))
            }
            Permit::Busy => socket.send("busy", None),
            Permit::Dead(why) => socket.send(&format!("dead\n{why}"), None),
        }
    }
}

impl Errand {
    fn word(self) -> &'static str {
        match self {
            Errand::Here => "here",
            Errand::Mail => "mail",
            Errand::Report => "report",
        }
    }

    fn from_word(word: &str) -> Option<Errand> {
        [Errand::Here, Errand::Mail, Errand::Report].into_iter().find(|errand| errand.word() == word)
    }
}

impl Word {
    fn to_text(&self) -> String {
        match self {
            Word::Want { key, limit, errand } => format!("want\n{limit}\n{}\n{key}", errand.word()),
            Word::Home { hosts } => format!("home\n{hosts}"),
            Word::Silent { address, why } => format!("silent\n{address}\n{}", why.replace('\n', " ")),
            Word::Done { key, reusable, silent } => {
                let why = silent.as_deref().unwrap_or_default().replace('\n', " ");
                format!("done\n{}\n{}\n{why}\n{key}", u8::from(*reusable), u8::from(silent.is_some()))
            }
            Word::End(Attempt::NotOurs) => "end\nnot-ours".to_owned(),
            Word::End(Attempt::Damaged) => "end\ndamaged".to_owned(),
            Word::End(Attempt::Finished) => "end\nfinished".to_owned(),
            Word::End(Attempt::Broken) => "end\nbroken".to_owned(),
            Word::End(Attempt::Waits(key)) => format!("end\nwaits\n{key}"),
            Word::End(Attempt::Deferred(time)) => {
                format!("end\ndeferred\n{}", since_1970(*time).as_micros())
            }
        }
    }

    /// Reads one; nothing if it is none.
    pub fn from_text(text: &str) -> Option<Word> {
        let (kind, rest) = text.split_once('\n')?;
        match kind {
            "want" => {
                let mut fields = rest.splitn(3, '\n');
                let (limit, errand) = (fields.next()?.parse().ok()?, Errand::from_word(fields.next()?)?);
                Some(Word::Want { key: fields.next()?.to_owned(), limit, errand })
            }
            "home" => Some(Word::Home { hosts: rest.to_owned() }),
            "silent" => {
                let (address, why) = rest.split_once('\n')?;
                Some(Word::Silent { address: address.to_owned(), why: why.to_owned() })
            }
            "done" => {
                let mut fields = rest.splitn(4, '\n');
                let (reusable, is_silent, why) = (fields.next()? == "1", fields.next()? == "1", fields.next()?);
                let silent = is_silent.then(|| why.to_owned());
                Some(Word::Done { key: fields.next()?.to_owned(), reusable, silent })
            }
            "end" => Some(Word::End(match rest.split_once('\n').unwrap_or((rest, "")) {
                ("not-ours", _) => Attempt::NotOurs,
                ("damaged", _) => Attempt::Damaged,
                ("finished", _) => Attempt::Finished,
                ("broken", _) => Attempt::Broken,
                ("waits", key) => Attempt::Waits(key.to_owned()),
                ("deferred", time) => {
                    let time: u64 = time.parse().ok()?;
                    Attempt::Deferred(SystemTime::checked_add(&UNIX_EPOCH, Duration::from_micros(time))?)
                }
                _ => return None,
            })),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_for_what_as_many_may_use_and_gone_when_a_permit_is_asked_for() {
        let (master, its) = Socket::pair().unwrap();
        let (desk, id) = (Desk::at(its), Id::new(UNIX_EPOCH));
        master.send(&job(&id, 0), None).unwrap();
        assert_eq!(desk.next().unwrap(), Some(id));
        assert!(!desk.has_pass(20));
        master.send(&job(&id, 20), None).unwrap();
        assert_eq!(desk.next().unwrap(), Some(id));
        assert!(desk.has_pass(20) && desk.has_pass(21) && !desk.has_pass(19) && !desk.has_pass(1));
        Permit::Busy.send(&master).unwrap();
        assert!(matches!(desk.want("mailbox\na", 1, Errand::Here), Ok(Permit::Busy)));
        assert!(!desk.has_pass(20));
    }

    #[test]
    fn words_come_back_as_they_were() {
        let key = || "smtp\nmx.example".to_owned();
        for word in [
            Word::Want { key: key(), limit: 20, errand: Errand::Here },
            Word::Want { key: key(), limit: 20, errand: Errand::Mail },
            Word::Want { key: key(), limit: 20, errand: Errand::Report },
            Word::Home { hosts: "0 mx.example 192.0.2.1:25,1 b.example [::1]:25".into() },
            Word::Home { hosts: String::new() },
            Word::Silent { address: "[::1]:25".into(), why: "4.4.1 no".into() },
            Word::Done { key: key(), reusable: true, silent: None },
            Word::Done { key: key(), reusable: false, silent: Some("4.4.1 no".into()) },
            Word::End(Attempt::NotOurs),
            Word::End(Attempt::Damaged),
            Word::End(Attempt::Finished),
            Word::End(Attempt::Broken),
            Word::End(Attempt::Waits(key())),
            Word::End(Attempt::Deferred(UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_001))),
        ] {
            assert_eq!(Word::from_text(&word.to_text()), Some(word));
        }
        assert_eq!(Word::from_text("end\nx"), None);
    }
}
