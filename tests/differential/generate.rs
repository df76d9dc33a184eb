//! SMTP sessions from a seed: mostly what clients say, now and then what they must not.
//!
//! Every step has the name of what is special about it, by which `smtp.rs` looks a difference up.

use super::extensions::{chunks, login};
use crate::common::chance::Chance;

/// One thing the client does.
#[derive(Debug, Clone)]
pub struct Step {
    /// What is special about it.
    pub shape: &'static str,
    /// What is sent: a command, or the whole content of a message.
    pub octets: Vec<u8>,
    /// Whether it answers a 354 or 334, and is sent only behind one.
    pub is_content: bool,
    /// The message that is queued if it is taken, as it is to be kept.
    pub kept: Vec<u8>,
}

/// A session. Pipelined, commands go out together as RFC 2920 section 3.1 allows it.
pub struct Session {
    pub steps: Vec<Step>,
    pub is_pipelined: bool,
}

impl Step {
    /// Whether it is BDAT with a chunk.
    pub fn is_chunk(&self) -> bool {
        self.shape == "bdat-null" || (self.shape.starts_with("bdat") && self.octets.starts_with(b"BDAT "))
    }

    /// Whether a client waits for the answer before it goes on, also one that sends its commands together.
    pub fn is_last_of_group(&self) -> bool {
        let word = self.octets.get(..4).unwrap_or_default().to_ascii_uppercase();
        self.is_content || ![&b"MAIL"[..], b"RCPT", b"RSET", b"BDAT"].contains(&&word[..])
    }
}

type Choices = [(&'static str, &'static str)];

const GREETINGS: &Choices = &[
    ("ehlo", "EHLO client.example"),
    ("ehlo", "EHLO client.example"),
    ("ehlo", "EHLO client.example"),
    ("helo", "HELO client.example"),
    ("ehlo", "ehlo CLIENT.example"),
    ("ehlo-literal", "EHLO [127.0.0.1]"),
    ("ehlo-bare", "EHLO"),
    ("helo-bare", "HELO"),
    ("ehlo-two-words", "EHLO client.example again"),
    ("ehlo-odd-name", "EHLO under_score"),
    ("ehlo-odd-name", "EHLO ..."),
    ("ehlo-odd-name", "EHLO -"),
];

const SENDERS: &Choices = &[
    ("mail", "MAIL FROM:<alice@client.example>"),
    ("mail", "MAIL FROM:<alice@client.example>"),
    ("mail", "MAIL FROM:<alice@client.example>"),
    ("mail", "MAIL FROM:<bob@mx.example>"),
    ("mail-null", "MAIL FROM:<>"),
    ("mail", "mail from:<alice@client.example>"),
    ("mail-size", "MAIL FROM:<alice@client.example> SIZE=1000"),
    ("mail-size-over", "MAIL FROM:<alice@client.example> SIZE=200001"),
    ("mail-size-bad", "MAIL FROM:<alice@client.example> SIZE=12x"),
    ("mail-size-huge", "MAIL FROM:<alice@client.example> SIZE=99999999999999999999"),
    ("mail-body", "MAIL FROM:<alice@client.example> BODY=8BITMIME"),
    ("mail-body", "MAIL FROM:<alice@client.example> BODY=7BIT SIZE=99"),
    ("mail-body-twice", "MAIL FROM:<alice@client.example> BODY=7BIT BODY=8BITMIME"),
    ("mail-binarymime", "MAIL FROM:<alice@client.example> BODY=BINARYMIME"),
    ("mail-size-twice", "MAIL FROM:<alice@client.example> SIZE=10 SIZE=20"),
    ("mail-size-bare", "MAIL FROM:<alice@client.example> SIZE"),
    ("mail-size-empty", "MAIL FROM:<alice@client.example> SIZE="),
    ("mail-size-0", "MAIL FROM:<alice@client.example> SIZE=0"),
    ("mail-smtputf8", "MAIL FROM:<alice@client.example> SMTPUTF8"),
    ("mail-smtputf8", "MAIL FROM:<alice@client.example> SMTPUTF8 BODY=8BITMIME"),
    ("mail-smtputf8-value", "MAIL FROM:<alice@client.example> SMTPUTF8=yes"),
    ("mail-utf8", "MAIL FROM:<j\u{c3}\u{bc}rgen@client.example> SMTPUTF8"),
    ("mail-utf8-domain", "MAIL FROM:<alice@b\u{c3}\u{bc}cher.example> SMTPUTF8"),
    ("mail-utf8-wrong", "MAIL FROM:<j\u{c3}rgen@client.example> SMTPUTF8"),
    ("mail-utf8-unsaid", "MAIL FROM:<j\u{c3}\u{bc}rgen@client.example>"),
    ("mail-ret", "MAIL FROM:<alice@client.example> RET=FULL"),
    ("mail-ret", "MAIL FROM:<alice@client.example> RET=hdrs ENVID=QQ314159"),
    ("mail-ret-bad", "MAIL FROM:<alice@client.example> RET=SOME"),
    ("mail-ret-twice", "MAIL FROM:<alice@client.example> RET=FULL RET=HDRS"),
    ("mail-envid", "MAIL FROM:<alice@client.example> ENVID=a+2Bb"),
    ("mail-envid-empty", "MAIL FROM:<alice@client.example> ENVID="),
    ("mail-envid-no-xtext", "MAIL FROM:<alice@client.example> ENVID=a+2bb"),
    ("mail-envid-no-xtext", "MAIL FROM:<alice@client.example> ENVID=a+zz"),
    ("mail-envid-control", "MAIL FROM:<alice@client.example> ENVID=a+0Ab"),
    ("mail-envid-twice", "MAIL FROM:<alice@client.example> ENVID=a ENVID=b"),
    ("mail-auth", "MAIL FROM:<alice@client.example> AUTH=<>"),
    ("mail-auth", "MAIL FROM:<alice@client.example> AUTH=bob@mx.example"),
    ("mail-auth-no-xtext", "MAIL FROM:<alice@client.example> AUTH=bob+zz"),
    ("mail-body-bad", "MAIL FROM:<alice@client.example> BODY=9BIT"),
    ("mail-parameter-unknown", "MAIL FROM:<alice@client.example> COLOUR=red"),
    ("mail-space-behind-colon", "MAIL FROM: <alice@client.example>"),
    ("mail-no-brackets", "MAIL FROM:alice@client.example"),
    ("mail-no-path", "MAIL FROM:"),
    ("mail-no-from", "MAIL <alice@client.example>"),
    ("mail-bare", "MAIL"),
    ("mail-unclosed", "MAIL FROM:<alice@client.example"),
    ("mail-source-route", "MAIL FROM:<@hop.example:alice@client.example>"),
    ("mail-quoted", "MAIL FROM:<\"a b\"@client.example>"),
    ("mail-no-domain", "MAIL FROM:<alice>"),
    ("mail-two-at", "MAIL FROM:<a@b@client.example>"),
    ("mail-literal", "MAIL FROM:<alice@[127.0.0.1]>"),
    ("mail-domain-odd", "MAIL FROM:<alice@client..example>"),
    ("mail-domain-odd", "MAIL FROM:<alice@-client.example>"),
    ("mail-trailing-blank", "MAIL FROM:<alice@client.example> "),
    ("mail-trailing-junk", "MAIL FROM:<alice@client.example>junk"),
];

const RECIPIENTS: &Choices = &[
    ("rcpt", "RCPT TO:<bob@mx.example>"),
    ("rcpt", "RCPT TO:<bob@mx.example>"),
    ("rcpt", "RCPT TO:<carol@mx.example>"),
    ("rcpt", "RCPT TO:<alice@mx.example>"),
    ("rcpt", "rcpt to:<bob@MX.Example>"),
    ("rcpt-case", "RCPT TO:<BOB@mx.example>"),
    ("rcpt-unknown", "RCPT TO:<nobody-here@mx.example>"),
    ("rcpt-elsewhere", "RCPT TO:<dave@other.example>"),
    ("rcpt-percent", "RCPT TO:<dave%other.example@mx.example>"),
    ("rcpt-bang", "RCPT TO:<other.example!dave@mx.example>"),
    ("rcpt-no-domain", "RCPT TO:<bob>"),
    ("rcpt-null", "RCPT TO:<>"),
    ("rcpt-no-brackets", "RCPT TO:bob@mx.example"),
    ("rcpt-space-behind-colon", "RCPT TO: <bob@mx.example>"),
    ("rcpt-bare", "RCPT"),
    ("rcpt-no-to", "RCPT <bob@mx.example>"),
    ("rcpt-unclosed", "RCPT TO:<bob@mx.example"),
    ("rcpt-source-route", "RCPT TO:<@hop.example:bob@mx.example>"),
    ("rcpt-quoted", "RCPT TO:<\"bob\"@mx.example>"),
    ("rcpt-two-at", "RCPT TO:<bob@mx.example@other.example>"),
    ("rcpt-literal", "RCPT TO:<bob@[127.0.0.1]>"),
    ("rcpt-dot-domain", "RCPT TO:<bob@mx.example.>"),
    ("rcpt-notify", "RCPT TO:<bob@mx.example> NOTIFY=NEVER"),
    ("rcpt-notify", "RCPT TO:<bob@mx.example> NOTIFY=SUCCESS,failure,DELAY"),
    ("rcpt-notify-never-and", "RCPT TO:<bob@mx.example> NOTIFY=NEVER,SUCCESS"),
    ("rcpt-notify-bad", "RCPT TO:<bob@mx.example> NOTIFY=SOMETIMES"),
    ("rcpt-notify-empty", "RCPT TO:<bob@mx.example> NOTIFY="),
    ("rcpt-notify-twice", "RCPT TO:<bob@mx.example> NOTIFY=FAILURE NOTIFY=DELAY"),
    ("rcpt-orcpt", "RCPT TO:<bob@mx.example> ORCPT=rfc822;robert@mx.example"),
    ("rcpt-orcpt", "RCPT TO:<bob@mx.example> NOTIFY=FAILURE ORCPT=rfc822;a+2Bb@mx.example"),
    ("rcpt-orcpt-no-type", "RCPT TO:<bob@mx.example> ORCPT=robert@mx.example"),
    ("rcpt-orcpt-no-xtext", "RCPT TO:<bob@mx.example> ORCPT=rfc822;a+zz@mx.example"),
    ("rcpt-orcpt-empty", "RCPT TO:<bob@mx.example> ORCPT=rfc822;"),
    ("rcpt-orcpt-twice", "RCPT TO:<bob@mx.example> ORCPT=rfc822;a@b.example ORCPT=rfc822;c@d.example"),
    ("rcpt-utf8", "RCPT TO:<j\u{c3}\u{bc}rgen@mx.example>"),
    ("rcpt-parameter-unknown", "RCPT TO:<bob@mx.example> COLOUR=red"),
    ("rcpt-trailing-junk", "RCPT TO:<bob@mx.example>junk"),
];

const OTHERS: &Choices = &[
    ("rset", "RSET"),
    ("rset-argument", "RSET now"),
    ("noop", "NOOP"),
    ("noop-argument", "NOOP for you"),
    ("help", "HELP"),
    ("vrfy", "VRFY bob"),
    ("vrfy-unknown", "VRFY nobody-here"),
    ("vrfy-bare", "VRFY"),
    ("expn", "EXPN list"),
    ("unknown", "FROBNICATE"),
    ("unknown", "MAI"),
    ("turn", "TURN"),
    ("empty-line", ""),
    ("blank-in-front", " NOOP"),
    ("starttls-not-offered", "STARTTLS"),
    ("data-argument", "DATA now"),
    ("quit-argument", "QUIT now"),
    (
        "long-command",
        "NOOP xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ),
    ("http", "GET / HTTP/1.0"),
    ("not-ascii", "NOOP \u{e4}"),
    ("nul", "NOOP \0x"),
];

/// A session of a seed; `number` marks its messages.
pub fn session(chance: &mut Chance, number: usize) -> Session {
    let mut steps = Vec::new();
    if !chance.percent(3) {
        steps.push(pick(chance, GREETINGS, 4, 90));
    }
    if chance.percent(15) {
        login(chance, &mut steps);
    }
    for message in 0..=chance.below(3) {
        transaction(chance, &mut steps, &format!("{number}.{message}"));
    }
    if chance.percent(90) {
        steps.push(command("quit", "QUIT"));
    }
    Session { steps, is_pipelined: chance.percent(30) }
}

fn transaction(chance: &mut Chance, steps: &mut Vec<Step>, mark: &str) {
    aside(chance, steps);
    if !chance.percent(3) {
        steps.push(pick(chance, SENDERS, 6, 85));
    }
    aside(chance, steps);
    for _ in 0..chance.below(4) {
        steps.push(pick(chance, RECIPIENTS, 5, 85));
        aside(chance, steps);
    }
    if chance.percent(3) {
        steps.push(pick(chance, GREETINGS, 4, 90));
    }
    if chance.percent(2) {
        login(chance, steps);
    }
    if chance.percent(25) {
        chunks(chance, steps, mark);
        return;
    }
    steps.push(command(if chance.percent(5) { "data-lower" } else { "data" }, "DATA"));
    steps.push(content(chance, mark));
}

fn aside(chance: &mut Chance, steps: &mut Vec<Step>) {
    if chance.percent(6) {
        steps.push(pick(chance, OTHERS, 0, 0));
    }
}

/// One of the first `usual` in `percent` of the cases, else any.
fn pick(chance: &mut Chance, choices: &Choices, usual: usize, percent: usize) -> Step {
    let among = if usual > 0 && chance.percent(percent) { usual } else { choices.len() };
    let (shape, text) = choices[chance.below(among)];
    command(shape, text)
}

/// A line.
pub fn command(shape: &'static str, text: &str) -> Step {
    // One octet above 127, not its UTF-8.
    let mut octets: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
    octets.extend(b"\r\n");
    Step { shape, octets, is_content: false, kept: Vec::new() }
}

/// Ways to write a line of a message.
pub const LINES: &[(&str, &[u8])] = &[
    ("text", b"A line of text."),
    ("text", b""),
    ("text", b"From the beginning"),
    ("text", b"  indented"),
    ("dot", b"..a dot"),
    ("dot", b".."),
    ("dot", b"..."),
    ("eight-bit", b"gr\xfc\xdfe \xff\x80"),
    ("tab", b"a\tb"),
    ("control", b"bell \x07 and escape \x1b"),
    ("nul-in-text", b"a\0b"),
    ("long-line", &[b'x'; 998]),
    ("longer-line", &[b'y'; 3000]),
];

/// What comes before, between or behind the lines and makes a message special.
const SPECIALS: &[(&str, &[u8])] = &[
    ("no-header", b"just text\r\n\r\n"),
    ("header-only", b"Subject: nothing below\r\n"),
    ("empty-message", b""),
    ("empty-line-first", b"\r\nbody\r\n"),
    ("return-path-field", b"Return-Path: <forged@client.example>\r\n\r\nbody\r\n"),
    ("bcc-field", b"Bcc: secret@client.example\r\n\r\nbody\r\n"),
    ("content-length-field", b"Content-Length: 3\r\n\r\nbody\r\n"),
    ("folded-field", b"Subject: one\r\n two\r\n\tthree\r\n\r\nbody\r\n"),
    ("blank-fold", b"Subject: one\r\n \r\n two\r\n\r\nbody\r\n"),
    ("space-before-colon", b"Subject : x\r\n\r\nbody\r\n"),
    ("field-without-colon", b"Subject: x\r\nnonsense here\r\nTo: y\r\n\r\nbody\r\n"),
    (
        "long-field",
        b"X-Long: zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz\r\n\r\nbody\r\n",
    ),
    ("unix-from", b"From someone Sun Nov 22 06:00:00 2026\r\nSubject: x\r\n\r\nbody\r\n"),
    ("escaped-unix-from", b">From someone Sun Nov 22 06:00:00 2026\r\nSubject: x\r\n\r\nbody\r\n"),
    ("too-large", &[b'L'; 201_000]),
    ("bare-lf", b"one\ntwo\r\n"),
    ("bare-cr", b"one\rtwo\r\n"),
    ("lf-dot-lf", b"one\n.\ntwo\r\n"),
    ("lf-dot-crlf", b"one\n.\r\n"),
    ("crlf-dot-lf", b"one\r\n.\n"),
    ("crcrlf", b"one\r\r\ntwo\r\n"),
];

/// A message, for DATA.
pub fn content(chance: &mut Chance, mark: &str) -> Step {
    let mut octets = format!("X-Mark: {mark}\r\n").into_bytes();
    let mut shape = "text";
    if chance.percent(15) {
        let (name, text) = SPECIALS[chance.below(SPECIALS.len())];
        shape = name;
        if ["empty-message", "no-header", "unix-from", "escaped-unix-from", "empty-line-first"].contains(&name) {
            octets.clear();
        }
        octets.extend(text);
        if name == "too-large" {
            octets.extend(b"\r\n");
        }
    } else {
        octets.extend(b"Subject: generated\r\n\r\n");
        for _ in 0..chance.below(6) {
            let among = if chance.percent(80) { 7 } else { LINES.len() };
            let (name, line) = LINES[chance.below(among)];
            if !["text", "dot"].contains(&name) {
                shape = name;
            }
            octets.extend(line);
            octets.extend(b"\r\n");
        }
    }
    let kept = unstuffed(&octets);
    octets.extend(b".\r\n");
    Step { shape, octets, is_content: true, kept }
}

/// The content of a message as ours stores it: unstuffed, with LF. Of what no server may take, anything.
fn unstuffed(sent: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(sent.len());
    for line in sent.split_inclusive(|octet| *octet == b'\n') {
        let line = line.strip_prefix(b".").unwrap_or(line);
        content.extend(line.strip_suffix(b"\r\n").unwrap_or(line));
        content.push(b'\n');
    }
    content
}

/// Whether a command of this shape is no part of a transaction.
pub fn is_aside(shape: &str) -> bool {
    (shape == "bdat-noop" || OTHERS.iter().any(|(name, _)| *name == shape))
        && !["data-argument", "rset-argument", "quit-argument"].contains(&shape)
}
