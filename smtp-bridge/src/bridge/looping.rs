//! Loops, as the bridge sends them and tells of them.

use std::sync::Arc;
use std::time::Duration;

use mailbox::HolderStore;
use mailbox::holder_store::{OutboxRow, OutboxState};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Bridge;
use super::commands::ANSWER_WAIT_MAX;
use super::submission;
use crate::holder::LinkState;
use crate::holder::loops::{LoopWish, Loops, wait};
use crate::message::Notice;
use crate::names;
use crate::net::stopped;

/// Shortest and longest time between two looks at what came back.
const LOOK_MIN: Duration = Duration::from_millis(250);
const LOOK_MAX: Duration = Duration::from_secs(60);
/// A link counts once it has stood for so long, or for a quarter of what a loop has: first it brings what waited.
const SETTLING_MAX: Duration = Duration::from_secs(60);
/// How often the time that is left to loops is written down.
const SAVE_PACE: Duration = Duration::from_secs(600);
/// Lines of text that fill a loop up, at most: mail has many sizes.
const LINES_MAX: u8 = 96;

/// What is wished, and what became of it.
#[derive(Clone)]
pub(super) struct Looping {
    pub(super) wish: Option<LoopWish>,
    pub(super) loops: Arc<Loops>,
}

impl<S: HolderStore> Bridge<S> {
    /// Figures for the status and the page.
    pub(super) fn loop_figures(&self) -> Value {
        let Some(wish) = &self.looping.wish else {
            return Value::Null;
        };
        let (tally, (lost_lately, lately)) = (self.looping.loops.tally(), self.looping.loops.lately());
        let day = self.loop_price();
        json!({
            "wish": wish.to_string(),
            "sent": tally.sent,
            "back": tally.back,
            "lost": tally.lost,
            "lately": lately,
            "lost_lately": lost_lately,
            "day_cost_max": day.map(|price| price.saturating_mul(86_400) / u64::from(wish.mean_s)),
            "pause": self.loop_pause(),
        })
    }

    /// The same in words, for status and page.
    pub(super) fn loop_words(&self) -> Option<String> {
        let figures = self.loop_figures();
        figures["wish"].as_str()?;
        Some(in_words(&figures))
    }

    /// What one costs on both ways, at most; `None`: the prices are not known.
    fn loop_price(&self) -> Option<u64> {
        let prices = self.store.prices()?;
        prices.price_of(1, 8)?.checked_add(prices.inbound_price(8)?)
    }

    /// Why none is sent now; a sentence's end.
    fn loop_pause(&self) -> Option<&'static str> {
        if self.store.pad().is_some() {
            return Some("a one-time pad is for the user's own mail");
        }
        if self.looping.loops.is_alone() == Some(false) {
            return Some("the account's other devices would show them as mail");
        }
        let matters = self.matters();
        // Whatever the user wants to be told of.
        let least = self.loop_price().unwrap_or(0).saturating_mul(20);
        let is_low = matters.low_balance || matters.few_keys || self.store.value().balance < least;
        is_low.then_some("the pack is nearly used up")
    }

    /// Whether a row of the outbox is a loop.
    pub(super) fn is_loop(&self, row: &OutboxRow) -> bool {
        self.looping.loops.is_own(row.label.as_bytes())
    }

    /// Takes loops out of the outbox that the relay refused, or that wait for value: their time is over, and they are not worth a
    /// place there. `all`: those too that were not sent yet. Returns whether others wait.
    async fn drop_loops(&self, all: bool) -> bool {
        let mut waits = false;
        if self.store.outbox_len() == 0 {
            return false;
        }
        let Ok(rows) = self.store.outbox() else { return true };
        for row in rows.iter().filter(|row| self.is_loop(row)) {
            let is_over = matches!(row.state, OutboxState::Held(_) | OutboxState::Refused(_));
            if is_over {
                // Written down before the row goes, which is all that tells of it.
                self.looping.loops.withdraw(&row.label);
                self.save_loops().await;
            }
            if (all || row.state != OutboxState::Queued) && matches!(self.store.cancel(row.row).await, Ok(true)) {
                // Of one that may have left nobody knows, and its time runs.
                if !row.may_have_left {
                    self.looping.loops.withdraw(&row.label);
                }
            } else {
                waits = true;
            }
        }
        waits
    }

    /// Asks whether the account has other devices, unless it is known.
    async fn knows_to_be_alone(&self) -> bool {
        let loops = &self.looping.loops;
        if loops.is_alone().is_none() {
            let asked = tokio::time::timeout(ANSWER_WAIT_MAX, self.holder.devices()).await;
            let Ok(Some((_, devices))) = asked else { return false };
            loops.set_alone(Some(devices.len() < 2));
        }
        loops.is_alone() == Some(true)
    }

    /// Sends one, like mail of the user's to the user.
    async fn send_loop(&self, within: Duration) -> bool {
        if !self.knows_to_be_alone().await || self.loop_pause().is_some() {
            return false;
        }
        let Ok(alias) = submission::own_alias(&self.store, &self.local_address(), &self.local_address()) else {
            return false;
        };
        let loops = &self.looping.loops;
        let word = loops.word(self.host.random());
        let lines = self.host.random::<1>()[0] % LINES_MAX;
        let fill: String = (0..lines)
            .map(|_| names::spell(&self.host.random::<60>()) + "\r\n")
            .collect();
        let raw = format!(
            "From: {0}\r\nTo: {0}\r\nSubject: {word}\r\n\r\n{word}\r\n{fill}",
            alias.address
        );
        if !loops.begin(&word, &alias.address, within) {
            return false;
        }
        let is_sent = self.save_loops().await && submission::send_own(self, &alias, raw.as_bytes()).await;
        match is_sent {
            true => loops.sent(&word),
            false => loops.withdraw(&word),
        }
        self.save_loops().await;
        is_sent
    }

    async fn save_loops(&self) -> bool {
        let loops = Arc::clone(&self.looping.loops);
        let saved = self.host.compute(move || loops.save()).await;
        let is_saved = matches!(saved, Some(Ok(())));
        if !is_saved {
            tracing::warn!("the record of loops cannot be written");
        }
        is_saved
    }
}

/// One line of the status.
pub(crate) fn in_words(figures: &Value) -> String {
    let cost = match figures["day_cost_max"].as_u64() {
        Some(cost) => format!("; at most {} µtok in a mean day", crate::figures::grouped(cost)),
        None => String::new(),
    };
    let pause = match figures["pause"].as_str() {
        Some(reason) => format!("; none is sent now: {reason}"),
        None => String::new(),
    };
    format!(
        "{} sent, {} back, {} of the last {} lost{cost}{pause}",
        figures["sent"], figures["back"], figures["lost_lately"], figures["lately"]
    )
}

/// Sends loops at random times and tells of lost ones, until `stop` turns true.
pub(super) async fn watch<S: HolderStore>(bridge: Arc<Bridge<S>>, mut stop: watch::Receiver<bool>) {
    let Some(wish) = bridge.looping.wish else {
        // Of what was set before.
        if bridge.store.outbox_len() > 0 {
            bridge.drop_loops(true).await;
            bridge.save_loops().await;
        }
        return;
    };
    let loops = &bridge.looping.loops;
    let within = Duration::from_secs(wish.within_s.into());
    let pace = (within / 8).clamp(LOOK_MIN, LOOK_MAX);
    let draw = || wait(wish.mean_s, u64::from_le_bytes(bridge.host.random()));
    let mut next = Instant::now() + draw();
    let mut saved = Instant::now();
    let mut clock = LinkClock::new((within / 4).min(SETTLING_MAX));
    loop {
        let is_linked = bridge.holder.state() == LinkState::Linked && !bridge.holder.is_frozen();
        let is_open = |address: &str| {
            let aliases = bridge.store.aliases().unwrap_or_default();
            aliases.iter().any(|alias| alias.open && alias.address == address)
        };
        // Where nothing is fetched for want of room, it is no relay that holds them up.
        let counts = is_linked && !bridge.holder.is_short_of_room();
        let mut is_new = loops.pass(clock.passed(counts, Instant::now()), is_open);
        let waits = bridge.drop_loops(false).await;
        let (lost, of) = loops.lately();
        let is_bad = lost >= usize::from(wish.lost_max);
        if is_bad != loops.is_told() && (!is_bad || tell(&bridge, lost, of).await) {
            loops.set_told(is_bad);
            is_new = true;
        }
        if (is_new || saved.elapsed() >= SAVE_PACE) && bridge.save_loops().await {
            saved = Instant::now();
        }
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            () = tokio::time::sleep(pace) => {}
            () = tokio::time::sleep_until(next) => {
                next = Instant::now() + draw();
                // Without a link it would only wait in the outbox, and tell nothing of the relay.
                if is_linked && !waits && !bridge.send_loop(within).await {
                    tracing::info!("a loop was not sent");
                }
            }
        }
    }
    bridge.drop_loops(true).await;
    bridge.save_loops().await;
}

/// Time that a link stood, without its first part: what waited at the relay has to come first.
struct LinkClock {
    settling: Duration,
    /// Until when it was counted; no link stands without it.
    counted: Option<Instant>,
}

impl LinkClock {
    fn new(settling: Duration) -> Self {
        Self {
            settling,
            counted: None,
        }
    }

    /// What passed since it was asked last.
    fn passed(&mut self, is_linked: bool, now: Instant) -> Duration {
        if !is_linked {
            self.counted = None;
            return Duration::ZERO;
        }
        let counted = self.counted.get_or_insert(now + self.settling);
        let passed = now.saturating_duration_since(*counted);
        *counted = now.max(*counted);
        passed
    }
}

async fn tell<S: HolderStore>(bridge: &Bridge<S>, lost: usize, of: usize) -> bool {
    tracing::warn!(lost, of, "loops did not come back");
    bridge.notify(&Notice::LoopsLost { lost, of }).await
}

#[cfg(test)]
mod tests {
    use mailbox::holder_store::{OutboxOrder, SentNames, SentReports, ValueMirror};
    use mailbox::request::{Answer, Refusal};

    use super::*;
    use crate::bridge::reading::tests::bridge;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn time_without_a_link_and_its_first_part_do_not_count() {
        let begin = Instant::now();
        let mut clock = LinkClock::new(SECOND * 10);
        assert_eq!(clock.passed(false, begin), Duration::ZERO);
        assert_eq!(clock.passed(true, begin + SECOND * 100), Duration::ZERO);
        assert_eq!(clock.passed(true, begin + SECOND * 109), Duration::ZERO);
        assert_eq!(clock.passed(true, begin + SECOND * 112), SECOND * 2);
        assert_eq!(clock.passed(true, begin + SECOND * 115), SECOND * 3);
        assert_eq!(clock.passed(false, begin + SECOND * 200), Duration::ZERO);
        assert_eq!(clock.passed(true, begin + SECOND * 201), Duration::ZERO);
        assert_eq!(clock.passed(true, begin + SECOND * 212), SECOND);
    }

    fn order(label: &str) -> OutboxOrder {
        OutboxOrder {
            body: vec![0; 1_000],
            kilobytes: 1,
            length: 900,
            recipients: 1,
            prices: 1,
            price: 0,
            label: label.to_owned(),
            sent: SentNames {
                alias: "first@relay.test".to_owned(),
                own: None,
                outside: format!("{label}@relay.test"),
            },
            reports: SentReports::default(),
            now: 1,
        }
    }

    #[tokio::test]
    async fn a_loop_shows_in_no_list_and_one_that_is_refused_or_held_does_not_stay() {
        let bridge = bridge().await;
        let loops = &bridge.looping.loops;
        for refusal in [Refusal::Value { shortfall: 1 }, Refusal::Recipient { recipient: 0 }] {
            let word = loops.word(bridge.host.random());
            assert!(loops.begin(&word, "first@relay.test", SECOND));
            let row = bridge.store.enqueue(order(&word)).await.expect("room");
            loops.sent(&word);
            let other = bridge.store.enqueue(order("Lunch")).await.expect("room");
            assert_eq!(bridge.rows().expect("readable").len(), 1);
            assert_eq!(bridge.status().expect("readable")["outbox"], 1);
            assert!(bridge.drop_loops(false).await, "it may go yet");
            let seq = bridge.store.outbox().expect("readable")[0].change.seq;
            let refused = Answer::Refused { seq, refusal };
            bridge.store.answered(row, refused, None, 2).await.expect("its answer");
            assert!(!bridge.drop_loops(false).await);
            assert_eq!(loops.tally().sent, 0, "no relay lost it");
            let rows = bridge.store.outbox().expect("readable");
            assert!(rows.len() == 1 && rows[0].row == other);
            assert!(bridge.store.cancel(other).await.expect("written"));
        }
    }

    #[tokio::test]
    async fn none_is_sent_while_another_device_has_the_account_or_little_is_left() {
        let bridge = bridge().await;
        assert_eq!(bridge.loop_pause(), None);
        bridge.looping.loops.set_alone(Some(false));
        assert!(bridge.loop_pause().is_some_and(|reason| reason.contains("devices")));
        assert!(!bridge.send_loop(SECOND).await);
        bridge.looping.loops.set_alone(Some(true));
        let value = ValueMirror {
            balance: 99,
            credits: 99,
            at: 1,
            ..ValueMirror::default()
        };
        bridge.store.put_value(value, None).await.expect("room");
        assert!(bridge.loop_pause().is_some_and(|reason| reason.contains("used up")));
        assert!(!bridge.send_loop(SECOND).await);
        assert!(bridge.store.outbox().expect("readable").is_empty());
    }

    #[tokio::test]
    async fn what_is_under_way_outlives_the_process() {
        let bridge = bridge().await;
        let load = || Loops::load(&bridge.host, &bridge.dir, &bridge.store);
        let (loops, words) = (load(), [1, 2, 3].map(|at| Loops::of(&bridge.store).word([at; 24])));
        for word in &words {
            assert!(loops.begin(word, "first@relay.test", SECOND));
        }
        loops.sent(&words[0]);
        loops.sent(&words[1]);
        loops.save().expect("written");
        let again = load();
        assert!(again.take(words[1].as_bytes()));
        again.save().expect("written");
        let third = load();
        // Whether the third one ever reached the outbox is not known.
        assert!(third.pass(SECOND, |_| true));
        let tally = third.tally();
        assert_eq!((tally.sent, tally.back, tally.lost), (2, 1, 1));
        assert!(third.take(words[1].as_bytes()), "it came again");
        assert_eq!(third.tally(), tally);
    }
}
