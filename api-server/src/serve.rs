//! A listener and what runs on it, until it is told to stop.

use std::future::Future;
use std::sync::Arc;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;

use crate::App;

/// Serves `app` until `stop` resolves, and then finishes the requests that it has.
pub async fn serve(
    app: Arc<App>,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let make = tower::make::Shared::new(crate::service(app));
    axum::serve(listener, make)
        .with_graceful_shutdown(stop)
        .await
}
