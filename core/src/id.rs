//! Artifact identifiers `<project>:<path>@<version>` and their three parts.
//!
//! Parsing and validation only; how an identifier becomes an object key is in `keys`.
//! Rules: CONTRACT sections 1.1, 1.2 and 1.4. The project ends at the first `:`, the version
//! starts after the last `@`.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest object key that S3 accepts, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;
/// Longest project identifier or version name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Substring that no uploaded path may hold: it marks internal objects.
pub const RESERVED: &str = "..meta";

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    #[error("could not identify project from '{0}'")]
    NoProject(String),
    #[error("could not identify version from '{0}'")]
    NoVersion(String),
    #[error("{what} should not be empty")]
    Empty { what: &'static str },
    #[error("{what} is longer than {max} bytes")]
    TooLong { what: &'static str, max: usize },
    #[error("{what} '{text}' {problem}")]
    Invalid {
        what: &'static str,
        text: String,
        problem: &'static str,
    },
}

fn invalid(what: &'static str, text: &str, problem: &'static str) -> IdError {
    IdError::Invalid {
        what,
        text: excerpt(text),
        problem,
    }
}

/// At most 80 characters of `text`, so that an error never echoes a hostile 10 kB identifier.
pub fn excerpt(text: &str) -> String {
    if text.chars().count() <= 80 {
        text.to_owned()
    } else {
        text.chars().take(80).chain(['…']).collect()
    }
}

fn check_name(what: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { what });
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(IdError::TooLong {
            what,
            max: MAX_NAME_BYTES,
        });
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(what, "…", "must not hold control characters"));
    }
    if text.contains('/') {
        return Err(invalid(what, text, "must not contain '/'"));
    }
    if text.starts_with("..") || text == "." {
        return Err(invalid(what, text, "must not start with '..' or be '.'"));
    }
    if text.contains(RESERVED) {
        return Err(invalid(what, text, "must not contain '..meta'"));
    }
    if text.starts_with('_') {
        return Err(invalid(what, text, "must not start with '_'"));
    }
    Ok(())
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }
        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }
    };
}

text_type! {
    /// A project identifier: no `/` or `:`, no leading `_` or `..`, at most 255 bytes.
    Project
}
text_type! {
    /// A version name: no `/` or `@`, no leading `_` or `..`, not `latest` in any case.
    Version
}
text_type! {
    /// The path of a file inside its version: `/`-separated, no empty, `.` or `..`-led element.
    FilePath
}

impl Project {
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        check_name("project", &text)?;
        if text.contains(':') {
            return Err(invalid("project", &text, "must not contain ':'"));
        }
        Ok(Self(text))
    }
}

impl Version {
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        check_name("version", &text)?;
        if text.contains('@') {
            return Err(invalid("version", &text, "must not contain '@'"));
        }
        if text.eq_ignore_ascii_case("latest") {
            return Err(invalid(
                "version",
                &text,
                "is reserved: it stands for the latest revision",
            ));
        }
        Ok(Self(text))
    }

    /// The version with this number as its name.
    pub fn of_number(number: u64) -> Self {
        Self(number.to_string())
    }

    /// The number that the name is, where it is a whole one of at most 18 digits.
    pub fn number(&self) -> Option<u64> {
        let digits = self.0.bytes().all(|byte| byte.is_ascii_digit());
        (digits && self.0.len() <= 18).then(|| self.0.parse().ok())?
    }
}

impl FilePath {
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        let what = "path";
        if text.is_empty() {
            return Err(IdError::Empty { what });
        }
        if text.len() > MAX_KEY_BYTES {
            return Err(IdError::TooLong {
                what,
                max: MAX_KEY_BYTES,
            });
        }
        if text.chars().any(char::is_control) {
            return Err(invalid(what, "…", "must not hold control characters"));
        }
        for element in text.split('/') {
            if element.is_empty() {
                return Err(invalid(what, &text, "must not have an empty element"));
            }
            if element == "." || element.starts_with("..") {
                return Err(invalid(
                    what,
                    &text,
                    "must not have an element that is '.' or starts with '..'",
                ));
            }
        }
        Ok(Self(text))
    }
}

/// `<project>:<path>@<version>`, with a concrete version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArtifactId {
    pub project: Project,
    pub path: FilePath,
    pub version: Version,
}

impl ArtifactId {
    /// Parses an identifier whose version must be concrete (not `latest`).
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let (project, path, version) = split(text)?;
        let id = Self {
            project: Project::new(project)?,
            path: FilePath::new(path)?,
            version: Version::new(version)?,
        };
        id.check_length()?;
        Ok(id)
    }

    /// Refuses an identifier whose object key would be longer than S3 accepts.
    pub fn check_length(&self) -> Result<(), IdError> {
        let bytes = self.project.as_str().len()
            + self.version.as_str().len()
            + self.path.as_str().len()
            + 2;
        if bytes > MAX_KEY_BYTES {
            return Err(IdError::TooLong {
                what: "id",
                max: MAX_KEY_BYTES - 2,
            });
        }
        Ok(())
    }
}

impl fmt::Display for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}@{}", self.project, self.path, self.version)
    }
}

impl Serialize for ArtifactId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ArtifactId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// An identifier as a reader gives it: its version may also be a revision or `latest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactRef {
    pub project: Project,
    pub path: FilePath,
    pub version: VersionRef,
}

impl ArtifactRef {
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let (project, path, version) = split(text)?;
        Ok(Self {
            project: Project::new(project)?,
            path: FilePath::new(path)?,
            version: VersionRef::parse(version)?,
        })
    }

    pub fn at(&self, version: Version) -> ArtifactId {
        ArtifactId {
            project: self.project.clone(),
            path: self.path.clone(),
            version,
        }
    }
}

fn split(text: &str) -> Result<(&str, &str, &str), IdError> {
    let (project, rest) = text
        .split_once(':')
        .ok_or_else(|| IdError::NoProject(excerpt(text)))?;
    let (path, version) = rest
        .rsplit_once('@')
        .ok_or_else(|| IdError::NoVersion(excerpt(text)))?;
    Ok((project, path, version))
}

/// What stands where a version is read: `latest` (any case), or a version name that may also turn
/// out to be a revision name. Exact versions win over revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionRef {
    Latest,
    Named(Version),
}

impl fmt::Display for VersionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VersionRef::Named(version) => version.fmt(f),
            VersionRef::Latest => f.write_str("latest"),
        }
    }
}

impl VersionRef {
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.eq_ignore_ascii_case("latest") {
            Ok(Self::Latest)
        } else {
            Version::new(text).map(Self::Named)
        }
    }
}

/// The name of the n-th revision of a project: `NUM-<n>`, n from 1.
pub fn revision_name(number: u64) -> String {
    format!("NUM-{number}")
}

/// The number in a revision name, `NUM-3` or `3`.
pub fn revision_number(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("NUM-").unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn splits_at_the_first_colon_and_the_last_at() {
        let id = ArtifactId::parse("PRJ:dir/a@b:c.csv@v1").unwrap();
        assert_eq!(id.project.as_str(), "PRJ");
        assert_eq!(id.path.as_str(), "dir/a@b:c.csv");
        assert_eq!(id.version.as_str(), "v1");
        assert_eq!(id.to_string(), "PRJ:dir/a@b:c.csv@v1");
    }

    #[test]
    fn refuses_what_section_1_2_refuses() {
        for bad in [
            "",
            "a",
            "a:b",
            ":b@1",
            "a:@1",
            "a:b@",
            "..a:b@1",
            "a:../b@1",
            "a:b/../c@1",
            "a:b//c@1",
            "a:/b@1",
            "a:..meta/x@1",
            "a:b@latest",
            "a:b@LATEST",
            "a:b@..1",
            "_a:b@1",
            "a/b:c@1",
            "a:b\u{0}c@1",
        ] {
            assert!(ArtifactId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(ArtifactId::parse(&format!("a:{}@1", "x".repeat(10_000))).is_err());
    }

    #[test]
    fn latest_is_read_in_any_case() {
        let id = ArtifactRef::parse("a:b@LaTeSt").unwrap();
        assert_eq!(id.version, VersionRef::Latest);
    }

    #[test]
    fn revisions() {
        assert_eq!(revision_number("NUM-12"), Some(12));
        assert_eq!(revision_number("12"), Some(12));
        for bad in ["", "NUM-", "REV-1", "latest", "-1", "NUM--1", "NUM-+1"] {
            assert_eq!(revision_number(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parse_never_panics(text in "\\PC{0,80}") {
            let _ = ArtifactId::parse(&text);
            let _ = ArtifactRef::parse(&text);
        }

        #[test]
        fn display_and_parse_agree(
            project in "[a-zA-Z0-9.-]{1,12}",
            path in "[a-zA-Z0-9@:_ +%é-]{1,8}(/[a-z@:.]{0,3}[a-z0-9]{1,5}){0,3}",
            version in "[a-zA-Z0-9-][a-zA-Z0-9._-]{0,8}",
        ) {
            let text = format!("{project}:{path}@{version}");
            if let Ok(id) = ArtifactId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
                prop_assert_eq!(id.project.as_str(), project);
                prop_assert_eq!(id.path.as_str(), path);
            }
        }
    }
}
