//! Aggregations: what the engine counts, and the projects by name with the values of one field.

use serde_json::{Value, json};

use super::Elasticsearch;
use super::compile::compile;
use super::page::{BUCKETS, Target, unreadable, whole};
use crate::mapping::Scalar;
use crate::query::Query;
use crate::search::{ProjectsPage, SearchError};

impl Elasticsearch {
    pub(super) async fn aggregation(
        &self,
        query: &Query,
        aggregation: Value,
    ) -> Result<Value, SearchError> {
        let body = json!({
            "query": compile(query, &self.mapping), "size": 0, "track_total_hits": false,
            "aggs": {"answer": aggregation},
        });
        let bytes = self.send_search(body, Target::Live).await?;
        let mut answer: Value = serde_json::from_slice(&bytes).map_err(unreadable)?;
        whole(&answer)?;
        Ok(answer["aggregations"]["answer"].take())
    }

    pub(super) async fn projects_page(
        &self,
        query: &Query,
        field: &str,
        after: Option<&str>,
        size: usize,
    ) -> Result<ProjectsPage, SearchError> {
        let (column, scalar) = self.column(field, "aggregate on", &|field| {
            SearchError::Invalid(format!("Field '{field}' can't be aggregated"))
        })?;
        let total = self.aggregation(
            query,
            json!({"cardinality": {"field": "_extra.project_id", "precision_threshold": 40_000}}),
        );
        let pages = async {
            let mut projects: Vec<(String, Vec<String>)> = Vec::new();
            // Behind every value of the project that was the last of the page before.
            let mut from = after.map(|after| json!({"project": after, "value": greatest(scalar)}));
            loop {
                let mut composite = json!({
                    "size": BUCKETS,
                    "sources": [
                        {"project": {"terms": {"field": "_extra.project_id"}}},
                        {"value": {"terms": {"field": column, "missing_bucket": true, "missing_order": "first"}}},
                    ],
                });
                if let Some(from) = from.take() {
                    composite["after"] = from;
                }
                let aggregation = json!({"composite": composite});
                let answer = self.aggregation(query, aggregation).await?;
                for bucket in answer["buckets"].as_array().into_iter().flatten() {
                    let key = &bucket["key"];
                    let Some(project) = key["project"].as_str() else {
                        continue;
                    };
                    if after.is_some_and(|after| project <= after) {
                        continue;
                    }
                    if projects.last().is_none_or(|(last, _)| last != project) {
                        if projects.len() == size {
                            return Ok::<_, SearchError>((projects, true));
                        }
                        projects.push((project.to_owned(), Vec::new()));
                    }
                    let value = match &key["value"] {
                        Value::Null => continue,
                        Value::String(text) => text.clone(),
                        other => other.to_string(),
                    };
                    if let Some((_, values)) = projects.last_mut() {
                        values.push(value);
                    }
                }
                match answer.get("after_key") {
                    Some(key) => from = Some(key.clone()),
                    None => return Ok((projects, false)),
                }
            }
        };
        let (total, pages) = tokio::join!(total, pages);
        let (projects, more) = pages?;
        Ok(ProjectsPage {
            projects,
            total: total?["value"].as_u64().unwrap_or(0),
            more,
        })
    }
}

/// A value that sorts behind every other of a column.
fn greatest(scalar: Scalar) -> Value {
    match scalar {
        Scalar::Keyword | Scalar::Text => json!("\u{10FFFF}"),
        Scalar::Boolean => json!(true),
        Scalar::Float | Scalar::Double => json!(f64::MAX),
        _ => json!(i64::MAX),
    }
}
