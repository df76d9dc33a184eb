//! What a client hears that may not be served now, in the protocol of the program it would have got.

use super::program::last_component;
use crate::{pop3, qmqp, smtp};
use std::ffi::OsStr;

/// The words by the last component of a program's name; nothing for a stranger's program, whose protocol nobody knows.
pub fn words(program: &OsStr) -> Option<Vec<u8>> {
    let mut words = Vec::new();
    match last_component(program).to_str()? {
        "smtpsrvr" | "rsmtpsrvr" | "lmtpsrvr" => smtp::reply::Reply::too_many_connections().put(&mut words, false),
        "pop3d" => pop3::reply::Reply::TOO_MANY_CONNECTIONS.put(&mut words),
        "qmqpd" | "qmtpd" => words = qmqp::reply::Reply::TOO_MANY_CONNECTIONS.octets(),
        _ => return None,
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_of_the_protocol_of_the_last_component() {
        let said = |name: &str| words(OsStr::new(name)).map(|words| String::from_utf8(words).unwrap());
        for name in ["smtpsrvr", "/usr/mmdf/chans/rsmtpsrvr", "lmtpsrvr"] {
            assert!(said(name).unwrap().starts_with("421 4.3.2 "), "{name}");
        }
        assert!(said("/usr/sbin/pop3d").unwrap().starts_with("-ERR [SYS/TEMP] "));
        assert!(said("qmqpd").unwrap().contains(":Z"));
        assert_eq!(said("/bin/cat"), None);
        assert_eq!(said("smtpsrvr/other"), None);
    }
}
