//! Addresses and nets as they are written: `192.0.2.1`, `10.0.0.0/8`, `[2001:db8::]/32`.
//!
//! As in Postfix ("non-null host address bits") a net is its first address: host bits behind the length are a mistake
//! wherever a net may stand.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Takes one among patterns, where what begins like none is a name: an IPv6 one is in brackets, an IPv4 one may be. The
/// errors here are what was expected.
pub(super) fn among_names(text: &str) -> Option<Result<IpNet, String>> {
    match text {
        _ if text.starts_with('[') => Some(bracketed(text)),
        _ if is_bare_ipv6(text) => {
            let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
            let length = length.map_or(String::new(), |length| format!("/{length}"));
            Some(Err(format!("[{address}]{length} instead of {}: an IPv6 address stands in brackets", shown(text))))
        }
        _ if is_numeric(text) => Some(ipv4(text, text)),
        _ => None,
    }
}

/// Takes one where only addresses and nets may stand, so that IPv6 needs no brackets.
pub(super) fn alone(text: &str) -> Result<IpNet, String> {
    // As Postfix takes it: brackets around both or around the address.
    let whole = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let (address, length) = whole.split_once('/').map_or((whole, None), |(address, length)| (address, Some(length)));
    let bare = address.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(address);
    let wrong = || format!("an address or a net instead of {}", shown(text));
    let address: IpAddr = bare.parse().map_err(|_| wrong())?;
    let net = match length {
        None => IpNet::from(address),
        Some(length) => IpNet::new(address, digits(length).ok_or_else(wrong)?).map_err(|_| wrong())?,
    };
    exact(unmapped(net), text)
}

/// `written`: with its brackets, if it has some.
fn ipv4(text: &str, written: &str) -> Result<IpNet, String> {
    let (address, length) = text.split_once('/').unwrap_or((text, "32"));
    let wrong =
        || format!("an IPv4 address of four numbers, and no more than /32 behind it, instead of {}", shown(written));
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let net = Ipv4Net::new(address, digits(length).ok_or_else(wrong)?).map_err(|_| wrong())?;
    exact(IpNet::V4(net), written)
}

/// `[IPv6]` or `[IPv6]/length`; as in Postfix an IPv4 address may stand in brackets too.
fn bracketed(text: &str) -> Result<IpNet, String> {
    let wrong = || format!("[IPv6 address], and no more than /128 behind it, instead of {}", shown(text));
    if let Some((address, length)) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')?.split_once('/')) {
        return bracketed(&format!("[{address}]/{length}"));
    }
    let (address, rest) = text.strip_prefix('[').and_then(|text| text.split_once(']')).ok_or_else(wrong)?;
    if address.parse::<Ipv4Addr>().is_ok() && (rest.is_empty() || rest.starts_with('/')) {
        return ipv4(&format!("{address}{rest}"), text);
    }
    let address: Ipv6Addr = address.parse().map_err(|_| wrong())?;
    let length = match rest.strip_prefix('/') {
        Some(length) => digits(length).ok_or_else(wrong)?,
        None if rest.is_empty() => 128,
        None => return Err(wrong()),
    };
    let net = Ipv6Net::new(address, length).map_err(|_| wrong())?;
    exact(unmapped(IpNet::V6(net)), text)
}

/// Peers are IPv4 where they come mapped into IPv6, so nets are too, or they would never match.
fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(mapped) = net else { return net };
    match (mapped.addr().to_ipv4_mapped(), mapped.prefix_len().checked_sub(96)) {
        (Some(address), Some(length)) => Ipv4Net::new(address, length).map_or(net, IpNet::V4),
        _ => net,
    }
}

/// Host bits are a slip: was the length wrong, or the address? Nobody but the administrator knows.
fn exact(net: IpNet, text: &str) -> Result<IpNet, String> {
    if net.addr() == net.network() {
        return Ok(net);
    }
    let meant = match net.trunc() {
        IpNet::V4(net) => net.to_string(),
        IpNet::V6(net) => format!("[{}]/{}", net.addr(), net.prefix_len()),
    };
    Err(format!("{meant} instead of {}: there are host bits behind the length of the net", shown(text)))
}

fn is_bare_ipv6(text: &str) -> bool {
    text.split('/').next().unwrap_or(text).parse::<Ipv6Addr>().is_ok()
}

/// Not a name: no top-level domain is a number (RFC 3696 section 2), and what has no letter at all, such as a range of
/// addresses with a hyphen, was meant as an address.
fn is_numeric(text: &str) -> bool {
    let labels = text.strip_prefix('.').unwrap_or(text);
    let is_number = |label: &str| !label.is_empty() && label.bytes().all(|octet| octet.is_ascii_digit());
    let is_of_addresses = |octet: u8| octet.is_ascii_digit() || matches!(octet, b'.' | b'/' | b'-');
    labels.bytes().any(|octet| octet.is_ascii_digit())
        && !labels.contains(':')
        && (labels.bytes().all(is_of_addresses) || labels.rsplit('.').next().is_some_and(is_number))
}

/// Digits only: `str::parse` alone would also take a sign.
fn digits(text: &str) -> Option<u8> {
    if text.bytes().all(|octet| octet.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn shown(text: &str) -> String {
    format!("\"{}\"", super::shown(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_as_addresses_is_no_name() {
        for wrong in ["10.0.0.1-10.0.0.9", "10.0.0.0-24", "10.0.0.1-9", ".0.0.10", "10-20", "10.0.0", "mx.example.10"] {
            let found = among_names(wrong).unwrap_or_else(|| panic!("{wrong} is a name"));
            assert!(found.unwrap_err().starts_with("an IPv4 address of four numbers"), "{wrong}");
        }
        for name in
            ["10-0-0-1.example", "4.example", "1.2.0.192.in-addr.arpa", "7bit", ".xn--p1ai", "a-1", "*", "hash:/a.1"]
        {
            assert_eq!(among_names(name), None, "{name}");
        }
    }

    #[test]
    fn host_bits_are_a_mistake_however_a_net_is_written() {
        for (written, meant) in [
            ("10.0.0.1/8", "10.0.0.0/8"),
            ("[10.0.0.1]/8", "10.0.0.0/8"),
            ("[2001:db8::1]/32", "[2001:db8::]/32"),
            ("[::ffff:10.0.0.1]/104", "10.0.0.0/8"),
        ] {
            let expected =
                format!("{meant} instead of \"{written}\": there are host bits behind the length of the net");
            assert_eq!(among_names(written), Some(Err(expected.clone())));
            assert_eq!(alone(written), Err(expected));
        }
        assert_eq!(alone("2001:db8::1/32").unwrap_err().split(' ').next(), Some("[2001:db8::]/32"));
        for [other, usual] in [["[10.0.0.0/8]", "10.0.0.0/8"], ["[2001:db8::/32]", "[2001:db8::]/32"]] {
            assert_eq!((alone(other), among_names(other)), (alone(usual), among_names(usual)), "{other}");
        }
        assert_eq!(alone("2001:db8::/32"), among_names("[2001:db8::]/32").unwrap());
        for wrong in ["", "10.0.0.0/+8", "10.0.0.0/", "10.0.0.0/33", "[::1", "a.example", "10.0.0.1-9"] {
            assert!(alone(wrong).is_err(), "{wrong}");
        }
    }
}
