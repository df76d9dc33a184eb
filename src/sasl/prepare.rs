//! Names and passwords in the form in which they are compared: SASLprep (RFC 4013, a profile of stringprep, RFC 3454), as PLAIN
//! (RFC 4616 section 2) and SCRAM (RFC 5802 section 5.1) have it. What looks alike to whoever types it then is alike,
//! however a keyboard composes its letters.
//!
//! ASCII that can be seen is as it should be: for it no table is touched and nothing is allocated. Characters that are newer
//! than Unicode 3.2 are taken, as in a string that a client shows (RFC 4013 section 2.5). Octets that are no UTF-8 have no
//! other form.

use crate::wire::secret::Secret;
use stringprep::tables;
use unicode_normalization::UnicodeNormalization;

/// What comes of some octets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    /// They are their own form.
    AsItIs,
    /// Another form is.
    Changed(Secret),
    /// Nobody may have this name or password: there is something in it that is prohibited (RFC 4013 sections 2.3 and 2.4), or
    /// nothing is left of it.
    Never,
}

/// No character becomes longer than so many times its octets (U+FDFA does), so that no half of a secret is left behind where
/// it had to grow.
const MOST_GROWTH: usize = 11;

/// Prepares octets.
pub fn prepare(octets: &[u8]) -> Prepared {
    if octets.iter().all(|octet| matches!(octet, b' '..=b'~')) {
        return Prepared::AsItIs;
    }
    match std::str::from_utf8(octets) {
        Ok(text) => prepare_text(text),
        Err(_) => Prepared::AsItIs,
    }
}

/// The form that is compared, where there is one, else the octets themselves: for names, which are checked again where they
/// are looked up.
pub fn prepared_or_same(octets: Vec<u8>) -> Vec<u8> {
    match prepare(&octets) {
        Prepared::Changed(prepared) => prepared.0.clone(),
        Prepared::AsItIs | Prepared::Never => octets,
    }
}

fn prepare_text(text: &str) -> Prepared {
    let blank = |letter: char| if tables::non_ascii_space_character(letter) { ' ' } else { letter };
    let mapped = text.chars().map(blank).filter(|letter| !tables::commonly_mapped_to_nothing(*letter));
    let mut prepared = Secret(Vec::with_capacity(text.len() * MOST_GROWTH));
    for letter in mapped.nfkc() {
        prepared.0.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
    }
    let Ok(found) = std::str::from_utf8(&prepared.0) else { return Prepared::Never };
    if found.is_empty() || found.contains(is_prohibited) || !runs_one_way(found) {
        return Prepared::Never;
    }
    if found == text { Prepared::AsItIs } else { Prepared::Changed(prepared) }
}

/// RFC 4013 section 2.3. Surrogates (C.5) are in no UTF-8.
fn is_prohibited(letter: char) -> bool {
    tables::non_ascii_space_character(letter)
        || tables::ascii_control_character(letter)
        || tables::non_ascii_control_character(letter)
        || tables::private_use(letter)
        || tables::non_character_code_point(letter)
        || tables::inappropriate_for_plain_text(letter)
        || tables::inappropriate_for_canonical_representation(letter)
        || tables::change_display_properties_or_deprecated(letter)
        || tables::tagging_character(letter)
}

/// RFC 3454 section 6: a text with letters that run from right to left has none that run the other way, and begins and ends
/// with such a letter.
fn runs_one_way(text: &str) -> bool {
    let has_ends = text.starts_with(tables::bidi_r_or_al) && text.ends_with(tables::bidi_r_or_al);
    !text.contains(tables::bidi_r_or_al) || (has_ends && !text.contains(tables::bidi_l))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prepared(text: &str) -> Option<String> {
        match prepare(text.as_bytes()) {
            Prepared::AsItIs => Some(text.to_owned()),
            Prepared::Changed(secret) => Some(String::from_utf8(secret.0.clone()).unwrap()),
            Prepared::Never => None,
        }
    }

    #[test]
    fn the_examples_of_rfc_4013_come_out_as_it_says() {
        for (text, expected) in [
            ("I\u{ad}X", Some("IX")),
            ("user", Some("user")),
            ("USER", Some("USER")),
            ("\u{aa}", Some("a")),
            ("\u{2168}", Some("IX")),
            ("\u{7}", None),
            ("\u{627}1", None),
        ] {
            assert_eq!(prepared(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_looks_alike_is_alike_and_what_is_newer_than_stringprep_is_taken() {
        for (text, expected) in [
            ("", Some("")),
            (" a~ ", Some(" a~ ")),
            ("e\u{301}", Some("\u{e9}")),
            ("a\u{a0}b\u{3000}", Some("a b ")),
            ("\u{1f600}\u{20bf}", Some("\u{1f600}\u{20bf}")),
            ("\u{5d0}\u{5d1}", Some("\u{5d0}\u{5d1}")),
            ("\u{ad}", None),
            ("\t", None),
            ("\u{e000}", None),
            ("x\u{200e}", None),
            ("\u{5d0}x\u{5d0}", None),
        ] {
            assert_eq!(prepared(text).as_deref(), expected, "{text:?}");
        }
        assert_eq!(prepare(b"caf\xe9"), Prepared::AsItIs);
    }

    #[test]
    fn no_character_grows_by_more_than_there_is_room_for() {
        let most = ('\0'..=char::MAX).map(|letter| letter.to_string()).filter(|text| !text.is_ascii());
        let growth = most.map(|text| text.nfkc().collect::<String>().len().div_ceil(text.len())).max();
        assert_eq!(growth, Some(MOST_GROWTH));
    }

    proptest! {
        #[test]
        fn what_is_prepared_stays_so_and_is_what_the_crate_makes_of_it(text in "(\\PC|[ -~\u{c0}-\u{ff}]){0,12}") {
            let found = prepared(&text);
            if let Some(found) = &found {
                let again = prepared(found);
                prop_assert_eq!(again.as_ref(), Some(found));
            }
            // That takes no character which Unicode 3.2 did not know.
            if let Ok(theirs) = stringprep::saslprep(&text) {
                prop_assert_eq!(found, Some(theirs.into_owned()).filter(|theirs| !theirs.is_empty() || text.is_empty()));
            }
        }
    }
}
