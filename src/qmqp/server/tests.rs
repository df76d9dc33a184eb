use super::*;
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::net::peer::Origin;
use crate::submit::{Outcome, Refusal, Submit, Verdict};
use crate::wire::netstring::put;
use std::cell::RefCell;
use std::rc::Rc;

/// A client made of memory: what it sends, in pieces; how its input ends; what it got.
struct Memory {
    pieces: Vec<Vec<u8>>,
    end: fn() -> Result<usize, Fault>,
    takes_reply: bool,
    got: Vec<u8>,
    finished: bool,
}

impl Memory {
    fn new(input: &[u8], piece: usize) -> Memory {
        let pieces = input.chunks(piece).rev().map(<[u8]>::to_vec).collect();
        Memory { pieces, end: || Ok(0), takes_reply: true, got: Vec::new(), finished: false }
    }
}

impl Stream for Memory {
    fn allow(&mut self, _time: Duration) {}
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let Some(piece) = self.pieces.pop() else { return (self.end)() };
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
    fn send(&mut self, octets: &[u8]) -> Result<(), Fault> {
        self.got.extend_from_slice(octets);
        if self.takes_reply { Ok(()) } else { Err(Fault::HungUp) }
    }
    fn finish(&mut self) {
        self.finished = true;
    }
}

/// A queue made of memory, and the order of the calls.
#[derive(Default)]
struct Said {
    calls: Vec<&'static str>,
    channel: String,
    content: Vec<u8>,
    reverse_path: Vec<u8>,
    recipients: Vec<Vec<u8>>,
}

#[derive(Clone)]
struct Pretend {
    said: Rc<RefCell<Said>>,
    outcome: Outcome,
    verdict: Verdict,
    broken: bool,
}

impl Pretend {
    fn new() -> Pretend {
        let outcome = Outcome::Queued("4xyz".to_owned());
        Pretend { said: Rc::default(), outcome, verdict: Verdict::Accepted, broken: false }
    }
}

impl Submit for Pretend {
    fn introduce(&mut self, introduction: &Introduction) -> Result<(), Error> {
        assert_eq!((introduction.policy, introduction.protocol), (Policy::Anywhere, Protocol::Qmqp));
        self.said.borrow_mut().calls.push("introduce");
        self.said.borrow_mut().channel.clone_from(&introduction.channel);
        Ok(())
    }
    fn verify(&mut self, _address: &Address) -> Result<Verdict, Error> {
        unreachable!("QMQP has no VRFY")
    }
    fn reverse_path_with(&mut self, path: &ReversePath, _said: &MailParameters) -> Result<(), Error> {
        let mut said = self.said.borrow_mut();
        said.calls.push("reverse_path");
        said.reverse_path = path.as_bytes().to_vec();
        Ok(())
    }
    fn recipient_with(&mut self, _address: &Address, _said: &RecipientParameters) -> Result<Verdict, Error> {
        unreachable!("QMQP has one answer for all")
    }
    fn content(&mut self, octets: &[u8]) -> Result<(), Error> {
        let mut said = self.said.borrow_mut();
        if said.content.is_empty() {
            said.calls.push("content");
        }
        said.content.extend_from_slice(octets);
        if self.broken { Err(Error::Temporary("submit is gone".to_owned())) } else { Ok(()) }
    }
    fn commit(&mut self) -> Result<Outcome, Error> {
        self.said.borrow_mut().calls.push("commit");
        Ok(match &self.verdict {
            Verdict::Accepted => self.outcome.clone(),
            verdict => Outcome::Refused(Refusal::Recipient(verdict.clone())),
        })
    }
    fn reset(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl AllOrNothing for Pretend {
    fn require(&mut self, address: &Address) -> Result<(), Error> {
        let mut said = self.said.borrow_mut();
        said.calls.push("recipient");
        said.recipients.push(address.as_bytes().to_vec());
        Ok(())
    }
}

fn package() -> Vec<u8> {
    let mut inside = Vec::new();
    for part in [&b"Subject: x\n\nhello\n"[..], b"a@client.example", b"b@mx.example", b"c@elsewhere.example"] {
        put(&mut inside, part);
    }
    let mut whole = Vec::new();
    put(&mut whole, &inside);
    whole
}

fn play(memory: &mut Memory, submit: &Pretend, settings: &[(&str, &str)]) -> Result<Ended, Error> {
    let mut all = vec![("qmqpd_authorized_clients", "stdin"), ("channels", "/nonexistent/channels")];
    all.extend_from_slice(settings);
    let config = Config::with(&all);
    let channels = Channels::load(&config).expect("the built-in lines");
    serve(memory, &config, &Peer::new(Origin::Stdin), &channels, Ok(submit.clone()))
}

fn got(memory: &Memory) -> String {
    String::from_utf8_lossy(&memory.got).into_owned()
}

#[test]
fn a_package_is_handed_on_in_its_order_and_answered_once() {
    for piece in [1, 2, 7, 1000] {
        let (mut memory, submit) = (Memory::new(&package(), piece), Pretend::new());
        assert_eq!(play(&mut memory, &submit, &[]).expect("served"), Ended::Done);
        let said = submit.said.borrow();
        assert_eq!(said.calls, ["introduce", "content", "reverse_path", "recipient", "recipient", "commit"]);
        assert_eq!(said.content, b"Subject: x\n\nhello\n");
        assert_eq!(said.reverse_path, b"a@client.example");
        assert_eq!(said.recipients, [&b"b@mx.example"[..], b"c@elsewhere.example"]);
        assert_eq!(got(&memory), "19:KOk: queued as 4xyz,");
        assert!(!memory.finished, "nothing is left to drain");
    }
}

#[test]
fn octets_behind_the_package_are_drained_not_read() {
    let (mut memory, submit) = (Memory::new(&[package(), package()].concat(), 1000), Pretend::new());
    assert_eq!(play(&mut memory, &submit, &[]).expect("served"), Ended::Done);
    assert_eq!(got(&memory), "19:KOk: queued as 4xyz,");
    assert!(memory.finished);
}

#[test]
fn an_unlisted_client_is_refused_before_anything_is_read_or_started() {
    for list in ["", "127.0.0.1", "!stdin, *"] {
        let (mut memory, submit) = (Memory::new(&package(), 1000), Pretend::new());
        let ended = play(&mut memory, &submit, &[("qmqpd_authorized_clients", list)]).expect("served");
        assert_eq!(ended, Ended::Refused, "{list}");
        assert!(got(&memory).contains(":DError: you are not authorized"), "{list}");
        assert!(memory.finished, "the refusal must not be lost");
        assert_eq!(memory.pieces.len(), 1, "nothing was read");
        assert!(submit.said.borrow().calls.is_empty());
    }
}

#[test]
fn a_client_that_leaves_early_gets_no_reply_and_nothing_is_queued() {
    let whole = package();
    for length in 0..whole.len() {
        let (mut memory, submit) = (Memory::new(&whole[..length], 10), Pretend::new());
        assert_eq!(play(&mut memory, &submit, &[]).expect("served"), Ended::HungUp);
        assert_eq!(got(&memory), "");
        assert!(!submit.said.borrow().calls.contains(&"commit"));
    }
}

#[test]
fn a_silent_client_is_told_that_it_timed_out() {
    let (mut memory, submit) = (Memory::new(b"30:1", 10), Pretend::new());
    memory.end = || Err(Fault::TimedOut);
    assert_eq!(play(&mut memory, &submit, &[]).expect("served"), Ended::TimedOut);
    assert!(got(&memory).contains(":ZError: timed out while receiving message content,"));
}

#[test]
fn a_message_over_the_limit_is_refused_before_it_is_read() {
    let (mut memory, submit) = (Memory::new(b"100000:90000:xxxxxxxxxxxxxxx", 13), Pretend::new());
    play(&mut memory, &submit, &[("message_size_limit", "1000")]).expect("served");
    assert_eq!(got(&memory), "25:DError: message too large,");
    assert!(memory.finished);
    assert_eq!(submit.said.borrow().calls, ["introduce"]);
}

#[test]
fn a_recipient_that_is_not_taken_refuses_the_message() {
    let (mut memory, mut submit) = (Memory::new(&package(), 1000), Pretend::new());
    submit.verdict = Verdict::CannotTell;
    assert_eq!(play(&mut memory, &submit, &[]).expect("served"), Ended::Refused);
    assert!(got(&memory).contains(":ZError"));
}

#[test]
fn a_refusal_of_the_queue_is_the_reply() {
    for (refusal, reply) in [
        (Refusal::NoRoom, "36:ZError: no room for the message now,"),
        (Refusal::TooManyHops, "21:DError: too many hops,"),
    ] {
        let (mut memory, mut submit) = (Memory::new(&package(), 1000), Pretend::new());
        submit.outcome = Outcome::Refused(refusal);
        assert_eq!(play(&mut memory, &submit, &[]).expect("served"), Ended::Refused);
        assert!(got(&memory).ends_with(&reply[3..]), "{}", got(&memory));
    }
}

#[test]
fn trouble_on_our_side_is_z_and_an_error_for_the_log() {
    let (mut memory, mut submit) = (Memory::new(&package(), 1000), Pretend::new());
    submit.broken = true;
    assert!(matches!(play(&mut memory, &submit, &[]), Err(Error::Temporary(_))));
    assert!(got(&memory).contains(":ZError: queue file write error,"));
    assert!(memory.finished);
}

#[test]
fn soft_bounce_answers_later_where_it_would_be_never() {
    let (mut memory, submit) = (Memory::new(b"x", 1000), Pretend::new());
    play(&mut memory, &submit, &[("soft_bounce", "yes")]).expect("served");
    assert!(got(&memory).contains(":Znetstring format error while receiving QMQP packet header,"));
}

#[test]
fn a_client_gone_before_the_reply_is_no_failure_of_ours() {
    let (mut memory, submit) = (Memory::new(&package(), 1000), Pretend::new());
    memory.takes_reply = false;
    assert_eq!(play(&mut memory, &submit, &[]).expect("served"), Ended::HungUp);
}

#[test]
fn no_session_lasts_longer_than_an_hour_and_no_pause_longer_than_ten_seconds() {
    for (daemon, error, longest_session, pause) in
        [("18000s", "1h", 3600, 10), ("3601s", "11s", 3600, 10), ("59m", "9s", 3540, 9), ("1s", "0", 1, 0)]
    {
        let config = Config::with(&[("daemon_timeout", daemon), ("qmqpd_error_delay", error)]);
        assert_eq!(longest(&config), Duration::from_secs(longest_session), "{daemon}");
        assert_eq!(delay(&config), Duration::from_secs(pause), "{error}");
    }
}
