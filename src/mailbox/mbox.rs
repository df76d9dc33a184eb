//! mbox: one file; a message begins with a `From ` line behind an empty line, and ends with an empty line.
//!
//! Written as "mboxrd": a line of the message that begins with `From `, or with that behind any number of `>`, gets one
//! more `>`, and reading takes it off again, so that what was put in comes out. (`scan.rs` finds the messages,
//! `quote.rs` does the quoting.)

use crate::message::date;

/// What a separator begins with.
pub const FROM: &[u8] = b"From ";
/// Longer lines are no separators; nobody's address is so long.
const LONGEST_SEPARATOR: usize = 1024;

/// Whether a line is one of those that programs put between messages: `From`, a sender, and a date as asctime(3) writes
/// it. A sentence that begins with "From" behind an empty line is none, though some programs do not quote it.
pub fn is_separator(line: &[u8]) -> bool {
    const DAYS: &[u8] = b"MonTueWedThuFriSatSun";
    const MONTHS: &[u8] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let Some(rest) = line.strip_prefix(FROM).filter(|_| line.len() <= LONGEST_SEPARATOR) else { return false };
    let words: Vec<&[u8]> = rest.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    let is_one_of = |word: &[u8], list: &[u8]| word.len() == 3 && list.chunks(3).any(|known| known == word);
    let is_number = |word: &[u8], lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&word.len()) && word.iter().all(u8::is_ascii_digit)
    };
    let is_time = |word: &[u8]| {
        let parts: Vec<&[u8]> = word.split(|octet| *octet == b':').collect();
        (2..=3).contains(&parts.len()) && parts.iter().all(|part| is_number(part, 1..=2))
    };
    words.windows(4).enumerate().any(|(at, words)| match words {
        [day, month, number, time] => {
            let is_date = is_one_of(day, DAYS) && is_one_of(month, MONTHS) && is_number(number, 1..=2);
            is_date && is_time(time) && self::words_behind(rest, at + 4).any(|word| is_number(word, 4..=4))
        }
        _ => false,
    })
}

fn words_behind(rest: &[u8], count: usize) -> impl Iterator<Item = &[u8]> {
    rest.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).skip(count)
}

/// The line before a message from `sender`, which is empty for mail from nobody. The time is UTC.
pub fn separator(sender: &[u8], unix_time: i64) -> Vec<u8> {
    let mut line = FROM.to_vec();
    let plain = |octet: &u8| if octet.is_ascii_graphic() || *octet >= 0x80 { *octet } else { b'-' };
    match sender {
        b"" => line.extend_from_slice(b"MAILER-DAEMON"),
        // A reader would not take a longer line for a separator.
        _ => line.extend(sender.iter().take(LONGEST_SEPARATOR / 2).map(plain)),
    }
    line.push(b' ');
    line.extend_from_slice(date::asctime(unix_time).as_bytes());
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_of_many_programs_are_known() {
        for line in [
            "From bob@mx.example Sun Nov 22 04:27:00 2026\n",
            "From bob@mx.example  Sun Nov  2 04:27:00 2026",
            "From MAILER-DAEMON Sun Nov 22 04:27 2026\r\n",
            "From bob Sun Nov 22 04:27:00 CET 2026\n",
            "From bob Sun Nov 22 04:27:00 2026 +0100\n",
            "From bob Sun Nov 22 04:27:00 2026 remote from host\n",
            "From \"a b\"@mx.example Sun Nov 22 04:27:00 2026\n",
        ] {
            assert!(is_separator(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn sentences_are_no_separators() {
        for line in [
            "From the beginning\n",
            "From: bob Sun Nov 22 04:27:00 2026\n",
            ">From bob Sun Nov 22 04:27:00 2026\n",
            "From Sun Nov to December, 2026\n",
            "From bob Sun Nov 22 04:27:00\n",
            "From \n",
            "From",
            "",
        ] {
            assert!(!is_separator(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn what_is_written_is_a_separator_whoever_sent_it() {
        for sender in [&b""[..], b"bob@mx.example", b"\"a b\nFrom x\"@mx.example", b"\xff", &[b'x'; 5000]] {
            let line = separator(sender, 1_795_317_577);
            assert!(is_separator(&line), "{}", line.escape_ascii());
            assert_eq!(line.iter().filter(|octet| **octet == b'\n').count(), 1);
        }
        assert_eq!(separator(b"", 0), b"From MAILER-DAEMON Thu Jan  1 00:00:00 1970\n");
    }
}
