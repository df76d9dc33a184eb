//! What becomes of requests, in both orders, with and without trouble.

use super::*;
use crate::message::trace::{Client, Protocol};
use std::io::Read;

pub struct Site {
    folder: tempfile::TempDir,
    pub config: Config,
}

impl Site {
    pub fn with(settings: &[(&str, &str)]) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("passwd"), "bob:{PLAIN}x::::/home/bob\ncarol:{PLAIN}x::::/home/carol\n").unwrap();
        let (queue, channels, users) = (path("queue"), path("channels"), format!("passwd-file:{}", path("passwd")));
        let mut all =
            vec![("myhostname", "mx.example"), ("queue_directory", &queue), ("channels", &channels), ("users", &users)];
        all.extend_from_slice(settings);
        Site { config: Config::with(&all), folder }
    }

    fn receiver<'a>(&'a self, common: &'a Common) -> Receiver<'a> {
        let mut receiver = Receiver::new(&self.config, common).unwrap();
        receiver.introduce(&introduction(Policy::Channels)).unwrap();
        receiver
    }

    pub fn queued(&self) -> Vec<queue::Message> {
        let queue = Queue::at(&self.config.queue_directory);
        let due = queue.due(std::time::SystemTime::now() + std::time::Duration::from_secs(9)).unwrap();
        due.iter().map(|(_, id)| queue.take_at_last(id)).collect()
    }

    pub fn files(&self) -> usize {
        let folders = std::fs::read_dir(self.folder.path().join("queue/message")).unwrap();
        folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
    }
}

pub fn introduction(policy: Policy) -> Introduction {
    let client = Client { helo: Some(b"c".to_vec()), name: None, address: "192.0.2.1".to_owned(), tls: None };
    Introduction { channel: "smtp".to_owned(), policy, protocol: Protocol::Esmtp, client }
}

#[test]
fn attributes_are_written_into_each_message_until_the_next_introduction() {
    let site = Site::with(&[("content_filter", "scan:")]);
    let common = Common::default();
    let mut receiver = site.receiver(&common);
    receiver.is_served = true;
    for filter in [Some("smtp:[127.0.0.1]:1"), None] {
        receiver.introduce(&introduction(Policy::Channels)).unwrap();
        if let Some(filter) = filter {
            let request = Request::Attribute("content_filter".to_owned(), filter.to_owned());
            assert_eq!(receiver.obey(&request).unwrap(), None);
        }
        receiver.reverse_path(&alice()).unwrap();
        receiver.recipient(&address("bob@mx.example")).unwrap();
        receiver.content(b"x\n").unwrap();
        assert!(matches!(receiver.commit().unwrap(), Outcome::Queued(_)));
    }
    let mut found: Vec<_> = site.queued().iter().map(|m| m.attribute("content_filter").map(str::to_owned)).collect();
    found.sort();
    assert_eq!(found, [None, Some("smtp:[127.0.0.1]:1".to_owned())]);
}

pub fn address(text: &str) -> Address {
    Address::from_internal(text.as_bytes()).unwrap()
}

pub fn alice() -> ReversePath {
    ReversePath(Some(address("alice@client.example")))
}

pub fn text(message: &queue::Message) -> String {
    let mut text = String::new();
    message.content().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_message_in_the_order_of_smtp_is_queued_with_its_trace() {
    let (site, common) = (Site::with(&[]), Common::default());
    let mut receiver = site.receiver(&common);
    receiver.reverse_path(&alice()).unwrap();
    assert_eq!(receiver.recipient(&address("bob@mx.example")).unwrap(), Verdict::Accepted);
    assert_eq!(receiver.recipient(&address("dave@mx.example")).unwrap(), Verdict::UnknownUser);
    assert_eq!(receiver.recipient(&address("bob@elsewhere.example")).unwrap(), Verdict::NotAllowed);
    receiver.content(b"Subject: x\n\n").unwrap();
    receiver.content(b"body\n").unwrap();
    let Outcome::Queued(id) = receiver.commit().unwrap() else { panic!("not queued") };
    let queued = site.queued();
    let [message] = &queued[..] else { panic!("{queued:?}") };
    assert_eq!((message.id.as_str(), &message.reverse_path, message.channel.as_str()), (&*id, &alice(), "smtp"));
    let whole = text(message);
    let trace = format!(
        "Received: from c (unknown [192.0.2.1])\n\tby mx.example (doorpost) with ESMTP id {id}\n\tfor <bob@mx.example>; "
    );
    assert!(whole.starts_with(&trace), "{whole}");
    assert!(whole.ends_with("\nSubject: x\n\nbody\n"), "{whole}");
}

#[test]
fn a_message_in_the_order_of_qmqp_is_queued_and_names_nobody_of_several() {
    let (site, common) = (Site::with(&[]), Common::default());
    let mut receiver = site.receiver(&common);
    receiver.introduce(&introduction(Policy::Anywhere)).unwrap();
    receiver.content(b"Subject: x\n\nbody\n").unwrap();
    receiver.reverse_path(&alice()).unwrap();
    for recipient in ["bob", "dave@mx.example", "x@elsewhere.example"] {
        assert_eq!(receiver.recipient(&address(recipient)).unwrap(), Verdict::Accepted);
    }
    assert!(receiver.content(b"more").is_err(), "content has ended");
    assert!(matches!(receiver.commit().unwrap(), Outcome::Queued(_)));
    let queued = site.queued();
    let addresses: Vec<_> = queued[0].recipients.iter().map(|recipient| recipient.address.clone()).collect();
    assert_eq!(addresses, ["bob@mx.example", "dave@mx.example", "x@elsewhere.example"].map(address));
    assert!(!text(&queued[0]).contains("\tfor "));
}

#[test]
fn one_message_after_another_and_none_of_an_abandoned_one() {
    let (site, common) = (Site::with(&[]), Common::default());
    let mut receiver = site.receiver(&common);
    for (number, abandoned) in [(1, true), (2, false), (3, true), (4, false)] {
        receiver.reverse_path(&alice()).unwrap();
        receiver.recipient(&address(if abandoned { "bob@mx.example" } else { "carol@mx.example" })).unwrap();
        receiver.content(format!("number {number}\n").as_bytes()).unwrap();
        match abandoned {
            true => receiver.reset().unwrap(),
            false => assert!(matches!(receiver.commit().unwrap(), Outcome::Queued(_))),
        }
    }
    receiver.reverse_path(&alice()).unwrap();
    receiver.recipient(&address("bob@mx.example")).unwrap();
    receiver.content(b"number 5\n").unwrap();
    drop(receiver);
    let queued = site.queued();
    assert_eq!((queued.len(), site.files()), (2, 2));
    assert!(queued.iter().all(|message| message.recipients[0].address == address("carol@mx.example")));
}

#[test]
fn size_counts_content_and_envelope_and_frees_the_disk_at_once() {
    let (site, common) = (Site::with(&[("message_size_limit", "5000")]), Common::default());
    for (content, recipients, taken) in [(4000, 1, true), (4999, 1, false), (4000, 10, false), (10_000_000, 1, false)] {
        let mut receiver = site.receiver(&common);
        receiver.introduce(&introduction(Policy::Anywhere)).unwrap();
        receiver.reverse_path(&alice()).unwrap();
        for number in 0..recipients {
            assert_eq!(receiver.recipient(&address(&format!("u{number}@far.example"))).unwrap(), Verdict::Accepted);
        }
        receiver.content(&vec![b'x'; content]).unwrap();
        receiver.content(b"\n").unwrap();
        if !taken {
            assert_eq!(site.files(), 1, "{content}: only the one that was taken before");
        }
        let outcome = receiver.commit().unwrap();
        assert_eq!(matches!(outcome, Outcome::Queued(_)), taken, "{content} {recipients}");
        assert!(taken || outcome == Outcome::Refused(Refusal::TooLarge));
    }
    assert_eq!(site.files(), 1);
}

#[test]
fn loops_and_messages_for_nobody_are_refused() {
    let (site, common) = (Site::with(&[("hopcount_limit", "3")]), Common::default());
    let mut receiver = site.receiver(&common);
    for (hops, taken) in [(1, true), (2, false)] {
        receiver.reverse_path(&alice()).unwrap();
        receiver.recipient(&address("bob@mx.example")).unwrap();
        receiver.content("Received: x\n".repeat(hops).as_bytes()).unwrap();
        let outcome = receiver.commit().unwrap();
        assert!(if taken {
            matches!(outcome, Outcome::Queued(_))
        } else {
            outcome == Outcome::Refused(Refusal::TooManyHops)
        });
    }
    receiver.reverse_path(&alice()).unwrap();
    receiver.content(b"x\n").unwrap();
    assert_eq!(receiver.commit().unwrap(), Outcome::Refused(Refusal::NoRecipients));
    assert_eq!(site.files(), 1);
}

#[test]
fn one_required_recipient_that_is_not_taken_keeps_the_message_from_all() {
    let (site, common) = (Site::with(&[]), Common::default());
    let mut receiver = site.receiver(&common);
    let said = |receiver: &mut Receiver<'_>, recipients: &[&str]| {
        receiver.obey(&Request::Content(b"x\n")).unwrap();
        receiver.obey(&Request::ReversePath(alice(), MailParameters::default())).unwrap();
        for recipient in recipients {
            assert_eq!(receiver.obey(&Request::Required(address(recipient))).unwrap(), None);
        }
        receiver.obey(&Request::Commit).unwrap()
    };
    let refused = Some(Reply::Outcome(Outcome::Refused(Refusal::Recipient(Verdict::UnknownUser))));
    let nobody_among_them = ["bob@mx.example", "nobody@mx.example", "carol@mx.example"];
    assert_eq!(said(&mut receiver, &nobody_among_them), refused);
    assert_eq!(site.files(), 0);
    let taken = said(&mut receiver, &["bob@mx.example", "carol@mx.example"]);
    assert!(matches!(taken, Some(Reply::Outcome(Outcome::Queued(_)))), "{taken:?}");
    assert_eq!(site.queued()[0].recipients.len(), 2);
}

#[test]
fn more_early_recipients_than_memory_is_for_are_told_so_and_the_rest_goes() {
    let (site, common) = (Site::with(&[("message_size_limit", "0")]), Common::default());
    let mut receiver = site.receiver(&common);
    receiver.introduce(&introduction(Policy::Anywhere)).unwrap();
    receiver.reverse_path(&alice()).unwrap();
    let long = |number| address(&format!("{number:04}{}@mx.example", "x".repeat(896)));
    let verdicts: Vec<_> = (0..2000).map(|number| receiver.recipient(&long(number)).unwrap()).collect();
    let taken = verdicts.iter().take_while(|verdict| **verdict == Verdict::Accepted).count();
    assert!(taken > 1000 && verdicts[taken..].iter().all(|verdict| *verdict == Verdict::TooMany));
    receiver.content(b"x\n").unwrap();
    assert!(matches!(receiver.commit().unwrap(), Outcome::Queued(_)));
    assert_eq!(site.queued()[0].recipients.len(), taken);
}

#[test]
fn trouble_with_the_disk_is_told_at_the_end_and_the_next_message_is_well() {
    let (site, common) = (Site::with(&[]), Common::default());
    let mut receiver = site.receiver(&common);
    let (message, away) = (site.folder.path().join("queue/message"), site.folder.path().join("away"));
    std::fs::rename(&message, &away).unwrap();
    std::fs::write(&message, "").unwrap();
    receiver.reverse_path(&alice()).unwrap();
    assert_eq!(receiver.recipient(&address("bob@mx.example")).unwrap(), Verdict::Accepted);
    receiver.content(b"x\n").unwrap();
    std::fs::remove_file(&message).unwrap();
    std::fs::rename(&away, &message).unwrap();
    assert_eq!(receiver.commit().unwrap(), Outcome::Refused(Refusal::Trouble));
    receiver.reverse_path(&alice()).unwrap();
    receiver.recipient(&address("bob@mx.example")).unwrap();
    assert!(matches!(receiver.commit().unwrap(), Outcome::Queued(_)));
}

#[test]
fn without_an_introduction_nothing_is_taken() {
    let (site, common) = (Site::with(&[]), Common::default());
    let mut receiver = Receiver::new(&site.config, &common).unwrap();
    assert!(receiver.verify(&address("bob@mx.example")).is_err());
    assert!(receiver.reverse_path(&alice()).is_err());
    assert!(receiver.recipient(&address("bob@mx.example")).is_err());
    assert!(receiver.commit().is_err());
}

#[test]
fn a_recipient_named_twice_is_written_once() {
    let site = Site::with(&[]);
    let common = Common::default();
    let mut receiver = site.receiver(&common);
    receiver.reverse_path(&alice()).unwrap();
    for name in ["bob@mx.example", "carol@mx.example", "bob@mx.example", "bob@MX.Example"] {
        assert_eq!(receiver.recipient(&address(name)).unwrap(), Verdict::Accepted, "{name}");
    }
    receiver.content(b"x\n").unwrap();
    assert!(matches!(receiver.commit().unwrap(), Outcome::Queued(_)));
    assert_eq!(site.queued()[0].recipients.len(), 2);
}

/// RFC 3461 sections 5.2.3 and 5.2.6: each recipient of the transaction has its own.
#[test]
fn whoever_is_named_again_with_other_wishes_is_another_recipient() {
    let site = Site::with(&[]);
    let common = Common::default();
    let mut receiver = site.receiver(&common);
    receiver.reverse_path(&alice()).unwrap();
    for said in ["NOTIFY=NEVER", "", "NOTIFY=NEVER", "NOTIFY=NEVER ORCPT=rfc822;b@c", ""] {
        let parameters = RecipientParameters::from_text(said.as_bytes()).unwrap();
        assert_eq!(receiver.recipient_with(&address("bob@mx.example"), &parameters).unwrap(), Verdict::Accepted);
    }
    receiver.content(b"x\n").unwrap();
    assert!(matches!(receiver.commit().unwrap(), Outcome::Queued(_)));
    let queued = &site.queued()[0];
    let said: Vec<String> = queued.recipients.iter().map(|recipient| recipient.parameters.to_string()).collect();
    assert_eq!(said, ["NOTIFY=NEVER", "", "NOTIFY=NEVER ORCPT=rfc822;b@c"]);
}
