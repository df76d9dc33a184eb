//! Looking with the eyes of another user: root can open every file, and the programs that it starts give that up.

use super::{Finding, Findings, Level};
use crate::config::{Config, Origin};
use crate::privilege::{self, Account, Owner};
use crate::sys;
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{AccessFlags, Gid, Group, access, getgrouplist};
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::path::Path;

/// Somebody whom our programs become, or as whom they are started.
#[derive(Debug, Clone)]
pub(super) struct Eyes {
    name: String,
    account: Account,
    groups: Vec<Gid>,
}

impl Eyes {
    /// Of who was started as root and has become this user, with the main group and no others. None: nobody else can be looked
    /// for, since we are not root or there is no such user.
    pub(super) fn of(config: &Config, owner: Owner) -> Option<Eyes> {
        let account = privilege::owner_of(config, owner).ok().filter(|_| privilege::is_root())?;
        let name = match owner {
            Owner::Mail => &config.mail_owner,
            Owner::Net => &config.net_owner,
        };
        Some(Eyes { name: name.clone(), account, groups: vec![account.gid] })
    }

    /// Of who was started as this user, with all groups.
    pub(super) fn with_all_groups(self) -> Eyes {
        let name = CString::new(self.name.as_str()).ok();
        let groups = name.and_then(|name| getgrouplist(&name, self.account.gid).ok());
        Eyes { groups: groups.unwrap_or_else(|| self.groups.clone()), ..self }
    }

    /// What keeps this process, which looks with these, from a file that is there, and how to mend that.
    pub(super) fn mend(&self, path: &Path) -> Option<String> {
        let closed = closed(path)?;
        let shown = closed.display();
        if closed != path {
            return Some(format!("user {} cannot enter {shown}: chmod o+x {shown}", self.name));
        }
        let group = Group::from_gid(self.account.gid).ok().flatten();
        let group = group.map_or_else(|| self.account.gid.to_string(), |group| group.name);
        Some(format!("user {} cannot read it: chgrp {group} {shown} && chmod g+r {shown}", self.name))
    }
}

/// What keeps this process from reading a file that is there: a folder that it cannot enter, or the file itself.
pub(super) fn closed(path: &Path) -> Option<&Path> {
    let is_closed = |path: &Path, way: AccessFlags| access(path, way) == Err(Errno::EACCES);
    let folders: Vec<&Path> = path.ancestors().skip(1).collect();
    let folder = folders.into_iter().rev().find(|folder| is_closed(folder, AccessFlags::X_OK));
    folder.or_else(|| is_closed(path, AccessFlags::R_OK).then_some(path))
}

/// Adds what `look` finds with these eyes, or without any with our own.
pub(super) fn look_with(eyes: Option<Eyes>, findings: &mut Findings, look: impl FnOnce(&mut Findings)) {
    let Some(eyes) = eyes else { return look(findings) };
    let name = eyes.name.clone();
    match in_child(eyes, look) {
        Ok(found) => findings.all.extend(found),
        Err(error) => {
            let problem = format!("nothing could be looked at as user {name}: {error}");
            findings.error(&Origin::Arguments, &problem, "");
        }
    }
}

fn in_child(eyes: Eyes, look: impl FnOnce(&mut Findings)) -> io::Result<Vec<Finding>> {
    let (mut from, mut to) = io::pipe()?;
    let child = sys::fork(|| {
        let Account { uid, gid } = eyes.account;
        let became = privilege::become_user_with(uid, gid, &eyes.groups);
        let mut findings = Findings { eyes: Some(eyes), ..Findings::default() };
        match became {
            Ok(()) => look(&mut findings),
            Err(error) => findings.of(&error),
        }
        u8::from(to.write_all(&packed(&findings.all)).is_err())
    })?;
    drop(to);
    let mut octets = Vec::new();
    let read = from.read_to_end(&mut octets);
    let ended = waitpid(child, None)?;
    read?;
    let found = (ended == WaitStatus::Exited(child, 0)).then(|| unpacked(&octets)).flatten();
    found.ok_or_else(|| io::Error::other(format!("{ended:?}")))
}

/// Four fields each, with a NUL behind each of them.
fn packed(findings: &[Finding]) -> Vec<u8> {
    let mut octets = Vec::new();
    for Finding { level, place, problem, mend } in findings {
        let level = if *level == Level::Error { "error" } else { "warning" };
        for field in [level, place, problem, mend] {
            octets.extend(field.bytes().filter(|octet| *octet != 0));
            octets.push(0);
        }
    }
    octets
}

fn unpacked(octets: &[u8]) -> Option<Vec<Finding>> {
    let text = std::str::from_utf8(octets).ok()?;
    let fields: Vec<&str> = text.split_terminator('\0').collect();
    let finding = |fields: &[&str]| match fields {
        [level, place, problem, mend] => Some(Finding {
            level: if *level == "error" { Level::Error } else { Level::Warning },
            place: (*place).to_owned(),
            problem: (*problem).to_owned(),
            mend: (*mend).to_owned(),
        }),
        _ => None,
    };
    fields.chunks(4).map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_found_comes_back_as_it_was() {
        let finding = |level, mend: &str| Finding {
            level,
            place: "/x/main.cf:1".to_owned(),
            problem: "two\nlines".to_owned(),
            mend: mend.to_owned(),
        };
        let found = [finding(Level::Error, ""), finding(Level::Warning, "chmod o+x /x")];
        assert_eq!(unpacked(&packed(&found)).as_deref(), Some(&found[..]));
        assert_eq!(unpacked(b""), Some(Vec::new()));
        assert_eq!(unpacked(b"error\0/x\0"), None);
    }
}
