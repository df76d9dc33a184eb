//! A deliver that watches the queue, where the kernel has no memory for what its signal handler writes.

use super::super::*;
use crate::common::until;
use crate::common::watching::Watching;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

#[test]
fn a_signal_that_cannot_be_written_down_ends_a_watching_deliver_all_the_same() {
    let scratch = queued();
    scratch.configure("queue_run_delay = 1h");
    let mut strace = Command::new("strace");
    // It stays beside, so that deliver is our child. The first three ask, when the signals are caught, what can be sent.
    strace.args(["-D", "-qq", "-o", "/dev/null", "-e", "trace=sendto", "-e", "inject=sendto:error=ENOMEM:when=4+"]);
    strace.arg(common::binary("deliver")).env("MAIL_CONFIG", scratch.path());
    let mut watching = Watching::by(&mut strace);
    until("the first sweep", || scratch.mail("bob").len() == 1 && scratch.queued().is_empty());
    let process = Pid::from_raw(watching.0.id().cast_signed());
    kill(process, Signal::SIGTERM).expect("a signal");
    let mut is_over = || watching.0.try_wait().expect("its status").is_some();
    if !(0..1000).any(|_| is_over() || (std::thread::sleep(Duration::from_millis(10)), false).1) {
        kill(process, Signal::SIGKILL).expect("a signal");
        panic!("it did not hear the signal");
    }
    watching.terminate();
}
