//! Handing open descriptors to another process of ours, beside the octets that say what they are for (unix(7),
//! SCM_RIGHTS), and keeping the others from it. What the octets say is left to whoever sends them.

use crate::again::again;
use crate::logging;
use crate::sys;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::unistd::close;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Descriptors that go together, at the most.
const MOST: usize = 2;

/// Sends these octets, of which there must be some, and with the first of them copies of these descriptors. Waits where
/// there is no room.
pub fn send(socket: impl AsFd, octets: &[&[u8]], descriptors: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let octets: Vec<IoSlice<'_>> = octets.iter().map(|part| IoSlice::new(part)).collect();
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let rights = if numbers.is_empty() { &[][..] } else { &rights };
    let socket = socket.as_fd().as_raw_fd();
    again(|| sendmsg::<()>(socket, &octets, rights, MsgFlags::MSG_NOSIGNAL, None)).map(drop)
}

/// Waits for octets, as many as came in one piece, and the descriptors that came with them. 0: the other end is gone.
/// EMSGSIZE where a packet has more than the buffer has room for, or its descriptors cannot all be had: they are more than
/// ever go together, or this process may not have so many. One of them may be open then, under a number that nobody knows: a
/// process that gets this error must end.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let mut space = cmsg_space!([RawFd; MOST]);
    let mut into = [IoSliceMut::new(buffer)];
    let received = loop {
        match recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut into, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            Err(Errno::ECONNRESET) => return Ok((0, Vec::new())),
            answer => break answer?,
        }
    };
    let mut descriptors = Vec::new();
    // An error is MSG_CTRUNC.
    let Ok(messages) = received.cmsgs() else { return Err(Errno::EMSGSIZE) };
    for message in messages {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            for number in numbers {
                let Some(descriptor) = sys::inherited(number) else {
                    // Kept open by nobody, for somebody waits for its end.
                    let _ = close(number);
                    return Err(Errno::EMSGSIZE);
                };
                descriptors.push(descriptor);
            }
        }
    }
    if received.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(Errno::EMSGSIZE);
    }
    Ok((received.bytes, descriptors))
}

/// Closes every descriptor but 0 to 2, where records go, and these. Only for a process that owns none of those that go, as
/// one that was just forked.
pub fn keep_only(mut kept: Vec<RawFd>) {
    kept.extend(logging::descriptor());
    kept.sort_unstable();
    let mut first = 3;
    for number in kept.iter().filter_map(|number| u32::try_from(*number).ok()) {
        if number > first {
            sys::close_between(first, number - 1);
        }
        first = first.max(number.saturating_add(1));
    }
    sys::close_between(first, u32::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_arrives_with_its_octets_and_none_with_others() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"inside").unwrap();
        send(&ours, &[b"file"], &[file.as_fd()]).unwrap();
        let mut room = [0; 10];
        let (count, mut with) = receive(&theirs, &mut room).unwrap();
        let (mut text, mut arrived) = (String::new(), File::from(with.remove(0)));
        arrived.rewind().unwrap();
        arrived.read_to_string(&mut text).unwrap();
        assert_eq!((&room[..count], text.as_str()), (&b"file"[..], "inside"));

        send(&ours, &[b"no", b"ne"], &[]).unwrap();
        let (count, with) = receive(&theirs, &mut room).unwrap();
        assert!(count == 4 && with.is_empty());
        drop(ours);
        assert!(matches!(receive(&theirs, &mut room), Ok((0, with)) if with.is_empty()));
    }
}
