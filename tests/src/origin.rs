//! An HTTP/1.1 origin that answers as a test tells it and remembers every byte it was sent.
//!
//! It runs on a thread of its own, so it answers also while the test blocks. What is asked but not told is a 404.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::reply::{Content, Piece, Reply, ReplyBody, Response, Step};
use crate::wait::wait_until;
use crate::wire::{Body, Buffered, Framing, Head};

pub struct Origin {
    address: SocketAddr,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// The request target as sent.
    pub target: String,
    pub head: Head,
    /// Without transfer coding.
    pub body: Vec<u8>,
    /// Whether all of the body came.
    pub complete: bool,
    /// Every byte of it.
    pub raw: Vec<u8>,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
}

impl Request {
    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// When an answer may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Body,
    /// Without reading the body, after which the connection is of no more use.
    Head,
}

type Answer = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

#[derive(Default)]
struct State {
    routes: Mutex<Vec<(String, When, Answer)>>,
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    abandoned: AtomicUsize,
}

impl Origin {
    pub fn start() -> Origin {
        Origin::start_at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Listens at an address known before: an origin that comes back.
    pub fn start_at(address: SocketAddr) -> Origin {
        let listener =
            std::net::TcpListener::bind(address).unwrap_or_else(|error| panic!("binding {address}: {error}"));
        listener.set_nonblocking(true).expect("a listener can be non-blocking");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(State::default());
        let (stop, stopped) = oneshot::channel();
        let serving = state.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime starts");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener can be tokio's");
                tokio::select! {
                    () = accept(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        });
        Origin {
            address,
            state,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers `path` this way from now on. A path ending in `*` means every path with this beginning; what was said last wins.
    pub fn reply(&self, path: &str, reply: Reply) {
        self.answer(path, move |_| reply.clone());
    }

    /// Answers `path` with what the function makes of the request.
    pub fn answer(&self, path: &str, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        lock(&self.state.routes).push((path.to_owned(), When::Body, Arc::new(answer)));
    }

    /// Answers without reading the request's body and closes the connection.
    pub fn reply_early(&self, path: &str, reply: Reply) {
        lock(&self.state.routes).push((path.to_owned(), When::Head, Arc::new(move |_| reply.clone())));
    }

    /// Every request so far, oldest first; one is listed before its answer starts.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state.requests).clone()
    }

    pub fn requests_to(&self, path: &str) -> Vec<Request> {
        self.requests()
            .into_iter()
            .filter(|request| request.path() == path)
            .collect()
    }

    /// How many requests have come to this path.
    pub fn count(&self, path: &str) -> usize {
        lock(&self.state.requests)
            .iter()
            .filter(|request| request.path() == path)
            .count()
    }

    /// Waits until `count` requests have come to this path.
    pub async fn asked(&self, path: &str, count: usize) {
        wait_until(&format!("{count} requests to {path} at the origin"), || {
            self.count(path) >= count
        })
        .await;
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many of them are open.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// How many answers the peer did not wait for.
    pub fn abandoned(&self) -> usize {
        self.state.abandoned.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    /// Closes the listener and every connection before it returns.
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the origin's thread is already in the test's output.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let connection = state.connections.fetch_add(1, Ordering::SeqCst);
        state.open.fetch_add(1, Ordering::SeqCst);
        let state = state.clone();
        tokio::spawn(async move {
            // An error ends the connection; the test sees it at the other end.
            let _ = serve(Buffered::new(stream), connection, &state).await;
            state.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Answers the requests of one connection until either side closes it.
async fn serve(mut stream: Buffered<TcpStream>, connection: usize, state: &State) -> io::Result<()> {
    while let Some(head) = stream.head().await? {
        let mut parts = head.first_line.split(' ').map(str::to_owned);
        let method = parts.next().unwrap_or_default();
        let target = parts.next().unwrap_or_default();
        let mut request = Request {
            method,
            target,
            head,
            body: Vec::new(),
            complete: true,
            raw: Vec::new(),
            connection,
        };
        let (when, answer) = state.route(request.path());
        if when == When::Body {
            if request
                .header("expect")
                .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
            {
                stream.reader.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
            let Body { bytes, complete } = stream.body(request.head.framing(Framing::Length(0))).await;
            request.body = bytes;
            request.complete = complete;
        }
        request.raw = stream.take_record();
        lock(&state.requests).push(request.clone());
        let reply = answer(&request);
        match send(&mut stream, &request, reply).await {
            Ok(After::KeepAlive) if when == When::Body && request.complete => {}
            Ok(After::Reset) => return stream.reader.set_zero_linger(),
            Ok(_) => return stream.reader.shutdown().await,
            Err(error) => {
                state.abandoned.fetch_add(1, Ordering::SeqCst);
                return Err(error);
            }
        }
    }
    Ok(())
}

impl State {
    fn route(&self, path: &str) -> (When, Answer) {
        let routes = lock(&self.routes);
        let matches = |pattern: &str| match pattern.strip_suffix('*') {
            Some(beginning) => path.starts_with(beginning),
            None => path == pattern,
        };
        match routes.iter().rev().find(|(pattern, _, _)| matches(pattern)) {
            Some((_, when, answer)) => (*when, answer.clone()),
            None => (
                When::Body,
                Arc::new(|_: &Request| Reply::status(404).body("the test's origin was not told of this")),
            ),
        }
    }
}

/// What becomes of the connection after an answer.
enum After {
    KeepAlive,
    Close,
    Reset,
}

async fn send(stream: &mut Buffered<TcpStream>, request: &Request, reply: Reply) -> io::Result<After> {
    for step in reply.steps {
        match step {
            Step::Write(bytes) => stream.reader.write_all(&bytes).await?,
            Step::Wait(gate) => unless_left(stream, gate.pass()).await?,
        }
    }
    match reply.content {
        Content::Response(response) => respond(stream, request, response).await,
        Content::Raw(bytes) => {
            stream.reader.write_all(&bytes).await?;
            Ok(After::Close)
        }
        Content::Reset => Ok(After::Reset),
        Content::Echo(protocol) => {
            let head =
                format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n");
            stream.reader.write_all(head.as_bytes()).await?;
            loop {
                let bytes = stream.some(usize::MAX).await?;
                if bytes.is_empty() {
                    return Ok(After::Close);
                }
                stream.reader.write_all(&bytes).await?;
            }
        }
    }
}

async fn respond(stream: &mut Buffered<TcpStream>, request: &Request, response: Response) -> io::Result<After> {
    let mut head = format!("HTTP/1.1 {} As Told\r\n", response.status);
    for (name, value) in &response.headers {
        head += &format!("{name}: {value}\r\n");
    }
    match &response.body {
        ReplyBody::Whole(_) if response.status == 204 || response.status == 304 => {}
        ReplyBody::Whole(bytes) => head += &format!("content-length: {}\r\n", bytes.len()),
        ReplyBody::CutOff { announced, .. } => head += &format!("content-length: {announced}\r\n"),
        ReplyBody::Chunks(_) | ReplyBody::Stream(_) => head += "transfer-encoding: chunked\r\n",
    }
    if response.close {
        head += "connection: close\r\n";
    }
    stream.reader.write_all((head + "\r\n").as_bytes()).await?;
    if request.method != "HEAD" {
        match response.body {
            ReplyBody::Whole(bytes) => stream.reader.write_all(&bytes).await?,
            ReplyBody::Chunks(chunks) => {
                for bytes in chunks {
                    stream.reader.write_all(&chunk(&bytes)).await?;
                }
                stream.reader.write_all(b"0\r\n\r\n").await?;
            }
            ReplyBody::CutOff { bytes, .. } => {
                stream.reader.write_all(&bytes).await?;
                return Ok(After::Reset);
            }
            ReplyBody::Stream(pieces) => {
                let mut pieces = pieces.lock().await;
                loop {
                    let piece = unless_left(stream, pieces.recv()).await;
                    match piece {
                        Ok(Some(Piece::Chunk(bytes))) => stream.reader.write_all(&chunk(&bytes)).await?,
                        Ok(Some(Piece::End)) => break,
                        Ok(Some(Piece::Reset) | None) => return Ok(After::Reset),
                        Err(error) => {
                            pieces.close();
                            return Err(error);
                        }
                    }
                }
                stream.reader.write_all(b"0\r\n\r\n").await?;
            }
        }
    }
    Ok(if response.close { After::Close } else { After::KeepAlive })
}

/// The output of `future`, or an error when the peer closes the connection first.
async fn unless_left<T>(stream: &mut Buffered<TcpStream>, future: impl Future<Output = T>) -> io::Result<T> {
    let mut future = std::pin::pin!(future);
    loop {
        tokio::select! {
            output = &mut future => return Ok(output),
            read = stream.fill() => if read? == 0 { return Err(io::ErrorKind::ConnectionAborted.into()) },
        }
    }
}

fn chunk(bytes: &Bytes) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}
