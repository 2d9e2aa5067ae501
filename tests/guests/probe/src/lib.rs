//! What both probes share: reading a request target, the replies that need only the request, SQL and panic reports.
//!
//! The WASI versions differ in how bytes move, not in what is asked: whatever moves bytes or waits is in the probe of
//! the version, everything else is here. The paths are in each probe's `handle`.

mod json;
mod panic;
mod regeneration;
pub mod reply;
pub mod sql;
mod target;

mod bindings {
    wit_bindgen::generate!({ path: "../wit", world: "probe", generate_all });
}

pub use panic::report_panics;
pub use regeneration::{Regeneration, regeneration};
pub use reply::{Instance, Reply, Request};
pub use target::Target;

/// FNV-1a, 64 bits: enough to see that a body arrived whole and in order.
pub struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    pub fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub fn value(&self) -> u64 {
        self.0
    }
}

/// `count` bytes of the body whose byte at position `i` is the letter `a + i mod 26`, from `start` on.
pub fn alphabet(start: u64, count: usize) -> Vec<u8> {
    (start..).take(count).map(|position| b'a' + (position % 26) as u8).collect()
}

/// A chunk of a streamed body: `chunk <index>`, dots up to `size` bytes in all, and a line end.
pub fn chunk(index: u64, size: usize) -> Vec<u8> {
    let mut chunk = format!("chunk {index}").into_bytes();
    chunk.resize(size.saturating_sub(1).max(chunk.len()), b'.');
    chunk.push(b'\n');
    chunk
}

/// Stops the instance with a trap.
pub fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort();
}

/// Burns processor time for ever, as a guest with a wrong loop condition does.
pub fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = core::hint::black_box(turns.wrapping_add(1));
    }
}

/// Grows the memory by `mebibytes`, one at a time, and touches each page, until the host refuses.
///
/// Returns how many were granted.
pub fn grow_memory(mebibytes: usize) -> usize {
    const PAGE: usize = 64 * 1024;
    const PAGES: usize = 1024 * 1024 / PAGE;
    #[cfg(target_arch = "wasm32")]
    for granted in 0..mebibytes {
        let first = core::arch::wasm32::memory_grow::<0>(PAGES);
        if first == usize::MAX {
            return granted;
        }
        for page in first..first + PAGES {
            // SAFETY: the page was granted just now and belongs to nobody else.
            unsafe { core::ptr::write_volatile((page * PAGE) as *mut u8, 1) };
        }
    }
    let _ = PAGES;
    mebibytes
}

/// How many of `mib` mebibytes were granted.
pub fn memory(target: &Target) -> Reply {
    let asked = target.number("mib", 16) as usize;
    let granted = grow_memory(asked);
    Reply::text(format!("granted {granted} of {asked} MiB\n"))
}

/// Allocates and keeps until the allocator gets nothing more, which ends a Rust guest as it ends most.
pub fn exhaust_memory() -> ! {
    const PART: usize = 1024 * 1024;
    let mut kept = Vec::new();
    loop {
        kept.push(vec![1_u8; PART]);
        core::hint::black_box(&kept);
    }
}

/// What a body says that a trap will cut: `length` bytes promised, `cc` as its `cache-control`.
pub fn trap_mid_headers(target: &Target) -> Vec<(String, Vec<u8>)> {
    let mut headers = reply::content_type("text/plain; charset=utf-8");
    for (parameter, header) in [("length", "content-length"), ("cc", "cache-control")] {
        headers.extend(target.get(parameter).map(|value| (header.to_owned(), value.as_bytes().to_vec())));
    }
    headers
}

/// `ok`, or what went wrong.
pub fn verdict<E: std::fmt::Debug>(outcome: &Result<(), E>) -> String {
    match outcome {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("refused: {error:?}"),
    }
}
