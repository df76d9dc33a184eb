//! The drop folder, where whoever has no right on the queue leaves mail.

mod common;

use common::local::{USER, as_user, drop_folder, files, named};
use common::watching::Watching;
use common::{Scratch, feed, until};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_user_without_any_right_on_the_queue_leaves_mail_in_the_drop_folder() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::new();
    let output = feed(&mut as_user(named(&scratch, "sendmail", &["bob"])), b"Subject: x\n\nbody\n");
    assert_eq!(output.status.code(), Some(77), "there is no drop folder: {output:?}");
    let folder = drop_folder(&scratch);
    for (name, arguments) in [("sendmail", &["-f", "alice@mx.example", "bob"][..]), ("submit", &["bob"])] {
        let output = feed(&mut as_user(named(&scratch, name, arguments)), b"Subject: x\n\nbody\n");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 2);
    assert!(files.iter().all(|file| fs::metadata(file).unwrap().uid() == USER));
    // Nobody else can see what is there, nor take it away.
    let mut ls = Command::new("ls");
    assert!(!ls.arg(&folder).uid(4242).gid(4242).stderr(Stdio::null()).status().unwrap().success());
    let mut rm = Command::new("rm");
    assert!(!rm.arg("-f").arg(&files[0]).uid(4242).gid(4242).stderr(Stdio::null()).status().unwrap().success());
    let log = scratch.deliver();
    assert_eq!(scratch.mail("bob").len(), 2, "{log}");
    assert!(log.contains(&format!("uid={USER} event=taken id=")), "{log}");
    let left = || fs::read_dir(&folder).unwrap().filter(|file| file.as_ref().unwrap().file_name() != "trigger").count();
    assert_eq!(left(), 0);
    let large = format!("Subject: x\n\n{}", "a line of text\n".repeat(1_000_000));
    let output = feed(&mut as_user(named(&scratch, "sendmail", &["bob"])), large.as_bytes());
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert_eq!(left(), 0, "what is refused leaves nothing");
}

/// As with Postfix it counts from the moment when the user was told that it is taken, also behind an alias.
#[test]
fn a_record_tells_how_long_mail_took_from_where_it_was_left() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::new();
    scratch.write("aliases", "list: bob\n");
    drop_folder(&scratch);
    let output = feed(&mut as_user(named(&scratch, "sendmail", &["list"])), b"Subject: x\n\nbody\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    std::thread::sleep(Duration::from_millis(300));
    let log = scratch.deliver();
    let delay = |to: &str| log.split_once(to).and_then(|(_, rest)| rest.split_once(" delay=")?.1.split_once(' '));
    for to in ["to=<list@mx.example> status=expanded", "to=<bob@mx.example> status=delivered"] {
        let delay = delay(to).and_then(|(delay, _)| delay.parse::<f64>().ok());
        assert!(delay.is_some_and(|delay| delay >= 0.3), "{to}: {delay:?} {log}");
    }
}

/// Who hears "accepted" here hears nothing more: deliver would only set the file aside.
#[test]
fn what_the_queue_would_refuse_is_not_left_in_the_drop_folder() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::with("smtpd_recipient_limit = 100000");
    let folder = drop_folder(&scratch);
    let list = |count: usize| (0..count).map(|number| format!("u{number:05}")).collect::<Vec<_>>().join(", ");
    for (arguments, count) in [(&["-t"][..], 60_000), (&["-t", "-N", "success,delay"], 30_000)] {
        let input = format!("Bcc: {}\nSubject: x\n\n", list(count));
        let output = feed(&mut as_user(named(&scratch, "sendmail", arguments)), input.as_bytes());
        assert_eq!(output.status.code(), Some(69), "{output:?}");
    }
    assert_eq!(files(&folder).len(), 0);
    // What myhostname and parameters add to it counts, to the octet.
    let scratch = Scratch::with("message_size_limit = 31000\ncontent_filter = local:");
    let folder = drop_folder(&scratch);
    let names: Vec<_> = (0..200).map(|number| format!("u{number:02}")).collect();
    let mut taken = Vec::new();
    for length in (1..=1001).step_by(100).chain(417..421) {
        let mut command = as_user(named(&scratch, "submit", &["-f", "alice"]));
        let output = feed(command.args(&names), format!("{}\n", "x".repeat(length)).as_bytes());
        assert!(matches!(output.status.code(), Some(0 | 69)), "{output:?}");
        taken.push(output.status.success());
    }
    assert!(taken.contains(&true) && taken.contains(&false));
    let log = scratch.deliver();
    assert_eq!(files(&folder).len(), 0, "{log}");
}

#[test]
fn what_is_too_large_for_the_drop_folder_fills_neither_disk_nor_memory() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::with("message_size_limit = 1000000");
    let folder = drop_folder(&scratch);
    let mut command = as_user(named(&scratch, "sendmail", &["root"]));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let piece = "y\n".repeat(500_000);
    for _ in 0..50 {
        input.write_all(piece.as_bytes()).unwrap();
    }
    let sizes: Vec<_> = files(&folder).iter().map(|file| fs::metadata(file).unwrap().len()).collect();
    assert_eq!(sizes, [0]);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 24_000, "{peak} kB");
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(69));
    assert_eq!(files(&folder).len(), 0);
}

#[test]
fn what_nobody_of_ours_wrote_into_the_drop_folder_harms_nothing() {
    let scratch = Scratch::new();
    let folder = drop_folder(&scratch);
    let name = |letter: char| folder.join(letter.to_string().repeat(32));
    let frame = |text: &str| format!("{}:{text},", text.len());
    let message =
        |more: &str| format!("{}{more}{}{}{}", frame("Fa@x"), frame("Rbob@mx.example"), frame("Cx\n"), frame("E"));
    fs::write(name('a'), message("")).unwrap();
    fs::write(name('b'), frame("Fa@x")).unwrap();
    fs::write(name('c'), message(&frame("Aexpanded=alias\tx\t\tx@mx.example"))).unwrap();
    fs::write(name('d'), message("") + &frame("Cmore") + &frame("E")).unwrap();
    fs::write(name('e'), "no frames").unwrap();
    // What is behind the brackets would be a parameter for the next host.
    fs::write(name('3'), message("").replace("4:Fa@x", "27:Fa@x> RET=FULL ENVID=forged")).unwrap();
    fs::write(name('4'), message(&frame("F"))).unwrap();
    fs::write(name('5'), message("").replace("4:Fa@x,", "")).unwrap();
    fs::write(name('6'), frame("Fa@x") + "30:Cx\n1:E,").unwrap();
    fs::write(folder.join("other"), message("")).unwrap();
    std::os::unix::fs::symlink(name('a'), name('f')).unwrap();
    fs::hard_link(folder.join("other"), name('0')).unwrap();
    nix::unistd::mkfifo(&name('1'), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    fs::create_dir(name('2')).unwrap();
    for letter in ['a', 'b', 'c', 'd', 'e', '3', '4', '5', '6'] {
        scratch.hand_over(&name(letter));
    }
    let log = scratch.deliver();
    assert_eq!(scratch.mail("bob").len(), 1, "{log}");
    for refused in ["c", "d", "3", "4", "5", "6"] {
        assert!(folder.join(format!("refused.{}", refused.repeat(32))).exists(), "{refused}: {log}");
    }
    for (letter, left) in [('a', false), ('b', true), ('f', true), ('0', true), ('1', true), ('2', true)] {
        assert_eq!(name(letter).symlink_metadata().is_ok(), left, "{letter}: {log}");
    }
}

/// Sparse, and of frames that are whole: what deliver would read of it would keep everybody's mail waiting.
#[test]
fn a_file_that_is_larger_than_any_message_holds_nobody_up() {
    let scratch = Scratch::new();
    let folder = drop_folder(&scratch);
    let path = folder.join("a".repeat(32));
    let file = fs::File::create(&path).unwrap();
    let (frame, count) = (7 + 65_537 + 1, 32_000);
    file.write_all_at(b"4:Fa@x,15:Rbob@mx.example,", 0).unwrap();
    for number in 0..count {
        file.write_all_at(b"65537:C", 26 + number * frame).unwrap();
        file.write_all_at(b",", 26 + (number + 1) * frame - 1).unwrap();
    }
    file.write_all_at(b"1:E,", 26 + count * frame).unwrap();
    assert!(file.metadata().unwrap().len() > 2_000_000_000);
    scratch.hand_over(&path);
    scratch.enqueue(&["bob@mx.example"], b"Subject: x\n\n");
    let begun = std::time::Instant::now();
    let log = scratch.deliver();
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{log}");
    assert_eq!(scratch.mail("bob").len(), 1, "{log}");
    assert!(!path.exists() && folder.join(format!("refused.{}", "a".repeat(32))).exists(), "{log}");
}

/// Who leaves it may make what is in the way of setting it aside. It is read once all the same.
#[test]
fn what_is_refused_and_cannot_be_set_aside_is_removed() {
    let scratch = Scratch::new();
    let folder = drop_folder(&scratch);
    let path = folder.join("a".repeat(32));
    fs::write(&path, "4:Fa@x,1:E,x1:E,").unwrap();
    scratch.hand_over(&path);
    fs::create_dir(folder.join(format!("refused.{}", "a".repeat(32)))).unwrap();
    let log = scratch.deliver();
    assert!(!path.exists() && log.contains("event=refused") && log.contains(" removed="), "{log}");
}

/// What is left there at once is taken at once, a thousand before each look at the queue.
#[test]
fn more_than_a_thousand_files_do_not_wait_for_the_next_run() {
    let scratch = Scratch::with("queue_run_delay = 1h");
    let folder = drop_folder(&scratch);
    for number in 0..1001 {
        let path = folder.join(format!("{number:032x}"));
        fs::write(&path, "1:F,15:Rbob@mx.example,3:Cx\n,1:E,").unwrap();
        scratch.hand_over(&path);
    }
    let mut command = scratch.command("deliver");
    let mut deliver = command.arg("--watch").stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let all_are_there = || scratch.mail("bob").len() == 1001;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(180);
    while !all_are_there() && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let _ = deliver.kill();
    let _ = deliver.wait();
    assert_eq!(scratch.mail("bob").len(), 1001);
}

/// Else it could be one that another message is to have, or have had: of a report, say, which whoever delivers it would then
/// take for delivered.
#[test]
fn whoever_leaves_a_message_in_the_drop_folder_does_not_choose_its_id() {
    let scratch = Scratch::new();
    let folder = drop_folder(&scratch);
    fs::write(scratch.maildir("bob"), "in the way").unwrap();
    let begun = std::time::SystemTime::now() - Duration::from_secs(1);
    for (letter, seconds) in [("a", 1_000_000_000), ("b", 4_000_000_000)] {
        let path = folder.join(letter.repeat(32));
        fs::write(&path, "1:F,15:Rbob@mx.example,3:Cx\n,1:E,").unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        scratch.hand_over(&path);
    }
    let log = scratch.deliver();
    let queue = doorpost::queue::Queue::at(&scratch.queue());
    let times: Vec<_> = queue.names().unwrap().iter().map(|name| name.id.time()).collect();
    let now = std::time::SystemTime::now();
    assert!(times.len() == 2 && times.iter().all(|time| (begun..=now).contains(time)), "{times:?} {log}");
}

/// It would be taken at each look, without end.
#[test]
fn nothing_is_taken_from_a_drop_folder_where_nothing_can_be_removed() {
    let scratch = Scratch::new();
    let folder = drop_folder(&scratch);
    let path = folder.join("a".repeat(32));
    fs::write(&path, "1:F,15:Rbob@mx.example,3:Cx\n,1:E,").unwrap();
    scratch.hand_over(&path);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1555)).unwrap();
    let mut deliver = scratch.command("deliver").stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until("its end", || deliver.try_wait().unwrap().is_some() || scratch.mail("bob").len() > 1);
    let _ = deliver.kill();
    let output = deliver.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(scratch.mail("bob").is_empty() && log.contains("nothing is taken from it"), "{log}");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1733)).unwrap();
    scratch.deliver();
    assert!(scratch.mail("bob").len() == 1 && !path.exists());
}

/// Whoever comes before the first deliver may make something of that name.
#[test]
fn what_stands_in_the_place_of_the_fifo_of_the_drop_folder_is_replaced() {
    for kind in ["file", "folder", "fifo"] {
        let scratch = Scratch::with("queue_run_delay = 1h");
        let folder = drop_folder(&scratch);
        let trigger = folder.join("trigger");
        match kind {
            "file" => fs::write(&trigger, "x").unwrap(),
            "folder" => {
                fs::create_dir_all(trigger.join("in it")).unwrap();
                // Nor is it any use to stand where it could be moved to, by all that is known before.
                let number = fs::metadata(&trigger).unwrap().ino();
                for name in ["refused.trigger".to_owned(), format!("refused.trigger.{number}")] {
                    fs::create_dir_all(folder.join(name).join("in the way")).unwrap();
                }
            }
            _ if !common::needs::root() => continue,
            _ => nix::unistd::mkfifo(&trigger, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap(),
        }
        if common::needs::root() {
            std::os::unix::fs::chown(&trigger, Some(USER), Some(USER)).unwrap();
        }
        let watching = Watching::start(&scratch);
        let us = fs::metadata(&folder).unwrap().uid();
        let is_ours = |found: fs::Metadata| found.uid() == us && found.mode() == nix::libc::S_IFIFO | 0o622;
        until("a FIFO of its own", || fs::symlink_metadata(&trigger).is_ok_and(is_ours));
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let kept = entries.filter(|path| path.join("in it").is_dir()).count();
        assert_eq!(kept, usize::from(kind == "folder"), "what was in it is there still");
        watching.terminate();
    }
}

/// Anybody may write into its FIFO.
#[test]
fn whoever_wakes_deliver_by_the_drop_folder_without_end_gets_mail_collected_and_no_look_at_the_queue() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::with("queue_run_delay = 1h");
    let folder = drop_folder(&scratch);
    let path = scratch.path().join("log");
    let watching = Watching::by(scratch.command("deliver").arg("-w").stderr(fs::File::create(&path).unwrap()));
    let mut found = None;
    until("who reads the FIFO", || {
        let mut options = fs::OpenOptions::new();
        found = options.write(true).custom_flags(nix::libc::O_NONBLOCK).open(folder.join("trigger")).ok();
        found.is_some()
    });
    let mut trigger = found.unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        let _ = trigger.write(b"!");
        std::thread::yield_now();
    }
    let looks = fs::read_to_string(&path).unwrap().matches("event=looked").count();
    assert!(looks <= 1, "{looks} looks");
    feed(&mut as_user(named(&scratch, "sendmail", &["bob@mx.example"])), b"Subject: mine\n\n");
    until("a message of the drop folder", || scratch.mail("bob").len() == 1);
    watching.terminate();
}
