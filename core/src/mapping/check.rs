//! Documents held to a mapping, as a strict index would take or refuse them.

use serde_json::{Map, Value};

use super::{Dynamic, Field, ObjectField, Scalar, join};
use crate::timestamp::parse_date;

/// Appends what does not fit, until `limit` problems are found.
pub(super) fn object(
    object: &ObjectField,
    document: &Map<String, Value>,
    path: &str,
    problems: &mut Vec<String>,
    limit: usize,
) {
    for (name, value) in document {
        if problems.len() >= limit {
            return;
        }
        let at = join(path, name);
        match object.fields.get(name) {
            None if object.dynamic == Dynamic::Strict => {
                problems.push(format!("field '{at}' is in no schema of this instance"));
            }
            None | Some(Field::Opaque) => {}
            Some(field) => member(field, value, &at, problems, limit),
        }
    }
}

fn member(field: &Field, value: &Value, at: &str, problems: &mut Vec<String>, limit: usize) {
    match (field, value) {
        (_, Value::Null) => {}
        (_, Value::Array(items)) => {
            for item in items {
                member(field, item, at, problems, limit);
                if problems.len() >= limit {
                    return;
                }
            }
        }
        (Field::Opaque, _) => {}
        (Field::Object(inner), Value::Object(map)) => {
            object(inner, map, at, problems, limit);
        }
        (Field::Object(_), _) => problems.push(format!("field '{at}' should be an object")),
        (Field::Scalar(scalar), value) => {
            if !fits(scalar.kind, value) {
                problems.push(format!(
                    "field '{at}' should be of type {}",
                    scalar.kind.as_str()
                ));
            }
        }
    }
}

/// Whether Elasticsearch would take `value` for a field of this kind (it coerces numbers in text).
fn fits(kind: Scalar, value: &Value) -> bool {
    match (kind, value) {
        (_, Value::Object(_)) => false,
        (Scalar::Keyword | Scalar::Text, _) => true,
        (Scalar::Boolean, Value::Bool(_)) => true,
        (Scalar::Boolean, Value::String(text)) => matches!(text.as_str(), "true" | "false" | ""),
        (Scalar::Date, Value::Number(number)) => number.is_i64() || number.is_u64(),
        (Scalar::Date, Value::String(text)) => parse_date(text).is_some(),
        (kind, value) if kind.is_integer() => integer(value).is_some_and(|number| {
            kind.range()
                .is_none_or(|(low, high)| (low..=high).contains(&number))
        }),
        (kind, value) if kind.is_float() => float(value).is_some(),
        _ => false,
    }
}

/// `value` as an integer field stores it: fractions are cut, numbers in text are read.
pub fn integer(value: &Value) -> Option<i64> {
    if let Some(number) = value.as_i64() {
        return Some(number);
    }
    let number = float(value)?;
    (number.abs() < 9.2e18).then_some(number as i64)
}

/// `value` as a floating-point field stores it.
pub fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|number: &f64| number.is_finite())
}
