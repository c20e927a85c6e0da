//! The watched file of revocations: one target a line, `#` and a reason behind it where there is one.
//!
//! A line that cannot be read must not lift a revocation: the good lines hold, and what the file named before is kept until every line
//! can be read again.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::kept::MOST;
use crate::live::Target;

/// Longest file, in bytes.
const LONGEST: u64 = 4 * 1024 * 1024;
/// Longest reason, in characters; more is cut.
pub(super) const LONGEST_REASON: usize = 500;

/// What one reading of the file gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lines {
    /// Targets with their reasons, as they stand.
    pub(super) named: Vec<(Target, String)>,
    /// The first line that cannot be read, and how to mend it.
    pub(super) mistake: Option<String>,
}

/// Reads it. Blocks.
///
/// # Errors
/// It is not there, or cannot be read, or is no text file of at most 4 MiB.
pub(super) fn read(path: &Path) -> io::Result<Lines> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is over 4 MiB; write `everything`"));
    }
    Ok(parse(&String::from_utf8_lossy(&bytes)))
}

/// Reads what stands in it.
pub(super) fn parse(text: &str) -> Lines {
    let mut lines = Lines::default();
    let mut mistakes = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let (target, reason) = line.split_once('#').unwrap_or((line, ""));
        let target = target.split_whitespace().collect::<Vec<_>>().join(" ");
        if target.is_empty() {
            continue;
        }
        let read = match target.parse() {
            Ok(Target::Grant(_)) => Err("a grant is no block: `exeat revoke grant ID` discards it".to_owned()),
            Ok(_) if lines.named.len() >= MOST => Err(format!("more than {MOST} targets; write `everything`")),
            Ok(target) => Ok(target),
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok(target) => lines.named.push((target, reason_of(reason))),
            Err(why) => mistakes.push(format!("line {}: {why}", number + 1)),
        }
    }
    let more = mistakes.len().saturating_sub(1);
    lines.mistake = mistakes.into_iter().next().map(|first| if more > 0 { format!("{first} (and {more} more lines)") } else { first });
    lines
}

/// An operator's reason as it is kept: one line, of bounded length.
pub(super) fn reason_of(written: &str) -> String {
    written.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_REASON).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_target_a_line_with_its_reason() {
        let lines =
            parse("# taken away tonight\n\nupstream ledger # INC-7: leaked\r\n  workload   spiffe://t.example/ns/a/sa/b\neverything#x\n");
        let named: Vec<_> = lines.named.iter().map(|(target, reason)| format!("{target} [{reason}]")).collect();
        assert_eq!(named, ["upstream ledger [INC-7: leaked]", "workload spiffe://t.example/ns/a/sa/b []", "everything [x]"]);
        assert_eq!(lines.mistake, None);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_told_and_the_others_hold() {
        let lines = parse("upstream ledger\nupstraem stripe\ngrant 7\nrule a/b\n");
        assert_eq!(lines.named.len(), 2);
        insta::assert_snapshot!(lines.mistake.unwrap(), @"line 2: write `everything`, or one of `workload ID`, `upstream NAME`, `credential NAME`, `rule POLICY/RULE`, `lease ID`, `grant ID` (and 1 more lines)");
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "\\PC*|[a-z #\n]{0,200}") {
            let lines = parse(&text);
            prop_assert!(lines.named.iter().all(|(target, reason)| target.to_string().parse::<Target>().is_ok() && reason.chars().count() <= LONGEST_REASON));
        }
    }
}
