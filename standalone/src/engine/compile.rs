//! The query tree compiled for tantivy, with Elasticsearch's meaning on each type of field.

use std::ops::Bound as Limit;

use artifactdb_core::query::{Bound, Query};
use artifactdb_core::search::SearchError;
use artifactdb_core::timestamp::parse_date;
use jiff::{SignedDuration, Timestamp};
use tantivy::Term;
use tantivy::query::{
    AllQuery, BooleanQuery, BoostQuery, ConstScoreQuery, EmptyQuery, FuzzyTermQuery,
    InvertedIndexRangeQuery, Occur, PhraseQuery, Query as Compiled, RangeQuery, RegexQuery,
    TermQuery, TermSetQuery,
};
use tantivy::schema::{Field, IndexRecordOption};

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
                        clauses.push((occur, self.query(query)?));
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
                _ => Err(invalid(format!(
                    "Can only use wildcard queries on keyword and text fields - not on [{name}]"
                ))),
            })?,
            Query::Regex {
                field: Some(name),
                pattern,
            } => self.on(name, |indexed| match indexed.kind {
                Kind::Keyword | Kind::Text => regex(indexed.field, pattern),
                _ => Err(invalid(format!(
                    "Can only use regexp queries on keyword and text fields - not on [{name}]"
                ))),
            })?,
            Query::Fuzzy {
                field: Some(name),
                text,
                distance,
            } => self.on(name, |indexed| match indexed.kind {
                Kind::Keyword => Ok(fuzzy(indexed.field, text, *distance)),
                Kind::Text => Ok(fuzzy(indexed.field, &text.to_lowercase(), *distance)),
                _ => Err(invalid(format!(
                    "Can only use fuzzy queries on keyword and text fields - not on [{name}]"
                ))),
            })?,
            Query::Range {
                field: Some(name),
                lower,
                upper,
            } => {
                if let (Bound::Open, Bound::Open) = (lower, upper) {
                    term(self.fields.exists, name)
                } else {
                    self.on(name, |indexed| range(indexed, lower, upper))?
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
            return build(Indexed {
                field: self.fields.any_text,
                kind: Kind::Text,
                searchable: true,
            });
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

fn equal(indexed: Indexed, text: &str) -> Built {
    let field = indexed.field;
    let number = |kind: &str| {
        invalid(format!(
            "failed to create query: '{}' is not {kind}",
            artifactdb_core::id::excerpt(text)
        ))
    };
    let exact = |term: Term| -> Box<dyn Compiled> {
        Box::new(TermQuery::new(term, IndexRecordOption::Basic))
    };
    Ok(match indexed.kind {
        Kind::Keyword | Kind::Text => term(field, text),
        Kind::Boolean => match boolean(text) {
            Some(flag) => term(field, flag),
            None => return Err(number("a boolean")),
        },
        Kind::Integer => {
            let value: f64 = text.trim().parse().map_err(|_| number("a number"))?;
            match value.fract() == 0.0 && value.abs() < 9.2e18 {
                true => exact(Term::from_field_i64(field, value as i64)),
                false => nothing(),
            }
        }
        Kind::Float => {
            let value: f64 = text.trim().parse().map_err(|_| number("a number"))?;
            exact(Term::from_field_f64(field, value))
        }
        Kind::Date => {
            let bound = Bound::Included(text.to_owned());
            return range(indexed, &bound, &bound);
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
                    Bound::Included(text) => {
                        Limit::Included(Term::from_field_f64(field, parse_number(text)?))
                    }
                    Bound::Excluded(text) => {
                        Limit::Excluded(Term::from_field_f64(field, parse_number(text)?))
                    }
                })
            };
            bounded(limit(lower)?, limit(upper)?)
        }
        Kind::Integer => {
            let low = match lower {
                Bound::Open => Limit::Unbounded,
                Bound::Included(text) => Limit::Included(parse_number(text)?.ceil()),
                Bound::Excluded(text) => match parse_number(text)? {
                    whole if whole.fract() == 0.0 => Limit::Excluded(whole),
                    other => Limit::Included(other.ceil()),
                },
            };
            let high = match upper {
                Bound::Open => Limit::Unbounded,
                Bound::Included(text) => Limit::Included(parse_number(text)?.floor()),
                Bound::Excluded(text) => match parse_number(text)? {
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
                Bound::Included(text) => Limit::Included(term(date(text, now)?.0)),
                Bound::Excluded(text) => match date(text, now)? {
                    (start, end) if start == end => Limit::Excluded(term(start)),
                    (_, end) => Limit::Included(term(end)),
                },
            };
            let high = match upper {
                Bound::Open => Limit::Unbounded,
                Bound::Excluded(text) => Limit::Excluded(term(date(text, now)?.0)),
                Bound::Included(text) => match date(text, now)? {
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

fn parse_number(text: &str) -> Result<f64, SearchError> {
    text.trim()
        .parse::<f64>()
        .ok()
        .filter(|number| !number.is_nan())
        .ok_or_else(|| {
            invalid(format!(
                "failed to create query: '{}' is not a number",
                artifactdb_core::id::excerpt(text)
            ))
        })
}

/// A date, or `now` with an offset such as `now-2d`.
fn date(text: &str, now: Timestamp) -> Result<(Timestamp, Timestamp), SearchError> {
    let fail = || {
        invalid(format!(
            "failed to parse date field [{}]",
            artifactdb_core::id::excerpt(text)
        ))
    };
    let Some(offset) = text.strip_prefix("now") else {
        return parse_date(text).ok_or_else(fail);
    };
    if offset.is_empty() {
        return Ok((now, now));
    }
    let mut chars = offset.chars();
    let sign = match chars.next() {
        Some('+') => 1,
        Some('-') => -1,
        _ => return Err(fail()),
    };
    let unit = chars.next_back().ok_or_else(fail)?;
    let count: i64 = chars.as_str().parse().map_err(|_| fail())?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' | 'H' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        'M' => 30 * 86_400,
        'y' => 365 * 86_400,
        _ => return Err(fail()),
    };
    let seconds = count.checked_mul(seconds * sign).ok_or_else(fail)?;
    let at = now
        .checked_add(SignedDuration::from_secs(seconds))
        .map_err(|_| fail())?;
    Ok((at, at))
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
