//! Rows that the log holds and the index does not yet: what was committed lately, in memory.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// Longest key of a row, in bytes.
pub(crate) const KEY_MAX: usize = 32;
/// What a row costs besides its own bytes: name, pointers, its share of the tree.
const ROW_OVERHEAD: usize = 96;

/// Table and key of a row, in the order of the index: by table, then by the bytes of the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RowName {
    table: u8,
    length: u8,
    // Filled up with zeros: compared before the length, this is the order of the bytes themselves.
    bytes: [u8; KEY_MAX],
}

impl Ord for RowName {
    /// By words instead of bytes: trees of rows do little else, and the first word mostly decides.
    fn cmp(&self, other: &Self) -> Ordering {
        self.table
            .cmp(&other.table)
            .then_with(|| self.words().cmp(other.words()))
            .then_with(|| self.length.cmp(&other.length))
    }
}

impl PartialOrd for RowName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl RowName {
    /// `None`: the key is longer than any table's.
    pub(crate) fn new(table: u8, key: &[u8]) -> Option<Self> {
        let mut bytes = [0; KEY_MAX];
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        Some(Self {
            table,
            bytes,
            length: u8::try_from(key.len()).ok()?,
        })
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        let (words, _) = self.bytes.as_chunks();
        words.iter().map(|word| u64::from_be_bytes(*word))
    }

    pub(crate) fn table(&self) -> u8 {
        self.table
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// As the index stores it: the table's number, then the key.
    pub(crate) fn stored(&self) -> Vec<u8> {
        let mut stored = Vec::with_capacity(1 + usize::from(self.length));
        stored.push(self.table);
        stored.extend_from_slice(self.key());
        stored
    }

    pub(crate) fn from_stored(stored: &[u8]) -> Option<Self> {
        let (table, key) = stored.split_first()?;
        Self::new(*table, key)
    }
}

/// A row's bytes; `None`: it was removed.
pub(crate) type Value = Option<Arc<[u8]>>;

/// Changed rows by name.
#[derive(Clone, Default)]
pub(crate) struct Overlay {
    rows: BTreeMap<RowName, Value>,
    bytes: usize,
}

impl Overlay {
    /// What this layer says of a row; `None`: nothing.
    pub(crate) fn get(&self, name: &RowName) -> Option<&Value> {
        self.rows.get(name)
    }

    pub(crate) fn set(&mut self, name: RowName, value: Value) {
        let cost = |value: &Value| ROW_OVERHEAD + value.as_ref().map_or(0, |bytes| bytes.len());
        self.bytes += cost(&value);
        if let Some(before) = self.rows.insert(name, value) {
            self.bytes -= cost(&before);
        }
    }

    /// Takes over a newer layer.
    pub(crate) fn merge(&mut self, newer: Overlay) {
        if self.rows.is_empty() {
            *self = newer;
            return;
        }
        for (name, value) in newer.rows {
            self.set(name, value);
        }
    }

    pub(crate) fn range(&self, first: RowName, last: Bound<RowName>) -> Range<'_> {
        self.rows.range((Bound::Included(first), last))
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&RowName, &Value)> {
        self.rows.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// About how much memory it takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Rows of one layer in order.
pub(crate) type Range<'o> = std::collections::btree_map::Range<'o, RowName, Value>;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_are_in_the_order_of_what_is_stored(
            a in (0u8..3, proptest::collection::vec(0u8..3, 0..5)),
            b in (0u8..3, proptest::collection::vec(0u8..3, 0..5)),
        ) {
            let [x, y] = [&a, &b].map(|(table, key)| RowName::new(*table, key).expect("short"));
            prop_assert_eq!(x.cmp(&y), x.stored().cmp(&y.stored()));
            prop_assert_eq!(RowName::from_stored(&x.stored()), Some(x));
        }

        #[test]
        fn the_size_is_that_of_what_is_there(changes in proptest::collection::vec((0u8..4, 0usize..9), 0..40)) {
            let mut overlay = Overlay::default();
            for (key, length) in changes {
                let value = (length > 0).then(|| vec![key; length].into());
                overlay.set(RowName::new(0, &[key]).expect("short"), value);
            }
            let mut again = Overlay::default();
            overlay.iter().for_each(|(name, value)| again.set(*name, value.clone()));
            prop_assert_eq!(overlay.bytes(), again.bytes());
        }
    }

    #[test]
    fn a_key_that_is_too_long_has_no_name() {
        assert!(RowName::new(1, &[0; KEY_MAX + 1]).is_none());
    }
}
