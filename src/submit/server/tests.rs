//! The dialogue, and what one client leaves for the next.

use super::*;
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::submit::receiver::tests::{Site, address, alice, introduction, text};
use crate::submit::{Policy, Refusal, Verdict};

#[test]
fn frames_that_are_none_end_the_connection() {
    let (site, common) = (Site::with(&[]), Common::default());
    for nonsense in [&b"GET / HTTP/1.0\r\n"[..], b"1:Z,", b"0:,", b"99999999:", b"2:EE,", b"2:V\n,"] {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(nonsense).unwrap();
        assert!(
            matches!(serve(&site.config, &common, &mut Premises::default(), far), Err(Error::Connection(_))),
            "{nonsense:?}"
        );
    }
    let (near, far) = UnixStream::pair().unwrap();
    drop(near);
    assert!(matches!(serve(&site.config, &common, &mut Premises::default(), far), Ok(Ended::Done)));
}

/// What a server says on the connection that it keeps from client to client, in one write; gives the answers.
fn said_at_once(site: &Site, requests: &[Request<'_>]) -> Vec<Reply> {
    let (mut near, far) = UnixStream::pair().unwrap();
    let mut octets = Vec::new();
    requests.iter().for_each(|request| request.put(&mut octets));
    near.write_all(&octets).unwrap();
    near.shutdown(std::net::Shutdown::Write).unwrap();
    serve(&site.config, &Common::default(), &mut Premises::default(), far).unwrap();
    let (mut reader, mut replies, mut answers) = (FrameReader::default(), Vec::new(), Vec::new());
    near.read_to_end(&mut answers).unwrap();
    let mut rest = &answers[..];
    while !rest.is_empty() {
        let (taken, payload) = reader.push(rest).unwrap();
        replies.extend(payload.map(|payload| Reply::decode(payload).unwrap()));
        rest = &rest[taken..];
    }
    replies
}

#[test]
fn nothing_of_a_client_is_left_for_the_next_one_on_the_same_connection() {
    let site = Site::with(&[]);
    let plain = || MailParameters::default();
    let introduce = || Request::Introduce(introduction(Policy::Channels));
    let to = |name: &str| Request::Recipient(address(name), RecipientParameters::default());
    let replies = said_at_once(
        &site,
        &[
            introduce(),
            Request::Attribute("content_filter".to_owned(), "smtp:[127.0.0.1]:1".to_owned()),
            Request::ReversePath(alice(), MailParameters { smtputf8: true, ..plain() }),
            to("bob@mx.example"),
            Request::Content(b"of the first one\n"),
            introduce(),
            Request::Commit,
            introduce(),
            Request::ReversePath(alice(), plain()),
            to("carol@mx.example"),
            Request::Content(b"of the third one\n"),
            Request::Commit,
        ],
    );
    let taken = Reply::Verdict(Verdict::Accepted);
    assert!(
        matches!(&replies[..], [first, Reply::Outcome(Outcome::Refused(Refusal::NoRecipients)), third,
            Reply::Outcome(Outcome::Queued(_))] if *first == taken && *third == taken),
        "{replies:?}"
    );
    let queued = site.queued();
    assert_eq!((queued.len(), site.files()), (1, 1));
    assert_eq!(queued[0].recipients[0].address, address("carol@mx.example"));
    assert_eq!(queued[0].attribute("content_filter"), None);
    assert!(text(&queued[0]).ends_with("of the third one\n"));
}

#[test]
fn what_channels_say_holds_for_the_next_client_on_the_same_connection() {
    let site = Site::with(&[]);
    let (mut near, far) = UnixStream::pair().unwrap();
    near.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&site.config, &Common::default(), &mut Premises::default(), far).unwrap());
        for (domains, expected) in [("$myhostname,elsewhere.example", "2:va,"), ("$myhostname", "2:vh,")] {
            let channels = format!("local 127.0.0.0/8 {domains} mailbox: *\nsmtp * - - *\n");
            std::fs::write(&site.config.channels, channels).unwrap();
            let mut octets = Vec::new();
            Request::Introduce(introduction(Policy::Channels)).put(&mut octets);
            Request::Verify(address("bob@elsewhere.example")).put(&mut octets);
            near.write_all(&octets).unwrap();
            let mut answer = [0; 5];
            near.read_exact(&mut answer).unwrap();
            assert_eq!(std::str::from_utf8(&answer).unwrap(), expected, "{domains}");
        }
        drop(near);
    });
}
