//! What the parser says to the checker, octets to values; `reuse.rs` has the whole exchange. No I/O.
//!
//! The parser may have been taken over by its client: each packet is read as strictly as what comes from the network.

use crate::auth::gate;
use crate::sasl::Credentials;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// What the client has said to the parser, and the owner is to know.
#[derive(Debug)]
pub struct Said {
    /// UTF8.
    pub utf8: bool,
    /// How long the session may last still.
    pub left: Duration,
    /// What it sent behind the password.
    pub input: Vec<u8>,
}

/// A packet of the parser.
#[derive(Debug)]
pub enum Packet {
    /// There will be no more, or what came is none; no octets are read as this.
    Gone,
    /// It asks what there is.
    Ready,
    /// The owner of this number has ended.
    Bereft(u8),
    /// Somebody wants to log in.
    Check {
        /// What he gave.
        credentials: Credentials,
        /// How often something else was wrong before.
        failures: u32,
        /// The owner is to speak with the client itself.
        is_direct: bool,
        /// What the client said besides.
        said: Said,
        /// The connection.
        client: OwnedFd,
    },
    /// The client has heard the last words of the mechanism.
    Go {
        /// What the owner is to serve in place of the connection.
        relayed: Option<OwnedFd>,
        /// What the client said besides.
        said: Said,
    },
}

/// Reads one with the descriptors that came along, exactly those that belong to it; nothing where it is none. Whatever it is
/// is safe to serve: what a parser may ask for is what one client may.
pub fn read(octets: &[u8], descriptors: Vec<OwnedFd>) -> Option<Packet> {
    let mut descriptors = descriptors.into_iter();
    let (&kind, rest) = octets.split_first()?;
    let packet = match kind {
        b'?' if rest.is_empty() => Packet::Ready,
        b'!' => Packet::Bereft(*rest.first().filter(|_| rest.len() == 1)?),
        b'C' => {
            let (&failures, rest) = rest.split_first()?;
            let (is_direct, said, frame) = way(rest)?;
            let credentials = gate::parse(frame).ok()??;
            Packet::Check { credentials, failures: failures.into(), is_direct, said, client: descriptors.next()? }
        }
        b'G' => {
            let (is_direct, said, rest) = way(rest)?;
            let relayed = if is_direct { None } else { Some(descriptors.next()?) };
            rest.is_empty().then_some(Packet::Go { relayed, said })?
        }
        _ => return None,
    };
    descriptors.next().is_none().then_some(packet)
}

/// Whether D stands there, what the client said, and what follows.
fn way(octets: &[u8]) -> Option<(bool, Said, &[u8])> {
    let (&[letter, a, b, c, d, low, high], rest) = octets.split_first_chunk()?;
    let is_direct = match letter.to_ascii_uppercase() {
        b'D' => true,
        b'R' => false,
        _ => return None,
    };
    let (input, rest) = rest.split_at_checked(u16::from_le_bytes([low, high]).into())?;
    let left = Duration::from_millis(u32::from_le_bytes([a, b, c, d]).into());
    Some((is_direct, Said { utf8: letter.is_ascii_lowercase(), left, input: input.to_vec() }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasl::Proof;
    use crate::wire::secret::Secret;
    use proptest::prelude::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn packets_are_read_as_they_were_sent() {
        let credentials = Credentials { name: b"bob".to_vec(), proof: Proof::Password(Secret(b"a:b,".to_vec())) };
        let frame = gate::frame(&credentials);
        let check = [b"C\x02d\xe8\x03\0\0\x05\0STAT\n".as_slice(), &frame.0].concat();
        let Some(Packet::Check { credentials: found, failures: 2, is_direct: true, said, .. }) =
            read(&check, vec![null()])
        else {
            panic!("another packet");
        };
        assert_eq!(said.left, Duration::from_secs(1));
        assert_eq!((found, said.utf8, said.input.as_slice()), (credentials, true, b"STAT\n".as_slice()));
        assert!(matches!(read(b"?", Vec::new()), Some(Packet::Ready)));
        assert!(matches!(read(b"GD\0\0\0\0\x01\0x", Vec::new()), Some(Packet::Go { relayed: None, .. })));
        assert!(matches!(read(b"GR\0\0\0\0\0\0", vec![null()]), Some(Packet::Go { relayed: Some(_), .. })));
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        let frame = gate::frame(&Credentials { name: b"b".to_vec(), proof: Proof::Password(Secret::default()) });
        let check = [b"C\0D\0\0\0\0\0\0".as_slice(), &frame.0].concat();
        assert!(read(&check, vec![null()]).is_some());
        assert!(read(&check, Vec::new()).is_none(), "no connection");
        assert!(read(&check, vec![null(), null()]).is_none(), "two connections");
        for octets in [
            b"".as_slice(),
            b"?x",
            b"!",
            b"!ab",
            b"X",
            b"G",
            b"GD",
            b"GR\0\0\0\0\0\0",
            b"GD\0\0\0\0\x02\0x",
            b"GDx",
            b"GD\0\0\0\0\0\0x",
            b"C\0D\0\0\0\0\0\0",
        ] {
            assert!(read(octets, Vec::new()).is_none(), "{octets:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&octets, vec![null()]);
        }
    }
}
