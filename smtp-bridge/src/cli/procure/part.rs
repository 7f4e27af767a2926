//! The file with the secrets of an order, beside the one that the pack is to have.

use std::path::{Path, PathBuf};

use keypacks::pack::{BLOCK, Header};
use keypacks::procure::{Card, Draft};
use mailbox::disk::Disk;

use super::super::keypack::{end_file, put_new};
use super::super::process::Failure;

/// Ends the name of the file with the secrets of an order.
pub(in crate::cli) const PART: &str = ".part";

pub(in crate::cli) fn beside(out: &Path, ending: &str) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// A file that has its name only when all of it is on the disk. What a try that was cut off left beside it is overwritten.
pub(super) fn put_whole(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let fresh = beside(path, ".new");
    if fresh.exists() {
        end_file(&fresh)?;
    }
    put_new(&fresh, bytes)?;
    disk.rename(&fresh, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    disk.sync_dir(folder.unwrap_or(Path::new(".")))
}

/// What an earlier try drew. What the command names now, a card or a domain, must be what it was begun with.
pub(super) fn resume(
    part: &Path,
    passphrase: &[u8],
    (card, relay): (Option<&Card>, Option<&str>),
    wanted: Option<(u64, u64)>,
) -> Result<Draft, Failure> {
    let shown = part.display();
    let file = std::fs::read(part).map_err(|error| Failure(format!("cannot read {shown}: {error}")))?;
    let draft = Draft::open(&zeroize::Zeroizing::new(file), passphrase).map_err(|_| {
        Failure(format!(
            "{shown}, left by an earlier try, does not open with this passphrase"
        ))
    })?;
    if wanted.is_some_and(|wanted| (draft.keys, draft.value) != wanted) {
        return Err(Failure(format!(
            "{shown} was begun with --keys {} --value {}: give the same again",
            draft.keys, draft.value
        )));
    }
    let is_another = |relay: &str| !relay.eq_ignore_ascii_case(&draft.card.domain);
    if card.is_some_and(|card| *card != draft.card) || relay.is_some_and(is_another) {
        return Err(Failure(format!(
            "{shown} was begun with another card, that of {}, and is ordered there if it is anywhere: give that card again or \
             none, or choose another name with --out",
            draft.card.domain
        )));
    }
    Ok(draft)
}

/// Ends what is left of such a file that a power cut kept from being removed: it is overwritten only for a pack that is whole.
pub(in crate::cli) fn end_overwritten(part: &Path) -> std::io::Result<()> {
    match std::fs::read(part).map(zeroize::Zeroizing::new) {
        Ok(file) if is_overwritten(&file) => end_file(part),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether zeros stand where none were written, in the sectors of the disk that a cut let through.
fn is_overwritten(file: &[u8]) -> bool {
    const SECTOR: usize = 512;
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let Some((header, sealed)) = file.split_at_checked(BLOCK).filter(|_| file.len() == Draft::BYTES) else {
        return false;
    };
    // Of the header the rest is zero from the beginning; what is sealed is not, up to the end.
    is_zero(&header[..Header::MAGIC.len()]) || sealed.chunks(SECTOR).any(is_zero)
}

#[cfg(test)]
mod tests {
    use keypacks::Secret;
    use keypacks::pack::PassphraseCost;
    use keypacks::reroot::Secrets;
    use mailbox::disk::SystemDisk;

    use super::*;

    fn card(port: u16) -> Card {
        Card {
            domain: "far.test".to_owned(),
            address: format!("127.0.0.1:{port}"),
            relay_public: [3; 32],
        }
    }

    #[test]
    fn an_order_goes_on_under_its_own_card_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let part = folder.path().join("far.pack.part");
        let draft = Draft {
            secrets: Secrets {
                kem: Secret::new([1; 32]),
                dh: Secret::new([2; 32]),
            },
            card: card(1),
            keys: 100,
            value: 1_000,
            debit_max: 1_001,
        };
        let file = draft.to_file(b"secret", PassphraseCost::LEAST, |out| out.fill(7));
        put_whole(&SystemDisk, &part, &file.expect("fits")).expect("written");
        let resumed = |card: Option<&Card>| resume(&part, b"secret", (card, None), Some((100, 1_000)));
        assert!(resumed(None).is_ok() && resumed(Some(&card(1))).is_ok());
        let Err(Failure(words)) = resumed(Some(&card(2))) else {
            panic!("it was ordered elsewhere")
        };
        assert!(words.contains("another card, that of far.test"), "{words}");
        let by_name = |relay| resume(&part, b"secret", (None, Some(relay)), Some((100, 1_000)));
        assert!(by_name("Far.test").is_ok() && by_name("other.test").is_err());
    }

    #[test]
    fn what_a_cut_left_half_written_has_not_the_name_of_the_whole() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let part = folder.path().join("far.pack.part");
        let fresh = beside(&part, ".new");
        std::fs::write(&fresh, b"who").expect("written");
        put_whole(&SystemDisk, &part, b"whole").expect("written");
        assert_eq!(std::fs::read(&part).expect("there"), b"whole");
        assert!(!fresh.exists());
        // A folder where the file is to be: it gets no name, and what is whole stays.
        std::fs::create_dir(&fresh).expect("made");
        assert!(put_whole(&SystemDisk, &part, b"other").is_err());
        assert_eq!(std::fs::read(&part).expect("there"), b"whole");
    }

    #[test]
    fn what_is_half_overwritten_is_ended_and_what_is_whole_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let part = folder.path().join("far.pack.part");
        end_overwritten(&part).expect("there is none");
        let draft = Draft {
            secrets: Secrets {
                kem: Secret::new([1; 32]),
                dh: Secret::new([2; 32]),
            },
            card: card(1),
            keys: 100,
            value: 1_000,
            debit_max: 1_001,
        };
        let whole = draft
            .to_file(b"secret", PassphraseCost::LEAST, |out| out.fill(7))
            .expect("fits");
        std::fs::write(&part, &whole).expect("written");
        end_overwritten(&part).expect("read");
        assert_eq!(std::fs::read(&part).expect("kept"), *whole);
        for zeros in [
            0..512,
            0..BLOCK,
            BLOCK..2 * BLOCK,
            BLOCK + 1_024..BLOCK + 1_536,
            0..2 * BLOCK,
        ] {
            let mut file = whole.clone();
            file[zeros.clone()].fill(0);
            std::fs::write(&part, &file).expect("written");
            end_overwritten(&part).expect("ended");
            assert!(!part.exists(), "{zeros:?}");
        }
        // What is not of this length is nobody's to judge.
        std::fs::write(&part, b"").expect("written");
        end_overwritten(&part).expect("read");
        assert!(part.exists());
    }
}
