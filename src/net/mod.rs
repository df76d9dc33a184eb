//! The connection a program serves, who is on its other end, and the loop that accepts more.

pub mod accept;
pub mod acceptor;
pub mod connection;
pub mod dns;
pub mod limits;
pub mod listener;
pub mod peer;
pub mod pool;
pub mod refused;
pub mod tls;
