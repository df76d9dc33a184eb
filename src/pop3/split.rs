//! The form with two processes, when started as root: what comes from the network is parsed without rights.
//!
//! The child becomes `net_owner` (or `mail_owner`), speaks with the client until it has a name and a password, and puts
//! them into one bounded frame. The parent, which reads nothing else, checks them and becomes the user for good. It
//! has held the connection all the while, and now reads from it for the first time; what the child had already read
//! behind the password it is given. Only under TLS, or where the session is recorded, does the child stay between
//! them, and relays.
//!
//! What the two say to each other stands in `auth::gate`. Behind its Y the child says D (direct), two octets that count,
//! the low one first, and as many that the client sent already; or R (relayed), and a POP3 stream from TRANSACTION on; d or r
//! where the client said UTF8.

use super::dialogue::Dialogue;
use super::login_delay::LastSession;
use super::relay::relay;
use super::reply::Reply;
use super::server::{self, Entered};
use crate::again::again;
use crate::auth;
use crate::auth::gate::{self, Answer, SLACK};
use crate::config::{self, Config};
use crate::exit::{self, Ended, Error};
use crate::lookup::Lookup;
use crate::net::connection::{Connection, Fault, Stream};
use crate::net::peer::Peer;
use crate::net::signals;
use crate::net::tls::Offer;
use crate::privilege::{self, Account, Owner};
use crate::record::Recorder;
use crate::sasl::MOST_FAILURES;
use crate::sys;
use crate::users::User as Mailboxed;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid};
use std::fs::File;
use std::os::fd::OwnedFd;

/// Serves the client on standard input and output, and writes it down if there is a file to. Only for root.
/// The key, which may be for root's eyes alone, is opened here and belongs to the child: neither the parent nor the user
/// it becomes has it.
pub fn serve(config: &Config, peer: &Peer, record: Option<File>, tls: Offer) -> Result<Ended, Error> {
    let (owner, (ours, theirs)) =
        parser(config).and_then(|owner| Ok((owner, gate::pair()?))).inspect_err(server::refuse)?;
    // Each process must hold one end only, or neither would hear that the other is gone.
    let (mut ours, parent) = (Some(ours), Pid::this());
    let child = sys::fork(|| {
        // While it waits for the client it would not hear that we are gone.
        let _ = signals::end_with(parent);
        drop(ours.take());
        recorded(config, record, |stream| parse(config, peer, &owner, theirs, stream, tls))
    });
    let child = child.map_err(|errno| Error::Temporary(format!("fork: {errno}"))).inspect_err(server::refuse)?;
    let client = Connection::from_stdio(config.daemon_timeout.0).map_err(server::no_connection);
    let result = gate::leave_client().and(client).and_then(|client| match ours {
        Some(socket) => account(config, peer, socket, client),
        None => Err(Error::Temporary("no socketpair".to_owned())),
    });
    match (reap(child), result) {
        // It has said in the log what is wrong, and there was no way to tell the client.
        (Some(78), Ok(Ended::HungUp)) => Err(Error::Config(config::Error {
            origin: config::Origin::Default,
            problem: "the parsing process found the configuration wrong".to_owned(),
        })),
        (Some(74), Ok(Ended::HungUp)) => {
            Err(Error::Connection("the parsing process could not use the connection".to_owned()))
        }
        (_, result) => result,
    }
}

/// Whom the parser becomes.
pub(super) fn parser(config: &Config) -> Result<Account, Error> {
    privilege::owner_of(config, if config.net_owner.is_empty() { Owner::Mail } else { Owner::Net })
}

/// Gives its exit status, if it ended by itself.
pub(super) fn reap(child: Pid) -> Option<i32> {
    match again(|| waitpid(child, None)) {
        Ok(WaitStatus::Signaled(_, signal, _)) => {
            log::error!("event=parser-died signal={signal}");
            None
        }
        Ok(WaitStatus::Exited(_, status)) => Some(status),
        Ok(_) | Err(_) => None,
    }
}

/// The parent: checks passwords, and serves who has a right one. Of `client` nothing is read before.
fn account(config: &Config, peer: &Peer, socket: OwnedFd, client: Connection) -> Result<Ended, Error> {
    let mut child = gate::connect(config, socket)?;
    child.allow(config.daemon_timeout.0);
    // Here and not before the fork: what the files hold must not lie in the memory of the child.
    if let Err(error) = server::check(config) {
        let answer = if matches!(error, Error::Config(_)) { Answer::Misconfigured } else { Answer::Trouble };
        let _ = answer.send(&mut child);
        return Err(error);
    }
    let secrets = auth::has_secrets(config);
    let mut answer = Answer::Ready(secrets);
    for failures in 0..MOST_FAILURES {
        child.allow(config.daemon_timeout.0);
        if answer.send(&mut child).is_err() {
            return Ok(Ended::HungUp);
        }
        let Some(credentials) = gate::read(&mut child)? else { return Ok(Ended::HungUp) };
        let granted = match gate::judge(config, peer, &credentials, failures) {
            Lookup::Yes(granted) => granted,
            Lookup::No => {
                answer = Answer::Wrong;
                continue;
            }
            Lookup::CannotTell(_) => {
                answer = Answer::Unchecked;
                continue;
            }
        };
        drop(credentials);
        // The file of the last session is root's, as long as we are.
        let user = granted.user.clone();
        let prepared = LastSession::open(config, &user.name);
        let prepared = prepared.and_then(|last| become_owner(config, &user).map(|()| last));
        let last = match prepared {
            Ok(last) => last,
            Err(error) => {
                let _ = Answer::Trouble.send(&mut child);
                return Err(error);
            }
        };
        if Answer::Right(granted.into()).send(&mut child).is_err() {
            return Ok(Ended::HungUp);
        }
        child.allow(config.pop3d_timeout.0.saturating_add(SLACK));
        let (stream, input, utf8) = match Way::hear(&mut child) {
            Some((Way::Direct(input), utf8)) => (client, input, utf8),
            Some((Way::Relayed, utf8)) => {
                drop(client);
                (child, Vec::new(), utf8)
            }
            None => return Ok(Ended::HungUp),
        };
        let mut dialogue =
            Dialogue::new(stream, config.pop3d_timeout.0).set_up(config).resuming(input).speaking_utf8(utf8);
        let mailbox = user.mailbox_path(config);
        return server::serve_user(config, peer, (&user.name, &mailbox), secrets, last.as_ref(), &mut dialogue);
    }
    let _ = answer.send(&mut child);
    Ok(Ended::Refused)
}

/// How the parent comes by what the client says from now on.
enum Way {
    /// From the connection itself, behind what was read of it and not used.
    Direct(Vec<u8>),
    /// From the child.
    Relayed,
}

impl Way {
    fn send(&self, parent: &mut Connection, speaks_utf8: bool) -> Result<(), Fault> {
        let letters = if speaks_utf8 { [b"d", b"r"] } else { [b"D", b"R"] };
        let Way::Direct(input) = self else { return parent.send(letters[1]) };
        let count = u16::try_from(input.len()).map_err(|_| Fault::HungUp)?;
        parent.send(&[letters[0], &count.to_le_bytes()[..], input].concat())
    }

    /// With whether the client said UTF8. Nothing from a child that is gone or not itself. Reads nothing behind it.
    fn hear(child: &mut Connection) -> Option<(Way, bool)> {
        let mut way = [0];
        hear_all(child, &mut way)?;
        let speaks_utf8 = way[0].is_ascii_lowercase();
        match &way.to_ascii_uppercase()[..] {
            b"R" => Some((Way::Relayed, speaks_utf8)),
            b"D" => {
                let mut count = [0; 2];
                hear_all(child, &mut count)?;
                let mut input = vec![0; u16::from_le_bytes(count).into()];
                hear_all(child, &mut input)?;
                Some((Way::Direct(input), speaks_utf8))
            }
            _ => None,
        }
    }
}

fn hear_all(child: &mut Connection, mut into: &mut [u8]) -> Option<()> {
    while !into.is_empty() {
        let count = child.receive(into).ok().filter(|count| *count > 0)?;
        into = into.get_mut(count..)?;
    }
    Some(())
}

/// Becomes the mailbox's owner for good.
pub(super) fn become_owner(config: &Config, user: &Mailboxed) -> Result<(), Error> {
    let (uid, gid) = ids(config, user)?;
    privilege::become_owner_of(config, &user.mailbox_path(config), uid, gid)
}

/// Who the mailbox's owner is; where the passwd-file gives none, that is `mail_owner`.
pub(super) fn ids(config: &Config, user: &Mailboxed) -> Result<(Uid, Gid), Error> {
    match user.owner {
        Some((0, _)) => Err(Error::Permission("root has no mailbox here".to_owned())),
        Some((uid, gid)) => Ok((uid.into(), gid.into())),
        None => privilege::owner_of(config, Owner::Mail).map(|owner| (owner.uid, owner.gid)),
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
    owner: &Account,
    socket: OwnedFd,
    stream: &mut Recorder<Connection>,
    tls: Offer,
) -> Result<Ended, Error> {
    let mut dialogue = Dialogue::new(&mut *stream, config.pop3d_timeout.0).set_up(config);
    let mut parent = privilege::become_user(owner.uid, owner.gid)
        .and_then(|()| gate::connect(config, socket))
        .inspect_err(|error| dialogue.close(&Reply::from(error)))?;
    let secrets = match Answer::hear(config, &mut parent) {
        Answer::Ready(secrets) => secrets,
        Answer::Misconfigured => {
            dialogue.close(&Reply::MISCONFIGURED);
            return Ok(Ended::Refused);
        }
        _ => {
            dialogue.close(&Reply::TROUBLE);
            return Ok(Ended::Refused);
        }
    };
    let access = server::Access::new(config, peer, secrets, tls);
    let entered = server::authorize(&mut dialogue, peer, access, |_, credentials, _| {
        Ok(match gate::ask(config, &mut parent, credentials)? {
            Answer::Right(right) => Lookup::Yes(((), right.last_words)),
            Answer::Wrong => Lookup::No,
            _ => Lookup::CannotTell(String::new()),
        })
    })?;
    match entered {
        Entered::In(()) => {
            // What is still to be said the client must have before the parent speaks.
            if let Err(fault) = dialogue.flush() {
                return Ok(if matches!(fault, Fault::TimedOut) { Ended::TimedOut } else { Ended::HungUp });
            }
            let utf8 = dialogue.speaks_utf8;
            let (input, output) = dialogue.into_rest();
            if stream.records() || !stream.stream().is_clear() {
                return match Way::Relayed.send(&mut parent, utf8) {
                    Ok(()) => speak_for(config, stream, (input, output), parent),
                    Err(_) => Ok(Ended::HungUp),
                };
            }
            let told = Way::Direct(input).send(&mut parent, utf8);
            Ok(if told.is_ok() { Ended::Done } else { Ended::HungUp })
        }
        Entered::Out(ended) => Ok(ended),
    }
}

/// The child, once somebody is logged in: carries what the client and the parent say.
pub(super) fn speak_for(
    config: &Config,
    client: &mut Recorder<Connection>,
    waiting: (Vec<u8>, Vec<u8>),
    parent: Connection,
) -> Result<Ended, Error> {
    let idle = config.pop3d_timeout.0.saturating_add(SLACK);
    let session = client.stream().session_left();
    let result = relay(client, parent.descriptors().0, waiting, idle, session);
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
