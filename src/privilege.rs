//! Giving up rights, for good and verified.

use crate::exit::Error;
use nix::unistd::{Gid, Uid, User, getegid, geteuid, getgid, getuid, setgid, setgroups, setuid};

/// Becomes `user` for good, with its group and no others, and makes sure that there is no way back.
pub fn become_user(uid: Uid, gid: Gid) -> Result<(), Error> {
    let failed = |what: &str, errno: nix::Error| Error::Temporary(format!("{what} for uid {uid}: {errno}"));
    setgroups(&[gid]).map_err(|e| failed("setgroups", e))?;
    setgid(gid).map_err(|e| failed("setgid", e))?;
    setuid(uid).map_err(|e| failed("setuid", e))?;
    let changed = getuid() == uid && geteuid() == uid && getgid() == gid && getegid() == gid;
    if !changed || (!uid.is_root() && setuid(Uid::from_raw(0)).is_ok()) {
        return Err(Error::Temporary(format!("the system did not let go of root for uid {uid}")));
    }
    Ok(())
}

/// Whether this process could become somebody else.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Started as root, becomes the system user `name`; started as anybody else, stays that user. A user that does not
/// exist is a configuration error: there is no falling back to nobody, who owns no queue.
pub fn become_named(name: &str, parameter: &str) -> Result<(), Error> {
    if !is_root() {
        return Ok(());
    }
    let user = named(name, parameter)?;
    become_user(user.uid, user.gid)
}

/// The system user a parameter names.
pub fn named(name: &str, parameter: &str) -> Result<User, Error> {
    match User::from_name(name) {
        Ok(Some(user)) if !user.uid.is_root() => Ok(user),
        Ok(Some(_)) => Err(Error::Config(wrong(parameter, name, "a user without root's rights"))),
        Ok(None) => Err(Error::Config(wrong(parameter, name, "a user of this system"))),
        Err(errno) => Err(Error::Temporary(format!("{parameter} = {name}: {errno}"))),
    }
}

fn wrong(parameter: &str, name: &str, expected: &str) -> crate::config::Error {
    crate::config::Error {
        origin: crate::config::Origin::Default,
        problem: format!("{parameter} = {name}: expected {expected}"),
    }
}
