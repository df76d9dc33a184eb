//! One reverse-path and its recipients.

use super::path::{Address, ReversePath};

/// Who gets a message and who hears of failures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Where failures go.
    pub reverse_path: ReversePath,
    /// At least one.
    pub recipients: Vec<Address>,
}
