//! The page that the story is printed on: numbered steps, two columns, facts.

use std::io::{IsTerminal, Write};

/// Where the story goes: a terminal that waits for its reader, or a log that does not.
pub(super) struct Page {
    waits: bool,
    colours: bool,
    step: u32,
}

const LEFT: usize = 56;

impl Page {
    pub(super) fn new(waits: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { waits: waits && std::io::stdin().is_terminal(), colours: terminal, step: 0 }
    }

    /// Begins a numbered step; waits for Enter between steps.
    pub(super) fn step(&mut self, title: &str) {
        if self.step > 0 && self.waits {
            print!("\n{}", self.dim("  Enter goes on "));
            // A terminal that cannot be flushed or read is gone; the story goes on without waiting.
            drop(std::io::stdout().flush());
            drop(std::io::stdin().read_line(&mut String::new()));
        }
        self.step += 1;
        println!("\n{} {}", self.bold(&format!("{}.", self.step)), self.bold(title));
    }

    /// A plain line.
    pub(super) fn say(line: &str) {
        println!("   {line}");
    }

    /// A line that the reader should remember.
    pub(super) fn fact(&self, line: &str) {
        println!("   {} {line}", self.paint("32", "✓"));
    }

    /// Two columns of lines under their titles.
    pub(super) fn columns(&self, titles: (&str, &str), left: &[String], right: &[String]) {
        println!("   {}{}", self.dim(&format!("{:<LEFT$}", titles.0)), self.dim(titles.1));
        for at in 0..left.len().max(right.len()) {
            let (a, b) = (left.get(at).map_or("", String::as_str), right.get(at).map_or("", String::as_str));
            println!("   {:<LEFT$}{b}", cut(a, LEFT - 2));
        }
    }

    /// A block of text, indented.
    pub(super) fn block(text: &str) {
        for line in text.lines() {
            println!("     {line}");
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// The first `width` characters.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}
