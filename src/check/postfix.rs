//! What became of Postfix's parameters that are none here, for a main.cf that was brought along: all of their names, as
//! `postconf -d` has them, under the advice for them, in one text that is gone through where there is an unknown name.

/// Advice at the beginning of a line, or of several; then lines of names with a blank in front, where `*` stands for the name
/// of any transport.
const TEXT: &str = include_str!("postfix.txt");

/// What became of a parameter of Postfix's.
pub(super) fn went(name: &str) -> Option<String> {
    let is_like = |word: &str| word.strip_prefix('*').map_or(word == name, |end| name.ends_with(end));
    entries().find(|(_, names)| names.iter().any(|word| is_like(word))).map(|(advice, _)| advice)
}

fn entries() -> impl Iterator<Item = (String, Vec<&'static str>)> {
    let mut lines = TEXT.lines().peekable();
    let mut take = move |is_names: bool| {
        let mut taken = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with(' ') == is_names) {
            taken.push(line.trim());
        }
        taken
    };
    std::iter::from_fn(move || {
        let advice = take(false).join(" ");
        (!advice.is_empty()).then(|| (advice, take(true).iter().flat_map(|line| line.split(' ')).collect()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parameters::parameters;
    use std::collections::HashSet;

    #[test]
    fn none_of_these_is_a_parameter_here_and_each_is_there_once() {
        let mut seen = HashSet::new();
        for name in entries().flat_map(|(_, names)| names) {
            assert!(parameters().all(|parameter| parameter.name != name) && seen.insert(name), "{name}");
        }
        assert!(seen.len() > 600);
        for (advice, _) in entries() {
            for word in advice.split([' ', ',', ')', '(', ';']).filter(|word| word.contains('_')) {
                assert!(parameters().any(|parameter| parameter.name == word), "{word}");
            }
        }
    }

    #[test]
    fn the_names_of_transports_are_anybodys_and_others_are_spelt_as_in_postfix() {
        assert!(went("slow_destination_rate_delay").is_some_and(|advice| advice == "there is nothing like it here"));
        assert!(went("strict_rfc821_envelopes").is_some_and(|advice| advice.ends_with(" that does nothing here")));
        assert_eq!([went("relayhots"), went("*_destination_rate_dela"), went("")], [None, None, None]);
    }
}
