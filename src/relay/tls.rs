//! How much TLS a message needs on its way to a host, and whose certificate: what the sites' parameters say, what
//! `smtp_tls_policy_maps` says of the next hop, and what the message itself asks for (RFC 8689).

use super::policy::{Policies, Policy, Wanted};
use super::route::NextHop;
use crate::config::value::TlsLevel;
use crate::config::{self, Config};
use crate::net::trust::{Authorities, Name, Trust};
use crate::relay::Job;
use crate::smtp::client::{Protocol, Requiretls};
use std::borrow::Cow;
use std::fs::File;

/// What the other end of a connection is, as far as TLS depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Mail is delivered there, on this machine: an LMTP server that is no filter.
    pub is_last: bool,
    /// Nobody can read along: a socket in the file system.
    pub is_unix: bool,
    /// We log in there.
    pub has_login: bool,
}

/// What is known before a message comes.
#[derive(Debug)]
pub struct Tls {
    general: Policy,
    required_enable: bool,
    is_wrapped: bool,
    policies: Result<Policies, String>,
    /// Opened while files can be, read when they are needed.
    file: Option<File>,
    authorities: Option<Authorities>,
}

impl Tls {
    /// To be made while files can be opened.
    pub fn of(config: &Config) -> Tls {
        let policies = Policies::read(config).map_err(|error| error.to_string());
        let _ = policies.as_ref().inspect_err(|error| log::error!("{error}"));
        Tls {
            general: Policy::of(config.smtp_tls_security_level),
            required_enable: config.tls_required_enable,
            is_wrapped: config.smtp_tls_wrappermode,
            policies,
            file: config.smtp_tls_CAfile.0.as_ref().and_then(|path| File::open(path).ok()),
            authorities: None,
        }
    }

    /// Whether it is known what the table says; without that no mail may leave.
    pub fn is_known(&self) -> bool {
        self.policies.is_ok()
    }

    /// What the table says of the next hop of a job.
    fn own(&self, job: &Job) -> Option<&Policy> {
        self.policies.as_ref().ok()?.find(&job.next_hop, &job.domain)
    }

    /// What holds towards there, whatever the message says.
    pub fn policy(&self, job: &Job) -> &Policy {
        self.own(job).unwrap_or(&self.general)
    }

    /// How much there must be for a message; `is_for_any_eyes`: its header asks for no TLS.
    pub fn level(&self, job: &Job, end: End, is_for_any_eyes: bool) -> TlsLevel {
        let level = self.policy(job).level;
        match requiretls(job, end) {
            _ if end.is_unix => TlsLevel::None,
            // RFC 8689 section 4.2.1: a host whose name came by a name server, unsigned, must not be believed by that name.
            // Only the administrator may know better.
            Requiretls::Required if self.own(job).is_none() || level < TlsLevel::Verify => TlsLevel::Secure,
            Requiretls::Required => level,
            // What the administrator says of this very next hop, no message takes back.
            _ if self.own(job).is_some() => level,
            _ if end.is_last => level.min(TlsLevel::May),
            // Our password is not to be had by a header field.
            _ if is_for_any_eyes && !end.has_login => level.min(TlsLevel::May),
            Requiretls::Unsaid | Requiretls::Wished => level,
        }
    }

    /// Whether TLS begins with the connection (RFC 8314 section 3), whatever the message says: `smtp_tls_wrappermode`, but for
    /// next hops of which the table says that there need not be any, as to a filter on this machine.
    pub fn is_at_once(&self, job: &Job, end: End, protocol: Protocol) -> bool {
        let may_lack = self.own(job).is_some_and(|policy| policy.level <= TlsLevel::May);
        self.is_wrapped && protocol == Protocol::Smtp && !end.is_unix && !may_lack
    }

    /// Whether a header that asks for no TLS changes anything, so that it is to be looked at.
    pub fn may_be_less(&self, job: &Job) -> bool {
        self.required_enable && !job.requiretls && self.own(job).is_none() && self.general.level > TlsLevel::May
    }

    /// Whether other mail to that next hop may find enough there what is not enough for this message: it wants more TLS than
    /// others, or one whose header wants less may come, which is not known before it is read.
    pub fn is_ones_own(&self, job: &Job, end: End, level: TlsLevel) -> bool {
        let may_want_less = self.required_enable && !end.has_login && level > TlsLevel::May && self.own(job).is_none();
        level > self.policy(job).level || may_want_less
    }

    /// Whom to believe at a level, where the host found for a job has this name.
    pub fn trust(&mut self, job: &Job, host: &str, level: TlsLevel) -> Result<Trust, String> {
        let policy = self.policy(job);
        if level < TlsLevel::Verify {
            return Trust::anybody(&policy.pinned, policy.versions);
        }
        let next = next_hop(job);
        let name = |wanted: &Wanted| match wanted {
            Wanted::Host => Name::parse(host),
            Wanted::NextHop => Name::parse(next),
            Wanted::BelowNextHop => Name::parse(&format!(".{next}")),
            Wanted::Named(name) => Some(name.clone()),
        };
        let (names, versions) = (policy.wanted(level).iter().filter_map(name).collect(), policy.versions);
        let pinned = policy.pinned.clone();
        Trust::names(&self.authorities()?, names, &pinned, versions)
    }

    /// The name by which the server that was found for a job chooses a certificate.
    pub fn server_name<'a>(&'a self, job: &'a Job, host: &'a str, level: TlsLevel) -> Cow<'a, str> {
        match &self.policy(job).server_name {
            Some(Wanted::Named(Name::Exactly(name))) => name.to_str(),
            Some(Wanted::NextHop) => Cow::Borrowed(next_hop(job)),
            None if level == TlsLevel::Secure => Cow::Borrowed(next_hop(job)),
            None | Some(_) => Cow::Borrowed(host),
        }
    }

    fn authorities(&mut self) -> Result<Authorities, String> {
        match (&self.authorities, &self.file) {
            (Some(authorities), _) => Ok(authorities.clone()),
            (None, Some(file)) => Authorities::read(file).inspect(|found| self.authorities = Some(found.clone())),
            (None, None) => Err("smtp_tls_CAfile: there is no file of authorities that can be read".to_owned()),
        }
    }
}

/// Whether the authorities are known where a certificate is checked whatever a message says.
pub fn check(config: &Config, policies: &Policies) -> Result<(), config::Error> {
    if config.smtp_tls_security_level.max(policies.highest()) < TlsLevel::Verify {
        return Ok(());
    }
    let path = config.smtp_tls_CAfile.0.as_deref();
    let path = path.ok_or_else(|| config.wrong("smtp_tls_CAfile", "a file of authorities"))?;
    let read = File::open(path).map_err(|error| format!("smtp_tls_CAfile: expected a readable file: {error}"));
    read.and_then(|file| Authorities::read(&file)).map(drop).map_err(|why| config::Error::at(path, 0, why))
}

/// The name that cannot be changed by whoever answers for a name server.
pub fn next_hop(job: &Job) -> &str {
    NextHop::of(if job.next_hop.is_empty() { &job.domain } else { job.next_hop.trim_start_matches("inet:") }).host
}

/// What REQUIRETLS means on the way to there. Nothing for a report, which would be lost (RFC 8689 section 5), and at the end of
/// the way, on this machine.
pub fn requiretls(job: &Job, end: End) -> Requiretls {
    match job.requiretls {
        false => Requiretls::Unsaid,
        true if job.sender.0.is_none() || end.is_last => Requiretls::Wished,
        true => Requiretls::Required,
    }
}
