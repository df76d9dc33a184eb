//! Where to listen: addresses and ports as people write them.

use crate::config::shown;
use crate::message::path::is_host_name;
use crate::net::listener::Listener;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// Which families a service takes (`tcp`, `tcp4`, `tcp6` in a services file).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Whatever the address is, and both if it is the wildcard.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// One socket to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// Every address of this machine, of both families where it has both: one socket or two.
    Everywhere(u16),
    /// One address; `::` is IPv6 only here.
    Only(SocketAddr),
}

impl Address {
    /// Starts to listen.
    pub fn listen(&self) -> io::Result<Listener> {
        match self {
            Address::Everywhere(port) => Listener::bind_everywhere(*port),
            Address::Only(address) => Listener::bind(*address, true),
        }
    }
}

impl Address {
    /// Whether it may have more than one socket. Of a port that the system chooses each has its own.
    pub fn may_have_several(&self) -> bool {
        matches!(self, Address::Everywhere(port) if *port != 0)
    }

    /// What is left of it beside these sockets that are there already.
    pub fn missing(&self, there: &[Listener]) -> Option<SocketAddr> {
        let Address::Everywhere(port) = self else { return None };
        let families = there.iter().map(Listener::families);
        match families.fold((false, false), |all, one| (all.0 || one.0, all.1 || one.1)) {
            (true, false) => Some((Ipv6Addr::UNSPECIFIED, *port).into()),
            (false, true) => Some((Ipv4Addr::UNSPECIFIED, *port).into()),
            _ => None,
        }
    }

    /// Whether a socket that is there already listens just here.
    pub fn is_that_of(&self, listener: &Listener) -> bool {
        let Some(there) = listener.address() else { return false };
        match self {
            Address::Everywhere(port) => there.ip().is_unspecified() && there.port() == *port,
            Address::Only(address) => there == *address,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Everywhere(port) => write!(f, "*:{port}"),
            Address::Only(address) => address.fmt(f),
        }
    }
}

/// A whole list, each once. `::` takes IPv4 as well, on one socket, where nothing of that family is listed for its port: the
/// kernel has an IPv4 address on one socket only.
pub fn together(list: impl IntoIterator<Item = Address>) -> Vec<Address> {
    let list: Vec<Address> = list.into_iter().collect();
    let takes_both = |address: &SocketAddr| {
        let is_beside = |other: &Address| match other {
            Address::Only(other) => other.is_ipv4() && other.port() == address.port(),
            Address::Everywhere(_) => false,
        };
        address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !list.iter().any(is_beside)
    };
    let mut addresses = Vec::new();
    for address in &list {
        let address = match address {
            Address::Only(address) if takes_both(address) => Address::Everywhere(address.port()),
            address => *address,
        };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Reads `HOST` or `HOST:PORT`, for `--listen-address`. HOST is an address, with or without brackets if it is IPv6 (with
/// them if a port follows), `*`, or a name. For [`together`], as `::` is the one address here.
pub fn parse(text: &str, port: u16) -> Result<Vec<Address>, String> {
    // What a variable of a shell comes to that is not set is not to open every address.
    if text.is_empty() || text.starts_with(':') && !is_v6(text) {
        return Err("expected an address, or * for all".to_owned());
    }
    let is_bare_v6 = is_v6(text);
    match text.rsplit_once(':') {
        Some((before, number)) if !is_bare_v6 && !text.ends_with(']') => {
            host(before, crate::port::of(number)?, Family::Any)
        }
        _ => host(text, port, Family::Any),
    }
}

/// Reads `PORT` or `HOST[,HOST]:PORT`, the first column of a services file.
pub fn parse_service(text: &str, family: Family) -> Result<Vec<Address>, String> {
    let (hosts, port) = text.rsplit_once(':').unwrap_or(("*", text));
    let port = crate::port::of(port)?;
    let mut addresses = Vec::new();
    for host in hosts.split(',') {
        if host.is_empty() && hosts.contains(',') {
            return Err(format!("{}: expected an address on either side of a comma", shown(text)));
        }
        for address in self::host(host, port, family)? {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    Ok(if family == Family::Any { together(addresses) } else { addresses })
}

fn host(text: &str, port: u16, family: Family) -> Result<Vec<Address>, String> {
    if matches!(text, "*" | "") {
        return Ok(vec![match family {
            Family::Any => Address::Everywhere(port),
            Family::V4 => Address::Only((Ipv4Addr::UNSPECIFIED, port).into()),
            Family::V6 => Address::Only((Ipv6Addr::UNSPECIFIED, port).into()),
        }]);
    }
    let mut addresses = Vec::new();
    for address in resolve(text, port)? {
        let fits = match family {
            Family::Any => true,
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        };
        let address = Address::Only(address);
        // A name may stand in /etc/hosts more than once.
        if fits && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(format!("{}: expected an address of the family that the protocol names", shown(text)));
    }
    Ok(addresses)
}

/// Perhaps with the interface of a link-local address: fe80::1%eth0.
fn is_v6(text: &str) -> bool {
    text.split_once('%').map_or(text, |(address, _)| address).parse::<Ipv6Addr>().is_ok()
}

fn resolve(text: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let shown = shown(text);
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if inner.is_some_and(|inner| !is_v6(inner)) {
        return Err(format!("{shown}: expected an IPv6 address in brackets"));
    }
    let text = inner.unwrap_or(text);
    if let Ok(address) = text.parse::<IpAddr>() {
        let is_local = |address: &Ipv6Addr| address.is_unicast_link_local();
        if matches!(&address, IpAddr::V6(address) if is_local(address)) {
            return Err(format!(
                "{shown}: expected the interface of a link-local address behind it, as in {text}%eth0"
            ));
        }
        // On a socket of IPv6 alone it could not be.
        return Ok(vec![(address.to_canonical(), port).into()]);
    }
    // Half an address is one to the resolver: 192.0.2 would be 192.0.0.2.
    if text.bytes().all(|octet| octet.is_ascii_digit() || octet == b'.') {
        return Err(format!("{shown}: expected an IPv4 address of four numbers"));
    }
    // Nobody is asked for what is no name.
    if !is_v6(text) && !is_host_name(text.strip_suffix('.').unwrap_or(text)) {
        return Err(format!("{shown}: expected an address, or a name that has one"));
    }
    let found = (text, port).to_socket_addrs();
    Ok(found.map_err(|error| format!("{shown}: expected an address, or a name that has one ({error})"))?.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Vec<Address> {
        vec![Address::Only(text.parse().unwrap())]
    }

    #[test]
    fn addresses_with_and_without_port_are_read() {
        assert_eq!(parse("127.0.0.1", 25).unwrap(), only("127.0.0.1:25"));
        assert_eq!(parse("127.0.0.1:2525", 25).unwrap(), only("127.0.0.1:2525"));
        assert_eq!(parse("::1", 25).unwrap(), only("[::1]:25"));
        assert_eq!(parse("[::1]", 25).unwrap(), only("[::1]:25"));
        assert_eq!(parse("[::1]:2525", 25).unwrap(), only("[::1]:2525"));
        assert_eq!(parse("127.0.0.1:smtp", 0).unwrap(), only("127.0.0.1:25"));
        let scoped = std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 25, 0, 1);
        for text in ["fe80::1%lo", "[fe80::1%lo]", "[fe80::1%1]:25"] {
            assert_eq!(parse(text, 25).unwrap(), [Address::Only(scoped.into())], "{text}");
        }
        assert!(parse("[fe80::1%nosuch]", 25).is_err());
        assert_eq!(parse("::ffff:127.0.0.1", 25).unwrap(), only("127.0.0.1:25"));
        assert_eq!(parse("[::ffff:127.0.0.1]:26", 25).unwrap(), only("127.0.0.1:26"));
        assert_eq!(parse_service("127.0.0.1,127.0.0.1:25", Family::V4).unwrap(), only("127.0.0.1:25"));
        assert!(parse("localhost:7", 0).unwrap().iter().all(|address| address.to_string().ends_with(":7")));
    }

    #[test]
    fn the_ipv6_wildcard_takes_both_families_unless_told_otherwise() {
        for text in ["::", "[::]", "*"] {
            assert_eq!(together(parse(text, 25).unwrap()), [Address::Everywhere(25)], "{text}");
            assert_eq!(parse_service(&format!("{text}:25"), Family::Any).unwrap(), [Address::Everywhere(25)], "{text}");
        }
        assert_eq!(together(parse("0.0.0.0", 25).unwrap()), only("0.0.0.0:25"));
        assert_eq!(parse_service("25", Family::V6).unwrap(), only("[::]:25"));
        assert_eq!(parse_service("25", Family::V4).unwrap(), only("0.0.0.0:25"));
        assert_eq!(parse_service("[::]:25", Family::V6).unwrap(), only("[::]:25"));
    }

    #[test]
    fn beside_an_ipv4_address_on_its_port_the_ipv6_wildcard_is_ipv6_only() {
        for ipv4 in ["0.0.0.0", "127.0.0.1"] {
            let both = [only(&format!("{ipv4}:25")), only("[::]:25")].concat();
            assert_eq!(parse_service(&format!("{ipv4},[::]:25"), Family::Any).unwrap(), both);
            assert_eq!(together(both.clone()), both);
            assert_eq!(together(both.iter().rev().copied()), [both[1], both[0]]);
        }
        let elsewhere = [only("127.0.0.1:26"), only("[::1]:25"), only("[::]:25")].concat();
        assert_eq!(together(elsewhere)[2], Address::Everywhere(25));
    }

    #[test]
    fn the_first_column_of_a_services_file_is_read() {
        assert_eq!(parse_service("smtp", Family::Any).unwrap(), [Address::Everywhere(25)]);
        assert_eq!(parse_service("127.0.0.1:pop3", Family::Any).unwrap(), only("127.0.0.1:110"));
        assert_eq!(parse_service("[::1]:628", Family::V6).unwrap(), only("[::1]:628"));
        let two = parse_service("127.0.0.1,[::1]:25", Family::Any).unwrap();
        assert_eq!(two, [only("127.0.0.1:25"), only("[::1]:25")].concat());
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_was_expected() {
        for text in [
            "[::1",
            "[127.0.0.1]:25",
            "[::1]25",
            "fe80::1",
            "[fe80::1]:25",
            "a b",
            "127.0.0.1:",
            "127.0.0.1:65536",
            "127.0.0.1:-1",
            "127.0.0.1:+25",
            "[]:25",
            "",
            "127.1",
            ":25",
            "192.0.2:25",
            "2130706433",
        ] {
            assert!(parse(text, 25).unwrap_err().contains("expected"), "{text}");
        }
        for text in ["", ":", "nosuch-service", "127.0.0.1:nosuch-service", "127.0.0.1,:25", ",127.0.0.1:25"] {
            assert!(parse_service(text, Family::Any).unwrap_err().contains("expected"), "{text}");
        }
        assert!(parse_service("127.0.0.1:25", Family::V6).unwrap_err().contains("family"));
    }
}
