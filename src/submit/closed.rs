//! What the administrator wrote behind `error:` in the channels file, for whoever asks for such a recipient.

/// Most octets of it.
pub const LONGEST: usize = 100;

/// The text, as printable ASCII. It may begin with a status code, and be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed(Box<str>);

impl Closed {
    /// What is no printable ASCII becomes a question mark, and what is too long is cut.
    pub fn new(text: &str) -> Closed {
        let printable = |letter: char| if matches!(letter, ' '..='~') { letter } else { '?' };
        Closed(text.chars().take(LONGEST).map(printable).collect())
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
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
