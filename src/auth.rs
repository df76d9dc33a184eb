//! Name and password to user, by the ordered list `authentication`.
//!
//! An unknown user costs the same time as a wrong password: a dummy of the usual method is hashed.

use crate::config::Config;
use crate::lookup::Lookup;
use crate::users::User;

/// Checks a name and a password. `No` says neither which of the two was wrong.
pub fn check(_config: &Config, _name: &[u8], _password: &[u8]) -> Lookup<User> {
    todo!()
}
