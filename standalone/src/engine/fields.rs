//! The tantivy schema of a mapping, and documents turned into what it indexes.
//!
//! Every scalar of the mapping is a field of its own, so ranges, sorting and aggregations work on
//! its type. Three catch-all fields serve unfielded queries.

use std::collections::HashMap;

use artifactdb_core::mapping::{Found, Mapping, Scalar, float, integer};
use artifactdb_core::timestamp::parse_date;
use serde_json::{Map, Value};
use tantivy::TantivyDocument;
use tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, STORED, Schema, SchemaBuilder, TextFieldIndexing,
    TextOptions,
};
use tantivy::tokenizer::{
    LowerCaser, RemoveLongFilter, TextAnalyzer, Token, TokenStream, Tokenizer,
};
use unicode_segmentation::UnicodeSegmentation;

pub const ANALYZER: &str = "standard";
/// Longest value of a keyword that is indexed, in bytes (Lucene's own limit).
const KEYWORD_MAX: usize = 32_766;
/// Longest value of a `.keyword` sub-field, in characters.
const SUBFIELD_MAX: usize = 256;

/// How one path of the mapping is indexed.
#[derive(Debug, Clone, Copy)]
pub struct Indexed {
    pub field: Field,
    pub kind: Kind,
    /// Whether it can be searched.
    pub searchable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Keyword,
    Text,
    Integer,
    Float,
    Boolean,
    Date,
}

/// The fields of an index.
pub struct Fields {
    pub schema: Schema,
    /// By dotted path; `.keyword` sub-fields too.
    by_path: HashMap<String, Indexed>,
    pub id: Field,
    pub source: Field,
    /// The external version of the document.
    pub version: Field,
    /// Every path at which a document has a value.
    pub exists: Field,
    /// Values of keywords, outside `_extra`.
    pub any_keyword: Field,
    /// Values of numbers and booleans, outside `_extra`.
    pub any_number: Field,
    /// Tokens of text, and of what is copied to `all`.
    pub any_text: Field,
    /// Tokens of what is copied to `all`.
    pub all: Field,
    /// `path=value` of fields that no schema names, below objects that take any.
    pub dynamic: Field,
}

fn raw(fast: bool) -> TextOptions {
    let options = TextOptions::default().set_indexing_options(
        TextFieldIndexing::default()
            .set_tokenizer("raw")
            .set_fieldnorms(false)
            .set_index_option(IndexRecordOption::Basic),
    );
    if fast {
        options.set_fast("raw")
    } else {
        options
    }
}

fn analysed() -> TextOptions {
    TextOptions::default().set_indexing_options(
        TextFieldIndexing::default()
            .set_tokenizer(ANALYZER)
            .set_index_option(IndexRecordOption::WithFreqsAndPositions),
    )
}

impl Fields {
    pub fn of(mapping: &Mapping) -> Self {
        let mut builder = SchemaBuilder::default();
        let id = builder.add_text_field("id", raw(false) | STORED);
        let source = builder.add_bytes_field("source", STORED);
        let version = builder.add_u64_field("version", FAST);
        let exists = builder.add_text_field("exists", raw(false));
        let any_keyword = builder.add_text_field("any_keyword", raw(false));
        let any_number = builder.add_text_field("any_number", raw(false));
        let any_text = builder.add_text_field("any_text", analysed());
        let all = builder.add_text_field("all", analysed());
        let dynamic = builder.add_text_field("dynamic", raw(false));
        let mut by_path = HashMap::new();
        for (path, scalar) in mapping.scalars() {
            if path == "all" {
                continue;
            }
            // A leading underscore is fine, a leading dash is not.
            let name = format!("field:{path}");
            let (field, kind) = match scalar.kind {
                Scalar::Keyword => (builder.add_text_field(&name, raw(true)), Kind::Keyword),
                Scalar::Text => (builder.add_text_field(&name, analysed()), Kind::Text),
                Scalar::Boolean => (builder.add_text_field(&name, raw(true)), Kind::Boolean),
                Scalar::Date => (builder.add_i64_field(&name, FAST | INDEXED), Kind::Date),
                kind if kind.is_integer() => {
                    (builder.add_i64_field(&name, FAST | INDEXED), Kind::Integer)
                }
                _ => (builder.add_f64_field(&name, FAST | INDEXED), Kind::Float),
            };
            if scalar.keyword {
                let field = builder.add_text_field(&format!("{name}.keyword"), raw(true));
                let indexed = Indexed {
                    field,
                    kind: Kind::Keyword,
                    searchable: true,
                };
                by_path.insert(format!("{path}.keyword"), indexed);
            }
            let indexed = Indexed {
                field,
                kind,
                // What is not indexed is still found by its column, as Elasticsearch does; text has
                // none.
                searchable: scalar.index || kind != Kind::Text,
            };
            by_path.insert(path, indexed);
        }
        Self {
            schema: builder.build(),
            by_path,
            id,
            source,
            version,
            exists,
            any_keyword,
            any_number,
            any_text,
            all,
            dynamic,
        }
    }

    pub fn get(&self, path: &str) -> Option<Indexed> {
        self.by_path.get(path).copied()
    }

    /// Every searchable path that an unfielded range looks at.
    pub fn default_paths(&self) -> impl Iterator<Item = Indexed> {
        self.by_path
            .iter()
            .filter(|(path, indexed)| !path.starts_with("_extra.") && indexed.searchable)
            .map(|(_, indexed)| *indexed)
            .chain([self.all()])
    }

    /// The `all` field as a path.
    pub fn all(&self) -> Indexed {
        Indexed {
            field: self.all,
            kind: Kind::Text,
            searchable: true,
        }
    }

    /// Paths that match a pattern with `*`.
    pub fn matching(&self, pattern: &str) -> Vec<(&str, Indexed)> {
        self.by_path
            .iter()
            .filter(|(path, _)| glob(pattern, path))
            .map(|(path, indexed)| (path.as_str(), *indexed))
            .collect()
    }

    /// What is indexed of `document`, which fits the mapping. `body` is what is stored of it.
    pub fn document(
        &self,
        id: &str,
        version: u64,
        document: &Map<String, Value>,
        body: &[u8],
        mapping: &Mapping,
    ) -> TantivyDocument {
        let mut out = TantivyDocument::new();
        out.add_text(self.id, id);
        out.add_bytes(self.source, body);
        out.add_u64(self.version, version);
        self.object(document, "", mapping, &mut out);
        out
    }

    fn object(
        &self,
        object: &Map<String, Value>,
        prefix: &str,
        mapping: &Mapping,
        out: &mut TantivyDocument,
    ) {
        for (name, value) in object {
            let path = if prefix.is_empty() {
                name.clone()
            } else {
                format!("{prefix}.{name}")
            };
            // What is stored and not indexed is not there for a query.
            if has_value(value) && mapping.field(&path) != Some(Found::Opaque) {
                out.add_text(self.exists, &path);
            }
            self.value(value, &path, mapping, out);
        }
    }

    fn value(&self, value: &Value, path: &str, mapping: &Mapping, out: &mut TantivyDocument) {
        match value {
            Value::Null => {}
            Value::Array(items) => {
                for item in items {
                    self.value(item, path, mapping, out);
                }
            }
            Value::Object(inner) => {
                if mapping.field(path) != Some(Found::Opaque) {
                    self.object(inner, path, mapping, out);
                }
            }
            scalar => self.scalar(scalar, path, mapping, out),
        }
    }

    fn scalar(&self, value: &Value, path: &str, mapping: &Mapping, out: &mut TantivyDocument) {
        let text = text_of(value);
        let own = !path.starts_with("_extra.");
        let (indexed, copied) = match mapping.field(path) {
            Some(Found::Scalar(scalar)) => (self.get(path), scalar.copy_to_all),
            Some(Found::Dynamic) => {
                out.add_text(self.dynamic, format!("{path}={text}"));
                if own {
                    out.add_text(self.any_keyword, &text);
                }
                return;
            }
            _ => return,
        };
        if copied {
            out.add_text(self.any_text, &text);
            out.add_text(self.all, &text);
        }
        let Some(indexed) = indexed else { return };
        let any = own && indexed.searchable;
        match indexed.kind {
            Kind::Keyword => {
                if text.len() <= KEYWORD_MAX {
                    out.add_text(indexed.field, &text);
                    if any {
                        out.add_text(self.any_keyword, &text);
                    }
                }
            }
            Kind::Text => {
                out.add_text(indexed.field, &text);
                if let Some(keyword) = self.get(&format!("{path}.keyword"))
                    && text.chars().count() <= SUBFIELD_MAX
                {
                    out.add_text(keyword.field, &text);
                }
                if any {
                    out.add_text(self.any_text, &text);
                }
            }
            Kind::Boolean => {
                if let Some(flag) = boolean(&text) {
                    out.add_text(indexed.field, flag);
                    if any {
                        out.add_text(self.any_number, flag);
                    }
                }
            }
            Kind::Integer => {
                if let Some(number) = integer(value) {
                    out.add_i64(indexed.field, number);
                    if any {
                        out.add_text(self.any_number, number.to_string());
                    }
                }
            }
            Kind::Float => {
                if let Some(number) = float(value) {
                    out.add_f64(indexed.field, number);
                    if any {
                        out.add_text(self.any_number, number_text(number));
                    }
                }
            }
            Kind::Date => {
                if let Some((at, _)) = parse_date(&text) {
                    out.add_i64(indexed.field, at.as_millisecond());
                    if any {
                        out.add_text(self.any_number, &text);
                    }
                }
            }
        }
    }
}

fn has_value(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => items.iter().any(has_value),
        Value::Object(map) => map.values().any(has_value),
        _ => true,
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A number as it is compared in unfielded queries: `3`, not `3.0`.
pub fn number_text(number: f64) -> String {
    format!("{number}")
}

/// `true` and `false`, and the empty text, which Elasticsearch reads as false.
pub fn boolean(text: &str) -> Option<&'static str> {
    match text {
        "true" => Some("true"),
        "false" | "" => Some("false"),
        _ => None,
    }
}

/// Whether `text` matches a pattern in which `*` stands for anything.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Words as Unicode (UAX #29) separates them, lower case: Elasticsearch's standard analyzer.
pub fn analyzer() -> TextAnalyzer {
    TextAnalyzer::builder(Words)
        .filter(RemoveLongFilter::limit(255))
        .filter(LowerCaser)
        .build()
}

#[derive(Clone, Copy)]
struct Words;

struct WordStream<'a> {
    words: unicode_segmentation::UnicodeWordIndices<'a>,
    token: Token,
}

impl Tokenizer for Words {
    type TokenStream<'a> = WordStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordStream<'a> {
        WordStream {
            words: text.unicode_word_indices(),
            token: Token::default(),
        }
    }
}

impl TokenStream for WordStream<'_> {
    fn advance(&mut self) -> bool {
        let Some((at, word)) = self.words.next() else {
            return false;
        };
        self.token.position = self.token.position.wrapping_add(1);
        self.token.offset_from = at;
        self.token.offset_to = at + word.len();
        self.token.text.clear();
        self.token.text.push_str(word);
        true
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

/// The tokens of `text` as the analyzer makes them.
pub fn tokens(text: &str) -> Vec<String> {
    let mut analyzer = analyzer();
    let mut stream = analyzer.token_stream(text);
    let mut found = Vec::new();
    while stream.advance() {
        found.push(stream.token().text.clone());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_words() {
        assert_eq!(
            tokens("Don't split snake_case, 3.14 or NUM-1!"),
            ["don't", "split", "snake_case", "3.14", "or", "num", "1"]
        );
    }

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("a.*", "a.b", true),
            ("*", "x", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*b*c", "axbyc", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*c", "abd", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
