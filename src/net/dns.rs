//! Asking name servers: a small blocking stub resolver over the crate `domain`, which knows the messages.
//!
//! /etc/hosts comes before DNS, both ways. A question goes to each server of /etc/resolv.conf in turn, twice, by UDP
//! with a random id from a random port of a connected socket, and again by TCP if the answer was cut (RFC 5452, RFC
//! 7766). Answers are three-valued: a name that is not there is `No`; time-out, SERVFAIL, or nobody to ask is
//! `CannotTell`. The whole of a look-up ends at the deadline the caller gives.

use crate::config::Config;
use crate::lookup::Lookup;
use crate::message::path::is_host_name;
use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name, Rtype, ToName};
use domain::rdata::{A, Aaaa, Mx, Ptr};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// A name as DNS knows it.
pub type DnsName = Name<Vec<u8>>;

/// An answer as it came.
pub type Answer = Message<Vec<u8>>;

/// How long one server may take for one answer.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How often every server is asked.
const ROUNDS: usize = 2;

/// Most names of one address that are confirmed: whoever owns the reverse zone decides how many there are.
const MOST_NAMES: usize = 4;

/// Most addresses of one name that are looked at.
const MOST_ADDRESSES: usize = 64;

/// Largest hosts file and resolv.conf read, in octets.
const LARGEST_FILE: u64 = 1 << 20;

/// Who is asked.
#[derive(Debug, Clone)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    hosts: Vec<(IpAddr, Vec<String>)>,
}

impl Resolver {
    /// The servers of /etc/resolv.conf and the names of /etc/hosts.
    pub fn of_system() -> Resolver {
        Resolver::new(servers(&text_of("/etc/resolv.conf")), &text_of("/etc/hosts"))
    }

    /// The servers of `name_servers`, if it has some, instead of those of the system.
    pub fn of_config(config: &Config) -> Resolver {
        Resolver::of_system_or(config.name_servers.0.iter().map(|server| server.0).collect())
    }

    /// These servers, or, where there are none, those of the system.
    pub fn of_system_or(servers: Vec<SocketAddr>) -> Resolver {
        if servers.is_empty() { Resolver::of_system() } else { Resolver::of_system().asking(servers) }
    }

    /// These servers, and the text of a hosts file.
    pub fn new(servers: Vec<SocketAddr>, hosts: &str) -> Resolver {
        Resolver { servers, hosts: hosts.lines().filter_map(hosts_line).collect() }
    }

    /// The same hosts file, and these servers instead.
    pub fn asking(self, servers: Vec<SocketAddr>) -> Resolver {
        Resolver { servers, ..self }
    }

    /// A name of `address` whose addresses have it among them: `claimed` if that is one, else one the address leads to.
    /// In lower case, without a dot at the end.
    pub fn confirmed_name(&self, address: IpAddr, claimed: Option<&str>, deadline: Instant) -> Lookup<String> {
        let mut unsure = None;
        if let Some(name) = claimed {
            match self.confirm(name, address, deadline) {
                Lookup::Yes(()) => return Lookup::Yes(name.to_ascii_lowercase()),
                Lookup::No => {}
                Lookup::CannotTell(why) => unsure = Some(why),
            }
        }
        let names = match self.names(address, deadline) {
            Lookup::Yes(names) => names,
            Lookup::No => Vec::new(),
            Lookup::CannotTell(why) => return Lookup::CannotTell(why),
        };
        for name in names {
            match self.confirm(&name, address, deadline) {
                Lookup::Yes(()) => return Lookup::Yes(name),
                Lookup::No => {}
                Lookup::CannotTell(why) => unsure = Some(why),
            }
        }
        unsure.map_or(Lookup::No, Lookup::CannotTell)
    }

    /// The names an address leads to (hosts file, else PTR); anybody may have put them there.
    pub fn names(&self, address: IpAddr, deadline: Instant) -> Lookup<Vec<String>> {
        if let Some((_, names)) = self.hosts.iter().find(|(known, _)| *known == address) {
            return Lookup::Yes(names.clone());
        }
        let Ok(question) = DnsName::reverse_from_addr(address) else { return Lookup::No };
        self.ask(&question, Rtype::PTR, deadline).and_then(|answer| unless_empty(names_in(&answer)))
    }

    /// The addresses of a name of the family of `like` (hosts file, else A or AAAA).
    pub fn addresses(&self, name: &str, like: IpAddr, deadline: Instant) -> Lookup<Vec<IpAddr>> {
        let has_name = |names: &[String]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
        let listed = self.hosts.iter().filter(|(_, names)| has_name(names)).map(|(address, _)| *address);
        let listed: Vec<IpAddr> = listed.filter(|address| address.is_ipv4() == like.is_ipv4()).collect();
        if !listed.is_empty() {
            return Lookup::Yes(listed);
        }
        let Ok(question) = DnsName::from_str(name) else { return Lookup::No };
        let kind = if like.is_ipv4() { Rtype::A } else { Rtype::AAAA };
        self.ask(&question, kind, deadline).and_then(|answer| unless_empty(addresses_in(&answer, kind)))
    }

    /// The addresses of a name, of both families in turn, IPv6 first: who tries only some of them must come to both.
    /// `CannotTell` only where no family gave any.
    pub fn all_addresses(&self, name: &str, deadline: Instant) -> Lookup<Vec<IpAddr>> {
        let families = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
        let (mut found, mut unsure) = (Vec::new(), None);
        for family in families {
            match self.addresses(name, family, deadline) {
                Lookup::Yes(addresses) => found.extend(addresses.into_iter().enumerate()),
                Lookup::No => {}
                Lookup::CannotTell(why) => unsure = Some(why),
            }
        }
        found.sort_by_key(|(place, _)| *place);
        match unsure {
            _ if !found.is_empty() => Lookup::Yes(found.into_iter().map(|(_, address)| address).collect()),
            Some(why) => Lookup::CannotTell(why),
            None => Lookup::No,
        }
    }

    /// Preference and name of each host that takes mail for a domain, best first (RFC 5321 section 5.1); `No`: there is
    /// no MX. A name `.` is that of nobody (null MX, RFC 7505). Without any host: there are MX, of which none has a name that
    /// is one of a host (`MX 10 192.0.2.7.`); the section asks for an error then, and not for the domain's own address.
    pub fn mail_hosts(&self, domain: &str, deadline: Instant) -> Lookup<Vec<(u16, String)>> {
        let Ok(question) = DnsName::from_str(domain) else { return Lookup::No };
        let answer = self.ask(&question, Rtype::MX, deadline);
        answer.and_then(|answer| mail_hosts_in(&answer).map_or(Lookup::No, Lookup::Yes))
    }

    fn confirm(&self, name: &str, address: IpAddr, deadline: Instant) -> Lookup<()> {
        let addresses = self.addresses(name, address, deadline);
        addresses.and_then(|addresses| if addresses.contains(&address) { Lookup::Yes(()) } else { Lookup::No })
    }

    /// Asks DNS for the records of one kind. `Yes` is an answer without error that has records, of whatever kind: an
    /// alias may lead nowhere.
    pub fn ask(&self, name: &DnsName, kind: Rtype, deadline: Instant) -> Lookup<Answer> {
        let mut why = "there is no name server".to_owned();
        for server in std::iter::repeat_n(&self.servers, ROUNDS).flatten() {
            if Instant::now() >= deadline {
                why = format!("no answer in time; {why}");
                break;
            }
            match ask_server(*server, name, kind, deadline) {
                Ok(answer) => match answer.header().rcode() {
                    Rcode::NOERROR if answer.header_counts().ancount() > 0 => return Lookup::Yes(answer),
                    Rcode::NOERROR | Rcode::NXDOMAIN => return Lookup::No,
                    code => why = format!("name server {}: {code}", server.ip()),
                },
                Err(error) => why = format!("name server {}: {error}", server.ip()),
            }
        }
        Lookup::CannotTell(format!("{name} {kind}: {why}"))
    }
}

fn unless_empty<T>(found: Vec<T>) -> Lookup<Vec<T>> {
    if found.is_empty() { Lookup::No } else { Lookup::Yes(found) }
}

/// The names an answer has for an address. An alias in the reverse zone is the usual way to delegate less than 256
/// addresses (RFC 2317).
fn names_in(answer: &Answer) -> Vec<String> {
    let (Some(owner), Ok(section)) = (answer.canonical_name(), answer.answer()) else { return Vec::new() };
    let records = section.limit_to::<Ptr<_>>().filter_map(Result::ok).filter(|record| *record.owner() == owner);
    let names = records.map(|record| record.data().ptrdname().to_string().to_ascii_lowercase());
    names.filter(|name| is_host_name(name)).take(MOST_NAMES).collect()
}

/// The addresses an answer has for the name asked for, or for the one it is an alias of.
fn addresses_in(answer: &Answer, kind: Rtype) -> Vec<IpAddr> {
    let (Some(owner), Ok(section)) = (answer.canonical_name(), answer.answer()) else { return Vec::new() };
    if kind == Rtype::A {
        let records = section.limit_to::<A>().filter_map(Result::ok).filter(|record| *record.owner() == owner);
        records.map(|record| IpAddr::V4(record.data().addr())).take(MOST_ADDRESSES).collect()
    } else {
        let records = section.limit_to::<Aaaa>().filter_map(Result::ok).filter(|record| *record.owner() == owner);
        records.map(|record| IpAddr::V6(record.data().addr())).take(MOST_ADDRESSES).collect()
    }
}

/// The mail hosts an answer has for the domain asked for, or for the one it is an alias of, best first; nothing where it has
/// no MX for that.
fn mail_hosts_in(answer: &Answer) -> Option<Vec<(u16, String)>> {
    let (Some(owner), Ok(section)) = (answer.canonical_name(), answer.answer()) else { return None };
    let records = section.limit_to::<Mx<_>>().filter_map(Result::ok).filter(|record| *record.owner() == owner);
    let host = |name: String| if name == "." || name.is_empty() { ".".to_owned() } else { name };
    let mut hosts = records.map(|record| {
        let name = record.data().exchange().to_string().to_ascii_lowercase();
        (record.data().preference(), host(name))
    });
    let hosts = std::iter::once(hosts.next()?).chain(hosts);
    let mut hosts: Vec<_> = hosts.filter(|(_, name)| name == "." || is_host_name(name)).take(MOST_ADDRESSES).collect();
    hosts.sort();
    Some(hosts)
}

fn ask_server(server: SocketAddr, name: &DnsName, kind: Rtype, deadline: Instant) -> io::Result<Answer> {
    let question = question(name, kind)?;
    let deadline = deadline.min(Instant::now() + ATTEMPT);
    let answer = by_udp(server, &question, deadline)?;
    if answer.header().tc() { by_tcp(server, &question, deadline) } else { Ok(answer) }
}

/// Without EDNS: what is longer than 512 octets comes by TCP, which every server must speak.
fn question(name: impl ToName, kind: Rtype) -> io::Result<Answer> {
    let id = getrandom::u32().map_err(|error| io::Error::other(error.to_string()))?;
    let mut message = MessageBuilder::new_vec();
    let [a, b, ..] = id.to_ne_bytes();
    message.header_mut().set_id(u16::from_ne_bytes([a, b]));
    message.header_mut().set_rd(true);
    let mut section = message.question();
    section.push((name, kind)).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(section.into_message())
}

/// A connected socket hears only the server, at a port the kernel chose at random; the id must fit too, and the
/// question. What does not fit is somebody's guess, and the true answer may still come.
fn by_udp(server: SocketAddr, question: &Answer, deadline: Instant) -> io::Result<Answer> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.send(question.as_slice())?;
    let mut datagram = [0; 4096];
    loop {
        socket.set_read_timeout(Some(time_left(deadline)?))?;
        match socket.recv(&mut datagram) {
            Ok(count) => {
                let received = datagram.get(..count).unwrap_or_default().to_vec();
                if let Some(answer) = fitting(received, question) {
                    return Ok(answer);
                }
            }
            Err(error) if is_time_out(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn by_tcp(server: SocketAddr, question: &Answer, deadline: Instant) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, time_left(deadline)?)?;
    stream.set_write_timeout(Some(time_left(deadline)?))?;
    let octets = question.as_slice();
    let length = u16::try_from(octets.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), octets].concat())?;
    let mut length = [0; 2];
    fill(&mut stream, &mut length, deadline)?;
    let mut received = vec![0; usize::from(u16::from_be_bytes(length))];
    fill(&mut stream, &mut received, deadline)?;
    fitting(received, question).ok_or_else(|| io::Error::other("an answer to another question"))
}

/// `read_exact` with one deadline for all of it: a server that sends an octet a second must not hold us.
fn fill(stream: &mut TcpStream, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(time_left(deadline)?))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffer = buffer.get_mut(count..).unwrap_or_default(),
            Err(error) if is_time_out(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn fitting(octets: Vec<u8>, question: &Answer) -> Option<Answer> {
    Message::from_octets(octets).ok().filter(|answer| answer.is_answer(question))
}

fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")) } else { Ok(left) }
}

fn is_time_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// A file of the system; empty where it cannot be read, as the C library takes it.
fn text_of(path: &str) -> String {
    let mut octets = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(LARGEST_FILE).read_to_end(&mut octets);
    }
    String::from_utf8_lossy(&octets).into_owned()
}

/// The first three servers of a resolv.conf; without any the one on this machine (resolv.conf(5)).
fn servers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("nameserver"));
    let mut servers: Vec<SocketAddr> = lines.filter_map(server).take(3).collect();
    if servers.is_empty() {
        servers.push((Ipv4Addr::LOCALHOST, 53).into());
    }
    servers
}

/// What stands behind `nameserver`: an address, maybe with a zone.
fn server(text: &str) -> Option<SocketAddr> {
    let word = text.strip_prefix([' ', '\t'])?.split_whitespace().next()?;
    match word.split_once('%') {
        Some((address, zone)) => {
            let zone = nix::net::if_::if_nametoindex(zone).ok()?;
            Some(SocketAddrV6::new(address.parse().ok()?, 53, 0, zone).into())
        }
        None => Some((word.parse::<IpAddr>().ok()?, 53).into()),
    }
}

fn hosts_line(line: &str) -> Option<(IpAddr, Vec<String>)> {
    let line = line.split('#').next().unwrap_or_default();
    let mut words = line.split_whitespace();
    let address: IpAddr = words.next()?.parse().ok()?;
    let names = words.map(str::to_ascii_lowercase).filter(|name| is_host_name(name));
    let names: Vec<String> = names.collect();
    (!names.is_empty()).then(|| (address.to_canonical(), names))
}

#[cfg(test)]
pub(crate) mod tests;
