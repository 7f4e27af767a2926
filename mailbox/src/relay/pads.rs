//! The pads of a relay's accounts, and the tags by which a first cell finds one.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use keypacks::Tag;
use keypacks::pad::{Direction, Half, PadError};

use super::RelayFiles;
use super::chains::KeptChains;
use super::rows::PADS;
use crate::StoreError;
use crate::disk::Disk;
use crate::index::View;
use crate::pad::{self, PadFile};
use crate::relay_store::{Account, IssueOrder, Issued, PadHit};

/// Every pad is open while the relay runs.
#[derive(Default)]
pub(super) struct Pads {
    by_account: HashMap<u64, Open>,
    by_tag: HashMap<Tag, (u64, u64)>,
}

struct Open {
    pad: Arc<PadFile>,
    tags: Vec<Tag>,
}

impl Pads {
    /// Opens the pads of all accounts that have one. One that does not open is left out: its account gets silence.
    pub(super) fn load(disk: &dyn Disk, data: &Path, read: &View<'_>) -> Result<Self, StoreError> {
        let mut pads = Self::default();
        let mut lost = 0;
        PADS.scan(read, (0, u64::MAX), |account, name| {
            match open(disk, data, &name).and_then(|pad| pads.put(account, pad)) {
                Ok(()) => {}
                Err(_) => lost += 1,
            }
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        if lost > 0 {
            tracing::error!(lost, "pads are missing or damaged: their accounts get no answer");
        }
        Ok(pads)
    }

    fn put(&mut self, account: u64, pad: PadFile) -> Result<(), StoreError> {
        let pad = Arc::new(pad);
        self.by_account.insert(account, Open { pad, tags: Vec::new() });
        self.renew(account)
    }

    /// Brings the tags of an account up to its pad.
    fn renew(&mut self, account: u64) -> Result<(), StoreError> {
        let Some(open) = self.by_account.get_mut(&account) else {
            return Err(StoreError::NoRow);
        };
        for tag in open.tags.drain(..) {
            self.by_tag.remove(&tag);
        }
        for (record, tag) in open.pad.tags().map_err(store_error)? {
            self.by_tag.insert(tag, (account, record));
            open.tags.push(tag);
        }
        Ok(())
    }
}

fn open(disk: &dyn Disk, data: &Path, name: &[u8; 16]) -> Result<PadFile, StoreError> {
    let pad = PadFile::open(disk, &pad::path(data, name), Direction::Down)?;
    if pad.made().name == *name {
        Ok(pad)
    } else {
        Err(StoreError::Corrupt)
    }
}

fn store_error(_: PadError) -> StoreError {
    StoreError::Unavailable
}

impl RelayFiles {
    pub(super) fn find_pad_hit(&self, tag: &Tag) -> Result<Option<PadHit>, StoreError> {
        let found = {
            let pads = self.shared.pads();
            pads.by_tag.get(tag).and_then(|(account, record)| {
                let open = pads.by_account.get(account)?;
                Some((*account, *record, Arc::clone(&open.pad)))
            })
        };
        let Some((account, record, pad)) = found else {
            return Ok(None);
        };
        let stand = self
            .shared
            .chains_of(account, KeptChains::stand, |live| live.link_keys)?;
        let live = stand.filter(|((floor, _, _), link_keys)| floor < link_keys);
        Ok(live.map(|((floor, _, _), _)| PadHit {
            account: Account(account),
            record,
            floor,
            pad,
        }))
    }

    /// Renews what [`Self::find_pad_hit`] knows.
    pub(super) fn renew_tags(&self, account: Account) {
        if self.shared.pads_mut().renew(account.0).is_err() {
            tracing::error!("the tags of a pad cannot be read: its account gets no answer");
        }
    }

    /// The pad's file is in place before its account is.
    pub(super) async fn issue_pad(
        &self,
        order: IssueOrder,
        name: [u8; 16],
        half: Option<Half>,
    ) -> Result<Issued, StoreError> {
        let pad = open(&*self.shared.disk, &self.shared.folder, &name)?;
        let is_taken = |open: &Open| open.pad.made().name == name;
        if self.shared.pads().by_account.values().any(is_taken) {
            return Err(StoreError::Invalid);
        }
        let issued = self.committer.run(move |stage, write| {
            let issued = stage.issue(write, &order, half.as_ref())?;
            PADS.put(write, issued.account.0, &name)?;
            stage.batch.is_on_pad();
            Ok(issued)
        });
        let issued = issued.await?;
        self.shared.pads_mut().put(issued.account.0, pad)?;
        Ok(issued)
    }

    /// Whether an account has a pad by its row, and none that opened.
    pub(super) fn pads_are_missing(&self) -> Result<bool, StoreError> {
        let mut missing = false;
        PADS.scan(&self.shared.base.view()?, (0, u64::MAX), |account, _| {
            missing |= !self.shared.pads().by_account.contains_key(&account);
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        Ok(missing)
    }

    /// Totals of what is left, both ways, over all pads: their number, and pad bytes.
    pub(super) fn pad_totals(&self) -> (u64, u64) {
        let pads = self.shared.pads();
        let left = pads
            .by_account
            .values()
            .flat_map(|open| open.pad.left_at_relay().map(pad::Left::pad_bytes));
        (pads.by_account.len() as u64, left.sum())
    }
}
