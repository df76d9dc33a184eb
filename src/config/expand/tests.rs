//! Expansion, checked against what `postconf -x` prints for the same text, except where a comment says otherwise.

use super::*;
use proptest::prelude::*;

/// Names for tests; the origin of each is its place in the list, as a line.
struct Known(Vec<(&'static str, String)>);

impl Names for Known {
    fn look_up(&mut self, name: &str) -> Option<(String, Origin)> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        Some((self.0[at].1.clone(), Origin::File(std::path::Path::new("main.cf").into(), at + 1)))
    }
}

fn known() -> Known {
    let text = [
        ("a", "1"),
        ("b", "$a-$a"),
        ("empty", ""),
        ("c", "<$b>"),
        ("self", "$other"),
        ("other", "x${self}"),
        ("indirect", "$empty"),
    ];
    Known(text.iter().map(|(name, raw)| (*name, (*raw).to_owned())).collect())
}

fn expanded(text: &str) -> Result<String, String> {
    expand(text, &Origin::Option, &mut known()).map_err(|error| error.to_string())
}

#[test]
fn all_ways_to_write_a_name_mean_the_same() {
    assert_eq!(expanded("$a ${a} $(a) $a."), Ok("1 1 1 1.".to_owned()));
}

#[test]
fn values_are_expanded_when_they_are_used() {
    assert_eq!(expanded("$c"), Ok("<1-1>".to_owned()));
}

#[test]
fn two_dollars_are_one_and_are_not_looked_at_again() {
    assert_eq!(expanded("$$a $$$a"), Ok("$a $1".to_owned()));
}

#[test]
fn a_name_that_is_set_nowhere_is_empty() {
    assert_eq!(expanded("<$nothing>"), Ok("<>".to_owned()));
}

#[test]
fn alternatives_depend_on_the_value_being_empty() {
    assert_eq!(expanded("${a?yes}${empty?no}"), Ok("yes".to_owned()));
    assert_eq!(expanded("${a:no}${empty:yes}"), Ok("yes".to_owned()));
    assert_eq!(expanded("${a?{$b}:{no}}${empty?{no}:{$c}}"), Ok("1-1<1-1>".to_owned()));
    assert_eq!(expanded("${a ? { yes } : { no }}"), Ok(" yes ".to_owned()));
    assert_eq!(expanded("${a?  x }|${a?}|${a?x:y}|$(a?z)"), Ok("  x ||x:y|z".to_owned()));
    assert_eq!(expanded("${indirect?yes}"), Ok("yes".to_owned()));
    assert_eq!(expanded("${a?${empty:deep}}"), Ok("deep".to_owned()));
    assert_eq!(expanded("${empty:{no name}}"), Ok("no name".to_owned()));
}

#[test]
fn the_second_of_two_texts_needs_no_braces() {
    assert_eq!(expanded("${empty?{10}:300}s ${a?{10}:300}s"), Ok("300s 10s".to_owned()));
    assert_eq!(expanded("<${empty?{x} : b c }> <${empty?{x}:}> <${empty?{x}:  }>"), Ok("< b c > <> <  >".to_owned()));
    assert_eq!(expanded("${empty?{x}:$b:{c}} ${empty?{x}:b{c}} ${a?{x}:$self}"), Ok("1-1:{c} b{c} x".to_owned()));
    assert_eq!(expanded("${{a}=={b}?{x}:y}${{a}=={a}?{x}:y}"), Ok("yx".to_owned()));
}

#[test]
fn values_can_be_compared() {
    assert_eq!(expanded("${{10} < {9} ? {a} : {b}}"), Ok("b".to_owned()));
    assert_eq!(expanded("${{a10} < {a9}?{a}:{b}}"), Ok("a".to_owned()));
    assert_eq!(expanded("${{$a} != {2}?{<$a>}}"), Ok("<1>".to_owned()));
    assert_eq!(expanded("${{$empty}=={}?{eq}:{ne}}${{2}>={2}?y}${{3}<={2}?n}${{3}>{2}:n}"), Ok("eqy".to_owned()));
    assert_eq!(expanded("${{a b}=={a b}?t:{f}}"), Ok("t:{f}".to_owned()));
    assert!(expanded("${{a}=={b}}").is_err());
    assert!(expanded("${{a}=={b?c}").is_err());
    assert!(expanded("${{a}=!{b}?c}").is_err());
}

#[test]
fn what_is_not_chosen_may_be_anything() {
    assert_eq!(expanded("${a:$self}"), Ok(String::new()));
}

#[test]
fn a_value_that_refers_to_itself_is_an_error_that_shows_how() {
    let error = expanded("$self").unwrap_err();
    assert_eq!(error, "main.cf:6: expected a value that does not refer to itself: self -> other -> self");
}

#[test]
fn wrong_dollars_are_errors_where_they_stand() {
    assert!(expanded("5$").unwrap_err().starts_with("option -o: expected a name behind $ in \"5$\""));
    assert!(expanded("$-").is_err());
    assert!(expanded("${a").unwrap_err().contains("closing bracket"));
    assert!(expanded("$(a").is_err());
    assert!(expanded("${}").is_err());
    assert!(expanded("${a!b}").is_err());
    assert!(expanded("${a?{x}y}").is_err());
    assert!(expanded("${a?{x}:{y}z}").is_err());
    assert!(expanded("${a:{x}:{y}}").is_err());
}

#[test]
fn values_that_double_at_each_step_end() {
    let names = ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "b0", "b1", "b2", "b3", "b4", "b5"];
    for last in ["", "0123456789"] {
        let mut chain = vec![("last", last.to_owned())];
        for (at, name) in names.iter().enumerate() {
            let next = names.get(at + 1).unwrap_or(&"last");
            chain.push((name, format!("${next}${next}${next}")));
        }
        assert!(expand("$a0", &Origin::Option, &mut Known(chain)).is_err());
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |levels: usize| format!("{}x{}", "${a?{".repeat(levels), "}}".repeat(levels));
    assert_eq!(expanded(&nested(DEEPEST - 1)), Ok("x".to_owned()));
    assert!(expanded(&nested(DEEPEST)).unwrap_err().contains("levels"));
    assert!(expanded(&nested(100_000)).is_err());
    assert!(expanded(&"${".repeat(100_000)).is_err());
}

proptest! {
    #[test]
    fn any_text_expands_or_is_an_error(text in "[$(){}?:a-c =<]{0,40}|.{0,60}") {
        let _ = expanded(&text);
    }

    #[test]
    fn text_without_a_dollar_stays(text in "[^$]{0,60}") {
        prop_assert_eq!(expanded(&text), Ok(text.clone()));
    }

    #[test]
    fn doubling_every_dollar_protects_a_text(text in ".{0,60}") {
        prop_assert_eq!(expanded(&text.replace('$', "$$")), Ok(text.clone()));
    }
}
