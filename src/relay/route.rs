//! Which hosts take a message: next hop or domain to addresses, in the order in which they are to be tried (RFC 5321
//! section 5.1, RFC 7505).

use super::Outcome;
use crate::config::Config;
use crate::lookup::Lookup;
use crate::net::dns::Resolver;
use crate::port;
use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long all questions of name servers for one message may take.
const LOOK_UP: Duration = Duration::from_secs(60);

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// By TCP.
    Net(SocketAddr),
    /// A socket of this machine.
    Unix(PathBuf),
}

/// One address of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The host's name, for reports and for its certificate.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// The preference of its MX record, lowest first.
    pub preference: u16,
}

/// Longest text of hosts. What is more stands in it as a hash, and none of that is remembered as silent.
pub const LONGEST_HOME: usize = 2000;

/// The hosts of a domain as text, the same for all domains with the same names and addresses in the same order of preference:
/// `0 mx.example 192.0.2.1:25,1 backup.example 192.0.2.2:25`.
pub fn home(hops: &[Hop]) -> String {
    let mut preferences: Vec<u16> = hops.iter().map(|hop| hop.preference).collect();
    preferences.sort_unstable();
    preferences.dedup();
    let mut hosts = Vec::new();
    for hop in hops {
        let Place::Net(address) = &hop.place else { return String::new() };
        let rank = preferences.partition_point(|preference| *preference < hop.preference);
        let name = hop.name.to_ascii_lowercase();
        if name.contains([' ', ',']) {
            return String::new();
        }
        hosts.push(format!("{rank} {name} {address}"));
    }
    hosts.sort();
    hosts.dedup();
    let text = hosts.join(",");
    if text.len() <= LONGEST_HOME { text } else { shortened(&hosts, &text) }
}

/// The first of these hosts, which says whose share of all agents it is, and as many others as there is room for. The hash
/// is in the place of one more, of which nobody ever hears that it is silent: so they never all are.
fn shortened(hosts: &[String], text: &str) -> String {
    let hash: String = Sha256::digest(text).iter().map(|octet| format!("{octet:02x}")).collect();
    let rest = format!("more {hash}");
    let mut short = String::new();
    for host in hosts {
        if short.len() + host.len() + 1 + rest.len() > LONGEST_HOME {
            break;
        }
        short += host;
        short += ",";
    }
    short + &rest
}

/// The addresses in such a text.
pub fn addresses(home: &str) -> impl Iterator<Item = &str> {
    home.split(',').filter_map(|host| host.rsplit_once(' ')).map(|(_, address)| address)
}

/// A next hop as it stands in the channels file, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop<'a> {
    /// Name or address.
    pub host: &'a str,
    /// It stands in brackets: not to be looked up as a domain with MX.
    pub is_host: bool,
    /// The port, if one is given.
    pub port: Option<u16>,
}

impl<'a> NextHop<'a> {
    /// `domain`, `domain:port`, `[host]`, `[host]:port`; channel/parse.rs has looked at it.
    pub fn of(text: &'a str) -> NextHop<'a> {
        match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
            Some((host, rest)) => {
                let host = host.strip_prefix("IPv6:").or_else(|| host.strip_prefix("ipv6:")).unwrap_or(host);
                NextHop { host, is_host: true, port: rest.strip_prefix(':').and_then(port::of_next_hop) }
            }
            None => {
                let (host, port) =
                    text.split_once(':').map_or((text, None), |(host, port)| (host, port::of_next_hop(port)));
                NextHop { host, is_host: false, port }
            }
        }
    }
}

/// The places for SMTP. `next_hop` is empty where the domain of the recipient says where to.
pub fn smtp(config: &Config, resolver: &Resolver, next_hop: &str, domain: &str) -> Result<Vec<Hop>, Outcome> {
    let hop = NextHop::of(if next_hop.is_empty() { domain } else { next_hop });
    let port = hop.port.unwrap_or(config.smtp_tcp_port.0);
    let deadline = Instant::now() + LOOK_UP;
    let addresses = if port == 25 { own_addresses() } else { None };
    let own = OwnNames { name: &config.myhostname, addresses, is_found: next_hop.is_empty() };
    let itself = || {
        let hops = named(resolver, hop.host, port, deadline)?;
        // What the administrator named may be another server on this machine.
        let is_ours = |hop: &Hop| matches!(hop.place, Place::Net(address) if own.has(address.ip()));
        if own.is_found && hops.iter().any(is_ours) { Err(comes_back()) } else { Ok(hops) }
    };
    if hop.is_host || hop.host.parse::<IpAddr>().is_ok() {
        return itself();
    }
    let hosts = match resolver.mail_hosts(hop.host, deadline) {
        Lookup::Yes(hosts) => hosts,
        // RFC 5321 section 5.1: a domain without MX is its own mail host.
        Lookup::No => return itself(),
        Lookup::CannotTell(why) => return Err(unsure(hop.host, &why)),
    };
    if !hosts.is_empty() && hosts.iter().all(|(_, name)| name == ".") {
        return Err(Outcome::Failed(format!("5.1.10 {:.60} takes no mail at all (null MX)", hop.host)));
    }
    best_first(resolver, hosts, port, &own, deadline)
}

/// The places for LMTP, QMQP and QMTP: `unix:/path`, or a host, never by MX.
pub fn host(resolver: &Resolver, next_hop: &str, default_port: u16) -> Result<Vec<Hop>, Outcome> {
    if let Some(path) = next_hop.strip_prefix("unix:") {
        return Ok(vec![Hop { name: "localhost".to_owned(), place: Place::Unix(PathBuf::from(path)), preference: 0 }]);
    }
    let hop = NextHop::of(next_hop.strip_prefix("inet:").unwrap_or(next_hop));
    named(resolver, hop.host, hop.port.unwrap_or(default_port), Instant::now() + LOOK_UP)
}

/// The administrator named the next hop: that it is not there is a mistake of his or of name servers, and no reason to return
/// mail.
pub fn for_named(trouble: Outcome) -> Outcome {
    match trouble {
        Outcome::Failed(why) => Outcome::Deferred(why.replacen('5', "4", 1)),
        other => other,
    }
}

/// Ourselves, as DNS may name us.
struct OwnNames<'a> {
    name: &'a str,
    /// None: another port than ours is meant, so no address is.
    addresses: Option<Vec<IpAddr>>,
    /// DNS alone said where to, and not the administrator, who may have named another server on loopback.
    is_found: bool,
}

impl OwnNames<'_> {
    fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let is_nowhere_else = self.is_found && (address.is_loopback() || address.is_unspecified());
        let is_here = |own: &Vec<IpAddr>| is_nowhere_else || own.contains(&address);
        self.addresses.as_ref().is_some_and(is_here)
    }
}

fn comes_back() -> Outcome {
    Outcome::Failed("5.4.6 mail for this domain comes back to this host".to_owned())
}

/// Hosts of one preference in random order, so that they share the work; none that is as good as we are or worse, for
/// those would hand the message back to us.
fn best_first(
    resolver: &Resolver,
    mut hosts: Vec<(u16, String)>,
    port: u16,
    own: &OwnNames<'_>,
    deadline: Instant,
) -> Result<Vec<Hop>, Outcome> {
    hosts.retain(|(_, name)| name != ".");
    hosts.sort_by_cached_key(|(preference, _)| (*preference, getrandom::u32().unwrap_or(0)));
    let mut found: Vec<(u16, Hop)> = Vec::new();
    let (mut ours, mut unsure_of) = (None, None);
    for (preference, name) in hosts {
        if name.eq_ignore_ascii_case(own.name) {
            ours = Some(ours.map_or(preference, |known: u16| known.min(preference)));
            continue;
        }
        match resolver.all_addresses(&name, deadline) {
            Lookup::Yes(addresses) if addresses.iter().any(|address| own.has(*address)) => {
                ours = Some(ours.map_or(preference, |known: u16| known.min(preference)));
            }
            Lookup::Yes(addresses) => {
                let hops = addresses.into_iter().map(|address| Hop { preference, ..hop(&name, address, port) });
                found.extend(hops.map(|hop| (preference, hop)));
            }
            Lookup::No => {}
            Lookup::CannotTell(why) => _ = unsure_of.get_or_insert((preference, unsure(&name, &why))),
        }
    }
    found.retain(|(preference, _)| ours.is_none_or(|ours| *preference < ours));
    match (found.is_empty(), ours, unsure_of) {
        (false, ..) => Ok(found.into_iter().map(|(_, hop)| hop).collect()),
        // One that is worse than ourselves does not count, whatever it is.
        (true, ours, Some((preference, unsure))) if ours.is_none_or(|ours| preference < ours) => Err(unsure),
        (true, Some(_), _) => Err(comes_back()),
        (true, None, _) => Err(Outcome::Failed("5.4.4 no mail host of the domain has an address".to_owned())),
    }
}

fn named(resolver: &Resolver, name: &str, port: u16, deadline: Instant) -> Result<Vec<Hop>, Outcome> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(vec![hop(name, address, port)]);
    }
    match resolver.all_addresses(name, deadline) {
        Lookup::Yes(addresses) => Ok(addresses.into_iter().map(|address| hop(name, address, port)).collect()),
        Lookup::No => Err(Outcome::Failed(format!("5.1.2 there is no host {name:.80}"))),
        Lookup::CannotTell(why) => Err(unsure(name, &why)),
    }
}

fn hop(name: &str, address: IpAddr, port: u16) -> Hop {
    Hop { name: name.to_owned(), place: Place::Net(SocketAddr::new(address, port)), preference: 0 }
}

fn unsure(name: &str, why: &str) -> Outcome {
    log::info!("event=dns-trouble name={} reason={why:?}", crate::logging::field(&name));
    Outcome::Deferred(format!("4.4.3 {name:.60} cannot be looked up now"))
}

/// The addresses of this machine that others see.
fn own_addresses() -> Option<Vec<IpAddr>> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Some(Vec::new()) };
    let addresses = interfaces.filter_map(|interface| interface.address);
    let ip = |address: nix::sys::socket::SockaddrStorage| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
        (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
        _ => None,
    };
    Some(addresses.filter_map(ip).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_are_taken_apart() {
        for (text, host, is_host, port) in [
            ("mx.example", "mx.example", false, None),
            ("mx.example:2525", "mx.example", false, Some(2525)),
            ("[mx.example]", "mx.example", true, None),
            ("[2001:db8::1]:26", "2001:db8::1", true, Some(26)),
            ("[IPv6:2001:db8::1]", "2001:db8::1", true, None),
        ] {
            assert_eq!(NextHop::of(text), NextHop { host, is_host, port }, "{text}");
        }
    }

    fn found(hosts: &[(u16, &str)], own: &str, addresses: &[&str]) -> Result<Vec<String>, Outcome> {
        let table = "192.0.2.1 one.example\n2001:db8::1 one.example\n192.0.2.2 two.example\n192.0.2.3 three.example\n";
        let resolver = Resolver::new(Vec::new(), table);
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let own = OwnNames { name: own, addresses: Some(addresses), is_found: true };
        let hosts = hosts.iter().map(|(preference, name)| (*preference, (*name).to_owned())).collect();
        let hops = best_first(&resolver, hosts, 25, &own, Instant::now() + Duration::from_secs(5))?;
        Ok(hops
            .into_iter()
            .map(|hop| match hop.place {
                Place::Net(address) => address.ip().to_string(),
                Place::Unix(_) => String::new(),
            })
            .collect())
    }

    #[test]
    fn better_hosts_come_first_with_all_their_addresses() {
        let all = found(&[(20, "two.example"), (10, "one.example")], "mx.example", &[]).unwrap();
        assert_eq!(all, ["2001:db8::1", "192.0.2.1", "192.0.2.2"]);
    }

    #[test]
    fn what_is_no_better_than_ourselves_is_left_out() {
        let hosts = [(10, "one.example"), (20, "two.example"), (20, "mx.example"), (30, "three.example")];
        assert_eq!(found(&hosts, "MX.example", &[]).unwrap(), ["2001:db8::1", "192.0.2.1"]);
        assert_eq!(found(&hosts, "other.example", &["192.0.2.2"]).unwrap(), ["2001:db8::1", "192.0.2.1"]);
        let failed = found(&hosts, "other.example", &["192.0.2.1"]).unwrap_err();
        assert!(matches!(failed, Outcome::Failed(why) if why.starts_with("5.4.6 ")));
    }

    #[test]
    fn another_server_on_loopback_is_left_to_the_administrator_and_what_is_ours_to_nobody() {
        let resolver = Resolver::new(Vec::new(), "127.0.0.9 mx.filter.example\n192.0.2.9 mx.own.example\n");
        for (name, is_found, comes_back) in
            [("mx.filter.example", true, true), ("mx.filter.example", false, false), ("mx.own.example", false, true)]
        {
            let own = OwnNames { name: "mx.example", addresses: Some(vec!["192.0.2.9".parse().unwrap()]), is_found };
            let hops = best_first(&resolver, vec![(0, name.to_owned())], 25, &own, Instant::now() + LOOK_UP);
            assert_eq!(hops.is_err(), comes_back, "{name} {is_found}: {hops:?}");
        }
    }

    /// It would be taken in and sent on until it had been through too many hosts.
    #[test]
    fn a_domain_without_mx_that_leads_here_comes_back_but_not_where_the_administrator_named_it() {
        let config = Config::with(&[]);
        let table = "127.0.0.9 loop.example\n0.0.0.0 none.example\n192.0.2.1 one.example\n";
        let server = crate::net::dns::tests::NameServer::start(&[]);
        let resolver = Resolver::new(vec![server.address], table);
        let own =
            own_addresses().unwrap().into_iter().map(|own| format!("[{own}]")).next().expect("a loopback at least");
        for (next_hop, domain, comes_back) in [
            ("", "loop.example", true),
            ("", "none.example", true),
            ("", "one.example", false),
            ("", "[127.0.0.1]", true),
            ("", "[IPv6:::ffff:127.0.0.1]", true),
            ("", own.as_str(), true),
            ("loop.example", "one.example", false),
            ("loop.example:26", "one.example", false),
            ("[127.0.0.1]", "one.example", false),
            ("127.0.0.1:25", "one.example", false),
        ] {
            let found = smtp(&config, &resolver, next_hop, domain);
            let is_back = matches!(&found, Err(Outcome::Failed(why)) if why.starts_with("5.4.6 "));
            assert_eq!((is_back, found.is_ok()), (comes_back, !comes_back), "{next_hop} {domain}: {found:?}");
        }
        let other_port = Config::with(&[("smtp_tcp_port", "2525")]);
        assert!(smtp(&other_port, &resolver, "", "loop.example").is_ok());
    }

    #[test]
    fn the_same_hosts_in_the_same_order_are_one_home() {
        let at = |preference, name: &str, address: &str| Hop { preference, ..hop(name, address.parse().unwrap(), 25) };
        let one = [at(10, "mx.example", "192.0.2.1"), at(20, "b.example", "192.0.2.2"), at(20, "b.example", "::1")];
        let two = [at(0, "MX.example", "192.0.2.1"), at(5, "b.example", "::1"), at(5, "b.example", "192.0.2.2")];
        assert_eq!(home(&one), "0 mx.example 192.0.2.1:25,1 b.example 192.0.2.2:25,1 b.example [::1]:25");
        assert_eq!(home(&one), home(&two));
        assert_eq!(addresses(&home(&one)).collect::<Vec<_>>(), ["192.0.2.1:25", "192.0.2.2:25", "[::1]:25"]);
        for other in [
            vec![at(10, "mx.example", "192.0.2.1")],
            vec![at(10, "mx.example", "192.0.2.1"), at(10, "b.example", "192.0.2.2"), at(10, "b.example", "::1")],
            vec![at(20, "mx.example", "192.0.2.1"), at(10, "b.example", "192.0.2.2"), at(10, "b.example", "::1")],
            vec![at(10, "x.example", "192.0.2.1"), at(20, "b.example", "192.0.2.2"), at(20, "b.example", "::1")],
            vec![at(10, "mx.example", "192.0.2.9"), at(20, "b.example", "192.0.2.2"), at(20, "b.example", "::1")],
        ] {
            assert_ne!(home(&one), home(&other));
        }
        assert_eq!(home(&vec![at(1, "mx.example", "192.0.2.1"); 1]), "0 mx.example 192.0.2.1:25");
        assert_eq!(addresses("").count(), 0);
    }

    /// Else whoever has more would have no share, and could have all agents.
    #[test]
    fn of_too_many_hosts_the_first_are_told_and_no_others_are_the_same_home() {
        let hop = |last| hop("mx.example", IpAddr::from([192, 0, 2, last]), 25);
        let many: Vec<Hop> = (0..=255).map(hop).collect();
        let text = home(&many);
        assert!(text.len() <= LONGEST_HOME && text.len() > LONGEST_HOME - 100, "{text}");
        let told: Vec<_> = addresses(&text).collect();
        assert!(told[0] == "192.0.2.0:25" && told.len() > 40, "{text}");
        let others = told.split_last().map(|(hash, others)| (hash.parse::<SocketAddr>().is_err(), others)).unwrap();
        assert!(others.0 && others.1.iter().all(|address| address.parse::<SocketAddr>().is_ok()), "{text}");
        assert_eq!(home(&many.iter().rev().cloned().collect::<Vec<_>>()), text);
        assert_ne!(home(&many[..255]), text);
    }
}
