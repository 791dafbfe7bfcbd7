//! Redis behind the doors of leases, tasks and counters: the connection, the names of keys, and how
//! scripts are run. The doors themselves are in `lease`, `queue` and `counter`.
//!
//! Every key carries the instance's hash tag, so that one script may touch all of them in a Redis
//! Cluster. Time is the server's: clocks of processes differ, and a lease must not depend on whose
//! clock is read.

mod counter;
mod lease;
mod queue;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{Client, Cmd, FromRedisValue, RedisError, Script, TlsCertificates};
use thiserror::Error;
use tokio::sync::{Mutex, OnceCell};

use crate::cache::SharedCache;

pub use counter::RedisCounter;
pub use lease::RedisLease;
pub use queue::RedisQueue;

/// How long an answer may take; a script of ours takes less than a millisecond.
const ANSWER: Duration = Duration::from_secs(3);
const CONNECT: Duration = Duration::from_secs(2);
/// Attempts at a command whose connection broke: after a restart of the server the first one finds
/// the old connection dead.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(50);
/// How long a connection waits for new tasks before it looks at what has become due.
const BLOCK: Duration = Duration::from_secs(2);

#[derive(Debug, Error)]
pub enum RedisSetupError {
    #[error("'{url}' is no Redis URL: {problem}")]
    Url { url: String, problem: String },
}

/// A Redis server, or a cluster of them, and the part of it that is one instance's.
#[derive(Clone)]
pub struct Redis {
    server: Arc<Server>,
    /// `{adb:<namespace>:<name>}`
    tag: Arc<str>,
}

struct Server {
    commands: Link,
    /// Commands that wait for something to come have a connection of their own, one at a time: they
    /// are answered in order, and a second one would only wait for the first.
    waits: Mutex<Link>,
}

enum Link {
    Single(ConnectionManager),
    Cluster(Box<ClusterClient>, OnceCell<ClusterConnection>),
}

/// What is left of a URL once its secrets are.
fn shown(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{host}")
        }
        None => "…".to_owned(),
    }
}

impl Redis {
    /// Names a server; it is connected to when it is first needed, and again whenever the
    /// connection is lost. `url` is `redis(s)://[user:password@]host[:port][/db]`; with `?cluster=true`
    /// it names one or more nodes (commas between them) of a Redis Cluster. `ca` holds PEM
    /// certificates that are trusted beside the system's. `instance` tells instances apart that share
    /// a server.
    pub fn new(url: &str, ca: Option<Vec<u8>>, instance: &str) -> Result<Self, RedisSetupError> {
        let wrong = |error: RedisError| RedisSetupError::Url {
            url: shown(url),
            problem: error.to_string(),
        };
        let certificates = ca.map(|pem| TlsCertificates {
            client_tls: None,
            root_cert: Some(pem),
        });
        let server = match url.split_once('?') {
            Some((nodes, "cluster=true")) => Server {
                commands: Link::cluster(nodes, certificates.clone(), ANSWER).map_err(wrong)?,
                waits: Mutex::new(
                    Link::cluster(nodes, certificates, ANSWER + BLOCK).map_err(wrong)?,
                ),
            },
            _ => Server {
                commands: Link::single(url, certificates.clone(), ANSWER).map_err(wrong)?,
                waits: Mutex::new(Link::single(url, certificates, ANSWER + BLOCK).map_err(wrong)?),
            },
        };
        Ok(Self {
            server: Arc::new(server),
            tag: format!("{{adb:{instance}}}").into(),
        })
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.tag)
    }

    /// Runs a script; one whose connection broke is run again, so every script is harmless to repeat.
    async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&str],
    ) -> Result<T, RedisError> {
        let mut attempt = 1;
        loop {
            match self.server.commands.script(script, keys, arguments).await {
                Err(error) if attempt < ATTEMPTS && is_broken(&error) => {
                    tokio::time::sleep(PAUSE * attempt).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let mut attempt = 1;
        loop {
            match self.server.commands.query(command).await {
                Err(error) if attempt < ATTEMPTS && is_broken(&error) => {
                    tokio::time::sleep(PAUSE * attempt).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Whether the server answers.
    pub async fn ping(&self) -> Result<(), String> {
        let answer: Result<redis::Value, _> = self.query(&redis::cmd("PING")).await;
        answer.map(|_| ()).map_err(|error| error.to_string())
    }
}

#[async_trait]
impl SharedCache for Redis {
    async fn remember(&self, name: &str, value: &str, life: Option<Duration>) {
        let mut command = redis::cmd("SET");
        command.arg(self.key(&format!("cache:{name}"))).arg(value);
        if let Some(life) = life {
            command.arg("PX").arg(millis(life));
        }
        if let Err(error) = self.query::<redis::Value>(&command).await {
            tracing::debug!(%error, name, "cannot fill the shared cache");
        }
    }

    async fn recall(&self, name: &str) -> Option<String> {
        let mut command = redis::cmd("GET");
        command.arg(self.key(&format!("cache:{name}")));
        self.query(&command).await.ok().flatten()
    }
}

fn is_broken(error: &RedisError) -> bool {
    error.is_connection_dropped() || error.is_connection_refusal() || error.is_io_error()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Link {
    fn single(
        url: &str,
        certificates: Option<TlsCertificates>,
        answer: Duration,
    ) -> Result<Self, RedisError> {
        let client = match certificates {
            None => Client::open(url)?,
            Some(certificates) => Client::build_with_tls(url, certificates)?,
        };
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(answer))
            .set_number_of_retries(1)
            .set_min_delay(PAUSE);
        Ok(Link::Single(ConnectionManager::new_lazy_with_config(
            client, config,
        )?))
    }

    fn cluster(
        nodes: &str,
        certificates: Option<TlsCertificates>,
        answer: Duration,
    ) -> Result<Self, RedisError> {
        let (scheme, rest) = nodes.split_once("://").unwrap_or(("redis", nodes));
        let (user, hosts) = match rest.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), rest),
        };
        let nodes = hosts
            .split(',')
            .map(|host| format!("{scheme}://{user}{}", host.trim()));
        let mut builder = ClusterClient::builder(nodes)
            .connection_timeout(CONNECT)
            .response_timeout(answer)
            .retries(2);
        if let Some(certificates) = certificates {
            builder = builder.certs(certificates);
        }
        Ok(Link::Cluster(Box::new(builder.build()?), OnceCell::new()))
    }

    async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&str],
    ) -> Result<T, RedisError> {
        let mut call = script.prepare_invoke();
        for key in keys {
            call.key(key);
        }
        for argument in arguments {
            call.arg(argument);
        }
        match self {
            Link::Single(connection) => call.invoke_async(&mut connection.clone()).await,
            Link::Cluster(client, connection) => {
                let connection = connection.get_or_try_init(|| connect(client)).await?;
                call.invoke_async(&mut connection.clone()).await
            }
        }
    }

    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        match self {
            Link::Single(connection) => command.query_async(&mut connection.clone()).await,
            Link::Cluster(client, connection) => {
                let connection = connection.get_or_try_init(|| connect(client)).await?;
                command.query_async(&mut connection.clone()).await
            }
        }
    }
}

async fn connect(client: &ClusterClient) -> Result<ClusterConnection, RedisError> {
    client.get_async_connection().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_is_told_without_its_password() {
        let error = Redis::new("nonsense://ann:secret@host", None, "x");
        let text = error.err().unwrap().to_string();
        assert!(text.contains("nonsense://host"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        assert!(Redis::new("redis://a:1,b:2?cluster=true", None, "x").is_ok());
    }
}
