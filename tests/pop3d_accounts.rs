//! Ways to log in beside USER and PASS with a passwd-file: APOP, programs with checkpassword's interface, and the group
//! that mailboxes in a common folder need.

mod common;

use common::{PASSWORD, Scratch};
use md5::{Digest, Md5};
use nix::unistd::geteuid;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Stdio;

const LOGIN: &str = "USER bob\r\nPASS secret\r\nQUIT\r\n";

/// What was said, and the log.
fn run(scratch: &Scratch, options: &[&str], input: &str) -> (String, String) {
    let output = scratch.run("pop3d", options, input.as_bytes());
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// A checkpassword of its own: bob has a password and becomes who runs it, root may be asked for, `slow` is temporary.
fn checker(scratch: &Scratch, owner: &str) -> String {
    let path = scratch.path().join("checker");
    let home = scratch.path().join("home");
    let script = format!(
        "#!/bin/sh\nset -- \"$@\"\nname=$(tr '\\0' '\\n' <&3 | head -n 2 | tr '\\n' ' ')\ncase $name in\n\
         'bob secret '|'virtual@net.example secret '|'Virtual@Net.Example secret ') ;;\n\
         'root secret ') exec \"$@\" ;;\n'slow '*) exit 111 ;;\n\
         *) exit 1 ;;\nesac\nHOME={} exec {owner} \"$@\" 3<&-\n",
        home.display(),
    );
    common::write_program(&path, &script);
    path.display().to_string()
}

/// As who checkpassword would become the user.
fn owner() -> String {
    if geteuid().is_root() {
        format!("setpriv --reuid={0} --regid={0} --clear-groups", common::NOBODY)
    } else {
        String::new()
    }
}

fn site() -> (Scratch, String) {
    let scratch = Scratch::with("auth_failure_delay = 0");
    scratch.configure("mailbox = maildir:~/%u");
    let home = scratch.path().join("home");
    fs::create_dir(&home).expect("a folder");
    scratch.hand_over(&home);
    let program = checker(&scratch, &owner());
    (scratch, program)
}

#[test]
fn a_program_with_the_interface_of_checkpassword_knows_users_and_their_mailboxes() {
    let (scratch, program) = site();
    let option = format!("--authentication=checkpassword:{program}");
    for user in ["bob", "virtual@net.example"] {
        let (said, log) = run(&scratch, &[&option], &LOGIN.replace("bob", user));
        assert!(said.ends_with("+OK 0 messages, 0 octets\r\n+OK Goodbye\r\n"), "{user}: {said} {log}");
        let maildir = fs::metadata(scratch.path().join("home").join(user)).expect("a Maildir");
        if geteuid().is_root() {
            assert_eq!((maildir.uid(), maildir.gid()), (common::NOBODY, common::NOBODY));
        }
    }
    // The program is asked for the name as it was typed, and the mailbox is the same.
    scratch.configure(&format!("pop3d_login_delay = 60\npop3d_stat_file = {}/times", scratch.path().display()));
    for (user, is_in) in [("Virtual@Net.Example", true), ("virtual@net.example", false), ("VIRTUAL@net.example", false)]
    {
        let (said, log) = run(&scratch, &[&option], &LOGIN.replace("bob", user));
        assert_eq!(said.contains("+OK 0 messages"), is_in, "{user}: {said} {log}");
        assert_eq!(said.contains("[LOGIN-DELAY]"), user == "virtual@net.example", "{user}: {said} {log}");
    }
    for folder in ["home", "times"] {
        assert!(!scratch.path().join(folder).join("Virtual@Net.Example").exists(), "{folder}");
    }
    scratch.configure("pop3d_login_delay = 0");
    let (said, _) = run(&scratch, &[&option], "USER bob\r\nPASS wrong\r\nUSER ../bob\r\nPASS secret\r\nQUIT\r\n");
    assert_eq!(said.matches("-ERR [AUTH] Wrong name or password\r\n").count(), 2, "{said}");
    let (said, log) = run(&scratch, &[&option], "USER slow\r\nPASS secret\r\nQUIT\r\n");
    assert!(said.contains("-ERR [SYS/TEMP] Passwords cannot be checked now"), "{said}");
    assert!(log.contains("ended with status 111") && !log.contains("secret"), "{log}");
    // No mechanism that the program cannot check.
    let (said, _) = run(&scratch, &[&option], "CAPA\r\n");
    assert!(said.contains("\r\nSASL PLAIN LOGIN\r\n") && !said.contains('<'), "{said}");
}

#[test]
fn root_is_let_in_by_no_program() {
    if !common::needs::root() {
        return;
    }
    let (scratch, program) = site();
    let option = format!("--authentication=checkpassword:{program}");
    for users in [format!("passwd-file:{}/passwd", scratch.path().display()), "system".to_owned()] {
        let users = format!("--authorization={users}");
        let (said, _) = run(&scratch, &[&option, &users], &LOGIN.replace("bob", "root"));
        assert!(said.contains("-ERR [AUTH] Wrong name or password"), "{said}");
    }
}

#[test]
fn methods_are_tried_in_their_order_until_one_says_yes() {
    let (scratch, program) = site();
    let option = format!("--authentication=checkpassword:{program},passwd-file");
    // carol is in the passwd-file only.
    for user in ["bob", "carol"] {
        let (said, log) = run(&scratch, &[&option], &LOGIN.replace("bob", user));
        assert!(said.ends_with("+OK Goodbye\r\n") && said.contains(" 0 octets"), "{user}: {said} {log}");
    }
    let (said, _) = run(&scratch, &["--authentication=checkpassword:/nonexistent"], "");
    assert_eq!(said, "-ERR [SYS/PERM] This server is not set up properly\r\n");
}

/// The shadow file is root's alone.
#[test]
fn who_is_not_root_lets_users_of_a_file_in_and_none_of_the_system() {
    let lines = "auth_failure_delay = 0\nusers = passwd-file:$config_directory/passwd, system";
    let scratch = Scratch::with(lines);
    let run = |options: &[&str], user: &str| {
        let mut command = scratch.command("pop3d");
        if geteuid().is_root() {
            command.uid(common::NOBODY).gid(common::NOBODY);
        }
        common::feed(command.args(options), LOGIN.replace("bob", user).as_bytes())
    };
    assert_eq!(run(&["-o", "users=system"], "daemon").status.code(), Some(78));
    let log_in = |user: &str| {
        let output = run(&[], user);
        let log = String::from_utf8(output.stderr).expect("records");
        let told = "authentication: expected to be started as root, who alone can read /etc/shadow: Permission denied";
        assert!(log.contains(told), "{user}: {log}");
        (String::from_utf8(output.stdout).expect("text"), log.contains("event=cannot-log-in"), log)
    };
    let (said, kept_out, log) = log_in("bob");
    assert!(said.ends_with("+OK 0 messages, 0 octets\r\n+OK Goodbye\r\n") && !kept_out, "{said} {log}");
    for (user, is_somebody) in [("daemon", true), ("nobody-here", false)] {
        let (said, kept_out, log) = log_in(user);
        assert!(said.ends_with("-ERR [AUTH] Wrong name or password\r\n+OK Goodbye\r\n"), "{user}: {said} {log}");
        assert_eq!(kept_out, is_somebody, "{user}: {log}");
        let why = "event=cannot-log-in user=\"daemon\" reason=\"/etc/shadow: Permission denied (os error 13)\"";
        assert_eq!(log.contains(why), is_somebody, "{user}: {log}");
    }
}

fn digest(stamp: &str, password: &str) -> String {
    let octets = Md5::new().chain_update(stamp).chain_update(password).finalize();
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[test]
fn apop_lets_in_who_knows_the_password_and_the_stamp_is_never_the_same() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    let mut stamps = Vec::new();
    for password in [PASSWORD, "wrong"] {
        let mut command = scratch.command("pop3d");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("pop3d");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut greeting = String::new();
        output.read_line(&mut greeting).expect("a greeting");
        let stamp = greeting[greeting.find('<').expect("a stamp")..].trim_end().to_owned();
        assert!(stamp.ends_with("@mx.example>") && stamp.len() > 40, "{stamp}");
        let lines = format!("APOP bob {}\r\nSTAT\r\nQUIT\r\n", digest(&stamp, password));
        child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("sending");
        let mut said = String::new();
        output.read_to_string(&mut said).expect("the rest");
        child.wait().expect("its end");
        let expected = if password == PASSWORD {
            "+OK 0 messages, 0 octets\r\n+OK 0 0\r\n+OK Goodbye\r\n"
        } else {
            "-ERR [AUTH] Wrong name or password\r\n-ERR Log in first\r\n+OK Goodbye\r\n"
        };
        assert_eq!(said, expected);
        stamps.push(stamp);
    }
    assert_ne!(stamps[0], stamps[1]);
    // One hashed password is enough: clients that see a stamp try nothing else.
    let passwd = fs::read_to_string(scratch.path().join("passwd")).expect("users");
    scratch.write("passwd", &format!("{passwd}dave:$6$saltstring$svn8:::::\n"));
    assert_eq!(run(&scratch, &[], "").0, "+OK doorpost POP3 ready\r\n");
}

/// A folder like Debian's /var/mail: of group mail, closed to others.
#[test]
fn a_mailbox_in_the_folder_of_a_group_is_rewritten_with_that_group_only() {
    if !common::needs::root() {
        return;
    }
    const MAIL: u32 = 8;
    let scratch = Scratch::new();
    let spool = scratch.path().join("spool");
    fs::create_dir(&spool).expect("a folder");
    chown(&spool, Some(0), Some(MAIL)).expect("its owner");
    fs::set_permissions(&spool, fs::Permissions::from_mode(0o2775)).expect("its mode");
    let mailbox = spool.join("bob");
    let text = "From a Sun Nov 22 04:27:00 2026\nA: 1\n\n1\n\n";
    let put = || {
        fs::write(&mailbox, text).expect("a mailbox");
        chown(&mailbox, Some(common::NOBODY), Some(MAIL)).expect("its owner");
        fs::set_permissions(&mailbox, fs::Permissions::from_mode(0o660)).expect("its mode");
    };
    put();
    let mailboxes = format!("mailbox=mbox:{}/%u", spool.display());
    let input = "USER bob\r\nPASS secret\r\nDELE 1\r\nQUIT\r\n";
    let (said, log) = run(&scratch, &["-o", &mailboxes], input);
    assert!(said.contains("\r\n-ERR [SYS/PERM] Deleted messages cannot be removed"), "{said}");
    assert!(log.contains("event=not-removed") && log.contains("see=mail_privileged_group"), "{log}");
    let (said, log) = run(&scratch, &["-o", &mailboxes, "-o", "mail_privileged_group=mail"], input);
    assert!(said.ends_with("+OK Goodbye\r\n"), "{said} {log}");
    let after = fs::metadata(&mailbox).expect("a mailbox");
    assert_eq!((after.len(), after.uid(), after.gid(), after.mode() & 0o7777), (0, common::NOBODY, MAIL, 0o660));
    assert_eq!(fs::read_dir(&spool).expect("a folder").count(), 1);
    // And mail arrives there.
    let options = format!("{mailboxes}\nmail_privileged_group = mail");
    scratch.configure(&options.replace('=', " = "));
    let output = scratch.run("submit", &["-f", "a@mx.example", "bob@mx.example"], b"B: 2\n\n2\n");
    assert!(output.status.success(), "{output:?}");
    scratch.deliver();
    assert!(fs::read_to_string(&mailbox).expect("a mailbox").contains("\nB: 2\n"));
    let (_, log) = run(&scratch, &["-o", "mail_privileged_group=no-such-group"], input);
    assert!(log.contains("mail_privileged_group"), "{log}");
}
