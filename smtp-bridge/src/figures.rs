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

/// The day that [`date`] writes so.
pub fn day_of(text: &str) -> Option<u32> {
    let [year, month, day] = text.split('-').collect::<Vec<_>>().try_into().ok()?;
    let [year, month, day] = [year, month, day].map(|part| part.parse::<u32>().ok());
    let (year, month, day) = (
        year.filter(|year| (1_970..=9_999).contains(year))?,
        month?,
        day.filter(|day| *day <= 31)?,
    );
    // Days to the first of March of that year, then months of the calendar that begins there.
    let (year, month) = if month > 2 {
        (year, month)
    } else {
        (year - 1, month + 12)
    };
    let before = 365 * year + year / 4 - year / 100 + year / 400;
    let counted = before + (153 * month.checked_sub(3)?.min(12) + 2) / 5 + day;
    let days = counted.checked_sub(719_469)?;
    (date(days) == text).then_some(days)
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
    fn a_day_is_read_as_it_is_written() {
        for day in [
            0, 1, 58, 59, 60, 364, 365, 789, 790, 11_016, 20_779, 47_540, 47_541, 2_932_896,
        ] {
            assert_eq!(day_of(&date(day)), Some(day), "{}", date(day));
        }
        assert_eq!(day_of("2026-11-22"), Some(20_779));
        for text in [
            "",
            "2026-11-31",
            "2026-02-29",
            "2026-13-01",
            "2026-00-10",
            "2026-1-01",
            "26-11-22",
            "1969-12-31",
            "2026-11-22-1",
            "2026-11-4294967295",
        ] {
            assert_eq!(day_of(text), None, "{text}");
        }
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
