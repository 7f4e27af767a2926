//! The processes of a quickstart: started, watched, started again, stopped.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use smtp_bridge::cli::process::Failure;
use smtp_bridge::net::stopped;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;

/// Longest wait for a process to be ready.
const READY_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a process that was asked to end.
const ENDING_MAX: Duration = Duration::from_secs(25);
/// A process that ends more often than this is left alone.
const RESTARTS_MAX: u32 = 100;

/// One of the processes that make up a quickstart.
pub(super) struct Process {
    name: String,
    arguments: Vec<String>,
    child: Child,
    /// Held apart, as waiting for the child would close it: its end is the child's sign to stop.
    stdin: Option<ChildStdin>,
    restarts: u32,
}

impl Process {
    pub(super) fn start(name: &str, arguments: Vec<String>) -> Result<Self, Failure> {
        let (child, stdin) = spawn(&arguments).map_err(|error| Failure(format!("cannot start {name}: {error}")))?;
        Ok(Process {
            name: name.to_owned(),
            arguments,
            child,
            stdin,
            restarts: 0,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Asks `probe` until it has an answer, the process ends, or patience does.
    pub(super) async fn until_ready<T>(&mut self, probe: impl AsyncFn() -> Option<T>) -> Result<T, Failure> {
        let name = self.name.clone();
        let polling = async {
            loop {
                if let Some(ready) = probe().await {
                    return ready;
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        };
        tokio::select! {
            ready = tokio::time::timeout(READY_MAX, polling) => ready.map_err(|_| Failure(format!("{name} is not ready after {} s", READY_MAX.as_secs()))),
            _ = self.child.wait() => Err(Failure(format!("{name} ended before it was ready; it said why above"))),
        }
    }

    /// Starts it again whenever it ends, until `stop` turns true; then asks it to end and waits for that.
    async fn keep(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                status = self.child.wait() => {
                    self.restarts += 1;
                    let status = status.map(|status| status.to_string()).unwrap_or_default();
                    if self.restarts > RESTARTS_MAX {
                        eprintln!("{} ended again ({status}) and is not started any more", self.name);
                        return;
                    }
                    eprintln!("{} ended ({status}); starting it again", self.name);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    match spawn(&self.arguments) {
                        Ok((child, stdin)) => (self.child, self.stdin) = (child, stdin),
                        Err(error) => eprintln!("cannot start {}: {error}", self.name),
                    }
                }
            }
        }
        self.end().await;
    }

    /// Asks it to end, and waits for that.
    pub(super) async fn end(mut self) {
        drop(self.stdin.take());
        if tokio::time::timeout(ENDING_MAX, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

pub(super) async fn supervise(processes: Vec<Process>, stop: watch::Receiver<bool>) {
    let mut tasks = tokio::task::JoinSet::new();
    for process in processes {
        tasks.spawn(process.keep(stop.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

fn spawn(arguments: &[String]) -> io::Result<(Child, Option<ChildStdin>)> {
    // Its own process group: Ctrl-C reaches this process, which then stops the others in order.
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let stdin = child.stdin.take();
    Ok((child, stdin))
}
