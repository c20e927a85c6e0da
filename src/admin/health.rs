//! `Health`: named checks that together mean ready, and warnings that do not.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Named checks. Ready is when every one of them holds; what is wrong and yet serves (a reload that failed) is a warning.
#[derive(Debug, Default)]
pub struct Health(Mutex<Checks>);

#[derive(Debug, Default)]
struct Checks {
    standing: BTreeMap<&'static str, Result<(), String>>,
    warnings: BTreeMap<&'static str, String>,
}

impl Health {
    /// What a check says now; the text names the thing and the next step, never a secret.
    pub fn set(&self, check: &'static str, standing: Result<(), String>) {
        self.lock().standing.insert(check, standing);
    }

    /// Says that something is wrong which does not keep exeat from serving; `None` takes it back.
    pub fn warn(&self, about: &'static str, why: Option<String>) {
        let mut checks = self.lock();
        match why {
            Some(why) => drop(checks.warnings.insert(about, why)),
            None => drop(checks.warnings.remove(about)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Checks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every check holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().standing.values().all(Result::is_ok)
    }

    /// All checks, sorted by name.
    #[must_use]
    pub fn checks(&self) -> Vec<(&'static str, Result<(), String>)> {
        self.lock().standing.iter().map(|(name, standing)| (*name, standing.clone())).collect()
    }

    /// All warnings, sorted by what they are about.
    #[must_use]
    pub fn warnings(&self) -> Vec<(&'static str, String)> {
        self.lock().warnings.iter().map(|(about, why)| (*about, why.clone())).collect()
    }

    /// One line a check: `[+] audit` or `[-] policy: why`, and `[!] reload: why` for what is wrong and yet serves.
    #[must_use]
    pub fn text(&self, verbose: bool) -> String {
        let mut out = String::new();
        for (name, standing) in self.checks() {
            match standing {
                Ok(()) if verbose => out.extend(["[+] ", name, "\n"]),
                Ok(()) => {}
                Err(why) => out.extend(["[-] ", name, ": ", &why, "\n"]),
            }
        }
        for (about, why) in self.warnings() {
            out.extend(["[!] ", about, ": ", &why, "\n"]);
        }
        if out.is_empty() { "ok\n".to_owned() } else { out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failing_check_is_enough() {
        let health = Health::default();
        health.set("audit", Ok(()));
        assert!(health.is_ready());
        assert_eq!(health.text(false), "ok\n");
        health.set("policy", Err("billing.yaml:3:1: unknown field".into()));
        assert!(!health.is_ready());
        assert_eq!(health.text(false), "[-] policy: billing.yaml:3:1: unknown field\n");
        assert_eq!(health.text(true), "[+] audit\n[-] policy: billing.yaml:3:1: unknown field\n");
    }

    #[test]
    fn a_warning_is_told_and_keeps_nobody_from_serving() {
        let health = Health::default();
        health.set("policy", Ok(()));
        health.warn("reload", Some("billing.yaml:3:1: unknown field".into()));
        assert!(health.is_ready());
        assert_eq!(health.text(false), "[!] reload: billing.yaml:3:1: unknown field\n");
        health.warn("reload", None);
        assert_eq!(health.text(false), "ok\n");
    }
}
