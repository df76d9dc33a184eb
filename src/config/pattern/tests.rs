//! What lists mean whoever asks, and what is told about patterns that are none. Which clients: `net::listed`.

use super::*;
use proptest::prelude::*;

fn list(text: &str) -> PatternList {
    PatternList::parse(text).unwrap()
}

#[test]
fn words_are_read_in_any_case() {
    assert_eq!(list("STDIN, !Unknown"), list("stdin, !unknown"));
}

#[test]
fn an_empty_list_means_no_domain() {
    assert!(!list("").matches_domain(b"example.net"));
}

#[test]
fn address_literals_are_domains_that_nets_match() {
    assert!(list("127.0.0.0/8").matches_domain(b"[127.0.0.1]"));
    assert!(list("[::1]").matches_domain(b"[IPv6:::1]"));
    assert!(!list("[::1]").matches_domain(b"[::1]"));
    assert!(!list("127.0.0.0/8").matches_domain(b"127.0.0.1"));
    assert!(list("*").matches_domain(b"[whatever]"));
}

/// The last has no pattern that would count.
#[test]
fn files_that_name_each_other_again_and_again_come_to_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = |number: usize| folder.path().join(number.to_string());
    for number in 0..5 {
        std::fs::write(path(number), format!("{}\n", path(number + 1).display()).repeat(10)).unwrap();
    }
    std::fs::write(path(5), "# nobody\n").unwrap();
    let error = PatternList::parse(&path(0).display().to_string()).unwrap_err();
    assert!(error.starts_with("no more than 100000 patterns and files of them"), "{error}");
    assert_eq!(list(&path(1).display().to_string()), PatternList::default());
}

#[test]
fn what_is_no_pattern_is_told_with_what_was_meant() {
    for (text, told) in [
        ("10.1.2.3/8", "10.0.0.0/8 instead of \"10.1.2.3/8\": there are host bits"),
        ("[2001:db8::1]/32", "[2001:db8::]/32 instead of"),
        ("::1", "[::1] instead of \"::1\": an IPv6 address stands in brackets"),
        ("2001:db8::/32", "[2001:db8::]/32 instead of"),
        ("10.0.0.0/33", "no more than /32"),
        ("10.0.0.0/", "no more than /32"),
        ("10.0.0.0/+8", "a name, .domain"),
        ("10.0.0", "an IPv4 address of four numbers"),
        ("010.0.0.1", "an IPv4 address of four numbers"),
        ("[::1]/129", "no more than /128"),
        ("[::1", "[IPv6 address]"),
        ("[::1]x", "[IPv6 address]"),
        ("[127.0.0.1]x", "[IPv6 address]"),
        ("[127.0.0.1]/8", "127.0.0.0/8 instead of"),
        ("[127.0.0.0]/33", "no more than /32"),
        ("!", "a pattern behind !"),
        ("a..b", "a name, .domain"),
        (".", "a name, .domain"),
        ("hash:clients", "an absolute path behind hash:"),
        ("ldap:/etc/clients", "a table of type cidr, hash, texthash or static instead of ldap"),
        ("*.example", ".example instead of"),
        ("*.*.example", "a name, .domain"),
        ("a.example.", "a.example without a dot at its end instead of"),
        ("10.*", "a name, .domain"),
        ("a,-", "- alone in its column"),
        ("10.0.0.1-10.0.0.9", "an IPv4 address of four numbers"),
        ("exämple..net", "a name, .domain"),
        ("xn--ä.example", "a name, .domain"),
    ] {
        let error = PatternList::parse(text).unwrap_err();
        assert!(error.contains(told), "{text}: {error}");
    }
}

#[test]
fn only_lists_that_mean_the_world_are_open() {
    for text in [
        "*",
        "10.0.0.0/8 *",
        "0.0.0.0/1",
        "[2000::]/3",
        "!192.0.2.1 *",
        // IPv6 is left, or half of IPv4.
        "!0.0.0.0/0 *",
        "![2000::]/3 0.0.0.0/0",
        "!0.0.0.0/1 0.0.0.0/0",
        "!0.0.0.0/7 static:all",
    ] {
        assert!(list(text).is_open(), "{text}");
    }
    for text in [
        "",
        "10.0.0.0/8 .example stdin",
        "!* 192.0.2.1",
        "!* *",
        "!0.0.0.0/0 0.0.0.0/1",
        "!0.0.0.0/0 ![::]/0 *",
        "[2001:db8::]/32",
    ] {
        assert!(!list(text).is_open(), "{text}");
    }
}

#[test]
fn only_lists_with_everybody_in_them_leave_nobody() {
    for text in ["*", "192.0.2.1 static:all !192.0.2.2", "0.0.0.0/0 [::]/0", "0.0.0.0/0, *", "!192.0.2.1 *"] {
        assert!(list(text).takes_all(), "{text}");
    }
    for text in ["", "0.0.0.0/0", "[::]/0", "0.0.0.0/1 128.0.0.0/1 [2000::]/3", "!0.0.0.0/1 *", "stdin unknown"] {
        assert!(!list(text).takes_all(), "{text}");
    }
}

proptest! {
    #[test]
    fn any_octets_are_a_domain_or_not(domain in proptest::collection::vec(any::<u8>(), 0..40)) {
        let _ = list(".example, a.example, 10.0.0.0/8").matches_domain(&domain);
        let _ = list("[::1]").matches_domain(&[b"[IPv6:", &domain[..], b"]"].concat());
        prop_assert!(list("*").matches_domain(&domain));
    }
}

#[test]
fn a_domain_beyond_ascii_is_meant_in_either_form() {
    for written in ["Exämple.net", "xn--exmple-cua.net"] {
        let list = PatternList::parse(written).unwrap();
        for domain in ["exämple.net", "EXÄMPLE.net", "xn--exmple-cua.net", "XN--Exmple-cua.NET"] {
            assert!(list.matches_domain(domain.as_bytes()), "{written} {domain}");
        }
        assert!(!list.matches_domain("exampel.net".as_bytes()) && !list.matches_domain(b"\xff.net"));
    }
    let below = PatternList::parse(".exämple.net").unwrap();
    assert!(below.matches_domain("mx.exämple.net".as_bytes()) && !below.matches_domain("exämple.net".as_bytes()));
    assert!(PatternList::parse("*").unwrap().matches_domain(b"\xff.net"));
}
