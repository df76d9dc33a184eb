//! How much one client may have at once and in a minute: the limits, and the table of who has what.
//!
//! The table is memory that forked children may share: whoever accepts a connection claims a slot in it with the
//! client's address, and gives it back at the end. A process that is killed gives nothing back, so whoever reaps it
//! does ([`Table::forget`]). Nothing in it grows with the number of clients.

use crate::config::Config;
use crate::sys;
use ipnet::IpNet;
use nix::sys::socket::{SockaddrStorage, getpeername};
use nix::time::{ClockId, clock_gettime};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// What one client may have; 0 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub at_once: u32,
    /// Connections in a minute, counted from the first one on.
    pub per_minute: u32,
    /// Clients that neither holds for.
    pub exempt: Vec<IpNet>,
    /// How much of an IPv6 address is one client.
    pub v6_prefix: u8,
    /// Whether clients are told that all is full, instead of being left to wait in the kernel.
    pub refuses_when_full: bool,
}

/// What a client has too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// Connections at once.
    AtOnce,
    /// Connections in a minute.
    PerMinute,
    /// All clients together have all there is.
    Full,
    /// Nothing that the client did: what would serve it does not start.
    NotServing,
}

impl std::fmt::Display for Excess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Excess::AtOnce => "too many connections from this address",
            Excess::PerMinute => "too many connections a minute from this address",
            Excess::Full => "too many connections",
            Excess::NotServing => "the program does not start",
        })
    }
}

impl Limits {
    /// As main.cf and the options say.
    pub fn of(config: &Config) -> Limits {
        Limits {
            at_once: config.smtpd_client_connection_count_limit,
            per_minute: config.smtpd_client_connection_rate_limit,
            exempt: config.smtpd_client_event_limit_exceptions.0.clone(),
            v6_prefix: config.smtpd_client_ipv6_prefix_length.0,
            refuses_when_full: config.when_full.refuses,
        }
    }

    /// Whether it matters who a client is.
    pub fn are_any(&self) -> bool {
        self.at_once > 0 || self.per_minute > 0
    }

    fn concern(&self, address: IpAddr) -> bool {
        self.are_any() && !self.exempt.iter().any(|net| net.contains(&address))
    }

    /// What stands for the client in the table: the address, of an IPv6 one the network. IPv4 is written as IPv6.
    fn key(&self, address: IpAddr) -> (u64, u64) {
        let bits = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => {
                let rest = 128_u32.saturating_sub(u32::from(self.v6_prefix));
                address.to_bits() & u128::MAX.checked_shl(rest).unwrap_or(0)
            }
        };
        // All 0 is a free slot. `::1` is of the network `::`.
        let bits = bits.max(1);
        ((bits >> 64) as u64, bits as u64)
    }
}

/// The address at the other end, IPv4 as IPv4; nothing on a unix socket, or where the client has left.
pub fn address_of(connection: &impl AsFd) -> Option<IpAddr> {
    let name = getpeername::<SockaddrStorage>(connection.as_fd().as_raw_fd()).ok()?;
    let v4 = name.as_sockaddr_in().map(|name| IpAddr::V4(name.ip()));
    v4.or_else(|| name.as_sockaddr_in6().map(|name| IpAddr::V6(name.ip()).to_canonical()))
}

/// Words of a slot: an address, or 0 twice.
const SLOT: usize = 2;
/// Words of a rate: an address, the time of the first connection of this minute, and how many there were.
const RATE: usize = 4;
/// An address may be in so many places, all in one set; the set is by the address, mixed with a secret, so that nobody
/// can choose addresses that push each other out.
const WAYS: usize = 8;
const SETS: usize = 512;
const MINUTE: u64 = 60_000;

/// Who has how much.
#[derive(Debug)]
pub struct Table {
    /// Who holds it.
    lock: &'static AtomicU64,
    /// How many slots were ever used.
    used: &'static AtomicU64,
    slots: &'static [[AtomicU64; SLOT]],
    rates: &'static [[[AtomicU64; RATE]; WAYS]],
    secret: RandomState,
}

impl Table {
    /// With room for so many connections at once, shared with the children that are forked from now on. Never freed; pages
    /// that are not used cost nothing.
    pub fn shared(slots: usize) -> io::Result<Table> {
        let of_slots = slots.saturating_mul(SLOT);
        let words = sys::shared_words(of_slots.saturating_add(2 + SETS * WAYS * RATE))?;
        let [lock, used, words @ ..] = words else { return Err(io::ErrorKind::OutOfMemory.into()) };
        let (slots, rates) = words.split_at_checked(of_slots).unwrap_or_default();
        let (slots, rates) = (slots.as_chunks().0, rates.as_chunks().0.as_chunks().0);
        Ok(Table { lock, used, slots, rates, secret: RandomState::new() })
    }

    /// How many connections there is room for.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Takes a slot for a client, if it may have one more. The slot must be the caller's, and free.
    pub fn claim(&self, number: usize, address: IpAddr, limits: &Limits) -> Result<(), Excess> {
        let Some([high, low]) = self.slots.get(number).filter(|_| limits.concern(address)) else { return Ok(()) };
        let key = limits.key(address);
        let _locked = self.lock(number);
        if limits.at_once > 0 && self.count(key) >= u64::from(limits.at_once) {
            return Err(Excess::AtOnce);
        }
        if limits.per_minute > 0 && !self.count_rate(key, limits.per_minute) {
            return Err(Excess::PerMinute);
        }
        put(high, low, key);
        if get(self.used) <= number as u64 {
            set(self.used, (number as u64).saturating_add(1));
        }
        Ok(())
    }

    /// Gives a slot back.
    pub fn release(&self, number: usize) {
        if let Some([high, low]) = self.slots.get(number) {
            put(high, low, (0, 0));
        }
    }

    /// Gives back what a process had that is gone: its slot, and the lock if it was killed with that.
    pub fn forget(&self, number: usize) {
        let _ = self.lock.compare_exchange(name(number), 0, Ordering::AcqRel, Ordering::Relaxed);
        self.release(number);
    }

    fn count(&self, key: (u64, u64)) -> u64 {
        let used = usize::try_from(get(self.used)).unwrap_or(usize::MAX);
        self.slots.iter().take(used).filter(|[high, low]| is(high, low, key)).count() as u64
    }

    /// Counts one more connection of this minute, if that may be.
    fn count_rate(&self, key: (u64, u64), limit: u32) -> bool {
        let number = usize::try_from(self.secret.hash_one(key) % SETS as u64).unwrap_or(0);
        let Some(rates) = self.rates.get(number) else { return true };
        let now = milliseconds();
        let known = rates.iter().find(|[high, low, ..]| is(high, low, key));
        if let Some([_, _, since, count]) = known
            && now.saturating_sub(get(since)) < MINUTE
        {
            let made = get(count);
            if made >= u64::from(limit) {
                return false;
            }
            set(count, made.saturating_add(1));
            return true;
        }
        let oldest = || rates.iter().min_by_key(|[_, _, since, _]| get(since));
        if let Some([high, low, since, count]) = known.or_else(oldest) {
            put(high, low, key);
            set(since, now);
            set(count, 1);
        }
        true
    }

    /// Held for a few hundred loads; who waits lets others run. [`Table::forget`] frees it from the dead.
    fn lock(&self, number: usize) -> Locked {
        let own = name(number);
        while self.lock.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed).is_err() {
            std::thread::yield_now();
        }
        Locked(self.lock)
    }
}

struct Locked(&'static AtomicU64);

impl Drop for Locked {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

/// Who claims a slot, in the lock. Not by its process id: who reaps it need not be its parent.
fn name(number: usize) -> u64 {
    (number as u64).saturating_add(1)
}

fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn set(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

fn is(high: &AtomicU64, low: &AtomicU64, key: (u64, u64)) -> bool {
    (get(high), get(low)) == key
}

fn put(high: &AtomicU64, low: &AtomicU64, key: (u64, u64)) {
    set(high, key.0);
    set(low, key.1);
}

/// A clock that all processes of this machine share and nobody sets.
fn milliseconds() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(std::time::Duration::from);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(at_once: u32, per_minute: u32) -> Limits {
        Limits { at_once, per_minute, v6_prefix: 64, ..Limits::default() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_gets_so_many_at_once_and_another_one_its_own() {
        let (table, limits) = (Table::shared(10).unwrap(), limits(2, 0));
        assert_eq!(table.claim(0, ip("192.0.2.1"), &limits), Ok(()));
        assert_eq!(table.claim(1, ip("192.0.2.1"), &limits), Ok(()));
        assert_eq!(table.claim(2, ip("192.0.2.1"), &limits), Err(Excess::AtOnce));
        assert_eq!(table.claim(2, ip("192.0.2.2"), &limits), Ok(()));
        table.release(0);
        assert_eq!(table.claim(0, ip("192.0.2.1"), &limits), Ok(()));
        assert_eq!(table.claim(3, ip("192.0.2.1"), &limits), Err(Excess::AtOnce));
    }

    #[test]
    fn ipv6_counts_by_network_and_ipv4_by_address() {
        let (table, mut limits) = (Table::shared(10).unwrap(), limits(1, 0));
        assert_eq!(table.claim(0, ip("2001:db8::1"), &limits), Ok(()));
        assert_eq!(table.claim(1, ip("2001:db8::ffff:1:2:3"), &limits), Err(Excess::AtOnce));
        assert_eq!(table.claim(1, ip("2001:db8:0:1::1"), &limits), Ok(()));
        assert_eq!(table.claim(2, ip("192.0.2.1"), &limits), Ok(()));
        assert_eq!(table.claim(3, ip("192.0.2.2"), &limits), Ok(()), "the prefix is that of IPv6");
        limits.v6_prefix = 128;
        assert_eq!(table.claim(4, ip("2001:db8::2"), &limits), Ok(()));
        limits.v6_prefix = 0;
        assert_eq!(limits.key(ip("2001:db8::2")), limits.key(ip("::1")));
        assert_ne!(limits.key(ip("::1")), (0, 0), "that is a free slot");
    }

    #[test]
    fn a_minute_has_so_many_connections_also_when_they_are_over() {
        let (table, limits) = (Table::shared(1).unwrap(), limits(0, 3));
        for _ in 0..3 {
            assert_eq!(table.claim(0, ip("192.0.2.1"), &limits), Ok(()));
            table.release(0);
        }
        assert_eq!(table.claim(0, ip("192.0.2.1"), &limits), Err(Excess::PerMinute));
        assert_eq!(table.claim(0, ip("192.0.2.2"), &limits), Ok(()));
    }

    #[test]
    fn a_new_minute_counts_anew() {
        let (table, limits) = (Table::shared(1).unwrap(), limits(0, 1));
        assert_eq!(table.claim(0, ip("192.0.2.1"), &limits), Ok(()));
        assert_eq!(table.claim(0, ip("192.0.2.1"), &limits), Err(Excess::PerMinute));
        let key = limits.key(ip("192.0.2.1"));
        let [.., since, _] = table.rates.as_flattened().iter().find(|[high, low, ..]| is(high, low, key)).unwrap();
        set(since, milliseconds().saturating_sub(MINUTE));
        assert_eq!(table.claim(0, ip("192.0.2.1"), &limits), Ok(()));
    }

    #[test]
    fn the_exempt_are_neither_counted_nor_refused() {
        let (table, mut limits) = (Table::shared(10).unwrap(), limits(1, 1));
        limits.exempt = vec!["192.0.2.0/24".parse().unwrap()];
        (0..5).for_each(|slot| assert_eq!(table.claim(slot, ip("192.0.2.1"), &limits), Ok(())));
        assert_eq!(table.claim(5, ip("198.51.100.1"), &limits), Ok(()));
        assert_eq!(table.claim(6, ip("198.51.100.1"), &limits), Err(Excess::AtOnce));
    }

    #[test]
    fn who_died_with_the_lock_and_a_slot_has_neither_any_more() {
        let (table, limits) = (Table::shared(2).unwrap(), limits(1, 0));
        assert_eq!(table.claim(0, ip("192.0.2.1"), &limits), Ok(()));
        set(table.lock, name(0));
        table.forget(1);
        assert_eq!(get(table.lock), name(0), "that was another one");
        table.forget(0);
        assert_eq!(table.claim(1, ip("192.0.2.1"), &limits), Ok(()));
    }

    #[test]
    fn processes_share_the_table_and_never_let_in_one_too_many() {
        let (table, limits) = (Table::shared(64).unwrap(), limits(7, 0));
        let claim = |slot| u8::from(table.claim(slot, ip("192.0.2.1"), &limits).is_err());
        let children: Vec<_> = (0..32).map(|slot| sys::fork(|| claim(slot)).unwrap()).collect();
        let refused = children.into_iter().filter(|child| {
            let status = nix::sys::wait::waitpid(*child, None).unwrap();
            matches!(status, nix::sys::wait::WaitStatus::Exited(_, 1))
        });
        assert_eq!(refused.count(), 32 - 7);
    }
}
