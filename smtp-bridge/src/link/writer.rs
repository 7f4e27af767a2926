//! Messages to cells.

use keypacks::CELL;
use keypacks::cell::{DATA_MAX, Frame, Kind, Sealer, padding};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::LinkError;
use super::pace::Pace;

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

impl Outgoing<'_> {
    fn cells(&self) -> usize {
        (2 + self.header.len() + self.body.len()).div_ceil(DATA_MAX)
    }
}

/// The sending half of a link.
pub struct LinkWriter<W> {
    sink: W,
    sealer: Sealer,
    gathered: Vec<u8>,
    is_paced: bool,
    pace: Pace,
}

impl<W: AsyncWrite + Unpin> LinkWriter<W> {
    /// The sending half over `sink`.
    pub fn new(sink: W, sealer: Sealer) -> Self {
        LinkWriter {
            sink,
            sealer,
            gathered: Vec::new(),
            is_paced: false,
            pace: Pace::begin(false),
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

    /// Sends messages as one burst, padded to a power of two of cells. To be awaited to its end.
    pub async fn send_burst(&mut self, messages: &[Outgoing<'_>]) -> Result<(), LinkError> {
        self.pace = Pace::begin(self.is_paced);
        for message in messages {
            self.seal_message(message).await?;
        }
        for _ in 0..padding(messages.iter().map(Outgoing::cells).sum()) {
            self.seal(Frame {
                kind: Kind::Pad,
                last: true,
                stream: 0,
                data: &[],
            })
            .await?;
        }
        self.flush().await
    }

    async fn seal_message(&mut self, message: &Outgoing<'_>) -> Result<(), LinkError> {
        let first = DATA_MAX - 2 - message.header.len();
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
            let (part, behind) = rest.split_at(rest.len().min(DATA_MAX));
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
        self.pace = Pace::begin(self.is_paced);
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
        self.pace = Pace::begin(self.is_paced);
        self.seal(Frame {
            kind: Kind::Close,
            last: true,
            stream: 0,
            data: &[],
        })
        .await?;
        self.flush().await?;
        self.sink.shutdown().await?;
        Ok(())
    }

    async fn seal(&mut self, frame: Frame<'_>) -> Result<(), LinkError> {
        let at = self.gathered.len();
        self.gathered.resize(at + CELL, 0);
        let cell = self.gathered[at..]
            .first_chunk_mut::<CELL>()
            .expect("a cell was just added");
        self.sealer.seal(frame, cell);
        if self.gathered.len() >= GATHERED_CELLS_MAX * CELL {
            self.flush().await
        } else {
            Ok(())
        }
    }

    async fn flush(&mut self) -> Result<(), LinkError> {
        let write = async {
            self.sink.write_all(&self.gathered).await?;
            self.sink.flush().await
        };
        self.pace.wait(write).await?;
        self.pace.passed(self.gathered.len() / CELL);
        self.gathered.clear();
        // An idle link keeps at most what one small burst took.
        self.gathered.shrink_to(2 * CELL);
        Ok(())
    }
}
