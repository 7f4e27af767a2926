//! Random operations, with the power cut between and during them.
//!
//! An operation whose outcome is unknown leaves two models; what the store shows afterwards must be one of the two,
//! whole. Beyond that: no post index is ever seen with two wraps, and an answer once given never changes.

use std::collections::{BTreeMap, BTreeSet};

use super::Backend;
use super::holder_side::{DAY, Holder, NOW, change, deposit, number_of, spool};
use super::model::{AccountModel, EVENT, Model, Outcome, message_number};
use crate::StoreError;
use crate::devices::EVENTS;
use crate::entropy::{Entropy, SeededEntropy, random};
use crate::relay::SPLITS_PER_DAY;
use crate::relay_store::{self, Account, Effect, IssueOrder, MixRound, MixTally, RelayStore, Spooled};
use crate::request::{Answer, COLLECT_MAX, Collected, Profile};

const KEY_PRICE: u64 = 3;
/// More link keys than an account of these ever has.
const KEYS_MAX: u64 = 512;

/// Runs `steps` random operations chosen by `seed`, with crashes; `at_rest` looks at the backend after each restart.
pub async fn stream<B: Backend>(backend: &B, seed: u64, steps: usize, mut at_rest: impl FnMut(&B)) {
    let mut run = Run {
        random: SeededEntropy::new(seed),
        model: Model::default(),
        holders: BTreeMap::new(),
        wraps: BTreeMap::new(),
        hour: NOW / 3_600,
        next_number: 1,
        splits: BTreeMap::new(),
    };
    let mut store = backend.open().await;
    store.set_prices(1, 1, KEY_PRICE, 0, 0).await.expect("set");
    for _ in 0..steps {
        if run.below(4) == 0 {
            backend.crash_after(run.below(24));
        }
        let before = run.model.clone();
        let outcome = run.step(&store).await;
        match outcome {
            Ok(()) => {}
            Err(error) => {
                assert!(
                    matches!(error, StoreError::Unknown | StoreError::Io(_) | StoreError::Unavailable),
                    "{error}: no refusal was due"
                );
                backend.crash(store, run.below(u64::MAX)).await;
                store = backend.open().await;
                run.reconcile(&store, before).await;
                at_rest(backend);
            }
        }
        if run.below(16) == 0 {
            match run.below(2) {
                0 => backend.crash(store, run.below(u64::MAX)).await,
                _ => {
                    backend.crash_after(run.below(16));
                    backend.close(store).await;
                }
            }
            store = backend.open().await;
            run.compare(&store).await;
            at_rest(backend);
        }
    }
    backend.crash(store, run.below(u64::MAX)).await;
    let store = backend.open().await;
    run.compare(&store).await;
    backend.close(store).await;
    at_rest(backend);
}

struct Run {
    random: SeededEntropy,
    /// What is so if the operation under way takes place.
    model: Model,
    holders: BTreeMap<u64, Holder>,
    /// Digest of every wrap ever seen.
    wraps: BTreeMap<(u64, u64), [u8; 32]>,
    hour: u64,
    next_number: u64,
    /// Packs that each account tried to make, so that it is never above what a day allows; what it made makes none.
    splits: BTreeMap<u64, u32>,
}

impl Run {
    fn below(&mut self, bound: u64) -> u64 {
        u64::from_le_bytes(random(&self.random as &dyn Entropy)) % bound
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn pick(&mut self) -> Option<u64> {
        // One that was to be made and was not, or was dropped, is not there.
        let is_there = |account: &&u64| self.model.accounts.get(account).is_some_and(|model| !model.dropped);
        let accounts: Vec<u64> = self.holders.keys().filter(is_there).copied().collect();
        (!accounts.is_empty()).then(|| accounts[self.below(accounts.len() as u64) as usize])
    }

    /// One operation. The model is moved on whether or not it succeeds; `Err`: it may or may not have happened.
    async fn step(&mut self, store: &impl RelayStore) -> Result<(), StoreError> {
        let Some(account) = self.pick() else {
            return self.issue(store).await;
        };
        match self.below(20) {
            12 => self.split(store, account).await,
            13 => self.release(store, account).await,
            14 => self.redeem(store, account).await,
            15 => self.expire(store, account).await,
            16 | 17 => self.join(store, account).await,
            18 => self.drop_device(store, account).await,
            19 => self.end_round(store).await,
            0 if self.living() < 3 && self.model.accounts.len() < 12 => self.issue(store).await,
            0 | 1 => self.top_up(store, account).await,
            2 | 3 => self.burn(store, account).await,
            4..=6 => self.submit(store, account).await,
            7 => self.open_alias(store, account).await,
            8 => self.deposit(store, account).await,
            9 => self.confirm(store, account).await,
            10 => self.finish(store).await,
            _ => {
                self.hour += 1;
                store.upkeep(self.hour * 3_600, 10_000).await.map(|_| ())
            }
        }
    }

    /// Not lost with its holder when the answer is: the account may be there, but nobody has its root.
    async fn issue(&mut self, store: &impl RelayStore) -> Result<(), StoreError> {
        let credit = self.below(300);
        let number = self.model.accounts.len() as u64;
        let order = IssueOrder {
            link_keys: 64,
            credit,
            operator: false,
            day: DAY,
            rotation: Default::default(),
        };
        let account = AccountModel {
            credits: credit,
            link_keys: 64,
            ..AccountModel::default()
        };
        self.model.accounts.insert(number, account);
        let holder = Holder::of(store.issue(order).await?);
        assert_eq!(holder.account.0, number);
        self.holders.insert(number, holder);
        Ok(())
    }

    async fn top_up(&mut self, store: &impl RelayStore, account: u64) -> Result<(), StoreError> {
        let (amount, id) = (self.below(200), random(&self.random as &dyn Entropy));
        let holder = &self.holders[&account];
        if self.model.keys_of_house(account) == 0 || self.model.ended.contains(&account) {
            let refused = store.top_up(&holder.identifier, amount, id, DAY).await;
            return match refused {
                Err(StoreError::Invalid) => Ok(()),
                Err(error) => Err(error),
                Ok(_) => panic!("a pack without keys, or one that has ended, took value"),
            };
        }
        let house = Account(self.model.house(account));
        self.model.account(house).credits += amount;
        let balance = store.top_up(&holder.identifier, amount, id, DAY).await?;
        assert_eq!(balance, Some(self.model.balance(holder.account)));
        assert_eq!(store.top_up(&holder.identifier, amount, id, DAY).await?, balance);
        Ok(())
    }

    async fn burn(&mut self, store: &impl RelayStore, account: u64) -> Result<(), StoreError> {
        let base = self.model.accounts[&account].link_base;
        let index = (base + self.below(5)).saturating_sub(self.below(2));
        let token = random(&self.random as &dyn Entropy);
        let holder = &self.holders[&account];
        let live = self.model.burn(holder.account, index, KEY_PRICE);
        let found = store.find_tag(&holder.link(index).tag)?;
        assert_eq!(
            found.map(|hit| (hit.account.0, hit.step.index, hit.floor)),
            live.then_some((account, index, base))
        );
        let burned = store.burn(holder.burn_order(index, token, token, 0)).await?;
        assert_eq!(burned.is_some(), live);
        Ok(())
    }

    async fn submit(&mut self, store: &impl RelayStore, account: u64) -> Result<(), StoreError> {
        // Sometimes a number that was used before: it must give the old answer.
        let highest = self.model.accounts[&account].highest;
        let seq = (highest + 1).saturating_sub(self.below(3)).max(1);
        let (price, count, length) = (self.below(60), 1 + self.below(3), 8 + self.below(9_000) as usize);
        let recipients: Vec<String> = (0..count).map(|n| format!("{n}@example.org")).collect();
        let is_pooled = self.below(2) == 0;
        let holder = &self.holders[&account];
        let again = self.model.accounts[&account].outcomes.contains_key(&seq);
        let mix = is_pooled.then_some(Profile::Mixed);
        let expected = self.model.submit(holder.account, seq, (&recipients, is_pooled), price);
        let mut message = message_number(holder.account, seq).to_le_bytes().to_vec();
        message.resize(length, b'm');
        let names: Vec<&str> = recipients.iter().map(String::as_str).collect();
        let effect = match spool(&names, &message, price) {
            Effect::Spool(spooled) => Effect::Spool(Spooled { mix, ..spooled }),
            other => other,
        };
        let answer = holder.execute(store, &change(seq, 0), effect).await?;
        assert_eq!(Outcome::of(&answer), expected, "again: {again}");
        Ok(())
    }

    async fn open_alias(&mut self, store: &impl RelayStore, account: u64) -> Result<(), StoreError> {
        let seq = self.model.accounts[&account].highest + 1;
        let address = format!("alias{}@relay.test", self.below(5));
        let holder = &self.holders[&account];
        let expected = self.model.open_alias(holder.account, seq, &address);
        let effect = Effect::AliasOpen { address };
        let answer = holder.execute(store, &change(seq, 0), effect).await?;
        assert_eq!(Outcome::of(&answer), expected);
        Ok(())
    }

    async fn split(&mut self, store: &impl RelayStore, account: u64) -> Result<(), StoreError> {
        let tried = self.splits.entry(account).or_default();
        if *tried == SPLITS_PER_DAY || self.model.accounts.len() > 12 {
            return Ok(());
        }
        *tried += 1;
        let seq = self.model.accounts[&account].highest + 1;
        let (child, moved) = (self.model.accounts.len() as u64, (16 + self.below(4), self.below(80)));
        let number = self.number();
        let holder = &self.holders[&account];
        let expected = self.model.split(holder.account, seq, child, moved.0, moved.1);
        let (answer, made) = holder.split(store, seq, number, moved).await?;
        assert_eq!(Outcome::of(&answer), expected);
        if let Outcome::Moved { .. } = expected {
            assert_eq!(made.account.0, child);
            self.splits.insert(child, SPLITS_PER_DAY);
            self.holders.insert(child, made);
        }
        Ok(())
    }

    async fn join(&mut self, store: &impl RelayStore, account: u64) -> Result<(), StoreError> {
        let tried = self.splits.entry(account).or_default();
        if *tried == SPLITS_PER_DAY || self.model.accounts.len() > 12 {
            return Ok(());
        }
        *tried += 1;
        let seq = self.model.accounts[&account].highest + 1;
        let (child, keys) = (self.model.accounts.len() as u64, 16 + self.below(4));
        let number = self.number();
        let expected = self.model.join(self.holders[&account].account, seq, child, keys);
        let (effect, made) = self.holders[&account].device(Account(child), number, keys);
        if let Outcome::Moved { .. } = expected {
            // Before it is known: mail for the account is its own too, if it is there.
            self.splits.insert(child, SPLITS_PER_DAY);
            self.holders.insert(child, made);
        }
        let holder = &self.holders[&account];
        let answer = holder.execute(store, &change(seq, 0), effect).await?;
        assert_eq!(Outcome::of(&answer), expected);
        Ok(())
    }

    async fn drop_device(&mut self, store: &impl RelayStore, account: u64) -> Result<(), StoreError> {
        let seq = self.model.accounts[&account].highest + 1;
        let device = 1 + self.below(4) as u32;
        let holder = &self.holders[&account];
        let expected = self.model.drop_device(holder.account, seq, device);
        let answer = holder.execute(store, &change(seq, 0), Effect::Drop { device }).await?;
        assert_eq!(Outcome::of(&answer), expected);
        Ok(())
    }

    async fn release(&mut self, store: &impl RelayStore, account: u64) -> Result<(), StoreError> {
        let seq = self.model.accounts[&account].highest + 1;
        let voucher = self.number();
        let holder = &self.holders[&account];
        let expected = self.model.release(holder.account, seq, voucher);
        let effect = Effect::Release {
            voucher: name_of(voucher),
        };
        let answer = holder.execute(store, &change(seq, 0), effect).await?;
        assert_eq!(Outcome::of(&answer), expected);
        Ok(())
    }

    async fn redeem(&mut self, store: &impl RelayStore, account: u64) -> Result<(), StoreError> {
        let seq = self.model.accounts[&account].highest + 1;
        let known: Vec<u64> = self.model.vouchers.keys().copied().collect();
        let voucher = known
            .get(self.below(1 + known.len() as u64) as usize)
            .copied()
            .unwrap_or(0);
        let holder = &self.holders[&account];
        let expected = self.model.redeem(holder.account, seq, voucher);
        let effect = Effect::Redeem {
            voucher: name_of(voucher),
        };
        let answer = holder.execute(store, &change(seq, 0), effect).await?;
        assert_eq!(Outcome::of(&answer), expected);
        Ok(())
    }

    /// Accounts of ours that have not ended.
    fn living(&self) -> usize {
        let ended = &self.model.ended;
        self.holders.keys().filter(|account| !ended.contains(account)).count()
    }

    /// Seldom, and not the last one that has anything: else nothing else would happen any more.
    async fn expire(&mut self, store: &impl RelayStore, account: u64) -> Result<(), StoreError> {
        if self.living() < 2 || self.below(3) > 0 {
            return Ok(());
        }
        let seq = self.model.accounts[&account].highest + 1;
        let day = [0, DAY][self.below(2) as usize];
        let holder = &self.holders[&account];
        let expected = self.model.expire(holder.account, seq);
        let effect = Effect::Expire { day: Some(day) };
        let answer = holder.execute(store, &change(seq, 0), effect).await?;
        assert_eq!(Outcome::of(&answer), expected);
        Ok(())
    }

    async fn deposit(&mut self, store: &impl RelayStore, account: u64) -> Result<(), StoreError> {
        let other = self.pick().unwrap_or(account);
        let recipients = [self.holders[&account].account, self.holders[&other].account];
        let (number, length) = (self.number(), self.below(3_000) as usize);
        self.model.deposit(&recipients, number);
        let payload = vec![b'd'; length];
        store
            .deposit(deposit(&recipients.map(|account| (account, 0)), number, &payload, DAY))
            .await
    }

    async fn confirm(&mut self, store: &impl RelayStore, account: u64) -> Result<(), StoreError> {
        let from = self.below(1 + self.model.accounts[&account].post_next);
        let most = 1 + self.below(3) as u16;
        let holder = &self.holders[&account];
        let (collected, ..) = store.collect(holder.account, from, most)?;
        let mut confirmed = Vec::new();
        for entry in &collected {
            let (index, fields, digest) = holder.open(entry).expect("nothing expires here");
            holder
                .fetch(store, index, &fields)
                .await?
                .expect("inbound mail is free here");
            confirmed.push((index, digest));
        }
        let deposits = &mut self.model.account(holder.account).deposits;
        deposits.retain(|index, _| confirmed.iter().all(|(gone, _)| gone != index));
        let expected = confirmed.len() as u16;
        assert_eq!(store.confirm(holder.account, confirmed).await?, expected);
        Ok(())
    }

    async fn finish(&mut self, store: &impl RelayStore) -> Result<(), StoreError> {
        let due = store.due(NOW, 9)?;
        if due.is_empty() {
            return Ok(());
        }
        let id = due[self.below(due.len() as u64) as usize];
        let delivery = store.delivery(id)?.expect("due");
        assert!(store.delivery_account(id)? == Some(delivery.account));
        let key = (delivery.recipient.clone(), number_in(&delivery.message));
        let outcome = match self.below(4) {
            0 => {
                self.model.spool.get_mut(&key).expect("queued").0 += 1;
                relay_store::Outcome::Retry { at: NOW - 1 }
            }
            1 => {
                self.model.spool.remove(&key);
                relay_store::Outcome::Delivered
            }
            2 => {
                let number = self.number();
                self.model.spool.remove(&key);
                self.model.deposit(&[delivery.account], number);
                let report = deposit(&[(delivery.account, 0)], number, b"receipt", DAY);
                relay_store::Outcome::Receipted { report }
            }
            _ => {
                let number = self.number();
                self.model.spool.remove(&key);
                self.model.deposit(&[delivery.account], number);
                let report = deposit(&[(delivery.account, 0)], number, b"report", DAY);
                relay_store::Outcome::Failed { report: Some(report) }
            }
        };
        store.finish(id, outcome).await
    }

    /// Some of the pool leave it, and one that left before is named again.
    async fn end_round(&mut self, store: &impl RelayStore) -> Result<(), StoreError> {
        let mut ids = Vec::new();
        for pooled in store.pool() {
            if self.below(2) == 0 {
                let delivery = store.delivery(pooled.id)?.expect("pooled");
                let key = (delivery.recipient.clone(), number_in(&delivery.message));
                self.model.spool.get_mut(&key).expect("pooled").1 = false;
                ids.push(pooled.id);
            }
        }
        ids.extend(store.due(NOW, 1)?);
        let round = MixRound {
            now: NOW,
            date: NOW,
            day: DAY,
            tally: MixTally::default(),
        };
        store.release(ids, round).await
    }

    /// The operation that failed has either taken place or not.
    async fn reconcile(&mut self, store: &impl RelayStore, before: Model) {
        let after = self.model.clone();
        let seen = self.observe(store, &after).await;
        let without = self.observe(store, &before).await;
        if seen != after {
            assert_eq!(without, before, "the operation took place in part");
            self.model = before;
        }
        // One that was to be a device, and is not: the next account of its number is another.
        let known = &self.model.accounts;
        self.holders.retain(|number, _| known.contains_key(number));
    }

    async fn compare(&mut self, store: &impl RelayStore) {
        let expected = self.model.clone();
        assert_eq!(self.observe(store, &expected).await, expected);
    }

    /// The store as a model. `asked` says which changes to ask after.
    async fn observe(&mut self, store: &impl RelayStore, asked: &Model) -> Model {
        let audit = store.audit().expect("readable");
        assert_eq!(audit.findings, Vec::<String>::new());
        assert_eq!(audit.totals, store.totals().expect("readable"));
        // Vouchers have no reader of their own: what is in them shows in the audit and when they are taken.
        let mut seen = Model {
            vouchers: asked.vouchers.clone(),
            // It shows in the answers, the aliases and what is left.
            ended: asked.ended.clone(),
            ..Model::default()
        };
        let due = store.due(u64::MAX, usize::MAX).expect("readable").into_iter();
        let pool = store.pool().into_iter().map(|pooled| (pooled.id, true));
        for (id, is_pooled) in due.map(|id| (id, false)).chain(pool) {
            let delivery = store.delivery(id).expect("readable").expect("due");
            let key = (delivery.recipient.clone(), number_in(&delivery.message));
            assert!(
                seen.spool.insert(key, (delivery.attempts, is_pooled)).is_none(),
                "a message is queued twice"
            );
        }
        for address in (0..5).map(|n| format!("alias{n}@relay.test")) {
            if let Some(alias) = store.alias(&address) {
                seen.aliases.insert(address, (alias.account.0, alias.open));
            }
        }
        for number in 0..audit.totals.accounts {
            let is_there = asked.accounts.get(&number).is_some_and(|model| !model.dropped);
            let model = match self.holders.get(&number).filter(|_| is_there) {
                Some(holder) => observe_account(store, holder, &asked.accounts[&number], &mut self.wraps).await,
                None => orphan(store, number, asked.accounts.get(&number)),
            };
            seen.accounts.insert(number, model);
        }
        seen
    }
}

async fn observe_account(
    store: &impl RelayStore,
    holder: &Holder,
    asked: &AccountModel,
    wraps: &mut BTreeMap<(u64, u64), [u8; 32]>,
) -> AccountModel {
    let mut seen = orphan(store, holder.account.0, Some(asked));
    let mut from = 0;
    loop {
        let (collected, next, more) = store.collect(holder.account, from, COLLECT_MAX).expect("readable");
        for entry in &collected {
            assert!(matches!(entry, Collected::Wrap { .. }));
            let (index, fields, digest) = holder.open(entry).expect("nothing expires here");
            let known = *wraps.entry((holder.account.0, index)).or_insert(digest);
            assert_eq!(known, digest, "a post index was used twice");
            let number = match fields.alias {
                EVENTS => EVENT,
                _ => number_of(&fields),
            };
            seen.deposits.insert(index, number);
        }
        (from, seen.post_next) = (next, next);
        if !more {
            break;
        }
    }
    assert_eq!(store.waiting(holder.account), !seen.deposits.is_empty());
    for seq in 1..=asked.highest {
        let change = change(seq, 0);
        if let Some(answer) = store.stored_answer(holder.account, &change, &change.digest()) {
            seen.outcomes.insert(seq, Outcome::of(&answer));
            seen.highest = seq;
        }
    }
    let live: BTreeSet<u64> = (0..)
        .zip(holder.link_tags(KEYS_MAX))
        .filter(|(_, tag)| store.find_tag(tag).expect("readable").is_some())
        .map(|(index, _)| index)
        .collect();
    // Whatever was asked for: the first live tag says where the account stands, and the keys left where it ends.
    if let (Some(base), Answer::Balance { keys, .. }) = (live.first(), store.balance(holder.account).expect("readable"))
    {
        (seen.link_base, seen.link_keys) = (*base, *base + keys);
    }
    assert_eq!(
        live,
        (seen.link_base..(seen.link_base + 4).min(seen.link_keys)).collect()
    );
    seen
}

/// What anyone sees of an account.
fn orphan(store: &impl RelayStore, number: u64, asked: Option<&AccountModel>) -> AccountModel {
    let link_keys = asked.map_or(64, |model| model.link_keys);
    let account = Account(number);
    let house = store.house(account).0;
    let device = match store.devices(account).expect("readable") {
        Answer::Devices { own, devices } => (!devices.is_empty()).then_some((house, own)),
        _ => panic!("devices are devices"),
    };
    let of_its_own = |sum: u64| if house == number { sum } else { 0 };
    match store.balance(account).expect("readable") {
        Answer::Balance {
            keys, credits, debits, ..
        } => AccountModel {
            credits: of_its_own(credits),
            debits: of_its_own(debits),
            device,
            dropped: store.standing(account).is_dropped,
            link_keys,
            // Another end of the chain shows as another base, and in the live tags.
            link_base: link_keys.saturating_sub(keys),
            ..AccountModel::default()
        },
        _ => panic!("a balance is a balance"),
    }
}

/// Digest of the voucher of this number.
fn name_of(voucher: u64) -> [u8; 32] {
    keypacks::kdf::hash(&[b"voucher", &voucher.to_le_bytes()])
}

fn number_in(message: &[u8]) -> u64 {
    u64::from_le_bytes(*message.first_chunk().expect("at least eight bytes"))
}
