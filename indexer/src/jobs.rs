//! Jobs of the cluster that this process runs in: made, and never read.

use anyhow::Context;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Client};
use serde_json::Value;

use artifactdb_indexer::{JobError, Jobs};

/// Who makes them, as Kubernetes records it.
const WRITER: &str = "artifactdb-dispatcher";

#[derive(Clone)]
pub struct ClusterJobs(Api<DynamicObject>);

impl ClusterJobs {
    /// Those of a namespace, by the account that the pod was given, or by KUBECONFIG.
    pub async fn of(namespace: &str) -> anyhow::Result<Self> {
        let client = Client::try_default()
            .await
            .context("no cluster is known: the dispatcher runs in one, or needs KUBECONFIG")?;
        let resource = ApiResource {
            group: "batch".to_owned(),
            version: "v1".to_owned(),
            api_version: "batch/v1".to_owned(),
            kind: "Job".to_owned(),
            plural: "jobs".to_owned(),
        };
        Ok(Self(Api::namespaced_with(client, namespace, &resource)))
    }
}

impl Jobs for ClusterJobs {
    async fn create(&self, job: &Value) -> Result<(), JobError> {
        let job: DynamicObject = serde_json::from_value(job.clone())
            .map_err(|error| JobError::Refused(error.to_string()))?;
        let parameters = PostParams {
            field_manager: Some(WRITER.to_owned()),
            ..PostParams::default()
        };
        match self.0.create(&parameters, &job).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) => match status.code {
                409 if status.reason == "AlreadyExists" => Ok(()),
                400 | 413 | 422 => Err(JobError::Refused(status.message)),
                // Neither a quota nor a missing right is the Job's own fault.
                403 if ![
                    "exceeded quota",
                    "cannot create resource",
                    "is being terminated",
                ]
                .iter()
                .any(|words| status.message.contains(words)) =>
                {
                    Err(JobError::Denied(status.message))
                }
                _ => Err(JobError::Busy(status.message)),
            },
            Err(error) => Err(JobError::Busy(artifactdb_core::causes::causes(&error))),
        }
    }
}
