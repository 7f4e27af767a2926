//! Cover on links, as the relay grants it: within its bounds, paid for ahead by whoever has it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mailbox::RelayStore;
use mailbox::relay_store::Account;
use mailbox::request::{Answer, CoverOffer, Rate, Refusal};
use smtp_bridge::link::cover::{Paid, Purse, Toll};
use smtp_bridge::net::Promise;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::Relay;
use crate::config::CoverConfig;

/// Links that are covered, and what was paid for and not sent.
pub(crate) struct Covers {
    places: Arc<Semaphore>,
    /// Cells that an account has paid for and no link had, since the process began: its next link has them first.
    unused: Mutex<HashMap<Account, u64>>,
}

impl Covers {
    /// With room for as many links as the configuration says.
    pub(crate) fn new(config: Option<&CoverConfig>) -> Self {
        let links = config.map_or(0, |config| config.links_max);
        Covers {
            places: Arc::new(Semaphore::new(links.min(Semaphore::MAX_PERMITS))),
            unused: Mutex::default(),
        }
    }

    fn unused(&self) -> MutexGuard<'_, HashMap<Account, u64>> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whole ticks of what an account has left; what makes no tick stays.
    fn take(&self, account: Account, rate: Rate) -> u64 {
        let mut unused = self.unused();
        let Some(cells) = unused.get_mut(&account) else {
            return 0;
        };
        let ticks = *cells / rate.cells_of(1).max(1);
        *cells -= rate.cells_of(ticks);
        if *cells == 0 {
            unused.remove(&account);
        }
        ticks
    }

    /// So many cells of what an account has left, or none of them.
    fn take_whole(&self, account: Account, cells: u64) -> bool {
        let mut unused = self.unused();
        let Some(left) = unused.get(&account).and_then(|kept| kept.checked_sub(cells)) else {
            return false;
        };
        match left {
            0 => unused.remove(&account),
            left => unused.insert(account, left),
        };
        true
    }

    fn put_back(&self, account: Account, cells: u64) {
        if cells > 0 {
            let mut unused = self.unused();
            let kept = unused.entry(account).or_default();
            *kept = kept.saturating_add(cells);
        }
    }
}

/// What cover costs here.
pub(super) fn offer<S>(relay: &Relay<S>) -> Option<CoverOffer> {
    relay.config.cover.as_ref().map(|config| CoverOffer {
        price: config.price,
        per_second_max: config.per_second_max,
        period_s: config.period_s,
    })
}

/// Grants cover at a rate, the first period of which is paid for when this returns.
pub(super) async fn begin<S: RelayStore>(
    relay: &Arc<Relay<S>>,
    account: Account,
    rate: Rate,
    price_max: u64,
) -> Result<Toll, Refusal> {
    let offer = offer(relay).ok_or(Refusal::Cover)?;
    if !rate.is_within_bounds() || rate.per_second() > offer.per_second_max {
        return Err(Refusal::Cover);
    }
    if offer.price > price_max {
        let prices = relay.store.prices().version;
        return Err(Refusal::Price {
            price: offer.price,
            prices,
        });
    }
    let place = Arc::clone(&relay.covers.places);
    let place = Semaphore::try_acquire_owned(place).map_err(|_| Refusal::Busy)?;
    let period = rate.ticks(offer.period_s);
    let mut purse = ByAccount {
        relay: Arc::clone(relay),
        account,
        rate,
        cells: rate.cells_of(period),
        price: offer.price,
        _place: place,
    };
    let mut left = relay.covers.take(account, rate);
    if left == 0 {
        match purse.pay().await {
            Paid::Yes => left = period,
            Paid::Short => {
                let shortfall = shortfall(relay, account, purse.cells.saturating_mul(offer.price));
                return Err(Refusal::Value { shortfall });
            }
            Paid::Later => return Err(Refusal::Busy),
        }
    }
    Ok(Toll::new(Box::new(purse), period, left))
}

fn shortfall<S: RelayStore>(relay: &Relay<S>, account: Account, amount: u64) -> u64 {
    match relay.store.balance(account) {
        Ok(Answer::Balance { balance, .. }) => amount.saturating_sub(balance),
        _ => amount,
    }
}

/// One account's value, and its place among the links that are covered.
struct ByAccount<S> {
    relay: Arc<Relay<S>>,
    account: Account,
    rate: Rate,
    /// Of a period, in both directions.
    cells: u64,
    /// For each cell, in µtok.
    price: u64,
    _place: OwnedSemaphorePermit,
}

impl<S: RelayStore> Purse for ByAccount<S> {
    fn pay(&mut self) -> Promise<'static, Paid> {
        let (relay, account, cells) = (Arc::clone(&self.relay), self.account, self.cells);
        let amount = cells.saturating_mul(self.price);
        let (sender, paid) = oneshot::channel();
        // Whoever waits for it may end: the debit does not, and what it paid for is kept.
        self.relay.host.task(async move {
            let paid = match relay.covers.take_whole(account, cells) {
                true => Ok(Period { relay, account, cells }),
                false => match relay.store.charge_cover(account, amount, relay.host.day()).await {
                    Ok(true) => Ok(Period { relay, account, cells }),
                    Ok(false) => Err(Paid::Short),
                    Err(_) => Err(Paid::Later),
                },
            };
            let _ = sender.send(paid);
        });
        Box::pin(async move {
            match paid.await {
                Ok(Ok(period)) => {
                    period.used();
                    Paid::Yes
                }
                Ok(Err(paid)) => paid,
                Err(_) => Paid::Later,
            }
        })
    }

    fn unused(&mut self, ticks: u64) {
        self.relay.covers.put_back(self.account, self.rate.cells_of(ticks));
    }
}

/// A period that is paid for: the account keeps it unless a link has taken it.
struct Period<S: RelayStore> {
    relay: Arc<Relay<S>>,
    account: Account,
    cells: u64,
}

impl<S: RelayStore> Period<S> {
    fn used(mut self) {
        self.cells = 0;
    }
}

impl<S: RelayStore> Drop for Period<S> {
    fn drop(&mut self) {
        self.relay.covers.put_back(self.account, self.cells);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_link_did_not_have_the_next_one_has_at_whatever_rate() {
        let covers = Covers::new(None);
        let (fast, slow) = (
            Rate {
                cells: 4,
                every_ms: 500,
            },
            Rate {
                cells: 1,
                every_ms: 1_000,
            },
        );
        assert_eq!(covers.take(Account(1), fast), 0);
        covers.put_back(Account(1), 21);
        covers.put_back(Account(1), 0);
        assert_eq!(covers.take(Account(2), fast), 0, "another's");
        assert_eq!(covers.take(Account(1), fast), 2);
        assert_eq!(covers.take(Account(1), slow), 2);
        assert_eq!(covers.take(Account(1), slow), 0, "one cell makes no tick");
        covers.put_back(Account(1), 1);
        assert_eq!(covers.take(Account(1), slow), 1);
        covers.put_back(Account(1), 21);
        assert!(!covers.take_whole(Account(1), 22) && !covers.take_whole(Account(2), 1));
        assert!(
            covers.take_whole(Account(1), 20),
            "a period that is there is not paid again"
        );
        assert!(covers.take_whole(Account(1), 1));
        assert!(covers.unused().is_empty());
    }
}
