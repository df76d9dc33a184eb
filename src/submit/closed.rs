//! What the administrator wrote behind `error:` in the channels file, for whoever asks for such a recipient.

/// Most octets of it.
pub const LONGEST: usize = 100;

/// The text, as printable ASCII. It may begin with a status code, and be empty.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    octets: [u8; LONGEST],
    length: usize,
}

impl Closed {
    /// What is no printable ASCII becomes a question mark, and what is too long is cut.
    pub fn new(text: &str) -> Closed {
        let mut closed = Closed { octets: [0; LONGEST], length: 0 };
        for (octet, letter) in closed.octets.iter_mut().zip(text.chars()) {
            *octet = u8::try_from(letter).ok().filter(|octet| matches!(octet, b' '..=b'~')).unwrap_or(b'?');
            closed.length = closed.length.saturating_add(1);
        }
        closed
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.octets.get(..self.length).unwrap_or_default()).unwrap_or_default()
    }

    /// The status code it begins with, and what stands behind that; 5.3.2 where it begins with none.
    pub fn parts(&self) -> ([u8; 3], &str) {
        let text = self.as_str();
        let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
        match status(first) {
            Some(status) => (status, rest),
            None => ([5, 3, 2], text),
        }
    }

    /// Whether that is only so for now.
    pub fn is_for_now(&self) -> bool {
        self.parts().0.first() == Some(&4)
    }
}

/// A status code of failures, for now or for good.
fn status(word: &str) -> Option<[u8; 3]> {
    let number = |text: &str| text.bytes().all(|octet| octet.is_ascii_digit()).then(|| text.parse().ok())?;
    let numbers: Option<Vec<u8>> = word.split('.').map(number).collect();
    numbers?.try_into().ok().filter(|status: &[u8; 3]| matches!(status, [4 | 5, ..]))
}

impl std::fmt::Debug for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_may_begin_with_a_status_code() {
        for (text, status, words) in [
            ("", [5, 3, 2], ""),
            ("5.1.2 gone away", [5, 1, 2], "gone away"),
            ("4.3.2 moving", [4, 3, 2], "moving"),
            ("4.3.2", [4, 3, 2], ""),
            ("5.7.1000 no", [5, 3, 2], "5.7.1000 no"),
            ("44.7.1 no", [5, 3, 2], "44.7.1 no"),
            ("4.7.300 no", [5, 3, 2], "4.7.300 no"),
            ("+4.7.1 no", [5, 3, 2], "+4.7.1 no"),
            ("2.0.0 fine", [5, 3, 2], "2.0.0 fine"),
            ("5.1 no", [5, 3, 2], "5.1 no"),
            ("gone \u{fc}\r\n", [5, 3, 2], "gone ???"),
        ] {
            assert_eq!(Closed::new(text).parts(), (status, words), "{text}");
        }
        assert_eq!(Closed::new(&"x".repeat(200)).as_str().len(), LONGEST);
    }
}
