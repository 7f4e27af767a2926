//! The holder's side of a test: knows the pack's root, numbers changes, seals and opens deposits.

use keypacks::Secret;
use keypacks::chain::{BoxChain, BoxKind, LinkChain};
use keypacks::deposit::{BodySealer, Dek, WrapFields, open_body, open_wrap, wrap_digest};
use keypacks::pack::Identifier;
use keypacks::rotation::Policy;

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
            .execute(self.account, change.clone(), digest, effect, DAY, NOW)
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
