//! A file system on a disk that keeps a log of all that is written to it.
//!
//! qemu-storage-daemon lays `blklogwrites` over a file and shows the result as another file through FUSE; a loop device
//! on that is mounted. All of it lies in memory (/dev/shm), so that a flush costs nothing, and all of it goes with
//! the value, whatever happens to the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

/// Blocks of a group of ext4, so few that there is a second one, with a copy of the superblock in its first block.
const EXT4_GROUP: u32 = 8192;

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Ext4, Kind::Xfs, Kind::Btrfs];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
        }
    }

    /// Octets: the least that its mkfs takes, with room for the mail of a recording.
    fn size(self) -> u64 {
        match self {
            Kind::Ext4 => 48 << 20,
            Kind::Xfs => 300 << 20,
            Kind::Btrfs => 160 << 20,
        }
    }

    /// Octets of this write that the disk writes whole or not at all: sectors, but for the superblocks of btrfs. An fsync
    /// there writes the first one only, with a checksum over all its 4096 octets: with half of it whatever was fsynced since
    /// the last commit is gone, and no program can help that. What half a superblock is to ext4: see [`Kind::mend`].
    pub fn atom(self, offset: u64, length: u64) -> usize {
        const SUPERBLOCKS: [u64; 2] = [64 << 10, 64 << 20];
        let has_superblock = SUPERBLOCKS.iter().any(|place| (offset..offset + length).contains(place));
        if self == Kind::Btrfs && has_superblock { 4096 } else { 512 }
    }

    /// What an administrator does who finds that an image does not mount; whether there is something to be done.
    ///
    /// ext4 writes its superblock, two sectors in a block of eight, in place and reads it, with its checksum, before the
    /// journal. A cut between the two sectors leaves none that is valid. e2fsck goes on from a copy if it is told where one
    /// is, and runs the journal, so nothing is lost.
    pub fn mend(self, image: &Path) -> bool {
        if self != Kind::Ext4 {
            return false;
        }
        let place = EXT4_GROUP.to_string();
        let e2fsck = Command::new("e2fsck").args(["-y", "-B", "4096", "-b", &place]).arg(image).output();
        // 1: all is mended.
        e2fsck.expect("e2fsck").status.code() == Some(1)
    }

    /// Makes a file that holds an empty one.
    pub fn make(self, image: &Path) {
        fs::File::create(image).and_then(|file| file.set_len(self.size())).expect("an image");
        let image = image.to_str().expect("a path");
        match self {
            Kind::Ext4 => run("mkfs.ext4", &["-q", "-b", "4096", "-g", &EXT4_GROUP.to_string(), image]),
            Kind::Xfs => run("mkfs.xfs", &["-q", image]),
            Kind::Btrfs => run("mkfs.btrfs", &["-q", image]),
        };
    }

    /// Timers that write to the disk by themselves would hide a missing fsync.
    fn options(self) -> &'static str {
        match self {
            Kind::Ext4 => "commit=999",
            Kind::Xfs => "defaults",
            Kind::Btrfs => "commit=999,nodiscard",
        }
    }

    /// Looks for damage in an image that is not mounted, and mends nothing.
    pub fn check(self, image: &Path) -> Result<(), String> {
        let (program, arguments): (&str, &[&str]) = match self {
            Kind::Ext4 => ("e2fsck", &["-fn"]),
            Kind::Xfs => ("xfs_repair", &["-n", "-f"]),
            Kind::Btrfs => ("btrfs", &["check", "--force"]),
        };
        let output = Command::new(program).args(arguments).arg(image).output().expect("a checker of file systems");
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{program}: {}{}", text(&output.stdout), text(&output.stderr)))
    }
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// Runs a program that must succeed; gives what it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

/// Puts the calling thread, and what it starts, where nobody else sees what it mounts and everything is unmounted at its
/// end.
pub fn withdraw() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace (needs root)");
    let private = nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("a private mount namespace");
}

/// A mounted file system; unmounted when dropped.
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts a device; that runs the recovery of the journal.
    pub fn new(kind: Kind, device: &Device, at: &Path) -> Result<Mount, String> {
        let output = Command::new("mount")
            .args(["-t", kind.name(), "-o", kind.options(), &device.0])
            .arg(at)
            .output()
            .expect("mount(8)");
        if output.status.success() { Ok(Mount(at.to_owned())) } else { Err(text(&output.stderr)) }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A process of the test that is just ending may still be in there.
        for _ in 0..200 {
            if nix::mount::umount(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// The recorder. Its parts are dropped in this order: file system, loop device, daemon.
pub struct LoggedDisk {
    _mount: Mount,
    _device: Device,
    _daemon: Daemon,
    folder: PathBuf,
}

impl LoggedDisk {
    /// Makes a file system in `folder` and mounts it at `at`.
    pub fn new(kind: Kind, folder: &Path, at: &Path) -> LoggedDisk {
        fs::create_dir_all(folder).expect("a folder");
        fs::create_dir_all(at).expect("a mount point");
        let base = folder.join("base");
        kind.make(&base);
        fs::copy(&base, folder.join("disk")).expect("a copy of the image");
        let daemon = Daemon::logging(folder);
        let device = Device::new(&folder.join("shown"));
        let mount = Mount::new(kind, &device, at).expect("a new file system");
        LoggedDisk { _mount: mount, _device: device, _daemon: daemon, folder: folder.to_owned() }
    }

    /// The log, whose length tells how far the disk is.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Unmounts; the log is complete. Gives the folder for `Replay::open`.
    pub fn finish(self) -> PathBuf {
        self.folder.clone()
    }
}

/// A loop device.
pub struct Device(String);

impl Device {
    /// One for this file and nothing else.
    pub fn new(file: &Path) -> Device {
        Device(run("losetup", &["-f", "--show", file.to_str().expect("a path")]))
    }

    /// As /sys/block calls it.
    pub fn name(&self) -> &str {
        self.0.trim_start_matches("/dev/")
    }
}

impl Drop for Device {
    /// Waits until the kernel has let go: whoever still has the file system mounted (another mount namespace, say) would
    /// let the next cut see this one.
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
        let used = Path::new("/sys/block").join(self.name()).join("loop");
        let end = Instant::now() + Duration::from_secs(20);
        while used.exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(!used.exists() || std::thread::panicking(), "{} is still in use", self.0);
    }
}

/// The process between an image, the file `disk` of a folder, and what is shown of it, the file `shown` there.
pub struct Daemon {
    child: Child,
    shown: PathBuf,
}

impl Daemon {
    /// One that notes each write and each flush in the file `log` of that folder.
    fn logging(folder: &Path) -> Daemon {
        let log = folder.join("log");
        fs::write(&log, b"").expect("a file");
        let log = format!("driver=file,filename={},node-name=log", log.display());
        let layer = "driver=blklogwrites,file=disk,log=log,log-sector-size=512,node-name=top";
        Daemon::start(folder, &["--blockdev", &log, "--blockdev", layer])
    }

    /// One that lets so many writes pass each second, as a disk with turning parts.
    pub fn slow(folder: &Path, writes: u32) -> Daemon {
        let group = format!("throttle-group,id=slow,x-iops-write={writes}");
        let layer = "driver=throttle,throttle-group=slow,file=disk,node-name=top";
        Daemon::start(folder, &["--object", &group, "--blockdev", layer])
    }

    /// The layers are over the node `disk`; that which is shown is called `top`.
    fn start(folder: &Path, layers: &[&str]) -> Daemon {
        let path = |name: &str| folder.join(name).to_str().expect("a path").to_owned();
        fs::write(folder.join("shown"), b"").expect("a file");
        let child = Command::new("qemu-storage-daemon")
            .args(["--blockdev", &format!("driver=file,filename={},node-name=disk", path("disk"))])
            .args(layers)
            .args(["--export"])
            .arg(format!("type=fuse,id=shown,node-name=top,mountpoint={},writable=on", path("shown")))
            .stdin(Stdio::null())
            .spawn()
            .expect("qemu-storage-daemon (Debian: qemu-utils; Debian 12: qemu-system-common)");
        let mut daemon = Daemon { child, shown: folder.join("shown") };
        let end = Instant::now() + Duration::from_secs(20);
        while fs::metadata(&daemon.shown).is_ok_and(|metadata| metadata.len() == 0) {
            assert!(daemon.child.try_wait().is_ok_and(|ended| ended.is_none()), "qemu-storage-daemon went away");
            assert!(Instant::now() < end, "qemu-storage-daemon shows nothing");
            std::thread::sleep(Duration::from_millis(2));
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It ends orderly and with a whole log on SIGTERM.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
        let _ = nix::mount::umount2(&self.shown, nix::mount::MntFlags::MNT_DETACH);
    }
}
