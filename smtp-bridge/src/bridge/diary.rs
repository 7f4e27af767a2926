//! What the bridge remembers beside the store: value and keys day by day, and which notices its user has had.
//!
//! It names nobody and no message. It lies in a file of its own, sealed under a key of the store; a lost or damaged one
//! costs a plot and repeats a notice.

use std::io;
use std::path::Path;

use mailbox::HolderStore;
use mailbox::holder_store::ValueMirror;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::net::Host;
use crate::sealed_file::SealedFile;

const FILE: &str = "diary";
const PURPOSE: &str = "bridge/diary";
/// The version that is written. Version 1 did not know of the pool.
const VERSION: u8 = 2;
/// Days that are remembered.
const DAYS_MAX: usize = 400;
/// Largest file that is read, in bytes.
const BYTES_MAX: u64 = 64 * 1024;

/// What was last heard on a day.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Day {
    /// Days since 1970-01-01 UTC.
    pub(super) day: u32,
    /// All debits until then, in µtok.
    pub(super) debits: u64,
    /// µtok left.
    pub(super) balance: u64,
    /// Link keys left.
    pub(super) keys: u64,
}

/// Causes that the user was told of, each until it is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) low_balance: bool,
    pub(super) few_keys: bool,
    pub(super) unreachable: bool,
    pub(super) retention: bool,
}

/// The diary as it is written.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Diary {
    /// In order of days.
    pub(super) days: Vec<Day>,
    pub(super) told: Told,
    /// UTC second at which a link was last seen to stand; 0 is never.
    pub(super) linked: u64,
    /// Whether the relay behind an entry has a pool, as it last said.
    pub(super) pool: Option<bool>,
}

impl Diary {
    /// Reads the diary in `dir`; one that is missing or does not open is empty.
    pub(super) fn load<S: HolderStore>(host: &Host, dir: &Path, store: &S) -> Self {
        let read = || -> io::Result<Self> {
            let plain = SealedFile::new(host, dir, store, FILE, PURPOSE).read(BYTES_MAX)?;
            match plain.split_first() {
                Some((&VERSION, diary)) => {
                    postcard::from_bytes(diary).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
                }
                Some((1, diary)) => {
                    let (days, told, linked) =
                        postcard::from_bytes(diary).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
                    Ok(Diary {
                        days,
                        told,
                        linked,
                        pool: None,
                    })
                }
                _ => Err(io::ErrorKind::InvalidData.into()),
            }
        };
        read().unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("the diary of use does not open: a new one is begun");
            }
            Diary::default()
        })
    }

    /// Writes the diary into `dir`. It blocks on the disk.
    pub(super) fn save<S: HolderStore>(&self, host: &Host, dir: &Path, store: &S) -> io::Result<()> {
        let mut plain = Zeroizing::new(vec![VERSION]);
        plain.extend_from_slice(&postcard::to_allocvec(self).expect("a diary is plain data"));
        SealedFile::new(host, dir, store, FILE, PURPOSE).write(&plain)
    }

    /// Notes what was heard of the value. Returns whether it is new.
    pub(super) fn note(&mut self, day: u32, value: &ValueMirror) -> bool {
        let today = Day {
            day,
            debits: value.debits,
            balance: value.balance,
            keys: value.keys,
        };
        match self.days.last_mut() {
            Some(last) if *last == today => return false,
            // A clock that was set back does not put days out of order.
            Some(last) if last.day >= day => {
                *last = Day { day: last.day, ..today };
            }
            Some(_) => self.days.push(today),
            // What was spent before the first look belongs to no day, what is spent after it to this one.
            None => {
                let day = day.saturating_sub(1);
                self.days.extend([Day { day, ..today }, today]);
            }
        }
        if self.days.len() > DAYS_MAX {
            self.days.remove(0);
        }
        true
    }

    /// µtok spent on each of the `count` days up to `today`, as far as it is known: what was debited since the entry
    /// before.
    pub(super) fn spent(&self, today: u32, count: u32) -> Vec<(u32, u64)> {
        let first = today.saturating_sub(count.saturating_sub(1));
        let mut spent: Vec<(u32, u64)> = (first..=today).map(|day| (day, 0)).collect();
        for pair in self.days.windows(2) {
            let [before, after] = pair else { continue };
            if let Some(slot) = after.day.checked_sub(first).and_then(|at| spent.get_mut(at as usize)) {
                slot.1 = after.debits.saturating_sub(before.debits);
            }
        }
        spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::reading::tests::bridge;

    fn value(debits: u64) -> ValueMirror {
        ValueMirror {
            debits,
            balance: 1_000 - debits,
            keys: 9,
            credits: 1_000,
            at: 1,
        }
    }

    #[tokio::test]
    async fn a_diary_of_the_version_before_is_read_and_what_is_written_comes_back() {
        let bridge = bridge().await;
        let (host, dir, store) = (&bridge.host, &bridge.dir, &bridge.store);
        let mut diary = Diary::default();
        diary.note(10, &value(5));
        diary.linked = 7;
        let mut plain = vec![1];
        plain.extend(postcard::to_allocvec(&(&diary.days, &diary.told, diary.linked)).expect("plain data"));
        let file = SealedFile::new(host, dir, store, FILE, PURPOSE);
        file.write(&plain).expect("written");
        assert!(Diary::load(host, dir, store) == diary);
        diary.pool = Some(true);
        diary.save(host, dir, store).expect("written");
        assert!(Diary::load(host, dir, store) == diary);
        file.write(&[9]).expect("written");
        assert!(Diary::load(host, dir, store) == Diary::default());
    }

    #[test]
    fn a_day_spends_what_was_debited_since_the_day_before() {
        let mut diary = Diary::default();
        for (day, debits) in [(10, 5), (10, 7), (12, 10), (13, 10), (14, 60)] {
            assert!(diary.note(day, &value(debits)));
            assert!(!diary.note(day, &value(debits)), "nothing new");
        }
        assert_eq!(diary.spent(14, 5), [(10, 2), (11, 0), (12, 3), (13, 0), (14, 50)]);
        assert_eq!(diary.spent(15, 3), [(13, 0), (14, 50), (15, 0)]);
    }

    #[test]
    fn a_clock_set_back_and_a_long_life_keep_the_order_and_the_bound() {
        let mut diary = Diary::default();
        diary.note(10, &value(1));
        diary.note(3, &value(2));
        assert_eq!(diary.days.len(), 2);
        assert_eq!((diary.days[1].day, diary.days[1].debits), (10, 2));
        for day in 11..1_000 {
            diary.note(day, &value(3));
        }
        assert_eq!(diary.days.len(), DAYS_MAX);
        assert!(diary.days.is_sorted_by_key(|day| day.day));
    }
}
