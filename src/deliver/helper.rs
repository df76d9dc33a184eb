//! deliver's end of its helper, the one part that keeps root (`root.rs`), and what the two say to each other.
//!
//! deliver, which is mail_owner by then, says whose mailbox and under what name, and hands over the reading end of a
//! pipe; the queue file, which names every recipient, never reaches a process of the user's. What comes back is a number.

mod root;

use super::appended::Appended;
use super::settings::Settings;
use super::task::{Act, Task};
use crate::config::Config;
use crate::exit::Error;
use crate::logging::clean;
use crate::mailbox::lock::Locking;
use crate::net::handing;
use crate::program::LONGEST_SAID;
use crate::program::end::ENDING;
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, shutdown, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// What asks for another helper.
const ANOTHER: &str = "another";

/// What ending a program that was too slow may take.
const SLACK: Duration = Duration::from_secs(30);

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
                (Ok(()), Some((socket, settings))) if nix::unistd::getppid() == deliver => {
                    root::serve(&socket, settings)
                }
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

    /// Has a task done with `length` octets of content. What a program said that failed is put into `said`.
    pub fn perform(
        &mut self,
        config: &Config,
        task: &Task,
        length: u64,
        content: &mut dyn Read,
        said: &mut String,
    ) -> Appended {
        let request = self.request(config, task, length);
        let started = self.start_if_need_be().and_then(|()| Ok(pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?));
        let result = started.and_then(|(words, end)| {
            self.pass(&request, content, end)?;
            let appended = self.answer()?;
            // It has said all, in one piece, and is the user's: nobody waits for more, and nothing of it is believed.
            let mut octets = [0; LONGEST_SAID];
            let count = File::from(words).read(&mut octets).unwrap_or(0);
            *said = clean(octets.get(..count).unwrap_or_default(), LONGEST_SAID);
            Ok(appended)
        });
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

    /// Hands over one end of a pipe with the request, or of two.
    fn send(&self, request: &Request, ends: &[OwnedFd]) -> io::Result<()> {
        let ends: Vec<BorrowedFd<'_>> = ends.iter().map(AsFd::as_fd).collect();
        Ok(handing::send(&self.socket, &[request.to_text().as_bytes()], &ends)?)
    }

    fn receive(&self, request: &Request, most: u64, octets: &mut Vec<u8>) -> io::Result<()> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        self.send(request, &[writer])?;
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

    fn pass(&self, request: &Request, content: &mut dyn Read, words: OwnedFd) -> io::Result<()> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        self.send(request, &[reader, words])?;
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
    use std::time::SystemTime;

    #[test]
    fn a_request_comes_back_as_it_was_and_others_are_none() {
        let (user, base) = ("bob".to_owned(), "1.Q2R0.mx".to_owned());
        let (sender, recipient) = ("<>".to_owned(), "bob@mx.example".to_owned());
        let accepted = SystemTime::UNIX_EPOCH;
        let task = Task { act: Act::Mailbox, user, base, search: true, accepted, sender, recipient };
        let request = Request { turn: 7, length: 12, task };
        let text = request.to_text();
        assert_eq!(Request::from_text(text.as_bytes()), Some(request));
        for wrong in ["", "7\n12", &text.replacen("12", "-1", 1), &text.replacen('7', "x", 1)] {
            assert_eq!(Request::from_text(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_task_that_runs_no_program_is_not_waited_for_as_long_as_one_that_does() {
        let config = Config::with(&[]);
        let longest = |act, length| {
            let (user, base) = ("bob".to_owned(), "1.Q2R0.mx".to_owned());
            let (sender, recipient, accepted) = (String::new(), String::new(), SystemTime::UNIX_EPOCH);
            let task = Task { act, user, base, search: true, accepted, sender, recipient };
            longest_task(&config, &task, length).as_secs()
        };
        let target = |text: &str| Act::ForwardTarget(String::new(), text.to_owned());
        assert_eq!(longest(Act::Mailbox, 0), 900 + 19);
        assert_eq!(longest(target("/tmp/x"), 20_000_000), 900 + 19 + 2000);
        assert_eq!(longest(target("|/bin/x"), 0), 900 + 19 + 330);
        assert!(longest(Act::MailboxOrForward(String::new()), 0) < config.ipc_timeout.0.as_secs() / 3);
    }
}
