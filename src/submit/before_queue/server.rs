//! A filter before the queue that is a server: it gets envelope and message by SMTP or LMTP before the client is answered,
//! and hands what it lets through to a server of ours for which `before_queue_filter` is off.
//!
//! A child of submit speaks with it, the same agent that carries mail to other hosts: it can open no file and holds
//! nothing of the queue. What the filter says to the recipients and to the message decides. Where it takes the message
//! for some and not for others, those others are given back to be queued.

use super::Handed;
use crate::config::Config;
use crate::config::value::TlsLevel;
use crate::logging::{field, quoted};
use crate::program;
use crate::queue::Lines;
use crate::relay::{Job, Outcome, Source, agent};
use crate::smtp::client::To;
use crate::submit::Refusal;
use crate::sys;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stdin};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long the filter may take for its goodbye, which the client waits for.
const GOODBYE: Duration = Duration::from_secs(1);

/// Has it take the message. Gives the numbers of those for whom it did not, if it did for others.
pub fn hand_over(
    config: &Config,
    host: &str,
    handed: &Handed<'_>,
    content: &mut dyn Read,
) -> Result<Vec<usize>, Refusal> {
    let id = handed.id;
    let outcomes = match ask(config, host, handed, content) {
        Ok(outcomes) => outcomes,
        Err(error) => {
            let why = match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    "it took longer than before_queue_filter_timeout".to_owned()
                }
                _ => error.to_string(),
            };
            log::error!("id={id} event=not-handed-over filter={host} reason={why:?}");
            return Err(Refusal::Trouble);
        }
    };
    let is_taken = |outcome: &Outcome| !matches!(outcome, Outcome::Deferred(_) | Outcome::Failed(_));
    let left: Vec<usize> = (0..outcomes.len()).filter(|number| !outcomes.get(*number).is_some_and(is_taken)).collect();
    for (outcome, (address, _)) in outcomes.iter().zip(&handed.recipients.list) {
        let (word, why) = match outcome {
            Outcome::Failed(why) => ("refused", why.as_str()),
            Outcome::Deferred(why) => ("not-handed-over", why.as_str()),
            Outcome::Relayed(why) | Outcome::PassedOn(why) | Outcome::Replaced(why) | Outcome::Expanded(why) => {
                ("handed-over", why.as_str())
            }
            Outcome::Delivered(_) | Outcome::Listed => ("handed-over", ""),
        };
        log::info!("id={id} to=<{}> event={word} filter={host} reason={}", field(address), quoted(why));
    }
    match left.len() {
        count if count < outcomes.len() => Ok(left),
        _ if outcomes.iter().all(|outcome| matches!(outcome, Outcome::Failed(_))) => Err(Refusal::Filtered),
        _ => Err(Refusal::Trouble),
    }
}

fn ask(config: &Config, host: &str, handed: &Handed<'_>, content: &mut dyn Read) -> io::Result<Vec<Outcome>> {
    let limit = config.before_queue_filter_timeout.0.max(Duration::from_millis(1));
    let job = job(host, handed, content)?;
    let (mut ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(limit))?;
    ours.set_write_timeout(Some(limit))?;
    let agent = Agent::start(&for_agent(config), theirs)?;
    let carried = agent::ask(&mut ours, &job)?.carried;
    // It says goodbye when nobody can ask it any more.
    drop(ours);
    agent.wait();
    Ok(carried.outcomes)
}

fn job(host: &str, handed: &Handed<'_>, content: &mut dyn Read) -> io::Result<Job> {
    let (transport, next_hop) = host.split_once(':').ok_or(ErrorKind::InvalidInput)?;
    let source = spool(content)?;
    let to = handed.recipients.list.iter().map(|(address, said)| To::new(address, said)).collect();
    let way = (transport, next_hop, "");
    Ok(Job { is_filtered: true, ..Job::new(handed.id, way, handed.reverse_path, handed.parameters, to, source) })
}

/// The message in a file without a name, so that the agent gets nothing of the queue.
fn spool(content: &mut dyn Read) -> io::Result<Source> {
    let mut file: File = program::nameless()?;
    let (mut buffer, mut size, mut has_cr, mut last) = (vec![0; 32 * 1024], 0_u64, false, b'\n');
    loop {
        let piece = match content.read(&mut buffer) {
            Ok(count) => buffer.get(..count).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let Some(end) = piece.last() else { break };
        file.write_all(piece)?;
        (size, has_cr, last) = (size + piece.len() as u64, has_cr || piece.contains(&b'\r'), *end);
    }
    let lines = if has_cr || last != b'\n' { Lines::Exact } else { Lines::Lf };
    Ok(Source { file, start: 0, size, lines })
}

/// Nobody reads along between us and a filter, and nothing takes longer than the whole may.
fn for_agent(config: &Config) -> Config {
    let mut config = config.clone();
    let limit = config.before_queue_filter_timeout.0;
    for time in [
        &mut config.smtp_connect_timeout,
        &mut config.smtp_helo_timeout,
        &mut config.smtp_mail_timeout,
        &mut config.smtp_rcpt_timeout,
        &mut config.smtp_data_init_timeout,
        &mut config.smtp_data_xfer_timeout,
        &mut config.smtp_data_done_timeout,
        &mut config.smtp_rset_timeout,
    ] {
        time.0 = time.0.min(limit);
    }
    config.smtp_quit_timeout.0 = config.smtp_quit_timeout.0.min(GOODBYE);
    config.smtp_tls_security_level = TlsLevel::None;
    config.smtp_tls_wrappermode = false;
    config.smtp_tls_policy_maps.0 = None;
    config.smtp_sasl_auth_enable = false;
    config
}

/// The child that speaks with the filter; killed if it is not waited for.
struct Agent(Pid);

impl Agent {
    fn start(config: &Config, socket: UnixStream) -> io::Result<Agent> {
        let mut socket = Some(socket);
        let child = sys::fork(|| match socket.take() {
            Some(socket) if leave_all_but(&socket).is_ok() => agent::serve(socket, config),
            _ => 75,
        })?;
        Ok(Agent(child))
    }

    fn wait(self) {
        self.log_end();
        std::mem::forget(self);
    }

    fn log_end(&self) {
        match waitpid(self.0, None) {
            // By us.
            Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _)) | Err(_) => {}
            Ok(status) => agent::log_end("agent", status),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // One that has come to its end already keeps the signal or the status that it ended with.
        let _ = kill(self.0, Signal::SIGKILL);
        self.log_end();
    }
}

/// Neither the queue nor the server at submit's other end is its affair. The log may be behind one of the descriptors, so it
/// is silent: what came of the message is told by us.
fn leave_all_but(socket: &UnixStream) -> io::Result<()> {
    log::set_max_level(log::LevelFilter::Off);
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let kept = u32::try_from(socket.as_raw_fd()).map_err(|_| ErrorKind::InvalidInput)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    drop(null);
    if kept > 3 {
        sys::close_between(3, kept - 1);
    }
    sys::close_between(kept + 1, u32::MAX);
    Ok(())
}
