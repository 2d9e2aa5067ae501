//! What the host grants besides HTTP and SQL: environment, output, clocks, files, network.

use crate::wasi::cli0_2_12::{environment, stderr, stdout};
use crate::wasi::clocks0_2_12::{monotonic_clock, wall_clock};
use crate::wasi::filesystem0_2_12::preopens;
use crate::wasi::http0_2_12::outgoing_handler;
use crate::wasi::http0_2_12::types::{Fields, OutgoingRequest, Scheme};
use crate::wasi::sockets0_2_12::instance_network::instance_network;
use crate::wasi::sockets0_2_12::network::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use crate::wasi::sockets0_2_12::tcp_create_socket::create_tcp_socket;
use probe::{Reply, Target};

const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

pub fn sleep_ms(ms: u64) {
    if ms > 0 {
        monotonic_clock::subscribe_duration(ms * NANOSECONDS_PER_MILLISECOND).block();
    }
}

/// Keeps the processor busy for `ms` of wall time.
pub fn burn(target: &Target) -> Reply {
    let end = monotonic_clock::now() + target.number("ms", 10) * NANOSECONDS_PER_MILLISECOND;
    while monotonic_clock::now() < end {}
    Reply::text("burnt\n")
}

pub fn environment() -> Reply {
    let variables = environment::get_environment();
    let mut lines: Vec<_> = variables.iter().map(|(name, value)| format!("env {name}={value}")).collect();
    lines.extend(environment::get_arguments().iter().map(|argument| format!("argument {argument}")));
    Reply::text(lines.join("\n") + "\n")
}

/// Writes the line to stdout and to stderr.
pub fn log(target: &Target) -> Reply {
    let line = target.get("line").unwrap_or("a line");
    let out = stdout::get_stdout().blocking_write_and_flush(format!("out: {line}\n").as_bytes());
    let err = stderr::get_stderr().blocking_write_and_flush(format!("err: {line}\n").as_bytes());
    Reply::text(format!("stdout {}\nstderr {}\n", probe::verdict(&out), probe::verdict(&err)))
}

pub fn files() -> Reply {
    let directories = preopens::get_directories();
    let names = directories.iter().map(|(_, name)| format!("preopen {name}\n")).collect::<String>();
    Reply::text(format!("preopens {}\n{names}", directories.len()))
}

/// Tries a TCP connection and an HTTP request to 127.0.0.1 at `port`.
pub fn network(target: &Target) -> Reply {
    let port = target.number("port", 9) as u16;
    Reply::text(format!("tcp {}\nhttp {}\n", probe::verdict(&connect(port)), probe::verdict(&fetch(port))))
}

fn connect(port: u16) -> Result<(), String> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4).map_err(|error| format!("create: {error:?}"))?;
    let address = IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (127, 0, 0, 1) });
    socket.start_connect(&instance_network(), address).map_err(|error| format!("connect: {error:?}"))?;
    socket.subscribe().block();
    socket.finish_connect().map(drop).map_err(|error| format!("connect: {error:?}"))
}

fn fetch(port: u16) -> Result<(), String> {
    let request = OutgoingRequest::new(Fields::new());
    let whole = request
        .set_scheme(Some(&Scheme::Http))
        .and_then(|()| request.set_authority(Some(&format!("127.0.0.1:{port}"))))
        .and_then(|()| request.set_path_with_query(Some("/")));
    whole.map_err(|()| "the request was refused".to_owned())?;
    let response = outgoing_handler::handle(request, None).map_err(|error| format!("{error:?}"))?;
    response.subscribe().block();
    match response.get() {
        Some(Ok(Ok(_))) => Ok(()),
        Some(Ok(Err(error))) => Err(format!("{error:?}")),
        _ => Err("no response".to_owned()),
    }
}

pub fn clock() -> Reply {
    let first = monotonic_clock::now();
    let wall = wall_clock::now();
    let monotonic = if monotonic_clock::now() >= first { "forward" } else { "backward" };
    Reply::text(format!("unix-seconds {}\nmonotonic {monotonic}\n", wall.seconds))
}
