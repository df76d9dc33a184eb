//! Recipients of one message that go the same way together.

use crate::channel::Transport;
use crate::message::idna;
use crate::message::path::{Address, ReversePath};
use crate::message::verp;
use crate::queue::Message;
use std::borrow::Cow;
use std::collections::HashMap;

/// Recipients that one next hop takes in one transaction.
pub(super) struct Group {
    pub(super) transport: String,
    pub(super) hop: String,
    pub(super) domain: String,
    pub(super) sender: ReversePath,
    pub(super) to: Vec<(usize, Address)>,
}

impl Group {
    /// What names the next hop among all.
    pub(super) fn key(&self) -> String {
        format!("{}\n{}\n{}", self.transport, self.hop, self.domain)
    }

    /// Whether its hosts are those that the domain names, and none that the administrator has named.
    pub(super) fn is_by_domain(&self) -> bool {
        self.transport == "smtp" && self.hop.is_empty()
    }
}

/// What the recipients of a group have in common: transport, next hop, domain, sender.
type Way = (String, String, String, ReversePath);

#[derive(Default)]
pub(super) struct Groups {
    pub(super) list: Vec<Group>,
    /// Where each is in the list. With VERP there may be as many groups as recipients.
    places: HashMap<Way, usize>,
}

impl Groups {
    pub(super) fn add(&mut self, transport: &Transport, message: &Message, number: usize, address: Address) {
        let Some((transport, hop)) = hop_of(transport) else { return };
        let domain = address.domain().unwrap_or_default();
        // As DNS has it; what has no such form will not be found there.
        let domain = idna::to_ascii(domain).unwrap_or(Cow::Borrowed(domain));
        let domain = String::from_utf8_lossy(&domain).to_ascii_lowercase();
        let domain = if hop.is_empty() { domain } else { String::new() };
        self.put((transport, hop, domain), message, number, address);
    }

    pub(super) fn put(&mut self, way: (String, String, String), message: &Message, number: usize, address: Address) {
        self.join(way, verp::expand(&message.reverse_path, &address), number, address);
    }

    fn join(&mut self, way: (String, String, String), sender: ReversePath, number: usize, address: Address) {
        let (transport, hop, domain) = way;
        let way = (transport, hop, domain, sender);
        let group = self.places.get(&way).and_then(|place| self.list.get_mut(*place));
        if let Some(group) = group {
            group.to.push((number, address));
            return;
        }
        let (transport, hop, domain, sender) = way.clone();
        self.places.insert(way, self.list.len());
        self.list.push(Group { transport, hop, domain, sender, to: vec![(number, address)] });
    }
}

/// Transport and next hop of what goes through the network.
pub(super) fn hop_of(transport: &Transport) -> Option<(String, String)> {
    match transport {
        Transport::Smtp(hop) => Some(("smtp".to_owned(), hop.clone().unwrap_or_default())),
        Transport::Other(name, hop) if matches!(name.as_str(), "lmtp" | "qmqp" | "qmtp") => {
            Some((name.clone(), hop.clone()))
        }
        Transport::Other(..) | Transport::Mailbox | Transport::None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// A list's message may be for very many, whom one host has.
    #[test]
    fn recipients_that_have_a_sender_each_take_no_time_worth_naming() {
        let (mut groups, begun) = (Groups::default(), Instant::now());
        let way = || ("smtp".to_owned(), "relay.example".to_owned(), String::new());
        let address = |text: &str| Address::from_internal(text.as_bytes()).unwrap();
        for number in 0..50_000 {
            let sender = ReversePath(Some(address(&format!("list-user{number}=client.example@mx.example"))));
            groups.join(way(), sender, number, address(&format!("user{number}@client.example")));
        }
        groups.join(way(), groups.list[7].sender.clone(), 50_000, address("user7@client.example"));
        let numbers: Vec<usize> = groups.list[7].to.iter().map(|(number, _)| *number).collect();
        assert_eq!((groups.list.len(), numbers), (50_000, vec![7, 50_000]));
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
