//! Statements about the work on a link, with a relay that answers what a test tells it to.

use std::path::Path;
use std::sync::{Arc, Mutex};

use keypacks::cell::Kind;
use keypacks::link::Link;
use keypacks::pack::{Identifier, Issue, PassphraseCost};
use keypacks::{Secret, deposit};
use ledger::{Leg, Onward, PriceList};
use mailbox::Entropy;
use mailbox::disk::{Disk, MemoryDisk, RESERVE_BYTES};
use mailbox::entropy::SeededEntropy;
use mailbox::holder::{HolderFiles, HolderOptions};
use mailbox::holder_store::{HolderAlias, OpenedDeposit, OutboxOrder, PendingDeposit, SentNames, SentReports};
use mailbox::request::{self, Collected, Credit, DirectoryPart, Mixing, Offers, OnwardPrices};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::link::tests::ends;
use crate::link::{LinkReader, LinkWriter, Outgoing};
use crate::message::Address;
use crate::net::{BoxStream, system};

const PRICES: PriceList = PriceList {
    version: 1,
    message: 100,
    kilobyte: 10,
    key: 5,
    inbound_message: 0,
    inbound_kilobyte: 0,
};

/// What an untroubled relay answers.
fn plainly(request: &Request) -> Answer {
    match request {
        Request::Balance => Answer::Balance {
            balance: 1_000_000,
            keys: 60,
            credits: 1_000_000,
            debits: 0,
        },
        Request::Prices => Answer::Prices(PRICES),
        Request::Collect { from, .. } => Answer::Collected {
            deposits: Vec::new(),
            next: *from,
            more: false,
        },
        Request::Credit => Answer::Credit(Credit::default()),
        Request::Mixing => Answer::Mixing(Mixing::default()),
        Request::CoverOffer => Answer::CoverOffer(None),
        Request::Cover { .. } => Answer::Covered,
        Request::Offers => Answer::Offers(Offers::default()),
        Request::Directory { .. } => Answer::Directory(DirectoryPart::default()),
        Request::Onward => Answer::Onward(OnwardPrices::of(&Onward {
            version: PRICES.version,
            ..Onward::default()
        })),
        Request::Fetch { .. } | Request::Lease { .. } | Request::Through { .. } | Request::Devices => busily(request),
        Request::Confirm { .. } => Answer::Confirmed { deleted: 0 },
        Request::Statement { from } => Answer::Statement {
            services: Vec::new(),
            next: *from,
            more: false,
        },
        Request::Change(change) => Answer::Done {
            seq: change.seq,
            debited: 110,
            balance: 999_890,
        },
    }
}

/// What a relay answers whose store cannot say.
fn busily(request: &Request) -> Answer {
    let seq = match request {
        Request::Change(change) => change.seq,
        _ => 0,
    };
    Answer::Refused {
        seq,
        refusal: Refusal::Busy,
    }
}

/// Answers until the holder is gone.
async fn relay(stream: DuplexStream, link: Link, mut answer: impl FnMut(&Request) -> Answer) {
    let (read, write) = tokio::io::split(stream);
    let mut reader = LinkReader::new(read, link.opener);
    let mut writer = LinkWriter::new(write, link.sealer);
    while let Ok(head) = reader.next().await {
        let stream = head.stream;
        let request: Request = request::decode(&head.header).expect("well-formed");
        if let Request::Change(change) = &request
            && let Operation::Submit { kilobytes, .. } = change.operation
        {
            let bytes = deposit::class_bytes(kilobytes);
            reader.discard(head, bytes).await.expect("a whole body");
        }
        let header = request::encode(&answer(&request));
        let answer = Outgoing {
            kind: Kind::Answer,
            stream,
            header: &header,
            body: &[],
        };
        if writer.send(&answer).await.is_err() {
            return;
        }
    }
}

/// The holder's end of a new link, and the relay's stream and keys.
pub(in crate::holder) fn linked() -> (Established, DuplexStream, Link) {
    let (holder, relay) = ends();
    let (near, far) = duplex(1 << 20);
    let (read, write) = tokio::io::split(Box::new(near) as BoxStream);
    let established = Established {
        reader: LinkReader::new(read, holder.opener),
        writer: LinkWriter::new(write, holder.sealer),
        token_mismatch: false,
        rolled_back: false,
        is_frozen: false,
        is_replaced: false,
        generation: 0,
        pad: None,
    };
    (established, far, relay)
}

pub(in crate::holder) fn config() -> HolderConfig {
    HolderConfig::new(Address::parse("a@localhost").expect("an address"))
}

/// A new store on `disk`, of a pack of the relay of [`linked`]; a task of its own commits for it.
pub(in crate::holder) fn store(disk: &MemoryDisk) -> HolderFiles {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
    let options = HolderOptions {
        passphrase_cost: PassphraseCost::LEAST,
        ..HolderOptions::default()
    };
    HolderFiles::create(&disk, Path::new("/h"), &issue(), b"word", &options, &entropy).expect("made");
    let (store, actor) = HolderFiles::open(&disk, Path::new("/h"), b"word", &options, &entropy).expect("opened");
    tokio::spawn(actor);
    store
}

fn issue() -> Issue {
    Issue {
        identifier: Identifier([1; 16]),
        relay_public: [9; 32],
        link_keys: 64,
        root: Secret::new([7; 32]),
        day: 20_000,
        relay_address: "relay.test:7025".to_owned(),
        relay_domain: "relay.test".to_owned(),
        aliases: Vec::new(),
        rotation: Default::default(),
        pad: None,
    }
}

/// A message for one recipient.
fn lunch() -> OutboxOrder {
    OutboxOrder {
        body: vec![0; 1_000],
        kilobytes: 1,
        length: 900,
        recipients: 1,
        prices: 1,
        price: 110,
        label: "Lunch".to_owned(),
        sent: SentNames {
            alias: "first@relay.test".to_owned(),
            own: None,
            outside: "lunch@relay.test".to_owned(),
        },
        reports: SentReports::default(),
        now: 1_000,
    }
}

/// A holder with one message in its outbox works on a link for `time`; `None` if the link lasts that long.
async fn work_for(
    time: Duration,
    answer: impl FnMut(&Request) -> Answer + Send + 'static,
) -> (HolderFiles, Option<Ended>) {
    let (_ask, asked) = mpsc::channel(1);
    work_with(asked, time, answer).await
}

/// Of nobody but who asks for statements; whoever keeps the other end keeps them from ending.
fn wishes(asked: mpsc::Receiver<Statement>) -> (Wishes, watch::Sender<u64>) {
    let (refresh, refreshed) = watch::channel(0);
    let wishes = Wishes {
        refreshed,
        asked,
        devices: mpsc::channel(1).1,
        mixing: mpsc::channel(1).1,
        offers: mpsc::channel(1).1,
        cover: mpsc::channel(1).1,
        directory: mpsc::channel(1).1,
        resume: watch::Sender::new(false),
        frozen: Arc::default(),
        short_of_room: Arc::default(),
        shortage: Shortage::default(),
    };
    (wishes, refresh)
}

/// The same with somebody who may ask for a statement.
async fn work_with(
    asked: mpsc::Receiver<Statement>,
    time: Duration,
    answer: impl FnMut(&Request) -> Answer + Send + 'static,
) -> (HolderFiles, Option<Ended>) {
    let store = store(&MemoryDisk::new());
    store.enqueue(lunch()).await.expect("durable");

    let (established, stream, link) = linked();
    tokio::spawn(relay(stream, link, answer));
    let config = config();
    let (mut wishes, _refresh) = wishes(asked);
    let (_stop, stop) = watch::channel(false);
    let host = system::host();
    let work = work(&host, &store, &config, established, &mut wishes, stop);
    let ended = tokio::time::timeout(time, work).await.ok();
    (store, ended)
}

#[tokio::test(start_paused = true)]
async fn a_message_that_met_a_busy_relay_goes_at_the_next_tick() {
    let mut tries = 0;
    let answer = move |request: &Request| match request {
        Request::Change(_) if tries < 2 => {
            tries += 1;
            busily(request)
        }
        request => plainly(request),
    };
    let (store, ended) = work_for(Duration::from_secs(200), answer).await;
    assert!(ended.is_none() && store.outbox().expect("readable").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_is_busy_keeps_its_link() {
    let mut asked = 0;
    let answer = move |request: &Request| {
        asked += 1;
        if asked % 3 == 0 {
            plainly(request)
        } else {
            busily(request)
        }
    };
    let (_, ended) = work_for(Duration::from_secs(3_600), answer).await;
    assert!(ended.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_always_finds_the_value_wanting_is_asked_once_a_tick() {
    for (refusal, notices) in [
        (Refusal::Value { shortfall: 1 }, 11),
        (Refusal::Price { price: 1, prices: 2 }, 1),
    ] {
        let tries = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&tries);
        let answer = move |request: &Request| match request {
            Request::Change(change) => {
                *counted.lock().expect("one thread") += 1;
                Answer::Refused {
                    seq: change.seq,
                    refusal,
                }
            }
            request => plainly(request),
        };
        let (store, ended) = work_for(Duration::from_secs(630), answer).await;
        assert!(ended.is_none());
        assert_eq!(*tries.lock().expect("one thread"), 11);
        assert_eq!(store.inbox().entries.len(), notices, "a new price is told once");
    }
}

/// What the relay of these tests charges for the way behind it, as version 1 names it now.
fn dearer_legs() -> Answer {
    let elsewhere = Leg {
        message: 5,
        kilobyte: 0,
        relays: 1,
    };
    Answer::Onward(OnwardPrices::of(&Onward {
        version: PRICES.version,
        elsewhere,
        ..Onward::default()
    }))
}

#[tokio::test(start_paused = true)]
async fn legs_are_asked_for_again_when_their_own_version_turns_out_to_name_others() {
    let asked = Arc::new(Mutex::new((0, 0)));
    let counted = Arc::clone(&asked);
    let answer = move |request: &Request| {
        let (legs, changes) = &mut *counted.lock().expect("one thread");
        match request {
            Request::Onward => {
                *legs += 1;
                if *changes == 0 { plainly(request) } else { dearer_legs() }
            }
            Request::Change(change) => {
                *changes += 1;
                Answer::Refused {
                    seq: change.seq,
                    refusal: Refusal::Price { price: 115, prices: 1 },
                }
            }
            request => plainly(request),
        }
    };
    let (store, ended) = work_for(Duration::from_secs(90), answer).await;
    assert!(ended.is_none());
    assert_eq!(store.onward().elsewhere.message, 5);
    let (legs, changes) = *asked.lock().expect("one thread");
    assert!(changes >= 1 && legs >= 2, "{legs} {changes}");
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_was_restored_is_asked_for_its_legs_whatever_their_version() {
    let store = store(&MemoryDisk::new());
    let known = ValueMirror {
        at: 1,
        ..ValueMirror::default()
    };
    store.put_value(known, Some(PRICES)).await.expect("durable");
    let legs = Onward {
        version: PRICES.version,
        ..Onward::default()
    };
    store.put_onward(legs).await.expect("durable");
    let answer = |request: &Request| match request {
        Request::Onward => dearer_legs(),
        request => plainly(request),
    };
    assert!(work_on(&store, false, answer).await.is_none());
    assert_eq!(store.onward().elsewhere.message, 5);
}

/// Top-ups of one day.
fn services(day: u32, count: u32, credit: u64) -> Services {
    Services {
        day,
        kind: ledger::Kind::TopUp,
        count,
        credit,
        debit: 0,
    }
}

#[tokio::test(start_paused = true)]
async fn a_statement_is_put_together_from_its_parts() {
    let (ask, asked) = mpsc::channel(1);
    let (wish, statement) = oneshot::channel();
    ask.send(wish).await.expect("room");
    let answer = |request: &Request| match request {
        Request::Statement { from: 0 } => Answer::Statement {
            services: vec![services(1, 2, 20), services(2, 1, 5)],
            next: 3,
            more: true,
        },
        Request::Statement { from: 3 } => Answer::Statement {
            services: vec![services(2, 3, 7), services(3, 1, 1)],
            next: 7,
            more: false,
        },
        request => plainly(request),
    };
    let (_, ended) = work_with(asked, Duration::from_secs(5), answer).await;
    assert!(ended.is_none(), "the link lasts");
    let whole = vec![services(1, 2, 20), services(2, 4, 12), services(3, 1, 1)];
    assert_eq!(statement.await, Ok(whole));
}

#[tokio::test(start_paused = true)]
async fn a_relay_whose_statement_does_not_end_is_left() {
    let (ask, asked) = mpsc::channel(1);
    let (wish, statement) = oneshot::channel();
    ask.send(wish).await.expect("room");
    let answer = |request: &Request| match request {
        Request::Statement { from } => Answer::Statement {
            services: Vec::new(),
            next: *from,
            more: true,
        },
        request => plainly(request),
    };
    let (_, ended) = work_with(asked, Duration::from_secs(5), answer).await;
    assert!(matches!(ended, Some(Ended::Nonsense)));
    assert!(statement.await.is_err(), "nothing is told");
}

#[tokio::test]
async fn mail_that_may_have_left_is_not_told_as_refused_when_the_pad_has_no_room_for_it_again() {
    let store = store(&MemoryDisk::new());
    let number = store.enqueue(lunch()).await.expect("durable");
    let next = || store.next_queued().expect("readable").expect("it waits");
    assert_eq!(without_room(&next()), Refusal::Pad, "it was never sent");
    assert!(store.outbox_body(number).is_ok_and(|body| body.is_some()));
    assert_eq!(without_room(&next()), Refusal::Stale, "its answer may have been cut");
}

/// Works for a while on a link with a relay of generation 5 whose pack is or is not frozen, and that confirms nothing.
async fn work_on_a_restored(store: &HolderFiles, is_frozen: bool) -> Option<Ended> {
    let answer = |request: &Request| match request {
        Request::Collect { from: 0, .. } => Answer::Collected {
            deposits: vec![Collected::Wrap {
                index: 0,
                wrap: vec![1; deposit::WRAP],
            }],
            next: 1,
            more: false,
        },
        Request::Confirm { .. } => Answer::Refused {
            seq: 0,
            refusal: Refusal::Frozen,
        },
        request => plainly(request),
    };
    work_on(store, is_frozen, answer).await
}

/// The same with a relay that answers so.
async fn work_on(
    store: &HolderFiles,
    is_frozen: bool,
    answer: impl FnMut(&Request) -> Answer + Send + 'static,
) -> Option<Ended> {
    let (established, stream, link) = linked();
    tokio::spawn(relay(stream, link, answer));
    let (_ask, asked) = mpsc::channel(1);
    let (mut wishes, _refresh) = wishes(asked);
    let (_stop, stop) = watch::channel(false);
    let established = Established {
        is_frozen,
        generation: 5,
        ..established
    };
    let (host, config) = (system::host(), config());
    let work = work(&host, store, &config, established, &mut wishes, stop);
    tokio::time::timeout(Duration::from_secs(5), work).await.ok()
}

/// Another device may have told it first, and what it closed since is told in a deposit.
#[tokio::test(start_paused = true)]
async fn a_restored_relay_is_told_of_aliases_after_what_waits_is_collected() {
    let store = store(&MemoryDisk::new());
    let known = ValueMirror {
        at: 1,
        ..ValueMirror::default()
    };
    store.put_value(known, None).await.expect("durable");
    let alias = HolderAlias {
        open: true,
        ..HolderAlias::new(0, "one@relay.example".to_owned())
    };
    store.put_alias(alias).await.expect("durable");
    store.enqueue(lunch()).await.expect("durable");
    let (asked, of) = (Arc::new(Mutex::new(Vec::new())), store.clone());
    let answer = {
        let asked = Arc::clone(&asked);
        move |request: &Request| {
            let noted = match request {
                Request::Collect { .. } => Some(("collect", of.outbox().expect("readable").len())),
                Request::Change(change) if matches!(change.operation, Operation::Submit { .. }) => Some(("mail", 0)),
                Request::Change(_) => Some(("alias", 0)),
                _ => None,
            };
            asked.lock().expect("whole").extend(noted);
            plainly(request)
        }
    };
    assert!(work_on(&store, false, answer).await.is_none());
    assert_eq!(store.relay_generation(), Ok(5));
    let asked = asked.lock().expect("whole");
    assert_eq!(asked.first(), Some(&("collect", 1)), "nothing is to be told yet");
    let changes: Vec<_> = asked
        .iter()
        .filter(|(what, _)| *what != "collect")
        .map(|(what, _)| *what)
        .collect();
    assert_eq!(
        changes,
        ["alias", "mail"],
        "it refuses mail from an alias that it does not know"
    );
}

/// Each link that ends over it would cost a key.
#[tokio::test(start_paused = true)]
async fn a_frozen_pack_tells_a_restored_relay_later_and_keeps_its_link() {
    let store = store(&MemoryDisk::new());
    let known = ValueMirror {
        at: 1,
        ..ValueMirror::default()
    };
    store.put_value(known, None).await.expect("durable");
    // One deposit was collected and is over: a restored relay has it again.
    let opened = OpenedDeposit {
        index: 0,
        message: b"Subject: text\r\n\r\ntext\r\n".to_vec(),
        summary: Vec::new(),
        now: 1_000,
    };
    store.collected(vec![pending(1)], 1).await.expect("durable");
    store.store_deposits(vec![opened]).await.expect("durable");
    store.confirmed(vec![0]).await.expect("durable");
    for is_frozen in [true, false] {
        let ended = work_on_a_restored(&store, is_frozen).await;
        assert!(ended.is_none(), "{ended:?}");
        assert_eq!(
            store.relay_generation(),
            Ok(0),
            "it is told when the pack is not frozen any more"
        );
    }
}

/// The first deposit, of so many kilobytes.
fn pending(kilobytes: u32) -> PendingDeposit {
    PendingDeposit {
        index: 0,
        wrap_digest: [1; 32],
        dek: deposit::Dek::new(Secret::new([2; 32])),
        body_digest: [3; 32],
        length: 4,
        kilobytes,
        alias: 0,
    }
}

/// A large message waits, which the disk has no room for.
#[tokio::test(start_paused = true)]
async fn a_full_disk_costs_no_bodies_and_holds_up_no_mail_that_goes_out() {
    let disk = MemoryDisk::new();
    let store = store(&disk);
    store.collected(vec![pending(16_000)], 1).await.expect("durable");
    store.enqueue(lunch()).await.expect("durable");
    disk.set_free_bytes(Some(RESERVE_BYTES + (8 << 20)));
    let counts = Arc::new(Mutex::new((0, 0)));
    let counted = Arc::clone(&counts);
    let answer = move |request: &Request| {
        let mut counts = counted.lock().expect("one thread");
        counts.0 += usize::from(matches!(request, Request::Fetch { .. }));
        counts.1 += 1;
        plainly(request)
    };
    let (established, stream, link) = linked();
    tokio::spawn(relay(stream, link, answer));
    let (_ask, asked) = mpsc::channel(1);
    let (mut wishes, _refresh) = wishes(asked);
    let short_of_room = Arc::clone(&wishes.short_of_room);
    let (_stop, stop) = watch::channel(false);
    let (host, config) = (system::host(), config());
    let mut work = std::pin::pin!(work(&host, &store, &config, established, &mut wishes, stop));
    let hour = Duration::from_secs(3_600);
    assert!(tokio::time::timeout(hour, &mut work).await.is_err(), "the link is kept");
    assert!(store.outbox().expect("readable").is_empty(), "what was to go out went");
    assert!(short_of_room.load(Ordering::Relaxed));
    let (fetched, asked) = *counts.lock().expect("one thread");
    assert!(fetched == 0 && asked < 20, "{fetched} {asked}");
    disk.set_free_bytes(None);
    assert!(tokio::time::timeout(hour, &mut work).await.is_err(), "the link is kept");
    assert!(!short_of_room.load(Ordering::Relaxed));
    assert!(counts.lock().expect("one thread").0 > 0, "it is asked for");
}

/// What it refused for want of an alias that it lost would be reported as not sent.
#[tokio::test(start_paused = true)]
async fn a_restored_relay_is_sent_nothing_while_the_disk_keeps_it_from_being_told() {
    let disk = MemoryDisk::new();
    let store = store(&disk);
    let known = ValueMirror {
        at: 1,
        ..ValueMirror::default()
    };
    store.put_value(known, None).await.expect("durable");
    store.collected(vec![pending(16_000)], 1).await.expect("durable");
    disk.set_free_bytes(Some(RESERVE_BYTES + (8 << 20)));
    let sent = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&sent);
    let answer = move |request: &Request| {
        *counted.lock().expect("one thread") += usize::from(matches!(request, Request::Change(_)));
        plainly(request)
    };
    let (established, stream, link) = linked();
    tokio::spawn(relay(stream, link, answer));
    let (_ask, asked) = mpsc::channel(1);
    let (mut wishes, _refresh) = wishes(asked);
    let (stops, stop) = watch::channel(false);
    let established = Established {
        generation: 5,
        ..established
    };
    let (host, config) = (system::host(), config());
    {
        let mut work = std::pin::pin!(work(&host, &store, &config, established, &mut wishes, stop));
        let hour = Duration::from_secs(3_600);
        assert!(tokio::time::timeout(hour, &mut work).await.is_err(), "the link is kept");
        store.enqueue(lunch()).await.expect("durable");
        assert!(tokio::time::timeout(hour, &mut work).await.is_err(), "the link is kept");
        assert_eq!(
            (*sent.lock().expect("one thread"), store.relay_generation()),
            (0, Ok(0))
        );
        stops.send_replace(true);
        assert!(matches!(work.await, Ended::Stopped));
    }
    assert!(wishes.shortage.lasts(), "the next link knows of it");
}
