//! Times as seconds and as header fields have them, and a clock that stands.
//!
//! `--fixed SECONDS`: a session that is fed from a file or a pipe is answered alike each time, and answers can be compared.
//! The clock stands for what replies and queue files say: Received, Date, Message-ID and the id of a message. Challenges are
//! numbered, so whoever knows that can foresee them: nobody may be there whom a challenge is to keep out. Hence standard input
//! must be a file or a pipe, whose maker vouches for what is in it, and only the command line can ask for it. Timeouts, locks
//! and the age of passwords, logins and mail go by the machine's clock all the same.

use crate::exit::Error;
use crate::message::date::date;
use crate::sys;
use nix::sys::socket::{UnixAddr, getsockname};
use nix::sys::stat::{SFlag, fstat};
use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

static FIXED: OnceLock<u32> = OnceLock::new();

/// How many challenges there were.
static CHALLENGES: AtomicU64 = AtomicU64::new(0);

/// Has the clock stand so many seconds after 1970, if that is wanted, in a program that serves a client.
pub fn stand(seconds: Option<u32>) -> Result<(), Error> {
    // Who passes sockets beside it has clients for them.
    stand_if(seconds, "a file or a pipe", || is_file_or_pipe() && std::env::var_os("LISTEN_FDS").is_none())
}

/// The same in the submit of such a program, which has the other end of an unnamed pair of sockets: nobody can connect to that.
pub fn stand_for_server(seconds: Option<u32>) -> Result<(), Error> {
    let is_of_pair = || getsockname::<UnixAddr>(sys::stdio()[0].as_raw_fd()).is_ok_and(|name| name.is_unnamed());
    stand_if(seconds, "a socketpair of the server that starts it", is_of_pair)
}

fn stand_if(seconds: Option<u32>, expected: &str, is_that: impl FnOnce() -> bool) -> Result<(), Error> {
    let Some(seconds) = seconds else { return Ok(()) };
    if !is_that() {
        return Err(Error::Usage(format!("--fixed: expected {expected} on standard input")));
    }
    FIXED.get_or_init(|| seconds);
    Ok(())
}

fn is_file_or_pipe() -> bool {
    let mode = fstat(sys::stdio()[0]).map_or(0, |status| status.st_mode);
    [SFlag::S_IFREG, SFlag::S_IFIFO].contains(&(SFlag::from_bits_truncate(mode) & SFlag::S_IFMT))
}

/// Whether it stands.
pub fn stands() -> bool {
    FIXED.get().is_some()
}

/// What a submit is told, so that its clock stands too.
pub fn arguments() -> Vec<OsString> {
    FIXED.get().map_or_else(Vec::new, |seconds| vec!["--fixed".into(), seconds.to_string().into()])
}

/// The time that a message came.
pub fn now() -> SystemTime {
    FIXED.get().map_or_else(SystemTime::now, |seconds| UNIX_EPOCH + Duration::from_secs((*seconds).into()))
}

/// How long after the beginning of 1970 a time is; no time at all by a clock of before.
pub fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A time in seconds since 1970.
pub fn seconds(time: SystemTime) -> i64 {
    i64::try_from(since_1970(time).as_secs()).unwrap_or(i64::MAX)
}

/// A time as header fields write it (RFC 5322 section 3.3), in the zone of this machine.
pub fn field_date(time: SystemTime) -> String {
    let seconds = seconds(time);
    date(seconds, sys::offset_from_utc(seconds))
}

/// What takes the place of chance in a challenge where the clock stands: 36 characters, other ones at each call.
pub fn instead_of_chance() -> Option<String> {
    let seconds = FIXED.get()?;
    Some(format!("{:016x}{seconds:020x}", CHALLENGES.fetch_add(1, Ordering::Relaxed)))
}
