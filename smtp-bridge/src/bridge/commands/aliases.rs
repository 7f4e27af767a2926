//! Aliases: opened and closed at the relay, and what is noted of them here.

use mailbox::HolderStore;
use mailbox::holder_store::HolderAlias;
use mailbox::request::Operation;
use serde_json::{Value, json};

use super::super::Bridge;
use crate::names;

/// Longest label, in characters.
const LABEL_MAX: usize = 100;

pub(super) fn label_of(label: Option<String>) -> Result<Option<String>, String> {
    match label.filter(|label| !label.is_empty()) {
        Some(label) if label.chars().count() > LABEL_MAX || label.chars().any(char::is_control) => Err(format!(
            "a label has at most {LABEL_MAX} characters, and no control characters"
        )),
        label => Ok(label),
    }
}

impl<S: HolderStore> Bridge<S> {
    pub(super) async fn alias_new(
        &self,
        local: Option<String>,
        label: Option<String>,
        days: Option<u64>,
    ) -> Result<Value, String> {
        self.refuse_while_awaiting()?;
        let label = label_of(label)?;
        let local = local
            .map(|local| local.to_ascii_lowercase())
            .unwrap_or_else(|| names::random(&self.host));
        if !names::is_alias_local(&local) {
            return Err("an alias is 1 to 64 of the letters a-z, digits, '.', '-' and '_', and begins and ends with a letter or digit".to_owned());
        }
        let address = format!("{local}@{}", self.store.facts().relay_domain);
        self.change(Operation::AliasOpen { local }).await?;
        let expires = self.after(days);
        if label.is_some() || expires.is_some() {
            let noted = move |alias: &mut HolderAlias| (alias.label, alias.expires) = (label.clone(), expires);
            self.alter(&address, noted).await?;
        }
        Ok(json!({ "address": address }))
    }

    pub(super) async fn alias_close(&self, address: &str) -> Result<Value, String> {
        let alias = self.alias(address)?;
        let (local, _) = alias.address.split_once('@').ok_or("the alias has no local part")?;
        self.change(Operation::AliasClose {
            local: local.to_owned(),
        })
        .await?;
        Ok(json!({ "closed": alias.address }))
    }

    pub(super) async fn alias_name(&self, address: &str, display_name: Option<String>) -> Result<Value, String> {
        let name = display_name.filter(|name| !name.is_empty());
        self.alter(address, move |alias| alias.display_name = name.clone())
            .await
    }

    /// Changes what is only noted here about an alias.
    pub(in crate::bridge) async fn alter(
        &self,
        address: &str,
        change: impl Fn(&mut HolderAlias) + Send + 'static,
    ) -> Result<Value, String> {
        let known = self.alias(address)?;
        let altered = self.store.alter_alias(known.address, change).await;
        altered.map(|alias| json!(alias)).map_err(|error| error.to_string())
    }

    fn alias(&self, address: &str) -> Result<HolderAlias, String> {
        let aliases = self.store.aliases().map_err(|error| error.to_string())?;
        let found = aliases
            .into_iter()
            .find(|alias| alias.address.eq_ignore_ascii_case(address));
        found.ok_or_else(|| "this is not one of your aliases: see 'postern alias list'".to_owned())
    }
}
