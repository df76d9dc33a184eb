//! smtpd with a pool of smtpsrvr and the submit that is kept beside it: the other way that mail comes in by SMTP, where one
//! submit after another serves many sessions and keeps the queue open.

use super::workload::Site;
use crate::common::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::Duration;

/// A running one; ends when dropped.
pub struct Pool {
    server: Child,
    address: SocketAddr,
}

impl Pool {
    /// One that renews its children now and then.
    pub fn start(site: &Site) -> Pool {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let mut command = site.command("smtpd");
        command.args(["--mode", "pool", "-n", "16", "-o", "idle_children=2", "-o", "max_use=20", "smtpsrvr"]);
        command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
        let pool = Pool { server: command.spawn().expect("smtpd"), address };
        until("submit behind its socket", || site.queue().join("submit").exists());
        pool
    }

    /// A client.
    pub fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).expect("a connection");
        client.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
        client
    }
}

impl Drop for Pool {
    /// Waits for its end: nobody may have the disk open when it is unmounted.
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.server.id()).unwrap_or(i32::MAX));
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.server.wait();
    }
}
