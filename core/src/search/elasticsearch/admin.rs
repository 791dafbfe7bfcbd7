//! What administrators see and do of an instance's indices in the engine.

use async_trait::async_trait;
use elasticsearch::http::Method;
use serde_json::{Value, json};

use super::Elasticsearch;
use super::client::RequestError;
use super::index::Standing;
use crate::search::SearchError;
use crate::search::admin::{AdminError, IndexAdmin, IndexSettings, IndexStanding, differences};

impl From<RequestError> for AdminError {
    fn from(error: RequestError) -> Self {
        AdminError::Search(error.into())
    }
}

/// A snapshot or a repository that is not there is for the caller to hear of.
fn missing(error: RequestError, what: &str) -> AdminError {
    match error.status() {
        404 => AdminError::NotFound(format!("there is no {what}")),
        _ => error.into(),
    }
}

/// What people need to see of the engine's own snapshot object.
fn snapshot(own: &Value) -> Value {
    let mut shown = json!({});
    for name in [
        "snapshot",
        "state",
        "start_time",
        "end_time",
        "duration_in_millis",
        "indices",
        "failures",
    ] {
        shown[name] = own[name].clone();
    }
    shown
}

#[async_trait]
impl IndexAdmin for Elasticsearch {
    async fn standing(&self) -> Result<IndexStanding, AdminError> {
        let (live, building) = (self.live().await?, self.building().await?);
        let differences = match &live {
            None => Vec::new(),
            Some(live) => match self.standing(live) {
                Standing::Current => Vec::new(),
                _ => differences(
                    &comparable(&live.mapping),
                    &comparable(&self.mapping.to_json()),
                ),
            },
        };
        Ok(IndexStanding {
            alias: self.alias().to_owned(),
            live: live.map(|own| own.name),
            building: building.map(|own| own.name),
            differences,
        })
    }

    fn wanted_mapping(&self) -> Value {
        self.mapping.to_json()
    }

    async fn live_mapping(&self) -> Result<Option<Value>, AdminError> {
        Ok(self.live().await?.map(|own| own.mapping))
    }

    async fn add_fields(&self) -> Result<(), AdminError> {
        match self.live().await? {
            Some(live) => Ok(Elasticsearch::add_fields(self, &live.name).await?),
            None => Err(AdminError::NotFound("there is no live index".to_owned())),
        }
    }

    async fn indices(&self) -> Result<Vec<IndexSettings>, AdminError> {
        let live = self.live().await?.map(|own| own.name);
        let path = format!("/{}/_settings", self.pattern());
        let answer = self.client.json(Method::Get, &path, &[], None).await?;
        let mut all: Vec<IndexSettings> = answer
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, body)| IndexSettings {
                name: name.clone(),
                settings: body["settings"].clone(),
                live: live.as_ref() == Some(name),
            })
            .collect();
        all.sort_by(|a, b| b.name.cmp(&a.name));
        Ok(all)
    }

    async fn delete_inactive(&self, keep: usize) -> Result<Vec<String>, AdminError> {
        match self.live().await? {
            Some(live) => Ok(self.prune(&live.name, keep).await?),
            None => Ok(Vec::new()),
        }
    }

    async fn snapshots(&self, repository: &str) -> Result<Vec<Value>, AdminError> {
        let path = format!("/_snapshot/{repository}/_all");
        let answer = self.client.json(Method::Get, &path, &[], None).await;
        let answer =
            answer.map_err(|error| missing(error, &format!("repository '{repository}'")))?;
        let all = answer["snapshots"].as_array().into_iter().flatten();
        Ok(all.map(snapshot).collect())
    }

    /// Asked for a second time, it tells of the first: whoever began it may have died meanwhile, and the
    /// engine went on.
    async fn take_snapshot(&self, repository: &str, name: &str) -> Result<Value, AdminError> {
        let known = self.snapshots(repository).await?;
        match known.into_iter().find(|own| own["snapshot"] == name) {
            None => Ok(snapshot(&self.snapshot(repository, name).await?)),
            Some(own) if own["state"] == "IN_PROGRESS" => Err(SearchError::Unavailable(format!(
                "the snapshot '{name}' is being taken"
            ))
            .into()),
            Some(own) => Ok(own),
        }
    }

    async fn delete_snapshot(&self, repository: &str, name: &str) -> Result<Value, AdminError> {
        let path = format!("/_snapshot/{repository}/{name}");
        let answer = self.client.json(Method::Delete, &path, &[], None).await;
        answer.map_err(|error| missing(error, &format!("snapshot '{name}'")))
    }
}

/// A mapping without what the engine adds or leaves out by itself.
fn comparable(mapping: &Value) -> Value {
    let mut own = mapping.clone();
    if let Some(members) = own.as_object_mut() {
        for name in ["_meta", "date_detection", "dynamic_templates"] {
            members.remove(name);
        }
    }
    plain(&mut own);
    own
}

/// An object's type is said by what is in it.
fn plain(value: &mut Value) {
    let Some(members) = value.as_object_mut() else {
        return;
    };
    if members.get("type").is_some_and(|kind| kind == "object") {
        members.remove("type");
    }
    // The engine writes booleans of `dynamic` as texts.
    if let Some(dynamic) = members.get_mut("dynamic")
        && let Some(text) = dynamic.as_bool().map(|own| own.to_string())
    {
        *dynamic = json!(text);
    }
    members.values_mut().for_each(plain);
}
