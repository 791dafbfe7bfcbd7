//! The REST API of an instance.
//!
//! `routes` holds a module per resource; the table of routes is below, on one screen. `auth` says
//! who calls, `access` what they may see or change, `error` how refusals look, `signer` makes what
//! is handed out and believed when it comes back, `openapi` describes the handlers, `observe`
//! measures them and `limits` how much callers ask, `caching` lets them keep answers, `recent`
//! remembers documents, `storage` chooses between storages, `serve` puts
//! them on a listener. No S3 keys and no engine here: those are core's. The binary is in `main`.

mod access;
pub mod auth;
mod caching;
mod error;
mod extract;
mod limits;
mod observe;
mod openapi;
mod recent;
mod routes;
mod serve;
mod signer;
mod storage;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use artifactdb_core::cache::SharedCache;
use artifactdb_core::config::{CorsConfig, InstanceConfig};
use artifactdb_core::search::Search;
use artifactdb_core::sequence::{Sequence, SequenceError};
use artifactdb_core::versions::Versions;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, post, put};
use http::{HeaderValue, header};
use jsonschema::Validator;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use auth::{Groups, KeyError, StaticKey, Verifier};
use limits::Limits;
use observe::Metrics;
use recent::RecentDocuments;
use routes::{
    events, files, gprn, index, info, jobs, locks, maintenance, permissions, plugins, projects,
    schemas, search, sequences, tasks, uploads,
};
use signer::Signer;
use storage::Switch;

pub use error::ApiError;
pub use openapi::openapi_json;
pub use serve::serve;

/// The largest body that any route reads, in bytes.
const BODY_MAX: usize = 1024 * 1024;
/// The same for upload requests: a hundred thousand names fit.
const UPLOAD_BODY_MAX: usize = 24 * 1024 * 1024;
/// Answers from this size on are compressed for clients that take it, in bytes.
const COMPRESSED_FROM: u64 = 1024;
/// Longest time that a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The same for those that write versions, which may be very large.
const WRITE_TIMEOUT: Duration = Duration::from_secs(300);

/// What nobody else may know. It is the same in every replica.
#[derive(Default)]
pub struct Secrets {
    /// Keys that verify tokens without a provider; those of plugins among them.
    pub static_keys: Vec<StaticKey>,
    /// Signs URLs, cursors and job ids.
    pub signing_key: Vec<u8>,
    /// By which automation acts as an administrator; absent: nobody does.
    pub service_key: Option<Vec<u8>>,
}

/// What the handlers work with: the instance on one of its storages.
pub struct App {
    pub config: Arc<InstanceConfig>,
    pub versions: Arc<Versions>,
    pub search: Arc<dyn Search>,
    verifier: Arc<Verifier>,
    groups: Option<Arc<Groups>>,
    service_key: Option<Arc<[u8]>>,
    signer: Signer,
    validators: Arc<HashMap<String, Validator>>,
    documents: RecentDocuments,
    sequences: Arc<Vec<Sequence>>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    stopping: Arc<AtomicBool>,
    /// Folder of files in which the operator tells what became of plugins' runs.
    runs: Option<PathBuf>,
    /// The instance on its further storages, behind the default one.
    others: Vec<Arc<App>>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("schema '{name}' cannot be used: {problem}")]
    Schema { name: String, problem: String },
    #[error(transparent)]
    Sequence(#[from] SequenceError),
}

impl App {
    /// `shared` is what the replicas remember together, where there is more than one.
    pub fn new(
        config: Arc<InstanceConfig>,
        versions: Arc<Versions>,
        search: Arc<dyn Search>,
        secrets: &Secrets,
        shared: Option<Arc<dyn SharedCache>>,
    ) -> Result<Self, StartError> {
        let mut validators = HashMap::new();
        for item in &config.schemas.items {
            let validator =
                jsonschema::validator_for(&item.schema).map_err(|error| StartError::Schema {
                    name: item.name(),
                    problem: error.to_string(),
                })?;
            validators.insert(item.name(), validator);
        }
        Ok(Self {
            verifier: Arc::new(Verifier::new(
                &config.auth,
                &config.plugins,
                &secrets.static_keys,
                shared,
            )?),
            groups: config
                .auth
                .groups
                .as_ref()
                .map(Groups::new)
                .transpose()?
                .map(Arc::new),
            service_key: secrets.service_key.as_deref().map(Arc::from),
            signer: Signer::new(&secrets.signing_key),
            validators: Arc::new(validators),
            documents: RecentDocuments::new(config.elasticsearch.is_some()),
            sequences: Arc::new(Sequence::all(&config.sequences)?),
            limits: Arc::new(Limits::new(&config.api)),
            metrics: Arc::new(Metrics::new()),
            stopping: Arc::default(),
            runs: None,
            others: Vec::new(),
            config,
            versions,
            search,
        })
    }

    /// Shows what became of plugins' runs from files of this folder, one per plugin. Storages that are
    /// added afterwards show the same.
    pub fn show_runs(&mut self, folder: PathBuf) {
        self.runs = Some(folder);
    }

    /// Adds a further storage, as `InstanceConfig::by_storage` has it. What this server signs for
    /// one storage is worth nothing on another.
    pub fn add_storage(
        &mut self,
        config: Arc<InstanceConfig>,
        versions: Arc<Versions>,
        search: Arc<dyn Search>,
    ) {
        let alias = config.storage_alias().unwrap_or_default();
        let app = Self {
            verifier: self.verifier.clone(),
            groups: self.groups.clone(),
            service_key: self.service_key.clone(),
            signer: self.signer.derived(alias),
            validators: self.validators.clone(),
            documents: RecentDocuments::new(config.elasticsearch.is_some()),
            sequences: self.sequences.clone(),
            limits: self.limits.clone(),
            metrics: self.metrics.clone(),
            stopping: self.stopping.clone(),
            runs: self.runs.clone(),
            others: Vec::new(),
            config,
            versions,
            search,
        };
        self.others.push(Arc::new(app));
    }

    /// This app and those of the further storages.
    pub(crate) fn everywhere(&self) -> impl Iterator<Item = &App> {
        std::iter::once(self).chain(self.others.iter().map(|app| &**app))
    }

    /// `/readyz` fails from now on, so that no new requests are sent here.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

/// Uploads: they take more bytes and more time than anything else.
fn upload_routes(app: &App) -> Router<Arc<App>> {
    let beginnings = Router::new()
        .route("/projects/upload", post(sequences::provision_project))
        .route(
            "/projects/{project}/upload",
            post(sequences::provision_version),
        )
        .route(
            "/projects/{project}/version/{version}/upload",
            post(uploads::upload),
        )
        .layer(DefaultBodyLimit::max(UPLOAD_BODY_MAX))
        .layer(from_fn_with_state(app.limits.clone(), limits::take_turns));
    beginnings.route(
        "/projects/{project}/version/{version}/complete",
        put(uploads::complete),
    )
}

/// The routes on one storage.
fn routes(app: Arc<App>) -> Router {
    let routes = Router::new()
        .route("/", get(info::root))
        .route("/status", get(info::status))
        .route("/config", get(info::config))
        .route("/livez", get(info::livez))
        .route("/readyz", get(info::readyz))
        .route("/metrics", get(info::metrics))
        .route(
            "/openapi.json",
            get(openapi::document).layer(from_fn(caching::revalidate)),
        )
        .route(
            "/files/{*id}",
            get(files::file_or_metadata).layer(from_fn(caching::revalidate)),
        )
        .route("/link/{*pair}", put(files::link))
        .route("/projects", get(projects::list))
        .route("/projects/lock", get(locks::all))
        .route("/projects/{project}/versions", get(projects::versions))
        .route("/projects/{project}/metadata", get(projects::metadata))
        .route(
            "/projects/{project}/version/{version}",
            delete(projects::delete_version),
        )
        .route(
            "/projects/{project}/version/{version}/metadata",
            get(projects::version_metadata),
        )
        .route(
            "/projects/{project}/version/{version}/info",
            get(projects::version_info),
        )
        .route(
            "/projects/{project}/version/{version}/credentials",
            get(uploads::credentials),
        )
        .route(
            "/projects/{project}/version/{version}/abort",
            put(uploads::abort),
        )
        .route(
            "/projects/{project}/lock",
            get(locks::get).post(locks::lock).delete(locks::unlock),
        )
        .route(
            "/projects/{project}/permissions",
            get(permissions::of_project)
                .put(permissions::set_of_project)
                .delete(permissions::delete_of_project),
        )
        .route(
            "/projects/{project}/version/{version}/permissions",
            get(permissions::of_version)
                .put(permissions::set_of_version)
                .delete(permissions::delete_of_version),
        )
        .route("/sequences", get(sequences::list))
        .route("/sequences/sync", put(sequences::sync))
        .route(
            "/sequences/{project}/current_version",
            get(sequences::current_version),
        )
        .route("/gprn/permissions", post(gprn::bulk_permissions))
        .route("/gprn/{*name}", get(gprn::lookup))
        .route("/search", get(search::search))
        .route("/aggregate", get(search::aggregate))
        .route("/scroll/{id}", get(search::scroll))
        .route("/jobs/{id}", get(jobs::job).delete(jobs::cancel))
        .route("/schemas", get(schemas::types))
        .route("/schemas/{type}", get(schemas::versions))
        .route(
            "/schemas/{type}/{version}",
            get(schemas::schema).layer(from_fn(caching::revalidate)),
        )
        .route("/schema/clients", get(schemas::clients))
        .route("/schema/validate", post(schemas::validate))
        .route("/schema/cache", delete(schemas::delete_cache))
        .route("/index/build", put(index::build))
        .route("/index/status", get(index::status))
        .route("/index/settings", get(index::settings))
        .route("/index/{alias}/inactive", delete(index::delete_inactive))
        .route("/index/models/generate", put(index::generate_model))
        .route("/index/models/sync", put(index::sync_model))
        .route(
            "/index/models/{alias}",
            get(index::model).delete(index::delete_model),
        )
        .route("/index/mappings/{alias}", get(index::mapping))
        .route("/index/aliases/sync", put(index::sync_aliases))
        .route("/index/snapshot", put(index::take_snapshot))
        .route("/index/snapshots", get(index::snapshots))
        .route(
            "/index/snapshots/{name}",
            get(index::snapshot).delete(index::delete_snapshot),
        )
        .route("/events", get(events::list_events))
        .route("/events/follow", get(events::follow))
        .route("/tasks", get(tasks::list))
        .route("/plugins", get(plugins::plugins))
        .route("/task/run", put(tasks::run))
        .route("/tasks/logs", get(tasks::logs))
        .route("/task/logs/reset", put(tasks::reset_logs))
        .route("/maintenance/status", get(maintenance::status))
        .route(
            "/maintenance/requests",
            put(maintenance::request).delete(maintenance::take),
        );
    routes
        .layer(from_fn_with_state(REQUEST_TIMEOUT, limits::in_time))
        .merge(upload_routes(&app).layer(from_fn_with_state(WRITE_TIMEOUT, limits::in_time)))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(app)
        .merge(openapi::ui())
        .fallback(observe::not_found)
        .method_not_allowed_fallback(observe::wrong_method)
}

/// Everything that is answered.
pub fn router(app: Arc<App>) -> Router {
    let mut all = vec![app.clone()];
    all.extend(app.others.iter().cloned());
    let switch = app.config.storage_switch.as_ref();
    let switch = switch.and_then(|switch| Switch::new(switch, &all, routes));
    let mut router = routes(app.clone());
    if let Some(switch) = switch {
        router = router.layer(from_fn_with_state(Arc::new(switch), storage::choose));
    }
    if let Some(cors) = &app.config.api.cors {
        router = router.layer(cors_layer(cors));
    }
    router
        .layer(
            CompressionLayer::new().compress_when(
                SizeAbove::new(COMPRESSED_FROM)
                    .and(NotForContentType::IMAGES)
                    // Compression would hold back what is to be told at once.
                    .and(NotForContentType::SSE),
            ),
        )
        .layer(from_fn_with_state(app.limits.clone(), limits::admit))
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(from_fn_with_state(app, observe::observe))
}

/// What browsers are told; nothing given is anything (CONTRACT section 3.0).
fn cors_layer(config: &CorsConfig) -> CorsLayer {
    fn known<T>(texts: &[String], parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        let any = texts.is_empty() || texts.iter().any(|text| text == "*");
        (!any).then(|| texts.iter().filter_map(|text| parse(text)).collect())
    }
    let origins = known(&config.allow_origins, |text| {
        HeaderValue::try_from(text).ok()
    });
    let methods = known(&config.allow_methods, |text| text.parse().ok());
    let headers = known(&config.allow_headers, |text| text.parse().ok());
    CorsLayer::new()
        .allow_origin(origins.map_or_else(AllowOrigin::any, AllowOrigin::list))
        .allow_methods(methods.map_or_else(AllowMethods::any, AllowMethods::list))
        .allow_headers(headers.map_or_else(AllowHeaders::any, AllowHeaders::list))
        .expose_headers([
            header::LINK,
            header::LOCATION,
            header::RETRY_AFTER,
            header::ETAG,
        ])
}

/// The service for a listener: the router behind what must come before routing.
pub fn service(app: Arc<App>) -> observe::Normalised {
    let prefix = app.config.api.prefix.clone();
    observe::Normalised::new(router(app), prefix)
}
