//! `postern procure`: a pack at a further relay, bought by the relay of this one.
//!
//! ```text
//! FILE.part written and synced -> ordered, debited -> answered -> FILE written -> FILE.part overwritten -> order forgotten
//! ```
//!
//! The secrets are drawn here and stay in FILE.part, under the new pack's passphrase. Whatever is cut off, the same command
//! goes on from there: the bridge keeps the order's name with the order, so that nothing is ordered twice.

mod part;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use keypacks::Secret;
use keypacks::kdf;
use keypacks::pack::{Issue, PassphraseCost};
use keypacks::procure::{self, Card, Draft, Endowed};
use keypacks::reroot::Secrets;
use keypacks::rotation::Policy;
use mailbox::holder::inspect;
use mailbox::request::Operation;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::dirs;
use super::init::shell;
use super::keypack::end_file;
use super::passphrase::PassphraseArgs;
use super::process::Failure;
use super::settings::Settings;
use crate::bridge::commands::{Command, from_base64, to_base64};
use crate::control;
use crate::figures::grouped;
use crate::net::{Host, system};
pub(super) use part::{PART, beside, end_overwritten};
use part::{put_whole, resume};

/// Between two looks whether an order is answered.
const LOOK: Duration = Duration::from_millis(500);

/// Arguments of `postern procure`.
#[derive(Args)]
pub(super) struct ProcureArgs {
    /// Show which packs the relay procures, at which relays, and what they cost.
    #[arg(long)]
    offers: bool,
    /// The relay that the pack is to be at, by the domain that it has in the directory.
    #[arg(long, value_name = "DOMAIN")]
    relay: Option<String>,
    /// The card of the relay that the pack is to be at, as its operator publishes it. Do not take it from the relay in
    /// between: by the card you know whose the pack is.
    #[arg(long, value_name = "CARD", conflicts_with = "card_file")]
    card: Option<String>,
    /// A file with that card.
    #[arg(long, value_name = "FILE")]
    card_file: Option<PathBuf>,
    /// Link keys of the pack.
    #[arg(long, required_unless_present = "offers")]
    keys: Option<u64>,
    /// Its value in µtok.
    #[arg(long, value_name = "µTOK", required_unless_present = "offers")]
    value: Option<u64>,
    /// The pack's file, to be written.
    #[arg(long, value_name = "FILE", required_unless_present = "offers")]
    out: Option<PathBuf>,
    /// Data folder of the running bridge that pays.
    #[arg(long, value_name = "DIR", default_value_os_t = dirs::data())]
    dir: PathBuf,
    /// The passphrase of the new pack.
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Seconds to wait for the pack; the same command goes on later.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    wait: u64,
    /// One line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) async fn procure(args: &ProcureArgs) -> Result<(), Failure> {
    let host = system::host();
    if args.offers {
        return offers(&host, args).await;
    }
    let (Some(out), Some(keys), Some(value)) = (&args.out, args.keys, args.value) else {
        return Err(Failure("--out, --keys and --value say what is to be made".to_owned()));
    };
    refuse_taken(out)?;
    let card = card_of(args)?;
    let passphrase = args.passphrase.read()?;
    let purchase = Purchase {
        dir: &args.dir,
        out,
        relay: args.relay.as_deref(),
        card,
        size: Some((keys, value)),
        debit_max: None,
        passphrase: &passphrase,
        wait: Duration::from_secs(args.wait),
    };
    match buy(&host, purchase).await {
        Ok(bought) => {
            tell(args, &bought, value, out);
            Ok(())
        }
        Err(unbought) => Err(in_words(unbought, &beside(out, PART))),
    }
}

/// A pack that is to be bought by the running bridge of another.
pub(super) struct Purchase<'a> {
    /// Data folder of that bridge.
    pub(super) dir: &'a Path,
    /// The pack's file, to be written.
    pub(super) out: &'a Path,
    /// The relay that the pack is to be at, by its domain in the directory.
    pub(super) relay: Option<&'a str>,
    /// The same by its card. With neither, an order is gone on with.
    pub(super) card: Option<Card>,
    /// Link keys and µtok of the pack. `None`: those of the order that is gone on with.
    pub(super) size: Option<(u64, u64)>,
    /// Most that it may cost, in µtok. `None`: what the relay says.
    pub(super) debit_max: Option<u64>,
    /// The passphrase of the new pack.
    pub(super) passphrase: &'a [u8],
    /// How long its answer is waited for.
    pub(super) wait: Duration,
}

/// A pack that was bought, as its file says.
pub(super) struct Bought {
    relay: String,
    keys: u64,
}

/// Why there is no pack, or none yet. But for the first one, what was drawn for the order stays beside its file.
pub(super) enum Unbought {
    /// Nothing was ordered, or a file is in the way.
    Failed(Failure),
    /// It may be ordered, and is to be gone on with.
    Unanswered(String),
    /// The relay did not take the order.
    Refused(String),
    /// It was credited back.
    Returned,
    /// What came is not from the relay of the card. It was paid.
    Foreign,
}

impl From<Failure> for Unbought {
    fn from(failure: Failure) -> Self {
        Unbought::Failed(failure)
    }
}

/// Refuses to write over what is no order's.
fn refuse_taken(out: &Path) -> Result<(), Failure> {
    match out.exists() && !beside(out, PART).exists() {
        false => Ok(()),
        true => Err(Failure(format!(
            "{} is there already, and may be somebody's pack: choose another name",
            out.display()
        ))),
    }
}

/// Has the bridge buy a pack, or goes on where an earlier try was cut off: nothing is paid twice.
pub(super) async fn buy(host: &Host, purchase: Purchase<'_>) -> Result<Bought, Unbought> {
    let part = beside(purchase.out, PART);
    let ended = end_overwritten(&part);
    ended.map_err(|error| Failure(format!("{} could not be ended: {error}", part.display())))?;
    let draft = match (part.exists(), purchase.out.exists()) {
        (true, _) => {
            let named = (purchase.card.as_ref(), purchase.relay);
            let draft = resume(&part, purchase.passphrase, named, purchase.size)?;
            refuse_dear(host, &purchase, &draft).await?;
            draft
        }
        // Of an earlier try, which came to the end but for removing what it had drawn.
        (false, true) => return Ok(whole(host, &purchase)?),
        (false, false) => begin(host, &purchase, &part).await?,
    };
    let offer = draft.secrets.offer();
    let name = to_base64(&kdf::hash(&[&offer.kem]));
    let order = Command::Procure {
        relay: draft.card.domain.clone(),
        kem: to_base64(&offer.kem),
        dh: to_base64(&offer.dh),
        keys: draft.keys,
        value: draft.value,
        debit_max: draft.debit_max,
    };
    let unanswered = |error: control::CommandError| Unbought::Unanswered(error.0);
    let until = Instant::now() + purchase.wait;
    let mut answer = control::ask(host, purchase.dir, &order).await.map_err(unanswered)?;
    while answer["state"] == "ordered" {
        if Instant::now() >= until {
            let words = "the pack is ordered and paid, and not made yet";
            return Err(Unbought::Unanswered(words.to_owned()));
        }
        sleep(LOOK).await;
        let look = Command::Procured { order: name.clone() };
        answer = control::ask(host, purchase.dir, &look).await.map_err(unanswered)?;
    }
    match answer["state"].as_str() {
        Some("made") => {}
        Some("refused") => {
            let reason = answer["reason"].as_str().unwrap_or("the relay refused");
            return Err(Unbought::Refused(reason.to_owned()));
        }
        Some("returned") => {
            forget(host, purchase.dir, &name).await?;
            return Err(Unbought::Returned);
        }
        _ => {
            let words = "the bridge does not know of this order";
            return Err(Unbought::Unanswered(words.to_owned()));
        }
    }
    let endowed = receive(&draft, &offer, &answer).ok_or(Unbought::Foreign)?;
    finish(host, &draft, endowed, (purchase.out, &part), purchase.passphrase)?;
    // The pack is whole. An order that stays noted, since the bridge ended meanwhile, takes a place and no more.
    let _ = forget(host, purchase.dir, &name).await;
    Ok(Bought {
        relay: draft.card.domain,
        keys: draft.keys,
    })
}

/// The pack that an earlier try has made.
fn whole(host: &Host, purchase: &Purchase<'_>) -> Result<Bought, Failure> {
    let out = purchase.out;
    let (_, issue) = inspect(&*host.disk, out, purchase.passphrase)
        .map_err(|fault| Failure(format!("{}, which is there already: {fault}", out.display())))?;
    Ok(Bought {
        relay: issue.relay_domain,
        keys: issue.link_keys,
    })
}

/// Refuses to order by what an earlier try drew if that may cost too much. What is ordered is debited, and gone on with.
async fn refuse_dear(host: &Host, purchase: &Purchase<'_>, draft: &Draft) -> Result<(), Unbought> {
    let Err(dear) = within(draft.debit_max, purchase.debit_max) else {
        return Ok(());
    };
    let order = to_base64(&kdf::hash(&[&draft.secrets.offer().kem]));
    let stands = control::ask(host, purchase.dir, &Command::Procured { order }).await;
    match stands.map_err(|error| Unbought::Unanswered(error.0))?["state"].as_str() {
        Some("ordered" | "made") => Ok(()),
        _ => Err(Unbought::Failed(dear)),
    }
}

/// A price if it is at most this.
fn within(price: u64, most: Option<u64>) -> Result<u64, Failure> {
    match most {
        Some(most) if price > most => Err(Failure(format!(
            "it costs {} µtok, and may cost {} at most",
            grouped(price),
            grouped(most)
        ))),
        _ => Ok(price),
    }
}

/// What the command says of it, and how to go on.
fn in_words(unbought: Unbought, part: &Path) -> Failure {
    match unbought {
        Unbought::Failed(failure) => failure,
        Unbought::Unanswered(words) => Failure(format!(
            "{words}. {} is kept: give the same command again to go on",
            part.display()
        )),
        Unbought::Refused(reason) => refused(part, &reason),
        Unbought::Returned => returned(part),
        Unbought::Foreign => Failure(format!(
            "what came is not from the relay of this card: the relay in between may have kept the pack for itself, or the card \
             is wrong. It was paid, and there is no pack. {} is kept, as proof of what was ordered: show the number of the day \
             and the amount of 'postern statement' to the operator",
            part.display()
        )),
    }
}

/// The secrets stay: where a data folder was put back, the same order may have been taken, and paid, before.
fn refused(part: &Path, reason: &str) -> Failure {
    Failure(format!(
        "nothing was ordered now: {reason}. {0} is kept, since the order may have been taken by an earlier try: give the same \
         command again to go on. If 'postern statement' shows nothing procured, or all of it returned, nothing was paid for it, \
         and {0} can be removed by hand",
        part.display()
    ))
}

/// The secrets stay here too: that a pack was not made is the word of the relay in between.
fn returned(part: &Path) -> Failure {
    Failure(format!(
        "the further relay did not make the pack: what was debited for it is credited again, as 'postern statement' shows by \
         'returned'. {0} is kept: give the same command again to order it anew, or remove {0} by hand when the credit is there",
        part.display()
    ))
}

async fn offers(host: &Host, args: &ProcureArgs) -> Result<(), Failure> {
    let answer = control::ask(host, &args.dir, &Command::Offers).await?;
    if args.json {
        println!("{answer}");
        return Ok(());
    }
    let (relays, sizes) = (&answer["relays"], &answer["sizes"]);
    let none = Vec::new();
    let (relays, sizes) = (relays.as_array().unwrap_or(&none), sizes.as_array().unwrap_or(&none));
    if relays.is_empty() || sizes.is_empty() {
        println!("This relay procures no packs.");
        return Ok(());
    }
    let names: Vec<&str> = relays.iter().filter_map(Value::as_str).collect();
    println!("Packs at: {}", names.join(", "));
    let fee = answer["fee"].as_u64().unwrap_or(0);
    for size in sizes {
        let (keys, value) = (size[0].as_u64().unwrap_or(0), size[1].as_u64().unwrap_or(0));
        println!(
            "--keys {keys} --value {value}    costs {} µtok",
            grouped(value.saturating_add(fee))
        );
    }
    Ok(())
}

/// The card that the command names, if it names one.
fn card_of(args: &ProcureArgs) -> Result<Option<Card>, Failure> {
    let text = match (&args.card, &args.card_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => std::fs::read_to_string(file)
            .map_err(|error| Failure(format!("cannot read {}: {error}", file.display())))?,
        (None, None) => return Ok(None),
    };
    let card = Card::parse(&text).map_err(|_| {
        Failure("this is no card, or there is a slip in it: its operator makes it with 'posternd card'".to_owned())
    })?;
    Ok(Some(card))
}

/// Draws the secrets of an order, and puts them on the disk.
async fn begin(host: &Host, purchase: &Purchase<'_>, part: &Path) -> Result<Draft, Failure> {
    let (keys, value) = purchase
        .size
        .ok_or_else(|| Failure("there is no order to go on with".to_owned()))?;
    let card = named(host, purchase).await?;
    let facts = control::ask(host, purchase.dir, &Command::PackFacts).await?;
    if facts["relay_domain"] == card.domain.as_str() {
        return Err(Failure(
            "this is the card of the relay that would buy the pack, which gains nothing: 'postern keypack split' parts a pack".to_owned(),
        ));
    }
    let offers = control::ask(host, purchase.dir, &Command::Offers).await?;
    let is_sold = |list: &Value, wanted: &Value| list.as_array().is_some_and(|list| list.contains(wanted));
    if !is_sold(&offers["relays"], &json!(card.domain)) || !is_sold(&offers["sizes"], &json!([keys, value])) {
        return Err(Failure(
            "the relay procures no such pack: see 'postern procure --offers'".to_owned(),
        ));
    }
    let fee = offers["fee"].as_u64().unwrap_or(u64::MAX);
    let debit_max = value
        .checked_add(fee)
        .ok_or_else(|| Failure("this is too much".to_owned()))?;
    // What was offered when the user's limit was looked at may have been another price.
    let debit_max = within(debit_max, purchase.debit_max)?;
    let draft = Draft {
        secrets: Secrets {
            kem: Secret::new(host.random()),
            dh: Secret::new(host.random()),
        },
        card,
        keys,
        value,
        debit_max,
    };
    let file = draft.to_file(purchase.passphrase, PassphraseCost::DEFAULT, |out| {
        host.entropy.fill(out)
    });
    let file = file.map_err(|_| Failure("the names in the card are too long".to_owned()))?;
    put_whole(&*host.disk, part, &file)
        .map_err(|error| Failure(format!("cannot write {}: {error}", part.display())))?;
    Ok(draft)
}

/// The relay that the pack is to be at: as the directory has it, or by the card that was given. With both they must agree.
async fn named(host: &Host, purchase: &Purchase<'_>) -> Result<Card, Failure> {
    let given = purchase.card.clone();
    let domain = match (purchase.relay, &given) {
        (Some(domain), _) => domain.to_ascii_lowercase(),
        (None, Some(card)) => card.domain.clone(),
        (None, None) => {
            return Err(Failure(
                "name the further relay by --relay, as the directory has it, or by its --card or --card-file"
                    .to_owned(),
            ));
        }
    };
    let look = Command::DirectoryRelay { domain };
    let listed = match control::ask(host, purchase.dir, &look).await {
        Ok(listed) => listed["card"].as_str().and_then(|card| Card::parse(card).ok()),
        Err(error) if purchase.relay.is_some() => return Err(error.into()),
        // The card alone says whose the pack is.
        Err(_) => None,
    };
    match (given, listed) {
        (Some(given), Some(listed)) if given != listed => Err(Failure(
            "the card says something else than the directory: one of the two is forged or old. Nothing was ordered"
                .to_owned(),
        )),
        (Some(card), _) | (None, Some(card)) => Ok(card),
        (None, None) => Err(Failure("the directory has no such relay".to_owned())),
    }
}

/// The pack that came of the order. `None`: it is not of the relay of the card.
fn receive(draft: &Draft, offer: &keypacks::reroot::Offer, answer: &Value) -> Option<Endowed> {
    let bytes = |name: &str| from_base64(answer[name].as_str()?);
    let operation = Operation::Endow {
        kem: offer.kem.clone(),
        dh: offer.dh,
        keys: draft.keys,
        value: draft.value,
    };
    let confirm = bytes("confirm")?.try_into().ok()?;
    let public = &draft.card.relay_public;
    procure::receive(
        &draft.secrets,
        public,
        &operation.encode(),
        &bytes("ciphertext")?,
        &confirm,
    )
    .ok()
}

/// The pack is whole under its name before what it comes from is overwritten.
fn finish(
    host: &Host,
    draft: &Draft,
    endowed: Endowed,
    (out, part): (&Path, &Path),
    passphrase: &[u8],
) -> Result<(), Failure> {
    let failed = |error| Failure(format!("cannot write {}: {error}", out.display()));
    if out.exists() {
        // Of an earlier try, which came as far as this; else it is somebody's.
        let is_it = inspect(&*host.disk, out, passphrase).is_ok_and(|(_, issue)| issue.root == endowed.root);
        if !is_it {
            return Err(Failure(format!(
                "{} is there already, and is another pack: move it away and give the same command again",
                out.display()
            )));
        }
    } else {
        let issue = Issue {
            identifier: endowed.identifier,
            relay_public: draft.card.relay_public,
            link_keys: draft.keys,
            root: endowed.root,
            day: host.day(),
            relay_address: draft.card.address.clone(),
            relay_domain: draft.card.domain.clone(),
            aliases: Vec::new(),
            rotation: Policy::default(),
            pad: None,
        };
        let file = issue.to_file(passphrase, PassphraseCost::DEFAULT, |out| host.entropy.fill(out));
        let file = file.map_err(Failure::from_error)?;
        put_whole(&*host.disk, out, &file).map_err(failed)?;
    }
    end_file(part).map_err(|error| Failure(format!("{} could not be overwritten: {error}", part.display())))
}

async fn forget(host: &Host, dir: &Path, name: &str) -> Result<(), Failure> {
    let end = Command::ProcureEnd { order: name.to_owned() };
    control::ask(host, dir, &end).await.map(|_| ()).map_err(Failure::from)
}

fn tell(args: &ProcureArgs, bought: &Bought, value: u64, out: &Path) {
    let (domain, file) = (&bought.relay, out.display());
    if args.json {
        println!(
            "{}",
            json!({ "pack": out, "relay": domain, "keys": bought.keys, "value": value })
        );
        return;
    }
    println!(
        "{file} is a pack of {} keys and {} µtok at {domain}.",
        grouped(bought.keys),
        grouped(value)
    );
    // Both are relays of one federation, as a rule; settings that cannot be read keep nobody from a pack that is paid.
    let keys = Settings::read(&args.dir)
        .ok()
        .and_then(|settings| settings.directory_keys);
    let keys = keys.map_or_else(String::new, |keys| {
        format!(" --directory-keys {}", shell(Path::new(&keys)))
    });
    println!(
        "Take it in, and reach it by this pack's relay:\n  postern init --pack {}{keys} --dir FAR\n  postern bridge --dir FAR --entry {}",
        shell(out),
        shell(&args.dir)
    );
    println!(
        "Your relay knows that you bought a pack of this amount at {domain} today, and not which one. {domain} knows that some \
         holder of your relay has it, and not who. Both together can tell from day and amount."
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_costs_no_more_than_was_said() {
        assert!(within(1_001, None).is_ok() && within(1_001, Some(1_001)).is_ok());
        let Err(Failure(words)) = within(1_001, Some(1_000)) else {
            panic!("it is too dear")
        };
        assert!(
            words.contains("costs 1,001 µtok, and may cost 1,000 at most"),
            "{words}"
        );
    }

    #[test]
    fn what_was_refused_or_returned_leaves_the_secrets_and_says_so() {
        let part = Path::new("far.pack.part");
        for Failure(words) in [refused(part, "too dear"), returned(part)] {
            assert!(words.contains("far.pack.part is kept"), "{words}");
            assert!(words.contains("postern statement"), "{words}");
        }
    }
}
