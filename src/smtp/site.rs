//! What the server asks of its surroundings besides submit: who the client is, and what is here.

use crate::channel::{Channels, Transport};
use crate::exit::Error;
use crate::lookup::Lookup;
use crate::message::path::Address;
use crate::net::peer::{Origin, Peer};

/// The surroundings of a server; tests have their own.
pub trait Site {
    /// The name of the channel the client's mail comes in on. Asked before the greeting if the server is finicky, else
    /// at the first MAIL or VRFY, for it may take a look-up of the client's name.
    fn channel(&self) -> Lookup<String>;
    /// The client's confirmed name, if that has been looked up, and its address.
    fn client(&self) -> (Option<String>, String);
    /// The address with its domain, if mail for it stays here.
    fn here(&self, address: &Address) -> Option<Address>;
}

/// The real ones.
#[derive(Debug)]
pub struct Here<'a> {
    channels: &'a Channels,
    peer: &'a Peer,
    only: &'a [String],
    finicky: bool,
    myhostname: &'a str,
}

impl<'a> Here<'a> {
    /// `only` are the channels to look the client up in (empty: all); a name that no channel has is an error.
    pub fn new(
        channels: &'a Channels,
        peer: &'a Peer,
        only: &'a [String],
        finicky: bool,
        myhostname: &'a str,
    ) -> Result<Here<'a>, Error> {
        // A client without an address needs no look-up, so this does nothing but read the names.
        channels.incoming(&Peer::new(Origin::Stdin), only, true)?;
        Ok(Here { channels, peer, only, finicky, myhostname })
    }
}

impl Site for Here<'_> {
    fn channel(&self) -> Lookup<String> {
        match self.channels.incoming(self.peer, self.only, self.finicky) {
            Ok(found) => found.map(|channel| channel.name.clone()),
            Err(error) => Lookup::CannotTell(error.to_string()),
        }
    }

    fn client(&self) -> (Option<String>, String) {
        let name = match self.peer.looked_up.get() {
            Some(Lookup::Yes(name)) => Some(name.clone()),
            Some(Lookup::No | Lookup::CannotTell(_)) | None => None,
        };
        (name, self.peer.to_string())
    }

    fn here(&self, address: &Address) -> Option<Address> {
        let address = address.or_at(self.myhostname);
        match self.channels.outgoing(address.domain()?) {
            Lookup::Yes(channel) if channel.transport == Transport::Mailbox => Some(address),
            Lookup::Yes(_) | Lookup::No | Lookup::CannotTell(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_built_in_channels_know_loopback_and_myhostname() {
        let config = Config::with(&[("myhostname", "mx.example"), ("channels", "/nonexistent")]);
        let channels = Channels::load(&config).unwrap();
        let channel_of = |address: &str, only: &[&str], finicky| {
            let peer = Peer::new(Origin::Address(address.parse().unwrap()));
            Here::new(&channels, &peer, &names(only), finicky, "mx.example").unwrap().channel()
        };
        assert_eq!(channel_of("127.0.0.1", &[], false), Lookup::Yes("local".to_owned()));
        assert_eq!(channel_of("192.0.2.1", &[], false), Lookup::Yes("smtp".to_owned()));
        assert_eq!(channel_of("192.0.2.1", &["local"], false), Lookup::Yes("local".to_owned()), "the last one");
        assert_eq!(channel_of("192.0.2.1", &["local"], true), Lookup::No);
        let peer = Peer::new(Origin::Stdin);
        let here = Here::new(&channels, &peer, &[], false, "mx.example").unwrap();
        let found = |text: &str| here.here(&Address::from_internal(text.as_bytes()).unwrap()).map(|a| a.to_string());
        assert_eq!(found("bob").as_deref(), Some("bob@mx.example"));
        assert_eq!(found("bob@MX.example").as_deref(), Some("bob@MX.example"));
        assert_eq!(found("bob@far.example"), None);
        assert_eq!(here.client(), (None, "stdin".to_owned()));
    }

    #[test]
    fn an_unknown_channel_is_a_configuration_error() {
        let channels = Channels::load(&Config::with(&[("channels", "/nonexistent")])).unwrap();
        let peer = Peer::new(Origin::Stdin);
        assert!(matches!(Here::new(&channels, &peer, &names(&["local,"]), false, "mx"), Err(Error::Config(_))));
    }
}
