//! The configuration of a process that lives long: read again before the next message when a file of it changed.

use crate::channel::Channels;
use crate::cli::Common;
use crate::config::Config;
use crate::exit::Error;
use crate::kept::Stamp;
use crate::relay::policy::Policies;
use std::path::PathBuf;

/// main.cf and channels, as they were read last.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The parameters.
    pub config: Box<Config>,
    /// The routes.
    pub channels: Channels,
    common: Common,
    files: Vec<(PathBuf, Option<Stamp>)>,
}

impl Settings {
    /// Takes a configuration that was just read, and reads the channels it names.
    pub fn new(common: &Common, config: Box<Config>) -> Result<Settings, Error> {
        // Before reading, so that a change in between is seen the next time.
        let files = stamps(&config);
        let channels = Channels::load(&config)?;
        // Each process that connects reads it for itself; what is wrong in it is to be told now.
        Policies::read(&config).map_err(Error::Config)?;
        Ok(Settings { config, channels, common: common.clone(), files })
    }

    /// The options that main.cf was read with.
    pub fn common(&self) -> &Common {
        &self.common
    }

    /// Reads everything again if a file changed. What is wrong is logged once, and the old settings hold on. Gives
    /// whether there are new ones.
    pub fn refresh(&mut self) -> bool {
        let now: Vec<_> = self.files.iter().map(|(path, _)| stamped(path.clone())).collect();
        if now == self.files {
            return false;
        }
        let loaded = Config::load(&self.common);
        // Of what is named now, though it be wrong: there it will be mended.
        let mut files = loaded.as_ref().map_or_else(|_| now.clone(), |config| stamps(config));
        // From before it was read: what was written meanwhile is seen the next time.
        if let (Some(main_cf), Some(before)) = (files.first_mut(), now.into_iter().next()) {
            *main_cf = before;
        }
        match loaded.and_then(|config| Settings::new(&self.common, config)) {
            Ok(settings) => {
                log::info!("configuration read again");
                *self = Settings { files, ..settings };
                true
            }
            Err(error) => {
                log::error!("{error}; the old configuration holds on");
                self.files = files;
                false
            }
        }
    }
}

fn stamps(config: &Config) -> Vec<(PathBuf, Option<Stamp>)> {
    let paths = [config.config_directory.join("main.cf"), config.channels.clone()];
    paths.into_iter().chain(config.smtp_tls_policy_maps.0.clone()).map(stamped).collect()
}

fn stamped(path: PathBuf) -> (PathBuf, Option<Stamp>) {
    let stamp = Stamp::of(&path);
    (path, stamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::TlsLevel;

    #[test]
    fn what_main_cf_names_is_looked_at_also_where_it_was_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let main_cf = |more: &str| {
            let own = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(65_534)).unwrap().unwrap().name;
            write(
                "main.cf",
                &format!(
                    "myhostname = mx.example\nmail_owner = {own}\nqueue_directory = {}\n{more}",
                    folder.path().join("queue").display()
                ),
            );
        };
        main_cf("");
        let common = Common { config: Some(folder.path().to_owned()), ..Common::default() };
        let mut settings = Settings::new(&common, Config::load(&common).unwrap()).unwrap();
        assert!(!settings.refresh());
        write("policy", "partner.example nonsense\n");
        main_cf(&format!(
            "smtp_tls_security_level = encrypt\nsmtp_tls_policy_maps = {}\n",
            folder.path().join("policy").display()
        ));
        assert!(!settings.refresh());
        assert_eq!(settings.config.smtp_tls_security_level, TlsLevel::May);
        assert!(!settings.refresh(), "told once");
        write("policy", "partner.example verify\n");
        assert!(settings.refresh());
        assert_eq!(settings.config.smtp_tls_security_level, TlsLevel::Encrypt);
        assert!(!settings.refresh());
    }
}
