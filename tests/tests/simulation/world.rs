//! One relay, two holders with their bridges, and the world outside: set up, kept busy, brought to rest.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keypacks::Secret;
use keypacks::pack::{Identifier, Issue, PassphraseCost};
use mailbox::holder::{HolderFiles, HolderOptions};
use relay::config::RelayConfig;
use relay::hexadecimal;
use relay::operator::{Command as RelayCommand, IssuedPack};
use serde_json::Value;
use smtp_bridge::bridge::commands::Command as BridgeCommand;
use smtp_bridge::bridge::{self, BridgeConfig, Hygiene, NoticeSettings};
use smtp_bridge::control;
use smtp_bridge::holder::HolderConfig;
use smtp_bridge::message::Address;
use smtp_bridge::net::{BoxStream, Net};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::machine::{Machine, OUTSIDE, PEOPLE, Program, RELAY, RELAY_NAME, SINK_NAME, wait_until};
use crate::mail::{self, Sent};
use crate::net::{LINK_PORT, Network};
use crate::random::{Random, digest};
use crate::sink::{NOBODY, Sink};
use crate::trace::Trace;

pub(crate) const DOMAIN: &str = "relay.example";
pub(crate) const KEYS: u64 = 2_000;
pub(crate) const VALUE: u64 = 1_000_000_000;
const USER: &str = "me";
const SMTP_PORT: u16 = 1_025;
const IMAP_PORT: u16 = 1_143;
/// Longest time to rest once all faults are over.
pub(crate) const REST_MAX: Duration = Duration::from_secs(6 * 3_600);

/// What a message is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum To {
    /// An address outside.
    Out(String),
    /// One of the two people.
    Person(usize),
}

/// A message that somebody tried to send.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) number: usize,
    /// One of the two people; `None` is somebody outside.
    pub(crate) from: Option<usize>,
    pub(crate) to: Vec<To>,
    /// Octets of filler.
    pub(crate) size: usize,
    pub(crate) outcome: Option<Sent>,
    /// Tries of which nobody knows how they ended.
    pub(crate) unknown: u32,
}

/// One of the two holders.
pub(crate) struct Person {
    pub(crate) machine: AsyncMutex<Machine>,
    pub(crate) identifier: String,
    pub(crate) alias: String,
    password: String,
    /// What INBOX has shown so far: UID and digest.
    seen: Mutex<BTreeMap<u32, u64>>,
}

/// See the module.
pub(crate) struct World {
    pub(crate) trace: Trace,
    pub(crate) network: Network,
    pub(crate) relay: AsyncMutex<Machine>,
    pub(crate) people: Vec<Person>,
    pub(crate) sink: Sink,
    pub(crate) messages: Mutex<Vec<Message>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn relay_dir() -> PathBuf {
    "/relay".into()
}

fn person_dir() -> PathBuf {
    "/holder".into()
}

fn relay_config() -> RelayConfig {
    let at = |port| SocketAddr::from((RELAY, port));
    let mut config = RelayConfig::new(DOMAIN, relay_dir(), at(LINK_PORT), at(25), at(8_025));
    config.link_public = Some(RELAY_NAME.to_owned());
    config.smarthost = Some(SINK_NAME.into());
    config.tick_ms = 2_000;
    config.handshake_ms = 10_000;
    config.retry_s = [vec![5, 20, 60], vec![300; 40]].concat();
    config
}

fn relay_program() -> Program {
    Arc::new(|host, stop| {
        Box::pin(async move {
            let run = relay::run(relay_config(), host, stop);
            run.await.map_err(|error| error.to_string())
        })
    })
}

fn bridge_program(ip: [u8; 4]) -> Program {
    Arc::new(move |host, stop| {
        Box::pin(async move {
            let user = Address::parse(&format!("{USER}@localhost")).map_err(|_| "no address")?;
            let config = BridgeConfig {
                awaiting: None,
                entry: None,
                dir: person_dir(),
                passphrase: passphrase(),
                user: USER.to_owned(),
                smtp: SocketAddr::from((ip, SMTP_PORT)),
                imap: SocketAddr::from((ip, IMAP_PORT)),
                page: None,
                directory: None,
                any_route: false,
                notices: NoticeSettings::default(),
                hygiene: Hygiene::default(),
                loops: None,
                holder: HolderConfig {
                    tick: Duration::from_secs(2),
                    flight_timeout: Duration::from_secs(5),
                    answer_timeout: Duration::from_secs(20),
                    ..HolderConfig::new(user)
                },
                keep_used_keys: false,
            };
            bridge::run(config, host, stop).await.map_err(|error| error.to_string())
        })
    })
}

fn passphrase() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(b"correct horse".to_vec())
}

impl World {
    /// Starts everything, without faults, until both people have an alias.
    pub(crate) async fn begin(trace: Trace, mut random: Random) -> Result<Self, String> {
        let network = Network::new(trace.clone(), random.fork());
        let sink = Sink::open(&network, &trace, random.fork())
            .await
            .map_err(|error| error.to_string())?;
        let machine =
            |name, ip: [u8; 4], random, program| Machine::new(name, ip.into(), &network, &trace, random, program);
        let mut relay = machine("relay", RELAY, random.fork(), relay_program());
        relay.start();
        let mut people = Vec::new();
        for (ip, name) in PEOPLE.into_iter().zip(["bridge a", "bridge b"]) {
            let mut machine = machine(name, ip, random.fork(), bridge_program(ip));
            let identifier = provide(&mut relay, &mut machine).await?;
            machine.start();
            people.push(Person {
                machine: AsyncMutex::new(machine),
                identifier,
                alias: String::new(),
                password: String::new(),
                seen: Mutex::default(),
            });
        }
        let mut world = World {
            trace,
            network: network.clone(),
            relay: AsyncMutex::new(relay),
            people,
            sink,
            messages: Mutex::default(),
        };
        for index in 0..world.people.len() {
            let settings = world.ask_person(index, &BridgeCommand::Settings).await?;
            world.people[index].password = text(&settings["password"]);
            let mut alias = String::new();
            let has_alias = wait_until(Duration::from_secs(120), async || {
                let status = world.ask_person(index, &BridgeCommand::Status).await;
                alias = status.map(|status| text(&status["aliases"][0])).unwrap_or_default();
                !alias.is_empty()
            });
            if !has_alias.await {
                return Err("no first alias within two minutes".to_owned());
            }
            world.people[index].alias = alias;
        }
        world.trace.note("the world is set up");
        Ok(world)
    }

    /// Gives a command to a person's bridge once it answers.
    pub(crate) async fn ask_person(&self, index: usize, command: &BridgeCommand) -> Result<Value, String> {
        ask(&mut *self.people[index].machine.lock().await, &person_dir(), command).await
    }

    pub(crate) async fn ask_relay(&self, command: &RelayCommand) -> Result<Value, String> {
        ask(&mut *self.relay.lock().await, &relay_dir(), command).await
    }

    /// Draws messages and sends them over `span`, each tried until it is taken or nobody knows.
    pub(crate) fn send_all(self: &Arc<Self>, random: &mut Random, count: usize, span: Duration) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let from = match random.below(5) {
                0 | 1 => Some(0),
                2 => Some(1),
                _ => None,
            };
            let mut to = match from {
                None => vec![To::Person(random.below(2) as usize)],
                Some(_) => match random.below(8) {
                    0 => vec![To::Out(format!("{NOBODY}{number}@out.example"))],
                    1 | 2 => vec![To::Person(random.below(2) as usize)],
                    _ => vec![To::Out(format!("t{number}@out.example"))],
                },
            };
            if random.percent(25) {
                let more = match from {
                    None => To::Person(random.below(2) as usize),
                    Some(_) => To::Out(format!("u{number}@out.example")),
                };
                if !to.contains(&more) {
                    to.push(more);
                }
            }
            let size = match random.below(6) {
                0 => random.between(20_000, 100_000),
                1 => random.between(5_000, 20_000),
                _ => random.between(0, 2_000),
            };
            lock(&self.messages).push(Message {
                number,
                from,
                to,
                size: size as usize,
                outcome: None,
                unknown: 0,
            });
            let wait = random.millis(0, span.as_millis() as u64);
            let (world, random) = (self.clone(), random.fork());
            tasks.spawn(async move { world.send(number, wait, random).await });
        }
        tasks
    }

    /// Sends one message out and one in, at once.
    pub(crate) fn send_two(self: &Arc<Self>, random: &mut Random) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let ways = [(Some(0), To::Out("t0@out.example".to_owned())), (None, To::Person(0))];
        for (number, (from, to)) in ways.into_iter().enumerate() {
            lock(&self.messages).push(Message {
                number,
                from,
                to: vec![to],
                size: 1_000,
                outcome: None,
                unknown: 0,
            });
            let (world, random) = (self.clone(), random.fork());
            tasks.spawn(async move { world.send(number, Duration::ZERO, random).await });
        }
        tasks
    }

    async fn send(&self, number: usize, wait: Duration, mut random: Random) {
        tokio::time::sleep(wait).await;
        let message = lock(&self.messages)[number].clone();
        let to: Vec<String> = message.to.iter().map(|to| self.address(to)).collect();
        // Five days of tries are more than any run takes.
        for _ in 0..5_000 {
            let sent = match message.from {
                Some(person) => {
                    let stream = self.dial_bridge(person, SMTP_PORT).await;
                    let (alias, password) = (&self.people[person].alias, &self.people[person].password);
                    let text = compose(number, alias, &to, message.size);
                    mail::send(stream, Some((USER, password)), alias, &to, &text).await
                }
                None => {
                    let stream = self
                        .network
                        .card(OUTSIDE.into(), None)
                        .dial(SocketAddr::from((RELAY, 25)))
                        .await;
                    let from = format!("sender{number}@away.example");
                    mail::send(stream, None, &from, &to, &compose(number, &from, &to, message.size)).await
                }
            };
            self.trace.note(format!("message {number}: {sent:?}"));
            {
                let message = &mut lock(&self.messages)[number];
                message.outcome = Some(sent);
                message.unknown += u32::from(matches!(sent, Sent::Unknown | Sent::Deferred));
            }
            match sent {
                Sent::Accepted | Sent::Refused => return,
                // Another server tries again; a person looks first, and here leaves it at that.
                Sent::Unknown if message.from.is_some() => return,
                _ => tokio::time::sleep(random.millis(1_000, 20_000)).await,
            }
        }
    }

    fn address(&self, to: &To) -> String {
        match to {
            To::Out(address) => address.clone(),
            To::Person(index) => self.people[*index].alias.clone(),
        }
    }

    async fn dial_bridge(&self, index: usize, port: u16) -> std::io::Result<BoxStream> {
        let card = self.network.card(PEOPLE[index].into(), None);
        card.dial(SocketAddr::from((PEOPLE[index], port))).await
    }

    /// What INBOX shows: and nothing that it has shown before may be gone or another.
    pub(crate) async fn inbox(&self, index: usize) -> Option<Vec<Vec<u8>>> {
        let person = &self.people[index];
        let messages = mail::inbox(self.dial_bridge(index, IMAP_PORT).await, USER, &person.password).await;
        let messages = messages
            .inspect_err(|error| self.trace.note(format!("INBOX of {index}: {error}")))
            .ok()?;
        self.trace.note(format!("INBOX of {index} has {}", messages.len()));
        let shown: BTreeMap<u32, u64> = messages.iter().map(|(uid, text)| (*uid, digest(text))).collect();
        let mut seen = lock(&person.seen);
        for (uid, digest) in &*seen {
            if shown.get(uid) != Some(digest) {
                self.trace.fault(format!(
                    "UID {uid} of person {index} was shown before and is gone or another"
                ));
            }
        }
        *seen = shown;
        Some(messages.into_iter().map(|(_, text)| text).collect())
    }

    /// Waits until nothing is under way; `false` if that takes longer than `most`.
    pub(crate) async fn rest(&self, most: Duration) -> bool {
        let rested = wait_until(most, async || {
            for index in 0..self.people.len() {
                let Ok(status) = self.ask_person(index, &BridgeCommand::Status).await else {
                    return false;
                };
                if status["outbox"] != 0 || status["linked"] != true {
                    return false;
                }
            }
            let totals = self.ask_relay(&RelayCommand::Totals).await;
            totals.is_ok_and(|totals| totals["queued"] == 0 && totals["deposits"] == 0)
        });
        rested.await
    }
}

async fn ask(machine: &mut Machine, dir: &Path, command: &impl serde::Serialize) -> Result<Value, String> {
    let mut answer = Err("never asked".to_owned());
    wait_until(Duration::from_secs(60), async || {
        // It may have ended: nobody else starts it while it is asked.
        machine.revive().await;
        let (host, _crew) = machine.host();
        answer = control::ask(&host, dir, command).await.map_err(|error| error.0);
        answer.is_ok()
    })
    .await;
    answer
}

/// Issues a pack and makes a holder's store of it; its identifier.
async fn provide(relay: &mut Machine, person: &mut Machine) -> Result<String, String> {
    let order = RelayCommand::Issue {
        keys: KEYS,
        value: VALUE,
        operator: false,
        rotate: String::new(),
        pad: None,
        half: None,
    };
    let issued = ask(relay, &relay_dir(), &order).await?;
    let pack: IssuedPack = serde_json::from_value(issued).map_err(|error| error.to_string())?;
    let unreadable = || "the relay gave an unreadable answer".to_owned();
    let issue = Issue {
        identifier: Identifier::parse(&pack.identifier).map_err(|_| unreadable())?,
        relay_public: hexadecimal::decode(&pack.relay_public).ok_or_else(unreadable)?,
        link_keys: KEYS,
        root: Secret::new(hexadecimal::decode(&pack.root).ok_or_else(unreadable)?),
        day: pack.day,
        relay_address: pack.relay_address.clone(),
        relay_domain: pack.relay_domain.clone(),
        aliases: Vec::new(),
        rotation: Default::default(),
        pad: None,
    };
    let (host, _crew) = person.host();
    let options = HolderOptions {
        passphrase_cost: PassphraseCost::LEAST,
        ..HolderOptions::default()
    };
    host.disk
        .create_dir_all(&person_dir())
        .map_err(|error| error.to_string())?;
    HolderFiles::create(
        &host.disk,
        &person_dir(),
        &issue,
        &passphrase(),
        &options,
        &host.entropy,
    )
    .map_err(|error| error.to_string())?;
    Ok(pack.identifier)
}

/// The text of a message as it is sent, the final dot included.
fn compose(number: usize, from: &str, to: &[String], size: usize) -> Vec<u8> {
    let to = to.join(">, <");
    let mut text = format!("From: <{from}>\r\nTo: <{to}>\r\nSubject: {}\r\n\r\n", token(number));
    while text.len() < size {
        text.push_str("..a line that begins with a dot and has nothing to say, as lines do\r\n");
    }
    text.push_str(&format!("{}\r\n.\r\n", token(number)));
    text.into_bytes()
}

/// What a message is known by.
pub(crate) fn token(number: usize) -> String {
    format!("token-{number}-end")
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
