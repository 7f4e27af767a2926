//! The loop around one parser: time, memory, and what is left of a failure.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::mutation::{INPUT_MAX, input};
use crate::{Parser, corpus};

/// Most that memory may grow at its peak, by all parsers that run at one time: 256 times the longest input.
const GROWTH_MAX: usize = 256 * INPUT_MAX;
/// Longest call. Generous, since tests are not optimised and share the machine; an input that costs the square of its
/// length takes minutes.
const CALL_MAX: Duration = Duration::from_secs(20);

/// Calls the parser until its time is over.
pub(crate) fn run(parser: &Parser) {
    let (seconds, seed) = (setting("POSTERN_FUZZ_SECONDS").unwrap_or(3), seed());
    let corpus = corpus::seeds(parser.name);
    let kept = Kept::new(parser.name);
    let memory_before = *MEMORY_BEFORE.get_or_init(|| status("VmRSS"));
    let (start, mut calls, mut slowest) = (Instant::now(), 0, (Duration::ZERO, 0));
    while calls < corpus.len() as u64 || start.elapsed() < Duration::from_secs(seconds) {
        let bytes = input(seed, calls, &corpus);
        kept.write(&bytes);
        let before = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| (parser.fuzz)(&bytes)));
        slowest = slowest.max((before.elapsed(), calls));
        let remark = format!("seed {seed}, call {calls}, input in {}", kept.path.display());
        assert!(done.is_ok(), "{}: {remark}", parser.name);
        assert!(slowest.0 < CALL_MAX, "{} took {:?}: {remark}", parser.name, slowest.0);
        calls += 1;
    }
    kept.remove();
    let growth = status("VmHWM").saturating_sub(memory_before);
    let (name, (time, call)) = (parser.name, slowest);
    println!("{name}: seed {seed}, {calls} calls, the slowest {call} with {time:?}, memory grew by {growth}");
    assert!(growth < GROWTH_MAX, "memory grew by {growth}");
}

/// Memory before the first parser ran.
static MEMORY_BEFORE: OnceLock<usize> = OnceLock::new();

fn seed() -> u64 {
    let of_this_run = || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    setting("POSTERN_FUZZ_SEED").unwrap_or_else(of_this_run)
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A figure of /proc/self/status, in bytes.
fn status(name: &str) -> usize {
    let text = fs::read_to_string("/proc/self/status").expect("Linux says how a process is");
    let line = text
        .lines()
        .find(|line| line.starts_with(name))
        .expect("a figure that it knows");
    let kilobytes = line
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|figure| figure.parse::<usize>().ok());
    kilobytes.expect("a number of kB") * 1_024
}

/// The input under way, in a file that survives whatever way the process ends: an abort, a stack that overflows, a loop
/// without end.
struct Kept {
    path: PathBuf,
    file: File,
}

impl Kept {
    fn new(name: &str) -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .parent()
            .expect("the target folder");
        let folder = target.join("fuzz-failures");
        fs::create_dir_all(&folder).expect("the target folder can be written");
        let path = folder.join(name);
        let file = File::create(&path).expect("the target folder can be written");
        Kept { path, file }
    }

    fn write(&self, bytes: &[u8]) {
        let written = self.file.set_len(0).and_then(|()| self.file.write_all_at(bytes, 0));
        written.expect("the target folder can be written");
    }

    fn remove(self) {
        fs::remove_file(&self.path).expect("the file that was made");
    }
}
