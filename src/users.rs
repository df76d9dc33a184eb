//! Who has a mailbox here: the users of this system, or those of a passwd-file (`users`).

use crate::config::Config;
use crate::config::value::MailboxSpec;
use crate::lookup::Lookup;
use std::path::PathBuf;

/// Somebody with a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name that was found, which may be spelled otherwise than what was asked for.
    pub name: String,
    /// Who owns the mailbox; none: whoever runs us (a passwd-file without uids).
    pub owner: Option<(u32, u32)>,
    /// The home folder.
    pub home: PathBuf,
    /// Where the mail is kept, when not where `mailbox` says.
    pub mailbox: Option<MailboxSpec>,
    /// The password as `{SCHEME}hash`, from a passwd-file; never logged.
    pub password: Option<String>,
}

impl User {
    /// The mailbox with `~`, `%u`, `%n` and `%d` put in.
    pub fn mailbox_path(&self, _config: &Config) -> MailboxSpec {
        todo!()
    }
}

/// Looks a local part (or, for virtual users, a whole address) up.
pub fn find(_config: &Config, _name: &[u8]) -> Lookup<User> {
    todo!()
}
