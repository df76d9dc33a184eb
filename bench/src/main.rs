//! compare - doorpost beside well-known mail servers: one run, medians and ratios
//!
//! `bench/compare` starts it. It builds nothing itself (cargo has built the release before), installs our programs into
//! state folders, starts them in each way they can be started and the peers by the peers' scripts, loads them in
//! turn over loopback, and prints tables. Everything is stopped by process id and removed at the end. `bench/README.md`
//! says how to read it. It measures and judges nothing: no figure makes it fail.

mod costs;
mod load;
mod mail;
mod phases;
mod plot;
mod process;
mod sections;
mod server;
mod table;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sections::{Part, Plan, RowKind};
use server::{Peers, Site};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Measure doorpost beside other mail servers on this machine
#[derive(Debug, Parser)]
#[command(name = "bench/compare", bin_name = "bench/compare")]
struct Args {
    /// Shorter runs, fewer connections, three of five runs: ends in two minutes
    #[arg(long)]
    quick: bool,
    /// The folder with the peers' up.sh and down.sh; without it ours are measured alone
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// So many runs of each, of which the median counts; 5, or 3 of mail and where it is to be quick
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Where to put what is to lie on disk
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    state: PathBuf,
    /// Other programs than those just built
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Only this part
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Of the part mail only rows of these kinds and media
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    rows: Vec<RowKind>,
    /// Only servers with one of these words in their names
    #[arg(long, value_name = "WORD", value_delimiter = ',')]
    servers: Vec<String>,
    /// Put the tables into bench/README.md and the plot into bench/figures.svg; takes half an hour, and needs the peers
    #[arg(long, conflicts_with_all = ["quick", "only", "rows", "servers", "programs"])]
    write: bool,
    /// Draw a plot
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write every run as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> io::Result<()> {
    let begun = Instant::now();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(20_000), hard)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let folder = format!("doorpost-bench-{}", std::process::id());
    let states = States::new(&[("disk", args.state.join(&folder)), ("tmpfs", Path::new("/dev/shm").join(&folder))])?;
    let plan = Plan {
        runs: args.runs.unwrap_or(if args.quick { 3 } else { 5 }).max(1),
        // Mail takes longest, for what was taken is delivered before the next run.
        mail_runs: args.runs.unwrap_or(3).max(1),
        time: Duration::from_millis(if args.quick { 120 } else { 400 }),
        quick: args.quick,
        only: args.only,
        rows: args.rows.clone(),
        servers: args.servers.clone(),
        programs: programs(args)?,
        peers: peers(args)?,
        states: states.0.clone(),
        stop: stop.clone(),
        deadline: Some(begun + Duration::from_secs(if args.quick { 100 } else { 2700 })),
        say: Box::new(move |text| drop(writeln!(io::stderr(), "{:4.0} s  {text}", begun.elapsed().as_secs_f64()))),
    };
    if args.write && plan.peers.is_none() {
        return Err(io::Error::other("--write: the committed tables stand beside the peers, and there are none"));
    }
    let load_before = load_average();
    let rows = sections::all(&plan)?;
    let mut costs = String::new();
    if plan.only.is_none_or(|only| only == Part::Costs) && !stop.load(Ordering::Relaxed) {
        let state = &states.0[0].1;
        let site = Site::new(&state.join("ours"), &plan.programs, &state.join("ours/mail"))?;
        costs = format!(
            "\n### What a connection costs until its greeting\n\n{}",
            costs::table(&site, if args.quick { 50 } else { 300 })?
        );
    }
    let late = plan.deadline.is_some_and(|deadline| Instant::now() > deadline);
    let cut = if late { " **Out of time: rows are missing, or have fewer runs.**" } else { "" };
    let caption = format!(
        "{}; medians of {} runs of {} ms, of mail {}, of memory one; {} processors; load average before and after: \
         {load_before} / {}; in parentheses how many times the best peer.{cut}",
        args.programs.as_ref().map_or_else(revision, |folder| folder.display().to_string()),
        plan.runs,
        plan.time.as_millis(),
        plan.mail_runs,
        std::thread::available_parallelism().map_or(0, usize::from),
        load_average()
    );
    // One line below the plot's title, and two where a line has its limit.
    let text = caption.replacen("; load average", ";\nload average", 1);
    writeln!(io::stdout(), "{text}\n{}{costs}", table::markdown(&rows))?;
    if let Some(file) = &args.svg {
        fs::write(file, plot::svg(&rows, &caption))?;
    }
    if rows.iter().all(|row| row.cells.is_empty()) && costs.is_empty() {
        return Err(io::Error::other("nothing was measured"));
    }
    if args.write {
        if late || stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("--write: not all was measured, so that the last tables stay"));
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench");
        fs::write(folder.join("figures.svg"), plot::svg(&rows, &caption))?;
        write_figures(&folder.join("README.md"), &format!("{text}\n{}{costs}", table::markdown(&rows)))?;
    }
    if let Some(file) = &args.json {
        fs::write(file, table::json(&rows, &caption))?;
    }
    Ok(())
}

/// Puts the tables between two marks of the README, in place of the last ones.
fn write_figures(readme: &Path, tables: &str) -> io::Result<()> {
    const MARKS: [&str; 2] = ["<!-- written by bench/compare --write -->\n", "<!-- end of what is written -->"];
    let text = fs::read_to_string(readme)?;
    let missing = || io::Error::other(format!("{}: no marks to write between", readme.display()));
    let (before, rest) = text.split_once(MARKS[0]).ok_or_else(missing)?;
    let (_, behind) = rest.split_once(MARKS[1]).ok_or_else(missing)?;
    fs::write(readme, format!("{before}{}\n{tables}\n{}{behind}", MARKS[0], MARKS[1]))
}

/// Ours: what cargo has built for this benchmark, if nothing else is asked for.
fn programs(args: &Args) -> io::Result<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_smtpsrvr")).parent().map(Path::to_owned).unwrap_or_default();
    fs::canonicalize(args.programs.clone().unwrap_or(built))
}

fn peers(args: &Args) -> io::Result<Option<Peers>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = args.peers.clone().unwrap_or_else(|| repository.join("../shared/peers"));
    let nobody = |why: &str| drop(writeln!(io::stderr(), "compare: {why}: ours are measured alone"));
    if !folder.join("up.sh").is_file() {
        nobody(&format!("no up.sh in {}", folder.display()));
        return Ok(None);
    }
    if !nix::unistd::geteuid().is_root() {
        nobody("the peers need root");
        return Ok(None);
    }
    Peers::find(&fs::canonicalize(folder)?, Path::new(env!("CARGO_TARGET_TMPDIR"))).map(Some)
}

/// What was measured, where git can say so.
fn revision() -> String {
    let git =
        Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let told =
        git.ok().filter(|output| output.status.success()).and_then(|output| String::from_utf8(output.stdout).ok());
    told.map_or_else(|| "doorpost".to_owned(), |revision| format!("doorpost {}", revision.trim_end()))
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

/// State folders, removed when dropped.
struct States(Vec<(&'static str, PathBuf)>);

impl States {
    fn new(folders: &[(&'static str, PathBuf)]) -> io::Result<States> {
        let mut states = States(Vec::new());
        for (name, folder) in folders {
            fs::create_dir(folder).map_err(|error| io::Error::other(format!("{}: {error}", folder.display())))?;
            states.0.push((name, folder.clone()));
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        Ok(states)
    }
}

impl Drop for States {
    fn drop(&mut self) {
        for (_, folder) in &self.0 {
            let _ = fs::remove_dir_all(folder);
        }
    }
}
