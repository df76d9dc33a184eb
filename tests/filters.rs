//! Filters by other programs: before the queue, where the client waits for what they say, and behind it (content_filter), by
//! SMTP, LMTP and qmail-queue. Each hands mail back, and none gets it twice.

mod common;

use common::Scratch;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Child, Command, Stdio};

/// Makes `scratch`/filter a program that lets mail through to `qmail-queue`, marked, but for what says "virus" or "later".
fn filter_of(scratch: &Scratch) -> String {
    let sbin = scratch.path().join("sbin");
    fs::create_dir(&sbin).expect("a folder");
    symlink(common::binary("submit"), sbin.join("qmail-queue")).expect("a link");
    let (filter, count) = (scratch.path().join("filter"), scratch.path().join("count"));
    let script = format!(
        "#!/bin/sh\necho \"$TCPREMOTEIP\" >>{count}\ntext=$(mktemp)\ncat >$text\n\
         if grep -q virus $text; then rm $text; exit 31; fi\nif grep -q later $text; then rm $text; exit 75; fi\n\
         {{ echo 'X-Scanned: yes'; cat $text; }} | {sbin}/qmail-queue\nstatus=$?\nrm $text\nexit $status\n",
        count = count.display(),
        sbin = sbin.display()
    );
    fs::write(&filter, script).expect("a filter");
    fs::set_permissions(&filter, fs::Permissions::from_mode(0o755)).expect("its mode");
    filter.display().to_string()
}

/// How often the filter has run.
fn runs(scratch: &Scratch) -> usize {
    fs::read_to_string(scratch.path().join("count")).unwrap_or_default().lines().count()
}

/// One SMTP session with one message; what the server said and logged.
fn send(scratch: &Scratch, arguments: &[&str], text: &str) -> (String, String) {
    let dialogue = format!(
        "EHLO client.example\r\nMAIL FROM:<alice@client.example> BODY=8BITMIME RET=HDRS\r\nRCPT TO:<bob@mx.example>\r\n\
         RCPT TO:<carol@mx.example>\r\nDATA\r\nSubject: x\r\n\r\n{text}\r\n.\r\nQUIT\r\n"
    );
    let output = scratch.run("smtpsrvr", &[&["192.0.2.1"], arguments].concat(), dialogue.as_bytes());
    let text = |octets: Vec<u8>| String::from_utf8_lossy(&octets).into_owned();
    (text(output.stdout), text(output.stderr))
}

fn filtered() -> Scratch {
    let scratch = Scratch::with("qmqpd_authorized_clients = stdin\nqmqpd_error_delay = 0");
    let filter = filter_of(&scratch);
    scratch.configure(&format!("before_queue_filter = qmail-queue:{filter}"));
    scratch.hand_over(scratch.path());
    scratch
}

#[test]
fn a_client_hears_what_the_filter_before_the_queue_says() {
    let scratch = filtered();
    for (text, answer) in [("a virus", "\r\n554 5.7.1 "), ("come later", "\r\n451 4.3.0 ")] {
        let (said, log) = send(&scratch, &[], text);
        assert!(said.contains(answer) && !said.contains("queued"), "{text}: {said}{log}");
        assert_eq!(scratch.queued(), [], "{text}");
    }
    let (said, log) = send(&scratch, &[], "clean");
    let id = said.split_once("queued as ").expect(&said).1.lines().next().expect("an id").to_owned();
    assert!(log.contains(&format!("id={id} event=handed-over ")), "{log}");
    let queued = scratch.queued();
    assert_eq!((queued.len(), runs(&scratch)), (1, 3), "{log}");
    assert_eq!(queued[0].recipients, [b"bob@mx.example".to_vec(), b"carol@mx.example".to_vec()]);
    assert!(queued[0].parameters.starts_with("BODY=8BITMIME RET=HDRS"), "{}", queued[0].parameters);
    let whole = String::from_utf8_lossy(&queued[0].whole).into_owned();
    assert!(whole.contains("\nX-Scanned: yes\nReceived: ") && whole.contains(&format!(" id {id}")), "{whole}");
    assert_eq!(fs::read_to_string(scratch.path().join("count")).expect("the count"), "192.0.2.1\n".repeat(3));
    scratch.deliver();
    assert_eq!((scratch.mail("bob").len(), scratch.mail("carol").len()), (1, 1));
}

#[test]
fn a_qmqp_client_hears_it_too_and_a_server_without_the_filter_does_not_ask() {
    let scratch = filtered();
    let netstring = |text: &str| format!("{}:{text},", text.len());
    for (text, answer) in [("a virus", ":D"), ("come later", ":Z"), ("clean", ":KOk: queued as ")] {
        let parts = [&*format!("Subject: x\n\n{text}\n"), "alice@client.example", "bob@mx.example"];
        let output = scratch.run("qmqpd", &[], netstring(&parts.map(netstring).concat()).as_bytes());
        assert!(String::from_utf8_lossy(&output.stdout).contains(answer), "{text}: {output:?}");
    }
    assert_eq!((scratch.queued().len(), runs(&scratch)), (1, 3));
    let (said, log) = send(&scratch, &["-o", "before_queue_filter="], "a virus");
    assert!(said.contains("queued as "), "{said}{log}");
    assert_eq!((scratch.queued().len(), runs(&scratch)), (2, 3));
}

#[test]
fn nothing_is_taken_before_the_filter_has_ended_well() {
    let scratch = filtered();
    // It hands the message on, and then dies, or never ends.
    let path = scratch.path().join("filter");
    for end in ["kill -9 $$", "sleep 1000"] {
        fs::write(&path, format!("#!/bin/sh\ncat >/dev/null\n{end}\n")).expect("a filter");
        let (said, log) = send(&scratch, &["-o", "before_queue_filter_timeout=1s"], "clean");
        assert!(said.contains("\r\n451 4.3.0 ") && !said.contains("queued as"), "{said}{log}");
    }
    fs::remove_file(&path).expect("the filter");
    let (said, log) = send(&scratch, &[], "clean");
    assert!(said.contains("\r\n451 4.3.0 "), "{said}{log}");
    assert_eq!(scratch.queued(), []);
}

/// A program that listens; ended when dropped.
struct Listening(Child, u16);

impl Listening {
    /// One of ours with the socket as standard input.
    fn ours(scratch: &Scratch, program: &str, arguments: &[&str]) -> Listening {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let mut command = scratch.command(program);
        let command = command.args(arguments).stdin(OwnedFd::from(listener));
        Listening(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a server"), port)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// One message through `scratch`, whose filter is told; afterwards bob and carol have it once.
fn comes_back(scratch: &Scratch, arguments: &[&str], on_the_way: impl Fn()) -> String {
    let (said, log) = send(scratch, arguments, "clean");
    assert!(said.contains("queued as "), "{said}{log}");
    let mut log = String::new();
    for _ in 0..3 {
        log.push_str(&String::from_utf8_lossy(&scratch.deliver().stderr));
        on_the_way();
    }
    for user in ["bob", "carol"] {
        assert_eq!(scratch.mail(user).len(), 1, "{user}: {log}");
    }
    assert_eq!(scratch.queued(), [], "{log}");
    String::from_utf8_lossy(&scratch.mail("bob")[0]).into_owned()
}

#[test]
fn proxsmtp_filters_what_leaves_by_smtp_and_comes_back_by_smtp() {
    let scratch = Scratch::new();
    let back = Listening::ours(&scratch, "smtpsrvr", &["-o", "content_filter="]);
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port();
    let settings = format!(
        "Listen: 127.0.0.1:{port}\nOutAddress: 127.0.0.1:{}\nFilterCommand: /bin/sed s/clean/scanned/\nHeader: X-Scanned: yes\n\
         TempDirectory: {}\n",
        back.1,
        scratch.path().display()
    );
    scratch.write("proxsmtpd.conf", &settings);
    let mut command = Command::new("/usr/sbin/proxsmtpd");
    command.args(["-d", "1", "-f"]).arg(scratch.path().join("proxsmtpd.conf"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _filter = Listening(command.spawn().expect("proxsmtpd"), port);
    common::until("proxsmtpd", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let filter = format!("content_filter=smtp:[127.0.0.1]:{port}");
    let text = comes_back(&scratch, &["-o", &filter], || {});
    assert!(text.contains("\nX-Scanned: yes\n") && text.ends_with("\n\nscanned\n"), "{text}");
    assert_eq!(text.matches("Received: ").count(), 2, "in, and back: {text}");
}

#[test]
fn another_server_filters_what_leaves_by_lmtp_and_comes_back_by_smtp() {
    let (scratch, filter) = (Scratch::new(), Scratch::new());
    let back = Listening::ours(&scratch, "smtpsrvr", &["-o", "content_filter="]);
    filter.write("channels", &format!("all * * smtp:[127.0.0.1]:{} *\n", back.1));
    let front = Listening::ours(&filter, "lmtpsrvr", &[]);
    let setting = format!("content_filter=lmtp:[127.0.0.1]:{}", front.1);
    let text = comes_back(&scratch, &["-o", &setting], || {
        filter.deliver();
    });
    assert_eq!(text.matches("Received: ").count(), 3, "in, at the filter, and back: {text}");
}
