//! The form with two processes, when started as root: what comes from the network is parsed without rights.
//!
//! The child becomes `net_owner` (or `mail_owner`), speaks with the client until it has a name and a password, and puts
//! them into one bounded frame. The parent, which reads nothing else, checks them, becomes the user for good and
//! serves TRANSACTION over the socketpair, while the child only relays. What the client sent behind its password goes
//! along.
//!
//! ```text
//! parent to child: R (ready) or P (configuration) or T (trouble); then for each frame Y (in; a POP3 stream from
//!                  TRANSACTION on follows), N (no), U (nobody can say), T (trouble, the parent is gone)
//! child to parent: netstring(netstring("USER") netstring(name) netstring(secret))
//! ```

use super::dialogue::Dialogue;
use super::login_delay::LastSession;
use super::relay::relay;
use super::reply::Reply;
use super::server::{self, Entered};
use super::session::MOST_FAILURES;
use crate::config::{self, Config};
use crate::exit::{self, Ended, Error};
use crate::lookup::Lookup;
use crate::net::connection::{Connection, Fault, Stream};
use crate::net::peer::Peer;
use crate::net::tls::Offer;
use crate::privilege::{self, Owner};
use crate::record::Recorder;
use crate::sys;
use crate::wire::netstring::{self, LengthReader};
use crate::wire::secret::{Secret, wipe};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, User, dup2_stdin, dup2_stdout};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

const READY: u8 = b'R';
const MISCONFIGURED: u8 = b'P';
const TROUBLE: u8 = b'T';
const RIGHT: u8 = b'Y';
const WRONG: u8 = b'N';
const UNCHECKED: u8 = b'U';

/// Largest frame: a name and a password, each no longer than a line of POP3 or SASL.
const LARGEST_FRAME: u64 = 1024;
/// How much longer than the other process each waits, so that the one with a reason to give gives it.
const SLACK: Duration = Duration::from_secs(30);

/// Serves the client on standard input and output, and writes it down if there is a file to. Only for root.
/// The key, which may be for root's eyes alone, is opened here and belongs to the child: neither the parent nor the user
/// it becomes has it.
pub fn serve(config: &Config, peer: &Peer, record: Option<File>, tls: Offer) -> Result<Ended, Error> {
    let (owner, (ours, theirs)) = parser(config).and_then(|owner| Ok((owner, pair()?))).inspect_err(server::refuse)?;
    // Each process must hold one end only, or neither would hear that the other is gone.
    let mut ours = Some(ours);
    let child = sys::fork(|| {
        drop(ours.take());
        recorded(config, record, |stream| parse(config, peer, &owner, theirs, stream, tls))
    });
    let child = child.map_err(|errno| Error::Temporary(format!("fork: {errno}"))).inspect_err(server::refuse)?;
    let result = leave_client().and_then(|()| match ours {
        Some(socket) => account(config, peer, socket),
        None => Err(Error::Temporary("no socketpair".to_owned())),
    });
    match (reap(child), result) {
        // It has said in the log what is wrong, and there was no way to tell the client.
        (Some(78), Ok(Ended::HungUp)) => Err(Error::Config(config::Error {
            origin: config::Origin::Default,
            problem: "the parsing process found the configuration wrong".to_owned(),
        })),
        (_, result) => result,
    }
}

/// Whom the parser becomes.
fn parser(config: &Config) -> Result<User, Error> {
    privilege::owner_of(config, if config.net_owner.is_empty() { Owner::Mail } else { Owner::Net })
}

fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|errno| Error::Temporary(format!("socketpair: {errno}")))
}

/// The client is the child's alone: when it closes, the connection is closed.
fn leave_client() -> Result<(), Error> {
    let leave = || -> io::Result<()> {
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        Ok(())
    };
    leave().map_err(|error| Error::Temporary(format!("/dev/null: {error}")))
}

/// Gives its exit status, if it ended by itself.
fn reap(child: Pid) -> Option<i32> {
    loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                log::error!("event=parser-died signal={signal}");
                return None;
            }
            Ok(WaitStatus::Exited(_, status)) => return Some(status),
            Ok(_) | Err(_) => return None,
        }
    }
}

/// The parent: checks passwords, and serves who has a right one.
fn account(config: &Config, peer: &Peer, socket: OwnedFd) -> Result<Ended, Error> {
    let mut child = connect(config, socket)?;
    child.allow(config.daemon_timeout.0);
    // Here and not before the fork: what the files hold must not lie in the memory of the child.
    if let Err(error) = server::check(config) {
        let _ = child.send(&[if matches!(error, Error::Config(_)) { MISCONFIGURED } else { TROUBLE }]);
        return Err(error);
    }
    let mut answer = READY;
    for failures in 0..MOST_FAILURES {
        child.allow(config.daemon_timeout.0);
        if child.send(&[answer]).is_err() {
            return Ok(Ended::HungUp);
        }
        let Some(frame) = Frame::read(&mut child)? else { return Ok(Ended::HungUp) };
        let user = match server::judge(config, peer, &frame.name, &frame.secret, failures) {
            Lookup::Yes(user) => user,
            Lookup::No => {
                answer = WRONG;
                continue;
            }
            Lookup::CannotTell(_) => {
                answer = UNCHECKED;
                continue;
            }
        };
        drop(frame);
        // The file of the last session is root's, as long as we are.
        let prepared = LastSession::open(config, &user.name);
        let prepared = prepared.and_then(|last| become_owner(config, user.owner).map(|()| last));
        let last = match prepared {
            Ok(last) => last,
            Err(error) => {
                let _ = child.send(&[TROUBLE]);
                return Err(error);
            }
        };
        if child.send(&[RIGHT]).is_err() {
            return Ok(Ended::HungUp);
        }
        let mut dialogue = Dialogue::new(child, config.pop3d_timeout.0).with_login_delay(config.pop3d_login_delay.0);
        return server::serve_user(config, peer, &user, last.as_ref(), &mut dialogue);
    }
    let _ = child.send(&[answer]);
    Ok(Ended::Refused)
}

/// Becomes the mailbox's owner for good; where the passwd-file gives none, that is `mail_owner`.
fn become_owner(config: &Config, owner: Option<(u32, u32)>) -> Result<(), Error> {
    match owner {
        Some((0, _)) => Err(Error::Permission("root has no mailbox here".to_owned())),
        Some((uid, gid)) => privilege::become_user(uid.into(), gid.into()),
        None => privilege::become_owner(config, Owner::Mail),
    }
}

/// Runs the child's part on the client's stream, and gives its exit status.
fn recorded(
    config: &Config,
    record: Option<File>,
    run: impl FnOnce(&mut Recorder<Connection>) -> Result<Ended, Error>,
) -> u8 {
    let result = match Connection::from_stdio(config.daemon_timeout.0) {
        Ok(connection) => {
            let mut stream = Recorder::new(connection, record, &server::HEAD);
            let result = run(&mut stream);
            stream.end(exit::code(&result));
            result
        }
        Err(error) => Err(server::no_connection(error)),
    };
    if let Err(error) = &result {
        log::error!("{error}");
    }
    exit::code(&result)
}

/// The child: speaks with the client, first by itself, then for the parent.
fn parse(
    config: &Config,
    peer: &Peer,
    owner: &User,
    socket: OwnedFd,
    stream: &mut Recorder<Connection>,
    tls: Offer,
) -> Result<Ended, Error> {
    let mut dialogue = Dialogue::new(&mut *stream, config.pop3d_timeout.0).with_login_delay(config.pop3d_login_delay.0);
    let mut parent = privilege::become_user(owner.uid, owner.gid)
        .and_then(|()| connect(config, socket))
        .inspect_err(|error| dialogue.close(&Reply::from(error)))?;
    match hear(config, &mut parent) {
        READY => {}
        MISCONFIGURED => {
            dialogue.close(&Reply::MISCONFIGURED);
            return Ok(Ended::Refused);
        }
        _ => {
            dialogue.close(&Reply::TROUBLE);
            return Ok(Ended::Refused);
        }
    }
    let entered =
        server::authorize(&mut dialogue, peer, server::passwords_allowed(config, peer), tls, |name, secret, _| {
            Frame::send(&mut parent, name, secret).map_err(|_| gone())?;
            match hear(config, &mut parent) {
                RIGHT => Ok(Lookup::Yes(())),
                WRONG => Ok(Lookup::No),
                UNCHECKED => Ok(Lookup::CannotTell(String::new())),
                _ => Err(gone()),
            }
        })?;
    match entered {
        Entered::In(()) => {
            let waiting = dialogue.into_rest();
            speak_for(config, stream, waiting, parent)
        }
        Entered::Out(ended) => Ok(ended),
    }
}

fn speak_for(
    config: &Config,
    client: &mut Recorder<Connection>,
    waiting: (Vec<u8>, Vec<u8>),
    parent: Connection,
) -> Result<Ended, Error> {
    let idle = config.pop3d_timeout.0.saturating_add(SLACK);
    let result = relay(client, parent.descriptors().0, waiting, idle, config.daemon_timeout.0);
    // The parent is done, or must hear that the client is.
    drop(parent);
    match result {
        Ok(()) => {
            client.finish();
            Ok(Ended::Done)
        }
        Err(Fault::HungUp) => Ok(Ended::HungUp),
        Err(Fault::TimedOut) => Ok(Ended::TimedOut),
        Err(Fault::Io(error)) => Err(Error::Connection(format!("relay: {error}"))),
    }
}

fn gone() -> Error {
    Error::Temporary("the process that checks passwords is gone".to_owned())
}

fn connect(config: &Config, socket: OwnedFd) -> Result<Connection, Error> {
    let other = socket.try_clone().map_err(|error| Error::Temporary(format!("socketpair: {error}")))?;
    Ok(Connection::new(other, socket, config.daemon_timeout.0))
}

/// One octet of the parent; [`TROUBLE`] if there is none.
fn hear(config: &Config, parent: &mut Connection) -> u8 {
    parent.allow(config.ipc_timeout.0.max(SLACK));
    let mut answer = [0];
    match parent.receive(&mut answer) {
        Ok(1) => answer[0],
        Ok(_) | Err(_) => TROUBLE,
    }
}

/// A name and a password on the way to be checked.
struct Frame {
    name: Vec<u8>,
    secret: Secret,
}

impl Frame {
    fn send(stream: &mut impl Stream, name: &[u8], secret: &Secret) -> Result<(), Fault> {
        let (mut fields, mut frame) = (Vec::new(), Vec::new());
        for field in [b"USER".as_slice(), name, &secret.0] {
            netstring::put(&mut fields, field);
        }
        netstring::put(&mut frame, &fields);
        let sent = stream.send(&frame);
        wipe(&mut fields);
        wipe(&mut frame);
        sent
    }

    /// None at the end of the input. The child speaks only when it is its turn, so one that says more is not ours
    /// any more.
    fn read(stream: &mut impl Stream) -> Result<Option<Frame>, Error> {
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
            match Frame::parse(&octets.0) {
                Ok(None) => {}
                Ok(Some(frame)) => return Ok(Some(frame)),
                Err(()) => return Err(Error::Temporary("the parsing process sent what is no frame".to_owned())),
            }
        }
    }

    /// Nothing while it is not whole.
    fn parse(octets: &[u8]) -> Result<Option<Frame>, ()> {
        let Some((payload, rest)) = take(octets)? else { return Ok(None) };
        let mut fields = payload;
        let mut next = || -> Result<&[u8], ()> {
            let (field, rest) = take(fields)?.ok_or(())?;
            fields = rest;
            Ok(field)
        };
        let (mechanism, name, secret) = (next()?, next()?, next()?);
        if mechanism != b"USER" || !fields.is_empty() || !rest.is_empty() {
            return Err(());
        }
        Ok(Some(Frame { name: name.to_vec(), secret: Secret(secret.to_vec()) }))
    }
}

/// What is in a netstring, and what follows it.
type Parts<'a> = (&'a [u8], &'a [u8]);

/// The first netstring; nothing while it is not whole.
fn take(octets: &[u8]) -> Result<Option<Parts<'_>>, ()> {
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

    fn frame(name: &[u8], secret: &[u8]) -> Vec<u8> {
        struct Memory(Vec<u8>);
        impl Stream for Memory {
            fn allow(&mut self, _: Duration) {}
            fn receive(&mut self, _: &mut [u8]) -> Result<usize, Fault> {
                Ok(0)
            }
            fn send(&mut self, octets: &[u8]) -> Result<(), Fault> {
                self.0.extend_from_slice(octets);
                Ok(())
            }
            fn finish(&mut self) {}
        }
        let mut memory = Memory(Vec::new());
        Frame::send(&mut memory, name, &Secret(secret.to_vec())).unwrap();
        memory.0
    }

    #[test]
    fn a_frame_is_read_when_it_is_whole_and_not_before() {
        let octets = frame(b"bob", b"a,b:\0\xff");
        for length in 0..octets.len() {
            assert!(matches!(Frame::parse(&octets[..length]), Ok(None)), "{length}");
        }
        let read = Frame::parse(&octets).unwrap().unwrap();
        assert_eq!((read.name.as_slice(), read.secret.0.as_slice()), (b"bob".as_slice(), b"a,b:\0\xff".as_slice()));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let more = [frame(b"bob", b"x"), b"x".to_vec()].concat();
        for octets in [
            b"x".as_slice(),
            b"0:,",
            b"2000:",
            b"99999999999999999999:",
            b"01:x,",
            b"3:abc;",
            b"15:4:USER,1:a,1:bx,,",
            b"11:4:USER,1:a,,",
            b"15:4:ROOT,1:a,1:b,,",
            b"19:4:USER,1:a,1:b,1:c,,",
            &more,
        ] {
            assert!(Frame::parse(octets).is_err(), "{:?}", octets.escape_ascii().to_string());
        }
    }
}
