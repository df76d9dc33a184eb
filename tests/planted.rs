//! A server that breaks on purpose right after the first act of every main, and what its client sees then: nothing.
//!
//! No harness: with an argument this program is that server, without one it runs itself as inetd would.
#![allow(clippy::print_stdout)]

mod common;

use common::under_inetd;
use doorpost::logging::{self, Speaks};
use std::process::Command;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("server") => serve(),
        _ => check(),
    }
}

fn serve() {
    logging::start("planted", Speaks::ToClient);
    match std::env::args().nth(2).as_deref() {
        Some("panic") => panic!("this must never reach the client"),
        Some("allocation") => {
            let huge: Vec<u8> = Vec::with_capacity(usize::MAX / 2 - 1);
            std::hint::black_box(huge);
        }
        Some("usage") => {
            clap::Command::new("planted").get_matches_from(["planted", "--no-such-option"]);
        }
        _ => log::error!("two lines\nare one record; this must never reach the client"),
    }
}

fn server(how: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["server", how]).env_clear();
    command
}

fn check() {
    for (how, succeeds) in [("panic", false), ("allocation", false), ("usage", false), ("log", true)] {
        let (seen, status) = under_inetd(&mut server(how), b"");
        assert_eq!(
            (seen.as_str(), status.success()),
            ("", succeeds),
            "{how}: seen by the client, and whether it ended well"
        );
    }
    // Without a client on it, standard error gets the record: one line, whatever stands in it.
    let log = String::from_utf8(common::feed(&mut server("log"), b"").stderr).expect("ASCII");
    assert!(log.starts_with("doorpost/planted[") && log.ends_with("client\n"), "{log:?}");
    assert!(log.contains("two lines\\x0aare one record") && log.lines().count() == 1, "{log:?}");
    // Over ssh the client is on standard error too, though it is a pipe.
    let ssh = common::feed(server("log").env("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22"), b"");
    assert_eq!(ssh.stderr, b"");
    println!("test result: ok. 6 passed; 0 failed");
}
