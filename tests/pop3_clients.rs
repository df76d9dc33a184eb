//! Other people's clients against pop3d, in clear and under TLS, by each way to log in that they have.
//!
//! Needs curl, openssl, fetchmail, getmail6, mpop, mutt, s-nail, python3 and strace, which .ci/run installs; a missing one
//! is a failure.

mod common;

use common::tls::file;
use common::{NOBODY, PASSWORD, Scratch, feed};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

const MESSAGES: usize = 3;

fn text(number: usize) -> String {
    format!(
        "From: a@b.example\nTo: bob@mx.example\nSubject: {number}\nMessage-ID: <{number}@b.example>\n\nHello.\n.dot\n..\n"
    )
}

/// A standalone pop3d with three messages for bob; ended when dropped.
struct Server {
    scratch: Scratch,
    child: Child,
    port: String,
}

impl Server {
    fn start(options: &[&str]) -> Server {
        let scratch = Scratch::new();
        common::tls::configure(&scratch);
        if options == ["clear"] {
            scratch.configure("tls_cert_file =\ntls_key_file =");
        }
        for number in 1..=MESSAGES {
            scratch.put_mail("bob", &format!("170000000{number}.M.mx"), text(number).as_bytes());
        }
        let mut command = scratch.command("pop3d");
        command.args(options.iter().filter(|option| **option != "clear")).args(["-d", "-p", "127.0.0.1:0"]);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("pop3d");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        while !line.contains("listening on=") {
            line.clear();
            assert!(log.read_line(&mut line).expect("a record") > 0, "it does not listen");
        }
        std::thread::spawn(move || log.read_to_end(&mut Vec::new()));
        let address = line.split("on=127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
        let port = address.expect("a port").to_owned();
        Server { scratch, child, port }
    }

    /// Runs a program, which must end well.
    fn run(&self, program: &str, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).env("HOME", self.scratch.path()).env("LC_ALL", "C.UTF-8");
        let output = feed(&mut command, input.as_bytes());
        assert!(output.status.success(), "{program}: {output:?}");
        output
    }

    /// A file that only its owner can read, as clients want those with passwords.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.scratch.path().join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        path.display().to_string()
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.scratch.path().join(name);
        fs::create_dir_all(&path).expect("a folder");
        path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n")
}

#[test]
fn curl_fetches_by_each_way_to_log_in_and_under_tls_of_both_kinds() {
    let user = format!("bob:{PASSWORD}");
    let certificate = file("mx.crt.pem").display().to_string();
    let server = Server::start(&[]);
    let url = format!("pop3://mx.example:{}/2", server.port);
    let resolve = format!("mx.example:{}:127.0.0.1", server.port);
    let how = ["-sS", "--resolve", &resolve, "--cacert", &certificate, "-u", &user, &url];
    for login in ["AUTH=PLAIN", "AUTH=LOGIN", "AUTH=CRAM-MD5", "AUTH=+APOP"] {
        assert_eq!(
            said(&server.run("curl", &[&how[..], &["--login-options", login]].concat(), "")),
            text(2),
            "{login}"
        );
    }
    assert_eq!(said(&server.run("curl", &[&how[..], &["--ssl-reqd"]].concat(), "")), text(2));
    let server = Server::start(&["--tls"]);
    let url = format!("pop3s://mx.example:{}/3", server.port);
    let resolve = format!("mx.example:{}:127.0.0.1", server.port);
    let how = ["-sS", "--resolve", &resolve, "--cacert", &certificate, "-u", &user, &url];
    assert_eq!(said(&server.run("curl", &how, "")), text(3));
}

#[test]
fn openssl_begins_tls_and_speaks() {
    let certificate = file("mx.crt.pem").display().to_string();
    let server = Server::start(&[]);
    let address = format!("127.0.0.1:{}", server.port);
    let how = ["s_client", "-quiet", "-starttls", "pop3", "-connect", &address, "-servername", "mx.example"];
    let input = format!("USER bob\r\nPASS {PASSWORD}\r\nSTAT\r\nQUIT\r\n");
    let output =
        server.run("openssl", &[&how[..], &["-CAfile", &certificate, "-verify_return_error"]].concat(), &input);
    assert!(said(&output).contains("+OK 3 messages") && said(&output).ends_with("+OK Goodbye\n"), "{output:?}");
}

#[test]
fn mpop_fetches_pipelined_under_tls_and_only_what_is_new() {
    let server = Server::start(&[]);
    let folder = server.folder("mpop").display().to_string();
    let rc = server.file(
        "mpoprc",
        &format!(
            "account default\nhost 127.0.0.1\nport {}\nuser bob\npassword {PASSWORD}\nauth user\ntls on\ntls_starttls on\n\
             tls_trust_file {}\ntls_host_override mx.example\nkeep on\npipelining on\nuidls_file {folder}/uidls\n\
             received_header off\ndelivery mbox {folder}/mbox\n",
            server.port,
            file("mx.crt.pem").display(),
        ),
    );
    for _ in 0..2 {
        server.run("mpop", &["-C", &rc, "--quiet"], "");
    }
    let fetched = fs::read_to_string(format!("{folder}/mbox")).expect("fetched mail");
    for number in 1..=MESSAGES {
        assert_eq!(fetched.matches(&text(number)).count(), 1, "{fetched}");
    }
}

#[test]
fn getmail_fetches_each_message_once_and_removes_it_when_told() {
    let server = Server::start(&["clear"]);
    let (folder, maildir) = (server.folder("getmail"), server.folder("fetched"));
    for below in ["cur", "new", "tmp"] {
        server.folder(&format!("fetched/{below}"));
    }
    let root = nix::unistd::geteuid().is_root();
    server.scratch.hand_over(&maildir);
    let user = nix::unistd::User::from_uid(NOBODY.into()).expect("a user").expect("nobody").name;
    let user = if root { format!("user = {user}\n") } else { String::new() };
    for (delete, left) in [("false", MESSAGES), ("false", MESSAGES), ("true", 0)] {
        let rc = format!(
            "[retriever]\ntype = SimplePOP3Retriever\nserver = 127.0.0.1\nport = {}\nusername = bob\npassword = {PASSWORD}\n\
             [destination]\ntype = Maildir\npath = {}/\n{user}[options]\nread_all = false\ndelete = {delete}\n\
             received = false\ndelivered_to = false\n",
            server.port,
            maildir.display(),
        );
        server.file("getmail/getmailrc", &rc);
        server.run("getmail", &["--getmaildir", folder.to_str().expect("UTF-8"), "--quiet"], "");
        assert_eq!(fs::read_dir(maildir.join("new")).expect("a folder").count(), MESSAGES);
        assert_eq!(server.scratch.mail("bob").len(), left, "delete = {delete}");
    }
}

/// Runs fetchmail with this file, and its own files in this folder.
fn fetchmail(folder: &str, rc: &str, more: &[&str]) -> Output {
    let mut command = Command::new("fetchmail");
    command.env("FETCHMAILHOME", folder).args(["-f", rc, "--nosyslog", "--invisible"]);
    feed(command.args(["--pidfile", &format!("{folder}/pid")]).args(more), b"")
}

#[test]
fn fetchmail_logs_in_by_apop() {
    let server = Server::start(&["clear"]);
    let folder = server.folder("fetchmail").display().to_string();
    let rc = server.file(
        "fetchmailrc",
        &format!(
            "poll 127.0.0.1 protocol APOP port {} user bob password {PASSWORD} is nobody here\n\
             fetchall no rewrite mda \"cat >> {folder}/fetched\"\n",
            server.port,
        ),
    );
    let output = fetchmail(&folder, &rc, &["--sslproto", ""]);
    assert!(output.status.success(), "{output:?}");
    let fetched = fs::read_to_string(format!("{folder}/fetched")).expect("fetched mail");
    assert!((1..=MESSAGES).all(|number| fetched.contains(&text(number))), "{fetched}");
    assert!(server.scratch.mail("bob").is_empty());
}

/// With the certificate checked, by STLS and with TLS from the first octet on.
const TLS_OF_BOTH_KINDS: [&[&str]; 2] = [&[], &["--tls"]];

#[test]
fn fetchmail_checks_the_certificate_and_fetches_under_tls_of_both_kinds() {
    for options in TLS_OF_BOTH_KINDS {
        let server = Server::start(options);
        let folder = server.folder("fetchmail").display().to_string();
        // "ssl" is implicit TLS; else a sslproto asks for STLS and fails without it.
        let how = if options.is_empty() { "sslproto TLS1.2+" } else { "ssl" };
        let rc = server.file(
            "fetchmailrc",
            &format!(
                "poll 127.0.0.1 protocol POP3 port {} auth password uidl user bob password {PASSWORD} is nobody here \
                 {how} sslcertck sslcertfile {} sslcommonname mx.example\n\
                 keep no rewrite mda \"cat >> {folder}/fetched\"\n",
                server.port,
                file("mx.crt.pem").display(),
            ),
        );
        // The second time there is nothing new, which is status 1.
        for status in [0, 1] {
            let output = fetchmail(&folder, &rc, &["--uidl", "--keep"]);
            assert_eq!(output.status.code(), Some(status), "{options:?}: {output:?}");
        }
        let fetched = fs::read_to_string(format!("{folder}/fetched")).expect("fetched mail");
        assert!((1..=MESSAGES).all(|number| fetched.matches(&text(number)).count() == 1), "{options:?}: {fetched}");
    }
}

/// From the first octet on: getmail6 as Debian 12 has it (6.18) knows no STLS.
#[test]
fn getmail_checks_the_certificate_and_fetches_under_tls() {
    let server = Server::start(&["--tls"]);
    let (folder, maildir) = (server.folder("getmail"), server.folder("fetched"));
    for below in ["cur", "new", "tmp"] {
        server.folder(&format!("fetched/{below}"));
    }
    server.scratch.hand_over(&maildir);
    let user = nix::unistd::User::from_uid(NOBODY.into()).expect("a user").expect("nobody").name;
    let user = if nix::unistd::geteuid().is_root() { format!("user = {user}\n") } else { String::new() };
    let rc = format!(
        "[retriever]\ntype = SimplePOP3SSLRetriever\nserver = 127.0.0.1\nport = {}\nusername = bob\n\
         password = {PASSWORD}\nca_certs = {}\nssl_cert_hostname = mx.example\n\
         [destination]\ntype = Maildir\npath = {}/\n{user}[options]\nread_all = true\ndelete = true\n\
         received = false\ndelivered_to = false\n",
        server.port,
        file("mx.crt.pem").display(),
        maildir.display(),
    );
    server.file("getmail/getmailrc", &rc);
    server.run("getmail", &["--getmaildir", folder.to_str().expect("UTF-8"), "--quiet"], "");
    assert_eq!(fs::read_dir(maildir.join("new")).expect("a folder").count(), MESSAGES);
    assert!(server.scratch.mail("bob").is_empty());
}

#[test]
fn s_nail_shows_what_is_there() {
    let server = Server::start(&["clear"]);
    let url = format!("pop3://bob:{PASSWORD}@127.0.0.1:{}", server.port);
    let output = server.run("s-nail", &["-N", "-n", "-Sv15-compat", "-R", "-f", &url], "from *\nprint 2\nx\n");
    assert!((1..=MESSAGES).all(|number| said(&output).contains(&format!("  {number} a@b.example"))), "{output:?}");
    assert!(said(&output).contains("\nHello.\n.dot\n..\n"), "{output:?}");
}

#[test]
fn mutt_reads_and_removes() {
    let server = Server::start(&["clear"]);
    let folder = server.folder("mutt").display().to_string();
    let rc = server.file(
        "muttrc",
        &format!(
            "set pop_user=bob\nset pop_pass=\"{PASSWORD}\"\nset pop_checkinterval=0\nset folder=\"{folder}\"\n\
             set ssl_starttls=no\nset ssl_force_tls=no\nset pop_delete=no\nset delete=yes\nset wait_key=no\n\
             set message_cachedir=\"\"\nset mbox=\"{folder}/mbox\"\nset move=no\nset confirmappend=no\nset quit=yes\n",
        ),
    );
    // Copied to a file by `C`, one by one; the second is removed when the mailbox is left.
    let url = format!("pop://bob@127.0.0.1:{}/", server.port);
    let keys = format!(
        "push '<tag-pattern>~A<enter><tag-prefix><copy-message>{folder}/copy<enter>y<jump>2<enter><delete-message><quit>y'"
    );
    let mut command = Command::new("script");
    command.env("HOME", server.scratch.path()).env("LC_ALL", "C.UTF-8").env("TERM", "xterm");
    let line = format!("mutt -n -F {rc} -f {url} -e \"{keys}\"");
    let output = feed(command.args(["-qec", &line, "/dev/null"]), b"");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{shown}");
    let copied = fs::read_to_string(format!("{folder}/copy")).unwrap_or_else(|_| panic!("nothing was copied: {shown}"));
    for number in 1..=MESSAGES {
        assert_eq!(copied.matches(&format!("Message-ID: <{number}@b.example>")).count(), 1, "{copied}");
    }
    assert_eq!(copied.matches("\nHello.\n.dot\n..\n").count(), MESSAGES, "{copied}");
    let left: Vec<String> =
        server.scratch.mail("bob").iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    assert!(left.len() == MESSAGES - 1 && !left.contains(&text(2)), "{left:?}");
}

/// How often a session that asks for STAT reads a folder.
fn folders_read(scratch: &Scratch) -> usize {
    let trace = scratch.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=getdents64", "-o"]).arg(&trace).arg(common::binary("pop3d"));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", scratch.path());
    let input = format!("USER bob\r\nPASS {PASSWORD}\r\nSTAT\r\nQUIT\r\n");
    let output = feed(&mut command, input.as_bytes());
    assert!(said(&output).contains("+OK 100 messages, "), "{output:?}");
    fs::read_to_string(&trace).expect("a trace").matches("getdents64(").count()
}

#[test]
fn login_reads_no_folder_when_nothing_has_changed_for_a_while() {
    let scratch = Scratch::new();
    for number in 0..100 {
        scratch.put_mail("bob", &format!("{}.M.mx", 1_700_000_000 + number), text(number).as_bytes());
    }
    assert!(folders_read(&scratch) > 0, "the first session");
    // It takes two seconds until a folder has been left alone for so long.
    common::until("the index to count", || folders_read(&scratch) == 0);
    fs::remove_file(scratch.maildir("bob").join("new/1700000050.M.mx")).expect("removing");
    scratch.put_mail("bob", "1800000000.M.mx", b"A: 1\n\n");
    assert!(folders_read(&scratch) > 0, "changed");
}

/// A client that says everything at once, over the login, and leaves half-closed; Python's own asks one by one.
const PYTHON: &str = r#"
import poplib, socket, sys
port, password = int(sys.argv[1]), sys.argv[2]
client = poplib.POP3("127.0.0.1", port)
assert "UIDL" in client.capa() and "PIPELINING" in client.capa() and client.capa()["UTF8"] == ["USER"]
client.utf8()
client.apop("bob", password)
count, octets = client.stat()
sizes = [int(line.split()[1]) for line in client.list()[1]]
assert len(sizes) == count == 3 and sum(sizes) == octets
assert [len(client.retr(number + 1)[1]) for number in range(count)] == [8, 8, 8]
assert client.top(1, 0)[1][-1] == b"" and client.uidl(2).split()[1] == b"2"
assert all(client.retr(number + 1)[2] == sizes[number] for number in range(count))
client.dele(1); client.rset(); client.noop(); client.quit()

raw = socket.create_connection(("127.0.0.1", port))
said = b"CAPA\r\nUSER bob\r\nPASS " + password.encode() + b"\r\nSTAT\r\nLIST\r\nUIDL\r\n"
raw.sendall(said + b"RETR 1\r\n" * 50 + b"DELE 3\r\nQUIT\r\n")
raw.shutdown(socket.SHUT_WR)
said = b""
while piece := raw.recv(65536):
    said += piece
assert said.count(b"+OK Message follows\r\n") == 50, said
assert said.endswith(b"+OK Marked as deleted\r\n+OK Goodbye\r\n"), said
"#;

#[test]
fn python_asks_one_by_one_and_everything_at_once() {
    let server = Server::start(&["clear"]);
    server.run("python3", &["-c", PYTHON, &server.port, PASSWORD], "");
    assert_eq!(server.scratch.mail("bob").len(), MESSAGES - 1);
}
