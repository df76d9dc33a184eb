//! The one part of deliver that keeps root: it forks a child for each recipient, and that becomes the user before it
//! opens anything.
//!
//! It believes nothing of what deliver says: it looks the user up by itself, so the worst that a broken deliver can do is
//! to send mail to somebody who has a mailbox here. Content is only passed through, and never looked at.

use super::{ANOTHER, ENDING, HasFd, Request, longest_task, wait};
use crate::again::again;
use crate::config::Config;
use crate::deliver::appended::Appended;
use crate::deliver::settings::Settings;
use crate::deliver::task::{self, Act};
use crate::lookup::Lookup;
use crate::net::handing;
use crate::submit::verify::{self, may_receive};
use crate::users::{self, User};
use crate::{privilege, sys};
use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, pipe2};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// Longest request: the numbers and a task, two addresses and a target in it.
const LONGEST: usize = 8192;

/// The helper's life: one request after another, until deliver is gone.
pub(super) fn serve(socket: &OwnedFd, mut settings: Settings) -> u8 {
    // A signal to the whole group (a service being stopped) lets deliver finish its message; so must we.
    let _ = SigSet::all().thread_block();
    let mut lost = Lost::default();
    loop {
        let (request, pipes) = match receive(socket) {
            Ok(Some(Asked::Task(request, pipe, words))) => (request, (pipe, words)),
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
        // Whoever asks may have read what was written since we did, and does so for this message by the same rule.
        settings.refresh_for(request.task.accepted);
        let Some(appended) = handle(&settings.config, &request, pipes, socket, &mut lost) else { return 0 };
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
    /// With the content, or where to put what is read, and where to put what a program says.
    Task(Request, File, Option<File>),
    Another(OwnedFd),
}

fn receive(socket: &OwnedFd) -> io::Result<Option<Asked>> {
    let mut octets = [0; LONGEST];
    let (length, descriptors) = handing::receive(socket, &mut octets)?;
    if length == 0 {
        return Ok(None);
    }
    let text = octets.get(..length).unwrap_or_default();
    let mut descriptors = descriptors.into_iter();
    match (Request::from_text(text), descriptors.next()) {
        (Some(request), Some(pipe)) => {
            Ok(Some(Asked::Task(request, File::from(pipe), descriptors.next().map(File::from))))
        }
        (None, Some(socket)) if text == ANOTHER.as_bytes() => Ok(Some(Asked::Another(socket))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a request that is none")),
    }
}

/// The pipe with the content, or for what is read, and the one for what a program says.
type Pipes = (File, Option<File>);

/// One recipient. Nothing if deliver is gone meanwhile: then nobody wants the answer, and the child is ended.
fn handle(config: &Config, request: &Request, pipes: Pipes, socket: &OwnedFd, lost: &mut Lost) -> Option<Appended> {
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
    if !is_alias && !may_receive(config, &user) {
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
        as_user(config, &user, uid, gid, request, pipes).code()
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
fn as_user(config: &Config, user: &User, uid: u32, gid: u32, request: &Request, pipes: Pipes) -> Appended {
    let (pipe, words) = pipes;
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
    // Whoever killed the helper wants no mail written behind its back.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    if let Act::ReadForward(extension) = &request.task.act {
        let mut out = pipe;
        return task::read_forward(user, extension, &mut out);
    }
    let mut content = Exactly { pipe, left: request.length, patience: config.ipc_timeout.0 };
    let mut said = String::new();
    let appended = task::perform(config, &request.task, user, &mut content, &mut said);
    // It has room for that.
    words.into_iter().for_each(|mut words| _ = words.write_all(said.as_bytes()));
    appended
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
    match (again(|| waitpid(child, None))?, waited.as_deref()) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::io::Write;

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
}
