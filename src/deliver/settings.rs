//! The configuration of a process that lives long: read again before the next message when a file of it changed.

use crate::channel::Channels;
use crate::cli::Common;
use crate::config::Config;
use crate::deliver::relay::policy::Policies;
use crate::exit::Error;
use crate::kept::Stamp;
use std::path::PathBuf;

/// main.cf and channels, as they were read last.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The parameters.
    pub config: Config,
    /// The routes.
    pub channels: Channels,
    common: Common,
    files: Vec<(PathBuf, Option<Stamp>)>,
}

impl Settings {
    /// Takes a configuration that was just read, and reads the channels it names.
    pub fn new(common: &Common, config: Config) -> Result<Settings, Error> {
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
        let files = stamps(&self.config);
        if files == self.files {
            return false;
        }
        match Config::load(&self.common).and_then(|config| Settings::new(&self.common, config)) {
            Ok(mut settings) => {
                log::info!("configuration read again");
                // From before it was read: what was written meanwhile is seen the next time.
                if let (Some((_, main_cf)), Some((_, before))) = (settings.files.first_mut(), files.into_iter().next())
                {
                    *main_cf = before;
                }
                *self = settings;
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
    paths
        .into_iter()
        .chain(config.smtp_tls_policy_maps.0.clone())
        .map(|path| (path.clone(), Stamp::of(&path)))
        .collect()
}
