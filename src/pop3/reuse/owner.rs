//! The owner: a process that has become a user for good, and serves that user's mailboxes (of virtual users, all that
//! belong to the same uid) one after another.
//!
//! The checker tells it by one packet a session: D or R (the client itself is at the other end, or a parser that relays),
//! and netstrings of name, format and path of the mailbox, client, S or R (there are passwords stored in clear, or not), U
//! or nothing (it said UTF8, or not), milliseconds that the session may last still, and what it has sent already; with the
//! connection, and the file of the last session where there is one. It answers the parser by an octet: a dot at the end, or
//! T where there was no session: it could not become the user, or not take the session over.

use super::packet::Said;
use super::{LARGEST, end_with, turn_away};
use crate::again::again;
use crate::auth::gate;
use crate::config::Config;
use crate::config::value::{MailboxFormat, MailboxSpec};
use crate::exit::{self, Ended, Error};
use crate::net::connection::Connection;
use crate::net::handing;
use crate::net::packets::Packets;
use crate::net::peer::{Origin, Peer};
use crate::pop3::dialogue::Dialogue;
use crate::pop3::login_delay::LastSession;
use crate::pop3::server;
use crate::privilege;
use crate::sys;
use crate::users::User;
use crate::wire::netstring;
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, getpid};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A process of a user waits so long for the next session, in seconds, if `max_idle` is not less.
const KEPT: u16 = 10;

/// The same with this configuration.
pub(super) fn kept(config: &Config) -> u16 {
    u16::try_from(config.max_idle.0.as_secs())
        .ok()
        .filter(|seconds| *seconds > 0)
        .map_or(KEPT, |seconds| seconds.min(KEPT))
}

/// A session to be served.
pub(super) struct Session<'a> {
    pub(super) peer: &'a Peer,
    pub(super) user: &'a User,
    /// Whose the mailbox is.
    pub(super) ids: (Uid, Gid),
    /// There are passwords stored in clear.
    pub(super) secrets: bool,
    pub(super) stream: BorrowedFd<'a>,
    /// The parser is at its other end, and not the client.
    pub(super) is_relayed: bool,
    pub(super) said: Said,
}

/// The checker's side of one.
pub(super) struct Owner {
    socket: Option<Packets>,
    child: Pid,
    ids: (Uid, Gid),
    /// It has the rights that every mailbox of this user asks for, and no others.
    is_plain: bool,
}

impl Owner {
    /// Starts one for the user of a session, and tells the parser of it. It has nothing of ours, and the session's stream
    /// not before it is given to it.
    pub(super) fn start(
        config: &Config,
        session: &Session<'_>,
        (parser, number): (&Packets, u8),
    ) -> Result<Owner, Error> {
        let (uid, gid) = session.ids;
        let mailbox = session.user.mailbox_path(config);
        let is_plain = is_plain(config, &mailbox);
        let failed = |errno: nix::Error| Error::Temporary(format!("a process for uid {uid}: {errno}"));
        let (ours, theirs) = Packets::pair().map_err(failed)?;
        let (for_parser, to_parser) = Packets::pair().map_err(failed)?;
        let (mut ours, mut for_parser, checker) = (Some(ours), Some(for_parser), getpid());
        let owner = || {
            drop((ours.take(), for_parser.take()));
            // Also what the pool listens on, and how it counts. Their owners never run again in this process.
            handing::keep_only(vec![theirs.number(), to_parser.number()]);
            let begun = privilege::become_owner_of(config, &mailbox, uid, gid).and_then(|()| end_with(checker));
            serve_all(config, &theirs, &to_parser, begun)
        };
        let child = sys::fork(owner).map_err(failed)?;
        let owner = Owner { socket: ours, child, ids: (uid, gid), is_plain };
        let ends: Vec<_> = for_parser.iter().map(AsFd::as_fd).collect();
        parser.send(&[b"O", &[number]], &ends).map_err(failed)?;
        Ok(owner)
    }

    /// Whether it has not ended by itself.
    pub(super) fn is_there(&self) -> bool {
        waitpid(self.child, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive)
    }

    /// Whether it may serve this one.
    pub(super) fn is_for(&self, session: &Session<'_>, config: &Config) -> bool {
        self.is_plain && session.ids == self.ids && is_plain(config, &session.user.mailbox_path(config))
    }

    /// Has it serve a session, of whose end the parser hears. Nothing if it is not there any more.
    pub(super) fn serve(&self, config: &Config, session: &Session<'_>, last: Option<&LastSession>) -> Option<()> {
        let socket = self.socket.as_ref()?;
        let mailbox = session.user.mailbox_path(config);
        let format: &[u8] = match mailbox.format {
            MailboxFormat::Maildir => b"maildir",
            MailboxFormat::Mbox => b"mbox",
            MailboxFormat::Mmdf => b"mmdf",
        };
        let peer = session.peer.to_string();
        let mut octets = Vec::with_capacity(512);
        octets.push(if session.is_relayed { b'R' } else { b'D' });
        let secrets: &[u8] = if session.secrets { b"S" } else { b"R" };
        let utf8: &[u8] = if session.said.utf8 { b"U" } else { b"" };
        let user = [session.user.name.as_bytes(), format, mailbox.path.as_bytes()];
        // No parser makes a session longer than any may be.
        let left = session.said.left.min(config.daemon_timeout.0).as_millis().to_string();
        let fields = user.into_iter().chain([peer.as_bytes(), secrets, utf8, left.as_bytes(), &session.said.input]);
        fields.for_each(|field| netstring::put(&mut octets, field));
        let descriptors = [Some(session.stream), last.map(LastSession::descriptor)];
        let descriptors: Vec<_> = descriptors.into_iter().flatten().collect();
        socket.send(&[&octets], &descriptors).ok()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // It ends when it hears that we are gone, after the session that it may be serving.
        self.socket = None;
        let _ = again(|| waitpid(self.child, None));
    }
}

/// Whether a mailbox needs no rights but the user's own.
fn is_plain(config: &Config, mailbox: &MailboxSpec) -> bool {
    mailbox.format == MailboxFormat::Maildir || config.mail_privileged_group.is_empty()
}

/// The owner's side: until the checker is gone. Gives the status to end with.
fn serve_all(config: &Config, checker: &Packets, parser: &Packets, begun: Result<(), Error>) -> u8 {
    let mut buffer = vec![0; LARGEST];
    let mut is_last = checker.wait_at_most(kept(config)).is_err();
    loop {
        let (count, mut descriptors) = match checker.receive(&mut buffer) {
            Ok(Some(packet)) => packet,
            // What was sent while we made up our minds is served still.
            Err(Errno::EAGAIN) if !is_last && checker.hear_no_more().is_ok() => {
                is_last = true;
                continue;
            }
            // There was no room for another descriptor, and with it the session is lost. The parser has the client's still,
            // and says so to it; where it relays, there is no end left to say it on, and the connection ends without a word.
            Err(Errno::EMSGSIZE) => {
                log::error!("no room for the connection of another session");
                let _ = checker.hear_no_more();
                let _ = parser.send(&[b"T"], &[]);
                break;
            }
            Ok(None) | Err(_) => break,
        };
        // More may be logged of one client (debug_peer_list), and not of the next one.
        let level = log::max_level();
        let octets = buffer.get(..count).unwrap_or_default();
        let handed = match &begun {
            Ok(()) => Handed::read(config, octets, &mut descriptors).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let octet = match handed {
            Ok(session) => {
                if let Err(error) = session.serve(config) {
                    log::error!("{error}");
                }
                b"."
            }
            Err(error) => {
                log::error!("{error}");
                if begun.is_err() {
                    // The next session is not to be lost in here.
                    let _ = checker.hear_no_more();
                }
                if buffer.first() == Some(&b'R')
                    && let Some(relayed) = descriptors.first()
                {
                    turn_away(relayed.as_fd());
                }
                b"T"
            }
        };
        log::set_max_level(level);
        drop(descriptors);
        // Gone or not: a client that was handed over is served still.
        let _ = parser.send(&[octet], &[]);
        if begun.is_err() {
            break;
        }
    }
    exit::code(&begun.map(|()| Ended::Done))
}

/// A session as the checker hands it over.
struct Handed {
    name: String,
    mailbox: MailboxSpec,
    peer: Peer,
    secrets: bool,
    utf8: bool,
    input: Vec<u8>,
    stream: Connection,
    last: Option<LastSession>,
}

impl Handed {
    /// Takes the descriptors if it is one that can be served; else they are still there, for who has to say so.
    fn read(config: &Config, octets: &[u8], descriptors: &mut Vec<OwnedFd>) -> Result<Handed, Error> {
        let unknown = || Error::Temporary("the checking process sent what is no session".to_owned());
        let [name, format, path, peer, secrets, utf8, left, input] =
            octets.get(1..).and_then(fields).ok_or_else(unknown)?;
        let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).map_err(|_| unknown());
        let format = std::str::from_utf8(format).ok().and_then(MailboxFormat::of).ok_or_else(unknown)?;
        let (name, mailbox) = (text(name)?, MailboxSpec { format, path: text(path)? });
        let peer = Peer::of_word(&text(peer)?).unwrap_or_else(|| Peer::new(Origin::Unknown)).asking(config);
        let left = Duration::from_millis(text(left)?.parse().map_err(|_| unknown())?);
        let output = descriptors.first().ok_or_else(unknown)?.try_clone().map_err(server::no_connection)?;
        let mut descriptors = descriptors.drain(..);
        let stream = Connection::new(descriptors.next().ok_or_else(unknown)?, output, left);
        let last = descriptors.next().map(|file| LastSession::of(config, File::from(file)));
        let (secrets, utf8, input) = (secrets == b"S", utf8 == b"U", input.to_vec());
        Ok(Handed { name, mailbox, peer, secrets, utf8, input, stream, last })
    }

    fn serve(self, config: &Config) -> Result<Ended, Error> {
        self.peer.debug_if_listed(config);
        let mut dialogue = Dialogue::new(self.stream, config.pop3d_timeout.0)
            .set_up(config)
            .resuming(self.input)
            .speaking_utf8(self.utf8);
        let user = (self.name.as_str(), &self.mailbox);
        server::serve_user(config, &self.peer, user, self.secrets, self.last.as_ref(), &mut dialogue)
    }
}

/// So many netstrings, and nothing behind them.
fn fields<const COUNT: usize>(mut octets: &[u8]) -> Option<[&[u8]; COUNT]> {
    let mut fields = [&[][..]; COUNT];
    for field in &mut fields {
        (*field, octets) = gate::take(octets).ok()??;
    }
    octets.is_empty().then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::resource::{Resource, setrlimit};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// What a session of a client that says QUIT comes to, where the process could or could not begin.
    fn served(config: &Config, way: u8, begun: Result<(), Error>) -> (String, String) {
        served_in(config, way, "maildir", begun)
    }

    fn served_in(config: &Config, way: u8, format: &str, begun: Result<(), Error>) -> (String, String) {
        let mailboxes = tempfile::tempdir().unwrap();
        let path = mailboxes.path().join("bob");
        let mut packet = vec![way];
        for field in ["bob", format, path.to_str().unwrap(), "192.0.2.1", "R", "", "5000", ""] {
            netstring::put(&mut packet, field.as_bytes());
        }
        let ((checker, ours), (parser, told)) = (Packets::pair().unwrap(), Packets::pair().unwrap());
        let (mut client, stream) = UnixStream::pair().unwrap();
        client.write_all(b"QUIT\r\n").unwrap();
        checker.send(&[&packet], &[stream.as_fd()]).unwrap();
        drop((checker, stream));
        serve_all(config, &ours, &told, begun);
        drop(told);
        let (mut said, mut octets) = (String::new(), [0; 8]);
        // Closed with octets unread.
        let _ = client.read_to_string(&mut said);
        let count = parser.receive(&mut octets).unwrap().map_or(0, |(count, _)| count);
        (said, String::from_utf8_lossy(&octets[..count]).into_owned())
    }

    #[test]
    fn who_could_not_begin_tells_the_parser_and_a_client_that_it_relays_for() {
        let failed = || Err(Error::Temporary("x".to_owned()));
        let config = Config::with(&[]);
        assert_eq!(served(&config, b'D', failed()), (String::new(), "T".to_owned()));
        let (said, told) = served(&config, b'R', failed());
        assert!(said.starts_with("-ERR [SYS/TEMP] ") && said.ends_with("\r\n"), "{said}");
        assert_eq!(told, "T");
    }

    #[test]
    fn a_session_that_cannot_be_taken_over_is_told_like_one_that_could_not_begin() {
        let config = Config::with(&[]);
        assert_eq!(served_in(&config, b'D', "no format", Ok(())), (String::new(), "T".to_owned()));
        let (said, told) = served_in(&config, b'R', "no format", Ok(()));
        assert!(said.starts_with("-ERR [SYS/TEMP] ") && told == "T", "{said} {told}");
    }

    /// In a process of its own, for the limit is that of a whole process.
    #[test]
    fn without_room_for_a_connection_the_parser_hears_that_there_was_no_session() {
        let config = Config::with(&[]);
        let ((checker, ours), (parser, told)) = (Packets::pair().unwrap(), Packets::pair().unwrap());
        let (_client, stream) = UnixStream::pair().unwrap();
        checker.send(&[b"D"], &[stream.as_fd()]).unwrap();
        let child = sys::fork(|| {
            handing::keep_only(vec![ours.number(), told.number()]);
            setrlimit(Resource::RLIMIT_NOFILE, 0, 0).map_or(1, |()| serve_all(&config, &ours, &told, Ok(())))
        });
        assert_eq!(waitpid(child.unwrap(), None).unwrap().pid(), child.ok());
        drop((checker, ours, told));
        let mut octets = [0; 8];
        assert!(matches!(parser.receive(&mut octets), Ok(Some((1, _)))) && octets[0] == b'T', "{octets:?}");
    }

    #[test]
    fn how_much_is_logged_of_a_listed_client_is_not_how_much_is_logged_of_the_next_one() {
        let before = log::max_level();
        for way in [b'D', b'R'] {
            let config = Config::with(&[("debug_peer_list", "192.0.2.1"), ("debug_peer_level", "2")]);
            let (said, told) = served(&config, way, Ok(()));
            assert!(said.starts_with("+OK 0 messages") && told == ".", "{said} {told}");
            assert_eq!(log::max_level(), before);
        }
    }
}
