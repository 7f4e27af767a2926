//! The directory of a federation (`docs/PROTOCOL.md` section 14): which relays there are, as some of its directory keys sign it.
//!
//! ```text
//! relay's operator     Descriptor           what its relay is
//! directory's signers  List, signatures     all descriptors, a serial number, first and last day; k of n sign
//! holder               Pin, judge           the n keys and k, had with the pack; whatever a relay serves is compared with them
//! ```
//!
//! All of it is text, so that whoever signs can read what it is, and there is one way only to write each. A relay carries the
//! list to its holders and can withhold it: that it is old is seen by its days, and that one holder is shown another list than
//! the rest by two lists of one serial number.

mod descriptor;
mod key;
mod list;

pub use descriptor::{Descriptor, Exit, OPERATOR_BYTES_MAX, Prices};
pub use key::{DIRECTORY_KEYS_MAX, DirectoryKey, Pin, PublicKey};
pub use list::{LIST_BYTES_MAX, LIST_RELAYS_MAX, List, Signed};

/// Days after its first one by which a list should have been replaced: what is older was withheld, or its signers are asleep.
pub const RENEWAL_DAYS: u32 = 7;

/// Why a list that was served is not taken. Each is a sentence for the holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is no list.
    Malformed,
    /// A signature by a pinned key does not fit: it was altered behind the signer.
    Altered,
    /// Not enough of the pinned keys signed it.
    Signatures {
        /// Pinned keys that did.
        good: usize,
        /// Those that must.
        wanted: usize,
        /// Signatures by keys that are not pinned.
        unknown: usize,
    },
    /// It has the serial number of the one that is held, and says something else.
    Fork {
        /// The number.
        serial: u64,
    },
    /// One with a higher number is held.
    Older {
        /// Number of what was served.
        serial: u64,
        /// Number of what is held.
        held: u64,
    },
    /// Its last day is over.
    Expired {
        /// UTC day.
        until: u32,
    },
    /// Its first day has not come.
    Early {
        /// UTC day.
        from: u32,
    },
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Malformed => f.write_str("what the relay serves is no directory: nothing was taken from it"),
            Fault::Altered => f.write_str(
                "the directory was altered after it was signed: nothing was taken from it, and who serves it is not to be trusted",
            ),
            Fault::Signatures { good, wanted, unknown } => {
                write!(f, "the directory has too few signatures: {good} of the {wanted} that your directory keys must give")?;
                match unknown {
                    0 => Ok(()),
                    unknown => write!(f, "; {unknown} are by unknown keys, which count for nothing"),
                }
            }
            Fault::Fork { serial } => write!(
                f,
                "there are two directories of number {serial}, both signed: somebody shows you other relays than the rest. Both are kept \
                 as evidence"
            ),
            Fault::Older { serial, held } => write!(
                f,
                "the relay rolls the directory back: it serves number {serial}, and number {held} was there before"
            ),
            Fault::Expired { .. } => f.write_str("the directory has expired: its last day is over"),
            Fault::Early { .. } => f.write_str("the directory is of a day to come: look at the clock of this machine"),
        }
    }
}

impl std::error::Error for Fault {}

/// What becomes of a list that may be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It takes the place of the one that is held.
    Newer,
    /// It is the one that is held.
    Same,
}

/// Compares what a relay serves with the pinned keys, with what is held, and with the day.
pub fn judge(pin: &Pin, held: Option<&Signed>, served: &Signed, today: u32) -> Result<Verdict, Fault> {
    pin.verify(served)?;
    let (list, held) = (served.list(), held.map(|held| (held.list().serial, held.body())));
    match held {
        Some((serial, body)) if serial == list.serial && body != served.body() => return Err(Fault::Fork { serial }),
        Some((held, _)) if held > list.serial => {
            return Err(Fault::Older {
                serial: list.serial,
                held,
            });
        }
        _ => {}
    }
    if list.until < today {
        return Err(Fault::Expired { until: list.until });
    }
    // The clocks of two machines may be on both sides of midnight.
    if list.from > today.saturating_add(1) {
        return Err(Fault::Early { from: list.from });
    }
    match held {
        Some((serial, _)) if serial == list.serial => Ok(Verdict::Same),
        _ => Ok(Verdict::Newer),
    }
}

/// Feeds hostile bytes to every parser of this module; must not panic.
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(descriptor) = Descriptor::parse(text) {
        assert!(descriptor.to_text().as_deref() == Ok(text), "one descriptor, one text");
    }
    if let Ok(signed) = Signed::parse(text) {
        assert!(signed.to_text() == text, "one list, one text");
        let stranger = DirectoryKey::new(crate::Secret::new([0x99; 32])).public();
        let pin = Pin::new(1, vec![stranger]).expect("1 of 1");
        assert!(judge(&pin, None, &signed, 100).is_err(), "nobody of these signed it");
    }
    key::fuzz(text);
}

#[cfg(test)]
mod tests {
    use super::list::tests::list;
    use super::*;
    use crate::Secret;

    fn keys() -> [DirectoryKey; 3] {
        [1, 2, 3].map(|seed| DirectoryKey::new(Secret::new([seed; 32])))
    }

    fn pin() -> Pin {
        Pin::new(2, keys().iter().map(DirectoryKey::public).collect()).expect("2 of 3")
    }

    fn signed(list: List, by: &[&DirectoryKey]) -> Signed {
        let mut signed = Signed::new(list).expect("well-formed");
        for key in by {
            signed.sign(key).expect("room");
        }
        signed
    }

    #[test]
    fn a_list_is_taken_with_enough_of_the_pinned_signatures() {
        let [a, b, c] = keys();
        let stranger = DirectoryKey::new(Secret::new([9; 32]));
        let judged = |by: &[&DirectoryKey]| judge(&pin(), None, &signed(list(5), by), 100);
        for by in [&[&a, &b][..], &[&c, &a], &[&a, &b, &c], &[&a, &stranger, &c]] {
            assert_eq!(judged(by), Ok(Verdict::Newer));
        }
        let few = |good, unknown| {
            Err(Fault::Signatures {
                good,
                wanted: 2,
                unknown,
            })
        };
        assert_eq!(judged(&[]), few(0, 0));
        assert_eq!(judged(&[&b]), few(1, 0));
        assert_eq!(judged(&[&b, &b]), few(1, 0), "nobody signs twice");
        assert_eq!(judged(&[&b, &stranger]), few(1, 1));
    }

    #[test]
    fn a_list_that_was_altered_is_not_taken() {
        let [a, b, _] = keys();
        let text = signed(list(5), &[&a, &b]).to_text();
        for (from, to) in [
            ("serial 5", "serial 6"),
            ("far.test:7465", "fat.test:7465"),
            ("until 114", "until 115"),
        ] {
            let altered = text.replace(from, to);
            assert!(altered != text);
            let altered = Signed::parse(&altered).expect("well-formed");
            assert_eq!(judge(&pin(), None, &altered, 100), Err(Fault::Altered));
        }
    }

    #[test]
    fn rolled_back_forked_and_stale_lists_are_told_apart() {
        let [a, b, c] = keys();
        let held = signed(list(5), &[&a, &b]);
        let against = |list: List, today| judge(&pin(), Some(&held), &signed(list, &[&b, &c]), today);
        assert_eq!(against(list(5), 100), Ok(Verdict::Same));
        assert_eq!(against(list(6), 100), Ok(Verdict::Newer));
        assert_eq!(against(list(4), 100), Err(Fault::Older { serial: 4, held: 5 }));
        let mut other = list(5);
        other.relays.pop();
        assert_eq!(against(other, 100), Err(Fault::Fork { serial: 5 }));
        assert_eq!(against(list(6), 114), Ok(Verdict::Newer));
        assert_eq!(against(list(6), 115), Err(Fault::Expired { until: 114 }));
        assert_eq!(against(list(5), 115), Err(Fault::Expired { until: 114 }));
        assert_eq!(against(list(6), 98), Err(Fault::Early { from: 100 }));
        assert_eq!(against(list(6), 99), Ok(Verdict::Newer));
    }
}
