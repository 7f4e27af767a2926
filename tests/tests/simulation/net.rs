//! A network in memory: delays, short writes, cuts, silence, partitions.
//!
//! A connection is two pipes. Whoever writes puts octets into one with the time at which they arrive, in order. What a
//! machine sends after its power went never leaves it.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use keypacks::CELL;
use mailbox::disk::MemoryDisk;
use smtp_bridge::net::system::SILENCE_MAX;
use smtp_bridge::net::{BoxStream, Listener, Net, Promise, Source};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use crate::random::{Random, digest};
use crate::trace::Trace;

/// Octets on their way in one direction; a writer waits for room.
const WINDOW: usize = 64 * 1024;
/// How long a dial waits for an answer that does not come, as TCP does.
const DIAL_MAX: Duration = Duration::from_secs(127);
/// Port of the link server: what passes there is looked at as cells.
pub(crate) const LINK_PORT: u16 = 7_000;

/// All machines' network. Clones share it.
#[derive(Clone)]
pub(crate) struct Network(Arc<Mutex<State>>);

struct State {
    trace: Trace,
    random: Random,
    seed: u64,
    /// Most delay of a write, in microseconds.
    delay_max: u64,
    listeners: BTreeMap<Door, mpsc::UnboundedSender<(BoxStream, Source)>>,
    flows: BTreeMap<u64, Flow>,
    /// Connections that each machine has dialled, and their chances: its own, so that the order in which machines dial
    /// changes none of them.
    dialled: BTreeMap<IpAddr, (u64, Random)>,
    /// Pairs of machines that do not hear each other.
    apart: BTreeSet<(IpAddr, IpAddr)>,
    disks: BTreeMap<IpAddr, MemoryDisk>,
    /// Dials until one fails.
    dial_flaw: Option<u64>,
    dials: u64,
    wire: Wire,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Door {
    Port(SocketAddr),
    Path(IpAddr, PathBuf),
}

/// A connection: its client is side 0, its server side 1.
struct Flow {
    ends: [IpAddr; 2],
    port: u16,
    /// Of its own, so that the order in which connections are served changes none of them.
    random: Random,
    pipes: [Pipe; 2],
    /// Sides that are gone without a word; nothing comes from them any more.
    silent: [bool; 2],
    is_open: [bool; 2],
}

/// What one side wrote and the other has not read; pipe `n` is written by side `n`.
#[derive(Default)]
struct Pipe {
    parts: VecDeque<(Instant, Vec<u8>)>,
    octets: usize,
    last: Option<Instant>,
    end: Option<Instant>,
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    cell: Vec<u8>,
}

impl Pipe {
    fn wake(&mut self) {
        for waker in self.reader.take().into_iter().chain(self.writer.take()) {
            waker.wake();
        }
    }
}

/// What an observer of all links has seen.
#[derive(Default)]
pub(crate) struct Wire {
    cells: HashSet<[u8; CELL_DIGEST]>,
    /// Links by the tag in their first cell: cells down the line, of the connection that brought most.
    tags: BTreeMap<[u8; 16], BTreeMap<u64, u64>>,
    /// Whole third cells that reached the relay.
    pub(crate) third_cells: u64,
    /// Links on which the relay said more than its handshake's one cell.
    pub(crate) answered: u64,
}

const CELL_DIGEST: usize = 16;

impl Network {
    pub(crate) fn new(trace: Trace, mut random: Random) -> Self {
        let seed = random.next();
        Network(Arc::new(Mutex::new(State {
            trace,
            random,
            seed,
            delay_max: 2_000,
            listeners: BTreeMap::new(),
            flows: BTreeMap::new(),
            dialled: BTreeMap::new(),
            apart: BTreeSet::new(),
            disks: BTreeMap::new(),
            dial_flaw: None,
            dials: 0,
            wire: Wire::default(),
        })))
    }

    /// A machine's view of it.
    pub(crate) fn card(&self, ip: IpAddr, disk: Option<MemoryDisk>) -> Card {
        if let Some(disk) = disk {
            self.lock().disks.insert(ip, disk);
        }
        Card {
            network: self.clone(),
            ip,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_delay_max(&self, micros: u64) {
        self.lock().delay_max = micros;
    }

    /// Lets two machines no longer hear each other; what is on its way waits, as TCP sends it again.
    pub(crate) fn part(&self, one: IpAddr, other: IpAddr) {
        self.lock().apart.insert((one.min(other), one.max(other)));
    }

    /// Ends all partitions.
    pub(crate) fn heal(&self) {
        let mut state = self.lock();
        state.apart.clear();
        for flow in state.flows.values_mut() {
            flow.pipes.iter_mut().for_each(Pipe::wake);
        }
    }

    /// Lets the `n`-th dial from now (0: the next one) fail.
    pub(crate) fn fail_dial(&self, n: u64) {
        self.lock().dial_flaw = Some(n);
    }

    /// Dials between machines so far.
    pub(crate) fn dials(&self) -> u64 {
        self.lock().dials
    }

    /// Cuts one connection between machines: both ends are told, or neither.
    pub(crate) fn cut_one(&self, is_silent: bool) {
        let mut state = self.lock();
        let between = |flow: &Flow| flow.ends[0] != flow.ends[1] && flow.is_open[0] && flow.is_open[1];
        let open: Vec<u64> = state
            .flows
            .iter()
            .filter(|(_, flow)| between(flow))
            .map(|(name, _)| *name)
            .collect();
        if open.is_empty() {
            return;
        }
        let chosen = open[state.random.below(open.len() as u64) as usize];
        state.trace.note(format!("cut connection {chosen}, silent {is_silent}"));
        let Some(flow) = state.flows.get_mut(&chosen) else {
            return;
        };
        if is_silent {
            flow.silent = [true; 2];
            self.give_up(vec![chosen]);
        } else {
            flow.pipes.iter_mut().for_each(|pipe| pipe.reset = true);
        }
        flow.pipes.iter_mut().for_each(Pipe::wake);
    }

    /// A machine's processes are gone. After a power cut the others hear nothing, until they send something to the
    /// machine when it is up again; otherwise its system closes their connections.
    pub(crate) fn gone(&self, ip: IpAddr, is_silent: bool) {
        let mut state = self.lock();
        let mut silent = Vec::new();
        for (name, flow) in &mut state.flows {
            for side in 0..2 {
                if flow.ends[side] != ip || !flow.is_open[side] {
                    continue;
                }
                flow.is_open[side] = false;
                if is_silent && flow.ends[1 - side] != ip {
                    flow.silent[side] = true;
                    silent.push(*name);
                } else {
                    flow.pipes.iter_mut().for_each(|pipe| pipe.reset = true);
                }
            }
            flow.pipes.iter_mut().for_each(Pipe::wake);
        }
        state.listeners.retain(|door, _| match door {
            Door::Port(at) => at.ip() != ip,
            Door::Path(machine, _) => *machine != ip,
        });
        self.give_up(silent);
    }

    /// Whoever is left at the end of a connection that went silent is told so by its system in the end.
    fn give_up(&self, silent: Vec<u64>) {
        let network = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SILENCE_MAX).await;
            for name in silent {
                if let Some(flow) = network.lock().flows.get_mut(&name) {
                    flow.pipes.iter_mut().for_each(|pipe| pipe.reset = true);
                    flow.pipes.iter_mut().for_each(Pipe::wake);
                }
            }
        });
    }

    /// Looks at what an observer of all links saw.
    pub(crate) fn wire<T>(&self, look: impl FnOnce(&Wire) -> T) -> T {
        look(&self.lock().wire)
    }

    async fn dial(&self, from: IpAddr, door: Door) -> io::Result<BoxStream> {
        let to = match &door {
            Door::Port(at) => at.ip(),
            Door::Path(machine, _) => *machine,
        };
        let fails = {
            let mut state = self.lock();
            state.dials += u64::from(from != to);
            match &mut state.dial_flaw {
                Some(0) if from != to => {
                    state.dial_flaw = None;
                    true
                }
                Some(left) if from != to => {
                    *left -= 1;
                    false
                }
                _ => false,
            }
        };
        if fails {
            self.lock().trace.note(format!("a dial of {from} fails"));
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let start = Instant::now();
        while self.lock().apart.contains(&(from.min(to), from.max(to))) || self.is_off(to) {
            if start.elapsed() > DIAL_MAX {
                return Err(io::ErrorKind::TimedOut.into());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let (name, mut random, delay) = {
            let mut state = self.lock();
            let micros_max = state.delay_max.max(100);
            let (name, random) = state.dialling(from);
            (
                name,
                random.fork(),
                Duration::from_micros(random.between(100, micros_max)),
            )
        };
        if from != to {
            tokio::time::sleep(delay).await;
        }
        let mut state = self.lock();
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let port = match &door {
            Door::Port(at) => at.port(),
            Door::Path(..) => 0,
        };
        let Some(listener) = state.listeners.get(&door).cloned() else {
            state.trace.note(format!("{from} refused at {to}:{port}"));
            return Err(refused());
        };
        let random = random.fork();
        state.flows.insert(
            name,
            Flow {
                random,
                ends: [from, to],
                port,
                pipes: Default::default(),
                silent: [false; 2],
                is_open: [true; 2],
            },
        );
        state
            .trace
            .note(format!("connection {name} from {from} to {to}:{port}"));
        drop(state);
        let end = |side| {
            Box::new(End {
                network: self.clone(),
                name,
                side,
                alarm: None,
            })
        };
        let source = match door {
            Door::Port(_) => Source::from(from),
            Door::Path(..) => Source::LOCAL,
        };
        let (client, server) = (end(0), end(1));
        listener.send((server, source)).map_err(|_| refused())?;
        Ok(client)
    }

    fn is_off(&self, ip: IpAddr) -> bool {
        self.lock().disks.get(&ip).is_some_and(MemoryDisk::is_off)
    }

    fn listen(&self, door: Door) -> io::Result<Box<dyn Listener>> {
        let mut state = self.lock();
        // A dead socket in the file system is replaced; a port is not.
        if state.listeners.contains_key(&door) && matches!(door, Door::Port(_)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, queue) = mpsc::unbounded_channel();
        state.listeners.insert(door.clone(), sender.clone());
        Ok(Box::new(Ear {
            network: self.clone(),
            door,
            sender,
            queue,
        }))
    }
}

impl State {
    /// A name for the next connection of a machine, and the machine's chances.
    fn dialling(&mut self, from: IpAddr) -> (u64, &mut Random) {
        let State { dialled, seed, .. } = self;
        let (count, random) = dialled.entry(from).or_insert_with(|| {
            let number = digest(from.to_string().as_bytes());
            (number % 1_000 * 1_000_000, Random::new(*seed ^ number))
        });
        *count += 1;
        (*count, random)
    }
}

impl Flow {
    /// Draws how long something takes on its way.
    fn delay(&mut self, micros_max: u64) -> Duration {
        if self.ends[0] == self.ends[1] {
            return Duration::ZERO;
        }
        Duration::from_micros(self.random.between(100, micros_max.max(100)))
    }
}

/// One machine's sockets.
pub(crate) struct Card {
    network: Network,
    ip: IpAddr,
}

impl Net for Card {
    fn dial(&self, to: SocketAddr) -> Promise<'_, io::Result<BoxStream>> {
        Box::pin(self.network.dial(self.ip, Door::Port(to)))
    }

    fn listen(&self, at: SocketAddr) -> Promise<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move { self.network.listen(Door::Port(at)) })
    }

    fn dial_local<'a>(&'a self, path: &'a Path) -> Promise<'a, io::Result<BoxStream>> {
        Box::pin(self.network.dial(self.ip, Door::Path(self.ip, path.to_owned())))
    }

    fn listen_local<'a>(&'a self, path: &'a Path) -> Promise<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move { self.network.listen(Door::Path(self.ip, path.to_owned())) })
    }
}

struct Ear {
    network: Network,
    door: Door,
    sender: mpsc::UnboundedSender<(BoxStream, Source)>,
    queue: mpsc::UnboundedReceiver<(BoxStream, Source)>,
}

impl Listener for Ear {
    fn accept(&mut self) -> Promise<'_, io::Result<(BoxStream, Source)>> {
        Box::pin(async move {
            let next = self.queue.recv().await;
            next.ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
        })
    }

    fn address(&self) -> Option<SocketAddr> {
        match self.door {
            Door::Port(at) => Some(at),
            Door::Path(..) => None,
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut state = self.network.lock();
        let is_own = |sender: &mpsc::UnboundedSender<_>| sender.same_channel(&self.sender);
        if state.listeners.get(&self.door).is_some_and(is_own) {
            state.listeners.remove(&self.door);
        }
    }
}

/// One end of a connection.
struct End {
    network: Network,
    name: u64,
    side: usize,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl End {
    /// Wakes the reader when the next part arrives.
    fn wait(&mut self, until: Instant, cx: &mut Context<'_>) -> bool {
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if alarm.deadline() != until {
            alarm.as_mut().reset(until);
        }
        alarm.as_mut().poll(cx).is_ready()
    }
}

impl AsyncRead for End {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let arrives = {
                let mut state = self.network.lock();
                let state = &mut *state;
                let Some(flow) = state.flows.get_mut(&self.name) else {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                };
                let [one, other] = flow.ends;
                let is_apart = state.apart.contains(&(one.min(other), one.max(other)));
                let pipe = &mut flow.pipes[1 - self.side];
                if pipe.reset {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                pipe.reader = Some(cx.waker().clone());
                let Some(arrives) = pipe.parts.front().map(|part| part.0).or(pipe.end) else {
                    return Poll::Pending;
                };
                if is_apart {
                    return Poll::Pending;
                }
                if arrives <= Instant::now() {
                    let Some((_, part)) = pipe.parts.front_mut() else {
                        return Poll::Ready(Ok(()));
                    };
                    let taken = part.len().min(out.remaining());
                    out.put_slice(&part[..taken]);
                    part.drain(..taken);
                    if part.is_empty() {
                        pipe.parts.pop_front();
                    }
                    pipe.octets -= taken;
                    if let Some(writer) = pipe.writer.take() {
                        writer.wake();
                    }
                    return Poll::Ready(Ok(()));
                }
                arrives
            };
            if !self.wait(arrives, cx) {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.network.lock();
        let state = &mut *state;
        let Some(flow) = state.flows.get_mut(&self.name) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let (side, ends) = (self.side, flow.ends);
        // The machine lost its power within this very step: what it says now is not heard.
        if state.disks.get(&ends[side]).is_some_and(MemoryDisk::is_off) {
            return Poll::Pending;
        }
        if flow.pipes[side].reset || flow.pipes[side].end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let peer_is_off = state.disks.get(&ends[1 - side]).is_some_and(MemoryDisk::is_off);
        if flow.silent[1 - side] && !flow.silent[side] && !peer_is_off {
            // The machine is up again and knows nothing of this connection.
            flow.pipes.iter_mut().for_each(|pipe| pipe.reset = true);
            flow.pipes.iter_mut().for_each(Pipe::wake);
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if !flow.is_open[1 - side] && !flow.silent[1 - side] {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW - flow.pipes[side].octets;
        if room == 0 {
            flow.pipes[side].writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut taken = octets.len().min(room);
        if taken > 1 && flow.random.percent(10) {
            taken = flow.random.between(1, taken as u64) as usize;
        }
        let delay = flow.delay(state.delay_max);
        let is_swallowed = flow.silent[1 - side] || flow.silent[side];
        let pipe = &mut flow.pipes[side];
        let arrives = (Instant::now() + delay).max(pipe.last.unwrap_or_else(Instant::now));
        pipe.last = Some(arrives);
        pipe.octets += taken;
        if !is_swallowed {
            pipe.parts.push_back((arrives, octets[..taken].to_vec()));
            if let Some(reader) = pipe.reader.take() {
                reader.wake();
            }
        }
        state.trace.note(format!(
            "{}.{side} {taken} octets {:016x}",
            self.name,
            digest(&octets[..taken])
        ));
        if flow.port == LINK_PORT {
            state.wire.pass(self.name, side, pipe, &octets[..taken], &state.trace);
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.network.lock().end(self.name, self.side);
        Poll::Ready(Ok(()))
    }
}

impl State {
    /// Says that no more comes from this side.
    fn end(&mut self, name: u64, side: usize) {
        let Some(flow) = self.flows.get_mut(&name) else { return };
        if flow.silent[side] || self.disks.get(&flow.ends[side]).is_some_and(MemoryDisk::is_off) {
            return;
        }
        let last = flow.pipes[side].last.unwrap_or_else(Instant::now);
        let arrives = (Instant::now() + flow.delay(self.delay_max)).max(last);
        let pipe = &mut flow.pipes[side];
        pipe.end.get_or_insert(arrives);
        pipe.wake();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.network.lock();
        let side = self.side;
        if state.flows.get(&self.name).is_none_or(|flow| !flow.is_open[side]) {
            state.forget(self.name);
            return;
        }
        state.end(self.name, side);
        let Some(flow) = state.flows.get_mut(&self.name) else {
            return;
        };
        flow.is_open[side] = false;
        // As TCP has it: closing on octets that nobody read resets the connection.
        if flow.pipes[1 - side].octets > 0 && !flow.silent[side] {
            flow.pipes[side].reset = true;
        }
        flow.pipes.iter_mut().for_each(Pipe::wake);
        state.trace.note(format!("{}.{side} closed", self.name));
        state.forget(self.name);
    }
}

impl State {
    /// Drops what neither side holds any more.
    fn forget(&mut self, name: u64) {
        if self.flows.get(&name).is_some_and(|flow| flow.is_open == [false; 2]) {
            let flow = self.flows.remove(&name);
            if let Some(mut flow) = flow {
                flow.pipes.iter_mut().for_each(Pipe::wake);
            }
        }
    }
}

impl Wire {
    /// Cuts what passes on a link into cells and looks for repetitions.
    fn pass(&mut self, name: u64, side: usize, pipe: &mut Pipe, octets: &[u8], trace: &Trace) {
        let mut rest = octets;
        while !rest.is_empty() {
            let step = (CELL - pipe.cell.len() % CELL).min(rest.len());
            pipe.cell.extend_from_slice(&rest[..step]);
            rest = &rest[step..];
            if pipe.cell.len().is_multiple_of(CELL) {
                let number = pipe.cell.len() / CELL;
                let cell = &pipe.cell[pipe.cell.len() - CELL..];
                self.cell(name, side, number, cell, trace);
                // Only the length goes on counting.
                if number > 1 {
                    pipe.cell.truncate(2 * CELL);
                }
            }
        }
    }

    fn cell(&mut self, name: u64, side: usize, number: usize, cell: &[u8], trace: &Trace) {
        let mut short = [0; CELL_DIGEST];
        short[..8].copy_from_slice(&digest(cell).to_le_bytes());
        short[8..].copy_from_slice(&digest(&cell[CELL / 2..]).to_le_bytes());
        if !self.cells.insert(short) {
            trace.fault(format!(
                "a cell came twice on the links, the second time on connection {name}"
            ));
        }
        let tag = *cell.first_chunk::<16>().expect("a cell is longer than a tag");
        match (side, number) {
            (0, 1) => {
                self.tags.entry(tag).or_default().insert(name, 0);
            }
            (0, 2) => self.third_cells += 1,
            (1, 2) => {
                self.answered += 1;
                for connections in self.tags.values_mut() {
                    if let Some(cells) = connections.get_mut(&name) {
                        *cells = 2;
                        if connections.values().filter(|cells| **cells > 1).count() > 1 {
                            trace.fault("two links stood under one key".to_owned());
                        }
                    }
                }
            }
            _ => {}
        }
    }
}
