//! One alias, followed to its end: aliases in aliases, files of `:include:`, and the owner of a list.
//!
//! An alias is entered once, and so is a file, so that loops end; a name in an alias that it leads to means the user of that
//! name. An alias with an owner of its own is not entered but stays an address: its mail has another sender. So does one with
//! a program or file that is named in a file of `:include:`: what may be run stands under its own name.

use super::{Aliases, Target, Writer, parse};
use crate::config::Config;
use crate::kept;
use crate::lookup::Lookup;
use crate::message::path::Address;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Most targets of an alias, all that it leads to counted.
const MOST: usize = 20_000;

/// Most files of `:include:` that an alias leads to.
const MOST_FILES: usize = 1000;

/// Where the mail of one alias goes in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expansion {
    /// Without repeats: addresses with their domains, users, programs, files.
    pub targets: Vec<Place>,
    /// The local part of `owner-NAME`, where there is such an alias.
    pub owner: Option<String>,
    /// Files of `:include:` with a program or file, which only the alias file itself may name, and so was passed over.
    pub ignored: Vec<Rc<Path>>,
}

/// The end of the way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// Any address, here or elsewhere, to be routed like any other.
    Address(Address),
    /// A user here, no alias to be looked for any more, but a `~/.forward`.
    User(String),
    /// A user's mailbox.
    Mailbox(String),
    /// A program or file, which stands in the alias file itself.
    Own(Target),
}

/// Why an alias cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It may be better later; for the log.
    Later(String),
    /// The tables are wrong; for the log.
    Wrong(String),
}

/// Follows the alias `name`, whose first targets are given, for a recipient of `domain`. `is_here` says of a domain
/// whether its aliases are ours.
pub fn expand(
    config: &Config,
    name: &str,
    first: Vec<Target>,
    domain: &str,
    is_here: &dyn Fn(&[u8]) -> bool,
) -> Result<Expansion, Trouble> {
    let aliases = &Aliases::read(config).map_err(Trouble::Later)?;
    let (inside, entered) = (HashSet::from([name.to_ascii_lowercase()]), HashSet::new());
    let (files, seen, found, ignored) = (HashSet::new(), HashSet::new(), Vec::new(), Vec::new());
    let mut walk = Walk { aliases, domain, is_here, inside, entered, files, seen, found, ignored };
    for target in first {
        walk.follow(target)?;
    }
    let local = name.split('@').next().unwrap_or(name);
    let owner = if local.starts_with("owner-") { None } else { owner_of(aliases, local)? };
    Ok(Expansion { targets: walk.found, owner, ignored: walk.ignored })
}

/// Whether the alias file says by itself, not by a file of `:include:`, that mail for this address goes to a program or
/// file. It is found wherever [`expand`] finds it, and for a domain that is not ours too, which is nobody's harm.
pub fn lists(config: &Config, address: &str, wanted: &Target) -> Lookup<()> {
    let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
    let aliases = match Aliases::read(config) {
        Ok(aliases) => aliases,
        Err(why) => return Lookup::CannotTell(why),
    };
    let (mut addresses, mut entered) = (vec![address.to_owned()], HashSet::new());
    while let Some(text) = addresses.pop() {
        let Ok(address) = Address::from_internal(text.as_bytes()) else { continue };
        let address = address.or_at(domain);
        let part = |octets| std::str::from_utf8(octets).unwrap_or_default();
        match aliases.find_for(part(address.local_part()), part(address.domain().unwrap_or_default())) {
            Lookup::Yes((name, _)) if !entered.insert(name.clone()) => {}
            Lookup::Yes((_, targets)) if targets.contains(wanted) => return Lookup::Yes(()),
            Lookup::Yes((_, targets)) => addresses.extend(targets.iter().filter_map(|target| match target {
                Target::Address(address) => Some(address.clone()),
                _ => None,
            })),
            Lookup::No => {}
            Lookup::CannotTell(why) => return Lookup::CannotTell(why),
        }
    }
    Lookup::No
}

/// One that only the alias file itself may name.
fn is_program_or_file(target: &Target) -> bool {
    match target {
        Target::Program(_) => true,
        Target::File(path) => path != "/dev/null",
        Target::Address(_) | Target::Mailbox(_) | Target::Include(_) => false,
    }
}

fn owner_of(aliases: &Aliases, name: &str) -> Result<Option<String>, Trouble> {
    let owner = format!("owner-{name}");
    match aliases.find(&owner) {
        Lookup::Yes(_) => Ok(Some(owner)),
        Lookup::No => Ok(None),
        Lookup::CannotTell(why) => Err(Trouble::Later(why)),
    }
}

struct Walk<'a> {
    aliases: &'a Aliases,
    domain: &'a str,
    is_here: &'a dyn Fn(&[u8]) -> bool,
    /// The aliases that the way is in now, one in another.
    inside: HashSet<String>,
    /// Those that were entered, or stayed addresses.
    entered: HashSet<String>,
    files: HashSet<PathBuf>,
    seen: HashSet<Place>,
    found: Vec<Place>,
    ignored: Vec<Rc<Path>>,
}

/// What is next on the way.
enum Step {
    To {
        target: Target,
        /// It stands in the alias file, so it may be a program or a file.
        own: bool,
        /// The file of `:include:` that it stands in.
        file: Option<Rc<Path>>,
        /// Who wrote it, where that is a file of `:include:` of somebody who is neither root nor we.
        writer: Option<Writer>,
    },
    /// This alias is at its end.
    OutOf(String),
}

impl Walk<'_> {
    fn follow(&mut self, target: Target) -> Result<(), Trouble> {
        let mut waiting = vec![Step::To { target, own: true, file: None, writer: None }];
        while let Some(step) = waiting.pop() {
            let (target, own, file, writer) = match step {
                Step::To { target, own, file, writer } => (target, own, file, writer),
                Step::OutOf(name) => {
                    self.inside.remove(&name);
                    continue;
                }
            };
            let more = match target {
                Target::Address(text) => self.address(&text, own)?,
                Target::Mailbox(user) => self.arrive(Place::Mailbox(user))?,
                Target::Program(_) | Target::File(_) if own || !is_program_or_file(&target) => {
                    self.arrive(Place::Own(target))?
                }
                Target::Program(_) | Target::File(_) => {
                    self.ignored.extend(file.filter(|file| !self.ignored.contains(file)));
                    Vec::new()
                }
                // What is in it is there already, or on its way.
                Target::Include(path) if self.files.contains(&path) => Vec::new(),
                Target::Include(_) if self.files.len() >= MOST_FILES => {
                    return Err(Trouble::Wrong(format!("an alias leads to more than {MOST_FILES} files")));
                }
                Target::Include(path) => {
                    let (targets, writer) = included(&path, writer)?;
                    let file = Some(Rc::from(path.as_path()));
                    self.files.insert(path);
                    let to = |target| Step::To { target, own: false, file: file.clone(), writer };
                    targets.into_iter().map(to).collect()
                }
            };
            if waiting.len() + more.len() > MOST {
                return Err(Trouble::Wrong(format!("an alias leads to more than {MOST} targets")));
            }
            waiting.extend(more.into_iter().rev());
        }
        Ok(())
    }

    fn address(&mut self, text: &str, own: bool) -> Result<Vec<Step>, Trouble> {
        let wrong = |_| Trouble::Wrong(format!("{} is no address", crate::config::shown(text)));
        let address = Address::from_internal(text.as_bytes())
            .and_then(|address| address.completed(self.domain))
            .map_err(wrong)?;
        let local = std::str::from_utf8(address.local_part()).unwrap_or_default().to_owned();
        if !(self.is_here)(address.domain().unwrap_or_default()) || local.is_empty() {
            return self.arrive(Place::Address(address));
        }
        let domain = std::str::from_utf8(address.domain().unwrap_or_default()).unwrap_or_default();
        match self.aliases.find_for(&local, domain) {
            Lookup::CannotTell(why) => Err(Trouble::Later(why)),
            Lookup::No => self.arrive(Place::Address(address)),
            // Back where we were: the user of that name.
            Lookup::Yes((name, _)) if self.inside.contains(&name) => self.arrive(Place::User(local)),
            // By another way, which has led to all of it.
            Lookup::Yes((name, _)) if self.entered.contains(&name) => Ok(Vec::new()),
            Lookup::Yes((name, targets)) => {
                self.entered.insert(name.clone());
                // What a file of `:include:` leads to is served under no name but its own.
                let has_own = !own && targets.iter().any(is_program_or_file);
                if has_own || owner_of(self.aliases, &local)?.is_some() {
                    return self.arrive(Place::Address(address));
                }
                self.inside.insert(name.clone());
                let to = |target: &Target| Step::To { target: target.clone(), own, file: None, writer: None };
                let targets = targets.iter().map(to);
                Ok(targets.chain([Step::OutOf(name)]).collect())
            }
        }
    }

    fn arrive(&mut self, place: Place) -> Result<Vec<Step>, Trouble> {
        if self.seen.insert(place.clone()) {
            self.found.push(place);
        }
        if self.found.len() > MOST {
            return Err(Trouble::Wrong(format!("an alias leads to more than {MOST} targets")));
        }
        Ok(Vec::new())
    }
}

/// The targets in a file of `:include:`, whose lines are lists of targets, and who wrote it if that is neither root nor we;
/// `writer`: who wrote the file that names it. While a line is wrong, or the file was emptied just now, mail waits: nobody
/// knows whom it would miss.
pub fn included(path: &Path, writer: Option<Writer>) -> Result<(Vec<Target>, Option<Writer>), Trouble> {
    let read = kept::unless_just_emptied(path).and_then(|()| super::included_file(path, writer));
    let (octets, writer) = read.map_err(|error| Trouble::Later(format!("{}: {error}", path.display())))?;
    let mut found = Vec::new();
    for (number, targets) in parse::lines(&octets) {
        let targets = targets.map_err(|problem| Trouble::Later(format!("{}:{number}: {problem}", path.display())))?;
        found.extend(targets);
    }
    Ok((found, writer))
}

#[cfg(test)]
mod tests {
    use super::super::find_for;
    use super::*;
    use crate::kept::write_long_ago;

    struct Site(tempfile::TempDir, Config);

    fn site(aliases: &str) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aliases");
        std::fs::write(&path, aliases.replace("DIR", folder.path().to_str().unwrap())).unwrap();
        let config = Config::with(&[("alias_maps", path.to_str().unwrap())]);
        Site(folder, config)
    }

    fn expanded(site: &Site, name: &str) -> Result<(Vec<String>, Option<String>), Trouble> {
        let Lookup::Yes((name, targets)) = find_for(&site.1, name, "mx.example") else { panic!("no alias {name}") };
        let here = |domain: &[u8]| domain == b"mx.example";
        let expansion = expand(&site.1, &name, targets, "mx.example", &here)?;
        let text = |place: &Place| match place {
            Place::Address(address) => address.to_string(),
            Place::User(user) => format!("~{user}"),
            Place::Mailbox(user) => format!("\\{user}"),
            Place::Own(Target::Program(command)) => format!("|{command}"),
            Place::Own(target) => format!("{target:?}"),
        };
        Ok((expansion.targets.iter().map(text).collect(), expansion.owner))
    }

    #[test]
    fn aliases_in_aliases_are_followed_and_each_target_comes_once() {
        let site = site("all: one, two, dave\none: alice, bob\ntwo: bob, x@example.net, All\n");
        let (targets, owner) = expanded(&site, "ALL").unwrap();
        assert_eq!(targets, ["alice@mx.example", "bob@mx.example", "x@example.net", "~All", "dave@mx.example"]);
        assert_eq!(owner, None);
    }

    #[test]
    fn an_alias_file_that_is_empty_for_a_moment_makes_nobody_unknown() {
        let site = site("");
        assert!(matches!(find_for(&site.1, "alice", "mx.example"), Lookup::CannotTell(_)));
    }

    #[test]
    fn mail_for_a_name_whose_line_is_wrong_waits_and_no_other() {
        let site = site("bob: alice (Alice\ncarol: dave\ncarol: |x\nno colon\nall: carol, bob\n");
        let found = |name: &str| find_for(&site.1, name, "mx.example");
        assert!(matches!(found("Bob"), Lookup::CannotTell(why) if why.contains("aliases:1: expected a closing paren")));
        assert!(matches!(found("carol"), Lookup::Yes(_)), "the first counts");
        assert_eq!(found("alice"), Lookup::No);
        assert!(matches!(expanded(&site, "all"), Err(Trouble::Later(_))));
    }

    #[test]
    fn a_large_file_is_read_once_for_all_that_an_alias_leads_to() {
        let members: Vec<String> = (0..3000).map(|number| format!("user{number}")).collect();
        let comments = "# makes it larger than what is kept\n".repeat(20_000);
        let site = site(&format!("{comments}all: {}\n", members.join(", ")));
        let begun = std::time::Instant::now();
        assert_eq!(expanded(&site, "all").unwrap().0.len(), 3000);
        // Once for each of them took a minute.
        assert!(begun.elapsed() < std::time::Duration::from_secs(10));
    }

    #[test]
    fn of_several_files_the_first_that_has_a_name_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("a"), "bob: alice\n").unwrap();
        std::fs::write(path("b"), "bob: dave\ncarol: bob\ncarol@mx.example: dave\n").unwrap();
        let config = Config::with(&[("alias_maps", &format!("hash:{}, {}", path("a"), path("b")))]);
        let user = |name: &str| vec![Target::Address(name.to_owned())];
        let found = |name: &str| find_for(&config, name, "mx.example").map(|(_, targets)| targets);
        assert_eq!([found("bob"), found("carol")], [Lookup::Yes(user("alice")), Lookup::Yes(user("dave"))]);
        std::fs::remove_file(path("b")).unwrap();
        assert!(matches!(found("carol"), Lookup::CannotTell(_)));
    }

    #[test]
    fn an_alias_that_several_lead_to_means_no_user_and_has_its_programs_once() {
        let site = site(
            "all: staff, admins\nstaff: alice, root\nadmins: root\nroot: bob, \"|/bin/run\"\nnames: :include:DIR/names, root\n",
        );
        write_long_ago(&site.0.path().join("names"), "root\nroot\n");
        assert_eq!(expanded(&site, "all").unwrap().0, ["alice@mx.example", "bob@mx.example", "|/bin/run"]);
        assert_eq!(expanded(&site, "names").unwrap().0, ["root@mx.example"]);
    }

    #[test]
    fn an_alias_for_itself_means_the_user() {
        let site = site("bob: bob, archive@example.net\ncarol: \\carol, bob\n");
        assert_eq!(expanded(&site, "bob").unwrap().0, ["~bob", "archive@example.net"]);
        assert_eq!(expanded(&site, "carol").unwrap().0, ["\\carol", "~bob", "archive@example.net"]);
    }

    #[test]
    fn a_list_has_its_owner_and_is_not_entered_by_another() {
        let site = site("list: a, b\nowner-list: boss\nall: list, c\n");
        assert_eq!(expanded(&site, "list").unwrap().1.as_deref(), Some("owner-list"));
        assert_eq!(expanded(&site, "all").unwrap().0, ["list@mx.example", "c@mx.example"]);
        assert_eq!(expanded(&site, "owner-list").unwrap().1, None);
    }

    #[test]
    fn an_included_file_names_addresses_but_no_program() {
        let site = site("list: :include:DIR/members, |/bin/own\nlost: :include:DIR/none\n");
        write_long_ago(&site.0.path().join("members"), "# people\nalice, x@example.net\n|/bin/false\n/etc/x\nbob\n");
        let (targets, _) = expanded(&site, "list").unwrap();
        assert_eq!(targets, ["alice@mx.example", "x@example.net", "bob@mx.example", "|/bin/own"]);
        let Lookup::Yes((name, first)) = find_for(&site.1, "list", "mx.example") else { panic!("no alias") };
        let expansion = expand(&site.1, &name, first, "mx.example", &|_| true).unwrap();
        assert_eq!(expansion.ignored, [Rc::from(site.0.path().join("members"))], "once for two");
        assert!(matches!(expanded(&site, "lost"), Err(Trouble::Later(_))));
        // An editor's byte order mark belongs to no name.
        write_long_ago(&site.0.path().join("members"), "\u{feff}# people\nalice\n");
        assert_eq!(expanded(&site, "list").unwrap().0, ["alice@mx.example", "|/bin/own"]);
        // Whom these would miss, nobody knows.
        for text in [&b""[..], b"alice\nbob (Bob\n", b"alice\nj\xf6rg@x.example\n"] {
            write_long_ago(&site.0.path().join("members"), text);
            assert!(matches!(expanded(&site, "list"), Err(Trouble::Later(_))), "{text:?}");
        }
    }

    #[test]
    fn an_alias_that_an_included_file_names_keeps_its_program() {
        let site = site(
            "staff: :include:DIR/staff\ntickets: |/bin/own\nkeep: /var/mail/keep\nnull: /dev/null\nhelp: tickets, bob\n\
             both: tickets, :include:DIR/staff\n",
        );
        write_long_ago(&site.0.path().join("staff"), "alice\nTickets, tickets\nhelp\nkeep\nnull\n");
        let by_itself = ["Tickets@mx.example", "bob@mx.example", "keep@mx.example", "File(\"/dev/null\")"];
        let (targets, _) = expanded(&site, "staff").unwrap();
        assert_eq!(targets, [&["alice@mx.example"][..], &by_itself].concat());
        // By its own name it gets there, and where it is named both ways it does so once.
        assert_eq!(expanded(&site, "tickets").unwrap().0, ["|/bin/own"]);
        assert_eq!(
            expanded(&site, "both").unwrap().0,
            [&["|/bin/own", "alice@mx.example"][..], &by_itself[1..]].concat()
        );
    }

    #[test]
    fn by_another_users_file_or_link_nothing_is_read_that_is_not_that_users_own() {
        use std::fs::Permissions;
        use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
        let site = site(
            "list: :include:DIR/members\nown: :include:DIR/own\nlink: :include:DIR/link\nfolder: :include:DIR/in/secret\n\
             named: :include:DIR/named\nalias: :include:DIR/names-alias\n",
        );
        let path = |name: &str| site.0.path().join(name);
        let write = |name: &str, text: &str| {
            write_long_ago(&path(name), text.replace("DIR", site.0.path().to_str().unwrap()));
        };
        write("secret", "bob:$6$hash\n");
        write("theirs", "carol, :include:DIR/theirs2\n");
        write("theirs2", "dave\n");
        write("members", "alice\n:include:DIR/secret\n");
        write("own", "alice\n:include:DIR/theirs\n");
        write("names-alias", "named\n");
        symlink("secret", path("link")).unwrap();
        symlink(".", path("in")).unwrap();
        // Of what is ours a link or a file may lead anywhere.
        for name in ["list", "link", "folder"] {
            let (targets, _) = expanded(&site, name).unwrap();
            assert!(targets.iter().any(|target| target.contains("hash")), "{targets:?}");
        }
        // Unless others may write to that file: then it leads to what everybody may read.
        let allow = |name: &str, mode| std::fs::set_permissions(path(name), Permissions::from_mode(mode)).unwrap();
        allow("members", 0o664);
        allow("secret", 0o640);
        assert!(matches!(expanded(&site, "list"), Err(Trouble::Later(why)) if !why.contains("hash")));
        allow("secret", 0o644);
        assert!(expanded(&site, "list").is_ok());
        allow("members", 0o644);
        if !crate::needs::root() {
            return;
        }
        for name in ["members", "theirs", "theirs2", "own", "names-alias"] {
            chown(path(name), Some(1), None).unwrap();
        }
        for name in ["link", "in"] {
            lchown(path(name), Some(1), None).unwrap();
        }
        for name in ["list", "link", "folder"] {
            let trouble = expanded(&site, name).unwrap_err();
            assert!(matches!(&trouble, Trouble::Later(why) if !why.contains("hash")), "{trouble:?}");
        }
        let (targets, _) = expanded(&site, "own").unwrap();
        assert_eq!(targets, ["alice@mx.example", "carol@mx.example", "dave@mx.example"]);
        // What an alias says that it names is the administrator's word.
        write("named", "erin\n");
        assert_eq!(expanded(&site, "alias").unwrap().0, ["erin@mx.example"]);
        // A third user's file is as foreign as ours.
        chown(path("theirs2"), Some(2), None).unwrap();
        assert!(matches!(expanded(&site, "own"), Err(Trouble::Later(_))));
        std::fs::hard_link(path("secret"), path("hard")).unwrap();
        std::fs::rename(path("hard"), path("members")).unwrap();
        std::fs::set_permissions(path("secret"), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        assert!(matches!(expanded(&site, "list"), Err(Trouble::Later(_))));
    }

    /// A member of the list may have written the file.
    #[test]
    fn files_that_include_each_other_are_read_once_and_there_may_be_only_so_many() {
        let site = site("list: :include:DIR/f0\nmany: :include:DIR/many\n");
        let write = |name: &str, text: &str| {
            let folder = site.0.path();
            std::fs::write(folder.join(name), text.replace("DIR", folder.to_str().unwrap())).unwrap();
        };
        // Thirty files, each of which includes the next one twice, and the last one the first: 2^30 reads.
        for number in 0..30 {
            let next = format!(":include:DIR/f{}\n", (number + 1) % 30);
            write(&format!("f{number}"), &format!("user{number}\n{next}{next}"));
        }
        assert_eq!(expanded(&site, "list").unwrap().0.len(), 30);
        (0..=MOST_FILES).for_each(|number| write(&format!("m{number}"), "#"));
        write("many", &(0..=MOST_FILES).map(|number| format!(":include:DIR/m{number}\n")).collect::<String>());
        assert!(matches!(expanded(&site, "many"), Err(Trouble::Wrong(_))));
    }

    #[test]
    fn only_what_the_alias_file_itself_lists_for_a_name_is_said_to_be_listed() {
        let site = site(
            "a: b, x\nb: |/bin/own\nc: |/bin/other, :include:DIR/members\nd: e, a\ne: none\ne@mx.example: |/bin/own\n\
             f@mx.example: e@mx.example, d\nloop: loop@mx.example\n",
        );
        write_long_ago(&site.0.path().join("members"), "|/bin/included\n");
        let listed = |name: &str, command: &str| {
            lists(&site.1, &format!("{name}@mx.example"), &Target::Program(command.to_owned()))
        };
        assert_eq!(listed("a", "/bin/own"), Lookup::Yes(()));
        // That of a whole address counts before that of its local part.
        assert_eq!([listed("d", "/bin/own"), listed("f", "/bin/own")], [Lookup::Yes(()), Lookup::Yes(())]);
        assert_eq!(lists(&site.1, "e@other.example", &Target::Program("/bin/own".to_owned())), Lookup::No);
        assert_eq!(listed("loop", "/bin/own"), Lookup::No);
        assert_eq!(listed("a", "/bin/other"), Lookup::No);
        assert_eq!(listed("c", "/bin/included"), Lookup::No);
        assert_eq!(listed("nobody", "/bin/own"), Lookup::No);
    }
}
