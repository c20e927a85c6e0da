//! `Route`: one thing that the admin server can be asked, and `Admin`: all of them.
//!
//! Enters: who asks, a path with its parameters, a JSON body that was read within bounds. Leaves: JSON, and where something is wrong, the
//! operator's next step with it. A `GET` only shows: its handler is given no body, and what changes something is a `POST` or a `DELETE`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What a handler is given.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// Who asks, for the record: `uid 0`, `token`.
    pub by: Arc<str>,
    /// The JSON body; null where none was sent.
    pub body: Value,
    parameters: Vec<(&'static str, String)>,
}

impl Question {
    /// What stands in the place of `{name}` in the route's path, as it was sent.
    #[must_use]
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// The body as the type that the route takes; give it `deny_unknown_fields`, so that a typo is told.
    ///
    /// # Errors
    /// 400, with the field and what is wrong with it.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Reply> {
        serde_json::from_value(self.body.clone())
            .map_err(|error| Reply::wrong(StatusCode::BAD_REQUEST, &error.to_string(), "mend the JSON body"))
    }
}

/// What a handler answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: StatusCode,
    /// JSON.
    pub body: Value,
}

impl Reply {
    /// 200 with this document.
    #[must_use]
    pub const fn ok(body: Value) -> Self {
        Self { status: StatusCode::OK, body }
    }

    /// An error with the operator's next step.
    #[must_use]
    pub fn wrong(status: StatusCode, error: &str, next_step: &str) -> Self {
        Self { status, body: json!({ "error": error, "next_step": next_step }) }
    }
}

/// The answer under way; it runs on the household's runtime.
pub type Answering = Pin<Box<dyn Future<Output = Reply> + Send>>;

type Handler = Arc<dyn Fn(Question) -> Answering + Send + Sync>;

/// One thing that the admin server can be asked.
#[derive(Clone)]
pub struct Route {
    method: Method,
    path: &'static str,
    handler: Handler,
}

impl Route {
    /// `GET`: shows something and changes nothing.
    #[must_use]
    pub fn show(path: &'static str, show: impl Fn(&Question) -> Reply + Send + Sync + 'static) -> Self {
        Self::new(Method::GET, path, move |question| Box::pin(std::future::ready(show(&question))))
    }

    /// `POST`: changes something.
    #[must_use]
    pub fn change<F>(path: &'static str, change: impl Fn(Question) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        Self::new(Method::POST, path, move |question| Box::pin(change(question)))
    }

    /// `DELETE`: ends something.
    #[must_use]
    pub fn end<F>(path: &'static str, end: impl Fn(Question) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        Self::new(Method::DELETE, path, move |question| Box::pin(end(question)))
    }

    fn new(method: Method, path: &'static str, handler: impl Fn(Question) -> Answering + Send + Sync + 'static) -> Self {
        Self { method, path, handler: Arc::new(handler) }
    }

    /// The parameters, when the path is this route's.
    fn fits(&self, path: &str) -> Option<Vec<(&'static str, String)>> {
        let (mut wanted, mut given) = (self.path.split('/'), path.split('/'));
        let mut parameters = Vec::new();
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return Some(parameters),
                (Some(wanted), Some(given)) => match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                    Some(name) if !given.is_empty() => parameters.push((name, given.to_owned())),
                    None if wanted == given => {}
                    Some(_) | None => return None,
                },
                (Some(_), None) | (None, Some(_)) => return None,
            }
        }
    }
}

/// The admin server: everything that it can be asked.
#[derive(Clone)]
pub struct Admin(Arc<[Route]>);

impl Admin {
    /// With these routes.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        Self(routes.into())
    }

    /// The route of this request and its parameters.
    ///
    /// # Errors
    /// 404, or 405 where the path takes another method; both list what there is.
    pub(super) fn find(&self, method: &Method, path: &str) -> Result<Found<'_>, Reply> {
        let mut known = false;
        for route in self.0.iter() {
            let Some(parameters) = route.fits(path) else { continue };
            if route.method == method {
                return Ok(Found { route, parameters });
            }
            known = true;
        }
        let (status, error) = if known {
            (StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not take {method}"))
        } else {
            (StatusCode::NOT_FOUND, format!("there is no {path}"))
        };
        let all = self.0.iter().map(|route| format!("{} {}", route.method, route.path)).collect::<Vec<_>>().join(", ");
        Err(Reply::wrong(status, &error, &format!("ask one of: {all}")))
    }
}

/// A route that fits, not yet asked.
pub(super) struct Found<'a> {
    route: &'a Route,
    parameters: Vec<(&'static str, String)>,
}

impl Found<'_> {
    /// Whether it takes a body.
    pub(super) fn takes_body(&self) -> bool {
        self.route.method != Method::GET
    }

    pub(super) fn ask(self, by: Arc<str>, body: Value) -> Answering {
        (self.route.handler)(Question { by, body, parameters: self.parameters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin() -> Admin {
        Admin::new(vec![
            Route::show("/v1/status", |_| Reply::ok(json!({ "revision": 3 }))),
            Route::show("/v1/things/{id}", |question| Reply::ok(json!({ "id": question.parameter("id") }))),
            Route::change(
                "/v1/things",
                |question: Question| async move { Reply::ok(json!({ "by": &*question.by, "made": question.body })) },
            ),
            Route::end("/v1/things/{id}", |question: Question| async move { Reply::ok(json!({ "ended": question.parameter("id") })) }),
        ])
    }

    async fn asked(method: Method, path: &str) -> (u16, String) {
        let reply = match admin().find(&method, path) {
            Ok(found) => found.ask("uid 0".into(), json!({ "a": 1 })).await,
            Err(reply) => reply,
        };
        (reply.status.as_u16(), reply.body.to_string())
    }

    #[tokio::test]
    async fn a_route_is_found_by_method_and_path() {
        assert_eq!(asked(Method::GET, "/v1/status").await, (200, r#"{"revision":3}"#.into()));
        assert_eq!(asked(Method::GET, "/v1/things/a%2Fb").await, (200, r#"{"id":"a%2Fb"}"#.into()));
        assert_eq!(asked(Method::POST, "/v1/things").await, (200, r#"{"by":"uid 0","made":{"a":1}}"#.into()));
        assert_eq!(asked(Method::DELETE, "/v1/things/7").await, (200, r#"{"ended":"7"}"#.into()));
        assert_eq!(asked(Method::GET, "/v1/things").await.0, 405, "a GET changes nothing");
        assert_eq!(asked(Method::HEAD, "/v1/status").await.0, 405);
        for path in ["/", "/v1", "/v1/things/", "/v1/things/7/8", "/v1/status/"] {
            assert_eq!(asked(Method::GET, path).await.0, 404, "{path}");
        }
        let (_, told) = asked(Method::GET, "/v2").await;
        assert!(told.contains("GET /v1/status, GET /v1/things/{id}, POST /v1/things"), "{told}");
    }

    #[test]
    fn a_body_is_read_as_its_type_or_the_field_is_told() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wish {
            #[expect(dead_code, reason = "only read")]
            target: String,
        }
        let question = |body| Question { body, ..Question::default() };
        assert!(question(json!({ "target": "everything" })).read::<Wish>().is_ok());
        for body in [Value::Null, json!({}), json!({ "target": 1 }), json!({ "target": "x", "raeson": "y" })] {
            let reply = question(body).read::<Wish>().unwrap_err();
            assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        }
    }
}
