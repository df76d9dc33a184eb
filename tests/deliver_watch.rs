//! A deliver that watches the queue: what wakes it, and what it looks at then.

mod common;

use common::delivering::*;
use common::hops::{Act, Hop};
use common::relaying::{self, TEXT};
use common::watching::Watching;
use common::{Scratch, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

#[test]
fn a_watching_deliver_is_woken_and_ends_at_a_signal() {
    let scratch = Scratch::with("queue_run_delay = 1h");
    scratch.enqueue_from("", &["alice@mx.example"], b"before\n");
    let watch = start_watching(&scratch);
    until("the first sweep", || scratch.mail("alice").len() == 1);
    scratch.enqueue_from("", &["alice@mx.example"], b"after\n");
    assert!(queue_of(&scratch).wake());
    until("a delivery by the FIFO", || scratch.mail("alice").len() == 2);
    // Without a wake: what came in until the end is seen by the last look.
    until("the end of the message", || scratch.files().is_empty());
    scratch.enqueue_from("", &["alice@mx.example"], b"last\n");
    scratch.settle();
    watch.terminate();
    assert_eq!((scratch.mail("alice").len(), scratch.files().len()), (3, 0));
}

/// Nobody writes into the FIFO, and the next look would be an hour away.
#[test]
fn hup_makes_a_watching_deliver_look_at_once() {
    let scratch = Scratch::with("queue_run_delay = 1h");
    scratch.enqueue_from("", &["alice@mx.example"], b"before\n");
    let watch = start_watching(&scratch);
    until("the first sweep", || scratch.mail("alice").len() == 1 && scratch.files().is_empty());
    scratch.enqueue_from("", &["alice@mx.example"], b"after\n");
    scratch.settle();
    kill(Pid::from_raw(watch.0.id().cast_signed()), Signal::SIGHUP).unwrap();
    until("a delivery", || scratch.mail("alice").len() == 2);
    watch.terminate();
}

#[test]
fn a_watching_deliver_comes_back_to_a_message_that_somebody_had_locked() {
    let scratch = Scratch::with("queue_run_delay = 1h");
    scratch.enqueue_from("", &["alice@mx.example"], b"before\n");
    scratch.settle();
    let path = scratch.path().join("log");
    let log = fs::File::create(&path).unwrap();
    let watch = Watching::by(scratch.command("deliver").arg("-w").stderr(log));
    until("the first sweep", || scratch.mail("alice").len() == 1 && scratch.files().is_empty());
    let id = scratch.enqueue_from("", &["alice@mx.example"], b"locked\n");
    let locked = take(&scratch, &id);
    assert!(queue_of(&scratch).wake());
    until("a look at it", || fs::read_to_string(&path).unwrap().contains("came-to=not-ours"));
    drop(locked);
    until("the message", || scratch.mail("alice").len() == 2);
    watch.terminate();
}

/// A worker that is killed between queueing a report and noting it: the report goes when its message was tried again.
#[test]
fn a_report_waits_with_a_message_whose_worker_is_gone_and_is_not_looked_at_again_and_again() {
    report_of_a_lost_worker("12s", |_, _| {});
}

#[test]
fn a_report_goes_as_soon_as_the_message_whose_worker_is_gone_is_flushed() {
    report_of_a_lost_worker("1h", |scratch, id| {
        assert!(scratch.run("doorpost-queue", &["flush", id], b"").status.success());
    });
}

fn report_of_a_lost_worker(queue_run_delay: &str, behind: impl FnOnce(&Scratch, &str)) {
    let scratch = Scratch::with(&format!("queue_run_delay = {queue_run_delay}"));
    let (program, running) = (scratch.path().join("slow"), scratch.path().join("running"));
    let at = running.display();
    let text = format!(
        "#!/bin/sh\n[ -e {at} ] && exec cat\necho $PPID $$ > {at}.new && mv {at}.new {at} && exec sleep 100 > {at}.out\n"
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    scratch.hand_over(scratch.path());
    let pipe = format!("p - pipe.example pipe:{} -", program.display());
    scratch.write("channels", &format!("local - mx.example mailbox: *\n{pipe}\n"));
    let id = scratch.enqueue(&["nobody-here@mx.example", "x@pipe.example"], TEXT);
    scratch.settle();
    let path = scratch.path().join("log");
    let watch = Watching::by(scratch.command("deliver").arg("-w").stderr(fs::File::create(&path).unwrap()));
    until("the program", || running.exists());
    let report = queue_of(&scratch).begin_derived(&id, "failure/0").unwrap().expect("no report so far");
    let report = scratch.enqueue_draft(report, ("", ""), &[("alice@mx.example", "")], TEXT);
    for process in fs::read_to_string(&running).unwrap().split_whitespace() {
        kill(Pid::from_raw(process.parse().unwrap()), Signal::SIGKILL).unwrap();
    }
    let log = || fs::read_to_string(&path).unwrap();
    until("the end of the try", || log().contains("came-to=broken"));
    assert!(queue_of(&scratch).wake_for(&report));
    until("a look at the report", || log().contains("event=passed-by"));
    behind(&scratch, id.as_str());
    until("the report", || scratch.mail("alice").len() == 1);
    watch.terminate();
    assert_eq!((log().matches("event=passed-by").count(), scratch.mail("alice").len()), (1, 1), "{}", log());
}

/// It must be read whole to see that, so not again whenever somebody wakes deliver.
#[test]
fn a_watching_deliver_reads_a_damaged_file_once() {
    let scratch = Scratch::with("queue_run_delay = 1h");
    let id = scratch.enqueue_from("", &["alice@mx.example"], b"damaged\n");
    let file = scratch.files().pop().unwrap();
    let octets = fs::read(&file).unwrap();
    let at = octets.windows(7).position(|window| window == b"damaged").unwrap();
    fs::write(&file, [&octets[..at], b"D", &octets[at + 1..]].concat()).unwrap();
    scratch.settle();
    let path = scratch.path().join("log");
    let log = fs::File::create(&path).unwrap();
    let watch = Watching::by(scratch.command("deliver").arg("-w").stderr(log));
    let log = || fs::read_to_string(&path).unwrap();
    let over = format!("id={id} event=over");
    until("a look at it", || log().contains(&over));
    scratch.enqueue_from("", &["alice@mx.example"], b"whole\n");
    assert!(queue_of(&scratch).wake());
    until("the other message", || scratch.mail("alice").len() == 1);
    watch.terminate();
    assert_eq!(log().matches(&over).count(), 1, "{}", log());
    assert!(log().contains(&format!("{over} came-to=damaged")), "{}", log());
}

#[test]
fn a_watching_deliver_tries_again_by_itself_when_the_time_has_come() {
    let scratch = Scratch::with("queue_run_delay = 1h\nminimal_backoff_time = 1s\nmaximal_backoff_time = 1s");
    block(&scratch, "alice");
    let id = scratch.enqueue_from("", &["alice@mx.example"], b"text\n");
    let watch = start_watching(&scratch);
    until("a failed try", || next_try(&scratch, &id) > SystemTime::now());
    unblock(&scratch, "alice");
    until("the next try", || scratch.mail("alice").len() == 1);
    watch.terminate();
}

#[test]
fn a_watching_deliver_tries_at_once_what_is_flushed_and_what_is_released() {
    let scratch = Scratch::with("queue_run_delay = 1h\nminimal_backoff_time = 1h");
    block(&scratch, "alice");
    let id = scratch.enqueue_from("", &["alice@mx.example"], b"text\n");
    let watch = start_watching(&scratch);
    let tool = |action: &str| {
        // Whoever has noted the next try may have it for a moment longer.
        scratch.settle();
        assert!(scratch.run("doorpost-queue", &[action, "ALL"], b"").status.success(), "{action}");
    };
    let fails = || until("a failed try", || next_try(&scratch, &id) > SystemTime::now());
    fails();
    tool("flush");
    fails();
    tool("hold");
    unblock(&scratch, "alice");
    tool("release");
    until("the message", || scratch.mail("alice").len() == 1);
    watch.terminate();
}

/// Who gives out the work hears a little later that a try is over, on a busy machine more than a little.
#[test]
fn what_is_flushed_before_the_end_of_its_try_is_heard_of_is_tried_at_once_too() {
    let (go, wait) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let hop = Hop::start(move |word, _, _| {
        (word == "RCPT").then(|| {
            let _ = wait.lock().expect("the signal").recv_timeout(Duration::from_secs(60));
            Act::Say("450 4.2.1 busy")
        })
    });
    let scratch = relaying::site(&format!("smtp:{}", hop.name()), "queue_run_delay = 1h\nminimal_backoff_time = 1h");
    let id = scratch.enqueue(&["bob@b.example"], TEXT);
    let watch = start_watching(&scratch);
    let tries = || hop.seen().iter().filter(|line| line.starts_with("RCPT")).count();
    until("the first try", || tries() == 1);
    let tell = |signal| kill(Pid::from_raw(watch.0.id().cast_signed()), signal).expect("a signal");
    tell(Signal::SIGSTOP);
    go.send(()).expect("a host that waits");
    until("its end", || next_try(&scratch, &id) > SystemTime::now());
    scratch.settle();
    assert!(scratch.run("doorpost-queue", &["flush", "ALL"], b"").status.success());
    tell(Signal::SIGCONT);
    until("another try", || tries() == 2);
    go.send(()).expect("a host that waits");
    watch.terminate();
}

#[test]
fn a_changed_configuration_holds_from_the_next_message_on() {
    let scratch = Scratch::with("queue_run_delay = 1h");
    scratch.enqueue_from("", &["alice@mx.example"], b"before\n");
    let watch = start_watching(&scratch);
    until("the first sweep", || scratch.mail("alice").len() == 1);
    scratch.configure(&format!("mailbox = maildir:{}/mail/other-%u", scratch.path().display()));
    // What is being written is not read yet.
    let written = || std::thread::sleep(Duration::from_millis(3100));
    written();
    scratch.enqueue_from("", &["alice@mx.example"], b"after\n");
    assert!(queue_of(&scratch).wake());
    until("a delivery by the new configuration", || scratch.mail("other-alice").len() == 1);
    // A mistake in it changes nothing.
    scratch.configure("message_size_limit = much");
    written();
    scratch.enqueue_from("", &["alice@mx.example"], b"later\n");
    assert!(queue_of(&scratch).wake());
    until("a delivery by the old configuration", || scratch.mail("other-alice").len() == 2);
    watch.terminate();
}

/// It was accepted by what was written a moment ago, and by what was there before it would come back.
#[test]
fn mail_for_a_domain_that_was_added_just_now_waits_until_deliver_knows_it() {
    let scratch = Scratch::with("queue_run_delay = 1h");
    let channels = |domains: &str| format!("local * {domains} mailbox: *\nrest - * error:5.4.6_not_here -\n");
    scratch.write("channels", &channels("mx.example"));
    scratch.enqueue_from("", &["alice@mx.example"], b"before\n");
    let watch = start_watching(&scratch);
    until("the first sweep", || scratch.mail("alice").len() == 1);
    // Whoever delivers next has it in memory, and knows that it has not changed.
    scratch.write("channels", &channels("mx.example,added.example"));
    scratch.enqueue_from("", &["alice@added.example"], b"after\n");
    assert!(queue_of(&scratch).wake());
    until("the message", || scratch.files().is_empty());
    assert_eq!(scratch.mail("alice").len(), 2);
    watch.terminate();
}

/// What is due and nobody told of: of before a restart, and what was held back.
#[test]
fn the_look_at_the_whole_queue_comes_in_time_while_a_host_takes_its_time() {
    let slow = Hop::start(|word, _, _| (word == ".").then_some(Act::Silence));
    let scratch = relaying::site(&format!("smtp:{}", slow.name()), "queue_run_delay = 1s\ndeliver_stop_timeout = 1s");
    scratch.enqueue(&["bob@b.example"], TEXT);
    scratch.settle();
    let _watching = Watching::start(&scratch);
    until("the slow host to have it", || !slow.taken().is_empty());
    scratch.enqueue(&["alice@mx.example"], TEXT);
    until("what nobody was told of", || scratch.mail("alice").len() == 1);
    assert_eq!(slow.sessions(), 1, "what is being worked on is not given out again");
}

/// Nor is there a look at them later, which comes a second after the last one where somebody asks for it.
#[test]
fn a_watching_deliver_takes_a_new_message_without_looking_at_the_others() {
    let hop = Hop::friendly();
    let scratch = relaying::site(&format!("smtp:{}", hop.name()), "queue_run_delay = 1h");
    scratch.enqueue(&["bob@b.example"], TEXT);
    let watching = start_watching(&scratch);
    until("the first sweep", || hop.taken().len() == 1 && scratch.files().is_empty());
    // Due, and nobody is told of it.
    let other = scratch.enqueue(&["alice@mx.example"], TEXT);
    let id = scratch.enqueue(&["bob@b.example"], TEXT);
    assert!(queue_of(&scratch).wake_for(&id));
    until("the message that was named", || hop.taken().len() == 2 && scratch.ids() == [other]);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((scratch.mail("alice").len(), scratch.ids()), (0, vec![other]), "it was looked for");
    assert!(queue_of(&scratch).wake());
    until("the other one", || scratch.mail("alice").len() == 1);
    watching.terminate();
}
