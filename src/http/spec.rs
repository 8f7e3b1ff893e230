//! The OpenAPI document, generated from the handlers, and the refusals which its operations share.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{OpenApi as Document, RefOr, Response as OpenApiResponse};
use utoipa::{IntoResponses, Modify, OpenApi};

use super::problem::ProblemDocument;

#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "consentd",
        description = "Consent management for the VLA Inference API: what may be kept of a customer's traffic, who changed it, and the trail that proves it.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        contact(name = "consentd maintainers"),
    ),
    servers((url = "/", description = "This service")),
    tags(
        (name = "Consent", description = "A customer's decision: given, changed, withdrawn, read"),
        (name = "Permissions", description = "What is permitted now: the question of the inference path"),
        (name = "Audit", description = "Every change, who made it, and why"),
        (name = "Audit log", description = "The trail as a transparency log: checkpoints, tiles and proofs in the formats of c2sp.org"),
        (name = "Customer page", description = "Links to the page on which a customer sees, changes and withdraws its consent"),
        (name = "Customers", description = "The customers of the VLA Inference API"),
        (name = "API keys", description = "Who may call"),
        (name = "Service", description = "Health, metrics and documentation; no key needed"),
    ),
    modifiers(&BearerKey),
)]
pub struct Spec;

struct BearerKey;

impl Modify for BearerKey {
    fn modify(&self, document: &mut Document) {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.bearer_format = Some("vla_live_…".to_owned());
        scheme.description = Some(
            "An API key. Which scopes an operation needs is said with it; one of several is enough."
                .to_owned(),
        );
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("api_key", SecurityScheme::Http(scheme));
    }
}

/// The refusals of every operation that needs a key.
#[derive(Debug, IntoResponses)]
#[expect(dead_code, reason = "they are read by the document alone")]
enum CallProblems {
    /// No API key, or one that is unknown, expired or revoked
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthenticated(ProblemDocument<'static>),
    /// The API key lacks a scope, or belongs to another customer
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(ProblemDocument<'static>),
    /// The address has more than 8 KiB
    #[response(status = 414, content_type = "application/problem+json")]
    UriTooLong(ProblemDocument<'static>),
    /// The headers have more than 16 KiB in all
    #[response(status = 431, content_type = "application/problem+json")]
    HeadersTooLarge(ProblemDocument<'static>),
    /// Too many requests with this API key: `Retry-After` says when to come back
    #[response(status = 429, content_type = "application/problem+json")]
    RateLimited(ProblemDocument<'static>),
    /// Something went wrong on our side
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(ProblemDocument<'static>),
    /// Overloaded, or the database does not answer: `Retry-After` says when to come back
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(ProblemDocument<'static>),
}

#[derive(Debug, IntoResponses)]
#[expect(dead_code, reason = "they are read by the document alone")]
enum BodyProblems {
    /// The body is not JSON, or a parameter is invalid
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemDocument<'static>),
    /// The body came too slowly
    #[response(status = 408, content_type = "application/problem+json")]
    Timeout(ProblemDocument<'static>),
    /// The body is too large: 64 KiB are taken, of permission checks 256 KiB
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemDocument<'static>),
    /// The body is not sent as `application/json`
    #[response(status = 415, content_type = "application/problem+json")]
    NotJson(ProblemDocument<'static>),
    /// The body breaks a rule: `errors` names every field and rule
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(ProblemDocument<'static>),
}

/// The refusals of an operation without a body.
#[derive(Debug)]
pub struct ReadProblems;

impl IntoResponses for ReadProblems {
    fn responses() -> BTreeMap<String, RefOr<OpenApiResponse>> {
        let mut responses = CallProblems::responses();
        responses.extend(InvalidParameter::responses());
        responses
    }
}

/// The refusals of an operation that takes a body.
#[derive(Debug)]
pub struct WriteProblems;

impl IntoResponses for WriteProblems {
    fn responses() -> BTreeMap<String, RefOr<OpenApiResponse>> {
        let mut responses = CallProblems::responses();
        responses.extend(BodyProblems::responses());
        responses
    }
}

macro_rules! one_problem {
    ($($name:ident $status:literal $description:literal)*) => {
        $(
            #[derive(Debug, IntoResponses)]
            #[response(status = $status, description = $description, content_type = "application/problem+json")]
            #[expect(dead_code, reason = "it is read by the document alone")]
            pub struct $name(ProblemDocument<'static>);
        )*
    };
}

one_problem! {
    InvalidParameter 400 "A parameter is invalid"
    UnknownCustomer 404 "There is no such customer"
    UnknownAuditEntry 404 "There is no such audit entry"
    UnknownApiKey 404 "There is no such API key"
    UnknownConsentLink 404 "There is no such link"
    Conflict 409 "It exists already, is not in the state for this, or the first request with this Idempotency-Key is still in progress"
    VersionMoved 412 "The consent is at another version: `ETag` says which"
    VersionAhead 412 "There is no version as new as `min_version`: `ETag` says which there is"
    UnexpectedBody 422 "This request takes no body"
}

/// The document of this router's operations, as it is served.
pub fn document() -> Document {
    super::router::routes().split_for_parts().1
}

/// The document as JSON, in which a parameter is absent or has a value, but is never null, and what an answer may give as
/// null is always there.
pub fn json() -> Value {
    let mut document = serde_json::to_value(document()).unwrap_or_default();
    if let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) {
        // OpenAPI has no name for the rest of a path, slashes and all, as the router has.
        *paths =
            std::mem::take(paths).into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    }
    let items =
        document.get_mut("paths").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut);
    let operations = items.filter_map(Value::as_object_mut).flat_map(Map::values_mut);
    let parameters =
        operations.filter_map(|operation| operation.get_mut("parameters")?.as_array_mut()).flatten();
    for schema in parameters.filter_map(|parameter| parameter.get_mut("schema")) {
        never_null(schema);
    }
    let schemas = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut);
    for (name, schema) in schemas.into_iter().flatten() {
        if let Some(item) = name.strip_prefix("Page_")
            && let Some(items) = schema.pointer_mut("/properties/items/items")
        {
            // Written out in full, the same type would be another one in every client.
            *items = serde_json::json!({"$ref": format!("#/components/schemas/{item}")});
        }
        always_there(schema);
    }
    document
}

/// An answer leaves out what is never null, and gives the rest as null: nobody has to tell three cases apart. What is read
/// (it takes no other fields) may leave out either.
fn always_there(schema: &mut Value) {
    schema.get_mut("allOf").and_then(Value::as_array_mut).into_iter().flatten().for_each(always_there);
    if schema.get("additionalProperties").is_some() {
        return;
    }
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return;
    };
    let may_be_null = |property: &Value| {
        property["type"].as_array().is_some_and(|types| types.iter().any(|kind| kind == "null"))
    };
    let mut required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, property) in properties {
        if may_be_null(property) && !required.iter().any(|required| required == name) {
            required.push(name.as_str().into());
        }
    }
    if !required.is_empty() {
        schema["required"] = required.into();
    }
}

fn never_null(schema: &mut Value) {
    if let Some(kind) = schema.get_mut("type")
        && let Some(types) = kind.as_array_mut()
    {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            *kind = only.clone();
        }
    }
    if let Some(variants) = schema.get_mut("oneOf").and_then(Value::as_array_mut) {
        variants.retain(|variant| variant["type"] != "null");
        if let [only] = variants.as_slice() {
            *schema = only.clone();
        }
    }
}
