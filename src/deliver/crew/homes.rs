//! What new agents have found: the hosts of domains, and which of their addresses take no connection. Whom to believe
//! that is for `lending.rs` to say; here it is kept for a while, and so much of it.

use crate::relay::route;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Until when it is believed that nobody is there, and why.
pub type Silence = (Instant, String);

/// Longest time that a next hop or an address is remembered as not answering.
pub const SILENCE: Duration = Duration::from_secs(600);

/// Most addresses, and most next hops, that are remembered as not answering.
pub const MOST_SILENT: usize = 10_000;

/// So long the hosts of a domain are those that were found.
const HOME_KEPT: Duration = Duration::from_secs(60);

/// Of so many domains they are remembered.
const MOST_HOMES: usize = 10_000;

/// Hosts as text: see [`route::home`].
#[derive(Debug, Default)]
pub struct Homes {
    /// The hosts of domains that share their connections, and since when they are known.
    hosts: HashMap<String, (Instant, String)>,
    /// Addresses that take no connection.
    silent: HashMap<String, Silence>,
}

impl Homes {
    /// The hosts of what this key names; empty: not known.
    pub fn of(&self, key: &str) -> &str {
        let home = self.hosts.get(key).filter(|(since, _)| since.elapsed() < HOME_KEPT);
        home.map_or("", |(_, hosts)| hosts)
    }

    /// Remembers them, if there is room. Gives whether.
    pub fn settle(&mut self, key: &str, hosts: &str) -> bool {
        let has_room = self.hosts.len() < MOST_HOMES;
        if has_room {
            self.hosts.insert(key.to_owned(), (Instant::now(), hosts.to_owned()));
        }
        has_room
    }

    /// Remembers that an address takes no connection, if there is room.
    pub fn hush(&mut self, address: String, silence: Silence) {
        if self.silent.len() < MOST_SILENT {
            self.silent.insert(address, silence);
        }
    }

    /// Which addresses of these hosts take no connection, parted by blanks. Besides, if none of them does, why.
    pub fn silence(&self, hosts: &str) -> (String, Option<Silence>) {
        let now = Instant::now();
        let known = |address: &str| self.silent.get(address).filter(|(until, _)| *until > now);
        let silent: Vec<&str> = route::addresses(hosts).filter(|address| known(address).is_some()).collect();
        let first = silent.iter().filter_map(|address| Some((known(address)?, address))).min();
        let are_all = silent.len() == route::addresses(hosts).count();
        let why = first.filter(|_| are_all).map(|((until, why), address)| (*until, format!("{why} ({address})")));
        (silent.join(" "), why)
    }

    /// Forgets what is too old.
    pub fn tidy(&mut self) {
        self.hosts.retain(|_, (since, _)| since.elapsed() < HOME_KEPT);
        self.silent.retain(|_, (until, _)| *until > Instant::now());
    }

    /// Forgets the hosts of all domains.
    pub fn forget_hosts(&mut self) {
        self.hosts.clear();
    }

    /// Whether every address is thought to take connections.
    #[cfg(test)]
    pub fn has_no_silent(&self) -> bool {
        self.silent.is_empty()
    }
}
