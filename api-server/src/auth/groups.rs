//! The groups of a user, from a directory that answers at a URL (CONTRACT section 6, distribution
//! lists). They count as the user in owners and viewers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use artifactdb_core::causes::causes;
use artifactdb_core::config::GroupsConfig;
use moka::sync::Cache;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::keys::KeyError;

/// Users whose groups are remembered.
const REMEMBERED: u64 = 10_000;
/// Groups of one user that count; the filter of every search of theirs names all of them.
const GROUPS_MAX: usize = 1000;
const ANSWER: Duration = Duration::from_secs(3);
/// Pause before a directory that did not answer is asked again about the same user.
const PAUSE: Duration = Duration::from_secs(30);

/// What stands for the user in the template.
pub const PLACE: &str = "{user}";

struct Known {
    groups: Vec<String>,
    /// When the directory is asked again.
    until: Instant,
    /// When the groups count no longer, whatever the directory does.
    end: Instant,
}

pub struct Groups {
    template: String,
    life: Duration,
    client: reqwest::Client,
    known: Cache<String, Arc<Known>>,
}

impl Groups {
    pub fn new(config: &GroupsConfig) -> Result<Self, KeyError> {
        let client = reqwest::Client::builder().timeout(ANSWER).build();
        Ok(Self {
            template: config.url_template.clone(),
            life: Duration::from_secs(config.cache_seconds),
            client: client.map_err(|error| KeyError::Client(causes(&error)))?,
            known: Cache::new(REMEMBERED),
        })
    }

    /// The groups of a user. While the directory is away, what it said last counts for as long
    /// again; then the user has no groups.
    pub async fn of(&self, user: &str) -> Vec<String> {
        let known = self.known.get(user);
        let now = Instant::now();
        if let Some(known) = &known
            && known.until > now
        {
            return known.groups.clone();
        }
        let learned = match self.ask(user).await {
            Ok(groups) => Known {
                groups,
                until: now + self.life,
                end: now + 2 * self.life,
            },
            Err(error) => {
                tracing::warn!(%error, "cannot ask for the groups of a user");
                let old = known.filter(|known| known.end > now);
                Known {
                    groups: old.as_ref().map_or_else(Vec::new, |old| old.groups.clone()),
                    until: now + PAUSE,
                    end: old.map_or(now, |old| old.end),
                }
            }
        };
        let groups = learned.groups.clone();
        self.known.insert(user.to_owned(), Arc::new(learned));
        groups
    }

    async fn ask(&self, user: &str) -> Result<Vec<String>, String> {
        let user = utf8_percent_encode(user, NON_ALPHANUMERIC).to_string();
        let sent = self.client.get(self.template.replace(PLACE, &user)).send();
        let response = sent.await.map_err(|error| causes(&error))?;
        if response.status() == 404 {
            return Ok(Vec::new());
        }
        let response = response
            .error_for_status()
            .map_err(|error| causes(&error))?;
        let answer: Value = response.json().await.map_err(|error| causes(&error))?;
        named(&answer).ok_or_else(|| "the answer lists no groups".to_owned())
    }
}

/// A list of names; or upstream's directory, whose entries are addresses that count whole and by
/// what stands before the `@`.
fn named(answer: &Value) -> Option<Vec<String>> {
    let mut groups = Vec::new();
    let mut add = |name: &str| {
        if !name.is_empty() && groups.len() < GROUPS_MAX {
            groups.push(name.to_owned());
        }
    };
    if let Some(names) = answer.as_array() {
        names.iter().filter_map(Value::as_str).for_each(&mut add);
        return Some(groups);
    }
    for entry in answer.pointer("/response/docs")?.as_array()? {
        let addresses = match &entry["email"] {
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            one => Vec::from_iter(one.as_str()),
        };
        for address in addresses {
            add(address);
            if let Some((local, _)) = address.split_once('@') {
                add(local);
            }
        }
    }
    Some(groups)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_are_read_from_both_kinds_of_answers() {
        assert_eq!(
            named(&json!(["a", "", 1, "b"])),
            Some(vec!["a".to_owned(), "b".to_owned()])
        );
        let directory = json!({"response": {"docs": [
            {"email": "genes@x.org"}, {"email": ["cells@x.org"]}, {"name": "no address"},
        ]}});
        assert_eq!(
            named(&directory).unwrap(),
            ["genes@x.org", "genes", "cells@x.org", "cells"]
        );
        for wrong in [json!({}), json!("a"), json!({"response": {"docs": 1}})] {
            assert_eq!(named(&wrong), None);
        }
        let many: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
        assert_eq!(named(&json!(many)).unwrap().len(), GROUPS_MAX);
    }
}
