//! Who gets what, and who learns what, without any process.

use super::homes::Silence;
use super::places::{AGENTS, REPORTS};
use super::processes::Agent;
use super::*;
use crate::deliver::permits::{Lent, Permit, Socket};
use std::os::unix::net::UnixStream;
use std::time::SystemTime;

const ONE: &str = "0 mx.example 192.0.2.1:25";
const REUSE: Duration = Duration::from_secs(300);

/// A crew of so many, with the other ends of their sockets.
fn crew(workers: usize) -> (Crew, Vec<Socket>) {
    let (mut crew, mut theirs) = (Crew { most_remote: 100, ..Crew::default() }, Vec::new());
    for _ in 0..workers {
        let (socket, its) = Socket::pair().unwrap();
        theirs.push(its);
        crew.workers.push(Worker::new(Pid::from_raw(i32::MAX), socket));
    }
    (crew, theirs)
}

fn ids(count: u64) -> Vec<Id> {
    (0..count).map(|number| Id::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + number))).collect()
}

/// An agent as it is started, of which only our end is there.
fn agent(is_shared: bool) -> Agent {
    let (socket, _) = UnixStream::pair().unwrap();
    Agent::new(socket, is_shared)
}

fn permit(crew: &mut Crew, number: usize, key: &str, is_shared: bool) -> Permit {
    crew.permit(number, key, 20, Some(REUSE), &mut |_| Some(agent(is_shared)))
}

/// A worker comes for a domain, and its new agent finds these hosts.
fn come(crew: &mut Crew, number: usize, key: &str, hosts: &str, is_shared: bool) -> Permit {
    assert!(matches!(permit(crew, number, key, is_shared), Permit::Go(Lent { is_new: true, .. })));
    crew.settle(number, hosts.to_owned(), REUSE).1
}

fn silence() -> Silence {
    (Instant::now() + SILENCE, "4.4.1 no answer to a connection".to_owned())
}

/// One whose new agent found the address silent.
fn find_silent(crew: &mut Crew, number: usize, key: &str, hosts: &str, address: &str) {
    assert!(matches!(come(crew, number, key, hosts, true), Permit::Go(Lent { is_new: true, .. })));
    crew.is_silent(number, address.to_owned(), silence());
    crew.done(number, Duration::ZERO, None);
}

fn reason(permit: &Permit) -> Option<&str> {
    if let Permit::Dead(why) = permit { Some(why) } else { None }
}

const SILENT: Option<&str> = Some("4.4.1 no answer to a connection (192.0.2.1:25)");

#[test]
fn all_that_wait_learn_that_their_address_became_silent_for_another_domain() {
    for is_shared in [true, false] {
        let ((mut crew, _theirs), ids) = (crew(3), ids(60));
        come(&mut crew, 0, "k", ONE, is_shared);
        for id in &ids {
            crew.workers[1].message = Some(*id);
            assert_eq!(crew.end(1, Attempt::Waits("k".into())), [News::Noted(*id)]);
        }
        find_silent(&mut crew, 2, "l", ONE, "192.0.2.1:25");
        assert_eq!(crew.done(0, Duration::ZERO, None), [News::Free(ids[0])]);
        let (key, dead) = match permit(&mut crew, 0, "k", is_shared) {
            // Where homes are not remembered a new agent finds it.
            Permit::Go(_) => crew.settle(0, ONE.to_owned(), REUSE),
            dead => ("k".to_owned(), dead),
        };
        assert_eq!(reason(&dead), SILENT);
        let freed = crew.answer(0, &key, &dead);
        assert_eq!(freed, ids[1..].iter().copied().map(News::Free).collect::<Vec<_>>());
        assert!(crew.done(0, Duration::ZERO, None).is_empty());
        // The next one is told without an agent.
        assert_eq!(reason(&permit(&mut crew, 0, "k", is_shared)), SILENT);
        assert_eq!((crew.places.users("k"), crew.stranded()), (0, vec![]));
    }
}

#[test]
fn who_waits_behind_one_that_was_called_and_did_not_come_is_called_too() {
    let ((mut crew, _theirs), ids) = (crew(2), ids(3));
    assert!(matches!(crew.permit(0, "mbox", 1, None, &mut |_| None), Permit::Go(_)));
    for id in &ids {
        crew.workers[1].message = Some(*id);
        assert!(matches!(crew.permit(1, "mbox", 1, None, &mut |_| None), Permit::Busy));
        crew.end(1, Attempt::Waits("mbox".into()));
    }
    assert!(crew.stranded().is_empty(), "somebody uses it");
    assert_eq!(crew.done(0, Duration::ZERO, None), [News::Free(ids[0])]);
    crew.workers[0].message = Some(ids[0]);
    assert_eq!(crew.end(0, Attempt::NotOurs), [News::Over(ids[0], Attempt::NotOurs)]);
    assert_eq!(crew.stranded(), ids[1..]);
}

/// They wait where there is none, and not at next hops that nobody uses or that have room.
#[test]
fn agents_leave_a_part_of_all_places_free_and_who_lacked_one_is_called_when_there_is_one() {
    assert_eq!([1, 2, 4, 50, 0].map(most_remote), [1, 1, 3, 40, 1]);
    let ((mut crew, _theirs), ids) = (crew(5), ids(3));
    crew.most_remote = 2;
    for (number, key) in ["k", "l"].into_iter().enumerate() {
        assert!(matches!(permit(&mut crew, number, key, true), Permit::Go(_)));
    }
    for (number, key) in [(2, "k"), (3, "m"), (4, "n")] {
        crew.workers[number].message = Some(ids[number - 2]);
        assert!(matches!(permit(&mut crew, number, key, true), Permit::Busy));
    }
    assert!(matches!(crew.permit(4, "mbox", 1, None, &mut |_| None), Permit::Go(_)), "what needs no agent");
    for (number, key) in [(2, "k"), (3, "m"), (4, "n")] {
        assert!(matches!(crew.end(number, Attempt::Waits(key.into()))[..], [News::Noted(_)]));
    }
    assert_eq!(crew.stranded(), []);
    assert_eq!(crew.done(1, Duration::ZERO, None), [News::Free(ids[0])]);
    // That one does not come.
    assert_eq!(crew.stranded(), [ids[1]]);
    assert!(matches!(permit(&mut crew, 3, "m", true), Permit::Go(_)));
    assert_eq!(crew.stranded(), []);
    assert_eq!(crew.done(0, Duration::ZERO, None), [News::Free(ids[2])]);
    crew.done(3, Duration::ZERO, None);
    assert_eq!(crew.places.users(AGENTS), 0);
    // Who waited for a place at a next hop waits there.
    crew.workers[2].message = Some(ids[0]);
    assert!(matches!(crew.permit(0, "k", 1, Some(REUSE), &mut |_| Some(agent(true))), Permit::Go(_)));
    assert!(matches!(crew.permit(2, "k", 1, Some(REUSE), &mut |_| Some(agent(true))), Permit::Busy));
    crew.end(2, Attempt::Waits("k".into()));
    assert_eq!(crew.stranded(), []);
    assert_eq!(crew.done(0, Duration::ZERO, None), [News::Free(ids[0])]);
}

/// However many domains lead to one host, and however long it takes.
#[test]
fn reports_never_have_all_agents_and_one_host_never_all_of_a_kind() {
    const TWO: &str = "0 b.example 192.0.2.2:25";
    let ((mut crew, _theirs), ids) = (crew(8), ids(3));
    crew.most_remote = 8;
    (0..6).for_each(|number| crew.workers[number].has_report = true);
    for (number, key) in [(0, "a"), (1, "b")] {
        assert!(matches!(come(&mut crew, number, key, ONE, number == 0), Permit::Go(_)));
    }
    // The third at that host is sent away when that is found, the fourth because it is known.
    assert!(matches!(come(&mut crew, 2, "c", ONE, true), Permit::Busy));
    assert!(crew.done(2, Duration::ZERO, None).is_empty());
    crew.workers[2].message = Some(ids[0]);
    assert_eq!(crew.end(2, Attempt::Waits("c".into())), [News::Noted(ids[0])]);
    assert!(matches!(permit(&mut crew, 2, "c", true), Permit::Busy));
    crew.workers[2].message = Some(ids[1]);
    assert_eq!(crew.end(2, Attempt::Waits("c".into())), [News::Noted(ids[1])]);
    for (number, key) in [(3, "d"), (4, "e")] {
        assert!(matches!(come(&mut crew, number, key, TWO, true), Permit::Go(_)));
    }
    // Half of the agents have reports.
    assert!(matches!(permit(&mut crew, 5, "f", true), Permit::Busy));
    crew.workers[5].message = Some(ids[2]);
    assert_eq!(crew.end(5, Attempt::Waits("f".into())), [News::Noted(ids[2])]);
    assert_eq!(crew.stranded(), []);
    // Other mail to the same host counts by itself, and has its half, too.
    for number in [5, 6, 7, 2] {
        crew.workers[number].has_report = false;
        // The hosts are known, and found once more.
        assert!(matches!(come(&mut crew, number, "a", ONE, true), Permit::Go(_)), "{number}");
    }
    assert_eq!(crew.places.users(AGENTS), 8);
    crew.done(4, Duration::ZERO, None);
    assert!(matches!(permit(&mut crew, 4, "a", true), Permit::Busy), "of eight");
    // Who waits for the host is called, and who waits for any agent that may have a report.
    assert_eq!(crew.done(0, REUSE, None), [News::Free(ids[0])]);
    // That one does not come.
    assert_eq!(crew.stranded(), [ids[1]]);
    assert_eq!(crew.done(1, Duration::ZERO, None), []);
    // The idle one of a is at that host, and stays idle while there is no room.
    crew.workers[0].has_report = false;
    assert!(matches!(permit(&mut crew, 0, "a", true), Permit::Busy) && crew.has_idle_agents());
    for number in 0..8 {
        crew.done(number, Duration::ZERO, None);
    }
    crew.tidy(REUSE);
    assert!(crew.places.users(AGENTS) == 0 && crew.places.users(REPORTS) == 0);
    assert!(matches!(permit(&mut crew, 0, "a", true), Permit::Go(Lent { is_new: false, .. })));
}

/// It may have many first addresses, as by a whole network of them, or stand behind others where nobody answers.
#[test]
fn one_host_never_has_all_agents_and_nobody_else_its_share() {
    for hosts in [
        ["0 a.example [2001:db8::1]:25", "0 b.example [2001:db8::2:1]:25", "0 c.example [2001:db8::3]:25"],
        ["0 a.example 192.0.2.9:25", "0 b.example 192.0.2.9:25", "0 c.example 192.0.2.9:26"],
    ] {
        let (mut crew, _theirs) = crew(4);
        crew.most_remote = 8;
        (0..4).for_each(|number| crew.workers[number].has_report = true);
        for (number, key) in [(0, "a"), (1, "b")] {
            assert!(matches!(come(&mut crew, number, key, hosts[number], true), Permit::Go(_)));
        }
        assert!(matches!(come(&mut crew, 2, "c", hosts[2], true), Permit::Busy), "{hosts:?}");
        assert!(matches!(come(&mut crew, 3, "d", "0 d.example [2001:db8:1::1]:25", true), Permit::Go(_)));
    }
    // Who says that another one stands in for him does not use that up, and NAT64 is no host.
    for hosts in [
        ["0 a.example 192.0.2.1:25,1 x.example 192.0.2.9:25", "0 b.example 192.0.2.2:25,1 x.example 192.0.2.9:25"],
        ["0 a.example [64:ff9b::c000:201]:25", "0 b.example [64:ff9b::c000:202]:25"],
    ] {
        let (mut crew, _theirs) = crew(3);
        crew.most_remote = 8;
        (0..3).for_each(|number| crew.workers[number].has_report = true);
        for (number, key) in [(0, "a"), (1, "b")] {
            assert!(matches!(come(&mut crew, number, key, hosts[number], true), Permit::Go(_)));
        }
        assert!(matches!(come(&mut crew, 2, "c", "0 x.example 192.0.2.9:25", true), Permit::Go(_)), "{hosts:?}");
    }
}

/// Reports that came while all agents were busy stand before other mail, which may go when they may not.
#[test]
fn who_stands_behind_a_report_that_is_refused_is_called_in_its_place() {
    let hosts: Vec<String> = (1..8).map(|number| format!("0 h{number}.example 192.0.2.{number}:25")).collect();
    let ((mut crew, _theirs), ids) = (crew(8), ids(4));
    crew.most_remote = 4;
    for (number, hosts) in hosts.iter().take(4).enumerate() {
        assert!(matches!(come(&mut crew, number, &format!("m{number}"), hosts, true), Permit::Go(_)));
    }
    // Three reports, and then a message.
    for (at, id) in ids.iter().enumerate() {
        crew.workers[4].has_report = at < 3;
        let key = format!("k{at}");
        assert!(matches!(permit(&mut crew, 4, &key, true), Permit::Busy));
        crew.workers[4].message = Some(*id);
        assert_eq!(crew.end(4, Attempt::Waits(key)), [News::Noted(*id)]);
    }
    for number in 0..2 {
        assert_eq!(crew.done(number, Duration::ZERO, None), [News::Free(ids[number])]);
        crew.workers[number].has_report = true;
        let came = come(&mut crew, number, &format!("k{number}"), &hosts[4 + number], true);
        assert!(matches!(came, Permit::Go(_)));
    }
    assert_eq!(crew.done(2, Duration::ZERO, None), [News::Free(ids[2])]);
    crew.workers[2].has_report = true;
    assert!(matches!(permit(&mut crew, 2, "k2", true), Permit::Busy));
    crew.workers[2].message = Some(ids[2]);
    assert_eq!(crew.end(2, Attempt::Waits("k2".into())), [News::Noted(ids[2]), News::Free(ids[3])]);
}

/// For an agent, and for the share of its host.
#[test]
fn who_stands_behind_one_whose_next_hop_is_full_is_called_in_its_place() {
    let ((mut crew, _theirs), ids) = (crew(4), ids(3));
    crew.most_remote = 3;
    for (number, key) in [(0, "k"), (1, "l"), (3, "m")] {
        assert!(matches!(permit(&mut crew, number, key, true), Permit::Go(_)));
    }
    let come_to = |crew: &mut Crew, number: usize, key: &str, limit, id| {
        crew.workers[number].message = Some(id);
        crew.permit(number, key, limit, Some(REUSE), &mut |_| Some(agent(true)))
    };
    for (id, key) in ids.iter().zip(["k", "k", "n"]) {
        assert!(matches!(come_to(&mut crew, 2, key, 2, *id), Permit::Busy));
        assert_eq!(crew.end(2, Attempt::Waits(key.into())), [News::Noted(*id)]);
    }
    assert_eq!(crew.done(1, Duration::ZERO, None), [News::Free(ids[0])]);
    assert_eq!(crew.done(3, Duration::ZERO, None), [News::Free(ids[1])]);
    assert!(matches!(come_to(&mut crew, 1, "k", 2, ids[0]), Permit::Go(_)));
    assert!(matches!(come_to(&mut crew, 3, "k", 2, ids[1]), Permit::Busy));
    assert_eq!(crew.end(3, Attempt::Waits("k".into())), [News::Noted(ids[1]), News::Free(ids[2])]);

    let (mut crew, _theirs) = self::crew(5);
    crew.most_remote = 4;
    for (number, key) in [(0, "a"), (1, "b")] {
        assert!(matches!(come(&mut crew, number, key, ONE, true), Permit::Go(_)));
    }
    assert!(matches!(come(&mut crew, 2, "c", ONE, true), Permit::Busy));
    crew.done(2, Duration::ZERO, None);
    for (id, key) in ids.iter().zip(["a", "a", "c"]) {
        assert!(matches!(come_to(&mut crew, 2, key, 2, *id), Permit::Busy));
        assert_eq!(crew.end(2, Attempt::Waits(key.into())), [News::Noted(*id)]);
    }
    assert_eq!(crew.done(0, Duration::ZERO, None), [News::Free(ids[0])]);
    assert_eq!(crew.done(1, Duration::ZERO, None), [News::Free(ids[1])]);
    assert!(matches!(come_to(&mut crew, 0, "a", 1, ids[0]), Permit::Go(_)));
    assert!(matches!(come_to(&mut crew, 1, "a", 1, ids[1]), Permit::Busy));
    // While all agents are busy whoever would be called could only wait for one.
    for (number, key) in [(2, "x"), (3, "y"), (4, "z")] {
        assert!(matches!(permit(&mut crew, number, key, true), Permit::Go(_)));
    }
    assert!(crew.next_where_room(&crew.left_by(1, &Attempt::Waits("a".into()))).is_empty());
    crew.done(4, Duration::ZERO, None);
    assert_eq!(crew.end(1, Attempt::Waits("a".into())), [News::Noted(ids[1]), News::Free(ids[2])]);
}

#[test]
fn connections_that_are_there_are_used_though_their_address_takes_no_more() {
    let (mut crew, _theirs) = crew(4);
    come(&mut crew, 0, "k", ONE, true);
    find_silent(&mut crew, 1, "l", ONE, "192.0.2.1:25");
    crew.done(0, REUSE, None);
    // The idle one, for a domain whose hosts are known, and by exchange.
    assert!(matches!(permit(&mut crew, 0, "k", true), Permit::Go(Lent { is_new: false, .. })));
    crew.done(0, REUSE, None);
    let lent = come(&mut crew, 0, "m", ONE, true);
    assert!(matches!(lent, Permit::Go(Lent { agent: Some(_), is_new: false, .. })), "{lent:?}");
    // And while it works others try it themselves.
    assert!(matches!(permit(&mut crew, 1, "k", true), Permit::Go(Lent { is_new: true, .. })));
    crew.done(1, Duration::ZERO, None);
    assert!(matches!(come(&mut crew, 1, "n", ONE, true), Permit::Go(Lent { agent: None, is_new: true, .. })));
    for number in 0..2 {
        crew.done(number, Duration::ZERO, None);
    }
    assert_eq!(reason(&permit(&mut crew, 0, "k", true)), SILENT);
    // Whoever asks for a try gets one.
    crew.forget_silent();
    assert!(matches!(permit(&mut crew, 0, "k", true), Permit::Go(Lent { is_new: true, .. })));
}

#[test]
fn an_address_is_silent_only_by_the_word_of_a_new_agent_whose_host_it_is() {
    let (mut crew, _theirs) = crew(2);
    come(&mut crew, 0, "k", ONE, true);
    crew.is_silent(0, "192.0.2.2:25".into(), silence());
    crew.done(0, REUSE, None);
    permit(&mut crew, 0, "k", true);
    crew.is_silent(0, "192.0.2.1:25".into(), silence());
    crew.is_silent(1, "192.0.2.1:25".into(), silence());
    assert!(crew.homes.has_no_silent());
    crew.done(0, Duration::ZERO, None);
    let two = format!("{ONE},1 b.example 192.0.2.2:25");
    find_silent(&mut crew, 0, "two", &two, "192.0.2.1:25");
    // The other host is asked at once.
    let go = permit(&mut crew, 0, "two", true);
    assert!(matches!(&go, Permit::Go(lent) if lent.silent == "192.0.2.1:25"), "{go:?}");
}

#[test]
fn an_agent_is_lent_to_other_domains_only_while_it_is_young_and_has_the_configuration_of_now() {
    // Whether agents are shared, what is done between two jobs, and whether the second one gets the agent of the first.
    type Between<'a> = &'a dyn Fn(&mut Crew);
    let old = |crew: &mut Crew| {
        for agent in crew.places.idle_mut() {
            agent.since = Instant::now().checked_sub(REUSE).unwrap();
        }
    };
    let cases: [(bool, Between<'_>, bool); 4] =
        [(true, &|_| {}, true), (false, &|_| {}, false), (true, &old, false), (true, &Crew::renew_agents, false)];
    for (number, (is_shared, between, is_lent)) in cases.into_iter().enumerate() {
        let (mut crew, _theirs) = crew(1);
        come(&mut crew, 0, "k", ONE, is_shared);
        crew.done(0, REUSE, None);
        between(&mut crew);
        let lent = come(&mut crew, 0, "l", ONE, is_shared);
        assert_eq!(matches!(lent, Permit::Go(Lent { is_new: false, .. })), is_lent, "{number}");
    }
    // One that was at work when the configuration changed, and one that became old at work.
    let (mut crew, _theirs) = crew(1);
    come(&mut crew, 0, "k", ONE, true);
    crew.renew_agents();
    crew.done(0, REUSE, None);
    assert!(!crew.has_idle_agents());
    come(&mut crew, 0, "k", ONE, true);
    crew.done(0, Duration::from_nanos(1), None);
    assert!(!crew.has_idle_agents());
}

#[test]
fn who_has_a_pass_counts_as_a_user_of_every_mailbox_and_of_nothing_else() {
    let (mut crew, _theirs) = crew(6);
    let messages = ids(6);
    crew.pass = 4;
    for (worker, message) in crew.workers.iter_mut().zip(&messages) {
        worker.message = Some(*message);
    }
    (crew.workers[0].has_pass, crew.workers[1].has_pass) = (true, true);
    let want = |crew: &mut Crew, number, limit| {
        let permit = crew.permit(number, "mailbox\na@b.example", limit, None, &mut |_| None);
        matches!(permit, Permit::Go(_))
    };
    assert!(want(&mut crew, 2, 4) && want(&mut crew, 3, 4));
    assert!(!want(&mut crew, 4, 4), "two with permits and two with passes are four");
    assert!(want(&mut crew, 4, 5));
    assert!(crew.end(3, Attempt::Finished).len() == 1 && crew.end(4, Attempt::Finished).len() == 1);
    // It is gone, and its pass with it.
    crew.workers[1].message = None;
    assert!(want(&mut crew, 5, 4));
    // Where fewer may no pass counts, and none was used.
    assert!(matches!(crew.permit(3, "mailbox\nc@b.example", 1, None, &mut |_| None), Permit::Go(_)));
    assert!(matches!(crew.permit(4, "mailbox\nc@b.example", 1, None, &mut |_| None), Permit::Busy));
}

/// It lives, and would wait for its answer for ever.
#[test]
fn a_worker_that_cannot_be_answered_is_killed() {
    use std::os::unix::process::ExitStatusExt;
    let (mut crew, theirs) = crew(1);
    let mut worker = std::process::Command::new("sleep").arg("20").spawn().unwrap();
    crew.workers[0].process = Pid::from_raw(worker.id().cast_signed());
    crew.answer(0, "k", &Permit::Busy);
    assert!(worker.try_wait().unwrap().is_none(), "it was answered");
    theirs[0].shut();
    crew.answer(0, "k", &Permit::Busy);
    assert_eq!(worker.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
}

/// Who is called is tried, and called on by whom he is in the way of.
#[test]
fn passes_leave_room_for_permits_and_are_not_given_while_a_message_waits() {
    let (mut crew, _theirs) = crew(6);
    let messages = ids(6);
    crew.pass = 4;
    let key = "mailbox\na@b.example";
    for (worker, message) in crew.workers.iter_mut().zip(&messages) {
        worker.message = Some(*message);
    }
    let want =
        |crew: &mut Crew, number, key: &str| matches!(crew.permit(number, key, 4, None, &mut |_| None), Permit::Go(_));
    crew.workers[0].has_pass = true;
    assert!(crew.may_pass());
    assert!((1..4).all(|number| want(&mut crew, number, key)));
    assert!(!want(&mut crew, 4, key));
    assert!(!crew.may_pass(), "with those who have permits it would be the fifth");
    crew.workers.swap(4, 5);
    assert!(matches!(crew.end(5, Attempt::Waits(key.to_owned()))[..], [News::Noted(_)]), "it waits");
    assert!(crew.done(3, REUSE, None).len() == 1 && !crew.places.is_waited_for(key));
    assert!(crew.may_pass());
    assert!(crew.places.wait(key, messages[5]));
    assert!(!crew.may_pass(), "it would overtake");
    // The pass comes back: there is room for who waits.
    assert_eq!(crew.end(0, Attempt::Finished).first(), Some(&News::Free(messages[5])));
    assert!(crew.may_pass());
    // A program is not used by pass.
    (crew.workers[0].has_pass, crew.workers[0].message) = (true, Some(messages[0]));
    assert!((1..5).all(|number| want(&mut crew, number, "pipe\nfilter")));
}
