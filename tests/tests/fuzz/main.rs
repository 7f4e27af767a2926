//! Every parser of bytes from outside, under seeds, seeds that were damaged, and noise.
//!
//! Each parser has a `fuzz` function that must not panic and a folder of seeds in `tests/corpus/`. An input that fails is
//! left in `target/fuzz-failures/`; put into the corpus, it is tried first from then on. `POSTERN_FUZZ_SECONDS` is the time
//! for each parser (3), `POSTERN_FUZZ_SEED` repeats a run: the input of a call depends on seed and number alone.

mod corpus;
mod mutation;
mod run;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A parser, by the name of its corpus.
struct Parser {
    name: &'static str,
    /// File of the `fuzz` function; empty where the parser is a derived one, called from here.
    source: &'static str,
    fuzz: fn(&[u8]),
}

macro_rules! parsers {
    ($($test:ident: $name:literal, $source:literal, $fuzz:expr;)*) => {
        const PARSERS: &[Parser] = &[$(Parser { name: $name, source: $source, fuzz: $fuzz }),*];
        $(
            #[test]
            fn $test() {
                let parser = Parser { name: $name, source: $source, fuzz: $fuzz };
                if let Err(failure) = run::run(&parser, &corpus::seeds($name)) {
                    panic!("{failure}");
                }
            }
        )*
    };
}

parsers! {
    cells: "cell", "keypacks/src/cell.rs", keypacks::cell::fuzz;
    handshakes: "link", "keypacks/src/link.rs", keypacks::link::fuzz;
    deposits: "deposit", "keypacks/src/deposit.rs", keypacks::deposit::fuzz;
    parcels: "parcel", "keypacks/src/parcel.rs", keypacks::parcel::fuzz;
    packs: "pack", "keypacks/src/pack.rs", keypacks::pack::fuzz;
    pads: "pad", "keypacks/src/pad.rs", keypacks::pad::fuzz;
    rotations: "rotation", "keypacks/src/rotation.rs", keypacks::rotation::fuzz;
    procured_packs: "procure", "keypacks/src/procure.rs", keypacks::procure::fuzz;
    directories: "directory", "keypacks/src/directory.rs", keypacks::directory::fuzz;
    roots: "root", "keypacks/src/reroot.rs", keypacks::reroot::fuzz;
    logs: "log", "mailbox/src/log/record.rs", mailbox::log::fuzz;
    events: "event", "mailbox/src/devices.rs", mailbox::devices::fuzz;
    receipts: "receipt", "mailbox/src/parcel.rs", mailbox::parcel::fuzz;
    requests: "request", "mailbox/src/request.rs", mailbox::request::fuzz;
    message_ids: "message-id", "mailbox/src/holder/mod.rs", mailbox::holder::fuzz;
    smtp_sessions: "smtp", "smtp-bridge/src/smtp/mod.rs", smtp_bridge::smtp::fuzz;
    smtp_replies: "smtp-reply", "smtp-bridge/src/smtp/mod.rs", smtp_bridge::smtp::fuzz_reply;
    imap_sessions: "imap-session", "smtp-bridge/src/imap/session.rs", smtp_bridge::imap::fuzz_session;
    imap_headers: "imap-header", "smtp-bridge/src/imap/header.rs", smtp_bridge::imap::fuzz_header;
    imap_names: "imap-utf7", "smtp-bridge/src/imap/utf7.rs", smtp_bridge::imap::fuzz_utf7;
    imap_patterns: "imap-list", "smtp-bridge/src/imap/list.rs", smtp_bridge::imap::fuzz_list;
    imap_summaries: "imap-summary", "smtp-bridge/src/imap/summary.rs", smtp_bridge::imap::fuzz_summary;
    imap_parts: "imap-mime", "smtp-bridge/src/imap/mime.rs", smtp_bridge::imap::fuzz_mime;
    mails_with_deposits: "carried", "smtp-bridge/src/message/carried.rs", smtp_bridge::message::carried::fuzz;
    messages: "message", "smtp-bridge/src/message/mod.rs", smtp_bridge::message::fuzz;
    proxies: "socks", "smtp-bridge/src/net/socks.rs", smtp_bridge::net::socks::fuzz;
    letters_for_sendmail: "letter", "smtp-bridge/src/cli/sendmail/letter.rs", smtp_bridge::cli::fuzz_letter;
    covers: "cover", "smtp-bridge/src/holder/cover.rs", smtp_bridge::holder::cover::fuzz;
    loops: "loop", "smtp-bridge/src/holder/loops.rs", smtp_bridge::holder::loops::fuzz;
    programs: "elf", "smtp-bridge/src/cli/keypack/elf.rs", smtp_bridge::cli::fuzz_elf;
    mails_with_parcels: "carriage", "relay/src/parcels/carriage.rs", relay::fuzz_carriage;
    commands_of_a_bridge: "control-bridge", "", json_as::<smtp_bridge::bridge::commands::Command>;
    commands_of_a_relay: "control-relay", "", json_as::<relay::operator::Command>;
    settings: "settings", "", toml_as::<smtp_bridge::cli::Settings>;
    configurations: "configuration", "", toml_as::<relay::config::RelayConfig>;
}

/// A command that was read is written as it reads.
fn json_as<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(command) = serde_json::from_slice::<T>(bytes) else {
        return;
    };
    let value = serde_json::to_value(&command).expect("a command is plain data");
    let again: T = serde_json::from_value(value.clone()).expect("as written");
    assert!(serde_json::to_value(&again).expect("a command is plain data") == value);
}

/// Stack of a program's first thread under Linux, in bytes.
const FIRST_STACK: usize = 8 * 1024 * 1024;

/// Settings that were read are written as they read. Programs read them on their first thread, so that is what they get
/// here: the reader stops at 80 keys with dots inside 80 tables, for which unoptimised code takes more than a test's 2 MiB.
fn toml_as<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new().stack_size(FIRST_STACK);
        let read = reader
            .spawn_scoped(scope, || toml_on_first_stack::<T>(bytes))
            .expect("a thread");
        if let Err(panic) = read.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn toml_on_first_stack<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Some(settings) = str::from_utf8(bytes)
        .ok()
        .and_then(|text| toml::from_str::<T>(text).ok())
    else {
        return;
    };
    let Ok(text) = toml::to_string(&settings) else { return };
    let again: T = toml::from_str(&text).expect("as written");
    assert!(toml::to_string(&again).as_deref() == Ok(&text));
}

/// The root of the workspace.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace's folder")
}

#[test]
fn every_fuzz_function_is_called_and_every_corpus_is_used() {
    for krate in ["keypacks", "ledger", "mailbox", "smtp-bridge", "relay"] {
        for file in rust_files(&workspace().join(krate).join("src")) {
            let text = fs::read_to_string(&file).expect("a readable source");
            let defined = text.lines().filter(|line| line.starts_with("pub fn fuzz")).count();
            let called = PARSERS
                .iter()
                .filter(|parser| workspace().join(parser.source) == file)
                .count();
            assert_eq!(
                defined,
                called,
                "fuzz functions of {} against the table above",
                file.display()
            );
        }
    }
    for folder in corpus::folders() {
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name in ASCII");
        assert!(
            PARSERS.iter().any(|parser| parser.name == name),
            "no parser for the corpus {name}"
        );
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .expect("a source folder")
        .map(|entry| entry.expect("an entry").path());
    let below = |path: PathBuf| if path.is_dir() { rust_files(&path) } else { vec![path] };
    entries
        .flat_map(below)
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}
