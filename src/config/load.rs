//! From the command line to a checked [`Config`]: which folder, which definitions, expansion, and what else must hold.

use super::expand::{self, Names};
use super::main_cf::{self, Definition};
use super::parameters::{Config, Parameter, Setting, parameters};
use super::{Error, Origin, show};
use crate::cli::Common;
use crate::exit;
use crate::kept::{self, A_MOMENT};
use crate::message::path::is_host_name;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// The folder of the configuration where nobody says another.
pub const DEFAULT_FOLDER: &str = "/etc/doorpost";

/// Largest main.cf or table read, in octets.
pub(crate) const LARGEST_FILE: u64 = 1 << 20;
const ENOUGH_FOR_MOST: usize = 2048;

/// A configuration, and what an administrator should hear of it.
pub type Loaded = (Box<Config>, Vec<Error>);

impl Config {
    /// Reads main.cf as the options say, applies `-o`, expands and checks everything, sets up logging by it, and answers
    /// `--show-config` (which ends the program). In a box, for it is 4 kB, and the stack would have as much more for each
    /// function that hands it on.
    ///
    /// A missing main.cf is no error; one that cannot be read, or has nothing in it, is. A program that gained rights by
    /// setgid ignores the options.
    pub fn load(common: &Common) -> Result<Box<Config>, exit::Error> {
        let (config, warnings) = Config::read(common)?;
        crate::logging::configure(&config.syslog_name, config.syslog_facility.0);
        for warning in warnings {
            log::warn!("{warning}");
        }
        if let Some(kind) = &common.show_config {
            show::print(&config, kind);
            std::process::exit(0);
        }
        Ok(config)
    }

    /// The same without saying anything: the other part is what an administrator should hear.
    pub fn read(common: &Common) -> Result<Loaded, exit::Error> {
        Config::read_without(common, &[])
    }

    /// All mistakes that there are, each found when what those before it have set is taken for not set; and the rest, if
    /// anything can be made of that.
    pub fn read_past_mistakes(common: &Common) -> (Vec<exit::Error>, Option<Loaded>) {
        let (mut mistakes, mut places) = (Vec::new(), Vec::new());
        loop {
            let error = match Config::read_without(common, &places) {
                Ok(read) => return (mistakes, Some(read)),
                Err(error) => error,
            };
            match &error {
                // What no definition is to blame for would be found again.
                exit::Error::Config(Error { origin, .. }) if places.contains(origin) => return (mistakes, None),
                exit::Error::Config(Error { origin, .. }) => places.push(origin.clone()),
                _ => {
                    mistakes.push(error);
                    return (mistakes, None);
                }
            }
            mistakes.push(error);
        }
    }

    fn read_without(common: &Common, places: &[Origin]) -> Result<Loaded, exit::Error> {
        let nobody_asked = Common { show_config: common.show_config.clone(), ..Common::default() };
        let trusted = is_trusted();
        let common = if trusted { common } else { &nobody_asked };
        let mut options = Vec::new();
        for text in &common.overrides {
            let option = main_cf::parse_option(text)
                .map_err(|expected| exit::Error::Usage(format!("-o {}: {expected}", super::shown(text))))?;
            options.push(option);
        }
        let folder = folder(common, &options, trusted)?;
        Ok(read(&folder, options, places)?)
    }

    /// Checks definitions, expands them and fills in the defaults. The other part is what an administrator should hear.
    pub fn from_definitions(definitions: Vec<Definition>) -> Result<Loaded, Error> {
        assemble(definitions)
    }

    /// The defaults with some settings over them, for tests; a wrong one panics.
    pub fn with(settings: &[(&str, &str)]) -> Config {
        let definition = |(name, raw): &(&str, &str)| Definition {
            name: (*name).to_owned(),
            raw: (*raw).to_owned(),
            origin: Origin::Option,
        };
        match assemble(settings.iter().map(definition).collect()) {
            Ok((config, _)) => *config,
            Err(error) => panic!("{error}"),
        }
    }

    /// Where another program of ours is: daemon_directory, else the folder of the real file of the running program.
    pub fn program(&self, name: &str) -> PathBuf {
        let folder = self.daemon_directory.0.clone();
        let folder = folder.or_else(|| Some(std::env::current_exe().ok()?.parent()?.to_owned()));
        // Never a bare name: that would be looked for in PATH.
        folder.unwrap_or_else(|| PathBuf::from("/usr/lib/doorpost")).join(name)
    }
}

/// Whether whoever started this program may choose its configuration: not if it gained rights by it.
fn is_trusted() -> bool {
    use nix::unistd::{getegid, geteuid, getgid, getuid};
    getuid() == geteuid() && getgid() == getegid()
}

/// The folder of main.cf, and what named it.
struct Folder {
    path: PathBuf,
    origin: Origin,
}

fn folder(common: &Common, options: &[Definition], trusted: bool) -> Result<Folder, Error> {
    let option = options.iter().rev().find(|option| option.name == "config_directory");
    let environment = std::env::var_os("MAIL_CONFIG").filter(|value| trusted && !value.is_empty());
    let (path, origin) = match (&common.config, option, environment) {
        (Some(path), ..) => (path.clone(), Origin::Folder("option --config")),
        (None, Some(option), _) => (PathBuf::from(&option.raw), Origin::Option),
        (None, None, Some(value)) => (PathBuf::from(value), Origin::Folder("environment MAIL_CONFIG")),
        (None, None, None) => return Ok(Folder { path: PathBuf::from(DEFAULT_FOLDER), origin: Origin::Default }),
    };
    let wrong = |problem: String| Error { origin: origin.clone(), problem };
    // Somebody named it: a folder that is not there is a slip of the pen, and the defaults are not what was meant.
    match std::path::absolute(&path) {
        Ok(absolute) if absolute.is_dir() => Ok(Folder { path: absolute, origin }),
        _ => Err(wrong(format!("expected a folder, and \"{}\" is none that can be read", path.display()))),
    }
}

/// `without`: what is set there counts for not set.
fn read(folder: &Folder, options: Vec<Definition>, without: &[Origin]) -> Result<Loaded, Error> {
    let path = folder.path.join("main.cf");
    let mut parsed = match contents_if_any(&path)? {
        // The defaults are hardly meant by that: by them this may be another host, and mail for users here be refused for good.
        Some(octets) if octets.is_empty() && path.is_file() => {
            let problem =
                "expected a setting or a comment, and there is nothing in this file: is it still being written?";
            return Err(Error::at(path, 0, problem));
        }
        Some(octets) => main_cf::parse(&octets, &path)?,
        None => main_cf::Parsed::default(),
    };
    let text = |path: &Path| path.to_str().map(|text| text.replace('$', "$$"));
    let raw = text(&folder.path).ok_or_else(|| Error {
        origin: folder.origin.clone(),
        problem: "expected a folder whose name is UTF-8".to_owned(),
    })?;
    for definition in parsed.definitions.iter().filter(|definition| definition.name == "config_directory") {
        let problem = "config_directory does not count here; use --config or the environment variable MAIL_CONFIG";
        parsed.warnings.push(Error { origin: definition.origin.clone(), problem: problem.to_owned() });
    }
    let mut definitions = parsed.definitions;
    definitions.extend(options);
    definitions.retain(|definition| definition.name != "config_directory" && !without.contains(&definition.origin));
    if folder.origin != Origin::Default {
        let name = "config_directory".to_owned();
        definitions.push(Definition { name, raw, origin: folder.origin.clone() });
    }
    let (config, warnings) = assemble(definitions)?;
    parsed.warnings.extend(warnings);
    Ok((config, parsed.warnings))
}

/// What a configuration file holds; nothing if it is not there.
pub(crate) fn contents(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let wrong = |problem: String| Error::at(path, 0, problem);
    // Non-blocking, so that a FIFO in its place cannot hold a server up for ever.
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(format!("expected a readable file: {error}"))),
    };
    // Two reads for most files, the second to learn that this is all; growing from nothing would take five.
    let mut octets = Vec::with_capacity(ENOUGH_FOR_MOST);
    file.take(LARGEST_FILE + 1)
        .read_to_end(&mut octets)
        .map_err(|error| wrong(format!("expected a readable file: {error}")))?;
    if octets.len() as u64 > LARGEST_FILE {
        return Err(wrong(format!("expected a file of at most {LARGEST_FILE} octets")));
    }
    Ok(Some(octets))
}

/// The same of a file that may be missing. Where its folder has changed just now it is looked for once more, for an editor
/// that moves the old one away writes the new one next.
pub(crate) fn contents_if_any(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    contents_after(path, || std::thread::sleep(A_MOMENT))
}

fn contents_after(path: &Path, pause: impl FnOnce()) -> Result<Option<Vec<u8>>, Error> {
    match contents(path)? {
        None if kept::may_come_back(path) => {
            pause();
            contents(path)
        }
        found => Ok(found),
    }
}

/// Every name there is: what was set, else defaults, and the two that tell about the process.
struct Table {
    set: BTreeMap<String, (String, Origin)>,
    /// By another value.
    referred_to: BTreeSet<String>,
    /// What a value refers to and nobody set, and where it does.
    missed: Vec<(String, Origin)>,
}

impl Names for Table {
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
fn is_to_expand(name: &str, raw: &str) -> bool {
    raw.contains('$') || (raw.is_empty() && name == "myhostname")
}

static SERVICE_NAME: OnceLock<String> = OnceLock::new();

/// What `$service_name` is, where it is not the program's own name (option -n).
pub(crate) fn set_service_name(name: &str) {
    let _ = SERVICE_NAME.set(name.to_owned());
}

fn parameter(name: &str) -> Option<Parameter> {
    parameters().find(|parameter| parameter.name == name)
}

/// The read-only names, which may stand in values.
pub(crate) fn about_process(name: &str) -> Option<String> {
    match name {
        "service_name" if SERVICE_NAME.get().is_some() => SERVICE_NAME.get().cloned(),
        "process_id" => Some(std::process::id().to_string()),
        "process_name" | "service_name" => {
            let program = std::env::args_os().next().unwrap_or_default();
            Some(Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned())
        }
        _ => None,
    }
}

fn assemble(definitions: Vec<Definition>) -> Result<Loaded, Error> {
    let mut table = Table { set: BTreeMap::new(), referred_to: BTreeSet::new(), missed: Vec::new() };
    for definition in definitions {
        table.set.insert(definition.name, (definition.raw, definition.origin));
    }
    let mut settings = Vec::new();
    for parameter in parameters() {
        let (raw, origin) = match table.set.get(parameter.name) {
            Some((raw, origin)) => (Cow::Owned(raw.clone()), origin.clone()),
            // Most are neither set nor refer to anything, and each process reads them all: nothing is kept of these.
            None if !is_to_expand(parameter.name, parameter.default) => continue,
            None => (Cow::Borrowed(parameter.default), Origin::Default),
        };
        let expanded = match is_to_expand(parameter.name, &raw) {
            true => Cow::Owned(expand::expand_name(parameter.name, &mut table)?),
            false => raw.clone(),
        };
        if parameter.name == "myhostname" {
            let domain = domain_of(&expanded).replace('$', "$$");
            table.set.entry(MYDOMAIN.to_owned()).or_insert((domain, Origin::Default));
        }
        settings.push(Setting { name: parameter.name, raw, expanded, origin });
    }
    let mut config = Config::from_settings(settings)?;
    config.check()?;
    config.widen();
    let warnings = take_own_names(&mut config, table)?;
    Ok((config, warnings))
}

/// Postfix's name for what is behind the first dot of myhostname, which may stand in values without being set.
const MYDOMAIN: &str = "mydomain";

fn domain_of(host: &str) -> &str {
    host.split_once('.').map_or("localdomain", |(_, domain)| domain)
}

/// Keeps the names that are no parameters. A misspelt parameter is one that nothing refers to, in main.cf or channels; one
/// that cannot be expanded as well is no reason to end, for it may be another program's.
fn take_own_names(config: &mut Config, mut table: Table) -> Result<Vec<Error>, Error> {
    let mut warnings: Vec<Error> = std::mem::take(&mut table.missed)
        .into_iter()
        .map(|(name, origin)| Error {
            origin,
            problem: format!("${} is set nowhere, and so is empty", super::shown(&name)),
        })
        .collect();
    let used = table.referred_to.clone();
    let set: Vec<(String, Origin)> = table
        .set
        .iter()
        .filter(|(name, _)| parameter(name).is_none())
        .map(|(name, (_, origin))| (name.clone(), origin.clone()))
        .collect();
    // In the order of their names.
    for (name, _) in &set {
        if about_process(name).is_none() {
            let is_referred_to = table.referred_to.contains(name);
            match expand::expand_name(name, &mut table) {
                Ok(expanded) => config.own_names.push((name.clone(), expanded)),
                Err(error) if used.contains(name) || is_in_channels(config, name) => return Err(error),
                Err(Error { origin, problem }) => {
                    let problem = format!("{problem}; nothing refers to {}", super::shown(name));
                    warnings.push(Error { origin, problem });
                }
            }
            if !is_referred_to {
                table.referred_to.remove(name);
            }
        }
    }
    for (name, origin) in set {
        if about_process(&name).is_some() {
            warnings.push(Error { origin, problem: format!("{name} cannot be set") });
        } else if config.own_names.binary_search_by(|(own, _)| own.cmp(&name)).is_ok()
            && !table.referred_to.contains(&name)
            && name != MYDOMAIN
            && !is_in_channels(config, &name)
        {
            warnings.push(Error { origin, problem: format!("unknown parameter {}", super::shown(&name)) });
        }
    }
    Ok(warnings)
}

/// The longest time between two tries, which the queue believes though clocks are set.
const LONGEST_BACKOFF: Duration = Duration::from_secs(7 * 86_400);

/// The system gives up long before.
const NO_LIMIT_OF_OURS: Duration = Duration::from_secs(86_400);

/// Whether the channels file may refer to a name; only asked for the few that main.cf itself does not use.
fn is_in_channels(config: &Config, name: &str) -> bool {
    let text = contents(&config.channels).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    ["$", "${", "$("].iter().any(|before| text.contains(&format!("{before}{name}")))
}

impl Config {
    /// Takes values for what they mean: Postfix's parameter may name more lists than there are here, and no time at all to
    /// connect is as long as the system tries.
    fn widen(&mut self) {
        if self.smtp_connect_timeout.0.is_zero() {
            self.smtp_connect_timeout.0 = NO_LIMIT_OF_OURS;
        }
        let named = |name: &str| self.parent_domain_matches_subdomains.0.iter().any(|word| word == name);
        let (debug, qmqpd) = (named("debug_peer_list"), named("qmqpd_authorized_clients"));
        for (list, wanted) in [(&mut self.debug_peer_list, debug), (&mut self.qmqpd_authorized_clients, qmqpd)] {
            if wanted {
                list.with_subdomains();
            }
        }
    }

    /// What a type alone cannot say.
    fn check(&self) -> Result<(), Error> {
        self.expect("myhostname", is_host_name(&self.myhostname), "a host name of letters, digits, - and dots")?;
        let zero = [
            ("smtpd_timeout", self.smtpd_timeout.0.is_zero()),
            ("qmqpd_timeout", self.qmqpd_timeout.0.is_zero()),
            ("pop3d_timeout", self.pop3d_timeout.0.is_zero()),
            ("daemon_timeout", self.daemon_timeout.0.is_zero()),
            ("ipc_timeout", self.ipc_timeout.0.is_zero()),
            ("smtpd_upstream_proxy_timeout", self.smtpd_upstream_proxy_timeout.0.is_zero()),
            ("command_time_limit", self.command_time_limit.0.is_zero()),
            ("before_queue_filter_timeout", self.before_queue_filter_timeout.0.is_zero()),
            ("smtp_helo_timeout", self.smtp_helo_timeout.0.is_zero()),
            ("smtp_starttls_timeout", self.smtp_starttls_timeout.0.is_zero()),
            ("smtp_mail_timeout", self.smtp_mail_timeout.0.is_zero()),
            ("smtp_rcpt_timeout", self.smtp_rcpt_timeout.0.is_zero()),
            ("smtp_data_init_timeout", self.smtp_data_init_timeout.0.is_zero()),
            ("smtp_data_xfer_timeout", self.smtp_data_xfer_timeout.0.is_zero()),
            ("smtp_data_done_timeout", self.smtp_data_done_timeout.0.is_zero()),
            ("minimal_backoff_time", self.minimal_backoff_time.0.is_zero()),
            ("maximal_backoff_time", self.maximal_backoff_time.0.is_zero()),
            ("queue_run_delay", self.queue_run_delay.0.is_zero()),
            ("children", self.children == 0),
            ("line_length_limit", self.line_length_limit == 0),
            ("hopcount_limit", self.hopcount_limit == 0),
            ("smtpd_recipient_limit", self.smtpd_recipient_limit == 0),
            ("smtpd_hard_error_limit", self.smtpd_hard_error_limit == 0),
            ("debug_peer_level", self.debug_peer_level == 0),
        ];
        for (name, is_zero) in zero {
            self.expect(name, !is_zero, "something above 0")?;
        }
        // A next try that is further away counts as set by a wrong clock, and is due.
        let backoff = [
            ("minimal_backoff_time", self.minimal_backoff_time.0),
            ("maximal_backoff_time", self.maximal_backoff_time.0),
        ];
        for (name, time) in backoff {
            self.expect(name, time <= LONGEST_BACKOFF, "7d at the most")?;
        }
        self.expect("authentication", !self.authentication.0.is_empty(), "at least one way to check a password")
    }

    fn expect(&self, name: &str, holds: bool, expected: &str) -> Result<(), Error> {
        if holds { Ok(()) } else { Err(self.wrong(name, expected)) }
    }

    /// Says of a parameter that is right by itself but cannot be used where it was set, and what was expected there.
    pub fn wrong(&self, name: &str, expected: &str) -> Error {
        let value =
            self.setting(name).map_or(String::new(), |setting| format!(" = {}", super::shown(&setting.expanded)));
        Error { origin: self.origin(name), problem: format!("{name}{value}: expected {expected}") }
    }

    /// Where a parameter was set.
    pub fn origin(&self, name: &str) -> Origin {
        let setting = self.settings.iter().find(|setting| setting.name == name);
        setting.map_or(Origin::Default, |setting| setting.origin.clone())
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

    fn load(main_cf: &str, options: &[&str]) -> Result<(Config, Vec<String>), String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("main.cf"), format!("{main_cf}\n")).unwrap();
        let options = options.iter().map(|text| main_cf::parse_option(text).unwrap()).collect();
        let named = Folder { path: folder.path().to_owned(), origin: Origin::Folder("option --config") };
        let shorter = |error: Error| error.to_string().replace(&format!("{}/", folder.path().display()), "");
        let (config, warnings) = read(&named, options, &[]).map_err(shorter)?;
        assert_eq!(config.config_directory, folder.path());
        Ok((*config, warnings.into_iter().map(shorter).collect()))
    }

    #[test]
    fn an_error_about_an_endless_value_is_a_short_line() {
        let error = load(&format!("soft_bounce = {}\x1b", "maybe".repeat(5000)), &[]).unwrap_err();
        assert!(error.len() < 300 && error.contains("expected yes or no"), "{error}");
    }

    #[test]
    fn no_file_gives_the_defaults() {
        let config = Config::with(&[]);
        assert_eq!(config.message_size_limit, 10_240_000);
        assert_eq!(config.channels, Path::new("/etc/doorpost/channels"));
        assert!(!config.myhostname.is_empty());
    }

    #[test]
    fn options_win_over_the_file_before_expansion() {
        let (config, warnings) = load("syslog_name = $base-x\nbase = file\n", &["base=option"]).unwrap();
        assert_eq!(config.syslog_name, "option-x");
        assert_eq!(warnings, [] as [&str; 0]);
    }

    #[test]
    fn the_channels_file_is_beside_main_cf() {
        let (config, _) = load("", &[]).unwrap();
        assert_eq!(config.channels, config.config_directory.join("channels"));
    }

    #[test]
    fn a_bad_value_tells_file_line_and_expectation() {
        assert_eq!(
            load("# x\n\nsoft_bounce = maybe\n", &[]).unwrap_err(),
            "main.cf:3: soft_bounce = maybe: expected yes or no"
        );
        assert_eq!(load("children = 0\n", &[]).unwrap_err(), "main.cf:1: children = 0: expected something above 0");
        assert_eq!(
            load("", &["smtpd_timeout=5x"]).unwrap_err(),
            "option -o: smtpd_timeout = 5x: expected a whole number and at most one of the letters s, m, h, d, w"
        );
        assert!(load("myhostname = a b\n", &[]).unwrap_err().contains("expected a host name"));
    }

    #[test]
    fn a_list_of_tables_is_one_where_there_may_be_a_list_and_an_error_elsewhere() {
        let (config, _) = load("alias_maps = hash:/etc/aliases, /etc/more\n", &[]).unwrap();
        let paths: Vec<&Path> = config.alias_maps.0.iter().map(|map| map.0.as_path()).collect();
        assert_eq!(paths, [Path::new("/etc/aliases"), Path::new("/etc/more")]);
        assert!(load("alias_maps = hash:/etc/aliases, nis:mail.aliases\n", &[]).unwrap_err().contains("not nis:mail"));
        for text in ["hash:/a, hash:/b", "/a,/b", "/a /b", "hash:/a lmdb:/b"] {
            for name in ["smtp_tls_policy_maps", "smtp_sasl_password_maps", "smtp_tls_CAfile"] {
                let error = load(&format!("{name} = {text}\n"), &[]).unwrap_err();
                assert!(error.contains("expected one path"), "{error}");
            }
        }
        assert!(load("daemon_directory = /opt/my programs\n", &[]).is_ok());
    }

    #[test]
    fn times_in_which_nothing_could_be_done_are_refused_and_none_to_connect_is_no_limit() {
        let of_hosts = ["helo", "starttls", "mail", "rcpt", "data_init", "data_xfer", "data_done"];
        let of_hosts = of_hosts.map(|stage| format!("smtp_{stage}_timeout"));
        let others = ["command_time_limit", "before_queue_filter_timeout", "smtpd_upstream_proxy_timeout"];
        for name in of_hosts.iter().map(String::as_str).chain(others) {
            let error = load(&format!("{name} = 0\n"), &[]).unwrap_err();
            assert!(error.contains("expected something above 0"), "{error}");
            assert!(load(&format!("{name} = 1\n"), &[]).is_ok(), "{name}");
        }
        let connect =
            |text: &str| load(&format!("smtp_connect_timeout = {text}\n"), &[]).unwrap().0.smtp_connect_timeout.0;
        assert!(connect("0") > Duration::from_secs(3600));
        assert_eq!(connect("1"), Duration::from_secs(1));
    }

    #[test]
    fn an_exempted_net_that_is_written_as_ipv6_means_ipv4_clients() {
        let nets = "smtpd_client_event_limit_exceptions = [::ffff:192.0.2.0]/120, ::ffff:10.0.0.1, [2001:db8::]/32\n";
        let nets = load(nets, &[]).unwrap().0.smtpd_client_event_limit_exceptions.0;
        let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
        assert_eq!(nets, ["192.0.2.0/24", "10.0.0.1/32", "2001:db8::/32"]);
    }

    #[test]
    fn unknown_names_are_warned_of_unless_a_value_refers_to_them() {
        let (config, warnings) = load("mine = x\nsyslog_name = $mine\nsmtpd_timout = 5s\n", &[]).unwrap();
        assert_eq!(warnings, ["main.cf:3: unknown parameter smtpd_timout"]);
        let (_, warnings) = load("a_unused = 1\nb_used = 2\nz_unused = $b_used\n", &[]).unwrap();
        assert_eq!(warnings, ["main.cf:1: unknown parameter a_unused", "main.cf:3: unknown parameter z_unused"]);
        assert!(config.own_names.contains(&("mine".to_owned(), "x".to_owned())));
    }

    #[test]
    fn a_name_that_is_set_nowhere_is_empty_and_warned_of_once_where_it_stands() {
        let main_cf = "syslog_name = a${undefind}b$undefind\nverp_delimiter_filter = ${stress?x}+\nother = $not_ours\n";
        let (config, warnings) = load(main_cf, &[]).unwrap();
        assert_eq!((config.syslog_name.as_str(), config.verp_delimiter_filter.as_str()), ("ab", "+"));
        let told = ["main.cf:1: $undefind is set nowhere, and so is empty", "main.cf:3: unknown parameter other"];
        assert_eq!(warnings, told);
    }

    #[test]
    fn mydomain_is_what_it_is_to_postfix_without_being_set() {
        for (host, domain) in [("mx.example.net", "example.net"), ("mx", "localdomain")] {
            let (config, warnings) = load(&format!("myhostname = {host}\nsyslog_name = $mydomain\n"), &[]).unwrap();
            assert_eq!(config.syslog_name, domain);
            assert!(config.own_names.contains(&("mydomain".to_owned(), domain.to_owned())));
            assert_eq!(warnings, [] as [&str; 0]);
        }
        let (config, warnings) = load("syslog_name = ${mydomain?$mydomain}\nmydomain = set.example\n", &[]).unwrap();
        assert_eq!((config.syslog_name.as_str(), warnings.len()), ("set.example", 0));
        assert!(load("myhostname = mx.$mydomain\n", &[]).unwrap_err().contains("expected a host name"));
    }

    #[test]
    fn what_another_program_may_understand_ends_none_of_ours() {
        let (config, warnings) = load("theirs = ${f{x}}\nagain = $again\nsyslog_name = x\n", &[]).unwrap();
        assert_eq!(config.syslog_name, "x");
        assert!(warnings[0].starts_with("main.cf:2: expected a value that does not refer to itself"), "{warnings:?}");
        assert!(warnings[1].starts_with("main.cf:1: expected ${name}"), "{warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains("; nothing refers to ")) && warnings.len() == 2);
        assert!(load("theirs = ${f{x}}\nsyslog_name = $theirs\n", &[]).is_err());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("channels"), "a ${mine} - - -\n").unwrap();
        let channels = format!("channels = {}/channels\nmine = $mine\n", folder.path().display());
        assert!(load(&channels, &[]).unwrap_err().contains("refer to itself"));
    }

    #[test]
    fn names_that_the_channels_file_refers_to_are_known() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("channels"), "a ${mine} - - -\n").unwrap();
        let channels = format!("channels = {}/channels\n", folder.path().display());
        let (_, warnings) = load(&format!("{channels}mine = 127.0.0.1\nother = 1\n"), &[]).unwrap();
        assert_eq!(warnings, ["main.cf:3: unknown parameter other"]);
    }

    #[test]
    fn names_about_the_process_can_be_used_and_not_set() {
        let (config, warnings) = load("process_id = 1\nsyslog_name = p${process_id}\n", &[]).unwrap();
        assert_eq!(config.syslog_name, format!("p{}", std::process::id()));
        assert_eq!(warnings, ["main.cf:1: process_id cannot be set"]);
    }

    #[test]
    fn an_empty_host_name_is_the_machines_own_also_in_other_values() {
        let (config, _) = load("syslog_name = $myhostname\n", &[]).unwrap();
        assert_eq!(config.syslog_name, host_name());
        assert_eq!(config.myhostname, host_name());
    }

    #[test]
    fn a_name_means_the_names_below_it_in_the_lists_that_are_named_and_in_no_other() {
        let lists = "debug_peer_list = example.net\nqmqpd_authorized_clients = example.net\n";
        for (line, debug, qmqpd) in [
            ("", true, true),
            ("parent_domain_matches_subdomains =", false, false),
            ("parent_domain_matches_subdomains = debug_peer_list, of_postfix_alone", true, false),
            ("parent_domain_matches_subdomains = qmqpd_authorized_clients", false, true),
        ] {
            let (config, _) = load(&format!("{lists}{line}\n"), &[]).unwrap();
            for (list, is_wide) in [(&config.debug_peer_list, debug), (&config.qmqpd_authorized_clients, qmqpd)] {
                assert!(list.matches_domain(b"example.net"), "{line}");
                assert_eq!(list.matches_domain(b"mx.example.net"), is_wide, "{line}");
            }
        }
    }

    #[test]
    fn a_fifo_or_a_folder_in_place_of_main_cf_does_not_hold_us_up() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("main.cf")).unwrap();
        assert!(contents(&folder.path().join("main.cf")).is_err());
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(contents(&fifo), Ok(Some(Vec::new())));
    }

    #[test]
    fn a_main_cf_with_nothing_in_it_is_no_way_to_ask_for_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let common = Common { config: Some(folder.path().to_owned()), ..Common::default() };
        let main_cf = folder.path().join("main.cf");
        assert!(Config::read(&common).is_ok(), "no file at all");
        std::fs::write(&main_cf, "").unwrap();
        assert!(Config::read(&common).unwrap_err().to_string().contains("there is nothing in this file"));
        std::fs::write(&main_cf, "# all defaults\n").unwrap();
        assert!(Config::read(&common).is_ok());
        std::fs::remove_file(&main_cf).unwrap();
        std::os::unix::fs::symlink("/dev/null", &main_cf).unwrap();
        assert!(Config::read(&common).is_ok());
    }

    #[test]
    fn a_file_that_an_editor_has_moved_away_just_now_is_looked_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("main.cf");
        let found = contents_after(&path, || std::fs::write(&path, "soft_bounce = yes\n").unwrap());
        assert_eq!(found, Ok(Some(b"soft_bounce = yes\n".to_vec())));
        assert_eq!(contents_after(Path::new("/nonexistent/main.cf"), || panic!("nobody is at it")), Ok(None));
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
