//! The connection a program serves, who is on its other end, and the loop that accepts more.

pub mod accept;
pub mod acceptor;
pub mod connection;
pub mod dns;
mod ending;
pub mod handing;
pub mod limits;
mod listed;
pub mod listener;
pub mod packets;
pub mod peer;
pub mod pool;
pub mod proxy;
pub mod refused;
pub mod signals;
mod starts;
mod tickets;
pub mod tls;
pub mod trust;

/// Room for the first reads: most sessions never need more, and a page that is not touched costs nothing.
pub const FIRST_ROOM: usize = 4096;

/// Gives a buffer that the last read has filled four times the room, up to `most`.
pub fn make_room(buffer: &mut Vec<u8>, filled: usize, most: usize) {
    if filled == buffer.len() && filled < most {
        buffer.resize(most.min(4 * filled.max(1)), 0);
    }
}
