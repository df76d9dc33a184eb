//! The configuration of a process that lives long: read again before the next message when a file of it changed.
//!
//! A file that is being written is empty or gone for a moment, and then half there; without main.cf or channels the defaults
//! hold, by which mail for everybody here would be returned. So what changed in this moment is not read yet, and a file
//! that was there and is gone is a mistake. But a server may have read it, and accepted mail by it, which by an older one would
//! be returned as well: such mail waits.

use crate::channel::Channels;
use crate::cli::Common;
use crate::config::{self, Config};
use crate::exit::Error;
use crate::kept::Stamp;
use crate::relay::policy::Policies;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// So long mail waits for files that somebody goes on writing; then they are read as they are.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at these.
const PAUSE: Duration = Duration::from_millis(100);

/// main.cf and channels, as they were read last.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The parameters.
    pub config: Box<Config>,
    /// The routes.
    pub channels: Channels,
    common: Common,
    /// What was looked at last.
    files: Files,
    /// Those that had something in them when what holds now was read.
    had: Vec<PathBuf>,
    /// When nothing else could be read: mail that came before was not accepted by anything newer.
    as_of: SystemTime,
}

/// What a look at the files comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// What holds goes on holding.
    Same,
    /// They were read again.
    New,
    /// They changed, and somebody may still be writing.
    Unsettled,
}

type Files = Vec<(PathBuf, Option<Stamp>)>;

impl Settings {
    /// Takes a configuration that was just read, and reads the channels it names.
    pub fn new(common: &Common, config: Box<Config>) -> Result<Settings, Error> {
        // Before reading, so that a change in between is seen the next time.
        let files = stamps(&config);
        let table = config.smtp_tls_policy_maps.0.as_deref();
        let is_empty = table.and_then(Stamp::of).is_some_and(|stamp| stamp.is_empty());
        match Policies::read(&config) {
            // Somebody may be about to write it. Mail that stays here needs none, and mail that would leave waits by itself.
            Err(error) if is_empty => log::error!("{error}"),
            read => drop(read.map_err(Error::Config)?),
        }
        Settings::of(common, config, files)
    }

    fn read(common: &Common, config: Box<Config>, files: Files) -> Result<Settings, Error> {
        // Each process that connects reads it for itself; what is wrong in it is to be told now.
        Policies::read(&config).map_err(Error::Config)?;
        Settings::of(common, config, files)
    }

    fn of(common: &Common, config: Box<Config>, files: Files) -> Result<Settings, Error> {
        let channels = Channels::load(&config)?;
        let had = files.iter().filter(|file| !is_away(file)).map(|(path, _)| path.clone()).collect();
        Ok(Settings { config, channels, common: common.clone(), files, had, as_of: SystemTime::UNIX_EPOCH })
    }

    /// The options that main.cf was read with.
    pub fn common(&self) -> &Common {
        &self.common
    }

    /// Reads everything again if a file changed. What is wrong is logged once, and the old settings hold on. Gives
    /// whether there are new ones.
    pub fn refresh(&mut self) -> bool {
        self.look(SystemTime::now(), true) == Look::New
    }

    /// The same for mail that was accepted then: it is not routed by older files than it was accepted by, and waits where
    /// these cannot be read yet.
    pub fn refresh_for(&mut self, accepted: SystemTime) {
        let begun = Instant::now();
        let mut pause = Duration::ZERO;
        self.look_until_settled(accepted, || {
            std::thread::sleep(std::mem::replace(&mut pause, PAUSE));
            (SystemTime::now(), begun.elapsed() < PATIENCE)
        });
    }

    /// Looks for mail that was accepted then until nothing is unsettled that it waits for: each time when `next` says, patient
    /// or not.
    fn look_until_settled(&mut self, accepted: SystemTime, mut next: impl FnMut() -> (SystemTime, bool)) {
        loop {
            let (now, is_patient) = next();
            let look = self.look(now, is_patient);
            if look != Look::Unsettled || !is_patient || accepted < self.as_of {
                return;
            }
        }
    }

    /// `is_patient`: what is being written is not read yet.
    fn look(&mut self, now: SystemTime, is_patient: bool) -> Look {
        let found: Files = self.files.iter().map(|(path, _)| stamped(path.clone())).collect();
        let is_fresh =
            |(_, stamp): &(PathBuf, Option<Stamp>)| is_patient && stamp.is_some_and(|stamp| stamp.is_fresh(now));
        if found == self.files {
            self.as_of = now;
            return Look::Same;
        }
        if found.iter().any(is_fresh) {
            return Look::Unsettled;
        }
        let main_cf = found.first().map_or(&[][..], std::slice::from_ref);
        let loaded = self.none_lost(main_cf).and_then(|()| Config::load(&self.common));
        // Of what is named now, though it be wrong: there it will be mended.
        let mut files = loaded.as_ref().map_or_else(|_| found.clone(), |config| stamps(config));
        // From before it was read: what was written meanwhile counts for nothing, and is read the next time.
        if let (Some(main_cf), Some(before)) = (files.first_mut(), found.into_iter().next()) {
            *main_cf = before;
        }
        if files.iter().any(is_fresh) {
            return Look::Unsettled;
        }
        let read = loaded.and_then(|config| {
            self.none_lost(&files)?;
            Settings::read(&self.common, config, files.clone())
        });
        if is_patient && files.iter().any(|(path, before)| Stamp::of(path) != *before) {
            return Look::Unsettled;
        }
        match read {
            Ok(settings) => {
                log::info!("configuration read again");
                *self = Settings { as_of: now, ..settings };
                Look::New
            }
            Err(error) => {
                log::error!("{error}; the old configuration holds on");
                self.files = files;
                Look::Same
            }
        }
    }

    /// That none of these was there and is not any more.
    fn none_lost(&self, files: &[(PathBuf, Option<Stamp>)]) -> Result<(), Error> {
        let lost = files.iter().find(|file| is_away(file) && self.had.contains(&file.0));
        lost.map_or(Ok(()), |(path, stamp)| {
            let problem = match stamp {
                Some(_) => "this file is empty, and is waited for until something is in it",
                None => "this file, which was there, is gone (restart deliver to do without it)",
            };
            Err(Error::Config(config::Error::at(path.as_path(), 0, problem)))
        })
    }
}

fn stamps(config: &Config) -> Files {
    let paths = [config.config_directory.join("main.cf"), config.channels.clone()];
    paths.into_iter().chain(config.smtp_tls_policy_maps.0.clone()).map(stamped).collect()
}

fn stamped(path: PathBuf) -> (PathBuf, Option<Stamp>) {
    let stamp = Stamp::of(&path);
    (path, stamp)
}

/// Whether there is no such file, or nothing in it.
fn is_away((_, stamp): &(PathBuf, Option<Stamp>)) -> bool {
    stamp.is_none_or(|stamp| stamp.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::TlsLevel;
    use std::time::Duration;

    /// When all that is written now is long done.
    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(10)
    }

    /// Whether there is something new by then.
    fn looks(settings: &mut Settings) -> bool {
        settings.look(later(), true) == Look::New
    }

    struct Site(tempfile::TempDir);

    impl Site {
        fn new() -> Site {
            let site = Site(tempfile::tempdir().unwrap());
            site.main_cf("");
            site
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.0.path().join(name), text).unwrap();
        }

        /// Gives when that was by the clock of the file system: the machine may stand still behind it.
        fn channels(&self, text: &str) -> SystemTime {
            self.write("channels", text);
            self.0.path().join("channels").metadata().unwrap().modified().unwrap()
        }

        fn main_cf(&self, more: &str) {
            let own = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(65_534)).unwrap().unwrap().name;
            let queue = self.0.path().join("queue");
            self.write(
                "main.cf",
                &format!("myhostname = mx.example\nmail_owner = {own}\nqueue_directory = {}\n{more}", queue.display()),
            );
        }

        fn settings(&self) -> Settings {
            let common = Common { config: Some(self.0.path().to_owned()), ..Common::default() };
            Settings::new(&common, Config::load(&common).unwrap()).unwrap()
        }
    }

    #[test]
    fn what_main_cf_names_is_looked_at_also_where_it_was_wrong() {
        let site = Site::new();
        let mut settings = site.settings();
        assert!(!looks(&mut settings));
        site.write("policy", "partner.example nonsense\n");
        site.main_cf(&format!(
            "smtp_tls_security_level = encrypt\nsmtp_tls_policy_maps = {}\n",
            site.0.path().join("policy").display()
        ));
        assert!(!looks(&mut settings));
        assert_eq!(settings.config.smtp_tls_security_level, TlsLevel::May);
        assert!(!looks(&mut settings), "told once");
        site.write("policy", "partner.example verify\n");
        assert!(looks(&mut settings));
        assert_eq!(settings.config.smtp_tls_security_level, TlsLevel::Encrypt);
        assert!(!looks(&mut settings));
    }

    #[test]
    fn an_empty_table_of_policies_lets_deliver_start_and_a_wrong_one_does_not() {
        let site = Site::new();
        site.write("policy", "");
        site.main_cf(&format!("smtp_tls_policy_maps = {}\n", site.0.path().join("policy").display()));
        let mut settings = site.settings();
        site.write("policy", "partner.example verify\n");
        assert!(looks(&mut settings));
        site.write("policy", "partner.example nonsense\n");
        let common = settings.common().clone();
        assert!(matches!(Settings::new(&common, settings.config), Err(Error::Config(_))));
    }

    #[test]
    fn what_somebody_is_writing_is_not_read_before_that_is_done() {
        let site = Site::new();
        site.write("channels", "local * mx.example mailbox: *\n");
        let mut settings = site.settings();
        let written = site.channels("local * mx.example");
        assert_eq!(settings.look(written, true), Look::Unsettled, "half of it");
        let written = site.channels("local * mx.example,other.example mailbox: *\n");
        assert_eq!(settings.look(written, true), Look::Unsettled, "nobody knows that this is all");
        assert!(looks(&mut settings));
        assert!(settings.channels.0[0].domains.matches_domain(b"other.example"));
        // A clock that goes wrong holds nothing up.
        let written = site.channels("local * mx.example mailbox: *\n");
        assert_eq!(settings.look(written - Duration::from_secs(3600), true), Look::New);
    }

    #[test]
    fn mail_that_came_after_a_change_waits_for_it_and_other_mail_does_not() {
        let site = Site::new();
        let before = site.channels("local * mx.example mailbox: *\n");
        let mut settings = site.settings();
        assert_eq!(settings.look(before, true), Look::Same);
        let written = site.channels("local * mx.example,other.example mailbox: *\n");
        // A look each second. Gives how many there were.
        let wait = |settings: &mut Settings, accepted, patience| {
            let mut looks = 0;
            settings.look_until_settled(accepted, || {
                looks += 1;
                (written + Duration::from_secs(looks - 1), looks <= patience)
            });
            (looks, settings.channels.0[0].domains.matches_domain(b"other.example"))
        };
        let (old, never) = (before - Duration::from_millis(1), u64::MAX);
        assert_eq!(wait(&mut settings, old, never), (1, false), "it was accepted by the old one");
        assert_eq!(wait(&mut settings.clone(), written, 2), (3, true), "patience has an end");
        let (looks, is_new) = wait(&mut settings, written, never);
        assert!(is_new && (3..6).contains(&looks), "{looks}");
    }

    #[test]
    fn a_file_that_is_touched_all_the_time_is_read_in_the_end() {
        let site = Site::new();
        let mut settings = site.settings();
        let written = site.channels("local * mx.example discard: -\n");
        assert_eq!(settings.look(written, true), Look::Unsettled);
        assert_eq!(settings.look(written, false), Look::New);
        assert_eq!(settings.channels.0.len(), 1);
        let written = site.channels("local");
        assert_eq!((settings.look(written, false), settings.channels.0.len()), (Look::Same, 1));
    }

    #[test]
    fn a_file_that_was_there_and_is_gone_or_empty_changes_nothing() {
        for name in ["main.cf", "channels"] {
            let site = Site::new();
            site.write("channels", "local * mx.example discard: -\n");
            let mut settings = site.settings();
            let path = site.0.path().join(name);
            let text = std::fs::read(&path).unwrap();
            for is_gone in [true, false] {
                if is_gone {
                    std::fs::remove_file(&path).unwrap()
                } else {
                    std::fs::write(&path, "").unwrap()
                }
                assert!(!looks(&mut settings), "{name}");
                // Also where the other one changes meanwhile, and it is no news any more.
                if name == "channels" {
                    site.main_cf("soft_bounce = yes\n");
                }
                assert!(!looks(&mut settings), "{name}");
                assert_eq!(settings.config.myhostname, "mx.example");
                assert_eq!(settings.channels.0.len(), 1, "the built-in ones are two");
                std::fs::write(&path, &text).unwrap();
                assert!(looks(&mut settings), "{name}");
            }
        }
    }

    #[test]
    fn a_channels_file_may_come_and_main_cf_may_name_another() {
        let site = Site::new();
        let mut settings = site.settings();
        assert_eq!(settings.channels.0.len(), 2);
        site.write("channels", "local * mx.example discard: -\n");
        assert!(looks(&mut settings));
        assert_eq!(settings.channels.0.len(), 1);
        std::fs::rename(site.0.path().join("channels"), site.0.path().join("others")).unwrap();
        site.main_cf("channels = $config_directory/others\n");
        assert!(looks(&mut settings));
        assert_eq!(settings.channels.0.len(), 1);
    }
}
