//! Parcels instead of a link: a message is judged and rebuilt as at the submission port, then sealed under the next parcel
//! key and kept until its receipt comes.

use keypacks::parcel::{self, Header, LayerSealer, Login};
use keypacks::{deposit, kdf};
use mailbox::holder_store::{HolderAlias, OutboxRow, OutboxState, ParcelOrder, ParcelUse, Purpose, SentNames};
use mailbox::parcel::{AliasChange, Asked, Terms, encode_control};
use mailbox::request::{self, Envelope, Operation, Origin};
use mailbox::{HolderStore, StoreError};
use zeroize::Zeroizing;

use super::Hygiene;
use super::submission::{SIZE_MAX, answering_alias, own_alias, rebuild};
use crate::message::{Mix, Rebuilt, limits};
use crate::names;
use crate::net::Host;
use crate::smtp::Mailbox;
use crate::smtp::replies::Reply;

/// A message that is to leave in a parcel.
pub(crate) struct Letter<'a> {
    /// Address of an alias, or `user@localhost` for the first one.
    pub(crate) sender: &'a str,
    pub(crate) recipients: &'a [String],
    /// Lines end with CRLF.
    pub(crate) octets: &'a [u8],
    /// Most that it may cost, in µtok; what is known of the prices, if nothing is said.
    pub(crate) debit_max: Option<u64>,
}

/// What sealing needs of a bridge, be it running or not.
pub(crate) struct Sealing<'a, S> {
    pub(crate) host: &'a Host,
    pub(crate) store: &'a S,
    pub(crate) hygiene: &'a Hygiene,
    /// `user@localhost`.
    pub(crate) local_address: &'a str,
}

impl<S: HolderStore> Sealing<'_, S> {
    /// Seals a letter. Returns its index, under which the store has the parcel. The error is a sentence.
    pub(crate) async fn seal(&self, letter: &Letter<'_>) -> Result<u64, String> {
        let said = |reply: Reply| reply.text.into_owned();
        // What cannot be sealed for is said before any work.
        refuse_pad(self.store)?;
        drop(
            self.store
                .parcel_step(ParcelUse::Mail)
                .map_err(|error| error.to_string())?,
        );
        let alias = own_alias(self.store, self.local_address, letter.sender).map_err(said)?;
        let is_named = !letter.sender.eq_ignore_ascii_case(self.local_address);
        let answering = match is_named {
            true => None,
            false => answering_alias(self.store, self.local_address, letter.octets).map_err(said)?,
        };
        let alias = answering.unwrap_or(alias);
        let recipients = self.recipients(letter)?;
        if letter.octets.len() > SIZE_MAX {
            return Err("the message is too large".to_owned());
        }
        let is_long = |line: &[u8]| line.trim_ascii_end().len() > limits::LINE_BYTES_MAX;
        if letter.octets.split(|octet| *octet == b'\n').any(is_long) {
            return Err("a line is longer than 998 octets: let your mail program encode the text".to_owned());
        }
        let rebuilt = rebuild(self.store, self.hygiene, self.local_address, &alias, letter.octets).map_err(said)?;
        self.keep(&alias, recipients, rebuilt, letter.debit_max).await
    }

    fn recipients(&self, letter: &Letter<'_>) -> Result<Vec<String>, String> {
        let mut recipients = Vec::new();
        for recipient in letter.recipients {
            let address = if recipient.eq_ignore_ascii_case(self.local_address) {
                let own = own_alias(self.store, self.local_address, recipient);
                own.map_err(|reply| reply.text.into_owned())?.address
            } else {
                let mailbox = Mailbox::parse(recipient).ok_or_else(|| format!("{recipient} is no address"))?;
                mailbox.to_string()
            };
            if !recipients.contains(&address) {
                recipients.push(address);
            }
        }
        match recipients.len() {
            0 => Err("there is no recipient: name one, or write To into the message".to_owned()),
            1..=request::RECIPIENTS_MAX => Ok(recipients),
            _ => Err(format!("a message has at most {} recipients", request::RECIPIENTS_MAX)),
        }
    }

    async fn keep(
        &self,
        alias: &HolderAlias,
        recipients: Vec<String>,
        rebuilt: Rebuilt,
        debit_max: Option<u64>,
    ) -> Result<u64, String> {
        let count = u16::try_from(recipients.len()).expect("at most RECIPIENTS_MAX");
        let octets = self.host.random();
        let envelope = Envelope {
            reverse_path: alias.address.clone(),
            recipients,
            origin: Origin::Sender {
                message_id: octets,
                options: rebuilt.mix.and_then(Mix::option).into_iter().collect(),
            },
        };
        let payload = Zeroizing::new(request::payload(&envelope, &rebuilt.message));
        drop(rebuilt.message);
        let classes = deposit::class_for(payload.len()).zip(parcel::class_for(payload.len()));
        let (kilobytes, class) = classes.ok_or("the message is too large")?;
        let price = self.price(&envelope, kilobytes, debit_max)?;
        let terms = Terms {
            debit_max: price,
            recipients: count,
        };
        let header = Header {
            kind: parcel::Kind::Deliver,
            class,
            length: u32::try_from(payload.len()).expect("the largest class is below 4 GiB"),
            hop: terms.to_hop(),
        };
        let sent = SentNames {
            alias: alias.address.clone(),
            own: rebuilt.message_id.clone(),
            outside: names::message_id(&octets, &self.store.facts().relay_domain),
        };
        let purpose = || Purpose::Mail {
            recipients: count,
            price,
            sent: sent.clone(),
        };
        keep(self.host, self.store, &header, &payload, (&rebuilt.subject, &purpose)).await
    }

    /// What the parcel may cost, if the value covers it.
    fn price(&self, envelope: &Envelope, kilobytes: u32, debit_max: Option<u64>) -> Result<u64, String> {
        let recipients = envelope.recipients.iter().map(String::as_str);
        let list = self.store.prices();
        let known = list.and_then(|list| self.store.onward().price_of(&list, recipients, kilobytes));
        let known = known.map(|price| price.total());
        let price = debit_max.or(known).ok_or(
            "the prices are not known, as this pack has not linked with its relay yet: say with --most what the message may cost, in µtok",
        )?;
        let value = self.store.value();
        let reserved = self.store.reserved().map_err(|error: StoreError| error.to_string())?;
        // Of a relay that was never heard nothing is known.
        match price.checked_sub(value.balance.saturating_sub(reserved)) {
            Some(missing) if missing > 0 && value.at > 0 => Err(format!("{missing} µtok are missing: top the pack up")),
            _ => Ok(price),
        }
    }
}

/// Refuses to ask for a change of an alias while another one is under way on the other path, over a link or in a parcel.
///
/// The relay numbers aliases in the order in which it hears of them, and so does this end in the order in which answers
/// come: one that overtook the other, or was lost, would swap the two for ever. `on_link`: this one goes over a link, where
/// changes keep their order.
pub(super) fn refuse_second_alias<S: HolderStore>(store: &S, local: &str, on_link: bool) -> Result<(), String> {
    let said = |error: StoreError| error.to_string();
    if let Some((index, _)) = store.sealed_aliases().map_err(said)?.first() {
        return Err(format!(
            "parcel {index} changes an alias and has no receipt yet: open what came back first, or carry it once more ('postern seal --again {index}')"
        ));
    }
    if on_link {
        return Ok(());
    }
    let known = store.aliases().map_err(said)?;
    let is_known = |local: &str| {
        let locals = known.iter().filter_map(|alias| alias.address.rsplit_once('@'));
        locals.map(|(known, _)| known).any(|known| known == local)
    };
    let waits = queued_aliases(store).map_err(said)?.into_iter().any(|change| {
        let (queued, _) = change.parts();
        // What is known has its number.
        queued == local || !is_known(queued)
    });
    match waits {
        true => {
            Err("another change of an alias waits in the outbox: let the bridge link with the relay first".to_owned())
        }
        false => Ok(()),
    }
}

/// Changes of aliases that wait for a link, in order.
fn queued_aliases<S: HolderStore>(store: &S) -> Result<Vec<AliasChange>, StoreError> {
    let waiting = |row: OutboxRow| match (row.state, row.change.operation) {
        (OutboxState::Refused(_) | OutboxState::Unknown, _) => None,
        (_, Operation::AliasOpen { local }) => Some(AliasChange::Open(local)),
        (_, Operation::AliasClose { local }) => Some(AliasChange::Close(local)),
        _ => None,
    };
    Ok(store.outbox()?.into_iter().filter_map(waiting).collect())
}

/// The first alias, for a parcel to ask for: that of the outbox, if it waits there too. Whichever path is first, the other
/// asks for what there is already.
fn first_alias<S: HolderStore>(host: &Host, store: &S) -> Result<Option<AliasChange>, StoreError> {
    if !store.aliases()?.is_empty() || !store.sealed_aliases()?.is_empty() {
        return Ok(None);
    }
    let queued = queued_aliases(store)?.into_iter();
    let first = queued.into_iter().find(|change| matches!(change, AliasChange::Open(_)));
    Ok(Some(first.unwrap_or_else(|| AliasChange::Open(names::random(host)))))
}

/// Seals what asks the relay for something: to delete the deposits that are here, to change an alias, and to tell how the
/// pack stands. A pack without an alias asks for its first one, as over a link. Returns the parcel's index, and how many
/// deposits it confirms.
pub(crate) async fn seal_control<S: HolderStore>(
    host: &Host,
    store: &S,
    alias: Option<AliasChange>,
) -> Result<(u64, usize), String> {
    refuse_pad(store)?;
    let said = |error: StoreError| error.to_string();
    if let Some((local, _)) = alias.as_ref().map(AliasChange::parts)
        && !names::is_alias_local(local)
    {
        return Err("an alias is 1 to 64 of the letters a-z, digits, '.', '-' and '_', and begins and ends with a letter or digit".to_owned());
    }
    if let Some((local, _)) = alias.as_ref().map(AliasChange::parts) {
        refuse_second_alias(store, local, false)?;
    }
    let asked = Asked {
        confirmed: store.to_confirm().map_err(said)?,
        alias: match alias {
            Some(alias) => Some(alias),
            None => first_alias(host, store).map_err(said)?,
        },
    };
    let count = asked.confirmed.len();
    let payload = Zeroizing::new(encode_control(&asked));
    let header = Header {
        kind: parcel::Kind::Control,
        class: parcel::class_for(payload.len()).ok_or("too much is to be confirmed")?,
        length: u32::try_from(payload.len()).expect("the largest class is below 4 GiB"),
        hop: [0; parcel::HOP],
    };
    let label = match asked.alias.as_ref().map(AliasChange::parts) {
        Some((local, true)) => format!("open alias {local}"),
        Some((local, false)) => format!("close alias {local}"),
        None => "control".to_owned(),
    };
    let purpose = || Purpose::Control(asked.clone());
    let index = keep(host, store, &header, &payload, (&label, &purpose)).await?;
    Ok((index, count))
}

/// Takes an index for one login. Returns it; the store has name and password as its parcel.
pub(crate) async fn take_login<S: HolderStore>(host: &Host, store: &S) -> Result<u64, String> {
    refuse_pad(store)?;
    loop {
        let step = store.parcel_step(ParcelUse::Login).map_err(|error| error.to_string())?;
        let index = step.index;
        let login = Login::new(&step);
        let order = ParcelOrder {
            index,
            parcel: format!("{} {}", login.name, *login.password).into_bytes(),
            purpose: Purpose::Login,
            label: "login".to_owned(),
            now: host.clock.unix_seconds(),
        };
        match store.keep_parcel(order).await {
            Ok(true) => return Ok(index),
            // Another one took it meanwhile, and this one was never shown.
            Ok(false) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn refuse_pad<S: HolderStore>(store: &S) -> Result<(), String> {
    match store.pad() {
        None => Ok(()),
        Some(_) => Err("a pack with a one-time pad sends over its link alone: a parcel would go under keys".to_owned()),
    }
}

/// Seals a payload under the next key and keeps it. Returns its index.
async fn keep<S: HolderStore>(
    host: &Host,
    store: &S,
    header: &Header,
    payload: &[u8],
    (label, purpose): (&str, &(dyn Fn() -> Purpose + Sync)),
) -> Result<u64, String> {
    loop {
        let step = store.parcel_step(purpose().kind()).map_err(|error| error.to_string())?;
        let index = step.index;
        let mut sealed = Vec::with_capacity(parcel::class_bytes(header.class));
        // A cloned machine may draw the same once more: under another text the nonces differ all the same.
        let what = kdf::hash(&[&header.hop, payload]);
        let nonce = kdf::hedged_nonce(&step.key, &host.random(), index, &what);
        let prefix = *nonce.first_chunk().expect("a nonce is longer");
        let sealer = LayerSealer::new(step, prefix, header, &mut sealed);
        let mut sealer = sealer.expect("the class was chosen for the payload");
        sealer.push(payload, &mut sealed).expect("as long as the header says");
        sealer.finish(|fill| host.entropy.fill(fill), &mut sealed);
        let order = ParcelOrder {
            index,
            parcel: sealed,
            purpose: purpose(),
            label: label.to_owned(),
            now: host.clock.unix_seconds(),
        };
        match store.keep_parcel(order).await {
            Ok(true) => return Ok(index),
            // Another one was sealed under it meanwhile, and this one never left.
            Ok(false) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::reading::tests::{bridge, bridge_of};

    fn opening(local: &str) -> Option<AliasChange> {
        Some(AliasChange::Open(local.to_owned()))
    }

    #[tokio::test]
    async fn a_second_change_of_an_alias_waits_for_the_first_on_either_path() {
        let bridge = bridge().await;
        let (host, store) = (&bridge.host, &bridge.store);
        seal_control(host, store, opening("one")).await.expect("the first");
        let refused = seal_control(host, store, opening("two")).await.expect_err("it waits");
        assert!(refused.starts_with("parcel 0 changes an alias"), "{refused}");
        assert!(refuse_second_alias(store, "two", true).is_err());
        seal_control(host, store, None).await.expect("it changes none");
        assert_eq!(store.sealed_aliases().expect("readable").len(), 1);
    }

    #[tokio::test]
    async fn what_waits_in_the_outbox_goes_before_a_parcel() {
        let bridge = bridge().await;
        let (host, store) = (&bridge.host, &bridge.store);
        let local = "one".to_owned();
        bridge
            .queue(Operation::AliasOpen { local }, "alias")
            .await
            .expect("queued");
        let refused = seal_control(host, store, opening("two")).await.expect_err("it waits");
        assert!(refused.contains("outbox"), "{refused}");
        assert!(
            refuse_second_alias(store, "two", true).is_ok(),
            "a link keeps the order"
        );
        assert!(store.parcels().is_empty());
    }

    #[tokio::test]
    async fn both_paths_ask_for_the_same_first_alias() {
        let bridge = bridge_of(Vec::new()).await;
        let store = &bridge.store;
        let local = "one".to_owned();
        bridge
            .queue(Operation::AliasOpen { local }, "first alias")
            .await
            .expect("queued");
        seal_control(&bridge.host, store, None).await.expect("sealed");
        let sealed = store.sealed_aliases().expect("readable");
        assert_eq!(sealed, [(0, AliasChange::Open("one".to_owned()))]);
    }
}
