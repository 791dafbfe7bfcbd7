//! Events, for administrators: the log in pages, and as it grows.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use artifactdb_core::event::{EventStage, log_name, log_time};
use artifactdb_core::id::excerpt;
use artifactdb_core::timestamp::parse_period;
use artifactdb_core::versions::{LogReader, Logged};
use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use http::{HeaderMap, header};
use jiff::Timestamp;
use percent_encoding::utf8_percent_encode;
use serde_json::json;
use tokio::time::Instant;

use super::search::more_header;
use super::uploads::VALUE;
use crate::App;
use crate::auth::Admin;
use crate::error::{ApiError, ApiResult};
use crate::extract::Params;
use crate::openapi::shapes;

/// Entries of the log that one request looks at, where only some of them are wanted.
const LOOKED_AT: usize = 5000;
const BATCH: usize = 500;
/// How often a follower hears that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a follower waits where the log could not be read.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether the server stops.
const STOP_LOOKS: Duration = Duration::from_millis(250);
/// How long a connection lasts: whoever comes back shows again that they may hear.
const CONNECTION: Duration = Duration::from_secs(3600);

/// Which events are wanted.
struct Filter {
    stages: Vec<EventStage>,
    projects: Vec<String>,
}

fn list<'p>(params: &'p Params, name: &str) -> impl Iterator<Item = &'p str> {
    let text = params.get(name).unwrap_or_default();
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

impl Filter {
    fn of(params: &Params) -> ApiResult<Self> {
        let stages = list(params, "stage").map(|text| {
            EventStage::parse(text).ok_or_else(|| {
                ApiError::unprocessable(format!(
                    "query parameter 'stage': there is no stage '{}'; known are {}",
                    excerpt(text),
                    EventStage::ALL.map(EventStage::as_str).join(", ")
                ))
            })
        });
        Ok(Self {
            stages: stages.collect::<ApiResult<_>>()?,
            projects: list(params, "project").map(str::to_owned).collect(),
        })
    }

    fn wants(&self, logged: &Logged) -> bool {
        let project = logged.event.project_id.as_ref().map(|own| own.as_str());
        let by_stage = self.stages.is_empty() || self.stages.contains(&logged.event.stage);
        let named = project.is_some_and(|own| self.projects.iter().any(|name| name == own));
        by_stage && (self.projects.is_empty() || named)
    }
}

/// Where to begin: after an entry, or at a time, which may be so long ago. None: nothing is said.
fn start(params: &Params, now: Timestamp) -> ApiResult<Option<String>> {
    if let Some(after) = params.get("after") {
        return match log_time(after) {
            Some(_) => Ok(Some(after.to_owned())),
            None => Err(ApiError::unprocessable(
                "query parameter 'after' is no place in the log: take it from 'next'",
            )),
        };
    }
    let Some(text) = params.get("since") else {
        return Ok(None);
    };
    let ago = parse_period(text).and_then(|period| now.checked_sub(period).ok());
    let at: Option<Timestamp> = text.parse().ok().or(ago);
    let at = at.ok_or_else(|| {
        ApiError::unprocessable(
            "query parameter 'since' must be a time such as 2026-01-31T12:00:00Z, or a period such as 2h",
        )
    })?;
    Ok(Some(log_name(at, "")))
}

#[utoipa::path(get, path = "/events", tag = "events",
    params(
        ("stage" = Option<String>, Query, description = "Of these stages, separated by commas"),
        ("project" = Option<String>, Query, description = "Of these projects, separated by commas"),
        ("since" = Option<String>, Query, description = "From a time on, or for a period such as `2h`; absent: all that are kept"),
        ("after" = Option<String>, Query, description = "Where the page before ended, from its `next`"),
        ("size" = Option<u64>, Query, description = "Events of a page, 1 to 500; what happened together stays together, so that there may be a few more"),
    ),
    responses(
        (status = 200, description = "Events, oldest first", body = shapes::Events),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 422, description = "A parameter is malformed"),
        (status = 503, description = "The storage is away"),
    ))]
pub async fn list_events(
    State(app): State<Arc<App>>,
    _: Admin,
    params: Params,
) -> ApiResult<Response> {
    let filter = Filter::of(&params)?;
    let size = usize::try_from(params.number("size", 100, (1, 500))?).unwrap_or(500);
    let mut after = start(&params, app.versions.clock.now())?;
    let (mut results, mut looked_at) = (Vec::new(), 0);
    let next = loop {
        let most = match filter.stages.is_empty() && filter.projects.is_empty() {
            true => size - results.len(),
            false => BATCH,
        };
        let page = app.versions.events_after(after.as_deref(), most).await?;
        looked_at += most;
        let mut cut = None;
        for logged in page.events {
            // An entry is told whole, or not at all.
            let full = results.len() >= size;
            if full && after.as_ref() != Some(&logged.entry) {
                cut.clone_from(&after);
                break;
            }
            let wanted = filter.wants(&logged);
            after = Some(logged.entry.clone());
            if wanted {
                results.push(logged);
            }
        }
        if cut.is_some() {
            break cut;
        }
        after = page.last.or(after);
        if !page.more {
            break None;
        }
        if results.len() >= size || looked_at >= LOOKED_AT {
            break after.clone();
        }
    };
    let mut body = json!({"count": results.len(), "results": results});
    let next = next.map(|after| next_path(&params, &after));
    if let Some(next) = &next {
        body["next"] = json!(next);
    }
    let mut response = Json(body).into_response();
    if let Some(value) = next.as_deref().and_then(more_header) {
        response.headers_mut().insert(header::LINK, value);
    }
    Ok(response)
}

fn next_path(params: &Params, after: &str) -> String {
    let mut path = format!("/events?after={after}");
    for name in ["stage", "project", "size"] {
        if let Some(value) = params.get(name) {
            path.push_str(&format!("&{name}={}", utf8_percent_encode(value, VALUE)));
        }
    }
    path
}

#[utoipa::path(get, path = "/events/follow", tag = "events",
    params(
        ("stage" = Option<String>, Query, description = "Of these stages, separated by commas"),
        ("project" = Option<String>, Query, description = "Of these projects, separated by commas"),
        ("since" = Option<String>, Query, description = "From a time on, or for a period such as `2h`; absent: from now on"),
        ("after" = Option<String>, Query, description = "A place in the log"),
        ("Last-Event-ID" = Option<String>, Header, description = "The last id that a client saw whose connection broke"),
    ),
    responses(
        (status = 200, description = "Events as they happen, as server-sent events", body = String, content_type = "text/event-stream"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 422, description = "A parameter is malformed"),
    ))]
pub async fn follow(
    State(app): State<Arc<App>>,
    _: Admin,
    params: Params,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let filter = Filter::of(&params)?;
    let now = app.versions.clock.now();
    let seen = headers.get("last-event-id");
    let seen = seen.and_then(|value| value.to_str().ok());
    let seen = seen.filter(|name| log_time(name).is_some());
    let versions = app.versions.clone();
    let reader = match seen {
        Some(entry) => LogReader::resumed(versions, entry),
        None => {
            let start = start(&params, now)?;
            LogReader::after(versions, start.unwrap_or_else(|| log_name(now, "")))
        }
    };
    let keep_alive = KeepAlive::new().interval(HEARTBEAT);
    let messages = Sse::new(messages(app, filter, reader)).keep_alive(keep_alive);
    let mut response = messages.into_response();
    let headers = response.headers_mut();
    // Some proxies would collect a page of it first.
    headers.insert("x-accel-buffering", header::HeaderValue::from_static("no"));
    Ok(response)
}

/// Ends when the server stops, and after a while: the client comes back.
fn messages(
    app: Arc<App>,
    filter: Filter,
    reader: LogReader,
) -> impl Stream<Item = Result<Message, Infallible>> {
    let end = Instant::now() + CONNECTION;
    let state = (app, filter, reader);
    let batches = futures::stream::unfold(state, move |(app, filter, mut reader)| async move {
        let events = loop {
            let read = tokio::select! {
                read = reader.next() => read,
                () = stopping(&app) => return None,
                () = tokio::time::sleep_until(end) => return None,
            };
            match read {
                Ok(events) => break events,
                Err(error) => {
                    tracing::warn!(%error, "cannot read the log of events");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        Some((told(&events, &filter), (app, filter, reader)))
    });
    futures::StreamExt::flat_map(batches, |batch| {
        futures::stream::iter(batch.into_iter().map(Ok))
    })
}

async fn stopping(app: &App) {
    while !app.stopping.load(Ordering::Relaxed) {
        tokio::time::sleep(STOP_LOOKS).await;
    }
}

/// Messages of the events that are wanted. The last one of an entry carries its name as the id.
fn told(events: &[Logged], filter: &Filter) -> Vec<Message> {
    let mut messages = Vec::with_capacity(events.len());
    let wanted: Vec<&Logged> = events.iter().filter(|own| filter.wants(own)).collect();
    for (place, logged) in wanted.iter().enumerate() {
        let data = json!(logged).to_string();
        let mut message = Message::default()
            .event(logged.event.stage.as_str())
            .data(data);
        let next = wanted.get(place + 1);
        if next.is_none_or(|next| next.entry != logged.entry) {
            message = message.id(&logged.entry);
        }
        messages.push(message);
    }
    messages
}
