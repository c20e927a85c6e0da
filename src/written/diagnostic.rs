//! `Diagnostic`: one message about a file, with its line, caret and hint.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::source::{Place, Source};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is loaded.
    Error,
    /// It is loaded, and somebody should look at it.
    Warning,
}

impl Severity {
    /// `error`, `warning`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Most mistakes, and most warnings, of one file that are told: whoever has more has another kind of problem.
pub(super) const MOST: usize = 100;

/// One message about a file, for people ([`Diagnostic::render`]) and programs ([`Diagnostic::to_json`], [`Diagnostic::to_github`]).
#[derive(Clone)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// A stable word that programs may filter by; `invalid` where no other was given.
    pub code: &'static str,
    /// One sentence that names the thing.
    pub message: String,
    /// The file's name as shown to the operator.
    pub file: Arc<str>,
    /// Where; `None` is the file as a whole.
    pub place: Option<Place>,
    /// How many characters the caret underlines.
    pub length: usize,
    /// The next step.
    pub hint: Option<String>,
    /// What is shown of the line: at most [`WIDEST`] characters around the place, without what may be a secret.
    line: Box<str>,
    /// Where the caret stands in that.
    caret: u32,
}

impl Diagnostic {
    fn at(severity: Severity, code: &'static str, source: &Source, at: Place, message: String) -> Self {
        let (above, line) = line_of(&source.text, at.line);
        let length = token_length(line, at.column);
        // a warning is about a file that fits its form, where secrets are references
        let hide = if severity == Severity::Error { secret_from(above, line) } else { None };
        let (line, caret) = shown(line, at.column, hide);
        Self { severity, code, message, file: Arc::clone(&source.name), place: Some(at), length, hint: None, line, caret }
    }

    /// An error at a place.
    #[must_use]
    pub fn error(source: &Source, at: Place, message: impl Into<String>) -> Self {
        Self::at(Severity::Error, "invalid", source, at, message.into())
    }

    /// A warning at a place, with the stable word that programs filter by.
    #[must_use]
    pub fn warning(code: &'static str, source: &Source, at: Place, message: impl Into<String>) -> Self {
        Self::at(Severity::Warning, code, source, at, message.into())
    }

    /// An error about a file as a whole: absent, unreadable, too large.
    #[must_use]
    pub fn file_error(file: impl Into<Arc<str>>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code: "invalid",
            message: message.into(),
            file: file.into(),
            place: None,
            length: 0,
            hint: None,
            line: "".into(),
            caret: 1,
        }
    }

    /// Adds the next step.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// As bad as this.
    #[must_use]
    pub const fn with_severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// Gives the stable word that programs filter by.
    #[must_use]
    pub const fn with_code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// Hides the value that the caret stands under: it may be a secret that was pasted where only a reference belongs.
    #[must_use]
    pub fn without_value(mut self) -> Self {
        if !self.line.ends_with(HIDDEN) {
            let before = self.line.get(..byte_of(&self.line, self.caret)).unwrap_or_default();
            self.line = format!("{before}{HIDDEN}").into();
        }
        self.length = 1;
        self
    }

    /// For people: file, line, caret and hint, as compilers do it; without colour.
    #[must_use]
    pub fn render(&self) -> String {
        self.render_with(&Renderer::plain())
    }

    /// As [`Diagnostic::render`], with colour for terminals.
    #[must_use]
    pub fn render_coloured(&self) -> String {
        self.render_with(&Renderer::styled())
    }

    fn render_with(&self, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let code = (self.code != "invalid").then_some(self.code);
        let mut title = level.primary_title(printable(&self.message));
        if let Some(code) = code {
            title = title.id(code);
        }
        let name = printable(&self.file);
        let mut report = if let Some(at) = self.place {
            let line = printable(&self.line);
            // the caret stands under the mark when what it meant is behind it
            let most = line.strip_suffix(HIDDEN).map_or(line.len(), str::len);
            let begin = byte_of(&line, self.caret).min(most);
            let end = byte_of(&line, self.caret.saturating_add(u32::try_from(self.length).unwrap_or(u32::MAX)));
            let snippet = Snippet::source(line)
                .path(name)
                .line_start(at.line as usize)
                .annotation(AnnotationKind::Primary.span(begin..end.max(begin)));
            title.element(snippet)
        } else {
            title.element(annotate_snippets::Origin::path(name))
        };
        if let Some(hint) = &self.hint {
            report = report.element(Level::HELP.message(printable(hint)));
        }
        renderer.render(&[report])
    }

    /// For programs: one object.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "severity": self.severity.name(),
            "code": self.code,
            "message": self.message,
            "file": &*self.file,
            "line": self.place.map(|at| at.line),
            "column": self.place.map(|at| at.column),
            "length": self.length,
            "hint": self.hint,
        })
    }

    /// For GitHub: a workflow command that becomes an annotation of the file in a pull request.
    #[must_use]
    pub fn to_github(&self) -> String {
        let property =
            |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A").replace(':', "%3A").replace(',', "%2C");
        let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        let place = self.place.map_or(String::new(), |at| format!(",line={},col={}", at.line, at.column));
        let hint = self.hint.as_ref().map_or(String::new(), |hint| format!("\n{hint}"));
        format!(
            "::{} file={}{place},title={}::{}",
            self.severity.name(),
            property(&self.file),
            property(&format!("exeat check ({})", self.code)),
            data(&format!("{}{hint}", self.message))
        )
    }
}

/// `file:line:column: message`, for logs; [`Diagnostic::render`] shows more.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if let Some(at) = self.place {
            write!(f, "{at}:")?;
        }
        write!(f, " {}", self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl fmt::Debug for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What stands before a line, and the line without its end.
fn line_of(text: &str, line: u32) -> (&str, &str) {
    let before = line.saturating_sub(1) as usize;
    let start = if before == 0 { 0 } else { memchr::memchr_iter(b'\n', text.as_bytes()).nth(before - 1).map_or(text.len(), |end| end + 1) };
    let (above, rest) = text.split_at_checked(start).unwrap_or((text, ""));
    let end = memchr::memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
    (above, rest.get(..end).unwrap_or_default().trim_end_matches('\r'))
}

/// Byte offset of a 1-based column; the line's end when the line is shorter.
fn byte_of(line: &str, column: u32) -> usize {
    if line.is_ascii() {
        return (column.saturating_sub(1) as usize).min(line.len());
    }
    line.char_indices().nth(column.saturating_sub(1) as usize).map_or(line.len(), |(byte, _)| byte)
}

/// How many characters the token at a column has: to the closing quote, or to what ends a plain scalar or a key.
fn token_length(line: &str, column: u32) -> usize {
    let rest = line.get(byte_of(line, column)..).unwrap_or_default();
    let Some(first) = rest.chars().next() else { return 1 };
    if matches!(first, '"' | '\'') {
        let inside = rest.chars().skip(1).take(WIDEST).take_while(|c| *c != first).count();
        return (inside + 2).min(rest.chars().take(WIDEST).count());
    }
    if matches!(first, '[' | '{' | '|' | '>' | '*' | '&') {
        return 1;
    }
    let mut length = 0;
    let mut characters = rest.chars().take(WIDEST).peekable();
    while let Some(c) = characters.next() {
        let ends = match c {
            ',' | ']' | '}' => true,
            ':' => characters.peek().is_none_or(|next| next.is_whitespace()),
            ' ' => characters.peek() == Some(&'#'),
            _ => false,
        };
        if ends {
            break;
        }
        length += 1;
    }
    let kept = rest.chars().take(length).collect::<String>();
    kept.trim_end().chars().count().max(1)
}

/// Stands for what must not be shown.
const HIDDEN: &str = "[hidden]";
/// Most characters of a line that are shown.
const WIDEST: usize = 200;

/// What is shown of a line, and the column of the caret in it.
fn shown(line: &str, column: u32, hide: Option<usize>) -> (Box<str>, u32) {
    let at = byte_of(line, column);
    let (line, at) = match hide {
        Some(from) => (Cow::Owned(format!("{}{HIDDEN}", line.get(..from).unwrap_or_default())), at.min(from)),
        None => (Cow::Borrowed(line), at),
    };
    let before = line.get(..at).unwrap_or_default();
    let kept = before.char_indices().rev().nth(WIDEST / 2).map_or(0, |(byte, _)| byte);
    let start = if line.len() > WIDEST { kept } else { 0 };
    let window: String = line.get(start..).unwrap_or_default().chars().take(WIDEST).collect();
    let caret = line.get(start..at).unwrap_or_default().chars().count() + 1;
    (window.into(), u32::try_from(caret).unwrap_or(1))
}

/// Words in the name of a field that say: a secret, or the place of one.
const SECRET_WORDS: [&str; 10] = ["secret", "secert", "token", "passw", "pwd", "api_key", "api-key", "apikey", "authorization", "private"];

fn smells(text: &str) -> bool {
    let text = text.to_ascii_lowercase().replace("token_file", "");
    SECRET_WORDS.iter().any(|word| text.contains(word))
}

/// From which byte on a line must not be shown: the value of a field that smells of a secret, or stands in one that does, is hidden
/// unless it is a reference (`${..}`) or a structure. The mistake may be a mistyped field with a real key behind it, and diagnostics go to
/// terminals and build logs.
fn secret_from(above: &str, line: &str) -> Option<usize> {
    let (name, value) = line.split_once(':')?;
    let value = value.trim_start();
    let harmless = value.is_empty() || value.trim_start_matches(['"', '\'']).starts_with("${") || value.starts_with(['#', '[', '|', '>']);
    if harmless {
        return None;
    }
    let flow = value.starts_with('{');
    // nobody writes by hand what is longer
    let secret = flow && (value.len() > 4096 || (!value.contains("${") && smells(value)));
    let secret = secret || (!flow && (name.len() > 4096 || smells(name) || smells(parent(above, line))));
    secret.then_some(line.len() - value.len())
}

/// The name of the field that a line stands in: the nearest line before it that is indented less.
fn parent<'a>(above: &'a str, line: &str) -> &'a str {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut before = above.lines().rev().take(200).filter(|above| !above.trim_start().starts_with('#') && !above.trim().is_empty());
    before.find(|above| depth(above) < depth(line)).and_then(|above| above.split(':').next()).unwrap_or_default()
}

/// Texts of files go to terminals: control characters become visible and inert, one for one, so that columns hold.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c == '\t' {
                ' '
            } else if c.is_control() && c != '\n' {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}
