//! What must hold of every run once the world is at rest.

use std::time::Duration;

use keypacks::deposit;
use relay::operator::Command as RelayCommand;
use smtp_bridge::bridge::commands::Command as BridgeCommand;

use crate::mail::Sent;
use crate::sink::Arrival;
use crate::world::{KEYS, Message, To, VALUE, World, text, token};

/// Price of a message for each recipient, and for each 1,000 octets of its class; price of a link key (the defaults of
/// a relay's configuration).
const MESSAGE: u64 = 1_000;
const KILOBYTE: u64 = 10;
const KEY: u64 = 100;

/// Judges the world; what is wrong becomes a fault of its trace.
pub(crate) async fn judge(world: &World) {
    let mut inboxes = Vec::new();
    for index in 0..world.people.len() {
        match world.inbox(index).await {
            Some(inbox) => inboxes.push(inbox),
            None => {
                return world
                    .trace
                    .fault(format!("INBOX of person {index} cannot be read at the end"));
            }
        }
    }
    let messages = world
        .messages
        .lock()
        .map(|messages| messages.clone())
        .unwrap_or_default();
    let arrivals = world.sink.arrivals();
    let relay_ends = world.relay.lock().await.ends.clone();
    let verdict = Verdict {
        world,
        messages: &messages,
        arrivals: &arrivals,
        inboxes: &inboxes,
        relay_ends: &relay_ends,
    };
    for message in &messages {
        verdict.message(message);
    }
    verdict.strays();
    if let Err(error) = verdict.value().await {
        world.trace.fault(format!("the books could not be looked at: {error}"));
    }
}

struct Verdict<'a> {
    world: &'a World,
    messages: &'a [Message],
    arrivals: &'a [Arrival],
    inboxes: &'a [Vec<Vec<u8>>],
    relay_ends: &'a [Duration],
}

impl Verdict<'_> {
    fn fault(&self, sentence: String) {
        self.world.trace.fault(sentence);
    }

    fn message(&self, message: &Message) {
        for to in &message.to {
            let copies = self.copies(message, to);
            let least = u64::from(message.outcome == Some(Sent::Accepted));
            let most = least + u64::from(message.unknown) + self.unavoidable(message, to);
            if copies < least || copies > most {
                self.fault(format!(
                    "message {} to {to:?} was {:?} and {copies} copies are there ({least} to {most} expected)",
                    message.number, message.outcome
                ));
            }
        }
        if message.outcome.is_none() || matches!(message.outcome, Some(Sent::NotNow | Sent::Deferred | Sent::Refused)) {
            self.fault(format!(
                "message {} was never taken: {:?}",
                message.number, message.outcome
            ));
        }
    }

    /// Deliveries and reports for one recipient.
    fn copies(&self, message: &Message, to: &To) -> u64 {
        match to {
            To::Out(address) => {
                let delivered: Vec<&Arrival> = self.arrivals_for(address).collect();
                if delivered.windows(2).any(|pair| pair[0].digest != pair[1].digest) && message.unknown == 0 {
                    self.fault(format!(
                        "message {} was delivered twice with different octets",
                        message.number
                    ));
                }
                let from = message.from.expect("nobody outside sends outside");
                let reports = self.inboxes[from]
                    .iter()
                    .filter(|mail| is_report(mail, address))
                    .count();
                (delivered.len() + reports) as u64
            }
            To::Person(index) => {
                let needle = token(message.number);
                // The subject and the last line: a report quotes at most one of them.
                let is_it = |mail: &&Vec<u8>| count(mail, needle.as_bytes()) >= 2;
                self.inboxes[*index].iter().filter(is_it).count() as u64
            }
        }
    }

    fn arrivals_for<'a>(&'a self, address: &'a str) -> impl Iterator<Item = &'a Arrival> {
        self.arrivals.iter().filter(move |arrival| arrival.recipient == address)
    }

    /// Copies more than one that SMTP cannot avoid: after each there must be a reason why the relay did not know of it.
    fn unavoidable(&self, message: &Message, to: &To) -> u64 {
        match to {
            To::Out(address) => {
                let all: Vec<&Arrival> = self.arrivals_for(address).collect();
                let is_excused = |pair: &&[&Arrival]| {
                    let ended = |end: &Duration| (pair[0].at..=pair[1].at).contains(end);
                    !pair[0].is_answered
                        || self.relay_ends.iter().any(ended)
                        || self.world.trace.troubles().iter().any(ended)
                };
                all.windows(2).filter(is_excused).count() as u64
            }
            // From the exit to the own MX: the relay itself may end in between.
            To::Person(_) if message.from.is_some() => {
                self.relay_ends.len() as u64 + self.world.trace.troubles().len() as u64
            }
            To::Person(_) => 0,
        }
    }

    /// What lies in INBOX must have been sent by somebody, or be a welcome or a report.
    fn strays(&self) {
        for (index, inbox) in self.inboxes.iter().enumerate() {
            for mail in inbox {
                let known = self
                    .messages
                    .iter()
                    .any(|message| count(mail, token(message.number).as_bytes()) > 0);
                let is_notice = [
                    &b"Subject: Welcome"[..],
                    b"Subject: Your disk has no room",
                    b"report-type=delivery-status",
                ]
                .iter()
                .any(|words| count(mail, words) > 0);
                if !known && !is_notice {
                    let start: String = String::from_utf8_lossy(mail).chars().take(600).collect();
                    self.fault(format!("person {index} got what nobody sent:\n{start}"));
                }
            }
        }
    }

    async fn value(&self) -> Result<(), String> {
        let audit = self.world.ask_relay(&RelayCommand::Audit).await?;
        if audit["findings"].as_array().is_none_or(|findings| !findings.is_empty()) {
            self.fault(format!("the audit finds {}", audit["findings"]));
        }
        let totals = &audit["totals"];
        let sum = |name: &str| totals[name].as_u64().unwrap_or(u64::MAX);
        let people = self.world.people.len() as u64;
        if sum("credits") != people * VALUE || sum("credits") - sum("debits") != sum("balances") {
            self.fault(format!("the sums do not agree: {totals}"));
        }
        let (mut debits, mut keys) = (0, 0);
        for (index, person) in self.world.people.iter().enumerate() {
            let account = person.identifier.clone();
            let statement = self.world.ask_relay(&RelayCommand::Statement { account }).await?;
            let rows = statement["rows"].as_array().cloned().unwrap_or_default();
            let debits_of = |kind: &str| -> Vec<u64> {
                let of_kind = rows.iter().filter(|row| row["kind"] == kind);
                of_kind.filter_map(|row| row["debit"].as_u64()).collect()
            };
            let booked = debits_of("message");
            self.bookings(index, &booked);
            let for_keys = debits_of("key");
            if for_keys.iter().any(|debit| *debit != KEY) {
                self.fault(format!("person {index} was debited {for_keys:?} for keys"));
            }
            let mine: u64 = booked.iter().chain(&for_keys).sum();
            debits += mine;
            keys += for_keys.len() as u64;
            let status = self.world.ask_person(index, &BridgeCommand::Status).await?;
            if status["debits"] != mine || status["balance"] != VALUE - mine || status["credits"] != VALUE {
                self.fault(format!("bridge {index} shows {status} where {mine} were debited"));
            }
            if status["keys"]
                .as_u64()
                .is_none_or(|left| left > KEYS - for_keys.len() as u64)
            {
                self.fault(format!(
                    "person {index} has more keys left than there can be: {}",
                    text(&status["keys"])
                ));
            }
        }
        if debits != sum("debits") {
            self.fault(format!("statements debit {debits}, the totals {}", sum("debits")));
        }
        let (answered, third) = self.world.network.wire(|wire| (wire.answered, wire.third_cells));
        if !(answered..=third).contains(&keys) {
            self.fault(format!("{keys} keys were debited for {answered} to {third} links"));
        }
        Ok(())
    }

    /// A person is debited for each message that was carried out, once, for its recipients and its class.
    fn bookings(&self, person: usize, booked: &[u64]) {
        let mine: Vec<&Message> = self
            .messages
            .iter()
            .filter(|message| message.from == Some(person))
            .collect();
        for recipients in 1..=2 {
            let mut classes: Vec<u32> = booked.iter().filter_map(|debit| class_of(*debit, recipients)).collect();
            classes.sort_unstable();
            let mut sizes: Vec<usize> = Vec::new();
            let mut doubtful = 0;
            for message in mine.iter().filter(|message| message.to.len() as u64 == recipients) {
                let copies = message.to.iter().map(|to| self.copies(message, to)).max().unwrap_or(0);
                let is_certain = message.outcome == Some(Sent::Accepted);
                if is_certain {
                    sizes.push(message.size);
                }
                // A try with an unknown end may have been carried out, and leaves its copies if it was.
                if message.unknown > 0 {
                    doubtful += copies.saturating_sub(u64::from(is_certain));
                }
            }
            sizes.sort_unstable();
            let least = sizes.len() as u64;
            if !(least..=least + doubtful).contains(&(classes.len() as u64)) {
                self.fault(format!(
                    "person {person} was debited for {} messages to {recipients}, not {least} to {}",
                    classes.len(),
                    least + doubtful
                ));
            }
            // Doubled dots are single again, and envelope and header come before the text.
            let fits = |(size, class): (&usize, &u32)| {
                (deposit::class_for(size - size / 50)..=deposit::class_for(size + 1_500)).contains(&Some(*class))
            };
            if doubtful == 0 && !sizes.iter().zip(&classes).all(fits) {
                self.fault(format!(
                    "person {person} sent {sizes:?} octets and paid for classes {classes:?}"
                ));
            }
        }
        if booked
            .iter()
            .any(|debit| (1..=2).all(|recipients| class_of(*debit, recipients).is_none()))
        {
            self.fault(format!("person {person} was debited what no message costs: {booked:?}"));
        }
    }
}

/// The class that a message to so many was debited for.
fn class_of(debit: u64, recipients: u64) -> Option<u32> {
    let each = debit.is_multiple_of(recipients).then_some(debit / recipients)?;
    let kilobytes = each.checked_sub(MESSAGE)?;
    let class = u32::try_from(kilobytes / KILOBYTE).ok()?;
    (kilobytes.is_multiple_of(KILOBYTE) && deposit::is_class(class)).then_some(class)
}

/// Whether this is the report that mail for `address` failed.
fn is_report(mail: &[u8], address: &str) -> bool {
    let failed = format!("Final-Recipient: rfc822; {address}\r\n");
    count(mail, b"report-type=delivery-status") > 0 && count(mail, failed.as_bytes()) > 0
}

/// How often `needle` is in `text`.
fn count(text: &[u8], needle: &[u8]) -> usize {
    text.windows(needle.len()).filter(|window| *window == needle).count()
}
