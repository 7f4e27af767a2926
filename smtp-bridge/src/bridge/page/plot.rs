//! Pictures of the page: bars of use and codes for cameras, as SVG without script.

use maud::{Markup, html};
use qrcode::QrCode;
use qrcode::render::svg;

use crate::figures::{date, grouped};

const WIDTH: u64 = 720;
const HEIGHT: u64 = 120;

/// A bar a day: `(day, µtok spent)`, the last one today.
pub(super) fn bars(spent: &[(u32, u64)]) -> Markup {
    let most = spent.iter().map(|(_, value)| *value).max().unwrap_or(0).max(1);
    let step = (WIDTH / (spent.len() as u64).max(1)).max(2);
    let bar = |(position, (day, value)): (usize, &(u32, u64))| {
        // Whatever was spent shows, however little.
        let height = (u128::from(*value) * u128::from(HEIGHT) / u128::from(most)) as u64;
        let height = if *value > 0 { height.max(2) } else { 0 };
        let (x, y) = (position as u64 * step, HEIGHT - height);
        html! {
            rect x=(x) y=(y) width=(step.saturating_sub(3).max(1)) height=(height) {
                title { (date(*day)) ": " (grouped(*value)) " µtok" }
            }
        }
    };
    let total = spent
        .iter()
        .fold(0, |total: u64, (_, value)| total.saturating_add(*value));
    html! {
        figure {
            svg role="img" viewBox=(format!("0 0 {WIDTH} {}", HEIGHT + 4)) preserveAspectRatio="none"
                aria-label=(format!("Value spent on each of the last {} days", spent.len())) {
                @for pair in spent.iter().enumerate() { (bar(pair)) }
                line x1="0" y1=(HEIGHT + 1) x2=(WIDTH) y2=(HEIGHT + 1) {}
            }
            figcaption {
                "Spent in the last " (spent.len()) " days: " (grouped(total)) " µtok, at most " (grouped(if total == 0 { 0 } else { most }))
                " on one day."
            }
        }
    }
}

/// A code that cameras read; `None`: the text is too long for one.
pub(super) fn code(text: &str) -> Option<String> {
    let code = QrCode::new(text).ok()?;
    Some(code.render::<svg::Color<'_>>().min_dimensions(240, 240).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_day_reaches_the_top_and_the_least_still_shows() {
        let plot = bars(&[(1, 0), (2, 1), (3, u64::MAX)]).into_string();
        assert!(plot.contains("y=\"120\" width=\"237\" height=\"0\""), "{plot}");
        assert!(plot.contains("height=\"2\""), "{plot}");
        assert!(plot.contains("y=\"0\" width=\"237\" height=\"120\""), "{plot}");
    }

    #[test]
    fn a_code_is_a_picture_and_bounded() {
        assert!(code("mailto:a@relay.test").unwrap().contains("<svg"));
        assert!(code(&"x".repeat(4_000)).is_none());
    }
}
