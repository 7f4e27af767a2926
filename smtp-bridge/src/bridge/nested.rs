//! How mail comes to go nested, over two relays of two operators.
//!
//! Where nobody asked for it, it is said how. Where it was promised, nothing is sent before the pack of the second relay is there,
//! and what that waits for is said ([`Awaiting`]); who buys it is outside.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mailbox::request::Offers;
use mailbox::{HolderStore, StoreError};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Bridge;
use super::commands::ANSWER_WAIT_MAX;
use crate::figures::grouped;
use crate::holder::LinkState;
use crate::message::Notice;
use crate::net::stopped;
use crate::smtp::replies::{Enhanced, Reply};

/// Mail before the pack of the second relay is there.
pub(super) const NOT_NESTED_YET: Reply = Reply::fixed(
    451,
    Enhanced::new(4, 3, 2),
    "mail is to go over two relays and the second one is not there yet: try again later; 'postern status' says why, and how to send without",
);
/// An address before that.
pub(crate) const ADDRESSES_WAIT: &str =
    "addresses are opened when mail can go over two relays, at the second one: see 'postern status'";
/// Seconds in a day.
const DAY: u64 = 86_400;
/// So long nothing may come of it before the user is told by a message.
const TOLD_AFTER: Duration = Duration::from_secs(60);
/// Between two questions whether a top-up came.
const ASK_PACE: Duration = Duration::from_secs(30);
/// Between two looks whether that is so.
const PACE: Duration = Duration::from_secs(5);

/// What a bridge that is to be nested waits for, while it has no pack at a second relay.
pub struct Awaiting {
    percent_max: u8,
    relay: Option<String>,
    is_up: watch::Sender<bool>,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    words: String,
    /// Since when nothing comes of it.
    stuck: Option<Instant>,
    /// What the user was told by a message, and on which day.
    told: Option<(u32, String)>,
    /// When the relay was last asked whether there is more value now.
    asked: Option<Instant>,
}

impl Awaiting {
    /// For a pack that may cost so many hundredths of the balance, and is to be at this relay, if one is named.
    pub fn new(percent_max: u8, relay: Option<&str>) -> Self {
        Awaiting {
            percent_max,
            relay: relay.map(str::to_ascii_lowercase),
            is_up: watch::channel(false).0,
            said: Mutex::default(),
        }
    }

    /// Says what is waited for, in one sentence. `is_stuck`: it does not come by itself, or not soon.
    pub fn say(&self, words: &str, is_stuck: bool) {
        let mut said = self.said();
        words.clone_into(&mut said.words);
        said.stuck = is_stuck.then(|| said.stuck.unwrap_or_else(Instant::now));
    }

    /// Ends when the bridge takes commands.
    pub async fn up(&self) {
        stopped(&mut self.is_up.subscribe()).await;
    }

    pub(super) fn set_up(&self) {
        self.is_up.send_replace(true);
    }

    /// Most that a pack may cost where so much is left, both in µtok.
    fn most(&self, left: u64) -> u64 {
        let most = u128::from(left) * u128::from(self.percent_max) / 100;
        u64::try_from(most).unwrap_or(left)
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the relay is to be asked for the value now; it counts as asked from then on.
    fn is_question_due(&self) -> bool {
        let mut said = self.said();
        let is_due = said.asked.is_none_or(|asked| asked.elapsed() >= ASK_PACE);
        if is_due {
            said.asked = Some(Instant::now());
        }
        is_due
    }

    /// What the user is to be told by a message now: once a day at most while it is the same.
    fn due(&self, today: u32) -> bool {
        let mut said = self.said();
        let now = (today, said.words.clone());
        let is_due = said.stuck.is_some_and(|since| since.elapsed() >= TOLD_AFTER) && said.told.as_ref() != Some(&now);
        if is_due {
            said.told = Some(now);
        }
        is_due
    }
}

/// A pack that may be bought at a relay of another operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SecondRelay {
    /// The relay's domain.
    pub(super) domain: String,
    /// Link keys in it.
    pub(super) keys: u64,
    /// Its value, in µtok.
    pub(super) value: u64,
    /// What it costs, its value included, in µtok.
    pub(super) price: u64,
}

impl SecondRelay {
    /// The cheapest of these offers.
    pub(super) fn cheapest(domain: &str, offers: &Offers) -> Option<Self> {
        let pack = |(keys, value): &(u64, u64)| {
            Some(SecondRelay {
                domain: domain.to_owned(),
                keys: *keys,
                value: *value,
                price: offers.price(domain, *keys, *value)?,
            })
        };
        offers.sizes.iter().filter_map(pack).min_by_key(|pack| pack.price)
    }
}

impl<S: HolderStore> Bridge<S> {
    /// Asks what is offered, where the link is not nested.
    pub(super) async fn look_for_second_relay(&self) {
        if self.entry.is_some() {
            return;
        }
        let asked = tokio::time::timeout(ANSWER_WAIT_MAX, self.holder.offers()).await;
        if let Ok(Some(mut offers)) = asked {
            if let Some(wanted) = self.awaiting.as_ref().and_then(|awaiting| awaiting.relay.as_ref()) {
                offers.relays.retain(|domain| domain == wanted);
            }
            let relay = self.store.facts().relay_domain;
            self.directory.note_second(&relay, &offers, self.host.day());
        }
    }

    /// How mail comes to go nested, in one sentence.
    pub(super) fn way_to_nested(&self) -> Option<String> {
        let second = self
            .directory
            .second(self.host.day())
            .filter(|_| self.entry.is_none() && self.awaiting.is_none())?;
        let SecondRelay {
            domain,
            keys,
            value,
            price,
        } = second;
        let relay = self.store.facts().relay_domain;
        (price <= self.store.value().balance).then(|| {
            format!(
                "{relay} alone sees your address and your mail: so that no operator sees both, give 'postern procure --relay {domain} --keys \
                 {keys} --value {value} --out FILE' ({} µtok, of which {} are the new pack's), and then the two commands that it shows, for a \
                 nested way by two relays.",
                grouped(price),
                grouped(value)
            )
        })
    }
}

impl<S: HolderStore> Bridge<S> {
    /// What a bridge that is to be nested waits for, and the way out of it.
    pub(super) fn awaited(&self) -> Option<String> {
        let words = self.awaiting.as_ref()?.said().words.clone();
        let relay = self.store.facts().relay_domain;
        Some(format!(
            "No mail is sent before it can go over two relays: {words} To send by {relay} alone, which then sees your address and your \
             mail, start the bridge with --direct-now, or for good write nested = false into bridge.toml."
        ))
    }

    /// The pack that a bridge which is to be nested buys: where it is to be had, and for how much. The error says what it
    /// lacks.
    pub(super) fn second_pack(&self) -> Result<Value, String> {
        let awaiting = self.awaiting.as_ref().ok_or("this bridge buys no pack by itself")?;
        let (relay, today) = (self.store.facts().relay_domain, self.host.day());
        if self.holder.state() != LinkState::Linked {
            return Err(format!("the bridge is not linked with {relay}."));
        }
        // What the directory does not know it names no other operator's relays for; and one that is left soon carries nothing.
        let known = self.directory.relay(&relay, today);
        known.map_err(|words| format!("{words}."))?;
        let Some(second) = self.directory.second(today) else {
            return Err(match self.directory.is_offer_known() {
                true => format!(
                    "{relay} offers no pack at {}a relay of another operator that delivers everywhere; it is asked again from time to time.",
                    awaiting
                        .relay
                        .as_ref()
                        .map_or(String::new(), |wanted| format!("{wanted} as "))
                ),
                false => format!("{relay} has not said which packs it offers; one of an older version offers none."),
            });
        };
        let left = self.unreserved().map_err(|error| error.to_string())?;
        let most = awaiting.most(left);
        if second.price > most {
            if awaiting.is_question_due() {
                self.holder.refresh();
            }
            return Err(format!(
                "the cheapest pack at a relay of another operator, {}, costs {} µtok, which is more than {} percent of the {} µtok that \
                 are left: top the pack up, or set nested_percent_max in bridge.toml.",
                second.domain,
                grouped(second.price),
                awaiting.percent_max,
                grouped(left)
            ));
        }
        Ok(
            json!({ "relay": second.domain, "keys": second.keys, "value": second.value, "price": second.price, "most": most }),
        )
    }

    /// Most that the pack at a second relay may cost now, in µtok. `None`: this bridge buys none by itself.
    pub(super) fn second_pack_most(&self) -> Result<Option<u64>, StoreError> {
        let most = |awaiting: &Arc<Awaiting>| Ok(awaiting.most(self.unreserved()?));
        self.awaiting.as_ref().map(most).transpose()
    }

    /// Balance that is not spoken for, in µtok.
    fn unreserved(&self) -> Result<u64, StoreError> {
        Ok(self.store.value().balance.saturating_sub(self.store.reserved()?))
    }

    /// Why mail has no future over the second relay that the bridge chose by itself, and what brings it over another one, which
    /// spends value and is for the user to say.
    pub(super) fn way_to_another(&self) -> Option<String> {
        let entry = self.entry.as_ref().filter(|_| self.stands_since.is_some())?;
        let (relay, entry) = (self.store.facts().relay_domain, entry.facts().relay_domain);
        let state = self.holder.state();
        let reason = if self.directory.is_draining(&relay) {
            format!("{relay}, the second relay, is being left by its operator.")
        } else if state == LinkState::Replaced {
            format!("Somebody else has the pack at {relay}, the second relay.")
        } else if state != LinkState::Linked && self.is_unlinked_for_a_day() {
            format!("{relay}, the second relay, has not been reached through {entry} for a day.")
        } else {
            return None;
        };
        let others = self.directory.others(&entry, &relay);
        Some(another_in_words(&reason, &self.dir, &entry, &others))
    }

    fn is_unlinked_for_a_day(&self) -> bool {
        let linked = self.diary.lock().unwrap_or_else(PoisonError::into_inner).linked;
        let made = (u64::from(self.stands_since.unwrap_or_default()) + 1) * DAY;
        self.host.clock.unix_seconds().saturating_sub(linked.max(made)) >= DAY
    }

    /// Refuses what would have a pack that is to be the entry alone known by more.
    pub(super) fn refuse_while_awaiting(&self) -> Result<(), String> {
        match &self.awaiting {
            None => Ok(()),
            Some(_) => Err(ADDRESSES_WAIT.to_owned()),
        }
    }
}

/// The commands that have another second relay's pack bought.
fn another_in_words(reason: &str, dir: &Path, entry: &str, others: &[String]) -> String {
    let relays = match others {
        [] => "The directory names no other relay of another operator that delivers everywhere.".to_owned(),
        others => format!(
            "The directory has {} besides; nested_relay = \"...\" in bridge.toml names the one that is to be taken.",
            others.join(", ")
        ),
    };
    let dir = dir.display();
    format!(
        "{reason} {relays} To have a pack bought at another one, out of what is left at {entry}, stop the bridge, give 'mv {dir} {dir}.old', \
         and start it again. What is in the old folder, mail and value, stays there: 'postern run --dir {dir}.old --entry' and the folder \
         above it opens it."
    )
}

/// Tells the user by a message when nothing comes of the second relay, or no more, until `stop` turns true.
pub(super) async fn watch<S: HolderStore>(bridge: Arc<Bridge<S>>, mut stop: watch::Receiver<bool>) {
    if bridge.awaiting.is_none() && bridge.stands_since.is_none() {
        return;
    }
    let mut told = None;
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(PACE) => {}
        }
        let today = bridge.host.day();
        if bridge.awaiting.as_ref().is_some_and(|awaiting| awaiting.due(today)) {
            let words = bridge.awaited().unwrap_or_default();
            bridge.notify(&Notice::NotNested { words: &words }).await;
        }
        let lost = bridge.way_to_another().map(|words| (today, words));
        if let Some((_, words)) = &lost
            && told != lost
        {
            bridge.notify(&Notice::SecondRelayLost { words }).await;
            told = lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_user_is_told_once_a_day_and_only_when_nothing_comes_of_it() {
        let awaiting = Awaiting::new(50, None);
        awaiting.say("it is on its way.", false);
        tokio::time::sleep(TOLD_AFTER * 10).await;
        assert!(!awaiting.due(1));
        awaiting.say("it is too dear.", true);
        assert!(!awaiting.due(1), "it may pass");
        tokio::time::sleep(TOLD_AFTER).await;
        awaiting.say("it is too dear.", true);
        assert!(awaiting.due(1) && !awaiting.due(1) && awaiting.due(2));
        awaiting.say("there is none.", true);
        assert!(awaiting.due(2), "for another reason");
        awaiting.say("it is on its way.", false);
        tokio::time::sleep(TOLD_AFTER * 10).await;
        assert!(!awaiting.due(3));
    }

    #[tokio::test]
    async fn what_waits_for_a_second_relay_opens_no_address_and_says_the_way_out() {
        let mut bridge = crate::bridge::reading::tests::bridge().await;
        assert!(bridge.awaited().is_none() && bridge.refuse_while_awaiting().is_ok());
        assert!(bridge.pack_facts().expect("readable")["second_pack_most"].is_null());
        assert!(bridge.second_pack().is_err_and(|words| words.contains("buys no pack")));
        let awaiting = Arc::new(Awaiting::new(50, None));
        awaiting.say("it is too dear.", true);
        Arc::get_mut(&mut bridge).expect("nobody else has it").awaiting = Some(awaiting);
        assert!(bridge.refuse_while_awaiting().is_err());
        let sealed = bridge
            .command(crate::bridge::commands::Command::SealControl { alias: None })
            .await;
        assert!(sealed.is_err_and(|words| words.contains("when mail can go over two relays")));
        let most = bridge
            .awaiting
            .as_ref()
            .map(|awaiting| (awaiting.most(101), awaiting.most(u64::MAX)));
        assert_eq!(most, Some((50, u64::MAX / 2)));
        assert_eq!(bridge.pack_facts().expect("readable")["second_pack_most"], 0);
        assert!(
            bridge
                .second_pack()
                .is_err_and(|words| words.contains("not linked with relay.test"))
        );
        let words = bridge.awaited().expect("it waits");
        assert!(
            words.contains("it is too dear.") && words.contains("--direct-now"),
            "{words}"
        );
        assert!(bridge.warnings().contains(&words));
    }

    #[tokio::test]
    async fn a_second_relay_that_is_not_reached_for_a_day_is_told_with_the_way_to_another() {
        let mut bridge = crate::bridge::reading::tests::bridge().await;
        let today = bridge.host.day();
        let entry = bridge.store.clone();
        let inner = Arc::get_mut(&mut bridge).expect("nobody else has it");
        assert!(inner.pack_facts().expect("readable")["nested"].is_null());
        inner.entry = Some(entry);
        assert_eq!(inner.pack_facts().expect("readable")["nested"], "relay.test");
        assert!(
            inner.way_to_another().is_none(),
            "an entry that was named by hand is its user's"
        );
        inner.stands_since = Some(today);
        assert!(inner.way_to_another().is_none(), "it is new");
        inner.stands_since = Some(today - 3);
        let words = inner.way_to_another().expect("never reached");
        assert!(
            words.contains("not been reached") && words.contains("mv /h /h.old"),
            "{words}"
        );
        assert!(inner.warnings().contains(&words));
        let now = inner.host.clock.unix_seconds();
        inner.diary.lock().expect("not poisoned").linked = now - DAY + 60;
        assert!(inner.way_to_another().is_none(), "reached today");
    }
}
