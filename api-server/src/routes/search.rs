//! Search, aggregation, and the pages that follow.

use std::sync::Arc;

use artifactdb_core::document::select;
use artifactdb_core::query::{Limits, Query, parse};
use artifactdb_core::search::{AggregationKind, Cursor, Document, SearchRequest, SortKey};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::json_bytes;
use super::projects::list_page;
use crate::App;
use crate::auth::Identity;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Params, TextPath};
use crate::openapi::shapes;
use crate::signer::Purpose;

/// A question that is answered in pages. A cursor carries it, signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "k", rename_all = "lowercase")]
pub enum Question {
    Search {
        /// What the caller asked; absent: everything in `scope`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        q: Option<String>,
        /// Keyword fields that must have these values.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        scope: Vec<(String, String)>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        fields: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        sort: Vec<SortKey>,
        #[serde(default)]
        latest: bool,
        size: usize,
    },
    Projects {
        field: String,
        size: usize,
    },
}

/// What stands in `/scroll/{id}`.
#[derive(Serialize, Deserialize)]
struct Scroll {
    question: Question,
    /// Whose question it is: a page is answered to nobody else.
    caller: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cursor: Option<Cursor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

/// Splits a comma-separated parameter.
fn list(text: Option<&str>) -> Vec<String> {
    text.unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

fn parse_query(q: &str) -> ApiResult<Query> {
    parse(q, Limits::default())
        .map_err(|error| ApiError::bad_request(format!("Query Parse Error: {error}")))
}

fn wrong_query(error: artifactdb_core::search::SearchError) -> ApiError {
    match error {
        artifactdb_core::search::SearchError::Invalid(text) if !text.starts_with("sort error") => {
            ApiError::bad_request(format!("Query Parse Error: {text}"))
        }
        other => other.into(),
    }
}

/// The hidden `size`: clamped to the instance's limit.
pub fn page_size(app: &App, params: &Params) -> ApiResult<usize> {
    let config = &app.config.search;
    match params.get("size") {
        None => Ok(config.default_results),
        Some(text) => match text.parse::<usize>() {
            Ok(size) if size > 0 => Ok(size.min(config.max_results)),
            _ => Err(ApiError::bad_request(format!(
                "Invalid value for size: {}",
                artifactdb_core::id::excerpt(text)
            ))),
        },
    }
}

#[utoipa::path(get, path = "/search", tag = "search",
    params(
        ("q" = String, Query, description = "Lucene query-string syntax"),
        ("fields" = Option<String>, Query, description = "Fields to answer, separated by commas"),
        ("sort" = Option<String>, Query, description = "Fields to sort by, `-` before a descending one"),
        ("latest" = Option<bool>, Query, description = "Only the highest revision of each project"),
        ("size" = Option<u64>, Query, description = "Results of a page"),
    ),
    responses(
        (status = 200, description = "A page of documents; `next` and a Link header name the following one", body = shapes::Page),
        (status = 400, description = "A wrong query, sort or size"),
        (status = 422, description = "No query"),
    ))]
pub async fn search(
    State(app): State<Arc<App>>,
    identity: Identity,
    params: Params,
) -> ApiResult<Response> {
    let sort = list(params.get("sort"))
        .into_iter()
        .map(|key| match key.strip_prefix('-') {
            Some(field) => SortKey {
                field: field.to_owned(),
                descending: true,
            },
            None => SortKey {
                field: key,
                descending: false,
            },
        })
        .collect();
    let question = Question::Search {
        q: Some(params.required("q")?.to_owned()),
        scope: Vec::new(),
        fields: list(params.get("fields")),
        sort,
        latest: params.flag("latest")?,
        size: page_size(&app, &params)?,
    };
    answer(&app, &identity, question, None).await
}

#[utoipa::path(get, path = "/scroll/{id}", tag = "search",
    params(("id" = String, Path, description = "From `next` of the page before")),
    responses(
        (status = 200, description = "The next page, of documents or projects", body = shapes::Page),
        (status = 400, description = "Not a cursor, or another caller's"),
        (status = 410, description = "The cursor was not used for too long"),
    ))]
pub async fn scroll(
    State(app): State<Arc<App>>,
    identity: Identity,
    TextPath(id): TextPath,
) -> ApiResult<Response> {
    let invalid = || ApiError::bad_request("invalid scroll_id");
    let scroll: Scroll = app.signer.open(Purpose::Cursor, &id).ok_or_else(invalid)?;
    if scroll.caller.as_deref() != identity.name() {
        return Err(invalid());
    }
    match scroll.question {
        Question::Projects { field, size } => {
            list_page(&app, &identity, field, size, scroll.after).await
        }
        question => answer(&app, &identity, question, scroll.cursor).await,
    }
}

/// The path of the page that follows.
fn next_path(app: &App, scroll: &Scroll) -> String {
    format!("/scroll/{}", app.signer.seal(Purpose::Cursor, scroll))
}

/// One value that the existing clients' three ways of reading it all accept (CONTRACT section 3.0).
pub(super) fn more_header(path: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("<{path}>; rel=\"more\"; title=\"rel=more\"")).ok()
}

/// Answers one page of a search.
pub async fn answer(
    app: &App,
    identity: &Identity,
    question: Question,
    cursor: Option<Cursor>,
) -> ApiResult<Response> {
    let Question::Search {
        q,
        scope,
        fields,
        sort,
        latest,
        size,
    } = &question
    else {
        return Err(ApiError::bad_request("invalid scroll_id"));
    };
    let mut query = match q {
        Some(q) => parse_query(q)?,
        None => Query::All,
    };
    if !scope.is_empty() {
        let mut must: Vec<Query> = scope
            .iter()
            .map(|(field, value)| Query::exact(field, value.as_str()))
            .collect();
        if query != Query::All {
            must.push(query);
        }
        query = Query::all_of(must);
    }
    let page = app
        .search
        .search(SearchRequest {
            query: app.visible(identity, query),
            sort: sort.clone(),
            latest: *latest,
            size: *size,
            cursor,
        })
        .await
        .map_err(wrong_query)?;
    let next = page.next.map(|cursor| {
        next_path(
            app,
            &Scroll {
                question: question.clone(),
                caller: identity.name().map(str::to_owned),
                cursor: Some(cursor),
                after: None,
            },
        )
    });
    let body = render(&page.hits, fields, page.total, next.as_deref());
    let mut response = json_bytes(StatusCode::OK, body);
    if let Some(value) = next.as_deref().and_then(more_header) {
        response.headers_mut().insert(header::LINK, value);
    }
    Ok(response)
}

/// Documents are text already: they are joined and not parsed again.
fn render(hits: &[Arc<Document>], fields: &[String], total: u64, next: Option<&str>) -> Vec<u8> {
    let bytes = hits.iter().map(|hit| hit.body.len() + 1).sum::<usize>();
    let mut out = Vec::with_capacity(bytes + 256);
    out.extend_from_slice(b"{\"results\":[");
    for (number, hit) in hits.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        if fields.is_empty() {
            out.extend_from_slice(&hit.body);
        } else {
            out.extend_from_slice(select(&hit.value(), fields).to_string().as_bytes());
        }
    }
    out.extend_from_slice(format!("],\"count\":{},\"total\":{total}", hits.len()).as_bytes());
    if let Some(next) = next {
        out.extend_from_slice(format!(",\"next\":\"{next}\"").as_bytes());
    }
    out.push(b'}');
    out
}

/// A page of projects as JSON with its Link header.
pub fn projects_answer(
    app: &App,
    identity: &Identity,
    field: String,
    size: usize,
    mut body: Value,
    after: Option<String>,
) -> Response {
    let next = after.map(|after| {
        next_path(
            app,
            &Scroll {
                question: Question::Projects { field, size },
                caller: identity.name().map(str::to_owned),
                cursor: None,
                after: Some(after),
            },
        )
    });
    if let (Some(next), Some(map)) = (&next, body.as_object_mut()) {
        map.insert("next".to_owned(), json!(next));
    }
    let mut response = Json(body).into_response();
    if let Some(value) = next.as_deref().and_then(more_header) {
        response.headers_mut().insert(header::LINK, value);
    }
    response
}

#[utoipa::path(get, path = "/aggregate", tag = "search",
    params(
        ("q" = String, Query, description = "Lucene query-string syntax"),
        ("agg_field" = String, Query, description = "Field to aggregate"),
        ("agg_type" = Option<String>, Query, description = "`terms`, `max` or `cardinality`"),
        ("agg_size" = Option<u64>, Query, description = "Buckets at the most, 1 to 500"),
    ),
    responses(
        (status = 200, description = "Buckets, or a value", body = shapes::Aggregation),
        (status = 400, description = "A wrong query or field"),
        (status = 422, description = "A parameter is missing or out of range"),
    ))]
pub async fn aggregate(
    State(app): State<Arc<App>>,
    identity: Identity,
    params: Params,
) -> ApiResult<Json<Value>> {
    let query = parse_query(params.required("q")?)?;
    let field = params.required("agg_field")?;
    let kind = match params.get("agg_type") {
        None | Some("terms") => AggregationKind::Terms,
        Some("max") => AggregationKind::Max,
        Some("cardinality") => AggregationKind::Cardinality,
        Some(_) => {
            return Err(ApiError::unprocessable(
                "query parameter 'agg_type' must be terms, max or cardinality",
            ));
        }
    };
    let size = params.number("agg_size", 50, (1, 500))?;
    let size = usize::try_from(size).unwrap_or(500);
    // Who owns or may see what is not for everybody to count.
    if field.starts_with("_extra.permissions") && !identity.caller.is_root() {
        return Err(ApiError::bad_request(format!(
            "Field '{field}' can't be aggregated"
        )));
    }
    let query = app.visible(&identity, query);
    let answer = app
        .search
        .aggregate(&query, field, kind, size)
        .await
        .map_err(wrong_query)?;
    Ok(Json(answer))
}
