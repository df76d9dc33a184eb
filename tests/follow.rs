//! One message, followed through the records of all programs by its id; what `deliver -w` tells; and a content_filter that
//! hands the message back.

mod common;

use common::Scratch;
use common::filter::{filter_of, runs};

#[test]
fn an_id_leads_through_the_records_from_the_client_to_the_last_delivery() {
    let scratch = Scratch::new();
    scratch.write("aliases", "all: bob, carol\n");
    let dialogue = b"EHLO client.example\r\nMAIL FROM:<alice@mx.example>\r\nRCPT TO:<all@mx.example>\r\nDATA\r\n\
        Subject: x\r\n\r\nbody\r\n.\r\nQUIT\r\n";
    let output = scratch.run("smtpsrvr", &["192.0.2.1"], dialogue);
    let received = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let id = said.split_once("queued as ").expect("an id").1.lines().next().expect("an id").trim();
    let queued = received.lines().find(|line| line.contains(&format!("id={id} "))).expect("a record of the id");
    assert!(queued.contains("event=queued ") && queued.contains(" client=192.0.2.1 "), "{queued}");
    assert!(received.contains("client=192.0.2.1 event=connect"), "{received}");
    let output = scratch.run("deliver", &["-w"], b"");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let of = |id: &str, what: &str| log.lines().any(|line| line.contains(&format!("id={id} ")) && line.contains(what));
    assert!(of(id, "to=<all@mx.example> status=expanded"), "{log}");
    let expanded = log.lines().find(|line| line.contains(&format!("id={id} event=expanded "))).expect("its expansion");
    let child = expanded.split_once(" into=").expect("the next id").1.split(' ').next().expect("the next id");
    for user in ["bob", "carol"] {
        assert!(of(child, &format!("to=<{user}@mx.example> status=delivered")), "{log}");
    }
    // What -w tells besides.
    assert!(of(id, "event=taken ") && of(id, "event=trying way=\"mailbox:\"") && of(child, "event=over "), "{log}");
    assert!(log.contains(" left="), "{log}");
}

#[test]
fn a_content_filter_takes_a_message_once_and_hands_it_back_by_qmail_queue() {
    let scratch = Scratch::with("content_filter = scan:");
    let filter = filter_of(&scratch);
    let lines =
        format!("local 127.0.0.0/8 $myhostname mailbox: *\nscan - - qmail-queue:{filter} -\nsmtp * * smtp: local\n");
    scratch.write("channels", &lines);
    let output = scratch.run(
        "submit",
        &["-f", "alice@mx.example", "bob@mx.example", "carol@mx.example"],
        b"Subject: x\n\nbody\n",
    );
    assert!(output.status.success(), "{output:?}");
    let log = scratch.deliver();
    let mail = scratch.mail("bob");
    assert_eq!((mail.len(), scratch.mail("carol").len()), (1, 1), "{log}");
    assert!(String::from_utf8_lossy(&mail[0]).contains("\nX-Scanned: yes\n"), "{log}");
    assert_eq!(runs(&scratch), 1, "{log}");
    assert!(scratch.queued().is_empty());
}
