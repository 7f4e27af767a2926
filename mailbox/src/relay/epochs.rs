//! Epoch keys: what the spool's private parts are sealed under besides their slab records.
//!
//! ```text
//! epochs, slot 0   hour u64 | number u64 | key 32 | previous number u64 (0: none) | previous key 32
//! epochs, slot 1   generation of the store u64, once it was restored: here, since no copy of the database has it
//! ```
//!
//! A new epoch begins with both keys in the slot; the stragglers are sealed again under the new key, which touches no
//! body; when that is durable, the slot is written without the old key. A crash in between leaves both, and the
//! next upkeep goes on.

use crate::index::Write;
use keypacks::Secret;
use zeroize::Zeroizing;

use super::live::{Effect, Epoch, Epochs};
use super::queue::Queued;
use super::rows::{SPOOL, SpoolRow};
use super::stage::RelayStage;
use crate::StoreError;
use crate::entropy::Entropy;
use crate::slots::{SlotFile, SlotUpdate};
use crate::vault::{self, slab_key};

/// Bytes of the one slot.
pub(super) const SLOT_BYTES: usize = 256;
const SLOT: u64 = 0;
const GENERATION_SLOT: u64 = 1;

/// Reads the epochs, or begins the first.
pub(super) fn load(slots: &mut SlotFile, commit: u64, entropy: &dyn Entropy) -> Result<Epochs, StoreError> {
    if let Some(slot) = slots.read(SLOT)? {
        return parse(&slot.state).ok_or(StoreError::Corrupt);
    }
    let first = Epoch {
        number: 1,
        key: Secret::from_fn(|key| entropy.fill(key)),
    };
    let epochs = Epochs {
        hour: 0,
        current: Some(first),
        previous: None,
    };
    write(slots, commit, &epochs)?;
    Ok(epochs)
}

/// How often the database was restored, or a higher number that says when: 0 is never.
pub(super) fn generation(slots: &mut SlotFile) -> Result<u64, StoreError> {
    let Some(slot) = slots.read(GENERATION_SLOT)? else {
        return Ok(0);
    };
    let bytes = slot.state.as_slice().try_into().map_err(|_| StoreError::Corrupt)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Begins a generation above the last, and above those of a folder that was itself put back to an older state: it is no
/// lower than the time.
pub(super) fn raise_generation(slots: &mut SlotFile, now: u64) -> Result<u64, StoreError> {
    let next = generation(slots)?.saturating_add(1).max(now);
    slots.write(&[SlotUpdate {
        slot: GENERATION_SLOT,
        commit: 0,
        state: Zeroizing::new(next.to_le_bytes().to_vec()),
    }])?;
    Ok(next)
}

fn write(slots: &mut SlotFile, commit: u64, epochs: &Epochs) -> Result<(), StoreError> {
    let mut state = Zeroizing::new(Vec::with_capacity(88));
    state.extend_from_slice(&epochs.hour.to_le_bytes());
    for epoch in [&epochs.current, &epochs.previous] {
        let number = epoch.as_ref().map_or(0, |epoch| epoch.number);
        state.extend_from_slice(&number.to_le_bytes());
        state.extend_from_slice(epoch.as_ref().map_or(&[0; 32], |epoch| epoch.key.expose()));
    }
    slots.write(&[SlotUpdate {
        slot: SLOT,
        commit,
        state,
    }])
}

fn parse(state: &[u8]) -> Option<Epochs> {
    let (hour, rest) = state.split_first_chunk::<8>()?;
    let ([current, previous], []) = rest.as_chunks::<40>() else {
        return None;
    };
    let epoch = |bytes: &[u8; 40]| {
        let (number, key) = bytes.split_first_chunk::<8>()?;
        let number = u64::from_le_bytes(*number);
        (number > 0)
            .then(|| {
                Some(Epoch {
                    number,
                    key: Secret::from_slice(key)?,
                })
            })
            .flatten()
    };
    Some(Epochs {
        hour: u64::from_le_bytes(*hour),
        current: Some(epoch(current)?),
        previous: epoch(previous),
    })
}

impl RelayStage {
    /// Begins an epoch if `hour` is behind the current one's. `false`: not due, or the one before is still being left.
    pub(super) fn begin_epoch(&mut self, hour: u64) -> Result<bool, StoreError> {
        let mut next = {
            let epochs = &self.shared.live().epochs;
            if epochs.previous.is_some() || hour <= epochs.hour {
                return Ok(false);
            }
            let current = epochs.current();
            let previous = Epoch {
                number: current.number,
                key: current.key.duplicate(),
            };
            Epochs {
                hour,
                current: None,
                previous: Some(previous),
            }
        };
        let number = next.previous.as_ref().map_or(1, |previous| previous.number + 1);
        let entropy = &self.shared.base.entropy;
        next.current = Some(Epoch {
            number,
            key: Secret::from_fn(|key| entropy.fill(key)),
        });
        write(&mut self.epochs, self.commit, &next)?;
        self.shared.live_mut().epochs = next;
        Ok(true)
    }

    /// Seals the private parts of deliveries again under the current epoch. Returns how many were there. What is damaged and
    /// opens no more leaves the epoch as well: else its key would be kept for all that was ever sealed under it.
    pub(super) fn rewrap(&mut self, write: &Write<'_>, ids: &[u64]) -> Result<u64, StoreError> {
        let (mut count, mut damaged) = (0, 0_u64);
        for &id in ids {
            let mut row = match SPOOL.get(write, id) {
                Ok(Some(row)) => row,
                Ok(None) => continue,
                Err(StoreError::Corrupt) => {
                    self.lose(id);
                    continue;
                }
                Err(error) => return Err(error),
            };
            match self.sealed_anew(&row) {
                Ok(private) => row.private = private,
                Err(StoreError::Corrupt) => damaged += 1,
                Err(error) => return Err(error),
            }
            row.epoch = self.shared.live().epochs.current().number;
            SPOOL.put(write, id, &row)?;
            self.batch.effects.push(Effect::Queued {
                id,
                queued: queued(&row),
            });
            count += 1;
        }
        if damaged > 0 {
            tracing::error!(damaged, "deliveries are damaged on the disk and do not open");
        }
        Ok(count)
    }

    fn sealed_anew(&self, row: &SpoolRow) -> Result<Vec<u8>, StoreError> {
        let record = self.shared.base.slab.read(row.record)?;
        let (old, new) = {
            let epochs = &self.shared.live().epochs;
            let old = epochs.key(row.epoch).ok_or(StoreError::Corrupt)?;
            (slab_key(old, &record), slab_key(&epochs.current().key, &record))
        };
        let private = vault::open(&old, &row.private)?;
        Ok(vault::seal(&new, &private, &*self.shared.base.entropy))
    }

    /// Erases the key of the epoch before, if every delivery has durably left it.
    pub(super) fn end_epoch(&mut self) -> Result<bool, StoreError> {
        let shared = std::sync::Arc::clone(&self.shared);
        let mut live = shared.live_mut();
        let current = live.epochs.current().number;
        if live.epochs.previous.is_none() || !live.queue.outside_epoch(current, 1).is_empty() {
            return Ok(false);
        }
        let kept = live.epochs.previous.take();
        if let Err(error) = write(&mut self.epochs, self.commit, &live.epochs) {
            // The slot may still hold it: memory says so, and the next upkeep tries again.
            live.epochs.previous = kept;
            return Err(error);
        }
        Ok(true)
    }
}

/// A row as the queue knows it.
pub(super) fn queued(row: &SpoolRow) -> Queued {
    Queued {
        due: row.due,
        attempts: row.tries.count(),
        accepted: row.accepted,
        kilobytes: row.kilobytes,
        epoch: row.epoch,
        mix: None,
    }
}
