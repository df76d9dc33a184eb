//! What some tests cannot do without: root's rights, or a program that is not everywhere. Where `DOORPOST_MUST_RUN_ALL` is set,
//! as in `.ci/run`, its lack is a failure: a test that did nothing must not look like one that passed.

/// Whether the tests run as root; a test that needs it ends where they do not.
pub fn root() -> bool {
    there("root", nix::unistd::geteuid().is_root())
}

/// Whether this machine speaks IPv6 with itself.
#[allow(dead_code)] // The tests inside the library have no use for it.
pub fn ipv6() -> bool {
    there("IPv6", std::net::TcpListener::bind("[::1]:0").is_ok())
}

/// Whether what a test needs is there.
pub fn there(what: &str, is_there: bool) -> bool {
    let must = std::env::var_os("DOORPOST_MUST_RUN_ALL").is_some();
    assert!(is_there || !must, "without {what} this test would be skipped, and DOORPOST_MUST_RUN_ALL is set");
    is_there
}
