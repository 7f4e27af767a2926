//! The messages of a folder in UID order, so that a copy of them costs little and shares what did not change.

use std::ops::Index;
use std::sync::Arc;

use super::Entry;

/// Most messages of a chunk: what one changed message copies.
const CHUNK: usize = 256;

/// Messages of a folder in UID order. A clone shares them; a change copies a few hundred at most.
#[derive(Clone, Default)]
pub struct Entries {
    /// None is empty.
    chunks: Vec<Chunk>,
    length: usize,
}

#[derive(Clone)]
struct Chunk {
    /// Position of its first message.
    from: usize,
    entries: Arc<Vec<Entry>>,
}

impl Entries {
    /// Number of messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The message at a position; the first is at 0.
    #[must_use]
    pub fn get(&self, position: usize) -> Option<&Entry> {
        let chunk = &self.chunks[self.chunk_of(position)?];
        chunk.entries.get(position - chunk.from)
    }

    /// The message of the lowest UID.
    #[must_use]
    pub fn first(&self) -> Option<&Entry> {
        self.get(0)
    }

    /// The message of the highest UID.
    #[must_use]
    pub fn last(&self) -> Option<&Entry> {
        self.chunks.last()?.entries.last()
    }

    /// All messages in order.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter {
            chunks: self.chunks.iter(),
            front: [].iter(),
            back: [].iter(),
            left: self.length,
        }
    }

    /// The messages from a position on; none if it is behind the end.
    #[must_use]
    pub fn iter_from(&self, position: usize) -> Iter<'_> {
        let Some(at) = self.chunk_of(position) else {
            return Iter::default();
        };
        let chunk = &self.chunks[at];
        Iter {
            chunks: self.chunks[at + 1..].iter(),
            front: chunk.entries[position - chunk.from..].iter(),
            back: [].iter(),
            left: self.length - position,
        }
    }

    /// Position of the first message for which `is_before` is false, which must be true for those before it and for none
    /// behind it.
    #[must_use]
    pub fn partition_point(&self, mut is_before: impl FnMut(&Entry) -> bool) -> usize {
        let later = self.chunks.partition_point(|chunk| is_before(&chunk.entries[0]));
        let Some(chunk) = later.checked_sub(1).map(|at| &self.chunks[at]) else {
            return 0;
        };
        chunk.from + chunk.entries.partition_point(is_before)
    }

    /// Position of the message of a UID.
    #[must_use]
    pub fn position_of(&self, uid: u32) -> Option<usize> {
        let position = self.partition_point(|entry| entry.uid < uid);
        self.get(position).filter(|entry| entry.uid == uid).map(|_| position)
    }

    /// The message of a UID.
    #[must_use]
    pub fn by_uid(&self, uid: u32) -> Option<&Entry> {
        self.get(self.position_of(uid)?)
    }

    /// How many messages at the front are the same in both for certain, found without a look at them: most of those that
    /// are the same, where one came from the other by a few changes.
    #[must_use]
    pub fn shared_front(&self, other: &Self) -> usize {
        let pairs = self.chunks.iter().zip(&other.chunks);
        let shared = pairs.take_while(|(one, two)| Arc::ptr_eq(&one.entries, &two.entries));
        shared.map(|(chunk, _)| chunk.entries.len()).sum()
    }

    /// Adds a message of a higher UID than all others.
    pub fn push(&mut self, entry: Entry) {
        debug_assert!(self.last().is_none_or(|last| last.uid < entry.uid));
        match self.chunks.last_mut().filter(|chunk| chunk.entries.len() < CHUNK) {
            Some(chunk) => Arc::make_mut(&mut chunk.entries).push(entry),
            None => {
                let mut entries = Vec::with_capacity(CHUNK);
                entries.push(entry);
                let entries = Arc::new(entries);
                let from = self.length;
                self.chunks.push(Chunk { from, entries });
            }
        }
        self.length += 1;
    }

    /// Changes a message, which must keep its UID. `None`: there is none at this position.
    pub fn change<T>(&mut self, position: usize, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let at = self.chunk_of(position)?;
        let chunk = &mut self.chunks[at];
        let entry = Arc::make_mut(&mut chunk.entries).get_mut(position - chunk.from)?;
        Some(change(entry))
    }

    /// Removes the messages that `is_kept` is false for.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&Entry) -> bool) {
        let mut chunks: Vec<Chunk> = Vec::with_capacity(self.chunks.len());
        let mut from = 0;
        for chunk in self.chunks.drain(..) {
            let kept: Vec<bool> = chunk.entries.iter().map(&mut is_kept).collect();
            let entries = if kept.contains(&false) {
                let kept = chunk.entries.iter().zip(kept).filter(|(_, kept)| *kept);
                Arc::new(kept.map(|(entry, _)| entry.clone()).collect())
            } else {
                chunk.entries
            };
            if entries.is_empty() {
                continue;
            }
            let length = entries.len();
            // Neighbours that have become small are one, so that there are never many more chunks than needed.
            match chunks
                .last_mut()
                .filter(|last| last.entries.len() + length <= CHUNK / 2)
            {
                Some(last) => Arc::make_mut(&mut last.entries).extend(entries.iter().cloned()),
                None => chunks.push(Chunk { from, entries }),
            }
            from += length;
        }
        (self.chunks, self.length) = (chunks, from);
    }

    /// Index of the chunk that a position is in.
    fn chunk_of(&self, position: usize) -> Option<usize> {
        if position >= self.length {
            return None;
        }
        self.chunks
            .partition_point(|chunk| chunk.from <= position)
            .checked_sub(1)
    }
}

impl Index<usize> for Entries {
    type Output = Entry;

    fn index(&self, position: usize) -> &Entry {
        self.get(position).expect("the position is that of a message")
    }
}

impl Extend<Entry> for Entries {
    fn extend<I: IntoIterator<Item = Entry>>(&mut self, entries: I) {
        entries.into_iter().for_each(|entry| self.push(entry));
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut all = Self::default();
        all.extend(entries);
        all
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        self.length == other.length && self.iter().eq(other)
    }
}

impl Eq for Entries {}

impl std::fmt::Debug for Entries {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self).finish()
    }
}

impl<'e> IntoIterator for &'e Entries {
    type Item = &'e Entry;
    type IntoIter = Iter<'e>;

    fn into_iter(self) -> Iter<'e> {
        self.iter()
    }
}

/// Messages in order: [`Entries::iter`].
#[derive(Clone, Default)]
pub struct Iter<'e> {
    chunks: std::slice::Iter<'e, Chunk>,
    front: std::slice::Iter<'e, Entry>,
    back: std::slice::Iter<'e, Entry>,
    left: usize,
}

impl<'e> Iterator for Iter<'e> {
    type Item = &'e Entry;

    fn next(&mut self) -> Option<&'e Entry> {
        loop {
            if let Some(entry) = self.front.next() {
                self.left -= 1;
                return Some(entry);
            }
            match self.chunks.next() {
                Some(chunk) => self.front = chunk.entries.iter(),
                None => self.front = std::mem::replace(&mut self.back, [].iter()),
            }
            if self.front.len() == 0 {
                return None;
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.back.next_back() {
                self.left -= 1;
                return Some(entry);
            }
            match self.chunks.next_back() {
                Some(chunk) => self.back = chunk.entries.iter(),
                None => self.back = std::mem::replace(&mut self.front, [].iter()),
            }
            if self.back.len() == 0 {
                return None;
            }
        }
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::holder_store::Flags;

    fn entry(uid: u32) -> Entry {
        Entry {
            uid,
            flags: Flags::default(),
            size: uid,
            internal_date: 0,
            modseq: 1,
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u16),
        Change(u16),
        Retain(u16, u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1..700u16).prop_map(Step::Push),
            2 => any::<u16>().prop_map(Step::Change),
            2 => (1..5u16, 0..5u16).prop_map(|(modulus, rest)| Step::Retain(modulus, rest)),
            1 => (200..900u16, 0..900u16).prop_map(|(modulus, rest)| Step::Retain(modulus, rest)),
        ]
    }

    proptest! {
        #[test]
        fn they_are_what_a_vector_would_be(steps in prop::collection::vec(step(), 1..12), ends in prop::collection::vec(any::<bool>(), 0..40)) {
            let (mut entries, mut model) = (Entries::default(), Vec::<Entry>::new());
            let mut next = 1;
            for step in steps {
                let (before, model_before) = (entries.clone(), model.clone());
                match step {
                    Step::Push(count) => for _ in 0..count {
                        entries.push(entry(next));
                        model.push(entry(next));
                        next += 1;
                    },
                    Step::Change(at) => {
                        let position = usize::from(at) % (model.len() + 1);
                        let changed = entries.change(position, |entry| entry.flags = Flags::SEEN);
                        prop_assert_eq!(changed.is_some(), position < model.len());
                        if let Some(entry) = model.get_mut(position) {
                            entry.flags = Flags::SEEN;
                        }
                    }
                    Step::Retain(modulus, rest) => {
                        let is_kept = |entry: &Entry| entry.uid % u32::from(modulus) != u32::from(rest);
                        entries.retain(is_kept);
                        model.retain(is_kept);
                    }
                }
                prop_assert!(before.iter().eq(&model_before), "a clone does not move");
                let shared = before.shared_front(&entries);
                prop_assert!(model_before[..shared] == model[..shared]);
                prop_assert!(entries.iter().eq(&model) && entries.iter().rev().eq(model.iter().rev()));
                prop_assert_eq!((entries.len(), entries.first(), entries.last()), (model.len(), model.first(), model.last()));
                for position in (0..model.len() + 2).step_by(37) {
                    prop_assert_eq!(entries.get(position), model.get(position));
                    prop_assert!(entries.iter_from(position).eq(model.iter().skip(position)));
                    prop_assert_eq!(entries.iter_from(position).len(), model.len().saturating_sub(position));
                }
                for uid in (0..next + 2).step_by(41) {
                    let position = model.binary_search_by_key(&uid, |entry| entry.uid);
                    prop_assert_eq!(entries.position_of(uid), position.ok());
                    prop_assert_eq!(entries.by_uid(uid), position.ok().map(|at| &model[at]));
                    prop_assert_eq!(entries.partition_point(|entry| entry.uid < uid), position.unwrap_or_else(|at| at));
                }
                let most = 2 * model.len() / (CHUNK / 2) + 2;
                prop_assert!(entries.chunks.len() <= most, "{} chunks for {}", entries.chunks.len(), model.len());
            }
            let (mut walk, mut model) = (entries.iter(), model.iter());
            for from_front in ends {
                let (found, expected) = match from_front {
                    true => (walk.next(), model.next()),
                    false => (walk.next_back(), model.next_back()),
                };
                prop_assert_eq!((found, walk.len()), (expected, model.len()));
            }
        }
    }

    #[test]
    fn a_changed_message_copies_its_neighbours_only() {
        let before: Entries = (1..=100_000).map(entry).collect();
        let mut after = before.clone();
        after.change(50_000, |entry| entry.flags = Flags::SEEN).expect("there");
        let pairs = before.chunks.iter().zip(&after.chunks);
        let copied = pairs.filter(|(one, two)| !Arc::ptr_eq(&one.entries, &two.entries));
        assert_eq!(copied.count(), 1);
    }
}
