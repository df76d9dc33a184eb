//! A private Postfix on loopback: configuration, queue and mailboxes in a folder of its own; ended when dropped.
//!
//! Needs root and Postfix's programs.

use super::{free_address, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub struct Postfix {
    folder: tempfile::TempDir,
    master: Child,
    pub address: SocketAddr,
}

/// What every instance runs beside the one service that listens.
const SERVICES: &str = "cleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\nrewrite unix - - n - - trivial-rewrite\n\
    bounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\n\
    proxymap unix - - n - - proxymap\nproxywrite unix - - n - 1 proxymap\nerror unix - - n - - error\n\
    retry unix - - n - - error\ndiscard unix - - n - - discard\nsmtp unix - - n - - smtp\n\
    lmtp unix - - n - - lmtp\ntlsmgr unix - - n 1000? 1 tlsmgr\nscache unix - - n - 1 scache\n\
    virtual unix - n n - - virtual\npostlog unix-dgram n - n - 1 postlogd\nanvil unix - - n - 1 anvil\n";

impl Postfix {
    /// One whose `service` (`smtpd`, `qmqpd`) listens, with more lines in main.cf. It delivers alice, bob and carol at
    /// mx.example into Maildirs, and knows nobody else.
    pub fn start(parent: &Path, service: &str, more: &str) -> Postfix {
        assert!(nix::unistd::geteuid().is_root(), "Postfix's master needs root");
        super::usual_umask();
        let folder = tempfile::Builder::new().prefix("doorpost-postfix-").tempdir_in(parent).expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        let path = |name: &str| folder.path().join(name);
        for name in ["etc", "spool", "data", "mail"] {
            fs::create_dir(path(name)).expect("a folder");
        }
        let user = nix::unistd::User::from_name("postfix").expect("users").expect("the user postfix");
        chown(path("data"), Some(user.uid.as_raw()), None).expect("chown");
        chown(path("mail"), Some(super::NOBODY), Some(super::NOBODY)).expect("chown");
        // It cannot be handed a socket.
        let address = free_address();
        let top = folder.path().display();
        let main_cf = format!(
            "compatibility_level = 3.6\nqueue_directory = {top}/spool\ndata_directory = {top}/data\n\
             command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\nshlib_directory = /usr/lib/postfix\n\
             meta_directory = /etc/postfix\nmail_owner = postfix\nsetgid_group = postdrop\nmyhostname = mx.example\n\
             myorigin = mx.example\nmydestination =\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nalias_maps =\n\
             alias_database =\nlocal_recipient_maps =\ndisable_dns_lookups = yes\nin_flow_delay = 0\n\
             maillog_file = {top}/data/log\nmaillog_file_prefixes = {top}/data\n\
             virtual_mailbox_domains = mx.example\nvirtual_mailbox_base = {top}/mail\n\
             virtual_mailbox_maps = inline:{{ alice@mx.example=alice/, bob@mx.example=bob/, carol@mx.example=carol/ }}\n\
             virtual_minimum_uid = 1\nvirtual_uid_maps = static:{0}\nvirtual_gid_maps = static:{0}\n{more}\n",
            super::NOBODY
        );
        fs::write(path("etc/main.cf"), main_cf).expect("main.cf");
        let services = format!("127.0.0.1:{} inet n - n - - {service}\n{SERVICES}", address.port());
        fs::write(path("etc/master.cf"), services).expect("master.cf");
        let etc = path("etc");
        let check = Command::new("/usr/sbin/postfix").arg("-c").arg(&etc).arg("check").output().expect("postfix");
        assert!(check.status.success(), "{check:?}");
        let mut master = Command::new("/usr/lib/postfix/sbin/master");
        master.arg("-c").arg(&etc).arg("-d").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let master = master.spawn().expect("Postfix's master");
        until("Postfix to listen", || TcpStream::connect(address).is_ok());
        Postfix { folder, master, address }
    }

    /// A user's Maildir.
    pub fn maildir(&self, user: &str) -> PathBuf {
        self.folder.path().join("mail").join(user)
    }

    /// Whether everything that was taken has been delivered.
    pub fn is_idle(&self) -> bool {
        let is_empty = |queue: &str| {
            fs::read_dir(self.folder.path().join("spool").join(queue)).is_ok_and(|mut files| files.next().is_none())
        };
        // In the order of a message's way, which may lead from one to the other between the looks.
        ["incoming", "active", "incoming", "active"].iter().all(|queue| is_empty(queue))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("data/log")).unwrap_or_default()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.master.id()).expect("a pid"));
        // Its own group, by its signal handler.
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.master.wait();
    }
}
