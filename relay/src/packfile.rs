//! Writing an issued pack to a file: the one time that a pack's root is written down.
//!
//! `header block, twice | issue block, twice`, each 4,096 bytes (`docs/PROTOCOL.md`, section on the pack file).

use std::io;
use std::path::Path;

use keypacks::Secret;
use keypacks::pack::{Header, Identifier, Issue, PassphraseCost};
use smtp_bridge::net::Host;

use crate::hexadecimal;
use crate::operator::IssuedPack;

/// Writes a pack under a passphrase; refuses to replace a file that is there.
pub fn write(host: &Host, pack: &IssuedPack, link_keys: u64, out: &Path, passphrase: &[u8]) -> io::Result<()> {
    let malformed = || io::Error::other("the relay gave an unreadable answer");
    let issue = Issue {
        identifier: Identifier::parse(&pack.identifier).map_err(|_| malformed())?,
        relay_public: hexadecimal::decode(&pack.relay_public).ok_or_else(malformed)?,
        link_keys,
        root: Secret::new(hexadecimal::decode(&pack.root).ok_or_else(malformed)?),
        day: pack.day,
        relay_address: pack.relay_address.clone(),
        relay_domain: pack.relay_domain.clone(),
        aliases: Vec::new(),
    };
    if host.disk.open(out, false).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists already"));
    }
    let file_key = Secret::new(host.random());
    let file = host.disk.open(out, true)?;
    let header = Header::create(
        passphrase,
        &file_key,
        host.random(),
        host.random(),
        PassphraseCost::DEFAULT,
    );
    let mut offset = 0;
    let mut put = |block: &[u8]| {
        let at = offset;
        offset += block.len() as u64;
        file.write_at(at, block)
    };
    put(&header)?;
    put(&header)?;
    for _ in 0..2 {
        let sealed = issue.seal(&file_key, host.random()).map_err(io::Error::other)?;
        put(&sealed[..])?;
    }
    file.sync()
}
