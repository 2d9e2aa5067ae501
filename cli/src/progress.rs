//! How far long work is, on standard error, for people only.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Of work measured in bytes; `None` when nobody knows how many there will be. Silent where nobody looks.
pub(crate) fn bytes(what: &str, total: Option<u64>, silent: bool) -> ProgressBar {
    let style = match total {
        Some(_) => "{msg} {bar:30} {percent}% {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{msg} {spinner} {bytes} {bytes_per_sec}",
    };
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    finish(bar, what, style, silent)
}

/// Of work whose end nobody knows.
pub(crate) fn spinner(what: &str, silent: bool) -> ProgressBar {
    finish(ProgressBar::new_spinner(), what, "{msg} {spinner} {elapsed}", silent)
}

fn finish(bar: ProgressBar, what: &str, style: &str, silent: bool) -> ProgressBar {
    if silent {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
