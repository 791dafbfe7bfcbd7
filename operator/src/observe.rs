//! Health and metrics of the operator, over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use crate::operator::Operator;

/// What is asked for.
pub struct Observed {
    pub operator: Arc<Operator>,
    pub leads: AtomicBool,
}

pub fn router(observed: Arc<Observed>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(observed)
}

/// Ready once everything was seen; a process that waits for the lease is ready, too.
async fn ready(State(observed): State<Arc<Observed>>) -> (StatusCode, String) {
    let missing = observed.operator.world.missing();
    if missing.is_empty() {
        return (StatusCode::OK, "ok".to_owned());
    }
    let names: Vec<&str> = missing.iter().map(String::as_str).collect();
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("waiting for: {}", names.join(", ")),
    )
}

/// In the Prometheus text format.
async fn metrics(State(observed): State<Arc<Observed>>) -> String {
    let operator = &observed.operator;
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: u64| {
        text.push_str(&format!(
            "# HELP artifactdb_operator_{name} {help}\n# TYPE artifactdb_operator_{name} {kind}\nartifactdb_operator_{name} {value}\n"
        ));
    };
    metric(
        "reconciles_total",
        "counter",
        "Reconciles that began",
        operator.reconciles.load(Ordering::Relaxed),
    );
    metric(
        "reconcile_errors_total",
        "counter",
        "Reconciles that failed",
        operator.failed.load(Ordering::Relaxed),
    );
    metric(
        "writes_total",
        "counter",
        "Writes to the API server",
        operator.writes(),
    );
    metric(
        "leader",
        "gauge",
        "Whether this process leads",
        u64::from(observed.leads.load(Ordering::Relaxed)),
    );
    text.push_str(
        "# HELP artifactdb_resource_condition Instances by condition and status\n# TYPE artifactdb_resource_condition gauge\n",
    );
    for ((condition, status), count) in conditions(operator) {
        text.push_str(&format!(
            "artifactdb_resource_condition{{kind=\"ArtifactDB\",condition=\"{condition}\",status=\"{status}\"}} {count}\n"
        ));
    }
    text
}

fn conditions(operator: &Operator) -> std::collections::BTreeMap<(String, String), u64> {
    let mut counts = std::collections::BTreeMap::new();
    for own in operator.world.instances.state() {
        let Ok(instance) = &own.0 else { continue };
        let status = instance.status.iter();
        for condition in status.flat_map(|status| &status.conditions) {
            let key = (condition.type_.clone(), condition.status.clone());
            *counts.entry(key).or_insert(0) += 1;
        }
    }
    counts
}
