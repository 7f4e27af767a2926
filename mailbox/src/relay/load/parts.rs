//! Reading in parts on all cores, with the results in order.

use std::num::NonZero;
use std::sync::mpsc;
use std::thread;

use crate::StoreError;

/// From so many rows on, threads are worth their start. What is smaller, as in a simulation, runs on the caller's alone.
const ROWS_MIN: u64 = 2_048;
/// Most threads, besides the caller's.
const THREADS_MAX: usize = 8;

/// Reads the parts `0..parts` and gives their rows to `join` in the order of the parts: what comes of it does not depend
/// on the threads. `parts` are of about the same size; no thread is more than two of them ahead of the caller.
pub(super) fn in_order<T: Send>(
    parts: u64,
    read: impl Fn(u64) -> Result<Vec<T>, StoreError> + Sync,
    mut join: impl FnMut(T),
) -> Result<(), StoreError> {
    if parts == 0 {
        return Ok(());
    }
    let first = read(0)?;
    let threads = match (first.len() as u64).saturating_mul(parts) {
        ROWS_MIN.. => thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX),
        _ => 1,
    };
    first.into_iter().for_each(&mut join);
    if threads == 1 {
        for part in 1..parts {
            read(part)?.into_iter().for_each(&mut join);
        }
        return Ok(());
    }
    let read = &read;
    thread::scope(|scope| {
        let mut results = Vec::with_capacity(threads);
        for thread in 1..=threads as u64 {
            let (sender, receiver) = mpsc::sync_channel(1);
            let name = thread::Builder::new().name("load".to_owned());
            let run = move || {
                for part in (thread..parts).step_by(threads) {
                    // The caller has met an error and waits for this thread alone.
                    if sender.send(read(part)).is_err() {
                        break;
                    }
                }
            };
            name.spawn_scoped(scope, run)?;
            results.push(receiver);
        }
        for part in 1..parts {
            let thread = usize::try_from((part - 1) % threads as u64).expect("below the number of threads");
            let rows = results[thread].recv().expect("a thread ends with its last part");
            rows?.into_iter().for_each(&mut join);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_come_in_order_whatever_reads_them(parts in 0u64..40, rows in prop_oneof![0u64..9, 1_000u64..2_000]) {
            let mut joined = Vec::new();
            let read = |part| Ok((part * rows..(part + 1) * rows).collect());
            in_order(parts, read, |row| joined.push(row)).expect("no part fails");
            prop_assert!(joined.into_iter().eq(0..parts * rows));
        }

        #[test]
        fn the_first_error_in_order_is_the_answer(fails in 0u64..40, fails_too in 0u64..40, rows in prop_oneof![Just(1usize), Just(1_000)]) {
            let read = |part| match part {
                part if part == fails => Err(StoreError::Corrupt),
                part if part == fails_too => Err(StoreError::Invalid),
                part => Ok(vec![part; rows]),
            };
            let mut joined = 0;
            let answer = in_order(40, read, |_| joined += 1);
            let first = if fails <= fails_too { StoreError::Corrupt } else { StoreError::Invalid };
            prop_assert_eq!(answer, Err(first));
            prop_assert_eq!(joined, fails.min(fails_too) as usize * rows);
        }
    }
}
