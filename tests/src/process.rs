//! A child process with its log in files: signalled by its id, never outliving the value that owns it.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use crate::wait::{DEADLINE, wait_for};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// End gracefully.
    Terminate,
    /// Read the configuration again.
    HangUp,
    /// Ctrl-C.
    Interrupt,
    /// End at once, with no chance to tidy up.
    Kill,
    /// Stand still, with everything held.
    Pause,
    /// Go on after a pause.
    Resume,
}

#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command` with its output going to `stdout.log` and `stderr.log` in `directory`.
    pub fn start(mut command: Command, directory: &Path) -> Process {
        let stdout = directory.join("stdout.log");
        let stderr = directory.join("stderr.log");
        let file =
            |path: &Path| File::create(path).unwrap_or_else(|error| panic!("making {}: {error}", path.display()));
        command.stdin(Stdio::null()).stdout(file(&stdout)).stderr(file(&stderr));
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        Process { child, stdout, stderr }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// The exit status, if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .expect("a child can be asked whether it has ended")
    }

    /// Sends the signal; a process that has already ended gets none.
    pub fn signal(&mut self, signal: Signal) {
        let id = libc::pid_t::try_from(self.child.id()).expect("a process id fits pid_t");
        self.send(signal, id);
    }

    /// Sends the signal to everything in the process's group, as a terminal does. It must have been started as the
    /// leader of a group.
    pub fn signal_group(&mut self, signal: Signal) {
        let id = libc::pid_t::try_from(self.child.id()).expect("a process id fits pid_t");
        self.send(signal, -id);
    }

    fn send(&mut self, signal: Signal, id: libc::pid_t) {
        if self.ended().is_some() {
            return;
        }
        let number = match signal {
            Signal::Terminate => libc::SIGTERM,
            Signal::HangUp => libc::SIGHUP,
            Signal::Interrupt => libc::SIGINT,
            Signal::Kill => libc::SIGKILL,
            Signal::Pause => libc::SIGSTOP,
            Signal::Resume => libc::SIGCONT,
        };
        #[expect(unsafe_code, reason = "std sends no signal but SIGKILL")]
        // SAFETY: kill takes two integers. The child was not waited for above, so the id is still its own.
        let result = unsafe { libc::kill(id, number) };
        assert_eq!(
            result,
            0,
            "sending {signal:?} to {id}: {}",
            std::io::Error::last_os_error()
        );
    }

    /// Waits until the process has ended by itself or by a signal sent before.
    pub async fn wait(&mut self) -> ExitStatus {
        wait_for("the process to end", async || self.ended()).await
    }

    /// Ends the process at once and waits for it.
    pub fn kill(&mut self) {
        self.signal(Signal::Kill);
        let started = Instant::now();
        while self.ended().is_none() && started.elapsed() < DEADLINE {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// How the process ended or that it runs, and all it wrote: for the text of a failure.
    pub fn describe(&mut self) -> String {
        let state = match self.ended() {
            None => "still running".to_owned(),
            Some(status) => match status.signal() {
                Some(signal) => format!("ended by signal {signal}"),
                None => format!("ended with {status}"),
            },
        };
        format!("{state}\n--- stdout\n{}--- stderr\n{}", self.stdout(), self.stderr())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("process {} {}", self.child.id(), self.describe());
        }
    }
}

fn read(path: &Path) -> String {
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}
