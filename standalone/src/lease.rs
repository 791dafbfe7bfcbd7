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

#[cfg(test)]
mod tests {
    use super::*;
    use artifactdb_core::clock::SystemClock;
    use artifactdb_core::id::Version;
    use jiff::SignedDuration;

    fn key(version: Option<&str>) -> LeaseKey {
        LeaseKey {
            project: Project::new("P").unwrap(),
            version: version.map(|version| Version::new(version).unwrap()),
        }
    }

    fn holder() -> Holder {
        Holder {
            owner: "ann".into(),
            stage: "uploading".into(),
            info: None,
        }
    }

    #[tokio::test]
    async fn a_project_lease_excludes_its_versions_and_the_other_way_round() {
        let lease = EmbeddedLease::new(Arc::new(SystemClock));
        let later = SystemClock.now() + SignedDuration::from_mins(1);
        let one = lease
            .acquire(&key(Some("1")), holder(), later)
            .await
            .unwrap();
        lease
            .acquire(&key(Some("2")), holder(), later)
            .await
            .unwrap();
        for wanted in [key(Some("1")), key(None)] {
            let error = lease.acquire(&wanted, holder(), later).await.unwrap_err();
            assert!(matches!(error, LeaseError::Held(_)));
        }
        assert!(
            !lease
                .release(&key(Some("1")), "not the token")
                .await
                .unwrap()
        );
        assert!(lease.release(&key(Some("1")), &one).await.unwrap());
        assert!(lease.expire(&key(Some("2"))).await.unwrap().is_some());
        lease.acquire(&key(None), holder(), later).await.unwrap();
        assert!(
            lease
                .acquire(&key(Some("3")), holder(), later)
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn an_expired_lease_is_free_and_cannot_be_renewed() {
        let lease = EmbeddedLease::new(Arc::new(SystemClock));
        let past = SystemClock.now() - SignedDuration::from_secs(1);
        let later = SystemClock.now() + SignedDuration::from_mins(1);
        let token = lease.acquire(&key(None), holder(), past).await.unwrap();
        assert!(!lease.renew(&key(None), &token, "x", later).await.unwrap());
        lease.acquire(&key(None), holder(), later).await.unwrap();
        assert!(!lease.release(&key(None), &token).await.unwrap());
    }
}
