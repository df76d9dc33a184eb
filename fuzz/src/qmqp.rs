//! A QMQP request, and a QMTP session.
//!
//! The first octet of the input sets the scene, the rest is what the client sends.

use super::store::{Queued, Store};
use super::wire::Wire;
use doorpost::channel::Channels;
use doorpost::config::Config;
use doorpost::net::peer::{Origin, Peer};
use doorpost::qmqp::{qmtp, server::serve};
use netstring::ReadNetstring;
use std::sync::OnceLock;

/// At most one reply comes back; `K` exactly when a message was queued; what was queued is what a plain reader finds in
/// the input; and the pieces in which it comes change nothing.
pub fn qmqp_request(input: &[u8]) {
    let Some((scene, input)) = input.split_first() else { return };
    let (output, queued) = request_with(*scene, input, 0);
    if output.is_empty() {
        assert!(queued.is_empty(), "queued and not answered");
    } else {
        let mut rest = &output[..];
        let reply = rest.read_netstring().expect("the reply is a netstring");
        let reply = reply.as_bytes();
        assert!(rest.is_empty(), "two replies: {}", output.escape_ascii());
        assert!(matches!(reply.first(), Some(b'K' | b'Z' | b'D')), "{}", output.escape_ascii());
        assert!(reply.iter().all(|octet| matches!(octet, b' '..=b'~')), "{}", output.escape_ascii());
        assert_eq!(reply[0] == b'K', queued.len() == 1, "{}", output.escape_ascii());
    }
    for message in &queued {
        let (content, reverse_path, recipients) = plain(input).expect("queued from a whole request");
        assert_eq!(message.content, content);
        assert_eq!(message.reverse_path, reverse_path);
        assert_eq!(message.recipients, recipients);
    }
    for way in 1..3 {
        assert_eq!((output.clone(), queued.clone()), request_with(*scene, input, way), "the pieces matter");
    }
}

fn request_with(scene: u8, input: &[u8], way: u64) -> (Vec<u8>, Vec<Queued>) {
    let (config, channels) = scene_of(scene);
    let peer = Peer::new(if scene & 4 == 0 { Origin::Stdin } else { Origin::Unknown });
    let (mut wire, mut store) = (Wire::new(input, way), Store::with_content_first());
    // Only trouble that was ordered comes back, and is answered too.
    let ended = serve(&mut wire, config, &peer, channels, Ok(&mut store));
    assert!(ended.is_ok() || wire.output.windows(2).any(|window| window == b":Z"), "trouble and no Z");
    (wire.output, store.queued)
}

fn scene_of(scene: u8) -> &'static (Config, Channels) {
    static CONFIGS: OnceLock<Vec<(Config, Channels)>> = OnceLock::new();
    let configs = CONFIGS.get_or_init(|| {
        let yes_no = |bit: bool| if bit { "yes" } else { "no" };
        (0..4_u8)
            .map(|scene| {
                let config = Config::with(&[
                    ("myhostname", "mx.example"),
                    ("channels", "/nonexistent"),
                    ("qmqpd_authorized_clients", "stdin"),
                    ("message_size_limit", if scene & 1 == 0 { "0" } else { "100" }),
                    ("soft_bounce", yes_no(scene & 2 == 0)),
                ]);
                let channels = Channels::load(&config).expect("the channels that are built in");
                (config, channels)
            })
            .collect()
    });
    &configs[usize::from(scene & 3)]
}

/// No more replies come back than whole packages have recipients, but for one of trouble; as many say `K` as the queued
/// messages have recipients; those are packages that a plain reader finds, in their order; and the pieces in which they
/// come change nothing.
pub fn qmtp_session(input: &[u8]) {
    let Some((scene, input)) = input.split_first() else { return };
    let (output, queued, trouble) = session_with(*scene, input, 0);
    let mut sent = packages(input);
    let asked: usize = sent.iter().map(|package| package.2.len()).sum();
    let (mut replies, mut kept, mut rest) = (0, 0, &output[..]);
    while !rest.is_empty() {
        let (reply, behind) = netstring(rest).expect("each reply is a netstring");
        assert!(matches!(reply.first(), Some(b'K' | b'Z' | b'D')), "{}", output.escape_ascii());
        assert!(reply.iter().all(|octet| matches!(octet, b' '..=b'~')), "{}", output.escape_ascii());
        (replies, kept, rest) = (replies + 1, kept + usize::from(reply[0] == b'K'), behind);
    }
    assert!(replies <= asked + usize::from(trouble), "{replies} replies for {asked} recipients");
    assert_eq!(kept, queued.iter().map(|message| message.recipients.len()).sum::<usize>());
    for message in &queued {
        let is_it = |package: &Package| {
            package.0 == message.content
                && package.1 == message.reverse_path
                && message.recipients.iter().all(|recipient| package.2.contains(recipient))
        };
        let at = sent.iter().position(is_it).expect("queued from a whole package, in order");
        sent.drain(..=at);
    }
    for way in 1..3 {
        assert_eq!((output.clone(), queued.clone(), trouble), session_with(*scene, input, way), "the pieces matter");
    }
}

fn session_with(scene: u8, input: &[u8], way: u64) -> (Vec<u8>, Vec<Queued>, bool) {
    let (config, channels) = scene_of(scene);
    let peer = Peer::new(if scene & 4 == 0 { Origin::Stdin } else { Origin::Unknown });
    let (mut wire, mut store) = (Wire::new(input, way), Store::with_content_first());
    let trouble = qmtp::serve(&mut wire, config, &peer, channels, Ok(&mut store)).is_err();
    (wire.output, store.queued, trouble)
}

/// Content with LF for line ends, reverse-path, recipients.
type Package<'a> = (Vec<u8>, &'a [u8], Vec<Vec<u8>>);

/// The whole packages at the beginning.
fn packages(input: &[u8]) -> Vec<Package<'_>> {
    let (mut packages, mut rest) = (Vec::new(), input);
    while let Some((content, behind)) = netstring(rest) {
        let Some((reverse_path, behind)) = netstring(behind) else { break };
        let Some((mut list, behind)) = netstring(behind) else { break };
        let mut recipients = Vec::new();
        while let Some((recipient, others)) = netstring(list) {
            recipients.push(recipient.to_vec());
            list = others;
        }
        let content = match content.split_first() {
            Some((b'\n', content)) => content.to_vec(),
            Some((b'\r', content)) => without_cr(content),
            _ => break,
        };
        packages.push((content, reverse_path, recipients));
        rest = behind;
    }
    packages
}

fn without_cr(content: &[u8]) -> Vec<u8> {
    let before_lf = |at: usize| content[at] == b'\r' && content.get(at + 1) == Some(&b'\n');
    (0..content.len()).filter(|at| !before_lf(*at)).map(|at| content[at]).collect()
}

/// Content, reverse-path, recipients.
type Parts<'a> = (&'a [u8], &'a [u8], Vec<Vec<u8>>);

/// The parts of a whole request.
fn plain(input: &[u8]) -> Option<Parts<'_>> {
    let (mut inside, _) = netstring(input)?;
    let mut parts = Vec::new();
    while !inside.is_empty() {
        let (part, rest) = netstring(inside)?;
        parts.push(part);
        inside = rest;
    }
    let [content, reverse_path, recipients @ ..] = &parts[..] else { return None };
    Some((content, reverse_path, recipients.iter().map(|recipient| recipient.to_vec()).collect()))
}

/// The first netstring, and what stands behind it.
pub fn netstring(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = input.iter().position(|octet| *octet == b':')?;
    let digits =
        std::str::from_utf8(&input[..colon]).ok().filter(|digits| digits.bytes().all(|d| d.is_ascii_digit()))?;
    let length: usize = digits.parse().ok().filter(|length: &usize| length.to_string() == digits)?;
    let (payload, rest) = input[colon + 1..].split_at_checked(length)?;
    Some((payload, rest.strip_prefix(b",")?))
}
