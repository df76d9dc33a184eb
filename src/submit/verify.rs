//! May this recipient? The one oracle that RCPT, VRFY, checkaddr and deliver share.
//!
//! An address without a domain is completed with `myhostname`; the domain gives the channel by which mail leaves; the
//! channel it came in on says whether it may, and from a client that no channel lists it stays on this machine in any case;
//! and where mail ends in a mailbox here, its user must exist, or an alias. What deliver could only return, by a channel
//! `error:` or because a program must not be given such an address, is refused: the sender may be forged. A local part that
//! nobody has is looked for without its extension (`recipient_delimiter`). postmaster is always taken, and so is
//! mailer-daemon, as postmaster.

use super::{Policy, Verdict};
use crate::aliases::{self, Target};
use crate::channel::{Channel, Channels, Transport};
use crate::config::Config;
use crate::config::value::ReceiveOverride;
use crate::logging::field;
use crate::lookup::Lookup;
use crate::message::idna;
use crate::message::path::{Address, ReversePath};
use crate::program::arguments::Values;
use crate::users::{self, User};
use std::fmt::Arguments;

/// System users below this run services and read no mail (login.defs(5), UID_MIN).
const FIRST_PERSON: u32 = 1000;

/// Judges an address whose mail came in on channel `from`.
pub fn judge(
    config: &Config,
    channels: &Channels,
    from: &str,
    policy: Policy,
    sender: &ReversePath,
    address: &Address,
) -> Verdict {
    judge_traced(config, channels, from, policy, sender, address, &mut |_| {})
}

/// The same, telling each step: for checkaddr.
pub fn judge_traced(
    config: &Config,
    channels: &Channels,
    from: &str,
    policy: Policy,
    sender: &ReversePath,
    address: &Address,
    tell: &mut dyn FnMut(Arguments<'_>),
) -> Verdict {
    if !address.is_usable() {
        tell(format_args!("{address}: mail can have no such address"));
        return Verdict::BadAddress;
    }
    let Ok(address) = address.completed(&config.myhostname) else {
        tell(format_args!("{address}: too long with myhostname behind it"));
        return Verdict::BadAddress;
    };
    if policy == Policy::Anywhere {
        return Verdict::Accepted;
    }
    tell(format_args!("address {address}"));
    let channel = match outgoing_traced(channels, &address, tell) {
        Lookup::Yes(channel) => channel,
        Lookup::No => {
            tell(format_args!("mail for it leaves by no channel"));
            return Verdict::UnknownHost;
        }
        Lookup::CannotTell(why) => return cannot_tell(&address, &why),
    };
    if !channels.may_go(from, channel) {
        tell(format_args!("mail from channel {from} may not go to channel {}", channel.name));
        return Verdict::NotAllowed;
    }
    if policy == Policy::Unlisted && !channel.ends_here() {
        let name = &channel.name;
        tell(format_args!("mail of a client that no channel lists may not leave this machine, as it does by {name}"));
        return Verdict::NotAllowed;
    }
    tell(format_args!("mail from channel {from} may go to channel {}", channel.name));
    match &channel.transport {
        Transport::Mailbox => {}
        Transport::Other(name, text) if name == "error" => {
            tell(format_args!("channel {} takes no mail: {text}", channel.name));
            return if class(text) == Some('4') { Verdict::ClosedNow } else { Verdict::Closed };
        }
        Transport::Other(name, line) if name == "pipe" => {
            // No id begins with a hyphen, and none is empty.
            let values = Values { sender: sender.as_bytes(), recipient: &address, id: "0" };
            if values.put_into(line.split_ascii_whitespace().skip(1)).is_none() {
                tell(format_args!("an argument of the program of channel {} would begin with -", channel.name));
                return Verdict::BadAddress;
            }
            return Verdict::Accepted;
        }
        Transport::Other(..) | Transport::Smtp(_) | Transport::None => return Verdict::Accepted,
    }
    if config.receive_override_options.0.contains(&ReceiveOverride::NoUnknownRecipientChecks) {
        tell(format_args!("receive_override_options: nobody asks whether the user is known"));
        return Verdict::Accepted;
    }
    match local(config, &address) {
        Lookup::Yes(found) => {
            tell(format_args!("{found}"));
            Verdict::Accepted
        }
        Lookup::No => {
            tell(format_args!("no user and no alias has this local part"));
            Verdict::UnknownUser
        }
        Lookup::CannotTell(why) => {
            tell(format_args!("cannot tell who has this local part: {why}"));
            cannot_tell(&address, &why)
        }
    }
}

/// The first digit of the status code that the text of a channel `error:` begins with; nothing if it begins with none.
pub fn class(text: &str) -> Option<char> {
    let status = text.split(' ').next().unwrap_or_default();
    let is_status = status.split('.').count() == 3 && status.split('.').all(|number| number.parse::<u16>().is_ok());
    status.chars().next().filter(|class| is_status && matches!(class, '4' | '5') && status.get(1..2) == Some("."))
}

/// The channel by which mail for an address, completed already, leaves.
pub fn outgoing<'a>(channels: &'a Channels, address: &Address) -> Lookup<&'a Channel> {
    outgoing_traced(channels, address, &mut |_| {})
}

fn outgoing_traced<'a>(
    channels: &'a Channels,
    address: &Address,
    tell: &mut dyn FnMut(Arguments<'_>),
) -> Lookup<&'a Channel> {
    match channels.outgoing_traced(address.domain().unwrap_or_default(), tell) {
        // A channel by which nothing leaves is no way to a host.
        Lookup::Yes(channel) if channel.transport == Transport::None => Lookup::No,
        found => found,
    }
}

impl std::fmt::Display for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Local::Alias(name, targets) => {
                write!(f, "alias {name}:")?;
                targets.iter().try_for_each(|target| match target {
                    Target::Address(address) => write!(f, " {address}"),
                    Target::Mailbox(user) => write!(f, " \\{user}"),
                    Target::Program(command) => write!(f, " |{command}"),
                    Target::File(path) => write!(f, " {path}"),
                    Target::Include(path) => write!(f, " :include:{}", path.display()),
                })
            }
            Local::User(user, None) => write!(f, "user {}", user.name),
            Local::User(user, Some(extension)) => write!(f, "user {}, extension {extension}", user.name),
            Local::Postmaster => f.write_str("postmaster, who is always taken"),
        }
    }
}

/// Who has a local address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Local {
    /// An alias: the name it was found by, and its targets.
    Alias(String, Vec<Target>),
    /// A user, and what stood behind the delimiter.
    User(User, Option<String>),
    /// Nobody has it, but it must be taken (RFC 5321 section 4.5.1).
    Postmaster,
}

/// Who has a local address: an alias before a user, and the whole local part before what stands in front of a
/// `recipient_delimiter`.
pub fn local(config: &Config, address: &Address) -> Lookup<Local> {
    let local = String::from_utf8_lossy(address.local_part()).into_owned();
    let domain = String::from_utf8_lossy(address.domain().unwrap_or_default()).into_owned();
    for (name, extension) in split(config, &local) {
        match aliases::find_for(config, name, &domain) {
            Lookup::Yes((name, targets)) => return Lookup::Yes(Local::Alias(name, targets)),
            Lookup::No => {}
            Lookup::CannotTell(why) => return Lookup::CannotTell(why),
        }
        match local_user(config, &with_local_part(address, name)) {
            Lookup::Yes(user) => return Lookup::Yes(Local::User(user, extension.map(str::to_owned))),
            Lookup::No => {}
            Lookup::CannotTell(why) => return Lookup::CannotTell(why),
        }
    }
    match is_of_postmaster(address) {
        true if local.eq_ignore_ascii_case("postmaster") => Lookup::Yes(Local::Postmaster),
        true => self::local(config, &with_local_part(address, "postmaster")),
        false => Lookup::No,
    }
}

/// Whether mail for it must be taken: postmaster's own, and what reports come from (`deliver/report/text.rs`), for people
/// answer them.
pub fn is_of_postmaster(address: &Address) -> bool {
    ["postmaster", "mailer-daemon"].iter().any(|name| address.local_part().eq_ignore_ascii_case(name.as_bytes()))
}

/// The local part, and the user and extension it may be made of. The owner of a list and its requests are never taken
/// apart.
pub fn split<'a>(config: &Config, local: &'a str) -> Vec<(&'a str, Option<&'a str>)> {
    let mut found = vec![(local, None)];
    let lower = local.to_ascii_lowercase();
    let is_whole = lower.starts_with("owner-") || lower.ends_with("-request") || lower == "mailer-daemon";
    let at = local.char_indices().skip(1).find(|(_, letter)| config.recipient_delimiter.contains(*letter));
    if let Some((at, letter)) = at
        && !is_whole
        && let (Some(user), Some(extension)) = (local.get(..at), local.get(at + letter.len_utf8()..))
    {
        found.push((user, Some(extension).filter(|extension| !extension.is_empty())));
    }
    found
}

fn with_local_part(address: &Address, local: &str) -> Address {
    let mut octets = local.as_bytes().to_vec();
    if let Some(domain) = address.domain() {
        octets.push(b'@');
        octets.extend_from_slice(domain);
    }
    // Not longer than what it came from; were it none, nobody has the old one either.
    Address::from_internal(&octets).unwrap_or_else(|_| address.clone())
}

/// The user in whose mailbox mail for a local address ends: of a passwd-file whoever is listed under the whole address,
/// else under its local part.
pub fn local_user(config: &Config, address: &Address) -> Lookup<User> {
    // Users of this system are known by their local part only.
    let has_files = config.users.files().next().is_some();
    let domain = String::from_utf8_lossy(address.domain().unwrap_or_default());
    let other = |domain: String| [address.local_part(), b"@", domain.as_bytes()].concat();
    let others = if has_files { idna::other_spellings(&domain) } else { Vec::new() };
    let whole = has_files.then(|| address.as_bytes().to_vec());
    let names = whole.into_iter().chain(others.into_iter().map(other)).chain([address.local_part().to_vec()]);
    let names: Vec<Vec<u8>> = names.collect();
    match users::find_first(config, names.iter().map(Vec::as_slice)) {
        Lookup::Yes(user) if !may_receive(&user) => Lookup::No,
        found => found,
    }
}

/// The user `default_privs` names, with whose rights the targets of the alias file are served; never root.
pub fn privileged(config: &Config) -> Lookup<User> {
    match users::system_user(&config.default_privs) {
        Lookup::Yes(user) if user.owner.is_none_or(|(uid, _)| uid == 0) => Lookup::No,
        found => found,
    }
}

/// root never receives mail, for no process of ours writes as root; nor do the system's service users. deliver's helper
/// asks this too, before a process becomes the user.
pub fn may_receive(user: &User) -> bool {
    match (user.is_of_system, user.owner) {
        (_, Some((0, _))) => false,
        (true, Some((uid, _))) => uid >= FIRST_PERSON,
        (true, None) => false,
        (false, _) => true,
    }
}

fn cannot_tell(address: &Address, why: &str) -> Verdict {
    log::warn!("event=cannot-tell address=<{}> reason={why:?}", field(address));
    Verdict::CannotTell
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn address(text: &str) -> Address {
        Address::from_internal(text.as_bytes()).unwrap()
    }

    fn judged(folder: &Path, from: &str, to: &str) -> Verdict {
        judged_by(folder, from, Policy::Channels, to)
    }

    /// Judges by a channels file of three lines and a passwd-file.
    fn judged_by(folder: &Path, from: &str, policy: Policy, to: &str) -> Verdict {
        let file = |name: &str| folder.join(name).display().to_string();
        let (channels, users) = (file("channels"), format!("passwd-file:{}", file("passwd")));
        let aliases = file("aliases");
        let settings =
            [("myhostname", "mx.example"), ("channels", &channels), ("users", &users), ("alias_maps", &aliases)];
        let config = Config::with(&settings);
        let channels = Channels::load(&config).unwrap();
        judge(&config, &channels, from, policy, &ReversePath::NULL, &address(to))
    }

    fn site() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let channels = "local 127.0.0.0/8 $myhostname,other.example mailbox: *\n\
                        partner 192.0.2.0/24 example.net smtp: local\n\
                        inet * - - local\n";
        std::fs::write(folder.path().join("channels"), channels).unwrap();
        let users = "alice:{PLAIN}x::::/home/alice\npostmaster:{PLAIN}x::::/home/alice\n\
                     carol@other.example:{PLAIN}x::::/home/carol\nroot:{PLAIN}x:0:0::/root\n";
        std::fs::write(folder.path().join("passwd"), users).unwrap();
        std::fs::write(folder.path().join("aliases"), "root: alice\nList: alice, x@example.net\n").unwrap();
        folder
    }

    #[test]
    fn an_alias_is_a_user_and_postmaster_needs_none() {
        let site = site();
        let verdict = |to| judged(site.path(), "inet", to);
        assert_eq!(verdict("list@mx.example"), Verdict::Accepted);
        assert_eq!(verdict("LIST@other.example"), Verdict::Accepted);
        std::fs::write(site.path().join("passwd"), "# nobody\n").unwrap();
        assert_eq!(verdict("Postmaster@other.example"), Verdict::Accepted);
        assert_eq!(verdict("postmasters@other.example"), Verdict::UnknownUser);
        std::fs::remove_file(site.path().join("aliases")).unwrap();
        assert_eq!(verdict("list@mx.example"), Verdict::CannotTell);
    }

    /// Reports come from there, and people answer them.
    #[test]
    fn mailer_daemon_is_postmaster_where_nobody_else_is() {
        let site = site();
        let file = |name: &str| site.path().join(name).display().to_string();
        let (users, map) = (format!("passwd-file:{}", file("passwd")), file("aliases"));
        std::fs::write(site.path().join("passwd"), "# nobody\n").unwrap();
        let config = Config::with(&[("myhostname", "mx.example"), ("users", &users), ("alias_maps", &map)]);
        let whose = || local(&config, &address("MAILER-DAEMON@mx.example"));
        let aliases = |text: &str| std::fs::write(site.path().join("aliases"), text).unwrap();
        assert_eq!(whose(), Lookup::Yes(Local::Postmaster));
        aliases("postmaster: carol\n");
        assert!(matches!(whose(), Lookup::Yes(Local::Alias(name, _)) if name == "postmaster"));
        aliases("postmaster: carol\nmailer-daemon: postmaster\n");
        assert!(matches!(whose(), Lookup::Yes(Local::Alias(name, _)) if name == "mailer-daemon"));
    }

    #[test]
    fn an_extension_is_taken_off_where_nobody_has_the_whole_name() {
        let site = site();
        let verdict = |to| judged(site.path(), "inet", to);
        for taken in ["alice+x@mx.example", "alice+@mx.example", "alice+a+b", "list+x@mx.example"] {
            assert_eq!(verdict(taken), Verdict::Accepted, "{taken}");
        }
        for unknown in ["+alice@mx.example", "bob+alice@mx.example", "alice-x@mx.example", "owner-list+x@mx.example"] {
            assert_eq!(verdict(unknown), Verdict::UnknownUser, "{unknown}");
        }
    }

    #[test]
    fn users_are_taken_and_others_are_not() {
        let site = site();
        let verdict = |to| judged(site.path(), "inet", to);
        assert_eq!(verdict("alice@mx.example"), Verdict::Accepted);
        assert_eq!(verdict("Alice@MX.example"), Verdict::Accepted);
        assert_eq!(verdict("bob@mx.example"), Verdict::UnknownUser);
        assert_eq!(verdict("postmaster"), Verdict::Accepted);
        assert_eq!(verdict("PostMaster@other.example"), Verdict::Accepted);
        assert_eq!(verdict("carol@other.example"), Verdict::Accepted);
        assert_eq!(verdict("carol@mx.example"), Verdict::UnknownUser);
        assert_eq!(verdict("root@mx.example"), Verdict::Accepted, "by its alias");
        std::fs::write(site.path().join("aliases"), "# none\n").unwrap();
        assert_eq!(verdict("root@mx.example"), Verdict::UnknownUser);
    }

    #[test]
    fn mail_goes_where_the_channel_it_came_in_on_allows() {
        let site = site();
        let verdict = |from, to| judged(site.path(), from, to);
        assert_eq!(verdict("local", "x@example.net"), Verdict::Accepted);
        assert_eq!(verdict("inet", "x@example.net"), Verdict::NotAllowed);
        assert_eq!(verdict("partner", "alice@mx.example"), Verdict::Accepted);
        assert_eq!(verdict("local", "x@unlisted.example"), Verdict::UnknownHost);
    }

    #[test]
    fn mail_of_a_client_that_no_channel_lists_stays_here_and_goes_no_further_than_its_channel_allows() {
        let site = site();
        let verdict = |from, to| judged_by(site.path(), from, Policy::Unlisted, to);
        assert_eq!(verdict("local", "x@example.net"), Verdict::NotAllowed);
        assert_eq!(verdict("local", "alice@other.example"), Verdict::Accepted);
        assert_eq!(verdict("local", "nobody@mx.example"), Verdict::UnknownUser);
        assert_eq!(verdict("nosuch", "alice@mx.example"), Verdict::NotAllowed);
        // A store or a program of this machine is where the way of mail ends.
        for (way, expected) in [
            ("lmtp:unix:/run/lmtp", Verdict::Accepted),
            ("\"pipe:/bin/store %r\"", Verdict::Accepted),
            ("lmtp:192.0.2.1:24", Verdict::NotAllowed),
        ] {
            std::fs::write(site.path().join("channels"), format!("local - shop.example {way} *\n")).unwrap();
            assert_eq!(verdict("local", "x@shop.example"), expected, "{way}");
        }
    }

    /// Else whoever was forged as its sender would get it back.
    #[test]
    fn what_could_only_be_returned_is_refused() {
        let site = site();
        let file = |way: &str| {
            std::fs::write(site.path().join("channels"), format!("local - shop.example {way} *\n")).unwrap()
        };
        let verdict = |to| judged(site.path(), "local", to);
        for (way, expected) in [
            ("error:", Verdict::Closed),
            ("\"error:5.7.1 no\"", Verdict::Closed),
            ("\"error:44.7.1 no\"", Verdict::Closed),
            ("\"error:4.3.2 moving\"", Verdict::ClosedNow),
        ] {
            file(way);
            assert_eq!(verdict("x@shop.example"), expected, "{way}");
        }
        for (way, expected) in [
            ("\"pipe:/bin/x %n\"", Verdict::BadAddress),
            ("\"pipe:/bin/x -r %r\"", Verdict::BadAddress),
            ("\"pipe:/bin/x -r%r +%n\"", Verdict::Accepted),
            ("\"pipe:/bin/x %i%n\"", Verdict::Accepted),
            ("\"pipe:/bin/x %d\"", Verdict::Accepted),
        ] {
            file(way);
            assert_eq!((verdict("-x@shop.example"), verdict("x@shop.example")), (expected, Verdict::Accepted), "{way}");
        }
        file("\"pipe:/bin/x -f %s\"");
        let config = Config::with(&[("channels", site.path().join("channels").to_str().unwrap())]);
        let channels = Channels::load(&config).unwrap();
        for (from, expected) in [("-x@a.example", Verdict::BadAddress), ("x@a.example", Verdict::Accepted)] {
            let sender = ReversePath::from_internal(from.as_bytes()).unwrap();
            let found = judge(&config, &channels, "local", Policy::Channels, &sender, &address("x@shop.example"));
            assert_eq!(found, expected, "{from}");
        }
    }

    /// RFC 5321 section 3.6.1: a route in a local part is no route of ours.
    #[test]
    fn relay_tricks_are_refused() {
        let site = site();
        for trick in
            ["x%example.net@mx.example", "x@example.net@mx.example", "example.net!x@mx.example", "x%example.net"]
        {
            assert_eq!(judged(site.path(), "inet", trick), Verdict::UnknownUser, "{trick}");
        }
        assert_eq!(judged(site.path(), "inet", "alice@mx.example@example.net"), Verdict::NotAllowed);
        assert_eq!(judged(site.path(), "inet", "x@[192.0.2.1]"), Verdict::UnknownHost);
    }

    #[test]
    fn what_is_no_address_is_told_so() {
        let site = site();
        for wrong in [
            "@mx.example",
            "a@",
            "a@b..c",
            "a@mx.example.",
            "a@[x]",
            "a@[IPv6:1]",
            "a\t@mx.example",
            "a@b c",
            "a@b\x7f",
        ] {
            assert_eq!(judged(site.path(), "inet", wrong), Verdict::BadAddress, "{wrong:?}");
        }
        let long = format!("a@{}", "x".repeat(256));
        assert_eq!(judged(site.path(), "inet", &long), Verdict::BadAddress);
    }

    #[test]
    fn a_table_that_cannot_be_read_is_no_refusal_for_good() {
        let site = site();
        std::fs::remove_file(site.path().join("passwd")).unwrap();
        assert_eq!(judged(site.path(), "inet", "alice@mx.example"), Verdict::CannotTell);
    }

    #[test]
    fn of_the_systems_users_only_people_receive() {
        let settings = [("myhostname", "mx.example"), ("channels", "/nonexistent"), ("users", "system")];
        let aliases = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(aliases.path(), "# none\n").unwrap();
        let aliases = [("alias_maps", aliases.path().to_str().unwrap())];
        let config = Config::with(&[&settings[..], &aliases].concat());
        let channels = Channels::load(&config).unwrap();
        for service in ["root", "daemon@mx.example"] {
            let verdict = judge(&config, &channels, "smtp", Policy::Channels, &ReversePath::NULL, &address(service));
            assert_eq!(verdict, Verdict::UnknownUser, "{service}");
        }
    }

    #[test]
    fn under_the_policy_anywhere_all_that_is_an_address_is_taken() {
        let config = Config::with(&[("channels", "/nonexistent")]);
        let channels = Channels(Vec::new());
        let verdict = |to: &str| judge(&config, &channels, "x", Policy::Anywhere, &ReversePath::NULL, &address(to));
        assert_eq!(verdict("nobody-knows@unlisted.example"), Verdict::Accepted);
        assert_eq!(verdict("b c@[192.0.2.1]"), Verdict::Accepted);
        assert_eq!(verdict("a@[IPv6:2001:db8::1]"), Verdict::Accepted);
        assert_eq!(verdict("a@b\u{1}"), Verdict::BadAddress);
    }
}
