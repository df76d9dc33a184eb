use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(30);

fn on_socket(session: Duration) -> (Connection, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Connection::new(ours.try_clone().unwrap().into(), ours.into(), session), theirs)
}

/// Over TCP, where a close with unread octets resets the connection.
fn on_tcp(session: Duration) -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let ours = listener.accept().unwrap().0;
    (Connection::new(ours.try_clone().unwrap().into(), ours.into(), session), theirs)
}

fn on_pipes(session: Duration) -> (Connection, io::PipeWriter, io::PipeReader) {
    let (input, to_us) = io::pipe().unwrap();
    let (from_us, output) = io::pipe().unwrap();
    (Connection::new(input.into(), output.into(), session), to_us, from_us)
}

#[test]
fn octets_go_both_ways_and_an_end_is_no_fault() {
    let (mut connection, mut client) = on_socket(LONG);
    let mut buffer = [0; 10];
    client.write_all(b"hello").unwrap();
    assert_eq!(connection.receive(&mut buffer).unwrap(), 5);
    connection.send(b"world").unwrap();
    client.read_exact(&mut buffer[..5]).unwrap();
    assert_eq!(&buffer[..5], b"world");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(connection.receive(&mut buffer).unwrap(), 0);
}

#[test]
fn a_line_that_is_typed_ends_in_cr_lf_and_others_stay_as_they_are() {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut modes = nix::sys::termios::tcgetattr(&terminal.slave).unwrap();
    nix::sys::termios::cfmakeraw(&mut modes);
    nix::sys::termios::tcsetattr(&terminal.slave, nix::sys::termios::SetArg::TCSANOW, &modes).unwrap();
    let expected = b"a\r\n\r\nb\r\n\r\r\n.\r\n";
    for step in 1..9 {
        let [input, output] = [(); 2].map(|()| terminal.slave.try_clone().unwrap());
        let mut connection = Connection::new(input, output, LONG).with_typed_lines();
        nix::unistd::write(&terminal.master, b"a\n\nb\r\n\r\r\n.\n").unwrap();
        let (mut heard, mut buffer) = (Vec::new(), vec![0; step]);
        while heard.len() < expected.len() {
            let count = connection.receive(&mut buffer).unwrap();
            heard.extend_from_slice(&buffer[..count]);
        }
        assert_eq!(heard, expected, "pieces of {step}");
    }
    let (connection, _to_us, _from_us) = on_pipes(LONG);
    assert!(connection.with_typed_lines().typed.is_none());
}

#[test]
fn a_silent_client_times_out() {
    let (mut connection, _client) = on_socket(LONG);
    connection.allow(SHORT);
    assert!(matches!(connection.receive(&mut [0]), Err(Fault::TimedOut)));
    let (mut connection, _to_us, _from_us) = on_pipes(LONG);
    connection.allow(SHORT);
    assert!(matches!(connection.receive(&mut [0]), Err(Fault::TimedOut)));
}

#[test]
fn what_was_sent_before_the_time_was_over_is_not_sent_again() {
    let octets: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let (mut connection, client) = on_socket(LONG);
    connection.allow(SHORT);
    let mut collected = octets.clone();
    assert!(matches!(connection.send_out(&mut collected), Err(Fault::TimedOut)));
    assert!(!collected.is_empty() && collected.len() < octets.len());
    let reader = std::thread::spawn(move || {
        let mut heard = Vec::new();
        (&client).read_to_end(&mut heard).unwrap();
        heard
    });
    connection.allow(LONG);
    connection.send_out(&mut collected).unwrap();
    assert!(collected.is_empty());
    drop(connection);
    assert!(reader.join().unwrap() == octets);
    // Where there is no time at all nothing is sent, and nothing is lost.
    let (mut connection, _client) = on_socket(Duration::ZERO);
    let mut collected = b"250 Ok".to_vec();
    assert!(matches!(connection.send_out(&mut collected), Err(Fault::TimedOut)));
    assert_eq!(collected, b"250 Ok");
}

#[test]
fn a_client_that_does_not_read_times_out() {
    let (mut connection, _client) = on_socket(LONG);
    connection.allow(SHORT);
    assert!(matches!(connection.send(&vec![0; 10_000_000]), Err(Fault::TimedOut)));
    let (mut connection, _to_us, _from_us) = on_pipes(LONG);
    connection.allow(SHORT);
    assert!(matches!(connection.send(&vec![0; 10_000_000]), Err(Fault::TimedOut)));
}

#[test]
fn no_command_may_outlast_the_session() {
    let (mut connection, _client) = on_socket(SHORT);
    connection.allow(LONG);
    assert!(matches!(connection.receive(&mut [0]), Err(Fault::TimedOut)));
    assert!(matches!(connection.send(b"late"), Err(Fault::TimedOut)));
}

#[test]
fn last_words_may_follow_the_end_of_the_session() {
    let (mut connection, mut client) = on_tcp(Duration::ZERO);
    client.write_all(&[b'x'; 10_000]).unwrap();
    assert!(matches!(connection.send(b"late"), Err(Fault::TimedOut)));
    connection.allow_last_words(LONG);
    connection.send(b"bye").unwrap();
    let closer = std::thread::spawn(move || connection.finish());
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect("no reset");
    assert_eq!(got, b"bye");
    drop(client);
    closer.join().unwrap();
}

#[test]
fn each_command_has_its_own_time() {
    let (mut connection, mut client) = on_socket(LONG);
    connection.allow(SHORT);
    assert!(matches!(connection.receive(&mut [0]), Err(Fault::TimedOut)));
    connection.allow(LONG);
    client.write_all(b"x").unwrap();
    assert_eq!(connection.receive(&mut [0]).unwrap(), 1);
}

#[test]
fn a_time_beyond_the_clock_is_a_long_time() {
    let (mut connection, mut client) = on_socket(Duration::MAX);
    connection.allow(Duration::MAX);
    client.write_all(b"x").unwrap();
    assert_eq!(connection.receive(&mut [0]).unwrap(), 1);
}

#[test]
fn a_client_that_is_gone_hung_up() {
    let (mut connection, client) = on_socket(LONG);
    drop(client);
    assert!(matches!(connection.send(b"reply"), Err(Fault::HungUp)));
    let (mut connection, _to_us, from_us) = on_pipes(LONG);
    drop(from_us);
    assert!(matches!(connection.send(b"reply"), Err(Fault::HungUp)));
    let (mut connection, client) = on_tcp(LONG);
    connection.send(b"greeting").unwrap();
    // Unread octets make this close a reset.
    drop(client);
    assert!(matches!(connection.receive(&mut [0]), Ok(0) | Err(Fault::HungUp)));
}

#[test]
fn a_slow_reader_of_a_pipe_gets_every_octet() {
    let (mut connection, _to_us, mut from_us) = on_pipes(LONG);
    let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        from_us.read_to_end(&mut got).map(|_| got)
    });
    connection.send(&sent).unwrap();
    drop(connection);
    assert!(reader.join().unwrap().unwrap() == sent);
}

#[test]
fn a_reply_outlives_what_the_client_still_sends() {
    let (mut connection, mut client) = on_tcp(LONG);
    client.write_all(&vec![b'x'; 200_000]).unwrap();
    connection.send(b"too much\r\n").unwrap();
    let closer = std::thread::spawn(move || connection.finish());
    let mut got = Vec::new();
    // Half-closed, so the client sees an end while it may still send.
    client.read_to_end(&mut got).expect("no reset");
    assert_eq!(got, b"too much\r\n");
    drop(client);
    closer.join().unwrap();
}

#[test]
fn finish_waits_neither_for_endless_octets_nor_for_the_silent() {
    let (mut connection, mut client) = on_tcp(LONG);
    let sender = std::thread::spawn(move || while client.write_all(&[b'x'; 65_536]).is_ok() {});
    connection.finish();
    drop(connection);
    sender.join().unwrap();
    let (mut connection, _client) = on_socket(SHORT);
    connection.finish();
}

#[test]
fn a_file_is_read_to_its_end() {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
    let mut connection = Connection::new(null.try_clone().unwrap().into(), null.into(), LONG);
    assert_eq!(connection.receive(&mut [0]).unwrap(), 0);
    connection.send(&[0; 10_000]).unwrap();
    connection.finish();
}
