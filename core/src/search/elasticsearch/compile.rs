//! The query tree as Elasticsearch's query DSL. Pure.
//!
//! Parts without a field, and parts whose field is a pattern, become `query_string` leaves of
//! escaped text: which fields they reach is the engine's rule, not ours, and nothing of a caller's
//! text is syntax any more. Everything else is a query of its own.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::mapping::{Found, Mapping, Scalar};
use crate::query::{Bound, Query, date, escape, number};

/// Boost of what only selects.
const NO_SCORE: f32 = 0.0;

/// A value that its field cannot read finds nothing: Elasticsearch's queries over all fields are
/// lenient.
pub(super) fn compile(query: &Query, mapping: &Mapping) -> Value {
    Compiler { mapping }.query(query)
}

struct Compiler<'a> {
    mapping: &'a Mapping,
}

/// Whether a query only selects: it adds nothing to the score, so the engine may cache it.
pub(super) fn selects(query: &Query) -> bool {
    match query {
        Query::Exact { .. } | Query::Nothing => true,
        Query::Bool {
            must,
            should,
            must_not: _,
        } => must.iter().chain(should).all(selects) && !(must.is_empty() && should.is_empty()),
        _ => false,
    }
}

/// Values that the engine takes in one `terms` query (`index.max_terms_count`).
const TERMS_MAX: usize = 65_536;

fn terms(field: &str, values: &[String]) -> Value {
    if let [value] = values {
        return json!({"term": {field: value}});
    }
    if values.len() <= TERMS_MAX {
        return json!({"terms": {field: values}});
    }
    let parts: Vec<Value> = values
        .chunks(TERMS_MAX)
        .map(|part| json!({"terms": {field: part}}))
        .collect();
    json!({"bool": {"should": parts}})
}

fn nothing() -> Value {
    json!({"match_none": {}})
}

/// A `query_string` of text that is escaped already.
fn leaf(text: &str, field: Option<&str>) -> Value {
    let mut body = json!({"query": text, "analyze_wildcard": false});
    match field {
        // Absent: the index's own default fields, `*` and `all`.
        None => {}
        Some(pattern) => {
            body["fields"] = json!([pattern]);
            body["lenient"] = json!(true);
        }
    }
    json!({"query_string": body})
}

/// One term, whatever it holds; operators are only such when they stand alone.
fn word(text: &str) -> String {
    let escaped = escape(text);
    match text {
        "AND" | "OR" | "NOT" => format!("\\{escaped}"),
        _ => escaped,
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// A wildcard pattern in query syntax: its own `*`, `?` and escapes stay.
fn pattern_text(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 4);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' => out.push(c),
            '\\' => {
                out.push('\\');
                out.push(chars.next().unwrap_or('\\'));
            }
            other => out.push_str(&escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    out
}

fn range_text(lower: &Bound, upper: &Bound) -> String {
    let (open, low) = match lower {
        Bound::Open => ('[', "*".to_owned()),
        Bound::Included(text) => ('[', quoted(text)),
        Bound::Excluded(text) => ('{', quoted(text)),
    };
    let (close, high) = match upper {
        Bound::Open => (']', "*".to_owned()),
        Bound::Included(text) => (']', quoted(text)),
        Bound::Excluded(text) => ('}', quoted(text)),
    };
    format!("{open}{low} TO {high}{close}")
}

impl Compiler<'_> {
    fn kind(&self, field: &str) -> Option<Scalar> {
        match self.mapping.field(field)? {
            Found::Scalar(own) => Some(own.kind),
            Found::KeywordOf(_) => Some(Scalar::Keyword),
            _ => None,
        }
    }

    /// Whether a field holds numbers, dates or flags: no text to match patterns on.
    fn is_value(&self, field: &str) -> bool {
        let kind = self.kind(field);
        kind.is_some_and(|kind| !matches!(kind, Scalar::Keyword | Scalar::Text))
    }

    /// Terms of analysed text are lower-case; patterns over them must be too.
    fn normal(&self, field: &str, pattern: &str) -> String {
        match self.kind(field) {
            Some(Scalar::Text) => pattern.to_lowercase(),
            _ => pattern.to_owned(),
        }
    }

    fn query(&self, query: &Query) -> Value {
        match query {
            Query::All => json!({"match_all": {}}),
            Query::Nothing => nothing(),
            Query::Bool {
                must,
                should,
                must_not,
            } => self.boolean(must, should, must_not),
            Query::Exact { field, values } => {
                json!({"constant_score": {"filter": terms(field, values), "boost": NO_SCORE}})
            }
            Query::Boost(inner, boost) => {
                json!({"bool": {"must": [self.query(inner)], "boost": boost}})
            }
            Query::Exists { field } => match field.contains('*') {
                true => leaf(&format!("_exists_:{}", pattern_text(field)), None),
                false => {
                    json!({"exists": {"field": field.strip_suffix(".keyword").unwrap_or(field)}})
                }
            },
            Query::Text { field, text } => match named(field) {
                Some(name) => matches_text(name, text),
                None => leaf(&word(text), field.as_deref()),
            },
            Query::Phrase { field, text, slop } => match named(field) {
                Some(name) if self.is_value(name) => matches_text(name, text),
                Some(name) => json!({"match_phrase": {name: {"query": text, "slop": slop}}}),
                None => {
                    let slop = if *slop > 0 {
                        format!("~{slop}")
                    } else {
                        String::new()
                    };
                    leaf(&format!("{}{slop}", quoted(text)), field.as_deref())
                }
            },
            Query::Wildcard { field, pattern } => match named(field) {
                Some(name) if self.is_value(name) => nothing(),
                Some(name) => json!({"wildcard": {name: {"value": self.normal(name, pattern)}}}),
                None => leaf(&pattern_text(pattern), field.as_deref()),
            },
            Query::Regex { field, pattern } => match named(field) {
                Some(name) if self.is_value(name) => nothing(),
                Some(name) => json!({"regexp": {name: {"value": self.normal(name, pattern)}}}),
                None => leaf(
                    &format!("/{}/", pattern.replace('/', "\\/")),
                    field.as_deref(),
                ),
            },
            Query::Fuzzy {
                field,
                text,
                distance,
            } => match named(field) {
                Some(name) if self.is_value(name) => nothing(),
                Some(name) => json!({"fuzzy": {name: {
                    "value": self.normal(name, text), "fuzziness": distance,
                }}}),
                None => leaf(&format!("{}~{distance}", word(text)), field.as_deref()),
            },
            Query::Range {
                field,
                lower,
                upper,
            } => match named(field) {
                Some(name) if self.reads(name, lower) && self.reads(name, upper) => {
                    range(name, lower, upper)
                }
                Some(_) => nothing(),
                None => leaf(&range_text(lower, upper), field.as_deref()),
            },
        }
    }

    /// Whether a field can read the end of a range; what it cannot read finds nothing, as in a
    /// lenient query.
    fn reads(&self, field: &str, bound: &Bound) -> bool {
        let (Bound::Included(text) | Bound::Excluded(text)) = bound else {
            return true;
        };
        match self.kind(field) {
            // The engine knows more of date arithmetic than is repeated here.
            Some(Scalar::Date) if text.contains("||") || text.starts_with("now") => true,
            Some(Scalar::Date) => date(text, Timestamp::UNIX_EPOCH).is_ok(),
            Some(Scalar::Boolean) => matches!(text.as_str(), "true" | "false" | ""),
            Some(kind) if kind.is_integer() || kind.is_float() => number(text).is_ok(),
            _ => true,
        }
    }

    fn boolean(&self, must: &[Query], should: &[Query], must_not: &[Query]) -> Value {
        let all = |queries: &[&Query]| -> Value {
            queries.iter().map(|query| self.query(query)).collect()
        };
        let (filters, scored): (Vec<&Query>, Vec<&Query>) =
            must.iter().partition(|query| selects(query));
        let mut body = json!({});
        if !scored.is_empty() {
            body["must"] = all(&scored);
        }
        if !filters.is_empty() {
            let filters = filters.into_iter().map(|query| match query {
                Query::Exact { field, values } => terms(field, values),
                other => self.query(other),
            });
            body["filter"] = filters.collect();
        }
        if !should.is_empty() {
            body["should"] = all(&should.iter().collect::<Vec<_>>());
        }
        if !must_not.is_empty() {
            body["must_not"] = all(&must_not.iter().collect::<Vec<_>>());
        }
        if must.is_empty() && should.is_empty() && must_not.is_empty() {
            return json!({"match_all": {}});
        }
        json!({"bool": body})
    }
}

fn matches_text(field: &str, text: &str) -> Value {
    json!({"match": {field: {"query": text, "lenient": true}}})
}

/// A field by its whole name.
fn named(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|name| !name.contains('*'))
}

fn range(field: &str, lower: &Bound, upper: &Bound) -> Value {
    let mut limits = json!({});
    match lower {
        Bound::Open => {}
        Bound::Included(text) => limits["gte"] = json!(text),
        Bound::Excluded(text) => limits["gt"] = json!(text),
    }
    match upper {
        Bound::Open => {}
        Bound::Included(text) => limits["lte"] = json!(text),
        Bound::Excluded(text) => limits["lt"] = json!(text),
    }
    if limits.as_object().is_some_and(serde_json::Map::is_empty) {
        return json!({"exists": {"field": field}});
    }
    json!({"range": {field: limits}})
}
