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
    let (_file, config) = config("bob:{PLAIN}sesame\ndave:!{PLAIN}sesame\neve:\nroot:{PLAIN}sesame:0:0\n", &[]);
    for (name, password) in [
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

#[test]
fn methods_that_are_not_there_are_a_configuration_error() {
    for list in ["pam", "checkpassword:/bin/checkpassword", "passwd-file", "passwd-file:/nonexistent"] {
        let config = Config::with(&[("users", "system"), ("authentication", list)]);
        assert!(matches!(check_methods(&config), Err(Error::Config(_))), "{list}");
    }
    assert!(check_methods(&Config::with(&[])).is_ok());
}
