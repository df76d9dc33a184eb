//! A name server of our own on loopback, with a table of records.

use domain::base::iana::{Class, Rcode};
use domain::base::{Message, MessageBuilder, Name, Record, Rtype, Ttl};
use domain::rdata::{A, Aaaa, Mx, Ptr};
use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::str::FromStr;
use std::thread::JoinHandle;

/// A server; gone when dropped.
pub struct Names {
    pub address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

/// Owner, type (`MX`, `A`, `AAAA` or `PTR`), and value.
pub type Table = &'static [(&'static str, &'static str, &'static str)];

impl Names {
    pub fn start(table: Table) -> Names {
        Names::turning(table, table)
    }

    /// One that answers by another table whoever asks for a domain's mail hosts again, and for whatever comes behind that.
    pub fn turning(first: Table, later: Table) -> Names {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("its number");
        let thread = std::thread::spawn(move || {
            let mut octets = [0; 512];
            let (mut table, mut asked) = (first, HashSet::new());
            // An empty datagram ends the server.
            while let Ok((count @ 1.., from)) = socket.recv_from(&mut octets) {
                let question = Message::from_octets(octets[..count].to_vec()).expect("a question");
                let of = question.sole_question().expect("one question");
                if of.qtype() == Rtype::MX && !asked.insert(of.qname().to_string()) {
                    table = later;
                }
                let _ = socket.send_to(&answer(&question, table), from);
            }
        });
        Names { address, thread: Some(thread) }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[], self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(question: &Message<Vec<u8>>, table: Table) -> Vec<u8> {
    let asked = question.sole_question().expect("one question");
    let name = asked.qname().to_string().to_ascii_lowercase();
    let code = if table.iter().any(|(owner, ..)| *owner == name) { Rcode::NOERROR } else { Rcode::NXDOMAIN };
    let mut answer = MessageBuilder::new_vec().start_answer(question, code).expect("an answer");
    let named = |text: &str| Name::<Vec<u8>>::from_str(text).expect("a name");
    let ttl = Ttl::from_secs(1);
    for (owner, kind, value) in table.iter().filter(|(owner, ..)| *owner == name) {
        match (*kind, asked.qtype()) {
            ("MX", Rtype::MX) => {
                let (preference, host) = value.split_once(' ').expect("preference and host");
                let data = Mx::new(preference.parse().expect("a number"), named(host));
                answer.push(Record::new(named(owner), Class::IN, ttl, data)).expect("room");
            }
            ("A", Rtype::A) => {
                let data = A::new(value.parse().expect("an address"));
                answer.push(Record::new(named(owner), Class::IN, ttl, data)).expect("room");
            }
            ("AAAA", Rtype::AAAA) => {
                let data = Aaaa::new(value.parse().expect("an address"));
                answer.push(Record::new(named(owner), Class::IN, ttl, data)).expect("room");
            }
            ("PTR", Rtype::PTR) => {
                answer.push(Record::new(named(owner), Class::IN, ttl, Ptr::new(named(value)))).expect("room");
            }
            _ => {}
        }
    }
    answer.finish()
}
