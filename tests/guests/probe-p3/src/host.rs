//! What the host grants besides HTTP: environment, output, clocks, files, network.

use crate::wasi::cli0_3_0::types::ErrorCode as OutputError;
use crate::wasi::cli0_3_0::{environment, stderr, stdout};
use crate::wasi::clocks0_3_0::monotonic_clock;
use crate::wasi::filesystem0_3_0::preopens;
use crate::wasi::http0_3_0::client;
use crate::wasi::http0_3_0::types::{Fields, Request, Scheme};
use crate::wasi::sockets0_3_0::types::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket};
use crate::{wit_future, wit_stream};
use probe::{Reply, Target};
use wit_bindgen::{FutureReader, StreamReader};

const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

pub async fn sleep_ms(ms: u64) {
    if ms > 0 {
        monotonic_clock::wait_for(ms * NANOSECONDS_PER_MILLISECOND).await;
    }
}

pub fn environment() -> Reply {
    let variables = environment::get_environment();
    let mut lines: Vec<_> = variables.iter().map(|(name, value)| format!("env {name}={value}")).collect();
    lines.extend(environment::get_arguments().iter().map(|argument| format!("argument {argument}")));
    Reply::text(lines.join("\n") + "\n")
}

/// Writes the line to stdout and to stderr.
pub async fn log(target: &Target) -> Reply {
    let line = target.get("line").unwrap_or("a line");
    let out = print(stdout::write_via_stream, format!("out: {line}\n")).await;
    let err = print(stderr::write_via_stream, format!("err: {line}\n")).await;
    Reply::text(format!("stdout {}\nstderr {}\n", probe::verdict(&out), probe::verdict(&err)))
}

type Output = fn(StreamReader<u8>) -> FutureReader<Result<(), OutputError>>;

async fn print(output: Output, line: String) -> Result<(), OutputError> {
    let (mut writer, reader) = wit_stream::new();
    let written = output(reader);
    writer.write_all(line.into_bytes()).await;
    drop(writer);
    written.await
}

pub fn files() -> Reply {
    let directories = preopens::get_directories();
    let names = directories.iter().map(|(_, name)| format!("preopen {name}\n")).collect::<String>();
    Reply::text(format!("preopens {}\n{names}", directories.len()))
}

/// Tries a TCP connection and an HTTP request to 127.0.0.1 at `port`.
pub async fn network(target: &Target) -> Reply {
    let port = target.number("port", 9) as u16;
    let (tcp, http) = (connect(port).await, fetch(port).await);
    Reply::text(format!("tcp {}\nhttp {}\n", probe::verdict(&tcp), probe::verdict(&http)))
}

async fn connect(port: u16) -> Result<(), String> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(|error| format!("create: {error:?}"))?;
    let address = IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (127, 0, 0, 1) });
    socket.connect(address).await.map_err(|error| format!("connect: {error:?}"))
}

async fn fetch(port: u16) -> Result<(), String> {
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(Fields::new(), None, trailers, None);
    let whole = request
        .set_scheme(Some(&Scheme::Http))
        .and_then(|()| request.set_authority(Some(&format!("127.0.0.1:{port}"))))
        .and_then(|()| request.set_path_with_query(Some("/")));
    whole.map_err(|()| "the request was refused".to_owned())?;
    client::send(request).await.map(drop).map_err(|error| format!("{error:?}"))
}
