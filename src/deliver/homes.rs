//! To which hosts next hops lead, as far as a worker has found out: so that it asks for an agent that is connected there
//! already, and name servers are not asked for every message.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What is found is believed for so long.
const FRESH: Duration = Duration::from_secs(60);
/// So many are remembered.
const MOST: usize = 1000;

/// The next hops of a worker.
#[derive(Debug, Default)]
pub struct Homes(HashMap<String, (Instant, String)>);

impl Homes {
    /// The hosts of a next hop; empty if they are not known.
    pub fn of(&self, key: &str) -> &str {
        let known = self.0.get(key).filter(|(since, _)| since.elapsed() < FRESH);
        known.map_or("", |(_, home)| home.as_str())
    }

    /// Remembers.
    pub fn note(&mut self, key: &str, home: &str) {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(key.to_owned(), (Instant::now(), home.to_owned()));
    }
}
