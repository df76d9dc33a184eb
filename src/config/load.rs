//! From the command line to a checked [`Config`]: which folder, which definitions, expansion, and what else must hold.

use super::main_cf::{self, Definition};
use super::names::{Definitions, is_to_expand, take_own_names};
use super::parameters::{Config, Setting, parameters};
use super::{Error, Origin, expand, file, show};
use crate::cli::Common;
use crate::exit;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// The folder of the configuration where nobody says another.
pub const DEFAULT_FOLDER: &str = "/etc/doorpost";

/// A configuration, and what an administrator should hear of it.
pub type Loaded = (Box<Config>, Vec<Error>);

/// More are told of no main.cf.
const MOST_MISTAKES: usize = 100;

impl Config {
    /// Reads main.cf as the options say, applies `-o`, expands and checks everything, sets up logging by it, and answers
    /// `--show-config` (which ends the program). In a box, for it is 4 kB, and the stack would have as much more for each
    /// function that hands it on.
    ///
    /// A missing main.cf is no error; one that cannot be read, has nothing in it, or was there when this process read it
    /// before, is. A program that gained rights by setgid ignores the options.
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
    /// anything can be made of that. Of a file that is no main.cf the first hundred.
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
                _ if mistakes.len() == MOST_MISTAKES => return (mistakes, None),
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
pub(super) fn is_trusted() -> bool {
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
    let mut parsed = match file::contents_if_any(&path)? {
        // The defaults are hardly meant by that: by them this may be another host, and mail for users here be refused for good.
        Some(octets) if octets.is_empty() && path.is_file() => {
            let problem =
                "expected a setting or a comment, and there is nothing in this file: is it still being written?";
            return Err(Error::at(path, 0, problem));
        }
        Some(octets) => main_cf::parse_without(&octets, &path, without)?,
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

fn assemble(definitions: Vec<Definition>) -> Result<Loaded, Error> {
    // Those that are set, and the few whose defaults refer to others.
    let mut settings = Vec::with_capacity(definitions.len().saturating_add(4));
    let mut definitions = Definitions::new(definitions);
    for parameter in parameters() {
        let (raw, origin) = match definitions.get(parameter.name) {
            Some((raw, origin)) => (Cow::Owned(raw.clone()), origin.clone()),
            // Most are neither set nor refer to anything, and each process reads them all: nothing is kept of these.
            None if !is_to_expand(parameter.name, parameter.default) => continue,
            None => (Cow::Borrowed(parameter.default), Origin::Default),
        };
        let expanded = match is_to_expand(parameter.name, &raw) {
            true => Cow::Owned(expand::expand_name(parameter.name, &mut definitions)?),
            false => raw.clone(),
        };
        if parameter.name == "myhostname" {
            definitions.set_domain_of(&expanded);
        }
        let lacks = definitions.take_missed();
        settings.push(Setting { name: parameter.name, raw, expanded, origin, lacks });
    }
    // All of this stays as long as the configuration.
    settings.shrink_to_fit();
    let mut config = Config::from_settings(settings)?;
    config.check()?;
    config.widen();
    let warnings = take_own_names(&mut config, definitions)?;
    Ok((config, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
        for long in ["99999999w", "4294967296", "99999999999999999999s"] {
            let problem = load("", &[&format!("smtpd_timeout={long}")]).unwrap_err();
            assert!(problem.ends_with(": expected a time of at most 4294967295 seconds"), "{problem}");
        }
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
        assert!(config.own_names.iter().any(|own| own.name == "mine" && own.expanded == "x"));
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
    fn what_a_wrong_value_lacks_is_named() {
        let told = |main_cf: &str| load(main_cf, &[]).unwrap_err();
        let expected = "main.cf:1: soft_bounce = : expected yes or no, as $nope is set nowhere";
        assert_eq!(told("soft_bounce = $nope$nope\n"), expected);
        assert_eq!(told("soft_bounce = $indirect\nindirect = $nope\n"), expected);
        let lacks_two = told("smtpd_timeout = $one$two\nsyslog_name = $three\n");
        assert!(lacks_two.ends_with(", as $one and $two are set nowhere"), "{lacks_two}");
        assert!(told("children = 0$nope\n").ends_with("expected something above 0, as $nope is set nowhere"));
        // Each value for itself.
        let other = told("syslog_name = $nope\nsoft_bounce = maybe\n");
        assert_eq!(other, "main.cf:2: soft_bounce = maybe: expected yes or no");
    }

    #[test]
    fn a_value_may_refer_to_what_postfix_always_has() {
        let main_cf = "qmqpd_client_port_logging = $smtpd_client_port_logging\nmyhostname = mx.example.net\n\
            alias_maps = $default_database_type:/etc/aliases $alias_database\n\
            syslog_name = $mail_name ${mail_version?{a}:} $myorigin, $mydestination\n";
        let (config, warnings) = load(main_cf, &[]).unwrap();
        assert_eq!(warnings, [] as [&str; 0]);
        assert!(!config.qmqpd_client_port_logging && config.own_names.iter().all(|own| own.name == "mydomain"));
        assert_eq!(config.alias_maps.0.len(), 2);
        let names = "doorpost a mx.example.net, mx.example.net, localhost.example.net, localhost";
        assert_eq!(config.syslog_name, names);
        let (config, warnings) = load(&format!("{main_cf}smtpd_client_port_logging = yes\n"), &[]).unwrap();
        assert!(config.qmqpd_client_port_logging && warnings.is_empty());
    }

    #[test]
    fn mydomain_is_what_it_is_to_postfix_without_being_set() {
        for (host, domain) in [("mx.example.net", "example.net"), ("mx", "localdomain")] {
            let (config, warnings) = load(&format!("myhostname = {host}\nsyslog_name = $mydomain\n"), &[]).unwrap();
            assert_eq!(config.syslog_name, domain);
            assert!(config.own_names.iter().any(|own| own.name == "mydomain" && own.expanded == domain));
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
}
