//! Texts of messages: sealed in chunks if they are long, so that nobody who reads one has to hold it whole.
//!
//! ```text
//! up to 64 KiB    Box(body key, text)
//! longer          Box(HE(body key, "holder/chunk", 0), 64 KiB) | Box(HE(body key, "holder/chunk", 1), 64 KiB) | ...
//! ```
//!
//! Number and length of the chunks follow from the length of the text, which stands in the message's row under its seal: no
//! chunk can be cut off, left out or put elsewhere. A long text of before there were chunks is one box, which its length
//! on the disk tells.

use keypacks::secretbox::{MAC, NONCE};
use keypacks::{Secret, kdf};
use zeroize::Zeroizing;

use super::shelf::{RowKey, Shelf, body_key};
use crate::StoreError;
use crate::bodies::{BodyName, HeldBody};
use crate::entropy::Entropy;
use crate::holder_store::MessageText;
use crate::index::Write;
use crate::vault;

/// Octets of a long text that are sealed together.
const CHUNK: usize = 64 << 10;
/// What a seal adds.
const SEAL: usize = NONCE + MAC;

impl Shelf {
    /// Writes the text of a message under a fresh key. A refusal (the disk is full) leaves nothing behind.
    pub(super) fn put_text(&self, write: &Write<'_>, text: &[u8]) -> Result<(RowKey, BodyName), StoreError> {
        if text.len() <= CHUNK {
            return self.put_body(write, text);
        }
        let key = self.fresh_key()?;
        let body_key = body_key(&key);
        let chunks = sealed(&body_key, text, &*self.base.entropy);
        match self.base.put_body_parts(write, sealed_length(text.len()), chunks) {
            Ok(name) => Ok((key, name)),
            Err(error) => {
                self.base.slab.finish(key.record);
                Err(error)
            }
        }
    }

    /// A text as it is now: [`Text::read`] goes on when its message is gone. `size`: as its row says. `NoRow`: it is gone.
    pub(super) fn text(&self, key: Secret<32>, name: BodyName, size: u32) -> Result<Text, StoreError> {
        let body = self.base.hold_body(name)?.ok_or(StoreError::NoRow)?;
        let length = size as usize;
        if body.len() == length + SEAL {
            let text = vault::open(&key, &body.read(0, length + SEAL)?)?;
            return Ok(Text::Whole(text));
        }
        match body.len() == sealed_length(length) {
            true => Ok(Text::Chunks { body, key, length }),
            false => Err(StoreError::Corrupt),
        }
    }
}

/// The chunks of a text, each sealed.
fn sealed<'a>(
    key: &'a Secret<32>,
    text: &'a [u8],
    entropy: &'a dyn Entropy,
) -> impl Iterator<Item = Vec<u8>> + use<'a> {
    let chunks = text.chunks(CHUNK).enumerate();
    chunks.map(|(index, chunk)| vault::seal_once(&chunk_key(key, index), chunk, entropy))
}

/// Length of a text in chunks, in bytes.
fn sealed_length(length: usize) -> usize {
    length + length.div_ceil(CHUNK) * SEAL
}

/// Of one chunk of one body.
fn chunk_key(key: &Secret<32>, index: usize) -> Secret<32> {
    kdf::he(key, "holder/chunk", &(index as u64).to_le_bytes())
}

/// A text that is being read.
pub(super) enum Text {
    /// It is short, or of before there were chunks.
    Whole(Zeroizing<Vec<u8>>),
    Chunks {
        body: HeldBody,
        key: Secret<32>,
        length: usize,
    },
}

impl Text {
    /// All of it.
    pub(super) fn into_whole(self) -> Result<Vec<u8>, StoreError> {
        if let Self::Whole(mut text) = self {
            return Ok(std::mem::take(&mut *text));
        }
        // Room for all of it: a vector that grows leaves pieces of what it holds behind.
        let mut whole = Zeroizing::new(Vec::with_capacity(self.len()));
        while whole.len() < self.len() {
            let chunk = self.read(whole.len())?;
            whole.extend_from_slice(&chunk);
        }
        Ok(std::mem::take(&mut *whole))
    }
}

impl MessageText for Text {
    fn len(&self) -> usize {
        match self {
            Self::Whole(text) => text.len(),
            Self::Chunks { length, .. } => *length,
        }
    }

    fn read(&self, at: usize) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let start = at - at % CHUNK;
        let end = self.len().min(start + CHUNK);
        if at >= end {
            return Ok(Zeroizing::default());
        }
        match self {
            Self::Whole(text) => Ok(Zeroizing::new(text[at..end].to_vec())),
            Self::Chunks { body, key, .. } => {
                let index = at / CHUNK;
                let sealed = body.read(index * (CHUNK + SEAL), end - start + SEAL)?;
                let mut chunk = vault::open(&chunk_key(key, index), &sealed)?;
                match at == start {
                    true => Ok(chunk),
                    false => Ok(Zeroizing::new(chunk.split_off(at - start))),
                }
            }
        }
    }
}
