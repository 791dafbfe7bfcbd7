//! Who calls: bearer tokens (`jwt`, with keys from `keys`), and credentials in signed URLs
//! (`grant`). What a caller may do is core's table.

mod grant;
mod jwt;
mod keys;

use std::sync::Arc;

use artifactdb_core::permissions::{Caller, User};
use axum::extract::FromRequestParts;
use http::header::AUTHORIZATION;
use http::request::Parts;

use crate::App;
use crate::error::{ApiError, ApiResult};

pub use grant::{Act, CREDENTIAL, Grant};
pub use jwt::Verifier;
pub use keys::{KeyError, StaticKey};

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
        let caller = match bearer(parts) {
            Some(token) if app.config.auth.enabled => {
                Caller::User(app.verifier.verify(token).await?)
            }
            _ => Caller::Anonymous,
        };
        Ok(Self { caller })
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
    }
}
