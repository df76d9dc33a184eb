//! Giving up rights, for good and verified.

use crate::config::Config;
use crate::exit::Error;
use nix::unistd::{Gid, Uid, User, getegid, geteuid, getgid, getuid, setgid, setgroups, setuid};

/// Becomes `user` for good, with its group and no others, and makes sure that there is no way back.
pub fn become_user(uid: Uid, gid: Gid) -> Result<(), Error> {
    become_user_with(uid, gid, &[gid])
}

/// The same with these groups.
pub fn become_user_with(uid: Uid, gid: Gid, groups: &[Gid]) -> Result<(), Error> {
    let failed = |what: &str, errno: nix::Error| Error::Temporary(format!("{what} for uid {uid}: {errno}"));
    setgroups(groups).map_err(|e| failed("setgroups", e))?;
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

/// The system user that a parameter names.
pub fn owner_of(config: &Config, owner: Owner) -> Result<User, Error> {
    let (name, parameter) = match owner {
        Owner::Mail => (&config.mail_owner, "mail_owner"),
        Owner::Net => (&config.net_owner, "net_owner"),
    };
    match User::from_name(name) {
        Ok(Some(user)) if !user.uid.is_root() => Ok(user),
        Ok(Some(_)) => Err(Error::Config(config.wrong(parameter, "a user without root's rights"))),
        Ok(None) => Err(Error::Config(config.wrong(parameter, "a user of this system"))),
        Err(errno) => Err(Error::Temporary(format!("{parameter} = {name}: {errno}"))),
    }
}
