//! The description of the API, generated from the handlers, and the page that shows it.

use axum::Json;
use axum::Router;
use utoipa::OpenApi;
use utoipa_swagger_ui::SwaggerUi;

use crate::routes::{
    files, gprn, index, info, jobs, locks, maintenance, permissions, projects, schemas, search,
    sequences, tasks, uploads,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "ArtifactDB",
        description = "Versioned data with metadata, search and permissions. Errors are JSON with `status` and `reason`.",
    ),
    paths(
        info::root,
        info::status,
        info::config,
        info::livez,
        info::readyz,
        info::metrics,
        files::metadata,
        files::download,
        files::link,
        projects::list,
        projects::versions,
        projects::metadata,
        projects::version_metadata,
        projects::version_info,
        projects::delete_version,
        uploads::upload,
        uploads::complete,
        uploads::abort,
        uploads::credentials,
        locks::get,
        locks::all,
        locks::lock,
        locks::unlock,
        permissions::of_project,
        permissions::set_of_project,
        permissions::delete_of_project,
        permissions::of_version,
        permissions::set_of_version,
        permissions::delete_of_version,
        gprn::validate,
        gprn::locate,
        gprn::children,
        gprn::parents,
        gprn::permissions,
        gprn::bulk_permissions,
        sequences::provision_project,
        sequences::provision_version,
        sequences::list,
        sequences::sync,
        sequences::current_version,
        search::search,
        search::aggregate,
        search::scroll,
        jobs::job,
        jobs::cancel,
        schemas::types,
        schemas::versions,
        schemas::schema,
        schemas::clients,
        schemas::validate,
        schemas::delete_cache,
        index::build,
        index::status,
        index::settings,
        index::delete_inactive,
        index::model,
        index::delete_model,
        index::generate_model,
        index::sync_model,
        index::mapping,
        index::sync_aliases,
        index::take_snapshot,
        index::snapshots,
        index::snapshot,
        index::delete_snapshot,
        tasks::list,
        tasks::plugins,
        tasks::run,
        tasks::logs,
        tasks::reset_logs,
        maintenance::status,
        maintenance::request,
        maintenance::take,
    )
)]
struct Description;

/// The description as a value.
pub fn openapi_json() -> serde_json::Value {
    serde_json::to_value(Description::openapi()).unwrap_or_default()
}

pub async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}

/// Swagger UI with its own assets; it reads `/openapi.json` relative to itself, behind any prefix.
pub fn ui() -> Router {
    SwaggerUi::new("/__swagger__")
        .config(utoipa_swagger_ui::Config::from("../openapi.json"))
        .into()
}

#[cfg(test)]
mod tests {
    /// Every change of the API shows in review.
    #[test]
    fn the_description_is_reviewed() {
        insta::assert_json_snapshot!("openapi", super::openapi_json());
    }
}
