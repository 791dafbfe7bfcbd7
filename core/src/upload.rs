//! The upload request and its two dialects (CONTRACT section 4): parsed, checked and dated.
//!
//! Pure. What needs a look at other versions (deduplication, link targets) is asked for by the
//! `Plan` and answered by the API server.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use crate::id::{ArtifactRef, FilePath, Project, RESERVED, Version, VersionRef, excerpt};
use crate::parts::FILE_MAX;
use crate::timestamp::parse_moment;

/// Files of one request at the most.
pub const MAX_FILES: usize = 100_000;
const DEADLINE_MIN: SignedDuration = SignedDuration::from_secs(10);
const DEADLINE_MAX: SignedDuration = SignedDuration::from_hours(5 * 24);

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UploadError {
    /// The request is well formed and asks for something that cannot be: 400.
    #[error("{0}")]
    Refused(String),
    /// A reserved name: 403.
    #[error("Found reserved name '..meta' in path '{0}'")]
    Reserved(String),
    /// The request is malformed: 422.
    #[error("{0}")]
    Malformed(String),
}

/// The body of `POST /projects/{p}/version/{v}/upload` as it comes.
#[derive(Debug, Clone, Deserialize)]
pub struct UploadRequest {
    pub filenames: Vec<Value>,
    #[serde(default)]
    pub mode: Option<String>,
    #[serde(default)]
    pub completed_by: Option<Value>,
    #[serde(default)]
    pub expires_in: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    PresignedUrl,
    StsCredentials,
}

/// In which form the answer names URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `{path: url}`: plain strings, or objects with only `md5` and `link` checks.
    Map,
    /// `[{filename, url, md5sum}]`: as soon as one entry has the check `simple`.
    Array,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// The bytes come; their MD5 (hexadecimal) where it is known.
    Upload { md5: Option<String> },
    /// Linked to an equal file of an earlier version if there is one, else uploaded.
    Dedup { field: String, md5: String },
    /// Linked to this artifact.
    Link { target: ArtifactRef },
}

/// A checked request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub files: BTreeMap<FilePath, Check>,
    /// In bytes, where the request says so: large files then come in parts.
    pub sizes: BTreeMap<FilePath, u64>,
    pub mode: Mode,
    pub dialect: Dialect,
    pub deadline: Timestamp,
    pub expires_at: Option<Timestamp>,
}

impl UploadRequest {
    /// Checks the request against the rules of CONTRACT section 4.1.
    pub fn plan(
        &self,
        project: &Project,
        version: &Version,
        now: Timestamp,
    ) -> Result<Plan, UploadError> {
        if self.filenames.len() > MAX_FILES {
            return Err(UploadError::Refused(format!(
                "more than {MAX_FILES} files in one upload"
            )));
        }
        let mode = self.parsed_mode()?;
        let mut dialect = Dialect::Map;
        let (mut files, mut sizes) = (BTreeMap::new(), BTreeMap::new());
        let overhead = project.as_str().len() + version.as_str().len() + 2;
        for entry in &self.filenames {
            let (name, check) = parse_entry(entry)?;
            let size = size(entry, &name)?;
            if matches!(entry, Value::Object(map) if is_simple(map.get("check"))) {
                dialect = Dialect::Array;
            }
            if name.contains(RESERVED) {
                return Err(UploadError::Reserved(excerpt(&name)));
            }
            let path = FilePath::new(name)
                .map_err(|error| UploadError::Refused(format!("Invalid filename: {error}")))?;
            if path.as_str().len() + overhead > crate::id::MAX_KEY_BYTES {
                return Err(UploadError::Refused(format!(
                    "Invalid filename: the key of '{}' is longer than {} bytes",
                    excerpt(path.as_str()),
                    crate::id::MAX_KEY_BYTES
                )));
            }
            if let Check::Link { target } = &check {
                check_link(project, version, &path, target)?;
            }
            if let Some(size) = size {
                sizes.insert(path.clone(), size);
            }
            if files.insert(path.clone(), check).is_some() {
                return Err(UploadError::Refused(format!(
                    "file '{}' is named twice",
                    excerpt(path.as_str())
                )));
            }
        }
        let (deadline, expires_at) = self.dates(now)?;
        Ok(Plan {
            files,
            sizes,
            mode,
            dialect,
            deadline,
            expires_at,
        })
    }

    /// Refuses what no version could be uploaded by: what depends on none is checked.
    pub fn check(&self, now: Timestamp) -> Result<(), UploadError> {
        self.parsed_mode()?;
        for entry in &self.filenames {
            let (name, _) = parse_entry(entry)?;
            size(entry, &name)?;
        }
        self.dates(now).map(|_| ())
    }

    fn parsed_mode(&self) -> Result<Mode, UploadError> {
        match self.mode.as_deref() {
            None | Some("s3-presigned-url") => Ok(Mode::PresignedUrl),
            Some("sts-credentials") => Ok(Mode::StsCredentials),
            Some(other) => Err(UploadError::Malformed(format!(
                "Invalid mode: '{}' is none of s3-presigned-url, sts-credentials",
                excerpt(other)
            ))),
        }
    }

    fn dates(&self, now: Timestamp) -> Result<(Timestamp, Option<Timestamp>), UploadError> {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let parse = |name: &str, value: &Value| {
            let text = text(value);
            parse_moment(&text, now).ok_or_else(|| {
                UploadError::Refused(format!("Can't parse {name} date '{}'", excerpt(&text)))
            })
        };
        let given = |value: &Option<Value>| value.clone().filter(|value| !value.is_null());
        let asked = match given(&self.completed_by) {
            None => now + SignedDuration::from_hours(24),
            Some(value) => parse("completed_by", &value)?,
        };
        let deadline = asked.clamp(now + DEADLINE_MIN, now + DEADLINE_MAX);
        let expires_at = match given(&self.expires_in) {
            None => None,
            Some(value) => Some(parse("expires_in", &value)?),
        };
        if let Some(expires) = expires_at
            && expires < deadline
            && expires != asked
        {
            return Err(UploadError::Refused(format!(
                "'expires_in' ({expires}) must be greater than 'completed_by' ({deadline})"
            )));
        }
        Ok((deadline, expires_at.map(|expires| expires.max(deadline))))
    }
}

/// How large a file will be, where an entry says so.
fn size(entry: &Value, name: &str) -> Result<Option<u64>, UploadError> {
    let Some(given) = entry.get("size").filter(|size| !size.is_null()) else {
        return Ok(None);
    };
    match given.as_u64() {
        Some(size) if size <= FILE_MAX => Ok(Some(size)),
        Some(_) => Err(UploadError::Refused(format!(
            "'{}' is larger than the 5 TiB that a file may have",
            excerpt(name)
        ))),
        None => Err(UploadError::Malformed(format!(
            "the 'size' of '{}' is no number of bytes",
            excerpt(name)
        ))),
    }
}

fn is_simple(check: Option<&Value>) -> bool {
    check
        .and_then(Value::as_str)
        .is_some_and(|check| check.eq_ignore_ascii_case("simple"))
}

fn check_link(
    project: &Project,
    version: &Version,
    path: &FilePath,
    target: &ArtifactRef,
) -> Result<(), UploadError> {
    let VersionRef::Named(target_version) = &target.version else {
        return Err(UploadError::Refused(
            "Invalid link: 'latest' can't be used as a version in a link".to_owned(),
        ));
    };
    if target.project == *project && target_version == version {
        return Err(UploadError::Refused(format!(
            "Invalid link: '{path}' can't link to its own version"
        )));
    }
    Ok(())
}

fn parse_entry(entry: &Value) -> Result<(String, Check), UploadError> {
    let malformed = |text: String| Err(UploadError::Malformed(text));
    let map = match entry {
        Value::String(name) => return Ok((name.clone(), Check::Upload { md5: None })),
        Value::Object(map) => map,
        _ => return malformed("each of 'filenames' is a text or an object".to_owned()),
    };
    let Some(name) = map.get("filename").and_then(Value::as_str) else {
        return malformed("an entry of 'filenames' has no 'filename'".to_owned());
    };
    // Who only wants to say how large a file is has nothing to check.
    if map.get("check").is_none() && map.contains_key("size") {
        return Ok((name.to_owned(), Check::Upload { md5: None }));
    }
    let kind = map.get("check").and_then(Value::as_str).unwrap_or_default();
    let value = map.get("value");
    let text = |key: &str| {
        value
            .and_then(|value| value.get(key))
            .and_then(Value::as_str)
            .ok_or_else(|| {
                UploadError::Malformed(format!(
                    "the check '{}' of '{}' needs '{key}' in its 'value'",
                    excerpt(kind),
                    excerpt(name)
                ))
            })
    };
    let check = match kind.to_ascii_lowercase().as_str() {
        "simple" => Check::Upload {
            md5: Some(md5_hex(text("md5sum")?)?),
        },
        "md5" => Check::Dedup {
            field: text("field")?.to_owned(),
            md5: md5_hex(text("md5sum")?)?,
        },
        "link" => {
            let id = text("artifactdb_id")?;
            let target = ArtifactRef::parse(id)
                .map_err(|error| UploadError::Refused(format!("Invalid link: {error}")))?;
            Check::Link { target }
        }
        other => {
            return malformed(format!(
                "Invalid deduplication info: '{}' is not a valid check",
                excerpt(other)
            ));
        }
    };
    Ok((name.to_owned(), check))
}

/// An MD5 in hexadecimal, lower case.
fn md5_hex(text: &str) -> Result<String, UploadError> {
    let lower = text.to_ascii_lowercase();
    match hex::decode(&lower) {
        Ok(bytes) if bytes.len() == 16 => Ok(lower),
        _ => Err(UploadError::Malformed(format!(
            "'{}' is not an MD5 in hexadecimal",
            excerpt(text)
        ))),
    }
}

/// The header form of a hexadecimal MD5: base64 of its bytes.
pub fn content_md5(md5_hex: &str) -> Option<String> {
    Some(STANDARD.encode(hex::decode(md5_hex).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn plan(body: Value) -> Result<Plan, UploadError> {
        let request: UploadRequest = serde_json::from_value(body).unwrap();
        request.plan(
            &Project::new("P").unwrap(),
            &Version::new("1").unwrap(),
            now(),
        )
    }

    const MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";

    #[test]
    fn the_dialect_follows_the_checks() {
        assert_eq!(
            plan(json!({"filenames": []})).unwrap().dialect,
            Dialect::Map
        );
        assert_eq!(
            plan(json!({"filenames": ["a"]})).unwrap().dialect,
            Dialect::Map
        );
        let md5 =
            json!({"filename": "a", "check": "MD5", "value": {"field": "md5sum", "md5sum": MD5}});
        assert_eq!(
            plan(json!({"filenames": [md5]})).unwrap().dialect,
            Dialect::Map
        );
        let simple = json!({"filename": "b", "check": "simple", "value": {"md5sum": MD5}});
        assert_eq!(
            plan(json!({"filenames": [md5, simple]})).unwrap().dialect,
            Dialect::Array
        );
    }

    #[test]
    fn sizes_are_noted_and_change_no_dialect() {
        let simple =
            json!({"filename": "b", "check": "simple", "value": {"md5sum": MD5}, "size": 0});
        let plan = |entries: Value| plan(json!({"filenames": entries}));
        let plain = plan(json!(["c", {"filename": "a", "size": 7}])).unwrap();
        let a = FilePath::new("a").unwrap();
        assert_eq!(plain.dialect, Dialect::Map);
        assert_eq!(plain.files[&a], Check::Upload { md5: None });
        assert_eq!(plain.sizes, BTreeMap::from([(a, 7)]));
        let checked = plan(json!([simple])).unwrap();
        assert_eq!(checked.dialect, Dialect::Array);
        assert_eq!(checked.sizes.len(), 1);
        for size in [json!("7"), json!(-7), json!(7.5), json!([])] {
            let refused = plan(json!([{"filename": "a", "size": size}]));
            assert!(matches!(refused, Err(UploadError::Malformed(_))));
        }
        let refused = plan(json!([{"filename": "a", "size": FILE_MAX + 1}]));
        assert!(matches!(refused, Err(UploadError::Refused(_))));
    }

    #[test]
    fn refusals() {
        let refused = |entry: Value| plan(json!({"filenames": [entry]})).unwrap_err();
        assert_eq!(
            refused(json!("a/..meta/x")),
            UploadError::Reserved("a/..meta/x".into())
        );
        assert!(matches!(refused(json!("../x")), UploadError::Refused(_)));
        assert!(matches!(refused(json!(3)), UploadError::Malformed(_)));
        assert_eq!(
            refused(json!({"filename": "a", "check": "size_mdtm", "value": {}})).to_string(),
            "Invalid deduplication info: 'size_mdtm' is not a valid check"
        );
        assert!(matches!(
            refused(
                json!({"filename": "a", "check": "md5", "value": {"md5sum": "zz", "field": "f"}})
            ),
            UploadError::Malformed(_)
        ));
        for target in ["P:a@1", "P:a@latest", "nonsense"] {
            assert!(matches!(
                refused(
                    json!({"filename": "a", "check": "link", "value": {"artifactdb_id": target}})
                ),
                UploadError::Refused(_)
            ));
        }
        assert!(plan(json!({"filenames": ["a", "a"]})).is_err());
        assert!(plan(json!({"filenames": [], "mode": "ftp"})).is_err());
    }

    #[test]
    fn dates_are_clamped_and_equal_ones_accepted() {
        let of = |completed: &str, expires: &str| {
            plan(json!({"filenames": [], "completed_by": completed, "expires_in": expires}))
        };
        let plan = of("in 30 days", "in 30 days").unwrap();
        assert_eq!(plan.deadline, now() + SignedDuration::from_hours(120));
        assert_eq!(
            plan.expires_at,
            Some(now() + SignedDuration::from_hours(720))
        );
        assert!(of("in 2 days", "in 1 day").is_err());
        assert!(of("in 2 days", "in 2 days").is_ok());
        assert_eq!(
            of("soon", "in 2 days").unwrap_err().to_string(),
            "Can't parse completed_by date 'soon'"
        );
        let short = of("1", "1").unwrap();
        assert_eq!(short.deadline, now() + DEADLINE_MIN);
        assert_eq!(short.expires_at, Some(now() + DEADLINE_MIN));
    }
}
