//! What is measured.

use super::peers::Peer;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// One sentence for the report.
    pub(crate) what: &'static str,
    pub(crate) kind: Kind,
    pub(crate) peers: &'static [Peer],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A stored response of this many KiB.
    Hit(usize),
    /// 1 KiB from the origin, nothing stored.
    Proxied,
    /// A 0.2 greeting, a new instance for each request.
    FreshHandler,
    /// The 0.3 probe's `/hello`, instances reused.
    ReusedHandler,
}

impl Case {
    pub(crate) fn path(&self) -> String {
        match self.kind {
            Kind::Hit(kib) => format!("/{kib}k"),
            Kind::Proxied => "/1k".to_owned(),
            Kind::FreshHandler | Kind::ReusedHandler => "/hello".to_owned(),
        }
    }

    /// Length of the body every peer must answer with; `None` where the guest decides.
    pub(crate) fn bytes(&self) -> Option<usize> {
        match self.kind {
            Kind::Hit(kib) => Some(kib * 1024),
            Kind::Proxied => Some(1024),
            Kind::FreshHandler | Kind::ReusedHandler => None,
        }
    }
}

pub(crate) fn all() -> Vec<Case> {
    let hit = |name, kib| Case {
        name,
        what: "HTTP/1.1 keep-alive, stored in memory (nginx: proxy_cache on disk, page cache warm)",
        kind: Kind::Hit(kib),
        peers: &[Peer::Selvedge, Peer::Nginx],
    };
    vec![
        hit("cached hit, 1 KiB", 1),
        hit("cached hit, 16 KiB", 16),
        hit("cached hit, 128 KiB", 128),
        Case {
            name: "proxied request, 1 KiB",
            what: "to the same nginx as origin over kept connections",
            kind: Kind::Proxied,
            peers: &[Peer::Selvedge, Peer::Nginx, Peer::Envoy],
        },
        Case {
            name: "Rust handler, fresh instance",
            what: "`wasi:http` 0.2, the same component; through the whole proxy",
            kind: Kind::FreshHandler,
            peers: &[Peer::Selvedge, Peer::WasmtimeServe],
        },
        Case {
            name: "Rust handler, reused instance",
            what: "`wasi:http` 0.3, the same component; through the whole proxy",
            kind: Kind::ReusedHandler,
            peers: &[Peer::Selvedge, Peer::WasmtimeServe],
        },
    ]
}
