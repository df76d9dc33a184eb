//! AUTH (RFC 4954): the exchange of responses and challenges. Who checks what came of it is the site's affair.

use super::{LineReader, Server, field, line_end};
use crate::auth;
use crate::auth::gate::Right;
use crate::lookup::Lookup;
use crate::net::connection::Fault;
use crate::sasl::{self, Credentials, Exchange, GaveUp, LONGEST_LINE, Mechanism};
use crate::smtp::reply::Reply;
use crate::smtp::session::Step;
use crate::wire::line::Line;
use crate::wire::secret::Secret;

/// What came where a response was expected.
enum Response {
    Line(Secret),
    TooLong,
    BareLineEnd,
}

impl Server<'_> {
    /// Lets the client show who it is; gives what is to be said of that.
    pub(super) fn authenticate(&mut self, mechanism: Mechanism, initial: Option<Secret>) -> Result<Step, Fault> {
        let Some(nonce) = auth::nonce() else { return Ok(Step::Say(Reply::login_not_checked())) };
        let exchange = Exchange::new(mechanism, nonce, self.settings.session.hostname);
        let say = |server: &mut Self, challenge: &[u8]| server.say(Reply::challenge(challenge));
        // What is no response ends the exchange by a step of its own.
        let hear = |server: &mut Self| match server.response() {
            Ok(Response::Line(line)) => Ok(line),
            Ok(Response::TooLong) => Err(Ok(Step::Say(Reply::response_too_long()))),
            Ok(Response::BareLineEnd) => {
                Err(Ok(Step::Refuse(server.of_bare(Reply::bare_line_end(), Reply::cannot_tell_yet()))))
            }
            Err(fault) => Err(Err(fault)),
        };
        match sasl::converse(self, exchange, initial.as_ref().map(|word| word.0.as_slice()), say, hear) {
            Ok(Ok(credentials)) => self.check(mechanism, &credentials),
            Ok(Err(GaveUp::Malformed)) => Ok(Step::Say(Reply::malformed_response())),
            Ok(Err(GaveUp::Cancelled)) => Ok(Step::Say(Reply::login_cancelled())),
            Err(ended) => ended,
        }
    }

    fn check(&mut self, mechanism: Mechanism, credentials: &Credentials) -> Result<Step, Fault> {
        let (client, mechanism) = (self.client.clone(), mechanism.name());
        match self.site.check(credentials) {
            Lookup::Yes(Right { name, last_words }) => {
                // The last words of the mechanism are a challenge too, whose response is empty (RFC 4954 section 4).
                if !last_words.is_empty() {
                    self.say(Reply::challenge(&last_words));
                    if !matches!(self.response()?, Response::Line(line) if line.0 != b"*") {
                        return Ok(Step::Say(Reply::login_cancelled()));
                    }
                }
                let name_shown = field(&String::from_utf8_lossy(&name));
                log::info!("client={client} event=login user={name_shown} mechanism={mechanism}");
                Ok(self.session.logged_in(name))
            }
            Lookup::No => Ok(self.session.not_logged_in(Reply::wrong_login())),
            // Who checked has said why.
            Lookup::CannotTell(_) => Ok(self.session.not_logged_in(Reply::login_not_checked())),
        }
    }

    /// The next line, which may be longer than a command.
    fn response(&mut self) -> Result<Response, Fault> {
        let mut lines = LineReader::new(LONGEST_LINE, line_end(self.bare_newline));
        let mut waiting = false;
        loop {
            if self.input.is_empty() {
                if !std::mem::replace(&mut waiting, true) {
                    self.flush()?;
                    self.stream.allow(self.settings.timeout);
                }
                if self.fill()? == 0 {
                    return Err(Fault::HungUp);
                }
            }
            let (taken, line) = lines.push(self.input.octets());
            self.input.advance(taken);
            match line {
                Some(Line::Whole(line)) => return Ok(Response::Line(Secret(line.to_vec()))),
                Some(Line::TooLong) => return Ok(Response::TooLong),
                Some(Line::BareLineEnd) => return Ok(Response::BareLineEnd),
                None => {}
            }
        }
    }
}
