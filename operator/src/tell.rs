//! Statuses of resources other than instances, written where they differ, with Events on what changed.

use std::time::Duration;

use artifactdb_crds::common::Conditions;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::names::MANAGER;
use crate::operator::{Operator, ReconcileError};
use crate::status::{dated, stated, transitions};

/// Between two looks at a resource where nothing happens.
pub const RESYNC: Duration = Duration::from_secs(600);

fn parameters() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

impl Operator {
    /// Writes a status, and tells people what changed from `before` to `after`.
    pub async fn tell<K, S>(
        &self,
        own: &K,
        status: &S,
        before: &[Condition],
        after: &[Condition],
    ) -> Result<(), ReconcileError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
        S: Serialize,
    {
        let namespace = own.namespace().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.world.client.clone(), &namespace);
        let patch = json!({"status": status});
        api.patch_status(&own.name_any(), &parameters(), &Patch::Merge(&patch))
            .await?;
        self.wrote();
        for (reason, message, bad) in transitions(before, after) {
            self.event(own, &reason, &message, bad).await;
        }
        Ok(())
    }
}

/// A resource that the API server took under another definition: it is told, once for each
/// generation, and holds up no other.
pub async fn undecodable<K>(
    operator: &Operator,
    invalid: &InvalidObject,
    condition: &'static str,
) -> Result<Action, ReconcileError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let meta = &invalid.metadata;
    let namespace = meta.namespace.clone().unwrap_or_default();
    let name = meta.name.clone().unwrap_or_default();
    let key = format!("{} {namespace}/{name}@{:?}", K::kind(&()), meta.generation);
    if !operator.undecodable.lock().insert(key) {
        return Ok(Action::await_change());
    }
    let message = format!("the resource cannot be read: {}", invalid.error);
    let conditions: Conditions = dated(
        vec![stated(condition, false, "Undecodable", &*message)],
        &[],
        meta.generation,
        Timestamp::now(),
    );
    let api: Api<kube::core::PartialObjectMeta<K>> =
        Api::namespaced(operator.world.client.clone(), &namespace);
    let patch = json!({"status": {"conditions": conditions}});
    api.patch_status(&name, &parameters(), &Patch::Merge(&patch))
        .await?;
    Ok(Action::await_change())
}
