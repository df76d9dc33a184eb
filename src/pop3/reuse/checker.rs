//! The checker: root's process, which reads nothing but packets of the parser, and nothing of a client.

use super::owner::{Owner, Session, kept};
use super::packet::{self, Packet, Said};
use super::{LARGEST, turn_away};
use crate::auth::Granted;
use crate::auth::files::Files;
use crate::auth::gate::{self, Answer};
use crate::config::Config;
use crate::exit::Error;
use crate::lookup::Lookup;
use crate::net::packets::Packets;
use crate::net::peer::Peer;
use crate::pop3::login_delay::LastSession;
use crate::pop3::split;
use crate::users::User;
use crate::wire::secret::{Secret, wipe};
use nix::errno::Errno;
use nix::unistd::{Gid, Pid, Uid};
use std::os::fd::{AsFd, OwnedFd};

struct Checker<'a> {
    config: &'a Config,
    parser: Packets,
    files: Files,
    /// What was found in them last.
    secrets: bool,
    mail_owner: Option<(Uid, Gid)>,
    owner: Option<Owner>,
    /// Of the last one that was started.
    number: u8,
    buffer: Secret,
}

/// Serves the parser, a child of ours, until it ends; gives the status to end with.
pub fn run(config: &Config, parser: Packets, child: Pid) -> u8 {
    // What lies there is a listening socket.
    let begun = gate::leave_client().and_then(|()| {
        parser.wait_at_most(kept(config)).map_err(|errno| Error::Temporary(format!("socketpair: {errno}")))
    });
    match begun {
        Ok(()) => {
            let buffer = Secret(vec![0; LARGEST]);
            Checker {
                config,
                parser,
                files: Files::default(),
                secrets: false,
                mail_owner: None,
                owner: None,
                number: 0,
                buffer,
            }
            .run();
        }
        Err(error) => {
            log::error!("{error}");
            drop(parser);
        }
    }
    split::reap(child).and_then(|status| u8::try_from(status).ok()).unwrap_or(75)
}

impl Checker<'_> {
    fn run(mut self) {
        let mut packet = self.hear();
        loop {
            let answer = match packet {
                Packet::Ready => Some(self.ready()),
                Packet::Bereft(number) => {
                    if !self.bereft(number) {
                        return;
                    }
                    None
                }
                Packet::Check { credentials, failures, is_direct, said, client } => {
                    let peer = Peer::of_descriptor(&client);
                    let judged = gate::judge(self.config, &peer, &credentials, failures);
                    drop(credentials);
                    match judged {
                        Lookup::No => Some(Answer::Wrong),
                        Lookup::CannotTell(_) => Some(Answer::Unchecked),
                        Lookup::Yes(Granted { user, last_words }) if is_direct && last_words.is_empty() => {
                            self.serve(&peer, &user, (client, false), said)
                        }
                        Lookup::Yes(granted) => {
                            let user = granted.user.clone();
                            if !self.say(&Answer::Right(granted.into())) {
                                return;
                            }
                            match self.hear_how_to_go_on() {
                                Packet::Go { relayed, said } => {
                                    let stream = relayed.map_or((client, false), |relayed| (relayed, true));
                                    self.serve(&peer, &user, stream, said)
                                }
                                // The client is gone, and perhaps another one is there.
                                other => {
                                    packet = other;
                                    continue;
                                }
                            }
                        }
                    }
                }
                Packet::Gone | Packet::Go { .. } => return,
            };
            if answer.is_some_and(|answer| !self.say(&answer)) {
                return;
            }
            packet = self.hear();
        }
    }

    /// An owner may have ended before it was to serve this client.
    fn hear_how_to_go_on(&mut self) -> Packet {
        loop {
            match self.hear() {
                Packet::Bereft(number) if self.bereft(number) => {}
                Packet::Bereft(_) => return Packet::Gone,
                other => return other,
            }
        }
    }

    /// Lets go of an owner that has ended, and says so with what there is now; whether somebody hears it.
    fn bereft(&mut self, number: u8) -> bool {
        // It may still be about to close what we would write to.
        self.owner = self.owner.take().filter(|_| number != self.number);
        let answer = self.ready();
        self.parser.send(&[b"!", &answer.octets()], &[]).is_ok()
    }

    fn say(&self, answer: &Answer) -> bool {
        self.parser.send(&[&answer.octets()], &[]).is_ok()
    }

    fn hear(&mut self) -> Packet {
        let (count, descriptors) = loop {
            match self.parser.receive(&mut self.buffer.0) {
                Ok(Some(received)) => break received,
                // One that has ended is not to be a zombie until somebody comes.
                Err(Errno::EAGAIN) => self.owner = self.owner.take().filter(Owner::is_there),
                Ok(None) | Err(_) => return Packet::Gone,
            }
        };
        let octets = self.buffer.0.get_mut(..count).unwrap_or_default();
        let packet = packet::read(octets, descriptors);
        wipe(octets);
        packet.unwrap_or_else(|| {
            log::error!("the parsing process sent what is no packet");
            Packet::Gone
        })
    }

    fn ready(&mut self) -> Answer {
        match self.files.check(self.config) {
            Ok(secrets) => {
                self.secrets = secrets;
                Answer::Ready(secrets)
            }
            Err(error) => {
                log::error!("{error}");
                if matches!(error, Error::Config(_)) { Answer::Misconfigured } else { Answer::Trouble }
            }
        }
    }

    /// Has the user's process serve the client, directly or behind the parser; the answer is that this is not possible.
    fn serve(&mut self, peer: &Peer, user: &User, stream: (OwnedFd, bool), said: Said) -> Option<Answer> {
        let (stream, is_relayed) = &stream;
        let (stream, is_relayed, secrets) = (stream.as_fd(), *is_relayed, self.secrets);
        let served = self
            .ids(user)
            .and_then(|ids| self.try_serve(&Session { peer, user, ids, secrets, stream, is_relayed, said }));
        served.err().map(|error| {
            log::error!("{error}");
            if is_relayed {
                turn_away(stream);
            }
            Answer::Trouble
        })
    }

    /// Whom a session is served as. Who mail_owner is does not change while we are there.
    fn ids(&mut self, user: &User) -> Result<(Uid, Gid), Error> {
        match (user.owner, self.mail_owner) {
            (None, Some(ids)) => Ok(ids),
            (owner, _) => {
                let ids = split::ids(self.config, user)?;
                self.mail_owner = if owner.is_none() { Some(ids) } else { self.mail_owner };
                Ok(ids)
            }
        }
    }

    fn try_serve(&mut self, session: &Session<'_>) -> Result<(), Error> {
        // The file of the last session is root's.
        let last = LastSession::open(self.config, &session.user.name)?;
        let is_its = |owner: &Owner| owner.is_for(session, self.config);
        if let Some(owner) = self.owner.as_ref().filter(|owner| is_its(owner))
            && owner.serve(self.config, session, last.as_ref()).is_some()
        {
            return Ok(());
        }
        // There is none, or it is another user's, or has ended since the last time, by whatever hand.
        self.number = self.number.wrapping_add(1);
        let owner = Owner::start(self.config, session, (&self.parser, self.number))?;
        let served = owner.serve(self.config, session, last.as_ref());
        // The one before has nothing to do, and ends.
        self.owner = Some(owner);
        served.ok_or_else(|| Error::Temporary("the user's process is gone".to_owned()))
    }
}
