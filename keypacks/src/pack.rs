//! The pack file as it is issued (`docs/PROTOCOL.md` section 9): a header that a passphrase opens, and what the relay
//! hands over.
//!
//! ```text
//! 0       header, copy A        4,096 bytes each, so that overwriting one copy leaves the other whole
//! 4,096   header, copy B
//! 8,192   issue block, copy A
//! 12,288  issue block, copy B
//! ```
//!
//! `postern init` turns the root in the issue block into chain states and overwrites both copies before the first cell.

mod header;
mod identifier;
mod issue;
mod paper;

pub(crate) use header::drawn;
pub use header::{Header, HeaderFault, PassphraseCost};
pub use identifier::Identifier;
pub(crate) use identifier::{spell, unspell};
pub use issue::{ALIASES_MAX, DoesNotFit, Issue, NAME_BYTES_MAX, PackPad};
pub(crate) use issue::{read_name, write_name};
pub use paper::{PaperFault, paper_parts, read_paper};
pub(crate) use paper::{read_back, short, spelled};

/// Length of every block of a pack file.
pub const BLOCK: usize = 4_096;

/// Feeds hostile bytes to every parser of pack files; must not panic.
pub fn fuzz(bytes: &[u8]) {
    header::fuzz(bytes);
    identifier::fuzz(bytes);
    issue::fuzz(bytes);
    paper::fuzz(bytes);
}
