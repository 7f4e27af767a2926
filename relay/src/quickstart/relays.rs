//! The relays of a quickstart: one, or a row of them in which each holds a pack at both of its neighbours.

use std::io;
use std::path::PathBuf;

use serde_json::Value;
use smtp_bridge::cli::process::{Failure, passphrase};
use smtp_bridge::control;
use smtp_bridge::names;
use smtp_bridge::net::Host;

use super::process::Process;
use super::{Options, Plan, TICK_S, port, text, write_private};
use crate::config::RelayConfig;
use crate::operator::Command as RelayCommand;
use crate::peers;

/// Most relays of a quickstart.
pub(crate) const RELAYS_MAX: u8 = 5;
/// Says how many relays were introduced to each other in this folder.
const INTRODUCED: &str = "relays";
/// Waits between the first tries of a delivery, in seconds: nobody waits a minute for a relay that was just restarted.
const FIRST_RETRIES_S: [u64; 5] = [2, 2, 5, 10, 30];

/// One relay.
pub(super) struct Place {
    /// Of its folder, and what its neighbours call it.
    pub(super) name: String,
    pub(super) config: RelayConfig,
    file: PathBuf,
}

impl Place {
    pub(super) fn write(&self, config: &RelayConfig) -> io::Result<()> {
        let text = toml::to_string(config).expect("a configuration is plain data");
        std::fs::write(&self.file, text)
    }

    /// Without its neighbours, of which it has no pack yet.
    fn alone(&self) -> RelayConfig {
        let mut config = self.config.clone();
        config.routes.clear();
        config.smarthost = None;
        config
    }

    fn start(&self) -> Result<Process, Failure> {
        let arguments = ["run", "--config", &text(&self.file), "--stop-with-stdin"];
        Process::start(&self.name, arguments.map(String::from).into())
    }

    async fn ask(&self, host: &Host, command: &RelayCommand) -> Option<Value> {
        control::ask(host, &self.config.data, command).await.ok()
    }
}

/// Mail for each relay's domain goes along the row; what is for nobody in it leaves at the end.
pub(super) fn plan(options: &Options) -> Result<Vec<Place>, Failure> {
    let count = usize::from(options.relays.clamp(1, RELAYS_MAX));
    let name = |at: usize| match at {
        0 => "relay".to_owned(),
        _ => format!("relay{}", at + 1),
    };
    let domain = |at: usize| format!("{}.test", name(at));
    let mut relays = Vec::new();
    for at in 0..count {
        let mut config = RelayConfig::new(
            &domain(at),
            options.dir.join(name(at)),
            port(options.link_port, at)?,
            port(options.mx_port, at)?,
            port(options.status_port, at)?,
        );
        config.tick_ms = TICK_S * 1_000;
        config.smarthost = match &options.smarthost {
            Some(_) if at + 1 < count => Some(format!("peer:{}", name(at + 1)).into()),
            last => last.clone().map(Into::into),
        };
        for other in (0..count).filter(|other| *other != at) {
            let next = if other > at { at + 1 } else { at - 1 };
            config
                .routes
                .insert(domain(other), format!("peer:{}", name(next)).into());
            let link = port(options.link_port, other)?.to_string();
            config.through.insert(domain(other), link);
        }
        if count > 1 {
            config.retry_s.splice(0..0, FIRST_RETRIES_S);
        }
        let file = match at {
            0 => "posternd.toml".to_owned(),
            _ => format!("{}.toml", name(at)),
        };
        relays.push(Place {
            name: name(at),
            config,
            file: options.dir.join(file),
        });
    }
    Ok(relays)
}

impl Plan {
    /// Refuses a folder that was begun with another number of relays: the packs in it are of those.
    pub(super) fn check_number(&self) -> Result<(), Failure> {
        let dir = &self.options.dir;
        let begun = match std::fs::read_to_string(dir.join(INTRODUCED)) {
            Ok(count) => count.trim().to_owned(),
            Err(_) if self.people.iter().any(|person| person.dir.exists()) => "1".to_owned(),
            // What a start left that ended before its relays knew each other: some packs may speak for a domain, and be lost.
            Err(_) if self.relays.len() > 1 && self.relays.iter().any(|relay| relay.config.data.exists()) => {
                return Err(Failure(format!(
                    "an earlier start in {} ended too early; remove the folder, or choose another one with --dir",
                    dir.display()
                )));
            }
            Err(_) => return Ok(()),
        };
        if begun == self.relays.len().to_string() {
            return Ok(());
        }
        Err(Failure(format!(
            "{} holds a quickstart of {begun} relays: give --relays {begun}, or choose another folder with --dir",
            dir.display()
        )))
    }

    /// Each relay issues a pack for its neighbours, unless an earlier start did, and they take them.
    pub(super) async fn introduce(&self, host: &Host) -> Result<(), Failure> {
        let done = self.options.dir.join(INTRODUCED);
        if self.relays.len() == 1 || done.exists() {
            return Ok(());
        }
        for relay in &self.relays {
            relay.write(&relay.alone()).map_err(|error| self.unwritable(&error))?;
        }
        let processes = self.start_relays(host).await?;
        let opens = self.options.dir.join("relays.passphrase");
        write_private(&opens, &names::random(host)).map_err(|error| self.unwritable(&error))?;
        for issuer in 1..self.relays.len() {
            self.hand_out(host, issuer - 1, issuer, &opens).await?;
            self.hand_out(host, issuer, issuer - 1, &opens).await?;
        }
        for process in processes {
            process.end().await;
        }
        for relay in &self.relays {
            relay.write(&relay.config).map_err(|error| self.unwritable(&error))?;
        }
        write_private(&done, &self.relays.len().to_string()).map_err(|error| self.unwritable(&error))
    }

    /// One relay issues a pack, and its neighbour takes it: to send for all relays on its own side.
    async fn hand_out(
        &self,
        host: &Host,
        holder: usize,
        issuer: usize,
        opens: &std::path::Path,
    ) -> Result<(), Failure> {
        let (to, from) = (&self.relays[holder], &self.relays[issuer]);
        let pack = self.options.dir.join(format!("{}-at-{}.pack", to.name, from.name));
        let account = self.issue(host, issuer, &pack, opens, false).await?;
        let behind = if holder < issuer {
            &self.relays[..=holder]
        } else {
            &self.relays[holder..]
        };
        for relay in behind {
            let order = RelayCommand::SpeakFor {
                account: account.clone(),
                domain: relay.config.domain.clone(),
                speaks: true,
            };
            control::ask(host, &from.config.data, &order).await?;
        }
        let (host, data, name) = (host.clone(), to.config.data.clone(), from.name.clone());
        let passphrase = passphrase(opens)?;
        tokio::task::spawn_blocking(move || peers::accept(&host, &data, &name, &pack, &passphrase))
            .await
            .map_err(|_| Failure("taking a pack failed".into()))?
            .map(|_| ())
    }

    /// Starts all relays and waits until each answers.
    pub(super) async fn start_relays(&self, host: &Host) -> Result<Vec<Process>, Failure> {
        let mut processes = Vec::new();
        for relay in &self.relays {
            processes.push(relay.start()?);
        }
        for (relay, process) in self.relays.iter().zip(&mut processes) {
            process
                .until_ready(async || relay.ask(host, &RelayCommand::Totals).await)
                .await?;
        }
        Ok(processes)
    }

    /// Waits until each relay has a link with every neighbour.
    pub(super) async fn relays_linked(&self, host: &Host, processes: &mut [Process]) -> Result<(), Failure> {
        for (relay, process) in self.relays.iter().zip(processes) {
            process
                .until_ready(async || {
                    let answer = relay.ask(host, &RelayCommand::Peers).await?;
                    let all = answer["rows"].as_array()?.iter().all(|peer| peer["link"] == "linked");
                    all.then_some(())
                })
                .await?;
        }
        Ok(())
    }
}
