//! A page for ISR whose renders are counted in the database, and some of which fail.

use crate::{Reply, Target, sql};

/// What the probe does for one render.
pub enum Regeneration {
    Answer(Reply),
    /// Answer after so many milliseconds.
    Wait(u64, Reply),
    Trap,
    Loop,
}

/// `/regen?key=&fail=2-4&how=500|trap|loop&delay_ms=`: render `n` says so, and fails where `n` is in `fail`.
pub fn regeneration(target: &Target) -> Regeneration {
    let render = match sql::count_render(target) {
        Ok(render) => render,
        Err(reply) => return Regeneration::Answer(reply),
    };
    if failing(target.get("fail"), render) {
        return match target.get("how") {
            Some("trap") => Regeneration::Trap,
            Some("loop") => Regeneration::Loop,
            _ => Regeneration::Answer(Reply::text(format!("render {render} failed\n")).with_status(500)),
        };
    }
    let reply = Reply::text(format!("render {render}\n"));
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
