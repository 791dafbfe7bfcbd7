//! What administrators see of the embedded index. It is made again from the store whenever it does not
//! fit, so there is nothing to change by hand.

use artifactdb_core::search::admin::{AdminError, IndexAdmin, IndexSettings, IndexStanding};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::EmbeddedSearch;

#[async_trait]
impl IndexAdmin for EmbeddedSearch {
    async fn standing(&self) -> Result<IndexStanding, AdminError> {
        Ok(IndexStanding {
            alias: self.0.name.clone(),
            live: Some(self.0.name.clone()),
            building: None,
            differences: Vec::new(),
        })
    }

    fn wanted_mapping(&self) -> Value {
        self.0.mapping.to_json()
    }

    async fn live_mapping(&self) -> Result<Option<Value>, AdminError> {
        Ok(Some(self.0.mapping.to_json()))
    }

    async fn add_fields(&self) -> Result<(), AdminError> {
        Ok(())
    }

    async fn indices(&self) -> Result<Vec<IndexSettings>, AdminError> {
        Ok(vec![IndexSettings {
            name: self.0.name.clone(),
            settings: json!({}),
            live: true,
        }])
    }

    async fn delete_inactive(&self, _keep: usize) -> Result<Vec<String>, AdminError> {
        Ok(Vec::new())
    }
}
