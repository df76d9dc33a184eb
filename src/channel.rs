//! The channels file: on which channel mail comes in, by which it leaves, what may go where.
//!
//! ```text
//! # channel  clients on it            domains on it              how mail leaves          mail from it may go to
//! local      127.0.0.0/8,[::1]        $myhostname, localhost     mailbox:                 *
//! smtp       *                        *                          smtp:                    local
//! ```
//!
//! These two lines hold where there is no file. Search goes from top to bottom. Columns are separated by blanks; blanks
//! behind a comma belong to the list. Reading the lines is left to `channel/parse.rs`, the patterns to
//! `config::pattern`.

use crate::config::pattern::PatternList;
use crate::config::{Config, Error, Origin, shown};
use crate::lookup::Lookup;
use crate::net::peer::{self, Peer};
use std::fmt::Arguments;

pub mod check;
mod parse;

/// The channel of clients that have logged in. Nobody comes in on it otherwise, and without a line of its own its
/// mail may go anywhere.
pub const AUTHENTICATED: &str = "authenticated";

/// How mail leaves by a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// Into the recipient's mailbox here (`mailbox:`).
    Mailbox,
    /// By SMTP, to this host or by MX (`smtp:`, `smtp:[host]:port`).
    Smtp(Option<String>),
    /// Any other `name:rest`: `maildir:/path`, `mbox:/path`, `mmdf:/path`, `lmtp:`, `qmqp:`, `qmtp:`, `pipe:/program`,
    /// `qmail-queue:/program`, `discard:`, `error:text`.
    Other(String, String),
    /// `-`: nothing leaves by it.
    None,
}

impl Transport {
    /// Takes what may stand in the fourth column; the error is what was expected.
    pub fn parse(text: &str) -> Result<Transport, String> {
        parse::transport(text)
    }
}

/// One line of the file.
#[derive(Debug, Clone)]
pub struct Channel {
    /// Its name.
    pub name: String,
    /// How mail leaves.
    pub transport: Transport,
    /// Who is on it when mail comes in.
    pub clients: PatternList,
    /// For which domains mail leaves by it.
    pub domains: PatternList,
    /// Where mail that came in on it may go.
    pub may_go: MayGo,
    /// Where it was read.
    pub origin: Origin,
}

/// The last column: the channels that mail from this one may leave by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MayGo {
    /// `*`.
    Anywhere,
    /// These; none for `-`.
    To(Vec<String>),
}

/// All channels, in search order.
#[derive(Debug, Clone)]
pub struct Channels(pub Vec<Channel>);

/// On which channel a client's mail comes in.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// That channel.
    pub channel: &'a Channel,
    /// Whether it lists the client. On the last one is also who is on none: anybody, whose mail stays on this machine
    /// wherever that channel's may go, or any list of channels that ends in a trusted one would make an open relay.
    pub is_listed: bool,
}

impl Channels {
    /// Reads the file `channels` names, or the two built-in lines where it is missing. A channel by which anybody in the
    /// world can send mail on is warned of.
    pub fn load(config: &Config) -> Result<Channels, Error> {
        let channels = parse::load(config)?;
        for (from, to) in channels.open_relays() {
            log::warn!(
                "{}: OPEN RELAY: clients from anywhere are on channel {}, and their mail for any domain may leave by {}",
                from.origin,
                from.name,
                to.name
            );
        }
        Ok(channels)
    }

    /// The same without a warning.
    pub fn read(config: &Config) -> Result<Channels, Error> {
        parse::load(config)
    }

    /// The same, or all mistakes there are.
    pub fn read_or_mistakes(config: &Config) -> Result<Channels, Vec<Error>> {
        parse::load_all(config)
    }

    /// Reads the text of a channels file; `config` is what `$name` expands from, and names the file in errors.
    pub fn parse(octets: &[u8], config: &Config) -> Result<Channels, Error> {
        parse::parse(octets, config)
    }

    /// The channel a client's mail comes in on. `only` limits the search to these names, in this order
    /// (`smtpsrvr remotehost localhost channels`); empty: all. Without a match the last one searched, or `No` if
    /// `finicky`. An unknown name in `only` is an error.
    pub fn incoming(&self, peer: &Peer, only: &[String], finicky: bool) -> Result<Lookup<Incoming<'_>>, Error> {
        self.incoming_traced(peer, only, finicky, &mut |_| {})
    }

    /// The same, telling each step.
    pub fn incoming_traced(
        &self,
        peer: &Peer,
        only: &[String],
        finicky: bool,
        tell: &mut dyn FnMut(Arguments<'_>),
    ) -> Result<Lookup<Incoming<'_>>, Error> {
        let mut last = None;
        let mut had_name = peer.looked_up.get().is_some();
        for channel in self.searched(only)? {
            last = Some(channel);
            let found = channel.clients.matches_peer(peer);
            if let (false, peer::Origin::Address(_), Some(name)) = (had_name, peer.origin, peer.looked_up.get()) {
                had_name = true;
                match name {
                    Lookup::Yes(name) => tell(format_args!("client {peer}: its confirmed name is {name}")),
                    Lookup::No => tell(format_args!("client {peer}: it has no confirmed name")),
                    Lookup::CannotTell(_) => {}
                }
            }
            match found {
                Lookup::Yes(()) => {
                    tell(format_args!("{channel}: client {peer} is on it"));
                    return Ok(Lookup::Yes(Incoming { channel, is_listed: true }));
                }
                Lookup::No => tell(format_args!("{channel}: client {peer} is not on it")),
                Lookup::CannotTell(why) => {
                    tell(format_args!("{channel}: cannot tell whether client {peer} is on it: {why}"));
                    return Ok(Lookup::CannotTell(why));
                }
            }
        }
        Ok(match last {
            Some(last) if !finicky => {
                tell(format_args!("{last}: who is on no channel is on the last one"));
                Lookup::Yes(Incoming { channel: last, is_listed: false })
            }
            _ => {
                tell(format_args!("client {peer} is on no channel"));
                Lookup::No
            }
        })
    }

    /// The channel by which mail for a domain leaves.
    pub fn outgoing(&self, domain: &[u8]) -> Lookup<&Channel> {
        self.outgoing_traced(domain, &mut |_| {})
    }

    /// The same, telling each step.
    pub fn outgoing_traced(&self, domain: &[u8], tell: &mut dyn FnMut(Arguments<'_>)) -> Lookup<&Channel> {
        for channel in &self.0 {
            let (matches, domain) = (channel.domains.matches_domain(domain), String::from_utf8_lossy(domain));
            if matches {
                tell(format_args!("{channel}: domain {domain} is on it"));
                return Lookup::Yes(channel);
            }
            tell(format_args!("{channel}: domain {domain} is not on it"));
        }
        Lookup::No
    }

    /// Whether mail that came in on channel `from` (by name; `authenticated` and unknown names included) may leave by `to`.
    pub fn may_go(&self, from: &str, to: &Channel) -> bool {
        match self.by_name(from) {
            Some(channel) => channel.may_go_to(to),
            None => from == AUTHENTICATED,
        }
    }

    /// The channel of that name, if there is one.
    pub fn by_name(&self, name: &str) -> Option<&Channel> {
        self.0.iter().find(|channel| channel.name == name)
    }

    /// All of them, or those of these names, each of which there must be.
    fn searched(&self, only: &[String]) -> Result<impl Iterator<Item = &Channel>, Error> {
        let is_searched = |channel: &&Channel| channel.name != AUTHENTICATED;
        if let Some(name) = only.iter().find(|name| self.by_name(name).filter(is_searched).is_none()) {
            let problem = format!("expected the name of a channel instead of {}", shown(name));
            return Err(Error { origin: Origin::Arguments, problem });
        }
        let all = self.0.iter().filter(move |channel| only.is_empty() && is_searched(channel));
        Ok(all.chain(only.iter().filter_map(|name| self.by_name(name))))
    }

    /// Which channel anybody in the world may be on, and one by which mail from it for any domain leaves this machine. For
    /// domains that somebody chose, mail goes on as from a backup host, or to the server with their mailboxes.
    ///
    /// Who matches no line is on the last one as well, and his mail stays here.
    pub fn open_relays(&self) -> Vec<(&Channel, &Channel)> {
        let is_open = |channel: &Channel| channel.name != AUTHENTICATED && channel.clients.is_open();
        let mut found = Vec::new();
        // Nobody gets past a line that takes everybody.
        let end = self.0.iter().position(|channel| channel.name != AUTHENTICATED && channel.clients.takes_all());
        let reached = self.0.iter().take(end.map_or(usize::MAX, |end| end + 1));
        for from in reached.filter(|channel| is_open(channel)) {
            if let Some(to) = self.way_out(from) {
                found.push((from, to));
            }
        }
        found
    }

    /// By which channel mail that came in on this one leaves this machine for any domain, if it may.
    pub fn way_out(&self, from: &Channel) -> Option<&Channel> {
        self.0.iter().find(|to| from.may_go_to(to) && !to.ends_here() && to.domains.is_open())
    }
}

/// Its name, and where it was read.
impl std::fmt::Display for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.origin {
            Origin::Default => write!(f, "channel {} (built in)", self.name),
            origin => write!(f, "channel {} ({origin})", self.name),
        }
    }
}

impl Channel {
    /// Whether mail that leaves by it stays on this machine.
    pub fn is_local(&self) -> bool {
        match &self.transport {
            Transport::Mailbox | Transport::None => true,
            Transport::Smtp(_) => false,
            Transport::Other(name, _) => matches!(name.as_str(), "maildir" | "mbox" | "mmdf" | "discard" | "error"),
        }
    }

    /// Whether it hands mail to nobody but programs and servers of this machine, which see to it from there.
    pub fn ends_here(&self) -> bool {
        let is_here = |name: &str, place: &str| name == "pipe" || name == "lmtp" && place.starts_with("unix:");
        self.is_local() || matches!(&self.transport, Transport::Other(name, place) if is_here(name, place))
    }

    fn may_go_to(&self, to: &Channel) -> bool {
        match &self.may_go {
            MayGo::Anywhere => true,
            MayGo::To(names) => names.contains(&to.name),
        }
    }
}

#[cfg(test)]
mod tests;
