//! Accept once, debit once: judging a change, and the one commit that carries it out.
//!
//! Everything that leaves the relay later is fixed here, before the commit: recipients, price, and the message byte
//! for byte, so that a repeated delivery repeats the same bytes. The answer is sent only after the commit.

use std::sync::Arc;

use keypacks::pack::Identifier;
use keypacks::parcel::{Header, Kind, PREFIX};
use keypacks::reroot::{self, Offer};
use keypacks::{Secret, deposit, kdf, procure};
use ledger::{Price, PriceList};
use mailbox::parcel::{AliasChange, Asked, Terms, decode_control};
use mailbox::relay_store::{Account, Alias, Effect, Endowment, NewRoot, Procure, Spooled};
use mailbox::request::{Answer, Change, Envelope, Operation, Origin, RECIPIENTS_MAX, Refusal, TELL_MAX, split_payload};
use mailbox::{RelayStore, StoreError};
use smtp_bridge::message::{self, Address, Html, Policy, Sender, Stage, Traces, limits};
use smtp_bridge::names;
use smtp_bridge::smtp::Mailbox;
use zeroize::Zeroizing;

use crate::config::Route;
use crate::{Relay, mix, peers};

/// Rebuilding a longer message takes a while: other links go on meanwhile.
const INLINE_BYTES_MAX: usize = 256 * 1024;

/// An account, and the number of the root that its holder showed keys of.
pub(crate) type Under = (Account, u64);

/// The stored answer of a change that was carried out before, so that its body need not be judged again.
pub(crate) fn answered_before<S: RelayStore>(relay: &Relay<S>, account: Account, change: &Change) -> Option<Answer> {
    relay.store.stored_answer(account, change, &change.digest())
}

/// Carries out a change without a body: an alias, a new root, or keys and value that move.
pub(crate) async fn change<S: RelayStore>(relay: &Relay<S>, account: Under, change: Change) -> Answer {
    if matches!(
        change.operation,
        Operation::Reroot { .. } | Operation::Procure { .. } | Operation::Endow { .. }
    ) && let Some(stored) = answered_before(relay, account.0, &change)
    {
        return stored;
    }
    let effect = match &change.operation {
        Operation::AliasOpen { local } if relay.config.is_parcel_local(local) => Err(Refusal::AliasTaken),
        Operation::AliasOpen { local } => alias_address(relay, local).map(|address| Effect::AliasOpen { address }),
        Operation::AliasClose { local } => alias_address(relay, local).map(|address| Effect::AliasClose { address }),
        Operation::Reroot { .. } => new_root(relay, &change.operation).map(Effect::Reroot),
        Operation::Split {
            identifier,
            root,
            keys,
            value,
        } => Ok(Effect::Split {
            identifier: Identifier(*identifier),
            root: Secret::new(*root),
            keys: *keys,
            value: *value,
        }),
        Operation::Release { voucher } => Ok(Effect::Release { voucher: *voucher }),
        Operation::Redeem { voucher } => Ok(Effect::Redeem {
            voucher: kdf::hash(&[voucher]),
        }),
        Operation::Renew { keys, value } => Ok(Effect::Renew {
            keys: *keys,
            value: *value,
        }),
        Operation::Expire { day } => Ok(Effect::Expire { day: *day }),
        Operation::Procure { .. } => return order(relay, account, change).await,
        Operation::Endow { .. } => endow(relay, &change.operation).map(Effect::Endow),
        Operation::Device { identifier, root, keys } => Ok(Effect::Device {
            identifier: Identifier(*identifier),
            root: Secret::new(*root),
            keys: *keys,
        }),
        Operation::Drop { device } => Ok(Effect::Drop { device: *device }),
        Operation::Tell { locals } if locals.len() > TELL_MAX => Err(Refusal::Malformed),
        Operation::Tell { locals } => {
            let addresses = locals.iter().map(|local| alias_address(relay, local));
            addresses
                .collect::<Result<_, _>>()
                .map(|addresses| Effect::Tell { addresses })
        }
        Operation::Submit { .. } => Err(Refusal::Malformed),
    };
    execute(relay, account, change, effect.unwrap_or_else(Effect::Refuse)).await
}

/// Takes an order of a pack, one after the other: what a peer's pack still holds is promised once.
async fn order<S: RelayStore>(relay: &Relay<S>, account: Under, change: Change) -> Answer {
    let _ordering = relay.peers.ordering().await;
    let effect = ordered(relay, account.0, &change.operation).map_or_else(Effect::Refuse, Effect::Procure);
    let is_order = matches!(effect, Effect::Procure(_));
    let answer = execute(relay, account, change, effect).await;
    if is_order {
        relay.peers.ordered();
    }
    answer
}

/// An order of a pack at a peer, if that is offered and what is held there covers it.
fn ordered<S: RelayStore>(relay: &Relay<S>, account: Account, operation: &Operation) -> Result<Procure, Refusal> {
    let Operation::Procure {
        relay: domain,
        kem,
        dh,
        keys,
        value,
        debit_max,
    } = operation
    else {
        return Err(Refusal::Malformed);
    };
    if kem.len() != reroot::KEM_PUBLIC {
        return Err(Refusal::Malformed);
    }
    let before = relay.store.order_before(account, kem, *dh).map_err(|_| Refusal::Busy)?;
    let is_it = |known: &Procure| (known.keys, known.value) == (*keys, *value) && known.price <= *debit_max;
    if let Some(known) = before.filter(is_it) {
        // Asked for again: it is taken and paid, whatever is offered or left by now.
        return Ok(known);
    }
    let offers = relay.peers.offers(relay.config.procure.as_ref());
    let price = offers.price(domain, *keys, *value).ok_or(Refusal::Offer)?;
    if price > *debit_max {
        return Err(Refusal::Price {
            price,
            prices: relay.store.prices().version,
        });
    }
    // Before the peer's pack is looked at: who cannot pay draws no credit there, and learns nothing of what is left in it.
    if let Ok(Answer::Balance { balance, .. }) = relay.store.balance(account)
        && balance < price
    {
        return Err(Refusal::Value {
            shortfall: price - balance,
        });
    }
    let seller = relay.peers.seller(relay, domain, (*keys, *value));
    Ok(Procure {
        peer: seller.map_err(|_| Refusal::Busy)?.ok_or(Refusal::Offer)?,
        kem: kem.clone(),
        dh: *dh,
        keys: *keys,
        value: *value,
        price,
    })
}

/// This relay's share of a pack for whoever made these keys: all of it but whether it may be.
fn endow<S>(relay: &Relay<S>, operation: &Operation) -> Result<Endowment, Refusal> {
    let Operation::Endow { kem, dh, keys, value } = operation else {
        return Err(Refusal::Malformed);
    };
    let offer = Offer {
        kem: kem.clone(),
        dh: *dh,
    };
    let (encoded, random) = (operation.encode(), Secret::new(relay.host.random()));
    let made = procure::endow(&relay.secret, &offer, &encoded, &random);
    let (endowed, ciphertext) = made.map_err(|_| Refusal::Malformed)?;
    Ok(Endowment {
        order: kdf::hash(&[&encoded]),
        identifier: endowed.identifier,
        root: endowed.root,
        ciphertext,
        confirm: endowed.confirm,
        keys: *keys,
        value: *value,
    })
}

/// The relay's share of a new root: all of it but whether it may be.
fn new_root<S>(relay: &Relay<S>, operation: &Operation) -> Result<NewRoot, Refusal> {
    let Operation::Reroot {
        kem,
        dh,
        recovery,
        proof,
    } = operation
    else {
        return Err(Refusal::Malformed);
    };
    let offer = Offer {
        kem: kem.clone(),
        dh: *dh,
    };
    let random = Secret::new(relay.host.random());
    let (root, ciphertext) =
        reroot::encapsulate(&relay.secret, &offer, &operation.encode(), &random).map_err(|_| Refusal::Malformed)?;
    Ok(NewRoot {
        root,
        ciphertext,
        recovery: *recovery,
        shown: proof.as_ref().map(|proof| reroot::verifier(&proof.0)),
    })
}

/// Records a refusal as the answer of a change, so that a retry gets the same.
pub(crate) async fn refuse<S: RelayStore>(
    relay: &Relay<S>,
    account: Under,
    change: Change,
    refusal: Refusal,
) -> Answer {
    execute(relay, account, change, Effect::Refuse(refusal)).await
}

/// Carries out a submission whose body arrived whole.
pub(crate) async fn submission<S: RelayStore>(
    relay: &Arc<Relay<S>>,
    under: Under,
    change: Change,
    body: Zeroizing<Vec<u8>>,
) -> Answer {
    let (account, _) = under;
    let judged = if body.len() <= INLINE_BYTES_MAX {
        judge(relay, account, &change.operation, &body)
    } else {
        let (relay, operation) = (relay.clone(), change.operation.clone());
        let host = relay.host.clone();
        let judging = host.compute(move || judge(&relay, account, &operation, &body));
        judging.await.unwrap_or(Err(Refusal::Message))
    };
    execute(relay, under, change, judged.map_or_else(Effect::Refuse, Effect::Spool)).await
}

async fn execute<S: RelayStore>(relay: &Relay<S>, under: Under, change: Change, effect: Effect) -> Answer {
    let (seq, digest) = (change.seq, change.digest());
    let dropped = match effect {
        Effect::Drop { device } => relay.store.other_device(under.0, device).ok().flatten(),
        _ => None,
    };
    let now = coarse(relay.host.clock.unix_seconds(), relay.config.date_bucket_s);
    match relay
        .store
        .execute(under, change, digest, effect, relay.host.day(), now)
        .await
    {
        Ok(answer) => {
            if matches!(answer, Answer::Rerooted { .. }) {
                // What opens under the root before is not carried out any more: its keys go now.
                relay.openings.end_all(under.0);
            }
            if let Some(dropped) = dropped.filter(|_| matches!(answer, Answer::Moved { .. })) {
                // What a device has open ends with it.
                relay.links.end(dropped);
                relay.collecting.end(dropped);
                relay.openings.end_all(dropped);
            }
            if matches!(
                answer,
                Answer::Done { .. } | Answer::Moved { .. } | Answer::Endowed { .. }
            ) {
                relay.metrics.changes.count();
            }
            answer
        }
        // Nothing is known to have happened: the holder sends the same number again.
        Err(_) => Answer::Refused {
            seq,
            refusal: Refusal::Busy,
        },
    }
}

/// Carries out a parcel that opened whole; `Ok(false)`: its index has had its end before.
pub(crate) async fn parcel<S: RelayStore>(
    relay: &Arc<Relay<S>>,
    (under, index, prefix): (Under, u64, [u8; PREFIX]),
    header: Header,
    payload: Zeroizing<Vec<u8>>,
) -> Result<bool, StoreError> {
    let (account, _) = under;
    let judged = if payload.len() <= INLINE_BYTES_MAX {
        judge_parcel(relay, account, &header, &payload)
    } else {
        let judging = {
            let relay = relay.clone();
            move || judge_parcel(&relay, account, &header, &payload)
        };
        let judging = relay.host.compute(judging);
        judging.await.unwrap_or(Err(Refusal::Message))
    };
    let effect = judged.unwrap_or_else(Effect::Refuse);
    let now = coarse(relay.host.clock.unix_seconds(), relay.config.date_bucket_s);
    relay
        .store
        .carry_out_parcel(under, (index, prefix), effect, relay.host.day(), now)
        .await
}

fn judge_parcel<S: RelayStore>(
    relay: &Relay<S>,
    account: Account,
    header: &Header,
    payload: &[u8],
) -> Result<Effect, Refusal> {
    if header.kind == Kind::Control {
        return judge_control(relay, header, payload).map(Effect::Control);
    }
    let terms = Terms::from_hop(&header.hop).map_err(|_| Refusal::Malformed)?;
    let kilobytes = deposit::class_for(payload.len()).ok_or(Refusal::Malformed)?;
    let (envelope, raw) = split_payload(payload).map_err(|_| Refusal::Malformed)?;
    let list = relay.store.prices();
    let price = price_of(relay, &list, &envelope, kilobytes)?;
    // A parcel may be long under way: no list is named, and only what it may cost counts.
    if price.total() > terms.debit_max {
        return Err(Refusal::Price {
            price: price.total(),
            prices: list.version,
        });
    }
    judge_mail(relay, account, envelope, raw, (terms.recipients, price)).map(Effect::Spool)
}

/// What is asked for, an alias by its address.
fn judge_control<S: RelayStore>(relay: &Relay<S>, header: &Header, payload: &[u8]) -> Result<Asked, Refusal> {
    let mut asked = decode_control(payload).map_err(|_| Refusal::Malformed)?;
    if header.hop.iter().any(|octet| *octet != 0) {
        return Err(Refusal::Malformed);
    }
    asked.alias = match asked.alias.take() {
        Some(AliasChange::Open(local)) if relay.config.is_parcel_local(&local) => return Err(Refusal::AliasTaken),
        Some(AliasChange::Open(local)) => Some(AliasChange::Open(alias_address(relay, &local)?)),
        Some(AliasChange::Close(local)) => Some(AliasChange::Close(alias_address(relay, &local)?)),
        None => None,
    };
    Ok(asked)
}

fn judge<S: RelayStore>(
    relay: &Relay<S>,
    account: Account,
    operation: &Operation,
    body: &[u8],
) -> Result<Spooled, Refusal> {
    let Operation::Submit {
        prices,
        debit_max,
        recipients,
        kilobytes,
        length,
        body: digest,
    } = operation
    else {
        return Err(Refusal::Malformed);
    };
    if kdf::hash(&[body]) != *digest {
        return Err(Refusal::Malformed);
    }
    let payload = body.get(..*length as usize).ok_or(Refusal::Malformed)?;
    let (envelope, raw) = split_payload(payload).map_err(|_| Refusal::Malformed)?;
    let list = relay.store.prices();
    let price = price_of(relay, &list, &envelope, *kilobytes)?;
    if list.version != *prices || price.total() > *debit_max {
        return Err(Refusal::Price {
            price: price.total(),
            prices: list.version,
        });
    }
    judge_mail(relay, account, envelope, raw, (*recipients, price))
}

/// What a submission costs: at this relay, and at those behind it, each recipient by the way of its domain.
fn price_of<S: RelayStore>(
    relay: &Relay<S>,
    list: &PriceList,
    envelope: &Envelope,
    kilobytes: u32,
) -> Result<Price, Refusal> {
    let recipients = envelope.recipients.iter().map(String::as_str);
    let price = relay.store.onward().price_of(list, recipients, kilobytes);
    price.ok_or(Refusal::Malformed)
}

/// What is left when the price is known: the same for all ways in.
fn judge_mail<S: RelayStore>(
    relay: &Relay<S>,
    account: Account,
    envelope: Envelope,
    raw: &[u8],
    (recipients, price): (u16, Price),
) -> Result<Spooled, Refusal> {
    if envelope.recipients.is_empty()
        || envelope.recipients.len() > RECIPIENTS_MAX
        || envelope.recipients.len() != usize::from(recipients)
    {
        return Err(Refusal::Malformed);
    }
    let mix = mix::offered(relay, envelope.mix())?;
    let hops = envelope.hops();
    let house = relay.store.house(account);
    let is_own = own_alias(relay, &envelope.reverse_path).is_some_and(|alias| alias.account == house && alias.open);
    let origin = if is_own && hops == 0 {
        relay.config.domain.clone()
    } else if !is_own && hops > 0 {
        passed_on(relay, house, &envelope.reverse_path).ok_or(Refusal::Sender)?
    } else {
        return Err(Refusal::Sender);
    };
    for (position, recipient) in (0..).zip(&envelope.recipients) {
        let recipient_path = deliverable(recipient).ok_or(Refusal::Recipient { recipient: position })?;
        let ways = relay.config.ways(recipient_path.domain().as_str());
        if !leads_there(&ways, |name| relay.peers.relays_by(name, recipient), hops) {
            return Err(Refusal::Route { recipient: position });
        }
    }

    let no_traces = Traces::NONE;
    let policy = Policy {
        stage: Stage::Exit {
            message_id_local: match hops {
                0 => message_id_local(relay, &envelope),
                _ => message_id_kept(raw, &origin).unwrap_or_else(|| names::random(&relay.host)),
            },
            domain: origin,
            date: coarse(relay.host.clock.unix_seconds(), relay.config.date_bucket_s),
        },
        sender: Sender {
            address: Address::parse(&envelope.reverse_path).map_err(|_| Refusal::Sender)?,
            display_name: message::sender_name(raw),
        },
        local_address: None,
        message_id_outside: &|id| Some(id.to_owned()),
        html: Html::Drop,
        traces: &no_traces,
        largest: limits::MESSAGE_BYTES_MAX,
    };
    let rebuilt = message::rebuild(raw, &policy).map_err(|_| Refusal::Message)?;
    let wishes = (0..envelope.recipients.len()).map(|position| envelope.wishes(position));
    let wishes = wishes.collect();
    Ok(Spooled {
        reverse_path: envelope.reverse_path,
        recipients: envelope.recipients,
        message: rebuilt.message,
        price: price.total(),
        onward: price.onward,
        hops,
        mix,
        wishes,
    })
}

/// Whether mail that passed so many relays can go by any of these ways; `relays` tells how many more are behind a peer whose
/// pack is open. For good: a passing refusal would hold up all that the holder has queued behind it.
fn leads_there(ways: &[Route], relays: impl Fn(&str) -> Option<u8>, hops: u8) -> bool {
    ways.iter().any(|way| match way {
        Route::Peer(name) => relays(name).is_some_and(|relays| !peers::is_too_far(hops, relays)),
        _ => true,
    })
}

/// The alias of an address of this relay's own domain, open or closed. The store alone knows no domain: postmaster is the
/// operator's there whatever stands behind the '@'.
fn own_alias<S: RelayStore>(relay: &Relay<S>, address: &str) -> Option<Alias> {
    let (_, domain) = address.rsplit_once('@')?;
    let alias = relay.store.alias(address);
    alias.filter(|_| domain.eq_ignore_ascii_case(&relay.config.domain))
}

/// Whose mailbox a report to the sender of this address goes to: that of its alias, closed or not, or of the relay that
/// passed the message on.
pub(crate) fn reported_to<S: RelayStore>(relay: &Relay<S>, address: &str) -> Option<Alias> {
    own_alias(relay, address).or_else(|| spokesman(relay, address))
}

/// Who speaks for the domain of an address, if anybody does: a relay that holds a pack. For this relay's own nobody does.
fn spokesman<S: RelayStore>(relay: &Relay<S>, address: &str) -> Option<Alias> {
    let (_, domain) = address.rsplit_once('@')?;
    let domain = domain.to_ascii_lowercase();
    let speaks = |domain: &str| relay.store.alias(&format!("@{domain}")).filter(|alias| alias.open);
    let speaker = speaks(&domain).or_else(|| speaks("*"));
    speaker.filter(|_| domain != relay.config.domain)
}

/// The domain of a sender whose message another relay passes on, if it may: never this relay's own.
fn passed_on<S: RelayStore>(relay: &Relay<S>, account: Account, reverse_path: &str) -> Option<String> {
    let (_, domain) = reverse_path.rsplit_once('@')?;
    let domain = domain.to_ascii_lowercase();
    let speaks = |domain: &str| {
        let alias = relay.store.alias(&format!("@{domain}"));
        alias.is_some_and(|alias| alias.account == account && alias.open)
    };
    (domain != relay.config.domain && (speaks(&domain) || speaks("*"))).then_some(domain)
}

/// The local part of the Message-ID that the sender's own relay gave: threads hold by it.
fn message_id_kept(raw: &[u8], domain: &str) -> Option<String> {
    let value = message::header_value(raw, "Message-ID")?;
    let (local, of) = value.strip_prefix('<')?.strip_suffix('>')?.rsplit_once('@')?;
    (of == domain && names::is_alias_local(local)).then(|| local.to_owned())
}

/// What the Message-ID is spelled from: drawn by the holder's machine, which keeps threads together by it. A holder that
/// leaves it to the relay gets one all the same.
fn message_id_local<S: RelayStore>(relay: &Relay<S>, envelope: &Envelope) -> String {
    match &envelope.origin {
        Origin::Sender { message_id, .. } => names::spell(message_id),
        Origin::Plain | Origin::Relay { .. } => names::random(&relay.host),
    }
}

/// A recipient that mail can go to, and that a report to the sender can name if it does not arrive: a mailbox at an
/// address literal is none.
fn deliverable(recipient: &str) -> Option<Mailbox> {
    Address::parse(recipient).ok()?;
    Mailbox::parse(recipient)
}

fn alias_address<S: RelayStore>(relay: &Relay<S>, local: &str) -> Result<String, Refusal> {
    if names::is_alias_local(local) {
        Ok(format!("{local}@{}", relay.config.domain))
    } else {
        Err(Refusal::Malformed)
    }
}

/// `now` rounded down to the operator's bucket: finer time leaves the relay nowhere.
pub(crate) fn coarse(now: u64, bucket: u64) -> u64 {
    now - now % bucket
}

#[cfg(test)]
mod tests {
    use mailbox::request::HOPS_MAX;

    use super::*;

    #[test]
    fn what_can_never_go_by_a_peer_is_refused_for_good() {
        let leads = |is_open: bool, hops, relays| {
            let by = [Route::Peer("x".into())];
            leads_there(&by, |name| (is_open && name == "x").then_some(relays), hops)
        };
        assert!(!leads(false, 0, 0), "its pack cannot be opened");
        assert!(leads(true, 0, 0), "nothing was heard of it yet");
        for (hops, relays) in [(0, 1), (0, HOPS_MAX), (2, HOPS_MAX - 2), (HOPS_MAX - 1, 1)] {
            assert!(leads(true, hops, relays), "{hops} {relays}");
        }
        for (hops, relays) in [
            (0, HOPS_MAX + 1),
            (1, HOPS_MAX),
            (HOPS_MAX, 1),
            (HOPS_MAX, 0),
            (1, u8::MAX),
        ] {
            assert!(!leads(true, hops, relays), "{hops} {relays}");
        }
        let last_direct = [Route::Peer("x".into()), Route::Host("x:25".into())];
        assert!(leads_there(&last_direct, |_| None, HOPS_MAX));
        assert!(!leads_there(&[], |_| Some(1), 0));
    }

    #[test]
    fn one_way_that_is_near_enough_is_enough() {
        let ways = [Route::Peer("far".into()), Route::Peer("near".into())];
        let relays = |name: &str| Some(if name == "far" { u8::MAX } else { 1 });
        assert!(leads_there(&ways, relays, 0) && leads_there(&ways, relays, HOPS_MAX - 1));
        assert!(!leads_there(&ways, relays, HOPS_MAX) && !leads_there(&ways[..1], relays, 0));
    }

    #[test]
    fn a_recipient_that_no_report_could_name_is_refused() {
        assert!(deliverable("bob@example.org").is_some() && deliverable("\"b ob\"@example.org").is_some());
        for recipient in [
            "bob@[192.0.2.1]",
            "bob@[IPv6:2001:db8::1]",
            "bob@a_b.example",
            "bob",
            "",
        ] {
            assert!(deliverable(recipient).is_none(), "{recipient}");
        }
    }
}
