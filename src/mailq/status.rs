//! Where is my mail? A user who may not read the queue asks on a unix socket, and is told of the messages that this uid has
//! handed in, by the kernel's word about who asks.
//!
//! The question is one line, `text` or `json`; the answer is the list, and the end of the connection. Whoever does not read
//! it is left after some seconds.

use super::{Format, Selection, list};
use crate::config::Config;
use crate::exit::Error;
use crate::queue::Queue;
use std::io::{self, Read, Write};
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

/// Asks, and writes the answer to `out`.
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
    let lost = |error: io::Error| Error::Temporary(format!("{}: {error}", path.display()));
    stream.set_read_timeout(Some(PATIENCE)).map_err(lost)?;
    stream.write_all(if format == Format::Json { b"json\n" } else { b"text\n" }).map_err(lost)?;
    io::copy(&mut stream.take(LONGEST), out).map_err(lost)?;
    Ok(())
}
