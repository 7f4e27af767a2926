//! Covered links over a pipe in memory, under a paused clock.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{DuplexStream, duplex};
use tokio::time::{Instant, sleep};

use super::*;
use crate::link::tests::ends;
use crate::link::{LinkReader, LinkWriter, Outgoing};

const RATE: Rate = Rate {
    cells: 2,
    every_ms: 100,
};

/// Octets on the line, by the millisecond at which they came.
type Seen = Arc<Mutex<BTreeMap<u128, usize>>>;

/// A holder's covered writer and a relay's covered reader, and what passes between them.
fn line(toll: Option<Toll>) -> (LinkWriter<DuplexStream>, LinkReader<DuplexStream>, Seen, Arc<Covering>) {
    let (holder, relay) = ends();
    let (near, mut spied) = duplex(1 << 20);
    let (mut onward, far) = duplex(1 << 20);
    let (mut writer, mut reader) = (LinkWriter::new(near, holder.sealer), LinkReader::new(far, relay.opener));
    let (ours, theirs) = (Covering::begin(), Covering::begin());
    let pump = writer.cover(RATE, Arc::clone(&ours), toll).expect("not covered yet");
    let intake = reader.cover(RATE, theirs, true).expect("not covered yet");
    assert!(writer.cover(RATE, Covering::begin(), None).is_none(), "once is enough");
    tokio::spawn(pump);
    tokio::spawn(intake);
    let (seen, start) = (Seen::default(), Instant::now());
    let noted = Arc::clone(&seen);
    tokio::spawn(async move {
        let mut octets = vec![0; 1 << 16];
        while let Ok(count) = spied.read(&mut octets).await {
            if count == 0 {
                break;
            }
            *noted
                .lock()
                .expect("whole")
                .entry(start.elapsed().as_millis())
                .or_default() += count;
            onward.write_all(&octets[..count]).await.expect("taken");
        }
    });
    (writer, reader, seen, ours)
}

fn request(body: &[u8]) -> Outgoing<'_> {
    Outgoing {
        kind: Kind::Request,
        stream: 5,
        header: b"abc",
        body,
    }
}

/// All ticks up to now, each of which has the same.
fn ticks(seen: &Seen) -> usize {
    let seen = seen.lock().expect("whole");
    for (number, (at, octets)) in seen.iter().enumerate() {
        assert_eq!((*at, *octets), (number as u128 * 100, 2 * CELL), "{seen:?}");
    }
    seen.len()
}

#[tokio::test(start_paused = true)]
async fn a_line_shows_neither_when_there_is_mail_nor_how_much() {
    let (mut writer, mut reader, seen, _) = line(None);
    sleep(Duration::from_millis(1_050)).await;
    assert_eq!(ticks(&seen), 11, "nothing is sent");
    for length in [0, 10, 50_000, 400_000] {
        let body: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let taken = tokio::spawn(async move {
            let head = reader.next().await.expect("arrived");
            let body = reader.body(head, length).await.expect("whole");
            (reader, body)
        });
        writer.send(&request(&body)).await.expect("sent");
        let (back, got) = taken.await.expect("taken");
        reader = back;
        assert!(got[..] == body[..], "{length}");
    }
    let busy = ticks(&seen);
    assert!(
        (11 + 14..11 + 18).contains(&busy),
        "29 cells of data, and what filled up: {busy}"
    );
    sleep(Duration::from_millis(1_050)).await;
    assert_eq!(ticks(&seen), busy + 10, "nothing is sent again");
}

#[tokio::test(start_paused = true)]
async fn a_close_is_the_last_cell_of_its_tick() {
    for has_mail in [true, false] {
        let (mut writer, mut reader, seen, _) = line(None);
        sleep(Duration::from_millis(250)).await;
        if has_mail {
            writer.send(&request(b"")).await.expect("sent");
        }
        writer.close().await.expect("closed");
        if has_mail {
            assert!(reader.next().await.is_ok(), "what came before");
        }
        assert!(matches!(reader.next().await, Err(LinkError::Closed)));
        sleep(Duration::from_secs(1)).await;
        assert_eq!(ticks(&seen), 4, "three before, and a whole one that ends with it");
    }
}

#[tokio::test(start_paused = true)]
async fn ticks_that_were_missed_are_not_made_up_for() {
    let (holder, _) = ends();
    // Room for one tick: the next waits for its reader.
    let (near, mut far) = duplex(2 * CELL);
    let mut writer = LinkWriter::new(near, holder.sealer);
    tokio::spawn(writer.cover(RATE, Covering::begin(), None).expect("not covered yet"));
    sleep(Duration::from_millis(5_050)).await;
    let mut tick = vec![0; 2 * CELL];
    far.read_exact(&mut tick).await.expect("the first");
    far.read_exact(&mut tick).await.expect("the one that waited");
    far.read_exact(&mut tick).await.expect("the one that is late");
    let now = Instant::now();
    for number in 1..=5 {
        far.read_exact(&mut tick).await.expect("on time");
        assert!(now.elapsed() <= Duration::from_millis(100 * number), "{number}");
        assert!(
            now.elapsed() > Duration::from_millis(100 * (number - 1)),
            "no run of ticks: {number}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_falls_silent_is_given_up() {
    let (_, relay) = ends();
    let (_near, far) = duplex(2 * CELL);
    let mut reader = LinkReader::new(far, relay.opener);
    let covering = Covering::begin();
    tokio::spawn(
        reader
            .cover(RATE, Arc::clone(&covering), false)
            .expect("not covered yet"),
    );
    let start = Instant::now();
    assert!(matches!(reader.next().await, Err(LinkError::Timeout)));
    assert_eq!(start.elapsed(), STILL_MAX);
    assert_eq!(covering.ended().await, Phase::Over);
}

/// Pays so many periods, each after a while, and counts what comes back.
struct Value {
    periods: u64,
    unused: Arc<AtomicU64>,
}

impl Purse for Value {
    fn pay(&mut self) -> Promise<'static, Paid> {
        let paid = match self.periods.checked_sub(1) {
            Some(left) => {
                self.periods = left;
                Paid::Yes
            }
            None => Paid::Short,
        };
        Box::pin(async move {
            sleep(Duration::from_millis(150)).await;
            paid
        })
    }

    fn unused(&mut self, ticks: u64) {
        self.unused.fetch_add(ticks, Ordering::Relaxed);
    }
}

fn toll(periods: u64) -> (Toll, Arc<AtomicU64>) {
    let unused = Arc::new(AtomicU64::new(0));
    let value = Value {
        periods,
        unused: Arc::clone(&unused),
    };
    (Toll::new(Box::new(value), 4, 4), unused)
}

#[tokio::test(start_paused = true)]
async fn cover_ends_with_the_value_to_the_tick_and_the_link_goes_on_without() {
    let (toll, unused) = toll(2);
    let (mut writer, mut reader, seen, covering) = line(Some(toll));
    assert_eq!(covering.ended().await, Phase::Uncovered);
    assert_eq!(
        Arc::strong_count(&unused),
        1,
        "who pays is let go, and its place with it"
    );
    sleep(Duration::from_millis(500)).await;
    assert_eq!(ticks(&seen), 3 * 4 + 1, "three periods, and the tick that says so");
    // From here on it looks as it did without cover: bursts when there is something.
    writer.send(&request(&[7; 40_000])).await.expect("sent");
    let head = reader.next().await.expect("arrived");
    assert_eq!(reader.body(head, 40_000).await.expect("whole").len(), 40_000);
    sleep(Duration::from_secs(1)).await;
    let last = seen.lock().expect("whole").values().last().copied();
    assert_eq!(last, Some(4 * CELL));
    drop(writer);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(unused.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_paid_and_not_sent_comes_back() {
    let (toll, unused) = toll(9);
    let (mut writer, _reader, seen, _) = line(Some(toll));
    sleep(Duration::from_millis(950)).await;
    writer.close().await.expect("closed");
    let sent = ticks(&seen) as u64;
    // A payment that is under way when the link ends is not waited for: at most that period is lost.
    let paid = 4 * (sent / 4 + 1);
    let back = unused.load(Ordering::Relaxed);
    assert!(back == paid - sent || back == paid - sent + 4, "{sent} {back}");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_slow_does_not_show() {
    /// The store cannot say for ten ticks.
    struct Slow(u64);
    impl Purse for Slow {
        fn pay(&mut self) -> Promise<'static, Paid> {
            self.0 += 1;
            let paid = if self.0 < 3 { Paid::Later } else { Paid::Yes };
            Box::pin(async move {
                sleep(Duration::from_millis(150)).await;
                paid
            })
        }
        fn unused(&mut self, _ticks: u64) {}
    }
    let (_writer, _reader, seen, covering) = line(Some(Toll::new(Box::new(Slow(0)), 8, 2)));
    sleep(Duration::from_millis(2_000)).await;
    assert_eq!((covering.phase(), ticks(&seen)), (Phase::Covered, 20));
}
