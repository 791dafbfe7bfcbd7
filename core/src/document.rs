//! A metadata document turned into the document that is indexed (CONTRACT section 7.3), and the
//! form in which it is answered.
//!
//! Pure. Reading the parts from S3 is the indexer's; writing them to an index is the search door's.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::gprn::Gprn;
use crate::id::{ArtifactId, FilePath, Project, Version, revision_name};
use crate::permissions::Permissions;
use crate::timestamp::rfc3339;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DocumentError {
    #[error("'{metapath}' is not JSON: {problem}")]
    NotJson { metapath: String, problem: String },
    #[error("'{0}' is not a JSON object")]
    NotObject(String),
    #[error("'{0}' has no 'path'")]
    NoPath(String),
    #[error("'{metapath}' has a bad 'path': {problem}")]
    BadPath { metapath: String, problem: String },
    #[error("'{metapath}' describes '{path}', which is no file of this version")]
    NoData { metapath: String, path: String },
    #[error("'{metapath}' has a bad '$schema' {value}: expected <type>/<version file>")]
    BadSchema { metapath: String, value: String },
    #[error("'{first}' and '{second}' both describe '{path}'")]
    Duplicate {
        path: String,
        first: String,
        second: String,
    },
    #[error("'{metapath}' holds the reserved field '_extra'")]
    Reserved { metapath: String },
}

/// A metadata document as it was uploaded, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    pub metapath: FilePath,
    pub path: FilePath,
    /// The schema it names, `<type>/<version file>`.
    pub schema: Option<String>,
    /// Always an object.
    pub body: Value,
}

impl Metadata {
    /// Reads the object at `metapath`. It must be a JSON object with a `path` (or legacy `PATH`).
    pub fn parse(metapath: &FilePath, bytes: &[u8]) -> Result<Self, DocumentError> {
        let name = || metapath.to_string();
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| DocumentError::NotJson {
                metapath: name(),
                problem: error.to_string(),
            })?;
        let Value::Object(mut body) = value else {
            return Err(DocumentError::NotObject(name()));
        };
        if body.contains_key("_extra") {
            return Err(DocumentError::Reserved { metapath: name() });
        }
        if !body.contains_key("path")
            && let Some(path) = body.remove("PATH")
        {
            body.insert("path".to_owned(), path);
        }
        let path = match body.get("path") {
            Some(Value::String(path)) => {
                FilePath::new(path.as_str()).map_err(|error| DocumentError::BadPath {
                    metapath: name(),
                    problem: error.to_string(),
                })?
            }
            _ => return Err(DocumentError::NoPath(name())),
        };
        let schema = match body.get("$schema") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if schema_parts(text).is_some() => Some(text.clone()),
            Some(other) => {
                return Err(DocumentError::BadSchema {
                    metapath: name(),
                    value: crate::id::excerpt(&other.to_string()),
                });
            }
        };
        Ok(Self {
            metapath: metapath.clone(),
            path,
            schema,
            body: Value::Object(body),
        })
    }
}

/// `generic_file/v1.json` split into `generic_file` and `v1.json`; exactly one slash.
pub fn schema_parts(text: &str) -> Option<(&str, &str)> {
    text.split_once('/')
        .filter(|(kind, version)| !kind.is_empty() && !version.is_empty() && !version.contains('/'))
}

/// The file that a document describes, as the manifest knows it.
#[derive(Debug, Clone, Copy)]
pub struct DataObject {
    pub size: u64,
    pub uploaded: Timestamp,
}

/// What all documents of one version share.
#[derive(Debug, Clone)]
pub struct VersionContext<'a> {
    pub project: &'a Project,
    pub version: &'a Version,
    pub revision: Option<u64>,
    pub bucket: &'a str,
    pub permissions: Option<&'a Permissions>,
    pub transient: Option<Transient<'a>>,
    /// The instance's own GPRN, when it has one.
    pub gprn: Option<&'a Gprn>,
    pub indexed_at: Timestamp,
    /// What links count as uploaded at: the same whenever they are indexed.
    pub completed_at: Timestamp,
    pub uploader: Option<&'a str>,
}

#[derive(Debug, Clone)]
pub struct Transient<'a> {
    pub expires_in: Timestamp,
    pub expires_job_id: &'a str,
}

/// The indexed form of one document: `_extra` complete, `$schema` in both places.
///
/// `title` is the title of its schema where that is known; `link` is what its file links to.
pub fn indexed(
    metadata: Metadata,
    title: Option<&str>,
    meta_uploaded: Timestamp,
    data: Option<DataObject>,
    link: Option<&ArtifactId>,
    version: &VersionContext<'_>,
) -> Map<String, Value> {
    let id = ArtifactId {
        project: version.project.clone(),
        path: metadata.path.clone(),
        version: version.version.clone(),
    };
    let mut extra = Map::new();
    let mut put = |name: &str, value: Value| {
        extra.insert(name.to_owned(), value);
    };
    put(
        "location",
        json!({"type": "s3", "s3": {"bucket": version.bucket}}),
    );
    put("project_id", json!(version.project));
    put("metapath", json!(metadata.metapath));
    put("version", json!(version.version));
    put("meta_uploaded", json!(rfc3339(meta_uploaded)));
    if let Some(target) = redirection(&metadata, version).or_else(|| link.map(ToString::to_string))
    {
        put("link", json!({"artifactdb": target}));
        put("uploaded", json!(rfc3339(version.completed_at)));
    } else if let Some(data) = data {
        put("uploaded", json!(rfc3339(data.uploaded)));
        put("file_size", json!(data.size));
    }
    if let Some(schema) = &metadata.schema {
        let kind = title.map(str::to_lowercase);
        let fallback = schema_parts(schema).map_or(schema.as_str(), |(kind, _)| kind);
        put("type", json!(kind.as_deref().unwrap_or(fallback)));
    }
    if let Some(transient) = &version.transient {
        put(
            "transient",
            json!({
                "expires_job_id": transient.expires_job_id,
                "expires_in": rfc3339(transient.expires_in),
            }),
        );
    }
    if let Some(number) = version.revision {
        put("revision", json!(revision_name(number)));
        put("numerical_revision", json!(number));
    }
    if let Some(uploader) = version.uploader {
        put("uploader_name", json!(uploader));
    }
    if let Some(permissions) = version.permissions {
        put("permissions", json!(permissions));
    }
    put("id", json!(id));
    if let Some(schema) = &metadata.schema {
        put("$schema", json!(schema));
    }
    put("meta_indexed", json!(rfc3339(version.indexed_at)));
    if let Some(gprn) = version.gprn {
        put("gprn", json!(gprn.artifact(&id).to_string()));
    }
    let mut document = match metadata.body {
        Value::Object(body) => body,
        _ => Map::new(),
    };
    document.insert("_extra".to_owned(), Value::Object(extra));
    document
}

/// The single `local` or `remote` target of a redirection document, of any version of its schema
/// (CONTRACT section 2.5).
fn redirection(metadata: &Metadata, version: &VersionContext<'_>) -> Option<String> {
    let (kind, _) = schema_parts(metadata.schema.as_deref()?)?;
    if kind != "redirection" {
        return None;
    }
    let targets = metadata
        .body
        .get("redirection")?
        .get("targets")?
        .as_array()?;
    let usable: Vec<(&str, &str)> = targets
        .iter()
        .filter_map(|target| {
            Some((
                target.get("type")?.as_str()?,
                target.get("location")?.as_str()?,
            ))
        })
        .filter(|(kind, _)| matches!(*kind, "local" | "remote"))
        .collect();
    let [(kind, location)] = usable.as_slice() else {
        return None;
    };
    let text = match *kind {
        "local" => format!("{}:{location}@{}", version.project, version.version),
        _ => (*location).to_owned(),
    };
    ArtifactId::parse(&text).ok().map(|id| id.to_string())
}

/// `value` without nulls, at every level, as every answer shows it; empty lists stay.
pub fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name, without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// Only the members of `document` at the dotted `fields`; `*` at the end of a part is a wildcard.
pub fn select(document: &Value, fields: &[String]) -> Value {
    let patterns: Vec<Vec<&str>> = fields
        .iter()
        .map(|field| field.split('.').collect())
        .collect();
    let borrowed: Vec<&[&str]> = patterns.iter().map(Vec::as_slice).collect();
    select_below(document, &borrowed).unwrap_or_else(|| json!({}))
}

fn select_below(value: &Value, patterns: &[&[&str]]) -> Option<Value> {
    match value {
        Value::Object(map) => {
            let mut kept = Map::new();
            for (name, inner) in map {
                let below: Vec<&[&str]> = patterns
                    .iter()
                    .filter(|pattern| pattern.first().is_some_and(|part| part_matches(part, name)))
                    .map(|pattern| &pattern[1..])
                    .collect();
                if below.is_empty() {
                    continue;
                }
                let chosen = if below.iter().any(|rest| rest.is_empty()) {
                    Some(inner.clone())
                } else {
                    select_below(inner, &below)
                };
                if let Some(chosen) = chosen {
                    kept.insert(name.clone(), chosen);
                }
            }
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) => {
            let kept: Vec<Value> = items
                .iter()
                .filter_map(|item| select_below(item, patterns))
                .collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        _ => None,
    }
}

fn part_matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => {
            name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permissions::{Access, Scope};
    use proptest::prelude::*;

    fn path(text: &str) -> FilePath {
        FilePath::new(text).unwrap()
    }

    #[test]
    fn the_whole_extra_block() {
        let metadata = Metadata::parse(
            &path("a.csv.json"),
            br#"{"$schema": "table/v1.json", "path": "a.csv", "md5sum": "d41d", "note": null}"#,
        )
        .unwrap();
        let at: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
        let permissions = Permissions {
            scope: Scope::Project,
            owners: vec!["ann".into()],
            viewers: vec![],
            read_access: Access::Public,
            write_access: Access::Owners,
        };
        let (project, version) = (Project::new("PRJ").unwrap(), Version::new("v1").unwrap());
        let gprn = Gprn::parse("gprn:dev:api").unwrap();
        let context = VersionContext {
            project: &project,
            version: &version,
            revision: Some(3),
            bucket: "data",
            permissions: Some(&permissions),
            transient: Some(Transient {
                expires_in: at,
                expires_job_id: "job",
            }),
            gprn: Some(&gprn),
            indexed_at: at,
            completed_at: at,
            uploader: Some("ann"),
        };
        let data = DataObject {
            size: 12,
            uploaded: at,
        };
        let document = indexed(
            metadata.clone(),
            Some("A Table"),
            at,
            Some(data),
            None,
            &context,
        );
        assert!(
            crate::mapping::Mapping::minimal()
                .check(
                    document["_extra"].as_object().map(|_| &document).unwrap(),
                    10
                )
                .iter()
                .all(|problem| !problem.contains("_extra"))
        );
        insta::assert_json_snapshot!("indexed", document);
        let link = ArtifactId::parse("PRJ:a.csv@v0").unwrap();
        let linked = indexed(metadata.clone(), None, at, None, Some(&link), &context);
        insta::assert_json_snapshot!("indexed_link", linked["_extra"]);
    }

    #[test]
    fn redirections_of_any_version_are_links() {
        let (project, version) = (Project::new("P").unwrap(), Version::new("1").unwrap());
        let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let context = VersionContext {
            project: &project,
            version: &version,
            revision: None,
            bucket: "b",
            permissions: None,
            transient: None,
            gprn: None,
            indexed_at: at,
            completed_at: at,
            uploader: None,
        };
        let link = |body: Value| {
            let metadata = Metadata::parse(&path("r.json"), body.to_string().as_bytes()).unwrap();
            indexed(metadata, None, at, None, None, &context)["_extra"]["link"]["artifactdb"]
                .clone()
        };
        let doc = |schema: &str, kind: &str, location: &str| {
            json!({"$schema": schema, "path": "r",
            "redirection": {"targets": [{"type": kind, "location": location}]}})
        };
        assert_eq!(link(doc("redirection/v1.json", "local", "x/y")), "P:x/y@1");
        assert_eq!(link(doc("redirection/v3.json", "remote", "Q:z@2")), "Q:z@2");
        assert_eq!(link(doc("other/v1.json", "local", "x")), Value::Null);
        assert_eq!(
            link(doc("redirection/v1.json", "local", "../x")),
            Value::Null
        );
    }

    #[test]
    fn bad_metadata() {
        let parse = |text: &str| Metadata::parse(&path("m.json"), text.as_bytes()).map(|_| ());
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"path": 3}"#,
            r#"{"path": "../x"}"#,
            r#"{"path": "a", "$schema": "x"}"#,
            r#"{"path": "a", "$schema": "a/b/c"}"#,
            r#"{"path": "a", "$schema": 1}"#,
            r#"{"path":"a","_extra":{}}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(r#"{"PATH": "a"}"#).is_ok());
    }

    #[test]
    fn selecting_fields() {
        let document =
            json!({"path": "p", "a": [{"b": 1, "c": 2}], "_extra": {"id": "x", "type": "t"}});
        let pick = |fields: &[&str]| {
            select(
                &document,
                &fields.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(pick(&["path"]), json!({"path": "p"}));
        assert_eq!(
            pick(&["_extra.id", "a.b"]),
            json!({"a": [{"b": 1}], "_extra": {"id": "x"}})
        );
        assert_eq!(pick(&["_extra.t*"]), json!({"_extra": {"type": "t"}}));
        assert_eq!(pick(&["nope"]), json!({}));
    }

    proptest! {
        #[test]
        fn parse_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Metadata::parse(&path("m.json"), &bytes);
        }
    }
}
