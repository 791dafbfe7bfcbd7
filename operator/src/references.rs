//! The Secrets that an instance refers to, what must be in them, and where pods find it.

use artifactdb_crds::instance::ArtifactDBSpec;

use crate::object::ChildKind;

/// One key of a Secret, as a file below the secrets folder (`core::connect`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub key: String,
    pub path: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub kind: ChildKind,
    pub name: String,
    /// The field of the spec, for messages.
    pub field: String,
    /// Keys of which each must be there; or one of them, where `any` says so.
    pub items: Vec<Item>,
    /// One of several sets of keys is enough: of the engine, a user with a password or an API key.
    pub any: Vec<Vec<String>>,
}

fn item(key: &str, path: String) -> Item {
    Item {
        key: key.to_owned(),
        path,
    }
}

/// What the spec refers to, in the order of its fields.
pub fn references(spec: &ArtifactDBSpec) -> impl Iterator<Item = Reference> {
    let mut all = Vec::new();
    let mut add = |name: &str, field: String, items: Vec<Item>, any: Vec<Vec<String>>| {
        all.push(Reference {
            kind: ChildKind::Secret,
            name: name.to_owned(),
            field,
            items,
            any,
        });
    };
    for (place, storage) in spec.storage.iter().enumerate() {
        if let Some(own) = &storage.credentials_secret_ref {
            let path = |file: &str| format!("storage/{}/{file}", storage.alias);
            let items = ["accessKey", "secretKey", "sessionToken"];
            add(
                &own.name,
                format!("spec.storage[{place}].credentialsSecretRef"),
                items.iter().map(|key| item(key, path(key))).collect(),
                vec![vec!["accessKey".to_owned(), "secretKey".to_owned()]],
            );
        }
    }
    if let Some(engine) = &spec.elasticsearch {
        if let Some(own) = &engine.credentials_secret_ref {
            let keys = ["username", "password", "apiKey"];
            add(
                &own.name,
                "spec.elasticsearch.credentialsSecretRef".to_owned(),
                keys.iter()
                    .map(|key| item(key, format!("elasticsearch/{key}")))
                    .collect(),
                vec![
                    vec!["username".to_owned(), "password".to_owned()],
                    vec!["apiKey".to_owned()],
                ],
            );
        }
        if let Some(own) = &engine.ca_secret_ref {
            add(
                &own.name,
                "spec.elasticsearch.caSecretRef".to_owned(),
                vec![item(&own.key, "elasticsearch-ca/ca.crt".to_owned())],
                Vec::new(),
            );
        }
    }
    if let Some(redis) = &spec.redis {
        if let Some(own) = &redis.url_secret_ref {
            add(
                &own.name,
                "spec.redis.urlSecretRef".to_owned(),
                vec![item(&own.key, "redis/url".to_owned())],
                Vec::new(),
            );
        }
        if let Some(own) = &redis.ca_secret_ref {
            add(
                &own.name,
                "spec.redis.caSecretRef".to_owned(),
                vec![item(&own.key, "redis-ca/ca.crt".to_owned())],
                Vec::new(),
            );
        }
    }
    let auth = &spec.auth;
    for (field, own, path) in [
        (
            "spec.auth.staticKeysSecretRef",
            &auth.static_keys_secret_ref,
            "static-keys/keys.json",
        ),
        (
            "spec.auth.presignKeySecretRef",
            &auth.presign_key_secret_ref,
            "signing/key",
        ),
        (
            "spec.auth.serviceKeySecretRef",
            &auth.service_key_secret_ref,
            "service/key",
        ),
    ] {
        if let Some(own) = own {
            add(
                &own.name,
                field.to_owned(),
                vec![item(&own.key, path.to_owned())],
                Vec::new(),
            );
        }
    }
    all.into_iter()
}

impl Reference {
    /// What is wrong with the keys of the Secret that was found.
    pub fn problem(&self, keys: &[String]) -> Option<String> {
        let has = |key: &String| keys.contains(key);
        let wanted: Vec<Vec<String>> = match self.any.is_empty() {
            true => vec![self.items.iter().map(|item| item.key.clone()).collect()],
            false => self.any.clone(),
        };
        if wanted.iter().any(|set| set.iter().all(has)) {
            return None;
        }
        let sets: Vec<String> = wanted
            .iter()
            .map(|set| {
                let quoted: Vec<String> = set.iter().map(|key| format!("'{key}'")).collect();
                quoted.join(" and ")
            })
            .collect();
        Some(format!(
            "field '{}': the Secret '{}' must have {}",
            self.field,
            self.name,
            sets.join(", or ")
        ))
    }
}
