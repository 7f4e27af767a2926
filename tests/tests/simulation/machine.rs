//! A machine: an address, a disk, and one process that can end at any point.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mailbox::disk::{Disk, MemoryDisk};
use mailbox::entropy::SeededEntropy;
use smtp_bridge::net::{Clock, Host, NoNames, Promise, Resolver, Workers};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::net::Network;
use crate::random::Random;
use crate::trace::Trace;

/// The wall clock when a run begins, in seconds since 1970: a quarter of an hour before midnight UTC.
const EPOCH: u64 = 1_800_000_000 - 1_800_000_000 % 86_400 + 86_400 - 900;

/// What runs on a machine: started again whenever it has ended.
pub(crate) type Program = Arc<dyn Fn(Host, watch::Sender<bool>) -> Promise<'static, Result<(), String>> + Send + Sync>;

/// How a process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The process is killed: what it wrote stays, synced or not.
    Kill,
    /// The machine loses its power: what was not synced may be lost, and nobody is told.
    PowerCut,
    /// The process is asked to stop.
    Stop,
}

/// See the module.
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    pub(crate) ip: IpAddr,
    pub(crate) disk: MemoryDisk,
    network: Network,
    trace: Trace,
    random: Random,
    program: Program,
    process: Option<Process>,
    /// Times at which a process ended.
    pub(crate) ends: Vec<Duration>,
}

struct Process {
    crew: Arc<Crew>,
    stop: watch::Sender<bool>,
    over: watch::Receiver<bool>,
}

impl Machine {
    pub(crate) fn new(
        name: &'static str,
        ip: IpAddr,
        network: &Network,
        trace: &Trace,
        random: Random,
        program: Program,
    ) -> Self {
        Machine {
            name,
            ip,
            disk: MemoryDisk::forgetful(),
            network: network.clone(),
            trace: trace.clone(),
            random,
            program,
            process: None,
            ends: Vec::new(),
        }
    }

    /// A host on this machine, for a process of it or a command beside it.
    pub(crate) fn host(&mut self) -> (Host, Arc<Crew>) {
        let crew = Arc::new(Crew {
            tasks: Mutex::new(Some(JoinSet::new())),
        });
        let host = Host {
            net: Arc::new(self.network.card(self.ip, Some(self.disk.clone()))),
            resolver: Arc::new(Names),
            names: Arc::new(NoNames),
            clock: Arc::new(Wall(self.trace.clone())),
            entropy: Arc::new(SeededEntropy::new(self.random.next())),
            disk: Arc::new(self.disk.clone()) as Arc<dyn Disk>,
            workers: crew.clone(),
        };
        (host, crew)
    }

    pub(crate) fn start(&mut self) {
        self.trace.note(format!("{} starts", self.name));
        let (host, crew) = self.host();
        let (stop, _) = watch::channel(false);
        let (ended, over) = watch::channel(false);
        let run = (self.program)(host, stop.clone());
        let (trace, name) = (self.trace.clone(), self.name);
        crew.task(Box::pin(async move {
            match run.await {
                Ok(()) => trace.note(format!("{name} has stopped")),
                Err(error) => trace.note(format!("{name} ended: {error}")),
            }
            ended.send_replace(true);
        }));
        self.process = Some(Process { crew, stop, over });
    }

    /// Whether the process ended by itself.
    pub(crate) fn is_over(&self) -> bool {
        self.process.as_ref().is_none_or(|process| *process.over.borrow())
    }

    /// Ends the process. The machine is as after a restart, with nothing running.
    pub(crate) async fn end(&mut self, how: End) {
        self.trace.note(format!("{} ends: {how:?}", self.name));
        let Some(mut process) = self.process.take() else { return };
        if how == End::Stop {
            process.stop.send_replace(true);
            let stopped = process.over.wait_for(|over| *over);
            if tokio::time::timeout(Duration::from_secs(60), stopped).await.is_err() {
                self.trace
                    .fault(format!("{} was asked to stop and has not for a minute", self.name));
            }
        }
        if how == End::PowerCut {
            self.disk.power_off();
        }
        self.network.gone(self.ip, how == End::PowerCut);
        if process.crew.end().await {
            self.trace.fault(format!("a task of {} panicked", self.name));
        }
        self.ends.push(self.trace.now());
        if self.disk.is_off() {
            self.disk.restart(self.random.next());
        } else {
            self.disk.reopen();
        }
    }

    /// Ends the process for good; a sum over what is on the disk.
    pub(crate) async fn finish(&mut self) -> u64 {
        self.end(End::Stop).await;
        self.disk.fingerprint()
    }

    /// Starts a process again that ended by itself, as a service manager does; whether it did.
    pub(crate) async fn revive(&mut self) -> bool {
        let is_over = self.is_over();
        let is_off = self.disk.is_off();
        if is_over || is_off {
            self.end(if is_off { End::PowerCut } else { End::Kill }).await;
            self.start();
        }
        is_over || is_off
    }
}

/// The tasks of one process.
pub(crate) struct Crew {
    /// `None` once the process is gone.
    tasks: Mutex<Option<JoinSet<()>>>,
}

impl Crew {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<JoinSet<()>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops every task wherever it waits; whether one had panicked.
    async fn end(&self) -> bool {
        let Some(mut tasks) = self.lock().take() else {
            return false;
        };
        tasks.abort_all();
        let mut panicked = false;
        while let Some(ended) = tasks.join_next().await {
            panicked |= ended.is_err_and(|error| error.is_panic());
        }
        panicked
    }
}

impl Workers for Crew {
    fn task(&self, task: Promise<'static, ()>) {
        // What a dying task still starts is dropped with it.
        if let Some(tasks) = &mut *self.lock() {
            tasks.spawn(task);
        }
    }

    fn actor(&self, _name: &str, actor: Promise<'static, ()>) -> io::Result<()> {
        self.task(actor);
        Ok(())
    }

    fn compute(&self, work: Box<dyn FnOnce() + Send>) {
        self.task(Box::pin(async move { work() }));
    }
}

/// The machines' names.
struct Names;

/// Where mail for the outside world goes.
pub(crate) const SINK_NAME: &str = "out.example:25";
/// What the packs name as the relay.
pub(crate) const RELAY_NAME: &str = "relay.example:7000";

impl Resolver for Names {
    fn resolve<'a>(&'a self, target: &'a str) -> Promise<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let address = match target {
                SINK_NAME => SocketAddr::from((SINK, 25)),
                RELAY_NAME => SocketAddr::from((RELAY, crate::net::LINK_PORT)),
                other => other.parse().map_err(|_| io::Error::from(io::ErrorKind::NotFound))?,
            };
            Ok(vec![address])
        })
    }
}

pub(crate) const RELAY: [u8; 4] = [10, 0, 0, 1];
pub(crate) const PEOPLE: [[u8; 4]; 2] = [[10, 0, 1, 1], [10, 0, 2, 1]];
pub(crate) const SINK: [u8; 4] = [10, 0, 9, 1];
pub(crate) const OUTSIDE: [u8; 4] = [10, 0, 9, 2];

struct Wall(Trace);

impl Clock for Wall {
    fn unix_seconds(&self) -> u64 {
        EPOCH + self.0.now().as_secs()
    }
}

/// Waits until `done` says so; `false` if it has not within `most`.
pub(crate) async fn wait_until(most: Duration, mut done: impl AsyncFnMut() -> bool) -> bool {
    let start = Instant::now();
    while !done().await {
        if start.elapsed() > most {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    true
}
