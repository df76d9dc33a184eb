//! Variable envelope return paths (cr.yp.to/proto/verp.txt): a sender `prefix-@host-@[]` stands for one sender a
//! recipient, `prefix-user=domain@host`, so that what comes back tells who it was about.
//!
//! The message is queued once with the sender as it was written; whoever carries it to a recipient, and whoever returns
//! it, asks [`expand`]. The character before the first `@` divides prefix and recipient, as in Postfix; which ones may
//! is for the administrator to say (`verp_delimiter_filter`) and for the server to check.

use super::path::{Address, ReversePath};

/// A sender of that form, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verp<'a> {
    /// Up to and with the delimiter, not empty before it.
    local: &'a [u8],
    host: &'a [u8],
}

impl<'a> Verp<'a> {
    /// Takes a sender apart; nothing if it is an ordinary one. `-@[]`, `@host-@[]` and qmail's `#@[]` are.
    pub fn of(path: &'a ReversePath) -> Option<Verp<'a>> {
        let path = path.as_bytes().strip_suffix(b"-@[]")?;
        let at = path.iter().position(|octet| *octet == b'@')?;
        let (local, host) = (path.get(..at)?, path.get(at + 1..)?);
        (local.len() >= 2 && !host.is_empty()).then_some(Verp { local, host })
    }

    /// What divides prefix and recipient.
    pub fn delimiter(&self) -> u8 {
        self.local.last().copied().unwrap_or(b'-')
    }

    fn expand(&self, recipient: &Address) -> Option<ReversePath> {
        let domain = recipient.domain().unwrap_or_default();
        let octets = [self.local, recipient.local_part(), b"=", domain, b"@", self.host].concat();
        ReversePath::from_internal(&octets).ok()
    }
}

/// The sender that stands for `path` in that form. Nothing where there can be none: of nobody, without a domain, and with an
/// `@` in the local part, which would divide prefix and recipient.
pub fn of_each(path: &ReversePath, delimiter: u8) -> Option<ReversePath> {
    let address = path.0.as_ref()?;
    let (local, domain) = (address.local_part(), address.domain().filter(|domain| !domain.is_empty())?);
    let octets = [local, &[delimiter], b"@", domain, b"-@[]"].concat();
    ReversePath::from_internal(&octets).ok().filter(|_| !local.is_empty() && !local.contains(&b'@'))
}

/// The sender for one recipient. An ordinary sender, or one that would become too long for an address, stays as it is:
/// better the list's owner than nobody.
pub fn expand(path: &ReversePath, recipient: &Address) -> ReversePath {
    Verp::of(path).and_then(|verp| verp.expand(recipient)).unwrap_or_else(|| path.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> ReversePath {
        ReversePath::from_internal(text.as_bytes()).unwrap()
    }

    fn expanded(sender: &str, recipient: &str) -> String {
        expand(&path(sender), &Address::from_internal(recipient.as_bytes()).unwrap()).to_string()
    }

    #[test]
    fn a_sender_is_expanded_for_each_recipient() {
        assert_eq!(expanded("list-@a.example-@[]", "bob@b.example"), "<list-bob=b.example@a.example>");
        assert_eq!(expanded("list+@a.example-@[]", "carol@c.example"), "<list+carol=c.example@a.example>");
        assert_eq!(expanded("l-@a@b-@[]", "bob@b.example"), "<\"l-bob=b.example@a\"@b>");
    }

    #[test]
    fn a_sender_is_put_into_that_form_where_it_can_be_taken_apart_again() {
        let of_each = |sender: &str, delimiter| super::of_each(&path(sender), delimiter);
        assert_eq!(of_each("owner-list@a.example", b'+'), Some(path("owner-list+@a.example-@[]")));
        assert_eq!(of_each("l@a.example", b'-'), Some(path("l-@a.example-@[]")));
        for none in ["", "joe", "@a.example", "joe@", "a@b@c", "list-@a.example-@[]"] {
            assert_eq!(of_each(none, b'+'), None, "{none}");
        }
    }

    #[test]
    fn other_senders_stay() {
        for other in ["list@a.example", "", "-@[]", "#@[]", "@a-@[]", "-@a-@[]", "list-@-@[]", "list-@a.example-@[1]"] {
            assert_eq!(Verp::of(&path(other)), None, "{other}");
            assert_eq!(expanded(other, "bob@b.example"), path(other).to_string(), "{other}");
        }
        let long = format!("{}@b.example", "x".repeat(980));
        assert!(!expanded("list-@a.example-@[]", &long).contains("xxx"));
    }

    #[test]
    fn the_delimiter_is_what_stands_before_the_first_at() {
        assert_eq!(Verp::of(&path("list-@a-@[]")).map(|verp| verp.delimiter()), Some(b'-'));
        assert_eq!(Verp::of(&path("listx@a-@[]")).map(|verp| verp.delimiter()), Some(b'x'));
    }

    proptest! {
        #[test]
        fn any_sender_expands_to_an_address(sender in "[-@\\[\\]a=]{0,12}", recipient in "[-@\\[\\]a=]{1,12}") {
            let recipient = Address::from_internal(recipient.as_bytes()).unwrap();
            let _ = expand(&path(&sender), &recipient);
        }
    }
}
