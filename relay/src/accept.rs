//! Accept once, debit once: judging a change, and the one commit that carries it out.
//!
//! Everything that leaves the relay later is fixed here, before the commit: recipients, price, and the message byte
//! for byte, so that a repeated delivery repeats the same bytes. The answer is sent only after the commit.

use std::sync::Arc;

use keypacks::parcel::{Header, Kind, PREFIX};
use keypacks::{deposit, kdf};
use mailbox::parcel::Terms;
use mailbox::relay_store::{Account, Effect, Spooled};
use mailbox::request::{Answer, Change, Envelope, Operation, RECIPIENTS_MAX, Refusal, split_payload};
use mailbox::{RelayStore, StoreError};
use smtp_bridge::message::{self, Address, Html, Policy, Sender, Stage, Traces, limits};
use smtp_bridge::names;
use smtp_bridge::smtp::Mailbox;
use zeroize::Zeroizing;

use crate::Relay;

/// Rebuilding a longer message takes a while: other links go on meanwhile.
const INLINE_BYTES_MAX: usize = 256 * 1024;

/// The stored answer of a change that was carried out before, so that its body need not be judged again.
pub(crate) fn answered_before<S: RelayStore>(relay: &Relay<S>, account: Account, change: &Change) -> Option<Answer> {
    relay.store.stored_answer(account, change, &change.digest())
}

/// Carries out a change without a body: an alias.
pub(crate) async fn change<S: RelayStore>(relay: &Relay<S>, account: Account, change: Change) -> Answer {
    let effect = match &change.operation {
        Operation::AliasOpen { local } if relay.config.is_parcel_local(local) => Err(Refusal::AliasTaken),
        Operation::AliasOpen { local } => alias_address(relay, local).map(|address| Effect::AliasOpen { address }),
        Operation::AliasClose { local } => alias_address(relay, local).map(|address| Effect::AliasClose { address }),
        Operation::Submit { .. } => Err(Refusal::Malformed),
    };
    execute(relay, account, change, effect.unwrap_or_else(Effect::Refuse)).await
}

/// Records a refusal as the answer of a change, so that a retry gets the same.
pub(crate) async fn refuse<S: RelayStore>(
    relay: &Relay<S>,
    account: Account,
    change: Change,
    refusal: Refusal,
) -> Answer {
    execute(relay, account, change, Effect::Refuse(refusal)).await
}

/// Carries out a submission whose body arrived whole.
pub(crate) async fn submission<S: RelayStore>(
    relay: &Arc<Relay<S>>,
    account: Account,
    change: Change,
    body: Zeroizing<Vec<u8>>,
) -> Answer {
    let judged = if body.len() <= INLINE_BYTES_MAX {
        judge(relay, account, &change.operation, &body)
    } else {
        let (relay, operation) = (relay.clone(), change.operation.clone());
        let host = relay.host.clone();
        let judging = host.compute(move || judge(&relay, account, &operation, &body));
        judging.await.unwrap_or(Err(Refusal::Message))
    };
    execute(
        relay,
        account,
        change,
        judged.map_or_else(Effect::Refuse, Effect::Spool),
    )
    .await
}

async fn execute<S: RelayStore>(relay: &Relay<S>, account: Account, change: Change, effect: Effect) -> Answer {
    let (seq, digest) = (change.seq, change.digest());
    let now = coarse(relay.host.clock.unix_seconds(), relay.config.date_bucket_s);
    match relay
        .store
        .execute(account, change, digest, effect, relay.host.day(), now)
        .await
    {
        Ok(answer) => {
            if matches!(answer, Answer::Done { .. }) {
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
    (account, index, prefix): (Account, u64, [u8; PREFIX]),
    header: Header,
    payload: Zeroizing<Vec<u8>>,
) -> Result<bool, StoreError> {
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
    let effect = judged.map_or_else(Effect::Refuse, Effect::Spool);
    let now = coarse(relay.host.clock.unix_seconds(), relay.config.date_bucket_s);
    relay
        .store
        .carry_out_parcel(account, (index, prefix), effect, relay.host.day(), now)
        .await
}

fn judge_parcel<S: RelayStore>(
    relay: &Relay<S>,
    account: Account,
    header: &Header,
    payload: &[u8],
) -> Result<Spooled, Refusal> {
    if header.kind != Kind::Deliver {
        return Err(Refusal::Malformed);
    }
    let terms = Terms::from_hop(&header.hop).map_err(|_| Refusal::Malformed)?;
    let kilobytes = deposit::class_for(payload.len()).ok_or(Refusal::Malformed)?;
    let (envelope, raw) = split_payload(payload).map_err(|_| Refusal::Malformed)?;
    let list = relay.store.prices();
    let price = list.price_of(terms.recipients, kilobytes).ok_or(Refusal::Malformed)?;
    // A parcel may be long under way: no list is named, and only what it may cost counts.
    if price > terms.debit_max {
        return Err(Refusal::Price {
            price,
            prices: list.version,
        });
    }
    judge_mail(relay, account, envelope, raw, (terms.recipients, price))
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
    let price = list.price_of(*recipients, *kilobytes).ok_or(Refusal::Malformed)?;
    if list.version != *prices || price > *debit_max {
        return Err(Refusal::Price {
            price,
            prices: list.version,
        });
    }
    judge_mail(relay, account, envelope, raw, (*recipients, price))
}

/// What is left when the price is known: the same for all ways in.
fn judge_mail<S: RelayStore>(
    relay: &Relay<S>,
    account: Account,
    envelope: Envelope,
    raw: &[u8],
    (recipients, price): (u16, u64),
) -> Result<Spooled, Refusal> {
    if envelope.recipients.is_empty()
        || envelope.recipients.len() > RECIPIENTS_MAX
        || envelope.recipients.len() != usize::from(recipients)
    {
        return Err(Refusal::Malformed);
    }
    let sender = relay
        .store
        .alias(&envelope.reverse_path)
        .filter(|alias| alias.account == account && alias.open);
    if sender.is_none() {
        return Err(Refusal::Sender);
    }
    for (position, recipient) in (0..).zip(&envelope.recipients) {
        let recipient_path = deliverable(recipient).ok_or(Refusal::Recipient { recipient: position })?;
        if relay.config.route(recipient_path.domain().as_str()).is_none() {
            return Err(Refusal::Route { recipient: position });
        }
    }

    let no_traces = Traces::NONE;
    let policy = Policy {
        stage: Stage::Exit {
            message_id_local: message_id_local(relay, &envelope),
            domain: relay.config.domain.clone(),
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
    Ok(Spooled {
        reverse_path: envelope.reverse_path,
        recipients: envelope.recipients,
        message: rebuilt.message,
        price,
    })
}

/// What the Message-ID is spelled from: drawn by the holder's machine, which keeps threads together by it. A holder that
/// leaves it to the relay gets one all the same.
fn message_id_local<S: RelayStore>(relay: &Relay<S>, envelope: &Envelope) -> String {
    match &envelope.message_id {
        Some(octets) => names::spell(octets),
        None => names::random(&relay.host),
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
fn coarse(now: u64, bucket: u64) -> u64 {
    now - now % bucket
}

#[cfg(test)]
mod tests {
    use super::*;

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
