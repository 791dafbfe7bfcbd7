//! The query tree compiled for tantivy, with Elasticsearch's meaning on each type of field.

use std::ops::Bound as Limit;

use artifactdb_core::query::{Bound, Query, date, number};
use artifactdb_core::search::SearchError;
use jiff::Timestamp;
use tantivy::Term;
use tantivy::query::{
    AllQuery, BooleanQuery, BoostQuery, ConstScoreQuery, EmptyQuery, FuzzyTermQuery,
    InvertedIndexRangeQuery, Occur, PhraseQuery, Query as Compiled, RangeQuery, RegexQuery,
    TermQuery, TermSetQuery,
};
use tantivy::schema::{Field, IndexRecordOption};

use super::excluded::Excluded;
use super::fields::{Fields, Indexed, Kind, boolean, number_text, tokens};

type Built = Result<Box<dyn Compiled>, SearchError>;

pub fn compile(query: &Query, fields: &Fields) -> Built {
    Compiler { fields }.query(query)
}

struct Compiler<'a> {
    fields: &'a Fields,
}

fn invalid(text: impl Into<String>) -> SearchError {
    SearchError::Invalid(text.into())
}

fn term(field: Field, text: &str) -> Box<dyn Compiled> {
    Box::new(TermQuery::new(
        Term::from_field_text(field, text),
        IndexRecordOption::Basic,
    ))
}

fn nothing() -> Box<dyn Compiled> {
    Box::new(EmptyQuery)
}

fn any(mut queries: Vec<Box<dyn Compiled>>) -> Box<dyn Compiled> {
    match queries.len() {
        0 => nothing(),
        1 => queries.remove(0),
        _ => Box::new(BooleanQuery::union(queries)),
    }
}

/// Any token of `text`, scored.
fn any_token(field: Field, text: &str) -> Box<dyn Compiled> {
    let queries = tokens(text).into_iter().map(|token| {
        let term = Term::from_field_text(field, &token);
        Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)) as Box<dyn Compiled>
    });
    any(queries.collect())
}

fn phrase(field: Field, text: &str, slop: u32) -> Box<dyn Compiled> {
    let terms: Vec<Term> = tokens(text)
        .iter()
        .map(|token| Term::from_field_text(field, token))
        .collect();
    match terms.len() {
        0 => nothing(),
        1 => any_token(field, text),
        _ => {
            let mut query = PhraseQuery::new(terms);
            query.set_slop(slop);
            Box::new(query)
        }
    }
}

impl Compiler<'_> {
    fn query(&self, query: &Query) -> Built {
        Ok(match query {
            Query::All => Box::new(AllQuery),
            Query::Nothing => nothing(),
            Query::Bool {
                must,
                should,
                must_not,
            } => {
                let mut clauses = Vec::with_capacity(must.len() + should.len() + must_not.len());
                for (occur, queries) in [
                    (Occur::Must, must),
                    (Occur::Should, should),
                    (Occur::MustNot, must_not),
                ] {
                    for query in queries {
                        let compiled = self.query(query)?;
                        let compiled: Box<dyn Compiled> = match occur {
                            Occur::MustNot => Box::new(Excluded(compiled)),
                            _ => compiled,
                        };
                        clauses.push((occur, compiled));
                    }
                }
                if must.is_empty() && should.is_empty() {
                    clauses.push((Occur::Must, Box::new(AllQuery)));
                }
                Box::new(BooleanQuery::new(clauses))
            }
            Query::Text { field: None, text } => any(vec![
                term(self.fields.any_keyword, text),
                term(self.fields.any_number, &canonical_number(text)),
                any_token(self.fields.any_text, text),
            ]),
            Query::Phrase {
                field: None,
                text,
                slop,
            } => any(vec![
                term(self.fields.any_keyword, text),
                term(self.fields.any_number, &canonical_number(text)),
                phrase(self.fields.any_text, text, *slop),
            ]),
            Query::Wildcard {
                field: None,
                pattern,
            } => any(vec![
                wildcard(self.fields.any_keyword, pattern)?,
                wildcard(self.fields.any_text, &pattern.to_lowercase())?,
            ]),
            Query::Regex {
                field: None,
                pattern,
            } => any(vec![
                regex(self.fields.any_keyword, pattern)?,
                regex(self.fields.any_text, pattern)?,
            ]),
            Query::Fuzzy {
                field: None,
                text,
                distance,
            } => any(vec![
                fuzzy(self.fields.any_keyword, text, *distance),
                fuzzy(self.fields.any_text, &text.to_lowercase(), *distance),
            ]),
            Query::Range {
                field: None,
                lower,
                upper,
            } => {
                // Fields that cannot read the bounds are left out, as Elasticsearch does.
                let ranges = self
                    .fields
                    .default_paths()
                    .filter_map(|indexed| range(indexed, lower, upper).ok());
                any(ranges.collect())
            }
            Query::Text {
                field: Some(name),
                text,
            } => self.equals(name, text, None)?,
            Query::Phrase {
                field: Some(name),
                text,
                slop,
            } => self.equals(name, text, Some(*slop))?,
            Query::Wildcard {
                field: Some(name),
                pattern,
            } => self.on(name, |indexed| match indexed.kind {
                Kind::Keyword => wildcard(indexed.field, pattern),
                Kind::Text => wildcard(indexed.field, &pattern.to_lowercase()),
                _ => Ok(nothing()),
            })?,
            Query::Regex {
                field: Some(name),
                pattern,
            } => self.on(name, |indexed| match indexed.kind {
                Kind::Keyword | Kind::Text => regex(indexed.field, pattern),
                _ => Ok(nothing()),
            })?,
            Query::Fuzzy {
                field: Some(name),
                text,
                distance,
            } => self.on(name, |indexed| match indexed.kind {
                Kind::Keyword => Ok(fuzzy(indexed.field, text, *distance)),
                Kind::Text => Ok(fuzzy(indexed.field, &text.to_lowercase(), *distance)),
                _ => Ok(nothing()),
            })?,
            Query::Range {
                field: Some(name),
                lower,
                upper,
            } => {
                if let (Bound::Open, Bound::Open) = (lower, upper) {
                    term(self.fields.exists, name)
                } else {
                    self.on(name, |indexed| {
                        Ok(range(indexed, lower, upper).unwrap_or_else(|_| nothing()))
                    })?
                }
            }
            Query::Exists { field } if field.contains('*') => {
                let found = self.fields.matching(field);
                any(found
                    .into_iter()
                    .map(|(path, _)| term(self.fields.exists, path))
                    .collect())
            }
            Query::Exists { field } => term(
                self.fields.exists,
                field.strip_suffix(".keyword").unwrap_or(field),
            ),
            Query::Exact { field, values } => {
                let Some(indexed) = self
                    .fields
                    .get(field)
                    .filter(|own| own.kind == Kind::Keyword)
                else {
                    return Ok(nothing());
                };
                let terms = values
                    .iter()
                    .map(|value| Term::from_field_text(indexed.field, value));
                // Filters do not count towards the score.
                Box::new(ConstScoreQuery::new(
                    Box::new(TermSetQuery::new(terms)),
                    0.0,
                ))
            }
            Query::Boost(inner, boost) => Box::new(BoostQuery::new(self.query(inner)?, *boost)),
        })
    }

    /// A field and a value: any token of it on analysed text, or, with a slop, its tokens in order.
    fn equals(&self, name: &str, text: &str, slop: Option<u32>) -> Built {
        if name != "all" && !name.contains('*') && self.fields.get(name).is_none() {
            // Below an object that takes any field, values are kept with their path.
            return Ok(term(self.fields.dynamic, &format!("{name}={text}")));
        }
        self.on(name, |indexed| match (indexed.kind, slop) {
            (Kind::Text, None) => Ok(any_token(indexed.field, text)),
            (Kind::Text, Some(slop)) => Ok(phrase(indexed.field, text, slop)),
            _ => equal(indexed, text),
        })
    }

    /// Compiles for the field `name`, or for each that a pattern matches; an unknown field has no
    /// hits.
    fn on(&self, name: &str, build: impl Fn(Indexed) -> Built) -> Built {
        if name == "all" {
            return build(self.fields.all());
        }
        if name.contains('*') {
            let found = self.fields.matching(name);
            let queries = found
                .into_iter()
                .filter_map(|(_, indexed)| build(indexed).ok());
            return Ok(any(queries.collect()));
        }
        match self.fields.get(name) {
            Some(indexed) if !indexed.searchable => Err(invalid(format!(
                "Cannot search on field [{name}] since it is not indexed."
            ))),
            Some(indexed) => build(indexed),
            None => Ok(nothing()),
        }
    }
}

/// The text under which a number is found by an unfielded query.
fn canonical_number(text: &str) -> String {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && !text.contains(['e', 'E', 'n', 'i']) => {
            number_text(number)
        }
        _ => text.to_owned(),
    }
}

/// A value that the field cannot read finds nothing.
fn equal(indexed: Indexed, text: &str) -> Built {
    let field = indexed.field;
    let exact = |term: Term| -> Box<dyn Compiled> {
        Box::new(TermQuery::new(term, IndexRecordOption::Basic))
    };
    Ok(match indexed.kind {
        Kind::Keyword | Kind::Text => term(field, text),
        Kind::Boolean => match boolean(text) {
            Some(flag) => term(field, flag),
            None => nothing(),
        },
        Kind::Integer => {
            let Ok(value) = number(text) else {
                return Ok(nothing());
            };
            match value.fract() == 0.0 && value.abs() < 9.2e18 {
                true => exact(Term::from_field_i64(field, value as i64)),
                false => nothing(),
            }
        }
        Kind::Float => {
            let Ok(value) = number(text) else {
                return Ok(nothing());
            };
            exact(Term::from_field_f64(field, value))
        }
        Kind::Date => {
            let bound = Bound::Included(text.to_owned());
            return Ok(range(indexed, &bound, &bound).unwrap_or_else(|_| nothing()));
        }
    })
}

fn range(indexed: Indexed, lower: &Bound, upper: &Bound) -> Built {
    let field = indexed.field;
    match indexed.kind {
        Kind::Keyword | Kind::Boolean | Kind::Text => {
            let limit = |bound: &Bound| match bound {
                Bound::Open => Limit::Unbounded,
                Bound::Included(text) => Limit::Included(Term::from_field_text(field, text)),
                Bound::Excluded(text) => Limit::Excluded(Term::from_field_text(field, text)),
            };
            let (low, high) = (limit(lower), limit(upper));
            if matches!((&low, &high), (Limit::Unbounded, Limit::Unbounded)) {
                return Ok(Box::new(AllQuery));
            }
            Ok(match indexed.kind {
                Kind::Text => Box::new(InvertedIndexRangeQuery::new(low, high)),
                _ => Box::new(RangeQuery::new(low, high)),
            })
        }
        Kind::Float => {
            let limit = |bound: &Bound| {
                Ok::<_, SearchError>(match bound {
                    Bound::Open => Limit::Unbounded,
                    Bound::Included(text) => Limit::Included(Term::from_field_f64(
                        field,
                        number(text).map_err(SearchError::Invalid)?,
                    )),
                    Bound::Excluded(text) => Limit::Excluded(Term::from_field_f64(
                        field,
                        number(text).map_err(SearchError::Invalid)?,
                    )),
                })
            };
            bounded(limit(lower)?, limit(upper)?)
        }
        Kind::Integer => {
            let low = match lower {
                Bound::Open => Limit::Unbounded,
                Bound::Included(text) => {
                    Limit::Included(number(text).map_err(SearchError::Invalid)?.ceil())
                }
                Bound::Excluded(text) => match number(text).map_err(SearchError::Invalid)? {
                    whole if whole.fract() == 0.0 => Limit::Excluded(whole),
                    other => Limit::Included(other.ceil()),
                },
            };
            let high = match upper {
                Bound::Open => Limit::Unbounded,
                Bound::Included(text) => {
                    Limit::Included(number(text).map_err(SearchError::Invalid)?.floor())
                }
                Bound::Excluded(text) => match number(text).map_err(SearchError::Invalid)? {
                    whole if whole.fract() == 0.0 => Limit::Excluded(whole),
                    other => Limit::Included(other.floor()),
                },
            };
            let term = |number: f64| Term::from_field_i64(field, number as i64);
            bounded(low.map(term), high.map(term))
        }
        Kind::Date => {
            let now = Timestamp::now();
            let term = |at: Timestamp| Term::from_field_i64(field, at.as_millisecond());
            // A date of low precision names an interval; which of its ends counts is
            // Elasticsearch's rounding: gt and lte up, gte and lt down.
            let low = match lower {
                Bound::Open => Limit::Unbounded,
                Bound::Included(text) => {
                    Limit::Included(term(date(text, now).map_err(SearchError::Invalid)?.0))
                }
                Bound::Excluded(text) => match date(text, now).map_err(SearchError::Invalid)? {
                    (start, end) if start == end => Limit::Excluded(term(start)),
                    (_, end) => Limit::Included(term(end)),
                },
            };
            let high = match upper {
                Bound::Open => Limit::Unbounded,
                Bound::Excluded(text) => {
                    Limit::Excluded(term(date(text, now).map_err(SearchError::Invalid)?.0))
                }
                Bound::Included(text) => match date(text, now).map_err(SearchError::Invalid)? {
                    (start, end) if start == end => Limit::Included(term(start)),
                    (_, end) => Limit::Excluded(term(end)),
                },
            };
            bounded(low, high)
        }
    }
}

fn bounded(low: Limit<Term>, high: Limit<Term>) -> Built {
    Ok(match (&low, &high) {
        (Limit::Unbounded, Limit::Unbounded) => Box::new(AllQuery),
        _ => Box::new(RangeQuery::new(low, high)),
    })
}

/// A wildcard pattern as a regular expression on whole terms.
fn wildcard(field: Field, pattern: &str) -> Built {
    let mut expression = String::with_capacity(pattern.len() * 2);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' => expression.push_str("(?s:.*)"),
            '?' => expression.push_str("(?s:.)"),
            '\\' => {
                if let Some(escaped) = chars.next() {
                    push_literal(&mut expression, escaped);
                }
            }
            other => push_literal(&mut expression, other),
        }
    }
    regex(field, &expression)
}

fn push_literal(expression: &mut String, c: char) {
    if r".+*?()|[]{}^$\/-&~#".contains(c) {
        expression.push('\\');
    }
    expression.push(c);
}

fn regex(field: Field, pattern: &str) -> Built {
    match RegexQuery::from_pattern(pattern, field) {
        Ok(query) => Ok(Box::new(query)),
        Err(error) => Err(invalid(format!(
            "the pattern '{}' cannot be used: {error}",
            artifactdb_core::id::excerpt(pattern)
        ))),
    }
}

fn fuzzy(field: Field, text: &str, distance: u8) -> Box<dyn Compiled> {
    let term = Term::from_field_text(field, text);
    Box::new(FuzzyTermQuery::new(term, distance.min(2), true))
}
