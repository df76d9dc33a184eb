//! Dates as header fields write them (RFC 5322 section 3.3). Time and offset are given; no clock is read here.

/// The last second that has a year of four digits.
const LAST: i64 = 253_402_300_799;

/// `Sun, 22 Nov 2026 03:19:37 +0000`: a time in seconds since 1970 as a clock shows it that is `offset` seconds east
/// of UTC. A time before 1970 or after the year 9999 is written as the nearest that is neither.
pub fn date(unix_time: i64, offset: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // The field knows minutes only, so seconds of an odd offset (old local mean times) are dropped.
    let offset = offset.clamp(-86_340, 86_340) / 60 * 60;
    let shown = unix_time.clamp(0, LAST).saturating_add(offset).clamp(0, LAST);
    let (days, seconds) = (shown / 86_400, shown % 86_400);
    let (year, month, day) = civil(days);
    let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[month]);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let (sign, east) = (if offset < 0 { '-' } else { '+' }, offset.abs());
    let (zone_hours, zone_minutes) = (east / 3600, east / 60 % 60);
    format!("{weekday}, {day} {month} {year} {hour:02}:{minute:02}:{second:02} {sign}{zone_hours:02}{zone_minutes:02}")
}

/// `Sun Nov 22 03:19:37 2026`, in UTC, as asctime(3) writes it and the separators of mailboxes have it.
pub fn asctime(unix_time: i64) -> String {
    let text = date(unix_time, 0);
    let words: Vec<&str> = text.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    match words[..] {
        [weekday, day, month, year, time, _] => format!("{weekday} {month} {day:>2} {time} {year}"),
        _ => text,
    }
}

/// Year, month from 0 and day from 1 of a number of days since 1970, by counting whole years and months off.
fn civil(mut days: i64) -> (i64, usize, i64) {
    // 400 years are always as long: the Gregorian calendar repeats.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= length_of_year(year) {
        days -= length_of_year(year);
        year += 1;
    }
    let mut month = 0;
    let february = length_of_year(year) - 337;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

fn length_of_year(year: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if leap { 366 } else { 365 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates() {
        for (time, offset, text) in [
            (0, 0, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (951_782_400, 0, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (951_868_800, 0, "Wed, 1 Mar 2000 00:00:00 +0000"),
            (1_795_317_577, 0, "Sun, 22 Nov 2026 03:19:37 +0000"),
            (1_795_317_577, 3600, "Sun, 22 Nov 2026 04:19:37 +0100"),
            (1_795_317_577, -16_200, "Sat, 21 Nov 2026 22:49:37 -0430"),
            (1_798_761_599, 19_800, "Fri, 1 Jan 2027 05:29:59 +0530"),
            (4_107_542_399, 0, "Sun, 28 Feb 2100 23:59:59 +0000"),
            (4_107_542_400, 0, "Mon, 1 Mar 2100 00:00:00 +0000"),
            (2_147_483_648, 0, "Tue, 19 Jan 2038 03:14:08 +0000"),
            (LAST, 0, "Fri, 31 Dec 9999 23:59:59 +0000"),
        ] {
            assert_eq!(date(time, offset), text);
        }
    }

    proptest! {
        #[test]
        fn any_time_is_a_date(time: i64, offset: i64) {
            let text = date(time, offset);
            prop_assert!((30..=31).contains(&text.len()), "{}", text);
        }

        #[test]
        fn each_day_is_followed_by_the_next(day in 0..LAST / 86_400 - 1) {
            let (today, tomorrow) = (civil(day), civil(day + 1));
            let (year, month, first) = (tomorrow.0, tomorrow.1, tomorrow.2);
            if first > 1 {
                prop_assert_eq!(today, (year, month, first - 1));
            } else if month > 0 {
                prop_assert!(today.0 == year && today.1 == month - 1 && today.2 >= 28);
            } else {
                prop_assert_eq!(today, (year - 1, 11, 31));
            }
        }
    }
}
