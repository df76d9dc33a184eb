//! What a server answers: octets to replies (RFC 5321 section 4.2, RFC 3463). Pure, and bounded whatever comes.

use crate::logging::clean;

/// Most octets of a line of a reply that are looked at; RFC 5321 section 4.5.3.1.5 allows 512.
const LONGEST_LINE: usize = 2048;

/// Most lines of one reply.
const MOST_LINES: usize = 200;

/// Most octets of one reply, lines without an end among them: those of as many lines as RFC 5321 allows them to be long.
const MOST_OCTETS: usize = MOST_LINES * 512;

/// Most octets of text of a reply that are kept, for people.
const LONGEST_TEXT: usize = 400;

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Three digits, 200 to 599.
    pub code: u16,
    /// The enhanced status code the text began with, if it fits the code.
    pub status: Option<String>,
    /// The text of all lines without status codes, in printable ASCII, blanks between.
    pub text: String,
    /// The lines as they came, without code and separator, for EHLO and AUTH.
    pub lines: Vec<Vec<u8>>,
}

/// What came is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoAnswer;

impl Answer {
    /// 2yz.
    pub fn is_yes(&self) -> bool {
        self.code / 100 == 2
    }

    /// 5yz.
    pub fn is_never(&self) -> bool {
        self.code / 100 == 5
    }

    /// As the next hop said it: `550 5.1.1 no such user`.
    pub fn said(&self) -> String {
        match &self.status {
            Some(status) => format!("{} {status} {}", self.code, self.text),
            None => format!("{} {}", self.code, self.text),
        }
    }

    /// The enhanced status code, or the general one of the code's class.
    pub fn status(&self) -> &str {
        match &self.status {
            Some(status) => status,
            None if self.is_yes() => "2.0.0",
            None if self.is_never() => "5.0.0",
            None => "4.0.0",
        }
    }
}

/// Collects replies out of pushed octets.
#[derive(Debug, Default)]
pub struct Answers {
    line: Vec<u8>,
    code: Option<u16>,
    lines: Vec<Vec<u8>>,
    count: usize,
    octets: usize,
}

impl Answers {
    /// Takes octets up to the end of a reply. Gives how many were taken, and the reply if one ended with them.
    ///
    /// A line that ends in LF alone is taken too: Postfix does, and nothing can be hidden in a reply to us.
    pub fn push(&mut self, input: &[u8]) -> Result<(usize, Option<Answer>), NoAnswer> {
        for (position, &octet) in input.iter().enumerate() {
            self.octets += 1;
            if self.octets > MOST_OCTETS {
                return Err(NoAnswer);
            }
            if octet != b'\n' {
                if self.line.len() < LONGEST_LINE {
                    self.line.push(octet);
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            if let Some(answer) = self.line(line.strip_suffix(b"\r").unwrap_or(&line))? {
                return Ok((position + 1, Some(answer)));
            }
        }
        Ok((input.len(), None))
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<Answer>, NoAnswer> {
        let (digits, rest) = line.split_at_checked(3).ok_or(NoAnswer)?;
        let code = digits.iter().try_fold(0, |code: u16, octet| match octet {
            b'0'..=b'9' => Ok(code * 10 + u16::from(octet - b'0')),
            _ => Err(NoAnswer),
        })?;
        if !(200..600).contains(&code) || self.code.is_some_and(|before| before != code) {
            return Err(NoAnswer);
        }
        let (goes_on, text) = match rest.split_first() {
            None => (false, &b""[..]),
            Some((b' ', text)) => (false, text),
            Some((b'-', text)) => (true, text),
            Some(_) => return Err(NoAnswer),
        };
        self.count += 1;
        if self.count > MOST_LINES {
            return Err(NoAnswer);
        }
        self.code = Some(code);
        self.lines.push(text.to_vec());
        if goes_on {
            return Ok(None);
        }
        let Answers { lines, .. } = std::mem::take(self);
        Ok(Some(answer(code, lines)))
    }
}

fn answer(code: u16, lines: Vec<Vec<u8>>) -> Answer {
    let mut status = None;
    let mut text = String::new();
    for line in &lines {
        let (own, rest) = split_status(code, line);
        status = status.or(own);
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&clean(rest, LONGEST_TEXT));
        if text.len() > LONGEST_TEXT {
            break;
        }
    }
    text.truncate(LONGEST_TEXT);
    Answer { code, status, text, lines }
}

/// An enhanced status code in front, if its class is that of the reply code, and the text behind it.
fn split_status(code: u16, line: &[u8]) -> (Option<String>, &[u8]) {
    let end = line.iter().position(|octet| *octet == b' ').unwrap_or(line.len());
    let (word, rest) = line.split_at_checked(end).unwrap_or((line, b""));
    let mut parts = word.split(|octet| *octet == b'.');
    let is_number = |part: &[u8]| (1..=3).contains(&part.len()) && part.iter().all(u8::is_ascii_digit);
    let class = parts.next().unwrap_or_default();
    let fits = class.len() == 1 && class.first().is_some_and(|digit| u16::from(digit.wrapping_sub(b'0')) == code / 100);
    let numbers = [parts.next(), parts.next()];
    if fits && parts.next().is_none() && numbers.iter().all(|part| part.is_some_and(is_number)) {
        (Some(clean(word, 16)), rest.strip_prefix(b" ").unwrap_or(rest))
    } else {
        (None, line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answers(input: &[u8], step: usize) -> Result<Vec<Answer>, NoAnswer> {
        let (mut reader, mut found) = (Answers::default(), Vec::new());
        for mut piece in input.chunks(step) {
            while !piece.is_empty() {
                let (taken, answer) = reader.push(piece)?;
                found.extend(answer);
                piece = &piece[taken..];
            }
        }
        Ok(found)
    }

    #[test]
    fn a_reply_of_several_lines_is_one() {
        for step in 1..20 {
            let found =
                answers(b"250-mx.example\r\n250-SIZE 1\r\n250 HELP\r\n550 5.1.1 no\x1b\r\n354\r\n", step).unwrap();
            assert_eq!(found.len(), 3, "pieces of {step}");
            assert_eq!(found[0].lines, [&b"mx.example"[..], b"SIZE 1", b"HELP"]);
            assert_eq!((found[1].said(), found[1].status()), ("550 5.1.1 no\\x1b".to_owned(), "5.1.1"));
            assert_eq!((found[2].code, found[2].status()), (354, "4.0.0"));
        }
    }

    #[test]
    fn a_status_of_another_class_or_form_is_text() {
        for (line, status) in [
            ("550 4.1.1 x", "5.0.0"),
            ("450 4.2.1 x", "4.2.1"),
            ("250 2.1.5", "2.1.5"),
            ("550 5.1 x", "5.0.0"),
            ("550 5.1.1.1 x", "5.0.0"),
            ("550 5.1234.1 x", "5.0.0"),
        ] {
            let found = answers(format!("{line}\r\n").as_bytes(), 100).unwrap();
            assert_eq!(found[0].status(), status, "{line}");
        }
    }

    #[test]
    fn nonsense_is_no_reply() {
        for wrong in
            ["\r\n", "25\r\n", "2x0 a\r\n", "100 a\r\n", "600 a\r\n", "250_a\r\n", "250-a\r\n251 b\r\n", "+OK\r\n"]
        {
            assert_eq!(answers(wrong.as_bytes(), 100), Err(NoAnswer), "{wrong:?}");
        }
        assert_eq!(answers("250-x\r\n".repeat(MOST_LINES + 1).as_bytes(), 100), Err(NoAnswer));
    }

    #[test]
    fn an_endless_line_takes_no_memory_and_is_no_reply() {
        let mut reader = Answers::default();
        for _ in 0..MOST_OCTETS / 4096 {
            assert_eq!(reader.push(&[b'2'; 4096]), Ok((4096, None)));
        }
        assert!(reader.line.capacity() <= 2 * LONGEST_LINE);
        assert_eq!(reader.push(&[b'2'; 4096]), Err(NoAnswer));
        // Each reply is counted by itself.
        let long = format!("250 {}\r\n", "x".repeat(1000));
        assert_eq!(answers(long.repeat(1000).as_bytes(), 4096).map(|found| found.len()), Ok(1000));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(input in "[2-5 .\\-\r\na]{0,60}", step in 1..9_usize) {
            prop_assert_eq!(answers(input.as_bytes(), step).ok(), answers(input.as_bytes(), 100).ok());
        }
    }
}
