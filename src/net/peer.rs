//! Who is calling: the kernel's peer of an inet socket, else what the builder of the pipe says, else nobody.
//!
//! The kernel cannot be talked into a wrong address, so on an inet socket nothing else counts. Superservers also hand
//! out pipes and unix sockets; whoever built those vouches for what arguments and environment say, first found first:
//! the operands `remotehost localhost`, ucspi's TCPREMOTEIP and so on, systemd's REMOTE_ADDR, socat's SOCAT_PEERADDR.
//! A name beside an address means nothing before the two fit, whoever gave it: ucspi's is only what the client's own
//! name server says.

use super::accept;
use super::dns::Resolver;
use crate::config::Config;
use crate::logging;
use crate::lookup::Lookup;
use crate::message::path::is_host_name;
use crate::sys;
use nix::sys::socket::{SockaddrStorage, getpeername, getsockname};
use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// What is known of the other end for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An address; IPv4-mapped IPv6 is IPv4 here.
    Address(IpAddr),
    /// A pipe, file or terminal that nobody vouched for.
    Stdin,
    /// A socket that names nobody.
    Unknown,
    /// A pipe or unix socket whose builder gave a name and no address; he is believed.
    Named,
}

/// The other end of the connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Address, or the lack of one.
    pub origin: Origin,
    /// Its port, where known.
    pub port: Option<u16>,
    /// Our own end, where known; port 0 where only the address is.
    pub local: Option<SocketAddr>,
    /// A name that arguments or environment gave. Beside an address it means nothing before it is forward-confirmed.
    pub claimed_name: Option<String>,
    /// Whether octets come over an inet socket, so that the peer can wait and can be made to.
    pub on_inet_socket: bool,
    /// What `name` found at its first call.
    pub looked_up: OnceCell<Lookup<String>>,
    /// Who is asked for its name; empty: the name servers of the system.
    pub name_servers: Vec<SocketAddr>,
}

/// How long a name may be looked for.
const LONGEST_LOOK_UP: Duration = Duration::from_secs(5);

/// Address, port and name of the peer, then our own address and port, as superservers call them.
const VARIABLES: [[&str; 5]; 3] = [
    ["TCPREMOTEIP", "TCPREMOTEPORT", "TCPREMOTEHOST", "TCPLOCALIP", "TCPLOCALPORT"],
    ["REMOTE_ADDR", "REMOTE_PORT", "", "", ""],
    ["SOCAT_PEERADDR", "SOCAT_PEERPORT", "", "SOCAT_SOCKADDR", "SOCAT_SOCKPORT"],
];

/// The names of them all.
pub fn variables() -> impl Iterator<Item = &'static str> {
    VARIABLES.iter().flatten().copied().filter(|name| !name.is_empty())
}

impl Peer {
    /// A peer of which nothing but its origin is known.
    pub fn new(origin: Origin) -> Peer {
        let looked_up = OnceCell::new();
        let name_servers = Vec::new();
        Peer { origin, port: None, local: None, claimed_name: None, on_inet_socket: false, name_servers, looked_up }
    }

    /// Whoever is on standard input. The operands may be names or addresses, these also in brackets; they count on pipes
    /// and unix sockets only, but a name is kept as a claim. What the environment says of a client is not asked where this
    /// program accepts its clients itself: it would be about somebody else.
    ///
    /// Nothing where the client of an inet socket has reset the connection already. What it sent can still be read then, and
    /// by QMQP that is a whole message; but from whom it came nobody knows any more, and `unknown` in a list means others.
    // What it needs of the stack for a moment is not to lie under the session.
    #[inline(never)]
    pub fn of_stdio(remotehost: Option<&str>, localhost: Option<&str>) -> Option<Peer> {
        let environment = |name: &str| (!accept::accepts()).then(|| std::env::var(name).ok()).flatten();
        let peer = Peer::of(sys::stdio()[0], remotehost, localhost, &environment);
        if peer.on_inet_socket && peer.origin == Origin::Unknown {
            log::info!("client=unknown event=end reason=\"lost connection before the session\"");
            return None;
        }
        Some(peer)
    }

    /// Whoever is at the other end of a socket that was accepted: nobody else can say.
    pub fn of_descriptor(socket: &impl AsFd) -> Peer {
        Peer::of(socket.as_fd(), None, None, &|_| None)
    }

    fn of(
        input: BorrowedFd<'_>,
        remotehost: Option<&str>,
        localhost: Option<&str>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Peer {
        let own = getsockname::<SockaddrStorage>(input.as_raw_fd());
        let mut peer = Peer::new(if own.is_ok() { Origin::Unknown } else { Origin::Stdin });
        let mut said = Said::default();
        said.operands(remotehost, localhost);
        VARIABLES.iter().for_each(|names| said.variables(names, environment));
        peer.claimed_name = said.name;
        if let Some(own) = own.ok().and_then(|name| inet(&name)) {
            // Already gone: there is no peer, and what others say of it is about somebody else.
            let other = getpeername::<SockaddrStorage>(input.as_raw_fd()).ok().and_then(|name| inet(&name));
            peer.on_inet_socket = true;
            peer.local = Some(own);
            peer.port = other.map(|other| other.port());
            peer.origin = other.map_or(Origin::Unknown, |other| Origin::Address(other.ip()));
            return peer;
        }
        peer.local = said.local.map(|address| SocketAddr::new(address, said.local_port.unwrap_or(0)));
        match (said.address, &peer.claimed_name) {
            (Some(address), _) => {
                peer.origin = Origin::Address(address);
                peer.port = said.port;
            }
            (None, Some(_)) => peer.origin = Origin::Named,
            (None, None) => {}
        }
        peer
    }

    /// Whoever a person means by a word: an address, a name, which is believed, `stdin` or `unknown`.
    pub fn of_word(word: &str) -> Option<Peer> {
        match (word, address(word), name(word)) {
            ("stdin", ..) => Some(Peer::new(Origin::Stdin)),
            ("unknown", ..) => Some(Peer::new(Origin::Unknown)),
            (_, Some(address), _) => Some(Peer::new(Origin::Address(address))),
            (_, None, Some(name)) => Some(Peer { claimed_name: Some(name), ..Peer::new(Origin::Named) }),
            (_, None, None) => None,
        }
    }

    /// The same, but on a pipe, file or unix socket of which nothing is known it is localhost (`-S`, as in Postfix).
    pub fn or_localhost(self) -> Peer {
        match self.origin {
            Origin::Stdin | Origin::Unknown if !self.on_inet_socket => {
                Peer { origin: Origin::Address(Ipv4Addr::LOCALHOST.into()), ..self }
            }
            _ => self,
        }
    }

    /// Its forward-confirmed name. Looked up at the first call only, 5 s at most, never for loopback; the answer is kept.
    pub fn name(&self) -> Lookup<String> {
        let resolver = || Resolver::of_system_or(self.name_servers.clone());
        self.looked_up.get_or_init(|| self.look_up(&resolver())).clone()
    }

    /// The same, by this resolver.
    pub fn name_by(&self, resolver: &Resolver) -> Lookup<String> {
        self.looked_up.get_or_init(|| self.look_up(resolver)).clone()
    }

    /// Its name is asked of `name_servers`.
    pub fn asking(mut self, config: &Config) -> Peer {
        self.name_servers = config.name_servers.0.iter().map(|server| server.0).collect();
        self
    }

    /// Logs more from now on if the client is in debug_peer_list.
    pub fn debug_if_listed(&self, config: &Config) {
        match config.debug_peer_list.matches_peer(self) {
            Lookup::Yes(()) => logging::more(config.debug_peer_level),
            Lookup::No => {}
            Lookup::CannotTell(why) => log::warn!("client={self} debug_peer_list: {why}"),
        }
    }

    fn look_up(&self, resolver: &Resolver) -> Lookup<String> {
        match (self.origin, &self.claimed_name) {
            (Origin::Address(address), _) if address.is_loopback() => Lookup::No,
            (Origin::Address(address), claimed) => {
                resolver.confirmed_name(address, claimed.as_deref(), Instant::now() + LONGEST_LOOK_UP)
            }
            (Origin::Named, Some(name)) => Lookup::Yes(name.clone()),
            (Origin::Named | Origin::Stdin | Origin::Unknown, _) => Lookup::No,
        }
    }

    /// Loopback, or no network at all: passwords need no TLS on it.
    pub fn is_on_this_machine(&self) -> bool {
        match self.origin {
            Origin::Address(address) => address.is_loopback(),
            Origin::Stdin => true,
            Origin::Unknown | Origin::Named => false,
        }
    }
}

/// The address, `stdin` or `unknown`, as logs and Received fields show it.
impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.origin {
            Origin::Address(address) => address.fmt(f),
            Origin::Stdin => f.write_str("stdin"),
            Origin::Unknown => f.write_str("unknown"),
            Origin::Named => f.write_str(self.claimed_name.as_deref().unwrap_or("unknown")),
        }
    }
}

/// What arguments and environment say; of each thing what is said first.
#[derive(Default)]
struct Said {
    address: Option<IpAddr>,
    port: Option<u16>,
    name: Option<String>,
    local: Option<IpAddr>,
    local_port: Option<u16>,
}

impl Said {
    fn operands(&mut self, remotehost: Option<&str>, localhost: Option<&str>) {
        self.address = remotehost.and_then(address);
        self.name = remotehost.and_then(name);
        self.local = localhost.and_then(address);
    }

    fn variables(&mut self, names: &[&str; 5], environment: &dyn Fn(&str) -> Option<String>) {
        let value = |at: usize| names.get(at).filter(|name| !name.is_empty()).and_then(|name| environment(name));
        let port = |at: usize| value(at).filter(|text| text.bytes().all(|octet| octet.is_ascii_digit()))?.parse().ok();
        if self.address.is_none() {
            self.address = value(0).as_deref().and_then(address);
            self.port = self.address.and_then(|_| port(1));
        }
        if self.name.is_none() {
            self.name = value(2).as_deref().and_then(name);
        }
        if self.local.is_none() {
            self.local = value(3).as_deref().and_then(address);
            self.local_port = self.local.and_then(|_| port(4));
        }
    }
}

/// Whether a word is a name that this machine may have, or an address.
pub fn can_be_ours(word: &str) -> bool {
    is_host_name(word) || (word.trim() == word && address(word).is_some())
}

/// `192.0.2.1`, `[192.0.2.1]`, `::1`, `[::1]`, `[IPv6:::1]`, with or without a zone (`%eth0`).
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let inside = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let inside = inside.strip_prefix("IPv6:").unwrap_or(inside);
    match inside.split_once('%') {
        Some((address, _)) => address.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => inside.parse::<IpAddr>().ok(),
    }
    .map(|address| address.to_canonical())
}

/// A host name, in lower case and without a dot at its end. The words that superservers write for "nobody knows" and
/// the words of the channels file are none.
fn name(text: &str) -> Option<String> {
    let text = text.trim();
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_word = matches!(name.as_str(), "unknown" | "stdin" | "paranoid");
    (is_host_name(&name) && address(&name).is_none() && !is_word).then_some(name)
}

/// Address and port of an inet socket's end; nothing for any other socket.
fn inet(end: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || end.as_sockaddr_in().map(|end| SocketAddr::from((end.ip(), end.port())));
    let v6 = || end.as_sockaddr_in6().map(|end| SocketAddr::new(IpAddr::V6(end.ip()).to_canonical(), end.port()));
    v4().or_else(v6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    /// Who is on `input` where the environment is `variables`.
    fn on(input: impl AsFd, operands: [Option<&str>; 2], variables: &[(&str, &str)]) -> Peer {
        let environment =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Peer::of(input.as_fd(), operands[0], operands[1], &environment)
    }

    fn on_pipe(operands: [Option<&str>; 2], variables: &[(&str, &str)]) -> Peer {
        on(std::io::pipe().unwrap().0, operands, variables)
    }

    const UCSPI: [(&str, &str); 5] = [
        ("TCPREMOTEIP", "192.0.2.1"),
        ("TCPREMOTEPORT", "1234"),
        ("TCPREMOTEHOST", "Client.Example."),
        ("TCPLOCALIP", "192.0.2.2"),
        ("TCPLOCALPORT", "25"),
    ];

    #[test]
    fn the_kernel_wins_on_an_inet_socket() {
        for bound in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(bound) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            let peer = on(&server, [Some("192.0.2.9"), Some("192.0.2.8")], &UCSPI);
            assert_eq!(peer.origin, Origin::Address(client.local_addr().unwrap().ip()));
            assert_eq!(peer.port, Some(client.local_addr().unwrap().port()));
            assert_eq!(peer.local, Some(server.local_addr().unwrap()));
            assert_eq!(peer.claimed_name.as_deref(), Some("client.example"));
            assert!(peer.on_inet_socket && peer.is_on_this_machine());
            assert_eq!(peer.name(), Lookup::No);
        }
    }

    #[test]
    fn ipv4_mapped_peers_are_ipv4() {
        let Ok(listener) = TcpListener::bind("[::]:0") else { return };
        let Ok(_client) = TcpStream::connect(("127.0.0.1", listener.local_addr().unwrap().port())) else { return };
        let peer = on(listener.accept().unwrap().0, [None, None], &[]);
        assert_eq!(peer.to_string(), "127.0.0.1");
        assert!(peer.local.unwrap().is_ipv4());
    }

    #[test]
    fn an_inet_socket_without_a_peer_is_nobody_whatever_is_said() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = on(&listener, [Some("192.0.2.9"), None], &UCSPI);
        assert_eq!((peer.origin, peer.on_inet_socket, peer.port), (Origin::Unknown, true, None));
    }

    #[test]
    fn nothing_said_is_stdin_on_a_pipe_and_unknown_on_a_socket() {
        assert_eq!(on_pipe([None, None], &[]).origin, Origin::Stdin);
        assert!(on_pipe([None, None], &[]).is_on_this_machine());
        assert_eq!(on(std::fs::File::open("/dev/null").unwrap(), [None, None], &[]).origin, Origin::Stdin);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = on(&ours, [None, None], &[]);
        assert_eq!((peer.origin, peer.on_inet_socket), (Origin::Unknown, false));
        assert!(!peer.is_on_this_machine());
        assert_eq!((peer.to_string(), peer.name()), ("unknown".to_owned(), Lookup::No));
    }

    #[test]
    fn only_what_is_not_on_a_network_may_count_as_localhost() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(on(&listener, [None, None], &[]).or_localhost().origin, Origin::Unknown);
        assert_eq!(on_pipe([None, None], &UCSPI).or_localhost().to_string(), "192.0.2.1");
        let (ours, _theirs) = UnixStream::pair().unwrap();
        for peer in [on_pipe([None, None], &[]), on(&ours, [None, None], &[])] {
            assert_eq!(peer.or_localhost().to_string(), "127.0.0.1");
        }
    }

    #[test]
    fn superservers_say_who_it_is_on_pipes_and_unix_sockets() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        for peer in [on_pipe([None, None], &UCSPI), on(&ours, [None, None], &UCSPI)] {
            assert_eq!(peer.origin, Origin::Address("192.0.2.1".parse().unwrap()));
            assert_eq!(peer.port, Some(1234));
            assert_eq!(peer.local, Some("192.0.2.2:25".parse().unwrap()));
            assert_eq!(peer.claimed_name.as_deref(), Some("client.example"));
            assert!(!peer.on_inet_socket);
        }
        let peer = on_pipe([None, None], &[("REMOTE_ADDR", "::ffff:192.0.2.3"), ("REMOTE_PORT", "5")]);
        assert_eq!((peer.to_string(), peer.port), ("192.0.2.3".to_owned(), Some(5)));
        let peer = on_pipe([None, None], &[("SOCAT_PEERADDR", "[2001:0db8:0000::0001]"), ("SOCAT_PEERPORT", "7")]);
        assert_eq!((peer.to_string(), peer.port), ("2001:db8::1".to_owned(), Some(7)));
    }

    #[test]
    fn operands_come_before_the_environment_and_that_in_its_order() {
        let peer = on_pipe([Some("[2001:db8::7]"), Some("192.0.2.8")], &UCSPI);
        assert_eq!(peer.origin, Origin::Address("2001:db8::7".parse().unwrap()));
        // The port belongs to another address.
        assert_eq!((peer.port, peer.local), (None, Some("192.0.2.8:0".parse().unwrap())));
        let peer = on_pipe([None, None], &[UCSPI[0], ("REMOTE_ADDR", "192.0.2.5"), ("REMOTE_PORT", "1")]);
        assert_eq!((peer.to_string(), peer.port), ("192.0.2.1".to_owned(), None));
    }

    #[test]
    fn an_address_is_never_a_name_and_a_name_never_an_address() {
        for text in ["192.0.2.1", "[192.0.2.1]", "2001:db8::1", "[2001:db8::1]", "[IPv6:2001:db8::1]", "fe80::1%eth0"] {
            assert!(address(text).is_some() && name(text).is_none(), "{text}");
        }
        for text in ["", "1.2.3.4.5", "127.1", "a b", "-", "unknown", "stdin", "paranoid", "a\nb", "ä.example", "a@b"]
        {
            assert!(address(text).is_none() && name(text).is_none(), "{text}");
        }
        assert_eq!(name("Client.EXAMPLE.").as_deref(), Some("client.example"));
        assert_eq!(name(&"a.".repeat(500)), None);
    }

    #[test]
    fn a_name_without_an_address_is_believed_on_a_pipe_and_is_not_this_machine() {
        let peer = on_pipe([Some("client.example"), Some("mx.example")], &[]);
        assert_eq!(peer.origin, Origin::Named);
        assert_eq!(peer.name(), Lookup::Yes("client.example".to_owned()));
        assert_eq!(peer.to_string(), "client.example");
        assert!(!peer.is_on_this_machine());
    }

    #[test]
    fn nonsense_in_the_environment_is_nobody() {
        let junk = [("TCPREMOTEIP", "$(reboot)"), ("TCPREMOTEHOST", "1.2.3.4"), ("REMOTE_ADDR", "/run/socket")];
        assert_eq!(on_pipe([Some("-"), Some("-")], &junk).origin, Origin::Stdin);
        let peer = on_pipe([None, None], &[UCSPI[0], ("TCPREMOTEPORT", "+25"), ("TCPLOCALIP", "x")]);
        assert_eq!((peer.port, peer.local), (None, None));
    }

    #[test]
    fn a_name_beside_an_address_must_fit_it() {
        let resolver = Resolver::new(Vec::new(), "192.0.2.1 client.example\n192.0.2.6 other.example\n");
        assert_eq!(on_pipe([None, None], &UCSPI).look_up(&resolver), Lookup::Yes("client.example".to_owned()));
        let peer = on_pipe([Some("other.example"), None], &UCSPI[..1]);
        assert_eq!(peer.look_up(&resolver), Lookup::Yes("client.example".to_owned()));
    }
}
