//! A manual page describes exactly what the binary does: the options of `--help` and of the page are the same, the exit
//! statuses are those of `exit.rs`, there is a page for each program, and what is shown as an example works.

mod common;

use common::manual::{self, examples, page};
use common::{Scratch, feed};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

const PROGRAMS: [&str; 9] =
    ["smtpsrvr", "qmqpd", "pop3d", "smtpd", "submit", "deliver", "doorpost-queue", "doorpost-check", "checkaddr"];

/// `-n`, `--port` and so on, as `--help` lists them.
fn options_of_help(program: &str) -> BTreeSet<String> {
    let output = Scratch::new().run(program, &["--help"], b"");
    assert!(output.status.success(), "{program} --help: {output:?}");
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    let listed = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = listed.flat_map(|line| line.split("  ").next().unwrap_or_default().split([' ', ',', '=', '[']));
    words
        .filter(|word| word.starts_with('-') && *word != "-")
        .map(|word| word.trim_end_matches('.').to_owned())
        .collect()
}

/// The options that have an item of their own in the page: `.It Fl n Ar count`, `.It Fl -port Ar number`.
fn options_of_page(program: &str) -> BTreeSet<String> {
    let text = page(&format!("{program}.8"));
    let mut options = BTreeSet::new();
    for item in text.lines().filter_map(|line| line.strip_prefix(".It Fl ")) {
        let words = item.split_whitespace();
        let mut dash = "-";
        let mut expected = true;
        for word in words {
            match word {
                "Fl" if expected => dash = "--",
                "Fl" => (expected, dash) = (true, "-"),
                flag if expected => {
                    options.insert(format!("{dash}{flag}"));
                    expected = false;
                }
                _ => {}
            }
        }
    }
    options
}

#[test]
fn the_options_of_a_page_are_those_of_the_program() {
    for program in PROGRAMS {
        let (help, page) = (options_of_help(program), options_of_page(program));
        assert!(help.contains("--config") && help.contains("-o"), "{program}: {help:?}");
        assert_eq!(help, page, "{program}: --help (left) and the page (right) list other options");
    }
}

/// Of programs and of the links to them, as install.sh has them.
#[test]
fn there_is_a_page_for_every_name_that_is_installed() {
    let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh")).expect("install.sh");
    let mut names = BTreeSet::new();
    for (variable, list) in script.lines().filter_map(|line| line.split_once("='")) {
        if ["programs", "links", "commands"].contains(&variable) {
            names.extend(list.trim_end_matches('\'').split_whitespace().filter_map(|name| name.split(':').next()));
        }
    }
    assert!(["sendmail", "lmtpsrvr", "qmtpd", "deliver"].iter().all(|name| names.contains(name)), "{names:?}");
    for name in names {
        let is_there = ["1", "8"].iter().any(|section| manual::folder().join(format!("{name}.{section}")).is_file());
        assert!(is_there, "{name} has no page of its own");
    }
}

#[test]
fn every_file_in_man_is_a_page_of_this_name_and_section() {
    let mut sections = Vec::new();
    for entry in fs::read_dir(manual::folder()).expect("man/") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        let section = path.extension().and_then(|section| section.to_str()).expect("a section").to_owned();
        let text = fs::read_to_string(&path).expect("a page");
        let title = text.lines().find_map(|line| line.strip_prefix(".Dt ")).unwrap_or_default();
        assert_eq!(title, format!("{} {section}", name.to_uppercase()), "{}", path.display());
        assert!(
            text.contains(&format!("\n.Nm {name}\n")) || text.contains(&format!("\n.Nm {name} ,\n")),
            "{}: no .Nm {name}",
            path.display()
        );
        sections.push(section);
    }
    assert!(sections.iter().filter(|section| *section == "8").count() >= PROGRAMS.len(), "{sections:?}");
}

/// Pages of others that ours name, and the package of Debian that has each.
const FOREIGN: [(&str, &str); 14] = [
    ("crypt.3", "libcrypt-dev"),
    ("crypt.5", "libcrypt-dev"),
    ("cron.8", "cron"),
    ("flock.2", "manpages-dev"),
    ("gethostname.3", "manpages-dev"),
    ("inetd.8", "openbsd-inetd"),
    ("inetd.conf.5", "openbsd-inetd"),
    ("postmap.1", "postfix"),
    ("ps.1", "procps"),
    ("sd_listen_fds.3", "libsystemd-dev"),
    ("sd_notify.3", "libsystemd-dev"),
    ("socat.1", "socat"),
    ("syslog.3", "manpages-dev"),
    ("systemd.1", "systemd"),
];

#[test]
fn every_page_that_a_page_names_is_ours_or_debians() {
    let mut named = BTreeSet::new();
    for entry in fs::read_dir(manual::folder()).expect("man/") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a page");
        let words: Vec<&str> = text.split_whitespace().collect();
        for (at, _) in words.iter().enumerate().filter(|(_, word)| matches!(**word, ".Xr" | "Xr")) {
            let page = format!("{}.{}", words[at + 1], words[at + 2].trim_end_matches(|c: char| !c.is_ascii_digit()));
            let is_there =
                manual::folder().join(&page).is_file() || FOREIGN.iter().any(|(foreign, _)| *foreign == page);
            assert!(is_there, "{}: {page} is no page of ours, and of no package that is known", path.display());
            named.insert(page);
        }
    }
    for (page, package) in FOREIGN {
        assert!(named.contains(page), "{page} of {package} is named nowhere");
    }
    assert!(named.contains("newaliases.1") && named.contains("qmail-queue.8"), "{named:?}");
}

#[test]
fn a_page_tells_the_exit_statuses() {
    for program in PROGRAMS {
        let text = page(&format!("{program}.8"));
        assert!(text.contains(".Sh EXIT STATUS"), "{program}: no EXIT STATUS");
        for status in ["0", "64", "78"] {
            let item =
                text.lines().any(|line| line == format!(".It {status}") || line.starts_with(&format!(".It {status} ")));
            assert!(item, "{program}: no item for exit status {status}");
        }
    }
}

#[test]
fn wrong_usage_is_64_and_wrong_configuration_is_78_everywhere() {
    for program in PROGRAMS {
        let scratch = Scratch::new();
        assert_eq!(scratch.run(program, &["--no-such-option"], b"").status.code(), Some(64), "{program}");
        scratch.configure("soft_bounce = perhaps");
        let output = scratch.run(program, &[], b"");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        // These need to be told what to do before they read anything.
        if !matches!(program, "smtpd" | "checkaddr") {
            assert_eq!(output.status.code(), Some(78), "{program}: {log}");
            let file = scratch.path().join("main.cf");
            let line = fs::read_to_string(&file).expect("main.cf").lines().count();
            let place = format!("{}:{line}: soft_bounce = perhaps: expected yes or no", file.display());
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(log.contains(&place) || said.contains(&place), "{program}: {log}{said}");
        }
    }
}

/// Each parameter of the table has an item in main.cf(5) with its default, and there is no item for anything else.
#[test]
fn main_cf_tells_of_every_parameter() {
    let text = fs::read_to_string(manual::folder().join("main.cf.5")).expect("main.cf.5");
    let items: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(".It Sy ")).collect();
    let names: BTreeSet<&str> = items
        .iter()
        .flat_map(|item| item.split([' ', ',']))
        .filter(|word| word.contains('_') || word.chars().all(char::is_lowercase))
        .collect();
    let known: BTreeSet<&str> = doorpost::config::parameters::parameters().map(|parameter| parameter.name).collect();
    let missing: Vec<_> = known.iter().filter(|name| !names.contains(*name)).collect();
    assert!(missing.is_empty(), "no item in main.cf(5): {missing:?}");
    for item in items {
        let name = item.split(' ').next().unwrap_or_default();
        assert!(known.contains(name), "main.cf(5) has an item for {name}, which is no parameter");
    }
}

/// The files that README.md shows in its section on configuration.
fn examples_of_readme() -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(readme).expect("README.md");
    let section = text.split("\n## Configuration\n").nth(1).expect("a section on configuration");
    let section = section.split("\n## ").next().unwrap_or_default();
    section.split("```").skip(1).step_by(2).map(|block| block.trim_start_matches("text\n").to_owned()).collect()
}

/// A program that only greets and says goodbye has read all of its configuration, and had nothing to warn of.
fn taken(program: &str, scratch: &Scratch, example: &str) {
    let output = scratch.run(program, &[], b"QUIT\r\n");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !log.contains("warning") && !log.contains("error"), "{example}{log}");
}

#[test]
fn examples_of_main_cf_are_taken() {
    let readme = examples_of_readme().swap_remove(0);
    let [of_page, folder] = <[String; 2]>::try_from(examples("main.cf.5")).expect("a main.cf and its folder");
    // Not below Debian's /var/mail itself, which belongs to another group than mail_owner's.
    let mailboxes = folder.trim_end().strip_prefix("install -d -m 700 -o doorpost ").expect("a folder");
    assert!(of_page.contains(&format!("\nmailbox = maildir:{mailboxes}/%u\n")), "{of_page}");
    for example in [&of_page, &readme] {
        let scratch = Scratch::new();
        assert!(example.contains("\nqmqpd_authorized_clients = "), "no main.cf: {example}");
        let needed = format!("mail_owner = nobody\nqueue_directory = {}\n", scratch.queue().display());
        scratch.write("main.cf", &(needed + example));
        taken("smtpsrvr", &scratch, example);
        taken("pop3d", &scratch, example);
    }
}

#[test]
fn examples_of_channels_are_taken() {
    let readme = examples_of_readme().swap_remove(1);
    for example in examples("channels.5").iter().chain([&readme]) {
        let scratch = Scratch::new();
        scratch.write("channels", example);
        taken("smtpsrvr", &scratch, example);
        // Nothing about the file is strange either.
        let output = scratch.run("doorpost-check", &[], b"");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && !said.contains("/channels"), "{example}{said}");
    }
}

#[test]
fn the_example_of_a_passwd_file_is_taken() {
    let examples = examples("doorpost-passwd.5");
    let scratch = Scratch::new();
    scratch.write("passwd", &examples[0]);
    taken("pop3d", &scratch, &examples[0]);
}

/// The words of a default as a reader sees them: without marks and quotes of mdoc.
fn words_of(default: &str) -> String {
    let words = default.split_whitespace().filter(|word| !["Cm", "Pa", "Va", "Ql", "Li"].contains(word));
    manual::shown(&words.collect::<Vec<_>>().join(" ")).trim_matches('"').to_owned()
}

/// What pages say where the default depends on the machine, or is nothing.
const SAID: [(&str, &str); 6] = [
    ("myhostname", "gethostname"),
    ("daemon_directory", "the folder of smtpd"),
    ("mynetworks", "loopback"),
    ("authentication", "like users"),
    ("alias_maps", "/etc/aliases"),
    ("channels", "$config_directory/channels"),
];

fn is_default(name: &str, said: &str) -> bool {
    let known = doorpost::config::parameters::parameters().find(|parameter| parameter.name == name);
    let default = known.unwrap_or_else(|| panic!("{name} is no parameter")).default;
    said == default || (default.is_empty() && said == "empty") || SAID.contains(&(name, said))
}

/// `.It Va name Pq default`, several joined by ` , Va `; `Po default Pc` and `No (default)` mean the same.
#[test]
fn the_defaults_that_pages_tell_are_those_of_the_parameters() {
    let mut seen = 0;
    for program in PROGRAMS {
        for line in page(&format!("{program}.8")).lines().filter_map(|line| line.strip_prefix(".It Va ")) {
            for item in line.split(" , Va ") {
                let Some((name, default)) = item.split_once(' ') else { continue };
                let default = default.strip_prefix("Pq ").or_else(|| default.strip_prefix("No (")?.strip_suffix(')'));
                let default = default.or_else(|| item.split_once(" Po ")?.1.strip_suffix(" Pc"));
                let default = words_of(default.unwrap_or_else(|| panic!("{program}.8: {line}")));
                assert!(is_default(name, &default), "{program}.8: {name} {default}");
                seen += 1;
            }
        }
    }
    assert!(seen > 90, "{seen}");
    for line in page("main.cf.5").lines().filter_map(|line| line.strip_prefix(".It Sy ")) {
        let (name, default) = line.split_once(" Pq default: ").unwrap_or_else(|| panic!("main.cf.5: {line}"));
        assert!(is_default(name, &words_of(default)), "main.cf.5: {line}");
        seen += 1;
    }
    assert!(seen > 200, "{seen}");
}

/// `-t` and the like: of an item, or of the list of those that mean nothing.
fn letters_of(page: &str) -> BTreeSet<char> {
    let text = manual::page(page);
    let (items, rest) = text.split_once("\n.Pp\n.Cm -A ").expect("a list of letters that mean nothing");
    let passed_over = rest.split_once('\n').expect("a line").0;
    let items = items.lines().filter_map(|line| line.strip_prefix(".It Cm ")).flat_map(|line| line.split(" , "));
    let words = items.chain(passed_over.split(' ')).chain(["-A"]);
    words.filter_map(|word| word.trim_start_matches("Cm ").strip_prefix('-')?.chars().next()).collect()
}

#[test]
fn the_options_of_sendmail_are_those_of_its_page() {
    use doorpost::local::sendmail::options::Options;
    let is_one = |letter: &char| match Options::read([format!("-{letter}"), "0".to_owned()]) {
        Ok(_) => true,
        Err(error) => !error.to_string().contains("expected an option of sendmail"),
    };
    let taken: BTreeSet<char> = ('A'..='z').filter(char::is_ascii_alphabetic).filter(is_one).collect();
    assert_eq!(letters_of("sendmail.1"), taken);
}

/// The others say which these are in main.cf(5).
#[test]
fn all_names_but_three_set_parameters_on_the_command_line_and_show_them() {
    use std::os::unix::process::CommandExt;
    let others = ["sendmail", "newaliases", "qmail-queue"];
    assert!(
        page("main.cf.5")
            .contains("of all programs but\n.Xr sendmail 1 ,\n.Xr newaliases 1\nand\n.Xr qmail-queue 8 ,\n")
    );
    let scratch = Scratch::new();
    let options = ["-o", "soft_bounce=yes", "--show-config=values"];
    let shows = |command: &mut Command| {
        String::from_utf8_lossy(&feed(command.args(options), b"").stdout).contains("\nsoft_bounce = yes\n")
    };
    for program in PROGRAMS {
        assert!(shows(&mut scratch.command(program)), "{program}");
    }
    let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh")).expect("install.sh");
    let links = script.lines().find_map(|line| line.strip_prefix("links='")).expect("the links").trim_end_matches('\'');
    for (name, program) in links.split_whitespace().map(|link| link.split_once(':').expect("a program")) {
        assert_eq!(shows(scratch.command(program).arg0(name)), !others.contains(&name), "{name}");
    }
}

#[test]
fn the_options_of_mailq_are_those_of_its_page() {
    use std::os::unix::process::CommandExt;
    let mut command = Scratch::new().command("submit");
    let output = command.arg0("mailq").arg("--help").output().expect("mailq");
    let help = String::from_utf8(output.stdout).expect("text");
    let listed = help.lines().filter_map(|line| line.trim_start().split_once("--")?.1.split_whitespace().next());
    let usual = ["config", "show-config", "help", "version"];
    let own: Vec<String> = listed
        .map(|option| option.split(['=', '[']).next().unwrap_or_default().to_owned())
        .filter(|option| !usual.contains(&option.as_str()))
        .collect();
    let page = page("mailq.1");
    let told: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".Op Fl -")).collect();
    assert_eq!(own, told);
}
