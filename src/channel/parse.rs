//! Reading the channels file: five columns a line, each checked; an error names file and line.

use super::{AUTHENTICATED, Channel, Channels, MayGo, Transport};
use crate::config::expand::{self, Names};
use crate::config::pattern::{Matches, PatternList};
use crate::config::value::Value;
use crate::config::{Config, Error, Origin, file, main_cf, names, shown};
use crate::port;
use std::net::Ipv6Addr;
use std::path::Path;
use std::sync::Arc;

/// What holds where there is no file.
const BUILT_IN: &str = "local 127.0.0.0/8,[::1] $myhostname,localhost mailbox: *\nsmtp * * smtp: local\n";

/// The columns, as errors name them.
const COLUMNS: &str = "five columns: channel, clients, domains, how mail leaves, where its mail may go";
/// Why there may be fewer, and why more.
const TOO_FEW: &str = "an empty one is written as -, and behind a comma its column goes on";
const TOO_MANY: &str = "a list is joined by commas, blanks stand in double quotes, and a comment on a line of its own";

pub(super) fn load(config: &Config) -> Result<Channels, Error> {
    load_all(config).map_err(|mut mistakes| mistakes.swap_remove(0))
}

pub(super) fn load_all(config: &Config) -> Result<Channels, Vec<Error>> {
    match file::contents_if_any(&config.channels).map_err(|error| vec![error])? {
        Some(octets) => parse_all(&octets, config, false),
        None => {
            let setting = config.setting("channels");
            if let Some(setting) = setting.filter(|setting| setting.origin != Origin::Default) {
                log::warn!("{}: there is no file {}: the built-in channels hold", setting.origin, setting.expanded);
            }
            parse_all(BUILT_IN.as_bytes(), config, true)
        }
    }
}

pub(super) fn parse(octets: &[u8], config: &Config) -> Result<Channels, Error> {
    parse_all(octets, config, false).map_err(|mut mistakes| mistakes.swap_remove(0))
}

/// The channels, or all mistakes: those of the lines, or where each line is right those of all together.
fn parse_all(octets: &[u8], config: &Config, built_in: bool) -> Result<Channels, Vec<Error>> {
    let path: Arc<Path> = config.channels.as_path().into();
    let origin = |line| if built_in { Origin::Default } else { Origin::File(Arc::clone(&path), line) };
    let lines = main_cf::all_lines(octets, &path).map_err(|error| vec![error])?;
    let mut mistakes = Vec::new();
    let mut channels: Vec<Channel> = Vec::with_capacity(lines.len());
    for (number, line) in lines {
        let origin = origin(number);
        let wrong = |expected: String| Error { origin: origin.clone(), problem: format!("expected {expected}") };
        let text = std::str::from_utf8(&line).map_err(|_| wrong("text in UTF-8".to_owned()));
        match text.and_then(|text| channel(text, config, &origin)) {
            Ok(channel) => match channels.iter().find(|earlier| earlier.name == channel.name) {
                Some(Channel { name, origin, .. }) => {
                    mistakes.push(wrong(format!("another name than {name}, which is that of {origin}")));
                }
                None => channels.push(channel),
            },
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    if !channels.iter().any(|channel| channel.name != AUTHENTICATED) {
        let besides = if channels.is_empty() { "" } else { " besides authenticated" };
        return Err(vec![Error { origin: origin(0), problem: format!("expected at least one channel{besides}") }]);
    }
    for channel in &channels {
        let MayGo::To(names) = &channel.may_go else { continue };
        if let Some(unknown) = names.iter().find(|name| channels.iter().all(|known| known.name != **name)) {
            let known: Vec<&str> = channels.iter().map(|known| known.name.as_str()).collect();
            let expected = match unknown.as_str() {
                "*" | "-" => format!("{unknown} alone in the last column, or names of channels"),
                unknown => format!("the name of a channel in the last column instead of {}", shown(unknown)),
            };
            let problem = format!("expected {expected}: there are {}", shown(&known.join(", ")));
            mistakes.push(Error { origin: channel.origin.clone(), problem });
        }
    }
    if mistakes.is_empty() { Ok(Channels(channels)) } else { Err(mistakes) }
}

fn channel(text: &str, config: &Config, origin: &Origin) -> Result<Channel, Error> {
    let wrong = |expected: String| Error { origin: origin.clone(), problem: format!("expected {expected}") };
    let columns = columns(text).map_err(|expected| wrong(expected.to_owned()))?;
    let [name, clients, domains, leaves, may_go] = columns[..] else {
        let hint = if columns.len() < 5 { TOO_FEW } else { TOO_MANY };
        let found: Vec<String> = columns.iter().take(8).map(|column| quoted(column)).collect();
        return Err(wrong(format!("{COLUMNS}; there are {}, {} ({hint})", columns.len(), found.join(" "))));
    };
    let is_name = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.');
    if name.len() > 64 || !name.bytes().all(is_name) || !name.bytes().any(|octet| octet.is_ascii_alphanumeric()) {
        return Err(wrong(format!("a channel name of letters, digits, - _ and . instead of {}", quoted(name))));
    }
    let expanded = |column: &str| expand::expand(column, origin, &mut MainCf { config, origin });
    let patterns = |column: &str, what: &str| match expanded(column)?.as_str() {
        "-" => Ok(PatternList::default()),
        text => PatternList::parse(text).map_err(|expected| wrong(format!("in the column of {what}: {expected}"))),
    };
    let clients = patterns(clients, "clients")?;
    let domains = patterns(domains, "domains")?;
    let is_of_clients = |matches: &Matches| matches!(matches, Matches::Stdin | Matches::Unknown | Matches::Table(..));
    if domains.0.iter().any(|pattern| is_of_clients(&pattern.matches)) {
        let expected = "in the column of domains: domains; stdin, unknown and tables are for the column of clients";
        return Err(wrong(expected.to_owned()));
    }
    if name == AUTHENTICATED && !clients.0.is_empty() && !clients.takes_all() {
        let expected = "- in the column of clients of this channel: who has logged in is on it, and nobody else";
        return Err(wrong(expected.to_owned()));
    }
    let transport = transport(&expanded(leaves)?).map_err(wrong)?;
    if transport == Transport::None && !domains.0.is_empty() {
        let expected = "a way for mail to leave, such as mailbox: or smtp:, since there are domains on this channel";
        return Err(wrong(expected.to_owned()));
    }
    let may_go = match expanded(may_go)?.as_str() {
        "*" => MayGo::Anywhere,
        "-" => MayGo::To(Vec::new()),
        names => MayGo::To(words(names).map(str::to_owned).collect()),
    };
    Ok(Channel { name: name.to_owned(), transport, clients, domains, may_go, origin: origin.clone() })
}

/// Splits at blanks, but not behind a comma, nor inside of the brackets of `${name?...}`. A column in double quotes may
/// have any blanks in it.
fn columns(text: &str) -> Result<Vec<&str>, &'static str> {
    let mut columns = Vec::new();
    let mut start = None;
    let (mut depth, mut behind_comma) = (0_usize, false);
    let mut quoted = false;
    for (at, octet) in text.bytes().enumerate() {
        let is_blank = octet.is_ascii_whitespace();
        if quoted {
            if octet == b'"' {
                columns.extend(start.take().and_then(|begin: usize| text.get(begin + 1..at)));
                quoted = false;
            }
            continue;
        }
        match start {
            None if octet == b'"' => {
                (start, quoted) = (Some(at), true);
                continue;
            }
            None if is_blank => continue,
            None if octet == b',' => return Err("blanks behind a comma, not before it"),
            None => start = Some(at),
            Some(begin) if is_blank && depth == 0 && !behind_comma => {
                columns.extend(text.get(begin..at));
                start = None;
            }
            Some(_) => {}
        }
        match octet {
            b'{' | b'(' => depth += 1,
            b'}' | b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        behind_comma = octet == b',' || (behind_comma && is_blank);
    }
    if quoted {
        return Err("a second double quote, at the end of the column");
    }
    if let Some(begin) = start {
        columns.extend(text.get(begin..));
    }
    if behind_comma { Err("something behind the last comma") } else { Ok(columns) }
}

/// As it can stand in a message, also where there is nothing.
fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(text))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_ascii_whitespace()).filter(|word| !word.is_empty())
}

/// What stands in the fourth column; the error is what was expected.
pub(super) fn transport(text: &str) -> Result<Transport, String> {
    let other = |name: &str, rest: &str| Ok(Transport::Other(name.to_owned(), rest.to_owned()));
    match text.split_once(':') {
        None if text == "-" => Ok(Transport::None),
        Some(("mailbox", "")) => Ok(Transport::Mailbox),
        Some(("mailbox", _)) => Err("nothing behind mailbox:; the parameter mailbox says where".to_owned()),
        Some(("smtp", "")) => Ok(Transport::Smtp(None)),
        Some(("smtp", next)) => host_and_port(next, "smtp").map(|()| Transport::Smtp(Some(next.to_owned()))),
        Some((name @ ("qmqp" | "qmtp"), hosts)) => {
            hosts.split(',').try_for_each(|host| host_and_port(host, name))?;
            other(name, hosts)
        }
        Some(("lmtp", next)) => {
            match next.strip_prefix("unix:") {
                Some(path) if path.starts_with('/') => {}
                Some(_) => return Err("an absolute path behind lmtp:unix:".to_owned()),
                None => host_and_port(next.strip_prefix("inet:").unwrap_or(next), "lmtp")?,
            }
            other("lmtp", next)
        }
        Some((name @ ("maildir" | "mbox" | "mmdf"), path)) => {
            if !path.starts_with('/') || path.contains('%') {
                return Err(format!("an absolute path without % behind {name}:"));
            }
            other(name, path)
        }
        Some((name @ ("pipe" | "qmail-queue"), line)) => {
            if !line.starts_with('/') {
                return Err(format!("the absolute path of a program behind {name}:"));
            }
            other(name, line)
        }
        Some(("discard", rest)) => other("discard", rest),
        Some(("error", text)) if text.len() <= 100 => other("error", text),
        Some(("error", _)) => Err("at most 100 octets behind error:".to_owned()),
        None if matches!(text, "mailbox" | "smtp" | "discard") => Err(format!("{text}: instead of {}", quoted(text))),
        _ => Err(format!(
            "mailbox:, maildir:, mbox:, mmdf:, smtp:, lmtp:, qmqp:, qmtp:, pipe:, qmail-queue:, discard:, error: or - \
             instead of {}",
            quoted(text)
        )),
    }
}

/// Postfix's forms of a next hop: `[host]`, `[host]:port`, `domain`, `domain:port`.
fn host_and_port(text: &str, transport: &str) -> Result<(), String> {
    let wrong = || {
        let one = if transport.starts_with('q') { "" } else { "one " };
        let forms = format!("{one}host, host:port, [host] or [host]:port behind {transport}:");
        let hint = if text.parse::<Ipv6Addr>().is_ok() { ", and IPv6 in brackets," } else { "" };
        format!("{forms}{hint} instead of {}", quoted(text))
    };
    let (host, port) = match text.strip_prefix('[').map(|text| text.split_once(']')) {
        Some(Some((host, ""))) => (host, None),
        Some(Some((host, rest))) => (host, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
        Some(None) => return Err(wrong()),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let is_host = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.' | b':');
    if host.is_empty() || !host.bytes().all(is_host) || port.is_some_and(|port| port::of_next_hop(port).is_none()) {
        return Err(wrong());
    }
    Ok(())
}

/// The names of main.cf, already expanded. One that is not set is an error here: an empty column would be policy.
struct MainCf<'a> {
    config: &'a Config,
    origin: &'a Origin,
}

impl Names for MainCf<'_> {
    fn look_up(&mut self, name: &str) -> Option<(String, Origin)> {
        let own = || self.config.own_names.iter().find(|own| own.name == name);
        let text = match self.config.setting(name) {
            Some(setting) => Some(setting.expanded.to_string()),
            None => own().map(|own| own.expanded.clone()).or_else(|| names::about_process(name)),
        };
        text.map(|text| (text.replace('$', "$$"), self.origin.clone()))
    }

    fn must_be_set(&self) -> bool {
        true
    }
}
