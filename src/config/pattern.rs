//! Lists of patterns for clients and domains: names, `.domain`, addresses, nets, `[IPv6]/len`, `*`, `/file`.

use super::value::Value;

/// Patterns in the order they were written; the first that matches decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatternList(pub Vec<String>);

impl Value for PatternList {
    fn parse(_text: &str) -> Result<Self, String> {
        Ok(PatternList(Vec::new()))
    }
}
