//! Handing a message to another host by QMQP (cr.yp.to/proto/qmqp.html): `qmqp:host`, `qmqp:host:port`, or several of
//! them with commas between, of which the next is asked only where there is no connection to the one before.
//!
//! One connection carries one recipient, whose sender is expanded where it is variable. An answer is believed as soon
//! as its first octet has come; none at all means "later", and the message may then be there twice, as always with a
//! protocol whose answer can be lost.

use super::Outcome;
use crate::logging::clean;
use crate::message::path::Address;
use crate::message::verp;
use crate::queue::Message;
use crate::wire::netstring::{self, LengthReader};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// The port of the service.
const PORT: u16 = 628;

/// How long one address may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How long the other side may take for a read or a write.
const PATIENCE: Duration = Duration::from_secs(300);

/// Longest answer.
const LONGEST_ANSWER: u64 = 2000;

/// Hands one recipient's copy to the first of `hosts` that takes a connection.
pub fn deliver(hosts: &str, message: &Message, address: &Address) -> Outcome {
    let (host, stream) = match connect(hosts) {
        Ok(connected) => connected,
        Err(error) => {
            log::info!("id={} to=<{address}> qmqp={hosts}: {error}", message.id);
            return Outcome::Deferred("4.4.1 no connection to the QMQP server".to_owned());
        }
    };
    match hand_over(&stream, message, address).and_then(|complete| Ok((complete, answer(&mut &stream)?))) {
        Ok((true, (b'K', _))) => Outcome::Delivered,
        Ok((_, (b'D', text))) => Outcome::Failed(format!("5.0.0 {host:.40} said: {text}")),
        Ok((_, (b'Z', text))) => Outcome::Deferred(format!("4.0.0 {host:.40} said: {text}")),
        Ok(_) => Outcome::Deferred(format!("4.5.0 {host:.40} said something else than an answer")),
        Err(error) => {
            log::info!("id={} to=<{address}> qmqp={host}: {error}", message.id);
            Outcome::Deferred(format!("4.4.2 the connection to {host:.40} was lost"))
        }
    }
}

fn connect(hosts: &str) -> io::Result<(&str, TcpStream)> {
    let mut trouble = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for host in hosts.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        let addresses = match host_and_port(host).to_socket_addrs() {
            Ok(addresses) => addresses,
            Err(error) => {
                trouble = error;
                continue;
            }
        };
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    stream.set_nodelay(true)?;
                    return Ok((host, stream));
                }
                Err(error) => trouble = error,
            }
        }
    }
    Err(trouble)
}

/// `host`, `host:port`, `[address]` or `[address]:port`; channel/parse.rs has looked at it.
fn host_and_port(text: &str) -> (&str, u16) {
    let (host, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    (host, port.and_then(|port| port.parse().ok()).unwrap_or(PORT))
}

/// Sends the package. False: the other side stopped listening, and has perhaps said why.
fn hand_over(mut stream: &TcpStream, message: &Message, address: &Address) -> io::Result<bool> {
    let mut envelope = vec![b','];
    netstring::put(&mut envelope, verp::expand(&message.reverse_path, address).as_bytes());
    netstring::put(&mut envelope, address.as_bytes());
    let begin = format!("{}:", message.size);
    let inside = begin.len() as u64 + message.size + envelope.len() as u64;
    envelope.push(b',');
    let mut out = format!("{inside}:{begin}").into_bytes();
    let mut piece = vec![0; 64 * 1024];
    let mut offset = 0;
    loop {
        let count = message.read_at(&mut piece, offset).map_err(|error| io::Error::other(error.to_string()))?;
        out.extend_from_slice(piece.get(..count).unwrap_or_default());
        offset += count as u64;
        if count == 0 {
            out.extend_from_slice(&envelope);
        }
        match stream.write_all(&out) {
            Ok(()) if count == 0 => return Ok(true),
            Ok(()) => out.clear(),
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The first octet of the answer, and the text behind it as far as it comes.
fn answer(stream: &mut impl Read) -> io::Result<(u8, String)> {
    let nonsense = || io::Error::from(io::ErrorKind::InvalidData);
    let mut octet = [0];
    let mut length = LengthReader::new(LONGEST_ANSWER);
    let left = loop {
        read_one(stream, &mut octet)?;
        if let Some(length) = length.push(octet[0]).map_err(|_| nonsense())? {
            break length;
        }
    };
    if left == 0 {
        return Err(nonsense());
    }
    read_one(stream, &mut octet)?;
    let mut text = Vec::new();
    // What is missing of the text changes nothing. The comma is read too, or our close would be a reset.
    let _ = stream.take(left).read_to_end(&mut text);
    text.truncate(usize::try_from(left - 1).unwrap_or(usize::MAX));
    Ok((octet[0], clean(&text, 70)))
}

fn read_one(stream: &mut impl Read, octet: &mut [u8; 1]) -> io::Result<()> {
    stream.read_exact(octet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_are_taken_apart() {
        for (text, expected) in [
            ("mx.example", ("mx.example", 628)),
            ("mx.example:1628", ("mx.example", 1628)),
            ("[192.0.2.1]", ("192.0.2.1", 628)),
            ("[2001:db8::1]:7", ("2001:db8::1", 7)),
        ] {
            assert_eq!(host_and_port(text), expected, "{text}");
        }
    }

    #[test]
    fn an_answer_is_believed_by_its_first_octet_and_nonsense_never() {
        let answered = |octets: &[u8]| answer(&mut &octets[..]).ok();
        assert_eq!(answered(b"5:Kfine,"), Some((b'K', "fine".to_owned())));
        assert_eq!(answered(b"5:Kfi"), Some((b'K', "fi".to_owned())));
        assert_eq!(answered(b"8:D\x1b[31mno,"), Some((b'D', "\\x1b[31mno".to_owned())));
        for wrong in [&b""[..], b"5", b"5:", b"0:,", b"K", b"99999:K", b"05:Kfine,", b"220 mx.example ESMTP\r\n"] {
            assert_eq!(answered(wrong), None, "{}", wrong.escape_ascii());
        }
    }
}
