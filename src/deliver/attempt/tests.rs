//! An attempt whose master and whose agent are threads of the test.

use super::*;
use crate::cli::Common;
use crate::deliver::permits::Socket;
use crate::message::path::ReversePath;
use crate::queue::{Draft, Head};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

struct Bench {
    settings: Settings,
    queue: Queue,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// All mail goes to one next hop.
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let own = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(65_534)).unwrap().unwrap().name;
        let main_cf =
            format!("myhostname = mx.example\nmail_owner = {own}\nqueue_directory = {}\n", at("queue").display());
        std::fs::write(at("main.cf"), main_cf).unwrap();
        std::fs::write(at("channels"), "out - * smtp:[192.0.2.1] -\n").unwrap();
        let common = Common { config: Some(folder.path().to_owned()), ..Common::default() };
        let settings = Settings::new(&common, Config::load(&common).unwrap()).unwrap();
        let queue = Queue::open(&at("queue")).unwrap();
        Bench { settings, queue, _folder: folder }
    }

    fn enqueue(&self, to: &str) -> Id {
        let mut draft: Draft = self.queue.begin().unwrap();
        draft.content(b"Subject: x\n\nhello\n").unwrap();
        draft.end_content().unwrap();
        draft.recipient_with(&Address::from_internal(to.as_bytes()).unwrap(), &RecipientParameters::default()).unwrap();
        let reverse_path = ReversePath::from_internal(b"alice@mx.example").unwrap();
        draft
            .commit(&Head { reverse_path, trace: b"Received: by mx.example\n".to_vec(), channel: "out".into() })
            .unwrap()
    }
}

/// What an agent says of a job whose one recipient the host has taken.
fn taken() -> Vec<u8> {
    let field = |octets: &[u8]| [&u32::try_from(octets.len()).unwrap().to_be_bytes()[..], octets].concat();
    field(&[b"A".as_slice(), &[1], b"K2.0.0 taken"].map(field).concat())
}

/// What the host has must not go there again because nobody was there to be told of it.
#[test]
fn what_a_host_has_taken_is_noted_though_the_master_is_gone_when_it_is_told() {
    let bench = Bench::new();
    let id = bench.enqueue("bob@b.example");
    let (master, its) = Socket::pair().unwrap();
    let desk = Desk::at(its);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (agent, mut its) = UnixStream::pair().unwrap();
            let (word, _) = master.receive().unwrap().unwrap();
            assert!(matches!(Word::from_text(&word), Some(Word::Want { errand: Errand::Mail, .. })), "{word}");
            Permit::Go(Lent { agent: Some(agent), ..Lent::default() }).send(&master).unwrap();
            let mut length = [0; 4];
            its.read_exact(&mut length).unwrap();
            its.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize]).unwrap();
            master.shut();
            its.write_all(&taken()).unwrap();
        });
        let mut tools = Tools { queue: &bench.queue, settings: &bench.settings, helper: None, desk: &desk };
        assert!(attempt(&mut tools, &id).is_err(), "nobody was told");
    });
    let message = bench.queue.try_take(&id).unwrap().unwrap();
    assert_eq!(message.recipients[0].state, RecipientState::Delivered);
}
