//! The description of the API, generated from the handlers, and the page that shows it. `shapes` has
//! what bodies and answers look like.

pub(crate) mod shapes;

use axum::Json;
use axum::Router;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi};
use utoipa_swagger_ui::SwaggerUi;

use crate::auth::SERVICE_KEY;
use crate::routes::{
    events, files, gprn, index, info, jobs, locks, maintenance, permissions, plugins, projects,
    schemas, search, sequences, tasks, uploads,
};

#[derive(OpenApi)]
#[openapi(
    modifiers(&Refusals, &Security),
    components(schemas(shapes::Refusal)),
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
        events::list_events,
        events::follow,
        tasks::list,
        plugins::plugins,
        tasks::run,
        tasks::logs,
        tasks::reset_logs,
        maintenance::status,
        maintenance::request,
        maintenance::take,
    )
)]
struct Description;

/// Adds what may come of every request of a kind, whichever its handler: the handlers say what is
/// theirs.
struct Refusals;

/// Routes of probes: they look at nothing that a caller sends.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/metrics"];

impl Modify for Refusals {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut openapi.paths.paths {
            let operations = [
                &mut item.get,
                &mut item.put,
                &mut item.post,
                &mut item.delete,
            ];
            for operation in operations.into_iter().flatten() {
                if !PROBES.contains(&&**path) {
                    refuse(operation);
                }
                for (status, response) in &mut operation.responses.responses {
                    let refuses = status.starts_with(['4', '5']);
                    if let (true, RefOr::T(response)) = (refuses, response) {
                        response
                            .content
                            .entry("application/json".to_owned())
                            .or_insert_with(|| {
                                RefOr::T(Content::new(Some(Ref::from_schema_name("Refusal"))))
                            });
                    }
                }
            }
        }
    }
}

/// How callers say who they are: not at all, by a token, or as the automation of the instance.
struct Security;

impl Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT");
        let key = ApiKey::Header(ApiKeyValue::new(SERVICE_KEY.as_str()));
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(token.build()));
        components.add_security_scheme("serviceKey", SecurityScheme::ApiKey(key));
        let none: [&str; 0] = [];
        openapi.security = Some(vec![
            SecurityRequirement::default(),
            SecurityRequirement::new("token", none),
            SecurityRequirement::new("serviceKey", none),
        ]);
    }
}

fn refuse(operation: &mut Operation) {
    let parameters = operation.parameters.iter().flatten();
    let asks = parameters
        .into_iter()
        .any(|own| matches!(own, RefOr::T(own) if own.parameter_in == ParameterIn::Query));
    let brings = operation.request_body.is_some();
    for (applies, status, what) in [
        (true, "400", "A name or a token is malformed"),
        (
            asks || brings,
            "422",
            "A parameter or the body is malformed",
        ),
        (brings, "413", "The body is too large"),
        (true, "429", "Too many requests of this caller"),
        (true, "503", "A server is away, or this one is busy"),
    ] {
        let known = &mut operation.responses.responses;
        if applies && !known.contains_key(status) {
            let response = ResponseBuilder::new().description(what).build();
            known.insert(status.to_owned(), RefOr::T(response));
        }
    }
}

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
