//! The end of a try on its way to the disk.

use std::time::Duration;

use mailbox::StoreError;
use mailbox::relay_store::Outcome;

use super::LATER_S;

/// Pause before the store is told again how a delivery ended, when it refused.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// How often the store is offered a receipt again that it did not take.
const RECEIPT_AGAIN: u32 = 3;

/// Records how a try ended, and does not rest before it is: what the next host has is not sent to it again because the
/// disk is full. A failure that cannot be told for now (its report takes room) is one more try later; a success is told if the
/// store takes the receipt within a few seconds. Returns whether it ended as it was to, not with another try instead of a failure.
pub(super) async fn record<F: Future<Output = Result<(), StoreError>>>(
    mut outcome: Outcome,
    now: impl Fn() -> u64,
    finish: impl Fn(Outcome) -> F,
) -> bool {
    let mut is_told = false;
    let mut is_as_meant = true;
    let mut receipt_again = RECEIPT_AGAIN;
    loop {
        let again = match &outcome {
            Outcome::Receipted { report } if receipt_again > 0 => {
                receipt_again -= 1;
                Outcome::Receipted {
                    report: report.duplicate(),
                }
            }
            // What the next host has is gone, though nobody can be told so now.
            Outcome::Delivered | Outcome::Receipted { .. } => Outcome::Delivered,
            // The next try tells of the delay, if this cannot be told now.
            Outcome::Retry { at } | Outcome::Delayed { at, .. } => Outcome::Retry { at: *at },
            Outcome::Failed { .. } => Outcome::Retry { at: now() + LATER_S },
        };
        let is_failure = matches!(outcome, Outcome::Failed { .. });
        let Err(error) = finish(outcome).await else {
            return is_as_meant;
        };
        is_as_meant &= !is_failure;
        if !std::mem::replace(&mut is_told, true) {
            tracing::error!(%error, "the outcome of a delivery could not be recorded; trying again each second");
        }
        tokio::time::sleep(TELL_AGAIN).await;
        outcome = again;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use mailbox::relay_store::DepositOrder;

    use super::*;

    /// What is told to a store that refuses twice.
    async fn told(outcome: Outcome) -> Vec<String> {
        told_after(2, outcome).await
    }

    /// What is told to a store that refuses so often.
    async fn told_after(refusals: usize, outcome: Outcome) -> Vec<String> {
        let told = RefCell::new(Vec::new());
        let finish = |outcome| {
            told.borrow_mut().push(match outcome {
                Outcome::Delivered => "delivered".to_owned(),
                Outcome::Receipted { .. } => "receipted".to_owned(),
                Outcome::Retry { at } => format!("again at {at}"),
                Outcome::Delayed { at, .. } => format!("delayed to {at}"),
                Outcome::Failed { .. } => "failed".to_owned(),
            });
            let result = if told.borrow().len() > refusals {
                Ok(())
            } else {
                Err(StoreError::Full)
            };
            std::future::ready(result)
        };
        record(outcome, || 1_000, finish).await;
        told.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_delivered_is_told_to_the_store_until_it_takes_it() {
        assert_eq!(told(Outcome::Delivered).await, ["delivered"; 3]);
        assert_eq!(told(Outcome::Retry { at: 7 }).await, ["again at 7"; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_receipt_outlasts_a_short_trouble_of_the_store() {
        let receipted = || Outcome::Receipted {
            report: DepositOrder {
                recipients: Vec::new(),
                body: Vec::new(),
                dek: keypacks::deposit::Dek::new(keypacks::Secret::new([0; 32])),
                length: 0,
                kilobytes: 1,
                day: 0,
            },
        };
        assert_eq!(told(receipted()).await, ["receipted"; 3]);
        let long = told_after(5, receipted()).await;
        assert_eq!(
            long,
            [
                "receipted",
                "receipted",
                "receipted",
                "receipted",
                "delivered",
                "delivered"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_cannot_be_told_is_one_more_try_later() {
        let failed = told(Outcome::Failed { report: None }).await;
        assert_eq!(failed, ["failed", "again at 1600", "again at 1600"]);
        let delayed = told(Outcome::Delayed { at: 7, report: None }).await;
        assert_eq!(delayed, ["delayed to 7", "again at 7", "again at 7"]);
    }
}
