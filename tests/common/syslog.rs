//! syslog, as a program of ours finds it: at /dev/log, in a /dev of its own. For root only.

use super::connections::PATIENCE;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Syslog {
    place: PathBuf,
    socket: UnixDatagram,
}

impl Syslog {
    /// Listens in this folder.
    pub fn new(folder: &Path) -> Syslog {
        let place = folder.join("log");
        let socket = UnixDatagram::bind(&place).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        Syslog { place, socket }
    }

    /// A program with an empty environment, whose records come here.
    pub fn command(&self, program: &Path) -> Command {
        // What is in /dev/shm stays there, for that may be where the tests have their folders.
        let own_dev = "mount -t tmpfs dev /mnt && mkdir /mnt/shm && mount --rbind /dev/shm /mnt/shm && \
            mknod -m 666 /mnt/null c 1 3 && ln -s \"$0\" /mnt/log && mount --move /mnt /dev && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(["-m", "sh", "-c", own_dev]).arg(&self.place).arg(program);
        command
    }

    /// The next record, which must come.
    pub fn next(&self) -> String {
        self.receive().expect("a record")
    }

    /// What has come by now.
    pub fn all(&self) -> Vec<String> {
        self.socket.set_nonblocking(true).expect("its mode");
        std::iter::from_fn(|| self.receive().inspect_err(|error| assert_eq!(error.kind(), ErrorKind::WouldBlock)).ok())
            .collect()
    }

    fn receive(&self) -> std::io::Result<String> {
        let mut octets = [0; 2000];
        let count = self.socket.recv(&mut octets)?;
        Ok(String::from_utf8_lossy(&octets[..count]).into_owned())
    }
}
