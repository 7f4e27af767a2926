//! Which way mail goes under each alias, and who learns what by it.
//!
//! A link goes to the pack's relay, or to an entry first; behind the relay others may pass mail on. What an alias's holder settled
//! about that is noted with the alias, and what would go another way is refused.

use std::path::Path;

use ledger::Onward;
use mailbox::holder_store::{AliasRoute, HolderAlias, OutboxRow, OutboxState};
use mailbox::request::Operation;
use mailbox::{HolderStore, StoreError};
use serde_json::{Value, json};

use super::{Bridge, BridgeError};
use crate::smtp::replies::{Enhanced, Reply};

/// Mail of a direct alias that would be passed on.
const NOT_DIRECT: Reply = Reply::fixed(
    550,
    Enhanced::new(5, 7, 1),
    "this alias sends by its own relay alone, which would pass this mail on to others: see 'postern route'",
);
/// Mail of an alias whose link goes another way.
const OTHER_WAY: Reply = Reply::fixed(
    550,
    Enhanced::new(5, 7, 1),
    "this alias sends another way than the bridge is linked: see 'postern route'",
);

/// Whether an alias's route is that of the link.
pub(super) fn fits(route: Option<&AliasRoute>, entry: Option<&str>) -> bool {
    match route {
        None => true,
        Some(AliasRoute::Direct | AliasRoute::Relayed) => entry.is_none(),
        Some(AliasRoute::Nested { through }) => entry == Some(through),
    }
}

/// Relays behind the pack's own that mail for this address is passed on to.
fn relays_behind(onward: &Onward, address: &str) -> u8 {
    let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
    onward.leg_to(&domain.to_ascii_lowercase()).relays
}

/// The relay by which mail of an alias is to go nested. Closed aliases count too: a relay can close one, and may not lift by
/// that what its holder settled.
pub(crate) fn nested_through(store: &impl HolderStore) -> Result<Option<String>, StoreError> {
    let through = |alias: HolderAlias| match alias.route {
        Some(AliasRoute::Nested { through }) => Some(through),
        _ => None,
    };
    Ok(store.aliases()?.into_iter().find_map(through))
}

/// Why a bridge without an entry does not link: its relay would see whose mail it is that was to go nested.
pub(super) fn refuse_bare_link(store: &impl HolderStore, any_route: bool) -> Result<Option<BridgeError>, StoreError> {
    let Some(through) = nested_through(store)? else {
        return Ok(None);
    };
    if !any_route {
        return Ok(Some(BridgeError::Route { through }));
    }
    Ok(store.outbox()?.iter().any(waits).then_some(BridgeError::RouteWaits))
}

/// Why a pack does not carry the links of another: its own is bare.
pub(super) fn refuse_entry(store: &impl HolderStore, dir: &Path) -> Result<Option<BridgeError>, StoreError> {
    let dir = dir.display().to_string();
    Ok(nested_through(store)?.map(|through| BridgeError::EntryRoute { dir, through }))
}

/// Mail that is to leave yet.
fn waits(row: &OutboxRow) -> bool {
    let is_mail = matches!(row.change.operation, Operation::Submit { .. });
    is_mail && matches!(row.state, OutboxState::Queued | OutboxState::Held(_))
}

/// Refuses mail that would go another way than its alias's.
pub(super) fn refuse_other_way<'a>(
    alias: &HolderAlias,
    entry: Option<&str>,
    onward: &Onward,
    mut recipients: impl Iterator<Item = &'a str>,
) -> Result<(), Reply> {
    if !fits(alias.route.as_ref(), entry) {
        return Err(OTHER_WAY);
    }
    match alias.route {
        Some(AliasRoute::Direct) if recipients.any(|recipient| relays_behind(onward, recipient) > 0) => Err(NOT_DIRECT),
        _ => Ok(()),
    }
}

/// Who learns what of mail that goes out, in order of the relays.
fn learned(relay: &str, entry: Option<&str>, behind: u8) -> Vec<String> {
    let mut words = Vec::new();
    match entry {
        None => words.push(format!(
            "{relay}: your network address, the alias, the recipients, and the text unless it is encrypted"
        )),
        Some(entry) => {
            words.push(format!(
                "{entry}: your network address, and that somebody there goes on to {relay}; no alias, no recipient, no text"
            ));
            words.push(format!(
                "{relay}: the alias, the recipients, and the text unless it is encrypted; not your network address"
            ));
        }
    }
    match behind {
        0 => {}
        1 => words.push(format!(
            "the relay behind {relay}: the alias, its recipients, and the text unless it is encrypted; not your network address"
        )),
        behind => words.push(format!(
            "the {behind} relays behind {relay}: the alias, the recipients, and the text unless it is encrypted; not your network \
             address"
        )),
    }
    if let Some(entry) = entry {
        words.push(format!(
            "{entry} and {relay} together: all of it. Whoever sees all lines can match times"
        ));
    }
    words
}

impl<S: HolderStore> Bridge<S> {
    /// Domain of the relay that carries this pack's links.
    pub(super) fn entry_relay(&self) -> Option<String> {
        self.entry.as_ref().map(|entry| entry.facts().relay_domain)
    }

    /// The way of the link, and of each alias.
    pub(super) fn routes(&self) -> Result<Value, String> {
        let (relay, entry, onward) = (self.store.facts().relay_domain, self.entry_relay(), self.store.onward());
        let behind = onward.elsewhere.relays;
        let aliases = self.store.aliases().map_err(|error| error.to_string())?;
        let rows: Vec<Value> = aliases
            .iter()
            .filter(|alias| alias.open || matches!(alias.route, Some(AliasRoute::Nested { .. })))
            .map(|alias| {
                json!({
                    "address": alias.address,
                    "route": alias.route,
                    "fits": fits(alias.route.as_ref(), entry.as_deref()),
                })
            })
            .collect();
        let others = onward.domains.iter().filter(|(_, leg)| leg.relays != behind);
        let others = others.map(|(domain, leg)| (domain.clone(), json!(leg.relays)));
        let way = match (&entry, behind) {
            (Some(_), _) => "nested",
            (None, 0) => "direct",
            (None, _) => "relayed",
        };
        Ok(json!({
            "relay": relay,
            "entry": entry,
            "behind": behind,
            "domains": others.collect::<serde_json::Map<_, _>>(),
            "way": way,
            "hops": 1 + u64::from(behind) + u64::from(entry.is_some()),
            "operators": [self.directory.operator(&relay), entry.as_deref().and_then(|entry| self.directory.operator(entry))],
            "learned": learned(&relay, entry.as_deref(), behind),
            "aliases": rows,
        }))
    }

    /// Notes the way that an alias's mail must take; nothing is whichever there is.
    pub(super) async fn set_route(&self, address: &str, route: Option<AliasRoute>) -> Result<Value, String> {
        let (relay, entry) = (self.store.facts().relay_domain, self.entry_relay());
        if let Some(AliasRoute::Nested { through }) = &route {
            if *through == relay {
                return Err(format!(
                    "{relay} is the relay of the pack itself: a link nested through it hides nothing"
                ));
            }
            let operators = (self.directory.operator(through), self.directory.operator(&relay));
            if let (Some(one), Some(other)) = operators
                && one.eq_ignore_ascii_case(&other)
            {
                return Err(format!(
                    "{through} and {relay} are both run by {one}, who would know both ends: choose relays of two operators"
                ));
            }
        }
        if !fits(route.as_ref(), entry.as_deref()) {
            return Err(match (&route, &entry) {
                (Some(AliasRoute::Nested { through }), _) => format!(
                    "the link does not go through {through}: start the bridge with --entry and the folder of a pack there, then set this"
                ),
                (_, Some(entry)) => format!("the link goes through {entry}: start the bridge without --entry for this"),
                (_, None) => "the link goes another way".to_owned(),
            });
        }
        self.alter(address, move |alias| alias.route = route.clone()).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ledger::Leg;
    use mailbox::holder_store::{OutboxOrder, SentNames, SentReports};
    use mailbox::request::{Answer, Refusal};

    use super::*;
    use crate::bridge::directory::Directory;
    use crate::bridge::directory::tests::{pin, served};
    use crate::bridge::reading::tests::bridge;

    fn alias(route: Option<AliasRoute>) -> HolderAlias {
        HolderAlias {
            route,
            ..HolderAlias::new(0, "first@relay.test".to_owned())
        }
    }

    fn onward() -> Onward {
        let behind = Leg {
            relays: 2,
            ..Leg::default()
        };
        Onward {
            version: 1,
            elsewhere: behind,
            domains: [("here.test".to_owned(), Leg::default())].into(),
        }
    }

    #[test]
    fn mail_goes_the_way_of_its_alias_or_not_at_all() {
        let nested = || AliasRoute::Nested {
            through: "entry.test".to_owned(),
        };
        for (route, entry, to, goes) in [
            (None, None, "x@far.test", true),
            (None, Some("entry.test"), "x@far.test", true),
            (Some(AliasRoute::Direct), None, "x@HERE.test", true),
            (Some(AliasRoute::Direct), None, "x@far.test", false),
            (Some(AliasRoute::Direct), Some("entry.test"), "x@here.test", false),
            (Some(AliasRoute::Relayed), None, "x@far.test", true),
            (Some(AliasRoute::Relayed), Some("entry.test"), "x@far.test", false),
            (Some(nested()), Some("entry.test"), "x@far.test", true),
            (Some(nested()), Some("other.test"), "x@far.test", false),
            (Some(nested()), None, "x@here.test", false),
        ] {
            let judged = refuse_other_way(&alias(route.clone()), entry, &onward(), [to].into_iter());
            assert_eq!(judged.is_ok(), goes, "{route:?} {entry:?} {to}");
        }
    }

    #[test]
    fn each_relay_is_said_to_learn_what_it_does() {
        let direct = learned("far.test", None, 0);
        assert!(direct.len() == 1 && direct[0].contains("your network address, the alias"));
        let nested = learned("far.test", Some("entry.test"), 2);
        assert!(nested[0].starts_with("entry.test: your network address") && nested[0].contains("no recipient"));
        assert!(nested[1].starts_with("far.test: the alias") && nested[1].contains("not your network address"));
        assert!(nested[2].starts_with("the 2 relays behind far.test"));
        assert!(nested[3].contains("together: all of it"));
    }

    #[tokio::test]
    async fn two_relays_of_one_operator_are_no_way() {
        let mut bridge = bridge().await;
        let (host, dir) = (bridge.host.clone(), bridge.dir.clone());
        let directory = Directory::load(&host, &dir, Some(pin()));
        let relays = [("entry.test", false), ("relay.test", false)];
        let list = served(1, host.day(), &relays);
        directory.take(&host, &dir, &list).expect("written");
        Arc::get_mut(&mut bridge).expect("nobody else has it").directory = directory;
        let through = "entry.test".to_owned();
        let refused = bridge
            .set_route("first@relay.test", Some(AliasRoute::Nested { through }))
            .await;
        assert!(refused.is_err_and(|words| words.contains("both run by A")));
        let shown = bridge.routes().expect("readable");
        assert_eq!(shown["operators"], json!(["A", null]));
    }

    #[tokio::test]
    async fn a_relay_that_closes_a_nested_alias_does_not_lift_its_route() {
        let bridge = bridge().await;
        let store = &bridge.store;
        let bare = |any_route| refuse_bare_link(store, any_route).expect("readable");
        assert!(bare(false).is_none());
        let mut alias = store.aliases().expect("readable").remove(0);
        alias.route = Some(AliasRoute::Nested {
            through: "entry.test".to_owned(),
        });
        alias.open = false;
        store.put_alias(alias).await.expect("room");
        let is_refused = |refused| matches!(refused, Some(BridgeError::Route { through }) if through == "entry.test");
        assert!(is_refused(bare(false)) && bare(true).is_none());
        let entry = refuse_entry(store, Path::new("/h")).expect("readable");
        assert!(matches!(entry, Some(BridgeError::EntryRoute { .. })));
        assert_eq!(bridge.pack_facts().expect("readable")["nested"], "entry.test");
        assert_eq!(
            bridge.routes().expect("readable")["aliases"][0]["route"]["nested"]["through"],
            "entry.test"
        );

        let row = store.enqueue(mail()).await.expect("room");
        assert!(matches!(bare(true), Some(BridgeError::RouteWaits)));
        let seq = store.outbox().expect("readable")[0].change.seq;
        let refusal = Refusal::Recipient { recipient: 0 };
        let refused = Answer::Refused { seq, refusal };
        store.answered(row, refused, None, 2).await.expect("its answer");
        assert!(bare(true).is_none(), "it goes nowhere any more");

        bridge.set_route("first@relay.test", None).await.expect("lifted");
        assert!(bare(false).is_none());
        assert!(bridge.pack_facts().expect("readable")["nested"].is_null());
    }

    fn mail() -> OutboxOrder {
        OutboxOrder {
            body: vec![0; 1_000],
            kilobytes: 1,
            length: 900,
            recipients: 1,
            prices: 1,
            price: 0,
            label: "Lunch".to_owned(),
            sent: SentNames {
                alias: "first@relay.test".to_owned(),
                own: None,
                outside: "lunch@relay.test".to_owned(),
            },
            reports: SentReports::default(),
            now: 1,
        }
    }

    #[tokio::test]
    async fn a_route_is_noted_if_the_link_goes_that_way() {
        let bridge = bridge().await;
        let first = "first@relay.test";
        let nested = |through: &str| AliasRoute::Nested {
            through: through.to_owned(),
        };
        let refused = bridge.set_route(first, Some(nested("entry.test"))).await;
        assert!(refused.is_err_and(|words| words.contains("does not go through entry.test")));
        let refused = bridge.set_route(first, Some(nested("relay.test"))).await;
        assert!(refused.is_err_and(|words| words.contains("hides nothing")));
        bridge
            .set_route(first, Some(AliasRoute::Direct))
            .await
            .expect("it is direct");
        let noted = || bridge.store.aliases().expect("readable")[0].route.clone();
        assert_eq!(noted(), Some(AliasRoute::Direct));
        let shown = bridge.routes().expect("readable");
        assert_eq!((&shown["way"], &shown["hops"]), (&json!("direct"), &json!(1)));
        bridge.set_route(first, None).await.expect("nothing is settled");
        assert_eq!(noted(), None);
        let label = bridge.alter(first, |alias| alias.label = Some("shops".to_owned()));
        let (route, label) = tokio::join!(bridge.set_route(first, Some(AliasRoute::Direct)), label);
        assert!(route.is_ok() && label.is_ok());
        assert_eq!(
            noted(),
            Some(AliasRoute::Direct),
            "the label that came with it leaves it"
        );
        assert_eq!(
            bridge.store.aliases().expect("readable")[0].label.as_deref(),
            Some("shops")
        );
    }
}
