//! `smtp_sasl_password_maps`: who we are to which next hop, a line each as in Postfix's text tables:
//! `[gw.example.net]:587 user:password`.

use crate::config::{self, Config, file, main_cf, shown, table};
use crate::smtp::client::login::Login;
use crate::wire::secret::Secret;
use std::path::Path;

/// Next hop and login, in the order of the file.
#[derive(Debug, Default)]
pub struct Passwords(Option<Vec<(String, Login)>>);

impl Passwords {
    /// Reads the file if AUTH is wanted; the error has file and line. No line may be left out, nor the whole file: a next hop
    /// at which we do not log in refuses for good what it would take.
    pub fn read(config: &Config) -> Result<Passwords, config::Error> {
        let Some(path) = config.smtp_sasl_password_maps.0.as_ref().filter(|_| config.smtp_sasl_auth_enable) else {
            return Ok(Passwords::default());
        };
        Passwords::parse(&Secret(file::table("smtp_sasl_password_maps", path)?).0, path)
    }

    /// Whether we log in anywhere.
    pub fn are_there(&self) -> bool {
        self.0.is_some()
    }

    /// The login for the first of these names that is in the table.
    pub fn find(&self, names: &[&str]) -> Option<&Login> {
        let known = |name: &&str| self.0.iter().flatten().find(|(key, _)| key.eq_ignore_ascii_case(name));
        names.iter().filter(|name| !name.is_empty()).find_map(known).map(|(_, login)| login)
    }

    fn parse(octets: &[u8], path: &Path) -> Result<Passwords, config::Error> {
        let login = |(number, key, value): (usize, &str, &str)| {
            // Of a wrong line no more is shown: the rest may be a password.
            let expected =
                || format!("smtp_sasl_password_maps: expected user:password behind the next hop {}", shown(key));
            let (user, password) = value.split_once(':').ok_or_else(|| config::Error::at(path, number, expected()))?;
            let password = Secret(password.as_bytes().to_vec());
            Ok((key.to_owned(), Login { user: user.to_owned(), password }))
        };
        let lines = main_cf::all_lines(octets, path)?;
        let logins = table::entries(&lines, path)?.into_iter().map(login);
        logins.collect::<Result<_, _>>().map(|logins| Passwords(Some(logins)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<Passwords, String> {
        Passwords::parse(text, Path::new("pw")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_line_that_is_no_login_is_told_without_what_may_be_a_password() {
        for (text, told) in [
            (&b"a x:1\n[gw.example] secret\n"[..], "pw:2: smtp_sasl_password_maps: expected user:password behind"),
            (b"gw.example\n", "behind the next hop gw.example"),
            (b"a x:\xff\n", "pw:1: expected text in UTF-8"),
            (b" a x:secret\n", "pw:1: expected no blank at the beginning"),
        ] {
            let error = parse(text).expect_err(told);
            assert!(error.contains(told) && !error.contains("secret"), "{error}");
        }
        assert!(parse(b"# none\n").is_ok_and(|table| table.are_there()));
        assert!(!Passwords::default().are_there());
    }

    #[test]
    fn the_next_hop_as_it_is_written_comes_before_the_host() {
        let table = parse(b"# comment\ngw.example a:1\n[gw.example]:587  b:x:y z\n").unwrap();
        let found = |names: &[&str]| table.find(names).map(|login| (login.user.clone(), login.password.0.clone()));
        assert_eq!(found(&["[gw.example]:587", "gw.example"]), Some(("b".to_owned(), b"x:y z".to_vec())));
        assert_eq!(found(&["", "GW.example"]), Some(("a".to_owned(), b"1".to_vec())));
        assert_eq!(found(&["other"]), None);
    }
}
