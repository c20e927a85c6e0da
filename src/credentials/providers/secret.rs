//! `secret`: a vendor's key that exeat holds in the workload's place. It is no short-lived credential, and `exeat check` says so; but the
//! workload never sees it, and each use has its permit and its record.

use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::credentials::{CredentialProvider, IssueError, IssueRequest, Issued, Issuing, SourceMark};
use crate::secret::Secret;

/// Largest key, in bytes.
const MOST: u64 = 64 * 1024;

/// Where the key is.
pub enum SecretSource {
    /// Given when the configuration was loaded (`${env:NAME}`); it changes with a reload.
    Given(Secret),
    /// A file (also a systemd credential); it is read again when it changes.
    File(PathBuf),
}

/// The provider.
pub struct VendorSecret {
    credential: Arc<str>,
    source: Arc<SecretSource>,
}

impl VendorSecret {
    /// For the definition of that name.
    #[must_use]
    pub fn new(credential: Arc<str>, source: SecretSource) -> Self {
        Self { credential, source: Arc::new(source) }
    }

    fn read(&self) -> Result<(Secret, Option<SourceMark>), IssueError> {
        match &*self.source {
            SecretSource::Given(secret) => Ok((trimmed(secret.expose()), None)),
            SecretSource::File(path) => match read_settled(path) {
                Ok((secret, mark)) => Ok((secret, Some(mark))),
                Err(error) => Err(IssueError::Unavailable {
                    credential: Arc::clone(&self.credential),
                    why: format!("{} cannot be read: {error}; check path and permissions", path.display()).into(),
                }),
            },
        }
    }
}

impl CredentialProvider for VendorSecret {
    fn issue(&self, _request: IssueRequest) -> Issuing<'_, Result<Issued, IssueError>> {
        let again = Self { credential: Arc::clone(&self.credential), source: Arc::clone(&self.source) };
        Box::pin(async move {
            let credential = Arc::clone(&again.credential);
            let read = tokio::task::spawn_blocking(move || again.read()).await;
            let interrupted =
                |_| IssueError::Unavailable { credential: Arc::clone(&credential), why: "reading it was interrupted; retry".into() };
            let (material, source) = read.map_err(interrupted)??;
            if material.is_empty() {
                return Err(IssueError::Refused { credential, why: "its source is empty; write the key there".into() });
            }
            Ok(Issued { material, not_after: None, source })
        })
    }

    fn source(&self) -> Issuing<'_, Option<SourceMark>> {
        let source = Arc::clone(&self.source);
        Box::pin(async move {
            let look = move || match &*source {
                SecretSource::Given(_) => None,
                SecretSource::File(path) => std::fs::metadata(path).ok().map(|about| mark(&about)),
            };
            tokio::task::spawn_blocking(look).await.ok().flatten()
        })
    }
}

/// Reads a file that is not being written: its mark is the same before and after.
fn read_settled(path: &PathBuf) -> io::Result<(Secret, SourceMark)> {
    let mut file = std::fs::File::open(path)?;
    let before = mark(&file.metadata()?);
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(usize::try_from(file.metadata()?.len().min(MOST)).unwrap_or_default() + 1));
    (&mut file).take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 64 KiB"));
    }
    if mark(&file.metadata()?) != before {
        return Err(io::Error::new(io::ErrorKind::WouldBlock, "it changed while it was read"));
    }
    Ok((trimmed(&bytes), before))
}

/// Editors and `echo` end a file with a line feed; no key does.
fn trimmed(bytes: &[u8]) -> Secret {
    Secret::new(bytes.trim_ascii_end())
}

/// Device, inode, length and both times: a replaced, rewritten or touched file has another.
fn mark(about: &std::fs::Metadata) -> SourceMark {
    let mut hasher = rustc_hash::FxHasher::default();
    (about.dev(), about.ino(), about.len(), about.mtime(), about.mtime_nsec(), about.ctime(), about.ctime_nsec()).hash(&mut hasher);
    SourceMark(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> IssueRequest {
        let profile = crate::catalogue::Profile {
            name: "vendor".into(),
            kind: "secret",
            audience: None,
            scopes: None,
            ttl: std::time::Duration::from_mins(1),
            placement: crate::catalogue::Placement::Bearer,
        };
        IssueRequest {
            grant: crate::credentials::GrantId("g".into()),
            workload: crate::identity::SpiffeId::parse("spiffe://t/w").unwrap(),
            upstream: "u".into(),
            terms: Arc::new(crate::policy::GrantTerms { profile: Arc::new(profile), scopes: None, ttl: std::time::Duration::from_mins(1) }),
            now: crate::clock::Timestamp::UNIX_EPOCH,
            ends: None,
        }
    }

    #[tokio::test]
    async fn a_file_is_read_trimmed_and_its_mark_moves_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "one\r\n").unwrap();
        let provider = VendorSecret::new("vendor".into(), SecretSource::File(path.clone()));
        let first = provider.issue(request()).await.unwrap();
        assert!(first.material.same_as(b"one") && first.not_after.is_none());
        assert_eq!(provider.source().await, first.source);
        std::fs::write(dir.path().join("new"), "two").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert_ne!(provider.source().await, first.source);
        assert!(provider.issue(request()).await.unwrap().material.same_as(b"two"));
    }

    #[tokio::test]
    async fn empty_missing_and_giant_sources_are_errors_with_a_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let provider = VendorSecret::new("vendor".into(), SecretSource::File(path.clone()));
        let fails = || async { provider.issue(request()).await.err().unwrap() };
        let missing = fails().await;
        assert!(matches!(missing, IssueError::Unavailable { .. }) && missing.to_string().contains("check path"), "{missing}");
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(fails().await, IssueError::Refused { .. }));
        std::fs::write(&path, vec![b'x'; 65 * 1024]).unwrap();
        assert!(fails().await.to_string().contains("64 KiB"));
        let given = VendorSecret::new("vendor".into(), SecretSource::Given(Secret::new("key\n")));
        let issued = given.issue(request()).await.unwrap();
        assert!(issued.material.same_as(b"key") && issued.source.is_none());
    }
}
