//! main.cf and the channels file.

use doorpost::channel::Channels;
use doorpost::config::main_cf::{self, Definition};
use doorpost::config::{Config, Error, Origin};
use doorpost::lookup::Lookup;
use doorpost::net::peer::{Origin as From, Peer};
use std::path::Path;
use std::sync::OnceLock;

/// The files that tables and patterns may name are no part of the input.
fn names_a_file(input: &[u8]) -> bool {
    input.contains(&b'/') && !input.windows(2).all(|two| two[0] != b'/' || two[1].is_ascii_digit())
}

fn is_shown(error: &Error) {
    let text = error.to_string();
    assert!(text.len() < 4000, "an error of {} octets", text.len());
    assert!(!text.contains('\n'), "an error of two lines: {text:?}");
}

/// What is parsed and written is parsed the same; every definition expands or says where it is wrong; a configuration
/// that is taken is taken again from its own values.
pub fn main_cf(input: &[u8]) {
    let path = Path::new("main.cf");
    let parsed = match main_cf::parse(input, path) {
        Ok(parsed) => parsed,
        Err(error) => return is_shown(&error),
    };
    parsed.warnings.iter().for_each(is_shown);
    let text = |definition: &Definition| format!("{} = {}\n", definition.name, definition.raw);
    let written: String = parsed.definitions.iter().map(text).collect();
    let again = main_cf::parse(written.as_bytes(), path).expect("what was written");
    let plain = |definitions: &[Definition]| -> Vec<(String, String)> {
        definitions.iter().map(|definition| (definition.name.clone(), definition.raw.clone())).collect()
    };
    // A name that begins a comment cannot be set, and so cannot have been found.
    assert_eq!(plain(&parsed.definitions), plain(&again.definitions), "{written:?}");
    if names_a_file(input) {
        return;
    }
    let (config, warnings) = match Config::from_definitions(parsed.definitions) {
        Ok(made) => made,
        Err(error) => return is_shown(&error),
    };
    warnings.iter().for_each(is_shown);
    let literal = |setting: &doorpost::config::parameters::Setting| Definition {
        name: setting.name.to_owned(),
        raw: setting.expanded.replace('$', "$$"),
        origin: Origin::Option,
    };
    let definitions = config.settings.iter().map(literal).collect();
    let (again, _) = Config::from_definitions(definitions).expect("its own values");
    let values = |config: &Config| -> Vec<String> { config.settings.iter().map(|s| s.expanded.to_string()).collect() };
    assert_eq!(values(&config), values(&again));
}

/// A table that is taken answers every question, the same with comments and empty lines in it.
pub fn channels(input: &[u8]) {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    let config = CONFIG.get_or_init(|| Config::with(&[("myhostname", "mx.example"), ("channels", "/nonexistent")]));
    if names_a_file(input) {
        return;
    }
    let channels = match Channels::parse(input, config) {
        Ok(channels) => channels,
        Err(error) => return is_shown(&error),
    };
    let commented = [b"# first\n\n", input, b"\n# last\n"].concat();
    let again = Channels::parse(&commented, config).expect("comments change nothing");
    let answers = |channels: &Channels| -> Vec<String> {
        let peer = |origin, name: Lookup<String>| {
            let peer = Peer::new(origin);
            let _ = peer.looked_up.set(name);
            peer
        };
        let address = |text: &str| From::Address(text.parse().expect("an address"));
        let peers = [
            peer(From::Stdin, Lookup::No),
            peer(From::Unknown, Lookup::No),
            peer(address("127.0.0.1"), Lookup::Yes("localhost".to_owned())),
            peer(address("192.0.2.1"), Lookup::Yes("client.example".to_owned())),
            peer(address("2001:db8::1"), Lookup::CannotTell("as ordered".to_owned())),
        ];
        let mut answers = Vec::new();
        for peer in &peers {
            for finicky in [false, true] {
                let found = channels.incoming(peer, &[], finicky).expect("no names were asked for");
                answers.push(format!("{:?}", found.map(|found| (found.channel.name.clone(), found.is_listed))));
            }
        }
        for domain in [&b"mx.example"[..], b"example.net", b"[192.0.2.1]", b"", b"\xff.\x00"] {
            let found = channels.outgoing(domain);
            for from in channels.0.iter().map(|channel| channel.name.as_str()).chain(["authenticated", "none"]) {
                let may = found.clone().map(|channel| (channel.name.clone(), channels.may_go(from, channel)));
                answers.push(format!("{from} {may:?}"));
            }
        }
        answers
    };
    assert_eq!(answers(&channels), answers(&again));
    for channel in &channels.0 {
        assert_eq!(channels.by_name(&channel.name).map(|found| &found.name), Some(&channel.name));
    }
}
