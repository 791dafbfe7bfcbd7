//! The mapping of an index: which fields there are and of which type.
//!
//! Pure. The mapping is Elasticsearch's, as a value; the embedded engine reads the same one. Schemas
//! become one in `compile`; documents are held to it in `check`.

mod check;
mod compile;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

pub use check::{float, integer};
pub use compile::{MappingError, Source, compile};

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

impl Mapping {
    /// The mapping of an instance without schemas.
    pub fn minimal() -> Self {
        compile(&[]).0
    }

    /// The mapping as Elasticsearch takes it.
    pub fn to_json(&self) -> Value {
        object_json(&self.root)
    }

    /// Fields, objects among them.
    pub fn fields(&self) -> usize {
        compile::count(&self.root)
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
        check::object(&self.root, document, "", &mut problems, limit);
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

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
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

    /// A condition on a property is no second definition of it.
    #[test]
    fn constraints_leave_the_type_as_it_is() {
        let plain = json!({"properties": {
            "mode": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "who": {"type": "object", "properties": {"name": {"type": "string"}}},
        }});
        let mut constrained = plain.clone();
        constrained["if"] =
            json!({"properties": {"mode": {"const": 1}, "other": {"minLength": 1}}});
        constrained["then"] = json!({"required": ["tags"], "properties": {
            "tags": {"items": {"minLength": 2}}, "who": {"properties": {"name": {"pattern": "^a"}}},
        }});
        constrained["allOf"] = json!([{"properties": {"mode": {"enum": [1, 2]}}}]);
        assert_eq!(compile_one(constrained), compile_one(plain.clone()));
        let mut conflict = plain;
        conflict["allOf"] = json!([{"properties": {"mode": {"type": "string"}}}]);
        assert!(matches!(
            compile_one(conflict),
            Err(MappingError::Conflict { .. })
        ));
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
