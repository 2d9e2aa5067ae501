//! `cargo xtask demo` shows the platform; `cargo xtask test` is everything a change must pass. Both work on a fresh machine.
//!
//! Needs rustup's stable toolchain, a C compiler and Python or root; gets cmake itself when it is missing. It does not
//! need a wasm toolchain: the guests' components are committed beside their sources.

mod arrows;
mod bench;
mod data;
mod demo;
mod dependencies;
mod guests;
mod reference;
mod test;
mod tools;
mod torture;

use std::process::ExitCode;

use anyhow::Result;

const USAGE: &str = "usage: cargo xtask demo | test | bench | torture | reference | guests | data
  demo   builds everything and serves the example site on loopback
  test   formatting, lints, dependency rules and all tests
  bench [edge | data]  measures the edge beside nginx, Envoy and wasmtime, and the data layer beside Litestream and
         rusqlite; writes docs/benchmarks.md and docs/benchmarks-data.md
  torture --minutes N [--seed S]  real agents under faults, with new seeds, until the time is over or something is found
  reference  writes docs/configuration.md from the schema
  guests rebuilds the wasm components of tests and demo
  data   builds the demo's dictionary under target/demo";

fn main() -> ExitCode {
    let command = std::env::args().nth(1);
    let outcome = match command.as_deref() {
        Some("demo") => demo::run(),
        Some("test") => test::run(),
        Some("bench") => bench::run(std::env::args().nth(2).as_deref()),
        Some("torture") => torture::run(std::env::args().skip(2)),
        Some("reference") => reference::write(),
        Some("guests") => guests::rebuild(),
        Some("data") => data(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn data() -> Result<()> {
    let path = data::dictionary(&tools::workspace_root().join("target"))?;
    println!("{}", path.display());
    Ok(())
}
