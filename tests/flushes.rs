//! What a message costs a disk: how often its cache is flushed before the message is acknowledged. Counted by the kernel,
//! not timed: for the queue by itself, for a session of SMTP from its first octet to the answer, and for sendmail where it
//! leaves messages in the drop folder.
//!
//! The queue lies on an ext4 of its own, on a loop device over a file in the build folder: not in memory, where a flush
//! takes no time and nobody could share one. How many sessions share a flush hangs on how long one takes beside all the
//! rest of a session, so they have a disk that writes as often a second as one with turning parts. Needs root, losetup,
//! e2fsprogs and qemu-storage-daemon, like the power cuts.

mod common;
#[path = "powercut/disk.rs"]
#[allow(dead_code)]
mod disk;

use common::connections::{Server, smtp, smtp_one_by_one};
use common::{Scratch, feed};
use disk::{Daemon, Device, Kind, Mount, withdraw};
use doorpost::message::path::{Address, ReversePath};
use doorpost::queue::{Head, Queue};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

/// Messages one after another; enough for each of the queue's folders to have been made.
const ALONE: u32 = 300;

/// Who sends at once, and how much each.
const AT_ONCE: usize = 32;
const EACH: u32 = 20;

/// Writes a second of a slow disk.
const WRITES: u32 = 500;

fn put_one(queue: &Queue) {
    let mut draft = queue.begin().expect("a draft");
    draft.content(b"Subject: lunch\n\nAt one?\n").expect("content");
    draft.recipient(&Address::from_internal(b"bob@mx.example").expect("an address")).expect("a recipient");
    let trace = b"Received: by mx.example\n".to_vec();
    draft.commit(&Head { reverse_path: ReversePath::NULL, trace, channel: "local".into() }).expect("on disk");
}

/// Flush requests that the device has completed (Documentation/block/stat.rst, field 16).
fn flushes(device: &Device) -> u32 {
    let stat = Path::new("/sys/block").join(device.name()).join("stat");
    let text = fs::read_to_string(stat).expect("the statistics of a block device");
    text.split_whitespace().nth(15).and_then(|field| field.parse().ok()).expect("a count of flushes")
}

/// With a journal as large as those of disks that people have: each time a small one is full it costs two flushes more.
fn make(image: &Path) {
    fs::File::create(image).and_then(|file| file.set_len(256 << 20)).expect("an image");
    let mut command = std::process::Command::new("mkfs.ext4");
    command.args(["-q", "-F", "-J", "size=64", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
    assert!(command.arg(image).status().expect("mkfs.ext4").success());
}

/// An ext4 of its own.
struct Disk {
    _mount: Mount,
    device: Device,
    _daemon: Option<Daemon>,
    folder: tempfile::TempDir,
}

impl Disk {
    /// As fast as the one below it.
    fn new() -> Disk {
        Disk::behind(|_| None)
    }

    /// One that writes so often a second.
    fn slow(writes: u32) -> Disk {
        Disk::behind(|folder| Some(Daemon::slow(folder, writes)))
    }

    fn behind(start: impl FnOnce(&Path) -> Option<Daemon>) -> Disk {
        withdraw();
        common::usual_umask();
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let at = folder.path().join("mounted");
        fs::create_dir(&at).expect("a mount point");
        make(&folder.path().join("disk"));
        let daemon = start(folder.path());
        let device = Device::new(&folder.path().join(if daemon.is_some() { "shown" } else { "disk" }));
        let mount = Mount::new(Kind::Ext4, &device, &at).expect("an ext4");
        Disk { _mount: mount, device, _daemon: daemon, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("mounted").join(name)
    }

    /// How often it is flushed meanwhile.
    fn flushes(&self, act: impl FnOnce()) -> u32 {
        let before = flushes(&self.device);
        act();
        flushes(&self.device) - before
    }

    /// At most two and a half for each that comes alone.
    fn is_spared(&self, what: &str, alone: u32, put: &impl Fn()) {
        let flushed = self.alone(what, alone, put);
        assert!(flushed * 2 <= alone * 5, "{what}: {flushed} flushes for {alone} messages one after another");
    }

    /// Less than one for each of many that are put there at the same time.
    fn is_shared(&self, what: &str, each: u32, put: &(impl Fn() + Sync)) {
        let together = self.flushes(|| {
            std::thread::scope(|scope| {
                for _ in 0..AT_ONCE {
                    scope.spawn(|| (0..each).for_each(|_| put()));
                }
            });
        });
        let messages = each * AT_ONCE as u32;
        assert!(together < messages, "{what}: {together} flushes for {messages} messages from {AT_ONCE} at once");
    }

    /// Flushes for messages one after another.
    fn alone(&self, what: &str, alone: u32, put: &impl Fn()) -> u32 {
        let flushed = self.flushes(|| (0..alone).for_each(|_| put()));
        assert!(flushed > alone, "{what}: {flushed} flushes for {alone} messages: the rig does not count");
        flushed
    }
}

#[test]
fn a_message_alone_costs_two_flushes_and_a_half_at_most() {
    let disk = Disk::new();
    let queue = Queue::open(&disk.path("queue")).expect("a queue");
    (0..ALONE).for_each(|_| put_one(&queue));
    disk.is_spared("queue", ALONE, &|| put_one(&queue));
}

#[test]
fn messages_at_once_share_flushes() {
    let disk = Disk::slow(WRITES);
    let queue = Queue::open(&disk.path("queue")).expect("a queue");
    make_folders(&queue);
    disk.is_shared("queue", EACH, &|| put_one(&queue));
}

/// Each of the queue's folders has been made then, on a slow disk by many at once.
fn make_folders(queue: &Queue) {
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| (0..ALONE / AT_ONCE as u32).for_each(|_| put_one(queue)));
        }
    });
}

/// An installation whose queue and drop folder lie on the disk. Somebody reads the FIFOs, so that nobody starts deliver.
fn installation(disk: &Disk, main_cf: &str) -> (Scratch, [fs::File; 2]) {
    let (queue, drop) = (disk.path("queue"), disk.path("drop"));
    let places = format!("queue_directory = {}\ndrop_directory = {}\n{main_cf}", queue.display(), drop.display());
    let scratch = Scratch::with(&places);
    let open = Queue::open(&queue).expect("a queue");
    make_folders(&open);
    fs::create_dir(&drop).expect("a folder");
    let triggers = [(queue, 0o600), (drop.clone(), 0o622)].map(|(folder, mode)| {
        let path = folder.join("trigger");
        if !path.exists() {
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a FIFO");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        scratch.hand_over(&folder);
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path).expect("the FIFO")
    });
    fs::set_permissions(&drop, fs::Permissions::from_mode(0o1733)).expect("its mode");
    (scratch, triggers)
}

const LUNCH: &str = "Subject: lunch\r\n\r\nAt one?\r\n";

/// One session with one message.
fn session(address: SocketAddr) {
    smtp(address, LUNCH, "250 2.0.0");
}

/// A pool for SMTP, with its submit.
fn pool(disk: &Disk, scratch: &Scratch) -> (Server, SocketAddr) {
    Server::pool(&mut scratch.command("smtpd"), &["-n", "50"], &disk.path("queue"))
}

const POOL: &str = "idle_children = 4\nmax_use = 100";

#[test]
fn a_session_of_smtp_costs_no_more_than_its_message() {
    let disk = Disk::new();
    let (scratch, _triggers) = installation(&disk, POOL);
    let (_server, address) = pool(&disk, &scratch);
    disk.is_spared("smtpd, smtpsrvr and submit", 100, &|| session(address));
}

/// All in one session: seven of eight find the name of their file on disk.
#[test]
fn a_message_behind_another_costs_one_flush_and_a_half_at_most() {
    const MESSAGES: u32 = 100;
    let disk = Disk::new();
    let (scratch, _triggers) = installation(&disk, POOL);
    let (_server, address) = pool(&disk, &scratch);
    let all = [LUNCH; MESSAGES as usize];
    let flushed = disk.flushes(|| drop(smtp_one_by_one(address, &all, "250 2.0.0")));
    assert!(flushed > MESSAGES, "{flushed} flushes for {MESSAGES} messages: the rig does not count");
    assert!(flushed * 2 <= MESSAGES * 3, "{flushed} flushes for {MESSAGES} messages in one session");
}

#[test]
fn sessions_of_smtp_at_once_share_flushes() {
    let disk = Disk::slow(WRITES);
    let (scratch, _triggers) = installation(&disk, POOL);
    let (_server, address) = pool(&disk, &scratch);
    disk.is_shared("smtpd, smtpsrvr and submit", EACH, &|| session(address));
}

/// By a user who may not write the queue, nor open the folder to have its entries put on disk: on ext4 that is not needed.
#[test]
fn a_message_in_the_drop_folder_costs_two_flushes_and_a_half_at_most_too() {
    const MESSAGES: u32 = 100;
    let disk = Disk::new();
    let (scratch, _triggers) = installation(&disk, "");
    let put = || {
        let mut command = scratch.command("submit");
        command.arg0("sendmail").args(["-i", "-f", "games@mx.example", "bob@mx.example"]).uid(5).gid(60);
        let output = feed(&mut command, b"Subject: lunch\n\nAt one?\n");
        assert!(output.status.success(), "{output:?}");
    };
    disk.is_spared("sendmail", MESSAGES, &put);
    let left = fs::read_dir(disk.path("drop")).expect("the drop folder").count();
    assert_eq!(left, MESSAGES as usize + 1, "all of them, and the FIFO");
}
