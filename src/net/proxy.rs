//! The PROXY protocol of haproxy, versions 1 and 2: a header in front of the connection in which a balancer says whose
//! it is (proxy-protocol.txt).
//!
//! It is expected of the clients in smtpd_upstream_proxy_hosts and of nobody else: anybody else could say that he is
//! whom we trust. No octet behind the header is read here.

use super::connection::{Fault, Stream};
use super::peer::{Origin, Peer};
use crate::config::Config;
use crate::exit::Error;
use crate::lookup::Lookup;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1, with its CR LF.
const LONGEST_LINE: usize = 107;
/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest rest of a header of version 2 that is read: addresses, and what proxies like to add.
const LONGEST_REST: usize = 4096;

/// The two ends of a connection, the client's first; nothing: the balancer speaks for itself.
type Ends = Option<(SocketAddr, SocketAddr)>;

/// Whose connection it is: what a header says if one is expected, else who is there. Nothing: what came is no header,
/// and the connection must be closed.
// What it needs of the stack for a moment is not to lie under the session.
#[inline(never)]
pub fn meet(config: &Config, peer: Peer, stream: &mut impl Stream) -> Result<Option<Peer>, Error> {
    match config.smtpd_upstream_proxy_hosts.matches_peer(&peer) {
        Lookup::Yes(()) => {}
        Lookup::No => return Ok(Some(peer)),
        Lookup::CannotTell(why) => return Err(Error::Temporary(format!("smtpd_upstream_proxy_hosts: {why}"))),
    }
    stream.allow(config.smtpd_upstream_proxy_timeout.0);
    let ends = match read(stream) {
        Ok(ends) => ends,
        Err(fault) => {
            let why = match fault {
                Some(Fault::TimedOut) => "no PROXY header within smtpd_upstream_proxy_timeout",
                Some(_) => "the connection ended in the PROXY header",
                None => "what came is no PROXY header",
            };
            log::warn!("client={peer} event=refused reason={why:?}");
            return Ok(None);
        }
    };
    let Some((client, server)) = ends else { return Ok(Some(peer)) };
    log::info!("client={} event=proxy by={peer}", client.ip());
    let origin = Origin::Address(client.ip().to_canonical());
    let port = Some(client.port());
    let Peer { on_inet_socket, name_servers, .. } = peer;
    Ok(Some(Peer { port, local: Some(server), on_inet_socket, name_servers, ..Peer::new(origin) }))
}

/// `None` as an error: what came is no header.
fn read(stream: &mut impl Stream) -> Result<Ends, Option<Fault>> {
    let mut header = Vec::new();
    more(stream, &mut header, 1)?;
    if header == b"P" {
        while !header.ends_with(b"\r\n") {
            if header.len() >= LONGEST_LINE {
                return Err(None);
            }
            more(stream, &mut header, 1)?;
        }
        return version_1(&header).ok_or(None);
    }
    more(stream, &mut header, 15)?;
    let (Some((SIGNATURE, rest)), Some([high, low])) = (header.split_first_chunk::<12>(), header.get(14..16)) else {
        return Err(None);
    };
    let (kind, family) = (rest.first().copied(), rest.get(1).copied());
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > LONGEST_REST {
        return Err(None);
    }
    let mut addresses = Vec::new();
    more(stream, &mut addresses, length)?;
    version_2(kind, family, &addresses).ok_or(None)
}

/// Exactly so many octets more, and none behind them.
fn more(stream: &mut impl Stream, octets: &mut Vec<u8>, count: usize) -> Result<(), Option<Fault>> {
    let mut buffer = vec![0; count];
    let mut filled = 0;
    while filled < count {
        match stream.receive(buffer.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => return Err(Some(Fault::HungUp)),
            Ok(count) => filled += count,
            Err(fault) => return Err(Some(fault)),
        }
    }
    octets.append(&mut buffer);
    Ok(())
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 1234 25`.
fn version_1(line: &[u8]) -> Option<Ends> {
    let line = std::str::from_utf8(line.strip_suffix(b"\r\n")?).ok()?;
    let mut words = line.split(' ');
    if words.next()? != "PROXY" {
        return None;
    }
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let mut address = || words.next()?.parse::<IpAddr>().ok();
    let (client, server) = (address()?, address()?);
    let fits = match family {
        "TCP4" => client.is_ipv4() && server.is_ipv4(),
        "TCP6" => client.is_ipv6() && server.is_ipv6(),
        _ => false,
    };
    let digits =
        |text: &str| (!text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit())).then(|| text.parse());
    let mut port = || digits(words.next()?)?.ok();
    let ends = (SocketAddr::new(client, port()?), SocketAddr::new(server, port()?));
    (fits && words.next().is_none()).then_some(Some(ends))
}

/// Version and command, family and transport, and what follows the length.
fn version_2(kind: Option<u8>, family: Option<u8>, addresses: &[u8]) -> Option<Ends> {
    match kind? {
        // The balancer looks whether we are there.
        0x20 => return Some(None),
        0x21 => {}
        _ => return None,
    }
    let port = |at: usize| Some(u16::from_be_bytes([*addresses.get(at)?, *addresses.get(at + 1)?]));
    let (client, server, ports): (IpAddr, IpAddr, usize) = match family? {
        0x11 => {
            let address = |at: usize| addresses.get(at..at + 4)?.first_chunk::<4>().copied().map(Ipv4Addr::from);
            (address(0)?.into(), address(4)?.into(), 8)
        }
        0x21 => {
            let address = |at: usize| addresses.get(at..at + 16)?.first_chunk::<16>().copied().map(Ipv6Addr::from);
            (address(0)?.into(), address(16)?.into(), 32)
        }
        0x00 => return Some(None),
        _ => return None,
    };
    Some(Some((SocketAddr::new(client, port(ports)?), SocketAddr::new(server, port(ports + 2)?))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    struct Memory(Vec<u8>, usize);
    impl Stream for Memory {
        fn allow(&mut self, _: Duration) {}
        fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
            let rest = &self.0[self.1..];
            let count = rest.len().min(buffer.len()).min(3);
            buffer[..count].copy_from_slice(&rest[..count]);
            self.1 += count;
            Ok(count)
        }
        fn send(&mut self, _: &[u8]) -> Result<(), Fault> {
            Ok(())
        }
        fn finish(&mut self) {}
    }

    fn met(header: &[u8], peer: &str, listed: &str) -> Option<String> {
        let config = Config::with(&[("smtpd_upstream_proxy_hosts", listed)]);
        let mut memory = Memory([header, b"EHLO x"].concat(), 0);
        let met = meet(&config, Peer::new(Origin::Address(peer.parse().unwrap())), &mut memory).unwrap();
        if met.is_some() && listed == "192.0.2.9" && peer == listed {
            assert_eq!(&memory.0[memory.1..], b"EHLO x", "not an octet behind the header is read");
        }
        met.map(|peer| format!("{peer}:{}", peer.port.unwrap_or(0)))
    }

    fn second(kind: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[kind, family], &(addresses.len() as u16).to_be_bytes(), addresses].concat()
    }

    const V4: [u8; 12] = [198, 51, 100, 7, 192, 0, 2, 1, 0x1F, 0x90, 0, 25];

    #[test]
    fn a_listed_balancer_is_believed_and_nobody_else() {
        let line = b"PROXY TCP4 198.51.100.7 192.0.2.1 8080 25\r\n";
        assert_eq!(met(line, "192.0.2.9", "192.0.2.9").unwrap(), "198.51.100.7:8080");
        assert_eq!(met(line, "192.0.2.8", "192.0.2.9").unwrap(), "192.0.2.8:0");
        assert_eq!(met(line, "192.0.2.9", "").unwrap(), "192.0.2.9:0");
    }

    #[test]
    fn both_versions_are_read() {
        let v6: Vec<u8> = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]; 2].concat();
        let with_more = [&V4[..], &[4, 0, 1, 0]].concat();
        for (header, peer) in [
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 8080 25\r\n".to_vec(), "2001:db8::1:8080"),
            (b"PROXY UNKNOWN\r\n".to_vec(), "192.0.2.9:0"),
            (b"PROXY UNKNOWN anything at all\r\n".to_vec(), "192.0.2.9:0"),
            (second(0x21, 0x11, &V4), "198.51.100.7:8080"),
            (second(0x21, 0x11, &with_more), "198.51.100.7:8080"),
            (second(0x21, 0x21, &[&v6[..], &[0x1F, 0x90, 0, 25]].concat()), "2001:db8::1:8080"),
            (second(0x20, 0, b""), "192.0.2.9:0"),
            (second(0x21, 0, b""), "192.0.2.9:0"),
        ] {
            assert_eq!(met(&header, "192.0.2.9", "192.0.2.9").unwrap(), peer, "{}", header.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_header_ends_the_connection() {
        for header in [
            b"EHLO client.example\r\nMAIL FROM:<a@b>\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 192.0.2.1 8080\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 192.0.2.1 8080 25 x\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 192.0.2.1 8080 25\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 192.0.2.1 99999 25\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 192.0.2.1 +1 25\r\n".to_vec(),
            [&b"PROXY UNKNOWN "[..], &[b'x'; 200], b"\r\n"].concat(),
            second(0x31, 0x11, &V4),
            second(0x21, 0x11, &V4[..11]),
            second(0x21, 0x31, &V4),
            second(0x21, 0x11, &[0; LONGEST_REST + 1]),
        ] {
            assert!(met(&header, "192.0.2.9", "192.0.2.9").is_none(), "{}", header.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(octets in prop::collection::vec(any::<u8>(), 0..80), kind in 0..3_usize) {
            let prefix = [&b""[..], b"PROXY TCP4 ", SIGNATURE][kind];
            let _ = met(&[prefix, &octets].concat(), "192.0.2.9", "192.0.2.9");
        }
    }
}
