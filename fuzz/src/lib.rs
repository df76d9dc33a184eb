//! What must hold of any input: one function a fuzz target, which panics where it does not.
//!
//! `fuzz_targets/` feeds them from libFuzzer, `tests/corpus.rs` from the corpus kept in `corpus/` and from chance, so
//! that every `cargo test` checks what fuzzing found once. The functions depend on nothing but their input.

mod config;
mod follow;
mod login;
mod mbox;
mod packets;
mod pop3;
mod qmqp;
mod queue;
mod small;
mod smtp;
mod store;
mod wire;

pub use config::{channels, main_cf};
pub use mbox::mbox_splitter;
pub use packets::pop3_packets;
pub use pop3::pop3_session;
pub use qmqp::{qmqp_request, qmtp_session};
pub use queue::queue_file;
pub use small::{maildir_names, netstrings, submit_frames};
pub use smtp::smtp_session;
pub use wire::Chance;

/// A folder that goes with the thread that it is made for: nothing drops what is `static`.
fn folder_in_memory() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a folder")
}

/// A target: its name, which is also that of its folder in `corpus/`, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 12] = [
    ("smtp_session", smtp_session),
    ("pop3_session", pop3_session),
    ("pop3_packets", pop3_packets),
    ("qmqp_request", qmqp_request),
    ("qmtp_session", qmtp_session),
    ("netstrings", netstrings),
    ("main_cf", main_cf),
    ("channels", channels),
    ("queue_file", queue_file),
    ("maildir_names", maildir_names),
    ("submit_frames", submit_frames),
    ("mbox_splitter", mbox_splitter),
];
