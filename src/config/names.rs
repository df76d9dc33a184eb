//! The names that may stand in values: parameters, what main.cf sets beside them, and what tells about the process. `expand.rs`
//! asks for them, and for those that were misspelt there is a warning.

use super::expand::{self, Names};
use super::main_cf::Definition;
use super::parameters::{Config, OwnName, Parameter, parameters};
use super::{Error, Origin, file};
use crate::cli;
use crate::message::path::is_host_name;
use std::collections::{BTreeMap, BTreeSet};

/// Postfix's name for what is behind the first dot of myhostname, which may stand in values without being set.
const MYDOMAIN: &str = "mydomain";

/// Every name there is: what was set, else defaults, and those that tell about the process.
pub(super) struct Definitions {
    set: BTreeMap<String, (String, Origin)>,
    /// By another value.
    referred_to: BTreeSet<String>,
    /// What a value refers to and nobody set, and where it does.
    missed: Vec<(String, Origin)>,
}

impl Definitions {
    /// Of several with one name the last holds.
    pub(super) fn new(definitions: Vec<Definition>) -> Definitions {
        let set = definitions.into_iter().map(|definition| (definition.name, (definition.raw, definition.origin)));
        Definitions { set: set.collect(), referred_to: BTreeSet::new(), missed: Vec::new() }
    }

    /// What a name was set to, before expansion, and where.
    pub(super) fn get(&self, name: &str) -> Option<&(String, Origin)> {
        self.set.get(name)
    }

    /// Sets the name that follows from that of the host, unless somebody has.
    pub(super) fn set_domain_of(&mut self, host: &str) {
        let domain = host.split_once('.').map_or("localdomain", |(_, domain)| domain).replace('$', "$$");
        self.set.entry(MYDOMAIN.to_owned()).or_insert((domain, Origin::Default));
    }
}

impl Names for Definitions {
    fn look_up(&mut self, name: &str) -> Option<(String, Origin)> {
        self.referred_to.insert(name.to_owned());
        if let Some(value) = about_process(name) {
            return Some((value.replace('$', "$$"), Origin::Default));
        }
        let found = self.set.get(name).cloned();
        found.or_else(|| parameter(name).map(|parameter| (parameter.default.to_owned(), Origin::Default)))
    }

    fn missed(&mut self, name: &str, asked_at: &Origin) {
        if self.missed.iter().all(|(known, _)| known != name) {
            self.missed.push((name.to_owned(), asked_at.clone()));
        }
    }

    fn finish(&mut self, name: &str, expanded: String) -> String {
        if name == "myhostname" && expanded.is_empty() { host_name() } else { expanded }
    }
}

/// Whether expansion could give another text for this name.
pub(super) fn is_to_expand(name: &str, raw: &str) -> bool {
    raw.contains('$') || (raw.is_empty() && name == "myhostname")
}

/// Keeps the names that are no parameters. A misspelt parameter is one that nothing refers to, in main.cf or channels; one
/// that cannot be expanded as well is no reason to end, for it may be another program's.
pub(super) fn take_own_names(config: &mut Config, mut definitions: Definitions) -> Result<Vec<Error>, Error> {
    let mut warnings: Vec<Error> = std::mem::take(&mut definitions.missed)
        .into_iter()
        .map(|(name, origin)| Error {
            origin,
            problem: format!("${} is set nowhere, and so is empty", super::shown(&name)),
        })
        .collect();
    let used = definitions.referred_to.clone();
    let set: Vec<(String, (String, Origin))> = definitions
        .set
        .iter()
        .filter(|(name, _)| parameter(name).is_none())
        .map(|(name, set)| (name.clone(), set.clone()))
        .collect();
    // In the order of their names.
    for (name, (raw, origin)) in &set {
        if about_process(name).is_none() {
            let is_referred_to = definitions.referred_to.contains(name);
            match expand::expand_name(name, &mut definitions) {
                Ok(expanded) => {
                    let (name, raw, origin) = (name.clone(), raw.clone(), origin.clone());
                    config.own_names.push(OwnName { name, raw, expanded, origin });
                }
                Err(error) if used.contains(name) || is_in_channels(config, name) => return Err(error),
                Err(Error { origin, problem }) => {
                    let problem = format!("{problem}; nothing refers to {}", super::shown(name));
                    warnings.push(Error { origin, problem });
                }
            }
            if !is_referred_to {
                definitions.referred_to.remove(name);
            }
        }
    }
    for (name, (_, origin)) in set {
        if about_process(&name).is_some() {
            warnings.push(Error { origin, problem: format!("{name} cannot be set") });
        } else if config.own_names.binary_search_by(|own| own.name.cmp(&name)).is_ok()
            && !definitions.referred_to.contains(&name)
            && name != MYDOMAIN
            && !is_in_channels(config, &name)
        {
            warnings.push(Error { origin, problem: format!("unknown parameter {}", super::shown(&name)) });
        }
    }
    Ok(warnings)
}

/// Whether the channels file may refer to a name; only asked for the few that main.cf itself does not use.
fn is_in_channels(config: &Config, name: &str) -> bool {
    let text = file::contents(&config.channels).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    ["$", "${", "$("].iter().any(|before| text.contains(&format!("{before}{name}")))
}

fn parameter(name: &str) -> Option<Parameter> {
    parameters().find(|parameter| parameter.name == name)
}

/// The read-only names, which may stand in values.
pub(crate) fn about_process(name: &str) -> Option<String> {
    match name {
        "process_id" => Some(std::process::id().to_string()),
        "process_name" => Some(cli::own_name().to_string_lossy().into_owned()),
        "service_name" => Some(cli::service_name().into_owned()),
        _ => None,
    }
}

/// What the kernel calls this machine; no name server is asked, and the answer need not be qualified.
fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| is_host_name(name)).unwrap_or_else(|| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_host_name_is_the_machines_own_also_in_other_values() {
        let config = Config::with(&[("syslog_name", "$myhostname")]);
        assert_eq!((config.syslog_name, config.myhostname), (host_name(), host_name()));
    }

    #[test]
    fn host_names_are_told_from_what_is_none() {
        for name in ["localhost", "mx.example.net", "a_b", "3com.example", &"a".repeat(63)] {
            assert!(is_host_name(name), "{name}");
        }
        for name in ["", "a b", ".a", "a.", "-a", "127.0.0.1", "[::1]", "ä", &"a".repeat(64), &"a.".repeat(130)] {
            assert!(!is_host_name(name), "{name}");
        }
    }
}
