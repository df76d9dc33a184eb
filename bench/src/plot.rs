//! The plot: for each kind of work a line, on it a point for each server, on a logarithmic scale of how many times the
//! best peer it reaches.

use crate::server::Kind;
use crate::table::{Row, number};
use std::fmt::Write as _;

const WIDTH: f64 = 980.0;
const LEFT: f64 = 380.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 90.0;
const STEP: f64 = 19.0;
/// The scale's ends; what lies beyond is drawn at the edge.
const LEAST: f64 = 0.05;
const MOST: f64 = 50.0;

/// Colours that are told apart by those who see few.
const OURS: [(&str, &str); 7] = [
    ("doorpost, smtpd (pool)", "#e69f00"),
    ("doorpost, smtpd (pool, --user)", "#f0e442"),
    ("doorpost, smtpd (pool, a fork each)", "#56b4e9"),
    ("doorpost, smtpd (exec)", "#0072b2"),
    ("doorpost, accept loop (fork)", "#d55e00"),
    ("doorpost, openbsd-inetd", "#009e73"),
    ("doorpost, tcpserver", "#cc79a7"),
];

/// The whole picture as SVG.
pub fn svg(rows: &[Row], caption: &str) -> String {
    let rows: Vec<&Row> =
        rows.iter().filter(|row| row.best(Kind::Peer).is_some() && row.best(Kind::Ours).is_some()).collect();
    let sections = {
        let mut names: Vec<&str> = rows.iter().map(|row| row.section).collect();
        names.dedup();
        names.len()
    };
    let height = TOP + STEP * (rows.len() + sections) as f64 + 50.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let _ = writeln!(
        text,
        "<text x=\"10\" y=\"20\" font-size=\"15\">doorpost against the best peer (1 = the best peer; right is better)</text>"
    );
    let _ = writeln!(text, "<text x=\"10\" y=\"36\" fill=\"#555\">{}</text>", escaped(caption));
    legend(&mut text);
    scale(&mut text, height);
    let mut y = TOP;
    let mut section = "";
    for row in rows {
        if row.section != section {
            section = row.section;
            y += STEP;
            let _ = writeln!(text, "<text x=\"10\" y=\"{}\" font-weight=\"bold\">{}</text>", y - 4.0, escaped(section));
        }
        y += STEP;
        line(&mut text, row, y - STEP / 2.0);
    }
    text.push_str("</svg>\n");
    text
}

fn line(text: &mut String, row: &Row, y: f64) {
    let title = format!("{} ({})", row.title, row.unit);
    let _ =
        writeln!(text, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", LEFT - 12.0, y + 4.0, escaped(&title));
    let _ = writeln!(text, "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#eee\"/>", WIDTH - RIGHT);
    if let Some(goal) = row.goal {
        let _ = writeln!(
            text,
            "<path d=\"M{0} {1}v10\" stroke=\"#000\" stroke-dasharray=\"2 2\"><title>to reach: {goal}</title></path>",
            place(goal),
            y - 5.0
        );
    }
    // Ours last, so that they lie on top.
    for ours in [false, true] {
        for cell in row.cells.iter().filter(|cell| (cell.kind == Kind::Ours) == ours) {
            let Some((median, ratio)) = cell.median().and_then(|median| Some((median, row.ratio(median)?))) else {
                continue;
            };
            let colour = OURS.iter().find(|(name, _)| *name == cell.server).map_or("#999", |(_, colour)| colour);
            let (radius, fill) = match cell.kind {
                Kind::Ours => (5.0, colour),
                Kind::Peer => (3.5, colour),
                Kind::Limit => (3.5, "none"),
            };
            let _ = writeln!(
                text,
                "<circle cx=\"{:.1}\" cy=\"{y}\" r=\"{radius}\" fill=\"{fill}\" stroke=\"{colour}\" fill-opacity=\"0.8\">\
                 <title>{}: {} {}, x{ratio:.2}</title></circle>",
                place(ratio),
                escaped(&cell.server),
                number(median),
                row.unit
            );
        }
    }
}

fn legend(text: &mut String) {
    let entries = OURS
        .iter()
        .map(|(name, colour)| (*name, *colour, *colour))
        .chain([("a peer", "#999", "#999"), ("a limit of the machine", "none", "#999")]);
    let (mut x, mut y) = (10.0, 52.0);
    for (name, fill, stroke) in entries {
        let width = 24.0 + 6.3 * name.len() as f64;
        if x + width > WIDTH {
            (x, y) = (10.0, y + 17.0);
        }
        let _ = writeln!(
            text,
            "<circle cx=\"{}\" cy=\"{y}\" r=\"4\" fill=\"{fill}\" stroke=\"{stroke}\"/><text x=\"{}\" y=\"{}\">{name}</text>",
            x + 4.0,
            x + 12.0,
            y + 4.0
        );
        x += width;
    }
}

fn scale(text: &mut String, height: f64) {
    for mark in [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0] {
        let x = place(mark);
        let colour = if mark == 1.0 { "#777" } else { "#ddd" };
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{}\" stroke=\"{colour}\"/>",
            height - 30.0
        );
        let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{mark}</text>", height - 14.0);
    }
}

fn place(ratio: f64) -> f64 {
    let share = (ratio.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln();
    LEFT + share * (WIDTH - RIGHT - LEFT)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
