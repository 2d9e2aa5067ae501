//! A link that can be made sick: a TCP proxy between one replica and the primary.
//!
//! The replica is configured with the proxy's address, which stays; where the proxy connects to follows the primary from
//! restart to restart. A sickness meets every connection that stands and every one that comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sickness {
    None,
    /// Connections break, new ones are closed at once.
    Cut,
    /// What the primary sends ends; what is sent to it still arrives.
    HalfClosed,
    /// Connections stand and nothing arrives.
    Silent,
    /// Every piece takes longer.
    Slow(Duration),
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: Mutex<Option<SocketAddr>>,
    sickness: watch::Sender<Sickness>,
    /// Bytes from the primary to let pass before one bit is flipped; `u64::MAX` when none is to be.
    flip_after: AtomicU64,
}

/// Of one read.
const PIECE_BYTES: usize = 16 * 1024;

impl Proxy {
    pub(crate) async fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            target: Mutex::new(None),
            sickness: watch::Sender::new(Sickness::None),
            flip_after: AtomicU64::new(u64::MAX),
        });
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((replica, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&accepting).connect(replica));
            }
        });
        Proxy { address, shared }
    }

    pub(crate) fn lead_to(&self, primary: Option<SocketAddr>) {
        *self.shared.target.lock() = primary;
    }

    pub(crate) fn fall(&self, sickness: Sickness) {
        self.shared.sickness.send_replace(sickness);
    }

    /// Flips one bit of what the primary sends, `bytes` from now on.
    pub(crate) fn flip_after(&self, bytes: u64) {
        self.shared.flip_after.store(bytes, Ordering::Relaxed);
    }
}

impl Shared {
    async fn connect(self: Arc<Self>, replica: TcpStream) {
        let target = *self.target.lock();
        if *self.sickness.borrow() == Sickness::Cut {
            return;
        }
        let Some(target) = target else { return };
        let Ok(primary) = TcpStream::connect(target).await else {
            return;
        };
        let (from_replica, to_replica) = replica.into_split();
        let (from_primary, to_primary) = primary.into_split();
        let there = Arc::clone(&self).carry(from_replica, to_primary, false);
        let back = Arc::clone(&self).carry(from_primary, to_replica, true);
        let mut sickness = self.sickness.subscribe();
        tokio::select! {
            _ = async { tokio::join!(there, back) } => {}
            _ = sickness.wait_for(|sickness| *sickness == Sickness::Cut) => {}
        }
    }

    async fn carry(self: Arc<Self>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, from_primary: bool) {
        let mut sickness = self.sickness.subscribe();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            if from_primary && *sickness.borrow() == Sickness::HalfClosed {
                break;
            }
            let length = tokio::select! {
                read = from.read(&mut piece) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(length) => length,
                },
                changed = sickness.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    continue;
                }
            };
            let now = *sickness.borrow_and_update();
            if let Sickness::Slow(pause) = now {
                tokio::time::sleep(pause).await;
            }
            let spoke = sickness
                .wait_for(|sickness| *sickness != Sickness::Silent)
                .await
                .is_ok();
            if !spoke {
                break;
            }
            if from_primary {
                self.maybe_flip(&mut piece[..length]);
            }
            if to.write_all(&piece[..length]).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    }

    fn maybe_flip(&self, piece: &mut [u8]) {
        let left = self.flip_after.load(Ordering::Relaxed);
        if left == u64::MAX {
            return;
        }
        match usize::try_from(left).ok().and_then(|at| piece.get_mut(at)) {
            Some(byte) => {
                *byte ^= 0x10;
                self.flip_after.store(u64::MAX, Ordering::Relaxed);
            }
            None => self.flip_after.store(left - piece.len() as u64, Ordering::Relaxed),
        }
    }
}
