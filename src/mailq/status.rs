//! Where is my mail? A user who may not read the queue asks on a unix socket, and is told of the messages that this uid has
//! handed in, by the kernel's word about who asks.
//!
//! The question is one line, `text` or `json`; the answer is the list, and the end of the connection. Whoever does not read
//! it is left after some seconds.

use super::{Format, Selection, list};
use crate::config::Config;
use crate::exit::Error;
use crate::queue::Queue;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// How long who asks may be silent, or who is asked.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest answer that is taken.
const LONGEST: u64 = 64 << 20;

/// Where the socket is.
pub fn path(config: &Config) -> PathBuf {
    config.drop_directory.join("status")
}

/// Answers one user.
pub fn answer(queue: &Queue, mut stream: UnixStream, uid: u32) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut question = [0; 5];
    stream.read_exact(&mut question)?;
    let format = match &question {
        b"json\n" => Format::Json,
        b"text\n" => Format::Text,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let mut out = io::BufWriter::new(&mut stream);
    list(queue, &mut out, format, &Selection::OfUser(uid))?;
    out.flush()
}

/// Asks, and writes the answer to `out`, if it comes from one of ours: anybody may put a socket into that folder. Of what is
/// said only what a list is made of reaches the terminal.
pub fn ask(config: &Config, format: Format, out: &mut dyn Write) -> Result<(), Error> {
    let path = path(config);
    let nobody = |error: io::Error| {
        Error::Permission(format!(
            "queue_directory {}: only its owner may read it, and nobody answers at {}: {error}",
            config.queue_directory.display(),
            path.display()
        ))
    };
    let mut stream = UnixStream::connect(&path).map_err(nobody)?;
    if let Some(uid) = stranger(config, &stream) {
        return Err(Error::Permission(format!("{}: uid {uid} is not to say what is in the queue", path.display())));
    }
    let lost = |error: io::Error| Error::Temporary(format!("{}: {error}", path.display()));
    stream.set_read_timeout(Some(PATIENCE)).map_err(lost)?;
    stream.write_all(if format == Format::Json { b"json\n" } else { b"text\n" }).map_err(lost)?;
    let (mut answer, mut piece) = (stream.take(LONGEST), vec![0; 16 * 1024]);
    loop {
        let count = match answer.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(lost(error)),
        };
        let said = piece.get_mut(..count).unwrap_or_default();
        said.iter_mut().filter(|octet| !matches!(octet, b' '..=b'~' | b'\n')).for_each(|octet| *octet = b'?');
        out.write_all(said).map_err(lost)?;
    }
}

/// Who listens there, by the kernel's word, if that is neither root nor the owner of the folder.
fn stranger(config: &Config, stream: &UnixStream) -> Option<u32> {
    let uid = getsockopt(stream, PeerCredentials).map_or(u32::MAX, |credentials| credentials.uid());
    let owner = std::fs::metadata(&config.drop_directory).map(|folder| folder.uid());
    Some(uid).filter(|uid| *uid != 0 && owner.ok() != Some(*uid))
}
