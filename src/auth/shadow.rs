//! Passwords of system users out of the shadow file, shadow(5), which only root can read.
//!
//! It is read here line by line rather than by getspnam(3), which neither `std` nor `nix` wrap. So only the file counts
//! and no other source that nsswitch.conf may name; for those there will be PAM.

use super::Stored;
use crate::clock::since_1970;
use crate::users::{User, passwd_file};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;

/// Days since 1970.
pub fn today() -> u64 {
    since_1970(SystemTime::now()).as_secs() / 86_400
}

/// The password of a user who may log in today; without such a user some other password of the file.
pub fn stored(path: &Path, user: Option<&User>, today: u64) -> Result<Stored, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let (mut own, mut sample) = (None, None);
    let file = match File::open(path) {
        Ok(file) => file,
        // Not root, which the start warned of: it lets nobody in, and will not later, so that those who guess are counted.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Ok(Stored { kept_out: user.map(|_| failed(error)), ..Stored::default() });
        }
        Err(error) => return Err(failed(error)),
    };
    passwd_file::lines(file, |_, line| {
        // Lines that make no sense are other programs' affair: they let nobody in.
        let Some(line) = line.and_then(|line| std::str::from_utf8(line).ok()) else { return Ok(()) };
        let mut fields = line.split(':');
        let (name, hash) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        let is_usable = hash.starts_with('$');
        let is_its = user.is_some_and(|user| user.name == name);
        let lets_in = is_its && is_usable && !is_expired(fields, today);
        if is_its {
            // The first line counts, also where it lets nobody in.
            own.get_or_insert_with(|| lets_in.then(|| hash.to_owned()));
        }
        if is_usable && !lets_in {
            sample.get_or_insert_with(|| hash.to_owned());
        }
        Ok(())
    })
    .map_err(failed)?;
    Ok(Stored { own: own.flatten(), sample, kept_out: None })
}

/// Whether account or password ran out. The fields are: day of the last change (0: must be changed at the next login,
/// which POP3 cannot do), minimum, maximum, warning, inactive, day the account ends. Empty is never.
fn is_expired<'a>(mut fields: impl Iterator<Item = &'a str>, today: u64) -> bool {
    let mut day = || fields.next().and_then(|field| field.parse::<u64>().ok());
    let (changed, _, maximum, _, _, ends) = (day(), day(), day(), day(), day(), day());
    changed == Some(0)
        || ends.is_some_and(|ends| ends <= today)
        || changed.zip(maximum).is_some_and(|(changed, maximum)| changed.saturating_add(maximum) < today)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn password(line: &str) -> Option<String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "root:$6$root:1:0:99999:7:::\n{line}\n").unwrap();
        let user = User {
            name: "bob".to_owned(),
            owner: Some((1000, 1000)),
            home: "/home/bob".into(),
            mailbox: None,
            password: None,
            is_of_system: true,
        };
        let Stored { own, sample, .. } = stored(file.path(), Some(&user), 1000).unwrap();
        match own {
            Some(password) => Some(password),
            None => {
                assert_eq!(sample.as_deref(), Some("$6$root"));
                None
            }
        }
    }

    #[test]
    fn a_living_account_has_a_password() {
        for line in ["bob:$6$x", "bob:$6$x:900:0:99999:7:::", "bob:$6$x:900::100:::1001:", "bob:$6$x:900::::::"] {
            assert_eq!(password(line).as_deref(), Some("$6$x"), "{line}");
        }
    }

    #[test]
    fn locked_and_expired_accounts_have_none() {
        for line in [
            "bob:!$6$x:900:0:99999:7:::",
            "bob:*:900:0:99999:7:::",
            "bob:!:900::::::",
            "bob::900:0:99999:7:::",
            "bob:x:900:0:99999:7:::",
            "bob:$6$x:0:0:99999:7:::",
            "bob:$6$x:900:0:99:7:::",
            "bob:$6$x:900:0:99999:7::1000:",
            "bobby:$6$x:900:0:99999:7:::",
            "bob:!$6$x:900:0:99999:7:::\nbob:$6$y:900:0:99999:7:::",
            "bob:$6$x:0:0:99999:7:::\nbob:$6$y:900:0:99999:7:::",
            "",
        ] {
            assert_eq!(password(line), None, "{line}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_a_no() {
        assert!(stored(Path::new("/nonexistent/shadow"), None, 1000).is_err());
    }
}
