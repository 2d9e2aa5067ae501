//! One instance: what its store holds, how long it lives, what it may use up.
//!
//! A `wasi:http` 0.2 component serves one request an instance. A 0.3 component serves several, also at the same time;
//! they share a memory, so they share its fate: when one of them traps or exhausts a limit, the instance ends and the
//! others fail with [`Failure::Neighbour`]. Processor time cannot be told apart between them; the instance as a whole
//! may use `limits.cpu` for each request it has taken since it was last idle.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use selvedge_replication::bookmark::{Brought, Session};
use selvedge_schema::HandlerLimits;
use tokio::{sync::Notify, time::Sleep};
use wasmtime::{
    ResourceLimiter, Store, StoreContextMut,
    component::{GuestTaskId, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, ForbiddenHeaderFilter, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView,
    handler::{ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus},
};

use crate::{
    bindings::Capabilities,
    body::Gate,
    engine::EPOCH_TICK,
    failure::{CpuLimitReached, Failure},
    handler::Counters,
    places::Place,
};

/// How often an instance looks at its deadlines while it runs.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);

/// What a store holds for its guest.
pub(crate) struct GuestState {
    pub(crate) table: ResourceTable,
    pub(crate) wasi: WasiCtx,
    pub(crate) http: WasiHttpCtx,
    pub(crate) hooks: Hooks,
    pub(crate) limiter: Limiter,
    pub(crate) capabilities: Capabilities,
    pub(crate) control: Arc<Control>,
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for GuestState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.hooks,
        }
    }
}

/// Which fields the guest may see and set, and that nothing leaves: outbound HTTP is denied.
pub(crate) struct Hooks;

impl WasiHttpHooks for Hooks {
    // `Host` is visible: a guest that builds absolute links or checks origins needs it.
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(|name| name != http::header::HOST && DEFAULT_FORBIDDEN_HEADERS.contains(name))
    }

    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<wasmtime_wasi_http::RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>,
    ) -> Box<dyn Future<Output = SentRequest> + Send> {
        Box::new(std::future::ready(Err(wasmtime_wasi_http::Error::HttpRequestDenied)))
    }
}

type SentRequest = Result<
    (
        http::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>,
    ),
    wasmtime_wasi_http::Error,
>;

/// Bounds linear memory and tables; remembers that it said no, because the guest usually dies of it.
pub(crate) struct Limiter {
    pub(crate) memory_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) control: Arc<Control>,
}

/// Elements of one table; far beyond what compilers emit, far below what hurts.
const TABLE_ELEMENTS: usize = 100_000;

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.used_bytes - current as u64 + desired as u64;
        if used > self.memory_bytes {
            self.control.memory_refused.store(true, Ordering::Relaxed);
            return Ok(false);
        }
        self.used_bytes = used;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }
}

/// One request as its instance and its [`crate::Invocation`] share it.
pub(crate) struct Call {
    pub(crate) deadline: Instant,
    failure: Mutex<Option<Failure>>,
    /// The invocation was dropped: nobody wants the rest.
    cancelled: AtomicBool,
    /// The response body ended or was given up.
    done: AtomicBool,
    /// The instance is gone and has recorded its reason, if it had one.
    instance_ended: AtomicBool,
    changed: Notify,
    /// The instance that took the call.
    instance: OnceLock<Arc<Control>>,
    pub(crate) gate: Arc<Gate>,
    /// What the request has seen of databases.
    brought: Arc<Brought>,
}

impl Call {
    pub(crate) fn new(deadline: Instant, gate: Arc<Gate>, brought: Arc<Brought>) -> Arc<Call> {
        Arc::new(Call {
            brought,
            deadline,
            failure: Mutex::new(None),
            cancelled: AtomicBool::new(false),
            done: AtomicBool::new(false),
            instance_ended: AtomicBool::new(false),
            changed: Notify::new(),
            instance: OnceLock::new(),
            gate,
        })
    }

    /// The first failure stands.
    pub(crate) fn fail(&self, failure: Failure) {
        self.failure.lock().get_or_insert(failure);
        self.changed.notify_waiters();
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failure.lock().clone()
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.finish();
    }

    pub(crate) fn finish(&self) {
        if !self.done.swap(true, Ordering::AcqRel)
            && let Some(control) = self.instance.get()
        {
            control.session.leave(&self.brought);
        }
        self.changed.notify_waiters();
    }

    fn instance_ended(&self) {
        self.instance_ended.store(true, Ordering::Release);
        self.gate.guest_ended();
        self.changed.notify_waiters();
    }

    /// Resolves when it is known whether the instance ended with a failure: `None` when it ended without one.
    pub(crate) async fn instance_verdict(&self) -> Option<Failure> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(failure) = self.failure() {
                return Some(failure);
            }
            if self.instance_ended.load(Ordering::Acquire) {
                return None;
            }
            changed.await;
        }
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Whether the instance was refused memory: what it does next is usually to die.
    pub(crate) fn memory_refused(&self) -> bool {
        self.instance
            .get()
            .is_some_and(|control| control.memory_refused.load(Ordering::Relaxed))
    }

    /// Resolves when the call failed from outside the guest (deadline, neighbour) or was cancelled.
    pub(crate) async fn interrupted(&self) -> Failure {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(failure) = self.failure() {
                return failure;
            }
            if self.is_cancelled() {
                return Failure::Cancelled;
            }
            changed.await;
        }
    }
}

/// What the store's epoch callback, the worker and its expiration share about one instance.
pub(crate) struct Control {
    /// What the instance's requests have seen of databases, together.
    session: Arc<Session>,
    calls: Mutex<Vec<Arc<Call>>>,
    /// Epoch ticks the guest ran since the instance was last idle.
    ticks: AtomicU64,
    /// Requests taken since the instance was last idle.
    taken: AtomicU64,
    memory_refused: AtomicBool,
    cpu_ticks: u64,
}

impl Control {
    pub(crate) fn new(limits: &HandlerLimits) -> Arc<Control> {
        let cpu_ticks = (limits.cpu.as_micros() / EPOCH_TICK.as_micros()).max(1) as u64;
        Arc::new(Control {
            session: Arc::default(),
            calls: Mutex::default(),
            ticks: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            memory_refused: AtomicBool::new(false),
            // One more: the first tick may come right after the start.
            cpu_ticks: cpu_ticks + 1,
        })
    }

    /// Called each time the guest ran into a new epoch.
    pub(crate) fn tick(&self) -> Result<(), CpuLimitReached> {
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        let allowed = self.cpu_ticks * self.taken.load(Ordering::Relaxed).max(1);
        if ticks > allowed { Err(CpuLimitReached) } else { Ok(()) }
    }

    pub(crate) fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session)
    }

    fn take(self: &Arc<Self>, call: Arc<Call>) {
        let _ = call.instance.set(Arc::clone(self));
        self.session.join(&call.brought);
        let mut calls = self.calls.lock();
        calls.retain(|call| !call.is_done());
        if calls.is_empty() {
            self.ticks.store(0, Ordering::Relaxed);
            self.taken.store(0, Ordering::Relaxed);
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        calls.push(call);
    }

    /// Ends every unfinished call: `own` for the only one, [`Failure::Neighbour`] where it cannot be told whose it was.
    fn fail_all(&self, own: &Failure) {
        let calls = self.calls.lock();
        let open: Vec<_> = calls
            .iter()
            .filter(|call| !call.is_done() && call.failure().is_none())
            .collect();
        let failure = match open.len() {
            0 | 1 => own.clone(),
            _ => Failure::Neighbour(own.to_string()),
        };
        for call in open {
            call.fail(failure.clone());
        }
    }
}

/// Decides when the instance is dropped from outside the guest, whatever the guest is doing.
pub(crate) struct Expiration {
    pub(crate) control: Arc<Control>,
    pub(crate) idle: Duration,
    pub(crate) wall: Duration,
    pub(crate) place: Arc<Place>,
    pub(crate) sleep: Pin<Box<Sleep>>,
}

impl WorkerExpiration for Expiration {
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>, status: WorkerStatus, start: Instant) -> Poll<()> {
        match status {
            WorkerStatus::Idle if self.place.poll_idle(context, start) => return Poll::Ready(()),
            WorkerStatus::Idle => {}
            WorkerStatus::Requests | WorkerStatus::PostReturn => self.place.busy(),
        }
        loop {
            let now = Instant::now();
            if self.is_over(status, start, now) {
                return Poll::Ready(());
            }
            let next = match status {
                WorkerStatus::Idle => start + self.idle,
                WorkerStatus::Requests | WorkerStatus::PostReturn => now + WATCH_INTERVAL,
            };
            let next = tokio::time::Instant::from_std(next.max(now));
            // An armed timer is left alone: this is polled on every turn of the guest's event loop.
            if self.sleep.is_elapsed() || self.sleep.deadline() > next {
                self.sleep.as_mut().reset(next);
            }
            if self.sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Expiration {
    fn is_over(&self, status: WorkerStatus, start: Instant, now: Instant) -> bool {
        if status == WorkerStatus::Idle {
            return now >= start + self.idle;
        }
        let calls = self.control.calls.lock();
        let late: Vec<_> = calls
            .iter()
            .filter(|call| !call.is_done() && now >= call.deadline)
            .cloned()
            .collect();
        let nobody_waits = !calls.is_empty() && calls.iter().all(|call| call.is_cancelled());
        let after_work_is_late =
            status == WorkerStatus::PostReturn && calls.iter().all(|call| call.is_done()) && now >= start + self.wall;
        drop(calls);
        for call in &late {
            call.fail(Failure::WallDeadline);
        }
        !late.is_empty() || nobody_waits || after_work_is_late
    }
}

/// How an instance takes requests.
pub(crate) struct InstanceState {
    pub(crate) control: Arc<Control>,
    pub(crate) reuse: usize,
    pub(crate) reuse_concurrency: usize,
    pub(crate) place: Arc<Place>,
    pub(crate) counters: Arc<Counters>,
}

impl WorkerState for InstanceState {
    type StoreData = GuestState;
    type RequestData = Arc<Call>;

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        if total >= self.reuse {
            ShouldAccept::Never
        } else if concurrent >= self.reuse_concurrency {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        _store: StoreContextMut<'_, GuestState>,
        call: Arc<Call>,
        _task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        self.control.take(Arc::clone(&call));
        Box::pin(async move {
            let deadline = tokio::time::Instant::from_std(call.deadline);
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => call.fail(Failure::WallDeadline),
                _ = call.interrupted() => {}
            }
        })
    }

    // The failure is recorded before the store is dropped: dropping it closes the body channels, and a body that closes
    // without a recorded failure would look complete.
    fn drop(&self, store: Store<GuestState>, result: Result<(), wasmtime::Error>) {
        if let Err(error) = result {
            let memory_refused = self.control.memory_refused.load(Ordering::Relaxed);
            self.control.fail_all(&classify(&error, memory_refused));
        }
        for call in self.control.calls.lock().iter() {
            call.instance_ended();
        }
        drop(store);
        self.place.leave();
        self.counters.instances.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What ended an instance, in our words.
pub(crate) fn classify(error: &wasmtime::Error, memory_refused: bool) -> Failure {
    if error.downcast_ref::<CpuLimitReached>().is_some() {
        return Failure::CpuLimit;
    }
    if memory_refused {
        return Failure::MemoryLimit;
    }
    match error.downcast_ref::<wasmtime::Trap>() {
        Some(trap) => Failure::Trap(trap.to_string()),
        None => Failure::Trap(format!("{:#}", error)),
    }
}
