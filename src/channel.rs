//! The channels file: on which channel mail comes in, by which it leaves, what may go where.

use crate::config::{Config, Error};
use crate::lookup::Lookup;
use crate::net::peer::Peer;

/// How mail leaves by a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// Into the recipient's mailbox here (`mailbox:`).
    Mailbox,
    /// By SMTP, to this host or by MX (`smtp:`, `smtp:[host]:port`).
    Smtp(Option<String>),
    /// Any other `name:rest`, known but not yet carried: delivery defers with a clear reason.
    Other(String, String),
    /// `-`: nothing leaves by it.
    None,
}

/// One line of the file.
#[derive(Debug, Clone)]
pub struct Channel {
    /// Its name.
    pub name: String,
    /// How mail leaves.
    pub transport: Transport,
}

/// All channels, in search order.
#[derive(Debug, Clone)]
pub struct Channels(pub Vec<Channel>);

impl Channels {
    /// Reads the file `channels` names, or the two built-in lines where it is missing.
    pub fn load(_config: &Config) -> Result<Channels, Error> {
        todo!()
    }

    /// The channel a client's mail comes in on. `only` limits the search to these names, in this order
    /// (`smtpsrvr remotehost localhost channels`); empty: all. Without a match the last one searched, or `No` if
    /// `finicky`. An unknown name in `only` is an error.
    pub fn incoming(&self, _peer: &Peer, _only: &[String], _finicky: bool) -> Result<Lookup<&Channel>, Error> {
        todo!()
    }

    /// The channel by which mail for a domain leaves.
    pub fn outgoing(&self, _domain: &[u8]) -> Lookup<&Channel> {
        todo!()
    }

    /// Whether mail that came in on channel `from` (by name; `authenticated` and unknown names included) may leave by `to`.
    pub fn may_go(&self, _from: &str, _to: &Channel) -> bool {
        todo!()
    }
}
