use super::*;
use crate::config::value::MailboxFormat;
use nix::errno::Errno;
use std::io::Write as _;

fn file(lines: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    file
}

fn config(file: &tempfile::NamedTempFile, mailbox: &str) -> Config {
    Config::with(&[("users", &format!("passwd-file:{}", file.path().display())), ("mailbox", mailbox)])
}

fn mailbox_of(name: &str, home: &str, template: &str) -> String {
    let spec = MailboxSpec { format: MailboxFormat::Maildir, path: template.to_owned() };
    let user = User {
        name: name.to_owned(),
        owner: None,
        home: PathBuf::from(home),
        mailbox: Some(spec),
        password: None,
        is_of_system: false,
    };
    user.mailbox_path(&Config::with(&[])).path
}

#[test]
fn names_that_could_leave_the_mail_folder_are_no_users() {
    for name in ["", ".", "..", ".bob", "../x", "a/b", "/", "bob\0", "bob\n", "a@..", "a@.b", "@x", "a@", "a:b", "..@x"]
    {
        assert!(!is_possible_name(name.as_bytes()), "{name:?}");
    }
    assert!(!is_possible_name(b"b\xffb"));
    assert!(!is_possible_name(&[b'a'; 256]));
    for name in ["bob", "b.o.b", "bob@example.net", "~root", "%u", "a b", "b\u{f6}b"] {
        assert!(is_possible_name(name.as_bytes()), "{name:?}");
    }
}

/// It would be removed as a lock that was left behind, with all mail.
#[test]
fn nobody_has_a_mailbox_that_is_the_dot_lock_of_anothers() {
    let file = file("bob:{PLAIN}1\nbob.lock:{PLAIN}2\nbob@x.lock:{PLAIN}3\nbob.lock@x:{PLAIN}4\n");
    for (mailbox, found) in [
        ("maildir:/mail/%u", [true, true, true, true]),
        ("mbox:/mail/%u", [true, false, false, true]),
        ("mmdf:/mail/%d/%n", [true, false, true, false]),
        ("mbox:/mail/%u/inbox", [true, true, true, true]),
    ] {
        let config = config(&file, mailbox);
        for (name, found) in ["bob", "bob.lock", "bob@x.lock", "bob.lock@x"].iter().zip(found) {
            assert_eq!(matches!(find(&config, name.as_bytes()), Lookup::Yes(_)), found, "{mailbox} {name}");
            let user = find_with_sample(&config, name.as_bytes()).user;
            assert_eq!(user.is_some(), found, "{mailbox} {name}");
        }
    }
}

#[test]
fn nobodys_own_mailbox_is_a_dot_lock_whatever_the_name() {
    let file = file("bob:{PLAIN}1\ncarol:{PLAIN}2:::::: mailbox=mbox:/mail/bob.lock\n");
    let config = config(&file, "mbox:/mail/%u");
    let is_user = |name: &str| matches!(find(&config, name.as_bytes()), Lookup::Yes(_));
    assert!(check_file(&config).is_ok() && is_user("bob") && !is_user("carol"));
    // Told.
    assert!(!kept::is_news(file.path(), Stamp::of(file.path())));
}

#[test]
fn parts_of_the_name_are_put_in_once() {
    assert_eq!(mailbox_of("bob@example.net", "/home/bob", "~/Maildir"), "/home/bob/Maildir");
    assert_eq!(mailbox_of("bob@example.net", "", "/mail/%d/%n/%u"), "/mail/example.net/bob/bob@example.net");
    assert_eq!(mailbox_of("bob", "", "/mail/%d/%n"), "/mail//bob");
    assert_eq!(mailbox_of("%d%u", "", "/mail/%u"), "/mail/%d%u");
    assert_eq!(mailbox_of("~", "/home/x", "/mail/%u"), "/mail/~");
    assert_eq!(mailbox_of("bob", "/home/%u", "~/%u"), "/home/%u/bob");
    assert_eq!(mailbox_of("bob", "", "/mail/100%%/%x/%"), "/mail/100%/%x/%");
}

#[test]
fn a_name_is_matched_exactly_before_without_case() {
    let file = file("Bob:{PLAIN}1\nbob:{PLAIN}2\ncarol:{PLAIN}3\n");
    let config = config(&file, "maildir:/mail/%u");
    let name = |asked: &str| match find(&config, asked.as_bytes()) {
        Lookup::Yes(user) => user.name,
        other => panic!("{asked}: {other:?}"),
    };
    assert_eq!(name("bob"), "bob");
    assert_eq!(name("Bob"), "Bob");
    assert_eq!(name("BOB"), "Bob");
    assert_eq!(name("CAROL"), "carol");
    assert_eq!(find(&config, b"dave"), Lookup::No);
    assert_eq!(find(&config, b"../carol"), Lookup::No);
    assert_eq!(find(&config, b""), Lookup::No);
}

#[test]
fn an_address_is_a_user_only_as_a_whole() {
    let file = file("bob@example.net:{PLAIN}1\n");
    let config = config(&file, "maildir:/mail/%d/%n");
    assert!(matches!(find(&config, b"bob@EXAMPLE.net"), Lookup::Yes(_)));
    assert_eq!(find(&config, b"bob"), Lookup::No);
    assert_eq!(find(&config, b"bob@example.org"), Lookup::No);
}

#[test]
fn a_file_that_is_away_is_not_a_no() {
    let config = Config::with(&[("users", "passwd-file:/nonexistent/users")]);
    assert!(matches!(find(&config, b"bob"), Lookup::CannotTell(_)));
    assert!(matches!(check_file(&config), Err(Error::Config(_))));
}

#[test]
fn a_wrong_line_is_neither_a_no_nor_anybody_elses_affair() {
    let file = file("bob:{PLAIN}1:::::\nCarol:plain\n");
    let config = config(&file, "maildir:/mail/%u");
    for name in [b"Carol", b"carol"] {
        let Lookup::CannotTell(why) = find(&config, name) else { panic!("taken") };
        assert!(why.starts_with(&format!("{}:2: expected ", file.path().display())), "{why}");
        let found = find_with_sample(&config, name);
        assert_eq!((found.user, found.kept_out, found.trouble), (None, Some(why), None));
    }
    assert!(matches!(find(&config, b"bob"), Lookup::Yes(_)));
    assert_eq!(find(&config, b"dave"), Lookup::No);
    assert!(check_file(&config).is_ok());
    // Told.
    assert!(!kept::is_news(file.path(), Stamp::of(file.path())));
}

#[test]
fn a_line_without_a_name_is_neither_a_no_nor_the_end_of_the_check() {
    let file = file("bob:{PLAIN}1:::::\n../carol:{PLAIN}1\n");
    let config = config(&file, "maildir:/mail/%u");
    let Lookup::CannotTell(why) = find(&config, b"dave") else { panic!("taken") };
    assert!(why.starts_with(&format!("{}:2: expected ", file.path().display())), "{why}");
    let Err(Error::Config(error)) = check_file(&config) else { panic!("taken") };
    assert_eq!(error.origin, crate::config::Origin::File(file.path().into(), 2));
}

/// Else a look-up that failed once would count until the file changes, and so would an owner that the system has no more.
#[test]
fn of_a_file_that_names_owners_nothing_is_kept_whether_the_system_knew_them_or_not() {
    let kept = |lines: &str| {
        let file = file(lines);
        kept_of(&config(&file, "maildir:/mail/%u"), file.path()).unwrap().map(|users| users.len())
    };
    assert_eq!(kept("alice:{PLAIN}x\nbob:{PLAIN}x:1:1\ncarol:{PLAIN}x:+1:1\n"), Some(3));
    for owner in ["root:root", "0:root", "no-such-user:0", "0:no-such-group"] {
        assert_eq!(kept(&format!("bob:{{PLAIN}}x:{owner}\nalice:{{PLAIN}}x:1:1\n")), None, "{owner}");
    }
}

#[test]
fn the_system_is_asked_again_where_a_signal_came_in_between_and_only_then() {
    for (error, asked) in [(Errno::EINTR, 3), (Errno::EIO, 1)] {
        let mut times = 0;
        let answer = again(|| {
            times += 1;
            if times < 3 { Err(error) } else { Ok(()) }
        });
        assert_eq!((answer.is_ok(), times), (asked == 3, asked));
    }
}

/// As mail is looked for: the whole address first, which nobody of the system has.
#[test]
fn users_of_the_system_do_not_wait_for_a_wrong_line() {
    let file = file("bob:plain:::::\n");
    let users = format!("system, passwd-file:{}", file.path().display());
    let config = Config::with(&[("users", &users)]);
    let found = find_first(&config, [b"root@example.net".as_slice(), b"root"]);
    assert!(matches!(found, Lookup::Yes(user) if user.is_of_system));
}

#[test]
fn who_is_kept_out_gets_mail_and_cannot_log_in() {
    let file = file("bob:{PLAIN}x::::::allow_nets=192.0.2.0/24\n");
    let config = config(&file, "maildir:/mail/%u");
    assert!(matches!(find(&config, b"bob"), Lookup::Yes(_)));
    let Some(why) = find_with_sample(&config, b"bob").kept_out else { panic!("let in") };
    assert!(why.contains("allow_nets="), "{why}");
}

#[test]
fn a_mailbox_below_home_needs_a_home() {
    let file = file("bob:{PLAIN}1\n");
    assert!(matches!(find(&config(&file, "maildir:~/Maildir"), b"bob"), Lookup::CannotTell(_)));
    assert!(matches!(find(&config(&file, "maildir:/mail/%u"), b"bob"), Lookup::Yes(_)));
}

#[test]
fn users_of_the_system_are_found() {
    let config = Config::with(&[("users", "system")]);
    let Lookup::Yes(root) = find(&config, b"ROOT") else { panic!("no root") };
    assert_eq!((root.name.as_str(), root.owner), ("root", Some((0, 0))));
    assert_eq!(find(&config, b"no-such-user-here"), Lookup::No);
    assert!(check_file(&config).is_ok());
}

#[test]
fn a_password_is_not_shown() {
    let file = file("bob:{PLAIN}sesame\n");
    let config = config(&file, "maildir:/mail/%u");
    let found = find_with_sample(&config, b"bob").user;
    assert!(matches!(&found, Some(user) if user.password.is_some()));
    assert!(matches!(find(&config, b"bob"), Lookup::Yes(user) if user.password.is_none()));
    assert!(!format!("{found:?}").contains("sesame"));
}

#[test]
fn users_of_several_sources_are_found_in_their_order() {
    let (one, two) = (file("bob:::::/one\n"), file("bob:::::/two\ncarol:::::/two\n"));
    let users = format!("passwd-file:{}, passwd-file:{}, system", one.path().display(), two.path().display());
    let config = Config::with(&[("users", &users), ("mailbox", "maildir:~/Maildir")]);
    let home = |name: &[u8]| match find(&config, name) {
        Lookup::Yes(user) => (user.home.display().to_string(), user.is_of_system),
        other => panic!("{other:?}"),
    };
    assert_eq!(home(b"bob"), ("/one".to_owned(), false));
    assert_eq!(home(b"carol"), ("/two".to_owned(), false));
    assert!(home(b"root").1);
    assert_eq!(find(&config, b"nobody-of-this-name"), Lookup::No);
    assert!(check_file(&config).is_ok() && !all_belong_to(&config, 1000));
}
