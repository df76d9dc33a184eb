//! The differences that doc/pitfalls.md explains, read from its tables, and those that were met.

use super::smtp::Kept;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

const DOCUMENT: &str = include_str!("../../doc/pitfalls.md");

/// What was found in a run.
#[derive(Default)]
pub struct Count {
    /// How often each shape was compared.
    steps: BTreeMap<&'static str, usize>,
    /// Messages that both took.
    messages: usize,
    /// How often each difference was met, by server and shape and what it was.
    met: BTreeMap<(String, String, String), usize>,
    /// Those that nobody has explained, with the dialogue of the first.
    unexplained: BTreeMap<String, (usize, String)>,
}

impl Count {
    /// Another step was compared.
    pub fn step(&mut self, shape: &'static str) {
        *self.steps.entry(shape).or_insert(0) += 1;
    }

    /// A difference of one shape, as `ours / theirs`. It must be in the document's table for that server.
    pub fn differs(&mut self, server: &str, shape: &str, what: &str, dialogue: impl FnOnce() -> String) {
        let key = (server.to_owned(), shape.to_owned(), what.to_owned());
        *self.met.entry(key.clone()).or_insert(0) += 1;
        if !explained().contains(&key) {
            let unexplained = self.unexplained.entry(format!("{server}: {shape}: {what}"));
            unexplained.or_insert_with(|| (0, dialogue())).0 += 1;
        }
    }

    /// A message that both took: what is stored must be the same.
    pub fn message(&mut self, shape: &str, sent: &[u8], ours: &Kept, theirs: &Kept) {
        self.messages += 1;
        assert!(ours.content == sent, "{shape}: ours is not what was sent: {} {}", text(ours), sent.escape_ascii());
        let show = || format!("ours {}\ntheirs {}", text(ours), text(theirs));
        if ours.content != theirs.content {
            self.differs("Postfix", shape, "as it is / changed", show);
        }
        let once = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!(once(&ours.recipients), once(&theirs.recipients), "{shape}: {}", show());
        if ours.recipients != theirs.recipients {
            self.differs("Postfix", "rcpt-spelt-otherwise", "copies", show);
        }
        // The queue has the local part as it is, their header field quotes it.
        if ours.reverse_path != theirs.reverse_path.replace('"', "") {
            self.differs("Postfix", shape, "reverse-path", show);
        }
    }

    /// Fails with what nobody has explained; else says what was compared.
    pub fn report(&self, what: &str, sessions: usize, seed: u64) {
        let steps: usize = self.steps.values().sum();
        let mut text = format!(
            "differential: {what}: {sessions} sessions of seed {seed}, {steps} steps of {} shapes, {} messages\n",
            self.steps.len(),
            self.messages
        );
        for ((server, shape, what), count) in &self.met {
            let _ = writeln!(text, "  {server}: {shape}: {what}: {count}");
        }
        for (difference, (count, dialogue)) in &self.unexplained {
            let _ = writeln!(text, "NOT EXPLAINED {difference}: {count} times, for instance\n{dialogue}");
        }
        say(&text);
        assert!(self.unexplained.is_empty(), "differences that doc/pitfalls.md does not explain:\n{text}");
    }
}

#[allow(clippy::print_stderr)]
fn say(text: &str) {
    eprintln!("{text}");
}

/// Rows of the document's tables of differences: server, shape, `ours / theirs`.
fn explained() -> &'static BTreeSet<(String, String, String)> {
    static ROWS: std::sync::OnceLock<BTreeSet<(String, String, String)>> = std::sync::OnceLock::new();
    ROWS.get_or_init(|| {
        let mut rows = BTreeSet::new();
        let mut server = String::new();
        for line in DOCUMENT.lines() {
            if let Some(title) = line.strip_prefix("### Compared with ") {
                server = title.to_owned();
            } else if line.starts_with('#') {
                server.clear();
            }
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [shape, what, _sent, _why] = cells[..] else { continue };
            let Some(shape) = shape.strip_prefix('`').and_then(|shape| shape.strip_suffix('`')) else { continue };
            if !server.is_empty() {
                rows.insert((server.clone(), shape.to_owned(), what.to_owned()));
            }
        }
        rows
    })
}

fn text(kept: &Kept) -> String {
    let shown = &kept.content[..kept.content.len().min(300)];
    format!(
        "<{}> {:?} {} octets {:?}",
        kept.reverse_path,
        kept.recipients,
        kept.content.len(),
        String::from_utf8_lossy(shown)
    )
}
