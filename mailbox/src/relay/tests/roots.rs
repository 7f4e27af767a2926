//! A pack gets another root: both stores in files, the power failing at either, and whoever kept a copy from before.

use std::collections::BTreeSet;

use keypacks::chain::{BoxChain, BoxKind};
use keypacks::deposit::{BodySealer, Dek, open_wrap};
use keypacks::link::RelaySecret;
use keypacks::pack::{Issue, PassphraseCost};
use keypacks::reroot::{self, Offer, RecoveryCode};

use super::*;
use crate::holder::{HolderFiles, HolderOptions};
use crate::holder_store::{HolderStore, OutboxRow, Rooting, Told};
use crate::relay_store::{Burned, DepositOrder, NewRoot, Standing};
use crate::request::{Collected, Proof};

const PASSPHRASE: &[u8] = b"correct horse";
const HOLDER: &str = "/holder";

fn relay_secret() -> RelaySecret {
    RelaySecret::new(Secret::new([3; 32]))
}

fn code(octet: u8) -> RecoveryCode {
    RecoveryCode::new(Secret::new([octet; 16]))
}

fn options() -> HolderOptions {
    HolderOptions {
        passphrase_cost: PassphraseCost::LEAST,
        ..HolderOptions::default()
    }
}

/// A relay and one holder, each on a disk of its own, linked once.
struct Ends {
    relay: Files,
    disk: MemoryDisk,
    issued: Issued,
    openings: u64,
    /// Open stores; none while its disk is off.
    store: Option<RelayFiles>,
    holder: Option<HolderFiles>,
}

impl Ends {
    async fn new() -> Self {
        let mut relay = Files::new();
        relay.config.parcels = true;
        let store = relay.try_open().expect("opens");
        let issued = issue(&store).await;
        let disk = MemoryDisk::new();
        let pack = Issue {
            identifier: issued.identifier,
            relay_public: relay_secret().public(),
            link_keys: 64,
            root: issued.root.duplicate(),
            day: DAY,
            relay_address: "relay.test:7025".to_owned(),
            relay_domain: "relay.test".to_owned(),
            aliases: Vec::new(),
            rotation: Default::default(),
            pad: None,
        };
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
        let shared: Arc<dyn Disk> = Arc::new(disk.of_this_boot());
        HolderFiles::create(&shared, Path::new(HOLDER), &pack, PASSPHRASE, &options(), &entropy).expect("made");
        let mut ends = Self {
            relay,
            disk,
            issued,
            openings: 1,
            store: Some(store),
            holder: None,
        };
        ends.open_holder();
        ends
    }

    fn open_holder(&mut self) {
        self.openings += 1;
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(self.openings << 40));
        let disk: Arc<dyn Disk> = Arc::new(self.disk.of_this_boot());
        let (holder, actor) =
            HolderFiles::open(&disk, Path::new(HOLDER), PASSPHRASE, &options(), &entropy).expect("opens");
        drop(tokio::spawn(actor));
        self.holder = Some(holder);
    }

    fn store(&self) -> &RelayFiles {
        self.store.as_ref().expect("open")
    }

    fn holder(&self) -> &HolderFiles {
        self.holder.as_ref().expect("open")
    }

    /// Opens again what the power took down.
    async fn recover(&mut self) {
        if self.relay.disk.is_off() {
            self.store = None;
            tokio::task::yield_now().await;
            self.relay.disk.restart(self.openings);
            self.store = Some(self.relay.try_open().expect("opens"));
        }
        if self.disk.is_off() {
            self.holder = None;
            tokio::task::yield_now().await;
            self.disk.restart(self.openings);
            self.open_holder();
        }
    }

    /// Ends both cleanly and opens them again: what is finished is overwritten.
    async fn again(&mut self) {
        self.store.take().expect("open").close().await;
        self.holder.take().expect("open").stop().await;
        tokio::task::yield_now().await;
        self.store = Some(self.relay.try_open().expect("opens"));
        self.open_holder();
    }

    /// Makes a link with the holder's next key. Whether the relay takes it, and what it then says.
    async fn link(&self) -> Option<Burned> {
        let index = self.holder().link_position().base;
        let step = self.holder().link_step(index).expect("keys are left");
        let hit = self.store().find_tag(&step.tag).expect("readable")?;
        assert!(hit.account == self.issued.account && hit.step.up == step.up && hit.step.index == index);
        self.holder().reserve_link(index).await.expect("durable");
        let order = BurnOrder {
            root: hit.root,
            token: self.holder().link_token(),
            fresh: [u8::try_from(index + 1).expect("small"); 16],
            ..burn(hit.account, index)
        };
        let burned = self.store().burn(order).await.expect("durable")?;
        self.holder().link_answered(index, burned.token).await.expect("durable");
        Some(burned)
    }

    fn pending(&self) -> Option<OutboxRow> {
        self.holder().next_queued().expect("readable")
    }

    /// What a relay does with the change.
    async fn execute(&self, change: &Change) -> Result<Answer, StoreError> {
        let digest = change.digest();
        if let Some(stored) = self.store().stored_answer(self.issued.account, change, &digest) {
            return Ok(stored);
        }
        let Operation::Reroot {
            kem,
            dh,
            recovery,
            proof,
        } = &change.operation
        else {
            panic!("the one change there is");
        };
        let offer = Offer {
            kem: kem.clone(),
            dh: *dh,
        };
        let random = Secret::new([u8::try_from(self.openings % 250).expect("small"); 64]);
        let sealed = reroot::encapsulate(&relay_secret(), &offer, &change.operation.encode(), &random);
        let (root, ciphertext) = sealed.expect("well-formed");
        let effect = Effect::Reroot(NewRoot {
            root,
            ciphertext,
            recovery: *recovery,
            shown: proof.as_ref().map(|proof| reroot::verifier(&proof.0)),
        });
        self.store()
            .execute(
                (self.issued.account, self.standing().root),
                change.clone(),
                digest,
                effect,
                DAY,
                NOW,
            )
            .await
    }

    /// The whole change of root, tried again and again.
    async fn change_root(&mut self) {
        while self.holder().rooting().is_pending {
            let row = self.pending().expect("queued while it is pending");
            if let Ok(answer) = self.execute(&row.change).await {
                let _ = self.holder().answered(row.row, answer, None, NOW).await;
            }
            self.recover().await;
        }
    }

    async fn deposit(&self) {
        let mut sealer = BodySealer::new(Dek::new(Secret::new([4; 32])), [5; 16]);
        sealer.push(b"mail").expect("short");
        let sealed = sealer.finish();
        let order = DepositOrder {
            recipients: vec![(self.issued.account, 0)],
            body: sealed.body,
            dek: sealed.dek,
            length: sealed.length,
            kilobytes: sealed.kilobytes,
            day: DAY,
        };
        self.store().deposit(order).await.expect("durable");
    }

    fn standing(&self) -> Standing {
        self.store().standing(self.issued.account)
    }

    /// Tags of the pack's own root that the relay knows.
    fn known_of_the_pack(&self) -> Vec<u64> {
        let chain = LinkChain::from_root(&self.issued.root);
        let is_known = |index: &u64| {
            let tag = chain.step_at(*index).expect("near").tag;
            self.store().find_tag(&tag).expect("readable").is_some()
        };
        (0..20).filter(is_known).collect()
    }
}

async fn asked(ends: &Ends, proof: Option<&RecoveryCode>, next: u8) {
    let proof = proof.map(|code| Proof(*code.proof()));
    let row = ends.holder().begin_reroot(code(next).verifier(), proof, NOW).await;
    row.expect("nothing is in its way");
}

#[test]
fn wherever_the_power_fails_both_ends_come_to_one_root() {
    run(async {
        for n in 0..90_u64 {
            let mut ends = Ends::new().await;
            assert!(ends.link().await.is_some_and(|burned| !burned.is_replaced));
            ends.deposit().await;
            asked(&ends, None, 1).await;
            // Either disk, at one of its next operations.
            match n % 3 {
                0 => ends.relay.disk.power_off_after(n / 3),
                1 => ends.disk.power_off_after(n / 3),
                _ => {
                    ends.relay.disk.power_off_after(n / 3);
                    ends.disk.power_off_after(n / 2);
                }
            }
            ends.change_root().await;
            ends.relay.disk.power_off_after(u64::MAX);
            ends.disk.power_off_after(u64::MAX);
            ends.recover().await;
            ends.deposit().await;
            assert_eq!(ends.standing().root, 1, "{n}");
            assert_eq!(ends.holder().rooting().number, 1, "{n}");

            // The mail from before is under the old root and is opened all the same; the one behind it is not.
            let account = ends.issued.account;
            let (wraps, _, _) = ends.store().collect(account, 0, 64).expect("readable");
            let old = BoxChain::from_root(BoxKind::Post, &ends.issued.root);
            assert_eq!(wraps.len(), 2, "{n}");
            for (index, wrap) in (0..).zip(&wraps) {
                let Collected::Wrap { wrap, .. } = wrap else {
                    panic!("nothing has expired")
                };
                assert!(
                    open_wrap(&ends.holder().post_step(index).expect("near"), wrap).is_ok(),
                    "{n}"
                );
                let by_copy = open_wrap(&old.step_at(index).expect("near"), wrap);
                assert_eq!(by_copy.is_ok(), index == 0, "{n}: a copy of the pack");
            }
            let burned = ends.link().await.expect("the keys are the same at both ends");
            assert!(
                !burned.is_replaced && !burned.token_mismatch && !burned.is_frozen,
                "{n}"
            );
            assert_eq!(ends.known_of_the_pack(), [0; 0], "{n}");
            ends.again().await;
            assert!(ends.link().await.is_some_and(|burned| !burned.token_mismatch), "{n}");
            let audit = ends.store().audit().expect("readable");
            assert_eq!(audit.findings, Vec::<String>::new(), "{n}");
            let mut verified = ends.store().verify().expect("readable");
            ends.store().verify_slots(&mut verified).await.expect("readable");
            assert_eq!(verified.audit.findings, Vec::<String>::new(), "{n}");
            // What the chains began with is overwritten.
            let shared = &ends.store().shared;
            let root = shared.load_root(&shared.base.view().expect("readable"), account.0);
            assert!(root.expect("readable").expect("there").begin().is_none(), "{n}");
        }
    });
}

#[test]
fn a_lost_answer_is_had_again_under_the_old_keys_and_nothing_else() {
    run(async {
        let mut ends = Ends::new().await;
        ends.link().await.expect("made");
        asked(&ends, None, 1).await;
        let change = ends.pending().expect("queued").change;
        let first = ends.execute(&change).await.expect("durable");
        // The answer is lost, three times, with a restart of both ends between.
        for _ in 0..3 {
            ends.again().await;
            let token = ends.holder().link_token();
            let burned = ends.link().await.expect("made");
            assert!(burned.is_replaced && !burned.token_mismatch && burned.token == token);
        }
        // Aged answers end, but not this one.
        ends.store().upkeep(NOW + 90 * 86_400, 30).await.expect("kept up");
        let row = ends.pending().expect("still queued");
        let again = ends.execute(&row.change).await.expect("durable");
        assert!(again == first);
        ends.holder()
            .answered(row.row, again, None, NOW)
            .await
            .expect("durable");
        let position = ends.holder().link_position();
        assert_eq!(ends.known_of_the_pack().len(), 4);
        let burned = ends.link().await.expect("the new keys go on where the old ones were");
        assert!(!burned.is_replaced && burned.keys_left == 64 - position.base - 1);
        assert_eq!(ends.known_of_the_pack(), [0; 0]);
        assert_eq!(
            ends.holder().rooting(),
            Rooting {
                number: 1,
                is_pending: false
            }
        );
    });
}

#[test]
fn a_copy_in_use_freezes_and_the_code_alone_ends_it() {
    run(async {
        let mut ends = Ends::new().await;
        let account = ends.issued.account;
        ends.link().await.expect("made");
        asked(&ends, None, 1).await;
        ends.change_root().await;
        for _ in 0..3 {
            assert!(ends.link().await.is_some_and(|burned| !burned.is_frozen));
        }
        // A copy of the store, some links old.
        let copy = burn(account, ends.holder().link_position().base);
        let copied = BurnOrder {
            root: 1,
            token: [99; 16],
            ..copy
        };
        let burned = ends.store().burn(copied).await.expect("durable").expect("live");
        assert!(burned.token_mismatch && burned.is_frozen && burned.froze);
        assert_eq!(ends.store().frozen_packs(), 1);
        let refused = submit(ends.store(), account, 50, b"text").await.expect("readable");
        let frozen = Answer::Refused {
            seq: 50,
            refusal: Refusal::Frozen,
        };
        assert!(refused == frozen);
        ends.again().await;
        assert!(ends.standing().is_frozen && ends.store().frozen_packs() == 1);

        for (proof, wanted) in [(None, 1), (Some(code(2)), 1), (Some(code(1)), 2)] {
            asked(&ends, proof.as_ref(), 3).await;
            ends.change_root().await;
            for row in ends.holder().outbox().expect("readable") {
                let has_code = matches!(row.change.operation, Operation::Reroot { proof: Some(_), .. });
                assert!(
                    !has_code,
                    "a code that was refused, or not asked for any more, is not kept"
                );
            }
            assert_eq!(ends.standing().root, wanted);
            assert_eq!(ends.standing().is_frozen, wanted == 1);
        }
        assert_eq!(ends.store().frozen_packs(), 0);
        assert!(
            ends.link()
                .await
                .is_some_and(|burned| !burned.is_frozen && !burned.token_mismatch)
        );
        let taken = submit(ends.store(), account, 50, b"text").await.expect("durable");
        assert!(matches!(taken, Answer::Done { seq: 50, .. }));
        // Roots of numbers one and two share no tag.
        let tags: BTreeSet<_> = ends.known_of_the_pack().into_iter().collect();
        assert!(tags.is_empty());
    });
}

/// What has no body, as a relay carries it out.
async fn order_end(ends: &Ends, change: &Change) -> Answer {
    let Operation::Expire { day } = change.operation else {
        panic!("an end");
    };
    let under = (ends.issued.account, ends.standing().root);
    let effect = Effect::Expire { day };
    let executed = ends
        .store()
        .execute(under, change.clone(), change.digest(), effect, DAY, NOW);
    executed.await.expect("durable")
}

/// A thief's order does not outlive the root that the thief knew; the holder's own is given again under the new one.
#[test]
fn an_end_that_was_ordered_under_the_root_before_is_the_holders_own_or_none() {
    run(async {
        let mut ends = Ends::new().await;
        let account = ends.issued.account;
        let has_value = |ends: &Ends| {
            let answer = ends.store().balance(account).expect("readable");
            matches!(answer, Answer::Balance { balance: 1.., .. })
        };
        ends.link().await.expect("made");
        let own = Operation::Expire { day: Some(DAY + 9) };
        let queued = ends.holder().enqueue_change(own.clone(), "end".into(), NOW).await;
        queued.expect("durable");
        let row = ends.pending().expect("queued");
        let answer = order_end(&ends, &row.change).await;
        let noted = ends.holder().answered(row.row, answer, None, NOW).await;
        noted.expect("durable");
        let of_copy = Change {
            seq: row.change.seq + 1,
            id: [7; 16],
            operation: Operation::Expire { day: Some(DAY + 2) },
            ..row.change
        };
        assert!(matches!(order_end(&ends, &of_copy).await, Answer::Moved { .. }));
        let told = Told {
            highest: of_copy.seq,
            generation: 0,
            is_behind: false,
        };
        ends.holder().raise_seq(told).await.expect("durable");

        asked(&ends, None, 1).await;
        ends.change_root().await;
        let twice = ends.pending().expect("ordered again");
        asked(&ends, Some(&code(1)), 2).await;
        ends.change_root().await;
        assert!(
            ends.pending().is_some_and(|row| row.row == twice.row),
            "one order is enough"
        );
        ends.store().upkeep(NOW + 3 * 86_400, 30).await.expect("kept up");
        assert!(has_value(&ends));
        let again = ends.pending().expect("ordered again");
        assert!(again.change.operation == own);
        order_end(&ends, &again.change).await;
        ends.store().upkeep(NOW + 9 * 86_400, 30).await.expect("kept up");
        assert!(!has_value(&ends));
    });
}

#[test]
fn a_pack_with_new_keys_goes_on_with_a_relay_that_was_restored() {
    run(async {
        let mut ends = Ends::new().await;
        ends.link().await.expect("made");
        ends.holder().relay_restored(1, None, NOW).await.expect("durable");
        asked(&ends, None, 1).await;
        ends.change_root().await;
        assert_eq!(ends.holder().relay_generation(), Ok(1));
        ends.holder().relay_restored(2, None, NOW).await.expect("durable");
        ends.again().await;
        assert_eq!(ends.holder().relay_generation(), Ok(2));
        assert_eq!(ends.holder().rooting().number, 1);
        assert!(ends.link().await.is_some_and(|burned| !burned.is_replaced));
    });
}

async fn arrive(ends: &Ends, root: u64, index: u64) -> bool {
    let under = (ends.issued.account, root);
    let carried = ends
        .store()
        .carry_out_parcel(under, (index, [7; 16]), Effect::Login, DAY, NOW);
    carried.await.expect("readable")
}

/// A parcel whose head came before the change, and whose end behind it, would consume an index of the new chain.
#[test]
fn what_was_found_under_the_root_before_is_not_carried_out_any_more() {
    run(async {
        let mut ends = Ends::new().await;
        let account = ends.issued.account;
        ends.link().await.expect("made");
        let of_copy = BoxChain::from_root(BoxKind::Parcel, &ends.issued.root);
        let found = |index| {
            let tag = of_copy.step_at(index).expect("near").tag;
            ends.store().find_parcel(&tag).expect("readable").expect("live")
        };
        // One is passed over, one is ahead.
        assert!(arrive(&ends, found(1).root, 1).await);
        let hits = [0, 2].map(found);
        assert!(hits.iter().all(|hit| hit.root == 0));
        asked(&ends, None, 1).await;
        let change = ends.pending().expect("queued").change;
        ends.change_root().await;
        for hit in hits {
            assert!(!arrive(&ends, hit.root, hit.step.index).await);
        }
        assert!(arrive(&ends, 1, 2).await, "the new chain has every index of its own");

        // A change that was judged before: it is not carried out, and a lost answer is had again.
        let execute = |seq| {
            let change = Change { seq, ..change.clone() };
            let effect = Effect::Refuse(Refusal::Malformed);
            let digest = change.digest();
            ends.store().execute((account, 0), change, digest, effect, DAY, NOW)
        };
        assert!(matches!(execute(change.seq).await, Ok(Answer::Rerooted { .. })));
        let conflict = Answer::Refused {
            seq: 50,
            refusal: Refusal::Conflict,
        };
        assert!(execute(50).await.is_ok_and(|answer| answer == conflict), "another's");
        let (address, alias) = ("alias@relay.test".to_owned(), alias_operation());
        let change = Change {
            seq: 51,
            operation: alias,
            ..change.clone()
        };
        let (digest, effect) = (change.digest(), Effect::AliasOpen { address });
        let executed = ends
            .store()
            .execute((account, 0), change, digest, effect, DAY, NOW)
            .await;
        assert!(matches!(executed, Err(StoreError::NoRow)));
    });
}

#[test]
fn a_copy_of_one_device_freezes_that_one_alone_and_the_others_are_told() {
    run(async {
        let mut ends = Ends::new().await;
        let account = ends.issued.account;
        ends.link().await.expect("made");
        let root = Secret::new([4; 32]);
        let join = crate::relay_store::Effect::Device {
            identifier: keypacks::pack::Identifier([3; 16]),
            root: root.duplicate(),
            keys: 16,
        };
        let change = Change {
            seq: 40,
            id: [1; 16],
            blind: [2; 16],
            acknowledged: 0,
            operation: Operation::AliasOpen { local: String::new() },
        };
        let digest = change.digest();
        let joined = ends.store().execute((account, 0), change, digest, join, DAY, NOW).await;
        assert!(matches!(joined, Ok(Answer::Moved { keys: 16, .. })));
        asked(&ends, None, 1).await;
        ends.change_root().await;
        assert!(ends.link().await.is_some_and(|burned| !burned.is_frozen));
        let copied = BurnOrder {
            root: 1,
            token: [99; 16],
            ..burn(account, ends.holder().link_position().base)
        };
        let burned = ends.store().burn(copied).await.expect("durable").expect("live");
        assert!(burned.froze);
        let other = Account(account.0 + 1);
        assert!(ends.store().standing(account).is_frozen && !ends.store().standing(other).is_frozen);
        let (collected, ..) = ends.store().collect(other, 0, 9).expect("readable");
        let [Collected::Wrap { index: 0, wrap }] = &collected[..] else {
            panic!("one deposit, which tells it");
        };
        let step = BoxChain::from_root(BoxKind::Post, &root).step_at(0).expect("near");
        let fields = open_wrap(&step, wrap).expect("its own");
        let (_, body) = ends
            .store()
            .fetch(other, 0, DAY)
            .await
            .expect("readable")
            .expect("free");
        let told = keypacks::deposit::open_body(&fields.dek, body, fields.length).expect("opens");
        let events = crate::devices::decode_events(&told).expect("as written");
        assert!(fields.alias == crate::devices::EVENTS && events == [crate::devices::Event::Frozen { device: 1 }]);
        // The other one goes on, and pays from the same value.
        assert!(
            submit(ends.store(), other, 1, b"text")
                .await
                .is_ok_and(|answer| matches!(answer, Answer::Done { .. }))
        );
    });
}
