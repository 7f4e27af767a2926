//! From a pack file to a store.

use keypacks::chain::{BoxChain, BoxKind, LinkChain};
use keypacks::pack::{BLOCK, Header};

use super::*;
use crate::holder::{InitError, Initialised, init_from_pack};

const PACK: &str = "/packs/one.pack";

/// A pack file as a relay issues it.
fn write_pack(disk: &MemoryDisk, identifier: u8) {
    let file_key = Secret::new([5; 32]);
    let head = Header::create(PASSPHRASE, &file_key, [1; 16], [2; 24], PassphraseCost::LEAST);
    let body = issue(identifier).seal(&file_key, [3; 24]).expect("the names fit");
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
