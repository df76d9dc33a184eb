use super::*;
use std::io::Write as _;

fn file(lines: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    file
}

fn config(users: &str, more: &[(&str, &str)]) -> (tempfile::NamedTempFile, Config) {
    let file = file(users);
    let users = format!("passwd-file:{}", file.path().display());
    let mut settings = vec![("users", users.as_str()), ("mailbox", "maildir:/mail/%u")];
    settings.extend_from_slice(more);
    let config = Config::with(&settings);
    (file, config)
}

#[test]
fn the_right_password_gives_the_user() {
    let (_file, config) = config("bob:{PLAIN}sesame:1000:1000\n", &[]);
    let Lookup::Yes(user) = check(&config, b"BOB", b"sesame") else { panic!("refused") };
    assert_eq!((user.name.as_str(), user.owner), ("bob", Some((1000, 1000))));
}

#[test]
fn whatever_is_wrong_the_answer_is_the_same() {
    let hash = String::from_utf8(crate::sys::crypt(b"sesame", "$6$rounds=1000$abcd$").unwrap()).unwrap();
    let users = format!("bob:{{PLAIN}}sesame\ndave:!{{PLAIN}}sesame\neve:\nroot:{{PLAIN}}sesame:0:0\nfrank:{hash}\n");
    let (_file, config) = config(&users, &[]);
    // crypt(3) takes neither of these, nor, of the second, what comes of it when it is prepared.
    let (too_long, grows) = ("x".repeat(512), "\u{fdfa}".repeat(16));
    for (name, password) in [
        ("frank", "sesamE"),
        ("frank", too_long.as_str()),
        ("frank", &grows),
        ("carol", &too_long),
        ("carol", &grows),
        ("bob", "sesamE"),
        ("bob", ""),
        ("carol", "sesame"),
        ("dave", "sesame"),
        ("eve", ""),
        ("root", "sesame"),
        ("", ""),
        ("../bob", "sesame"),
    ] {
        assert_eq!(check(&config, name.as_bytes(), password.as_bytes()), Lookup::No, "{name} {password}");
    }
}

/// A line that is wrong, a field that keeps out, a hash that cannot be checked: each is a wrong password, and costs as much.
#[test]
fn what_is_wrong_with_one_user_looks_to_the_client_like_a_wrong_password() {
    let users = "bob:{SHA512-CRYPT}$6$b$x\nnets:{PLAIN}sesame::::::allow_nets=192.0.2.0/24\nscheme:{NOSUCH}sesame\n\
                 broken:{SHA}?\nline:sesame\nmethod:$zz$abc$def\n";
    let own = file(users);
    let other = format!("passwd-file:{}", own.path().display());
    for list in ["passwd-file", &other, "checkpassword:/bin/false"] {
        let (_file, config) = config(users, &[("authentication", list)]);
        for name in ["nets", "scheme", "broken", "line", "method", "nobody"] {
            for password in ["sesame", "wrong", ""] {
                assert_eq!(check(&config, name.as_bytes(), password.as_bytes()), Lookup::No, "{list} {name}");
            }
            if !list.starts_with("check") {
                let hashed = hashed_by(&config, name, &|stored| scheme::verify(stored, b"x").map(|_| None));
                assert_eq!(hashed.last().map(String::as_str), Some("{SHA512-CRYPT}$6$b$x"), "{list} {name}");
            }
        }
    }
}

/// What is told of a known name and not of others would tell who is there.
#[test]
fn a_source_that_cannot_be_read_is_told_whoever_is_asked_for() {
    let (one, two, of_two) = two("bob:{PLAIN}one:1:1\n", "sue:{PLAIN}two:2:2\n");
    drop(two);
    for (name, password) in [("bob", "wrong"), ("sue", "two"), ("nobody", "wrong")] {
        let found = check(&of_two, name.as_bytes(), password.as_bytes());
        assert!(matches!(found, Lookup::CannotTell(_)), "{name}: {found:?}");
    }
    assert!(matches!(check(&of_two, b"bob", b"one"), Lookup::Yes(_)));
    drop(one);
    assert!(matches!(check(&of_two, b"bob", b"one"), Lookup::CannotTell(_)));
}

#[test]
fn nobody_logs_in_without_a_password() {
    let hash = String::from_utf8(crate::sys::crypt(b"", "$6$rounds=1000$abcd$").unwrap()).unwrap();
    let (_file, config) = config(&format!("plain:{{PLAIN}}\ncrypt:{{CRYPT}}\nhash:{hash}\nnone:\n"), &[]);
    for name in ["plain", "crypt", "hash", "none"] {
        assert_eq!(check(&config, name.as_bytes(), b""), Lookup::No, "{name}");
        assert_eq!(check(&config, name.as_bytes(), b"x"), Lookup::No, "{name}");
    }
}

#[test]
fn names_and_passwords_are_the_same_however_their_letters_are_composed() {
    let hash = |password: &str| {
        String::from_utf8(crate::sys::crypt(password.as_bytes(), "$6$rounds=1000$abcd$").unwrap()).unwrap()
    };
    let (composed, own) = (hash("caf\u{e9}"), hash("\u{b5}g"));
    let users = format!(
        "j\u{f6}rg:{{PLAIN}}cafe\u{301}\nsoft:{{PLAIN}}pass\u{ad}word\nhashed:{composed}\nunprepared:{own}\n\
         odd:{{PLAIN}}\u{e000}\n"
    );
    let (_file, config) = config(&users, &[]);
    for (name, password, fits) in [
        ("j\u{f6}rg", "caf\u{e9}", true),
        ("jo\u{308}rg", "cafe\u{301}", true),
        ("j\u{f6}r\u{ad}g", "cafe\u{301}", true),
        ("j\u{f6}rg", "cafe", false),
        ("soft", "password", true),
        ("soft", "pass\u{ad}word", true),
        ("hashed", "cafe\u{301}", true),
        ("hashed", "caf\u{e9}", true),
        ("hashed", "cafe", false),
        // Made by who did not prepare it: a micro sign, which is prepared a Greek letter.
        ("unprepared", "\u{b5}g", true),
        ("unprepared", "\u{3bc}g", false),
        ("soft", "pass\tword", false),
        ("odd", "\u{e000}", false),
        ("soft\u{7}", "password", false),
        ("\u{ad}", "password", false),
    ] {
        let found = check(&config, name.as_bytes(), password.as_bytes());
        assert_eq!(matches!(found, Lookup::Yes(_)), fits, "{name:?} {password:?}: {found:?}");
        assert!(fits || found == Lookup::No, "{name:?} {password:?}: {found:?}");
    }
}

#[test]
fn a_list_is_tried_in_order_and_trouble_is_not_a_no() {
    let own = file("bob:{PLAIN}other\n");
    let list = format!("passwd-file:/nonexistent passwd-file:{} passwd-file", own.path().display());
    let (_file, config) = config("bob:{PLAIN}sesame\n", &[("authentication", &list)]);
    assert!(matches!(check(&config, b"bob", b"sesame"), Lookup::Yes(_)));
    assert!(matches!(check(&config, b"bob", b"other"), Lookup::Yes(_)));
    assert!(matches!(check(&config, b"bob", b"wrong"), Lookup::CannotTell(_)));
}

#[test]
fn passwords_are_where_the_users_are_unless_said_otherwise() {
    let own = file("bob:{PLAIN}other\n");
    let list = format!("passwd-file:{}", own.path().display());
    let (_file, config) = config("bob:{PLAIN}sesame\n", &[("authentication", &list)]);
    assert_eq!(check(&config, b"bob", b"sesame"), Lookup::No);
    assert!(matches!(check(&config, b"bob", b"other"), Lookup::Yes(_)));
}

/// Two files of users, in this order.
fn two(one: &str, two: &str) -> (tempfile::NamedTempFile, tempfile::NamedTempFile, Config) {
    let (one, two) = (file(one), file(two));
    let users = format!("passwd-file:{}, passwd-file:{}", one.path().display(), two.path().display());
    let config = Config::with(&[("users", &users), ("mailbox", "maildir:/mail/%u")]);
    (one, two, config)
}

#[test]
fn a_password_of_one_source_lets_nobody_in_as_the_user_of_another() {
    for line in ["bob:!{PLAIN}x", "bob:*", "bob:", "bob:{PLAIN}one", "bob:!\nbob:{PLAIN}two"] {
        let (_one, _two, config) = two(&format!("{line}:1:1\n"), "bob:{PLAIN}two:2:2\nsue:{PLAIN}two:2:2\n");
        assert_eq!(check(&config, b"bob", b"two"), Lookup::No, "{line}");
        let owner = |password: &[u8], name: &[u8]| match check(&config, name, password) {
            Lookup::Yes(user) => user.owner,
            _ => None,
        };
        assert_eq!(owner(b"two", b"sue"), Some((2, 2)), "{line}");
        assert_eq!(owner(b"one", b"bob"), line.ends_with("one").then_some((1, 1)), "{line}");
    }
}

#[test]
fn a_password_of_the_system_lets_nobody_in_as_the_user_of_a_file() {
    let own = file("root:\n");
    let user = |users: &str| {
        let config = Config::with(&[("users", users), ("mailbox", "maildir:/mail/%u")]);
        let found = users::find_with_sample(&config, b"root");
        let Some(user) = found.user else { panic!("{users}") };
        (is_by_source(&config), found.source, user.is_of_system)
    };
    let path = own.path().display();
    assert_eq!(user(&format!("passwd-file:{path}, system")), (true, Some(0), false));
    assert_eq!(user(&format!("system, passwd-file:{path}")), (true, Some(0), true));
}

#[test]
fn of_two_lines_of_one_name_the_first_counts_also_where_it_lets_nobody_in() {
    let own = file("bob:!{PLAIN}x\nbob:{PLAIN}other\n");
    let list = format!("passwd-file:{}", own.path().display());
    let (_file, config) = config("bob:\n", &[("authentication", &list)]);
    assert_eq!(check(&config, b"bob", b"other"), Lookup::No);
}

#[test]
fn methods_that_are_not_there_are_a_configuration_error() {
    for list in ["pam", "checkpassword:/bin/checkpassword", "passwd-file", "passwd-file:/nonexistent"] {
        let config = Config::with(&[("users", "system"), ("authentication", list)]);
        assert!(matches!(check_methods(&config), Err(Error::Config(_))), "{list}");
    }
    if crate::needs::root() {
        assert!(check_methods(&Config::with(&[])).is_ok());
    }
}

/// How often a password is hashed for a login, and against which stored passwords.
fn hashed(config: &Config, name: &str) -> Vec<String> {
    hashed_by(config, name, &|_| Ok(None))
}

fn hashed_by(config: &Config, name: &str, answer: &dyn Fn(&str) -> Verified) -> Vec<String> {
    let hashed = std::cell::RefCell::new(Vec::new());
    let verify = |stored: &str| {
        hashed.borrow_mut().push(stored.to_owned());
        answer(stored)
    };
    let guess = Password { given: b"guess", prepared: Prepared::AsItIs };
    assert_eq!(check_by(config, name.as_bytes(), Some(&guess), &verify), Lookup::No, "{name}");
    hashed.into_inner()
}

#[test]
fn a_name_that_nobody_has_costs_as_many_hashes_as_a_wrong_password_and_of_the_same_kind() {
    let kind = |stored: &String| stored.split(['}', '$']).next().map(str::to_owned);
    let own = file("bob:{PLAIN}other\nalice:{PLAIN}more\n");
    for list in ["passwd-file".to_owned(), format!("passwd-file passwd-file:{}", own.path().display())] {
        let users =
            "alice:{SHA512-CRYPT}$6$a$x:1:1\nbob:{SHA512-CRYPT}$6$b$x:1:1\nlocked:!{PLAIN}x:1:1\nroot:{PLAIN}x:0:0\n";
        let (_file, config) = config(users, &[("authentication", &list)]);
        let known = hashed(&config, "bob");
        assert_eq!(known.len(), list.split(' ').count(), "one a method");
        for name in ["carol", "locked", "root", "", "bob@elsewhere", "a\0b"] {
            let unknown = hashed(&config, name);
            assert_eq!(unknown.len(), known.len(), "{name}: {unknown:?}");
            assert!(unknown.iter().map(kind).eq(known.iter().map(kind)), "{name}: {unknown:?} {known:?}");
        }
    }
    // Where there is no other password to take, one of ours is.
    let (_file, config) = config("bob:{PLAIN}x:1:1\n", &[("authentication", "passwd-file:/dev/null")]);
    assert_eq!(
        (hashed(&config, "bob"), hashed(&config, "carol")),
        (vec![scheme::DUMMY.into()], vec![scheme::DUMMY.into()])
    );
}

#[test]
fn every_source_costs_a_hash_of_its_own_kind_whoever_is_asked_for() {
    let (_one, _two, of_two) =
        two("dave:!{PLAIN}x\nbob:{SHA512-CRYPT}$6$b$x:1:1\nsue:!\n", "bob:{PLAIN}x\nsue:{PLAIN}x\ncarl:{PLAIN}x\n");
    for name in ["bob", "sue", "carl", "dave", "nobody", ""] {
        assert_eq!(hashed(&of_two, name), ["{SHA512-CRYPT}$6$b$x", "{PLAIN}x"], "{name}");
    }
    // A locked one costs nothing, so another is taken.
    let (_file, config) = config("dave:!{PLAIN}x\nbob:{PLAIN}y\n", &[]);
    assert_eq!(hashed(&config, "nobody"), ["{PLAIN}y"]);
}

#[test]
fn system_passwords_that_cannot_be_read_are_told_before_anybody_logs_in() {
    let readable = |path: &str| check_shadow(&Config::with(&[("authentication", "shadow")]), Path::new(path));
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("shadow");
    std::fs::write(&there, "").unwrap();
    assert!(readable(there.to_str().unwrap()).is_ok());
    let Err(Error::Config(error)) = readable("/nonexistent/shadow") else { panic!("not told") };
    assert!(
        error.problem.contains("expected to be started as root, who alone can read /nonexistent/shadow"),
        "{error}"
    );
}
