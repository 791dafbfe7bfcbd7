//! Which storage a request is for, where an instance has several: a header says so
//! (`InstanceConfig::storage_switch`), and each storage has an app of its own behind it.

use std::collections::HashMap;
use std::sync::Arc;

use artifactdb_core::config::StorageSwitchConfig;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{Extensions, HeaderName, HeaderValue, header};
use tower::ServiceExt;

use crate::App;
use crate::error::ApiError;

pub(crate) struct Switch {
    header: HeaderName,
    /// As it is configured.
    name: String,
    vary: HeaderValue,
    /// By the header's value; none for the storage that needs no header.
    routers: HashMap<String, Option<Router>>,
    /// The header's values, for people.
    allowed: String,
}

impl Switch {
    /// `route` makes the routes of an app.
    pub fn new(
        config: &StorageSwitchConfig,
        apps: &[Arc<App>],
        route: impl Fn(Arc<App>) -> Router,
    ) -> Option<Self> {
        let header = HeaderName::try_from(&config.header).ok()?;
        let routers = config.contexts.iter().filter_map(|(value, alias)| {
            let serves = |app: &&Arc<App>| app.config.storage_alias() == Some(alias);
            let place = apps.iter().position(|app| serves(&app))?;
            let router = (place > 0).then(|| route(apps[place].clone()));
            Some((value.clone(), router))
        });
        let values: Vec<String> = config
            .contexts
            .keys()
            .map(|value| format!("'{value}'"))
            .collect();
        Some(Self {
            name: config.header.clone(),
            vary: HeaderValue::from_name(header.clone()),
            header,
            routers: routers.collect(),
            allowed: values.join(", "),
        })
    }
}

/// Hands the request to the app of its storage. An unknown value is refused (CONTRACT section 3.0).
pub(crate) async fn choose(
    State(switch): State<Arc<Switch>>,
    mut request: Request,
    next: Next,
) -> Response {
    // Of two headers, somebody on the way may have read the other one.
    let mut values = request.headers().get_all(&switch.header).iter();
    let chosen = match (values.next(), values.next()) {
        (None, _) => Some(&None),
        (Some(value), None) => value.to_str().ok().and_then(|own| switch.routers.get(own)),
        (Some(_), Some(_)) => None,
    };
    let Some(chosen) = chosen.cloned() else {
        return ApiError::bad_request(format!(
            "Invalid value for header {}. Allowed: [{}]",
            switch.name, switch.allowed
        ))
        .into_response();
    };
    let mut response = match chosen {
        None => next.run(request).await,
        Some(router) => {
            // What the first routing found would count twice.
            *request.extensions_mut() = Extensions::new();
            match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
    };
    response
        .headers_mut()
        .append(header::VARY, switch.vary.clone());
    response
}
