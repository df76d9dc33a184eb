//! doorpost-check, by its program: a good installation has nothing, and each mistake is told with its place.

mod common;

use common::Scratch;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

fn check(scratch: &Scratch) -> (Option<i32>, String) {
    let output = scratch.run("doorpost-check", &[], b"");
    (
        output.status.code(),
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
    )
}

/// With a drop folder, a postmaster, and somebody who owns nothing.
fn good(main_cf: &str) -> Scratch {
    let scratch = Scratch::with(&format!("net_owner = daemon\n{main_cf}"));
    let folder = scratch.path().join("drop");
    fs::create_dir(&folder).unwrap();
    scratch.hand_over(&folder);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1733)).unwrap();
    scratch.write("aliases", "postmaster: alice\nroot: alice\n");
    scratch
}

#[test]
fn a_good_installation_has_no_findings() {
    assert_eq!(check(&good("")), (Some(0), "0 errors, 0 warnings\n".to_owned()));
}

/// submit starts none where mailboxes are others'.
#[test]
fn that_no_deliver_runs_is_told_where_mail_would_wait_for_one() {
    let mut scratch = good("");
    scratch.let_deliver_start();
    assert_eq!(check(&scratch), (Some(0), "0 errors, 0 warnings\n".to_owned()));
    scratch.configure("users = system");
    let said = check(&scratch).1;
    assert!(said.contains("/queue/trigger: no deliver is running that mail would wake; start deliver"), "{said}");
    let _running = fs::OpenOptions::new().read(true).write(true).open(scratch.queue().join("trigger")).unwrap();
    let said = check(&scratch).1;
    assert!(!said.contains("no deliver"), "{said}");
}

#[test]
fn a_host_name_that_no_other_host_knows_is_warned_of() {
    let scratch = good("");
    scratch.configure("myhostname = vm");
    let (status, said) = check(&scratch);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("myhostname is vm, a name without a dot; set it, or mydomain, to what"), "{said}");
}

#[test]
fn nobody_who_reads_what_cron_says_is_warned_of() {
    let scratch = good("");
    scratch.write("aliases", "postmaster: alice\n");
    let (status, said) = check(&scratch);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains(": nobody gets mail for root") && said.contains("; add a line root: USER\n"), "{said}");
}

#[test]
fn what_is_wrong_with_one_users_line_is_told_once_with_field_and_scheme() {
    let scratch = good("");
    scratch.write(
        "passwd",
        "alice:{PLAIN}x::::/home/alice\nbob:secret::::/home/bob\ncarol:{SCRAM-SHA-256}4096,s::::/home/carol\n\
         dave:{PLAIN}x::::/home/dave::allow_nets=192.0.2.0/24\neve:{PLAIN}x::::/home/eve::userdb_mail_path=~/m\n",
    );
    let (status, said) = check(&scratch);
    assert_eq!(status, Some(78), "{said}");
    for expected in [
        ":2: bob: expected {SCHEME} before the password",
        ":3: carol: the scheme {SCRAM-SHA-256} cannot be checked",
        ":4: dave: allow_nets= is not understood",
        ":5: eve: expected mailbox=FORMAT:PATH in place of userdb_mail_path=",
    ] {
        assert_eq!(said.matches(expected).count(), 1, "{expected}: {said}");
    }
    assert!(said.ends_with("4 errors, 0 warnings\n") && !said.contains("secret"), "{said}");
}

#[test]
fn hashes_of_des_are_warned_of() {
    let scratch = good("");
    let lines = |hashes: [&str; 3]| {
        let line = |(name, hash)| format!("{name}:{hash}::::/home/{name}\n");
        scratch.write("passwd", &["alice", "bob", "carol"].into_iter().zip(hashes).map(line).collect::<String>());
    };
    // DES, and BSDi's with more rounds of it.
    for hash in ["{CRYPT}abnqrLigH.z/s", "abnqrLigH.z/s", "_J9..saltfTZGTNEwMRg"] {
        lines(["{PLAIN}x", hash, "$6$salt$x"]);
        told(&scratch, 0, "/passwd:2: bob: hashed by DES: whoever has the hash soon finds a password for it; a better");
    }
    lines(["abnqrLigH.z/s", "!abnqrLigH.z/s", "{CRYPT}abnqrLigH.z/s"]);
    told(&scratch, 0, "/passwd:1: alice and 1 more: hashed by DES: ");
    lines(["{PLAIN}abnqrLigH.z/s", "!abnqrLigH.z/s", "{CRYPT}$1$salt$x"]);
    assert_eq!(check(&scratch), (Some(0), "0 errors, 0 warnings\n".to_owned()));
}

#[test]
fn passwords_for_next_hops_that_are_not_used_are_warned_of() {
    let told = "smtp_sasl_password_maps: nobody logs in by it, for smtp_sasl_auth_enable is no";
    for (more, expected) in [("", true), ("smtp_sasl_auth_enable = no", true), ("smtp_sasl_auth_enable = yes", false)] {
        let scratch = good(&format!("smtp_sasl_password_maps = hash:/etc/doorpost/sasl_passwd\n{more}"));
        assert_eq!(check(&scratch).1.contains(told), expected, "{more}");
    }
}

/// The process of pop3d that hears strangers is then whose the mailboxes are.
#[test]
fn mailboxes_of_who_speaks_with_clients_are_warned_of() {
    let warned = |main_cf: &str, passwd: &str| {
        let scratch = good(main_cf);
        scratch.write("passwd", passwd);
        let (status, said) = check(&scratch);
        assert_eq!(status, Some(0), "{said}");
        said.contains(": pop3d, started as root, reads what clients say as user nobody, who also owns mailboxes in ")
    };
    let (without, with, own) =
        ("alice:{PLAIN}x::::/home/alice\n", "alice:{PLAIN}x:1:1\n", "alice:{PLAIN}x:65534:65534\n");
    assert!(!warned("", without));
    for main_cf in ["net_owner =", "net_owner = nobody"] {
        assert!(warned(main_cf, without) && warned(main_cf, own), "{main_cf}");
        assert!(!warned(main_cf, with), "{main_cf}");
    }
}

#[test]
fn all_wrong_values_of_main_cf_are_told_at_once() {
    let scratch = good("max_use = many\nunknown_thing = 1\nmax_idle = long\nsmtpd_timeout = 0");
    let (status, said) = check(&scratch);
    assert_eq!(status, Some(78), "{said}");
    for expected in ["max_use = many: ", "max_idle = long: ", "smtpd_timeout = 0: ", "unknown parameter unknown_thing"]
    {
        assert_eq!(said.matches(expected).count(), 1, "{expected}: {said}");
    }
    assert!(said.ends_with("3 errors, 1 warnings\n"), "{said}");
    let output = scratch.run("doorpost-check", &["-o", "nonsense"], b"");
    assert_eq!((output.status.code(), &*output.stdout), (Some(64), &b""[..]), "{output:?}");
    scratch.write("main.cf", "max_use = many\nno equals sign\n");
    let (status, said) = check(&scratch);
    assert_eq!((status, said.matches("main.cf:").count()), (Some(78), 2), "{said}");
}

#[test]
fn all_wrong_lines_are_told_at_once() {
    let scratch = good("no setting\nnor this\nsoft_bounce = maybe\n");
    let (status, said) = check(&scratch);
    assert!(status == Some(78) && said.ends_with("3 errors, 0 warnings\n"), "{said}");
    let scratch = good("");
    scratch.write("channels", "a b\nlocal * $myhostname foo: *\nlocal * $myhostname mailbox: nosuch\n");
    let (status, said) = check(&scratch);
    let told = |line: u32| said.contains(&format!("channels:{line}: "));
    // What a line leads to is no mistake while others are wrong.
    assert!(status == Some(78) && told(1) && told(2) && said.ends_with("2 errors, 0 warnings\n"), "{said}");
    scratch.write("channels", "local * $myhostname mailbox: nosuch\nother * * smtp: none,local\n");
    let (status, said) = check(&scratch);
    assert!(status == Some(78) && said.ends_with("2 errors, 0 warnings\n"), "{said}");
}

#[test]
fn each_mistake_is_told_with_file_and_line_and_how_to_mend_it() {
    let scratch = good(
        "messge_size_limit = 5\ncontent_filter = scan:x\ntls_cert_file = /no/such/file\ndefault_privs = no-such-user\n\
         allow_mail_to_commands = alias",
    );
    scratch.configure(&format!("smtp_tls_policy_maps = {}/policy", scratch.path().display()));
    scratch.write("policy", "a.example dane\n");
    scratch.write("channels", "local 127.0.0.0/8 $myhostname mailbox: *\nopen 0.0.0.0/0 - - *\nout * * smtp: local\n");
    scratch.write(
        "aliases",
        "postmaster: nobody-here\nlist: alice, carol, dave, x@example.net\nno colon\nrun: |/no/such/program\nkeep: /var/x\n\
         LIST: bob\nall: :include:/no/such/list\n@mx.example: alice\n",
    );
    let (status, said) = check(&scratch);
    assert_eq!(status, Some(78), "{said}");
    let folder = scratch.path().display();
    let main_cf = fs::read_to_string(scratch.path().join("main.cf")).unwrap();
    let line = |name: &str| 1 + main_cf.lines().position(|line| line.starts_with(name)).unwrap();
    for expected in [
        format!(
            "warning: {folder}/main.cf:{}: unknown parameter messge_size_limit; mend its spelling",
            line("messge_size_limit")
        ),
        format!(
            "error: {folder}/main.cf:{}: content_filter = scan:x: there is no transport or channel scan; ",
            line("content_filter")
        ),
        "error: /no/such/file: tls_cert_file: expected a PEM file that can be read: ".to_owned(),
        format!("error: {folder}/main.cf:{}: default_privs = no-such-user: expected a user", line("default_privs")),
        format!(
            "error: {folder}/channels:2: open relay: clients from anywhere are on channel open, and their mail for any domain \
             may leave by out"
        ),
        format!("warning: {folder}/aliases:2: list: nobody here is dave"),
        format!("error: {folder}/policy:1: smtp_tls_policy_maps, a.example: expected the level none, may, encrypt"),
        format!("error: {folder}/aliases:3: expected NAME: TARGET, ... instead of no colon"),
        format!("error: {folder}/aliases:4: run: /no/such/program: expected a program"),
        format!("error: {folder}/aliases:5: keep: /var/x: allow_mail_to_files has no word alias, so its mail waits"),
        format!("warning: {folder}/aliases:6: LIST: it was there before, and the first counts"),
        format!("error: {folder}/aliases:8: expected a name before the @ of @mx.example: there are no catch-alls"),
        format!("error: {folder}/aliases:7: all: :include:/no/such/list: No such file"),
        format!(
            "warning: {folder}/aliases: nobody reads mail for postmaster; it is kept in {folder}/queue/postmaster; add a line"
        ),
    ] {
        assert!(said.contains(&expected), "{expected}\n{said}");
    }
    assert!(!said.contains("carol") && !said.contains("example.net"), "{said}");
    let quiet = scratch.run("doorpost-check", &["-q"], b"");
    assert!(quiet.status.code() == Some(78) && quiet.stdout.is_empty(), "{quiet:?}");
}

#[test]
fn of_a_main_cf_of_postfix_it_is_told_where_each_parameter_went() {
    let scratch = good("relayhost = [smtp.isp.example]\nvirtual_alias_maps = hash:/etc/virtual\nrelayhots = x");
    told(&scratch, 0, ": unknown parameter relayhost; that is lines of channels(5)\n");
    told(&scratch, 0, ": unknown parameter virtual_alias_maps; those are lines name@domain: target in the alias file");
    told(&scratch, 0, ": unknown parameter relayhots; mend its spelling");
    let scratch = good("mailbox_size_limit = 5\nstrict_rfc821_envelopes = yes\nslow_destination_concurrency_limit = 2");
    told(&scratch, 0, ": unknown parameter mailbox_size_limit; mailboxes have no limit of size here");
    told(&scratch, 0, ": unknown parameter strict_rfc821_envelopes; a parameter of Postfix's that does nothing here\n");
    told(
        &scratch,
        0,
        ": unknown parameter slow_destination_concurrency_limit; that is default_destination_concurrency",
    );
    let warning = ": mynetworks: mail of clients in 10.1.0.0/16 does not go to other hosts from here; ";
    let scratch = good("mynetworks = 127.0.0.0/8 [::1]/128 10.1.0.0/16");
    told(&scratch, 0, warning);
    for (clients, is_warned) in [("10.0.0.0/8", false), ("!10.1.0.0/16,10.0.0.0/8", true), ("$mynetworks", false)] {
        let local = format!("local 127.0.0.0/8,[::1],{clients} $myhostname mailbox: *\nsmtp * * smtp: local\n");
        scratch.write("channels", &local);
        assert_eq!(check(&scratch).1.contains(warning), is_warned, "{clients}");
    }
}

#[test]
fn a_next_hop_that_would_be_waited_for_in_vain_is_told() {
    let channels = "local - mx.example mailbox: -\nout - * smtp:[smtp.isp.example]:465 -\n";
    let warning =
        "/channels:2: channel out: on port 465 TLS begins with the connection, and not here; smtp_tls_wrapper";
    let scratch = good("");
    scratch.write("channels", channels);
    told(&scratch, 0, warning);
    scratch.configure("smtp_tls_wrappermode = yes");
    told(&scratch, 78, ": smtp_tls_wrappermode = yes: expected encrypt, verify or secure in smtp_tls_security_level");
    scratch.configure("smtp_tls_security_level = encrypt");
    assert_eq!(check(&scratch), (Some(0), "0 errors, 0 warnings\n".to_owned()));
    // No other hop hears that, but for where the table says so; and a table says nothing of those that it does not name.
    let warning = |who: &str, port| {
        format!(
            ": {who}: with smtp_tls_wrappermode TLS begins with the connection, which port {port} hardly expects; its mail"
        )
    };
    scratch.configure("content_filter = smtp:[127.0.0.1]:10025");
    told(&scratch, 0, &warning("content_filter", 10025));
    scratch.configure("smtp_tls_policy_maps = hash:$config_directory/policy");
    scratch.write("policy", "[127.0.0.1]:10025 none\n");
    assert_eq!(check(&scratch), (Some(0), "0 errors, 0 warnings\n".to_owned()));
    scratch.write(
        "channels",
        &format!("{channels}direct - b.example smtp: -\nhub - hub.example smtp:[hub.example]:587 -\n"),
    );
    told(&scratch, 0, &warning("channel direct", 25));
    told(&scratch, 0, &warning("channel hub", 587));
    scratch.write("channels", channels);
    scratch.configure("smtp_tls_security_level = may");
    told(&scratch, 78, "beside it; mail for next hops that smtp_tls_policy_maps does not name waits meanwhile\n");
    scratch.write("policy", "[127.0.0.1]:10025 none\n[smtp.isp.example]:465 encrypt\n");
    assert_eq!(check(&scratch).0, Some(0), "{}", check(&scratch).1);
}

/// A filter seldom offers any.
#[test]
fn a_server_of_this_machine_that_must_have_tls_is_told() {
    let scratch = good("");
    let channels = "local - mx.example mailbox: -\nout - * smtp:[smtp.isp.example] -\n";
    scratch.write("channels", channels);
    let with_filter = |filter: &str| {
        let output = scratch.run("doorpost-check", &["-o", &format!("content_filter={filter}")], b"");
        String::from_utf8(output.stdout).unwrap()
    };
    const NOTHING: &str = "0 errors, 0 warnings\n";
    assert_eq!(with_filter("smtp:[127.0.0.1]:10025"), NOTHING);
    scratch.configure("smtp_tls_security_level = encrypt");
    let warning = |who: &str, hop: &str| {
        format!(
            ": {who}: smtp_tls_security_level has mail for {hop} on this machine go by TLS, too; where it offers none \
             mail waits; smtp_tls_policy_maps may say none or may of a next hop\n"
        )
    };
    for hop in ["smtp:[127.0.0.1]:10025", "smtp:[IPv6:::1]:10025", "lmtp:inet:localhost:24"] {
        let said = with_filter(hop);
        assert!(said.contains(&warning("content_filter", hop.split_once(':').unwrap().1)), "{hop}: {said}");
    }
    for hop in ["lmtp:unix:/run/filter", "qmqp:127.0.0.1", "smtp:[filter.example]", ""] {
        assert_eq!(with_filter(hop), NOTHING, "{hop}");
    }
    let more = "scan - a.example smtp:[127.0.0.2] -\nlists - b.example lmtp:inet:127.0.0.1:24 -\n";
    scratch.write("channels", &format!("{more}{channels}"));
    told(&scratch, 0, &warning("channel scan", "[127.0.0.2]"));
    scratch.configure("smtp_tls_policy_maps = hash:$config_directory/policy");
    scratch.write("policy", "[127.0.0.2] none\n");
    assert_eq!(check(&scratch), (Some(0), NOTHING.to_owned()));
}

/// Whether there is a finding like this.
#[track_caller]
fn told(scratch: &Scratch, status: i32, expected: &str) {
    let (found, said) = check(scratch);
    assert!(found == Some(status) && said.contains(expected), "{expected}\n{said}");
}

/// A file of the installation for root's eyes alone.
fn shut(scratch: &Scratch, name: &str, text: &str) -> String {
    let path = scratch.path().join(name);
    fs::write(&path, text).unwrap();
    std::os::unix::fs::chown(&path, Some(0), Some(0)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// What root can read, and those programs cannot that root starts.
#[test]
fn root_sees_what_is_closed_to_those_who_must_read_it() {
    if !common::needs::root() {
        return;
    }
    let mend = |who: &str, path: &str| {
        let group = if who == "nobody" { "nogroup" } else { who };
        format!("user {who} cannot read it: chgrp {group} {path} && chmod g+r {path}\n")
    };
    let scratch = good("authentication = passwd-file");
    let path = shut(&scratch, "passwd", "alice:{PLAIN}x::::/home/alice\n");
    told(&scratch, 78, &mend("nobody", &path));
    let scratch = good("");
    let path = shut(&scratch, "aliases", "postmaster: alice\n");
    told(&scratch, 78, &mend("nobody", &path));
    let scratch = good("");
    let path = shut(&scratch, "list", "alice\n");
    scratch.write("aliases", &format!("postmaster: alice\nall: :include:{path}\n"));
    told(&scratch, 78, &mend("nobody", &path));
    for name in ["main.cf", "channels"] {
        let scratch = good("");
        let text = match name {
            "main.cf" => fs::read_to_string(scratch.path().join(name)).unwrap(),
            _ => "local 127.0.0.0/8 $myhostname mailbox: *\nsmtp * * smtp: local\n".to_owned(),
        };
        let path = shut(&scratch, name, &text);
        told(&scratch, 78, &mend("nobody", &path));
    }
    let scratch = good("smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = $config_directory/pw");
    let path = shut(&scratch, "pw", "[gw.example] alice:secret\n");
    told(&scratch, 78, &mend("nobody", &path));
    let scratch = good("smtp_tls_security_level = verify\nsmtp_tls_CAfile = $config_directory/authorities");
    let path = shut(&scratch, "authorities", "");
    told(&scratch, 78, &mend("nobody", &path));
    // The process that reads this one is net_owner, who is in none of mail_owner's groups.
    let scratch = good("smtpd_sender_login_maps = hash:$config_directory/senders");
    let path = shut(&scratch, "senders", "a@mx.example alice\n");
    std::os::unix::fs::chown(&path, Some(65_534), Some(65_534)).unwrap();
    told(&scratch, 78, &mend("daemon", &path));
    // A key for root alone is right wherever root starts the servers.
    let scratch = good("");
    common::tls::configure(&scratch);
    let key = scratch.path().join("mx.key.pem");
    let path = shut(&scratch, "mx.key.pem", &fs::read_to_string(key).unwrap());
    told(&scratch, 0, &mend("nobody", &path));
    // deliver comes to the queue as nobody.
    let scratch = good("queue_directory = $config_directory/closed/queue");
    let (folder, queue) = (scratch.path().join("closed"), scratch.path().join("closed/queue"));
    fs::create_dir(&folder).unwrap();
    fs::rename(scratch.queue(), &queue).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    let (queue, folder) = (queue.display(), folder.display());
    let problem = format!("error: {queue}: expected a folder that can be read: Permission denied (os error 13)");
    told(&scratch, 78, &format!("{problem}; user nobody cannot enter {folder}: chmod o+x {folder}\n"));
    let scratch = good("");
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(scratch.path(), Some(0), Some(0)).unwrap();
    let folder = scratch.path().display().to_string();
    told(&scratch, 78, &format!("user nobody cannot enter {folder}: chmod o+x {folder}\n"));
}

/// Who neither delivers nor can become who does: what is closed to him is no mistake.
#[test]
fn what_a_stranger_cannot_see_is_no_error() {
    if !common::needs::root() {
        return;
    }
    let scratch = good("smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = $config_directory/pw");
    common::tls::configure(&scratch);
    let key = fs::read_to_string(scratch.path().join("mx.key.pem")).unwrap();
    let aliases = fs::read_to_string(scratch.path().join("aliases")).unwrap();
    let closed = [("pw", "[gw.example] alice:secret\n"), ("mx.key.pem", key.as_str()), ("aliases", aliases.as_str())];
    let closed = closed.map(|(name, text)| shut(&scratch, name, text));
    let run = || {
        let output = scratch.command("doorpost-check").uid(1).gid(1).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (status, said) = run();
    assert_eq!(status, Some(0), "{said}");
    for path in &closed {
        let finding = said.lines().find(|line| line.contains(path.as_str())).expect(path);
        assert!(finding.starts_with("warning: ") && finding.ends_with("; as far as this user can see"), "{finding}");
    }
    assert!(said.ends_with("0 errors, 3 warnings\n"), "{said}");
    // What he can see is one as ever.
    fs::set_permissions(scratch.queue(), fs::Permissions::from_mode(0o702)).unwrap();
    let (status, said) = run();
    assert!(status == Some(78) && said.contains("/queue: the queue has mode 702; chmod 700 "), "{said}");
    fs::remove_dir_all(scratch.queue()).unwrap();
    let (status, said) = run();
    assert!(status == Some(78) && said.contains("/queue: there is no queue: "), "{said}");
}

#[test]
fn tables_that_are_wrong_and_mailboxes_that_cannot_be_are_told() {
    let scratch = good("smtpd_sender_login_maps = hash:$config_directory/senders");
    told(&scratch, 78, ": smtpd_sender_login_maps: expected a file ");
    scratch.write("senders", "a@mx.example\n");
    told(
        &scratch,
        78,
        "/senders:1: expected a key, blanks, and a value; users who log in can send nothing meanwhile\n",
    );
    let scratch = good("smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = $config_directory/pw");
    scratch.write("pw", "[gw.example] secret\n");
    told(&scratch, 78, "/pw:1: smtp_sasl_password_maps: expected user:password behind the next hop [gw.example]");
    let scratch = good("smtp_tls_security_level = verify\nsmtp_tls_CAfile = /no/such/file");
    told(&scratch, 78, "error: /no/such/file: smtp_tls_CAfile: expected a readable file: ");
    let scratch = good("");
    scratch.write("channels", "local hash:/no/such/table $myhostname mailbox: *\nsmtp * * smtp: local\n");
    told(&scratch, 78, "/channels:1: local: expected a file /no/such/table, and there is none; ");
    let scratch = good("users = passwd-file:$config_directory/users");
    scratch.write("users", "# none\n");
    told(&scratch, 0, "/users: there is no user in this file: ");
    scratch.write("users", "alice:{PLAIN}x\nbob\nalice:{PLAIN}y\ncarol {PLAIN}xyz\n");
    told(&scratch, 0, "warning: ");
    let said = check(&scratch).1;
    assert!(said.contains("/users:3: alice: it was there before, and the first counts\n"), "{said}");
    assert!(said.contains("/users:4: there is no colon in this line, ") && !said.contains("xyz"), "{said}");
    if nix::unistd::geteuid().is_root() {
        let (there, not_there) = (scratch.path().join("spool"), scratch.path().join("closed"));
        fs::create_dir(&not_there).unwrap();
        scratch.configure(&format!("mailbox = maildir:{}/%u", not_there.display()));
        let install = "install -d -o nobody -m 700 a folder for mailboxes, or chown one\n";
        told(&scratch, 78, &format!("belongs to nobody, who may not write to {}; {install}", not_there.display()));
        scratch.configure("mailbox = mbox:/no/such/folder/%u");
        told(&scratch, 78, "/users: expected a folder /no/such/folder to write to: No such file or directory\n");
        let file = scratch.path().join("aliases");
        scratch.configure(&format!("mailbox = maildir:{}/%u", file.display()));
        told(&scratch, 78, &format!(": expected a folder {} to write to: Not a directory\n", file.display()));
        let path = shut(&scratch, "alice", "");
        scratch.configure("mailbox = mbox:$config_directory/%u");
        told(&scratch, 78, &format!("/users is closed to nobody, to whom it belongs; chown nobody {path}\n"));
        fs::create_dir(&there).unwrap();
        scratch.configure(&format!("users = system\nmailbox = mbox:{}/%u", there.display()));
        told(
            &scratch,
            78,
            &format!("users can make neither mailboxes nor locks in {}, of group root", there.display()),
        );
        std::os::unix::fs::chown(&there, None, Some(8)).unwrap();
        fs::set_permissions(&there, fs::Permissions::from_mode(0o2775)).unwrap();
        told(&scratch, 78, ", of group mail, mode 2775; mail_privileged_group = mail\n");
        scratch.configure("mail_privileged_group = mail");
        assert_eq!(check(&scratch).0, Some(0), "{}", check(&scratch).1);
    }
}

#[test]
fn lines_that_no_mail_comes_by_are_told() {
    let scratch = good("");
    let folder = scratch.path().display();
    scratch.write("channels", "local 127.0.0.0/8 $myhostname mailbox: *\nout - out.example smtp:[192.0.2.1] -\n");
    scratch.write("members", "bob\n|/bin/false\n");
    scratch.write(
        "aliases",
        &format!(
            "postmaster: alice\nroot: alice\ninfo@out.example: alice\ninfo@no.example: alice\nx@mx.example: alice\n\
             all: one, x\none: two\ntwo: one, bob\nlist: :include:{folder}/members\nlists: list\nalice: alice, bob\n"
        ),
    );
    scratch.write(
        "passwd",
        "alice:{PLAIN}x::::/home/alice\nbob:{PLAIN}x::::/home/bob\ncarol@out.example:{PLAIN}x::::/home/carol\n",
    );
    let mend = "; let a channel with mailbox: list the domain";
    let circle = "it leads back to itself, and nobody here is";
    for expected in [
        format!(
            "{folder}/aliases:3: info@out.example: this line has no effect: mail for out.example leaves by channel out{mend}"
        ),
        format!(
            "{folder}/aliases:4: info@no.example: this line has no effect: no channel takes mail for no.example{mend}"
        ),
        format!("{folder}/aliases:7: one: {circle} one; what goes in this circle is returned\n"),
        format!("{folder}/aliases:8: two: {circle} two; what"),
        format!("{folder}/aliases:9: list: a program or file in {folder}/members is passed over; only the alias file"),
        format!("{folder}/passwd:3: carol@out.example: this user can log in, and gets no mail: mail for out.example"),
        "0 errors, 6 warnings\n".to_owned(),
    ] {
        told(&scratch, 0, &expected);
    }
}

#[test]
fn what_root_has_put_back_into_the_queue_is_told() {
    if !common::needs::root() {
        return;
    }
    let scratch = good("");
    let folder = scratch.queue().join("message/b");
    fs::create_dir_all(&folder).unwrap();
    scratch.hand_over(&scratch.queue());
    assert_eq!(check(&scratch), (Some(0), "0 errors, 0 warnings\n".to_owned()));
    fs::write(folder.join("x"), "").unwrap();
    std::os::unix::fs::chown(&folder, Some(0), Some(0)).unwrap();
    let said = "message/b: it belongs to uid 0, and not to mail_owner, and so do 1 more of the queue: mail waits, or";
    told(&scratch, 78, said);
    told(&scratch, 78, &format!("; chown -R nobody {}/message\n", scratch.queue().display()));
}

#[test]
fn what_is_wrong_with_folders_is_told() {
    let scratch = good("");
    fs::set_permissions(scratch.queue(), fs::Permissions::from_mode(0o707)).unwrap();
    fs::set_permissions(scratch.path().join("drop"), fs::Permissions::from_mode(0o777)).unwrap();
    let (status, said) = check(&scratch);
    assert!(status == Some(78) && said.contains("/queue: the queue has mode 707; chmod 700 "), "{said}");
    assert!(said.contains("/drop: the drop folder has mode 777; chmod 1733 "), "{said}");
    fs::remove_dir(scratch.path().join("drop")).unwrap();
    assert!(check(&scratch).1.contains(
        "/drop: there is no drop folder: only root and mail_owner can hand in mail by sendmail; install -d "
    ));
    if nix::unistd::geteuid().is_root() {
        let output = scratch.run("doorpost-check", &["-o", "mail_owner=no-such-user"], b"");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            said.contains("error: option -o: mail_owner = no-such-user: expected a user of this system; useradd"),
            "{said}"
        );
    }
}
