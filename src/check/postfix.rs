//! Where those of Postfix's parameters went that have another name here, or none: for a main.cf that was brought along.

const CHANNELS: &str = "that is lines of channels(5)";
const TLS: &str = "TLS is offered wherever tls_cert_file is set";
const USERS: &str = "who has mail here, and where, is said by users and mailbox, or a passwd-file (doorpost-passwd(5))";
const NONE: &str = "nothing here needs it: it can go";
const ABSENT: &str = "there is nothing like it here";
const TESTS: &str = "who may send where is lines of channels(5), block lists stand in smtpd_client_restrictions, and there are \
                     no tests of other kinds";

/// Some names, and what became of them.
const WENT: [(&[&str], &str); 21] = [
    (
        &[
            "mydestination",
            "relay_domains",
            "relayhost",
            "sender_dependent_relayhost_maps",
            "transport_maps",
            "default_transport",
            "relay_transport",
            "local_transport",
            "virtual_transport",
            "mailbox_transport",
            "virtual_alias_domains",
            "virtual_mailbox_domains",
        ],
        CHANNELS,
    ),
    (
        &[
            "smtpd_relay_restrictions",
            "smtpd_recipient_restrictions",
            "smtpd_sender_restrictions",
            "smtpd_helo_restrictions",
            "smtpd_helo_required",
            "smtpd_data_restrictions",
            "smtpd_end_of_data_restrictions",
        ],
        TESTS,
    ),
    (
        &["myorigin", "masquerade_domains"],
        "an address without a domain, as that of mail from this machine's users, gets myhostname; nothing writes another",
    ),
    (
        &["smtpd_milters", "non_smtpd_milters", "header_checks", "mime_header_checks", "body_checks"],
        "a program can do it, by content_filter or before_queue_filter",
    ),
    (&["smtp_tls_CApath"], "name one file of certificates in smtp_tls_CAfile"),
    (&["smtpd_banner", "smtp_helo_name"], "what is said is myhostname, and ESMTP"),
    (
        &[
            "relay_recipient_maps",
            "canonical_maps",
            "sender_canonical_maps",
            "recipient_canonical_maps",
            "smtp_generic_maps",
            "relocated_maps",
            "always_bcc",
            "sender_bcc_maps",
            "recipient_bcc_maps",
            "luser_relay",
            "fallback_transport",
            "smtp_fallback_relay",
            "smtp_bind_address",
            "smtp_bind_address6",
            "smtpd_client_message_rate_limit",
            "smtpd_client_recipient_rate_limit",
        ],
        ABSENT,
    ),
    (&["virtual_alias_maps", "virtual_maps"], "those are lines name@domain: target in the alias file (alias_maps)"),
    (
        &[
            "local_recipient_maps",
            "virtual_mailbox_maps",
            "virtual_mailbox_base",
            "virtual_uid_maps",
            "virtual_gid_maps",
        ],
        USERS,
    ),
    (&["home_mailbox"], "that is mailbox, as in mailbox = maildir:~/Maildir"),
    (&["mail_spool_directory"], "that is mailbox = mbox:/var/mail/%u, with mail_privileged_group = mail"),
    (
        &["mailbox_command"],
        "no program is run as each user: use lmtp:unix: or pipe: in channels(5), or let users name it in their ~/.forward",
    ),
    (&["smtpd_tls_cert_file", "smtpd_tls_chain_files"], "that is tls_cert_file"),
    (&["smtpd_tls_key_file"], "that is tls_key_file"),
    (&["smtpd_tls_auth_only"], "that is tls_auth_only"),
    (&["smtpd_tls_security_level", "smtpd_use_tls"], TLS),
    (&["smtpd_tls_wrappermode"], "that is the option --tls of smtpsrvr and pop3d"),
    (&["smtp_use_tls", "smtp_enforce_tls", "smtp_tls_enforce_peername"], "that is smtp_tls_security_level"),
    (&["smtpd_sasl_type", "smtpd_sasl_path", "smtpd_sasl_local_domain"], "that is authentication"),
    (
        &["inet_interfaces", "inet_protocols"],
        "which addresses are listened at is said to what listens: the superserver, or smtpd(8)",
    ),
    (
        &[
            "compatibility_level",
            "biff",
            "append_dot_mydomain",
            "readme_directory",
            "html_directory",
            "command_directory",
            "data_directory",
            "mailq_path",
            "newaliases_path",
            "sendmail_path",
            "setgid_group",
            "smtpd_tls_loglevel",
            "smtp_tls_loglevel",
            "smtpd_tls_received_header",
            "smtpd_delay_reject",
            "mynetworks_style",
            "smtpd_tls_session_cache_database",
            "smtp_tls_session_cache_database",
            "smtp_sasl_security_options",
            "smtp_sasl_tls_security_options",
            "smtpd_sasl_security_options",
            "alias_database",
            "mailbox_size_limit",
        ],
        NONE,
    ),
];

/// What became of a parameter of Postfix's.
pub(super) fn went(name: &str) -> Option<&'static str> {
    WENT.iter().find(|(names, _)| names.contains(&name)).map(|(_, went)| *went)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parameters::parameters;

    #[test]
    fn none_of_these_is_a_parameter_here() {
        for name in WENT.iter().flat_map(|(names, _)| *names) {
            assert!(parameters().all(|parameter| parameter.name != *name), "{name}");
        }
        let words = WENT.iter().flat_map(|(_, went)| went.split([' ', ',', ')', '(']));
        for word in words.filter(|word| word.contains('_')) {
            assert!(parameters().any(|parameter| parameter.name == word), "{word}");
        }
    }
}
