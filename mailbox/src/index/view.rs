//! Looking at rows: what the batch under way changed, over what is being written, recent, frozen and redb.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLockReadGuard};

use super::{Index, State, Table};
use crate::StoreError;
use crate::overlay::{Overlay, RowName, Value};
use crate::vault::Vault;

/// Rows as they are at one commit.
pub(crate) struct View<'i> {
    pub(super) index: &'i Index,
    pub(super) vault: &'i Vault,
    pub(super) layers: Layers<'i>,
    pub(super) table: Option<Table>,
    /// Set when the database that this looks at has been replaced: its failures say nothing of the new one.
    pub(super) severed: Option<Arc<AtomicBool>>,
}

pub(super) enum Layers<'i> {
    Shared(RwLockReadGuard<'i, State>),
    Owned(Overlay, Option<Arc<Overlay>>, u64),
}

/// Layers over those of the last commit, newest first.
type Above<'o> = [Option<&'o Overlay>; 2];

/// What readers see above the last commit.
const NOTHING: Above<'static> = [None, None];

/// What a scan calls with the name and the bytes of each row.
pub(crate) type Visit<'v> = dyn FnMut(&RowName, &[u8]) -> Result<std::ops::ControlFlow<()>, StoreError> + 'v;

/// Rows that can be read.
pub(crate) trait Source {
    fn row(&self, name: &RowName) -> Result<Value, StoreError>;
    /// Visits the rows from `first` to `last`, both included, in order, until `visit` breaks.
    fn rows(&self, first: RowName, last: RowName, visit: &mut Visit<'_>) -> Result<(), StoreError>;
    /// The last row from `first` to `last`, both included.
    fn last(&self, first: RowName, last: RowName) -> Result<Option<RowName>, StoreError>;
}

impl View<'_> {
    /// Number of the last commit that is seen.
    pub(crate) fn commit(&self) -> u64 {
        match &self.layers {
            Layers::Shared(state) => state.commit,
            Layers::Owned(_, _, commit) => *commit,
        }
    }

    /// Tells the keeper of an error of the disk, unless this looks at a database of the past.
    fn noting<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let is_past = self
            .severed
            .as_ref()
            .is_some_and(|severed| severed.load(Ordering::SeqCst));
        if is_past { result } else { self.index.noting(result) }
    }

    /// Newest first.
    fn layers(&self) -> [Option<&Overlay>; 2] {
        match &self.layers {
            Layers::Shared(state) => [Some(&state.recent), state.frozen.as_deref()],
            Layers::Owned(recent, frozen, _) => [Some(recent), frozen.as_deref()],
        }
    }

    fn row_under(&self, above: Above<'_>, name: &RowName) -> Result<Value, StoreError> {
        match self.row_in_memory(above, name) {
            Some(value) => Ok(value),
            None => self.stored_row(name),
        }
    }

    /// What the layers in memory say of a row; `None`: nothing.
    fn row_in_memory(&self, above: Above<'_>, name: &RowName) -> Option<Value> {
        let mut layers = above.into_iter().chain(self.layers()).flatten();
        layers.find_map(|layer| layer.get(name).cloned())
    }

    /// What redb has of a row.
    fn stored_row(&self, name: &RowName) -> Result<Value, StoreError> {
        let Some(table) = &self.table else { return Ok(None) };
        let stored = name.stored();
        let found = self.noting(table.get(&stored[..]).map_err(StoreError::from))?;
        found
            .map(|sealed| self.vault.open_row(&stored, sealed.value()))
            .transpose()
    }

    fn rows_under(
        &self,
        above: Above<'_>,
        (first, last): (RowName, RowName),
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        use std::ops::{Bound, ControlFlow};
        let layers = above.into_iter().chain(self.layers()).flatten();
        let mut layers: Vec<_> = layers
            .map(|layer| layer.range(first, Bound::Included(last)).peekable())
            .collect();
        let (low, high) = (first.stored(), last.stored());
        let table = self.table.as_ref();
        let mut stored = match table
            .map(|table| table.range::<&[u8]>(&low[..]..=&high[..]))
            .transpose()
        {
            Ok(rows) => rows,
            Err(error) => return self.noting(Err(error.into())),
        };
        let mut next = || -> Result<_, StoreError> {
            let Some(row) = stored.as_mut().and_then(|rows| rows.next()) else {
                return Ok(None);
            };
            let (key, value) = self.noting(row.map_err(StoreError::from))?;
            let name = RowName::from_stored(key.value()).ok_or(StoreError::Corrupt)?;
            Ok(Some((name, value)))
        };
        let mut below = next()?;
        loop {
            let named = layers.iter_mut().filter_map(|rows| rows.peek().map(|(name, _)| **name));
            let Some(name) = named.chain(below.as_ref().map(|(name, _)| *name)).min() else {
                return Ok(());
            };
            let mut newest = None;
            for rows in &mut layers {
                if let Some((_, value)) = rows.next_if(|(other, _)| **other == name) {
                    newest = newest.or(Some(value));
                }
            }
            let under = match &below {
                Some((other, _)) if *other == name => std::mem::replace(&mut below, next()?),
                _ => None,
            };
            let flow = match (newest, under) {
                (Some(None), _) | (None, None) => ControlFlow::Continue(()),
                (Some(Some(plain)), _) => visit(&name, plain)?,
                (None, Some((_, sealed))) => visit(&name, &self.vault.open_row(&name.stored(), sealed.value())?)?,
            };
            if flow.is_break() {
                return Ok(());
            }
        }
    }

    fn last_under(&self, above: Above<'_>, (first, last): (RowName, RowName)) -> Result<Option<RowName>, StoreError> {
        use std::ops::Bound;
        let low = first.stored();
        let mut end = Bound::Included(last);
        loop {
            let layers = above.into_iter().chain(self.layers()).flatten();
            let in_memory = layers.filter_map(|layer| layer.range(first, end).next_back().map(|(name, _)| *name));
            let high = match &end {
                Bound::Included(name) | Bound::Excluded(name) => name.stored(),
                Bound::Unbounded => return Err(StoreError::Corrupt),
            };
            let below = match &self.table {
                None => None,
                Some(table) => {
                    let bounds = match end {
                        Bound::Excluded(_) => (Bound::Included(&low[..]), Bound::Excluded(&high[..])),
                        _ => (Bound::Included(&low[..]), Bound::Included(&high[..])),
                    };
                    let row = table.range::<&[u8]>(bounds).map(|mut rows| rows.next_back());
                    let row = row.map_err(StoreError::from);
                    let row = self.noting(row.and_then(|row| Ok(row.transpose()?)))?;
                    row.map(|(key, _)| RowName::from_stored(key.value()).ok_or(StoreError::Corrupt))
                        .transpose()?
                }
            };
            let Some(name) = in_memory.chain(below).max() else {
                return Ok(None);
            };
            if self.row_under(above, &name)?.is_some() {
                return Ok(Some(name));
            }
            if name == first {
                return Ok(None);
            }
            end = Bound::Excluded(name);
        }
    }
}

impl Source for View<'_> {
    fn row(&self, name: &RowName) -> Result<Value, StoreError> {
        self.row_under(NOTHING, name)
    }

    fn rows(&self, first: RowName, last: RowName, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.rows_under(NOTHING, (first, last), visit)
    }

    fn last(&self, first: RowName, last: RowName) -> Result<Option<RowName>, StoreError> {
        self.last_under(NOTHING, (first, last))
    }
}

/// The batch under way: rows changed in memory, over what is being written and the last commit.
pub struct Write<'i> {
    pub(super) view: View<'i>,
    /// What the batch before changed, while it is being written.
    pub(super) written: Option<Arc<Overlay>>,
    pub(super) batch: RefCell<Overlay>,
    /// Rows as redb has them, so that each is found and opened once however often a batch asks.
    pub(super) stored: RefCell<BTreeMap<RowName, Value>>,
    pub(super) _under_way: UnderWay,
}

/// That a batch is under way on this thread, which must look at rows through it alone: another look would wait for whoever waits
/// for the batch to end.
pub(super) struct UnderWay(());

#[cfg(debug_assertions)]
thread_local! {
    static UNDER_WAY: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl UnderWay {
    pub(super) fn begin() -> Self {
        #[cfg(debug_assertions)]
        UNDER_WAY.set(UNDER_WAY.get() + 1);
        Self(())
    }

    /// Panics where assertions are on and a batch is under way on this thread.
    pub(super) fn assert_none() {
        #[cfg(debug_assertions)]
        assert_eq!(UNDER_WAY.get(), 0, "a batch looks at rows through itself");
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        UNDER_WAY.set(UNDER_WAY.get() - 1);
    }
}

impl<'i> Write<'i> {
    /// The rows as the last commit left them: without those that are being written.
    pub(crate) fn before(&self) -> &View<'i> {
        &self.view
    }
}

impl Write<'_> {
    fn above<'w>(&'w self, batch: &'w Overlay) -> Above<'w> {
        [Some(batch), self.written.as_deref()]
    }

    pub(crate) fn set(&self, name: RowName, value: Value) {
        self.batch.borrow_mut().set(name, value);
    }

    /// About how much memory the changes take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.batch.borrow().bytes()
    }

    /// What was changed. The view ends: commits no longer wait for it.
    pub(crate) fn into_rows(self) -> Overlay {
        self.batch.into_inner()
    }
}

impl Source for Write<'_> {
    fn row(&self, name: &RowName) -> Result<Value, StoreError> {
        if let Some(value) = self.view.row_in_memory(self.above(&self.batch.borrow()), name) {
            return Ok(value);
        }
        if let Some(value) = self.stored.borrow().get(name) {
            return Ok(value.clone());
        }
        let value = self.view.stored_row(name)?;
        self.stored.borrow_mut().insert(*name, value.clone());
        Ok(value)
    }

    fn rows(&self, first: RowName, last: RowName, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.view
            .rows_under(self.above(&self.batch.borrow()), (first, last), visit)
    }

    fn last(&self, first: RowName, last: RowName) -> Result<Option<RowName>, StoreError> {
        self.view.last_under(self.above(&self.batch.borrow()), (first, last))
    }
}
