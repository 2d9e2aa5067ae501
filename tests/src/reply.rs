//! What the test's origin answers: a response as data, also one that is late, in pieces, broken off or wrong.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc, watch};

/// One answer of the origin. Cloning it repeats it, but for a stream, which can be served once.
#[derive(Clone, Debug)]
pub struct Reply {
    pub(crate) steps: Vec<Step>,
    pub(crate) content: Content,
}

/// What happens before the response leaves, in order.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Wait(Gate),
    Write(Bytes),
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Response(Response),
    /// These bytes instead of a response, then the end of the connection.
    Raw(Bytes),
    /// The end of the connection instead of a response.
    Reset,
    /// `101 Switching Protocols`, then every byte comes back: enough of a WebSocket server to see one pass through.
    Echo(String),
}

#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: ReplyBody,
    /// Close the connection after the response, and say so in it.
    pub(crate) close: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum ReplyBody {
    /// With a Content-Length.
    Whole(Bytes),
    /// With chunked transfer coding, one chunk an item.
    Chunks(Vec<Bytes>),
    /// With chunked transfer coding, one chunk whenever the test sends one.
    Stream(Arc<Mutex<mpsc::Receiver<Piece>>>),
    /// With a Content-Length of `announced`, though the connection breaks after `bytes`.
    CutOff { announced: usize, bytes: Bytes },
}

#[derive(Debug)]
pub(crate) enum Piece {
    Chunk(Bytes),
    End,
    Reset,
}

impl Reply {
    pub fn status(status: u16) -> Reply {
        let response = Response {
            status,
            headers: Vec::new(),
            body: ReplyBody::Whole(Bytes::new()),
            close: false,
        };
        Reply {
            steps: Vec::new(),
            content: Content::Response(response),
        }
    }

    /// `200 OK` with this text.
    pub fn ok(body: impl Into<Bytes>) -> Reply {
        Reply::status(200).body(body)
    }

    /// These bytes and nothing else; then the connection ends.
    pub fn raw(bytes: impl Into<Bytes>) -> Reply {
        Reply {
            steps: Vec::new(),
            content: Content::Raw(bytes.into()),
        }
    }

    /// A connection reset instead of a response.
    pub fn reset() -> Reply {
        Reply {
            steps: Vec::new(),
            content: Content::Reset,
        }
    }

    /// Switches to `protocol` and sends back whatever comes.
    pub fn echo(protocol: &str) -> Reply {
        Reply {
            steps: Vec::new(),
            content: Content::Echo(protocol.to_owned()),
        }
    }

    /// `200 OK` with a body the test sends piece by piece.
    pub fn stream() -> (Reply, Stream) {
        let (sender, receiver) = mpsc::channel(1);
        let mut reply = Reply::status(200);
        reply.response().body = ReplyBody::Stream(Arc::new(Mutex::new(receiver)));
        (reply, Stream { sender })
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.response().headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Reply {
        self.response().body = ReplyBody::Whole(body.into());
        self
    }

    pub fn chunks(mut self, chunks: &[&'static str]) -> Reply {
        self.response().body = ReplyBody::Chunks(
            chunks
                .iter()
                .map(|chunk| Bytes::from_static(chunk.as_bytes()))
                .collect(),
        );
        self
    }

    /// Announces `announced` bytes, sends `bytes` and resets the connection.
    pub fn cut_off(mut self, announced: usize, bytes: impl Into<Bytes>) -> Reply {
        self.response().body = ReplyBody::CutOff {
            announced,
            bytes: bytes.into(),
        };
        self
    }

    /// Ends the connection after the response.
    pub fn close(mut self) -> Reply {
        self.response().close = true;
        self
    }

    /// Waits for the gate before the next step or the response.
    pub fn after(mut self, gate: &Gate) -> Reply {
        self.steps.push(Step::Wait(gate.clone()));
        self
    }

    /// An informational response before the next step or the response: `103` with its fields.
    pub fn informational(mut self, status: u16, headers: &[(&str, &str)]) -> Reply {
        let mut text = format!("HTTP/1.1 {status} Informational\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        self.steps.push(Step::Write(Bytes::from(text + "\r\n")));
        self
    }

    fn response(&mut self) -> &mut Response {
        match &mut self.content {
            Content::Response(response) => response,
            other => panic!("{other:?} has no fields and no body"),
        }
    }
}

/// The sending end of a body; dropping it resets the connection in mid-body.
#[derive(Debug)]
pub struct Stream {
    sender: mpsc::Sender<Piece>,
}

impl Stream {
    /// Sends one chunk; `false` when the peer has left.
    pub async fn send(&self, chunk: impl Into<Bytes>) -> bool {
        self.sender.send(Piece::Chunk(chunk.into())).await.is_ok()
    }

    /// Ends the body well.
    pub async fn end(self) {
        // The peer may have left already; a test that minds looks at what the peer got.
        let _ = self.sender.send(Piece::End).await;
    }

    /// Breaks the connection in mid-body.
    pub async fn reset(self) {
        let _ = self.sender.send(Piece::Reset).await;
    }

    /// Resolves when the peer has left before the end.
    pub async fn abandoned(&self) {
        crate::wait::within("the peer to leave", self.sender.closed()).await;
    }
}

/// Holds an answer back until the test opens it, and tells how many answers have come to it.
#[derive(Clone, Debug)]
pub struct Gate {
    state: Arc<watch::Sender<GateState>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct GateState {
    open: bool,
    arrived: usize,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate {
            state: Arc::new(watch::Sender::new(GateState::default())),
        }
    }
}

impl Gate {
    pub fn new() -> Gate {
        Gate::default()
    }

    pub fn open(&self) {
        self.state.send_modify(|state| state.open = true);
    }

    pub fn close(&self) {
        self.state.send_modify(|state| state.open = false);
    }

    /// How many answers have come to the gate so far, those already let through included.
    pub fn arrived(&self) -> usize {
        self.state.borrow().arrived
    }

    /// Waits until `count` answers have come to the gate.
    pub async fn reached_by(&self, count: usize) {
        let mut state = self.state.subscribe();
        let what = format!("{count} answers at the gate");
        let reached = crate::wait::within(&what, state.wait_for(|state| state.arrived >= count)).await;
        reached.expect("the gate holds its own sender");
    }

    pub(crate) async fn pass(&self) {
        self.state.send_modify(|state| state.arrived += 1);
        let mut state = self.state.subscribe();
        state
            .wait_for(|state| state.open)
            .await
            .expect("the gate holds its own sender");
    }

    /// Opens after a while: for what is about an answer that is late, where no event can say when.
    pub fn opening_after(delay: Duration) -> Gate {
        let gate = Gate::new();
        let later = gate.clone();
        std::thread::spawn(move || {
            std::thread::sleep(delay);
            later.open();
        });
        gate
    }
}
