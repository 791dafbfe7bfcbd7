//! Schedules as Kubernetes reads them: five fields or a descriptor, in a time zone. What more a cron
//! library takes (seconds, years, `L`, `W`, `#`) an API server refuses, and so it is refused here.
//!
//! Where the clocks change, this does what the CronJob controller does (robfig/cron): what falls into
//! the hour that is left out is left out, and what falls into the hour that comes twice comes twice.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

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

/// No clock is moved by more than this.
const SHIFT: SignedDuration = SignedDuration::from_hours(3);

/// A schedule that can be followed.
#[derive(Debug, Clone)]
pub struct Timetable {
    cron: Cron,
    zone: TimeZone,
}

/// When a schedule runs next after `now`; or what is wrong with it. No time zone is UTC.
pub fn next(schedule: &str, zone: Option<&str>, now: Timestamp) -> Result<Timestamp, String> {
    Timetable::parse(schedule, zone)?
        .next(now)
        .ok_or_else(|| format!("'{schedule}' never comes"))
}

impl Timetable {
    pub fn parse(schedule: &str, zone: Option<&str>) -> Result<Self, String> {
        let zone = match zone {
            None => TimeZone::UTC,
            // It would mean another one on every machine.
            Some("" | "Local") => {
                return Err("a time zone is named as in 'Europe/Zurich'".to_owned());
            }
            Some(name) => {
                TimeZone::get(name).map_err(|_| format!("there is no time zone '{name}'"))?
            }
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
        if let Some(part) = fields.split_whitespace().find_map(turned) {
            return Err(format!("'{part}' ends before it begins"));
        }
        let days = fields.split_whitespace().last().unwrap_or_default();
        if days.split([',', '-', '/']).any(|day| day == "7") {
            return Err("days of the week are 0 to 6, from Sunday".to_owned());
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(fields).map_err(|error| error.to_string())?;
        Ok(Self { cron, zone })
    }

    /// The first time after `now`; none where it never comes.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let clock = self.zone.to_datetime(now).checked_sub(SHIFT).ok()?;
        let mut reading = self.reading_after(clock)?;
        let mut first: Option<Timestamp> = None;
        loop {
            let times = self.times(reading);
            let later = times.into_iter().flatten().filter(|at| *at > now);
            first = later.chain(first).min();
            // What the clock shows much later is later.
            if let Some(first) = first
                && reading > self.zone.to_datetime(first).checked_add(SHIFT).ok()?
            {
                return Some(first);
            }
            match self.reading_after(reading) {
                Some(next) => reading = next,
                None => return first,
            }
        }
    }

    /// What the clock on the wall shows at the next run, were it never moved.
    fn reading_after(&self, clock: DateTime) -> Option<DateTime> {
        let clock = clock.to_zoned(TimeZone::UTC).ok()?;
        let next = self.cron.find_next_occurrence(&clock, false).ok()?;
        Some(next.datetime())
    }

    /// The times at which the clock shows that: one, none or two.
    fn times(&self, reading: DateTime) -> [Option<Timestamp>; 2] {
        let at = |offset: jiff::tz::Offset| offset.to_timestamp(reading).ok();
        match self.zone.to_ambiguous_timestamp(reading).offset() {
            AmbiguousOffset::Unambiguous { offset } => [at(offset), None],
            AmbiguousOffset::Gap { .. } => [None, None],
            AmbiguousOffset::Fold { before, after } => [at(before), at(after)],
        }
    }
}

/// A range that goes backwards, which a cron library may take for one that goes round.
fn turned(field: &str) -> Option<&str> {
    field.split(',').find(|part| {
        let range = part.split('/').next().unwrap_or_default();
        let numbers = range
            .split_once('-')
            .map(|(from, to)| (from.parse::<u32>(), to.parse::<u32>()));
        matches!(numbers, Some((Ok(from), Ok(to))) if from > to)
    })
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
            ("0 0 * * 7", None),
            ("0 5-3 * * *", None),
        ] {
            assert!(at(schedule, zone).is_err(), "{schedule} {zone:?}");
        }
    }

    /// What robfig/cron, by which the CronJob controller goes, is tested to do (its spec_test.go), in
    /// New York in 2012 and in São Paulo in 2018.
    #[test]
    fn clocks_that_change_do_to_it_what_they_do_in_kubernetes() {
        const NEW_YORK: &str = "America/New_York";
        const SAO_PAULO: &str = "America/Sao_Paulo";
        for (now, zone, schedule, wanted) in [
            // Forward: 02:00 -05 is 03:00 -04.
            (
                "2012-03-11T00:00:00-05",
                NEW_YORK,
                "30 2 11 Mar *",
                "2013-03-11T02:30:00-04",
            ),
            (
                "2012-03-11T00:00:00-05",
                NEW_YORK,
                "0 * * * *",
                "2012-03-11T01:00:00-05",
            ),
            (
                "2012-03-11T01:00:00-05",
                NEW_YORK,
                "0 * * * *",
                "2012-03-11T03:00:00-04",
            ),
            (
                "2012-03-11T03:00:00-04",
                NEW_YORK,
                "0 * * * *",
                "2012-03-11T04:00:00-04",
            ),
            (
                "2012-03-11T00:00:00-05",
                NEW_YORK,
                "0 1 * * *",
                "2012-03-11T01:00:00-05",
            ),
            (
                "2012-03-11T01:00:00-05",
                NEW_YORK,
                "0 1 * * *",
                "2012-03-12T01:00:00-04",
            ),
            (
                "2012-03-11T00:00:00-05",
                NEW_YORK,
                "0 2 * * *",
                "2012-03-12T02:00:00-04",
            ),
            // Back: 02:00 -04 is 01:00 -05.
            (
                "2012-11-04T00:00:00-04",
                NEW_YORK,
                "30 2 04 Nov *",
                "2012-11-04T02:30:00-05",
            ),
            (
                "2012-11-04T01:45:00-04",
                NEW_YORK,
                "30 1 04 Nov *",
                "2012-11-04T01:30:00-05",
            ),
            (
                "2012-11-04T00:00:00-04",
                NEW_YORK,
                "0 * * * *",
                "2012-11-04T01:00:00-04",
            ),
            (
                "2012-11-04T01:00:00-04",
                NEW_YORK,
                "0 * * * *",
                "2012-11-04T01:00:00-05",
            ),
            (
                "2012-11-04T01:00:00-05",
                NEW_YORK,
                "0 * * * *",
                "2012-11-04T02:00:00-05",
            ),
            (
                "2012-11-04T00:00:00-04",
                NEW_YORK,
                "0 1 * * *",
                "2012-11-04T01:00:00-04",
            ),
            (
                "2012-11-04T01:00:00-04",
                NEW_YORK,
                "0 1 * * *",
                "2012-11-04T01:00:00-05",
            ),
            (
                "2012-11-04T01:00:00-05",
                NEW_YORK,
                "0 1 * * *",
                "2012-11-05T01:00:00-05",
            ),
            (
                "2012-11-04T00:00:00-04",
                NEW_YORK,
                "0 2 * * *",
                "2012-11-04T02:00:00-05",
            ),
            (
                "2012-11-04T02:00:00-05",
                NEW_YORK,
                "0 2 * * *",
                "2012-11-05T02:00:00-05",
            ),
            (
                "2012-11-04T00:00:00-04",
                NEW_YORK,
                "0 3 * * *",
                "2012-11-04T03:00:00-05",
            ),
            // A midnight that there is not: 00:00 -03 is 01:00 -02.
            (
                "2018-11-03T12:00:00-03",
                SAO_PAULO,
                "0 0 * * *",
                "2018-11-05T00:00:00-02",
            ),
            (
                "2018-10-17T05:00:00-03",
                SAO_PAULO,
                "0 9 10 * *",
                "2018-11-10T09:00:00-02",
            ),
            (
                "2018-02-14T05:00:00-02",
                SAO_PAULO,
                "0 9 22 * *",
                "2018-02-22T09:00:00-03",
            ),
        ] {
            let [now, wanted]: [Timestamp; 2] = [now, wanted].map(|own| own.parse().unwrap());
            let found = next(schedule, Some(zone), now);
            assert_eq!(found, Ok(wanted), "{schedule} in {zone} after {now}");
        }
    }

    /// Following a timetable meets every minute of the clock that fits, and no other.
    #[test]
    fn a_timetable_leaves_nothing_out() {
        let zone = TimeZone::get("Europe/Zurich").unwrap();
        for begun in ["2026-03-28T20:00:00Z", "2026-10-24T20:00:00Z"] {
            let begun: Timestamp = begun.parse().unwrap();
            let end = begun + SignedDuration::from_hours(12);
            let table = Timetable::parse("*/20 1-3 * * *", Some("Europe/Zurich")).unwrap();
            let followed: Vec<Timestamp> =
                std::iter::successors(table.next(begun), |at| table.next(*at))
                    .take_while(|at| *at <= end)
                    .collect();
            let minutes = (1..=12 * 60).map(|minute| begun + SignedDuration::from_mins(minute));
            let fits = |at: &Timestamp| {
                let clock = zone.to_datetime(*at);
                (1..=3).contains(&clock.hour()) && clock.minute() % 20 == 0
            };
            let wanted: Vec<Timestamp> = minutes.filter(fits).collect();
            assert_eq!(followed, wanted);
        }
    }
}
