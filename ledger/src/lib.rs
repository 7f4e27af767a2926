//! Prepaid value in integer micro-tokens (µtok), kept in double entry.
//!
//! Reads no clock, opens no file, knows no mail: accounts enter through the trait [`Accounts`], which a store
//! implements over its own transaction. Start at [`post`], then [`PriceList`].
//! Promise: the credits of all accounts and their debits have the same sum after every [`post`], a transfer counts
//! once however often it is posted, and no holder spends what it has not.

mod account;
mod onward;
mod posting;
mod price;
mod statement;

pub use account::{AccountKey, Accounts, Balance};
pub use onward::{Leg, Onward, Price};
pub use posting::{Kind, LedgerError, Posted, Transfer, TransferId, post};
pub use price::PriceList;
pub use statement::{Services, StatementEntry, fold};

/// An amount of value in µtok, the unit of every amount in this crate. Arithmetic on it is checked, never wrapping.
pub type Amount = u64;
