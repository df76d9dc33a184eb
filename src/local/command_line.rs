//! What submit does for people, under each of its names: `submit`, `sendmail`, `mailq`, `newaliases`, `qmail-queue`.

use super::hand_in::{self, Envelope, Way};
use super::qmail_queue;
use super::sendmail::options::{Mode, Options};
use super::sendmail::{self, header};
use crate::aliases;
use crate::channel::Channels;
use crate::cli::{self, Common};
use crate::config::Config;
use crate::exit::{Ended, Error};
use crate::mailq::Format;
use crate::mailq::tool::{self, Action};
use crate::message::path::ReversePath;
use crate::net::connection::Connection;
use crate::net::peer::Peer;
use crate::net::tls::Offer;
use crate::privilege::{self, Owner};
use crate::smtp::server::{self, Settings};
use crate::smtp::site::Here;
use crate::submit::verify::Judge;
use crate::submit::{Policy, Verdict};
use nix::unistd::{Uid, User, getuid};
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;

/// `submit [-f FROM] RECIPIENT ... < message`: prints the queue id once the message is on disk.
pub fn submit(config: &Config, common: &Common, from: Option<String>, recipients: &[String]) -> Result<Ended, Error> {
    let caller = become_owner(config)?;
    let from = from.unwrap_or_else(|| match User::from_uid(caller) {
        Ok(Some(user)) => user.name,
        _ => caller.to_string(),
    });
    let recipients = recipients.iter().map(|text| hand_in::recipient(text)).collect::<Result<_, _>>()?;
    let recipients = hand_in::without_repeats(config, recipients);
    let envelope = Envelope { from, recipients, ..Envelope::default() };
    let mut way = Way::find(config, common)?;
    let id = hand_in::submit(config, way.submit(), &envelope, &mut io::stdin().lock())?;
    // The message is taken whether or not somebody reads this.
    let _ = writeln!(io::stdout(), "queued as {id}");
    way.wake();
    Ok(Ended::Done)
}

/// Started as root becomes mail_owner; gives who called.
fn become_owner(config: &Config) -> Result<Uid, Error> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let caller = getuid();
    privilege::become_owner(config, Owner::Mail)?;
    Ok(caller)
}

/// `sendmail`.
pub fn sendmail() -> Result<Ended, Error> {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let options = Options::read(words)?;
    if options.help || options.version {
        let _ = writeln!(
            io::stdout(),
            "sendmail (doorpost) {}: see the manual page sendmail(1)",
            env!("CARGO_PKG_VERSION")
        );
        return Ok(Ended::Done);
    }
    let common = common(&options);
    match options.mode.clone() {
        Mode::Deliver => {
            let config = Config::load(&common)?;
            let caller = become_owner(&config)?;
            let mut way = Way::find(&config, &common)?;
            if options.from_filter {
                way.come_from_filter();
            }
            let id = sendmail::submit(&config, way.submit(), &options, caller, &mut io::stdin().lock())?;
            if options.verbose {
                let _ = writeln!(io::stdout(), "queued as {id}");
            }
            way.wake();
            Ok(Ended::Done)
        }
        Mode::Smtp => speak_smtp(&*Config::load(&common)?, &common),
        Mode::List => tool::run(&common, Action::List, &options.recipients, Format::Text),
        Mode::Aliases => check_aliases(&common),
        Mode::Verify => verify_all(&*Config::load(&common)?, &options.recipients),
        Mode::Flush(pattern) => {
            let patterns = pattern.map_or_else(
                || "ALL".to_owned(),
                |pattern| if is_id(&pattern) { pattern } else { format!("*{pattern}*") },
            );
            tool::run(&common, Action::FlushIfAny, &[patterns], Format::Text)
        }
    }
}

/// `-C` names the folder of main.cf, or, by old habit, the file.
fn common(options: &Options) -> Common {
    let folder_of = |path: &Path| match path.parent() {
        Some(parent) if path.is_file() && parent.as_os_str().is_empty() => Path::new(".").into(),
        Some(parent) if path.is_file() => parent.into(),
        _ => path.into(),
    };
    Common { config: options.config.as_deref().map(folder_of), ..Common::default() }
}

fn is_id(pattern: &str) -> bool {
    pattern.parse::<crate::queue::Id>().is_ok()
}

/// `sendmail -bs`: SMTP for a program on this machine. Whoever is on a network socket stays who it is.
fn speak_smtp(config: &Config, common: &Common) -> Result<Ended, Error> {
    let channels = Channels::load(config)?;
    become_owner(config)?;
    let mut way = Way::find(config, common)?;
    let Some(peer) = Peer::of_stdio(Some("127.0.0.1"), None) else { return Ok(Ended::HungUp) };
    let site = Here::new(config, &channels, &peer, &[], false)?;
    let settings = Settings::new(config, &peer, None, server::Kind::default());
    let stream = Connection::from_stdio(config.daemon_timeout.0).map(Connection::with_typed_lines);
    let mut stream = stream.map_err(|error| Error::Connection(format!("standard input and output: {error}")))?;
    let ended = server::serve(&mut stream, way.submit(), &site, &settings, Offer::None);
    way.wake();
    ended
}

/// `sendmail -bv ADDRESS ...`: what RCPT would say on the channel of this machine.
fn verify_all(config: &Config, addresses: &[String]) -> Result<Ended, Error> {
    let channels = Channels::load(config)?;
    let (from, policy, sender) = ("local", Policy::Channels, &ReversePath::NULL);
    let judge = Judge { config, channels: &channels, from, policy, sender };
    let mut all = true;
    for text in addresses {
        for address in header::addresses(text.as_bytes())? {
            let verdict = judge.of(&address);
            let words = match &verdict {
                Verdict::Accepted => "deliverable",
                Verdict::UnknownUser => "nobody here has that name",
                Verdict::UnknownHost => "no channel leads to that domain",
                Verdict::NotAllowed => "mail from here may not go there",
                Verdict::BadAddress => "no address",
                Verdict::Closed(closed) if closed.is_for_now() => "no mail is taken for that domain now",
                Verdict::Closed(_) => "no mail is taken for that domain",
                Verdict::CannotTell | Verdict::TooMany => "cannot tell now",
            };
            all &= verdict == Verdict::Accepted;
            let _ = writeln!(io::stdout(), "{address}: {words}");
        }
    }
    if all { Ok(Ended::Done) } else { Err(Error::Data("not every address is deliverable".to_owned())) }
}

/// `mailq [PATTERN ...]`.
pub fn mailq() -> Result<Ended, Error> {
    /// List the queue.
    #[derive(Debug, Default, clap::Parser)]
    #[command(name = "mailq", version)]
    struct Args {
        #[command(flatten)]
        common: Common,
        /// Write an object of JSON a line
        #[arg(long)]
        json: bool,
        /// Said by habit
        #[arg(short)]
        verbose: bool,
        /// A queue id, or an address with * for any part
        #[arg(value_name = "PATTERN")]
        patterns: Vec<String>,
    }
    let args: Args = cli::parse()?;
    let format = if args.json { Format::Json } else { Format::Text };
    tool::run(&args.common, Action::List, &args.patterns, format)
}

/// `newaliases`: there is nothing to rebuild, so the file is checked.
pub fn newaliases() -> Result<Ended, Error> {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let options = Options::read(words)?;
    if options.help || options.version {
        let version = env!("CARGO_PKG_VERSION");
        let _ = writeln!(io::stdout(), "newaliases (doorpost) {version}: see the manual page newaliases(1)");
        return Ok(Ended::Done);
    }
    if let Some(operand) = options.recipients.first() {
        return Err(Error::Usage(format!("expected no operand instead of {}", crate::config::shown(operand))));
    }
    check_aliases(&common(&options))
}

fn check_aliases(common: &Common) -> Result<Ended, Error> {
    let config = Config::load(common)?;
    let paths = aliases::paths(&config);
    if paths.is_empty() {
        let _ = writeln!(io::stdout(), "there is no alias file");
    }
    // The last one is the program's end; those before it are told as they come.
    let mut last = None;
    let mut tell = |error| {
        if let Some(before) = last.replace(error) {
            log::error!("{before}");
        }
    };
    for path in paths {
        let wrong = |line, problem: String| crate::config::Error::at(path.as_path(), line, problem);
        let entries = match aliases::read(&path) {
            Ok(entries) => entries,
            Err(error) => {
                tell(wrong(0, format!("expected a readable file: {error}")));
                continue;
            }
        };
        let mut count = 0_usize;
        for entry in entries {
            match entry {
                Ok(_) => count += 1,
                Err(fault) => tell(wrong(fault.line, fault.problem)),
            }
        }
        let _ = writeln!(io::stdout(), "{}: {count} aliases; read at each look-up, nothing to rebuild", path.display());
    }
    last.map_or(Ok(Ended::Done), |error| Err(Error::Config(error)))
}

/// `qmail-queue`: message on descriptor 0, envelope on 1; gives the exit status.
pub fn qmail_queue() -> u8 {
    let common = Common::default();
    let config = match Config::load(&common).and_then(|config| become_owner(&config).map(|_| config)) {
        Ok(config) => config,
        Err(error) => {
            log::error!("{error}");
            return if matches!(error, Error::Config(_)) { 55 } else { 81 };
        }
    };
    // Whoever runs this keeps the message and comes again, so it hears of a typo that would hold the message up here.
    let way = Way::find(&config, &common).and_then(|way| match way {
        Way::Queue(_) => Ok(Channels::load(&config).map(|_| way)?),
        Way::Drop(_) => Ok(way),
    });
    let Ok(envelope) = io::stdout().as_fd().try_clone_to_owned() else { return qmail_queue::Refused::Read as u8 };
    let mut envelope = BufReader::new(File::from(envelope));
    match qmail_queue::submit(&config, way, &mut io::stdin().lock(), &mut envelope) {
        Ok(_) => 0,
        Err(refused) => refused as u8,
    }
}
