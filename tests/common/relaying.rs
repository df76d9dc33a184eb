//! Installations that send their mail to other hosts, what they send, and a host of ours that takes it.

use super::Scratch;
use super::hops::Hop;
use super::names::Table;
use std::net::TcpListener;
use std::process::{Child, Stdio};

/// An installation that sends everything but its own mail by this transport.
pub fn site(transport: &str, more: &str) -> Scratch {
    let scratch = Scratch::with(&format!("smtp_helo_timeout = 30s\n{more}"));
    scratch.write("channels", &format!("local - mx.example mailbox: *\nout * * \"{transport}\" *\n"));
    scratch
}

pub fn to(hop: &Hop) -> Scratch {
    site(&format!("smtp:{}", hop.name()), "")
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
        Smtpsrvr::started(listener, &[], main_cf, channels)
    }

    /// One that speaks TLS from the first octet.
    pub fn at_once(main_cf: &str, channels: &str) -> Smtpsrvr {
        Smtpsrvr::started(TcpListener::bind("127.0.0.1:0").expect("a port"), &["--tls"], main_cf, channels)
    }

    fn started(listener: TcpListener, arguments: &[&str], main_cf: &str, channels: &str) -> Smtpsrvr {
        let scratch = Scratch::with(main_cf);
        super::tls::configure_both(&scratch);
        scratch.write("channels", channels);
        let port = listener.local_addr().expect("its number").port();
        let mut command = scratch.command("smtpsrvr");
        let command = command
            .args(arguments)
            .stdin(std::os::fd::OwnedFd::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
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
