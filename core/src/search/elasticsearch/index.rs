//! The index of an instance: its template, the numbered indices behind one alias, and the way from
//! one to the next.
//!
//! `<base>` is the alias that searches and writes go through; `<base>_000001` and so on are the
//! indices; `<base>_building` names the one that is being filled. Names of Kubernetes objects hold
//! no underscore, so one instance's pattern never matches another's index.

use std::sync::atomic::Ordering;

use elasticsearch::http::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Elasticsearch;
use super::client::RequestError;
use crate::mapping::Mapping;
use crate::search::SearchError;

/// Changes when the way in which documents are indexed does: older indices are built anew.
const FORMAT: u64 = 1;
const OWNER: &str = "artifactdb";

/// An index as it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub name: String,
    pub mapping_hash: String,
    /// Whether its `_meta` says that it is this instance's.
    pub ours: bool,
    /// Whether it was made by this release's way of indexing.
    pub current_format: bool,
    /// As the engine tells it.
    pub mapping: Value,
}

/// What the engine has under an instance's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub template: TemplateStanding,
    pub live: Option<Found>,
    pub building: Option<Found>,
    /// In the live index.
    pub documents: Option<u64>,
    /// In the index that is being built.
    pub built: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TemplateStanding {
    #[default]
    Missing,
    Current,
    Outdated,
    /// Somebody else's.
    Foreign,
}

/// What the live index is to the mapping that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// There is none: it has to be built from the store.
    Missing,
    Current,
    /// Only fields were added, which is done in place.
    Extended,
    /// The wanted mapping needs a new index.
    Outdated,
}

impl Elasticsearch {
    pub(super) fn pattern(&self) -> String {
        format!("{}_*", self.base)
    }

    pub(super) fn building_alias(&self) -> String {
        format!("{}_building", self.base)
    }

    pub(super) fn mapping_hash(&self) -> &str {
        self.mapping_hash.get_or_init(|| self.mapping.hash())
    }

    fn settings(&self) -> Value {
        json!({
            "number_of_shards": self.options.shards,
            "number_of_replicas": self.options.replicas,
            // Refreshed when a version is written, so that what was acknowledged as indexed is found.
            "refresh_interval": "30s",
            "query.default_field": ["*", "all"],
            "mapping.total_fields.limit": crate::mapping::MAX_FIELDS + 200,
            // How long a deletion wins over older writes that arrive after it.
            "gc_deletes": "10m",
        })
    }

    fn mappings(&self) -> Value {
        let mut mappings = self.mapping.to_json();
        // Below objects that take any field, values are kept as they are: a field's type must not
        // depend on which document came first.
        mappings["date_detection"] = json!(false);
        mappings["dynamic_templates"] = ["string", "long", "double", "boolean"]
            .iter()
            .map(|kind| {
                json!({format!("any_{kind}"): {
                    "match_mapping_type": kind,
                    "mapping": {"type": "keyword", "ignore_above": 8191},
                }})
            })
            .collect();
        mappings["_meta"] = json!({
            "owner": OWNER,
            "instance": self.instance,
            "mappingHash": self.mapping_hash(),
            "format": FORMAT,
        });
        mappings
    }

    /// Name and body of the index template, as they are written where the engine knows every part.
    pub fn index_template(&self) -> (&str, Value) {
        (&self.base, self.template())
    }

    fn template(&self) -> Value {
        let mut body = json!({
            "index_patterns": [self.pattern()],
            "priority": 500,
            "template": {"settings": {"index": self.settings()}, "mappings": self.mappings()},
        });
        let hash = hex::encode(Sha256::digest(body.to_string()));
        body["_meta"] = json!({"owner": OWNER, "instance": self.instance, "hash": hash});
        body
    }

    /// Whether the index template is there, and is what `put_template` would write.
    async fn template_standing(&self) -> Result<TemplateStanding, SearchError> {
        let path = format!("/_index_template/{}", self.base);
        let query = [("filter_path", "index_templates.index_template._meta")];
        let answer = match self.client.json(Method::Get, &path, &query, None).await {
            Ok(answer) => answer,
            Err(error) if error.status() == 404 => return Ok(TemplateStanding::Missing),
            Err(error) => return Err(error.into()),
        };
        let meta = &answer["index_templates"][0]["index_template"]["_meta"];
        let ours = meta["owner"] == OWNER && meta["instance"] == *self.instance;
        Ok(match (ours, *meta == self.template()["_meta"]) {
            (false, _) => TemplateStanding::Foreign,
            (true, true) => TemplateStanding::Current,
            (true, false) => TemplateStanding::Outdated,
        })
    }

    /// Looks at everything of the instance; changes nothing.
    pub async fn look(&self) -> Result<Seen, SearchError> {
        let template = self.template_standing().await?;
        let live = self.live().await?;
        let building = self.building().await?;
        let documents = match &live {
            Some(live) => Some(self.count_of(&live.name).await?),
            None => None,
        };
        let built = match &building {
            Some(building) => Some(self.count_of(&building.name).await?),
            None => None,
        };
        Ok(Seen {
            template,
            live,
            building,
            documents,
            built,
        })
    }

    /// What an index is to the mapping that is wanted. Fields that it lacks count as extended: they
    /// can be added in place.
    pub fn standing(&self, found: &Found) -> Standing {
        if !found.current_format {
            return Standing::Outdated;
        }
        if found.mapping_hash == self.mapping_hash() {
            return Standing::Current;
        }
        match extends(&self.mapping, &found.mapping) {
            true => Standing::Extended,
            false => Standing::Outdated,
        }
    }

    /// Adds the fields that an index lacks.
    pub async fn add_fields(&self, index: &str) -> Result<(), SearchError> {
        let path = format!("/{index}/_mapping");
        self.client
            .json(Method::Put, &path, &[], Some(&self.mappings()))
            .await?;
        Ok(())
    }

    /// Writes the index template: what a new index of the instance is made from.
    pub async fn put_template(&self) -> Result<(), SearchError> {
        let mut body = self.template();
        let path = format!("/_index_template/{}", self.base);
        if !self.opensearch.load(Ordering::Relaxed) {
            body["allow_auto_create"] = json!(false);
            match self.client.json(Method::Put, &path, &[], Some(&body)).await {
                Ok(_) => return Ok(()),
                // OpenSearch has no such field. Our writes require an alias all the same.
                Err(error)
                    if error.status() == 400 && error.to_string().contains("allow_auto_create") =>
                {
                    self.opensearch.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(body) = body.as_object_mut() {
            body.remove("allow_auto_create");
        }
        self.client
            .json(Method::Put, &path, &[], Some(&body))
            .await?;
        Ok(())
    }

    /// The indices behind an alias of ours; none when the alias is not there.
    async fn behind(&self, alias: &str) -> Result<Vec<Found>, RequestError> {
        let path = format!("/{alias}/_mapping");
        let answer = match self.client.json(Method::Get, &path, &[], None).await {
            Ok(answer) => answer,
            Err(error) if error.status() == 404 => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for (name, body) in answer.as_object().into_iter().flatten() {
            let meta = &body["mappings"]["_meta"];
            found.push(Found {
                name: name.clone(),
                mapping_hash: meta["mappingHash"].as_str().unwrap_or_default().to_owned(),
                ours: meta["owner"] == OWNER && meta["instance"] == *self.instance,
                current_format: meta["format"] == FORMAT,
                mapping: body["mappings"].clone(),
            });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The index that answers.
    pub async fn live(&self) -> Result<Option<Found>, SearchError> {
        Ok(self.behind(&self.base).await?.pop())
    }

    /// The index that is being filled.
    pub async fn building(&self) -> Result<Option<Found>, SearchError> {
        Ok(self.behind(&self.building_alias()).await?.pop())
    }

    /// Compares the live index with the wanted mapping, and adds fields in place where that is all
    /// there is to do.
    pub async fn prepare(&self) -> Result<Standing, SearchError> {
        self.put_template().await?;
        let Some(live) = self.live().await? else {
            return Ok(Standing::Missing);
        };
        if !live.ours {
            return Err(SearchError::Unavailable(format!(
                "the index '{}' behind the alias '{}' belongs to somebody else; delete it, or give this instance another name",
                live.name, self.base
            )));
        }
        let standing = self.standing(&live);
        if standing == Standing::Extended {
            self.add_fields(&live.name).await?;
        }
        Ok(standing)
    }

    /// Makes the index to be filled, or finds the one that an interrupted build left and that fits.
    pub async fn begin_build(&self) -> Result<String, SearchError> {
        self.put_template().await?;
        if let Some(found) = self.building().await? {
            if found.mapping_hash == self.mapping_hash() && found.current_format {
                return Ok(found.name);
            }
            self.delete_index(&found.name).await?;
        }
        for attempt in 0..5 {
            let number = self.numbers().await?.pop().unwrap_or(0) + 1 + attempt;
            let name = format!("{}_{number:06}", self.base);
            let body = json!({"aliases": {self.building_alias(): {}}});
            let path = format!("/{name}");
            match self.client.json(Method::Put, &path, &[], Some(&body)).await {
                Ok(_) => {
                    self.forget_targets();
                    return Ok(name);
                }
                // Another process makes one at this moment.
                Err(error) if error.kind() == "resource_already_exists_exception" => {
                    if let Some(found) = self.building().await? {
                        return Ok(found.name);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(SearchError::Unavailable(format!(
            "no index of '{}' could be made: others are made all the time",
            self.base
        )))
    }

    /// What tells an index from an earlier one of the same name.
    pub async fn uuid(&self, index: &str) -> Result<String, SearchError> {
        let path = format!("/{index}/_settings/index.uuid");
        let answer = self.client.json(Method::Get, &path, &[], None).await?;
        match answer[index]["settings"]["index"]["uuid"].as_str() {
            Some(uuid) => Ok(uuid.to_owned()),
            None => Err(SearchError::Unavailable(format!(
                "the index '{index}' has no uuid"
            ))),
        }
    }

    /// The numbers of the instance's indices, lowest first.
    async fn numbers(&self) -> Result<Vec<u64>, SearchError> {
        let path = format!("/{}", self.pattern());
        let query = [("filter_path", "*.settings.index.uuid")];
        let answer = self.client.json(Method::Get, &path, &query, None).await?;
        let mut numbers: Vec<u64> = answer
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, _)| name.rsplit('_').next()?.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Documents in one index, after a refresh.
    pub async fn count_in(&self, index: &str) -> Result<u64, SearchError> {
        let path = format!("/{index}/_refresh");
        self.client.json(Method::Post, &path, &[], None).await?;
        self.count_of(index).await
    }

    async fn count_of(&self, index: &str) -> Result<u64, SearchError> {
        let path = format!("/{index}/_count");
        let answer = self.client.json(Method::Get, &path, &[], None).await?;
        Ok(answer["count"].as_u64().unwrap_or(0))
    }

    /// Makes `index` the live one in one step: a search sees the old index or the new one, never
    /// none and never both. Then deletes former indices beyond those that are kept.
    pub async fn swap(&self, index: &str) -> Result<(), SearchError> {
        let mut actions = vec![
            json!({"remove": {"index": index, "alias": self.building_alias(), "must_exist": false}}),
            json!({"add": {"index": index, "alias": self.base, "is_write_index": true}}),
        ];
        for old in self.behind(&self.base).await? {
            if old.name != index {
                actions.push(json!({"remove": {"index": old.name, "alias": self.base}}));
            }
        }
        let body = json!({"actions": actions});
        self.client
            .json(Method::Post, "/_aliases", &[], Some(&body))
            .await?;
        self.forget_targets();
        self.prune(index, self.options.retained_indices).await?;
        Ok(())
    }

    /// Deletes former indices but for the newest `keep`; returns their names.
    pub(super) async fn prune(&self, live: &str, keep: usize) -> Result<Vec<String>, SearchError> {
        let number = |name: &str| name.rsplit('_').next().and_then(|n| n.parse::<u64>().ok());
        let Some(current) = number(live) else {
            return Ok(Vec::new());
        };
        let mut old = self.numbers().await?;
        old.retain(|own| *own < current);
        old.truncate(old.len().saturating_sub(keep));
        let mut deleted = Vec::with_capacity(old.len());
        for number in old {
            let name = format!("{}_{number:06}", self.base);
            self.delete_index(&name).await?;
            deleted.push(name);
        }
        Ok(deleted)
    }

    async fn delete_index(&self, name: &str) -> Result<(), SearchError> {
        match self
            .client
            .json(Method::Delete, &format!("/{name}"), &[], None)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.status() == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes everything of the instance: indices, aliases, template.
    pub async fn delete_all(&self) -> Result<(), SearchError> {
        for number in self.numbers().await? {
            self.delete_index(&format!("{}_{number:06}", self.base))
                .await?;
        }
        let path = format!("/_index_template/{}", self.base);
        match self.client.json(Method::Delete, &path, &[], None).await {
            Ok(_) => Ok(()),
            Err(error) if error.status() == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a snapshot of the live index into a repository that exists, and waits for its end.
    /// `name` must be new.
    pub async fn snapshot(&self, repository: &str, name: &str) -> Result<Value, SearchError> {
        let Some(live) = self.live().await? else {
            return Err(SearchError::Unavailable(
                "there is no live index".to_owned(),
            ));
        };
        let path = format!("/_snapshot/{repository}/{name}");
        let body = json!({"indices": live.name, "include_global_state": false});
        let query = [("wait_for_completion", "true")];
        let bytes = self
            .client
            .send(
                Method::Put,
                &path,
                &query,
                Some(body.to_string().into()),
                Some(std::time::Duration::from_secs(3600)),
            )
            .await?;
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let state = answer["snapshot"]["state"].as_str().unwrap_or_default();
        match state {
            "SUCCESS" => Ok(answer["snapshot"].clone()),
            other => Err(SearchError::Unavailable(format!(
                "the snapshot '{name}' ended as {other}"
            ))),
        }
    }
}

/// Whether `wanted` holds everything of `current`, unchanged: then the rest can be added in place.
pub fn extends(wanted: &Mapping, current: &Value) -> bool {
    contains(&wanted.to_json(), current)
}

/// Whether every member of `old` is in `new` with the same value. What the engine leaves out because
/// it is a default does not count.
fn contains(new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            old.iter().all(|(name, value)| {
                if matches!(&**name, "_meta" | "date_detection" | "dynamic_templates") {
                    return true;
                }
                match new.get(name) {
                    Some(wanted) => contains(wanted, value),
                    // An object's type is said only where it is enabled or not.
                    None => name == "type" && value == "object",
                }
            }) && ["dynamic", "index", "enabled", "copy_to"]
                .iter()
                .all(|name| {
                    // Said by the new one and not by the old: a change, unless the old one is an object
                    // whose rule is inherited.
                    match (new.get(*name), old.get(*name)) {
                        (Some(wanted), None) => *name == "dynamic" && wanted == "strict",
                        _ => true,
                    }
                })
        }
        _ => as_text(new) == as_text(old),
    }
}

/// The engine answers flags as texts here and there, and a list of one as its item.
fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.len() == 1 => as_text(&items[0]),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::{Source, compile};

    fn mapping(schema: Value) -> Mapping {
        compile(&[Source {
            name: "a/v1.json",
            schema: &schema,
        }])
        .0
    }

    #[test]
    fn only_added_fields_go_in_place() {
        let old = mapping(json!({"properties": {"a": {"type": "string"},
            "o": {"type": "object", "properties": {"x": {"type": "integer"}}}}}));
        let more = mapping(
            json!({"properties": {"a": {"type": "string"}, "b": {"type": "number"},
            "o": {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "string"}}}}}),
        );
        let other = mapping(json!({"properties": {"a": {"type": "integer"}}}));
        let less = mapping(json!({"properties": {"a": {"type": "string"}}}));
        let hidden = mapping(json!({"properties": {
            "a": {"type": "string", "_elasticsearch": {"index": false}},
            "o": {"type": "object", "properties": {"x": {"type": "integer"}}}}}));
        assert!(extends(&old, &old.to_json()));
        assert!(extends(&more, &old.to_json()));
        assert!(!extends(&old, &more.to_json()));
        assert!(!extends(&other, &old.to_json()));
        assert!(!extends(&less, &old.to_json()));
        assert!(!extends(&hidden, &old.to_json()));
    }
}
