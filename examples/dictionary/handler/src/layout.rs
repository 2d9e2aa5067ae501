//! What every page has: the head, the name of the site, a search box, and when it was rendered.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::moment;

/// A whole page. `query` is what the search box shows.
pub fn page(title: &str, query: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(title))
            body {
                (header(query))
                main { (body) }
                (footer())
            }
        }
    }
}

/// The page's beginning as it is sent before the rest is known; [`end`] closes what it opens.
pub fn begin(title: &str) -> Markup {
    html! {
        (DOCTYPE)
        (PreEscaped("<html lang=\"en\">"))
        (head(title))
        (PreEscaped("<body>"))
        (header(""))
        (PreEscaped("<main>"))
    }
}

pub fn end() -> Markup {
    html! { (PreEscaped("</main>")) (footer()) (PreEscaped("</body></html>")) }
}

fn head(title: &str) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            title { (title) " · Lemma" }
            link rel="icon" href="/assets/mark.svg" type="image/svg+xml";
            link rel="stylesheet" href="/assets/site.css";
            script src="/assets/site.js" defer {}
        }
    }
}

fn header(query: &str) -> Markup {
    html! {
        header {
            a.name href="/" { img src="/assets/mark.svg" alt="" width="28" height="28"; "Lemma" }
            form action="/search" role="search" {
                input type="search" name="q" value=(query) placeholder="Search 117,000 meanings" aria-label="Search" required;
                button { "Search" }
            }
            nav { a href="/words" { "Words" } a href="/stream" { "Streamed" } }
        }
    }
}

fn footer() -> Markup {
    let now = moment::iso(moment::now());
    html! {
        footer {
            p { "Rendered at the edge, " time #rendered datetime=(now) { (now) } "." }
            p.licence {
                "Words and meanings: WordNet 3.1, © Princeton University, "
                a href="https://wordnet.princeton.edu/license-and-commercial-use" { "WordNet licence" } "."
            }
        }
    }
}
