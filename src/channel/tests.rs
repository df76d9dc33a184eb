//! Which channel, and where from there: the built-in lines, the example of channels(5), and wrong files.

use super::*;
use crate::net::peer::Origin as Kind;
use proptest::prelude::*;

const EXAMPLE: &str = "
# channel  clients on it            domains on it              how mail leaves          mail from it may go to
local      127.0.0.0/8,[::1]        $myhostname, localhost     mailbox:                 *
campus     10.0.0.0/8, .example.edu -                          -                        *
partner    [2001:db8::]/32          example.net                smtp:[gw.example.net]    local, partner
smtp       *                        *                          smtp:                    local
";

fn config() -> Config {
    Config::with(&[("myhostname", "mx.example"), ("channels", "/x/channels")])
}

fn read(text: &str) -> Result<Channels, String> {
    parse::parse(text.as_bytes(), &config()).map_err(|error| error.to_string())
}

fn example() -> Channels {
    read(EXAMPLE).unwrap()
}

fn at(address: &str) -> Peer {
    let peer = Peer::new(Kind::Address(address.parse().unwrap()));
    let _ = peer.looked_up.set(Lookup::No);
    peer
}

fn name_of(found: Result<Lookup<&Channel>, Error>) -> String {
    match found.unwrap() {
        Lookup::Yes(channel) => channel.name.clone(),
        Lookup::No => "no".to_owned(),
        Lookup::CannotTell(why) => why,
    }
}

fn on(found: Result<Lookup<Incoming<'_>>, Error>) -> String {
    name_of(found.map(|found| found.map(|found| found.channel)))
}

#[test]
fn without_a_file_mail_from_outside_stays_here() {
    let channels =
        Channels::load(&Config::with(&[("channels", "/no/such/file"), ("myhostname", "mx.example")])).unwrap();
    assert_eq!(on(channels.incoming(&at("127.0.0.1"), &[], false)), "local");
    assert_eq!(on(channels.incoming(&at("192.0.2.1"), &[], true)), "smtp");
    let (local, smtp) = (channels.by_name("local").unwrap(), channels.by_name("smtp").unwrap());
    assert_eq!((&local.transport, &smtp.transport), (&Transport::Mailbox, &Transport::Smtp(None)));
    assert_eq!(name_of(Ok(channels.outgoing(b"MX.example"))), "local");
    assert_eq!(name_of(Ok(channels.outgoing(b"elsewhere.example"))), "smtp");
    assert!(channels.may_go("smtp", local) && !channels.may_go("smtp", smtp) && channels.may_go("local", smtp));
    assert_eq!(channels.open_relays().len(), 0);
}

#[test]
fn clients_are_on_the_first_channel_that_lists_them() {
    let channels = example();
    for (address, name) in [("127.0.0.1", "local"), ("10.9.9.9", "campus"), ("2001:db8::1", "partner"), ("::2", "smtp")]
    {
        assert_eq!(on(channels.incoming(&at(address), &[], true)), name);
    }
}

#[test]
fn clients_by_name_are_on_their_channel_and_unsure_ones_on_none() {
    let channels = example();
    let peer = Peer::new(Kind::Address("192.0.2.1".parse().unwrap()));
    peer.looked_up.set(Lookup::Yes("a.Example.EDU".to_owned())).unwrap();
    assert_eq!(on(channels.incoming(&peer, &[], false)), "campus");
    let peer = Peer::new(Kind::Address("192.0.2.1".parse().unwrap()));
    peer.looked_up.set(Lookup::CannotTell("time-out".to_owned())).unwrap();
    assert_eq!(on(channels.incoming(&peer, &[], false)), "time-out");
}

#[test]
fn operands_limit_the_search_and_the_last_one_takes_the_rest_unless_finicky() {
    let channels = example();
    let only = ["partner".to_owned(), "campus".to_owned()];
    assert_eq!(on(channels.incoming(&at("10.0.0.1"), &only, true)), "campus");
    assert_eq!(on(channels.incoming(&at("127.0.0.1"), &only, false)), "campus");
    assert_eq!(on(channels.incoming(&at("127.0.0.1"), &only, true)), "no");
    let error = channels.incoming(&at("127.0.0.1"), &["nope".to_owned()], false).unwrap_err();
    assert_eq!(error.to_string(), "command line: expected the name of a channel instead of nope");
    assert!(channels.incoming(&at("127.0.0.1"), &["authenticated".to_owned()], false).is_err());
}

#[test]
fn only_whom_its_line_matches_is_listed_on_a_channel() {
    let channels = example();
    let is_listed = |address: &str, only: &[&str]| {
        let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
        let found = channels.incoming(&at(address), &only, false).unwrap();
        found.map(|found| (found.channel.name.clone(), found.is_listed))
    };
    let on = |name: &str, is_listed| Lookup::Yes((name.to_owned(), is_listed));
    assert_eq!(is_listed("10.0.0.1", &["local", "campus"]), on("campus", true));
    assert_eq!(is_listed("192.0.2.1", &["local", "campus"]), on("campus", false));
    assert_eq!(is_listed("192.0.2.1", &["local", "smtp"]), on("smtp", true), "a * matches");
    assert_eq!(is_listed("192.0.2.1", &[]), on("smtp", true));
}

#[test]
fn who_is_nobody_is_only_where_the_word_stands() {
    let channels = example();
    for origin in [Kind::Stdin, Kind::Unknown] {
        assert_eq!(on(channels.incoming(&Peer::new(origin), &[], true)), "no");
        assert_eq!(on(channels.incoming(&Peer::new(origin), &[], false)), "smtp");
    }
    let channels = read("pipe stdin - - *\nsmtp * * smtp: -\n").unwrap();
    assert_eq!(on(channels.incoming(&Peer::new(Kind::Stdin), &[], true)), "pipe");
}

#[test]
fn mail_leaves_by_the_first_channel_with_its_domain() {
    let channels = example();
    for (domain, name) in [("localhost", "local"), ("EXAMPLE.net", "partner"), ("a.example.net", "smtp"), ("x", "smtp")]
    {
        assert_eq!(name_of(Ok(channels.outgoing(domain.as_bytes()))), name);
    }
    let channels = read("local * here.example mailbox: -\n").unwrap();
    assert_eq!(name_of(Ok(channels.outgoing(b"there.example"))), "no");
}

#[test]
fn the_last_column_is_the_relay_policy() {
    let channels = example();
    let (local, smtp) = (channels.by_name("local").unwrap(), channels.by_name("smtp").unwrap());
    let partner = channels.by_name("partner").unwrap();
    assert!(channels.may_go("campus", smtp) && channels.may_go("partner", partner));
    assert!(!channels.may_go("partner", smtp) && !channels.may_go("smtp", partner) && channels.may_go("smtp", local));
    assert!(!channels.may_go("gone", local));
}

#[test]
fn who_has_logged_in_may_send_anywhere_unless_a_line_says_otherwise() {
    let channels = example();
    assert!(channels.may_go("authenticated", channels.by_name("smtp").unwrap()));
    // Nobody else comes in on it, whoever stands there.
    let channels = read("local - here.example mailbox: -\nsmtp * * smtp: -\nauthenticated * - - local\n").unwrap();
    assert!(!channels.may_go("authenticated", channels.by_name("smtp").unwrap()));
    assert!(channels.may_go("authenticated", channels.by_name("local").unwrap()));
    // Though it is the last line, nobody falls on it.
    assert_eq!(on(channels.incoming(&Peer::new(Kind::Stdin), &[], false)), "smtp");
}

#[test]
fn values_of_main_cf_may_be_lists_with_blanks() {
    let config = Config::with(&[("nets", "10.0.0.0/8 192.0.2.0/24"), ("channels", "/x/channels")]);
    let text = b"a $nets,[::1] - - -\nb ${nets?{127.0.0.1, 127.0.0.2}:{*}} - - *\n";
    let channels = parse::parse(text, &config).unwrap();
    assert_eq!(channels.0[0].clients.0.len(), 3);
    assert_eq!(channels.0[1].clients.0.len(), 2);
}

#[test]
fn an_open_relay_is_found_by_its_effect() {
    for (text, from, to) in [
        ("local - here.example mailbox: -\nsmtp * * smtp: *\n", "smtp", "smtp"),
        ("all 0.0.0.0/0 - - out\nout - * smtp: -\n", "all", "out"),
        // Who comes by IPv6, and half of the others, gets past a net however wide.
        ("a 0.0.0.0/0 here.example mailbox: a\nb [::]/0 * smtp: *\n", "b", "b"),
        ("a 0.0.0.0/1 here.example mailbox: a\nb * * smtp: *\n", "b", "b"),
        ("a !0.0.0.0/0,* * smtp: *\nb * here.example mailbox: b\n", "a", "a"),
        ("a * here.example mailbox: *\nout - !here.example,* lmtp:[gw.example]:24 -\n", "a", "out"),
        ("a * here.example mailbox: *\nout - 0.0.0.0/0 qmqp:gw.example -\n", "a", "out"),
    ] {
        let channels = read(text).unwrap();
        let found: Vec<_> =
            channels.open_relays().iter().map(|(from, to)| (from.name.clone(), to.name.clone())).collect();
        assert_eq!(found, [(from.to_owned(), to.to_owned())], "{text}");
    }
    for clients in ["0.0.0.0/0,[::]/0", "!10.0.0.0/8,*"] {
        let closed = format!("a {clients} here.example mailbox: a\nb 10.0.0.0/8 * smtp: *\n");
        assert_eq!(read(&closed).unwrap().open_relays().len(), 0, "{clients}");
    }
    // A backup host, a server that has the mailboxes, and what ends on this machine.
    for (domains, transport) in [
        ("example.net,.example.net", "smtp:[primary.example.net]"),
        ("example.net", "lmtp:[192.0.2.1]:24"),
        ("192.0.2.1", "smtp:[192.0.2.1]"),
        ("*", "lmtp:unix:/run/dovecot/lmtp"),
        ("*", "pipe:/bin/cat"),
        ("*", "discard:"),
    ] {
        let text = format!("to - {domains} {transport} -\nsmtp * - - to\nout - * smtp: *\n");
        assert_eq!(read(&text).unwrap().open_relays().len(), 0, "{text}");
    }
    // Who is on the last line without being listed there goes no further than this machine.
    for text in ["out 10.0.0.0/8 * smtp:[gw.example] *\n", "a 0.0.0.0/1 here.example mailbox: a\nb - * smtp: *\n"] {
        assert_eq!(read(text).unwrap().open_relays().len(), 0, "{text}");
    }
    for text in [EXAMPLE, "a * here.example mailbox: *\nsmtp - * smtp: *\n"] {
        let channels = read(text).unwrap();
        let found: Vec<_> = channels.open_relays().iter().map(|(from, _)| from.name.clone()).collect();
        assert_eq!(found.is_empty(), text == EXAMPLE, "{found:?}");
    }
}

#[test]
fn transports_are_read_or_refused() {
    for (text, transport) in [
        ("mailbox:", Transport::Mailbox),
        ("smtp:", Transport::Smtp(None)),
        ("smtp:[gw.example]:2525", Transport::Smtp(Some("[gw.example]:2525".to_owned()))),
        ("smtp:[2001:db8::1]", Transport::Smtp(Some("[2001:db8::1]".to_owned()))),
        ("smtp:gw.example", Transport::Smtp(Some("gw.example".to_owned()))),
        ("\"pipe:/bin/x -a %r\"", Transport::Other("pipe".to_owned(), "/bin/x -a %r".to_owned())),
        ("\"error:5.7.1 not here\"", Transport::Other("error".to_owned(), "5.7.1 not here".to_owned())),
        ("maildir:/var/mail/all", Transport::Other("maildir".to_owned(), "/var/mail/all".to_owned())),
        ("discard:", Transport::Other("discard".to_owned(), String::new())),
        ("lmtp:127.0.0.1:24", Transport::Other("lmtp".to_owned(), "127.0.0.1:24".to_owned())),
        ("lmtp:unix:/run/lmtp", Transport::Other("lmtp".to_owned(), "unix:/run/lmtp".to_owned())),
    ] {
        assert_eq!(read(&format!("a * x.example {text} -")).unwrap().0[0].transport, transport);
    }
    for text in [
        "mailbox",
        "mailbox:x",
        "lmtp:",
        "lmtp:unix:x",
        "pipe:x",
        "maildir:x",
        "qmtp:",
        "\"pipe:/x",
        "smpt:",
        "smtp:[a",
        "smtp:a:b:c",
        "smtp:[a]:0",
        "smtp:[a]:70000",
        "smtp:[]",
        "-",
    ] {
        assert!(read(&format!("a * x.example {text} -")).is_err(), "{text}");
    }
}

#[test]
fn wrong_lines_tell_file_line_and_expectation() {
    for (text, told) in [
        ("# nothing\n", "/x/channels: expected at least one channel"),
        (
            "\na * * smtp:\n",
            "/x/channels:2: expected five columns: channel, clients, domains, how mail leaves, where its \
          mail may go; there are 4",
        ),
        (
            "a * * smtp: - extra\n",
            "there are 6, \"a\" \"*\" \"*\" \"smtp:\" \"-\" \"extra\" (a list is joined by commas",
        ),
        ("a b, - smtp: -\n", "there are 4, \"a\" \"b, -\" \"smtp:\" \"-\" (an empty one is written as -, and behind"),
        ("a * * \"smtp: -\n", "/x/channels:1: expected a second double quote, at the end of the column"),
        ("a * * smtp -\n", "/x/channels:1: expected smtp: instead of \"smtp\""),
        (
            "a * * lmtp: -\n",
            "/x/channels:1: expected one host, host:port, [host] or [host]:port behind lmtp: instead of \"\"",
        ),
        ("a * * smtp:::1 -\n", "behind smtp:, and IPv6 in brackets, instead of \"::1\""),
        ("a * * smtp: *,a\n", "/x/channels:1: expected * alone in the last column, or names of channels: there are a"),
        ("a * * smtp: A\n", "in the last column instead of A: there are a"),
        (
            "a -,10.0.0.1 - - -\n",
            "/x/channels:1: expected in the column of clients: - alone in its column, and not in a list,",
        ),
        ("authenticated 10.0.0.0/8 - - *\n", "/x/channels:1: expected - in the column of clients of this channel"),
        ("authenticated - - - *\n", "/x/channels: expected at least one channel besides authenticated"),
        ("a b.example , c.example - - -\n", "/x/channels:1: expected blanks behind a comma, not before it"),
        ("a * * smtp: b,\n", "/x/channels:1: expected something behind the last comma"),
        ("a - - - -\nb - - - c\n", "/x/channels:2: expected the name of a channel in the last column instead of c"),
        ("a - - - -\n\na - - - -\n", "/x/channels:3: expected another name than a, which is that of /x/channels:1"),
        ("* - - - -\n", "/x/channels:1: expected a channel name of letters"),
        ("a 10.0.0.1/8 - - -\n", "/x/channels:1: expected in the column of clients: 10.0.0.0/8 instead of"),
        ("a - ::1 mailbox: -\n", "/x/channels:1: expected in the column of domains: [::1] instead of"),
        ("a - stdin mailbox: -\n", "/x/channels:1: expected in the column of domains: domains; stdin, unknown"),
        ("a /no/file - - -\n", "/x/channels:1: expected in the column of clients: a file /no/file, and there is none"),
        ("a $nets - - -\n", "/x/channels:1: expected a name that main.cf sets instead of $nets"),
        ("a - b.example foo: -\n", "/x/channels:1: expected mailbox:, maildir:"),
        ("a - b.example - -\n", "/x/channels:1: expected a way for mail to leave"),
        (" a - - - -\n", "/x/channels:1: expected no blank at the beginning"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(told), "{text:?}: {error}");
    }
    assert!(parse::parse(b"a - \xff - -", &config()).unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn a_line_that_begins_with_blanks_continues_the_one_before() {
    let channels = read("a 10.0.0.0/8,\n  # between\n  192.0.2.1 - -\n  *\n").unwrap();
    assert_eq!((channels.0.len(), channels.0[0].clients.0.len()), (1, 2));
}

proptest! {
    #[test]
    fn any_octets_parse_or_are_an_error(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse::parse(&octets, &config());
    }

    #[test]
    fn any_columns_parse_or_are_an_error(text in "([a*$!{}(),.:\\[\\]1 -]{0,8} ){0,7}") {
        let _ = parse::parse(text.as_bytes(), &config());
    }
}
