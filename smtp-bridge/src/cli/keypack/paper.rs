//! `postern keypack print` and `read`: a pack that was not used yet as QR codes on paper, and back.
//!
//! ```text
//! part = "POSTERN:1:" set ":" number "/" parts ":" data ":" check
//! ```
//!
//! All characters are of QR's alphanumeric mode. Data and names are in the base 32 of identifiers, five bits to a
//! character, most significant first, filled up with zeros. `set` is the first 40 bits of SHA-256 over the whole content, `check`
//! the first 40 bits of SHA-256 over the part up to and including the colon before it. The content is the first 112 bytes of
//! the header block and the whole of an issue block, as they are in the file: sealed.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use keypacks::kdf;
use keypacks::pack::BLOCK;
use mailbox::disk::Disk;
use mailbox::holder::inspect;
use maud::{DOCTYPE, PreEscaped, html};
use qrcode::render::{svg, unicode};
use qrcode::{EcLevel, QrCode};

use super::super::passphrase::PassphraseArgs;
use super::super::process::Failure;
use crate::net::system;

/// Arguments of `postern keypack print`.
#[derive(Args)]
pub(super) struct PrintArgs {
    /// A pack as it was issued, not taken in yet.
    file: PathBuf,
    /// Write a page for a browser to print, instead of codes on the terminal.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// Arguments of `postern keypack read`.
#[derive(Args)]
pub(super) struct ReadArgs {
    /// What a scanner read, one code a line, in any order; '-' is standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The pack's file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

const MARK: &str = "POSTERN:1:";
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Part of a header block that is not zeros.
const HEADER: usize = 112;
const CONTENT: usize = HEADER + BLOCK;
/// Bytes of content in one code: a camera reads a code of about 100 modules from paper.
const STEP: usize = 530;
/// Most bytes read from what a scanner wrote.
const BYTES_MAX: u64 = 1 << 20;

/// Writes the codes of a pack.
pub(super) fn print(args: &PrintArgs) -> Result<(), Failure> {
    let host = system::host();
    let failed = |error: &dyn std::fmt::Display| Failure(format!("{}: {error}", args.file.display()));
    // What does not open is not worth its paper.
    let opened = inspect(&*host.disk, &args.file, &args.passphrase.read()?);
    let (outside, _) = opened.map_err(|fault| failed(&fault))?;
    let content = content(&*host.disk, &args.file, &outside.damaged).map_err(|error| failed(&error))?;
    let parts = parts(&content);
    let codes = parts
        .iter()
        .map(|part| QrCode::with_error_correction_level(part, EcLevel::M));
    let codes: Vec<QrCode> = codes.collect::<Result<_, _>>().map_err(|error| failed(&error))?;
    match &args.html {
        Some(path) => {
            let put = super::portable::put_new(path, page(&codes).as_bytes());
            put.map_err(|error| Failure(format!("cannot write {}: {error}", path.display())))?;
            println!("{} is ready to be printed; remove it afterwards.", path.display());
        }
        None => {
            for (number, code) in codes.iter().enumerate() {
                println!("{} of {}", number + 1, codes.len());
                // Light letters on a dark ground, as most terminals have them.
                let mut image = code.render::<unicode::Dense1x2>();
                let image = image
                    .dark_color(unicode::Dense1x2::Light)
                    .light_color(unicode::Dense1x2::Dark);
                println!("{}", image.build());
            }
        }
    }
    eprintln!(
        "The paper is the pack, under its passphrase: who reads it in first has it. Read it in once, and destroy the file or the paper."
    );
    Ok(())
}

/// Puts a pack together from what a scanner read.
pub(super) fn read(args: &ReadArgs) -> Result<(), Failure> {
    let mut text = String::new();
    for path in &args.files {
        let failed = |error| Failure(format!("cannot read {}: {error}", path.display()));
        if path.as_os_str() == "-" {
            std::io::stdin()
                .take(BYTES_MAX)
                .read_to_string(&mut text)
                .map_err(failed)?;
        } else {
            let file = std::fs::File::open(path).map_err(failed)?;
            file.take(BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        }
        text.push('\n');
    }
    let content = joined(&text).map_err(Failure)?;
    let (head, issue) = content.split_at(HEADER);
    let mut header = vec![0; BLOCK];
    header[..HEADER].copy_from_slice(head);
    let file = [&header[..], &header, issue, issue].concat();
    super::portable::put_new(&args.out, &file)
        .map_err(|error| Failure(format!("cannot write {}: {error}", args.out.display())))?;
    println!(
        "{} is the pack; destroy the paper, or keep it and not the file.",
        args.out.display()
    );
    Ok(())
}

/// What is printed: of header and issue block the copies that are whole.
fn content(disk: &dyn Disk, path: &Path, damaged: &[&str]) -> std::io::Result<Vec<u8>> {
    let block = |copies: [(u64, &str); 2], length: usize| {
        let whole = copies.into_iter().find(|(_, name)| !damaged.contains(name));
        let (number, _) = whole.ok_or(std::io::ErrorKind::InvalidData)?;
        let mut block = vec![0; length];
        disk.open(path, false)?.read_at(number * BLOCK as u64, &mut block)?;
        Ok::<_, std::io::Error>(block)
    };
    let header = block([(0, "first header"), (1, "second header")], HEADER)?;
    let issue = block([(2, "first issue"), (3, "second issue")], BLOCK)?;
    Ok([header, issue].concat())
}

fn parts(content: &[u8]) -> Vec<String> {
    let set = short(content);
    let count = content.len().div_ceil(STEP);
    let part = |(number, data): (usize, &[u8])| {
        let head = format!("{MARK}{set}:{}/{count}:{}:", number + 1, spelled(data));
        let check = short(head.as_bytes());
        head + &check
    };
    content.chunks(STEP).enumerate().map(part).collect()
}

/// The content of all parts in a text, or what is missing.
fn joined(text: &str) -> Result<Vec<u8>, String> {
    let mut set: Option<(String, usize)> = None;
    let mut found: Vec<Option<Vec<u8>>> = Vec::new();
    for line in text.lines() {
        let Some(at) = line.find(MARK) else { continue };
        let line = line[at..].trim_end();
        let part = Part::read(line).ok_or("a code was read wrongly: scan it again")?;
        match &set {
            None => {
                set = Some((part.set.to_owned(), part.count));
                found = vec![None; part.count];
            }
            Some(set) if *set != (part.set.to_owned(), part.count) => {
                return Err("these codes are of different packs".to_owned());
            }
            Some(_) => {}
        }
        found[part.number - 1] = Some(part.data);
    }
    let Some((set, _)) = set else {
        return Err("no code of a pack is in there".to_owned());
    };
    let missing: Vec<String> = (1..)
        .zip(&found)
        .filter(|(_, part)| part.is_none())
        .map(|(number, _)| number.to_string())
        .collect();
    if !missing.is_empty() {
        return Err(format!(
            "of {} codes these are missing: {}",
            found.len(),
            missing.join(", ")
        ));
    }
    let content: Vec<u8> = found.into_iter().flatten().flatten().collect();
    if content.len() != CONTENT || short(&content) != set {
        return Err("the codes do not make up a pack".to_owned());
    }
    Ok(content)
}

/// One code as it was read.
struct Part<'a> {
    set: &'a str,
    number: usize,
    count: usize,
    data: Vec<u8>,
}

/// Most codes of one pack.
const PARTS_MAX: usize = CONTENT.div_ceil(STEP);

impl<'a> Part<'a> {
    /// `None`: its check does not agree, or it is none.
    fn read(line: &'a str) -> Option<Self> {
        let (head, check) = line.split_at_checked(line.rfind(':')? + 1)?;
        if short(head.as_bytes()) != check {
            return None;
        }
        let mut fields = head.strip_prefix(MARK)?.split(':');
        let (set, place, data) = (fields.next()?, fields.next()?, fields.next()?);
        let (number, count) = place.split_once('/')?;
        let (number, count) = (number.parse().ok()?, count.parse().ok()?);
        if !(1..=PARTS_MAX).contains(&count) || !(1..=count).contains(&number) {
            return None;
        }
        Some(Self {
            set,
            number,
            count,
            data: read_back(data)?,
        })
    }
}

/// The first 40 bits of SHA-256, spelled.
fn short(bytes: &[u8]) -> String {
    spelled(&kdf::hash(&[bytes])[..5])
}

/// Five bits to a character, most significant first, the last one filled up with zeros.
fn spelled(bytes: &[u8]) -> String {
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
    (0..bytes.len() * 8)
        .step_by(5)
        .map(|at| char::from(ALPHABET[(0..5).fold(0, |sum, next| sum << 1 | usize::from(bit(at + next)))]))
        .collect()
}

fn read_back(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut held, mut bits) = (0u32, 0);
    for character in text.bytes() {
        let five = ALPHABET.iter().position(|symbol| *symbol == character)?;
        held = held << 5 | u32::try_from(five).ok()?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits & 0xff).ok()?);
        }
        held &= 0xff;
    }
    Some(bytes)
}

/// A page of codes, for paper.
fn page(codes: &[QrCode]) -> String {
    let image = |code: &QrCode| {
        PreEscaped(
            code.render::<svg::Color>()
                .min_dimensions(330, 330)
                .build()
                .replace("<?xml version=\"1.0\" standalone=\"yes\"?>", ""),
        )
    };
    let page = html! {
        (DOCTYPE)
        html {
            head {
                meta charset="utf-8";
                title { "A pack of keys" }
                style { (PreEscaped("body{font-family:sans-serif}figure{display:inline-block;margin:4mm;text-align:center;break-inside:avoid}")) }
            }
            body {
                p { "A pack of keys for Postern, sealed under its passphrase. Scan all codes, in any order, one a line into a file, then: " code { "postern keypack read FILE --out PACK" } }
                @for (number, code) in codes.iter().enumerate() {
                    figure { (image(code)) figcaption { (number + 1) " of " (codes.len()) } }
                }
            }
        }
    };
    page.into_string()
}

/// Feeds hostile text to the reader; must not panic.
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = joined(text);
    if let Some(bytes) = read_back(text) {
        assert!(
            read_back(&spelled(&bytes)).is_some_and(|again| again == bytes),
            "what was read can be read again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        (0..CONTENT).map(|at| (at * 7 % 251) as u8).collect()
    }

    #[test]
    fn parts_in_any_order_and_twice_make_up_the_content() {
        let mut lines = parts(&sample());
        assert_eq!(lines.len(), PARTS_MAX);
        lines.reverse();
        lines.push(lines[2].clone());
        let text = format!("QR-Code:{}\n\nnoise", lines.join("\r\nQR-Code:"));
        assert_eq!(joined(&text), Ok(sample()));
    }

    #[test]
    fn what_is_missing_damaged_or_mixed_is_said() {
        let lines = parts(&sample());
        assert_eq!(
            joined(&lines[1..].join("\n")),
            Err("of 8 codes these are missing: 1".to_owned())
        );
        let damaged = lines.join("\n").replacen("0", "1", 40);
        assert!(joined(&damaged).is_err());
        let mut other = sample();
        other[0] ^= 1;
        let mixed = format!("{}\n{}", lines[..4].join("\n"), parts(&other)[4..].join("\n"));
        assert_eq!(joined(&mixed), Err("these codes are of different packs".to_owned()));
        assert!(joined("").is_err());
    }

    #[test]
    fn a_part_is_of_characters_that_codes_hold_densely() {
        let dense = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_uppercase() || b" $%*+-./:".contains(&byte);
        assert!(parts(&sample()).iter().all(|part| part.bytes().all(dense)));
    }

    proptest! {
        #[test]
        fn what_is_spelled_reads_back(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(read_back(&spelled(&bytes)), Some(bytes));
        }

        #[test]
        fn one_changed_character_is_noticed(at in 0usize..800, by in 1u8..20) {
            let line = parts(&sample()).remove(0);
            let at = at % line.len();
            let mut changed = line.clone().into_bytes();
            changed[at] = changed[at].wrapping_add(by);
            if let Ok(changed) = String::from_utf8(changed) {
                prop_assert!(Part::read(&changed).is_none());
            }
        }
    }
}
