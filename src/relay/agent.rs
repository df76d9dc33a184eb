//! The process that carries messages to one next hop. It is forked by deliver and holds a socket, on which it is given
//! one message after another: addresses, and the content as an open file. Of files it can open none (Landlock), so that
//! whoever takes it over through the network has no queue, no mailbox and no password file; what it needs of the system
//! it reads before.
//!
//! While it has spoken with nobody but name servers it is believed: which hosts a domain has, and which of their addresses take
//! no connection. What it says later may be what somebody has made it say, and is only about the message at hand.
//!
//! Frames: a length of four octets, then fields with a length of four octets each.

use super::Outcome;
use super::{Carried, Job, Relay, Site, Source, route};
use crate::config::Config;
use crate::message::path::{Address, ReversePath};
use crate::net::handing;
use crate::queue::Lines;
use crate::smtp::client::To;
use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus};
use nix::errno::Errno;
use nix::sys::wait::WaitStatus;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Largest frame: thousands of recipients.
const LARGEST: usize = 16 << 20;
/// So many frames come before the answer at the most.
const MOST_TOLD: u32 = 1000;

/// The agent's life: until the other end is closed.
pub fn serve(mut socket: UnixStream, config: &Config) -> u8 {
    let mut relay = Relay::new(config);
    match socket.try_clone() {
        Ok(socket) => relay.report_to(Herald { socket, has_spoken: false }),
        Err(error) => log::debug!("an agent cannot tell of silent hosts: {error}"),
    }
    confine();
    loop {
        let job = match receive(&mut socket) {
            Ok(Some(Asked::Job(job))) => job,
            Ok(Some(Asked::Home(domain))) => {
                let mut frame = Frame::default();
                frame.put(relay.home(&domain).as_bytes());
                if socket.write_all(&frame.done()).is_err() {
                    break;
                }
                continue;
            }
            Ok(None) => break,
            Err(error) => {
                log::error!("an agent for remote delivery ends: {error}");
                return 75;
            }
        };
        let carried = relay.carry(&job);
        if socket.write_all(&answer(&carried, relay.is_connected())).is_err() {
            break;
        }
    }
    relay.quit();
    0
}

/// What an agent tells while it works.
#[derive(Debug)]
pub struct Herald {
    socket: UnixStream,
    has_spoken: bool,
}

impl Herald {
    /// There is a connection, and nothing of it was read yet: nobody who is at its other end has had a say in what was told
    /// before.
    pub fn speaks(&mut self) {
        if !std::mem::replace(&mut self.has_spoken, true) {
            self.tell(b"H", b"");
        }
    }

    /// An address takes no connection, and why.
    pub fn silent(&mut self, address: &SocketAddr, why: &str) {
        if !self.has_spoken {
            self.tell(format!("X{address}").as_bytes(), why.as_bytes());
        }
    }

    fn tell(&mut self, what: &[u8], why: &[u8]) {
        let mut frame = Frame::default();
        frame.put(what).put(why);
        // Who does not hear it does not hear the answer either.
        let _ = self.socket.write_all(&frame.done());
    }
}

/// What an agent has to say of a job.
#[derive(Debug)]
pub struct Answer {
    /// What became of it.
    pub carried: Carried,
    /// It still holds a connection for another one.
    pub is_reusable: bool,
    /// Addresses that take no connection, and why: those it met before it spoke with anybody.
    pub silent: Vec<(String, String)>,
}

/// Has a job done by an agent.
pub fn ask(socket: &mut UnixStream, job: &Job) -> io::Result<Answer> {
    let frame = job_frame(job);
    send(socket, &frame, Some(job.source.file.as_fd()))?;
    let (mut silent, mut has_spoken) = (Vec::new(), false);
    for _ in 0..MOST_TOLD {
        let mut length = [0; 4];
        socket.read_exact(&mut length)?;
        let frame = body(socket, length)?;
        match told(&frame) {
            Some(Told::Speaks) => has_spoken = true,
            Some(Told::Silent(address, why)) if !has_spoken => silent.push((address, why)),
            Some(Told::Silent(..)) => {}
            None => {
                let (carried, is_reusable) = read_answer(&frame, job.to.len()).ok_or(io::ErrorKind::InvalidData)?;
                return Ok(Answer { carried, is_reusable, silent });
            }
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Has a new agent find out which hosts take the mail of a domain, in a form in which the same hosts are the same text. Empty:
/// there are none. From then on it connects to no others.
pub fn home(socket: &mut UnixStream, domain: &str) -> io::Result<String> {
    let mut frame = Frame::default();
    frame.put(domain.as_bytes());
    send(socket, &frame.done(), None)?;
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let home = Fields(&body(socket, length)?).text();
    Ok(home.filter(|home| home.len() <= route::LONGEST_HOME && !home.contains(char::is_control)).unwrap_or_default())
}

fn send(socket: &mut UnixStream, frame: &[u8], with: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let (head, rest) = frame.split_at(4.min(frame.len()));
    handing::send(&*socket, &[head], with.as_slice())?;
    socket.write_all(rest)
}

/// What an agent is asked for.
enum Asked {
    Job(Job),
    /// The hosts of this domain.
    Home(String),
}

enum Told {
    Speaks,
    Silent(String, String),
}

/// A frame that is not the answer yet.
fn told(frame: &[u8]) -> Option<Told> {
    let mut fields = Fields(frame);
    match fields.next()?.split_first()? {
        (b'H', _) => Some(Told::Speaks),
        (b'X', address) => {
            let address: SocketAddr = std::str::from_utf8(address).ok()?.parse().ok()?;
            let why = crate::logging::clean(fields.next()?, 100);
            why.starts_with("4.").then(|| Told::Silent(address.to_string(), why))
        }
        _ => None,
    }
}

/// No file can be opened from here on, no program started from one, and nothing listened on. Where the kernel cannot do
/// that, mail goes on, and the log says it once a process, at level debug; where it can and was told not to, as a warning.
fn confine() {
    Errno::clear();
    let rules = Ruleset::default();
    // The crate takes any error of the probe for a kernel that cannot. That would answer otherwise than a filter of calls.
    let is_forbidden = Errno::last() == Errno::EPERM;
    let confined = rules
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|rules| rules.handle_access(AccessNet::BindTcp))
        .and_then(|rules| rules.create())
        .and_then(|rules| rules.restrict_self());
    match confined.map(|status| status.ruleset) {
        Ok(RulesetStatus::FullyEnforced) => {}
        Ok(_) if is_forbidden => {
            log::warn!(
                "the agent is not confined: landlock_create_ruleset is forbidden, as by SystemCallFilter of a unit"
            );
        }
        Ok(status) => log::debug!("the agent is not wholly confined: {status:?}"),
        Err(error) => log::warn!("the agent is not confined: {error}"),
    }
}

/// Logs how a process ended that did not end well, an agent or another: at the other end of its socket nobody sees why it is
/// silent.
pub fn log_end(name: &str, status: WaitStatus) {
    match status {
        WaitStatus::Exited(pid, code @ 1..) => log::error!("process={name} event=ended pid={pid} status={code}"),
        WaitStatus::Signaled(pid, signal, _) => log::error!("process={name} event=killed pid={pid} signal={signal}"),
        _ => {}
    }
}

/// Puts fields together.
#[derive(Default)]
struct Frame(Vec<u8>);

impl Frame {
    fn put(&mut self, field: &[u8]) -> &mut Frame {
        self.0.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.extend_from_slice(field);
        self
    }

    fn done(self) -> Vec<u8> {
        let mut whole = Frame::default();
        whole.put(&self.0);
        whole.0
    }
}

/// Takes fields apart.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let (field, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        self.0 = rest;
        Some(field)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.next()?.to_vec()).ok()
    }
}

fn job_frame(job: &Job) -> Vec<u8> {
    let is_exact = job.source.lines == Lines::Exact;
    let flags = [job.binary, job.smtputf8, job.requiretls, job.is_filtered, is_exact].map(u8::from);
    let mut frame = Frame::default();
    for text in [&job.id, &job.transport, &job.next_hop, &job.domain, &job.dsn, &job.silent] {
        frame.put(text.as_bytes());
    }
    frame.put(job.sender.as_bytes()).put(&flags);
    frame.put(&job.source.start.to_be_bytes()).put(&job.source.size.to_be_bytes());
    for to in &job.to {
        frame.put(to.address.as_bytes()).put(to.dsn.as_bytes());
    }
    frame.done()
}

fn read_job(frame: &[u8], file: File) -> Option<Job> {
    let mut fields = Fields(frame);
    let (id, transport, next_hop) = (fields.text()?, fields.text()?, fields.text()?);
    let (domain, dsn, silent) = (fields.text()?, fields.text()?, fields.text()?);
    let sender = ReversePath::from_internal(fields.next()?).ok()?;
    let &[binary, smtputf8, requiretls, is_filtered, exact] = fields.next()? else { return None };
    let number = |field: &[u8]| Some(u64::from_be_bytes(field.try_into().ok()?));
    let (start, size) = (number(fields.next()?)?, number(fields.next()?)?);
    let lines = if exact == 1 { Lines::Exact } else { Lines::Lf };
    let mut to = Vec::new();
    while !fields.0.is_empty() {
        to.push(To { address: Address::from_internal(fields.next()?).ok()?, dsn: fields.text()? });
    }
    let source = Source { file, start, size, lines };
    let (binary, smtputf8, requiretls, is_filtered) = (binary == 1, smtputf8 == 1, requiretls == 1, is_filtered == 1);
    Some(Job {
        id,
        transport,
        next_hop,
        domain,
        sender,
        to,
        binary,
        smtputf8,
        requiretls,
        is_filtered,
        dsn,
        silent,
        source,
    })
}

fn answer(carried: &Carried, is_connected: bool) -> Vec<u8> {
    let mut frame = Frame::default();
    match &carried.site {
        Site::Answers => frame.put(b"A"),
        Site::Silent(why) => frame.put(format!("S{why}").as_bytes()),
        Site::Never(why) => frame.put(format!("N{why}").as_bytes()),
    };
    frame.put(&[u8::from(is_connected)]);
    for outcome in &carried.outcomes {
        let (kind, text) = match outcome {
            Outcome::Delivered(_) | Outcome::Listed => ('K', "2.0.0 delivered"),
            Outcome::Relayed(text) | Outcome::Expanded(text) => ('K', text.as_str()),
            Outcome::PassedOn(text) | Outcome::Replaced(text) => ('P', text.as_str()),
            Outcome::Deferred(text) => ('Z', text.as_str()),
            Outcome::Failed(text) => ('D', text.as_str()),
        };
        frame.put(format!("{kind}{text}").as_bytes());
    }
    frame.done()
}

/// Whoever speaks with the network is not believed: each text is cleaned, and its status code must fit its kind.
fn read_answer(frame: &[u8], recipients: usize) -> Option<(Carried, bool)> {
    let mut fields = Fields(frame);
    let mut carried = Carried::new(0);
    carried.site = match fields.next()?.split_first()? {
        (b'A', _) => Site::Answers,
        (b'S', why) if why.starts_with(b"4.") => Site::Silent(crate::logging::clean(why, 300)),
        (b'N', why) if why.starts_with(b"5.") => Site::Never(crate::logging::clean(why, 300)),
        _ => return None,
    };
    let is_connected = fields.next()? == [1];
    while let Some(field) = fields.next() {
        let (kind, text) = field.split_first()?;
        let text = crate::logging::clean(text, 500);
        carried.outcomes.push(match kind {
            b'K' => Outcome::Relayed(text),
            b'P' => Outcome::PassedOn(text),
            b'Z' => Outcome::Deferred(text),
            b'D' if text.starts_with("5.") => Outcome::Failed(text),
            _ => return None,
        });
    }
    (carried.outcomes.len() == recipients).then_some((carried, is_connected))
}

fn receive(socket: &mut UnixStream) -> io::Result<Option<Asked>> {
    let mut length = [0; 4];
    let (count, descriptors) = handing::receive(&*socket, &mut length)?;
    match (count, descriptors.into_iter().next()) {
        (0, _) => Ok(None),
        (4, Some(file)) => {
            let frame = body(socket, length)?;
            let job = read_job(&frame, File::from(file)).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Some(Asked::Job(job)))
        }
        (4, None) => {
            let frame = body(socket, length)?;
            Fields(&frame).text().map(Asked::Home).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn body(socket: &mut UnixStream, length: [u8; 4]) -> io::Result<Vec<u8>> {
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    let mut frame = Vec::new();
    if length > LARGEST || socket.take(length as u64).read_to_end(&mut frame)? != length {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        let to = |text: &[u8], dsn: &str| To { address: Address::from_internal(text).unwrap(), dsn: dsn.to_owned() };
        let file = tempfile::tempfile().unwrap();
        Job {
            id: "1".into(),
            transport: "smtp".into(),
            next_hop: "[a]:1".into(),
            domain: String::new(),
            sender: ReversePath::NULL,
            to: vec![to(b"a@b.example", ""), to(b"\xff@b.example", " NOTIFY=NEVER")],
            binary: true,
            smtputf8: false,
            requiretls: true,
            is_filtered: true,
            dsn: " RET=HDRS".into(),
            silent: "192.0.2.1:25 [::1]:25".into(),
            source: Source { file, start: 7, size: 1 << 40, lines: Lines::Exact },
        }
    }

    #[test]
    fn a_job_and_its_answer_come_back_as_they_were_and_cut_ones_not_at_all() {
        let frame = job_frame(&job());
        let read = |frame: &[u8]| read_job(frame, tempfile::tempfile().unwrap());
        assert_eq!(job_frame(&read(&frame[4..]).unwrap()), frame);
        let cut = (4..frame.len()).filter(|end| read(&frame[4..*end]).is_some()).count();
        assert!(cut <= 2, "{cut} frames that were cut are jobs: only those without the last recipients can be");
        let mut carried = Carried::new(2);
        carried.tell(0, Outcome::Relayed("mx said: 250 ok".into()));
        carried.tell(1, Outcome::Failed("5.1.1 no".into()));
        let frame = answer(&carried, true);
        let (back, is_connected) = read_answer(&frame[4..], 2).unwrap();
        assert_eq!((back.outcomes, back.site, is_connected), (carried.outcomes, Site::Answers, true));
        assert!(read_answer(&frame[4..], 3).is_none() && read_answer(&frame[4..frame.len() - 1], 2).is_none());
    }

    #[test]
    fn an_agent_cannot_fail_a_message_with_a_temporary_status() {
        let mut carried = Carried::new(1);
        carried.tell(0, Outcome::Failed("4.1.1 no".into()));
        assert!(read_answer(&answer(&carried, false)[4..], 1).is_none());
    }

    #[test]
    fn an_agent_cannot_make_others_wait_for_what_is_for_good() {
        let read = |site: Site| {
            let carried = Carried { site, ..Carried::new(1) };
            read_answer(&answer(&carried, false)[4..], 1).map(|(carried, _)| carried.site)
        };
        for site in [Site::Silent("4.4.1 no".into()), Site::Never("5.1.2 no".into())] {
            assert_eq!(read(site.clone()), Some(site));
        }
        for site in [Site::Silent("5.1.2 no".into()), Site::Never("4.4.1 no".into())] {
            assert_eq!(read(site), None);
        }
    }

    #[test]
    fn an_agent_is_believed_of_silent_hosts_until_it_speaks_with_one() {
        let (mut ours, its) = UnixStream::pair().unwrap();
        let mut herald = Herald { socket: its.try_clone().unwrap(), has_spoken: false };
        herald.silent(&"192.0.2.1:25".parse().unwrap(), "4.4.1 no answer\x07");
        herald.speaks();
        // Whoever has taken it over says what he wants.
        herald.tell(b"X192.0.2.2:25", b"4.4.1 no answer");
        herald.tell(b"H", b"");
        herald.tell(b"X192.0.2.3:25", b"4.4.1 no answer");
        let job = job();
        let frame = answer(&Carried::new(2), true);
        herald.socket.write_all(&frame).unwrap();
        let answer = ask(&mut ours, &job).unwrap();
        assert_eq!(answer.silent.len(), 1, "{answer:?}");
        assert!(answer.silent[0].0 == "192.0.2.1:25" && !answer.silent[0].1.contains('\x07'), "{answer:?}");
        for (what, why) in [(&b"Xmx.example:25"[..], &b"4.4.1 no"[..]), (b"X192.0.2.1:25", b"5.4.1 no"), (b"Y", b"")] {
            herald.tell(what, why);
            assert!(ask(&mut ours, &job).is_err());
        }
    }
}
