//! What must come of APOP and of each exchange of SASL, said a second time and by comparison with constants: the nonce
//! is always the same, so there is one right answer to each challenge.

use doorpost::sasl::{decode, decode_initial, encode};

/// Longest command; responses may be longer.
pub const LONGEST_COMMAND: usize = 253;
const LONGEST_RESPONSE_LINE: usize = 12_286;
const LONGEST_RESPONSE: usize = 2048;
const LONGEST_FIELD: usize = 1000;

/// In every challenge.
pub const NONCE: &str = "0123456789abcdef01234567";
/// In the greeting, and the challenge of CRAM-MD5.
pub const STAMP: &str = "<0123456789abcdef01234567@mx.example>";
/// MD5 of stamp and password.
const APOP_DIGEST: &[u8] = b"bb1b65f8f3cfd2de578828707e1c18b3";
const CRAM_RESPONSE: &[u8] = b"alice 396edd74b6b1baf11f28415911383b23";
const SCRAM_FIRST: &[u8] = b"n,,n=alice,r=fyko+d2lbbFgONRv9qkxdawL";
const SCRAM_CHALLENGE: &str = "r=fyko+d2lbbFgONRv9qkxdawL0123456789abcdef01234567,s=wWK1cts6RtWJfxdi+UfUkw==,i=4096";
const SCRAM_WITHOUT_PROOF: &str = "c=biws,r=fyko+d2lbbFgONRv9qkxdawL0123456789abcdef01234567";
/// The proof that fits, in base64.
pub const SCRAM_PROOF: &str = "o0C3k7rh9HXsektkGPOmEnjFvOiwZdmEN4zmNVgt3DM=";
/// The line behind it, in base64: `v=sI1sqDo59+5INWLSIPeLyxpkWXVZTOCTFs0Lj0Re6MM=`.
pub const SCRAM_LAST: &str = "dj1zSTFzcURvNTkrNUlOV0xTSVBlTHl4cGtXWFZaVE9DVEZzMExqMFJlNk1NPQ==";

/// The names, in their order.
pub fn mechanisms(secrets: bool) -> &'static [&'static str] {
    const ALL: [&str; 4] = ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"];
    if secrets { &ALL } else { &ALL[2..] }
}

/// Whether a line that is no longer than it may be logs alice in.
pub fn is_right_apop(line: &[u8]) -> bool {
    let name = line.get(5..).unwrap_or_default().trim_ascii().strip_suffix(APOP_DIGEST);
    let name = name.and_then(|text| text.strip_suffix(b" ")).unwrap_or_default();
    line.len() <= LONGEST_COMMAND && name.trim_ascii() == b"alice"
}

/// What must be said now.
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    /// A challenge: the octets, in base64.
    Prompt(String),
    /// That the client is in.
    In,
    /// Anything that begins with `-ERR`.
    Refused,
    /// A challenge or a refusal.
    Any,
}

/// An exchange, and what the client has said in it; nothing where that is no base64, and for `*`.
pub struct Exchange {
    mechanism: &'static str,
    has_initial: bool,
    said: Vec<Option<Vec<u8>>>,
    is_cancelled: bool,
}

impl Exchange {
    /// One that AUTH begins, if it does.
    pub fn begin(words: &[&[u8]], secrets: bool) -> Option<Exchange> {
        let (name, initial) = match words {
            [_, name] => (name, None),
            [_, name, initial] => (name, Some(initial)),
            _ => return None,
        };
        let known = mechanisms(secrets).iter().find(|known| name.eq_ignore_ascii_case(known.as_bytes()))?;
        let said = initial.map(|word| decode_initial(word).ok().map(|octets| octets.0.clone()));
        Some(Exchange {
            mechanism: known,
            has_initial: said.is_some(),
            said: said.into_iter().collect(),
            is_cancelled: false,
        })
    }

    /// Takes a line of the client.
    pub fn hear(&mut self, line: &[u8]) {
        let octets = decode(line).ok().filter(|_| line.len() <= LONGEST_RESPONSE_LINE);
        self.is_cancelled = line == b"*";
        self.said.push(octets.map(|octets| octets.0.clone()));
    }

    /// What must be said to all of that.
    pub fn expected(&self) -> Expected {
        let prompt = |octets: &[u8]| Expected::Prompt(encode(octets));
        let verdict = |right: bool| if right { Expected::In } else { Expected::Refused };
        // Behind its last words anything else will do.
        if self.mechanism == "SCRAM-SHA-256" && self.said.len() == 3 {
            return if self.is_cancelled { Expected::Refused } else { Expected::In };
        }
        let said: Option<Vec<&[u8]>> = self.said.iter().map(Option::as_deref).collect();
        let Some(said) = said.filter(|said| said.iter().all(|octets| octets.len() <= LONGEST_RESPONSE)) else {
            return Expected::Refused;
        };
        let is_field = |octets: &[u8]| octets.len() <= LONGEST_FIELD && !octets.contains(&0);
        match (self.mechanism, &said[..]) {
            ("PLAIN", []) => prompt(b""),
            ("PLAIN", [response]) => verdict(matches!(*response, b"\0alice\0secret" | b"alice\0alice\0secret")),
            ("LOGIN", []) => prompt(b"Username:"),
            ("LOGIN", [name]) if is_field(name) => prompt(b"Password:"),
            ("LOGIN", [name, password]) => verdict(*name == b"alice" && *password == b"secret"),
            ("CRAM-MD5", []) => prompt(STAMP.as_bytes()),
            // The server speaks first.
            ("CRAM-MD5", [response]) => verdict(*response == CRAM_RESPONSE && !self.has_initial),
            ("SCRAM-SHA-256", []) => prompt(b""),
            ("SCRAM-SHA-256", [first]) if *first == SCRAM_FIRST => prompt(SCRAM_CHALLENGE.as_bytes()),
            ("SCRAM-SHA-256", [_]) => Expected::Any,
            ("SCRAM-SHA-256", [first, last]) => {
                let right = format!("{SCRAM_WITHOUT_PROOF},p={SCRAM_PROOF}");
                let right = *first == SCRAM_FIRST && *last == right.as_bytes();
                if right { Expected::Prompt(SCRAM_LAST.to_owned()) } else { Expected::Refused }
            }
            _ => Expected::Refused,
        }
    }
}
