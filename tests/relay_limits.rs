//! How long deliver waits for other hosts, how many connections it has with one, and what much mail to one comes to.

mod common;

use common::hops::{Act, Hop};
use common::relaying::*;
use common::watching::Watching;
use common::{Scratch, until};
use doorpost::queue::Queue;
use std::collections::HashMap;
use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn silence_ends_with_the_time_for_each_stage() {
    let stages = [
        ("greeting", "smtp_helo_timeout"),
        ("EHLO", "smtp_helo_timeout"),
        ("MAIL", "smtp_mail_timeout"),
        ("RCPT", "smtp_rcpt_timeout"),
        ("DATA", "smtp_data_init_timeout"),
        (".", "smtp_data_done_timeout"),
    ];
    for (stage, parameter) in stages {
        let hop = Hop::start(move |word, _, _| (word == stage).then_some(Act::Silence));
        let scratch = site(&format!("smtp:{}", hop.name()), &format!("{parameter} = 1s"));
        scratch.enqueue(&["bob@b.example"], TEXT);
        let start = Instant::now();
        let log = scratch.deliver();
        assert!(log.contains("status=deferred") && log.contains("took too long"), "{stage}: {log}");
        assert!(start.elapsed() < Duration::from_secs(15), "{stage}: {:?}", start.elapsed());
    }
}

/// A host that takes its time for an answer does not keep a service from being stopped.
#[test]
fn told_to_stop_deliver_ends_in_time_whatever_its_next_hop_does() {
    let hop = Hop::start(|word, _, session| (word == "." && session == 0).then_some(Act::Silence));
    let scratch = site(&format!("smtp:{}", hop.name()), "deliver_stop_timeout = 1s");
    let id = scratch.enqueue(&["bob@b.example"], TEXT);
    let mut child = scratch.command("deliver").arg("--watch").stderr(Stdio::piped()).spawn().expect("deliver");
    until("the end of the message", || hop.seen().iter().any(|line| line == "DATA") && !hop.taken().is_empty());
    let told = Instant::now();
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a signal");
    assert!(child.wait().expect("its end").success());
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
    let mut log = String::new();
    let stderr = child.stderr.as_mut().expect("a pipe");
    std::io::Read::read_to_string(stderr, &mut log).expect("its records");
    assert!(log.contains("event=stopped unfinished=1 "), "{log}");
    assert_eq!(scratch.queued().len(), 1, "nothing is lost");
    scratch.settle();
    scratch.run("deliver", &[id.as_str()], b"");
    assert_eq!((hop.taken().len(), scratch.queued().len()), (2, 0), "the one in flight, once more");
}

#[test]
fn one_next_hop_never_has_more_connections_than_its_limit_and_does_not_hold_up_others() {
    let is_free = Arc::new(AtomicBool::new(false));
    let goes_on = Arc::clone(&is_free);
    let slow = Hop::start(move |word, _, _| {
        if word == "." {
            until("the host to be free", || goes_on.load(Ordering::SeqCst));
        }
        None
    });
    let scratch = Scratch::with("default_destination_concurrency_limit = 2\ndefault_process_limit = 4");
    scratch.write("channels", &format!("local - mx.example mailbox: *\nout * * smtp:{} *\n", slow.name()));
    for number in 0..12 {
        scratch.enqueue(&[&format!("user{number}@b.example")], TEXT);
    }
    scratch.enqueue(&["bob@mx.example"], TEXT);
    let mut child = scratch.command("deliver").stderr(Stdio::null()).spawn().expect("deliver");
    until("the message for somebody here", || scratch.mail("bob").len() == 1);
    assert!(slow.taken().len() <= 2, "the host had answered nobody: {}", slow.taken().len());
    is_free.store(true, Ordering::SeqCst);
    assert!(child.wait().expect("its end").success());
    assert_eq!((slow.taken().len(), scratch.queued().len()), (12, 0));
    assert!(slow.sessions() <= 2, "{}", slow.sessions());
}

/// The next in line is somebody else's when its turn comes, and so nobody calls the one behind it.
#[test]
fn who_waits_for_a_busy_host_behind_one_that_does_not_come_is_called() {
    let (go, wait) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(Some(wait));
    let hop = Hop::start(move |word, _, _| {
        if word == "."
            && let Some(wait) = wait.lock().expect("the signal").take()
        {
            let _ = wait.recv_timeout(Duration::from_secs(60));
        }
        None
    });
    let scratch = site(
        &format!("smtp:{}", hop.name()),
        "default_destination_concurrency_limit = 1\nqueue_run_delay = 1h\nsmtp_data_done_timeout = 60s",
    );
    let (queue, path) = (Queue::at(&scratch.queue()), scratch.path().join("log"));
    scratch.enqueue(&["first@b.example"], TEXT);
    let log = fs::File::create(&path).expect("a log");
    let watching = Watching::by(scratch.command("deliver").arg("-w").stderr(log));
    until("the first to be at its host", || hop.seen().contains(&"DATA".to_owned()));
    let waiting = ["second", "third"].map(|user| {
        let id = scratch.enqueue(&[&format!("{user}@b.example")], TEXT);
        assert!(queue.wake_for(&id));
        let tried = format!("id={id} to=<{user}@b.example> event=trying");
        until("a try", || fs::read_to_string(&path).expect("the log").contains(&tried));
        let mut message = None;
        until("its end", || {
            message = queue.take(&id).expect("a message");
            message.is_some()
        });
        message
    });
    let [second, third] = waiting;
    drop(third);
    go.send(()).expect("a host that waits");
    until("the last in line", || hop.taken().len() == 2);
    assert!(hop.taken()[1].rcpts[0].contains("third@"), "{:?}", hop.taken());
    drop(second);
    watching.terminate();
    assert_eq!((hop.taken().len(), scratch.queued()), (3, vec![]));
}

/// Where a busy host takes a message in many pieces, its sender still hears once of all who failed.
#[test]
fn a_message_that_goes_to_a_busy_host_in_pieces_comes_back_in_one() {
    let hop = Hop::start(|word, line, _| match word {
        "RCPT" if line.contains("never") => {
            std::thread::sleep(Duration::from_millis(5));
            Some(Act::Say("550 5.1.1 no such user"))
        }
        _ => None,
    });
    let more =
        "default_destination_concurrency_limit = 1\ndefault_process_limit = 8\nsmtp_destination_recipient_limit = 2";
    let scratch = site(&format!("smtp:{}", hop.name()), more);
    let to: Vec<String> = (0..40).map(|number| format!("never{number}@b.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let id = scratch.enqueue(&to, TEXT);
    for number in 0..60 {
        scratch.enqueue(&[&format!("user{number}@b.example")], TEXT);
    }
    let log = scratch.deliver();
    assert_eq!((hop.taken().len(), scratch.queued()), (60, vec![]), "{log}");
    let tries = log.matches(&format!("id={id} from=")).count();
    assert_eq!(tries, 40, "each recipient once: {log}");
    let back = scratch.mail("alice");
    assert_eq!(back.len(), 1, "{log}");
    assert_eq!(String::from_utf8_lossy(&back[0]).matches("Final-Recipient: ").count(), 40);
}

#[test]
fn a_flood_is_delivered_once_each() {
    let hop = Hop::friendly();
    let scratch = to(&hop);
    for number in 0..300 {
        scratch.enqueue(&[&format!("user{number}@b.example")], TEXT);
    }
    scratch.deliver();
    let mut count: HashMap<String, usize> = HashMap::new();
    hop.taken().iter().flat_map(|taken| taken.rcpts.clone()).for_each(|rcpt| *count.entry(rcpt).or_default() += 1);
    assert_eq!((count.len(), count.values().max()), (300, Some(&1)));
    assert_eq!(scratch.queued().len(), 0);
}

#[test]
fn a_host_that_defers_is_not_asked_again_over_another_connection() {
    let hop = Hop::start(|word, line, _| match word {
        "RCPT" if line.contains("later") => Some(Act::Say("450 4.2.1 mailbox busy")),
        _ => None,
    });
    let one_by_one = "default_process_limit = 1\ndefault_destination_concurrency_limit = 1";
    let scratch = site(&format!("smtp:{}", hop.name()), one_by_one);
    for user in ["now", "later", "now"] {
        scratch.enqueue(&[&format!("{user}@b.example")], TEXT);
    }
    let log = scratch.deliver();
    let seen = hop.seen();
    let asked: Vec<&String> = seen.iter().filter(|line| line.starts_with("RCPT ")).collect();
    assert!(asked[0].contains("now"), "the other one finds a connection: {seen:?}");
    assert_eq!((asked.len(), hop.taken().len()), (3, 2), "{log}");
}
