//! Cover: the same number of cells in each direction at every tick, whether there is anything to send or not.
//!
//! ```text
//! LinkWriter -> Queued -> Pump, on its tick: what is queued, and PAD for the rest -> line
//! LinkReader <- Queued <- Intake, all the time: PAD is dropped                    <- line
//! ```
//!
//! A link that is covered has given its two halves to these. What is to be sent waits for its tick; whoever sends waits
//! while the queue is full. What comes in is taken off the line even while nobody asks for it, so that the other end's
//! ticks are not held up by what this one is busy with; that too ends where its queue is full.

use std::sync::Arc;
use std::time::Duration;

use keypacks::CELL;
use keypacks::cell::{Frame, Kind};
use mailbox::request::Rate;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use zeroize::{Zeroize, Zeroizing};

use super::LinkError;
use super::pace::{CELL_MAX, STILL_MAX};
use super::sealing::{Opening, Sealing};
use crate::net::Promise;

/// Cells that wait for their tick: 256 KiB.
const OUT_MAX: usize = 16;
/// Cells that came and nobody has asked for: more than a holder has requests under way, 1.5 MiB.
const IN_MAX: usize = 96;

/// A cell's content on its way between a half of a link and what has taken it over.
pub(super) struct Queued {
    kind: Kind,
    last: bool,
    stream: u32,
    data: Zeroizing<Vec<u8>>,
}

impl Queued {
    pub(super) fn of(frame: &Frame<'_>) -> Self {
        Queued {
            kind: frame.kind,
            last: frame.last,
            stream: frame.stream,
            data: Zeroizing::new(frame.data.to_vec()),
        }
    }

    pub(super) fn frame(&self) -> Frame<'_> {
        Frame {
            kind: self.kind,
            last: self.last,
            stream: self.stream,
            data: &self.data,
        }
    }
}

/// How far the cover of a link is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Both ends send at the rate.
    Covered,
    /// Nothing more is paid: the link goes on without.
    Uncovered,
    /// The link is over.
    Over,
}

/// What both halves of a covered link know.
pub struct Covering(watch::Sender<Phase>);

impl Covering {
    /// Of a link that is covered from now on.
    pub fn begin() -> Arc<Self> {
        Arc::new(Covering(watch::Sender::new(Phase::Covered)))
    }

    /// Where it is now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// What a cell may take: `covered` while it waits for ticks, and afterwards what it may on any link. Else a peer that paid
    /// for one period could hold the room of a large body at the slow rate for as long as the link stands.
    pub(super) fn cell_time(&self, covered: Duration) -> Duration {
        match self.phase() {
            Phase::Covered => covered,
            Phase::Uncovered | Phase::Over => CELL_MAX,
        }
    }

    /// Waits until the link is covered no more, and says which end that was.
    pub async fn ended(&self) -> Phase {
        let mut phases = self.0.subscribe();
        match phases.wait_for(|phase| *phase != Phase::Covered).await {
            Ok(phase) => *phase,
            Err(_) => Phase::Over,
        }
    }

    /// What is over stays so.
    fn turn(&self, next: Phase) {
        self.0.send_if_modified(|phase| {
            let turns = *phase != next && *phase != Phase::Over;
            if turns {
                *phase = next;
            }
            turns
        });
    }
}

/// What became of a payment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paid {
    /// A period more is paid for.
    Yes,
    /// The value does not cover it.
    Short,
    /// The store could not say: it is tried again.
    Later,
}

/// Who pays for cover at the relay's end.
pub trait Purse: Send {
    /// Pays for one period. A payment that nobody waits for any more is the purse's to keep for later.
    fn pay(&mut self) -> Promise<'static, Paid>;
    /// So many ticks were paid for, and will not come.
    fn unused(&mut self, ticks: u64);
}

/// Ticks that are paid for, ahead. The next period is paid when half of one is left.
pub struct Toll {
    purse: Box<dyn Purse>,
    period: u64,
    left: u64,
    /// Ticks that came while their payment was under way.
    owed: u64,
    paying: Option<Promise<'static, Paid>>,
    is_short: bool,
}

impl Toll {
    /// `left` ticks are paid for, and periods have `period` of them.
    pub fn new(purse: Box<dyn Purse>, period: u64, left: u64) -> Self {
        Toll {
            purse,
            period: period.max(1),
            left,
            owed: 0,
            paying: None,
            is_short: false,
        }
    }

    /// Waits for the payment under way; ends never if there is none. May be dropped and called again.
    async fn settled(&mut self) {
        let Some(paying) = &mut self.paying else {
            return std::future::pending().await;
        };
        let paid = paying.await;
        self.paying = None;
        match paid {
            Paid::Yes => {
                self.left += self.period.saturating_sub(self.owed);
                self.owed = 0;
            }
            Paid::Short => self.is_short = true,
            Paid::Later => {}
        }
    }

    /// Takes a tick; `false`: it is not paid for, and will not be.
    fn take(&mut self) -> bool {
        let is_paid = self.left > 0;
        self.left = self.left.saturating_sub(1);
        if self.left <= self.period / 2 && self.paying.is_none() && !self.is_short {
            self.paying = Some(self.purse.pay());
        }
        // A disk that is slow does not show on the line.
        let is_owed = !is_paid && self.paying.is_some() && self.owed < self.period;
        self.owed += u64::from(is_owed);
        is_paid || is_owed
    }
}

impl Drop for Toll {
    fn drop(&mut self) {
        self.purse.unused(self.left);
    }
}

/// Longest that a cell takes at a rate, for whoever waits for several: as on a slow line, or twice its share of a tick.
pub(super) fn cell_time(rate: Rate) -> Duration {
    let share = Duration::from_millis(rate.every_ms.into()) / u32::from(rate.cells.max(1));
    CELL_MAX.max(2 * share)
}

/// Bytes that a rate carries in a second, with half of it to spare.
pub fn bytes_per_second(rate: Rate) -> usize {
    let bytes = u64::from(rate.cells) * CELL as u64 * 500 / u64::from(rate.every_ms.max(1));
    usize::try_from(bytes).unwrap_or(usize::MAX).max(1)
}

/// The sending half, on its tick.
pub(super) struct Pump<W> {
    sink: W,
    sealer: Sealing,
    frames: mpsc::Receiver<Queued>,
    rate: Rate,
    covering: Arc<Covering>,
    toll: Option<Toll>,
    cells: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> Pump<W> {
    pub(super) fn new(
        (sink, sealer): (W, Sealing),
        rate: Rate,
        covering: Arc<Covering>,
        toll: Option<Toll>,
    ) -> (mpsc::Sender<Queued>, Self) {
        let (sender, frames) = mpsc::channel(OUT_MAX);
        let pump = Pump {
            sink,
            sealer,
            frames,
            rate,
            covering,
            toll,
            cells: Vec::new(),
        };
        (sender, pump)
    }

    /// Works until the link is over. Why it is shows where it is read.
    pub(super) async fn run(mut self) {
        if let Ok(true) = self.at_ticks().await {
            let _ = self.at_once().await;
        }
        self.covering.turn(Phase::Over);
    }

    /// Returns whether the link goes on without cover.
    async fn at_ticks(&mut self) -> Result<bool, LinkError> {
        // Ticks that were missed, while the line was full or the machine slept, are not made up for.
        let mut ticks = interval(Duration::from_millis(self.rate.every_ms.max(1).into()));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let toll = async {
                match &mut self.toll {
                    Some(toll) => toll.settled().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = toll => continue,
                _ = ticks.tick() => {}
            }
            if self.covering.phase() != Phase::Covered {
                return Ok(self.covering.phase() == Phase::Uncovered);
            }
            let is_paid = self.toll.as_mut().is_none_or(Toll::take);
            if !is_paid {
                self.seal(Frame::bare(Kind::Uncovered))?;
            }
            if self.tick()? {
                self.write().await?;
                self.sink.shutdown().await?;
                return Ok(false);
            }
            self.write().await?;
            if !is_paid {
                // A link without cover holds no place among those that have it.
                self.toll = None;
                self.covering.turn(Phase::Uncovered);
                return Ok(true);
            }
        }
    }

    /// Seals the cells of one tick behind what is sealed already; returns whether the last of them is CLOSE.
    fn tick(&mut self) -> Result<bool, LinkError> {
        let whole = usize::from(self.rate.cells) * CELL;
        let mut closes = false;
        while self.cells.len() < whole {
            let is_last = self.cells.len() + CELL >= whole;
            // Nothing follows a CLOSE: it takes the last place.
            if closes && !is_last {
                self.seal(Frame::bare(Kind::Pad))?;
                continue;
            }
            match (closes, self.frames.try_recv()) {
                (true, _) => self.seal(Frame::bare(Kind::Close))?,
                (false, Ok(queued)) if queued.kind == Kind::Close && !is_last => {
                    closes = true;
                    self.seal(Frame::bare(Kind::Pad))?;
                }
                (false, Ok(queued)) => {
                    closes = queued.kind == Kind::Close;
                    self.seal(queued.frame())?;
                }
                (false, Err(mpsc::error::TryRecvError::Empty)) => self.seal(Frame::bare(Kind::Pad))?,
                (false, Err(mpsc::error::TryRecvError::Disconnected)) => return Err(LinkError::Closed),
            }
        }
        Ok(closes)
    }

    /// Sends what there is as it comes.
    async fn at_once(&mut self) -> Result<(), LinkError> {
        while let Some(queued) = self.frames.recv().await {
            let mut closes = queued.kind == Kind::Close;
            self.seal(queued.frame())?;
            while !closes && let Ok(queued) = self.frames.try_recv() {
                closes = queued.kind == Kind::Close;
                self.seal(queued.frame())?;
                if self.cells.len() >= OUT_MAX * CELL {
                    break;
                }
            }
            self.write().await?;
            if closes {
                self.sink.shutdown().await?;
                break;
            }
        }
        Ok(())
    }

    fn seal(&mut self, frame: Frame<'_>) -> Result<(), LinkError> {
        let at = self.cells.len();
        self.cells.resize(at + CELL, 0);
        let cell = self.cells[at..]
            .first_chunk_mut::<CELL>()
            .expect("a cell was just added");
        self.sealer.seal(frame, false, cell)?;
        Ok(())
    }

    async fn write(&mut self) -> Result<(), LinkError> {
        let write = async {
            self.sink.write_all(&self.cells).await?;
            self.sink.flush().await
        };
        timeout(STILL_MAX, write).await.map_err(|_| LinkError::Timeout)??;
        self.cells.clear();
        Ok(())
    }
}

/// The receiving half, all the time.
pub(super) struct Intake<R> {
    source: R,
    opener: Opening,
    frames: mpsc::Sender<Result<Queued, LinkError>>,
    covering: Arc<Covering>,
    /// Whether the other end may say that nothing more is paid.
    is_holder: bool,
}

/// Where a reader finds what was taken in.
pub(super) type Taken = mpsc::Receiver<Result<Queued, LinkError>>;

impl<R: AsyncRead + Unpin> Intake<R> {
    pub(super) fn new((source, opener): (R, Opening), covering: Arc<Covering>, is_holder: bool) -> (Taken, Self) {
        let (frames, taken) = mpsc::channel(IN_MAX);
        let intake = Intake {
            source,
            opener,
            frames,
            covering,
            is_holder,
        };
        (taken, intake)
    }

    /// Works until the link is over.
    pub(super) async fn run(mut self) {
        let frames = self.frames.clone();
        tokio::select! {
            biased;
            () = frames.closed() => {}
            error = self.take_in() => {
                let _ = frames.send(Err(error)).await;
            }
        }
        self.covering.turn(Phase::Over);
    }

    async fn take_in(&mut self) -> LinkError {
        let mut cell = Box::new([0; CELL]);
        loop {
            if let Err(error) = self.fill(&mut cell).await {
                return error;
            }
            let Ok(frame) = self.opener.open(&mut cell) else {
                return LinkError::Broken;
            };
            let (kind, queued) = match frame.kind {
                Kind::Pad | Kind::Uncovered => (frame.kind, None),
                kind => (kind, Some(Queued::of(&frame))),
            };
            cell.zeroize();
            match kind {
                Kind::Pad => {}
                Kind::Uncovered if self.is_holder && self.covering.phase() == Phase::Covered => {
                    self.covering.turn(Phase::Uncovered);
                }
                Kind::Uncovered | Kind::Linked | Kind::Rotate | Kind::Rotated => return LinkError::Broken,
                Kind::Close => return LinkError::Closed,
                Kind::Request | Kind::Data | Kind::Answer | Kind::New => {}
            }
            if let Some(queued) = queued
                && self.frames.send(Ok(queued)).await.is_err()
            {
                return LinkError::Closed;
            }
        }
    }

    /// Reads a whole cell. While the link is covered something comes at every tick, or the other end is gone.
    async fn fill(&mut self, cell: &mut [u8; CELL]) -> Result<(), LinkError> {
        let mut filled = 0;
        while filled < CELL {
            match timeout(STILL_MAX, self.source.read(&mut cell[filled..])).await {
                Err(_) if self.covering.phase() == Phase::Covered => return Err(LinkError::Timeout),
                Err(_) => {}
                Ok(Ok(0)) => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => filled += count?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
