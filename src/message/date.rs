//! Dates in header fields (RFC 5322 §3.3).

use std::time::{SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Formats a time as in a `Date` header (RFC 5322 §3.3), in UTC. Returns `None` if the year is not between 1900 and
/// 9999.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
///
/// use postino::message::date_time;
///
/// let time = UNIX_EPOCH + Duration::from_secs(951_782_400);
/// assert_eq!(date_time(time).as_deref(), Some("Tue, 29 Feb 2000 00:00:00 +0000"));
/// ```
#[must_use]
pub fn date_time(time: SystemTime) -> Option<String> {
    local_date_time(time, 0)
}

/// Formats a time as in a `Date` header, in a time zone that is this number of minutes east of UTC. Returns `None` if
/// the year is not between 1900 and 9999, or if the offset is a day or more.
pub(super) fn local_date_time(time: SystemTime, minutes_east: i32) -> Option<String> {
    if minutes_east.unsigned_abs() >= 24 * 60 {
        return None;
    }
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs() as i64,
        // The earliest time is 2^63 s before the epoch. Fractions of a second are rounded down, as they are after it.
        Err(before) => {
            let before = before.duration();
            0_i64.wrapping_sub_unsigned(before.as_secs()).saturating_sub((before.subsec_nanos() > 0).into())
        }
    };
    let seconds = seconds.saturating_add(i64::from(minutes_east) * 60);
    let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, day) = civil(days);
    if !(1900..=9999).contains(&year) {
        return None;
    }
    let weekday = WEEKDAYS[days.rem_euclid(7) as usize];
    let month = MONTHS[month - 1];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let sign = if minutes_east < 0 { '-' } else { '+' };
    let (hours, minutes) = (minutes_east.unsigned_abs() / 60, minutes_east.abs() % 60);
    Some(format!(
        "{weekday}, {day} {month} {year} {hour:02}:{minute:02}:{second:02} {sign}{hours:02}{minutes:02}"
    ))
}

/// Whether the year, which follows the month in a date-time, is from 1900 to 9999. The text may be invalid.
pub(super) fn has_known_year(text: &str) -> bool {
    let is_month = |word: &&str| MONTHS.iter().any(|month| month.eq_ignore_ascii_case(word));
    let mut words =
        text.split(' ').filter(|word| !word.is_empty()).skip_while(|word| !is_month(word)).skip(1);
    // Text without a month is not a date-time: email-format will refuse it.
    words.next().is_none_or(|year| year.parse().is_ok_and(|year: u32| (1900..=9999).contains(&year)))
}

/// Computes year, month and day from the days since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`). Its years begin in March, so that a leap day is the last day of its year.
fn civil(days: i64) -> (i64, usize, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month as usize, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_written_as_an_rfc_5322_date() {
        for (seconds, text) in [
            (0, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (951_868_799, "Tue, 29 Feb 2000 23:59:59 +0000"),
            (951_868_800, "Wed, 1 Mar 2000 00:00:00 +0000"),
            (1_709_210_096, "Thu, 29 Feb 2024 12:34:56 +0000"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 +0000"),
            (4_102_444_800, "Fri, 1 Jan 2100 00:00:00 +0000"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 +0000"),
            (4_107_542_400, "Mon, 1 Mar 2100 00:00:00 +0000"),
        ] {
            assert_eq!(date_time(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap(), text);
        }
        for before in [Duration::from_secs(1), Duration::from_millis(1)] {
            assert_eq!(date_time(UNIX_EPOCH - before).unwrap(), "Wed, 31 Dec 1969 23:59:59 +0000");
        }
    }

    #[test]
    fn a_time_zone_moves_the_clock_and_the_day() {
        let time = UNIX_EPOCH + Duration::from_secs(951_782_400);
        for (minutes, text) in [
            (60, "Tue, 29 Feb 2000 01:00:00 +0100"),
            (-1, "Mon, 28 Feb 2000 23:59:00 -0001"),
            (330, "Tue, 29 Feb 2000 05:30:00 +0530"),
            (-570, "Mon, 28 Feb 2000 14:30:00 -0930"),
            (1439, "Tue, 29 Feb 2000 23:59:00 +2359"),
        ] {
            assert_eq!(local_date_time(time, minutes).as_deref(), Some(text));
        }
        for minutes in [1440, -1440, i32::MAX] {
            assert_eq!(local_date_time(time, minutes), None);
        }
        assert_eq!(
            local_date_time(UNIX_EPOCH - Duration::from_secs(2_208_988_800), -1),
            None,
            "it is 1899 there"
        );
    }

    #[test]
    fn years_outside_1900_to_9999_are_refused() {
        let (first, last) = (Duration::from_secs(2_208_988_800), Duration::from_secs(253_402_300_799));
        assert_eq!(date_time(UNIX_EPOCH - first).unwrap(), "Mon, 1 Jan 1900 00:00:00 +0000");
        // 100 ns is the smallest step of the clock on Windows.
        assert_eq!(date_time(UNIX_EPOCH - first - Duration::from_nanos(100)), None);
        assert_eq!(date_time(UNIX_EPOCH + last).unwrap(), "Fri, 31 Dec 9999 23:59:59 +0000");
        assert_eq!(date_time(UNIX_EPOCH + last + Duration::from_secs(1)), None);
    }

    #[test]
    fn years_in_text_are_checked() {
        for (text, is_known) in [
            ("Mon, 1 Jan 1900 00:00:00 +0000", true),
            ("31 dec  9999 23:59 +0000 (at last)", true),
            ("Sun, 31 Dec 1899 23:59:59 +0000", false),
            ("1 Jan 10000 00:00:00 +0000", false),
            ("1 Jan 24 00:00:00 +0000", false),
            ("1 Jan (of) 2024 00:00:00 +0000", false),
            ("yesterday", true),
        ] {
            assert_eq!(has_known_year(text), is_known, "{text}");
        }
    }

    #[test]
    fn the_earliest_possible_time_does_not_panic() {
        if let Some(earliest) = UNIX_EPOCH.checked_sub(Duration::from_secs(1 << 63)) {
            assert_eq!(date_time(earliest), None);
        }
    }
}
