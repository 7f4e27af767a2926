//! Aliases: addresses under which mail comes in, kept as names under a key only.

use crate::index::Write;

use super::live::Effect;
use super::rows::{ALIASES, AccountRow, AliasRow};
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
    /// Opens an alias, or one that the account had closed. The refusal, if any, is final for its change.
    pub(super) fn open_alias(
        &mut self,
        write: &Write<'_>,
        account: u64,
        row: &mut AccountRow,
        address: &str,
    ) -> Result<Result<(), Refusal>, StoreError> {
        if reserved(address).is_some() {
            return Ok(Err(Refusal::AliasTaken));
        }
        let name = self.shared.alias_name(address);
        let number = match ALIASES.get(write, name)? {
            Some(alias) if alias.account != account || alias.open => return Ok(Err(Refusal::AliasTaken)),
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
        Ok(Ok(()))
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

    fn put_alias(&mut self, write: &Write<'_>, name: [u8; 32], row: AliasRow) -> Result<(), StoreError> {
        ALIASES.put(write, name, &row)?;
        self.batch.effects.push(Effect::Alias { name, row });
        Ok(())
    }
}

impl Shared {
    fn alias_name(&self, address: &str) -> [u8; 32] {
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
