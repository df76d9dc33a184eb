//! Packets between processes of ours, with descriptors in them: a socketpair that keeps the bounds of what was sent
//! (SOCK_SEQPACKET), so that nothing has to be framed. What the packets say is left to whoever sends them.

use super::handing;
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, setsockopt, shutdown, socketpair, sockopt};
use nix::sys::time::TimeVal;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// One end.
#[derive(Debug)]
pub struct Packets(OwnedFd);

impl Packets {
    /// Both ends; no program that is started gets one.
    pub fn pair() -> nix::Result<(Packets, Packets)> {
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Packets(one), Packets(other)))
    }

    /// One end that came in a packet.
    pub fn from_descriptor(descriptor: OwnedFd) -> Packets {
        Packets(descriptor)
    }

    /// Sends these octets, of which there must be some, and copies of these descriptors as one packet. Waits where there
    /// is no room.
    pub fn send(&self, octets: &[&[u8]], descriptors: &[BorrowedFd<'_>]) -> nix::Result<()> {
        handing::send(&self.0, octets, descriptors)
    }

    /// Waits for a packet and puts it into `buffer`, which must have room for it. Gives how long it is and what
    /// descriptors came with it; nothing when the other end is gone, and EAGAIN when patience is at its end.
    pub fn receive(&self, buffer: &mut [u8]) -> nix::Result<Option<(usize, Vec<OwnedFd>)>> {
        let (count, descriptors) = handing::receive(&self.0, buffer)?;
        Ok((count > 0).then_some((count, descriptors)))
    }

    /// From now on `receive` waits so many seconds at the most.
    pub fn wait_at_most(&self, seconds: u16) -> nix::Result<()> {
        setsockopt(&self.0, sockopt::ReceiveTimeout, &TimeVal::new(seconds.into(), 0))
    }

    /// From now on the other end cannot send; what it has sent already is received still.
    pub fn hear_no_more(&self) -> nix::Result<()> {
        shutdown(self.0.as_raw_fd(), Shutdown::Read)
    }

    /// Its number, for a forked process that is to keep it, or must not.
    pub fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use std::io::{Read, Write};

    #[test]
    fn a_packet_arrives_as_it_was_sent_with_its_descriptors() {
        let (one, other) = Packets::pair().unwrap();
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        one.send(&[b"ab", b"", b"c"], &[writer.as_fd()]).unwrap();
        one.send(&[b"d"], &[]).unwrap();
        writer.write_all(b"1").unwrap();
        drop((one, writer));
        let mut buffer = [0; 8];
        let (count, descriptors) = other.receive(&mut buffer).unwrap().unwrap();
        assert_eq!((&buffer[..count], descriptors.len()), (b"abc".as_slice(), 1));
        for descriptor in descriptors {
            std::fs::File::from(descriptor).write_all(b"2").unwrap();
        }
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert_eq!(said, "12");
        assert!(matches!(other.receive(&mut buffer), Ok(Some((1, _)))));
        assert!(matches!(other.receive(&mut buffer), Ok(None)));
    }

    #[test]
    fn who_hears_no_more_gets_what_was_sent_before_and_the_other_end_is_told() {
        let (one, other) = Packets::pair().unwrap();
        one.send(&[b"ab"], &[]).unwrap();
        other.hear_no_more().unwrap();
        assert_eq!(one.send(&[b"c"], &[]), Err(Errno::EPIPE));
        let mut buffer = [0; 8];
        assert!(matches!(other.receive(&mut buffer), Ok(Some((2, _)))));
        assert!(matches!(other.receive(&mut buffer), Ok(None)));
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_patience_has_an_end() {
        let (one, other) = Packets::pair().unwrap();
        one.send(&[b"abc"], &[]).unwrap();
        assert_eq!(other.receive(&mut [0; 2]).unwrap_err(), Errno::EMSGSIZE);
        setsockopt(&other.0, sockopt::ReceiveTimeout, &TimeVal::new(0, 1000)).unwrap();
        assert_eq!(other.receive(&mut [0; 2]).unwrap_err(), Errno::EAGAIN);
    }
}
