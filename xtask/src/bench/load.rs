//! The load: wrk with one thread and 32 kept connections, and what it measured.

use std::{
    ffi::OsString,
    io::{Read, Write},
    net::TcpStream,
};

use anyhow::{Context, Result, bail};

use super::cases::Case;
use crate::tools;

pub(crate) struct Measured {
    pub(crate) requests: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) p99_ms: f64,
    pub(crate) cpu_us: f64,
}

/// Prints what [`run`] parses, so that the numbers do not depend on wrk's prose.
const REPORT: &str = "done = function(summary, latency, requests)\n\
    local failed = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout\n\
    io.write(string.format('RESULT %d %d %d %d\\n', summary.requests, summary.duration, latency:percentile(99), failed))\n\
    end\n";

pub(crate) fn run(url: &str, seconds: u32, path: &OsString) -> Result<Measured> {
    let script = tools::target_dir()?.join("bench/report.lua");
    std::fs::write(&script, REPORT)?;
    let output = tools::command("wrk", path)
        .args(["-t1", "-c32", &format!("-d{seconds}s"), "-s"])
        .arg(&script)
        .arg(url)
        .output()
        .context("wrk; `apt-get install wrk` has it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("RESULT "))
        .with_context(|| format!("wrk said: {text}"))?;
    let numbers: Vec<f64> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
    let [requests, duration_us, p99_us, failed] = numbers[..] else {
        bail!("wrk said: {line}");
    };
    if failed > 0.0 {
        bail!("{failed} of {requests} requests to {url} failed");
    }
    Ok(Measured {
        requests,
        requests_per_second: requests / (duration_us / 1e6),
        p99_ms: p99_us / 1000.0,
        cpu_us: 0.0,
    })
}

/// Before anything is measured: the answer is a 200 of the right length. Asked twice, so that it is stored.
pub(crate) fn check(url: &str, case: &Case) -> Result<()> {
    let (address, path) = url.trim_start_matches("http://").split_once('/').context("a URL")?;
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n").context("a response head")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("{url} answers {}", head.lines().next().unwrap_or_default());
        }
        bodies.push(body.len());
    }
    match case.bytes() {
        Some(bytes) if bodies.iter().any(|body| *body < bytes) => bail!("{url} answers {bodies:?} bytes, not {bytes}"),
        _ => Ok(()),
    }
}
