//! main.cf through a real program: where it is found, what is said about a wrong one, `--show-config`; and its page.
//!
//! smtpd stands for all programs: they share the command line and the loading, and it needs neither client nor queue.

#[path = "common/needs.rs"]
mod needs;

use doorpost::config::parameters::parameters;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A folder with this main.cf.
fn folder(main_cf: &str) -> TempDir {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("main.cf"), format!("{main_cf}\n")).unwrap();
    folder
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smtpd"));
    command.env_clear().args(arguments);
    command
}

/// Exit status, standard output, and standard error without the folder's path.
fn run(command: &mut Command, folder: &Path) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    let stderr = text(stderr).replace(&folder.display().to_string(), "FOLDER");
    (status.code().unwrap(), text(stdout), stderr)
}

fn shown(main_cf: &str, arguments: &[&str]) -> (i32, String, String) {
    let folder = folder(main_cf);
    run(program(arguments).env("MAIL_CONFIG", folder.path()), folder.path())
}

/// The settings of an output of `--show-config`.
fn settings(output: &str) -> BTreeMap<String, String> {
    let lines = output.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    lines.map(|line| pair(line).unwrap()).collect()
}

fn defaults() -> BTreeMap<String, String> {
    parameters().map(|parameter| (parameter.name.to_owned(), parameter.default.to_owned())).collect()
}

#[test]
fn wrong_settings_end_with_78_and_tell_file_line_and_expectation() {
    for (main_cf, told) in [
        ("\nsoft_bounce =\n  maybe\n", "FOLDER/main.cf:2: soft_bounce = maybe: expected yes or no"),
        ("a = 1\nnonsense\n", "FOLDER/main.cf:2: expected name = value, and there is no = in \"nonsense\""),
        ("children = -1\n", "FOLDER/main.cf:1: children = -1: expected a whole number up to 4294967295"),
        (
            "children = 99999999999\n",
            "FOLDER/main.cf:1: children = 99999999999: expected a whole number up to 4294967295",
        ),
        ("smtpd_timeout = 5 m\n", "FOLDER/main.cf:1: smtpd_timeout = 5 m: expected a whole number and at most one of"),
        ("smtpd_timeout = 0\n", "FOLDER/main.cf:1: smtpd_timeout = 0: expected something above 0"),
        ("users = ldap\n", "FOLDER/main.cf:1: users = ldap: expected system, or passwd-file: and an absolute path"),
        (
            "receive_override_options = no_milters x\n",
            "main.cf:1: receive_override_options = no_milters x: expected words out of",
        ),
        ("debug_peer_level = 0\n", "FOLDER/main.cf:1: debug_peer_level = 0: expected something above 0"),
        ("content_filter = a b:c\n", "FOLDER/main.cf:1: content_filter = a b:c: expected transport:nexthop"),
        ("queue_directory = queue\n", "FOLDER/main.cf:1: queue_directory = queue: expected an absolute path"),
        ("syslog_facility = post\n", "FOLDER/main.cf:1: syslog_facility = post: expected a syslog facility"),
        ("myhostname = my host\n", "FOLDER/main.cf:1: myhostname = my host: expected a host name"),
        ("syslog_name = $a\n#\na = ${b\n", "FOLDER/main.cf:3: expected a closing bracket for ${ in \"${b\""),
        ("a = $syslog_name\nsyslog_name = $a\n", "FOLDER/main.cf:1: expected a value that does not refer to itself: "),
        ("qmqpd_authorized_clients = 10.0.0.1/8\n", "expected 10.0.0.0/8 instead of \"10.0.0.1/8\""),
        ("qmqpd_authorized_clients = ::1\n", "expected [::1] instead of \"::1\""),
        (
            "qmqpd_authorized_clients = regexp:/etc/clients\n",
            "expected a table of type cidr, hash, texthash or static instead of regexp",
        ),
        ("qmqpd_authorized_clients = /no/file\n", "expected a file /no/file, and there is none"),
    ] {
        let (status, stdout, stderr) = shown(main_cf, &["--show-config"]);
        assert_eq!((status, stdout.as_str()), (78, ""), "{main_cf}");
        assert!(stderr.contains(told), "{main_cf}: {stderr}");
    }
}

#[test]
fn a_wrong_option_is_told_too() {
    let (status, _, stderr) = shown("", &["-o", "children=x", "--show-config"]);
    assert_eq!(status, 78);
    assert!(stderr.contains("option -o: children = x: expected a whole number"), "{stderr}");
    let (status, _, stderr) = shown("", &["-o", "children", "--show-config"]);
    assert_eq!(status, 64);
    assert!(stderr.contains("-o children: expected name = value"), "{stderr}");
}

#[test]
fn an_unreadable_main_cf_is_no_missing_one() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("main.cf")).unwrap();
    let (status, _, stderr) = run(program(&["--show-config"]).env("MAIL_CONFIG", folder.path()), folder.path());
    assert_eq!(status, 78);
    assert!(stderr.contains("FOLDER/main.cf: expected a readable file"), "{stderr}");
}

#[test]
fn unknown_names_are_warned_of_with_file_and_line() {
    let (status, _, stderr) = shown("mine = 1\nsmtpd_timout = 1s\nsyslog_name = $mine\n", &["--show-config"]);
    assert_eq!(status, 0);
    assert!(stderr.contains("warning: FOLDER/main.cf:2: unknown parameter smtpd_timout"), "{stderr}");
    assert_eq!(stderr.matches("unknown parameter").count(), 1);
}

#[test]
fn the_log_is_named_by_the_configuration() {
    let (_, _, stderr) = shown("syslog_name = elsewhere\nnobody_knows = 1\n", &["--show-config"]);
    assert!(stderr.starts_with("elsewhere/smtpd["), "{stderr}");
}

#[test]
fn main_cf_is_found_by_option_then_environment() {
    let (here, there) = (folder("syslog_name = here\n"), folder("syslog_name = there\n"));
    let mut by_environment = program(&["--show-config=values"]);
    let output = run(by_environment.env("MAIL_CONFIG", here.path()), here.path()).1;
    assert_eq!(settings(&output)["syslog_name"], "here");
    assert_eq!(settings(&output)["config_directory"], here.path().to_str().unwrap());

    let config = there.path().to_str().unwrap();
    let mut by_option = program(&["--config", config, "--show-config"]);
    let output = run(by_option.env("MAIL_CONFIG", here.path()), here.path()).1;
    assert_eq!(settings(&output)["syslog_name"], "there");
    assert!(
        output.contains(&format!("config_directory = {config}\n#   from option --config; default: /etc/doorpost\n"))
    );

    let mut relative = program(&["--config", ".", "--show-config=expanded"]);
    let output = run(relative.current_dir(there.path()), there.path()).1;
    assert!(Path::new(&settings(&output)["channels"]).is_absolute());
    assert_eq!(settings(&output)["syslog_name"], "there");
}

#[test]
fn a_folder_that_was_named_must_be_there() {
    let (status, _, stderr) = shown("", &["--config", "/no/such/folder", "--show-config"]);
    assert_eq!(status, 78);
    assert!(stderr.contains("option --config: expected a folder, and \"/no/such/folder\""), "{stderr}");
}

#[test]
fn no_main_cf_is_a_working_configuration() {
    let empty = tempfile::tempdir().unwrap();
    let (status, output, stderr) = run(program(&["--show-config=set"]).env("MAIL_CONFIG", empty.path()), empty.path());
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(settings(&output).into_keys().collect::<Vec<_>>(), ["config_directory"]);
}

#[test]
fn options_win_and_the_last_of_them() {
    let arguments =
        ["-o", "children=3", "-o", "children=4", "-o", "{ syslog_name = ${children}x }", "--show-config=set"];
    let (status, output, _) = shown("children = 2\nmax_use = 7\n", &arguments);
    assert_eq!(status, 0);
    assert!(output.contains("children = 4\n#   from option -o; default: 50\n"), "{output}");
    assert!(
        output.contains("syslog_name = ${children}x\n#   from option -o; default: doorpost; expanded: 4x\n"),
        "{output}"
    );
    assert!(output.contains("max_use = 7\n"), "{output}");
}

#[test]
fn each_kind_of_show_config_shows_what_the_page_says() {
    let main_cf = "syslog_name = ${myhostname}-x\nmyhostname = mx.example\n";
    let kind = |kind: &str| {
        let (status, output, _) = shown(main_cf, &[kind]);
        assert_eq!(status, 0);
        output
    };
    assert_eq!(settings(&kind("--show-config=defaults")), defaults());
    assert!(!kind("--show-config=values").contains('#') && !kind("--show-config=expanded").contains('#'));
    assert_eq!(settings(&kind("--show-config=values"))["syslog_name"], "${myhostname}-x");
    assert_eq!(settings(&kind("--show-config=expanded"))["syslog_name"], "mx.example-x");
    assert_eq!(settings(&kind("--show-config=values")).len(), parameters().count());
    let all = kind("--show-config");
    assert_eq!(all.lines().filter(|line| line.starts_with("#   from ")).count(), parameters().count());
    assert!(all.contains("/main.cf:2; default: (empty)\n"), "{all}");
    assert!(all.contains("children = 50\n#   from default\n"), "{all}");
    assert_eq!(settings(&kind("--show-config=set")).len(), 3);
    assert_eq!(shown("", &["--show-config=nonsense"]).0, 64);
}

#[test]
fn what_is_shown_is_a_main_cf_that_means_the_same() {
    let main_cf = "syslog_name = ${max_use?{a $$ b}:{c}}\nchildren =\n  9\nqmqpd_authorized_clients = $neighbours\n\
        neighbours = 192.0.2.17,\n  $more\nmore = [2001:db8::17]\nqmqpd_timeout = ${empty:7}\nempty =\n";
    let without_folder = |output: &str| {
        let mut settings = settings(output);
        settings.retain(|name, _| name != "config_directory" && name != "channels");
        settings
    };
    let read = |main_cf: &str, kind: &str| without_folder(&shown(main_cf, &[kind]).1);
    let expanded = read(main_cf, "--show-config=expanded");
    assert_eq!(expanded["syslog_name"], "a $ b");
    assert_eq!(expanded["qmqpd_authorized_clients"], "192.0.2.17,  [2001:db8::17]");
    for kind in ["--show-config", "--show-config=set"] {
        let again = shown(main_cf, &[kind]).1;
        assert_eq!(read(&again, "--show-config=expanded"), expanded, "{kind}");
        // What was left alone still is: a default means more where it is set.
        let set = read(&again, "--show-config=set");
        assert_eq!(set, read(main_cf, "--show-config=set"), "{kind}");
        let names: Vec<&str> = set.keys().map(String::as_str).collect();
        let expected =
            ["children", "empty", "more", "neighbours", "qmqpd_authorized_clients", "qmqpd_timeout", "syslog_name"];
        assert_eq!(names, expected);
    }
}

#[test]
fn names_of_the_administrators_own_are_shown_with_their_place() {
    let main_cf = "neighbours = $localhost\nlocalhost = 127.0.0.1\nqmqpd_authorized_clients = $neighbours\n";
    let kind = |kind: &str| shown(main_cf, &[kind]).1;
    for (wanted, line) in [
        ("--show-config", "neighbours = $localhost\n#   from "),
        ("--show-config=set", "/main.cf:1; expanded: 127.0.0.1\n"),
        ("--show-config=values", "\nneighbours = $localhost\n"),
        ("--show-config=expanded", "\nneighbours = 127.0.0.1\n"),
    ] {
        assert!(kind(wanted).contains(line), "{wanted}");
    }
    assert!(!kind("--show-config=defaults").contains("neighbours"));
    assert!(!kind("--show-config").contains("mydomain"));
}

#[test]
fn a_program_that_gained_rights_ignores_what_its_caller_says() {
    // Only root can make such a program here.
    if !needs::root() {
        return;
    }
    let theirs = folder("syslog_name = theirs\n");
    fs::set_permissions(theirs.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = theirs.path().join("smtpd");
    // Not by ourselves: a program forked meanwhile by another test would hold the copy open for writing (ETXTBSY).
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_smtpd")).arg(&copy).status().unwrap().success());
    chown(&copy, Some(0), Some(1)).unwrap();
    let config = theirs.path().to_str().unwrap().to_owned();
    for (mode, expected) in [(0o755, "option"), (0o2755, "doorpost")] {
        fs::set_permissions(&copy, fs::Permissions::from_mode(mode)).unwrap();
        let mut command = Command::new(&copy);
        command.env_clear().env("MAIL_CONFIG", &config).uid(65534).gid(65534);
        command.args(["--config", &config, "-o", "syslog_name=option", "--show-config=values"]);
        let (status, output, stderr) = run(&mut command, theirs.path());
        assert_eq!(status, 0, "{stderr}");
        assert_eq!(settings(&output)["syslog_name"], expected);
        let found = settings(&output)["config_directory"] == config;
        assert_eq!(found, mode == 0o755);
    }
}

#[test]
fn expansion_agrees_with_postconf_where_that_is_installed() {
    let postconf = Path::new("/usr/sbin/postconf");
    if !needs::there("postconf", postconf.exists()) {
        return;
    }
    let values = [
        "$a-${a}-$(a).",
        "$$a$$",
        "<${indirect?yes}>",
        "<${empty?yes}${empty:no}>",
        "<${a?  x }|${a?x:y}>",
        "<${a ? { yes } : { no }}>",
        "<${empty?{yes}:{$indirect${a}}}>",
        "<${{10} < {9} ? {a} : {b}}${{a10} < {a9}?{a}:{b}}>",
        "<${{$a} != {2}?{$a}}${ a }>",
        "<$undefined>",
        "${{$a}=={1  2}?{the blanks stay}:{they go}}",
    ];
    let main_cf = "# x\na = 1\n  # y\n  2\nempty =\nindirect = $empty\nmyhostname = mx.example\nsyslog_name = ";
    let folder = folder(&format!("{main_cf}{}\n", values.join(" | ")));
    fs::write(folder.path().join("master.cf"), "").unwrap();
    let mut theirs = Command::new(postconf);
    theirs.arg("-c").arg(folder.path()).args(["-x", "-h", "syslog_name"]);
    let theirs = run(&mut theirs, folder.path()).1;
    let mut ours = program(&["--show-config=expanded"]);
    let ours = run(ours.env("MAIL_CONFIG", folder.path()), folder.path()).1;
    // postconf prints one blank for several.
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    assert_eq!(words(&settings(&ours)["syslog_name"]), words(&theirs));
}

/// What `-o syslog_name=VALUE` expands to; nothing where the program ends with an error.
fn expanded_by(mut command: Command, folder: &Path) -> Option<String> {
    let (status, output, _) = run(&mut command, folder);
    let line = output.lines().map(|line| line.strip_prefix("syslog_name =").unwrap_or(line));
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    (status == 0).then(|| line.map(words).collect::<Vec<_>>().join(" "))
}

/// Why ours may differ from postconf's answer; nothing: it must not.
fn explained(value: &str, ours: Option<&str>, theirs: Option<&str>) -> Option<&'static str> {
    match (ours, theirs) {
        (None, Some(_)) if value.contains("${{") => Some("a comparison that leads to nothing is a slip of the pen"),
        _ => None,
    }
}

/// Values by chance, always the same: tokens of the syntax in a row.
fn generated() -> Vec<String> {
    const TOKENS: [&str; 24] = [
        "$a",
        "${a}",
        "$(a)",
        "${",
        "}",
        "{",
        "?",
        ":",
        "$$",
        "$",
        "a",
        "empty",
        "${empty?",
        "${a?{",
        "}:{",
        "}}",
        "${a:",
        "${{$a} == {1} ? {",
        "} != {",
        "x y",
        ".",
        "${indirect",
        "(",
        ")",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % limit as u64).unwrap()
    };
    (0..20).map(|_| (0..=below(7)).map(|_| TOKENS[below(TOKENS.len())]).collect()).collect()
}

#[test]
fn values_and_errors_agree_with_postconf_where_that_is_installed() {
    let postconf = Path::new("/usr/sbin/postconf");
    if !needs::there("postconf", postconf.exists()) {
        return;
    }
    let folder = folder("a = 1\nempty =\nindirect = $empty\nmyhostname = mx.example\n");
    fs::write(folder.path().join("master.cf"), "").unwrap();
    let written = [
        "x${a",
        "5$",
        "$-",
        "$self",
        "${a!b}",
        "${}",
        "${a?{x}y}",
        "${a?x}y",
        "$$",
        "$a$",
        "${{a}=={b}}",
        "$(a)",
        "$(a",
        "${a:{x}}",
        "${{1}<{2}?{y}:{n}}",
        "${{2}>={10}?{y}:{n}}",
        "${{$a}=={1}?{y}:{n}}",
        "${a?{x}:{y}} z",
        "${undefined:{d}}",
        "${a}b",
        "$a.b",
        "$a_b",
        "${ a }",
        "${a ?{x}}",
        "${indirect?{set}:{unset}}",
        "${empty?{set}:{unset}}",
        "${a?{${empty:deep}}}",
        "a=b",
        "{x}",
        "${{a}!={b}?{y}}",
        "${{01}=={1}?{y}:{n}}",
        "${{}=={}?{y}:{n}}",
        "${{a} == {a}  ?  {y} : {n}}",
        "${a?}",
        "${a:}",
        "${undefined?{10}:300}s",
        "${a?{10}:300}s",
        "${a?{x}:}",
        "<${undefined?{x}: b c }>",
        "<${undefined?{x}:  }>",
        "<${undefined?{x}:}>",
        "${undefined?{x}:$a}",
        "${undefined?{x}:b:{c}}",
        "${undefined?{x}:{b} }",
        "${undefined?{x}:{b}c}",
        "${undefined?{x}::y}",
        "${undefined:{x}:y}",
        "${a?{x}:{y}:{z}}",
        "${{a}=={b}?{x}:y}",
        "${{a}=={a}?{x}:y}",
        "$1",
        "${a?$b}",
        "$a $empty x",
        "# x",
        "",
    ];
    let (mut wrong, mut differ) = (String::new(), 0);
    for value in written.map(str::to_owned).into_iter().chain(generated()) {
        let set = format!("syslog_name={value}");
        let mut theirs = Command::new(postconf);
        theirs.arg("-c").arg(folder.path()).args(["-x", "-h", "-o", &set, "syslog_name"]);
        let mut ours = program(&["-o", &set, "--show-config=expanded"]);
        ours.env("MAIL_CONFIG", folder.path());
        let theirs = expanded_by(theirs, folder.path());
        let output = run(&mut ours, folder.path());
        let ours = (output.0 == 0)
            .then(|| settings(&output.1)["syslog_name"].split_whitespace().collect::<Vec<_>>().join(" "));
        if ours != theirs {
            differ += 1;
            if explained(&value, ours.as_deref(), theirs.as_deref()).is_none() {
                wrong.push_str(&format!("{value:?}: ours {ours:?}, postconf {theirs:?}\n"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(differ < 20, "{differ} differences");
}

/// smtpsrvr with this channels file and a client that hung up.
fn with_channels(channels: &str) -> (i32, String, String) {
    let folder = folder("queue_directory = $config_directory\n");
    fs::write(folder.path().join("channels"), channels).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_smtpsrvr"));
    command.env_clear().env("MAIL_CONFIG", folder.path()).args(["-o", "mail_owner=nobody"]).stdin(Stdio::null());
    run(&mut command, folder.path())
}

#[test]
fn a_wrong_channels_file_ends_with_78_tells_its_line_and_lets_the_client_come_back() {
    for (channels, told) in [
        ("# x\nsmtp * * smtp:\n", "FOLDER/channels:2: expected five columns"),
        ("a 10.0.0.1/8 - - *\n", "FOLDER/channels:1: expected in the column of clients: 10.0.0.0/8 instead of"),
        ("a /no/file - - *\n", "FOLDER/channels:1: expected in the column of clients: a file /no/file"),
        ("a $nets - - *\n", "FOLDER/channels:1: expected a name that main.cf sets instead of $nets"),
        ("a - - - b\n", "FOLDER/channels:1: expected the name of a channel in the last column instead of b"),
    ] {
        let (status, stdout, stderr) = with_channels(channels);
        assert_eq!(status, 78, "{stderr}");
        assert!(stderr.contains(told), "{channels}: {stderr}");
        assert!(stdout.starts_with("421 ") && !stdout.contains("channels"), "{stdout}");
    }
}

#[test]
fn an_open_relay_is_said_loudly_and_only_that() {
    let relay = "local - $myhostname mailbox: -\nsmtp * * smtp: *\n";
    assert!(
        with_channels(relay)
            .2
            .contains("warning: FOLDER/channels:2: OPEN RELAY: clients from anywhere are on channel smtp")
    );
    assert!(!with_channels("local - $myhostname mailbox: -\nsmtp * * smtp: local\n").2.contains("OPEN RELAY"));
}

/// Name and default of each parameter the page describes.
fn described() -> BTreeMap<String, String> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/main.cf.5")).unwrap();
    let mut described = BTreeMap::new();
    for entry in page.lines().filter_map(|line| line.strip_prefix(".It Sy ")) {
        let (name, default) = entry.split_once(" Pq default: ").expect("an entry without its default");
        let default = match default.strip_prefix("Ql ") {
            Some(default) => default.replace("\\(ti", "~"),
            None => {
                assert_eq!(default, "empty", "{entry}");
                String::new()
            }
        };
        assert_eq!(described.insert(name.to_owned(), default), None, "{name} is described twice");
    }
    described
}

#[test]
fn the_page_describes_every_parameter_with_its_default_and_no_other() {
    assert_eq!(described(), defaults());
}
