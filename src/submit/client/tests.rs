use super::way::KEPT;
use super::way::kept;
use super::*;
use crate::message::trace::{Client, Protocol};
use crate::submit::Policy;
use std::time::Duration;

fn pair() -> (Submitter<'static>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    (Submitter::over(Some(ours), None), theirs)
}

fn introduction() -> Introduction {
    let client = Client { helo: None, name: None, address: "192.0.2.1".to_owned(), tls: None };
    Introduction { channel: "local".to_owned(), policy: Policy::Anywhere, protocol: Protocol::Qmqp, client }
}

/// The kinds of the frames that have arrived.
fn kinds(stream: &mut UnixStream) -> String {
    let (mut reader, mut kinds, mut octets) = (FrameReader::default(), String::new(), Vec::new());
    let _ = stream.read_to_end(&mut octets);
    let mut rest = &octets[..];
    while !rest.is_empty() {
        let (taken, payload) = reader.push(rest).unwrap();
        kinds.extend(payload.map(|payload| char::from(payload[0])));
        rest = &rest[taken..];
    }
    kinds
}

fn answer(stream: &mut UnixStream, reply: &Reply) {
    let mut octets = Vec::new();
    reply.put(&mut octets);
    stream.write_all(&octets).unwrap();
}

#[test]
fn nothing_is_sent_before_an_answer_is_needed() {
    let (mut submitter, mut far) = pair();
    submitter.introduce(&introduction()).unwrap();
    submitter.reverse_path(&ReversePath::NULL).unwrap();
    submitter.content(b"x\n").unwrap();
    submitter.reset().unwrap();
    assert_eq!(kinds(&mut far), "");
    submitter.reverse_path(&ReversePath::NULL).unwrap();
    submitter.content(b"x\n").unwrap();
    submitter.content(b"y\n").unwrap();
    answer(&mut far, &Reply::Outcome(Outcome::Queued("1".to_owned())));
    assert_eq!(submitter.commit().unwrap(), Outcome::Queued("1".to_owned()));
    assert_eq!(kinds(&mut far), "IFCE");
    submitter.reset().unwrap();
    assert_eq!(kinds(&mut far), "");
}

#[test]
fn attributes_follow_the_introduction() {
    let (mut submitter, mut far) = pair();
    submitter.attributes = vec![("content_filter".to_owned(), "scan:".to_owned())];
    submitter.introduce(&introduction()).unwrap();
    submitter.content(b"x\n").unwrap();
    answer(&mut far, &Reply::Outcome(Outcome::Queued("1".to_owned())));
    submitter.commit().unwrap();
    assert_eq!(kinds(&mut far), "IACE");
}

#[test]
fn a_message_that_was_begun_is_abandoned_by_reset() {
    let (mut submitter, mut far) = pair();
    submitter.reverse_path(&ReversePath::NULL).unwrap();
    answer(&mut far, &Reply::Verdict(Verdict::Accepted));
    let address = Address::from_internal(b"bob").unwrap();
    assert_eq!(submitter.recipient(&address).unwrap(), Verdict::Accepted);
    submitter.reset().unwrap();
    assert_eq!(kinds(&mut far), "FRX");
}

#[test]
fn a_whole_package_waits_for_one_answer() {
    let (mut submitter, mut far) = pair();
    submitter.content(b"x\n").unwrap();
    submitter.reverse_path(&ReversePath::NULL).unwrap();
    let address = Address::from_internal(b"bob").unwrap();
    submitter.require(&address).unwrap();
    submitter.require(&address).unwrap();
    assert_eq!(kinds(&mut far), "");
    let outcome = Outcome::Refused(super::super::Refusal::Recipient(Verdict::UnknownUser));
    answer(&mut far, &Reply::Outcome(outcome.clone()));
    assert_eq!(submitter.commit().unwrap(), outcome);
    assert_eq!(kinds(&mut far), "CFNNE");
}

#[test]
fn large_content_goes_in_frames_the_other_end_takes() {
    let (mut submitter, mut far) = pair();
    let big = vec![b'x'; 3 * LONGEST_CONTENT / 2];
    let reader = std::thread::spawn(move || {
        far.set_nonblocking(false).unwrap();
        kinds(&mut far)
    });
    submitter.content(&big).unwrap();
    submitter.content(&big).unwrap();
    submitter.reset().unwrap();
    drop(submitter);
    assert_eq!(reader.join().unwrap(), "CCCCX");
}

#[test]
fn after_a_lost_answer_nothing_is_believed() {
    let (mut submitter, mut far) = pair();
    submitter.stream().unwrap().set_read_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
    let address = Address::from_internal(b"bob").unwrap();
    assert!(submitter.recipient(&address).is_err());
    answer(&mut far, &Reply::Verdict(Verdict::Accepted));
    assert!(submitter.recipient(&address).is_err());
    assert!(submitter.commit().is_err());
}

/// A session on a connection to the socket, with the other end; `age` is that of the connection.
fn session(age: Duration) -> (Submitter<'static>, UnixStream) {
    let (mut submitter, far) = pair();
    submitter.since = Instant::now().checked_sub(age);
    (submitter, far)
}

#[test]
fn the_next_session_has_a_connection_on_which_everything_was_answered_and_no_other() {
    let address = Address::from_internal(b"bob").unwrap();
    let recipient = |submitter: &mut Submitter<'_>, far: &mut UnixStream| {
        answer(far, &Reply::Verdict(Verdict::Accepted));
        submitter.introduce(&introduction()).unwrap();
        submitter.recipient(&address).unwrap();
    };
    // A message that is not done, and one of which nobody knows.
    for is_reset in [false, true] {
        let (mut submitter, mut far) = session(Duration::ZERO);
        recipient(&mut submitter, &mut far);
        if is_reset {
            submitter.reset().unwrap();
        }
        drop(submitter);
        assert_eq!(kept().is_some(), is_reset);
    }
    // One that was not used is as good; one that is too old, has ended, or said what nobody asked for is not.
    drop(session(Duration::ZERO));
    assert!(kept().is_none(), "its other end is gone");
    for (age, said, is_good) in [(0, "", true), (0, "2:va,", false), (11, "", false)] {
        let (submitter, mut far) = session(Duration::from_secs(age));
        far.write_all(said.as_bytes()).unwrap();
        drop(submitter);
        assert_eq!(kept().is_some(), is_good, "{age} {said}");
    }
    for (age, is_left) in [(0, true), (11, false)] {
        let (submitter, _far) = session(Duration::from_secs(age));
        drop(submitter);
        let_go_of_old();
        assert_eq!(KEPT.lock().unwrap().is_some(), is_left, "{age}");
    }
    let (submitter, _far) = session(Duration::ZERO);
    drop(submitter);
    let_go();
    assert!(kept().is_none());
}
