//! `postern keypack print` and `read`: a pack that was not used yet as QR codes on paper, and back.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use keypacks::pack::{BLOCK, paper_parts, read_paper};
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

/// Most bytes read from what a scanner wrote.
const BYTES_MAX: u64 = 1 << 20;

/// Writes the codes of a pack.
pub(super) fn print(args: &PrintArgs) -> Result<(), Failure> {
    let host = system::host();
    let failed = |error: &dyn std::fmt::Display| Failure(format!("{}: {error}", args.file.display()));
    // What does not open is not worth its paper.
    let opened = inspect(&*host.disk, &args.file, &args.passphrase.read()?);
    let (outside, _) = opened.map_err(|fault| failed(&fault))?;
    if mailbox::pad::beside(&args.file).exists() {
        return Err(failed(&"it has a one-time pad beside it, which no paper holds"));
    }
    let [header, issue] = whole(&*host.disk, &args.file, &outside.damaged).map_err(|error| failed(&error))?;
    let parts = paper_parts(&header, &issue);
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
            io::stdin().take(BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        } else {
            let file = std::fs::File::open(path).map_err(failed)?;
            file.take(BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        }
        text.push('\n');
    }
    let blocks = read_paper(&text).map_err(Failure::from_error)?;
    let [header, issue] = &*blocks;
    let file = [&header[..], header, issue, issue].concat();
    super::portable::put_new(&args.out, &file)
        .map_err(|error| Failure(format!("cannot write {}: {error}", args.out.display())))?;
    println!(
        "{} is the pack; destroy the paper, or keep it and not the file.",
        args.out.display()
    );
    Ok(())
}

/// Of header and issue block the copies that are whole.
fn whole(disk: &dyn Disk, path: &Path, damaged: &[&str]) -> io::Result<[Box<[u8; BLOCK]>; 2]> {
    let block = |copies: [(u64, &str); 2]| {
        let whole = copies.into_iter().find(|(_, name)| !damaged.contains(name));
        let (number, _) = whole.ok_or(io::ErrorKind::InvalidData)?;
        let mut block = Box::new([0; BLOCK]);
        disk.open(path, false)?.read_at(number * BLOCK as u64, &mut block[..])?;
        Ok::<_, io::Error>(block)
    };
    Ok([
        block([(0, "first header"), (1, "second header")])?,
        block([(2, "first issue"), (3, "second issue")])?,
    ])
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
