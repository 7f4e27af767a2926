//! A link that carries another: whole cells of the inner one, in messages of the outer one.
//!
//! ```text
//! message = u16 header length = 4 | u32 length | cells of the inner link, 1 to 3
//! ```
//!
//! Three cells and their header fill four, which is a burst; one fills two. Neither end of the outer link can tell what the
//! cells say, and nobody on its line that there are any.

use keypacks::CELL;
use keypacks::cell::Kind;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::{LinkError, LinkReader, LinkWriter, Outgoing};
use crate::net::BoxStream;

/// Most cells in one message.
const CELLS_MAX: usize = 3;

/// Which end of the outer link this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Who has the inner link.
    Holder,
    /// Who carries it.
    Relay,
}

impl End {
    /// What it sends, and what it takes.
    fn kinds(self) -> (Kind, Kind) {
        match self {
            End::Holder => (Kind::Request, Kind::Answer),
            End::Relay => (Kind::Answer, Kind::Request),
        }
    }
}

/// What became of a link that carried another.
pub struct Carried {
    /// Bytes that came over the link for the inner one.
    pub came: u64,
    /// Why it ended; nothing: the inner stream did.
    pub end: Result<(), LinkError>,
}

/// Carries what comes on `inner` over the link and back, until either ends or one direction has carried `most` bytes.
/// To be awaited to its end, or the link is over.
pub async fn pipe<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    (reader, writer): (&mut LinkReader<R>, &mut LinkWriter<W>),
    inner: BoxStream,
    (end, stream, most): (End, u32, u64),
) -> Carried {
    let mut came = 0;
    let (sends, takes) = end.kinds();
    let (mut source, mut sink) = tokio::io::split(inner);
    let out = async {
        let mut cells = Zeroizing::new(vec![0; CELLS_MAX * CELL]);
        let (mut filled, mut left) = (0, most);
        loop {
            let count = source.read(&mut cells[filled..]).await?;
            if count == 0 {
                return Ok::<_, LinkError>(());
            }
            filled += count;
            let whole = filled - filled % CELL;
            if whole == 0 {
                continue;
            }
            left = left.checked_sub(whole as u64).ok_or(LinkError::Closed)?;
            let header = u32::try_from(whole).expect("three cells").to_le_bytes();
            let message = Outgoing {
                kind: sends,
                stream,
                header: &header,
                body: &cells[..whole],
            };
            writer.send(&message).await?;
            cells.copy_within(whole..filled, 0);
            filled -= whole;
        }
    };
    let back = async {
        loop {
            let head = reader.next().await?;
            // The outer link's own news are nobody's here.
            if head.kind == Kind::New && end == End::Holder {
                continue;
            }
            let length = head.header.first_chunk().copied().map(u32::from_le_bytes);
            let length = length.map_or(0, |length| length as usize);
            let is_whole = length > 0 && length.is_multiple_of(CELL) && length <= CELLS_MAX * CELL;
            if head.kind != takes || head.stream != stream || head.header.len() != 4 || !is_whole {
                return Err(LinkError::Broken);
            }
            if most - came < length as u64 {
                return Err(LinkError::Closed);
            }
            came += length as u64;
            let cells = reader.body(head, length).await?;
            sink.write_all(&cells).await?;
            sink.flush().await?;
        }
    };
    let end: Result<(), LinkError> = tokio::select! {
        out = out => out,
        back = back => back,
    };
    // Whether it arrives does not matter.
    let _ = writer.close().await;
    Carried { came, end }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::super::tests::ends;
    use super::*;

    const STREAM: u32 = 9;

    /// The far ends of both inner streams, and the carrying between them.
    fn carried(most: u64) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<[String; 2]>) {
        let (holder, relay) = ends();
        let (near, far) = duplex(8 * CELL);
        let ((up_read, up_write), (down_read, down_write)) = (tokio::io::split(near), tokio::io::split(far));
        let (ours, inner) = duplex(1 << 20);
        let (theirs, beyond) = duplex(1 << 20);
        let carrying = tokio::spawn(async move {
            let (mut reader, mut writer) = (
                LinkReader::new(up_read, holder.opener),
                LinkWriter::new(up_write, holder.sealer),
            );
            let (mut reader2, mut writer2) = (
                LinkReader::new(down_read, relay.opener),
                LinkWriter::new(down_write, relay.sealer),
            );
            let (holder, relay) = tokio::join!(
                pipe(
                    (&mut reader, &mut writer),
                    Box::new(inner),
                    (End::Holder, STREAM, u64::MAX)
                ),
                pipe(
                    (&mut reader2, &mut writer2),
                    Box::new(theirs),
                    (End::Relay, STREAM, most)
                ),
            );
            [holder, relay].map(|carried| format!("{:?}", carried.end))
        });
        (ours, beyond, carrying)
    }

    fn cells(count: usize, seed: usize) -> Vec<u8> {
        (0..count * CELL).map(|at| (at * 7 + at / CELL + seed) as u8).collect()
    }

    #[tokio::test]
    async fn cells_arrive_both_ways_as_they_were_whatever_pieces_they_come_in() {
        let (mut ours, mut beyond, carrying) = carried(u64::MAX);
        for (count, piece) in [(1, 1_000), (3, CELL), (7, 50_000), (20, 16_383)] {
            let (up, down) = (cells(count, 1), cells(count, 2));
            let (mut got_up, mut got_down) = (vec![0; up.len()], vec![0; down.len()]);
            for (up, down) in up.chunks(piece).zip(down.chunks(piece)) {
                ours.write_all(up).await.expect("taken");
                beyond.write_all(down).await.expect("taken");
            }
            beyond.read_exact(&mut got_up).await.expect("arrives");
            ours.read_exact(&mut got_down).await.expect("arrives");
            assert!(got_up == up && got_down == down, "{count} in pieces of {piece}");
        }
        drop(ours);
        assert_eq!(beyond.read(&mut [0; 9]).await.expect("ends"), 0);
        carrying.await.expect("both ended");
    }

    #[tokio::test]
    async fn what_is_not_whole_stays_behind_and_no_more_is_carried_than_was_agreed() {
        let (mut ours, mut beyond, carrying) = carried(2 * CELL as u64);
        ours.write_all(&cells(2, 0)).await.expect("taken");
        ours.write_all(&[1; 100]).await.expect("taken");
        let mut got = vec![0; 2 * CELL];
        beyond.read_exact(&mut got).await.expect("two cells");
        assert!(got == cells(2, 0));
        ours.write_all(&cells(1, 0)).await.expect("taken");
        assert_eq!(beyond.read(&mut got).await.expect("ends"), 0, "a third is too much");
        let [_, relay] = carrying.await.expect("both ended");
        assert_eq!(relay, "Err(Closed)");
    }

    #[tokio::test]
    async fn a_message_that_is_no_whole_number_of_cells_breaks_the_link() {
        for (length, bytes) in [
            (0, 0),
            (100, 100),
            (CELL, CELL - 1),
            (CELL, 2 * CELL),
            (4 * CELL, 4 * CELL),
        ] {
            let (holder, relay) = ends();
            let (near, far) = duplex(1 << 20);
            let (read, write) = tokio::io::split(far);
            let mut writer = LinkWriter::new(near, holder.sealer);
            let header = (length as u32).to_le_bytes();
            let message = Outgoing {
                kind: Kind::Request,
                stream: STREAM,
                header: &header,
                body: &vec![0; bytes],
            };
            writer.send(&message).await.expect("sent");
            let (mut reader, mut back) = (
                LinkReader::new(read, relay.opener),
                LinkWriter::new(write, relay.sealer),
            );
            let (inner, _kept) = duplex(1 << 20);
            let carried = pipe(
                (&mut reader, &mut back),
                Box::new(inner),
                (End::Relay, STREAM, u64::MAX),
            )
            .await;
            let ended = carried.end;
            assert!(matches!(ended, Err(LinkError::Broken)), "{length} {bytes}: {ended:?}");
        }
    }
}
