//! What a message gets that a user submits (RFC 6409 section 8): Date, Message-ID and From where they are missing, what is
//! for nobody else (Bcc, RFC 5322 section 3.6.3) taken out, and a look at whose addresses From, Sender and the Resent fields
//! have. Its header is held back until it is whole.

use super::Server;
use crate::auth;
use crate::clock;
use crate::lookup::Lookup;
use crate::message::header::{self, Addresses, Coming, From, Header};
use crate::message::path::Address;
use crate::smtp::reply::Reply;
use crate::smtp::session::Dialect;
use std::collections::BTreeSet;

/// Most addresses a login is held against in one header: for each a table is read.
const MOST_SENDERS: usize = 100;

/// Fields besides From that say who sends, which of them hold one address alone, and what is said of wrong ones. A message has
/// one Sender at the most, and Resent fields each time somebody sent it again (RFC 5322 sections 3.6.2 and 3.6.6).
fn senders() -> [(&'static str, bool, Reply, Reply); 3] {
    [
        ("Sender", true, Reply::bad_sender(), Reply::not_your_sender()),
        ("Resent-From", false, Reply::bad_resent(), Reply::not_your_resent()),
        ("Resent-Sender", true, Reply::bad_resent(), Reply::not_your_resent()),
    ]
}

impl Server<'_> {
    /// Before the first octet of a message.
    pub(super) fn begin_content(&mut self) {
        self.header = (self.session.dialect() == Dialect::Submission).then(Coming::default);
    }

    /// Keeps what came as long as it is header; then puts the whole header, completed, in front of the piece.
    pub(super) fn look_at_header(&mut self, piece: &mut Vec<u8>, last: bool) -> Result<(), Reply> {
        let Some(mut coming) = self.header.take() else { return Ok(()) };
        if !coming.take(piece) && !last {
            // Who looked at the beginning alone would not have seen From.
            if coming.text.len() >= header::LARGEST {
                return Err(Reply::header_too_large());
            }
            self.header = Some(coming);
            return Ok(());
        }
        let text = coming.text;
        let mut read = Header::read(&text);
        if self.session.is_binary() && header::has_bare_line_end(read.and_its_end(&text)) {
            return Err(Reply::bare_line_end_in_header());
        }
        read.take_out(self.settings.dropped);
        let mut seen = BTreeSet::new();
        let from = self.check_from(&read, &mut seen)?;
        self.check_senders(&read, &mut seen)?;
        let fields = read.missing(&clock::field_date(clock::now()), &self.message_id(), from.as_deref());
        // Fields that are missing and no field at all have an empty line between them already.
        let gap: &[u8] = if read.ends_well || read.length == 0 { b"" } else { b"\n" };
        let rest = text.get(read.length..).unwrap_or_default();
        // What is any octets goes on as it is, and the header is lines of CR LF all the same (RFC 3030 section 3).
        let is_crlf = self.session.is_binary();
        let lines = |lines: &[u8]| if is_crlf { header::in_crlf(lines) } else { lines.to_vec() };
        *piece = [&lines(&fields)[..], &read.text(), &lines(gap), rest].concat();
        Ok(())
    }

    /// The value of a From field that is missing, if it can be made; a refusal of one that is there.
    fn check_from(&self, header: &Header<'_>, seen: &mut BTreeSet<Vec<u8>>) -> Result<Option<String>, Reply> {
        let sender = self.session.envelope().and_then(|(path, _)| path.0.as_ref());
        let addresses = match header.from() {
            From::Wrong => return Err(Reply::bad_from()),
            From::Missing => return sender.map(|address| Some(format!("<{address}>"))).ok_or(Reply::bad_from()),
            From::Of(addresses) => addresses,
        };
        self.check_addresses(addresses, seen, &Reply::bad_from(), &Reply::not_your_from()).map(|()| None)
    }

    /// A refusal of other fields that say who sends, where a login is bound to its addresses. All of them count: which Resent
    /// fields are this user's, and which were there before, nobody can tell but whoever wrote them.
    fn check_senders(&self, header: &Header<'_>, seen: &mut BTreeSet<Vec<u8>>) -> Result<(), Reply> {
        if !self.site.binds_senders() {
            return Ok(());
        }
        for (name, is_one, bad, not_yours) in senders() {
            for (number, addresses) in header.addresses_in(name).enumerate() {
                let is_right =
                    |found: &Addresses| (!is_one || found.own.len() == 1) && (number == 0 || name != "Sender");
                let addresses = addresses.filter(is_right).ok_or_else(|| bad.clone())?;
                self.check_addresses(addresses, seen, &bad, &not_yours)?;
            }
        }
        Ok(())
    }

    /// `seen` are the addresses of this header that were looked at before: each is asked about once.
    fn check_addresses(
        &self,
        addresses: Addresses,
        seen: &mut BTreeSet<Vec<u8>>,
        bad: &Reply,
        not_yours: &Reply,
    ) -> Result<(), Reply> {
        let Some(login) = self.session.login() else { return Ok(()) };
        let as_names = match addresses.as_names {
            Some(as_names) => as_names,
            None if self.site.binds_senders() => return Err(bad.clone()),
            None => Vec::new(),
        };
        for address in addresses.own.into_iter().chain(as_names) {
            if !seen.insert(address.clone()) {
                continue;
            }
            if seen.len() > MOST_SENDERS && self.site.binds_senders() {
                return Err(Reply::too_many_senders());
            }
            let address = Address::from_internal(&address).map_err(|_| bad.clone())?;
            match self.site.may_send_as(login, &address) {
                Lookup::Yes(()) => {}
                Lookup::No => return Err(not_yours.clone()),
                Lookup::CannotTell(why) => {
                    log::warn!("client={} event=trouble with=smtpd_sender_login_maps reason={why:?}", self.client);
                    return Err(Reply::cannot_tell_sender());
                }
            }
        }
        Ok(())
    }

    fn message_id(&self) -> String {
        // Without chance the time must do: two messages of one microsecond would share a name.
        let chance = auth::nonce().unwrap_or_default();
        let time = clock::since_1970(clock::now()).as_micros();
        format!("<{time:x}.{chance:.16}@{}>", self.settings.session.hostname)
    }
}
