//! Statements about collecting, with a relay whose order of answers, refusals and cuts a test decides.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use keypacks::cell::Kind;
use keypacks::deposit::{BodySealer, Dek, WrapFields};
use keypacks::{Secret, kdf};
use mailbox::disk::{MemoryDisk, RESERVE_BYTES};
use mailbox::holder::HolderFiles;
use mailbox::request::{Envelope, Origin};
use tokio::io::DuplexStream;

use super::super::courier::tests::{config, linked, store};
use super::*;
use crate::link::{LinkReader, LinkWriter, Outgoing};
use crate::net::system;

/// What waits at the relay.
struct Deposit {
    wrap: Vec<u8>,
    kilobytes: u32,
    body: Vec<u8>,
}

/// What the relay saw.
#[derive(Default)]
struct Seen {
    confirmed: Vec<u64>,
    fetched: Vec<u64>,
    /// Most bodies, and bytes of them, that were asked for and not answered.
    waiting: Load,
}

/// What the relay does next with the requests that wait for an answer.
enum Next {
    /// Answers this one as it should.
    Answer(usize),
    /// Answers this one otherwise.
    Instead(usize, Answer),
    Cut,
}

struct Bench {
    disk: MemoryDisk,
    host: Host,
    store: HolderFiles,
    deposits: Arc<Vec<Deposit>>,
    seen: Arc<Mutex<Seen>>,
}

impl Bench {
    /// A holder for whom messages of these lengths wait.
    fn new(lengths: &[usize]) -> Self {
        let disk = MemoryDisk::new();
        let store = store(&disk);
        let count = lengths.len() as u64;
        let steps = store.post_steps(count);
        let deposits = steps.iter().zip(lengths).map(|(step, length)| {
            let dek = || Dek::new(Secret::new([u8::try_from(step.index % 256).expect("below"); 32]));
            let envelope = Envelope {
                reverse_path: "a@b".to_owned(),
                recipients: Vec::new(),
                origin: Origin::Plain,
            };
            let mut sealer = BodySealer::new(dek(), [3; 16]);
            let payload = request::payload(&envelope, &text(step.index, *length));
            sealer.push(&payload).expect("within the largest class");
            let sealed = sealer.finish();
            let fields = WrapFields {
                dek: dek(),
                body_digest: kdf::hash(&[&sealed.body]),
                length: sealed.length,
                kilobytes: sealed.kilobytes,
                day: 20_000,
                alias: 0,
            };
            Deposit {
                wrap: deposit::seal_wrap(step, [4; 24], &fields),
                kilobytes: sealed.kilobytes,
                body: sealed.body,
            }
        });
        Bench {
            disk,
            host: system::host(),
            deposits: Arc::new(deposits.collect()),
            seen: Arc::default(),
            store,
        }
    }

    /// A new link to a relay that does as `next` says.
    fn link(&self, next: impl FnMut(&[Request]) -> Next + Send + 'static) -> Requests {
        let (established, stream, link) = linked();
        let (deposits, seen) = (Arc::clone(&self.deposits), Arc::clone(&self.seen));
        tokio::spawn(relay(stream, link, deposits, seen, next));
        Requests::new(established, Duration::from_secs(120))
    }

    async fn collect_over(&self, link: &mut Requests) -> Result<Option<u64>, Ended> {
        let (_stop, stop) = watch::channel(false);
        collect(&self.host, &self.store, &config(), link, &stop).await
    }

    async fn collect(&self, next: impl FnMut(&[Request]) -> Next + Send + 'static) -> Result<Option<u64>, Ended> {
        self.collect_over(&mut self.link(next)).await
    }

    /// The texts in INBOX, sorted.
    fn texts(&self) -> Vec<Vec<u8>> {
        let inbox = self.store.inbox();
        let texts = inbox.entries.iter();
        let mut texts: Vec<_> = texts
            .map(|entry| {
                self.store
                    .message(FolderId::INBOX, entry.uid)
                    .expect("readable")
                    .expect("there")
            })
            .collect();
        texts.sort();
        texts
    }

    /// How many collected messages have the summary that lists are made of.
    fn summarised(&self) -> usize {
        let inbox = self.store.inbox();
        let uids: Vec<u32> = inbox.entries.iter().map(|entry| entry.uid).collect();
        let summaries = self.store.summaries(FolderId::INBOX, &uids).expect("readable");
        let has_its_own = |(uid, found): &(u32, Option<Zeroizing<Vec<u8>>>)| {
            let text = self
                .store
                .message(FolderId::INBOX, *uid)
                .expect("readable")
                .expect("there");
            found.as_ref().is_some_and(|found| **found == imap::summary(&text))
        };
        uids.into_iter().zip(summaries).filter(has_its_own).count()
    }

    /// INBOX has each message once but for those of these indices, of each of which it has a notice instead.
    fn assert_has_all_but(&self, lengths: &[usize], given_up: &[u64]) {
        let texts = self.texts();
        assert_eq!(texts.len(), lengths.len());
        let kept = (0..).zip(lengths).filter(|(index, _)| !given_up.contains(index));
        let expected: Vec<_> = kept.map(|(index, length)| text(index, *length)).collect();
        assert!(expected.iter().all(|text| texts.binary_search(text).is_ok()));
        assert_eq!(self.summarised(), expected.len(), "each has its summary");
        assert!(self.store.pending().expect("readable").is_empty());
        assert!(self.store.unconfirmed().expect("readable").is_empty());
        let mut confirmed = self.seen().confirmed.clone();
        confirmed.sort_unstable();
        confirmed.dedup();
        let kept = (0..lengths.len() as u64).filter(|index| !given_up.contains(index));
        assert_eq!(confirmed, kept.collect::<Vec<_>>());
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("one thread")
    }
}

fn text(index: u64, length: usize) -> Vec<u8> {
    let mut text = format!("Message-ID: <{index}@x>\r\n\r\n").into_bytes();
    text.resize(length.max(text.len()), b'x');
    text
}

/// Reads all that comes, and answers one request when nothing more does.
async fn relay(
    stream: DuplexStream,
    link: keypacks::link::Link,
    deposits: Arc<Vec<Deposit>>,
    seen: Arc<Mutex<Seen>>,
    mut next: impl FnMut(&[Request]) -> Next,
) {
    const QUIET: Duration = Duration::from_millis(20);
    let (read, write) = tokio::io::split(stream);
    let mut reader = LinkReader::new(read, link.opener);
    let mut writer = LinkWriter::new(write, link.sealer);
    let mut waiting: Vec<(u32, Request)> = Vec::new();
    loop {
        let quiet = if waiting.is_empty() { Duration::MAX } else { QUIET };
        match tokio::time::timeout(quiet, reader.next()).await {
            Ok(Ok(head)) => {
                waiting.push((head.stream, request::decode(&head.header).expect("well-formed")));
                continue;
            }
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        let requests: Vec<_> = waiting.iter().map(|(_, request)| request.clone()).collect();
        seen.lock().expect("one thread").note(&requests, &deposits);
        let (position, answer) = match next(&requests) {
            Next::Answer(position) => (position, None),
            Next::Instead(position, answer) => (position, Some(answer)),
            Next::Cut => return,
        };
        let (stream, request) = waiting.remove(position);
        let (answer, body) = match answer {
            Some(answer) => (answer, &[][..]),
            None => plainly(&request, &deposits, &mut seen.lock().expect("one thread")),
        };
        let header = request::encode(&answer);
        let outgoing = Outgoing {
            kind: Kind::Answer,
            stream,
            header: &header,
            body,
        };
        if writer.send(&outgoing).await.is_err() {
            return;
        }
    }
}

impl Seen {
    fn note(&mut self, waiting: &[Request], deposits: &[Deposit]) {
        let bodies = waiting.iter().filter_map(|request| match request {
            Request::Fetch { index } => Some(deposits[*index as usize].body.len()),
            _ => None,
        });
        let bodies: Vec<_> = bodies.collect();
        self.waiting.count = self.waiting.count.max(bodies.len());
        self.waiting.bytes = self.waiting.bytes.max(bodies.iter().sum());
    }
}

/// What an untroubled relay answers.
fn plainly<'a>(request: &Request, deposits: &'a [Deposit], seen: &mut Seen) -> (Answer, &'a [u8]) {
    match request {
        Request::Collect { from, most } => {
            let end = deposits.len() as u64;
            let next = (*from + u64::from(*most)).min(end);
            let wraps = (*from..next).map(|index| Collected::Wrap {
                index,
                wrap: deposits[index as usize].wrap.clone(),
            });
            let answer = Answer::Collected {
                deposits: wraps.collect(),
                next,
                more: next < end,
            };
            (answer, &[])
        }
        Request::Fetch { index } => {
            seen.fetched.push(*index);
            let deposit = &deposits[*index as usize];
            let kilobytes = deposit.kilobytes;
            (Answer::Body { kilobytes }, &deposit.body)
        }
        Request::Confirm { deposits: named } => {
            for (index, digest) in named {
                assert_eq!(*digest, deposit::wrap_digest(&deposits[*index as usize].wrap));
                seen.confirmed.push(*index);
            }
            let deleted = u16::try_from(named.len()).expect("few");
            (Answer::Confirmed { deleted }, &[])
        }
        Request::Lease { .. } | Request::Through { .. } | Request::Devices => {
            unreachable!("the link is not under a pad")
        }
        Request::Balance => {
            let answer = Answer::Balance {
                balance: 1,
                keys: 2,
                credits: 1,
                debits: 0,
            };
            (answer, &[])
        }
        Request::Prices
        | Request::Onward
        | Request::Credit
        | Request::Mixing
        | Request::CoverOffer
        | Request::Cover { .. }
        | Request::Offers
        | Request::Directory { .. }
        | Request::Change(_)
        | Request::Statement { .. } => {
            unreachable!("collecting does not ask this")
        }
    }
}

fn in_order(_: &[Request]) -> Next {
    Next::Answer(0)
}

fn refused(refusal: Refusal) -> Answer {
    Answer::Refused { seq: 0, refusal }
}

/// Where the body of `index` is asked for.
fn fetch_of(requests: &[Request], index: u64) -> Option<usize> {
    requests.iter().position(|request| *request == Request::Fetch { index })
}

/// Lengths of many small messages, of two classes.
fn small(count: usize) -> Vec<usize> {
    (0..count).map(|n| 200 + 977 * (n % 3)).collect()
}

#[tokio::test(start_paused = true)]
async fn bodies_may_come_in_any_order_and_each_is_stored_and_confirmed_once() {
    let lengths = small(300);
    let bench = Bench::new(&lengths);
    bench
        .collect(|requests| Next::Answer(requests.len() - 1))
        .await
        .expect("an untroubled link");
    bench.assert_has_all_but(&lengths, &[]);
    let seen = bench.seen();
    assert_eq!((seen.fetched.len(), seen.confirmed.len()), (300, 300));
    assert!(seen.waiting.count > FETCHES_MAX / 2, "bodies are asked for together");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_gone_is_told_and_holds_up_no_other() {
    let lengths = small(20);
    let bench = Bench::new(&lengths);
    let next = |requests: &[Request]| match fetch_of(requests, 7) {
        Some(position) => Next::Instead(position, refused(Refusal::NoDeposit)),
        None => Next::Answer(0),
    };
    bench.collect(next).await.expect("the link goes on");
    bench.assert_has_all_but(&lengths, &[7]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_the_promised_one_is_told_and_holds_up_no_other() {
    let lengths = small(20);
    let mut bench = Bench::new(&lengths);
    let deposits = Arc::get_mut(&mut bench.deposits).expect("no relay yet");
    deposits[11].body[500] ^= 1;
    bench.collect(in_order).await.expect("the link goes on");
    bench.assert_has_all_but(&lengths, &[11]);
}

#[tokio::test(start_paused = true)]
async fn bodies_that_cannot_be_paid_stay_pending_and_what_came_is_confirmed() {
    let lengths = small(150);
    let bench = Bench::new(&lengths);
    let mut served = 0;
    let poor = move |requests: &[Request]| match requests.iter().position(|r| matches!(r, Request::Fetch { .. })) {
        Some(position) if served == 10 => Next::Instead(position, refused(Refusal::Value { shortfall: 1 })),
        Some(position) => {
            served += 1;
            Next::Answer(position)
        }
        None => Next::Answer(0),
    };
    bench.collect(poor).await.expect("the link goes on");
    assert_eq!(bench.store.collect_from(), 150, "the wraps are there");
    assert_eq!(bench.store.pending().expect("readable").len(), 140);
    assert_eq!(bench.seen().confirmed.len(), 10);
    assert!(bench.seen().waiting.count <= FETCHES_MAX);
    bench.collect(in_order).await.expect("an untroubled link");
    bench.assert_has_all_but(&lengths, &[]);
    assert_eq!(bench.seen().fetched.len(), 150);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_cut_anywhere_loses_and_doubles_nothing() {
    let lengths = small(70);
    for answers in (0..78).step_by(3) {
        let bench = Bench::new(&lengths);
        let mut left = answers;
        let cut = move |_: &[Request]| {
            if left == 0 {
                return Next::Cut;
            }
            left -= 1;
            Next::Answer(0)
        };
        match bench.collect(cut).await {
            Err(Ended::Link(_)) => {}
            done => assert!(
                done.is_ok() && bench.seen().confirmed.len() == lengths.len(),
                "{answers}"
            ),
        }
        bench.collect(in_order).await.expect("an untroubled link");
        bench.assert_has_all_but(&lengths, &[]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_and_not_confirmed_is_confirmed_and_not_fetched_again() {
    let lengths = small(30);
    let bench = Bench::new(&lengths);
    let cut = |requests: &[Request]| match requests[0] {
        Request::Confirm { .. } => Next::Cut,
        _ => Next::Answer(0),
    };
    assert!(matches!(bench.collect(cut).await, Err(Ended::Link(_))));
    assert_eq!(bench.store.unconfirmed().expect("readable").len(), 30);
    bench.collect(in_order).await.expect("an untroubled link");
    bench.assert_has_all_but(&lengths, &[]);
    assert_eq!(bench.seen().fetched.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn large_bodies_are_under_way_within_a_bound_of_bytes() {
    let lengths = [
        300_000, 5_000_000, 15_000_000, 100, 7_000_000, 2_000_000, 100, 2_000_000, 12_000_000,
    ];
    let bench = Bench::new(&lengths);
    bench.collect(in_order).await.expect("an untroubled link");
    bench.assert_has_all_but(&lengths, &[]);
    // The largest goes alone.
    assert_eq!(bench.seen().waiting.bytes, 16_000 * 1_024);
}

impl Bench {
    /// Opens the wrap of `index` as one that a carrier brought; those before it were lost on the way.
    async fn carry(&self, index: u64) {
        let step = self.store.post_step(index).expect("near");
        let wrap = &self.deposits[index as usize].wrap;
        let fields = deposit::open_wrap(&step, wrap).expect("as sealed");
        let carried = PendingDeposit {
            index,
            wrap_digest: deposit::wrap_digest(wrap),
            dek: fields.dek,
            body_digest: fields.body_digest,
            length: fields.length,
            kilobytes: fields.kilobytes,
            alias: fields.alias,
        };
        let next = self.store.collect_from().max(index + 1);
        let collected = self
            .store
            .collected_carried(vec![carried], next, self.host.clock.unix_seconds());
        collected.await.expect("known");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_carrier_lost_is_collected_over_the_next_link() {
    let lengths = small(300);
    let bench = Bench::new(&lengths);
    for index in [0, 150, 199, 7] {
        bench.carry(index).await;
    }
    assert_eq!(bench.store.missing().len(), 196);
    // Cut while they come, it goes on with those that are still missing.
    let mut left = 60;
    let cut = move |_: &[Request]| {
        left -= 1;
        if left == 0 { Next::Cut } else { Next::Answer(0) }
    };
    assert!(matches!(bench.collect(cut).await, Err(Ended::Link(_))));
    bench.collect(in_order).await.expect("an untroubled link");
    bench.assert_has_all_but(&lengths, &[]);
    assert!(bench.store.missing().is_empty());
    assert_eq!(bench.store.collect_from(), 300);
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_and_is_gone_is_told_and_not_asked_for_again() {
    let lengths = small(5);
    let bench = Bench::new(&lengths);
    bench.carry(3).await;
    let first = bench.deposits[0].wrap.clone();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let next = move |requests: &[Request]| match requests.iter().position(|r| matches!(r, Request::Collect { .. })) {
        Some(position) => {
            let Request::Collect { from, .. } = requests[position] else {
                unreachable!("looked at")
            };
            seen.lock().expect("one thread").push(from);
            if from > 0 {
                return Next::Answer(position);
            }
            // Of the second nothing is known any more.
            let deposits = vec![
                Collected::Wrap {
                    index: 0,
                    wrap: first.clone(),
                },
                Collected::Expired { index: 2 },
            ];
            let (next, more) = (5, false);
            Next::Instead(position, Answer::Collected { deposits, next, more })
        }
        None => Next::Answer(0),
    };
    bench.collect(next.clone()).await.expect("the link goes on");
    bench.collect(next).await.expect("the link goes on");
    assert_eq!(*asked.lock().expect("one thread"), [0, 4, 5]);
    let texts = bench.texts();
    assert_eq!(texts.len(), 4, "three messages and a notice");
    for index in [0, 3, 4] {
        assert!(texts.contains(&text(index, lengths[index as usize])), "{index}");
    }
    assert!(bench.store.post_step(2).is_some(), "it may still be carried");
}

#[tokio::test(start_paused = true)]
async fn a_busy_relay_and_a_full_disk_leave_a_link_that_can_be_used() {
    let lengths = small(100);
    let bench = Bench::new(&lengths);
    let mut collects = 0;
    let (disk, fills) = (bench.disk.clone(), Arc::new(Mutex::new(false)));
    let fills_up = Arc::clone(&fills);
    let mut link = bench.link(move |requests| {
        let fetches = requests.iter().any(|request| matches!(request, Request::Fetch { .. }));
        if fetches && std::mem::take(&mut *fills_up.lock().expect("one thread")) {
            // There was room when the bodies were asked for.
            disk.set_free_bytes(Some(RESERVE_BYTES));
        }
        match requests.iter().position(|r| matches!(r, Request::Collect { .. })) {
            Some(position) => {
                collects += 1;
                match collects {
                    2 => Next::Instead(position, refused(Refusal::Busy)),
                    _ => Next::Answer(position),
                }
            }
            None => Next::Answer(0),
        }
    });
    assert!(matches!(bench.collect_over(&mut link).await, Err(Ended::Busy)));
    assert!(link.ask(&Request::Balance, &[]).await.is_ok());
    *fills.lock().expect("one thread") = true;
    assert!(matches!(
        bench.collect_over(&mut link).await,
        Err(Ended::Store(StoreError::Full))
    ));
    assert!(link.ask(&Request::Balance, &[]).await.is_ok());
    bench.disk.set_free_bytes(None);
    bench.collect_over(&mut link).await.expect("there is room again");
    bench.assert_has_all_but(&lengths, &[]);
}

#[tokio::test(start_paused = true)]
async fn a_body_without_room_is_not_fetched_and_holds_up_no_other() {
    let lengths = [200, 5_000_000, 300, 400];
    let bench = Bench::new(&lengths);
    bench.disk.set_free_bytes(Some(RESERVE_BYTES + (4 << 20)));
    for _ in 0..2 {
        let wanted = bench.collect(in_order).await.expect("the link goes on");
        assert!(wanted.is_some_and(|wanted| wanted > 5_000_000));
    }
    let pending = bench.store.pending().expect("readable");
    assert!(pending.len() == 1 && pending[0].index == 1);
    assert_eq!(bench.seen().fetched, [0, 2, 3]);
    assert_eq!(bench.seen().confirmed, [0, 2, 3]);
    bench.disk.set_free_bytes(None);
    assert!(matches!(bench.collect(in_order).await, Ok(None)));
    bench.assert_has_all_but(&lengths, &[]);
}

#[tokio::test(start_paused = true)]
async fn wraps_out_of_order_or_beyond_what_is_shown_end_the_link() {
    for indices in [[1, 0], [0, 2], [0, 0], [u64::MAX, 1]] {
        let bench = Bench::new(&small(2));
        let deposits = Arc::clone(&bench.deposits);
        let next = move |_: &[Request]| {
            let wraps = indices.map(|index| Collected::Wrap {
                index,
                wrap: deposits[0].wrap.clone(),
            });
            let answer = Answer::Collected {
                deposits: wraps.into(),
                next: 2,
                more: false,
            };
            Next::Instead(0, answer)
        };
        assert!(matches!(bench.collect(next).await, Err(Ended::Nonsense)), "{indices:?}");
        assert_eq!(bench.store.collect_from(), 0);
    }
}
