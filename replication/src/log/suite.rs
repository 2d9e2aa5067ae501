//! What every log must do; run on each implementation.

use bytes::Bytes;

use super::{Head, Known, Log, LogError};
use crate::ltx::{self, Header, Provenance};
use crate::position::{Epoch, Lineage, Position, Txid};

/// A state of the lineage 7, whose checksum tells epoch and transaction.
pub(crate) fn head(epoch: u32, txid: u64) -> Head {
    Head {
        lineage: Lineage(7),
        position: Position {
            epoch: Epoch(epoch),
            txid: Txid(txid),
        },
        checksum: u64::from(epoch) * 1000 + txid,
        timestamp_ms: 0,
    }
}

/// The file that leads from one state to another.
pub(crate) fn file(from: Head, to: Head) -> Bytes {
    let header = Header {
        page_size: 512,
        page_count: 1,
        min_txid: from.position.txid.next(),
        max_txid: to.position.txid,
        timestamp_ms: to.timestamp_ms,
        provenance: Provenance {
            epoch: to.position.epoch,
            lineage: to.lineage,
            before: from.checksum,
            after: to.checksum,
        },
    };
    ltx::encode(header, [(1, &[0; 512][..])]).into()
}

/// `open` opens the same log again and again.
pub(crate) fn run(open: impl Fn() -> Box<dyn Log>) {
    let log = open();
    let refused = |result: Result<(), LogError>| assert!(matches!(result, Err(LogError::Fenced { .. })), "{result:?}");

    refused(log.append("a", file(head(1, 0), head(1, 1))));
    log.begin("a", head(1, 0)).unwrap();
    log.begin("b", head(1, 5)).unwrap();
    for txid in 1..=4 {
        log.append("a", file(head(1, txid - 1), head(1, txid))).unwrap();
    }
    log.append("b", file(head(1, 5), head(1, 9))).unwrap();

    // A gap, a repetition, another content before, an older epoch, another lineage.
    refused(log.append("a", file(head(1, 5), head(1, 6))));
    refused(log.append("a", file(head(1, 3), head(1, 4))));
    refused(log.append(
        "a",
        file(
            Head {
                checksum: 1,
                ..head(1, 4)
            },
            head(1, 5),
        ),
    ));
    refused(log.append("a", file(head(1, 4), head(0, 5))));
    refused(log.append(
        "a",
        file(
            head(1, 4),
            Head {
                lineage: Lineage(8),
                ..head(1, 5)
            },
        ),
    ));
    // A new leader goes on where the old one was; then the old one is fenced.
    log.append("a", file(head(1, 4), head(2, 5))).unwrap();
    refused(log.append("a", file(head(1, 4), head(1, 5))));

    for log in [log, open()] {
        assert_eq!(log.head("a"), Some(head(2, 5)));
        assert_eq!(log.head("b"), Some(head(1, 9)));
        assert_eq!(log.head("c"), None);
        let numbers = |database, after, bytes| {
            let files = log.read_after(database, Txid(after), bytes).unwrap();
            let parsed = files.iter().map(|file| ltx::TransactionFile::parse(file).unwrap());
            parsed.map(|file| file.header.max_txid.0).collect::<Vec<_>>()
        };
        assert_eq!(numbers("a", 0, usize::MAX), [1, 2, 3, 4, 5]);
        assert_eq!(numbers("a", 3, usize::MAX), [4, 5]);
        assert_eq!(numbers("a", 5, usize::MAX), [] as [u64; 0]);
        assert_eq!(numbers("a", 1, 1), [2]);
        assert_eq!(numbers("b", 5, usize::MAX), [9]);
        assert!(matches!(log.read_after("b", Txid(4), 1), Err(LogError::Gone { .. })));

        for (database, state, known) in [
            ("a", head(1, 0), Known::Here),
            ("a", head(1, 3), Known::Here),
            ("a", head(2, 5), Known::Here),
            ("a", head(1, 5), Known::Never),
            ("a", head(2, 6), Known::Never),
            (
                "a",
                Head {
                    checksum: 0,
                    ..head(1, 3)
                },
                Known::Never,
            ),
            (
                "a",
                Head {
                    lineage: Lineage(8),
                    ..head(1, 3)
                },
                Known::Never,
            ),
            ("b", head(1, 3), Known::TooOld),
            ("c", head(1, 3), Known::Never),
        ] {
            assert_eq!(log.find(database, &state), known, "{database} {state:?}");
        }
    }

    // Restored by other means: the chain begins anew.
    let log = open();
    log.begin(
        "a",
        Head {
            lineage: Lineage(9),
            ..head(3, 2)
        },
    )
    .unwrap();
    assert_eq!(log.find("a", &head(2, 5)), Known::Never);
    assert_eq!(log.head("a").unwrap().lineage, Lineage(9));
    assert_eq!(open().head("a").unwrap().lineage, Lineage(9));

    // Deleted: nothing is known any more, and nothing else is touched.
    log.end("a").unwrap();
    log.end("never").unwrap();
    for log in [log, open()] {
        assert_eq!(log.head("a"), None);
        assert_eq!(log.heads().keys().collect::<Vec<_>>(), ["b"]);
        refused(log.append("a", file(head(2, 5), head(2, 6))));
    }
    open().begin("a", head(4, 1)).unwrap();
    assert_eq!(open().head("a"), Some(head(4, 1)));
}
