//! The description of the API, held against the tables that it describes.

use super::super::access::Admittance;
use super::super::collection;
use super::super::operations::openapi::DESCRIPTION;
use super::super::query::Query;
use super::{Call, ROUTES, Refusal, Untouchable, api_over};
use bytes::Bytes;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The members of a path that are no methods.
const PARAMETERS: &str = "parameters";

fn description() -> Value {
    serde_json::from_slice(DESCRIPTION).unwrap()
}

/// The object at a place.
#[track_caller]
fn object<'a>(value: &'a Value, pointer: &str) -> &'a Map<String, Value> {
    let found = value.pointer(pointer).and_then(Value::as_object);
    found.unwrap_or_else(|| panic!("an object at {pointer}"))
}

/// The same, or the component that stands for it.
fn resolved<'a>(description: &'a Value, value: &'a Value) -> &'a Value {
    match value.get("$ref").and_then(Value::as_str) {
        None => value,
        Some(place) => {
            let found = place.strip_prefix('#').and_then(|pointer| description.pointer(pointer));
            found.unwrap_or_else(|| panic!("a component at {place}"))
        }
    }
}

/// All operations, each with its path and its method.
fn operations(description: &Value) -> BTreeMap<(String, String), &Value> {
    let of_path = |(path, item): (&'_ String, &'_ Value)| {
        let methods = item.as_object().unwrap().keys().filter(|name| *name != PARAMETERS);
        methods.map(|name| (path.clone(), name.clone())).collect::<Vec<_>>()
    };
    let names = object(description, "/paths").iter().flat_map(of_path);
    let with_operation = |(path, method): (String, String)| {
        let operation = &description["paths"][&path][&method];
        ((path, method.to_uppercase()), operation)
    };
    names.map(with_operation).collect()
}

/// The statuses of an operation.
fn statuses(operation: &Value) -> BTreeSet<&str> {
    object(operation, "/responses").keys().map(String::as_str).collect()
}

/// The names of the parameters in the query of all operations of a path.
fn query_parameters(description: &Value, path: &str) -> BTreeSet<String> {
    let of_path = operations(description).into_iter().filter(|((of, _), _)| of == path);
    let lists = of_path.filter_map(|(_, operation)| operation.get(PARAMETERS)?.as_array());
    let parameters = lists.flatten().map(|parameter| resolved(description, parameter));
    let in_query = parameters.filter(|parameter| parameter["in"] == "query");
    in_query.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_route_is_described_and_nothing_more() {
    let description = description();
    let of_route = |path: &'static str| move |method: &str| (path.to_owned(), method.to_owned());
    let methods = ROUTES.iter().flat_map(|route| {
        route.methods.iter().map(|(method, _)| *method).map(of_route(route.path))
    });
    let routes: BTreeSet<_> = methods.collect();
    assert_eq!(operations(&description).into_keys().collect::<BTreeSet<_>>(), routes);
}

#[test]
fn the_need_of_a_token_is_told_as_the_routes_have_it() {
    let description = description();
    for ((path, method), operation) in operations(&description) {
        let route = ROUTES.iter().find(|route| route.path == path).unwrap();
        let is_open = route.admittance == Admittance::Open;
        let tells_rights = method == "OPTIONS";
        let needs_none = operation["security"] == Value::Array(Vec::new());
        assert_eq!(needs_none, is_open || tells_rights, "{method} {path}");
        let looks_at_token = !is_open || tells_rights;
        assert_eq!(statuses(operation).contains("401"), looks_at_token, "{method} {path}");
    }
}

#[test]
fn every_refusal_is_described_and_nothing_more() {
    let description = description();
    let mut described = BTreeSet::new();
    for (status, response) in object(&description, "/components/responses") {
        let Ok(status) = status.parse::<u16>() else { continue };
        for (name, example) in object(response, "/content/text~1plain/examples") {
            let text = example["value"].as_str().unwrap().to_owned();
            described.insert((name.clone(), status, text));
        }
    }
    let refusals = Refusal::ALL.iter().map(|refusal| {
        let (status, text) = refusal.status_and_text();
        (format!("{refusal:?}"), status, format!("{text}\n"))
    });
    assert_eq!(described, refusals.collect());
}

/// A status of an error stands for all refusals that have it.
#[test]
fn an_error_is_that_of_the_catalogue_and_each_is_met_somewhere() {
    let description = description();
    let mut met = BTreeSet::new();
    for ((path, method), operation) in operations(&description) {
        for (status, response) in object(operation, "/responses") {
            if status.parse::<u16>().unwrap() >= 400 {
                let place = format!("#/components/responses/{status}");
                assert_eq!(response["$ref"], *place, "{method} {path}");
                met.insert(status.parse::<u16>().unwrap());
            }
        }
    }
    let known = Refusal::ALL.iter().map(|refusal| refusal.status_and_text().0);
    assert_eq!(met, known.collect());
}

#[test]
fn every_component_is_there_and_used() {
    let description = description();
    let text = std::str::from_utf8(DESCRIPTION).unwrap();
    let used: BTreeSet<_> = text.split("\"$ref\": \"#").skip(1).collect();
    let used: BTreeSet<_> = used.iter().filter_map(|rest| rest.split('"').next()).collect();
    let mut there = BTreeSet::new();
    for (kind, components) in object(&description, "/components") {
        if kind != "securitySchemes" {
            let names = components.as_object().unwrap().keys();
            there.extend(names.map(|name| format!("/components/{kind}/{name}")));
        }
    }
    assert_eq!(used, there.iter().map(String::as_str).collect());
}

#[test]
fn the_query_of_the_collection_has_the_parameters_that_are_known() {
    let known: BTreeSet<_> = collection::NAMES.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(query_parameters(&description(), "/kv"), known);
}

#[test]
fn the_query_of_a_key_has_parameters_that_are_known() {
    let parameters = query_parameters(&description(), "/kv/{key}");
    assert_eq!(parameters.len(), 7, "{parameters:?}");
    for name in parameters {
        let with_value = if name == "decr" { "decr=1" } else { &*name };
        assert!(Query::parse(with_value, &[&name]).is_ok(), "{name}");
    }
}

/// No generated call asks as a browser does.
#[test]
fn every_field_of_the_console_is_described() {
    let description = description();
    let page = ("Accept", "text/html");
    for condition in [None, Some(("If-None-Match", "*")), Some(("If-Match", "\"x\""))] {
        let fields: Vec<_> = [page].into_iter().chain(condition).collect();
        let call = Call { method: "GET", target: "/", fields: &fields, body_bytes: Some(0) };
        let reply = api_over(Untouchable).answer(&call, Bytes::new());
        let response = &description["paths"]["/"]["get"]["responses"][reply.status().to_string()];
        let described = object(resolved(&description, response), "/headers");
        for (name, _) in reply.headers().filter(|(name, _)| *name != "Content-Type") {
            assert!(described.contains_key(name), "{name} of {}", reply.status());
        }
    }
}

#[test]
fn the_version_is_that_of_the_program() {
    let description = description();
    assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(description["openapi"], "3.1.0");
}
