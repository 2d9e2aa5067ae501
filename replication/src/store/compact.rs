//! Several transaction files as one: the last image of each page, without the pages that were cut off.
//!
//! Pure over readers and a writer; it holds one page of each input. Inputs are in order and without gaps; they may overlap,
//! because page images may be applied again. Where a database shrank and grew again, the newer input has an image of every
//! page it grew by: SQLite's write-ahead log holds each new page.

use std::io::{self, Read, Write};

use thiserror::Error;

use crate::ltx::{Decoder, Encoder, Header, LtxError, Provenance};

/// Why files were not merged.
#[derive(Debug, Error)]
pub enum CompactError {
    #[error("there is nothing to merge")]
    Nothing,
    #[error("input {index} cannot be read")]
    Input { index: usize, source: LtxError },
    #[error("input {index} does not continue the one before it")]
    Gap { index: usize },
    #[error("input {index} belongs to another history")]
    OtherHistory { index: usize },
    #[error("the merged file cannot be written")]
    Output(#[source] io::Error),
}

/// Merges `inputs` into `output` and returns what the result is about. Nothing of the output may be used unless this
/// succeeds: an input is only known to be whole at its end.
pub fn merge<R: Read, W: Write>(inputs: Vec<R>, output: W) -> Result<(Header, W), CompactError> {
    let open = |(index, input)| Decoder::new(input).map_err(|source| CompactError::Input { index, source });
    let decoders: Vec<Decoder<R>> = inputs.into_iter().enumerate().map(open).collect::<Result<_, _>>()?;
    let headers: Vec<Header> = decoders.iter().map(Decoder::header).collect();
    let header = merged_header(&headers)?;
    let mut heads = Vec::with_capacity(decoders.len());
    for (index, decoder) in decoders.into_iter().enumerate() {
        let mut head = PageHead {
            decoder,
            index,
            number: None,
            page: Vec::new(),
        };
        head.advance()?;
        heads.push(head);
    }
    let mut encoder = Encoder::new(output, header).map_err(CompactError::Output)?;
    while let Some(number) = heads.iter().filter_map(|head| head.number).min() {
        let newest = heads.iter().rev().find(|head| head.number == Some(number));
        if let Some(newest) = newest.filter(|_| number <= header.page_count) {
            encoder.page(number, &newest.page).map_err(CompactError::Output)?;
        }
        for head in heads.iter_mut().filter(|head| head.number == Some(number)) {
            head.advance()?;
        }
    }
    Ok((header, encoder.finish().map_err(CompactError::Output)?))
}

/// The next page of one input; no number at its end.
struct PageHead<R> {
    decoder: Decoder<R>,
    index: usize,
    number: Option<u32>,
    page: Vec<u8>,
}

impl<R: Read> PageHead<R> {
    fn advance(&mut self) -> Result<(), CompactError> {
        let index = self.index;
        self.number = self
            .decoder
            .next(&mut self.page)
            .map_err(|source| CompactError::Input { index, source })?;
        Ok(())
    }
}

fn merged_header(headers: &[Header]) -> Result<Header, CompactError> {
    let (Some(first), Some(last)) = (headers.first(), headers.last()) else {
        return Err(CompactError::Nothing);
    };
    for (index, pair) in headers.windows(2).enumerate() {
        let (before, header) = (&pair[0], &pair[1]);
        let (was, is) = (before.provenance, header.provenance);
        if was.lineage != is.lineage || was.epoch > is.epoch || before.page_size != header.page_size {
            return Err(CompactError::OtherHistory { index: index + 1 });
        }
        let next = before.max_txid.next();
        let adjacent = header.min_txid == next;
        if header.min_txid > next || header.max_txid <= before.max_txid || adjacent && was.after != is.before {
            return Err(CompactError::Gap { index: index + 1 });
        }
    }
    Ok(Header {
        min_txid: first.min_txid,
        provenance: Provenance {
            before: first.provenance.before,
            ..last.provenance
        },
        ..*last
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::checksum::PageChecksums;
    use crate::ltx::TransactionFile;
    use crate::position::{Epoch, Lineage, Txid};

    pub(crate) const PAGE_BYTES: usize = 512;

    /// A database as applying files one by one leaves it.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub(crate) struct Image {
        pub(crate) pages: BTreeMap<u32, Vec<u8>>,
        pub(crate) page_count: u32,
    }

    impl Image {
        pub(crate) fn apply(&mut self, file: &TransactionFile) {
            self.pages.extend(file.pages.iter().cloned());
            self.page_count = file.header.page_count;
            self.pages.retain(|number, _| *number <= file.header.page_count);
        }
    }

    /// A chain of `count` files after transaction 1 of random pages, growing and shrinking.
    pub(crate) fn chain(random: &mut fastrand::Rng, count: usize) -> Vec<TransactionFile> {
        let mut checksums = PageChecksums::default();
        let mut page_count = 0;
        let mut next = Txid(1);
        let mut files = Vec::new();
        for number in 0..count {
            let before = checksums.total();
            let old_count = page_count;
            page_count = random.u32(1..40);
            let mut pages = BTreeMap::new();
            for page in 1..=page_count {
                if page > old_count || random.u8(..) < 60 {
                    pages.insert(page, vec![random.u8(..); PAGE_BYTES]);
                }
            }
            for (page, data) in &pages {
                checksums.set(*page, data);
            }
            checksums.truncate(page_count);
            let max = Txid(next.0 + random.u64(0..3));
            files.push(TransactionFile {
                header: Header {
                    page_size: PAGE_BYTES as u32,
                    page_count,
                    min_txid: next,
                    max_txid: max,
                    timestamp_ms: 1000 * number as i64,
                    provenance: Provenance {
                        epoch: Epoch(1 + number as u32 / 5),
                        lineage: Lineage(7),
                        before: if number == 0 { 0 } else { before },
                        after: checksums.total(),
                    },
                },
                pages: pages.into_iter().collect(),
            });
            next = max.next();
        }
        files
    }

    fn merged(files: &[TransactionFile]) -> Result<TransactionFile, CompactError> {
        let bytes: Vec<Vec<u8>> = files.iter().map(TransactionFile::to_bytes).collect();
        let (header, output) = merge(bytes.iter().map(|bytes| &bytes[..]).collect(), Vec::new())?;
        let file = TransactionFile::parse(&output).unwrap();
        assert_eq!(file.header, header);
        Ok(file)
    }

    #[test]
    fn merged_and_applied_is_applied_one_by_one() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let count = random.usize(2..12);
            let files = chain(&mut random, count);
            let (from, to) = (random.usize(0..files.len()), files.len());
            let mut wanted = Image::default();
            files.iter().for_each(|file| wanted.apply(file));

            // In one step, and in two: compactions are compacted again.
            let mut found = Image::default();
            files[..from].iter().for_each(|file| found.apply(file));
            let whole = merged(&files[from..to]).unwrap();
            found.apply(&whole);
            assert_eq!(found, wanted, "seed {seed}");
            let middle = random.usize(from..to).max(from + 1).min(to);
            let mut parts = vec![merged(&files[from..middle]).unwrap()];
            if middle < to {
                parts.push(merged(&files[middle..to]).unwrap());
            }
            assert_eq!(merged(&parts).unwrap(), whole, "seed {seed}");

            assert_eq!(whole.header.provenance.before, files[from].header.provenance.before);
            assert_eq!(whole.header.provenance.after, files[to - 1].header.provenance.after);
            assert_eq!(whole.header.provenance.epoch, files[to - 1].header.provenance.epoch);
            assert_eq!(whole.header.timestamp_ms, files[to - 1].header.timestamp_ms);
        }
    }

    #[test]
    fn overlapping_files_may_be_merged() {
        let files = chain(&mut fastrand::Rng::with_seed(1), 6);
        let overlapping = [merged(&files[..4]).unwrap(), merged(&files[2..]).unwrap()];
        assert_eq!(merged(&overlapping).unwrap(), merged(&files).unwrap());
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let files = chain(&mut fastrand::Rng::with_seed(2), 4);
        assert!(matches!(merged(&[]), Err(CompactError::Nothing)));
        let gap = [files[0].clone(), files[2].clone()];
        assert!(matches!(merged(&gap), Err(CompactError::Gap { index: 1 })));
        let backwards = [files[1].clone(), files[0].clone()];
        assert!(merged(&backwards).is_err());
        for change in [
            (|header: &mut Header| header.provenance.lineage = Lineage(8)) as fn(&mut Header),
            |header| header.provenance.epoch = Epoch(0),
            |header| header.provenance.before ^= 1,
        ] {
            let mut other = files.clone();
            change(&mut other[2].header);
            assert!(merged(&other).is_err());
        }
        let mut damaged = files[1].to_bytes();
        let at = damaged.len() - 30;
        damaged[at] ^= 1;
        let (first, last) = (files[0].to_bytes(), files[2].to_bytes());
        let inputs = vec![&first[..], &damaged[..], &last[..]];
        let result = merge(inputs, Vec::new());
        assert!(matches!(result, Err(CompactError::Input { index: 1, .. })));
    }
}
