//! Durations, sizes and points in time as operators write them: `10s`, `64KiB`, `2026-12-20`.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::report::Report;
use super::source::{Place, Spanned};
use crate::clock::Timestamp;

macro_rules! scalar {
    ($(#[$doc:meta])* $name:ident, $title:literal, $pattern:literal, $about:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name(Spanned<String>);

        impl $name {
            /// Where it stands.
            #[must_use]
            pub const fn at(&self) -> Place {
                self.0.at
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Spanned::deserialize(deserializer).map(Self)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                $title.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": ["string", "integer"], "pattern": $pattern, "description": $about })
            }
        }
    };
}

scalar! {
    /// A length of time: a whole number and `ms`, `s`, `m`, `h` or `d`.
    WrittenDuration, "Duration", "^[0-9]+(ms|s|m|h|d)$", "A length of time: a whole number and ms, s, m, h or d, such as 10s."
}
scalar! {
    /// A number of bytes: a whole number, alone or with `B`, `KiB`, `MiB` or `GiB`.
    WrittenSize, "Size", "^[0-9]+(B|KiB|MiB|GiB)?$", "A number of bytes: a whole number, alone or with B, KiB, MiB or GiB, such as 64KiB."
}
scalar! {
    /// A point in time: a date (its first moment in UTC) or an RFC 3339 time with its offset.
    WrittenTime, "Time", "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T.+)?$", "A date (its first moment in UTC) or an RFC 3339 time, such as 2026-12-20 or 2026-12-20T18:00:00Z."
}

impl WrittenDuration {
    /// The duration, which must lie between the bounds.
    pub fn build(&self, report: &mut Report, least: Duration, most: Duration) -> Option<Duration> {
        let hint = "write a whole number and a unit: 500ms, 10s, 5m, 1h, 30d";
        let Some(duration) = duration(&self.0) else {
            report.error_hint(self.at(), format!("`{}` is not a length of time", self.0.value), hint);
            return None;
        };
        if duration < least || duration > most {
            let message = format!("`{}` is out of bounds: at least {least:?}, at most {most:?}", self.0.value);
            report.error_hint(self.at(), message, "everything is bounded; there is no way to write `unlimited`");
            return None;
        }
        Some(duration)
    }
}

impl WrittenSize {
    /// The number of bytes, which must lie between the bounds.
    pub fn build(&self, report: &mut Report, least: usize, most: usize) -> Option<usize> {
        let Some(size) = size(&self.0) else {
            report.error_hint(
                self.at(),
                format!("`{}` is not a size", self.0.value),
                "write bytes, or a whole number and a unit: 512B, 64KiB, 1MiB",
            );
            return None;
        };
        if size < least || size > most {
            let message = format!("`{}` is out of bounds: at least {least}, at most {most} bytes", self.0.value);
            report.error_hint(self.at(), message, "everything is bounded; there is no way to write `unlimited`");
            return None;
        }
        Some(size)
    }
}

impl WrittenTime {
    /// The point in time.
    pub fn build(&self, report: &mut Report) -> Option<Timestamp> {
        let text = self.0.value.as_str();
        let time = text.parse::<Timestamp>().ok().or_else(|| {
            let date = text.parse::<jiff::civil::Date>().ok().filter(|_| text.len() == "2026-12-20".len())?;
            Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
        });
        if time.is_none() {
            let hint = "write a date (2026-12-20) or an RFC 3339 time with its offset (2026-12-20T18:00:00Z)";
            report.error_hint(self.at(), format!("`{text}` is not a point in time"), hint);
        }
        time
    }
}

/// A whole number and its unit; no signs, fractions or spaces.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit))
}

/// A length of time: a whole number and `ms`, `s`, `m`, `h` or `d`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}

fn size(text: &str) -> Option<usize> {
    let (number, unit) = number_and_unit(text)?;
    let bytes: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    usize::try_from(number.checked_mul(bytes)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_have_one_form() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("2h"), Some(Duration::from_hours(2)));
        assert_eq!(size("64KiB"), Some(65536));
        assert_eq!(size("10"), Some(10));
        for text in ["", "s", "10", "-1s", "1.5s", "1 s", "1S", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(duration(text), None, "{text}");
        }
        for text in ["", "KiB", "-1", "1KB", "1kib", "1 MiB", "18446744073709551615GiB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
