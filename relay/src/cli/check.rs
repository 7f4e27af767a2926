//! `posternd check`: what is wrong with a configuration or its machine, and what to do about it.
//!
//! Starts nothing and changes nothing: ports are listened at for a moment, and the data folder is only looked at.

use std::fs::{self, Metadata};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use smtp_bridge::cli::process::Failure;
use smtp_bridge::control;
use smtp_bridge::net::{Host, system};

use super::CheckArgs;
use crate::config::RelayConfig;
use crate::exit::Securities;
use crate::peers;

/// A clock before this has not been set: 2026-01-01.
const CLOCK_LEAST: u64 = 1_767_225_600;
/// Free bytes below which nothing is taken in.
const FREE_KEPT: u64 = 64 << 20;
/// Free bytes that a relay should begin with.
const FREE_WANTED: u64 = 1 << 30;

/// Something that was found.
struct Finding {
    /// The key of the configuration, or the part of the machine.
    about: &'static str,
    /// Whether a relay cannot run with it, or should not.
    is_serious: bool,
    /// What is wrong, and what to do.
    words: String,
}

/// Collects what is found.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn serious(&mut self, about: &'static str, words: impl Into<String>) {
        self.0.push(Finding {
            about,
            is_serious: true,
            words: words.into(),
        });
    }

    fn note(&mut self, about: &'static str, words: impl Into<String>) {
        self.0.push(Finding {
            about,
            is_serious: false,
            words: words.into(),
        });
    }
}

/// Checks a configuration and says what it means.
pub(super) async fn run(args: &CheckArgs) -> Result<(), Failure> {
    let config = RelayConfig::read_unchecked(&args.config).map_err(Failure::from_error)?;
    let host = system::host();
    let mut findings = Findings::default();
    for problem in config.problems() {
        findings.serious(problem.key, problem.words);
    }
    settings(&config, &mut findings);
    certificate(&config, &host, &mut findings);
    if let Err(error) = Securities::read(&config, &host) {
        findings.serious("peers", format!("{error}: mend the file, or the key that names it"));
    }
    for name in config.peer_names() {
        let (folder, passphrase) = peers::paths(&config.data, &name);
        if !folder.join("header").exists() || !passphrase.exists() {
            let words = format!("there is no pack of {name}: 'posternd peer accept PACK --name {name}' takes it");
            findings.serious("routes", words);
        }
    }
    folder(&config.data, &host, &mut findings);
    machine(&config, &host, &mut findings);
    // Beside the relay itself its ports are busy, as they should be.
    let is_running = host.net.dial_local(&config.data.join(control::SOCKET)).await.is_ok();
    if is_running {
        findings.note("data", "a relay runs with this folder, so its ports were not tried");
    } else {
        ports(&config, &host, &mut findings).await;
    }
    if args.dns {
        names(&config, &host, &mut findings).await;
    }

    for finding in &findings.0 {
        let degree = if finding.is_serious { "error" } else { "note " };
        println!("{degree}  {}: {}", finding.about, finding.words);
    }
    let serious = findings.0.iter().filter(|finding| finding.is_serious).count();
    if serious > 0 {
        return Err(Failure(format!(
            "{serious} to be mended in {} or its machine",
            args.config.display()
        )));
    }
    println!("{}", meaning(&args.config, &config));
    Ok(())
}

/// What a relay would do with it.
fn meaning(path: &Path, config: &RelayConfig) -> String {
    let tls = match config.mx_certificate {
        Some(_) => "with TLS for whoever asks",
        None => "without TLS",
    };
    format!(
        "{} can be run: links at {}, MX for {} at {} {tls}, status at http://{}/",
        path.display(),
        config.link,
        config.domain,
        config.mx,
        config.status
    )
}

/// What is allowed, and seldom meant.
fn settings(config: &RelayConfig, findings: &mut Findings) {
    if !config.status.ip().is_loopback() {
        findings.note("status", "the status page asks for no password: keep it on loopback");
    }
    if config.link_public.is_none() && config.link.ip().is_unspecified() {
        let words = "packs would name this address, which nobody can dial: set it to the relay's host:port";
        findings.serious("link_public", words);
    }
    if config.mx_certificate.is_none() {
        let words = "without it, mail comes in over plain connections, which anybody between can read";
        findings.note("mx_certificate", words);
    }
    if config.retry_s.is_empty() {
        findings.note("retry_s", "is empty: a delivery that fails once is given up");
    }
    if config.keep_used_keys {
        let words = "keeps every used key, for tests of erasure: take it out of a relay that people use";
        findings.serious("keep_used_keys", words);
    }
}

fn certificate(config: &RelayConfig, host: &Host, findings: &mut Findings) {
    if let Err(error) = crate::acceptor(config, host) {
        findings.serious("mx_certificate", error.to_string());
    }
    if let Err(error) = crate::collect_acceptor(config, host) {
        findings.serious("collect", error.to_string());
    }
    if let (Some(_), Some(key)) = (&config.mx_certificate, &config.mx_key)
        && let Ok(metadata) = fs::metadata(key)
        && metadata.permissions().mode() & 0o007 != 0
    {
        let words = format!(
            "everybody on this machine may read or change {}: chmod o= it",
            key.display()
        );
        findings.serious("mx_key", words);
    }
}

fn folder(data: &Path, host: &Host, findings: &mut Findings) {
    let metadata = match fs::metadata(data) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return findings.serious("data", format!("{} is no folder", data.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let words = format!("{} does not exist yet: a start makes it", data.display());
            return findings.note("data", words);
        }
        Err(error) => {
            let words = format!(
                "cannot look at {}: {error}; run this as the relay's user",
                data.display()
            );
            return findings.serious("data", words);
        }
    };
    if metadata.permissions().mode() & 0o077 != 0 {
        let words = format!("others may look into {}: chmod 700 it", data.display());
        findings.serious("data", words);
    }
    for stranger in owned_by_others(data, &metadata) {
        let words = format!(
            "{} belongs to another user than its folder: chown it to the relay's user",
            stranger.display()
        );
        findings.serious("data", words);
    }
    for (one, other) in [
        ("relay.key", "relay.key.copy"),
        ("store.key", "store.key-copy"),
        ("slots.key", "slots.key-copy"),
    ] {
        if data.join(one).exists() != data.join(other).exists() {
            let words =
                format!("only one of {one} and {other} is there: put the missing one back, it is the same file");
            findings.note("data", words);
        }
    }
    match host.disk.free_bytes(data) {
        Ok(free) if free < FREE_KEPT => {
            let words = format!("{} MiB are free: below 64 MiB nothing is taken in", free >> 20);
            findings.serious("data", words);
        }
        Ok(free) if free < FREE_WANTED => {
            let words = format!("{} MiB are free: below 64 MiB nothing is taken in", free >> 20);
            findings.note("data", words);
        }
        Ok(_) => {}
        Err(error) => findings.note("data", format!("its free space cannot be asked for: {error}")),
    }
    if let Some(words) = host.disk.caveat(data) {
        findings.note("data", words);
    }
}

/// A few files of the folder that its owner does not own.
fn owned_by_others(data: &Path, folder: &Metadata) -> Vec<PathBuf> {
    let entries = fs::read_dir(data).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.uid() != folder.uid()))
        .map(|entry| entry.path())
        .take(3)
        .collect()
}

fn machine(config: &RelayConfig, host: &Host, findings: &mut Findings) {
    if host.clock.unix_seconds() < CLOCK_LEAST {
        let words = "shows a time before 2026: set it, or dates, retention and certificates go wrong";
        findings.serious("clock", words);
    }
    if fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1) {
        let words =
            "is in use: keys and mail in memory may reach it; the unit's MemorySwapMax=0 keeps the relay out of it";
        findings.note("swap", words);
    }
    let total = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|info| memory_mib(&info));
    if total.is_some_and(|total| u64::from(config.memory_mib) * 2 > total) {
        findings.note("memory_mib", "is more than half of this machine's memory");
    }
    let needed = (config.mx_connections_max + config.unconfirmed_max + 500) as u64;
    let files = fs::read_to_string("/proc/self/limits")
        .ok()
        .and_then(|limits| open_files(&limits));
    if files.is_some_and(|files| files < needed) {
        let words = format!(
            "{} are allowed here, and {needed} may be needed besides one for each link: raise LimitNOFILE or ulimit -n",
            files.unwrap_or_default()
        );
        findings.note("open files", words);
    }
}

fn memory_mib(info: &str) -> Option<u64> {
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes / 1024)
}

fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

async fn ports(config: &RelayConfig, host: &Host, findings: &mut Findings) {
    let ports = [("link", config.link), ("mx", config.mx), ("status", config.status)];
    let collect = config.collect.as_ref().map(|collect| ("collect", collect.listen));
    let ports = ports.into_iter().chain(collect);
    // Held until all are tried, so that two keys with one address are found.
    let mut listeners = Vec::new();
    for (key, at) in ports {
        match host.net.listen(at).await {
            Ok(listener) => listeners.push(listener),
            Err(error) => findings.serious(key, listening(at, &error)),
        }
    }
}

fn listening(at: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("{at} is in use: stop the other program, or choose another port"),
        io::ErrorKind::PermissionDenied => format!(
            "{at} needs a right of its own below port 1024: the unit has it (CAP_NET_BIND_SERVICE), your shell has not"
        ),
        io::ErrorKind::AddrNotAvailable => format!("{at} is no address of this machine"),
        _ => format!("cannot listen at {at}: {error}"),
    }
}

async fn names(config: &RelayConfig, host: &Host, findings: &mut Findings) {
    if let Err(error) = resolved(host, &config.public_link()).await {
        findings.serious(
            "link_public",
            format!("has no address: {error}; make the record that packs name"),
        );
    }
}

async fn resolved(host: &Host, target: &str) -> Result<(), String> {
    match host.resolver.resolve(target).await {
        Ok(addresses) if addresses.is_empty() => Err("no record".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(memory_mib("MemFree: 1 kB\nMemTotal:       2097152 kB\n"), Some(2_048));
        assert_eq!(
            open_files("Max open files            1024                 524288               files\n"),
            Some(1_024)
        );
        assert_eq!(
            open_files("Max open files            unlimited            unlimited            files\n"),
            None
        );
    }

    #[test]
    fn a_folder_that_others_may_read_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        let serious = || {
            let mut findings = Findings::default();
            super::folder(folder.path(), &system::host(), &mut findings);
            findings.0.iter().filter(|finding| finding.is_serious).count()
        };
        mode(0o700);
        assert_eq!(serious(), 0);
        mode(0o750);
        assert_eq!(serious(), 1);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_by_its_key() {
        let host = system::host();
        let held = host.net.listen(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = RelayConfig::new("relay.test", "/nowhere".into(), free, held.address().unwrap(), free);
        let mut findings = Findings::default();
        ports(&config, &host, &mut findings).await;
        let found: Vec<&str> = findings.0.iter().map(|finding| finding.about).collect();
        assert_eq!(found, ["mx"]);
        assert!(findings.0[0].words.contains("in use"), "{}", findings.0[0].words);
    }
}
