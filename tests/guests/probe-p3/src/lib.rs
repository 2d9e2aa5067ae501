wit_bindgen::generate!({ path: "../wit", world: "probe-p3", generate_all });
use exports::wasi::http0_3_0::handler::Guest;
use wasi::http0_3_0::types::{ErrorCode, Fields, Request, Response};
struct Probe;
impl Guest for Probe {
    async fn handle(_r: Request) -> Result<Response, ErrorCode> {
        let (mut tx, rx) = wit_stream::new();
        let (trailers_tx, trailers) = wit_future::new(|| Ok(None));
        let (r, _sent) = Response::new(Fields::new(), Some(rx), trailers);
        wit_bindgen::spawn_local(async move {
            tx.write_all(b"hello\n".to_vec()).await;
            drop(tx);
            let _ = trailers_tx.write(Ok(None)).await;
        });
        Ok(r)
    }
}
export!(Probe);
