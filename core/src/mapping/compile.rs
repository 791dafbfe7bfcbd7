//! JSON Schemas compiled into one mapping (CONTRACT section 7.2). Unlike upstream, two schemas that
//! want one field with different types are a reported conflict: the older wins.

use std::collections::BTreeMap;

use serde_json::Value;
use thiserror::Error;

use super::{Dynamic, Field, MAX_FIELDS, Mapping, ObjectField, Scalar, ScalarField, join};

/// Nesting of properties beyond which a schema is refused.
const MAX_DEPTH: usize = 24;

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

impl MappingError {
    /// The schema that is left out.
    pub fn schema(&self) -> &str {
        match self {
            MappingError::Conflict { schema, .. }
            | MappingError::Field { schema, .. }
            | MappingError::TooManyFields { schema } => schema,
        }
    }
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

/// Fields of an object and below it.
pub(super) fn count(object: &ObjectField) -> usize {
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
    let mut object = ObjectField::default();
    gather(source, schema, path, depth, &mut object)?;
    Ok(object.fields)
}

/// Adds the properties of a schema to those that are known. A sub-schema often repeats a property
/// only to constrain it, without a type: what is known then stands. (`if` only asks; it adds none.)
fn gather(
    source: &Source<'_>,
    schema: &Value,
    path: &str,
    depth: usize,
    object: &mut ObjectField,
) -> Result<(), MappingError> {
    if depth > MAX_DEPTH {
        return Err(too_deep(source, path));
    }
    let schema = resolve(source, schema, path)?;
    let own = schema.get("properties").and_then(Value::as_object);
    for (name, property) in own.into_iter().flatten() {
        let at = join(path, name);
        let property = resolve(source, property, &at)?;
        match object.fields.get_mut(name) {
            Some(Field::Object(known)) if element(property).get("properties").is_some() => {
                gather(source, element(property), &at, depth + 1, known)?;
            }
            Some(_) if !is_typed(property) => {}
            _ => {
                let field = if name.starts_with('$') {
                    Field::plain(Scalar::Keyword)
                } else {
                    compile_field(source, property, &at, depth + 1)?
                };
                let fields = BTreeMap::from([(name.clone(), field)]);
                merge(object, fields, source, path, &BTreeMap::new())?;
            }
        }
    }
    let parts = ["allOf", "anyOf", "oneOf"]
        .iter()
        .filter_map(|key| schema.get(*key).and_then(Value::as_array))
        .flatten()
        .chain(["then", "else"].iter().filter_map(|key| schema.get(*key)));
    for part in parts {
        gather(source, part, path, depth + 1, object)?;
    }
    Ok(())
}

/// What an array holds; anything else is itself.
fn element(property: &Value) -> &Value {
    match property.get("items") {
        Some(items) if items.is_object() => element(items),
        _ => property,
    }
}

/// Whether a property says of which type it is.
fn is_typed(property: &Value) -> bool {
    let own = element(property);
    let hint = own
        .get("_elasticsearch")
        .and_then(|hints| hints.get("type"));
    hint.is_some() || own.get("type").is_some() || own.get("properties").is_some()
}

fn too_deep(source: &Source<'_>, path: &str) -> MappingError {
    MappingError::Field {
        field: path.to_owned(),
        schema: source.name.to_owned(),
        problem: format!("nested deeper than {MAX_DEPTH}"),
    }
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
