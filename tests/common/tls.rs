//! A client that begins in clear and becomes TLS, on one end of a unix socket whose other end a program of ours has.
//!
//! It trusts the certificates in tests/tls/, whose keys are published and good for nothing else.

use super::Scratch;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A file of tests/tls/.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// Lines of main.cf for the certificate of mx.example. Copies lie in the scratch folder, where a server without rights
/// reaches them.
pub fn configure(scratch: &Scratch) {
    for name in ["mx.crt.pem", "mx.key.pem"] {
        scratch.write(name, &std::fs::read_to_string(file(name)).expect("a PEM file"));
    }
    let folder = scratch.path().display();
    scratch.configure(&format!("tls_cert_file = {folder}/mx.crt.pem\ntls_key_file = {folder}/mx.key.pem"));
}

/// The same, and for that of other.example, which is shown to whoever asks for that name.
pub fn configure_both(scratch: &Scratch) {
    configure(scratch);
    for name in ["other.crt.pem", "other.key.pem"] {
        scratch.write(name, &std::fs::read_to_string(file(name)).expect("a PEM file"));
    }
    let pair =
        |kind: &str| ["mx", "other"].map(|name| format!("{}/{name}.{kind}.pem", scratch.path().display())).join(" ");
    scratch.configure(&format!("tls_cert_file = {}\ntls_key_file = {}", pair("crt"), pair("key")));
}

/// A server that shakes hands and closes, without a word.
pub struct Leaving {
    sessions: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Leaving {
    pub fn start(listener: TcpListener) -> Leaving {
        let certificate = CertificateDer::from_pem_file(file("mx.crt.pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(file("mx.key.pem")).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a certificate");
        let (config, address) = (Arc::new(config), listener.local_addr().expect("its address"));
        let (sessions, is_over): (Arc<AtomicUsize>, Arc<AtomicBool>) = Default::default();
        let (counted, told) = (Arc::clone(&sessions), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if told.load(Ordering::SeqCst) {
                    return;
                }
                let mut stream = stream.expect("a connection");
                let mut session = ServerConnection::new(Arc::clone(&config)).expect("a session");
                while session.is_handshaking() {
                    session.complete_io(&mut stream).expect("a handshake");
                }
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Leaving { sessions, is_over, address, thread: Some(thread) }
    }

    /// How many handshakes there were.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::SeqCst)
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client's side of a session, which checks that the certificate is that of mx.example.
pub fn client() -> ClientConnection {
    client_of("mx")
}

/// The same for mx.example or other.example, whichever is asked for: the server may have the certificate of either.
fn client_of(name: &str) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    for name in ["mx", "other"] {
        let certificate = CertificateDer::from_pem_file(file(&format!("{name}.crt.pem"))).expect("a certificate");
        roots.add(certificate).expect("a root");
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(format!("{name}.example")).expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a session")
}

/// The client.
pub struct Client {
    wire: Wire,
    /// Read and not used.
    heard: Vec<u8>,
    child: Child,
}

enum Wire {
    Clear(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, UnixStream>>),
}

impl Client {
    /// Starts a program with the other end on its descriptors 0 and 1.
    pub fn start(command: &mut Command) -> Client {
        let (ours, theirs) = UnixStream::pair().expect("a socketpair");
        ours.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
        let theirs = OwnedFd::from(theirs);
        let end = || Stdio::from(theirs.try_clone().expect("a descriptor"));
        let child = command.stdin(end()).stdout(end()).stderr(Stdio::piped()).spawn().expect("the program");
        // The builder keeps its own copies of the descriptors.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Client { wire: Wire::Clear(ours), heard: Vec::new(), child }
    }

    /// A client of a server that listens on a unix socket; `child` is whoever is to be waited for.
    pub fn connected(path: &Path, child: Child) -> Client {
        let ours = UnixStream::connect(path).expect("a connection");
        ours.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
        Client { wire: Wire::Clear(ours), heard: Vec::new(), child }
    }

    /// The same from another machine, as far as the program can know.
    pub fn from_afar(command: &mut Command) -> Client {
        Client::start(command.env("TCPREMOTEIP", "192.0.2.1"))
    }

    /// The same from this machine.
    pub fn from_here(command: &mut Command) -> Client {
        Client::start(command.env("TCPREMOTEIP", "127.0.0.1"))
    }

    /// Sends octets as they are.
    pub fn send(&mut self, octets: &[u8]) {
        match &mut self.wire {
            Wire::Clear(stream) => stream.write_all(octets),
            Wire::Tls(stream) => stream.write_all(octets).and_then(|()| stream.flush()),
        }
        .expect("sending");
    }

    /// Sends a line.
    pub fn say(&mut self, line: &str) {
        self.send(format!("{line}\r\n").as_bytes());
    }

    /// The next line.
    pub fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.heard.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
            let mut piece = [0; 4096];
            let count = match &mut self.wire {
                Wire::Clear(stream) => stream.read(&mut piece),
                Wire::Tls(stream) => stream.read(&mut piece),
            }
            .expect("reading");
            assert!(count > 0, "an end instead of a line, after {:?}", String::from_utf8_lossy(&self.heard));
            self.heard.extend_from_slice(&piece[..count]);
        }
    }

    /// Sends a line, and gives the next one.
    pub fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.line()
    }

    /// All lines of a reply of SMTP.
    pub fn reply(&mut self) -> Vec<String> {
        let mut lines = vec![self.line()];
        while lines.last().is_some_and(|line| line.as_bytes().get(3) == Some(&b'-')) {
            lines.push(self.line());
        }
        lines
    }

    /// Shakes hands, and checks that the certificate is that of mx.example.
    pub fn start_tls(&mut self) {
        self.start_tls_with("mx");
    }

    /// The same for mx.example or other.example.
    pub fn start_tls_with(&mut self, name: &str) {
        let shaken = self.try_tls_with(name);
        assert!(shaken.is_ok(), "{shaken:?}");
    }

    /// The same, which fails with InvalidData where the certificate is that of another.
    pub fn try_tls_with(&mut self, name: &str) -> std::io::Result<()> {
        assert!(self.heard.is_empty(), "said in clear: {:?}", String::from_utf8_lossy(&self.heard));
        let (placeholder, _) = UnixStream::pair().expect("a socketpair");
        let Wire::Clear(stream) = std::mem::replace(&mut self.wire, Wire::Clear(placeholder)) else {
            panic!("TLS in TLS")
        };
        let mut stream = StreamOwned::new(client_of(name), stream);
        stream.conn.complete_io(&mut stream.sock)?;
        self.wire = Wire::Tls(Box::new(stream));
        Ok(())
    }

    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits, in clear, for the program's end; it must say nothing more.
    pub fn wait_for_end(&mut self) {
        let Wire::Clear(stream) = &mut self.wire else { panic!("not in clear") };
        assert_eq!(stream.read(&mut [0; 100]).expect("an end"), 0);
    }

    /// Goes away without announcing it; gives the log and the exit status.
    pub fn cut(mut self) -> (String, Option<i32>) {
        match &self.wire {
            Wire::Clear(stream) => stream.shutdown(Shutdown::Both),
            Wire::Tls(stream) => stream.sock.shutdown(Shutdown::Both),
        }
        .expect("cutting");
        let mut log = String::new();
        self.child.stderr.take().expect("a pipe").read_to_string(&mut log).expect("the log");
        (log, self.child.wait().expect("its end").code())
    }

    /// Hangs up, if the program has not; gives what it still said, its log, and its exit status. Under TLS the
    /// program's end must be announced.
    pub fn end(mut self) -> (String, String, Option<i32>) {
        let mut said = std::mem::take(&mut self.heard);
        match &mut self.wire {
            Wire::Clear(stream) => {
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.read_to_end(&mut said);
            }
            Wire::Tls(stream) => {
                stream.conn.send_close_notify();
                // It may have left already, with its last words on their way to us.
                let _ = stream.conn.write_tls(&mut stream.sock);
                loop {
                    match stream.conn.reader().read_to_end(&mut said) {
                        Ok(_) => break,
                        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "an end that was not announced"),
                    }
                    stream.conn.read_tls(&mut stream.sock).expect("reading");
                    stream.conn.process_new_packets().expect("records");
                }
                let _ = stream.sock.shutdown(Shutdown::Both);
            }
        }
        let mut log = String::new();
        self.child.stderr.take().expect("a pipe").read_to_string(&mut log).expect("the log");
        (String::from_utf8_lossy(&said).into_owned(), log, self.child.wait().expect("its end").code())
    }
}
