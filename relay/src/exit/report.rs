//! What the sender is told of a delivery: a delivery status notification (RFC 3464), sealed for its mailbox.

use mailbox::RelayStore;
use mailbox::relay_store::{Delivery, DepositOrder, Outcome};
use smtp_bridge::message::{self, Action, Address, Recipient, Report};
use smtp_bridge::names;
use smtp_bridge::smtp::{DeliveryResult, Enhanced};

use crate::config::MixConfig;
use crate::mix::below;
use crate::{Relay, accept, seal};

/// Most rounds that a report on a mixed delivery waits.
const ROUNDS_MAX: u64 = 24;

/// Why a delivery is told of.
pub(super) enum Cause<'c> {
    /// What came of the latest try, and the host that spoke last, where it is one that the world can look up.
    Answer {
        result: DeliveryResult,
        remote: Option<&'c str>,
    },
    /// The operator's word.
    Removed,
}

/// The notification of what became of a delivery. `None`: nobody wants it, or has that mailbox any more.
pub(super) fn report<S: RelayStore>(
    relay: &Relay<S>,
    delivery: &Delivery,
    action: Action,
    cause: &Cause<'_>,
) -> Option<DepositOrder> {
    let wishes = delivery.wishes;
    let is_wanted = match action {
        Action::Failed => wishes.failure(),
        Action::Delayed => wishes.delay(),
        Action::Relayed => wishes.success(),
    };
    // Of what was mixed only an end is told that nobody else tells of: who sees all lines would see the report follow the delivery.
    let is_told = is_wanted && (delivery.mix.is_none() || action == Action::Failed);
    if !is_told {
        return None;
    }
    // Of what a peer passed on, the peer is told, who knows the sender.
    let alias = accept::reported_to(relay, &delivery.reverse_path)?;
    let (status, diagnostic, remote) = match cause {
        Cause::Answer { result, remote } => {
            let (code, status) = codes(*result);
            (at_the_end(action, status), diagnostic(code, status), *remote)
        }
        Cause::Removed => {
            let words = "the operator of this relay removed the message from its queue";
            (Enhanced::new(5, 3, 0), words.to_owned(), None)
        }
    };
    let dsn = message::dsn(&Report {
        reporting_mta: &relay.config.domain,
        to: &Address::parse(&delivery.reverse_path).ok()?,
        message_id_local: &names::random(&relay.host),
        date: accept::coarse(relay.host.clock.unix_seconds(), relay.config.date_bucket_s),
        recipients: &[Recipient {
            address: &Address::parse(&delivery.recipient).ok()?,
            action,
            status: &status.to_string(),
            remote_mta: remote,
            diagnostic: Some(&diagnostic),
        }],
        original: &delivery.message,
    });
    let sealed = seal::message(&relay.host, "", &dsn)?;
    Some(sealed.into_order(vec![(alias.account, alias.number)], relay.host.day()))
}

/// What is done with a delivery whose try came to this outcome. The report on a mixed one that failed waits for a random round behind
/// it: told at once, it would join the failure, which the lines show, to the mailbox that collects the report. `Err`: until then.
pub(super) fn put_off(
    outcome: Outcome,
    mix: Option<&MixConfig>,
    now: u64,
    random: &mut dyn FnMut() -> u64,
) -> Result<Outcome, u64> {
    match (outcome, mix) {
        (Outcome::Failed { report: Some(_) }, Some(mix)) => {
            let rounds = (mix.hold_s / mix.round_s.max(1)).clamp(1, ROUNDS_MAX);
            // To the second: in a round of the pool nothing else is told.
            let wait = 1 + below(rounds.saturating_mul(mix.round_s.max(1)), random);
            Err(now.saturating_add(wait))
        }
        (outcome, _) => Ok(outcome),
    }
}

/// As the host said them.
fn codes(result: DeliveryResult) -> (Option<u16>, Enhanced) {
    match result {
        DeliveryResult::Delivered => (Some(250), Enhanced::new(2, 0, 0)),
        DeliveryResult::Transient { code, status } | DeliveryResult::Permanent { code, status } => (code, status),
    }
}

/// What was transient is permanent once it is given up, with the same reason (RFC 3464 section 2.3.4).
fn at_the_end(action: Action, status: Enhanced) -> Enhanced {
    match (action, status.to_string().strip_prefix("4.")) {
        (Action::Failed, Some(reason)) => Enhanced::parse(&format!("5.{reason}")).unwrap_or(status),
        _ => status,
    }
}

/// The codes of the host's reply, or our own reason. Never the reply's text: it may name an address.
fn diagnostic(code: Option<u16>, status: Enhanced) -> String {
    let status = status.to_string();
    let Some(code) = code else {
        return match status.get(1..).unwrap_or_default() {
            ".1.2" => "the domain does not exist, or has no host that takes mail",
            ".4.3" => "the domain name system gave no answer about the domain",
            ".4.4" => "no host of the domain can be reached from the relay",
            ".4.6" => "the hosts of the domain lead back to the relay",
            ".4.7" => "it was under way to another relay for too long, and may have been delivered",
            ".3.3" => "the next relay does not mix mail as it was asked to",
            ".7.1" => "the next relay does not take mail of this sender",
            ".6.3" => "the next host takes no text outside ASCII",
            ".7.4" | ".7.5" => "the next host cannot be spoken with under TLS as the relay demands",
            _ => "the next host could not be reached or did not answer",
        }
        .to_owned();
    };
    if code == 556 {
        return format!("{code} {status} the domain takes no mail");
    }
    format!("{code} {status}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_stays_the_same_when_it_becomes_final() {
        let transient = Enhanced::new(4, 4, 1);
        assert_eq!(at_the_end(Action::Delayed, transient).to_string(), "4.4.1");
        assert_eq!(at_the_end(Action::Failed, transient).to_string(), "5.4.1");
        assert_eq!(at_the_end(Action::Failed, Enhanced::new(5, 1, 1)).to_string(), "5.1.1");
    }

    #[test]
    fn the_report_on_a_mixed_failure_waits_for_a_random_round() {
        let mix = MixConfig {
            round_s: 300,
            hold_s: 86_400,
            ..MixConfig::default()
        };
        let failed = || Outcome::Failed {
            report: Some(DepositOrder {
                recipients: Vec::new(),
                body: Vec::new(),
                dek: keypacks::deposit::Dek::new(keypacks::Secret::new([0; 32])),
                length: 0,
                kilobytes: 1,
                day: 0,
            }),
        };
        let mut state = 0_u64;
        let mut random = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            state
        };
        let mut waits: Vec<u64> = (0..2_000)
            .map(|_| {
                put_off(failed(), Some(&mix), 1_000, &mut random)
                    .err()
                    .expect("put off")
                    - 1_000
            })
            .collect();
        waits.sort_unstable();
        assert!(waits[0] > 0 && waits[0] < 300 && waits[1_999] > 23 * 300 && waits[1_999] <= 24 * 300);
        assert!((10 * 300..14 * 300).contains(&waits[1_000]), "evenly: {}", waits[1_000]);
        assert!(
            put_off(failed(), None, 0, &mut random).is_ok(),
            "what is fast is told at once"
        );
        for outcome in [
            Outcome::Delivered,
            Outcome::Retry { at: 7 },
            Outcome::Failed { report: None },
        ] {
            assert!(put_off(outcome, Some(&mix), 0, &mut random).is_ok(), "nothing is told");
        }
    }

    #[test]
    fn a_diagnostic_has_codes_or_our_own_words() {
        assert_eq!(diagnostic(Some(550), Enhanced::new(5, 1, 1)), "550 5.1.1");
        assert!(diagnostic(Some(556), Enhanced::new(5, 1, 10)).starts_with("556 5.1.10 "));
        assert!(diagnostic(None, Enhanced::new(5, 4, 6)).contains("lead back"));
        assert!(diagnostic(None, Enhanced::new(4, 4, 1)).contains("could not be reached"));
    }
}
