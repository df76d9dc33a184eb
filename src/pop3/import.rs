//! `pop3d --import-unique-ids`: takes over what another server called a user's messages, as that user.

use super::split;
use crate::config::Config;
use crate::exit::{Ended, Error};
use crate::logging;
use crate::lookup::Lookup;
use crate::mailbox;
use crate::mailbox::import::{Imported, Source, import};
use crate::privilege;
use crate::users;
use log::info;

/// For one user; the record says how many messages have an id of the other server now.
pub fn run(config: &Config, source: &Source, user: &str) -> Result<Ended, Error> {
    let shown = logging::clean(user.as_bytes(), 100);
    let user = match users::find(config, user.as_bytes()) {
        Lookup::Yes(user) => user,
        Lookup::No => return Err(Error::Usage(format!("--user {shown}: expected a user"))),
        Lookup::CannotTell(why) => return Err(Error::Temporary(why)),
    };
    if privilege::is_root() {
        split::become_owner(config, &user)?;
    }
    match import(config, &user.mailbox_path(config), source) {
        Ok(Imported { messages, imported }) => {
            info!("event=unique-ids-imported user={shown:?} messages={messages} imported={imported}");
            Ok(Ended::Done)
        }
        Err(mailbox::Error::InUse) => Err(Error::Temporary(format!("a session has the mailbox of {shown}"))),
        Err(mailbox::Error::Io(why) | mailbox::Error::Unusable(why)) => Err(Error::Temporary(why)),
    }
}
