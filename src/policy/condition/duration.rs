//! Duration literals of CEL: `duration('1h30m')`.

use jiff::SignedDuration;

/// Whole numbers with `h`, `m`, `s`, `ms`, `us`, `ns`, the sum of them, a sign in front.
pub(super) fn parse(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    if rest.is_empty() {
        return None;
    }
    let mut sum = SignedDuration::ZERO;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, after) = after.split_at_checked(letters)?;
        let unit = match unit {
            "h" => SignedDuration::from_secs(3600),
            "m" => SignedDuration::from_secs(60),
            "s" => SignedDuration::from_secs(1),
            "ms" => SignedDuration::from_millis(1),
            "us" => SignedDuration::from_micros(1),
            "ns" => SignedDuration::from_nanos(1),
            _ => return None,
        };
        sum = sum.checked_add(unit.checked_mul(number.parse().ok()?)?)?;
        rest = after;
    }
    if negative { sum.checked_neg() } else { Some(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("1h30m", Some(5400)),
            ("90s", Some(90)),
            ("-5m", Some(-300)),
            ("0s", Some(0)),
            ("", None),
            ("-", None),
            ("5", None),
            ("5d", None),
            ("1.5h", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(parse(text).map(|found| found.as_secs()), seconds, "{text}");
        }
        assert_eq!(parse("1ms2us3ns").map(|found| found.as_nanos()), Some(1_002_003));
    }
}
