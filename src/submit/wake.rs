//! Telling whoever delivers that there is something to deliver, and starting deliver where nobody is there to be told.

use crate::again::again;
use crate::cli::Common;
use crate::config::{self, Config};
use crate::queue::{Id, Queue};
use crate::{sys, users};
use nix::sys::wait::waitpid;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, geteuid, setsid};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::IntoRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Wakes a deliver that reads the FIFO. Where nobody does and every mailbox belongs to this process's user, starts one;
/// elsewhere a `deliver` started as root must come by. Either way the message is safe, so trouble is only logged.
///
/// Who knows which message it is says so; else the whole queue is looked at.
pub fn wake(config: &Config, common: &Common, queue: &Queue, id: Option<&Id>) {
    if id.map_or_else(|| queue.wake(), |id| queue.wake_for(id)) || !users::all_belong_to(config, geteuid().as_raw()) {
        return;
    }
    let (program, arguments) = (config.program("deliver"), common.arguments());
    // Forked twice, so that deliver is no child of ours and leaves no zombie to a process that goes on.
    let started = sys::fork(|| {
        let _ = setsid();
        match sys::fork(|| become_deliver(&program, &arguments)) {
            Ok(_) => 0,
            Err(_) => 75,
        }
    });
    match started {
        Ok(child) => drop(again(|| waitpid(child, None))),
        Err(errno) => log::warn!("deliver not started: {errno}"),
    }
}

/// Nothing of whoever called us may stay open: deliver lives on, and a client would wait for its connection to end.
fn become_deliver(program: &Path, arguments: &[OsString]) -> u8 {
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return 75 };
    if dup2_stdin(&null).is_err() || dup2_stdout(&null).is_err() || dup2_stderr(&null).is_err() {
        return 75;
    }
    let _ = null.into_raw_fd();
    sys::close_between(3, u32::MAX);
    let mut command = Command::new(program);
    if let Some(folder) = std::env::var_os("MAIL_CONFIG") {
        command.env("MAIL_CONFIG", std::path::absolute(&folder).unwrap_or_else(|_| folder.into()));
    }
    let _ = command.envs(config::that_were_there()).args(arguments).current_dir("/").exec();
    75
}
