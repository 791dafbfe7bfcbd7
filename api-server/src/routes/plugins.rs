//! Plugins of the instance: which there are, how a person starts one, and what became of their runs.
//! They are containers of the cluster; this server asks the dispatcher by an event, and reads what the
//! operator writes of their ends (`core::plugin::RunRecord`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use artifactdb_core::event::{Event, EventStage};
use artifactdb_core::id::excerpt;
use artifactdb_core::plugin::{PluginConfig, RunRecord};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::jobs::accepted_as;
use crate::App;
use crate::auth::{Admin, Identity};
use crate::error::{ApiError, ApiResult};
use crate::openapi::shapes;
use crate::signer::Purpose;

/// What the names of tasks begin with that are plugins.
const TASK: &str = "plugin:";
/// Bytes of parameters at the most: they become a variable of the plugin's environment.
const PARAMS_MAX: usize = 16 * 1024;

/// The job behind a run that a person asked for: what names it is the event that starts it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunJob {
    plugin: String,
    event: String,
}

#[utoipa::path(get, path = "/plugins", tag = "tasks",
    responses(
        (status = 200, description = "The plugins of the instance, and repositories of them: none, as plugins are resources of the cluster", body = shapes::Plugins),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
    ))]
pub async fn plugins(State(app): State<Arc<App>>, _: Admin) -> ApiResult<Json<Value>> {
    let gprn = app.config.own_gprn().map(|own| own.to_string());
    let runs = app.runs().await;
    let plugins = app.config.plugins.items.iter().map(|own| {
        json!({
            "name": own.name,
            "on": own.interest.on,
            "projects": own.interest.projects,
            "excluded_projects": own.interest.excluded,
            "access": {"read": own.access.read, "write": own.access.write},
            "last_run": runs.get(&own.name).and_then(|runs| runs.first()).map(shown),
        })
    });
    Ok(Json(json!({
        "updated": null, "gprn": gprn, "repositories": [], "plugins": plugins.collect::<Vec<_>>(),
    })))
}

/// A run as it is shown.
fn shown(run: &RunRecord) -> Value {
    json!({
        "job": run.job, "event": run.event, "started": run.started, "finished": run.finished,
        "succeeded": run.succeeded, "exit_code": run.exit_code, "log": run.log,
    })
}

/// Plugins as entries of the list of tasks.
pub(super) fn tasks(app: &App) -> impl Iterator<Item = Value> {
    app.config.plugins.items.iter().map(|own| {
        let stages: Vec<&str> = own.interest.on.iter().map(|stage| stage.as_str()).collect();
        let about = match stages.is_empty() {
            true => "Runs the plugin, with the parameters that are given.".to_owned(),
            false => format!(
                "Runs the plugin, with the parameters that are given. By itself it runs on these events: {}.",
                stages.join(", ")
            ),
        };
        json!({
            "name": format!("{TASK}{}", own.name), "core": false, "mandatory": false,
            "callable_info": {"named_params": [], "args": null, "kwargs": null, "docs": about},
        })
    })
}

/// The plugin that the name of a task means.
pub(super) fn named<'a>(app: &'a App, task: &str) -> Option<&'a PluginConfig> {
    let name = task.strip_prefix(TASK)?;
    app.config.plugins.items.iter().find(|own| own.name == name)
}

/// Asks for a run. Whoever dispatches events starts it.
pub(super) async fn run(
    app: &App,
    who: &Identity,
    headers: &HeaderMap,
    plugin: &PluginConfig,
    params: BTreeMap<String, Value>,
) -> ApiResult<Response> {
    let name = &plugin.name;
    if app.config.elasticsearch.is_none() {
        return Err(ApiError::bad_request(format!(
            "plugins are containers and run in a cluster; `artifactdb plugin run {name}` runs the command of one here"
        )));
    }
    let params = json!(params);
    if params.to_string().len() > PARAMS_MAX {
        return Err(ApiError::unprocessable(format!(
            "params are larger than {PARAMS_MAX} bytes"
        )));
    }
    let message = json!({"plugin": name, "params": params, "by": who.name()});
    let cause = format!("{name} {:032x}", rand::random::<u128>());
    let now = app.versions.clock.now();
    let event = Event::of_instance(EventStage::Requested, &cause, now, message);
    app.versions.tell_of_instance(&event).await?;
    let job = RunJob {
        plugin: name.clone(),
        event: event.id,
    };
    Ok(accepted_as(headers, &app.signer.seal(Purpose::Job, &job)))
}

/// How a run that a person asked for has ended, as far as it is known.
pub(super) async fn job(app: &App, id: &str) -> Option<Value> {
    let job = app.signer.open::<RunJob>(Purpose::Job, id)?;
    let runs = app.runs().await;
    let mut known = runs.get(&job.plugin).into_iter().flatten();
    let run = known.find(|run| run.event.as_ref() == Some(&job.event));
    let status = match run.and_then(|run| run.succeeded) {
        None => "PENDING",
        Some(true) => "SUCCESS",
        Some(false) => "FAILURE",
    };
    Some(json!({
        "status": status,
        "result": run.map(shown),
        "traceback": run.filter(|run| run.succeeded == Some(false)).and_then(|run| run.log.clone()),
        "children": [],
        "date_done": run.and_then(|run| run.finished.clone()),
        "task_id": excerpt(id),
    }))
}

/// The last runs of every plugin, as entries of the tasks' logs.
pub(super) async fn logs(app: &App) -> BTreeMap<String, Vec<Value>> {
    let runs = app.runs().await.into_iter();
    runs.map(|(plugin, runs)| {
        let entries = runs
            .iter()
            .map(|run| json!({"time": run.finished, "logs": [shown(run).to_string()]}));
        (format!("{TASK}{plugin}"), entries.collect())
    })
    .collect()
}

impl App {
    /// The last runs of the instance's plugins, newest first, as the operator has written them.
    async fn runs(&self) -> BTreeMap<String, Vec<RunRecord>> {
        let Some(folder) = &self.runs else {
            return BTreeMap::new();
        };
        let mut all = BTreeMap::new();
        for plugin in &self.config.plugins.items {
            if let Some(runs) = read_runs(folder, &plugin.name).await {
                all.insert(plugin.name.clone(), runs);
            }
        }
        all
    }
}

/// What is not there, or not understood, is not known.
async fn read_runs(folder: &Path, plugin: &str) -> Option<Vec<RunRecord>> {
    let bytes = tokio::fs::read(folder.join(plugin)).await.ok()?;
    match serde_json::from_slice(&bytes) {
        Ok(runs) => Some(runs),
        Err(error) => {
            tracing::warn!(plugin, %error, "cannot read what became of a plugin's runs");
            None
        }
    }
}
