use super::*;
use crate::pop3::command::parse;

fn say(session: &mut Session, line: &str) -> Step {
    match parse(line.as_bytes()) {
        Ok(command) => session.command(command),
        Err(mistake) => session.mistake(mistake),
    }
}

/// Does what the server does for sizes.
fn act(session: &mut Session, line: &str, octets: &[u64]) -> Step {
    match say(session, line) {
        Step::Size(index) => Step::Say(Reply::numbers(index as u64 + 1, octets[index])),
        Step::Delete(index) => Step::Say(session.deleted(index, octets[index])),
        step => step,
    }
}

const SIZES: [u64; 3] = [10, 20, 30];

fn logged_in(octets: &[u64]) -> Session {
    let mut session = Session::new(true);
    assert_eq!(say(&mut session, "USER bob"), Step::Say(Reply::SEND_PASSWORD));
    assert_eq!(say(&mut session, "PASS x"), Step::Check(b"bob".to_vec(), Secret(b"x".to_vec())));
    session.entered(octets.len(), octets.iter().fold(0, |sum, octets| sum.saturating_add(*octets)));
    session
}

#[test]
fn pass_counts_only_directly_behind_user() {
    let mut session = Session::new(true);
    assert_eq!(say(&mut session, "PASS x"), Step::Say(Reply::USER_FIRST));
    for between in ["CAPA", "NOOP", "BOGUS", "PASS"] {
        assert_eq!(say(&mut session, "USER bob"), Step::Say(Reply::SEND_PASSWORD));
        say(&mut session, between);
        assert_eq!(say(&mut session, "PASS x"), Step::Say(Reply::USER_FIRST), "{between}");
    }
    say(&mut session, "USER bob");
    say(&mut session, "USER carol");
    assert_eq!(say(&mut session, "PASS x"), Step::Check(b"carol".to_vec(), Secret(b"x".to_vec())));
    assert_eq!(session.refused(), Step::Say(Reply::WRONG));
    assert_eq!(say(&mut session, "PASS x"), Step::Say(Reply::USER_FIRST));
}

#[test]
fn passwords_wait_for_tls_where_they_must() {
    let mut session = Session::new(false);
    assert_eq!(
        say(&mut session, "CAPA"),
        Step::Capabilities(Capabilities { user: false, stls: false, sasl: Offered { plain: false, secrets: false } })
    );
    assert_eq!(say(&mut session, "USER bob"), Step::Say(Reply::TLS_FIRST));
    assert_eq!(say(&mut session, "PASS x"), Step::Say(Reply::TLS_FIRST));
    assert_eq!(say(&mut session, "QUIT"), Step::Close(Reply::GOODBYE));
}

#[test]
fn mail_is_out_of_reach_before_login() {
    for line in ["STAT", "LIST", "LIST 1", "RETR 1", "DELE 1", "NOOP", "RSET", "TOP 1 0", "UIDL", "UIDL 1", "LAST"] {
        let mut session = Session::new(true);
        assert_eq!(say(&mut session, line), Step::Say(Reply::LOG_IN_FIRST), "{line}");
        assert_eq!(session.listed().count(), 0);
    }
}

#[test]
fn the_third_failure_closes() {
    let mut session = Session::new(true);
    assert_eq!(session.refused(), Step::Say(Reply::WRONG));
    assert_eq!(session.unchecked(), Step::Say(Reply::CANNOT_CHECK));
    assert_eq!(session.refused(), Step::Close(Reply::WRONG_TOO_OFTEN));
}

#[test]
fn too_many_bad_commands_close_in_either_state() {
    for mut session in [Session::new(true), logged_in(&[])] {
        for _ in 1..MOST_MISTAKES {
            assert_eq!(say(&mut session, "BOGUS"), Step::Say(Reply::UNKNOWN_COMMAND));
        }
        assert_eq!(session.mistake(Mistake::TooLong), Step::Close(Reply::TOO_MANY_MISTAKES));
    }
}

#[test]
fn messages_that_are_not_there_are_no_bad_commands() {
    let mut session = logged_in(&[]);
    for _ in 0..=MOST_MISTAKES {
        assert_eq!(say(&mut session, "RETR 1"), Step::Say(Reply::NO_SUCH_MESSAGE));
    }
}

#[test]
fn marked_messages_leave_every_count() {
    let mut session = logged_in(&SIZES);
    assert_eq!(act(&mut session, "STAT", &SIZES), Step::Say(Reply::numbers(3, 60)));
    assert_eq!(act(&mut session, "DELE 2", &SIZES), Step::Say(Reply::DELETED));
    assert_eq!(act(&mut session, "STAT", &SIZES), Step::Say(Reply::numbers(2, 40)));
    assert_eq!(session.listed().collect::<Vec<_>>(), [0, 2]);
    for line in ["DELE 2", "RETR 2", "LIST 2", "UIDL 2", "TOP 2 1"] {
        assert_eq!(act(&mut session, line, &SIZES), Step::Say(Reply::IS_DELETED), "{line}");
    }
    assert_eq!(act(&mut session, "LIST 3", &SIZES), Step::Say(Reply::numbers(3, 30)));
    assert_eq!(act(&mut session, "RSET", &SIZES), Step::Say(Reply::UNDELETED));
    assert_eq!(act(&mut session, "STAT", &SIZES), Step::Say(Reply::numbers(3, 60)));
    assert_eq!(act(&mut session, "QUIT", &SIZES), Step::Update);
    assert_eq!(session.to_remove(), Vec::<usize>::new());
}

#[test]
fn what_is_marked_at_quit_is_to_be_removed_and_not_before() {
    let mut session = logged_in(&SIZES);
    act(&mut session, "DELE 3", &SIZES);
    act(&mut session, "DELE 1", &SIZES);
    assert_eq!(session.to_remove(), Vec::<usize>::new());
    assert_eq!(act(&mut session, "QUIT", &SIZES), Step::Update);
    assert_eq!(session.to_remove(), [0, 2]);
    assert_eq!(act(&mut session, "NOOP", &SIZES), Step::Close(Reply::GOODBYE));
}

#[test]
fn numbers_are_those_of_the_list() {
    let mut session = logged_in(&[10, 20]);
    assert_eq!(say(&mut session, "RETR 2"), Step::Retrieve(1));
    assert_eq!(say(&mut session, "TOP 1 7"), Step::Top(0, 7));
    assert_eq!(say(&mut session, "UIDL 1"), Step::UniqueId(0));
    assert_eq!(say(&mut session, "UIDL"), Step::UniqueIds);
    assert_eq!(say(&mut session, "LIST"), Step::List);
    for line in ["RETR 3", "DELE 4294967295", "LIST 3", "TOP 3 1", "UIDL 3"] {
        assert_eq!(say(&mut session, line), Step::Say(Reply::NO_SUCH_MESSAGE), "{line}");
    }
}

#[test]
fn last_is_the_highest_number_used() {
    let mut session = logged_in(&[10, 20, 30]);
    assert_eq!(say(&mut session, "LAST"), Step::Say(Reply::number(0)));
    say(&mut session, "RETR 2");
    say(&mut session, "RETR 1");
    assert_eq!(say(&mut session, "LAST"), Step::Say(Reply::number(2)));
    say(&mut session, "DELE 3");
    assert_eq!(say(&mut session, "LAST"), Step::Say(Reply::number(3)));
    say(&mut session, "RSET");
    assert_eq!(say(&mut session, "LAST"), Step::Say(Reply::number(0)));
}

#[test]
fn a_message_is_marked_once() {
    let mut session = logged_in(&SIZES);
    // Both are said before the first is told.
    assert_eq!([say(&mut session, "DELE 1"), say(&mut session, "DELE 1")], [Step::Delete(0), Step::Delete(0)]);
    session.deleted(0, 10);
    session.deleted(0, 10);
    assert_eq!(say(&mut session, "STAT"), Step::Say(Reply::numbers(2, 50)));
}

#[test]
fn apop_is_there_where_the_greeting_has_a_stamp() {
    let digest = "0123456789abcdef".repeat(2);
    let line = format!("APOP bob {digest}");
    for (passwords_allowed, secrets) in [(false, true), (true, false), (true, true)] {
        let mut session = Session::new(passwords_allowed).with_secrets(secrets);
        let stamped = session.stamp();
        assert_eq!(stamped, passwords_allowed && secrets);
        let step = say(&mut session, &line);
        assert_eq!(matches!(&step, Step::CheckApop(name, _) if name == b"bob"), stamped);
        assert_eq!(step == Step::Say(Reply::UNKNOWN_COMMAND), !stamped);
    }
}

#[test]
fn utf8_is_switched_on_before_login_only() {
    assert_eq!(say(&mut Session::new(true), "UTF8"), Step::Say(Reply::UTF8));
    assert_eq!(say(&mut logged_in(&[]), "UTF8"), Step::Say(Reply::LOGGED_IN));
}

#[test]
fn nobody_logs_in_twice() {
    let mut session = logged_in(&[]);
    assert_eq!(say(&mut session, "USER carol"), Step::Say(Reply::LOGGED_IN));
    assert_eq!(say(&mut session, "PASS x"), Step::Say(Reply::LOGGED_IN));
}

#[test]
fn sizes_that_do_not_fit_do_not_wrap() {
    let mut session = logged_in(&[u64::MAX, 1]);
    assert_eq!(say(&mut session, "STAT"), Step::Say(Reply::numbers(2, u64::MAX)));
}

#[test]
fn stls_is_known_where_it_is_offered_and_once() {
    let mut session = Session::new(false);
    assert_eq!(say(&mut session, "STLS"), Step::Say(Reply::UNKNOWN_COMMAND));
    session.offer_tls();
    assert_eq!(
        say(&mut session, "CAPA"),
        Step::Capabilities(Capabilities { user: false, stls: true, sasl: Offered { plain: false, secrets: false } })
    );
    assert_eq!(say(&mut session, "STLS"), Step::StartTls);
    session.under_tls();
    assert_eq!(
        say(&mut session, "CAPA"),
        Step::Capabilities(Capabilities { user: true, stls: false, sasl: Offered { plain: true, secrets: false } })
    );
    assert_eq!(say(&mut session, "STLS"), Step::Say(Reply::UNDER_TLS));
    assert_eq!(say(&mut session, "USER bob"), Step::Say(Reply::SEND_PASSWORD));
    session.under_tls();
    assert_eq!(say(&mut session, "PASS secret"), Step::Say(Reply::USER_FIRST), "USER was said before TLS");
}

#[test]
fn utf8_that_was_said_before_tls_does_not_count() {
    let mut session = Session::new(true);
    session.offer_tls();
    assert_eq!(say(&mut session, "UTF8"), Step::Say(Reply::UTF8));
    assert!(session.speaks_utf8());
    session.under_tls();
    assert!(!session.speaks_utf8());
}

#[test]
fn auth_is_there_where_passwords_are_and_by_what_is_offered() {
    let mut session = Session::new(false).with_secrets(true);
    assert_eq!(say(&mut session, "AUTH PLAIN"), Step::Say(Reply::TLS_FIRST));
    assert_eq!(session.mechanisms(), Offered::default());
    session.under_tls();
    assert_eq!(say(&mut session, "AUTH"), Step::Mechanisms);
    assert_eq!(say(&mut session, "auth cram-md5"), Step::Authenticate(Mechanism::CramMd5, None));
    assert_eq!(say(&mut session, "AUTH PLAIN ="), Step::Authenticate(Mechanism::Plain, Some(b"=".to_vec())));
    assert_eq!(say(&mut session, "AUTH GSSAPI"), Step::Say(Reply::UNKNOWN_MECHANISM));
    let mut session = Session::new(true);
    assert_eq!(say(&mut session, "AUTH CRAM-MD5"), Step::Say(Reply::UNKNOWN_MECHANISM), "no passwords in clear");
    assert_eq!(session.mechanisms().names(), "PLAIN LOGIN");
}
