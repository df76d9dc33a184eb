//! Nothing acknowledged is lost when the power goes.
//!
//! The real programs run on file systems whose every write to the disk is logged; then the disk is put together again as
//! a power cut at any point would leave it, mounted, and delivered from. What a client had been told is taken must be
//! in its mailbox, whole and once; nothing may be there in part; a mailbox from which POP3 removed messages is the one of
//! before or of after QUIT, and the latter once QUIT was answered; and the file system must be sound.
//!
//! Two kinds of disk are cut: one that writes everything at once (prefix), and one with a cache, of which any part may
//! be lost or torn that was not flushed (subset). With the queue and the mailboxes on two disks both lose power at the
//! same moment, each with a cache of its own.
//!
//! A rig that finds nothing proves nothing: the same rig must find planted faults.
//!
//! Needs root, qemu-storage-daemon (Debian: qemu-utils; Debian 12: qemu-system-common), e2fsprogs, xfsprogs, btrfs-progs and
//! strace. `POWERCUT_CUTS` says how many cuts there are in all (300), `POWERCUT_SEED` repeats a run.
#![allow(clippy::print_stderr)]

mod common;

mod powercut {
    pub mod check;
    // What is slow there is for tests/flushes.rs.
    #[allow(dead_code)]
    pub mod disk;
    pub mod image;
    pub mod log;
    pub mod pool;
    pub mod pop3;
    pub mod workload;
}

use common::chance::Chance;
use powercut::check::Restarted;
use powercut::disk::{Kind, withdraw};
use powercut::image::{Mode, Replay};
use powercut::pop3::Maildrop;
use powercut::workload::{Acknowledged, Load, Plant, Recording, Site, record};
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Most cuts of one recording.
const CUTS_OF_ONE: usize = 1000;

/// The disks are in memory, and two cores are soon busy: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// Cuts for a test that gets `percent` of them.
fn cuts(percent: usize) -> usize {
    (number("POWERCUT_CUTS", 300) as usize * percent / 100).max(5)
}

fn seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
    number("POWERCUT_SEED", now % 1_000_000_000)
}

/// A line that is seen while tests run.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "powercut: {line}");
}

/// Cuts a recording at `count` moments. With `planted`, which says where the fault shows, it ends at
/// the first violation. Gives the number of cuts and the violations.
fn cut(
    kind: Kind,
    recording: &Recording,
    mode: Mode,
    count: usize,
    chance: &mut Chance,
    planted: Option<&Fault<'_>>,
) -> (usize, Vec<String>) {
    let all = recording.moments.len();
    let first = planted.map_or(0, |fault| (all * fault.from / 100).min(all - 1));
    let mut moments: Vec<usize> = match mode {
        Mode::Subset => (0..count).map(|_| first + chance.below(all - first)).collect(),
        // The same cut again would show nothing new.
        Mode::Prefix => {
            let mut left: Vec<usize> = (first..all).collect();
            (0..count.min(all - first)).map(|_| left.swap_remove(chance.below(left.len()))).collect()
        }
    };
    moments.sort_unstable();
    let mut disks: Vec<Replay> =
        recording.disks.iter().map(|folder| Replay::open(folder, kind).expect("a recording")).collect();
    let mut machine = Restarted::new(kind, recording.disks.iter().map(|folder| folder.join("cut")).collect());
    machine.looks_at_disks = planted.is_none();
    let mut wrong = Vec::new();
    let mut mended = 0;
    for (done, moment) in moments.iter().enumerate() {
        let moment = &recording.moments[*moment];
        for ((disk, position), image) in disks.iter_mut().zip(moment).zip(&machine.images) {
            disk.cut(*position, mode, chance, image).expect("a disk after the cut");
        }
        let told = planted.map_or(Moment::Reply, |fault| fault.told);
        let acknowledged: Vec<&Acknowledged> = recording
            .acknowledged
            .iter()
            .filter(|message| told.of(message).iter().zip(moment).all(|(a, b)| a <= b))
            .collect();
        // What the next hop has had the end of only later, it had not then.
        let is_before = |at: &[u64]| at.iter().zip(moment).all(|(a, b)| a <= b);
        let taken: Vec<usize> =
            recording.taken.iter().filter(|(_, at)| is_before(at)).map(|(number, _)| *number).collect();
        let maildrops: Vec<(Maildrop, bool)> =
            recording.emptied.iter().map(|(maildrop, at)| (*maildrop, is_before(at))).collect();
        let found = machine.violations(&acknowledged, &taken, &maildrops);
        if machine.mended.get() > mended {
            mended = machine.mended.get();
            say(&format!("{} mounted only when its checker had mended it: {mode:?} at {moment:?}", kind.name()));
        }
        if !found.is_empty() {
            wrong.push(format!("at {moment:?}: {}", found.join("; ")));
            if planted.is_some() {
                return (done + 1, wrong);
            }
        }
    }
    (moments.len(), wrong)
}

/// When a message counts as acknowledged.
#[derive(Clone, Copy)]
enum Moment {
    /// When the client had read the reply.
    Reply,
    /// Before it had sent the end of the message: a server that replies too early.
    Early,
}

impl Moment {
    fn of(self, message: &Acknowledged) -> &[u64] {
        match self {
            Moment::Reply => &message.position,
            Moment::Early => &message.early,
        }
    }
}

fn in_memory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("doorpost-powercut-").tempdir_in("/dev/shm").expect("a folder in memory")
}

/// Records and cuts in both modes until all cuts are made, and fails with every violation.
fn nothing_is_lost(kind: Kind, disks: usize, percent: usize) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    withdraw();
    let seed = seed();
    let mut chance = Chance(seed);
    let mut left = cuts(percent);
    let mut totals = [(Mode::Prefix, Total::default()), (Mode::Subset, Total::default())];
    let mut violations = Vec::new();
    while left > 0 {
        let count = left.min(CUTS_OF_ONE);
        left -= count;
        let folder = in_memory();
        let load = Load::mixed((count / 5).clamp(12, 150));
        let recording = record(kind, disks, &load, folder.path(), &|_| {});
        assert_eq!(recording.emptied.len(), load.maildrops.len(), "not every session of POP3 came to its end");
        assert_eq!(recording.acknowledged.len(), recording.messages, "not every message was acknowledged");
        let mut rest = count;
        for (mode, total) in &mut totals {
            let share = if *mode == Mode::Prefix { count * 2 / 5 } else { rest };
            let started = Instant::now();
            let (done, wrong) = cut(kind, &recording, *mode, share, &mut chance, None);
            rest -= done;
            total.messages += recording.messages;
            total.cuts += done;
            total.violations += wrong.len();
            total.time += started.elapsed();
            violations.extend(wrong.into_iter().map(|text| format!("{mode:?} {text}")));
        }
    }
    for (mode, total) in &totals {
        let disks = if disks == 1 { "one disk" } else { "two disks" };
        let speed = total.cuts as f64 / total.time.as_secs_f64();
        say(&format!(
            "| {} | {disks} | {mode:?} | {} | {} | {} | {speed:.1} | {seed}",
            kind.name(),
            total.messages,
            total.cuts,
            total.violations
        ));
    }
    assert!(violations.is_empty(), "POWERCUT_SEED={seed}: {} violations:\n{}", violations.len(), violations.join("\n"));
}

#[derive(Default)]
struct Total {
    messages: usize,
    cuts: usize,
    violations: usize,
    time: Duration,
}

#[test]
fn ext4_loses_nothing_acknowledged() {
    nothing_is_lost(Kind::Ext4, 1, 40);
}

#[test]
fn xfs_loses_nothing_acknowledged() {
    nothing_is_lost(Kind::Xfs, 1, 10);
}

#[test]
fn btrfs_loses_nothing_acknowledged() {
    nothing_is_lost(Kind::Btrfs, 1, 15);
}

#[test]
fn two_disks_of_ext4_cut_at_one_moment_lose_nothing_acknowledged() {
    nothing_is_lost(Kind::Ext4, 2, 20);
}

#[test]
fn two_disks_of_xfs_cut_at_one_moment_lose_nothing_acknowledged() {
    nothing_is_lost(Kind::Xfs, 2, 5);
}

#[test]
fn two_disks_of_btrfs_cut_at_one_moment_lose_nothing_acknowledged() {
    nothing_is_lost(Kind::Btrfs, 2, 10);
}

/// ext4 writes its superblock in place, in two sectors: between them there is none that counts, and it does not mount.
#[test]
fn an_ext4_with_half_a_superblock_is_mended_from_a_copy_and_loses_nothing() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    withdraw();
    let folder = in_memory();
    let recording = record(Kind::Ext4, 1, &Load::mixed(12), folder.path(), &|_| {});
    let machine = Restarted::new(Kind::Ext4, vec![recording.disks[0].join("cut")]);
    let end = recording.moments.last().expect("a moment")[0];
    let mut disk = Replay::open(&recording.disks[0], Kind::Ext4).expect("a recording");
    disk.cut(end, Mode::Prefix, &mut Chance(seed()), &machine.images[0]).expect("a disk after the cut");
    // The time of the last write is in the first of the two sectors, the checksum in the second.
    let image = fs::File::options().write(true).open(&machine.images[0]).expect("the disk");
    image.write_all_at(b"torn", 1024 + 0x30).expect("half a superblock");
    drop(image);
    let acknowledged: Vec<&Acknowledged> = recording.acknowledged.iter().collect();
    let taken: Vec<usize> = recording.taken.iter().map(|(number, _)| *number).collect();
    let maildrops: Vec<(Maildrop, bool)> = recording.emptied.iter().map(|(maildrop, _)| (*maildrop, true)).collect();
    assert_eq!(machine.violations(&acknowledged, &taken, &maildrops), Vec::<String>::new());
    assert_eq!(machine.mended.get(), 1, "it mounted with half a superblock");
}

/// A fault that the rig must find on every file system. Which it cannot find, and why, is in bench/POWERCUT.md.
struct Fault<'a> {
    what: &'a str,
    disks: usize,
    told: Moment,
    load: Load,
    /// From this part of all moments on it shows, in percent; 100 is the last one.
    from: usize,
}

impl Fault<'_> {
    /// One that shows anywhere, in a message more or less.
    fn of(what: &str) -> Fault<'_> {
        Fault { what, disks: 1, told: Moment::Reply, load: Load::mixed(24), from: 0 }
    }

    /// Records with it planted: it must be found in at most 60 cuts of each mode.
    fn is_found(&self, plant: &Plant<'_>) {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        withdraw();
        let seed = seed();
        let mut chance = Chance(seed);
        for kind in Kind::ALL {
            let started = Instant::now();
            let folder = in_memory();
            let recording = record(kind, self.disks, &self.load, folder.path(), plant);
            for mode in [Mode::Prefix, Mode::Subset] {
                let (cuts, wrong) = cut(kind, &recording, mode, 60, &mut chance, Some(self));
                let seen: String = wrong.first().map_or("not found", String::as_str).chars().take(200).collect();
                let (what, name, time) = (self.what, kind.name(), started.elapsed().as_secs_f32());
                say(&format!("planted {what} | {name} | {mode:?} | {cuts} cuts | {time:.1} s | {seen}"));
                assert!(
                    !wrong.is_empty(),
                    "POWERCUT_SEED={seed}: on {name}, {mode:?}, the rig does not see {what}, so it proves nothing"
                );
            }
        }
    }
}

/// Puts a script in the place of a program, which runs it under strace with `inject`: the calls it names are not
/// made and return success.
fn without_calls(site: &Site, program: &str, inject: &[String]) {
    let folder = site.scratch.path().join("planted");
    fs::create_dir(&folder).expect("a folder");
    for other in ["smtpd", "smtpsrvr", "qmqpd", "submit", "deliver", "pop3d"] {
        let real = common::binary(other);
        let path = folder.join(other);
        if other == program {
            let script = format!(
                "#!/bin/sh\nexec strace -D -f -qq -o /dev/null {} '{}' \"$@\"\n",
                inject.join(" "),
                real.display()
            );
            common::write_program(&path, &script);
        } else {
            std::os::unix::fs::symlink(real, path).expect("a link");
        }
    }
    site.scratch.hand_over(&folder);
    site.scratch.configure(&format!("daemon_directory = {}", folder.display()));
}

const NO_FSYNC: &str = "-e trace=fsync,fdatasync -e inject=fsync,fdatasync:retval=0";

#[test]
fn a_queue_without_fsync_is_found() {
    Fault::of("submit without fsync").is_found(&|site| without_calls(site, "submit", &[NO_FSYNC.to_owned()]));
}

#[test]
fn a_delivery_without_fsync_is_found() {
    let fault = Fault { from: 50, ..Fault::of("deliver without fsync") };
    fault.is_found(&|site| without_calls(site, "deliver", &[NO_FSYNC.to_owned()]));
}

/// The folder new/ alone is not synced: the queue forgets a message whose name in the mailbox is not on disk yet. On one disk
/// that cannot be seen: the name came before the removal from the queue, and each of these file systems puts the
/// changes of names on disk in their order (btrfs logs the new name of a file that it has logged).
#[test]
fn a_delivery_without_fsync_of_the_folder_is_found() {
    let load = Load { maildrops: Vec::new(), settles_queue: true, ..Load::mixed(24) };
    let fault = Fault { disks: 2, load, from: 100, ..Fault::of("deliver without fsync of new/") };
    fault.is_found(&|site| {
        let mut inject = vec![NO_FSYNC.to_owned()];
        inject.extend(site.folders_of_mail().iter().map(|folder| format!("-P '{}'", folder.display())));
        without_calls(site, "deliver", &inject);
    });
}

/// Of an mbox and an MMDF alone.
#[test]
fn a_delivery_into_one_file_without_fsync_is_found() {
    let fault = Fault { from: 60, ..Fault::of("deliver without fsync of mbox and MMDF") };
    fault.is_found(&|site| {
        let paths = [site.mbox(), site.mmdf()].map(|path| format!("-P '{}'", path.display()));
        without_calls(site, "deliver", &[vec![NO_FSYNC.to_owned()], paths.to_vec()].concat());
    });
}

/// pop3d without the fsync of some files and folders, which `paths` gives for a mailbox in the folder of all; every
/// mailbox is of the kind of the `first` one, so that nothing else can be found.
fn a_quit_is_found(what: &str, first: usize, from: usize, paths: &dyn Fn(Maildrop, &Path) -> Vec<PathBuf>) {
    let maildrops: Vec<Maildrop> = (first..24).step_by(2).map(Maildrop).collect();
    let load = Load { messages: 0, maildrops: maildrops.clone(), settles_queue: false };
    Fault { load, from, ..Fault::of(what) }.is_found(&|site| {
        let folder = site.read_folder();
        let mut paths: Vec<PathBuf> = maildrops.iter().flat_map(|maildrop| paths(*maildrop, &folder)).collect();
        paths.dedup();
        let paths = paths.iter().map(|path| format!("-P '{}'", path.display()));
        let inject: Vec<String> = std::iter::once(NO_FSYNC.to_owned()).chain(paths).collect();
        without_calls(site, "pop3d", &inject);
    });
}

#[test]
fn a_new_mbox_without_fsync_is_found() {
    a_quit_is_found("pop3d without fsync of the new mbox", 0, 0, &|maildrop, folder| vec![maildrop.draft(folder)]);
}

#[test]
fn a_new_mbox_without_fsync_of_its_folder_is_found() {
    a_quit_is_found("pop3d without fsync of the folder of an mbox", 0, 0, &|_, folder| vec![folder.to_owned()]);
}

/// Nothing else is written then: it shows when all is over.
#[test]
fn a_removal_from_a_maildir_without_fsync_is_found() {
    let paths = |maildrop: Maildrop, folder: &Path| maildrop.folders(folder).into();
    a_quit_is_found("pop3d without fsync of new/ and cur/", 1, 100, &paths);
}

#[test]
fn a_reply_before_the_message_is_on_disk_is_found() {
    Fault { told: Moment::Early, ..Fault::of("an early reply") }.is_found(&|_| {});
}
