//! Who we are to the store: keys that stay as they are, or those of a cloud role, which change.

use std::sync::Arc;

use parking_lot::RwLock;

#[derive(Clone)]
pub struct Credentials {
    pub access_key: String,
    pub secret_key: String,
    pub session_token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials { .. }")
    }
}

/// The credentials of now. Clones are the same one.
#[derive(Debug, Clone)]
pub struct CurrentCredentials(Arc<RwLock<Arc<Credentials>>>);

impl CurrentCredentials {
    pub fn get(&self) -> Arc<Credentials> {
        self.0.read().clone()
    }
}

impl From<Credentials> for CurrentCredentials {
    fn from(credentials: Credentials) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(credentials))))
    }
}

#[cfg(feature = "store")]
pub use role::RoleError;

#[cfg(feature = "store")]
mod role {
    //! The credentials that a cloud gives to what runs in it, by the rules of its own SDKs: a
    //! web identity token, a container's or a machine's metadata service, or a profile.

    use std::sync::{Arc, Weak};
    use std::time::{Duration, SystemTime};

    use aws_config::default_provider::credentials::DefaultCredentialsChain;
    use aws_config::provider_config::ProviderConfig;
    use aws_credential_types::provider::error::CredentialsError;
    use aws_credential_types::provider::{ProvideCredentials, future};
    use aws_sdk_s3::config::{Region, SharedHttpClient};
    use parking_lot::RwLock;
    use thiserror::Error;

    use super::{Credentials, CurrentCredentials};
    use crate::causes::causes;

    /// Shortest pause between two questions for new credentials.
    const PAUSE: Duration = Duration::from_secs(1);

    #[derive(Debug, Error)]
    pub enum RoleError {
        #[error("nothing here gives credentials of a role: {0}")]
        None(String),
        #[error("the credentials of the role are not there yet: {0}")]
        Away(String),
    }

    type Keys = aws_credential_types::Credentials;

    fn own(keys: &Keys) -> Credentials {
        Credentials {
            access_key: keys.access_key_id().to_owned(),
            secret_key: keys.secret_access_key().to_owned(),
            session_token: keys.session_token().map(str::to_owned),
        }
    }

    impl CurrentCredentials {
        /// The credentials of the role that this process has, renewed at half of their life for as
        /// long as anybody holds them.
        pub async fn of_role(region: &str, http: SharedHttpClient) -> Result<Self, RoleError> {
            let region = Region::new(region.to_owned());
            let config = ProviderConfig::without_region()
                .with_region(Some(region))
                .with_http_client(http);
            let chain = DefaultCredentialsChain::builder()
                .configure(config)
                .build()
                .await;
            let keys = chain.provide_credentials().await.map_err(|error| {
                let text = causes(&error);
                match error {
                    CredentialsError::CredentialsNotLoaded(_)
                    | CredentialsError::InvalidConfiguration(_) => RoleError::None(text),
                    _ => RoleError::Away(text),
                }
            })?;
            let current = Self::from(own(&keys));
            tokio::spawn(renew(chain, Arc::downgrade(&current.0), keys.expiry()));
            Ok(current)
        }
    }

    async fn renew(
        chain: DefaultCredentialsChain,
        current: Weak<RwLock<Arc<Credentials>>>,
        mut expiry: Option<SystemTime>,
    ) {
        while let Some(until) = expiry {
            let left = until.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::time::sleep(PAUSE.max(left / 2)).await;
            let Some(current) = current.upgrade() else {
                return;
            };
            match chain.provide_credentials().await {
                Ok(keys) => {
                    *current.write() = Arc::new(own(&keys));
                    expiry = keys.expiry();
                }
                Err(error) => {
                    let reason = causes(&error);
                    tracing::warn!(reason, "cannot renew the credentials of the role");
                }
            }
        }
    }

    /// The SDK asks for each request: what it remembers itself would be older than what URLs are
    /// signed with.
    impl ProvideCredentials for CurrentCredentials {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let now = self.get();
            future::ProvideCredentials::ready(Ok(Keys::new(
                &now.access_key,
                &now.secret_key,
                now.session_token.clone(),
                None,
                "artifactdb",
            )))
        }
    }
}
