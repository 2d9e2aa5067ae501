//! Days and the proleptic Gregorian calendar, which PostgreSQL uses for all times.
//!
//! After Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March, so that the day a leap
//! year adds is its last one, and 400 years are always 146,097 days.

const DAYS_OF_400_YEARS: i64 = 146_097;
/// From 0000-03-01 to 1970-01-01.
const DAYS_TO_1970: i64 = 719_468;

/// Days since 1970-01-01 of a date. The day is not checked against the month.
pub(super) fn days(year: i64, month: u8, day: u8) -> i64 {
    let (month, day) = (i64::from(month), i64::from(day));
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_OF_400_YEARS + day_of_era - DAYS_TO_1970
}

/// Year, month and day of a count of days since 1970-01-01.
pub(super) fn date(days: i64) -> (i64, u8, u8) {
    let days = days + DAYS_TO_1970;
    let era = days.div_euclid(DAYS_OF_400_YEARS);
    let day_of_era = days.rem_euclid(DAYS_OF_400_YEARS);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month as u8, day as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_days_agree() {
        for (year, month, day, count) in [
            (1970, 1, 1, 0),
            (2000, 1, 1, 10_957),
            (2000, 2, 29, 11_016),
            (1969, 12, 31, -1),
            (0, 3, 1, -DAYS_TO_1970),
            (-4712, 1, 1, -2_440_550),
        ] {
            assert_eq!(days(year, month, day), count, "{year}-{month}-{day}");
            assert_eq!(date(count), (year, month, day), "{count}");
        }
        // Every day of 800 years, one after the other.
        let (mut before, first) = (date(-300_000), -300_000);
        for count in first..first + 2 * DAYS_OF_400_YEARS {
            let (year, month, day) = date(count);
            assert_eq!(days(year, month, day), count);
            assert!(
                (year, month, day) >= before,
                "{before:?} is followed by {year}-{month}-{day}"
            );
            before = (year, month, day);
        }
    }
}
