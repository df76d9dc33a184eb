//! Which clients a list of patterns (`config::pattern`) means.

use super::peer::{Origin, Peer};
use crate::config::pattern::{Matches, Pattern, PatternList};
use crate::config::table::Table;
use crate::lookup::Lookup;

impl PatternList {
    /// Whether a client is meant. Its name is looked up only when a pattern of names is reached.
    ///
    /// A pattern of which nobody can tell whether it matches matters only where it would say something else than the first
    /// after it that does match: who is listed by address too is not shut out by a name server that is silent.
    pub fn matches_peer(&self, peer: &Peer) -> Lookup<()> {
        let mut unclear: Option<(String, bool)> = None;
        for pattern in &self.0 {
            match (pattern.matches_peer(peer), unclear.take()) {
                (Lookup::No, before) => unclear = before,
                (Lookup::Yes(()) | Lookup::CannotTell(_), Some((why, negated))) if negated != pattern.negated => {
                    return Lookup::CannotTell(why);
                }
                (Lookup::Yes(()), _) => return if pattern.negated { Lookup::No } else { Lookup::Yes(()) },
                (Lookup::CannotTell(why), before) => unclear = before.or(Some((why, pattern.negated))),
            }
        }
        // Nobody is listed by what only excludes.
        match unclear {
            Some((why, false)) => Lookup::CannotTell(why),
            Some((_, true)) | None => Lookup::No,
        }
    }
}

impl Pattern {
    /// Whether it matches a client, `!` or not.
    fn matches_peer(&self, peer: &Peer) -> Lookup<()> {
        let matches = match (&self.matches, peer.origin) {
            (Matches::All, Origin::Address(_) | Origin::Named) => true,
            (Matches::Stdin, Origin::Stdin) | (Matches::Unknown, Origin::Unknown) => true,
            (Matches::Net(net), Origin::Address(address)) => net.contains(&address),
            (Matches::Name(_) | Matches::Below(_) | Matches::Within(_), Origin::Address(_) | Origin::Named) => {
                match name_of(peer) {
                    Lookup::Yes(name) => self.matches_name(name.as_bytes()),
                    Lookup::No => false,
                    Lookup::CannotTell(why) => return Lookup::CannotTell(why),
                }
            }
            (Matches::Table(table, parents), Origin::Address(_) | Origin::Named) => {
                return in_table(table, *parents, peer);
            }
            (Matches::All | Matches::Stdin | Matches::Unknown, _) => false,
            (Matches::Name(_) | Matches::Below(_) | Matches::Within(_) | Matches::Net(_) | Matches::Table(..), _) => {
                false
            }
        };
        if matches { Lookup::Yes(()) } else { Lookup::No }
    }
}

/// The client's name; that of loopback addresses is not looked up, for everybody knows it.
fn name_of(peer: &Peer) -> Lookup<String> {
    match peer.origin {
        Origin::Address(address) if address.is_loopback() => Lookup::Yes("localhost".to_owned()),
        _ => peer.name(),
    }
}

/// By its address; only if that is not in it, by its name.
fn in_table(table: &Table, parents: bool, peer: &Peer) -> Lookup<()> {
    if let Origin::Address(address) = peer.origin {
        match table.has_address(address) {
            Lookup::No => {}
            answer => return answer,
        }
    }
    if matches!(table, Table::Cidr(_)) {
        return Lookup::No;
    }
    name_of(peer).and_then(|name| table.has_name(&name.to_ascii_lowercase(), parents))
}

#[cfg(test)]
mod tests;
