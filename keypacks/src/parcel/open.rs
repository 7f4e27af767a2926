//! A layer on its way in: opened a chunk at a time, each only after its MAC was checked.

use zeroize::Zeroize;

use crate::chain::BoxStep;
use crate::secretbox::{MAC, open_in_place};
use crate::{Refused, Secret};

use super::{CHUNK, HEAD, Header, PREFIX, TAG, chunk_nonce, class_bytes, layer_key, parcel_tag};

/// Opens a layer while it streams by; at any moment at most one chunk of it lies here.
///
/// What [`Self::push`] hands out is the sender's, but perhaps not all of it: it counts when [`Self::finish`] says so.
pub struct LayerOpener {
    key: Secret<32>,
    prefix: [u8; PREFIX],
    header: Header,
    /// The chunk that is coming in.
    chunk: Vec<u8>,
    counter: u64,
    /// Payload that is not opened yet. `None`: the last chunk was.
    left: Option<usize>,
    /// Bytes of the class that are still to come.
    room: usize,
}

impl LayerOpener {
    /// Opens the head of the parcel of `step`.
    pub fn new(step: &BoxStep, head: &[u8; HEAD]) -> Result<Self, Refused> {
        if parcel_tag(head) != Some(step.tag) {
            return Err(Refused);
        }
        let key = layer_key(step);
        let prefix = *head[TAG..].first_chunk::<PREFIX>().ok_or(Refused)?;
        let mut sealed = [0; HEAD - TAG - PREFIX];
        sealed.copy_from_slice(&head[TAG + PREFIX..]);
        let opened = open_in_place(&key, &chunk_nonce(&prefix, 0, false), &mut sealed);
        let header = opened.and_then(|plain| Header::parse(plain));
        sealed.zeroize();
        let header = header?;
        Ok(Self {
            key,
            prefix,
            chunk: Vec::with_capacity(MAC + CHUNK),
            counter: 1,
            left: Some(header.length as usize),
            room: class_bytes(header.class) - HEAD,
            header,
        })
    }

    /// `N`, which the sender drew for this layer.
    pub fn prefix(&self) -> [u8; PREFIX] {
        self.prefix
    }

    /// What the head says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Takes the next bytes behind the head and hands the payload that they open to `take`. After an error nothing
    /// more is worth pushing.
    pub fn push(&mut self, mut bytes: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), Refused> {
        self.room = self.room.checked_sub(bytes.len()).ok_or(Refused)?;
        while let Some(left) = self.left.filter(|_| !bytes.is_empty()) {
            let whole = MAC + left.min(CHUNK);
            let (now, later) = bytes.split_at(bytes.len().min(whole - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == whole {
                let last = left <= CHUNK;
                let nonce = chunk_nonce(&self.prefix, self.counter, last);
                take(open_in_place(&self.key, &nonce, &mut self.chunk)?);
                self.chunk.zeroize();
                self.counter += 1;
                self.left = (!last).then(|| left - CHUNK);
            }
        }
        Ok(())
    }

    /// Whether the last chunk has opened and the parcel is exactly as long as its class.
    pub fn finish(self) -> Result<Header, Refused> {
        match (self.left, self.room) {
            (None, 0) => Ok(self.header.clone()),
            _ => Err(Refused),
        }
    }
}

impl Drop for LayerOpener {
    fn drop(&mut self) {
        self.chunk.zeroize();
        self.header.hop.zeroize();
    }
}

pub(super) fn fuzz(bytes: &[u8]) {
    use crate::chain::{BoxChain, BoxKind};
    let mut step = BoxChain::from_root(BoxKind::Parcel, &Secret::new([0; 32])).advance();
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
        return;
    };
    if let Some(tag) = parcel_tag(head) {
        step.tag = tag;
    }
    assert!(
        LayerOpener::new(&step, head).is_err(),
        "no input is sealed under this key"
    );
    let header = Header {
        kind: super::Kind::Control,
        class: 1,
        length: u32::from(bytes[0]),
        hop: [0; super::HOP],
    };
    let mut sealed = Vec::new();
    let step = BoxStep {
        key: step.key.duplicate(),
        ..step
    };
    let again = BoxStep {
        index: step.index,
        key: step.key.duplicate(),
        tag: step.tag,
    };
    super::LayerSealer::new(step, [1; PREFIX], &header, &mut sealed).expect("a class that holds it");
    let head = sealed.first_chunk().expect("a head was written");
    let mut opener = LayerOpener::new(&again, head).expect("as made");
    assert!(opener.push(rest, |_| {}).is_err() || opener.finish().is_err());
}
