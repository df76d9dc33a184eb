//! Recipients of one message that go the same way together.

use crate::channel::Transport;
use crate::message::idna;
use crate::message::path::{Address, ReversePath};
use crate::message::verp;
use crate::queue::Message;
use std::borrow::Cow;

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
}

#[derive(Default)]
pub(super) struct Groups(pub(super) Vec<Group>);

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
        let (transport, hop, domain) = way;
        let sender = verp::expand(&message.reverse_path, &address);
        let same = |group: &&mut Group| {
            (&*group.transport, &*group.hop, &*group.domain, &group.sender) == (&*transport, &*hop, &*domain, &sender)
        };
        match self.0.iter_mut().find(same) {
            Some(group) => group.to.push((number, address)),
            None => self.0.push(Group { transport, hop, domain, sender, to: vec![(number, address)] }),
        }
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
