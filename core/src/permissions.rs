//! Who may do what: one table from which both `may` and the search filter come (DESIGN I6).
//!
//! Pure. Reading and writing permission files is in `versions`; roles come from `api-server`'s
//! tokens. Rules: CONTRACT section 5.

use serde::{Deserialize, Deserializer, Serialize};

use crate::id::Project;
use crate::plugin::Grants;
use crate::query::Query;

/// Who an action is open to. The names are those of the permission files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    Public,
    Authenticated,
    Viewers,
    Owners,
    None,
}

impl Access {
    pub const ALL: [Access; 5] = [
        Access::Public,
        Access::Authenticated,
        Access::Viewers,
        Access::Owners,
        Access::None,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Access::Public => "public",
            Access::Authenticated => "authenticated",
            Access::Viewers => "viewers",
            Access::Owners => "owners",
            Access::None => "none",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    Global,
    Project,
    Version,
}

impl Scope {
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Global => "global",
            Scope::Project => "project",
            Scope::Version => "version",
        }
    }
}

/// A complete set of permissions, as a permission file holds it and a document carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    #[serde(default = "default_scope")]
    pub scope: Scope,
    #[serde(default, deserialize_with = "names")]
    pub owners: Vec<String>,
    #[serde(default, deserialize_with = "names")]
    pub viewers: Vec<String>,
    #[serde(default = "default_read")]
    pub read_access: Access,
    #[serde(default = "default_write")]
    pub write_access: Access,
}

impl Permissions {
    /// What a file says that says nothing.
    pub fn unsaid(scope: Scope) -> Self {
        Self {
            scope,
            owners: Vec::new(),
            viewers: Vec::new(),
            read_access: default_read(),
            write_access: default_write(),
        }
    }
}

fn default_scope() -> Scope {
    Scope::Project
}

fn default_read() -> Access {
    Access::Public
}

fn default_write() -> Access {
    Access::Owners
}

/// The members of a set that a request gives; the others stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionsPatch {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// A list, a comma-separated text, or null for nobody.
    #[serde(
        default,
        deserialize_with = "some_names",
        skip_serializing_if = "Option::is_none"
    )]
    pub owners: Option<Vec<String>>,
    #[serde(
        default,
        deserialize_with = "some_names",
        skip_serializing_if = "Option::is_none"
    )]
    pub viewers: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_access: Option<Access>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_access: Option<Access>,
}

impl PermissionsPatch {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `base` with the given members replaced.
    pub fn onto(&self, base: Permissions) -> Permissions {
        Permissions {
            scope: self.scope.unwrap_or(base.scope),
            owners: self.owners.clone().unwrap_or(base.owners),
            viewers: self.viewers.clone().unwrap_or(base.viewers),
            read_access: self.read_access.unwrap_or(base.read_access),
            write_access: self.write_access.unwrap_or(base.write_access),
        }
    }

    /// This patch, with `defaults` for the members that it leaves open.
    pub fn or(&self, defaults: &PermissionsPatch) -> PermissionsPatch {
        PermissionsPatch {
            scope: self.scope.or(defaults.scope),
            owners: self.owners.clone().or_else(|| defaults.owners.clone()),
            viewers: self.viewers.clone().or_else(|| defaults.viewers.clone()),
            read_access: self.read_access.or(defaults.read_access),
            write_access: self.write_access.or(defaults.write_access),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    List(Vec<String>),
    Text(String),
}

fn clean(names: Option<Names>) -> Vec<String> {
    let names = match names {
        None => Vec::new(),
        Some(Names::List(list)) => list,
        Some(Names::Text(text)) => text.split(',').map(str::to_owned).collect(),
    };
    let mut seen = Vec::with_capacity(names.len());
    for name in names {
        let name = name.trim();
        if !name.is_empty() && !seen.iter().any(|known| known == name) {
            seen.push(name.to_owned());
        }
    }
    seen
}

fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Option::<Names>::deserialize(deserializer).map(clean)
}

fn some_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    Option::<Names>::deserialize(deserializer).map(|names| Some(clean(names)))
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    Anonymous,
    User(User),
    /// The system's own workers: they see everything.
    System,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    pub id: String,
    /// Distribution lists and directory groups that count as the user in owners and viewers.
    pub groups: Vec<String>,
    pub roles: Vec<String>,
    /// What a plugin was given, whatever the permissions of those projects say.
    pub grants: Grants,
}

/// Roles that the API knows. A plugin may use others.
pub mod roles {
    pub const ADMIN: &str = "admin";
    pub const UPLOADER: &str = "uploader";
    pub const CREATOR: &str = "creator";
}

impl Caller {
    /// Whether the read filter is skipped: administrators and the system itself.
    pub fn is_root(&self) -> bool {
        match self {
            Caller::System => true,
            Caller::User(user) => user.roles.iter().any(|role| role == roles::ADMIN),
            Caller::Anonymous => false,
        }
    }

    /// Whether the caller has one of `wanted`; administrators have every role.
    pub fn has_role(&self, wanted: &[&str]) -> bool {
        self.is_root()
            || matches!(self, Caller::User(user)
                if user.roles.iter().any(|role| wanted.contains(&role.as_str())))
    }

    /// Whether a plugin was given a project for `action`; who may write may read.
    pub fn is_granted(&self, action: Action, project: &Project) -> bool {
        match (self, action) {
            (Caller::User(user), Action::Read) => {
                user.grants.read.covers(project) || user.grants.write.covers(project)
            }
            (Caller::User(user), Action::Write) => user.grants.write.covers(project),
            (Caller::Anonymous | Caller::System, _) => false,
        }
    }

    pub fn user_id(&self) -> Option<&str> {
        match self {
            Caller::User(user) => Some(&user.id),
            Caller::Anonymous | Caller::System => None,
        }
    }

    /// The names under which the caller may stand in a list of owners or viewers.
    fn names(&self) -> Vec<String> {
        match self {
            Caller::User(user) => std::iter::once(&user.id)
                .chain(&user.groups)
                .filter(|name| !name.is_empty())
                .cloned()
                .collect(),
            Caller::Anonymous | Caller::System => Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Read,
    Write,
}

/// The lists of a permission set in which a caller may stand.
#[derive(Debug, Clone, Copy)]
enum List {
    Owners,
    Viewers,
}

impl List {
    fn field(self) -> &'static str {
        match self {
            List::Owners => "_extra.permissions.owners",
            List::Viewers => "_extra.permissions.viewers",
        }
    }

    fn of(self, permissions: &Permissions) -> &[String] {
        match self {
            List::Owners => &permissions.owners,
            List::Viewers => &permissions.viewers,
        }
    }
}

enum Audience {
    Anyone,
    AnyUser,
    Listed(&'static [List]),
    Nobody,
}

/// The table. Everything else in this file is derived from it.
fn audience(access: Access) -> Audience {
    match access {
        Access::Public => Audience::Anyone,
        Access::Authenticated => Audience::AnyUser,
        Access::Viewers => Audience::Listed(&[List::Owners, List::Viewers]),
        Access::Owners => Audience::Listed(&[List::Owners]),
        Access::None => Audience::Nobody,
    }
}

/// Whether `caller` may do `action` on what belongs to `project` under `permissions`; without
/// permissions only root may, and a plugin that was given the project.
pub fn may(
    caller: &Caller,
    action: Action,
    project: &Project,
    permissions: Option<&Permissions>,
) -> bool {
    if caller.is_root() || caller.is_granted(action, project) {
        return true;
    }
    let Some(permissions) = permissions else {
        return false;
    };
    let access = match action {
        Action::Read => permissions.read_access,
        Action::Write => permissions.write_access,
    };
    match audience(access) {
        Audience::Anyone => true,
        Audience::AnyUser => matches!(caller, Caller::User(_)),
        Audience::Listed(lists) => {
            let names = caller.names();
            lists
                .iter()
                .any(|list| list.of(permissions).iter().any(|name| names.contains(name)))
        }
        Audience::Nobody => false,
    }
}

/// The part of a query that leaves only documents that `caller` may read; `None` for root.
pub fn read_filter(caller: &Caller) -> Option<Query> {
    if caller.is_root() {
        return None;
    }
    let names = caller.names();
    let given = match caller {
        Caller::User(user) => [&user.grants.read, &user.grants.write]
            .into_iter()
            .filter_map(|projects| projects.query("_extra.project_id"))
            .collect(),
        Caller::Anonymous | Caller::System => Vec::new(),
    };
    let allowed = Access::ALL.into_iter().filter_map(|access| {
        let named = Query::exact("_extra.permissions.read_access", access.as_str());
        match audience(access) {
            Audience::Anyone => Some(named),
            Audience::AnyUser => matches!(caller, Caller::User(_)).then_some(named),
            Audience::Listed(_) if names.is_empty() => None,
            Audience::Listed(lists) => {
                let listed = lists.iter().map(|list| Query::Exact {
                    field: list.field().to_owned(),
                    values: names.clone(),
                });
                Some(Query::all_of(vec![named, Query::any_of(listed.collect())]))
            }
            Audience::Nobody => None,
        }
    });
    Some(Query::any_of(allowed.chain(given).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Projects;
    use proptest::prelude::*;
    use serde_json::json;

    fn name() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["ann", "bob", "cleo", "team"]).prop_map(str::to_owned)
    }

    prop_compose! {
        fn any_permissions()(
            owners in prop::collection::vec(name(), 0..3),
            viewers in prop::collection::vec(name(), 0..3),
            read in prop::sample::select(Access::ALL.to_vec()),
            write in prop::sample::select(Access::ALL.to_vec()),
        ) -> Permissions {
            Permissions { scope: Scope::Project, owners, viewers, read_access: read, write_access: write }
        }
    }

    fn any_caller() -> impl Strategy<Value = Caller> {
        prop_oneof![
            Just(Caller::Anonymous),
            Just(Caller::System),
            (
                name(),
                prop::collection::vec(name(), 0..2),
                prop::collection::vec(
                    prop::sample::select(vec!["admin", "uploader", "creator"]),
                    0..2
                )
            )
                .prop_map(|(id, groups, roles)| Caller::User(User {
                    id,
                    groups,
                    roles: roles.into_iter().map(str::to_owned).collect(),
                    grants: Grants::default(),
                })),
            (any_projects(), any_projects()).prop_map(|(read, write)| Caller::User(User {
                id: "plugin:p".to_owned(),
                grants: Grants { read, write },
                ..User::default()
            })),
        ]
    }

    fn any_projects() -> impl Strategy<Value = Projects> {
        let pattern = prop::sample::select(vec!["P1", "P2", "P*", "*", "Q*", "reports"]);
        prop::collection::vec(pattern.prop_map(str::to_owned), 0..3).prop_map(Projects::new)
    }

    fn any_project() -> impl Strategy<Value = Project> {
        prop::sample::select(vec!["P", "P1", "P12", "reports", "p1"])
            .prop_map(|name| Project::new(name).unwrap())
    }

    proptest! {
        /// I6: the filter lets a document through exactly when `may` says so.
        #[test]
        fn filter_and_may_agree(
            permissions in any_permissions(), project in any_project(), caller in any_caller()
        ) {
            let document = json!({"_extra": {"permissions": permissions, "project_id": project}});
            let passes = read_filter(&caller).is_none_or(|filter| filter.matches_exact(&document));
            prop_assert_eq!(passes, may(&caller, Action::Read, &project, Some(&permissions)));
        }

        #[test]
        fn without_permissions_only_root_reads_and_who_was_given_the_project(
            project in any_project(), caller in any_caller()
        ) {
            let document = json!({"_extra": {"permissions": null, "project_id": project}});
            let passes = read_filter(&caller).is_none_or(|filter| filter.matches_exact(&document));
            let reads = caller.is_root() || caller.is_granted(Action::Read, &project);
            prop_assert_eq!(passes, reads);
            prop_assert_eq!(may(&caller, Action::Read, &project, None), reads);
        }
    }

    #[test]
    fn lists_are_read_in_every_form() {
        let patch: PermissionsPatch =
            serde_json::from_value(json!({"owners": "a, b ,a", "viewers": null, "x": 1})).unwrap();
        assert_eq!(patch.owners, Some(vec!["a".into(), "b".into()]));
        assert_eq!(patch.viewers, Some(vec![]));
        assert_eq!(patch.read_access, None);
        assert!(serde_json::from_value::<PermissionsPatch>(json!({"read_access": "all"})).is_err());
    }

    #[test]
    fn a_patch_changes_only_what_it_gives() {
        let base = Permissions {
            scope: Scope::Project,
            owners: vec!["a".into()],
            viewers: vec!["v".into()],
            read_access: Access::Viewers,
            write_access: Access::Owners,
        };
        let patch: PermissionsPatch =
            serde_json::from_value(json!({"read_access": "public"})).unwrap();
        let merged = patch.onto(base.clone());
        assert_eq!(merged.owners, base.owners);
        assert_eq!(merged.read_access, Access::Public);
    }
}
