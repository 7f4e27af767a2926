//! Both ends over memory disks that lose their power.

use std::collections::HashMap;
use std::path::Path;

use keypacks::cell::{Frame, Kind};
use keypacks::link::Confirm;
use keypacks::pad::{self, Offer, PAD_MIN, PadOpener, PadSealer};

use super::*;
use crate::disk::MemoryDisk;
use crate::entropy::{Entropy, SeededEntropy, random};

const PAD: &str = "/data/pad";

fn made() -> Made {
    Made {
        name: [9; 16],
        layout: Layout::of_size(PAD_MIN).expect("the smallest"),
    }
}

/// The bytes of a whole pad.
fn fresh(entropy: &dyn Entropy) -> Vec<u8> {
    let layout = made().layout;
    let mut bytes = vec![0; usize::try_from(layout.file_bytes()).expect("small")];
    entropy.fill(&mut bytes);
    let header = FileHeader::fresh(made()).encode();
    bytes[..HEADER_COPY].copy_from_slice(&header[..]);
    bytes[HEADER_COPY..2 * HEADER_COPY].copy_from_slice(&header[..]);
    bytes
}

fn disk_with(bytes: &[u8]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new("/data")).expect("made");
    let file = disk.open(Path::new(PAD), true).expect("made");
    file.write_at(0, bytes).expect("written");
    file.sync().expect("synced");
    disk
}

fn open(disk: &MemoryDisk, seals: Direction) -> Arc<PadFile> {
    Arc::new(PadFile::open(disk, Path::new(PAD), seals).expect("opens"))
}

/// A standing link, both ends.
struct Pair {
    up: (PadSealer, PadOpener),
    down: (PadSealer, PadOpener),
    ticket: Ticket,
}

/// What an observer wrote down: a tag, and the cell that it was seen on. One tag has one cell.
#[derive(Default)]
struct Recording {
    cells: HashMap<[u8; 16], Vec<u8>>,
    /// Records that sealed two.
    doubled: usize,
}

impl Recording {
    fn note(&mut self, cell: &[u8; CELL]) {
        let tag = *cell.first_chunk().expect("long enough");
        let before = self.cells.insert(tag, cell.to_vec());
        self.doubled += usize::from(before.is_some_and(|before| before != cell));
    }
}

struct World {
    entropy: SeededEntropy,
    recording: Recording,
}

impl World {
    fn cell1(&self, holder: &Arc<PadFile>, record: u64) -> ([u8; 16], Box<[u8; CELL]>) {
        let nonce = random(&self.entropy);
        let cell1 = holder.cell1(record, &nonce, random(&self.entropy));
        (nonce, cell1.expect("a record"))
    }

    /// As both programs do it; `None`: the relay kept silent.
    fn link(&mut self, holder: &Arc<PadFile>, relay: &Arc<PadFile>, stop_after: usize) -> Option<Pair> {
        let record = holder.next_attempt();
        let (nonce, cell1) = self.cell1(holder, record);
        let tags = relay.tags().expect("readable");
        let (record, _) = tags.into_iter().find(|(_, tag)| tag.0[..] == cell1[..16])?;
        let answer = relay.hello(record, nonce, 3, random(&self.entropy)).expect("works");
        let (mut cell2, ticket) = answer?;
        self.recording.note(&cell2);
        if stop_after == 2 {
            return None;
        }
        let mut opener = holder.down_opener();
        let offer: Offer = pad::open_offer(&mut opener, &**holder, &nonce, &mut cell2).expect("opens");
        assert!(holder.offered(&offer).expect("works"));
        let mut sealer = holder.up_sealer(random(&self.entropy));
        let confirm = Confirm {
            token: [0; 16],
            answered: 0,
        };
        let mut cell3 = pad::seal_confirm(&mut sealer, &confirm).expect("leased");
        self.recording.note(&cell3);
        if stop_after == 3 {
            holder.abandon();
            return None;
        }
        let mut relays = relay.opener(&ticket);
        assert!(pad::open_confirm(&mut relays, &mut cell3).is_ok_and(|shown| shown == confirm));
        assert!(relay.grant(&ticket).expect("works"));
        assert!(!relay.grant(&ticket).expect("works"), "once");
        if stop_after == 4 {
            holder.abandon();
            return None;
        }
        holder.leased().expect("works");
        Some(Pair {
            up: (sealer, relays),
            down: (relay.down_sealer(random(&self.entropy)), opener),
            ticket,
        })
    }

    fn send(&mut self, (sealer, opener): &mut (PadSealer, PadOpener), data: &[u8]) {
        let mut cell = [0; CELL];
        let frame = Frame {
            kind: Kind::Request,
            last: true,
            stream: 1,
            data,
        };
        sealer.seal(frame, false, &mut cell).expect("there is room");
        self.recording.note(&cell);
        assert!(opener.open(&mut cell).expect("opens").data == data);
    }
}

fn world(seed: u64) -> World {
    World {
        entropy: SeededEntropy::new(seed),
        recording: Recording::default(),
    }
}

#[test]
fn a_link_spends_what_the_formula_says_and_all_of_it_is_overwritten() {
    let mut world = world(1);
    let bytes = fresh(&world.entropy);
    let (at_holder, at_relay) = (disk_with(&bytes), disk_with(&bytes));
    let (holder, relay) = (open(&at_holder, Direction::Up), open(&at_relay, Direction::Down));
    let [up, down] = relay.left_at_relay();
    let mut pair = world.link(&holder, &relay, 9).expect("answered");
    for length in [5, 100, 1_000] {
        world.send(&mut pair.up, &vec![1; length]);
        world.send(&mut pair.down, &vec![2; length]);
    }
    let end = relay
        .lease_more(pair.ticket.end(), 4, 40_000)
        .expect("works")
        .expect("the last");
    holder.extended(end).expect("works");
    world.send(&mut pair.up, &[3; 16_000]);
    let [_, down_now] = relay.left_at_relay();
    // Cell 2 with 56 bytes, three cells of 1,105.
    assert_eq!(down.pad_bytes() - down_now.pad_bytes(), 64 + 56 + 3 * 64 + 1_105);
    // The record of cell 1, sixteen records and 4,096 bytes of the first lease, and what was leased on.
    let [up_now, _] = relay.left_at_relay();
    assert_eq!(
        up.pad_bytes() - up_now.pad_bytes(),
        64 + 16 * 64 + 4_096 + 4 * 64 + 40_000
    );

    holder.abandon();
    relay.finished(Direction::Up, end);
    let layout = made().layout;
    for (disk, pad) in [(&at_holder, &holder), (&at_relay, &relay)] {
        pad.settle().expect("works");
        let files = disk.files();
        let (_, file) = files.iter().find(|(path, _)| path.ends_with("pad")).expect("there");
        let is_gone = |from: u64, to: u64| {
            let range = usize::try_from(from).expect("small")..usize::try_from(to).expect("small");
            assert!(bytes[range.clone()].iter().any(|byte| *byte != 0), "the control");
            file[range].iter().all(|byte| *byte == 0)
        };
        assert!(is_gone(
            layout.record_at(Direction::Up, 0),
            layout.record_at(Direction::Up, end.record)
        ));
        assert!(is_gone(
            layout.body_at(Direction::Up, 0),
            layout.body_at(Direction::Up, end.offset)
        ));
        assert!(is_gone(
            layout.record_at(Direction::Down, 0),
            layout.record_at(Direction::Down, 4)
        ));
        assert!(is_gone(
            layout.body_at(Direction::Down, 0),
            layout.body_at(Direction::Down, 1_161)
        ));
        let untouched = usize::try_from(layout.body_at(Direction::Up, end.offset)).expect("small");
        assert!(file[untouched..][..1_000] == bytes[untouched..][..1_000]);
    }
}

#[test]
fn the_same_hello_gets_the_same_bytes_and_another_silence() {
    let mut world = world(2);
    let bytes = fresh(&world.entropy);
    let (holder, relay) = (
        open(&disk_with(&bytes), Direction::Up),
        open(&disk_with(&bytes), Direction::Down),
    );
    let (nonce, _) = world.cell1(&holder, 0);
    let ask = |nonce, seed| relay.hello(0, nonce, 0, [seed; 32]).expect("works");
    let (first, _) = ask(nonce, 1).expect("answered");
    assert!(ask(nonce, 2).expect("again").0 == first);
    assert!(ask([7; 16], 3).is_none());
    // Who was cut off goes on, and the older connection does not.
    let (_, older) = ask(nonce, 4).expect("again");
    assert!((0..4).find_map(|_| world.link(&holder, &relay, 9)).is_some());
    assert!(!relay.grant(&older).expect("works"));
    assert!(ask(nonce, 5).is_none());
}

#[test]
fn a_hello_beyond_the_window_gets_silence_and_what_is_kept_back_serves_small_requests_alone() {
    let mut world = world(3);
    let bytes = fresh(&world.entropy);
    let (holder, relay) = (
        open(&disk_with(&bytes), Direction::Up),
        open(&disk_with(&bytes), Direction::Down),
    );
    assert!(relay.hello(TAGS_AHEAD, [1; 16], 0, [1; 32]).expect("works").is_none());
    let pair = world.link(&holder, &relay, 9).expect("answered");
    let (kept, [up, _]) = (kept_back(made().layout), relay.left_at_relay());
    let end = pair.ticket.end();
    assert!(relay.lease_more(end, 17, up.bytes).is_err());
    let end = relay
        .lease_more(end, 17, up.bytes - kept.bytes)
        .expect("works")
        .expect("the last");
    assert!(relay.lease_more(end, 17, 1).spent());
    assert!(relay.lease_more(end, 2, 4_096).expect("works").is_some());
    assert!(
        relay.lease_more(end, 2, 4_096).expect("works").is_none(),
        "of another end"
    );
}

trait Spent {
    fn spent(self) -> bool;
}

impl<T> Spent for Result<T, PadError> {
    fn spent(self) -> bool {
        matches!(self, Err(PadError::Spent))
    }
}

/// Random traffic; either end loses its power at any moment, or comes back from an old copy (a holder), or has a copy
/// beside it. Whatever they do, no record seals two cells.
#[test]
fn no_record_seals_two_cells_whatever_crashes_or_is_copied() {
    let (mut stood, mut cells) = (0, 0);
    for seed in 0..60 {
        let mut world = world(100 + seed);
        let bytes = fresh(&world.entropy);
        let disks = [disk_with(&bytes), disk_with(&bytes), disk_with(&bytes)];
        let ends = [Direction::Up, Direction::Down, Direction::Up];
        let mut pads: Vec<Arc<PadFile>> = disks.iter().zip(ends).map(|(disk, seals)| open(disk, seals)).collect();
        for _ in 0..40 {
            let [chance, which, stop_after, length] = random(&world.entropy);
            let end = usize::from(which) % 3;
            match chance % 8 {
                0 => disks[end].power_off_after(u64::from(length % 12)),
                1 => {
                    let _ = pads[end].settle();
                }
                _ => {}
            }
            let holder = Arc::clone(&pads[2 * usize::from(stop_after & 1)]);
            let relay = Arc::clone(&pads[1]);
            let work = std::panic::AssertUnwindSafe(|| {
                let stop = usize::from(stop_after >> 1) % 8;
                let tries = if (2..=4).contains(&stop) { 2 } else { 40 };
                let linked = (0..tries).find_map(|_| world.link(&holder, &relay, stop));
                let Some(mut pair) = linked else { return };
                stood += 1;
                for _ in 0..stop_after % 5 {
                    world.send(&mut pair.up, &vec![1; usize::from(length)]);
                    world.send(&mut pair.down, &vec![1; usize::from(length)]);
                }
                holder.abandon();
            });
            // What fails for want of power ends there.
            let failed = std::panic::catch_unwind(work).is_err();
            if failed {
                assert!(disks.iter().any(MemoryDisk::is_off), "seed {seed}");
            }
            for (number, disk) in disks.iter().enumerate() {
                if disk.is_off() {
                    disk.crash(seed);
                    pads[number] = open(disk, ends[number]);
                }
                disk.mend();
            }
        }
        assert_eq!(world.recording.doubled, 0, "seed {seed}");
        cells += world.recording.cells.len();
    }
    assert!(stood > 300 && cells > 2_000, "{stood} links, {cells} cells");
}

#[test]
fn a_lease_that_was_asked_for_is_looked_for_by_the_next_process_and_not_after_its_answer() {
    let mut world = world(4);
    let bytes = fresh(&world.entropy);
    let (disk, relays) = (disk_with(&bytes), disk_with(&bytes));
    let (holder, relay) = (open(&disk, Direction::Up), open(&relays, Direction::Down));
    let pair = world.link(&holder, &relay, usize::MAX).expect("a link");
    // More than the window of the relay and than the first steps of a search.
    const MORE: u64 = 200;
    holder.asking(MORE).expect("works");
    let end = pair.ticket.end();
    assert!(relay.lease_more(end, MORE, 64).expect("there is room").is_some());
    drop(holder);
    disk.reopen();
    let holder = open(&disk, Direction::Up);
    let tries = (0..4).position(|_| world.link(&holder, &relay, usize::MAX).is_some());
    assert!(tries.is_some(), "the relay is found near the end of that lease");

    let ended = holder.lease_end();
    holder.asking(MORE).expect("works");
    holder.extended(ended).expect("works");
    drop(holder);
    disk.reopen();
    let holder = open(&disk, Direction::Up);
    let tries: Vec<u64> = (0..40).map(|_| holder.next_attempt()).collect();
    let near = ended.record..ended.record + TAGS_AHEAD;
    assert!(
        tries.iter().step_by(2).all(|record| near.contains(record)),
        "it was answered"
    );
}
