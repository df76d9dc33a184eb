use super::*;
use crate::config::value::MailboxFormat;
use crate::mailbox::Entry;
use crate::net::peer::Origin;
use crate::pop3::content::Content;
use crate::sasl::Proof;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read};
use std::rc::Rc;

/// A client that says what it has to say in pieces, then is silent, gone, or at its end.
struct Memory {
    input: Vec<u8>,
    piece: usize,
    then: fn() -> Result<usize, Fault>,
    is_hasty: bool,
    stops: Option<(usize, fn() -> Fault)>,
    heard: Rc<RefCell<Vec<u8>>>,
    writes: Rc<Cell<usize>>,
}

impl Stream for Memory {
    fn allow(&mut self, _: Duration) {}
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let count = self.piece.min(self.input.len()).min(buffer.len());
        if count == 0 {
            return (self.then)();
        }
        for (place, octet) in buffer.iter_mut().zip(self.input.drain(..count)) {
            *place = octet;
        }
        Ok(count)
    }
    fn is_waiting(&mut self, _: Duration) -> bool {
        self.is_hasty && !self.input.is_empty()
    }
    fn send(&mut self, octets: &[u8]) -> Result<(), Fault> {
        self.writes.set(self.writes.get() + 1);
        let mut heard = self.heard.borrow_mut();
        if let Some((room, fault)) = self.stops.take_if(|(room, _)| heard.len() + octets.len() > *room) {
            let count = room.saturating_sub(heard.len());
            heard.extend_from_slice(&octets[..count]);
            return Err(fault());
        }
        heard.extend_from_slice(octets);
        Ok(())
    }
    fn finish(&mut self) {}
}

/// What became of a maildrop.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fate {
    removed: Vec<usize>,
    /// What the client had heard when the maildrop was let go of.
    heard_at_release: Option<Vec<u8>>,
}

struct Drop1 {
    entries: Vec<Entry>,
    messages: Vec<&'static [u8]>,
    undeletable: bool,
    heard: Rc<RefCell<Vec<u8>>>,
    fate: Rc<RefCell<Fate>>,
}

impl Maildrop for Drop1 {
    fn count(&self) -> usize {
        self.entries.len()
    }

    fn total(&self) -> u64 {
        self.entries.iter().map(|entry| entry.octets).sum()
    }

    fn entry(&self, number: usize) -> io::Result<Entry> {
        Ok(self.entries[number].clone())
    }
    fn open(&self, number: usize) -> io::Result<Box<dyn Read>> {
        match self.messages[number] {
            b"gone" => Err(ErrorKind::NotFound.into()),
            b"locked away" => Err(ErrorKind::PermissionDenied.into()),
            b"broken" => Ok(Box::new(b"half of".chain(Broken))),
            message => Ok(Box::new(message)),
        }
    }
    fn remove(&mut self, numbers: &[usize]) -> io::Result<usize> {
        self.fate.borrow_mut().removed = numbers.to_vec();
        Ok(usize::from(self.undeletable))
    }
}

impl Drop for Drop1 {
    fn drop(&mut self) {
        self.fate.borrow_mut().heard_at_release = Some(self.heard.borrow().clone());
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the disk"))
    }
}

struct Played {
    heard: String,
    fate: Fate,
    writes: usize,
    ended: Result<Ended, Error>,
}

const MESSAGES: [&[u8]; 3] = [b"A: 1\n\n.dot\nend", b"B: 2\r\n\r\nx\r\n", b"\n"];

struct Play {
    input: Vec<u8>,
    piece: usize,
    messages: Vec<&'static [u8]>,
    undeletable: bool,
    then: fn() -> Result<usize, Fault>,
    /// What is to be read is there before anything is answered.
    is_hasty: bool,
    /// It takes so many octets, then this happens, and then it takes others.
    stops: Option<(usize, fn() -> Fault)>,
    tls_auth_only: bool,
    expiry: Option<Expiry>,
}

impl Play {
    fn new(input: impl AsRef<[u8]>) -> Play {
        Play {
            input: input.as_ref().to_vec(),
            piece: 4096,
            messages: MESSAGES.to_vec(),
            undeletable: false,
            then: || Ok(0),
            is_hasty: false,
            stops: None,
            tls_auth_only: false,
            expiry: None,
        }
    }

    /// A whole session: name "bob", password "x".
    fn run(self) -> Played {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let fate = Rc::new(RefCell::new(Fate::default()));
        let stream = Memory {
            input: self.input,
            piece: self.piece,
            then: self.then,
            is_hasty: self.is_hasty,
            stops: self.stops,
            heard: Rc::clone(&heard),
            writes: Rc::default(),
        };
        let writes = Rc::clone(&stream.writes);
        let mut dialogue = Dialogue::new(stream, Duration::from_secs(1));
        let peer = Peer::new(Origin::Unknown);
        let mut out = Vec::new();
        let entries = self.messages.iter().zip(1..).map(|(message, number)| {
            out.clear();
            let mut content = Content::whole();
            content.push(message, &mut out);
            content.finish(&mut out);
            let stuffed = out.windows(3).filter(|three| *three == b"\n..").count();
            Entry { octets: (out.len() - 3 - stuffed) as u64, unique_id: format!("uid{number}") }
        });
        let maildrop = Drop1 {
            entries: entries.collect(),
            messages: self.messages,
            undeletable: self.undeletable,
            heard: Rc::clone(&heard),
            fate: Rc::clone(&fate),
        };
        let (passwords_allowed, host) = (!self.tls_auth_only, "mx.example".to_owned());
        let access = Access { passwords_allowed, secrets: false, tls: Offer::None, host, nonce: auth::nonce };
        let entered = authorize(&mut dialogue, &peer, access, |_, credentials, _| {
            let Proof::Password(secret) = &credentials.proof else { return Ok(Lookup::No) };
            match &secret.0[..] {
                b"x" if credentials.name == b"bob" => Ok(Lookup::Yes(((), Vec::new()))),
                b"table" => Ok(Lookup::CannotTell(String::new())),
                b"trouble" => Err(Error::Temporary(String::new())),
                _ => Ok(Lookup::No),
            }
        });
        let visitor = Visitor { peer: &peer, user: "bob", secrets: false, last: None };
        let ended = match entered {
            Ok(Entered::In(())) => transaction(&mut dialogue, maildrop, visitor, self.expiry),
            Ok(Entered::Out(ended)) => Ok(ended),
            Err(error) => Err(error),
        };
        let heard = String::from_utf8_lossy(&heard.borrow()).into_owned();
        Played { heard, fate: fate.take(), writes: writes.get(), ended }
    }
}

const LOGIN: &str = "USER bob\r\nPASS x\r\n";

fn after_login(commands: &str) -> Played {
    Play::new(format!("{LOGIN}{commands}")).run()
}

fn answers(commands: &str) -> String {
    let heard = after_login(commands).heard;
    heard.split_once("octets\r\n").unwrap().1.to_owned()
}

#[test]
fn a_whole_session_is_the_same_in_pieces_of_every_size() {
    let all = format!(
        "CAPA\r\nBOGUS\r\nUSER carol\r\nPASS y\r\n{LOGIN}STAT\r\nLIST\r\nLIST 2\r\nUIDL\r\nUIDL 3\r\nRETR 1\nRETR 2\r\n\
         TOP 1 1\r\nTOP 3 0\r\nDELE 2\r\nDELE 2\r\nLIST\r\n{}\r\nRETR 9\r\nLAST\r\nCAPA\r\nNOOP\r\nQUIT\r\n",
        "x".repeat(1000)
    );
    let whole = Play::new(&all).run();
    assert_eq!(whole.fate.removed, [1]);
    assert!(matches!(whole.ended, Ok(Ended::Done)));
    for piece in 1..all.len() {
        let played = Play { piece, ..Play::new(&all) }.run();
        assert_eq!((&played.heard, &played.fate.removed), (&whole.heard, &whole.fate.removed), "pieces of {piece}");
    }
}

#[test]
fn pipelined_commands_are_answered_in_one_write() {
    let played = after_login("STAT\r\nRETR 1\r\nDELE 1\r\nNOOP\r\n");
    assert_eq!(played.writes, 2, "greeting and batch: {}", played.heard);
}

#[test]
fn what_is_listed_is_what_is_sent() {
    assert_eq!(answers("LIST\r\n"), "+OK Listing follows\r\n1 19\r\n2 11\r\n3 2\r\n.\r\n");
    assert_eq!(answers("RETR 1\r\n"), "+OK Message follows\r\nA: 1\r\n\r\n..dot\r\nend\r\n.\r\n");
    assert_eq!(answers("RETR 2\r\n"), "+OK Message follows\r\nB: 2\r\n\r\nx\r\n.\r\n");
    assert_eq!(answers("RETR 3\r\n"), "+OK Message follows\r\n\r\n.\r\n");
    assert_eq!(answers("STAT\r\n"), "+OK 3 32\r\n");
    assert_eq!(answers("UIDL\r\n"), "+OK Listing follows\r\n1 uid1\r\n2 uid2\r\n3 uid3\r\n.\r\n");
}

#[test]
fn top_0_is_the_header_and_the_empty_line() {
    assert_eq!(answers("TOP 1 0\r\n"), "+OK Message follows\r\nA: 1\r\n\r\n.\r\n");
    assert_eq!(answers("TOP 1 1\r\n"), "+OK Message follows\r\nA: 1\r\n\r\n..dot\r\n.\r\n");
}

#[test]
fn the_maildrop_is_free_before_the_client_hears_goodbye() {
    let played = Play { piece: 1, ..Play::new(format!("{LOGIN}DELE 1\r\nQUIT\r\n")) }.run();
    assert_eq!(played.fate.removed, [0]);
    assert!(played.heard.ends_with("+OK Goodbye\r\n"));
    let before = String::from_utf8(played.fate.heard_at_release.unwrap()).unwrap();
    assert!(before.ends_with("+OK Marked as deleted\r\n"), "{before}");
}

#[test]
fn what_could_not_be_removed_is_told() {
    let played = Play { undeletable: true, ..Play::new(format!("{LOGIN}DELE 1\r\nQUIT\r\n")) }.run();
    assert!(played.heard.ends_with("-ERR [SYS/TEMP] Some deleted messages were not removed\r\n"), "{}", played.heard);
}

#[test]
fn only_quit_removes() {
    let ends: [fn() -> Result<usize, Fault>; 4] =
        [|| Ok(0), || Err(Fault::HungUp), || Err(Fault::TimedOut), || Err(Fault::Io(io::Error::other("cable")))];
    for then in ends {
        for last in ["", "QUIT", "QUIT\r", "QUI", "QUIT 1\r\n", "XQUIT\r\n"] {
            let played = Play { then, ..Play::new(format!("{LOGIN}DELE 1\r\n{last}")) }.run();
            assert_eq!(played.fate.removed, Vec::<usize>::new(), "{last}");
            assert!(played.fate.heard_at_release.is_some());
        }
    }
}

#[test]
fn nothing_is_removed_before_what_was_asked_for_has_been_sent() {
    let faults: [fn() -> Fault; 2] = [|| Fault::HungUp, || Fault::TimedOut];
    for fault in faults {
        let played =
            Play { stops: Some((60, fault)), ..Play::new(format!("{LOGIN}RETR 1\r\nDELE 1\r\nQUIT\r\n")) }.run();
        assert_eq!(played.fate.removed, Vec::<usize>::new(), "{}", played.heard);
        assert!(matches!(played.ended, Ok(Ended::HungUp | Ended::TimedOut)));
        assert!(!played.heard.contains("Goodbye"), "{}", played.heard);
    }
}

/// Where a file beside the mailbox says what was fetched, with the file and a way to play with it.
struct Expiring {
    folder: tempfile::TempDir,
    config: Config,
}

impl Expiring {
    fn after(days: &str) -> Expiring {
        let config = Config::with(&[("pop3d_expire", days), ("pop3d_delete_expired", "yes")]);
        Expiring { folder: tempfile::tempdir().unwrap(), config }
    }

    fn play(&self, commands: &str) -> Play {
        let path = self.folder.path().to_str().unwrap().to_owned();
        let expiry = Expiry::of(&self.config, &MailboxSpec { format: MailboxFormat::Maildir, path });
        Play { expiry, ..Play::new(format!("{LOGIN}{commands}")) }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("doorpost-read")
    }

    fn fetched(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.file()).unwrap_or_default();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }
}

#[test]
fn a_message_counts_as_fetched_when_the_client_has_gone_on_behind_it() {
    let fetched = |change: fn(Play) -> Play| {
        let site = Expiring::after("0");
        let played = change(site.play("RETR 1\r\nTOP 2 99\r\nTOP 3 0\r\nNOOP\r\n")).run();
        assert_eq!(played.fate.removed, Vec::<usize>::new());
        site.fetched()
    };
    assert_eq!(fetched(|play| Play { piece: 1, ..play }), ["uid1", "uid2"]);
    // All at once, or in pieces that were there already: nobody knows what became of the answers.
    assert!(fetched(|play| play).is_empty());
    assert!(fetched(|play| Play { piece: 1, is_hasty: true, ..play }).is_empty());
    assert!(fetched(|play| Play { piece: 1, stops: Some((100, || Fault::HungUp)), ..play }).is_empty());
    // Who asks for two at once and goes on may have had the first only, until it says that this is all.
    let behind_two = |commands: &str, first: &str| {
        let site = Expiring::after("7");
        Play { piece: LOGIN.len() + first.len(), ..site.play(commands) }.run();
        site.fetched()
    };
    assert_eq!(behind_two("RETR 1\r\nRETR 2\r\nNOOP\r\n", "RETR 1\r\nRETR 2\r\n"), ["uid1"]);
    assert_eq!(behind_two("RETR 1\r\nRETR 2\r\nQUIT\r\n", "RETR 1\r\nRETR 2\r\n"), ["uid1", "uid2"]);
    assert!(behind_two("RETR 1\r\nNOOP\r\n", "RETR 1\r\nNO").is_empty(), "this was begun before");
    // QUIT says so, too, but not of what could not be sent.
    for (stops, removed) in [(None, vec![0]), (Some((100, (|| Fault::HungUp) as fn() -> Fault)), vec![])] {
        let site = Expiring::after("0");
        let played = Play { stops, ..site.play("RETR 1\r\nQUIT\r\n") }.run();
        assert_eq!(played.fate.removed, removed, "{}", played.heard);
        assert_eq!(site.fetched().len(), removed.len());
    }
}

#[test]
fn what_has_expired_goes_also_where_its_file_cannot_be_written_anew() {
    let site = Expiring::after("7");
    std::fs::write(site.file(), "1700000000 uid2\nof no use\n").unwrap();
    // The name of the draft is taken, as a disk may be full.
    std::fs::create_dir(site.folder.path().join("doorpost-read.new")).unwrap();
    assert_eq!(site.play("QUIT\r\n").run().fate.removed, [1]);
}

#[test]
fn a_file_that_no_quit_has_cut_is_cut_at_login() {
    let site = Expiring::after("7");
    let lines = |count: usize| "1700000000 uid2\n".repeat(count);
    for (before, after) in [(4, 4), (1000, 1)] {
        std::fs::write(site.file(), lines(before)).unwrap();
        site.play("").run();
        assert_eq!(std::fs::read_to_string(site.file()).unwrap(), lines(after));
    }
}

#[test]
fn nothing_is_said_in_the_middle_of_a_message() {
    static LARGE: [u8; 100_000] = [b'x'; 100_000];
    let silent = "-ERR Silent";
    let play = |commands| Play {
        messages: vec![&LARGE[..]],
        stops: Some((50_000, || Fault::TimedOut)),
        ..Play::new(format!("{LOGIN}{commands}"))
    };
    let played = play("RETR 1\r\nNOOP\r\n").run();
    assert!(matches!(played.ended, Ok(Ended::TimedOut)));
    assert!(played.heard.len() >= 50_000 && !played.heard.contains(silent));
    // Behind the end of one it is.
    let played = Play { then: || Err(Fault::TimedOut), stops: None, ..play("RETR 1\r\n") }.run();
    assert!(played.heard.contains("\r\n.\r\n-ERR Silent"));
}

#[test]
fn a_silent_client_is_told_why_it_is_left() {
    let played = Play { then: || Err(Fault::TimedOut), ..Play::new(LOGIN) }.run();
    assert!(played.heard.ends_with("-ERR Silent for too long, nothing was deleted, goodbye\r\n"), "{}", played.heard);
    assert!(matches!(played.ended, Ok(Ended::TimedOut)));
}

#[test]
fn three_wrong_passwords_end_it_and_say_nothing_of_the_user() {
    let wrong = "-ERR [AUTH] Wrong name or password\r\n";
    let played =
        Play::new("USER bob\r\nPASS y\r\nUSER nobody\r\nPASS x\r\nUSER bob\r\nPASS\r\nUSER bob\r\nPASS \r\nSTAT\r\n")
            .run();
    assert_eq!(played.heard.matches(wrong).count(), 2, "{}", played.heard);
    assert!(played.heard.ends_with("-ERR [AUTH] Wrong name or password too often, goodbye\r\n"), "{}", played.heard);
    assert!(matches!(played.ended, Ok(Ended::Refused)));
}

#[test]
fn trouble_of_ours_is_not_a_wrong_password() {
    let played = Play::new(format!("USER bob\r\nPASS table\r\n{LOGIN}QUIT\r\n")).run();
    assert!(played.heard.contains("-ERR [SYS/TEMP] Passwords"), "{}", played.heard);
    assert!(matches!(played.ended, Ok(Ended::Done)));
    let played = Play::new("USER bob\r\nPASS trouble\r\nNOOP\r\n").run();
    assert!(played.heard.ends_with("-ERR [SYS/TEMP] Not possible now, try again later\r\n"), "{}", played.heard);
    assert!(matches!(played.ended, Err(Error::Temporary(_))));
}

#[test]
fn without_tls_there_is_no_user() {
    let played = Play { tls_auth_only: true, ..Play::new(format!("CAPA\r\n{LOGIN}")) }.run();
    assert!(!played.heard.contains("\r\nUSER\r\n"), "{}", played.heard);
    assert_eq!(played.heard.matches("-ERR [AUTH] No passwords without TLS here\r\n").count(), 2);
    let played = Play::new("CAPA\r\n").run();
    assert!(played.heard.contains("\r\nUSER\r\n"), "{}", played.heard);
}

#[test]
fn an_overlong_line_is_one_error_however_long() {
    let played = Play::new([&vec![b'x'; 1 << 20][..], b"\r\nQUIT\r\n"].concat()).run();
    assert_eq!(played.heard.matches("-ERR Line too long\r\n").count(), 1, "{}", played.heard);
    assert!(played.heard.ends_with("+OK Goodbye\r\n"));
}

#[test]
fn twenty_bad_commands_end_it() {
    let played = after_login(&"BOGUS\r\n".repeat(30));
    assert_eq!(played.heard.matches("-ERR Unknown command\r\n").count(), 19);
    assert!(played.heard.ends_with("-ERR Too many bad commands, goodbye\r\n"), "{}", played.heard);
}

#[test]
fn a_bad_message_hides_no_other() {
    let messages: Vec<&[u8]> = vec![b"gone", b"locked away", b"A: 1\n"];
    let played = Play { messages, ..Play::new(format!("{LOGIN}RETR 1\r\nTOP 2 0\r\nRETR 3\r\nQUIT\r\n")) }.run();
    let expected = "-ERR Another program has removed that message\r\n\
                    -ERR [SYS/PERM] That message cannot be read, ask whoever runs this server\r\n\
                    +OK Message follows\r\nA: 1\r\n.\r\n+OK Goodbye\r\n";
    assert!(played.heard.ends_with(expected), "{}", played.heard);
}

#[test]
fn half_a_message_is_never_ended_like_a_whole_one() {
    let played = Play { messages: vec![b"broken"], ..Play::new(format!("{LOGIN}RETR 1\r\nQUIT\r\n")) }.run();
    assert!(!played.heard.contains("\r\n.\r\n"), "{}", played.heard);
    assert!(matches!(played.ended, Err(Error::Temporary(_))));
}

proptest! {
    #[test]
    fn no_octets_make_it_panic(input in proptest::collection::vec(any::<u8>(), 0..600), piece in 1_usize..64) {
        let after = [LOGIN.as_bytes(), &input].concat();
        for input in [input, after] {
            let played = Play { piece, ..Play::new(input) }.run();
            let ended = matches!(played.ended, Ok(Ended::HungUp | Ended::Done | Ended::Refused));
            prop_assert!(ended);
            prop_assert!(played.heard.ends_with("\r\n"));
        }
    }
}

/// With the command line of another server unchanged, and no `-m`: all maildrops would be empty without a word.
#[test]
fn mail_that_lies_in_the_spool_of_another_server_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let maildir =
        MailboxSpec { format: MailboxFormat::Maildir, path: folder.path().join("Maildir").display().to_string() };
    let left = |mailbox: &MailboxSpec, user: &str| left_in_spool(mailbox, user, folder.path());
    assert_eq!(left(&maildir, "bob"), None);
    std::fs::write(folder.path().join("bob"), "").unwrap();
    assert_eq!(left(&maildir, "bob"), None, "it is empty");
    std::fs::write(folder.path().join("bob"), "From x\n").unwrap();
    assert_eq!(left(&maildir, "bob"), Some(folder.path().join("bob")));
    let mbox = MailboxSpec { format: MailboxFormat::Mbox, ..maildir.clone() };
    assert_eq!((left(&mbox, "bob"), left(&maildir, "../x/bob"), left(&maildir, "")), (None, None, None));
    std::fs::create_dir(&maildir.path).unwrap();
    assert_eq!(left(&maildir, "bob"), None);
}
