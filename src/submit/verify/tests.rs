use super::*;

fn address(text: &str) -> Address {
    Address::from_internal(text.as_bytes()).unwrap()
}

fn judged(folder: &Path, from: &str, to: &str) -> Verdict {
    judged_by(folder, from, Policy::Channels, to)
}

/// Judges by a channels file of three lines and a passwd-file.
fn judged_by(folder: &Path, from: &str, policy: Policy, to: &str) -> Verdict {
    let file = |name: &str| folder.join(name).display().to_string();
    let (channels, users) = (file("channels"), format!("passwd-file:{}", file("passwd")));
    let aliases = file("aliases");
    let settings = [("myhostname", "mx.example"), ("channels", &channels), ("users", &users), ("alias_maps", &aliases)];
    let config = Config::with(&settings);
    let channels = Channels::load(&config).unwrap();
    Judge { config: &config, channels: &channels, from, policy, sender: &ReversePath::NULL }.of(&address(to))
}

fn site() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let channels = "local 127.0.0.0/8 $myhostname,other.example mailbox: *\n\
                    partner 192.0.2.0/24 example.net smtp: local\n\
                    inet * - - local\n";
    std::fs::write(folder.path().join("channels"), channels).unwrap();
    let users = "alice:{PLAIN}x::::/home/alice\npostmaster:{PLAIN}x::::/home/alice\n\
                 carol@other.example:{PLAIN}x::::/home/carol\nroot:{PLAIN}x:0:0::/root\n";
    std::fs::write(folder.path().join("passwd"), users).unwrap();
    std::fs::write(folder.path().join("aliases"), "root: alice\nList: alice, x@example.net\n").unwrap();
    folder
}

#[test]
fn an_alias_is_a_user_and_postmaster_needs_none() {
    let site = site();
    let verdict = |to| judged(site.path(), "inet", to);
    assert_eq!(verdict("list@mx.example"), Verdict::Accepted);
    assert_eq!(verdict("LIST@other.example"), Verdict::Accepted);
    std::fs::write(site.path().join("passwd"), "# nobody\n").unwrap();
    assert_eq!(verdict("Postmaster@other.example"), Verdict::Accepted);
    assert_eq!(verdict("postmasters@other.example"), Verdict::UnknownUser);
    std::fs::remove_file(site.path().join("aliases")).unwrap();
    assert_eq!(verdict("list@mx.example"), Verdict::CannotTell);
}

/// Reports come from there, and people answer them.
#[test]
fn mailer_daemon_is_postmaster_where_nobody_else_is() {
    let site = site();
    let file = |name: &str| site.path().join(name).display().to_string();
    let (users, map) = (format!("passwd-file:{}", file("passwd")), file("aliases"));
    std::fs::write(site.path().join("passwd"), "# nobody\n").unwrap();
    let config = Config::with(&[("myhostname", "mx.example"), ("users", &users), ("alias_maps", &map)]);
    let whose = || local(&config, &address("MAILER-DAEMON@mx.example"));
    let aliases = |text: &str| std::fs::write(site.path().join("aliases"), text).unwrap();
    assert_eq!(whose(), Lookup::Yes(Local::Postmaster));
    aliases("postmaster: carol\n");
    assert!(matches!(whose(), Lookup::Yes(Local::Alias(name, _)) if name == "postmaster"));
    aliases("postmaster: carol\nmailer-daemon: postmaster\n");
    assert!(matches!(whose(), Lookup::Yes(Local::Alias(name, _)) if name == "mailer-daemon"));
}

#[test]
fn an_extension_is_taken_off_where_nobody_has_the_whole_name() {
    let site = site();
    let verdict = |to| judged(site.path(), "inet", to);
    for taken in ["alice+x@mx.example", "alice+@mx.example", "alice+a+b", "list+x@mx.example"] {
        assert_eq!(verdict(taken), Verdict::Accepted, "{taken}");
    }
    for unknown in ["+alice@mx.example", "bob+alice@mx.example", "alice-x@mx.example", "owner-list+x@mx.example"] {
        assert_eq!(verdict(unknown), Verdict::UnknownUser, "{unknown}");
    }
}

#[test]
fn users_are_taken_and_others_are_not() {
    let site = site();
    let verdict = |to| judged(site.path(), "inet", to);
    assert_eq!(verdict("alice@mx.example"), Verdict::Accepted);
    assert_eq!(verdict("Alice@MX.example"), Verdict::Accepted);
    assert_eq!(verdict("bob@mx.example"), Verdict::UnknownUser);
    assert_eq!(verdict("postmaster"), Verdict::Accepted);
    assert_eq!(verdict("PostMaster@other.example"), Verdict::Accepted);
    assert_eq!(verdict("carol@other.example"), Verdict::Accepted);
    assert_eq!(verdict("carol@mx.example"), Verdict::UnknownUser);
    assert_eq!(verdict("root@mx.example"), Verdict::Accepted, "by its alias");
    std::fs::write(site.path().join("aliases"), "# none\n").unwrap();
    assert_eq!(verdict("root@mx.example"), Verdict::UnknownUser);
}

#[test]
fn mail_goes_where_the_channel_it_came_in_on_allows() {
    let site = site();
    let verdict = |from, to| judged(site.path(), from, to);
    assert_eq!(verdict("local", "x@example.net"), Verdict::Accepted);
    assert_eq!(verdict("inet", "x@example.net"), Verdict::NotAllowed);
    assert_eq!(verdict("partner", "alice@mx.example"), Verdict::Accepted);
    assert_eq!(verdict("local", "x@unlisted.example"), Verdict::UnknownHost);
}

#[test]
fn mail_of_a_client_that_no_channel_lists_stays_here_and_goes_no_further_than_its_channel_allows() {
    let site = site();
    let verdict = |from, to| judged_by(site.path(), from, Policy::Unlisted, to);
    assert_eq!(verdict("local", "x@example.net"), Verdict::NotAllowed);
    assert_eq!(verdict("local", "alice@other.example"), Verdict::Accepted);
    assert_eq!(verdict("local", "nobody@mx.example"), Verdict::UnknownUser);
    assert_eq!(verdict("nosuch", "alice@mx.example"), Verdict::NotAllowed);
    // A store or a program of this machine is where the way of mail ends.
    for (way, expected) in [
        ("lmtp:unix:/run/lmtp", Verdict::Accepted),
        ("\"pipe:/bin/store %r\"", Verdict::Accepted),
        ("lmtp:192.0.2.1:24", Verdict::NotAllowed),
    ] {
        std::fs::write(site.path().join("channels"), format!("local - shop.example {way} *\n")).unwrap();
        assert_eq!(verdict("local", "x@shop.example"), expected, "{way}");
    }
}

/// Else whoever was forged as its sender would get it back.
#[test]
fn what_could_only_be_returned_is_refused() {
    let site = site();
    let file =
        |way: &str| std::fs::write(site.path().join("channels"), format!("local - shop.example {way} *\n")).unwrap();
    let verdict = |to| judged(site.path(), "local", to);
    for text in ["", "5.7.1 no", "44.7.1 no", "4.3.2 moving"] {
        file(&format!("\"error:{text}\""));
        assert_eq!(verdict("x@shop.example"), Verdict::Closed(Closed::new(text)));
    }
    for (way, expected) in [
        ("\"pipe:/bin/x %n\"", Verdict::BadAddress),
        ("\"pipe:/bin/x -r %r\"", Verdict::BadAddress),
        ("\"pipe:/bin/x -r%r +%n\"", Verdict::Accepted),
        ("\"pipe:/bin/x %i%n\"", Verdict::Accepted),
        ("\"pipe:/bin/x %d\"", Verdict::Accepted),
    ] {
        file(way);
        assert_eq!((verdict("-x@shop.example"), verdict("x@shop.example")), (expected, Verdict::Accepted), "{way}");
    }
    file("\"pipe:/bin/x -f %s\"");
    let config = Config::with(&[("channels", site.path().join("channels").to_str().unwrap())]);
    let channels = Channels::load(&config).unwrap();
    for (from, expected) in [("-x@a.example", Verdict::BadAddress), ("x@a.example", Verdict::Accepted)] {
        let sender = ReversePath::from_internal(from.as_bytes()).unwrap();
        let judge =
            Judge { config: &config, channels: &channels, from: "local", policy: Policy::Channels, sender: &sender };
        let found = judge.of(&address("x@shop.example"));
        assert_eq!(found, expected, "{from}");
    }
}

/// RFC 5321 section 3.6.1: a route in a local part is no route of ours.
#[test]
fn relay_tricks_are_refused() {
    let site = site();
    for trick in ["x%example.net@mx.example", "x@example.net@mx.example", "example.net!x@mx.example", "x%example.net"] {
        assert_eq!(judged(site.path(), "inet", trick), Verdict::UnknownUser, "{trick}");
    }
    assert_eq!(judged(site.path(), "inet", "alice@mx.example@example.net"), Verdict::NotAllowed);
    assert_eq!(judged(site.path(), "inet", "x@[192.0.2.1]"), Verdict::UnknownHost);
}

#[test]
fn what_is_no_address_is_told_so() {
    let site = site();
    for wrong in
        ["@mx.example", "a@", "a@b..c", "a@mx.example.", "a@[x]", "a@[IPv6:1]", "a\t@mx.example", "a@b c", "a@b\x7f"]
    {
        assert_eq!(judged(site.path(), "inet", wrong), Verdict::BadAddress, "{wrong:?}");
    }
    let long = format!("a@{}", "x".repeat(256));
    assert_eq!(judged(site.path(), "inet", &long), Verdict::BadAddress);
}

#[test]
fn a_table_that_cannot_be_read_is_no_refusal_for_good() {
    let site = site();
    std::fs::remove_file(site.path().join("passwd")).unwrap();
    assert_eq!(judged(site.path(), "inet", "alice@mx.example"), Verdict::CannotTell);
}

#[test]
fn of_the_systems_users_only_people_receive() {
    let settings = [("myhostname", "mx.example"), ("channels", "/nonexistent"), ("users", "system")];
    let aliases = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(aliases.path(), "# none\n").unwrap();
    let aliases = [("alias_maps", aliases.path().to_str().unwrap())];
    let config = Config::with(&[&settings[..], &aliases].concat());
    let channels = Channels::load(&config).unwrap();
    for service in ["root", "daemon@mx.example", "nobody"] {
        let (policy, sender) = (Policy::Channels, &ReversePath::NULL);
        let verdict =
            Judge { config: &config, channels: &channels, from: "smtp", policy, sender }.of(&address(service));
        assert_eq!(verdict, Verdict::UnknownUser, "{service}");
    }
}

#[test]
fn under_the_policy_anywhere_all_that_is_an_address_is_taken() {
    let config = Config::with(&[("channels", "/nonexistent")]);
    let channels = Channels(Vec::new());
    let (policy, sender) = (Policy::Anywhere, &ReversePath::NULL);
    let judge = Judge { config: &config, channels: &channels, from: "x", policy, sender };
    let verdict = |to: &str| judge.of(&address(to));
    assert_eq!(verdict("nobody-knows@unlisted.example"), Verdict::Accepted);
    assert_eq!(verdict("b c@[192.0.2.1]"), Verdict::Accepted);
    assert_eq!(verdict("a@[IPv6:2001:db8::1]"), Verdict::Accepted);
    assert_eq!(verdict("a@b\u{1}"), Verdict::BadAddress);
}

/// Debian's nobody has a uid that is not below 1000.
#[test]
fn of_the_users_of_the_system_only_persons_with_a_place_for_mail_receive_any() {
    let in_spool = [("mailbox", "mbox:/var/mail/%u")];
    for (uid, home, mailbox, expected) in [
        (1000, "/home/bob", &[][..], true),
        (999, "/home/bob", &[], false),
        (0, "/root", &[], false),
        (NOBODY, "/home/bob", &[], false),
        (NOBODY, "/nonexistent", &in_spool, false),
        (1000, "/nonexistent", &[], false),
        (1000, "/nonexistent", &in_spool, true),
        (1000, "/nonexistent-yet", &[], true),
    ] {
        let user = User {
            name: "bob".to_owned(),
            owner: Some((uid, uid)),
            home: home.into(),
            mailbox: None,
            password: None,
            is_of_system: true,
        };
        assert_eq!(may_receive(&Config::with(mailbox), &user), expected, "{uid} {home} {mailbox:?}");
        let of_file = User { is_of_system: false, ..user };
        assert_eq!(may_receive(&Config::with(mailbox), &of_file), uid != 0, "{uid} {home} {mailbox:?}");
    }
}
