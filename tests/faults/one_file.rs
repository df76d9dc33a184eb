//! Kills at every call and errors in every file call where a mailbox is one file, mbox and MMDF: QUIT leaves the old or
//! the new one, and a delivery is in it whole and once, behind what was there.
//!
//! Of MMDF, which shares nearly all of it with mbox, a part is made in every run; see plan.rs for the whole.

use super::super::*;
use super::plan::Share;

/// A format, and two messages in it.
pub struct Format {
    pub name: &'static str,
    share: fn(usize) -> Share,
    removed: &'static str,
    kept: &'static str,
}

pub const MBOX_KEPT: &str = "From a Sun Nov 22 04:27:00 2026\nSubject: two\n\nto be kept\n\n";

pub const MBOX: Format = Format {
    name: "mbox",
    share: Share::Whole,
    removed: "From a Sun Nov 22 04:27:00 2026\nSubject: one\n\nto be removed\n\n",
    kept: MBOX_KEPT,
};

const DELIMITER: &str = "\x01\x01\x01\x01\n";

const MMDF: Format = Format {
    name: "mmdf",
    share: Share::Part,
    removed: "\x01\x01\x01\x01\nSubject: one\n\nto be removed\n\x01\x01\x01\x01\n",
    kept: "\x01\x01\x01\x01\nSubject: two\n\nto be kept\n\x01\x01\x01\x01\n",
};

impl Format {
    /// An installation whose bob has these messages.
    fn holding(&self, scratch: Scratch, messages: &[&str]) -> Scratch {
        scratch.configure(&format!("mailbox = {}:{}/mail/%u", self.name, scratch.path().display()));
        fs::write(scratch.maildir("bob"), messages.concat()).expect("a mailbox");
        scratch.hand_over(&scratch.maildir("bob"));
        scratch
    }

    /// Two messages, of which a session removes the first.
    fn two(&self) -> Scratch {
        self.holding(Scratch::with(AT_ONCE), &[self.removed, self.kept])
    }

    /// The mailbox is the old one or the new one, the new one if goodbye was said, and the next session can work at once.
    fn old_or_new(&self, scratch: &Scratch, output: &Output, what: &str) {
        let text = fs::read_to_string(scratch.maildir("bob")).expect("the mailbox");
        let is_new = text == self.kept;
        assert!(is_new || text == [self.removed, self.kept].concat(), "{what}: {text}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // Before login goodbye removes nothing.
        let removed = said.contains("Marked as deleted") && said.ends_with("+OK Goodbye\r\n");
        assert!(is_new || !removed, "{what}: said goodbye and did not remove: {said}");
        let next = feed(
            &mut scratch.command("pop3d"),
            format!("USER bob\r\nPASS {}\r\nDELE 1\r\nQUIT\r\n", common::PASSWORD).as_bytes(),
        );
        assert!(next.stdout.ends_with(b"+OK Goodbye\r\n"), "{what}: the next session: {next:?}");
        no_panic(output, what);
        assert_eq!(files(&scratch.path().join("mail")), [scratch.maildir("bob")], "{what}: left behind");
    }

    /// One message in the queue for bob, who has one already.
    pub fn queued(&self) -> Scratch {
        self.holding(queued(), &[self.kept])
    }

    /// One ordinary sweep later the message is in the mailbox, whole and once, behind the other.
    pub fn once(&self, scratch: &Scratch, what: &str) {
        due_again(scratch);
        scratch.deliver();
        let text = fs::read_to_string(scratch.maildir("bob")).expect("the mailbox");
        let delivered = text.strip_prefix(self.kept).unwrap_or_else(|| panic!("{what}: another's message: {text}"));
        let (begins, ends, lines) = match self.name {
            "mbox" => ("From alice@mx.example ", "\n", 1),
            _ => (DELIMITER, DELIMITER, 2),
        };
        assert!(delivered.starts_with(begins) && delivered.ends_with(&format!("{BODY}{ends}")), "{what}: {text}");
        let is_between = |line: &&str| *line == DELIMITER || line.starts_with("From ");
        assert_eq!(delivered.split_inclusive('\n').filter(is_between).count(), lines, "{what}: {text}");
        let fields = "\nReturn-Path: <alice@mx.example>\nX-Delivery-ID: ";
        assert_eq!(delivered.matches(fields).count(), 1, "{what}: {text}");
        assert_eq!(delivered.matches(" whole  \nReceived: ").count(), 1, "{what}: {text}");
        assert_eq!(scratch.queued().len(), 0, "{what}: left in the queue");
        self.is_left_alone(scratch, what);
    }

    /// Nothing is beside the mailbox. A lock that could not be removed may be: the next delivery does.
    fn is_left_alone(&self, scratch: &Scratch, what: &str) {
        let folder = scratch.path().join("mail");
        let left = || files(&folder).into_iter().filter(|path| *path != scratch.maildir("bob")).collect::<Vec<_>>();
        if left() == [folder.join("bob.lock")] && !what.contains("killed") {
            let output = scratch.run("submit", &["-f", "alice@mx.example", "bob@mx.example"], BODY.as_bytes());
            assert!(output.status.success(), "{what}: {output:?}");
            scratch.deliver();
            let text = fs::read_to_string(scratch.maildir("bob")).expect("the mailbox");
            assert_eq!(text.matches(BODY).count(), 2, "{what}: the next delivery: {text}");
        }
        assert_eq!(left(), Vec::<PathBuf>::new(), "{what}: left behind");
    }

    fn strike_pop3d(&self) {
        pop3(Traced::Family).kill_and_fail(self.share, [300, 200], &|| self.two(), &|scratch, output, what| {
            self.old_or_new(scratch, output, what);
        });
    }

    fn strike_deliver(&self) {
        let once = |scratch: &Scratch, _: &Output, what: &str| self.once(scratch, what);
        deliver(Traced::Family).kill((self.share)(340), &|| self.queued(), &once);
        // Up to the mailbox they are those of a delivery into a Maildir.
        deliver(Traced::Family).fail(Share::Part(220), &|| self.queued(), &once);
    }
}

/// An mbox with two messages, of which a session removes the first.
pub fn mbox() -> Scratch {
    MBOX.two()
}

/// Of `mbox`.
pub fn old_or_new(scratch: &Scratch, output: &Output, what: &str) {
    MBOX.old_or_new(scratch, output, what);
}

#[test]
fn pop3d_killed_or_failing_anywhere_leaves_the_old_or_the_new_mbox() {
    MBOX.strike_pop3d();
}

#[test]
fn pop3d_killed_or_failing_anywhere_leaves_the_old_or_the_new_mmdf() {
    MMDF.strike_pop3d();
}

#[test]
fn deliver_killed_or_failing_anywhere_writes_an_mbox_once() {
    MBOX.strike_deliver();
}

#[test]
fn deliver_killed_or_failing_anywhere_writes_an_mmdf_once() {
    MMDF.strike_deliver();
}
