//! Dovecot and GNU Mailutils, private and on loopback, with users whose password is `secret`.

use super::pop3::{self, Answer};
use crate::common;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A private Dovecot that serves POP3, and logins to Postfix; ended when dropped.
pub struct Dovecot {
    folder: tempfile::TempDir,
    pub address: SocketAddr,
    process: Child,
}

impl Dovecot {
    /// With mailboxes of this format, `maildir` or `mbox`.
    pub fn start(format: &str) -> Dovecot {
        common::usual_umask();
        let folder = tempfile::Builder::new()
            .prefix("doorpost-dovecot-")
            .tempdir_in(super::super::in_memory())
            .expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        fs::create_dir(folder.path().join("run")).expect("a folder");
        let address = common::free_address();
        let top = folder.path().display();
        let users = ["alice", "bob", "carol"].map(|user| format!("{user}:{{PLAIN}}secret\n"));
        fs::write(folder.path().join("users"), users.concat()).expect("users");
        // Folders of its own beside the mbox.
        let inbox = if format == "mbox" { format!("/of-%n:INBOX={top}/mail/%n") } else { "/%n".to_owned() };
        fs::create_dir(folder.path().join("mail")).expect("a folder");
        chown(folder.path().join("mail"), Some(common::NOBODY), Some(common::NOBODY)).expect("chown");
        let configuration = format!(
            "base_dir = {top}/run\nstate_dir = {top}/run\nprotocols = pop3\nlisten = 127.0.0.1\nssl = no\n\
             disable_plaintext_auth = no\nlog_path = {top}/log\nmail_location = {format}:{top}/mail{inbox}\n\
             first_valid_uid = 1\nmail_max_userip_connections = 0\nauth_mechanisms = plain login\nauth_failure_delay = 0\n\
             mbox_write_locks = fcntl\n\
             service auth {{\n unix_listener {top}/auth {{\n  mode = 0666\n }}\n}}\n\
             passdb {{\n driver = passwd-file\n args = username_format=%u {top}/users\n}}\n\
             userdb {{\n driver = static\n args = uid={0} gid={0} home={top}/home/%n\n}}\n\
             service pop3-login {{\n inet_listener pop3 {{\n  port = {1}\n }}\n inet_listener pop3s {{\n  port = 0\n }}\n}}\n",
            common::NOBODY,
            address.port()
        );
        fs::write(folder.path().join("dovecot.conf"), configuration).expect("dovecot.conf");
        let mut command = Command::new("/usr/sbin/dovecot");
        command.arg("-F").arg("-c").arg(folder.path().join("dovecot.conf"));
        let process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("dovecot");
        common::until("Dovecot to listen", || TcpStream::connect(address).is_ok());
        Dovecot { folder, address, process }
    }

    /// bob's.
    pub fn mailbox(&self) -> PathBuf {
        self.folder.path().join("mail/bob")
    }

    /// What it knows of the mbox that was there before.
    pub fn forget(&self) {
        let _ = fs::remove_dir_all(self.folder.path().join("mail/of-bob"));
    }

    /// Where Postfix asks it about logins.
    pub fn logins(&self) -> PathBuf {
        self.folder.path().join("auth")
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).expect("a pid"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

/// GNU Mailutils' pop3d, started for each session with a password file of its own in a mount namespace of its own.
pub struct Mailutils {
    folder: tempfile::TempDir,
}

impl Mailutils {
    /// None running yet.
    pub fn new() -> Mailutils {
        let folder = tempfile::Builder::new()
            .prefix("doorpost-mailutils-")
            .tempdir_in(super::super::in_memory())
            .expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("its mode");
        let top = folder.path().display();
        let configuration = format!(
            "mailbox {{\n mail-spool \"{top}\";\n mailbox-type mbox;\n}};\nauth {{\n authentication generic:system;\n \
             authorization system;\n}};\nlogging {{\n syslog yes;\n}};\n"
        );
        fs::write(folder.path().join("pop3d.conf"), configuration).expect("pop3d.conf");
        let mut passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
        // "secret" by MD5.
        passwd += &format!("bob:$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1:{0}:{0}::{top}:/bin/sh\n", common::NOBODY - 1);
        fs::write(folder.path().join("passwd"), passwd).expect("passwd");
        Mailutils { folder }
    }

    /// bob's mbox, and whose it must be.
    pub fn mailbox(&self) -> (PathBuf, u32) {
        (self.folder.path().join("bob"), common::NOBODY - 1)
    }

    /// Plays a session on it.
    pub fn play(&self, session: &pop3::Session) -> Vec<Answer> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("its number")).expect("a connection");
        let server = OwnedFd::from(listener.accept().expect("the other end").0);
        let mut command = Command::new("unshare");
        let script =
            "mount --bind \"$0/passwd\" /etc/passwd && exec /usr/sbin/pop3d --inetd --config-file=\"$0/pop3d.conf\"";
        command.args(["-m", "--propagation", "private", "sh", "-c", script]).arg(self.folder.path());
        command.stdin(Stdio::from(server.try_clone().expect("a descriptor"))).stdout(Stdio::from(server));
        let mut process = command.stderr(Stdio::null()).spawn().expect("unshare");
        drop(command);
        let answers = pop3::play(client, session);
        process.wait().expect("its end");
        answers
    }
}
