//! `Process`: what the kernel told of the process at the other end of a unix socket when it connected.

use std::fmt;
use std::sync::Arc;

use super::cgroup::Cgroups;
use super::hold::Hold;

/// A process, looked at once, when its connection was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id in exeat's pid namespace.
    pub pid: i32,
    /// The program that it ran, where that was asked for and could be seen.
    pub executable: Option<Executable>,
    /// Its control groups.
    pub cgroups: Cgroups,
    /// Tells as long as the connection lasts whether it still lives, where that was asked for.
    pub hold: Option<Arc<Hold>>,
}

/// The program that a process ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// Where the kernel says that it stands: a path in the process's own view of the file system, so it proves nothing alone.
    pub path: Box<str>,
    /// The file that exeat sees at that path is this very file (device and inode).
    pub here: bool,
    /// Of its content, where that was asked for.
    pub sha256: Option<Sha256>,
}

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// From 64 hexadecimal digits, in lower or upper case, with or without `sha256:` before them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (to, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *to = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl Sha256 {
    /// Of bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 32];
        for (to, from) in out.iter_mut().zip(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref()) {
            *to = *from;
        }
        Self(out)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the identities of a listener want to know of a new connection's other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own, asked with or without the others")]
pub struct Asks {
    /// The owner of a TCP loopback peer's socket.
    pub uid: bool,
    /// The process: its control groups and where its executable stands.
    pub process: bool,
    /// The content of its executable.
    pub hash: bool,
    /// A hold of the process for as long as the connection lasts.
    pub hold: bool,
}

impl Asks {
    /// What either wants.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            uid: self.uid || other.uid,
            process: self.process || other.process,
            hash: self.hash || other.hash,
            hold: self.hold || other.hold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_digits() {
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest = Sha256::parse(text).unwrap();
        assert_eq!(digest.to_string(), text);
        assert_eq!(Sha256::parse(&format!("sha256:{}", text.to_uppercase())), Some(digest));
        let short = text.strip_prefix('e').unwrap();
        let (sign, long) = (format!("+{short}"), format!("{text}0"));
        for wrong in ["", short, &sign, &long, "sha256:"] {
            assert_eq!(Sha256::parse(wrong), None, "{wrong}");
        }
    }
}
