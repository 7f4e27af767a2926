//! What the relay tells of the account's other devices, and of packs that it procured.

use std::ops::ControlFlow;
use std::sync::Arc;

use keypacks::reroot;

use super::rows::{PROCUREMENTS, UNCONFIRMED, UnconfirmedRow};
use super::stage::HolderStage;
use crate::StoreError;
use crate::devices::Event;
use crate::holder_store::{Flags, FolderId, HolderAlias, Procurement};
use crate::index::Write;

impl HolderStage {
    /// See [`crate::HolderStore::take_events`].
    pub(super) fn take_events(
        &mut self,
        write: &Write<'_>,
        index: u64,
        events: &[Event],
        notices: &[Vec<u8>],
        now: u64,
    ) -> Result<(), StoreError> {
        if self.books.unconfirmed.contains_key(&index) {
            return Ok(());
        }
        let deposit = self.books.deposits.get(&index).cloned().ok_or(StoreError::NoRow)?;
        // First, since they may be refused for want of room.
        for notice in notices {
            self.append(write, FolderId::INBOX, notice, &[], Flags::default(), now)?;
        }
        self.tell_time(now);
        for event in events {
            let (number, address, open) = match event {
                Event::Alias { number, address, open } => (number, address, open),
                event => {
                    self.note_procured(write, event)?;
                    continue;
                }
            };
            let known = self.books.aliases.iter().find(|known| known.address == *address);
            let alias = match known {
                Some(known) => HolderAlias {
                    number: *number,
                    open: *open,
                    ..known.clone()
                },
                None => HolderAlias {
                    open: *open,
                    ..HolderAlias::new(*number, address.clone())
                },
            };
            match self.put_alias(write, &alias) {
                // No relay lets an account have so many: what it says beyond is not followed.
                Ok(()) | Err(StoreError::Busy) => {}
                Err(error) => return Err(error),
            }
        }
        let row = UnconfirmedRow {
            wrap_digest: deposit.row.wrap_digest,
            // It is in no folder.
            uid: 0,
        };
        UNCONFIRMED.put(write, index, &row)?;
        Arc::make_mut(&mut self.books.unconfirmed).insert(index, row);
        self.drop_deposit(write, index, &deposit)?;
        self.put_state(write)
    }

    /// Keeps what came of an order that this store knows. A relay that tells of others fills nothing with them, and what was
    /// made is neither taken back by its word nor replaced.
    pub(super) fn note_procured(&mut self, write: &Write<'_>, event: &Event) -> Result<(), StoreError> {
        let (order, row) = match event {
            Event::Procured {
                order,
                ciphertext,
                confirm,
            } => {
                let (ciphertext, confirm) = (ciphertext.clone(), *confirm);
                (order, Procurement::Made { ciphertext, confirm })
            }
            Event::NotProcured { order } => (order, Procurement::Returned),
            _ => return Ok(()),
        };
        if matches!(&row, Procurement::Made { ciphertext, .. } if ciphertext.len() > reroot::CIPHERTEXT) {
            return Ok(());
        }
        match PROCUREMENTS.get(write, *order)? {
            None | Some(Procurement::Made { .. }) => Ok(()),
            Some(Procurement::Ordered | Procurement::Returned) => PROCUREMENTS.put(write, *order, &row),
        }
    }

    /// How many orders are kept.
    pub(super) fn procurements(&self, write: &Write<'_>) -> Result<usize, StoreError> {
        let mut count = 0;
        PROCUREMENTS.scan(write, ([0; 32], [255; 32]), |_, _| {
            count += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(count)
    }
}
