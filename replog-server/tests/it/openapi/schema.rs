//! Checks of JSON values against schemas of the OpenAPI document.
//!
//! Knows the keywords that the document uses and refuses all others, so that none is ignored.
//! Stricter than JSON Schema in one respect: a member that no schema names is an error. Clients must
//! tolerate new members; the document must name them.

use std::collections::BTreeSet;

use serde_json::Value;

/// Members that a schema names; `None`: it does not restrict members.
type Named = Option<BTreeSet<String>>;

/// Checks `value`.
pub(super) fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    Schemas { document }.check(schema, value, "$")
}

/// Returns the target of a reference, or the value itself if it is not one.
pub(super) fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(target) => {
            let pointer = target.strip_prefix('#').expect("within the document");
            let found = document.pointer(pointer);
            found.unwrap_or_else(|| panic!("{target} is missing"))
        }
        None => value,
    }
}

struct Schemas<'a> {
    document: &'a Value,
}

impl Schemas<'_> {
    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let named = self.matches(schema, value, at)?;
        let (Some(named), Some(members)) = (named, value.as_object()) else {
            return Ok(());
        };
        match members.keys().find(|name| !named.contains(*name)) {
            Some(name) => Err(format!("{at}.{name} is in no schema")),
            None => Ok(()),
        }
    }

    fn matches(&self, schema: &Value, value: &Value, at: &str) -> Result<Named, String> {
        let mut named = Named::None;
        for (keyword, rule) in schema.as_object().expect("a schema is an object") {
            let number = || rule.as_f64().expect("a number");
            let wrong = || Err(format!("{at} is {value}, not of {keyword} {rule}"));
            let holds = match keyword.as_str() {
                "description" | "default" => true,
                "$ref" => {
                    let target = resolve(self.document, schema);
                    join(&mut named, self.matches(target, value, at)?);
                    true
                }
                "allOf" => {
                    for part in items(rule) {
                        join(&mut named, self.matches(part, value, at)?);
                    }
                    true
                }
                "oneOf" => {
                    join(&mut named, self.matches_one(items(rule), value, at)?);
                    true
                }
                "type" => match rule.as_str() {
                    Some(kind) => is(kind, value),
                    None => items(rule).iter().any(|kind| {
                        let kind = kind.as_str().expect("the name of a type");
                        is(kind, value)
                    }),
                },
                "enum" => items(rule).contains(value),
                "const" => rule == value,
                "minimum" => value.as_f64().is_none_or(|value| value >= number()),
                "maximum" => value.as_f64().is_none_or(|value| value <= number()),
                "minLength" => length(value).is_none_or(|length| length >= number()),
                "maxLength" => length(value).is_none_or(|length| length <= number()),
                "minItems" => count(value).is_none_or(|count| count >= number()),
                "maxItems" => count(value).is_none_or(|count| count <= number()),
                "items" => {
                    for (nth, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, item, &format!("{at}[{nth}]"))?;
                    }
                    true
                }
                "required" => value.as_object().is_none_or(|members| {
                    let there = |name: &Value| members.contains_key(name.as_str().expect("a name"));
                    items(rule).iter().all(there)
                }),
                "properties" => {
                    let rules = rule.as_object().expect("schemas by name");
                    join(&mut named, Some(rules.keys().cloned().collect()));
                    for (name, rule) in rules {
                        if let Some(member) = value.get(name) {
                            self.check(rule, member, &format!("{at}.{name}"))?;
                        }
                    }
                    true
                }
                other => panic!("{at}: the keyword {other} is not known here"),
            };
            if !holds {
                return wrong();
            }
        }
        Ok(named)
    }

    fn matches_one(&self, schemas: &[Value], value: &Value, at: &str) -> Result<Named, String> {
        let each = schemas.iter().map(|schema| self.matches(schema, value, at));
        let (good, bad): (Vec<_>, Vec<_>) = each.partition(Result::is_ok);
        match good.len() {
            1 => good.into_iter().next().expect("there is one"),
            0 => {
                let reasons = bad.into_iter().filter_map(Result::err);
                Err(reasons.collect::<Vec<_>>().join("; nor "))
            }
            several => Err(format!(
                "{at} is of {several} schemas that exclude each other"
            )),
        }
    }
}

fn join(named: &mut Named, more: Named) {
    if let Some(more) = more {
        named.get_or_insert_default().extend(more);
    }
}

fn items(rule: &Value) -> &[Value] {
    rule.as_array().expect("an array")
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type {other}"),
    }
}

fn length(value: &Value) -> Option<f64> {
    value.as_str().map(|text| text.chars().count() as f64)
}

fn count(value: &Value) -> Option<f64> {
    value.as_array().map(|items| items.len() as f64)
}

#[test]
fn a_schema_accepts_what_it_describes_and_nothing_else() {
    let document = serde_json::json!({"components": {"schemas": {
        "Base": {"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string"}}},
        "Full": {"allOf": [
            {"$ref": "#/components/schemas/Base"},
            {"properties": {"kind": {"const": "full"}, "at": {"type": ["integer", "null"], "minimum": 1}}},
        ]},
        "Any": {"description": "anything"},
        "Either": {"oneOf": [
            {"type": "integer"},
            {"type": "array", "items": {"enum": [1, 2]}, "minItems": 1, "maxItems": 2},
            {"$ref": "#/components/schemas/Full"},
        ]},
    }}});
    let table = [
        ("Any", r#"{"whatever":[{}]}"#, ""),
        ("Base", r#"{"kind":"x"}"#, ""),
        ("Base", r#"{}"#, "required"),
        ("Base", r#"{"kind":1}"#, "$.kind"),
        ("Base", r#"{"kind":"x","more":1}"#, "$.more is in no schema"),
        ("Full", r#"{"kind":"full","at":7}"#, ""),
        ("Full", r#"{"kind":"full","at":null}"#, ""),
        ("Full", r#"{"kind":"full","at":0}"#, "minimum"),
        ("Full", r#"{"kind":"half"}"#, "const"),
        (
            "Full",
            r#"{"kind":"full","more":1}"#,
            "$.more is in no schema",
        ),
        ("Either", "5", ""),
        ("Either", "[1,2]", ""),
        ("Either", "[1,3]", "$[1]"),
        ("Either", "[]", "minItems"),
        ("Either", r#""x""#, "; nor "),
        ("Either", r#"{"kind":"full"}"#, ""),
        (
            "Either",
            r#"{"kind":"full","more":1}"#,
            "$.more is in no schema",
        ),
    ];
    for (name, value, expected) in table {
        let schema = &document["components"]["schemas"][name];
        let value: Value = serde_json::from_str(value).expect("JSON");
        match check(&document, schema, &value) {
            Ok(()) => assert_eq!(expected, "", "{name} takes {value}"),
            Err(why) => assert!(
                !expected.is_empty() && why.contains(expected),
                "{name}, {value}: {why}"
            ),
        }
    }
}
