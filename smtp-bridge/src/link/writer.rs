//! Messages to cells.

use std::sync::Arc;
use std::time::Duration;

use keypacks::CELL;
use keypacks::cell::{self, Frame, Kind, padding};
use keypacks::pad;
use mailbox::request::Rate;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::LinkError;
use super::Sealing;
use super::cover::{Covering, Phase, Pump, Queued, Toll, cell_time};
use super::pace::{CELL_MAX, Pace, STILL_MAX};
use super::rotation::{Answering, Asking, Turned};
use crate::net::Promise;

/// Cells gathered before they are handed to the socket: a system call each would cost more than the seal.
const GATHERED_CELLS_MAX: usize = 16;

/// A message to be sent.
pub struct Outgoing<'a> {
    /// Request or Answer.
    pub kind: Kind,
    /// Stream that the message is on.
    pub stream: u32,
    /// The header's bytes, which fit one cell.
    pub header: &'a [u8],
    /// The body; empty where there is none.
    pub body: &'a [u8],
}

/// What a burst takes of a pad, where nothing of it is sealed already.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct PadCost {
    /// Records, one for each cell, those that fill the burst up too.
    pub records: u64,
    /// Body bytes.
    pub bytes: u64,
}

/// What a burst of messages takes, each of so many bytes of header and body.
pub fn pad_cost(messages: impl IntoIterator<Item = usize>) -> PadCost {
    let (mut cells, mut bytes) = (0, 0);
    for length in messages {
        cells += (2 + length).div_ceil(pad::DATA_MAX);
        bytes += 2 + length as u64;
    }
    PadCost {
        records: (cells + padding(cells)) as u64,
        bytes,
    }
}

/// The sending half of a link.
pub struct LinkWriter<W> {
    to: To<W>,
    /// Whether the body under way is sealed already.
    is_sealed: bool,
    gathered: Vec<u8>,
    is_paced: bool,
    pace: Pace,
    /// What a cell may take.
    cell_time: Duration,
    keys: Keys,
    /// Cells of the burst so far, without those that are the last under a key.
    burst: usize,
}

/// Where cells go.
enum To<W> {
    /// The line itself.
    Line { sink: W, sealer: Sealing },
    /// What has taken the line over, and seals them.
    Pump(mpsc::Sender<Queued>, Arc<Covering>),
}

/// How the link comes to its next keys.
enum Keys {
    /// There is one for the whole connection.
    One,
    /// The holder's end.
    Asking(Box<Asking>),
    /// The relay's end.
    Answering(Box<Answering>),
}

impl<W: AsyncWrite + Unpin + Send + 'static> LinkWriter<W> {
    /// Hands the line over to what sends at this rate from now on, which is returned: to be run beside. Between messages
    /// alone, and not where the link goes on under new keys. `None`: it was handed over before. `toll`: at the relay's end,
    /// who pays.
    pub fn cover(&mut self, rate: Rate, covering: Arc<Covering>, toll: Option<Toll>) -> Option<Promise<'static, ()>> {
        if self.turns() || matches!(self.to, To::Pump(..)) {
            return None;
        }
        let (nobody, _) = mpsc::channel(1);
        let To::Line { sink, sealer } = std::mem::replace(&mut self.to, To::Pump(nobody, Arc::clone(&covering))) else {
            return None;
        };
        let (frames, pump) = Pump::new((sink, sealer), rate, Arc::clone(&covering), toll);
        self.to = To::Pump(frames, covering);
        self.cell_time = cell_time(rate);
        Some(Box::pin(pump.run()))
    }
}

impl<W: AsyncWrite + Unpin> LinkWriter<W> {
    /// The sending half over `sink`.
    pub fn new(sink: W, sealer: impl Into<Sealing>) -> Self {
        LinkWriter {
            to: To::Line {
                sink,
                sealer: sealer.into(),
            },
            cell_time: CELL_MAX,
            is_sealed: false,
            gathered: Vec::new(),
            is_paced: false,
            pace: Pace::begin(false),
            keys: Keys::One,
            burst: 0,
        }
    }

    /// The same, for a holder's link that goes on under new keys.
    #[must_use]
    pub fn asking(self, asking: Asking) -> Self {
        LinkWriter {
            keys: Keys::Asking(Box::new(asking)),
            ..self
        }
    }

    /// The same, for a relay's link that goes on under new keys.
    #[must_use]
    pub fn answering(self, answering: Answering) -> Self {
        LinkWriter {
            keys: Keys::Answering(Box::new(answering)),
            ..self
        }
    }

    /// The same, giving up a peer that takes a message too slowly ([`STILL_MAX`](super::STILL_MAX)).
    #[must_use]
    pub fn paced(self) -> Self {
        LinkWriter { is_paced: true, ..self }
    }

    /// Sends a message as one burst, padded to a power of two of cells. To be awaited to its end.
    pub async fn send(&mut self, message: &Outgoing<'_>) -> Result<(), LinkError> {
        self.send_burst(std::slice::from_ref(message)).await
    }

    /// Sends a message whose body opens by a key of its own: under a pad it is not masked again.
    pub async fn send_sealed(&mut self, message: &Outgoing<'_>) -> Result<(), LinkError> {
        self.is_sealed = true;
        let sent = self.send(message).await;
        self.is_sealed = false;
        sent
    }

    /// Whether it goes on under new keys.
    pub fn turns(&self) -> bool {
        !matches!(self.keys, Keys::One)
    }

    /// Records and bytes of a pad that may be used now; `None`: this link has no such bound.
    pub fn room(&self) -> Option<(u64, u64)> {
        match &self.to {
            To::Line { sealer, .. } => sealer.room(),
            To::Pump(..) => None,
        }
    }

    /// Sends messages as one burst, padded to a power of two of cells. To be awaited to its end.
    pub async fn send_burst(&mut self, messages: &[Outgoing<'_>]) -> Result<(), LinkError> {
        self.begin_burst();
        for message in messages {
            self.seal_message(message).await?;
        }
        // At a rate there are no bursts.
        while !self.is_covered() && !self.burst.is_power_of_two() {
            self.seal(Frame::bare(Kind::Pad)).await?;
        }
        self.flush().await
    }

    /// For a holder: ends when the relay may be holding an answer back until it is asked for the next keys. Ends never
    /// where there are none.
    pub async fn turn_wanted(&self) {
        match &self.keys {
            Keys::Asking(asking) => asking.wanted().await,
            _ => std::future::pending().await,
        }
    }

    /// For a holder: asks for the next keys now, in a burst of its own. To be awaited to its end.
    pub async fn turn_now(&mut self) -> Result<(), LinkError> {
        self.begin_burst();
        self.rotate().await?;
        self.flush().await
    }

    /// For a relay: the keys that its reader turned to. Ends never where there are none. May be dropped and called again.
    pub async fn next_turn(&mut self) -> Turned {
        if let Keys::Answering(answering) = &mut self.keys
            && let Some(turned) = answering.next().await
        {
            return turned;
        }
        std::future::pending().await
    }

    /// For a relay: says that it goes on under these. To be awaited to its end.
    pub async fn send_turn(&mut self, turned: Turned) -> Result<(), LinkError> {
        self.begin_burst();
        self.put_rotated(turned)?;
        self.flush().await
    }

    fn is_covered(&self) -> bool {
        matches!(&self.to, To::Pump(_, covering) if covering.phase() == Phase::Covered)
    }

    fn begin_burst(&mut self) {
        self.pace = Pace::begin(self.is_paced);
        self.burst = 0;
    }

    async fn seal_message(&mut self, message: &Outgoing<'_>) -> Result<(), LinkError> {
        let data_max = match &self.to {
            To::Line { sealer, .. } => sealer.data_max(),
            To::Pump(..) => cell::DATA_MAX,
        };
        let first = data_max - 2 - message.header.len();
        let (start, mut rest) = message.body.split_at(first.min(message.body.len()));
        let length = u16::try_from(message.header.len()).expect("a header fits one cell");
        let mut data = Zeroizing::new(Vec::with_capacity(2 + message.header.len() + start.len()));
        data.extend_from_slice(&length.to_le_bytes());
        data.extend_from_slice(message.header);
        data.extend_from_slice(start);
        self.seal(Frame {
            kind: message.kind,
            last: rest.is_empty(),
            stream: message.stream,
            data: &data,
        })
        .await?;
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(rest.len().min(data_max));
            rest = behind;
            self.seal(Frame {
                kind: Kind::Data,
                last: rest.is_empty(),
                stream: message.stream,
                data: part,
            })
            .await?;
        }
        Ok(())
    }

    /// Sends one of the link's own cells, Linked or New.
    pub async fn send_bare(&mut self, kind: Kind, data: &[u8]) -> Result<(), LinkError> {
        self.begin_burst();
        self.seal(Frame {
            kind,
            last: true,
            stream: 0,
            data,
        })
        .await?;
        self.flush().await
    }

    /// Says that nothing follows in this direction, and ends the stream.
    pub async fn close(&mut self) -> Result<(), LinkError> {
        self.begin_burst();
        self.seal(Frame {
            kind: Kind::Close,
            last: true,
            stream: 0,
            data: &[],
        })
        .await?;
        self.flush().await?;
        match &mut self.to {
            To::Line { sink, .. } => sink.shutdown().await?,
            To::Pump(frames, _) => timeout(STILL_MAX, frames.closed())
                .await
                .map_err(|_| LinkError::Timeout)?,
        }
        Ok(())
    }

    async fn seal(&mut self, frame: Frame<'_>) -> Result<(), LinkError> {
        self.turn(frame.kind).await?;
        self.put(frame).await
    }

    /// What comes before a cell of this kind: the last cell under the key in use, if it is over.
    async fn turn(&mut self, kind: Kind) -> Result<(), LinkError> {
        match &mut self.keys {
            Keys::One => Ok(()),
            Keys::Asking(asking) if kind != Kind::Close && asking.is_due() => self.rotate().await,
            Keys::Asking(_) => Ok(()),
            Keys::Answering(answering) => {
                if let Some(turned) = answering.waiting() {
                    return self.put_rotated(turned);
                }
                if !matches!(kind, Kind::Answer | Kind::Data) || !answering.must_wait()? {
                    return Ok(());
                }
                self.flush().await?;
                let Keys::Answering(answering) = &mut self.keys else {
                    return Ok(());
                };
                let next = async { answering.next().await.ok_or(LinkError::Closed) };
                let turned = self.pace.wait(next).await?;
                self.put_rotated(turned)
            }
        }
    }

    /// The holder's last cell under the key in use.
    async fn rotate(&mut self) -> Result<(), LinkError> {
        // What waits leaves first: the relay turns when it comes to the ROTATE before.
        self.flush().await?;
        let Keys::Asking(asking) = &mut self.keys else {
            return Ok(());
        };
        self.pace.wait(asking.settled()).await?;
        let (data, sealer) = asking.take().await?;
        self.append(Frame {
            data: &data,
            ..Frame::bare(Kind::Rotate)
        })?;
        self.seal_with(sealer);
        Ok(())
    }

    /// The relay's last cell under the key in use.
    fn put_rotated(&mut self, turned: Turned) -> Result<(), LinkError> {
        self.append(Frame {
            data: &turned.index.to_le_bytes(),
            ..Frame::bare(Kind::Rotated)
        })?;
        self.seal_with(turned.sealer);
        if let Keys::Answering(answering) = &mut self.keys {
            answering.turned();
        }
        Ok(())
    }

    fn seal_with(&mut self, next: cell::Sealer) {
        if let To::Line { sealer, .. } = &mut self.to {
            *sealer = next.into();
        }
    }

    async fn put(&mut self, frame: Frame<'_>) -> Result<(), LinkError> {
        if let To::Pump(frames, covering) = &self.to {
            let queued = async { frames.send(Queued::of(&frame)).await.map_err(|_| LinkError::Closed) };
            self.pace.wait(queued).await?;
            self.pace.passed(1, covering.cell_time(self.cell_time));
            self.burst += 1;
            return Ok(());
        }
        self.append(frame)?;
        if self.gathered.len() >= GATHERED_CELLS_MAX * CELL {
            self.flush().await
        } else {
            Ok(())
        }
    }

    fn append(&mut self, frame: Frame<'_>) -> Result<(), LinkError> {
        match &mut self.keys {
            Keys::One => {}
            Keys::Asking(asking) => asking.sealed(frame.kind),
            Keys::Answering(answering) => answering.sealed(),
        }
        self.burst += usize::from(!matches!(frame.kind, Kind::Rotate | Kind::Rotated));
        let at = self.gathered.len();
        self.gathered.resize(at + CELL, 0);
        let cell = self.gathered[at..]
            .first_chunk_mut::<CELL>()
            .expect("a cell was just added");
        let is_sealed = self.is_sealed && matches!(frame.kind, Kind::Answer | Kind::Data);
        let sealed = match &mut self.to {
            To::Line { sealer, .. } => sealer.seal(frame, is_sealed, cell).map_err(LinkError::from),
            To::Pump(..) => Err(LinkError::NoKey),
        };
        if sealed.is_err() {
            self.gathered.truncate(at);
        }
        sealed
    }

    async fn flush(&mut self) -> Result<(), LinkError> {
        let To::Line { sink, .. } = &mut self.to else {
            // What was queued leaves on its tick.
            return Ok(());
        };
        let write = async {
            sink.write_all(&self.gathered).await?;
            sink.flush().await
        };
        self.pace.wait(write).await?;
        self.pace.passed(self.gathered.len() / CELL, self.cell_time);
        self.gathered.clear();
        // An idle link keeps at most what one small burst took.
        self.gathered.shrink_to(2 * CELL);
        Ok(())
    }
}
