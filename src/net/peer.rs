//! Who is calling: the kernel's peer of an inet socket, else what the builder of the pipe says, else nobody.

use crate::lookup::Lookup;
use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};

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
    /// Our own end, where known.
    pub local: Option<SocketAddr>,
    /// A name that arguments or environment gave; it means nothing before it is forward-confirmed, except on a pipe.
    pub claimed_name: Option<String>,
    /// Whether octets come over an inet socket, so that the peer can wait and can be made to.
    pub on_inet_socket: bool,
    /// What `name` found at its first call.
    pub looked_up: OnceCell<Lookup<String>>,
}

impl Peer {
    /// A peer of which nothing but its origin is known.
    pub fn new(origin: Origin) -> Peer {
        let looked_up = OnceCell::new();
        Peer { origin, port: None, local: None, claimed_name: None, on_inet_socket: false, looked_up }
    }

    /// Its forward-confirmed name. Looked up at the first call only, 5 s at most, never for loopback; the answer is kept.
    pub fn name(&self) -> Lookup<String> {
        self.looked_up.get_or_init(|| Lookup::No).clone()
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
