//! Leader election by a Lease, with compare-and-swap on its resource version (as client-go does it).
//!
//! Whether a holder is gone is judged by this process's own clock since the record last changed,
//! never by comparing clocks of two machines. A lease that is lost is lost for good: the process
//! ends, and whatever starts it starts another.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};

const DURATION: Duration = Duration::from_secs(15);
/// After so long without a renewal the holder stops by itself, before others may begin.
const DEADLINE: Duration = Duration::from_secs(10);
const RENEWAL: Duration = Duration::from_secs(2);

pub struct Leadership {
    api: Api<Lease>,
    name: String,
    identity: String,
}

/// What a look at the lease came to.
enum Look {
    Held,
    /// Somebody wrote it between our reading and our writing.
    Overtaken,
    Lost,
}

impl Leadership {
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
        }
    }

    /// Waits until this process leads.
    pub async fn acquire(&self) {
        let mut seen: Option<(String, Instant)> = None;
        loop {
            match self.attempt(&mut seen).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "cannot read or write the lease"),
            }
            tokio::time::sleep(RENEWAL).await;
        }
    }

    async fn attempt(&self, seen: &mut Option<(String, Instant)>) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.record(0)),
            };
            return match self.api.create(&PostParams::default(), &lease).await {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
                Err(error) => Err(error),
            };
        };
        let version = lease.resource_version().unwrap_or_default();
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if !holder.is_empty() && holder != self.identity {
            match seen {
                Some((at, since)) if *at == version => {
                    let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0));
                    let life = Duration::from_secs(seconds.unwrap_or(0)).max(DURATION);
                    if since.elapsed() < life {
                        return Ok(false);
                    }
                }
                _ => {
                    tracing::info!(holder, "another process leads; waiting");
                    *seen = Some((version, Instant::now()));
                    return Ok(false);
                }
            }
        }
        let transitions = spec.lease_transitions.unwrap_or(0);
        let transitions = transitions + i32::from(holder != self.identity);
        Ok(matches!(
            self.write(lease, self.record(transitions)).await?,
            Look::Held
        ))
    }

    fn record(&self, transitions: i32) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: now.clone(),
            renew_time: now,
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Writes with the version that was read: of several writers one succeeds.
    async fn write(&self, mut lease: Lease, spec: LeaseSpec) -> Result<Look, kube::Error> {
        lease.spec = Some(spec);
        match self
            .api
            .replace(&self.name, &PostParams::default(), &lease)
            .await
        {
            Ok(_) => Ok(Look::Held),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Look::Overtaken),
            Err(error) => Err(error),
        }
    }

    async fn renew(&self) -> Result<Look, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            return Ok(Look::Lost);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(Look::Lost);
        }
        let renewed = LeaseSpec {
            renew_time: Some(MicroTime(Timestamp::now())),
            ..spec
        };
        self.write(lease, renewed).await
    }

    /// Renews until the lease is lost, and returns then.
    pub async fn hold(&self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < DEADLINE {
            tokio::time::sleep(RENEWAL).await;
            match tokio::time::timeout(DEADLINE / 2, self.renew()).await {
                Ok(Ok(Look::Held)) => renewed = Instant::now(),
                Ok(Ok(Look::Lost)) => {
                    tracing::error!("the lease is another's");
                    return;
                }
                // Somebody wrote it at this moment: looked at again in a moment.
                Ok(Ok(Look::Overtaken)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease"),
                Err(_) => tracing::warn!("renewing the lease takes too long"),
            }
        }
        tracing::error!("the lease could not be renewed in time");
    }

    /// Gives the lease up, so that the next one need not wait for its end.
    pub async fn release(&self) {
        let Ok(Some(lease)) = self.api.get_opt(&self.name).await else {
            return;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return;
        }
        let released = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            ..spec
        };
        if let Err(error) = self.write(lease, released).await {
            tracing::warn!(%error, "cannot release the lease");
        }
    }
}
