//! Cover traffic on a holder's link: its rate, and what a relay asks for it (`docs/PROTOCOL.md` section 4).

use serde::{Deserialize, Serialize};

/// Most cells of one tick in one direction.
pub const COVER_CELLS_MAX: u16 = 64;
/// Shortest and longest tick, in milliseconds.
pub const COVER_EVERY_MS: (u32, u32) = (20, 10_000);
/// Slowest rate: a cell in so many milliseconds.
pub const COVER_CELL_MS_MAX: u32 = 2_000;

/// So many cells in each direction at every tick, whether there is anything to send or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rate {
    /// Cells of one tick in one direction.
    pub cells: u16,
    /// Milliseconds from one tick to the next.
    pub every_ms: u32,
}

impl Rate {
    /// Whether both numbers are within the protocol's bounds.
    pub fn is_within_bounds(self) -> bool {
        (1..=COVER_CELLS_MAX).contains(&self.cells)
            && (COVER_EVERY_MS.0..=COVER_EVERY_MS.1).contains(&self.every_ms)
            && self.every_ms <= COVER_CELL_MS_MAX * u32::from(self.cells)
    }

    /// Cells of a second in one direction, rounded up.
    pub fn per_second(self) -> u32 {
        (u32::from(self.cells) * 1_000).div_ceil(self.every_ms.max(1))
    }

    /// Ticks of a period of so many seconds, at least one.
    pub fn ticks(self, period_s: u32) -> u64 {
        (u64::from(period_s) * 1_000 / u64::from(self.every_ms.max(1))).max(1)
    }

    /// Cells of so many ticks, both directions together: what is paid for.
    pub fn cells_of(self, ticks: u64) -> u64 {
        ticks.saturating_mul(2 * u64::from(self.cells))
    }

    /// What a day of it costs in µtok, at so much a cell.
    pub fn day_cost(self, price: u64) -> u64 {
        self.cells_of(self.ticks(86_400)).saturating_mul(price)
    }
}

/// What a relay asks for cover.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CoverOffer {
    /// µtok for each cell, of both directions.
    pub price: u64,
    /// Most cells of a second in one direction.
    pub per_second_max: u32,
    /// Seconds that are paid for together, ahead.
    pub period_s: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_counted_both_ways_and_paid_by_the_cell() {
        let rate = Rate {
            cells: 2,
            every_ms: 500,
        };
        assert!(rate.is_within_bounds());
        assert_eq!((rate.per_second(), rate.ticks(60), rate.cells_of(120)), (4, 120, 480));
        assert_eq!(rate.day_cost(3), 2 * 4 * 86_400 * 3);
        let slow = Rate {
            cells: 1,
            every_ms: 1_700,
        };
        assert_eq!((slow.per_second(), slow.ticks(1)), (1, 1));
    }

    #[test]
    fn rates_beyond_the_bounds_are_known_and_break_nothing() {
        for (cells, every_ms) in [
            (0, 100),
            (65, 1_000),
            (1, 19),
            (64, 10_001),
            (1, 2_001),
            (0, 0),
            (u16::MAX, u32::MAX),
        ] {
            let rate = Rate { cells, every_ms };
            assert!(!rate.is_within_bounds(), "{rate:?}");
            let _ = (
                rate.per_second(),
                rate.ticks(u32::MAX),
                rate.cells_of(u64::MAX),
                rate.day_cost(u64::MAX),
            );
        }
    }
}
