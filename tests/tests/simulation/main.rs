//! The seeded simulation: relay, two bridges and the world outside on one thread, with a clock, a network and disks
//! of their own, under faults; judged by the invariants of docs/ARCHITECTURE.md.
//!
//! ```text
//! cargo test --release -p postern-tests --test simulation -- [--seeds A..B] [--seed N [--trace]] [--steps [N]]
//! ```
//!
//! What runs is [`relay::run`] and [`smtp_bridge::bridge::run`] as they are. Everything that chance decides comes from
//! the seed, and each seed runs twice: both runs must agree in every octet on the wire and on the disks. A seed that
//! fails is printed with the command that repeats it. `--steps` fails each single operation of a short run instead: one
//! message out, one in, and every write, sync, rename, power supply and dial on the way, one a run.

mod faults;
mod judge;
mod machine;
mod mail;
mod net;
mod random;
mod sink;
mod trace;
mod world;

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use faults::Step;
use random::Random;
use trace::Trace;
use world::{REST_MAX, World};

/// Seeds without arguments, as in `cargo test`.
const SEEDS: std::ops::Range<u64> = 0..4;
/// Virtual time after which a run is given up: timers never end by themselves.
const RUN_MAX: Duration = Duration::from_secs(3 * 86_400);

struct Options {
    seeds: std::ops::Range<u64>,
    is_traced: bool,
    /// Instead of seeds: each step of a short run, or a single one.
    steps: Option<Option<u64>>,
}

fn options() -> Result<Option<Options>, String> {
    let mut options = Options {
        seeds: SEEDS,
        is_traced: false,
        steps: None,
    };
    let mut arguments = std::env::args().skip(1).peekable();
    let number = |text: Option<String>| {
        let text = text.ok_or("a number is missing")?;
        text.parse().map_err(|_| format!("{text} is no number"))
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seed" => {
                let seed: u64 = number(arguments.next())?;
                options.seeds = seed..seed + 1;
            }
            "--seeds" => {
                let range = arguments.next().ok_or("a range is missing")?;
                let (from, to) = range.split_once("..").ok_or("a range is written as in 0..200")?;
                options.seeds = number(Some(from.to_owned()))?..number(Some(to.to_owned()))?;
            }
            "--steps" => {
                let single = arguments.next_if(|next| !next.starts_with('-'));
                options.steps = Some(single.map(|single| number(Some(single))).transpose()?);
            }
            "--trace" => options.is_traced = true,
            // Lists and filters of the usual test harness: this is one test, called like its file.
            "--list" => {
                println!("simulation: test");
                return Ok(None);
            }
            option if option.starts_with('-') => {}
            filter if "simulation".contains(filter) => {}
            _ => return Ok(None),
        }
    }
    Ok(Some(options))
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("{sentence}");
            return ExitCode::from(2);
        }
    };
    let (failed, count, events) = match options.steps {
        None => {
            if !lies_are_noticed() {
                println!("FAILED: disks that lose what they said was durable pass for good ones");
                return ExitCode::FAILURE;
            }
            let run = |seed| twice(&|trace| Box::pin(live(seed, Disks::Good, trace)), options.is_traced);
            all(options.seeds.clone(), "--seed", &run)
        }
        Some(single) => {
            let steps = steps();
            let range = single.map_or(0..steps.len() as u64, |single| single..single + 1);
            let run = |index: u64| {
                let Some(step) = steps.get(index as usize) else {
                    return Outcome::failed("there is no such step");
                };
                let mut outcome = once(&|trace| Box::pin(live_short(Some(*step), trace)), options.is_traced);
                if !outcome.faults.is_empty() {
                    outcome.faults.insert(0, format!("{step:?}"));
                }
                outcome
            };
            all(range, "--steps", &run)
        }
    };
    println!("simulation: {count} runs, {events} events; {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Does all runs of a range, as many at a time as there are processors: how many failed, how many there were, events.
fn all(range: std::ops::Range<u64>, option: &str, run: &(impl Fn(u64) -> Outcome + Sync)) -> (u64, u64, u64) {
    let next = AtomicU64::new(range.start);
    let (failed, events) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= range.end {
                return;
            }
            let outcome = run(number);
            events.fetch_add(outcome.events.len() as u64, Ordering::Relaxed);
            if !outcome.faults.is_empty() {
                failed.fetch_add(1, Ordering::Relaxed);
                println!(
                    "FAILED; repeat with: {COMMAND} {option} {number} --trace\n  {}",
                    outcome.faults.join("\n  ")
                );
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    (
        failed.into_inner(),
        range.end.saturating_sub(range.start),
        events.into_inner(),
    )
}

const COMMAND: &str = "cargo test --release -p postern-tests --test simulation --";

struct Outcome {
    faults: Vec<String>,
    /// Sum over all events, and over what is on the disks at the end.
    sums: Vec<u64>,
    events: Vec<String>,
}

impl Outcome {
    fn failed(sentence: &str) -> Self {
        Outcome {
            faults: vec![sentence.to_owned()],
            sums: Vec::new(),
            events: Vec::new(),
        }
    }
}

/// A run under way, which ends in sums over what it leaves.
type Living = Pin<Box<dyn Future<Output = Vec<u64>>>>;

/// Does a run twice and compares.
fn twice(run: &dyn Fn(Trace) -> Living, is_traced: bool) -> Outcome {
    let mut first = once(run, is_traced);
    let mut second = once(run, false);
    if first.sums != second.sums {
        first.events.sort_unstable();
        second.events.sort_unstable();
        let mut pairs = first.events.iter().zip(&second.events);
        let parting = pairs.find(|(one, other)| one != other);
        first.faults.push(format!("two runs differ, first in {parting:?}"));
    }
    first
}

fn once(run: &dyn Fn(Trace) -> Living, is_traced: bool) -> Outcome {
    let live = std::panic::AssertUnwindSafe(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime needs nothing of the system");
        runtime.block_on(async {
            let trace = Trace::new(is_traced);
            let finished = tokio::time::timeout(RUN_MAX, run(trace.clone())).await;
            let sums = finished.unwrap_or_else(|_| {
                trace.fault("the run did not end".to_owned());
                Vec::new()
            });
            Outcome {
                faults: trace.faults(),
                sums: [vec![trace.sum()], sums].concat(),
                events: trace.events(),
            }
        })
    });
    std::panic::catch_unwind(live).unwrap_or_else(|_| Outcome::failed("the run panicked"))
}

/// What the machines of a run have for disks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disks {
    Good,
    /// Their syncs do nothing.
    Lying,
}

/// Whether the judge tells good disks from bad ones: the proof that it can fail a run at all.
fn lies_are_noticed() -> bool {
    // Not every seed cuts the power behind something that counts.
    const TRIES: u64 = 40;
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let noticed = (0..TRIES).any(|seed| {
        let outcome = once(&move |trace| Box::pin(live(seed, Disks::Lying, trace)), false);
        outcome.faults.iter().any(|fault| fault.contains("copies are there"))
    });
    std::panic::set_hook(quiet);
    noticed
}

/// The steps of the short run, each of which can fail.
fn steps() -> Vec<Step> {
    let counts = Arc::new(Mutex::new(Vec::new()));
    let found = counts.clone();
    let run = move |trace| -> Living {
        let found = found.clone();
        Box::pin(async move {
            let counts = live_short(None, trace).await;
            *found.lock().unwrap_or_else(PoisonError::into_inner) = counts;
            Vec::new()
        })
    };
    once(&run, false);
    let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    let (before, after) = counts.split_at(counts.len() / 2);
    Step::between(before, after)
}

/// One message out, one in, and one failure; how many operations there were before and after them.
async fn live_short(step: Option<Step>, trace: Trace) -> Vec<u64> {
    let mut random = Random::new(1);
    let world = match World::begin(trace.clone(), random.fork()).await {
        Ok(world) => Arc::new(world),
        Err(error) => {
            trace.fault(format!("the world could not be set up: {error}"));
            return Vec::new();
        }
    };
    let supervisor = tokio::spawn(faults::supervise(world.clone()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut counts = faults::operations(&world).await;
    if let Some(step) = step {
        step.arm(&world).await;
    }
    let mut sending = world.send_two(&mut random);
    while sending.join_next().await.is_some() {}
    if !world.rest(REST_MAX).await {
        trace.fault("the world did not come to rest".to_owned());
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    counts.extend(faults::operations(&world).await);
    faults::end(&world).await;
    judge::judge(&world).await;
    supervisor.abort();
    counts
}

/// One run: set up, traffic under faults, rest, judgement. What is on the disks at its end.
async fn live(seed: u64, disks: Disks, trace: Trace) -> Vec<u64> {
    let mut random = Random::new(seed);
    let world = match World::begin(trace.clone(), random.fork()).await {
        Ok(world) => Arc::new(world),
        Err(error) => {
            trace.fault(format!("the world could not be set up: {error}"));
            return Vec::new();
        }
    };
    if disks == Disks::Lying {
        faults::lie(&world).await;
    }
    let supervisor = tokio::spawn(faults::supervise(world.clone()));
    let span = random.millis(20_000, 240_000);
    let (messages, troubles) = (random.between(3, 14) as usize, random.below(9));
    world.sink.set_moody(troubles > 0);
    let mut sending = world.send_all(&mut random, messages, span);
    let reader = tokio::spawn(read_now_and_then(world.clone(), random.fork(), span));
    faults::happen(&world, &mut random, troubles, span).await;
    while let Some(sent) = sending.join_next().await {
        if sent.is_err() {
            trace.fault("a sender panicked".to_owned());
        }
    }
    let _ = reader.await;
    let most = match disks {
        Disks::Good => REST_MAX,
        // Some never come to rest, and what they lost is lost by then.
        Disks::Lying => Duration::from_secs(600),
    };
    if !world.rest(most).await {
        trace.fault("the world did not come to rest".to_owned());
    }
    judge::judge(&world).await;
    supervisor.abort();
    let mut sums = Vec::new();
    sums.push(world.relay.lock().await.finish().await);
    for person in &world.people {
        sums.push(person.machine.lock().await.finish().await);
    }
    sums
}

/// Looks into the INBOXes while things happen.
async fn read_now_and_then(world: Arc<World>, mut random: Random, span: Duration) {
    for _ in 0..4 {
        tokio::time::sleep(random.millis(0, span.as_millis() as u64 / 3)).await;
        world.inbox(random.below(2) as usize).await;
    }
}
