use super::*;
use crate::auth::gate::Right;
use crate::config::value::CommandWord;
use crate::lookup::Lookup;
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::sasl::Credentials;
use crate::submit::{Outcome, Policy, Refusal, Verdict};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::OnceLock;

/// A client in memory: what it sends comes in pieces of `step` octets, then `end`.
struct Memory {
    input: VecDeque<u8>,
    step: usize,
    end: Result<usize, Fault>,
    output: Vec<u8>,
    sends: usize,
    finished: bool,
    /// How many octets the client reads before it is gone.
    reads: usize,
    /// How often its time was renewed.
    allowed: usize,
    /// How many octets of one send it reads in time, the first time that there are as many.
    reads_in_time: Option<usize>,
}

impl Memory {
    fn new(input: &[u8], step: usize) -> Memory {
        let input = input.iter().copied().collect();
        let (reads, reads_in_time) = (usize::MAX, None);
        Memory {
            input,
            step,
            end: Ok(0),
            output: Vec::new(),
            sends: 0,
            finished: false,
            reads,
            allowed: 0,
            reads_in_time,
        }
    }
}

impl Stream for Memory {
    fn allow(&mut self, _time: Duration) {
        self.allowed += 1;
    }
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let count = self.input.len().min(self.step).min(buffer.len());
        if count == 0 {
            return std::mem::replace(&mut self.end, Ok(0));
        }
        buffer.iter_mut().zip(self.input.drain(..count)).for_each(|(to, from)| *to = from);
        Ok(count)
    }
    fn send(&mut self, octets: &[u8]) -> Result<(), Fault> {
        if self.output.len() + octets.len() > self.reads {
            return Err(Fault::HungUp);
        }
        self.output.extend_from_slice(octets);
        self.sends += 1;
        Ok(())
    }
    fn send_from(&mut self, octets: &mut &[u8]) -> Result<(), Fault> {
        if let Some((first, rest)) = self.reads_in_time.and_then(|count| octets.split_at_checked(count)) {
            (*octets, self.reads_in_time) = (rest, None);
            return self.send(first).and(Err(Fault::TimedOut));
        }
        self.send(std::mem::take(octets))
    }
    fn finish(&mut self) {
        self.finished = true;
    }
}

/// A submit in memory. Local parts say what is to happen: `nobody`, `later`, `no-room`, `broken`.
#[derive(Default)]
struct Queue {
    introductions: Vec<Introduction>,
    draft: Option<String>,
    queued: Vec<String>,
    largest_piece: usize,
    resets: usize,
    outcome: Option<Refusal>,
    /// The call that fails, and how many calls come before it.
    fails_after: Option<usize>,
    calls: usize,
}

impl Queue {
    fn call(&mut self) -> Result<(), Error> {
        self.calls += 1;
        match self.fails_after {
            Some(after) if self.calls > after => Err(Error::Temporary("planted".to_owned())),
            _ => Ok(()),
        }
    }
}

/// With what was said behind it.
fn with(path: String, said: &impl std::fmt::Display) -> String {
    format!("{path} {said}").trim_end().to_owned()
}

impl Submit for Queue {
    fn introduce(&mut self, introduction: &Introduction) -> Result<(), Error> {
        self.call()?;
        self.introductions.push(introduction.clone());
        Ok(())
    }
    fn verify(&mut self, address: &Address) -> Result<Verdict, Error> {
        self.call()?;
        Ok(match address.local_part() {
            b"nobody" => Verdict::UnknownUser,
            b"later" => Verdict::CannotTell,
            b"elsewhere" => Verdict::NotAllowed,
            b"no-room" => Verdict::TooMany,
            _ => Verdict::Accepted,
        })
    }
    fn reverse_path_with(&mut self, path: &ReversePath, said: &MailParameters) -> Result<(), Error> {
        self.call()?;
        assert!(self.draft.is_none(), "a message was begun and neither queued nor abandoned");
        self.draft = Some(with(path.to_string(), said));
        Ok(())
    }
    fn recipient_with(&mut self, address: &Address, said: &RecipientParameters) -> Result<Verdict, Error> {
        let verdict = self.verify(address)?;
        if verdict == Verdict::Accepted {
            self.draft.as_mut().expect("a message").push_str(&with(format!(" <{address}>"), said));
        }
        Ok(verdict)
    }
    fn content(&mut self, octets: &[u8]) -> Result<(), Error> {
        self.call()?;
        self.largest_piece = self.largest_piece.max(octets.len());
        self.draft.as_mut().expect("a message").push_str(&octets.escape_ascii().to_string());
        Ok(())
    }
    fn commit(&mut self) -> Result<Outcome, Error> {
        self.call()?;
        let message = self.draft.take().expect("a message");
        if let Some(refusal) = self.outcome.clone() {
            return Ok(Outcome::Refused(refusal));
        }
        self.queued.push(message);
        Ok(Outcome::Queued("4xyz".to_owned()))
    }
    fn reset(&mut self) -> Result<(), Error> {
        self.draft = None;
        self.resets += 1;
        self.call()
    }
}

struct Here(Lookup<String>);

impl Site for Here {
    fn channel(&self) -> Lookup<(String, Policy)> {
        self.0.clone().map(|channel| (channel, Policy::Channels))
    }
    fn client(&self) -> (Option<String>, String) {
        (None, "192.0.2.1".to_owned())
    }
    fn here(&self, address: &Address) -> Option<Address> {
        let address = address.or_at("mx.example");
        (address.domain() == Some(b"mx.example")).then_some(address)
    }
}

static FORBIDDEN: OnceLock<[CommandWord; 1]> = OnceLock::new();

fn settings() -> Settings<'static> {
    Settings {
        session: session::Settings {
            hostname: "mx.example",
            message_size_limit: 200_000,
            recipient_limit: 100,
            announced_recipients: 100,
            error_limit: 20,
            junk_limit: 100,
            transaction_limit: 0,
            tls: session::Tls::Never,
            dialect: session::Dialect::Smtp,
            login: session::Login::Never,
            vrfy: true,
            xclient: Listed::No,
            discarded: &[],
        },
        timeout: Duration::from_secs(300),
        min_data_rate: 500,
        line_length_limit: 2048,
        soft_bounce: false,
        forbid_early: false,
        greet_wait: Duration::ZERO,
        bare_newline: Listed::No,
        soft_errors: (10, Duration::ZERO),
        finicky: false,
        dropped: &[],
        forbidden: FORBIDDEN.get_or_init(|| [CommandWord("GET".to_owned())]),
    }
}

fn here() -> Here {
    Here(Lookup::Yes("smtp".to_owned()))
}

struct Played {
    ended: Result<Ended, Error>,
    replies: String,
    stream: Memory,
    queue: Queue,
}

fn play_with(mut stream: Memory, mut queue: Queue, site: &Here, settings: &Settings) -> Played {
    let ended = serve(&mut stream, &mut queue, site, settings, Offer::None);
    let replies = String::from_utf8(stream.output.clone()).expect("replies are ASCII");
    assert!(queue.draft.is_none(), "a message was left with submit");
    Played { ended, replies, stream, queue }
}

fn play(input: &[u8]) -> Played {
    play_with(Memory::new(input, usize::MAX), Queue::default(), &here(), &settings())
}

/// The codes of all replies, continuation lines left out.
fn codes(replies: &str) -> Vec<u16> {
    let last_line = |line: &&str| line.as_bytes().get(3) == Some(&b' ');
    replies.lines().filter(last_line).map(|line| line[..3].parse().expect("a code")).collect()
}

const MESSAGE: &[u8] = b"EHLO c.example\r\nMAIL FROM:<a@c.example>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\n\
    Subject: x\r\n\r\n..dot\r\nend\r\n.\r\nQUIT\r\n";

#[test]
fn a_message_is_queued_and_its_id_told() {
    let played = play(MESSAGE);
    assert_eq!(played.queue.queued, ["<a@c.example> <bob@mx.example>Subject: x\\n\\n.dot\\nend\\n"]);
    assert_eq!(codes(&played.replies), [220, 250, 250, 250, 354, 250, 221]);
    assert!(played.replies.contains("250 2.0.0 Ok: queued as 4xyz\r\n"), "{}", played.replies);
    assert_eq!(played.ended.unwrap(), Ended::Done);
    let introduction = &played.queue.introductions[0];
    assert_eq!((introduction.channel.as_str(), introduction.policy), ("smtp", Policy::Channels));
    assert_eq!(introduction.client.helo.as_deref(), Some(&b"c.example"[..]));
}

#[test]
fn replies_to_pipelined_commands_leave_in_one_write() {
    let played = play(MESSAGE);
    // The greeting goes out before anything is read; all else was in one piece of input.
    assert_eq!(played.stream.sends, 2, "{}", played.replies);
    let played = play_with(Memory::new(MESSAGE, 1), Queue::default(), &here(), &settings());
    assert_eq!(played.stream.sends, 7, "one a reply where input comes octet by octet");
}

#[test]
fn submit_is_introduced_again_only_when_something_changed() {
    let message = b"MAIL FROM:<>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\n.\r\n".repeat(3);
    let played = play(&[b"HELO c\r\n", &message[..], b"EHLO c\r\n", &message, b"QUIT\r\n"].concat());
    assert_eq!((played.queue.queued.len(), played.queue.introductions.len()), (6, 2));
}

#[test]
fn a_refused_recipient_leaves_the_others() {
    let played = play(
        b"MAIL FROM:<>\r\nRCPT TO:<nobody@mx.example>\r\nRCPT TO:<later@mx.example>\r\nRCPT TO:<elsewhere@x>\r\n\
          RCPT TO:<bob@mx.example>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n",
    );
    assert_eq!(codes(&played.replies), [220, 250, 550, 451, 550, 250, 354, 250, 221]);
    assert_eq!(played.queue.queued, ["<> <bob@mx.example>x\\n"]);
}

#[test]
fn vrfy_and_expn_answer_as_rcpt_would_and_say_250_only_of_mailboxes_here() {
    for verb in ["VRFY", "EXPN"] {
        let lines = ["bob", "nobody", "later@mx.example", "<bob@far.example>"].map(|to| format!("{verb} {to}\r\n"));
        let played = play(format!("{}QUIT\r\n", lines.concat()).as_bytes());
        assert_eq!(codes(&played.replies), [220, 250, 550, 451, 252, 221], "{verb}");
        assert!(played.replies.contains("250 2.1.5 <bob@mx.example>\r\n"), "{}", played.replies);
    }
}

#[test]
fn a_message_too_large_is_read_to_its_end_and_refused_and_the_next_is_taken() {
    let line = [&[b'x'; 998][..], b"\r\n"].concat();
    let begin = b"MAIL FROM:<>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\n";
    let input = [&begin[..], &line.repeat(201), b".\r\n", begin, &line.repeat(200), b".\r\nQUIT\r\n"].concat();
    let played = play(&input);
    assert_eq!(codes(&played.replies), [220, 250, 250, 354, 552, 250, 250, 354, 250, 221]);
    assert_eq!(played.queue.queued.len(), 1);
    assert!(played.queue.largest_piece <= 2 * PIECE, "{}", played.queue.largest_piece);
}

#[test]
fn one_line_longer_than_the_message_may_be_is_no_reason_to_keep_it() {
    let played = play(&[b"MAIL FROM:<>\r\nRCPT TO:<b@mx>\r\nDATA\r\n", &[b'x'; 300_000][..], b"\r\n.\r\n"].concat());
    assert_eq!(codes(&played.replies), [220, 250, 250, 354, 552]);
}

#[test]
fn bare_line_ends_are_answered_and_close_the_connection() {
    for (input, code) in [
        (&b"MAIL FROM:<>\r\nRCPT TO:<b@mx>\r\nDATA\r\nx\n.\r\nMAIL FROM:<>\r\n"[..], 550),
        (b"MAIL FROM:<>\r\nRCPT TO:<b@mx>\r\nDATA\r\nx\r.\r\n.\r\nMAIL FROM:<>\r\n", 550),
        (b"MAIL FROM:<>\r\nNOOP\nRSET\r\n", 500),
        (b"MAIL FROM:<>\r\nNOOP\rRSET\r\n", 500),
    ] {
        let played = play(input);
        assert_eq!(codes(&played.replies).last(), Some(&code), "{}", input.escape_ascii());
        assert_eq!((played.ended.unwrap(), played.stream.finished), (Ended::Refused, true));
        assert!(played.queue.queued.is_empty() && played.queue.resets == 1);
    }
}

#[test]
fn a_long_line_is_one_mistake() {
    let played = play(&[&[b'x'; 3000][..], b"\r\nNOOP\r\nQUIT\r\n"].concat());
    assert_eq!(codes(&played.replies), [220, 500, 250, 221]);
}

#[test]
fn twenty_mistakes_end_the_session() {
    let played = play(&b"FOO\r\n".repeat(30));
    let mut expected = vec![220];
    expected.extend([500; 20]);
    expected.push(421);
    assert_eq!(codes(&played.replies), expected);
    assert_eq!((played.ended.unwrap(), played.stream.finished), (Ended::Refused, true));
}

#[test]
fn timeouts_are_answered() {
    for (input, reason) in [(&b"EHLO c\r\n"[..], 421), (b"MAIL FROM:<>\r\nRCPT TO:<b@mx>\r\nDATA\r\nx\r\n", 421)] {
        let mut stream = Memory::new(input, 3);
        stream.end = Err(Fault::TimedOut);
        let played = play_with(stream, Queue::default(), &here(), &settings());
        assert_eq!(codes(&played.replies).last(), Some(&reason));
        assert_eq!((played.ended.unwrap(), played.stream.finished), (Ended::TimedOut, true));
    }
}

#[test]
fn time_is_for_a_whole_command_and_for_enough_of_a_message() {
    // Before the first command, for its reply, and before the end.
    let allowed =
        |input: &[u8], step| play_with(Memory::new(input, step), Queue::default(), &here(), &settings()).stream.allowed;
    let command = [&b"NOOP "[..], &[b'x'; 2000], b"\r\n"].concat();
    assert_eq!(allowed(&command, 1), allowed(&command, usize::MAX), "no more time for single octets");
    let message = |size| [&b"MAIL FROM:<>\r\nRCPT TO:<b@mx>\r\nDATA\r\n"[..], &vec![b'x'; size]].concat();
    // 500 octets a second over 300 s.
    assert_eq!(allowed(&message(149_000), 100), allowed(&message(1000), 100));
    assert_eq!(allowed(&message(160_000), 100), allowed(&message(1000), 100) + 1);
}

#[test]
fn strangers_are_sent_away_at_their_first_line() {
    for input in [&b"GET / HTTP/1.1\r\nHELO x\r\n"[..], b"\x16\x03\x01\x02\x00\x01no line end", b"Subject: x\r\n\r\n"] {
        let played = play(input);
        assert_eq!(codes(&played.replies), [220, 221], "{}", input.escape_ascii());
        assert_eq!((played.ended.unwrap(), played.stream.finished), (Ended::Refused, true));
    }
}

#[test]
fn when_submit_fails_at_any_call_the_client_is_put_off_and_nothing_is_acknowledged() {
    for fails_after in 0..5 {
        let queue = Queue { fails_after: Some(fails_after), ..Queue::default() };
        let played = play_with(Memory::new(MESSAGE, 64), queue, &here(), &settings());
        assert!(played.queue.queued.is_empty(), "after {fails_after} calls");
        assert!(played.replies.contains("451 4.3.0"), "after {fails_after} calls: {}", played.replies);
        assert!(!played.replies.contains("queued"), "after {fails_after} calls: {}", played.replies);
        let permanent = codes(&played.replies).iter().filter(|code| **code >= 500).count();
        assert!(fails_after < 2 || permanent == 0, "after {fails_after} calls: {}", played.replies);
    }
}

#[test]
fn every_refusal_is_answered_and_the_session_goes_on() {
    for (refusal, code) in [
        (Refusal::TooLarge, 552),
        (Refusal::TooManyHops, 554),
        (Refusal::NoRoom, 452),
        (Refusal::NoRecipients, 554),
        (Refusal::Filtered, 554),
        (Refusal::Trouble, 451),
    ] {
        let queue = Queue { outcome: Some(refusal), ..Queue::default() };
        let played = play_with(Memory::new(MESSAGE, 64), queue, &here(), &settings());
        assert_eq!(codes(&played.replies), [220, 250, 250, 250, 354, code, 221]);
    }
}

/// RFC 2033 section 4.2; also where it is not read to its end. A 421 is about the connection.
#[test]
fn by_lmtp_whatever_becomes_of_a_message_is_told_for_each_recipient() {
    let mut settings = settings();
    settings.session.dialect = session::Dialect::Lmtp;
    let text = "x".repeat(200_001);
    let large = format!("DATA\r\n{text}\r\n.\r\n");
    let large_chunk = format!("BDAT {} LAST\r\n{text}", text.len());
    let plain = "DATA\r\nx\r\n.\r\n";
    // Introduction, MAIL and RCPT are six calls.
    let fails_after = |calls| Queue { fails_after: Some(calls), ..Queue::default() };
    for (message, queue, bare_newline, said, is_closed) in [
        (plain, Queue::default(), Listed::No, "354 250 250 250", false),
        ("DATA\r\nx\n.\r\n", Queue::default(), Listed::No, "354 550 550 550", true),
        ("DATA\r\nx\ry\r\n.\r\n", Queue::default(), Listed::No, "354 550 550 550", true),
        ("DATA\r\nx\ry\r\n.\r\n", Queue::default(), Listed::Yes, "354 550 550 550", true),
        ("DATA\r\nx\n.\r\n", Queue::default(), Listed::CannotTell, "354 421", true),
        ("BDAT 2 LAST\r\nx\n", Queue::default(), Listed::No, "550 550 550", false),
        ("BDAT 1\r\n\nBDAT 1 LAST\r\nx", Queue::default(), Listed::No, "550 503 503 503", false),
        (&large, Queue::default(), Listed::No, "354 552 552 552", false),
        (&large_chunk, Queue::default(), Listed::No, "552 552 552", false),
        (plain, fails_after(6), Listed::No, "354 451 451 451", false),
        (plain, fails_after(7), Listed::No, "354 451 451 451", false),
        (
            plain,
            Queue { outcome: Some(Refusal::TooManyHops), ..Queue::default() },
            Listed::No,
            "354 554 554 554",
            false,
        ),
        (plain, Queue { outcome: Some(Refusal::Filtered), ..Queue::default() }, Listed::No, "354 554 554 554", false),
    ] {
        let rcpts = ["bob", "nobody", "alice", "carol"].map(|name| format!("RCPT TO:<{name}@mx>\r\n")).concat();
        let input = format!("LHLO c\r\nMAIL FROM:<>\r\n{rcpts}{message}NOOP\r\nQUIT\r\n");
        let settings = Settings { bare_newline, ..settings };
        let played = play_with(Memory::new(input.as_bytes(), usize::MAX), queue, &here(), &settings);
        let end = if is_closed { "" } else { " 250 221" };
        let expected = format!("220 250 250 250 550 250 250 {said}{end}");
        let said = codes(&played.replies).iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(said, expected, "{message:.40} {}", played.replies);
        assert_eq!(played.stream.finished, is_closed, "{message:.40}");
    }
}

#[test]
fn a_finicky_server_knows_its_clients_before_the_greeting() {
    let settings = Settings { finicky: true, ..settings() };
    for (answer, begins) in [
        (Lookup::Yes("local".to_owned()), "220 "),
        (Lookup::No, "421 4.7.1 "),
        (Lookup::CannotTell("dns".to_owned()), "421 4.4.3 "),
    ] {
        let played = play_with(Memory::new(b"QUIT\r\n", 64), Queue::default(), &Here(answer), &settings);
        assert!(played.replies.starts_with(begins), "{}", played.replies);
    }
}

#[test]
fn a_channel_that_cannot_be_told_puts_mail_off_and_none_refuses_it() {
    for (answer, code) in [(Lookup::No, 550), (Lookup::CannotTell("dns".to_owned()), 451)] {
        let input = Memory::new(b"EHLO c\r\nMAIL FROM:<>\r\nQUIT\r\n", 64);
        let played = play_with(input, Queue::default(), &Here(answer), &settings());
        assert_eq!(codes(&played.replies), [220, 250, code, 221]);
    }
}

#[test]
fn a_client_that_must_wait_and_does_not_is_turned_away_where_that_is_asked_for() {
    let settings = Settings { forbid_early: true, ..settings() };
    let play = |input: &[u8], step| play_with(Memory::new(input, step), Queue::default(), &here(), &settings);
    assert_eq!(codes(&play(MESSAGE, usize::MAX).replies), [220, 554]);
    let group = b"MAIL FROM:<>\r\nRCPT TO:<b@mx>\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<b@mx>\r\nDATA\r\n";
    assert_eq!(codes(&play(group, usize::MAX).replies), [220, 250, 250, 250, 250, 250, 354]);
    assert_eq!(play(MESSAGE, 1).queue.queued.len(), 1, "octet by octet nothing is seen to be early");
}

#[test]
fn soft_bounce_holds_for_the_whole_session() {
    let settings = Settings { soft_bounce: true, ..settings() };
    let input = Memory::new(b"FOO\r\nMAIL FROM:<>\r\nRCPT TO:<nobody@mx>\r\nDATA\r\nx\ry", 64);
    let played = play_with(input, Queue::default(), &here(), &settings);
    assert_eq!(codes(&played.replies), [220, 400, 250, 450, 454, 400]);
}

#[test]
fn a_client_gone_at_any_octet_leaves_all_or_nothing() {
    for length in 0..=MESSAGE.len() {
        let played = play(&MESSAGE[..length]);
        let whole = length >= MESSAGE.len() - b"QUIT\r\n".len();
        assert_eq!(played.queue.queued.len(), usize::from(whole), "gone after {length} octets");
        let ended = if length == MESSAGE.len() { Ended::Done } else { Ended::HungUp };
        assert_eq!(played.ended.unwrap(), ended, "gone after {length} octets");
    }
}

#[test]
fn a_client_that_reads_no_more_keeps_what_was_acknowledged_or_is_queued() {
    let total = play(MESSAGE).replies.len();
    for reads in 0..total {
        let mut stream = Memory::new(MESSAGE, 16);
        stream.reads = reads;
        let played = play_with(stream, Queue::default(), &here(), &settings());
        assert!(played.ended.is_ok(), "reads {reads} octets");
        assert!(played.queue.queued.len() == 1 || !played.replies.contains("queued as"));
    }
}

#[test]
fn octets_behind_quit_are_not_commands() {
    let played = play(b"QUIT\r\nMAIL FROM:<>\r\n");
    assert_eq!(codes(&played.replies), [220, 221]);
    assert!(played.stream.finished, "or the kernel would destroy the goodbye");
}

#[test]
fn a_hundred_thousand_recipients_end_in_421() {
    let rcpt = b"RCPT TO:<bob@mx.example>\r\n".repeat(100_000);
    let played = play(&[b"MAIL FROM:<>\r\n", &rcpt[..]].concat());
    let all = codes(&played.replies);
    assert_eq!(all.iter().filter(|code| **code == 250).count(), 1 + 100);
    assert_eq!(all.iter().filter(|code| **code == 452).count(), 1000 + 20);
    assert_eq!(all.last(), Some(&421));
}

#[test]
fn recipients_without_room_in_the_queue_count_as_those_over_the_limit() {
    let rcpt = b"RCPT TO:<no-room@mx.example>\r\n".repeat(100_000);
    let played = play(&[b"MAIL FROM:<>\r\nRCPT TO:<bob@mx.example>\r\n", &rcpt[..]].concat());
    let all = codes(&played.replies);
    assert_eq!(all.iter().filter(|code| **code == 452).count(), 1000 + 20);
    assert_eq!(all.last(), Some(&421));
}

/// What a smuggler varies: what stands before, around and behind the dot.
fn smuggling_variants() -> Vec<Vec<u8>> {
    let ends: [&[u8]; 12] = [
        b"\n", b"\r", b"\r\n", b"\n\r", b"\r\r\n", b"\r\n\n", b"\r\r", b"\n\n", b"\0\r\n", b"\r\0\n", b"\r\n\0",
        b"\x85",
    ];
    let mut variants = Vec::new();
    for before in ends {
        for behind in ends {
            for dots in [&b"."[..], b"..", b".\0"] {
                variants.push([before, dots, behind].concat());
            }
        }
    }
    variants
}

#[test]
fn no_way_to_write_the_end_of_a_message_makes_two_of_one() {
    let variants = smuggling_variants();
    assert!(variants.len() >= 400);
    for variant in variants.iter().filter(|variant| **variant != b"\r\n.\r\n") {
        let smuggled = b"MAIL FROM:<evil@x>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\nsmuggled\r\n.\r\n";
        let begin = b"EHLO c\r\nMAIL FROM:<a@c>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\nSubject: x\r\n\r\nbody";
        for step in [1, 7, usize::MAX] {
            let input = [&begin[..], variant, smuggled, b"QUIT\r\n"].concat();
            let played = play_with(Memory::new(&input, step), Queue::default(), &here(), &settings());
            let shown = variant.escape_ascii();
            // CRLF . CRLF inside of a variant with more around it does end the first message, as the sender wrote it.
            let real_end = input.windows(5).filter(|window| window == b"\r\n.\r\n").count();
            assert!(played.queue.queued.len() <= real_end.min(2), "{shown} in pieces of {step}");
            let ends_before = variant.windows(5).any(|window| window == b"\r\n.\r\n");
            assert!(ends_before || played.queue.queued.len() <= 1, "{shown} in pieces of {step}");
            assert!(ends_before || !played.queue.queued.iter().any(|m| m.starts_with("<evil")), "{shown}");
        }
    }
}

/// Chunks whose octets look like ends of a message, and what stands around them.
fn chunk_variants() -> Vec<(Vec<Vec<u8>>, bool)> {
    let evil: &[u8] = b"MAIL FROM:<evil@x>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\nsmuggled\r\n.\r\n";
    let ends: [&[u8]; 10] = [b"\n", b"\r", b"\r\n", b"\n\r", b"\r\r\n", b"\r\n\n", b"\0\r\n", b"\r\0\n", b"", b"\x85"];
    let mut variants = Vec::new();
    for before in ends {
        for behind in ends {
            let text = [b"x", before, b".", behind, evil].concat();
            // Whole, cut before the dot, cut behind it, octet by octet around it.
            let at = 1 + before.len();
            for cuts in [vec![], vec![at], vec![at + 1], vec![1, at, at + 1, at + 1 + behind.len()]] {
                let (mut parts, mut from) = (Vec::new(), 0);
                for cut in cuts.into_iter().chain([text.len()]) {
                    parts.push(text[from..cut].to_vec());
                    from = cut;
                }
                let clean = text.windows(2).all(|two| (two[0] == b'\r') == (two[1] == b'\n'));
                variants.push((parts, clean));
            }
        }
    }
    variants
}

#[test]
fn no_chunk_makes_two_messages_of_one() {
    let variants = chunk_variants();
    assert!(variants.len() >= 400);
    for (parts, clean) in variants {
        for binary in [false, true] {
            let body = if binary { " BODY=BINARYMIME" } else { "" };
            let mut input = format!("EHLO c\r\nMAIL FROM:<a@c>{body}\r\nRCPT TO:<bob@mx.example>\r\n").into_bytes();
            for (number, part) in parts.iter().enumerate() {
                let last = if number + 1 == parts.len() { " LAST" } else { "" };
                input.extend(format!("BDAT {}{last}\r\n", part.len()).into_bytes());
                input.extend(part);
            }
            input.extend(b"NOOP\r\nQUIT\r\n");
            for step in [1, 7, usize::MAX] {
                let played = play_with(Memory::new(&input, step), Queue::default(), &here(), &settings());
                let shown = format!("{} in pieces of {step}", input.escape_ascii());
                assert_eq!(played.queue.queued.len(), usize::from(clean || binary), "{shown}");
                assert!(!played.queue.queued.iter().any(|message| message.starts_with("<evil")), "{shown}");
                let replies = codes(&played.replies);
                assert_eq!(replies.len(), 1 + 3 + parts.len() + 2, "one for each command: {shown}\n{}", played.replies);
                assert_eq!(replies[replies.len() - 2..], [250, 221], "{shown}");
            }
        }
    }
}

#[test]
fn octets_that_a_refused_chunk_has_are_never_commands() {
    let chunk = b"RSET\r\nQUIT\r\n";
    let bdat = |last: &str| [format!("BDAT {}{last}\r\n", chunk.len()).as_bytes(), chunk].concat();
    for (begin, code) in [
        (&b""[..], 503),
        (b"MAIL FROM:<>\r\n", 503),
        (b"MAIL FROM:<>\r\nRCPT TO:<nobody@mx>\r\n", 554),
        (b"MAIL FROM:<broken@x>\r\n", 503),
    ] {
        let input = [b"EHLO c\r\n", begin, &bdat(""), &bdat(" LAST"), b"NOOP\r\n"].concat();
        let played = play(&input);
        let all = codes(&played.replies);
        assert_eq!(all[all.len() - 3..], [code, code, 250], "{}: {}", begin.escape_ascii(), played.replies);
    }
    // Too large: as long as it is announced it is read.
    let big =
        [&b"MAIL FROM:<>\r\nRCPT TO:<b@mx>\r\nBDAT 300000\r\n"[..], &[b'x'; 300_000], &bdat(" LAST"), b"NOOP\r\n"];
    assert_eq!(codes(&play(&big.concat()).replies), [220, 250, 250, 552, 503, 250]);
}

/// Found by fuzzing: which of the two mistakes was told hung on the pieces that the chunk came in.
#[test]
fn a_chunk_too_large_is_told_so_before_what_is_in_it_however_it_comes() {
    let chunk = [&b"a\rb"[..], &[b'x'; 300_000]].concat();
    let begin = b"MAIL FROM:<>\r\nRCPT TO:<b@mx>\r\nBDAT 300003 LAST\r\n";
    for step in [50, 1000, usize::MAX] {
        let input = [&begin[..], &chunk, b"NOOP\r\n"].concat();
        let played = play_with(Memory::new(&input, step), Queue::default(), &here(), &settings());
        assert_eq!(codes(&played.replies), [220, 250, 250, 552, 250], "in pieces of {step}: {}", played.replies);
    }
}

#[test]
fn a_message_in_chunks_is_that_of_data() {
    let chunked = play(
        b"MAIL FROM:<a@b> BODY=8BITMIME ENVID=x\r\nRCPT TO:<bob@mx.example> NOTIFY=NEVER\r\n\
        BDAT 3\r\na\r\nBDAT 1\r\n.BDAT 2 LAST\r\n\r\nMAIL FROM:<a@b>\r\nQUIT\r\n",
    );
    assert_eq!(codes(&chunked.replies), [220, 250, 250, 250, 250, 250, 250, 221]);
    let expected = "<a@b> BODY=8BITMIME ENVID=x <bob@mx.example> NOTIFY=NEVERa\\n.\\n";
    assert_eq!(chunked.queue.queued, [expected]);
    assert!(chunked.replies.contains("250 2.0.0 3 octets taken\r\n"), "{}", chunked.replies);
}

#[test]
fn when_submit_fails_in_a_chunk_nothing_is_acknowledged_and_the_session_goes_on() {
    let input = b"MAIL FROM:<a@b>\r\nRCPT TO:<bob@mx.example>\r\nBDAT 3\r\na\r\nBDAT 6 LAST\r\nRSET\r\nNOOP\r\n";
    for fails_after in 0..6 {
        let queue = Queue { fails_after: Some(fails_after), ..Queue::default() };
        let played = play_with(Memory::new(input, 64), queue, &here(), &settings());
        assert!(played.queue.queued.is_empty(), "after {fails_after} calls");
        let all = codes(&played.replies);
        assert_eq!((all.len(), all[all.len() - 1]), (6, 250), "after {fails_after} calls: {}", played.replies);
        assert!(!played.replies.contains("queued"), "after {fails_after} calls: {}", played.replies);
    }
}

#[test]
fn where_a_bare_newline_is_taken_it_ends_no_message() {
    let settings = Settings { bare_newline: Listed::Yes, ..settings() };
    let input = b"MAIL FROM:<a@b>\nRCPT TO:<bob@mx.example>\nDATA\nx\n.\nMAIL FROM:<evil@x>\r\n.\r\nQUIT\n";
    let played = play_with(Memory::new(input, 5), Queue::default(), &here(), &settings);
    assert_eq!(played.queue.queued, ["<a@b> <bob@mx.example>x\\n.\\nMAIL FROM:<evil@x>\\n"]);
    assert_eq!(codes(&played.replies), [220, 250, 250, 354, 250, 221]);
}

#[test]
fn a_session_takes_so_many_messages_and_no_more() {
    let mut settings = settings();
    settings.session.transaction_limit = 2;
    let message = b"MAIL FROM:<>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\n.\r\n".repeat(3);
    let played = play_with(Memory::new(&message, 64), Queue::default(), &here(), &settings);
    assert_eq!(played.queue.queued.len(), 2);
    assert_eq!(codes(&played.replies).last(), Some(&421));
}

/// Everything that must not depend on how the octets come.
fn essence(input: &[u8], step: usize) -> (String, Vec<String>, Ended) {
    let played = play_with(Memory::new(input, step), Queue::default(), &here(), &settings());
    (played.replies, played.queue.queued, played.ended.unwrap())
}

#[test]
fn a_session_is_the_same_in_pieces_of_every_size() {
    let input = [MESSAGE.strip_suffix(b"QUIT\r\n").unwrap(), b"RSET\r\nfoo\r\nVRFY bob\r\n", MESSAGE].concat();
    for step in 1..=input.len() {
        assert_eq!(essence(&input, step), essence(&input, usize::MAX), "pieces of {step}");
    }
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("EHLO c.example\r\n".to_owned()),
        Just("MAIL FROM:<a@b>\r\n".to_owned()),
        Just("RCPT TO:<bob@mx.example>\r\n".to_owned()),
        Just("RCPT TO:<nobody@mx.example>\r\n".to_owned()),
        Just("DATA\r\n".to_owned()),
        Just(".\r\n".to_owned()),
        Just("RSET\r\n".to_owned()),
        Just("QUIT\r\n".to_owned()),
        "[.\r\n\u{0}a ]{0,6}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_session_is_the_same_in_pieces(lines in prop::collection::vec(line(), 0..25), step in 1..40_usize) {
        let input = lines.concat();
        prop_assert_eq!(essence(input.as_bytes(), step), essence(input.as_bytes(), usize::MAX));
    }

    #[test]
    fn any_octets_are_survived(input in prop::collection::vec(any::<u8>(), 0..300)) {
        essence(&input, usize::MAX);
    }
}

/// Everybody is bob, who may send as anybody; how often that was asked.
struct Bob(std::cell::Cell<usize>);

impl Site for Bob {
    fn channel(&self) -> Lookup<(String, Policy)> {
        here().channel()
    }
    fn client(&self) -> (Option<String>, String) {
        here().client()
    }
    fn here(&self, address: &Address) -> Option<Address> {
        here().here(address)
    }
    fn check(&self, _: &Credentials) -> Lookup<Right> {
        Lookup::Yes(Right { name: b"bob".to_vec(), last_words: Vec::new() })
    }
    fn binds_senders(&self) -> bool {
        true
    }
    fn may_send_as(&self, _: &[u8], _: &Address) -> Lookup<()> {
        self.0.set(self.0.get() + 1);
        Lookup::Yes(())
    }
}

#[test]
fn each_address_of_a_header_is_asked_about_once_and_there_may_not_be_any_number_of_them() {
    let (dialect, login) = (session::Dialect::Submission, session::Login::Always);
    let settings = Settings { session: session::Settings { dialect, login, ..settings().session }, ..settings() };
    let others = |count: usize| (0..count).map(|number| format!("{number}@b")).collect::<Vec<_>>().join(",");
    for (from, asked, last) in [
        (vec!["a@b"; 10_000].join(","), 1, "250"),
        (others(99), 100, "250"),
        (others(101), 100, "550"),
        (others(20_000), 100, "550"),
    ] {
        let site = Bob(std::cell::Cell::new(0));
        let begin = "EHLO c\r\nAUTH PLAIN AGJvYgB4\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\n";
        let input = format!("{begin}From: {from}\r\nSender: a@b\r\n\r\nx\r\n.\r\n");
        let mut stream = Memory::new(input.as_bytes(), usize::MAX);
        serve(&mut stream, &mut Queue::default(), &site, &settings, Offer::None).unwrap();
        let said = String::from_utf8(stream.output).unwrap();
        assert!(said.lines().last().is_some_and(|line| line.starts_with(last)), "{said}");
        assert_eq!(site.0.get(), 1 + asked, "once at MAIL");
    }
}

#[test]
fn a_reply_that_was_sent_in_part_is_not_begun_again() {
    let whole = play(b"EHLO c\r\nNOOP\r\n").replies;
    for count in [1, 40, 100] {
        let mut stream = Memory::new(b"EHLO c\r\nNOOP\r\n", usize::MAX);
        stream.reads_in_time = Some(count);
        let played = play_with(stream, Queue::default(), &here(), &settings());
        assert!(matches!(played.ended, Ok(Ended::TimedOut)));
        let begun =
            played.replies.strip_suffix("421 4.4.2 Timed out, closing the connection\r\n").expect("a last word");
        assert!(whole.starts_with(begun) && begun.len() > count, "{count}: {}", played.replies);
    }
}
