//! The holder's side of a test: knows the pack's root, numbers changes, seals and opens deposits.

use keypacks::chain::{BoxChain, BoxKind, LinkChain};
use keypacks::deposit::{BodySealer, Dek, WrapFields, open_body, open_wrap, wrap_digest};
use keypacks::pack::Identifier;
use keypacks::rotation::Policy;
use keypacks::{Secret, Tag, kdf};

use crate::StoreError;
use crate::relay_store::{Account, BurnOrder, DepositOrder, Effect, IssueOrder, Issued, RelayStore, Spooled};
use crate::request::{Answer, Change, Collected, Operation, Refusal};

/// A second of the day that tests take place on.
pub(super) const NOW: u64 = DAY as u64 * 86_400 + 43_200;
/// The day.
pub(super) const DAY: u32 = 20_000;

/// An account with all that its holder knows.
pub(super) struct Holder {
    pub(super) account: Account,
    pub(super) identifier: Identifier,
    root: Secret<32>,
}

impl Holder {
    pub(super) fn of(issued: Issued) -> Self {
        Self {
            account: issued.account,
            identifier: issued.identifier,
            root: issued.root,
        }
    }

    pub(super) async fn issue(store: &impl RelayStore, link_keys: u64, credit: u64) -> Self {
        Self::issue_rotating(store, link_keys, credit, Policy::default()).await
    }

    pub(super) async fn issue_rotating(store: &impl RelayStore, link_keys: u64, credit: u64, rotation: Policy) -> Self {
        let order = IssueOrder {
            link_keys,
            credit,
            operator: false,
            day: DAY,
            rotation,
        };
        Self::of(store.issue(order).await.expect("issued"))
    }

    /// Makes an account of some of this one's keys and value, whose root is made from `number`.
    pub(super) async fn split(
        &self,
        store: &impl RelayStore,
        seq: u64,
        number: u64,
        (keys, value): (u64, u64),
    ) -> Result<(Answer, Self), StoreError> {
        let bytes = |label: u8| kdf::hash(&[&[label], &number.to_le_bytes(), &self.identifier.0]);
        let (identifier, root) = (Identifier(*bytes(0).first_chunk().expect("32 bytes")), bytes(1));
        let effect = Effect::Split {
            identifier,
            root: Secret::new(root),
            keys,
            value,
        };
        let answer = self.execute(store, &change(seq, 0), effect).await?;
        let account = Account(store.totals()?.accounts - 1);
        let child = Self {
            account,
            identifier,
            root: Secret::new(root),
        };
        Ok((answer, child))
    }

    /// What asks for another device, whose root is made from `number`, and that device.
    pub(super) fn device(&self, account: Account, number: u64, keys: u64) -> (Effect, Self) {
        let bytes = |label: u8| kdf::hash(&[&[label], &number.to_le_bytes(), &self.identifier.0]);
        let (identifier, root) = (Identifier(*bytes(2).first_chunk().expect("32 bytes")), bytes(3));
        let effect = Effect::Device {
            identifier,
            root: Secret::new(root),
            keys,
        };
        let device = Self {
            account,
            identifier,
            root: Secret::new(root),
        };
        (effect, device)
    }

    /// Makes another device of this account.
    pub(super) async fn join(&self, store: &impl RelayStore, seq: u64, number: u64, keys: u64) -> (Answer, Self) {
        let accounts = store.totals().expect("readable").accounts;
        let (effect, device) = self.device(Account(accounts), number, keys);
        let answer = self.execute(store, &change(seq, 0), effect).await.expect("executed");
        (answer, device)
    }

    /// All that waits from `from` on, opened: index, alias number, body.
    pub(super) async fn inbox(&self, store: &impl RelayStore, from: u64) -> Vec<(u64, u32, Vec<u8>, [u8; 32])> {
        let (collected, ..) = store.collect(self.account, from, 64).expect("readable");
        let mut opened = Vec::new();
        for entry in &collected {
            let (index, fields, digest) = self.open(entry).expect("a wrap");
            let body = self
                .fetch(store, index, &fields)
                .await
                .expect("readable")
                .expect("served");
            opened.push((index, fields.alias, body, digest));
        }
        opened
    }

    /// The tags of the first link indices.
    pub(super) fn link_tags(&self, count: u64) -> Vec<Tag> {
        let mut chain = LinkChain::from_root(&self.root);
        (0..count).map(|_| chain.advance().tag).collect()
    }

    pub(super) fn link(&self, index: u64) -> keypacks::chain::LinkStep {
        LinkChain::from_root(&self.root).step_at(index).expect("near")
    }

    /// Digest of a wrap, after opening it under the post key of its index.
    pub(super) fn open(&self, collected: &Collected) -> Option<(u64, WrapFields, [u8; 32])> {
        let Collected::Wrap { index, wrap } = collected else {
            return None;
        };
        let step = BoxChain::from_root(BoxKind::Post, &self.root)
            .step_at(*index)
            .expect("near");
        let fields = open_wrap(&step, wrap).expect("a served wrap opens under the post key of its index");
        Some((*index, fields, wrap_digest(wrap)))
    }

    /// Fetches a deposit and opens it.
    pub(super) async fn fetch(
        &self,
        store: &impl RelayStore,
        index: u64,
        fields: &WrapFields,
    ) -> Result<Result<Vec<u8>, Refusal>, StoreError> {
        let (kilobytes, body) = match store.fetch(self.account, index, DAY).await? {
            Ok(fetched) => fetched,
            Err(refusal) => return Ok(Err(refusal)),
        };
        assert_eq!(kilobytes, fields.kilobytes);
        assert_eq!(keypacks::kdf::hash(&[&body]), fields.body_digest);
        Ok(Ok(open_body(&fields.dek, body, fields.length).expect("the body opens")))
    }

    pub(super) fn balance(&self, store: &impl RelayStore) -> (u64, u64) {
        match store.balance(self.account).expect("readable") {
            Answer::Balance {
                balance,
                keys,
                credits,
                debits,
            } => {
                assert_eq!(credits - debits, balance);
                (balance, keys)
            }
            _ => panic!("a balance is a balance"),
        }
    }

    pub(super) fn burn_order(&self, index: u64, token: [u8; 16], fresh: [u8; 16], answered: u64) -> BurnOrder {
        BurnOrder {
            account: self.account,
            root: 0,
            index,
            token,
            fresh,
            answered,
            day: DAY,
        }
    }

    /// Executes a change as the relay does: the stored answer first.
    pub(super) async fn execute(
        &self,
        store: &impl RelayStore,
        change: &Change,
        effect: Effect,
    ) -> Result<Answer, StoreError> {
        let digest = change.digest();
        if let Some(answer) = store.stored_answer(self.account, change, &digest) {
            return Ok(answer);
        }
        store
            .execute((self.account, 0), change.clone(), digest, effect, DAY, NOW)
            .await
    }

    pub(super) async fn submit(&self, store: &impl RelayStore, seq: u64, price: u64) -> Answer {
        let effect = spool(&["to@example.org"], b"message", price);
        self.execute(store, &change(seq, 0), effect).await.expect("executed")
    }

    pub(super) async fn open_alias(&self, store: &impl RelayStore, seq: u64, address: &str) -> Answer {
        let effect = Effect::AliasOpen {
            address: address.to_owned(),
        };
        self.execute(store, &change(seq, 0), effect).await.expect("executed")
    }
}

/// A change that differs from any other number's.
pub(super) fn change(seq: u64, acknowledged: u64) -> Change {
    let operation = Operation::AliasOpen {
        local: format!("change-{seq}"),
    };
    Change {
        seq,
        id: [7; 16],
        blind: [9; 16],
        acknowledged,
        operation,
    }
}

pub(super) fn spool(recipients: &[&str], message: &[u8], price: u64) -> Effect {
    let recipients = recipients.iter().map(|recipient| (*recipient).to_owned()).collect();
    Effect::Spool(Spooled {
        reverse_path: "from@relay.test".to_owned(),
        recipients,
        message: message.to_vec(),
        price,
        onward: 0,
        hops: 0,
        mix: None,
        wishes: Vec::new(),
    })
}

/// A sealed deposit whose key is made from `number`.
pub(super) fn deposit(recipients: &[(Account, u32)], number: u64, payload: &[u8], day: u32) -> DepositOrder {
    let key = Secret::from_fn(|key| key[..8].copy_from_slice(&number.to_le_bytes()));
    let mut sealer = BodySealer::new(Dek::new(key), [3; 16]);
    sealer.push(payload).expect("short");
    let sealed = sealer.finish();
    DepositOrder {
        recipients: recipients.to_vec(),
        body: sealed.body,
        dek: sealed.dek,
        length: sealed.length,
        kilobytes: sealed.kilobytes,
        day,
    }
}

/// The number that [`deposit`] made the key from.
pub(super) fn number_of(fields: &WrapFields) -> u64 {
    let key = fields.dek.secret().expose();
    u64::from_le_bytes(*key.first_chunk().expect("32 bytes"))
}

pub(super) fn refused(answer: &Answer) -> Option<Refusal> {
    match answer {
        Answer::Refused { refusal, .. } => Some(*refusal),
        _ => None,
    }
}
