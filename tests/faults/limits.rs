//! Limits of the kernel: what is told, what is kept, and that all is well again when the limit is gone.
//!
//! A limit of a file's size makes short writes too: the kernel takes what fits, and refuses the rest.

use super::super::*;
use super::{large, servers};

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

/// Somewhere in its content, which is written piece by piece.
#[test]
fn a_limit_of_file_size_within_a_large_message_is_a_full_disk() {
    for (protocol, program) in [(servers::SMTP, "smtpsrvr"), (servers::QMQP, "qmqpd")] {
        let (scratch, input) = (receiving(), protocol.case(large::body()).input);
        for size in (4000..large::body().len()).step_by(30_011) {
            let what = format!("{program} with files of at most {size}");
            let output = feed(&mut limited(&scratch, &format!("--fsize={size}"), program), &input);
            assert_eq!(output.status.code(), Some(0), "{what}: {output:?}");
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.contains("\r\n452 4.3.1") || said.contains(":Z"), "{what}: {said}");
            assert_eq!((scratch.queued(), queue_files(&scratch)), (Vec::new(), Vec::new()), "{what}: queued");
        }
        let output = feed(&mut scratch.command(program), &input);
        assert_eq!((protocol.taken_for)(&String::from_utf8_lossy(&output.stdout)), servers::TO, "{output:?}");
        scratch.deliver();
        large::is_in_each("maildir", &scratch, program);
    }
}

#[test]
fn a_limit_of_file_size_within_a_large_delivery_defers_it() {
    for format in large::FORMATS {
        let scratch = large::queued(format);
        for size in (4000..large::body().len()).step_by(30_011) {
            let output = feed(&mut limited(&scratch, &format!("--fsize={size}"), "deliver"), b"");
            assert!(output.status.code().is_some(), "{format}, files of at most {size}: {output:?}");
            assert_eq!(scratch.queued().len(), 1, "{format}, files of at most {size}: not deferred");
            due_again(&scratch);
        }
        scratch.deliver();
        large::is_in_each(format, &scratch, format);
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
