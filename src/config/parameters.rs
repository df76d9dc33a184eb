//! The one table of parameters: name, type, default and meaning, each declared once.
//!
//! Names, units and value syntax are Postfix's where Postfix has the parameter. The macro makes the fields of
//! [`Config`] and what [`parameters()`] tells from the same lines, so neither can lack what the other has.

use super::pattern::PatternList;
use super::value::{
    AuthMethod, ContentFilter, Days, Expire, Facility, Hours, List, LockKind, MailSource, MailboxSpec, MapPath,
    NameServer, OptionalPath, OptionalTable, Port, PrefixLength, QueueFilter, ReceiveOverride, Seconds, TlsLevel,
    Users, Value, WhenFull,
};
use super::value::{BareNewline, ClientRestrictions, CommandWord};
use super::{Error, Origin};
use crate::message::header::FieldName;
use ipnet::IpNet;
use std::borrow::Cow;
use std::iter::Peekable;
use std::path::PathBuf;

/// A row of the table.
#[derive(Debug)]
pub struct Parameter {
    /// As it is written in main.cf.
    pub name: &'static str,
    /// Its default, before expansion.
    pub default: &'static str,
}

macro_rules! parameters {
    ($( $name:ident : $type:ty = $default:literal, $help:literal; )+) => {
        /// All settings, read and checked.
        #[derive(Debug, Clone)]
        #[allow(non_snake_case)]
        pub struct Config {
            /// Where those came from that are not at their defaults, and what they were before and after expansion.
            pub settings: Vec<Setting>,
            /// Names that are no parameters, set by the administrator for `$name`, in their order.
            pub own_names: Vec<OwnName>,
            $(
                // A help text is plain text: what looks like a link in it is none.
                #[allow(rustdoc::broken_intra_doc_links)]
                #[doc = $help]
                pub $name: $type,
            )+
        }

        /// Names and defaults, each with a NUL behind it. A table of texts would be one of addresses, which the loader has to
        /// write down anew in each process.
        static TEXT: &str = concat!($( stringify!($name), "\0", $default, "\0" ),+);

        impl Config {
            /// Reads every value out of its expanded text; `settings` has those rows that are no defaults, in the table's
            /// order.
            #[allow(non_snake_case)]
            pub fn from_settings(settings: Vec<Setting>) -> Result<Box<Config>, Error> {
                let mut rows = settings.iter().peekable();
                $( let $name = read::<$type>(&mut rows, stringify!($name), $default)?; )+
                Ok(Box::new(Config { settings, own_names: Vec::new(), $( $name, )+ }))
            }
        }
    };
}

/// One parameter as it was found.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The parameter's name.
    pub name: &'static str,
    /// Its text before expansion.
    pub raw: Cow<'static, str>,
    /// Its text after expansion.
    pub expanded: Cow<'static, str>,
    /// Where it was set.
    pub origin: Origin,
    /// Names that its text refers to, and that are set nowhere.
    pub lacks: Vec<String>,
}

impl Setting {
    /// For the end of a message about a value that is wrong: what it lacks may be why.
    pub(super) fn lacking(&self) -> String {
        let names: Vec<String> = self.lacks.iter().map(|name| format!("${}", super::shown(name))).collect();
        match names.as_slice() {
            [] => String::new(),
            [name] => format!(", as {name} is set nowhere"),
            names => format!(", as {} are set nowhere", names.join(" and ")),
        }
    }
}

/// One name of the administrator's own as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnName {
    /// The name.
    pub name: String,
    /// Its text before expansion.
    pub raw: String,
    /// Its text after expansion.
    pub expanded: String,
    /// Where it was set.
    pub origin: Origin,
}

/// Every parameter there is, in the order of the manual page.
pub fn parameters() -> impl Iterator<Item = Parameter> {
    let mut words = TEXT.split_terminator('\0');
    std::iter::from_fn(move || Some(Parameter { name: words.next()?, default: words.next()? }))
}

impl Config {
    /// How a parameter was found, if there is one of that name.
    pub fn setting(&self, name: &str) -> Option<Setting> {
        let unset = |parameter: Parameter| {
            let (raw, expanded) = (Cow::Borrowed(parameter.default), Cow::Borrowed(parameter.default));
            Setting { name: parameter.name, raw, expanded, origin: Origin::Default, lacks: Vec::new() }
        };
        let found = self.settings.iter().find(|setting| setting.name == name).cloned();
        found.or_else(|| parameters().find(|parameter| parameter.name == name).map(unset))
    }
}

fn read<'a, T: Value>(
    rows: &mut Peekable<impl Iterator<Item = &'a Setting>>,
    name: &str,
    default: &str,
) -> Result<T, Error> {
    let setting = rows.next_if(|row| row.name == name);
    let text = setting.map_or(default, |setting| &setting.expanded);
    T::parse(text).map_err(|expected| Error {
        origin: setting.map_or(Origin::Default, |setting| setting.origin.clone()),
        problem: format!(
            "{name} = {}: expected {expected}{}",
            super::shown(text),
            setting.map_or(String::new(), Setting::lacking)
        ),
    })
}

parameters! {
    myhostname: String = "", "name of this machine in greetings, Received fields and unqualified addresses; empty: gethostname()";
    mail_owner: String = "doorpost", "user that owns queue_directory; the servers become it when started as root";
    net_owner: String = "", "user the protocol parsers become instead, if set";
    daemon_directory: OptionalPath = "", "where the programs find each other; empty: the folder of the running program";
    queue_directory: PathBuf = "/var/spool/doorpost", "top of the queue";
    config_directory: PathBuf = "/etc/doorpost", "where main.cf and channels are looked for; set by --config or MAIL_CONFIG";
    channels: PathBuf = "$config_directory/channels", "the channels file; where it is missing two built-in lines hold";
    users: Users = "system", "who has a mailbox here, in order: system, passwd-file:PATH";
    authentication: List<AuthMethod> = "system", "how passwords are checked, in order: pam, shadow (or system, generic), passwd-file[:PATH], checkpassword:PROGRAM; left alone, like users";
    pam_service: String = "doorpost", "the file in /etc/pam.d that says how pam checks passwords";
    mailbox: MailboxSpec = "maildir:~/Maildir", "where a user's mail is kept: maildir:PATH, mbox:PATH or mmdf:PATH, with ~, %u, %n and %d";
    mailbox_delivery_lock: List<LockKind> = "fcntl, dotlock", "how a mailbox that is one file is locked: fcntl, flock, dotlock";
    strict_mailbox_ownership: bool = "yes", "deliver only to a mailbox that is the user's or root's, and not to one that another user has made there";
    deliver_lock_attempts: u32 = "20", "how often a lock of a mailbox is tried";
    deliver_lock_delay: Seconds = "1s", "pause between two tries for a lock of a mailbox";
    external_locker: OptionalPath = "", "program that makes and removes dot locks instead of ours, as Mailutils' dotlock does: PROGRAM [-u] MAILBOX";
    mail_privileged_group: String = "", "group that pop3d and deliver keep for mailboxes of one file in a folder of that group, as /var/mail is mail's";
    stale_lock_time: Seconds = "500s", "age at which a dot lock is taken for left behind; 0: never";
    alias_maps: List<MapPath> = "", "alias files, each a path or hash:PATH, of which the first that has a name counts; empty: /etc/aliases where it exists";
    recipient_delimiter: String = "+", "characters that may divide a user from an extension, as in user+detail; empty: none";
    allow_mail_to_commands: List<MailSource> = "", "where programs may be named as targets: alias (the alias file), forward (a user's ~/.forward)";
    allow_mail_to_files: List<MailSource> = "", "where files may be named as targets: alias, forward";
    default_privs: String = "nobody", "user with whose rights the programs and files of the alias file are used, where deliver is started as root";
    command_time_limit: Seconds = "300s", "how long a program that mail is given to may run";
    message_size_limit: u64 = "10240000", "largest message with its envelope, in octets; 0: no limit";
    hopcount_limit: u32 = "50", "a message with this many Received fields, ours counted, is refused";
    line_length_limit: u64 = "2048", "longest command line and longest QMQP address, in octets";
    smtpd_timeout: Seconds = "300s", "how long an SMTP client may take for a command, or be silent in a message";
    smtpd_recipient_limit: u32 = "1000", "most recipients of a message that comes by SMTP or QMTP";
    smtpd_hard_error_limit: u32 = "20", "errors after which an SMTP or QMTP session is ended";
    smtpd_junk_command_limit: u32 = "100", "commands of an SMTP session that move no mail (HELO, NOOP, RSET, VRFY ...) before each more is an error";
    smtpd_transaction_limit: u32 = "0", "messages after which an SMTP session is ended; 0: no limit";
    smtpd_sasl_auth_enable: bool = "no", "let SMTP clients log in (AUTH); smtpsrvr --submission does so in any case";
    smtpd_sender_login_maps: OptionalTable = "", "hash:PATH of sender addresses and the logins that may use each; empty: a login may use any";
    message_drop_headers: List<FieldName> = "bcc, content-length, resent-bcc, return-path", "fields that are taken out of what users hand in: by smtpsrvr --submission and sendmail";
    smtpd_discard_ehlo_keywords: List<String> = "", "keywords that are left out of the reply to EHLO";
    disable_vrfy_command: bool = "no", "answer 502 to VRFY and EXPN, and do not list them";
    smtpd_forbidden_commands: List<CommandWord> = "CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PRI, PUT, TRACE", "commands at which an SMTP session is ended with 221; so is a header field";
    smtpd_authorized_xclient_hosts: PatternList = "", "SMTP clients that may say by XCLIENT that they speak for another";
    queue_minfree: u64 = "0", "octets that must stay free where the queue is, beyond what a message says of its size";
    smtpd_min_data_rate: u64 = "500", "octets a second that an SMTP client must send of a message, over each smtpd_timeout; 0: any";
    smtpd_forbid_unauth_pipelining: bool = "yes", "close SMTP connections over the network whose client does not wait where RFC 2920 says it must";
    smtpd_forbid_bare_newline: BareNewline = "reject", "what an LF without CR is: reject closes the connection, normalize takes it for a line end that never ends a message";
    smtpd_forbid_bare_newline_exclusions: PatternList = "", "clients that smtpd_forbid_bare_newline does not hold for";
    smtpd_greet_wait: Seconds = "0s", "how long a client over the network must be silent before the greeting; 0: it gets that at once";
    smtpd_soft_error_limit: u32 = "10", "errors after which each more is answered late";
    smtpd_error_sleep_time: Seconds = "1s", "how late";
    smtpd_client_restrictions: ClientRestrictions = "", "what is asked of SMTP clients that have not logged in: permit_mynetworks, reject_unknown_client_hostname, reject_rbl_client DOMAIN";
    mynetworks: PatternList = "127.0.0.0/8, [::1]/128", "clients that permit_mynetworks means";
    smtpd_upstream_proxy_hosts: PatternList = "", "balancers that say by a PROXY header whose connection it is";
    smtpd_upstream_proxy_timeout: Seconds = "5s", "how long the PROXY header may take";
    qmqpd_timeout: Seconds = "300s", "how long a QMQP client may be silent";
    qmqpd_authorized_clients: PatternList = "", "who may use QMQP; empty: nobody";
    qmqpd_error_delay: Seconds = "1s", "pause before a negative QMQP reply, 10 seconds at the most";
    qmqpd_client_port_logging: bool = "no", "log the port of a QMQP client beside its address";
    verp_delimiter_filter: String = "-=+", "characters that may delimit a variable envelope return path";
    content_filter: ContentFilter = "", "transport:nexthop that messages which come in here leave by first, whoever they are for";
    before_queue_filter: QueueFilter = "", "qmail-queue:PROGRAM, or a server (smtp:[HOST]:PORT, lmtp:...), that gets each message from the network in place of the queue, and says whether it is taken";
    before_queue_filter_timeout: Seconds = "100s", "how long that may take for a message, before the client is told to come back later";
    receive_override_options: List<ReceiveOverride> = "", "what is left out when mail comes in";
    parent_domain_matches_subdomains: List<String> = "debug_peer_list, qmqpd_authorized_clients", "parameters with patterns in which a name means the names below it as well";
    debug_peer_list: PatternList = "", "clients of which more is logged";
    debug_peer_level: u32 = "2", "how much more is logged of them: 1 each step, 2 each piece of content too";
    pop3d_timeout: Seconds = "600s", "how long a POP3 client may be silent";
    pop3d_login_delay: Seconds = "0s", "shortest time from the end of a user's POP3 session to the next; 0: none";
    pop3d_stat_file: PathBuf = "/var/run/pop3-login", "folder of the times of users' last POP3 sessions";
    pop3d_undelete: bool = "no", "take the deletion marks of other programs off the messages of a Maildir at login";
    pop3d_transcript: bool = "no", "log what POP3 clients say and are answered, but not passwords and messages";
    pop3d_require_utf8: bool = "no", "refuse messages whose header has octets beyond ASCII to POP3 clients that did not say UTF8";
    pop3d_expire: Expire = "never", "days that a message stays after a POP3 client has fetched it: announced, and kept to by pop3d_delete_expired; never: for ever";
    pop3d_delete_expired: bool = "no", "remove messages at QUIT that are as old as pop3d_expire says";
    auth_failure_delay: Seconds = "2s", "pause before a password is called wrong";
    daemon_timeout: Seconds = "18000s", "longest that one session may last";
    ipc_timeout: Seconds = "3600s", "how long programs of ours wait for each other";
    soft_bounce: bool = "no", "answer temporarily where the answer would be a permanent refusal";
    children: u32 = "50", "most processes of an accept loop at once";
    idle_children: u32 = "0", "processes of an accept loop that wait for a connection";
    max_use: u32 = "1", "connections that a process of an accept loop serves before it ends; 0: no limit";
    pretty_child: bool = "no", "processes of an accept loop have the address of their client as name";
    max_idle: Seconds = "100s", "an accept loop on somebody else's socket ends after so long without a connection; 0: never";
    smtpd_client_connection_count_limit: u32 = "0", "connections that one client address may have at once; 0: no limit";
    smtpd_client_connection_rate_limit: u32 = "0", "connections that one client address may make in a minute; 0: no limit";
    smtpd_client_event_limit_exceptions: List<IpNet> = "", "addresses and nets that these two limits do not hold for";
    smtpd_client_ipv6_prefix_length: PrefixLength = "64", "bits of an IPv6 address that are one client for these limits";
    when_full: WhenFull = "defer", "clients that come while all children are busy: defer leaves them waiting, refuse tells them";
    minimal_backoff_time: Seconds = "300s", "shortest time between two tries of a recipient";
    maximal_backoff_time: Seconds = "4000s", "longest time between two tries of a recipient";
    maximal_queue_lifetime: Days = "5d", "how long a message may wait before it is returned; 0: one try";
    delay_warning_time: Hours = "0h", "age at which the sender of a message that waits is told so; 0: never";
    bounce_size_limit: u64 = "50000", "of a larger message only the header is returned, in octets";
    double_bounce_recipient: String = "postmaster", "who is told of messages that can neither be delivered nor returned; empty: nobody";
    drop_directory: PathBuf = "/var/spool/doorpost-drop", "folder in which users who may not write the queue leave messages";
    queue_run_delay: Seconds = "300s", "time between two looks of deliver --watch at the queue";
    deliver_stop_timeout: Seconds = "60s", "how long deliver finishes what it has at hand after SIGTERM";
    default_process_limit: u32 = "50", "messages that deliver works on at once";
    default_destination_concurrency_limit: u32 = "20", "deliveries to one next hop, domain or mailbox at once";
    smtp_destination_recipient_limit: u32 = "50", "recipients of a message in one transaction with a next hop";
    smtp_tcp_port: Port = "25", "port of SMTP where a next hop names none";
    lmtp_tcp_port: Port = "24", "port of LMTP where a next hop names none";
    smtp_mx_address_limit: u32 = "5", "addresses of a next hop that are tried for a message; at least one";
    smtp_mx_session_limit: u32 = "2", "sessions with hosts of a next hop for a message, where one defers some of it";
    smtp_line_length_limit: u64 = "998", "octets of a line that SMTP sends; longer ones are broken by a line end and a blank; 0: none";
    smtp_connect_timeout: Seconds = "30s", "how long one address of a next hop may take to accept a connection; 0: as long as the system tries";
    smtp_helo_timeout: Seconds = "300s", "how long a next hop may take for its greeting, and for EHLO and AUTH";
    smtp_starttls_timeout: Seconds = "300s", "the same for STARTTLS and the handshake";
    smtp_mail_timeout: Seconds = "300s", "the same for MAIL";
    smtp_rcpt_timeout: Seconds = "300s", "the same for RCPT";
    smtp_data_init_timeout: Seconds = "120s", "the same for DATA";
    smtp_data_xfer_timeout: Seconds = "180s", "the same for taking a piece of a message";
    smtp_data_done_timeout: Seconds = "600s", "the same for answering a message";
    smtp_rset_timeout: Seconds = "20s", "the same for RSET";
    smtp_quit_timeout: Seconds = "300s", "the same for QUIT";
    smtp_connection_cache_time_limit: Seconds = "2s", "how long a connection is kept for another message to the same place";
    smtp_connection_reuse_time_limit: Seconds = "300s", "how long one connection is used at the most";
    smtp_tls_security_level: TlsLevel = "may", "TLS towards next hops: none, may, encrypt, verify or secure";
    smtp_tls_wrappermode: bool = "no", "TLS towards SMTP next hops begins with the connection, as on port 465, and not by STARTTLS";
    smtp_tls_policy_maps: OptionalPath = "", "text file of next hops and the TLS there must be towards each, a path or hash:PATH";
    tls_required_enable: bool = "yes", "a header with TLS-Required: No asks for no more TLS than may";
    smtp_tls_CAfile: OptionalPath = "/etc/ssl/certs/ca-certificates.crt", "PEM file of the authorities that verify and secure believe";
    smtp_sasl_auth_enable: bool = "no", "log in at next hops that smtp_sasl_password_maps has";
    smtp_sasl_password_maps: OptionalPath = "", "text file of next hops and user:password, a path or hash:PATH";
    name_servers: List<NameServer> = "", "addresses of name servers, maybe with ports, that deliver, smtpsrvr, qmqpd and checkaddr ask; empty: those of /etc/resolv.conf";
    tls_cert_file: List<PathBuf> = "", "PEM files of certificates, the first for who names no server; none: no TLS";
    tls_key_file: List<PathBuf> = "$tls_cert_file", "PEM files of the keys, one for each of tls_cert_file";
    tls_ticket_key_file: OptionalPath = "", "file of keys, made and rotated as needed, with which TLS clients resume their sessions at any process; empty: no tickets";
    tls_auth_only: bool = "yes", "no plain password before TLS, except from loopback and pipes";
    syslog_name: String = "doorpost", "first part of the tag in log records";
    syslog_facility: Facility = "mail", "facility of log records";
}
