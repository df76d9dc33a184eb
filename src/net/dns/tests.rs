//! The resolver against name servers of our own on loopback, which also lie, stay silent and cut their answers.

use super::*;
use domain::base::iana::Class;
use domain::base::message_builder::AnswerBuilder;
use domain::base::{Record, Ttl};
use domain::rdata::{Cname, Mx};
use proptest::prelude::*;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

const TTL: Ttl = Ttl::from_secs(1);

/// What a server answers to a question: datagrams, or the octets of a TCP stream.
type Behaviour = dyn Fn(&Answer, bool) -> Vec<Vec<u8>> + Send + Sync;

/// A name server on loopback, UDP and TCP, gone when dropped.
struct Server {
    address: SocketAddr,
    questions: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start(behaviour: impl Fn(&Answer, bool) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Server {
        let (udp, tcp) = (0..100)
            .find_map(|_| {
                let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
                let tcp = TcpListener::bind(udp.local_addr().unwrap()).ok()?;
                Some((udp, tcp))
            })
            .unwrap();
        let address = udp.local_addr().unwrap();
        let questions = Arc::new(AtomicUsize::new(0));
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let (counted, answers) = (questions.clone(), behaviour.clone());
        let over_udp = std::thread::spawn(move || {
            let mut octets = [0; 512];
            // An empty datagram, or connection, ends the server.
            while let Ok((count @ 1.., from)) = udp.recv_from(&mut octets) {
                counted.fetch_add(1, Ordering::SeqCst);
                let question = Message::from_octets(octets[..count].to_vec()).unwrap();
                for datagram in answers(&question, false) {
                    udp.send_to(&datagram, from).unwrap();
                }
            }
        });
        let over_tcp = std::thread::spawn(move || {
            while let Ok((mut stream, _)) = tcp.accept() {
                let mut length = [0; 2];
                if stream.read_exact(&mut length).is_err() {
                    break;
                }
                let mut octets = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut octets).unwrap();
                for part in behaviour(&Message::from_octets(octets).unwrap(), true) {
                    let _ = stream.write_all(&part);
                }
            }
        });
        Server { address, questions, threads: vec![over_udp, over_tcp] }
    }

    fn asked(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[], self.address));
        let _ = TcpStream::connect(self.address);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A name server for tests elsewhere: it knows addresses of names and nothing else.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    _server: Server,
}

impl NameServer {
    pub(crate) fn start(names: &'static [(&'static str, &'static str)]) -> NameServer {
        let server = Server::start(move |question, _| {
            let zone: Vec<_> = names.iter().map(|(name, address)| (*name, Rtype::A, *address)).collect();
            vec![answer(question, &zone)]
        });
        NameServer { address: server.address, _server: server }
    }

    /// The same, with a name `slow.example` for `client` that leads back to it and is told so late.
    pub(crate) fn slow_to_name(
        client: &'static str,
        names: &'static [(&'static str, &'static str)],
        late: Duration,
    ) -> NameServer {
        let server = Server::start(move |question, _| {
            let asked = question.sole_question().unwrap();
            let reverse = asked.qname().to_string();
            let mut zone: Vec<_> = names.iter().map(|(name, address)| (*name, Rtype::A, *address)).collect();
            zone.push(("slow.example", Rtype::A, client));
            if asked.qtype() == Rtype::PTR {
                std::thread::sleep(late);
                zone.push((&reverse, Rtype::PTR, "slow.example"));
            }
            vec![answer(question, &zone)]
        });
        NameServer { address: server.address, _server: server }
    }
}

fn dns(name: &str) -> DnsName {
    DnsName::from_str(name).unwrap()
}

fn push(answer: &mut AnswerBuilder<Vec<u8>>, owner: &str, kind: Rtype, data: &str) {
    let owner = dns(owner);
    match kind {
        Rtype::A => answer.push(Record::new(owner, Class::IN, TTL, A::new(data.parse().unwrap()))),
        Rtype::AAAA => answer.push(Record::new(owner, Class::IN, TTL, Aaaa::new(data.parse().unwrap()))),
        Rtype::PTR => answer.push(Record::new(owner, Class::IN, TTL, Ptr::new(dns(data)))),
        Rtype::MX => {
            let (preference, host) = data.split_once(' ').unwrap();
            answer.push(Record::new(owner, Class::IN, TTL, Mx::new(preference.parse().unwrap(), dns(host))))
        }
        Rtype::CNAME => answer.push(Record::new(owner, Class::IN, TTL, Cname::new(dns(data)))),
        other => panic!("no test has {other} records"),
    }
    .unwrap()
}

/// All records with the question's name as owner, and those behind its alias.
fn answer(question: &Answer, zone: &[(&str, Rtype, &str)]) -> Vec<u8> {
    let asked = question.sole_question().unwrap();
    let name = asked.qname().to_string().to_ascii_lowercase();
    let alias = zone.iter().find(|(owner, kind, _)| *owner == name && *kind == Rtype::CNAME).map(|(.., to)| *to);
    let is_known = zone.iter().any(|(owner, ..)| *owner == name);
    let code = if is_known { Rcode::NOERROR } else { Rcode::NXDOMAIN };
    let mut answer = MessageBuilder::new_vec().start_answer(question, code).unwrap();
    for (owner, kind, data) in zone {
        let is_asked = (*owner == name || Some(*owner) == alias) && (*kind == asked.qtype() || *kind == Rtype::CNAME);
        if is_asked {
            push(&mut answer, owner, *kind, data);
        }
    }
    answer.finish()
}

fn failure(question: &Answer, code: Rcode) -> Vec<u8> {
    MessageBuilder::new_vec().start_answer(question, code).unwrap().finish()
}

fn serves(zone: &'static [(&'static str, Rtype, &'static str)]) -> Server {
    Server::start(move |question, _| vec![answer(question, zone)])
}

fn resolver(servers: &[&Server]) -> Resolver {
    Resolver::new(servers.iter().map(|server| server.address).collect(), "")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn confirmed(server: &Server, address: &str) -> Lookup<String> {
    resolver(&[server]).confirmed_name(address.parse().unwrap(), None, soon())
}

fn yes(name: &str) -> Lookup<String> {
    Lookup::Yes(name.to_owned())
}

const ZONE: &[(&str, Rtype, &str)] = &[
    ("1.2.0.192.in-addr.arpa", Rtype::PTR, "Client.Example"),
    ("client.example", Rtype::A, "192.0.2.77"),
    ("client.example", Rtype::A, "192.0.2.1"),
    ("2.2.0.192.in-addr.arpa", Rtype::PTR, "client.example"),
    ("3.2.0.192.in-addr.arpa", Rtype::CNAME, "3.0-7.2.0.192.in-addr.arpa"),
    ("3.0-7.2.0.192.in-addr.arpa", Rtype::PTR, "alias.example"),
    ("alias.example", Rtype::CNAME, "real.example"),
    ("real.example", Rtype::A, "192.0.2.3"),
    ("4.2.0.192.in-addr.arpa", Rtype::PTR, "192.0.2.4"),
    ("192.0.2.4", Rtype::A, "192.0.2.4"),
    ("5.2.0.192.in-addr.arpa", Rtype::CNAME, "5.2.0.192.in-addr.arpa"),
    ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", Rtype::PTR, "six.example"),
    ("six.example", Rtype::AAAA, "2001:db8::1"),
    ("six.example", Rtype::A, "192.0.2.6"),
];

#[test]
fn a_name_that_leads_back_to_the_address_is_confirmed() {
    let server = serves(ZONE);
    assert_eq!(confirmed(&server, "192.0.2.1"), yes("client.example"));
    assert_eq!(confirmed(&server, "2001:db8::1"), yes("six.example"));
}

#[test]
fn a_name_that_leads_elsewhere_is_none() {
    assert_eq!(confirmed(&serves(ZONE), "192.0.2.2"), Lookup::No);
}

#[test]
fn an_address_without_a_name_has_none() {
    assert_eq!(confirmed(&serves(ZONE), "192.0.2.99"), Lookup::No);
    assert_eq!(confirmed(&serves(ZONE), "2001:db8::2"), Lookup::No);
}

#[test]
fn aliases_are_followed_both_ways_and_never_round_in_circles() {
    assert_eq!(confirmed(&serves(ZONE), "192.0.2.3"), yes("alias.example"));
    assert_eq!(confirmed(&serves(ZONE), "192.0.2.5"), Lookup::No);
}

#[test]
fn a_name_that_looks_like_an_address_is_none() {
    assert_eq!(confirmed(&serves(ZONE), "192.0.2.4"), Lookup::No);
}

#[test]
fn a_claim_is_taken_if_it_leads_to_the_address_and_replaced_if_not() {
    let server = serves(ZONE);
    let ask = |claimed| resolver(&[&server]).confirmed_name("192.0.2.1".parse().unwrap(), Some(claimed), soon());
    assert_eq!(ask("CLIENT.example"), yes("client.example"));
    assert_eq!(server.asked(), 1);
    assert_eq!(ask("six.example"), yes("client.example"));
    assert_eq!(ask("nowhere.example"), yes("client.example"));
}

#[test]
fn records_of_other_names_in_an_answer_do_not_count() {
    let server = Server::start(|question, _| {
        let mut answer = MessageBuilder::new_vec().start_answer(question, Rcode::NOERROR).unwrap();
        push(&mut answer, "other.example", Rtype::A, "192.0.2.1");
        vec![answer.finish()]
    });
    let found = resolver(&[&server]).addresses("client.example", "192.0.2.1".parse().unwrap(), soon());
    assert_eq!(found, Lookup::No);
}

#[test]
fn trouble_is_cannot_tell_and_the_next_server_is_asked() {
    for code in [Rcode::SERVFAIL, Rcode::REFUSED] {
        let bad = Server::start(move |question, _| vec![failure(question, code)]);
        assert!(matches!(confirmed(&bad, "192.0.2.1"), Lookup::CannotTell(_)));
        assert_eq!(bad.asked(), 2);
        let good = serves(ZONE);
        let both = resolver(&[&bad, &good]);
        assert_eq!(both.confirmed_name("192.0.2.1".parse().unwrap(), None, soon()), yes("client.example"));
    }
}

#[test]
fn nobody_there_is_cannot_tell_at_once() {
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let resolver = Resolver::new(vec![gone], "");
    assert!(matches!(resolver.names("192.0.2.1".parse().unwrap(), soon()), Lookup::CannotTell(_)));
    let nobody = Resolver::new(Vec::new(), "");
    assert!(matches!(nobody.names("192.0.2.1".parse().unwrap(), soon()), Lookup::CannotTell(_)));
}

#[test]
fn silence_ends_at_the_deadline_and_is_cannot_tell() {
    let silent = Server::start(|_, _| Vec::new());
    let begun = Instant::now();
    let found = resolver(&[&silent]).names("192.0.2.1".parse().unwrap(), begun + Duration::from_millis(200));
    assert!(matches!(found, Lookup::CannotTell(_)));
    // One attempt alone would take 2 s.
    assert!(begun.elapsed() < ATTEMPT);
}

#[test]
fn a_confirmation_that_fails_for_trouble_is_cannot_tell() {
    let server = Server::start(|question, _| match question.sole_question().unwrap().qtype() {
        Rtype::PTR => vec![answer(question, ZONE)],
        _ => vec![failure(question, Rcode::SERVFAIL)],
    });
    assert!(matches!(confirmed(&server, "192.0.2.1"), Lookup::CannotTell(_)));
}

#[test]
fn forged_answers_are_passed_over_for_the_true_one() {
    let server = Server::start(|question, _| {
        let true_answer = answer(question, ZONE);
        let lie: &[(&str, Rtype, &str)] = &[("client.example", Rtype::A, "192.0.2.66")];
        let mut other_id = answer(question, lie);
        other_id[0] ^= 1;
        let other_question = super::question(dns("other.example"), Rtype::A).unwrap();
        let mut to_other = failure(&other_question, Rcode::NXDOMAIN);
        to_other[..2].copy_from_slice(&question.as_slice()[..2]);
        let no_answer = question.as_slice().to_vec();
        vec![Vec::new(), vec![0; 5], other_id, to_other, no_answer, true_answer]
    });
    let found = resolver(&[&server]).addresses("client.example", "192.0.2.1".parse().unwrap(), soon());
    assert_eq!(found, Lookup::Yes(vec!["192.0.2.77".parse().unwrap(), "192.0.2.1".parse().unwrap()]));
}

fn cut(question: &Answer) -> Vec<u8> {
    let mut answer = MessageBuilder::new_vec().start_answer(question, Rcode::NOERROR).unwrap();
    answer.header_mut().set_tc(true);
    answer.finish()
}

#[test]
fn a_cut_answer_is_asked_for_again_by_tcp_and_read_in_pieces() {
    let server = Server::start(|question, over_tcp| {
        if !over_tcp {
            return vec![cut(question)];
        }
        let octets = answer(question, ZONE);
        let length = u16::try_from(octets.len()).unwrap().to_be_bytes();
        [&length[..], &octets].concat().chunks(7).map(<[u8]>::to_vec).collect()
    });
    assert_eq!(confirmed(&server, "192.0.2.1"), yes("client.example"));
}

#[test]
fn tcp_that_ends_early_or_answers_something_else_is_cannot_tell() {
    for short in [true, false] {
        let server = Server::start(move |question, over_tcp| match (over_tcp, short) {
            (false, _) => vec![cut(question)],
            (true, true) => vec![vec![0, 200, 1, 2, 3]],
            (true, false) => vec![vec![0, 12], vec![0; 12]],
        });
        assert!(matches!(confirmed(&server, "192.0.2.1"), Lookup::CannotTell(_)));
    }
}

#[test]
fn of_very_many_names_only_a_few_are_asked_about() {
    let server = Server::start(|question, _| {
        let mut answer = MessageBuilder::new_vec().start_answer(question, Rcode::NOERROR).unwrap();
        let asked = question.sole_question().unwrap();
        for n in 0..20 {
            if asked.qtype() == Rtype::PTR {
                push(&mut answer, &asked.qname().to_string(), Rtype::PTR, &format!("n{n}.example"));
            }
        }
        vec![answer.finish()]
    });
    assert_eq!(confirmed(&server, "192.0.2.1"), Lookup::No);
    assert_eq!(server.asked(), 1 + MOST_NAMES);
}

#[test]
fn the_hosts_file_comes_before_dns_both_ways() {
    let server = serves(ZONE);
    let hosts = "# ours\n192.0.2.1  Inside.example inside # here\n2001:db8::1 inside.example\n192.0.2.9\n";
    let resolver = Resolver::new(vec![server.address], hosts);
    assert_eq!(resolver.confirmed_name("192.0.2.1".parse().unwrap(), None, soon()), yes("inside.example"));
    assert_eq!(
        resolver.confirmed_name("2001:db8::1".parse().unwrap(), Some("inside.example"), soon()),
        yes("inside.example")
    );
    assert_eq!(server.asked(), 0);
    assert_eq!(resolver.names("192.0.2.2".parse().unwrap(), soon()), Lookup::Yes(vec!["client.example".to_owned()]));
    // A line without a name says nothing.
    assert_eq!(resolver.names("192.0.2.9".parse().unwrap(), soon()), Lookup::No);
}

#[test]
fn resolv_conf_is_read_as_the_c_library_does() {
    let text = "# x\nsearch a.example\nnameserver 192.0.2.53\n nameserver\t2001:db8::53 # b\nnameserver x\n\
                nameserverx 1.2.3.4\n";
    assert_eq!(servers(text), ["192.0.2.53:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()]);
    assert_eq!(servers(&"nameserver 192.0.2.1\n".repeat(9)).len(), 3);
    assert_eq!(servers(""), ["127.0.0.1:53".parse().unwrap()]);
    if let [SocketAddr::V6(server)] = servers("nameserver fe80::1%lo\n")[..] {
        assert_ne!(server.scope_id(), 0);
    }
}

proptest! {
    #[test]
    fn any_octets_are_an_answer_or_not(
        mut octets in proptest::collection::vec(any::<u8>(), 12..300),
        kind in prop_oneof![Just(Rtype::A), Just(Rtype::AAAA), Just(Rtype::PTR)],
        keeps_question: bool,
    ) {
        let question = super::question(dns("client.example"), kind).unwrap();
        if keeps_question {
            let asked = question.as_slice();
            octets.splice(..12, asked.iter().copied());
            octets[2] |= 0x80;
            octets[7] = 9;
        }
        if let Some(answer) = fitting(octets, &question) {
            let _ = (addresses_in(&answer, Rtype::A), addresses_in(&answer, Rtype::AAAA), names_in(&answer));
        }
    }

    #[test]
    fn any_text_is_a_hosts_file_and_a_resolv_conf(text in "(nameserver |[0-9a-f:.%# \n]){0,60}") {
        let _ = Resolver::new(servers(&text), &text);
    }
}

const MAIL_ZONE: &[(&str, Rtype, &str)] = &[
    ("many.example", Rtype::MX, "20 Backup.Example"),
    ("many.example", Rtype::MX, "10 mx.example"),
    ("many.example", Rtype::MX, "5 not_a_host!.example"),
    ("none.example", Rtype::MX, "0 ."),
    ("number.example", Rtype::MX, "10 192.0.2.7"),
    ("number.example", Rtype::A, "192.0.2.7"),
    ("alias.example", Rtype::CNAME, "real.example"),
    ("real.example", Rtype::MX, "10 mx.example"),
    ("plain.example", Rtype::A, "192.0.2.3"),
    ("both.example", Rtype::A, "192.0.2.4"),
    ("both.example", Rtype::AAAA, "2001:db8::4"),
    ("six.example", Rtype::A, "192.0.2.5"),
    ("six.example", Rtype::AAAA, "2001:db8::5"),
    ("six.example", Rtype::AAAA, "2001:db8::6"),
    ("six.example", Rtype::AAAA, "2001:db8::7"),
];

#[test]
fn mail_hosts_come_best_first_and_null_mx_is_told_from_none() {
    let server = serves(MAIL_ZONE);
    let hosts = |domain: &str| resolver(&[&server]).mail_hosts(domain, soon());
    let expected =
        |hosts: &[(u16, &str)]| Lookup::Yes(hosts.iter().map(|(p, name)| (*p, (*name).to_owned())).collect());
    assert_eq!(hosts("many.example"), expected(&[(10, "mx.example"), (20, "backup.example")]));
    assert_eq!(hosts("none.example"), expected(&[(0, ".")]));
    assert_eq!(hosts("alias.example"), expected(&[(10, "mx.example")]));
    assert_eq!(hosts("number.example"), expected(&[]), "an MX that is none is not no MX");
    assert_eq!(hosts("plain.example"), Lookup::No);
    assert_eq!(hosts("nowhere.example"), Lookup::No);
    let failing = Server::start(|question, _| vec![failure(question, Rcode::SERVFAIL)]);
    assert!(matches!(resolver(&[&failing]).mail_hosts("many.example", soon()), Lookup::CannotTell(_)));
}

#[test]
fn addresses_of_both_families_are_found_and_one_that_fails_hides_none() {
    let server = serves(MAIL_ZONE);
    let all = |server: &Server, name: &str| resolver(&[server]).all_addresses(name, soon());
    let both = ["2001:db8::4", "192.0.2.4"].map(|text| text.parse().unwrap()).to_vec();
    assert_eq!(all(&server, "both.example"), Lookup::Yes(both));
    let turns = ["2001:db8::5", "192.0.2.5", "2001:db8::6", "2001:db8::7"].map(|text| text.parse().unwrap()).to_vec();
    assert_eq!(all(&server, "six.example"), Lookup::Yes(turns), "many of one family keep nobody from the other");
    let half = Server::start(|question, _| {
        vec![match question.sole_question().unwrap().qtype() {
            Rtype::AAAA => failure(question, Rcode::SERVFAIL),
            _ => answer(question, MAIL_ZONE),
        }]
    });
    assert_eq!(all(&half, "both.example"), Lookup::Yes(vec!["192.0.2.4".parse().unwrap()]));
    assert!(matches!(all(&half, "nowhere.example"), Lookup::CannotTell(_)));
}
