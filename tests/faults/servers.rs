//! Messages for several recipients, small and large, by each protocol: SMTP, LMTP, QMQP, QMTP. Whatever of the server and of
//! submit behind it is killed or fails, a recipient for whom the message was taken has it, once, and who has it has the whole.
//!
//! A part of each is made in every run; see plan.rs for the whole.

use super::super::*;
use super::large;
use super::plan::Share;
use doorpost::wire::netstring;
use std::os::unix::fs::symlink;

/// The recipients.
pub const TO: [&str; 2] = ["bob", "carol"];

pub struct Protocol {
    program: &'static str,
    /// A session with one message for all of them.
    session: fn(&str) -> Vec<u8>,
    /// For whom it was taken, by what the server has said.
    pub taken_for: fn(&str) -> Vec<&'static str>,
}

pub const SMTP: Protocol = Protocol {
    program: "exec $MAIL_CONFIG/smtpsrvr",
    session: |body| dialogue("EHLO", body),
    taken_for: |said| {
        let is_taken = said.contains("\r\n250 2.0.0 Ok: queued as ");
        if is_taken { accepted(said, &TO) } else { Vec::new() }
    },
};

const LMTP: Protocol = Protocol {
    program: "exec $MAIL_CONFIG/lmtpsrvr",
    session: |body| dialogue("LHLO", body),
    taken_for: |said| {
        // Each recipient that was accepted has an answer to the message.
        let answers = said.split_once("\r\n354 ").map_or("", |(_, behind)| behind).split("\r\n").skip(1);
        let is_taken = |(_, answer): &(&str, &str)| answer.starts_with("250 2.0.0 Ok: queued as ");
        accepted(said, &TO).into_iter().zip(answers).filter(is_taken).map(|(user, _)| user).collect()
    },
};

pub const QMQP: Protocol = Protocol {
    program: "exec $MAIL_CONFIG/qmqpd",
    session: |body| {
        netstrings(&[&netstrings(&[body.as_bytes(), b"alice@mx.example", b"bob@mx.example", b"carol@mx.example"])])
    },
    taken_for: |said| if said.contains(":KOk: queued as ") { TO.into() } else { Vec::new() },
};

const QMTP: Protocol = Protocol {
    program: "exec $MAIL_CONFIG/qmtpd",
    session: |body| {
        let to = netstrings(&[b"bob@mx.example", b"carol@mx.example"]);
        netstrings(&[format!("\n{body}").as_bytes(), b"alice@mx.example", &to])
    },
    taken_for: |said| {
        let mut rest = said;
        let answers = std::iter::from_fn(|| {
            let (length, behind) = rest.split_once(':')?;
            let (answer, behind) = behind.split_at_checked(length.parse().ok()?)?;
            rest = behind.strip_prefix(',')?;
            Some(answer)
        });
        TO.into_iter().zip(answers).filter(|(_, answer)| answer.starts_with('K')).map(|(user, _)| user).collect()
    },
};

fn dialogue(hello: &str, body: &str) -> Vec<u8> {
    let body = body.replace("\n.", "\n..").replace('\n', "\r\n");
    let to = TO.map(|user| format!("RCPT TO:<{user}@mx.example>\r\n")).concat();
    format!("{hello} client.example\r\nMAIL FROM:<alice@mx.example>\r\n{to}DATA\r\n{body}.\r\nQUIT\r\n").into()
}

fn netstrings(parts: &[&[u8]]) -> Vec<u8> {
    let mut whole = Vec::new();
    parts.iter().for_each(|part| netstring::put(&mut whole, part));
    whole
}

/// Which of these recipients, the last that were named before DATA, were accepted.
pub fn accepted<'a>(said: &str, to: &[&'a str]) -> Vec<&'a str> {
    let before = said.split("\r\n354 ").next().unwrap_or_default();
    let replies: Vec<_> = before.rsplit("\r\n").take(to.len()).collect();
    let is_accepted = |(_, reply): &(&&str, &&str)| reply.starts_with("250 2.1.5 ");
    to.iter().zip(replies.iter().rev()).filter(is_accepted).map(|(user, _)| *user).collect()
}

/// An installation where each program has a name of its own.
pub fn prepared() -> Scratch {
    let scratch = receiving();
    for (name, program) in [("smtpsrvr", "smtpsrvr"), ("lmtpsrvr", "smtpsrvr"), ("qmqpd", "qmqpd"), ("qmtpd", "qmqpd")]
    {
        symlink(common::binary(program), scratch.path().join(name)).expect("a link");
    }
    scratch
}

impl Protocol {
    pub fn case(&self, body: &str) -> Case {
        Case { program: self.program, traced: Traced::Family, input: (self.session)(body) }
    }

    fn matrix(&self, body: &str, least: [usize; 2]) {
        let case = self.case(body);
        let taken_for = |output: &Output| (self.taken_for)(&String::from_utf8_lossy(&output.stdout));
        let (_, plain) = case.run(&prepared(), None);
        assert_eq!(taken_for(&plain), TO, "{}: {plain:?}", self.program);
        case.kill_and_fail(Share::Few, least, &prepared, &|scratch, output, what| {
            scratch.deliver();
            each_has_it_once(scratch, body, what);
            for user in taken_for(output) {
                assert_eq!(scratch.mail(user).len(), 1, "{what}: acknowledged for {user} and lost: {output:?}");
            }
        });
    }
}

/// All that is in the mailboxes is whole, and there once; and nothing is left over.
pub fn each_has_it_once(scratch: &Scratch, body: &str, what: &str) {
    for user in TO {
        let mail = scratch.mail(user);
        assert!(mail.len() <= 1, "{what}: {} copies for {user}", mail.len());
        assert!(mail.iter().all(|mail| mail.ends_with(body.as_bytes())), "{what}: torn for {user}");
        assert!(mail.iter().all(|mail| mail.starts_with(b"Return-Path: <alice@mx.example>\n")), "{what}: for {user}");
        assert_eq!(files(&scratch.maildir(user).join("tmp")), Vec::<PathBuf>::new(), "{what}: left for {user}");
    }
    assert_eq!(scratch.queued().len(), 0, "{what}: left in the queue");
    nothing_left_over(scratch, what);
}

#[test]
fn lmtpsrvr_killed_or_failing_anywhere_keeps_what_was_taken_for_each_recipient() {
    LMTP.matrix(BODY, [270, 160]);
}

#[test]
fn qmtpd_killed_or_failing_anywhere_keeps_what_was_taken_for_each_recipient() {
    QMTP.matrix(BODY, [260, 155]);
}

#[test]
fn a_large_message_for_several_by_smtp_is_whole_or_not_there() {
    SMTP.matrix(large::body(), [300, 180]);
}

#[test]
fn a_large_message_for_several_by_lmtp_is_whole_or_not_there() {
    LMTP.matrix(large::body(), [300, 180]);
}

#[test]
fn a_large_message_for_several_by_qmqp_is_whole_or_not_there() {
    QMQP.matrix(large::body(), [250, 145]);
}
