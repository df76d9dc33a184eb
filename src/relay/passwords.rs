//! `smtp_sasl_password_maps`: who we are to which next hop, a line each as in Postfix's text tables:
//! `[gw.example.net]:587 user:password`.

use crate::config::Config;
use crate::config::main_cf;
use crate::smtp::client::login::Login;
use crate::wire::secret::Secret;
use std::fs::File;
use std::io::Read;

/// Largest file read, in octets.
const LARGEST_FILE: u64 = 1 << 20;

/// Next hop and login, in the order of the file.
#[derive(Debug, Default)]
pub struct Passwords(Vec<(String, Login)>);

impl Passwords {
    /// Reads the file if AUTH is wanted. One that cannot be read is logged: mail that needs it then waits at the next
    /// hop's refusal.
    pub fn read(config: &Config) -> Passwords {
        let Some(path) = config.smtp_sasl_password_maps.0.as_ref().filter(|_| config.smtp_sasl_auth_enable) else {
            return Passwords::default();
        };
        let mut octets = Secret::default();
        if let Err(error) = File::open(path).and_then(|file| file.take(LARGEST_FILE).read_to_end(&mut octets.0)) {
            log::error!("smtp_sasl_password_maps {}: {error}", path.display());
        }
        Passwords::parse(&octets.0)
    }

    /// The login for the first of these names that is in the table.
    pub fn find(&self, names: &[&str]) -> Option<&Login> {
        let known = |name: &&str| self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        names.iter().filter(|name| !name.is_empty()).find_map(known).map(|(_, login)| login)
    }

    fn parse(octets: &[u8]) -> Passwords {
        let lines = main_cf::logical_lines(octets, "smtp_sasl_password_maps".as_ref(), &mut Vec::new());
        let entry = |line: &[u8]| {
            let text = std::str::from_utf8(line).ok()?;
            let (key, value) = text.trim().split_once(char::is_whitespace)?;
            let (user, password) = value.trim().split_once(':')?;
            let password = Secret(password.as_bytes().to_vec());
            Some((key.to_owned(), Login { user: user.to_owned(), password }))
        };
        Passwords(lines.iter().filter_map(|(_, line)| entry(line)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_hop_as_it_is_written_comes_before_the_host() {
        let table = Passwords::parse(b"# comment\ngw.example a:1\n[gw.example]:587  b:x:y z\nbroken\n");
        let found = |names: &[&str]| table.find(names).map(|login| (login.user.clone(), login.password.0.clone()));
        assert_eq!(found(&["[gw.example]:587", "gw.example"]), Some(("b".to_owned(), b"x:y z".to_vec())));
        assert_eq!(found(&["", "GW.example"]), Some(("a".to_owned(), b"1".to_vec())));
        assert_eq!(found(&["broken", "other"]), None);
    }
}
