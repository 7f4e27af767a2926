//! The loop around one parser: time, memory, and what is left of a failure.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::Parser;
use crate::mutation::{INPUT_MAX, input};

/// Most that memory may grow at its peak, by all parsers that run at one time: 256 times the longest input.
const GROWTH_MAX: usize = 256 * INPUT_MAX;
/// Longest call. Generous, since tests are not optimised and share the machine; an input that costs the square of its
/// length takes minutes.
const CALL_MAX: Duration = Duration::from_secs(20);

/// Calls the parser until its time is over. The failure names the input and how to make it again.
pub(crate) fn run(parser: &Parser, corpus: &[Vec<u8>]) -> Result<(), String> {
    let (name, seed) = (parser.name, seed());
    let time = Duration::from_secs(setting("POSTERN_FUZZ_SECONDS").unwrap_or(3));
    let kept = Kept::new(name);
    let memory_before = *MEMORY_BEFORE.get_or_init(|| status("VmRSS"));
    let (start, mut calls, mut slowest) = (Instant::now(), 0, (Duration::ZERO, 0));
    while calls < corpus.len() as u64 || start.elapsed() < time {
        let bytes = input(seed, calls, corpus);
        kept.write(&bytes);
        let before = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| (parser.fuzz)(&bytes)));
        slowest = slowest.max((before.elapsed(), calls));
        let failure = match done {
            Err(_) => Some("panics"),
            Ok(()) => (slowest.0 > CALL_MAX).then_some("takes too long"),
        };
        if let Some(failure) = failure {
            let path = kept.path.display();
            return Err(format!("{name} {failure}: seed {seed}, call {calls}, input in {path}"));
        }
        calls += 1;
    }
    kept.remove();
    let growth = status("VmHWM").saturating_sub(memory_before);
    let (time, call) = slowest;
    println!("{name}: seed {seed}, {calls} calls, the slowest {call} with {time:?}, memory grew by {growth}");
    match growth < GROWTH_MAX {
        true => Ok(()),
        false => Err(format!("memory grew by {growth}")),
    }
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

#[test]
fn a_parser_that_panics_is_found_out_and_its_input_is_kept() {
    fn fails(bytes: &[u8]) -> bool {
        bytes.len() > 8 && bytes.windows(2).any(|pair| pair == b"((")
    }
    let parser = Parser {
        name: "planted",
        source: "",
        fuzz: |bytes| {
            if fails(bytes) {
                // As a panic, without the backtrace: making it takes more memory than any parser may.
                std::panic::resume_unwind(Box::new(()));
            }
        },
    };
    let failure = run(&parser, &[b"(seed)".to_vec()]).expect_err("found within its time");
    let (_, path) = failure.split_once("input in ").expect("it names the input");
    assert!(fails(&fs::read(path).expect("kept")), "the kept input fails again");
    fs::remove_file(path).expect("removed");
}
