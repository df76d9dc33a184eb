//! The Received field we add (RFC 5321 section 4.4).

/// The protocol of the `with` clause (RFC 3848).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HELO.
    Smtp,
    /// EHLO.
    Esmtp,
    /// QMQP.
    Qmqp,
    /// A program on this machine; no client to name.
    Local,
}

/// Where a message came from, for the `from` clause. Every text in it is hostile and is written cleaned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// What the client called itself (HELO, EHLO), if it did.
    pub helo: Option<Vec<u8>>,
    /// Its forward-confirmed name, if it has one.
    pub name: Option<String>,
    /// Its address, or `stdin`, or `unknown`.
    pub address: String,
}

/// A time as RFC 5322 section 3.3 writes it: seconds since 1970, shown in a zone so many seconds east of UTC.
pub fn date(unix_time: i64, offset: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    /// The year 9999; a clock beyond it is wrong anyhow, and four digits are what readers expect.
    const LATEST: i64 = 253_402_300_799;
    let offset = offset.clamp(-86_340, 86_340) / 60 * 60;
    let local = unix_time.clamp(0, LATEST - 86_400).saturating_add(offset);
    let (day, second) = (local.div_euclid(86_400), local.rem_euclid(86_400));
    let (year, month, day_of_month) = civil(day);
    let name = |names: &[&'static str], index: i64| usize::try_from(index).ok().and_then(|i| names.get(i).copied());
    let (weekday, month) =
        (name(&DAYS, day.rem_euclid(7)).unwrap_or_default(), name(&MONTHS, month - 1).unwrap_or_default());
    let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs() / 60);
    format!(
        "{weekday}, {day_of_month} {month} {year} {:02}:{:02}:{:02} {sign}{:02}{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60,
        minutes / 60,
        minutes % 60
    )
}

/// Year, month and day of a day counted from 1970: years are taken to begin in March, so that the odd day is the last.
fn civil(day: i64) -> (i64, i64, i64) {
    const DAYS_IN_400_YEARS: i64 = 146_097;
    let since_march_of_0 = day + 719_468;
    let (era, day) = (since_march_of_0.div_euclid(DAYS_IN_400_YEARS), since_march_of_0.rem_euclid(DAYS_IN_400_YEARS));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_date_1() {
        for (unix, offset, text) in [
            (0, 0, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (951_782_400, 0, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_700_000_000, 3600, "Tue, 14 Nov 2023 23:13:20 +0100"),
            (1_700_000_000, -12_600, "Tue, 14 Nov 2023 18:43:20 -0330"),
            (4_107_542_399, 0, "Sun, 28 Feb 2100 23:59:59 +0000"),
            (4_107_542_400, 0, "Mon, 1 Mar 2100 00:00:00 +0000"),
            (-5, -3600, "Wed, 31 Dec 1969 23:00:00 -0100"),
        ] {
            assert_eq!(date(unix, offset), text);
        }
        assert!(date(i64::MAX, i64::MAX).contains(" 9999 "));
    }
}
