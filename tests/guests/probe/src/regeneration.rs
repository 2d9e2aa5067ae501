//! A page for ISR whose renders are counted in the database, and some of which fail.

use crate::{Reply, Request, sql};

/// What the probe does for one render.
pub enum Regeneration {
    Answer(Reply),
    /// Answer after so many milliseconds.
    Wait(u64, Reply),
    Trap,
    Loop,
}

/// How long a render sleeps that is to miss its deadline.
const TOO_LONG_MS: u64 = 600_000;

/// `/regen?key=&fail=2-4&how=500|trap|loop|sleep&delay_ms=&show=a,b`: render `n` says so, and fails where `n` is in `fail`.
///
/// The fields named by `show` follow, each on a line of its own with the value this render was asked with.
pub fn regeneration(request: &Request) -> Regeneration {
    let target = &request.target;
    let render = match sql::count_render(target) {
        Ok(render) => render,
        Err(reply) => return Regeneration::Answer(reply),
    };
    if failing(target.get("fail"), render) {
        return match target.get("how") {
            Some("trap") => Regeneration::Trap,
            Some("loop") => Regeneration::Loop,
            Some("sleep") => Regeneration::Wait(TOO_LONG_MS, Reply::text(format!("render {render} overslept\n"))),
            _ => Regeneration::Answer(Reply::text(format!("render {render} failed\n")).with_status(500)),
        };
    }
    let shown = target.get("show").into_iter().flat_map(|names| names.split(','));
    let shown = shown.map(|name| {
        let value = request.header(name).map(String::from_utf8_lossy);
        format!("{name}: {}\n", value.as_deref().unwrap_or("-"))
    });
    let reply = Reply::text(format!("render {render}\n{}", shown.collect::<String>()));
    let reply = match target.get("cc") {
        Some(cache_control) => reply.with("cache-control", cache_control),
        None => reply,
    };
    match target.number("delay_ms", 0) {
        0 => Regeneration::Answer(reply),
        delay_ms => Regeneration::Wait(delay_ms, reply),
    }
}

fn failing(range: Option<&str>, render: i64) -> bool {
    let Some(range) = range else { return false };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    first.parse().is_ok_and(|first: i64| first <= render) && last.parse().map_or(true, |last: i64| render <= last)
}
