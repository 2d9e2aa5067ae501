//! A handler: one component, linked to exactly the capabilities its configuration names, ready to be invoked.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use selvedge_schema::HandlerLimits;
use thiserror::Error;
use tokio::{sync::Semaphore, time::timeout_at};
use wasmtime::{
    PoolConcurrencyLimitError, Store, UpdateDeadline,
    component::{Component, Linker, ResourceTable},
};
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::{
    WasiHttpCtx, WasiHttpView,
    handler::{HandlerState, Instance, ProxyHandler, ProxyPre},
    p2::bindings::ProxyPre as Pre2,
    p3::bindings::ServicePre as Pre3,
};

use crate::{
    artifact::Artifact,
    bindings::{self, Bindings, Capabilities},
    body::RequestBody,
    engine::{MAX_MEMORY_BYTES, Runtime},
    failure::Failure,
    instance::{Control, Expiration, GuestState, Hooks, InstanceState, Limiter},
    invocation::Invocation,
    output::GuestOutput,
};

/// Resources (bodies, fields, streams) one instance may hold at a time.
const RESOURCES: usize = 4096;
/// Bytes of one header section as the guest builds it, with the overhead of its representation.
const FIELDS_OVERHEAD: u64 = 2;
/// How long an idle instance may take to give up its place.
const GIVING_WAY: Duration = Duration::from_millis(100);
/// Bytes one call for random bytes may ask for.
const RANDOM_BYTES: u64 = 1 << 20;

/// What a handler is made from.
#[derive(Clone)]
pub struct HandlerSpec {
    pub name: String,
    /// A WebAssembly component that exports `wasi:http/handler@0.3` or `wasi:http/incoming-handler@0.2`.
    pub component: PathBuf,
    pub limits: HandlerLimits,
    pub env: BTreeMap<String, String>,
    /// Visible to the guest as environment too; kept apart so that nothing else shows them.
    pub secrets: BTreeMap<String, String>,
    /// What the guest can open, by the name it opens it with.
    pub bindings: Bindings,
}

#[derive(Debug, Error)]
pub enum LoadError {
    #[error("cannot read the component {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} is a core module, not a component; build for wasm32-wasip2, or wrap it with `wasm-tools component new`"
    )]
    CoreModule { path: PathBuf },
    #[error("{path} is not a WebAssembly component")]
    NotWasm { path: PathBuf },
    #[error("{path} does not compile: {reason}")]
    Compile { path: PathBuf, reason: String },
    #[error("{path} exports neither wasi:http/handler@0.3 nor wasi:http/incoming-handler@0.2; it exports {exports}")]
    WrongWorld { path: PathBuf, exports: String },
    #[error("{path} needs something this version does not provide: {reason}")]
    Import { path: PathBuf, reason: String },
    #[error("limits.memory is {wanted} bytes, the most an instance can have is {MAX_MEMORY_BYTES}")]
    Memory { wanted: u64 },
}

/// Figures of one handler since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandlerStats {
    /// Instances alive now.
    pub instances: usize,
    pub instantiations: u64,
    /// Time spent making them, all together.
    pub instantiation_time: Duration,
    pub invocations: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) instances: AtomicUsize,
    instantiations: AtomicU64,
    instantiation_ns: AtomicU64,
    invocations: AtomicU64,
}

/// A loaded component. Dropping it lets its instances finish what they serve.
pub struct Handler {
    name: Arc<str>,
    digest: String,
    limits: HandlerLimits,
    runtime: Arc<Runtime>,
    proxy: ProxyHandler<Instances>,
    slots: Arc<Semaphore>,
    counters: Arc<Counters>,
}

impl Handler {
    pub(crate) fn load(runtime: &Arc<Runtime>, spec: HandlerSpec) -> Result<Arc<Handler>, LoadError> {
        if spec.limits.memory > MAX_MEMORY_BYTES {
            return Err(LoadError::Memory {
                wanted: spec.limits.memory,
            });
        }
        let artifact = compile(runtime, &spec.component)?;
        let linker = linker(runtime, &spec)?;
        let pre = pre_instance(runtime, &linker, &artifact.component, &spec.component)?;
        let reusable = matches!(pre, ProxyPre::P3(_));
        let counters = Arc::new(Counters::default());
        let name: Arc<str> = spec.name.as_str().into();
        let instances = Instances {
            pre,
            name: Arc::clone(&name),
            runtime: Arc::clone(runtime),
            reusable,
            capabilities: Capabilities::new(spec.bindings),
            env: spec.env.into_iter().chain(spec.secrets).collect(),
            limits: spec.limits.clone(),
            counters: Arc::clone(&counters),
        };
        Ok(Arc::new(Handler {
            name,
            digest: artifact.digest,
            slots: Arc::new(Semaphore::new(spec.limits.concurrency)),
            limits: spec.limits,
            runtime: Arc::clone(runtime),
            proxy: ProxyHandler::new(instances),
            counters,
        }))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the component, hexadecimal: what a build is called in cache keys.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub fn limits(&self) -> &HandlerLimits {
        &self.limits
    }

    pub fn stats(&self) -> HandlerStats {
        HandlerStats {
            instances: self.counters.instances.load(Ordering::Relaxed),
            instantiations: self.counters.instantiations.load(Ordering::Relaxed),
            instantiation_time: Duration::from_nanos(self.counters.instantiation_ns.load(Ordering::Relaxed)),
            invocations: self.counters.invocations.load(Ordering::Relaxed),
        }
    }

    /// Starts one invocation; `head` has its URI in absolute form (a 0.3 guest learns scheme and authority from it).
    /// Dropping the [`Invocation`] cancels it.
    pub fn invoke(self: &Arc<Self>, head: http::request::Parts, body: RequestBody) -> Invocation {
        self.counters.invocations.fetch_add(1, Ordering::Relaxed);
        Invocation::start(Arc::clone(self), head, body)
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(crate) fn proxy(&self) -> &ProxyHandler<Instances> {
        &self.proxy
    }

    /// Waits for a free slot, at most `limits.queue`.
    pub(crate) async fn slot(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Failure> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(slot);
        }
        let waiting = Arc::clone(&self.slots).acquire_owned();
        match tokio::time::timeout(self.limits.queue, waiting).await {
            Ok(Ok(slot)) => Ok(slot),
            _ => Err(Failure::Overloaded),
        }
    }
}

fn compile(runtime: &Runtime, path: &PathBuf) -> Result<Artifact, LoadError> {
    let bytes = fs::read(path).map_err(|source| LoadError::Read {
        path: path.clone(),
        source,
    })?;
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => return Err(LoadError::CoreModule { path: path.clone() }),
        Some([0, b'a', b's', b'm', ..]) => {}
        _ => return Err(LoadError::NotWasm { path: path.clone() }),
    }
    runtime
        .artifacts
        .get(&runtime.engine, &bytes)
        .map_err(|error| LoadError::Compile {
            path: path.clone(),
            reason: format!("{error:#}"),
        })
}

fn linker(runtime: &Runtime, spec: &HandlerSpec) -> Result<Linker<GuestState>, LoadError> {
    let mut linker = Linker::new(&runtime.engine);
    let link = |linker: &mut Linker<GuestState>| -> wasmtime::Result<()> {
        wasmtime_wasi::p2::add_to_linker_async(linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
        wasmtime_wasi::p3::add_to_linker(linker)?;
        wasmtime_wasi_http::p3::add_to_linker(linker)?;
        bindings::add_to_linker(linker)
    };
    link(&mut linker).map_err(|error| LoadError::Import {
        path: spec.component.clone(),
        reason: format!("{error:#}"),
    })?;
    Ok(linker)
}

fn pre_instance(
    runtime: &Runtime,
    linker: &Linker<GuestState>,
    component: &Component,
    path: &Path,
) -> Result<ProxyPre<GuestState>, LoadError> {
    let pre = linker.instantiate_pre(component).map_err(|error| LoadError::Import {
        path: path.to_owned(),
        reason: format!("{error:#}"),
    })?;
    if let Ok(pre) = Pre3::new(pre.clone()) {
        return Ok(ProxyPre::P3(pre));
    }
    if let Ok(pre) = Pre2::new(pre) {
        return Ok(ProxyPre::P2(pre));
    }
    let exports: Vec<_> = component
        .component_type()
        .exports(&runtime.engine)
        .map(|(name, _)| name.to_owned())
        .collect();
    let exports = if exports.is_empty() {
        "nothing".to_owned()
    } else {
        exports.join(", ")
    };
    Err(LoadError::WrongWorld {
        path: path.to_owned(),
        exports,
    })
}

/// Makes instances of one handler; the state behind wasmtime's dispatcher.
pub(crate) struct Instances {
    pre: ProxyPre<GuestState>,
    name: Arc<str>,
    runtime: Arc<Runtime>,
    reusable: bool,
    capabilities: Capabilities,
    env: Vec<(String, String)>,
    limits: HandlerLimits,
    counters: Arc<Counters>,
}

impl HandlerState for Instances {
    type StoreData = GuestState;
    type WorkerExpiration = Expiration;
    type WorkerState = InstanceState;

    async fn instantiate(&self) -> wasmtime::Result<Instance<GuestState, Expiration, InstanceState>> {
        let deadline = tokio::time::Instant::now() + self.limits.queue.max(GIVING_WAY);
        loop {
            let left = self.runtime.places.left();
            tokio::pin!(left);
            left.as_mut().enable();
            match self.instance().await {
                Err(error) if error.is::<PoolConcurrencyLimitError>() => {
                    self.runtime.places.ask_for_one();
                    if timeout_at(deadline, left).await.is_err() {
                        return Err(error);
                    }
                }
                outcome => return outcome,
            }
        }
    }
}

impl Instances {
    async fn instance(&self) -> wasmtime::Result<Instance<GuestState, Expiration, InstanceState>> {
        let started = Instant::now();
        let control = Control::new(&self.limits);
        let mut store = self.store(&control);
        let proxy = self.pre.instantiate_async(&mut store).await?;
        self.counters.instances.fetch_add(1, Ordering::Relaxed);
        self.counters.instantiations.fetch_add(1, Ordering::Relaxed);
        self.counters
            .instantiation_ns
            .fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        let (reuse, reuse_concurrency) = match self.reusable {
            true => (self.limits.reuse as usize, self.limits.reuse_concurrency as usize),
            false => (1, 1),
        };
        let place = self.runtime.places.take();
        Ok(Instance {
            store,
            proxy,
            view: GuestState::http,
            expiration: Expiration {
                control: Arc::clone(&control),
                idle: self.limits.idle,
                wall: self.limits.wall,
                place: Arc::clone(&place),
                sleep: Box::pin(tokio::time::sleep(self.limits.idle)),
            },
            state: InstanceState {
                control,
                reuse,
                reuse_concurrency,
                place,
                counters: Arc::clone(&self.counters),
            },
        })
    }

    fn store(&self, control: &Arc<Control>) -> Store<GuestState> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit((self.limits.response_header * FIELDS_OVERHEAD) as usize);
        let state = GuestState {
            table,
            wasi: self.wasi(),
            http,
            hooks: Hooks,
            limiter: Limiter {
                memory_bytes: self.limits.memory,
                used_bytes: 0,
                control: Arc::clone(control),
            },
            capabilities: self.capabilities.clone(),
            control: Arc::clone(control),
        };
        let mut store = Store::new(&self.runtime.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.epoch_deadline_callback(|store| {
            store.data().control.tick()?;
            Ok(UpdateDeadline::Yield(1))
        });
        store.set_epoch_deadline(1);
        store
    }

    /// No preopened folders, no sockets, no name lookup: what is not added here the guest does not have.
    fn wasi(&self) -> WasiCtx {
        WasiCtx::builder()
            .envs(&self.env)
            .stdout(GuestOutput::new(&self.name, "stdout"))
            .stderr(GuestOutput::new(&self.name, "stderr"))
            .max_random_size(RANDOM_BYTES)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build()
    }
}
