//! What both binaries share at their outermost edge: runtime, log, signals, passphrase, exit status.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use mailbox::disk::{KillDisk, KillPoint, SystemDisk};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::net::{Host, system};

/// A failure as the person at the terminal reads it: one sentence that says what to do.
pub struct Failure(pub String);

impl Failure {
    /// An error whose text is such a sentence already.
    pub fn from_error(error: impl std::error::Error) -> Self {
        Failure(error.to_string())
    }
}

impl From<crate::control::CommandError> for Failure {
    fn from(error: crate::control::CommandError) -> Self {
        Failure(error.0)
    }
}

/// Runs a command on a runtime, with a log on standard error that passes our own crates alone.
pub fn run<F: Future<Output = Result<(), Failure>>>(filter: &str, command: impl FnOnce() -> F) -> ExitCode {
    run_to_code(filter, || async {
        match command().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure(sentence)) => {
                eprintln!("error: {sentence}");
                ExitCode::FAILURE
            }
        }
    })
}

/// The same for a command that knows its own exit status.
pub(super) fn run_to_code<F: Future<Output = ExitCode>>(filter: &str, command: impl FnOnce() -> F) -> ExitCode {
    // Other crates' lines carry addresses; the filter is fixed so that no environment variable lets them through.
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(format!("off,{filter}")))
        .with_writer(std::io::stderr)
        .with_target(false)
        // A time finer than the operator's bucket would join log lines to what a network observer saw.
        .without_time()
        .with_ansi(false)
        // A log that cannot be written (a full disk under it, a reader that is gone) must not end who writes it.
        .log_internal_errors(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(command());
    // Blocking work under way is a rebuild whose client is gone.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    done
}

/// The system's host; with a kill point, over a disk that kills the process there.
pub fn host(kill_at: Option<&str>) -> Result<Host, Failure> {
    let Some(point) = kill_at else {
        return Ok(system::host());
    };
    let point: KillPoint = point
        .parse()
        .map_err(|_| Failure("the kill point is written as in index.sync:3:before".to_owned()))?;
    Ok(system::host_over(Arc::new(KillDisk::new(SystemDisk, point))))
}

/// First line of a passphrase file.
pub fn passphrase(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let bytes = std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|error| Failure(format!("cannot read the passphrase in {}: {error}", path.display())))?;
    first_line(&bytes).ok_or_else(|| {
        Failure(format!(
            "the first line of {} is empty: it must be the passphrase",
            path.display()
        ))
    })
}

/// What stands before the first line end, if anything does.
pub(super) fn first_line(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    (!line.is_empty()).then(|| Zeroizing::new(line.to_vec()))
}

/// A switch that turns true at SIGINT, at SIGTERM and, if asked for, at the end of standard input. A second signal ends the
/// process at once, as a kill would: what was acknowledged is durable all the same.
pub fn stop_on_signals(with_stdin: bool) -> watch::Sender<bool> {
    let (stop, _) = watch::channel(false);
    let switch = stop.clone();
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            tracing::error!("signals cannot be received");
            return;
        };
        let stdin_end = async {
            if with_stdin {
                let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = stdin_end => {}
        }
        switch.send_replace(true);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::warn!("told to stop a second time: ending at once");
        std::process::exit(1);
    });
    stop
}
