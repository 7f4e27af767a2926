//! The log alone: what a crash or a failure leaves of it.

use super::batch::DIRECT_BYTES;
use super::reading::HANDLES_MAX;
use super::*;
use crate::disk::MemoryDisk;
use crate::entropy::SeededEntropy;
use crate::overlay::RowName;

const FOLDER: &str = "/l";
const SEGMENT: u64 = 64 << 10;

fn open_from(disk: &MemoryDisk, mark: &Mark) -> Result<(Log, replay::Replayed), StoreError> {
    disk.create_dir_all(Path::new(FOLDER)).expect("made");
    let entropy = Arc::new(SeededEntropy::new(disk.operations()));
    Log::open(
        Arc::new(disk.clone()),
        Path::new(FOLDER),
        Secret::new([9; 32]),
        SEGMENT,
        mark,
        entropy,
    )
}

fn open(disk: &MemoryDisk) -> (Log, replay::Replayed) {
    open_from(disk, &Mark::default()).expect("opened")
}

fn rows(key: u64) -> Overlay {
    let mut rows = Overlay::default();
    let name = RowName::new(1, &key.to_be_bytes()).expect("short");
    rows.set(name, Some(key.to_le_bytes().as_slice().into()));
    rows
}

fn keys(rows: &Overlay) -> Vec<u64> {
    let key = |(name, _): (&RowName, &crate::overlay::Value)| {
        u64::from_be_bytes(name.key().try_into().expect("as it was written"))
    };
    rows.iter().map(key).collect()
}

fn commit(log: &Log, rows: &Overlay) -> Result<(), CommitFailed> {
    log.commit(rows).map(|committed| log.account(&committed))
}

/// Commits one row and one body.
fn put(log: &Log, key: u64, body: &[u8]) -> Result<Location, CommitFailed> {
    log.begin().map_err(CommitFailed::Voided)?;
    match log.append(key, body) {
        Ok(location) => commit(log, &rows(key)).map(|()| location),
        Err(error) => {
            log.abandon();
            Err(CommitFailed::Voided(error))
        }
    }
}

/// As [`put`], of a body that comes in parts.
fn put_parts(log: &Log, key: u64, body: &[u8]) -> Result<Location, CommitFailed> {
    log.begin().map_err(CommitFailed::Voided)?;
    let parts = body.chunks(64 << 10).map(<[u8]>::to_vec);
    match log.append_parts(key, body.len(), parts) {
        Ok(location) => commit(log, &rows(key)).map(|()| location),
        Err(error) => {
            log.abandon();
            Err(CommitFailed::Voided(error))
        }
    }
}

#[test]
fn what_was_committed_is_read_again_in_order_over_many_segments() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    let bodies: Vec<_> = (0..90u64)
        .map(|key| vec![u8::try_from(key).expect("small"); 100 + 97 * usize::try_from(key).expect("small")])
        .collect();
    let places: Vec<_> = (0..90)
        .map(|key| put(&log, key, &bodies[key as usize]).ok().expect("committed"))
        .collect();
    assert!(places.last().expect("many").segment > 3);
    drop(log);
    disk.crash(1);
    let (again, replayed) = open(&disk);
    assert_eq!((replayed.commit, keys(&replayed.rows)), (90, (0..90).collect()));
    for (place, body) in places.iter().zip(&bodies) {
        assert_eq!(again.read(*place).as_ref(), Ok(body));
    }
    assert!(put(&again, 90, b"").is_ok());
    drop(again);
    assert_eq!(open(&disk).1.commit, 91);
}

#[test]
fn a_large_body_is_written_from_where_it_lies_and_found_again() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    log.begin().expect("room");
    let bodies = [
        vec![1; 700],
        vec![2; DIRECT_BYTES + 5],
        vec![3; 900],
        vec![4; DIRECT_BYTES],
    ];
    let places: Vec<_> = (1..)
        .zip(&bodies)
        .map(|(name, body)| log.append(name, body).expect("room"))
        .collect();
    assert!(commit(&log, &rows(1)).is_ok());
    drop(log);
    disk.crash(2);
    let (again, replayed) = open(&disk);
    assert_eq!(replayed.commit, 1);
    for (place, body) in places.iter().zip(&bodies) {
        assert_eq!(again.read(*place).as_ref(), Ok(body));
    }
}

#[test]
fn more_than_a_record_may_have_is_refused_before_it_is_written() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    let mut too_much = rows(1);
    let name = RowName::new(1, b"long").expect("short");
    too_much.set(name, Some(vec![0; 256 << 20].into()));
    // The first would begin a segment, the other goes behind a record.
    for key in [2, 3] {
        log.begin().expect("room");
        let refused = log.commit(&too_much).err();
        assert!(matches!(refused, Some(CommitFailed::Voided(StoreError::Invalid))));
        assert!(put(&log, key, b"body").is_ok());
    }
    drop(log);
    disk.crash(3);
    assert_eq!(keys(&open(&disk).1.rows), [2, 3]);
}

#[test]
fn a_record_whose_body_was_torn_never_was() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    assert!(put(&log, 1, &[1; 3_000]).is_ok());
    let place = put(&log, 2, &[2; 3_000]).ok().expect("committed");
    drop(log);
    let file = disk
        .open(&path_of(Path::new(FOLDER), place.segment), false)
        .expect("there");
    file.write_at(place.offset + 2_999, &[9]).expect("written");
    assert_eq!(keys(&open(&disk).1.rows), [1]);
}

#[test]
fn wherever_a_write_fails_the_failed_commit_never_comes_back() {
    for (nth, seed) in (0..6).flat_map(|nth| (0..4).map(move |seed| (nth, seed))) {
        let disk = MemoryDisk::new();
        let (log, _) = open(&disk);
        assert!(put(&log, 1, &[1; 2_000]).is_ok());
        disk.fail_nth(nth);
        let mut expected = vec![1];
        for key in 2..6 {
            match put(&log, key, &vec![2; DIRECT_BYTES]) {
                Ok(_) => expected.push(key),
                Err(CommitFailed::Voided(_)) => {}
                Err(CommitFailed::Unknown) => panic!("one failure leaves a way to be certain"),
            }
        }
        drop(log);
        disk.crash(seed);
        let (log, replayed) = open(&disk);
        assert_eq!(keys(&replayed.rows), expected, "failure {nth} seed {seed}");
        assert!(put(&log, 9, b"").is_ok());
        drop(log);
        disk.crash(seed);
        expected.push(9);
        assert_eq!(keys(&open(&disk).1.rows), expected, "failure {nth} seed {seed}");
    }
}

#[test]
fn wherever_a_part_of_a_body_fails_the_others_come_back_whole() {
    let body = |key: u64| -> Vec<u8> { (0..300_000u64).map(|at| (at * at / 77 + key) as u8).collect() };
    let mut failed = 0;
    for (nth, seed) in (0..12).flat_map(|nth| (0..4).map(move |seed| (nth, seed))) {
        let disk = MemoryDisk::new();
        let (log, _) = open(&disk);
        assert!(put(&log, 1, &[1; 2_000]).is_ok());
        disk.fail_nth(nth);
        let mut places = Vec::new();
        for key in 2..5 {
            match put_parts(&log, key, &body(key)) {
                Ok(place) => places.push((key, place)),
                Err(CommitFailed::Voided(_)) => failed += 1,
                Err(CommitFailed::Unknown) => panic!("one failure leaves a way to be certain"),
            }
        }
        drop(log);
        disk.crash(seed);
        let (log, replayed) = open(&disk);
        let expected: Vec<_> = [1].into_iter().chain(places.iter().map(|(key, _)| *key)).collect();
        assert_eq!(keys(&replayed.rows), expected, "failure {nth} seed {seed}");
        for (key, place) in places {
            assert!(
                log.read(place).as_ref() == Ok(&body(key)),
                "failure {nth} seed {seed} key {key}"
            );
        }
    }
    assert!(failed >= 40, "{failed}");
}

#[test]
fn a_log_goes_on_where_the_index_left_it_and_keeps_what_lives() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    let kept = put(&log, 1, &[7; 5_000]).ok().expect("committed");
    for key in 2..40 {
        assert!(put(&log, key, &[1; 5_000]).is_ok());
    }
    let mark = log.mark();
    log.checkpointed(&mark, log.tail_bytes());
    assert!(put(&log, 40, &[1; 5_000]).is_ok());
    drop(log);
    disk.crash(3);
    let (log, replayed) = open_from(&disk, &mark).expect("opened");
    assert_eq!((replayed.commit, keys(&replayed.rows)), (40, vec![40]));
    assert_eq!(log.read(kept), Ok(vec![7; 5_000]));
    // Everything in the first segment but the body that is kept goes, and the segment stays for it.
    log.make_spares().expect("room");
    assert_eq!(log.read(kept), Ok(vec![7; 5_000]));
    drop(log);
    disk.remove(&path_of(Path::new(FOLDER), kept.segment)).expect("there");
    assert_eq!(open_from(&disk, &mark).err(), Some(StoreError::Corrupt));
}

#[test]
fn a_finished_segment_becomes_a_spare_whose_old_records_are_void() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    let mut mark = Mark::default();
    for round in 0..30u64 {
        for key in 0..10 {
            let body = put(&log, 10 * round + key, &[1; 5_000]).ok().expect("committed");
            log.begin().expect("room");
            log.release(body);
            assert!(commit(&log, &Overlay::default()).is_ok());
        }
        mark = log.mark();
        log.checkpointed(&mark, log.tail_bytes());
        log.make_spares().expect("room");
    }
    assert!(log.bytes() <= 5 * SEGMENT, "{} bytes", log.bytes());
    assert!(put(&log, 1_000, b"last").is_ok());
    drop(log);
    disk.crash(5);
    assert_eq!(keys(&open_from(&disk, &mark).expect("opened").1.rows), [1_000]);
}

#[test]
fn spares_that_are_made_beside_commits_take_no_segment_from_them() {
    for round in 0..12 {
        let disk = MemoryDisk::new();
        let (log, _) = open(&disk);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..40 {
                    log.make_spares().expect("room");
                    // As if segments had lasted long: spares are written ahead all the time.
                    log.state().is_hurried = false;
                }
            });
            for key in 0..60 {
                assert!(put(&log, key, &[1; 9_000]).is_ok());
            }
        });
        drop(log);
        disk.crash(round);
        assert_eq!(keys(&open(&disk).1.rows), (0..60).collect::<Vec<_>>(), "round {round}");
    }
}

#[test]
fn batches_that_come_to_nothing_use_up_no_segment() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    while log
        .state()
        .head
        .as_ref()
        .is_none_or(|(head, _)| head.offset + SEGMENT / MARGIN <= SEGMENT)
    {
        assert!(put(&log, 1, &[1; 5_000]).is_ok());
    }
    let before = log.bytes();
    for _ in 0..50 {
        log.begin().expect("room");
        log.abandon();
    }
    assert!(log.bytes() <= before + SEGMENT);
    assert!(put(&log, 2, b"next").is_ok());
    drop(log);
    assert_eq!(keys(&open(&disk).1.rows), [1, 2]);
}

#[test]
fn what_is_behind_a_gap_is_refused_and_left_alone() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    let places: Vec<_> = (0..40)
        .map(|key| put(&log, key, &[1; 5_000]).ok().expect("committed"))
        .collect();
    drop(log);
    let file = disk
        .open(&path_of(Path::new(FOLDER), places[12].segment), false)
        .expect("there");
    file.write_at(places[12].offset, &[9]).expect("written");
    let before = disk.fingerprint();
    assert_eq!(open_from(&disk, &Mark::default()).err(), Some(StoreError::Corrupt));
    assert_eq!(disk.fingerprint(), before, "nothing was removed");
}

#[test]
fn a_record_that_lost_its_header_does_not_come_back_under_the_next_one() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    log.make_spares().expect("room");
    let place = put(&log, 1, b"lost").ok().expect("committed");
    drop(log);
    // The sector of the header never reached the disk, the record did.
    let path = path_of(Path::new(FOLDER), place.segment);
    disk.open(&path, false)
        .expect("there")
        .write_at(0, &[0; 512])
        .expect("written");
    let (log, replayed) = open(&disk);
    assert_eq!(replayed.commit, 0);
    assert!(put(&log, 2, b"next").is_ok());
    drop(log);
    assert_eq!(keys(&open(&disk).1.rows), [2]);
    assert!(disk.open(&path, false).is_err(), "it is not used again");
}

#[test]
fn a_store_of_many_segments_keeps_few_files_open() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    let places: Vec<_> = (0..1_200)
        .map(|key| put(&log, key, &[1; 5_000]).ok().expect("committed"))
        .collect();
    assert!(places.last().expect("many").segment > u32::try_from(HANDLES_MAX).expect("small"));
    for place in places.iter().step_by(7) {
        assert_eq!(log.read(*place), Ok(vec![1; 5_000]));
    }
    assert!(log.state().handles.files.len() <= HANDLES_MAX);
}
