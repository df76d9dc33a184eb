//! What the loop serves: sockets that share a name and a limit, and what their children are.

use super::super::listener::Listener;
use super::super::starts::Starts;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// What is handed to a child.
#[derive(Debug)]
pub enum Given {
    /// One connection.
    Connection(OwnedFd),
    /// The listening socket itself (inetd's `wait`); nobody looks at it until the child ends.
    Listener(OwnedFd),
    /// All listening sockets of the service, for a pool; nobody looks at them until it ends.
    Listeners(Vec<OwnedFd>),
}

/// What a child of a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One for each connection.
    Session,
    /// One that accepts from one socket at a time (inetd's `wait`).
    Wait,
    /// One that accepts from all sockets, started when a client comes.
    Pool,
    /// The same, started at once and whenever it has ended.
    StandingPool,
    /// A pool that children of the other services need: it ends after them all.
    Helper {
        /// Whether it is started before anybody comes.
        stands: bool,
    },
}

impl Kind {
    /// Whether the child, and not the loop, accepts connections.
    pub fn accepts_itself(self) -> bool {
        self != Kind::Session
    }

    pub(super) fn is_pool(self) -> bool {
        !matches!(self, Kind::Session | Kind::Wait)
    }

    pub(super) fn stands(self) -> bool {
        matches!(self, Kind::StandingPool | Kind::Helper { stands: true })
    }

    pub(super) fn is_helper(self) -> bool {
        matches!(self, Kind::Helper { .. })
    }
}

/// Sockets that share a name and a limit.
#[derive(Debug)]
pub struct Service {
    /// For the log.
    pub name: String,
    /// Where its connections come in.
    pub listeners: Vec<Listener>,
    /// Most children at once.
    pub limit: usize,
    /// What its children are.
    pub kind: Kind,
    /// What a client hears that cannot be served; none: it is closed without a word.
    pub refusal: Option<Vec<u8>>,
    /// Nobody else listens on these sockets: when we stop, a pool that is not at its end yet must not keep them open.
    pub owns_sockets: bool,
    /// After [`super::Acceptor::replace`]: whether a child that has the sockets goes on, or is told to end for a new one.
    pub keeps_child: bool,
    pub(super) running: usize,
    pub(super) rests_until: Option<Instant>,
    /// The end of a rest in which nobody can be accepted either.
    pub(super) deaf_until: Option<Instant>,
    pub(super) starts: Starts,
    /// The client for whom no child could be started, and who gets a second chance after the rest.
    pub(super) held: Option<(Given, Option<usize>)>,
}

impl Service {
    /// A service whose children get one connection each.
    pub fn new(name: impl Into<String>, listeners: Vec<Listener>, limit: usize) -> Service {
        let name = name.into();
        let (running, starts, held) = (0, Starts::default(), None);
        let (kind, refusal, owns_sockets, keeps_child) = (Kind::Session, None, false, true);
        let (rests_until, deaf_until) = (None, None);
        Service {
            name,
            listeners,
            limit,
            kind,
            refusal,
            owns_sockets,
            keeps_child,
            running,
            rests_until,
            deaf_until,
            starts,
            held,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.running < self.limit
    }
}
