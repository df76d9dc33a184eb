//! Reverse-path, forward-path, mailbox, domain (RFC 5321 section 4.1.2).
//!
//! Inside doorpost an address is octets in the *internal form*: local part without quoting, `@`, domain; the last
//! `@` divides. It is what QMQP carries and what the queue file holds. [`parse`] takes the quoted form of SMTP,
//! `Display` gives it back.

use std::fmt;

/// RFC 5321 section 4.5.3.1.3 allows 254 octets between the angle brackets; quoting may double a local part.
pub const LONGEST_ADDRESS: usize = 1000;

/// An address in internal form: not empty, no NUL, CR or LF, at most [`LONGEST_ADDRESS`] octets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address(Box<[u8]>);

/// Why octets are not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not follow the grammar.
    Syntax,
    /// It is longer than addresses may be.
    TooLong,
    /// It has octets above 127, which need SMTPUTF8.
    NotAscii,
}

impl Address {
    /// Takes the internal form.
    pub fn from_internal(octets: &[u8]) -> Result<Address, Fault> {
        if octets.len() > LONGEST_ADDRESS {
            return Err(Fault::TooLong);
        }
        if octets.is_empty() || octets.iter().any(|octet| matches!(octet, 0 | b'\r' | b'\n')) {
            return Err(Fault::Syntax);
        }
        Ok(Address(octets.into()))
    }

    /// The internal form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What stands before the last `@`; all of it where there is none.
    pub fn local_part(&self) -> &[u8] {
        self.at().map_or(&self.0, |at| &self.0[..at])
    }

    /// What stands behind the last `@`; an address literal with its brackets.
    pub fn domain(&self) -> Option<&[u8]> {
        self.at().map(|at| &self.0[at + 1..])
    }

    /// The same address with `domain` where it had none (`postmaster`).
    pub fn or_at(&self, domain: &str) -> Address {
        match self.at() {
            Some(_) => self.clone(),
            None => Address([&self.0[..], b"@", domain.as_bytes()].concat().into()),
        }
    }

    fn at(&self) -> Option<usize> {
        self.0.iter().rposition(|octet| *octet == b'@')
    }
}

/// The quoted form: a local part that is no dot-string becomes a quoted string (RFC 5321 section 4.1.2).
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = self.local_part();
        let mut atoms = local.split(|octet| *octet == b'.');
        if atoms.all(|atom| !atom.is_empty() && atom.iter().all(|octet| is_atext(*octet))) {
            f.write_str(&String::from_utf8_lossy(local))?;
        } else {
            let mut quoted = Vec::with_capacity(local.len() + 8);
            for &octet in local {
                if matches!(octet, b'"' | b'\\') {
                    quoted.push(b'\\');
                }
                quoted.push(octet);
            }
            write!(f, "\"{}\"", String::from_utf8_lossy(&quoted))?;
        }
        match self.domain() {
            Some(domain) => write!(f, "@{}", String::from_utf8_lossy(domain)),
            None => Ok(()),
        }
    }
}

/// Where failures go: an address, or nobody (`<>`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReversePath(pub Option<Address>);

impl ReversePath {
    /// The null reverse-path, of messages that must not be answered.
    pub const NULL: ReversePath = ReversePath(None);

    /// Takes the internal form; empty is null.
    pub fn from_internal(octets: &[u8]) -> Result<ReversePath, Fault> {
        if octets.is_empty() { Ok(Self::NULL) } else { Address::from_internal(octets).map(|a| ReversePath(Some(a))) }
    }

    /// The internal form; null is empty.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], Address::as_bytes)
    }
}

/// In angle brackets, as in MAIL and Return-Path.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(address) => write!(f, "<{address}>"),
            None => f.write_str("<>"),
        }
    }
}

/// An octet of an atom (RFC 5322 section 3.2.3).
pub fn is_atext(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&octet)
}
