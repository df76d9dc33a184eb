//! What a client gave to show who it is, and whether that fits a password.

use super::prepare::{Prepared, prepare};
use crate::wire::secret::Secret;
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// A name and the proof that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub name: Vec<u8>,
    /// What shows that the client knows the password.
    pub proof: Proof,
}

/// What shows that the client knows the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// The password itself.
    Password(Secret),
    /// MD5 of stamp and password (RFC 1939 section 7).
    Apop {
        /// As it was in the greeting, with its brackets.
        stamp: Vec<u8>,
        /// What the client made of it.
        digest: [u8; 16],
    },
    /// HMAC-MD5 over the challenge (RFC 2195).
    CramMd5 {
        /// As it was sent.
        challenge: Vec<u8>,
        /// What the client made of it.
        digest: [u8; 16],
    },
    /// RFC 5802, RFC 7677.
    ScramSha256 {
        /// That of this exchange.
        salt: [u8; 16],
        /// Everything that both have said.
        auth_message: Vec<u8>,
        /// ClientProof.
        proof: [u8; 32],
    },
    /// Whatever it was, the client wants to act for another user by it (RFC 4422 section 3.4.1), which nobody may here.
    ForAnother,
}

/// Rounds of PBKDF2 for SCRAM; RFC 7677 section 4 asks for 4096 at least. Paid at each login, for only the password is
/// stored.
pub const ITERATIONS: u32 = 4096;

impl Proof {
    /// Whether it fits the password, and what the server says to show that it, too, knows it (SCRAM; else nothing).
    /// Takes as long for a wrong one. For SCRAM the password is prepared, as clients do it; for the others, of which nothing of
    /// the kind is said, it is taken as it is. A proof that is the password itself is for `users::scheme` to check.
    pub fn fits(&self, password: &[u8]) -> Option<Vec<u8>> {
        match self {
            Proof::ForAnother => None,
            Proof::Password(given) => bool::from(given.0.ct_eq(password)).then(Vec::new),
            Proof::Apop { stamp, digest } => {
                let own = Md5::new().chain_update(stamp).chain_update(password).finalize();
                bool::from(own.as_slice().ct_eq(digest)).then(Vec::new)
            }
            Proof::CramMd5 { challenge, digest } => {
                let mut mac = Hmac::<Md5>::new_from_slice(password).ok()?;
                mac.update(challenge);
                bool::from(mac.finalize().into_bytes().as_slice().ct_eq(digest)).then(Vec::new)
            }
            Proof::ScramSha256 { salt, auth_message, proof } => match prepare(password) {
                Prepared::Changed(prepared) => scram(&prepared.0, salt, auth_message, proof),
                Prepared::AsItIs => scram(password, salt, auth_message, proof),
                // In the same time.
                Prepared::Never => std::hint::black_box(scram(password, salt, auth_message, proof)).and(None),
            },
        }
    }
}

/// RFC 5802 section 3.
fn scram(password: &[u8], salt: &[u8], auth_message: &[u8], proof: &[u8; 32]) -> Option<Vec<u8>> {
    let mut salted = [0; 32];
    pbkdf2::pbkdf2::<Hmac<Sha256>>(password, salt, ITERATIONS, &mut salted).ok()?;
    let client_key = hmac_sha256(&salted, b"Client Key")?;
    let stored_key = Sha256::digest(client_key);
    let mut key = hmac_sha256(&stored_key, auth_message)?;
    key.iter_mut().zip(proof).for_each(|(octet, other)| *octet ^= other);
    let fits = Sha256::digest(key).as_slice().ct_eq(stored_key.as_slice());
    let signature = hmac_sha256(&hmac_sha256(&salted, b"Server Key")?, auth_message)?;
    bool::from(fits).then(|| format!("v={}", super::encode(&signature)).into_bytes())
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> Option<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(text);
    Some(mac.finalize().into_bytes().into())
}

/// Digits in lower case, as RFC 1939 and RFC 2195 have them.
pub fn hexadecimal(digits: &[u8]) -> Option<[u8; 16]> {
    let mut octets = [0; 16];
    if digits.len() != 32 {
        return None;
    }
    for (octet, pair) in octets.iter_mut().zip(digits.chunks(2)) {
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            *octet = (*octet << 4) | value;
        }
    }
    Some(octets)
}
