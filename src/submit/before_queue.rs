//! A filter before the queue: a program of qmail-queue's interface, or a server (`server.rs`), that gets a message in
//! place of the queue, before the client is told that it is taken (`before_queue_filter`).
//!
//! A program: message on descriptor 0, envelope on descriptor 1, as qmail's QMAILQUEUE has it. The program hands what it
//! lets through to `qmail-queue`, or to another server; status 0 says that it has done so, and only then the client hears of
//! it. Where what it hands on is queued, `DOORPOST_ID` and `DOORPOST_PARAMETERS` in its environment link the two and keep
//! what was said with the reverse-path. Content and envelope lie whole in files without names before it starts.

mod server;

use super::Refusal;
use crate::config::Config;
use crate::config::value::QueueFilter;
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::message::trace::Client;
use crate::program::{self, envelope};
use crate::queue::Id;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Names the message in the environment of a program that gets it.
pub const ID: &str = "DOORPOST_ID";

/// What was said with its reverse-path, in the text form of `message::parameters`.
pub const PARAMETERS: &str = "DOORPOST_PARAMETERS";

/// The recipients of a message: in memory, and as many as fit.
#[derive(Debug, Default)]
pub struct Recipients {
    /// Each with what was said of it.
    pub list: Vec<(Address, RecipientParameters)>,
    octets: usize,
}

/// Most octets of them, as of recipients that come before the content.
const ROOM: usize = crate::queue::EARLY_ROOM;

impl Recipients {
    /// Adds one; false where there is no room.
    pub fn add(&mut self, address: &Address, parameters: &RecipientParameters) -> bool {
        let octets = self.octets + address.as_bytes().len() + parameters.to_string().len() + 100;
        if octets > ROOM {
            return false;
        }
        self.octets = octets;
        self.list.push((address.clone(), parameters.clone()));
        true
    }
}

/// What the program gets besides the content.
pub struct Handed<'a> {
    /// The message's, which stands in its Received field.
    pub id: &'a Id,
    /// Where failures go.
    pub reverse_path: &'a ReversePath,
    /// What was said with it.
    pub parameters: &'a MailParameters,
    /// Who gets it.
    pub recipients: Recipients,
    /// Who sent it.
    pub client: &'a Client,
}

/// Has the filter take the message, or says why it is not taken. Gives for whom it has not, if it has for others.
pub fn hand_over(config: &Config, handed: &Handed<'_>, content: &mut dyn Read) -> Result<Vec<usize>, Refusal> {
    match &config.before_queue_filter {
        QueueFilter::Program(line) => to_program(config, line, handed, content).map(|()| Vec::new()),
        QueueFilter::Host(host) => server::hand_over(config, host, handed, content),
        QueueFilter::None => Err(Refusal::Trouble),
    }
}

fn to_program(config: &Config, line: &str, handed: &Handed<'_>, content: &mut dyn Read) -> Result<(), Refusal> {
    let ran = run(config, line, handed, content);
    let (id, code) = (handed.id, ran.as_ref().ok().copied().flatten());
    match ran {
        Ok(Some(0)) => {
            log::info!("id={id} event=handed-over program={line:?}");
            Ok(())
        }
        // qmail-queue(8): these are for ever; 31 is what filters say.
        Ok(Some(11..=40)) => {
            log::info!("id={id} event=refused program={line:?} status={}", code.unwrap_or_default());
            Err(Refusal::Filtered)
        }
        Ok(Some(code)) => later(id, line, &format!("status {code}")),
        Ok(None) => later(id, line, "ended by a signal"),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            later(id, line, "it ran longer than before_queue_filter_timeout")
        }
        Err(error) => later(id, line, &error.to_string()),
    }
}

fn later(id: &Id, line: &str, why: &str) -> Result<(), Refusal> {
    log::error!("id={id} event=not-handed-over program={line:?} reason={why:?}");
    Err(Refusal::Trouble)
}

fn run(config: &Config, line: &str, handed: &Handed<'_>, content: &mut dyn Read) -> io::Result<Option<i32>> {
    let mut words = line.split_ascii_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    surroundings(config, command.args(words), handed.id, handed.parameters);
    if let Ok(address) = handed.client.address.parse::<IpAddr>() {
        command.env("PROTO", "TCP").env("TCPREMOTEIP", address.to_string());
        command.envs(handed.client.name.as_ref().map(|name| ("TCPREMOTEHOST", name)));
    }
    let recipients = handed.recipients.list.iter().map(|(address, _)| address);
    let envelope = envelope::written(handed.reverse_path, recipients)?;
    let started = program::start(&mut command, Some(Stdio::from(envelope)), content)?;
    let whose = format!("id={} program={line:?}", handed.id);
    program::finish(started, config.before_queue_filter_timeout.0, &whose).map(|over| over.status.code())
}

/// What a program that may hand the message back to our `qmail-queue` finds around it.
pub fn surroundings(config: &Config, command: &mut Command, id: &Id, parameters: &MailParameters) {
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C").current_dir("/");
    command.env(ID, id.as_str()).env(PARAMETERS, parameters.to_string());
    // Only where it is needed: Postfix's programs read it too.
    if config.config_directory != Path::new(crate::config::load::DEFAULT_FOLDER) {
        let folder = std::path::absolute(&config.config_directory);
        command.env("MAIL_CONFIG", folder.unwrap_or_else(|_| config.config_directory.clone()));
    }
}

/// What a program that was started with these surroundings finds of them: nothing, where somebody else calls.
pub fn said() -> MailParameters {
    let text = std::env::var(PARAMETERS).unwrap_or_default();
    MailParameters::from_text(text.as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// What came of a message, and what the script wrote to `$out`.
    fn handed_to(script: &str, more: &[(&str, &str)]) -> (Result<Vec<usize>, Refusal>, String) {
        let folder = tempfile::tempdir().unwrap();
        let (program, out) = (folder.path().join("program"), folder.path().join("out"));
        std::fs::write(&program, format!("out={}\n{script}\n", out.display())).unwrap();
        let line = format!("qmail-queue:/bin/sh {}", program.display());
        let config = Config::with(&[&[("before_queue_filter", &*line)], more].concat());
        let mut recipients = Recipients::default();
        for address in ["bob@mx.example", "carol@mx.example"] {
            assert!(
                recipients.add(&Address::from_internal(address.as_bytes()).unwrap(), &RecipientParameters::default())
            );
        }
        let handed = Handed {
            id: &Id::new(std::time::SystemTime::now()),
            reverse_path: &ReversePath::from_internal(b"alice@mx.example").unwrap(),
            parameters: &MailParameters::from_text(b"REQUIRETLS").unwrap(),
            recipients,
            client: &Client { helo: None, name: None, address: "192.0.2.1".to_owned(), tls: None },
        };
        let outcome = hand_over(&config, &handed, &mut &b"Subject: x\n\nbody\n"[..]);
        (outcome, std::fs::read_to_string(out).unwrap_or_default())
    }

    #[test]
    fn the_program_gets_message_and_envelope_and_knows_who_sent_it() {
        let (outcome, out) = handed_to("cat >$out; cat <&1 >>$out; echo $TCPREMOTEIP $DOORPOST_PARAMETERS >>$out", &[]);
        assert_eq!(outcome, Ok(vec![]));
        let envelope = "Falice@mx.example\0Tbob@mx.example\0Tcarol@mx.example\0\0";
        assert_eq!(out, format!("Subject: x\n\nbody\n{envelope}192.0.2.1 REQUIRETLS\n"));
    }

    #[test]
    fn its_status_decides_and_silence_is_no_consent() {
        for (script, expected) in [
            ("exit 31", Err(Refusal::Filtered)),
            ("exit 11", Err(Refusal::Filtered)),
            ("exit 71", Err(Refusal::Trouble)),
            ("exit 1", Err(Refusal::Trouble)),
            ("kill -9 $$", Err(Refusal::Trouble)),
        ] {
            assert_eq!(handed_to(script, &[]).0, expected, "{script}");
        }
        let start = Instant::now();
        let slow = handed_to("sleep 100 & sleep 100", &[("before_queue_filter_timeout", "1s")]).0;
        assert_eq!(slow, Err(Refusal::Trouble));
        assert!(start.elapsed().as_secs() < 20);
    }
}
