//! A record on its way to the disk.

use std::sync::Arc;

use keypacks::Secret;
use xxhash_rust::xxh3::Xxh3;

use super::Location;
use super::record::{self, BLOCK, Contents, FRAME, Frame, Placed, Position};
use crate::disk::DiskFile;
use crate::entropy::Entropy;
use crate::overlay::Overlay;

/// A body of at least this length is written at once, from where it lies; smaller ones are gathered first.
pub(super) const DIRECT_BYTES: usize = 256 << 10;

/// See the module.
pub(super) struct Batch {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) place: Position,
    /// Where the frame stands in the first part, which begins with the segment's header if this record begins a segment.
    pub(super) frame_at: usize,
    /// Where the record ends so far.
    at: u64,
    /// What is not written yet, each part where it goes.
    gathered: Vec<(u64, Vec<u8>)>,
    pub(super) bodies: Vec<Placed>,
    pub(super) released: Vec<Location>,
    digest: Xxh3,
    /// Free bytes of the disk when the first body came.
    pub(super) free: Option<u64>,
}

impl Batch {
    /// `header`: the block before the record, if it begins a segment. `room`: memory to gather in.
    pub(super) fn new(file: Arc<dyn DiskFile>, place: Position, header: &[u8], room: Vec<u8>) -> Self {
        let frame_at = header.len();
        let mut first = room;
        first.extend_from_slice(header);
        first.resize(frame_at + FRAME, 0);
        Self {
            file,
            place,
            frame_at,
            at: place.offset + FRAME as u64,
            gathered: vec![(place.offset - frame_at as u64, first)],
            bodies: Vec::new(),
            released: Vec::new(),
            digest: Xxh3::new(),
            free: None,
        }
    }

    /// Its memory, if that is no more than `most` bytes.
    pub(super) fn room(&mut self, most: u64) -> Vec<u8> {
        let (_, mut first) = self.gathered.swap_remove(0);
        first.clear();
        if first.capacity() as u64 > most {
            Vec::new()
        } else {
            first
        }
    }

    /// Its length so far, in bytes.
    pub(super) fn length(&self) -> u64 {
        self.at - self.place.offset
    }

    /// Gives a body its place. A file: the body is large, and is to be written there by the caller.
    pub(super) fn add(&mut self, name: u64, body: &[u8], length: u32) -> (Location, Option<Arc<dyn DiskFile>>) {
        let direct = body.len() >= DIRECT_BYTES;
        if direct {
            self.at = self.at.next_multiple_of(BLOCK);
        }
        let location = Location {
            segment: self.place.segment,
            offset: self.at,
            length,
        };
        self.bodies.push(Placed { name, location });
        self.digest.update(body);
        self.at += u64::from(length);
        if !direct {
            self.gather(body);
            return (location, None);
        }
        self.at = self.at.next_multiple_of(BLOCK);
        self.gathered.push((self.at, Vec::new()));
        (location, Some(Arc::clone(&self.file)))
    }

    /// Gives a body its place that comes in parts, each of which goes through [`Self::digest_part`] and is to be written there
    /// by the caller.
    pub(super) fn add_parts(&mut self, name: u64, length: u32) -> (Location, Arc<dyn DiskFile>) {
        self.at = self.at.next_multiple_of(BLOCK);
        let location = Location {
            segment: self.place.segment,
            offset: self.at,
            length,
        };
        self.bodies.push(Placed { name, location });
        self.at = (self.at + u64::from(length)).next_multiple_of(BLOCK);
        self.gathered.push((self.at, Vec::new()));
        (location, Arc::clone(&self.file))
    }

    /// The next part of the body that was added last.
    pub(super) fn digest_part(&mut self, part: &[u8]) {
        self.digest.update(part);
    }

    fn gather(&mut self, bytes: &[u8]) {
        let (_, last) = self
            .gathered
            .last_mut()
            .expect("the first part is there from the start");
        last.extend_from_slice(bytes);
    }

    /// Adds changes, padding and frame. Returns where the record ends; `None`: the changes are longer than a record's may
    /// be.
    pub(super) fn complete(
        &mut self,
        commit: u64,
        rows: &Overlay,
        key: &Secret<32>,
        entropy: &dyn Entropy,
    ) -> Option<u64> {
        let changes_at = self.length();
        let contents = Contents {
            commit,
            place: self.place,
            changes_at,
            bodies: std::mem::take(&mut self.bodies),
            released: std::mem::take(&mut self.released),
            digest: self.digest.digest(),
        };
        let changes = record::seal(key, &contents, rows, entropy);
        (self.bodies, self.released) = (contents.bodies, contents.released);
        let changes = changes?;
        let frame = Frame {
            commit,
            changes_at,
            changes_length: changes.len() as u64,
        };
        self.gather(&changes);
        let end = self.place.offset + frame.room();
        let (at, last) = self.gathered.last_mut().expect("as above");
        last.resize(usize::try_from(end - *at).expect("it is in memory"), 0);
        let frame_at = self.frame_at;
        self.gathered[0].1[frame_at..][..FRAME].copy_from_slice(&frame.encode());
        Some(end)
    }

    pub(super) fn write(&self) -> std::io::Result<()> {
        for (at, part) in self.gathered.iter().filter(|(_, part)| !part.is_empty()) {
            self.file.write_at(*at, part)?;
        }
        self.file.sync()
    }
}
