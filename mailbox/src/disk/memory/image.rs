//! What a file holds, as seen now and as a power cut would leave it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::entropy::mix;

const SECTOR: usize = 512;
const PAGE: usize = 4_096;

/// One file.
#[derive(Default, Clone)]
pub(super) struct Image {
    len: u64,
    /// Length after a power cut, on a forgetful disk.
    synced_len: u64,
    /// A page that is missing is zeros.
    pages: BTreeMap<u64, Page>,
    /// Pages that were written since the last sync.
    dirty: BTreeSet<u64>,
}

#[derive(Clone)]
struct Page {
    seen: Box<[u8; PAGE]>,
    /// What survives for certain, where it differs, and the sectors written since, a bit each.
    synced: Option<Box<[u8; PAGE]>>,
    dirty: u8,
}

impl Page {
    fn zeros() -> Self {
        Self {
            seen: Box::new([0; PAGE]),
            synced: None,
            dirty: 0,
        }
    }

    fn write(&mut self, start: usize, bytes: &[u8]) {
        if self.synced.is_none() {
            self.synced = Some(self.seen.clone());
        }
        self.seen[start..start + bytes.len()].copy_from_slice(bytes);
        for sector in start / SECTOR..(start + bytes.len()).div_ceil(SECTOR) {
            self.dirty |= 1 << sector;
        }
    }

    fn sync(&mut self) {
        (self.synced, self.dirty) = (None, 0);
    }

    /// Keeps or loses what was not synced, by sectors or the page as a whole, as `draw` says.
    fn lose(&mut self, draw: &mut impl FnMut() -> u64, by_page: bool) {
        let Some(synced) = self.synced.take() else { return };
        let dirty = std::mem::take(&mut self.dirty);
        let page_is_kept = by_page && draw() & 1 == 0;
        for sector in (0..PAGE / SECTOR).filter(|sector| dirty >> sector & 1 == 1) {
            let is_kept = if by_page { page_is_kept } else { draw() & 1 == 0 };
            if !is_kept {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                self.seen[range.clone()].copy_from_slice(&synced[range]);
            }
        }
    }
}

/// The pages that a range of bytes touches: number, first byte in the page, first byte in the range, length.
fn pages(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % PAGE as u64) as usize;
        let step = (PAGE - within).min(length - done);
        let part = (at / PAGE as u64, within, done, step);
        done += step;
        (step > 0).then_some(part)
    })
}

impl Image {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (at, within, from, step) in pages(offset, out.len()) {
            let part = &mut out[from..from + step];
            match self.pages.get(&at) {
                Some(page) => part.copy_from_slice(&page.seen[within..within + step]),
                None => part.fill(0),
            }
        }
        Ok(())
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (at, within, from, step) in pages(offset, bytes.len()) {
            let part = &bytes[from..from + step];
            if !self.pages.contains_key(&at) && part.iter().all(|byte| *byte == 0) {
                continue;
            }
            self.pages.entry(at).or_insert_with(Page::zeros).write(within, part);
            self.dirty.insert(at);
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    pub(super) fn sync(&mut self) {
        for at in std::mem::take(&mut self.dirty) {
            if let Some(page) = self.pages.get_mut(&at) {
                page.sync();
            }
        }
        self.synced_len = self.len;
    }

    /// Shortens the file; what is cut off reads as zeros if it grows again.
    pub(super) fn cut(&mut self, len: u64) {
        self.len = len;
        self.synced_len = self.synced_len.min(len);
        let kept = len.div_ceil(PAGE as u64);
        drop(self.pages.split_off(&kept));
        drop(self.dirty.split_off(&kept));
        if let Some(page) = self.pages.get_mut(&(len / PAGE as u64)) {
            let within = (len % PAGE as u64) as usize;
            page.seen[within..].fill(0);
            if let Some(synced) = &mut page.synced {
                synced[within..].fill(0);
            }
        }
    }

    /// Lengthens the file by a hole, which reads as zeros.
    pub(super) fn grow(&mut self, len: u64) {
        self.len = len;
    }

    /// What a power cut leaves, as `draw` says. `may_shrink`: perhaps no more than the length that was synced.
    pub(super) fn lose(&mut self, draw: &mut impl FnMut() -> u64, by_page: bool, may_shrink: bool) {
        for at in std::mem::take(&mut self.dirty) {
            if let Some(page) = self.pages.get_mut(&at) {
                page.lose(draw, by_page);
            }
        }
        if may_shrink && self.synced_len < self.len && draw() & 1 == 0 {
            self.cut(self.synced_len);
        }
        self.synced_len = self.len;
    }

    /// Goes on with a sum over the bytes; a page of zeros counts as one that is missing.
    pub(super) fn fold_into(&self, sum: u64) -> u64 {
        let pages = self.pages.iter().filter(|(_, page)| page.seen[..] != [0; PAGE]);
        pages.fold(mix(sum ^ self.len), |sum, (at, page)| {
            fold(mix(sum ^ at), &page.seen[..])
        })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or_default()];
        self.read(0, &mut bytes).expect("it is as long as the file");
        bytes
    }

    /// A copy that is wholly durable.
    pub(super) fn settled(&self) -> Self {
        let mut copy = self.clone();
        copy.sync();
        copy
    }
}

/// Goes on with a sum over more bytes.
pub(super) fn fold(sum: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(sum, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(sum ^ u64::from_le_bytes(word))
    })
}
