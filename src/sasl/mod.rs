//! SASL mechanisms, the server's side (RFC 4422): PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195), SCRAM-SHA-256 (RFC 5802,
//! RFC 7677). No I/O, no clock, no look-ups: octets in, challenges out, and at the end [`Credentials`] to be checked by
//! whoever knows the passwords.
//!
//! The lines in which a protocol carries all this, and their base64, are read by [`decode`] and written by [`encode`].
//! Nonces come in as arguments.

pub mod credentials;
pub mod prepare;
pub mod scram;

use crate::wire::secret::Secret;
use base64::engine::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
pub use credentials::{Credentials, Proof};

/// Wrong passwords before a connection is closed.
pub const MOST_FAILURES: u32 = 3;
/// Longest line of an exchange with its CR LF (RFC 4954 section 4).
pub const LONGEST_LINE: usize = 12_288;
/// Longest response that any mechanism here has a use for, in octets.
const LONGEST_RESPONSE: usize = 2048;
/// Longest name, prepared or not, and longest password.
const LONGEST_FIELD: usize = 1000;

/// The mechanisms, strongest first: many clients take the first they know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 7677.
    ScramSha256,
    /// RFC 2195.
    CramMd5,
    /// RFC 4616.
    Plain,
    /// Name and password, asked for one by one; never a standard, and much used.
    Login,
}

/// The response does not follow the mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// What comes next in an exchange.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this, and wait for a response.
    Challenge(Vec<u8>),
    /// Check these, and tell the client.
    Check(Credentials),
}

impl Mechanism {
    /// All of them.
    pub const ALL: [Mechanism; 4] = [Mechanism::ScramSha256, Mechanism::CramMd5, Mechanism::Plain, Mechanism::Login];

    /// Its registered name.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::CramMd5 => "CRAM-MD5",
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
        }
    }

    /// By its name, in any case.
    pub fn named(name: &[u8]) -> Option<Mechanism> {
        Mechanism::ALL.into_iter().find(|known| known.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// Whether it shows the password to whoever reads along.
    pub fn shows_password(self) -> bool {
        match self {
            Mechanism::Plain | Mechanism::Login => true,
            Mechanism::ScramSha256 | Mechanism::CramMd5 => false,
        }
    }
}

/// Which mechanisms a session offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offered {
    /// PLAIN and LOGIN: the way is safe, or need not be.
    pub plain: bool,
    /// SCRAM-SHA-256 and CRAM-MD5: there are passwords stored in clear.
    pub secrets: bool,
}

impl Offered {
    /// Whether one is offered.
    pub fn has(self, mechanism: Mechanism) -> bool {
        if mechanism.shows_password() { self.plain } else { self.secrets }
    }

    /// The names, separated by blanks; empty if there is none.
    pub fn names(self) -> String {
        let offered = Mechanism::ALL.into_iter().filter(|mechanism| self.has(*mechanism));
        offered.map(Mechanism::name).collect::<Vec<_>>().join(" ")
    }
}

/// One exchange.
#[derive(Debug)]
pub struct Exchange {
    state: State,
    /// Ours: not to be guessed, never the same.
    nonce: String,
    host: String,
}

#[derive(Debug)]
enum State {
    Begun(Mechanism),
    LoginName,
    LoginPassword(Vec<u8>),
    CramMd5(Vec<u8>),
    Scram(scram::First),
    /// Nothing is expected any more.
    Over,
}

impl Exchange {
    /// An exchange that begins. `nonce` is printable, without a comma and `<`, `>`, `@`; `host` is our name.
    pub fn new(mechanism: Mechanism, nonce: String, host: &str) -> Exchange {
        Exchange { state: State::Begun(mechanism), nonce, host: host.to_owned() }
    }

    /// Takes the initial response, or the lack of one.
    pub fn begin(&mut self, initial: Option<&[u8]>) -> Result<Next, Malformed> {
        let State::Begun(mechanism) = self.state else { return Err(Malformed) };
        match (mechanism, initial) {
            (_, Some(response)) if mechanism != Mechanism::CramMd5 => {
                // A name given at once is the answer to a question that is not asked then.
                if mechanism == Mechanism::Login {
                    self.state = State::LoginName;
                }
                self.take(response)
            }
            // The server speaks first (RFC 4954 section 4).
            (_, Some(_)) => Err(Malformed),
            (Mechanism::Plain | Mechanism::ScramSha256, None) => Ok(Next::Challenge(Vec::new())),
            (Mechanism::Login, None) => {
                self.state = State::LoginName;
                Ok(Next::Challenge(b"Username:".to_vec()))
            }
            (Mechanism::CramMd5, None) => {
                let challenge = format!("<{}@{}>", self.nonce, self.host).into_bytes();
                self.state = State::CramMd5(challenge.clone());
                Ok(Next::Challenge(challenge))
            }
        }
    }

    /// Takes a response.
    pub fn take(&mut self, response: &[u8]) -> Result<Next, Malformed> {
        if response.len() > LONGEST_RESPONSE {
            return Err(Malformed);
        }
        match std::mem::replace(&mut self.state, State::Over) {
            State::Begun(Mechanism::Plain) => plain(response).map(Next::Check),
            State::Begun(Mechanism::ScramSha256) => {
                let (first, challenge) = scram::First::read(response, &self.nonce)?;
                self.state = State::Scram(first);
                Ok(Next::Challenge(challenge))
            }
            State::Begun(Mechanism::Login | Mechanism::CramMd5) | State::Over => Err(Malformed),
            State::LoginName => {
                self.state = State::LoginPassword(name_of(response)?);
                Ok(Next::Challenge(b"Password:".to_vec()))
            }
            State::LoginPassword(name) => {
                Ok(Next::Check(Credentials { name, proof: Proof::Password(Secret(field(response)?)) }))
            }
            State::CramMd5(challenge) => cram_md5(challenge, response).map(Next::Check),
            State::Scram(first) => first.finish(response).map(Next::Check),
        }
    }
}

/// Why there is nothing to be checked at the end of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaveUp {
    /// The client said `*`.
    Cancelled,
    /// What it said does not follow the mechanism.
    Malformed,
}

/// Goes through an exchange, in which `say` carries a challenge to whoever `talk` talks to and `hear` gives the next line; what
/// that cannot go on with ends it. `initial` is the word of an initial response.
pub fn converse<T, E>(
    talk: &mut T,
    mut exchange: Exchange,
    initial: Option<&[u8]>,
    say: impl Fn(&mut T, &[u8]),
    hear: impl Fn(&mut T) -> Result<Secret, E>,
) -> Result<Result<Credentials, GaveUp>, E> {
    let initial = initial.map(decode_initial).transpose();
    let mut next = initial.and_then(|octets| exchange.begin(octets.as_ref().map(|octets| octets.0.as_slice())));
    loop {
        match next {
            Ok(Next::Check(credentials)) => return Ok(Ok(credentials)),
            Ok(Next::Challenge(octets)) => say(talk, &octets),
            Err(Malformed) => return Ok(Err(GaveUp::Malformed)),
        }
        let line = hear(talk)?;
        if line.0 == b"*" {
            return Ok(Err(GaveUp::Cancelled));
        }
        next = decode(&line.0).and_then(|response| exchange.take(&response.0));
    }
}

/// RFC 4616: `[authzid] NUL authcid NUL passwd`.
fn plain(response: &[u8]) -> Result<Credentials, Malformed> {
    let mut parts = response.split(|octet| *octet == 0);
    let (Some(authorize), Some(name), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Malformed);
    };
    let (authorize, name) = (name_of(authorize)?, name_of(name)?);
    let password = Secret(field(password)?);
    if name.is_empty() {
        return Err(Malformed);
    }
    let is_own = authorize.is_empty() || authorize == name;
    Ok(Credentials { name, proof: if is_own { Proof::Password(password) } else { Proof::ForAnother } })
}

/// RFC 2195: name, a blank, and the digest in lower-case hexadecimal. The name may have blanks.
fn cram_md5(challenge: Vec<u8>, response: &[u8]) -> Result<Credentials, Malformed> {
    let blank = response.iter().rposition(|octet| *octet == b' ').ok_or(Malformed)?;
    let (name, digest) = (response.get(..blank).unwrap_or_default(), response.get(blank + 1..).unwrap_or_default());
    let digest = credentials::hexadecimal(digest).ok_or(Malformed)?;
    Ok(Credentials { name: name_of(name)?, proof: Proof::CramMd5 { challenge, digest } })
}

/// A name, prepared where it can be: two ways to write it are the same user all through the session. Preparing may make it
/// longer, and who is told of it has room for one of the longest.
fn name_of(octets: &[u8]) -> Result<Vec<u8>, Malformed> {
    let name = prepare::prepared_or_same(field(octets)?);
    if name.len() > LONGEST_FIELD { Err(Malformed) } else { Ok(name) }
}

fn field(octets: &[u8]) -> Result<Vec<u8>, Malformed> {
    if octets.len() > LONGEST_FIELD || octets.contains(&0) { Err(Malformed) } else { Ok(octets.to_vec()) }
}

/// The line that carries octets.
pub fn encode(octets: &[u8]) -> String {
    BASE64.encode(octets)
}

/// The octets of a line. Its padding must be there, and nothing behind the last octet (RFC 4648 sections 3.2 and 3.5).
pub fn decode(line: &[u8]) -> Result<Secret, Malformed> {
    BASE64.decode(line).map(Secret).map_err(|_| Malformed)
}

/// The octets of an initial response, where `=` stands for none at all (RFC 4954 section 4, RFC 5034 section 4).
pub fn decode_initial(word: &[u8]) -> Result<Secret, Malformed> {
    if word == b"=" { Ok(Secret::default()) } else { decode(word) }
}

#[cfg(test)]
mod tests;
