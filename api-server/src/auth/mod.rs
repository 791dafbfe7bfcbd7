//! Who calls: bearer tokens (`jwt`, with keys from `keys` and the user's `groups`), the key of
//! automation, and credentials in signed URLs (`grant`). What a caller may do is core's table.

mod grant;
mod groups;
mod jwt;
mod keys;

use std::sync::Arc;

use artifactdb_core::permissions::{Caller, User, roles};
use artifactdb_core::plugin::{Grants, PLUGIN_USER};
use axum::extract::FromRequestParts;
use http::HeaderName;
use http::header::AUTHORIZATION;
use http::request::Parts;

use crate::App;
use crate::error::{ApiError, ApiResult};
use crate::observe::Who;

pub use grant::{Act, CREDENTIAL, Grant};
pub(crate) use groups::Groups;
pub use jwt::Verifier;
pub use keys::{Bearers, KeyError, StaticKey, plugin_keys};

/// The header in which automation brings the instance's service key.
pub const SERVICE_KEY: HeaderName = HeaderName::from_static("x-adb-service-key");
/// Who automation is in logs and permissions.
const SERVICE_USER: &str = "service";

/// The caller of a request.
#[derive(Debug, Clone)]
pub struct Identity {
    pub caller: Caller,
}

impl Identity {
    pub fn name(&self) -> Option<&str> {
        self.caller.user_id()
    }

    /// The refusal that fits the caller: 401 for nobody, 403 for somebody.
    pub fn refusal(&self, what: &str) -> ApiError {
        match &self.caller {
            Caller::Anonymous => ApiError::unauthenticated(),
            Caller::User(user) => {
                ApiError::forbidden(format!("Forbidden, user '{}' {what}", user.id))
            }
            Caller::System => ApiError::forbidden(format!("Forbidden, the caller {what}")),
        }
    }
}

impl FromRequestParts<Arc<App>> for Identity {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> ApiResult<Self> {
        let named = match (parts.headers.get(SERVICE_KEY), bearer(parts)) {
            _ if !app.config.auth.enabled => Ok(Caller::Anonymous),
            (Some(key), _) => app.service_user(key.as_bytes()).map(Caller::User),
            (None, Some(token)) => app.user(token).await.map(Caller::User),
            (None, None) => Ok(Caller::Anonymous),
        };
        // Wrong credentials are counted as nobody's: guessing is not free.
        let counted = named.as_ref().unwrap_or(&Caller::Anonymous);
        app.limits.count(counted, parts)?;
        if let (Some(who), Some(user)) = (parts.extensions.get::<Who>(), counted.user_id()) {
            who.is(user);
        }
        Ok(Self { caller: named? })
    }
}

/// An administrator; anybody else is refused.
pub struct Admin(pub Identity);

impl FromRequestParts<Arc<App>> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> ApiResult<Self> {
        let identity = Identity::from_request_parts(parts, app).await?;
        app.require_role(&identity, &[roles::ADMIN])?;
        Ok(Self(identity))
    }
}

impl App {
    /// The user that a token names, with their groups.
    async fn user(&self, token: &str) -> ApiResult<User> {
        let mut user = self.verifier.verify(token).await?;
        // A plugin is nobody whom a directory knows.
        let person = !user.id.starts_with(PLUGIN_USER);
        if let Some(groups) = self.groups.as_ref().filter(|_| person) {
            user.groups = groups.of(&user.id).await;
        }
        Ok(user)
    }

    /// Automation that holds the instance's own key acts as an administrator. The key is not chosen
    /// by who calls (CONTRACT section 11, entry 2), and comparing it takes as long whatever differs.
    fn service_user(&self, given: &[u8]) -> ApiResult<User> {
        let Some(key) = &self.service_key else {
            return Err(ApiError::bad_request(
                "Invalid service key: this instance has none",
            ));
        };
        match self.signer.same(key, given) {
            true => Ok(user(SERVICE_USER.to_owned(), vec![roles::ADMIN.to_owned()])),
            false => Err(ApiError::bad_request("Invalid service key")),
        }
    }
}

/// The token of an `Authorization: Bearer` header. Anything else counts as no credentials at all.
fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// A user as a token names them.
pub(crate) fn user(id: String, roles: Vec<String>) -> User {
    User {
        id,
        groups: Vec::new(),
        roles,
        grants: Grants::default(),
    }
}
