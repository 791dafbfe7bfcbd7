//! Bearer tokens: the signature is checked before anything in them is believed (CONTRACT section 6;
//! upstream's cache by `jti` accepted forged ones, section 11 entry 1).

use std::collections::HashMap;
use std::sync::Arc;

use artifactdb_core::cache::SharedCache;
use artifactdb_core::config::{AuthConfig, PluginsConfig};
use artifactdb_core::permissions::User;
use artifactdb_core::plugin::PLUGIN_USER;
use jiff::Timestamp;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use moka::sync::Cache;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::keys::{Bearers, Key, KeyError, Keys, StaticKey};
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

/// What the cluster says of the pod of a plugin.
#[derive(Deserialize)]
struct PluginClaims {
    exp: i64,
    iss: String,
    sub: String,
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
    plugins: PluginsConfig,
    keys: Keys,
    verified: Cache<String, Arc<Verified>>,
}

fn invalid(why: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("Invalid token, {why}"))
}

impl Verifier {
    pub fn new(
        config: &AuthConfig,
        plugins: &PluginsConfig,
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
            plugins: plugins.clone(),
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
        let (user, expires) = match key.bearers {
            Bearers::Users => self.user(token, &key, validation)?,
            Bearers::Plugins => self.plugin(token, &key, validation)?,
        };
        let verified = Verified {
            user: user.clone(),
            expires,
        };
        self.verified.insert(token.to_owned(), Arc::new(verified));
        Ok(user)
    }

    /// The plugin whose pod a token is bound to, and when the token ends.
    fn plugin(&self, token: &str, key: &Key, mut validation: Validation) -> ApiResult<(User, i64)> {
        // The clocks of a cluster's machines are not one.
        validation.leeway = 10;
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        validation.set_audience(&[&self.plugins.audience]);
        let claims: PluginClaims = claims(token, key, &validation)?;
        if key.issuer.as_ref() != Some(&claims.iss) {
            return Err(invalid("wrong issuer"));
        }
        let known = self.plugins.items.iter();
        let plugin = known
            .into_iter()
            .find(|own| own.subject == claims.sub)
            .ok_or_else(|| {
                let subject = artifactdb_core::id::excerpt(&claims.sub);
                invalid(format!("'{subject}' is no plugin of this instance"))
            })?;
        let user = User {
            grants: plugin.access.clone(),
            ..super::user(plugin.user(), Vec::new())
        };
        Ok((user, claims.exp))
    }

    fn user(&self, token: &str, key: &Key, mut validation: Validation) -> ApiResult<(User, i64)> {
        match &self.config.audience {
            Some(audience) => validation.set_audience(&[audience]),
            None => validation.validate_aud = false,
        }
        let claims: Claims = claims(token, key, &validation)?;
        match (&claims.iss, &key.issuer) {
            (Some(own), Some(issuer)) if own == issuer => {}
            (None, _) if key.issuer_optional => {}
            _ => return Err(invalid("wrong issuer")),
        }
        let expires = claims.exp;
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
        // A person of that name would be taken for a plugin where owners are named.
        if id.starts_with(PLUGIN_USER) {
            return Err(invalid("a name that begins with 'plugin:' is a plugin's"));
        }
        let roles = roles.map(|access| access.roles).unwrap_or_default();
        Ok((super::user(id, roles), expires))
    }
}

fn claims<T: DeserializeOwned>(token: &str, key: &Key, validation: &Validation) -> ApiResult<T> {
    let decoded = decode::<T>(token, &key.decoding, validation);
    let decoded = decoded.map_err(|error| match error.kind() {
        ErrorKind::ExpiredSignature => invalid("expired"),
        ErrorKind::InvalidSignature => invalid("signature verification failed"),
        ErrorKind::InvalidAudience => invalid("wrong audience"),
        ErrorKind::ImmatureSignature => invalid("not valid yet"),
        _ => invalid("malformed token claims: Error decoding token claims."),
    })?;
    Ok(decoded.claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use artifactdb_core::id::Project;
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
            bearers: Bearers::Users,
        };
        Verifier::new(&config, &PluginsConfig::default(), &[key], None).unwrap()
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
    async fn plugins_and_users_have_keys_of_their_own() {
        let key = |kid: &str, secret: &[u8], bearers| {
            let k = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, secret);
            let jwk = json!({"kty": "oct", "kid": kid, "alg": "HS256", "k": k});
            StaticKey {
                jwk: serde_json::from_value(jwk).unwrap(),
                issuer: Some("urn:own".into()),
                bearers,
            }
        };
        let plugins: PluginsConfig = serde_json::from_value(json!({
            "issuer": "urn:own", "audience": "artifactdb/x",
            "items": [{"name": "audit", "subject": "sub:audit", "access": {"read": ["P*"]}}],
        }))
        .unwrap();
        let config = AuthConfig {
            known_clients: vec!["artifactdb".into()],
            ..AuthConfig::default()
        };
        let keys = [
            key("own", SECRET, Bearers::Users),
            key("pods", SECRET, Bearers::Plugins),
        ];
        let verifier = Verifier::new(&config, &plugins, &keys, None).unwrap();
        let pod = |name: &str, value: Value| {
            let now = Timestamp::now().as_second();
            let mut claims = json!({
                "exp": now + 600, "iss": "urn:own", "aud": ["artifactdb/x"], "sub": "sub:audit",
                // What a user's token would say counts for nothing here.
                "azp": "artifactdb", "preferred_username": "ann",
                "resource_access": {"artifactdb": {"roles": ["admin"]}},
            });
            claims[name] = value;
            token(&claims, SECRET, "pods", Algorithm::HS256)
        };
        let user = verifier.verify(&pod("x", json!(1))).await.unwrap();
        assert_eq!(user.id, "plugin:audit");
        assert!(user.roles.is_empty());
        assert!(user.grants.read.covers(&Project::new("P1").unwrap()));
        for (name, value, wanted) in [
            ("aud", json!(["artifactdb/y"]), "wrong audience"),
            ("iss", json!("urn:other"), "wrong issuer"),
            (
                "sub",
                json!("sub:nobody"),
                "'sub:nobody' is no plugin of this instance",
            ),
            (
                "aud",
                Value::Null,
                "malformed token claims: Error decoding token claims.",
            ),
        ] {
            let error = verifier.verify(&pod(name, value)).await.unwrap_err();
            assert_eq!(error.reason, format!("Invalid token, {wanted}"), "{name}");
        }
        // A plugin's token under a user's key, and a person who calls themselves a plugin.
        let mut person = claims();
        person["sub"] = json!("sub:audit");
        person["preferred_username"] = json!("plugin:audit");
        let person = token(&person, SECRET, "own", Algorithm::HS256);
        assert!(verifier.verify(&person).await.is_err());
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
