//! Credentials in URLs: permission for exactly one request (CONTRACT section 4.4). Stateless, so
//! that a restart or another replica honours them.

use std::collections::BTreeMap;

use artifactdb_core::id::{Project, Version};
use artifactdb_core::state::Epoch;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{ApiError, ApiResult};
use crate::signer::{Purpose, Signer};

/// The query parameter that carries a credential.
pub const CREDENTIAL: &str = "X-ADB-Credential";
/// Parameters that a client may add to a signed URL.
const FREE: [&str; 2] = [CREDENTIAL, "overwrite_permissions"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    Complete,
    Abort,
    Link,
    /// Of a version that was provisioned.
    Upload,
}

/// What a credential allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub act: Act,
    pub project: Project,
    pub version: Version,
    /// The upload that it was made for: a later one does not honour it. 0 where none has begun.
    pub epoch: Epoch,
    /// Whose upload it is.
    pub owner: String,
    pub expires: Timestamp,
    /// The signed query parameters.
    #[serde(default)]
    pub params: BTreeMap<String, String>,
}

impl Grant {
    pub fn seal(&self, signer: &Signer) -> String {
        signer.seal(Purpose::Credential, self)
    }

    /// Checks the credential of a request; `None` when it carries none.
    pub fn of_request(
        signer: &Signer,
        query: &BTreeMap<String, String>,
        act: Act,
        project: &Project,
        version: &Version,
        now: Timestamp,
    ) -> ApiResult<Option<Self>> {
        let Some(text) = query.get(CREDENTIAL) else {
            return Ok(None);
        };
        let refuse = |why: String| Err(ApiError::forbidden(format!("Forbidden, {why}")));
        let Some(grant) = signer.open::<Grant>(Purpose::Credential, text) else {
            return refuse("the credential in the URL is not one of this instance".to_owned());
        };
        if grant.expires < now {
            return refuse("the credential in the URL has expired".to_owned());
        }
        if grant.act != act || grant.project != *project || grant.version != *version {
            return refuse("the credential in the URL is for another request".to_owned());
        }
        for (name, value) in query {
            if FREE.contains(&name.as_str()) {
                continue;
            }
            match grant.params.get(name) {
                Some(signed) if signed == value => {}
                Some(signed) => {
                    let signed = artifactdb_core::id::excerpt(signed);
                    let value = artifactdb_core::id::excerpt(value);
                    return refuse(format!(
                        "'params' don't match, not allowed ({value} != {signed})"
                    ));
                }
                None => {
                    let name = artifactdb_core::id::excerpt(name);
                    return refuse(format!("parameter '{name}' was not signed"));
                }
            }
        }
        Ok(Some(grant))
    }
}
