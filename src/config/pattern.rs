//! Lists of patterns for clients and domains: names, `.domain`, addresses, nets, `[IPv6]/len`, `*`, `/file`,
//! `type:table`.
//!
//! The first pattern that matches decides; one that begins with `!` then says no. `*` is everybody who has an address
//! or a name: a pipe or socket of which nothing is known matches the words `stdin` and `unknown` only, so that a
//! careless `ncat -e` opens no relay.

use super::table::Table;
use super::value::Value;
use super::{file, main_cf, net};
use crate::message::idna;
use crate::message::path;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Patterns in the order they were written; the first that matches decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatternList(pub Vec<Pattern>);

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Written with `!`: who matches is not meant.
    pub negated: bool,
    /// Who matches.
    pub matches: Matches,
}

/// Who matches a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matches {
    /// `*`: every domain, and every client that has an address or a name.
    All,
    /// `stdin`: a pipe, file or terminal that nobody vouched for.
    Stdin,
    /// `unknown`: a socket that names nobody.
    Unknown,
    /// A name, in lower case.
    Name(String),
    /// `.domain`: the names below it, not itself; in lower case, with its dot.
    Below(String),
    /// A domain itself and the names below it (`parent_domain_matches_subdomains`); in lower case.
    Within(String),
    /// An address or a net.
    Net(IpNet),
    /// Who is in a table; with the domains above a name written without their dot, or with it.
    Table(Table, bool),
}

/// Deepest that files of patterns may name others.
const DEEPEST: usize = 10;

/// Most patterns of a value and of the files it names, each of which counts as one more: ten files that name the next one ten
/// times would never end, also with nothing in the last.
const MOST: usize = 100_000;

impl Value for PatternList {
    fn parse(text: &str) -> Result<Self, String> {
        patterns(text, 0, &mut { MOST }).map(PatternList)
    }
}

/// Patterns separated by commas and blanks, and `left` without what they cost.
fn patterns(text: &str, depth: usize, left: &mut usize) -> Result<Vec<Pattern>, String> {
    let words = text.split([',', ' ', '\t', '\r', '\n', '\x0b', '\x0c']).filter(|word| !word.is_empty());
    let mut patterns = Vec::new();
    for word in words {
        *left = left.checked_sub(1).ok_or_else(|| format!("no more than {MOST} patterns and files of them"))?;
        match word.trim_start_matches('!') {
            path if path.starts_with('/') => {
                let negated = is_negated(word);
                let from_file = file(Path::new(path), depth, left)?.into_iter();
                patterns.extend(from_file.map(|p| Pattern { negated: p.negated != negated, ..p }));
            }
            _ => patterns.push(pattern(word)?),
        }
    }
    Ok(patterns)
}

impl PatternList {
    /// From now on a name means the names below it as well, as `parent_domain_matches_subdomains` has it.
    pub fn with_subdomains(&mut self) {
        for pattern in &mut self.0 {
            match &mut pattern.matches {
                Matches::Name(name) => pattern.matches = Matches::Within(std::mem::take(name)),
                Matches::Table(_, parents) => *parents = true,
                _ => {}
            }
        }
    }

    /// Whether a domain is meant, in its form in ASCII and without regard to case. An address pattern means `[address]`.
    pub fn matches_domain(&self, domain: &[u8]) -> bool {
        let in_ascii = idna::to_ascii(domain);
        let domain = in_ascii.as_deref().unwrap_or(domain);
        let decides = self.0.iter().find(|pattern| match &pattern.matches {
            Matches::All => true,
            Matches::Name(_) | Matches::Below(_) | Matches::Within(_) => pattern.matches_name(domain),
            Matches::Net(net) => literal(domain).is_some_and(|address| net.contains(&address)),
            // channel/parse.rs lets none of these stand for domains.
            Matches::Stdin | Matches::Unknown | Matches::Table(..) => false,
        });
        decides.is_some_and(|pattern| !pattern.negated)
    }

    /// Whether clients from anywhere in the world are meant, or any domains, and not only those that somebody chose.
    pub fn is_open(&self) -> bool {
        let is_left = |at: usize, wide: &Matches| {
            let is_out = |wide: &Matches| {
                let mut before = self.0.iter().take(at).filter(|pattern| pattern.negated);
                before.any(|pattern| pattern.matches.covers(wide))
            };
            !is_out(wide) && !every_address().iter().all(is_out)
        };
        let mut wide = self.0.iter().enumerate().filter(|(_, pattern)| !pattern.negated && pattern.matches.is_wide());
        wide.any(|(at, pattern)| is_left(at, &pattern.matches))
    }

    /// Whether all of a net is meant, as far as addresses alone can say.
    pub fn takes(&self, net: &IpNet) -> bool {
        let decides = self.0.iter().find(|pattern| pattern.matches.covers(&Matches::Net(*net)));
        decides.is_some_and(|pattern| !pattern.negated)
    }

    /// Whether it takes more than an address to say who is meant.
    pub fn has_names(&self) -> bool {
        let is_name = |pattern: &Pattern| match &pattern.matches {
            Matches::Name(_) | Matches::Below(_) | Matches::Within(_) => true,
            Matches::Table(table, _) => *table != Table::Static,
            Matches::All | Matches::Stdin | Matches::Unknown | Matches::Net(_) => false,
        };
        self.0.iter().any(is_name)
    }

    /// Whether nobody who has an address is left for another list, but for some that somebody chose.
    pub fn takes_all(&self) -> bool {
        let (mut ipv4, mut ipv6) = (false, false);
        let [every_ipv4, every_ipv6] = every_address();
        let before = self.0.iter().take_while(|pattern| !pattern.negated || !pattern.matches.is_wide());
        for pattern in before.filter(|pattern| !pattern.negated) {
            ipv4 |= pattern.matches.covers(&every_ipv4);
            ipv6 |= pattern.matches.covers(&every_ipv6);
        }
        ipv4 && ipv6
    }

    /// Whether nobody of another list is left for it behind this one, as far as that is certain.
    pub fn covers(&self, other: &PatternList) -> bool {
        let is_ours = |pattern: &Pattern| self.0.iter().any(|ours| ours.matches.covers(&pattern.matches));
        let mut theirs = other.0.iter().filter(|pattern| !pattern.negated).peekable();
        theirs.peek().is_some() && !self.0.iter().any(|ours| ours.negated) && theirs.all(is_ours)
    }
}

/// All of IPv4, and all of IPv6.
fn every_address() -> [Matches; 2] {
    [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())].map(Matches::Net)
}

impl Matches {
    /// Whether it is as good as everybody, or everybody of one family.
    fn is_wide(&self) -> bool {
        match self {
            Matches::All => true,
            // 0.0.0.0/1 and its neighbour, or 2000::/3. 10.0.0.0/8 is nobody from outside.
            Matches::Net(IpNet::V4(net)) => net.prefix_len() < 8,
            Matches::Net(IpNet::V6(net)) => net.prefix_len() < 16,
            Matches::Table(table, _) => *table == Table::Static,
            Matches::Stdin | Matches::Unknown | Matches::Name(_) | Matches::Below(_) | Matches::Within(_) => false,
        }
    }

    /// Whether every client that the other matches matches this too, as far as that is certain.
    fn covers(&self, other: &Matches) -> bool {
        match (self, other) {
            // Who has neither an address nor a name.
            (_, Matches::Stdin | Matches::Unknown) => false,
            (Matches::All | Matches::Table(Table::Static, _), _) => true,
            (Matches::Net(net), Matches::Net(other)) => net.contains(other),
            _ => false,
        }
    }
}

impl Pattern {
    /// Whether it matches a name, `!` or not.
    pub(crate) fn matches_name(&self, name: &[u8]) -> bool {
        match &self.matches {
            Matches::Name(pattern) => name.eq_ignore_ascii_case(pattern.as_bytes()),
            Matches::Below(pattern) => ends_with(name, pattern).is_some_and(|before| !before.is_empty()),
            Matches::Within(pattern) => {
                ends_with(name, pattern).is_some_and(|before| before.is_empty() || before.ends_with(b"."))
            }
            _ => false,
        }
    }
}

/// What stands before `end`, if that is the end.
fn ends_with<'a>(name: &'a [u8], end: &str) -> Option<&'a [u8]> {
    let (before, behind) = name.split_at_checked(name.len().checked_sub(end.len())?)?;
    behind.eq_ignore_ascii_case(end.as_bytes()).then_some(before)
}

/// How many `/file`s this process has read: what was made with the help of one may not be kept, for it may change.
pub fn files_read() -> u64 {
    FILES_READ.load(Ordering::Relaxed)
}

static FILES_READ: AtomicU64 = AtomicU64::new(0);

/// One pattern that is no `/file`; the error is what was expected.
fn pattern(word: &str) -> Result<Pattern, String> {
    let matches = match word.trim_start_matches('!') {
        "" => return Err("a pattern behind !".to_owned()),
        "*" => Matches::All,
        text if text.eq_ignore_ascii_case("stdin") => Matches::Stdin,
        text if text.eq_ignore_ascii_case("unknown") => Matches::Unknown,
        text if let Some(net) = net::among_names(text) => Matches::Net(net?),
        text if text.contains(':') => Matches::Table(Table::parse(text)?, false),
        text => name(text)?,
    };
    Ok(Pattern { negated: is_negated(word), matches })
}

/// As in Postfix, each `!` turns the meaning round.
fn is_negated(word: &str) -> bool {
    word.bytes().take_while(|octet| *octet == b'!').count() % 2 == 1
}

fn name(text: &str) -> Result<Matches, String> {
    name_or_below(text).ok_or_else(|| {
        let kinds = || "a name, .domain, an address, a net, [IPv6]/length, *, /file or type:table".to_owned();
        format!("{} instead of {}", meant(text).unwrap_or_else(kinds), shown(text))
    })
}

fn name_or_below(text: &str) -> Option<Matches> {
    let (dot, labels) = text.strip_prefix('.').map_or(("", text), |labels| (".", labels));
    let labels = idna::to_ascii(labels.as_bytes()).map(|found| String::from_utf8_lossy(&found).into_owned())?;
    let is_label = |label: &str| {
        label.bytes().any(|octet| octet.is_ascii_alphanumeric())
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_')
    };
    if text.len() > 254 || !labels.split('.').all(is_label) {
        return None;
    }
    let text = format!("{dot}{labels}").to_ascii_lowercase();
    Some(if text.starts_with('.') { Matches::Below(text) } else { Matches::Name(text) })
}

/// What is meant by the forms of other programs.
fn meant(text: &str) -> Option<String> {
    let is_name = |text: &&str| name_or_below(text).is_some();
    match text.strip_prefix('*').filter(|text| text.starts_with('.')).filter(is_name) {
        Some(domain) => Some(domain.to_owned()),
        None if text == "-" => Some("- alone in its column, and not in a list,".to_owned()),
        None => text.strip_suffix('.').filter(is_name).map(|name| format!("{name} without a dot at its end")),
    }
}

/// The address in an address literal.
fn literal(domain: &[u8]) -> Option<IpAddr> {
    let inside = domain.strip_prefix(b"[")?.strip_suffix(b"]")?;
    path::literal(inside).map(|address| address.to_canonical())
}

/// The patterns of a file, which has main.cf's lines: `#` begins a comment line, a blank continues the line before.
fn file(path: &Path, depth: usize, left: &mut usize) -> Result<Vec<Pattern>, String> {
    FILES_READ.fetch_add(1, Ordering::Relaxed);
    if depth == DEEPEST {
        return Err(format!("at most {DEEPEST} files that name each other, and {} is one more", path.display()));
    }
    let octets = match file::contents(path) {
        Ok(Some(octets)) => octets,
        Ok(None) => return Err(format!("a file {}, and there is none", path.display())),
        Err(error) => return Err(format!("patterns in a file: {error}")),
    };
    let lines = main_cf::all_lines(&octets, path).map_err(|error| format!("patterns in a file: {error}"))?;
    let mut found = Vec::new();
    for (number, line) in lines {
        let at = |expected: String| format!("{expected} (line {number} of {})", path.display());
        let line = std::str::from_utf8(&line).map_err(|_| at("text in UTF-8".to_owned()))?;
        found.extend(patterns(line, depth + 1, left).map_err(at)?);
    }
    Ok(found)
}

fn shown(text: &str) -> String {
    format!("\"{}\"", super::shown(text))
}

#[cfg(test)]
mod tests;
