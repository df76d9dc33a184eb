//! The one part of deliver that keeps root: it forks a child for each recipient, and that becomes the user before it
//! opens anything.
//!
//! deliver, which is mail_owner by then, says whose mailbox and under what name, and hands over the reading end of a
//! pipe; the queue file, which names every recipient, never reaches a process of the user's. The helper believes none
//! of it: it looks the user up by itself, so the worst that a broken deliver can do is to send mail to somebody who
//! has a mailbox here. What comes back is a number. Content is only passed through, and never looked at.

use super::appended::Appended;
use super::settings::Settings;
use super::task::{self, Act, Task};
use crate::config::Config;
use crate::exit::Error;
use crate::lookup::Lookup;
use crate::mailbox::lock::Locking;
use crate::net::handing;
use crate::submit::verify::{self, may_receive};
use crate::users::{self, User};
use crate::{privilege, sys};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::socket::{AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, shutdown, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, pipe2};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// What asks for another helper.
const ANOTHER: &str = "another";

/// Longest request: the numbers and a task, two addresses and a target in it.
const LONGEST: usize = 8192;

/// What ending a program that was too slow may take.
const SLACK: Duration = Duration::from_secs(30);

/// How long one may take to end that was killed; a file system that does not answer can keep it.
const ENDING: Duration = Duration::from_secs(10);

/// Octets of a message for which a task gets a second more.
const A_SECOND: u64 = 10_000;

/// How long a child may work on one task. It is the user's, who may stop it, or let it wait for a file system of his own; a
/// worker waits meanwhile. It ends a program that is too slow by itself: one that may run longer must not be taken for lost,
/// for its message would come twice.
fn longest_task(config: &Config, task: &Task, length: u64) -> Duration {
    let is_program = match &task.act {
        Act::ForwardTarget(_, target) | Act::AliasTarget(_, target) => target.starts_with('|'),
        Act::Mailbox | Act::MailboxOrForward(_) | Act::ReadForward(_) => false,
    };
    let program = if is_program { config.command_time_limit.0.saturating_add(SLACK) } else { Duration::ZERO };
    let locks = Locking::of(config).longest().saturating_add(Duration::from_secs(length / A_SECOND));
    (config.ipc_timeout.0 / 4).saturating_add(locks).saturating_add(program)
}

/// deliver's end.
#[derive(Debug)]
pub struct Helper {
    socket: OwnedFd,
    /// None: it is no child of ours.
    process: Option<Pid>,
    /// The socket is that of the first helper still, and another has to be asked for.
    is_first: bool,
    turn: u32,
    /// How long the task at hand may take: somewhat longer than the helper itself gives its child.
    patience: Duration,
    /// It answers no more.
    pub is_gone: bool,
}

impl Helper {
    /// Forks it. To be called as root, before anything else is opened.
    pub fn start(settings: Settings) -> Result<Helper, Error> {
        let failed = |errno: Errno| Error::Temporary(format!("starting the helper for local delivery: {errno}"));
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let (ours, its) = pair.map_err(failed)?;
        let mut start = Some((its, settings));
        let held = ours.as_raw_fd();
        let deliver = nix::unistd::getpid();
        let process = sys::fork(move || {
            // Two ways to learn that deliver is gone: the end of the socket, which is seen only by who does not hold
            // the other end too, and a signal.
            let heard = nix::unistd::close(held).and_then(|()| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL));
            match (heard, start.take()) {
                (Ok(()), Some((socket, settings))) if nix::unistd::getppid() == deliver => serve(&socket, settings),
                _ => 75,
            }
        })
        .map_err(failed)?;
        Ok(Helper::at(ours, Some(process)))
    }

    /// One more, with a socket of its own: each process that delivers may need one. It starts when it has something to do.
    pub fn another(&self) -> io::Result<Helper> {
        let socket = self.socket.try_clone()?;
        Ok(Helper::at(socket, None))
    }

    fn at(socket: OwnedFd, process: Option<Pid>) -> Helper {
        Helper { socket, process, is_first: process.is_none(), turn: 0, patience: Duration::ZERO, is_gone: false }
    }

    fn start_if_need_be(&mut self) -> io::Result<()> {
        if self.is_first {
            let (ours, its) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
            handing::send(&self.socket, &[ANOTHER.as_bytes()], &[its.as_fd()])?;
            (self.socket, self.is_first) = (ours, false);
        }
        Ok(())
    }

    /// Whether the helper at this end still runs: it says nothing unasked, so that there is nothing to read but its end.
    pub fn is_there(&self) -> bool {
        let mut socket = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut socket, PollTimeout::ZERO), Ok(0) | Err(_))
    }

    /// Has a task done with `length` octets of content.
    pub fn perform(&mut self, config: &Config, task: &Task, length: u64, content: &mut dyn Read) -> Appended {
        let request = self.request(config, task, length);
        let started = self.start_if_need_be();
        let result = started.and_then(|()| self.pass(&request, content)).and_then(|()| self.answer());
        self.or_broken(result)
    }

    /// Has a `~/.forward` read, of which no more than `most` octets are taken.
    pub fn read(&mut self, config: &Config, task: &Task, most: u64) -> Result<Vec<u8>, Appended> {
        let request = self.request(config, task, 0);
        let mut octets = Vec::new();
        let started = self.start_if_need_be();
        let result = started.and_then(|()| self.receive(&request, most, &mut octets)).and_then(|()| self.answer());
        match self.or_broken(result) {
            Appended::Done if octets.len() as u64 <= most => Ok(octets),
            Appended::Done => Err(Appended::ForwardUnreadable),
            appended => Err(appended),
        }
    }

    fn request(&mut self, config: &Config, task: &Task, length: u64) -> Request {
        self.patience = longest_task(config, task, length).saturating_add(ENDING).saturating_add(SLACK);
        self.turn = self.turn.wrapping_add(1);
        Request { turn: self.turn, length, task: task.clone() }
    }

    fn or_broken(&mut self, result: io::Result<Appended>) -> Appended {
        result.unwrap_or_else(|error| {
            log::error!("the helper for local delivery: {error}");
            self.is_gone |= error.kind() != io::ErrorKind::TimedOut;
            Appended::Broken
        })
    }

    /// Hands over one end of a pipe with the request.
    fn send(&self, request: &Request, end: OwnedFd) -> io::Result<()> {
        Ok(handing::send(&self.socket, &[request.to_text().as_bytes()], &[end.as_fd()])?)
    }

    fn receive(&self, request: &Request, most: u64, octets: &mut Vec<u8>) -> io::Result<()> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        self.send(request, writer)?;
        let end = Instant::now() + self.patience;
        let mut reader = File::from(reader);
        let mut piece = [0; 4096];
        loop {
            wait(&[(&reader, PollFlags::POLLIN)], end.saturating_duration_since(Instant::now()))?;
            match reader.read(&mut piece) {
                Ok(0) => return Ok(()),
                // Whoever writes more is cut off by the end of the pipe.
                Ok(_) if octets.len() as u64 > most => return Ok(()),
                Ok(count) => octets.extend_from_slice(piece.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn pass(&self, request: &Request, content: &mut dyn Read) -> io::Result<()> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        self.send(request, reader)?;
        let mut writer = File::from(writer);
        let mut buffer = [0; 32 * 1024];
        loop {
            let count = match content.read(&mut buffer) {
                Ok(count) => count,
                // The pipe ends early: the other side gives up and says so.
                Err(_) => return Ok(()),
            };
            let mut rest = buffer.get(..count).unwrap_or_default();
            if rest.is_empty() {
                return Ok(());
            }
            while !rest.is_empty() {
                match writer.write(rest) {
                    Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        wait(&[(&writer, PollFlags::POLLOUT)], self.patience)?;
                    }
                    // The other side wants no more: it knows why.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn answer(&self) -> io::Result<Appended> {
        let end = Instant::now() + self.patience;
        loop {
            wait(&[(&self.socket, PollFlags::POLLIN)], end.saturating_duration_since(Instant::now()))?;
            let mut answer = [0; 5];
            match recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT) {
                Ok(5) => {
                    let [a, b, c, d, code] = answer;
                    // An older one is the answer we did not wait for any longer.
                    if u32::from_be_bytes([a, b, c, d]) == self.turn {
                        return Ok(Appended::from_code(code));
                    }
                }
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// The socket by which it is asked, to be waited for: there is something when the helper is gone.
impl AsFd for Helper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The same, to be closed in children that must not ask.
impl AsRawFd for Helper {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Tells it to end, and takes its status, so that no system has to.
impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(process) = self.process
            && shutdown(self.socket.as_raw_fd(), Shutdown::Both).is_ok()
        {
            while waitpid(process, None) == Err(Errno::EINTR) {}
        }
    }
}

/// What deliver asks for.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    turn: u32,
    length: u64,
    task: Task,
}

impl Request {
    fn to_text(&self) -> String {
        format!("{}\n{}\n{}", self.turn, self.length, self.task.to_text())
    }

    /// Strict; what base and user may look like is checked where they are used.
    fn from_text(octets: &[u8]) -> Option<Request> {
        let mut fields = std::str::from_utf8(octets).ok()?.splitn(3, '\n');
        let (turn, length) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Request { turn, length, task: Task::from_text(fields.next()?)? })
    }
}

/// The helper's life: one request after another, until deliver is gone.
fn serve(socket: &OwnedFd, mut settings: Settings) -> u8 {
    // A signal to the whole group (a service being stopped) lets deliver finish its message; so must we.
    let _ = SigSet::all().thread_block();
    let mut lost = Lost::default();
    loop {
        let (request, pipe) = match receive(socket) {
            Ok(Some(Asked::Task(request, pipe))) => (request, pipe),
            Ok(Some(Asked::Another(more))) => {
                start_another(socket, &more, &settings);
                lost.reap();
                continue;
            }
            Ok(None) => return 0,
            Err(error) => {
                log::error!("the helper for local delivery ends: {error}");
                return 75;
            }
        };
        settings.refresh();
        let Some(appended) = handle(&settings.config, &request, pipe, socket, &mut lost) else { return 0 };
        let [a, b, c, d] = request.turn.to_be_bytes();
        if send(socket.as_raw_fd(), &[a, b, c, d, appended.code()], MsgFlags::MSG_NOSIGNAL).is_err() {
            return 0;
        }
    }
}

/// A child that serves another socket, and ends with us.
fn start_another(socket: &OwnedFd, more: &OwnedFd, settings: &Settings) {
    let held = socket.as_raw_fd();
    let us = nix::unistd::getpid();
    let started = sys::fork(|| {
        let heard = nix::unistd::close(held).and_then(|()| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL));
        if heard.is_err() || nix::unistd::getppid() != us { 75 } else { serve(more, settings.clone()) }
    });
    if let Err(errno) = started {
        log::error!("another helper for local delivery: {errno}");
    }
}

/// Children that were killed and have not ended, and whose they are: no more are started for those.
#[derive(Default)]
struct Lost(Vec<(Pid, String)>);

impl Lost {
    /// Takes the statuses of children that have ended since.
    fn reap(&mut self) {
        while let Ok(WaitStatus::Exited(ended, _) | WaitStatus::Signaled(ended, ..)) =
            waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG))
        {
            self.0.retain(|(process, _)| *process != ended);
        }
    }

    fn is_of(&mut self, user: &str) -> bool {
        self.reap();
        self.0.iter().any(|(_, whose)| whose == user)
    }
}

/// What may be asked for.
enum Asked {
    Task(Request, File),
    Another(OwnedFd),
}

fn receive(socket: &OwnedFd) -> io::Result<Option<Asked>> {
    let mut octets = [0; LONGEST];
    let (length, descriptors) = handing::receive(socket, &mut octets)?;
    if length == 0 {
        return Ok(None);
    }
    let text = octets.get(..length).unwrap_or_default();
    match (Request::from_text(text), descriptors.into_iter().next()) {
        (Some(request), Some(pipe)) => Ok(Some(Asked::Task(request, File::from(pipe)))),
        (None, Some(socket)) if text == ANOTHER.as_bytes() => Ok(Some(Asked::Another(socket))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a request that is none")),
    }
}

/// One recipient. Nothing if deliver is gone meanwhile: then nobody wants the answer, and the child is ended.
fn handle(config: &Config, request: &Request, pipe: File, socket: &OwnedFd, lost: &mut Lost) -> Option<Appended> {
    let task = &request.task;
    let is_alias = matches!(task.act, Act::AliasTarget(..));
    let found = if is_alias { verify::privileged(config) } else { users::find(config, task.user.as_bytes()) };
    let user = match found {
        Lookup::Yes(user) => user,
        Lookup::No => return Some(Appended::NoUser),
        Lookup::CannotTell(why) => {
            log::warn!("user={}: {why}", task.user);
            return Some(Appended::CannotTell);
        }
    };
    let Some((uid, gid)) = user.owner else { return Some(Appended::NotOurs) };
    if !is_alias && !may_receive(&user) {
        log::warn!("user={} uid={uid}: mail for accounts of the system is not delivered", user.name);
        return Some(Appended::SystemAccount);
    }
    if lost.is_of(&user.name) {
        log::warn!("user={}: the last delivery has not ended", user.name);
        return Some(Appended::Unusable);
    }
    let work = || {
        // The user's process has no business with deliver.
        let _ = nix::unistd::close(socket.as_raw_fd());
        as_user(config, &user, uid, gid, request, pipe).code()
    };
    let patience = longest_task(config, task, request.length);
    match in_child(work, socket, patience, &mut |child| lost.0.push((child, user.name.clone()))) {
        Ok(appended) => appended,
        Err(error) => {
            log::error!("user={}: {error}", user.name);
            Some(Appended::Broken)
        }
    }
}

/// The child: becomes the user for good, then opens the mailbox for the first time.
fn as_user(config: &Config, user: &User, uid: u32, gid: u32, request: &Request, pipe: File) -> Appended {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let became = match &request.task.act {
        Act::Mailbox | Act::MailboxOrForward(_) => {
            privilege::become_owner_of(config, &user.mailbox_path(config), uid, gid)
        }
        // Programs and files that users name are no affair of a group that mailboxes need.
        Act::ReadForward(_) | Act::ForwardTarget(..) | Act::AliasTarget(..) => privilege::become_user(uid, gid),
    };
    if let Err(error) = became {
        log::error!("user={}: {error}", user.name);
        return Appended::Broken;
    }
    // After becoming the user, for that clears it. Whoever killed the helper wants no mail written behind its back.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    if let Act::ReadForward(extension) = &request.task.act {
        let mut out = pipe;
        return task::read_forward(user, extension, &mut out);
    }
    let mut content = Exactly { pipe, left: request.length, patience: config.ipc_timeout.0 };
    task::perform(config, &request.task, user, &mut content)
}

/// Runs `work` in a child and gives its result. Nothing if the other end of `socket` is closed before; the child is
/// ended then, and after `patience`. One that does not end even so is `lost`.
fn in_child(
    work: impl FnOnce() -> u8,
    socket: &OwnedFd,
    patience: Duration,
    lost: &mut dyn FnMut(Pid),
) -> io::Result<Option<Appended>> {
    // The child holds the writing end while it lives.
    let (alive, held) = pipe2(OFlag::O_CLOEXEC)?;
    let child = sys::fork(work)?;
    drop(held);
    let ends = [(&alive as &dyn HasFd, PollFlags::POLLIN), (socket, PollFlags::empty())];
    let waited = wait(&ends, patience);
    let is_over = matches!(waited.as_deref(), Ok([true, _]));
    if !is_over {
        kill(child, Signal::SIGKILL)?;
        if wait(&[(&alive, PollFlags::POLLIN)], ENDING).is_err() {
            lost(child);
            return Err(io::Error::other("the child for local delivery hangs, and cannot be ended"));
        }
    }
    let status = loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            status => break status?,
        }
    };
    match (status, waited.as_deref()) {
        (WaitStatus::Exited(_, code), _) => Ok(Some(u8::try_from(code).map_or(Appended::Broken, Appended::from_code))),
        (_, Ok([false, true])) => Ok(None),
        (status, _) => Err(io::Error::other(format!("the child for local delivery: {status:?}"))),
    }
}

/// The content out of the pipe: an end before its whole length is an error, so that nothing cut off is delivered.
struct Exactly {
    pipe: File,
    left: u64,
    patience: Duration,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..room).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        loop {
            match self.pipe.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.left = self.left.saturating_sub(count as u64);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(&[(&self.pipe, PollFlags::POLLIN)], self.patience)?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Anything that can be waited for.
trait HasFd {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> HasFd for T {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}

/// Waits for any of these, a closed other end included, and gives which; too long is an error.
fn wait(ends: &[(&dyn HasFd, PollFlags)], patience: Duration) -> io::Result<Vec<bool>> {
    let end = Instant::now() + patience;
    let mut ends: Vec<PollFd> = ends.iter().map(|(end, events)| PollFd::new(end.fd(), *events)).collect();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match poll(&mut ends, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(0) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
            Ok(0) => {}
            Ok(_) => return Ok(ends.iter().map(|end| end.any().unwrap_or(true)).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_back_as_it_was_and_others_are_none() {
        let (user, base) = ("bob".to_owned(), "1.Q2R0.mx".to_owned());
        let (sender, recipient) = ("<>".to_owned(), "bob@mx.example".to_owned());
        let task = Task { act: Act::Mailbox, user, base, search: true, sender, recipient };
        let request = Request { turn: 7, length: 12, task };
        let text = request.to_text();
        assert_eq!(Request::from_text(text.as_bytes()), Some(request));
        for wrong in ["", "7\n12", &text.replacen("12", "-1", 1), &text.replacen('7', "x", 1)] {
            assert_eq!(Request::from_text(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_pipe_that_ends_early_is_an_error_and_more_than_asked_for_is_left_in_it() {
        for (sent, whole) in [("abc", false), ("abcdef", true), ("abcdefgh", true)] {
            let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
            File::from(writer).write_all(sent.as_bytes()).unwrap();
            let mut content = Exactly { pipe: reader.into(), left: 6, patience: Duration::from_secs(5) };
            let mut text = String::new();
            assert_eq!(content.read_to_string(&mut text).is_ok(), whole, "{sent}");
            if whole {
                assert_eq!(text, "abcdef");
            }
        }
    }

    #[test]
    fn a_child_that_hangs_or_is_killed_is_a_breakdown_and_its_status_is_the_answer() {
        let (ours, its) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let long = Duration::from_secs(20);
        let none = &mut |_| panic!("it ends");
        assert_eq!(in_child(|| Appended::NoRoom.code(), &its, long, none).unwrap(), Some(Appended::NoRoom));
        let hang = || loop {
            nix::unistd::pause();
        };
        assert!(in_child(hang, &its, Duration::from_millis(1), none).is_err());
        drop(ours);
        assert_eq!(in_child(hang, &its, long, none).unwrap(), None);
    }

    #[test]
    fn a_task_that_runs_no_program_is_not_waited_for_as_long_as_one_that_does() {
        let config = Config::with(&[]);
        let longest = |act, length| {
            let (user, base) = ("bob".to_owned(), "1.Q2R0.mx".to_owned());
            let task = Task { act, user, base, search: true, sender: String::new(), recipient: String::new() };
            longest_task(&config, &task, length).as_secs()
        };
        let target = |text: &str| Act::ForwardTarget(String::new(), text.to_owned());
        assert_eq!(longest(Act::Mailbox, 0), 900 + 19);
        assert_eq!(longest(target("/tmp/x"), 20_000_000), 900 + 19 + 2000);
        assert_eq!(longest(target("|/bin/x"), 0), 900 + 19 + 330);
        assert!(longest(Act::MailboxOrForward(String::new()), 0) < config.ipc_timeout.0.as_secs() / 3);
    }
}
