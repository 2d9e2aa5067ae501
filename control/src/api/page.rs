//! Lists in pages. A cursor is the place after the last item, and means nothing to whoever carries it.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::{Kind, Problem};

const LIMIT: i64 = 50;
const LARGEST_LIMIT: i64 = 200;

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// `next` of the page before.
    cursor: Option<String>,
    /// Items, at most 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// The cursor of the next page; `null` when this is the last.
    pub(crate) next: Option<String>,
}

impl Paging {
    /// The place to go on after; empty at the start.
    pub(crate) fn after(&self) -> Result<String, Problem> {
        let Some(cursor) = &self.cursor else {
            return Ok(String::new());
        };
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok();
        let place = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        place.ok_or_else(invalid)
    }

    /// The place as a number; `None` at the start.
    pub(crate) fn after_number(&self) -> Result<Option<i64>, Problem> {
        let place = self.after()?;
        let number = (!place.is_empty()).then(|| place.parse().map_err(|_| invalid()));
        number.transpose()
    }

    /// How many to ask the store for: one more shows whether there is another page.
    pub(crate) fn wanted(&self) -> Result<i64, Problem> {
        match self.limit.unwrap_or(LIMIT) {
            limit @ 1..=LARGEST_LIMIT => Ok(limit + 1),
            limit => Err(Problem::new(
                Kind::Malformed,
                format!("a page has 1 to {LARGEST_LIMIT} items, not {limit}"),
            )),
        }
    }

    /// The page of what the store has given.
    pub(crate) fn page<T>(&self, mut items: Vec<T>, place: impl Fn(&T) -> String) -> Page<T> {
        let limit = self.limit.unwrap_or(LIMIT) as usize;
        let is_last = items.len() <= limit;
        items.truncate(limit);
        let next = items.last().filter(|_| !is_last);
        Page {
            next: next.map(|last| BASE64_URL_SAFE_NO_PAD.encode(place(last))),
            items,
        }
    }
}

fn invalid() -> Problem {
    Problem::new(Kind::Malformed, "the cursor is not one of this list").help("start without a cursor")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other() {
        let all = ["a", "b", "c", "d", "e"];
        let mut paging = Paging {
            cursor: None,
            limit: Some(2),
        };
        let mut seen: Vec<&&str> = Vec::new();
        loop {
            let after = paging.after().unwrap();
            let found = all.iter().filter(|item| **item > after.as_str());
            let found: Vec<_> = found.take(paging.wanted().unwrap() as usize).collect();
            let page = paging.page(found, |item| (*item).to_string());
            assert!(page.items.len() <= 2);
            seen.extend(page.items);
            match page.next {
                Some(next) => paging.cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, all.iter().collect::<Vec<_>>());
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let paging = |cursor: Option<&str>, limit| Paging {
            cursor: cursor.map(str::to_owned),
            limit,
        };
        assert!(paging(Some("?"), None).after().is_err());
        assert!(paging(Some("YQ"), None).after_number().is_err());
        for limit in [0, -1, 201, i64::MAX] {
            assert!(paging(None, Some(limit)).wanted().is_err());
        }
    }
}
