//! The submission port: what a mail client sends becomes a row of the outbox, or is refused with a reason.

use std::sync::Arc;

use keypacks::chain::KEYS_RESERVED;
use keypacks::deposit;
use mailbox::holder_store::{HolderAlias, MessageOf, OutboxOrder, SentNames, SentReports};
use mailbox::request::{self, Envelope, EnvelopeOption, Origin, Wishes};
use mailbox::{HolderStore, StoreError};
use tokio::sync::OwnedSemaphorePermit;
use zeroize::Zeroizing;

use super::nested::NOT_NESTED_YET;
use super::{Bridge, Hygiene, routes};
use crate::message::{self, Address, LoopCounter, Mix, Policy, Sender, Stage, limits};
use crate::names;
use crate::smtp::replies::{self, Enhanced, Reply};
use crate::smtp::{self, Domain, Door, ForwardPath, Limits, Reports, ReversePath};

/// Largest message that a client may submit, in bytes: attachments grow by a third when they are encoded anew.
pub(crate) const SIZE_MAX: usize = limits::MESSAGE_BYTES_MAX;

// The chain of sizes: what is taken can be rebuilt, and what is rebuilt fits the largest class with its envelope.
const _: () = assert!(SIZE_MAX <= limits::MESSAGE_BYTES_MAX);
const _: () = assert!(limits::MESSAGE_BYTES_MAX + ENVELOPE_BYTES_MAX <= deposit::CLASS_KILOBYTES_MAX as usize * 1_000);
/// Reverse-path, recipients and options at their longest, and the octets of the Message-ID.
const ENVELOPE_BYTES_MAX: usize = 32 + (request::RECIPIENTS_MAX + 1) * 260 + request::OPTIONS_BYTES_MAX;

/// What the submission port offers.
pub(super) fn door() -> Door {
    Door::new(Limits::submission(
        Domain::parse("localhost").expect("localhost is a domain"),
        SIZE_MAX as u64,
    ))
}

/// The submission side of the SMTP engine.
pub(super) struct Submission<S>(pub(super) Arc<Bridge<S>>);

const NOT_READY: Reply = Reply::fixed(
    451,
    Enhanced::new(4, 3, 0),
    "the bridge has not linked with its relay yet, try again in a moment",
);

const LINE_TOO_LONG: Reply = Reply::fixed(
    554,
    Enhanced::new(5, 6, 0),
    "a line is longer than 998 octets: let your mail program encode the text",
);
const KEYS_USED_UP: Reply = Reply::fixed(
    552,
    Enhanced::new(5, 2, 2),
    "the pack's link keys are used up, the last ones only collect mail: get a new pack",
);

const ENDED: Reply = Reply::fixed(
    552,
    Enhanced::new(5, 2, 1),
    "the pack has ended, and only collects mail: get a new pack",
);

const RECEIPT_OF_MIXED: Reply = Reply::fixed(
    554,
    Enhanced::new(5, 7, 1),
    "a receipt would show when mixed mail left: ask for none, or send with 'X-Postern-Mix: fast'",
);

const PAD_USED_UP: Reply = Reply::fixed(
    552,
    Enhanced::new(5, 2, 2),
    "what is left of the pack's pad does not hold the message: send something shorter, or get a new pack",
);

impl<S: HolderStore> Bridge<S> {
    /// Whether only those link keys are left that the relay takes no submission under.
    fn keys_are_used_up(&self) -> bool {
        let value = self.store.value();
        value.at > 0 && value.keys < KEYS_RESERVED
    }

    /// The alias that an address of the user's stands for: an alias, or `user@localhost` for the first one. The alias that
    /// an answer leaves under is known when its header is ([`Self::answering_alias`]).
    fn own_alias(&self, address: &str) -> Result<HolderAlias, Reply> {
        own_alias(&self.store, &self.local_address(), address)
    }

    /// The alias that the message came for which `raw` answers, where the client named none: whoever wrote to one alias and
    /// got the answer from another would know that both are one person's.
    fn answering_alias(&self, raw: &[u8]) -> Result<Option<HolderAlias>, Reply> {
        answering_alias(&self.store, &self.local_address(), raw)
    }

    fn is_local_address(&self, address: &str) -> bool {
        address.eq_ignore_ascii_case(&self.local_address())
    }

    pub(super) fn local_address(&self) -> String {
        format!("{}@localhost", self.user)
    }

    /// µtok missing for `price`, if any. A top-up may have come since the relay was last heard: it is asked, so that
    /// the next try knows.
    fn shortfall(&self, price: u64) -> Result<Option<u64>, StoreError> {
        let available = self.store.value().balance.saturating_sub(self.store.reserved()?);
        let missing = price.checked_sub(available).filter(|missing| *missing > 0);
        if missing.is_some() {
            self.holder.refresh();
        }
        Ok(missing)
    }

    /// What a message costs, all its legs together, and by which list.
    fn price_of<'a>(&self, recipients: impl IntoIterator<Item = &'a str>, kilobytes: u32) -> Result<(u32, u64), Reply> {
        let prices = self.store.prices().ok_or(NOT_READY)?;
        let price = self.store.onward().price_of(&prices, recipients, kilobytes);
        Ok((prices.version, price.ok_or(replies::TOO_BIG)?.total()))
    }
}

impl<S: HolderStore> smtp::Backend for Submission<S> {
    type Message = Submitted<S>;

    fn auth(&self, user: &[u8], password: &[u8]) -> bool {
        self.0.login(user, password)
    }

    fn mail(&self, reverse_path: &ReversePath, size: Option<u64>) -> Result<(), Reply> {
        let ReversePath::Mailbox(sender) = reverse_path else {
            return Err(replies::SENDER_NOT_OWNED);
        };
        if self.0.awaiting.is_some() {
            return Err(NOT_NESTED_YET);
        }
        if self.0.has_ended() {
            return Err(ENDED);
        }
        self.0.own_alias(&sender.to_string())?;
        if self.0.keys_are_used_up() {
            return Err(KEYS_USED_UP);
        }
        if !self.0.pad_holds(1) {
            return Err(PAD_USED_UP);
        }
        // The least that any message of this size costs: what is exact is known after DATA.
        let size = usize::try_from(size.unwrap_or(0)).unwrap_or(usize::MAX);
        let kilobytes = if size <= SIZE_MAX {
            deposit::class_for(size.saturating_sub(4_096)).unwrap_or(1)
        } else {
            1
        };
        let prices = self.0.store.prices().ok_or(NOT_READY)?;
        let price = prices.price_of(1, kilobytes.min(8)).ok_or(replies::TOO_BIG)?;
        match self.0.shortfall(price).map_err(|_| replies::TRY_LATER)? {
            Some(missing) => Err(replies::value_missing(missing)),
            None => Ok(()),
        }
    }

    async fn rcpt(
        &self,
        _reverse_path: &ReversePath,
        recipient: &ForwardPath,
        _so_far: &[ForwardPath],
    ) -> Result<(), Reply> {
        match recipient {
            ForwardPath::Postmaster => Err(replies::UNKNOWN_RECIPIENT),
            ForwardPath::Mailbox(_) => Ok(()),
        }
    }

    async fn data(
        &self,
        reverse_path: &ReversePath,
        recipients: &[ForwardPath],
        reports: &Reports,
    ) -> Result<Submitted<S>, Reply> {
        let ReversePath::Mailbox(sender) = reverse_path else {
            return Err(replies::SENDER_NOT_OWNED);
        };
        let alias = self.0.own_alias(&sender.to_string())?;
        let is_alias_named = !self.0.is_local_address(&sender.to_string());
        let mut forward = Vec::with_capacity(recipients.len());
        let mut options = Vec::new();
        let mut sent_reports = SentReports {
            envelope_id: reports.envelope_id.clone(),
            originals: Vec::new(),
        };
        for (recipient, asked) in recipients.iter().zip(&reports.recipients) {
            let address = recipient.to_string();
            let address = if self.0.is_local_address(&address) {
                self.0.own_alias(&address)?.address
            } else {
                address
            };
            if !forward.contains(&address) {
                let position = u16::try_from(forward.len()).expect("the engine bounds recipients by 100");
                options.extend(notify(position, asked.wishes));
                let original = asked.original.iter();
                sent_reports
                    .originals
                    .extend(original.map(|original| (address.clone(), original.clone())));
                forward.push(address);
            }
        }
        let room = self.0.room.clone().try_acquire_owned().map_err(|_| replies::NO_ROOM)?;
        Ok(Submitted {
            bridge: self.0.clone(),
            alias,
            is_alias_named,
            recipients: Recipients {
                addresses: forward,
                options,
                reports: sent_reports,
            },
            raw: Zeroizing::default(),
            hops: LoopCounter::default(),
            line: 0,
            room,
        })
    }
}

/// What the relay hears of the reports that are wanted on a recipient.
fn notify(recipient: u16, wishes: Wishes) -> Option<EnvelopeOption> {
    wishes
        .are_said()
        .then_some(EnvelopeOption::Notify { recipient, wishes })
}

/// Where a message goes, and what was said of the reports on it.
struct Recipients {
    addresses: Vec<String>,
    /// What the relay hears.
    options: Vec<EnvelopeOption>,
    /// What stays here.
    reports: SentReports,
}

/// A message that a client is sending.
pub(super) struct Submitted<S> {
    bridge: Arc<Bridge<S>>,
    alias: HolderAlias,
    /// The client named it as the sender.
    is_alias_named: bool,
    recipients: Recipients,
    raw: Zeroizing<Vec<u8>>,
    hops: LoopCounter,
    /// Octets of the line being received.
    line: usize,
    room: OwnedSemaphorePermit,
}

impl<S> Submitted<S> {
    /// Follows lines through chunks of any length; `false` once one is too long.
    fn lines_are_bounded(&mut self, bytes: &[u8]) -> bool {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ended = part.ends_with(b"\n");
            self.line += part.len();
            // The line end does not count, of which CR may have come in the chunk before.
            if self.line > limits::LINE_BYTES_MAX + if ended { 2 } else { 1 } {
                return false;
            }
            if ended {
                self.line = 0;
            }
        }
        true
    }
}

impl<S: HolderStore> smtp::Receiver for Submitted<S> {
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), Reply> {
        self.hops.feed(bytes);
        if self.hops.count() > limits::HOP_COUNT_MAX {
            return Err(replies::LOOP);
        }
        if !self.lines_are_bounded(bytes) {
            return Err(LINE_TOO_LONG);
        }
        let more = u32::try_from(bytes.len()).map_err(|_| replies::TOO_BIG)?;
        let room = self
            .bridge
            .room
            .clone()
            .try_acquire_many_owned(more)
            .map_err(|_| replies::NO_ROOM)?;
        self.room.merge(room);
        self.raw.extend_from_slice(bytes);
        Ok(())
    }

    async fn finish(self) -> Reply {
        let Submitted {
            bridge,
            alias,
            is_alias_named,
            recipients,
            raw,
            room,
            ..
        } = self;
        let alias = match is_alias_named {
            true => alias,
            false => match bridge.answering_alias(&raw) {
                Ok(answering) => answering.unwrap_or(alias),
                Err(reply) => return reply,
            },
        };
        let rebuilding = {
            let bridge = bridge.clone();
            let alias = alias.clone();
            move || rebuild(&bridge.store, &bridge.hygiene, &bridge.local_address(), &alias, &raw)
        };
        const INLINE_BYTES_MAX: usize = 256 * 1024;
        // The engine of a large message must not hold the other sessions up.
        let rebuilt = if room.num_permits() <= INLINE_BYTES_MAX {
            rebuilding()
        } else {
            bridge.host.compute(rebuilding).await.unwrap_or(Err(replies::TRY_LATER))
        };
        let reply = match rebuilt {
            Ok(rebuilt) => take_in(&bridge, &alias, recipients, rebuilt).await,
            Err(reply) => reply,
        };
        drop(room);
        reply
    }
}

/// As [`Bridge::answering_alias`].
pub(super) fn answering_alias(
    store: &impl HolderStore,
    local_address: &str,
    raw: &[u8],
) -> Result<Option<HolderAlias>, Reply> {
    let local_address_parsed = Address::parse(local_address).map_err(|_| replies::TRY_LATER)?;
    let Some(answered) = message::answers(raw, &local_address_parsed) else {
        return Ok(None);
    };
    // Where it is in doubt another alias would tell that it is the same person's.
    match store.alias_of_message(&answered).map_err(|_| replies::TRY_LATER)? {
        MessageOf::Nobody => Ok(None),
        MessageOf::Several => Err(ALIAS_IN_DOUBT),
        MessageOf::Alias(address) => match own_alias(store, local_address, &address) {
            Err(reply) if reply.code == replies::SENDER_NOT_OWNED.code => Err(ALIAS_CLOSED),
            found => found.map(Some),
        },
    }
}

const ALIAS_IN_DOUBT: Reply = Reply::fixed(
    550,
    Enhanced::new(5, 7, 1),
    "the message that this answers came for several of your aliases: name one of them as the sender",
);
const ALIAS_CLOSED: Reply = Reply::fixed(
    550,
    Enhanced::new(5, 7, 1),
    "the alias that this answers for is closed: name another one as the sender",
);

/// The alias that an address of the user's stands for: an alias, or `user@localhost` for the first one.
pub(super) fn own_alias(store: &impl HolderStore, local_address: &str, address: &str) -> Result<HolderAlias, Reply> {
    let aliases = store.aliases().map_err(|_| replies::TRY_LATER)?;
    let open = |alias: &&HolderAlias| alias.open;
    if aliases.is_empty() {
        return Err(NOT_READY);
    }
    let found = if address.eq_ignore_ascii_case(local_address) {
        aliases.iter().find(open)
    } else {
        aliases
            .iter()
            .filter(open)
            .find(|alias| alias.address.eq_ignore_ascii_case(address))
    };
    found.cloned().ok_or(replies::SENDER_NOT_OWNED)
}

/// The message as it will leave, but for what the exit sets; or the reason why it must not.
pub(super) fn rebuild(
    store: &impl HolderStore,
    hygiene: &Hygiene,
    local_address: &str,
    alias: &HolderAlias,
    raw: &[u8],
) -> Result<message::Rebuilt, Reply> {
    let policy = Policy {
        stage: Stage::Bridge,
        sender: Sender {
            address: Address::parse(&alias.address).map_err(|_| replies::TRY_LATER)?,
            display_name: alias.display_name.clone(),
        },
        local_address: Address::parse(local_address).ok(),
        message_id_outside: &|id| store.message_id_outside(&alias.address, id).unwrap_or(None),
        html: hygiene.html,
        traces: &hygiene.traces,
        largest: limits::MESSAGE_BYTES_MAX,
    };
    let mut rebuilt = message::rebuild(raw, &policy).map_err(|refusal| {
        let enhanced = Enhanced::parse(refusal.enhanced()).unwrap_or(Enhanced::new(5, 6, 0));
        Reply::new(refusal.code(), enhanced, refusal.reason())
    })?;
    rebuilt.mix = rebuilt.mix.or(hygiene.mix);
    Ok(rebuilt)
}

/// How a message waits that says nothing of it, and whose sender set nothing. A relay further on may have no pool, and would
/// refuse it.
fn mix_by_way<S: HolderStore>(bridge: &Bridge<S>, recipients: &[String]) -> Mix {
    let onward = bridge.store.onward();
    let leg_of = |address: &String| {
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        onward.leg_to(&domain.to_ascii_lowercase())
    };
    match recipients.iter().all(|address| leg_of(address).relays == 0) {
        true => bridge.default_mix(),
        false => Mix::Fast,
    }
}

/// Sends a message of the bridge's own to the alias that it is from; `false`: it was not taken.
pub(super) async fn send_own<S: HolderStore>(bridge: &Bridge<S>, alias: &HolderAlias, raw: &[u8]) -> bool {
    let Ok(rebuilt) = rebuild(&bridge.store, &bridge.hygiene, &bridge.local_address(), alias, raw) else {
        return false;
    };
    let to = Recipients {
        addresses: vec![alias.address.clone()],
        options: Vec::new(),
        reports: SentReports::default(),
    };
    take_in(bridge, alias, to, rebuilt).await.code == replies::ACCEPTED.code
}

/// Prices the message and takes it into the outbox; 250 is said only when that is durable.
async fn take_in<S: HolderStore>(
    bridge: &Bridge<S>,
    alias: &HolderAlias,
    recipients: Recipients,
    rebuilt: message::Rebuilt,
) -> Reply {
    let Recipients {
        addresses: recipients,
        mut options,
        reports,
    } = recipients;
    let asks_receipt =
        |option: &EnvelopeOption| matches!(option, EnvelopeOption::Notify { wishes, .. } if wishes.success());
    let asks_receipt = options.iter().any(asks_receipt);
    let mix = match rebuilt.mix {
        Some(mix) => mix,
        // A receipt would tell when it left.
        None if asks_receipt => Mix::Fast,
        None => mix_by_way(bridge, &recipients),
    };
    let mix = mix.option();
    if mix.is_some() && asks_receipt {
        return RECEIPT_OF_MIXED;
    }
    options.extend(mix);
    let count = u16::try_from(recipients.len()).expect("the engine bounds recipients by 100");
    let octets = bridge.host.random();
    let envelope = Envelope {
        reverse_path: alias.address.clone(),
        recipients,
        origin: Origin::Sender {
            message_id: octets,
            options,
        },
    };
    let mut body = Zeroizing::new(request::payload(&envelope, &rebuilt.message));
    drop(rebuilt.message);
    let Some(kilobytes) = deposit::class_for(body.len()) else {
        return replies::TOO_BIG;
    };
    let length = u32::try_from(body.len()).expect("the largest class is below 4 GiB");
    let padding = deposit::class_bytes(kilobytes) - body.len();
    body.reserve_exact(padding);
    body.resize(deposit::class_bytes(kilobytes), 0);
    let (prices, price) = match bridge.price_of(envelope.recipients.iter().map(String::as_str), kilobytes) {
        Ok(priced) => priced,
        Err(reply) => return reply,
    };

    let ways = envelope.recipients.iter().map(String::as_str);
    let entry = bridge.entry_relay();
    if let Err(reply) = routes::refuse_other_way(alias, entry.as_deref(), &bridge.store.onward(), ways) {
        return reply;
    }

    let _spending = bridge.spending.lock().await;
    match bridge.shortfall(price) {
        Ok(None) => {}
        Ok(Some(missing)) => return replies::value_missing(missing),
        Err(_) => return replies::TRY_LATER,
    }
    if !bridge.pad_holds(kilobytes) {
        return PAD_USED_UP;
    }
    let order = OutboxOrder {
        body: std::mem::take(&mut *body),
        kilobytes,
        length,
        recipients: count,
        prices,
        price,
        label: rebuilt.subject,
        sent: SentNames {
            alias: alias.address.clone(),
            own: rebuilt.message_id,
            outside: names::message_id(&octets, &bridge.store.facts().relay_domain),
        },
        reports,
        now: bridge.host.clock.unix_seconds(),
    };
    match bridge.store.enqueue(order).await {
        Ok(_) => {
            bridge.warn(&rebuilt.warnings).await;
            replies::ACCEPTED
        }
        Err(StoreError::Busy | StoreError::Full) => replies::NO_ROOM,
        Err(_) => replies::TRY_LATER,
    }
}
