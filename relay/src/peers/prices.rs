//! How dear a peer may become: its prices may rise to some times those that were accepted, by first hearing them or by the
//! operator's word. Beyond that nothing is paid there before the operator says so.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mailbox::HolderStore;
use serde::{Deserialize, Serialize};
use smtp_bridge::net::Host;

use super::legs::Charges;
use super::{FOLDER, packs};

/// Longest file of accepted prices, in bytes.
const FILE_MAX: usize = 1_024;

/// What a peer charges, in µtok.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prices {
    /// By its own list, per recipient.
    own_message: u64,
    /// By its own list, per recipient and 1,000 bytes of size class.
    own_kilobyte: u64,
    /// The dearest way by it, per recipient and relay on it.
    message: u64,
    /// The dearest way by it, per recipient, relay on it and 1,000 bytes of size class.
    kilobyte: u64,
}

/// What is known of what was accepted.
#[derive(Clone, Copy)]
enum Known {
    /// Nothing was yet.
    Unheard,
    /// It cannot be read: whatever is charged now may be beyond it.
    Damaged,
    At(Prices),
}

impl Prices {
    /// `None`: nothing was heard of it yet.
    fn of(store: &impl HolderStore) -> Option<Self> {
        let charges = Charges::of(store)?;
        let (own_message, own_kilobyte) = charges.own();
        let (message, kilobyte) = charges.dearest_of_each_relay();
        Some(Prices {
            own_message,
            own_kilobyte,
            message,
            kilobyte,
        })
    }

    /// Whether all prices are within so many times these. What cost nothing counts as 1 µtok. Its own list counts by itself:
    /// how many relays are behind it, by which the rest is divided, the peer says alone.
    fn allow(self, now: Prices, times: u64) -> bool {
        let within = |accepted: u64, now: u64| now <= accepted.max(1).saturating_mul(times);
        within(self.own_message, now.own_message)
            && within(self.own_kilobyte, now.own_kilobyte)
            && within(self.message, now.message)
            && within(self.kilobyte, now.kilobyte)
    }
}

/// The accepted prices of one peer, and where they are kept.
pub(super) struct Accepted {
    known: Mutex<Known>,
    /// 0: any price is paid.
    times_max: u64,
}

impl Accepted {
    /// Those that were accepted before this start. `times_max`: prices may be so many times as high; 0: as high as they are.
    pub(super) fn read(host: &Host, data: &Path, name: &str, times_max: u64) -> Self {
        let known = match read(host, &path(data, name)) {
            Ok(prices) => Known::At(prices),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Known::Unheard,
            Err(error) => {
                tracing::error!(
                    peer = name, %error,
                    "the accepted prices of a peer cannot be read: nothing goes by it until 'posternd peer resume' accepts those of now"
                );
                Known::Damaged
            }
        };
        Accepted {
            known: Mutex::new(known),
            times_max,
        }
    }

    fn known(&self) -> Known {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a peer's prices rose beyond the bound, or nobody knows whether they did.
    pub(super) fn is_exceeded(&self, store: &impl HolderStore) -> bool {
        self.times_max > 0
            && match self.known() {
                Known::Unheard => false,
                Known::Damaged => true,
                Known::At(accepted) => Prices::of(store).is_some_and(|now| !accepted.allow(now, self.times_max)),
            }
    }

    /// Accepts what a peer charges when it is first heard.
    pub(super) fn hear(&self, host: &Host, data: &Path, name: &str, store: &impl HolderStore) {
        if matches!(self.known(), Known::Unheard)
            && store.prices().is_some()
            && let Err(error) = self.accept(host, data, name, store)
        {
            tracing::warn!(peer = name, %error, "the prices of a peer could not be noted");
        }
    }

    /// Accepts what a peer charges now. In force once it is on the disk. `NotConnected`: nothing was heard of it yet.
    pub(super) fn accept(&self, host: &Host, data: &Path, name: &str, store: &impl HolderStore) -> io::Result<()> {
        let prices = Prices::of(store).ok_or(io::ErrorKind::NotConnected)?;
        let text = serde_json::to_vec(&prices).map_err(io::Error::other)?;
        packs::keep(host, &data.join(FOLDER), &path(data, name), &text)?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Known::At(prices);
        Ok(())
    }
}

fn path(data: &Path, name: &str) -> PathBuf {
    data.join(FOLDER).join(format!("{name}.prices"))
}

fn read(host: &Host, path: &Path) -> io::Result<Prices> {
    let file = host.disk.open(path, false)?;
    let length = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    if length > FILE_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; length];
    file.read_at(0, &mut text)?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_rise_to_so_many_times_what_was_accepted() {
        let prices = |message, kilobyte| Prices {
            own_message: message,
            own_kilobyte: kilobyte,
            message,
            kilobyte,
        };
        let accepted = prices(100, 10);
        for now in [
            Prices {
                own_message: 401,
                ..accepted
            },
            Prices {
                own_kilobyte: 41,
                ..accepted
            },
        ] {
            assert!(
                !accepted.allow(now, 4),
                "however many relays it says are behind it: {now:?}"
            );
        }
        for (now, is_allowed) in [
            (prices(100, 10), true),
            (prices(400, 40), true),
            (prices(0, 0), true),
            (prices(401, 10), false),
            (prices(100, 41), false),
            (prices(u64::MAX, 0), false),
        ] {
            assert_eq!(accepted.allow(now, 4), is_allowed, "{now:?}");
        }
        let free = prices(0, 0);
        assert!(free.allow(prices(4, 4), 4) && !free.allow(prices(5, 0), 4));
        assert!(prices(u64::MAX, u64::MAX).allow(prices(u64::MAX, 1), 4));
    }

    #[test]
    fn accepted_prices_that_cannot_be_read_bound_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let host = smtp_bridge::net::system::host();
        let read = || Accepted::read(&host, folder.path(), "x", 4).known();
        assert!(matches!(read(), Known::Unheard));
        std::fs::create_dir_all(folder.path().join(FOLDER)).expect("a folder");
        for damaged in [&b""[..], b"{", b"{\"message\":1}", &[b' '; FILE_MAX + 1]] {
            std::fs::write(path(folder.path(), "x"), damaged).expect("a file");
            assert!(matches!(read(), Known::Damaged), "{damaged:?}");
        }
        let whole = serde_json::to_vec(&Prices {
            own_message: u64::MAX,
            own_kilobyte: u64::MAX,
            message: u64::MAX,
            kilobyte: u64::MAX,
        });
        std::fs::write(path(folder.path(), "x"), whole.expect("numbers")).expect("a file");
        assert!(matches!(read(), Known::At(_)));
    }
}
