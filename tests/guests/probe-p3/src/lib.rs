//! The 0.3 probe: one handler whose path says how it behaves. The paths are those of the 0.2 probe but for SQL, so that
//! any host of `wasi:http` runs it.
//!
//! 0.3 is asynchronous: one instance serves several requests, also at the same time, and what waits lets the others go
//! on. A body is written by a task that outlives the call which returned its head.

mod bodies;
mod failures;
mod host;
mod http;

use std::sync::atomic::{AtomicU64, Ordering};

wit_bindgen::generate!({ path: "../wit", world: "probe-p3", generate_all });

use exports::wasi::http0_3_0::handler::Guest;
use probe::{Instance, Reply};
use wasi::http0_3_0::types::{ErrorCode, Request, Response};
use wasi::random0_3_0::random::get_random_u64;

struct Probe;

impl Guest for Probe {
    async fn handle(incoming: Request) -> Result<Response, ErrorCode> {
        probe::report_panics();
        let call = Call::start();
        let (request, body) = http::request(incoming);
        let target = &request.target;
        Ok(match target.path() {
            "/echo" => bodies::echo(body),
            "/drain" => bodies::drain(body).await,
            "/never-read" => bodies::never_read(body),
            "/stream" => bodies::stream(target),
            "/big" => bodies::big(target),
            "/short" => bodies::with_length(100, b"too short\n".to_vec()),
            "/long" => bodies::with_length(10, probe::alphabet(0, 100)),

            "/trap-before" => probe::trap(),
            "/trap-after-head" => failures::trap_after_head(target),
            "/trap-mid" => failures::trap_mid(target),
            "/panic" => panic!("asked to panic"),
            "/loop" => probe::spin(),
            "/loop-mid" => failures::loop_mid(),
            "/sleep" => {
                host::sleep_ms(target.number("ms", 100)).await;
                http::send(Reply::text("slept\n"))
            }
            "/sleep-mid" => failures::sleep_mid(target),
            "/error" => return Err(failures::error()),
            "/memory" => http::send(probe::memory(target)),
            "/exhaust" => probe::exhaust_memory(),

            "/env" => http::send(host::environment()),
            "/log" => http::send(host::log(target).await),
            "/fs" => http::send(host::files()),
            "/net" => http::send(host::network(target).await),

            _ => {
                let reply = probe::reply::reply(&request, &call.instance(), get_random_u64());
                http::send(reply.unwrap_or_else(|| probe::reply::not_found(&request)))
            }
        })
    }
}

static SERVED: AtomicU64 = AtomicU64::new(0);
static IN_FLIGHT: AtomicU64 = AtomicU64::new(0);
static MOST_IN_FLIGHT: AtomicU64 = AtomicU64::new(0);

/// One call of `handle`, in flight until its head is returned.
struct Call {
    served: u64,
}

impl Call {
    fn start() -> Self {
        let in_flight = IN_FLIGHT.fetch_add(1, Ordering::Relaxed) + 1;
        MOST_IN_FLIGHT.fetch_max(in_flight, Ordering::Relaxed);
        Self { served: SERVED.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    fn instance(&self) -> Instance {
        static ID: AtomicU64 = AtomicU64::new(0);
        if ID.load(Ordering::Relaxed) == 0 {
            ID.store(get_random_u64() | 1, Ordering::Relaxed);
        }
        Instance {
            id: ID.load(Ordering::Relaxed),
            served: self.served,
            in_flight: IN_FLIGHT.load(Ordering::Relaxed),
            most_in_flight: MOST_IN_FLIGHT.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        IN_FLIGHT.fetch_sub(1, Ordering::Relaxed);
    }
}

export!(Probe);
