//! Packs and stores looked at from outside, and under another passphrase.

use keypacks::pack::{BLOCK, Header};

use super::*;
use crate::holder::{PackFault, change_passphrase, glance, init_from_pack, inspect, inspect_outside};

const PACK: &str = "/packs/one.pack";

fn pack(disk: &MemoryDisk) {
    let file_key = Secret::new([5; 32]);
    let head = Header::create(PASSPHRASE, &file_key, [1; 16], [2; 24], PassphraseCost::LEAST);
    let body = issue(1).seal(&file_key, [3; 24]).expect("the names fit");
    disk.create_dir_all(Path::new("/packs")).expect("made");
    let blocks = [&head[..], &head[..], &body[..], &body[..]].concat();
    write(disk, 0, &blocks);
    disk.sync_dir(Path::new("/packs")).expect("synced");
}

fn write(disk: &MemoryDisk, at: usize, bytes: &[u8]) {
    let file = disk.open(Path::new(PACK), true).expect("opened");
    file.write_at(at as u64, bytes).expect("written");
    file.sync().expect("synced");
}

fn fault(disk: &MemoryDisk, passphrase: &[u8]) -> Option<PackFault> {
    inspect(disk, Path::new(PACK), passphrase).err()
}

#[test]
fn a_whole_pack_says_what_it_was_issued_with() {
    let disk = MemoryDisk::new();
    pack(&disk);
    let before = disk.files();
    let (outside, issue) = inspect(&disk, Path::new(PACK), PASSPHRASE).expect("whole");
    assert!(outside.damaged.is_empty() && outside.cost == PassphraseCost::LEAST);
    assert!(issue.identifier.0 == [1; 16] && issue.link_keys == 64);
    assert!(disk.files() == before);
}

#[test]
fn a_pack_with_one_damaged_copy_of_each_still_opens_and_says_which() {
    let disk = MemoryDisk::new();
    pack(&disk);
    write(&disk, BLOCK + 70, b"damage");
    write(&disk, 2 * BLOCK + 70, b"damage");
    let (outside, _) = inspect(&disk, Path::new(PACK), PASSPHRASE).expect("one copy each");
    assert_eq!(outside.damaged, ["second header", "first issue"]);
    write(&disk, 0, b"damage");
    assert_eq!(
        fault(&disk, PASSPHRASE),
        Some(PackFault::Passphrase),
        "what does not open may be either"
    );
}

#[test]
fn each_kind_of_a_bad_pack_has_a_sentence_of_its_own() {
    let cases: [(usize, &[u8], PackFault); 3] = [
        (0, b"NOTAPACK", PackFault::NoPack),
        (8, &[7, 0], PackFault::TooNew(7)),
        (12, &[0xff; 4], PackFault::Header),
    ];
    for (at, bytes, expected) in cases {
        let disk = MemoryDisk::new();
        pack(&disk);
        write(&disk, at, bytes);
        assert!(inspect_outside(&disk, Path::new(PACK)).is_ok(), "one copy is whole");
        write(&disk, BLOCK + at, bytes);
        assert_eq!(fault(&disk, PASSPHRASE), Some(expected));
    }
    for length in [20, 4_095, 8_192, 16_383] {
        let disk = MemoryDisk::new();
        pack(&disk);
        let file = disk.open(Path::new(PACK), false).expect("there");
        file.set_len(length).expect("cut");
        assert_eq!(fault(&disk, PASSPHRASE), Some(PackFault::CutOff(length)));
    }
    let disk = MemoryDisk::new();
    pack(&disk);
    assert_eq!(fault(&disk, b"wrong"), Some(PackFault::Passphrase));
    for copy in [2, 3] {
        write(&disk, copy * BLOCK + 9, b"forged");
    }
    assert_eq!(fault(&disk, PASSPHRASE), Some(PackFault::Issue));
    for copy in [2, 3] {
        write(&disk, copy * BLOCK, &[0; BLOCK]);
    }
    assert_eq!(fault(&disk, PASSPHRASE), Some(PackFault::Spent));
}

fn changed(disk: &MemoryDisk, path: &str, old: &[u8], new: &[u8]) -> Result<(), PackFault> {
    change_passphrase(disk, Path::new(path), old, new, PassphraseCost::LEAST, &*entropy(9))
}

#[test]
fn wherever_the_power_fails_a_passphrase_is_the_old_or_the_new_one_and_trying_again_finishes_it() {
    let mut ended = [0, 0];
    for operation in 0.. {
        let disk = MemoryDisk::new();
        pack(&disk);
        // A damaged copy must not cost the other one.
        if operation % 2 == 1 {
            write(&disk, 70, b"damage");
        }
        disk.power_off_after(operation / 2);
        let first = changed(&disk, PACK, PASSPHRASE, b"new");
        disk.restart(operation);
        let opens = |passphrase| inspect(&disk, Path::new(PACK), passphrase).is_ok();
        assert!(opens(PASSPHRASE) || opens(b"new"), "after operation {operation}");
        ended[usize::from(opens(b"new"))] += 1;
        let from: &[u8] = if opens(PASSPHRASE) { PASSPHRASE } else { b"new" };
        assert_eq!(changed(&disk, PACK, from, b"new"), Ok(()));
        let (outside, _) = inspect(&disk, Path::new(PACK), b"new").expect("whole");
        assert!(outside.damaged.is_empty() && fault(&disk, PASSPHRASE) == Some(PackFault::Passphrase));
        if first.is_ok() && operation % 2 == 1 {
            break;
        }
    }
    assert!(ended.iter().all(|times| *times > 0));
}

#[test]
fn a_store_opens_under_its_new_passphrase_and_says_what_it_knows() {
    let disk = MemoryDisk::new();
    pack(&disk);
    let made = init_from_pack(
        &shared(&disk),
        Path::new(PACK),
        Path::new(FOLDER),
        PASSPHRASE,
        &options(),
        &entropy(1),
    );
    assert!(made.is_ok());
    assert_eq!(
        changed(&disk, "/holder/header", b"wrong", b"new"),
        Err(PackFault::Passphrase)
    );
    assert_eq!(changed(&disk, "/holder/header", PASSPHRASE, b"new"), Ok(()));
    let seen = |passphrase| glance(&shared(&disk), Path::new(FOLDER), passphrase, &entropy(2));
    assert_eq!(seen(PASSPHRASE).err(), Some(StoreError::Passphrase));
    let seen = seen(b"new").expect("opens");
    assert!(seen.facts.identifier.0 == [1; 16] && seen.link.keys == 64);
}
