//! The search for keys that should be gone finds them wherever they lie: a search that finds nothing proves nothing
//! unless it would have found something.

use std::path::Path;
use std::sync::Arc;

use keypacks::chain::LinkChain;
use keypacks::link::{self, ClientEntropy};
use keypacks::pack::{Header, PassphraseCost};
use keypacks::{Secret, kdf};
use mailbox::disk::SystemDisk;
use mailbox::entropy::SeededEntropy;
use mailbox::slots::{SlotFile, SlotUpdate};
use postern_tests::keysearch::{Outcome, Recording, Source, files, memory, open_slots, search};
use zeroize::Zeroizing;

fn chain(index: u64) -> LinkChain {
    let mut chain = LinkChain::from_root(&Secret::new([5; 32]));
    chain.forward_to(index).expect("near");
    chain
}

/// What was on the wire for index 2.
fn recording() -> Recording {
    let entropy = ClientEntropy {
        ephemeral: [7; 32],
        nonce: [8; 24],
    };
    let (_, cell) = link::connect(chain(2).advance(), &[9; 32], entropy);
    Recording::of_cell(&cell)
}

fn search_files(folder: &Path, passphrases: &[Vec<u8>]) -> Outcome {
    let sources = files(folder).expect("a readable folder");
    let slots = |source: &Source| open_slots(source.path(), passphrases).expect("readable");
    let slots: Vec<_> = sources.iter().flat_map(slots).collect();
    search(&recording(), &sources, &slots)
}

#[test]
fn a_state_is_found_at_every_awkward_place_of_a_file_and_nowhere_else() {
    const LENGTH: usize = (1 << 20) + 5_000;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("deep").join("file");
    std::fs::create_dir(path.parent().expect("it has one")).expect("made");
    let mut bytes: Vec<u8> = (0..LENGTH).map(|position| (position % 128) as u8).collect();
    std::fs::write(&path, &bytes).expect("written");
    assert!(search_files(folder.path(), &[]).hits.is_empty());

    let places = [0, 4_095, 4_096 * 7 - 31, (1 << 20) - 16, LENGTH - 32];
    for place in places {
        bytes[place..place + 32].copy_from_slice(chain(2).state().expose());
    }
    std::fs::write(&path, &bytes).expect("written");
    let outcome = search_files(folder.path(), &[]);
    assert_eq!(outcome.windows, (LENGTH - 31) as u64, "every offset once");
    assert_eq!(outcome.hits.len(), places.len());
    for place in places {
        let end = format!("at {place:#x}");
        assert!(
            outcome
                .hits
                .iter()
                .any(|hit| hit.starts_with("chain state in ") && hit.ends_with(&end))
        );
    }
}

#[test]
fn a_key_in_the_memory_of_a_live_process_is_found() {
    let planted = kdf::hx(
        "link",
        &[chain(2).advance().up.expose(), chain(2).advance().down.expose()],
    );
    let outcome = search(&recording(), &memory(std::process::id()).expect("this process"), &[]);
    assert!(
        outcome
            .hits
            .iter()
            .any(|hit| hit.starts_with("pre-shared key in process "))
    );
    drop(planted);
}

/// Writes the state of `index` into a slot file in `folder`.
fn write_slot(folder: &Path, key: &Secret<32>, index: u64) {
    let entropy = Arc::new(SeededEntropy::new(1));
    let path = folder.join("slots");
    let mut slots = SlotFile::open(&SystemDisk, &path, key.duplicate(), 256, entropy).expect("opened");
    let state = [&index.to_le_bytes()[..], chain(index).state().expose()].concat();
    let update = SlotUpdate {
        slot: 3,
        commit: 1,
        state: Zeroizing::new(state),
    };
    slots.write(&[update]).expect("written");
}

#[test]
fn a_relays_slots_are_opened_with_the_key_beside_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = Secret::new([3; 32]);
    std::fs::write(folder.path().join("slots.key"), [&key.expose()[..], &[0; 32]].concat()).expect("written");
    for (index, copies_that_open) in [(0, 2), (2, 2), (3, 0)] {
        write_slot(folder.path(), &key, index);
        let outcome = search_files(folder.path(), &[]);
        assert_eq!(
            (outcome.slots, outcome.hits.len()),
            (2, copies_that_open),
            "state of index {index}"
        );
    }
}

#[test]
fn a_holders_slots_are_opened_with_the_passphrase() {
    let folder = tempfile::tempdir().expect("a folder");
    let file_key = Secret::new([4; 32]);
    let header = Header::create(b"open", &file_key, [1; 16], [2; 24], PassphraseCost::LEAST);
    std::fs::write(folder.path().join("header"), header).expect("written");
    write_slot(folder.path(), &kdf::he(&file_key, "holder/slots", &[]), 1);
    assert_eq!(search_files(folder.path(), &[b"wrong".to_vec()]).slots, 0);
    let outcome = search_files(folder.path(), &[b"open".to_vec()]);
    assert_eq!((outcome.slots, outcome.hits.len()), (2, 2));
    assert!(
        outcome.hits[0].starts_with("chain state 1 steps earlier in "),
        "{}",
        outcome.hits[0]
    );
}
