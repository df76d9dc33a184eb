//! Ports by number and by name.

use crate::config::shown;

/// Those of mail, for where /etc/services is missing (containers) or may not be read.
const MAIL: [(&str, u16); 9] = [
    ("lmtp", 24),
    ("smtp", 25),
    ("pop3", 110),
    ("qmtp", 209),
    ("smtps", 465),
    ("submissions", 465),
    ("submission", 587),
    ("qmqp", 628),
    ("pop3s", 995),
];

/// A port by number, 0 too, or by a name of /etc/services or of what mail uses.
pub fn of(text: &str) -> Result<u16, String> {
    if is_number(text) {
        return text.parse().map_err(|_| format!("{text}: expected a port from 0 to 65535"));
    }
    let known = std::fs::read_to_string("/etc/services").ok().and_then(|table| look_up(&table, text));
    let known = known.or_else(|| of_mail(text));
    known.ok_or_else(|| format!("{}: expected a port, or a service of /etc/services", shown(text)))
}

/// A port to connect to, by number or by the name of what mail uses; the same everywhere, whatever may be read there.
pub fn of_next_hop(text: &str) -> Option<u16> {
    let number = || text.parse().ok().filter(|number| *number > 0);
    if is_number(text) { number() } else { of_mail(text) }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit())
}

fn of_mail(wanted: &str) -> Option<u16> {
    MAIL.iter().find(|(name, _)| *name == wanted).map(|(_, port)| *port)
}

/// services(5): `name number/protocol alias...`.
fn look_up(table: &str, wanted: &str) -> Option<u16> {
    table.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let name = words.next()?;
        let number = words.next()?.strip_suffix("/tcp")?;
        if name == wanted || words.any(|alias| alias == wanted) { number.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_name_and_alias_and_only_for_tcp() {
        let table = "# comment\nsmtp 25/tcp mail # sends\nonly 99/udp\nbad\nworse 99999/tcp\n";
        assert_eq!(look_up(table, "smtp"), Some(25));
        assert_eq!(look_up(table, "mail"), Some(25));
        assert_eq!(look_up(table, "sends"), None);
        assert_eq!(look_up(table, "only"), None);
        assert_eq!(look_up(table, "worse"), None);
    }

    #[test]
    fn next_hops_have_numbers_and_the_names_of_mail() {
        let all = ["587", "submission", "lmtp", "0", "65536", "+25", "", "ssh"].map(of_next_hop);
        assert_eq!(all, [Some(587), Some(587), Some(24), None, None, None, None, None]);
    }
}
