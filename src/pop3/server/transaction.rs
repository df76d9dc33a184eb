//! TRANSACTION and UPDATE state, on a maildrop.

use super::lost;
use crate::exit::{Ended, Error};
use crate::mailbox::{self, Entry, Maildrop};
use crate::net::connection::{Fault, Stream};
use crate::net::peer::Peer;
use crate::pop3::content::Content;
use crate::pop3::dialogue::{Dialogue, Lost};
use crate::pop3::expiry::Expiry;
use crate::pop3::login_delay::LastSession;
use crate::pop3::reply::Reply;
use crate::pop3::session::{Session, Step};
use log::{info, warn};
use std::io;

/// Who is in.
pub(in crate::pop3) struct Visitor<'a> {
    pub(in crate::pop3) peer: &'a Peer,
    /// As records show the name.
    pub(in crate::pop3) user: &'a str,
    /// There are passwords stored in clear.
    pub(in crate::pop3) secrets: bool,
    /// Where QUIT notes the end of the session; every other end is for the caller to note.
    pub(in crate::pop3) last: Option<&'a LastSession>,
}

/// TRANSACTION and UPDATE state, from the answer to PASS to the end.
pub(in crate::pop3) fn transaction<S: Stream, M: Maildrop>(
    dialogue: &mut Dialogue<S>,
    maildrop: M,
    Visitor { peer, user, secrets, last }: Visitor<'_>,
    mut expiry: Option<Expiry>,
) -> Result<Ended, Error> {
    let mut session = Session::new(true).with_secrets(secrets);
    let mut retrieved = 0_u64;
    if let Some(expiry) = &expiry {
        expiry.tidy(&maildrop);
    }
    dialogue.say(&session.entered(maildrop.count(), maildrop.total()));
    info!("client={peer} event=login user={user:?} messages={}", maildrop.count());
    loop {
        let step = match dialogue.next_command() {
            Ok(Some(Ok(command))) => session.command(command),
            Ok(Some(Err(mistake))) => session.mistake(mistake),
            Ok(None) => return lost(dialogue, None, peer, session.phase()),
            Err(fault) => return lost(dialogue, Some(fault), peer, session.phase()),
        };
        note(&mut expiry, &maildrop, dialogue.heard());
        let sent = match step {
            Step::Say(reply) => respond(dialogue, Ok(reply)),
            Step::Capabilities(capabilities) => {
                dialogue.say_capabilities(capabilities);
                Ok(())
            }
            Step::Languages => {
                dialogue.say_languages();
                Ok(())
            }
            Step::List => {
                let line = |index| Ok(format!("{} {}", index + 1, maildrop.entry(index)?.octets));
                dialogue.list(session.listed().map(line))
            }
            Step::Size(index) => {
                let size = |entry: Entry| Reply::numbers(index as u64 + 1, entry.octets);
                respond(dialogue, maildrop.entry(index).map(size))
            }
            Step::Delete(index) => {
                respond(dialogue, maildrop.entry(index).map(|entry| session.deleted(index, entry.octets)))
            }
            Step::UniqueIds => {
                let line = |index| Ok(format!("{} {}", index + 1, maildrop.entry(index)?.unique_id));
                dialogue.list(session.listed().map(line))
            }
            Step::UniqueId(index) => {
                let unique_id = |entry: Entry| Reply::unique_id(index + 1, &entry.unique_id);
                respond(dialogue, maildrop.entry(index).map(unique_id))
            }
            Step::Retrieve(index) => {
                retrieved += 1;
                send(dialogue, &maildrop, index, Content::whole(), expiry.is_some())
            }
            Step::Top(index, lines) => send(dialogue, &maildrop, index, Content::top(lines), expiry.is_some()),
            Step::Check(..) | Step::CheckApop(..) | Step::StartTls | Step::Authenticate(..) | Step::Mechanisms => {
                respond(dialogue, Ok(Reply::TROUBLE))
            }
            Step::Close(reply) => {
                dialogue.close(&reply);
                info!("client={peer} event=end user={user:?} phase={} deleted=0", session.phase());
                return Ok(Ended::Refused);
            }
            Step::Update => {
                let marked = match marked_at_end(dialogue, &session, &maildrop, &mut expiry) {
                    Ok(marked) => marked,
                    Err(fault) => return lost(dialogue, Some(fault), peer, session.phase()),
                };
                let (reply, removed) = update(maildrop, &marked, user);
                // Before the answer, and not when the connection is closed: the client may wait from there on.
                if let Some(last) = last {
                    last.ended();
                }
                dialogue.part(&reply);
                info!("client={peer} event=end user={user:?} phase=update retrieved={retrieved} deleted={removed}");
                return Ok(Ended::Done);
            }
        };
        match sent {
            Ok(()) => {}
            Err(Lost::Stream(fault)) => return lost(dialogue, Some(fault), peer, session.phase()),
            Err(Lost::Message(error)) => {
                return Err(Error::Temporary(format!(
                    "client={peer} event=message-broke-off user={user:?} reason={:?}",
                    error.to_string()
                )));
            }
        }
    }
}

/// Says what was made of an entry.
fn respond<S: Stream>(dialogue: &mut Dialogue<S>, reply: io::Result<Reply>) -> Result<(), Lost> {
    Ok(dialogue.respond(&reply.map_err(Lost::Message)?)?)
}

/// Sends a message, or a part. With `counts`, whether the client has it is to be found out where that was all of it.
fn send<S: Stream, M: Maildrop>(
    dialogue: &mut Dialogue<S>,
    maildrop: &M,
    index: usize,
    content: Content,
    counts: bool,
) -> Result<(), Lost> {
    let is_whole = dialogue.message(maildrop, index, content)?;
    if is_whole && counts {
        dialogue.wonder(index);
    }
    Ok(())
}

/// What QUIT removes: what the client has marked, and what has expired.
fn marked_at_end<S: Stream, M: Maildrop>(
    dialogue: &mut Dialogue<S>,
    session: &Session,
    maildrop: &M,
    expiry: &mut Option<Expiry>,
) -> Result<Vec<usize>, Fault> {
    let mut marked = session.to_remove();
    // Nothing goes while there is something to be sent still, which the connection may not live to see.
    if !marked.is_empty() || expiry.is_some() {
        note(expiry, maildrop, dialogue.heard_at_end()?);
    }
    if let Some(expiry) = expiry {
        expiry.mark_expired(maildrop, &mut marked);
    }
    Ok(marked)
}

/// Notes that a client has all of these messages, where that counts.
fn note<M: Maildrop>(expiry: &mut Option<Expiry>, maildrop: &M, heard: Vec<usize>) {
    if let Some(expiry) = expiry {
        heard.into_iter().for_each(|index| expiry.fetched(maildrop, index));
    }
}

/// Removes what is marked and lets go of the maildrop: a client that comes again at once after `+OK` must find it free.
/// Gives how many are gone.
fn update<M: Maildrop>(mut maildrop: M, marked: &[usize], user: &str) -> (Reply, usize) {
    let result = if marked.is_empty() { Ok(0) } else { maildrop.remove(marked) };
    drop(maildrop);
    match result {
        Ok(0) => (Reply::GOODBYE, marked.len()),
        Ok(left) => {
            warn!("event=not-removed user={user:?} messages={left}");
            (Reply::NOT_ALL_REMOVED, marked.len().saturating_sub(left))
        }
        Err(error) => {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => " see=mail_privileged_group",
                _ => "",
            };
            warn!("event=not-removed user={user:?} reason={:?}{hint}", error.to_string());
            (if mailbox::stays(&error) { Reply::CANNOT_REMOVE } else { Reply::NOT_ALL_REMOVED }, 0)
        }
    }
}
