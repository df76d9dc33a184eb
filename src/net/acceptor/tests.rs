use super::super::listener::Listener;
use super::*;
use std::net::{Ipv4Addr, TcpStream};

/// Without signals, for those belong to the whole process and so to all tests.
fn acceptor(listener: Listener) -> Acceptor {
    Acceptor::of(vec![Service::new("test", vec![listener], 1)])
}

fn loopback() -> Listener {
    Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap()
}

fn end_rest(acceptor: &mut Acceptor) {
    assert!(!acceptor.is_open(&acceptor.services[0]), "no rest");
    acceptor.services[0].rests_until = Some(Instant::now());
}

#[test]
fn a_child_that_cannot_be_started_is_tried_again_for_the_same_client_after_a_rest() {
    let listener = loopback();
    let port = listener.port();
    let mut acceptor = acceptor(listener);
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let mut peers = Vec::new();
    let mut start = |_: &mut Acceptor, _: usize, given: &Given| {
        let Given::Connection(connection) = given else { panic!("a listener") };
        peers.push(TcpStream::from(connection.try_clone()?).peer_addr()?);
        if peers.len() == 1 { Err(io::Error::other("out of processes")) } else { Ok(Some(Pid::from_raw(1))) }
    };
    acceptor.admit(0, 0, &mut start);
    acceptor.retry(&mut start);
    end_rest(&mut acceptor);
    acceptor.retry(&mut start);
    assert_eq!(peers, [client.local_addr().unwrap(); 2]);
    assert_eq!(acceptor.services[0].running, 1);
}

/// Else the client would wake the loop again and again.
#[test]
fn who_cannot_be_accepted_to_be_told_that_the_pool_does_not_start_waits_for_the_end_of_its_rest() {
    let mut acceptor = acceptor(loopback());
    acceptor.services[0].kind = Kind::Pool;
    acceptor.services[0].refusal = Some(b"later".to_vec());
    acceptor.rest(0, &io::Error::other("the pool ended"));
    assert!(acceptor.is_open(&acceptor.services[0]), "to tell");
    acceptor.cannot_accept(0, &io::Error::other("out of descriptors"));
    end_rest(&mut acceptor);
    acceptor.retry(&mut |_: &mut Acceptor, _: usize, _: &Given| Ok(None));
    assert!(acceptor.is_open(&acceptor.services[0]), "to start it");
}

#[test]
fn a_second_failure_closes_the_connection() {
    use std::io::Read;
    let listener = loopback();
    let port = listener.port();
    let mut acceptor = acceptor(listener);
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let mut start = |_: &mut Acceptor, _: usize, _: &Given| Err(io::Error::other("out of processes"));
    acceptor.admit(0, 0, &mut start);
    end_rest(&mut acceptor);
    acceptor.retry(&mut start);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert_eq!(acceptor.services[0].running, 0);
    end_rest(&mut acceptor);
}

#[test]
fn the_last_place_is_given_once_although_two_sockets_have_clients() {
    let mut acceptor = acceptor(loopback());
    acceptor.services[0].listeners.push(loopback());
    let ports: Vec<u16> = acceptor.services[0].listeners.iter().map(Listener::port).collect();
    let _clients: Vec<_> = ports.iter().map(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, *port))).collect();
    let mut count = 0;
    let mut start = |_: &mut Acceptor, _: usize, _: &Given| {
        count += 1;
        Ok(Some(Pid::from_raw(count)))
    };
    acceptor.admit(0, 0, &mut start);
    acceptor.admit(0, 1, &mut start);
    assert_eq!(count, 1);
    acceptor.forget(Pid::from_raw(1), WaitStatus::Exited(Pid::from_raw(1), 0));
    acceptor.forget(Pid::from_raw(1), WaitStatus::Exited(Pid::from_raw(1), 0));
    assert_eq!((acceptor.services[0].running, acceptor.children.len()), (0, 0));
}
