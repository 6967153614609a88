//! HTTP dates (RFC 9110, section 5.6.7) for any time, however wrong the machine's clock is.
//!
//! The web server's crate writes the header `Date` with the crate `httpdate`, which panics at a time before 1970 or
//! after 9999. A node must not end because its clock is wrong, and no code between the two can prevent the panic,
//! so the workspace replaces that crate with this one (`[patch.crates-io]`). It has that crate's interface and none
//! of its code. A time out of range becomes the nearest date that the format can express.

use std::{
    cmp::Ordering,
    error, fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const DAY_S: u64 = 24 * 60 * 60;
/// The last second of the year 9999, in seconds since 1970.
const SECONDS_MAX: u64 = 253_402_300_799;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: u64 = 719_468;
/// Days in 400 years.
const ERA_DAYS: u64 = 146_097;
/// Names of the weekdays, from that of 1970-01-01 on.
const WEEKDAYS: [(&str, &str); 7] = [
    ("Thu", "Thursday"),
    ("Fri", "Friday"),
    ("Sat", "Saturday"),
    ("Sun", "Sunday"),
    ("Mon", "Monday"),
    ("Tue", "Tuesday"),
    ("Wed", "Wednesday"),
];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// A time that an HTTP date can express: whole seconds of the years 1970 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HttpDate {
    seconds: u64,
}

/// Error for a text that is not an HTTP date.
#[derive(Debug)]
pub struct Error(());

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an HTTP date")
    }
}

impl error::Error for Error {}

/// Parses a date in any of the three HTTP formats.
///
/// # Errors
///
/// [`Error`] when the text has none of these formats or names a day that the calendar does not have.
pub fn parse_http_date(text: &str) -> Result<SystemTime, Error> {
    text.parse::<HttpDate>().map(SystemTime::from)
}

/// Formats a time in the format that HTTP prefers (IMF-fixdate).
#[must_use]
pub fn fmt_http_date(time: SystemTime) -> String {
    HttpDate::from(time).to_string()
}

impl From<SystemTime> for HttpDate {
    /// Converts a time to its date, or to the nearest one in range.
    fn from(time: SystemTime) -> HttpDate {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        HttpDate {
            seconds: since.as_secs().min(SECONDS_MAX),
        }
    }
}

impl From<HttpDate> for SystemTime {
    fn from(date: HttpDate) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(date.seconds)
    }
}

impl Ord for HttpDate {
    fn cmp(&self, other: &HttpDate) -> Ordering {
        self.seconds.cmp(&other.seconds)
    }
}

impl PartialOrd for HttpDate {
    fn partial_cmp(&self, other: &HttpDate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for HttpDate {
    /// Writes 29 characters, such as `Sun, 06 Nov 1994 08:49:37 GMT`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.seconds / DAY_S, self.seconds % DAY_S);
        let (year, month, day) = date_of(days);
        let (weekday, _) = WEEKDAYS[(days % 7) as usize];
        let text = format!(
            "{weekday}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
            MONTHS[(month - 1) as usize],
            second / 3600,
            second / 60 % 60,
            second % 60
        );
        f.write_str(&text)
    }
}

impl FromStr for HttpDate {
    type Err = Error;

    fn from_str(text: &str) -> Result<HttpDate, Error> {
        parse(text).ok_or(Error(()))
    }
}

fn parse(text: &str) -> Option<HttpDate> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (weekday, day, month, year, time) = match words[..] {
        // IMF-fixdate: Sun, 06 Nov 1994 08:49:37 GMT
        [weekday, day, month, year, time, "GMT"] => {
            let weekday = WEEKDAYS
                .iter()
                .position(|(short, _)| weekday.strip_suffix(',') == Some(short))?;
            (
                weekday,
                number(day, 2)?,
                month_of(month)?,
                number(year, 4)?,
                time,
            )
        }
        // RFC 850: Sunday, 06-Nov-94 08:49:37 GMT
        [weekday, date, time, "GMT"] => {
            let weekday = WEEKDAYS
                .iter()
                .position(|(_, long)| weekday.strip_suffix(',') == Some(long))?;
            let (day, rest) = date.split_once('-')?;
            let (month, year) = rest.split_once('-')?;
            let year = number(year, 2)?;
            let century = if year < 70 { 2000 } else { 1900 };
            (
                weekday,
                number(day, 2)?,
                month_of(month)?,
                century + year,
                time,
            )
        }
        // asctime: Sun Nov  6 08:49:37 1994
        [weekday, month, day, time, year] => {
            let weekday = WEEKDAYS.iter().position(|(short, _)| *short == weekday)?;
            (
                weekday,
                number(day, day.len().min(2))?,
                month_of(month)?,
                number(year, 4)?,
                time,
            )
        }
        _ => return None,
    };
    let time: Vec<u64> = time
        .split(':')
        .map(|part| number(part, 2))
        .collect::<Option<_>>()?;
    let [hour, minute, second] = time[..] else {
        return None;
    };
    if hour > 23 || minute > 59 || second > 59 || year < 1970 {
        return None;
    }
    let days = days_of(year, month, day)?;
    // Refuses a day that the month does not have, and a weekday that does not match the date.
    let is_right = date_of(days) == (year, month, day) && days % 7 == weekday as u64;
    is_right.then_some(HttpDate {
        seconds: days * DAY_S + hour * 3600 + minute * 60 + second,
    })
}

fn number(text: &str, digits: usize) -> Option<u64> {
    let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

fn month_of(name: &str) -> Option<u64> {
    let at = MONTHS.iter().position(|month| *month == name)?;
    Some(at as u64 + 1)
}

/// Year, month and day of month of a day counted from 1970-01-01. Internally a year begins in March, so that the
/// leap day is its last day.
fn date_of(days: u64) -> (u64, u64, u64) {
    let days = days + EPOCH_DAYS;
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12 + 1;
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Day number, counted from 1970-01-01, of a date in 1970 or later.
fn days_of(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * ERA_DAYS + day_of_era).checked_sub(EPOCH_DAYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn dates_are_formatted_and_parsed() {
        let table = [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (SECONDS_MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ];
        for (seconds, text) in table {
            assert_eq!(fmt_http_date(at(seconds)), text);
            assert_eq!(parse_http_date(text).expect(text), at(seconds));
        }
        for day in (0..=SECONDS_MAX / DAY_S).step_by(13) {
            let text = fmt_http_date(at(day * DAY_S));
            assert_eq!(
                parse_http_date(&text).expect("its own text"),
                at(day * DAY_S)
            );
        }
    }

    #[test]
    fn a_time_out_of_range_becomes_the_nearest_date() {
        let before = [1, 86_400, 62_135_596_800, i64::MAX as u64];
        for seconds in before {
            let time = UNIX_EPOCH.checked_sub(Duration::from_secs(seconds));
            let text = fmt_http_date(time.expect("a time of the system"));
            assert_eq!(text, "Thu, 01 Jan 1970 00:00:00 GMT", "{seconds}");
        }
        for seconds in [SECONDS_MAX + 1, 1 << 40, i64::MAX as u64] {
            let text = fmt_http_date(at(seconds));
            assert_eq!(text, "Fri, 31 Dec 9999 23:59:59 GMT", "{seconds}");
        }
    }

    #[test]
    fn the_obsolete_formats_are_parsed_and_invalid_dates_are_refused() {
        for text in ["Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse_http_date(text).expect(text), at(784_111_777));
        }
        let nonsense = [
            "",
            "Sun, 06 Nov 1994 08:49:37",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 0000 08:49:37 GMT",
            "Sun, 06 Abc 1994 08:49:37 GMT",
            "Sun, +6 Nov 1994 08:49:37 GMT",
        ];
        for text in nonsense {
            assert!(parse_http_date(text).is_err(), "{text}");
        }
    }
}
