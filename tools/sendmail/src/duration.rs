//! Times on the command line and in the configuration.

use std::time::Duration;

/// Parses a number of seconds such as `2`, `0.5` or `1e3`. Parsing an f64 would add 16 kB to the program.
pub fn seconds(text: &str) -> Option<Duration> {
    let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = [whole, fraction].concat();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digit =
        |at| usize::try_from(at).ok().and_then(|at| digits.as_bytes().get(at)).map_or(0, |b| b - b'0');
    let places =
        |from: i64, to| (from..to).try_fold(0_u64, |n, at| n.checked_mul(10)?.checked_add(digit(at).into()));
    let point = whole.len() as i64 + i64::from(exponent.parse::<i16>().ok()?);
    let nanos = u32::try_from(places(point, point + 9)?).ok()?;
    Some(Duration::new(places(0, point)?, nanos))
}

/// Parses a number of seconds, or a number with one of the units `s`, `m`, `h` and `d`.
pub fn with_unit(text: &str) -> Option<Duration> {
    let (number, unit) = match text.as_bytes().last()? {
        b's' => (&text[..text.len() - 1], 1),
        b'm' => (&text[..text.len() - 1], 60),
        b'h' => (&text[..text.len() - 1], 3600),
        b'd' => (&text[..text.len() - 1], 86_400),
        _ => (text, 1),
    };
    seconds(number)?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, expected) in [
            ("30", Some(30)),
            ("30s", Some(30)),
            ("5m", Some(300)),
            ("1.5h", Some(5400)),
            ("5d", Some(432_000)),
            ("m", None),
            ("", None),
            ("5 m", None),
            ("-1", None),
            ("5w", None),
            ("1e18d", None),
        ] {
            assert_eq!(with_unit(text), expected.map(Duration::from_secs), "{text:?}");
        }
    }
}
