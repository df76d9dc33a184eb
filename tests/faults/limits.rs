//! Limits of the kernel and disks that are full or read-only: what is told, what is kept, and that all is well again
//! when the limit is gone.
//!
//! A limit of a file's size makes short writes too: the kernel takes what fits, and refuses the rest.

use super::super::*;

/// One of our programs under a limit of prlimit(1), which its children inherit.
fn limited(scratch: &Scratch, limit: &str, program: &str) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(limit).arg(common::binary(program));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", scratch.path());
    command
}

/// The files of messages.
fn queue_files(scratch: &Scratch) -> Vec<PathBuf> {
    files(&scratch.queue().join("message")).iter().flat_map(|folder| files(folder)).collect()
}

fn size_of_one(files: &[PathBuf]) -> u64 {
    assert_eq!(files.len(), 1, "{files:?}");
    fs::metadata(&files[0]).expect("a file").len()
}

#[test]
fn a_limit_of_file_size_at_each_octet_of_a_message_is_a_full_disk() {
    let whole = size_of_one(&queue_files(&queued()));
    for case in [smtp(Traced::Itself), qmqp(Traced::Itself)] {
        let scratch = receiving();
        let (mut taken, mut refused) = (0, 0);
        // The trace field ends 2112 octets behind the beginning and is never this long: below, nothing is written at all.
        for size in (0..1500).step_by(100).chain(1500..whole + 40) {
            let what = format!("{} with files of at most {size}", case.program);
            let output = feed(&mut limited(&scratch, &format!("--fsize={size}"), case.program), &case.input);
            assert_eq!(output.status.code(), Some(0), "{what}: {output:?}");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            if acknowledged(&output) {
                taken += 1;
            } else {
                refused += 1;
                assert!(said.contains("\r\n452 4.3.1") || said.contains(":Z"), "{what}: {said}");
            }
            assert_eq!(scratch.queued().len(), taken, "{what}: queued");
        }
        assert!(taken > 0 && refused > 100, "{}: {taken} taken, {refused} refused", case.program);
        for message in scratch.queued() {
            assert_eq!(message.content(), BODY.as_bytes(), "{}: torn", case.program);
        }
        delivered_once(&scratch, taken, case.program);
    }
}

#[test]
fn a_limit_of_file_size_at_each_octet_of_a_delivery_defers_it() {
    let scratch = queued();
    let mut deferred = 0;
    for size in 0.. {
        assert!(size < 10_000, "never delivered");
        let message = scratch.queued();
        let Some(message) = message.first() else { break };
        let output = feed(limited(&scratch, &format!("--fsize={size}"), "deliver").arg(&message.id), b"");
        assert!(output.status.code().is_some(), "files of at most {size}: {output:?}");
        let mail = scratch.mail("bob");
        assert!(mail.len() <= 1 && mail.iter().all(|text| text.ends_with(BODY.as_bytes())), "{size}: torn");
        deferred += 1;
    }
    assert!(deferred > BODY.len(), "only {deferred} sizes were too small");
    delivered_once(&scratch, 1, "after all sizes");
}

#[test]
fn a_limit_of_file_size_at_each_octet_leaves_the_old_or_the_new_mbox() {
    for size in 0..=u64::try_from(MBOX_KEPT.len()).expect("a size") + 2 {
        let scratch = mbox();
        let case = pop3(Traced::Itself);
        let output = feed(&mut limited(&scratch, &format!("--fsize={size}"), case.program), &case.input);
        assert!(output.status.code().is_some(), "files of at most {size}: {output:?}");
        old_or_new(&scratch, &output, &format!("files of at most {size}"));
    }
}

/// From too few descriptors to load the C library to more than are needed.
#[test]
fn with_any_number_of_descriptors_nothing_acknowledged_is_lost() {
    for case in [smtp(Traced::Itself), qmqp(Traced::Itself)] {
        let (mut taken, mut told) = (0, 0);
        for number in 3..40 {
            let scratch = receiving();
            let what = format!("{} with {number} descriptors", case.program);
            let output = feed(&mut limited(&scratch, &format!("--nofile={number}"), case.program), &case.input);
            assert!(output.status.code().is_some(), "{what}: ended by a signal: {output:?}");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            taken += usize::from(acknowledged(&output));
            told += usize::from(said.contains("421 ") || said.contains("\r\n45") || said.contains(":Z"));
            // 127: ld.so could not open the C library, and nothing of ours ever ran.
            let silent = !acknowledged(&output) && said.is_empty();
            assert!(!silent || output.status.code() == Some(127), "{what}: silence: {output:?}");
            kept(&scratch, &output, &what);
        }
        assert!(taken > 10 && told > 0, "{}: {taken} taken, {told} put off", case.program);
    }
}

#[test]
fn with_any_number_of_descriptors_a_message_is_delivered_once() {
    for number in 3..40 {
        let scratch = queued();
        let what = format!("deliver with {number} descriptors");
        let output = feed(&mut limited(&scratch, &format!("--nofile={number}"), "deliver"), b"");
        assert!(output.status.code().is_some(), "{what}: ended by a signal: {output:?}");
        due_again(&scratch);
        delivered_once(&scratch, 1, &what);
    }
}

#[test]
fn with_any_number_of_descriptors_a_mailbox_loses_nothing_unmarked() {
    for number in 3..40 {
        for prepare in [mailbox, mbox] {
            let (scratch, case) = (prepare(), pop3(Traced::Itself));
            let what = format!("pop3d with {number} descriptors");
            let output = feed(&mut limited(&scratch, &format!("--nofile={number}"), case.program), &case.input);
            assert!(output.status.code().is_some(), "{what}: ended by a signal: {output:?}");
            match scratch.maildir("bob").is_dir() {
                true => unmarked_is_kept(&scratch, &output, &what),
                false => old_or_new(&scratch, &output, &what),
            }
        }
    }
}

/// A file system of its own for a folder, small and soon full or read-only. Only root can mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn on(scratch: &Scratch, folder: &Path, options: &str) -> SmallDisk {
        mount(&["-t", "tmpfs", "-o", options, "tmpfs"], folder);
        let disk = SmallDisk(folder.to_owned());
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("mode of the folder");
        scratch.hand_over(folder);
        disk
    }

    fn remount(&self, option: &str) {
        mount(&["-o", &format!("remount,{option}")], &self.0);
    }
}

fn mount(arguments: &[&str], folder: &Path) {
    let mounted = Command::new("mount").args(arguments).arg(folder).status().expect("mount(8)");
    assert!(mounted.success(), "mounting a small tmpfs needs root");
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_read_only_queue_is_told_as_temporary_within_a_second_and_is_well_again() {
    let mut scratch = receiving();
    scratch.let_deliver_start();
    let disk = SmallDisk::on(&scratch, &scratch.queue(), "size=1m");
    let reader = hold_trigger(&scratch);
    assert!(acknowledged(&feed(&mut scratch.command("smtpsrvr"), &smtp(Traced::Itself).input)));
    disk.remount("ro");
    for case in [smtp(Traced::Itself), qmqp(Traced::Itself)] {
        let begun = std::time::Instant::now();
        let output = feed(&mut scratch.command(case.program), &case.input);
        assert!(begun.elapsed().as_secs() < 1, "{} took {:?}", case.program, begun.elapsed());
        assert!(!acknowledged(&output), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("\r\n451 4.3.0") || said.contains("\r\n452 4.3.1") || said.contains(":Z"), "{said}");
    }
    let output = scratch.run("deliver", &[], b"");
    assert!(output.status.code().is_some(), "{output:?}");
    assert_eq!(queue_files(&scratch).len(), 1, "the queue changed");
    disk.remount("rw");
    assert!(acknowledged(&feed(&mut scratch.command("qmqpd"), &qmqp(Traced::Itself).input)), "not well again");
    due_again(&scratch);
    scratch.deliver();
    // What cannot be marked as delivered may come again, under the same name, so not twice.
    assert_eq!((scratch.queued().len(), scratch.mail("bob").len()), (0, 2));
    drop((reader, disk));
}

#[test]
fn read_only_mailboxes_defer_deliveries_and_refuse_to_remove() {
    let scratch = queued();
    let disk = SmallDisk::on(&scratch, &scratch.path().join("mail"), "size=1m");
    scratch.put_mail("bob", "1700000000.M0.mx", b"Subject: one\n\nto be removed\n");
    scratch.put_mail("bob", "1700000001.M1.mx", b"Subject: two\n\nto be kept\n");
    disk.remount("ro");
    scratch.deliver();
    assert_eq!((scratch.queued().len(), scratch.mail("bob").len()), (1, 2), "deferred");
    let case = pop3(Traced::Itself);
    let output = feed(&mut scratch.command(case.program), &case.input);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.lines().last().is_some_and(|line| line.starts_with("-ERR")), "{said}");
    assert_eq!(scratch.mail("bob").len(), 2, "removed from a read-only mailbox");
    disk.remount("rw");
    let output = feed(&mut scratch.command(case.program), &case.input);
    assert!(output.stdout.ends_with(b"+OK Goodbye\r\n"), "{output:?}");
    due_again(&scratch);
    scratch.deliver();
    assert_eq!((scratch.queued().len(), scratch.mail("bob").len()), (0, 2), "one removed, one delivered");
    drop(disk);
}

#[test]
fn a_full_disk_is_told_as_temporary_and_is_well_again_when_space_returns() {
    for options in ["size=64k", "size=1m,nr_inodes=8"] {
        let mut scratch = receiving();
        scratch.let_deliver_start();
        let disk = SmallDisk::on(&scratch, &scratch.queue(), options);
        let big = smtp_with(&"x".repeat(900), 60);
        let mut refused = None;
        let reader = hold_trigger(&scratch);
        for case in [&smtp(Traced::Itself), &big].into_iter().cycle().take(40) {
            let output = feed(&mut scratch.command(case.program), &case.input);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(0), "{options}: {output:?}");
            if !acknowledged(&output) {
                assert!(said.contains("\r\n452 4.3.1") || said.contains("\r\n451 4.3.0"), "{options}: {said}");
                refused = Some(said);
                break;
            }
        }
        assert!(refused.is_some(), "{options}: the disk never filled");
        let before = scratch.queued().len();
        assert!(before > 0, "{options}: nothing was taken before the disk filled");
        let output = feed(&mut scratch.command("qmqpd"), &qmqp_with(60).input);
        assert!(String::from_utf8_lossy(&output.stdout).contains(":Z"), "{options}: {output:?}");
        assert_eq!(scratch.queued().len(), before, "{options}: the queue changed");
        scratch.deliver();
        assert_eq!((scratch.queued().len(), scratch.mail("bob").len()), (0, before), "{options}: delivered");
        let output = feed(&mut scratch.command("smtpsrvr"), &smtp(Traced::Itself).input);
        assert!(acknowledged(&output), "{options}: not well again: {output:?}");
        drop((reader, disk));
    }
}

fn hold_trigger(scratch: &Scratch) -> fs::File {
    use std::os::unix::fs::OpenOptionsExt;
    let path = scratch.queue().join("trigger");
    let _ = nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600));
    scratch.hand_over(&path);
    fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).expect("the trigger")
}

fn smtp_with(line: &str, lines: usize) -> Case {
    let body = format!("{line}\r\n").repeat(lines);
    let input = format!(
        "EHLO c\r\nMAIL FROM:<alice@mx.example>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\nSubject: big\r\n\r\n{body}.\r\nQUIT\r\n"
    );
    Case { program: "smtpsrvr", traced: Traced::Itself, input: input.into() }
}

fn qmqp_with(lines: usize) -> Case {
    let netstring = |text: &str| format!("{}:{text},", text.len());
    let body = format!("Subject: big\n\n{}", format!("{}\n", "y".repeat(900)).repeat(lines));
    let inner = [&body, "alice@mx.example", "bob@mx.example"].map(netstring).concat();
    Case { program: "qmqpd", traced: Traced::Itself, input: netstring(&inner).into() }
}
