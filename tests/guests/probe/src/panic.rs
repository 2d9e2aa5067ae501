//! A panic's message on stderr, as the standard library writes it on targets that have a stderr of their own.

use crate::bindings::wasi::cli0_2_12::stderr;

/// From now on a panic is reported as `panicked at <file>:<line>: <message>` before the instance traps.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        // Nothing can be done about a report that cannot be written.
        let _ = stderr::get_stderr().blocking_write_and_flush(format!("{panic}\n").as_bytes());
    }));
}
