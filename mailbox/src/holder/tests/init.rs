//! From a pack file to a store.

use keypacks::chain::{BoxChain, BoxKind, LinkChain};
use keypacks::pack::{BLOCK, Header, PackPad};
use keypacks::pad::{FileHeader, HEADER_COPY, Half, HalfDigest, Layout, Made, PAD_MIN};

use super::*;
use crate::holder::{InitError, Initialised, init_from_halves, init_from_pack};

const PACK: &str = "/packs/one.pack";

/// A pack file as a relay issues it.
fn write_pack(disk: &MemoryDisk, identifier: u8) {
    write_pack_with(disk, identifier, None);
}

fn write_pack_with(disk: &MemoryDisk, identifier: u8, pad: Option<PackPad>) {
    let file_key = Secret::new([5; 32]);
    let issue = Issue {
        pad,
        ..issue(identifier)
    };
    let head = Header::create(PASSPHRASE, &file_key, [1; 16], [2; 24], PassphraseCost::LEAST);
    let body = issue.seal(&file_key, [3; 24]).expect("the names fit");
    disk.create_dir_all(Path::new("/packs")).expect("made");
    let file = disk.open(Path::new(PACK), true).expect("opened");
    for (block, bytes) in [&head, &head, &*body, &*body].into_iter().enumerate() {
        file.write_at((block * BLOCK) as u64, bytes).expect("written");
    }
    file.sync().expect("synced");
}

fn init(disk: &MemoryDisk, seed: u64) -> Result<Initialised, InitError> {
    init_from_pack(
        &shared(disk),
        Path::new(PACK),
        Path::new(FOLDER),
        PASSPHRASE,
        &options(),
        &entropy(seed),
    )
}

#[test]
fn a_pack_becomes_a_store_and_its_root_is_overwritten() {
    let disk = MemoryDisk::new();
    write_pack(&disk, 1);
    assert_eq!(init(&disk, 1), Ok(Initialised::New));
    let (_, pack) = disk
        .files()
        .into_iter()
        .find(|(path, _)| path.ends_with("one.pack"))
        .expect("there");
    assert!(pack[2 * BLOCK..].iter().all(|byte| *byte == 0));
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let facts = running.store.facts();
        assert_eq!(
            (&facts.relay_address[..], &facts.relay_domain[..]),
            ("relay.test:7025", "relay.test")
        );
        assert!(facts.identifier.0 == [1; 16] && facts.relay_public == [9; 32]);
        assert_eq!(
            running.store.aliases().expect("readable")[0].address,
            "first@relay.test"
        );
        let step = running.store.link_step(0).expect("the first key");
        assert!(step.tag == LinkChain::from_root(&root()).advance().tag);
        let step = running.store.post_step(3).expect("ahead");
        assert!(
            step.tag
                == BoxChain::from_root(BoxKind::Post, &root())
                    .step_at(3)
                    .expect("ahead")
                    .tag
        );
        running.stop().await;
    });
    assert_eq!(init(&disk, 3), Ok(Initialised::Already));
}

#[test]
fn a_pack_that_was_initialised_elsewhere_and_a_folder_of_another_pack_are_refused() {
    let disk = MemoryDisk::new();
    write_pack(&disk, 1);
    init(&disk, 1).expect("made");
    let elsewhere = Path::new("/elsewhere");
    let again = init_from_pack(
        &shared(&disk),
        Path::new(PACK),
        elsewhere,
        PASSPHRASE,
        &options(),
        &entropy(2),
    );
    assert_eq!(again, Err(InitError::Spent));
    let over = HolderFiles::create(
        &shared(&disk),
        Path::new(FOLDER),
        &issue(1),
        PASSPHRASE,
        &options(),
        &entropy(4),
    );
    assert_eq!(over, Err(StoreError::Invalid), "a store is never made over");
    write_pack(&disk, 2);
    assert_eq!(init(&disk, 3), Err(InitError::OtherPack));
    let wrong = init_from_pack(
        &shared(&disk),
        Path::new(PACK),
        elsewhere,
        b"wrong",
        &options(),
        &entropy(2),
    );
    assert_eq!(wrong, Err(InitError::Store(StoreError::Passphrase)));
}

#[test]
fn wherever_the_power_fails_while_a_pack_is_initialised_trying_again_finishes_it() {
    for operation in 0.. {
        let disk = MemoryDisk::new();
        write_pack(&disk, 1);
        disk.power_off_after(operation);
        let first = init(&disk, 1);
        disk.restart(operation);
        let second = init(&disk, 2).unwrap_or_else(|error| panic!("after operation {operation}: {error}"));
        assert!(first.is_err() || second == Initialised::Already);
        block_on(async { Running::open(&disk, 3).expect("opens").stop().await });
        if first.is_ok() {
            break;
        }
    }
}

const HALF: &str = "/other/half";

fn pad_bytes(disk: &MemoryDisk, path: &str) -> Option<Vec<u8>> {
    let files = disk.files();
    let (_, bytes) = files.into_iter().find(|(found, _)| found == Path::new(path))?;
    Some(bytes)
}

/// A pack whose pad is one of two halves, and the other one.
fn write_halved_pack(disk: &MemoryDisk) -> (Vec<u8>, Half) {
    let made = Made {
        name: [7; 16],
        layout: Layout::of_size(PAD_MIN).expect("the smallest"),
    };
    let count = usize::try_from(2 * made.layout.region()).expect("small");
    let bytes = |seed| {
        let mut bytes = vec![0; count];
        entropy(seed).fill(&mut bytes);
        bytes
    };
    let (first, second) = (bytes(70), bytes(71));
    let mut digest = HalfDigest::default();
    digest.update(&second);
    let half = digest.finish();
    write_pack_with(
        disk,
        1,
        Some(PackPad {
            made,
            half: Some(half.check(&root())),
        }),
    );
    disk.create_dir_all(Path::new("/other")).expect("made");
    let header = FileHeader::fresh(made).encode();
    let file = [&header[..], &header[..], &first].concat();
    for (path, bytes) in [
        ("/packs/one.pack.pad", &file),
        (HALF, &second),
        ("/other/wrong", &first),
    ] {
        let file = disk.open(Path::new(path), true).expect("made");
        file.write_at(0, bytes).expect("written");
        file.sync().expect("synced");
    }
    let whole = first.iter().zip(&second).map(|(a, b)| a ^ b).collect();
    (whole, half)
}

fn init_halves(disk: &MemoryDisk, half: Option<&str>, seed: u64) -> Result<Initialised, InitError> {
    init_from_halves(
        &shared(disk),
        (Path::new(PACK), half.map(Path::new)),
        Path::new(FOLDER),
        PASSPHRASE,
        &options(),
        &entropy(seed),
    )
}

#[test]
fn a_pad_of_two_halves_is_their_sum_and_nothing_is_changed_without_the_right_one() {
    let disk = MemoryDisk::new();
    let (whole, half) = write_halved_pack(&disk);
    let before = disk.files();
    assert_eq!(init_halves(&disk, None, 1), Err(InitError::HalfMissing));
    assert_eq!(init_halves(&disk, Some("/other/wrong"), 1), Err(InitError::OtherHalf));
    assert_eq!(init_halves(&disk, Some(PACK), 1), Err(InitError::OtherHalf));
    assert!(disk.files() == before);
    assert_eq!(init_halves(&disk, Some(HALF), 1), Ok(Initialised::New));
    let pad = pad_bytes(&disk, "/holder/pad").expect("there");
    assert!(pad[2 * HEADER_COPY..] == whole);
    for gone in [HALF, "/packs/one.pack.pad"] {
        assert!(pad_bytes(&disk, gone).is_none(), "{gone}");
    }
    assert!(pad_bytes(&disk, "/other/wrong").is_some());
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let step = running.store.link_step(0).expect("the first key");
        assert!(step.tag == LinkChain::from_root(&half.join(&root())).advance().tag);
        assert!(step.tag != LinkChain::from_root(&root()).advance().tag);
        running.stop().await;
    });
}

#[test]
fn wherever_the_power_fails_while_halves_are_added_trying_again_finishes_it() {
    let mut operation = 0;
    loop {
        let disk = MemoryDisk::new();
        let (whole, _) = write_halved_pack(&disk);
        disk.power_off_after(operation);
        let first = init_halves(&disk, Some(HALF), 1);
        disk.restart(operation);
        let second = init_halves(&disk, Some(HALF), 2);
        // The last piece of a half may be torn while it is overwritten: then nobody can say what it was.
        let is_torn = second == Err(InitError::OtherHalf);
        assert!(is_torn || second.is_ok(), "after operation {operation}: {second:?}");
        let left = pad_bytes(&disk, HALF).map_or(0, |half| half.iter().filter(|byte| **byte != 0).count());
        assert!(
            left == 0 || is_torn && left <= 32,
            "after operation {operation}: {left} bytes of the half"
        );
        let seller = pad_bytes(&disk, "/packs/one.pack.pad").unwrap_or_default();
        let secret = seller.get(2 * HEADER_COPY..).unwrap_or_default();
        assert!(secret.iter().all(|byte| *byte == 0), "after operation {operation}");
        let pad = pad_bytes(&disk, "/holder/pad").expect("there");
        assert!(pad[2 * HEADER_COPY..] == whole, "after operation {operation}");
        block_on(async { Running::open(&disk, 3).expect("opens").stop().await });
        if first.is_ok() {
            break;
        }
        operation += 1;
    }
    assert!(operation > 50);
}

#[test]
fn a_wrong_passphrase_is_an_error_of_its_own_and_a_second_process_is_locked_out() {
    let disk = made(1);
    let opened = HolderFiles::open(&shared(&disk), Path::new(FOLDER), b"wrong", &options(), &entropy(1));
    assert_eq!(opened.err(), Some(StoreError::Passphrase));
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        assert_eq!(Running::open(&disk, 3).err(), Some(StoreError::Locked));
        running.stop().await;
        Running::open(&disk, 4).expect("free again").stop().await;
    });
}
