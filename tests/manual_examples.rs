//! What the EXAMPLES of the pages show is done as it stands there, but for names and paths of this machine. (main.cf(5),
//! channels(5) and doorpost-passwd(5): manual.rs; the small site of smtpsrvr(8): shipped.rs.)

mod common;

use common::connections::*;
use common::manual::examples;
use common::{NOBODY, PASSWORD, Scratch, bin_folder, feed, needs, under_inetd};
use doorpost::cli::Common;
use doorpost::config::Config;
use doorpost::smtpd::services;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Where the README has the programs installed, with all their names.
fn sbin(scratch: &Scratch) -> PathBuf {
    let folder = scratch.path().join("sbin");
    fs::create_dir(&folder).expect("a folder");
    for program in ["smtpsrvr", "qmqpd", "pop3d", "submit", "deliver", "smtpd", "checkaddr"] {
        symlink(bin_folder().join(program), folder.join(program)).expect("a link");
    }
    for (name, program) in
        [("sendmail", "submit"), ("newaliases", "submit"), ("qmtpd", "qmqpd"), ("lmtpsrvr", "smtpsrvr")]
    {
        symlink(bin_folder().join(program), folder.join(name)).expect("a link");
    }
    scratch.configure(&format!("daemon_directory = {}", folder.display()));
    folder
}

/// Lines for a shell, in the folder of the installation.
fn shell(scratch: &Scratch, lines: &str, input: &[u8]) -> (String, Option<i32>) {
    let path = format!("{}:/usr/bin:/bin", sbin(scratch).display());
    let mut command = Command::new("sh");
    command.env_clear().env("PATH", path).env("MAIL_CONFIG", scratch.path()).current_dir(scratch.path());
    let output = feed(command.args(["-c", lines]), input);
    (String::from_utf8(output.stdout).expect("text"), output.status.code())
}

/// The one that contains these words.
fn example(page: &str, words: &str) -> String {
    let all = examples(page);
    all.iter().find(|example| example.contains(words)).unwrap_or_else(|| panic!("{words}: {all:?}")).clone()
}

#[test]
fn one_message_from_the_command_line_is_queued() {
    let scratch = Scratch::new();
    let (said, status) = shell(&scratch, &example("qmqpd.8", "printf"), b"");
    assert!(said.contains(":KOk: queued as ") && status == Some(0), "{said}");
    assert_eq!(scratch.queued()[0].recipients, [b"bob@example.com"]);
    let scratch = Scratch::new();
    assert_eq!(shell(&scratch, &example("sendmail.1", "printf"), b""), (String::new(), Some(0)));
    let queued = scratch.queued();
    assert_eq!(queued[0].recipients, [b"bob@example.com"]);
    assert!(queued[0].content().ends_with(b"\n\nHello.\n"));
}

#[test]
fn a_passwd_file_is_tried_without_being_root() {
    let scratch = Scratch::new();
    let login = format!("USER bob\r\nPASS {PASSWORD}\r\nSTAT\r\nQUIT\r\n");
    let (said, status) = shell(&scratch, &example("pop3d.8", "passwd-file"), login.as_bytes());
    assert!(said.contains("\r\n+OK 0 0\r\n") && status == Some(0), "{said}");
    assert!(scratch.path().join("bob/new").is_dir());
}

#[test]
fn checkaddr_says_what_its_page_shows() {
    let scratch = Scratch::new();
    let dialogue = example("checkaddr.8", "$ checkaddr");
    let (command, answer) = dialogue.split_once('\n').expect("an answer");
    assert_eq!(shell(&scratch, command.trim_start_matches("$ "), b""), (answer.to_owned(), Some(0)));
}

#[test]
fn the_aliases_are_what_newaliases_takes_for_right() {
    let scratch = Scratch::new();
    let text = &examples("doorpost-aliases.5")[0];
    scratch.write("aliases", text);
    let aliases = text.lines().filter(|line| !line.starts_with(['#', ' ']) && line.contains(": ")).count();
    let (said, status) = shell(&scratch, "newaliases", b"");
    assert!(said.contains(&format!(": {aliases} aliases; ")) && aliases > 5 && status == Some(0), "{said}");
}

/// What stands for accounts and paths of another machine.
fn here(text: &str, scratch: &Scratch) -> String {
    let sbin = scratch.path().join("sbin");
    let is_root = nix::unistd::geteuid().is_root();
    let (owner, root) = if is_root { ("nobody", "root") } else { ("-", "-") };
    let text = text.replace(" doorpost ", &format!(" {owner} ")).replace(" root ", &format!(" {root} "));
    let folders = ["/usr/local/sbin/", "/usr/sbin/", "/usr/mmdf/chans/"];
    folders.iter().fold(text, |text, folder| text.replace(folder, &format!("{}/", sbin.display())))
}

#[test]
fn each_line_for_inetd_is_one_for_smtpd_too() {
    let scratch = Scratch::new();
    sbin(&scratch);
    let common = Common { config: Some(scratch.path().to_owned()), ..Common::default() };
    let config = Config::load(&common).expect("a configuration");
    let mut lines: Vec<String> = ["qmqpd.8", "pop3d.8", "qmtpd.8", "smtpsrvr.8", "smtpd.8"]
        .iter()
        .flat_map(|page| examples(page))
        .flat_map(|example| example.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| line.contains(" stream tcp "))
        .collect();
    assert_eq!(lines.len(), 9, "{lines:?}");
    lines.push(examples("doorpost-services.5")[0].clone());
    for line in lines {
        scratch.write("services", &here(&line, &scratch));
        let services =
            services::read(&scratch.path().join("services"), &config).unwrap_or_else(|e| panic!("{line}: {e}"));
        let wanted = line.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(services.len(), wanted, "{line}");
        for (service, line) in services.iter().zip(line.lines().filter(|line| !line.starts_with('#'))) {
            let limit = line.split_whitespace().nth(3).and_then(|wait| wait.strip_prefix("nowait/")?.parse().ok());
            assert_eq!(service.limit, limit.unwrap_or(config.children as usize), "{line}");
        }
    }
}

/// In a network of its own, which has their addresses and where their ports are free. The threads of other tests stay
/// where they are.
#[test]
fn each_command_line_of_smtpd_serves_whom_it_says() {
    if !needs::there("a network of its own", unshare(CloneFlags::CLONE_NEWNET).is_ok()) {
        return;
    }
    for words in ["link set lo up", "addr add 192.0.2.1/24 dev lo", "-6 addr add 2001:db8::1/64 dev lo nodad"] {
        assert!(Command::new("ip").args(words.split(' ')).status().expect("ip of iproute2").success(), "{words}");
    }
    let scratch = Scratch::new();
    let sbin = sbin(&scratch);
    let channels =
        "local 127.0.0.0/8,192.0.2.1,[2001:db8::1] $myhostname mailbox: *\ncampus - - - *\nsmtp * * smtp: local\n";
    scratch.write("channels", channels);
    scratch.write("services", &here(&examples("doorpost-services.5")[0], &scratch));
    let services = scratch.path().join("services").display().to_string();
    let smtp = ["127.0.0.1:25"];
    let mut seen = 0;
    let all: String = ["smtpd.8", "lmtpsrvr.8"].iter().flat_map(|page| examples(page)).collect();
    for line in all.replace("\\\n    ", "").lines() {
        let line = here(line, &scratch).replace("/etc/doorpost/services", &services);
        let words: Vec<&str> = line.split(' ').collect();
        let mut command = Command::new(sbin.join("smtpd"));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", scratch.path()).arg0(words[0]);
        command.args(&words[1..]);
        let addresses: &[&str] = match line.as_str() {
            _ if words.contains(&"stream") => {
                // As `smtpd` itself would be started by inetd.
                scratch.write("inetd", &format!("{line}\n"));
                command = scratch.command("smtpd");
                command.arg("--services").arg(scratch.path().join("inetd"));
                &smtp
            }
            "smtpd a000001.1025" => {
                let (said, _) = under_inetd(&mut command, b"");
                assert!(said.starts_with("220 mx.example ESMTP "), "{line}: {said}");
                seen += 1;
                continue;
            }
            _ if words.contains(&"1100") => {
                // By anybody, with no file but the one that it names: there is no main.cf among the programs.
                command = Command::new("sh");
                command.arg("-c").arg(format!("exec {line}")).current_dir(scratch.path());
                command.env_clear().env("PATH", format!("{}:/usr/bin:/bin", sbin.display()));
                command.env("MAIL_CONFIG", &sbin).uid(NOBODY).gid(NOBODY);
                scratch.write("passwd", "bob:{PLAIN}secret\n");
                &["127.0.0.1:1100"]
            }
            _ if words.contains(&"--services") => &["127.0.0.1:25", "127.0.0.1:628", "127.0.0.1:110"],
            _ if words.contains(&"lmtpsrvr") => &["127.0.0.1:24"],
            _ if words.contains(&"-l") => &["192.0.2.1:25", "[2001:db8::1]:25"],
            _ if words.contains(&"--interface") => &["192.0.2.1:25"],
            _ => &smtp,
        };
        let mut server = Server::start(&mut command);
        server.record("listening on=");
        for address in addresses {
            let address: SocketAddr = address.parse().expect("an address");
            let mut client = None;
            common::until("a connection", || {
                client = TcpStream::connect(address).ok();
                client.is_some()
            });
            let mut client = client.expect("a connection");
            client.set_read_timeout(Some(PATIENCE)).expect("a time limit");
            // QMQP's server waits for the client.
            if address.port() != 628 {
                let said = common::connections::line(&mut client);
                assert!(said.starts_with("220 mx.example ") || said.starts_with("+OK "), "{line}: {said}");
            }
        }
        server.signal(Signal::SIGTERM);
        assert_eq!(server.end().code(), Some(0), "{line}");
        seen += 1;
    }
    assert_eq!(seen, 12);
}
