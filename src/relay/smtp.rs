//! SMTP and LMTP to the next hop: which host, how long, under TLS or not, and what became of each recipient. What is
//! said is `smtp::client`'s.
//!
//! A connection is kept for the next message to the same place. Left out: MTA-STS and DANE, for the resolver here does
//! not check DNSSEC and there is no HTTPS client.

use super::Outcome;
use super::content::{Facts, Reader};
use super::link::{Line, Times, end_of, is_silence};
use super::passwords::Passwords;
use super::route::{self, Hop, Place};
use super::tls::{End, Tls, next_hop, requiretls};
use super::{Carried, Job, Site, agent};
use crate::config::value::TlsLevel;
use crate::config::{self, Config};
use crate::logging::quoted;
use crate::net::dns::Resolver;
use crate::net::tls::Failure;
use crate::smtp::client::login::Login;
use crate::smtp::client::{
    Envelope, LACKING, Lost, NO_CERTIFICATE, NO_TLS, Protocol, Requiretls, Session, Stage, To, Trouble, Verdict,
};
use std::time::Instant;

/// The client, with a connection that may be of use again.
#[derive(Debug)]
pub struct Client {
    config: Config,
    resolver: Resolver,
    passwords: Result<Passwords, config::Error>,
    tls: Tls,
    open: Option<Open>,
    /// The hosts that were found for the domain it was made for, and when. No others are connected to from then on, so that
    /// whoever shares a connection because his hosts are these never meets another one.
    known: Option<(Instant, Result<Vec<Hop>, Outcome>)>,
    herald: Option<agent::Herald>,
    /// How long the message at hand may be on its way.
    until: Instant,
    /// The message at hand says `TLS-Required: No` (RFC 8689 section 4.2).
    is_for_any_eyes: bool,
    /// Who was asked last, and has answered for all recipients that are left: he is not asked again at once.
    asked: Option<Place>,
}

/// A connection with its session.
#[derive(Debug)]
struct Open {
    session: Session<Line>,
    host: String,
    hop: Hop,
    since: Instant,
    /// What TLS it has: none, some, or with a certificate that was checked.
    tls: TlsLevel,
    /// The next hop or domain for which that was.
    next_hop: String,
    end: End,
}

/// How a transaction ended for a recipient that is not through.
type Rest = Vec<(usize, Outcome)>;

impl Client {
    /// Opens what has to be opened before no file can be.
    pub fn new(config: &Config, resolver: Resolver) -> Client {
        let (passwords, tls) = (Passwords::read(config), Tls::of(config));
        let _ = passwords.as_ref().inspect_err(|error| log::error!("{error}"));
        let (open, known, herald, until, is_for_any_eyes, asked) = (None, None, None, Instant::now(), false, None);
        Client { config: config.clone(), resolver, passwords, tls, open, known, herald, until, is_for_any_eyes, asked }
    }

    /// See [`super::Relay::report_to`].
    pub fn report_to(&mut self, herald: agent::Herald) {
        self.herald = Some(herald);
    }

    /// Finds the hosts of a domain, once for all messages.
    pub fn home(&mut self, domain: &str) -> String {
        let found = route::smtp(&self.config, &self.resolver, "", domain);
        let home = found.as_ref().map_or(String::new(), |hops| route::home(hops));
        self.known = Some((Instant::now(), found));
        home
    }

    /// Whether there is a connection that another message can use.
    pub fn is_connected(&self) -> bool {
        let limit = self.config.smtp_connection_reuse_time_limit.0;
        self.open.is_some() && self.known.as_ref().is_none_or(|(since, _)| since.elapsed() < limit)
    }

    /// One message to all its recipients.
    pub fn carry(&mut self, job: &Job, protocol: Protocol) -> Carried {
        let mut carried = Carried::new(job.to.len());
        let unknown = match (self.tls.is_known(), &self.passwords) {
            (false, _) => Some("4.3.5 it is not known how much TLS there must be (smtp_tls_policy_maps)"),
            (true, Err(_)) => Some("4.3.5 it is not known where we log in (smtp_sasl_password_maps)"),
            (true, Ok(_)) => None,
        };
        if let Some(why) = unknown {
            return carried.all(&Outcome::Deferred(why.to_owned()));
        }
        (self.until, self.asked) = (end_of(job.source.size), None);
        let facts = job.source.facts(job.binary, job.smtputf8, self.longest_line(protocol));
        let facts = match facts.and_then(|facts| Ok((facts, self.asks_for_no_tls(job)?))) {
            Ok((facts, is_for_any_eyes)) => {
                self.is_for_any_eyes = is_for_any_eyes;
                facts
            }
            Err(error) => {
                log::error!("id={}: {error}", job.id);
                return carried.all(&Outcome::Deferred("4.3.0 the message could not be read".to_owned()));
            }
        };
        let mut rest: Vec<usize> = (0..job.to.len()).collect();
        match self.open.take() {
            Some(mut open) if self.is_good(&open, job, protocol) => {
                open.session.wire.until = self.until;
                rest = self.transact(open, job, protocol, facts, rest, &mut carried);
                if rest.is_empty() {
                    return carried;
                }
            }
            Some(mut worn_out) => worn_out.session.quit(),
            None => {}
        }
        let known = self.known.as_ref().filter(|_| protocol == Protocol::Smtp && job.next_hop.is_empty());
        let hops = match protocol {
            Protocol::Smtp if known.is_some() => known.map_or(Ok(Vec::new()), |(_, found)| found.clone()),
            Protocol::Smtp => route::smtp(&self.config, &self.resolver, &job.next_hop, &job.domain),
            Protocol::Lmtp => route::host(&self.resolver, &job.next_hop, self.config.lmtp_tcp_port.0),
        };
        let hops = match hops {
            Ok(hops) => hops,
            Err(outcome) if job.next_hop.is_empty() => return carried.nowhere(&rest, &outcome),
            Err(outcome) => return carried.these(&rest, &route::for_named(outcome)),
        };
        self.hosts(job, protocol, facts, &hops, rest, carried)
    }

    /// Takes leave of the host of the last message.
    pub fn quit(&mut self) {
        if let Some(mut open) = self.open.take() {
            open.session.quit();
        }
    }

    /// One host after another, until nobody is left who might be taken by a better one.
    fn hosts(
        &mut self,
        job: &Job,
        protocol: Protocol,
        facts: Facts,
        hops: &[Hop],
        mut rest: Vec<usize>,
        mut carried: Carried,
    ) -> Carried {
        // A connection that was there before was a session, too.
        let asked = self.asked.take();
        let all_lack = |carried: &Carried, rest: &[usize]| {
            rest.iter().all(|number| carried.outcomes.get(*number).is_some_and(is_lack))
        };
        let mut is_put_off = asked.is_some() && !all_lack(&carried, &rest);
        let mut sessions = u32::from(is_put_off);
        let lacking = hops.iter().filter(|hop| !is_put_off && asked.as_ref() == Some(&hop.place));
        let mut unwilling: Vec<&String> = lacking.map(|hop| &hop.name).collect();
        let most_sessions = match self.config.smtp_mx_session_limit {
            0 => u32::MAX,
            limit => limit,
        };
        let all_hops = hops;
        let is_silent = |hop: &Hop| matches!(&hop.place, Place::Net(at) if silent(job, &at.to_string()));
        let all_are = hops.iter().all(is_silent);
        let hops = hops.iter().filter(|hop| all_are || !is_silent(hop));
        let limit = self.config.smtp_mx_address_limit.max(1) as usize;
        for hop in hops.take(limit).filter(|hop| asked.as_ref() != Some(&hop.place)) {
            if rest.is_empty() || sessions >= most_sessions || Instant::now() >= self.until {
                break;
            }
            match self.connect(hop, job, protocol) {
                Ok(open) => {
                    carried.site = Site::Answers;
                    rest = self.transact(open, job, protocol, facts, rest, &mut carried);
                    // Who has not been given the message was only asked for what it needs.
                    if all_lack(&carried, &rest) {
                        unwilling.push(&hop.name);
                    } else {
                        (sessions, is_put_off) = (sessions + 1, true);
                    }
                }
                Err(trouble) => {
                    is_put_off |= matches!(trouble, Trouble::Said(..));
                    if matches!(trouble, Trouble::Cannot(why) if LACKING.contains(&why)) {
                        unwilling.push(&hop.name);
                    }
                    let host = named(&hop.name);
                    let report = trouble.report(&host);
                    log::info!("id={} host={host} place={:?} reason={}", job.id, hop.place, quoted(&report));
                    if let (Trouble::Cannot(why), Place::Net(address), Some(herald)) =
                        (&trouble, &hop.place, &mut self.herald)
                        && is_silence(&trouble)
                    {
                        herald.silent(address, why);
                    }
                    if self.is_ones_own(&trouble, job, hop, protocol) {
                        carried.site = Site::Answers;
                    }
                    let untried = rest.iter().copied().filter(|number| !carried.is_told(*number)).collect::<Vec<_>>();
                    carried = carried.these(&untried, &outcome_of(&trouble, &hop.name));
                }
            }
        }
        // Who has put it off may have it next time, and so may one of those that are asked and was not to be had, unless
        // another address of that name lacks it. Who is never asked keeps no mail waiting.
        if is_put_off || all_hops.iter().take(limit).any(|hop| !unwilling.contains(&&hop.name)) {
            for number in rest {
                carried.outcomes.get_mut(number).map(put_off_lack);
            }
        }
        carried
    }

    /// One message over one connection, in as many transactions as the host wants. Gives who may be tried elsewhere, and notes
    /// whether it was the host's answer that left them.
    fn transact(
        &mut self,
        mut open: Open,
        job: &Job,
        protocol: Protocol,
        facts: Facts,
        mut rest: Vec<usize>,
        carried: &mut Carried,
    ) -> Vec<usize> {
        let (mut again, mut has_answered): (Rest, bool) = (Vec::new(), true);
        let longest = self.longest_line(protocol);
        while !rest.is_empty() {
            let to: Vec<To> = rest.iter().filter_map(|number| job.to.get(*number).cloned()).collect();
            let envelope = envelope(job, facts, &to, requiretls(job, open.end));
            let verdicts = open.session.send(&envelope, &mut Reader::new(&job.source, longest));
            let verdicts: Vec<Verdict> = verdicts.into_iter().map(|verdict| self.of_login(verdict, &open)).collect();
            let (mut too_many, mut taken) = (Vec::new(), false);
            for (number, verdict) in rest.iter().copied().zip(&verdicts) {
                taken |= verdict.is_ok();
                match verdict {
                    Ok(_) => carried.tell(number, outcome(verdict, &open)),
                    Err(Trouble::Said(answer, Stage::Rcpt)) if matches!(answer.code, 452 | 552) => {
                        too_many.push((number, outcome(verdict, &open)));
                    }
                    Err(trouble) if is_final(trouble) => carried.tell(number, outcome(verdict, &open)),
                    Err(trouble) => {
                        has_answered &= is_answer(trouble);
                        again.push((number, outcome(verdict, &open)));
                    }
                }
            }
            // "Too many recipients" for some of them: those have a transaction of their own, while it goes forward.
            if taken && open.session.is_alive {
                rest = too_many.into_iter().map(|(number, _)| number).collect();
            } else {
                again.append(&mut too_many);
                rest.clear();
            }
        }
        let rest: Vec<usize> = again.iter().map(|(number, _)| *number).collect();
        again.into_iter().for_each(|(number, outcome)| carried.tell(number, outcome));
        if rest.is_empty() && open.session.is_alive {
            self.open = Some(open);
        } else {
            // Another host may be asked next.
            open.session.quit();
            self.asked = has_answered.then_some(open.hop.place);
        }
        rest
    }

    /// What a mailbox server takes by LMTP is not broken: RFC 5321 limits what goes between hosts.
    fn longest_line(&self, protocol: Protocol) -> usize {
        match protocol {
            Protocol::Smtp => usize::try_from(self.config.smtp_line_length_limit).unwrap_or(usize::MAX),
            Protocol::Lmtp => 0,
        }
    }

    fn is_good(&self, open: &Open, job: &Job, protocol: Protocol) -> bool {
        let level = self.level(job, open.end);
        // To the same server a message may come for good, and another as to a filter.
        self.end(&open.hop, job, protocol) == open.end
            && open.since.elapsed() < self.config.smtp_connection_reuse_time_limit.0
            && (level <= TlsLevel::May || open.tls >= level)
            // Which name was in the certificate depends on these.
            && (level < TlsLevel::Verify || open.tls == level && open.next_hop.eq_ignore_ascii_case(next_hop(job)))
    }

    /// Whether the sender would rather have it sent in clear than not at all.
    fn asks_for_no_tls(&self, job: &Job) -> std::io::Result<bool> {
        Ok(self.tls.may_be_less(job) && job.source.is_for_any_eyes()?)
    }

    /// Whether the trouble may be that of this message alone, whose TLS is not that of others.
    fn is_ones_own(&self, trouble: &Trouble, job: &Job, hop: &Hop, protocol: Protocol) -> bool {
        let end = self.end(hop, job, protocol);
        let is_before_tls = is_before_tls(trouble, self.tls.is_at_once(job, end, protocol));
        !is_before_tls && self.tls.is_ones_own(job, end, self.level(job, end))
    }

    fn end(&self, hop: &Hop, job: &Job, protocol: Protocol) -> End {
        End {
            is_last: protocol == Protocol::Lmtp && is_local(&hop.place) && !job.is_filtered,
            is_unix: matches!(hop.place, Place::Unix(_)),
            has_login: self.login(hop, job).is_some(),
        }
    }

    fn login(&self, hop: &Hop, job: &Job) -> Option<&Login> {
        self.passwords.as_ref().ok()?.find(&[&job.next_hop, &hop.name, &job.domain])
    }

    /// RFC 4954 section 6: who wants a login first says 530. Where we have some, and none for this next hop, that is for the
    /// administrator to mend, and no reason to return mail. It may be STARTTLS that is wanted (RFC 3207 section 4).
    fn of_login(&self, verdict: Verdict, open: &Open) -> Verdict {
        let may_lack = !open.end.has_login && self.passwords.as_ref().is_ok_and(Passwords::are_there);
        match verdict {
            Err(Trouble::Said(answer, _)) if may_lack && answer.code == 530 => {
                Err(Trouble::Said(answer, Stage::WithoutLogin))
            }
            verdict => verdict,
        }
    }

    /// Connects, and brings the session to where a message can be sent.
    fn connect(&mut self, hop: &Hop, job: &Job, protocol: Protocol) -> Result<Open, Trouble> {
        let connected = match self.connect_once(hop, job, protocol, true) {
            // Opportunistic TLS that does not come about: better in the clear than not at all.
            Err(Attempt { may_be_clear: true, .. }) => {
                log::info!("id={} host={} tls=none reason=\"the handshake failed\"", job.id, named(&hop.name));
                self.connect_once(hop, job, protocol, false)
            }
            other => other,
        };
        connected.map_err(|attempt| attempt.trouble)
    }

    fn connect_once(&mut self, hop: &Hop, job: &Job, protocol: Protocol, tls: bool) -> Result<Open, Attempt> {
        let line = Line::connect(&hop.place, Times::of(&self.config), self.until)?;
        if let Some(herald) = &mut self.herald {
            herald.speaks();
        }
        let mut session = Session::new(line, protocol);
        // Who only said no is told that this is all.
        let (tls, end) = self.begin(&mut session, hop, job, protocol, tls).inspect_err(|_| session.quit())?;
        let (host, next_hop) = (named(&hop.name), next_hop(job).to_owned());
        Ok(Open { session, host, hop: hop.clone(), since: Instant::now(), tls, next_hop, end })
    }

    /// Brings a session to where a message can be sent. Gives what TLS it has.
    fn begin(
        &mut self,
        session: &mut Session<Line>,
        hop: &Hop,
        job: &Job,
        protocol: Protocol,
        tls: bool,
    ) -> Result<(TlsLevel, End), Attempt> {
        let end = self.end(hop, job, protocol);
        let level = self.level(job, end);
        let is_senders = requiretls(job, end) == Requiretls::Required;
        let (mut hidden, mut reached) = (is_local(&hop.place), TlsLevel::None);
        let at_once = self.tls.is_at_once(job, end, protocol);
        if at_once && self.tls.policy(job).level < TlsLevel::Encrypt {
            session.is_alive = false;
            return Err(
                Trouble::Cannot("4.7.5 smtp_tls_wrappermode needs smtp_tls_security_level = encrypt or more").into()
            );
        } else if at_once {
            (reached, hidden) = (self.shake_hands(session, hop, job, level, is_senders)?, true);
        }
        session.greeting()?;
        session.hello(&self.config.myhostname)?;
        if at_once {
            // It can be had once.
        } else if tls && level != TlsLevel::None && session.offers.starttls {
            match session.ask_for_tls() {
                // It was only offered.
                Err(Trouble::Said(..)) if level == TlsLevel::May && session.is_alive => {}
                Err(trouble) => return Err(trouble.into()),
                Ok(()) => {
                    let shaken = self.shake_hands(session, hop, job, level, is_senders);
                    let may_be_clear = level == TlsLevel::May;
                    (reached, hidden) = (shaken.map_err(|trouble| Attempt { trouble, may_be_clear })?, true);
                    session.hello(&self.config.myhostname)?;
                }
            }
        } else if level >= TlsLevel::Encrypt {
            let why = if is_senders { NO_TLS } else { "4.7.4 TLS is required, and the next hop does not offer it" };
            return Err(Trouble::Cannot(why).into());
        }
        if let Some(login) = self.login(hop, job) {
            session.log_in(login, hidden)?;
        }
        Ok((reached, end))
    }

    /// Gives what TLS there is then; `is_senders`: because the sender wants it.
    fn shake_hands(
        &mut self,
        session: &mut Session<Line>,
        hop: &Hop,
        job: &Job,
        level: TlsLevel,
        is_senders: bool,
    ) -> Result<TlsLevel, Trouble> {
        // Between the two protocols there is nothing to be said.
        session.is_alive = false;
        let unknown =
            if is_senders { NO_CERTIFICATE } else { "4.7.5 the certificate of the next hop cannot be verified" };
        let failed = |text: &str, trouble: Trouble| {
            log::warn!(
                "id={} host={} tls=failed reason={:?}",
                job.id,
                named(&hop.name),
                crate::logging::clean(text.as_bytes(), 300)
            );
            trouble
        };
        let checked = level >= TlsLevel::Verify;
        let lost = || Trouble::Lost(Lost::HungUp, Stage::StartTls);
        // That is for the administrator here to mend.
        let ours = Trouble::Cannot("4.3.5 no certificate can be verified here (smtp_tls_CAfile)");
        let trust = self.tls.trust(job, &hop.name, level).map_err(|why| failed(&why, ours))?;
        let name = self.tls.server_name(job, &hop.name, level);
        // Some valid one must be given.
        let is_valid = rustls::pki_types::ServerName::try_from(&*name).is_ok();
        let name = if is_valid { &*name } else { "localhost" };
        match session.wire.start_tls(&trust, name) {
            Ok(facts) => {
                log::debug!("id={} host={} tls={facts} verified={checked}", job.id, named(&hop.name));
                (session.is_alive, session.is_encrypted, session.is_verified) = (true, true, checked);
                Ok(if checked { level } else { TlsLevel::Encrypt })
            }
            Err(Failure::Certificate(why)) => Err(failed(&why, Trouble::Cannot(unknown))),
            Err(Failure::Handshake(why)) => Err(failed(&why, lost())),
            Err(Failure::Stream(_)) => Err(failed("the connection was lost", lost())),
        }
    }

    /// How much TLS there must be for the message at hand.
    fn level(&self, job: &Job, end: End) -> TlsLevel {
        self.tls.level(job, end, self.is_for_any_eyes)
    }
}

/// A try to connect that failed.
struct Attempt {
    trouble: Trouble,
    /// It was the handshake that failed, of TLS without which the message may go as well.
    may_be_clear: bool,
}

impl From<Trouble> for Attempt {
    fn from(trouble: Trouble) -> Attempt {
        Attempt { trouble, may_be_clear: false }
    }
}

/// The host was not there, or said no before it could know what is wanted of it. TLS 1.3 lets a server break off after the
/// handshake, so any later trouble may be one of TLS; where TLS is `at_once`, also that before the greeting.
fn is_before_tls(trouble: &Trouble, at_once: bool) -> bool {
    match trouble {
        Trouble::Lost(_, stage) => *stage == Stage::Greeting && !at_once,
        Trouble::Said(_, stage) => *stage == Stage::Greeting,
        Trouble::Cannot(why) => why.starts_with("4.4.1"),
    }
}

/// No other host is to be asked: the answer is for good, or the message may have been taken.
fn is_final(trouble: &Trouble) -> bool {
    // RFC 8689 section 4.2.1: each host of the domain is asked for the promise. So it is for what else a host may offer.
    let is_lack = matches!(trouble, Trouble::Cannot(why) if LACKING.contains(why));
    let is_for_good = trouble.is_never() && !is_lack;
    is_for_good || matches!(trouble, Trouble::Lost(_, Stage::End) | Trouble::Said(_, Stage::End))
}

/// The host said it of the message, and not of the session, of which a new one may be better; or it lacks what is needed.
fn is_answer(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::Said(answer, stage) => matches!(stage, Stage::Rcpt | Stage::Data) && answer.code != 421,
        Trouble::Cannot(why) => LACKING.contains(why),
        Trouble::Lost(..) => false,
    }
}

/// The host does not offer what the message needs.
fn is_lack(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(report) if LACKING.iter().any(|lack| report.starts_with(lack)))
}

fn put_off_lack(outcome: &mut Outcome) {
    if is_lack(outcome)
        && let Outcome::Failed(report) = outcome
        && let Some(rest) = report.strip_prefix('5')
    {
        *outcome = Outcome::Deferred(format!("4{rest}"));
    }
}

fn outcome(verdict: &Verdict, open: &Open) -> Outcome {
    match verdict {
        // Who knows DSN tells the sender of success, if that is wanted.
        Ok(answer) if open.session.offers.dsn => Outcome::PassedOn(format!("{} said: {}", open.host, answer.said())),
        Ok(answer) => Outcome::Relayed(format!("{} said: {}", open.host, answer.said())),
        Err(trouble) => outcome_of(trouble, &open.host),
    }
}

fn outcome_of(trouble: &Trouble, host: &str) -> Outcome {
    let report = trouble.report(&named(host));
    if trouble.is_never() { Outcome::Failed(report) } else { Outcome::Deferred(report) }
}

fn silent(job: &Job, address: &str) -> bool {
    job.silent.split(' ').any(|silent| silent == address)
}

/// A host's name in a report, which has little room.
fn named(host: &str) -> String {
    crate::logging::clean(host.as_bytes(), 45)
}

/// Nobody reads along on the way to this machine itself.
fn is_local(place: &Place) -> bool {
    match place {
        Place::Unix(_) => true,
        Place::Net(address) => address.ip().to_canonical().is_loopback(),
    }
}

fn envelope<'a>(job: &'a Job, facts: Facts, to: &'a [To], requiretls: Requiretls) -> Envelope<'a> {
    Envelope {
        sender: &job.sender,
        to,
        size: if facts.binary { job.source.size } else { facts.size },
        eight_bit: facts.eight_bit,
        utf8_header: facts.utf8_header,
        binary: facts.binary,
        smtputf8: job.smtputf8,
        requiretls,
        dsn: job.dsn.clone(),
    }
}
