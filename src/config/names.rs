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
    /// What values missed since somebody asked.
    missed_now: Vec<String>,
    /// What the kernel calls this machine.
    machine: fn() -> String,
    /// myhostname is being put together, and whether that asked for itself.
    host_under_way: Option<bool>,
}

impl Definitions {
    /// Of several with one name the last holds.
    pub(super) fn new(definitions: Vec<Definition>) -> Definitions {
        Definitions::on(host_name, definitions)
    }

    /// The same on a machine of that name.
    fn on(machine: fn() -> String, definitions: Vec<Definition>) -> Definitions {
        let set = definitions.into_iter().map(|definition| (definition.name, (definition.raw, definition.origin)));
        let (set, referred_to) = (set.collect(), BTreeSet::new());
        Definitions { set, referred_to, missed: Vec::new(), missed_now: Vec::new(), machine, host_under_way: None }
    }

    /// As in Postfix a name without a dot is completed by mydomain; but only if that was set, and not to something that is
    /// made of myhostname.
    fn own_host(&mut self) -> String {
        let machine = (self.machine)();
        if let Some(asked_for_itself) = &mut self.host_under_way {
            *asked_for_itself = true;
            return machine;
        }
        let is_set = self.set.get(MYDOMAIN).is_some_and(|(_, origin)| *origin != Origin::Default);
        if !is_set || machine.contains('.') {
            return machine;
        }
        self.host_under_way = Some(false);
        // A wrong one is told where the names that are no parameters are expanded.
        let domain = expand::expand_name(MYDOMAIN, self).unwrap_or_default();
        let asked_for_itself = self.host_under_way.take() == Some(true);
        if domain.is_empty() || asked_for_itself { machine } else { format!("{machine}.{domain}") }
    }

    /// What a name was set to, before expansion, and where.
    pub(super) fn get(&self, name: &str) -> Option<&(String, Origin)> {
        self.set.get(name)
    }

    /// The names that values referred to since this was asked for last, and that are set nowhere.
    pub(super) fn take_missed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.missed_now)
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
        found.or_else(|| default_of(name).map(|default| (default.to_owned(), Origin::Default)))
    }

    fn missed(&mut self, name: &str, asked_at: &Origin) {
        if self.missed_now.iter().all(|known| known != name) {
            self.missed_now.push(name.to_owned());
        }
        if self.missed.iter().all(|(known, _)| known != name) {
            self.missed.push((name.to_owned(), asked_at.clone()));
        }
    }

    fn finish(&mut self, name: &str, expanded: String) -> String {
        if name == "myhostname" && expanded.is_empty() { self.own_host() } else { expanded }
    }
}

/// The default of a parameter; also of one that Postfix alone has, where values in its main.cf commonly refer to it and its
/// default holds here as well.
fn default_of(name: &str) -> Option<&'static str> {
    match name {
        "alias_database" => Some("hash:/etc/aliases"),
        "default_database_type" => Some("hash"),
        "mail_name" => Some("doorpost"),
        "mail_version" => Some(env!("CARGO_PKG_VERSION")),
        "mydestination" => Some("$myhostname, localhost.$mydomain, localhost"),
        "myorigin" => Some("$myhostname"),
        "smtpd_client_port_logging" => Some("no"),
        _ => parameter(name).map(|parameter| parameter.default),
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
    use crate::config::main_cf;

    #[test]
    fn an_empty_host_name_is_the_machines_own_also_in_other_values() {
        let config = Config::with(&[("syslog_name", "$myhostname")]);
        assert_eq!((config.syslog_name, config.myhostname), (host_name(), host_name()));
    }

    #[test]
    fn a_host_name_without_a_dot_is_completed_by_mydomain_if_that_was_set() {
        let expanded = |name: &str, set: &[(&str, &str)], machine| {
            let definition = |(name, raw): &(&str, &str)| main_cf::parse_option(&format!("{name}={raw}")).unwrap();
            let mut definitions = Definitions::on(machine, set.iter().map(definition).collect());
            expand::expand_name(name, &mut definitions).unwrap()
        };
        let vm = || "vm".to_owned();
        for (set, expected) in [
            (&[("mydomain", "example.net")][..], "vm.example.net"),
            (&[("mydomain", "$site.example"), ("site", "a")], "vm.a.example"),
            (&[("mydomain", "example.net"), ("myhostname", "")], "vm.example.net"),
            (&[("mydomain", "example.net"), ("myhostname", "mx")], "mx"),
            (&[("mydomain", "")], "vm"),
            (&[("mydomain", "$myhostname")], "vm"),
            (&[("mydomain", "${myhostname?x.example}")], "vm"),
            (&[("mydomain", "$site.example"), ("site", "${myhostname}")], "vm"),
            (&[], "vm"),
        ] {
            assert_eq!(expanded("myhostname", set, vm), expected, "{set:?}");
            let others = [set, &[("syslog_name", "$myhostname-$myhostname")]].concat();
            assert_eq!(expanded("syslog_name", &others, vm), format!("{expected}-{expected}"), "{set:?}");
        }
        assert_eq!(expanded("myhostname", &[("mydomain", "b.example")], || "mx.a.example".to_owned()), "mx.a.example");
        assert_eq!(expanded("mydomain", &[("mydomain", "${myhostname}.example")], vm), "vm.example");

        let machine = host_name();
        let expected = if machine.contains('.') { machine.clone() } else { format!("{machine}.example.net") };
        assert_eq!(Config::with(&[("mydomain", "example.net")]).myhostname, expected);
        let itself = main_cf::parse_option("mydomain=$mydomain").unwrap();
        assert!(Config::from_definitions(vec![itself]).is_err() || machine.contains('.'));
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
