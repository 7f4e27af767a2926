//! The seeds: `tests/corpus/PARSER/*`, as they are, or written in hexadecimal (`*.hex`).
//!
//! In a `.hex` file `#` begins a comment, blanks part words, and `00*40` is forty times the octet 00.

use std::fs;
use std::path::PathBuf;

use crate::workspace;

/// The folders of all parsers.
pub(crate) fn folders() -> Vec<PathBuf> {
    entries(&workspace().join("tests/corpus"))
        .into_iter()
        .filter(|path| path.is_dir())
        .collect()
}

/// The seeds of one parser, in the order of their names.
pub(crate) fn seeds(parser: &str) -> Vec<Vec<u8>> {
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).expect("a readable seed");
        match path.extension() {
            Some(extension) if extension == "hex" => {
                unhex(&bytes).unwrap_or_else(|| panic!("{} is not hexadecimal", path.display()))
            }
            _ => bytes,
        }
    };
    entries(&workspace().join("tests/corpus").join(parser))
        .into_iter()
        .map(read)
        .collect()
}

fn entries(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let lines = str::from_utf8(text).ok()?.lines();
    for word in lines.flat_map(|line| line.split('#').next().unwrap_or_default().split_ascii_whitespace()) {
        let (digits, times) = word.split_once('*').unwrap_or((word, "1"));
        let octets = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok());
        out.extend(octets.collect::<Option<Vec<_>>>()?.repeat(times.parse().ok()?));
    }
    Some(out)
}
