//! Every object key of an instance is built here and nowhere else (CONTRACT section 2.1 and
//! DESIGN section 5).

use crate::id::{ArtifactId, FilePath, Project, RESERVED, Version};

/// Permissions of the whole instance, written by an administrator.
pub const GLOBAL_PERMISSIONS: &str = "..meta/permissions.json";

/// Where the instance keeps what belongs to no project.
pub const INSTANCE_META: &str = "..meta";

/// The log of events: an object per entry, whose name begins with its time.
pub const EVENTS: &str = "..events/";

/// How far the dispatcher of plugins has read the log of events.
pub const DISPATCHED: &str = "..meta/dispatched.json";

/// Requests for maintenance of the instance.
pub const MAINTENANCE: &str = "..meta/maintenance.json";

/// `<project>/`
pub fn project_prefix(project: &Project) -> String {
    format!("{project}/")
}

/// `<project>/<version>/`
pub fn version_prefix(project: &Project, version: &Version) -> String {
    format!("{project}/{version}/")
}

/// `<project>/<version>/<path>`: a file of a version.
pub fn file(id: &ArtifactId) -> String {
    format!("{}/{}/{}", id.project, id.version, id.path)
}

/// `<project>/<version>/<path>` from its parts.
pub fn file_in(project: &Project, version: &Version, path: &FilePath) -> String {
    format!("{project}/{version}/{path}")
}

/// `<project>/<version>/..diff/`: corrections of metadata, written by curators.
pub fn corrections(project: &Project, version: &Version) -> String {
    format!("{project}/{version}/..diff/")
}

/// Says that a version may be deleted.
pub fn version_mark(project: &Project, version: &Version) -> String {
    format!("{project}/{version}/..deleteme")
}

/// Says that a whole project may be deleted.
pub fn project_mark(project: &Project) -> String {
    format!("{project}/..deleteme")
}

/// The project's clock, revision counter, latest version and unfinished work.
pub fn head(project: &Project) -> String {
    format!("{project}/{RESERVED}/head.json")
}

pub fn project_permissions(project: &Project) -> String {
    format!("{project}/{RESERVED}/permissions.json")
}

fn meta(project: &Project, version: &Version, name: &str) -> String {
    format!("{project}/{version}/{RESERVED}/{name}")
}

pub fn version_permissions(project: &Project, version: &Version) -> String {
    meta(project, version, "permissions.json")
}

/// Epoch, stage, owner and deadlines of a version.
pub fn state(project: &Project, version: &Version) -> String {
    meta(project, version, "state.json")
}

pub fn revision(project: &Project, version: &Version) -> String {
    meta(project, version, "revision.json")
}

pub fn links(project: &Project, version: &Version) -> String {
    meta(project, version, "links.json")
}

/// What one upload promised to bring; named by the upload, so that a stale writer cannot touch it.
pub fn promise(project: &Project, version: &Version, upload: &str) -> String {
    meta(project, version, &format!("promise-{upload}.json"))
}

/// What one completion found and verified; the version's state says which manifest is the one.
pub fn manifest(project: &Project, version: &Version, id: &str) -> String {
    meta(project, version, &format!("manifest-{id}.json"))
}

/// Whether `key` holds internal data, that is, no file that a client brought.
pub fn is_internal(key: &str) -> bool {
    key.contains(RESERVED) || key.split('/').any(|element| element.starts_with(".."))
}

/// The path inside the version, for a key below `prefix` that a client brought.
pub fn path_below<'k>(prefix: &str, key: &'k str) -> Option<&'k str> {
    let rest = key.strip_prefix(prefix)?;
    (!rest.is_empty() && !is_internal(rest)).then_some(rest)
}
