use super::*;
use crate::pop3::command::parse;

fn say(session: &mut Session, line: &str) -> Step {
    match parse(line.as_bytes()) {
        Ok(command) => session.command(command),
        Err(mistake) => session.mistake(mistake),
    }
}

fn logged_in(octets: &[u64]) -> Session {
    let mut session = Session::new(true);
    assert_eq!(say(&mut session, "USER bob"), Step::Say(Reply::SEND_PASSWORD));
    assert_eq!(say(&mut session, "PASS x"), Step::Check(b"bob".to_vec(), Secret(b"x".to_vec())));
    session.entered(octets.to_vec());
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
    let mut session = logged_in(&[10, 20, 30]);
    assert_eq!(say(&mut session, "STAT"), Step::Say(Reply::numbers(3, 60)));
    assert_eq!(say(&mut session, "DELE 2"), Step::Say(Reply::DELETED));
    assert_eq!(say(&mut session, "STAT"), Step::Say(Reply::numbers(2, 40)));
    assert_eq!(session.listed().collect::<Vec<_>>(), [(0, 10), (2, 30)]);
    for line in ["DELE 2", "RETR 2", "LIST 2", "UIDL 2", "TOP 2 1"] {
        assert_eq!(say(&mut session, line), Step::Say(Reply::IS_DELETED), "{line}");
    }
    assert_eq!(say(&mut session, "LIST 3"), Step::Say(Reply::numbers(3, 30)));
    assert_eq!(say(&mut session, "RSET"), Step::Say(Reply::UNDELETED));
    assert_eq!(say(&mut session, "STAT"), Step::Say(Reply::numbers(3, 60)));
    assert_eq!(say(&mut session, "QUIT"), Step::Update);
    assert_eq!(session.to_remove(), Vec::<usize>::new());
}

#[test]
fn what_is_marked_at_quit_is_to_be_removed_and_not_before() {
    let mut session = logged_in(&[10, 20, 30]);
    say(&mut session, "DELE 3");
    say(&mut session, "DELE 1");
    assert_eq!(session.to_remove(), Vec::<usize>::new());
    assert_eq!(say(&mut session, "QUIT"), Step::Update);
    assert_eq!(session.to_remove(), [0, 2]);
    assert_eq!(say(&mut session, "NOOP"), Step::Close(Reply::GOODBYE));
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
