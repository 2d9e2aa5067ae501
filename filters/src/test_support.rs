//! Runs one filter on one request, as the proxy would; and what must hold for every filter in the list.

use std::net::IpAddr;

use http::{HeaderMap, StatusCode};
use pingora_http::{RequestHeader, ResponseHeader};
use serde_json::Value;

use crate::*;

/// A filter to be tried.
pub(crate) struct Trial {
    filter: Arc<dyn Filter>,
    client: Client,
}

/// What became of a request.
pub(crate) struct Seen {
    pub(crate) head: RequestHeader,
    pub(crate) state: FilterState,
    flow: Flow,
    response: ResponseHeader,
    /// Values of several fields joined, kept so that tests can borrow them.
    joined: HeaderMap,
}

impl Trial {
    pub(crate) fn of(name: &str, settings: Value) -> Trial {
        Trial::in_folder(name, settings, Path::new("/nonexistent"))
    }

    pub(crate) fn in_folder(name: &str, settings: Value, folder: &Path) -> Trial {
        let built = build(name, settings, &BuildContext::new(folder.to_owned()));
        let filter = built.unwrap_or_else(|error| panic!("{error:?}"));
        Trial {
            filter,
            client: Client {
                address: IpAddr::from([192, 0, 2, 1]),
                scheme: Scheme::Http,
            },
        }
    }

    pub(crate) fn from(mut self, address: &str) -> Trial {
        self.client.address = address.parse().unwrap();
        self
    }

    pub(crate) async fn request(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Seen {
        let mut head = RequestHeader::build(method, target.as_bytes(), None).unwrap();
        for (name, value) in headers {
            head.append_header((*name).to_owned(), *value).unwrap();
        }
        let path = head.uri.path().to_owned();
        let mut state = FilterState::default();
        let mut request = Request {
            head: &mut head,
            client: &self.client,
            host: "a.test",
            path: &path,
            route: "/*",
            state: &mut state,
        };
        let flow = self.filter.on_request(&mut request).await;
        let mut response = ResponseHeader::build(StatusCode::OK, None).unwrap();
        self.filter.on_response(&state, &mut response);
        let mut joined = HeaderMap::new();
        for name in head.headers.keys() {
            let values: Vec<_> = head.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect();
            joined.insert(name.clone(), values.join(", ").parse().unwrap());
        }
        Seen {
            head,
            state,
            flow,
            response,
            joined,
        }
    }
}

impl Seen {
    /// The field as the target sees it; empty when there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.joined.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn response_header(&self, name: &str) -> &str {
        self.response
            .headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn target(&self) -> String {
        self.head.uri.to_string()
    }

    /// 0 when the filter let the request pass.
    pub(crate) fn status(&self) -> u16 {
        match &self.flow {
            Flow::Continue => 0,
            Flow::Respond(response) => response.status.as_u16(),
        }
    }

    pub(crate) fn reason(&self) -> &'static str {
        match &self.flow {
            Flow::Continue => "",
            Flow::Respond(response) => response.reason,
        }
    }

    pub(crate) fn answer_header(&self, name: &str) -> &str {
        match &self.flow {
            Flow::Continue => "",
            Flow::Respond(response) => response.headers.get(name).map_or("", |value| value.to_str().unwrap()),
        }
    }
}

/// Building with these settings fails, and says where.
pub(crate) fn refused_at(name: &str, settings: Value, pointer: &str) {
    let context = BuildContext::new(PathBuf::from("/nonexistent"));
    match build(name, settings.clone(), &context) {
        Ok(_) => panic!("{name} accepts {settings}"),
        Err(error) => assert_eq!(error.pointer, pointer, "{settings}: {}", error.message),
    }
}

#[test]
fn every_setting_is_described_and_no_other_is_accepted() {
    for kind in FILTERS {
        let schema = serde_json::to_value((kind.schema)()).unwrap();
        for (key, property) in schema["properties"].as_object().unwrap() {
            let described = property.get("description").is_some();
            assert!(described, "{}: {key} has no description", kind.name);
        }
        assert_eq!(schema["additionalProperties"], false, "{}", kind.name);
        assert!(schema.get("description").is_some(), "{}", kind.name);
    }
}
