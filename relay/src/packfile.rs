//! Writing an issued pack to a file: the one time that a pack's root is written down.
//!
//! `header block, twice | issue block, twice`, each 4,096 bytes (`docs/PROTOCOL.md`, section on the pack file).

use std::io;
use std::path::{Path, PathBuf};

use keypacks::Secret;
use keypacks::pack::{BLOCK, Identifier, Issue, PackPad, PassphraseCost};
use keypacks::pad::{Half, Made};
use mailbox::disk::DiskFile;
use smtp_bridge::net::Host;

use crate::hexadecimal;
use crate::operator::IssuedPack;
use crate::padfile::PadDraft;

/// A pack's file before the pack: it has its room on the disk, so that no issued pack is lost for want of it.
pub struct Draft {
    out: PathBuf,
    part: PathBuf,
    file: Box<dyn DiskFile>,
    pad: Option<Made>,
    half: Option<Half>,
}

impl Draft {
    /// Makes room beside `out`; refuses to replace a file that is there.
    pub fn begin(host: &Host, out: &Path) -> io::Result<Self> {
        if host.disk.open(out, false).is_ok() {
            let sentence = "the file exists already, and the pack in it may be somebody's: choose another name";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, sentence));
        }
        let mut part = out.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = host.disk.open(&part, true)?;
        file.set_len(0)?;
        file.allocate(4 * BLOCK as u64)?;
        Ok(Draft {
            out: out.to_owned(),
            part,
            file,
            pad: None,
            half: None,
        })
    }

    /// The pack's links are under this pad.
    #[must_use]
    pub fn on_pad(self, pad: Option<&PadDraft>) -> Self {
        Self {
            pad: pad.map(|pad| pad.made),
            half: pad.and_then(|pad| pad.half.as_ref().map(Half::duplicate)),
            ..self
        }
    }

    /// Writes the pack under a passphrase, and gives the file its name once it is whole.
    pub fn finish(self, host: &Host, pack: &IssuedPack, link_keys: u64, passphrase: &[u8]) -> io::Result<()> {
        let mut issue =
            issue(pack, link_keys).ok_or_else(|| io::Error::other("the relay gave an unreadable answer"))?;
        let half = self.half.map(|half| half.check(&issue.root));
        issue.pad = self.pad.map(|made| PackPad { made, half });
        let file = issue.to_file(passphrase, PassphraseCost::DEFAULT, |out| host.entropy.fill(out));
        self.file.write_at(0, &file.map_err(io::Error::other)?)?;
        self.file.sync()?;
        host.disk.rename(&self.part, &self.out)?;
        match self.out.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => host.disk.sync_dir(folder),
            _ => host.disk.sync_dir(Path::new(".")),
        }
    }

    /// Gives the room back, when there is no pack to write.
    pub fn abandon(self, host: &Host) {
        // What cannot be removed is an empty file that says by its name what it is.
        let _ = host.disk.remove(&self.part);
    }
}

fn issue(pack: &IssuedPack, link_keys: u64) -> Option<Issue> {
    Some(Issue {
        identifier: Identifier::parse(&pack.identifier).ok()?,
        relay_public: hexadecimal::decode(&pack.relay_public)?,
        link_keys,
        root: Secret::new(hexadecimal::decode(&pack.root)?),
        day: pack.day,
        relay_address: pack.relay_address.clone(),
        relay_domain: pack.relay_domain.clone(),
        aliases: Vec::new(),
        rotation: pack.rotate.parse().ok()?,
        pad: None,
    })
}
