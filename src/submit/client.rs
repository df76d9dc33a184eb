//! The servers' end: the way to `submit`, by its unix socket where there is one, else by a child of our own.
//!
//! A process that serves one client after another keeps the connection to the socket for a while, if a session left nothing
//! on it that is not done. submit makes nothing of what came before an introduction, so each session begins there as on a
//! new one.

use super::frames::{self, FrameReader, LONGEST_CONTENT, Reply, Request};
use super::{AllOrNothing, Introduction, Outcome, Submit, Verdict};
use crate::again::again;
use crate::cli::Common;
use crate::clock;
use crate::config::Config;
use crate::exit::Error;
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::privilege;
use crate::program::end::leave;
use crate::sys;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, socket};
use nix::unistd::{Pid, dup2_stdin, dup2_stdout};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A piece of content of this size is sent as it is, and smaller ones are collected.
const LARGE: usize = 16 * 1024;

/// The connection that the session before left, and since when it is there.
static KEPT: Mutex<Option<(UnixStream, Instant)>> = Mutex::new(None);

/// An older one is not used again: behind the socket may be another submit by now, with another configuration.
const OLDEST: Duration = Duration::from_secs(10);

/// Lets go of the connection that is kept for the next session, if there is one.
pub fn let_go() {
    if let Ok(mut kept) = KEPT.lock() {
        *kept = None;
    }
}

/// Lets go of it where it is too old. Sessions without mail ask for none, and where they follow each other nobody waits.
fn let_go_of_old() {
    if let Ok(mut kept) = KEPT.lock() {
        kept.take_if(|(_, since)| since.elapsed() >= OLDEST);
    }
}

/// The connection that is kept, if it is not too old and submit has neither ended nor said anything that nobody asked for.
fn kept() -> Option<(UnixStream, Instant)> {
    let (stream, since) = KEPT.lock().ok()?.take().filter(|(_, since)| since.elapsed() < OLDEST)?;
    let is_quiet =
        recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) == Err(Errno::EAGAIN);
    is_quiet.then_some((stream, since))
}

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

/// How submit is reached.
#[derive(Debug, Clone, Copy)]
struct Way<'a> {
    config: &'a Config,
    common: &'a Common,
}

impl Way<'_> {
    fn socket(&self) -> PathBuf {
        self.config.queue_directory.join("submit")
    }

    /// By the socket, if it is there and somebody answers, else by a child of our own. Gives also whose connection it is: a
    /// child's, or since when there is one of the socket.
    fn open(&self) -> Result<(UnixStream, Option<Pid>, Option<Instant>), Error> {
        if let Some((stream, since)) = kept() {
            return Ok((stream, None, Some(since)));
        }
        // Behind the socket is a submit whose clock goes, for others too.
        let there = if clock::stands() { None } else { connect_to(&self.socket()) };
        let arguments = || [self.common.arguments(), clock::arguments()].concat();
        let (stream, child) = match there {
            Some(stream) => (stream, None),
            None => start_child(|| (self.config.program("submit"), arguments()))?,
        };
        // Nor longer than the whole session may last.
        let (ipc, daemon) = (self.config.ipc_timeout.0, self.config.daemon_timeout.0);
        let limit = Some(ipc.min(daemon)).filter(|time| !time.is_zero());
        let limited = stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit));
        limited.map_err(|e| Error::Temporary(format!("way to submit: {e}")))?;
        Ok((stream, child, child.is_none().then(Instant::now)))
    }
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
        if let (Some(since), Ok(mut kept)) = (self.since, KEPT.lock())
            && let Some(stream) = self.stream.take()
        {
            *kept = Some((stream, since));
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

/// Connects without waiting: where nobody accepts, a child of our own is as good.
fn connect_to(path: &Path) -> Option<UnixStream> {
    let address = UnixAddr::new(path).ok()?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let ours = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&ours), &address).ok()?;
    let stream = UnixStream::from(ours);
    stream.set_nonblocking(false).ok()?;
    Some(stream)
}

/// `what`: program and arguments, asked for when there is mail, which many sessions have none of.
fn start_child(what: impl FnOnce() -> (PathBuf, Vec<OsString>)) -> Result<(UnixStream, Option<Pid>), Error> {
    let trouble = |what: &str, error: io::Error| Error::Temporary(format!("{what} for submit: {error}"));
    let (ours, theirs) = UnixStream::pair().map_err(|e| trouble("socketpair", e))?;
    let theirs = OwnedFd::from(theirs);
    let child = sys::fork(|| wait_and_exec(&theirs, what)).map_err(|e| trouble("fork", e.into()))?;
    Ok((ours, Some(child)))
}

/// What the child does: lets go of everything of the client's, waits for the first octet, becomes submit.
fn wait_and_exec(theirs: &OwnedFd, what: impl FnOnce() -> (PathBuf, Vec<OsString>)) -> u8 {
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return 75 };
    if dup2_stdin(theirs).is_err() || dup2_stdout(&null).is_err() {
        return 75;
    }
    // Descriptor 2 stays: where it may be the client, logging has put /dev/null over it.
    let _ = null.into_raw_fd();
    sys::close_between(3, u32::MAX);
    match again(|| recv(0, &mut [0], MsgFlags::MSG_PEEK)) {
        Ok(0) => return 0,
        Ok(_) => {}
        Err(_) => return 75,
    }
    let (program, arguments) = what();
    let mut command = Command::new(&program);
    for ours in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET"] {
        command.env_remove(ours);
    }
    let error = command.args(arguments).exec();
    log::error!("{}: {error}", program.display());
    75
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::trace::{Client, Protocol};
    use crate::submit::Policy;

    fn pair() -> (Submitter<'static>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Submitter::over(Some(ours), None), theirs)
    }

    fn introduction() -> Introduction {
        let client = Client { helo: None, name: None, address: "192.0.2.1".to_owned(), tls: None };
        Introduction { channel: "local".to_owned(), policy: Policy::Anywhere, protocol: Protocol::Qmqp, client }
    }

    /// The kinds of the frames that have arrived.
    fn kinds(stream: &mut UnixStream) -> String {
        let (mut reader, mut kinds, mut octets) = (FrameReader::default(), String::new(), Vec::new());
        let _ = stream.read_to_end(&mut octets);
        let mut rest = &octets[..];
        while !rest.is_empty() {
            let (taken, payload) = reader.push(rest).unwrap();
            kinds.extend(payload.map(|payload| char::from(payload[0])));
            rest = &rest[taken..];
        }
        kinds
    }

    fn answer(stream: &mut UnixStream, reply: &Reply) {
        let mut octets = Vec::new();
        reply.put(&mut octets);
        stream.write_all(&octets).unwrap();
    }

    #[test]
    fn nothing_is_sent_before_an_answer_is_needed() {
        let (mut submitter, mut far) = pair();
        submitter.introduce(&introduction()).unwrap();
        submitter.reverse_path(&ReversePath::NULL).unwrap();
        submitter.content(b"x\n").unwrap();
        submitter.reset().unwrap();
        assert_eq!(kinds(&mut far), "");
        submitter.reverse_path(&ReversePath::NULL).unwrap();
        submitter.content(b"x\n").unwrap();
        submitter.content(b"y\n").unwrap();
        answer(&mut far, &Reply::Outcome(Outcome::Queued("1".to_owned())));
        assert_eq!(submitter.commit().unwrap(), Outcome::Queued("1".to_owned()));
        assert_eq!(kinds(&mut far), "IFCE");
        submitter.reset().unwrap();
        assert_eq!(kinds(&mut far), "");
    }

    #[test]
    fn attributes_follow_the_introduction() {
        let (mut submitter, mut far) = pair();
        submitter.attributes = vec![("content_filter".to_owned(), "scan:".to_owned())];
        submitter.introduce(&introduction()).unwrap();
        submitter.content(b"x\n").unwrap();
        answer(&mut far, &Reply::Outcome(Outcome::Queued("1".to_owned())));
        submitter.commit().unwrap();
        assert_eq!(kinds(&mut far), "IACE");
    }

    #[test]
    fn a_message_that_was_begun_is_abandoned_by_reset() {
        let (mut submitter, mut far) = pair();
        submitter.reverse_path(&ReversePath::NULL).unwrap();
        answer(&mut far, &Reply::Verdict(Verdict::Accepted));
        let address = Address::from_internal(b"bob").unwrap();
        assert_eq!(submitter.recipient(&address).unwrap(), Verdict::Accepted);
        submitter.reset().unwrap();
        assert_eq!(kinds(&mut far), "FRX");
    }

    #[test]
    fn a_whole_package_waits_for_one_answer() {
        let (mut submitter, mut far) = pair();
        submitter.content(b"x\n").unwrap();
        submitter.reverse_path(&ReversePath::NULL).unwrap();
        let address = Address::from_internal(b"bob").unwrap();
        submitter.require(&address).unwrap();
        submitter.require(&address).unwrap();
        assert_eq!(kinds(&mut far), "");
        let outcome = Outcome::Refused(super::super::Refusal::Recipient(Verdict::UnknownUser));
        answer(&mut far, &Reply::Outcome(outcome.clone()));
        assert_eq!(submitter.commit().unwrap(), outcome);
        assert_eq!(kinds(&mut far), "CFNNE");
    }

    #[test]
    fn large_content_goes_in_frames_the_other_end_takes() {
        let (mut submitter, mut far) = pair();
        let big = vec![b'x'; 3 * LONGEST_CONTENT / 2];
        let reader = std::thread::spawn(move || {
            far.set_nonblocking(false).unwrap();
            kinds(&mut far)
        });
        submitter.content(&big).unwrap();
        submitter.content(&big).unwrap();
        submitter.reset().unwrap();
        drop(submitter);
        assert_eq!(reader.join().unwrap(), "CCCCX");
    }

    #[test]
    fn after_a_lost_answer_nothing_is_believed() {
        let (mut submitter, mut far) = pair();
        submitter.stream().unwrap().set_read_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
        let address = Address::from_internal(b"bob").unwrap();
        assert!(submitter.recipient(&address).is_err());
        answer(&mut far, &Reply::Verdict(Verdict::Accepted));
        assert!(submitter.recipient(&address).is_err());
        assert!(submitter.commit().is_err());
    }

    /// A session on a connection to the socket, with the other end; `age` is that of the connection.
    fn session(age: Duration) -> (Submitter<'static>, UnixStream) {
        let (mut submitter, far) = pair();
        submitter.since = Instant::now().checked_sub(age);
        (submitter, far)
    }

    #[test]
    fn the_next_session_has_a_connection_on_which_everything_was_answered_and_no_other() {
        let address = Address::from_internal(b"bob").unwrap();
        let recipient = |submitter: &mut Submitter<'_>, far: &mut UnixStream| {
            answer(far, &Reply::Verdict(Verdict::Accepted));
            submitter.introduce(&introduction()).unwrap();
            submitter.recipient(&address).unwrap();
        };
        // A message that is not done, and one of which nobody knows.
        for is_reset in [false, true] {
            let (mut submitter, mut far) = session(Duration::ZERO);
            recipient(&mut submitter, &mut far);
            if is_reset {
                submitter.reset().unwrap();
            }
            drop(submitter);
            assert_eq!(kept().is_some(), is_reset);
        }
        // One that was not used is as good; one that is too old, has ended, or said what nobody asked for is not.
        drop(session(Duration::ZERO));
        assert!(kept().is_none(), "its other end is gone");
        for (age, said, is_good) in [(0, "", true), (0, "2:va,", false), (11, "", false)] {
            let (submitter, mut far) = session(Duration::from_secs(age));
            far.write_all(said.as_bytes()).unwrap();
            drop(submitter);
            assert_eq!(kept().is_some(), is_good, "{age} {said}");
        }
        for (age, is_left) in [(0, true), (11, false)] {
            let (submitter, _far) = session(Duration::from_secs(age));
            drop(submitter);
            let_go_of_old();
            assert_eq!(KEPT.lock().unwrap().is_some(), is_left, "{age}");
        }
        let (submitter, _far) = session(Duration::ZERO);
        drop(submitter);
        let_go();
        assert!(kept().is_none());
    }
}
