//! Corrections of metadata that curators leave beside it, in the compact syntax of the Python package
//! `jsondiff` (CONTRACT section 2.1).
//!
//! An object is applied member by member: `$delete` names members or positions that go, `$insert` holds
//! pairs of a position and a value, `$replace` takes the place of everything; a member of another name,
//! or a number for a list, is corrected in turn. Anything but an object takes the place of the value.

use serde_json::{Map, Value};
use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the correction does not fit at '{path}': {problem}")]
pub struct DiffError {
    /// Where, as a JSON Pointer.
    pub path: String,
    pub problem: &'static str,
}

/// Applies a correction.
pub fn patch(value: Value, diff: &Value) -> Result<Value, DiffError> {
    apply(value, diff, "")
}

fn apply(value: Value, diff: &Value, path: &str) -> Result<Value, DiffError> {
    let Value::Object(changes) = diff else {
        return Ok(diff.clone());
    };
    if let Some(whole) = changes.get("$replace") {
        return Ok(whole.clone());
    }
    match value {
        value if changes.is_empty() => Ok(value),
        Value::Object(members) => object(members, changes, path).map(Value::Object),
        Value::Array(items) => list(items, changes, path).map(Value::Array),
        // What was neither becomes what is said.
        _ => Ok(diff.clone()),
    }
}

fn refuse(path: &str, problem: &'static str) -> DiffError {
    DiffError {
        path: path.to_owned(),
        problem,
    }
}

fn object(
    mut members: Map<String, Value>,
    changes: &Map<String, Value>,
    path: &str,
) -> Result<Map<String, Value>, DiffError> {
    for (name, change) in changes {
        if name == "$delete" {
            let names = change
                .as_array()
                .ok_or_else(|| refuse(path, "$delete is no list"))?;
            for name in names {
                let name = name
                    .as_str()
                    .ok_or_else(|| refuse(path, "$delete names what is no member"))?;
                members.shift_remove(name);
            }
            continue;
        }
        // A name of its own that begins so is written with two.
        let name = name
            .strip_prefix('$')
            .filter(|own| own.starts_with('$'))
            .unwrap_or(name);
        let corrected = match members.get_mut(name) {
            Some(known) => apply(known.take(), change, &format!("{path}/{name}"))?,
            None => change.clone(),
        };
        members.insert(name.to_owned(), corrected);
    }
    Ok(members)
}

fn list(
    mut items: Vec<Value>,
    changes: &Map<String, Value>,
    path: &str,
) -> Result<Vec<Value>, DiffError> {
    let position = |value: &Value| {
        let number = value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| refuse(path, "a position is no number"))
    };
    for place in changes
        .get("$delete")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let place = position(place)?;
        if place >= items.len() {
            return Err(refuse(path, "$delete names a position that is not there"));
        }
        items.remove(place);
    }
    for pair in changes
        .get("$insert")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let [place, value] = pair.as_array().map_or(&[][..], Vec::as_slice) else {
            return Err(refuse(path, "$insert holds what is no pair"));
        };
        // Beyond the end is the end, as in Python.
        let place = position(place)?.min(items.len());
        items.insert(place, value.clone());
    }
    for (name, change) in changes {
        if matches!(&**name, "$delete" | "$insert") {
            continue;
        }
        let place: usize = name
            .parse()
            .map_err(|_| refuse(path, "a position is no number"))?;
        let item = items
            .get_mut(place)
            .ok_or_else(|| refuse(path, "a position is not there"))?;
        *item = apply(item.take(), change, &format!("{path}/{name}"))?;
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn corrections_do_what_the_python_package_does() {
        for (value, diff, wanted) in [
            (
                json!({"a": 1, "b": 2}),
                json!({"b": 3, "c": 4, "$delete": ["a"]}),
                json!({"b": 3, "c": 4}),
            ),
            (
                json!({"a": {"b": [1, 2, 3]}}),
                json!({"a": {"b": {"1": 5, "$insert": [[0, 0]], "$delete": [2]}}}),
                json!({"a": {"b": [0, 5, 2]}}),
            ),
            (
                json!({"a": {"b": 1}}),
                json!({"a": {"$replace": {"c": 2}}}),
                json!({"a": {"c": 2}}),
            ),
            (json!({"a": 1}), json!({}), json!({"a": 1})),
            (
                json!({"a": 1}),
                json!({"a": {"b": 2}}),
                json!({"a": {"b": 2}}),
            ),
            (json!({"$x": 1}), json!({"$$x": 2}), json!({"$x": 2})),
            (
                json!([1, 2]),
                json!({"$insert": [[9, 3]]}),
                json!([1, 2, 3]),
            ),
            (json!({"a": 1}), json!([1]), json!([1])),
        ] {
            assert_eq!(patch(value, &diff), Ok(wanted), "{diff}");
        }
    }

    #[test]
    fn what_does_not_fit_says_where() {
        for (value, diff, path) in [
            (json!({"a": [1]}), json!({"a": {"5": 1}}), "/a"),
            (json!({"a": [1]}), json!({"a": {"$delete": [1]}}), "/a"),
            (json!({"a": [1]}), json!({"a": {"x": 1}}), "/a"),
            (json!({"a": [1]}), json!({"a": {"$insert": [1]}}), "/a"),
            (json!({"a": 1}), json!({"$delete": "a"}), ""),
        ] {
            assert_eq!(patch(value, &diff).unwrap_err().path, path, "{diff}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i8>().prop_map(Value::from),
            "[a$]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c0-2]|\\$delete|\\$insert|\\$replace", inner, 0..4)
                    .prop_map(|own| Value::Object(own.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_panics(value in any_json(), diff in any_json()) {
            let _ = patch(value, &diff);
        }
    }
}
