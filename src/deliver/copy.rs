//! One recipient's copy of a message: how it is called in a Maildir, what is written, and the address that others may see.

use super::expand::Route;
use crate::message::path::{Address, ReversePath};
use crate::message::verp;
use crate::queue::Message;
use std::io::{self, Read};
use std::time::SystemTime;

/// A message for one of its recipients.
pub struct Copy<'a> {
    /// The message.
    pub message: &'a Message,
    /// The recipient's number.
    pub number: usize,
    /// The recipient's address, with its domain.
    pub address: &'a Address,
    /// An earlier try may have come to its end.
    pub search: bool,
}

impl<'a> Copy<'a> {
    /// The unique part of the message's file name: from the queue id and the recipient's number alone, so that a repeat
    /// has the same, also where a power cut brought back what the message was made of. Short, because it is a unique-id of
    /// POP3 with the sizes behind it: 70 octets in all.
    pub fn base(&self, host: &str) -> String {
        let seconds = self.message.id.time().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let host = host.split('.').next().unwrap_or_default();
        let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(12).collect();
        let host = if host.is_empty() { "localhost" } else { &host };
        format!("{seconds}.Q{}R{}.{host}", self.message.id, self.number)
    }

    /// What is written for this recipient: the sender is expanded where that is wanted (VERP).
    pub fn content(&self) -> Content<'a> {
        Content::new(self.message, &verp::expand(&self.message.reverse_path, self.address))
    }
}

/// The address of a recipient as others may see it: what an alias or a `~/.forward` made of it is nobody's affair.
pub fn public_address(message: &Message, address: &Address) -> Address {
    let Some(route) = Route::of(message) else { return address.clone() };
    let local = address.local_part();
    match local.split_first() {
        Some((b'\\' | b'~', user)) => {
            let domain = address.domain().unwrap_or_default();
            Address::from_internal(&[user, b"@", domain].concat()).unwrap_or(route.address)
        }
        Some((b'|' | b'/', _)) => route.address,
        _ => address.clone(),
    }
}

/// What is written: the Return-Path field, then trace field and content as they are queued.
///
/// Return-Path fields that came with the message are left alone: ours is the first line, and what was sent arrives
/// octet by octet (RFC 5321 section 4.4 lets us remove them, and asks for it of nobody but gateways).
pub struct Content<'a> {
    message: &'a Message,
    field: Vec<u8>,
    offset: u64,
}

impl<'a> Content<'a> {
    /// That of a message, with this sender.
    pub fn new(message: &'a Message, reverse_path: &ReversePath) -> Self {
        Content { message, field: format!("Return-Path: {reverse_path}\n").into_bytes(), offset: 0 }
    }

    /// Its octets.
    pub fn size(&self) -> u64 {
        (self.field.len() as u64).saturating_add(self.message.size)
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let in_field = self.field.len() as u64;
        let count = match self.offset.checked_sub(in_field) {
            None => {
                let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
                self.field.get(start..).unwrap_or_default().read(buffer)?
            }
            Some(offset) => self.message.read_at(buffer, offset).map_err(|_| io::ErrorKind::UnexpectedEof)?,
        };
        if count == 0 && !buffer.is_empty() && self.offset < self.size() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset = self.offset.saturating_add(count as u64);
        Ok(count)
    }
}
