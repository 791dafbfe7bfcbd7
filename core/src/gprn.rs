//! GPRNs, the global names `gprn:<environment>:<service>:<placeholder>:<type-id>:<resource-id>`.
//!
//! Grammar and validation (CONTRACT section 1.5). No lookup of what a name stands for.

use std::fmt;

use thiserror::Error;

use crate::id::{ArtifactId, ArtifactRef, IdError, Project, Version, VersionRef};

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GprnError {
    #[error("Expecting prefix 'gprn', got '{0}'")]
    Prefix(String),
    #[error("'service' is mandatory")]
    NoService,
    #[error("'resource-id' requires 'type-id'")]
    NoType,
    #[error("Unsupported type-id: {0}")]
    Type(String),
    #[error("Invalid 'service' name: '{0}'")]
    Service(String),
    #[error("Invalid 'environment': '{0}'")]
    Environment(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeId {
    Artifact,
    Project,
    Doc,
    Changelog,
    Backup,
}

impl TypeId {
    const ALL: [(TypeId, &'static str); 5] = [
        (TypeId::Artifact, "artifact"),
        (TypeId::Project, "project"),
        (TypeId::Doc, "doc"),
        (TypeId::Changelog, "changelog"),
        (TypeId::Backup, "backup"),
    ];

    fn parse(text: &str) -> Result<Self, GprnError> {
        Self::ALL
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(id, _)| *id)
            .ok_or_else(|| GprnError::Type(crate::id::excerpt(text)))
    }

    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(id, _)| *id == self)
            .map_or("", |(_, name)| name)
    }
}

/// What a resource-id stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Artifact(ArtifactRef),
    Version(Project, VersionRef),
    Project(Project),
}

/// The environment and service that an instance answers for. An empty environment is production.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gprn {
    pub environment: String,
    /// Absent only in the two-segment form `gprn:<environment>`.
    pub service: Option<String>,
    pub placeholder: String,
    pub type_id: Option<TypeId>,
    pub resource_id: Option<String>,
}

fn normalise(environment: &str) -> &str {
    match environment {
        "prd" => "",
        other => other,
    }
}

impl Gprn {
    pub fn parse(text: &str) -> Result<Self, GprnError> {
        let mut parts = text.splitn(6, ':');
        let prefix = parts.next().unwrap_or_default();
        if prefix != "gprn" {
            return Err(GprnError::Prefix(crate::id::excerpt(prefix)));
        }
        let environment = parts.next().map(normalise).unwrap_or_default().to_owned();
        let service = parts.next();
        if service == Some("") {
            return Err(GprnError::NoService);
        }
        let placeholder = parts.next().unwrap_or_default().to_owned();
        let type_text = parts.next().unwrap_or_default();
        let resource_id = parts.next().filter(|id| !id.is_empty()).map(str::to_owned);
        if type_text.is_empty() && resource_id.is_some() {
            return Err(GprnError::NoType);
        }
        let type_id = match type_text {
            "" => None,
            other => Some(TypeId::parse(other)?),
        };
        Ok(Self {
            environment,
            service: service.map(str::to_owned),
            placeholder,
            type_id,
            resource_id,
        })
    }

    /// Whether this name belongs to the instance `(environment, service)`.
    pub fn check_instance(&self, environment: &str, service: &str) -> Result<(), GprnError> {
        if let Some(own) = &self.service
            && own != service
        {
            return Err(GprnError::Service(own.clone()));
        }
        if normalise(&self.environment) != normalise(environment) {
            return Err(GprnError::Environment(self.environment.clone()));
        }
        Ok(())
    }

    /// What the resource-id of an artifact, project or changelog stands for; none where there is no
    /// resource-id, and for what is neither.
    pub fn target(&self) -> Result<Option<Target>, IdError> {
        let Some(text) = &self.resource_id else {
            return Ok(None);
        };
        Ok(match self.type_id {
            Some(TypeId::Artifact) => Some(Target::Artifact(ArtifactRef::parse(text)?)),
            Some(TypeId::Project | TypeId::Changelog) => Some(match text.rsplit_once('@') {
                Some((project, version)) => {
                    Target::Version(Project::new(project)?, VersionRef::parse(version)?)
                }
                None => Target::Project(Project::new(text.as_str())?),
            }),
            Some(TypeId::Doc | TypeId::Backup) | None => None,
        })
    }

    /// The names above this one, nearest first, each with what it is; environment and root only where
    /// `deep` (CONTRACT section 1.5).
    pub fn parents(&self, deep: bool) -> Result<Vec<(&'static str, Gprn)>, IdError> {
        let mut all: Vec<(&'static str, Gprn)> = Vec::new();
        let service = Gprn {
            type_id: None,
            resource_id: None,
            ..self.clone()
        };
        let projects = Gprn {
            type_id: Some(TypeId::Project),
            ..service.clone()
        };
        match self.target()? {
            Some(Target::Artifact(id)) => {
                let text = format!("{}@{}", id.project, id.version);
                all.push(("version", service.resource(TypeId::Project, text)));
                all.push(("project", service.project(&id.project)));
            }
            Some(Target::Version(project, _)) => all.push(("project", service.project(&project))),
            Some(Target::Project(_)) | None => {}
        }
        let in_projects = matches!(
            self.type_id,
            Some(TypeId::Artifact | TypeId::Project | TypeId::Changelog)
        );
        if in_projects && self.resource_id.is_some() {
            all.push(("projects", projects));
        }
        if self.type_id.is_some() {
            all.push(("service", service.clone()));
        }
        if deep {
            let nothing = Gprn {
                environment: String::new(),
                service: None,
                placeholder: String::new(),
                type_id: None,
                resource_id: None,
            };
            if self.service.is_some() {
                let environment = self.environment.clone();
                all.push((
                    "environment",
                    Gprn {
                        environment,
                        ..nothing.clone()
                    },
                ));
            }
            all.push(("root", nothing));
        }
        Ok(all)
    }

    /// The name of an artifact of this service.
    pub fn artifact(&self, id: &ArtifactId) -> Self {
        self.resource(TypeId::Artifact, id.to_string())
    }

    /// The name of a version: `project:<project>@<version>`.
    pub fn version(&self, project: &Project, version: &Version) -> Self {
        self.resource(TypeId::Project, format!("{project}@{version}"))
    }

    pub fn project(&self, project: &Project) -> Self {
        self.resource(TypeId::Project, project.to_string())
    }

    fn resource(&self, type_id: TypeId, resource_id: String) -> Self {
        Self {
            type_id: Some(type_id),
            resource_id: Some(resource_id),
            ..self.clone()
        }
    }
}

impl fmt::Display for Gprn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let segments = [
            normalise(&self.environment),
            self.service.as_deref().unwrap_or_default(),
            self.placeholder.as_str(),
            self.type_id.map_or("", TypeId::as_str),
            self.resource_id.as_deref().unwrap_or_default(),
        ];
        let used = segments
            .iter()
            .rposition(|segment| !segment.is_empty())
            .map_or(1, |last| last + 1);
        f.write_str("gprn")?;
        for segment in &segments[..used] {
            write!(f, ":{segment}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_contract() {
        for text in [
            "gprn::myapi",
            "gprn:dev:myapi",
            "gprn:dev:myapi::project",
            "gprn:dev:myapi::project:PRJ1",
            "gprn:dev:myapi::project:PRJ1@3",
            "gprn:dev:myapi::artifact:PRJ1:dir/f.csv@3",
            "gprn::myapi::doc",
            "gprn:dev:myapi::backup:es-snapshot-v1-indices@20230801_101500",
            "gprn:dev",
        ] {
            assert_eq!(Gprn::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            Gprn::parse("gprn:prd:api").unwrap().to_string(),
            "gprn::api"
        );
    }

    #[test]
    fn refusals() {
        assert_eq!(
            Gprn::parse("x:dev").unwrap_err().to_string(),
            "Expecting prefix 'gprn', got 'x'"
        );
        assert_eq!(Gprn::parse("gprn:dev::").unwrap_err(), GprnError::NoService);
        assert_eq!(
            Gprn::parse("gprn:dev:a:::r").unwrap_err(),
            GprnError::NoType
        );
        assert_eq!(
            Gprn::parse("gprn:dev:a::x").unwrap_err().to_string(),
            "Unsupported type-id: x"
        );
    }

    #[test]
    fn parents_come_nearest_first() {
        let names = |text: &str, deep| -> Vec<String> {
            let parents = Gprn::parse(text).unwrap().parents(deep).unwrap();
            let shown = |(kind, own): &(&str, Gprn)| format!("{kind} {own}");
            parents.iter().map(shown).collect()
        };
        assert_eq!(
            names("gprn:dev:api::artifact:P:d/f:x@3", true),
            [
                "version gprn:dev:api::project:P@3",
                "project gprn:dev:api::project:P",
                "projects gprn:dev:api::project",
                "service gprn:dev:api",
                "environment gprn:dev",
                "root gprn:",
            ]
        );
        assert_eq!(
            names("gprn::api::project:P", false),
            ["projects gprn::api::project", "service gprn::api"]
        );
        assert_eq!(names("gprn::api", false), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn parse_never_panics_and_printing_is_stable(text in "(gprn:)?[a-z:@/.]{0,40}") {
            if let Ok(gprn) = Gprn::parse(&text) {
                let _ = (gprn.target(), gprn.parents(true));
                let printed = gprn.to_string();
                prop_assert_eq!(Gprn::parse(&printed).map(|g| g.to_string()), Ok(printed));
            }
        }
    }
}
