//! OpenPGP in what is sent (RFC 9580): whom keys and signatures name, read no further than that.
//!
//! A key or a signature with another name on it joins the alias to that name, however clean the message is around it. So
//! each must show that it is the alias's: a key by its user ids, a signature by its Signer's User ID. What is encrypted is
//! let through; what cannot be read is not.

use mail_parser::decoders::base64::base64_decode;

use super::address::Address;
use super::policy::Sender;

/// Armour tails and heads (RFC 9580 section 6.2).
const BEGIN: &str = "-----BEGIN PGP ";
const END: &str = "-----END PGP ";
const DASHES: &str = "-----";

/// What is armoured as text with a signature behind it.
const SIGNED_MESSAGE: &str = "SIGNED MESSAGE";

/// Names of files that hold packets or armour.
const EXTENSIONS: &[&str] = &["asc", "gpg", "pgp", "sig"];

/// Signatures inside signatures that are followed.
const DEPTH_MAX: usize = 3;

/// Notations of programs that say nothing about anybody.
const NOTATIONS: &[&[u8]] = &[b"salt@notations.sequoia-pgp.org", b"salt@notations.openpgpjs.org"];

/// What an OpenPGP artefact is to its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Finding {
    /// None is there.
    Nothing,
    /// Encrypted, or a key or signature that names the alias and nobody else.
    Harmless,
    /// A signature that names somebody else, or does not say whom; or what is signed inside something packed.
    Signature,
    /// A key that names somebody else, or what cannot be read.
    Identity,
}

/// Looks through the armours of a text. Quoted ones are others'.
pub(super) fn in_text(text: &str, sender: &Sender) -> Finding {
    let mut found = Finding::Nothing;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        // Inside what is signed, lines that begin with a dash are escaped.
        let line = line.trim_start().trim_start_matches("- ");
        let Some(kind) = line
            .strip_prefix(BEGIN)
            .and_then(|rest| rest.trim_end().strip_suffix(DASHES))
        else {
            continue;
        };
        if kind == SIGNED_MESSAGE {
            // The signature that follows is found by itself.
            found = found.max(Finding::Harmless);
            continue;
        }
        let packets = unarmoured(&mut lines, kind);
        found = found.max(packets.map_or(Finding::Identity, |packets| of_packets(&packets, sender)));
    }
    found
}

/// Looks into a file: armour, or packets as they are where its type or its name says so.
pub(super) fn in_file(bytes: &[u8], media_type: &str, name: Option<&str>, sender: &Sender) -> Finding {
    if let Ok(text) = std::str::from_utf8(bytes)
        && has_armour(text)
    {
        return in_text(text, sender);
    }
    // AsciiDoc goes by one of these names too, and is text.
    let is_packet = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let is_named = name
        .and_then(|name| name.rsplit_once('.'))
        .is_some_and(|(_, extension)| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension)));
    match media_type.starts_with("application/pgp-") || (is_packet && is_named) {
        true => of_packets(bytes, sender),
        false => Finding::Nothing,
    }
}

/// Whether to look into a file at all.
pub(super) fn may_be_in(media_type: &str, name: Option<&str>) -> bool {
    let extension = name
        .and_then(|name| name.rsplit_once('.'))
        .map(|(_, extension)| extension);
    let is_named =
        extension.is_some_and(|extension| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension)));
    is_named || media_type.starts_with("text/") || media_type.starts_with("application/pgp-")
}

/// The octets of the first armour, if it is a signature and nothing else.
pub(super) fn detached_signature(text: &str) -> Option<Vec<u8>> {
    let mut lines = text.lines();
    lines.find(|line| line.trim() == "-----BEGIN PGP SIGNATURE-----")?;
    let octets = unarmoured(&mut lines, "SIGNATURE")?;
    let are_signatures = packets(&octets)?.iter().all(|packet| packet.tag == 2);
    are_signatures.then_some(octets)
}

/// Whether an armour begins in a text, quoted or not.
pub(super) fn has_armour(text: &str) -> bool {
    text.contains(BEGIN)
}

/// The same of octets whose charset nobody knows.
pub(super) fn has_armour_in(octets: &[u8]) -> bool {
    memchr::memmem::find(octets, BEGIN.as_bytes()).is_some()
}

/// The text without the armour headers that name program, version and comments. None when there are none.
pub(super) fn without_armour_headers(text: &str) -> Option<String> {
    let mut kept = String::with_capacity(text.len());
    let mut in_headers = false;
    for line in text.split_inclusive('\n') {
        let content = line.trim_end();
        if in_headers {
            let is_header = content.split_once(": ").is_some_and(|(name, _)| {
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            });
            // What the signature is over is said by no other line.
            if is_header && !content.starts_with("Hash: ") {
                continue;
            }
            in_headers = is_header;
        }
        in_headers |= content.starts_with(BEGIN) && content.ends_with(DASHES);
        kept.push_str(line);
    }
    (kept.len() < text.len()).then_some(kept)
}

/// The octets of an armour whose first line was read: headers, an empty line, base64, perhaps a checksum, the end.
fn unarmoured<'a>(lines: &mut impl Iterator<Item = &'a str>, kind: &str) -> Option<Vec<u8>> {
    let unescaped = |line: &'a str| line.trim().trim_start_matches("- ");
    let headers = lines.by_ref().map(unescaped);
    let mut headers = headers.take_while(|line| !line.is_empty());
    if !headers.all(|line| line.contains(':')) {
        return None;
    }
    let mut base64 = String::new();
    for line in lines.map(unescaped) {
        if let Some(rest) = line.strip_prefix(END) {
            let is_same = rest.strip_suffix(DASHES) == Some(kind);
            return is_same.then(|| base64_decode(base64.as_bytes())).flatten();
        }
        // The checksum adds nothing.
        let is_checksum = line.len() == 5 && line.starts_with('=');
        if !is_checksum {
            base64.push_str(line);
        }
    }
    None
}

fn of_packets(octets: &[u8], sender: &Sender) -> Finding {
    let Some(packets) = packets(octets) else {
        return Finding::Identity;
    };
    let is_made_of = |tags: &[u8]| packets.iter().all(|packet| tags.contains(&packet.tag));
    // Padding and markers say nothing.
    let first = packets.iter().find(|packet| !matches!(packet.tag, 10 | 21));
    match first.map(|packet| packet.tag) {
        Some(1 | 3) if is_made_of(&[1, 3, 9, 10, 18, 20, 21]) => Finding::Harmless,
        Some(2) if is_made_of(&[2, 10, 21]) => {
            let are_own = packets
                .iter()
                .filter(|packet| packet.tag == 2)
                .all(|packet| Signature::parse(packet.body, 0).is_some_and(|signature| signature.is_signed_by(sender)));
            if are_own { Finding::Harmless } else { Finding::Signature }
        }
        Some(5 | 6) if is_made_of(&[2, 5, 6, 7, 10, 12, 13, 14, 17, 21]) => match are_keys_of(&packets, sender) {
            true => Finding::Harmless,
            false => Finding::Identity,
        },
        // Signed inside what is packed, or in one pass.
        Some(4 | 8 | 11) => Finding::Signature,
        _ => Finding::Identity,
    }
}

/// Whether every key has a user id, all of them the alias, and carries nobody else's signature.
fn are_keys_of(packets: &[Packet<'_>], sender: &Sender) -> bool {
    packets
        .chunk_by(|_, next| !matches!(next.tag, 5 | 6))
        .filter(|key| matches!(key[0].tag, 5 | 6))
        .all(|key| {
            let mut user_ids = 0;
            let mut issuers: Vec<[u8; 8]> = Vec::new();
            for packet in key {
                match packet.tag {
                    13 if is_alias(packet.body, sender) => user_ids += 1,
                    13 | 17 => return false,
                    2 => match Signature::parse(packet.body, 0) {
                        Some(signature) if signature.names_nobody_but(sender) => issuers.extend(signature.issuers),
                        _ => return false,
                    },
                    _ => {}
                }
            }
            user_ids > 0 && issuers.windows(2).all(|pair| pair[0] == pair[1])
        })
}

/// Whether a user id is the alias, alone or with its display name or local part before it.
fn is_alias(user_id: &[u8], sender: &Sender) -> bool {
    let Ok(user_id) = std::str::from_utf8(user_id) else {
        return false;
    };
    let is_own = |address: &str| Address::parse(address).is_ok_and(|address| address.is_same(&sender.address));
    match user_id.trim().strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
        None => is_own(user_id.trim()),
        Some((name, address)) => {
            let name = name.trim();
            let is_known = |known: &str| name.to_lowercase() == known.trim().to_lowercase();
            let is_known = name.is_empty()
                || is_known(sender.address.local())
                || sender.display_name.as_deref().is_some_and(is_known);
            is_known && is_own(address)
        }
    }
}

struct Packet<'a> {
    tag: u8,
    /// The first part only of what is streamed in parts: those are not looked into.
    body: &'a [u8],
}

/// Cuts octets into packets (RFC 9580 section 4.2). None when they do not come out even.
fn packets(octets: &[u8]) -> Option<Vec<Packet<'_>>> {
    let mut packets = Vec::new();
    let mut rest = octets;
    while let Some((&first, after)) = rest.split_first() {
        let (tag, body, next) = match first {
            0xc0.. => {
                let (body, next) = current_body(after)?;
                (first & 0x3f, body, next)
            }
            0x80..0xc0 => {
                let (length, after) = match first & 3 {
                    0 => big_endian(after, 1)?,
                    1 => big_endian(after, 2)?,
                    2 => big_endian(after, 4)?,
                    _ => (after.len(), after),
                };
                let (body, next) = after.split_at_checked(length)?;
                (first >> 2 & 0xf, body, next)
            }
            _ => return None,
        };
        packets.push(Packet { tag, body });
        rest = next;
    }
    (!packets.is_empty()).then_some(packets)
}

/// The body of a packet in the current format, and what follows it.
fn current_body(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = 0_usize;
    let mut whole: Option<&[u8]> = None;
    let mut rest = octets;
    loop {
        let (&first, after) = rest.split_first()?;
        let (length, after, is_last) = match first {
            0..192 => (usize::from(first), after, true),
            192..224 => {
                let (&second, after) = after.split_first()?;
                (
                    ((usize::from(first) - 192) << 8) + usize::from(second) + 192,
                    after,
                    true,
                )
            }
            255 => {
                let (length, after) = big_endian(after, 4)?;
                (length, after, true)
            }
            224..255 => (1 << (first & 0x1f), after, false),
        };
        let (part, next) = after.split_at_checked(length)?;
        parts += 1;
        whole.get_or_insert(part);
        rest = next;
        if is_last {
            return whole.map(|whole| (whole, rest));
        }
        // Parts are of at least 512 octets but for the last.
        if parts > octets.len() / 512 + 1 {
            return None;
        }
    }
}

fn big_endian(octets: &[u8], count: usize) -> Option<(usize, &[u8])> {
    let (number, rest) = octets.split_at_checked(count)?;
    let number = number
        .iter()
        .fold(0_usize, |number, octet| number << 8 | usize::from(*octet));
    Some((number, rest))
}

/// What a signature says of its signer.
#[derive(Default)]
struct Signature<'a> {
    /// Signer's User IDs, of what is signed itself and of what is not.
    signers: Vec<&'a [u8]>,
    /// Of what is signed itself.
    has_hashed_signer: bool,
    issuers: Vec<[u8; 8]>,
    /// Whether there is something in it that may name anybody.
    is_telling: bool,
}

impl<'a> Signature<'a> {
    /// Reads a signature packet of version 4, 5 or 6 (RFC 9580 section 5.2.3). None: it is none, or of those that name
    /// their key alone.
    fn parse(body: &'a [u8], depth: usize) -> Option<Self> {
        let (&version, rest) = body.split_first()?;
        let count = match version {
            4 => 2,
            5 | 6 => 4,
            _ => return None,
        };
        let (_, rest) = rest.split_at_checked(3)?;
        let (length, rest) = big_endian(rest, count)?;
        let (hashed, rest) = rest.split_at_checked(length)?;
        let (length, rest) = big_endian(rest, count)?;
        let (unhashed, _) = rest.split_at_checked(length)?;
        let mut signature = Self::default();
        signature.subpackets(hashed, true, depth)?;
        signature.subpackets(unhashed, false, depth)?;
        Some(signature)
    }

    fn subpackets(&mut self, area: &'a [u8], is_hashed: bool, depth: usize) -> Option<()> {
        let mut rest = area;
        while let Some((&first, after)) = rest.split_first() {
            let (length, after) = match first {
                0..192 => (usize::from(first), after),
                255 => big_endian(after, 4)?,
                192..255 => {
                    let (&second, after) = after.split_first()?;
                    (((usize::from(first) - 192) << 8) + usize::from(second) + 192, after)
                }
            };
            let (subpacket, next) = after.split_at_checked(length)?;
            rest = next;
            let (&kind, body) = subpacket.split_first()?;
            match kind & 0x7f {
                16 => self.issuers.push(body.try_into().ok()?),
                33 => self.issuers.push(key_id(body)?),
                28 => {
                    self.signers.push(body);
                    self.has_hashed_signer |= is_hashed;
                }
                20 => {
                    let name = body.get(8..)?;
                    self.is_telling |= !NOTATIONS.iter().any(|known| name.starts_with(known));
                }
                // Preferred key server, policy, revocation key, reason for revocation.
                12 | 24 | 26 | 29 => self.is_telling |= !body.is_empty(),
                32 if depth < DEPTH_MAX => {
                    // By a key of the same holder, over the key that signs this.
                    let inner = Self::parse(body, depth + 1)?;
                    self.signers.extend(inner.signers);
                    self.is_telling |= inner.is_telling;
                }
                32 => return None,
                _ => {}
            }
        }
        Some(())
    }

    fn names_nobody_but(&self, sender: &Sender) -> bool {
        !self.is_telling && self.signers.iter().all(|signer| is_alias(signer, sender))
    }

    fn is_signed_by(&self, sender: &Sender) -> bool {
        self.has_hashed_signer && self.names_nobody_but(sender)
    }
}

/// `version | fingerprint`: the key's id is the end of a fingerprint of version 4, the beginning of a later one.
fn key_id(issuer_fingerprint: &[u8]) -> Option<[u8; 8]> {
    let (&version, fingerprint) = issuer_fingerprint.split_first()?;
    match version {
        4 => fingerprint.last_chunk().copied(),
        _ => fingerprint.first_chunk().copied(),
    }
}

/// Reads arbitrary bytes as text and as packets.
pub(super) fn fuzz(bytes: &[u8]) {
    let sender = Sender {
        address: Address::parse("alias@relay.test").expect("a valid address"),
        display_name: None,
    };
    let _ = in_file(bytes, "application/pgp-keys", None, &sender);
    let text = String::from_utf8_lossy(bytes);
    let _ = in_text(&text, &sender);
    if let Some(kept) = without_armour_headers(&text) {
        assert_eq!(without_armour_headers(&kept), None, "nothing is left to take out");
    }
}
