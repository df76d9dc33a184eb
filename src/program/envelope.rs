//! The envelope on descriptor 1 of a program of qmail-queue's interface: `F` sender NUL, `T` recipient NUL for each, and a
//! last NUL (qmail-queue(8)). Written for the programs that we run, and read where such a program is what we are.

use super::nameless;
use crate::message::path::{Address, LONGEST_ADDRESS, ReversePath};
use std::fs::File;
use std::io::{self, BufRead, Read, Seek, Write};

/// Why what was read is no envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be read to its end.
    Unreadable,
    /// An address is too long.
    TooLong,
    /// It is wrong.
    Wrong,
}

/// One in a file without a name, to be read from its beginning. No address has a NUL, which would end it in the middle.
pub fn written<'a>(sender: &ReversePath, recipients: impl IntoIterator<Item = &'a Address>) -> io::Result<File> {
    let mut octets = [b"F", sender.as_bytes(), b"\0"].concat();
    for address in recipients {
        octets.extend_from_slice(&[b"T", address.as_bytes(), b"\0"].concat());
    }
    octets.push(0);
    let mut file = nameless()?;
    file.write_all(&octets)?;
    file.rewind()?;
    Ok(file)
}

/// Reads the sender, which comes first.
pub fn sender(input: &mut dyn BufRead) -> Result<ReversePath, Fault> {
    let octets = record(input, b'F')?.ok_or(Fault::Wrong)?;
    ReversePath::from_internal(&octets).map_err(|_| Fault::Wrong)
}

/// Reads the next recipient, behind the sender; nothing at the last NUL.
pub fn recipient(input: &mut dyn BufRead) -> Result<Option<Address>, Fault> {
    let octets = record(input, b'T')?;
    octets.map(|octets| Address::from_internal(&octets).map_err(|_| Fault::Wrong)).transpose()
}

/// One address with the letter before it; nothing at the last NUL.
fn record(input: &mut dyn BufRead, letter: u8) -> Result<Option<Vec<u8>>, Fault> {
    let mut octets = Vec::new();
    let longest = LONGEST_ADDRESS + 2;
    input.take(longest as u64).read_until(0, &mut octets).map_err(|_| Fault::Unreadable)?;
    match octets.split_last() {
        // Cut off: an end of input is no end of an envelope.
        None => Err(Fault::Unreadable),
        Some((0, [])) if letter == b'T' => Ok(None),
        Some((0, record)) => match record.split_first() {
            Some((first, address)) if *first == letter => Ok(Some(address.to_vec())),
            _ => Err(Fault::Wrong),
        },
        Some(_) if octets.first() != Some(&letter) => Err(Fault::Wrong),
        Some(_) if octets.len() == longest => Err(Fault::TooLong),
        Some(_) => Err(Fault::Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn read(mut input: &mut dyn BufRead) -> Result<(ReversePath, Vec<Address>), Fault> {
        let (sender, mut recipients) = (sender(&mut input)?, Vec::new());
        while let Some(address) = recipient(&mut input)? {
            recipients.push(address);
        }
        Ok((sender, recipients))
    }

    #[test]
    fn what_is_written_is_read_and_what_is_no_envelope_is_told_apart() {
        let address = |text: &str| Address::from_internal(text.as_bytes()).unwrap();
        for (sender, recipients, expected) in [
            ("a@x", &["b@x", "c@x"][..], &b"Fa@x\0Tb@x\0Tc@x\0\0"[..]),
            ("", &["b"], b"F\0Tb\0\0"),
            (&"a".repeat(LONGEST_ADDRESS), &[], &[b"F", &[b'a'; LONGEST_ADDRESS][..], b"\0\0"].concat()),
        ] {
            let sender = ReversePath::from_internal(sender.as_bytes()).unwrap();
            let recipients: Vec<_> = recipients.iter().map(|text| address(text)).collect();
            let (mut file, mut octets) = (written(&sender, &recipients).unwrap(), Vec::new());
            file.read_to_end(&mut octets).unwrap();
            assert_eq!(octets, expected);
            file.rewind().unwrap();
            assert_eq!(read(&mut BufReader::new(file)), Ok((sender, recipients)));
        }
        for (octets, fault) in [
            (&b""[..], Fault::Unreadable),
            (b"Fa@x\0Tb@x\0", Fault::Unreadable),
            (b"Fa@x", Fault::Unreadable),
            (b"\0", Fault::Wrong),
            (b"Ta@x\0\0", Fault::Wrong),
            (b"Fa@x\0Fb@x\0\0", Fault::Wrong),
            (b"Fa@x\0T\0\0", Fault::Wrong),
            (b"Fa\n\0\0", Fault::Wrong),
            (&[&b"F"[..], &[b'a'; LONGEST_ADDRESS + 1], b"\0\0"].concat(), Fault::TooLong),
            (&[&b"F\0T"[..], &[b'a'; LONGEST_ADDRESS + 1], b"\0\0"].concat(), Fault::TooLong),
            (&[&b"F\0T"[..], &[b'a'; LONGEST_ADDRESS + 2], b"\0\0"].concat(), Fault::TooLong),
            (&[&b"F"[..], &[b'a'; 2 * LONGEST_ADDRESS], b"\0\0"].concat(), Fault::TooLong),
            (&[b'a'; 2 * LONGEST_ADDRESS], Fault::Wrong),
        ] {
            let mut input = octets;
            assert_eq!(read(&mut input), Err(fault), "{octets:?}");
        }
    }
}
