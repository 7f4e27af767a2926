//! `posternd quickstart`: a relay or several and two people with a bridge each, to try everything on one machine.
//!
//! Processes of this same program, each with its own folder, started, watched and stopped by this one. Started
//! again with the same folder, it goes on where it was.

mod process;
mod relays;
mod words;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mailbox::disk::LockGuard;
use serde_json::Value;
use smtp_bridge::bridge::commands::Command as BridgeCommand;
use smtp_bridge::cli::process::Failure;
use smtp_bridge::cli::{self, Init, Settings};
use smtp_bridge::control;
use smtp_bridge::names;
use smtp_bridge::net::Host;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::operator::{Command as RelayCommand, IssuedPack};
use crate::packfile::Draft;

pub(crate) use relays::RELAYS_MAX;

use process::{Process, supervise};
use relays::Place;

/// What the quickstart is told.
pub struct Options {
    /// Folder for all data.
    pub dir: PathBuf,
    /// How many relays: mail goes from each to the next.
    pub relays: u8,
    /// Port of the first relay's link server; the second's is the next, and so with all ports.
    pub link_port: u16,
    /// Port of the first relay's MX.
    pub mx_port: u16,
    /// Port of the first relay's status page.
    pub status_port: u16,
    /// Port where the first bridge takes mail; the second's is the next.
    pub smtp_port: u16,
    /// Port where the first bridge shows mail; the second's is the next.
    pub imap_port: u16,
    /// Where mail for other domains goes.
    pub smarthost: Option<String>,
    /// What the bridges dial instead of the first relay.
    pub relay_via: Option<String>,
    /// One line of JSON on standard output instead of text.
    pub json: bool,
}

/// Ticks of the quickstart in seconds, so that nobody waits a minute for the first mail.
const TICK_S: u64 = 2;
/// Link keys of each quickstart pack.
const KEYS: u64 = 10_000;
/// Value of each quickstart pack, in µtok.
const VALUE: u64 = 100_000_000;
/// Longest wait for the processes of a quickstart that was killed to let go of their ports.
const CLOSING_MAX: Duration = Duration::from_secs(3);

/// Runs until `stop` turns true.
pub async fn run(options: Options, host: Host, stop: watch::Sender<bool>) -> Result<(), Failure> {
    let plan = Plan::new(options)?;
    let _alone = plan.check(&host).await?;
    match plan.relays.len() {
        1 => plan.say("1/4  folder ready; starting the relay"),
        count => plan.say(&format!(
            "1/4  folder ready; starting {count} relays, each with a pack at its neighbours"
        )),
    }
    plan.introduce(&host).await?;
    let mut relays = plan.start_relays(&host).await?;
    plan.relays_linked(&host, &mut relays).await?;

    plan.say("2/4  issuing keypacks (each takes a moment: the passphrase is made expensive to guess)");
    for person in &plan.people {
        plan.provide(&host, person).await?;
    }

    plan.say("3/4  starting the two bridges");
    let mut bridges = Vec::new();
    for person in &plan.people {
        bridges.push(Process::start(person.name, plan.bridge_arguments(person))?);
    }
    let mut ready = Vec::new();
    for (person, process) in plan.people.iter().zip(&mut bridges) {
        ready.push(plan.bridge_ready(&host, person, process).await?);
    }

    plan.say("4/4  ready");
    if plan.options.json {
        println!("{}", plan.as_json(&relays, &bridges, &ready));
    } else {
        println!("{}", plan.as_text(&ready));
    }
    supervise(relays.into_iter().chain(bridges).collect(), stop.subscribe()).await;
    plan.say("stopped; start it again with the same folder to go on");
    Ok(())
}

/// One of the two people.
struct Person {
    name: &'static str,
    dir: PathBuf,
    passphrase: PathBuf,
    smtp: SocketAddr,
    imap: SocketAddr,
    /// Which relay has the mailbox.
    relay: usize,
    /// Folder of the pack by which the link is carried, if the mailbox is not at the relay that is dialled.
    entry: Option<PathBuf>,
}

struct Plan {
    options: Options,
    relays: Vec<Place>,
    people: [Person; 2],
}

/// A port of this machine, so many behind another.
fn port(base: u16, offset: usize) -> Result<SocketAddr, Failure> {
    let port = u16::try_from(offset).ok().and_then(|offset| base.checked_add(offset));
    port.map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .ok_or_else(|| Failure("choose ports below 65535: the others take those behind the first".to_owned()))
}

impl Plan {
    fn new(options: Options) -> Result<Self, Failure> {
        let dir = std::path::absolute(&options.dir)
            .map_err(|error| Failure(format!("{} is no usable folder: {error}", options.dir.display())))?;
        let options = Options { dir, ..options };
        let relays = relays::plan(&options)?;
        let person = |name: &'static str, offset: usize, relay: usize| {
            Ok::<Person, Failure>(Person {
                name,
                dir: options.dir.join(name),
                passphrase: options.dir.join(format!("{name}.passphrase")),
                smtp: port(options.smtp_port, offset)?,
                imap: port(options.imap_port, offset)?,
                relay,
                entry: (relay > 0).then(|| options.dir.join(format!("{name}-entry"))),
            })
        };
        let people = [person("a", 0, 0)?, person("b", 1, relays.len() - 1)?];
        Ok(Plan {
            options,
            relays,
            people,
        })
    }

    fn say(&self, sentence: &str) {
        eprintln!("{sentence}");
    }

    /// Everything that can be known to fail is said before anything is started.
    /// The guard keeps a second quickstart out of the folder: it would take the first one's processes for its own.
    async fn check(&self, host: &Host) -> Result<Box<dyn LockGuard>, Failure> {
        let dir = &self.options.dir;
        let unusable = |error: io::Error| {
            Failure(format!(
                "cannot write to {}: {error}; choose another folder with --dir",
                dir.display()
            ))
        };
        std::fs::create_dir_all(dir).map_err(unusable)?;
        let alone = host
            .disk
            .lock(&dir.join("quickstart.lock"))
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => Failure(format!(
                    "a quickstart is running with {} already: stop it, or choose another folder with --dir",
                    dir.display()
                )),
                _ => unusable(error),
            })?;
        self.check_number()?;
        for relay in &self.relays {
            relay.write(&relay.config).map_err(unusable)?;
        }
        let mut ports = Vec::new();
        for relay in &self.relays {
            ports.extend([
                ("--link-port", relay.config.link),
                ("--mx-port", relay.config.mx),
                ("--status-port", relay.config.status),
            ]);
        }
        for person in &self.people {
            ports.extend([("--smtp-port", person.smtp), ("--imap-port", person.imap)]);
        }
        let start = Instant::now();
        for (option, at) in ports {
            while let Err(error) = host.net.listen(at).await {
                if start.elapsed() > CLOSING_MAX {
                    let sentence = format!("cannot listen at {at}: {error}; choose another port with {option}");
                    return Err(Failure(sentence));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(alone)
    }

    fn bridge_arguments(&self, person: &Person) -> Vec<String> {
        let mut arguments: Vec<String> = ["bridge", "--dial-timeout", "2", "--stop-with-stdin"]
            .map(String::from)
            .into();
        arguments.extend(["--tick".into(), TICK_S.to_string()]);
        arguments.extend([
            "--dir".into(),
            text(&person.dir),
            "--passphrase-file".into(),
            text(&person.passphrase),
        ]);
        // The ports of this start, whatever an earlier one used.
        arguments.extend([
            "--smtp".into(),
            person.smtp.to_string(),
            "--imap".into(),
            person.imap.to_string(),
        ]);
        if let Some(entry) = &person.entry {
            arguments.extend(["--entry".into(), text(entry)]);
        }
        let via = self
            .options
            .relay_via
            .clone()
            .unwrap_or_else(|| self.relays[0].config.link.to_string());
        arguments.extend(["--relay-via".into(), via]);
        arguments
    }

    /// Makes the data folders of a person, unless an earlier start did.
    async fn provide(&self, host: &Host, person: &Person) -> Result<(), Failure> {
        if !person.passphrase.exists() {
            write_private(&person.passphrase, &names::random(host)).map_err(|error| self.unwritable(&error))?;
        }
        if let Some(entry) = &person.entry {
            self.take_in(host, person, 0, entry, false).await?;
        }
        // The operator's pack is that of the first person of each relay.
        let operator = person.name == "a" || person.relay > 0;
        self.take_in(host, person, person.relay, &person.dir, operator).await
    }

    /// Issues a pack, unless an earlier start did, and makes a data folder of it.
    async fn take_in(
        &self,
        host: &Host,
        person: &Person,
        relay: usize,
        dir: &Path,
        operator: bool,
    ) -> Result<(), Failure> {
        if dir.join("bridge.toml").exists() {
            return Ok(());
        }
        let pack = dir.with_extension("pack");
        if !pack.exists() {
            self.issue(host, relay, &pack, &person.passphrase, operator).await?;
        }
        let init = Init {
            half: None,
            pack,
            dir: dir.to_owned(),
            passphrase: cli::process::passphrase(&person.passphrase)?,
            settings: Settings {
                user: person.name.to_owned(),
                smtp: person.smtp,
                imap: person.imap,
                page: Some(cli::PAGE),
                socks: None,
                directory_keys: None,
                nested: None,
                nested_percent_max: None,
                nested_relay: None,
                nested_since: None,
                notices: Default::default(),
                mix: Default::default(),
                cover: None,
                loops: None,
                html: Default::default(),
                real_addresses: Vec::new(),
            },
        };
        let host = host.clone();
        tokio::task::spawn_blocking(move || cli::init_with(&host, &init))
            .await
            .map_err(|_| Failure("making a data folder failed".into()))?
    }

    /// Has a relay issue a pack into a new file; its identifier.
    async fn issue(
        &self,
        host: &Host,
        relay: usize,
        pack: &Path,
        passphrase: &Path,
        operator: bool,
    ) -> Result<String, Failure> {
        let draft = Draft::begin(host, pack).map_err(|error| self.unwritable(&error))?;
        let order = RelayCommand::Issue {
            keys: KEYS,
            value: VALUE,
            operator,
            rotate: String::new(),
            pad: None,
            half: None,
        };
        let answer = control::ask(host, &self.relays[relay].config.data, &order).await?;
        let issued: IssuedPack =
            serde_json::from_value(answer).map_err(|_| Failure("the relay gave an unreadable answer".into()))?;
        let passphrase = cli::process::passphrase(passphrase)?;
        draft
            .finish(host, &issued, KEYS, &passphrase)
            .map_err(|error| self.unwritable(&error))?;
        Ok(issued.identifier.clone())
    }

    fn unwritable(&self, error: &io::Error) -> Failure {
        Failure(format!("cannot write in {}: {error}", self.options.dir.display()))
    }

    async fn bridge_ready(&self, host: &Host, person: &Person, process: &mut Process) -> Result<Ready, Failure> {
        let far = &self.relays[self.relays.len() - 1 - person.relay].config.domain;
        let behind = self.relays.len() - 1;
        let (alias, prices) = process
            .until_ready(async || {
                let status = control::ask(host, &person.dir, &BridgeCommand::Status).await.ok()?;
                let alias = status["aliases"].get(0)?.as_str()?.to_owned();
                let is_linked = status["linked"] == true && !status["prices"].is_null();
                // What the legs behind the first relay cost comes from relay to relay.
                let onward = &status["onward"];
                let leg = onward["domains"].get(far).unwrap_or(&onward["elsewhere"]);
                let is_told = leg["relays"] == behind;
                (is_linked && is_told).then_some((alias, status["prices"].clone()))
            })
            .await?;
        let settings = control::ask(host, &person.dir, &BridgeCommand::Settings).await?;
        Ok(Ready {
            alias,
            prices,
            password: settings["password"].as_str().unwrap_or_default().to_owned(),
        })
    }
}

/// What a bridge says of itself once it is linked.
struct Ready {
    alias: String,
    password: String,
    prices: Value,
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn write_private(path: &Path, line: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "{line}")?;
    file.sync_all()
}
