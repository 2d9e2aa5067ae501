//! The 0.2 probe: one handler whose path says how it behaves. `handle` lists the paths.
//!
//! 0.2 is synchronous: what waits, blocks the instance, and an instance serves one request.

mod bodies;
mod failures;
mod host;
mod http;

use std::sync::atomic::{AtomicU64, Ordering};

wit_bindgen::generate!({ path: "../wit", world: "probe-p2", generate_all });

use exports::wasi::http0_2_12::incoming_handler::{Guest, IncomingRequest, ResponseOutparam};
use probe::{Instance, Reply};
use wasi::random0_2_12::random::get_random_u64;

struct Probe;

impl Guest for Probe {
    fn handle(incoming: IncomingRequest, outparam: ResponseOutparam) {
        probe::report_panics();
        let instance = instance();
        let request = http::request(&incoming);
        let target = &request.target;
        match target.path() {
            "/echo" => bodies::echo(&incoming, outparam),
            "/drain" => bodies::drain(&incoming, outparam),
            "/never-read" => bodies::never_read(&incoming, outparam),
            "/stream" => bodies::stream(target, outparam),
            "/big" => bodies::big(target, outparam),
            "/short" => bodies::with_length(100, b"too short\n", outparam),
            "/long" => bodies::with_length(10, &probe::alphabet(0, 100), outparam),

            "/trap-before" => probe::trap(),
            "/trap-after-head" => failures::trap_after_head(target, outparam),
            "/trap-mid" => failures::trap_mid(target, outparam),
            "/panic" => panic!("asked to panic"),
            "/loop" => probe::spin(),
            "/loop-mid" => failures::loop_mid(outparam),
            "/sleep" => {
                host::sleep_ms(target.number("ms", 100));
                http::send(Reply::text("slept\n"), outparam);
            }
            "/sleep-mid" => failures::sleep_mid(target, outparam),
            "/burn" => http::send(host::burn(target), outparam),
            "/no-response" => drop(outparam),
            "/error" => failures::error(outparam),
            "/memory" => http::send(probe::memory(target), outparam),
            "/exhaust" => probe::exhaust_memory(),

            "/env" => http::send(host::environment(), outparam),
            "/log" => http::send(host::log(target), outparam),
            "/fs" => http::send(host::files(), outparam),
            "/net" => http::send(host::network(target), outparam),
            "/clock" => http::send(host::clock(), outparam),

            "/sql" => http::send(probe::sql::query(target), outparam),
            "/sql-write" => http::send(probe::sql::write(target), outparam),
            "/sql-exec" => {
                let (sql, _) = http::read_all(&incoming);
                http::send(probe::sql::script(target, &sql), outparam);
            }
            "/regen" => match probe::regeneration(&request) {
                probe::Regeneration::Answer(reply) => http::send(reply, outparam),
                probe::Regeneration::Wait(ms, reply) => {
                    host::sleep_ms(ms);
                    http::send(reply, outparam);
                }
                probe::Regeneration::Trap => probe::trap(),
                probe::Regeneration::Loop => probe::spin(),
            },

            _ => {
                let reply = probe::reply::reply(&request, &instance, get_random_u64());
                http::send(reply.unwrap_or_else(|| probe::reply::not_found(&request)), outparam);
            }
        }
    }
}

fn instance() -> Instance {
    static ID: AtomicU64 = AtomicU64::new(0);
    static SERVED: AtomicU64 = AtomicU64::new(0);
    let served = SERVED.fetch_add(1, Ordering::Relaxed) + 1;
    if served == 1 {
        ID.store(get_random_u64(), Ordering::Relaxed);
    }
    Instance { id: ID.load(Ordering::Relaxed), served, in_flight: 1, most_in_flight: 1 }
}

export!(Probe);
