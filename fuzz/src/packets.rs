//! What the process that speaks with clients of POP3 says to root's, which may be anything once a client has taken it over.

use super::qmqp::netstring;
use doorpost::pop3::reuse::packet::{Packet, Said, read};
use doorpost::sasl::{Credentials, Proof};
use std::fs::File;
use std::os::fd::OwnedFd;

/// Longest frame of credentials.
const LONGEST_FRAME: usize = 8192;

/// What a plain reader finds: the kind, and what goes with it.
#[derive(Debug, PartialEq, Eq)]
enum Plain {
    Ready,
    Bereft(u8),
    Check { failures: u32, way: Way, fields: Vec<Vec<u8>> },
    Go(Way),
}

/// D or R, whether the client said UTF8, milliseconds, and what it sent.
type Way = (bool, bool, u128, Vec<u8>);

/// One octet says how many descriptors come along (0 to 3), the others are the packet. It is read exactly where a plain reader
/// finds one that has its descriptors, and as that reader does.
pub fn pop3_packets(input: &[u8]) {
    let Some((&scene, octets)) = input.split_first() else { return };
    let given = usize::from(scene % 4);
    let descriptors: Vec<OwnedFd> = (0..given).map(|_| File::open("/dev/null").expect("a file").into()).collect();
    let found = read(octets, descriptors).map(|packet| match packet {
        Packet::Gone => panic!("no octets mean that there are none"),
        Packet::Ready => Plain::Ready,
        Packet::Bereft(number) => Plain::Bereft(number),
        Packet::Check { credentials, failures, is_direct, said, client: _ } => {
            Plain::Check { failures, way: way_of(is_direct, said), fields: fields_of(credentials) }
        }
        Packet::Go { relayed, said } => Plain::Go(way_of(relayed.is_none(), said)),
    });
    assert_eq!(found, plain(octets).filter(|plain| needed(plain) == given), "{}", octets.escape_ascii());
}

fn way_of(is_direct: bool, said: Said) -> Way {
    (is_direct, said.utf8, said.left.as_millis(), said.input)
}

/// As they lie in a frame.
fn fields_of(credentials: Credentials) -> Vec<Vec<u8>> {
    let name = credentials.name;
    match credentials.proof {
        Proof::Password(password) => vec![b"PASSWORD".to_vec(), name, password.0.clone()],
        Proof::Apop { stamp, digest } => vec![b"APOP".to_vec(), name, stamp, digest.to_vec()],
        Proof::CramMd5 { challenge, digest } => vec![b"CRAM-MD5".to_vec(), name, challenge, digest.to_vec()],
        Proof::ScramSha256 { salt, auth_message, proof } => {
            vec![b"SCRAM-SHA-256".to_vec(), name, salt.to_vec(), auth_message, proof.to_vec()]
        }
        Proof::ForAnother => vec![b"ANOTHER".to_vec(), name],
    }
}

/// How many descriptors belong to it.
fn needed(plain: &Plain) -> usize {
    match plain {
        Plain::Ready | Plain::Bereft(_) | Plain::Go((true, ..)) => 0,
        Plain::Check { .. } | Plain::Go(_) => 1,
    }
}

fn plain(octets: &[u8]) -> Option<Plain> {
    match octets {
        b"?" => Some(Plain::Ready),
        [b'!', number] => Some(Plain::Bereft(*number)),
        [b'G', rest @ ..] => plain_way(rest).filter(|(_, rest)| rest.is_empty()).map(|(way, _)| Plain::Go(way)),
        [b'C', failures, rest @ ..] => {
            let (way, frame) = plain_way(rest)?;
            let (mut payload, behind) = netstring(frame).filter(|(payload, _)| payload.len() <= LONGEST_FRAME)?;
            let mut fields = Vec::new();
            while !payload.is_empty() {
                let (field, rest) = netstring(payload)?;
                fields.push(field.to_vec());
                payload = rest;
            }
            let lengths: Vec<usize> = fields.iter().map(Vec::len).collect();
            let fits = matches!(
                (fields.first()?.as_slice(), &lengths[1..]),
                (b"PASSWORD", [_, _]) | (b"APOP" | b"CRAM-MD5", [_, _, 16]) | (b"SCRAM-SHA-256", [_, 16, _, 32])
            );
            (fits && behind.is_empty()).then_some(Plain::Check { failures: (*failures).into(), way, fields })
        }
        _ => None,
    }
}

fn plain_way(octets: &[u8]) -> Option<(Way, &[u8])> {
    let [letter @ (b'D' | b'R' | b'd' | b'r'), a, b, c, d, low, high, rest @ ..] = octets else { return None };
    let left = [*d, *c, *b, *a].iter().fold(0_u128, |left, octet| left << 8 | u128::from(*octet));
    let (input, rest) = rest.split_at_checked(usize::from(*high) << 8 | usize::from(*low))?;
    Some(((matches!(letter, b'D' | b'd'), letter.is_ascii_lowercase(), left, input.to_vec()), rest))
}
