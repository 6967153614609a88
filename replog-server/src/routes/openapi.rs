//! `GET /openapi.json`: the interface of this server, for programs.
//!
//! The document is written by hand, and tests keep it correct: here against the registered routes, and in
//! `tests/it/openapi.rs` against real answers.

use actix_web::{HttpRequest, HttpResponse};

use crate::{accept::JSON, problem::Problem, query::Query};

/// The document, as in the OpenAPI Specification 3.1.
pub(crate) const DOCUMENT: &str = include_str!("../openapi.json");

/// Sends the document.
pub(crate) async fn describe(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Query::of(&request, &[])?;
    Ok(HttpResponse::Ok().content_type(JSON).body(DOCUMENT))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use actix_web::{App, test::init_service};
    use serde_json::Value;

    use super::*;
    use crate::{app, route_tests::Pair};

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).expect("the document is JSON")
    }

    #[actix_web::test]
    async fn the_document_has_every_route_and_no_other() {
        let pair = Pair::start(None).await;
        let mut registered = Vec::new();
        let app = App::new().configure(|config| {
            // A node that allows faults.
            registered = app::add_routes(config, &pair.secondary);
        });
        drop(init_service(app).await);
        let registered: BTreeSet<(String, String)> = registered
            .iter()
            .flat_map(|(path, allow)| {
                // Documented once for all of them: HEAD exists wherever GET does.
                assert_eq!(allow.contains("HEAD"), allow.contains("GET"), "{path}");
                let methods = allow.split(", ").filter(|method| *method != "HEAD");
                methods.map(|method| ((*path).to_owned(), method.to_owned()))
            })
            .collect();
        let document = document();
        let paths = document["paths"].as_object().expect("paths");
        let described: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().expect("methods").keys();
                methods.map(|method| (path.clone(), method.to_uppercase()))
            })
            .collect();
        assert_eq!(described, registered);
        pair.stop().await;
    }

    #[test]
    fn the_document_has_this_version_and_every_reference_is_defined_and_every_definition_used() {
        let document = document();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let mut targets = BTreeSet::new();
        collect_targets(&document, &mut targets);
        let mut there = BTreeSet::new();
        for (kind, components) in document["components"].as_object().expect("components") {
            for name in components.as_object().expect("an object").keys() {
                there.insert(format!("#/components/{kind}/{name}"));
            }
        }
        assert_eq!(targets, there);
    }

    fn collect_targets(value: &Value, targets: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    match (name.as_str(), value.as_str()) {
                        ("$ref", Some(target)) => {
                            targets.insert(target.to_owned());
                        }
                        _ => collect_targets(value, targets),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| collect_targets(item, targets)),
            _ => {}
        }
    }
}
