//! Malformed packages to our qmqpd and to a live Postfix side by side: what each answers stands in doc/qmqp.md, and
//! every difference is one that is explained there.
//!
//! Needs root and Postfix's programs, which .ci/run installs; a private instance with a queue of its own is started on
//! loopback and ended again.

mod common;

use common::chance::Chance;
use common::postfix::Postfix;
use common::{Scratch, bin_folder, free_address, until};
use doorpost::wire::netstring;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Both servers' message_size_limit.
const LARGEST: usize = 100_000;

const CONTENT: &[u8] = b"Subject: x\n\nhello\n";
const SENDER: &[u8] = b"alice@client.example";
const RECIPIENT: &[u8] = b"bob@mx.example";

/// A Postfix whose qmqpd listens.
fn postfix() -> Postfix {
    let settings = format!(
        "message_size_limit = {LARGEST}\nqmqpd_authorized_clients = 127.0.0.0/8\nqmqpd_error_delay = 0\nqmqpd_timeout = 20s"
    );
    Postfix::start(&std::env::temp_dir(), "qmqpd", &settings)
}

/// Our qmqpd, accepting by itself.
struct Ours {
    _scratch: Scratch,
    qmqpd: Child,
    address: SocketAddr,
}

impl Ours {
    fn start() -> Ours {
        let scratch = Scratch::with(&format!("qmqpd_authorized_clients = 127.0.0.0/8\nmessage_size_limit = {LARGEST}"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its number");
        let mut command = Command::new(bin_folder().join("qmqpd"));
        command.env_clear().arg("--config").arg(scratch.path());
        let command = command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
        Ours { qmqpd: command.spawn().expect("qmqpd"), address, _scratch: scratch }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.qmqpd.id()).expect("a pid"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.qmqpd.wait();
    }
}

/// `K`, `Z`, `D`, or `-` for no answer; and the answer.
fn answer(server: SocketAddr, package: &[u8]) -> (char, String) {
    let mut client = TcpStream::connect(server).expect("a connection");
    client.set_read_timeout(Some(Duration::from_secs(30))).expect("a time limit");
    // A server that has refused already may have closed.
    let _ = client.write_all(package);
    let _ = client.shutdown(Shutdown::Write);
    let (mut octets, mut piece) = (Vec::new(), [0; 1000]);
    loop {
        match client.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => octets.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{server}: {error}"),
        }
    }
    let text = octets.escape_ascii().to_string();
    let kind = text.chars().find(|c| matches!(c, 'K' | 'Z' | 'D')).unwrap_or('-');
    (kind, text)
}

fn net(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    netstring::put(&mut out, payload);
    out
}

fn package(content: &[u8], sender: &[u8], recipients: &[&[u8]]) -> Vec<u8> {
    let parts = [content, sender].into_iter().chain(recipients.iter().copied());
    net(&parts.flat_map(net).collect::<Vec<u8>>())
}

/// The octets inside of a package, and that package with another length in front.
fn outer(length: &str) -> Vec<u8> {
    let whole = package(CONTENT, SENDER, &[RECIPIENT]);
    let colon = whole.iter().position(|octet| *octet == b':').expect("a length");
    [length.as_bytes(), &whole[colon..]].concat()
}

/// A package around these octets, whatever they are.
fn around(inside: &[&[u8]]) -> Vec<u8> {
    net(&inside.concat())
}

/// Each row of the first table in doc/qmqp.md, by its name.
fn cases() -> BTreeMap<&'static str, Vec<u8>> {
    let whole = package(CONTENT, SENDER, &[RECIPIENT]);
    let cut = |behind: usize| whole[..behind].to_vec();
    let (content, sender, recipient) = (net(CONTENT), net(SENDER), net(RECIPIENT));
    let hops = |count: usize| [&b"Received: x\n".repeat(count)[..], CONTENT].concat();
    let long = |length: usize| [&vec![b'a'; length - 8][..], b"@example"].concat();
    let header = whole.len() - content.len() - sender.len() - recipient.len() - 1;
    let to = |recipient: &[u8]| package(CONTENT, SENDER, &[recipient]);
    let from = |sender: &[u8]| package(CONTENT, sender, &[RECIPIENT]);
    BTreeMap::from([
        ("well-formed", whole.clone()),
        ("two-recipients", package(CONTENT, SENDER, &[RECIPIENT, b"carol@mx.example"])),
        ("null-sender", from(b"")),
        ("empty-content", package(b"", SENDER, &[RECIPIENT])),
        ("crlf-content", package(b"Subject: x\r\n\r\nhello\r\n", SENDER, &[RECIPIENT])),
        ("nul-in-content", package(b"Subject: x\n\n\0\n", SENDER, &[RECIPIENT])),
        ("no-line-end", package(b"Subject: x\n\nhello", SENDER, &[RECIPIENT])),
        ("long-line", package(&[CONTENT, &[b'x'; 50_000], b"\n"].concat(), SENDER, &[RECIPIENT])),
        ("octets-behind", [&whole[..], b"anything"].concat()),
        ("not-qmqp", b"GET / HTTP/1.0\r\n\r\n".to_vec()),
        ("signed-length", outer("+71")),
        ("blank-in-length", outer("7 1")),
        ("huge-length", outer("1000000000000000000000000000000")),
        ("outer-too-short", outer("5")),
        ("outer-too-long", outer("9999")),
        ("outer-empty", outer("")),
        ("outer-leading-zero", outer(&format!("0{}", whole.len() - header - 1))),
        ("inner-leading-zero", around(&[&content, b"0", &sender, &recipient])),
        ("inner-empty-length", around(&[&content, b":,", &recipient])),
        ("inner-over-outer", around(&[&content, b"900:", SENDER, b",", &recipient])),
        ("inner-no-comma", around(&[&content[..content.len() - 1], b";", &sender, &recipient])),
        ("outer-no-comma", [&whole[..whole.len() - 1], b";"].concat()),
        ("outer-digit-for-comma", [&whole[..whole.len() - 1], b"8"].concat()),
        ("content-only", around(&[&content])),
        ("no-recipients", around(&[&content, &sender])),
        ("empty-package", b"0:,".to_vec()),
        ("content-over-limit", package(&vec![b'x'; LARGEST + 1], SENDER, &[RECIPIENT])),
        ("whole-over-limit", package(&[&[b'x'; 99][..], b"\n"].concat().repeat(LARGEST / 100), SENDER, &[RECIPIENT])),
        ("sender-1000", from(&long(1000))),
        ("sender-1001", from(&long(1001))),
        ("sender-2049", from(&long(2049))),
        ("recipient-2049", to(&long(2049))),
        ("nul-in-sender", from(b"alice\0@client.example")),
        ("nul-in-recipient", to(b"bob\0@mx.example")),
        ("lf-in-sender", from(b"alice\n@client.example")),
        ("odd-sender", from(b"alice@client.example> RET=FULL")),
        ("lf-in-recipient", to(b"bob\n@mx.example")),
        ("cr-in-recipient", to(b"bob\r@mx.example")),
        ("control-in-recipient", to(b"bob\x01@mx.example")),
        ("8bit-in-recipient", to("b\u{f6}b@mx.example".as_bytes())),
        ("blank-in-recipient", to(b"b ob@mx.example")),
        ("empty-recipient", to(b"")),
        ("no-local-part", to(b"@mx.example")),
        ("no-domain", to(b"bob")),
        ("empty-label", to(b"bob@mx..example")),
        ("verp", from(b"list-@client.example-@[]")),
        ("verp-bad-delimiter", from(b"listx@client.example-@[]")),
        ("hops-48", package(&hops(48), SENDER, &[RECIPIENT])),
        ("hops-49", package(&hops(49), SENDER, &[RECIPIENT])),
        ("lost-at-once", Vec::new()),
        ("lost-in-length", cut(1)),
        ("lost-in-content", cut(header + 9)),
        ("lost-in-sender", cut(header + content.len() + 9)),
        ("lost-in-recipient", cut(header + content.len() + sender.len() + 9)),
        ("lost-before-end", cut(whole.len() - 1)),
    ])
}

/// Name, our answer and Postfix's of each row of doc/qmqp.md.
fn documented() -> BTreeMap<String, (char, char)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("doc/qmqp.md")).expect("doc/qmqp.md");
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let letter = |cell: &str| cell.trim_matches('`').chars().next().expect("an answer");
        let name = cells[1].trim_matches('`').to_owned();
        assert!(rows.insert(name.clone(), (letter(cells[3]), letter(cells[4]))).is_none(), "{name} stands there twice");
    }
    rows
}

#[test]
fn the_table_in_doc_qmqp_md_is_what_both_answer() {
    let (postfix, ours) = (postfix(), Ours::start());
    let documented = documented();
    let mut wrong = String::new();
    for (name, package) in cases() {
        let (own, own_text) = answer(ours.address, &package);
        let (their, their_text) = answer(postfix.address, &package);
        if documented.get(name) != Some(&(own, their)) {
            wrong.push_str(&format!("{name}: ours {own} ({own_text}), Postfix {their} ({their_text})\n"));
        }
    }
    assert!(wrong.is_empty(), "not as in doc/qmqp.md:\n{wrong}{}", postfix.log());
    let missing: Vec<&String> = documented.keys().filter(|name| !cases().contains_key(name.as_str())).collect();
    assert!(missing.is_empty(), "in doc/qmqp.md and not tried: {missing:?}");
}

/// What of the strict rules a package breaks that Postfix does not ask for, by the name of a row that explains it. Reads
/// as Postfix does: the outer length is not looked at, and lengths may begin with zeros or be missing.
fn liberties(package: &[u8]) -> Vec<&'static str> {
    let mut found = Vec::new();
    let Some((outer, mut rest)) = length(package, &mut found) else { return found };
    let begin = rest.len();
    for part in 0.. {
        if part >= 2 && rest.first() == Some(&b',') {
            break;
        }
        let Some((count, behind)) = length(rest, &mut found) else {
            let only_digits = !rest.is_empty() && rest.iter().all(u8::is_ascii_digit);
            found.extend(only_digits.then_some("outer-digit-for-comma"));
            break;
        };
        let Some((payload, behind)) = usize::try_from(count).ok().and_then(|count| behind.split_at_checked(count))
        else {
            found.push("inner-over-outer");
            break;
        };
        if part >= 1 {
            found.extend(payload.contains(&0).then_some("nul-in-recipient"));
            found.extend(payload.contains(&b'\n').then_some("lf-in-recipient"));
            found.extend(payload.contains(&b'\r').then_some("cr-in-recipient"));
        }
        if part == 1 {
            let path = payload.strip_suffix(b"-@[]").unwrap_or(payload);
            let domain = path.rsplit(|octet| *octet == b'@').next().unwrap_or_default();
            let odd = |octet: &u8| !(octet.is_ascii_alphanumeric() || b"-_.".contains(octet));
            let empty = domain.split(|octet| *octet == b'.').any(<[u8]>::is_empty);
            let is_odd = path.contains(&b'@') && (path.starts_with(b"@") || empty || domain.iter().any(odd));
            found.extend((is_odd || payload.iter().any(u8::is_ascii_control)).then_some("odd-sender"));
        }
        if part >= 2 {
            let local = payload.split(|octet| *octet == b'@').next().unwrap_or_default();
            let domain = payload.rsplit(|octet| *octet == b'@').next().unwrap_or_default();
            let odd = |octet: &u8| !(octet.is_ascii_alphanumeric() || b"-_.".contains(octet));
            found.extend(payload.is_empty().then_some("empty-recipient"));
            found.extend(payload.iter().any(u8::is_ascii_control).then_some("control-in-recipient"));
            found.extend(local.is_empty().then_some("no-local-part"));
            let empty = domain.split(|octet| *octet == b'.').any(<[u8]>::is_empty);
            found.extend((payload.contains(&b'@') && (empty || domain.iter().any(odd))).then_some("empty-label"));
        }
        let Some((_, behind)) = behind.split_first() else { break };
        rest = behind;
    }
    let inside = (begin - rest.len()) as u64;
    found.extend((outer < inside).then_some("outer-too-short"));
    found.extend((outer > inside).then_some("outer-too-long"));
    found
}

/// A length as Postfix reads it, and what follows its colon.
fn length<'a>(octets: &'a [u8], found: &mut Vec<&'static str>) -> Option<(u64, &'a [u8])> {
    let colon = octets.iter().position(|octet| !octet.is_ascii_digit()).filter(|at| octets[*at] == b':')?;
    let digits = std::str::from_utf8(&octets[..colon]).ok()?;
    found.extend(digits.is_empty().then_some("inner-empty-length"));
    found.extend((digits.len() > 1 && digits.starts_with('0')).then_some("inner-leading-zero"));
    let value = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    Some((value, &octets[colon + 1..]))
}

/// A package with up to three octets changed, put in or left out, or two of its parts exchanged.
fn mutated(chance: &mut Chance) -> Vec<u8> {
    const OCTETS: &[u8] = b"0123456789:,,::\n\r\0@-[]. +x\x7f\xff";
    let sender: &[u8] = [SENDER, b"", b"list-@client.example-@[]", b"#@[]"][chance.below(4)];
    let mut package = package(CONTENT, sender, &[RECIPIENT, b"carol"][..1 + chance.below(2)]);
    for _ in 0..=chance.below(3) {
        let at = chance.below(package.len());
        let octet = OCTETS[chance.below(OCTETS.len())];
        match chance.below(4) {
            0 => package[at] = octet,
            1 => package.insert(at, octet),
            2 => drop(package.remove(at)),
            _ => {
                let other = chance.below(package.len());
                package.swap(at, other);
            }
        }
    }
    package
}

#[test]
fn differences_over_generated_packages_are_all_explained() {
    let (postfix, ours) = (postfix(), Ours::start());
    let documented = documented();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15 ^ number("DIFFERENTIAL_SEED").unwrap_or(0));
    let (mut same, mut explained, mut wrong) = (0, BTreeMap::new(), String::new());
    for _ in 0..number("DIFFERENTIAL_SESSIONS").unwrap_or(600) {
        let package = mutated(&mut chance);
        let (own, own_text) = answer(ours.address, &package);
        let (their, their_text) = answer(postfix.address, &package);
        let mut liberties = liberties(&package);
        // Ours comes when the sender is read; Postfix may wait for the end of a package that has none.
        liberties.extend((their == '-' && own_text.contains("VERP")).then_some("inner-over-outer"));
        if own == their {
            same += 1;
        } else if let Some(name) = liberties.iter().find(|name| documented.get(**name).is_some_and(|(o, t)| o != t)) {
            *explained.entry(*name).or_insert(0) += 1;
        } else {
            let text = package.escape_ascii();
            wrong.push_str(&format!("{text}\n  ours {own_text}\n  Postfix {their_text}\n"));
        }
        // Being strict may refuse more, and never takes what Postfix refuses.
        assert!(own != 'K' || their == 'K', "{}: ours {own_text}, Postfix {their_text}", package.escape_ascii());
    }
    assert!(wrong.is_empty(), "not explained:\n{wrong}");
    assert!(same > 100 && explained.len() >= 4, "same: {same}, explained: {explained:?}");
}

#[test]
fn postfixs_sink_takes_what_deliver_sends() {
    let port = free_address();
    let mut sink = Command::new("/usr/sbin/qmqp-sink");
    let mut sink = sink.arg(port.to_string()).arg("10").stdout(Stdio::null()).spawn().expect("qmqp-sink");
    until("qmqp-sink to listen", || TcpStream::connect(port).is_ok());
    let scratch = Scratch::with("myhostname = null.example\nqmqpd_authorized_clients = stdin");
    scratch.write("channels", &format!("local - null.example mailbox: *\nout stdin * qmqp:{port} *\n"));
    let recipients: Vec<String> = (0..20).map(|n| format!("user{n}@mx.example")).collect();
    let recipients: Vec<&[u8]> = recipients.iter().map(|text| text.as_bytes()).collect();
    let output = scratch.run("qmqpd", &[], &package(&CONTENT.repeat(5000), b"list-@null.example-@[]", &recipients));
    assert!(output.stdout.starts_with(b"30:KOk"), "{output:?}");
    let log = scratch.deliver();
    assert_eq!(log.matches("status=relayed").count(), 20, "{log}");
    assert_eq!(scratch.queued(), []);
    sink.kill().expect("its end");
    sink.wait().expect("its end");
}
