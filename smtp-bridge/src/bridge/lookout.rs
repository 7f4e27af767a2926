//! What the bridge looks after by itself: notices about value, keys and an absent relay, aliases whose time is over,
//! and the diary of use.

use std::sync::PoisonError;
use std::time::Duration;

use keypacks::chain::KEYS_RESERVED;
use mailbox::HolderStore;
use mailbox::request::Operation;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Bridge;
use super::diary::Told;
use crate::holder::LinkState;
use crate::message::Notice;
use crate::net::stopped;

/// When the bridge tells its user something: the table `[notices]` of `bridge.toml`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NoticeSettings {
    /// Balance in µtok below which value is low; without it, what twenty messages of eight kilobytes cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_balance: Option<u64>,
    /// Link keys below which they are few; without it a tenth of the pack's, at most 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub few_keys: Option<u64>,
    /// Seconds without a link after which the relay counts as unreachable.
    pub unreachable_s: u64,
    /// Days that the relay keeps mail, as its operator says; its default is 30.
    pub retention_days: u32,
}

impl Default for NoticeSettings {
    fn default() -> Self {
        NoticeSettings {
            low_balance: None,
            few_keys: None,
            unreachable_s: 6 * 3_600,
            retention_days: 30,
        }
    }
}

impl NoticeSettings {
    /// Whether nothing was set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Shortest and longest time between two looks.
const PACE_MIN: Duration = Duration::from_secs(1);
const PACE_MAX: Duration = Duration::from_secs(60);
/// Shortest time between two writings of the diary for news of the value alone.
const SAVE_PACE: Duration = Duration::from_secs(60);
/// A relay is given so long after a start before anything is said about mail that waits there.
const GRACE: Duration = Duration::from_secs(600);
/// So many days before the relay drops mail its user is told.
const RETENTION_WARNING_DAYS: u64 = 5;
const DAY: u64 = 86_400;

/// What is the matter now, whether or not it was told.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Matters {
    pub(super) low_balance: bool,
    pub(super) few_keys: bool,
}

impl<S: HolderStore> Bridge<S> {
    /// What the value and the keys are short of.
    pub(super) fn matters(&self) -> Matters {
        let value = self.store.value();
        // What has ended is short of nothing.
        if value.at == 0 || self.has_ended() {
            return Matters::default();
        }
        let by_price = || self.store.prices().and_then(|prices| prices.price_of(20, 8));
        let low_balance = self.notices.low_balance.or_else(by_price);
        let all = self.store.link_position().keys;
        let few_keys = self.notices.few_keys.unwrap_or((all / 10).min(100)).max(KEYS_RESERVED);
        Matters {
            low_balance: low_balance.is_some_and(|low| value.balance < low),
            few_keys: value.keys < few_keys,
        }
    }
}

/// Looks until `stop` turns true.
pub(super) async fn watch<S: HolderStore>(
    bridge: std::sync::Arc<Bridge<S>>,
    tick: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let mut watcher = Watcher {
        bridge: &bridge,
        started: Instant::now(),
        down_since: Some(Instant::now()),
        saved: None,
        is_new: false,
        room_told: None,
    };
    loop {
        watcher.look().await;
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            () = tokio::time::sleep(tick.clamp(PACE_MIN, PACE_MAX)) => {}
        }
    }
    if watcher.is_new {
        watcher.save().await;
    }
}

struct Watcher<'a, S> {
    bridge: &'a std::sync::Arc<Bridge<S>>,
    started: Instant,
    /// Since when there is no link.
    down_since: Option<Instant>,
    /// When the diary was last written.
    saved: Option<Instant>,
    /// Whether the diary holds what is not written yet.
    is_new: bool,
    /// When it was last told that the disk has no room for mail, in days since 1970.
    room_told: Option<u64>,
}

impl<S: HolderStore> Watcher<'_, S> {
    async fn look(&mut self) {
        let now = self.bridge.host.clock.unix_seconds();
        let value = self.bridge.store.value();
        let is_linked = self.bridge.holder.state() == LinkState::Linked;
        self.down_since = match is_linked {
            true => None,
            false => self.down_since.or_else(|| Some(Instant::now())),
        };
        let (told, linked) = {
            let mut diary = self.bridge.diary.lock().unwrap_or_else(PoisonError::into_inner);
            if value.at > 0 {
                self.is_new |= diary.note(self.bridge.host.day(), &value);
            }
            let pool = self.bridge.pool.as_ref().and_then(|pool| pool.is_there());
            if pool.is_some() && pool != diary.pool {
                diary.pool = pool;
                self.is_new = true;
            }
            // To the hour is enough for days, and writes little.
            if is_linked && now.abs_diff(diary.linked) > 3_600 {
                diary.linked = now;
                self.is_new = true;
            }
            (diary.told, diary.linked)
        };
        let due = self.due(told, linked, now, is_linked);
        let is_told = self.tell(told, due, linked, now).await;
        self.tell_of_room(now).await;
        if is_told || self.is_new && self.saved.is_none_or(|saved| saved.elapsed() >= SAVE_PACE) {
            self.save().await;
        }
        self.close_expired(now).await;
    }

    /// What is the matter now, as far as it is to be told.
    fn due(&self, told: Told, linked: u64, now: u64, is_linked: bool) -> Told {
        let matters = self.bridge.matters();
        let notices = &self.bridge.notices;
        let is_over = self.bridge.holder.state() == LinkState::KeysUsedUp;
        let down = self.down_since.map_or(Duration::ZERO, |since| since.elapsed());
        let kept = u64::from(notices.retention_days).saturating_sub(RETENTION_WARNING_DAYS);
        let is_late = linked > 0 && now.saturating_sub(linked) >= kept.max(1) * DAY;
        Told {
            low_balance: matters.low_balance,
            few_keys: matters.few_keys,
            // Without keys there is nothing to reach it with, which is told as few keys.
            unreachable: !is_over && down >= Duration::from_secs(notices.unreachable_s),
            // Until it is linked again what was told stays told, whatever the clock says.
            retention: !is_linked && (told.retention || is_late && self.started.elapsed() >= GRACE),
        }
    }

    /// Tells what is due and was not told; what is gone may be told again. Returns whether the diary changed.
    async fn tell(&mut self, told: Told, due: Told, linked: u64, now: u64) -> bool {
        if told == due {
            return false;
        }
        let value = self.bridge.store.value();
        let mut notices = Vec::new();
        if due.low_balance && !told.low_balance || due.few_keys && !told.few_keys {
            notices.push(Notice::LowValue {
                balance: value.balance,
                keys: value.keys,
            });
        }
        if due.unreachable && !told.unreachable {
            let down = self.down_since.map_or(0, |since| since.elapsed().as_secs());
            notices.push(Notice::Unreachable { seconds: down });
        }
        if due.retention && !told.retention {
            notices.push(Notice::Retention {
                days: now.saturating_sub(linked) / DAY,
                kept: self.bridge.notices.retention_days,
            });
        }
        for notice in &notices {
            if !self.bridge.notify(notice).await {
                // The disk may be full. It is told at another look.
                return false;
            }
        }
        let mut diary = self.bridge.diary.lock().unwrap_or_else(PoisonError::into_inner);
        diary.told = due;
        true
    }

    /// Once a day as long as it lasts; there is room for a notice where there is none for long mail.
    async fn tell_of_room(&mut self, now: u64) {
        let today = Some(now / DAY);
        if self.bridge.holder.is_short_of_room() && self.room_told != today && self.bridge.notify(&Notice::NoRoom).await
        {
            self.room_told = today;
        }
    }

    async fn save(&mut self) {
        self.saved = Some(Instant::now());
        let bridge = self.bridge.clone();
        let written = self.bridge.host.compute(move || {
            let diary = bridge.diary.lock().unwrap_or_else(PoisonError::into_inner).clone();
            diary.save(&bridge.host, &bridge.dir, &bridge.store)
        });
        match written.await {
            Some(Ok(())) => self.is_new = false,
            _ => tracing::warn!("the diary of use cannot be written"),
        }
    }

    /// Asks the relay to close what is past its time.
    async fn close_expired(&self, now: u64) {
        let store = &self.bridge.store;
        let (Ok(aliases), Ok(rows)) = (store.aliases(), store.outbox()) else {
            return;
        };
        let has_ended = self.bridge.has_ended();
        for alias in aliases {
            if alias.open && has_ended {
                // The relay closed it with the pack, and says so when it is asked: this clock may be wrong.
                continue;
            }
            let is_over = alias.open && alias.expires.is_some_and(|expires| expires <= now);
            let Some((local, _)) = alias.address.split_once('@') else {
                continue;
            };
            let operation = Operation::AliasClose {
                local: local.to_owned(),
            };
            let is_asked = rows.iter().any(|row| row.change.operation == operation);
            let is_sealed = || store.sealed_aliases().is_ok_and(|changes| !changes.is_empty());
            // While a parcel changes an alias: the next look tries again.
            if is_over && !is_asked && !is_sealed() {
                // Busy or full: the next look tries again.
                let _ = store.enqueue_change(operation, "alias past its time".into(), now).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mailbox::holder_store::{FolderId, ValueMirror};

    use super::*;
    use crate::bridge::reading::tests::bridge;

    /// One look, as at a start that is followed by the end.
    async fn look(bridge: &Arc<Bridge<impl HolderStore>>) {
        let (_stop, stopping) = watch::channel(true);
        watch(bridge.clone(), PACE_MAX, stopping).await;
    }

    #[tokio::test]
    async fn an_alias_past_its_time_is_asked_to_be_closed_once() {
        let bridge = bridge().await;
        let mut alias = bridge.store.aliases().expect("readable").remove(0);
        alias.expires = Some(u64::MAX);
        bridge.store.put_alias(alias.clone()).await.expect("room");
        look(&bridge).await;
        assert!(bridge.store.outbox().expect("readable").is_empty());
        alias.expires = Some(1);
        bridge.store.put_alias(alias.clone()).await.expect("room");
        for _ in 0..2 {
            look(&bridge).await;
            let rows = bridge.store.outbox().expect("readable");
            let local = "first".to_owned();
            assert!(rows.len() == 1 && rows[0].change.operation == Operation::AliasClose { local });
        }
        alias.open = false;
        bridge.store.put_alias(alias).await.expect("room");
        look(&bridge).await;
        assert_eq!(bridge.store.outbox().expect("readable").len(), 1);
    }

    #[tokio::test]
    async fn mail_that_the_disk_has_no_room_for_is_told() {
        let bridge = bridge().await;
        look(&bridge).await;
        assert!(bridge.warnings().is_empty() && bridge.store.inbox().entries.is_empty());
        bridge.holder.set_short_of_room(true);
        look(&bridge).await;
        assert!(bridge.warnings().iter().any(|warning| warning.contains("no room")));
        let notice = bridge
            .store
            .message(FolderId::INBOX, 1)
            .expect("readable")
            .expect("there");
        assert!(String::from_utf8_lossy(&notice).contains("Subject: Your disk has no room for your mail"));
        bridge.holder.set_short_of_room(false);
        look(&bridge).await;
        assert!(bridge.warnings().is_empty() && bridge.store.inbox().entries.len() == 1);
    }

    #[tokio::test]
    async fn what_runs_low_is_told_once_for_each_time_it_does() {
        let bridge = bridge().await;
        let value = |balance| ValueMirror {
            balance,
            keys: 60,
            credits: 1_000,
            debits: 1_000 - balance,
            at: 1,
        };
        let notices = || bridge.store.inbox().entries.len();
        // The bridge of the tests tells below 100 µtok.
        for (balance, told) in [(500, 0), (99, 1), (50, 1), (500, 1), (99, 2), (98, 2)] {
            bridge.store.put_value(value(balance), None).await.expect("room");
            look(&bridge).await;
            assert_eq!(notices(), told, "{balance}");
            assert_eq!(bridge.warnings().is_empty(), balance == 500);
        }
        // What was told is read back.
        let diary = crate::bridge::Diary::load(&bridge.host, &bridge.dir, &bridge.store);
        assert!(diary.told.low_balance && !diary.told.few_keys);
        assert_eq!(diary.days.last().map(|day| day.balance), Some(98));
    }
}
