//! A parser of POP3 that an attacker has taken over: it may send the checker any packets, in any order, and octets to the
//! user's process. It gets what one client with those credentials gets, or nothing: no maildrop whose password is not in the
//! packet, no process that goes on after what is no packet, none that is left over.
//!
//! The checker is root's; as anybody else these tests do nothing.

mod common;

use common::{Scratch, until};
use doorpost::auth::gate;
use doorpost::config::Config;
use doorpost::net::packets::Packets;
use doorpost::pop3::reuse;
use doorpost::sasl::{Credentials, Proof};
use doorpost::sys;
use doorpost::wire::secret::Secret;
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};
use proptest::prelude::*;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

const DAVE: u32 = 65_533;
const USERS: [&str; 3] = ["bob", "carol", "dave"];

/// With bob's and carol's mail, which is one user's on this system, and dave's, which is another's: one, two and three
/// messages.
fn site() -> (&'static Scratch, &'static Config) {
    static SITE: OnceLock<(Scratch, Config)> = OnceLock::new();
    let (scratch, config) = SITE.get_or_init(|| {
        let scratch = Scratch::new();
        let users = fs::read_to_string(scratch.path().join("passwd")).expect("users");
        scratch.write("passwd", &format!("{users}dave:{{PLAIN}}secret:{DAVE}:{DAVE}:::\n"));
        fs::set_permissions(scratch.path().join("mail"), fs::Permissions::from_mode(0o1777)).expect("its mode");
        for (user, count) in USERS.into_iter().zip(1..) {
            for number in 0..count {
                scratch.put_mail(user, &format!("170000000{number}.M{number}.mx"), b"Subject: x\n\nx\n");
            }
        }
        let dave = scratch.maildir("dave");
        let folders = ["", "tmp", "new", "cur"].map(|folder| dave.join(folder));
        let messages = fs::read_dir(dave.join("new")).expect("mail").map(|entry| entry.expect("a message").path());
        for path in folders.into_iter().chain(messages) {
            chown(path, Some(DAVE), Some(DAVE)).expect("chown");
        }
        let path = scratch.path().display().to_string();
        let config = Config::with(&[
            ("mail_owner", "nobody"),
            ("users", &format!("passwd-file:{path}/passwd")),
            ("mailbox", &format!("maildir:{path}/mail/%u")),
            ("auth_failure_delay", "0"),
            ("max_idle", "1"),
        ]);
        (scratch, config)
    });
    (scratch, config)
}

/// What the parser sends.
#[derive(Debug, Clone)]
enum Sent {
    /// Asks for what there is.
    Question,
    /// Says that an owner has ended, whether that is so or not.
    Bereft(u8),
    /// Credentials of a user, right or wrong, for the owner to serve at once or later; with so many descriptors.
    Check { user: usize, is_right: bool, is_direct: bool, failures: u8, descriptors: usize },
    /// Goes on behind right credentials, or behind anything.
    Go { is_direct: bool, descriptors: usize },
    /// Octets to the checker.
    Noise(Vec<u8>),
    /// Octets to the owner, where the parser has been given one.
    ToOwner(Vec<u8>),
}

fn sent() -> impl Strategy<Value = Sent> {
    let check = |descriptors: std::ops::Range<usize>| {
        (0..USERS.len(), any::<bool>(), any::<bool>(), any::<u8>(), descriptors).prop_map(
            |(user, is_right, is_direct, failures, descriptors)| Sent::Check {
                user,
                is_right,
                is_direct,
                failures,
                descriptors,
            },
        )
    };
    prop_oneof![
        2 => Just(Sent::Question),
        2 => (0_u8..4).prop_map(Sent::Bereft),
        8 => check(1..2),
        1 => check(0..3),
        4 => (any::<bool>(), 0_usize..3).prop_map(|(is_direct, descriptors)| Sent::Go { is_direct, descriptors }),
        1 => proptest::collection::vec(any::<u8>(), 1..80).prop_map(Sent::Noise),
        2 => proptest::collection::vec(any::<u8>(), 1..80).prop_map(Sent::ToOwner),
    ]
}

/// A descriptor that the parser has given away, and whose mail may be read there.
struct Client {
    stream: UnixStream,
    user: Option<usize>,
}

/// The taken-over parser, and all that it got by it.
struct Parser {
    checker: Packets,
    pid: Pid,
    clients: Vec<Client>,
    owners: Vec<Packets>,
    /// Questions that will be answered if the checker is still there then.
    unanswered: u32,
    /// Whose credentials were right in the last packet, so that it may go on.
    granted: Option<usize>,
    _alone: MutexGuard<'static, ()>,
}

/// A checker that is forked while another test has a parser would keep that one's end open, and its checker alive.
static ALONE: Mutex<()> = Mutex::new(());

impl Parser {
    fn start() -> Parser {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (checker, theirs) = Packets::pair().expect("a socketpair");
        let (_, config) = site();
        let (mut ours, mut theirs) = (Some(checker), Some(theirs));
        let pid = sys::fork(|| {
            drop(ours.take());
            // There is no child to wait for, which is no matter.
            theirs.take().map_or(1, |theirs| reuse::check(config, theirs, getpid()))
        });
        let checker = ours.take().expect("our end");
        checker.wait_at_most(1).expect("a time limit");
        Parser {
            checker,
            pid: pid.expect("a child"),
            clients: Vec::new(),
            owners: Vec::new(),
            unanswered: 0,
            granted: None,
            _alone: alone,
        }
    }

    /// Whether the checker is still there to hear it.
    fn send(&mut self, octets: &[u8], descriptors: usize, user: Option<usize>) -> bool {
        let mut given = Vec::new();
        for _ in 0..descriptors {
            let (ours, theirs) = UnixStream::pair().expect("a socketpair");
            // Who says nothing more leaves.
            (&ours).write_all(b"STAT\r\nLIST\r\n").expect("room");
            ours.shutdown(Shutdown::Write).expect("a half-close");
            self.clients.push(Client { stream: ours, user });
            given.push(theirs);
        }
        let given: Vec<BorrowedFd<'_>> = given.iter().map(AsFd::as_fd).collect();
        self.checker.send(&[octets], &given).is_ok()
    }

    fn act(&mut self, sent: &Sent) -> bool {
        let granted = self.granted.take();
        let way = |is_direct: bool| [if is_direct { b'D' } else { b'R' }, 0xff, 0xff, 0xff, 0, 0, 0];
        match sent {
            Sent::Question => {
                self.unanswered += 1;
                self.send(b"?", 0, None)
            }
            Sent::Bereft(number) => {
                // May come behind a password, before it is said how to go on.
                self.granted = granted;
                self.unanswered += 1;
                self.send(&[b'!', *number], 0, None)
            }
            Sent::Check { user, is_right, is_direct, failures, descriptors } => {
                let password = if *is_right { "secret" } else { "wrong" };
                let credentials = Credentials {
                    name: USERS[*user].into(),
                    proof: Proof::Password(Secret(password.as_bytes().to_vec())),
                };
                let octets = [&[b'C', *failures], &way(*is_direct)[..], &gate::frame(&credentials).0].concat();
                let user = Some(*user).filter(|_| *is_right && *descriptors == 1);
                self.granted = user.filter(|_| !is_direct);
                self.send(&octets, *descriptors, user)
            }
            Sent::Go { is_direct, descriptors } => {
                let octets = [b"G", &way(*is_direct)[..]].concat();
                // Behind right credentials it is that user's session wherever the parser wants it.
                self.send(&octets, *descriptors, granted)
            }
            Sent::Noise(octets) => self.send(octets, 0, None),
            Sent::ToOwner(octets) => {
                self.listen();
                for owner in &self.owners {
                    let _ = owner.send(&[octets], &[]);
                }
                true
            }
        }
    }

    /// Hears what the checker says, until it has answered all questions.
    fn listen(&mut self) {
        self.act(&Sent::Question);
        let mut buffer = [0; 300];
        while self.unanswered > 0 {
            match self.checker.receive(&mut buffer) {
                Ok(Some((_, descriptors))) => {
                    self.unanswered -= u32::from(matches!(buffer[0], b'R' | b'S' | b'!'));
                    self.owners.extend(descriptors.into_iter().map(Packets::from_descriptor));
                }
                Err(Errno::EAGAIN) => {}
                Ok(None) | Err(_) => break,
            }
        }
    }

    /// Ends, and gives what each client read, with whose mail that may be.
    fn end(mut self) -> Vec<(String, Option<usize>)> {
        // What lies unread when one end is closed makes the other deaf.
        self.listen();
        drop((self.checker, std::mem::take(&mut self.owners)));
        let mut read = Vec::new();
        for client in &mut self.clients {
            client.stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
            let mut text = Vec::new();
            // What another has not read may end it otherwise than by its end.
            let _ = client.stream.read_to_end(&mut text);
            read.push((String::from_utf8_lossy(&text).into_owned(), client.user));
        }
        // It waits for its owners, so that none is left when it has ended.
        let ended = waitpid(self.pid, None).expect("the checker");
        assert!(matches!(ended, WaitStatus::Exited(_, 75)), "{ended:?}");
        read
    }
}

fn check_what_was_read(read: &[(String, Option<usize>)]) -> usize {
    let mut served = 0;
    for (text, user) in read {
        match user {
            Some(user) if !text.is_empty() => {
                let in_use = text == "-ERR [IN-USE] Another session has this maildrop\r\n";
                assert!(in_use || text.starts_with(&format!("+OK {} messages,", user + 1)), "{user}: {text:?}");
                served += 1;
            }
            Some(_) => {}
            None => assert!(!text.contains("+OK"), "{text:?}"),
        }
    }
    served
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_gets_mail_without_its_password_whatever_the_parser_sends(all in proptest::collection::vec(sent(), 1..9)) {
        if common::needs::root() {
            let mut parser = Parser::start();
            let _ = all.iter().all(|sent| parser.act(sent));
            check_what_was_read(&parser.end());
        }
    }
}

#[test]
fn right_credentials_are_served_one_user_after_another() {
    if !common::needs::root() {
        return;
    }
    let mut parser = Parser::start();
    let check = |user, is_direct| Sent::Check { user, is_right: true, is_direct, failures: 0, descriptors: 1 };
    for user in [0, 1, 2, 0, 2] {
        assert!(parser.act(&check(user, true)));
        assert!(parser.act(&Sent::Question));
        assert!(parser.act(&check(user, false)));
        assert!(parser.act(&Sent::Go { is_direct: false, descriptors: 1 }));
    }
    let read = parser.end();
    // Of those that go on by a packet of their own the first end is not served.
    assert_eq!((read.len(), check_what_was_read(&read)), (15, 10));
}

#[test]
fn what_is_no_packet_or_out_of_order_ends_the_checker() {
    if !common::needs::root() {
        return;
    }
    let go = Sent::Go { is_direct: true, descriptors: 0 };
    for wrong in [Sent::Noise(b"X".to_vec()), Sent::Noise(b"?x".to_vec()), Sent::Noise(vec![b'C'; 40_000]), go] {
        let mut parser = Parser::start();
        assert!(parser.act(&Sent::Question) && parser.act(&wrong));
        let mut buffer = [0; 300];
        until("the end of the checker", || matches!(parser.checker.receive(&mut buffer), Ok(None)));
        parser.end();
    }
}
