//! The servers' end: what they say to `submit`; `client/way.rs` is how that is reached.
//!
//! A process that serves one client after another keeps the connection to the socket for a while, if a session left nothing
//! on it that is not done. submit makes nothing of what came before an introduction, so each session begins there as on a
//! new one.

mod way;

use super::frames::{self, FrameReader, LONGEST_CONTENT, Reply, Request};
use super::{AllOrNothing, Introduction, Outcome, Submit, Verdict};
use crate::cli::Common;
use crate::config::Config;
use crate::exit::Error;
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::privilege;
use crate::program::end::leave;
use nix::unistd::Pid;
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;
pub use way::let_go;
use way::{Way, let_go_of_old};

/// A piece of content of this size is sent as it is, and smaller ones are collected.
const LARGE: usize = 16 * 1024;

/// The connection to `submit`.
#[derive(Debug)]
pub struct Submitter<'a> {
    /// None until there is something to say.
    stream: Option<UnixStream>,
    child: Option<Pid>,
    /// Since when the connection is there, where the next session may have it, too.
    since: Option<Instant>,
    /// How to get a connection, or another one after trouble; none for who has given up the rights to that.
    way: Option<Way<'a>>,
    reader: FrameReader,
    /// Who hands mail in, until submit has been told: the first octet makes it start, so that is put off.
    introduction: Option<Introduction>,
    /// What the queue file is to say besides, by the configuration of the server.
    attributes: Vec<(String, String)>,
    /// Frames that need no answer and wait for one that does.
    out: Vec<u8>,
    /// Content that is not in a frame yet.
    content: Vec<u8>,
    /// Something of the message at hand has been sent.
    begun: bool,
    /// An answer failed to come; a late one must not be taken for that to the next question.
    broken: bool,
}

impl<'a> Submitter<'a> {
    /// Nothing is done before there is something to say, for many a session brings no mail. Then it connects to the socket
    /// `queue_directory/submit`; where there is none, or nobody answers, it makes a socketpair and forks a child that
    /// holds nothing of the client's, waits for the first octet, then execs submit, or exits at end of input. To be
    /// called as mail_owner, or by who will be net_owner before a byte of the client is read: that one cannot do any of
    /// this later, and it is done at once.
    // What it needs of the stack for a moment is not to lie under the session.
    #[inline(never)]
    pub fn start(config: &'a Config, common: &'a Common) -> Result<Submitter<'a>, Error> {
        let_go_of_old();
        let way = Way { config, common };
        let comes_back = config.net_owner.is_empty() || !privilege::is_root();
        let mut submitter = Submitter::over(None, None);
        if !comes_back {
            // Of this one nobody will have the next session.
            let (stream, child, _) = way.open()?;
            (submitter.stream, submitter.child) = (Some(stream), child);
        }
        submitter.way = Some(way).filter(|_| comes_back);
        submitter.attributes = super::told_to_submit(config);
        Ok(submitter)
    }

    fn over(stream: Option<UnixStream>, child: Option<Pid>) -> Submitter<'a> {
        let reader = FrameReader::default();
        let (out, content) = (Vec::new(), Vec::new());
        let (introduction, attributes) = (None, Vec::new());
        let (since, way, begun, broken) = (None, None, false, false);
        Submitter { stream, child, since, way, reader, introduction, attributes, out, content, begun, broken }
    }

    /// The connection, which is made where it is missing.
    fn stream(&mut self) -> Result<&mut UnixStream, Error> {
        if self.stream.is_none() {
            let way = self.way.ok_or_else(|| Error::Temporary("submit was lost before".to_owned()))?;
            let (stream, child, since) = way.open()?;
            (self.stream, self.child, self.since) = (Some(stream), child, since);
        }
        self.stream.as_mut().ok_or_else(not_an_answer)
    }

    /// Lets go of a connection of which nobody knows any more what it would say, as long as another can be had.
    fn begin_anew(&mut self) {
        if self.broken && self.way.is_some() {
            self.hang_up();
            (self.reader, self.broken, self.begun) = (FrameReader::default(), false, false);
            self.out.clear();
            self.content.clear();
        }
    }

    /// Leaves the connection to the next session of this process, where everything that was sent has been answered.
    fn leave(&mut self) {
        if self.begun || self.broken {
            return;
        }
        if let Some(since) = self.since
            && let Some(stream) = self.stream.take()
        {
            way::keep(stream, since);
        }
    }

    /// End of input: submit abandons what was not committed, and ends.
    fn hang_up(&mut self) {
        if let Some(stream) = self.stream.take() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        leave(self.child.take());
    }

    /// Appends a frame behind the content that came before it.
    fn put(&mut self, request: &Request<'_>) {
        self.put_content();
        request.put(&mut self.out);
    }

    fn put_content(&mut self) {
        if !self.content.is_empty() {
            // And for what follows it.
            self.out.reserve(self.content.len() + 64);
            Request::Content(&self.content).put(&mut self.out);
            self.content.clear();
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.flush_with(&[])
    }

    /// The same and, if there are some, the octets of a frame whose head is there already, which are not copied for that.
    fn flush_with(&mut self, behind: &[u8]) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Temporary("submit was lost before".to_owned()));
        }
        if let Some(introduction) = self.introduction.take() {
            let mut first = Vec::new();
            Request::Introduce(introduction).put(&mut first);
            for (name, value) in &self.attributes {
                Request::Attribute(name.clone(), value.clone()).put(&mut first);
            }
            self.out.splice(0..0, first);
        }
        let out = std::mem::take(&mut self.out);
        let sent = self.stream().and_then(|stream| write_frames(stream, &out, behind).map_err(|e| lost(&e)));
        self.out = out;
        self.out.clear();
        self.begun = true;
        self.broken = sent.is_err();
        sent
    }

    fn ask(&mut self, request: &Request<'_>) -> Result<Reply, Error> {
        self.put(request);
        self.flush()?;
        let reply = self.answer();
        self.broken = reply.is_err();
        reply
    }

    fn answer(&mut self) -> Result<Reply, Error> {
        let mut piece = [0; 256];
        loop {
            let count = match self.stream()?.read(&mut piece) {
                Ok(0) => return Err(Error::Temporary("submit ended; its own record says why".to_owned())),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(lost(&error)),
            };
            // One question at a time: nothing can follow the answer.
            match self.reader.push(&piece[..count]) {
                Ok((taken, Some(payload))) if taken == count => {
                    return Reply::decode(payload).map_err(|_| not_an_answer());
                }
                Ok((_, None)) => {}
                _ => return Err(not_an_answer()),
            }
        }
    }
}

impl Submit for Submitter<'_> {
    fn introduce(&mut self, introduction: &Introduction) -> Result<(), Error> {
        self.begin_anew();
        self.introduction = Some(introduction.clone());
        Ok(())
    }

    fn verify(&mut self, address: &Address) -> Result<Verdict, Error> {
        verdict(self.ask(&Request::Verify(address.clone()))?)
    }

    fn reverse_path_with(&mut self, path: &ReversePath, parameters: &MailParameters) -> Result<(), Error> {
        self.put(&Request::ReversePath(path.clone(), parameters.clone()));
        Ok(())
    }

    fn recipient_with(&mut self, address: &Address, parameters: &RecipientParameters) -> Result<Verdict, Error> {
        verdict(self.ask(&Request::Recipient(address.clone(), parameters.clone()))?)
    }

    fn content(&mut self, octets: &[u8]) -> Result<(), Error> {
        for piece in octets.chunks(LONGEST_CONTENT) {
            if piece.len() >= LARGE {
                self.put_content();
                frames::put_content_head(piece.len(), &mut self.out);
                self.flush_with(piece)?;
                continue;
            }
            if self.content.len() + piece.len() > LONGEST_CONTENT {
                let full = std::mem::take(&mut self.content);
                self.put(&Request::Content(&full));
                self.flush()?;
            }
            self.content.extend_from_slice(piece);
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<Outcome, Error> {
        let reply = self.ask(&Request::Commit)?;
        self.begun = false;
        match reply {
            Reply::Outcome(outcome) => Ok(outcome),
            Reply::Verdict(_) => Err(not_an_answer()),
        }
    }

    fn reset(&mut self) -> Result<(), Error> {
        self.out.clear();
        self.content.clear();
        if !self.begun {
            return Ok(());
        }
        self.put(&Request::Reset);
        let sent = self.flush();
        self.begun = false;
        sent
    }
}

impl AllOrNothing for Submitter<'_> {
    fn require(&mut self, address: &Address) -> Result<(), Error> {
        self.put(&Request::Required(address.clone()));
        // One write for few of them, and no more memory for many.
        if self.out.len() < LONGEST_CONTENT { Ok(()) } else { self.flush() }
    }
}

impl Drop for Submitter<'_> {
    fn drop(&mut self) {
        self.leave();
        self.hang_up();
    }
}

fn write_frames(stream: &mut UnixStream, whole: &[u8], behind: &[u8]) -> io::Result<()> {
    if behind.is_empty() {
        return stream.write_all(whole);
    }
    let mut pieces = [IoSlice::new(whole), IoSlice::new(behind), IoSlice::new(frames::END)];
    let mut left = &mut pieces[..];
    while !left.is_empty() {
        match stream.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut left, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn verdict(reply: Reply) -> Result<Verdict, Error> {
    match reply {
        Reply::Verdict(verdict) => Ok(verdict),
        Reply::Outcome(_) => Err(not_an_answer()),
    }
}

fn lost(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => Error::Temporary("submit did not answer within ipc_timeout".to_owned()),
        _ => Error::Temporary(format!("way to submit: {error}")),
    }
}

fn not_an_answer() -> Error {
    Error::Temporary("submit said something else than an answer".to_owned())
}

#[cfg(test)]
mod tests;
