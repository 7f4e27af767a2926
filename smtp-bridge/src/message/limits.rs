//! The bounds of this module, in one place. Beyond each stands a [`Refusal`](super::Refusal), never an abort.

/// Largest rebuilt message in bytes, not counting the exit's own lines.
pub const MESSAGE_BYTES_MAX: usize = 60 * 1024 * 1024;

/// Bytes of a message's header as it comes from a client. Wider than what we emit, so that our own output is always readable again.
pub const HEADER_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a rebuilt message's header, not counting the exit's own lines.
pub const REBUILT_HEADER_BYTES_MAX: usize = 128 * 1024;

/// Bytes of the header of one MIME part.
pub const PART_HEADER_BYTES_MAX: usize = 16 * 1024;

/// Fields in one header.
pub const FIELD_COUNT_MAX: usize = 1_000;

/// Mailboxes in To and Cc together.
pub const RECIPIENT_COUNT_MAX: usize = 100;

/// MIME parts of one message, containers included, the message itself not.
pub const PART_COUNT_MAX: usize = 100;

/// Multiparts inside one another.
pub const DEPTH_MAX: usize = 10;

/// Message identifiers kept in References; the newest ones win.
pub const REFERENCE_COUNT_MAX: usize = 100;

/// Characters of one message identifier.
pub const MESSAGE_ID_LENGTH_MAX: usize = 250;

/// UTF-8 bytes of an attachment's file name.
pub const FILE_NAME_BYTES_MAX: usize = 180;

/// What the exit adds to a rebuilt message at most: Date and Message-ID with their names.
pub(super) const EXIT_LINES_BYTES_MAX: usize = 512;

const _: () = assert!(REBUILT_HEADER_BYTES_MAX + EXIT_LINES_BYTES_MAX <= HEADER_BYTES_MAX);

/// Most `Received` fields of a message; one that has more runs in circles (RFC 5321 section 6.3).
pub const HOP_COUNT_MAX: usize = 100;

/// Longest line of a message that a client may submit, in octets without its end (RFC 5322 section 2.1.1).
pub const LINE_BYTES_MAX: usize = 998;
