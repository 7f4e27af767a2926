//! The layers of the index against a plain map, and a database that fails.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use keypacks::Secret;
use proptest::prelude::*;

use super::file::{ABOUT, FORMAT};
use super::*;
use crate::disk::MemoryDisk;
use crate::entropy::SeededEntropy;
use crate::overlay::{RowName, Value};

const PATH: &str = "/i/index.redb";

fn index(disk: &MemoryDisk) -> Index {
    disk.create_dir_all(Path::new("/i")).expect("made");
    Index::open(Arc::new(disk.clone()), Path::new(PATH)).expect("opened").0
}

fn vault(disk: &MemoryDisk) -> Vault {
    Vault::new(Secret::new([1; 32]), Arc::new(SeededEntropy::new(disk.operations())))
}

fn name(key: u8) -> RowName {
    RowName::new(1, &[key]).expect("short")
}

fn put(index: &Index, rows: &[(u8, Option<u8>)]) {
    let mut overlay = Overlay::default();
    for (key, value) in rows {
        overlay.set(name(*key), value.map(|value| [value].as_slice().into()));
    }
    index.committed(overlay, index.commit_number() + 1);
}

fn checkpoint(index: &Index, vault: &Vault) -> Result<(), StoreError> {
    let mark = Mark {
        commit: index.commit_number(),
        ..Mark::default()
    };
    let frozen = index.freeze(mark, 0).expect("none under way");
    let mut outcome = index.checkpoint(&frozen, vault);
    for _ in 0..3 {
        if outcome.is_ok() {
            break;
        }
        outcome = index.reopen().and_then(|()| index.checkpoint(&frozen, vault));
    }
    outcome
}

fn all(source: &impl Source, first: u8, last: u8) -> BTreeMap<u8, u8> {
    let mut rows = BTreeMap::new();
    let visit = &mut |name: &RowName, plain: &[u8]| {
        rows.insert(name.key()[0], plain[0]);
        Ok(ControlFlow::Continue(()))
    };
    source.rows(name(first), name(last), visit).expect("readable");
    rows
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u8, Option<u8>)>),
    Freeze,
    Checkpoint,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = (0u8..24, proptest::option::weighted(0.7, any::<u8>()));
    let step = prop_oneof![
        6 => proptest::collection::vec(row, 0..6).prop_map(Step::Commit),
        1 => Just(Step::Freeze),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_layer_a_row_is_in_it_is_found_in_order(
        steps in steps(),
        batch in proptest::collection::vec((0u8..24, proptest::option::of(any::<u8>())), 0..6),
        (first, last) in (0u8..24, 0u8..24),
    ) {
        let disk = MemoryDisk::new();
        let (index, vault) = (index(&disk), vault(&disk));
        let mut model = BTreeMap::new();
        let mut frozen = None;
        let apply = |model: &mut BTreeMap<u8, u8>, rows: &[(u8, Option<u8>)]| {
            for (key, value) in rows {
                match value {
                    Some(value) => drop(model.insert(*key, *value)),
                    None => drop(model.remove(key)),
                }
            }
        };
        for step in &steps {
            match step {
                Step::Commit(rows) => {
                    put(&index, rows);
                    apply(&mut model, rows);
                }
                Step::Freeze => frozen = frozen.or_else(|| index.freeze(Mark::default(), 0)),
                Step::Checkpoint => {
                    frozen = frozen.or_else(|| index.freeze(Mark::default(), 0));
                    index.checkpoint(&frozen.take().expect("set above"), &vault).expect("written");
                }
                Step::Reopen => index.reopen().expect("opened"),
            }
        }
        let (view, snapshot) = (index.view(&vault).expect("open"), index.snapshot(&vault).expect("open"));
        let write = index.begin(&vault, Overlay::default()).expect("open");
        let mut under = model.clone();
        for (key, value) in &batch {
            write.set(name(*key), value.map(|value| [value].as_slice().into()));
        }
        apply(&mut under, &batch);
        let within = |model: &BTreeMap<u8, u8>| -> BTreeMap<u8, u8> {
            model.iter().filter(|(key, _)| (first..=last).contains(key)).map(|(key, value)| (*key, *value)).collect()
        };
        if first <= last {
            prop_assert_eq!(all(&view, first, last), within(&model));
            prop_assert_eq!(all(&snapshot, first, last), within(&model));
            prop_assert_eq!(all(&write, first, last), within(&under));
            let end = |source: &dyn Fn() -> Option<RowName>| source().map(|name| name.key()[0]);
            let last_of = |model: &BTreeMap<u8, u8>| within(model).last_key_value().map(|(key, _)| *key);
            prop_assert_eq!(end(&|| view.last(name(first), name(last)).expect("readable")), last_of(&model));
            prop_assert_eq!(end(&|| write.last(name(first), name(last)).expect("readable")), last_of(&under));
        }
        for key in 0..24 {
            let read = |value: Value| value.map(|bytes| bytes[0]);
            prop_assert_eq!(read(view.row(&name(key)).expect("readable")), model.get(&key).copied());
            prop_assert_eq!(read(write.row(&name(key)).expect("readable")), under.get(&key).copied());
        }
    }
}

#[test]
fn an_index_whose_making_was_cut_short_is_made_again() {
    for (operation, seed) in (0..40).flat_map(|operation| (0..4).map(move |seed| (operation, seed))) {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/i")).expect("made");
        disk.power_off_after(operation);
        drop(Index::open(Arc::new(disk.clone()), Path::new(PATH)));
        disk.crash(seed);
        let (index, vault) = (index(&disk), vault(&disk));
        put(&index, &[(1, Some(1))]);
        assert_eq!(checkpoint(&index, &vault), Ok(()), "operation {operation}");
    }
}

#[test]
fn wherever_the_disk_fails_within_a_checkpoint_the_rows_are_there_all_the_time() {
    for nth in 0..14 {
        let disk = MemoryDisk::new();
        let (index, vault) = (index(&disk), vault(&disk));
        put(&index, &[(1, Some(1)), (2, Some(2))]);
        checkpoint(&index, &vault).expect("nothing fails");
        put(&index, &[(2, None), (3, Some(3))]);
        disk.fail_nth(nth);
        checkpoint(&index, &vault).expect("the failure was a single one");
        disk.mend();
        let expected = BTreeMap::from([(1, 1), (3, 3)]);
        assert_eq!(all(&index.view(&vault).expect("open"), 0, 9), expected);
        drop(index);
        disk.crash(nth);
        let again = self::index(&disk);
        assert_eq!(
            (again.commit_number(), all(&again.view(&vault).expect("open"), 0, 9)),
            (2, expected)
        );
    }
}

#[test]
fn a_database_of_another_format_is_refused() {
    let disk = MemoryDisk::new();
    drop(index(&disk));
    let open = file::open(&disk, Path::new(PATH)).expect("opens");
    let write = open.database.begin_write().expect("writable");
    let newer = (FORMAT_NUMBER + 1).to_le_bytes();
    write
        .open_table(ABOUT)
        .expect("there")
        .insert(FORMAT, &newer[..])
        .expect("written");
    write.commit().expect("committed");
    drop(open);
    let opened = Index::open(Arc::new(disk.clone()), Path::new(PATH));
    assert_eq!(opened.err(), Some(StoreError::Format));
}
