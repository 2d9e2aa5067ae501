//! The door: what a connection may cost before and between its requests.
//!
//! pingora's own HTTP/1 loop times each read, not the header as a whole, so a client that sends one byte a minute holds a
//! connection for good. Here every HTTP/1 connection is wrapped in a [`GuardedStream`] with a clock of its own: an idle
//! deadline until the first byte of a request, then one total deadline for its header section (RFC 9110 15.5.9), then
//! none, because bodies have per-read timeouts of their own. HTTP/2 connections keep pingora's loop and its bounds.
//!
//! Connections are counted for as long as they live, in all and by address (IPv6 by /64, the smallest unit one
//! subscriber is given), whatever protocol they speak: encrypted ones from before their handshake, when nobody knows yet
//! whether it will be HTTP/2, plain ones in the HTTP/1 loop. Those over the limit are dropped as they are accepted.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::{
    apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream},
    listeners::{ConnectionFilter, PreTlsProcess},
    protocols::{
        ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
        TimingDigest, UniqueID, UniqueIDType,
        http::ServerSession,
        l4::stream::Stream as L4Stream,
        raw_connect::ProxyDigest,
        tls::{SslDigest, TlsRef},
    },
};
use pingora_error::{Error, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::{ProcessCustomSession, ProxyHttp};
use selvedge_schema::DoorLimits;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::{handler_session::HandlerConnector, socket};

tokio::task_local! {
    /// The clock of the HTTP/1 connection this task serves; absent for HTTP/2 streams and background regenerations.
    static CONNECTION: Arc<Clock>;
    /// Its socket.
    static SOCKET: UniqueIDType;
}

/// How far past `header_bytes` a header may be buffered, so that the refusal can still be a 431 instead of a cut.
const HEADER_SLACK_BYTES: u64 = 64 * 1024;

/// Whether the client has ended the HTTP/1 connection this task serves, however much of what it sent is unread. Of
/// HTTP/2 connections this says nothing.
pub(crate) fn client_has_left() -> bool {
    SOCKET.try_with(|socket| socket::has_left(*socket)).unwrap_or(false)
}

/// Tells the connection's clock that the request header is complete.
pub(crate) fn header_complete() {
    let _ = CONNECTION.try_with(|clock| clock.set(Waiting::Body));
}

#[derive(Clone, Copy, Debug)]
enum Waiting {
    /// For the first byte of a request.
    FirstByte { until: Instant },
    /// For the rest of the header section.
    Header { until: Instant, bytes: u64 },
    /// For nothing this clock watches.
    Body,
}

#[derive(Debug)]
struct Clock {
    waiting: Mutex<Waiting>,
    header_timeout: Duration,
    header_bytes: u64,
}

impl Clock {
    fn set(&self, waiting: Waiting) {
        *self.waiting.lock() = waiting;
    }

    fn arm(&self, idle: Duration) {
        self.set(Waiting::FirstByte {
            until: Instant::now() + idle,
        });
    }

    fn deadline(&self) -> Option<Instant> {
        match *self.waiting.lock() {
            Waiting::FirstByte { until } | Waiting::Header { until, .. } => Some(until),
            Waiting::Body => None,
        }
    }

    /// Accounts `read` bytes; an error means the header section outgrew what we are willing to buffer.
    fn received(&self, read: u64) -> io::Result<()> {
        let mut waiting = self.waiting.lock();
        match *waiting {
            Waiting::Body => Ok(()),
            Waiting::FirstByte { .. } => {
                *waiting = Waiting::Header {
                    until: Instant::now() + self.header_timeout,
                    bytes: read,
                };
                Ok(())
            }
            Waiting::Header { until, bytes } => {
                let bytes = bytes + read;
                *waiting = Waiting::Header { until, bytes };
                if bytes > self.header_bytes + HEADER_SLACK_BYTES {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "header section too large"));
                }
                Ok(())
            }
        }
    }
}

/// A downstream connection with a [`Clock`] on its reads.
#[derive(Debug)]
struct GuardedStream {
    inner: Stream,
    clock: Arc<Clock>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl GuardedStream {
    fn expired(&mut self, context: &mut Context<'_>) -> bool {
        let Some(deadline) = self.clock.deadline() else {
            return false;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(context).is_ready()
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.inner).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                let read = buffer.filled().len() - before;
                if read == 0 {
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(self.clock.received(read as u64))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if self.expired(context) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "request header deadline")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[async_trait]
impl Shutdown for GuardedStream {
    async fn shutdown(&mut self) {
        self.inner.shutdown().await;
    }
}

impl UniqueID for GuardedStream {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for GuardedStream {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl GetTimingDigest for GuardedStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.inner.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.inner.get_write_pending_time()
    }
}

impl GetProxyDigest for GuardedStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner.get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.inner.set_proxy_digest(digest);
    }
}

impl GetSocketDigest for GuardedStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.inner.set_socket_digest(digest);
    }
}

#[async_trait]
impl Peek for GuardedStream {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        self.inner.try_peek(buffer).await
    }
}

/// Serves one HTTP/1 connection until it closes; the counterpart of pingora's own loop, with the door's limits.
pub(crate) fn http1_loop<SV>(
    limits: DoorLimits,
    count: Arc<ConnectionCount>,
) -> ProcessCustomSession<SV, HandlerConnector>
where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    Arc::new(move |proxy, stream, shutdown| {
        let shutdown = shutdown.clone();
        let limits = limits.clone();
        // An encrypted one was counted before its handshake.
        let plain = stream.get_ssl_digest().is_none();
        let admitted = plain.then(|| count.admit(peer_address(&*stream)));
        Box::pin(async move {
            // The connection is closed unread: whoever exceeds the limit is not owed the work of an answer.
            let _place = match admitted {
                Some(admitted) => Some(admitted?),
                None => None,
            };
            let clock = Arc::new(Clock {
                waiting: Mutex::new(Waiting::Body),
                header_timeout: limits.header_timeout,
                header_bytes: limits.header_bytes,
            });
            clock.arm(limits.header_timeout);
            let socket = stream.id();
            let guarded = GuardedStream {
                inner: stream,
                clock: Arc::clone(&clock),
                sleep: None,
            };
            let requests = async {
                let mut session = ServerSession::new_http1(Box::new(guarded));
                session.set_keepalive((!*shutdown.borrow()).then_some(limits.keepalive.as_secs().max(1)));
                let reuses = limits.requests_per_connection.saturating_sub(1);
                session.set_keepalive_reuses_remaining(Some(reuses));
                // One after the other; without it a client that sends two at once loses the second.
                session.set_pipelining_enabled(true);
                let mut reused = proxy.process_new_http(session, &shutdown).await;
                while let Some((stream, settings)) = reused.map(ReusedHttpStream::consume) {
                    clock.arm(limits.keepalive);
                    let mut session = ServerSession::new_http1(stream);
                    if let Some(settings) = settings {
                        HttpPersistentSettings::apply_to_session(settings, &mut session);
                    }
                    reused = proxy.process_new_http(session, &shutdown).await;
                }
            };
            let requests = CONNECTION.scope(Arc::clone(&clock), requests);
            SOCKET.scope(socket, requests).await;
            None
        })
    })
}

fn peer_address<S: GetSocketDigest + ?Sized>(stream: &S) -> Option<IpAddr> {
    let digest = stream.get_socket_digest()?;
    Some(digest.peer_addr()?.as_inet()?.ip())
}

/// Connections open now, in all and by address.
#[derive(Debug)]
pub(crate) struct ConnectionCount {
    limit: usize,
    limit_per_address: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// Accepted, and on the way to [`ConnectionCount::admit`].
    arriving: usize,
    total: usize,
    by_address: HashMap<IpAddr, usize>,
    refused: u64,
}

impl ConnectionCount {
    pub(crate) fn new(limits: &DoorLimits) -> Arc<ConnectionCount> {
        Arc::new(ConnectionCount {
            limit: limits.connections,
            limit_per_address: limits.connections_per_address,
            open: Mutex::default(),
        })
    }

    /// A place for a connection from `address`, or `None` when a limit is reached.
    pub(crate) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Place> {
        let key = address.map(subscriber);
        let mut open = self.open.lock();
        open.arriving = open.arriving.saturating_sub(1);
        if self.is_full(&open, key) {
            open.refused += 1;
            return None;
        }
        open.total += 1;
        if let Some(key) = key {
            *open.by_address.entry(key).or_default() += 1;
        }
        Some(Place {
            count: Arc::clone(self),
            key,
        })
    }

    /// Whether [`Self::admit`] would refuse a connection from `address`; counts the refusal, or that it is coming.
    fn refuses(&self, address: Option<IpAddr>) -> bool {
        let mut open = self.open.lock();
        let full = self.is_full(&open, address.map(subscriber));
        match full {
            true => open.refused += 1,
            false => open.arriving += 1,
        }
        full
    }

    fn is_full(&self, open: &Open, key: Option<IpAddr>) -> bool {
        let here = key.and_then(|key| open.by_address.get(&key).copied()).unwrap_or(0);
        open.total >= self.limit || here >= self.limit_per_address
    }

    pub(crate) fn total(&self) -> usize {
        self.open.lock().total
    }

    /// [`Self::total`], and those accepted that are not counted there yet.
    pub(crate) fn open(&self) -> usize {
        let open = self.open.lock();
        open.total + open.arriving
    }

    pub(crate) fn refused(&self) -> u64 {
        self.open.lock().refused
    }
}

/// Drops what is over the limit before a byte of it is read.
#[async_trait]
impl ConnectionFilter for ConnectionCount {
    async fn should_accept(&self, address: Option<&std::net::SocketAddr>) -> bool {
        !self.refuses(address.map(std::net::SocketAddr::ip))
    }
}

/// Counts connections that will be encrypted. What pingora carries along with such a connection for as long as it lives,
/// through the handshake and whatever protocol follows, is the digest of a proxy in front of it; there is none, so the
/// place stands there.
pub(crate) struct CountBeforeHandshake(pub(crate) Arc<ConnectionCount>);

#[async_trait]
impl PreTlsProcess for CountBeforeHandshake {
    async fn process(&self, stream: &mut L4Stream) -> pingora_error::Result<()> {
        let place = self.0.admit(peer_address(stream));
        let place = place.ok_or_else(|| Error::explain(ErrorType::ConnectError, "too many connections"))?;
        let nothing = Box::new(ResponseHeader::build(200, None)?);
        stream.set_proxy_digest(ProxyDigest::new(nothing, Some(Box::new(place))));
        Ok(())
    }
}

/// One counted connection; leaves the count when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    count: Arc<ConnectionCount>,
    key: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.count.open.lock();
        open.total -= 1;
        if let Some(key) = self.key
            && let Some(here) = open.by_address.get_mut(&key)
        {
            *here -= 1;
            if *here == 0 {
                open.by_address.remove(&key);
            }
        }
    }
}

/// The unit an address limit counts: an IPv4 address, or the /64 of an IPv6 address.
fn subscriber(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections: usize, per_address: usize) -> DoorLimits {
        DoorLimits {
            connections,
            connections_per_address: per_address,
            ..DoorLimits::default()
        }
    }

    #[test]
    fn places_are_limited_in_all_and_by_subscriber() {
        let count = ConnectionCount::new(&limits(3, 2));
        let address = |text: &str| Some(text.parse().expect("an address"));
        let first = count.admit(address("2001:db8::1")).expect("free");
        let _second = count.admit(address("2001:db8::ffff")).expect("free");
        assert!(
            count.admit(address("2001:db8::2")).is_none(),
            "the same /64 has two already"
        );
        let _third = count.admit(address("192.0.2.1")).expect("free");
        assert!(count.admit(address("192.0.2.2")).is_none(), "three in all");
        drop(first);
        assert!(count.admit(address("2001:db8::2")).is_some(), "a place came free");
        assert_eq!(count.refused(), 2);
    }
}
