//! Which messages a command means.

use std::ops::Range;

use imap_codec::imap_types::sequence::{SeqOrUid, Sequence, SequenceSet};
use mailbox::holder_store::{Entries, Entry};

/// Messages of a view by position, counted from 0: ranges in order, apart from each other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Selection(Vec<Range<usize>>);

impl Selection {
    /// By sequence numbers. `None`: a number is above `exists` (RFC 3501 section 9, `seq-number`).
    ///
    /// `*` in an empty mailbox means no message: clients send `1:*` without looking first.
    pub(super) fn by_number(set: &SequenceSet, exists: usize) -> Option<Self> {
        let mut ranges = Vec::new();
        for (low, high) in bounds(set, exists as u64) {
            if high > exists as u64 {
                return None;
            }
            // Only `*` in an empty mailbox is 0.
            if high > 0 {
                ranges.push(low.max(1) as usize - 1..high as usize);
            }
        }
        Some(Self::of(ranges))
    }

    /// By sequence numbers; those above `exists` mean nothing.
    pub(super) fn by_number_within(set: &SequenceSet, exists: usize) -> Self {
        let clamp = |number: u64| number.min(exists as u64) as usize;
        Self::of(
            bounds(set, exists as u64)
                .map(|(low, high)| clamp(low.max(1) - 1)..clamp(high))
                .collect(),
        )
    }

    /// By UIDs; those that are not there mean nothing.
    pub(super) fn by_uid(set: &SequenceSet, entries: &Entries) -> Self {
        let last = entries.last().map_or(0, |entry| u64::from(entry.uid));
        let below = |uid: u64| entries.partition_point(|entry| u64::from(entry.uid) < uid);
        Self::of(
            bounds(set, last)
                .map(|(low, high)| below(low)..below(high + 1))
                .collect(),
        )
    }

    /// By positions.
    pub(super) fn of(mut ranges: Vec<Range<usize>>) -> Self {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup_by(|next, before| {
            let joined = next.start <= before.end;
            if joined {
                before.end = before.end.max(next.end);
            }
            joined
        });
        ranges.shrink_to_fit();
        Self(ranges)
    }

    /// The first position at or behind `from`.
    pub(super) fn next_from(&self, from: usize) -> Option<usize> {
        let range = self.0.get(self.0.partition_point(|range| range.end <= from))?;
        Some(range.start.max(from))
    }

    pub(super) fn contains(&self, position: usize) -> bool {
        self.next_from(position) == Some(position)
    }

    /// Those of the messages selected for which this holds.
    pub(super) fn filter(&self, entries: &Entries, holds: impl Fn(&Entry) -> bool) -> Self {
        let ranges = self.0.iter().flat_map(|range| {
            let within = range.clone().zip(entries.iter_from(range.start));
            within
                .filter(|(_, entry)| holds(entry))
                .map(|(position, _)| position..position + 1)
        });
        Self::of(ranges.collect())
    }

    /// UIDs of the messages selected, ascending.
    pub(super) fn uids(&self, entries: &Entries) -> Vec<u32> {
        let ranges = self.0.iter();
        let entries = ranges.flat_map(|range| entries.iter_from(range.start).take(range.len()));
        entries.map(|entry| entry.uid).collect()
    }

    /// All positions, in order.
    #[cfg(test)]
    pub(super) fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().cloned().flatten()
    }
}

/// The ranges of a set, each with its lower end first; `*` is `last`.
fn bounds(set: &SequenceSet, last: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
    let value = move |end: &SeqOrUid| match end {
        SeqOrUid::Value(number) => u64::from(number.get()),
        SeqOrUid::Asterisk => last,
    };
    set.0.as_ref().iter().map(move |sequence| match sequence {
        Sequence::Single(one) => (value(one), value(one)),
        Sequence::Range(a, b) => (value(a).min(value(b)), value(a).max(value(b))),
    })
}

#[cfg(test)]
mod tests {
    use mailbox::holder_store::Flags;

    use super::*;

    fn set(text: &str) -> SequenceSet {
        SequenceSet::try_from(text).expect("a sequence set")
    }

    fn entries(uids: &[u32]) -> Entries {
        uids.iter()
            .map(|&uid| Entry {
                uid,
                flags: Flags(0),
                size: 0,
                internal_date: 0,
                modseq: u64::from(uid),
            })
            .collect()
    }

    #[test]
    fn numbers_select_what_exists_and_nothing_else() {
        let cases = [
            ("1:*", 3, Some(vec![0, 1, 2])),
            ("*", 3, Some(vec![2])),
            ("3:1,2", 3, Some(vec![0, 1, 2])),
            ("1,3", 3, Some(vec![0, 2])),
            ("4", 3, None),
            ("2:4294967295", 3, None),
            ("*", 0, Some(vec![])),
            ("1:*", 0, None),
            ("1", 0, None),
        ];
        for (text, exists, expected) in cases {
            let selected = Selection::by_number(&set(text), exists).map(|found| found.positions().collect::<Vec<_>>());
            assert_eq!(selected, expected, "{text} of {exists}");
        }
        let within: Vec<_> = Selection::by_number_within(&set("2:9,12"), 3).positions().collect();
        assert_eq!(within, [1, 2]);
    }

    #[test]
    fn uids_select_what_is_there() {
        let cases: [(&str, &[usize]); 6] = [
            ("1:*", &[0, 1, 2]),
            ("559:*", &[2]),
            ("*:559", &[2]),
            ("6:19", &[]),
            ("20,5", &[0, 1]),
            ("*", &[2]),
        ];
        for (text, expected) in cases {
            let found: Vec<_> = Selection::by_uid(&set(text), &entries(&[5, 20, 30]))
                .positions()
                .collect();
            assert_eq!(found, expected, "{text}");
        }
        assert_eq!(
            Selection::by_uid(&set("1:*,4294967295"), &Entries::default()),
            Selection::default()
        );
    }

    #[test]
    fn stepping_and_asking_agree_with_listing() {
        let selection = Selection::by_number(&set("2,4:6,9"), 10).expect("in range");
        let listed: Vec<_> = selection.positions().collect();
        assert_eq!(
            listed,
            (0..10)
                .filter(|&position| selection.contains(position))
                .collect::<Vec<_>>()
        );
        assert_eq!(selection.next_from(6), Some(8));
        assert_eq!(selection.next_from(9), None);
    }

    #[test]
    fn what_is_selected_is_narrowed_and_named() {
        let entries = entries(&[5, 20, 30, 40]);
        let selection = Selection::by_number(&set("1:2,4"), 4).expect("in range");
        assert_eq!(selection.uids(&entries), [5, 20, 40]);
        let later = selection.filter(&entries, |entry| entry.modseq > 5);
        assert_eq!(later.uids(&entries), [20, 40]);
        assert_eq!(later.next_from(2), Some(3));
    }
}
