//! What passes between a process that parses without rights and the one that can check passwords.
//!
//! ```text
//! checker to parser: R or S (ready; S: there are passwords stored in clear), P (configuration) or T (trouble); then for
//!                    each frame Y and two texts, each behind an octet that counts its octets (the user's name, and what
//!                    the server says at the end of the mechanism); or N (no), U (nobody can say), T (trouble, the checker
//!                    is gone)
//! parser to checker: netstring(netstring(mechanism) netstring(name) netstring(field)...)
//! ```
//!
//! One bounded frame at a time is all that the checker reads.

use crate::auth::{self, Granted};
use crate::config::Config;
use crate::exit::{Ended, Error};
use crate::logging;
use crate::lookup::Lookup;
use crate::net::FIRST_ROOM;
use crate::net::connection::{Connection, Fault, Stream};
use crate::net::peer::Peer;
use crate::program::end::leave;
use crate::sasl::{Credentials, MOST_FAILURES, Proof};
use crate::sys;
use crate::users;
use crate::wire::netstring::{self, LengthReader};
use crate::wire::secret::{Secret, wipe};
use log::warn;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{dup2_stdin, dup2_stdout};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Largest frame: what one exchange of SASL may have said.
const LARGEST_FRAME: u64 = 8192;
/// The longest answer, in octets.
pub const LONGEST_ANSWER: usize = 1 + 2 * 256;
/// How much longer than the other process each waits, so that the one with a reason to give gives it.
pub const SLACK: Duration = Duration::from_secs(30);

/// Who has logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// The user's name as the table of users spells it, whatever the client typed.
    pub name: Vec<u8>,
    /// What the mechanism has the server say at its end; empty for most.
    pub last_words: Vec<u8>,
}

/// What the checker says.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It listens. Whether there are passwords stored in clear.
    Ready(bool),
    /// It will not, for the configuration is wrong.
    Misconfigured,
    /// The credentials are right.
    Right(Right),
    /// They are not.
    Wrong,
    /// Nobody can say.
    Unchecked,
    /// It is gone, or not itself.
    Trouble,
}

/// Checks credentials. Wrong ones are answered the later the more there were before, on this connection.
pub fn judge(config: &Config, peer: &Peer, credentials: &Credentials, failures: u32) -> Lookup<Granted> {
    judge_of(config, Some(peer), credentials, failures)
}

/// The same; of a client that is not known here, whoever asks knows and logs it.
fn judge_of(config: &Config, peer: Option<&Peer>, credentials: &Credentials, failures: u32) -> Lookup<Granted> {
    let found = auth::check_credentials(config, credentials);
    if !matches!(found, Lookup::Yes(_)) {
        log_failure(peer, credentials, &found);
        // Also where nobody can say: a guess is to cost no less then.
        std::thread::sleep(config.auth_failure_delay.0.saturating_mul(failures.saturating_add(1)));
    }
    found
}

/// The one record of a login that failed. By it others find out who guesses passwords, so that one of which it is not known
/// here who made it says nothing where it was wrong: whoever asked knows.
pub fn log_failure<T>(peer: Option<&Peer>, credentials: &Credentials, found: &Lookup<T>) {
    let client = peer.map_or_else(String::new, |peer| format!("client={peer} "));
    let user = logging::clean(&credentials.name, 100);
    match found {
        Lookup::Yes(_) => {}
        Lookup::No if peer.is_none() => {}
        Lookup::No => warn!("{client}event=login-failed user={user:?}"),
        Lookup::CannotTell(why) => warn!("{client}event=login-not-checked user={user:?} reason={why:?}"),
    }
}

/// Whether a client of SMTP may speak for another, so that only who talks to it knows whose passwords these are.
pub fn is_for_others(config: &Config) -> bool {
    !config.smtpd_upstream_proxy_hosts.0.is_empty() || !config.smtpd_authorized_xclient_hosts.0.is_empty()
}

/// The two ends.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|errno| Error::Temporary(format!("socketpair: {}", io::Error::from(errno))))
}

/// One end as a stream.
pub fn connect(config: &Config, socket: OwnedFd) -> Result<Connection, Error> {
    let other = socket.try_clone().map_err(|error| Error::Temporary(format!("socketpair: {error}")))?;
    Ok(Connection::new(other, socket, config.daemon_timeout.0))
}

/// Lets go of the client: when the parser closes, the connection is closed.
pub fn leave_client() -> Result<(), Error> {
    let leave = || -> io::Result<()> {
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        Ok(())
    };
    leave().map_err(|error| Error::Temporary(format!("/dev/null: {error}")))
}

/// The parser's end where the parser only wants to know: a child is the checker, and keeps the rights of now. The first
/// it says is whether it is ready.
pub fn start(config: &Config, peer: &Peer) -> Result<Connection, Error> {
    let (ours, theirs) = pair()?;
    let (mut ours, mut theirs) = (Some(ours), Some(theirs));
    let checker = || {
        drop(ours.take());
        let result = theirs.take().map_or(Ok(Ended::Done), |socket| serve(config, peer, socket));
        if let Err(error) = &result {
            log::error!("{error}");
        }
        crate::exit::code(&result)
    };
    let child = sys::fork(checker).map_err(|errno| Error::Temporary(format!("fork: {}", io::Error::from(errno))))?;
    // It may end later than the session.
    leave(Some(child));
    drop(theirs);
    match ours {
        Some(socket) => connect(config, socket),
        None => Err(Error::Temporary("no socketpair".to_owned())),
    }
}

/// Answers frames until the other end is closed or there were too many wrong ones.
fn serve(config: &Config, peer: &Peer, socket: OwnedFd) -> Result<Ended, Error> {
    leave_client()?;
    let mut parser = connect(config, socket)?;
    if let Err(error) = users::check_file(config).and_then(|()| auth::check_methods(config)) {
        let answer = if matches!(error, Error::Config(_)) { Answer::Misconfigured } else { Answer::Trouble };
        let _ = answer.send(&mut parser);
        return Err(error);
    }
    if Answer::Ready(auth::has_secrets(config)).send(&mut parser).is_err() {
        return Ok(Ended::HungUp);
    }
    let (mut failures, peer) = (0, Some(peer).filter(|_| !is_for_others(config)));
    while failures < MOST_FAILURES {
        parser.allow(config.daemon_timeout.0);
        let Some(credentials) = read(&mut parser)? else { break };
        let answer = match judge_of(config, peer, &credentials, failures) {
            Lookup::Yes(granted) => Answer::Right(granted.into()),
            Lookup::No => Answer::Wrong,
            Lookup::CannotTell(_) => Answer::Unchecked,
        };
        failures += u32::from(!matches!(answer, Answer::Right(_)));
        if answer.send(&mut parser).is_err() {
            break;
        }
    }
    Ok(Ended::Done)
}

/// Asks the checker at the other end.
pub fn ask(config: &Config, checker: &mut Connection, credentials: &Credentials) -> Result<Answer, Error> {
    checker.allow(config.ipc_timeout.0.max(SLACK));
    send(checker, credentials).map_err(|_| gone())?;
    match Answer::hear(config, checker) {
        answer @ (Answer::Right(_) | Answer::Wrong | Answer::Unchecked) => Ok(answer),
        Answer::Ready(_) | Answer::Misconfigured | Answer::Trouble => Err(gone()),
    }
}

/// What is to be said where the checker does not answer.
pub fn gone() -> Error {
    Error::Temporary("the process that checks passwords is gone".to_owned())
}

impl Answer {
    /// Sends it.
    pub fn send(&self, parser: &mut impl Stream) -> Result<(), Fault> {
        parser.send(&self.octets())
    }

    /// As it is sent; at most [`LONGEST_ANSWER`].
    pub fn octets(&self) -> Vec<u8> {
        let octet = match self {
            Answer::Ready(false) => b'R',
            Answer::Ready(true) => b'S',
            Answer::Misconfigured => b'P',
            Answer::Right(Right { name, last_words }) => {
                return [b"Y".to_vec(), counted(name), counted(last_words)].concat();
            }
            Answer::Wrong => b'N',
            Answer::Unchecked => b'U',
            Answer::Trouble => b'T',
        };
        vec![octet]
    }

    /// Reads what [`Answer::octets`] gave; nothing where it is none.
    pub fn of(octets: &[u8]) -> Option<Answer> {
        match octets {
            b"R" => Some(Answer::Ready(false)),
            b"S" => Some(Answer::Ready(true)),
            b"P" => Some(Answer::Misconfigured),
            [b'Y', texts @ ..] => {
                let (name, rest) = take_counted(texts)?;
                let (last_words, rest) = take_counted(rest)?;
                let right = Right { name: name.to_vec(), last_words: last_words.to_vec() };
                rest.is_empty().then_some(Answer::Right(right))
            }
            b"N" => Some(Answer::Wrong),
            b"U" => Some(Answer::Unchecked),
            b"T" => Some(Answer::Trouble),
            _ => None,
        }
    }

    /// Hears one, and reads nothing behind it.
    pub fn hear(config: &Config, checker: &mut impl Stream) -> Answer {
        checker.allow(config.ipc_timeout.0.max(SLACK));
        let mut take = |count: u8| {
            let (mut octets, mut at) = (vec![0; count.into()], 0);
            while at < octets.len() {
                at += checker.receive(octets.get_mut(at..)?).ok().filter(|count| *count > 0)?;
            }
            Some(octets)
        };
        // No further where something is missing: what comes behind that may be anything.
        let mut hear = || {
            let mut octets = take(1)?;
            for _ in 0..if octets == b"Y" { 2 } else { 0 } {
                let count = take(1)?;
                let text = take(*count.first()?)?;
                octets.extend([count, text].concat());
            }
            Answer::of(&octets)
        };
        hear().unwrap_or(Answer::Trouble)
    }
}

impl From<Granted> for Right {
    fn from(granted: Granted) -> Right {
        Right { name: granted.user.name.into_bytes(), last_words: granted.last_words }
    }
}

/// A text behind an octet that counts its octets.
fn counted(text: &[u8]) -> Vec<u8> {
    let text = text.get(..255).unwrap_or(text);
    [&[u8::try_from(text.len()).unwrap_or(0)], text].concat()
}

/// What [`counted`] gave, and what follows it.
fn take_counted(octets: &[u8]) -> Option<Parts<'_>> {
    let (&count, rest) = octets.split_first()?;
    rest.split_at_checked(count.into())
}

fn send(stream: &mut impl Stream, credentials: &Credentials) -> Result<(), Fault> {
    stream.send(&frame(credentials).0)
}

/// Credentials as a frame.
pub fn frame(credentials: &Credentials) -> Secret {
    let (mut fields, mut frame) = (Secret(Vec::with_capacity(FIRST_ROOM)), Secret(Vec::with_capacity(FIRST_ROOM)));
    let (mechanism, proof): (&[u8], Vec<&[u8]>) = match &credentials.proof {
        Proof::Password(secret) => (b"PASSWORD", vec![&secret.0]),
        Proof::Apop { stamp, digest } => (b"APOP", vec![stamp, digest]),
        Proof::CramMd5 { challenge, digest } => (b"CRAM-MD5", vec![challenge, digest]),
        Proof::ScramSha256 { salt, auth_message, proof } => (b"SCRAM-SHA-256", vec![salt, auth_message, proof]),
        Proof::ForAnother => (b"ANOTHER", Vec::new()),
    };
    for field in [mechanism, &credentials.name].into_iter().chain(proof) {
        netstring::put(&mut fields.0, field);
    }
    netstring::put(&mut frame.0, &fields.0);
    frame
}

/// None at the end of the input. The parser speaks only when it is its turn, so one that says more is not ours any more.
pub fn read(stream: &mut impl Stream) -> Result<Option<Credentials>, Error> {
    let mut octets = Secret(Vec::new());
    let mut buffer = [0; 256];
    loop {
        let count = match stream.receive(&mut buffer) {
            Ok(0) | Err(Fault::HungUp | Fault::TimedOut) => return Ok(None),
            Ok(count) => count,
            Err(Fault::Io(error)) => return Err(Error::Temporary(format!("socketpair: {error}"))),
        };
        // Not extended in place: growing would leave a copy behind.
        let mut longer = Vec::with_capacity(octets.0.len() + count);
        longer.extend_from_slice(&octets.0);
        longer.extend_from_slice(buffer.get(..count).unwrap_or_default());
        octets = Secret(longer);
        wipe(&mut buffer);
        match parse(&octets.0) {
            Ok(None) => {}
            Ok(Some(credentials)) => return Ok(Some(credentials)),
            Err(()) => return Err(Error::Temporary("the parsing process sent what is no frame".to_owned())),
        }
    }
}

/// Reads a frame; nothing while it is not whole, and an error where it is none.
pub(crate) fn parse(octets: &[u8]) -> Result<Option<Credentials>, ()> {
    let Some((mut fields, rest)) = take(octets)? else { return Ok(None) };
    let mut next = || -> Result<&[u8], ()> {
        let (field, rest) = take(fields)?.ok_or(())?;
        fields = rest;
        Ok(field)
    };
    let (mechanism, name) = (next()?, next()?.to_vec());
    let proof = match mechanism {
        b"PASSWORD" => Proof::Password(Secret(next()?.to_vec())),
        b"APOP" => Proof::Apop { stamp: next()?.to_vec(), digest: exactly(next()?)? },
        b"CRAM-MD5" => Proof::CramMd5 { challenge: next()?.to_vec(), digest: exactly(next()?)? },
        b"SCRAM-SHA-256" => {
            Proof::ScramSha256 { salt: exactly(next()?)?, auth_message: next()?.to_vec(), proof: exactly(next()?)? }
        }
        b"ANOTHER" => Proof::ForAnother,
        _ => return Err(()),
    };
    if fields.is_empty() && rest.is_empty() { Ok(Some(Credentials { name, proof })) } else { Err(()) }
}

fn exactly<const LENGTH: usize>(octets: &[u8]) -> Result<[u8; LENGTH], ()> {
    octets.try_into().map_err(drop)
}

/// What is in a netstring, and what follows it.
pub(crate) type Parts<'a> = (&'a [u8], &'a [u8]);

/// The first netstring, of 8 KiB at the most; nothing while it is not whole.
pub(crate) fn take(octets: &[u8]) -> Result<Option<Parts<'_>>, ()> {
    let mut length = LengthReader::new(LARGEST_FRAME);
    for (position, octet) in octets.iter().enumerate() {
        let Some(length) = length.push(*octet).map_err(drop)? else { continue };
        let behind = octets.get(position + 1..).unwrap_or_default();
        let Some((payload, rest)) = usize::try_from(length).ok().and_then(|length| behind.split_at_checked(length))
        else {
            return Ok(None);
        };
        return match rest.split_first() {
            Some((b',', rest)) => Ok(Some((payload, rest))),
            Some(_) => Err(()),
            None => Ok(None),
        };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasl::{Exchange, Malformed, Mechanism, Next};

    #[derive(Default)]
    struct Memory(Vec<u8>, usize);
    impl Stream for Memory {
        fn allow(&mut self, _: Duration) {}
        fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
            let rest = &self.0[self.1..];
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            self.1 += count;
            Ok(count)
        }
        fn send(&mut self, octets: &[u8]) -> Result<(), Fault> {
            self.0.extend_from_slice(octets);
            Ok(())
        }
        fn finish(&mut self) {}
    }

    #[test]
    fn a_frame_is_read_when_it_is_whole_and_not_before() {
        for proof in [
            Proof::Password(Secret(b"a,b:\0\xff".to_vec())),
            Proof::Apop { stamp: b"<1@mx>".to_vec(), digest: [1; 16] },
            Proof::CramMd5 { challenge: b"<1@mx>".to_vec(), digest: [2; 16] },
            Proof::ScramSha256 { salt: [3; 16], auth_message: b"n=bob".to_vec(), proof: [4; 32] },
            Proof::ForAnother,
        ] {
            let credentials = Credentials { name: b"bob".to_vec(), proof };
            let mut memory = Memory::default();
            send(&mut memory, &credentials).unwrap();
            for length in 0..memory.0.len() {
                assert_eq!(parse(&memory.0[..length]), Ok(None), "{length}");
            }
            assert_eq!(parse(&memory.0), Ok(Some(credentials)));
            memory.0.push(b'x');
            assert_eq!(parse(&memory.0), Err(()), "one octet more");
        }
    }

    /// Else a client would end, by its name, the process that checks the passwords of others.
    #[test]
    fn whatever_an_exchange_lets_through_fits_into_a_frame() {
        let exchange = |mechanism, said: &[&[u8]]| {
            let mut exchange = Exchange::new(mechanism, "n".repeat(36), "mx.example");
            let mut next = exchange.begin(None);
            for response in said {
                let Ok(Next::Challenge(challenge)) = &next else { return next };
                let nonce = challenge.strip_prefix(b"r=").and_then(|rest| rest.split(|octet| *octet == b',').next());
                let response =
                    [*response, nonce.unwrap_or_default(), if nonce.is_some() { PROOF } else { b"" }].concat();
                next = exchange.take(&response);
            }
            next
        };
        const PROOF: &[u8] = b",p=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
        // The last one becomes eleven times as long when it is prepared.
        for (name, fits) in [("x".repeat(1000), true), ("\u{fdfa}".repeat(30), true), ("\u{fdfa}".repeat(333), false)] {
            let (name, password) = (name.as_bytes(), "y".repeat(1000));
            let digest = [name, b" b913a602c7eda7a495b4e6e7334d3890"].concat();
            let first = [b"n,,n=", name, b",r=", "z".repeat(256).as_bytes()].concat();
            for (mechanism, said) in [
                (Mechanism::Plain, vec![[b"\0", name, b"\0", password.as_bytes()].concat()]),
                (Mechanism::Login, vec![name.to_vec(), password.as_bytes().to_vec()]),
                (Mechanism::CramMd5, vec![digest]),
                (Mechanism::ScramSha256, vec![first, b"c=biws,r=".to_vec()]),
            ] {
                let said: Vec<&[u8]> = said.iter().map(Vec::as_slice).collect();
                match exchange(mechanism, &said) {
                    Ok(Next::Check(credentials)) if fits => {
                        assert_eq!(parse(&frame(&credentials).0), Ok(Some(credentials)));
                    }
                    answer => assert!(!fits && answer == Err(Malformed), "{mechanism:?}: {answer:?}"),
                }
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for octets in [
            b"x".as_slice(),
            b"0:,",
            b"20000:",
            b"99999999999999999999:",
            b"01:x,",
            b"3:abc;",
            b"19:8:PASSWORD,1:a,1:bx,,",
            b"15:8:PASSWORD,1:a,,",
            b"15:4:ROOT,1:a,1:b,,",
            b"23:8:PASSWORD,1:a,1:b,1:c,,",
            b"23:8:CRAM-MD5,1:a,1:b,1:c,,",
        ] {
            assert!(parse(octets).is_err(), "{:?}", octets.escape_ascii().to_string());
        }
    }

    #[test]
    fn answers_are_heard_as_they_were_said_and_nothing_behind_them() {
        let config = Config::with(&[]);
        for answer in [
            Answer::Ready(true),
            Answer::Ready(false),
            Answer::Misconfigured,
            Answer::Right(Right { name: b"bob".to_vec(), last_words: b"v=x".to_vec() }),
            Answer::Right(Right { name: vec![b'b'; 255], last_words: vec![b'x'; 255] }),
            Answer::Right(Right { name: b"bob".to_vec(), last_words: Vec::new() }),
            Answer::Wrong,
            Answer::Unchecked,
            Answer::Trouble,
        ] {
            let mut memory = Memory::default();
            answer.send(&mut memory).unwrap();
            memory.send(b"+OK").unwrap();
            assert_eq!(Answer::hear(&config, &mut memory), answer);
            assert_eq!(&memory.0[memory.1..], b"+OK");
            assert_eq!(Answer::of(&answer.octets()), Some(answer));
        }
        assert_eq!(Answer::hear(&config, &mut Memory::default()), Answer::Trouble);
    }
}
