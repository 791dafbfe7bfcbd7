//! Bearer tokens: the signature is checked before anything in them is believed (CONTRACT section 6;
//! upstream's cache by `jti` accepted forged ones, section 11 entry 1).

use std::collections::HashMap;
use std::sync::Arc;

use artifactdb_core::cache::SharedCache;
use artifactdb_core::config::AuthConfig;
use artifactdb_core::permissions::User;
use jiff::Timestamp;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use moka::sync::Cache;
use serde::Deserialize;

use super::keys::{KeyError, Keys, StaticKey};
use crate::error::{ApiError, ApiResult};

/// Verified tokens that are remembered, by the whole of their text, signature included.
const REMEMBERED: u64 = 10_000;
/// Longest token that is looked at.
const TOKEN_MAX: usize = 16 * 1024;

#[derive(Deserialize)]
struct Claims {
    exp: i64,
    #[serde(default)]
    iss: Option<String>,
    #[serde(default)]
    azp: Option<String>,
    #[serde(default)]
    client_id: Option<String>,
    #[serde(default, rename = "clientId")]
    client_id_camel: Option<String>,
    #[serde(default)]
    preferred_username: Option<String>,
    #[serde(default)]
    resource_access: Option<HashMap<String, Access>>,
}

#[derive(Deserialize)]
struct Access {
    #[serde(default)]
    roles: Vec<String>,
}

#[derive(Clone)]
struct Verified {
    user: User,
    expires: i64,
}

/// Verifies the tokens of an instance.
pub struct Verifier {
    config: AuthConfig,
    keys: Keys,
    verified: Cache<String, Arc<Verified>>,
}

fn invalid(why: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("Invalid token, {why}"))
}

impl Verifier {
    pub fn new(
        config: &AuthConfig,
        fixed: &[StaticKey],
        shared: Option<Arc<dyn SharedCache>>,
    ) -> Result<Self, KeyError> {
        let providers = config
            .well_known_primary
            .iter()
            .chain(&config.well_known_secondary)
            .cloned()
            .collect();
        Ok(Self {
            config: config.clone(),
            keys: Keys::new(fixed, providers, shared)?,
            verified: Cache::new(REMEMBERED),
        })
    }

    /// The user that a token names; 400 with a reason for every other token.
    pub async fn verify(&self, token: &str) -> ApiResult<User> {
        let now = Timestamp::now().as_second();
        if let Some(known) = self.verified.get(token) {
            return match known.expires > now {
                true => Ok(known.user.clone()),
                false => Err(invalid("expired")),
            };
        }
        if token.len() > TOKEN_MAX {
            return Err(invalid("longer than 16 kB"));
        }
        let header = decode_header(token)
            .map_err(|_| invalid("malformed token claims: Error decoding token headers."))?;
        let kid = header.kid.unwrap_or_default();
        let Some(key) = self.keys.find(&kid).await else {
            let kid = artifactdb_core::id::excerpt(&kid);
            return Err(invalid(format!("unknown public key '{kid}'")));
        };
        if !key.algorithms.contains(&header.alg) {
            return Err(invalid("signature verification failed"));
        }
        let mut validation = Validation::new(header.alg);
        validation.leeway = 0;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp"]);
        match &self.config.audience {
            Some(audience) => validation.set_audience(&[audience]),
            None => validation.validate_aud = false,
        }
        let claims = decode::<Claims>(token, &key.decoding, &validation)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => invalid("expired"),
                ErrorKind::InvalidSignature => invalid("signature verification failed"),
                ErrorKind::InvalidAudience => invalid("wrong audience"),
                ErrorKind::ImmatureSignature => invalid("not valid yet"),
                _ => invalid("malformed token claims: Error decoding token claims."),
            })?
            .claims;
        match (&claims.iss, &key.issuer) {
            (Some(own), Some(issuer)) if own == issuer => {}
            (None, _) if key.issuer_optional => {}
            _ => return Err(invalid("wrong issuer")),
        }
        let expires = claims.exp;
        let user = self.user(claims)?;
        let verified = Verified {
            user: user.clone(),
            expires,
        };
        self.verified.insert(token.to_owned(), Arc::new(verified));
        Ok(user)
    }

    fn user(&self, claims: Claims) -> ApiResult<User> {
        let Some(azp) = claims.azp else {
            return Err(invalid("Can't find 'azp'"));
        };
        let client = claims.client_id.or(claims.client_id_camel).unwrap_or(azp);
        if !self.config.known_clients.contains(&client) {
            let client = artifactdb_core::id::excerpt(&client);
            return Err(invalid(format!("unknown client_id '{client}'")));
        }
        let Some(id) = claims.preferred_username.filter(|name| !name.is_empty()) else {
            return Err(invalid(
                "malformed token claims: missing 'preferred_username' field",
            ));
        };
        let roles = claims.resource_access.and_then(|mut access| {
            let own = access.remove(&self.config.client_id);
            own.or_else(|| access.remove(&client))
        });
        Ok(super::user(
            id,
            roles.map(|access| access.roles).unwrap_or_default(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use serde_json::{Value, json};

    fn verifier() -> Verifier {
        let config = AuthConfig {
            known_clients: vec!["artifactdb".into()],
            ..AuthConfig::default()
        };
        let jwk: Jwk = serde_json::from_value(json!({
            "kty": "oct", "kid": "own", "alg": "HS256", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA",
        }))
        .unwrap();
        let key = StaticKey {
            jwk,
            issuer: Some("urn:own".into()),
        };
        Verifier::new(&config, &[key], None).unwrap()
    }

    fn claims() -> Value {
        json!({
            "exp": Timestamp::now().as_second() + 600, "iss": "urn:own", "azp": "artifactdb",
            "preferred_username": "ann", "jti": "1",
            "resource_access": {"artifactdb": {"roles": ["uploader"]}},
        })
    }

    fn token(claims: &Value, secret: &[u8], kid: &str, alg: Algorithm) -> String {
        let header = Header {
            kid: Some(kid.into()),
            ..Header::new(alg)
        };
        encode(&header, claims, &EncodingKey::from_secret(secret)).unwrap()
    }

    const SECRET: &[u8] = b"secret-secret-secret-secret-secret";

    async fn reason(token: &str) -> String {
        verifier().verify(token).await.unwrap_err().reason
    }

    #[tokio::test]
    async fn a_good_token_names_its_user() {
        let verifier = verifier();
        let token = token(&claims(), SECRET, "own", Algorithm::HS256);
        for _ in 0..2 {
            let user = verifier.verify(&token).await.unwrap();
            assert_eq!(
                (user.id.as_str(), user.roles),
                ("ann", vec!["uploader".to_owned()])
            );
        }
    }

    #[tokio::test]
    async fn a_known_jti_does_not_make_a_forged_token_good() {
        let verifier = verifier();
        verifier
            .verify(&token(&claims(), SECRET, "own", Algorithm::HS256))
            .await
            .unwrap();
        let mut forged = claims();
        forged["resource_access"]["artifactdb"]["roles"] = json!(["admin"]);
        let forged = token(&forged, b"another secret", "own", Algorithm::HS256);
        let error = verifier.verify(&forged).await.unwrap_err();
        assert_eq!(error.reason, "Invalid token, signature verification failed");
    }

    #[tokio::test]
    async fn every_bad_token_has_its_reason() {
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            token(&claims, SECRET, "own", Algorithm::HS256)
        };
        let now = Timestamp::now().as_second();
        assert_eq!(
            reason(&with("exp", json!(now - 1))).await,
            "Invalid token, expired"
        );
        assert_eq!(
            reason(&with("nbf", json!(now + 60))).await,
            "Invalid token, not valid yet"
        );
        assert_eq!(
            reason(&with("iss", json!("urn:x"))).await,
            "Invalid token, wrong issuer"
        );
        assert_eq!(
            reason(&with("azp", Value::Null)).await,
            "Invalid token, Can't find 'azp'"
        );
        assert_eq!(
            reason(&with("azp", json!("x"))).await,
            "Invalid token, unknown client_id 'x'"
        );
        assert!(
            reason(&with("preferred_username", json!("")))
                .await
                .contains("preferred_username")
        );
        let other_key = token(&claims(), SECRET, "x", Algorithm::HS256);
        assert_eq!(
            reason(&other_key).await,
            "Invalid token, unknown public key 'x'"
        );
        let other_alg = token(&claims(), SECRET, "own", Algorithm::HS512);
        assert_eq!(
            reason(&other_alg).await,
            "Invalid token, signature verification failed"
        );
        // {"alg":"none","kid":"own"} and a payload, unsigned.
        let none = "eyJhbGciOiJub25lIiwia2lkIjoib3duIn0.eyJwcmVmZXJyZWRfdXNlcm5hbWUiOiJhIn0.";
        assert!(reason(none).await.starts_with("Invalid token, malformed"));
        for garbage in ["", "a", "a.b.c", "....", &"x".repeat(20_000)] {
            assert!(reason(garbage).await.starts_with("Invalid token, "));
        }
    }
}
