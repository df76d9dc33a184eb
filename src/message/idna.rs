//! Domains with letters beyond ASCII, as DNS and certificates have them (RFC 5890, UTS 46): `bücher.example` is
//! `xn--bcher-kva.example`. Addresses go on as they were written (RFC 6531 section 3.7.1); only what is looked up or
//! compared is brought into this form.

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use std::borrow::Cow;

/// The form in ASCII; what is in ASCII already is left as it is. Nothing, if there is no such form: the octets are not
/// UTF-8, a label is too long, or has what no name may have.
pub fn to_ascii(domain: &[u8]) -> Option<Cow<'_, [u8]>> {
    if domain.is_ascii() {
        return Some(Cow::Borrowed(domain));
    }
    let found = Uts46::new().to_ascii(domain, AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Verify).ok()?;
    super::path::is_host_name(&found).then(|| Cow::Owned(found.into_owned().into_bytes()))
}

/// How many octets a domain and its longest label have in DNS, where letters beyond ASCII have fewer or more of them (RFC
/// 5890 section 2.3.2.1). What has no such form is measured as it stands.
pub fn lengths(domain: &[u8]) -> (usize, usize) {
    let encoded = || Uts46::new().to_ascii(domain, AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore);
    let encoded = if domain.is_ascii() { None } else { encoded().ok() };
    let octets = encoded.as_ref().map_or(domain, |found| found.as_bytes());
    (octets.len(), octets.split(|octet| *octet == b'.').map(<[u8]>::len).max().unwrap_or(0))
}

/// How a domain beyond ASCII may stand in a table besides the way it is written here: in ASCII, and in letters. None of
/// any other domain.
pub fn other_spellings(domain: &str) -> Vec<String> {
    let is_encoded = |label: &str| label.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("xn--"));
    if domain.is_ascii() && !domain.split('.').any(is_encoded) {
        return Vec::new();
    }
    let Some(in_ascii) = to_ascii(domain.as_bytes()) else { return Vec::new() };
    let in_ascii = String::from_utf8_lossy(&in_ascii).to_ascii_lowercase();
    let (in_letters, is_right) = Uts46::new().to_unicode(in_ascii.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow);
    let in_letters = is_right.is_ok().then(|| in_letters.into_owned());
    let mut spellings = vec![in_ascii.clone()];
    spellings.extend(in_letters.filter(|letters| *letters != in_ascii));
    spellings.retain(|spelling| spelling != domain);
    spellings
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ascii(domain: &str) -> Option<String> {
        to_ascii(domain.as_bytes()).map(|found| String::from_utf8_lossy(&found).into_owned())
    }

    #[test]
    fn names_are_mapped_and_encoded_label_by_label() {
        for (domain, expected) in [
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.Example", "xn--bcher-kva.example"),
            ("bu\u{308}cher.example", "xn--bcher-kva.example"),
            ("mail_1.straße.example", "mail_1.xn--strae-oqa.example"),
            ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
            ("Example.ORG", "Example.ORG"),
            ("[127.0.0.1]", "[127.0.0.1]"),
            ("", ""),
        ] {
            assert_eq!(ascii(domain).as_deref(), Some(expected), "{domain}");
        }
    }

    #[test]
    fn what_is_no_name_has_no_such_form() {
        let long = "ü".repeat(60);
        for domain in ["ü..example", "ü example", "a\u{202e}ü.example", "xn--ü.example", &long, "ü.example."] {
            assert_eq!(ascii(domain), None, "{domain}");
        }
        assert_eq!(to_ascii(b"\xff.example"), None);
    }

    #[test]
    fn a_domain_is_as_long_as_in_dns() {
        for (domain, expected) in [
            ("mx.example", (10, 7)),
            ("bücher.example", ("xn--bcher-kva.example".len(), 13)),
            ("例え。テスト", ("xn--r8jz45g.xn--zckzah".len(), 11)),
            ("a\u{202e}ü.example", (14, 7)),
            ("", (0, 0)),
        ] {
            assert_eq!(lengths(domain.as_bytes()), expected, "{domain}");
        }
        assert_eq!(lengths(b"\xff.example"), (9, 7));
    }

    #[test]
    fn other_spellings_are_those_of_a_domain_beyond_ascii_alone() {
        for (domain, expected) in [
            ("bücher.example", &["xn--bcher-kva.example"][..]),
            ("Bücher.example", &["xn--bcher-kva.example", "bücher.example"]),
            ("xn--bcher-kva.example", &["bücher.example"]),
            ("XN--bcher-kva.example", &["xn--bcher-kva.example", "bücher.example"]),
            ("mx.example", &[]),
            ("", &[]),
            ("xn--a.example", &[]),
            ("ü..example", &[]),
        ] {
            assert_eq!(other_spellings(domain), expected, "{domain}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_a_host_name_or_nothing(domain in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(found) = to_ascii(&domain) {
                prop_assert!(found.is_ascii());
            }
            other_spellings(&String::from_utf8_lossy(&domain));
            prop_assert!(to_ascii(&domain).is_none_or(|found| lengths(&domain).0 == found.len()));
        }
    }
}
