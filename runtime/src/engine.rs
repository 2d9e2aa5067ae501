//! wasmtime, its epoch clock and the handlers' own threads.
//!
//! Handlers never run on the proxy's threads: a guest that computes must not delay a socket.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use thiserror::Error;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::{
    artifact::Artifacts,
    handler::{Handler, HandlerSpec, LoadError},
    places::Places,
};

/// The resolution of `limits.cpu`; also how long a computing guest may keep a thread before it must yield.
pub(crate) const EPOCH_TICK: Duration = Duration::from_millis(5);

/// Largest linear memory of any instance; `limits.memory` is refused above it. Slots reserve address space, not memory.
pub(crate) const MAX_MEMORY_BYTES: u64 = 1 << 30;

/// Places that there are whatever the first configuration says: a reload may bring more handlers.
const MIN_INSTANCES: u32 = 1000;
/// Two stacks for each, and for each stack a mapping and its guard page: 16,000 of the 65,530 mappings Linux allows.
const MAX_INSTANCES: u32 = 4000;

/// How the handler host is set up; one per process.
#[derive(Clone, Debug)]
pub struct RuntimeSettings {
    /// Where compiled components are kept; created with mode 0700.
    pub artifact_dir: PathBuf,
    /// Threads that run guests.
    pub worker_threads: usize,
    /// Instances alive at the same time, over all handlers.
    pub instances: u32,
    /// Bytes of each instance's memory that are zeroed by copying instead of by giving the pages back; faster for
    /// small guests.
    pub keep_resident_bytes: usize,
}

impl RuntimeSettings {
    /// Settings for this machine, with compiled components under `artifact_dir`.
    pub fn new(artifact_dir: PathBuf) -> RuntimeSettings {
        RuntimeSettings {
            artifact_dir,
            worker_threads: std::thread::available_parallelism().map_or(2, |cores| cores.get()),
            instances: MIN_INSTANCES,
            keep_resident_bytes: 1 << 20,
        }
    }

    /// Places for as many requests as all handlers together may run at the same time, between 1,000 and 4,000.
    pub fn with_places(mut self, wanted: usize) -> RuntimeSettings {
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        self.instances = wanted.clamp(MIN_INSTANCES, MAX_INSTANCES);
        if wanted > MAX_INSTANCES {
            tracing::warn!(
                wanted,
                places = MAX_INSTANCES,
                "handlers may run more requests together than there are places"
            );
        }
        self
    }
}

#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot set up the wasm engine: {0}")]
    Engine(String),
    #[error("cannot start the handler threads")]
    Threads(#[source] io::Error),
    #[error("cannot use {path} for compiled components")]
    ArtifactDir { path: PathBuf, source: io::Error },
}

/// The handler host of a process.
pub struct Runtime {
    pub(crate) engine: Engine,
    pub(crate) artifacts: Artifacts,
    pub(crate) places: Arc<Places>,
    threads: Option<tokio::runtime::Runtime>,
    ticking: Arc<AtomicBool>,
}

impl Runtime {
    pub fn start(settings: RuntimeSettings) -> Result<Arc<Runtime>, StartError> {
        let engine = engine(&settings)?;
        let artifacts =
            Artifacts::open(settings.artifact_dir.clone(), &engine).map_err(|source| StartError::ArtifactDir {
                path: settings.artifact_dir.clone(),
                source,
            })?;
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(settings.worker_threads)
            .thread_name("handler")
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;
        let ticking = Arc::new(AtomicBool::new(true));
        tick(engine.clone(), Arc::clone(&ticking)).map_err(StartError::Threads)?;
        Ok(Arc::new(Runtime {
            engine,
            artifacts,
            places: Arc::default(),
            threads: Some(threads),
            ticking,
        }))
    }

    /// Loads a component: compiled once, linked to exactly the capabilities of `spec`. Blocks while compiling.
    pub fn load(self: &Arc<Self>, spec: HandlerSpec) -> Result<Arc<Handler>, LoadError> {
        Handler::load(self, spec)
    }

    pub(crate) fn threads(&self) -> &tokio::runtime::Handle {
        self.threads
            .as_ref()
            .expect("taken only when the runtime is dropped")
            .handle()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.ticking.store(false, Ordering::Relaxed);
        if let Some(threads) = self.threads.take() {
            // Dropping a tokio runtime inside another one's task would panic; guests are cut off either way.
            threads.shutdown_background();
        }
    }
}

fn engine(settings: &RuntimeSettings) -> Result<Engine, StartError> {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.wasm_component_model_async(true);
    config.epoch_interruption(true);
    config.memory_init_cow(true);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(settings)));
    let pooled = Engine::new(&config);
    match pooled {
        Ok(engine) => Ok(engine),
        Err(error) => {
            tracing::warn!(%error, "no address space for a pool of instances; they are made on demand, which is slower");
            config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
            Engine::new(&config).map_err(|error| StartError::Engine(format!("{error:#}")))
        }
    }
}

fn pool(settings: &RuntimeSettings) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(settings.instances);
    // A component from a language toolchain is a handful of core modules: the program, its libc and adapters.
    pool.total_core_instances(settings.instances * 4);
    pool.total_memories(settings.instances);
    pool.total_tables(settings.instances * 2);
    pool.total_stacks(settings.instances * 2);
    pool.max_memory_size(MAX_MEMORY_BYTES as usize);
    pool.max_memories_per_component(4);
    pool.max_tables_per_component(8);
    pool.max_core_instances_per_component(16);
    pool.linear_memory_keep_resident(settings.keep_resident_bytes);
    pool.table_keep_resident(64 * 1024);
    pool
}

/// Advances the engine's epoch until the runtime is dropped.
fn tick(engine: Engine, ticking: Arc<AtomicBool>) -> io::Result<()> {
    let tick = move || {
        while ticking.load(Ordering::Relaxed) {
            std::thread::sleep(EPOCH_TICK);
            engine.increment_epoch();
        }
    };
    std::thread::Builder::new().name("epoch".to_owned()).spawn(tick)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_place_for_every_request_within_bounds() {
        for (wanted, places) in [(0, 1000), (2 * 256, 1000), (3000, 3000), (usize::MAX, 4000)] {
            let settings = RuntimeSettings::new(PathBuf::new()).with_places(wanted);
            assert_eq!(settings.instances, places, "{wanted}");
        }
    }

    #[test]
    fn the_largest_pool_fits_a_process() {
        let settings = RuntimeSettings::new(PathBuf::new()).with_places(MAX_INSTANCES as usize);
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(&settings)));
        Engine::new(&config).unwrap();
    }
}
