//! Reading: the file, the files that it names, and a digest of all that was read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;

use super::file::{self, Config};
use super::policies::Found;
use crate::catalogue::{Catalogue, Profile};
use crate::clock::Clock;
use crate::policy::{PolicyFile, TestFile};
use crate::written::{Diagnostic, MAX_BYTES, Source};

/// Everything that a configuration says, in meaning form.
#[derive(Debug)]
pub struct Loaded {
    /// The file itself.
    pub config: Config,
    /// The upstreams.
    pub catalogue: Catalogue,
    /// What policy and injection need to know of each credential definition, in the order of the file.
    pub profiles: Vec<Arc<Profile>>,
    /// The policy files in the order in which they count, not yet parsed.
    pub policies: Vec<PolicyFile>,
    /// The policy tests that stand beside them, not yet parsed.
    pub policy_tests: Vec<TestFile>,
    /// Policy directories and files that could not be read: exeat listens and refuses `not_ready`.
    pub policy_errors: Vec<Diagnostic>,
    /// What somebody should look at.
    pub warnings: Vec<Diagnostic>,
    /// SHA-256 of everything read.
    pub digest: Digest,
    /// What to watch for changes.
    pub watched: Watched,
}

impl Loaded {
    /// What the file says; digest, watched files and warnings are added by those who know them.
    pub(super) fn new(config: Config, catalogue: Catalogue, profiles: Vec<Arc<Profile>>, found: Found) -> Self {
        Self {
            config,
            catalogue,
            profiles,
            policies: found.policies,
            policy_tests: found.tests,
            policy_errors: found.errors,
            warnings: Vec::new(),
            digest: Digest([0; 32]),
            watched: Watched::default(),
        }
    }
}

/// Files and directories whose content makes the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// Single files.
    pub files: BTreeSet<PathBuf>,
    /// Directories, of which the `*.yaml` files count.
    pub directories: BTreeSet<PathBuf>,
}

/// SHA-256 of names and contents.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One attempt to read a configuration; what was read is known also where it failed, so that a repair is noticed.
#[derive(Debug)]
pub struct Reading {
    /// What was read, or would have been.
    pub watched: Watched,
    /// SHA-256 of everything read.
    pub digest: Digest,
    /// The configuration, or every mistake.
    pub outcome: Result<Loaded, Vec<Diagnostic>>,
}

/// Loads a configuration.
///
/// # Errors
/// Every mistake of the file, at once.
pub fn load(path: &Path, clock: &dyn Clock) -> Result<Loaded, Vec<Diagnostic>> {
    read(path, clock).outcome
}

/// As [`load`], and tells what was read also where it failed.
#[must_use]
pub fn read(path: &Path, clock: &dyn Clock) -> Reading {
    let mut files = Files::default();
    let outcome = match files.text(path) {
        Ok(text) => {
            let base = path.parent().unwrap_or(Path::new("")).to_owned();
            file::build(&Source::new(shown(path), text), &base, &mut files, clock.now())
        }
        Err(error) => {
            let diagnostic = Diagnostic::file_error(shown(path), format!("the configuration cannot be read: {error}"));
            Err(vec![diagnostic.with_hint("name it with `-c FILE`")])
        }
    };
    let (watched, digest) = (files.watched, digest(&files.contents));
    let outcome = outcome.map(|built| Loaded { digest, watched: watched.clone(), ..built });
    Reading { watched, digest, outcome }
}

/// The digest of what stands there now; equal to [`Loaded::digest`] as long as nothing changed.
#[must_use]
pub fn digest_of(watched: &Watched) -> Digest {
    let mut files = Files::default();
    for path in &watched.files {
        let _absent_counts_too = files.bytes(path);
    }
    for directory in &watched.directories {
        let names = files.list(directory).unwrap_or_default();
        for path in names.yaml {
            let _absent_counts_too = files.bytes(&path);
        }
    }
    digest(&files.contents)
}

/// Reads files and remembers what it read.
#[derive(Default)]
pub(super) struct Files {
    watched: Watched,
    contents: BTreeMap<PathBuf, Option<digest::Digest>>,
}

/// What a policy directory holds.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) yaml: Vec<PathBuf>,
    /// Names that look like policy and are not read.
    pub(super) ignored: Vec<String>,
}

impl Files {
    /// Reads one file of at most 8 MiB.
    pub(super) fn bytes(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        let read = read_bounded(path);
        let content = read.as_ref().ok().map(|bytes| digest::digest(&digest::SHA256, bytes));
        self.contents.insert(path.to_owned(), content);
        let inside = |directory: &PathBuf| path.parent() == Some(directory);
        if !self.watched.directories.iter().any(inside) {
            self.watched.files.insert(path.to_owned());
        }
        read.map_err(|error| format!("`{}`: {error}", shown(path)))
    }

    pub(super) fn text(&mut self, path: &Path) -> Result<String, String> {
        let bytes = self.bytes(path)?;
        String::from_utf8(bytes).map_err(|error| format!("`{}` is not UTF-8 (byte {})", shown(path), error.utf8_error().valid_up_to()))
    }

    /// The policy files of a directory, sorted by name; links are followed, so that the files of a ConfigMap count.
    pub(super) fn list(&mut self, directory: &Path) -> Result<Listing, String> {
        self.watched.directories.insert(directory.to_owned());
        let failed = |error: io::Error| format!("`{}`: {error}", shown(directory));
        let mut listing = Listing::default();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.starts_with('.') || !path.is_file() {
                continue;
            }
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("yaml") => listing.yaml.push(path),
                Some("yml" | "YAML" | "json") => listing.ignored.push(name.to_owned()),
                Some(_) | None => {}
            }
        }
        listing.yaml.sort();
        listing.ignored.sort();
        Ok(listing)
    }
}

/// A pipe or device would block or never end, so only plain files are read.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a plain file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_BYTES {
        return Err(io::Error::other(format!("more than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

fn digest(contents: &BTreeMap<PathBuf, Option<digest::Digest>>) -> Digest {
    let mut hash = digest::Context::new(&digest::SHA256);
    for (path, content) in contents {
        let name = path.as_os_str().as_encoded_bytes();
        hash.update(&(name.len() as u64).to_be_bytes());
        hash.update(name);
        hash.update(content.as_ref().map_or(&[0][..], digest::Digest::as_ref));
    }
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(hash.finish().as_ref()) {
        *to = *from;
    }
    Digest(out)
}

/// A path as it is shown: `a/../b` is `b`.
pub(super) fn shown(path: &Path) -> String {
    let mut parts: Vec<Component<'_>> = Vec::new();
    for part in path.components() {
        match (part, parts.last()) {
            (Component::ParentDir, Some(Component::Normal(_))) => {
                parts.pop();
            }
            (Component::CurDir, _) => {}
            (part, _) => parts.push(part),
        }
    }
    parts.iter().collect::<PathBuf>().display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shown_short() {
        for (path, short) in [("config/../policies/a.yaml", "policies/a.yaml"), ("../p/a", "../p/a"), ("./a", "a"), ("/a/b/../c", "/a/c")] {
            assert_eq!(shown(Path::new(path)), short);
        }
    }

    #[test]
    fn the_digest_follows_content_and_names() {
        let dir = tempfile::tempdir().unwrap();
        let (file, policies) = (dir.path().join("a"), dir.path().join("p"));
        std::fs::create_dir(&policies).unwrap();
        let watched = Watched { files: [file.clone()].into(), directories: [policies.clone()].into() };
        let absent = digest_of(&watched);
        std::fs::write(&file, "").unwrap();
        let empty = digest_of(&watched);
        assert_ne!(absent, empty);
        std::fs::write(policies.join(".hidden.yaml"), "x").unwrap();
        std::fs::write(policies.join("notes.txt"), "x").unwrap();
        assert_eq!(digest_of(&watched), empty, "files that do not count");
        std::fs::write(policies.join("a.yaml"), "x").unwrap();
        let one = digest_of(&watched);
        std::fs::rename(policies.join("a.yaml"), policies.join("b.yaml")).unwrap();
        assert!(one != empty && digest_of(&watched) != one);
    }
}
