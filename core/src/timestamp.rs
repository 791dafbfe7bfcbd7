//! Points in time: RFC 3339 text, and the relative expressions that upload requests use.
//!
//! Pure: `now` is always an argument.

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

/// RFC 3339 in UTC with milliseconds and an explicit offset, as documents carry it.
pub fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string()
}

const UNITS: [(&str, i64); 8] = [
    ("second", 1),
    ("sec", 1),
    ("minute", 60),
    ("min", 60),
    ("hour", 3_600),
    ("day", 86_400),
    ("week", 604_800),
    ("month", 30 * 86_400),
];
const YEAR: i64 = 365 * 86_400;

/// Parses a period such as `30m`, `12h`, `14d` or `2w`; `None` when it is none, or is negative.
pub fn parse_period(text: &str) -> Option<SignedDuration> {
    let at = text.len().checked_sub(1)?;
    let (count, unit) = text.split_at_checked(at)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    let count: u32 = count.parse().ok()?;
    Some(SignedDuration::from_secs(i64::from(count) * seconds))
}

/// Parses `in 2 days`, `3 hours`, a number of seconds, or an absolute date (CONTRACT section 4.1;
/// a month is 30 days, a year 365). `None` when it is none of these or out of range.
pub fn parse_moment(text: &str, now: Timestamp) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<i64>() {
        return now.checked_add(SignedDuration::from_secs(seconds)).ok();
    }
    let lower = text.to_ascii_lowercase();
    let relative = lower.strip_prefix("in ").unwrap_or(&lower).trim();
    if let Some((count, unit)) = relative.split_once(char::is_whitespace) {
        let count: i64 = match count {
            "a" | "an" => 1,
            digits => digits.parse().ok()?,
        };
        let unit = unit.trim();
        let unit = unit.strip_suffix('s').unwrap_or(unit);
        let seconds = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, seconds)| *seconds)
            .or((unit == "year").then_some(YEAR));
        if let Some(seconds) = seconds {
            let delta = SignedDuration::from_secs(count.checked_mul(seconds)?);
            return now.checked_add(delta).ok();
        }
    }
    parse_date(text).map(|(start, _)| start)
}

/// The half-open interval that a date text of any precision names: a day, or an exact moment (then
/// both ends are equal). A year or a month stands for its first day: Elasticsearch fills a missing
/// month and day with the first, and only missing hours by the end that is asked for. Accepts RFC 3339, naive date-times (read as UTC) and epoch
/// milliseconds.
pub fn parse_date(text: &str) -> Option<(Timestamp, Timestamp)> {
    let text = text.trim();
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some((at, at));
    }
    let utc = |at: DateTime| at.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp());
    let parts: Vec<&str> = text.split('-').collect();
    let digits = |part: &str, len: usize| {
        (part.len() == len && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse::<i16>())
    };
    match parts.as_slice() {
        [year] if year.len() == 4 => {
            let year = digits(year, 4)?.ok()?;
            let start = jiff::civil::Date::new(year, 1, 1).ok()?;
            Some((utc(start.into())?, utc(start.tomorrow().ok()?.into())?))
        }
        [millis] => {
            let millis: i64 = millis.parse().ok()?;
            let at = Timestamp::from_millisecond(millis).ok()?;
            Some((at, at))
        }
        [year, month] => {
            let (year, month) = (digits(year, 4)?.ok()?, digits(month, 2)?.ok()?);
            let start = jiff::civil::Date::new(year, i8::try_from(month).ok()?, 1).ok()?;
            Some((utc(start.into())?, utc(start.tomorrow().ok()?.into())?))
        }
        _ => {
            if let Ok(date) = text.parse::<jiff::civil::Date>()
                && text.len() == 10
            {
                let end = date.tomorrow().ok()?;
                return Some((utc(date.into())?, utc(end.into())?));
            }
            let at = utc(text.parse::<DateTime>().ok()?)?;
            Some((at, at))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods() {
        let seconds = |text| parse_period(text).map(|own| own.as_secs());
        for (text, wanted) in [
            ("90s", Some(90)),
            ("12h", Some(43_200)),
            ("14d", Some(1_209_600)),
            ("2w", Some(1_209_600)),
            ("0s", Some(0)),
            ("", None),
            ("d", None),
            ("-1d", None),
            ("1é", None),
            ("99999999999w", None),
        ] {
            assert_eq!(seconds(text), wanted, "{text}");
        }
    }

    #[test]
    fn moments() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let at = |text| parse_moment(text, now).map(|t| t.to_string());
        assert_eq!(at("in 2 days").as_deref(), Some("2026-01-03T00:00:00Z"));
        assert_eq!(at("In 1 Hour").as_deref(), Some("2026-01-01T01:00:00Z"));
        assert_eq!(at("in 1 year").as_deref(), Some("2027-01-01T00:00:00Z"));
        assert_eq!(at("90").as_deref(), Some("2026-01-01T00:01:30Z"));
        assert_eq!(at("2026-02-03").as_deref(), Some("2026-02-03T00:00:00Z"));
        for bad in [
            "",
            "soon",
            "in x days",
            "in 99999999999999999999 days",
            "in 9999999999999 years",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn dates_have_the_width_of_their_precision() {
        let span = |text| parse_date(text).map(|(a, b)| format!("{a} {b}"));
        assert_eq!(
            span("2024-02").as_deref(),
            Some("2024-02-01T00:00:00Z 2024-02-02T00:00:00Z")
        );
        assert_eq!(
            span("2024").as_deref(),
            Some("2024-01-01T00:00:00Z 2024-01-02T00:00:00Z")
        );
        assert_eq!(
            span("2024-02-29T10:00:00+02:00").as_deref(),
            Some("2024-02-29T08:00:00Z 2024-02-29T08:00:00Z")
        );
        assert_eq!(span("penguin"), None);
        assert_eq!(span("2024-13"), None);
    }
}
