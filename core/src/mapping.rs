//! JSON Schemas compiled into one index mapping (CONTRACT section 7.2), and documents held to it.
//!
//! Pure. The mapping is Elasticsearch's, as a value; the embedded engine reads the same one. Unlike
//! upstream, two schemas that want one field with different types are a reported conflict.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Nesting of properties beyond which a schema is refused.
const MAX_DEPTH: usize = 24;
/// Fields beyond which a mapping is refused, Elasticsearch's own default limit.
pub const MAX_FIELDS: usize = 2000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scalar {
    Keyword,
    Text,
    Byte,
    Short,
    Integer,
    Long,
    Float,
    Double,
    Boolean,
    Date,
}

impl Scalar {
    const ALL: [(Scalar, &'static str); 10] = [
        (Scalar::Keyword, "keyword"),
        (Scalar::Text, "text"),
        (Scalar::Byte, "byte"),
        (Scalar::Short, "short"),
        (Scalar::Integer, "integer"),
        (Scalar::Long, "long"),
        (Scalar::Float, "float"),
        (Scalar::Double, "double"),
        (Scalar::Boolean, "boolean"),
        (Scalar::Date, "date"),
    ];

    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("keyword", |(_, name)| name)
    }

    fn parse(name: &str) -> Option<Self> {
        match name {
            "date-time" => Some(Scalar::Date),
            "number" => Some(Scalar::Float),
            "string" => Some(Scalar::Keyword),
            _ => Self::ALL
                .iter()
                .find(|(_, own)| *own == name)
                .map(|(kind, _)| *kind),
        }
    }

    pub fn is_integer(self) -> bool {
        matches!(
            self,
            Scalar::Byte | Scalar::Short | Scalar::Integer | Scalar::Long
        )
    }

    pub fn is_float(self) -> bool {
        matches!(self, Scalar::Float | Scalar::Double)
    }

    fn range(self) -> Option<(i64, i64)> {
        match self {
            Scalar::Byte => Some((i8::MIN.into(), i8::MAX.into())),
            Scalar::Short => Some((i16::MIN.into(), i16::MAX.into())),
            Scalar::Integer => Some((i32::MIN.into(), i32::MAX.into())),
            Scalar::Long => Some((i64::MIN, i64::MAX)),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Dynamic {
    /// An unmapped field is refused.
    #[default]
    Strict,
    /// An unmapped field is indexed by what it looks like.
    Allowed,
    /// An unmapped field is stored and not indexed.
    Ignored,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectField {
    pub dynamic: Dynamic,
    pub fields: BTreeMap<String, Field>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalarField {
    pub kind: Scalar,
    /// Whether it can be searched.
    pub index: bool,
    /// Whether its values are copied to the `all` field.
    pub copy_to_all: bool,
    /// A `.keyword` sub-field beside analysed text.
    pub keyword: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    Scalar(ScalarField),
    Object(ObjectField),
    /// Any JSON, stored and not indexed.
    Opaque,
}

impl Field {
    fn plain(kind: Scalar) -> Self {
        Field::Scalar(ScalarField {
            kind,
            index: true,
            copy_to_all: false,
            keyword: false,
        })
    }

    fn describe(&self) -> &'static str {
        match self {
            Field::Scalar(field) => field.kind.as_str(),
            Field::Object(_) => "object",
            Field::Opaque => "object (not indexed)",
        }
    }
}

/// The mapping of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pub root: ObjectField,
}

/// A schema to compile: its place `<type>/<version>.json` and its content.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    pub name: &'a str,
    pub schema: &'a Value,
}

/// Why a schema was left out of a mapping.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MappingError {
    #[error(
        "field '{field}' of schema '{schema}' is {wanted}, and {existing} in schema '{holder}'"
    )]
    Conflict {
        field: String,
        schema: String,
        wanted: &'static str,
        existing: &'static str,
        holder: String,
    },
    #[error("field '{field}' of schema '{schema}': {problem}")]
    Field {
        field: String,
        schema: String,
        problem: String,
    },
    #[error("schema '{schema}' brings the mapping to more than {MAX_FIELDS} fields")]
    TooManyFields { schema: String },
}

/// Compiles `sources`, oldest first. A schema that conflicts with an older one is left out whole
/// and reported; the mapping holds the others.
pub fn compile(sources: &[Source<'_>]) -> (Mapping, Vec<MappingError>) {
    let mut mapping = Mapping {
        root: ObjectField {
            dynamic: Dynamic::Strict,
            fields: base_fields(),
        },
    };
    let mut holders: BTreeMap<String, String> = BTreeMap::new();
    let mut refused = Vec::new();
    for source in sources {
        let compiled = properties(source, source.schema, "", 0)
            .and_then(|fields| {
                let mut root = mapping.root.clone();
                merge(&mut root, fields, source, "", &holders)?;
                Ok(root)
            })
            .and_then(|root| match count(&root) > MAX_FIELDS {
                true => Err(MappingError::TooManyFields {
                    schema: source.name.to_owned(),
                }),
                false => Ok(root),
            });
        match compiled {
            Ok(root) => {
                record(&root, source.name, "", &mut holders);
                mapping.root = root;
            }
            Err(error) => refused.push(error),
        }
    }
    (mapping, refused)
}

fn count(object: &ObjectField) -> usize {
    object
        .fields
        .values()
        .map(|field| match field {
            Field::Object(inner) => 1 + count(inner),
            _ => 1,
        })
        .sum()
}

fn record(object: &ObjectField, schema: &str, path: &str, holders: &mut BTreeMap<String, String>) {
    for (name, field) in &object.fields {
        let path = join(path, name);
        holders
            .entry(path.clone())
            .or_insert_with(|| schema.to_owned());
        if let Field::Object(inner) = field {
            record(inner, schema, &path, holders);
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn merge(
    into: &mut ObjectField,
    fields: BTreeMap<String, Field>,
    source: &Source<'_>,
    path: &str,
    holders: &BTreeMap<String, String>,
) -> Result<(), MappingError> {
    for (name, field) in fields {
        let path = join(path, &name);
        match (into.fields.get_mut(&name), field) {
            (None, field) => {
                into.fields.insert(name, field);
            }
            (Some(Field::Object(existing)), Field::Object(new)) => {
                if new.dynamic != Dynamic::Strict {
                    existing.dynamic = new.dynamic;
                }
                merge(existing, new.fields, source, &path, holders)?;
            }
            (Some(Field::Opaque), Field::Opaque) => {}
            (Some(Field::Scalar(existing)), Field::Scalar(new)) if existing.kind == new.kind => {
                existing.index |= new.index;
            }
            (Some(existing), new) => {
                return Err(MappingError::Conflict {
                    holder: holders
                        .get(&path)
                        .cloned()
                        .unwrap_or_else(|| "the instance itself".to_owned()),
                    field: path,
                    schema: source.name.to_owned(),
                    wanted: new.describe(),
                    existing: existing.describe(),
                });
            }
        }
    }
    Ok(())
}

/// The properties of a schema or of an object in it, `allOf`, `then` and `else` flattened in.
fn properties(
    source: &Source<'_>,
    schema: &Value,
    path: &str,
    depth: usize,
) -> Result<BTreeMap<String, Field>, MappingError> {
    if depth > MAX_DEPTH {
        return Err(MappingError::Field {
            field: path.to_owned(),
            schema: source.name.to_owned(),
            problem: format!("nested deeper than {MAX_DEPTH}"),
        });
    }
    let schema = resolve(source, schema, path)?;
    let mut object = ObjectField::default();
    if let Some(own) = schema.get("properties").and_then(Value::as_object) {
        for (name, property) in own {
            let at = join(path, name);
            let field = if name.starts_with('$') {
                Field::plain(Scalar::Keyword)
            } else {
                compile_field(source, property, &at, depth + 1)?
            };
            merge(
                &mut object,
                BTreeMap::from([(name.clone(), field)]),
                source,
                path,
                &BTreeMap::new(),
            )?;
        }
    }
    let nested = ["allOf", "anyOf", "oneOf"]
        .iter()
        .filter_map(|key| schema.get(*key).and_then(Value::as_array))
        .flatten()
        .chain(
            ["if", "then", "else"]
                .iter()
                .filter_map(|key| schema.get(*key)),
        );
    for part in nested {
        let fields = properties(source, part, path, depth + 1)?;
        merge_optional(&mut object, fields, source, path)?;
    }
    Ok(object.fields)
}

/// Adds the fields of a sub-schema. `if` and the alternatives often repeat a property only to
/// constrain it (no type): what is already known then stands.
fn merge_optional(
    object: &mut ObjectField,
    fields: BTreeMap<String, Field>,
    source: &Source<'_>,
    path: &str,
) -> Result<(), MappingError> {
    merge(object, fields, source, path, &BTreeMap::new())
}

/// Follows a `$ref` inside the same document.
fn resolve<'a>(
    source: &Source<'a>,
    schema: &'a Value,
    path: &str,
) -> Result<&'a Value, MappingError> {
    let mut schema = schema;
    for _ in 0..MAX_DEPTH {
        let Some(reference) = schema.get("$ref").and_then(Value::as_str) else {
            return Ok(schema);
        };
        let target = reference
            .strip_prefix('#')
            .and_then(|pointer| source.schema.pointer(pointer));
        schema = target.ok_or_else(|| MappingError::Field {
            field: path.to_owned(),
            schema: source.name.to_owned(),
            problem: format!("'$ref' to '{reference}' leads nowhere inside the schema"),
        })?;
    }
    Err(MappingError::Field {
        field: path.to_owned(),
        schema: source.name.to_owned(),
        problem: "'$ref' leads back to itself".to_owned(),
    })
}

fn compile_field(
    source: &Source<'_>,
    property: &Value,
    path: &str,
    depth: usize,
) -> Result<Field, MappingError> {
    let fail = |problem: String| MappingError::Field {
        field: path.to_owned(),
        schema: source.name.to_owned(),
        problem,
    };
    if depth > MAX_DEPTH {
        return Err(fail(format!("nested deeper than {MAX_DEPTH}")));
    }
    let property = resolve(source, property, path)?;
    let hints = property.get("_elasticsearch");
    let indexed = hints
        .and_then(|hints| hints.get("index"))
        .and_then(Value::as_bool)
        .unwrap_or(true);
    let scalar = |kind| {
        Ok(Field::Scalar(ScalarField {
            kind,
            index: indexed,
            copy_to_all: false,
            keyword: false,
        }))
    };
    if let Some(hint) = hints.and_then(|hints| hints.get("type")) {
        let name = hint.as_str().unwrap_or_default();
        if name == "object" {
            return object(source, property, path, depth, indexed);
        }
        return match Scalar::parse(name) {
            Some(kind) => scalar(kind),
            None => Err(fail(format!("unknown '_elasticsearch.type' {hint}"))),
        };
    }
    if property.get("enum").is_some() || property.get("const").is_some() {
        return scalar(Scalar::Keyword);
    }
    let kind = match property.get("type") {
        Some(Value::String(kind)) => Some(kind.as_str()),
        Some(Value::Array(kinds)) => {
            let names: Vec<&str> = kinds.iter().filter_map(Value::as_str).collect();
            if names.contains(&"object") && property.get("items").is_some() {
                Some("array")
            } else {
                names.into_iter().find(|name| *name != "null")
            }
        }
        _ if property.get("properties").is_some() => Some("object"),
        _ if property.get("items").is_some() => Some("array"),
        _ => None,
    };
    match kind {
        Some("string") => match property.get("format").and_then(Value::as_str) {
            Some("date-time" | "date") => scalar(Scalar::Date),
            _ => scalar(Scalar::Keyword),
        },
        Some("integer") => scalar(Scalar::Integer),
        Some("number") => scalar(Scalar::Float),
        Some("boolean") => scalar(Scalar::Boolean),
        Some("array") => match property.get("items") {
            None | Some(Value::Bool(_)) => scalar(Scalar::Keyword),
            Some(items) => compile_field(source, items, path, depth + 1),
        },
        Some("object") => object(source, property, path, depth, indexed),
        Some(other) => Err(fail(format!("unknown type '{other}'"))),
        None => {
            let alternatives = ["allOf", "anyOf", "oneOf"]
                .iter()
                .filter_map(|key| property.get(*key).and_then(Value::as_array))
                .flatten();
            let mut found: Option<Field> = None;
            for alternative in alternatives {
                if alternative.get("type").and_then(Value::as_str) == Some("null") {
                    continue;
                }
                let field = compile_field(source, alternative, path, depth + 1)?;
                match &found {
                    Some(known) if *known != field => {
                        return Err(fail("its alternatives have different types".to_owned()));
                    }
                    _ => found = Some(field),
                }
            }
            found.ok_or_else(|| fail("it has no type".to_owned()))
        }
    }
}

fn object(
    source: &Source<'_>,
    property: &Value,
    path: &str,
    depth: usize,
    indexed: bool,
) -> Result<Field, MappingError> {
    let dynamic = match property
        .get("_elasticsearch")
        .and_then(|hints| hints.get("dynamic"))
    {
        Some(Value::Bool(true)) => Dynamic::Allowed,
        Some(Value::Bool(false)) => Dynamic::Ignored,
        Some(Value::String(text)) if text == "true" => Dynamic::Allowed,
        Some(Value::String(text)) if text == "false" => Dynamic::Ignored,
        _ => Dynamic::Strict,
    };
    let fields = properties(source, property, path, depth + 1)?;
    if !indexed || (fields.is_empty() && dynamic == Dynamic::Strict) {
        return Ok(Field::Opaque);
    }
    Ok(Field::Object(ObjectField { dynamic, fields }))
}

/// `path`, `$schema`, `all` and the `_extra` block (CONTRACT sections 2.4 and 7.2).
fn base_fields() -> BTreeMap<String, Field> {
    let keyword = |copy_to_all| {
        Field::Scalar(ScalarField {
            kind: Scalar::Keyword,
            index: true,
            copy_to_all,
            keyword: false,
        })
    };
    let text = || {
        Field::Scalar(ScalarField {
            kind: Scalar::Text,
            index: true,
            copy_to_all: true,
            keyword: true,
        })
    };
    let object = |fields: Vec<(&str, Field)>| {
        Field::Object(ObjectField {
            dynamic: Dynamic::Strict,
            fields: fields
                .into_iter()
                .map(|(name, field)| (name.to_owned(), field))
                .collect(),
        })
    };
    let extra = object(vec![
        ("id", keyword(false)),
        ("gprn", keyword(true)),
        ("project_id", keyword(true)),
        ("version", keyword(true)),
        ("revision", keyword(true)),
        ("metapath", keyword(true)),
        ("uploader_name", keyword(false)),
        // A number of 16 bits overflowed upstream (CONTRACT section 11, entry 20).
        ("numerical_revision", Field::plain(Scalar::Long)),
        ("type", text()),
        ("$schema", text()),
        ("meta_indexed", Field::plain(Scalar::Date)),
        ("meta_uploaded", Field::plain(Scalar::Date)),
        ("uploaded", Field::plain(Scalar::Date)),
        ("file_size", Field::plain(Scalar::Long)),
        (
            "permissions",
            object(vec![
                ("owners", keyword(false)),
                ("viewers", keyword(false)),
                ("scope", keyword(false)),
                ("read_access", keyword(false)),
                ("write_access", keyword(false)),
            ]),
        ),
        (
            "transient",
            object(vec![
                ("expires_job_id", keyword(false)),
                ("expires_in", Field::plain(Scalar::Date)),
            ]),
        ),
        ("link", object(vec![("artifactdb", keyword(false))])),
        (
            "location",
            object(vec![
                ("type", keyword(false)),
                (
                    "s3",
                    object(vec![
                        ("bucket", keyword(false)),
                        ("url", keyword(false)),
                        ("arn", keyword(false)),
                    ]),
                ),
            ]),
        ),
    ]);
    BTreeMap::from([
        ("_extra".to_owned(), extra),
        ("$schema".to_owned(), keyword(false)),
        ("path".to_owned(), keyword(false)),
        ("all".to_owned(), Field::plain(Scalar::Text)),
    ])
}

impl Mapping {
    /// The mapping of an instance without schemas.
    pub fn minimal() -> Self {
        compile(&[]).0
    }

    /// The mapping as Elasticsearch takes it.
    pub fn to_json(&self) -> Value {
        object_json(&self.root)
    }

    /// Hexadecimal SHA-256 of the mapping: what an index keeps to know whether it is current.
    pub fn hash(&self) -> String {
        hex::encode(Sha256::digest(self.to_json().to_string()))
    }

    /// The field at a dotted path; a `.keyword` sub-field is found as the keyword that it is.
    pub fn field(&self, path: &str) -> Option<Found<'_>> {
        let mut object = &self.root;
        let mut parts = path.split('.').peekable();
        while let Some(part) = parts.next() {
            match object.fields.get(part) {
                Some(Field::Object(inner)) => {
                    if parts.peek().is_none() {
                        return Some(Found::Object);
                    }
                    object = inner;
                }
                Some(Field::Opaque) => return Some(Found::Opaque),
                Some(Field::Scalar(field)) => {
                    return match parts.next() {
                        None => Some(Found::Scalar(field)),
                        Some("keyword") if field.keyword && parts.next().is_none() => {
                            Some(Found::KeywordOf(field))
                        }
                        Some(_) => None,
                    };
                }
                None => {
                    return (object.dynamic == Dynamic::Allowed).then_some(Found::Dynamic);
                }
            }
        }
        None
    }

    /// Every scalar field with its dotted path.
    pub fn scalars(&self) -> Vec<(String, &ScalarField)> {
        let mut found = Vec::new();
        collect(&self.root, "", &mut found);
        found
    }

    /// Every way in which `document` does not fit: unmapped fields and values of the wrong type,
    /// at most `limit` of them.
    pub fn check(&self, document: &Map<String, Value>, limit: usize) -> Vec<String> {
        let mut problems = Vec::new();
        check_object(&self.root, document, "", &mut problems, limit);
        problems.truncate(limit);
        problems
    }
}

/// What stands at a path of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    Scalar(&'a ScalarField),
    KeywordOf(&'a ScalarField),
    Object,
    Opaque,
    /// Below an object that takes any field.
    Dynamic,
}

fn collect<'a>(object: &'a ObjectField, path: &str, found: &mut Vec<(String, &'a ScalarField)>) {
    for (name, field) in &object.fields {
        let path = join(path, name);
        match field {
            Field::Scalar(scalar) => found.push((path, scalar)),
            Field::Object(inner) => collect(inner, &path, found),
            Field::Opaque => {}
        }
    }
}

fn object_json(object: &ObjectField) -> Value {
    let dynamic = match object.dynamic {
        Dynamic::Strict => json!("strict"),
        Dynamic::Allowed => json!(true),
        Dynamic::Ignored => json!(false),
    };
    let properties: Map<String, Value> = object
        .fields
        .iter()
        .map(|(name, field)| (name.clone(), field_json(field)))
        .collect();
    json!({"dynamic": dynamic, "properties": properties})
}

fn field_json(field: &Field) -> Value {
    match field {
        Field::Object(object) => object_json(object),
        Field::Opaque => json!({"type": "object", "enabled": false}),
        Field::Scalar(scalar) => {
            let mut out = json!({"type": scalar.kind.as_str()});
            if !scalar.index {
                out["index"] = json!(false);
            }
            if scalar.copy_to_all {
                out["copy_to"] = json!("all");
            }
            if scalar.keyword {
                out["fields"] = json!({"keyword": {"type": "keyword", "ignore_above": 256}});
            }
            out
        }
    }
}

fn check_object(
    object: &ObjectField,
    document: &Map<String, Value>,
    path: &str,
    problems: &mut Vec<String>,
    limit: usize,
) {
    for (name, value) in document {
        if problems.len() >= limit {
            return;
        }
        let at = join(path, name);
        match object.fields.get(name) {
            None if object.dynamic == Dynamic::Strict => {
                problems.push(format!("field '{at}' is in no schema of this instance"));
            }
            None | Some(Field::Opaque) => {}
            Some(field) => check_value(field, value, &at, problems, limit),
        }
    }
}

fn check_value(field: &Field, value: &Value, at: &str, problems: &mut Vec<String>, limit: usize) {
    match (field, value) {
        (_, Value::Null) => {}
        (_, Value::Array(items)) => {
            for item in items {
                check_value(field, item, at, problems, limit);
                if problems.len() >= limit {
                    return;
                }
            }
        }
        (Field::Opaque, _) => {}
        (Field::Object(inner), Value::Object(map)) => {
            check_object(inner, map, at, problems, limit);
        }
        (Field::Object(_), _) => problems.push(format!("field '{at}' should be an object")),
        (Field::Scalar(scalar), value) => {
            if !fits(scalar.kind, value) {
                problems.push(format!(
                    "field '{at}' should be of type {}",
                    scalar.kind.as_str()
                ));
            }
        }
    }
}

/// Whether Elasticsearch would take `value` for a field of this kind (it coerces numbers in text).
fn fits(kind: Scalar, value: &Value) -> bool {
    match (kind, value) {
        (_, Value::Object(_)) => false,
        (Scalar::Keyword | Scalar::Text, _) => true,
        (Scalar::Boolean, Value::Bool(_)) => true,
        (Scalar::Boolean, Value::String(text)) => matches!(text.as_str(), "true" | "false" | ""),
        (Scalar::Date, Value::Number(number)) => number.is_i64() || number.is_u64(),
        (Scalar::Date, Value::String(text)) => crate::timestamp::parse_date(text).is_some(),
        (kind, value) if kind.is_integer() => integer(value).is_some_and(|number| {
            kind.range()
                .is_none_or(|(low, high)| (low..=high).contains(&number))
        }),
        (kind, value) if kind.is_float() => float(value).is_some(),
        _ => false,
    }
}

/// `value` as an integer field stores it: fractions are cut, numbers in text are read.
pub fn integer(value: &Value) -> Option<i64> {
    if let Some(number) = value.as_i64() {
        return Some(number);
    }
    let number = float(value)?;
    (number.abs() < 9.2e18).then_some(number as i64)
}

/// `value` as a floating-point field stores it.
pub fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compile_one(schema: Value) -> Result<Value, MappingError> {
        let source = Source {
            name: "thing/v1.json",
            schema: &schema,
        };
        let (mapping, mut refused) = compile(&[source]);
        match refused.pop() {
            Some(error) => Err(error),
            None => {
                let mut properties = mapping.to_json()["properties"].take();
                let map = properties.as_object_mut().unwrap();
                for name in ["_extra", "$schema", "path", "all"] {
                    map.remove(name);
                }
                Ok(properties)
            }
        }
    }

    #[test]
    fn every_row_of_the_contract() {
        let schema = json!({
            "title": "Thing",
            "definitions": {"who": {"type": "object", "properties": {"name": {"type": "string"}}}},
            "properties": {
                "s": {"type": "string"}, "d": {"type": "string", "format": "date-time"},
                "i": {"type": "integer"}, "n": {"type": "number"}, "b": {"type": "boolean"},
                "e": {"enum": [1, 2]}, "t": {"type": "string", "_elasticsearch": {"type": "text"}},
                "o": {"type": "object", "properties": {"x": {"type": "string"}}},
                "free": {"type": "object"},
                "off": {"type": "object", "properties": {"x": {"type": "string"}}, "_elasticsearch": {"index": false}},
                "hidden": {"type": "string", "_elasticsearch": {"index": false}},
                "a": {"type": "array", "items": {"type": "integer"}}, "bare": {"type": "array"},
                "ao": {"type": "array", "items": {"properties": {"y": {"type": "number"}}}},
                "l": {"type": ["null", "string"]}, "who": {"$ref": "#/definitions/who"},
                "dyn": {"type": "object", "_elasticsearch": {"dynamic": true}},
                "u": {"type": "string", "format": "uri"},
            },
            "allOf": [{"properties": {"extra": {"type": "string"}}}],
            "then": {"properties": {"later": {"type": "boolean"}}},
        });
        insta::assert_json_snapshot!("contract_rows", compile_one(schema).unwrap());
    }

    #[test]
    fn the_base_mapping() {
        insta::assert_json_snapshot!("base_mapping", Mapping::minimal().to_json());
    }

    #[test]
    fn a_conflict_leaves_the_older_standing() {
        let (old, new) = (
            json!({"properties": {"mass": {"type": "number"}, "a": {"type": "string"}}}),
            json!({"properties": {"mass": {"type": "string"}, "b": {"type": "string"}}}),
        );
        let (mapping, refused) = compile(&[
            Source {
                name: "old/v1.json",
                schema: &old,
            },
            Source {
                name: "new/v1.json",
                schema: &new,
            },
        ]);
        assert_eq!(
            refused[0].to_string(),
            "field 'mass' of schema 'new/v1.json' is keyword, and float in schema 'old/v1.json'"
        );
        assert!(mapping.field("a").is_some() && mapping.field("b").is_none());
    }

    #[test]
    fn wrong_schemas_are_refused_with_the_field() {
        for bad in [
            json!({"properties": {"x": {}}}),
            json!({"properties": {"x": {"type": "wibble"}}}),
            json!({"properties": {"x": {"$ref": "#/nowhere"}}}),
            json!({"properties": {"x": {"$ref": "http://example.org/s.json"}}}),
            json!({"properties": {"x": {"$ref": "#/properties/x"}}}),
            json!({"properties": {"path": {"type": "integer"}}}),
            json!({"properties": {"_extra": {"type": "string"}}}),
        ] {
            compile_one(bad.clone()).unwrap_err();
        }
        let recursive =
            json!({"properties": {"x": {"properties": {"y": {"$ref": "#/properties/x"}}}}});
        compile_one(recursive).unwrap_err();
    }

    #[test]
    fn documents_are_held_to_the_mapping() {
        let schema = json!({"properties": {"n": {"type": "integer"}, "o": {"properties": {"d": {"type": "string", "format": "date-time"}}}}});
        let (mapping, _) = compile(&[Source {
            name: "t/v1.json",
            schema: &schema,
        }]);
        let check = |value: Value| mapping.check(value.as_object().unwrap(), 10);
        assert!(check(json!({"path": "x", "n": "12", "o": {"d": "2020-01-01"}})).is_empty());
        assert_eq!(
            check(json!({"m": 1, "n": [1, "x"], "o": {"d": "soon"}})),
            [
                "field 'm' is in no schema of this instance",
                "field 'n' should be of type integer",
                "field 'o.d' should be of type date",
            ]
        );
    }

    proptest! {
        #[test]
        fn compile_and_check_never_panic(text in r#"(\{"properties":)?[{}\[\]":,a-z0-9$#/ ]{0,60}"#) {
            if let Ok(schema) = serde_json::from_str::<Value>(&text) {
                let (mapping, _) = compile(&[Source { name: "x", schema: &schema }]);
                if let Some(map) = schema.as_object() {
                    mapping.check(map, 5);
                }
            }
        }
    }
}
