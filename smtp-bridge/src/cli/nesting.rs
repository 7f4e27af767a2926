//! Mail over two relays without a further command: the bridge runs on its own pack until it has bought one at a second relay,
//! and from then on by that one, through its own.
//!
//! ```text
//! FAR.pack.part written -> ordered, debited -> FAR.pack written -> FAR made -> FAR.pack overwritten -> the bridge starts anew
//! ```
//!
//! All of it lies in the data folder of the first pack. Whatever is cut off goes on at the next start, and nothing is paid twice:
//! see [`super::procure`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::init::{Init, init_with};
use super::keypack::end_file;
use super::process::Failure;
use super::procure::{PART, Purchase, Unbought, beside, buy, end_overwritten};
use super::settings::{FILE, Nested, Settings};
use super::terminal;
use crate::bridge::commands::Command;
use crate::bridge::{self, Awaiting, BridgeConfig, DIRECTORY_LIST};
use crate::control;
use crate::figures::grouped;
use crate::net::{Host, stopped};

/// Folder of the second relay's pack, within that of the first.
const FAR: &str = "far";
/// File of that pack, until it is taken in.
const PACK: &str = "second-relay.pack";
/// What a store with a pad has in its folder.
const PAD: &str = "pad";
/// Hundredths of the balance that it may cost, where nothing was settled.
pub(super) const PERCENT_MAX: u8 = 50;
/// Between two looks at what is lacking, which ask this bridge alone.
const LOOK: Duration = Duration::from_secs(1);
/// Between two tries of an order that was not taken.
const RETRY_MIN: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(6 * 3_600);
/// So long the first link may take before it counts as lacking.
const LINK_PATIENCE: Duration = Duration::from_secs(240);
/// How long an answer is waited for before it is said that it does not come.
const ANSWER_PATIENCE: Duration = Duration::from_secs(900);

/// Folder of the second relay's pack.
pub(super) fn far(dir: &Path) -> PathBuf {
    dir.join(FAR)
}

/// What of a second relay's pack lies in this folder, if anything does: what was drawn for its order, its file, or its folder.
pub(super) fn found(dir: &Path) -> Option<PathBuf> {
    let pack = dir.join(PACK);
    let places = [beside(&pack, PART), pack, far(dir)];
    places.into_iter().find(|place| place.exists())
}

/// The UTC day since which the second relay's pack serves, if it is there whole. The error: what says so cannot be read.
pub(super) fn made_on(dir: &Path) -> Result<Option<u32>, Failure> {
    let far = far(dir);
    match far.join(FILE).try_exists() {
        Ok(false) => Ok(None),
        _ => Ok(Settings::read(&far)?.nested_since),
    }
}

/// The folder of the pack that mail goes by: this one, or that of the second relay's pack in it.
pub(super) fn serving(dir: &Path) -> Result<PathBuf, Failure> {
    let is_nested = Settings::read(dir).is_ok_and(|settings| settings.nested == Some(Nested::Auto));
    Ok(match is_nested && made_on(dir)?.is_some() {
        true => far(dir),
        false => dir.to_owned(),
    })
}

/// Refuses a folder that the bridge made for a second relay's pack: linked by itself, it would show that relay where its user is.
pub(super) fn refuse_bare(dir: &Path) -> Result<(), Failure> {
    match Settings::read(dir).is_ok_and(|settings| settings.nested_since.is_some()) {
        false => Ok(()),
        true => Err(Failure(format!(
            "the pack in {} was bought to be reached through another one alone, and by itself would show its relay your address: \
             name the folder that it lies in, or reach it by 'postern run --dir {0} --entry' and that folder",
            dir.display()
        ))),
    }
}

/// Refuses a pack with a pad as the entry of another.
pub(super) fn refuse_pad(dir: &Path) -> Result<(), Failure> {
    match dir.join(PAD).exists() {
        false => Ok(()),
        true => Err(Failure(format!(
            "the pack in {} has a pad, which a link inside would use up, and mail over a second relay would not be under it: write \
             nested = false into bridge.toml",
            dir.display()
        ))),
    }
}

/// Runs the bridge of the first pack until the second relay's pack is there. `None`: it was stopped before.
pub(super) async fn run_until_made(
    host: &Host,
    mut config: BridgeConfig,
    awaiting: Awaiting,
    stop: &watch::Sender<bool>,
) -> Result<Option<u32>, Failure> {
    let dir = config.dir.clone();
    // What cannot be read is told by the running bridge, which goes on when it is mended.
    if let Ok(Some(day)) = made_on(&dir) {
        // A crash may have left it behind.
        end_spent(&dir.join(PACK));
        return Ok(Some(day));
    }
    let awaiting = Arc::new(awaiting);
    awaiting.say("the bridge has just been started.", false);
    config.awaiting = Some(Arc::clone(&awaiting));
    // They would be sent under an address of this pack, which is to have none.
    config.loops = None;
    let (own_stop, _) = watch::channel(false);
    let mut buyer = Buyer {
        host: host.clone(),
        dir: dir.clone(),
        passphrase: config.passphrase.clone(),
        awaiting,
        since: Instant::now(),
        retry: RETRY_MIN,
        shown: String::new(),
    };
    let (mut told, switch) = (stop.subscribe(), own_stop.clone());
    let mut work = tokio::spawn(async move {
        tokio::select! {
            biased;
            () = stopped(&mut told) => {}
            () = buyer.work() => {}
        }
        // A command may have stopped it before.
        switch.send_if_modified(|is_stopped| !std::mem::replace(is_stopped, true))
    });
    let ran = bridge::run(config, host.clone(), own_stop).await;
    let ended = tokio::time::timeout(LOOK, &mut work).await;
    work.abort();
    ran.map_err(Failure::from_error)?;
    match matches!(ended, Ok(Ok(true))) && !*stop.borrow() {
        true => made_on(&dir),
        false => Ok(None),
    }
}

/// Why there is no pack yet.
enum Lacking {
    /// It comes by itself.
    Soon(String),
    /// Somebody else has to do something.
    Stuck(String),
    /// The same, and asking for it takes the relay's time.
    Later(String),
}

/// Buys the pack, and makes its folder.
struct Buyer {
    host: Host,
    dir: PathBuf,
    passphrase: Zeroizing<Vec<u8>>,
    awaiting: Arc<Awaiting>,
    since: Instant,
    retry: Duration,
    /// What was shown last to who sits at the terminal.
    shown: String,
}

impl Buyer {
    /// Ends when the folder of the second relay's pack is whole.
    async fn work(&mut self) {
        self.awaiting.up().await;
        loop {
            let pause = match self.step().await {
                Ok(()) => {
                    self.show("the pack at the second relay is there: the bridge starts anew, over both relays.");
                    return;
                }
                Err(Lacking::Soon(words)) => {
                    self.say(&words, false);
                    LOOK
                }
                Err(Lacking::Stuck(words)) => {
                    self.say(&words, true);
                    LOOK
                }
                Err(Lacking::Later(words)) => {
                    self.say(&words, true);
                    let pause = self.retry;
                    self.retry = (pause * 2).min(RETRY_MAX);
                    pause
                }
            };
            sleep(pause).await;
        }
    }

    fn say(&mut self, words: &str, is_stuck: bool) {
        self.awaiting.say(words, is_stuck);
        self.show(words);
    }

    /// Progress, for who started the bridge on a terminal.
    fn show(&mut self, words: &str) {
        if terminal::is_there() && self.shown != words {
            words.clone_into(&mut self.shown);
            eprintln!("second relay: {words}");
        }
    }

    async fn step(&mut self) -> Result<(), Lacking> {
        if is_made(&self.dir)? {
            return Ok(());
        }
        let settings = Settings::read(&self.dir).map_err(|Failure(words)| Lacking::Stuck(format!("{words}.")))?;
        if settings.nested != Some(Nested::Auto) {
            return Err(Lacking::Stuck(
                "bridge.toml asks for no second relay any more, and nothing is bought: start the bridge again."
                    .to_owned(),
            ));
        }
        let pack = self.dir.join(PACK);
        let part = beside(&pack, PART);
        end_overwritten(&part).map_err(|error| Lacking::Later(format!("{}.", cannot(&part, &error).0)))?;
        self.refuse_what_waits(part.exists()).await?;
        if part.exists() {
            let facts = control::ask(&self.host, &self.dir, &Command::PackFacts).await;
            let facts = facts.map_err(|error| Lacking::Soon(format!("{error}.")))?;
            let most = facts["second_pack_most"].as_u64().unwrap_or_default();
            self.buy(&pack, None, None, most).await?;
        } else if !pack.exists() {
            let asked = control::ask(&self.host, &self.dir, &Command::SecondPack).await;
            let found = asked.map_err(|error| match self.since.elapsed() < LINK_PATIENCE {
                true => Lacking::Soon(error.0),
                false => Lacking::Stuck(error.0),
            })?;
            let number = |name: &str| found[name].as_u64().unwrap_or_default();
            let relay = found["relay"].as_str().unwrap_or_default();
            self.say(
                &format!(
                    "a pack at {relay} is being bought for {} µtok, which may take minutes.",
                    grouped(number("price"))
                ),
                false,
            );
            let size = (number("keys"), number("value"));
            self.buy(&pack, Some(relay), Some(size), number("most")).await?;
        }
        self.make(&pack).await
    }

    /// Whoever has the address of an alias would write to where nobody collects any more.
    /// `is_bought`: the order of this bridge's own may be what waits.
    async fn refuse_what_waits(&self, is_bought: bool) -> Result<(), Lacking> {
        let soon = |error: control::CommandError| Lacking::Soon(format!("{error}."));
        let status = control::ask(&self.host, &self.dir, &Command::Status)
            .await
            .map_err(soon)?;
        let aliases = status["aliases"].as_array().map_or(0, Vec::len);
        if aliases > 0 {
            return Err(Lacking::Stuck(format!(
                "the pack has {aliases} open addresses, and mail for them would not be collected over a second relay: close them with \
                 'postern alias close', and new ones are opened there."
            )));
        }
        let outbox = control::ask(&self.host, &self.dir, &Command::Outbox)
            .await
            .map_err(soon)?;
        let rows = outbox["rows"].as_array().map_or(&[][..], Vec::as_slice);
        refuse_mail(rows)?;
        if is_bought { Ok(()) } else { refuse_orders(rows) }
    }

    async fn buy(
        &self,
        pack: &Path,
        relay: Option<&str>,
        size: Option<(u64, u64)>,
        debit_max: u64,
    ) -> Result<(), Lacking> {
        let purchase = Purchase {
            dir: &self.dir,
            out: pack,
            relay,
            card: None,
            size,
            debit_max: Some(debit_max),
            passphrase: &self.passphrase,
            wait: ANSWER_PATIENCE,
        };
        let part = beside(pack, PART);
        let Err(unbought) = buy(&self.host, purchase).await else {
            return Ok(());
        };
        Err(match unbought {
            Unbought::Failed(Failure(words)) => Lacking::Later(format!("the pack cannot be ordered: {words}.")),
            Unbought::Unanswered(words) => match self.since.elapsed() < ANSWER_PATIENCE {
                true => Lacking::Soon(format!("{words}: it is gone on with.")),
                false => Lacking::Stuck(format!("{words}: it is gone on with.")),
            },
            Unbought::Refused(reason) => Lacking::Later(format!(
                "the relay did not take the order now: {reason}. The same order is given again from time to time; if 'postern statement' \
                 shows nothing procured, {} may be removed, and another pack is looked for.",
                part.display()
            )),
            Unbought::Returned => Lacking::Later(
                "the second relay did not make the pack, and what was debited is credited again; it is ordered anew in a while."
                    .to_owned(),
            ),
            Unbought::Foreign => Lacking::Later(format!(
                "what came for the order is not from the second relay: the relay in between may have kept the pack for itself. It was \
                 paid, and nothing is bought again by itself. {} is kept as proof of what was ordered: show the operator the amount and \
                 the day of 'postern statement'.",
                part.display()
            )),
        })
    }

    /// Takes the pack in. Its settings, which say that it is whole, come last but for the pack's file.
    async fn make(&self, pack: &Path) -> Result<(), Lacking> {
        let (host, dir, pack) = (self.host.clone(), self.dir.clone(), pack.to_owned());
        let passphrase = self.passphrase.clone();
        let making = move || -> Result<(), Failure> {
            let settings = Settings::read(&dir)?.of_far(host.day());
            let init = Init {
                half: None,
                pack: pack.clone(),
                dir: far(&dir),
                passphrase,
                settings,
            };
            // So that both operators are known before the second relay served its own; if not, that one does.
            let list = host.disk.create_dir_all(&init.dir);
            let _ = list.and_then(|()| std::fs::copy(dir.join(DIRECTORY_LIST), init.dir.join(DIRECTORY_LIST)));
            // What the pack's file is overwritten for must still be found after a power cut.
            let synced = host.disk.sync_dir(&dir);
            synced.map_err(|error| Failure(format!("{} could not be synced: {error}", dir.display())))?;
            init_with(&host, &init)?;
            end_spent(&pack);
            Ok(())
        };
        match tokio::task::spawn_blocking(making).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Failure(words))) => Err(Lacking::Later(format!("{words}."))),
            Err(_) => Err(Lacking::Later("the folder of the pack could not be made.".to_owned())),
        }
    }
}

/// Whether the pack is whole and taken in. What lies in its place without being so keeps another one from being bought.
fn is_made(dir: &Path) -> Result<bool, Lacking> {
    let far = far(dir);
    let made = made_on(dir).map_err(|Failure(words)| {
        Lacking::Stuck(format!(
            "the pack at the second relay is there and cannot serve, and no other one is bought: {words}."
        ))
    })?;
    if made.is_some() {
        return Ok(true);
    }
    let is_empty = match std::fs::read_dir(&far) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    match is_empty || dir.join(PACK).exists() {
        true => Ok(false),
        false => Err(Lacking::Stuck(format!(
            "{} is there and does not say since when it serves, so that no pack is bought: put back what it lacks, or rename it, and \
             another pack is bought.",
            far.display()
        ))),
    }
}

/// Mail that was taken in for the direct way, and would stay behind.
fn refuse_mail(rows: &[Value]) -> Result<(), Lacking> {
    let of = |is_queued: bool| {
        let mail = rows.iter().filter(|row| row["kind"] == "mail");
        mail.filter(move |row| (row["state"] == "queued") == is_queued).count()
    };
    match (of(true), of(false)) {
        (0, 0) => Ok(()),
        (_, 0) => Err(Lacking::Soon(
            "mail that was taken in before, for the direct way, leaves first.".to_owned(),
        )),
        (_, held) => Err(Lacking::Stuck(format!(
            "{held} messages that were taken in before, for the direct way, do not leave by themselves: see 'postern outbox', and drop \
             them with 'postern outbox cancel'."
        ))),
    }
}

/// What was ordered at the first pack is answered there, and nobody would hear it over the second relay.
fn refuse_orders(rows: &[Value]) -> Result<(), Lacking> {
    let orders = || rows.iter().filter(|row| row["kind"] != "mail");
    match orders().all(|row| row["state"] == "queued") {
        true if orders().next().is_none() => Ok(()),
        true => Err(Lacking::Soon(
            "what was ordered before is answered first: see 'postern outbox'.".to_owned(),
        )),
        false => Err(Lacking::Stuck(
            "what was ordered before does not go by itself: see 'postern outbox', and drop it with 'postern outbox cancel'."
                .to_owned(),
        )),
    }
}

/// The file of a pack that is taken in: its secrets are in the folder, so that it keeps nothing up.
fn end_spent(pack: &Path) {
    if pack.exists()
        && let Err(error) = end_file(pack)
    {
        tracing::warn!("the file of the second relay's pack, which is taken in, could not be overwritten: {error}");
    }
}

fn cannot(path: &Path, error: &std::io::Error) -> Failure {
    Failure(format!("{} could not be overwritten: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: &str = "user = \"me\"\nsmtp = \"127.0.0.1:1\"\nimap = \"127.0.0.1:2\"\n";

    #[test]
    fn the_second_pack_serves_where_it_is_whole_and_wanted() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path();
        let put = |dir: &Path, more: &str| std::fs::write(dir.join("bridge.toml"), format!("{SETTINGS}{more}"));
        put(dir, "nested = \"auto\"\n").expect("written");
        let made_on = |dir: &Path| made_on(dir).unwrap_or_else(|Failure(words)| panic!("{words}"));
        let serving = |dir: &Path| serving(dir).unwrap_or_else(|Failure(words)| panic!("{words}"));
        assert!(made_on(dir).is_none() && serving(dir) == dir && found(dir).is_none());
        std::fs::create_dir(far(dir)).expect("made");
        // A crash left it half made.
        assert!(made_on(dir).is_none() && serving(dir) == dir && found(dir) == Some(far(dir)));
        put(&far(dir), "nested_since = 20000\n").expect("written");
        assert!(made_on(dir) == Some(20_000) && serving(dir) == far(dir));
        put(dir, "nested = false\n").expect("written");
        assert_eq!(serving(dir), dir);
        let part = beside(&dir.join(PACK), PART);
        std::fs::write(&part, b"").expect("written");
        assert_eq!(found(dir), Some(part));
    }

    #[test]
    fn what_lies_in_the_place_of_the_second_pack_keeps_another_from_being_bought() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path();
        let stuck = |words: &str| match is_made(dir) {
            Err(Lacking::Stuck(said)) => assert!(said.contains(words), "{said}"),
            _ => panic!("it is not said: {words}"),
        };
        std::fs::create_dir(far(dir)).expect("made");
        assert!(matches!(is_made(dir), Ok(false)), "an empty folder is none");
        std::fs::write(far(dir).join("header"), b"sealed").expect("written");
        stuck("does not say since when");
        std::fs::write(dir.join(PACK), b"pack").expect("written");
        assert!(matches!(is_made(dir), Ok(false)), "it is made from its file");
        let settings = far(dir).join("bridge.toml");
        std::fs::write(&settings, "user = ").expect("written");
        stuck("cannot serve, and no other one is bought");
        assert!(serving(dir).is_ok_and(|serving| serving == dir), "not asked for");
        std::fs::write(dir.join("bridge.toml"), format!("{SETTINGS}nested = \"auto\"\n")).expect("written");
        assert!(serving(dir).is_err(), "nothing goes by the first one instead");
        std::fs::write(&settings, format!("{SETTINGS}nested_since = 20000\n")).expect("written");
        assert!(matches!(is_made(dir), Ok(true)));
        // One that cannot be removed is told, and keeps nothing up.
        std::fs::remove_file(dir.join(PACK)).expect("there");
        std::fs::create_dir(dir.join(PACK)).expect("made");
        end_spent(&dir.join(PACK));
        assert!(matches!(is_made(dir), Ok(true)));
    }

    #[test]
    fn a_second_pack_is_not_linked_by_itself_nor_a_pad_used_for_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path();
        let settings = |more: &str| std::fs::write(dir.join("bridge.toml"), format!("{SETTINGS}{more}"));
        settings("nested = \"auto\"\n").expect("written");
        assert!(refuse_bare(dir).is_ok() && refuse_pad(dir).is_ok());
        settings("nested_since = 20000\n").expect("written");
        assert!(refuse_bare(dir).is_err_and(|Failure(words)| words.contains("through another one alone")));
        std::fs::write(dir.join(PAD), b"").expect("written");
        assert!(refuse_pad(dir).is_err_and(|Failure(words)| words.contains("nested = false")));
    }

    #[test]
    fn mail_that_does_not_leave_by_itself_is_told_apart_from_what_does() {
        let row = |kind: &str, state: &str| serde_json::json!({ "kind": kind, "state": state });
        assert!(refuse_mail(&[]).is_ok() && refuse_mail(&[row("pack", "queued"), row("alias", "refused")]).is_ok());
        assert!(matches!(refuse_mail(&[row("mail", "queued")]), Err(Lacking::Soon(_))));
        for state in ["held", "refused", "unknown"] {
            let Err(Lacking::Stuck(words)) = refuse_mail(&[row("mail", "queued"), row("mail", state)]) else {
                panic!("it would be waited for")
            };
            assert!(
                words.contains("1 messages") && words.contains("postern outbox cancel"),
                "{words}"
            );
        }
    }
}
