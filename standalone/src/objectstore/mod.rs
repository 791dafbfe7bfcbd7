//! The embedded object store: an S3 server in this process.
//!
//! `catalog` keeps keys and metadata in a database and decides every conditional write; `content`
//! keeps the bytes, `digests` checks them, `conditions` are those of requests, `listing` pages through
//! keys; `service` speaks S3 through the s3s crate. The
//! rest of the product reaches it through aws-sdk-s3 over the loopback, like any other S3.

mod catalog;
mod conditions;
mod content;
mod digests;
mod listing;
mod service;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;

use catalog::Catalog;
use service::Service;

#[derive(Debug, thiserror::Error)]
pub enum ObjectStoreError {
    #[error("cannot open the object store in '{path}': {problem}")]
    Open { path: String, problem: String },
    #[error("the data folder '{0}' is in use by another process")]
    InUse(String),
    #[error("cannot listen on {address}: {error}")]
    Listen {
        address: String,
        error: std::io::Error,
    },
}

/// An open store that is not served yet.
#[derive(Clone)]
pub struct ObjectStore {
    catalog: Arc<Catalog>,
}

impl ObjectStore {
    /// Opens the store in `folder`, which is made if it does not exist.
    pub fn open(folder: &Path) -> Result<Self, ObjectStoreError> {
        Ok(Self {
            catalog: Arc::new(Catalog::open(folder)?),
        })
    }

    /// Makes a bucket that keeps object versions, unless it is there.
    pub async fn ensure_bucket(&self, name: &str) -> Result<(), String> {
        self.catalog
            .ensure_bucket(name)
            .await
            .map_err(|error| error.to_string())
    }

    /// Removes content that no entry refers to: what a crash left. Blocks; for a thread of its own.
    pub fn collect_garbage(&self) -> std::io::Result<usize> {
        self.catalog.collect_garbage()
    }

    /// Serves until `stop` resolves, then lets running requests finish.
    pub async fn serve(
        self,
        listener: TcpListener,
        access_key: &str,
        secret_key: &str,
        stop: impl Future<Output = ()> + Send + 'static,
    ) {
        let mut builder = S3ServiceBuilder::new(Service::new(self.catalog));
        builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
        let service = builder.build();
        let server = auto::Builder::new(TokioExecutor::new());
        let graceful = hyper_util::server::graceful::GracefulShutdown::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection to the object store");
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = &mut stop => break,
            };
            let _ = stream.set_nodelay(true);
            let connection = server
                .serve_connection(TokioIo::new(stream), service.clone())
                .into_owned();
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to the object store broke");
                }
            });
        }
        let patience = std::time::Duration::from_secs(10);
        let _ = tokio::time::timeout(patience, graceful.shutdown()).await;
    }
}

/// Binds `host:port` (0 picks a port), on the first address that the name resolves to.
pub async fn bind(address: &str) -> Result<(TcpListener, SocketAddr), ObjectStoreError> {
    let fail = |error| ObjectStoreError::Listen {
        address: address.to_owned(),
        error,
    };
    let mut candidates: Vec<SocketAddr> = tokio::net::lookup_host(address)
        .await
        .map_err(fail)?
        .collect();
    // `localhost` often names ::1 first, where a client that tries 127.0.0.1 finds nobody.
    candidates.sort_by_key(SocketAddr::is_ipv6);
    let listener = TcpListener::bind(candidates.as_slice())
        .await
        .map_err(fail)?;
    let local = listener.local_addr().map_err(fail)?;
    Ok((listener, local))
}
