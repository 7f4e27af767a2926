//! `posternd quickstart`: a relay and two people with a bridge each, to try everything on one machine.
//!
//! Three processes of this same program, each with its own folder, started, watched and stopped by this one. Started
//! again with the same folder, it goes on where it was.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mailbox::disk::LockGuard;
use serde::Serialize;
use serde_json::{Value, json};
use smtp_bridge::bridge::commands::Command as BridgeCommand;
use smtp_bridge::cli::process::Failure;
use smtp_bridge::cli::{self, Init, Settings};
use smtp_bridge::control::{self, CommandError};
use smtp_bridge::names;
use smtp_bridge::net::{Host, stopped};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::RelayConfig;
use crate::operator::{Command as RelayCommand, IssuedPack};
use crate::packfile::Draft;

/// What the quickstart is told.
pub struct Options {
    /// Folder for all data.
    pub dir: PathBuf,
    /// Port of the relay's link server.
    pub link_port: u16,
    /// Port of the relay's MX.
    pub mx_port: u16,
    /// Port of the status page.
    pub status_port: u16,
    /// Port where the first bridge takes mail; the second's is the next.
    pub smtp_port: u16,
    /// Port where the first bridge shows mail; the second's is the next.
    pub imap_port: u16,
    /// Where mail for other domains goes.
    pub smarthost: Option<String>,
    /// What the bridges dial instead of the relay.
    pub relay_via: Option<String>,
    /// One line of JSON on standard output instead of text.
    pub json: bool,
}

/// Domain of the quickstart's relay.
const DOMAIN: &str = "relay.test";
/// Ticks of the quickstart in seconds, so that nobody waits a minute for the first mail.
const TICK_S: u64 = 2;
/// Link keys of each quickstart pack.
const KEYS: u64 = 10_000;
/// Value of each quickstart pack, in µtok.
const VALUE: u64 = 100_000_000;
/// Longest wait for a process to be ready.
const READY_MAX: Duration = Duration::from_secs(60);
/// Longest wait for the processes of a quickstart that was killed to let go of their ports.
const CLOSING_MAX: Duration = Duration::from_secs(3);
/// A process that ends more often than this is left alone.
const RESTARTS_MAX: u32 = 100;

/// Runs until `stop` turns true.
pub async fn run(options: Options, host: Host, stop: watch::Sender<bool>) -> Result<(), Failure> {
    let plan = Plan::new(options)?;
    let _alone = plan.check(&host).await?;
    plan.say("1/4  folder ready; starting the relay");
    let mut relay = Process::start("relay", plan.relay_arguments())?;
    plan.relay_ready(&host, &mut relay).await?;

    plan.say("2/4  issuing two keypacks (each takes a moment: the passphrase is made expensive to guess)");
    for (position, person) in plan.people.iter().enumerate() {
        plan.provide(&host, person, position == 0).await?;
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
    let pids: Vec<u32> = bridges.iter().map(Process::pid).collect();
    if plan.options.json {
        println!("{}", plan.as_json(relay.pid(), &pids, &ready));
    } else {
        println!("{}", plan.as_text(&ready));
    }
    let processes = std::iter::once(relay).chain(bridges).collect();
    supervise(processes, stop.subscribe()).await;
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
}

struct Plan {
    options: Options,
    relay: RelayConfig,
    relay_config: PathBuf,
    people: [Person; 2],
}

impl Plan {
    fn new(options: Options) -> Result<Self, Failure> {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let dir = std::path::absolute(&options.dir)
            .map_err(|error| Failure(format!("{} is no usable folder: {error}", options.dir.display())))?;
        let mut relay = RelayConfig::new(
            DOMAIN,
            dir.join("relay"),
            at(options.link_port),
            at(options.mx_port),
            at(options.status_port),
        );
        relay.smarthost.clone_from(&options.smarthost);
        relay.tick_ms = TICK_S * 1_000;
        let person = |name: &'static str, offset: u16| {
            let port = |base: u16| {
                base.checked_add(offset)
                    .map(at)
                    .ok_or_else(|| Failure("choose ports below 65535: the second bridge takes the next".to_owned()))
            };
            Ok::<Person, Failure>(Person {
                name,
                dir: dir.join(name),
                passphrase: dir.join(format!("{name}.passphrase")),
                smtp: port(options.smtp_port)?,
                imap: port(options.imap_port)?,
            })
        };
        let people = [person("a", 0)?, person("b", 1)?];
        Ok(Plan {
            relay_config: dir.join("posternd.toml"),
            options: Options { dir, ..options },
            relay,
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
        let text = toml::to_string(&self.relay).expect("a configuration is plain data");
        std::fs::write(&self.relay_config, text).map_err(unusable)?;
        let mut ports = vec![
            ("--link-port", self.relay.link),
            ("--mx-port", self.relay.mx),
            ("--status-port", self.relay.status),
        ];
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

    fn relay_arguments(&self) -> Vec<String> {
        vec![
            "run".into(),
            "--config".into(),
            text(&self.relay_config),
            "--stop-with-stdin".into(),
        ]
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
        let via = self
            .options
            .relay_via
            .clone()
            .unwrap_or_else(|| self.relay.link.to_string());
        arguments.extend(["--relay-via".into(), via]);
        arguments
    }

    async fn relay_ready(&self, host: &Host, process: &mut Process) -> Result<(), Failure> {
        process
            .until_ready(async || ask_relay(host, self, &RelayCommand::Totals).await.ok())
            .await
            .map(|_| ())
    }

    /// Issues a pack and makes a data folder of it, unless an earlier start did.
    async fn provide(&self, host: &Host, person: &Person, operator: bool) -> Result<(), Failure> {
        if person.dir.join("bridge.toml").exists() {
            return Ok(());
        }
        let pack = self.options.dir.join(format!("{}.pack", person.name));
        let failed = |error: io::Error| Failure(format!("cannot write in {}: {error}", self.options.dir.display()));
        if !pack.exists() {
            write_private(&person.passphrase, &names::random(host)).map_err(failed)?;
            let draft = Draft::begin(host, &pack).map_err(failed)?;
            let order = RelayCommand::Issue {
                keys: KEYS,
                value: VALUE,
                operator,
                rotate: String::new(),
                pad: None,
            };
            let answer = ask_relay(host, self, &order).await?;
            let issued: IssuedPack =
                serde_json::from_value(answer).map_err(|_| Failure("the relay gave an unreadable answer".into()))?;
            let passphrase = cli::process::passphrase(&person.passphrase)?;
            draft.finish(host, &issued, KEYS, &passphrase).map_err(failed)?;
        }
        let init = Init {
            pack,
            dir: person.dir.clone(),
            passphrase: cli::process::passphrase(&person.passphrase)?,
            settings: Settings {
                user: person.name.to_owned(),
                smtp: person.smtp,
                imap: person.imap,
                page: Some(cli::PAGE),
                socks: None,
                notices: Default::default(),
                html: Default::default(),
                real_addresses: Vec::new(),
            },
        };
        let host = host.clone();
        tokio::task::spawn_blocking(move || cli::init_with(&host, &init))
            .await
            .map_err(|_| Failure("making a data folder failed".into()))?
    }

    async fn bridge_ready(&self, host: &Host, person: &Person, process: &mut Process) -> Result<Ready, Failure> {
        let alias = process
            .until_ready(async || {
                let status = control::ask(host, &person.dir, &BridgeCommand::Status).await.ok()?;
                let alias = status["aliases"].get(0)?.as_str()?.to_owned();
                (status["linked"] == true && !status["prices"].is_null()).then_some((alias, status["prices"].clone()))
            })
            .await?;
        let settings = control::ask(host, &person.dir, &BridgeCommand::Settings).await?;
        let (alias, prices) = alias;
        Ok(Ready {
            alias,
            prices,
            password: settings["password"].as_str().unwrap_or_default().to_owned(),
        })
    }

    fn as_json(&self, relay_pid: u32, pids: &[u32], ready: &[Ready]) -> Value {
        #[derive(Serialize)]
        struct Bridge<'a> {
            name: &'a str,
            smtp: SocketAddr,
            imap: SocketAddr,
            user: &'a str,
            password: &'a str,
            alias: &'a str,
            data: &'a Path,
            pid: u32,
        }
        let bridges: Vec<Bridge<'_>> = self
            .people
            .iter()
            .zip(ready)
            .zip(pids)
            .map(|((person, ready), pid)| Bridge {
                name: person.name,
                smtp: person.smtp,
                imap: person.imap,
                user: person.name,
                password: &ready.password,
                alias: &ready.alias,
                data: &person.dir,
                pid: *pid,
            })
            .collect();
        let prices = ready.first().map(|ready| &ready.prices);
        let price = |key: &str| prices.map(|prices| prices[key].clone()).unwrap_or_default();
        json!({
            "relay": { "link": self.relay.link, "mx": self.relay.mx, "status": self.relay.status, "domain": DOMAIN, "data": self.relay.data, "pid": relay_pid },
            "bridges": bridges,
            "prices": { "version": price("version"), "message": price("message"), "kilobyte": price("kilobyte"), "key": price("key") },
        })
    }

    fn as_text(&self, ready: &[Ready]) -> String {
        let mut out = format!(
            "\nA relay and two people run on this machine, with data under {}.\n",
            self.options.dir.display()
        );
        for (person, ready) in self.people.iter().zip(ready) {
            out += &format!(
                "\n  {name}  {alias}\n     outgoing mail (SMTP)  {smtp}   no encryption, normal password\n     incoming mail (IMAP)  {imap}   no encryption, normal password\n     user {name}   password {password}\n",
                name = person.name,
                alias = ready.alias,
                smtp = person.smtp,
                imap = person.imap,
                password = ready.password
            );
        }
        let (a, b) = (&self.people[0], &ready[1]);
        out += &format!(
            "\nTry it, or enter the settings above in any mail program:\n\n  swaks --server {} --auth-user a --auth-password {} --from a@localhost --to {}\n\n\
             It is sealed under the next key of a's pack, debited, sent out by the relay, comes back through its MX ({}) and\n\
             is in b's INBOX within a few seconds (ticks are {TICK_S} s here instead of 60):\n\n  curl --user b:{} 'imap://{}/INBOX;UID=*'\n\n\
             Status page: http://{}/\n{}\nCtrl-C stops everything; the same command goes on from there.\n",
            a.smtp,
            ready[0].password,
            b.alias,
            self.relay.mx,
            b.password,
            self.people[1].imap,
            self.relay.status,
            match &self.relay.smarthost {
                Some(smarthost) => format!("Mail for other domains goes to {smarthost}.\n"),
                None => "Mail for other domains is refused: give --smarthost HOST:PORT to let it out.\n".to_owned(),
            },
        );
        out
    }
}

/// What a bridge says of itself once it is linked.
struct Ready {
    alias: String,
    password: String,
    prices: Value,
}

async fn ask_relay(host: &Host, plan: &Plan, command: &RelayCommand) -> Result<Value, CommandError> {
    control::ask(host, &plan.relay.data, command).await
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

/// One of the processes that make up a quickstart.
struct Process {
    name: &'static str,
    arguments: Vec<String>,
    child: Child,
    /// Held apart, as waiting for the child would close it: its end is the child's sign to stop.
    stdin: Option<ChildStdin>,
    restarts: u32,
}

impl Process {
    fn start(name: &'static str, arguments: Vec<String>) -> Result<Self, Failure> {
        let (child, stdin) = spawn(&arguments).map_err(|error| Failure(format!("cannot start {name}: {error}")))?;
        Ok(Process {
            name,
            arguments,
            child,
            stdin,
            restarts: 0,
        })
    }

    fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Asks `probe` until it has an answer, the process ends, or patience does.
    async fn until_ready<T>(&mut self, probe: impl AsyncFn() -> Option<T>) -> Result<T, Failure> {
        let name = self.name;
        let polling = async {
            loop {
                if let Some(ready) = probe().await {
                    return ready;
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        };
        tokio::select! {
            ready = tokio::time::timeout(READY_MAX, polling) => ready.map_err(|_| Failure(format!("{name} is not ready after {} s", READY_MAX.as_secs()))),
            _ = self.child.wait() => Err(Failure(format!("{name} ended before it was ready; it said why above"))),
        }
    }

    /// Starts it again whenever it ends, until `stop` turns true; then asks it to end and waits for that.
    async fn keep(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                status = self.child.wait() => {
                    self.restarts += 1;
                    let status = status.map(|status| status.to_string()).unwrap_or_default();
                    if self.restarts > RESTARTS_MAX {
                        eprintln!("{} ended again ({status}) and is not started any more", self.name);
                        return;
                    }
                    eprintln!("{} ended ({status}); starting it again", self.name);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    match spawn(&self.arguments) {
                        Ok((child, stdin)) => (self.child, self.stdin) = (child, stdin),
                        Err(error) => eprintln!("cannot start {}: {error}", self.name),
                    }
                }
            }
        }
        drop(self.stdin.take());
        if tokio::time::timeout(Duration::from_secs(25), self.child.wait())
            .await
            .is_err()
        {
            let _ = self.child.kill().await;
        }
    }
}

async fn supervise(processes: Vec<Process>, stop: watch::Receiver<bool>) {
    let mut tasks = tokio::task::JoinSet::new();
    for process in processes {
        tasks.spawn(process.keep(stop.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

fn spawn(arguments: &[String]) -> io::Result<(Child, Option<ChildStdin>)> {
    // Its own process group: Ctrl-C reaches this process, which then stops the others in order.
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let stdin = child.stdin.take();
    Ok((child, stdin))
}
