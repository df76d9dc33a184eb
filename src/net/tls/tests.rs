use super::*;
use crate::net::connection::{Connection, Stream};
use crate::net::trust::{Trust, Versions};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(30);

fn test_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn config(certificates: &str, keys: &str) -> Config {
    Config::with(&[("tls_cert_file", certificates), ("tls_key_file", keys)])
}

/// Of several names, a certificate each.
fn offer(names: &[&str]) -> Offer {
    let list = |end: &str| {
        names
            .iter()
            .map(|name| test_file(&format!("{name}.{end}.pem")).display().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    Offer::open(&config(&list("crt"), &list("key")), false).unwrap()
}

fn mx() -> Identity {
    offer(&["mx"]).take().unwrap().read().unwrap()
}

type Client = StreamOwned<ClientConnection, UnixStream>;

/// A client that trusts the certificates of both names and asks for `name`.
fn client(stream: UnixStream, name: &str) -> Client {
    let mut roots = RootCertStore::empty();
    for file in ["mx.crt.pem", "other.crt.pem"] {
        roots.add(CertificateDer::from_pem_slice(&std::fs::read(test_file(file)).unwrap()).unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
}

/// A connection under TLS for as long as `serve` runs, and a client for as long as `speak` does.
fn between<T: Send + 'static>(
    identity: &Identity,
    speak: impl FnOnce(Client) -> T + Send + 'static,
    serve: impl FnOnce(&mut Connection),
) -> T {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let speaker = std::thread::spawn(move || speak(client(theirs, "mx.example")));
    let mut connection = Connection::new(ours.try_clone().unwrap().into(), ours.into(), LONG);
    let facts = connection.start_tls(identity).unwrap();
    assert!(facts.starts_with("TLSv1.3/TLS_"), "{facts}");
    serve(&mut connection);
    drop(connection);
    speaker.join().unwrap()
}

#[test]
fn octets_go_both_ways_and_both_ends_are_announced() {
    let speak = |mut client: Client| {
        client.write_all(b"hello").unwrap();
        let mut heard = Vec::new();
        // An error here would be an end that was not announced.
        let mut start = [0; 5];
        client.read_exact(&mut start).unwrap();
        client.conn.send_close_notify();
        client.flush().unwrap();
        client.read_to_end(&mut heard).unwrap();
        [&start[..], &heard].concat()
    };
    let heard = between(&mx(), speak, |connection| {
        let mut buffer = [0; 3];
        let mut all = Vec::new();
        while all.len() < 5 {
            let count = connection.receive(&mut buffer).unwrap();
            all.extend_from_slice(&buffer[..count]);
        }
        assert_eq!(all, b"hello");
        connection.send(b"world").unwrap();
        assert_eq!(connection.receive(&mut buffer).unwrap(), 0, "its announced end");
        connection.send(b", bye").unwrap();
    });
    assert_eq!(heard, b"world, bye");
}

#[test]
fn what_came_with_octets_that_were_received_is_waiting() {
    let speak = |mut client: Client| {
        client.write_all(b"helloworld").unwrap();
        client.sock.read_exact(&mut [0]).unwrap();
    };
    between(&mx(), speak, |connection| {
        for is_waiting in [true, false] {
            connection.receive(&mut [0; 5]).unwrap();
            assert_eq!(connection.is_waiting(Duration::ZERO), is_waiting);
        }
        connection.send(b"x").unwrap();
    });
}

#[test]
fn an_end_that_was_not_announced_is_a_hang_up() {
    let speak = |mut client: Client| {
        client.write_all(b"QUIT\r\n").unwrap();
        client.sock.shutdown(std::net::Shutdown::Both).unwrap();
    };
    between(&mx(), speak, |connection| {
        let mut buffer = [0; 100];
        assert_eq!(connection.receive(&mut buffer).unwrap(), 6);
        assert!(matches!(connection.receive(&mut buffer), Err(Fault::HungUp)));
    });
}

#[test]
fn much_goes_through_in_both_directions() {
    const MUCH: usize = 1 << 20;
    let speak = |mut client: Client| {
        client.write_all(&vec![b'x'; MUCH]).unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        heard
    };
    let heard = between(&mx(), speak, |connection| {
        let (mut buffer, mut count) = (vec![0; 5000], 0);
        while count < MUCH {
            count += connection.receive(&mut buffer).unwrap();
        }
        connection.send(&vec![b'y'; MUCH]).unwrap();
        connection.finish();
        assert!(connection.send(b"too late").is_err(), "nothing in clear behind the end");
    });
    assert!(heard.len() == MUCH && heard.iter().all(|octet| *octet == b'y'));
}

#[test]
fn who_does_not_speak_tls_is_found_out_and_who_is_silent_is_not_waited_for() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut connection = Connection::new(ours.try_clone().unwrap().into(), ours.into(), LONG);
    theirs.write_all(b"EHLO client.example\r\n").unwrap();
    assert!(matches!(connection.start_tls(&mx()), Err(Failure::Handshake(_))));
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut connection = Connection::new(ours.try_clone().unwrap().into(), ours.into(), LONG);
    connection.allow(SHORT);
    // The begin of a record that never ends.
    theirs.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
    assert!(matches!(connection.start_tls(&mx()), Err(Failure::Stream(Fault::TimedOut))));
    drop(theirs);
    connection.allow(LONG);
    assert!(matches!(connection.start_tls(&mx()), Err(Failure::Stream(Fault::HungUp))));
}

#[test]
fn a_server_that_waits_times_out_and_can_still_speak() {
    let speak = |mut client: Client| {
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        heard
    };
    let heard = between(&mx(), speak, |connection| {
        connection.allow(SHORT);
        assert!(matches!(connection.receive(&mut [0; 10]), Err(Fault::TimedOut)));
        connection.allow(LONG);
        connection.send(b"timed out").unwrap();
    });
    assert_eq!(heard, b"timed out");
}

#[test]
fn the_certificate_is_that_of_the_name_and_else_the_first() {
    let identity = offer(&["mx", "other"]).take().unwrap().read().unwrap();
    for (name, verified) in [("mx.example", true), ("OTHER.example", true), ("third.example", false)] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let speaker = std::thread::spawn(move || client(theirs, name).write_all(b"x").map_err(|e| e.to_string()));
        let mut connection = Connection::new(ours.try_clone().unwrap().into(), ours.into(), LONG);
        let shaken = connection.start_tls(&identity);
        assert_eq!(shaken.is_ok(), verified, "{name}: {shaken:?}");
        drop(connection);
        let result = speaker.join().unwrap();
        assert_eq!(result.is_ok(), verified, "{name}: {result:?}");
    }
}

#[test]
fn a_wrong_file_is_named_with_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let junk = folder.path().join("junk.pem");
    std::fs::write(&junk, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let [certificate, key, other] = ["mx.crt.pem", "mx.key.pem", "other.key.pem"].map(test_file);
    let nothing = folder.path().join("nothing.pem");
    for (certificate, key, named, expected) in [
        (&nothing, &key, &nothing, "tls_cert_file: expected a PEM file that can be read"),
        (&certificate, &nothing, &nothing, "tls_key_file: expected a PEM file that can be read"),
        (&empty, &key, &empty, "tls_cert_file: expected a PEM file with a certificate"),
        (&junk, &key, &junk, "tls_cert_file: expected certificates in PEM"),
        (&certificate, &empty, &empty, "tls_key_file: expected a PEM file with a key"),
        (&certificate, &certificate, &certificate, "tls_key_file: expected a PEM file with a key"),
        (&certificate, &other, &other, "tls_key_file: expected the key of the first certificate in "),
    ] {
        let config = config(&certificate.display().to_string(), &key.display().to_string());
        let read = Offer::open(&config, true).and_then(|mut offer| offer.take().unwrap().read());
        let Err(Error::Config(error)) = read else { panic!("{expected}: {read:?}") };
        assert!(error.to_string().starts_with(&format!("{}: {expected}", named.display())), "{error}");
    }
    let two = format!("{0},{0}", certificate.display());
    let Err(Error::Config(error)) = Offer::open(&config(&two, &key.display().to_string()), false) else { panic!() };
    assert!(error.to_string().contains("tls_key_file: expected 2 files"), "{error}");
}

#[test]
fn without_a_certificate_nothing_is_offered_and_nothing_can_be_demanded() {
    let config = Config::with(&[]);
    assert!(matches!(Offer::open(&config, false), Ok(Offer::None)));
    assert!(matches!(Offer::open(&config, true), Err(Error::Config(_))));
}

#[test]
fn a_process_that_serves_several_clients_has_an_offer_for_each() {
    let mut first = offer(&["mx"]);
    let mut second = first.clone();
    assert!(first.take().unwrap().read().is_ok());
    assert!(matches!(first, Offer::None), "once for a client");
    assert!(second.take().unwrap().read().is_ok());
}

/// A folder with a certificate and its key.
fn copies() -> (tempfile::TempDir, [PathBuf; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let both = ["crt", "key"].map(|end| {
        let copy = folder.path().join(end);
        std::fs::copy(test_file(&format!("mx.{end}.pem")), &copy).unwrap();
        copy
    });
    (folder, both)
}

/// Puts another file in the place of one, at once.
fn put(name: &str, path: &Path) {
    let draft = path.with_extension("new");
    std::fs::copy(test_file(name), &draft).unwrap();
    std::fs::rename(draft, path).unwrap();
}

/// As a process has it that listens.
fn followed(config: &Config) -> Followed {
    let mut followed = Followed::open(config, false).unwrap();
    assert!(followed.is_any() && !followed.follow(config, false));
    followed
}

/// The certificate that a client of it is shown, by what was read of it without opening a file.
fn shown(followed: &mut Followed) -> Vec<u8> {
    let files = followed.offer(false).take().unwrap();
    identity(&files.pairs, None).expect("a pair");
    files.pairs[0][0].certificates().unwrap()[0].to_vec()
}

#[test]
fn a_key_that_may_not_be_opened_any_more_is_kept_when_the_configuration_is_read_again() {
    let (_folder, [certificate, key]) = copies();
    let config = config(&certificate.display().to_string(), &key.display().to_string());
    let mut followed = followed(&config);
    std::fs::remove_file(&key).unwrap();
    assert!(Offer::open(&config, false).is_err());
    assert!(matches!(followed.open_again(&config, false), Ok(false)));
    shown(&mut followed);
    let without = Config::with(&[]);
    assert!(followed.open_again(&without, false).is_ok() && !followed.is_any());
    assert!(!followed.follow(&without, false));
    // As there is nothing to go on with, what is of no use is wrong.
    assert!(followed.open_again(&config, false).is_err() && !followed.is_any());
    put("other.key.pem", &key);
    assert!(followed.open_again(&config, false).is_err() && !followed.is_any());
    put("mx.key.pem", &key);
    assert!(followed.open_again(&config, false).is_ok() && followed.is_any());
}

#[test]
fn files_that_were_replaced_are_followed_and_never_half_of_them() {
    let (_folder, [certificate, key]) = copies();
    let config = config(&certificate.display().to_string(), &key.display().to_string());
    for read_again in [true, false] {
        put("mx.crt.pem", &certificate);
        put("mx.key.pem", &key);
        let mut followed = followed(&config);
        let before = shown(&mut followed);
        let look = |followed: &mut Followed| {
            if read_again { followed.open_again(&config, false).unwrap() } else { followed.follow(&config, false) }
        };
        put("other.crt.pem", &certificate);
        assert!(!look(&mut followed) && shown(&mut followed) == before);
        put("other.key.pem", &key);
        assert!(look(&mut followed) && shown(&mut followed) != before);
    }
}

/// As by cp, which empties a file first and writes it then.
#[test]
fn what_is_written_over_open_files_takes_nothing_from_those_who_have_them() {
    let (_folder, [certificate, key]) = copies();
    let config = config(&certificate.display().to_string(), &key.display().to_string());
    let mut followed = followed(&config);
    let before = shown(&mut followed);
    let new = std::fs::read(test_file("other.key.pem")).unwrap();
    std::fs::copy(test_file("other.crt.pem"), &certificate).unwrap();
    for length in [0, 1, 100, new.len() / 2] {
        std::fs::write(&key, &new[..length]).unwrap();
        assert!(!followed.follow(&config, false) && shown(&mut followed) == before, "{length} octets");
    }
    std::fs::write(&key, &new).unwrap();
    assert!(followed.follow(&config, false) && shown(&mut followed) != before);
    // What children have open they cannot change for others.
    let files = followed.offer(false).take().unwrap();
    for pem in files.pairs.iter().flatten() {
        let written = pem.file.write_at(b"x", 0).and(pem.file.set_len(1)).map_err(|error| error.kind());
        assert_eq!(written, Err(ErrorKind::PermissionDenied), "{pem:?}");
    }
}

#[test]
fn a_fifo_in_the_place_of_a_key_is_not_waited_for() {
    let (_folder, [certificate, key]) = copies();
    let config = config(&certificate.display().to_string(), &key.display().to_string());
    let mut followed = followed(&config);
    std::fs::remove_file(&key).unwrap();
    nix::unistd::mkfifo(&key, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert!(!followed.follow(&config, false));
    shown(&mut followed);
}

#[test]
fn keys_of_tickets_that_cannot_be_read_any_more_are_kept_when_the_configuration_is_read_again() {
    let (folder, [certificate, key]) = copies();
    let keys = folder.path().join("tickets");
    let [certificate, key, name] = [&certificate, &key, &keys].map(|path| path.display().to_string());
    let config =
        Config::with(&[("tls_cert_file", &certificate), ("tls_key_file", &key), ("tls_ticket_key_file", &name)]);
    let mut followed = followed(&config);
    // Neither root can read that.
    std::fs::remove_file(&keys).unwrap();
    std::fs::create_dir(&keys).unwrap();
    followed.open_again(&config, false).unwrap();
    let files = followed.offer(true).with_tickets_of_now().take().unwrap();
    assert!(files.tickets.as_ref().unwrap().tickets().is_some());
}

#[test]
fn files_that_cannot_be_opened_any_more_are_read_as_they_were() {
    let (_folder, [certificate, key]) = copies();
    let config = config(&certificate.display().to_string(), &key.display().to_string());
    let open = || Offer::open(&config, false).unwrap().take().unwrap();
    let (first, second) = (open(), open());
    // A new certificate whose key is for others: neither of the two is taken.
    std::fs::remove_file(&certificate).unwrap();
    std::fs::copy(test_file("other.crt.pem"), &certificate).unwrap();
    std::fs::remove_file(&key).unwrap();
    assert!(first.read().is_ok());
    // The new certificate is there, and the old key still.
    std::fs::copy(test_file("mx.key.pem"), &key).unwrap();
    assert!(second.read().is_ok() && open().read().is_err());
    std::fs::write(&certificate, "broken").unwrap();
    assert!(second.read().is_ok() && open().read().is_err());
    std::fs::copy(test_file("other.crt.pem"), &certificate).unwrap();
    std::fs::copy(test_file("other.key.pem"), &key).unwrap();
    assert!(second.read().is_ok());
}

#[test]
fn files_that_were_opened_while_they_were_replaced_are_opened_again() {
    let (_folder, [certificate, key]) = copies();
    let config = config(&certificate.display().to_string(), &key.display().to_string());
    put("other.crt.pem", &certificate);
    let half = Offer::open(&config, false).unwrap().take().unwrap();
    assert!(half.read().is_err());
    put("other.key.pem", &key);
    assert!(half.read().is_ok());
}

#[test]
fn what_a_client_of_ours_takes_for_lost_does_not_arrive_after_all() {
    let piece = vec![b'x'; 50_000];
    for goes_on in [true, false] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (wake, woken) = std::sync::mpsc::channel::<()>();
        let server = std::thread::spawn(move || {
            let mut server = Connection::new(theirs.try_clone().unwrap().into(), theirs.into(), LONG);
            server.start_tls(&mx()).unwrap();
            let _ = woken.recv();
            let (mut heard, mut buffer) = (0, vec![0; 65_536]);
            while let Ok(count @ 1..) = server.receive(&mut buffer) {
                heard += count;
            }
            heard
        });
        let mut client = Connection::new(ours.try_clone().unwrap().into(), ours.into(), LONG);
        client.start_tls_as_client(&Trust::anybody(&[], Versions::default()).unwrap(), "mx.example").unwrap();
        client.allow(SHORT);
        let mut sent = 0;
        let lost = loop {
            match client.send(&piece) {
                Ok(()) => sent += piece.len(),
                Err(fault) => break fault,
            }
        };
        assert!(matches!(lost, Fault::TimedOut));
        drop(wake);
        if goes_on {
            client.allow(Duration::from_millis(500));
            assert!(client.receive(&mut [0; 100]).is_err());
            assert!(matches!(client.send(b"QUIT\r\n"), Err(Fault::HungUp)));
        }
        drop(client);
        let heard = server.join().unwrap();
        assert!(heard < sent + piece.len(), "{heard} octets, and {sent} of them before");
    }
}

/// Whether a client that has been at one process is spared the certificate at another.
fn resumes(settings: &[(&str, &str)]) -> bool {
    let (certificate, key) = (test_file("mx.crt.pem"), test_file("mx.key.pem"));
    let files = [("tls_cert_file", certificate.to_str().unwrap()), ("tls_key_file", key.to_str().unwrap())];
    let config = Config::with(&[&files[..], settings].concat());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&std::fs::read(&certificate).unwrap()).unwrap()).unwrap();
    let of_client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let of_client = Arc::new(of_client);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let identity = Offer::open(&config, false).unwrap().take().unwrap().read().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let of_client = of_client.clone();
        let speaker = std::thread::spawn(move || {
            let name = ServerName::try_from("mx.example").unwrap();
            let mut client = StreamOwned::new(ClientConnection::new(of_client, name).unwrap(), theirs);
            // The ticket comes behind the handshake, with the first octets.
            client.read_exact(&mut [0; 5]).unwrap();
            client.conn.handshake_kind()
        });
        let mut connection = Connection::new(ours.try_clone().unwrap().into(), ours.into(), LONG);
        connection.start_tls(&identity).unwrap();
        connection.send(b"hello").unwrap();
        kinds.push(speaker.join().unwrap());
    }
    assert_eq!(kinds[0], Some(rustls::HandshakeKind::Full));
    kinds[1] == Some(rustls::HandshakeKind::Resumed)
}

#[test]
fn a_ticket_of_one_process_spares_the_handshake_at_another_where_there_is_a_file_of_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tickets");
    assert!(resumes(&[("tls_ticket_key_file", path.to_str().unwrap())]));
    assert!(!resumes(&[]));
    assert!(!resumes(&[("tls_ticket_key_file", "/nonexistent/tickets")]));
}
