//! Statements about what the disk keeps, loses and refuses.

use super::*;

fn file(disk: &MemoryDisk) -> Box<dyn DiskFile> {
    disk.create_dir_all(Path::new("/d")).expect("made");
    disk.open(Path::new("/d/f"), true).expect("opened")
}

#[test]
fn synced_bytes_survive_and_unsynced_sectors_may_not() {
    let mut kept = 0;
    for seed in 0..64 {
        let disk = MemoryDisk::new();
        let open = file(&disk);
        open.write_at(0, &[1; 512]).expect("written");
        open.sync().expect("synced");
        open.write_at(512, &[2; 512]).expect("written");
        disk.crash(seed);
        assert!(open.len().is_err(), "a file opened before the crash is dead");
        let mut out = [0; 1024];
        file(&disk).read_at(0, &mut out).expect("read");
        assert_eq!(out[..512], [1; 512]);
        kept += u32::from(out[512]) / 2;
    }
    assert!((8..56).contains(&kept), "{kept} of 64");
}

#[test]
fn the_power_goes_at_the_operation_named() {
    let disk = MemoryDisk::new();
    let open = file(&disk);
    disk.power_off_after(1);
    open.write_at(0, b"x").expect("the first works");
    assert!(open.sync().is_err() && disk.is_off());
    disk.restart(0);
    file(&disk).sync().expect("works again");
}

#[test]
fn an_injected_failure_happens_once() {
    let disk = MemoryDisk::new();
    let open = file(&disk);
    disk.fail_nth(0);
    assert!(open.sync().is_err());
    assert!(open.sync().is_ok());
}

#[test]
fn a_forgetful_disk_loses_names_and_lengths_until_they_are_synced() {
    let (mut named, mut grown) = (0, 0);
    for seed in 0..64 {
        let disk = MemoryDisk::forgetful();
        let open = file(&disk);
        disk.sync_dir(Path::new("/d")).expect("synced");
        open.write_at(0, &[1; 512]).expect("written");
        open.sync().expect("synced");
        open.write_at(512, &[2; 512]).expect("written");
        disk.rename(Path::new("/d/f"), Path::new("/d/g")).expect("renamed");
        disk.crash(seed);
        let files = disk.files();
        assert_eq!(files.len(), 1, "a rename has one outcome or the other");
        assert_eq!(files[0].1[..512], [1; 512]);
        named += u32::from(files[0].0 == Path::new("/d/g"));
        grown += u32::from(files[0].1.len() == 1_024);
    }
    assert!((8..56).contains(&named) && (8..56).contains(&grown), "{named}, {grown}");
}

#[test]
fn what_is_cut_off_reads_as_zeros_when_the_file_grows_again() {
    let disk = MemoryDisk::new();
    let open = file(&disk);
    open.write_at(0, &[7; 10_000]).expect("written");
    open.set_len(5_000).expect("cut");
    open.set_len(10_000).expect("grown");
    let mut out = [1; 10_000];
    open.read_at(0, &mut out).expect("read");
    assert!(out[..5_000] == [7; 5_000] && out[5_000..] == [0; 5_000]);
    assert!(open.read_at(1, &mut out).is_err(), "it ends where it ends");
}

#[test]
fn a_full_disk_takes_no_more_until_something_is_removed() {
    let disk = MemoryDisk::new();
    let open = file(&disk);
    open.write_at(0, &[7; 600]).expect("written");
    disk.set_free_bytes(Some(100));
    assert!(open.write_at(600, &[7; 101]).is_err());
    open.write_at(600, &[7; 100]).expect("the last of it");
    disk.remove(Path::new("/d/f")).expect("removed");
    assert_eq!(disk.free_bytes(Path::new("/d")).expect("counted"), 700);
}
