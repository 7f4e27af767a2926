//! Everything that is kept, read and recomputed: what `posternd verify` reports. Nothing is repaired.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::RelayFiles;
use super::load::forward;
use super::rows::{ACCOUNTS, PARCELS};
use super::stage::RelayStage;
use crate::StoreError;
use crate::bodies::BODIES;
use crate::index::{Source, Write};
use crate::overlay::{KEY_MAX, RowName};
use crate::relay_store::{DeliveryId, Verified};

/// Accounts whose slots are read between two commits.
const SLICE: usize = 256;

impl RelayFiles {
    /// All that can be read beside the committer.
    pub(super) fn run_verify(&self) -> Result<Verified, StoreError> {
        let mut verified = self.verify_rows()?;
        self.verify_spool(&mut verified);
        if self.pads_are_missing()? {
            verified.finding("a pad of an account is missing or damaged");
        }
        let log = self.shared.base.log.verify()?;
        (verified.records, verified.bytes) = (log.records, log.bytes);
        for _ in 0..log.unreadable {
            verified.finding("a record of the log does not open, or a body in it is not what was written");
        }
        Ok(verified)
    }

    /// The slots, which are the committer's: some between two commits.
    pub(super) async fn run_verify_slots(&self, verified: &mut Verified) -> Result<(), StoreError> {
        let accounts: Vec<u64> = self.shared.live().accounts.iter().map(|(account, _)| account).collect();
        for slice in accounts.chunks(SLICE) {
            let slice = slice.to_vec();
            verified.slots += slice.len() as u64;
            let check = move |stage: &mut RelayStage, write: &Write<'_>| stage.verify_slots(write, &slice);
            let bad = self.committer.run(check).await?;
            if bad > 0 {
                verified.finding("key slots are lost or contradict the database");
            }
        }
        Ok(())
    }

    /// The audit, every row, and where every body lies.
    fn verify_rows(&self) -> Result<Verified, StoreError> {
        let base = &self.shared.base;
        let before = base.index.commit_number();
        let mut verified = Verified {
            audit: self.run_audit()?,
            ..Verified::default()
        };
        let snapshot = base.snapshot()?;
        let bounds = (RowName::new(0, &[]), RowName::new(u8::MAX, &[u8::MAX; KEY_MAX]));
        let (Some(first), Some(last)) = bounds else {
            return Err(StoreError::Invalid);
        };
        // A row that does not open ends the walk with an error of its own.
        snapshot.rows(first, last, &mut |_, _| {
            verified.rows += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        let mut living: BTreeMap<u32, u64> = BTreeMap::new();
        BODIES.scan(&snapshot, (0, u64::MAX), |_, row| {
            verified.bodies += 1;
            *living.entry(row.location.segment).or_default() += u64::from(row.location.length);
            Ok(ControlFlow::Continue(()))
        })?;
        let counted = base.log.living();
        if base.index.commit_number() == before && counted != living {
            verified.finding("the space that bodies take differs from what the log counts");
        }
        Ok(verified)
    }

    /// Every delivery opens.
    fn verify_spool(&self, verified: &mut Verified) {
        let queued: Vec<u64> = self.shared.live().queue.all().map(|(id, _)| id).collect();
        for id in queued {
            if self.read_delivery(DeliveryId(id)).is_err() {
                verified.finding("a delivery of the spool does not open");
            }
        }
    }
}

impl RelayStage {
    /// How many of these accounts have no slot that can be hashed forward to their row.
    fn verify_slots(&mut self, write: &Write<'_>, accounts: &[u64]) -> Result<u64, StoreError> {
        let mut bad = 0;
        for account in accounts {
            let Some(row) = ACCOUNTS.get(write, *account)? else {
                continue;
            };
            let parcels = PARCELS.get(write, *account)?.unwrap_or_default();
            let fits = match self.slots.read(*account) {
                Ok(Some(slot)) => {
                    let root = self.shared.load_root(write, *account)?;
                    slot.commit <= self.commit && forward(&slot, &row, parcels.base, root.as_ref()).is_some()
                }
                Ok(None) | Err(StoreError::Corrupt) => false,
                Err(error) => return Err(error),
            };
            bad += u64::from(!fits);
        }
        Ok(bad)
    }
}
