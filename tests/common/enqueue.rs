//! Messages put into the queue as submit does it, without its program.

use super::Scratch;
use doorpost::message::parameters::{MailParameters, RecipientParameters};
use doorpost::message::path::{Address, ReversePath};
use doorpost::queue::{Draft, Head, Id, Queue};
use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

/// The trace field that they have.
pub const TRACE: &str = "Received: by mx.example\n";

impl Scratch {
    /// Queues a message from alice, without waking anybody.
    pub fn enqueue(&self, to: &[&str], content: &[u8]) -> Id {
        self.enqueue_from("alice@mx.example", to, content)
    }

    pub fn enqueue_from(&self, from: &str, to: &[&str], content: &[u8]) -> Id {
        let to: Vec<(&str, &str)> = to.iter().map(|address| (*address, "")).collect();
        self.enqueue_with((from, ""), &to, content)
    }

    /// The same with what was said behind the sender at MAIL, and behind each recipient at RCPT.
    pub fn enqueue_with(&self, from: (&str, &str), to: &[(&str, &str)], content: &[u8]) -> Id {
        self.enqueue_draft(self.draft(), from, to, content)
    }

    /// A message begun, for what is to be noted about it.
    pub fn draft(&self) -> Draft {
        fs::create_dir_all(self.queue().join("message")).expect("a folder");
        Queue::at(&self.queue()).begin().expect("a draft")
    }

    pub fn enqueue_draft(
        &self,
        mut draft: Draft,
        (from, mail): (&str, &str),
        to: &[(&str, &str)],
        content: &[u8],
    ) -> Id {
        draft.content(content).expect("content");
        draft.end_content().expect("its end");
        for (address, rcpt) in to {
            let address = Address::from_internal(address.as_bytes()).expect("an address");
            let rcpt = RecipientParameters::from_text(rcpt.as_bytes()).expect("parameters");
            draft.recipient_with(&address, &rcpt).expect("room");
        }
        draft.parameters(&MailParameters::from_text(mail.as_bytes()).expect("parameters")).expect("room");
        let reverse_path = ReversePath::from_internal(from.as_bytes()).expect("a sender");
        let is_crlf = mail.contains("BINARYMIME") && content.contains(&b'\r');
        let trace = if is_crlf { TRACE.replace('\n', "\r\n") } else { TRACE.to_owned() };
        let head = Head { reverse_path, trace: trace.into_bytes(), channel: "local".into() };
        let id = draft.commit(&head).expect("a message");
        let file = self.queue().join("message").join(id.folder()).join(id.as_str());
        file.ancestors().take(3).for_each(|path| self.hand_over_alone(path));
        id
    }

    /// The files in the queue, whatever they are.
    pub fn files(&self) -> Vec<PathBuf> {
        let below =
            |folder: PathBuf| fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        below(self.queue().join("message")).flat_map(below).collect()
    }

    /// The names of all messages, to be given to deliver.
    pub fn ids(&self) -> Vec<Id> {
        let name = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        self.files().iter().map(|path| name(path).parse().expect("an id")).collect()
    }

    /// Makes every message due.
    pub fn hurry(&self) {
        for path in self.files() {
            fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now())).expect("its time");
        }
    }
}
