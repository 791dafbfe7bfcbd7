//! The keys that verify tokens: static ones, and those of identity providers, found through their
//! discovery documents. Each key knows the algorithms and the issuer that it speaks for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use artifactdb_core::cache::SharedCache;
use artifactdb_core::causes::causes;
use artifactdb_core::config::PluginsConfig;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Mutex;

/// How long a provider's keys are believed before they are asked for again.
const KEYS_LIFE: Duration = Duration::from_secs(12 * 3600);
/// Shortest time between two fetches, whatever unknown keys tokens name.
const FETCH_PAUSE: Duration = Duration::from_secs(10);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub enum KeyError {
    #[error("key '{kid}': {problem}")]
    Unusable { kid: String, problem: String },
    #[error("cannot make a client of identity providers: {0}")]
    Client(String),
}

/// A key that the instance itself holds.
#[derive(Debug, Clone)]
pub struct StaticKey {
    pub jwk: Jwk,
    /// What `iss` must be, where the token has one.
    pub issuer: Option<String>,
    /// Whose tokens it verifies.
    pub bearers: Bearers,
}

/// Whose tokens a key verifies: one that signs for the ones says nothing of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bearers {
    Users,
    /// The pods of plugins.
    Plugins,
}

#[derive(Clone)]
pub struct Key {
    pub bearers: Bearers,
    pub decoding: DecodingKey,
    pub algorithms: Vec<Algorithm>,
    pub issuer: Option<String>,
    /// Whether a token without `iss` passes.
    pub issuer_optional: bool,
}

/// All keys of an instance.
pub struct Keys {
    shared: Option<Arc<dyn SharedCache>>,
    fixed: HashMap<String, Arc<Key>>,
    providers: Vec<String>,
    /// Absent where there are no providers.
    client: Option<reqwest::Client>,
    fetched: RwLock<Fetched>,
    fetching: Mutex<()>,
}

#[derive(Default)]
struct Fetched {
    /// Keys of a provider that does not answer now stay: tokens go on working.
    by_provider: HashMap<String, HashMap<String, Arc<Key>>>,
    at: Option<Instant>,
}

/// What a provider said, as every replica may remember it.
#[derive(Serialize, Deserialize)]
struct Published {
    issuer: String,
    set: JwkSet,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Keys {
    /// `shared` is asked for a provider's keys when the provider itself does not answer, so that a
    /// replica that starts then knows them too.
    pub fn new(
        fixed: &[StaticKey],
        providers: Vec<String>,
        shared: Option<Arc<dyn SharedCache>>,
    ) -> Result<Self, KeyError> {
        let mut known = HashMap::new();
        for key in fixed {
            let kid = key.jwk.common.key_id.clone().unwrap_or_default();
            let unusable = |problem: String| KeyError::Unusable {
                kid: kid.clone(),
                problem,
            };
            let algorithms = algorithms(&key.jwk)
                .ok_or_else(|| unusable("its type or algorithm is not supported".to_owned()))?;
            let decoding =
                DecodingKey::from_jwk(&key.jwk).map_err(|error| unusable(error.to_string()))?;
            let own = Key {
                bearers: key.bearers,
                decoding,
                algorithms,
                issuer: key.issuer.clone(),
                issuer_optional: key.bearers == Bearers::Users,
            };
            known.insert(kid, Arc::new(own));
        }
        // Without providers nobody is asked, and no certificate authorities are needed.
        let client = match providers.is_empty() {
            true => None,
            false => Some(
                reqwest::Client::builder()
                    .timeout(FETCH_TIMEOUT)
                    .build()
                    .map_err(|error| KeyError::Client(causes(&error)))?,
            ),
        };
        Ok(Self {
            shared,
            fixed: known,
            providers,
            client,
            fetched: RwLock::new(Fetched::default()),
            fetching: Mutex::new(()),
        })
    }

    /// The key of this id. Providers are asked when their keys are old, or do not hold it.
    pub async fn find(&self, kid: &str) -> Option<Arc<Key>> {
        if let Some(key) = self.fixed.get(kid) {
            return Some(key.clone());
        }
        // Nobody to ask.
        self.client.as_ref()?;
        match self.look(kid) {
            (Some(key), true) => Some(key),
            (found, _) => {
                self.fetch().await;
                self.look(kid).0.or(found)
            }
        }
    }

    fn look(&self, kid: &str) -> (Option<Arc<Key>>, bool) {
        let fetched = self.fetched.read();
        let fresh = fetched.at.is_some_and(|at| at.elapsed() < KEYS_LIFE);
        let key = fetched
            .by_provider
            .values()
            .find_map(|keys| keys.get(kid))
            .cloned();
        (key, fresh)
    }

    async fn fetch(&self) {
        let _one_at_a_time = self.fetching.lock().await;
        let recent = self
            .fetched
            .read()
            .at
            .is_some_and(|at| at.elapsed() < FETCH_PAUSE);
        if recent {
            return;
        }
        let Some(client) = &self.client else { return };
        for provider in &self.providers {
            match fetch_one(client, provider).await {
                Ok(published) => {
                    self.learn(provider, &published);
                    if let (Some(shared), Ok(text)) =
                        (&self.shared, serde_json::to_string(&published))
                    {
                        // Without an end: it is what is left when the provider is away.
                        shared.remember(&cache_name(provider), &text, None).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(provider, %error, "cannot fetch the keys of an identity provider");
                    self.recall(provider).await;
                }
            }
        }
        self.fetched.write().at = Some(Instant::now());
    }

    /// Keys that another replica, or this one before it was started anew, has seen.
    async fn recall(&self, provider: &str) {
        if self.fetched.read().by_provider.contains_key(provider) {
            return;
        }
        let Some(shared) = &self.shared else { return };
        let text = shared.recall(&cache_name(provider)).await;
        if let Some(published) = text.and_then(|text| serde_json::from_str(&text).ok()) {
            self.learn(provider, &published);
        }
    }

    fn learn(&self, provider: &str, published: &Published) {
        let keys = usable(published);
        let mut fetched = self.fetched.write();
        fetched.by_provider.insert(provider.to_owned(), keys);
    }
}

async fn fetch_one(client: &reqwest::Client, url: &str) -> reqwest::Result<Published> {
    let get = |url: String| async move { client.get(url).send().await?.error_for_status() };
    let discovery: Discovery = get(url.to_owned()).await?.json().await?;
    Ok(Published {
        issuer: discovery.issuer,
        set: get(discovery.jwks_uri).await?.json().await?,
    })
}

fn cache_name(provider: &str) -> String {
    format!("keys:{provider}")
}

/// The keys of a provider that can verify tokens, by their id.
fn usable(published: &Published) -> HashMap<String, Arc<Key>> {
    let mut keys = HashMap::new();
    for jwk in &published.set.keys {
        let Some(kid) = jwk.common.key_id.clone() else {
            continue;
        };
        let encrypts = jwk.common.public_key_use == Some(PublicKeyUse::Encryption);
        // A shared secret has no place in a public document.
        let secret = matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
        if encrypts || secret {
            continue;
        }
        let (Some(algorithms), Ok(decoding)) = (algorithms(jwk), DecodingKey::from_jwk(jwk)) else {
            continue;
        };
        let key = Key {
            bearers: Bearers::Users,
            decoding,
            algorithms,
            issuer: Some(published.issuer.clone()),
            issuer_optional: false,
        };
        keys.insert(kid, Arc::new(key));
    }
    keys
}

/// The public keys of the cluster, which verify plugins' tokens. One that is not understood is left
/// out: its tokens are refused, and nobody else's.
pub fn plugin_keys(config: &PluginsConfig) -> Vec<StaticKey> {
    let keys = config.keys.iter().filter_map(|key| {
        let jwk: Jwk = match serde_json::from_value(key.clone()) {
            Ok(jwk) => jwk,
            Err(error) => {
                tracing::warn!(%error, "a key of plugins' tokens is not understood");
                return None;
            }
        };
        // A shared secret has no place among public keys.
        let secret = matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
        let usable = !secret && algorithms(&jwk).is_some() && DecodingKey::from_jwk(&jwk).is_ok();
        usable.then(|| StaticKey {
            jwk,
            issuer: Some(config.issuer.clone()),
            bearers: Bearers::Plugins,
        })
    });
    keys.collect()
}

/// The algorithms that a key may be used with: never those of another type of key.
fn algorithms(jwk: &Jwk) -> Option<Vec<Algorithm>> {
    use jsonwebtoken::jwk::EllipticCurve;
    let family = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
        AlgorithmParameters::OctetKey(_) => {
            vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512]
        }
        _ => return None,
    };
    match &jwk.common.key_algorithm {
        None => Some(family),
        Some(named) => {
            let named: Algorithm = named.to_string().parse().ok()?;
            family.contains(&named).then(|| vec![named])
        }
    }
}
