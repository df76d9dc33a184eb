//! AUTH as a client (RFC 4954): CRAM-MD5 (RFC 2195), PLAIN (RFC 4616), LOGIN.

use super::{Session, Stage, Trouble, Verdict, Wire};
use crate::sasl::{Mechanism, decode, encode};
use crate::wire::secret::Secret;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;

/// A name and a password for one next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The password.
    pub password: Secret,
}

impl<W: Wire> Session<W> {
    /// Shows who we are by the strongest mechanism that both know, and by the next one where that is refused: a server may
    /// offer CRAM-MD5 and have no password it could check it with. `hidden`: TLS or the machine itself hides the connection,
    /// so that a plain password may be sent.
    pub fn log_in(&mut self, login: &Login, hidden: bool) -> Result<(), Trouble> {
        let usable = |mechanism: &Mechanism| match mechanism {
            Mechanism::ScramSha256 => false,
            Mechanism::CramMd5 => true,
            Mechanism::Plain | Mechanism::Login => hidden,
        };
        let mechanisms: Vec<Mechanism> = self.offers.mechanisms.iter().copied().filter(usable).collect();
        let mut refusal = Trouble::Cannot("4.7.0 the next hop offers no way to log in that would be safe");
        for mechanism in mechanisms {
            let said = match self.exchange(mechanism, login) {
                Ok(said) if said.code == 235 => return Ok(()),
                Ok(said) => said,
                // A server that closes behind a refusal has said why before.
                Err(_) if matches!(refusal, Trouble::Said(..)) => break,
                Err(lost) => return Err(lost),
            };
            if said.code == 334 {
                // RFC 4954 section 4: who does not go on says so, or QUIT would be taken for the response.
                // What went wrong was said before.
                let _ = self.command(Stage::Auth, "*");
            }
            // RFC 4954 section 6: not this mechanism, a stronger one, or not with what was shown. The same password is shown
            // once, for each failure brings the account or this address nearer to being locked out.
            let is_shown = matches!(mechanism, Mechanism::Plain | Mechanism::Login);
            let goes_on = matches!(said.code, 504 | 534) || (said.code == 535 && !is_shown);
            refusal = Trouble::Said(said, Stage::Auth);
            if !goes_on {
                break;
            }
        }
        Err(refusal)
    }

    fn exchange(&mut self, mechanism: Mechanism, login: &Login) -> Verdict {
        let (user, password) = (login.user.as_bytes(), login.password.0.as_slice());
        match mechanism {
            Mechanism::Plain => {
                let response = [b"\0", user, b"\0", password].concat();
                self.command(Stage::Auth, &format!("AUTH PLAIN {}", encode(&response)))
            }
            Mechanism::Login => {
                for line in ["AUTH LOGIN".to_owned(), encode(user)] {
                    let answer = self.command(Stage::Auth, &line)?;
                    if answer.code != 334 {
                        return Ok(answer);
                    }
                }
                self.command(Stage::Auth, &encode(password))
            }
            Mechanism::CramMd5 | Mechanism::ScramSha256 => {
                let answer = self.command(Stage::Auth, "AUTH CRAM-MD5")?;
                let challenge = answer.lines.first().filter(|_| answer.code == 334);
                let Some(challenge) = challenge.and_then(|line| decode(line).ok()) else { return Ok(answer) };
                let Ok(mac) = Hmac::<Md5>::new_from_slice(password) else { return Ok(answer) };
                let digest = mac.chain_update(&challenge.0).finalize().into_bytes();
                let digest: String = digest.iter().map(|octet| format!("{octet:02x}")).collect();
                self.command(Stage::Auth, &encode(format!("{} {digest}", login.user).as_bytes()))
            }
        }
    }
}
