//! Netstrings, the frames between servers and submit, and names of Maildir files.

use super::qmqp::netstring;
use super::wire::Chance;
use doorpost::mailbox::maildir::name;
use doorpost::submit::frames::{FrameReader, LONGEST_FRAME, Reply, Request};
use doorpost::wire::netstring::{LengthReader, put};

/// A length is read exactly where a plain reader finds one, within the limit; what is written is read.
pub fn netstrings(input: &[u8]) {
    const LIMIT: u64 = 1 << 40;
    let mut reader = LengthReader::new(LIMIT);
    let mut read = None;
    for (at, octet) in input.iter().enumerate() {
        match reader.push(*octet) {
            Ok(None) => {}
            Ok(Some(length)) => {
                read = Some((length, at));
                break;
            }
            Err(_) => break,
        }
    }
    let digits = input.split(|octet| *octet == b':').next().and_then(|digits| std::str::from_utf8(digits).ok());
    let plain = digits.filter(|digits| digits.len() < input.len()).and_then(|digits| {
        let value: u64 = digits.parse().ok().filter(|value: &u64| value.to_string() == digits && *value <= LIMIT)?;
        Some((value, digits.len()))
    });
    assert_eq!(read, plain, "{}", input.escape_ascii());
    let mut written = Vec::new();
    put(&mut written, input);
    assert_eq!(netstring(&written), Some((input, &b""[..])));
}

/// Payloads of whole frames, and whether all of the input was well-formed so far.
fn payloads(input: &[u8], mut pieces: Option<Chance>) -> (Vec<Vec<u8>>, bool) {
    let (mut reader, mut found, mut rest) = (FrameReader::default(), Vec::new(), input);
    while !rest.is_empty() {
        let piece = pieces.as_mut().map_or(rest.len(), |pieces| pieces.piece(rest.len()));
        let (mut now, later) = rest.split_at(piece);
        while !now.is_empty() {
            match reader.push(now) {
                Ok((taken, payload)) => {
                    assert!(taken > 0, "nothing was taken");
                    assert!(payload.is_some() || taken == now.len(), "octets left without a frame");
                    found.extend(payload.map(<[u8]>::to_vec));
                    now = &now[taken..];
                }
                Err(_) => return (found, false),
            }
        }
        rest = later;
    }
    (found, true)
}

/// Frames are found as a plain reader finds them, however the octets come; what a payload means writes the same
/// payload again.
pub fn submit_frames(input: &[u8]) {
    let (found, good) = payloads(input, None);
    for way in 1..3 {
        assert_eq!((found.clone(), good), payloads(input, Some(Chance::of(input, way))));
    }
    let (mut rest, mut plain) = (input, Vec::new());
    while let Some((payload, behind)) = netstring(rest).filter(|(payload, _)| payload.len() <= LONGEST_FRAME) {
        plain.push(payload.to_vec());
        rest = behind;
    }
    assert_eq!(found, plain);
    for payload in found.iter().map(Vec::as_slice).chain([input]) {
        let mut written = Vec::new();
        if let Ok(request) = Request::decode(payload) {
            request.put(&mut written);
            assert_eq!(netstring(&written).map(|(again, _)| Request::decode(again)), Some(Ok(request)));
        }
        if let Ok(reply) = Reply::decode(payload) {
            written.clear();
            reply.put(&mut written);
            assert_eq!(netstring(&written), Some((payload, &b""[..])));
        }
    }
}

/// Whatever stands in new/ or cur/ has a unique-id that POP3 allows, the same whatever the flags are; sizes that are
/// written are read.
pub fn maildir_names(input: &[u8]) {
    let allowed = |id: &str| (1..=70).contains(&id.len()) && id.bytes().all(|octet| (0x21..=0x7e).contains(&octet));
    let flagged = [name::lasting(input), b":2,FS"].concat();
    assert_eq!(name::unique_id(input), name::unique_id(&flagged));
    if let Some(id) = name::unique_id(input) {
        assert!(allowed(id) && !id.starts_with(':'), "{id}");
    }
    let ordinal = 1 + input.len() % 5;
    let hashed = name::hashed_unique_id(input, ordinal);
    assert!(allowed(&hashed) && hashed.starts_with(':'), "{hashed}");
    assert_eq!(hashed, name::hashed_unique_id(&flagged, ordinal));
    assert!(name::lasting(input).starts_with(name::base(input)));
    assert_eq!(name::sizes(input), name::sizes(&flagged));
    if let Some((octets, virtual_octets)) = name::sizes(input) {
        assert!(octets <= virtual_octets && virtual_octets / 2 <= octets, "{octets} {virtual_octets}");
    }
    let (_, rest) = name::order(input);
    assert!(input.ends_with(rest));
    let Ok(text) = std::str::from_utf8(input) else { return };
    if name::is_base(text) {
        assert!(!text.contains(['/', ':', ',', '\0', '\n']) && text != "." && text != "..", "{text}");
        let octets = input.iter().fold(0_u64, |value, octet| (value << 5) ^ u64::from(*octet)) >> 14;
        let virtual_octets = octets.saturating_add(input.len() as u64).min(octets.saturating_mul(2));
        let written = name::with_sizes(text, octets, Some(virtual_octets));
        assert_eq!(name::sizes(written.as_bytes()), Some((octets, virtual_octets)), "{written}");
        assert_eq!(name::base(written.as_bytes()), input);
    }
}
