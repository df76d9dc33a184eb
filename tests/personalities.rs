//! smtpd in place of MMDF's smtpd and of qpsmtpd's two servers, with the command lines of their manual pages.

mod common;

use common::connections::*;
use std::fs;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A folder in which `smtpsrvr` shows the command line it was started with: cat, whose operands are no files.
fn with_mirror() -> (tempfile::TempDir, String) {
    let (folder, program) = with_a_strangers_mirror();
    let programs = folder.path().display().to_string();
    let main_cf = format!("myhostname = mx.example\nmail_owner = nobody\ndaemon_directory = {programs}\n");
    fs::write(folder.path().join("main.cf"), main_cf).unwrap();
    (folder, program)
}

/// The same, and it is not the one that is installed, of which smtpd knows what channels it has.
fn with_a_strangers_mirror() -> (tempfile::TempDir, String) {
    let folder = folder();
    fs::write(folder.path().join("main.cf"), "myhostname = mx.example\n").unwrap();
    let program = folder.path().join("smtpsrvr");
    fs::copy("/bin/cat", &program).unwrap();
    (folder, program.to_str().unwrap().to_owned())
}

/// smtpd under another name.
fn named(folder: &Path, name: &str) -> Command {
    let mut command = smtpd(folder);
    command.arg0(format!("/usr/bin/{name}"));
    command
}

/// Starts a command as inetd does, with a client on descriptors 0, 1 and 2; gives what the client hears and the status.
fn called_by_inetd(command: &mut Command) -> (String, Option<i32>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let served = listener.accept().unwrap().0;
    let stdio = || Stdio::from(OwnedFd::from(served.try_clone().unwrap()));
    command.stdin(stdio()).stdout(stdio()).stderr(stdio());
    let mut process = command.spawn().unwrap();
    // The command holds copies of the connection, and so would keep it open.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    drop(served);
    let said = all(&mut client);
    (said, process.wait().unwrap().code(), client)
}

fn words(said: &str) -> Vec<&str> {
    said.split_terminator('\0').collect()
}

const SHOWN: &str = "/proc/self/cmdline";

#[test]
fn mmdf_on_4_2_listens_with_options() {
    let (folder, program) = with_a_strangers_mirror();
    let mut command = smtpd(folder.path());
    command.args(["-d", "-f", "-n", "7", "--listen-address", "127.0.0.1", "--port", "0", &program, SHOWN]);
    let mut server = Server::start(&mut command);
    assert_eq!(words(&server.listen_to("0")), ["rsmtpsrvr", "127.0.0.1", "mx.example", SHOWN]);
}

#[test]
fn mmdf_on_4_1_listens_by_five_operands() {
    let (folder, program) = with_a_strangers_mirror();
    let start = |words: &[&str]| {
        let mut command = smtpd(folder.path());
        command.args(["--listen-address", "127.0.0.1"]).args(words);
        command
    };
    let mut server = Server::start(&mut start(&[&program, SHOWN, "0", "1", "net.example"]));
    assert_eq!(words(&server.listen_to("0")), ["smtpsrvr", "127.0.0.1", "net.example", SHOWN]);
    for wrong in [["nosuch", "1"], ["65536", "1"], ["0", "0"], ["0", "+1"], ["0", "many"], ["0", ""]] {
        let (status, text) = refused(&mut start(&[&program, "local", wrong[0], wrong[1], "net.example"]));
        assert_eq!(status, Some(64), "{wrong:?}: {text}");
    }
    let (status, text) = refused(&mut start(&["-n", "4", &program, "local", "0", "4", "net.example"]));
    assert_eq!(status, Some(64), "{text}");
}

#[test]
fn mmdf_on_4_3_becomes_the_server_for_the_client_on_descriptor_0() {
    let (folder, program) = with_mirror();
    let (said, status, _) = called_by_inetd(smtpd(folder.path()).args([&program, SHOWN]));
    assert_eq!(words(&said)[..3], ["smtpsrvr", "127.0.0.1", "mx.example"], "{said}");
    assert_eq!(status, Some(1), "what cat says to files that are not there");
    let (said, ..) = called_by_inetd(smtpd(folder.path()).args(["-f", &program, SHOWN]));
    assert_eq!(words(&said)[..1], ["rsmtpsrvr"]);
    // Any program, with ucspi's variables, and no process between it and inetd.
    let (said, status, client) = called_by_inetd(smtpd(folder.path()).arg("/usr/bin/env"));
    assert_eq!(status, Some(0));
    for line in ["TCPREMOTEIP=127.0.0.1".to_owned(), format!("TCPREMOTEPORT={}", client.local_addr().unwrap().port())] {
        assert!(said.lines().any(|said| said == line), "{line} is not in {said}");
    }
}

#[test]
fn mmdf_on_sunos_becomes_the_server_that_is_beside_it_or_named() {
    let (folder, program) = with_mirror();
    fs::remove_file(&program).unwrap();
    let program = script(folder.path(), "smtpsrvr", "echo \"$@\"; echo $TCPREMOTEIP $TCPREMOTEPORT");
    let on_pipe = |words: &[&str]| {
        let output = smtpd(folder.path()).args(words).stdin(Stdio::null()).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    };
    assert_eq!(on_pipe(&["a000001.1025"]), ("10.0.0.1 mx.example smtp\n10.0.0.1 1025\n".to_owned(), Some(0)));
    assert_eq!(on_pipe(&["-", &program, "local,smtp"]), ("- mx.example local,smtp\n\n".to_owned(), Some(0)));
    // Whoever made the pipe has said already who is at its other end.
    let mut vouched = smtpd(folder.path());
    vouched.env("TCPREMOTEIP", "192.0.2.7").env("TCPREMOTEPORT", "1234").args(["-", &program, "local,smtp"]);
    let output = vouched.stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "- mx.example local,smtp\n192.0.2.7 1234\n");
    let mut operand = smtpd(folder.path());
    let output = operand.env("TCPREMOTEIP", "192.0.2.7").arg("a000001.1025").stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "10.0.0.1 mx.example smtp\n10.0.0.1 1025\n");
    for wrong in [&["a000001.65536"][..], &["-"], &["-", "/nosuch/smtpsrvr", "local"]] {
        // Whom "-" names is a client whatever descriptor 0 is; a word that is no address may be anything.
        let (said, status) = on_pipe(wrong);
        assert_eq!((said.starts_with("421 "), status), (wrong.starts_with(&["-"]), Some(64)), "{wrong:?}: {said}");
    }
    // The kernel knows better than an argument.
    let (said, ..) = called_by_inetd(smtpd(folder.path()).arg("a000001.1025"));
    assert!(said.starts_with("127.0.0.1 mx.example smtp\n127.0.0.1 "), "{said}");
}

#[test]
fn a_client_on_descriptor_0_hears_later_and_never_why() {
    let (folder, program) = with_mirror();
    for wrong in [&["/nosuch/smtpsrvr", "local"][..], &["--nosuch", &program], &["-f", "/bin/cat"]] {
        let (said, status, _) = called_by_inetd(smtpd(folder.path()).args(wrong));
        assert!(said.starts_with("421 4.3.0 ") && said.lines().count() == 1, "{wrong:?}: {said}");
        assert_eq!(status, Some(64));
    }
    // A blank in a list of channels would open all, and a pop3d that listens would be started for each client.
    let scratch = common::Scratch::new();
    for wrong in [&["-f", "smtpsrvr", "local", "smtp"][..], &["smtpsrvr", "local", "smtp"], &["pop3d", "-d"]] {
        let (said, status, _) = called_by_inetd(scratch.command("smtpd").args(wrong));
        assert!(said.starts_with("421 4.3.0 ") && status == Some(64), "{wrong:?}: {said}");
    }
}

/// Of TLS, for example, which sslserver has taken off.
#[test]
fn a_client_on_a_pipe_is_who_its_maker_says() {
    let scratch = common::Scratch::new();
    let mut command = scratch.command("smtpd");
    command.env("TCPREMOTEIP", "192.0.2.7").args(["-", "smtpsrvr", "local,smtp"]);
    let output = common::feed(&mut command, b"QUIT\r\n");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.stdout.starts_with(b"220 mx.example "), "{log}");
    assert!(log.contains("client=192.0.2.7 event=connect"), "{log}");
}

#[test]
fn the_client_on_descriptor_0_is_served_by_the_user_that_is_named() {
    let (folder, _) = with_mirror();
    let (said, status, _) = called_by_inetd(smtpd(folder.path()).args(["--user", "nosuch", "/bin/echo", "served"]));
    assert!(said.starts_with("421 ") && status == Some(64), "{said}");
    if !common::needs::root() {
        return;
    }
    let show = "id -u; id -g; id -G";
    let (said, ..) = called_by_inetd(smtpd(folder.path()).args(["--user", "nobody", "/bin/sh", "-c", show]));
    assert_eq!(said, "65534\n65534\n65534\n", "uid, gid, and no group of root's");
    // It would greet, and put each message off.
    let scratch = common::Scratch::new();
    let (said, status, _) = called_by_inetd(scratch.command("smtpd").args(["--user", "daemon", "smtpsrvr"]));
    assert!(said.starts_with("421 ") && status == Some(77), "{said}");
    let (said, ..) = called_by_inetd(scratch.command("smtpd").args(["--user", "nobody", "smtpsrvr"]));
    assert!(said.starts_with("220 "), "{said}");
}

/// It would do nothing for the one client.
#[test]
fn who_gives_an_option_of_a_listener_listens_even_with_a_client_on_descriptor_0() {
    let (folder, _) = with_mirror();
    let (said, status, _) =
        called_by_inetd(smtpd(folder.path()).args(["--notification-fd", "99", "/bin/echo", "served"]));
    assert!(said.starts_with("421 ") && status == Some(64), "{said}");
}

#[test]
fn under_qpsmtpds_names_smtpsrvr_is_started_with_all_channels() {
    let (folder, program) = with_mirror();
    fs::remove_file(&program).unwrap();
    script(folder.path(), "smtpsrvr", "echo $# operands");
    for (name, options) in [
        ("qpsmtpd-forkserver", &["-p", "0", "-l", "127.0.0.1", "-c", "0", "-H"][..]),
        ("qpsmtpd-forkserver", &["--port=0", "--listen-address=127.0.0.1", "--limit-connections=3"]),
        ("qpsmtpd-forkserver", &["--po", "0", "--listen", "127.0.0.1", "--limit", "3"]),
        ("qpsmtpd-prefork", &["--port", "0", "--interface", "127.0.0.1", "--limit-connections", "3", "--debug"]),
    ] {
        let mut server = Server::start(named(folder.path(), name).args(["--mode", "exec"]).args(options));
        assert_eq!(server.listen_to("0"), "0 operands\n", "{name} {options:?}");
    }
}

#[test]
fn addresses_and_ports_can_be_repeated() {
    if !common::needs::ipv6() {
        return;
    }
    let (folder, _) = with_mirror();
    let mut command = named(folder.path(), "qpsmtpd-forkserver");
    command.args(["-l", "127.0.0.1", "-l", "127.0.0.2:0", "-l", "[::1]:0", "-p", "0", "/bin/echo", "served"]);
    let mut server = Server::start(&mut command);
    for host in ["127.0.0.1:", "127.0.0.2:", "[::1]:"] {
        let record = server.record(&format!("listening on={host}"));
        let address = record.split("on=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        assert_eq!(all(&mut TcpStream::connect(&address).unwrap()), "served\n", "{address}");
    }
}

#[test]
fn an_ipv4_address_may_stand_beside_the_ipv6_wildcard() {
    if !common::needs::ipv6() {
        return;
    }
    let (folder, _) = with_mirror();
    for (ipv4, addresses) in
        [("0.0.0.0", ["-l", "0.0.0.0", "-l", "::"]), ("127.0.0.1", ["-l", "::", "-l", "127.0.0.1"])]
    {
        let (sockets, port) = both_wildcards();
        drop(sockets);
        let mut command = named(folder.path(), "qpsmtpd-forkserver");
        command.args(["-p", &port]).args(addresses).args(["/bin/echo", "served"]);
        let mut server = Server::start(&mut command);
        server.record(&format!("listening on={ipv4}:{port} "));
        server.record(&format!("listening on=[::]:{port} "));
        for host in ["127.0.0.1", "[::1]"] {
            assert_eq!(all(&mut TcpStream::connect(format!("{host}:{port}")).unwrap()), "served\n", "{host}");
        }
    }
}

#[test]
fn each_name_has_its_letters_and_no_others() {
    let (folder, _) = with_mirror();
    for (name, wrong) in [
        ("smtpd", &["-p", "-u", "-c", "-m", "-l", "-H"][..]),
        ("qpsmtpd-forkserver", &["-f", "-n"]),
        ("qpsmtpd-prefork", &["-p", "-u", "-c", "-m", "-l", "-d", "-f", "-n", "-H"]),
    ] {
        for letter in wrong {
            let (status, text) = refused(named(folder.path(), name).args([letter, "1", "/bin/cat"]));
            assert_eq!(status, Some(64), "{name} {letter}: {text}");
        }
    }
    // Other options of ours that begin so are not in the way.
    for (name, begun, whole) in [
        ("qpsmtpd-forkserver", "--max", "--max-from-ip"),
        ("qpsmtpd-prefork", "--m", "--max-from-ip"),
        ("qpsmtpd-prefork", "--c", "--children"),
        ("qpsmtpd-prefork", "--re", "--renice-parent"),
    ] {
        let (status, text) = refused(named(folder.path(), name).args([begun, "x"]));
        assert_eq!(status, Some(64));
        assert!(text.contains(&format!("invalid value 'x' for '{whole} ")), "{name} {begun}: {text}");
    }
    let (status, text) = refused(named(folder.path(), "qpsmtpd-forkserver").args(["--li", "1"]));
    assert_eq!(status, Some(64), "not the beginning of one name only: {text}");
    for (letter, value) in [("-c", "-1"), ("-m", "+1"), ("-c", "4294967296"), ("-m", "")] {
        let (status, text) = refused(named(folder.path(), "qpsmtpd-forkserver").args([letter, value]));
        assert!(
            status == Some(64) && text.contains("expected a number from 0 to 4294967295"),
            "{letter} {value}: {text}"
        );
    }
    // A letter does as well behind two hyphens, and wins over names that it begins.
    for letter in ["--c", "--m"] {
        let (status, text) = refused(named(folder.path(), "qpsmtpd-forkserver").args([letter, "x"]));
        assert_eq!(status, Some(64));
        assert!(text.contains("invalid value 'x' for '--"), "{letter}: {text}");
    }
}

#[test]
fn what_was_started_for_a_client_by_its_words_speaks_to_it_alone_and_always() {
    use std::io::Read;
    let folder = folder();
    for words in [&["-", "nosuch"][..], &["a000001.1025", "-x"], &["a000001.1025"], &["-"], &["--nosuch", "-"]] {
        let (mut client, served) = std::os::unix::net::UnixStream::pair().unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let stdio = || Stdio::from(OwnedFd::from(served.try_clone().unwrap()));
        let mut command = smtpd(folder.path());
        command.args(["-o", "daemon_directory=/nosuch"]).args(words);
        let mut process = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        drop((command, served));
        client.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("421 ") && said.lines().count() == 1, "{words:?}: {said:?}");
        assert_eq!(process.wait().unwrap().code(), Some(64), "{words:?}");
    }
}

#[test]
fn help_shows_each_form() {
    let folder = folder();
    let output = smtpd(folder.path()).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(!help.contains(" smtpsrvr local,campus   every day"), "{help}");
    for form in
        ["smtpd -f -n 20", "25 20 mx.example", "smtpd a000001.1025", "smtpd - ", "qpsmtpd-forkserver -p", "--services"]
    {
        assert!(help.contains(form), "{form} is not in {help}");
    }
}
