//! Giving up rights, for good and verified.

use crate::config::Config;
use crate::config::value::{MailboxFormat, MailboxSpec};
use crate::exit::Error;
use crate::mailbox::way;
use nix::sys::prctl::{get_pdeathsig, set_pdeathsig};
use nix::sys::signal::raise;
use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgid, getppid, getuid, setgid, setgroups, setuid};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Becomes `user` for good, with its group and no others, and makes sure that there is no way back.
pub fn become_user(uid: Uid, gid: Gid) -> Result<(), Error> {
    become_user_with(uid, gid, &[gid])
}

/// The same with these groups. Who was to end with its parent still does.
pub fn become_user_with(uid: Uid, gid: Gid, groups: &[Gid]) -> Result<(), Error> {
    let failed =
        |what: &str, errno: nix::Error| Error::Temporary(format!("{what} for uid {uid}: {}", io::Error::from(errno)));
    let (parent, parents_death) = (getppid(), get_pdeathsig());
    setgroups(groups).map_err(|e| failed("setgroups", e))?;
    setgid(gid).map_err(|e| failed("setgid", e))?;
    setuid(uid).map_err(|e| failed("setuid", e))?;
    let changed = getuid() == uid && geteuid() == uid && getgid() == gid && getegid() == gid;
    if !changed || (!uid.is_root() && setuid(Uid::from_raw(0)).is_ok()) {
        return Err(Error::Temporary(format!("the system did not let go of root for uid {uid}")));
    }
    // Who becomes another user is not told of it any more (prctl(2), PR_SET_PDEATHSIG).
    if let Ok(Some(signal)) = parents_death {
        set_pdeathsig(signal).map_err(|e| failed("prctl", e))?;
        if getppid() != parent {
            let _ = raise(signal);
        }
    }
    Ok(())
}

/// Becomes the owner of a mailbox, for good. A mailbox of one file in a folder of `mail_privileged_group` needs files
/// beside it (a dot lock, the new mailbox of QUIT), which only that group may make there; it is kept for no other.
pub fn become_owner_of(config: &Config, mailbox: &MailboxSpec, uid: Uid, gid: Gid) -> Result<(), Error> {
    let mut groups = vec![gid];
    if mailbox.format != MailboxFormat::Maildir
        && let Some(group) = privileged_group(config)?
        && let Some(folder) = Path::new(&mailbox.path).parent()
        && is_of_group(folder, group)
    {
        groups.push(group);
    }
    become_user_with(uid, gid, &groups)
}

/// Whether a folder belongs to a group. Not over links of the user's own, who could have the group's rights in any of its
/// folders then.
fn is_of_group(folder: &Path, group: Gid) -> bool {
    way::status(folder).is_ok_and(|folder| folder.st_gid == group.as_raw())
}

/// The group of `mail_privileged_group`, if it is set.
pub fn privileged_group(config: &Config) -> Result<Option<Gid>, Error> {
    let name = &config.mail_privileged_group;
    if name.is_empty() {
        return Ok(None);
    }
    match Group::from_name(name) {
        Ok(Some(group)) if group.gid.as_raw() != 0 => Ok(Some(group.gid)),
        Ok(Some(_)) => Err(Error::Config(config.wrong("mail_privileged_group", "a group without root's rights"))),
        Ok(None) => Err(Error::Config(config.wrong("mail_privileged_group", "a group of this system"))),
        Err(errno) => Err(Error::Temporary(format!("mail_privileged_group = {name}: {}", io::Error::from(errno)))),
    }
}

/// Whether this process could become somebody else.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// The users of main.cf that our programs become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// `mail_owner`, whose the queue is.
    Mail,
    /// `net_owner`, whom programs become that parse what a client says, if it is set.
    Net,
}

/// Started as root, becomes this user; started as anybody else, stays that user. A user that does not exist is a
/// configuration error: there is no falling back to nobody, who owns no queue.
pub fn become_owner(config: &Config, owner: Owner) -> Result<(), Error> {
    if !is_root() {
        return Ok(());
    }
    let user = owner_of(config, owner)?;
    become_user(user.uid, user.gid)
}

/// Uid and main group of a system user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub uid: Uid,
    /// Its group.
    pub gid: Gid,
}

/// A longer line of /etc/passwd, in octets, is left to getpwnam.
const LONGEST_LINE: u64 = 4096;

/// The account as /etc/passwd has it, which is where the users of daemons are. Each connection asks, and getpwnam takes
/// twenty system calls to come to the same answer; it is asked where this one has none.
fn plain_account(name: &str) -> Option<Account> {
    // Small pieces: what is read here stays with a session in the room that its buffers then take. What is no larger than 1032
    // octets the GNU C library would keep for the next who asks for as much, and that is none who wants it zeroed as they do.
    account_in(BufReader::with_capacity(1280, File::open("/etc/passwd").ok()?), name)
}

fn account_in(mut passwd: impl BufRead, name: &str) -> Option<Account> {
    let (mut line, mut found) = (Vec::new(), None);
    while passwd.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).ok()? > 0 {
        // Lines of NIS may take users away again.
        if line.starts_with(b"+") || line.starts_with(b"-") || line.len() as u64 == LONGEST_LINE {
            return None;
        }
        if found.is_none() {
            found = line_of(&line, name);
        }
        line.clear();
    }
    found
}

/// The account in a line, if it is of that name; nothing where it has no numbers.
fn line_of(line: &[u8], name: &str) -> Option<Account> {
    let mut fields = line.split(|octet| *octet == b':');
    if fields.next() != Some(name.as_bytes()) {
        return None;
    }
    let number = |text: Option<&[u8]>| std::str::from_utf8(text?).ok()?.parse::<u32>().ok();
    let (uid, gid) = (number(fields.nth(1))?, number(fields.next())?);
    Some(Account { uid: uid.into(), gid: gid.into() })
}

/// A program that hands what a client says to submit begins as mail_owner; where there is a net_owner it stays who it is
/// until it has a way to submit.
pub fn begin(config: &Config) -> Result<(), Error> {
    if config.net_owner.is_empty() { become_owner(config, Owner::Mail) } else { Ok(()) }
}

/// Then, before it reads an octet of the client, it is net_owner, if there is one. Only root can become that, so submit
/// was started as root and becomes mail_owner by itself.
pub fn begin_to_parse(config: &Config) -> Result<(), Error> {
    if config.net_owner.is_empty() { Ok(()) } else { become_owner(config, Owner::Net) }
}

/// The system user that a parameter names.
pub fn owner_of(config: &Config, owner: Owner) -> Result<Account, Error> {
    let (name, parameter) = match owner {
        Owner::Mail => (&config.mail_owner, "mail_owner"),
        Owner::Net => (&config.net_owner, "net_owner"),
    };
    let found = match plain_account(name) {
        Some(account) => Ok(Some(account)),
        None => User::from_name(name).map(|user| user.map(|user| Account { uid: user.uid, gid: user.gid })),
    };
    match found {
        Ok(Some(user)) if !user.uid.is_root() => Ok(user),
        Ok(Some(_)) => Err(Error::Config(config.wrong(parameter, "a user without root's rights"))),
        Ok(None) => Err(Error::Config(config.wrong(parameter, "a user of this system"))),
        Err(errno) => Err(Error::Temporary(format!("{parameter} = {name}: {}", io::Error::from(errno)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_read_as_getpwnam_would() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\n# a:x:1:1::/:\nmail:x:8:12:mail:/var/mail:/bin/false\nbad:x:y:1::/:\n";
        let account = |uid: u32, gid: u32| Some(Account { uid: uid.into(), gid: gid.into() });
        assert_eq!(account_in(passwd.as_bytes(), "mail"), account(8, 12));
        assert_eq!(account_in(passwd.as_bytes(), "root"), account(0, 0));
        for name in ["mai", "x", "", "bad", "nobody"] {
            assert_eq!(account_in(passwd.as_bytes(), name), None, "{name}");
        }
        assert_eq!(account_in(format!("{passwd}-mail::::::\n").as_bytes(), "mail"), None);
        for user in ["root", "nobody", "daemon"] {
            let known = User::from_name(user).unwrap().map(|user| Account { uid: user.uid, gid: user.gid });
            assert_eq!(plain_account(user), known, "{user}");
        }
    }

    #[test]
    fn a_link_of_a_users_own_leads_to_no_folder_of_the_group() {
        if !is_root() {
            return;
        }
        use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
        let top = tempfile::tempdir().unwrap();
        let (spool, link) = (top.path().join("mail"), top.path().join("link"));
        std::fs::create_dir(&spool).unwrap();
        chown(&spool, None, Some(8)).unwrap();
        symlink("mail", &link).unwrap();
        let is_of = |folder: &Path, group: u32| is_of_group(folder, group.into());
        assert!(is_of(&spool, 8) && !is_of(&spool, 9));
        assert!(is_of(&link, 8), "root's, as /var/mail is one");
        // Root may read everything, so this is done with the rights of nobody, which one thread alone can have.
        let closed = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(top.path(), closed.clone()).unwrap();
        std::fs::set_permissions(&spool, closed).unwrap();
        let ways = [spool.clone(), link.clone()];
        let as_nobody = std::thread::spawn(move || {
            nix::unistd::setfsuid(Uid::from_raw(65_534));
            nix::unistd::setfsgid(Gid::from_raw(65_534));
            ways.iter().all(|way| is_of_group(way, 8.into()))
        });
        assert!(as_nobody.join().unwrap(), "as on a network where root is nobody");
        lchown(&link, Some(1), None).unwrap();
        assert!(!is_of(&link, 8));
    }
}
