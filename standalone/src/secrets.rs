//! What a data folder keeps secret: the keys of its object store, of URLs and of tokens. Made once,
//! readable by its owner alone.

use std::io::Write;
use std::path::Path;

use artifactdb_api::auth::{Bearers, StaticKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

const FILE: &str = "secrets.json";
/// The id of the key that signs an instance's own tokens.
const KEY_ID: &str = "standalone";
const PLUGIN_KEY_ID: &str = "standalone-plugins";

#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("cannot use '{path}': {problem}")]
    File { path: String, problem: String },
    #[error("'{0}' holds no instance; start it once with `artifactdb serve … --data {0}`")]
    Missing(String),
    #[error("cannot sign a token: {0}")]
    Sign(String),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secrets {
    /// Name of the instance that owns the folder.
    pub instance: String,
    /// The client id that its tokens are for.
    pub client_id: String,
    pub access_key: String,
    pub secret_key: String,
    /// Base64 without padding, here and below.
    signing_key: String,
    token_key: String,
}

fn random<const N: usize>() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; N]>())
}

impl Secrets {
    /// The secrets of `data`, made if there are none. A folder belongs to one instance for good.
    pub fn load_or_create(
        data: &Path,
        instance: &str,
        client_id: &str,
    ) -> Result<Self, SecretsError> {
        let fail = |problem: String| SecretsError::File {
            path: data.join(FILE).display().to_string(),
            problem,
        };
        match Self::load(data) {
            Ok(mut secrets) if secrets.instance == instance => {
                client_id.clone_into(&mut secrets.client_id);
                secrets.save(data)?;
                Ok(secrets)
            }
            Ok(secrets) => Err(fail(format!(
                "the folder belongs to the instance '{}', not to '{instance}'; choose another with --data",
                secrets.instance
            ))),
            Err(SecretsError::Missing(_)) => {
                let secrets = Self {
                    instance: instance.to_owned(),
                    client_id: client_id.to_owned(),
                    access_key: format!("{:020X}", rand::random::<u128>() >> 48),
                    secret_key: random::<30>(),
                    signing_key: random::<32>(),
                    token_key: random::<32>(),
                };
                secrets.save(data)?;
                Ok(secrets)
            }
            Err(error) => Err(error),
        }
    }

    pub fn load(data: &Path) -> Result<Self, SecretsError> {
        let path = data.join(FILE);
        let fail = |problem: String| SecretsError::File {
            path: path.display().to_string(),
            problem,
        };
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(SecretsError::Missing(data.display().to_string()))
            }
            Err(error) => Err(fail(error.to_string())),
        }
    }

    fn save(&self, data: &Path) -> Result<(), SecretsError> {
        let write = || -> std::io::Result<()> {
            let next = data.join("secrets.json.next");
            let mut options = std::fs::OpenOptions::new();
            options.create(true).write(true).truncate(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.open(&next)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            std::fs::rename(&next, data.join(FILE))
        };
        write().map_err(|error| SecretsError::File {
            path: data.join(FILE).display().to_string(),
            problem: error.to_string(),
        })
    }

    pub fn signing_key(&self) -> Vec<u8> {
        URL_SAFE_NO_PAD
            .decode(&self.signing_key)
            .unwrap_or_default()
    }

    pub fn issuer(&self) -> String {
        format!("urn:artifactdb:{}", self.instance)
    }

    /// The key that verifies the instance's own tokens.
    pub fn static_key(&self) -> Result<StaticKey, SecretsError> {
        let jwk = json!({"kty": "oct", "kid": KEY_ID, "alg": "HS256", "k": self.token_key});
        Ok(StaticKey {
            jwk: serde_json::from_value(jwk)
                .map_err(|error| SecretsError::Sign(error.to_string()))?,
            issuer: Some(self.issuer()),
            bearers: Bearers::Users,
        })
    }

    /// The key that verifies plugins' tokens. It is derived: a token of the one kind is none of the
    /// other.
    pub fn plugin_key(&self) -> Result<StaticKey, SecretsError> {
        let key = URL_SAFE_NO_PAD.encode(self.plugin_secret());
        let jwk = json!({"kty": "oct", "kid": PLUGIN_KEY_ID, "alg": "HS256", "k": key});
        Ok(StaticKey {
            jwk: serde_json::from_value(jwk)
                .map_err(|error| SecretsError::Sign(error.to_string()))?,
            issuer: Some(self.issuer()),
            bearers: Bearers::Plugins,
        })
    }

    fn plugin_secret(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(b"plugins\n");
        digest.update(self.token_key.as_bytes());
        digest.finalize().into()
    }

    /// What the tokens of plugins are for.
    pub fn plugin_audience(&self) -> String {
        format!("artifactdb/{}", self.instance)
    }

    /// A token of a plugin for `life`.
    pub fn plugin_token(
        &self,
        subject: &str,
        life: SignedDuration,
    ) -> Result<String, SecretsError> {
        let now = Timestamp::now().as_second();
        let claims = json!({
            "iss": self.issuer(),
            "aud": [self.plugin_audience()],
            "sub": subject,
            "iat": now,
            "exp": now.saturating_add(life.as_secs()),
        });
        let header = Header {
            kid: Some(PLUGIN_KEY_ID.to_owned()),
            ..Header::default()
        };
        encode(
            &header,
            &claims,
            &EncodingKey::from_secret(&self.plugin_secret()),
        )
        .map_err(|error| SecretsError::Sign(error.to_string()))
    }

    /// A token that names `user` with `roles` for `life`.
    pub fn token(
        &self,
        user: &str,
        roles: &[String],
        life: SignedDuration,
    ) -> Result<String, SecretsError> {
        let now = Timestamp::now().as_second();
        let claims = json!({
            "iss": self.issuer(),
            "azp": self.client_id,
            "preferred_username": user,
            "jti": random::<12>(),
            "iat": now,
            "exp": now.saturating_add(life.as_secs()),
            "resource_access": {&self.client_id: {"roles": roles}},
        });
        let header = Header {
            kid: Some(KEY_ID.to_owned()),
            ..Header::default()
        };
        let key = URL_SAFE_NO_PAD.decode(&self.token_key).unwrap_or_default();
        encode(&header, &claims, &EncodingKey::from_secret(&key))
            .map_err(|error| SecretsError::Sign(error.to_string()))
    }
}
