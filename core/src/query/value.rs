//! Values of ranges as the caller wrote them, read by the type of their field.

use jiff::{SignedDuration, Timestamp};

use crate::id::excerpt;
use crate::timestamp::parse_date;

/// A number, or why the query cannot be made.
pub fn number(text: &str) -> Result<f64, String> {
    text.trim()
        .parse::<f64>()
        .ok()
        .filter(|number| !number.is_nan())
        .ok_or_else(|| {
            format!(
                "failed to create query: '{}' is not a number",
                excerpt(text)
            )
        })
}

/// A date, or `now` with an offset such as `now-2d`: the interval that it names, by its precision.
pub fn date(text: &str, now: Timestamp) -> Result<(Timestamp, Timestamp), String> {
    let fail = || format!("failed to parse date field [{}]", excerpt(text));
    let Some(offset) = text.strip_prefix("now") else {
        return parse_date(text).ok_or_else(fail);
    };
    if offset.is_empty() {
        return Ok((now, now));
    }
    let mut chars = offset.chars();
    let sign = match chars.next() {
        Some('+') => 1,
        Some('-') => -1,
        _ => return Err(fail()),
    };
    let unit = chars.next_back().ok_or_else(fail)?;
    let count: i64 = chars.as_str().parse().map_err(|_| fail())?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' | 'H' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        'M' => 30 * 86_400,
        'y' => 365 * 86_400,
        _ => return Err(fail()),
    };
    let seconds = count.checked_mul(seconds * sign).ok_or_else(fail)?;
    let at = now
        .checked_add(SignedDuration::from_secs(seconds))
        .map_err(|_| fail())?;
    Ok((at, at))
}
