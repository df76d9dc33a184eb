//! `smtp_tls_policy_maps`: how much TLS there must be towards single next hops, a line each as in Postfix's text tables:
//! `[gw.example.net]:587 secure match=gw.example.net protocols=>=TLSv1.3`.
//!
//! What is not offered here is a mistake, and so is what would never come about: no line is taken for less than it says.

use crate::config::value::{TlsLevel, Value};
use crate::config::{self, Config, file, main_cf, shown, table};
use crate::message::idna;
use crate::message::path::is_host_name;
use crate::net::trust::{Fingerprint, Name, Versions};
use std::path::Path;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How much TLS.
    pub level: TlsLevel,
    /// Whose certificate it must be; empty: as the level has it.
    pub names: Vec<Wanted>,
    /// The name that the server is asked for, if another than usual.
    pub server_name: Option<Wanted>,
    /// Which TLS.
    pub versions: Versions,
    /// One of these the certificate must have, whatever else is asked of it; empty: none. The level is then `encrypt`.
    pub pinned: Vec<Fingerprint>,
}

/// One of the names that a certificate may be for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// `hostname`: the host that was found for the next hop.
    Host,
    /// `nexthop`: the next hop, or the domain where there is none.
    NextHop,
    /// `dot-nexthop`: any below that.
    BelowNextHop,
    /// A name, or `.domain` for any below it.
    Named(Name),
}

impl Policy {
    /// What a parameter says for all.
    pub fn of(level: TlsLevel) -> Policy {
        Policy { level, names: Vec::new(), server_name: None, versions: Versions::default(), pinned: Vec::new() }
    }

    /// Whose certificate it must be at a level at which that counts, with Postfix's defaults.
    pub fn wanted(&self, level: TlsLevel) -> &[Wanted] {
        match level {
            _ if !self.names.is_empty() => &self.names,
            TlsLevel::Secure => &[Wanted::NextHop, Wanted::BelowNextHop],
            TlsLevel::None | TlsLevel::May | TlsLevel::Encrypt | TlsLevel::Verify => &[Wanted::Host],
        }
    }
}

/// Next hop and policy, in the order of the file.
#[derive(Debug, Default)]
pub struct Policies(Vec<(String, Policy)>);

impl Policies {
    /// Reads the table, if there is one; the error has file and line.
    pub fn read(config: &Config) -> Result<Policies, config::Error> {
        let Some(path) = &config.smtp_tls_policy_maps.0 else { return Ok(Policies::default()) };
        // By no policy at all mail would go without the TLS that it must have.
        Policies::parse(&file::table("smtp_tls_policy_maps", path)?, path)
    }

    /// The highest level that any next hop must have.
    pub fn highest(&self) -> TlsLevel {
        self.0.iter().map(|(_, policy)| policy.level).max().unwrap_or(TlsLevel::None)
    }

    /// The policy for a next hop as the channels file has it, or for the domain where that says where to. What is a name alone
    /// may also stand below a `.domain`.
    pub fn find(&self, next_hop: &str, domain: &str) -> Option<&Policy> {
        let key = if next_hop.is_empty() { domain } else { next_hop };
        let named =
            |key: &str| self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(key)).map(|(_, policy)| policy);
        if !is_host_name(key) {
            return named(key);
        }
        let spellings: Vec<String> = std::iter::once(key.to_owned()).chain(idna::other_spellings(key)).collect();
        let own = spellings.iter().find_map(|key| named(key));
        // The nearest first: as many labels are taken off each spelling.
        let mut below = (1..=key.matches('.').count()).flat_map(|count| {
            spellings.iter().filter_map(move |key| key.match_indices('.').nth(count - 1).map(|(at, _)| &key[at..]))
        });
        own.or_else(|| below.find_map(named))
    }

    fn parse(octets: &[u8], path: &Path) -> Result<Policies, config::Error> {
        let mut policies = Vec::new();
        let lines = main_cf::all_lines(octets, path)?;
        for (number, key, value) in table::entries(&lines, path)? {
            let told = |expected: String| {
                let problem = format!("smtp_tls_policy_maps, {}: expected {expected}", shown(key));
                config::Error::at(path, number, problem)
            };
            let policy = parse(value).map_err(told)?;
            if key.trim_start_matches("inet:").starts_with("unix:") && policy.level > TlsLevel::May {
                return Err(told("none or may, for there is no TLS on a unix socket".to_owned()));
            }
            policies.push((key.to_owned(), policy));
        }
        Ok(Policies(policies))
    }
}

/// `level attribute=value ...`
fn parse(text: &str) -> Result<Policy, String> {
    let mut words = text.split([',', ' ', '\t', '\r', '\n']).filter(|word| !word.is_empty());
    let levels = "the level none, may, encrypt, fingerprint, verify or secure";
    let word = words.next().ok_or(levels)?;
    let is_pinned = word.eq_ignore_ascii_case("fingerprint");
    let level = if is_pinned { Ok(TlsLevel::Encrypt) } else { TlsLevel::parse(&word.to_ascii_lowercase()) };
    let mut policy = Policy::of(level.map_err(|_| format!("{levels}; {} is not offered here", shown(word)))?);
    for word in words {
        let (name, value) =
            word.split_once('=').ok_or_else(|| format!("attribute=value instead of {}", shown(word)))?;
        match name.to_ascii_lowercase().as_str() {
            _ if policy.level == TlsLevel::None => return Err("no attribute behind none".to_owned()),
            "match" if is_pinned => policy.pinned.extend(value.split('|').map(pinned).collect::<Result<Vec<_>, _>>()?),
            "match" if policy.level < TlsLevel::Verify => {
                return Err("match behind fingerprint, verify or secure alone".to_owned());
            }
            "match" => policy.names.extend(value.split(':').map(wanted).collect::<Result<Vec<_>, _>>()?),
            "servername" => policy.server_name = Some(server_name(value)?),
            "protocols" => policy.versions = versions(value)?,
            // All that there are here are of that grade.
            "ciphers" if ["medium", "high"].iter().any(|grade| value.eq_ignore_ascii_case(grade)) => {}
            _ => {
                let offered = "match=NAME:..., servername=NAME, protocols=..., ciphers=medium or ciphers=high";
                return Err(format!("{offered}; {} is not offered here", shown(word)));
            }
        }
    }
    if is_pinned && policy.pinned.is_empty() {
        return Err("match=FINGERPRINT behind fingerprint".to_owned());
    }
    Ok(policy)
}

fn pinned(word: &str) -> Result<Fingerprint, String> {
    Fingerprint::parse(word).ok_or_else(|| format!("a SHA-256 in hexadecimal digits instead of {}", shown(word)))
}

fn wanted(word: &str) -> Result<Wanted, String> {
    match word.to_ascii_lowercase().as_str() {
        "hostname" => Ok(Wanted::Host),
        "nexthop" => Ok(Wanted::NextHop),
        "dot-nexthop" => Ok(Wanted::BelowNextHop),
        name => {
            let expected = || format!("hostname, nexthop, dot-nexthop, a name or .domain instead of {}", shown(word));
            Name::parse(name).map(Wanted::Named).ok_or_else(expected)
        }
    }
}

fn server_name(word: &str) -> Result<Wanted, String> {
    let wanted = wanted(word).ok().filter(|wanted| match wanted {
        Wanted::Host | Wanted::NextHop => true,
        Wanted::BelowNextHop => false,
        // An address is no name by which to choose (RFC 6066 section 3).
        Wanted::Named(name) => matches!(name, Name::Exactly(_)) && is_host_name(word),
    });
    wanted.ok_or_else(|| format!("hostname, nexthop or a name instead of {}", shown(word)))
}

/// Postfix's `smtp_tls_mandatory_protocols`: names that are meant alone, `!name`, `>=name`, `<=name`, between colons.
fn versions(text: &str) -> Result<Versions, String> {
    const KNOWN: [&str; 6] = ["SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"];
    let (mut are_named, mut are_in, mut are_out) = (false, [false; KNOWN.len()], [false; KNOWN.len()]);
    for word in text.split(':').filter(|word| !word.is_empty()) {
        let name = word.trim_start_matches(['!', '<', '>', '=']);
        let Some(at) = KNOWN.iter().position(|known| known.eq_ignore_ascii_case(name)) else {
            return Err(format!("names out of {} instead of {}", KNOWN.join(", "), shown(word)));
        };
        let is_out = |number: usize| match word.strip_suffix(name) {
            Some("!") => Some(number == at),
            Some(">=") => Some(number < at),
            Some("<=") => Some(number > at),
            _ => None,
        };
        match word.strip_suffix(name) {
            Some("") => {
                are_named = true;
                are_in.iter_mut().enumerate().filter(|(number, _)| *number == at).for_each(|(_, is_in)| *is_in = true);
            }
            Some("!" | ">=" | "<=") => {
                are_out.iter_mut().enumerate().for_each(|(number, out)| *out |= is_out(number) == Some(true));
            }
            _ => return Err(format!("NAME, !NAME, >=NAME or <=NAME instead of {}", shown(word))),
        }
    }
    let [.., v12, v13] =
        std::array::from_fn::<bool, { KNOWN.len() }, _>(|at| (are_in[at] || !are_named) && !are_out[at]);
    let none = || "protocols among which is TLSv1.2 or TLSv1.3: others are not offered here".to_owned();
    Versions::of(v12, v13).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Policies, String> {
        Policies::parse(text.as_bytes(), Path::new("policy")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_that_somebody_is_writing_is_no_table_without_policies() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy");
        let config = Config::with(&[("smtp_tls_policy_maps", path.to_str().unwrap())]);
        for (text, is_table) in [("", false), ("# none\n", true)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Policies::read(&config).is_ok(), is_table, "{text}");
        }
    }

    #[test]
    fn the_next_hop_as_it_is_written_counts_and_a_bare_name_may_be_below_another() {
        let table = "# comment\n[gw.example]:587 encrypt\ngw.example verify\n.example may\n.mail.example secure\n\
                     xn--bcher-kva.test none\n";
        let policies = read(table).unwrap();
        let level = |hop: &str, domain: &str| policies.find(hop, domain).map(|policy| policy.level);
        for (hop, domain, expected) in [
            ("[gw.example]:587", "", Some(TlsLevel::Encrypt)),
            ("[GW.example]:587", "x.example", Some(TlsLevel::Encrypt)),
            ("[gw.example]", "", None),
            ("gw.example", "", Some(TlsLevel::Verify)),
            ("", "gw.example", Some(TlsLevel::Verify)),
            ("", "a.b.gw.example", Some(TlsLevel::May)),
            ("", "a.b.Mail.example", Some(TlsLevel::Secure)),
            ("[a.example]", "", None),
            ("a.example:26", "", None),
            ("", "example", None),
            ("", "xn--bcher-kva.test", Some(TlsLevel::None)),
            ("inet:gw.example", "", None),
        ] {
            assert_eq!(level(hop, domain), expected, "{hop} {domain}");
        }
        assert_eq!(
            read("b\u{fc}cher.test may\n").unwrap().find("", "xn--bcher-kva.test"),
            Some(&Policy::of(TlsLevel::May))
        );
    }

    #[test]
    fn attributes_say_whose_certificate_and_which_tls() {
        let policies =
            read("a secure match=nexthop:.b.example, MATCH=c.example protocols=!SSLv2:!SSLv3:>=TLSv1.3\n").unwrap();
        let policy = policies.find("a", "").unwrap();
        let named = |name| Wanted::Named(Name::parse(name).unwrap());
        assert_eq!(policy.names, [Wanted::NextHop, named(".b.example"), named("c.example")]);
        assert_eq!(Some(policy.versions), Versions::of(false, true));
        for (text, v12, v13) in [
            ("TLSv1.2", true, false),
            ("tlsv1.2:TLSv1.1", true, false),
            ("!TLSv1.3", true, false),
            ("<=TLSv1.2", true, false),
            (">=TLSv1", true, true),
            ("TLSv1.2:TLSv1.3", true, true),
        ] {
            assert_eq!(versions(text).ok(), Versions::of(v12, v13), "{text}");
        }
    }

    #[test]
    fn what_is_not_offered_is_named_and_nothing_is_taken_for_less_than_it_says() {
        for (text, told) in [
            (
                "a dane\n",
                "policy:1: smtp_tls_policy_maps, a: expected the level none, may, encrypt, fingerprint, verify or secure; \
                 dane",
            ),
            ("a may\nb fingerprint match=00\n", "policy:2: smtp_tls_policy_maps, b: expected a SHA-256"),
            ("a fingerprint\n", "match=FINGERPRINT behind fingerprint"),
            ("a fingerprint protocols=TLSv1.3\n", "match=FINGERPRINT behind fingerprint"),
            ("a\n", "expected the level"),
            ("a may match=b\n", "match behind fingerprint, verify or secure alone"),
            ("a none protocols=TLSv1.3\n", "no attribute behind none"),
            ("a secure match=b..c\n", "instead of b..c"),
            ("a secure match=\n", "hostname, nexthop"),
            ("a secure protocols=TLSv1\n", "TLSv1.2 or TLSv1.3: others"),
            ("a secure protocols=!TLSv1.2:!TLSv1.3\n", "TLSv1.2 or TLSv1.3: others"),
            ("a secure servername=.example\n", "hostname, nexthop or a name instead of .example"),
            ("a secure servername=192.0.2.1\n", "hostname, nexthop or a name instead of 192.0.2.1"),
            ("a secure protocols=TLSv9\n", "instead of TLSv9"),
            ("a secure protocols=>TLSv1.2\n", "instead of >TLSv1.2"),
            ("a secure ciphers=null\n", "ciphers=null is not offered"),
            ("a secure tafile=/x\n", "tafile=/x is not offered"),
            ("a secure nonsense\n", "attribute=value instead of nonsense"),
            ("unix:/run/lmtp encrypt\n", "none or may"),
            ("a \u{ff}\n", "the level"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
        assert!(read("unix:/run/lmtp none\na secure ciphers=high\n").is_ok());
    }
}
