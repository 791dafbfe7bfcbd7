//! Leases of one process: the same door as Redis, in memory. A restart forgets them, as a wiped
//! Redis would; the epochs in the store decide (DESIGN section 5).

use std::collections::HashMap;
use std::sync::Arc;

use artifactdb_core::clock::Clock;
use artifactdb_core::id::Project;
use artifactdb_core::lease::{Holder, Lease, LeaseError, LeaseKey, LeaseRecord};
use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;

pub struct EmbeddedLease {
    clock: Arc<dyn Clock>,
    held: Mutex<HashMap<LeaseKey, (String, LeaseRecord)>>,
}

impl EmbeddedLease {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            held: Mutex::new(HashMap::new()),
        }
    }
}

/// Whether a lease on `held` keeps one on `wanted` from being taken.
fn excludes(held: &LeaseKey, wanted: &LeaseKey) -> bool {
    held.project == wanted.project
        && (held.version.is_none() || wanted.version.is_none() || held.version == wanted.version)
}

#[async_trait]
impl Lease for EmbeddedLease {
    async fn acquire(
        &self,
        key: &LeaseKey,
        holder: Holder,
        expires: Timestamp,
    ) -> Result<String, LeaseError> {
        let now = self.clock.now();
        let mut held = self.held.lock();
        held.retain(|_, (_, record)| record.expires > now);
        if let Some((_, record)) = held
            .iter()
            .find(|(own, _)| excludes(own, key))
            .map(|(_, lease)| lease)
        {
            return Err(LeaseError::Held(Box::new(record.clone())));
        }
        let token = format!("{:032x}", rand::random::<u128>());
        let record = LeaseRecord {
            key: key.clone(),
            holder,
            created: now,
            expires,
        };
        held.insert(key.clone(), (token.clone(), record));
        Ok(token)
    }

    async fn renew(
        &self,
        key: &LeaseKey,
        token: &str,
        stage: &str,
        expires: Timestamp,
    ) -> Result<bool, LeaseError> {
        let now = self.clock.now();
        let mut held = self.held.lock();
        match held.get_mut(key) {
            Some((own, record)) if own == token && record.expires > now => {
                record.expires = expires;
                stage.clone_into(&mut record.holder.stage);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn release(&self, key: &LeaseKey, token: &str) -> Result<bool, LeaseError> {
        let mut held = self.held.lock();
        let own = held.get(key).is_some_and(|(own, _)| own == token);
        if own {
            held.remove(key);
        }
        Ok(own)
    }

    async fn expire(&self, key: &LeaseKey) -> Result<Option<LeaseRecord>, LeaseError> {
        let now = self.clock.now();
        let ended = self.held.lock().remove(key).map(|(_, record)| record);
        Ok(ended.filter(|record| record.expires > now))
    }

    async fn of_project(&self, project: &Project) -> Result<Vec<LeaseRecord>, LeaseError> {
        let mut records = self.all().await?;
        records.retain(|record| record.key.project == *project);
        Ok(records)
    }

    async fn all(&self) -> Result<Vec<LeaseRecord>, LeaseError> {
        let now = self.clock.now();
        let held = self.held.lock();
        let mut records: Vec<LeaseRecord> = held
            .values()
            .map(|(_, record)| record.clone())
            .filter(|record| record.expires > now)
            .collect();
        records.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(records)
    }
}
