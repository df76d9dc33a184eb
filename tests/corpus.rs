//! What fuzzing found worth keeping, again at every `cargo test`: each input of `fuzz/corpus/`, and inputs made of those
//! by chance, always the same. What must hold is in `fuzz/src/`.

#[path = "../fuzz/src/lib.rs"]
mod oracle;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Inputs made by chance from each one that is kept.
const VARIANTS: usize = 10;

fn replay(name: &str) {
    let (_, target) = oracle::TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> =
        fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() > 10, "{}: a corpus of {} inputs", folder.display(), files.len());
    let inputs: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("an input")).collect();
    let mut wrong = 0;
    let mut run = |input: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
            wrong += 1;
            // Seen where the test fails; `cargo fuzz run` takes it from a file.
            assert!(wrong < 5, "{name}: five inputs failed, the last: {}", input.escape_ascii());
        }
    };
    let mut chance = oracle::Chance::of(name.as_bytes(), 0);
    for input in &inputs {
        run(input);
        for _ in 0..VARIANTS {
            run(&varied(input, &inputs[chance.below(inputs.len())], &mut chance));
        }
    }
    assert_eq!(wrong, 0, "{name}: inputs that failed");
}

/// The beginning of one input and the end of another, with an octet changed now and then.
fn varied(one: &[u8], other: &[u8], chance: &mut oracle::Chance) -> Vec<u8> {
    let mut input = one[..chance.below(one.len() + 1)].to_vec();
    input.extend_from_slice(&other[chance.below(other.len() + 1)..]);
    if chance.below(3) == 0 && !input.is_empty() {
        let at = chance.below(input.len());
        input[at] = b"\r\n.: ,\0\xff"[chance.below(8)];
    }
    input
}

/// What fuzzing found stays found only as long as its test is there.
#[test]
fn every_test_that_the_readme_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("fuzz/README.md")).expect("a README");
    let (_, found) = readme.split_once("## What was found").expect("what was found");
    let words: Vec<&str> = found.split('`').skip(1).step_by(2).collect();
    let sources: Vec<String> = words
        .iter()
        .filter(|word| word.ends_with(".rs"))
        .map(|file| fs::read_to_string(root.join(file)).expect("a file of tests"))
        .collect();
    let tests: Vec<&&str> = words.iter().filter(|word| word.matches('_').count() > 2).collect();
    assert!(tests.len() > 8, "{tests:?}");
    for test in tests {
        let begin = format!("#[test]\n    fn {test}() {{");
        let is_there = |source: &String| source.contains(&begin) || source.contains(&begin.replace("    ", ""));
        assert!(sources.iter().any(is_there), "there is no test {test}");
    }
}

macro_rules! targets {
    ($( $name:ident )+) => {
        $( #[test] fn $name() { replay(stringify!($name)); } )+

        #[test]
        fn every_target_is_replayed() {
            assert_eq!(oracle::TARGETS.map(|(name, _)| name), [$( stringify!($name) ),+]);
        }
    };
}

targets! {
    smtp_session pop3_session pop3_packets qmqp_request qmtp_session netstrings main_cf channels queue_file maildir_names
    submit_frames mbox_splitter
}
