//! The one place where an error becomes a status: error → status → RFC 9209 type → blame → retryable.
//!
//! Every way a request can end without the answer it asked for is either a [`Refusal`] (we said no before asking
//! anybody) or a [`Verdict`] over a pingora error (somebody failed us, or we failed). Both carry a stable reason for
//! the log and the metrics. Nothing else in the crate picks a 4xx or 5xx status.

use http::{HeaderValue, StatusCode};
use pingora_error::{Error, ErrorSource, ErrorType};
use selvedge_runtime::Failure;

use crate::path::PathRefusal;

/// Who has to change something for the error to go away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    Downstream,
    Upstream,
    Guest,
    Us,
}

impl Blame {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Blame::Downstream => "downstream",
            Blame::Upstream => "upstream",
            Blame::Guest => "guest",
            Blame::Us => "us",
        }
    }
}

/// A request we turn away ourselves, before any handler or upstream sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// HTTP/1.1 without exactly one valid `Host`, or `Host` that disagrees with the target (RFC 9112 section 3.2).
    Host,
    /// Repeated or list-valued `Content-Length`, or both framings at once (RFC 9112 section 6.3).
    Framing,
    /// The header section is larger than `limits.header_bytes`.
    HeaderTooLarge,
    /// The declared body is larger than the route allows.
    BodyTooLarge,
    /// The path is not one that every server would read alike.
    Path(PathRefusal),
    /// A filter rewrote the path to one that is not.
    Rewrite,
    /// The app that has the host has no version that serves here, or not yet.
    NothingServes,
    /// No route matches host and path.
    NoRoute,
    /// The route serves files, and there is none.
    NoFile,
    /// The range lies outside the file, which has this many bytes.
    Range(u64),
    /// A route matches, but not with this method; the value is the `Allow` list.
    MethodNotAllowed(String),
}

/// What a refusal or failure looks like from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) status: StatusCode,
    /// Stable name for log and metrics.
    pub(crate) reason: &'static str,
    /// RFC 9209 section 2.3 proxy error type.
    pub(crate) proxy_error: &'static str,
    pub(crate) blame: Blame,
    /// Whether asking again (the same or another server) can help, when the request allows it.
    pub(crate) retryable: bool,
}

impl Verdict {
    const fn new(
        status: StatusCode,
        reason: &'static str,
        proxy_error: &'static str,
        blame: Blame,
        retryable: bool,
    ) -> Self {
        Verdict {
            status,
            reason,
            proxy_error,
            blame,
            retryable,
        }
    }

    /// A filter answered instead of the target.
    pub(crate) fn of_filter(status: StatusCode, reason: &'static str) -> Self {
        let (proxy_error, blame) = match status.is_server_error() {
            // It could not decide: something it needs is missing.
            true => ("proxy_internal_error", Blame::Us),
            false => ("http_request_denied", Blame::Downstream),
        };
        Verdict::new(status, reason, proxy_error, blame, false)
    }

    /// The value of `Proxy-Status` (RFC 9209); `detail` must be printable ASCII, anything else is dropped.
    pub(crate) fn proxy_status(&self, detail: Option<&str>) -> HeaderValue {
        let mut value = format!("selvedge; error={}", self.proxy_error);
        let detail = detail.unwrap_or(self.reason);
        let clean: String = detail
            .chars()
            .filter(|c| (' '..='~').contains(c) && *c != '"' && *c != '\\')
            .take(160)
            .collect();
        value.push_str(&format!("; details=\"{clean}\""));
        HeaderValue::from_str(&value).unwrap_or_else(|_| HeaderValue::from_static("selvedge"))
    }
}

impl Refusal {
    pub(crate) fn verdict(&self) -> Verdict {
        use Blame::Downstream;
        match self {
            Refusal::Host => Verdict::new(
                StatusCode::BAD_REQUEST,
                "invalid_host",
                "http_request_error",
                Downstream,
                false,
            ),
            Refusal::Framing => Verdict::new(
                StatusCode::BAD_REQUEST,
                "ambiguous_framing",
                "http_request_error",
                Downstream,
                false,
            ),
            Refusal::HeaderTooLarge => Verdict::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "header_too_large",
                "http_request_error",
                Downstream,
                false,
            ),
            Refusal::BodyTooLarge => Verdict::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "request_body_too_large",
                "http_request_error",
                Downstream,
                false,
            ),
            Refusal::Path(_) => Verdict::new(
                StatusCode::BAD_REQUEST,
                "invalid_path",
                "http_request_error",
                Downstream,
                false,
            ),
            // The word the `rewrite` filter has for a target that is none.
            Refusal::Rewrite => Verdict::new(
                StatusCode::BAD_REQUEST,
                "rewrite_invalid",
                "http_request_error",
                Downstream,
                false,
            ),
            Refusal::NoFile => Verdict::new(
                StatusCode::NOT_FOUND,
                "no_file",
                "destination_not_found",
                Downstream,
                false,
            ),
            Refusal::Range(_) => Verdict::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range_not_satisfiable",
                "http_request_error",
                Downstream,
                false,
            ),
            Refusal::NothingServes => Verdict::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "nothing_deployed",
                "destination_unavailable",
                Blame::Us,
                false,
            ),
            Refusal::NoRoute => Verdict::new(
                StatusCode::NOT_FOUND,
                "no_route",
                "destination_not_found",
                Downstream,
                false,
            ),
            Refusal::MethodNotAllowed(_) => Verdict::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "http_request_denied",
                Downstream,
                false,
            ),
        }
    }
}

/// Raised when a handler invocation fails; [`judge`] finds the row again by the error type.
pub(crate) fn handler_error(failure: Failure) -> Box<Error> {
    let kind = ErrorType::Custom(failure.reason());
    Error::create(kind, ErrorSource::Upstream, Some(failure.to_string().into()), None)
}

/// The request body outgrew the limit while it was streaming.
pub(crate) const BODY_TOO_LARGE: ErrorType = ErrorType::Custom("request_body_too_large");
/// The answer is complete and the client still sends: what ends the request is not a failure.
pub(crate) const ANSWERED_EARLY: ErrorType = ErrorType::Custom("answered_early");
/// Every server of the upstream was tried or is unusable.
pub(crate) const NO_SERVER: ErrorType = ErrorType::Custom("no_server_left");
/// The handler's component could not be loaded when the process started.
pub(crate) const HANDLER_UNAVAILABLE: ErrorType = ErrorType::Custom("handler_unavailable");

/// A regeneration that finds all places taken: the stale page stays. Nobody waits for its answer.
pub(crate) const TOO_MANY_REGENERATIONS: ErrorType = ErrorType::Custom("too_many_regenerations");

const GATEWAY: StatusCode = StatusCode::BAD_GATEWAY;
const TIMEOUT: StatusCode = StatusCode::GATEWAY_TIMEOUT;
const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

/// Status, reason and blame of an error that ended (or nearly ended) a request.
pub(crate) fn judge(error: &Error) -> Verdict {
    use Blame::{Downstream, Guest, Upstream, Us};
    let row = Verdict::new;
    match error.etype() {
        ErrorType::Custom(reason) => match *reason {
            "handler_trap" => row(GATEWAY, "handler_trap", "http_response_incomplete", Guest, false),
            "handler_cpu_limit" => row(GATEWAY, "handler_cpu_limit", "http_response_incomplete", Guest, false),
            "handler_memory_limit" => row(
                GATEWAY,
                "handler_memory_limit",
                "http_response_incomplete",
                Guest,
                false,
            ),
            "handler_wall_deadline" => row(TIMEOUT, "handler_wall_deadline", "http_response_timeout", Guest, false),
            "handler_overloaded" => row(UNAVAILABLE, "handler_overloaded", "connection_limit_reached", Us, false),
            "handler_instantiate" => row(GATEWAY, "handler_instantiate", "destination_unavailable", Guest, false),
            "handler_bad_response" => row(GATEWAY, "handler_bad_response", "http_protocol_error", Guest, false),
            "handler_no_response" => row(GATEWAY, "handler_no_response", "http_response_incomplete", Guest, false),
            "handler_unavailable" => row(UNAVAILABLE, "handler_unavailable", "destination_unavailable", Us, false),
            "handler_neighbour" => row(GATEWAY, "handler_neighbour", "http_response_incomplete", Guest, false),
            "handler_cancelled" => row(
                GATEWAY,
                "handler_cancelled",
                "http_response_incomplete",
                Downstream,
                false,
            ),
            "request_body_too_large" => row(
                StatusCode::PAYLOAD_TOO_LARGE,
                "request_body_too_large",
                "http_request_error",
                Downstream,
                false,
            ),
            "answered_early" => row(
                StatusCode::OK,
                "answered_early",
                "http_request_error",
                Downstream,
                false,
            ),
            "too_many_regenerations" => row(
                UNAVAILABLE,
                "too_many_regenerations",
                "connection_limit_reached",
                Us,
                false,
            ),
            "no_server_left" => row(
                UNAVAILABLE,
                "no_server_left",
                "destination_unavailable",
                Upstream,
                false,
            ),
            _ => row(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                "proxy_internal_error",
                Us,
                false,
            ),
        },
        ErrorType::HTTPStatus(code) => {
            let status = StatusCode::from_u16(*code).unwrap_or(GATEWAY);
            row(status, "upstream_status", "http_protocol_error", Upstream, false)
        }
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => {
            row(TIMEOUT, "connect_timeout", "connection_timeout", Upstream, true)
        }
        ErrorType::ConnectRefused => row(GATEWAY, "connect_refused", "connection_refused", Upstream, true),
        ErrorType::ConnectNoRoute | ErrorType::ConnectError | ErrorType::SocketError | ErrorType::BindError => {
            row(GATEWAY, "connect_error", "destination_ip_unroutable", Upstream, true)
        }
        ErrorType::TLSHandshakeFailure | ErrorType::HandshakeError => {
            row(GATEWAY, "tls_error", "tls_protocol_error", Upstream, true)
        }
        ErrorType::InvalidCert => row(GATEWAY, "tls_certificate", "tls_certificate_error", Upstream, true),
        kind => match error.esource() {
            ErrorSource::Downstream => match kind {
                ErrorType::ReadTimedout => row(
                    StatusCode::REQUEST_TIMEOUT,
                    "downstream_timeout",
                    "http_request_error",
                    Downstream,
                    false,
                ),
                ErrorType::InvalidHTTPHeader | ErrorType::H1Error | ErrorType::InvalidH2 => row(
                    StatusCode::BAD_REQUEST,
                    "malformed_request",
                    "http_request_error",
                    Downstream,
                    false,
                ),
                // 499 is nginx's word for it; nobody is left to read the status, the log still wants one.
                _ => row(
                    client_closed(),
                    "downstream_closed",
                    "http_request_error",
                    Downstream,
                    false,
                ),
            },
            ErrorSource::Upstream => match kind {
                ErrorType::ReadTimedout => row(
                    TIMEOUT,
                    "upstream_read_timeout",
                    "connection_read_timeout",
                    Upstream,
                    false,
                ),
                ErrorType::WriteTimedout => row(
                    TIMEOUT,
                    "upstream_write_timeout",
                    "connection_write_timeout",
                    Upstream,
                    false,
                ),
                ErrorType::InvalidHTTPHeader | ErrorType::H1Error | ErrorType::InvalidH2 | ErrorType::H2Error => {
                    row(GATEWAY, "upstream_protocol", "http_protocol_error", Upstream, true)
                }
                _ => row(GATEWAY, "upstream_closed", "connection_terminated", Upstream, true),
            },
            ErrorSource::Internal | ErrorSource::Unset => row(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                "proxy_internal_error",
                Us,
                false,
            ),
        },
    }
}

fn client_closed() -> StatusCode {
    StatusCode::from_u16(499).expect("499 is a valid status code")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: Box<Error>, status: u16, reason: &str, proxy_error: &str) {
        let verdict = judge(&error);
        assert_eq!(
            (verdict.status.as_u16(), verdict.reason, verdict.proxy_error),
            (status, reason, proxy_error)
        );
    }

    #[test]
    fn errors_become_statuses() {
        check(
            Error::new_up(ErrorType::ConnectRefused),
            502,
            "connect_refused",
            "connection_refused",
        );
        check(
            Error::new_up(ErrorType::ConnectTimedout),
            504,
            "connect_timeout",
            "connection_timeout",
        );
        check(
            Error::new_up(ErrorType::ReadTimedout),
            504,
            "upstream_read_timeout",
            "connection_read_timeout",
        );
        check(
            Error::new_up(ErrorType::ConnectionClosed),
            502,
            "upstream_closed",
            "connection_terminated",
        );
        check(
            Error::new_up(ErrorType::InvalidHTTPHeader),
            502,
            "upstream_protocol",
            "http_protocol_error",
        );
        check(
            Error::new_down(ErrorType::ConnectionClosed),
            499,
            "downstream_closed",
            "http_request_error",
        );
        check(
            Error::new_down(ErrorType::InvalidHTTPHeader),
            400,
            "malformed_request",
            "http_request_error",
        );
        check(
            Error::new_in(ErrorType::InternalError),
            500,
            "internal_error",
            "proxy_internal_error",
        );
        check(
            Error::new_up(ErrorType::Custom("handler_unavailable")),
            503,
            "handler_unavailable",
            "destination_unavailable",
        );
        check(
            Error::new_up(ErrorType::Custom("no_server_left")),
            503,
            "no_server_left",
            "destination_unavailable",
        );
        check(
            Error::new_up(BODY_TOO_LARGE),
            413,
            "request_body_too_large",
            "http_request_error",
        );
    }

    #[test]
    fn a_filter_that_cannot_decide_is_not_the_clients_fault() {
        for (status, blame, proxy_error) in [
            (StatusCode::UNAUTHORIZED, Blame::Downstream, "http_request_denied"),
            (StatusCode::TOO_MANY_REQUESTS, Blame::Downstream, "http_request_denied"),
            (StatusCode::SERVICE_UNAVAILABLE, Blame::Us, "proxy_internal_error"),
        ] {
            let verdict = Verdict::of_filter(status, "reason");
            assert_eq!((verdict.blame, verdict.proxy_error), (blame, proxy_error), "{status}");
        }
    }

    #[test]
    fn every_failure_of_a_handler_has_a_row_of_its_own() {
        for reason in Failure::REASONS {
            assert_eq!(judge(&Error::new_up(ErrorType::Custom(reason))).reason, reason);
        }
    }

    #[test]
    fn proxy_status_never_carries_what_a_field_value_cannot() {
        let verdict = judge(&Error::new_up(ErrorType::ConnectRefused));
        let value = verdict.proxy_status(Some("a \"quoted\" \\ line\nbreak é"));
        assert_eq!(
            value,
            "selvedge; error=connection_refused; details=\"a quoted  linebreak \""
        );
    }
}
