//! Handing an open descriptor to another process of ours, beside the octets that say what it is for (unix(7),
//! SCM_RIGHTS).

use crate::sys;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Sends octets, at least one, and a descriptor with the first of them.
pub fn send(socket: impl AsFd, octets: &[u8], with: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let descriptors: Vec<RawFd> = with.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    let octets = [IoSlice::new(octets)];
    loop {
        match sendmsg::<()>(socket.as_fd().as_raw_fd(), &octets, rights, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Waits for octets, as many as came in one piece and have room, and the descriptor that came with them. 0: the other
/// end is gone.
pub fn receive(socket: impl AsFd, room: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = cmsg_space!(RawFd);
    loop {
        let mut into = [IoSliceMut::new(room)];
        match recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut into, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Ok(message) => {
                let rights = message.cmsgs()?.find_map(|control| match control {
                    ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
                    _ => None,
                });
                return Ok((message.bytes, rights.and_then(sys::inherited)));
            }
            Err(Errno::EINTR) => {}
            Err(Errno::ECONNRESET) => return Ok((0, None)),
            Err(errno) => return Err(errno.into()),
        }
    }
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
        send(&ours, b"file", Some(file.as_fd())).unwrap();
        let mut room = [0; 10];
        let (count, with) = receive(&theirs, &mut room).unwrap();
        let (mut text, mut arrived) = (String::new(), File::from(with.unwrap()));
        arrived.rewind().unwrap();
        arrived.read_to_string(&mut text).unwrap();
        assert_eq!((&room[..count], text.as_str()), (&b"file"[..], "inside"));

        send(&ours, b"none", None).unwrap();
        let (count, with) = receive(&theirs, &mut room).unwrap();
        assert!(count == 4 && with.is_none());
        drop(ours);
        assert!(matches!(receive(&theirs, &mut room), Ok((0, None))));
    }
}
