//! How the bridge stands, and what is the matter.

use std::sync::PoisonError;

use ledger::{Leg, Onward};
use mailbox::HolderStore;
use mailbox::holder_store::OutboxRow;
use mailbox::request::Operation;
use serde_json::{Value, json};

use super::super::Bridge;
use super::super::page::warning_of_link;
use super::link_state;
use crate::figures::{date, grouped};
use crate::holder::LinkState;

/// So many days before the pack ends it is warned of.
const ENDING_DAYS: u32 = 7;

impl<S: HolderStore> Bridge<S> {
    pub(in super::super) fn status(&self) -> Result<Value, String> {
        let value = self.store.value();
        let rows = self.rows()?;
        let waiting = rows
            .iter()
            .filter(|row| matches!(row.change.operation, Operation::Submit { .. }))
            .count();
        Ok(json!({
            "identifier": self.store.facts().identifier.to_text(),
            "relay": self.store.facts().relay_domain,
            "balance": value.balance,
            "credits": value.credits,
            "debits": value.debits,
            "reserved": self.store.reserved().map_err(|error| error.to_string())?,
            "keys": value.keys,
            "root": self.store.rooting().number,
            "rerooting": self.store.rooting().is_pending,
            "frozen": self.holder.is_frozen(),
            "rotation": self.store.facts().rotation.to_string(),
            "expires": self.ends_on(),
            "ended": self.has_ended(),
            "heard": value.at,
            "prices": self.store.prices(),
            "onward": onward_figures(&self.store.onward()),
            "aliases": self.store.aliases().map_err(|error| error.to_string())?.into_iter().filter(|alias| alias.open).map(|alias| alias.address).collect::<Vec<_>>(),
            "outbox": waiting,
            "mix": self.default_mix().name(),
            "mix_reason": self.mix_reason(),
            "cover": self.cover_state(),
            "loops": self.loop_figures(),
            "pad": self.pad_figures(),
            "linked": self.holder.state() == LinkState::Linked,
            "state": link_state(self.holder.state()),
            "warnings": self.warnings(),
            "nested": self.way_to_nested(),
            "awaiting": self.awaited(),
            "operator": self.directory.operator(&self.store.facts().relay_domain),
            "disk": self.caveat,
            "entry": self.entry.as_ref().map(|entry| {
                let position = entry.link_position();
                let relay = entry.facts().relay_domain;
                json!({
                    "operator": self.directory.operator(&relay),
                    "relay": relay,
                    "keys": position.keys.saturating_sub(position.base),
                    "since": self.stands_since,
                })
            }),
        }))
    }

    pub(super) fn settings(&self) -> Result<Value, String> {
        let aliases = self.store.aliases().map_err(|error| error.to_string())?;
        let alias = aliases.into_iter().find(|alias| alias.open).map(|alias| alias.address);
        Ok(json!({
            "user": self.user,
            "password": *self.password,
            "smtp": self.ports.smtp,
            "imap": self.ports.imap,
            "page": self.ports.page,
            "alias": alias,
        }))
    }

    /// What is the matter, in sentences.
    pub(in super::super) fn warnings(&self) -> Vec<String> {
        let value = self.store.value();
        let matters = self.matters();
        let told = self.diary.lock().unwrap_or_else(PoisonError::into_inner).told;
        let mut warnings = Vec::new();
        warnings.extend(self.awaited());
        warnings.extend(self.way_to_another());
        warnings.extend(self.left_at_entry());
        warnings.extend(warning_of_link(self.holder.state()).map(str::to_owned));
        if self.holder.is_frozen() {
            warnings.push(
                "The pack is frozen, since a copy of it was in use: give it new keys with 'postern rekey' and its recovery code."
                    .to_owned(),
            );
        }
        match self.ends_on().map(|day| (day, day.saturating_sub(self.host.day()))) {
            Some((_, 0)) => warnings.push(
                "The pack has ended: it sends nothing any more and its aliases are closed; mail that waits at the relay is still collected."
                    .to_owned(),
            ),
            Some((day, ..=ENDING_DAYS)) => warnings.push(format!(
                "The pack ends on {} with all that is left in it: 'postern keypack expire --never' takes that back.",
                date(day)
            )),
            _ => {}
        }
        if matters.low_balance {
            warnings.push(format!(
                "Only {} µtok are left: top the pack up in time.",
                grouped(value.balance)
            ));
        }
        if matters.few_keys {
            warnings.push(format!(
                "Only {} keys are left: get a new pack in time.",
                grouped(value.keys)
            ));
        }
        if self.holder.is_short_of_room() {
            warnings.push(
                "Mail waits at the relay, since this disk has no room for it: free some space, and it is collected."
                    .to_owned(),
            );
        }
        if told.unreachable {
            warnings.push("The relay has not been reached for long.".to_owned());
        }
        if told.retention {
            warnings.push("Mail that waits at the relay is about to be dropped there.".to_owned());
        }
        warnings.extend(self.directory.warnings(self.host.day()));
        warnings
    }
}

impl<S: HolderStore> Bridge<S> {
    /// What is left of the time when the pack of the entry sent and got mail by itself.
    fn left_at_entry(&self) -> Option<String> {
        let entry = self.entry.as_ref().filter(|_| self.stands_since.is_some())?;
        let open = entry
            .aliases()
            .unwrap_or_default()
            .iter()
            .filter(|alias| alias.open)
            .count();
        let is_mail = |row: &&OutboxRow| matches!(row.change.operation, Operation::Submit { .. });
        let waiting = entry.outbox().unwrap_or_default().iter().filter(is_mail).count();
        (open + waiting > 0).then(|| {
            format!(
                "{open} addresses are open at {} and {waiting} messages wait there, from when the bridge went the direct way: mail for \
                 them is collected, and those are sent, while it is started with --direct-now.",
                entry.facts().relay_domain
            )
        })
    }
}

/// What mail costs behind the relay, by domain of the recipient.
fn onward_figures(onward: &Onward) -> Value {
    let leg = |leg: &Leg| json!({ "message": leg.message, "kilobyte": leg.kilobyte, "relays": leg.relays });
    let domains = onward.domains.iter().map(|(domain, by)| (domain.clone(), leg(by)));
    json!({ "elsewhere": leg(&onward.elsewhere), "domains": domains.collect::<serde_json::Map<_, _>>() })
}
