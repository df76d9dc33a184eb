//! A deliver that watches the queue.

use super::Scratch;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Child, Command, ExitStatus, Stdio};

/// A running `deliver --watch`; told to stop, and waited for, when dropped.
pub struct Watching(pub Child);

impl Watching {
    pub fn start(scratch: &Scratch) -> Watching {
        Watching::by(scratch.command("deliver").stderr(Stdio::null()))
    }

    /// By this command, which has all but the option.
    pub fn by(command: &mut Command) -> Watching {
        Watching(command.arg("--watch").stdin(Stdio::null()).spawn().expect("deliver"))
    }

    /// Tells it to stop, and sees that it ends well.
    pub fn terminate(mut self) {
        assert!(self.stop().success());
    }

    fn stop(&mut self) -> ExitStatus {
        // Once it was waited for this reaches nobody else: std remembers its status.
        if self.0.try_wait().expect("its status").is_none() {
            // A test may have stopped it and failed then.
            for signal in [Signal::SIGTERM, Signal::SIGCONT] {
                kill(Pid::from_raw(self.0.id().cast_signed()), signal).expect("a signal");
            }
        }
        self.0.wait().expect("its end")
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop();
    }
}
