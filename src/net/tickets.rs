//! TLS session tickets that every process of ours can read (RFC 8446 section 4.6.1, RFC 5077): a client that comes again
//! need not be shown the certificate again, whichever process it meets.
//!
//! The keys lie in `tls_ticket_key_file`: the present one, and the one before it. Whoever finds the present one older
//! than [`ROTATION`], and may write the file, makes a new one; two that do so at once cost some client a full handshake.
//! A key that is older than two rotations is not used any more, so that a stolen one opens little (forward secrecy).

use crate::clock::since_1970;
use crate::wire::secret::Secret;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::server::ProducesTickets;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Age at which a key gets a successor.
pub const ROTATION: Duration = Duration::from_secs(6 * 3600);

/// Octets of a key in the file: when it was made, in seconds since 1970, and the key.
const RECORD: usize = 8 + 32;

/// A key, by the time it was made, which is its name too.
struct Key {
    made: u64,
    key: LessSafeKey,
}

/// The keys there are, the present one first.
pub struct Tickets(Vec<Key>);

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets(..)")
    }
}

impl Tickets {
    /// Reads the file, and rotates its keys if it is time for that.
    pub fn open(path: &Path, now: SystemTime) -> io::Result<Tickets> {
        let now = since_1970(now).as_secs();
        let found = match read(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Secret::default(),
            Err(error) => return Err(error),
        };
        let mut records: Vec<&[u8]> = found.0.chunks_exact(RECORD).take(2).collect();
        // A time in the future was set by a wrong clock; its key would live for ever.
        records.retain(|record| made(record) <= now && now - made(record) < 2 * ROTATION.as_secs());
        let is_fresh = records.first().is_some_and(|record| now - made(record) < ROTATION.as_secs());
        let mut new = Secret(Vec::new());
        if !is_fresh && let Ok(octets) = rotated(path, now, records.first().copied()) {
            new = octets;
            records = new.0.chunks_exact(RECORD).collect();
        }
        let tickets = Tickets(records.into_iter().filter_map(key).collect());
        drop(new);
        Ok(tickets)
    }

    /// Whether the present key may still be used, where the file cannot be read again: not for ever.
    pub fn are_recent(&self, now: SystemTime) -> bool {
        let now = since_1970(now).as_secs();
        self.0.first().is_some_and(|key| key.made <= now && now - key.made < 2 * ROTATION.as_secs())
    }
}

fn made(record: &[u8]) -> u64 {
    record.first_chunk::<8>().map_or(0, |octets| u64::from_be_bytes(*octets))
}

fn key(record: &[u8]) -> Option<Key> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, record.get(8..RECORD)?).ok()?;
    Some(Key { made: made(record), key: LessSafeKey::new(key) })
}

fn read(path: &Path) -> io::Result<Secret> {
    let mut octets = Secret(Vec::with_capacity(2 * RECORD));
    File::open(path)?.take(2 * RECORD as u64).read_to_end(&mut octets.0)?;
    Ok(octets)
}

/// Puts a new key in front of the one there was, in a new file, so that nobody reads half of one.
fn rotated(path: &Path, now: u64, before: Option<&[u8]>) -> io::Result<Secret> {
    let mut octets = Secret(Vec::with_capacity(2 * RECORD));
    octets.0.extend(now.to_be_bytes());
    let mut key = Secret(vec![0; 32]);
    getrandom::fill(&mut key.0).map_err(|error| io::Error::other(error.to_string()))?;
    octets.0.extend(&key.0);
    octets.0.extend(before.unwrap_or_default());
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = Path::new(&name);
    let _ = fs::remove_file(new);
    let written = File::options().write(true).create_new(true).mode(0o600).open(new).and_then(|mut file| {
        file.write_all(&octets.0)?;
        // What root makes at its start is for those too who it becomes, who have the queue and can replace its files.
        if let Some(folder) = path.parent().and_then(|folder| fs::metadata(folder).ok()) {
            let _ = fchown(&file, Some(folder.uid()), Some(folder.gid()));
        }
        fs::rename(new, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(new);
    }
    written.map(|()| octets)
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        !self.0.is_empty()
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(ROTATION.as_secs()).unwrap_or(u32::MAX)
    }

    /// The name of the key, a nonce, and the sealed octets.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let Key { made, key } = self.0.first()?;
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(made.to_be_bytes()), &mut sealed)
            .ok()?;
        Some([&made.to_be_bytes()[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<8>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let Key { key, .. } = self.0.iter().find(|key| key.made.to_be_bytes() == *name)?;
        let mut octets = sealed.to_vec();
        let plain = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(*name), &mut octets).ok()?;
        Some(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn at(hours: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + hours * 3600)
    }

    #[test]
    fn a_ticket_of_one_process_is_read_by_another_and_by_nobody_after_two_rotations() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let ticket = Tickets::open(&path, at(0)).unwrap().encrypt(b"session").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for (hours, is_read) in [(0, true), (5, true), (6, true), (7, true), (11, true), (12, false), (30, false)] {
            let read = Tickets::open(&path, at(hours)).unwrap().decrypt(&ticket);
            assert_eq!(read.as_deref(), is_read.then_some(&b"session"[..]), "after {hours} hours");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left lying about");
    }

    #[test]
    fn keys_that_cannot_be_read_again_are_not_used_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let tickets = Tickets::open(&folder.path().join("keys"), at(0)).unwrap();
        for (hours, are_recent) in [(0, true), (11, true), (12, false), (1000, false)] {
            assert_eq!(tickets.are_recent(at(hours)), are_recent, "after {hours} hours");
        }
        assert!(!Tickets(Vec::new()).are_recent(at(0)));
    }

    #[test]
    fn what_root_makes_belongs_to_the_owner_of_the_folder() {
        if !crate::needs::root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(65534), Some(65534)).unwrap();
        let path = folder.path().join("keys");
        Tickets::open(&path, at(0)).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.permissions().mode() & 0o777), (65534, 0o600));
    }

    #[test]
    fn tickets_that_were_changed_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let tickets = Tickets::open(&folder.path().join("keys"), at(0)).unwrap();
        let ticket = tickets.encrypt(b"session").unwrap();
        for position in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[position] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None, "octet {position}");
            assert_eq!(tickets.decrypt(&ticket[..position]), None, "{position} octets");
        }
    }

    #[test]
    fn a_file_that_is_none_or_from_the_future_gives_new_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        for octets in [vec![], vec![1; 39], vec![0xFF; 80], vec![0; 200]] {
            fs::write(&path, octets).unwrap();
            let tickets = Tickets::open(&path, at(0)).unwrap();
            assert!(tickets.enabled());
            assert_eq!(fs::read(&path).unwrap().len(), RECORD);
        }
    }

    #[test]
    fn where_no_key_can_be_written_there_are_no_tickets() {
        let tickets = Tickets::open(Path::new("/nonexistent/keys"), at(0)).unwrap();
        assert!(!tickets.enabled() && tickets.encrypt(b"x").is_none());
    }
}
