//! Programs of this machine that hand in mail through sendmail: s-nail, git send-email, mutt, and the command lines of cron and
//! PHP, whose sendmail is ours. .ci/run installs them; a missing one is a failure.

mod common;

use common::{Scratch, binary, feed};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};

/// An installation whose `sendmail` is ours.
fn site() -> (Scratch, String) {
    let scratch = Scratch::new();
    let folder: PathBuf = scratch.path().join("sbin");
    fs::create_dir(&folder).unwrap();
    symlink(binary("submit"), folder.join("sendmail")).unwrap();
    let sendmail = folder.join("sendmail").display().to_string();
    (scratch, sendmail)
}

/// Runs a program that finds our configuration in its environment.
fn run(scratch: &Scratch, words: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", scratch.path());
    command.env("MAIL_CONFIG", scratch.path()).env("LANG", "C.UTF-8").current_dir(scratch.path());
    let output = feed(&mut command, input);
    assert!(output.status.success(), "{words:?}: {output:?}");
    output
}

/// The one message that is queued: sender, recipients, text.
fn queued(scratch: &Scratch) -> (String, Vec<String>, String) {
    let mut queued = scratch.queued();
    assert_eq!(queued.len(), 1, "{queued:?}");
    let message = queued.remove(0);
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (text(&message.reverse_path), message.recipients.iter().map(|to| text(to)).collect(), text(message.content()))
}

#[test]
fn s_nail_sends_through_it() {
    let (scratch, sendmail) = site();
    let mta = format!("mta=file://{sendmail}");
    let set = ["-S", &mta, "-S", "sendwait", "-S", "v15-compat"];
    let words = [
        &["s-nail", "-:/"][..],
        &set,
        &["-r", "alice@mx.example", "-s", "Greetings", "-c", "carol@mx.example", "bob@mx.example"],
    ];
    run(&scratch, &words.concat(), b"hello\n.\nthere\n");
    let (from, to, text) = queued(&scratch);
    assert_eq!(from, "alice@mx.example");
    assert_eq!(to, ["bob@mx.example", "carol@mx.example"]);
    assert!(text.contains("Subject: Greetings\n") && text.ends_with("\n\nhello\n.\nthere\n"), "{text}");
}

#[test]
fn git_send_email_sends_through_it() {
    let (scratch, sendmail) = site();
    let git = |words: &[&str]| {
        run(
            &scratch,
            &[&["/usr/bin/git", "-c", "user.name=Alice", "-c", "user.email=alice@mx.example"], words].concat(),
            b"",
        )
    };
    git(&["init", "-q", "repository"]);
    fs::write(scratch.path().join("repository/file"), "one\n").unwrap();
    git(&["-C", "repository", "add", "file"]);
    git(&["-C", "repository", "commit", "-q", "-m", "part: effect\n\nWhy.\n"]);
    git(&["-C", "repository", "format-patch", "-q", "--root", "-o", ".."]);
    let command = format!("--sendmail-cmd={sendmail}");
    git(&[
        "send-email",
        "--quiet",
        "--envelope-sender=alice@mx.example",
        "--confirm=never",
        "--suppress-cc=all",
        &command,
        "--to=bob@mx.example",
        "--cc=carol@mx.example",
        "0001-part-effect.patch",
    ]);
    let (from, to, text) = queued(&scratch);
    assert_eq!(from, "alice@mx.example");
    assert_eq!(to, ["bob@mx.example", "carol@mx.example"]);
    assert!(text.contains("Subject: [PATCH] part: effect\n") && text.contains("\n+one\n"), "{text}");
}

#[test]
fn mutt_sends_through_it() {
    let (scratch, sendmail) = site();
    let set = format!(
        "set sendmail=\"{sendmail} -oem -oi\" sendmail_wait=0 copy=no use_envelope_from=yes from=alice@mx.example"
    );
    run(
        &scratch,
        &["mutt", "-n", "-F", "/dev/null", "-e", &set, "-s", "Greetings", "-b", "carol@mx.example", "bob@mx.example"],
        b"hello\n.\nthere\n",
    );
    let (from, mut to, text) = queued(&scratch);
    to.sort();
    assert_eq!(from, "alice@mx.example");
    assert_eq!(to, ["bob@mx.example", "carol@mx.example"]);
    assert!(
        text.contains("Subject: Greetings\n") && !text.contains("carol") && text.contains("\nhello\n.\nthere\n"),
        "{text}"
    );
}

/// Debian's cron starts `sendmail -i -FCronDaemon -B8BITMIME -oem USER`; PHP's mail() a shell with `sendmail -t -i`, and its
/// fifth argument behind.
#[test]
fn the_command_lines_of_cron_and_php_do_what_they_mean() {
    let (scratch, sendmail) = site();
    let cron = "From: root (Cron Daemon)\nTo: bob\nSubject: Cron <bob@mx> x\nContent-Type: text/plain; charset=UTF-8\n\
                Content-Transfer-Encoding: 8bit\nAuto-Submitted: auto-generated\n\nout\n";
    let output = run(&scratch, &[&sendmail, "-i", "-FCronDaemon", "-B8BITMIME", "-oem", "bob"], cron.as_bytes());
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(queued(&scratch).1, ["bob@mx.example"]);
    let (scratch, sendmail) = site();
    let php = "To: bob@mx.example\r\nSubject: x\r\nFrom: www@mx.example\r\nBcc: carol@mx.example\r\n\r\nhello\r\n";
    let output = run(&scratch, &["sh", "-c", &format!("{sendmail} -t -i -fwww@mx.example")], php.as_bytes());
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    let (from, to, text) = queued(&scratch);
    assert_eq!((from.as_str(), to.len()), ("www@mx.example", 2));
    assert!(!text.contains('\r') && !text.contains("carol") && text.ends_with("\n\nhello\n"), "{text}");
}
