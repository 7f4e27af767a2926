//! Statements about the work on a link, with a relay that answers what a test tells it to.

use std::path::Path;
use std::sync::{Arc, Mutex};

use keypacks::cell::Kind;
use keypacks::link::Link;
use keypacks::pack::{Identifier, Issue, PassphraseCost};
use keypacks::{Secret, deposit};
use ledger::PriceList;
use mailbox::Entropy;
use mailbox::disk::{Disk, MemoryDisk};
use mailbox::entropy::SeededEntropy;
use mailbox::holder::{HolderFiles, HolderOptions};
use mailbox::holder_store::{OutboxOrder, SentNames};
use mailbox::request;
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
        Request::Fetch { .. } | Request::Lease { .. } => busily(request),
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

/// A holder with one message in its outbox works on a link for `time`; `None` if the link lasts that long.
async fn work_for(
    time: Duration,
    answer: impl FnMut(&Request) -> Answer + Send + 'static,
) -> (HolderFiles, Option<Ended>) {
    let (_ask, asked) = mpsc::channel(1);
    work_with(asked, time, answer).await
}

/// The same with somebody who may ask for a statement.
async fn work_with(
    asked: mpsc::Receiver<Statement>,
    time: Duration,
    answer: impl FnMut(&Request) -> Answer + Send + 'static,
) -> (HolderFiles, Option<Ended>) {
    let store = store(&MemoryDisk::new());
    let order = OutboxOrder {
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
        now: 1_000,
    };
    store.enqueue(order).await.expect("durable");

    let (established, stream, link) = linked();
    tokio::spawn(relay(stream, link, answer));
    let config = config();
    let (_refresh, refreshed) = watch::channel(0);
    let mut wishes = Wishes {
        refreshed,
        asked,
        resume: watch::Sender::new(false),
    };
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
    for refusal in [Refusal::Value { shortfall: 1 }, Refusal::Price { price: 1, prices: 2 }] {
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
        assert_eq!(store.inbox().entries.len(), 11, "a notice for each");
    }
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
