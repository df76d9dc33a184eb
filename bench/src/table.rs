//! What was measured, and how it is shown: a table in Markdown, and lines of JSON.

use crate::server::Kind;
use std::fmt::Write as _;

/// One column of the table: the same work for several servers.
#[derive(Debug)]
pub struct Row {
    /// Part of the table.
    pub section: &'static str,
    /// The work.
    pub title: String,
    /// What is counted.
    pub unit: &'static str,
    /// Whether more is better.
    pub more_is_better: bool,
    /// How many times the best peer ours is to reach (design), if it was said so.
    pub goal: Option<f64>,
    /// What each server did.
    pub cells: Vec<Cell>,
}

/// One server at one kind of work.
#[derive(Debug)]
pub struct Cell {
    /// The server.
    pub server: String,
    /// Whose it is.
    pub kind: Kind,
    /// A figure for each run.
    pub runs: Vec<f64>,
    /// Sessions that failed, in all runs.
    pub errors: usize,
    /// What the first of them met with.
    pub first_error: Option<String>,
}

impl Cell {
    /// The median of the runs, if there was one.
    pub fn median(&self) -> Option<f64> {
        let mut runs = self.runs.clone();
        runs.sort_by(f64::total_cmp);
        let (low, high) = (runs.get(runs.len().checked_sub(1)? / 2)?, runs.get(runs.len() / 2)?);
        Some((low + high) / 2.0)
    }
}

impl Row {
    /// The best median of a kind of server.
    pub fn best(&self, kind: Kind) -> Option<f64> {
        let medians = self.cells.iter().filter(|cell| cell.kind == kind).filter_map(Cell::median);
        medians.reduce(if self.more_is_better { f64::max } else { f64::min })
    }

    /// How many times better than the best peer a figure is.
    pub fn ratio(&self, figure: f64) -> Option<f64> {
        let best = self.best(Kind::Peer)?;
        Some(if self.more_is_better { figure / best } else { best / figure })
    }
}

/// The tables of all sections.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut sections: Vec<&str> = rows.iter().map(|row| row.section).collect();
    sections.dedup();
    for section in sections {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.section == section).collect();
        let _ = write!(text, "\n### {section}\n\n");
        one(&rows, &mut text);
    }
    text
}

fn one(rows: &[&Row], text: &mut String) {
    let mut servers: Vec<(&str, Kind)> = Vec::new();
    for cell in rows.iter().flat_map(|row| &row.cells) {
        if !servers.iter().any(|(name, _)| *name == cell.server) {
            servers.push((&cell.server, cell.kind));
        }
    }
    let _ = write!(text, "| |");
    for row in rows {
        let _ = write!(text, " {}, {} |", row.title, row.unit);
    }
    let _ = write!(text, "\n|---|{}\n", "--:|".repeat(rows.len()));
    for (server, kind) in &servers {
        let name = if *kind == Kind::Ours { format!("**{server}**") } else { (*server).to_owned() };
        let _ = write!(text, "| {name} |");
        for row in rows {
            let cell = row.cells.iter().find(|cell| cell.server == *server);
            let _ = write!(text, " {} |", cell.map_or(String::new(), |cell| shown(row, cell)));
        }
        text.push('\n');
    }
    if servers.iter().any(|(_, kind)| *kind == Kind::Ours) && rows.iter().any(|row| row.goal.is_some()) {
        let _ = write!(text, "| *ours is to reach (in pool mode)* |");
        for row in rows {
            let _ = write!(text, " {} |", row.goal.map_or(String::new(), |goal| format!("*x{goal}*")));
        }
        text.push('\n');
    }
}

fn shown(row: &Row, cell: &Cell) -> String {
    let Some(median) = cell.median() else {
        return cell.first_error.as_ref().map_or("no figure".to_owned(), |error| format!("no figure ({error})"));
    };
    let mut text = number(median);
    if let Some(ratio) = row.ratio(median).filter(|_| cell.kind != Kind::Peer || row.best(Kind::Peer) != Some(median)) {
        let _ = write!(text, " (x{})", two_digits(ratio));
    }
    if cell.errors > 0 {
        let _ = write!(text, ", {} failed", cell.errors);
    }
    text
}

/// 2 digits of precision at least, and thousands apart.
pub fn number(value: f64) -> String {
    if value < 100.0 {
        return two_digits(value);
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn two_digits(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

/// A line of JSON for each server and work, with every run.
pub fn json(rows: &[Row], load: &str) -> String {
    let mut text = String::new();
    let quoted = |text: &str| format!("\"{}\"", text.replace(['"', '\\'], "'").replace(char::is_control, " "));
    for row in rows {
        for cell in &row.cells {
            let _ = write!(
                text,
                "{{\"section\":{},\"work\":{},\"unit\":{},",
                quoted(row.section),
                quoted(&row.title),
                quoted(row.unit)
            );
            let _ = write!(
                text,
                "\"server\":{},\"kind\":\"{:?}\",\"runs\":{:?},",
                quoted(&cell.server),
                cell.kind,
                cell.runs
            );
            let _ = write!(
                text,
                "\"errors\":{},\"first_error\":{},",
                cell.errors,
                quoted(cell.first_error.as_deref().unwrap_or(""))
            );
            let _ = writeln!(text, "\"load\":{}}}", quoted(load));
        }
    }
    text
}
