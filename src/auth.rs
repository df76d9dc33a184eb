//! Name and password to user, by the ordered list `authentication`.
//!
//! An unknown user costs the same time as a wrong password: some other password of the same table is checked and the
//! answer thrown away. Passwords are never logged, and are compared in constant time (`users::scheme`). They and names are
//! prepared before (SASLprep, `sasl::prepare`); one that nobody may have is a wrong one, and takes as long.
//! What is wrong with one user (a line, a hash, a restriction that is not understood) is logged and is a wrong password to the
//! client, or it would tell who is there. What is wrong with a whole file is told to everybody alike.
//! Nobody becomes root here: uid 0 has no mailbox that can be logged in to.

pub mod external;
pub mod files;
pub mod gate;
mod shadow;

use crate::clock;
use crate::config::value::{AuthMethod, UserSource};
use crate::config::{Config, Origin};
use crate::exit::Error;
use crate::logging;
use crate::lookup::Lookup;
use crate::sasl::prepare::{Prepared, prepare};
use crate::sasl::{Credentials, Proof};
use crate::users::passwd_file::{self, Trouble};
use crate::users::{self, User, scheme};
use std::path::Path;
use subtle::ConstantTimeEq;

/// Where the passwords of system users are.
const SHADOW: &str = "/etc/shadow";

/// Who has shown who he is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The user.
    pub user: User,
    /// What the mechanism has the server say at its end; empty for most.
    pub last_words: Vec<u8>,
}

/// What one method says of a user.
#[derive(Default)]
struct Stored {
    /// Its password; none where the user has none there or may not log in.
    own: Option<String>,
    /// Another's password, to be hashed for the time it takes.
    sample: Option<String>,
    /// Why a password that is there lets nobody in.
    kept_out: Option<String>,
}

/// A password in clear, as the client gave it and as it is prepared.
struct Password<'a> {
    given: &'a [u8],
    prepared: Prepared,
}

impl Password<'_> {
    /// Whether it is the one that is stored. That may have been stored, or hashed, by who did not prepare it: then it is the
    /// password as it was given.
    fn is(&self, stored: &str) -> Result<bool, String> {
        let given = is_stored(stored, self.given)?;
        match &self.prepared {
            Prepared::AsItIs => Ok(given),
            Prepared::Changed(prepared) => is_stored(stored, &prepared.0).map(|fits| fits || given),
            Prepared::Never => Ok(false),
        }
    }

    /// The same for a program that is asked.
    fn ask(&self, ask: impl Fn(&[u8]) -> Lookup<User>) -> Lookup<User> {
        match &self.prepared {
            Prepared::AsItIs => ask(self.given),
            // As it was given first: most systems keep it so, and each no counts there as a failed login, and is waited for.
            Prepared::Changed(prepared) => match ask(self.given) {
                Lookup::No => ask(&prepared.0),
                found => found,
            },
            // A program that takes its time shall take it.
            Prepared::Never => ask(self.given).and_then(|_| Lookup::No),
        }
    }
}

/// Whether a stored password is this one, which is prepared or not; one that is stored in clear may be either too.
fn is_stored(stored: &str, password: &[u8]) -> Result<bool, String> {
    let is_same = scheme::verify(stored, password)?;
    match scheme::plain(stored).map(|secret| prepare(secret.as_bytes())) {
        Some(Prepared::Changed(own)) => Ok(is_same | bool::from(own.0.as_slice().ct_eq(password))),
        _ => Ok(is_same),
    }
}

/// Checks a name and a password. `No` says neither which of the two was wrong.
pub fn check(config: &Config, name: &[u8], password: &[u8]) -> Lookup<User> {
    // Whatever is stored: who has no password does not log in.
    let prepared = if password.is_empty() { Prepared::Never } else { prepare(password) };
    let password = Password { given: password, prepared };
    let verify = |stored: &str| password.is(stored).map(|fits| fits.then(Vec::new));
    check_by(config, name, Some(&password), &verify).map(|granted| granted.user)
}

/// Checks what a client gave to show who it is; [`check`] says how.
pub fn check_credentials(config: &Config, credentials: &Credentials) -> Lookup<Granted> {
    match &credentials.proof {
        Proof::Password(password) => {
            check(config, &credentials.name, &password.0).map(|user| Granted { user, last_words: Vec::new() })
        }
        // Only a password stored in clear can be told to fit; another one takes as long, and does not.
        proof => check_by(config, &credentials.name, None, &|stored| match scheme::plain(stored) {
            Some(password) => Ok(proof.fits(password.as_bytes())),
            None => Ok(std::hint::black_box(proof.fits(stored.as_bytes())).and(None)),
        }),
    }
}

/// What cannot be guessed and is never the same, for a challenge; nothing where the system has no chance to give.
///
/// With `--fixed` it is a number, on a pipe or a file, where nobody has to guess it.
pub fn nonce() -> Option<String> {
    if let Some(number) = clock::instead_of_chance() {
        return Some(number);
    }
    let mut octets = [0; 18];
    getrandom::fill(&mut octets).ok()?;
    Some(octets.iter().map(|octet| format!("{octet:02x}")).collect())
}

/// Whether every password that lets somebody in is stored in clear, so that mechanisms that need that can be offered:
/// clients take the one they like best, and try no other.
pub fn has_secrets(config: &Config) -> bool {
    let mut all = true;
    let mut some = false;
    let mut look = |path: &Path| {
        passwd_file::read(path, |record| {
            if let Some(password) = record.password.filter(|password| scheme::is_of_use(password)) {
                some = true;
                all = all && scheme::plain(password).is_some();
            }
            Ok(())
        })
        .is_ok()
    };
    let readable = methods(config).iter().all(|method| match method {
        AuthMethod::PasswdFile(Some(path)) => look(path),
        AuthMethod::PasswdFile(None) => config.users.files().all(&mut look),
        AuthMethod::Shadow | AuthMethod::Pam | AuthMethod::Checkpassword(_) => false,
    });
    readable && some && all
}

/// What a stored password that fits has the server say; nothing where it does not fit.
type Verified = Result<Option<Vec<u8>>, String>;

/// `password` is what a program may be asked about, where the client gave it.
fn check_by(
    config: &Config,
    name: &[u8],
    password: Option<&Password<'_>>,
    verify: &dyn Fn(&str) -> Verified,
) -> Lookup<Granted> {
    let prepared = prepare(name);
    let name = match &prepared {
        Prepared::AsItIs => name,
        Prepared::Changed(name) => &name.0,
        // Nobody has the empty one either.
        Prepared::Never => b"",
    };
    let users::Found { user, mut kept_out, mut trouble, source, sample } = users::find_with_sample(config, name);
    let may_be_unknown = user.is_none() && kept_out.is_none() && trouble.is_none();
    let in_vain = |stored: &str| {
        // One that cannot be checked would take no time.
        if std::hint::black_box(verify(stored)).is_err() {
            drop(std::hint::black_box(verify(scheme::DUMMY)));
        }
    };
    let may_log_in = user.as_ref().is_some_and(|user| user.owner.is_none_or(|(uid, _)| uid != 0));
    for (place, method) in methods(config).into_iter().enumerate() {
        if let AuthMethod::Pam | AuthMethod::Checkpassword(_) = method {
            let Some(password) = password else { continue };
            match password.ask(|password| external::check(config, &method, name, password, user.as_ref())) {
                Lookup::Yes(granted) if may_log_in || may_be_unknown => {
                    return Lookup::Yes(Granted { user: granted, last_words: Vec::new() });
                }
                Lookup::Yes(_) | Lookup::No => {}
                Lookup::CannotTell(why) => trouble = Some(why),
            }
            continue;
        }
        // The namesake in another source is somebody else, and his password is hashed for the time alone.
        let is_its_user = !is_by_source(config) || source == Some(place);
        let known = user.as_ref().filter(|_| may_log_in && is_its_user);
        let stored = match stored(&method, known, sample.as_deref()) {
            Ok(stored) => stored,
            Err(why) => {
                trouble = Some(why);
                continue;
            }
        };
        kept_out = kept_out.or(stored.kept_out);
        match (stored.own.as_deref().map(verify), known) {
            (Some(Ok(Some(last_words))), Some(user)) => return Lookup::Yes(Granted { user: user.clone(), last_words }),
            (Some(Ok(_)), _) => continue,
            (Some(Err(why)), Some(user)) => kept_out = Some(format!("password of {}: {why}", user.name)),
            (Some(Err(_)) | None, _) => {}
        }
        in_vain(stored.sample.as_deref().unwrap_or(scheme::DUMMY));
    }
    if let Some(why) = kept_out {
        log::warn!("event=cannot-log-in user={:?} reason={why:?}", logging::clean(name, 100));
    }
    trouble.map_or(Lookup::No, Lookup::CannotTell)
}

/// Makes sure that every method of the list is there, and that its file is right.
pub fn check_methods(config: &Config) -> Result<(), Error> {
    let methods = methods(config);
    for method in &methods {
        match method {
            AuthMethod::Shadow => match check_shadow(config, Path::new(SHADOW)) {
                Err(error) if methods.len() == 1 => return Err(error),
                // Others may let somebody in.
                Err(error) => log::warn!("{error}"),
                Ok(()) => {}
            },
            AuthMethod::PasswdFile(None) if config.users.files().next().is_some() => {}
            AuthMethod::PasswdFile(None) => {
                return Err(wrong(config, "a path behind passwd-file:, because users is not a passwd-file"));
            }
            AuthMethod::PasswdFile(Some(path)) => {
                passwd_file::read(path, |_| Ok(())).map_err(|trouble| match trouble {
                    Trouble::Line(error) => Error::Config(error),
                    Trouble::Io(error) => users::unreadable(config, "authentication", path, &error),
                })?;
            }
            AuthMethod::Pam | AuthMethod::Checkpassword(_) => {
                if let Err(expected) = external::is_usable(config, method) {
                    return Err(wrong(config, &expected));
                }
            }
        }
    }
    Ok(())
}

/// A process that is not root's could let nobody in, and would tell every user that passwords cannot be checked now.
fn check_shadow(config: &Config, path: &Path) -> Result<(), Error> {
    let expected = |error| format!("to be started as root, who alone can read {}: {error}", path.display());
    std::fs::File::open(path).map(drop).map_err(|error| wrong(config, &expected(error)))
}

/// Whether each method knows the users of the source at the same place in `users`, and no others: nobody set a list.
fn is_by_source(config: &Config) -> bool {
    config.origin("authentication") == Origin::Default && config.users.0.len() > 1
}

/// The list, where it was set. Otherwise passwords are where the users are: an administrator who writes
/// `users = passwd-file:PATH` means the passwords in that file.
fn methods(config: &Config) -> Vec<AuthMethod> {
    if config.origin("authentication") != Origin::Default {
        return config.authentication.0.clone();
    }
    let method = |source: &UserSource| match source {
        UserSource::PasswdFile(path) => AuthMethod::PasswdFile(Some(path.clone())),
        UserSource::System => AuthMethod::Shadow,
    };
    match config.users.0.as_slice() {
        [UserSource::PasswdFile(_)] => vec![AuthMethod::PasswdFile(None)],
        [UserSource::System] => config.authentication.0.clone(),
        several => several.iter().map(method).collect(),
    }
}

fn wrong(config: &Config, expected: &str) -> Error {
    let origin = config.origin("authentication");
    Error::Config(crate::config::Error { origin, problem: format!("authentication: expected {expected}") })
}

/// What a method knows of a user. `sample` is a password out of the file of `users`.
fn stored(method: &AuthMethod, user: Option<&User>, sample: Option<&str>) -> Result<Stored, String> {
    match method {
        AuthMethod::Shadow => shadow::stored(Path::new(SHADOW), user, shadow::today()),
        AuthMethod::PasswdFile(Some(path)) => in_file(path, user),
        AuthMethod::PasswdFile(None) => {
            let own = user.and_then(|user| user.password.clone()).filter(|password| !scheme::is_locked(password));
            Ok(Stored { own, sample: sample.map(str::to_owned), kept_out: None })
        }
        AuthMethod::Pam | AuthMethod::Checkpassword(_) => Ok(Stored::default()),
    }
}

fn in_file(path: &Path, user: Option<&User>) -> Result<Stored, String> {
    let (mut sample, mut own) = (None, None);
    let result = passwd_file::read(path, |record| {
        let password = record.password.filter(|password| !scheme::is_locked(password));
        if user.is_some_and(|user| user.name == record.name) {
            // The first line counts, also where it lets nobody in.
            own.get_or_insert_with(|| record.ban(path).map_or(Ok(password.map(str::to_owned)), Err));
        } else if sample.is_none() {
            sample = password.filter(|password| scheme::is_of_use(password)).map(str::to_owned);
        }
        Ok(())
    });
    match result {
        Ok(()) => {
            let (own, kept_out) = match own {
                Some(Ok(own)) => (own, None),
                Some(Err(ban)) => (None, Some(ban)),
                None => (None, None),
            };
            Ok(Stored { own, sample, kept_out })
        }
        Err(trouble) => Err(trouble.with(path)),
    }
}

#[cfg(test)]
mod tests;
