//! The work on an established link: empty the outbox, collect the mail, keep the mirror of the value true.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keypacks::pad::PadError;
use ledger::Services;
use mailbox::holder_store::{OutboxRow, ValueMirror};
use mailbox::request::{Answer, DEVICES_MAX, OFFERS_MAX, Offer, Operation, Profile, Refusal, Request, SERVICES_MAX};
use mailbox::{HolderStore, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::answers::Answers;
use super::dial::Established;
use super::requests::Requests;
use super::shortage::Shortage;
use super::{
    Asked, CoverWish, Devices, HolderConfig, OffersWish, Statement, Wishes, collecting, cover, directory, streaming,
};
use crate::link::LinkError;
use crate::message::{self, Notice};
use crate::names;
use crate::net::{Host, stopped};

mod recovery;

/// Why the work on a link is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// The process stops.
    #[error("stopping")]
    Stopped,
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The relay answered something else than was asked.
    #[error("the relay gave an answer that does not fit the request")]
    Nonsense,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The pack has new keys: the next link is under them.
    #[error("the pack has new keys")]
    Rerooted,
    /// The relay could not say for now. Not the end: the link is kept, and the next tick asks again.
    #[error("the relay is busy")]
    Busy,
}

/// How often the value is asked for while it pays for cover.
const VALUE_PACE: Duration = Duration::from_secs(60);

/// Most days and kinds of a statement: thirty years of every kind.
const STATEMENT_MAX: usize = 50_000;

/// Most profiles that a relay may offer: some that are not known here among them.
const PROFILES_MAX: usize = 16;

/// Works until the link ends, and says why it did.
pub(super) async fn work<S: HolderStore>(
    host: &Host,
    store: &S,
    config: &HolderConfig,
    mut link: Established,
    wishes: &mut Wishes,
    mut stop: watch::Receiver<bool>,
) -> Ended {
    let begin = async {
        match store.rooting().is_pending {
            // A link on which the keys change is not for long, and mail does not go over it.
            true => Ok(None),
            false => cover::begin(host, config, &mut link).await,
        }
    };
    let covered = tokio::select! {
        biased;
        () = stopped(&mut stop) => return Ended::Stopped,
        covered = begin => covered,
    };
    let covered = match covered {
        Ok(covered) => covered,
        Err(error) => return error.into(),
    };
    let mut courier = Courier {
        config,
        host,
        store,
        // A relay whose value was never asked for has not been linked with: what it lost is nobody's here.
        is_new: store.value().at == 0,
        told_at: None,
        recovers: false,
        shortage: std::mem::take(&mut wishes.shortage),
        short_of_room: Arc::clone(&wishes.short_of_room),
        is_frozen: link.is_frozen,
        generation: link.generation,
        link: Requests::new(link, config.answer_timeout).covered(covered),
        answers: Answers::new(host, store, config),
        stop: stop.clone(),
    };
    let ended = go_on(&mut courier, wishes, covered.is_some(), stop).await;
    // The next link does not begin its pauses anew.
    wishes.shortage = courier.shortage;
    ended
}

async fn go_on<S: HolderStore>(
    courier: &mut Courier<'_, S>,
    wishes: &mut Wishes,
    is_covered: bool,
    mut stop: watch::Receiver<bool>,
) -> Ended {
    let mut outbox = courier.store.outbox_changed();
    let start = Instant::now();
    let mut due = None;
    let mut value_due = start + VALUE_PACE;
    let checks_max = if courier.store.facts().rotation.rotates() {
        CHECKS
    } else {
        0
    };
    let mut checks = checks_max;
    let mut done = courier.begin().await;
    loop {
        match done {
            Ok(()) => {}
            // Another link would cost a key and meet the same: the next tick tries again on this one.
            Err(Ended::Busy | Ended::Store(StoreError::Busy | StoreError::Full)) => courier.link.news = true,
            Err(ended) => {
                if matches!(ended, Ended::Stopped | Ended::Rerooted) {
                    courier.link.close().await;
                }
                return ended;
            }
        }
        // A tick is waited for only when it would do something: an idle bridge sleeps until a byte arrives.
        let look = courier.link.news || courier.has_waiting() || courier.shortage.lasts() || checks > 0;
        // Once there is something to look for, its tick stands: mail that goes out without a pause does not put it off.
        let tick = due
            .filter(|_| look)
            .unwrap_or_else(|| next_tick(start, courier.config.tick));
        due = look.then_some(tick);
        let mut is_check = false;
        done = tokio::select! {
            biased;
            () = stopped(&mut stop) => Err(Ended::Stopped),
            () = tokio::time::sleep_until(tick), if look => {
                due = None;
                is_check = !courier.link.news && !courier.has_waiting() && !courier.has_room_again();
                if is_check { Ok(()) } else { courier.look().await }
            }
            _ = wishes.refreshed.changed() => courier.look().await,
            Some(statement) = wishes.asked.recv() => courier.statement(statement).await,
            Some(devices) = wishes.devices.recv() => courier.devices(devices).await,
            Some(mixing) = wishes.mixing.recv() => courier.mixing(mixing).await,
            Some(offers) = wishes.offers.recv() => courier.offers(offers).await,
            Some(wish) = wishes.cover.recv() => courier.cover_offer(wish).await,
            Some(wish) = wishes.directory.recv() => directory::fetch(&mut courier.link, wish).await,
            _ = outbox.changed() => courier.send_all().await,
            // Cover costs while nothing else happens.
            () = tokio::time::sleep_until(value_due), if is_covered => {
                value_due = Instant::now() + VALUE_PACE;
                courier.refresh_value(false).await
            }
            news = courier.link.wait_for_news() => news.map_err(Ended::from),
        };
        checks = if is_check { checks.saturating_sub(1) } else { checks_max };
        if done.is_ok() && courier.has_paid_for_keys() {
            done = courier.refresh_value(false).await;
        }
    }
}

/// Ticks after anything was asked on a link that goes on under new keys at which it is looked whether it did: the relay's word
/// on a key may come behind the answer that told the value, and nothing else tells of it. No more, since what is asked then
/// may be what the next key is for.
const CHECKS: u8 = 3;

/// The next point of the link's own grid: mail is collected there, so that its arrival shows no finer.
fn next_tick(start: Instant, tick: Duration) -> Instant {
    let passed = start.elapsed().as_nanos() / tick.as_nanos().max(1) + 1;
    start + tick * u32::try_from(passed).unwrap_or(u32::MAX)
}

struct Courier<'a, S> {
    config: &'a HolderConfig,
    host: &'a Host,
    store: &'a S,
    link: Requests,
    /// The relay takes nothing but a change of keys.
    is_frozen: bool,
    /// Of the relay's store.
    generation: u64,
    answers: Answers<'a, S>,
    /// Link key to come when the value was told last.
    told_at: Option<u64>,
    /// The relay was not asked for its value before this link.
    is_new: bool,
    /// The relay was restored, and not all of it was told yet.
    recovers: bool,
    shortage: Shortage,
    /// Whether it lasts, for the rest of the process.
    short_of_room: Arc<AtomicBool>,
    stop: watch::Receiver<bool>,
}

impl<S: HolderStore> Courier<'_, S> {
    /// What every link starts with.
    async fn begin(&mut self) -> Result<(), Ended> {
        // Nothing is deleted for a frozen pack, and what is to be told again waits until it is.
        self.recovers = self.generation > self.store.relay_generation()? && (self.is_new || !self.is_frozen);
        if self.store.rooting().is_pending {
            // Perhaps the relay has changed keys, and its answer was lost: then it hears of nothing else on this link.
            self.send_all().await?;
        }
        // A relay that does not know what is asked then has done what it was linked with for.
        self.look_once().await?;
        self.look_for_pool().await
    }

    /// Whether the relay mixes decides how mail waits that says nothing of it.
    async fn look_for_pool(&mut self) -> Result<(), Ended> {
        let Some(pool) = self.config.pool.as_ref().filter(|_| !self.is_frozen) else {
            return Ok(());
        };
        if let Answer::Mixing(mixing) = self.link.ask(&Request::Mixing, &[]).await? {
            let is_mixed = |offer: &Offer| offer.profile == Profile::Mixed.number();
            pool.note(Some(mixing.profiles.iter().any(is_mixed)));
        }
        Ok(())
    }

    /// What a tick is for.
    async fn look(&mut self) -> Result<(), Ended> {
        if self.recovers && self.shortage.lasts() && !self.has_room_again() {
            // What it is told rests on what waits there: until that is collected it hears of nothing else, but what has room
            // still comes.
            self.link.news = false;
            return self.collect().await;
        }
        self.look_once().await
    }

    async fn look_once(&mut self) -> Result<(), Ended> {
        self.refresh_value(true).await?;
        if self.recovers {
            self.recover(self.is_new).await?;
            self.recovers = false;
        }
        let collected = self.collect().await;
        if matches!(collected, Ok(()) | Err(Ended::Busy | Ended::Store(_))) {
            // Mail that cannot come in holds up none that goes out.
            self.send_all().await?;
        }
        collected
    }

    /// Whether it is worth a look for what the disk had no room for.
    fn has_room_again(&self) -> bool {
        self.shortage.may_end(self.store.room().unwrap_or(0))
    }

    /// Whether the link took another key since the value was told: whatever is asked may have cost one.
    fn has_paid_for_keys(&self) -> bool {
        self.told_at.is_some_and(|told| told != self.store.link_position().base)
    }

    /// Whether something in the outbox may go later: held for want of value, or still queued since the relay was busy.
    fn has_waiting(&self) -> bool {
        self.store.outbox_waits()
    }

    /// Asks for the balance (and the prices: then held messages go that the balance covers by now; not at every change
    /// of it, since a relay that refuses them again would be asked without a pause).
    async fn refresh_value(&mut self, with_prices: bool) -> Result<(), Ended> {
        // The balance last: any cell before it may have cost the price of a key.
        let prices = if with_prices {
            let answer = self.link.ask(&Request::Prices, &[]).await?;
            let Answer::Prices(prices) = answer else {
                return Err(unexpected(&answer));
            };
            // A relay that was restored gives versions out again, for other legs than before.
            let is_restored = self.generation > self.store.relay_generation()?;
            if self.store.onward().version != prices.version || is_restored || self.answers.doubts_legs {
                let answer = self.link.ask(&Request::Onward, &[]).await?;
                let Answer::Onward(onward) = answer else {
                    return Err(unexpected(&answer));
                };
                // Before the list that it belongs to: no message is ever priced by one without the other.
                self.store.put_onward(onward.into()).await?;
                self.answers.doubts_legs = false;
            }
            Some(prices)
        } else {
            None
        };
        let answer = self.link.ask(&Request::Balance, &[]).await?;
        let Answer::Balance {
            balance,
            keys,
            credits,
            debits,
        } = answer
        else {
            return Err(unexpected(&answer));
        };
        self.told_at = Some(self.store.link_position().base);
        let news = ValueMirror {
            balance,
            keys,
            credits,
            debits,
            at: self.host.clock.unix_seconds(),
        };
        let known = self.store.value();
        if (known.balance, known.keys, known.credits, known.debits) != (balance, keys, credits, debits)
            || prices.is_some_and(|prices| Some(prices) != self.store.prices())
        {
            self.store.put_value(news, prices).await?;
        }
        let pays = self.config.settle.as_ref().is_none_or(|settle| settle.pays());
        if let Some(prices) = prices.filter(|_| pays) {
            self.store.release_held(prices, balance).await?;
        }
        Ok(())
    }

    /// Asks for all that was credited and debited, one part of the journal after the other.
    async fn statement(&mut self, wish: Statement) -> Result<(), Ended> {
        let (mut statement, mut from): (Vec<Services>, u64) = (Vec::new(), 0);
        loop {
            if *self.stop.borrow() {
                return Err(Ended::Stopped);
            }
            if wish.is_closed() {
                return Ok(());
            }
            let answer = self.link.ask(&Request::Statement { from }, &[]).await?;
            let Answer::Statement { services, next, more } = answer else {
                return Err(unexpected(&answer));
            };
            // Else a relay could keep this link with it for ever, or fill the memory.
            if services.len() > SERVICES_MAX
                || more && (next <= from || services.is_empty())
                || statement.len() > STATEMENT_MAX
            {
                return Err(Ended::Nonsense);
            }
            for part in services {
                if !statement.iter_mut().rev().any(|known| known.merge(&part)) {
                    statement.push(part);
                }
            }
            if !more {
                // Whoever asked may have given up.
                let _ = wish.send(statement);
                return Ok(());
            }
            from = next;
        }
    }

    /// Asks for the devices of the account, and for the value, which the others spend too.
    async fn devices(&mut self, wish: Devices) -> Result<(), Ended> {
        self.refresh_value(false).await?;
        match self.link.ask(&Request::Devices, &[]).await? {
            Answer::Devices { own, devices } if devices.len() <= DEVICES_MAX => {
                // Whoever asked may have given up.
                let _ = wish.send((own, devices));
                Ok(())
            }
            // The store could not say.
            Answer::Refused {
                refusal: Refusal::Busy, ..
            } => Ok(()),
            answer => Err(unexpected(&answer)),
        }
    }

    /// Asks what the relay's pool offers.
    async fn mixing(&mut self, wish: Asked) -> Result<(), Ended> {
        match self.link.ask(&Request::Mixing, &[]).await? {
            Answer::Mixing(mixing) if mixing.profiles.len() <= PROFILES_MAX => {
                // Whoever asked may have given up.
                let _ = wish.send(mixing);
                Ok(())
            }
            // The store could not say.
            Answer::Refused {
                refusal: Refusal::Busy, ..
            } => Ok(()),
            answer => Err(unexpected(&answer)),
        }
    }

    /// Asks which packs at further relays are procured.
    async fn offers(&mut self, wish: OffersWish) -> Result<(), Ended> {
        match self.link.ask(&Request::Offers, &[]).await? {
            Answer::Offers(offers) if offers.relays.len() <= OFFERS_MAX && offers.sizes.len() <= OFFERS_MAX => {
                // Whoever asked may have given up.
                let _ = wish.send(offers);
                Ok(())
            }
            answer => Err(unexpected(&answer)),
        }
    }

    /// Asks what cover costs.
    async fn cover_offer(&mut self, wish: CoverWish) -> Result<(), Ended> {
        match self.link.ask(&Request::CoverOffer, &[]).await? {
            Answer::CoverOffer(offer) => {
                // Whoever asked may have given up.
                let _ = wish.send(offer);
                Ok(())
            }
            answer => Err(unexpected(&answer)),
        }
    }

    /// Sends every queued change in the order of their numbers.
    async fn send_all(&mut self) -> Result<(), Ended> {
        if self.config.settle.is_some() && self.store.own_book()?.beyond > 0 {
            // A peer that takes more than its price is given nothing until the operator says so.
            return Ok(());
        }
        // A relay that was restored has to know the aliases again before it is sent anything from them.
        let keys_alone = self.is_frozen || self.recovers;
        let mut sent = false;
        loop {
            if self.config.settle.is_some() && !keys_alone && self.link.may_stream() {
                let streamed = streaming::send(&mut self.answers, &mut self.link, &self.stop).await?;
                sent |= streamed.sent;
                if !streamed.goes_on {
                    break;
                }
            }
            if *self.stop.borrow() {
                return Err(Ended::Stopped);
            }
            let Some(row) = self.store.next_queued()? else { break };
            let is_reroot = matches!(row.change.operation, Operation::Reroot { .. });
            if keys_alone && !is_reroot {
                break;
            }
            let body = match row.change.operation {
                Operation::Submit { .. } => match self.store.outbox_body(row.row)? {
                    Some(body) => Zeroizing::new(body),
                    // It was cancelled just now, and will be gone when the outbox says that it changed.
                    None => break,
                },
                _ => Zeroizing::default(),
            };
            let asked = self.link.ask(&Request::Change(row.change.clone()), &body).await;
            let answer = match asked {
                // Refused before anything of it was sealed: smaller ones may still go.
                Err(LinkError::Pad(PadError::Spent)) if !body.is_empty() => Answer::Refused {
                    seq: row.change.seq,
                    refusal: without_room(&row),
                },
                asked => asked?,
            };
            drop(body);
            sent = true;
            if matches!(answer, Answer::Rerooted { .. }) {
                self.answers.take(row, answer).await?;
                return Err(Ended::Rerooted);
            }
            if !self.answers.take(row, answer).await? {
                break;
            }
        }
        if sent { self.refresh_value(false).await } else { Ok(()) }
    }

    fn compose(&self, notice: &Notice<'_>) -> Vec<u8> {
        compose(self.host, self.config, notice)
    }

    async fn collect(&mut self) -> Result<(), Ended> {
        let Courier {
            config, host, store, ..
        } = *self;
        if self.shortage.is_paused(store.room().unwrap_or(0)) {
            // The end of the pause asks for what news tell of.
            self.link.news = false;
            return Ok(());
        }
        let before = (store.collect_from(), store.pending()?.len());
        match collecting::collect(host, store, config, &mut self.link, &self.stop).await {
            Ok(wanted) => self.shortage.collected(wanted),
            Err(Ended::Store(StoreError::Full)) => {
                tracing::warn!("the disk is full: mail that was fetched could not be stored");
                self.shortage.refused(store.room().unwrap_or(0));
            }
            Err(ended) => return Err(ended),
        }
        self.short_of_room.store(self.shortage.lasts(), Ordering::Relaxed);
        // What came in may have cost its price, and keys on the way.
        if (store.collect_from(), store.pending()?.len()) != before {
            self.refresh_value(false).await?;
        }
        Ok(())
    }
}

/// A message of the bridge itself to its user.
pub(super) fn compose(host: &Host, config: &HolderConfig, notice: &Notice<'_>) -> Vec<u8> {
    message::notice(notice, &config.user, &names::random(host), host.clock.unix_seconds())
}

/// What becomes of mail that the pad has no room for. If it left before and its answer was cut, nobody can ask any more
/// what became of it.
fn without_room(row: &OutboxRow) -> Refusal {
    if row.may_have_left {
        Refusal::Stale
    } else {
        Refusal::Pad
    }
}

/// What an answer of another kind than was asked for means.
pub(super) fn unexpected(answer: &Answer) -> Ended {
    match answer {
        Answer::Refused {
            refusal: Refusal::Busy, ..
        } => Ended::Busy,
        _ => Ended::Nonsense,
    }
}

/// What a refusal means to the person who sent the mail.
pub(crate) fn refusal_reason(refusal: Refusal) -> String {
    match refusal {
        Refusal::Sender => "the relay does not know the sending alias as one of yours, or it is closed".into(),
        Refusal::Route { recipient } => format!("the relay has no way to the domain of recipient {}", recipient + 1),
        Refusal::Recipient { recipient } => format!("recipient {} is not an address", recipient + 1),
        Refusal::Keys => {
            "the pack's link keys are nearly used up, and the last ones only collect mail: get a new pack".into()
        }
        Refusal::Limit => "this pack has made as many others as it may in one day: try again tomorrow".into(),
        Refusal::Occupied => {
            "the pack has open aliases, mail that waits, packs that are ordered, or other devices: close, collect, await and drop those first".into()
        }
        Refusal::DeviceLimit => format!("the account has {DEVICES_MAX} devices, and may have no more"),
        Refusal::DeviceUnknown => "the account has no other device of that number".into(),
        Refusal::VoucherUnknown => {
            "what was released is not there: it was taken already, or fell back after 30 days".into()
        }
        Refusal::Ended => "the pack has ended: its aliases, value and keys are gone, and it only collects mail".into(),
        Refusal::Pad => "what is left of the pad does not hold it: send something shorter, or get a new pack".into(),
        Refusal::Frozen => {
            "the pack is frozen, since a copy of it was in use: 'postern rekey' with its recovery code ends that".into()
        }
        Refusal::Mix => {
            "the relay does not mix mail in the way that was asked for, and nothing was sent: 'postern mix' shows what it offers".into()
        }
        Refusal::Offer => "the relay does not procure such a pack now: see 'postern procure --offers'".into(),
        Refusal::Recovery => "this is not the pack's recovery code".into(),
        Refusal::Message => "the relay cannot rebuild the message from the fields it lets through".into(),
        Refusal::Conflict | Refusal::Malformed | Refusal::Unacknowledged => {
            "the relay and this bridge disagree about the request; please report this".into()
        }
        Refusal::Cover => "the relay sends no cover, or not at that rate: 'postern cover' shows what it offers".into(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
pub(super) mod tests;
