//! A time as text (RFC 3339, in UTC), for every value of the clock.
//!
//! The clock of a machine may show anything, so every `SystemTime` has a text: beyond the years 0 to 9999 with a sign
//! and more digits (ISO 8601, expanded representation).

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

const DAY_MS: i128 = 24 * 60 * 60 * 1000;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i128 = 719_468;
/// Days of 400 years.
const ERA_DAYS: i128 = 146_097;

/// A time, shown to the millisecond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rfc3339(pub(super) SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = match self.0.duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_millis() as i128,
            // Rounded down as after 1970: the millisecond that contains it.
            Err(before) => -(before.duration().as_nanos().div_ceil(1_000_000) as i128),
        };
        let (days, ms) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
        let (year, month, day) = civil(days);
        match year {
            0..=9999 => write!(f, "{year:04}")?,
            _ => write!(f, "{year:+05}")?,
        }
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        write!(
            f,
            "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
            ms % 1000
        )
    }
}

/// Returns the date of a day, counted from 1970. Years begin in March, so that the leap day is a year's last one.
fn civil(days: i128) -> (i128, i128, i128) {
    let days = days + EPOCH_DAYS;
    let (era, day_of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i128::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_time_has_a_text() {
        let table: [(i64, u32, &str); 9] = [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (-1, 999_000_000, "1969-12-31T23:59:59.999Z"),
            (-1, 999_999_999, "1969-12-31T23:59:59.999Z"),
            (951_782_400, 1_999_999, "2000-02-29T00:00:00.001Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59.000Z"),
            (253_402_300_799, 999_999_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800, 0, "+10000-01-01T00:00:00.000Z"),
            (-62_167_219_200, 0, "0000-01-01T00:00:00.000Z"),
            (-62_167_219_201, 0, "-0001-12-31T23:59:59.000Z"),
        ];
        for (seconds, nanos, expected) in table {
            let whole = Duration::from_secs(seconds.unsigned_abs());
            let time = match seconds < 0 {
                true => UNIX_EPOCH - whole,
                false => UNIX_EPOCH + whole,
            };
            let time = time + Duration::from_nanos(u64::from(nanos));
            assert_eq!(Rfc3339(time).to_string(), expected);
        }
        for seconds in [i64::MAX, i64::MIN + 1] {
            let whole = Duration::from_secs(seconds.unsigned_abs());
            let time = match seconds < 0 {
                true => UNIX_EPOCH.checked_sub(whole),
                false => UNIX_EPOCH.checked_add(whole),
            };
            let text = Rfc3339(time.expect("a time of the system")).to_string();
            assert!(text.contains("292277"), "{text}");
        }
    }
}
