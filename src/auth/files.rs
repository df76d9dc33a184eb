//! Whether the files that users and passwords are in can be used, for a process that serves one client after another: they
//! are read anew when they have changed, and only then. Nothing of what is in them is kept.

use crate::auth::{check_methods, has_secrets, methods};
use crate::config::Config;
use crate::config::value::{AuthMethod, UserSource};
use crate::exit::Error;
use crate::kept::Stamp;
use crate::users;
use std::time::SystemTime;

/// What was found, and of which files.
#[derive(Debug, Default)]
pub struct Files {
    known: Option<(Vec<Stamp>, bool)>,
}

impl Files {
    /// Whether all that is there lets in by passwords stored in clear ([`has_secrets`]), or what is wrong with it.
    pub fn check(&mut self, config: &Config) -> Result<bool, Error> {
        let stamps = stamps(config);
        if let (Some(stamps), Some((known, secrets))) = (&stamps, &self.known)
            && stamps == known
        {
            return Ok(*secrets);
        }
        self.known = None;
        users::check_file(config)?;
        check_methods(config)?;
        let secrets = has_secrets(config);
        self.known = stamps
            .filter(|stamps| stamps.iter().all(|stamp| stamp.is_settled(SystemTime::now())))
            .map(|stamps| (stamps, secrets));
        Ok(secrets)
    }
}

/// Nothing where it is not files alone that matter.
fn stamps(config: &Config) -> Option<Vec<Stamp>> {
    let of_users = config.users.0.iter().filter_map(|source| match source {
        UserSource::PasswdFile(path) => Some(path),
        UserSource::System => None,
    });
    let mut paths: Vec<_> = of_users.cloned().collect();
    for method in methods(config) {
        match method {
            AuthMethod::PasswdFile(path) => paths.extend(path),
            AuthMethod::Shadow | AuthMethod::Pam | AuthMethod::Checkpassword(_) => return None,
        }
    }
    paths.iter().map(|path| Stamp::of(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    fn age(path: &std::path::Path, seconds: u64) {
        let time = SystemTime::now() - Duration::from_secs(seconds);
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn what_has_changed_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        let config = Config::with(&[("users", &format!("passwd-file:{}", path.display()))]);
        let mut files = Files::default();
        assert!(files.check(&config).is_err(), "it is not there");
        fs::write(&path, "bob:{PLAIN}x::::/home/bob\n").unwrap();
        age(&path, 60);
        assert!(matches!(files.check(&config), Ok(true)));
        // Its ctime is now, so it does not count for known yet.
        assert!(files.known.is_none());
        fs::write(&path, "bob:{PLAIN}x::::/home/bob\nsue:$1$abc$x::::/home/sue\n").unwrap();
        assert!(matches!(files.check(&config), Ok(false)));
        fs::write(&path, "bob:{PLAIN}x::::/home/bob\n../sue:{PLAIN}x\n").unwrap();
        assert!(files.check(&config).is_err());
    }

    #[test]
    fn what_is_settled_and_the_same_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        let config = Config::with(&[("users", &format!("passwd-file:{}", path.display()))]);
        fs::write(&path, "bob:{PLAIN}x::::/home/bob\n").unwrap();
        // As if it had been read when that was long ago; the false answer shows where it comes from.
        let mut files = Files { known: Some((stamps(&config).unwrap(), false)) };
        assert!(matches!(files.check(&config), Ok(false)));
        age(&path, 60);
        assert!(matches!(files.check(&config), Ok(true)), "another mtime");
    }
}
