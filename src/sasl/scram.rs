//! The messages of SCRAM (RFC 5802 section 7), read strictly. No channel binding: `n` and `y` are taken, `p` is not.
//!
//! The salt is new in each exchange, because passwords are stored in clear: so a name that nobody has gets one like any
//! other. Names are prepared (RFC 4013) when they are read, passwords where a proof is made of them.

use super::credentials::{Credentials, ITERATIONS, Proof};
use super::{Malformed, decode, encode, name_of};

/// An exchange after the client's first message.
#[derive(Debug)]
pub struct First {
    name: Vec<u8>,
    /// The client wants to act for another user.
    is_for_another: bool,
    gs2_header: Vec<u8>,
    nonce: String,
    salt: [u8; 16],
    /// `client-first-message-bare "," server-first-message`.
    said: Vec<u8>,
}

impl First {
    /// Reads client-first-message; gives the server's first message. `nonce` is ours, of 24 characters at least.
    pub fn read(message: &[u8], nonce: &str) -> Result<(First, Vec<u8>), Malformed> {
        let mut parts = message.splitn(3, |octet| *octet == b',');
        let (binding, authorize, bare) = (part(parts.next())?, part(parts.next())?, part(parts.next())?);
        if binding != b"n" && binding != b"y" {
            return Err(Malformed);
        }
        let mut attributes = bare.split(|octet| *octet == b',');
        let escaped = value(attributes.next(), b"n=")?;
        let name = name_of(&unescape(escaped)?)?;
        // Extensions may follow; `m=` at the front is one that must be understood, and none is.
        let theirs = value(attributes.next(), b"r=")?;
        let is_for_another = !authorize.is_empty() && name_of(&unescape(value(Some(authorize), b"a=")?)?)? != name;
        if theirs.is_empty() || theirs.len() > 256 || !theirs.iter().all(|octet| matches!(octet, b'!'..=b'~')) {
            return Err(Malformed);
        }
        let nonce = format!("{}{nonce}", String::from_utf8_lossy(theirs));
        let salt = salt(&nonce);
        let challenge = format!("r={nonce},s={},i={ITERATIONS}", encode(&salt)).into_bytes();
        let header = message.len().saturating_sub(bare.len());
        let gs2_header = message.get(..header).unwrap_or_default().to_vec();
        let said = [bare, b",", &challenge].concat();
        Ok((First { name, is_for_another, gs2_header, nonce, salt, said }, challenge))
    }

    /// Reads client-final-message.
    pub fn finish(self, message: &[u8]) -> Result<Credentials, Malformed> {
        let comma = message.iter().rposition(|octet| *octet == b',').ok_or(Malformed)?;
        let (without_proof, proof) = (part(message.get(..comma))?, value(message.get(comma + 1..), b"p=")?);
        let mut attributes = without_proof.split(|octet| *octet == b',');
        let binding = decode(value(attributes.next(), b"c=")?)?;
        let nonce = value(attributes.next(), b"r=")?;
        let proof: [u8; 32] = decode(proof)?.0.as_slice().try_into().map_err(|_| Malformed)?;
        if binding.0 != self.gs2_header || nonce != self.nonce.as_bytes() {
            return Err(Malformed);
        }
        if self.is_for_another {
            return Ok(Credentials { name: self.name, proof: Proof::ForAnother });
        }
        let auth_message = [&self.said, b",".as_slice(), without_proof].concat();
        Ok(Credentials { name: self.name, proof: Proof::ScramSha256 { salt: self.salt, auth_message, proof } })
    }
}

/// Out of the nonce, which is never the same, so that no second source of chance is needed.
fn salt(nonce: &str) -> [u8; 16] {
    use md5::{Digest, Md5};
    Md5::digest(nonce.as_bytes()).into()
}

fn part(octets: Option<&[u8]>) -> Result<&[u8], Malformed> {
    octets.ok_or(Malformed)
}

fn value<'a>(attribute: Option<&'a [u8]>, name: &[u8]) -> Result<&'a [u8], Malformed> {
    attribute.and_then(|attribute| attribute.strip_prefix(name)).ok_or(Malformed)
}

/// A saslname: `=2C` is a comma and `=3D` an equals sign, and no other use of that sign is right.
fn unescape(name: &[u8]) -> Result<Vec<u8>, Malformed> {
    let (mut out, mut rest) = (Vec::new(), name);
    while let Some((octet, behind)) = rest.split_first() {
        rest = behind;
        if *octet != b'=' {
            out.push(*octet);
        } else if let Some(behind) = rest.strip_prefix(b"2C") {
            out.push(b',');
            rest = behind;
        } else {
            rest = rest.strip_prefix(b"3D").ok_or(Malformed)?;
            out.push(b'=');
        }
    }
    if out.is_empty() { Err(Malformed) } else { Ok(out) }
}
