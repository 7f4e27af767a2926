//! Aliases: addresses under which mail comes in, kept as names under a key only.

use std::collections::BTreeMap;
use std::sync::Arc;

use keypacks::pack::Identifier;

use crate::index::Write;

use super::accounts::account_of;
use super::live::Effect;
use super::rows::{ACCOUNTS, ALIASES, AccountRow, AliasRow};
use super::stage::RelayStage;
use super::{RelayFiles, Shared};
use crate::StoreError;
use crate::relay_store::{Account, Alias};
use crate::request::Refusal;

/// Most aliases that an account ever opens. Closed ones count: their addresses stay its own.
pub const ALIASES_MAX: u32 = 1_000;
/// Alias number of the operator's pack for mail to `postmaster`.
pub const POSTMASTER: u32 = u32::MAX;
/// Alias number of the operator's pack for mail to `abuse`.
pub const ABUSE: u32 = u32::MAX - 1;

impl RelayStage {
    /// Opens an alias, or one that the account had closed; its own that is open stays so. Returns whether it was closed, or
    /// nobody's. The refusal, if any, is final for its change.
    pub(super) fn open_alias(
        &mut self,
        write: &Write<'_>,
        (account, house): (u64, u64),
        row: &mut AccountRow,
        address: &str,
    ) -> Result<Result<bool, Refusal>, StoreError> {
        if account != house {
            // The numbers of aliases are counted where the aliases are.
            let mut row = ACCOUNTS.get(write, house)?.ok_or(StoreError::Corrupt)?;
            let opened = self.open_alias(write, (house, house), &mut row, address)?;
            self.put_account(write, house, &row)?;
            return Ok(opened);
        }
        if reserved(address).is_some() {
            return Ok(Err(Refusal::AliasTaken));
        }
        let name = self.shared.alias_name(address);
        let number = match ALIASES.get(write, name)? {
            Some(alias) if alias.account != account => return Ok(Err(Refusal::AliasTaken)),
            Some(alias) if alias.open => return Ok(Ok(false)),
            Some(alias) => alias.number,
            None if row.alias_next == ALIASES_MAX => return Ok(Err(Refusal::AliasLimit)),
            None => {
                row.alias_next += 1;
                row.alias_next - 1
            }
        };
        self.put_alias(
            write,
            name,
            AliasRow {
                account,
                number,
                open: true,
            },
        )?;
        Ok(Ok(true))
    }

    /// Closes an alias of the account.
    pub(super) fn close_alias(
        &mut self,
        write: &Write<'_>,
        account: u64,
        address: &str,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let name = self.shared.alias_name(address);
        match ALIASES.get(write, name)? {
            Some(alias) if alias.account == account && alias.open => {
                self.put_alias(write, name, AliasRow { open: false, ..alias })?;
                Ok(Ok(()))
            }
            _ => Ok(Err(Refusal::AliasUnknown)),
        }
    }

    /// Lets an account send for a domain, or no longer. `false`: there is no such account, or the domain is another's.
    pub(super) fn speak_for(
        &mut self,
        write: &Write<'_>,
        identifier: &Identifier,
        domain: &str,
        speaks: bool,
    ) -> Result<bool, StoreError> {
        let shared = Arc::clone(&self.shared);
        let Some(account) = account_of(write, &shared, identifier)? else {
            return Ok(false);
        };
        let account = self.house(write, account)?;
        if speaks && self.has_ended(write, account)? {
            return Ok(false);
        }
        let name = shared.alias_name(&format!("@{domain}"));
        let known = ALIASES.get(write, name)?;
        if known
            .as_ref()
            .is_some_and(|known| known.open && known.account != account)
        {
            return Ok(false);
        }
        if speaks {
            self.is_peer(write, account)?;
        }
        if known.as_ref().is_some_and(|known| known.open) == speaks {
            return Ok(true);
        }
        let number = match known {
            Some(known) if known.account == account => known.number,
            // Unlike an address, a domain may go to another pack: a peer's keys end, and its next pack sends for the same.
            _ => {
                let mut row = self.account(write, account)?;
                if row.alias_next == ALIASES_MAX {
                    return Ok(false);
                }
                row.alias_next += 1;
                self.put_account(write, account, &row)?;
                row.alias_next - 1
            }
        };
        let row = AliasRow {
            account,
            number,
            open: speaks,
        };
        self.put_alias(write, name, row)?;
        Ok(true)
    }

    /// The open aliases of an account, those of this batch as it has them.
    pub(super) fn open_aliases_of(&self, account: u64) -> BTreeMap<[u8; 32], AliasRow> {
        let is_open = |row: &AliasRow| row.account == account && row.open;
        let live = self.shared.live();
        let known = live.aliases.iter().filter(|(_, row)| is_open(row));
        let mut open: BTreeMap<[u8; 32], AliasRow> = known.map(|(name, row)| (*name, row.clone())).collect();
        for effect in &self.batch.effects {
            if let Effect::Alias { name, row } = effect {
                match is_open(row) {
                    true => drop(open.insert(*name, row.clone())),
                    false => drop(open.remove(name)),
                }
            }
        }
        open
    }

    pub(super) fn put_alias(&mut self, write: &Write<'_>, name: [u8; 32], row: AliasRow) -> Result<(), StoreError> {
        ALIASES.put(write, name, &row)?;
        self.batch.effects.push(Effect::Alias { name, row });
        Ok(())
    }
}

impl Shared {
    pub(super) fn alias_name(&self, address: &str) -> [u8; 32] {
        self.base.vault.name("alias", address.to_ascii_lowercase().as_bytes())
    }
}

impl RelayFiles {
    pub(super) fn find_alias(&self, address: &str) -> Option<Alias> {
        if let Some(number) = reserved(address) {
            let account = Account(self.shared.live().operator?);
            return Some(Alias {
                account,
                number,
                open: true,
            });
        }
        let name = self.shared.alias_name(address);
        let live = self.shared.live();
        let AliasRow { account, number, open } = *live.aliases.get(&name)?;
        Some(Alias {
            account: Account(account),
            number,
            open,
        })
    }
}

/// The alias number of a reserved local part, which no pack can open (RFC 5321 section 4.5.1, RFC 2142 section 2).
fn reserved(address: &str) -> Option<u32> {
    let local = address.rsplit_once('@').map_or(address, |(local, _)| local);
    match local.to_ascii_lowercase().as_str() {
        "postmaster" => Some(POSTMASTER),
        "abuse" => Some(ABUSE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_local_parts_are_known_in_any_case_and_at_any_domain() {
        assert_eq!(reserved("PostMaster@relay.test"), Some(POSTMASTER));
        assert_eq!(reserved("postmaster"), Some(POSTMASTER));
        assert_eq!(reserved("abuse@relay.test"), Some(ABUSE));
        assert_eq!(reserved("postmaster.x@relay.test"), None);
    }
}
