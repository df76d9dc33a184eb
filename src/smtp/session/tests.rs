use super::*;
use crate::lookup::Listed;
use crate::smtp::command::parse;

/// A server that has VRFY, and neither TLS nor logins.
pub(in crate::smtp) fn settings() -> Settings<'static> {
    Settings {
        hostname: "mx.example",
        message_size_limit: 1000,
        recipient_limit: 3,
        announced_recipients: 3,
        error_limit: 5,
        junk_limit: 10,
        transaction_limit: 0,
        tls: Tls::Never,
        dialect: Dialect::Smtp,
        login: Login::Never,
        vrfy: true,
        xclient: Listed::No,
        discarded: &[],
    }
}

fn session() -> Session<'static> {
    Session::new(settings())
}

/// Takes a line as the server does; every recipient is accepted.
fn take(session: &mut Session<'_>, line: &str) -> Step {
    let step = match parse(line.as_bytes()) {
        Ok(command) => session.command(command),
        Err(fault) => session.mistake(fault),
    };
    match &step {
        Step::Say(reply) | Step::Reset(reply) | Step::Quit(reply) | Step::Refuse(reply) => session.count(reply),
        Step::Begin(reverse_path, parameters, _) => session.begun(reverse_path.clone(), parameters),
        Step::Judge(..) => session.judged(true),
        Step::Verify(_) | Step::TakeMessage | Step::StartTls => {}
        Step::TakeChunk(..) | Step::SkipChunk(..) | Step::Authenticate(..) | Step::Become(_) => {}
    }
    step
}

fn after(lines: &[&str]) -> (Session<'static>, Step) {
    let mut session = session();
    let mut last = Step::Say(session.greeting());
    for line in lines {
        last = take(&mut session, line);
    }
    (session, last)
}

#[test]
fn a_command_whose_keyword_is_discarded_is_not_there() {
    let discarded = &["chunking", "STARTTLS", "Auth"].map(str::to_owned);
    let mut session = Session::new(Settings { tls: Tls::Offered, login: Login::Always, discarded, ..settings() });
    for line in ["EHLO c", "MAIL FROM:<a@b>", "RCPT TO:<bob@mx.example>"] {
        take(&mut session, line);
    }
    assert_eq!(take(&mut session, "BDAT 5"), Step::SkipChunk(5, Reply::not_implemented(), 1));
    assert!(session.envelope().is_some(), "DATA may follow");
    // Who had sent all of it goes on with the next message.
    assert_eq!(take(&mut session, "BDAT 5 LAST"), Step::SkipChunk(5, Reply::not_implemented(), 1));
    assert!(session.envelope().is_none());
    for line in ["STARTTLS", "AUTH PLAIN", "AUTH FOO"] {
        assert_eq!(take(&mut session, line), Step::Say(Reply::not_implemented()), "{line}");
    }
}

#[test]
fn a_parameter_whose_keyword_is_discarded_is_not_there_unless_it_promises_nothing() {
    let unknown = Reply::fault(Fault::UnknownParameter);
    for (keyword, line, reply) in [
        ("dsn", "MAIL FROM:<a@b> RET=HDRS", Reply::no_dsn()),
        ("DSN", "MAIL FROM:<a@b> ENVID=1", Reply::no_dsn()),
        ("dsn", "RCPT TO:<bob@mx> NOTIFY=SUCCESS", Reply::no_dsn()),
        ("dsn", "RCPT TO:<bob@mx> ORCPT=rfc822;x@y", Reply::no_dsn()),
        ("smtputf8", "MAIL FROM:<a@b> SMTPUTF8", unknown.clone()),
        ("smtputf8", "MAIL FROM:<\u{fc}@b> SMTPUTF8", unknown.clone()),
        ("smtputf8", "VRFY bob SMTPUTF8", unknown.clone()),
        ("requiretls", "MAIL FROM:<a@b> REQUIRETLS", unknown),
        ("binarymime", "MAIL FROM:<a@b> BODY=BINARYMIME", Reply::fault(Fault::BadParameter)),
        ("chunking", "MAIL FROM:<a@b> BODY=BINARYMIME", Reply::fault(Fault::BadParameter)),
    ] {
        let discarded = &[keyword.to_owned()];
        for (discarded, is_there) in [(&discarded[..], false), (&[], true)] {
            let mut session = Session::new(Settings { tls: Tls::On, discarded, ..settings() });
            if line.starts_with("RCPT") {
                take(&mut session, "MAIL FROM:<a@b>");
            }
            let step = take(&mut session, line);
            assert_eq!(step != Step::Say(reply.clone()), is_there, "{keyword}: {line}: {step:?}");
            assert_eq!(
                matches!(step, Step::Begin(..) | Step::Judge(..) | Step::Verify(_)),
                is_there,
                "{line}: {step:?}"
            );
        }
    }
    let discarded = &["size", "8bitmime", "dsn"].map(str::to_owned);
    let mut session = Session::new(Settings { discarded, ..settings() });
    assert!(matches!(take(&mut session, "MAIL FROM:<a@b> SIZE=5 BODY=8BITMIME"), Step::Begin(..)));
    assert!(matches!(take(&mut session, "RCPT TO:<bob@mx>"), Step::Judge(..)));
}

#[test]
fn vrfy_that_is_switched_off_is_not_there() {
    let mut session = Session::new(Settings { vrfy: false, ..settings() });
    let Step::Reset(extensions) = take(&mut session, "EHLO c") else { panic!() };
    let Step::Say(help) = take(&mut session, "HELP") else { panic!() };
    for verb in ["VRFY", "EXPN"] {
        assert!(!extensions.text.contains(verb) && !help.text.contains(verb), "{extensions:?} {help:?}");
        assert_eq!(take(&mut session, &format!("{verb} bob")), Step::Say(Reply::not_implemented()));
    }
}

#[test]
fn rcpt_and_data_before_mail_are_refused() {
    assert_eq!(after(&["RCPT TO:<bob@mx>"]).1, Step::Say(Reply::mail_first()));
    assert_eq!(after(&["EHLO a", "DATA"]).1, Step::Say(Reply::mail_first()));
}

#[test]
fn data_before_an_accepted_recipient_is_refused() {
    assert_eq!(after(&["MAIL FROM:<>", "DATA"]).1, Step::Say(Reply::rcpt_first()));
    let mut session = session();
    take(&mut session, "MAIL FROM:<>");
    session.command(parse(b"RCPT TO:<x@y>").unwrap());
    session.judged(false);
    assert_eq!(take(&mut session, "DATA"), Step::Say(Reply::no_recipients()));
}

#[test]
fn mail_in_a_message_is_refused_and_the_message_stays() {
    let (mut session, step) = after(&["MAIL FROM:<a@b>", "RCPT TO:<bob@mx>", "MAIL FROM:<c@d>"]);
    assert_eq!(step, Step::Say(Reply::nested_mail()));
    assert_eq!(session.envelope().map(|(path, count)| (path.to_string(), count)), Some(("<a@b>".to_owned(), 1)));
    assert_eq!(take(&mut session, "DATA"), Step::TakeMessage);
}

#[test]
fn helo_ehlo_and_rset_forget_the_message() {
    for line in ["HELO again", "EHLO again", "RSET"] {
        let (mut session, step) = after(&["EHLO a", "MAIL FROM:<a@b>", "RCPT TO:<bob@mx>", line]);
        assert!(matches!(step, Step::Reset(_)), "{line}");
        assert_eq!(take(&mut session, "DATA"), Step::Say(Reply::mail_first()), "{line}");
    }
}

#[test]
fn rset_keeps_the_name_and_helo_changes_it() {
    assert_eq!(after(&["EHLO a", "RSET"]).0.hello(), (Protocol::Esmtp, Some(&b"a"[..])));
    assert_eq!(after(&["EHLO a", "HELO b"]).0.hello(), (Protocol::Smtp, Some(&b"b"[..])));
    assert_eq!(after(&["RSET"]).0.hello(), (Protocol::Smtp, None));
}

#[test]
fn vrfy_noop_and_help_leave_the_message_alone() {
    let lines = ["MAIL FROM:<>", "RCPT TO:<bob@mx>", "VRFY bob", "NOOP", "HELP", "EXPN x", "FOO", "DATA"];
    assert_eq!(after(&lines).1, Step::TakeMessage);
}

#[test]
fn a_size_over_the_limit_is_refused_at_mail() {
    assert_eq!(after(&["MAIL FROM:<> SIZE=1001"]).1, Step::Say(Reply::too_large()));
    assert!(matches!(after(&["MAIL FROM:<> SIZE=1000"]).1, Step::Begin(..)));
}

#[test]
fn recipients_over_the_limit_are_put_off_and_after_a_thousand_they_are_mistakes() {
    let mut lines = vec!["MAIL FROM:<>"];
    lines.extend(["RCPT TO:<bob@mx>"; 4]);
    let (mut session, step) = after(&lines);
    assert_eq!(step, Step::Say(Reply::too_many_recipients()));
    assert_eq!(session.envelope().map(|(_, count)| count), Some(3));
    for _ in 1..OVERSHOOT {
        take(&mut session, "RCPT TO:<bob@mx>");
    }
    assert!(!session.is_worn_out());
    for _ in 0..5 {
        take(&mut session, "RCPT TO:<bob@mx>");
    }
    assert!(session.is_worn_out());
}

#[test]
fn when_submit_has_failed_all_of_the_message_is_put_off() {
    let (mut session, _) = after(&["MAIL FROM:<>", "RCPT TO:<bob@mx>"]);
    session.broken();
    assert_eq!(take(&mut session, "RCPT TO:<bob@mx>"), Step::Say(Reply::trouble()));
    assert_eq!(take(&mut session, "DATA"), Step::Say(Reply::trouble()));
    assert!(matches!(take(&mut session, "RSET"), Step::Reset(_)));
    assert!(matches!(take(&mut session, "MAIL FROM:<>"), Step::Begin(..)));
}

#[test]
fn mistakes_are_counted_until_a_message_is_queued() {
    let (mut session, _) = after(&["FOO", "FOO", "FOO", "FOO"]);
    assert!(!session.is_worn_out());
    session.message_over(true);
    for _ in 0..4 {
        take(&mut session, "FOO");
    }
    assert!(!session.is_worn_out());
    take(&mut session, "FOO");
    assert!(session.is_worn_out());
}

#[test]
fn commands_that_move_no_mail_become_mistakes() {
    let (mut session, _) = after(&["NOOP"; 14]);
    assert!(!session.is_worn_out());
    take(&mut session, "RSET");
    assert!(session.is_worn_out());
}

#[test]
fn the_phase_says_what_was_waited_for() {
    for (lines, phase) in [
        (&[][..], "waiting for EHLO"),
        (&["HELO a"], "waiting for MAIL"),
        (&["HELO a", "MAIL FROM:<>"], "waiting for RCPT"),
        (&["MAIL FROM:<>", "RCPT TO:<bob@mx>"], "waiting for RCPT or DATA"),
        (&["MAIL FROM:<>", "RCPT TO:<bob@mx>", "DATA"], "receiving the message"),
    ] {
        assert_eq!(after(lines).0.phase(), phase);
    }
}

#[test]
fn a_message_is_over_with_its_last_chunk_also_where_that_is_refused() {
    let (session, step) = after(&["MAIL FROM:<a@b>", "BDAT 5 LAST"]);
    assert_eq!((step, session.envelope()), (Step::SkipChunk(5, Reply::rcpt_first(), 1), None));
    let (mut session, step) = after(&["MAIL FROM:<a@b>", "BDAT 5"]);
    assert_eq!(step, Step::SkipChunk(5, Reply::rcpt_first(), 1));
    assert_eq!(take(&mut session, "RCPT TO:<bob@mx>"), Step::Say(Reply::bdat_has_begun()));
    assert_eq!(take(&mut session, "BDAT 5 LAST"), Step::SkipChunk(5, Reply::rcpt_first(), 1));
    assert_eq!(session.envelope(), None);
}

/// RFC 2033 section 4.2: a client that has sent its chunks at once counts the replies to the last.
#[test]
fn by_lmtp_the_last_chunk_is_answered_for_each_recipient_whatever_became_of_those_before() {
    for dialect in [Dialect::Lmtp, Dialect::Smtp] {
        let each = if dialect == Dialect::Lmtp { 2 } else { 1 };
        let begun = || {
            let mut session = Session::new(Settings { dialect, ..settings() });
            for line in ["MAIL FROM:<a@b>", "RCPT TO:<alice@mx>", "RCPT TO:<bob@mx>"] {
                take(&mut session, line);
            }
            session
        };
        let mut session = begun();
        session.broken();
        assert_eq!(take(&mut session, "BDAT 5"), Step::SkipChunk(5, Reply::trouble(), 1));
        assert_eq!(take(&mut session, "BDAT 5 LAST"), Step::SkipChunk(5, Reply::trouble(), each));
        let mut session = begun();
        assert_eq!(take(&mut session, "BDAT 5"), Step::TakeChunk(5, false));
        session.chunk_refused();
        assert_eq!(take(&mut session, "BDAT 5"), Step::SkipChunk(5, Reply::mail_first(), 1));
        assert_eq!(take(&mut session, "BDAT 5 LAST"), Step::SkipChunk(5, Reply::mail_first(), each));
        assert_eq!(take(&mut session, "BDAT 5 LAST"), Step::SkipChunk(5, Reply::mail_first(), 1));
        let mut session = begun();
        take(&mut session, "BDAT 5");
        session.chunk_refused();
        take(&mut session, "RSET");
        assert_eq!(take(&mut session, "BDAT 5 LAST"), Step::SkipChunk(5, Reply::mail_first(), 1));
    }
}

#[test]
fn chunks_of_nothing_become_mistakes() {
    let (mut session, _) = after(&["MAIL FROM:<>", "RCPT TO:<bob@mx>"]);
    for _ in 0..14 {
        take(&mut session, "BDAT 0");
    }
    assert!(!session.is_worn_out());
    take(&mut session, "BDAT 0");
    assert!(session.is_worn_out());
}

#[test]
fn strangers_and_chunks_end_the_session() {
    assert_eq!(after(&["Subject: x"]).1, Step::Refuse(Reply::stranger()));
    assert_eq!(after(&["MAIL FROM:<>", "BDAT x"]).1, Step::Refuse(Reply::unreadable_bdat()));
    assert_eq!(after(&["QUIT"]).1, Step::Quit(Reply::goodbye()));
}

#[test]
fn starttls_is_known_where_it_is_offered_and_once() {
    assert_eq!(after(&["EHLO c", "STARTTLS"]).1, Step::Say(Reply::not_implemented()));
    let mut session = Session::new(Settings { tls: Tls::Offered, ..settings() });
    let Step::Reset(extensions) = take(&mut session, "EHLO c") else { panic!() };
    assert!(extensions.text.contains("\nSTARTTLS\n"), "{extensions:?}");
    assert!(matches!(take(&mut session, "STARTTLS now"), Step::Say(reply) if reply.code == 501));
    take(&mut session, "MAIL FROM:<a@c.example>");
    assert_eq!(take(&mut session, "STARTTLS"), Step::StartTls);
    session.under_tls();
    assert!(session.hello().1.is_none() && session.envelope().is_none(), "what was said in clear is forgotten");
    assert_eq!(take(&mut session, "STARTTLS"), Step::Say(Reply::under_tls()));
    let Step::Reset(extensions) = take(&mut session, "EHLO c") else { panic!() };
    assert!(!extensions.text.contains("STARTTLS"), "{extensions:?}");
    assert_eq!(session.hello().0, Protocol::Esmtps);
    take(&mut session, "HELO c");
    assert_eq!(session.hello().0, Protocol::Smtp);
}
