//! Any series of posts, judged by a plain model: signed balances in a map, and a set of the ids that counted.

use std::collections::HashMap;
use std::convert::Infallible;

use ledger::{
    AccountKey, Accounts, Balance, Kind, LedgerError, Posted, StatementEntry, Transfer, TransferId, fold, post,
};
use proptest::prelude::*;

#[derive(Default, Clone, PartialEq, Debug)]
struct MemoryAccounts {
    balances: HashMap<AccountKey, Balance>,
    journal: Vec<Transfer>,
}

impl Accounts for MemoryAccounts {
    type Error = Infallible;

    fn load(&self, account: AccountKey) -> Result<Balance, Infallible> {
        Ok(self.balances.get(&account).copied().unwrap_or_default())
    }

    fn store(&mut self, account: AccountKey, balance: Balance) -> Result<(), Infallible> {
        self.balances.insert(account, balance);
        Ok(())
    }

    fn seen(&self, id: &TransferId) -> Result<Option<Transfer>, Infallible> {
        Ok(self.journal.iter().find(|transfer| transfer.id == *id).copied())
    }

    fn journal(&mut self, transfer: &Transfer) -> Result<(), Infallible> {
        self.journal.push(*transfer);
        Ok(())
    }
}

impl MemoryAccounts {
    /// Credits less debits of all accounts, which is always zero.
    fn sum(&self) -> i128 {
        self.balances.values().map(Balance::net).sum()
    }
}

fn account() -> impl Strategy<Value = AccountKey> {
    prop_oneof![
        (0..3u64).prop_map(AccountKey::Holder),
        Just(AccountKey::Revenue),
        Just(AccountKey::Issue),
        Just(AccountKey::Transit),
        Just(AccountKey::Onward),
        (0..3u64).prop_map(AccountKey::Owed)
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::TopUp),
        Just(Kind::Message),
        Just(Kind::Key),
        Just(Kind::Inbound),
        Just(Kind::Given),
        Just(Kind::Received),
        Just(Kind::Lapsed),
        Just(Kind::Onward),
        Just(Kind::Credit),
        Just(Kind::Settled),
        Just(Kind::Procured),
        Just(Kind::Returned),
        Just(Kind::Cover)
    ]
}

/// Mostly sensible transfers under few ids, so that ids meet again; some between any accounts, some near the bound.
fn transfer() -> impl Strategy<Value = Transfer> {
    let id = (0..24u8).prop_map(|id| [id; 16]);
    let amount = prop_oneof![8 => 0..1_000u64, 1 => Just(u64::MAX), 1 => u64::MAX - 500..=u64::MAX];
    let top_up =
        (id.clone(), 0..3u64, amount.clone()).prop_map(|(id, holder, amount)| Transfer::top_up(id, holder, amount, 1));
    let charge = (id.clone(), 0..3u64, amount.clone(), kind())
        .prop_map(|(id, holder, amount, kind)| Transfer::charge(id, holder, amount, kind, 2));
    let given =
        (id.clone(), 0..3u64, amount.clone()).prop_map(|(id, holder, amount)| Transfer::given(id, holder, amount, 2));
    let received = (id.clone(), 0..3u64, amount.clone())
        .prop_map(|(id, holder, amount)| Transfer::received(id, holder, amount, 2));
    let onward =
        (id.clone(), 0..3u64, amount.clone()).prop_map(|(id, holder, amount)| Transfer::onward(id, holder, amount, 2));
    let drawn =
        (id.clone(), 0..3u64, amount.clone()).prop_map(|(id, holder, amount)| Transfer::drawn(id, holder, amount, 2));
    let settled =
        (id.clone(), 0..3u64, amount.clone()).prop_map(|(id, holder, amount)| Transfer::settled(id, holder, amount, 2));
    let procured = (id.clone(), 0..3u64, amount.clone())
        .prop_map(|(id, holder, amount)| Transfer::procured(id, holder, amount, 2));
    let returned = (id.clone(), 0..3u64, amount.clone())
        .prop_map(|(id, holder, amount)| Transfer::returned(id, holder, amount, 2));
    let any = (id, account(), account(), amount, kind()).prop_map(|(id, debit, credit, amount, kind)| Transfer {
        id,
        debit,
        credit,
        amount,
        kind,
        day: 3,
    });
    prop_oneof![4 => top_up, 4 => charge, 2 => given, 2 => received, 2 => onward, 2 => drawn, 2 => settled, 2 => procured, 2 => returned, 1 => any]
}

proptest! {
    #[test]
    fn every_post_keeps_the_sum_at_zero_and_agrees_with_the_model(series in prop::collection::vec(transfer(), 0..80)) {
        let mut accounts = MemoryAccounts::default();
        let mut nets: HashMap<AccountKey, i128> = HashMap::new();
        let mut counted: HashMap<TransferId, Transfer> = HashMap::new();
        for transfer in series {
            let before = accounts.clone();
            let spendable = nets.get(&transfer.debit).copied().unwrap_or(0);
            match post(&mut accounts, transfer) {
                Ok(Posted::New) => {
                    prop_assert!(counted.insert(transfer.id, transfer).is_none());
                    *nets.entry(transfer.debit).or_default() -= i128::from(transfer.amount);
                    *nets.entry(transfer.credit).or_default() += i128::from(transfer.amount);
                }
                Ok(Posted::Repeated) => {
                    prop_assert_eq!(counted.get(&transfer.id), Some(&transfer));
                    prop_assert_eq!(&accounts, &before);
                }
                Err(error) => {
                    prop_assert_eq!(&accounts, &before, "a refusal writes nothing");
                    match error {
                        LedgerError::Conflict => prop_assert!(counted.get(&transfer.id).is_some_and(|first| *first != transfer)),
                        LedgerError::Shortfall { shortfall } => {
                            prop_assert_eq!(i128::from(shortfall), i128::from(transfer.amount) - spendable);
                        }
                        LedgerError::Overpaid { excess } => {
                            let owed = -nets.get(&transfer.credit).copied().unwrap_or(0);
                            prop_assert_eq!(i128::from(excess), i128::from(transfer.amount) - owed);
                        }
                        LedgerError::Overflow => {
                            let debits = before.load(transfer.debit).unwrap().debited(transfer.amount);
                            let credits = before.load(transfer.credit).unwrap().credited(transfer.amount);
                            prop_assert!(debits.is_none() || credits.is_none());
                        }
                        LedgerError::Misdirected => {
                            let pays = matches!((transfer.debit, transfer.credit), (AccountKey::Holder(_), AccountKey::Revenue));
                            let earns = matches!((transfer.debit, transfer.credit), (AccountKey::Issue, AccountKey::Holder(_)));
                            let gives = matches!((transfer.debit, transfer.credit), (AccountKey::Holder(_), AccountKey::Transit));
                            let receives = matches!((transfer.debit, transfer.credit), (AccountKey::Transit, AccountKey::Holder(_)));
                            let passes = matches!((transfer.debit, transfer.credit), (AccountKey::Holder(_), AccountKey::Onward));
                            let returns = matches!((transfer.debit, transfer.credit), (AccountKey::Onward, AccountKey::Holder(_)));
                            let draws = matches!((transfer.debit, transfer.credit), (AccountKey::Owed(of), AccountKey::Holder(to)) if of == to);
                            let settles = matches!((transfer.debit, transfer.credit), (AccountKey::Issue, AccountKey::Owed(_)));
                            let flows = match transfer.kind {
                                Kind::TopUp => earns,
                                Kind::Onward | Kind::Procured => passes,
                                Kind::Returned => returns,
                                Kind::Credit => draws,
                                Kind::Settled => settles,
                                Kind::Given => gives,
                                Kind::Received => receives,
                                Kind::Message | Kind::Key | Kind::Inbound | Kind::Lapsed | Kind::Cover => pays,
                            };
                            prop_assert!(!flows);
                        }
                        LedgerError::Store(never) => match never {},
                    }
                }
            }
            prop_assert_eq!(accounts.sum(), 0);
            for (account, net) in &nets {
                prop_assert_eq!(accounts.load(*account).unwrap().net(), *net);
                match account {
                    AccountKey::Issue => {}
                    AccountKey::Owed(_) => prop_assert!(*net <= 0, "nobody settles more than is owed"),
                    _ => prop_assert!(*net >= 0),
                }
            }
        }
    }

    #[test]
    fn folding_any_first_part_of_a_journal_changes_no_closing_balance(series in prop::collection::vec(transfer(), 0..60), cut in 0..60usize) {
        let mut accounts = MemoryAccounts::default();
        for transfer in series {
            let _ = post(&mut accounts, transfer);
        }
        for account in [AccountKey::Holder(0), AccountKey::Holder(1), AccountKey::Revenue, AccountKey::Issue, AccountKey::Transit, AccountKey::Onward, AccountKey::Owed(0)] {
            let entries: Vec<_> = accounts.journal.iter().filter_map(|transfer| StatementEntry::of(transfer, account)).collect();
            let (folded, kept) = entries.split_at(cut.min(entries.len()));
            let opening = fold(Balance::default(), folded.iter().copied()).unwrap();
            prop_assert_eq!(fold(opening, kept.iter().copied()), Some(accounts.load(account).unwrap()));
        }
    }
}

#[test]
fn a_charge_above_the_balance_names_what_is_missing() {
    let mut accounts = MemoryAccounts::default();
    assert_eq!(
        post(&mut accounts, Transfer::top_up([1; 16], 7, 100, 1)),
        Ok(Posted::New)
    );
    let charge = Transfer::charge([2; 16], 7, 130, Kind::Message, 1);
    assert_eq!(
        post(&mut accounts, charge),
        Err(LedgerError::Shortfall { shortfall: 30 })
    );
    assert_eq!(
        post(&mut accounts, Transfer::top_up([3; 16], 7, 30, 1)),
        Ok(Posted::New)
    );
    assert_eq!(
        post(&mut accounts, charge),
        Ok(Posted::New),
        "a refused id is free again"
    );
    assert_eq!(post(&mut accounts, charge), Ok(Posted::Repeated));
    assert_eq!(accounts.load(AccountKey::Holder(7)).unwrap().available(), 0);
}

#[test]
fn the_same_id_with_other_contents_is_refused() {
    let mut accounts = MemoryAccounts::default();
    let first = Transfer::top_up([1; 16], 7, 100, 1);
    post(&mut accounts, first).unwrap();
    for other in [
        Transfer { amount: 101, ..first },
        Transfer { day: 2, ..first },
        Transfer {
            credit: AccountKey::Holder(8),
            ..first
        },
    ] {
        assert_eq!(post(&mut accounts, other), Err(LedgerError::Conflict));
    }
}
