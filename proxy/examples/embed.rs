//! The whole edge inside a pingora server of your own, beside a service of your own.
//!
//!     cargo run -p selvedge-proxy --example embed -- conf/static.yaml 127.0.0.1:8080
//!
//! Routes, filters, cache, handlers and upstreams come from the file; sockets, threads, signals and the life of the
//! process are your server's.

use std::{path::Path, sync::Arc};

use pingora_core::server::{Server, configuration::ServerConf};
use selvedge_proxy::Edge;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("usage: embed FILE ADDRESS")?;
    let address = arguments.next().ok_or("usage: embed FILE ADDRESS")?;

    let edge = Edge::open(Path::new(&file))?;
    let conf = ServerConf {
        grace_period_seconds: Some(1),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = edge.service(&Arc::clone(&server.configuration));
    service.add_tcp(&address);
    server.add_service(service);
    println!("serving {file} at http://{address}/");
    server.run_forever();
}
