//! One number for the content of a whole database, kept current page by page.
//!
//! The exclusive or, over all pages, of CRC-64/GO-ISO of page number and page (the scheme of LiteFS). Bytes of page 1
//! that SQLite rewrites at every place the page is written (the change counter, the version it is valid for, and
//! SQLite's version: sqlite.org/fileformat2.html 1.3) count as zero; the lock page has no content.

use crc_fast::{CrcAlgorithm, Digest};

use crate::ltx;

/// Ranges of page 1 that differ between equal databases.
const LOCAL_TO_THE_FILE: [std::ops::Range<usize>; 2] = [24..28, 92..100];

/// The checksum of each page, and of all together. 8 bytes a page: 2 MiB for a database of 1 GiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageChecksums {
    pages: Vec<u64>,
    total: u64,
}

impl PageChecksums {
    /// From what [`PageChecksums::pages`] gave.
    pub(crate) fn of_pages(pages: Vec<u64>) -> PageChecksums {
        let total = pages.iter().fold(0, |total, page| total ^ page);
        PageChecksums { pages, total }
    }

    /// The checksum of each page.
    pub(crate) fn pages(&self) -> &[u64] {
        &self.pages
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn page_count(&self) -> u32 {
        self.pages.len() as u32
    }

    /// The checksum of page `number`, counted from 1.
    pub fn of(&self, number: u32) -> Option<u64> {
        self.pages.get(number as usize - 1).copied()
    }

    pub fn set(&mut self, number: u32, page: &[u8]) {
        let index = number as usize - 1;
        if self.pages.len() <= index {
            self.pages.resize(index + 1, 0);
        }
        let new = of_page(number, page);
        self.total ^= std::mem::replace(&mut self.pages[index], new) ^ new;
    }

    /// The database has `page_count` pages now.
    pub fn truncate(&mut self, page_count: u32) {
        for gone in self.pages.drain((page_count as usize).min(self.pages.len())..) {
            self.total ^= gone;
        }
    }
}

/// The checksum of one page. Zero for the lock page.
pub fn of_page(number: u32, page: &[u8]) -> u64 {
    if number == ltx::lock_page(page.len() as u32) {
        return 0;
    }
    let mut crc = Digest::new(CrcAlgorithm::Crc64GoIso);
    crc.update(&number.to_be_bytes());
    if number == 1 {
        let mut normal = page.to_vec();
        for range in LOCAL_TO_THE_FILE {
            normal[range].fill(0);
        }
        crc.update(&normal);
    } else {
        crc.update(page);
    }
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_changes_does_not_matter_and_what_is_gone_does_not_count() {
        let page = |fill: u8| vec![fill; 4096];
        let mut one = PageChecksums::default();
        for (number, fill) in [(3, 9), (1, 1), (2, 7), (2, 2), (3, 3)] {
            one.set(number, &page(fill));
        }
        one.truncate(2);
        let mut two = PageChecksums::default();
        two.set(1, &page(1));
        two.set(2, &page(2));
        assert_eq!(one, two);
        two.set(2, &page(3));
        assert_ne!(one.total(), two.total());
    }

    #[test]
    fn the_change_counter_does_not_count() {
        let mut page = vec![5; 4096];
        let before = of_page(1, &page);
        page[24..28].fill(1);
        page[92..100].fill(1);
        assert_eq!(of_page(1, &page), before);
        page[28] = 6;
        assert_ne!(of_page(1, &page), before);
    }
}
