//! What a server offers in its answer to EHLO or LHLO (RFC 5321 section 4.1.1.1).

use super::answer::Answer;
use crate::sasl::Mechanism;

/// The extensions we know, as one server has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offers {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 1870: the largest message, 0 where the server does not say; none: the parameter is not known there.
    pub size: Option<u64>,
    /// RFC 6152.
    pub eight_bit: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 8689.
    pub requiretls: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 3030 section 3.
    pub binary: bool,
    /// RFC 4954: mechanisms we know too, strongest first.
    pub mechanisms: Vec<Mechanism>,
}

impl Offers {
    /// Reads them; what is not understood is left out.
    pub fn of(answer: &Answer) -> Offers {
        let mut offers = Offers::default();
        for line in answer.lines.iter().skip(1) {
            let text = String::from_utf8_lossy(line).to_ascii_uppercase();
            let (keyword, rest) = text.split_once([' ', '=']).unwrap_or((&text, ""));
            match keyword {
                "PIPELINING" => offers.pipelining = true,
                "SIZE" => offers.size = Some(rest.trim().parse().unwrap_or(0)),
                "8BITMIME" => offers.eight_bit = true,
                "SMTPUTF8" => offers.smtputf8 = true,
                "DSN" => offers.dsn = true,
                "STARTTLS" => offers.starttls = true,
                "REQUIRETLS" => offers.requiretls = true,
                "CHUNKING" => offers.chunking = true,
                "BINARYMIME" => offers.binary = true,
                // Some servers of old say it twice, the second time with `=`.
                "AUTH" => {
                    let has = |known: &Mechanism| rest.split_ascii_whitespace().any(|word| word == known.name());
                    for mechanism in Mechanism::ALL.into_iter().filter(has) {
                        if !offers.mechanisms.contains(&mechanism) {
                            offers.mechanisms.push(mechanism);
                        }
                    }
                }
                _ => {}
            }
        }
        offers.mechanisms.sort_by_key(|known| Mechanism::ALL.iter().position(|other| other == known));
        offers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_read_in_any_case_and_the_greeting_line_is_none() {
        let lines = ["PIPELINING", "size 1000", "8bitmime", "Auth LOGIN plain X", "AUTH=CRAM-MD5 LOGIN", "DSN", "XFOO"];
        let lines = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
        let offers = Offers::of(&Answer { code: 250, status: None, text: String::new(), lines });
        let mechanisms = vec![Mechanism::CramMd5, Mechanism::Plain, Mechanism::Login];
        let expected = Offers { size: Some(1000), eight_bit: true, dsn: true, mechanisms, ..Offers::default() };
        assert_eq!(offers, expected);
    }
}
