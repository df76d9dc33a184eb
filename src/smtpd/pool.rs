//! Server programs of ours as pools: which can be, and what one is told.
//!
//! The program gets all listening sockets of its service and accepts by itself (`net::pool`), so it keeps the limits as
//! well. Everything it must know beyond its own configuration is said by `-o`, in front of what the command line says.

use super::program::{Program, last_component};
use crate::config::Config;
use std::ffi::OsString;
use std::path::Path;

/// Most children where there is no limit: more than the system has processes for.
pub const MOST: usize = 65_536;
/// Connections that a submit of ours serves, one after the other.
const USES_OF_SUBMIT: u32 = 100;
/// Submits that wait where something waits at all.
const SPARE_SUBMITS: usize = 2;
/// Sessions beside those of pools that may need submit: deliver's, those of other superservers.
const OTHERS: usize = 16;

/// How a program runs that connections are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Started for each connection.
    Exec,
    /// A server that forks for each, or keeps children.
    Pool,
}

/// What a pool is told.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Most children.
    pub children: usize,
    /// So many wait.
    pub idle: usize,
    /// Connections that one serves; 0: no limit.
    pub max_use: u32,
    /// Whether they show their client in the table of processes.
    pub is_pretty: bool,
}

/// Whether a program is one of ours that accepts by itself, by the last component of its path.
pub fn can_be(program: &Path) -> bool {
    let names = ["smtpsrvr", "rsmtpsrvr", "lmtpsrvr", "qmqpd", "qmtpd", "pop3d"];
    last_component(program.as_os_str()).to_str().is_some_and(|name| names.contains(&name))
}

/// Whether it hands mail to submit.
pub fn submits(program: &Path) -> bool {
    can_be(program) && last_component(program.as_os_str()) != "pop3d"
}

/// The program as a pool.
pub fn of(mut program: Program, size: Size, config: &Config) -> Program {
    let mut arguments = settings(&[
        ("children", size.children.min(MOST).to_string()),
        ("idle_children", size.idle.to_string()),
        ("max_use", size.max_use.to_string()),
        ("max_idle", config.max_idle.0.as_secs().to_string()),
        ("smtpd_client_connection_count_limit", config.smtpd_client_connection_count_limit.to_string()),
        ("smtpd_client_connection_rate_limit", config.smtpd_client_connection_rate_limit.to_string()),
        ("smtpd_client_event_limit_exceptions", expanded(config, "smtpd_client_event_limit_exceptions")),
        ("smtpd_client_ipv6_prefix_length", config.smtpd_client_ipv6_prefix_length.0.to_string()),
        ("when_full", if config.when_full.refuses { "refuse" } else { "defer" }.to_owned()),
        ("pretty_child", if size.is_pretty { "yes" } else { "no" }.to_owned()),
    ]);
    if let Some(localhost) = program.localhost.take() {
        // Who the client is says the kernel.
        arguments.extend(["-".into(), localhost.into()]);
    }
    program.arguments.splice(0..0, arguments);
    program
}

/// submit as a pool for so many sessions.
pub fn submit(config: &Config, sessions: usize, stands: bool) -> Program {
    let path = config.program("submit");
    let arguments = settings(&[
        ("children", sessions.saturating_add(OTHERS).min(MOST).to_string()),
        ("idle_children", if stands { SPARE_SUBMITS } else { 0 }.to_string()),
        ("max_use", USES_OF_SUBMIT.to_string()),
        ("max_idle", config.max_idle.0.as_secs().to_string()),
        ("smtpd_client_connection_count_limit", "0".to_owned()),
        ("smtpd_client_connection_rate_limit", "0".to_owned()),
        ("when_full", "defer".to_owned()),
    ]);
    Program::new(path, "submit".into(), arguments)
}

fn settings(settings: &[(&str, String)]) -> Vec<OsString> {
    settings
        .iter()
        .flat_map(|(name, value)| ["-o".into(), format!("{name}={}", value.replace('$', "$$")).into()])
        .collect()
}

fn expanded(config: &Config, name: &str) -> String {
    config.setting(name).map_or_else(String::new, |setting| setting.expanded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_servers_can_be_pools() {
        for name in ["/usr/sbin/smtpsrvr", "qmqpd", "/x/pop3d"] {
            assert!(can_be(Path::new(name)), "{name}");
        }
        for name in ["/bin/cat", "submit", "smtpsrvr/other", "xsmtpsrvr"] {
            assert!(!can_be(Path::new(name)), "{name}");
        }
        assert!(submits(Path::new("qmqpd")) && !submits(Path::new("pop3d")));
    }

    #[test]
    fn what_the_command_line_says_comes_behind_and_so_wins() {
        let mut program = Program::new("/x/smtpsrvr".into(), "smtpsrvr".into(), vec!["local,smtp".into()]);
        program.localhost = Some("mx.example".to_owned());
        let size = Size { children: usize::MAX, idle: 3, max_use: 7, is_pretty: false };
        let config = Config::with(&[("smtpd_client_event_limit_exceptions", "192.0.2.0/24, 198.51.100.1")]);
        let arguments = of(program, size, &config).arguments;
        let text: Vec<_> = arguments.iter().map(|word| word.to_str().unwrap()).collect();
        assert!(text.starts_with(&["-o", "children=65536", "-o", "idle_children=3", "-o", "max_use=7"]), "{text:?}");
        assert!(text.contains(&"smtpd_client_event_limit_exceptions=192.0.2.0/24, 198.51.100.1"), "{text:?}");
        assert!(text.ends_with(&["-", "mx.example", "local,smtp"]), "{text:?}");
    }
}
