use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{KEY, LONGEST, Opens};

/// Bytes that are read at one time.
const PIECE: usize = 1 << 20;
/// What a read that fails is tried again behind.
const PAGE: usize = 4_096;

/// A file, or one region of a process's memory.
pub struct Source {
    /// Named in what is found.
    name: String,
    path: PathBuf,
    span: Range<u64>,
}

/// Part of a source.
pub(super) struct Piece<'s> {
    source: &'s Source,
    offset: u64,
}

/// What was read of a piece.
pub(super) struct Read {
    /// The piece, and as much behind it as its last window needs.
    pub(super) bytes: Vec<u8>,
    /// Windows that begin in the piece.
    pub(super) windows: usize,
    /// Bytes that could not be read, and are zeros.
    pub(super) unread: u64,
}

/// All files at and below `path`, as long as they are now. Core images are files like others.
pub fn files(path: &Path) -> io::Result<Vec<Source>> {
    let kind = fs::symlink_metadata(path)?;
    if kind.is_dir() {
        let mut paths = fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        let below = paths.iter().map(|path| files(path)).collect::<io::Result<Vec<_>>>()?;
        return Ok(below.into_iter().flatten().collect());
    }
    let source = kind.is_file().then(|| Source {
        name: path.display().to_string(),
        path: path.to_owned(),
        span: 0..kind.len(),
    });
    Ok(source.into_iter().collect())
}

/// All writable memory of a live process.
pub fn memory(pid: u32) -> io::Result<Vec<Source>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let path = PathBuf::from(format!("/proc/{pid}/mem"));
    Ok(maps.lines().filter_map(|line| region(pid, &path, line)).collect())
}

/// Reads `start-end rights offset device inode name`, proc_pid_maps(5); `None` where nothing can be written.
fn region(pid: u32, path: &Path, line: &str) -> Option<Source> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    if !fields.next()?.starts_with("rw") {
        return None;
    }
    let name = fields.nth(3).unwrap_or("anonymous memory");
    Some(Source {
        name: format!("process {pid}, {name}"),
        path: path.to_owned(),
        span: u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?,
    })
}

impl Source {
    /// The file it lies in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let offsets = self.span.clone().step_by(PIECE);
        offsets.map(|offset| Piece { source: self, offset })
    }
}

impl Piece<'_> {
    pub(super) fn read(&self) -> Read {
        let left = self.source.span.end - self.offset;
        let wanted = left.min((PIECE + LONGEST - 1) as u64) as usize;
        let mut bytes = vec![0; wanted];
        let unread = match File::open(&self.source.path) {
            Ok(file) => read_around_gaps(&file, self.offset, &mut bytes),
            Err(_) => wanted as u64,
        };
        Read {
            windows: (wanted + 1).saturating_sub(KEY).min(PIECE),
            bytes,
            unread,
        }
    }

    /// One line about what was found at `offset` of what was read.
    pub(super) fn place(&self, offset: usize, opens: &Opens) -> String {
        let at = self.offset + offset as u64;
        format!("{opens} in {} at {at:#x}", self.source.name)
    }
}

/// Fills `bytes` and returns how many of them could not be read.
fn read_around_gaps(file: &File, offset: u64, bytes: &mut [u8]) -> u64 {
    let (mut at, mut unread) = (0, 0);
    while at < bytes.len() {
        match file.read_at(&mut bytes[at..], offset + at as u64) {
            Ok(read) if read > 0 => at += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => {
                let gap = PAGE.min(bytes.len() - at);
                (at, unread) = (at + gap, unread + gap as u64);
            }
        }
    }
    unread
}
