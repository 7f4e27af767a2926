//! Making a one-time pad: the operating system's generator, and whatever else the operator trusts, added bit by bit.
//!
//! The pad is as good as the best of its sources. It is written piece by piece into two files, the holder's beside the pack
//! and the relay's own; both are `.part` until they are whole and durable, and a pack names them only after that.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use keypacks::pad::{FileHeader, HEADER_COPY, Half, HalfDigest, Layout, Made, PAD_MAX, PAD_MIN};
use mailbox::disk::{DiskFile, RESERVE_BYTES};
use mailbox::pad;
use smtp_bridge::net::Host;
use zeroize::Zeroizing;

/// Bytes that are made at a time.
const STEP: usize = 1 << 20;
/// Largest pad that dice are taken for: their digits are read before anything is written.
const DICE_PAD_MAX: u64 = 16 << 20;

/// A source that is added to the operating system's generator.
enum Source {
    /// A file, a device or a pipe.
    File(File),
    /// Bits of dice.
    Dice(Zeroizing<Vec<u8>>, usize),
}

/// Sources of a pad, long enough as far as that can be told.
pub struct Sources {
    added: Vec<Source>,
    half: Option<(PathBuf, File)>,
}

/// A pad that is whole and has no account yet.
pub struct PadDraft {
    /// What it was made as.
    pub made: Made,
    /// The second half, where the holder's file is the first.
    pub half: Option<Half>,
    half_file: Option<PathBuf>,
    holder: Part,
    relay: Part,
}

struct Part {
    part: PathBuf,
    whole: PathBuf,
}

/// Reads a size: bytes, or with K, M, G or T (of 1,024, with or without iB) behind.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err("give a size as in 64M or 2G".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "give a size as in 64M or 2G".to_owned())?;
    match number.checked_mul(1 << shift) {
        Some(size) if (PAD_MIN..=PAD_MAX).contains(&size) => Ok(size),
        _ => Err("a pad has at least 1M and at most 1T".to_owned()),
    }
}

fn sentence(words: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, words.into())
}

impl Sources {
    /// Opens the sources of a pad; `-` reads the digits of dice from `dice`. What is known to be too short is refused now.
    pub fn open(names: &[PathBuf], layout: Layout, dice: impl BufRead) -> io::Result<Self> {
        let needed = 2 * layout.region();
        let mut dice = Some(dice);
        let (mut sources, mut seen) = (Vec::new(), Vec::new());
        for name in names {
            if name.as_os_str() == "-" {
                let dice = dice.take().ok_or_else(|| sentence("dice can be given once"))?;
                sources.push(Source::Dice(read_dice(dice, needed)?, 0));
                continue;
            }
            let shown = name.display();
            let file = File::open(name).map_err(|error| io::Error::new(error.kind(), format!("{shown}: {error}")))?;
            let found = file.metadata()?;
            // Added twice it would add nothing.
            if seen.contains(&(found.dev(), found.ino())) {
                return Err(sentence(format!("{shown} is given twice")));
            }
            seen.push((found.dev(), found.ino()));
            let is_endless = found.file_type().is_char_device() || found.file_type().is_fifo();
            if found.is_dir() || found.is_file() && found.len() < needed {
                return Err(sentence(format!(
                    "{shown} is too short: the pad takes {needed} bytes of each source"
                )));
            }
            if !is_endless && !found.is_file() && !found.file_type().is_block_device() {
                return Err(sentence(format!("{shown} is neither a file nor a device")));
            }
            sources.push(Source::File(file));
        }
        Ok(Self {
            added: sources,
            half: None,
        })
    }

    /// The relay's file is what is made and this; the holder's lacks it, and its holder gets it from somebody else.
    pub fn with_half(self, name: Option<&Path>, layout: Layout) -> io::Result<Self> {
        let Some(name) = name else { return Ok(self) };
        let (shown, needed) = (name.display(), 2 * layout.region());
        let file = File::open(name).map_err(|error| io::Error::new(error.kind(), format!("{shown}: {error}")))?;
        let found = file.metadata()?;
        if !found.is_file() || found.len() < needed {
            return Err(sentence(format!(
                "{shown} is no half of the pad: that is a file of {needed} bytes"
            )));
        }
        let is_it = |source: &Source| match source {
            Source::File(file) => file
                .metadata()
                .is_ok_and(|other| (other.dev(), other.ino()) == (found.dev(), found.ino())),
            Source::Dice(..) => false,
        };
        // The holder's file would be without it again.
        if self.added.iter().any(is_it) {
            return Err(sentence(format!("{shown} is given twice")));
        }
        Ok(Self {
            half: Some((name.to_owned(), file)),
            ..self
        })
    }

    /// Adds the next bytes of every source.
    fn add_to(&mut self, bytes: &mut [u8], buffer: &mut [u8]) -> io::Result<()> {
        for source in &mut self.added {
            let next: &[u8] = match source {
                Source::File(file) => {
                    let next = &mut buffer[..bytes.len()];
                    file.read_exact(next).map_err(|error| match error.kind() {
                        io::ErrorKind::UnexpectedEof => sentence("a source ended before the pad did"),
                        _ => error,
                    })?;
                    next
                }
                Source::Dice(bits, at) => {
                    let next = &bits[*at..*at + bytes.len()];
                    *at += bytes.len();
                    next
                }
            };
            for (byte, other) in bytes.iter_mut().zip(next) {
                *byte ^= other;
            }
        }
        Ok(())
    }
}

/// Even bits from the throws of a die: 1 to 4 are two bits each, 5 and 6 one; white space is passed over.
fn read_dice(mut dice: impl BufRead, needed: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    if needed > DICE_PAD_MAX {
        return Err(sentence("dice are taken for pads of at most 16M: nobody throws more"));
    }
    let mut bits = Zeroizing::new(Vec::with_capacity(needed as usize));
    let (mut byte, mut count) = (0_u32, 0);
    let mut digits = Zeroizing::new([0; 4_096]);
    loop {
        let read = dice.read(&mut digits[..])?;
        if read == 0 {
            return Err(sentence(format!(
                "too few throws: {} of {needed} bytes; a throw gives 1.67 bits on average",
                bits.len()
            )));
        }
        for digit in &digits[..read] {
            let (value, width) = match digit {
                b'1'..=b'4' => (u32::from(digit - b'1'), 2),
                b'5' | b'6' => (u32::from(digit - b'5'), 1),
                b' ' | b'\t' | b'\r' | b'\n' => continue,
                _ => return Err(sentence("throws of dice are digits from 1 to 6")),
            };
            byte = byte << width | value;
            count += width;
            if count >= 8 {
                bits.push((byte >> (count - 8)) as u8);
                count -= 8;
                if bits.len() as u64 == needed {
                    return Ok(bits);
                }
            }
        }
    }
}

/// Makes a pad beside `pack` and in the data folder of a relay. `progress` is told how many of how many bytes are made.
/// When this fails, nothing of it is left.
pub fn make(
    host: &Host,
    layout: Layout,
    mut sources: Sources,
    pack: &Path,
    data: &Path,
    mut progress: impl FnMut(u64, u64),
) -> io::Result<PadDraft> {
    let made = Made {
        name: host.random(),
        layout,
    };
    let holder = Part::of(pad::beside(pack));
    let relay = Part::of(pad::path(data, &made.name));
    if host.disk.open(&holder.whole, false).is_ok() {
        return Err(sentence(format!(
            "{} exists already, and may be somebody's pad: choose another name",
            holder.whole.display()
        )));
    }
    let folder = pad::folder(data);
    host.disk.create_dir_all(&folder)?;
    belongs_to(&folder, data)?;
    for part in [&holder, &relay] {
        let below = part.folder();
        if host.disk.free_bytes(below)? < layout.file_bytes() + RESERVE_BYTES {
            return Err(sentence(format!("the disk of {} is too small for it", below.display())));
        }
    }
    let mut draft = PadDraft {
        made,
        half: None,
        half_file: sources.half.as_ref().map(|(path, _)| path.clone()),
        holder,
        relay,
    };
    match draft.fill(host, &mut sources, data, &mut progress) {
        Ok(half) => {
            draft.half = half;
            Ok(draft)
        }
        Err(error) => {
            draft.abandon(host);
            Err(error)
        }
    }
}

impl PadDraft {
    fn fill(
        &self,
        host: &Host,
        sources: &mut Sources,
        data: &Path,
        progress: &mut impl FnMut(u64, u64),
    ) -> io::Result<Option<Half>> {
        let mut files = Vec::new();
        for part in [&self.holder, &self.relay] {
            let file = host.disk.open(&part.part, true)?;
            std::fs::set_permissions(&part.part, std::fs::Permissions::from_mode(0o600))?;
            file.set_len(0)?;
            files.push(file);
        }
        belongs_to(&self.relay.part, data)?;
        let (start, end) = (2 * HEADER_COPY as u64, self.made.layout.file_bytes());
        let mut bytes = Zeroizing::new(vec![0; STEP]);
        let mut buffer = Zeroizing::new(vec![0; STEP]);
        let (mut at, mut digest) = (start, HalfDigest::default());
        while at < end {
            let count = STEP.min(usize::try_from(end - at).unwrap_or(STEP));
            host.entropy.fill(&mut bytes[..count]);
            sources.add_to(&mut bytes[..count], &mut buffer)?;
            let [holder, relay] = &files[..] else {
                return Err(io::Error::other("a pad has two ends"));
            };
            holder.write_at(at, &bytes[..count])?;
            if let Some((_, half)) = &mut sources.half {
                half.read_exact(&mut buffer[..count])?;
                digest.update(&buffer[..count]);
                for (byte, other) in bytes[..count].iter_mut().zip(&buffer[..count]) {
                    *byte ^= other;
                }
            }
            relay.write_at(at, &bytes[..count])?;
            at += count as u64;
            progress(at - start, end - start);
        }
        let header = FileHeader::fresh(self.made).encode();
        for file in &files {
            file.sync()?;
            write_header(&**file, &header)?;
        }
        Ok(sources.half.as_ref().map(|_| digest.finish()))
    }

    /// Gives the relay's file its name, before there is an account for it.
    pub fn install(&self, host: &Host) -> io::Result<()> {
        self.relay.finish(host)
    }

    /// Gives the holder's file its name, before the pack has its own.
    pub fn hand_out(&self, host: &Host) -> io::Result<()> {
        self.holder.finish(host)
    }

    /// Overwrites and removes the operator's copy of the second half: with a copy of the first one it is the pad.
    pub fn forget_half(&self, host: &Host) -> io::Result<()> {
        match &self.half_file {
            Some(path) => pad::overwrite_half(&*host.disk, path).map_err(io::Error::other),
            None => Ok(()),
        }
    }

    /// Removes what no account has.
    pub fn abandon(&self, host: &Host) {
        for part in [&self.holder, &self.relay] {
            // What cannot be removed says by its name what it is. The holder's own name may be somebody else's by now.
            let _ = host.disk.remove(&part.part);
        }
        let _ = host.disk.remove(&self.relay.whole);
    }
}

fn write_header(file: &dyn DiskFile, header: &[u8; HEADER_COPY]) -> io::Result<()> {
    for copy in 0..2 {
        file.write_at(copy * HEADER_COPY as u64, header)?;
    }
    file.sync()
}

impl Part {
    fn of(whole: PathBuf) -> Self {
        let mut part = whole.as_os_str().to_owned();
        part.push(".part");
        Self {
            part: PathBuf::from(part),
            whole,
        }
    }

    fn folder(&self) -> &Path {
        match self.whole.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    fn finish(&self, host: &Host) -> io::Result<()> {
        host.disk.rename(&self.part, &self.whole)?;
        host.disk.sync_dir(self.folder())
    }
}

/// Gives a file to whoever owns the data folder: packs may be issued by root, beside a relay that runs as another user.
fn belongs_to(path: &Path, data: &Path) -> io::Result<()> {
    let (own, owner) = (std::fs::metadata(path)?, std::fs::metadata(data)?);
    if (own.uid(), own.gid()) == (owner.uid(), owner.gid()) {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()))
}

#[cfg(test)]
mod tests {
    use smtp_bridge::net::system;

    use super::*;

    fn layout() -> Layout {
        Layout::of_size(PAD_MIN).expect("the smallest")
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, expected) in [
            ("1M", 1 << 20),
            ("1048576", 1 << 20),
            ("64MiB", 64 << 20),
            ("2g", 2 << 30),
        ] {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "M",
            "1",
            "1048575",
            "2T",
            "1.5M",
            "-1M",
            "1Q",
            "99999999999999999999",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn both_files_have_the_sum_of_all_sources_and_belong_to_nobody_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let (pack, data) = (folder.path().join("a.pack"), folder.path().join("relay"));
        std::fs::create_dir(&data).expect("made");
        let mut host = system::host();
        // A generator that is known: the pad is then the other sources alone.
        struct Zeros;
        impl mailbox::Entropy for Zeros {
            fn fill(&self, out: &mut [u8]) {
                out.fill(0);
            }
        }
        host.entropy = std::sync::Arc::new(Zeros);
        let one: Vec<u8> = (0..PAD_MIN).map(|at| (at % 251) as u8).collect();
        let file = folder.path().join("one");
        std::fs::write(&file, &one).expect("written");
        let throws = "1234 56\n".repeat(1 << 20);
        let sources = Sources::open(&[file, "-".into()], layout(), throws.as_bytes()).expect("long enough");
        let mut told = Vec::new();
        let draft = make(&host, layout(), sources, &pack, &data, |done, of| told.push((done, of))).expect("made");
        assert_eq!(told.last(), Some(&(PAD_MIN, PAD_MIN)));
        assert!(!pad::beside(&pack).exists());
        draft.install(&host).expect("named");
        draft.hand_out(&host).expect("named");
        let paths = [pad::beside(&pack), pad::path(&data, &draft.made.name)];
        let [a, b] = paths.clone().map(|path| std::fs::read(path).expect("there"));
        assert!(a == b && a.len() as u64 == layout().file_bytes());
        for path in paths {
            let mode = std::fs::metadata(path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        // 1 to 6 are 00 01 10 11 0 1: ten bits for each six throws.
        let bit = |at: usize| b"0001101101"[at % 10] - b'0';
        let dice = |byte: usize| (0..8).fold(0, |all, at| all << 1 | bit(8 * byte + at));
        let pad = &a[2 * HEADER_COPY..];
        assert!((0..pad.len()).all(|at| pad[at] == one[at] ^ dice(at)));
    }

    #[test]
    fn a_source_that_is_too_short_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let short = folder.path().join("short");
        std::fs::write(&short, vec![1; (PAD_MIN - 1) as usize]).expect("written");
        let refused = |names: &[PathBuf], dice: &str| Sources::open(names, layout(), dice.as_bytes()).is_err();
        assert!(refused(std::slice::from_ref(&short), ""));
        assert!(refused(&["-".into()], "123456"));
        assert!(refused(&["-".into()], "1234567"));
        assert!(refused(&["/dev/zero".into(), "/dev/zero".into()], ""));
        assert!(refused(&[folder.path().to_owned()], ""));
        assert!(!refused(&["/dev/zero".into()], ""));
        // A device that ends early is found out while the pad is made.
        let data = folder.path().join("relay");
        std::fs::create_dir(&data).expect("made");
        let sources = Sources::open(&["/dev/null".into()], layout(), &b""[..]).expect("a device");
        let pack = folder.path().join("a.pack");
        assert!(make(&system::host(), layout(), sources, &pack, &data, |_, _| {}).is_err());
        let left = |path: &Path| std::fs::read_dir(path).expect("readable").count();
        assert_eq!((left(folder.path()), left(&pad::folder(&data))), (2, 0));
    }
}
