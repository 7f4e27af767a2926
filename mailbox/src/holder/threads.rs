//! Message-IDs, here and outside: what lets threads hold though no identifier of a mail program leaves.
//!
//! ```text
//! SENT             number -> alias, the mail program's identifier, the relay's
//! SENT_REPORTS     number -> ENVID and ORCPT, for its reports
//! SENT_BY_OWN      keyed hash of the first -> number
//! SENT_BY_OUTSIDE  keyed hash of the second -> number
//! MESSAGE_IDS      keyed hash of the identifier of what came in and of the alias it came for
//! ```
//!
//! What a mail program stores itself (a copy of what it sent, mail from another account) teaches nothing here: an answer
//! that names it would show which other mailbox its user reads.

use crate::index::{Source, Write};

use super::message_id::message_id;
use super::rows::{MESSAGE_IDS, SENT, SENT_BY_OUTSIDE, SENT_BY_OWN, SENT_REPORTS};
use super::shelf::Shelf;
use super::stage::HolderStage;
use crate::StoreError;
use crate::holder_store::{HolderAlias, MessageOf, SENT_REPORTS_MAX, SentNames, SentReports};
use crate::tables::Table;

impl HolderStage {
    /// Keeps what a submitted message is called, and forgets the oldest where there are more than `most`. Returns its number.
    pub(super) fn keep_names(&mut self, write: &Write<'_>, names: &SentNames, most: u64) -> Result<u64, StoreError> {
        let last = SENT.last_key(write, (0, u64::MAX))?;
        let number = last.map_or(0, |last| last + 1);
        SENT.put(write, number, names)?;
        if let Some(own) = &names.own {
            SENT_BY_OWN.put(write, self.shelf.own_name(own), &number)?;
        }
        SENT_BY_OUTSIDE.put(write, self.shelf.outside_name(&names.outside), &number)?;
        if let Some(aged) = number.checked_sub(most) {
            self.forget_names(write, aged)?;
        }
        if let Some(aged) = number.checked_sub(SENT_REPORTS_MAX)
            && SENT_REPORTS.get(write, aged)?.is_some()
        {
            SENT_REPORTS.remove(write, aged)?;
        }
        Ok(number)
    }

    /// Keeps what is to be found again in reports on the message of this number.
    pub(super) fn keep_reports(
        &mut self,
        write: &Write<'_>,
        number: u64,
        asked: &SentReports,
    ) -> Result<(), StoreError> {
        match asked.is_empty() {
            true => Ok(()),
            false => SENT_REPORTS.put(write, number, asked),
        }
    }

    fn forget_names(&mut self, write: &Write<'_>, number: u64) -> Result<(), StoreError> {
        let Some(names) = SENT.get(write, number)? else {
            return Ok(());
        };
        SENT.remove(write, number)?;
        let of_own = names.own.iter().map(|own| (&SENT_BY_OWN, self.shelf.own_name(own)));
        let of_outside = [(&SENT_BY_OUTSIDE, self.shelf.outside_name(&names.outside))];
        for (table, name) in of_own.chain(of_outside) {
            // A mail program that sends the same text again gives the name to the later message.
            if table.get(write, name)? == Some(number) {
                table.remove(write, name)?;
            }
        }
        Ok(())
    }

    /// Keeps the identifier of a message that came in for an alias.
    pub(super) fn keep_name_of_collected(
        &mut self,
        write: &Write<'_>,
        alias: u32,
        message: &[u8],
    ) -> Result<(), StoreError> {
        match message_id(message) {
            Some(id) => MESSAGE_IDS.put(write, self.shelf.collected_name(alias, id), &()),
            None => Ok(()),
        }
    }
}

impl Shelf {
    /// See [`crate::HolderStore::message_id_outside`]. `number`: that of the alias, if it has one.
    pub(super) fn message_id_outside(
        &self,
        alias: &str,
        number: Option<u32>,
        id: &str,
    ) -> Result<Option<String>, StoreError> {
        let view = self.base.view()?;
        if let Some(names) = sent(&view, &SENT_BY_OWN, self.own_name(id))? {
            // Sent under another alias: naming it here would tie the two together.
            return Ok((names.alias == alias).then_some(names.outside));
        }
        // What came for another alias is not known under this one: whoever wrote to both and sees an answer refer to the
        // other's mail would know that both are one person's.
        let collected = match number {
            Some(number) => MESSAGE_IDS.get(&view, self.collected_name(number, id.as_bytes()))?,
            None => None,
        };
        if collected.is_some() {
            return Ok(Some(id.to_owned()));
        }
        let names = sent(&view, &SENT_BY_OUTSIDE, self.outside_name(id))?;
        Ok(names.filter(|names| names.alias == alias).map(|names| names.outside))
    }

    /// See [`crate::HolderStore::message_id_here`].
    pub(super) fn message_id_here(&self, alias: &str, id: &str) -> Result<Option<String>, StoreError> {
        let names = sent(&self.base.view()?, &SENT_BY_OUTSIDE, self.outside_name(id))?;
        Ok(names.filter(|names| names.alias == alias).and_then(|names| names.own))
    }

    /// See [`crate::HolderStore::sent_reports`].
    pub(super) fn sent_reports(&self, alias: &str, id: &str) -> Result<Option<SentReports>, StoreError> {
        let view = self.base.view()?;
        let Some(number) = SENT_BY_OUTSIDE.get(&view, self.outside_name(id))? else {
            return Ok(None);
        };
        match SENT.get(&view, number)? {
            Some(names) if names.alias == alias => SENT_REPORTS.get(&view, number),
            _ => Ok(None),
        }
    }

    /// See [`crate::HolderStore::alias_of_message`].
    pub(super) fn alias_of_message(&self, aliases: &[HolderAlias], id: &str) -> Result<MessageOf, StoreError> {
        let view = self.base.view()?;
        if let Some(names) = sent(&view, &SENT_BY_OWN, self.own_name(id))? {
            return Ok(MessageOf::Alias(names.alias));
        }
        let mut found = None;
        for alias in aliases {
            let name = self.collected_name(alias.number, id.as_bytes());
            if MESSAGE_IDS.get(&view, name)?.is_some() && found.replace(alias).is_some() {
                return Ok(MessageOf::Several);
            }
        }
        if let Some(alias) = found {
            return Ok(MessageOf::Alias(alias.address.clone()));
        }
        let names = sent(&view, &SENT_BY_OUTSIDE, self.outside_name(id))?;
        Ok(names.map_or(MessageOf::Nobody, |names| MessageOf::Alias(names.alias)))
    }

    /// Identifiers are found by keyed hashes: the names of rows show no correspondent's host.
    fn collected_name(&self, alias: u32, id: &[u8]) -> [u8; 32] {
        let name = [&alias.to_le_bytes(), id].concat();
        self.base.vault.name("message-id/collected", &name)
    }

    fn own_name(&self, id: &str) -> [u8; 32] {
        self.base.vault.name("message-id/own", id.as_bytes())
    }

    fn outside_name(&self, id: &str) -> [u8; 32] {
        self.base.vault.name("message-id/outside", id.as_bytes())
    }
}

fn sent(source: &impl Source, table: &Table<[u8; 32], u64>, name: [u8; 32]) -> Result<Option<SentNames>, StoreError> {
    match table.get(source, name)? {
        Some(number) => SENT.get(source, number),
        None => Ok(None),
    }
}
