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

/// What the dearest way by a peer costs for each relay on it, in µtok: its own price and that of the legs behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prices {
    /// Per recipient.
    message: u64,
    /// Per recipient and 1,000 bytes of size class.
    kilobyte: u64,
}

impl Prices {
    /// `None`: nothing was heard of it yet.
    fn of(store: &impl HolderStore) -> Option<Self> {
        let (message, kilobyte) = Charges::of(store)?.dearest_of_each_relay();
        Some(Prices { message, kilobyte })
    }

    /// Whether both prices are within so many times these. What cost nothing counts as 1 µtok.
    fn allow(self, now: Prices, times: u64) -> bool {
        let within = |accepted: u64, now: u64| now <= accepted.max(1).saturating_mul(times);
        within(self.message, now.message) && within(self.kilobyte, now.kilobyte)
    }
}

/// The accepted prices of one peer, and where they are kept.
pub(super) struct Accepted {
    prices: Mutex<Option<Prices>>,
    /// 0: any price is paid.
    times_max: u64,
}

impl Accepted {
    /// Those that were accepted before this start. `times_max`: prices may be so many times as high; 0: as high as they are.
    pub(super) fn read(host: &Host, data: &Path, name: &str, times_max: u64) -> Self {
        let known = read(host, &path(data, name)).inspect_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {}
            _ => {
                tracing::warn!(peer = name, %error, "the accepted prices of a peer cannot be read: those of now count")
            }
        });
        Accepted {
            prices: Mutex::new(known.ok()),
            times_max,
        }
    }

    fn prices(&self) -> Option<Prices> {
        *self.prices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a peer's prices rose beyond the bound.
    pub(super) fn is_exceeded(&self, store: &impl HolderStore) -> bool {
        let (Some(accepted), Some(now)) = (self.prices(), Prices::of(store)) else {
            return false;
        };
        self.times_max > 0 && !accepted.allow(now, self.times_max)
    }

    /// Accepts what a peer charges when it is first heard.
    pub(super) fn hear(&self, host: &Host, data: &Path, name: &str, store: &impl HolderStore) {
        if self.prices().is_none()
            && let Err(error) = self.accept(host, data, name, store)
        {
            tracing::warn!(peer = name, %error, "the prices of a peer could not be noted");
        }
    }

    /// Accepts what a peer charges now. In force once it is on the disk.
    pub(super) fn accept(&self, host: &Host, data: &Path, name: &str, store: &impl HolderStore) -> io::Result<()> {
        let Some(prices) = Prices::of(store) else {
            return Ok(());
        };
        let text = serde_json::to_vec(&prices).map_err(io::Error::other)?;
        packs::keep(host, &data.join(FOLDER), &path(data, name), &text)?;
        *self.prices.lock().unwrap_or_else(PoisonError::into_inner) = Some(prices);
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
        let prices = |message, kilobyte| Prices { message, kilobyte };
        let accepted = prices(100, 10);
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
}
