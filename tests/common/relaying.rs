//! Installations that send their mail to other hosts, what they send, and a host of ours that takes it.

use super::Scratch;
use super::hops::Hop;
use super::names::Table;
use doorpost::message::parameters::{MailParameters, RecipientParameters};
use doorpost::message::path::{Address, ReversePath};
use doorpost::queue::{Draft, Head, Id, Queue};
use std::fs;
use std::net::TcpListener;
use std::process::{Child, Stdio};

/// An installation that sends everything but its own mail by this transport.
pub fn site(transport: &str, more: &str) -> Scratch {
    let scratch = Scratch::with(&format!("smtp_connect_timeout = 5s\nsmtp_helo_timeout = 5s\n{more}"));
    scratch.write("channels", &format!("local - mx.example mailbox: *\nout * * \"{transport}\" *\n"));
    scratch
}

pub fn to(hop: &Hop) -> Scratch {
    site(&format!("smtp:{}", hop.name()), "")
}

/// Queues a message as submit does.
pub fn enqueue(scratch: &Scratch, to: &[&str], content: &[u8]) -> Id {
    enqueue_with(scratch, "alice@mx.example", to, content, "", "")
}

pub fn enqueue_with(scratch: &Scratch, from: &str, to: &[&str], content: &[u8], mail: &str, rcpt: &str) -> Id {
    commit(scratch, draft(scratch), from, to, content, mail, rcpt)
}

/// One of alice's with a fact noted about it.
pub fn enqueue_as(scratch: &Scratch, (name, value): (&str, &str), to: &[&str], mail: &str) -> Id {
    let mut draft = draft(scratch);
    draft.attribute(name, value).expect("room");
    commit(scratch, draft, "alice@mx.example", to, TEXT, mail, "")
}

pub fn draft(scratch: &Scratch) -> Draft {
    fs::create_dir_all(scratch.queue().join("message")).expect("a folder");
    Queue::at(&scratch.queue()).begin().expect("a draft")
}

pub fn commit(
    scratch: &Scratch,
    mut draft: Draft,
    from: &str,
    to: &[&str],
    content: &[u8],
    mail: &str,
    rcpt: &str,
) -> Id {
    draft.content(content).expect("content");
    draft.end_content().expect("its end");
    let parameters = RecipientParameters::from_text(rcpt.as_bytes()).expect("parameters");
    for address in to {
        draft
            .recipient_with(&Address::from_internal(address.as_bytes()).expect("an address"), &parameters)
            .expect("a recipient");
    }
    draft.parameters(&MailParameters::from_text(mail.as_bytes()).expect("parameters")).expect("parameters");
    let reverse_path = ReversePath::from_internal(from.as_bytes()).expect("a sender");
    let head = Head { reverse_path, trace: b"Received: by mx.example\n".to_vec(), channel: "local".into() };
    let id = draft.commit(&head).expect("a message");
    scratch.hand_over(&scratch.queue());
    id
}

pub fn deliver(scratch: &Scratch) -> String {
    String::from_utf8(scratch.deliver().stderr).expect("printable records")
}

pub const TEXT: &[u8] = b"Subject: x\n\n.dot\nhello\n";

/// What arrived of TEXT, as the hops keep it.
pub const ARRIVED: &str = "Received: by mx.example\r\nSubject: x\r\n\r\n.dot\r\nhello\r\n";

pub const ZONE: Table = &[
    ("b.example", "MX", "20 backup.b.example"),
    ("b.example", "MX", "10 dead.b.example"),
    ("dead.b.example", "A", "127.0.0.2"),
    ("backup.b.example", "A", "127.0.0.1"),
    ("plain.example", "A", "127.0.0.1"),
    ("null.example", "MX", "0 ."),
    ("loop.example", "MX", "10 mx.example"),
    ("loop.example", "MX", "20 backup.b.example"),
    ("empty.example", "MX", "10 nowhere.example"),
    ("number.example", "MX", "10 127.0.0.1"),
    ("number.example", "A", "127.0.0.1"),
    ("mx.example", "A", "127.0.0.1"),
    ("xn--bcher-kva.example", "MX", "10 backup.b.example"),
];

/// One of ours that takes mail from who has logged in, under TLS; ended when dropped.
pub struct Smtpsrvr(pub Child, pub Scratch, pub u16);

impl Smtpsrvr {
    pub fn start() -> Smtpsrvr {
        let more = "smtpd_sasl_auth_enable = yes\nauthentication = passwd-file";
        Smtpsrvr::with(more, "local - mx.example mailbox: -\nauthenticated - - - *\n")
    }

    pub fn with(main_cf: &str, channels: &str) -> Smtpsrvr {
        Smtpsrvr::on(TcpListener::bind("127.0.0.1:0").expect("a port"), main_cf, channels)
    }

    pub fn on(listener: TcpListener, main_cf: &str, channels: &str) -> Smtpsrvr {
        let scratch = Scratch::with(main_cf);
        super::tls::configure(&scratch);
        scratch.write("channels", channels);
        let port = listener.local_addr().expect("its number").port();
        let mut command = scratch.command("smtpsrvr");
        let command = command.stdin(std::os::fd::OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("smtpsrvr");
        Smtpsrvr(child, scratch, port)
    }
}

impl Drop for Smtpsrvr {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.0.id().cast_signed()),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.0.wait();
    }
}
