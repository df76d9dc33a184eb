//! deliver against smtp-sink, which refuses, breaks off and dawdles, and with a long queue: every message once, and of
//! those that are not due none opened. `DOORPOST_MESSAGES` says how many (150).

mod common;

use common::{Scratch, free_port};
use doorpost::queue::Id;
use std::collections::HashMap;
use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

fn wanted() -> usize {
    std::env::var("DOORPOST_MESSAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(150)
}

/// A running smtp-sink; ended when dropped.
struct Sink(Child);

impl Sink {
    fn start(scratch: &Scratch, port: u16, options: &[&str]) -> Sink {
        let mut command = Command::new("/usr/sbin/smtp-sink");
        if nix::unistd::geteuid().is_root() {
            command.args(["-u", "nobody"]);
        }
        command.args(options).arg(format!("127.0.0.1:{port}")).arg("200").current_dir(scratch.path());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("smtp-sink");
        common::until("smtp-sink", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Sink(child)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn enqueue(scratch: &Scratch, number: usize) -> Id {
    scratch.enqueue(&[&format!("user{number}@b.example")], format!("Subject: number-{number}-\n\nhello\n").as_bytes())
}

#[test]
fn through_refusals_and_broken_connections_every_message_arrives_once() {
    let port = free_port();
    let scratch = Scratch::with("smtp_helo_timeout = 20s\nminimal_backoff_time = 1s");
    scratch.write("channels", &format!("local - mx.example mailbox: *\nout * * smtp:[127.0.0.1]:{port} *\n"));
    let count = wanted();
    (0..count).for_each(|number| {
        enqueue(&scratch, number);
    });
    // Refused for now, broken off, told to go, at each stage; what it answers so at the end of a message a sink does not keep.
    let stages = ["-r RCPT", "-r DATA", "-r MAIL", "-r .", "-q DATA", "-q EHLO", "-q .", "-Q MAIL", "-Q RCPT", "-Q ."];
    for options in stages.map(|options| options.split(' ').collect::<Vec<_>>()) {
        let _sink = Sink::start(&scratch, port, &options);
        scratch.hurry();
        scratch.deliver();
        assert_eq!(scratch.files().len(), count, "{options:?}");
    }
    let arrived = {
        let _sink = Sink::start(&scratch, port, &dump(&scratch));
        scratch.hurry();
        scratch.deliver();
        dumped(&scratch)
    };
    assert_eq!((arrived.len(), arrived.values().max()), (count, Some(&1)));
    assert_eq!(scratch.files().len(), 0);
    assert_eq!(scratch.mail("alice").len(), 0, "nothing is returned");
}

/// The options by which a sink keeps every message in a file of its own.
fn dump(scratch: &Scratch) -> [&'static str; 2] {
    let folder = scratch.path().join("dump");
    let _ = fs::create_dir(&folder);
    scratch.hand_over(&folder);
    // It runs in that folder's.
    ["-d", "dump/m."]
}

fn dumped(scratch: &Scratch) -> HashMap<String, usize> {
    let files = fs::read_dir(scratch.path().join("dump")).expect("a folder");
    subjects(files.map(|entry| fs::read(entry.expect("an entry").path()).expect("a message")))
}

/// How often each message is among these.
fn subjects(texts: impl Iterator<Item = Vec<u8>>) -> HashMap<String, usize> {
    let mut found: HashMap<String, usize> = HashMap::new();
    for text in texts {
        for line in String::from_utf8_lossy(&text).lines().filter(|line| line.starts_with("Subject: number-")) {
            *found.entry(line.to_owned()).or_default() += 1;
        }
    }
    found
}

#[test]
fn what_is_refused_for_good_at_any_stage_goes_back_once_and_the_rest_arrives_once() {
    let port = free_port();
    let scratch = Scratch::with("minimal_backoff_time = 1s");
    let stages = ["-f MAIL", "-f RCPT", "-f DATA", "-f .", "-A 0", "-p", "-e", "-8"];
    let share = (wanted() / 8).max(1);
    let (mut begun, mut sent) = (0, 0);
    for (protocol, stages) in [("smtp", &stages[..]), ("lmtp", &["-L -f RCPT", "-L -f .", "-L"][..])] {
        scratch.write("channels", &format!("local - mx.example mailbox: *\nout * * {protocol}:[127.0.0.1]:{port} *\n"));
        for options in stages {
            (begun..begun + share).for_each(|number| {
                enqueue(&scratch, number);
            });
            (begun, sent) =
                (begun + share, sent + if options.contains("-f") || options.contains("-A") { 0 } else { share });
            scratch.hand_over(&scratch.queue());
            // It keeps what it refuses at the end of a message.
            let keeps = dump(&scratch).into_iter().filter(|_| !options.ends_with("-f ."));
            let options: Vec<&str> = options.split(' ').chain(keeps).collect();
            let _sink = Sink::start(&scratch, port, &options);
            scratch.deliver();
            assert_eq!(scratch.files().len(), 0, "{options:?}");
        }
    }
    let (arrived, returned) = (dumped(&scratch), subjects(scratch.mail("alice").into_iter()));
    assert_eq!((arrived.len(), returned.len()), (sent, begun - sent));
    assert!(arrived.values().chain(returned.values()).all(|times| *times == 1));
    assert!(!returned.keys().any(|one| arrived.contains_key(one)));
}

/// A next hop that thinks for a second over each message holds up the others by no more than its share of connections. With
/// more than 150 messages it may have a hundred.
#[test]
#[allow(clippy::print_stderr)]
fn a_next_hop_that_dawdles_gets_every_message_once() {
    let port = free_port();
    let (count, more) = match wanted() {
        count @ 0..=150 => (count.min(40), ""),
        count => (count, "default_destination_concurrency_limit = 100\ndefault_process_limit = 125"),
    };
    let scratch = Scratch::with(more);
    scratch.write("channels", &format!("local - mx.example mailbox: *\nout * * smtp:[127.0.0.1]:{port} *\n"));
    (0..count).for_each(|number| {
        enqueue(&scratch, number);
    });
    let _sink = Sink::start(&scratch, port, &[&["-w", "1"][..], &dump(&scratch)].concat());
    let started = SystemTime::now();
    scratch.deliver();
    eprintln!("a second each: {count} messages in {:.1?}", started.elapsed().expect("a clock"));
    let arrived = dumped(&scratch);
    assert_eq!((arrived.len(), arrived.values().max()), (count, Some(&1)));
    assert_eq!(scratch.files().len(), 0);
}

/// Fills a queue with copies of one message, which are due at this time. Gives the message.
fn long_queue(scratch: &Scratch, count: usize, later: SystemTime) -> Id {
    scratch.write("channels", "local - mx.example mailbox: *\nout * * discard: *\n");
    let first = enqueue(scratch, 0);
    let model = scratch.queue().join("message").join(&first.as_str()[14..]).join(first.as_str());
    let octets = fs::read(&model).expect("a message");
    for number in 0..count {
        let id = Id::new(SystemTime::now() - Duration::from_millis(number as u64));
        let folder = scratch.queue().join("message").join(&id.as_str()[14..]);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(id.as_str()), &octets).expect("a message");
        fs::File::open(folder.join(id.as_str())).and_then(|file| file.set_modified(later)).expect("its time");
    }
    scratch.hand_over(&scratch.queue());
    first
}

/// Proportional set size of a process and all that descend from it, in kB.
fn pss(process: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
    let own = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok());
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    own.unwrap_or(0) + children.split_whitespace().filter_map(|child| child.parse().ok()).map(pss).sum::<u64>()
}

/// `TMPDIR=/dev/shm DOORPOST_MESSAGES=5000 cargo test --features interop,powercut --test sinks -- --ignored --nocapture
/// memory` has a queue of 100,000 messages, all of them due.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr)]
fn memory_of_a_sweep_over_a_long_queue() {
    let scratch = Scratch::new();
    let count = wanted() * 20;
    long_queue(&scratch, count, SystemTime::now() - Duration::from_secs(1));
    let log = scratch.path().join("log");
    let mut command = scratch.command("deliver");
    let mut child = command.stderr(fs::File::create(&log).expect("a log")).spawn().expect("deliver");
    let (mut most, mut most_of_first) = (0, 0);
    let started = SystemTime::now();
    while child.try_wait().expect("deliver").is_none() {
        let all = pss(child.id());
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        (most, most_of_first) = (most.max(all), most_of_first.max(peak.unwrap_or(0_u64)));
        std::thread::sleep(Duration::from_millis(100));
    }
    let left = scratch.files().len();
    let took = started.elapsed().expect("a clock");
    eprintln!(
        "{count} messages, {left} left, {took:.1?}: PSS of all {most} kB, of the first at the most {most_of_first} kB"
    );
    let said = fs::read_to_string(log).expect("a log");
    let odd: Vec<&str> = said.lines().filter(|line| !line.contains("status=delivered")).take(20).collect();
    assert!(left == 0 && most < 200_000, "{most} kB: {odd:#?}");
}

#[test]
fn of_a_long_queue_only_what_is_due_is_opened() {
    let scratch = Scratch::new();
    let first = long_queue(&scratch, wanted() * 20, SystemTime::now() + Duration::from_secs(3600));
    let trace = scratch.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=openat", "-o"]).arg(&trace).arg(common::binary("deliver"));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", scratch.path());
    assert!(command.stderr(Stdio::null()).status().expect("strace").success());
    let opened = fs::read_to_string(&trace).expect("a trace");
    let messages: Vec<&str> =
        opened.lines().filter(|line| line.contains("/message/") && !line.contains("O_DIRECTORY")).collect();
    assert!(
        messages.iter().all(|line| line.contains(first.as_str())) && !messages.is_empty(),
        "{:?}",
        &messages[..messages.len().min(5)]
    );
    assert_eq!(scratch.files().len(), wanted() * 20);
}
