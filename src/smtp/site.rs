//! What the server asks of its surroundings besides submit: who the client is, what is here, and who may log in.

use super::command::{Said, Xclient};
use super::reply::Reply;
use super::session::Login;
use crate::auth::gate::{self, Answer, Right};
use crate::channel::{Channels, Transport};
use crate::config::Config;
use crate::config::pattern::PatternList;
use crate::config::value::{ClientRestriction, ListAnswers};
use crate::exit::Error;
use crate::lookup::{Listed, Lookup};
use crate::message::idna;
use crate::message::path::Address;
use crate::net::connection::Connection;
use crate::net::dns::Resolver;
use crate::net::peer::{Origin, Peer};
use crate::sasl::Credentials;
use crate::submit::{Policy, verify};
use std::cell::{OnceCell, RefCell};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the questions to block lists about a client may take together. Its name has a time of its own.
const LONGEST_LOOK_UP: Duration = Duration::from_secs(5);

/// The surroundings of a server; tests have their own.
pub trait Site {
    /// The name of the channel the client's mail comes in on, and how its recipients are judged. Asked before the greeting
    /// if the server is finicky, else at the first MAIL or VRFY, for it may take a look-up of the client's name.
    fn channel(&self) -> Lookup<(String, Policy)>;
    /// The client's confirmed name, if that has been looked up, and its address.
    fn client(&self) -> (Option<String>, String);
    /// The address with its domain, if mail for it stays here.
    fn here(&self, address: &Address) -> Option<Address>;
    /// Why no mail is taken from the client as long as it has not logged in. Asked at each MAIL, VRFY and EXPN.
    fn refusal(&self) -> Option<Reply> {
        None
    }
    /// Octets there are for a message; nothing: nobody can say.
    fn room(&self) -> Option<u64> {
        None
    }
    /// Whether there are passwords stored in clear.
    fn has_secrets(&self) -> bool {
        false
    }
    /// Whether credentials are right; if so, whose they are.
    fn check(&self, credentials: &Credentials) -> Lookup<Right> {
        let _ = credentials;
        Lookup::No
    }
    /// Whether who has logged in is bound to addresses at all.
    fn binds_senders(&self) -> bool {
        false
    }
    /// Whether who has logged in may send mail as this address.
    fn may_send_as(&self, login: &[u8], address: &Address) -> Lookup<()> {
        let _ = (login, address);
        Lookup::Yes(())
    }
    /// The client is another, by the word of one who may say so.
    fn becomes(&self, said: &Xclient) -> Terms {
        let _ = said;
        Terms::default()
    }
}

/// What depends on who the client is, and not on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Whether it can log in.
    pub login: Login,
    /// Whether an LF without CR is a line end.
    pub bare_newline: Listed,
}

/// The process that checks passwords.
#[derive(Debug)]
pub enum Checker {
    /// Nobody can log in.
    None,
    /// It is started when it is needed.
    Later,
    /// It was started, with the rights of then, and has not been heard yet.
    Started(Connection),
    /// It listens. Whether there are passwords stored in clear.
    Ready(Connection, bool),
    /// It is gone, or no use.
    Gone,
}

/// The real ones.
#[derive(Debug)]
pub struct Here<'a> {
    config: &'a Config,
    channels: &'a Channels,
    peer: RefCell<Peer>,
    only: &'a [String],
    finicky: bool,
    checker: RefCell<Checker>,
    resolver: OnceCell<Resolver>,
    time_for_lists: Duration,
    /// What is logged of a client that debug_peer_list does not name.
    level: log::LevelFilter,
    /// What was found about the client.
    refusal: RefCell<Option<Option<Reply>>>,
}

impl<'a> Here<'a> {
    /// `only` are the channels to look the client up in (empty: all); a name that no channel has is an error.
    pub fn new(
        config: &'a Config,
        channels: &'a Channels,
        peer: &Peer,
        only: &'a [String],
        finicky: bool,
    ) -> Result<Here<'a>, Error> {
        // A client without an address needs no look-up, so this does nothing but read the names.
        channels.incoming(&Peer::new(Origin::Stdin), only, true)?;
        let (peer, checker) = (RefCell::new(peer.clone()), RefCell::new(Checker::None));
        let (resolver, refusal) = (OnceCell::new(), RefCell::new(None));
        let (time_for_lists, level) = (LONGEST_LOOK_UP, log::max_level());
        Ok(Here { config, channels, peer, only, finicky, checker, resolver, time_for_lists, level, refusal })
    }

    /// The same, with somebody who checks passwords.
    pub fn with_checker(self, checker: Checker) -> Here<'a> {
        self.checker.replace(checker);
        self
    }

    /// What smtpd_client_restrictions comes to. A list that cannot be asked lists nobody: else its failure would stop
    /// the mail of everybody.
    fn judge_client(&self) -> Option<Reply> {
        let peer = self.peer.borrow();
        let restrictions = &self.config.smtpd_client_restrictions.0;
        let Origin::Address(address) = peer.origin else { return None };
        if address.is_loopback() || restrictions.is_empty() {
            return None;
        }
        let resolver = self.resolver.get_or_init(|| Resolver::of_config(self.config));
        let mut left = self.time_for_lists;
        let mut is_exempt = Listed::No;
        for restriction in restrictions {
            match restriction {
                ClientRestriction::PermitMynetworks => {
                    is_exempt = listed("mynetworks", &self.config.mynetworks, &peer);
                    if is_exempt == Listed::Yes {
                        return None;
                    }
                }
                ClientRestriction::UnknownHostname => match peer.name_by(resolver) {
                    Lookup::Yes(_) => {}
                    Lookup::No => return Some(Reply::no_client_name()),
                    Lookup::CannotTell(_) => return Some(Reply::cannot_tell_name()),
                },
                ClientRestriction::BlockList(domain, answers) => {
                    let name = format!("{}.{domain}", reversed(address));
                    let deadline = Instant::now() + left;
                    let found = resolver.addresses(&name, IpAddr::from([127, 0, 0, 1]), deadline);
                    // What was asked in between, a name in a slow zone, takes nothing of it.
                    left = deadline.saturating_duration_since(Instant::now());
                    match found {
                        Lookup::Yes(found) if found.iter().any(|answer| is_listing(*answer, answers.as_ref())) => {
                            let may_be_exempt = is_exempt == Listed::CannotTell;
                            return Some(if may_be_exempt {
                                Reply::cannot_tell_client()
                            } else {
                                Reply::blocked(domain)
                            });
                        }
                        Lookup::Yes(found) => {
                            if let Some(answer) = found.iter().find(|answer| is_error(**answer)) {
                                warn_of_error(&peer, domain, *answer);
                            }
                        }
                        Lookup::No => {}
                        Lookup::CannotTell(why) => {
                            log::warn!("client={peer} event=trouble with={domain} reason={why:?}");
                        }
                    }
                }
            }
        }
        None
    }

    /// What holds for a client; `logins`: there are logins at all.
    pub fn terms_of(config: &Config, peer: &Peer, logins: bool) -> Terms {
        let login = match logins {
            false => Login::Never,
            true if !config.tls_auth_only || peer.is_on_this_machine() => Login::Always,
            true => Login::UnderTls,
        };
        let bare_newline = match config.smtpd_forbid_bare_newline.is_taken {
            true => Listed::Yes,
            false => listed("smtpd_forbid_bare_newline_exclusions", &config.smtpd_forbid_bare_newline_exclusions, peer),
        };
        Terms { login, bare_newline }
    }

    /// The checker, listening; nothing if there is none.
    fn ready(&self) -> std::cell::RefMut<'_, Checker> {
        let mut checker = self.checker.borrow_mut();
        if matches!(*checker, Checker::Later) {
            *checker = match gate::start(self.config, &self.peer.borrow()) {
                Ok(connection) => Checker::Started(connection),
                Err(error) => {
                    log::error!("{error}");
                    Checker::Gone
                }
            };
        }
        *checker = match std::mem::replace(&mut *checker, Checker::Gone) {
            Checker::Started(mut connection) => match Answer::hear(self.config, &mut connection) {
                Answer::Ready(secrets) => Checker::Ready(connection, secrets),
                _ => Checker::Gone,
            },
            other => other,
        };
        checker
    }
}

/// What the list of this parameter says of a client.
pub fn listed(parameter: &str, list: &PatternList, peer: &Peer) -> Listed {
    match list.matches_peer(peer) {
        Lookup::Yes(()) => Listed::Yes,
        Lookup::No => Listed::No,
        Lookup::CannotTell(why) => {
            log::warn!("client={peer} event=trouble with={parameter} reason={why:?}");
            Listed::CannotTell
        }
    }
}

/// An address as block lists have it in front of their domain (RFC 5782 section 2).
fn reversed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.octets().iter().rev().map(u8::to_string).collect::<Vec<_>>().join("."),
        IpAddr::V6(address) => {
            let octets = address.octets();
            let digits = octets.iter().rev().map(|octet| format!("{:x}.{:x}", octet & 15, octet >> 4));
            digits.collect::<Vec<_>>().join(".")
        }
    }
}

/// Other answers than 127.0.0.0/8 come from whoever bought the domain of a list that is no more.
fn is_listing(answer: IpAddr, answers: Option<&ListAnswers>) -> bool {
    match (answer, answers) {
        _ if is_error(answer) => false,
        (IpAddr::V4(answer), Some(answers)) => answers.have(answer),
        (IpAddr::V4(answer), None) => answer.is_loopback(),
        (IpAddr::V6(_), _) => false,
    }
}

/// By 127.255.255.0/24 lists tell whoever asks wrongly, too often or by a public name server that they answer nothing. To
/// take that for a listing would stop the mail of everybody, so it is none even where main.cf names such answers.
fn is_error(answer: IpAddr) -> bool {
    matches!(answer, IpAddr::V4(answer) if answer.octets()[..3] == [127, 255, 255])
}

/// Tells it once a process of each list: the next client would hear the same.
fn warn_of_error(peer: &Peer, list: &str, answer: IpAddr) {
    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if !told.iter().any(|name| name == list) {
        let problem = format!("it answers {answer}, an error and no listing");
        log::warn!("client={peer} event=trouble with={list} reason={problem:?}");
        told.push(list.to_owned());
    }
}

impl Site for Here<'_> {
    fn channel(&self) -> Lookup<(String, Policy)> {
        match self.channels.incoming(&self.peer.borrow(), self.only, self.finicky) {
            Ok(found) => found.map(|found| (found.channel.name.clone(), Policy::of(found))),
            Err(error) => Lookup::CannotTell(error.to_string()),
        }
    }

    fn client(&self) -> (Option<String>, String) {
        let peer = self.peer.borrow();
        let name = match peer.looked_up.get() {
            Some(Lookup::Yes(name)) => Some(name.clone()),
            Some(Lookup::No | Lookup::CannotTell(_)) | None => None,
        };
        (name, peer.to_string())
    }

    fn here(&self, address: &Address) -> Option<Address> {
        let address = address.or_at(&self.config.myhostname);
        match self.channels.outgoing(address.domain()?) {
            Lookup::Yes(channel) if channel.transport == Transport::Mailbox => Some(address),
            Lookup::Yes(_) | Lookup::No | Lookup::CannotTell(_) => None,
        }
    }

    fn refusal(&self) -> Option<Reply> {
        self.refusal.borrow_mut().get_or_insert_with(|| self.judge_client()).clone()
    }

    fn room(&self) -> Option<u64> {
        let found = nix::sys::statvfs::statvfs(&self.config.queue_directory).ok()?;
        let free = found.blocks_available().saturating_mul(found.fragment_size());
        Some(free.saturating_sub(self.config.queue_minfree))
    }

    fn has_secrets(&self) -> bool {
        matches!(*self.ready(), Checker::Ready(_, true))
    }

    fn check(&self, credentials: &Credentials) -> Lookup<Right> {
        let mut checker = self.ready();
        // What is told by the other process stands in its record.
        let (found, is_told) = match &mut *checker {
            Checker::Ready(connection, _) => match gate::ask(self.config, connection, credentials) {
                Ok(Answer::Right(right)) => return Lookup::Yes(right),
                Ok(Answer::Wrong) => (Lookup::No, !gate::is_for_others(self.config)),
                Ok(_) => {
                    let why = "the process that checks passwords cannot tell".to_owned();
                    (Lookup::CannotTell(why), !gate::is_for_others(self.config))
                }
                Err(error) => {
                    *checker = Checker::Gone;
                    (Lookup::CannotTell(error.to_string()), false)
                }
            },
            _ => (Lookup::CannotTell("nobody checks passwords".to_owned()), false),
        };
        if !is_told {
            gate::log_failure(Some(&self.peer.borrow()), credentials, &found);
        }
        found
    }

    fn binds_senders(&self) -> bool {
        self.config.smtpd_sender_login_maps.0.is_some()
    }

    fn may_send_as(&self, login: &[u8], address: &Address) -> Lookup<()> {
        let Some(table) = &self.config.smtpd_sender_login_maps.0 else { return Lookup::Yes(()) };
        let (local, domain) = (address.local_part(), address.domain().unwrap_or_default());
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).to_ascii_lowercase();
        let mut domains = vec![text(domain)];
        domains.extend(idna::other_spellings(&text(domain)));
        let local = text(local);
        // Each of them as Postfix does it: the whole one, and the one without its extension.
        let locals: Vec<&str> = verify::split(self.config, &local).into_iter().map(|(name, _)| name).collect();
        let at_domains = |local: &&str| domains.iter().map(|domain| format!("{local}@{domain}")).collect::<Vec<_>>();
        let mut keys: Vec<String> = locals.iter().flat_map(at_domains).collect();
        if domain.eq_ignore_ascii_case(self.config.myhostname.as_bytes()) {
            keys.extend(locals.iter().map(|local| (*local).to_owned()));
        }
        keys.extend(domains.iter().map(|domain| format!("@{domain}")));
        match table.value(&keys) {
            Lookup::Yes(owners) => {
                let mut owners = owners.split([',', ' ', '\t']);
                if owners.any(|owner| owner.as_bytes() == login) { Lookup::Yes(()) } else { Lookup::No }
            }
            Lookup::No => Lookup::No,
            Lookup::CannotTell(why) => Lookup::CannotTell(why),
        }
    }

    fn becomes(&self, said: &Xclient) -> Terms {
        let mut peer = self.peer.borrow_mut();
        // Name and port are those of an address: another one has neither before it is said or looked up.
        let new = |origin| {
            let (on_inet_socket, local, name_servers) = (peer.on_inet_socket, peer.local, peer.name_servers.clone());
            Peer { on_inet_socket, local, name_servers, ..Peer::new(origin) }
        };
        let mut other = match said.address {
            Said::Value(address) => new(Origin::Address(address)),
            Said::None | Said::CannotTell => new(Origin::Unknown),
            Said::Nothing => peer.clone(),
        };
        match said.port {
            Said::Value(port) => other.port = Some(port),
            Said::None | Said::CannotTell => other.port = None,
            Said::Nothing => {}
        }
        match &said.name {
            Said::Value(name) => other.looked_up = OnceCell::from(Lookup::Yes(name.clone())),
            Said::None => other.looked_up = OnceCell::from(Lookup::No),
            Said::CannotTell => {
                other.looked_up = OnceCell::from(Lookup::CannotTell("so says XCLIENT".to_owned()));
            }
            Said::Nothing => {}
        }
        *peer = other;
        self.refusal.replace(None);
        log::set_max_level(self.level);
        peer.debug_if_listed(self.config);
        Here::terms_of(self.config, &peer, !matches!(*self.checker.borrow(), Checker::None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::net::dns::tests::NameServer;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// What a client hears that asks no other name server than this one, which knows three names.
    fn refused(client: &str, restrictions: &str) -> Option<u16> {
        let server = NameServer::start(&[
            ("2.2.0.192.bl.example", "127.0.0.4"),
            ("3.2.0.192.bl.example", "10.0.0.1"),
            ("5.2.0.192.bl.example", "127.255.255.254"),
        ]);
        let config = Config::with(&[
            ("smtpd_client_restrictions", restrictions),
            ("mynetworks", "192.0.2.0/30"),
            ("channels", "/nonexistent"),
        ]);
        let channels = Channels::load(&config).unwrap();
        let peer = Peer::new(Origin::Address(client.parse().unwrap()));
        let site = Here::new(&config, &channels, &peer, &[], false).unwrap();
        let hosts = "192.0.2.7 named.example\n";
        let _ = site.resolver.set(Resolver::new(vec![server.address], hosts));
        let first = site.refusal();
        drop(server);
        assert_eq!(site.refusal(), first, "asked once a client");
        first.map(|reply| reply.code)
    }

    #[test]
    fn block_lists_and_names_are_asked_in_order() {
        for (client, restrictions, code) in [
            ("192.0.2.2", "reject_rbl_client bl.example", Some(554)),
            ("192.0.2.2", "reject_rbl_client bl.example=127.0.0.4", Some(554)),
            ("192.0.2.2", "reject_rbl_client bl.example=127.0.0.5", None),
            ("192.0.2.2", "permit_mynetworks, reject_rbl_client bl.example", None),
            ("192.0.2.2", "", None),
            ("192.0.2.2", "reject_rbl_client bl.example=127.0.0.[2..11]", Some(554)),
            ("192.0.2.2", "reject_rbl_client bl.example=127.0.0.[2;3;5..255]", None),
            ("192.0.2.3", "reject_rbl_client bl.example", None),
            ("192.0.2.3", "reject_rbl_client bl.example=10.[0..255].0.[1;2]", Some(554)),
            ("192.0.2.5", "reject_rbl_client bl.example", None),
            ("192.0.2.5", "reject_rbl_client bl.example=127.[255].255.[252..255]", None),
            ("192.0.2.4", "reject_rbl_client bl.example", None),
            ("127.0.0.1", "reject_rbl_client bl.example reject_unknown_client_hostname", None),
            ("192.0.2.7", "reject_unknown_client_hostname", None),
            ("192.0.2.8", "reject_unknown_client_hostname", Some(450)),
        ] {
            assert_eq!(refused(client, restrictions), code, "{client} {restrictions}");
        }
    }

    /// A line is limited, so that a proxy may need several commands.
    #[test]
    fn what_one_xclient_says_of_an_address_holds_until_another_address_is_said() {
        use crate::smtp::command::{Command, parse};
        let config = Config::with(&[("channels", "/nonexistent")]);
        let channels = Channels::load(&config).unwrap();
        let mut site = Here::new(&config, &channels, &Peer::new(Origin::Stdin), &[], false).unwrap();
        let mut known_after = |line: &str| {
            let Ok(Command::Xclient(said)) = parse(format!("XCLIENT {line}").as_bytes()) else { panic!("{line}") };
            site.becomes(&said);
            let (name, address) = site.client();
            (name.unwrap_or_default(), address, site.peer.get_mut().port)
        };
        let known = |name: &str, address: &str, port| (name.to_owned(), address.to_owned(), port);
        let address = "198.51.100.7";
        for (line, expected) in [
            ("ADDR=198.51.100.7 NAME=c.example PORT=1234", known("c.example", address, Some(1234))),
            ("HELO=x PROTO=ESMTP", known("c.example", address, Some(1234))),
            ("PORT=5", known("c.example", address, Some(5))),
            ("NAME=d.example", known("d.example", address, Some(5))),
            ("NAME=[UNAVAILABLE]", known("", address, Some(5))),
            ("PORT=[UNAVAILABLE] NAME=c.example", known("c.example", address, None)),
            ("ADDR=198.51.100.8", known("", "198.51.100.8", None)),
        ] {
            assert_eq!(known_after(line), expected, "{line}");
        }
    }

    #[test]
    fn a_slow_reverse_zone_takes_nothing_of_the_time_of_the_block_lists() {
        const TIME: Duration = Duration::from_millis(1500);
        // The name is told when the time of the lists would be over, were it counted.
        let server = NameServer::slow_to_name("192.0.2.2", &[("2.2.0.192.bl.example", "127.0.0.4")], TIME);
        let restrictions =
            "reject_rbl_client other.example, reject_unknown_client_hostname, reject_rbl_client bl.example";
        let config = Config::with(&[("smtpd_client_restrictions", restrictions), ("channels", "/nonexistent")]);
        let channels = Channels::load(&config).unwrap();
        let peer = Peer::new(Origin::Address("192.0.2.2".parse().unwrap()));
        let mut site = Here::new(&config, &channels, &peer, &[], false).unwrap();
        site.time_for_lists = TIME;
        let _ = site.resolver.set(Resolver::new(vec![server.address], ""));
        assert_eq!(site.refusal().map(|reply| reply.code), Some(554));
    }

    #[test]
    fn who_is_blocked_and_may_be_exempt_is_to_come_again() {
        let server = NameServer::start(&[("2.2.0.192.bl.example", "127.0.0.4")]);
        for (mynetworks, code) in [("hash:/nonexistent/table", 450), ("10.0.0.0/8", 554)] {
            let config = Config::with(&[
                ("smtpd_client_restrictions", "permit_mynetworks, reject_rbl_client bl.example"),
                ("mynetworks", mynetworks),
                ("channels", "/nonexistent"),
            ]);
            let channels = Channels::load(&config).unwrap();
            let peer = Peer::new(Origin::Address("192.0.2.2".parse().unwrap()));
            let site = Here::new(&config, &channels, &peer, &[], false).unwrap();
            let _ = site.resolver.set(Resolver::new(vec![server.address], ""));
            assert_eq!(site.refusal().map(|reply| reply.code), Some(code), "{mynetworks}");
        }
    }

    #[test]
    fn a_list_that_does_not_answer_lists_nobody_and_does_not_hold_the_client_for_long() {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let config = Config::with(&[
            ("smtpd_client_restrictions", "reject_rbl_client a.example, reject_rbl_client b.example"),
            ("channels", "/nonexistent"),
        ]);
        let channels = Channels::load(&config).unwrap();
        let peer = Peer::new(Origin::Address("192.0.2.1".parse().unwrap()));
        let site = Here::new(&config, &channels, &peer, &[], false).unwrap();
        let _ = site.resolver.set(Resolver::new(vec![silent.local_addr().unwrap()], ""));
        let begun = Instant::now();
        assert_eq!(site.refusal(), None);
        assert!(begun.elapsed() < LONGEST_LOOK_UP * 2, "one after the other: {:?}", begun.elapsed());
    }

    #[test]
    fn addresses_are_reversed_as_block_lists_have_them() {
        assert_eq!(reversed("192.0.2.99".parse().unwrap()), "99.2.0.192");
        let v6 = reversed("2001:db8:1:2:3:4:567:89ab".parse().unwrap());
        assert_eq!(v6, "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2");
    }

    #[test]
    fn the_built_in_channels_know_loopback_and_myhostname() {
        let config = Config::with(&[("myhostname", "mx.example"), ("channels", "/nonexistent")]);
        let channels = Channels::load(&config).unwrap();
        let channel_of = |address: &str, only: &[&str], finicky| {
            let peer = Peer::new(Origin::Address(address.parse().unwrap()));
            Here::new(&config, &channels, &peer, &names(only), finicky).unwrap().channel()
        };
        let on = |name: &str, policy| Lookup::Yes((name.to_owned(), policy));
        assert_eq!(channel_of("127.0.0.1", &[], false), on("local", Policy::Channels));
        assert_eq!(channel_of("192.0.2.1", &[], false), on("smtp", Policy::Channels));
        assert_eq!(channel_of("192.0.2.1", &["local"], false), on("local", Policy::Unlisted), "the last one");
        assert_eq!(channel_of("192.0.2.1", &["local"], true), Lookup::No);
        let peer = Peer::new(Origin::Stdin);
        let here = Here::new(&config, &channels, &peer, &[], false).unwrap();
        let found = |text: &str| here.here(&Address::from_internal(text.as_bytes()).unwrap()).map(|a| a.to_string());
        assert_eq!(found("bob").as_deref(), Some("bob@mx.example"));
        assert_eq!(found("bob@MX.example").as_deref(), Some("bob@MX.example"));
        assert_eq!(found("bob@far.example"), None);
        assert_eq!(here.client(), (None, "stdin".to_owned()));
    }

    /// As with Postfix: each form of the address with its extension, then without.
    #[test]
    fn an_address_with_an_extension_is_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("senders");
        let lines = "bob@mx.example bob\nbob+list@mx.example alice\ncarol carol\ndave+x dave\ndave eve\n\
                     @team.example team\nfrank@team.example frank\nowner-bob@mx.example carol\n";
        std::fs::write(&table, lines).unwrap();
        let logins = ["bob", "alice", "carol", "dave", "eve", "team", "frank"];
        let may = |delimiter: &str, address: &str| {
            let map = format!("hash:{}", table.display());
            let config = Config::with(&[
                ("myhostname", "mx.example"),
                ("channels", "/nonexistent"),
                ("smtpd_sender_login_maps", &map),
                ("recipient_delimiter", delimiter),
            ]);
            let channels = Channels::load(&config).unwrap();
            let site = Here::new(&config, &channels, &Peer::new(Origin::Stdin), &[], false).unwrap();
            let address = Address::from_internal(address.as_bytes()).unwrap();
            let is_whose = |login: &&str| site.may_send_as(login.as_bytes(), &address) == Lookup::Yes(());
            logins.into_iter().filter(is_whose).collect::<String>()
        };
        for (delimiter, address, whose) in [
            ("+", "bob+shop@mx.example", "bob"),
            ("+", "BOB+Shop@MX.example", "bob"),
            ("+", "bob+@mx.example", "bob"),
            ("+", "bob+list@mx.example", "alice"),
            ("+", "bob+list+x@mx.example", "bob"),
            ("+", "carol+x@mx.example", "carol"),
            ("+", "dave+x@mx.example", "dave"),
            ("+", "dave+y@mx.example", "eve"),
            ("+", "carol+x@team.example", "team"),
            ("+", "frank+x@team.example", "frank"),
            ("+-", "bob-shop@mx.example", "bob"),
            ("+-", "owner-bob+x@mx.example", ""),
            ("-", "bob+shop@mx.example", ""),
            ("", "bob+shop@mx.example", ""),
            ("+", "+bob@mx.example", ""),
            ("+", "bob+shop@far.example", ""),
            ("+", "bob shop@mx.example", ""),
        ] {
            assert_eq!(may(delimiter, address), whose, "{delimiter} {address}");
        }
    }

    #[test]
    fn an_unknown_channel_is_a_configuration_error() {
        let config = Config::with(&[("channels", "/nonexistent")]);
        let channels = Channels::load(&config).unwrap();
        let peer = Peer::new(Origin::Stdin);
        assert!(matches!(Here::new(&config, &channels, &peer, &names(&["local,"]), false), Err(Error::Config(_))));
    }
}
