//! `SecretSource`: where a secret is kept. The file holds the reference, never the secret.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use crate::secret::Secret;
use crate::written::{Place, Report, Spanned};

/// Most bytes of one secret.
const LONGEST: usize = 64 * 1024;

/// A reference to a secret as written. Its text is never printed: it may be the secret itself, pasted where the reference belongs.
pub(super) struct SecretReference(Spanned<String>);

impl fmt::Debug for SecretReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretReference({})", self.0.at)
    }
}

impl<'de> Deserialize<'de> for SecretReference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl JsonSchema for SecretReference {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecretReference".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^\\$\\{(env|file|credential):[^}]+\\}$",
            "description": "Where a secret is kept: ${env:NAME}, ${file:PATH} or ${credential:NAME} (systemd). Never the secret itself.",
        })
    }
}

/// Where a secret is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SecretSource {
    /// An environment variable of exeat's.
    Env(String),
    /// A file; one trailing line end does not belong to the secret.
    File(PathBuf),
    /// A systemd credential: a file of that name in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// Why a secret cannot be had. Never holds any of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretSourceError {
    /// No such variable, or not text.
    #[error("the environment variable `{0}` is not set")]
    NotSet(String),
    /// systemd gave no credentials to this process.
    #[error("$CREDENTIALS_DIRECTORY is not set: the unit needs LoadCredential={0}:PATH")]
    NoCredentials(String),
    /// The file cannot be read.
    #[error("`{path}` cannot be read: {why}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        why: std::io::Error,
    },
    /// Nothing in it, or more than 64 KiB.
    #[error("{0} is empty or has more than 64 KiB")]
    Size(SecretSource),
}

impl SecretReference {
    /// Where it stands.
    pub(super) const fn at(&self) -> Place {
        self.0.at
    }

    /// The source that it names; `base` is the directory of the configuration.
    pub(super) fn build(&self, base: &Path, report: &mut Report) -> Option<SecretSource> {
        let inside = self.0.value.trim().strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let Some((kind, name)) = inside.and_then(|inside| inside.split_once(':')) else {
            let hint = "write ${env:NAME}, ${file:PATH} or ${credential:NAME}; if a real secret stood here, replace it: it has been seen";
            report.error_hidden(self.at(), "a secret must not stand in this file; a reference to it belongs here", hint);
            return None;
        };
        let is_word =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
        match kind {
            "env" if is_word(name) => Some(SecretSource::Env(name.to_owned())),
            "file" if !name.is_empty() => Some(SecretSource::File(base.join(name))),
            "credential" if is_word(name) && !matches!(name, "." | "..") => Some(SecretSource::Credential(name.to_owned())),
            "env" | "file" | "credential" => {
                report.error_hidden(self.at(), format!("`${{{kind}:..}}` names nothing usable"), "letters, digits, `_`, `-` and `.`");
                None
            }
            _ => {
                report.error_hidden(
                    self.at(),
                    "secrets come from `env`, `file` or `credential`",
                    "write ${env:NAME}, ${file:PATH} or ${credential:NAME}",
                );
                None
            }
        }
    }
}

impl SecretSource {
    /// Reads the secret as it is now.
    ///
    /// # Errors
    /// Not set, not readable, empty, over 64 KiB.
    pub fn read(&self) -> Result<Secret, SecretSourceError> {
        let secret = match self {
            #[expect(clippy::disallowed_methods, reason = "this is the one place where a secret comes from the environment")]
            Self::Env(name) => Secret::new(std::env::var(name).map_err(|_| SecretSourceError::NotSet(name.clone()))?),
            Self::File(_) | Self::Credential(_) => match self.file()? {
                Some(path) => self.read_file(&path)?,
                None => return Err(SecretSourceError::Size(self.clone())),
            },
        };
        if secret.is_empty() || secret.len() > LONGEST {
            return Err(SecretSourceError::Size(self.clone()));
        }
        Ok(secret)
    }

    /// The file that holds it, where it is one: read again when it changes.
    ///
    /// # Errors
    /// A systemd credential without its directory.
    pub fn file(&self) -> Result<Option<PathBuf>, SecretSourceError> {
        match self {
            Self::Env(_) => Ok(None),
            Self::File(path) => Ok(Some(path.clone())),
            Self::Credential(name) => {
                let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| SecretSourceError::NoCredentials(name.clone()))?;
                Ok(Some(Path::new(&directory).join(name)))
            }
        }
    }

    fn read_file(&self, path: &Path) -> Result<Secret, SecretSourceError> {
        use std::io::Read as _;
        let unreadable = |why| SecretSourceError::Unreadable { path: path.to_owned(), why };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        // with the whole capacity at once the buffer is never moved, so no copy of the secret stays behind
        let mut bytes = Vec::with_capacity(LONGEST + 2);
        file.take(LONGEST as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        for end in [b'\n', b'\r'] {
            if bytes.last() == Some(&end) {
                bytes.pop();
            }
        }
        if bytes.is_empty() {
            return Err(SecretSourceError::Size(self.clone()));
        }
        Ok(Secret::new(bytes))
    }

    /// The file that it reads, if it is one: to be watched.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Env(_) | Self::Credential(_) => None,
        }
    }
}

/// The reference, which is not secret.
impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "${{env:{name}}}"),
            Self::File(path) => write!(f, "${{file:{}}}", path.display()),
            Self::Credential(name) => write!(f, "${{credential:{name}}}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lose_one_line_end_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for (content, secret) in [("sk-1\n", "sk-1"), ("sk-1\r\n", "sk-1"), ("sk-1", "sk-1"), ("sk-1\n\n", "sk-1\n"), (" sk ", " sk ")] {
            std::fs::write(&path, content).unwrap();
            assert!(SecretSource::File(path.clone()).read().unwrap().same_as(secret.as_bytes()), "{content:?}");
        }
        for content in [String::new(), "\n".to_owned(), "x".repeat(70_000)] {
            std::fs::write(&path, content).unwrap();
            assert!(matches!(SecretSource::File(path.clone()).read(), Err(SecretSourceError::Size(_))));
        }
        assert!(matches!(SecretSource::File(dir.path().join("absent")).read(), Err(SecretSourceError::Unreadable { .. })));
        assert!(matches!(SecretSource::Env("EXEAT_TEST_ABSENT".into()).read(), Err(SecretSourceError::NotSet(_))));
    }
}
