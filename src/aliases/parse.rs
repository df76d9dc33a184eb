//! Lines and targets of an alias file, of a file of `:include:`, and of a `~/.forward`; no I/O.

use super::Target;
use crate::config::main_cf::without_mark;
use crate::config::shown;
use std::borrow::Cow;
use std::path::PathBuf;

/// Longest logical line, in octets.
const LONGEST_LINE: usize = 1 << 20;

/// Longest target: it must fit an address of the queue file with the domain behind it.
const LONGEST_TARGET: usize = 700;

/// Most words of a command.
const MOST_WORDS: usize = 100;

/// An alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, as it is written, without quotes.
    pub name: String,
    /// Where its mail goes.
    pub targets: Vec<Target>,
    /// The line it begins on, from 1.
    pub line: usize,
}

/// What is wrong, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1.
    pub line: usize,
    /// What was expected there.
    pub problem: String,
    /// Whose targets those would be, if that much is clear: mail for this name waits.
    pub name: Option<String>,
}

/// All entries: logical lines are joined where a line begins with a blank. A comment may stand anywhere between, and behind
/// blanks.
pub fn entries(octets: &[u8]) -> Vec<Result<Entry, Fault>> {
    let (mut found, mut logical, mut begins, mut is_whole) = (Vec::new(), Vec::new(), 0, true);
    for (number, line) in without_mark(octets).split(|octet| *octet == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if matches!(line.trim_ascii().first(), None | Some(b'#')) {
            continue;
        }
        if !matches!(line.first(), Some(b' ' | b'\t')) {
            found.extend(entry(&logical, begins, is_whole));
            logical.clear();
            is_whole = true;
        }
        if logical.is_empty() {
            begins = number + 1;
        }
        let room = LONGEST_LINE - logical.len();
        logical.extend(line.iter().take(room));
        is_whole &= line.len() <= room;
    }
    found.extend(entry(&logical, begins, is_whole));
    found
}

fn entry(octets: &[u8], line: usize, is_whole: bool) -> Option<Result<Entry, Fault>> {
    if octets.is_empty() {
        return None;
    }
    let (text, end) = match std::str::from_utf8(octets) {
        Ok(text) => (text, None),
        Err(error) => (std::str::from_utf8(&octets[..error.valid_up_to()]).unwrap_or_default(), Some("expected UTF-8")),
    };
    if text.starts_with([' ', '\t']) {
        let problem = "expected an alias before its continuation line".to_owned();
        return Some(Err(Fault { line, problem, name: None }));
    }
    let (name, rest) = match name(text) {
        Ok(found) => found,
        Err(problem) => return Some(Err(Fault { line, problem, name: None })),
    };
    let targets = match end {
        _ if !is_whole => {
            Err(format!("expected {LONGEST_LINE} octets at the most, with the lines that continue this one"))
        }
        Some(problem) => Err(problem.to_owned()),
        None => targets(rest),
    };
    Some(match targets {
        Ok(targets) if targets.is_empty() => {
            let problem = format!("expected a target behind {}:", shown(&name));
            Err(Fault { line, problem, name: Some(name) })
        }
        Ok(targets) => Ok(Entry { name, targets, line }),
        Err(problem) => Err(Fault { line, problem, name: Some(name) }),
    })
}

/// What stands before the colon, and what behind it.
fn name(text: &str) -> Result<(String, &str), String> {
    let expected = || format!("expected NAME: TARGET, ... instead of {}", shown(text));
    let (name, rest) = match text.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').ok_or_else(expected)?,
        None => {
            let end = text.find([':', ' ', '\t']).ok_or_else(expected)?;
            text.split_at(end)
        }
    };
    let rest = rest.trim_start().strip_prefix(':').ok_or_else(expected)?;
    if name.starts_with('@') {
        return Err(format!("expected a name before the @ of {}: there are no catch-alls", shown(name)));
    }
    let fits = !name.is_empty() && name.len() <= 255 && !name.chars().any(|c| c.is_control() || c == '/');
    if fits { Ok((name.to_owned(), rest)) } else { Err(expected()) }
}

/// The lines that list targets in a file of `:include:` or a `~/.forward`, with their numbers, from 1.
pub fn lines(octets: &[u8]) -> impl Iterator<Item = (usize, Result<Vec<Target>, String>)> {
    let lines = (1..).zip(without_mark(octets).split(|octet| *octet == b'\n'));
    let lines = lines.map(|(number, line)| (number, line.trim_ascii()));
    lines.filter(|(_, line)| !matches!(line.first(), None | Some(b'#'))).map(|(number, line)| (number, of_line(line)))
}

/// In a name or comment beside an address any octets will do, for they go nowhere.
fn of_line(line: &[u8]) -> Result<Vec<Target>, String> {
    let text = String::from_utf8_lossy(line);
    let is_utf8 = matches!(text, Cow::Borrowed(_));
    let is_whole = |target: &Target| match target {
        Target::Address(text) | Target::Mailbox(text) | Target::Program(text) | Target::File(text) => {
            !text.contains(char::REPLACEMENT_CHARACTER)
        }
        Target::Include(path) => !path.to_string_lossy().contains(char::REPLACEMENT_CHARACTER),
    };
    let found = targets(text.trim())?;
    if is_utf8 || found.iter().all(is_whole) { Ok(found) } else { Err("expected UTF-8".to_owned()) }
}

/// A list of targets, separated by commas; the error is what was expected. A `#` is a letter like any other here.
fn targets(text: &str) -> Result<Vec<Target>, String> {
    let mut found = Vec::new();
    for word in words(text)? {
        found.push(target(&word)?);
    }
    Ok(found)
}

/// Splits at commas outside quotes. A quoted part keeps its octets; where all of a word is quoted the quotes go. What stands
/// in parentheses beside an address is a comment (RFC 5322 section 3.2.2); in a command they are for a shell, which is refused.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut found, mut word, mut quoted, mut escaped) = (Vec::new(), String::new(), false, false);
    let mut comments = 0_usize;
    for letter in text.chars() {
        if letter.is_control() && letter != '\t' {
            return Err("expected no control characters".to_owned());
        }
        let is_escaped = std::mem::take(&mut escaped);
        if comments > 0 {
            match letter {
                _ if is_escaped => {}
                '\\' => escaped = true,
                '(' => comments += 1,
                ')' => comments -= 1,
                _ => {}
            }
            continue;
        }
        match letter {
            _ if is_escaped => word.push(letter),
            '\\' if quoted => {
                escaped = true;
                word.push(letter);
            }
            '"' => {
                quoted = !quoted;
                word.push(letter);
            }
            ',' if !quoted => found.push(std::mem::take(&mut word)),
            '(' if !quoted && !word.trim_start().starts_with(['|', '/', ':']) => comments = 1,
            _ => word.push(letter),
        }
    }
    if quoted {
        return Err("expected a closing quotation mark".to_owned());
    }
    if comments > 0 {
        return Err("expected a closing parenthesis".to_owned());
    }
    found.push(word);
    Ok(found.into_iter().map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect())
}

fn target(word: &str) -> Result<Target, String> {
    let expected = |what: &str| format!("expected {what} instead of {}", shown(word));
    // "|program args", "/file" and |"program args": sendmail takes both ways of quoting a command.
    let whole = word
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .filter(|inside| inside.starts_with(['|', '/', '\\', ':']) && !inside.replace("\\\"", "").contains('"'));
    let unquoted = whole.map_or_else(|| word.to_owned(), |inside| inside.replace("\\\"", "\"").replace("\\\\", "\\"));
    if unquoted.len() > LONGEST_TARGET {
        return Err(expected("a shorter target"));
    }
    if let Some(command) = unquoted.strip_prefix('|') {
        let command = command.trim();
        let inside = command.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let command = inside.filter(|inside| !inside.contains('"')).unwrap_or(command);
        split_command(command)?;
        return Ok(Target::Program(command.to_owned()));
    }
    if unquoted.starts_with('/') {
        return Ok(Target::File(unquoted));
    }
    if let Some(path) = unquoted.strip_prefix(":include:") {
        let path = path.trim();
        return if path.starts_with('/') {
            Ok(Target::Include(PathBuf::from(path)))
        } else {
            Err(expected(":include: and an absolute path"))
        };
    }
    if let Some(user) = unquoted.strip_prefix('\\') {
        let fits = !user.is_empty() && !user.contains(['@', '/', ' ', '"']);
        return if fits { Ok(Target::Mailbox(user.to_owned())) } else { Err(expected("\\ and the name of a user")) };
    }
    address(word).map(Target::Address).ok_or_else(|| expected("an address, a user, |command, /file or :include:/file"))
}

/// An address in internal form, out of `a@b`, `<a@b>`, `Name <a@b>` or `"a b"@c`; nothing if it is none.
fn address(word: &str) -> Option<String> {
    let inside = match word.rsplit_once('<') {
        Some((_, rest)) => rest.strip_suffix('>')?.trim(),
        None => word,
    };
    let (local, domain) = match inside.rsplit_once('@') {
        Some((local, domain)) if !domain.contains('"') => (local, Some(domain)),
        _ => (inside, None),
    };
    let local = match local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\\\"", "\"").replace("\\\\", "\\"),
        None if local.contains([' ', '\t', '"', '<', '>', '(', ')', ';', '|', '\\']) => return None,
        None => local.to_owned(),
    };
    let fits = |domain: &str| !domain.is_empty() && !domain.contains([' ', '\t', '<', '>', '|']);
    match domain {
        Some(domain) if local.is_empty() || !fits(domain) => None,
        Some(domain) => Some(format!("{local}@{domain}")),
        None if local.is_empty() || local.starts_with(['|', '/', ':', '~']) => None,
        None => Some(local),
    }
}

/// What procmail's manual has everybody write around its name, and others have copied: `IFS=' ' && exec PROGRAM || exit 75
/// #user`. Gives the command within, and whether each failure of it is to be tried again.
fn without_frame(command: &str) -> (&str, bool) {
    let mut rest = command.trim();
    if let Some((before, comment)) = rest.rsplit_once(" #")
        && !comment.contains(['"', '\''])
    {
        rest = before.trim_end();
    }
    if let Some(behind) = rest.strip_prefix("IFS=' '") {
        let behind = behind.trim_start();
        rest = behind.strip_prefix("&&").or_else(|| behind.strip_prefix(';')).unwrap_or(behind).trim_start();
    }
    match rest.rsplit_once("||").map(|(before, behind)| (before.trim_end(), behind.trim())) {
        // What exec started is not there any more to be asked.
        Some((before, "exit 75")) => (before, !before.starts_with("exec ")),
        _ => (rest, false),
    }
}

/// Whether a command says of itself that its failures are to be tried again: `|| exit 75`.
pub fn defers_failures(command: &str) -> bool {
    without_frame(command).1
}

/// The words of a command, quotes and backslashes taken off; there is no shell, so what only a shell could do is an
/// error. A leading `exec` is what a shell would drop, too.
pub fn split_command(command: &str) -> Result<Vec<String>, String> {
    let (command, _) = without_frame(command);
    let (mut found, mut word, mut begun) = (Vec::new(), String::new(), false);
    let (mut quote, mut escaped) = (None, false);
    for letter in command.chars() {
        if std::mem::take(&mut escaped) {
            word.push(letter);
            continue;
        }
        match (letter, quote) {
            ('\\', None | Some('"')) => (escaped, begun) = (true, true),
            ('"' | '\'', None) => (quote, begun) = (Some(letter), true),
            (_, Some(open)) if letter == open => quote = None,
            (' ' | '\t', None) => {
                if std::mem::take(&mut begun) {
                    found.push(std::mem::take(&mut word));
                }
            }
            ('$' | '`', None | Some('"')) | (';' | '&' | '|' | '<' | '>' | '(' | ')' | '*' | '?' | '[', None) => {
                return Err(format!("expected a command that needs no shell, without {letter}"));
            }
            _ => {
                begun = true;
                word.push(letter);
            }
        }
    }
    if quote.is_some() || escaped {
        return Err("expected a closing quotation mark in the command".to_owned());
    }
    if begun {
        found.push(word);
    }
    if found.first().is_some_and(|first| first == "exec") {
        found.remove(0);
    }
    match found.first() {
        Some(program) if program.starts_with('/') && found.len() <= MOST_WORDS => Ok(found),
        _ => Err("expected the absolute path of a program behind |".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Target {
        let mut found = targets(text).unwrap();
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        found.remove(0)
    }

    #[test]
    fn entries_are_joined_over_lines_and_comments_are_passed_over() {
        let text =
            b"# a comment\npostmaster: alice\n\nlist : bob,\n# between\n  carol@example.net\n\t, dave\n\"a b\": x\n";
        let found: Vec<Entry> = entries(text).into_iter().map(Result::unwrap).collect();
        let names: Vec<(&str, usize)> = found.iter().map(|entry| (entry.name.as_str(), entry.line)).collect();
        assert_eq!(names, [("postmaster", 2), ("list", 4), ("a b", 8)]);
        let addresses = ["bob", "carol@example.net", "dave"].map(|text| Target::Address(text.to_owned()));
        assert_eq!(found[1].targets, addresses);
    }

    #[test]
    fn a_wrong_line_is_told_with_its_number_and_the_rest_holds() {
        let found = entries(b"a: b\nno colon\nc:\nd: \"|x\ne: |relative\nf: g\n");
        let lines: Vec<Option<usize>> =
            found.iter().map(|entry| entry.as_ref().err().map(|fault| fault.line)).collect();
        assert_eq!(lines, [None, Some(2), Some(3), Some(4), Some(5), None]);
    }

    #[test]
    fn lines_skip_a_mark_and_take_latin_1_where_it_goes_nowhere() {
        let text =
            b"\xef\xbb\xbf# J\xf6rg\nalice\r\n\xc2\xa0\n \"J\xf6rg\" <bob>\nj\xf6rg\n|/bin/x \xf6\nj\xc3\xb6rg\n";
        let user = |name: &str| Ok(vec![Target::Address(name.to_owned())]);
        let wrong = || Err("expected UTF-8".to_owned());
        let expected = [
            (2, user("alice")),
            (3, Ok(Vec::new())),
            (4, user("bob")),
            (5, wrong()),
            (6, wrong()),
            (7, user("j\u{f6}rg")),
        ];
        assert_eq!(lines(text).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_alias_for_all_of_a_domain_is_told_and_not_counted() {
        for text in ["@example.com: alice\n", "\"@example.com\": alice\n"] {
            let fault = entries(text.as_bytes()).remove(0).unwrap_err();
            assert_eq!(
                (fault.problem.as_str(), fault.name),
                ("expected a name before the @ of @example.com: there are no catch-alls", None)
            );
        }
        assert!(entries(b"a@example.com: b\n").remove(0).is_ok());
    }

    #[test]
    fn a_wrong_line_keeps_its_name_if_it_has_one() {
        let text = b"a: |relative\nb c\nd:\n\"e f\": \"x\ng: \xe4\n\xe4: h\n";
        let names: Vec<Option<String>> = entries(text).into_iter().map(|entry| entry.unwrap_err().name).collect();
        assert_eq!(
            names,
            [Some("a"), None, Some("d"), Some("e f"), Some("g"), None].map(|name| name.map(str::to_owned))
        );
    }

    #[test]
    fn comments_stand_behind_blanks_and_beside_addresses() {
        let text = b"\xef\xbb\xbfroot: alice\n   # was bob\n\t#\nlist: bob,\n   #carol,\n   dave\n";
        let found: Vec<Entry> = entries(text).into_iter().map(Result::unwrap).collect();
        let user = |name: &str| Target::Address(name.to_owned());
        assert_eq!((found[0].name.as_str(), &found[0].targets[..]), ("root", &[user("alice")][..]));
        assert_eq!(found[1].targets, [user("bob"), user("dave")]);
        for text in ["bob@example.net (Bob)", "(Bob (\"the\\) one\", yes)) bob@example.net", "bob(x)@example.net"] {
            assert_eq!(one(text), user("bob@example.net"), "{text}");
        }
        assert_eq!(one("\"b (o) b\"@example.net"), user("b (o) b@example.net"));
        for wrong in ["bob (Bob", "bob (a) carol", "|/bin/x (a)"] {
            assert!(targets(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_entry_that_is_too_long_is_no_entry_with_fewer_targets() {
        let long = format!("list: bob{}\nnext: carol\n", ",\n aaaaaaaaaaaaaaa".repeat(LONGEST_LINE / 16));
        let at_once = format!("list: {}bob\nnext: carol\n", "carol, ".repeat(LONGEST_LINE / 7));
        for text in [long, at_once] {
            let found = entries(text.as_bytes());
            let Err(fault) = &found[0] else { panic!("shortened") };
            assert_eq!((fault.line, fault.name.as_deref()), (1, Some("list")));
            assert!(fault.problem.contains("octets at the most"), "{}", fault.problem);
            assert!(found[1].is_ok());
        }
        let almost = format!("list: {}\n", "bob, ".repeat(LONGEST_LINE / 5 - 2));
        assert!(entries(almost.as_bytes())[0].is_ok());
    }

    #[test]
    fn a_first_line_that_continues_nothing_is_told_with_its_number() {
        let Err(fault) = &entries(b"\n# x\n  bob\n")[0] else { panic!("an entry") };
        assert_eq!((fault.line, &fault.name), (3, &None));
    }

    #[test]
    fn every_kind_of_target_is_known_in_its_common_spellings() {
        assert_eq!(one("\\bob"), Target::Mailbox("bob".into()));
        for command in ["|/bin/x -a b", "\"|/bin/x -a b\"", "|\"/bin/x -a b\"", "\"| /bin/x -a b\""] {
            assert_eq!(one(command), Target::Program("/bin/x -a b".into()), "{command}");
        }
        assert_eq!(one("/var/mail/x"), Target::File("/var/mail/x".into()));
        assert_eq!(one("\"/var/mail/a b\""), Target::File("/var/mail/a b".into()));
        assert_eq!(one(":include:/etc/list"), Target::Include("/etc/list".into()));
        assert_eq!(one("Bob B <bob@example.net>"), Target::Address("bob@example.net".into()));
        assert_eq!(one("\"b o b\"@example.net"), Target::Address("b o b@example.net".into()));
    }

    #[test]
    fn what_is_written_around_procmail_is_understood() {
        for (text, defers) in [
            ("IFS=' ' && exec /usr/bin/procmail -f- || exit 75 #bob", false),
            ("IFS=' '&&exec /usr/bin/procmail -f-||exit 75 # bob", false),
            ("/usr/bin/procmail -f- || exit 75", true),
            ("exec /usr/bin/procmail -f- #bob", false),
        ] {
            let words = ["/usr/bin/procmail", "-f-"].map(str::to_owned).to_vec();
            assert_eq!((split_command(text), defers_failures(text)), (Ok(words), defers), "{text}");
            assert_eq!(one(&format!("\"|{text}\"")), Target::Program(text.to_owned()));
        }
        for wrong in ["/bin/x || /bin/y", "/bin/x || exit 75 || exit 75", "IFS=x /bin/x", "/bin/x 'a #b"] {
            assert!(split_command(wrong).is_err(), "{wrong}");
        }
        assert_eq!(split_command("/bin/x 'a #b'").unwrap(), ["/bin/x", "a #b"]);
    }

    #[test]
    fn a_command_is_split_into_words_without_a_shell() {
        let split = |text| split_command(text).unwrap();
        assert_eq!(split("/bin/x 'a b' \"c \\\" d\" e\\ f ''"), ["/bin/x", "a b", "c \" d", "e f", ""]);
        assert_eq!(split("exec /usr/bin/procmail -f-"), ["/usr/bin/procmail", "-f-"]);
        for shell in
            ["/bin/x; y", "/bin/x > /tmp/y", "/bin/x $HOME", "/bin/x `y`", "/bin/x \"$y\"", "x", "", "/bin/x 'y"]
        {
            assert!(split_command(shell).is_err(), "{shell}");
        }
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = entries(&octets);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[a-z:|/\\\\\",<>@# \t\n]{0,60}") {
            let _ = entries(text.as_bytes());
        }
    }
}
