//! `$name`, `${name}`, `$(name)`, `${name?yes}`, `${name:no}`, `${name?{yes}:{no}}`, `${name?{yes}:no}`,
//! `${{a} == {b}?{yes}:{no}}`: lazy, recursive; `$$` is a dollar.
//!
//! A value may refer to names set further down, since nothing is expanded before all is read. A name that is set
//! nowhere is empty. Where values come from is left to [`Names`].

use super::{Error, Origin};

/// Where expansion looks names up.
pub trait Names {
    /// The text of `name` before expansion, and where it was set; nothing if it is not.
    fn look_up(&mut self, name: &str) -> Option<(String, Origin)>;
    /// What a name means once it is expanded; `myhostname` is never empty, for one.
    fn finish(&mut self, _name: &str, expanded: String) -> String {
        expanded
    }
    /// Whether a name that is set nowhere is an error, and not empty as in main.cf.
    fn must_be_set(&self) -> bool {
        false
    }
    /// Told of a name that is set nowhere, and where it was asked for.
    fn missed(&mut self, _name: &str, _asked_at: &Origin) {}
}

/// Longest text a value may become, in octets.
const LONGEST: usize = 1 << 20;

/// Most look-ups for one value: names that refer twice to the next of a chain would take for ever.
const MOST_LOOKUPS: usize = 10_000;

/// Deepest nesting of values and brackets, as in Postfix; each level is a call.
const DEEPEST: usize = 100;

/// Expands `text`, which was set at `origin`. The error stands where the wrong text does, which may be another value.
pub fn expand(text: &str, origin: &Origin, names: &mut dyn Names) -> Result<String, Error> {
    let mut expansion = Expansion::new(names);
    let mut out = String::new();
    expansion.text(text, origin, &mut out)?;
    Ok(out)
}

/// Expands `$name` for a known name.
pub fn expand_name(name: &str, names: &mut dyn Names) -> Result<String, Error> {
    Expansion::new(names).value(name, &Origin::Default)
}

struct Expansion<'a> {
    names: &'a mut dyn Names,
    under_way: Vec<String>,
    lookups: usize,
    depth: usize,
}

impl<'a> Expansion<'a> {
    fn new(names: &'a mut dyn Names) -> Self {
        Expansion { names, under_way: Vec::new(), lookups: 0, depth: 0 }
    }

    fn text(&mut self, text: &str, origin: &Origin, out: &mut String) -> Result<(), Error> {
        let wrong = |problem: String| Error { origin: origin.clone(), problem };
        if self.depth == DEEPEST {
            return Err(wrong(format!("expected at most {DEEPEST} levels of names and brackets")));
        }
        self.depth += 1;
        self.pieces(text, &wrong, origin, out)?;
        self.depth -= 1;
        Ok(())
    }

    fn pieces(
        &mut self,
        text: &str,
        wrong: &dyn Fn(String) -> Error,
        origin: &Origin,
        out: &mut String,
    ) -> Result<(), Error> {
        let mut rest = text;
        while let Some((plain, after)) = rest.split_once('$') {
            out.push_str(plain);
            rest = after;
            match rest.bytes().next() {
                Some(b'$') => {
                    out.push('$');
                    rest = &rest[1..];
                }
                Some(open @ (b'{' | b'(')) => {
                    let (inside, after) = balanced(rest, open).ok_or_else(|| {
                        wrong(format!(
                            "expected a closing bracket for ${} in \"{}\"",
                            char::from(open),
                            super::shown(text)
                        ))
                    })?;
                    self.bracketed(inside, origin, out)?;
                    rest = after;
                }
                _ => {
                    let (name, after) = split_name(rest);
                    if name.is_empty() {
                        return Err(wrong(format!(
                            "expected a name behind $ in \"{}\"; $$ is a dollar",
                            super::shown(text)
                        )));
                    }
                    out.push_str(&self.value(name, origin)?);
                    rest = after;
                }
            }
            if out.len() > LONGEST {
                return Err(wrong(format!("expected a text that stays below {LONGEST} octets")));
            }
        }
        out.push_str(rest);
        Ok(())
    }

    /// What stands between `${` and `}`.
    fn bracketed(&mut self, inside: &str, origin: &Origin, out: &mut String) -> Result<(), Error> {
        const FORMS: &str = "${name}, ${name?text}, ${name:text}, ${name?{text}:{text}} or ${{a} == {b}?{text}:{text}}";
        let wrong = || Error {
            origin: origin.clone(),
            problem: format!("expected {FORMS} instead of \"${{{}}}\"", super::shown(inside)),
        };
        let inside_trimmed = inside.trim_start();
        let (name, rest) = split_name(inside_trimmed);
        let (holds, rest) = if inside_trimmed.starts_with('{') {
            let (left, operator, right, rest) = comparison(inside_trimmed).ok_or_else(wrong)?;
            let (mut a, mut b) = (String::new(), String::new());
            self.text(left, origin, &mut a)?;
            self.text(right, origin, &mut b)?;
            (compare(&a, operator, &b), rest)
        } else if name.is_empty() {
            return Err(wrong());
        } else if rest.trim_start().is_empty() {
            out.push_str(&self.value(name, origin)?);
            return Ok(());
        } else {
            (self.is_set(name), rest)
        };
        let rest = rest.trim_start();
        let (yes, no) = match rest.bytes().next() {
            Some(b'?') => alternatives(&rest[1..]).ok_or_else(wrong)?,
            Some(b':') => match alternatives(&rest[1..]).ok_or_else(wrong)? {
                (no, None) => ("", Some(no)),
                (_, Some(_)) => return Err(wrong()),
            },
            _ => return Err(wrong()),
        };
        self.text(if holds { yes } else { no.unwrap_or("") }, origin, out)
    }

    /// As in Postfix, `${name?...}` asks whether something was set, which may itself expand to nothing.
    fn is_set(&mut self, name: &str) -> bool {
        let raw = self.names.look_up(name).map_or(String::new(), |(raw, _)| raw);
        !raw.is_empty() || !self.names.finish(name, raw).is_empty()
    }

    fn value(&mut self, name: &str, asked_at: &Origin) -> Result<String, Error> {
        let wrong = |problem: String| Error { origin: asked_at.clone(), problem };
        self.lookups += 1;
        if self.lookups > MOST_LOOKUPS {
            return Err(wrong(format!("expected fewer than {MOST_LOOKUPS} names in one value")));
        }
        if self.under_way.iter().any(|known| known == name) {
            let chain = self.under_way.join(" -> ");
            return Err(wrong(format!("expected a value that does not refer to itself: {chain} -> {name}")));
        }
        let Some((raw, origin)) = self.names.look_up(name) else {
            if self.names.must_be_set() {
                return Err(wrong(format!("expected a name that main.cf sets instead of ${name}")));
            }
            self.names.missed(name, asked_at);
            return Ok(self.names.finish(name, String::new()));
        };
        self.under_way.push(name.to_owned());
        let mut out = String::new();
        self.text(&raw, &origin, &mut out)?;
        self.under_way.pop();
        Ok(self.names.finish(name, out))
    }
}

/// `{a} == {b}` and what stands behind it.
fn comparison(text: &str) -> Option<(&str, &str, &str, &str)> {
    let (left, rest) = balanced(text, b'{')?;
    let rest = rest.trim_start();
    let end = rest.bytes().position(|octet| !matches!(octet, b'=' | b'!' | b'<' | b'>'))?;
    let (operator, rest) = rest.split_at(end);
    let (right, rest) = balanced(rest.trim_start(), b'{')?;
    matches!(operator, "==" | "!=" | "<" | "<=" | ">=" | ">").then_some((left, operator, right, rest))
}

/// By number if both are digits only, else by octets.
fn compare(a: &str, operator: &str, b: &str) -> bool {
    let number =
        |text: &str| text.bytes().all(|octet| octet.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let order = match (number(a), number(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.cmp(b),
    };
    match operator {
        "==" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">=" => order.is_ge(),
        _ => order.is_gt(),
    }
}

/// `text`, `{text}`, `{text}:{text}` or `{text}:text`; blanks around the braces do not count, others do.
fn alternatives(text: &str) -> Option<(&str, Option<&str>)> {
    let trimmed = text.trim_start();
    if !trimmed.starts_with('{') {
        return Some((text, None));
    }
    let (first, rest) = balanced(trimmed, b'{')?;
    let rest = rest.trim_start();
    if rest.is_empty() {
        return Some((first, None));
    }
    let second = rest.strip_prefix(':')?;
    if !second.trim_start().starts_with('{') {
        return Some((first, Some(second)));
    }
    let (second, rest) = balanced(second.trim_start(), b'{')?;
    rest.trim_start().is_empty().then_some((first, Some(second)))
}

/// What stands inside of the bracket that `text` begins with, and behind it.
fn balanced(text: &str, open: u8) -> Option<(&str, &str)> {
    let close = if open == b'{' { b'}' } else { b')' };
    let mut depth = 0_usize;
    for (at, octet) in text.bytes().enumerate() {
        if octet == open {
            depth += 1;
        } else if octet == close {
            depth = depth.checked_sub(1)?;
        }
        if depth == 0 {
            return (at > 0).then(|| (&text[1..at], &text[at + 1..]));
        }
    }
    None
}

fn split_name(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|octet| !(octet.is_ascii_alphanumeric() || octet == b'_'));
    text.split_at(end.unwrap_or(text.len()))
}

#[cfg(test)]
mod tests;
