//! A whole session of SMTP or LMTP.
//!
//! The first two octets of the input set the scene (`Scene`), the rest is what the client sends.

use super::follow::{Facts, Follower, Reply};
use super::store::{Queued, Store};
use super::wire::{Wire, lines};
use doorpost::auth::gate::Right;
use doorpost::config::value::CommandWord;
use doorpost::lookup::{Listed, Lookup};
use doorpost::message::path::Address;
use doorpost::net::tls::Offer;
use doorpost::sasl::{Credentials, Proof};
use doorpost::smtp::command::{Said, Xclient};
use doorpost::smtp::reply::Reply as RefusalReply;
use doorpost::smtp::server::{Settings, serve};
use doorpost::smtp::session;
use doorpost::smtp::site::{Site, Terms};
use doorpost::submit::Policy;
use std::cell::RefCell;
use std::time::Duration;

/// What the first two octets say: their bits turn on small limits, special answers, LMTP, and who may say by XCLIENT that he is
/// another; and who the client is by now.
struct Scene {
    bits: u16,
    facts: RefCell<Facts>,
}

impl Scene {
    fn new(bits: u16) -> Scene {
        Scene { bits, facts: RefCell::new(Facts::first()) }
    }

    fn has(&self, bit: u8) -> bool {
        self.bits & 1 << bit != 0
    }

    fn is_lmtp(&self) -> bool {
        self.has(8)
    }

    /// How the client's address ends, which says more than who it is (`Facts::bare_newline`).
    fn digit(&self) -> Option<u8> {
        self.facts.borrow().address.bytes().last()
    }

    fn settings<'a>(&self, forbidden: &'a [CommandWord]) -> Settings<'a> {
        Settings {
            session: session::Settings {
                hostname: "mx.example",
                message_size_limit: if self.has(0) { 100 } else { 0 },
                recipient_limit: if self.has(1) { 2 } else { 100 },
                announced_recipients: 100,
                error_limit: if self.has(2) { 3 } else { 100 },
                junk_limit: if self.has(2) { 3 } else { 100 },
                transaction_limit: 0,
                tls: session::Tls::Never,
                dialect: if self.is_lmtp() { session::Dialect::Lmtp } else { session::Dialect::Smtp },
                login: if self.has(0) { session::Login::Always } else { session::Login::Never },
                vrfy: true,
                xclient: match (self.has(9), self.has(10)) {
                    (true, _) => Listed::Yes,
                    (false, true) => Listed::CannotTell,
                    (false, false) => Listed::No,
                },
                discarded: &[],
            },
            timeout: Duration::from_secs(300),
            min_data_rate: 0,
            line_length_limit: if self.has(3) { 60 } else { 2048 },
            soft_bounce: self.has(4),
            // It asks whether more has come already, which is the one thing that depends on the pieces.
            forbid_early: false,
            greet_wait: Duration::ZERO,
            bare_newline: Listed::No,
            soft_errors: (10, Duration::ZERO),
            dropped: &[],
            forbidden,
            finicky: self.has(5),
        }
    }
}

impl Site for Scene {
    fn channel(&self) -> Lookup<(String, Policy)> {
        match (self.has(6), self.has(7), self.digit()) {
            (true, true, _) | (_, _, Some(b'6')) => Lookup::CannotTell("as ordered".to_owned()),
            (true, false, _) | (_, _, Some(b'5')) => Lookup::No,
            (false, _, _) => Lookup::Yes(("smtp".to_owned(), Policy::Channels)),
        }
    }

    fn client(&self) -> (Option<String>, String) {
        let Facts { name, address } = self.facts.borrow().clone();
        (name, address)
    }

    fn check(&self, credentials: &Credentials) -> Lookup<Right> {
        // Nobody is let in but this one, whatever the mechanism made of what it said.
        if credentials.name == b"bob" && matches!(&credentials.proof, Proof::Password(secret) if secret.0 == b"secret")
        {
            Lookup::Yes(Right { name: credentials.name.clone(), last_words: Vec::new() })
        } else {
            Lookup::No
        }
    }

    fn here(&self, address: &Address) -> Option<Address> {
        self.has(7).then(|| address.clone())
    }

    fn refusal(&self) -> Option<RefusalReply> {
        (self.digit() == Some(b'4')).then(|| RefusalReply::blocked("list.example"))
    }

    fn becomes(&self, said: &Xclient) -> Terms {
        assert!(self.has(9), "another client, by the word of who is not listed");
        let mut facts = self.facts.borrow_mut();
        match said.address {
            Said::Nothing => {}
            Said::Value(address) => *facts = Facts { name: None, address: address.to_string() },
            Said::None | Said::CannotTell => *facts = Facts { name: None, address: "unknown".to_owned() },
        }
        match &said.name {
            Said::Nothing => {}
            Said::Value(name) => facts.name = Some(name.clone()),
            Said::None | Said::CannotTell => facts.name = None,
        }
        let may_log_in = self.has(0) || facts.address == "127.0.0.1";
        let login = if may_log_in { session::Login::Always } else { session::Login::Never };
        Terms { login, bare_newline: facts.bare_newline() }
    }
}

/// Replies are well-formed; a plain reader finds as many to each line as it must have, and that what was queued is what was
/// acknowledged, in the words of who sent it and from whom he may say that he is; and no other way of cutting the input into
/// pieces changes any of it.
pub fn smtp_session(input: &[u8]) {
    let Some((bits, input)) = input.split_first_chunk() else { return };
    let bits = u16::from_le_bytes(*bits);
    let (output, queued) = session_with(&Scene::new(bits), input, 0);
    let replies = replies(&output);
    let scene = Scene::new(bits);
    let settings = scene.settings(&[]);
    Follower::new(input, &replies, scene.is_lmtp(), settings.session.xclient, settings.line_length_limit)
        .check(&queued);
    for way in 1..3 {
        let (again, queued_again) = session_with(&Scene::new(bits), input, way);
        assert_eq!(
            output.escape_ascii().to_string(),
            again.escape_ascii().to_string(),
            "the pieces change the replies"
        );
        assert_eq!(queued, queued_again, "the pieces change what is queued");
    }
}

fn session_with(scene: &Scene, input: &[u8], way: u64) -> (Vec<u8>, Vec<Queued>) {
    let (mut wire, mut store) = (Wire::new(input, way), Store::default());
    let forbidden = ["GET", "POST"].map(|word| CommandWord(word.to_owned()));
    serve(&mut wire, &mut &mut store, scene, &scene.settings(&forbidden), Offer::None).expect("a session ends well");
    assert!(!store.is_waiting(), "a message was neither committed nor abandoned");
    (wire.output, store.queued)
}

/// Code and text of each reply; lines of one reply are joined.
fn replies(output: &[u8]) -> Vec<Reply> {
    let mut replies: Vec<Reply> = Vec::new();
    let mut goes_on = false;
    for line in lines(output) {
        assert!(line.len() <= 510, "a line of {} octets", line.len());
        assert!(line.iter().all(|octet| matches!(octet, b' '..=b'~')), "octets in {}", line.escape_ascii());
        let line = std::str::from_utf8(line).expect("ASCII");
        let code: u16 = line.get(..3).and_then(|digits| digits.parse().ok()).expect("three digits");
        assert!((200..600).contains(&code), "{line}");
        let text = &line[4..];
        match (goes_on, replies.last_mut()) {
            (true, Some(last)) => {
                assert_eq!(last.0, code, "two codes in one reply");
                last.1.push_str(text);
            }
            _ => replies.push((code, text.to_owned())),
        }
        goes_on = match line.as_bytes()[3] {
            b'-' => true,
            b' ' => false,
            other => panic!("{other} behind the code"),
        };
    }
    assert!(!goes_on, "the last reply has no last line");
    replies
}
