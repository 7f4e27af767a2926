//! How figures read: amounts, sizes, times.

/// 1234567 as `1,234,567`.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A span of seconds in its largest unit, rounded down.
pub fn span(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// How long ago a UTC second is.
pub fn ago(then: u64, now: u64) -> String {
    match now.saturating_sub(then) {
        0..10 => "just now".to_owned(),
        seconds => format!("{} ago", span(seconds)),
    }
}

/// How far ahead a UTC second is.
pub fn ahead(then: u64, now: u64) -> String {
    match then.saturating_sub(now) {
        0 => "now".to_owned(),
        // A day is said until it is over.
        seconds => format!("in {}", span(seconds.max(60))),
    }
}

/// A day, counted from 1970-01-01 UTC, as `2026-11-21`.
pub fn date(day: u32) -> String {
    // Days of the civil calendar in eras of 400 years, each year beginning in March.
    let shifted = u64::from(day) + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day_of_month:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_grouped_by_thousands() {
        let read = [0, 999, 1_000, 1_234_567].map(grouped);
        assert_eq!(read, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn spans_are_in_their_largest_unit() {
        let read = [1, 59, 60, 7_199, 90_000, 200_000].map(span);
        assert_eq!(
            read,
            ["1 second", "59 seconds", "1 minute", "1 hour", "25 hours", "2 days"]
        );
        assert_eq!([ago(95, 100), ago(0, 120)], ["just now", "2 minutes ago"]);
        assert_eq!([ahead(100, 100), ahead(100 + 86_400 * 3, 100)], ["now", "in 3 days"]);
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        let read = [0, 58, 59, 789, 11_016, 20_778, 47_540].map(date);
        let known = [
            "1970-01-01",
            "1970-02-28",
            "1970-03-01",
            "1972-02-29",
            "2000-02-29",
            "2026-11-21",
            "2100-02-28",
        ];
        assert_eq!(read, known);
    }
}
