//! Reading main.cf: logical lines, comments, continuation, exactly as Postfix reads them.
//!
//! A line that begins with a blank continues the logical line before it; the line end goes, the blanks stay. Empty
//! lines and lines whose first other octet is `#` are skipped, also inside a logical line; a `#` later in a line is
//! data. There is no quoting and no escape. What the values mean is left to `expand.rs` and `value.rs`.

use super::{Error, Origin, shown};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// `name = value`, as it stands in a file or behind `-o`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// What stands before the `=`.
    pub name: String,
    /// What stands behind it, without blanks at either end, before expansion.
    pub raw: String,
    /// Where.
    pub origin: Origin,
}

/// A file's definitions in their order, and what was odd about it.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Every definition; of several with one name the last holds.
    pub definitions: Vec<Definition>,
    /// For the log.
    pub warnings: Vec<Error>,
}

/// Splits the text of a main.cf. `path` is for messages only.
pub fn parse(octets: &[u8], path: &Path) -> Result<Parsed, Error> {
    parse_without(octets, path, &[])
}

/// The same, where lines at these places need be none: what is set there counts, if anything is.
pub(crate) fn parse_without(octets: &[u8], path: &Path, without: &[Origin]) -> Result<Parsed, Error> {
    let path: Arc<Path> = path.into();
    let wrong = |number, problem: &str| Error::at(Arc::clone(&path), number, problem);
    let mut parsed = Parsed::default();
    let lines = logical_lines(octets, &path, &mut parsed.warnings);
    let is_left_out = |number| !without.is_empty() && without.contains(&Origin::File(Arc::clone(&path), number));
    // One more: the folder of the file becomes a definition too.
    parsed.definitions.reserve_exact(lines.len().saturating_add(1));
    // By name, and of those the last one, where among all: a file may have tens of thousands.
    let mut last: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (number, logical) in &lines {
        let number = *number;
        let read = std::str::from_utf8(logical).map_err(|_| wrong(number, "expected text in UTF-8"));
        let read = read.and_then(|text| match name_and_value(text) {
            Ok((name, raw)) => Ok((text, name, raw)),
            Err(expected) => Err(wrong(number, &expected)),
        });
        let (text, name, raw) = match read {
            Ok(read) => read,
            Err(_) if is_left_out(number) => continue,
            Err(error) => return Err(error),
        };
        if text.contains('\0') {
            parsed.warnings.push(wrong(number, "there is a NUL in this line"));
        }
        if let Some((_, earlier)) = last.insert(name, (parsed.definitions.len(), number)) {
            let earlier = Origin::File(Arc::clone(&path), earlier);
            parsed.warnings.push(wrong(number, &format!("{name} is set again; {earlier} does not count")));
        }
        let origin = Origin::File(Arc::clone(&path), number);
        parsed.definitions.push(Definition { name: name.to_owned(), raw: raw.to_owned(), origin });
    }
    let mut at = 0_usize..;
    parsed.definitions.retain(|definition| last.get(definition.name.as_str()).map(|(last, _)| *last) == at.next());
    Ok(parsed)
}

/// Takes `name=value` or `{ name = value }` from behind `-o`; the error says what was expected.
pub fn parse_option(text: &str) -> Result<Definition, String> {
    let text = text.trim();
    let text = text.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(text);
    if text.contains(['\n', '\0']) {
        return Err("expected one line".to_owned());
    }
    let (name, raw) = name_and_value(text.trim())?;
    Ok(Definition { name: name.to_owned(), raw: raw.to_owned(), origin: Origin::Option })
}

/// Logical lines with the number their first physical line has, from 1.
type Lines<'a> = Vec<(usize, Cow<'a, [u8]>)>;

/// Those of a file; what is none, and so left out, is warned of.
pub(crate) fn logical_lines<'a>(octets: &'a [u8], path: &Path, warnings: &mut Vec<Error>) -> Lines<'a> {
    let mut logical: Lines<'_> = Vec::new();
    let octets = without_mark(octets);
    for (number, line) in (1..).zip(octets.split(|octet| *octet == b'\n')) {
        match line.iter().find(|octet| !is_blank(**octet)) {
            None | Some(b'#') => continue,
            Some(_) => {}
        }
        let continues = line.first().is_some_and(|octet| is_blank(*octet));
        match logical.last_mut() {
            Some((_, before)) if continues => before.to_mut().extend_from_slice(line),
            None if continues => {
                let problem = "expected no blank at the beginning of the first line, which continues nothing";
                warnings.push(Error::at(path, number, problem));
            }
            _ => logical.push((number, Cow::Borrowed(line))),
        }
    }
    logical
}

/// The same of a file of which none may be left out, for that would change what it says.
pub(crate) fn all_lines<'a>(octets: &'a [u8], path: &Path) -> Result<Lines<'a>, Error> {
    let mut warnings = Vec::new();
    let lines = logical_lines(octets, path, &mut warnings);
    warnings.pop().map_or(Ok(lines), Err)
}

/// Some editors put a byte order mark in front; it would belong to the first name, and no one sees why that is unknown.
pub(crate) fn without_mark(octets: &[u8]) -> &[u8] {
    octets.strip_prefix(b"\xef\xbb\xbf").unwrap_or(octets)
}

/// C's isspace, which decides in Postfix.
fn is_blank(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t' | b'\n' | b'\x0b' | b'\x0c' | b'\r')
}

fn name_and_value(text: &str) -> Result<(&str, &str), String> {
    let blank = |c: char| u8::try_from(c).is_ok_and(is_blank);
    let Some((name, value)) = text.split_once('=') else {
        return Err(format!("expected name = value, and there is no = in \"{}\"", shown(text)));
    };
    let name = name.trim_matches(blank);
    if name.is_empty() {
        return Err("expected a name before the =".to_owned());
    }
    if name.contains(blank) {
        return Err(format!("expected = behind the first word of \"{}\"", shown(name)));
    }
    Ok((name, value.trim_matches(blank)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<(String, String, usize)> {
        let parsed = parse(text.as_bytes(), Path::new("main.cf")).unwrap();
        let line = |origin: &Origin| if let Origin::File(_, line) = origin { *line } else { 0 };
        parsed.definitions.into_iter().map(|d| (d.name, d.raw, line(&d.origin))).collect()
    }

    fn one(name: &str, raw: &str, line: usize) -> (String, String, usize) {
        (name.to_owned(), raw.to_owned(), line)
    }

    #[test]
    fn blanks_around_name_and_value_do_not_count() {
        assert_eq!(read("a=1\n  \n\tb  =  2 3\t\r\nc =\n"), [one("a", "1\tb  =  2 3", 1), one("c", "", 4)]);
        assert_eq!(read("b  =  2 3\t\r\n"), [one("b", "2 3", 1)]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_name() {
        assert_eq!(read("\u{feff}a=1\n b\n"), [one("a", "1 b", 1)]);
        assert_eq!(read("\u{feff}# x\na=1\n"), [one("a", "1", 2)]);
    }

    #[test]
    fn a_continuation_keeps_its_blanks_and_loses_the_line_end() {
        assert_eq!(read("a = 1\n  2\n"), [one("a", "1  2", 1)]);
    }

    #[test]
    fn comments_and_empty_lines_do_not_end_a_logical_line() {
        assert_eq!(
            read("a = 1\n# no\n\n   # neither\n\t2\nb = 3 # data\n"),
            [one("a", "1\t2", 1), one("b", "3 # data", 6)]
        );
    }

    #[test]
    fn a_first_line_with_a_leading_blank_is_left_out_with_a_warning() {
        let parsed = parse(b"\n  x = 1\ny = 2", Path::new("main.cf")).unwrap();
        assert_eq!(parsed.definitions.len(), 1);
        assert!(parsed.warnings[0].to_string().starts_with("main.cf:2: expected no blank at the beginning"));
    }

    #[test]
    fn a_line_without_equals_is_an_error_with_its_line() {
        let error = parse(b"a = 1\n\nfoo\n  bar\n", Path::new("main.cf")).unwrap_err();
        assert_eq!(error.to_string(), "main.cf:3: expected name = value, and there is no = in \"foo  bar\"");
        assert!(parse(b"a b = 1", Path::new("main.cf")).unwrap_err().problem.contains("expected = behind"));
        assert!(parse(b"= 1", Path::new("main.cf")).unwrap_err().problem.contains("expected a name"));
    }

    #[test]
    fn of_two_definitions_the_last_holds_and_a_warning_names_both_lines() {
        let parsed = parse(b"a = 1\nb = 2\na = 3\n", Path::new("main.cf")).unwrap();
        let values: Vec<&str> = parsed.definitions.iter().map(|d| d.raw.as_str()).collect();
        assert_eq!(values, ["2", "3"]);
        assert_eq!(parsed.warnings[0].to_string(), "main.cf:3: a is set again; main.cf:1 does not count");
    }

    #[test]
    fn a_file_of_a_hundred_thousand_settings_is_read_in_no_time() {
        let text: String = (0..100_000).map(|number| format!("n{}=\n", number % 90_000)).collect();
        let begun = std::time::Instant::now();
        let parsed = parse(text.as_bytes(), Path::new("main.cf")).unwrap();
        assert_eq!((parsed.definitions.len(), parsed.warnings.len()), (90_000, 10_000));
        assert_eq!(parsed.definitions.first().map(|definition| definition.name.as_str()), Some("n10000"));
        // Each against each of them took a minute.
        assert!(begun.elapsed() < std::time::Duration::from_secs(10));
    }

    #[test]
    fn octets_that_are_no_utf8_are_an_error_outside_comments_only() {
        assert!(parse(b"# \xe4\na = 1", Path::new("main.cf")).is_ok());
        assert_eq!(
            parse(b"\na = \xe4", Path::new("main.cf")).unwrap_err().to_string(),
            "main.cf:2: expected text in UTF-8"
        );
    }

    #[test]
    fn options_may_stand_in_braces() {
        let plain = parse_option("a=1 2").unwrap();
        assert_eq!((plain.name.as_str(), plain.raw.as_str()), ("a", "1 2"));
        assert_eq!(parse_option("{ a = 1 2 }").unwrap(), plain);
        assert!(parse_option("a").is_err());
        assert!(parse_option("a=1\nb=2").is_err());
    }

    proptest! {
        #[test]
        fn any_octets_parse_or_are_an_error(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&octets, Path::new("main.cf"));
        }

        #[test]
        fn any_lines_parse_or_are_an_error(text in "([ a=#\r\t]{0,6}\n){0,8}") {
            let _ = parse(text.as_bytes(), Path::new("main.cf"));
        }

        #[test]
        fn a_value_comes_back_as_written(value in "[!-~]([ -~]{0,60}[!-~])?") {
            let text = format!("name = {value}\n");
            prop_assert_eq!(read(&text), [one("name", &value, 1)]);
        }
    }
}
