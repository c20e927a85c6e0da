//! Windows: hours of the week in a time zone.

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::TimeZone;

use super::document::WindowWritten;
use crate::clock::Timestamp;
use crate::written::{Report, Spanned};

/// Days of the week as bits, Monday first.
type Days = u8;

/// Names of days, Monday first.
const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Hours of the week during which a rule holds. Opens on its days at `from` and closes `to`, on the next day if that is not later.
#[derive(Debug, Clone)]
pub(super) struct Window {
    days: Days,
    from: Time,
    to: Time,
    overnight: bool,
    zone: TimeZone,
    /// As written, for explanations.
    pub(super) text: Box<str>,
}

impl Window {
    /// Reads one; mistakes go to the report.
    pub(super) fn build(written: &WindowWritten, report: &mut Report) -> Option<Self> {
        let days = match &written.days {
            None => Some(0b111_1111),
            Some(text) => {
                let days = days(text);
                if days.is_none() {
                    report.error_hint(
                        text.at,
                        format!("`{}` are no days", text.value),
                        "write `mon-fri`, `sat,sun`, or leave `days` out for every day",
                    );
                }
                days
            }
        };
        let (from, to) = (time(&written.from, report), time(&written.to, report));
        let zone = TimeZone::get(&written.tz.value).ok();
        if zone.is_none() {
            report.error_hint(
                written.tz.at,
                format!("there is no time zone `{}`", written.tz.value),
                "write an IANA name such as `Europe/Berlin` or `UTC`",
            );
        }
        let (days, (from, _), (to, end_of_day), zone) = (days?, from?, to?, zone?);
        let text = format!(
            "{} {}-{} {}",
            written.days.as_ref().map_or("every day", |days| &days.value),
            written.from.value,
            written.to.value,
            written.tz.value
        );
        Some(Self { days, from, to, overnight: end_of_day || to <= from, zone, text: text.into() })
    }

    /// When the window that is open now closes; `None` when it is closed.
    fn closes(&self, now: Timestamp) -> Option<Timestamp> {
        let local = self.zone.to_datetime(now);
        let yesterday = local.date().yesterday().ok();
        yesterday.into_iter().chain([local.date()]).find_map(|date| {
            let (opens, closes) = self.on(date)?;
            (opens <= now && now < closes).then_some(closes)
        })
    }

    /// The window that opens on a date.
    fn on(&self, date: Date) -> Option<(Timestamp, Timestamp)> {
        if self.days & bit(date.weekday()) == 0 {
            return None;
        }
        let last = if self.overnight { date.tomorrow().ok()? } else { date };
        let at = |local: DateTime| self.zone.to_ambiguous_timestamp(local).compatible().ok();
        Some((at(date.to_datetime(self.from))?, at(last.to_datetime(self.to))?))
    }
}

/// Until when one of several windows stays open without a gap, at most a week ahead; `None` when none is open now.
pub(super) fn open_until(windows: &[Window], now: Timestamp) -> Option<Timestamp> {
    let latest = |at: Timestamp| windows.iter().filter_map(|window| window.closes(at)).max();
    let mut until = latest(now)?;
    for _ in 0..14 {
        match latest(until) {
            Some(later) if later > until => until = later,
            Some(_) | None => return Some(until),
        }
    }
    Some(until)
}

fn bit(day: Weekday) -> Days {
    1 << day.to_monday_zero_offset()
}

fn days(text: &str) -> Option<Days> {
    let day = |name: &str| NAMES.iter().position(|known| *known == name.trim());
    text.split(',').try_fold(0, |days, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let count = (last + 7 - first) % 7 + 1;
        Some((0..count).fold(days, |days, step| days | (1 << ((first + step) % 7))))
    })
}

/// `HH:MM`; `24:00` is the end of the day.
fn time(text: &Spanned<String>, report: &mut Report) -> Option<(Time, bool)> {
    let parsed = match text.value.split_once(':') {
        Some(("24", "00")) => Some((Time::midnight(), true)),
        Some((hour, minute)) if hour.len() == 2 && minute.len() == 2 => {
            let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<i8>().ok()).flatten();
            digits(hour).zip(digits(minute)).and_then(|(hour, minute)| Time::new(hour, minute, 0, 0).ok()).map(|time| (time, false))
        }
        Some(_) | None => None,
    };
    if parsed.is_none() {
        report.error_hint(
            text.at,
            format!("`{}` is not a time of day", text.value),
            "write it quoted, as in \"06:00\"; \"24:00\" is the end of the day",
        );
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::written::{Place, Source};

    fn window(days: Option<&str>, from: &str, to: &str, tz: &str) -> Window {
        let text = |text: &str| Spanned::new(text.to_owned(), Place::START);
        let written = WindowWritten { days: days.map(text), from: text(from), to: text(to), tz: text(tz) };
        Window::build(&written, &mut Report::new(Source::new("t", ""))).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn days_are_ranges_and_lists() {
        for (text, expected) in [
            ("mon-fri", Some(0b001_1111)),
            ("sat,sun", Some(0b110_0000)),
            ("sat-mon", Some(0b110_0001)),
            ("mon-sun", Some(0b111_1111)),
            ("tue-mon", Some(0b111_1111)),
            ("wed", Some(0b000_0100)),
            ("monday", None),
            ("", None),
        ] {
            assert_eq!(days(text), expected, "{text}");
        }
    }

    #[test]
    fn a_window_opens_and_closes_in_its_zone() {
        // 2026-11-23 is a Monday; Berlin is one hour ahead of UTC in winter.
        let office = [window(Some("mon-fri"), "06:00", "22:00", "Europe/Berlin")];
        assert_eq!(open_until(&office, at("2026-11-23T04:59:59Z")), None);
        assert_eq!(open_until(&office, at("2026-11-23T05:00:00Z")), Some(at("2026-11-23T21:00:00Z")));
        assert_eq!(open_until(&office, at("2026-11-23T21:00:00Z")), None);
        assert_eq!(open_until(&office, at("2026-11-28T12:00:00Z")), None);
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        let night = [window(Some("fri"), "22:00", "06:00", "UTC")];
        assert_eq!(open_until(&night, at("2026-11-28T05:59:00Z")), Some(at("2026-11-28T06:00:00Z")));
        assert_eq!(open_until(&night, at("2026-11-27T05:59:00Z")), None);
    }

    #[test]
    fn windows_that_touch_are_one() {
        let all_day = [window(None, "00:00", "24:00", "UTC")];
        assert!(open_until(&all_day, at("2026-11-23T12:00:00Z")).unwrap() > at("2026-11-30T12:00:00Z"));
        let two = [window(Some("mon"), "08:00", "12:00", "UTC"), window(Some("mon"), "12:00", "18:00", "UTC")];
        assert_eq!(open_until(&two, at("2026-11-23T09:00:00Z")), Some(at("2026-11-23T18:00:00Z")));
    }

    #[test]
    fn a_change_of_the_clocks_moves_the_end() {
        // Berlin leaves summer time on 2026-10-25 at 03:00: that night has one hour more.
        let night = [window(None, "22:00", "06:00", "Europe/Berlin")];
        assert_eq!(open_until(&night, at("2026-10-24T20:00:00Z")), Some(at("2026-10-25T05:00:00Z")));
    }
}
