//! What a holder's store holds, in memory: the picture that readers see and that the next commit starts from.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::index::View;
use keypacks::Tag;
use keypacks::chain::{BoxChain, BoxStep, LinkChain};
use ledger::Onward;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::folders;
use super::parcels::{Parcel, moved};
use super::roots::{PostChain, Root};
use super::rows::{
    CARRIED, DEPOSITS, DepositRow, GAPS, GapRow, MISSING, ONWARD, OUTBOX, OutboxEntry, PARCEL_POSITION, PARCELS,
    ParcelEntry, ParcelPosition, SHARED_BELOW, STATE, State, UNCONFIRMED, UnconfirmedRow, read_aliases,
};
use super::shelf::Shelf;
use super::stage::Chains;
use crate::StoreError;
use crate::holder_store::{FolderId, Folders, HolderAlias, OutboxRow, OutboxState, PendingDeposit, Snapshot};
use crate::slab::RecordNumber;
use crate::tables::{Single, Table};

/// One consistent picture. A commit works on a copy, which shares with the last picture what it does not change.
#[derive(Clone)]
pub(super) struct Books {
    pub(super) state: State,
    pub(super) onward: Arc<Onward>,
    pub(super) outbox: Arc<BTreeMap<u64, Arc<Row>>>,
    /// Counts up with every change of the outbox, while the process lives.
    pub(super) outbox_version: u64,
    /// Rows with a lower number were there when another copy of this store went on from it.
    pub(super) shared_below: u64,
    pub(super) deposits: Arc<BTreeMap<u64, Arc<Deposit>>>,
    pub(super) gaps: Arc<BTreeMap<u64, Arc<Gap>>>,
    pub(super) unconfirmed: Arc<BTreeMap<u64, UnconfirmedRow>>,
    /// Tags of deposits that came without a link.
    pub(super) carried: Arc<BTreeMap<u64, [u8; 16]>>,
    /// Gaps that the next link is to ask for.
    pub(super) missing: Arc<BTreeMap<u64, ()>>,
    pub(super) folders: Arc<Folders>,
    /// Messages of the folders.
    pub(super) boxes: Arc<BTreeMap<FolderId, Arc<Snapshot>>>,
    /// Counts up with every change of folders or messages, while the process lives.
    pub(super) mail_version: u64,
    pub(super) aliases: Arc<Vec<HolderAlias>>,
    /// Stands at `state.link.base`.
    pub(super) link: Arc<LinkChain>,
    /// Stands at `state.collect_from`.
    pub(super) post: Arc<PostChain>,
    pub(super) root: Root,
    /// Record of the request for a new root, while there is one.
    pub(super) rerooting: Option<RecordNumber>,
    /// Stands at `parcel_position.next`. A store of before there were parcels has none.
    pub(super) parcel: Option<Arc<BoxChain>>,
    pub(super) parcel_position: ParcelPosition,
    /// Without a receipt, by index.
    pub(super) parcels: Arc<BTreeMap<u64, Arc<Parcel>>>,
}

/// A row of the outbox and the record of its key.
pub(super) struct Row {
    pub(super) record: RecordNumber,
    pub(super) entry: OutboxEntry,
    pub(super) hold: Hold,
}

/// Who has taken a queued row: the sender or `cancel`, never both.
///
/// A row that was loaded from the disk counts as sent: the process that died may have sent it.
pub(super) struct Hold(AtomicU8);

const UNTOUCHED: u8 = 0;
const SENT: u8 = 1;
const CANCELLED: u8 = 2;

impl Hold {
    pub(super) fn untouched() -> Self {
        Self(AtomicU8::new(UNTOUCHED))
    }

    fn sent() -> Self {
        Self(AtomicU8::new(SENT))
    }

    /// For the sender, before the row leaves. `false`: it is being cancelled.
    pub(super) fn send(&self) -> bool {
        self.claim(SENT)
    }

    /// For `cancel`, before the row is dropped. `false`: it may have been sent.
    pub(super) fn cancel(&self) -> bool {
        self.claim(CANCELLED)
    }

    /// The commit that was to drop the row has certainly not happened: it may be sent after all.
    pub(super) fn withdraw_cancel(&self) {
        let _ = self
            .0
            .compare_exchange(CANCELLED, UNTOUCHED, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Neither was it sent by this process, nor is it being cancelled.
    pub(super) fn is_untouched(&self) -> bool {
        self.0.load(Ordering::SeqCst) == UNTOUCHED
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst) == CANCELLED
    }

    /// It was, or was loaded from the disk.
    pub(super) fn is_sent(&self) -> bool {
        self.0.load(Ordering::SeqCst) == SENT
    }

    fn claim(&self, by: u8) -> bool {
        match self
            .0
            .compare_exchange(UNTOUCHED, by, Ordering::SeqCst, Ordering::SeqCst)
        {
            Ok(_) => true,
            Err(claimed) => claimed == by,
        }
    }
}

/// A collected deposit and the record of its key.
pub(super) struct Deposit {
    pub(super) record: RecordNumber,
    pub(super) row: DepositRow,
}

/// A post index that was passed over, and the record of its key.
pub(super) struct Gap {
    pub(super) record: RecordNumber,
    pub(super) row: GapRow,
}

impl Books {
    /// Reads everything. The chains may lag: they are hashed forward to where the index stands.
    /// Returns with them the records that rows name: all others are free.
    /// `versions`: of outbox and mail, above those that were ever shown.
    pub(super) fn load(
        shelf: &Shelf,
        read: &View<'_>,
        slot: &Chains,
        versions: (u64, u64),
    ) -> Result<(Self, BTreeSet<RecordNumber>), StoreError> {
        let state = STATE.get(read, Single)?.ok_or(StoreError::Corrupt)?;
        let aliases = read_aliases(read)?;
        let mut used = BTreeSet::new();
        let (Chains { link, post, parcel, .. }, root) = shelf.chains_of_root(read, slot)?;
        used.extend(root.fresh);
        let rerooting = shelf.rerooting(read)?;
        used.extend(rerooting);
        let mut outbox = BTreeMap::new();
        for (number, record, entry) in shelf.all::<OutboxEntry>(read, &OUTBOX)? {
            used.insert(record);
            outbox.insert(
                number,
                Arc::new(Row {
                    record,
                    entry,
                    hold: Hold::sent(),
                }),
            );
        }
        let mut deposits = BTreeMap::new();
        for (index, record, row) in shelf.all::<DepositRow>(read, &DEPOSITS)? {
            used.insert(record);
            deposits.insert(index, Arc::new(Deposit { record, row }));
        }
        let mut gaps = BTreeMap::new();
        for (index, record, row) in shelf.all::<GapRow>(read, &GAPS)? {
            used.insert(record);
            gaps.insert(index, Arc::new(Gap { record, row }));
        }
        let mut parcels = BTreeMap::new();
        for (index, record, entry) in shelf.all::<ParcelEntry>(read, &PARCELS)? {
            used.insert(record);
            parcels.insert(index, Arc::new(Parcel { record, entry }));
        }
        let onward = ONWARD.get(read, Single)?.unwrap_or_default();
        let parcel_position = PARCEL_POSITION.get(read, Single)?.unwrap_or_default();
        let parcel = parcel
            .as_ref()
            .map(|chain| moved(chain.duplicate(), parcel_position.next));
        let (folders, boxes) = folders::load(shelf, read, &state, versions.1, &mut used)?;
        let books = Books {
            onward: Arc::new(Onward {
                version: onward.version,
                elsewhere: onward.elsewhere,
                domains: onward.domains.into_iter().collect(),
            }),
            link: Arc::new(link_at(&link, state.link.base)?),
            post: Arc::new(post_at(&post, state.collect_from)?),
            root,
            rerooting,
            parcel: parcel.transpose()?.map(Arc::new),
            parcel_position,
            parcels: Arc::new(parcels),
            outbox: Arc::new(outbox),
            outbox_version: versions.0,
            shared_below: SHARED_BELOW.get(read, Single)?.unwrap_or_default(),
            deposits: Arc::new(deposits),
            gaps: Arc::new(gaps),
            unconfirmed: Arc::new(rows_of(read, &UNCONFIRMED)?),
            carried: Arc::new(rows_of(read, &CARRIED)?),
            missing: Arc::new(rows_of(read, &MISSING)?),
            folders: Arc::new(folders),
            boxes: Arc::new(boxes),
            mail_version: versions.1,
            aliases: Arc::new(aliases),
            state,
        };
        Ok((books, used))
    }

    /// The highest change number up to which all answers are held: below the first that still waits for one, and
    /// not above what the relay is known to have answered, since it takes a claim above that for a restored relay's.
    pub(super) fn acknowledged(&self) -> u64 {
        let waiting = self.queued().map(|(_, row)| row.entry.change.seq).min();
        waiting.map_or(self.state.answered_seq, |seq| self.state.answered_seq.min(seq - 1))
    }

    /// Rows that wait for an answer.
    pub(super) fn queued(&self) -> impl Iterator<Item = (u64, &Arc<Row>)> {
        let queued = |(_, row): &(&u64, &Arc<Row>)| row.entry.state == OutboxState::Queued;
        self.outbox.iter().filter(queued).map(|(number, row)| (*number, row))
    }

    /// Rows refused for want of value, in order of their numbers.
    pub(super) fn held(&self) -> Vec<(u64, Arc<Row>)> {
        let held = |(_, row): &(&u64, &Arc<Row>)| matches!(row.entry.state, OutboxState::Held(_));
        let mut rows: Vec<_> = self
            .outbox
            .iter()
            .filter(held)
            .map(|(number, row)| (*number, Arc::clone(row)))
            .collect();
        rows.sort_by_key(|(_, row)| row.entry.change.seq);
        rows
    }

    /// A row as the outside sees it.
    pub(super) fn show(&self, number: u64, row: &Row) -> OutboxRow {
        let OutboxEntry {
            change,
            state,
            price,
            label,
            taken,
            ..
        } = &row.entry;
        let mut change = change.clone();
        // Not part of the change's digest: every try acknowledges as much as it can.
        change.acknowledged = self.acknowledged();
        let is_shared = change.seq < self.shared_below;
        OutboxRow {
            row: number,
            change,
            may_have_left: row.hold.is_sent(),
            is_shared,
            state: *state,
            price: *price,
            label: label.clone(),
            taken: *taken,
        }
    }

    /// Moves the link chain to the base that the state names.
    pub(super) fn follow_link(&mut self) -> Result<(), StoreError> {
        self.link = Arc::new(link_at(&self.link, self.state.link.base)?);
        Ok(())
    }
}

impl Deposit {
    pub(super) fn show(&self, index: u64) -> PendingDeposit {
        let DepositRow {
            wrap_digest,
            dek,
            body_digest,
            length,
            kilobytes,
            alias,
            ..
        } = &self.row;
        PendingDeposit {
            index,
            wrap_digest: *wrap_digest,
            dek: keypacks::deposit::Dek::new(dek.duplicate()),
            body_digest: *body_digest,
            length: *length,
            kilobytes: *kilobytes,
            alias: *alias,
        }
    }
}

impl Gap {
    pub(super) fn step(&self, index: u64) -> BoxStep {
        BoxStep {
            index,
            key: self.row.key.duplicate(),
            tag: Tag(self.row.tag),
        }
    }
}

/// A copy of the chain, hashed forward.
pub(super) fn link_at(chain: &LinkChain, index: u64) -> Result<LinkChain, StoreError> {
    let mut chain = LinkChain::from_state(chain.index(), chain.state().duplicate());
    chain.forward_to(index).map_err(|_| StoreError::Corrupt)?;
    Ok(chain)
}

/// A copy of the chain, hashed forward.
pub(super) fn post_at(chain: &PostChain, index: u64) -> Result<PostChain, StoreError> {
    let mut chain = chain.duplicate();
    chain.forward_to(index).map_err(|_| StoreError::Corrupt)?;
    Ok(chain)
}

fn rows_of<R: Serialize + DeserializeOwned>(
    read: &View<'_>,
    table: &Table<u64, R>,
) -> Result<BTreeMap<u64, R>, StoreError> {
    let mut rows = BTreeMap::new();
    table.scan(read, (0, u64::MAX), |index, row| {
        rows.insert(index, row);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(rows)
}
