//! The directory of the relay's federation, as it comes over the link. What it is worth is not judged here.

use keypacks::directory::LIST_BYTES_MAX;
use keypacks::kdf;
use mailbox::request::{Answer, DIRECTORY_PART_MAX, Request};
use tokio::sync::oneshot;

use super::courier::{Ended, unexpected};
use super::requests::Requests;

/// What a relay serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServedDirectory {
    /// Unknown: the link ended on the question, as it does at a relay that does not know it.
    Unanswered,
    /// None.
    None,
    /// That whose digest was named.
    Known,
    /// These octets.
    Text(Vec<u8>),
}

/// Digest of what is known, and where it goes what is served.
pub(super) type Wish = ([u8; 32], oneshot::Sender<ServedDirectory>);

/// Asks for it part by part. The relay is not told what is known here: holders of several packs get it from several relays.
pub(super) async fn fetch(link: &mut Requests, (known, wish): Wish) -> Result<(), Ended> {
    let (mut text, mut whole) = (Vec::new(), None);
    loop {
        let from = u32::try_from(text.len()).expect("bounded by LIST_BYTES_MAX");
        let part = match link.ask(&Request::Directory { from }, &[]).await {
            Ok(Answer::Directory(part)) => part,
            Ok(answer) => return Err(unexpected(&answer)),
            Err(error) => {
                let _ = wish.send(ServedDirectory::Unanswered);
                return Err(error.into());
            }
        };
        let length = usize::try_from(part.length).unwrap_or(usize::MAX);
        if length > LIST_BYTES_MAX || part.part.len() > DIRECTORY_PART_MAX {
            return Err(Ended::Nonsense);
        }
        if *whole.get_or_insert((part.digest, length)) != (part.digest, length) {
            // It was replaced meanwhile: whoever asked asks again.
            return Ok(());
        }
        let served = if length == 0 {
            ServedDirectory::None
        } else if part.digest == known {
            ServedDirectory::Known
        } else {
            text.extend(&part.part);
            if part.part.is_empty() || text.len() > length {
                return Err(Ended::Nonsense);
            }
            if text.len() < length {
                continue;
            }
            if kdf::hash(&[&text]) != part.digest {
                return Err(Ended::Nonsense);
            }
            ServedDirectory::Text(text)
        };
        // Whoever asked may have given up.
        let _ = wish.send(served);
        return Ok(());
    }
}
