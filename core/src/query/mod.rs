//! The tree that a query becomes. Both engines compile it; permissions and limits act on it.
//!
//! Parsing of the Lucene syntax is in `parser`; no engine here.

mod parser;
mod value;

use serde_json::Value;

pub use parser::{Limits, ParseError, parse};
pub use value::{date, number};

/// One end of a range, as the caller wrote it; the field's type decides how it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    Open,
    Included(String),
    Excluded(String),
}

/// A query. `field: None` stands for the default fields: every field, and `all`.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    All,
    Nothing,
    /// Lucene's boolean query: every `must`, no `must_not`, and at least one `should` where there
    /// is no `must`.
    Bool {
        must: Vec<Query>,
        should: Vec<Query>,
        must_not: Vec<Query>,
    },
    /// Unquoted text: whole value on keywords, any token on analysed text, equality on the rest.
    Text {
        field: Option<String>,
        text: String,
    },
    /// Quoted text: whole value on keywords, tokens in order on analysed text.
    Phrase {
        field: Option<String>,
        text: String,
        slop: u32,
    },
    /// `*` and `?`, backslash escapes; a pattern ending in its only `*` is a prefix.
    Wildcard {
        field: Option<String>,
        pattern: String,
    },
    Regex {
        field: Option<String>,
        pattern: String,
    },
    Fuzzy {
        field: Option<String>,
        text: String,
        distance: u8,
    },
    Range {
        field: Option<String>,
        lower: Bound,
        upper: Bound,
    },
    Exists {
        field: String,
    },
    /// Any of `values`, compared whole on a keyword field. Only made by the server, never parsed.
    Exact {
        field: String,
        values: Vec<String>,
    },
    Boost(Box<Query>, f32),
}

impl Query {
    pub fn exact(field: &str, value: impl Into<String>) -> Self {
        Query::Exact {
            field: field.to_owned(),
            values: vec![value.into()],
        }
    }

    pub fn all_of(must: Vec<Query>) -> Self {
        Query::Bool {
            must,
            should: Vec::new(),
            must_not: Vec::new(),
        }
    }

    /// Any of `should`; nothing when there is none.
    pub fn any_of(should: Vec<Query>) -> Self {
        if should.is_empty() {
            return Query::Nothing;
        }
        Query::Bool {
            must: Vec::new(),
            should,
            must_not: Vec::new(),
        }
    }

    /// This query restricted by `filter`.
    pub fn filtered(self, filter: Option<Query>) -> Self {
        match filter {
            None => self,
            Some(filter) => Query::all_of(vec![self, filter]),
        }
    }

    /// Evaluates a query made only of `All`, `Nothing`, `Bool`, `Exact` and prefixes on a document: the
    /// reference that engines and the permission table are held to. Other nodes match nothing.
    pub fn matches_exact(&self, document: &Value) -> bool {
        match self {
            Query::All => true,
            Query::Bool {
                must,
                should,
                must_not,
            } => {
                must.iter().all(|query| query.matches_exact(document))
                    && !must_not.iter().any(|query| query.matches_exact(document))
                    && (!must.is_empty()
                        || should.is_empty()
                        || should.iter().any(|query| query.matches_exact(document)))
            }
            Query::Exact { field, values } => {
                let pointer = format!("/{}", field.replace('.', "/"));
                match document.pointer(&pointer) {
                    Some(Value::String(text)) => values.contains(text),
                    Some(Value::Array(items)) => items.iter().any(|item| {
                        item.as_str()
                            .is_some_and(|text| values.iter().any(|v| v == text))
                    }),
                    _ => false,
                }
            }
            Query::Wildcard {
                field: Some(field),
                pattern,
            } => {
                let value = document.pointer(&format!("/{}", field.replace('.', "/")));
                let beginning = pattern.strip_suffix('*').map(|own| own.replace('\\', ""));
                match (value.and_then(Value::as_str), beginning) {
                    (Some(text), Some(beginning)) => text.starts_with(&beginning),
                    _ => false,
                }
            }
            Query::Boost(query, _) => query.matches_exact(document),
            _ => false,
        }
    }
}

/// Escapes every character that the query syntax treats specially, so that `text` is one term.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if r#"+-=&|><!(){}[]^"~*?:\/ "#.contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
