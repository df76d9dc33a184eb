//! Who matches which pattern.

use super::*;
use crate::config::value::Value;
use ipnet::Ipv4Net;
use proptest::prelude::*;
use std::net::Ipv4Addr;

fn list(text: &str) -> PatternList {
    PatternList::parse(text).unwrap()
}

fn at(address: &str) -> Peer {
    Peer::new(Origin::Address(address.parse().unwrap()))
}

/// A peer whose look-up has already happened.
fn called(address: &str, name: Lookup<String>) -> Peer {
    let peer = at(address);
    peer.looked_up.set(name).unwrap();
    peer
}

fn is_in(text: &str, address: &str) -> bool {
    list(text).matches_peer(&at(address)) == Lookup::Yes(())
}

#[test]
fn an_empty_list_matches_nobody() {
    assert!(!is_in("", "127.0.0.1"));
}

#[test]
fn addresses_and_nets_match_what_is_in_them() {
    assert!(is_in("192.0.2.1", "192.0.2.1"));
    assert!(!is_in("192.0.2.1", "192.0.2.2"));
    assert!(is_in("192.0.2.0/31, 10.0.0.0/8", "10.255.0.1"));
    assert!(!is_in("10.0.0.0/8", "11.0.0.1"));
    assert!(is_in("[2001:db8::]/32", "2001:db8:1::1"));
    assert!(is_in("[::1]", "::1"));
    assert!(!is_in("[::]/0", "192.0.2.1"));
    assert!(is_in("0.0.0.0/0", "192.0.2.1"));
    assert!(is_in("[::ffff:192.0.2.0]/120", "192.0.2.7"));
    assert!(is_in("[192.0.2.1]", "192.0.2.1") && !is_in("[192.0.2.1]", "192.0.2.2"));
    assert!(is_in("[192.0.2.0]/24", "192.0.2.7"));
}

#[test]
fn the_first_match_decides() {
    assert!(!is_in("!10.1.0.0/16 10.0.0.0/8", "10.1.2.3"));
    assert!(is_in("!10.1.0.0/16 10.0.0.0/8", "10.2.2.3"));
    assert!(is_in("10.0.0.0/8 !10.1.0.0/16", "10.1.2.3"));
    assert!(is_in("!!10.0.0.0/8", "10.1.2.3"));
    assert!(!list("!a.example, .example").matches_domain(b"A.example"));
}

#[test]
fn stdin_and_unknown_match_their_words_only() {
    for (origin, word, other) in [(Origin::Stdin, "stdin", "unknown"), (Origin::Unknown, "unknown", "stdin")] {
        let peer = Peer::new(origin);
        assert_eq!(list("*, 0.0.0.0/0, [::]/0, .example").matches_peer(&peer), Lookup::No);
        assert_eq!(list(other).matches_peer(&peer), Lookup::No);
        assert_eq!(list(word).matches_peer(&peer), Lookup::Yes(()));
    }
    assert_eq!(list("stdin unknown").matches_peer(&at("127.0.0.1")), Lookup::No);
    assert!(!list("stdin unknown").matches_domain(b"stdin"));
}

#[test]
fn a_name_that_cannot_be_told_is_not_no_where_it_is_reached() {
    let peer = called("192.0.2.1", Lookup::CannotTell("time-out".to_owned()));
    assert_eq!(list("!.example *").matches_peer(&peer), Lookup::CannotTell("time-out".to_owned()));
    assert_eq!(list("192.0.2.1 .example").matches_peer(&peer), Lookup::Yes(()));
}

#[test]
fn what_cannot_be_told_does_not_matter_where_the_next_match_says_the_same() {
    let peer = called("10.1.2.3", Lookup::CannotTell("time-out".to_owned()));
    let cannot_tell = || Lookup::CannotTell("time-out".to_owned());
    for (text, expected) in [
        ("example.com, 10.0.0.0/8", Lookup::Yes(())),
        (".example a.example !192.0.2.1 10.0.0.0/8", Lookup::Yes(())),
        ("example.com *", Lookup::Yes(())),
        ("!.example !10.0.0.0/8 *", Lookup::No),
        ("!.example 10.0.0.0/8", cannot_tell()),
        (".example !10.0.0.0/8 *", cannot_tell()),
        ("!.example a.example 10.0.0.0/8", cannot_tell()),
        ("a.example !.example 10.0.0.0/8", cannot_tell()),
        ("a.example !.example !10.0.0.0/8 *", cannot_tell()),
        ("example.com, 192.0.2.1", cannot_tell()),
        ("example.com, hash:/no/such/table", cannot_tell()),
    ] {
        assert_eq!(list(text).matches_peer(&peer), expected, "{text}");
    }
    assert_eq!(list("hash:/no/such/table 10.0.0.0/8").matches_peer(&peer), Lookup::Yes(()));
}

/// Whatever the name turned out to be: what the list says without it must be what it says with it.
#[test]
fn the_answer_is_certain_where_no_name_could_change_it() {
    let words = ["a.example", "!b.example", "10.0.0.0/8", "!10.0.0.0/8", "192.0.2.1"];
    let unclear = called("10.1.2.3", Lookup::CannotTell("time-out".to_owned()));
    for number in 0..words.len().pow(4) {
        let chosen: Vec<&str> = (0..4).map(|at| words[number / words.len().pow(at) % words.len()]).collect();
        let list = list(&chosen.join(" "));
        let could = ["a.example", "b.example", "c.example"]
            .map(|name| list.matches_peer(&called("10.1.2.3", Lookup::Yes(name.to_owned()))));
        match list.matches_peer(&unclear) {
            Lookup::CannotTell(_) => assert!(could.iter().any(|answer| *answer != could[0]), "{chosen:?}"),
            certain => assert!(could.iter().all(|answer| *answer == certain), "{chosen:?}"),
        }
    }
}

#[test]
fn no_name_is_looked_up_before_a_pattern_of_names_is_reached() {
    let peer = at("192.0.2.1");
    assert_eq!(list("192.0.2.0/24, .example").matches_peer(&peer), Lookup::Yes(()));
    assert_eq!(peer.looked_up.get(), None);
}

#[test]
fn a_peer_with_a_believed_name_only_is_matched_by_it_and_by_all() {
    let mut peer = Peer::new(Origin::Named);
    peer.claimed_name = Some("client.example".to_owned());
    peer.looked_up.set(Lookup::Yes("client.example".to_owned())).unwrap();
    assert_eq!(list(".example").matches_peer(&peer), Lookup::Yes(()));
    assert_eq!(list("*").matches_peer(&peer), Lookup::Yes(()));
    assert_eq!(list("stdin unknown 0.0.0.0/0").matches_peer(&peer), Lookup::No);
}

#[test]
fn loopback_is_localhost_without_a_question() {
    let peer = at("127.0.0.9");
    assert_eq!(list("localhost").matches_peer(&peer), Lookup::Yes(()));
    assert_eq!(list(".example").matches_peer(&peer), Lookup::No);
    assert_eq!(peer.looked_up.get(), None);
}

#[test]
fn tables_answer_by_address_then_by_name_and_cannot_tell_is_no_no() {
    let folder = tempfile::tempdir().unwrap();
    let table = format!("hash:{}/clients", folder.path().display());
    let missing = list(&table).matches_peer(&at("192.0.2.1"));
    assert!(matches!(missing, Lookup::CannotTell(_)));
    assert!(matches!(list(&format!("!{table} *")).matches_peer(&at("192.0.2.1")), Lookup::CannotTell(_)));
    std::fs::write(folder.path().join("clients"), "192.0.2.1 ok\nexample.edu ok\n").unwrap();
    let by_address = at("192.0.2.1");
    assert_eq!(list(&table).matches_peer(&by_address), Lookup::Yes(()));
    assert_eq!(by_address.looked_up.get(), None);
    assert_eq!(list(&format!("!{table} *")).matches_peer(&by_address), Lookup::No);
    let by_name = called("192.0.2.2", Lookup::Yes("mail.Example.edu".to_owned()));
    assert_eq!(list(&table).matches_peer(&by_name), Lookup::No);
    let mut wide = list(&table);
    wide.with_subdomains();
    assert_eq!(wide.matches_peer(&by_name), Lookup::Yes(()));
    let unclear = called("192.0.2.2", Lookup::CannotTell("time-out".to_owned()));
    assert_eq!(wide.matches_peer(&unclear), Lookup::CannotTell("time-out".to_owned()));
    assert_eq!(list("static:all").matches_peer(&at("192.0.2.9")), Lookup::Yes(()));
    assert_eq!(list("static:all").matches_peer(&Peer::new(Origin::Stdin)), Lookup::No);
    assert!(list("static:all").is_open() && !list(&table).is_open());
}

#[test]
fn files_hold_one_pattern_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clients");
    std::fs::write(&path, "# ours\n\n10.0.0.0/8\n  !192.0.2.1\n192.0.2.0/24\n").unwrap();
    let text = format!("{}, [::1]", path.display());
    assert!(is_in(&text, "10.0.0.1") && is_in(&text, "192.0.2.2") && is_in(&text, "::1"));
    assert!(!is_in(&text, "192.0.2.1"));
    assert!(!is_in(&format!("!{} *", path.display()), "10.0.0.1"));
    assert!(is_in(&format!("!{} *", path.display()), "11.0.0.1"));

    std::fs::write(&path, "10.0.0.0/8\n\n10.0.0.1/8\n").unwrap();
    let error = PatternList::parse(&text).unwrap_err();
    assert!(error.ends_with(&format!("(line 3 of {})", path.display())), "{error}");
    std::fs::write(&path, format!("{}\n", path.display())).unwrap();
    assert!(PatternList::parse(&text).unwrap_err().contains("at most 10 files that name each other"));
    assert!(PatternList::parse("/no/such/file").unwrap_err().contains("/no/such/file, and there is none"));
}

#[test]
fn files_have_main_cfs_lines_and_may_name_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("inner"), "!192.0.2.7\n192.0.2.0/24\n").unwrap();
    std::fs::write(path("outer"), format!("10.0.0.0/8, 172.16.0.0/12\n#\n  [::1]\n!{}\n", path("inner"))).unwrap();
    for (address, plain) in [("10.0.0.1", true), ("172.16.0.1", true), ("::1", true), ("192.0.2.1", false)] {
        assert_eq!(is_in(&path("outer"), address), plain, "{address}");
        assert_eq!(is_in(&format!("!{}", path("outer")), address), !plain, "{address}");
    }
    assert!(is_in(&path("outer"), "192.0.2.7"));
    std::fs::write(path("outer"), " 10.0.0.0/8\n").unwrap();
    assert!(PatternList::parse(&path("outer")).unwrap_err().contains("no blank at the beginning"));
}

#[test]
fn a_name_means_the_names_below_it_where_that_is_wanted() {
    for (name, below) in [("example.edu", true), ("Mail.Example.EDU", true), ("anexample.edu", false), ("edu", false)] {
        let peer = called("192.0.2.1", Lookup::Yes(name.to_owned()));
        let mut wide = list("example.edu");
        wide.with_subdomains();
        assert_eq!(wide.matches_peer(&peer) == Lookup::Yes(()), below, "{name}");
        assert_eq!(wide.matches_domain(name.as_bytes()), below, "{name}");
    }
}

#[test]
fn names_match_without_regard_to_case_and_domains_only_below() {
    let peer = called("192.0.2.1", Lookup::Yes("Mail.Example.EDU".to_owned()));
    for (text, expected) in [
        ("mail.example.edu", true),
        (".example.edu", true),
        ("MAIL.EXAMPLE.edu", true),
        (".edu", true),
        ("example.edu", false),
        (".mail.example.edu", false),
        ("ail.example.edu", false),
    ] {
        assert_eq!(list(text).matches_peer(&peer) == Lookup::Yes(()), expected, "{text}");
        assert_eq!(list(text).matches_domain(b"mAil.example.eDu"), expected, "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_parses_or_is_an_error(text in "[0-9a-f.:!*\\[\\]/, -]{0,30}|[^/]{0,40}") {
        if let Ok(list) = PatternList::parse(&text) {
            let _ = list.matches_peer(&called("192.0.2.1", Lookup::No));
        }
    }

    #[test]
    fn every_address_is_in_its_own_net(octets in any::<u32>(), length in 0..=32_u8) {
        let net = Ipv4Net::new(Ipv4Addr::from(octets), length).unwrap().trunc();
        prop_assert!(is_in(&net.to_string(), &Ipv4Addr::from(octets).to_string()));
    }
}
