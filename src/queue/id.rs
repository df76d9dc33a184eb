//! Queue ids: time and chance, so that neither two processes, nor two process id namespaces, nor a clock set back
//! give the same one twice.

/// The name of a message: 11 characters of microseconds since 1970 and 4 of chance, from `0-9 b-z` without vowels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(String);
