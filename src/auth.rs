//! Name and password to user, by the ordered list `authentication`.
//!
//! An unknown user costs the same time as a wrong password: some other password of the same table is checked and the
//! answer thrown away. Passwords are octets, are never logged, and are compared in constant time (`scheme`).
//! Nobody becomes root here: uid 0 has no mailbox that can be logged in to.

pub mod scheme;
mod shadow;

use crate::config::value::{AuthMethod, UserSource};
use crate::config::{Config, Origin};
use crate::exit::Error;
use crate::lookup::Lookup;
use crate::users::passwd_file::{self, Trouble};
use crate::users::{self, User};
use std::path::Path;

/// What one method says of a user.
enum Stored {
    /// Its password.
    Password(String),
    /// The user has none there or may not log in; this is another's password, to be hashed for the time it takes.
    Nothing(Option<String>),
}

/// Checks a name and a password. `No` says neither which of the two was wrong.
pub fn check(config: &Config, name: &[u8], password: &[u8]) -> Lookup<User> {
    let (found, sample) = users::find_with_sample(config, name);
    let user = match found {
        Lookup::Yes(user) => Some(user),
        Lookup::No => None,
        Lookup::CannotTell(why) => return Lookup::CannotTell(why),
    };
    let may_log_in = user.as_ref().is_some_and(|user| user.owner.is_none_or(|(uid, _)| uid != 0));
    let mut trouble = None;
    for method in methods(config) {
        let stored = match stored(config, &method, user.as_ref().filter(|_| may_log_in), sample.as_deref()) {
            Ok(stored) => stored,
            Err(why) => {
                trouble = Some(why);
                continue;
            }
        };
        match (stored, &user) {
            (Stored::Password(stored), Some(user)) => match scheme::verify(&stored, password) {
                Ok(true) => return Lookup::Yes(user.clone()),
                Ok(false) => {}
                Err(why) => trouble = Some(format!("password of {}: {why}", user.name)),
            },
            (Stored::Password(sample) | Stored::Nothing(Some(sample)), _) => hash_in_vain(&sample, password),
            (Stored::Nothing(None), _) => hash_in_vain(scheme::DUMMY, password),
        }
    }
    trouble.map_or(Lookup::No, Lookup::CannotTell)
}

/// Makes sure that every method of the list is there, and that its file is right.
pub fn check_methods(config: &Config) -> Result<(), Error> {
    for method in methods(config) {
        match (&method, &config.users) {
            (AuthMethod::Shadow, _) | (AuthMethod::PasswdFile(None), UserSource::PasswdFile(_)) => {}
            (AuthMethod::PasswdFile(None), UserSource::System) => {
                return Err(wrong(config, "a path behind passwd-file:, because users is not a passwd-file"));
            }
            (AuthMethod::PasswdFile(Some(path)), _) => {
                passwd_file::read(path, |_| Ok(())).map_err(|trouble| match trouble {
                    Trouble::Line(error) => Error::Config(error),
                    Trouble::Io(error) => users::unreadable(config, "authentication", path, &error),
                })?;
            }
            (AuthMethod::Pam, _) => {
                return Err(wrong(config, "another method than pam, which this version has not yet"));
            }
            (AuthMethod::Checkpassword(_), _) => {
                return Err(wrong(config, "another method than checkpassword, which this version has not yet"));
            }
        }
    }
    Ok(())
}

/// The list, where it was set. Otherwise passwords are where the users are: an administrator who writes
/// `users = passwd-file:PATH` means the passwords in that file.
fn methods(config: &Config) -> Vec<AuthMethod> {
    let is_default = config.settings.iter().any(|s| s.name == "authentication" && s.origin == Origin::Default);
    match &config.users {
        UserSource::PasswdFile(_) if is_default => vec![AuthMethod::PasswdFile(None)],
        UserSource::PasswdFile(_) | UserSource::System => config.authentication.0.clone(),
    }
}

fn wrong(config: &Config, expected: &str) -> Error {
    let origin = config.origin("authentication");
    Error::Config(crate::config::Error { origin, problem: format!("authentication: expected {expected}") })
}

/// What a method knows of a user. `sample` is a password out of the file of `users`.
fn stored(config: &Config, method: &AuthMethod, user: Option<&User>, sample: Option<&str>) -> Result<Stored, String> {
    match method {
        AuthMethod::Shadow => shadow::stored(Path::new("/etc/shadow"), user, shadow::today()),
        AuthMethod::PasswdFile(Some(path)) => in_file(path, user),
        AuthMethod::PasswdFile(None) => match user.and_then(|user| user.password.as_deref()) {
            Some(password) if !scheme::is_locked(password) => Ok(Stored::Password(password.to_owned())),
            _ => Ok(Stored::Nothing(sample.map(str::to_owned))),
        },
        AuthMethod::Pam | AuthMethod::Checkpassword(_) => match check_methods(config) {
            Ok(()) => Err("a method that is not there".to_owned()),
            Err(error) => Err(error.to_string()),
        },
    }
}

fn in_file(path: &Path, user: Option<&User>) -> Result<Stored, String> {
    let (mut sample, mut own) = (None, None);
    let result = passwd_file::read(path, |record| {
        let Some(password) = record.password.filter(|password| !scheme::is_locked(password)) else { return Ok(()) };
        if user.is_some_and(|user| user.name == record.name) {
            own.get_or_insert(password);
        } else {
            sample.get_or_insert(password);
        }
        Ok(())
    });
    match result {
        Ok(()) => Ok(own.map_or(Stored::Nothing(sample), Stored::Password)),
        Err(trouble) => Err(trouble.with(path)),
    }
}

fn hash_in_vain(stored: &str, password: &[u8]) {
    let _ = std::hint::black_box(scheme::verify(stored, password));
}

#[cfg(test)]
mod tests;
