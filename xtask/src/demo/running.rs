//! A process of the demo: none outlives it, however the demo ends.

use std::process::{Child, Command};

use anyhow::{Context, Result, bail};

/// Ended at once when it is dropped; see [`Running::wait`] for the orderly way.
pub(super) struct Running {
    name: String,
    child: Child,
}

impl Running {
    pub(super) fn start(name: &str, command: &mut Command) -> Result<Running> {
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Running {
            name: name.to_owned(),
            child,
        })
    }

    /// Fails when the process has ended.
    pub(super) fn is_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}", self.name),
        }
    }

    /// Waits until it has ended well, as somebody has told it to.
    pub(super) fn wait(mut self) -> Result<()> {
        let status = self
            .child
            .wait()
            .with_context(|| format!("waiting for {}", self.name))?;
        if !status.success() {
            bail!("{} ended with {status}", self.name);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
