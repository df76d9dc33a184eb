//! Where records go: standard error, or syslog when standard error is the client.
//!
//! Under inetd and under systemd's `StandardInput=socket` descriptor 2 is the client too, and a panic, an allocation
//! failure, ld.so and clap all write there. So [`start`] is the first act of every main: if descriptor 2 may be the
//! client, /dev/null is put over it, and records go to /dev/log. (Where it is an inet socket `sys` does that even
//! before std starts, which may break there too.)
//!
//! A record is one line of printable ASCII, at most 1 KB; whatever else stands in it is written `\xNN`.

use crate::sys;
use nix::sys::signal::Signal;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, OnceLock};

/// What stands on standard input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// A client and its protocol: nothing else may ever be written there.
    ToClient,
    /// A person or a script: a tool.
    ToPeople,
    /// A program that takes what is on standard error for trouble, as cron does of sendmail: records go to syslog, and
    /// only warnings and errors there too.
    ToCaller,
}

/// Where syslogd listens.
const SYSLOG: &str = "/dev/log";

/// Longest record, in octets.
const LONGEST: usize = 1024;

struct Tag {
    program: &'static str,
    name: String,
    facility: u8,
}

static TAG: OnceLock<Mutex<Tag>> = OnceLock::new();

/// The socket to syslogd, the one that was opened last; -1 where there is none.
static SOCKET: AtomicI32 = AtomicI32::new(-1);

static DETACHED: OnceLock<Option<UnixDatagram>> = OnceLock::new();

enum Sink {
    Stderr,
    Journal,
    Syslog(Option<UnixDatagram>),
    Both(Option<UnixDatagram>),
}

/// Secures descriptor 2, then starts logging. Must come before anything that can fail or print.
pub fn start(program: &'static str, speaks: Speaks) {
    let sink = choose(speaks);
    // Mailboxes, the queue, and the records themselves: a file that may grow no more is an error of write.
    sys::ignore(Signal::SIGXFSZ);
    let _ = TAG.set(Mutex::new(Tag { program, name: "doorpost".to_owned(), facility: 2 << 3 }));
    // Nobody would read a record: none is made.
    let is_deaf = matches!(sink, Sink::Syslog(None)) || (matches!(sink, Sink::Stderr) && is_null(&io::stderr()));
    let with_priority = !matches!(sink, Sink::Stderr);
    let with_facility = matches!(sink, Sink::Syslog(_) | Sink::Both(_));
    let filters = std::env::var("RUST_LOG").ok();
    env_logger::Builder::new()
        .filter_level(if filters.is_some() { log::LevelFilter::Info } else { log::LevelFilter::Trace })
        .parse_filters(filters.as_deref().unwrap_or_default())
        .format(move |out, record| {
            let is_detached = DETACHED.get().is_some();
            let (with_priority, with_facility) = (with_priority || is_detached, with_facility || is_detached);
            let mut line = String::with_capacity(200);
            if let Some(tag) = TAG.get().and_then(|tag| tag.lock().ok()) {
                if with_priority {
                    let facility = if with_facility { tag.facility } else { 0 };
                    let _ = write!(line, "<{}>", facility | severity(record.level()));
                }
                let _ = write!(line, "{}/{}[{}]: ", tag.name, tag.program, std::process::id());
            }
            if record.level() <= log::Level::Warn {
                line.push_str(if record.level() == log::Level::Warn { "warning: " } else { "error: " });
            }
            let _ = write!(line, "{}", record.args());
            out.write_all(clean(line.as_bytes(), LONGEST).as_bytes())?;
            if with_facility { Ok(()) } else { out.write_all(b"\n") }
        })
        .target(env_logger::Target::Pipe(Box::new(sink)))
        .init();
    if is_deaf {
        log::set_max_level(log::LevelFilter::Off);
    } else if filters.is_none() {
        log::set_max_level(log::LevelFilter::Info);
    }
}

/// From now on into the background: descriptors 0 to 2 become /dev/null, and records go to syslog.
pub fn detach() {
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
    let syslog = connect();
    if syslog.is_some() && log::max_level() == log::LevelFilter::Off {
        // RUST_LOG's filters are looked at for each record.
        let is_filtered = std::env::var_os("RUST_LOG").is_some();
        log::set_max_level(if is_filtered { log::LevelFilter::Trace } else { log::LevelFilter::Info });
    }
    let _ = DETACHED.set(syslog);
}

/// From now on records of level debug as well, unless RUST_LOG says what is wanted.
pub fn debug() {
    verbose(1);
}

/// From now on more is logged: 1 also debug, 2 and above also trace, 0 nothing more; never less than before, and not if
/// RUST_LOG says what is wanted.
pub fn verbose(level: u32) {
    if std::env::var_os("RUST_LOG").is_some() {
        return;
    }
    let wanted = match level {
        0 => return,
        1 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    };
    log::set_max_level(wanted.max(log::max_level()));
}

/// From now on so much more than now is logged, as [`verbose`] counts, unless RUST_LOG says what is wanted.
pub fn more(increment: u32) {
    let now = match log::max_level() {
        log::LevelFilter::Trace => 2,
        log::LevelFilter::Debug => 1,
        _ => 0,
    };
    verbose(increment.saturating_add(now));
}

/// From now on only warnings and errors, unless RUST_LOG says what is wanted.
pub fn quiet() {
    if std::env::var_os("RUST_LOG").is_none() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}

/// The descriptor above 2 by which records leave, if there is one.
pub fn descriptor() -> Option<RawFd> {
    Some(SOCKET.load(Ordering::Relaxed)).filter(|number| *number > 2)
}

/// Takes name and facility from the configuration (`syslog_name`, `syslog_facility`).
pub fn configure(name: &str, facility: u8) {
    if let Some(mut tag) = TAG.get().and_then(|tag| tag.lock().ok()) {
        tag.name = name.to_owned();
        tag.facility = facility;
    }
}

/// Printable ASCII as it is, everything else as `\xNN`, at most `limit` octets: for records and reports.
pub fn clean(octets: &[u8], limit: usize) -> String {
    let is_clean = |octet: &u8| matches!(octet, b' '..=b'~');
    // As nearly all are.
    if octets.len() <= limit
        && octets.iter().all(is_clean)
        && let Ok(text) = std::str::from_utf8(octets)
    {
        return text.to_owned();
    }
    let mut text = String::with_capacity(octets.len().min(limit));
    // Where the dots go if not all of it fits.
    let mut end = 0;
    for octet in octets {
        if is_clean(octet) {
            text.push(char::from(*octet));
        } else {
            let _ = write!(text, "\\x{octet:02x}");
        }
        if text.len() > limit {
            text.truncate(end);
            text.push_str("...");
            break;
        }
        if text.len() + 3 <= limit {
            end = text.len();
        }
    }
    text
}

/// What others chose as the value of a field in a record: without blanks, so that it cannot pretend to be another field. A
/// text of theirs stands in quotation marks instead, by `{:?}`, which it cannot leave.
pub fn field(value: &impl std::fmt::Display) -> String {
    clean(value.to_string().as_bytes(), 300).replace(' ', "\\x20")
}

/// What [`clean`] has made, in quotation marks that it cannot leave: as by `{:?}`, but what is escaped there already is not
/// escaped again.
pub fn quoted(cleaned: &str) -> String {
    format!("{cleaned:?}").replace(r"\\x", r"\x")
}

fn severity(level: log::Level) -> u8 {
    match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    }
}

fn choose(speaks: Speaks) -> Sink {
    if is_journal() {
        return Sink::Journal;
    }
    if !may_be_client(speaks) {
        return if speaks == Speaks::ToCaller { Sink::Both(connect()) } else { Sink::Stderr };
    }
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stderr(&null);
    }
    Sink::Syslog(connect())
}

/// systemd names the journal's stream by device and inode, so that we can tell it from a client.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    identity(&io::stderr()).is_some_and(|(device, inode)| stream == format!("{device}:{inode}"))
}

fn may_be_client(speaks: Speaks) -> bool {
    use std::io::IsTerminal;
    let (stderr, [stdin, stdout]) = (io::stderr(), sys::stdio());
    if sys::client_was_on_stderr() {
        return true;
    }
    if speaks != Speaks::ToClient {
        return false;
    }
    // Started by hand: client and administrator are one.
    if stdin.is_terminal() && stderr.is_terminal() {
        return false;
    }
    let same = identity(&stderr).is_none_or(|own| identity(&stdin) == Some(own) || identity(&stdout) == Some(own));
    same || std::env::var_os("SSH_CONNECTION").is_some()
}

fn identity(stream: &impl AsFd) -> Option<(u64, u64)> {
    nix::sys::stat::fstat(stream).ok().map(|status| (status.st_dev, status.st_ino))
}

/// Whether it is /dev/null.
fn is_null(stream: &impl AsFd) -> bool {
    use nix::sys::stat::{SFlag, fstat, major, minor};
    let is_null = |status: nix::sys::stat::FileStat| {
        SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR
            && (major(status.st_rdev), minor(status.st_rdev)) == (1, 3)
    };
    cfg!(target_os = "linux") && fstat(stream).is_ok_and(is_null)
}

/// Opened early, for later there may be no /dev; non-blocking, for a stuck syslogd must not hold up mail.
fn connect() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect(SYSLOG).ok()?;
    SOCKET.store(socket.as_raw_fd(), Ordering::Relaxed);
    Some(socket)
}

/// Hands over a record; syslogd may have been started anew since the last one.
fn hand_over(socket: &UnixDatagram, place: &str, record: &[u8]) {
    let is_gone = |error: io::Error| matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotConnected);
    if socket.send(record).is_err_and(is_gone) {
        let _ = socket.connect(place).and_then(|()| socket.send(record));
    }
}

impl Write for Sink {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        if let Some(syslog) = DETACHED.get() {
            syslog.iter().for_each(|socket| hand_over(socket, SYSLOG, record));
            return Ok(record.len());
        }
        match self {
            Sink::Stderr | Sink::Journal => {
                let _ = io::stderr().write_all(record);
            }
            Sink::Syslog(Some(socket)) => {
                hand_over(socket, SYSLOG, record);
            }
            Sink::Both(socket) => {
                socket.iter().for_each(|socket| hand_over(socket, SYSLOG, record));
                // `<22>doorpost/submit[1]: warning: ...`: the last three bits are the severity.
                let end = record.iter().position(|octet| *octet == b'>').unwrap_or(0);
                let number = record.get(1..end).and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u8>().ok());
                if number.is_none_or(|number| number & 7 <= severity(log::Level::Warn)) {
                    let line = [record.get(end + 1..).unwrap_or_default(), b"\n"].concat();
                    let _ = io::stderr().write_all(&line);
                }
            }
            Sink::Syslog(None) => {}
        }
        // A log that cannot be written must never be a reason to lose mail.
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_fits_is_whole_and_what_does_not_ends_with_dots() {
        for (octets, limit, expected) in [
            (&b"12345678"[..], 8, "12345678"),
            (b"123456789", 8, "12345..."),
            (b"\x01\x02", 8, "\\x01\\x02"),
            (b"\x01\x02\x03", 8, "\\x01..."),
            (b"\x01\x023", 8, "\\x01..."),
            (b"\x01\x02\x03", 7, "\\x01..."),
        ] {
            assert_eq!(clean(octets, limit), expected, "{octets:?} {limit}");
        }
    }

    #[test]
    fn what_is_quoted_is_escaped_once_and_stays_in_its_marks() {
        for (octets, expected) in [
            (&b"plain"[..], r#""plain""#),
            (b"\x1b[2J \"no\"", r#""\x1b[2J \"no\"""#),
            (br#"\" reason="x\"#, r#""\\\" reason=\"x\\""#),
            (b"\\\x1b\\", r#""\\\x1b\\""#),
        ] {
            assert_eq!(quoted(&clean(octets, 100)), expected, "{octets:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_longer_than_its_limit(octets: Vec<u8>, limit in 3..500_usize) {
            prop_assert!(clean(&octets, limit).len() <= limit);
        }
    }

    #[test]
    fn a_syslogd_that_was_started_anew_gets_what_comes_then() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("log");
        let text = place.to_str().unwrap();
        let mut syslogd = UnixDatagram::bind(&place).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect(&place).unwrap();
        for record in [b"one", b"two"] {
            hand_over(&socket, text, record);
            let mut room = [0; 10];
            let count = syslogd.recv(&mut room).unwrap();
            assert_eq!(&room[..count], record);
            drop(syslogd);
            std::fs::remove_file(&place).unwrap();
            // Nobody is there for a while.
            hand_over(&socket, text, b"lost");
            syslogd = UnixDatagram::bind(&place).unwrap();
        }
    }
}
