//! A disk image that stock computers mount: one partition of FAT32 in an MBR.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use fatfs::{Dir, FatType, FileSystem, FormatVolumeOptions, FsOptions, ReadWriteSeek, format_volume};

use super::super::dirs;

const SECTOR: u64 = 512;
/// Where the partition begins: at 1 MiB, as partitioning programs have it.
const START: u64 = 2_048;
/// FAT32 with logical block addresses.
const PARTITION_TYPE: u8 = 0x0c;
/// No cylinders: only the block address counts.
const NO_CYLINDERS: [u8; 3] = [0xfe, 0xff, 0xff];
const LABEL: [u8; 11] = *b"POSTERN    ";

/// Writes an image of `bytes` with the files of `tree` and of its folder of data. `names` are random: they tell this medium
/// from others. Times in it are all 1980-01-01.
pub(super) fn write(image: &File, bytes: u64, tree: &Path, names: [u8; 8]) -> io::Result<()> {
    let (signature, volume) = names.split_at(4);
    let sectors = bytes / SECTOR - START;
    image.set_len(bytes)?;
    let mut partition = Partition {
        image,
        at: 0,
        length: sectors * SECTOR,
    };
    let volume = u32::from_le_bytes(volume.try_into().expect("four of eight bytes"));
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .volume_label(LABEL)
        .volume_id(volume);
    format_volume(&mut partition, options)?;
    partition.rewind()?;
    let files = FileSystem::new(partition, FsOptions::new())?;
    // First, so that its cluster is known.
    let data = files.root_dir().create_dir(dirs::MEDIUM_DATA)?;
    copy(&tree.join(dirs::MEDIUM_DATA), &data)?;
    copy(tree, &files.root_dir())?;
    drop(data);
    files.unmount()?;
    mend_first_folder(image)?;

    // Last: what was cut off before has no partition.
    let mut record = [0; SECTOR as usize];
    record[440..444].copy_from_slice(signature);
    record[446 + 1..446 + 4].copy_from_slice(&NO_CYLINDERS);
    record[446 + 4] = PARTITION_TYPE;
    record[446 + 5..446 + 8].copy_from_slice(&NO_CYLINDERS);
    let block = |number: u64| u32::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    record[446 + 8..446 + 12].copy_from_slice(&block(START)?.to_le_bytes());
    record[446 + 12..446 + 16].copy_from_slice(&block(sectors)?.to_le_bytes());
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut image = image;
    image.rewind()?;
    image.write_all(&record)?;
    image.sync_all()
}

fn copy<T: ReadWriteSeek>(from: &Path, to: &Dir<'_, T>) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().ok_or(io::ErrorKind::InvalidData)?;
        if entry.file_type()?.is_file() {
            let mut file = to.create_file(name)?;
            io::copy(&mut File::open(entry.path())?, &mut file)?;
            file.flush()?;
        }
    }
    Ok(())
}

/// Makes the first two entries of the first folder what the specification says, `.` and `..` under short names alone, the
/// second without a cluster, since it stands for the root. The library puts long names before them, which others mend at
/// every check.
fn mend_first_folder(image: &File) -> io::Result<()> {
    const ENTRY: usize = 32;
    const LONG_NAME: u8 = 0x0f;
    const DELETED: u8 = 0xe5;
    let mut boot = [0; 64];
    image.read_exact_at(&mut boot, START * SECTOR)?;
    let short = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let tables = u64::from(boot[16]) * (short(36) | short(38) << 16);
    // The root has the first cluster, the folder the second.
    let at = (START + short(14) + tables + u64::from(boot[13])) * SECTOR;
    let mut entries = [[0; ENTRY]; 4];
    image.read_exact_at(entries.as_flattened_mut(), at)?;
    let [long_own, own, long_parent, parent] = &mut entries;
    let is_as_known = long_own[11] == LONG_NAME
        && own.starts_with(b".          ")
        && long_parent[11] == LONG_NAME
        && parent.starts_with(b"..         ");
    if !is_as_known {
        return Err(io::ErrorKind::InvalidData.into());
    }
    parent[20..22].fill(0);
    parent[26..28].fill(0);
    long_own[0] = DELETED;
    long_parent[0] = DELETED;
    let entries = [*own, *parent, *long_own, *long_parent];
    image.write_all_at(entries.as_flattened(), at)
}

/// A part of the image as a disk of its own.
struct Partition<'a> {
    image: &'a File,
    at: u64,
    length: u64,
}

impl Partition<'_> {
    /// Goes to the place in the image; how many of `wanted` bytes are there.
    fn find(&mut self, wanted: usize) -> io::Result<usize> {
        self.image.seek(SeekFrom::Start(START * SECTOR + self.at))?;
        let left = self.length.saturating_sub(self.at);
        Ok(wanted.min(usize::try_from(left).unwrap_or(wanted)))
    }
}

impl Read for Partition<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.find(out.len())?;
        let read = self.image.read(&mut out[..length])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for Partition<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.find(bytes.len())?;
        let written = self.image.write(&bytes[..length])?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.image.flush()
    }
}

impl Seek for Partition<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
