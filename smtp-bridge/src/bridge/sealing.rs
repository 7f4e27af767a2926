//! Parcels instead of a link: a message is judged and rebuilt as at the submission port, then sealed under the next parcel
//! key and kept until its receipt comes.

use keypacks::parcel::{self, Header, LayerSealer};
use keypacks::{deposit, kdf};
use mailbox::holder_store::{HolderAlias, ParcelOrder, SentNames};
use mailbox::parcel::Terms;
use mailbox::request::{self, Envelope};
use mailbox::{HolderStore, StoreError};
use zeroize::Zeroizing;

use super::Hygiene;
use super::submission::{SIZE_MAX, answering_alias, own_alias, rebuild};
use crate::message::{Rebuilt, limits};
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
        if self.store.pad().is_some() {
            return Err(
                "a pack with a one-time pad sends over its link alone: a parcel would go under keys".to_owned(),
            );
        }
        drop(self.store.parcel_step().map_err(|error| error.to_string())?);
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
            message_id: Some(octets),
        };
        let payload = Zeroizing::new(request::payload(&envelope, &rebuilt.message));
        drop(rebuilt.message);
        let classes = deposit::class_for(payload.len()).zip(parcel::class_for(payload.len()));
        let (kilobytes, class) = classes.ok_or("the message is too large")?;
        let price = self.price(count, kilobytes, debit_max)?;
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
        loop {
            let step = self.store.parcel_step().map_err(|error| error.to_string())?;
            let index = step.index;
            let mut sealed = Vec::with_capacity(parcel::class_bytes(class));
            // A cloned machine may draw the same once more: under another text the nonces differ all the same.
            let what = kdf::hash(&[&header.hop, &payload]);
            let nonce = kdf::hedged_nonce(&step.key, &self.host.random(), index, &what);
            let prefix = *nonce.first_chunk().expect("a nonce is longer");
            let sealer = LayerSealer::new(step, prefix, &header, &mut sealed);
            let mut sealer = sealer.expect("the class was chosen for the payload");
            sealer.push(&payload, &mut sealed).expect("as long as the header says");
            sealer.finish(|fill| self.host.entropy.fill(fill), &mut sealed);
            let order = ParcelOrder {
                index,
                parcel: sealed,
                recipients: count,
                price,
                label: rebuilt.subject.clone(),
                sent: SentNames {
                    alias: alias.address.clone(),
                    own: rebuilt.message_id.clone(),
                    outside: names::message_id(&octets, &self.store.facts().relay_domain),
                },
                now: self.host.clock.unix_seconds(),
            };
            match self.store.keep_parcel(order).await {
                Ok(true) => return Ok(index),
                // Another one was sealed under it meanwhile, and this one never left.
                Ok(false) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// What the parcel may cost, if the value covers it.
    fn price(&self, recipients: u16, kilobytes: u32, debit_max: Option<u64>) -> Result<u64, String> {
        let known = self
            .store
            .prices()
            .and_then(|list| list.price_of(recipients, kilobytes));
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
