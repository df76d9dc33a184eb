//! The services file: a line a service, in the columns of inetd.conf.
//!
//! ```text
//! # service      type    protocol  wait       user  program             argv[0]   arguments
//! 127.0.0.1:25   stream  tcp       nowait/50  root  /usr/sbin/smtpsrvr  smtpsrvr
//! ```
//!
//! Read as inetds read it: blanks separate, nothing quotes. `/N` behind `nowait` is FreeBSD's limit of children; `.N` is
//! the starts a minute after which other inetds stop a service, a limit that we do not have and let stand.

use super::Service;
use super::address::{self, Address, Family};
use super::program::{self, Program};
use crate::config::{self, Config, Origin, shown};
use crate::exit::Error;
use crate::net::acceptor::Kind;
use crate::privilege;
use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid};
use std::path::Path;

/// Reads the file; a wrong line is an error with file, line and what was expected.
pub fn read(path: &Path, config: &Config) -> Result<Vec<Service>, Error> {
    let wrong = |line: usize, problem: String| Error::Config(config::Error::at(path, line, problem));
    let octets =
        std::fs::read(path).map_err(|error| wrong(1, format!("expected a file that can be read ({error})")))?;
    let text = String::from_utf8(octets).map_err(|_| wrong(1, "expected text in UTF-8".to_owned()))?;
    let mut services = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            let origin = Origin::File(path.into(), number + 1);
            services.extend(parse(line, &origin, config).map_err(|problem| wrong(number + 1, problem))?);
        }
    }
    if services.is_empty() {
        return Err(wrong(text.lines().count().max(1), "expected at least one service".to_owned()));
    }
    Ok(services)
}

/// One service; of a `wait` line one for each address, as the program is given one socket and serves no other.
fn parse(line: &str, origin: &Origin, config: &Config) -> Result<Vec<Service>, String> {
    let mut words = line.split_whitespace();
    let mut column = |name: &str| words.next().ok_or_else(|| format!("expected {name} in the next column"));
    let name = column("a port or an address and a port")?;
    let kind = column("stream")?;
    if kind != "stream" {
        return Err(format!("socket type {}: expected stream", shown(kind)));
    }
    let family = match column("tcp, tcp4 or tcp6")? {
        "tcp" => Family::Any,
        "tcp4" => Family::V4,
        "tcp6" => Family::V6,
        other => return Err(format!("protocol {}: expected tcp, tcp4 or tcp6", shown(other))),
    };
    let addresses = address::parse_service(name, family)?;
    let default = usize::try_from(config.children).unwrap_or(usize::MAX).max(1);
    let (waits, limit) = wait(column("wait or nowait")?, default)?;
    let kind = if waits { Kind::Wait } else { Kind::Session };
    let identity = identity(column("a user, or -")?)?;
    let file = column("a program")?;
    let path = program::find(file.as_ref(), config)?;
    let argv0 = words.next().map_or_else(|| program::last_component(file.as_ref()).to_owned(), Into::into);
    let mut program = Program::new(path, argv0, words.map(Into::into).collect());
    program.identity = identity;
    if !waits || addresses.len() == 1 {
        return Ok(vec![Service { name: name.to_owned(), addresses, limit, kind, program, origin: origin.clone() }]);
    }
    let each = |address: Address| Service {
        name: address.to_string(),
        addresses: vec![address],
        limit,
        kind,
        program: program.clone(),
        origin: origin.clone(),
    };
    Ok(addresses.into_iter().map(each).collect())
}

/// Whether the program gets the listener, and how many of it there may be.
fn wait(word: &str, default: usize) -> Result<(bool, usize), String> {
    let expected = || format!("{}: expected wait, nowait, nowait/CHILDREN or nowait.RATE", shown(word));
    let (kind, rest) = word.split_at(word.find(['/', '.']).unwrap_or(word.len()));
    let number = match rest.get(1..) {
        None => None,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|octet| octet.is_ascii_digit()) => {
            Some(digits.parse::<usize>().map_err(|_| expected())?)
        }
        Some(_) => return Err(expected()),
    };
    let children = number.filter(|_| rest.starts_with('/'));
    match (kind, children) {
        ("wait", None) => Ok((true, 1)),
        ("nowait", None) => Ok((false, default)),
        ("nowait", Some(0)) => Ok((false, usize::MAX)),
        ("nowait", Some(children)) => Ok((false, children)),
        _ => Err(expected()),
    }
}

/// `user`, `user.group`, `user:group`, by name or number; `-` is whoever we are.
fn identity(word: &str) -> Result<Option<(Uid, Gid)>, String> {
    if word == "-" {
        return Ok(None);
    }
    let (user, group) = match word.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        // A dot may belong to the name.
        None if find_user(word)?.is_some() => (word, None),
        None => word.rsplit_once('.').map_or((word, None), |(user, group)| (user, Some(group))),
    };
    let (uid, own_group) =
        find_user(user)?.ok_or_else(|| format!("{}: expected a user of this system, or -", shown(word)))?;
    let gid = match group {
        Some(group) => find_group(group)?.ok_or_else(|| format!("{}: expected a group of this system", shown(word)))?,
        None => own_group,
    };
    if privilege::is_root() {
        return Ok(Some((uid, gid)));
    }
    if uid != geteuid() || (group.is_some() && gid != getegid()) {
        return Err(format!("{}: expected - or the user who started smtpd, which is not root", shown(word)));
    }
    Ok(None)
}

/// A user by name or number; a number without an entry has the group of the same number.
fn find_user(word: &str) -> Result<Option<(Uid, Gid)>, String> {
    let cannot = |errno| format!("{}: expected a user that can be looked up ({errno})", shown(word));
    let number = digits(word);
    let found = match User::from_name(word).map_err(cannot)? {
        Some(user) => Some(user),
        None => number.map(|uid| User::from_uid(Uid::from_raw(uid)).map_err(cannot)).transpose()?.flatten(),
    };
    let own = found.map(|user| (user.uid, user.gid));
    Ok(own.or(number.map(|number| (Uid::from_raw(number), Gid::from_raw(number)))))
}

fn find_group(word: &str) -> Result<Option<Gid>, String> {
    let cannot = |errno| format!("{}: expected a group that can be looked up ({errno})", shown(word));
    Ok(Group::from_name(word).map_err(cannot)?.map(|group| group.gid).or(digits(word).map(Gid::from_raw)))
}

/// The highest number means "leave it as it is" to the kernel and is nobody's.
fn digits(word: &str) -> Option<u32> {
    let all = !word.is_empty() && word.bytes().all(|octet| octet.is_ascii_digit());
    word.parse().ok().filter(|number| all && *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn read_text(text: &str) -> Result<Vec<Service>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("services");
        std::fs::write(&path, text).unwrap();
        let shown = path.display().to_string();
        read(&path, &Config::with(&[("children", "7")])).map_err(|error| {
            assert!(matches!(error, Error::Config(_)), "{error}");
            error.to_string().replace(&shown, "FILE")
        })
    }

    fn one(line: &str) -> Service {
        read_text(line).unwrap().remove(0)
    }

    #[test]
    fn a_line_of_inetd_conf_is_read() {
        let service = one("127.0.0.1:2525\tstream tcp nowait  - /bin/cat  cat -u -n");
        assert_eq!(service.name, "127.0.0.1:2525");
        assert_eq!(service.addresses.len(), 1);
        assert_eq!(service.kind, Kind::Session);
        assert_eq!(service.limit, 7, "children of main.cf");
        assert_eq!(service.program.path, PathBuf::from("/bin/cat"));
        assert_eq!(service.program.name, "cat");
        assert_eq!(service.program.arguments, ["-u", "-n"]);
        assert_eq!(service.program.identity, None);
        assert!(matches!(service.origin, Origin::File(_, 1)), "{:?}", service.origin);
    }

    #[test]
    fn the_name_defaults_to_the_programs_last_component() {
        assert_eq!(one("2525 stream tcp nowait - /bin/cat").program.name, "cat");
    }

    #[test]
    fn comments_and_empty_lines_are_skipped_and_lines_counted() {
        let text = "# first\n\n  # blanks before\n2525 stream tcp nowait - /bin/cat\n2526 stream udp";
        assert_eq!(read_text(text).unwrap_err(), "FILE:5: protocol udp: expected tcp, tcp4 or tcp6");
    }

    #[test]
    fn wait_and_limits_are_read() {
        assert_eq!(wait("wait", 7), Ok((true, 1)));
        assert_eq!(wait("wait.30", 7), Ok((true, 1)));
        assert_eq!(wait("nowait", 7), Ok((false, 7)));
        assert_eq!(wait("nowait/20", 7), Ok((false, 20)));
        assert_eq!(wait("nowait/0", 7), Ok((false, usize::MAX)));
        assert_eq!(wait("nowait.6000", 7), Ok((false, 7)), "a rate is no number of children");
        for word in ["nowait/", "nowait.", "nowait/x", "nowait/-1", "wait/2", "no", "nowait/20/3", "nowait/9e9", ""] {
            assert!(wait(word, 7).unwrap_err().contains("expected wait, nowait"), "{word}");
        }
        assert!(wait("nowait/99999999999999999999", 7).is_err());
    }

    #[test]
    fn each_missing_or_wrong_column_says_what_was_expected() {
        let full = ["2525", "stream", "tcp", "nowait", "-", "/bin/cat"];
        for columns in 1..full.len() {
            let problem = read_text(&full[..columns].join(" ")).unwrap_err();
            assert!(problem.starts_with("FILE:1: expected "), "{problem}");
        }
        for (column, wrong) in ["nosuchservice", "dgram", "unix", "maybe", "nosuchuser", "/nosuch"].iter().enumerate() {
            let mut words = full;
            words[column] = wrong;
            let problem = read_text(&words.join(" ")).unwrap_err();
            assert!(problem.starts_with("FILE:1: ") && problem.contains(wrong), "{problem}");
            assert!(problem.contains("expected"), "{problem}");
        }
    }

    #[test]
    fn a_file_without_services_or_programs_is_wrong() {
        assert_eq!(read_text("# nothing\n").unwrap_err(), "FILE:1: expected at least one service");
        assert!(read(Path::new("/nosuch/services"), &Config::with(&[])).is_err());
        assert!(read_text("2525 stream tcp nowait - /etc/passwd").unwrap_err().contains("can be executed"));
        assert!(read_text("2525 stream tcp nowait - /bin").unwrap_err().contains("can be executed"));
    }

    #[test]
    fn users_are_found_by_name_and_number_with_and_without_group() {
        assert_eq!(identity("-"), Ok(None));
        assert!(identity("4294967295").is_err(), "-1 would leave us who we are");
        if !privilege::is_root() {
            let us = geteuid().to_string();
            assert_eq!((identity(&us), identity(&format!("{us}:{}", getegid()))), (Ok(None), Ok(None)));
            assert!(identity("root").unwrap_err().contains("not root"));
            return;
        }
        let nobody = (Uid::from_raw(65534), Gid::from_raw(65534));
        assert_eq!(identity("nobody"), Ok(Some(nobody)));
        assert_eq!(identity("65534:65534"), Ok(Some(nobody)));
        let daemon = Group::from_name("daemon").unwrap().unwrap().gid;
        assert_eq!(identity("nobody.daemon"), Ok(Some((nobody.0, daemon))));
        assert_eq!(identity("nobody:daemon"), Ok(Some((nobody.0, daemon))));
        let root = Uid::from_raw(0);
        assert_eq!(identity("root"), Ok(Some((root, Gid::from_raw(0)))), "and not with the groups that we have");
        assert_eq!(identity("root:daemon"), Ok(Some((root, daemon))));
        assert!(identity("nobody:nosuchgroup").is_err());
    }
}
