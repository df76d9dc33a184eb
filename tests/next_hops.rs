//! Other people's servers as next hops: Postfix, OpenSMTPD, and Dovecot's LMTP over TCP and over a unix socket. Some of the
//! recipients are nobody there. Every message is delivered or returned, and once. `DOORPOST_MESSAGES` says how many (60).
//! Postfix is also a smart host that wants TLS and a login, which it has Dovecot check; OpenSMTPD offers TLS.
//!
//! Needs root. OpenSMTPD cannot be installed beside Postfix: `DOORPOST_OPENSMTPD` is the folder in which its package was
//! unpacked (`dpkg -x`).

mod common;

use common::names::{Names, Table};
use common::postfix::Postfix;
use common::{PASSWORD, Scratch, free_port, tls};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

fn wanted() -> usize {
    std::env::var("DOORPOST_MESSAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// An installation with messages 0 to `wanted()` in its queue for users of b.example, of whom every tenth is nobody.
fn site(transport: &str) -> Scratch {
    let scratch = Scratch::with("default_destination_concurrency_limit = 4\nminimal_backoff_time = 1s");
    scratch.write("channels", &format!("local - mx.example mailbox: *\nout * b.example \"{transport}\" *\n"));
    for number in 0..wanted() {
        let user = match number % 10 {
            0 => "nobody-there",
            1..5 => "bob",
            _ => "carol",
        };
        let content = format!("Subject: number-{number}-\n\n.hello\n..\n");
        scratch.enqueue(&[&format!("{user}@b.example")], content.as_bytes());
    }
    scratch
}

/// How often each message is in these mailboxes.
fn found(texts: impl Iterator<Item = Vec<u8>>) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for text in texts {
        let text = String::from_utf8_lossy(&text).into_owned();
        for line in text.lines().filter(|line| line.starts_with("Subject: number-")) {
            *found.entry(line.trim_end().to_owned()).or_default() += 1;
        }
    }
    found
}

fn mail_in(maildir: &Path) -> Vec<Vec<u8>> {
    let files = fs::read_dir(maildir.join("new")).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read(file.path()).ok()).collect()
}

/// Delivers, and finds every message once: at the other server, or back at the sender.
fn each_once(scratch: &Scratch, boxes: &[PathBuf]) {
    let started = Instant::now();
    let log = scratch.deliver();
    let handed_on = started.elapsed();
    let there = || found(boxes.iter().flat_map(|maildir| mail_in(maildir)));
    let (count, nobodys) = (wanted(), wanted().div_ceil(10));
    let limit = Duration::from_secs(20 + count as u64 / 50);
    while there().len() < count - nobodys && started.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(20));
    }
    let returned = found(scratch.mail("alice").into_iter());
    let there = there();
    let once = |found: &BTreeMap<String, usize>| found.values().all(|times| *times == 1);
    assert_eq!((there.len(), returned.len()), (count - nobodys, nobodys), "{}", &log[..log.len().min(5000)]);
    assert!(once(&there) && once(&returned) && !returned.keys().any(|one| there.contains_key(one)));
    assert_eq!(scratch.queued(), []);
    let report = String::from_utf8_lossy(&scratch.mail("alice")[0]).into_owned();
    assert!(
        ["[127.0.0.1]", "localhost"].iter().any(|host| report.contains(&format!("\nRemote-MTA: dns; {host}\n"))),
        "{report}"
    );
    assert!(report.contains("\nDiagnostic-Code: smtp; 5"), "{report}");
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("next hop: {count} messages handed on in {handed_on:.1?}, all there after {:.1?}\n", started.elapsed())
            .as_bytes(),
    );
}

/// A program that listens; ended when dropped.
struct Listening(Child);

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
fn postfix_has_each_message_once() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    let more = "virtual_mailbox_domains = b.example\n\
        virtual_mailbox_maps = inline:{ bob@b.example=bob/, carol@b.example=carol/ }";
    let postfix = Postfix::start(folder.path(), "smtpd", more);
    let scratch = site(&format!("smtp:[127.0.0.1]:{}", postfix.address.port()));
    each_once(&scratch, &["bob", "carol"].map(|user| postfix.maildir(user)));
}

/// Dovecot's LMTP server, on a port and on a unix socket, with bob and carol; passwords are checked at the socket `auth`.
fn dovecot(folder: &Path, port: u16) -> Listening {
    common::usual_umask();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("its mode");
    fs::create_dir(folder.join("run")).expect("a folder");
    let (top, owner) = (folder.display(), common::NOBODY);
    let users: String = ["bob", "carol"]
        .map(|user| format!("{user}:{{PLAIN}}{PASSWORD}:{owner}:{owner}::{top}/home/{user}::\n"))
        .concat();
    fs::write(folder.join("users"), users).expect("users");
    let configuration = format!(
        "base_dir = {top}/run\nstate_dir = {top}/run\nprotocols = lmtp\nssl = no\nlog_path = {top}/log\n\
         mail_location = maildir:{top}/mail/%n\nfirst_valid_uid = 1\npostmaster_address = postmaster@b.example\n\
         hostname = b.example\nuserdb {{\n driver = passwd-file\n args = username_format=%n {top}/users\n}}\n\
         passdb {{\n driver = passwd-file\n args = username_format=%n {top}/users\n}}\n\
         service lmtp {{\n inet_listener lmtp {{\n  address = 127.0.0.1\n  port = {port}\n }}\n\
         unix_listener {top}/lmtp {{\n  mode = 0666\n }}\n}}\n\
         auth_mechanisms = plain login\nservice auth {{\n unix_listener {top}/auth {{\n  mode = 0666\n }}\n}}\n"
    );
    fs::write(folder.join("dovecot.conf"), configuration).expect("dovecot.conf");
    fs::create_dir(folder.join("mail")).expect("a folder");
    nix::unistd::chown(&folder.join("mail"), Some(owner.into()), Some(owner.into())).expect("chown");
    let mut command = Command::new("/usr/sbin/dovecot");
    command.arg("-F").arg("-c").arg(folder.join("dovecot.conf"));
    let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("dovecot");
    let process = Listening(process);
    common::until("Dovecot to listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    process
}

#[test]
fn dovecot_has_each_message_once_by_lmtp() {
    for way in ["tcp", "unix"] {
        let folder = tempfile::Builder::new().suffix(way).tempdir().expect("a folder");
        let port = free_port();
        let _dovecot = dovecot(folder.path(), port);
        let transport = match way {
            "tcp" => format!("lmtp:[127.0.0.1]:{port}"),
            _ => format!("lmtp:unix:{}/lmtp", folder.path().display()),
        };
        each_once(&site(&transport), &["bob", "carol"].map(|user| folder.path().join("mail").join(user)));
    }
}

/// What OpenSMTPD is told besides its boxes and their action `d`: anybody may bring mail for b.example.
const OPEN: (&str, &str) = ("", "match from any for domain \"b.example\" action \"d\"\n");

/// There is one OpenSMTPD at a time, for its control socket has one name.
static TURN: Mutex<()> = Mutex::new(());

/// OpenSMTPD as its package has it, in a mount namespace where its folders and users are. `listen`: what it wants of who
/// connects; `rules`: the rest of its configuration.
fn opensmtpd(folder: &Path, port: u16, (listen, rules): (&str, &str)) -> Listening {
    let unpacked = std::env::var("DOORPOST_OPENSMTPD").expect("DOORPOST_OPENSMTPD: the folder of its unpacked package");
    let path = |name: &str| folder.join(name);
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("its mode");
    for name in ["spool/smtpd/queue", "spool/smtpd/incoming", "spool/smtpd/offline", "spool/smtpd/purge"]
        .into_iter()
        .chain(["spool/smtpd/temporary", "spool/smtpd/corrupt", "lib/opensmtpd/empty", "mail"])
    {
        fs::create_dir_all(path(name)).expect("a folder");
    }
    let owner = common::NOBODY;
    nix::unistd::chown(&path("mail"), Some(owner.into()), Some(owner.into())).expect("chown");
    for (file, fields) in [("passwd", ":x:989:989::/var/lib/opensmtpd/empty:/usr/sbin/nologin"), ("group", ":x:989:")] {
        let mut text = fs::read_to_string(Path::new("/etc").join(file)).expect("users");
        for name in ["opensmtpd", "opensmtpq"] {
            if !text.lines().any(|line| line.starts_with(&format!("{name}:"))) {
                let number = if name == "opensmtpq" { "988" } else { "989" };
                text.push_str(&format!("{name}{}\n", fields.replace("989", number)));
            }
        }
        fs::write(path(file), text).expect("users");
    }
    fs::write(path("resolv.conf"), "nameserver 127.0.0.1\n").expect("a file");
    let configuration = format!(
        "table boxes {{ \"bob@b.example\" = \"nobody\", \"carol@b.example\" = \"nobody\" }}\n\
         action \"d\" maildir \"{}/mail/%{{rcpt.user}}\" virtual <boxes>\n{rules}\
         listen on 127.0.0.1 port {port} hostname b.example {listen}\n",
        folder.display()
    );
    fs::write(path("smtpd.conf"), configuration).expect("smtpd.conf");
    fs::set_permissions(path("smtpd.conf"), fs::Permissions::from_mode(0o600)).expect("its mode");
    let script = "set -e; cd \"$1\"; mount --bind \"$2/usr/libexec\" /usr/libexec; mount --bind spool /var/spool\n\
        mount --bind lib /var/lib; for file in passwd group resolv.conf; do mount --bind $file /etc/$file; done\n\
        chmod 711 spool/smtpd; chmod 700 spool/smtpd/*; chown opensmtpq spool/smtpd/*\n\
        chown root:opensmtpq spool/smtpd/offline; chmod 770 spool/smtpd/offline\n\
        exec \"$2/usr/sbin/smtpd\" -F -f \"$1/smtpd.conf\" >log 2>&1";
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "/bin/sh", "-c", script, "sh"]).arg(folder).arg(unpacked);
    let process = Listening(command.stdin(Stdio::null()).spawn().expect("unshare"));
    common::until("OpenSMTPD to listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    process
}

#[test]
fn opensmtpd_has_each_message_once() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let _opensmtpd = opensmtpd(folder.path(), port, OPEN);
    let scratch = site(&format!("smtp:[127.0.0.1]:{port}"));
    each_once(&scratch, &["bob", "carol"].map(|user| folder.path().join("mail").join(user)));
}

const ZONE: Table = &[("mx.example", "A", "127.0.0.1"), ("other.example", "A", "127.0.0.1")];

/// Postfix that takes mail from nobody who has not logged in, for bob at b.example.
fn smart_host(parent: &Path, auth: &Path, more: &str) -> Postfix {
    let file = |name: &str| {
        let copy = parent.join(name);
        fs::copy(tls::file(name), &copy).expect("a PEM file");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).expect("its mode");
        copy.display().to_string()
    };
    let (certificate, key) = (file("mx.crt.pem"), file("mx.key.pem"));
    let more = format!(
        "virtual_mailbox_domains = b.example\nvirtual_mailbox_maps = inline:{{ bob@b.example=bob/ }}\nmynetworks =\n\
         smtpd_tls_cert_file = {certificate}\nsmtpd_tls_key_file = {key}\nsmtpd_tls_received_header = yes\n\
         smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {}\n\
         smtpd_sasl_authenticated_header = yes\nsmtpd_relay_restrictions = permit_sasl_authenticated, reject\n\
         smtpd_recipient_restrictions = permit_sasl_authenticated, reject\n{more}",
        auth.display()
    );
    Postfix::start(parent, "smtpd", &more)
}

/// One message to bob by this smart host; what the log says of it.
fn by_smart_host(
    hop: &str,
    names: &Names,
    level: &str,
    authorities: &str,
    password: Option<&str>,
) -> (Scratch, String) {
    let scratch = Scratch::with(&format!(
        "name_servers = {}\nsmtp_tls_security_level = {level}\nsmtp_tls_CAfile = {}\nsmtp_sasl_auth_enable = yes",
        names.address,
        tls::file(authorities).display()
    ));
    scratch.configure(&format!("smtp_sasl_password_maps = hash:{}/passwords", scratch.path().display()));
    let login = password.map(|password| format!("{hop} bob:{password}\n"));
    scratch.write("passwords", &login.unwrap_or_else(|| "# none\n".to_owned()));
    scratch.write("channels", &format!("local - mx.example mailbox: *\nout * b.example \"smtp:{hop}\" *\n"));
    scratch.enqueue(&["bob@b.example"], b"Subject: x\n\nhello\n");
    let log = scratch.deliver();
    (scratch, log)
}

#[test]
fn postfix_as_a_smart_host_is_logged_in_at_under_tls_as_far_as_it_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    let _dovecot = dovecot(folder.path(), free_port());
    let names = Names::start(ZONE);
    let auth = folder.path().join("auth");
    let (encrypted, open) = (true, false);
    for (more, cases) in [
        (
            "smtpd_tls_security_level = may\nsmtpd_tls_auth_only = yes",
            &[
                ("may", "other.crt.pem", "mx.example", PASSWORD, Some(encrypted)),
                ("encrypt", "other.crt.pem", "mx.example", PASSWORD, Some(encrypted)),
                ("verify", "mx.crt.pem", "mx.example", PASSWORD, Some(encrypted)),
                ("secure", "mx.crt.pem", "mx.example", PASSWORD, Some(encrypted)),
                ("verify", "other.crt.pem", "mx.example", PASSWORD, None),
                ("secure", "mx.crt.pem", "other.example", PASSWORD, None),
                // Without TLS it offers no login, and takes nothing.
                ("none", "mx.crt.pem", "mx.example", PASSWORD, None),
                ("may", "mx.crt.pem", "mx.example", "wrong", None),
            ][..],
        ),
        (
            "smtpd_tls_security_level = none\nsmtpd_tls_auth_only = no",
            &[
                ("may", "mx.crt.pem", "mx.example", PASSWORD, Some(open)),
                ("encrypt", "mx.crt.pem", "mx.example", PASSWORD, None),
            ][..],
        ),
    ] {
        let postfix = smart_host(folder.path(), &auth, more);
        let mut expected = 0;
        for (level, authorities, name, password, arrives) in cases {
            let hop = format!("[{name}]:{}", postfix.address.port());
            let (scratch, log) = by_smart_host(&hop, &names, level, authorities, Some(password));
            let what = format!("{more} {level} {authorities} {name} {password}: {log}{}", postfix.log());
            assert_eq!(
                (scratch.queued().len(), scratch.mail("alice").len()),
                (usize::from(arrives.is_none()), 0),
                "{what}"
            );
            assert!(log.contains(if arrives.is_some() { "status=relayed" } else { "status=deferred" }), "{what}");
            let Some(is_encrypted) = arrives else { continue };
            expected += 1;
            common::until("the message in bob's mailbox", || mail_in(&postfix.maildir("bob")).len() == expected);
            let mail = mail_in(&postfix.maildir("bob"));
            let count = |words: &str| mail.iter().filter(|text| String::from_utf8_lossy(text).contains(words)).count();
            assert_eq!(count("(Authenticated sender: bob)"), expected, "{what}");
            assert_eq!(count("(using TLSv1.3 with cipher "), if *is_encrypted { expected } else { 0 }, "{what}");
        }
    }
}

/// Debian 12's OpenSMTPD (6.8, with OpenSSL 3) breaks off every handshake, of `openssl s_client` too: "missing private key". So
/// it cannot be logged in at, and is a next hop that offers what it cannot do.
#[test]
fn opensmtpd_that_offers_tls_has_mail_in_the_clear_only_where_that_is_allowed() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let path = |name: &str| folder.path().join(name);
    for name in ["mx.crt.pem", "mx.key.pem"] {
        fs::copy(tls::file(name), path(name)).expect("a PEM file");
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).expect("its mode");
    }
    let rules = format!(
        "pki mx.example cert \"{}\"\npki mx.example key \"{}\"\n{}",
        path("mx.crt.pem").display(),
        path("mx.key.pem").display(),
        OPEN.1
    );
    let _opensmtpd = opensmtpd(folder.path(), port, ("tls pki mx.example", &rules));
    let names = Names::start(ZONE);
    let mut expected = 0;
    for level in ["none", "may", "encrypt", "verify"] {
        let hop = format!("[mx.example]:{port}");
        let (scratch, log) = by_smart_host(&hop, &names, level, "mx.crt.pem", None);
        let is_encrypted = level != "none" && !log.contains("tls=failed");
        let arrives = is_encrypted || matches!(level, "none" | "may");
        assert_eq!((scratch.queued().len(), scratch.mail("alice").len()), (usize::from(!arrives), 0), "{level}: {log}");
        assert!(log.contains(if arrives { "status=relayed" } else { "status=deferred" }), "{level}: {log}");
        expected += usize::from(arrives);
        let mail = || mail_in(&folder.path().join("mail/bob"));
        common::until("the message in bob's mailbox", || mail().len() == expected);
        let encrypted = mail().iter().filter(|text| String::from_utf8_lossy(text).contains(" with ESMTPS ")).count();
        assert!(is_encrypted || encrypted == 0 || level != "none", "{level}: {log}");
    }
}
