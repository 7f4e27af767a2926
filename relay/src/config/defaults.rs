//! What a setting is where the file does not say it.

use super::SizeConfig;

pub(super) fn tick_ms() -> u64 {
    60_000
}

pub(super) fn handshake_ms() -> u64 {
    30_000
}

pub(super) fn parcel_local() -> String {
    "parcel".to_owned()
}

pub(super) fn unconfirmed_max() -> usize {
    4_096
}

pub(super) fn mx_connections_max() -> usize {
    500
}

pub(super) fn collect_connections_max() -> usize {
    32
}

pub(super) fn retention_days() -> u32 {
    30
}

pub(super) fn retry_s() -> Vec<u64> {
    // Five days in all: quick at first, then every six hours.
    let mut waits = vec![60, 300, 900, 1_800, 3_600, 7_200];
    waits.extend([21_600; 18]);
    waits
}

pub(super) fn procure_hold_s() -> u64 {
    60
}

pub(super) fn procure_keep_keys() -> u64 {
    256
}

pub(super) fn procure_sizes() -> Vec<SizeConfig> {
    // 1, 10 and 100 tok.
    [(100, 1_000_000), (500, 10_000_000), (2_000, 100_000_000)]
        .map(|(keys, value)| SizeConfig { keys, value })
        .to_vec()
}

pub(super) fn next_way_s() -> u64 {
    600
}

pub(super) fn compare_s() -> u64 {
    86_400
}

pub(super) fn through_mib() -> u64 {
    64
}

pub(super) fn delivery_port() -> u16 {
    25
}

pub(super) fn delay_notice_s() -> u64 {
    4 * 3_600
}

pub(super) fn date_bucket_s() -> u64 {
    3_600
}

pub(super) fn memory_mib() -> u32 {
    512
}
