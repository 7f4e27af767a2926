//! What the seals cost: `cargo bench -p keypacks`.

use divan::Bencher;
use divan::counter::BytesCount;
use keypacks::cell::{Frame, Kind};
use keypacks::chain::{BoxChain, BoxKind, LINK_LOOK_AHEAD, LinkChain};
use keypacks::deposit::{BodySealer, Dek, WrapFields, open_body, open_wrap, seal_wrap};
use keypacks::link::{self, ClientEntropy, Confirm, Link, PersistedIndex, RelaySecret};
use keypacks::parcel::{self, HEAD, HOP, Header, LayerOpener, LayerSealer};
use keypacks::rows::RowKeys;
use keypacks::secretbox::{MAC, open_in_place, seal_in_place};
use keypacks::{CELL, Secret};

fn main() {
    divan::main();
}

/// A message of usual size, what a cell seals, a long message.
const LENGTHS: [usize; 3] = [4_096, CELL - MAC, 65_536];
const NONCE: [u8; 24] = [3; 24];

fn key() -> Secret<32> {
    Secret::new([7; 32])
}

#[divan::bench(args = LENGTHS)]
fn seal(bencher: Bencher<'_, '_>, length: usize) {
    let (key, mut boxed) = (key(), vec![1; MAC + length]);
    bencher
        .counter(BytesCount::new(length))
        .bench_local(|| seal_in_place(&key, &NONCE, &mut boxed));
}

/// The copy of what is opened is not in the figure.
#[divan::bench(args = LENGTHS)]
fn open(bencher: Bencher<'_, '_>, length: usize) {
    let (key, mut boxed) = (key(), vec![1; MAC + length]);
    seal_in_place(&key, &NONCE, &mut boxed);
    bencher
        .counter(BytesCount::new(length))
        .with_inputs(|| boxed.clone())
        .bench_local_refs(|boxed| open_in_place(&key, &NONCE, boxed).map(|_| ()).expect("as sealed"));
}

/// A row of a store at rest, of usual length, there and back.
#[divan::bench]
fn row_sealed_and_opened(bencher: Bencher<'_, '_>) {
    let rows = RowKeys::new(&key(), "store/row", &Secret::new([9; 32]));
    bencher.bench_local(|| {
        let sealed = rows.seal(b"name", &[3; 32], &[1; 200]);
        rows.open(b"name", &sealed).map(|plain| plain.len()).expect("as sealed")
    });
}

#[divan::bench]
fn link_step(bencher: Bencher<'_, '_>) {
    let mut chain = LinkChain::from_root(&key());
    bencher.bench_local(|| chain.advance().tag.0);
}

/// What a relay computes for an account when it starts.
#[divan::bench]
fn tags_ahead(bencher: Bencher<'_, '_>) {
    let chain = LinkChain::from_root(&key());
    bencher.bench_local(|| chain.tags_ahead(LINK_LOOK_AHEAD));
}

#[divan::bench]
fn box_step(bencher: Bencher<'_, '_>) {
    let mut chain = BoxChain::from_root(BoxKind::Post, &key());
    bencher.bench_local(|| chain.advance().tag.0);
}

#[divan::bench(args = [4_000, 65_536])]
fn seal_body(bencher: Bencher<'_, '_>, length: usize) {
    let payload = vec![1; length];
    bencher.counter(BytesCount::new(length)).bench_local(|| {
        let mut sealer = BodySealer::new(Dek::new(key()), [5; 16]);
        sealer.push(&payload).expect("below the largest class");
        sealer.finish().body
    });
}

#[divan::bench(args = [4_000, 65_536])]
fn open_sealed_body(bencher: Bencher<'_, '_>, length: usize) {
    let mut sealer = BodySealer::new(Dek::new(key()), [5; 16]);
    sealer.push(&vec![1; length]).expect("below the largest class");
    let sealed = sealer.finish();
    bencher
        .counter(BytesCount::new(length))
        .with_inputs(|| sealed.body.clone())
        .bench_local_values(|body| open_body(&sealed.dek, body, sealed.length).expect("as sealed"));
}

/// A message of 25 MiB, as it leaves in a parcel.
const LARGE: usize = 25 << 20;

fn sealed_parcel(payload: &[u8]) -> Vec<u8> {
    let class = parcel::class_for(payload.len()).expect("below the largest class");
    let header = Header {
        kind: parcel::Kind::Deliver,
        class,
        length: u32::try_from(payload.len()).expect("below the largest class"),
        hop: [0; HOP],
    };
    let step = BoxChain::from_root(BoxKind::Parcel, &key()).advance();
    let mut out = Vec::with_capacity(parcel::class_bytes(class));
    let mut sealer = LayerSealer::new(step, [5; 16], &header, &mut out).expect("a class that holds it");
    for piece in payload.chunks(65_536) {
        sealer.push(piece, &mut out).expect("as long as the header says");
    }
    sealer.finish(|_| (), &mut out);
    out
}

#[divan::bench]
fn seal_parcel_25_mib(bencher: Bencher<'_, '_>) {
    let payload = vec![1; LARGE];
    bencher
        .counter(BytesCount::new(LARGE))
        .bench_local(|| sealed_parcel(&payload));
}

#[divan::bench]
fn open_parcel_25_mib(bencher: Bencher<'_, '_>) {
    let sealed = sealed_parcel(&vec![1; LARGE]);
    let step = BoxChain::from_root(BoxKind::Parcel, &key()).advance();
    let (head, rest) = sealed.split_first_chunk::<HEAD>().expect("a whole parcel");
    let mut opened = Vec::with_capacity(LARGE);
    bencher.counter(BytesCount::new(LARGE)).bench_local(|| {
        opened.clear();
        let mut opener = LayerOpener::new(&step, head).expect("as sealed");
        for piece in rest.chunks(65_536) {
            opener
                .push(piece, |plain| opened.extend_from_slice(plain))
                .expect("as sealed");
        }
        opener.finish().map(|header| header.length).expect("as sealed")
    });
}

fn wrap_fields() -> WrapFields {
    WrapFields {
        dek: Dek::new(key()),
        body_digest: [1; 32],
        length: 4_000,
        kilobytes: 8,
        day: 20_000,
        alias: 0,
    }
}

#[divan::bench]
fn wrap(bencher: Bencher<'_, '_>) {
    let (step, fields) = (BoxChain::from_root(BoxKind::Post, &key()).advance(), wrap_fields());
    bencher.bench_local(|| seal_wrap(&step, NONCE, &fields));
}

#[divan::bench]
fn unwrap(bencher: Bencher<'_, '_>) {
    let step = BoxChain::from_root(BoxKind::Post, &key()).advance();
    let wrap = seal_wrap(&step, NONCE, &wrap_fields());
    bencher.bench_local(|| open_wrap(&step, &wrap).map(|fields| fields.day).expect("as sealed"));
}

/// One cell from frame to frame: the next key at both ends, a seal and an opening.
#[divan::bench]
fn cell_sent_and_received(bencher: Bencher<'_, '_>) {
    let (mut holder, mut relay) = standing_link();
    let data = [1; 4_096];
    let mut cell = Box::new([0; CELL]);
    bencher.counter(BytesCount::new(CELL)).bench_local(|| {
        let frame = Frame {
            kind: Kind::Request,
            last: true,
            stream: 1,
            data: &data,
        };
        holder.sealer.seal(frame, &mut cell);
        relay
            .opener
            .open(&mut cell)
            .map(|frame| frame.data.len())
            .expect("as sealed")
    });
}

#[divan::bench]
fn handshake_of_both_ends() {
    standing_link();
}

struct Index;

impl PersistedIndex for Index {
    fn persisted_index(&self) -> u64 {
        0
    }
}

fn standing_link() -> (Link, Link) {
    let step = || LinkChain::from_root(&key()).advance();
    let secret = RelaySecret::new(Secret::new([2; 32]));
    let entropy = ClientEntropy {
        ephemeral: [1; 32],
        nonce: NONCE,
    };
    let confirm = Confirm {
        token: [0; 16],
        answered: 0,
    };
    let (dialling, mut cell1) = link::connect(step(), &secret.public(), entropy);
    let (accepting, mut cell2) = link::accept(step(), &secret, 0, &mut cell1, [4; 32], NONCE).expect("as made");
    let answered = dialling.answer(&mut cell2).expect("as made");
    let (mut cell3, holder) = answered
        .confirm(&Index, confirm, &key(), [6; 32])
        .expect("its own index");
    let relay = accepting.confirm(&mut cell3).expect("as made").burned(&Index);
    (holder, relay.expect("its own index"))
}
