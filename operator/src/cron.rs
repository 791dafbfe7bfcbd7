//! Schedules as Kubernetes reads them: five fields or a descriptor, in a time zone. What more a cron
//! library takes (seconds, years, `L`, `W`, `#`) an API server refuses, and so it is refused here.

use croner::parser::{CronParser, Seconds, Year};
use jiff::{Timestamp, tz::TimeZone};

/// Descriptors that Kubernetes knows (robfig/cron, `ParseStandard`).
const DESCRIPTORS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// When a schedule runs next after `now`; or what is wrong with it. No time zone is UTC.
pub fn next(schedule: &str, zone: Option<&str>, now: Timestamp) -> Result<Timestamp, String> {
    let zone = match zone {
        None => TimeZone::UTC,
        // It would mean another one on every machine.
        Some("" | "Local") => return Err("a time zone is named as in 'Europe/Zurich'".to_owned()),
        Some(name) => TimeZone::get(name).map_err(|_| format!("there is no time zone '{name}'"))?,
    };
    let text = schedule.trim();
    let fields = match text.strip_prefix('@') {
        Some(_) => DESCRIPTORS
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, fields)| *fields)
            .ok_or_else(|| format!("'{text}' is no descriptor such as '@daily'"))?,
        None => text,
    };
    if fields.split_whitespace().count() != 5 {
        return Err(
            "five fields are needed: minute, hour, day of month, month, day of week".to_owned(),
        );
    }
    let letters = fields.split(|c: char| !c.is_ascii_alphabetic());
    let known = |word: &str| word.is_empty() || word.len() == 3;
    if fields.contains(['#', '+']) || !letters.clone().all(known) {
        return Err(format!("'{fields}' has what Kubernetes does not know"));
    }
    let parser = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build();
    let cron = parser.parse(fields).map_err(|error| error.to_string())?;
    let after = cron
        .find_next_occurrence(&now.to_zoned(zone), false)
        .map_err(|_| format!("'{fields}' never comes"))?;
    Ok(after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(schedule: &str, zone: Option<&str>) -> Result<String, String> {
        // A Saturday before the clocks go forward in Europe.
        let now: Timestamp = "2026-03-28T12:30:00Z".parse().unwrap();
        next(schedule, zone, now).map(|next| next.to_string())
    }

    #[test]
    fn schedules_run_when_they_say() {
        for (schedule, zone, wanted) in [
            ("*/15 * * * *", None, "2026-03-28T12:45:00Z"),
            ("0 3 * * *", None, "2026-03-29T03:00:00Z"),
            ("0 3 * * *", Some("Europe/Zurich"), "2026-03-29T01:00:00Z"),
            ("30 4 1,15 * 5", None, "2026-04-01T04:30:00Z"),
            ("0 0 * JAN MON-FRI", None, "2027-01-01T00:00:00Z"),
            ("@hourly", None, "2026-03-28T13:00:00Z"),
        ] {
            assert_eq!(
                at(schedule, zone).as_deref(),
                Ok(wanted),
                "{schedule} {zone:?}"
            );
        }
    }

    #[test]
    fn what_kubernetes_refuses_is_refused() {
        for (schedule, zone) in [
            ("", None),
            ("* * * *", None),
            ("0 * * * * *", None),
            ("60 * * * *", None),
            ("0 0 L * *", None),
            ("0 0 * * 5#2", None),
            ("0 0 15W * *", None),
            ("@sometimes", None),
            ("0 0 31 2 *", None),
            ("0 0 * * *", Some("Europe/Nowhere")),
            ("0 0 * * *", Some("Local")),
        ] {
            assert!(at(schedule, zone).is_err(), "{schedule} {zone:?}");
        }
    }
}
