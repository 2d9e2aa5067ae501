//! Durations, moments, positions and sizes as people write and read them.

use std::time::Duration;

use selvedge_replication::position::Position;
use serde_json::Value;

/// `7d`, `12h`, `30m`, `45s`; a number alone would leave its unit to be guessed.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is not a duration like 7d, 12h, 30m or 45s");
    let unit = text.chars().last().ok_or_else(invalid)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(invalid()),
    };
    let digits = &text[..text.len() - 1];
    let number = digits.parse::<u64>().map_err(|_| invalid())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(invalid)
}

/// Which earlier state is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Milliseconds since 1970.
    At(i64),
    Txid(u64),
}

/// A time in RFC 3339, a duration before now, a transaction's number, or a position, whose transaction it is.
pub(super) fn parse_target(text: &str) -> Result<Target, String> {
    if let Ok(txid) = text.parse() {
        return Ok(Target::Txid(txid));
    }
    if let Ok(position) = text.parse::<Position>() {
        return Ok(Target::Txid(position.txid.0));
    }
    if let Ok(ago) = parse_duration(text) {
        let then = time::OffsetDateTime::now_utc() - ago;
        return Ok(Target::At((then.unix_timestamp_nanos() / 1_000_000) as i64));
    }
    let moment = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
    let moment = moment.map_err(|_| {
        format!("{text:?} is not a time like 2026-05-01T12:00:00Z, a duration before now like 10m, or a transaction's number")
    })?;
    Ok(Target::At((moment.unix_timestamp_nanos() / 1_000_000) as i64))
}

/// Milliseconds since 1970 as RFC 3339, in seconds.
pub(crate) fn moment(ms: i64) -> String {
    let format = time::format_description::well_known::Rfc3339;
    let moment = time::OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000));
    let text = moment.ok().and_then(|moment| moment.format(&format).ok());
    text.unwrap_or_else(|| format!("{ms} ms"))
}

/// A position in its text form.
pub(super) fn position(value: &Value) -> String {
    match serde_json::from_value::<Position>(value.clone()) {
        Ok(position) => position.to_string(),
        Err(_) => "-".to_owned(),
    }
}

pub(crate) fn bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("0s", Some(0)),
            ("45s", Some(45)),
            ("7d", Some(604_800)),
            ("2h", Some(7200)),
        ] {
            assert_eq!(
                parse_duration(text).ok().map(|duration| duration.as_secs()),
                seconds,
                "{text}"
            );
        }
        for text in [
            "",
            "7",
            "d",
            "-1d",
            "7 d",
            "1y",
            "99999999999999999999d",
            "999999999999999999d",
            "7µ",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn targets() {
        for (text, target) in [
            ("42", Some(Target::Txid(42))),
            ("00000001-000000000000002a", Some(Target::Txid(42))),
            ("2023-11-14T22:13:20.123Z", Some(Target::At(1_700_000_000_123))),
            ("2023-11-14T23:13:20+01:00", Some(Target::At(1_700_000_000_000))),
            ("2023-11-14", None),
            ("yesterday", None),
            ("-3", None),
        ] {
            assert_eq!(parse_target(text).ok(), target, "{text}");
        }
        assert!(matches!(parse_target("10m"), Ok(Target::At(_))));
    }

    #[test]
    fn moments() {
        assert_eq!(moment(1_700_000_000_123), "2023-11-14T22:13:20Z");
    }
}
