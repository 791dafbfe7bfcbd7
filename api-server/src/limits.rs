//! How much of the server one caller may use, and how much all of them together.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use artifactdb_core::config::ApiConfig;
use artifactdb_core::permissions::Caller;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};
use http::request::Parts;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::error::{ApiError, ApiResult};

/// Requests at a time where nothing else is said.
const AT_ONCE: u32 = 1000;
/// Uploads that begin together, each with a body that may be large. Further ones wait a while.
const UPLOADS_AT_ONCE: usize = 32;
const UPLOADS_WAIT: Duration = Duration::from_secs(10);
/// Callers that are remembered before the idle ones are forgotten.
const REMEMBERED: usize = 10_000;

/// Who is counted: nobody gains by changing tokens, and nobody is counted by what is not verified.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Counted {
    User(String),
    Address(Option<IpAddr>),
}

pub struct Limits {
    rate: Option<DefaultKeyedRateLimiter<Counted>>,
    clock: DefaultClock,
    swept: Mutex<usize>,
    at_once: Semaphore,
    uploads: Semaphore,
}

impl Limits {
    pub fn new(config: &ApiConfig) -> Self {
        let rate = config.rate_limit.as_ref().and_then(|own| {
            let per_second = NonZeroU32::new(own.requests_per_second)?;
            let burst = own.burst.and_then(NonZeroU32::new).unwrap_or(per_second);
            let quota = Quota::per_second(per_second).allow_burst(burst);
            Some(DefaultKeyedRateLimiter::keyed(quota))
        });
        let at_once = config.max_concurrent_requests.unwrap_or(AT_ONCE).max(1);
        Self {
            rate,
            clock: DefaultClock::default(),
            swept: Mutex::new(REMEMBERED),
            at_once: Semaphore::new(usize::try_from(at_once).unwrap_or(usize::MAX)),
            uploads: Semaphore::new(UPLOADS_AT_ONCE),
        }
    }

    /// Counts a request of `caller`; 429 to one who asks too often.
    pub fn count(&self, caller: &Caller, parts: &Parts) -> ApiResult<()> {
        let Some(rate) = &self.rate else {
            return Ok(());
        };
        let counted = match caller.user_id() {
            Some(user) => Counted::User(user.to_owned()),
            None => Counted::Address(address(parts)),
        };
        let outcome = rate.check_key(&counted).map_err(|early| {
            let wait = early.wait_time_from(self.clock.now());
            let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX);
            ApiError::too_many(seconds.saturating_add(1))
        });
        self.forget_idle(rate);
        outcome
    }

    /// Callers that could ask as if they had never asked before need not be remembered.
    fn forget_idle(&self, rate: &DefaultKeyedRateLimiter<Counted>) {
        let mut limit = self.swept.lock();
        if rate.len() > *limit {
            rate.retain_recent();
            *limit = (2 * rate.len()).max(REMEMBERED);
        }
    }
}

/// The caller's address. A proxy's word counts where the proxy is a neighbour: elsewhere, callers could
/// write what they like.
fn address(parts: &Parts) -> Option<IpAddr> {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map(|ConnectInfo(address)| address.ip().to_canonical());
    let forwarded = parts.headers.get_all("x-forwarded-for").iter().next_back();
    let forwarded = forwarded
        .and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok())
        .filter(|_| peer.is_none_or(is_neighbour));
    forwarded.or(peer)
}

fn is_neighbour(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(own) => own.is_private() || own.is_loopback() || own.is_link_local(),
        IpAddr::V6(own) => {
            own.is_loopback() || own.is_unique_local() || own.is_unicast_link_local()
        }
    }
}

/// Refuses at once what would only wait: a server that is told so can be given fewer requests.
pub async fn admit(State(limits): State<Arc<Limits>>, request: Request, next: Next) -> Response {
    // Whoever asks how the server is must hear it from a busy one, too.
    if matches!(request.uri().path(), "/livez" | "/readyz" | "/metrics") {
        return next.run(request).await;
    }
    match limits.at_once.try_acquire() {
        Ok(_held) => next.run(request).await,
        Err(_) => ApiError::unavailable("the server is busy, try again").into_response(),
    }
}

/// Lets uploads begin in turns. Who may not upload is told so without a body being read, and holds up
/// nobody.
pub async fn take_turns(
    State(limits): State<Arc<Limits>>,
    request: Request,
    next: Next,
) -> Response {
    match tokio::time::timeout(UPLOADS_WAIT, limits.uploads.acquire()).await {
        Ok(Ok(_held)) => next.run(request).await,
        _ => ApiError::unavailable("too many uploads begin at once, try again").into_response(),
    }
}

/// Ends what takes too long. A change that is being made goes on to its end all the same.
pub async fn in_time(State(most): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(most, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::unavailable("this takes too long now, try again").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    async fn ask(router: &Router) -> Response {
        let request = Request::get("/").body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn uploads_that_would_wait_too_long_for_their_turn_are_refused() {
        let limits = Arc::new(Limits::new(&ApiConfig::default()));
        let slow = || tokio::time::sleep(UPLOADS_WAIT * 3 / 4);
        let router = Router::new()
            .route("/", get(slow))
            .layer(from_fn_with_state(limits, take_turns));
        let all = 3 * UPLOADS_AT_ONCE;
        let answers = futures::future::join_all((0..all).map(|_| ask(&router))).await;
        let ended = answers.iter().filter(|own| own.status() == 200).count();
        // The first, and those who took their places.
        assert_eq!(ended, 2 * UPLOADS_AT_ONCE);
        let refused = answers.iter().find(|own| own.status() == 503).unwrap();
        assert!(refused.headers().contains_key("retry-after"));
        assert_eq!(ask(&router).await.status(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_ended() {
        let most = Duration::from_secs(5);
        let router = |seconds| {
            let slow = move || tokio::time::sleep(Duration::from_secs(seconds));
            Router::new()
                .route("/", get(slow))
                .layer(from_fn_with_state(most, in_time))
        };
        assert_eq!(ask(&router(4)).await.status(), 200);
        assert_eq!(ask(&router(6)).await.status(), 503);
    }

    fn parts(peer: &str, forwarded: &[&str]) -> Parts {
        let mut request = http::Request::builder();
        for own in forwarded {
            request = request.header("x-forwarded-for", *own);
        }
        let mut request = request.body(Body::empty()).unwrap();
        let peer: SocketAddr = peer.parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        request.into_parts().0
    }

    #[test]
    fn a_proxys_word_counts_where_the_proxy_is_a_neighbour() {
        let of = |peer, forwarded: &[&str]| address(&parts(peer, forwarded)).unwrap().to_string();
        assert_eq!(of("10.0.0.1:1", &[]), "10.0.0.1");
        assert_eq!(of("10.0.0.1:1", &["8.8.8.8, 9.9.9.9"]), "9.9.9.9");
        assert_eq!(of("10.0.0.1:1", &["8.8.8.8", "7.7.7.7"]), "7.7.7.7");
        assert_eq!(of("10.0.0.1:1", &["nonsense"]), "10.0.0.1");
        assert_eq!(of("8.8.4.4:1", &["1.1.1.1"]), "8.8.4.4");
        assert_eq!(of("[::ffff:127.0.0.1]:1", &["2.2.2.2"]), "2.2.2.2");
    }

    #[test]
    fn a_caller_who_asks_too_often_is_told_when_to_come_again() {
        let config: ApiConfig = serde_json::from_value(
            serde_json::json!({"rateLimit": {"requestsPerSecond": 1, "burst": 2}}),
        )
        .unwrap();
        let limits = Limits::new(&config);
        let from = |peer: &str| limits.count(&Caller::Anonymous, &parts(peer, &[]));
        assert!(from("10.0.0.1:1").is_ok() && from("10.0.0.1:2").is_ok());
        let refused = from("10.0.0.1:3").unwrap_err();
        assert_eq!(refused.status, 429);
        assert_eq!(refused.retry_after, Some(1));
        assert!(from("10.0.0.2:1").is_ok());
        // Without a limit nobody is counted.
        let free = Limits::new(&ApiConfig::default());
        for _ in 0..1000 {
            assert!(
                free.count(&Caller::Anonymous, &parts("10.0.0.1:1", &[]))
                    .is_ok()
            );
        }
    }
}
