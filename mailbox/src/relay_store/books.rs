//! Sums, statements, and what a look at everything found.

/// Sums over the whole relay, all in µtok where they are amounts.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Totals {
    /// Packs issued.
    pub accounts: u64,
    /// Sum of all credits of holders.
    pub credits: u64,
    /// Sum of all debits of holders.
    pub debits: u64,
    /// Sum of all balances of holders.
    pub balances: u64,
    /// Revenue earned.
    pub revenue: u64,
    /// Paid by holders for the legs of their mail behind this relay.
    pub onward: u64,
    /// Drawn on credit by holders, and not settled.
    pub owed: u64,
    /// Deliveries waiting in the spool.
    pub queued: u64,
    /// Deposits waiting to be collected.
    pub deposits: u64,
    /// Open aliases.
    pub aliases: u64,
}

/// What `verify` read, and found.
#[derive(Default)]
pub struct Verified {
    /// Sums and contradictions, those of the audit first.
    pub audit: Audit,
    /// Rows that opened.
    pub rows: u64,
    /// Bodies that rows name.
    pub bodies: u64,
    /// Key slots that were compared with their account.
    pub slots: u64,
    /// Records of the log that opened, their bodies as they were written.
    pub records: u64,
    /// Bytes of those records.
    pub bytes: u64,
}

impl Verified {
    /// Adds a contradiction, in words without identifiers.
    pub(crate) fn finding(&mut self, words: &str) {
        self.audit.findings.push(words.to_owned());
    }
}

/// What `audit` found; each line is one contradiction, in words without identifiers.
#[derive(Default)]
pub struct Audit {
    /// Sums recomputed from the postings.
    pub totals: Totals,
    /// Contradictions; empty is a clean audit.
    pub findings: Vec<String>,
}

/// One posting of a holder's statement.
#[derive(Clone, serde::Serialize)]
pub struct StatementRow {
    /// UTC day.
    pub day: u32,
    /// What it was for.
    pub kind: String,
    /// µtok credited.
    pub credit: u64,
    /// µtok debited.
    pub debit: u64,
}

/// What upkeep did.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Upkeep {
    /// Deposits that outlived retention.
    pub expired: u64,
    /// Spool rows whose key was wrapped again under the new epoch.
    pub rewrapped: u64,
}
