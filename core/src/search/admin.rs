//! What administrators see and do of an index, whatever engine holds it.

use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Value, json};
use thiserror::Error;

use super::SearchError;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AdminError {
    #[error(transparent)]
    Search(#[from] SearchError),
    /// This engine has no such thing.
    #[error("{0}")]
    Unsupported(&'static str),
    #[error("{0}")]
    NotFound(String),
}

/// How the index that answers stands to the mapping that the schemas make.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexStanding {
    pub alias: String,
    /// What is behind the alias; absent: nothing is, and it has to be built from the store.
    pub live: Option<String>,
    /// The index that is being filled beside it.
    pub building: Option<String>,
    /// From the live mapping to the wanted one, as a JSON Patch (RFC 6902).
    pub differences: Vec<Value>,
}

/// An index of the instance, as the engine tells it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IndexSettings {
    pub name: String,
    pub settings: Value,
    #[serde(skip)]
    pub live: bool,
}

#[async_trait]
pub trait IndexAdmin: Send + Sync {
    async fn standing(&self) -> Result<IndexStanding, AdminError>;

    /// The mapping that the schemas make.
    fn wanted_mapping(&self) -> Value;

    /// The mapping of the index that answers.
    async fn live_mapping(&self) -> Result<Option<Value>, AdminError>;

    /// Adds what the live index lacks. To be called where `differences` only adds.
    async fn add_fields(&self) -> Result<(), AdminError>;

    /// Every index of the instance, newest first.
    async fn indices(&self) -> Result<Vec<IndexSettings>, AdminError>;

    /// Deletes former indices but for the newest `keep`; returns their names.
    async fn delete_inactive(&self, keep: usize) -> Result<Vec<String>, AdminError>;

    /// Snapshots in a repository, as the engine tells them.
    async fn snapshots(&self, _repository: &str) -> Result<Vec<Value>, AdminError> {
        Err(NO_SNAPSHOTS)
    }

    /// Takes a snapshot of the live index and waits for its end; repeating it is harmless.
    async fn take_snapshot(&self, _repository: &str, _name: &str) -> Result<Value, AdminError> {
        Err(NO_SNAPSHOTS)
    }

    async fn delete_snapshot(&self, _repository: &str, _name: &str) -> Result<Value, AdminError> {
        Err(NO_SNAPSHOTS)
    }
}

const NO_SNAPSHOTS: AdminError = AdminError::Unsupported(
    "this engine takes no snapshots: its index is made again from the storage",
);

/// The operations that turn `from` into `to` (RFC 6902): whole members, objects member by member.
pub fn differences(from: &Value, to: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    compare("", from, to, &mut operations);
    operations
}

fn compare(path: &str, from: &Value, to: &Value, operations: &mut Vec<Value>) {
    let (Value::Object(old), Value::Object(new)) = (from, to) else {
        if from != to {
            operations.push(json!({"op": "replace", "path": path, "value": to}));
        }
        return;
    };
    let below = |name: &str| format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        operations.push(json!({"op": "remove", "path": below(name)}));
    }
    for (name, value) in new {
        match old.get(name) {
            Some(known) => compare(&below(name), known, value, operations),
            None => operations.push(json!({"op": "add", "path": below(name), "value": value})),
        }
    }
}

/// Whether a patch only adds: then it can be done in place.
pub fn only_adds(operations: &[Value]) -> bool {
    operations.iter().all(|operation| operation["op"] == "add")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_whole_members_and_nothing_where_there_are_none() {
        let old =
            json!({"properties": {"a": {"type": "keyword"}, "b/c": {"type": "long"}, "d": 1}});
        let new = json!({"properties": {"a": {"type": "text", "copy_to": "all"}, "d": 1, "e": {}}});
        let found = differences(&old, &new);
        assert_eq!(
            found,
            [
                json!({"op": "remove", "path": "/properties/b~1c"}),
                json!({"op": "replace", "path": "/properties/a/type", "value": "text"}),
                json!({"op": "add", "path": "/properties/a/copy_to", "value": "all"}),
                json!({"op": "add", "path": "/properties/e", "value": {}}),
            ]
        );
        assert!(!only_adds(&found) && only_adds(&found[2..]) && only_adds(&[]));
        assert_eq!(differences(&new, &new), Vec::<Value>::new());
    }
}
