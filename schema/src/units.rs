//! Durations and sizes as people write them: `500ms`, `2h`, `64KiB`, `1GB`.
//!
//! Whole numbers only, one unit, so that every value has exactly one reading.

use std::time::Duration;

/// Ten years: far beyond any use and far below where adding to a clock overflows.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// `500ms`, `5s`, `1m`, `2h`, `1d`. The error says what is wrong and what to write.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = "a duration is a whole number and a unit, such as 500ms, 5s, 1m, 2h or 1d";
    let (digits, unit) = split_number(text).ok_or(expected)?;
    let milliseconds_per_unit: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err(format!("a duration needs a unit: {digits}s or {digits}ms?")),
        _ => return Err(expected.to_owned()),
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(milliseconds_per_unit))
        .map(Duration::from_millis)
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| "a duration is at most 3650d".to_owned())
}

/// In the largest unit that needs no fraction.
pub(crate) fn show_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let fitting = units
        .into_iter()
        .find(|(_, size)| milliseconds != 0 && milliseconds.is_multiple_of(*size));
    match fitting {
        Some((unit, size)) => format!("{}{unit}", milliseconds / size),
        None if milliseconds == 0 => "0s".to_owned(),
        None => format!("{milliseconds}ms"),
    }
}

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// `64KiB` (1024), `1GB` (1000), plain bytes. The error says what is wrong and what to write.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let expected = "a size is a whole number of bytes or a number and a unit, such as 64KiB, 10MiB or 1GB";
    let (digits, unit) = split_number(text).ok_or(expected)?;
    let bytes_per_unit = match unit {
        "" => 1,
        "kB" => 1_000,
        _ => SIZE_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, bytes)| *bytes)
            .ok_or_else(|| {
                let meant = SIZE_UNITS.iter().find(|(name, _)| {
                    name.eq_ignore_ascii_case(unit) || (name.len() == 3 && name[..1].eq_ignore_ascii_case(unit))
                });
                match meant {
                    Some((meant, _)) => format!("`{unit}` is not a unit of size: {digits}{meant}?"),
                    None => expected.to_owned(),
                }
            })?,
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(bytes_per_unit))
        .filter(|bytes| *bytes <= i64::MAX as u64)
        .ok_or_else(|| "a size is at most 8388607TiB".to_owned())
}

/// In the largest power of 1024 that needs no fraction.
pub(crate) fn show_size(bytes: u64) -> String {
    let fitting = SIZE_UNITS[..4]
        .iter()
        .find(|(_, size)| bytes != 0 && bytes.is_multiple_of(*size));
    match fitting {
        Some((unit, size)) => format!("{}{unit}", bytes / size),
        None => bytes.to_string(),
    }
}

/// `10 MiB` is accepted like `10MiB`.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| (&text[..end], text[end..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, expected: Result<u64, &str>| {
            let got = parse_duration(text).map(|d| u64::try_from(d.as_millis()).unwrap());
            assert_eq!(got, expected.map_err(str::to_owned), "{text}");
        };
        let shape = "a duration is a whole number and a unit, such as 500ms, 5s, 1m, 2h or 1d";
        check("0s", Ok(0));
        check("500ms", Ok(500));
        check("5s", Ok(5_000));
        check("1m", Ok(60_000));
        check("2h", Ok(7_200_000));
        check("1d", Ok(86_400_000));
        check("3650d", Ok(315_360_000_000));
        check("3651d", Err("a duration is at most 3650d"));
        check("99999999999999999999s", Err("a duration is at most 3650d"));
        check("5", Err("a duration needs a unit: 5s or 5ms?"));
        check("1.5s", Err(shape));
        check("-1s", Err(shape));
        check("1m30s", Err(shape));
        check("5 minutes", Err(shape));
        check("5S", Err(shape));
        check("s", Err(shape));
        check("", Err(shape));
    }

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Result<u64, &str>| {
            assert_eq!(parse_size(text), expected.map_err(str::to_owned), "{text}");
        };
        let shape = "a size is a whole number of bytes or a number and a unit, such as 64KiB, 10MiB or 1GB";
        check("0", Ok(0));
        check("4096", Ok(4096));
        check("12B", Ok(12));
        check("64KiB", Ok(65_536));
        check("10MiB", Ok(10_485_760));
        check("1GB", Ok(1_000_000_000));
        check("1kB", Ok(1_000));
        check("2 GiB", Ok(2_147_483_648));
        check("1TiB", Ok(1_099_511_627_776));
        check("10mib", Err("`mib` is not a unit of size: 10MiB?"));
        check("10M", Err("`M` is not a unit of size: 10MiB?"));
        check("10k", Err("`k` is not a unit of size: 10KiB?"));
        check("10gb", Err("`gb` is not a unit of size: 10GB?"));
        check("1.5GiB", Err(shape));
        check("-1", Err(shape));
        check("lots", Err(shape));
        check("99999999TiB", Err("a size is at most 8388607TiB"));
    }

    #[test]
    fn what_is_shown_parses_to_the_same() {
        for text in ["0s", "1ms", "500ms", "1500ms", "90s", "5m", "36h", "7d"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["0", "1", "1000", "64KiB", "1536KiB", "10MiB", "1GiB", "3TiB"] {
            assert_eq!(show_size(parse_size(text).unwrap()), text);
        }
    }
}
