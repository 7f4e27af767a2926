//! Cells to messages.

use std::sync::Arc;
use std::time::Duration;

use keypacks::CELL;
use keypacks::cell::{Frame, Kind, Opener};
use mailbox::request::Rate;
use tokio::io::{AsyncRead, AsyncReadExt};
use zeroize::{Zeroize, Zeroizing};

use super::LinkError;
use super::Opening;
use super::cover::{Covering, Intake, Taken, cell_time};
use super::pace::{CELL_MAX, Pace};
use super::rotation::Turn;
use crate::net::Promise;

/// Reads one whole cell; used for the handshake's flights, before there is an [`Opening`].
pub async fn read_cell<R: AsyncRead + Unpin>(stream: &mut R, cell: &mut [u8; CELL]) -> Result<(), LinkError> {
    stream.read_exact(cell).await?;
    Ok(())
}

/// The beginning of a message: its header whole, its body perhaps still under way.
pub struct Head {
    /// Request, Answer, New or Linked.
    pub kind: Kind,
    /// Stream that the message is on.
    pub stream: u32,
    /// The header's bytes.
    pub header: Zeroizing<Vec<u8>>,
    start: Zeroizing<Vec<u8>>,
    complete: bool,
}

impl Head {
    /// Whether the message has no body.
    pub fn is_bare(&self) -> bool {
        self.complete && self.start.is_empty()
    }
}

/// The receiving half of a link.
pub struct LinkReader<R> {
    from: From<R>,
    cell: Box<[u8; CELL]>,
    filled: usize,
    is_paced: bool,
    /// What a cell of a body may take.
    cell_time: Duration,
    turn: Option<Box<dyn Turn>>,
    /// The next key is being taken: kept here, since whoever waits for a message may stop waiting.
    turning: Option<Promise<'static, Result<Opener, LinkError>>>,
}

/// Where cells come from.
enum From<R> {
    /// The line itself.
    Line { source: R, opener: Opening },
    /// What has taken the line over, and opens them.
    Taken(Taken, Arc<Covering>),
}

impl<R: AsyncRead + Unpin + Send + 'static> LinkReader<R> {
    /// Hands the line over to what reads it all the time from now on, which is returned: to be run beside. Between messages
    /// alone, and not where the link goes on under new keys. `None`: it was handed over before.
    pub fn cover(&mut self, rate: Rate, covering: Arc<Covering>, is_holder: bool) -> Option<Promise<'static, ()>> {
        if self.turn.is_some() || self.filled > 0 || matches!(self.from, From::Taken(..)) {
            return None;
        }
        // Until the intake has the line, nobody sends.
        let (_, nothing) = tokio::sync::mpsc::channel(1);
        let From::Line { source, opener } =
            std::mem::replace(&mut self.from, From::Taken(nothing, Arc::clone(&covering)))
        else {
            return None;
        };
        let (taken, intake) = Intake::new((source, opener), Arc::clone(&covering), is_holder);
        self.from = From::Taken(taken, covering);
        self.cell_time = cell_time(rate);
        Some(Box::pin(intake.run()))
    }
}

impl<R: AsyncRead + Unpin> LinkReader<R> {
    /// The receiving half over `source`.
    pub fn new(source: R, opener: impl Into<Opening>) -> Self {
        LinkReader {
            from: From::Line {
                source,
                opener: opener.into(),
            },
            cell: Box::new([0; CELL]),
            filled: 0,
            is_paced: false,
            cell_time: CELL_MAX,
            turn: None,
            turning: None,
        }
    }

    /// The same, giving up a peer that sends a body too slowly ([`STILL_MAX`](super::STILL_MAX)).
    #[must_use]
    pub fn paced(self) -> Self {
        LinkReader { is_paced: true, ..self }
    }

    /// The same, for a link that goes on under new keys.
    #[must_use]
    pub fn turning(self, turn: Box<dyn Turn>) -> Self {
        LinkReader {
            turn: Some(turn),
            ..self
        }
    }

    /// Waits for the next message. May be dropped and called again without losing anything.
    pub async fn next(&mut self) -> Result<Head, LinkError> {
        loop {
            self.finish_turn().await?;
            let queued;
            let frame = match &mut self.from {
                From::Taken(taken, _) => {
                    queued = taken.recv().await.ok_or(LinkError::Closed)??;
                    queued.frame()
                }
                From::Line { source, opener } => {
                    fill(source, &mut self.cell, &mut self.filled).await?;
                    opener.open(&mut self.cell)?
                }
            };
            self.turning = turning(&mut self.turn, &frame)?;
            let head = match frame.kind {
                Kind::Pad | Kind::Rotate | Kind::Rotated => None,
                Kind::Close => return Err(LinkError::Closed),
                Kind::Request | Kind::Answer | Kind::New | Kind::Linked => Some(begin(&frame)?),
                Kind::Data | Kind::Uncovered => return Err(LinkError::Broken),
            };
            // The opened cell is somebody's mail: nothing of it stays in an idle link's buffer.
            self.cell.zeroize();
            if let Some(head) = head {
                return Ok(head);
            }
        }
    }

    /// Reads the rest of a message whose body is `expected` bytes long. To be awaited to its end.
    pub async fn body(&mut self, head: Head, expected: usize) -> Result<Zeroizing<Vec<u8>>, LinkError> {
        let mut body = Zeroizing::new(Vec::with_capacity(expected));
        if head.start.len() > expected {
            return Err(LinkError::Broken);
        }
        body.extend_from_slice(&head.start);
        let mut complete = head.complete;
        let mut pace = Pace::begin(self.is_paced);
        while !complete {
            complete = self
                .part(&mut pace, head.stream, |data| {
                    // Never beyond the capacity: growing would leave a copy behind, and is the peer's lie anyway.
                    let fits = data.len() <= expected - body.len();
                    if fits {
                        body.extend_from_slice(data);
                    }
                    fits
                })
                .await?;
        }
        if body.len() == expected {
            Ok(body)
        } else {
            Err(LinkError::Broken)
        }
    }

    /// Reads the rest of a message and drops it, for a body that is refused: at most `most` bytes.
    pub async fn discard(&mut self, head: Head, most: usize) -> Result<(), LinkError> {
        let mut left = most.checked_sub(head.start.len()).ok_or(LinkError::Broken)?;
        let mut complete = head.complete;
        let mut pace = Pace::begin(self.is_paced);
        while !complete {
            complete = self
                .part(&mut pace, head.stream, |data| match left.checked_sub(data.len()) {
                    Some(rest) => {
                        left = rest;
                        true
                    }
                    None => false,
                })
                .await?;
        }
        Ok(())
    }

    /// Hands the next data cell of `stream` over; returns whether it was the last.
    async fn part(
        &mut self,
        pace: &mut Pace,
        stream: u32,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<bool, LinkError> {
        let queued;
        let frame = loop {
            self.finish_turn().await?;
            let frame = match &mut self.from {
                From::Taken(taken, covering) => {
                    let next = async { taken.recv().await.ok_or(LinkError::Closed)? };
                    queued = pace.wait(next).await?;
                    pace.passed(1, covering.cell_time(self.cell_time));
                    break queued.frame();
                }
                From::Line { source, opener } => {
                    pace.wait(fill(source, &mut self.cell, &mut self.filled)).await?;
                    pace.passed(1, self.cell_time);
                    opener.open(&mut self.cell)?
                }
            };
            self.turning = turning(&mut self.turn, &frame)?;
            if self.turning.is_none() {
                break frame;
            }
        };
        if frame.kind != Kind::Data || frame.stream != stream || frame.data.is_empty() || !take(frame.data) {
            return Err(LinkError::Broken);
        }
        let last = frame.last;
        self.cell.zeroize();
        Ok(last)
    }

    /// Waits until the cells that follow can be opened. May be dropped and called again.
    async fn finish_turn(&mut self) -> Result<(), LinkError> {
        if let Some(turning) = &mut self.turning {
            let opener = turning.await;
            self.turning = None;
            let next = opener?;
            if let From::Line { opener, .. } = &mut self.from {
                *opener = next.into();
            }
        }
        Ok(())
    }
}

/// Reads the rest of a cell. `filled` outlives a dropped future, so that a timer beside this read costs no bytes.
async fn fill<R: AsyncRead + Unpin>(
    source: &mut R,
    cell: &mut [u8; CELL],
    filled: &mut usize,
) -> Result<(), LinkError> {
    while *filled < CELL {
        let count = source.read(&mut cell[*filled..]).await?;
        if count == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        *filled += count;
    }
    *filled = 0;
    Ok(())
}

/// Counts a cell; gives what leads to the next key if it was the last under this one.
fn turning(
    turn: &mut Option<Box<dyn Turn>>,
    frame: &Frame<'_>,
) -> Result<Option<Promise<'static, Result<Opener, LinkError>>>, LinkError> {
    let is_turn = matches!(frame.kind, Kind::Rotate | Kind::Rotated);
    match turn {
        Some(turn) if is_turn && turn.kind() == frame.kind => Ok(Some(turn.turn(frame.data))),
        _ if is_turn => Err(LinkError::Broken),
        Some(turn) => turn.opened(frame.kind, frame.last).map(|()| None),
        None => Ok(None),
    }
}

/// Of a request or answer: `u16 header length | header | first bytes of the body`; of the link's own cells: all header.
fn begin(frame: &Frame<'_>) -> Result<Head, LinkError> {
    if matches!(frame.kind, Kind::New | Kind::Linked) {
        let header = Zeroizing::new(frame.data.to_vec());
        return Ok(Head {
            kind: frame.kind,
            stream: frame.stream,
            header,
            start: Zeroizing::default(),
            complete: true,
        });
    }
    let (length, rest) = frame.data.split_first_chunk::<2>().ok_or(LinkError::Broken)?;
    let (header, start) = rest
        .split_at_checked(usize::from(u16::from_le_bytes(*length)))
        .ok_or(LinkError::Broken)?;
    Ok(Head {
        kind: frame.kind,
        stream: frame.stream,
        header: Zeroizing::new(header.to_vec()),
        start: Zeroizing::new(start.to_vec()),
        complete: frame.last,
    })
}
