//! The directory of relays: what the relay serves is compared with the pinned keys and with what is held, and kept.
//!
//! ```text
//! directory.list      the newest that was taken, as its signers wrote it
//! directory.fork      one of the number of that which was held then, and says something else
//! directory.forked    that which was held then
//! ```
//!
//! The list is public and its own signatures guard it, so that it lies there in the clear. The first two that contradict each other
//! stay until somebody has looked at them and removes them by hand.

mod second;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keypacks::directory::{Descriptor, Exit, Fault, LIST_BYTES_MAX, Pin, RENEWAL_DAYS, Signed, Verdict, judge};
use keypacks::kdf;
use mailbox::HolderStore;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Bridge;
use super::commands::ANSWER_WAIT_MAX;
use super::nested::SecondRelay;
use crate::figures::date;
use crate::holder::{LinkState, ServedDirectory};
use crate::message::Notice;
use crate::net::{Host, stopped};

pub(crate) const LIST: &str = "directory.list";
const FORK: &str = "directory.fork";
const FORKED: &str = "directory.forked";
/// Between two looks at what the relay serves.
const PACE: Duration = Duration::from_secs(6 * 3_600);
/// The same while mail waits for what the relay offers.
const PACE_AWAITING_MIN: Duration = Duration::from_secs(5);
const PACE_AWAITING_MAX: Duration = Duration::from_secs(600);
/// The same after one that came to nothing.
const PACE_UNANSWERED: Duration = Duration::from_secs(60);
/// The same after one that the link ended on: the next would cost a key too, if the relay does not know the question.
const PACE_CUT_OFF: Duration = Duration::from_secs(24 * 3_600);
/// At the most, while a second relay is awaited.
const PACE_CUT_OFF_AWAITING: Duration = Duration::from_secs(3_600);

/// What a bridge holds of its federation's directory.
pub(super) struct Directory {
    /// Without it the relay is not asked for any.
    pin: Option<Pin>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Signed>,
    /// What was wrong with what the relay served last.
    fault: Option<Fault>,
    /// Whether the relay serves none.
    none: bool,
    /// Number of the two lists that contradict each other.
    forked: Option<u64>,
    /// Whether both are on the disk.
    fork_is_kept: bool,
    /// A pack that is to be had at a relay of another operator, once the relay said what it offers.
    second: Option<Option<SecondRelay>>,
    /// What the user was told last by a message, and on which day.
    told: Option<(u32, String)>,
}

impl Directory {
    /// Reads what is held in `dir`. What the pinned keys did not sign is not taken from the disk either.
    pub(super) fn load(host: &Host, dir: &Path, pin: Option<Pin>) -> Self {
        let mut state = State::default();
        if let Some(pin) = &pin {
            let signed = |name: &str| {
                let signed = Signed::parse(&read(host, &dir.join(name)).ok()?).ok()?;
                pin.verify(&signed).is_ok().then_some(signed)
            };
            state.held = signed(LIST);
            state.forked = signed(FORK).map(|fork| fork.list().serial);
            state.fork_is_kept = state.forked.is_some();
        }
        Self {
            pin,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Digest of what is held.
    fn known(&self) -> [u8; 32] {
        let state = self.state();
        state
            .held
            .as_ref()
            .map_or([0; 32], |held| kdf::hash(&[held.to_text().as_bytes()]))
    }

    /// Judges what the relay serves, and keeps it if it is to be kept. It blocks on the disk.
    pub(super) fn take(&self, host: &Host, dir: &Path, served: &ServedDirectory) -> io::Result<()> {
        let Some(pin) = &self.pin else { return Ok(()) };
        if *served == ServedDirectory::Unanswered {
            return Ok(());
        }
        let mut state = self.state();
        state.none = *served == ServedDirectory::None;
        let served = match (served, &state.held) {
            (ServedDirectory::None | ServedDirectory::Unanswered, _) | (ServedDirectory::Known, None) => return Ok(()),
            (ServedDirectory::Known, Some(held)) => held.clone(),
            (ServedDirectory::Text(octets), _) => {
                let text = std::str::from_utf8(octets).ok();
                let Some(served) = text.and_then(|text| Signed::parse(text).ok()) else {
                    state.fault = Some(Fault::Malformed);
                    return Ok(());
                };
                served
            }
        };
        let verdict = judge(pin, state.held.as_ref(), &served, host.day());
        match (&verdict, &state.held) {
            (Ok(Verdict::Newer), _) => {
                put(host, dir, LIST, &served)?;
                state.held = Some(served);
            }
            (Err(Fault::Fork { serial }), Some(held)) if !state.fork_is_kept => {
                let held = held.clone();
                // It counts although the disk may take neither; the next look tries again to keep them.
                state.forked = Some(*serial);
                state.fault = verdict.err();
                put(host, dir, FORKED, &held)?;
                put(host, dir, FORK, &served)?;
                state.fork_is_kept = true;
                return Ok(());
            }
            _ => {}
        }
        state.fault = verdict.err();
        Ok(())
    }

    /// What is the matter, in sentences.
    pub(super) fn warnings(&self, today: u32) -> Vec<String> {
        let (state, mut warnings) = (self.state(), Vec::new());
        if self.pin.is_none() {
            return warnings;
        }
        if let Some(serial) = state.forked {
            let fork = sentence(&Fault::Fork { serial });
            warnings.push(format!(
                "{fork} ({FORK} and {FORKED} in the data folder): show them to the operators whom you trust, and remove them then. \
                 No relay is taken from the directory meanwhile."
            ));
        }
        match &state.fault {
            Some(Fault::Fork { .. }) if state.forked.is_some() => {}
            Some(fault) => warnings.push(format!("{}.", sentence(fault))),
            None if state.none => {
                warnings.push("The relay serves no directory, and directory keys are set.".to_owned())
            }
            None => {}
        }
        if let Some(list) = state.held.as_ref().map(Signed::list) {
            let age = today.saturating_sub(list.from);
            if list.until < today && !matches!(state.fault, Some(Fault::Expired { .. })) {
                warnings.push(format!(
                    "The directory has expired: it counted until {}, and none came after it.",
                    date(list.until)
                ));
            } else if list.until >= today && age > RENEWAL_DAYS {
                warnings.push(format!(
                    "There was no newer directory for {age} days: the relay withholds it, or its signers are late."
                ));
            }
        }
        warnings
    }

    /// A relay that packs may be had at.
    pub(super) fn relay(&self, domain: &str, today: u32) -> Result<Descriptor, String> {
        let state = self.state();
        if self.pin.is_none() {
            return Err(NO_KEYS.to_owned());
        }
        if state.forked.is_some() {
            return Err("two directories contradict each other: see 'postern directory'".to_owned());
        }
        let list = state.held.as_ref().map(Signed::list);
        let list = list.ok_or("no directory has come yet: see 'postern directory --fetch'")?;
        if list.until < today {
            return Err("the directory has expired: see 'postern directory --fetch'".to_owned());
        }
        let found = list.relay(domain).cloned();
        let relay = found.ok_or_else(|| format!("the directory has no relay {domain}: see 'postern directory'"))?;
        match relay.draining {
            true => Err(format!(
                "{domain} is being left by its operator, and no new packs are made there"
            )),
            false => Ok(relay),
        }
    }

    /// Whether a relay is being left, as far as it is known.
    pub(super) fn is_draining(&self, domain: &str) -> bool {
        let state = self.state();
        let list = state.held.as_ref().map(Signed::list);
        list.and_then(|list| list.relay(domain))
            .is_some_and(|relay| relay.draining)
    }

    /// Who runs a relay, as far as the directory says.
    pub(super) fn operator(&self, domain: &str) -> Option<String> {
        let state = self.state();
        let relay = state.held.as_ref().map(Signed::list)?.relay(domain)?;
        Some(relay.operator.clone())
    }

    fn show(&self, today: u32) -> Value {
        let state = self.state();
        let list = state.held.as_ref().map(Signed::list);
        let relays: Vec<Value> = list.iter().flat_map(|list| &list.relays).map(row).collect();
        json!({
            "threshold": self.pin.as_ref().map(Pin::threshold),
            "keys": self.pin.as_ref().map(|pin| pin.keys().len()),
            "serial": list.map(|list| list.serial),
            "from": list.map(|list| list.from),
            "until": list.map(|list| list.until),
            "counts": list.is_some_and(|list| list.until >= today) && state.forked.is_none(),
            "relays": relays,
        })
    }
}

const NO_KEYS: &str = "no directory keys are set: give them to 'postern init --directory-keys', or write them into bridge.toml as \
                       directory_keys";

/// A fault as a sentence begins.
fn sentence(fault: &Fault) -> String {
    let words = fault.to_string();
    let mut letters = words.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

fn row(relay: &Descriptor) -> Value {
    let exit = match &relay.exit {
        Exit::Any => "any".to_owned(),
        Exit::Own => "own".to_owned(),
        Exit::Only(domains) => domains.join(" "),
    };
    json!({
        "domain": relay.card.domain,
        "address": relay.card.address,
        "card": relay.card.to_text().ok(),
        "operator": relay.operator,
        "message": relay.prices.message,
        "kilobyte": relay.prices.kilobyte,
        "key": relay.prices.key,
        "exit": exit,
        "links": relay.links,
        "draining": relay.draining,
    })
}

fn read(host: &Host, path: &Path) -> io::Result<String> {
    let file = host.disk.open(path, false)?;
    let length = usize::try_from(file.len()?).unwrap_or(usize::MAX).min(LIST_BYTES_MAX);
    let mut octets = vec![0; length];
    file.read_at(0, &mut octets)?;
    String::from_utf8(octets).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// After a power cut there is what was there before, or this.
fn put(host: &Host, dir: &Path, name: &str, signed: &Signed) -> io::Result<()> {
    let fresh: PathBuf = dir.join("directory.new");
    let file = host.disk.open(&fresh, true)?;
    file.set_len(0)?;
    file.write_at(0, signed.to_text().as_bytes())?;
    file.sync()?;
    host.disk.rename(&fresh, &dir.join(name))?;
    host.disk.sync_dir(dir)
}

/// What came of the question for the directory.
enum Fetched {
    /// It was judged.
    Served,
    /// There was no link, or no whole answer in time.
    NotAsked,
    /// The link ended on it.
    CutOff,
}

impl<S: HolderStore> Bridge<S> {
    /// The directory, as it is held or as the relay serves it now.
    pub(super) async fn directory(self: &Arc<Self>, fetch: bool) -> Result<Value, String> {
        if self.directory.pin.is_none() {
            return Err(NO_KEYS.to_owned());
        }
        if fetch {
            match self.fetch_directory().await {
                Fetched::Served => self.look_for_second_relay().await,
                Fetched::NotAsked => {
                    return Err(
                        "the relay cannot be asked now: try again when 'postern status' says linked".to_owned(),
                    );
                }
                Fetched::CutOff => {
                    return Err(
                        "the link ended before the relay answered: if it does so again, the relay is of a version without a \
                         directory, and each try costs a key"
                            .to_owned(),
                    );
                }
            }
        }
        let today = self.host.day();
        let mut shown = self.directory.show(today);
        shown["warnings"] = json!(self.directory.warnings(today));
        Ok(shown)
    }

    /// A relay of the directory that packs may be had at.
    pub(super) fn directory_relay(&self, domain: &str) -> Result<Value, String> {
        self.directory.relay(domain, self.host.day()).map(|relay| row(&relay))
    }

    /// Has the relay serve its directory, and judges it.
    async fn fetch_directory(self: &Arc<Self>) -> Fetched {
        let asked = tokio::time::timeout(ANSWER_WAIT_MAX, self.holder.directory(self.directory.known())).await;
        let served = match asked {
            Ok(Some(ServedDirectory::Unanswered)) => return Fetched::CutOff,
            Ok(Some(served)) => served,
            Ok(None) | Err(_) => return Fetched::NotAsked,
        };
        let bridge = Arc::clone(self);
        let taken = self
            .host
            .compute(move || bridge.directory.take(&bridge.host, &bridge.dir, &served))
            .await;
        if !matches!(taken, Some(Ok(()))) {
            tracing::warn!("the directory cannot be written");
        }
        self.tell_of_directory().await;
        Fetched::Served
    }

    /// Tells the user what is wrong with the directory, once a day at most while it is the same.
    async fn tell_of_directory(&self) {
        let today = self.host.day();
        let words = self.directory.warnings(today).join("\n\n");
        {
            let mut state = self.directory.state();
            if words.is_empty() || state.told.as_ref().is_some_and(|told| *told == (today, words.clone())) {
                return;
            }
            state.told = Some((today, words.clone()));
        }
        self.notify(&Notice::Directory { words: &words }).await;
    }
}

/// Looks at what the relay serves from time to time, until `stop` turns true.
pub(super) async fn watch<S: HolderStore>(bridge: Arc<Bridge<S>>, mut stop: watch::Receiver<bool>) {
    if bridge.directory.pin.is_none() {
        return;
    }
    let mut link = bridge.holder.changes();
    let (mut soon, mut cut_off) = (PACE_AWAITING_MIN, PACE_AWAITING_MIN);
    let looking = async {
        loop {
            if link.wait_for(|state| *state == LinkState::Linked).await.is_err() {
                return;
            }
            let pace = match bridge.fetch_directory().await {
                Fetched::Served => {
                    bridge.look_for_second_relay().await;
                    soon = (soon * 2).min(PACE_AWAITING_MAX);
                    bridge.awaiting.as_ref().map_or(PACE, |_| soon)
                }
                Fetched::NotAsked => PACE_UNANSWERED,
                // It may have been the line's doing. Each try costs a key.
                Fetched::CutOff => {
                    cut_off = (cut_off * 2).min(PACE_CUT_OFF_AWAITING);
                    bridge.awaiting.as_ref().map_or(PACE_CUT_OFF, |_| cut_off)
                }
            };
            tokio::time::sleep(pace).await;
        }
    };
    tokio::select! {
        biased;
        () = stopped(&mut stop) => {}
        () = looking => {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    use keypacks::Secret;
    use keypacks::directory::{DirectoryKey, List};
    use mailbox::disk::MemoryDisk;
    use mailbox::request::Offers;

    use super::*;
    use crate::net::system;

    const DIR: &str = "/h";

    fn host() -> Host {
        let disk = Arc::new(MemoryDisk::new());
        mailbox::disk::Disk::create_dir_all(&*disk, Path::new(DIR)).expect("made");
        Host { disk, ..system::host() }
    }

    fn key() -> DirectoryKey {
        DirectoryKey::new(Secret::new([1; 32]))
    }

    pub(in crate::bridge) fn pin() -> Pin {
        Pin::new(1, vec![key().public()]).expect("1 of 1")
    }

    /// A list of relays that are all run by A.
    pub(in crate::bridge) fn served(serial: u64, from: u32, domains: &[(&str, bool)]) -> ServedDirectory {
        let relays = domains.iter().map(|(domain, draining)| {
            let text = format!(
                "relay {domain}\nlink {domain}:1\nkey {}\noperator A\nprices 1 1 1\nexit any\nlinks 1\n",
                key().public().to_text()
            );
            let relay = Descriptor::parse(&text).expect("well-formed");
            Descriptor {
                draining: *draining,
                ..relay
            }
        });
        let list = List {
            serial,
            from,
            until: from + 14,
            relays: relays.collect(),
        };
        let mut signed = Signed::new(list).expect("well-formed");
        signed.sign(&key()).expect("room");
        ServedDirectory::Text(signed.to_text().into_bytes())
    }

    #[test]
    fn what_is_held_outlives_the_process_and_whatever_else_is_served() {
        let (host, dir) = (host(), Path::new(DIR));
        let today = host.day();
        let directory = Directory::load(&host, dir, Some(pin()));
        let take = |directory: &Directory, served| directory.take(&host, dir, &served).expect("written");
        take(&directory, served(2, today, &[("a.test", false), ("b.test", true)]));
        assert_eq!(directory.warnings(today), Vec::<String>::new());
        assert!(directory.relay("a.test", today).is_ok());
        assert!(
            directory
                .relay("b.test", today)
                .is_err_and(|words| words.contains("being left"))
        );
        assert!(
            directory.is_draining("b.test") && !directory.is_draining("a.test") && !directory.is_draining("c.test")
        );
        assert!(
            directory
                .relay("c.test", today)
                .is_err_and(|words| words.contains("no relay c.test"))
        );

        let again = Directory::load(&host, dir, Some(pin()));
        assert!(again.known() == directory.known() && again.known() != [0; 32]);
        take(&again, served(1, today, &[]));
        assert!(again.warnings(today)[0].contains("rolls the directory back"));
        assert!(again.relay("a.test", today).is_ok(), "what is held still counts");
        take(&again, ServedDirectory::Known);
        assert_eq!(again.warnings(today), Vec::<String>::new());
        take(&again, ServedDirectory::None);
        assert!(again.warnings(today)[0].contains("serves no directory"));
        take(&again, served(2, today, &[("a.test", false)]));
        assert!(again.warnings(today)[0].contains("two directories of number 2"));
        assert!(again.relay("a.test", today).is_err());

        let third = Directory::load(&host, dir, Some(pin()));
        assert!(
            third.warnings(today)[0].contains("two directories of number 2"),
            "until they are removed"
        );
        let other = Pin::new(1, vec![DirectoryKey::new(Secret::new([2; 32])).public()]).expect("1 of 1");
        assert_eq!(Directory::load(&host, dir, Some(other)).known(), [0; 32]);
        assert!(Directory::load(&host, dir, None).relay("a.test", today).is_err());
    }

    #[test]
    fn a_second_relay_is_one_of_another_operator_that_sells_packs() {
        let (host, dir) = (host(), Path::new(DIR));
        let today = host.day();
        let directory = Directory::load(&host, dir, Some(pin()));
        let domains = ["a.test", "b.test", "c.test"].map(|domain| (domain, domain == "c.test"));
        let ServedDirectory::Text(text) = served(1, today, &domains) else {
            unreachable!("it is a text");
        };
        let offers = |relays: &[&str]| Offers {
            fee: 5,
            relays: relays.iter().map(|relay| (*relay).to_owned()).collect(),
            sizes: vec![(20, 300), (10, 100)],
        };
        let all = offers(&["a.test", "b.test", "c.test", "d.test"]);
        directory.note_second("a.test", &all, today);
        assert_eq!(directory.second(today), None, "no directory");
        // As its signers would have written it of two operators.
        let text = String::from_utf8_lossy(&text);
        let list = Signed::parse(&text).expect("well-formed").list().clone();
        let relays = list.relays.into_iter().map(|relay| Descriptor {
            operator: if relay.card.domain == "a.test" { "A" } else { "B" }.to_owned(),
            ..relay
        });
        let relays = relays.collect();
        let mut signed = Signed::new(List { relays, ..list }).expect("well-formed");
        signed.sign(&key()).expect("room");
        let served = ServedDirectory::Text(signed.to_text().into_bytes());
        directory.take(&host, dir, &served).expect("written");
        directory.note_second("a.test", &all, today);
        let second = directory.second(today).expect("b.test");
        assert_eq!(
            (second.domain.as_str(), second.keys, second.value, second.price),
            ("b.test", 10, 100, 105)
        );
        assert_eq!(directory.second(today + 15), None, "the directory has expired");
        for (own, relays) in [
            ("b.test", &["b.test", "c.test"][..]),
            ("a.test", &["a.test", "c.test"]),
            ("d.test", &["b.test"]),
        ] {
            directory.note_second(own, &offers(relays), today);
            assert_eq!(directory.second(today), None, "{own}");
        }
    }

    #[test]
    fn a_fork_counts_although_the_disk_takes_neither_list() {
        let (host, dir) = (host(), Path::new(DIR));
        let today = host.day();
        let directory = Directory::load(&host, dir, Some(pin()));
        directory
            .take(&host, dir, &served(2, today, &[("a.test", false)]))
            .expect("written");
        let fork = served(2, today, &[("b.test", false)]);
        assert!(directory.take(&host, Path::new("/none"), &fork).is_err());
        assert!(directory.warnings(today)[0].contains("two directories of number 2"));
        assert!(directory.relay("a.test", today).is_err());
        directory.take(&host, dir, &fork).expect("written");
        let again = Directory::load(&host, dir, Some(pin()));
        assert!(again.warnings(today)[0].contains("two directories of number 2"));
    }

    #[test]
    fn a_list_that_grows_old_is_told_and_then_counts_no_more() {
        let (host, dir) = (host(), Path::new(DIR));
        let from = host.day();
        let directory = Directory::load(&host, dir, Some(pin()));
        directory
            .take(&host, dir, &served(1, from, &[("a.test", false)]))
            .expect("written");
        assert!(directory.warnings(from + RENEWAL_DAYS).is_empty());
        let late = directory.warnings(from + RENEWAL_DAYS + 1);
        assert!(late[0].contains("no newer directory for 8 days"), "{late:?}");
        assert!(directory.relay("a.test", from + 14).is_ok());
        assert!(directory.warnings(from + 15)[0].contains("has expired"));
        assert!(directory.relay("a.test", from + 15).is_err());
    }
}
