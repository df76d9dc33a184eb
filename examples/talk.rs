//! talk - a small client for the quick start: shows a dialogue as it goes, `C:` the client, `S:` the server
//!
//! ```text
//! talk smtp ADDRESS:PORT SENDER RECIPIENT < message     sends one message
//! talk qmqp ADDRESS:PORT SENDER RECIPIENT < message     the same by QMQP
//! talk pop3 ADDRESS:PORT USER PASSWORD FOLDER           reads all messages, and keeps them as FOLDER/1, FOLDER/2, ...
//! ```
//!
//! Messages have LF line ends outside and CRLF on the wire of SMTP and POP3. It waits for each reply before it goes on,
//! and ends with status 1 at the first that is no success. It is an example of the protocols, not a mail program.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["smtp", address, sender, recipient] => Talk::to(address).and_then(|talk| smtp(talk, sender, recipient)),
        ["qmqp", address, sender, recipient] => Talk::to(address).and_then(|talk| qmqp(talk, sender, recipient)),
        ["pop3", address, user, password, folder] => {
            Talk::to(address).and_then(|talk| pop3(talk, user, password, Path::new(folder)))
        }
        _ => Err(io::Error::other(
            "usage: talk smtp|qmqp ADDRESS:PORT FROM TO, talk pop3 ADDRESS:PORT USER PASSWORD DIR",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "talk: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A connection whose dialogue is shown.
struct Talk {
    server: BufReader<TcpStream>,
}

impl Talk {
    fn to(address: &str) -> io::Result<Talk> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Talk { server: BufReader::new(stream) })
    }

    /// Sends one line, and its CRLF.
    fn say(&mut self, line: &[u8]) -> io::Result<()> {
        show("C:", line)?;
        self.server.get_mut().write_all(&[line, b"\r\n"].concat())
    }

    /// One line of the server, without its CRLF.
    fn hear(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.server.read_until(b'\n', &mut line)?;
        let line = line.strip_suffix(b"\r\n").ok_or_else(|| io::Error::other("the server hung up"))?;
        show("S:", line)?;
        Ok(line.to_vec())
    }

    /// A reply of SMTP, which may have several lines; it must begin with `code`.
    fn expect(&mut self, code: &str) -> io::Result<()> {
        loop {
            let line = self.hear()?;
            if !line.starts_with(code.as_bytes()) {
                return Err(io::Error::other(format!("expected {code}")));
            }
            if line.get(3) != Some(&b'-') {
                return Ok(());
            }
        }
    }

    /// A reply of POP3; it must be a good one.
    fn expect_ok(&mut self) -> io::Result<Vec<u8>> {
        let line = self.hear()?;
        if line.starts_with(b"+OK") { Ok(line) } else { Err(io::Error::other("expected +OK")) }
    }
}

/// One line of the dialogue; what is not printable in it is written as in a string of Rust.
fn show(who: &str, octets: &[u8]) -> io::Result<()> {
    let mut line = who.to_owned();
    if !octets.is_empty() {
        line.push(' ');
    }
    for character in String::from_utf8_lossy(octets).chars() {
        if character.is_control() && character != '\t' {
            line.extend(character.escape_debug());
        } else {
            line.push(character);
        }
    }
    writeln!(io::stdout(), "{line}")
}

fn message() -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    io::stdin().read_to_end(&mut message)?;
    Ok(message)
}

fn smtp(mut talk: Talk, sender: &str, recipient: &str) -> io::Result<()> {
    talk.expect("220")?;
    let commands = [
        "EHLO client.example".to_owned(),
        format!("MAIL FROM:<{sender}> BODY=8BITMIME"),
        format!("RCPT TO:<{recipient}>"),
    ];
    for command in commands {
        talk.say(command.as_bytes())?;
        talk.expect("250")?;
    }
    talk.say(b"DATA")?;
    talk.expect("354")?;
    for line in message()?.split_inclusive(|octet| *octet == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        // A leading dot is doubled: a dot alone ends the message.
        let dot: &[u8] = if line.starts_with(b".") { b"." } else { b"" };
        talk.say(&[dot, line].concat())?;
    }
    talk.say(b".")?;
    talk.expect("250")?;
    talk.say(b"QUIT")?;
    talk.expect("221")
}

fn qmqp(mut talk: Talk, sender: &str, recipient: &str) -> io::Result<()> {
    let netstring = |octets: &[u8]| [octets.len().to_string().as_bytes(), b":", octets, b","].concat();
    let inside = [netstring(&message()?), netstring(sender.as_bytes()), netstring(recipient.as_bytes())].concat();
    let package = netstring(&inside);
    show("C:", &package)?;
    talk.server.get_mut().write_all(&package)?;
    let mut reply = Vec::new();
    talk.server.read_to_end(&mut reply)?;
    show("S:", &reply)?;
    if reply.windows(2).any(|pair| pair == b":K") { Ok(()) } else { Err(io::Error::other("not queued")) }
}

fn pop3(mut talk: Talk, user: &str, password: &str, folder: &Path) -> io::Result<()> {
    talk.expect_ok()?;
    for command in [format!("USER {user}"), format!("PASS {password}"), "STAT".to_owned()] {
        talk.say(command.as_bytes())?;
        let reply = talk.expect_ok()?;
        if command != "STAT" {
            continue;
        }
        let reply = String::from_utf8_lossy(&reply).into_owned();
        let count: usize = reply.split(' ').nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
        for number in 1..=count {
            talk.say(format!("RETR {number}").as_bytes())?;
            talk.expect_ok()?;
            let mut file = File::create(folder.join(number.to_string()))?;
            loop {
                let line = talk.hear()?;
                match line.strip_prefix(b".") {
                    Some(b"") => break,
                    Some(rest) => writeln_octets(&mut file, rest)?,
                    None => writeln_octets(&mut file, &line)?,
                }
            }
        }
    }
    talk.say(b"QUIT")?;
    talk.expect_ok().map(drop)
}

fn writeln_octets(file: &mut File, line: &[u8]) -> io::Result<()> {
    file.write_all(&[line, b"\n"].concat())
}
