//! Two ends of a link over a pipe in memory.

use std::time::Duration;

use keypacks::cell::{DATA_MAX, Kind};
use keypacks::chain::LinkChain;
use keypacks::link::{self, ClientEntropy, Confirm, Link, PersistedIndex, RelaySecret};
use keypacks::{CELL, Secret, deposit};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep};

use super::*;

struct Durable(u64);

impl PersistedIndex for Durable {
    fn persisted_index(&self) -> u64 {
        self.0
    }
}

/// Both ends of a handshake with fixed entropy: the holder's, then the relay's.
pub(crate) fn ends() -> (Link, Link) {
    let chain = LinkChain::from_root(&Secret::new([7; 32]));
    let step = || chain.step_at(0).expect("the first step");
    let secret = RelaySecret::new(Secret::new([9; 32]));
    let entropy = ClientEntropy {
        ephemeral: [1; 32],
        nonce: [2; 24],
    };
    let (dialling, mut cell1) = link::connect(step(), &secret.public(), entropy);
    let (accepting, mut cell2) =
        link::accept(step(), &secret, 0, &mut cell1, [3; 32], [4; 24]).expect("the pack is known");
    let confirm = Confirm {
        token: [0; 16],
        answered: 0,
    };
    let answered = dialling.answer(&mut cell2).expect("the relay knows the pack");
    let (mut cell3, holder) = answered
        .confirm(&Durable(0), confirm, &Secret::new([5; 32]), [6; 32])
        .expect("the proof is of this index");
    let relay = accepting.confirm(&mut cell3).expect("the ephemeral is proven");
    (holder, relay.burned(&Durable(0)).expect("the proof is of this index"))
}

/// A holder's writer, a relay's reader, and the pipe's far end to spy on.
fn pipe() -> (LinkWriter<DuplexStream>, LinkReader<DuplexStream>) {
    let (holder, relay) = ends();
    let (near, far) = duplex(1 << 20);
    (LinkWriter::new(near, holder.sealer), LinkReader::new(far, relay.opener))
}

fn request<'a>(header: &'a [u8], body: &'a [u8]) -> Outgoing<'a> {
    Outgoing {
        kind: Kind::Request,
        stream: 5,
        header,
        body,
    }
}

#[tokio::test]
async fn a_message_of_any_length_arrives_as_it_was_sent() {
    let (mut writer, mut reader) = pipe();
    let first = DATA_MAX - 2 - 3;
    for length in [
        0,
        1,
        1_000,
        first - 1,
        first,
        first + 1,
        first + DATA_MAX,
        first + DATA_MAX + 1,
        100_000,
    ] {
        let body: Vec<u8> = (0..length).map(|at| at as u8).collect();
        writer.send(&request(b"abc", &body)).await.expect("sent");
        let head = reader.next().await.expect("arrived");
        assert_eq!(
            (head.stream, &head.header[..], head.is_bare()),
            (5, &b"abc"[..], length == 0)
        );
        assert!(
            reader.body(head, length).await.expect("whole")[..] == body[..],
            "{length}"
        );
    }
}

#[tokio::test]
async fn every_burst_is_a_power_of_two_of_cells_and_a_class_fills_its_cells() {
    let (holder, _) = ends();
    let (near, mut far) = duplex(1 << 20);
    let mut writer = LinkWriter::new(near, holder.sealer);
    for (length, cells) in [(0, 1), (8_000, 1), (16_000, 1), (32_000, 2), (40_000, 4), (128_000, 8)] {
        writer.send(&request(&[1; 300], &vec![2; length])).await.expect("sent");
        let mut burst = vec![0; cells * CELL];
        far.read_exact(&mut burst).await.expect("so many cells");
        let more = tokio::time::timeout(std::time::Duration::from_millis(20), far.read_u8()).await;
        assert!(more.is_err(), "{length} bytes take more than {cells} cells");
    }
    assert_eq!(deposit::class_bytes(16), 16_000);
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_ends_the_link() {
    for (sent, expected) in [(50_000, 49_999), (50_000, 50_001), (10, 9), (10, 11), (10, 0)] {
        let (mut writer, mut reader) = pipe();
        writer.send(&request(b"", &vec![1; sent])).await.expect("sent");
        let head = reader.next().await.expect("arrived");
        assert!(
            matches!(reader.body(head, expected).await, Err(LinkError::Broken)),
            "{sent} for {expected}"
        );
    }
}

#[tokio::test]
async fn a_refused_body_is_read_to_its_end_and_the_next_message_follows() {
    let (mut writer, mut reader) = pipe();
    writer.send(&request(b"", &vec![1; 64_000])).await.expect("sent");
    writer.send(&request(b"next", b"")).await.expect("sent");
    let head = reader.next().await.expect("arrived");
    reader.discard(head, 64_000).await.expect("within its bound");
    assert_eq!(&reader.next().await.expect("arrived").header[..], b"next");
}

#[tokio::test]
async fn a_wait_that_is_given_up_in_the_middle_of_a_cell_loses_nothing() {
    let (holder, relay) = ends();
    let (near, mut far) = duplex(1 << 20);
    let mut writer = LinkWriter::new(near, holder.sealer);
    writer.send(&request(b"whole", b"")).await.expect("sent");
    let mut cell = [0; CELL];
    far.read_exact(&mut cell).await.expect("a cell");
    let (mut trickle, source) = duplex(CELL);
    let mut reader = LinkReader::new(source, relay.opener);
    for part in cell.chunks(5_000) {
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(5), reader.next()).await;
        assert!(waiting.is_err());
        trickle.write_all(part).await.expect("taken");
    }
    assert_eq!(&reader.next().await.expect("arrived").header[..], b"whole");
}

#[tokio::test]
async fn a_flipped_bit_a_repeated_cell_and_a_cell_out_of_turn_end_the_link() {
    for break_it in [
        |cells: &mut Vec<u8>| cells[100] ^= 1,
        |cells: &mut Vec<u8>| cells.copy_within(..CELL, CELL),
        |cells: &mut Vec<u8>| cells.rotate_left(CELL),
    ] {
        let (holder, relay) = ends();
        let (near, mut far) = duplex(1 << 20);
        let mut writer = LinkWriter::new(near, holder.sealer);
        writer.send(&request(b"one", b"")).await.expect("sent");
        writer.send(&request(b"two", b"")).await.expect("sent");
        let mut cells = vec![0; 2 * CELL];
        far.read_exact(&mut cells).await.expect("two cells");
        break_it(&mut cells);
        let mut reader = LinkReader::new(&cells[..], relay.opener);
        let ended = match reader.next().await {
            Ok(_) => reader.next().await.map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(matches!(ended, Err(LinkError::Broken)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_steadily_is_waited_for_and_one_that_stands_still_is_not() {
    let (holder, relay) = ends();
    let (near, mut far) = duplex(1 << 22);
    let mut writer = LinkWriter::new(near, holder.sealer);
    let body = vec![1; 200 * DATA_MAX];
    writer.send(&request(b"", &body)).await.expect("sent");
    let mut cells = vec![0; 256 * CELL];
    far.read_exact(&mut cells).await.expect("sent");
    let (mut peer, source) = duplex(1 << 22);
    let mut reader = LinkReader::new(source, relay.opener).paced();
    let began = Instant::now();
    let sending = tokio::spawn(async move {
        for cell in cells[..150 * CELL].chunks(CELL) {
            peer.write_all(cell).await.expect("taken");
            sleep(Duration::from_millis(490)).await;
        }
        // Much at once buys no time to stand still.
        peer.write_all(&cells[150 * CELL..190 * CELL]).await.expect("taken");
        peer
    });
    let head = reader.next().await.expect("arrived");
    assert!(matches!(reader.body(head, body.len()).await, Err(LinkError::Timeout)));
    let steady = Duration::from_millis(490) * 150;
    assert_eq!(began.elapsed(), steady + STILL_MAX);
    drop(sending.await.expect("no panic"));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_given_up() {
    let (holder, _) = ends();
    let (near, _far) = duplex(CELL);
    let mut writer = LinkWriter::new(near, holder.sealer).paced();
    let began = Instant::now();
    let sent = writer.send(&request(b"", &vec![1; 100_000])).await;
    assert!(matches!(sent, Err(LinkError::Timeout)));
    assert_eq!(began.elapsed(), STILL_MAX);
}

#[tokio::test]
async fn messages_that_leave_together_are_filled_up_together() {
    let (holder, relay) = ends();
    let (near, mut far) = duplex(1 << 20);
    let mut writer = LinkWriter::new(near, holder.sealer);
    let messages = [1, 2, 3].map(|stream| Outgoing {
        kind: Kind::Request,
        stream,
        header: b"header",
        body: &[],
    });
    writer.send_burst(&messages).await.expect("sent");
    drop(writer);
    let mut cells = Vec::new();
    far.read_to_end(&mut cells).await.expect("sent");
    assert_eq!(cells.len(), 4 * CELL);
    let mut reader = LinkReader::new(&cells[..], relay.opener);
    for stream in [1, 2, 3] {
        let head = reader.next().await.expect("arrived");
        assert!(head.is_bare() && head.stream == stream && head.header[..] == *b"header");
    }
    assert!(matches!(reader.next().await, Err(LinkError::Stream(_))), "padding only");
}

#[tokio::test]
async fn a_goodbye_is_told_from_a_cut() {
    let (mut writer, mut reader) = pipe();
    writer.close().await.expect("said");
    assert!(matches!(reader.next().await, Err(LinkError::Closed)));
    let (writer, mut reader) = pipe();
    drop(writer);
    assert!(matches!(reader.next().await, Err(LinkError::Stream(_))));
}
