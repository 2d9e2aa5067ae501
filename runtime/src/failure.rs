//! Every way an invocation can fail, by name.

use thiserror::Error;

/// Why an invocation did not produce the whole response.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Failure {
    #[error("the guest trapped: {0}")]
    Trap(String),
    #[error("the guest used more processor time than limits.cpu allows")]
    CpuLimit,
    #[error("the guest needed more memory than limits.memory allows")]
    MemoryLimit,
    #[error("the guest did not finish within limits.wall")]
    WallDeadline,
    /// No slot came free within `limits.queue`, or all instances of the process are in use.
    #[error("the handler is at limits.concurrency, or all handlers together at the instances of this process")]
    Overloaded,
    #[error("the component could not be instantiated: {0}")]
    Instantiate(String),
    #[error("the guest's response is invalid: {0}")]
    BadResponse(String),
    #[error("the request body is larger than limits.request_body")]
    BodyTooLarge,
    #[error("the guest returned without a response")]
    NoResponse,
    /// Another request in the same shared instance ended the instance.
    #[error("a request in the same instance failed: {0}")]
    Neighbour(String),
    #[error("the invocation was cancelled")]
    Cancelled,
}

impl Failure {
    /// Stable name for logs, metrics and the mapping to a status.
    pub fn reason(&self) -> &'static str {
        match self {
            Failure::Trap(_) => "handler_trap",
            Failure::CpuLimit => "handler_cpu_limit",
            Failure::MemoryLimit => "handler_memory_limit",
            Failure::WallDeadline => "handler_wall_deadline",
            Failure::Overloaded => "handler_overloaded",
            Failure::Instantiate(_) => "handler_instantiate",
            Failure::BadResponse(_) => "handler_bad_response",
            Failure::BodyTooLarge => "request_body_too_large",
            Failure::NoResponse => "handler_no_response",
            Failure::Neighbour(_) => "handler_neighbour",
            Failure::Cancelled => "handler_cancelled",
        }
    }

    /// The reasons metrics know from the start.
    pub const REASONS: [&str; 11] = [
        "handler_trap",
        "handler_cpu_limit",
        "handler_memory_limit",
        "handler_wall_deadline",
        "handler_overloaded",
        "handler_instantiate",
        "handler_bad_response",
        "request_body_too_large",
        "handler_no_response",
        "handler_neighbour",
        "handler_cancelled",
    ];
}

/// The epoch callback's verdict; wasmtime carries it out of the guest as a trap.
#[derive(Debug, Error)]
#[error("processor time limit")]
pub(crate) struct CpuLimitReached;
