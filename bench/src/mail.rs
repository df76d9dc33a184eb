//! Messages, and mailboxes full of them.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

/// A message of about `size` octets with these line ends. No line begins with a dot or with `From `.
pub fn message(number: usize, size: usize, line_end: &str) -> Vec<u8> {
    let header = [
        "From: Load <load@client.test>",
        "To: Box <box@peer.test>",
        &format!("Subject: message {number}"),
        "Date: Mon, 02 Mar 2026 10:00:00 +0000",
        &format!("Message-ID: <{number:08}@client.test>"),
        "",
    ];
    let mut text = Vec::with_capacity(size + 100);
    for line in header {
        text.extend_from_slice(line.as_bytes());
        text.extend_from_slice(line_end.as_bytes());
    }
    while text.len() < size {
        text.extend_from_slice(b"The quick brown fox jumps over the lazy dog, once more and then again.");
        text.extend_from_slice(line_end.as_bytes());
    }
    text
}

/// What an SMTP client sends behind DATA.
pub fn data(size: usize) -> Vec<u8> {
    let mut text = message(1, size, "\r\n");
    text.extend_from_slice(b".\r\n");
    text
}

/// What a QMQP client sends.
pub fn package(size: usize) -> Vec<u8> {
    let mut inner = Vec::new();
    for part in [&message(1, size, "\n")[..], b"load@client.test", b"box@peer.test"] {
        netstring(part, &mut inner);
    }
    let mut whole = Vec::new();
    netstring(&inner, &mut whole);
    whole
}

fn netstring(octets: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{}:", octets.len()).as_bytes());
    out.extend_from_slice(octets);
    out.push(b',');
}

/// Whether the names of a Maildir's files tell how large they are, as those that Dovecot and doorpost write do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// `,S=` and `,W=`.
    WithSizes,
    /// Of other programs.
    Bare,
}

/// A mailbox of a kind of messages.
#[derive(Debug, Clone, Copy)]
pub struct Box {
    /// How many.
    pub count: usize,
    /// How large each is, about.
    pub size: usize,
    /// How their files are called in a Maildir.
    pub names: Names,
}

/// A new Maildir whose messages have been seen.
pub fn maildir(path: &Path, mail: Box, owner: Option<(u32, u32)>) -> io::Result<()> {
    for folder in ["", "tmp", "new", "cur"] {
        let folder = path.join(folder);
        fs::create_dir_all(&folder)?;
        give(&folder, owner)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
    }
    for number in 0..mail.count {
        let text = message(number, mail.size, "\n");
        let lines = text.iter().filter(|octet| **octet == b'\n').count();
        let sizes = match mail.names {
            Names::WithSizes => format!(",S={},W={}", text.len(), text.len() + lines),
            Names::Bare => String::new(),
        };
        let file = path.join(format!("cur/{}.M{number}P1.mx.peer.test{sizes}:2,S", 1_772_445_600 + number));
        fs::write(&file, &text)?;
        give(&file, owner)?;
    }
    Ok(())
}

/// A new mbox file.
pub fn mbox(path: &Path, mail: Box, owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    for number in 0..mail.count {
        file.write_all(b"From load@client.test Mon Mar  2 10:00:00 2026\n")?;
        file.write_all(&message(number, mail.size, "\n"))?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    give(path, owner)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

/// One more message in a Maildir, which nobody has seen.
pub fn arrive(path: &Path, number: usize, owner: Option<(u32, u32)>) -> io::Result<()> {
    let text = message(number, 0, "\n");
    let lines = text.iter().filter(|octet| **octet == b'\n').count();
    let name = format!("{}.N{number}P1.mx.peer.test,S={},W={}", 1_782_445_600 + number, text.len(), text.len() + lines);
    let draft = path.join("tmp").join(&name);
    fs::write(&draft, &text)?;
    give(&draft, owner)?;
    fs::rename(draft, path.join("new").join(name))
}

/// One more message in an mbox file.
pub fn append(path: &Path, number: usize) -> io::Result<()> {
    let text = [b"From load@client.test Mon Mar  2 10:00:00 2026\n", &message(number, 0, "\n")[..], b"\n"].concat();
    fs::OpenOptions::new().append(true).open(path)?.write_all(&text)
}

/// Gives a file to an owner, where we may.
pub fn give(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    match owner {
        Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

/// Messages that were delivered to a Maildir and not looked at.
pub fn delivered(maildir: &Path) -> usize {
    fs::read_dir(maildir.join("new")).map_or(0, Iterator::count)
}
